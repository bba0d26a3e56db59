"""How many captioned pictures does a bridge need?

The bridge and the direct way (text code to pixels) have the same few pairs. Without training both are a local flow
over these, one of latents, one of pixels; trained, both are given all other training pictures without captions, for
the same minutes, and each to its own plateau. Fewer pairs are part of more, one of every family before a second of
any. The claim under test: the bridge needs at least five times fewer pairs for the same score. How to sample is chosen
on validation; test is read once a way and size. Data with one picture a caption will do: the score is then fit alone.
Is it the latent space? `--codec` and `--text` measure the same in other spaces, one changed at a time.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bridge.checkpoint import atomic_write
from bridge.codecs import ImageCodec, load_codec
from bridge.errors import UserError
from bridge.text import TextEncoder, open_text_encoder
from eval import plots
from eval.data import Pictures, spread_over_families
from eval.metrics.bootstrap import Interval
from eval.plots import Curve, to_svg
from eval.report import ROWS, table, to_json
from eval.studies import Study, named
from eval.studies.compare import nets
from eval.studies.compare.nets import LocalPeer, Sampling, TrainedPeer
from eval.studies.compare.study import SINGLE, Workshop, add_workshop, in_space, open_workshop
from train.command import Parser, whole, writable_file
from train.data.dataset import content_hash

SIZES = (100, 300, 1000, 3000, 10000)  # Tried, where the data has so many pairs, and all, unless --sizes says others
METHODS = ("bridge_flow", "direct")
SHOWN, ENDS = ("fit", "diversity", "joint", "score"), ("score", "low", "high")  # Figures of a table, and of a chart
CLAIM = 5.0  # How many times fewer pairs the bridge is said to need
FEWER = 3.0  # How many times fewer pairs a trend begins with
Scores = Mapping[int, Interval]  # By pairs
UNTRAINED = "no training"
MODES: dict[str, tuple[TrainedPeer | LocalPeer, TrainedPeer | LocalPeer]] = {
    UNTRAINED: (nets.LOCAL_FLOW, nets.LOCAL_PIXELS),
    "equal minutes": (nets.BRIDGE_FLOW, nets.DIRECT),
    "plateau": (replace(nets.BRIDGE_FLOW, name="bridge_flow_plateau", plateau=True), nets.DIRECT_PLATEAU),
}


@dataclass(frozen=True)
class Point:
    """What the judge says of one method on one number of pairs, and what it took where that is known."""

    mode: str  # One of MODES
    method: str  # One of METHODS
    pairs: int  # Captioned pictures
    rows: dict[str, dict[str, float]]  # See `study.Benches.figures`, of the test; at least score, low and high
    space: str = field(default="", kw_only=True)  # Name of another codec or text encoder
    seed: int = 0  # Of training and noise
    sampling: Sampling | None = None  # Chosen on validation
    steps: int = 0  # Optimiser steps
    minutes: float = 0.0  # Of training or, where there is none, of encoding the pairs; the VAE's not included
    seconds: float | None = None  # From the start to one picture: these minutes and its drawing; None if not measured

    @property
    def way(self) -> str:
        """Method, mode and space in words."""
        name = "bridge" if self.method == METHODS[0] else self.method
        return ", ".join([name, self.mode, *filter(None, [self.space])])


@dataclass(frozen=True)
class Verdict:
    """The claim on one row in one mode."""

    mode: str  # One of MODES, or the bridge's against the direct way's
    row: str  # 'seen' or 'held-out'
    target: float  # The direct way's best score
    direct_pairs: float  # With how few pairs it had it
    untold: bool  # It had it with the fewest pairs tried, so that no ratio above 1 could be found
    bridge_pairs: float | None  # With how many the bridge has it, between sizes by interpolation; None: never reached
    at_fewest: bool  # The bridge had it with the fewest pairs tried, so that the ratio is a lower bound
    ratio: float | None  # direct_pairs / bridge_pairs; None: never reached
    reached: bool  # Whether the ratio is at least CLAIM
    apart: bool  # Whether the bridge's interval, at the first size that has the score, lies above the direct way's

    def __str__(self) -> str:
        start = f"{self.row}, {self.mode}: the direct way's best score, {self.target:.2f} with {self.direct_pairs:,.0f}"
        if self.ratio is None or self.bridge_pairs is None:
            return f"{start} pairs; the bridge: never reached"
        ratio = f"{'at least ' if self.at_fewest else ''}{self.ratio:.1f}"
        verdict = "as claimed" if self.reached else f"claimed: {CLAIM:g}"
        needed = f"the bridge needs {self.bridge_pairs:,.0f}: pairs needed for the same score"
        claim = f"{start} pairs; {needed}: ratio {ratio} ({verdict})"
        doubts = ["the direct way was best with the fewest pairs, so no larger ratio could be found"] * self.untold
        doubts += ["their intervals overlap there"] * (not self.apart)
        if round(self.target, 2) < 0:
            doubts.append("a score below 0 is worse than pictures drawn blindly")
        return "; ".join([claim, *doubts])


@dataclass(frozen=True)
class Trend:
    """Whether the bridge gained by its last pairs, on one row in one mode."""

    mode: str  # One of MODES
    row: str  # 'seen' or 'held-out'
    few: int  # The largest size tried that is FEWER times below the largest, or the smallest
    many: int  # The largest
    before: Interval  # Score with `few`
    after: Interval  # Score with `many`

    def __str__(self) -> str:
        if self.after.low > self.before.high:
            verdict = "more pairs helped, and still more may"
        elif self.after.high < self.before.low:
            verdict = "more pairs made it worse: they take more minutes"
        else:
            verdict = "no clear difference (their intervals overlap): more pairs like these may not help"
        change = f"{self.before.value:.2f} to {self.after.value:.2f}"
        return f"{self.row}, {self.mode}: the bridge from {self.few:,} to {self.many:,} pairs, {change}: {verdict}"


def pairs_needed(pairs: Sequence[float], scores: Sequence[float], target: float) -> float | None:
    """The fewest pairs with which a score is had, between sizes by log-linear interpolation; None: never.

    >>> pairs_needed([100, 10000], [0.0, 1.0], 0.5)
    1000.0
    >>> pairs_needed([100, 10000], [0.0, 0.4], 0.5) is None
    True
    """
    counts, values = np.array(sorted(zip(pairs, scores, strict=True)), dtype=float).T
    if values.max() < target:
        return None
    first = int((values >= target).argmax())
    between = slice(max(first - 1, 0), first + 1)
    return round(float(np.exp(np.interp(target, values[between], np.log(counts[between])))), 6)


def verdict(mode: str, row: str, bridge: Scores, direct: Scores) -> Verdict:
    """Hold two curves against each other at the direct way's best score."""
    best = max(direct.values(), key=lambda score: score.value)
    had = min(pairs for pairs, score in direct.items() if score.value == best.value)
    needed = pairs_needed(list(bridge), [score.value for score in bridge.values()], best.value)
    ratio = None if needed is None else had / needed
    tried = [bridge[pairs] for pairs in sorted(bridge) if bridge[pairs].value >= best.value]
    untold, at_fewest = had == min(direct) < max(direct), needed == min(bridge)
    reached, apart = ratio is not None and ratio >= CLAIM, bool(tried) and tried[0].low > best.high
    return Verdict(mode, row, best.value, float(had), untold, needed, at_fewest, ratio, reached, apart)


