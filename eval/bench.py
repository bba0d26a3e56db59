"""From pictures to the figures of a report: one row's captions, held against real pictures, every method alike.

Where several artists drew a caption, all three headlines are 1 for real pictures by other artists (`ArtistBench`).
Where each was drawn once, nobody knows what two right pictures of it differ by: each headline then has a 1 of its own
and there is no score (`SingleBench`).
"""

import abc
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np

from bridge.errors import UserError
from eval.baselines import EncodeText
from eval.data import LEAST, References, narrowed, references
from eval.judge import Judge, PerCaption, Seen, Target, means
from eval.metrics import calibration, fit, memorization, quality, single
from eval.metrics.bootstrap import Interval, family_mean, paired_bootstrap
from eval.metrics.energy import root_skill
from eval.space import PairSpace

ONE_EACH = "one picture a caption, nothing to tell apart"
NO_PAIR = "no caption has two pictures that show it"
NO_TEXT = "captions are compared by their text codes, and no text encoder was given"
NO_SCORE = "the three headlines have no common 1 on data with one picture a caption, so the smallest says nothing"
NO_SECOND = "no caption has a second set of real pictures to hold against the first"
NO_STYLES = "a style is an artist's, and each caption was drawn by one"
ITSELF = "real pictures are what all others are held against"
FOUND = "a real picture is the one looked for, so it is always found"


@dataclass(frozen=True)
class Figures:
    """One method on one row; None where a figure does not exist, and `absent` says why.

    On single pictures the scales differ: see `eval.metrics.single` for fit, diversity and joint.
    """

    fit: Interval | None  # Chance-adjusted, gated Caption-ID; 0 is chance, above 1 an alarm for blur
    diversity: Interval | None  # Valid styles over those of real pictures; singly, distance of valid pictures
    joint: Interval | None  # Root-skill of the energy distance, 0 is caption-blind; singly, of pairs over shuffled ones
    score: Interval | None  # The smallest of the three
    hit: Interval | None  # Caption-ID itself, a share
    styles: Interval | None  # Valid styles, a count
    energy: Interval | None  # Energy distance, 0 for real pictures; singly the energy score, lower is better
    realistic: Interval  # Share of pictures that lie where real ones do, see `RealismTest`
    copied: Interval  # Share of pictures that repeat a training picture
    c_t: float  # Data-copying statistic against the references, in standard deviations: far below 0 for copies
    authenticity: float  # Share farther from their nearest training picture than that one is from its own
    kid: float  # Kernel distance to the references, on late features; 0 for real pictures
    frechet: float  # Fréchet distance to the same, which falls with the number of pictures; 0 for real pictures
    sharpness: float  # Gradient energy over that of the references: below 1 blurred, above 1 noisy
    absent: dict[str, str] = field(default_factory=dict)  # Reasons, by field

    def value(self, name: str) -> float:
        """A figure without its interval, NaN where it is absent."""
        figure = getattr(self, name)
        return float(figure.value) if isinstance(figure, Interval) else math.nan if figure is None else float(figure)


@dataclass(frozen=True)
class Calibration:
    """Do a caption's pictures differ as much as real ones do? No headline: a model blind to captions can pass."""

    spread_skill: Interval  # 1 when calibrated, less when too sure, more when too unsure
    ranks: list[float]  # Captions by rank of their references among the samples, n + 1 counts; flat when calibrated
    reliability: float  # How far `ranks` is from flat; 0 when flat, at most 2


@dataclass(frozen=True)
class Judged:
    """What the judge says of one method's pictures."""

    kind: str  # "samples", "real", or "reconstruction" (one for each real picture)
    seen: list[Seen]  # Caption by caption
    per: PerCaption  # Figures of each of C captions
    asked: np.ndarray  # Family of the caption that the pictures were drawn for, (C,): another one if shuffled

    def __getitem__(self, index: np.ndarray) -> "Judged":
        return Judged(self.kind, [self.seen[int(i)] for i in index], self.per[index], self.asked[index])

    @property
    def points(self) -> list[np.ndarray]:
        """Where the pictures lie by what they show, [(n, D)] * C."""
        return [s.described.shows for s in self.seen]


