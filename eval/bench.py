"""From pictures to the figures of a report: one row's captions, held against real pictures, every method alike.

Where several artists drew a caption, all three headlines are 1 for real pictures by other artists (`ArtistBench`);
where each was drawn once, each headline has a 1 of its own and there is no score (`SingleBench`).
"""

import abc
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from bridge.errors import UserError
from eval.baselines import EncodeText
from eval.data import LEAST, References, narrowed, references
from eval.features import Columns
from eval.judge import Judge, Seen
from eval.metrics import calibration, diversity, energy, fit, nearest, quality, single
from eval.metrics.bootstrap import Interval, family_mean, family_weights, paired_bootstrap

POPULATION = 1500  # Caption-blind training pictures, at most
NO_SCORE = "the three headlines have no common 1 on data with one picture a caption, so the smallest says nothing"
NO_STYLES = "a style is an artist's, and each caption was drawn by one"


@dataclass(frozen=True)
class Figures:
    """One method on one row; `absent` says why a figure is None. Of single pictures see `eval.metrics.single`."""

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
        return math.nan if figure is None else float(getattr(figure, "value", figure))


@dataclass(frozen=True)
class Calibration:
    """Do a caption's pictures differ as much as real ones do? No headline: a model blind to captions can pass."""

    spread_skill: Interval  # 1 when calibrated, less when too sure, more when too unsure
    ranks: list[float]  # Captions by rank of their references among the samples, n + 1 counts; flat when calibrated
    reliability: float  # How far `ranks` is from flat; 0 when flat, at most 2


@dataclass(frozen=True)
class PerCaption(Columns):
    """What was measured caption by caption; every array (C,)."""

    hit: np.ndarray  # Share of the caption's pictures that show it (gated Caption-ID)
    styles: np.ndarray  # Distinct styles among those
    energy: np.ndarray  # Energy distance to the references
    realistic: np.ndarray  # Share that passes the realism test
    copied: np.ndarray  # Share that copies a training picture


@dataclass(frozen=True)
class Judged:
    """What the judge says of one method's pictures."""

    kind: str  # "samples", "real", or "reconstruction" (one for each real picture)
    seen: list[Seen]  # Caption by caption
    per: PerCaption  # Figures of each of C captions
    asked: np.ndarray  # Family of the caption that the pictures were drawn for, (C,): another one if shuffled

    def __getitem__(self, index: np.ndarray) -> "Judged":
        return Judged(self.kind, [self.seen[i] for i in index], self.per[index], self.asked[index])


def points(seen: Sequence[Seen]) -> list[np.ndarray]:
    """[(n, D)] * C, in the space of captions."""
    return [s.shows for s in seen]


