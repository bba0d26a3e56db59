"""Calibration: do a caption's pictures differ from one another as much as real pictures differ from them?

A model that ignores the caption can be calibrated too, so none of this is a headline. Everything is measured in
the judge's space of captions; samples must be independent draws.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import rankdata

from eval.metrics.energy import artist_weights

Points = Sequence[np.ndarray]


def spread_skill(samples: Points, references: Points, artists: Points | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Variance of every caption's samples, and squared error of their mean.

    Args:
        samples: Samples of each caption, [(n, D)] * C, n at least 2.
        references: Real pictures of each, [(k, D)] * C, k at least 1.
        artists: Who drew each reference, [(k,)] * C; artists weigh equally. Absent: pictures do.

    Returns:
        Spread, (C,): squared distance to the samples' mean, summed over dimensions, over n - 1. Skill, (C,):
        squared distance of the references to that mean, averaged. Both in squared units of the space; average
        them over captions before their ratio is taken (`spread_skill_ratio`).

    Raises:
        ValueError: A caption has fewer than two samples or no reference, or the shapes disagree.

    Source: Fortin et al. 2014, Why should ensemble spread match the RMSE of the ensemble mean?

    >>> spread_skill([np.array([[0.0], [2.0]])], [np.array([[1.0], [4.0]])])
    (array([2.]), array([4.5]))
    """
    spread, skill = [], []
    for x, r, a in _checked(samples, references, artists, least=2):
        mean = x.mean(axis=0)
        spread.append(((x - mean) ** 2).sum() / (len(x) - 1))
        skill.append(artist_weights(len(r), a) @ ((r - mean) ** 2).sum(axis=1))
    return np.array(spread), np.array(skill)


def spread_skill_ratio(spread: np.ndarray, skill: np.ndarray, n: int) -> np.ndarray:
    """sqrt((1 + 1/n) spread / skill): 1 when calibrated, less when too sure, more when too unsure.

    The mean of n samples is itself off by spread / n, for which 1 + 1/n makes up.

    Args:
        spread: Spread averaged over captions, (...).
        skill: Skill averaged over captions, (...), positive.
        n: Samples a caption.

    Source: Fortin et al. 2014, Why should ensemble spread match the RMSE of the ensemble mean?

    >>> spread_skill_ratio(np.array([2.0, 0.0]), np.array([3.0, 3.0]), 2)
    array([1., 0.])
    """
    return np.sqrt((1 + 1 / n) * spread / skill)


def average_rank(points: np.ndarray) -> np.ndarray:
    """Pre-rank of points (n, D): ranks within each dimension, added up, (n,).

    Dimensions with a median apart or a spread too small show as a slope or as a U.

    Source: Thorarinsdottir, Scheuerer and Heinz 2016, Assessing the calibration of high-dimensional ensemble
        forecasts using rank histograms, arXiv:1310.0236
    """
    return rankdata(points, axis=0).sum(axis=1)


def outlyingness(points: np.ndarray) -> np.ndarray:
    """Pre-rank of points (n, D): distances to all others, added up, (n,).

    In many dimensions it sees more than `average_rank`, in which single dimensions average out: references
    outside the samples fill the last bin, references amid samples too far apart the first.

    Source: Allen, Ziegel and Ginsbourger 2024, Assessing the calibration of multivariate probabilistic
        forecasts, arXiv:2307.05846 (energy score pre-rank)
    """
    return cdist(points, points).sum(axis=1)


