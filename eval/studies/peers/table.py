"""The one table of the comparison: mean and spread over seeds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from eval.studies.peers.base import Sampling, Trial
from eval.table import table

HEADLINES = ("fit", "diversity", "joint", "score", "copied")


@dataclass(frozen=True)
class Spread:
    """A figure over seeds.

    Args:
        mean: Over the seeds.
        deviation: Sample standard deviation; None with a single seed.
        values: One a seed.
    """

    mean: float
    deviation: float | None
    values: list[float]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of one value a seed.

        >>> str(Spread.of([0.25, 0.75]))
        '0.50 ± 0.35'
        """
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, list(values))

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.deviation is None else f"{self.mean:.2f} ± {self.deviation:.2f}"


@dataclass(frozen=True)
class Line:
    """One peer.

    Args:
        peer: Its name.
        uses_vae: Whether the VAE's minutes were charged to it.
        minutes: Of training its own network, by seed; empty without training.
        steps: Optimiser steps, by seed.
        trial: The chosen hyperparameters.
        sampling: The chosen way to sample.
        validation: Score on validation, by seed.
        rows: Headlines on the test rows, by row and name.
        failed: Why there are none.
    """

    peer: str
    uses_vae: bool
    minutes: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    trial: Trial | None = None
    sampling: Sampling | None = None
    validation: Spread | None = None
    rows: dict[str, dict[str, Spread]] = field(default_factory=dict)
    failed: str | None = None


@dataclass(frozen=True)
class PeersReport:
    """Everything found.

    Args:
        split: On which the peers were judged at the end.
        minutes: Of every peer.
        vae_minutes: Of these, charged to what uses the VAE.
        captions: Judged at most, of each row; None for all.
        samples: Pictures a caption.
        lines: One a peer.
        references: Score of real pictures and of the codec's reconstructions, by row.
        about: What the caller adds.
    """

    split: str
    minutes: float
    vae_minutes: float
    captions: int | None
    samples: int
    lines: list[Line]
    references: dict[str, dict[str, float]]
    about: dict[str, str]


def to_text(report: PeersReport) -> str:
    """The table, best score of each row first; 'VAE' marks who paid for it."""
    text = [
        f"split {report.split} · {report.samples} samples a caption · {report.minutes:g} minutes each, "
        f"{report.vae_minutes:g} of them for the VAE where one is used · mean ± deviation over seeds"
    ]
    for row in report.references:
        here = sorted((line for line in report.lines if row in line.rows), key=lambda one: -one.rows[row]["score"].mean)
        rows = [["", *HEADLINES, "steps", "minutes", ""], *(_cells(line, row) for line in here)]
        rows += [[name, "", "", "", f"{value:.2f}", "", "", "", ""] for name, value in report.references[row].items()]
        text += ["", row, *table(rows)]
    return "\n".join(text + [f"{line.peer}: absent, {line.failed}" for line in report.lines if line.failed])


def _cells(line: Line, row: str) -> list[str]:
    cost = [f"{statistics.fmean(line.steps):.0f}", f"{statistics.fmean(line.minutes):.2f}"] if line.steps else ["", ""]
    figures = [str(line.rows[row][name]) for name in HEADLINES]
    return [line.peer, *figures, *cost, "VAE" if line.uses_vae else ""]