def trend(mode: str, row: str, bridge: Scores) -> Trend | None:
    """What the last pairs brought; None where one size was tried."""
    few, many = min(bridge), max(bridge)
    few = max([pairs for pairs in bridge if pairs * FEWER <= many], default=few)
    return Trend(mode, row, few, many, bridge[few], bridge[many]) if few < many else None


def pair_order(pictures: Pictures, rows: np.ndarray) -> np.ndarray:
    """Positions in training rows (N,) by hash, one of each family before a second of any: fewer are part of more."""
    key = [content_hash(f"{pictures.label[r]}\0{pictures.artist[r]}\0".encode() + pictures.encoded[r]) for r in rows]
    return np.array(spread_over_families(key, pictures.family[rows]), dtype=int)


def scores(points: Sequence[Point], mode: str, method: str, row: str, space: str = "") -> dict[int, Interval]:
    """A method's scores with their intervals, means over seeds, by pairs, fewest first."""
    mine = [p for p in points if (p.mode, p.method, p.space) == (mode, method, space)]
    by_pairs = {pairs: [p.rows[row] for p in mine if p.pairs == pairs] for pairs in sorted({p.pairs for p in mine})}
    return {
        pairs: Interval(*(sum(f[end] for f in figures) / len(figures) for end in ENDS))
        for pairs, figures in by_pairs.items()
    }


