"""Calibration: do a caption's pictures differ from one another as much as real pictures differ from them?

A model that ignores captions can be calibrated too, so none of this is a headline. Points lie in the judge's space of
captions: samples [(n, D)] * C, n at least 2, are independent draws, references [(k, D)] * C real pictures, and artists
[(k,)] * C, who have equal weight, drew these.
"""

from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import cdist

from eval.metrics.bootstrap import family_weights

Points = Sequence[np.ndarray]


def spread_skill(samples: Points, references: Points, artists: Points) -> tuple[np.ndarray, np.ndarray]:
    """Variance of every caption's samples, and mean squared distance of the references to their mean: (C,) each.

    Average both over captions before taking their ratio (`spread_skill_ratio`).

    Source: Fortin et al. 2014, Why should ensemble spread match the RMSE of the ensemble mean?
    """
    spread = [((x - x.mean(axis=0)) ** 2).sum() / (len(x) - 1) for x in samples]
    each = zip(samples, references, artists, strict=True)
    skill = [family_weights(a) @ ((r - x.mean(axis=0)) ** 2).sum(axis=1) for x, r, a in each]
    return np.array(spread), np.array(skill)


def spread_skill_ratio(spread: np.ndarray, skill: np.ndarray, n: int) -> np.ndarray:
    """sqrt((1 + 1/n) spread / skill) of averages over captions: 1 is calibrated, less too sure, more too unsure."""
    return np.sqrt((1 + 1 / n) * spread / skill)


def ranks_per_caption(samples: Points, references: Points, artists: Points, seed: int = 0) -> np.ndarray:
    """Shares of each caption's references that rank 0, 1, ..., n among its n samples, (C, n + 1); rows sum to 1.

    Each reference joins the samples and all are ranked by their summed distances to the others; `seed` breaks ties. The
    sum over captions is flat when calibrated, rises where samples are too alike, falls where they are too unlike.

    Source: Allen, Ziegel and Ginsbourger 2024, arXiv:2307.05846 (energy score pre-rank)

    >>> real = [np.array([[-1.0]]), np.array([[2.0]])]
    >>> ranks_per_caption([np.array([[0.0], [1.0]])] * 2, real, [np.array(["an artist"])] * 2).sum(axis=0)
    array([0., 0., 2.])
    """
    rng = np.random.default_rng(seed)
    shares = np.zeros((len(samples), len(samples[0]) + 1))
    for row, x, r, a in zip(shares, samples, references, artists, strict=True):
        for weight, point in zip(family_weights(a), r, strict=True):
            points = np.concatenate([point[None], x])
            own, *others = cdist(points, points).sum(axis=1)
            row[np.less(others, own).sum() + rng.integers(np.equal(others, own).sum() + 1)] += weight
    return shares


def reliability(counts: np.ndarray) -> float:
    """How far a rank histogram (bins,) is from flat: sum over bins of |share - 1 / bins|, 0 to 2 - 2 / bins.

    N independent ranks of a calibrated model give about sqrt(2 (bins - 1) / (pi N)) (Delle Monache et al. 2006).
    """
    return float(np.abs(counts / counts.sum() - 1 / len(counts)).sum())
