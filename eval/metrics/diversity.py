"""Diversity: how many different styles among a caption's pictures that also show the caption."""

from collections.abc import Sequence

import numpy as np
from scipy.special import comb

VALID = 0.5


def distinct_styles(styles: np.ndarray, valid: np.ndarray, take: int) -> float:
    """Expected number of distinct styles among the valid ones of `take` pictures drawn from n.

    Rarefaction makes sets of different sizes comparable: four samples against the three artists of a caption
    are both read at three.

    Args:
        styles: Style of each picture, (n,) of any kind.
        valid: Which pictures count, (n,) bool.
        take: How many are drawn without replacement, 1 to n.

    Raises:
        ValueError: `take` is not between 1 and n.

    Source: Hurlbert 1971, The nonconcept of species diversity, Ecology 52

    >>> distinct_styles(np.array(["a", "b", "b", "c"]), np.array([True, True, True, False]), 4)
    2.0
    """
    n = len(styles)
    if not 1 <= take <= n:
        raise ValueError(f"take must be 1 to {n}, the number of pictures, got {take}")
    counts = np.unique(styles[valid], return_counts=True)[1]
    return float((1 - comb(n - counts, take) / comb(n, take)).sum())


def valid_styles(
    styles: Sequence[np.ndarray], hits: Sequence[np.ndarray], take: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Distinct styles among the hits of every caption, (C,).

    Args:
        styles: Style of each picture, [(n,)] * C or (C, n).
        hits: Probability of a hit of each, same shape; one that is a hit more often than not is valid.
        take: Pictures drawn a caption, (C,).
    """
    each = zip(styles, hits, take, strict=True)
    return np.array([distinct_styles(s, h >= VALID, int(m)) for s, h, m in each])
