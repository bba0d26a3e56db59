"""The judge: extractor, space and copy test fitted to one dataset; what it sees in pictures, a few captions at a time.

Late features are standardised, reduced by PCA and whitened by the covariance *within* captions (LDA), so that distance
means "another caption", not "another artist". Early features get the same with artists for classes.

Data with one picture a caption cannot tell captions from artists: the axes of their space (`JudgeSpace.singly`) are
those of largest variance, and every figure built on them is weaker.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import Tensor

from bridge.errors import UserError
from eval.data import LEAST, Pictures
from eval.features import Columns, Extractor, Features, check_pictures
from eval.metrics.nearest import RealismTest
from eval.metrics.quality import gradient_energy
from train.copies import CopyTest, thumbnails

Say = Callable[[str], None]
Rows = TypeVar("Rows", Sequence[str], np.ndarray)
Generate = Callable[[Sequence[str], int], Tensor]
"""Captions and n to pictures (captions, n, 3, H, W) in [0, 1], independent draws that depend on no other caption."""

LATE, EARLY, COMPONENTS, SHRINKAGE = 128, 96, 48, 0.05
PER_FAMILY = 8
CLIP = 5.0
BLOCK = 32  # Captions whose pictures are held at once


@dataclass(frozen=True)
class Described(Columns):
    """Where B pictures lie."""

    shows: np.ndarray  # In the space of captions, (B, D)
    style: np.ndarray  # The training artist each looks like, (B,) names; singly its early point, (B, E)
    realistic: np.ndarray  # Whether each passes the realism test, (B,) bool


@dataclass(frozen=True)
class Seen(Described):
    """What the judge notes of B pictures before they are compared with anything, so that they need not be kept."""

    copied: np.ndarray  # Whether each repeats a training picture, (B,) bool
    late: np.ndarray  # Late features, (B, F)
    gradient: np.ndarray  # Gradient energy, (B,)


@dataclass(frozen=True)
class JudgeSpace:
    """Where pictures are compared. Build it with `JudgeSpace.fit`, or `JudgeSpace.singly`."""

    late: Pipeline  # Standardise, PCA, LDA between captions; fitted on training pictures
    style: Callable[[np.ndarray], np.ndarray]  # The same between artists: early features to `Described.style`
    train: np.ndarray  # Training pictures in the space of captions, (N, D)
    realism: RealismTest  # Tells whether pictures lie where real ones do

    @classmethod
    def fit(
        cls, train: Features, captions: np.ndarray, artists: np.ndarray, families: np.ndarray, held_out: Features
    ) -> "JudgeSpace":
        """Fit to N training pictures with columns (N,); UserError without two artists, or two captions drawn twice."""
        if len(np.unique(artists)) < 2:
            raise UserError("artists: a space of styles needs pictures by at least two artists")
        use = _balanced(captions, families)
        if len(np.unique(captions[use])) < 2:
            raise UserError("captions: the space needs two captions with two training pictures each")
        early = _discriminant(train.early, EARLY, artists, np.ones(len(train), bool))
        return cls._calibrated(_discriminant(train.late, LATE, captions, use), early.predict, train, held_out)

    @classmethod
    def singly(cls, train: Features, held_out: Features | None) -> "JudgeSpace":
        """Fit axes of largest variance to LEAST pictures or more; realism to held-out ones, or to each left out."""
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
        shows = self.late.transform(features.late.astype(np.float64))
        return Described(shows, self.style(features.early.astype(np.float64)), self.realism(shows))


def _balanced(captions: np.ndarray, families: np.ndarray) -> np.ndarray:
    """Pictures that shape the space, (N,) bool: captions drawn at least twice, a few captions a family."""
    names, first, row, counts = np.unique(captions, return_index=True, return_inverse=True, return_counts=True)
    chosen = np.zeros(len(names), bool)
    for family in np.unique(families[first]):
        drawn_twice = np.flatnonzero((families[first] == family) & (counts >= 2))
        # Uncapped, the hundreds of skin tones of a few persons would own the covariance within captions.
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

    Unclipped, a channel that hardly varies could put a picture a hundred deviations away and own every mean it enters.
    """
    x = x.astype(np.float64)
    if not (x.std(axis=0) > 0).any():
        raise UserError("train: all training pictures look the same to the judge")
    clip = FunctionTransformer(np.clip, kw_args={"a_min": -CLIP, "a_max": CLIP})
    axes = PCA(min(COMPONENTS, x.shape[1], len(x) - 1), svd_solver="full")
    return make_pipeline(StandardScaler(), clip, axes).fit(x)


