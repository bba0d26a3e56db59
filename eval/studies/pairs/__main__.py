"""python -m eval.studies.pairs MODEL --data data/pictures --minutes M: how many captioned pictures does a bridge need?

The bridge and the direct way (text code to pixels) are trained on the same few pairs, and both are given all
other training pictures without captions; for the same minutes, and each to its own plateau. Fewer pairs are part
of more, one of every family before a second of any. The claim under test: the bridge needs at least five times
fewer pairs for the same score. How to sample is chosen on validation; test is read once a training. Data with one
picture a caption will do: the score is then fit alone.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bridge.checkpoint import atomic_write
from bridge.errors import UserError
from eval import plots
from eval.data import Pictures
from eval.metrics.bootstrap import Interval
from eval.plots import Curve, to_svg
from eval.report import ROWS, to_json
from eval.studies.pairs.verdicts import Trend, Verdict, trend, verdict
from eval.studies.peers.__main__ import add_common, open_workshop
from eval.studies.peers.base import Sampling, TrainedPeer
from eval.studies.peers.benches import SINGLE
from eval.studies.peers.direct import Direct, DirectPlateau
from eval.studies.peers.mapped import BridgeFlow
from eval.studies.peers.study import Workshop
from eval.table import table
from train.command import Parser, run_command, spelled, whole
from train.data.dataset import content_hash

NAME = "python -m eval.studies.pairs"
SIZES = (100, 300, 1000, 3000, 10000)
"""Numbers of pairs that are tried unless others are asked for, as far as the data has so many; and all."""
METHODS = ("bridge_flow", "direct")
SHOWN = ("fit", "diversity", "joint")


class BridgePlateau(BridgeFlow):
    """Ours, run on until its validation loss stops improving."""

    name, plateau = "bridge_flow_plateau", True


MODES: dict[str, tuple[TrainedPeer, TrainedPeer]] = {
    "equal minutes": (BridgeFlow(), Direct()),
    "plateau": (BridgePlateau(), DirectPlateau()),
}


@dataclass(frozen=True)
class Point:
    """One method on one number of pairs.

    Args:
        mode: 'equal minutes' or 'plateau'.
        method: One of METHODS.
        pairs: Captioned pictures.
        seed: Of training and noise.
        sampling: Chosen on validation.
        steps: Optimiser steps.
        minutes: Of training, the VAE's not included.
        rows: See `benches.Benches.figures`, of the test.
    """

    mode: str
    method: str
    pairs: int
    seed: int
    sampling: Sampling
    steps: int
    minutes: float
    rows: dict[str, dict[str, float]]


@dataclass(frozen=True)
class PairsReport:
    """Everything found."""

    points: list[Point]
    verdicts: list[Verdict]
    trends: list[Trend]
    about: dict[str, str]


def pair_order(pictures: Pictures, rows: np.ndarray) -> np.ndarray:
    """Positions in `rows` by hash, one of each family before a second of any: fewer are part of more.

    Args:
        rows: Its training rows, (N,).

    Returns:
        A permutation of 0..N-1.
    """
    key = [content_hash(f"{pictures.label[r]}\0{pictures.artist[r]}\0".encode() + pictures.encoded[r]) for r in rows]
    rank: dict[int, int] = {}
    seen: dict[int, int] = {}
    for i in sorted(range(len(rows)), key=lambda j: key[j]):
        family = int(pictures.family[rows[i]])
        rank[i] = seen[family] = seen.get(family, 0) + 1
    return np.array(sorted(rank, key=lambda i: (rank[i], key[i])), dtype=int)


def mean_scores(points: Sequence[Point], mode: str, method: str, row: str, name: str = "score") -> dict[int, float]:
    """Mean over seeds of a figure, by pairs, fewest first."""
    figures: dict[int, list[float]] = {}
    for p in points:
        if (p.mode, p.method) == (mode, method):
            figures.setdefault(p.pairs, []).append(p.rows[row][name])
    return {pairs: sum(v) / len(v) for pairs, v in sorted(figures.items())}


def measure(shop: Workshop, mode: str, method: str, seed: int, trial: int) -> Point:
    """Train a method on the workshop's pairs, choose how to sample on validation, judge on test; or remember."""
    peer = MODES[mode][METHODS.index(method)]
    tested = shop.tested(peer, peer.trials[trial], seed)
    pairs = len(shop.material.paired)
    if tested is None:
        raise UserError(f"{peer.name}: diverged with {pairs} pairs; see results.jsonl")
    return Point(mode, method, pairs, seed, tested.sampling, tested.steps, tested.minutes, tested.rows)


def with_pairs(shop: Workshop, order: Tensor, count: int) -> Workshop:
    """The same workshop with captions for the first `count` of `order`; all other pictures have none."""
    material = shop.material.only(order[:count])
    return replace(shop, material=material, identity={**shop.identity, "pairs": len(material.paired)})


