"""Groups of near-duplicate pictures among many."""

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from train.splits import SAME_RMSE


def near_groups(thumbnails: np.ndarray, rmse: float = SAME_RMSE, block: int = 1024) -> np.ndarray:
    """Groups of pictures that are linked by near-duplicates, mirrored ones too.

    Two pictures can only be close if their means are, so only those are compared.

    Args:
        thumbnails: Small pictures, (N, H, W, 3) uint8.
        rmse: Root mean squared difference, on the scale 0 to 1, under which two are one drawing.
        block: Pictures compared at a time.

    Returns:
        Group numbers, (N,).
    """
    flat = thumbnails.reshape(len(thumbnails), -1)
    first: dict[bytes, int] = {}
    same = np.array([first.setdefault(row.tobytes(), len(first)) for row in flat])
    distinct = np.stack([np.frombuffer(row, np.uint8) for row in first]).reshape(-1, *thumbnails.shape[1:])
    means = distinct.reshape(len(distinct), -1).mean(1) / 255
    order = np.argsort(means, kind="stable")
    means, distinct = means[order], distinct[order]
    group = np.arange(len(order))
    for start in range(0, len(order), block):
        stop = int(np.searchsorted(means, means[min(start + block, len(means)) - 1] + rmse, "right"))
        group = _merge(group, start, _near(distinct[start : start + block], distinct[start:stop], rmse))
    numbers = np.empty_like(group)
    numbers[order] = group
    return np.unique(numbers[same], return_inverse=True)[1]


def _near(rows: np.ndarray, others: np.ndarray, rmse: float, block: int = 8192) -> np.ndarray:
    """Index pairs (P, 2) of rows and others closer than `rmse`, mirrored or not."""
    left = rows.reshape(len(rows), -1).astype(np.float32) / 255
    pairs = []
    for start in range(0, len(others), block):
        part = others[start : start + block]
        for compared in (part, part[:, :, ::-1]):
            right = compared.reshape(len(part), -1).astype(np.float32) / 255
            squared = (left**2).sum(1)[:, None] + (right**2).sum(1)[None] - 2 * left @ right.T
            i, j = np.nonzero(squared < rmse**2 * left.shape[1])
            pairs.append(np.stack([i, j + start], 1))
    return np.concatenate(pairs)


def _merge(group: np.ndarray, start: int, pairs: np.ndarray) -> np.ndarray:
    links = group[pairs + start]
    size = len(group)
    graph = coo_matrix((np.ones(len(links), bool), (links[:, 0], links[:, 1])), shape=(size, size))
    return connected_components(graph, directed=False)[1][group]
