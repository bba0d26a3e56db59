"""Disentanglement: does one latent dimension stand for one factor? Known factors, arrays in, numbers out.

Codes are (N, D), factors value numbers (N, F) int. All three measures are *per dimension*: they change when the space
is rotated, though nothing is lost. A high value says that the axes mean something; a low one does not say that the
factors are absent (`DCI.linear` does). All refuse, with ValueError, shapes that disagree, codes that are not finite,
and factors with one value only.
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

from eval.metrics.bootstrap import family_means

BINS, TREES, LEAST = 20, 20, 4


@dataclass(frozen=True)
class Gaps:
    """How far each factor's best dimension is ahead of the second."""

    score: float  # Mean of `gap`
    gap: np.ndarray  # Of each of F factors, (F,) in [0, 1]
    best: np.ndarray  # Which dimension is best, (F,)
    matrix: np.ndarray  # What was compared, (D, F)


@dataclass(frozen=True)
class DCI:
    """Disentanglement, completeness and informativeness, each in [0, 1] but for noise in the last two."""

    disentanglement: float  # Does a dimension tell of one factor only? Dimensions weighted by what they tell
    completeness: float  # Does one dimension only tell of a factor?
    informativeness: float  # Balanced accuracy of the forest on held-out rows; 0 is chance, 1 without fault
    linear: float  # The same of a linear classifier, which no rotation of the codes can hurt
    importance: np.ndarray  # Of each dimension for each factor, (D, F), columns summing to 1


def mutual_information(codes: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Mutual information of dimensions, cut into 20 bins, and factors as a share of the factor's entropy: (D, F).

    Too high by about 19 (values - 1) / (2 N) nats.
    """
    codes, factors = _checked(codes, factors)
    cut = [np.digitize(c, np.histogram_bin_edges(c, BINS)[1:-1]) for c in codes.T]
    shares = [[mutual_info_score(v, c) for v in factors.T] for c in cut]
    own = [mutual_info_score(v, v) for v in factors.T]
    return np.clip(np.array(shares) / np.array(own), 0, 1)


def mig(codes: np.ndarray, factors: np.ndarray) -> Gaps:
    """Mutual information gap: 1 where each factor is all in one dimension, 0 where two share it alike.

    Source: Chen et al. 2018, Isolating sources of disentanglement, arXiv:1802.04942; equal-width bins as in
        Locatello et al. 2019, arXiv:1811.12359

    >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]] * 5)
    >>> mig(factors[:, ::-1] * 3.0, factors).score
    1.0
    """
    return _gaps(mutual_information(codes, factors))


def sap(codes: np.ndarray, factors: np.ndarray, seed: int = 0) -> Gaps:
    """Separated attribute predictability: the gap in held-out balanced accuracy of thresholds on one dimension.

    As many intervals as the factor has values, each at least four times, are fitted to one half of the rows, drawn by
    `seed`, and scored on the other. Accuracy 1 against chance makes a gap of 1 - 1 / values.

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


def dci(codes: np.ndarray, factors: np.ndarray, seed: int = 0) -> DCI:
    """Disentanglement, completeness and informativeness by the importances of a random forest a factor.

    F is at least 2, and every value occurs at least four times; `seed` is of the forests and of the halves, of which
    one trains and the other scores.

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
        forest = RandomForestClassifier(TREES, max_features=None, class_weight="balanced", random_state=seed)
        forest.fit(codes[fit], v[fit])
        columns.append(forest.feature_importances_)
        accuracies.append(adjusted_accuracy(v[held_out], forest.predict(codes[held_out])))
        linear.append(adjusted_accuracy(v[held_out], linear_probe(codes[fit], v[fit], codes[held_out])))
    importance = np.stack(columns, axis=1)
    return DCI(*_concentration(importance), float(np.mean(accuracies)), float(np.mean(linear)), importance)


def linear_probe(codes: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Values (M,) of codes `asked` (M, D) by a linear discriminant with shrunk covariance, all values equally likely.

    It is fitted to codes (N, D) and values (N,); a single value is the answer to everything.

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
    """Share of each dimension's variance (N, D) that lies between the values (N,) of a factor: (D,)."""
    counts = np.unique(values, return_counts=True)[1]
    between = counts @ (family_means(codes, values) - codes.mean(axis=0)) ** 2
    total = codes.var(axis=0) * len(codes)
    return np.divide(between, total, out=np.zeros_like(total), where=total > 0)


def halves(values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two random halves, every value of (N,) on both sides; ValueError if one occurs less than four times."""
    names, counts = np.unique(values, return_counts=True)
    if counts.min() < LEAST:
        raise ValueError(
            f"factors: value {names[counts.argmin()]} occurs {counts.min()} times, a held-out score needs {LEAST}"
        )
    fit, held_out = next(StratifiedShuffleSplit(1, test_size=0.5, random_state=seed).split(values[:, None], values))
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
