"""A row of a report, method by method: figures are made as methods come, and what they were made of can go."""

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from eval.headlines import Calibration

Say = Callable[[str], None]


@dataclass(frozen=True)
class Collected(abc.ABC):
    """Collects a row method by method; of each, only figures stay.

    Args:
        bench: What the row's pictures are held against.
        index: Its captions among those judged, (C',); None for all.
        models: Names of the models, the one that others are compared with first.
        methods: Figures so far.
        energy: What methods are compared by, of every caption, (C',) by method.
        calibration: Of the models so far.
    """

    bench: Any
    index: np.ndarray | None
    models: Sequence[str]
    methods: dict[str, Any] = field(default_factory=dict)
    energy: dict[str, np.ndarray] = field(default_factory=dict)
    calibration: dict[str, Calibration] = field(default_factory=dict)

    @classmethod
    def of(cls, bench: Any, index: np.ndarray | None, models: Sequence[str]) -> Self:
        """For all captions of a bench, or for those at `index`."""
        return cls(bench if index is None else bench[index], index, models)

    def mine(self, judged: Any) -> Any:
        """The row's part of what was judged on all captions."""
        return judged if self.index is None else judged[self.index]

    @abc.abstractmethod
    def add(self, name: str, judged: Any) -> None:
        """Take in a method, judged on all captions."""


def collect(rows: Sequence[Mapping[str, Collected]], methods: Iterable[tuple[str, Sequence[Any]]], say: Say) -> None:
    """Show every method, as judged by each bench, to that bench's rows."""
    for name, judged in methods:
        say(f"  {name}")
        for mine, one in zip(rows, judged, strict=True):
            for row in mine.values():
                row.add(name, one)
