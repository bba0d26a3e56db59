"""Fit: does a picture show what its caption says? Caption-ID@10-of-100 among real pictures' centroids."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import binom

from bridge.errors import UserError
from eval.metrics.bootstrap import family_weights

NEAREST, AMONG = 10, 100
CHANCE = NEAREST / AMONG


def centroids_without(references: np.ndarray, artists: np.ndarray) -> np.ndarray:
    """The centroid without each artist in turn, (A, D) in the artists' sorted order.

    Real pictures can only be judged against other artists; samples are judged against the very same centroids, so that
    neither has the better-measured target.
    """
    others = [artists != a for a in np.unique(artists)]
    return np.stack([family_weights(artists[o]) @ references[o] for o in others])


def hit_probability(nearer: np.ndarray) -> np.ndarray:
    """Chance to be among the 10 nearest of 100 with 99 rivals drawn at random, of which a share (...) is nearer.

    The expectation in closed form, without noise; .10 on average for a uniform share.

    >>> hit_probability(np.array([0.0, 1.0]))
    array([1., 0.])
    """
    return binom.cdf(NEAREST - 1, AMONG - 1, nearer)


def rival_weights(families: np.ndarray, own: object) -> np.ndarray:
    """Weights (P,), summing to 1, of rivals of a caption of family `own`: families equal, its own none."""
    _, row, counts = np.unique(families, return_inverse=True, return_counts=True)
    weights = (families != own) / counts[row]
    if weights.sum() == 0:
        raise UserError("families: caption-ID needs captions of at least two families")
    return weights / weights.sum()


def share_nearer(x: np.ndarray, own: np.ndarray, rivals: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share (n, A) of rival centroids (P, D), weighted by (P,), nearer to pictures (n, D) than `own` centroids (A, D).

    A tie counts half.
    """
    mine, theirs = cdist(x, own)[:, :, None], cdist(x, rivals)[:, None, :]
    # Weights that sum to 1 + 1e-16 would give a share the binomial refuses.
    return np.clip(((theirs < mine) + 0.5 * (theirs == mine)) @ weights, 0, 1)


@dataclass(frozen=True)
class Rivals:
    """Captions that a picture might show instead: centroids (P, D), and their families (P,), two or more."""

    centroids: np.ndarray
    families: np.ndarray

    @classmethod
    def of(cls, references: Sequence[np.ndarray], artists: Sequence[np.ndarray], families: np.ndarray) -> "Rivals":
        """The captions whose real pictures are given: [(k, D)] * P, [(k,)] * P, (P,)."""
        centroids = [family_weights(a) @ r for r, a in zip(references, artists, strict=True)]
        return cls(np.stack(centroids), np.asarray(families))


def caption_id(
    pictures: Sequence[np.ndarray],
    realistic: Sequence[np.ndarray],
    centroids: Sequence[np.ndarray],
    *,
    families: np.ndarray,
    rivals: Rivals,
    left_out: Sequence[np.ndarray] | None = None,
) -> list[np.ndarray]:
    """Probability of a hit of every picture, [(n,)] * C: near its own caption *and* realistic.

    Args:
        pictures: Of each caption, in the space of captions, [(n, D)] * C, of families (C,).
        realistic: Whether each passes the realism test, [(n,)] * C.
        centroids: Of each caption, [(A, D)] * C, over which the probability is averaged; see `centroids_without`.
        rivals: Those of other families count, families having equal weight.
        left_out: For real pictures, or what a codec made of each: which centroid holds *other* artists, [(n,)] * C.

    Source: Caption-ID is R-precision (Xu et al. 2018, AttnGAN, arXiv:1711.10485) with pictures for captions.
    """
    hits = []
    for i, (x, passes, own, family) in enumerate(zip(pictures, realistic, centroids, families, strict=True)):
        nearer = share_nearer(x, own, rivals.centroids, rival_weights(rivals.families, family))
        if left_out is not None:
            nearer = nearer[np.arange(len(x)), left_out[i]][:, None]
        hits.append(hit_probability(nearer).mean(axis=1) * passes)
    return hits


def chance_adjusted(hit: np.ndarray, real: np.ndarray, chance: float = CHANCE) -> np.ndarray:
    """Hit rate on a scale where chance is 0 and real pictures by other artists are 1.

    >>> chance_adjusted(np.array([0.1, 0.9]), np.array([0.9, 0.9]))
    array([0., 1.])
    """
    return (hit - chance) / (real - chance)