def measure(shop: Workshop, mode: str, method: str, seed: int, trial: int, space: str) -> Point:
    """Give a method the workshop's pairs, choose how to sample on validation, judge on test; or look it up."""
    peer, pairs = MODES[mode][METHODS.index(method)], len(shop.material.paired)
    tested = shop.tested(peer, trial if isinstance(peer, TrainedPeer) else 0, seed)
    if tested is None:
        raise UserError(f"{peer.name}: diverged with {pairs} pairs; see results.jsonl")
    seconds = None if tested.drawing is None else 60 * tested.minutes + tested.drawing
    taken = tested.sampling, tested.steps, tested.minutes, seconds
    return Point(mode, method, pairs, tested.rows, seed, *taken, space=space)


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


def conclusions(points: Sequence[Point]) -> tuple[list[Verdict], list[Trend]]:
    """On each row of the test a verdict where there is a direct way, and a trend each mode, in the model's own space.

    The bridge without training is held against every direct way, else each mode's two against one another.
    """
    verdicts, trends = [], []
    for row in (row for row in ROWS["test"] if row in points[0].rows):
        modes = list(dict.fromkeys(p.mode for p in points))
        of_bridge, of_direct = ({mode: scores(points, mode, method, row) for mode in modes} for method in METHODS)
        for mine, bridge in of_bridge.items():
            for theirs, direct in of_direct.items():
                if bridge and direct and mine in (theirs, UNTRAINED):
                    name = mine if mine == theirs else f"{mine} against {theirs}"
                    verdicts.append(verdict(name, row, bridge, direct))
            if bridge:
                trends.append(trend(mine, row, bridge))
    return verdicts, [t for t in trends if t is not None]


def to_text(points: Sequence[Point]) -> str:
    """A table a row of the test."""
    lines = []
    for row in points[0].rows:
        cells = [["", "", "", "pairs", *SHOWN, "copies", "steps", "seconds"]]
        for p in points:
            figures = [_cell(p.rows[row], name) for name in (*SHOWN, "copied")]
            seconds = "–" if p.seconds is None else f"{p.seconds:.1f}"
            cells.append([p.mode, p.method, p.space, str(p.pairs), *figures, str(p.steps), seconds])
        lines += [row, *table(cells), ""]
    return "\n".join(lines)


def _cell(figures: Mapping[str, float], name: str) -> str:
    """A figure with its interval, which studies did not always keep."""
    if name not in figures:
        return "–"
    low, high = ENDS[1:] if name == "score" else (f"{name}_low", f"{name}_high")
    return str(Interval(figures[name], figures[low], figures[high])) if low in figures else f"{figures[name]:.2f}"


def chart(points: Sequence[Point], row: str) -> str:
    """Score against pairs on one row, a curve a mode, method and space, SVG."""
    curves = []
    for way, p in {p.way: p for p in points if row in p.rows}.items():
        curve = scores([q for q in points if row in q.rows], p.mode, p.method, row, p.space)
        curves.append(Curve(way, list(curve), list(curve.values()), p.mode == "plateau"))
    return to_svg(plots.curves(f"{row} captions", curves, "pairs", "score"))


def spaces_of(args: argparse.Namespace) -> dict[str, tuple[ImageCodec | None, TextEncoder | None]]:
    """Codec or text encoder by name; with neither, the model's own."""
    names = ["", *(name for name, _ in [*args.codec, *args.text])]
    if len(set(names)) < len(names):
        raise UserError(f"--codec, --text: expected different names, got {', '.join(names[1:])}")
    if args.codec and METHODS[0] not in args.methods:
        raise UserError(f"--codec: the direct way uses none; add {METHODS[0]} to --methods")
    codecs = {name: (load_codec(Path(folder)), None) for name, folder in args.codec}
    return {"": (None, None), **codecs, **{name: (None, open_text_encoder(source)) for name, source in args.text}}


