"""python -m eval.studies.familiarity MODEL --data data/pictures: from which cosine on does a model know a caption?

Captions of the split, seen and held out, are put into bins by the cosine of their nearest known caption. Fit is
measured in each bin with its interval. The threshold is the lower edge of the lowest bin from which on, upwards,
every bin's fit is shown to be above chance: below it the model's note says so, once `Settings.trusted` is set to it.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bridge.pipeline import BridgePipeline
from eval.features import EfficientNetLite0
from eval.judge import Judge
from eval.metrics import fit
from eval.metrics.bootstrap import Interval, paired_bootstrap
from eval.report import ROWS
from train.command import Parser, number, run_command, say, whole

NAME = "python -m eval.studies.familiarity"


@dataclass(frozen=True)
class Bin:
    """Captions of like familiarity.

    Args:
        low: Least cosine.
        high: Largest.
        captions: How many.
        families: Of how many families.
        fit: Chance-adjusted Caption-ID, 0 for chance, 1 for real pictures.
    """

    low: float
    high: float
    captions: int
    families: int
    fit: Interval


def bins(cosine: np.ndarray, hits: np.ndarray, families: np.ndarray, least: int) -> list[Bin]:
    """Captions from far to near, a bin being closed at `least` families; families weigh equally within it.

    Args:
        cosine: Of each caption to its nearest known one, (C,).
        hits: Share of its pictures, and of real ones, that show it, (C, 2).
        families: (C,), at least two different ones.
        least: Families of a bin, at least 2; what is left over in the end joins the nearest bin.
    """
    parts: list[list[int]] = [[]]
    for i in np.argsort(cosine, kind="stable"):
        if len(np.unique(families[parts[-1]])) >= least:
            parts.append([])
        parts[-1].append(int(i))
    if len(parts) > 1 and len(np.unique(families[parts[-1]])) < least:
        parts[-2:] = [parts[-2] + parts[-1]]
    return [_bin(cosine[part], hits[part], families[part]) for part in map(np.array, parts)]


def _bin(cosine: np.ndarray, hits: np.ndarray, families: np.ndarray) -> Bin:
    value = paired_bootstrap(hits, families, lambda m: fit.chance_adjusted(m[..., 0], m[..., 1]))
    return Bin(float(cosine.min()), float(cosine.max()), len(cosine), len(np.unique(families)), value)


def threshold(binned: Sequence[Bin]) -> float | None:
    """Lower edge of the lowest bin from which on every bin is above chance; None if the nearest is not.

    >>> chance, known = Interval(0.1, -0.1, 0.3), Interval(0.5, 0.3, 0.7)
    >>> threshold([Bin(0.2, 0.5, 9, 9, chance), Bin(0.6, 0.7, 9, 9, known), Bin(0.7, 1.0, 9, 9, known)])
    0.6
    """
    edge = None
    for each in reversed(binned):
        if each.fit.low <= 0:
            break
        edge = each.low
    return edge


def measured(pipe: BridgePipeline, judge: Judge, split: str, n: int, seed: int) -> tuple[np.ndarray, ...]:
    """Of each caption of a split: cosine (C,), hits of n pictures and of real ones (C, 2), family (C,)."""
    target = judge.target(split, n, seed=seed)
    captions = list(target.refs.captions)
    x = pipe(captions, n, seed=seed, output_type="pt").images
    shown = judge.space.describe(judge.extractor.encode(x)).split([n] * len(captions))
    made = target.of_samples(shown, [np.zeros(n)] * len(captions))
    real = target.of_real(target.shown, [np.zeros(len(d)) for d in target.shown])
    pooled = pipe.text_encoder.encode(captions, 64, with_tokens=False).pooled
    cosine = pipe.memory.familiarity(pooled).cpu().numpy()
    return cosine, np.stack([made.hit, real.hit], axis=1), target.refs.families


def _run(args: argparse.Namespace) -> None:
    pipe = BridgePipeline.from_pretrained(args.model)
    judge = Judge.load(args.data, EfficientNetLite0(), say)
    parts = [measured(pipe, judge, split, args.n, args.seed) for split in ROWS[args.split].values()]
    cosine, hits, families = (np.concatenate(column) for column in zip(*parts, strict=True))
    held_out = cosine < args.known
    print(f"{args.split}: fit by cosine of the nearest known caption, {args.n} pictures a caption, as it samples")
    binned = bins(cosine[held_out], hits[held_out], families[held_out], args.families)
    if (~held_out).any():
        binned.append(_bin(cosine[~held_out], hits[~held_out], families[~held_out]))
    for each in binned:
        about = f"{each.captions} captions of {each.families} families"
        print(f"  {each.low:.2f} to {each.high:.2f}  fit {each.fit}  {about}")
    edge = threshold(binned)
    print(f"threshold: {'none' if edge is None else f'{edge:.2f}'}; the model's: {pipe.settings.trusted:g}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the figures are printed, 2 for bad input."""
    parser = Parser(NAME, __doc__, f"{NAME} pictures --data data/pictures")
    parser.add_argument("model", help="a shipped model's name, a model folder, or a hub id")
    parser.add_argument("--data", type=Path, default=Path("data/pictures"), help="a dataset")
    parser.add_argument("--split", choices=sorted(ROWS), default="validation", help="whose captions")
    parser.add_argument("-n", type=whole(1), default=4, help="pictures a caption")
    parser.add_argument("--families", type=whole(2), default=12, help="of a bin at least")
    parser.add_argument(
        "--known", type=number(-1, 1), default=0.99, help="from this cosine on a caption is known itself"
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="key of all randomness")
    return run_command(parser, argv, _run)


if __name__ == "__main__":
    sys.exit(main())
