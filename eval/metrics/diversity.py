"""Diversity: how many styles a caption's pictures are drawn in."""

import numpy as np
from scipy.special import comb


def distinct_styles(styles: np.ndarray, valid: np.ndarray, take: int) -> float:
    """Expected number of distinct styles among the valid ones of `take` pictures drawn from n without replacement.

    Styles are (n,) of any kind, valid (n,) bool. Rarefaction makes sets of different sizes comparable.

    Source: Hurlbert 1971, The nonconcept of species diversity, Ecology 52
    """
    n, counts = len(styles), np.unique(styles[valid], return_counts=True)[1]
    return float((1 - comb(n - counts, take) / comb(n, take)).sum())
