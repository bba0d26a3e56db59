"""Fit: Caption-ID@10-of-100 among real pictures' centroids.

It is R-precision (Xu et al. 2018, AttnGAN, arXiv:1711.10485) with pictures for captions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import binom

from bridge.errors import UserError
from eval.metrics.bootstrap import family_weights

NEAREST, AMONG = 10, 100
CHANCE = NEAREST / AMONG
VALID = 0.5  # Probability of a hit from which on a picture shows its caption


def centroids_without(references: np.ndarray, artists: np.ndarray) -> np.ndarray:
    """The centroid without each artist in turn, (A, D) in their sorted order: what pictures are judged by."""
    others = [artists != a for a in np.unique(artists)]
    return np.stack([family_weights(artists[o]) @ references[o] for o in others])


def hit_probability(nearer: np.ndarray) -> np.ndarray:
    """Chance to be among the 10 nearest of 100 with 99 rivals drawn at random, of which a share (...) is nearer."""
    return binom.cdf(NEAREST - 1, AMONG - 1, nearer)


def rival_weights(families: np.ndarray, own: object) -> np.ndarray:
    """Weights (P,), summing to 1, of rivals of a caption of family `own`: families equal, its own none."""
    _, row, counts = np.unique(families, return_inverse=True, return_counts=True)
    weights = (families != own) / counts[row]
    if weights.sum() == 0:
        raise UserError("families: caption-ID needs captions of at least two families")
    return weights / weights.sum()


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

    def hits(
        self, x: np.ndarray, realistic: np.ndarray, own: np.ndarray, family: object, left_out: np.ndarray | None = None
    ) -> np.ndarray:
        """Caption-ID: probability that each of a caption's pictures is near its own caption *and* realistic, (n,).

        Pictures x are (n, D), `realistic`, (n,), whether each passes that test, and `own` the caption's centroids,
        (A, D), over which the probability is averaged. For real pictures, or what a codec made of each, `left_out`,
        (n,), is which centroid holds *other* artists. Rivals of the same family do not count; a tie counts half.
        """
        mine, theirs = cdist(x, own)[:, :, None], cdist(x, self.centroids)[:, None, :]
        nearer = ((theirs < mine) + 0.5 * (theirs == mine)) @ rival_weights(self.families, family)
        if left_out is not None:
            nearer = nearer[np.arange(len(x)), left_out][:, None]
        # Weights that sum to 1 + 1e-16 would give a share the binomial refuses.
        return hit_probability(np.clip(nearer, 0, 1)).mean(axis=1) * realistic


def chance_adjusted(hit: np.ndarray, real: np.ndarray | float, chance: float = CHANCE) -> np.ndarray:
    """Hit rate on a scale where chance is 0 and real pictures by other artists are 1."""
    return (hit - chance) / (real - chance)