def _arguments(parser: Parser) -> None:
    add_workshop(parser, "runs/pairs", 1)
    add, known = parser.add_argument, ", ".join(map(str, SIZES))
    add("--sizes", nargs="+", metavar="PAIRS", help=f"numbers of pairs, or 'all'; {known} and all if not given")
    modes = list(MODES)
    add("--modes", nargs="+", choices=modes, default=modes, metavar="MODE", help=f"of {', '.join(modes)}")
    add("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="NAME", help=f"of {', '.join(METHODS)}")
    add("--trial", type=whole(0), nargs=2, default=[0, 0], metavar="I", help="trials of bridge and direct way")
    more: dict[str, Any] = {"type": named, "action": "append", "default": []}
    add("--codec", **more, metavar="NAME=FOLDER", help="also the bridge with this codec; again for more")
    add("--text", **more, metavar="NAME=SOURCE", help="also all with this text encoder, by folder, file or hub id")


def _run(args: argparse.Namespace, command: str) -> None:
    if not all(i < len(peer.trials) for i, peer in zip(args.trial, MODES["equal minutes"], strict=True)):
        remedy = "see eval/studies/compare/nets.py for the trials"
        raise UserError(f"--trial: expected two numbers from 0, got {args.trial}; {remedy}")
    spaces = spaces_of(args)
    shop = open_workshop(args, singly=True)
    pictures = shop.benches.judge.pictures
    order = torch.from_numpy(pair_order(pictures, pictures.where("train")))
    sizes, points = sizes_of(args.sizes, len(order)), list[Point]()
    for space, (codec, encoder) in spaces.items():
        here = shop
        if codec or encoder:
            here = replace(shop, **in_space(args, pictures, codec or shop.codec, encoder or shop.encoder))
        for size in sizes:
            material = here.material.only(order[:size])
            some = replace(here, material=material, identity={**here.identity, "pairs": len(material.paired)})
            points += [
                measure(some, mode, method, seed, trial, space)
                for mode in args.modes
                for peer, method, trial in zip(MODES[mode], METHODS, args.trial, strict=True)
                if method in args.methods and (peer.uses_vae or not codec)
                for seed in range(args.seeds)
            ]
    verdicts, trends = conclusions(points)
    about = {"command": command} | ({"judged": f"singly: {SINGLE}"} if shop.benches.judge.singly else {})
    report = {"points": points, "verdicts": verdicts, "trends": trends, "about": about}
    atomic_write(Path(args.out) / "pairs.json", to_json(report))
    for row in points[0].rows:
        atomic_write(Path(args.out) / f"pairs-{row}.svg", chart(points, row))
    print(to_text(points), *verdicts, *trends, sep="\n")
    if shop.benches.judge.singly:
        print(f"judged singly: {SINGLE}")


STUDY = Study(__doc__, "pictures --data data/pictures --minutes 10", _arguments, _run)


def points_of(path: Path) -> list[Point]:
    """The points of a pairs.json. Raises UserError if there is no such file, or it is none that `pairs` writes."""
    try:
        points = json.loads(path.read_text("utf-8"))["points"]
        read = [Point(p["mode"], p["method"], int(p["pairs"]), p["rows"], space=p.get("space", "")) for p in points]
        scored = all(isinstance(f[end], int | float) for p in read for f in p.rows.values() for end in ENDS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a pairs.json that `pairs` wrote") from error
    if not (read and scored):
        raise UserError(f"{path}: holds no scores; give a pairs.json that `pairs` wrote")
    return read


def _chart_arguments(parser: Parser) -> None:
    add, rows = parser.add_argument, list(ROWS["test"])
    add("results", type=Path, nargs="+", metavar="FILE", help="a pairs.json; of several, the points of all")
    add("--curves", nargs="+", metavar="NAME", help="as in the legend, such as 'bridge, no training'; default all")
    add("--rows", nargs="+", choices=rows, default=rows, metavar="ROW", help=f"of {', '.join(rows)}")
    add("--out", type=Path, required=True, metavar="PREFIX", help="charts are PREFIX-ROW.svg")


def _draw(args: argparse.Namespace, _: str) -> None:
    """Charts of score against pairs, from results of `pairs`.

    Reads the pairs.json of one run or several, and draws one chart for captions seen and one for captions held out.
    """
    every = [p for path in args.results for p in points_of(path)]
    ways = list(dict.fromkeys(p.way for p in every))
    for name in args.curves or ():
        if name not in ways:
            raise UserError(f"--curves: there is no {name!r}; there are: {'; '.join(ways)}")
    points = [p for name in args.curves or ways for p in every if p.way == name]
    rows = [row for row in args.rows if any(row in p.rows for p in points)]
    if not rows:
        raise UserError(f"--rows: no result has {' or '.join(args.rows)}")
    for row in rows:
        out = args.out.with_name(f"{args.out.name}-{row}.svg")
        writable_file(out, ending=".svg")
        atomic_write(out, chart(points, row))
        print(out)


CHARTS = Study(_draw.__doc__, "runs/pairs/pairs.json --out pairs", _chart_arguments, _draw)
