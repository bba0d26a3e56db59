"""The judge's space, fitted on training pictures only: what a picture shows, in whose style, how real.

Late features are standardised, reduced by PCA and whitened by the covariance *within* captions (LDA), so that distance
means "another caption", not "another artist". Early features get the same with artists for classes.

Data with one picture a caption cannot tell captions from artists: the axes of their space (`JudgeSpace.singly`) are
those of largest variance, and every figure built on them is weaker.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from bridge.errors import UserError
from eval.data import LEAST
from eval.features import Columns, Features
from eval.metrics.realism import RealismTest

LATE, EARLY, COMPONENTS, SHRINKAGE = 128, 96, 48, 0.05
PER_FAMILY = 8
CLIP = 5.0
SHARED = 4  # Axes of captions and of pictures that `PairSpace` keeps


@dataclass(frozen=True)
class Described(Columns):
    """What the judge says about B pictures."""

    shows: np.ndarray  # Where they lie in the space of captions, (B, D)
    style: np.ndarray  # The training artist each looks like, (B,) names; singly its early point, (B, E)
    realistic: np.ndarray  # Whether each passes the realism test, (B,) bool


@dataclass(frozen=True)
class JudgeSpace:
    """Where pictures are compared. Build it with `JudgeSpace.fit`, or `JudgeSpace.singly`."""

    late: Pipeline  # Standardise, PCA, LDA between captions; fitted on training pictures
    style: Callable[[np.ndarray], np.ndarray]  # The same between artists: early features to `Described.style`
    train: np.ndarray  # Training pictures in the space of captions, (N, D)
    realism: RealismTest  # Tells whether pictures lie where real ones do

    @classmethod
    def fit(
        cls,
        train: Features,
        captions: np.ndarray,
        artists: np.ndarray,
        families: np.ndarray,
        held_out: Features,
    ) -> "JudgeSpace":
        """Fit on N training pictures; calibrate realism on validation pictures, never on test pictures.

        Captions, artists and families are those of the training pictures, (N,): at least two artists, and two captions
        drawn twice.
        """
        if len(np.unique(artists)) < 2:
            raise UserError("artists: a space of styles needs pictures by at least two artists")
        use = _balanced(captions, families)
        if len(np.unique(captions[use])) < 2:
            raise UserError("captions: the space needs two captions with two training pictures each")
        late = _discriminant(train.late, LATE, captions, use)
        early = _discriminant(train.early, EARLY, artists, np.ones(len(train), bool))
        return cls._calibrated(late, early.predict, train, held_out)

    @classmethod
    def singly(cls, train: Features, held_out: Features | None) -> "JudgeSpace":
        """Fit axes of largest variance on training pictures, at least LEAST; calibrate realism on held-out real ones.

        Without these, on each training picture, left out in turn, which makes real pictures look nearer than they are
        (the axes were fitted on them).
        """
        if len(train) < LEAST:
            raise UserError(f"train: {len(train)} training pictures; judging takes at least {LEAST}")
        return cls._calibrated(_reduce(train.late), _reduce(train.early).transform, train, held_out)

    @classmethod
    def _calibrated(
        cls, late: Pipeline, style: Callable[[np.ndarray], np.ndarray], train: Features, held_out: Features | None
    ) -> "JudgeSpace":
        known = late.transform(train.late.astype(np.float64))
        outside = None if held_out is None else late.transform(held_out.late.astype(np.float64))
        return cls(late, style, known, RealismTest.fit(known, outside))

    def describe(self, features: Features) -> Described:
        """Everything the judge says about pictures with these features."""
        shows = self.late.transform(features.late.astype(np.float64))
        return Described(shows, self.style(features.early.astype(np.float64)), self.realism(shows))


def _balanced(captions: np.ndarray, families: np.ndarray) -> np.ndarray:
    """Pictures that shape the space: captions drawn at least twice, a few captions a family. (N,) bool.

    Uncapped, the hundreds of skin tones of a few persons would own the covariance within captions.
    """
    names, first, row, counts = np.unique(captions, return_index=True, return_inverse=True, return_counts=True)
    chosen = np.zeros(len(names), bool)
    for family in np.unique(families[first]):
        drawn_twice = np.flatnonzero((families[first] == family) & (counts >= 2))
        chosen[np.random.default_rng(0).permutation(drawn_twice)[:PER_FAMILY]] = True
    return chosen[row]


def _discriminant(x: np.ndarray, keep: int, classes: np.ndarray, use: np.ndarray) -> Pipeline:
    """Standardise, PCA to `keep`, LDA between classes (N,); `use` (N,) masks what shapes the LDA."""
    x = x.astype(np.float64)
    keep = min(keep, x.shape[1], len(x) - 1)
    reduce = make_pipeline(StandardScaler(), PCA(keep, svd_solver="covariance_eigh")).fit(x)
    count = len(np.unique(classes[use]))
    lda = LinearDiscriminantAnalysis(solver="eigen", shrinkage=SHRINKAGE, n_components=min(COMPONENTS, keep, count - 1))
    with warnings.catch_warnings():
        # A class with one picture has no covariance, and sklearn says so for each of them.
        warnings.filterwarnings("ignore", message="Only one sample available")
        lda.fit(reduce.transform(x[use]), classes[use])
    return make_pipeline(reduce, lda)


def _reduce(x: np.ndarray) -> Pipeline:
    """Standardise, clip at 5 deviations and keep the 48 axes of largest variance, fewer where there are fewer.

    Among a few hundred pictures some channels of a network hardly vary; unclipped, one of them could put a picture
    unlike the training pictures a hundred deviations away and own every mean it enters.
    """
    x = x.astype(np.float64)
    if not (x.std(axis=0) > 0).any():
        raise UserError("train: all training pictures look the same to the judge")
    clip = FunctionTransformer(np.clip, kw_args={"a_min": -CLIP, "a_max": CLIP})
    axes = PCA(min(COMPONENTS, x.shape[1], len(x) - 1), svd_solver="full")
    return make_pipeline(StandardScaler(), clip, axes).fit(x)


@dataclass(frozen=True)
class PairSpace:
    """Where pairs of a caption and a picture are compared: the axes on which training pairs go together most.

    On axes of largest variance two random captions are about equally far from any other two, and the energy distance
    hardly tells right captions from shuffled ones. The axes depend on the text encoder: compare only models with the
    same one.

    Source: Sampson et al. 1989, Neurobehavioral effects of prenatal alcohol, part II (partial least squares by
        singular value decomposition); DeVries et al. 2019, On the evaluation of conditional GANs,
        arXiv:1907.08175, for equal weights of caption and picture
    """

    text_mean: np.ndarray  # Of the training codes, (T,)
    text_axes: np.ndarray  # Codes to coordinates of unit variance over training pairs, (T, K)
    picture_mean: np.ndarray  # Of the training points, (D,)
    picture_axes: np.ndarray  # The same for pictures, (D, K)

    @classmethod
    def fit(cls, codes: np.ndarray, points: np.ndarray) -> "PairSpace":
        """Fit on N training pairs: codes (N, T) and points of `JudgeSpace.singly` (N, D), which vary together."""
        c, x = codes.astype(np.float64), points.astype(np.float64)
        c_mean, x_mean = c.mean(axis=0), x.mean(axis=0)
        u, strength, v = np.linalg.svd((c - c_mean).T @ (x - x_mean) / len(c), full_matrices=False)
        keep = int((strength[:SHARED] > 1e-9 * max(strength[0], 1e-300)).sum()) if strength[0] > 0 else 0
        if keep == 0:
            raise UserError("codes, points: training captions and pictures do not vary together")
        u, v = u[:, :keep], v[:keep].T
        return cls(c_mean, u / ((c - c_mean) @ u).std(axis=0), x_mean, v / ((x - x_mean) @ v).std(axis=0))

    def text(self, codes: np.ndarray) -> np.ndarray:
        """Coordinates (B, K) of text codes (B, T)."""
        return (codes - self.text_mean) @ self.text_axes

    def pictures(self, points: np.ndarray) -> np.ndarray:
        """Coordinates (B, K) of points (B, D)."""
        return (points - self.picture_mean) @ self.picture_axes
