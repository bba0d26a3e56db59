"""The copy rate: does a picture merely repeat a training picture?"""

from dataclasses import dataclass

import numpy as np
from sklearn.neighbors import NearestNeighbors

SIDE, COPY_QUANTILE = 16, 0.01


def nearest_training(x: np.ndarray, train: np.ndarray, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Distances and rows of the k nearest (all, if fewer) of `train` (N, D) to x (B, D), nearest first, each (B, k)."""
    return NearestNeighbors(algorithm="brute").fit(train).kneighbors(x, min(k, len(train)))


def _overlap(pixels: int, cells: int) -> np.ndarray:
    """Weight of each pixel of a line in the mean of each of `cells` equal parts, (cells, pixels)."""
    edges, starts = np.arange(cells + 1) * pixels / cells, np.arange(pixels)
    low, high = np.maximum(edges[:-1, None], starts), np.minimum(edges[1:, None], starts + 1)
    return np.clip(high - low, 0, None) * cells / pixels


def thumbnails(x: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Pictures (B, 3, H, W) averaged down to `side` x `side`, (B, 3 * side * side), to look for copies.

    A decoder's blur and grain change the distances of network features as much as another artist does.
    """
    down, across = (_overlap(pixels, side) for pixels in x.shape[2:])
    small = np.einsum("ih,bchw,jw->bcij", down, x, across, optimize=True)
    return small.reshape(len(x), -1).astype(np.float32)


@dataclass(frozen=True)
class CopyTest:
    """Tells copies: pictures nearer to a training picture than real held-out pictures come.

    `train` are thumbnails of the training pictures, (N, D). A first alarm only: heavy noise on a copy, a shift, and
    blends of two training pictures all pass it, and most mirrored copies do.
    """

    train: np.ndarray
    threshold: float

    @classmethod
    def fit(cls, train: np.ndarray, held_out: np.ndarray | None) -> "CopyTest":
        """Calibrate: `COPY_QUANTILE` of held-out thumbnails (M, D), or of training ones left out, count as copies."""
        real, k = (train, 2) if held_out is None else (held_out, 1)
        return cls(train, float(np.quantile(nearest_training(real, train, k)[0][:, -1], COPY_QUANTILE)))

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether thumbnails x (B, D) are copies, (B,) bool, whose mean is the copy rate, and nearest rows, (B,)."""
        distance, row = nearest_training(x, self.train)
        return distance[:, 0] < self.threshold, row[:, 0]
