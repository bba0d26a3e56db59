"""Intervals from resampled captions: families have equal weight and are drawn whole.

Half of the emoji labels are skin tones of the same few people, so the captions of a family are not independent.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from bridge.errors import UserError


@dataclass(frozen=True)
class Interval:
    """A figure and the ends of its confidence interval, in the figure's own unit."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def excludes(self, number: float) -> bool:
        """Whether `number` lies outside.

        >>> Interval(0.3, 0.1, 0.5).excludes(0.0)
        True
        """
        return number < self.low or number > self.high


def family_means(values: np.ndarray, families: np.ndarray) -> np.ndarray:
    """Mean of each family's captions, (F,) or (F, K) in sorted order, from values (C,) or (C, K) and families (C,).

    >>> family_means(np.array([1.0, 3.0, 10.0]), np.array([7, 7, 8]))
    array([ 2., 10.])
    """
    names, row = np.unique(families, return_inverse=True)
    sums = np.zeros((len(names), *values.shape[1:]))
    np.add.at(sums, row, values)
    return sums / np.bincount(row).reshape(-1, *[1] * (values.ndim - 1))


def family_mean(values: np.ndarray, families: np.ndarray) -> np.ndarray:
    """Mean with equal weight for every family: a scalar array, or (K,) from (C, K) values."""
    return family_means(values, families).mean(axis=0)


def family_weights(families: np.ndarray) -> np.ndarray:
    """Weights of pictures (N,) that sum to 1 and are the same in total for every family.

    >>> family_weights(np.array([3, 3, 5]))
    array([0.25, 0.25, 0.5 ])
    """
    _, row, counts = np.unique(families, return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[row])


def paired_bootstrap(
    values: np.ndarray,
    families: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] = lambda means: means[..., 0],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """A statistic of K per-caption figures with its 95% percentile interval over redrawn families.

    Values are (C,) or (C, K), families (C,), redrawn `draws` times; `statistic` maps family-weighted means (..., K) to
    figures (...). Paired: a redrawn caption contributes to all K figures, so that intervals of differences and ratios
    leave out the captions' own variety. The ends are NaN where a redrawing has no figure. UserError for one family.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 and 13

    >>> paired_bootstrap(np.array([1.0, 1.0, 1.0]), np.arange(3))
    Interval(value=1.0, low=1.0, high=1.0)
    """
    means = family_means(values.reshape(len(values), -1), families)
    if len(means) < 2:
        raise UserError("families: an interval needs at least two different families; evaluate more captions")

    def of_columns(*columns: np.ndarray, axis: int = -1) -> np.ndarray:
        return statistic(np.stack([c.mean(axis=axis) for c in columns], axis=-1))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            tuple(means.T),
            of_columns,
            n_resamples=draws,
            batch=200,
            vectorized=True,
            paired=True,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    low, high = result.confidence_interval
    return Interval(float(statistic(means.mean(axis=0))), float(low), float(high))
