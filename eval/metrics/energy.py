"""Joint: is the set of pictures for a caption the set that artists draw? Energy distance by caption."""

from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import cdist, pdist


def energy_distance(x: np.ndarray, r: np.ndarray, artists: np.ndarray | None = None) -> float:
    """Unbiased energy distance `2 E|x - r| - E|x - x'| - E|r - r'|` of two sets of points.

    U-statistics: no point is compared with itself, so the expectation is 0 for two draws from one
    distribution, whatever their sizes (the V-statistic has a floor that falls with size instead).

    Args:
        x: Samples, (n, D), n at least 2, independent draws.
        r: References, (k, D).
        artists: Who drew each reference, (k,), at least two different ones; every artist weighs the same and
            two pictures by one artist are no pair. Absent: every reference has its own.

    Returns:
        A number that may be negative by chance.

    Raises:
        ValueError: Fewer than two samples or two artists.

    Source: Székely and Rizzo 2013, Energy statistics; Gneiting and Raftery 2007, section 4.3

    >>> float(energy_distance(np.array([[0.0], [2.0]]), np.array([[1.0], [1.0]])))
    0.0
    """
    return 2 * float(distances_to(x, r, artists).mean()) - spread(x) - spread(r, artists)


def distances_to(x: np.ndarray, r: np.ndarray, artists: np.ndarray | None = None) -> np.ndarray:
    """Mean distance of each point (n, D) to the references (k, D), every artist weighing the same: (n,)."""
    return cdist(x, r) @ artist_weights(len(r), artists)


def spread(x: np.ndarray, artists: np.ndarray | None = None) -> float:
    """E|x - x'| over pairs of points, (n, D); with `artists`, over pairs by different ones."""
    if len(x) < 2 or (artists is not None and len(np.unique(artists)) < 2):
        raise ValueError("a spread needs at least two points (by two artists, where artists are given)")
    if artists is None:
        return float(pdist(x).mean())
    w = artist_weights(len(x), artists)
    pair = np.outer(w, w) * (artists[:, None] != artists[None, :])
    return float((cdist(x, x) * pair).sum() / pair.sum())


def energy_distance_of_real(x: np.ndarray, r: np.ndarray, artists: np.ndarray) -> float:
    """Energy distance of references, or of what a codec made of each, to references by *other* artists.

    All three expectations run over pairs of different artists, so x = r gives exactly 0.

    Args:
        x: One point for each reference, (k, D).
        r: References, (k, D).
        artists: Who drew each, (k,), at least two different ones.
    """
    w = artist_weights(len(r), artists)
    pair = np.outer(w, w) * (artists[:, None] != artists[None, :])
    return 2 * float((cdist(x, r) * pair).sum() / pair.sum()) - spread(x, artists) - spread(r, artists)


def artist_weights(count: int, artists: np.ndarray | None) -> np.ndarray:
    """Weights of `count` pictures that sum to 1 and give every artist the same, (count,).

    >>> artist_weights(3, np.array(["a", "b", "b"]))
    array([0.5 , 0.25, 0.25])
    """
    if artists is None:
        return np.full(count, 1 / count)
    _, row, counts = np.unique(artists, return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[row])


def energy_per_caption(
    samples: Sequence[np.ndarray], references: Sequence[np.ndarray], artists: Sequence[np.ndarray]
) -> np.ndarray:
    """Energy distance of every caption's samples [(n, D)] * C to its references [(k, D)] * C: (C,)."""
    return np.array([energy_distance(*each) for each in zip(samples, references, artists, strict=True)])


def energy_to_population(
    population: np.ndarray, references: Sequence[np.ndarray], artists: Sequence[np.ndarray]
) -> np.ndarray:
    """Energy distance of one caption-blind population (M, D) to every caption's references: (C,).

    Its average is what a model pays that knows which pictures exist and nothing of the caption.
    """
    own = spread(population)
    pairs = zip(references, artists, strict=True)
    return np.array([2 * float(distances_to(population, r, a).mean()) - own - spread(r, a) for r, a in pairs])


def root_skill(energy: np.ndarray, unconditional: np.ndarray) -> np.ndarray:
    """`1 - sign(ED) sqrt(|ED| / ED_unconditional)`: 1 for the artists' own distribution, 0 for caption-blind.

    Args:
        energy: Energy distances averaged over captions, (...).
        unconditional: The same for caption-blind draws, (...), positive.

    >>> root_skill(np.array([0.0, 4.0]), np.array([4.0, 4.0]))
    array([1., 0.])
    """
    return 1 - np.sign(energy) * np.sqrt(np.abs(energy) / unconditional)
