"""Fit: does a picture show what its caption says? Caption-ID@10-of-100 among real pictures' centroids."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import binom

from bridge.errors import UserError
from eval.metrics.energy import artist_weights

NEAREST, AMONG = 10, 100
CHANCE = NEAREST / AMONG


def centroid(references: np.ndarray, artists: np.ndarray) -> np.ndarray:
    """Mean reference (D,) of pictures (k, D), every artist weighing the same."""
    return artist_weights(len(references), artists) @ references


def centroids_without(references: np.ndarray, artists: np.ndarray) -> np.ndarray:
    """The centroid without each artist in turn, (A, D) in the artists' sorted order.

    Real pictures can only be judged against other artists; samples are judged against the very same
    centroids, so that neither has the better-measured target.

    Raises:
        ValueError: Fewer than two artists.
    """
    names = np.unique(artists)
    if len(names) < 2:
        raise ValueError("artists: a centroid by other artists needs at least two of them")
    return np.stack([centroid(references[artists != a], artists[artists != a]) for a in names])


def hit_probability(nearer: np.ndarray) -> np.ndarray:
    """Chance that a caption is among the 10 nearest of 100 when 99 rivals are drawn at random.

    The expectation over the draw in closed form: no seed, no noise. Averages to .10 for a uniform share.

    Args:
        nearer: Share of rival captions nearer than the right one, (...) in [0, 1].

    >>> hit_probability(np.array([0.0, 1.0]))
    array([1., 0.])
    """
    return binom.cdf(NEAREST - 1, AMONG - 1, nearer)


def rival_weights(families: np.ndarray, own: object) -> np.ndarray:
    """Weights (P,) of rival captions for one of family `own`: families equal, its own family none.

    Raises:
        ValueError: There is no other family.
    """
    _, row, counts = np.unique(families, return_inverse=True, return_counts=True)
    weights = (families != own) / counts[row]
    if weights.sum() == 0:
        raise UserError("families: caption-ID needs captions of at least two families")
    return weights / weights.sum()


def share_nearer(x: np.ndarray, own: np.ndarray, rivals: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted share of rival centroids that lie nearer to a picture than its own caption's.

    Args:
        x: Pictures, (n, D).
        own: Centroids of the right caption, (A, D).
        rivals: Centroids of all captions, (P, D).
        weights: Weight of each rival, (P,), summing to 1 (0 for the caption itself).

    Returns:
        (n, A) in [0, 1]; a tie counts half.
    """
    mine, theirs = cdist(x, own)[:, :, None], cdist(x, rivals)[:, None, :]
    # Weights that sum to 1 + 1e-16 would give a share the binomial refuses.
    return np.clip(((theirs < mine) + 0.5 * (theirs == mine)) @ weights, 0, 1)


@dataclass(frozen=True)
class Rivals:
    """Captions that a picture might show instead.

    Args:
        centroids: (P, D), in the space of captions.
        families: Family of each, (P,); of at least two different ones.
    """

    centroids: np.ndarray
    families: np.ndarray

    @classmethod
    def of(cls, references: Sequence[np.ndarray], artists: Sequence[np.ndarray], families: np.ndarray) -> "Rivals":
        """The captions whose real pictures are given: [(k, D)] * P, [(k,)] * P, (P,)."""
        centroids = [centroid(r, a) for r, a in zip(references, artists, strict=True)]
        return cls(np.stack(centroids), np.asarray(families))


def caption_id(
    samples: Sequence[np.ndarray],
    realistic: Sequence[np.ndarray],
    references: Sequence[np.ndarray],
    artists: Sequence[np.ndarray],
    *,
    families: np.ndarray,
    rivals: Rivals,
) -> list[np.ndarray]:
    """Hits of samples: near their own caption *and* realistic.

    Args:
        samples: Pictures for each caption in the space of captions, [(n, D)] * C.
        realistic: Whether each passes the realism test, [(n,)] * C.
        references: Real pictures of each caption that no sample may copy, [(k, D)] * C.
        artists: Who drew each reference, [(k,)] * C, at least two artists a caption.
        families: Family of each caption, (C,).
        rivals: Captions to be confused with; those of other families count, families weighing equally.

    Returns:
        Probability of a hit for every sample, [(n,)] * C in [0, 1], averaged over the artist left out of the
        centroid.

    Source: Caption-ID is R-precision (Xu et al. 2018, AttnGAN, arXiv:1711.10485) with images for captions.
    """
    hits = []
    for x, real, r, a, family in zip(samples, realistic, references, artists, families, strict=True):
        weights = rival_weights(rivals.families, family)
        nearer = share_nearer(x, centroids_without(r, a), rivals.centroids, weights)
        hits.append(hit_probability(nearer).mean(axis=1) * real)
    return hits


def caption_id_of_real(
    pictures: Sequence[np.ndarray],
    realistic: Sequence[np.ndarray],
    references: Sequence[np.ndarray],
    artists: Sequence[np.ndarray],
    *,
    families: np.ndarray,
    rivals: Rivals,
) -> list[np.ndarray]:
    """Hits of the references themselves, or of what a codec made of each, against the *other* artists.

    Args:
        pictures: One picture for each reference, in the same order, [(k, D)] * C; the rest as `caption_id`.

    Returns:
        Probability of a hit for every picture, [(k,)] * C.
    """
    hits = []
    for x, real, r, a, family in zip(pictures, realistic, references, artists, families, strict=True):
        weights = rival_weights(rivals.families, family)
        nearer = share_nearer(x, centroids_without(r, a), rivals.centroids, weights)
        left_out = np.unique(a, return_inverse=True)[1]
        hits.append(hit_probability(nearer[np.arange(len(x)), left_out]) * real)
    return hits


def chance_adjusted(hit: np.ndarray, real: np.ndarray, chance: float = CHANCE) -> np.ndarray:
    """Hit rate on a scale where chance is 0 and real pictures by other artists are 1.

    >>> chance_adjusted(np.array([0.1, 0.9]), np.array([0.9, 0.9]))
    array([0., 1.])
    """
    return (hit - chance) / (real - chance)
