"""Realism: does a picture lie where real pictures lie, whatever its caption?"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from train.copies import nearest_training

NEIGHBOURS, LOOKED_AT, QUANTILE = 5, 10, 0.975
TINY = 1e-12


def local_radius(points: np.ndarray, k: int) -> np.ndarray:
    """Distance of every point to its k-th nearest other, (N,): small where points are crowded.

    Args:
        points: (N, D), N above k.
        k: At least 1.
    """
    return nearest_training(points, points, k + 1)[0][:, k]


def relative_distance(x: np.ndarray, points: np.ndarray, radius: np.ndarray, among: int = LOOKED_AT) -> np.ndarray:
    """Least distance to a point in units of that point's own radius, (B,): at most 1 inside one of the balls.

    Args:
        x: (B, D).
        points: Centres of the balls, (N, D).
        radius: Of each, (N,).
        among: Looks at so many of the nearest points; N looks at all.

    >>> relative_distance(np.array([[0.5], [9.0]]), np.array([[0.0], [1.0]]), np.array([1.0, 2.0]))
    array([0.25, 4.  ])
    """
    distance, row = nearest_training(x, points, among)
    return np.asarray((distance / np.maximum(radius[row], TINY)).min(axis=1))


@dataclass(frozen=True)
class RealismTest:
    """Tells whether pictures lie as near to training pictures, by the local density of those, as real ones do.

    A plain distance does not do: real pictures without a neighbour are common, so a distance that lets them pass
    lets through noise, and the shards that a codec makes of latents that no picture has. A picture far from
    everything real is judged here by the balls of its nearest training pictures, which are small in a crowd.

    Args:
        train: Training pictures in the space of captions, (N, D).
        radius: Of each one's ball, (N,): the distance to its 5th nearest other.
        limit: Largest relative distance that counts as real.

    Source: Kynkäänniemi et al. 2019, Improved Precision and Recall Metric, arXiv:1904.06991, its balls scaled so
        that the test passes 97.5% of held-out real pictures
    """

    train: np.ndarray
    radius: np.ndarray
    limit: float

    @classmethod
    def fit(cls, train: np.ndarray, held_out: np.ndarray | None) -> Self:
        """Calibrate on held-out real pictures (M, D); without any, on each training picture, left out in turn."""
        k = min(NEIGHBOURS, len(train) - 1)
        radius = local_radius(train, k)
        if held_out is not None:
            relative = relative_distance(held_out, train, radius)
        else:
            distance, row = nearest_training(train, train, LOOKED_AT + 1)
            relative = (distance[:, 1:] / np.maximum(radius[row[:, 1:]], TINY)).min(axis=1)
        return cls(train, radius, float(np.quantile(relative, QUANTILE)))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Whether each of x, (B, D), passes, (B,) bool."""
        return relative_distance(x, self.train, self.radius) <= self.limit
