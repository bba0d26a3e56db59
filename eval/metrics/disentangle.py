"""Disentanglement: does one latent dimension stand for one factor? Known factors, arrays in, numbers out.

Codes are (N, D), factors value numbers (N, F) int. All three measures are *per dimension*: they change when the space
is rotated, though nothing is lost, and a low one does not say that the factors are absent (`DCI.linear` does). All
raise ValueError for shapes that disagree, codes that are not finite, and factors with one value only.
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
    score: float  # Mean of `gap`
    gap: np.ndarray  # How far each of F factors' best dimension is ahead of the second, (F,) in [0, 1]
    best: np.ndarray  # Which dimension is best, (F,)
    matrix: np.ndarray  # What was compared, (D, F)

    @classmethod
    def of(cls, matrix: np.ndarray) -> "Gaps":
        second, first = np.sort(matrix, axis=0)[-2:]
        return cls(float((first - second).mean()), first - second, matrix.argmax(axis=0), matrix)


@dataclass(frozen=True)
class DCI:
    """Disentanglement, completeness and informativeness, each in [0, 1] but for noise in the last two."""

    disentanglement: float  # Does a dimension tell of one factor only? Dimensions weighted by what they tell
    completeness: float  # Does one dimension only tell of a factor?
    informativeness: float  # Balanced accuracy of the forest on held-out rows; 0 is chance, 1 without fault
    linear: float  # The same of a linear classifier, which no rotation of the codes can hurt
    importance: np.ndarray  # Of each dimension for each factor, (D, F), columns summing to 1


def mutual_information(codes: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Mutual information of dimensions, cut into 20 bins, and factors as a share of the factor's entropy: (D, F)."""
    codes = _checked(codes, factors)
    cut = [np.digitize(c, np.histogram_bin_edges(c, BINS)[1:-1]) for c in codes.T]
    shares = [[mutual_info_score(v, c) for v in factors.T] for c in cut]
    return np.clip(np.array(shares) / np.array([mutual_info_score(v, v) for v in factors.T]), 0, 1)


def mig(codes: np.ndarray, factors: np.ndarray) -> Gaps:
    """Mutual information gap: 1 where each factor is all in one dimension, 0 where two share it alike.

    Source: Chen et al. 2018, arXiv:1802.04942; equal-width bins as in Locatello et al. 2019, arXiv:1811.12359
    """
    return Gaps.of(mutual_information(codes, factors))


def sap(codes: np.ndarray, factors: np.ndarray, seed: int = 0) -> Gaps:
    """Separated attribute predictability: the gap in held-out balanced accuracy of thresholds on one dimension.

    As many intervals as a factor has values are fitted to one half of the rows and scored on the other, see `halves`.

    Source: Kumar et al. 2018, Variational inference of disentangled latent concepts, arXiv:1711.00848
    """
    codes = _checked(codes, factors)
    scores = np.zeros((codes.shape[1], factors.shape[1]))
    for k, v in enumerate(factors.T):
        fit, held_out = halves(v, seed)
        tree = DecisionTreeClassifier(max_leaf_nodes=len(np.unique(v)), class_weight="balanced", random_state=seed)
        for j, c in enumerate(codes.T[:, :, None]):
            scores[j, k] = balanced_accuracy_score(v[held_out], tree.fit(c[fit], v[fit]).predict(c[held_out]))
    return Gaps.of(scores)


def dci(codes: np.ndarray, factors: np.ndarray, seed: int = 0) -> DCI:
    """Disentanglement, completeness and informativeness by the importances of a random forest a factor.

    F is at least 2; `seed` is of the forests and of the `halves` of the rows, of which one trains and the other scores.

    Source: Eastwood and Williams 2018, ICLR; classifiers for regressors as in Locatello et al. 2019, arXiv:1811.12359
    """
    codes = _checked(codes, factors)
    if factors.shape[1] < 2:
        raise ValueError("factors: disentanglement needs two of them or more, got 1")
    columns, accuracies = [], []
    for v in factors.T:
        fit, held_out = halves(v, seed)
        # Every dimension is offered at every split: else dimensions that tell nothing get their turn too.
        forest = RandomForestClassifier(TREES, max_features=None, class_weight="balanced", random_state=seed)
        forest.fit(codes[fit], v[fit])
        columns.append(forest.feature_importances_)
        answers = forest.predict(codes[held_out]), linear_probe(codes[fit], v[fit], codes[held_out])
        accuracies.append([balanced_accuracy_score(v[held_out], each, adjusted=True) for each in answers])
    importance = np.stack(columns, axis=1)
    informativeness, linear = (float(np.mean(each)) for each in zip(*accuracies, strict=True))
    return DCI(*_concentration(importance), informativeness, linear, importance)


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


def active_units(codes: np.ndarray, least: float = 0.01) -> int:
    """Dimensions of posterior means (N, D) that depend on the picture at all (Burda et al. 2016, arXiv:1509.00519)."""
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
    if (least := counts.min()) < LEAST:
        rarest = names[counts.argmin()]
        raise ValueError(f"factors: value {rarest} occurs {least} times, a held-out score needs {LEAST}")
    fit, held_out = next(StratifiedShuffleSplit(1, test_size=0.5, random_state=seed).split(values[:, None], values))
    return fit, held_out


def _checked(codes: np.ndarray, factors: np.ndarray) -> np.ndarray:
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors) or codes.shape[1] < 2:
        raise ValueError(f"codes, factors: expected (N, D >= 2) and (N, F), got {codes.shape} and {factors.shape}")
    if factors.shape[1] < 1 or not np.issubdtype(factors.dtype, np.integer):
        raise ValueError(f"factors: expected one or more columns of integers, got {factors.shape} of {factors.dtype}")
    if not np.isfinite(codes).all():
        raise ValueError("codes: expected finite numbers; leave out rows with others")
    if constant := [k for k, v in enumerate(factors.T) if len(np.unique(v)) < 2]:
        raise ValueError(f"factors: column {constant[0]} has one value only; leave it out")
    return codes.astype(np.float64)


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
