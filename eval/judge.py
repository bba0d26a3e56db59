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
    """What was measured caption by caption; every array (C,)."""

    hit: np.ndarray  # Share of the caption's pictures that show it (gated Caption-ID)
    styles: np.ndarray  # Distinct styles among those
    energy: np.ndarray  # Energy distance to the references
    realistic: np.ndarray  # Share that passes the realism test
    copied: np.ndarray  # Share that copies a training picture


@dataclass(frozen=True)
class Seen(Columns):
    """What the judge notes of B pictures before they are compared with anything, so that they need not be kept."""

    described: Described  # Where they lie
    copied: np.ndarray  # Whether each repeats a training picture, (B,) bool
    late: np.ndarray  # Late features, (B, F)
    gradient: np.ndarray  # Gradient energy, (B,)


@dataclass(frozen=True)
class Target:
    """What the pictures for C captions are held against."""

    refs: References  # The captions and the rows of their real pictures
    shown: list[Described]  # What the judge says of each caption's real pictures, C of them
    rivals: fit.Rivals  # Captions to be confused with
    take: np.ndarray  # At how many pictures a caption's styles are counted, (C,): n, or its artists where fewer
    unconditional: np.ndarray  # Energy distance of caption-blind training pictures, (C,)

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
        hits = self._hits(samples)
        styles = diversity.valid_styles([d.style for d in samples], hits, self.take)
        each = zip([d.shows for d in samples], self.points, self.refs.artists, strict=True)
        energy = np.array([joint.energy_distance(x, r, a) for x, r, a in each])
        return PerCaption(means(hits), styles, energy, means([d.realistic for d in samples]), means(copied))

    def of_real(self, pictures: list[Described], copied: list[np.ndarray]) -> PerCaption:
        """Figures of the references, or of what a codec made of each, held against the *other* artists.

        Artists have equal weight, and one picture of each counts for the styles.
        """
        hits, artists = self._hits(pictures, real=True), self.refs.artists
        one = [np.unique(a, return_index=True)[1] for a in artists]
        styles = [d.style[i] for d, i in zip(pictures, one, strict=True)]
        triples = zip([d.shows for d in pictures], self.points, artists, strict=True)
        return PerCaption(
            np.array([joint.artist_weights(len(h), a) @ h for h, a in zip(hits, artists, strict=True)]),
            diversity.valid_styles(styles, [h[i] for h, i in zip(hits, one, strict=True)], self.take),
            np.array([joint.energy_distance_of_real(*each) for each in triples]),
            means([d.realistic for d in pictures]),
            means(copied),
        )

    def _hits(self, pictures: list[Described], real: bool = False) -> list[np.ndarray]:
        artists = self.refs.artists
        centroids = [fit.centroids_without(r, a) for r, a in zip(self.points, artists, strict=True)]
        left_out = [np.unique(a, return_inverse=True)[1] for a in artists] if real else None
        x, realistic = [d.shows for d in pictures], [d.realistic for d in pictures]
        families, rivals = self.refs.families, self.rivals
        return fit.caption_id(x, realistic, centroids, families=families, rivals=rivals, left_out=left_out)


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

        With `singly` (of `data.why_single`) the space is a `SingleSpace`, and data without a validation split are
        calibrated on training pictures, each left out in turn.

        Raises:
            UserError: A split is missing, or there is too little of it.
        """
        train = pictures.where("train")
        calibrated = singly is None or "validation" in pictures.split
        held_out = pictures.where("validation") if calibrated else None
        outside = None if held_out is None else features[held_out]
        if singly is not None or outside is None:
            space = SingleSpace.of(features[train], outside)
        else:
            columns = (pictures.label[train], pictures.artist[train], pictures.family[train])
            space = JudgeSpace.fit(features[train], *columns, outside)
        x = thumbnails_of(pictures, train)
        if held_out is None:
            copy_test = CopyTest(x, float(np.quantile(nearest_training(x, x, 2)[0][:, 1], COPY_QUANTILE)))
        else:
            copy_test = CopyTest.fit(x, thumbnails_of(pictures, held_out))
        return cls(extractor, pictures, features, space, copy_test, train, singly)

    def target(
        self, split: str, n: int, captions: int | None = None, seed: int = 0, only: Collection[str] | None = None
    ) -> Target:
        """What n samples, at least 2, a caption of `split` are held against.

        At most `captions` are judged, chosen by hash, and none but those in `only`; all of the split's stay rivals.
        `seed` draws the caption-blind training pictures. UserError where too little of it was drawn by two artists.
        """
        if n < 2:
            raise UserError(f"n must be at least 2 samples a caption, got {n}: one has no spread")
        everything = references(self.pictures, split)
        shown = [d.shows for d in self.describe_rows(everything.rows)]
        rivals = fit.Rivals.of(shown, everything.artists, everything.families)
        refs = narrowed(everything, split, captions, only)
        described = self.describe_rows(refs.rows)
        take = np.array([min(n, len(np.unique(a))) for a in refs.artists])
        weights = family_weights(self.pictures.family[self.train])
        count, rng = min(POPULATION, len(self.train)), np.random.default_rng(seed)
        population = self.space.train[rng.choice(len(self.train), count, replace=False, p=weights)]
        blind = joint.energy_to_population(population, [d.shows for d in described], refs.artists)
        return Target(refs, described, rivals, take, blind)

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

    def real_elsewhere(self, target: Target, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Energy distance between two disjoint groups of artists: what real pictures score, noise and all.

        A caption's references against the training pictures of the same caption where there are some by two artists;
        else one half of its artists against the other, where there are four.

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


def thumbnails_of(pictures: Pictures, rows: np.ndarray) -> np.ndarray:
    """Thumbnails of rows (R,) of a dataset, (R, D), see `train.copies.thumbnails`."""
    return np.concatenate([thumbnails(x.numpy()) for x in pictures.blocks(rows)])


def means(values: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([v.mean() for v in values])
