"""Joint: is the set of pictures for a caption the set that artists draw? Energy distance by caption."""

from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import cdist, pdist

from eval.metrics.bootstrap import family_weights


def energy_distance(
    x: np.ndarray, r: np.ndarray, artists: np.ndarray | None = None, x_artists: np.ndarray | None = None
) -> float:
    """Unbiased energy distance `2 E|x - r| - E|x - x'| - E|r - r'|` of samples (n, D) and references (k, D).

    No point is compared with itself (U-statistics): the expectation is 0 for two draws from one distribution, whatever
    their sizes. By chance it may be negative. With artists, (k,) of the references and (n,) of the samples, each has
    equal weight and two pictures by one artist are no pair.

    Raises:
        ValueError: Fewer than two samples or two artists.

    Source: Székely and Rizzo 2013, Energy statistics; Gneiting and Raftery 2007, section 4.3

    >>> float(energy_distance(np.array([[0.0], [2.0]]), np.array([[1.0], [1.0]])))
    0.0
    """
    across = artist_weights(len(x), x_artists) @ distances_to(x, r, artists)
    return 2 * float(across) - spread(x, x_artists) - spread(r, artists)


def distances_to(x: np.ndarray, r: np.ndarray, artists: np.ndarray | None = None) -> np.ndarray:
    """Mean distance of each point (n, D) to the references (k, D), artists having equal weight: (n,)."""
    return cdist(x, r) @ artist_weights(len(r), artists)


def spread(x: np.ndarray, artists: np.ndarray | None = None) -> float:
    """E|x - x'| over pairs of points, (n, D); with `artists`, over pairs by different ones."""
    if len(x) < 2 or (artists is not None and len(np.unique(artists)) < 2):
        raise ValueError("a spread needs at least two points (by two artists, where artists are given)")
    return float(pdist(x).mean()) if artists is None else _between_artists(x, x, artists)


def energy_distance_of_real(x: np.ndarray, r: np.ndarray, artists: np.ndarray) -> float:
    """Energy distance of references, or of what a codec made of each, to references by *other* artists.

    x and r are (k, D), artists (k,). All three expectations are over pairs of different artists: x = r gives 0.
    """
    return 2 * _between_artists(x, r, artists) - spread(x, artists) - spread(r, artists)


def _between_artists(x: np.ndarray, r: np.ndarray, artists: np.ndarray) -> float:
    """E|x - r| over pairs (k, D) by different artists, who have equal weight."""
    w = artist_weights(len(r), artists)
    pair = np.outer(w, w) * (artists[:, None] != artists[None, :])
    return float((cdist(x, r) * pair).sum() / pair.sum())


def artist_weights(count: int, artists: np.ndarray | None) -> np.ndarray:
    """Weights of `count` pictures that sum to 1 and are the same in total for every artist, (count,).

    >>> artist_weights(3, np.array(["a", "b", "b"]))
    array([0.5 , 0.25, 0.25])
    """
    return np.full(count, 1 / count) if artists is None else family_weights(artists)


def energy_to_population(
    population: np.ndarray, references: Sequence[np.ndarray], artists: Sequence[np.ndarray]
) -> np.ndarray:
    """Energy distance of one caption-blind population (M, D) to every caption's references: (C,).

    Its mean is the cost of knowing which pictures exist and nothing of the caption.
    """
    own = spread(population)
    pairs = zip(references, artists, strict=True)
    return np.array([2 * float(distances_to(population, r, a).mean()) - own - spread(r, a) for r, a in pairs])


def root_skill(energy: np.ndarray, unconditional: np.ndarray) -> np.ndarray:
    """`1 - sign(ED) sqrt(|ED| / ED_unconditional)` of means (...): 1 for the artists' distribution, 0 caption-blind.

    >>> root_skill(np.array([0.0, 4.0]), np.array([4.0, 4.0]))
    array([1., 0.])
    """
    return 1 - np.sign(energy) * np.sqrt(np.abs(energy) / unconditional)
