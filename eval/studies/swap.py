"""python -m eval.studies.swap MODEL --data data/pictures: does noise carry the style, and the caption the rest?

One seed's pictures share their noise across captions. Hold the noise and vary the caption: the style should stay.
Hold the caption and vary the noise: what is shown should stay. How often two pictures agree, against pictures
that share neither, with intervals over captions.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.distance import cdist

from bridge.checkpoint import atomic_write
from bridge.errors import UserError
from bridge.pipeline import BridgePipeline
from eval.features import EfficientNetLite0
from eval.judge import Judge, Target
from eval.metrics.bootstrap import Interval, paired_bootstrap
from eval.report import to_json
from eval.table import table
from train.command import Parser, run_command, say, spelled, whole, writable_folder

NAME = "python -m eval.studies.swap"


@dataclass(frozen=True)
class Agreement:
    """How often two pictures have the same label.

    Args:
        noise_held: Same noise, other caption.
        caption_held: Same caption, other noise.
        neither: Other noise, other caption: chance.
        noise_gain: `noise_held` less `neither`, paired by caption.
        caption_gain: `caption_held` less `neither`, paired by caption.
    """

    noise_held: Interval
    caption_held: Interval
    neither: Interval
    noise_gain: Interval
    caption_gain: Interval


@dataclass(frozen=True)
class SwapReport:
    """What was found.

    Args:
        split: Whose captions.
        captions: How many.
        samples: Noises.
        style: Do styles agree?
        shown: Do the captions agree that pictures are nearest to?
        hit: Caption-ID@10-of-100 of the pictures, a share.
        real_style: Agreement in style of two real pictures by one artist, of other captions.
        real_neither: The same by two artists.
        about: Model, command, judge.
    """

    split: str
    captions: int
    samples: int
    style: Agreement
    shown: Agreement
    hit: Interval
    real_style: Interval
    real_neither: Interval
    about: dict[str, str]


def pair_rates(labels: np.ndarray, families: np.ndarray) -> np.ndarray:
    """How often a caption's pictures agree with others: same noise, same caption, neither; (C, 3).

    Args:
        labels: Of the picture of each caption and noise, (C, n) of any kind, n at least 2.
        families: Family of each caption, (C,); captions are compared with those of other families.

    >>> pair_rates(np.array([["a", "b"], ["a", "b"]]), np.array([0, 1]))
    array([[1., 0., 0.],
           [1., 0., 0.]])
    """
    if labels.ndim != 2 or labels.shape[1] < 2 or len(labels) != len(families):
        raise ValueError(f"labels, families: expected (C, n >= 2) and (C,), got {labels.shape} and {families.shape}")
    if len(np.unique(families)) < 2:
        raise UserError("families: captions are compared with those of other families, there is one only")
    n = labels.shape[1]
    same = (labels[:, :, None, None] == labels[None, None]).astype(float)
    column = np.einsum("cidi->cd", same) / n
    across = (same.sum(axis=(1, 3)) - n * column) / (n * (n - 1))
    other = (families[:, None] != families).astype(float)
    other /= other.sum(axis=1, keepdims=True)
    return np.stack([(column * other).sum(1), across.diagonal(), (across * other).sum(1)], axis=1)


def agreement(labels: np.ndarray, families: np.ndarray, seed: int = 0) -> Agreement:
    """Rates of `pair_rates` with intervals over captions, families weighing equally; the n noises are as given.

    A pair of captions belongs to both, so that a mean over pairs varies twice as much as one over captions of
    their own mean: its intervals are those of the jackknife's pseudo-values 2 a - mean(a).

    Args:
        labels: (C, n), see `pair_rates`.
        families: (C,), at least two different ones.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 11; Hoeffding 1948, A class of
        statistics with asymptotically normal distribution
    """
    noise, caption, neither = pair_rates(labels, families).T
    values = np.stack([_pseudo(noise), caption, _pseudo(neither)], axis=1)

    def interval(weights: Sequence[float]) -> Interval:
        return paired_bootstrap(values, families, lambda m: m @ np.array(weights), seed=seed)

    return Agreement(*map(interval, ([1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, -1], [0, 1, -1])))


def _pseudo(rates: np.ndarray) -> np.ndarray:
    return 2 * rates - rates.mean()


def nearest_captions(shows: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Which caption's centroid each picture is nearest to.

    Args:
        centroids: (P, D).

    Returns:
        (...) of 0 to P - 1.
    """
    flat = shows.reshape(-1, shows.shape[-1])
    return cdist(flat, centroids).argmin(axis=1).reshape(shows.shape[:-1])