@dataclass(frozen=True)
class Bench(abc.ABC):
    """One row's captions with everything that methods are compared with."""

    judge: Judge  # Describes pictures
    target: Any  # The captions and what their pictures are held against
    seed: int  # Of the bootstrap, and of shuffles
    real: Judged  # The real pictures themselves

    @abc.abstractmethod
    def __getitem__(self, index: np.ndarray) -> Self:
        """The captions at `index`, (C',), with the same rivals."""

    @abc.abstractmethod
    def judged(self, kind: str, seen: list[Seen], asked: np.ndarray | None = None) -> Judged:
        """Pictures of a kind held against the real ones, caption by caption."""

    @abc.abstractmethod
    def headlines(self, judged: Judged, absent: dict[str, str]) -> dict[str, Interval | None]:
        """Fields `fit` to `energy` of `Figures`; reasons go to `absent`."""

    @property
    @abc.abstractmethod
    def about(self) -> dict[str, Any]:
        """What `report.Row` says of the captions themselves."""

    @property
    def refs(self) -> References:
        """The captions and their real pictures."""
        refs: References = self.target.refs
        return refs

    @property
    def rows(self) -> np.ndarray:
        """Rows of the real pictures, caption by caption, (R,)."""
        return np.concatenate(self.refs.rows)

    def samples(self, seen: Seen, asked: np.ndarray | None = None) -> Judged:
        """Of a model's pictures, the same number for each of C captions.

        `asked`, (C,), is the family of the caption they were drawn for, where that is another one.
        """
        count = len(self.refs)
        return self.judged("samples", seen.split([len(seen) // count] * count), asked)

    def reconstructions(self, seen: Seen) -> Judged:
        """Of what a codec made of each real picture, R pictures."""
        return self.judged("reconstruction", seen.split([len(rows) for rows in self.refs.rows]))

    def interval(self, values: np.ndarray, *statistic: Callable[[np.ndarray], np.ndarray]) -> Interval:
        """Mean of numbers of each caption (C,) or (C, K), or a statistic of the means, families having equal weight."""
        return paired_bootstrap(values, self.refs.families, *statistic, seed=self.seed)

    def figures(self, judged: Judged) -> Figures:
        """All figures of a method, and why some do not exist."""
        absent: dict[str, str] = {}
        headlines = self.headlines(judged, absent)
        real, known, points = self.real, self.judge.space.train, np.concatenate(judged.points)
        late, real_late = (np.concatenate([s.late for s in one.seen]) for one in (judged, real))
        sharp, real_sharp = (np.concatenate([s.gradient for s in one.seen]).mean() for one in (judged, real))
        return Figures(
            **headlines,
            realistic=self.interval(judged.per.realistic),
            copied=self.interval(judged.per.copied),
            c_t=memorization.c_t(known, np.concatenate(real.points), points),
            authenticity=memorization.authenticity(known, points),
            kid=0.0 if judged.kind == "real" else quality.kid(late, real_late),
            frechet=0.0 if judged.kind == "real" else quality.frechet(late, real_late),
            sharpness=float(sharp / real_sharp),
            absent=absent,
        )

    def calibration(self, judged: Judged) -> Calibration:
        """Of a model's samples, the same number for every caption."""
        where, n = (judged.points, self.real.points, self.refs.artists), len(judged.points[0])
        columns = np.stack(calibration.spread_skill(*where), axis=1)
        ratio = self.interval(columns, lambda m: calibration.spread_skill_ratio(m[..., 0], m[..., 1], n))
        ranks = calibration.rank_histogram(*where, seed=self.seed)
        return Calibration(ratio, ranks.tolist(), calibration.reliability(ranks))


# --- captions by several artists -----------------------------------------------------------------------------------
# Headlines are made of means (..., 6): hit, real hit, styles, real styles, energy, energy of caption-blind pictures.


def fit_of(m: np.ndarray) -> np.ndarray:
    return fit.chance_adjusted(m[..., 0], m[..., 1])


def diversity_of(m: np.ndarray) -> np.ndarray:
    """Diversity; NaN where no real picture is recognised."""
    real = m[..., 3]
    return np.divide(m[..., 2], real, out=np.full(np.shape(real), np.nan), where=real > 0)


def joint_of(m: np.ndarray) -> np.ndarray:
    return root_skill(m[..., 4], m[..., 5])


def score_of(m: np.ndarray) -> np.ndarray:
    return np.minimum(np.minimum(fit_of(m), diversity_of(m)), joint_of(m))


HEADLINES = {"fit": fit_of, "diversity": diversity_of, "joint": joint_of, "score": score_of}


class ArtistBench(Bench):
    """Real pictures are those by *other* artists; its target is a `Target`."""

    target: Target

    @classmethod
    def of(cls, judge: Judge, target: Target, seed: int = 0) -> "ArtistBench":
        groups = judge.look_at(np.concatenate(target.refs.rows)).split([len(rows) for rows in target.refs.rows])
        return cls(judge, target, seed, _by_artists(target, "real", groups))

    def __getitem__(self, index: np.ndarray) -> "ArtistBench":
        return ArtistBench(self.judge, self.target[index], self.seed, self.real[index])

    def judged(self, kind: str, seen: list[Seen], asked: np.ndarray | None = None) -> Judged:
        return _by_artists(self.target, kind, seen)

    def headlines(self, judged: Judged, absent: dict[str, str]) -> dict[str, Interval | None]:
        per, real = judged.per, self.real.per
        columns = [per.hit, real.hit, per.styles, real.styles, per.energy, self.target.unconditional]
        headlines: dict[str, Interval | None] = {}
        for name, of in HEADLINES.items():
            interval = self.interval(np.stack(columns, axis=1), of)
            if np.isfinite([interval.value, interval.low, interval.high]).all():
                headlines[name] = interval
            else:
                headlines[name], absent[name] = None, "real pictures of too few captions are recognised"
        return headlines | {name: self.interval(getattr(per, name)) for name in ("hit", "styles", "energy")}

    @property
    def about(self) -> dict[str, Any]:
        index, energy = self.judge.real_elsewhere(self.target, self.seed)
        families = self.refs.families[index]
        about: dict[str, Any] = {"left_out": len(self.refs.left_out), "real_joint_captions": len(index)}
        about |= {"unconditional_energy": self.interval(self.target.unconditional)}
        if len(np.unique(families)) < 2:
            return about | {"absent": {"real_joint": "too few captions were drawn by four artists"}}
        columns = np.stack([energy, self.target.unconditional[index]], axis=1)
        real_joint = paired_bootstrap(columns, families, lambda m: root_skill(m[..., 0], m[..., 1]), seed=self.seed)
        return about | {"real_joint": real_joint}


def _by_artists(target: Target, kind: str, seen: list[Seen]) -> Judged:
    against = target.of_samples if kind == "samples" else target.of_real
    return Judged(kind, seen, against([s.described for s in seen], [s.copied for s in seen]), target.refs.families)


# --- captions with one picture -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SingleTarget:
    """What pictures of C captions are held against."""

    refs: References  # The captions and the rows of their real pictures
    rivals: fit.Rivals  # Captions to be confused with: all of the split
    unit: float  # Mean distance in style of real pictures of different captions

    def __getitem__(self, index: np.ndarray) -> "SingleTarget":
        return SingleTarget(self.refs[index], self.rivals, self.unit)


Pairs = tuple[PairSpace, EncodeText]  # The space of pairs of caption and picture, and what turns captions into codes


def fit_pairs(judge: Judge, encode_text: EncodeText | None) -> Pairs | None:
    """The space of pairs, fitted on training pairs; None without a text encoder."""
    if encode_text is None:
        return None
    codes = encode_text(judge.pictures.label[judge.train].tolist())
    return PairSpace.fit(codes, judge.space.train), encode_text


@dataclass(frozen=True)
class SingleBench(Bench):
    """Each caption's own picture is one right answer of many."""

    target: SingleTarget
    pairs: Pairs | None  # Of `fit_pairs`

    @classmethod
    def of(
        cls,
        judge: Judge,
        split: str,
        pairs: Pairs | None = None,
        *,
        captions: int | None = None,
        only: Collection[str] | None = None,
        seed: int = 0,
    ) -> "SingleBench":
        """Gather the captions of a split and their real pictures; arguments as in `bench_of`."""
        everything = references(judge.pictures, split, singly=True)
        centroids = np.stack([d.shows.mean(axis=0) for d in judge.describe_rows(everything.rows)])
        refs = narrowed(everything, split, captions, only)
        seen = judge.look_at(np.concatenate(refs.rows)).split([len(rows) for rows in refs.rows])
        apart = single.distance_to_others([s.described.style for s in seen], refs.families)
        unit = float(family_mean(apart, refs.families))
        target = SingleTarget(refs, fit.Rivals(centroids, everything.families), unit)
        return cls(judge, target, seed, _singly(target, "real", seen, seen, refs.families), pairs)

    def __getitem__(self, index: np.ndarray) -> "SingleBench":
        return SingleBench(self.judge, self.target[index], self.seed, self.real[index], self.pairs)

    @cached_property
    def shuffled(self) -> np.ndarray | str:
        """`shuffled_energy` of real pictures, (1 + draws,), what joint 0 costs; or why joint is absent."""
        families = self.refs.families
        if self.pairs is None:
            return NO_TEXT
        if (count := len(np.unique(families))) < LEAST:
            return f"{count} families of captions; it takes {LEAST}"
        points = [self.pairs[0].pictures(p) for p in self.real.points]
        unit = single.shuffled_energy(self.compared(families), points, points, self.seed)
        try:
            single.joint_interval(unit, unit, unit)
        except UserError as error:
            return str(error)
        return unit

    @cached_property
    def weights(self) -> np.ndarray:
        """Of captions in each redrawing, (1 + draws, C)."""
        return single.redrawn_weights(self.refs.families, seed=self.seed)

    @property
    def chance(self) -> float:
        """Share of hits of pictures that know nothing of their caption."""
        return single.chance_of(len(np.unique(self.target.rivals.families)) - 1)

    def compared(self, asked: np.ndarray) -> single.Asked:
        """The captions as pairs are compared; there is a space of pairs."""
        assert self.pairs is not None
        text = self.pairs[0].text(self.pairs[1](self.refs.captions))
        return single.Asked(text, self.refs.families, asked, self.weights)

    def judged(self, kind: str, seen: list[Seen], asked: np.ndarray | None = None) -> Judged:
        return _singly(self.target, kind, seen, self.real.seen, self.refs.families if asked is None else asked)

    def headlines(self, judged: Judged, absent: dict[str, str]) -> dict[str, Interval | None]:
        absent |= {"score": NO_SCORE, "styles": NO_STYLES}
        figures: dict[str, Interval | None] = dict.fromkeys((*HEADLINES, "hit", "styles", "energy"))
        per, chance = judged.per, self.chance
        if judged.kind == "samples" and not np.isnan(per.styles).all():
            figures["diversity"] = self.interval(np.nan_to_num(per.styles))
        else:
            absent["diversity"] = NO_PAIR if judged.kind == "samples" else ONE_EACH
        if judged.kind == "real":
            absent |= dict.fromkeys(("fit", "hit"), FOUND) | dict.fromkeys(("joint", "energy"), ITSELF)
            return figures
        figures |= {"hit": self.interval(per.hit), "energy": self.interval(per.energy)}
        figures["fit"] = self.interval(per.hit, lambda m: fit.chance_adjusted(m[..., 0], np.array(1.0), chance))
        if self.pairs is None or isinstance(self.shuffled, str):
            absent["joint"] = str(self.shuffled)
            return figures
        space, captions = self.pairs[0], self.compared(judged.asked)
        x, r = ([space.pictures(p) for p in group] for group in (judged.points, self.real.points))
        own, dealt = single.pair_energy(captions, x, r), single.shuffled_energy(captions, x, r, self.seed)
        return figures | {"joint": single.joint_interval(own, dealt, self.shuffled)}

    @property
    def about(self) -> dict[str, Any]:
        absent = {"score": NO_SCORE, "styles": NO_STYLES, "real_joint": NO_SECOND}
        if isinstance(self.shuffled, str):
            absent["joint"] = self.shuffled
        return {"chance": self.chance, "absent": absent}


def _singly(target: SingleTarget, kind: str, seen: list[Seen], real: list[Seen], asked: np.ndarray) -> Judged:
    described = [s.described for s in seen]
    points, references = [d.shows for d in described], [s.described.shows for s in real]
    realistic = [d.realistic for d in described]
    centroids = [r.mean(axis=0, keepdims=True) for r in references]
    hits = fit.caption_id(points, realistic, centroids, families=target.refs.families, rivals=target.rivals)
    styles = np.full(len(seen), np.nan)  # stays so where fewer than two pictures are valid
    if kind == "samples":
        for i in np.flatnonzero([(h >= single.VALID).sum() >= 2 for h in hits]):
            styles[i] = single.valid_distance(described[i].style, hits[i], target.unit)
        energy = single.energy_scores(points, references)
    else:
        energy = means([np.linalg.norm(x - r, axis=1) for x, r in zip(points, references, strict=True)])
    per = PerCaption(means(hits), styles, energy, means(realistic), means([s.copied for s in seen]))
    return Judged(kind, seen, per, asked)


def bench_of(
    judge: Judge,
    split: str,
    n: int,
    *,
    captions: int | None = None,
    only: Collection[str] | None = None,
    seed: int = 0,
    pairs: Pairs | None = None,
) -> Bench:
    """What n samples a caption of a split are held against, in the way that the judge was fitted for.

    For `captions`, `only`, `seed` see `Judge.target`; without `pairs`, of `fit_pairs`, single pictures have no joint.

    Raises:
        UserError: The split has too few captions, or too few of them are in `only`.
    """
    if judge.singly is None:
        return ArtistBench.of(judge, judge.target(split, n, captions, seed, only), seed)
    return SingleBench.of(judge, split, pairs, captions=captions, only=only, seed=seed)
