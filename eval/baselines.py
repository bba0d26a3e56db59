"""What the obvious alternatives would give: arrays in, arrays out, in the latent space z the codec decodes.

Notation: C captions asked for, K training captions, N training pictures, D text dimensions, Z latent ones.
Randomness comes from a numpy generator that the caller owns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import Ridge

from bridge.errors import UserError

PENALTIES = tuple(10.0**p for p in np.arange(-2, 4.5, 0.5))


def nearest_captions(query: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Training captions in order of cosine similarity: (C, K) indices from (C, D) and (K, D) unit codes."""
    return np.argsort(-(query @ codes.T), axis=1, kind="stable")


def retrieve_one(order: np.ndarray, caption: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """'nearest1': n different pictures of the nearest training caption.

    Where artists drew that caption fewer than n times, the next nearest caption fills up.

    Args:
        order: Training captions from near to far, (C, K), of `nearest_captions`.
        caption: Caption of each training picture, (N,) in 0..K-1; every caption has a picture.
        n: Pictures a caption, at most N.
        rng: Chooses among a caption's pictures.

    Returns:
        Indices of training pictures, (C, n).
    """
    _check_count(n, len(caption))
    pictures = _by_caption(caption, order.shape[1], rng)
    chosen = np.empty((len(order), n), dtype=int)
    for i, near in enumerate(order):
        found: list[int] = []
        for k in near:
            found += pictures[k].tolist()
            if len(found) >= n:
                break
        chosen[i] = found[:n]
    return chosen


def retrieve_each(order: np.ndarray, caption: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """'nearestk': one picture of each of the n nearest training captions, (C, n). Arguments as above."""
    _check_count(n, order.shape[1])
    pictures = _by_caption(caption, order.shape[1], rng)
    return np.array([[rng.choice(pictures[k]) for k in near[:n]] for near in order])


def family_weights(families: np.ndarray) -> np.ndarray:
    """Weights of pictures (N,) that sum to 1 and give every family the same.

    >>> family_weights(np.array([3, 3, 5]))
    array([0.25, 0.25, 0.5 ])
    """
    _, row, counts = np.unique(families, return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[row])


def draw_unconditional(families: np.ndarray, captions: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Training pictures drawn whatever the caption, families weighing equally: (captions, n) indices.

    Args:
        families: Family of each training picture, (N,).
        captions: How many captions to answer.
        n: Pictures each.
        rng: Draws them.
    """
    return rng.choice(len(families), size=(captions, n), p=family_weights(families))


def shuffle_captions(families: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For every caption one of another family, families drawn equally: (C,) indices.

    A permutation would hand the many captions of one large family to all the others.

    Args:
        families: Family of each caption, (C,), at least two different ones.
        rng: Draws the captions.
    """
    names = np.unique(families)
    if len(names) < 2:
        raise UserError("families: shuffling captions needs at least two families")
    drawn = [rng.choice(names[names != own]) for own in families]
    return np.array([rng.choice(np.flatnonzero(families == family)) for family in drawn])


def blur(x: np.ndarray) -> np.ndarray:
    """The mean picture of every caption n times: (C, n, ...) from (C, n, ...)."""
    return np.broadcast_to(x.mean(axis=1, keepdims=True), x.shape).copy()


@dataclass(frozen=True)
class RidgeGaussian:
    """Linear regression of latents on text codes, with one full covariance for what it leaves over.

    Args:
        coefficient: (Z, D).
        intercept: (Z,).
        root: Cholesky factor of the residual covariance, (Z, Z).
        penalty: The ridge penalty that validation chose.
    """

    coefficient: np.ndarray
    intercept: np.ndarray
    root: np.ndarray
    penalty: float

    def mean(self, c: np.ndarray) -> np.ndarray:
        """Expected latents (C, Z) of text codes (C, D)."""
        return c @ self.coefficient.T + self.intercept

    def sample(self, c: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """n latents a code, (C, n, Z)."""
        noise = rng.standard_normal((len(c), n, len(self.root)))
        return self.mean(c)[:, None] + noise @ self.root.T


def fit_ridge(
    c: np.ndarray,
    z: np.ndarray,
    *,
    c_validation: np.ndarray,
    z_validation: np.ndarray,
    families_validation: np.ndarray,
    penalties: Sequence[float] = PENALTIES,
) -> RidgeGaussian:
    """Fit on training pictures; choose the penalty by the error on validation, families weighing equally.

    Args:
        c: Text code of each training picture, (N, D).
        z: Its flattened latent, (N, Z).
        c_validation: The same for validation pictures, (M, D).
        z_validation: (M, Z).
        families_validation: Family of each validation picture, (M,).
        penalties: Ridge penalties to try.
    """
    weights = family_weights(families_validation)
    fits = [Ridge(alpha=p).fit(c, z) for p in penalties]
    errors = [weights @ ((f.predict(c_validation) - z_validation) ** 2).mean(axis=1) for f in fits]
    best = int(np.argmin(errors))
    residual = z - fits[best].predict(c)
    covariance = np.cov(residual, rowvar=False) + 1e-6 * np.eye(z.shape[1])
    return RidgeGaussian(fits[best].coef_, fits[best].intercept_, np.linalg.cholesky(covariance), penalties[best])


def _by_caption(caption: np.ndarray, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Shuffled indices of every caption's pictures."""
    shuffled = rng.permutation(len(caption))
    order = shuffled[np.argsort(caption[shuffled], kind="stable")]
    pictures = np.split(order, np.cumsum(np.bincount(caption, minlength=count))[:-1])
    if any(len(p) == 0 for p in pictures):
        raise ValueError("caption: every training caption needs at least one picture")
    return pictures


def _check_count(n: int, most: int) -> None:
    if not 1 <= n <= most:
        raise ValueError(f"n must be 1 to {most}, got {n}")
