"""What the judge keeps of one method, and reports of it, where a caption has one picture."""

from dataclasses import dataclass, field

import numpy as np

from eval.data import References
from eval.metrics import fit
from eval.metrics.bootstrap import Interval
from eval.space import Described


@dataclass(frozen=True)
class SingleFigures:
    """One method on one row. None where it does not exist; `absent` says why.

    Args:
        fit: Chance-adjusted, gated Caption-ID: 0 is chance, 1 always found. No real picture by another artist
            sets the scale, and 1 cannot be reached: see `eval.metrics.single.hits_of`.
        diversity: Distance of a caption's valid pictures; 1 is that of real pictures of different captions, and
            nothing beyond it counts. See `eval.metrics.single.valid_distance`. Right pictures of one caption should
            differ less than pictures of different ones, so 1 is no aim.
        joint: How much nearer its pairs of caption and picture come to the real ones than with captions shuffled:
            1 as near as real pairs, 0 captions ignored; see `eval.metrics.single.joint_interval`.
        hit: Caption-ID itself, a share.
        energy_score: Energy score, lower is better; of the same captions only.
        realistic: Share of pictures that lie where real ones do, see `realism.RealismTest`.
        copied: Share of pictures that repeat a training picture.
        c_t: As in `eval.headlines.Figures`, like all below.
        authenticity: A share.
        kid: Kernel distance to the real pictures.
        frechet: Fréchet distance to the same.
        sharpness: Gradient energy over that of the real pictures.
        absent: Reasons, by field.
    """

    fit: Interval | None
    diversity: Interval | None
    joint: Interval | None
    hit: Interval | None
    energy_score: Interval | None
    realistic: Interval
    copied: Interval
    c_t: float | None
    authenticity: float
    kid: float | None
    frechet: float | None
    sharpness: float | None
    absent: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SingleTarget:
    """What pictures of C captions are held against.

    Args:
        refs: The captions and the rows of their real pictures.
        shown: What the judge says of each caption's real pictures, C of them.
        rivals: Captions to be confused with: all of the split.
    """

    refs: References
    shown: list[Described]
    rivals: fit.Rivals

    def __getitem__(self, index: np.ndarray) -> "SingleTarget":
        """The captions at `index`, (C',), with the same rivals."""
        return SingleTarget(self.refs[index], [self.shown[int(i)] for i in index], self.rivals)


@dataclass(frozen=True)
class Drawn:
    """What the judge says of one method's pictures, caption by caption, each [(n, ...)] * C.

    Args:
        kind: 'samples', 'real', or 'reconstruction' (one for each real picture).
        shows: Where they lie by what they show.
        style: Where they lie by how they are drawn.
        realistic: Whether each passes the realism test.
        hits: Probability of a hit of each.
        copied: Whether each is a copy.
        late: Late features.
        gradient: Gradient energy.
        asked: Family of the caption that the pictures were drawn for, (C,): another one where they were shuffled.
    """

    kind: str
    shows: list[np.ndarray]
    style: list[np.ndarray]
    realistic: list[np.ndarray]
    hits: list[np.ndarray]
    copied: list[np.ndarray]
    late: list[np.ndarray]
    gradient: list[np.ndarray]
    asked: np.ndarray

    def __getitem__(self, index: np.ndarray) -> "Drawn":
        """The captions at `index`, (C',)."""
        pick = [int(i) for i in index]
        return Drawn(
            self.kind,
            [self.shows[i] for i in pick],
            [self.style[i] for i in pick],
            [self.realistic[i] for i in pick],
            [self.hits[i] for i in pick],
            [self.copied[i] for i in pick],
            [self.late[i] for i in pick],
            [self.gradient[i] for i in pick],
            self.asked[pick],
        )
