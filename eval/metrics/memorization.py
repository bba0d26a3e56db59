"""Memorisation: do pictures as a whole keep too near to training pictures? Beside the copy rate of `train.copies`.

A mirrored or shifted copy mostly passes `CopyTest`, whose thumbnails it changes, and fails `c_t` and
`authenticity` in the space of a network that hardly minds. A codec's blur takes all pictures, copies and others,
farther from training pictures there: hold a model against what its codec makes of real ones. Heavy noise on a copy
and a blend of two training pictures pass all three. `eval.studies.cheats` measures them on such pictures.
"""

import numpy as np
from scipy.stats import mannwhitneyu
from sklearn.cluster import KMeans

from bridge.errors import UserError
from train.copies import nearest_training

CELL_SAMPLES = 20


def c_t(train: np.ndarray, held_out: np.ndarray, samples: np.ndarray, cells: int = 1, seed: int = 0) -> float:
    """Data-copying statistic C_T: are samples nearer to training pictures than held-out real ones are?

    Mann-Whitney's Z of distances to the nearest training picture, without correction for ties: about standard
    normal for independent draws of the held-out distribution (with `cells` its deviation is smaller), far
    below 0 for copies, far above 0 for pictures unlike any real one. It grows with the square root of the
    number of pictures: compare it only at equal sizes.

    Args:
        train: Training pictures in some feature space, (N, D).
        held_out: Real pictures that are not among them, (M, D).
        samples: Generated pictures, (B, D), independent draws.
        cells: Regions of space, found by k-means on `train` and tested apart: a model that avoids the crowded
            ones, where distances are small, can copy elsewhere unseen. Z is averaged over cells with 20 samples
            or more (all of them where B is less) and a held-out picture, weighed by their held-out pictures.
        seed: Of k-means.

    Returns:
        The statistic, in standard deviations.

    Raises:
        ValueError: A set is empty, `cells` is not from 1 to N, or no cell has enough of both.

    Source: Meehan, Chaudhuri and Dasgupta 2020, A non-parametric test to detect data-copying in generative
        models, arXiv:2004.05675; distances are to all of `train`, as in its text

    >>> train, held_out = np.arange(10.0)[:, None], np.arange(10.0)[:, None] + 0.4
    >>> round(c_t(train, held_out, train), 2), c_t(train, held_out, held_out)
    (-3.78, 0.0)
    """
    if min(len(train), len(held_out), len(samples)) == 0:
        raise ValueError("train, held_out, samples: expected at least one picture each")
    if not 1 <= cells <= len(train):
        raise ValueError(f"cells: expected 1 to {len(train)}, the number of training pictures, got {cells}")
    train, held_out, samples = (x.astype(np.float64) for x in (train, held_out, samples))
    real, drawn = (nearest_training(x, train)[0][:, 0] for x in (held_out, samples))
    regions = KMeans(cells, n_init=1, random_state=seed).fit(train)
    real_cell, drawn_cell = regions.predict(held_out), regions.predict(samples)
    weights, scores = [], []
    for cell in range(cells):
        r, d = real[real_cell == cell], drawn[drawn_cell == cell]
        if len(r) > 0 and len(d) >= min(CELL_SAMPLES, len(samples)):
            weights.append(len(r))
            scores.append(_mann_whitney_z(d, r))
    if not scores:
        raise UserError(f"cells: none of {cells} has {CELL_SAMPLES} samples and a held-out picture; ask for fewer")
    return float(np.average(scores, weights=weights))


def _mann_whitney_z(x: np.ndarray, y: np.ndarray) -> float:
    """How far x (m,) tends to exceed y (n,), in standard deviations of Mann-Whitney's U."""
    m, n = len(x), len(y)
    u = mannwhitneyu(x, y, method="asymptotic").statistic
    return float((u - m * n / 2) / np.sqrt(m * n * (m + n + 1) / 12))


def authenticity(train: np.ndarray, samples: np.ndarray) -> float:
    """AuthPct: share of samples farther from their nearest training picture than that one is from its own.

    Independent draws of the training distribution are no copies, yet do not score 1: a draw fails when it and
    a training picture are each other's nearest, so they score 1/3 on a line, .38 in a plane and about 1/2 in
    many dimensions (more where a few pictures are everybody's nearest). Read it beside the same figure of
    held-out real pictures; copies score 0.

    Args:
        train: Training pictures in some feature space, (N, D), N at least 2.
        samples: Generated pictures, (B, D), B at least 1.

    Returns:
        A share in [0, 1].

    Raises:
        ValueError: There are too few pictures.

    Source: Alaa et al. 2022, How faithful is your synthetic data?, arXiv:2102.08921;
        Pickard 1982, Isolated nearest neighbors (shares of mutual nearest neighbours)

    >>> authenticity(np.array([[0.0], [1.0], [5.0]]), np.array([[0.5], [-2.0], [6.0], [4.9]]))
    0.25
    """
    if len(train) < 2 or len(samples) < 1:
        raise ValueError(
            f"train, samples: expected at least 2 training pictures and a sample, got {len(train)} and {len(samples)}"
        )
    distance, row = nearest_training(samples, train)
    near, index = np.unique(row[:, 0], return_inverse=True)
    # Second column: every training picture finds itself first, or a twin at the same distance.
    own, _ = nearest_training(train[near], train, 2)
    return float((distance[:, 0] > own[index, 1]).mean())
