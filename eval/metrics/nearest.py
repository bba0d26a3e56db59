"""How near pictures lie to training pictures: too near (memorisation), or not near enough (realism)?

Mirrored or shifted copies mostly pass `train.copies.CopyTest` and fail `c_t` and `authenticity` in a network's space,
where a codec's blur moves all pictures away from training ones: compare with what the codec makes of real pictures.
Heavy noise on a copy and a blend of two training pictures pass all three.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.stats import ranksums

from train.copies import nearest_training

NEIGHBOURS, LOOKED_AT, QUANTILE = 5, 10, 0.975
TINY = 1e-12


def c_t(train: np.ndarray, held_out: np.ndarray, samples: np.ndarray) -> float:
    """Data-copying statistic C_T: are samples (B, D) nearer to training pictures (N, D) than held-out ones (M, D)?

    Mann-Whitney's Z of distances to the nearest training picture: about standard normal for independent draws, far
    below 0 for copies. It grows with the square root of the number of pictures: compare it at equal sizes only.

    Source: Meehan, Chaudhuri and Dasgupta 2020, arXiv:2004.05675, with a single cell
    """
    known = train.astype(np.float64)
    drawn, real = (nearest_training(x.astype(np.float64), known)[0][:, 0] for x in (samples, held_out))
    return float(ranksums(drawn, real).statistic)


def authenticity(train: np.ndarray, samples: np.ndarray) -> float:
    """AuthPct: share of samples (B, D) farther from their nearest training picture (N, D) than that one from its own.

    Copies score 0. Independent draws do not score 1, since a draw fails when it and a training picture are each other's
    nearest: 1/3 on a line, about 1/2 in many dimensions. Read it beside the figure of held-out real pictures.

    Source: Alaa et al. 2022, arXiv:2102.08921; Pickard 1982, Isolated nearest neighbors
    """
    distance, row = nearest_training(samples, train)
    near, index = np.unique(row[:, 0], return_inverse=True)
    # Second column: every training picture finds itself first, or a twin at the same distance.
    own, _ = nearest_training(train[near], train, 2)
    return float((distance[:, 0] > own[index, 1]).mean())


def local_radius(points: np.ndarray, k: int) -> np.ndarray:
    """Distance of every point (N, D) to its k-th nearest other, (N,): small where points are crowded."""
    return nearest_training(points, points, k + 1)[0][:, k]


def relative_distance(
    x: np.ndarray, points: np.ndarray, radius: np.ndarray, among: int = LOOKED_AT, *, skip: int = 0
) -> np.ndarray:
    """Least distance of x (B, D) to `among` nearest points (N, D), but the first `skip`, by their radius (N,): (B,)."""
    distance, row = (column[:, skip:] for column in nearest_training(x, points, among + skip))
    return np.asarray((distance / np.maximum(radius[row], TINY)).min(axis=1))


@dataclass(frozen=True)
class RealismTest:
    """Tells whether pictures lie as near to training pictures, by the local density of those, as real ones do.

    A threshold on plain distances, wide enough for real pictures without neighbours, would also pass noise.

    Source: Kynkäänniemi et al. 2019, Improved Precision and Recall Metric, arXiv:1904.06991, its balls scaled
    """

    train: np.ndarray  # Training pictures in the space of captions, (N, D)
    radius: np.ndarray  # Distance of each to its 5th nearest other, (N,)
    limit: float  # Largest relative distance that passes: that of 97.5% of held-out real pictures

    @classmethod
    def fit(cls, train: np.ndarray, held_out: np.ndarray | None) -> Self:
        """Calibrate on held-out real pictures (M, D); without any, on each training picture, left out in turn."""
        radius = local_radius(train, min(NEIGHBOURS, len(train) - 1))
        real, skip = (train, 1) if held_out is None else (held_out, 0)
        return cls(train, radius, float(np.quantile(relative_distance(real, train, radius, skip=skip), QUANTILE)))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Whether each of x, (B, D), passes, (B,) bool."""
        return relative_distance(x, self.train, self.radius) <= self.limit
