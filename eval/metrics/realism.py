"""Realism: does a picture lie where real pictures lie, whatever its caption?"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from train.copies import nearest_training

NEIGHBOURS, LOOKED_AT, QUANTILE = 5, 10, 0.975
TINY = 1e-12


def local_radius(points: np.ndarray, k: int) -> np.ndarray:
    """Distance of every point (N, D) to its k-th nearest other, (N,): small where points are crowded."""
    return nearest_training(points, points, k + 1)[0][:, k]


def relative_distance(x: np.ndarray, points: np.ndarray, radius: np.ndarray, among: int = LOOKED_AT) -> np.ndarray:
    """Least distance of x (B, D) to a point (N, D) in units of that point's own radius (N,): (B,).

    Of the `among` nearest points; at most 1 inside one of the balls.

    >>> relative_distance(np.array([[0.5], [9.0]]), np.array([[0.0], [1.0]]), np.array([1.0, 2.0]))
    array([0.25, 4.  ])
    """
    distance, row = nearest_training(x, points, among)
    return np.asarray((distance / np.maximum(radius[row], TINY)).min(axis=1))


@dataclass(frozen=True)
class RealismTest:
    """Tells whether pictures lie as near to training pictures, by the local density of those, as real ones do.

    A threshold on plain distances that passes real pictures without neighbours, which are common, also passes noise
    and the shards that a codec makes of unlikely latents. Here a picture is judged by the balls of its nearest
    training pictures, which are small in a crowd.

    Source: Kynkäänniemi et al. 2019, Improved Precision and Recall Metric, arXiv:1904.06991, its balls scaled
    """

    train: np.ndarray  # Training pictures in the space of captions, (N, D)
    radius: np.ndarray  # Distance of each to its 5th nearest other, (N,)
    limit: float  # Largest relative distance that passes: that of 97.5% of held-out real pictures

    @classmethod
    def fit(cls, train: np.ndarray, held_out: np.ndarray | None) -> Self:
        """Calibrate on held-out real pictures (M, D); without any, on each training picture, left out in turn."""
        radius = local_radius(train, min(NEIGHBOURS, len(train) - 1))
        if held_out is not None:
            relative = relative_distance(held_out, train, radius)
        else:
            distance, row = nearest_training(train, train, LOOKED_AT + 1)
            relative = (distance[:, 1:] / np.maximum(radius[row[:, 1:]], TINY)).min(axis=1)
        return cls(train, radius, float(np.quantile(relative, QUANTILE)))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Whether each of x, (B, D), passes, (B,) bool."""
        return relative_distance(x, self.train, self.radius) <= self.limit
