"""Where pictures are compared when a caption has one picture: no style and no caption is known from within.

`eval.space` tells captions from artists by what several artists made of one caption. Data with one picture a
caption has no such thing, so the axes here are those of largest variance, and every figure built on them is
weaker: distance means "another picture", be it of another caption or only drawn otherwise.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from bridge.errors import UserError
from eval.data import Pictures, References, by_caption
from eval.features import Extractor, Features
from eval.judge import Judge, thumbnails_of
from eval.metrics.realism import RealismTest
from eval.space import COMPONENTS, Described, JudgeSpace
from train.copies import COPY_QUANTILE, CopyTest, nearest_training

LEAST = 10
"""Training pictures, and families of captions in a row, below which nothing is judged: intervals would be luck."""
CLIP = 5.0
SHARED = 4
"""Axes of captions and of pictures that `PairSpace` keeps."""


def why_single(pictures: Pictures, parts: tuple[str, ...]) -> str | None:
    """Why a dataset has to be judged singly, or None where its captions were drawn by several artists.

    Args:
        pictures: The dataset.
        parts: The splits that a report would judge.

    Raises:
        ValueError: No picture has split 'train'.
    """
    train = pictures.where("train")
    drawn = np.unique(pictures.label[train], return_counts=True)[1]
    if len(np.unique(pictures.label)) == len(pictures):
        return "every caption has one picture"
    if len(np.unique(pictures.artist[train])) < 2:
        return "no two training pictures are known to be by different artists"
    if (drawn >= 2).sum() < 2:
        return "fewer than two training captions have two pictures"
    counts = [_by_two(pictures, part) for part in parts if part in pictures.split]
    if max(counts, default=0) < 2:
        return f"fewer than two captions of {' or '.join(map(repr, parts))} were drawn by two artists"
    return None


def _by_two(pictures: Pictures, part: str) -> int:
    """Captions of a split that two artists or more drew."""
    groups = by_caption(pictures, pictures.where(part))
    return sum(len(np.unique(pictures.artist[rows])) >= 2 for rows in groups.values())


@dataclass(frozen=True)
class SingleSpace(JudgeSpace):
    """A space whose axes are those of largest variance. Build it with `SingleSpace.of`, not with `fit`.

    `late` and `early` standardise and reduce; `describe` gives the early point of a picture, (B, E), for its
    style, where `JudgeSpace` gives an artist's name.
    """

    @classmethod
    def of(cls, train: Features, held_out: Features | None) -> "SingleSpace":
        """Fit on training pictures; calibrate realism on held-out real ones.

        Args:
            train: Features of N training pictures, N at least 10.
            held_out: Features of the validation pictures. Absent: each training picture, left out in turn,
                which makes real pictures look nearer than they are (the axes were fitted on them).

        Raises:
            ValueError: There are too few training pictures, or they are all alike.
        """
        if len(train) < LEAST:
            raise UserError(f"train: {len(train)} training pictures; judging takes at least {LEAST}")
        late, early = _reduce(train.late), _reduce(train.early)
        known = late.transform(train.late.astype(np.float64))
        outside = None if held_out is None else late.transform(held_out.late.astype(np.float64))
        return cls(late, early, known, RealismTest.fit(known, outside))

    def describe(self, features: Features) -> Described:
        """Where pictures lie by what they show, (B, D), and by how they are drawn, (B, E), and whether realistic."""
        shows = self.late.transform(features.late.astype(np.float64))
        style = self.early.transform(features.early.astype(np.float64))
        return Described(shows, style, self.realism(shows))


def _reduce(x: np.ndarray) -> Pipeline:
    """Standardise, clip at 5 deviations and keep the 48 axes of largest variance, fewer where there are fewer.

    Among a few hundred pictures some channels of a network hardly vary; unclipped, one of them could put a
    picture unlike the training pictures a hundred deviations away and own every mean it enters.
    """
    x = x.astype(np.float64)
    if not (x.std(axis=0) > 0).any():
        raise UserError("train: all training pictures look the same to the judge")
    clip = FunctionTransformer(np.clip, kw_args={"a_min": -CLIP, "a_max": CLIP})
    axes = PCA(min(COMPONENTS, x.shape[1], len(x) - 1), svd_solver="full")
    return make_pipeline(StandardScaler(), clip, axes).fit(x)


def fit_single(extractor: Extractor, pictures: Pictures, features: Features) -> Judge:
    """The judge of a dataset with one picture a caption: `Judge.fit` with a `SingleSpace`.

    Realism and copies are calibrated on split 'validation', or on 'train' left out one by one where the data
    has no validation; the report says which.

    Raises:
        ValueError: No split 'train', or too little of it.
    """
    train = pictures.where("train")
    held_out = pictures.where("validation") if "validation" in pictures.split else None
    space = SingleSpace.of(features[train], None if held_out is None else features[held_out])
    known = thumbnails_of(pictures, train)
    if held_out is None:
        apart = nearest_training(known, known, 2)[0][:, 1]
        copy_test = CopyTest(known, float(np.quantile(apart, COPY_QUANTILE)))
    else:
        copy_test = CopyTest.fit(known, thumbnails_of(pictures, held_out))
    return Judge(extractor, pictures, features, space, copy_test, train)


def single_references(pictures: Pictures, split: str) -> References:
    """The captions of a split with their real pictures, one or more each, in the order of their labels.

    Raises:
        ValueError: There are fewer than 10 families of captions.
    """
    groups = by_caption(pictures, pictures.where(split))
    families = np.array([pictures.family[rows[0]] for rows in groups.values()])
    count = len(np.unique(families))
    if count < LEAST:
        raise UserError(f"split {split!r} has captions of {count} families; a judgement takes at least {LEAST}")
    rows = tuple(groups.values())
    return References(tuple(groups), families, rows, tuple(pictures.artist[r] for r in rows), ())


@dataclass(frozen=True)
class PairSpace:
    """Where pairs of a caption and a picture are compared: the axes on which training pairs go together most.

    Plain axes of largest variance do not do: two captions drawn at random are about equally far from any other
    two in hundreds of dimensions, and the energy distance then hardly tells right captions from shuffled ones.
    The axes depend on the text encoder: compare only models with the same one.

    Args:
        text_mean: Of the training codes, (T,).
        text_axes: Codes to coordinates of unit variance over training pairs, (T, K).
        picture_mean: Of the training points, (D,).
        picture_axes: The same for pictures, (D, K).

    Source: Sampson et al. 1989, Neurobehavioral effects of prenatal alcohol, part II (partial least squares by
        singular value decomposition); DeVries et al. 2019, On the evaluation of conditional GANs,
        arXiv:1907.08175, for the weight that makes caption and picture count the same
    """

    text_mean: np.ndarray
    text_axes: np.ndarray
    picture_mean: np.ndarray
    picture_axes: np.ndarray

    @classmethod
    def fit(cls, codes: np.ndarray, points: np.ndarray) -> "PairSpace":
        """Fit on N training pairs: codes (N, T) and points in a `SingleSpace` (N, D).

        Raises:
            ValueError: The codes, or the points, do not vary together at all.
        """
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
