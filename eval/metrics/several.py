"""What can be said of a model when several artists drew each caption: fit, diversity and joint.

Fit is Caption-ID@10-of-100 among real pictures' centroids: R-precision (Xu et al. 2018, AttnGAN, arXiv:1711.10485) with
pictures for captions. Joint is made of the energy distance to the artists' pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist, pdist
from scipy.special import comb
from scipy.stats import binom

from bridge.errors import UserError
from eval.metrics.bootstrap import family_weights

NEAREST, AMONG = 10, 100
CHANCE = NEAREST / AMONG
VALID = 0.5  # Probability of a hit from which on a picture shows its caption


def centroids_without(references: np.ndarray, artists: np.ndarray) -> np.ndarray:
    """The centroid without each artist in turn, (A, D) in their sorted order: what pictures are judged by."""
    others = [artists != a for a in np.unique(artists)]
    return np.stack([family_weights(artists[o]) @ references[o] for o in others])


def hit_probability(nearer: np.ndarray) -> np.ndarray:
    """Chance to be among the 10 nearest of 100 with 99 rivals drawn at random, of which a share (...) is nearer."""
    return binom.cdf(NEAREST - 1, AMONG - 1, nearer)


def rival_weights(families: np.ndarray, own: object) -> np.ndarray:
    """Weights (P,), summing to 1, of rivals of a caption of family `own`: families equal, its own none."""
    _, row, counts = np.unique(families, return_inverse=True, return_counts=True)
    weights = (families != own) / counts[row]
    if weights.sum() == 0:
        raise UserError("families: caption-ID needs captions of at least two families")
    return weights / weights.sum()


@dataclass(frozen=True)
class Rivals:
    """Captions that a picture might show instead: centroids (P, D), and their families (P,), two or more."""

    centroids: np.ndarray
    families: np.ndarray

    @classmethod
    def of(cls, references: Sequence[np.ndarray], artists: Sequence[np.ndarray], families: np.ndarray) -> "Rivals":
        """The captions whose real pictures are given: [(k, D)] * P, [(k,)] * P, (P,)."""
        centroids = [family_weights(a) @ r for r, a in zip(references, artists, strict=True)]
        return cls(np.stack(centroids), np.asarray(families))

    def hits(
        self, x: np.ndarray, realistic: np.ndarray, own: np.ndarray, family: object, left_out: np.ndarray | None = None
    ) -> np.ndarray:
        """Caption-ID: probability that each of a caption's pictures is near its own caption *and* realistic, (n,).

        Pictures x are (n, D), `realistic`, (n,), whether each passes that test, and `own` the caption's centroids,
        (A, D), over which the probability is averaged. For real pictures, or what a codec made of each, `left_out`,
        (n,), is which centroid holds *other* artists. Rivals of the same family do not count; a tie counts half.
        """
        mine, theirs = cdist(x, own)[:, :, None], cdist(x, self.centroids)[:, None, :]
        nearer = ((theirs < mine) + 0.5 * (theirs == mine)) @ rival_weights(self.families, family)
        if left_out is not None:
            nearer = nearer[np.arange(len(x)), left_out][:, None]
        # Weights that sum to 1 + 1e-16 would give a share the binomial refuses.
        return hit_probability(np.clip(nearer, 0, 1)).mean(axis=1) * realistic


def chance_adjusted(hit: np.ndarray, real: np.ndarray | float, chance: float = CHANCE) -> np.ndarray:
    """Hit rate on a scale where chance is 0 and real pictures by other artists are 1."""
    return (hit - chance) / (real - chance)


def distinct_styles(styles: np.ndarray, valid: np.ndarray, take: int) -> float:
    """Expected number of distinct styles among the valid ones of `take` pictures drawn from n without replacement.

    Styles are (n,) of any kind, valid (n,) bool. Rarefaction makes sets of different sizes comparable.

    Source: Hurlbert 1971, The nonconcept of species diversity, Ecology 52
    """
    n, counts = len(styles), np.unique(styles[valid], return_counts=True)[1]
    return float((1 - comb(n - counts, take) / comb(n, take)).sum())


def energy_distance(
    x: np.ndarray, r: np.ndarray, artists: np.ndarray | None = None, x_artists: np.ndarray | None = None
) -> float:
    """Unbiased energy distance `2 E|x - r| - E|x - x'| - E|r - r'|` of samples (n, D) and references (k, D).

    No point is compared with itself (U-statistics), so that it may be negative by chance. With artists, (k,) of the
    references and (n,) of the samples, each has equal weight and two pictures by one are no pair. ValueError for fewer
    than two samples or artists.

    Source: Székely and Rizzo 2013, Energy statistics; Gneiting and Raftery 2007, section 4.3
    """
    across = artist_weights(len(x), x_artists) @ (cdist(x, r) @ artist_weights(len(r), artists))
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


def artist_weights(count: int, artists: np.ndarray | None) -> np.ndarray:
    """Weights of `count` pictures that sum to 1: the same in total for every artist, or equal without artists."""
    return np.full(count, 1 / count) if artists is None else family_weights(artists)


def energy_to_population(
    population: np.ndarray, references: Sequence[np.ndarray], artists: Sequence[np.ndarray]
) -> np.ndarray:
    """Energy distance of one caption-blind population (M, D) to every caption's references: (C,)."""
    own, pairs = spread(population), zip(references, artists, strict=True)
    return np.array([2 * (cdist(population, r) @ family_weights(a)).mean() - own - spread(r, a) for r, a in pairs])


def root_skill(energy: np.ndarray, unconditional: np.ndarray) -> np.ndarray:
    """`1 - sign(ED) sqrt(|ED| / ED_unconditional)` of means (...): 1 for the artists' distribution, 0 caption-blind."""
    return 1 - np.sign(energy) * np.sqrt(np.abs(energy) / unconditional)