def ranks_per_caption(
    samples: Points,
    references: Points,
    artists: Points | None = None,
    *,
    pre_rank: Callable[[np.ndarray], np.ndarray] = average_rank,
    seed: int = 0,
) -> np.ndarray:
    """Shares of each caption's references that rank 0, 1, ..., n among its samples, (C, n + 1); rows sum to 1.

    Each reference is put among the samples and all n + 1 points are reduced to one number by `pre_rank`, which
    must not tell them apart by their order; the rank is that of the reference's number.

    Args:
        samples: Samples of each caption, [(n, D)] * C, the same n of at least 1 for all.
        references: Real pictures of each, [(k, D)] * C, k at least 1.
        artists: Who drew each reference, [(k,)] * C; artists weigh equally. Absent: pictures do.
        pre_rank: Points (n + 1, D) to numbers (n + 1,): `average_rank` or `outlyingness`.
        seed: Breaks ties.

    Raises:
        ValueError: Captions have different n, none, or no reference, or the shapes disagree.

    Source: Gneiting et al. 2008, Assessing probabilistic forecasts of multivariate quantities
    """
    groups = _checked(samples, references, artists, least=1)
    sizes = {len(x) for x in samples}
    if len(sizes) != 1:
        raise ValueError(f"samples: ranks need the same number for every caption, got {sorted(sizes)}")
    rng = np.random.default_rng(seed)
    shares = np.zeros((len(groups), sizes.pop() + 1))
    for row, (x, r, a) in zip(shares, groups, strict=True):
        for weight, point in zip(artist_weights(len(r), a), r, strict=True):
            own, *others = pre_rank(np.concatenate([point[None], x]))
            row[np.less(others, own).sum() + rng.integers(np.equal(others, own).sum() + 1)] += weight
    return shares


def rank_histogram(
    samples: Points,
    references: Points,
    artists: Points | None = None,
    *,
    pre_rank: Callable[[np.ndarray], np.ndarray] = average_rank,
    seed: int = 0,
) -> np.ndarray:
    """Captions by rank of their references among n samples, (n + 1,); flat, C / (n + 1), when calibrated.

    With `average_rank`, samples too alike give a U, samples too unlike a hill; with `outlyingness` they give
    a slope up and a slope down. Every caption counts 1 in all, shared equally among its artists. Arguments and
    errors are those of `ranks_per_caption`, of which this is the sum.

    >>> samples, references = [np.array([[0.0], [1.0]])] * 3, [np.array([[v]]) for v in (-1.0, 0.5, 2.0)]
    >>> rank_histogram(samples, references)
    array([1., 1., 1.])
    """
    return ranks_per_caption(samples, references, artists, pre_rank=pre_rank, seed=seed).sum(axis=0)


def reliability(counts: np.ndarray) -> float:
    """How far a rank histogram is from flat: sum over bins of |share - 1 / bins|.

    0 when flat; 2 - 2 / bins when one bin holds everything. N independent ranks of a calibrated model give
    about sqrt(2 (bins - 1) / (pi N)), not 0.

    Args:
        counts: A histogram, (bins,), none below 0, with a positive sum.

    Raises:
        ValueError: `counts` is no such histogram.

    Source: Delle Monache et al. 2006, Probabilistic aspects of meteorological and ozone regional ensemble
        forecasts

    >>> reliability(np.array([5, 5, 5, 5])), reliability(np.array([4, 0]))
    (0.0, 1.0)
    """
    if counts.ndim != 1 or len(counts) == 0 or (counts < 0).any() or not counts.sum() > 0:
        raise ValueError("counts: expected a histogram (bins,) with a positive sum and nothing below 0")
    return float(np.abs(counts / counts.sum() - 1 / len(counts)).sum())


def _checked(
    samples: Points, references: Points, artists: Points | None, least: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Caption by caption; ValueError unless each has `least` samples and a reference, all of one dimension."""
    who = [None] * len(references) if artists is None else artists
    if not 0 < len(samples) == len(references) == len(who):
        raise ValueError("samples, references, artists: expected one entry a caption, and at least one caption")
    groups = list(zip(samples, references, who, strict=True))
    for i, (x, r, a) in enumerate(groups):
        if x.ndim != 2 or r.ndim != 2 or x.shape[1] != r.shape[1] or (a is not None and len(a) != len(r)):
            raise ValueError(f"samples, references, artists: expected (n, D), (k, D) and (k,), not so in caption {i}")
        if len(x) < least or len(r) < 1:
            raise ValueError(f"samples, references: caption {i} needs {least} and 1, got {len(x)} and {len(r)}")
    return groups
