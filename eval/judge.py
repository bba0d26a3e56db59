"""The judge: extractor, space and copy test fitted to one dataset, and figures caption by caption."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from bridge.errors import UserError
from eval.data import Pictures, References, narrowed, references
from eval.features import Columns, Extractor, Features
from eval.metrics import diversity, fit, quality
from eval.metrics import energy as joint
from eval.metrics.bootstrap import family_weights
from eval.space import Described, JudgeSpace, SingleSpace
from train.copies import COPY_QUANTILE, CopyTest, nearest_training, thumbnails

POPULATION = 1500
Say = Callable[[str], None]


@dataclass(frozen=True)
class PerCaption(Columns):
    """What was measured caption by caption; every array (C,).

    Args:
        hit: Share of the caption's pictures that show it (gated Caption-ID).
        styles: Distinct styles among those.
        energy: Energy distance to the references.
        realistic: Share that passes the realism test.
        copied: Share that copies a training picture.
    """

    hit: np.ndarray
    styles: np.ndarray
    energy: np.ndarray
    realistic: np.ndarray
    copied: np.ndarray


@dataclass(frozen=True)
class Seen(Columns):
    """What the judge notes of B pictures before they are compared with anything, so that they need not be kept.

    Args:
        described: Where they lie.
        copied: Whether each repeats a training picture, (B,) bool.
        late: Late features, (B, F).
        gradient: Gradient energy, (B,).
    """

    described: Described
    copied: np.ndarray
    late: np.ndarray
    gradient: np.ndarray


@dataclass(frozen=True)
class Target:
    """What the pictures for C captions are held against.

    Args:
        refs: The captions and the rows of their real pictures.
        shown: What the judge says of each caption's real pictures, C of them.
        rivals: Captions to be confused with.
        take: At how many pictures a caption's styles are counted, (C,): n, or its artists where fewer.
        unconditional: Energy distance of caption-blind training pictures, (C,).
    """

    refs: References
    shown: list[Described]
    rivals: fit.Rivals
    take: np.ndarray
    unconditional: np.ndarray

    @property
    def points(self) -> list[np.ndarray]:
        """References in the space of captions, [(k, D)] * C."""
        return [d.shows for d in self.shown]

    def __getitem__(self, index: np.ndarray) -> "Target":
        """The captions at `index`, (C',), with the same rivals."""
        shown = [self.shown[int(i)] for i in index]
        return Target(self.refs[index], shown, self.rivals, self.take[index], self.unconditional[index])

    def of_samples(self, samples: list[Described], copied: list[np.ndarray]) -> PerCaption:
        """Figures of a model's pictures, C groups of n, with whether each is a copy, [(n,)] * C."""
        x, real = [d.shows for d in samples], [d.realistic for d in samples]
        artists, families = self.refs.artists, self.refs.families
        hits = fit.caption_id(x, real, self.points, artists, families=families, rivals=self.rivals)
        return PerCaption(
            means(hits),
            diversity.valid_styles([d.style for d in samples], hits, self.take),
            joint.energy_per_caption(x, self.points, artists),
            means(real),
            means(copied),
        )

    def of_real(self, pictures: list[Described], copied: list[np.ndarray]) -> PerCaption:
        """Figures of the references, or of what a codec made of each, held against the *other* artists.

        Artists weigh equally, and one picture of each counts for the styles.
        """
        x, real = [d.shows for d in pictures], [d.realistic for d in pictures]
        artists, families = self.refs.artists, self.refs.families
        hits = fit.caption_id_of_real(x, real, self.points, artists, families=families, rivals=self.rivals)
        one = [np.unique(a, return_index=True)[1] for a in artists]
        triples = zip(x, self.points, artists, strict=True)
        return PerCaption(
            np.array([joint.artist_weights(len(h), a) @ h for h, a in zip(hits, artists, strict=True)]),
            diversity.valid_styles(
                [d.style[i] for d, i in zip(pictures, one, strict=True)],
                [h[i] for h, i in zip(hits, one, strict=True)],
                self.take,
            ),
            np.array([joint.energy_distance_of_real(*each) for each in triples]),
            means(real),
            means(copied),
        )


@dataclass(frozen=True)
class Judge:
    """Everything that is known of the real pictures. Build it with `Judge.load` or `Judge.fit`.

    Args:
        extractor: Describes pictures.
        pictures: The dataset.
        features: Features of all its N pictures.
        space: Fitted on its training pictures.
        copy_test: The same.
        train: Rows of its training pictures, in the order of `space.train` and `copy_test.train`.
        singly: Why captions are judged by one picture each; None where several artists drew them.
    """

    extractor: Extractor
    pictures: Pictures
    features: Features
    space: JudgeSpace
    copy_test: CopyTest
    train: np.ndarray
    singly: str | None = None

    @classmethod
    def load(cls, folder: str | Path, extractor: Extractor, say: Say = lambda _: None) -> "Judge":
        """Fit to a saved dataset whose captions several artists drew.

        Raises:
            ValueError: No such dataset, a column or split is missing, or a cached shard is damaged.
        """
        return cls.of(Pictures.load(folder), extractor, say=say)

    @classmethod
    def of(
        cls, pictures: Pictures, extractor: Extractor, singly: str | None = None, say: Say = lambda _: None
    ) -> "Judge":
        """Fit to a dataset, whose features are kept in a hidden folder inside it; see `fit`."""
        say(f"judge: features of the dataset by {extractor.id} (cached after the first time)")
        features = pictures.features(extractor, lambda done, total: say(f"  {done} of {total} pictures"))
        return cls.fit(extractor, pictures, features, singly)

    @classmethod
    def fit(cls, extractor: Extractor, pictures: Pictures, features: Features, singly: str | None = None) -> "Judge":
        """Fit space and copy test to split 'train', calibrated on split 'validation'.

        With `singly` (of `data.why_single`) the space is a `SingleSpace`, and data without a validation split are
        calibrated on training pictures, each left out in turn.

        Raises:
            ValueError: A split is missing, or there is too little of it.
        """
        train = pictures.where("train")
        single = singly is not None
        held_out = None if single and "validation" not in pictures.split else pictures.where("validation")
        known, outside = features[train], None if held_out is None else features[held_out]
        space: JudgeSpace
        if single or outside is None:
            space = SingleSpace.of(known, outside)
        else:
            columns = (pictures.label[train], pictures.artist[train], pictures.family[train])
            space = JudgeSpace.fit(known, *columns, outside)
        x = thumbnails_of(pictures, train)
        if held_out is None:
            apart = nearest_training(x, x, 2)[0][:, 1]
            copy_test = CopyTest(x, float(np.quantile(apart, COPY_QUANTILE)))
        else:
            copy_test = CopyTest.fit(x, thumbnails_of(pictures, held_out))
        return cls(extractor, pictures, features, space, copy_test, train, singly)

    def target(
        self, split: str, n: int, captions: int | None = None, seed: int = 0, only: Collection[str] | None = None
    ) -> Target:
        """What n samples a caption of `split` are held against.

        Args:
            split: 'validation', 'test', 'seen_validation' or 'seen'.
            n: Samples a caption, at least 2.
            captions: Judge at most so many, chosen by hash; all of the split's stay rivals.
            seed: Draws the caption-blind training pictures.
            only: Judge none but these captions; all of the split's stay rivals.

        Raises:
            ValueError: `n` is below 2, or too little of `split` was drawn by two artists, or is in `only`.
        """
        if n < 2:
            raise UserError(f"n must be at least 2 samples a caption, got {n}: one has no spread")
        everything = references(self.pictures, split)
        rivals = fit.Rivals.of(
            [d.shows for d in self.describe_rows(everything.rows)], everything.artists, everything.families
        )
        refs = narrowed(everything, split, captions, only)
        shown = self.describe_rows(refs.rows)
        take = np.array([min(n, len(np.unique(a))) for a in refs.artists])
        blind = joint.energy_to_population(self._population(seed), [d.shows for d in shown], refs.artists)
        return Target(refs, shown, rivals, take, blind)

    def describe_rows(self, rows: Sequence[np.ndarray]) -> list[Described]:
        """What the space says of real pictures, group by group."""
        described = self.space.describe(self.features[np.concatenate(rows)])
        return described.split([len(r) for r in rows])

    def look(self, x: Tensor) -> Seen:
        """What there is to note of pictures x (B, 3, H, W) in [0, 1]."""
        features = self.extractor.encode(x)
        pixels = x.numpy()
        return Seen(self.space.describe(features), self.copies(x)[0], features.late, quality.gradient_energy(pixels))

    def look_at(self, rows: np.ndarray) -> Seen:
        """The same of rows (R,) of the dataset, from its features."""
        copied, gradient = [], []
        for x in self.pictures.blocks(rows):
            copied.append(self.copies(x)[0])
            gradient.append(quality.gradient_energy(x.numpy()))
        features = self.features[rows]
        return Seen(self.space.describe(features), np.concatenate(copied), features.late, np.concatenate(gradient))

    def copies(self, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Whether pictures x (B, 3, H, W) are copies, (B,) bool, and the nearest row of the dataset, (B,)."""
        copied, nearest = self.copy_test(thumbnails(x.numpy()))
        return copied, self.train[nearest]

    def real_elsewhere(self, target: Target, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Energy distance between two disjoint groups of artists: what real pictures score, noise and all.

        A caption's references against the training pictures of the same caption where there are some by two
        artists; else one half of its artists against the other, where there are four.

        Returns:
            Which captions could be measured, (C',) indices, and their energy distances (C',).
        """
        rng = np.random.default_rng(seed)
        index, energy = [], []
        labels, artist = self.pictures.label[self.train], self.pictures.artist
        for i, (caption, rows) in enumerate(zip(target.refs.captions, target.refs.rows, strict=True)):
            others = self.train[labels == caption]
            names = rng.permutation(np.unique(artist[rows]))
            if len(np.unique(artist[others])) < 2:
                if len(names) < 4:
                    continue
                half = np.isin(artist[rows], names[: len(names) // 2])
                rows, others = rows[half], rows[~half]  # noqa: PLW2901
            x, r = (d.shows for d in self.describe_rows([others, rows]))
            cross = joint.artist_weights(len(x), artist[others]) @ joint.distances_to(x, r, artist[rows])
            index.append(i)
            energy.append(2 * cross - joint.spread(x, artist[others]) - joint.spread(r, artist[rows]))
        return np.array(index, dtype=int), np.array(energy)

    def _population(self, seed: int) -> np.ndarray:
        """Caption-blind training pictures in the space of captions, families weighing equally."""
        weights = family_weights(self.pictures.family[self.train])
        count = min(POPULATION, len(self.train))
        rng = np.random.default_rng(seed)
        return self.space.train[rng.choice(len(self.train), count, replace=False, p=weights)]


def thumbnails_of(pictures: Pictures, rows: np.ndarray) -> np.ndarray:
    """Thumbnails of rows (R,) of a dataset, (R, D), see `memorization.thumbnails`."""
    return np.concatenate([thumbnails(x.numpy()) for x in pictures.blocks(rows)])


def means(values: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of each caption's numbers, (C,)."""
    return np.array([v.mean() for v in values])
