"""What the obvious alternatives would give, in the latent space z of a model's own codec, and as pictures.

C captions asked for, K training captions, N training pictures, D text dimensions, Z latent ones.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from bridge.codecs import ImageCodec
from bridge.errors import UserError
from bridge.text import TextEncoder
from eval.data import Pictures, picture_latents
from eval.metrics.bootstrap import family_weights

PENALTIES = tuple(10.0**p for p in np.arange(-2, 4.5, 0.5))
BATCH = 64
EncodeText = Callable[[Sequence[str]], np.ndarray]  # Captions to their unit text codes, (N, D)


def nearest_captions(query: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Training captions in order of cosine similarity: (C, K) indices from (C, D) and (K, D) unit codes."""
    return np.argsort(-(query @ codes.T), axis=1, kind="stable")


def retrieve_one(order: np.ndarray, caption: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """'nearest1': pictures of the nearest caption, then the next, (C, n), by `order` (C, K) and `caption` (N,)."""
    pictures = _by_caption(caption, order.shape[1], n, len(caption), rng)
    return np.array([np.concatenate([pictures[k] for k in near[:n]])[:n] for near in order])


def retrieve_each(order: np.ndarray, caption: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """'nearestk': one picture of each of the n nearest training captions, (C, n). Arguments as above."""
    pictures = _by_caption(caption, order.shape[1], n, order.shape[1], rng)
    return np.array([[rng.choice(pictures[k]) for k in near[:n]] for near in order])


def _by_caption(caption: np.ndarray, count: int, n: int, most: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Shuffled indices of every caption's pictures; ValueError unless n is 1 to `most`."""
    if not 1 <= n <= most:
        raise ValueError(f"n must be 1 to {most}, got {n}")
    shuffled = rng.permutation(len(caption))
    order = shuffled[np.argsort(caption[shuffled], kind="stable")]
    return np.split(order, np.cumsum(np.bincount(caption, minlength=count))[:-1])


def draw_unconditional(families: np.ndarray, captions: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Training pictures, of families (N,), whatever the caption, families having equal weight: (captions, n)."""
    return rng.choice(len(families), size=(captions, n), p=family_weights(families))


def shuffle_captions(families: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For every caption, of families (C,), one of another family, families drawn equally: (C,) indices."""
    names = np.unique(families)
    if len(names) < 2:
        raise UserError("families: shuffling captions needs at least two families")
    drawn = [rng.choice(names[names != own]) for own in families]
    return np.array([rng.choice(np.flatnonzero(families == family)) for family in drawn])


@dataclass(frozen=True)
class RidgeGaussian:
    """Linear regression of latents on text codes, with one full covariance for what it leaves over."""

    regression: Ridge  # Its penalty is the one that validation chose
    root: np.ndarray  # Cholesky factor of the residual covariance, (Z, Z)

    def mean(self, c: np.ndarray) -> np.ndarray:
        """Expected latents (C, Z) of text codes (C, D)."""
        return self.regression.predict(c)

    def sample(self, c: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """n latents a code, (C, n, Z)."""
        noise = rng.standard_normal((len(c), n, len(self.root)))
        return self.mean(c)[:, None] + noise @ self.root.T


def fit_ridge(
    c: np.ndarray, z: np.ndarray, *, c_validation: np.ndarray, z_validation: np.ndarray, families_validation: np.ndarray
) -> RidgeGaussian:
    """Fit on text codes (N, D) and latents (N, Z) of training pictures; the penalty has the least error on validation
    pictures, (M, D) and (M, Z), families (M,) having equal weight."""
    weights = family_weights(families_validation)
    fits = [Ridge(alpha=p).fit(c, z) for p in PENALTIES]
    errors = [weights @ ((f.predict(c_validation) - z_validation) ** 2).mean(axis=1) for f in fits]
    best = fits[int(np.argmin(errors))]
    covariance = np.cov(z - best.predict(c), rowvar=False) + 1e-6 * np.eye(z.shape[1])
    return RidgeGaussian(best, np.linalg.cholesky(covariance))


def text_codes(encoder: TextEncoder) -> EncodeText:
    """Captions to unit codes (N, D) of a text encoder; each caption is encoded once."""
    known: dict[str, np.ndarray] = {}

    def codes(captions: Sequence[str]) -> np.ndarray:
        new = [c for c in dict.fromkeys(captions) if c not in known]
        if new:
            pooled = encoder.encode(new, batch_size=64, with_tokens=False).pooled.cpu().numpy()
            known.update(zip(new, pooled, strict=True))
        return np.stack([known[c] for c in captions])

    return codes


@dataclass(frozen=True)
class Baselines:
    """What the obvious alternatives give on one codec and one text encoder. Build it with `Baselines.fit`."""

    codec: ImageCodec  # Latents to pictures
    encode_text: EncodeText  # Captions to unit codes (N, D)
    z: np.ndarray  # Flattened latents of the training pictures, (N, Z)
    caption: np.ndarray  # Caption of each, (N,) in 0..K-1
    codes: np.ndarray  # Text codes of the K training captions, (K, D)
    families: np.ndarray  # Family of each training picture, (N,)
    ridge: RidgeGaussian  # Fitted on the above, its penalty chosen on validation
    refined: Callable[[np.ndarray], np.ndarray] | None = None  # (B,) numbers of those to their latents, drawn nearer

    @classmethod
    def fit(cls, pictures: Pictures, codec: ImageCodec, encode_text: EncodeText, refine: int = 0) -> "Baselines":
        """Encode the training and validation pictures of a dataset and fit the ridge.

        With `refine`, pictures that are retrieved take so many steps of `ImageCodec.refined`.
        """
        train, validation = pictures.where("train"), pictures.where("validation")
        labels, caption = np.unique(pictures.label[train], return_inverse=True)
        codes = encode_text(labels.tolist())
        z = flat_latents(codec, pictures, train)
        ridge = fit_ridge(
            codes[caption],
            z,
            c_validation=encode_text(pictures.label[validation].tolist()),
            z_validation=flat_latents(codec, pictures, validation),
            families_validation=pictures.family[validation],
        )
        refined = (lambda few: flat_latents(codec, pictures, train[few], refine)) if refine else None
        return cls(codec, encode_text, z, caption, codes, pictures.family[train], ridge, refined)

    def latents(self, captions: Sequence[str], n: int, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
        """Name and flattened latents of every baseline, (len(captions), n, Z), one at a time; `decode` draws them."""
        c = self.encode_text(captions)
        order = nearest_captions(c, self.codes)
        yield "nearest1", self.retrieved(retrieve_one(order, self.caption, n, rng))
        yield "nearestk", self.retrieved(retrieve_each(order, self.caption, n, rng))
        yield "ridge mean", np.repeat(self.ridge.mean(c)[:, None], n, axis=1)
        yield "ridge + Gaussian", self.ridge.sample(c, n, rng)
        yield "unconditional", self.z[draw_unconditional(self.families, len(captions), n, rng)]

    def retrieved(self, which: np.ndarray) -> np.ndarray:
        """Latents (C, n, Z) of training pictures by number, (C, n)."""
        if self.refined is None:
            return self.z[which]
        few, place = np.unique(which, return_inverse=True)
        return self.refined(few)[place.reshape(which.shape)]

    def decode(self, z: np.ndarray) -> Tensor:
        """Pictures (C, n, 3, H, W) of flattened latents (C, n, Z)."""
        return decode_flat(self.codec, z.reshape(-1, z.shape[-1])).unflatten(0, z.shape[:2])


def flat_latents(codec: ImageCodec, pictures: Pictures, rows: np.ndarray, refine: int = 0) -> np.ndarray:
    """Flattened mean latents of real pictures by row, (len(rows), Z); see `picture_latents`."""
    return picture_latents(codec, pictures, rows, refine).mean.flatten(1).numpy()


def decode_all(codec: ImageCodec, z: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) of latents (B, *z_shape)."""
    return torch.cat([codec.decode(part).cpu() for part in z.split(BATCH)])


def decode_flat(codec: ImageCodec, flat: np.ndarray) -> Tensor:
    """Pictures (B, 3, H, W) of flattened latents (B, Z)."""
    return decode_all(codec, torch.from_numpy(flat).float().unflatten(1, codec.z_shape))


def reconstruct(codec: ImageCodec, x: Tensor, refine: int = 0) -> Tensor:
    """What the codec makes of pictures (B, 3, H, W): the ceiling of every model on it. See `ImageCodec.refined`."""
    return torch.cat([codec.decode(codec.refined(part, refine).mean).cpu() for part in x.split(BATCH)])