@dataclass(frozen=True)
class Judge:
    """Everything that is known of the real pictures. Build it with `Judge.load` or `Judge.fit`."""

    extractor: Extractor  # Describes pictures
    pictures: Pictures  # The dataset
    features: Features  # Features of all its N pictures
    space: JudgeSpace  # Fitted on its training pictures
    copy_test: CopyTest  # The same
    train: np.ndarray  # Rows of its training pictures, in the order of `space.train` and `copy_test.train`
    singly: str | None = None  # Why captions are judged by one picture each; None where several artists drew them

    @classmethod
    def load(
        cls, data: str | Path | Pictures, extractor: Extractor, say: Say = lambda _: None, singly: str | None = None
    ) -> "Judge":
        """Fit to a dataset, or the folder of one, whose features are kept in a hidden folder inside it; see `fit`."""
        pictures = data if isinstance(data, Pictures) else Pictures.load(data)
        say(f"judge: features of the dataset by {extractor.id} (cached after the first time)")
        return cls.fit(extractor, pictures, pictures.features(extractor), singly)

    @classmethod
    def fit(cls, extractor: Extractor, pictures: Pictures, features: Features, singly: str | None = None) -> "Judge":
        """Fit to split 'train', calibrate on 'validation' or, `singly` and without it, on each picture left out."""
        train = pictures.where("train")

        def thumbnails_of(rows: np.ndarray) -> np.ndarray:
            return np.concatenate([thumbnails(x.numpy()) for x in pictures.blocks(rows)])

        held_out = pictures.where("validation") if singly is None or "validation" in pictures.split else None
        outside = None if held_out is None else features[held_out]
        if singly is not None or outside is None:
            space = JudgeSpace.singly(features[train], outside)
        else:
            columns = (pictures.label[train], pictures.artist[train], pictures.family[train])
            space = JudgeSpace.fit(features[train], *columns, outside)
        copy_test = CopyTest.fit(thumbnails_of(train), None if held_out is None else thumbnails_of(held_out))
        return cls(extractor, pictures, features, space, copy_test, train, singly)

    def describe_rows(self, rows: Sequence[np.ndarray]) -> list[Described]:
        return self.space.describe(self.features[np.concatenate(rows)]).split([len(r) for r in rows])

    def look(self, x: Tensor) -> Seen:
        """What there is to note of pictures x (B, 3, H, W) in [0, 1]."""
        return self._seen(self.extractor.encode(x), [x])

    def look_at(self, rows: np.ndarray) -> Seen:
        """The same of rows (R,) of the dataset, from its features."""
        return self._seen(self.features[rows], self.pictures.blocks(rows))

    def _seen(self, features: Features, blocks: Iterable[Tensor]) -> Seen:
        pairs = [(self.copies(x)[0], gradient_energy(x.numpy())) for x in blocks]
        copied, gradient = (np.concatenate(column) for column in zip(*pairs, strict=True))
        where = self.space.describe(features)
        return Seen(where.shows, where.style, where.realistic, copied, features.late, gradient)

    def copies(self, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Whether pictures x (B, 3, H, W) are copies, (B,) bool, and the nearest row of the dataset, (B,)."""
        copied, nearest = self.copy_test(thumbnails(x.numpy()))
        return copied, self.train[nearest]


def in_blocks(rows: Rows) -> Iterator[Rows]:
    for start in range(0, len(rows), BLOCK):
        yield rows[start : start + BLOCK]


def drawn(name: str, generate: Generate, captions: Sequence[str], n: int) -> Iterator[Tensor]:
    """A model's pictures, (B, n, 3, H, W), block of captions by block; ValueError if they are not as promised."""
    for some in in_blocks(captions):
        x = generate(some, n)
        if x.ndim != 5 or x.shape[:2] != (len(some), n):
            raise ValueError(f"models: {name!r} must give ({len(some)}, {n}, 3, H, W), gave {tuple(x.shape)}")
        check_pictures(x.flatten(0, 1))
        yield x.detach().cpu().float()


def seen_by(judges: Sequence[Judge], blocks: Iterable[Tensor]) -> list[Seen]:
    """What each judge sees of pictures that come in blocks (B, 3, H, W), which are not kept."""
    parts = [[judge.look(x) for judge in judges] for x in blocks]
    return [Seen.cat(mine) for mine in zip(*parts, strict=True)]


def seen_of(judges: Sequence[Judge], name: str, generate: Generate, captions: Sequence[str], n: int) -> list[Seen]:
    """What each judge sees of a model's pictures, see `drawn`: n of each caption, caption by caption."""
    return seen_by(judges, (x.flatten(0, 1) for x in drawn(name, generate, captions, n)))
