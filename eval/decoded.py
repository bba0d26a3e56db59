"""The baselines as pictures: fitted to a model's own text codes and latents, decoded by its own codec."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bridge.codec import ImageCodec
from bridge.text import TextEncoder
from eval import baselines
from eval.data import Pictures, picture_latents
from eval.judge import Judge

BATCH = 64
EncodeText = Callable[[Sequence[str]], np.ndarray]
"""Captions to their unit text codes, (N, D)."""


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
    """What the obvious alternatives give on one codec and one text encoder. Build it with `Baselines.fit`.

    Args:
        codec: Latents to pictures.
        encode_text: Captions to unit codes (N, D).
        z: Flattened latents of the training pictures, (N, Z).
        caption: Caption of each, (N,) in 0..K-1.
        codes: Text codes of the K training captions, (K, D).
        families: Family of each training picture, (N,).
        ridge: Fitted on the above, its penalty chosen on validation.
    """

    codec: ImageCodec
    encode_text: EncodeText
    z: np.ndarray
    caption: np.ndarray
    codes: np.ndarray
    families: np.ndarray
    ridge: baselines.RidgeGaussian

    @classmethod
    def fit(cls, judge: Judge, codec: ImageCodec, encode_text: EncodeText) -> "Baselines":
        """Encode the training and validation pictures of the judge's dataset and fit the ridge."""
        pictures, train = judge.pictures, judge.train
        validation = pictures.where("validation")
        labels, caption = np.unique(pictures.label[train], return_inverse=True)
        codes = encode_text(labels.tolist())
        z = flat_latents(codec, pictures, train)
        ridge = baselines.fit_ridge(
            codes[caption],
            z,
            c_validation=encode_text(pictures.label[validation].tolist()),
            z_validation=flat_latents(codec, pictures, validation),
            families_validation=pictures.family[validation],
        )
        return cls(codec, encode_text, z, caption, codes, pictures.family[train], ridge)

    def latents(self, captions: Sequence[str], n: int, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
        """Name and flattened latents of every baseline, (len(captions), n, Z), one at a time; `decode` draws them."""
        c = self.encode_text(captions)
        order = baselines.nearest_captions(c, self.codes)
        yield "nearest1", self.z[baselines.retrieve_one(order, self.caption, n, rng)]
        yield "nearestk", self.z[baselines.retrieve_each(order, self.caption, n, rng)]
        yield "ridge mean", np.repeat(self.ridge.mean(c)[:, None], n, axis=1)
        yield "ridge + Gaussian", self.ridge.sample(c, n, rng)
        yield "unconditional", self.z[baselines.draw_unconditional(self.families, len(captions), n, rng)]

    def decode(self, z: np.ndarray) -> Tensor:
        """Pictures (C, n, 3, H, W) of flattened latents (C, n, Z)."""
        flat = torch.from_numpy(z.reshape(-1, *self.codec.z_shape)).float()
        return decode_all(self.codec, flat).unflatten(0, z.shape[:2])


def flat_latents(codec: ImageCodec, pictures: Pictures, rows: np.ndarray) -> np.ndarray:
    """Flattened mean latents of real pictures by row, (len(rows), Z)."""
    return picture_latents(codec, pictures, rows).mean.flatten(1).numpy()


def decode_all(codec: ImageCodec, z: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) of latents (B, *z_shape)."""
    return torch.cat([codec.decode(part).cpu() for part in z.split(BATCH)])


def reconstruct(codec: ImageCodec, x: Tensor) -> Tensor:
    """What the codec makes of pictures (B, 3, H, W): the ceiling of every model on it."""
    return torch.cat([codec.decode(codec.encode(part).mean).cpu() for part in x.split(BATCH)])
