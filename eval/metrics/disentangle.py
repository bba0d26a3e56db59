"""Disentanglement: does one latent dimension stand for one factor? Known factors, arrays in, numbers out.

All three measures are *per dimension*: they change when the space is rotated, though nothing is lost by it. A
high value says that the axes mean something; a low one does not say that the factors are absent (`linear` does).
"""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.stats import entropy
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score, mutual_info_score
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.tree import DecisionTreeClassifier

BINS, TREES, LEAST = 20, 20, 4


@dataclass(frozen=True)
class Gaps:
    """How far each factor's best dimension is ahead of the second.

    Args:
        score: Mean of `gap`.
        gap: Of each of F factors, (F,) in [0, 1].
        best: Which dimension is best, (F,).
        matrix: What was compared, (D, F).
    """

    score: float
    gap: np.ndarray
    best: np.ndarray
    matrix: np.ndarray


@dataclass(frozen=True)
class DCI:
    """Disentanglement, completeness and informativeness, each in [0, 1] but for noise in the last two.

    Args:
        disentanglement: Does a dimension tell of one factor only? Dimensions weigh by what they tell.
        completeness: Is a factor told by one dimension only? Factors weigh equally.
        informativeness: Balanced accuracy of the forest on held-out rows; 0 is chance, 1 without fault.
        linear: The same of a linear classifier, which no rotation of the codes can hurt.
        importance: Of each dimension for each factor, (D, F), columns summing to 1.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    linear: float
    importance: np.ndarray


def mutual_information(codes: np.ndarray, factors: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Mutual information of every dimension and factor, as a share of the factor's entropy.

    Args:
        codes: (N, D); each dimension is cut into `bins` of equal width.
        factors: Value numbers, (N, F) int.
        bins: At least 2. The estimate is too high by about (bins - 1)(values - 1) / (2 N) nats.

    Returns:
        (D, F) in [0, 1].

    Raises:
        ValueError: Shapes disagree, a code is not finite, or a factor has one value only.
    """
    codes, factors = _checked(codes, factors)
    if bins < 2:
        raise ValueError(f"bins: expected 2 or more, got {bins}")
    cut = [np.digitize(c, np.histogram_bin_edges(c, bins)[1:-1]) for c in codes.T]
    shares = [[mutual_info_score(v, c) for v in factors.T] for c in cut]
    own = [mutual_info_score(v, v) for v in factors.T]
    return np.clip(np.array(shares) / np.array(own), 0, 1)


def mig(codes: np.ndarray, factors: np.ndarray, bins: int = BINS) -> Gaps:
    """Mutual information gap: 1 where each factor is all in one dimension, 0 where two share it alike.

    Args:
        codes: (N, D), D at least 2.
        factors: Value numbers, (N, F) int.
        bins: See `mutual_information`.

    Raises:
        ValueError: See `mutual_information`.

    Source: Chen et al. 2018, Isolating sources of disentanglement, arXiv:1802.04942; equal-width bins as in
        Locatello et al. 2019, arXiv:1811.12359

    >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]] * 5)
    >>> mig(factors[:, ::-1] * 3.0, factors).score
    1.0
    """
    return _gaps(mutual_information(codes, factors, bins))


def sap(codes: np.ndarray, factors: np.ndarray, seed: int = 0) -> Gaps:
    """Separated attribute predictability: the gap in held-out balanced accuracy of thresholds on one dimension.

    Values are told by as many intervals of the dimension as the factor has values, which is the paper's score
    for discrete factors. An accuracy of 1 against one at chance makes a gap of 1 - 1 / values, not of 1.

    Args:
        codes: (N, D), D at least 2.
        factors: Value numbers, (N, F) int, every value at least four times.
        seed: Halves the rows: thresholds are set on one half, scored on the other.

    Raises:
        ValueError: As `mutual_information`; or a value is too rare to be on both sides.

    Source: Kumar et al. 2018, Variational inference of disentangled latent concepts, arXiv:1711.00848
    """
    codes, factors = _checked(codes, factors)
    scores = np.zeros((codes.shape[1], factors.shape[1]))
    for k, v in enumerate(factors.T):
        fit, held_out = halves(v, seed)
        for j, c in enumerate(codes.T[:, :, None]):
            cuts = DecisionTreeClassifier(
                max_leaf_nodes=len(np.unique(v)), class_weight="balanced", random_state=seed
            ).fit(c[fit], v[fit])
            scores[j, k] = balanced_accuracy_score(v[held_out], cuts.predict(c[held_out]))
    return _gaps(scores)