@dataclass(frozen=True)
class Bench(abc.ABC):
    """One row's captions with everything that methods are compared with."""

    judge: Judge  # Describes pictures
    refs: References  # The captions and their real pictures
    rivals: fit.Rivals  # Captions to be confused with: all of the split
    seed: int  # Of the bootstrap, and of shuffles
    seen: list[Seen]  # What is noted of the real pictures, caption by caption

    def __getitem__(self, index: np.ndarray) -> Self:
        """The captions at `index`, (C',), with the same rivals."""
        return replace(self, refs=self.refs[index], seen=[self.seen[i] for i in index])

    @abc.abstractmethod
    def measured(self, kind: str, seen: Seen, caption: int) -> tuple[float, float, float]:
        """Fields `hit`, `styles` and `energy` of `PerCaption`, of a caption's pictures of a kind."""

    @abc.abstractmethod
    def headlines(self, judged: Judged, absent: dict[str, str]) -> dict[str, Interval | None]:
        """Fields `fit` to `energy` of `Figures`; reasons go to `absent`."""

    @property
    @abc.abstractmethod
    def about(self) -> dict[str, Any]:
        """What `report.Row` says of the captions themselves."""

    @cached_property
    def real(self) -> Judged:
        return self.judged("real", self.seen)

    @property
    def rows(self) -> np.ndarray:
        return np.concatenate(self.refs.rows)

    def judged(self, kind: str, seen: list[Seen], asked: np.ndarray | None = None) -> Judged:
        """Pictures of a kind held against the real ones, caption by caption."""
        rows = [(*self.measured(kind, s, i), s.realistic.mean(), s.copied.mean()) for i, s in enumerate(seen)]
        per = PerCaption(*map(np.array, zip(*rows, strict=True)))
        return Judged(kind, seen, per, self.refs.families if asked is None else asked)

    def samples(self, seen: Seen, asked: np.ndarray | None = None) -> Judged:
        """Of a model's pictures, the same number for each caption; `asked` as in `Judged`, where it is another one."""
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
        own, real = Seen.cat(judged.seen), Seen.cat(self.seen)
        known, is_real = self.judge.space.train, judged.kind == "real"
        return Figures(
            **self.headlines(judged, absent),
            realistic=self.interval(judged.per.realistic),
            copied=self.interval(judged.per.copied),
            c_t=nearest.c_t(known, real.shows, own.shows),
            authenticity=nearest.authenticity(known, own.shows),
            kid=0.0 if is_real else quality.kid(own.late, real.late),
            frechet=0.0 if is_real else quality.frechet(own.late, real.late),
            sharpness=float(own.gradient.mean() / real.gradient.mean()),
            absent=absent,
        )

    def calibration(self, judged: Judged) -> Calibration:
        """Of a model's samples, the same number for every caption."""
        where, n = (points(judged.seen), points(self.seen), self.refs.artists), len(judged.seen[0])
        columns = np.stack(calibration.spread_skill(*where), axis=1)
        ratio = self.interval(columns, lambda m: calibration.spread_skill_ratio(m[..., 0], m[..., 1], n))
        ranks = calibration.ranks_per_caption(*where, seed=self.seed).sum(axis=0)
        return Calibration(ratio, ranks.tolist(), calibration.reliability(ranks))


# Headlines are made of means (..., 6): hit, real hit, styles, real styles, energy, energy of caption-blind pictures.
HEADLINES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "fit": lambda m: fit.chance_adjusted(m[..., 0], m[..., 1]),
    # NaN where no real picture is recognised
    "diversity": lambda m: m[..., 2] / np.where(m[..., 3] > 0, m[..., 3], np.nan),
    "joint": lambda m: energy.root_skill(m[..., 4], m[..., 5]),
    "score": lambda m: np.minimum.reduce([HEADLINES[name](m) for name in ("fit", "diversity", "joint")]),
}


