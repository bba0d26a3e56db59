"""Memorisation: do pictures as a whole keep too near to training pictures? Beside the copy rate of `train.copies`.

A mirrored or shifted copy mostly passes `CopyTest`, whose thumbnails it changes, and fails `c_t` and `authenticity` in
the space of a network that hardly minds. A codec's blur moves all pictures away from training pictures there: compare
with what the codec makes of real ones. Heavy noise on a copy and a blend of two training pictures pass all three.
"""

import numpy as np
from scipy.stats import mannwhitneyu

from train.copies import nearest_training


def c_t(train: np.ndarray, held_out: np.ndarray, samples: np.ndarray) -> float:
    """Data-copying statistic C_T: are samples (B, D) nearer to training pictures (N, D) than held-out ones (M, D)?

    Mann-Whitney's Z of distances to the nearest training picture: about standard normal for independent draws of the
    held-out distribution, far below 0 for copies, far above 0 for pictures unlike any real one. It grows with the
    square root of the number of pictures: compare it at equal sizes only.

    Source: Meehan, Chaudhuri and Dasgupta 2020, A non-parametric test to detect data-copying in generative models,
        arXiv:2004.05675, with a single cell

    >>> train, held_out = np.arange(10.0)[:, None], np.arange(10.0)[:, None] + 0.4
    >>> round(c_t(train, held_out, train), 2), c_t(train, held_out, held_out)
    (-3.78, 0.0)
    """
    real, drawn = (
        nearest_training(x.astype(np.float64), train.astype(np.float64))[0][:, 0] for x in (held_out, samples)
    )
    m, n = len(drawn), len(real)
    u = mannwhitneyu(drawn, real, method="asymptotic").statistic
    return float((u - m * n / 2) / np.sqrt(m * n * (m + n + 1) / 12))


def authenticity(train: np.ndarray, samples: np.ndarray) -> float:
    """AuthPct: share of samples (B, D) farther from their nearest training picture (N, D) than that one from its own.

    Copies score 0. Independent draws do not score 1, since a draw fails when it and a training picture are each
    other's nearest: 1/3 on a line, .38 in a plane, about 1/2 in many dimensions. Read it beside the figure of held-out
    real pictures.

    Source: Alaa et al. 2022, How faithful is your synthetic data?, arXiv:2102.08921;
        Pickard 1982, Isolated nearest neighbors (shares of mutual nearest neighbours)

    >>> authenticity(np.array([[0.0], [1.0], [5.0]]), np.array([[0.5], [-2.0], [6.0], [4.9]]))
    0.25
    """
    distance, row = nearest_training(samples, train)
    near, index = np.unique(row[:, 0], return_inverse=True)
    # Second column: every training picture finds itself first, or a twin at the same distance.
    own, _ = nearest_training(train[near], train, 2)
    return float((distance[:, 0] > own[index, 1]).mean())
