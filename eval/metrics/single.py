"""What can be said of a model when a caption has one picture.

What two real pictures of one caption differ by is not in such data, so nothing here is scaled to it. A caption's
own picture is one right answer of many: the figures say how often and how nearly a model finds that one.
"""

from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import cdist, pdist
from scipy.special import comb

from bridge.errors import UserError
from eval.metrics import fit
from eval.metrics.bootstrap import Interval
from eval.metrics.diversity import VALID

SHUFFLES, DRAWS = 32, 500
BLOCK = 64
"""Captions whose distances to all others are held at once."""


def chance_of(rivals: int) -> float:
    """Hit rate of pictures that know nothing of their caption, among so many rivals, all equal.

    The right caption then ranks anywhere with one probability; with few rivals this is above .10.

    >>> round(chance_of(1), 2), round(chance_of(29), 3), round(chance_of(100_000), 3)
    (0.5, 0.113, 0.1)
    """
    return float(fit.hit_probability(np.arange(rivals + 1) / rivals).mean())


def hits_of(
    samples: Sequence[np.ndarray],
    realistic: Sequence[np.ndarray],
    references: Sequence[np.ndarray],
    families: np.ndarray,
    rivals: fit.Rivals,
) -> list[np.ndarray]:
    """Hits: a picture is realistic, and its own caption's real one is among the 10 nearest of 100.

    A right picture that looks unlike the one the artist happened to draw is a miss, so a varied model scores
    lower than it deserves, and 1 is out of reach for all but copies of pictures nobody showed it. Averages of
    many pictures score higher than they deserve.

    Args:
        samples: Pictures of each caption, [(n, D)] * C.
        realistic: Whether each passes the realism test, [(n,)] * C.
        references: The caption's real pictures, [(k, D)] * C, k usually 1; their mean is the target.
        families: Family of each caption, (C,).
        rivals: All captions of the split; those of other families count.

    Returns:
        Probability of a hit for every sample, [(n,)] * C.

    Source: Xu et al. 2018, AttnGAN, arXiv:1711.10485 (R-precision), with pictures for captions
    """
    hits = []
    for x, real, r, family in zip(samples, realistic, references, families, strict=True):
        weights = fit.rival_weights(rivals.families, family)
        nearer = fit.share_nearer(x, r.mean(axis=0, keepdims=True), rivals.centroids, weights)
        hits.append(fit.hit_probability(nearer[:, 0]) * real)
    return hits


def valid_distance(style: np.ndarray, hits: np.ndarray, unit: float) -> float:
    """Mean distance of two of a caption's pictures, at most 1 a pair, and 0 unless both show the caption.

    So neither noise nor wrong pictures buy anything, and nothing is gained by being stranger than pictures of
    different captions. The mean runs over all pairs and does not depend on how many pictures there are.

    Args:
        style: How each is drawn, (n, E), n at least 2.
        hits: Probability of a hit of each, (n,).
        unit: Of distance: that of real pictures of different captions.

    Returns:
        A number in [0, 1].

    >>> valid_distance(np.array([[0.0], [1.5], [9.0]]), np.array([1.0, 1.0, 0.0]), unit=2)
    0.25
    """
    return float(np.minimum(pdist(style[hits >= VALID]) / unit, 1).sum() / comb(len(style), 2))


def distance_to_others(style: Sequence[np.ndarray], families: np.ndarray) -> np.ndarray:
    """Mean distance of every caption's real pictures [(k, E)] * C to those of other families: (C,)."""
    points, caption = np.concatenate(style), np.repeat(np.arange(len(style)), [len(s) for s in style])
    family = np.asarray(families)[caption]
    return np.array([cdist(s, points[family != own]).mean() for s, own in zip(style, families, strict=True)])


