"""The judge's space, fitted on training pictures only: what a picture shows, in whose style, how real.

Late features are standardised, reduced by PCA and whitened by the covariance *within* captions (LDA), so that
distance means "another caption", not "another artist". Early features get the same with artists for classes.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from bridge.errors import UserError
from eval.features import Features
from eval.metrics.realism import RealismTest

LATE, EARLY, COMPONENTS, SHRINKAGE = 128, 96, 48, 0.05
PER_FAMILY = 8


@dataclass(frozen=True)
class Described:
    """What the judge says about B pictures.

    Args:
        shows: Where they lie in the space of captions, (B, D).
        style: Which training artist each looks like, (B,) names.
        realistic: Whether each passes the realism test, (B,) bool.
    """

    shows: np.ndarray
    style: np.ndarray
    realistic: np.ndarray

    def __len__(self) -> int:
        return len(self.shows)

    def __getitem__(self, index: np.ndarray) -> "Described":
        """The pictures at `index`, (B',)."""
        return Described(self.shows[index], self.style[index], self.realistic[index])

    @classmethod
    def cat(cls, parts: Sequence["Described"]) -> "Described":
        """All pictures of `parts`, in order."""
        rows = [(p.shows, p.style, p.realistic) for p in parts]
        return cls(*map(np.concatenate, zip(*rows, strict=True)))

    def split(self, sizes: Sequence[int]) -> list["Described"]:
        """The same, caption by caption: consecutive groups of the given sizes, which sum to B."""
        cuts = np.cumsum(sizes)[:-1]
        columns = [np.split(column, cuts) for column in (self.shows, self.style, self.realistic)]
        return [Described(*each) for each in zip(*columns, strict=True)]


@dataclass(frozen=True)
class JudgeSpace:
    """Where pictures are compared. Build it with `JudgeSpace.fit`.

    Args:
        late: Standardise, PCA, LDA between captions; fitted on training pictures.
        early: The same between artists.
        train: Training pictures in the space of captions, (N, D).
        realism: Tells whether pictures lie where real ones do.
    """

    late: Pipeline
    early: Pipeline
    train: np.ndarray
    realism: RealismTest

    @classmethod
    def fit(
        cls,
        train: Features,
        captions: Sequence[str] | np.ndarray,
        artists: Sequence[str] | np.ndarray,
        families: Sequence[int] | np.ndarray,
        held_out: Features,
    ) -> "JudgeSpace":
        """Fit on training pictures; calibrate realism on real pictures held out for validation.

        Args:
            train: Features of N training pictures.
            captions: Caption of each, (N,); some captions need pictures by two artists.
            artists: Artist of each, (N,), at least two different ones.
            families: Family of each caption, (N,).
            held_out: Features of the validation pictures, never of the test pictures.

        Raises:
            ValueError: Nothing was drawn twice, or by only one artist, or lengths differ.
        """
        captions, artists, families = np.asarray(captions), np.asarray(artists), np.asarray(families)
        if not len(train) == len(captions) == len(artists) == len(families):
            raise ValueError("train, captions, artists and families must be equally long")
        if len(np.unique(artists)) < 2:
            raise UserError("artists: a space of styles needs pictures by at least two artists")
        use = _balanced(captions, families)
        if len(np.unique(captions[use])) < 2:
            raise UserError("captions: the space needs two captions with two training pictures each")
        late = _discriminant(train.late, LATE, captions, use)
        early = _discriminant(train.early, EARLY, artists, np.ones(len(train), bool))
        known = late.transform(train.late.astype(np.float64))
        return cls(late, early, known, RealismTest.fit(known, late.transform(held_out.late.astype(np.float64))))

    def describe(self, features: Features) -> Described:
        """Everything the judge says about pictures with these features."""
        shows = self.late.transform(features.late.astype(np.float64))
        style = self.early.predict(features.early.astype(np.float64))
        return Described(shows, style, self.realism(shows))


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