@dataclass(frozen=True)
class ArtistBench(Bench):
    """Real pictures are those by *other* artists."""

    n: int  # Pictures of a caption at which its styles are counted, fewer where fewer artists drew it
    population: np.ndarray  # Caption-blind training pictures in the space of captions, (M, D)

    @cached_property
    def unconditional(self) -> np.ndarray:
        """Energy distance of caption-blind training pictures, (C,)."""
        return energy.energy_to_population(self.population, points(self.seen), self.refs.artists)

    def measured(self, kind: str, seen: Seen, caption: int) -> tuple[float, float, float]:
        """Of real pictures and reconstructions, artists weigh alike and one picture of each counts for the styles."""
        r, artists, family = self.seen[caption].shows, self.refs.artists[caption], self.refs.families[caption]
        _, first, number = np.unique(artists, return_index=True, return_inverse=True)
        real = kind != "samples"
        centroids = fit.centroids_without(r, artists)
        hits = self.rivals.hits(seen.shows, seen.realistic, centroids, family, number if real else None)
        counted = first if real else slice(None)
        styles = diversity.distinct_styles(seen.style[counted], hits[counted] >= fit.VALID, min(self.n, len(first)))
        if real:
            return family_weights(artists) @ hits, styles, energy.energy_distance_of_real(seen.shows, r, artists)
        return hits.mean(), styles, energy.energy_distance(seen.shows, r, artists)

    def headlines(self, judged: Judged, absent: dict[str, str]) -> dict[str, Interval | None]:
        per, real = judged.per, self.real.per
        columns = [per.hit, real.hit, per.styles, real.styles, per.energy, self.unconditional]
        headlines: dict[str, Interval | None] = {}
        for name, of in HEADLINES.items():
            headlines[name] = interval = self.interval(np.stack(columns, axis=1), of)
            if not np.isfinite([interval.value, interval.low, interval.high]).all():
                headlines[name], absent[name] = None, "real pictures of too few captions are recognised"
        return headlines | {name: self.interval(getattr(per, name)) for name in ("hit", "styles", "energy")}

    @property
    def about(self) -> dict[str, Any]:
        left_out, blind = len(self.refs.left_out), self.interval(self.unconditional)
        return {"left_out": left_out, "unconditional_energy": blind} | self.real_joint()

    def real_joint(self) -> dict[str, Any]:
        """Joint of real pictures, fields of `Row`: references and training ones, or halves of four artists or more."""
        rng, judge = np.random.default_rng(self.seed), self.judge
        index, columns = [], []
        labels, artist = judge.pictures.label[judge.train], judge.pictures.artist
        for i, (caption, own) in enumerate(zip(self.refs.captions, self.refs.rows, strict=True)):
            rows, others = own, judge.train[labels == caption]
            names = rng.permutation(np.unique(artist[rows]))
            if len(np.unique(artist[others])) < 2:
                if len(names) < 4:
                    continue
                half = np.isin(artist[own], names[: len(names) // 2])
                rows, others = own[half], own[~half]
            x, r = (d.shows for d in judge.describe_rows([others, rows]))
            index.append(i)
            columns.append([energy.energy_distance(x, r, artist[rows], artist[others]), self.unconditional[i]])
        measured = {"real_joint_captions": len(index)}
        if len(np.unique(self.refs.families[index])) < 2:
            return measured | {"absent": {"real_joint": "too few captions were drawn by four artists"}}
        joint = self[np.array(index)].interval(np.array(columns), lambda m: energy.root_skill(m[..., 0], m[..., 1]))
        return measured | {"real_joint": joint}


@dataclass(frozen=True)
class SingleBench(Bench):
    """Each caption's own picture is one right answer of many."""

    unit: float  # Mean distance in style of real pictures of different captions
    pairs: tuple[single.PairSpace, EncodeText] | None  # Fitted on training pairs, and what encodes captions

    @cached_property
    def shuffled(self) -> np.ndarray | str:
        """`shuffled_energy` of real pictures, (1 + draws,), what joint 0 costs; or why joint is absent."""
        if self.pairs is None:
            return "captions are compared by their text codes, and no text encoder was given"
        if (count := len(np.unique(self.refs.families))) < LEAST:
            return f"{count} families of captions; it takes {LEAST}"
        captions, r = self.paired(self.refs.families, self.seen)
        unit = single.shuffled_energy(captions, r, r, self.seed)
        try:
            single.joint_interval(unit, unit, unit)
        except UserError as error:
            return str(error)
        return unit

    @property
    def chance(self) -> float:
        """Share of hits of pictures that know nothing of their caption."""
        return single.chance_of(len(np.unique(self.rivals.families)) - 1)

    def paired(self, asked: np.ndarray, *groups: Sequence[Seen]) -> list[Any]:
        """The captions as pairs are compared, and groups of their pictures as parts of pairs."""
        assert self.pairs is not None
        (space, encode_text), families = self.pairs, self.refs.families
        weights = single.redrawn_weights(families, seed=self.seed)
        captions = single.Asked(space.text(encode_text(self.refs.captions)), families, asked, weights)
        return [captions, *([space.pictures(s.shows) for s in group] for group in groups)]

    def measured(self, kind: str, seen: Seen, caption: int) -> tuple[float, float, float]:
        """The energy of real pictures and reconstructions is their distance to the real ones."""
        r, family = self.seen[caption].shows, self.refs.families[caption]
        hits = self.rivals.hits(seen.shows, seen.realistic, r.mean(axis=0, keepdims=True), family)
        if kind != "samples":
            return hits.mean(), math.nan, np.linalg.norm(seen.shows - r, axis=1).mean()
        two_valid = (hits >= fit.VALID).sum() >= 2
        distance = single.valid_distance(seen.style, hits, self.unit) if two_valid else math.nan
        return hits.mean(), distance, single.energy_score(seen.shows, r)

    def headlines(self, judged: Judged, absent: dict[str, str]) -> dict[str, Interval | None]:
        absent |= {"score": NO_SCORE, "styles": NO_STYLES}
        figures: dict[str, Interval | None] = dict.fromkeys((*HEADLINES, "hit", "styles", "energy"))
        per, chance = judged.per, self.chance
        if judged.kind != "samples":
            absent["diversity"] = "one picture a caption, nothing to tell apart"
        elif np.isnan(per.styles).all():
            absent["diversity"] = "no caption has two pictures that show it"
        else:
            figures["diversity"] = self.interval(np.nan_to_num(per.styles))
        if judged.kind == "real":
            absent |= dict.fromkeys(("fit", "hit"), "a real picture is the one looked for, so it is always found")
            absent |= dict.fromkeys(("joint", "energy"), "real pictures are what all others are held against")
            return figures
        figures |= {"hit": self.interval(per.hit), "energy": self.interval(per.energy)}
        figures["fit"] = self.interval(per.hit, lambda m: fit.chance_adjusted(m[..., 0], 1.0, chance))
        if isinstance(self.shuffled, str):
            absent["joint"] = self.shuffled
            return figures
        captions, x, r = self.paired(judged.asked, judged.seen, self.seen)
        own, dealt = single.pair_energy(captions, x, r), single.shuffled_energy(captions, x, r, self.seed)
        return figures | {"joint": single.joint_interval(own, dealt, self.shuffled)}

    @property
    def about(self) -> dict[str, Any]:
        absent = {"score": NO_SCORE, "styles": NO_STYLES}
        absent["real_joint"] = "no caption has a second set of real pictures to hold against the first"
        if isinstance(self.shuffled, str):
            absent["joint"] = self.shuffled
        return {"chance": self.chance, "absent": absent}


def bench_of(
    judge: Judge,
    split: str,
    n: int,
    *,
    captions: int | None = None,
    only: Collection[str] | None = None,
    seed: int = 0,
    encode_text: EncodeText | None = None,
) -> Bench:
    """What n samples a caption of a split are held against, in the way that the judge was fitted for.

    At most `captions` are judged, chosen by hash, and none but those in `only`; all of the split's stay rivals. `seed`
    draws the caption-blind training pictures too. Without `encode_text` single pictures have no joint. UserError if the
    split has too few captions (by two artists), or too few of them are in `only`.
    """
    singly = judge.singly is not None
    everything = references(judge.pictures, split, singly)
    shown = [d.shows for d in judge.describe_rows(everything.rows)]
    refs = narrowed(everything, split, captions, only)
    seen = judge.look_at(np.concatenate(refs.rows)).split([len(rows) for rows in refs.rows])
    known = judge.space.train
    if singly:
        rivals = fit.Rivals(np.stack([each.mean(axis=0) for each in shown]), everything.families)
        apart = single.distance_to_others([s.style for s in seen], refs.families)
        pairs = None
        if encode_text is not None:
            codes = encode_text(judge.pictures.label[judge.train].tolist())
            pairs = single.PairSpace.fit(codes, known), encode_text
        return SingleBench(judge, refs, rivals, seed, seen, float(family_mean(apart, refs.families)), pairs)
    rivals = fit.Rivals.of(shown, everything.artists, everything.families)
    rng, weights = np.random.default_rng(seed), family_weights(judge.pictures.family[judge.train])
    blind = known[rng.choice(len(known), min(POPULATION, len(known)), replace=False, p=weights)]
    return ArtistBench(judge, refs, rivals, seed, seen, n, blind)
