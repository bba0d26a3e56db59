"""What can be said of a model when a caption has one picture.

Nothing here is scaled to what two real pictures of one caption differ by, which such data does not hold. A caption's
own picture is one right answer of many, and a right picture unlike it is a miss of Caption-ID: a varied model
scores lower than it deserves, averages of many pictures score higher.

For C captions: points of samples [(n, D)] * C and of real pictures [(k, D)] * C, families (C,).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial.distance import cdist, pdist
from scipy.special import comb

from bridge.errors import UserError
from eval.metrics import fit
from eval.metrics.bootstrap import Interval

SHUFFLES, DRAWS = 32, 500
ENDS = ((1 - 0.95) / 2, (1 + 0.95) / 2)  # Quantiles of redrawings at the ends of an interval
SHARED = 4  # Axes of captions and of pictures that `PairSpace` keeps
BLOCK = 64  # Captions whose distances to all others are held at once
Points = Sequence[np.ndarray]


def chance_of(rivals: int) -> float:
    """Hit rate of pictures that know nothing of their caption, among so many rivals: above .10 for few."""
    return float(fit.hit_probability(np.arange(rivals + 1) / rivals).mean())


def valid_distance(style: np.ndarray, hits: np.ndarray, unit: float) -> float:
    """Mean distance of two of a caption's pictures (n, E), at most 1 a pair, and 0 unless both show the caption.

    Hits are probabilities (n,), n at least 2; `unit` is the distance of real pictures of different captions. Neither
    noise nor wrong pictures buy anything, and the mean over all pairs does not depend on their number.

    >>> valid_distance(np.array([[0.0], [1.5], [9.0]]), np.array([1.0, 1.0, 0.0]), unit=2)
    0.25
    """
    return float(np.minimum(pdist(style[hits >= fit.VALID]) / unit, 1).sum() / comb(len(style), 2))


def distance_to_others(style: Points, families: np.ndarray) -> np.ndarray:
    """Mean distance of every caption's real pictures [(k, E)] * C to those of other families: (C,)."""
    points, family = np.concatenate(style), np.repeat(families, [len(s) for s in style])
    return np.array([cdist(s, points[family != own]).mean() for s, own in zip(style, families, strict=True)])


def energy_score(x: np.ndarray, r: np.ndarray) -> float:
    """`E|x - r| - E|x - x'| / 2` of a caption's points: lower is better, and only differences mean something.

    Strictly proper: the expectation is half the energy distance to what artists would draw, plus a caption's constant.

    Source: Gneiting and Raftery 2007, Strictly proper scoring rules, prediction, and estimation, section 4.3
    """
    return float(cdist(x, r).mean() - pdist(x).mean() / 2)


@dataclass(frozen=True)
class PairSpace:
    """Where pairs of a caption and a picture are compared: the axes on which training pairs go together most.

    On axes of largest variance the energy distance hardly tells right captions from shuffled ones. The axes depend on
    the text encoder: compare only models with the same one.

    Source: Sampson et al. 1989 (partial least squares by singular value decomposition); DeVries et al. 2019, On the
        evaluation of conditional GANs, arXiv:1907.08175, for equal weights of caption and picture
    """

    text_mean: np.ndarray  # Of the training codes, (T,)
    text_axes: np.ndarray  # Codes to coordinates of unit variance over training pairs, (T, K)
    picture_mean: np.ndarray  # Of the training points, (D,)
    picture_axes: np.ndarray  # The same for pictures, (D, K)

    @classmethod
    def fit(cls, codes: np.ndarray, points: np.ndarray) -> "PairSpace":
        """Fit on N training pairs, codes (N, T) and points of `JudgeSpace.singly` (N, D); UserError if unrelated."""
        c_mean, x_mean = codes.mean(axis=0, dtype=np.float64), points.mean(axis=0, dtype=np.float64)
        c, x = codes - c_mean, points - x_mean
        u, strength, v = np.linalg.svd(c.T @ x / len(c), full_matrices=False)
        keep = int((strength[:SHARED] > 1e-9 * strength[0]).sum())
        if keep == 0:
            raise UserError("codes, points: training captions and pictures do not vary together")
        u, v = u[:, :keep], v[:keep].T
        return cls(c_mean, u / (c @ u).std(axis=0), x_mean, v / (x @ v).std(axis=0))

    def text(self, codes: np.ndarray) -> np.ndarray:
        """Coordinates (B, K) of text codes (B, T)."""
        return (codes - self.text_mean) @ self.text_axes

    def pictures(self, points: np.ndarray) -> np.ndarray:
        """Coordinates (B, K) of points (B, D)."""
        return (points - self.picture_mean) @ self.picture_axes