def dci(codes: np.ndarray, factors: np.ndarray, seed: int = 0, trees: int = TREES) -> DCI:
    """Disentanglement, completeness and informativeness by the importances of a random forest a factor.

    Args:
        codes: (N, D), D at least 2.
        factors: Value numbers, (N, F) int, F at least 2, every value at least four times.
        seed: Of the forest, and of the halves: one trains, the other scores.
        trees: Of a forest.

    Raises:
        ValueError: As `sap`; or there is one factor only, which leaves nothing to confuse it with.

    Source: Eastwood and Williams 2018, A framework for the quantitative evaluation of disentangled
        representations, ICLR; classifiers for regressors as in Locatello et al. 2019, arXiv:1811.12359
    """
    codes, factors = _checked(codes, factors)
    if factors.shape[1] < 2:
        raise ValueError("factors: disentanglement needs two of them or more, got 1")
    columns, accuracies, linear = [], [], []
    for v in factors.T:
        fit, held_out = halves(v, seed)
        # Every dimension is offered at every split: else dimensions that tell nothing get their turn too.
        forest = RandomForestClassifier(trees, max_features=None, class_weight="balanced", random_state=seed)
        forest.fit(codes[fit], v[fit])
        columns.append(forest.feature_importances_)
        accuracies.append(adjusted_accuracy(v[held_out], forest.predict(codes[held_out])))
        linear.append(adjusted_accuracy(v[held_out], linear_probe(codes[fit], v[fit], codes[held_out])))
    importance = np.stack(columns, axis=1)
    return DCI(*_concentration(importance), float(np.mean(accuracies)), float(np.mean(linear)), importance)


def linear_probe(codes: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Values told by a linear discriminant with shrunk covariance, all values taken for equally likely.

    Args:
        codes: (N, D).
        values: (N,); a single one is told of everything.
        asked: (M, D).

    Returns:
        (M,).

    Source: Ledoit and Wolf 2004, A well-conditioned estimator for large-dimensional covariance matrices
    """
    count, varies = len(np.unique(values)), codes.std(axis=0) > 0
    if count < 2 or not varies.any():
        return np.full(len(asked), values[0])
    probe = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=np.full(count, 1 / count))
    with warnings.catch_warnings():
        # A value with one row has no covariance, and sklearn says so for each of them.
        warnings.filterwarnings("ignore", message="Only one sample available")
        answers: np.ndarray = probe.fit(codes[:, varies], values).predict(asked[:, varies])
    return answers


def adjusted_accuracy(values: np.ndarray, answers: np.ndarray) -> float:
    """Balanced accuracy (N,) against (N,) on a scale where chance is 0 and no mistake is 1.

    >>> adjusted_accuracy(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 0]))
    0.0
    """
    chance = 1 / len(np.unique(values))
    return float((balanced_accuracy_score(values, answers) - chance) / (1 - chance))


def active_units(codes: np.ndarray, least: float = 0.01) -> int:
    """Dimensions of posterior means (N, D), of variance about 1, that depend on the picture at all.

    Source: Burda et al. 2016, Importance weighted autoencoders, arXiv:1509.00519
    """
    return int((codes.var(axis=0) > least).sum())


def explained(codes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Share of each dimension's variance that lies between the values of a factor, (D,) in [0, 1].

    Args:
        codes: (N, D); a constant dimension has share 0.
        values: (N,).
    """
    _, row, counts = np.unique(values, return_inverse=True, return_counts=True)
    means = np.zeros((len(counts), codes.shape[1]))
    np.add.at(means, row, codes)
    centred = means / counts[:, None] - codes.mean(axis=0)
    total = codes.var(axis=0) * len(codes)
    between: np.ndarray = counts @ centred**2
    return np.divide(between, total, out=np.zeros_like(between), where=total > 0)


def halves(values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two random halves, every value of (N,) on both sides.

    Raises:
        ValueError: A value occurs fewer than four times.
    """
    names, counts = np.unique(values, return_counts=True)
    if counts.min() < LEAST:
        raise ValueError(
            f"factors: value {names[counts.argmin()]} occurs {counts.min()} times, a held-out score needs {LEAST}"
        )
    split = StratifiedShuffleSplit(1, test_size=0.5, random_state=seed)
    fit, held_out = next(split.split(values[:, None], values))
    return fit, held_out


def _checked(codes: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors) or codes.shape[1] < 2:
        raise ValueError(f"codes, factors: expected (N, D >= 2) and (N, F), got {codes.shape} and {factors.shape}")
    if factors.shape[1] < 1 or not np.issubdtype(factors.dtype, np.integer):
        raise ValueError(f"factors: expected one or more columns of integers, got {factors.shape} of {factors.dtype}")
    if not np.isfinite(codes).all():
        raise ValueError("codes: expected finite numbers; leave out rows with others")
    constant = [k for k, v in enumerate(factors.T) if len(np.unique(v)) < 2]
    if constant:
        raise ValueError(f"factors: column {constant[0]} has one value only; leave it out")
    return codes.astype(np.float64), factors


def _gaps(matrix: np.ndarray) -> Gaps:
    order = np.sort(matrix, axis=0)
    gap = order[-1] - order[-2]
    return Gaps(float(gap.mean()), gap, matrix.argmax(axis=0), matrix)


def _concentration(importance: np.ndarray) -> tuple[float, float]:
    """Disentanglement and completeness of importances (D, F); 0 for what no dimension tells."""
    dimensions, factors = importance.shape
    weight, used_factors = importance.sum(axis=1), importance.sum(axis=0) > 0
    if not used_factors.any():
        return 0.0, 0.0
    used = weight > 0
    alone = 1 - entropy(importance[used], base=factors, axis=1)
    whole = 1 - entropy(importance[:, used_factors], base=dimensions, axis=0)
    return float(alone @ weight[used] / weight.sum()), float(whole.sum() / factors)
