"""Does noise carry the style, and the caption the rest?

One seed's pictures share their noise across captions. Hold the noise and vary the caption: the style should stay.
Hold the caption and vary the noise: what is shown should stay. How often two pictures agree, against pictures
that share neither, with intervals over captions.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy.spatial.distance import cdist

from bridge.arguments import writable_folder
from bridge.checkpoint import atomic_write
from bridge.errors import UserError
from bridge.pipeline import BridgePipeline
from eval.bench import bench_of
from eval.features import EfficientNetLite0
from eval.judge import Judge
from eval.metrics.bootstrap import Interval, paired_bootstrap
from eval.report import table, to_json
from eval.studies import Study, add_common
from train.command import Parser, say, whole


@dataclass(frozen=True)
class Agreement:
    noise_held: Interval  # Same noise, other caption
    caption_held: Interval  # Same caption, other noise
    neither: Interval  # Other noise, other caption: chance
    noise_gain: Interval  # `noise_held` less `neither`, paired by caption
    caption_gain: Interval  # `caption_held` less `neither`, paired by caption


def pair_rates(labels: np.ndarray, families: np.ndarray) -> np.ndarray:
    """Agreement by the same noise, same caption, neither, (C, 3), of labels (C, n) with those of other families."""
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
    """Rates of `pair_rates` with intervals over captions, families having equal weight; the n noises are as given.

    A pair of captions belongs to both, so that a mean over pairs varies twice as much as one over captions of
    their own mean: its intervals are those of the jackknife's pseudo-values 2 a - mean(a).

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 11; Hoeffding 1948, A class of
        statistics with asymptotically normal distribution
    """
    noise, caption, neither = pair_rates(labels, families).T
    values = np.stack([2 * noise - noise.mean(), caption, 2 * neither - neither.mean()], axis=1)
    weights = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, -1], [0, 1, -1]])
    return Agreement(*(paired_bootstrap(values, families, partial(np.dot, b=w), seed=seed) for w in weights))


def nearest_captions(shows: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Which caption's centroid (P, D) each picture (..., D) is nearest to, (...) of 0 to P - 1."""
    return cdist(shows.reshape(-1, shows.shape[-1]), centroids).argmin(axis=1).reshape(shows.shape[:-1])


def real_rates(styles: Sequence[np.ndarray], artists: Sequence[np.ndarray], families: np.ndarray) -> np.ndarray:
    """How often real pictures agree in style with other families' by the same artist, and by others, (C, 2), or NaN."""
    caption = np.repeat(np.arange(len(styles)), [len(s) for s in styles])
    style, artist = np.concatenate(styles), np.concatenate(artists)
    apart = families[caption][:, None] != families[caption]
    same, agree = artist[:, None] == artist, style[:, None] == style
    own = (np.arange(len(styles))[:, None] == caption).astype(float)
    counts = [(own @ (kind & agree).sum(1), own @ kind.sum(1)) for kind in (apart & same, apart & ~same)]
    with np.errstate(invalid="ignore"):
        return np.stack([agreeing / pairs for agreeing, pairs in counts], axis=1)


def _arguments(parser: Parser) -> None:
    add_common(parser, "model", "--data", "--seed")
    parser.add_argument("--split", default="validation", help="whose captions: seen_validation, validation, …")
    parser.add_argument("--captions", type=whole(2), default=40, help="at most so many")
    parser.add_argument("-n", type=whole(2), default=8, help="noises, each shared by all captions")
    parser.add_argument("--out", type=Path, help="folder for swap.json; printed alone without it")


def _run(args: argparse.Namespace, command: str) -> None:
    out = None if args.out is None else writable_folder(args.out)
    pipe = BridgePipeline.from_pretrained(args.model)
    judge = Judge.load(args.data, EfficientNetLite0(), say)
    bench = bench_of(judge, args.split, args.n, captions=args.captions)
    refs, families, seed = bench.refs, bench.refs.families, args.seed
    say(f"{len(refs)} captions x {args.n} noises")
    seen = judge.look(pipe(list(refs.captions), args.n, seed=seed, output_type="pt").images)
    labels = (seen.style, nearest_captions(seen.shows, bench.rivals.centroids))
    style, shown = (agreement(each.reshape(len(refs), args.n), families, seed) for each in labels)
    hit = paired_bootstrap(bench.samples(seen).per.hit, families, seed=seed)
    rates = real_rates([s.style for s in bench.seen], refs.artists, families)
    real = [paired_bootstrap(r[np.isfinite(r)], families[np.isfinite(r)], seed=seed) for r in rates.T]
    if out is not None:
        report = {"split": args.split, "captions": len(refs), "samples": args.n, "style": style, "shown": shown}
        report |= {"hit": hit, "real_style": real[0], "real_neither": real[1]}
        about = {"command": command, "model": pipe.fingerprint, "judge": judge.extractor.id}
        atomic_write(out / "swap.json", to_json(report | {"about": about}))
    rows = [["", "noise held", "caption held", "neither"]]
    for name, a in (("style", style), ("nearest caption", shown)):
        rows.append([name, str(a.noise_held), str(a.caption_held), str(a.neither)])
        rows.append(["  less neither", str(a.noise_gain), str(a.caption_gain), ""])
    print(f"{len(refs)} captions of {args.split}, {args.n} noises; two pictures agree in", *table(rows), sep="\n")
    print(f"style of real pictures: one artist {real[0]}, two artists {real[1]}")
    print(f"Caption-ID@10-of-100: {hit}")


STUDY = Study(__doc__, "pictures --data data/pictures", _arguments, _run)
