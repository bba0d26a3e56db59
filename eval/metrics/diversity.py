"""Diversity: how many different styles among a caption's pictures that also show the caption."""

import numpy as np
from scipy.special import comb

VALID = 0.5  # Probability of a hit from which on a picture shows its caption


def distinct_styles(styles: np.ndarray, valid: np.ndarray, take: int) -> float:
    """Expected number of distinct styles among the valid ones of `take` pictures drawn from n without replacement.

    Styles are (n,) of any kind, valid (n,) bool. Rarefaction makes sets of different sizes comparable: four samples and
    the three artists of a caption are both read at three.

    Source: Hurlbert 1971, The nonconcept of species diversity, Ecology 52

    >>> distinct_styles(np.array(["a", "b", "b", "c"]), np.array([True, True, True, False]), 4)
    2.0
    """
    n = len(styles)
    counts = np.unique(styles[valid], return_counts=True)[1]
    return float((1 - comb(n - counts, take) / comb(n, take)).sum())