def energy_scores(samples: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> np.ndarray:
    """`E|x - r| - E|x - x'| / 2` of every caption, (C,): lower is better.

    Strictly proper, and one real picture a caption is enough: its expectation is half the energy distance to
    the pictures that artists would draw, plus a constant of the caption that is the same for every model.
    Differences between models mean something; the value alone does not, and 0 is out of reach.

    Args:
        samples: Points of a caption's pictures, [(n, D)] * C, n at least 2 independent draws.
        references: Of its real ones, [(k, D)] * C.

    Source: Gneiting and Raftery 2007, Strictly proper scoring rules, prediction, and estimation, section 4.3

    >>> energy_scores([np.array([[0.0], [2.0]])], [np.array([[1.0]])])
    array([0.])
    """
    each = zip(samples, references, strict=True)
    return np.array([float(cdist(x, r).mean() - pdist(x).mean() / 2) for x, r in each])


def pair_energy(
    text: np.ndarray,
    x: Sequence[np.ndarray],
    r: Sequence[np.ndarray],
    *,
    families: np.ndarray,
    asked: np.ndarray,
    weights: np.ndarray,
) -> np.ndarray:
    """`2 E|u - v| - E|u - u'| - E|v - v'|` of the pairs (caption, sample) u and (caption, real picture) v: (W,).

    All three means run over *different* captions. One caption is not paired with itself, for the third mean
    would need two real pictures of it. So the expectation is 0 for a perfect model, and whether a caption's own
    pictures differ among themselves is not seen.

    Args:
        text: Coordinates of the captions, (C, K).
        x: Of their samples, [(n, K)] * C.
        r: Of their real pictures, [(k, K)] * C.
        families: Family of each caption, (C,).
        asked: Family of the caption that its samples were drawn for, (C,): another one where they were shuffled.
        weights: Of captions, (W, C), of `redrawn_weights`.

    Returns:
        An energy distance for every row of weights; NaN where they leave no two captions.

    Source: DeVries et al. 2019, On the evaluation of conditional GANs, arXiv:1907.08175 (a distance between
        joint distributions); Székely and Rizzo 2013, Energy statistics
    """
    apart = cdist(text, text, "sqeuclidean")
    mine = _sample_terms(apart, x, r, families, asked, weights, weights)
    return mine - _real_term(apart, r, families, weights)


def shuffled_energy(
    text: np.ndarray,
    x: Sequence[np.ndarray],
    r: Sequence[np.ndarray],
    *,
    families: np.ndarray,
    asked: np.ndarray,
    weights: np.ndarray,
    seed: int = 0,
) -> np.ndarray:
    """`pair_energy` of samples dealt to captions of other families, averaged over shuffles: (W,).

    A dealt picture weighs what its own caption and the one it is dealt to weigh together, so that a redrawing
    redraws pictures and captions alike. Arguments are those of `pair_energy`; x may be r, asked then families.
    Where a redrawing leaves too little to shuffle, the result is 0.
    """
    apart = cdist(text, text, "sqeuclidean")
    real = _real_term(apart, r, families, weights)
    rng, total, count = np.random.default_rng(seed), np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(SHUFFLES):
        order = rng.permutation(len(r))
        dealt = np.empty(len(r), dtype=int)
        dealt[order] = np.roll(order, int(rng.integers(1, len(r))))
        given = weights * weights[:, dealt] * (asked[dealt] != families)
        energy = _sample_terms(apart, [x[i] for i in dealt], r, families, asked[dealt], given, weights) - real
        total += np.nan_to_num(energy)
        count += np.isfinite(energy)
    return total / np.maximum(count, 1)


def _sample_terms(
    apart: np.ndarray,
    x: Sequence[np.ndarray],
    r: Sequence[np.ndarray],
    families: np.ndarray,
    asked: np.ndarray,
    given: np.ndarray,
    weights: np.ndarray,
) -> np.ndarray:
    """`2 E|u - v| - E|u - u'|` with weights (W, C) of captions with samples and of captions with real pictures."""
    cross, within, _ = independent(families, asked)
    across = _weighted(_mean_distances(apart, x, r), cross, given, weights)
    return 2 * across - _weighted(_mean_distances(apart, x, x), within, given, given)


def _real_term(apart: np.ndarray, r: Sequence[np.ndarray], families: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _weighted(_mean_distances(apart, r, r), independent(families, families)[2], weights, weights)


def independent(families: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of captions, (C, C) bool, of which nothing that is compared was drawn for, or after, the other.

    Args:
        families: Family of each caption, (C,).
        asked: Family of the caption that its samples were drawn for, (C,).

    Returns:
        Masks for samples against real pictures, samples against samples, real against real pictures.

    >>> [int(mask.sum()) for mask in independent(np.array([0, 1, 2]), np.array([1, 0, 2]))]
    [4, 4, 6]
    """
    real = families[:, None] != families[None, :]
    cross = real & (asked[:, None] != families[None, :])
    return cross, cross & cross.T & (asked[:, None] != asked[None, :]), real


def _weighted(values: np.ndarray, usable: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Means of values (C, C) over usable pairs, with weights (W, C) of rows and of columns: (W,), NaN without any."""
    mask = usable.astype(float)
    total, weight = (((rows @ part) * columns).sum(axis=1) for part in (values * mask, mask))
    return np.divide(total, weight, out=np.full(len(rows), np.nan), where=weight > 0)


def _mean_distances(apart: np.ndarray, a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> np.ndarray:
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


def joint_interval(own: np.ndarray, dealt: np.ndarray, shuffled: np.ndarray, level: float = 0.95) -> Interval:
    """How much nearer a method's pairs come to the real ones than its pictures with captions shuffled do.

    Most of the energy distance of two joint distributions is due to the pictures alone: a codec's blur costs more
    than shuffled captions do. Subtracting what the same pictures cost with captions shuffled leaves what the
    captions do: 1 is real pairs, 0 captions ignored, below 0 captions misread, and above 1 captions followed more
    closely than the artist does. What the pictures alone are like is told by `quality.kid`; blur and repetition
    are not seen here. The interval is too wide rather than too narrow: redrawing captions twice over makes pairs
    of one and the same, which say nothing, and leaves fewer.

    Args:
        own: `pair_energy` of a method, first as measured, then redrawn, (1 + draws,).
        dealt: Its `shuffled_energy`.
        shuffled: The same of real pictures; redrawn ones that are not positive are left out with their pairs.
        level: Coverage.

    Raises:
        ValueError: Shuffled captions cannot be told from right ones in 97.5% of the draws. With MiniLM and
            EfficientNet-Lite0 on single emoji, 8 of 8 draws of 90 captions passed, 3 of 60, and none of 30.
    """
    if shuffled[0] <= 0 or np.quantile(shuffled, (1 - level) / 2) <= 0:
        raise UserError(
            "on so few captions even real pictures with shuffled captions cannot be told from right ones; hold out more"
        )
    use = (shuffled > 0) & np.isfinite(own)
    skill = (dealt[use] - own[use]) / shuffled[use]
    low, high = np.quantile(skill[1:], [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(skill[0]), float(low), float(high))
