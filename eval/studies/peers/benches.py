"""What a peer's pictures are held against, and the few figures of them that are remembered."""

import math
from dataclasses import dataclass
from functools import cached_property

from bridge.errors import UserError
from eval.bench import Bench, bench_of
from eval.judge import Judge
from eval.report import ROWS
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
        return self.judge.singly is not None

    @cached_property
    def _made(self) -> dict[str, dict[str, Bench]]:
        return {}

    def of(self, split: str) -> dict[str, Bench]:
        """The rows of a split that the dataset has, by name."""
        if split not in self._made:
            parts = {name: part for name, part in ROWS[split].items() if part in self.judge.pictures.split}
            if not parts:
                raise UserError(f"data: no picture has split {' or '.join(map(repr, ROWS[split].values()))}")
            benches = {name: bench_of(self.judge, part, self.n, captions=self.captions) for name, part in parts.items()}
            self._made[split] = benches
        return self._made[split]

    def figures(self, generate: Generate, split: str) -> dict[str, dict[str, float]]:
        """Figures by row of a split: headlines and copies as far as they exist, and the score's interval as `low` and
        `high`; for single pictures the score is fit."""
        rows = {}
        for row, bench in self.of(split).items():
            (seen,) = seen_of([self.judge], "peer", generate, bench.refs.captions, self.n)
            figures = bench.figures(bench.samples(seen))
            score = figures.fit if self.singly else figures.score
            assert score is not None  # of samples, both are there
            values = {name: figures.value(name) for name in HEADLINES}
            ends = {"score": score.value, "low": score.low, "high": score.high}
            rows[row] = {name: value for name, value in values.items() if not math.isnan(value)} | ends
        return rows