def real_rates(styles: Sequence[np.ndarray], artists: Sequence[np.ndarray], families: np.ndarray) -> np.ndarray:
    """How often a caption's real pictures agree in style with those of other families: (C, 2).

    Args:
        styles: Style the judge names for each picture, [(k,)] * C.
        artists: Who drew each, [(k,)] * C.
        families: (C,).

    Returns:
        By the same artist, and by another one; NaN where there is no such pair.
    """
    caption = np.repeat(np.arange(len(styles)), [len(s) for s in styles])
    style, artist = np.concatenate(styles), np.concatenate(artists)
    apart = families[caption][:, None] != families[caption]
    same, agree = artist[:, None] == artist, style[:, None] == style
    rates = np.full((len(styles), 2), np.nan)
    for c in range(len(styles)):
        for column, kind in enumerate((apart & same, apart & ~same)):
            pairs = kind[caption == c]
            if pairs.any():
                rates[c, column] = agree[caption == c][pairs].mean()
    return rates


def measure(
    pipe: BridgePipeline, judge: Judge, target: Target, n: int, seed: int
) -> tuple[Agreement, Agreement, Interval]:
    """Agreement in style and in what is shown, and Caption-ID, of a model's pictures for a target's captions."""
    refs = target.refs
    x = pipe(list(refs.captions), n, seed=seed, output_type="pt").images
    described = judge.space.describe(judge.extractor.encode(x))
    style = described.style.reshape(len(refs), n)
    shown = nearest_captions(described.shows, target.rivals.centroids).reshape(len(refs), n)
    per = target.of_samples(described.split([n] * len(refs)), [np.zeros(n, bool)] * len(refs))
    hit = paired_bootstrap(per.hit, refs.families, seed=seed)
    return agreement(style, refs.families, seed), agreement(shown, refs.families, seed), hit


def to_text(report: SwapReport) -> str:
    """Two lines of the table, and what stands beside it."""
    head = f"{report.captions} captions of {report.split}, {report.samples} noises; two pictures agree in"
    rows = [["", "noise held", "caption held", "neither"]]
    for name, a in (("style", report.style), ("nearest caption", report.shown)):
        rows.append([name, str(a.noise_held), str(a.caption_held), str(a.neither)])
        rows.append(["  less neither", str(a.noise_gain), str(a.caption_gain), ""])
    real = f"one artist {report.real_style}, two artists {report.real_neither}"
    return "\n".join([head, *table(rows), f"style of real pictures: {real}", f"Caption-ID@10-of-100: {report.hit}"])


def build_parser() -> Parser:
    """The command's arguments."""
    parser = Parser(NAME, __doc__, f"{NAME} pictures --data data/pictures")
    parser.add_argument("model", help="a shipped model's name, a model folder, or a hub id")
    parser.add_argument("--data", type=Path, default=Path("data/pictures"), help="a dataset")
    parser.add_argument("--split", default="validation", help="whose captions: seen_validation, validation, …")
    parser.add_argument("--captions", type=whole(2), default=40, help="at most so many")
    parser.add_argument("-n", type=whole(2), default=8, help="noises, each shared by all captions")
    parser.add_argument("--seed", type=whole(0), default=0, help="key of all randomness")
    parser.add_argument("--out", type=Path, help="folder for swap.json; printed alone without it")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the table is printed, 2 for bad input."""
    return run_command(build_parser(), argv, lambda args: _run(args, spelled(NAME, argv)))


def _run(args: argparse.Namespace, command: str) -> None:
    out = None if args.out is None else writable_folder(args.out)
    pipe = BridgePipeline.from_pretrained(args.model)
    judge = Judge.load(args.data, EfficientNetLite0(), say)
    target = judge.target(args.split, args.n, args.captions)
    say(f"{len(target.refs)} captions x {args.n} noises")
    style, shown, hit = measure(pipe, judge, target, args.n, args.seed)
    rates = real_rates([d.style for d in target.shown], target.refs.artists, target.refs.families)
    real = [paired_bootstrap(r[np.isfinite(r)], target.refs.families[np.isfinite(r)], seed=args.seed) for r in rates.T]
    about = {"command": command, "model": pipe.fingerprint, "judge": judge.extractor.id}
    report = SwapReport(args.split, len(target.refs), args.n, style, shown, hit, real[0], real[1], about)
    if out is not None:
        atomic_write(out / "swap.json", to_json(report))
    print(to_text(report))


if __name__ == "__main__":
    sys.exit(main())