@dataclass(frozen=True)
class Asked:
    """Captions of which pairs of caption and picture are compared."""

    text: np.ndarray  # Coordinates of the captions, (C, K)
    families: np.ndarray  # Family of each, (C,)
    asked: np.ndarray  # Family of the caption that its samples were drawn for, (C,): another one if shuffled
    weights: np.ndarray  # Of captions, (W, C), of `redrawn_weights`

    @cached_property
    def apart(self) -> np.ndarray:
        """Squared distances of the captions, (C, C)."""
        return cdist(self.text, self.text, "sqeuclidean")

    def real_term(self, r: Points) -> np.ndarray:
        """E|v - v'|, (W,)."""
        usable = independent(self.families, self.families)[2]
        return _weighted(_mean_distances(self.apart, r, r), usable, self.weights, self.weights)

    def sample_terms(self, x: Points, r: Points, asked: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """`2 E|u - v| - E|u - u'|`, (W,), with samples drawn for families `asked` (C,), of weights (W, C)."""
        cross, within, _ = independent(self.families, asked)
        across = _weighted(_mean_distances(self.apart, x, r), cross, weights, self.weights)
        return 2 * across - _weighted(_mean_distances(self.apart, x, x), within, weights, weights)


def pair_energy(captions: Asked, x: Points, r: Points) -> np.ndarray:
    """`2 E|u - v| - E|u - u'| - E|v - v'|` of the pairs (caption, sample) u and (caption, real picture) v: (W,).

    All three means are over *different* captions, as the third would need two real pictures of one. The expectation is
    0 for a perfect model. NaN where the weights leave no two captions.

    Source: DeVries et al. 2019, arXiv:1907.08175; Székely and Rizzo 2013, Energy statistics
    """
    return captions.sample_terms(x, r, captions.asked, captions.weights) - captions.real_term(r)


def shuffled_energy(captions: Asked, x: Points, r: Points, seed: int = 0) -> np.ndarray:
    """`pair_energy` of samples dealt to captions of other families, averaged over shuffles: (W,).

    A dealt picture's weight is that of its own caption times that of the one it is dealt to; 0 where too little is left
    to shuffle. x may be r, asked then families.
    """
    rng, energies = np.random.default_rng(seed), []
    for _ in range(SHUFFLES):
        order = rng.permutation(len(r))
        dealt = np.empty(len(r), dtype=int)
        dealt[order] = np.roll(order, int(rng.integers(1, len(r))))
        asked = captions.asked[dealt]
        weights = captions.weights * captions.weights[:, dealt] * (asked != captions.families)
        energies.append(captions.sample_terms([x[i] for i in dealt], r, asked, weights))
    energy = np.array(energies) - captions.real_term(r)
    return np.nansum(energy, axis=0) / np.maximum(np.isfinite(energy).sum(axis=0), 1)


def independent(families: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks (C, C) of pairs drawn neither for nor after each other: sample and real, two samples, two real pictures."""
    real = families[:, None] != families[None, :]
    cross = real & (asked[:, None] != families[None, :])
    return cross, cross & cross.T & (asked[:, None] != asked[None, :]), real


def _weighted(values: np.ndarray, usable: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Means of values (C, C) over usable pairs, with weights (W, C) of rows and of columns: (W,), NaN without any."""
    total, weight = (((rows @ part) * columns).sum(axis=1) for part in (values * usable, usable.astype(float)))
    return np.divide(total, weight, out=np.full(len(rows), np.nan), where=weight > 0)


def _mean_distances(apart: np.ndarray, a: Points, b: Points) -> np.ndarray:
    """Mean over pictures of the distance between pairs, (C, C), from squared distances of captions (C, C)."""
    points, sizes = np.concatenate(b), [len(group) for group in b]
    starts = np.r_[0, np.cumsum(sizes)[:-1]]
    blocks = []
    for first in range(0, len(a), BLOCK):
        own = a[first : first + BLOCK]
        counts = [len(group) for group in own]
        squared = np.repeat(np.repeat(apart[first : first + BLOCK], counts, axis=0), sizes, axis=1)
        distance = np.sqrt(squared + cdist(np.concatenate(own), points, "sqeuclidean"))
        rows = np.add.reduceat(distance, np.r_[0, np.cumsum(counts)[:-1]], axis=0) / np.array(counts)[:, None]
        blocks.append(np.add.reduceat(rows, starts, axis=1) / sizes)
    return np.concatenate(blocks)


def redrawn_weights(families: np.ndarray, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Weights of captions, families equal: first as they are, then with families redrawn, (1 + draws, C)."""
    _, row, counts = np.unique(families, return_inverse=True, return_counts=True)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=draws)
    return np.concatenate([np.ones((1, len(counts))), times])[:, row] / counts[row]


def joint_interval(own: np.ndarray, dealt: np.ndarray, shuffled: np.ndarray) -> Interval:
    """How much nearer a method's pairs come to the real ones than its pictures with captions shuffled do.

    Most of the energy distance of two joint distributions is due to the pictures alone; subtracting what the same
    pictures cost with captions shuffled leaves what the captions do: 1 is real pairs, 0 captions ignored, below 0
    misread. Blur and repetition are not seen. The 95% interval is too wide rather than too narrow.

    All are (1 + draws,), first as measured, then redrawn: `own` is the `pair_energy` of a method, `dealt` its
    `shuffled_energy`, `shuffled` that of real pictures, of which those not positive are left out with their pairs.
    UserError if shuffled captions cannot be told from right ones in 97.5% of the draws, as mostly below 90 captions.
    """
    if shuffled[0] <= 0 or np.quantile(shuffled, ENDS[0]) <= 0:
        raise UserError(
            "on so few captions even real pictures with shuffled captions cannot be told from right ones; hold out more"
        )
    use = (shuffled > 0) & np.isfinite(own)
    skill = (dealt[use] - own[use]) / shuffled[use]
    low, high = np.quantile(skill[1:], ENDS)
    return Interval(float(skill[0]), float(low), float(high))
