"""The judge: extractor, space and copy test fitted to one dataset, and figures caption by caption."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from eval.data import Pictures
from eval.features import Columns, Extractor, Features
from eval.metrics import quality
from eval.space import Described, JudgeSpace
from train.copies import COPY_QUANTILE, CopyTest, nearest_training, thumbnails

Say = Callable[[str], None]


@dataclass(frozen=True)
class Seen(Columns):
    """What the judge notes of B pictures before they are compared with anything, so that they need not be kept."""

    described: Described  # Where they lie
    copied: np.ndarray  # Whether each repeats a training picture, (B,) bool
    late: np.ndarray  # Late features, (B, F)
    gradient: np.ndarray  # Gradient energy, (B,)


@dataclass(frozen=True)
class Judge:
    """Everything that is known of the real pictures. Build it with `Judge.load`, `Judge.of` or `Judge.fit`."""

    extractor: Extractor  # Describes pictures
    pictures: Pictures  # The dataset
    features: Features  # Features of all its N pictures
    space: JudgeSpace  # Fitted on its training pictures
    copy_test: CopyTest  # The same
    train: np.ndarray  # Rows of its training pictures, in the order of `space.train` and `copy_test.train`
    singly: str | None = None  # Why captions are judged by one picture each; None where several artists drew them

    @classmethod
    def load(cls, folder: str | Path, extractor: Extractor, say: Say = lambda _: None) -> "Judge":
        """Fit to a saved dataset whose captions several artists drew."""
        return cls.of(Pictures.load(folder), extractor, say=say)

    @classmethod
    def of(
        cls, pictures: Pictures, extractor: Extractor, singly: str | None = None, say: Say = lambda _: None
    ) -> "Judge":
        """Fit to a dataset, whose features are kept in a hidden folder inside it; see `fit`."""
        say(f"judge: features of the dataset by {extractor.id} (cached after the first time)")
        return cls.fit(extractor, pictures, pictures.features(extractor), singly)

    @classmethod
    def fit(cls, extractor: Extractor, pictures: Pictures, features: Features, singly: str | None = None) -> "Judge":
        """Fit space and copy test to split 'train', calibrated on split 'validation'.

        With `singly` (of `data.why_single`) the space is `JudgeSpace.singly`, and data without a validation split are
        calibrated on training pictures, each left out in turn.

        Raises:
            UserError: A split is missing, or there is too little of it.
        """
        train = pictures.where("train")
        calibrated = singly is None or "validation" in pictures.split
        held_out = pictures.where("validation") if calibrated else None
        outside = None if held_out is None else features[held_out]
        if singly is not None or outside is None:
            space = JudgeSpace.singly(features[train], outside)
        else:
            columns = (pictures.label[train], pictures.artist[train], pictures.family[train])
            space = JudgeSpace.fit(features[train], *columns, outside)
        x = thumbnails_of(pictures, train)
        if held_out is None:
            copy_test = CopyTest(x, float(np.quantile(nearest_training(x, x, 2)[0][:, 1], COPY_QUANTILE)))
        else:
            copy_test = CopyTest.fit(x, thumbnails_of(pictures, held_out))
        return cls(extractor, pictures, features, space, copy_test, train, singly)

    def describe_rows(self, rows: Sequence[np.ndarray]) -> list[Described]:
        """What the space says of real pictures, group by group."""
        return self.space.describe(self.features[np.concatenate(rows)]).split([len(r) for r in rows])

    def look(self, x: Tensor) -> Seen:
        """What there is to note of pictures x (B, 3, H, W) in [0, 1]."""
        features = self.extractor.encode(x)
        gradient = quality.gradient_energy(x.numpy())
        return Seen(self.space.describe(features), self.copies(x)[0], features.late, gradient)

    def look_at(self, rows: np.ndarray) -> Seen:
        """The same of rows (R,) of the dataset, from its features."""
        pairs = [(self.copies(x)[0], quality.gradient_energy(x.numpy())) for x in self.pictures.blocks(rows)]
        copied, gradient = (np.concatenate(column) for column in zip(*pairs, strict=True))
        features = self.features[rows]
        return Seen(self.space.describe(features), copied, features.late, gradient)

    def copies(self, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Whether pictures x (B, 3, H, W) are copies, (B,) bool, and the nearest row of the dataset, (B,)."""
        copied, nearest = self.copy_test(thumbnails(x.numpy()))
        return copied, self.train[nearest]


def thumbnails_of(pictures: Pictures, rows: np.ndarray) -> np.ndarray:
    """Thumbnails of rows (R,) of a dataset, (R, D), see `train.copies.thumbnails`."""
    return np.concatenate([thumbnails(x.numpy()) for x in pictures.blocks(rows)])
