"""From figures caption by caption to the three headlines and what stands beside them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from eval import fit, joint, quality
from eval.bootstrap import Interval, paired_bootstrap
from eval.judge import Judge, PerCaption, Target
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
        realistic: Share of pictures as near to training pictures as real ones.
        copied: Share of pictures that repeat a training picture.
        kid: Kernel distance to the references, on late features; 0 for real pictures.
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
    kid: float
    sharpness: float


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
        pixels: The references, caption by caption, (R, 3, H, W).
        late: Their late features, (R, F).
        real: Figures of the references themselves.
    """

    judge: Judge
    target: Target
    seed: int
    pixels: Tensor
    late: np.ndarray
    real: PerCaption

    @classmethod
    def of(cls, judge: Judge, target: Target, seed: int = 0) -> "Bench":
        """Gather the references of a target."""
        rows = np.concatenate(target.refs.rows)
        pixels = judge.pictures.pixels(rows)
        copied = np.split(judge.copies(pixels)[0], np.cumsum(_sizes(target))[:-1])
        real = target.of_real(target.shown, copied)
        return cls(judge, target, seed, pixels, judge.features.late[rows], real)

    def real_figures(self) -> Figures:
        """Of the references, each against the other artists: 1, 1 and 1, with their raw figures."""
        return self._figures(self.real, kid=0.0, sharpness=1.0)

    def samples(self, x: Tensor) -> tuple[PerCaption, Figures]:
        """Of a model's pictures (C, n, 3, H, W) in [0, 1]."""
        return self._judge(x.flatten(0, 1), [x.shape[1]] * x.shape[0], self.target.of_samples)

    def reconstructions(self, x: Tensor) -> tuple[PerCaption, Figures]:
        """Of what a codec made of each reference, (R, 3, H, W), against the other artists."""
        return self._judge(x, _sizes(self.target), self.target.of_real)

    def interval(self, values: np.ndarray) -> Interval:
        """Mean of one number a caption (C,), families weighing equally."""
        return paired_bootstrap(values, self.target.refs.families, seed=self.seed)

    def _judge(
        self,
        x: Tensor,
        sizes: Sequence[int],
        against: Callable[[list[Described], list[np.ndarray]], PerCaption],
    ) -> tuple[PerCaption, Figures]:
        features = self.judge.extractor.encode(x)
        described = self.judge.space.describe(features).split(sizes)
        copied = np.split(self.judge.copies(x)[0], np.cumsum(sizes)[:-1])
        per = against(described, copied)
        kid = quality.kid(features.late, self.late)
        return per, self._figures(per, kid, quality.sharpness_ratio(x.numpy(), self.pixels.numpy()))

    def _figures(self, per: PerCaption, kid: float, sharpness: float) -> Figures:
        columns = [per.hit, self.real.hit, per.styles, self.real.styles, per.energy, self.target.unconditional]
        means = np.stack(columns, axis=1)

        def headline(of: Callable[[np.ndarray], np.ndarray]) -> Interval:
            return paired_bootstrap(means, self.target.refs.families, of, seed=self.seed)

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
            kid=kid,
            sharpness=sharpness,
        )


def _sizes(target: Target) -> list[int]:
    return [len(rows) for rows in target.refs.rows]
