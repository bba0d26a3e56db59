"""From figures caption by caption to the three headlines and what stands beside them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from eval.judge import Judge, PerCaption, Seen, Target
from eval.metrics import calibration, fit, memorization, quality
from eval.metrics import energy as joint
from eval.metrics.bootstrap import Interval, paired_bootstrap
from eval.space import Described


@dataclass(frozen=True)
class Figures:
    """One method on one row. The headlines are 1 for real pictures by other artists.

    Args:
        fit: Chance-adjusted, gated Caption-ID; 0 is chance, above 1 an alarm for blur.
        diversity: Valid styles over those of real pictures.
        joint: Root-skill of the energy distance; 0 is caption-blind.
        score: The smallest of the three.
        hit: Caption-ID itself, a share.
        styles: Valid styles, a count.
        energy: Energy distance, 0 for real pictures.
        realistic: Share of pictures that lie where real ones do, see `realism.RealismTest`.
        copied: Share of pictures that repeat a training picture.
        c_t: Data-copying statistic against the references, in standard deviations: far below 0 for copies.
        authenticity: Share farther from their nearest training picture than that one is from its own.
        kid: Kernel distance to the references, on late features; 0 for real pictures.
        frechet: Fréchet distance to the same, which falls with the number of pictures; 0 for real pictures.
        sharpness: Gradient energy over that of the references: below 1 blurred, above 1 noisy.
    """

    fit: Interval
    diversity: Interval
    joint: Interval
    score: Interval
    hit: Interval
    styles: Interval
    energy: Interval
    realistic: Interval
    copied: Interval
    c_t: float
    authenticity: float
    kid: float
    frechet: float
    sharpness: float


@dataclass(frozen=True)
class Calibration:
    """Do a caption's pictures differ as much as real ones do? No headline: a model blind to captions can pass.

    Args:
        spread_skill: 1 when calibrated, less when too sure, more when too unsure.
        ranks: Captions by rank of their references among the samples, n + 1 counts; flat when calibrated.
        reliability: How far `ranks` is from flat; 0 when flat, at most 2.
    """

    spread_skill: Interval
    ranks: list[float]
    reliability: float


@dataclass(frozen=True)
class Judged:
    """What the judge says of one method's pictures, caption by caption.

    Args:
        per: Figures of each of C captions.
        points: Its pictures in the space of captions, [(n, D)] * C.
        late: Their late features, [(n, F)] * C.
        gradient: Their gradient energy, [(n,)] * C.
    """

    per: PerCaption
    points: list[np.ndarray]
    late: list[np.ndarray]
    gradient: list[np.ndarray]

    def __getitem__(self, index: np.ndarray) -> "Judged":
        """The captions at `index`, (C',)."""
        pick = [int(i) for i in index]
        return Judged(self.per[index], *([group[i] for i in pick] for group in (self.points, self.late, self.gradient)))


def fit_of(m: np.ndarray) -> np.ndarray:
    """Fit from means (..., 6) of hit, real hit, styles, real styles, energy, unconditional energy."""
    return fit.chance_adjusted(m[..., 0], m[..., 1])


def diversity_of(m: np.ndarray) -> np.ndarray:
    """Diversity from the same means (..., 6)."""
    return m[..., 2] / m[..., 3]


def joint_of(m: np.ndarray) -> np.ndarray:
    """Joint from the same means (..., 6)."""
    return joint.root_skill(m[..., 4], m[..., 5])


def score_of(m: np.ndarray) -> np.ndarray:
    """The smallest of the three, from the same means (..., 6)."""
    return np.minimum(np.minimum(fit_of(m), diversity_of(m)), joint_of(m))


@dataclass(frozen=True)
class Bench:
    """One target with everything that methods are compared with, so that each is judged alike.

    Args:
        judge: Describes pictures.
        target: The captions and what their pictures are held against.
        seed: Of the bootstrap.
        real: What the judge says of the references themselves.
    """

    judge: Judge
    target: Target
    seed: int
    real: Judged

    @classmethod
    def of(cls, judge: Judge, target: Target, seed: int = 0) -> "Bench":
        """Gather the references of a target."""
        seen = judge.look_at(np.concatenate(target.refs.rows))
        return cls(judge, target, seed, _judged(seen, _sizes(target), target.of_real))

    @property
    def rows(self) -> np.ndarray:
        """Rows of the references, caption by caption, (R,)."""
        return np.concatenate(self.target.refs.rows)

    def __getitem__(self, index: np.ndarray) -> "Bench":
        """The captions at `index`, (C',), with the same rivals."""
        return Bench(self.judge, self.target[index], self.seed, self.real[index])

    def real_figures(self) -> Figures:
        """Of the references, each against the other artists: 1, 1 and 1, with their raw figures."""
        return self.figures(self.real)

    def samples(self, seen: Seen) -> Judged:
        """Of a model's pictures, the same number for each of C captions."""
        count = len(self.target.refs)
        return _judged(seen, [len(seen) // count] * count, self.target.of_samples)

    def reconstructions(self, seen: Seen) -> Judged:
        """Of what a codec made of each reference, R pictures, against the other artists."""
        return _judged(seen, _sizes(self.target), self.target.of_real)

    def interval(self, values: np.ndarray) -> Interval:
        """Mean of one number a caption (C,), families weighing equally."""
        return paired_bootstrap(values, self.target.refs.families, seed=self.seed)

    def figures(self, judged: Judged) -> Figures:
        """The headlines of a method and what stands beside them; `self.real` has distance 0 to itself."""
        per, real = judged.per, self.real.per
        columns = [per.hit, real.hit, per.styles, real.styles, per.energy, self.target.unconditional]
        means = np.stack(columns, axis=1)

        def headline(of: Callable[[np.ndarray], np.ndarray]) -> Interval:
            return paired_bootstrap(means, self.target.refs.families, of, seed=self.seed)

        points, known = np.concatenate(judged.points), self.judge.space.train
        late, real_late = np.concatenate(judged.late), np.concatenate(self.real.late)
        itself = judged is self.real
        return Figures(
            fit=headline(fit_of),
            diversity=headline(diversity_of),
            joint=headline(joint_of),
            score=headline(score_of),
            hit=self.interval(per.hit),
            styles=self.interval(per.styles),
            energy=self.interval(per.energy),
            realistic=self.interval(per.realistic),
            copied=self.interval(per.copied),
            c_t=memorization.c_t(known, np.concatenate(self.real.points), points),
            authenticity=memorization.authenticity(known, points),
            kid=0.0 if itself else quality.kid(late, real_late),
            frechet=0.0 if itself else quality.frechet(late, real_late),
            sharpness=float(np.concatenate(judged.gradient).mean() / np.concatenate(self.real.gradient).mean()),
        )

    def calibration(self, judged: Judged) -> Calibration:
        """Of a model's samples, the same number for every caption."""
        where = (judged.points, self.target.points, self.target.refs.artists)
        n = len(judged.points[0])
        columns = np.stack(calibration.spread_skill(*where), axis=1)

        def ratio(m: np.ndarray) -> np.ndarray:
            return calibration.spread_skill_ratio(m[..., 0], m[..., 1], n)

        ranks = calibration.rank_histogram(*where, pre_rank=calibration.outlyingness, seed=self.seed)
        return Calibration(
            paired_bootstrap(columns, self.target.refs.families, ratio, seed=self.seed),
            ranks.tolist(),
            calibration.reliability(ranks),
        )


def _judged(
    seen: Seen, sizes: Sequence[int], against: Callable[[list[Described], list[np.ndarray]], PerCaption]
) -> Judged:
    """Pictures held against real ones, caption by caption: consecutive groups of the given sizes."""
    cuts, described = np.cumsum(sizes)[:-1], seen.described.split(sizes)
    per = against(described, np.split(seen.copied, cuts))
    return Judged(per, [d.shows for d in described], np.split(seen.late, cuts), np.split(seen.gradient, cuts))


def _sizes(target: Target) -> list[int]:
    return [len(rows) for rows in target.refs.rows]
