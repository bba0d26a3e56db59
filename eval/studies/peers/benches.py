"""What a peer's pictures are held against, and the few figures of them that are remembered."""

from dataclasses import dataclass
from functools import cached_property

from bridge.errors import UserError
from eval.headlines import Bench
from eval.judge import Judge
from eval.metrics.bootstrap import Interval
from eval.report import ROWS
from eval.single_bench import SingleBench
from eval.single_space import SingleSpace
from eval.stream import Generate, seen_of
from eval.studies.peers.table import HEADLINES

SINGLE = "the score is fit alone, with which diversity and joint have no scale in common"
"""What a judge of single pictures takes for the score."""


@dataclass(frozen=True)
class Benches:
    """What pictures are held against.

    Args:
        judge: The dataset and the space fitted to it.
        n: Pictures a caption.
        captions: Judge at most so many of each row.
    """

    judge: Judge
    n: int
    captions: int | None

    @property
    def singly(self) -> bool:
        """Whether captions have one picture, so that the score is fit alone."""
        return isinstance(self.judge.space, SingleSpace)

    @cached_property
    def _made(self) -> dict[str, dict[str, Bench | SingleBench]]:
        return {}

    def of(self, split: str) -> dict[str, Bench | SingleBench]:
        """The rows of a split that the dataset has, by name.

        Raises:
            ValueError: It has none, or a row with too few captions.
        """
        if split not in self._made:
            parts = {name: part for name, part in ROWS[split].items() if part in self.judge.pictures.split}
            if not parts:
                raise UserError(f"data: no picture has split {' or '.join(map(repr, ROWS[split].values()))}")
            self._made[split] = {name: self._bench(part) for name, part in parts.items()}
        return self._made[split]

    def _bench(self, part: str) -> Bench | SingleBench:
        if self.singly:
            return SingleBench.of(self.judge, part, captions=self.captions)
        return Bench.of(self.judge, self.judge.target(part, self.n, self.captions))

    def figures(self, generate: Generate, split: str) -> dict[str, dict[str, float]]:
        """Figures by row of a split: headlines and copies, and the score's interval as `low` and `high`.

        A judge of single pictures gives fit, diversity where a caption has two pictures that show it, copies, and
        fit for the score.
        """
        found = {}
        for row, bench in self.of(split).items():
            (seen,) = seen_of([self.judge], "peer", generate, bench.target.refs.captions, self.n)
            if isinstance(bench, SingleBench):
                single = bench.figures(bench.samples(seen))
                measured = {"fit": single.fit, "diversity": single.diversity, "copied": single.copied}
                score = single.fit
            else:
                figures = bench.figures(bench.samples(seen))
                measured = {name: getattr(figures, name) for name in HEADLINES}
                score = figures.score
            found[row] = _values(measured, score)
        return found


def _values(measured: dict[str, Interval | None], score: Interval | None) -> dict[str, float]:
    assert score is not None  # of samples, fit always is
    ends = {"score": score.value, "low": score.low, "high": score.high}
    return {name: interval.value for name, interval in measured.items() if interval is not None} | ends
