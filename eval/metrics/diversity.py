"""Diversity: how many different styles among a caption's pictures that also show the caption."""

from collections.abc import Sequence

import numpy as np
from scipy.special import comb

VALID = 0.5


def distinct_styles(styles: np.ndarray, valid: np.ndarray, take: int) -> float:
    """Expected number of distinct styles among the valid ones of `take` pictures drawn from n without replacement.

    Rarefaction makes sets of different sizes comparable: four samples and the three artists of a caption are both
    read at three.

    Args:
        styles: Style of each picture, (n,) of any kind.
        valid: Which pictures count, (n,) bool.
        take: 1 to n.

    Source: Hurlbert 1971, The nonconcept of species diversity, Ecology 52

    >>> distinct_styles(np.array(["a", "b", "b", "c"]), np.array([True, True, True, False]), 4)
    2.0
    """
    n = len(styles)
    counts = np.unique(styles[valid], return_counts=True)[1]
    return float((1 - comb(n - counts, take) / comb(n, take)).sum())


def valid_styles(
    styles: Sequence[np.ndarray], hits: Sequence[np.ndarray], take: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Distinct styles of every caption's valid pictures, (C,): those more likely than not to be hits.

    Styles and probabilities of a hit are [(n,)] * C; `take`, (C,), is as for `distinct_styles`.
    """
    each = zip(styles, hits, take, strict=True)
    return np.array([distinct_styles(s, h >= VALID, int(m)) for s, h, m in each])
