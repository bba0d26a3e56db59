"""Traversals: latents along one direction, all else held, decoded."""

from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from torch import Tensor

from bridge.codecs import ImageCodec
from eval.baselines import decode_flat

CHUNK = 64
ENDS = (0.02, 0.98)
"""A traversal runs between these quantiles of its coordinate."""


@dataclass(frozen=True)
class Axes:
    """A coordinate system of flattened latents.

    Args:
        mean: Origin, (L,).
        directions: Orthonormal rows, (D, L).
    """

    mean: np.ndarray
    directions: np.ndarray

    @classmethod
    def flattened(cls, size: int) -> "Axes":
        """The latent's own dimensions, channel by channel and row by row."""
        return cls(np.zeros(size), np.eye(size))

    @classmethod
    def principal(cls, flat: np.ndarray, count: int) -> "Axes":
        """The first `count` principal components of flattened latents (N, L), or as many as there are."""
        pca = PCA(min(count, *flat.shape), svd_solver="full").fit(flat)
        return cls(pca.mean_, pca.components_)

    def coordinates(self, flat: np.ndarray) -> np.ndarray:
        """(N, L) -> (N, D)."""
        out: np.ndarray = (flat - self.mean) @ self.directions.T
        return out

    def traverse(self, flat: np.ndarray, dimension: int, values: np.ndarray) -> np.ndarray:
        """One latent (L,) with its coordinate of `dimension` set to each of values (S,), all others kept: (S, L).

        >>> Axes.flattened(2).traverse(np.array([5.0, 6.0]), 1, np.array([0.0, 1.0]))
        array([[5., 0.],
               [5., 1.]])
        """
        now = self.coordinates(flat[None])[0, dimension]
        return flat + (values - now)[:, None] * self.directions[dimension]


def strip(codec: ImageCodec, axes: Axes, flat: np.ndarray, dimension: int, steps: int, start: int = 0) -> Tensor:
    """Pictures (steps, 3, H, W) along one dimension, from its low to its high end among latents.

    Args:
        flat: Latents, (N, L): the ends of the traversal are quantiles of theirs.
        dimension: 0 to D - 1.
        steps: At least 2.
    """
    low, high = np.quantile(axes.coordinates(flat)[:, dimension], ENDS)
    return decode_flat(codec, axes.traverse(flat[start], dimension, np.linspace(low, high, steps)))
