"""Intervals by resampling captions: families weigh equally and are drawn whole.

Half of the emoji labels are skin tones of the same few persons, so captions of one family are neither
independent nor worth one vote each.
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
    """Mean over the captions of each family, one row a family in sorted order.

    Args:
        values: A number, or K numbers, a caption: (C,) or (C, K).
        families: Family of each caption, (C,) of any sortable kind.

    Returns:
        (F,) or (F, K).

    >>> family_means(np.array([1.0, 3.0, 10.0]), np.array([7, 7, 8]))
    array([ 2., 10.])
    """
    if len(values) != len(families) or len(values) == 0:
        raise ValueError(f"values and families must be equally long and not empty: {len(values)}, {len(families)}")
    names, row = np.unique(families, return_inverse=True)
    sums = np.zeros((len(names), *values.shape[1:]))
    np.add.at(sums, row, values)
    counts = np.bincount(row).reshape(-1, *[1] * (values.ndim - 1))
    return sums / counts


def family_mean(values: np.ndarray, families: np.ndarray) -> np.ndarray:
    """Mean with equal weight to every family: a scalar array, or (K,) for (C, K) values."""
    return family_means(values, families).mean(axis=0)


def family_weights(families: np.ndarray) -> np.ndarray:
    """Weights of pictures (N,) that sum to 1 and give every family the same.

    >>> family_weights(np.array([3, 3, 5]))
    array([0.25, 0.25, 0.5 ])
    """
    _, row, counts = np.unique(families, return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[row])


def paired_bootstrap(
    values: np.ndarray,
    families: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] | None = None,
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A statistic of K per-caption figures, and its percentile interval over redrawn families.

    Its ends are NaN where a redrawing has no figure.

    Paired: whatever a redrawn caption contributes to one figure it contributes to all, so an interval of a
    difference or of a ratio does not count the captions' own variety.

    Args:
        values: (C,) or (C, K).
        families: Family of each caption, (C,); at least two different ones.
        statistic: Maps family-weighted means (..., K) to figures (...); the first mean when absent.
        draws: How many times the families are redrawn.
        level: Coverage of the interval.
        seed: Of the redrawing; the same seed gives the same interval.

    Raises:
        ValueError: Fewer than two families, or lengths that differ.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 and 13

    >>> paired_bootstrap(np.array([1.0, 1.0, 1.0]), np.arange(3))
    Interval(value=1.0, low=1.0, high=1.0)
    """
    means = family_means(values.reshape(len(values), -1), families)
    if len(means) < 2:
        raise UserError("families: an interval needs at least two different families; evaluate more captions")
    pick = statistic if statistic is not None else _first

    def of_columns(*columns: np.ndarray, axis: int = -1) -> np.ndarray:
        return pick(np.stack([c.mean(axis=axis) for c in columns], axis=-1))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            tuple(means.T),
            of_columns,
            n_resamples=draws,
            batch=200,
            vectorized=True,
            paired=True,
            confidence_level=level,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    low, high = result.confidence_interval
    return Interval(float(pick(means.mean(axis=0))), float(low), float(high))


def _first(means: np.ndarray) -> np.ndarray:
    return means[..., 0]
