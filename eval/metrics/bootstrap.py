"""Intervals from resampled captions: families, whose captions are not independent, weigh alike and are drawn whole."""

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
        return number < self.low or number > self.high


def family_means(values: np.ndarray, families: np.ndarray) -> np.ndarray:
    """Mean of each family's captions, (F,) or (F, K) in sorted order, from values (C,) or (C, K) and families (C,)."""
    names, row = np.unique(families, return_inverse=True)
    sums = np.zeros((len(names), *values.shape[1:]))
    np.add.at(sums, row, values)
    return sums / np.bincount(row).reshape(-1, *[1] * (values.ndim - 1))


def family_mean(values: np.ndarray, families: np.ndarray) -> np.ndarray:
    """Mean with equal weight for every family: a scalar array, or (K,) from (C, K) values."""
    return family_means(values, families).mean(axis=0)


def family_weights(families: np.ndarray) -> np.ndarray:
    """Weights of pictures (N,) that sum to 1 and are the same in total for every family, or artist."""
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
    """A statistic of K per-caption figures with its 95% percentile interval over redrawn families; UserError for one.

    Values are (C,) or (C, K), families (C,); `statistic` maps family-weighted means (..., K) to figures (...). Paired:
    intervals of differences and ratios leave out the captions' own variety. NaN ends where a redrawing has no figure.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 and 13
    """
    means = family_means(values.reshape(len(values), -1), families)
    if len(means) < 2:
        raise UserError("families: an interval needs at least two different families; evaluate more captions")

    def of_columns(*columns: np.ndarray, axis: int = -1) -> np.ndarray:
        return statistic(np.stack([c.mean(axis=axis) for c in columns], axis=-1))

    rng = np.random.default_rng(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        result = stats.bootstrap(
            tuple(means.T), of_columns, n_resamples=draws, batch=200, paired=True, method="percentile", rng=rng
        )
    low, high = result.confidence_interval
    return Interval(float(statistic(means.mean(axis=0))), float(low), float(high))
