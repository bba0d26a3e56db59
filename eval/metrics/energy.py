"""Joint: the energy distance of a caption's pictures to its artists'."""

from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import cdist, pdist

from eval.metrics.bootstrap import family_weights


def energy_distance(
    x: np.ndarray, r: np.ndarray, artists: np.ndarray | None = None, x_artists: np.ndarray | None = None
) -> float:
    """Unbiased energy distance `2 E|x - r| - E|x - x'| - E|r - r'|` of samples (n, D) and references (k, D).

    No point is compared with itself (U-statistics), so that it may be negative by chance. Artists, (k,) and (n,), have
    equal weight, and two pictures by one are no pair. ValueError for fewer than two samples or artists.

    Source: Székely and Rizzo 2013, Energy statistics; Gneiting and Raftery 2007, section 4.3
    """
    own = np.arange(len(x)) if x_artists is None else x_artists
    others = np.arange(len(r)) if artists is None else artists
    across = family_weights(own) @ (cdist(x, r) @ family_weights(others))
    return 2 * float(across) - spread(x, x_artists) - spread(r, artists)


def spread(x: np.ndarray, artists: np.ndarray | None = None) -> float:
    """E|x - x'| over pairs of points, (n, D); with `artists`, over pairs by different ones."""
    if len(x) < 2 or (artists is not None and len(np.unique(artists)) < 2):
        raise ValueError("a spread needs at least two points (by two artists, where artists are given)")
    return float(pdist(x).mean()) if artists is None else _between_artists(x, x, artists)


def energy_distance_of_real(x: np.ndarray, r: np.ndarray, artists: np.ndarray) -> float:
    """Energy distance of references x, or of reconstructions, to those r by *other* artists; (k, D), artists (k,)."""
    return 2 * _between_artists(x, r, artists) - spread(x, artists) - spread(r, artists)


def _between_artists(x: np.ndarray, r: np.ndarray, artists: np.ndarray) -> float:
    """E|x - r| over pairs (k, D) by different artists, who have equal weight."""
    w = family_weights(artists)
    pair = np.outer(w, w) * (artists[:, None] != artists[None, :])
    return float((cdist(x, r) * pair).sum() / pair.sum())


def energy_to_population(
    population: np.ndarray, references: Sequence[np.ndarray], artists: Sequence[np.ndarray]
) -> np.ndarray:
    """Energy distance of one caption-blind population (M, D) to every caption's references: (C,)."""
    own, pairs = spread(population), zip(references, artists, strict=True)
    return np.array([2 * (cdist(population, r) @ family_weights(a)).mean() - own - spread(r, a) for r, a in pairs])


def root_skill(energy: np.ndarray, unconditional: np.ndarray) -> np.ndarray:
    """`1 - sign(ED) sqrt(|ED| / ED_unconditional)` of means (...): 1 for the artists' distribution, 0 caption-blind."""
    return 1 - np.sign(energy) * np.sqrt(np.abs(energy) / unconditional)