def sizes_of(asked: Sequence[str] | None, most: int) -> list[int]:
    """Numbers of pairs, fewest first; None for SIZES."""
    if asked is None:
        return [*(size for size in SIZES if size < most), most]
    sizes = set()
    for word in asked:
        count = most if word == "all" else int(word) if word.isdecimal() else 0
        if not 2 <= count <= most:
            raise UserError(f"--sizes: expected numbers from 2 to {most} or 'all', got {word!r}")
        sizes.add(count)
    return sorted(sizes)


def to_text(report: PairsReport) -> str:
    """A table a row of the test, the verdicts, and what more pairs brought."""
    lines = []
    for row in dict.fromkeys(v.row for v in report.verdicts):
        cells = [["", "", "pairs", *SHOWN, "score", "copies", "steps"]]
        for p in report.points:
            f = p.rows[row]
            figures = [f"{f[name]:.2f}" if name in f else "–" for name in SHOWN]
            score = str(Interval(f["score"], f["low"], f["high"]))
            cells.append([p.mode, p.method, str(p.pairs), *figures, score, f"{f['copied']:.2f}", str(p.steps)])
        lines += [row, *table(cells), ""]
    judged = [f"judged {report.about['judged']}"] if "judged" in report.about else []
    return "\n".join([*lines, *map(str, report.verdicts), *map(str, report.trends), *judged])


def chart(points: Sequence[Point], row: str) -> str:
    """Score against pairs on one row, SVG."""
    curves = []
    for mode in dict.fromkeys(p.mode for p in points):
        for method in METHODS:
            curve = scores(points, mode, method, row)
            y, low, high = ([getattr(s, end) for s in curve.values()] for end in ("value", "low", "high"))
            name = f"{'bridge' if method == METHODS[0] else method}, {mode}"
            curves.append(Curve(name, list(curve), y, low, high, mode != "equal minutes"))
    return to_svg(plots.curves(f"{row} captions", curves, "pairs", "score"))


def build_parser() -> Parser:
    """The command's arguments."""
    parser = Parser(NAME, __doc__, f"{NAME} pictures --data data/pictures --minutes 10")
    add_common(parser)
    known = ", ".join(map(str, SIZES))
    parser.add_argument(
        "--sizes", nargs="+", metavar="PAIRS", help=f"numbers of pairs, or 'all'; {known} and all if not given"
    )
    parser.add_argument(
        "--modes", nargs="+", choices=list(MODES), default=list(MODES), metavar="MODE", help=f"of {', '.join(MODES)}"
    )
    parser.add_argument(
        "--trial", type=whole(0), nargs=2, default=[0, 0], metavar="I", help="trials of bridge and direct way"
    )
    parser.set_defaults(out="runs/pairs", seeds=1)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the table is printed, 2 for bad input."""
    return run_command(build_parser(), argv, lambda args: _run(args, spelled(NAME, argv)))


def _run(args: argparse.Namespace, command: str) -> None:
    if not all(0 <= i < len(peer.trials) for i, peer in zip(args.trial, MODES["equal minutes"], strict=True)):
        raise UserError(
            f"--trial: expected two numbers from 0, got {args.trial}; see eval/studies/peers for the trials"
        )
    shop = open_workshop(args, singly=True)
    pictures = shop.benches.judge.pictures
    order = torch.from_numpy(pair_order(pictures, pictures.where("train")))
    points = [
        measure(with_pairs(shop, order, size), mode, method, seed, trial)
        for size in sizes_of(args.sizes, len(order))
        for mode in args.modes
        for method, trial in zip(METHODS, args.trial, strict=True)
        for seed in range(args.seeds)
    ]
    judged = {"judged": f"singly: {SINGLE}"} if shop.benches.singly else {}
    report = report_of(points, {"command": command} | judged)
    atomic_write(Path(args.out) / "pairs.json", to_json(report))
    for row in points[0].rows:
        atomic_write(Path(args.out) / f"pairs-{row}.svg", chart(points, row))
    print(to_text(report))


def scores(points: Sequence[Point], mode: str, method: str, row: str) -> dict[int, Interval]:
    """A method's scores with their intervals, means over seeds, by pairs, fewest first."""
    value, low, high = (mean_scores(points, mode, method, row, name) for name in ("score", "low", "high"))
    return {pairs: Interval(value[pairs], low[pairs], high[pairs]) for pairs in value}


def report_of(points: Sequence[Point], about: dict[str, str]) -> PairsReport:
    """The report of points: a verdict and a trend each row of the test and mode."""
    verdicts, trends = [], []
    for row in (row for row in ROWS["test"] if row in points[0].rows):
        for mode in dict.fromkeys(p.mode for p in points):
            bridge, direct = (scores(points, mode, method, row) for method in METHODS)
            verdicts.append(verdict(mode, row, bridge, direct))
            trends.append(trend(mode, row, bridge))
    return PairsReport(list(points), verdicts, [t for t in trends if t is not None], about)


if __name__ == "__main__":
    sys.exit(main())
