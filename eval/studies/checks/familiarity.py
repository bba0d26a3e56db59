"""From which cosine on does a model know a caption?

Captions of the split, seen and held out, are put into bins by the cosine of their nearest known caption. Fit is
measured in each bin with its interval. The threshold is the lower edge of the lowest bin from which on, upwards,
every bin's fit is shown to be above chance: below it the model's note says so, once `Settings.trusted` is set to it.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from bridge.pipeline import BridgePipeline
from eval.bench import bench_of
from eval.features import EfficientNetLite0
from eval.judge import Judge
from eval.metrics import fit
from eval.metrics.bootstrap import Interval, paired_bootstrap
from eval.report import ROWS
from eval.studies import Study, add_common
from train.command import Parser, number, say, whole


@dataclass(frozen=True)
class Bin:
    low: float  # Least cosine
    high: float  # Largest
    captions: int  # How many
    families: int  # Of how many families
    fit: Interval  # Chance-adjusted Caption-ID, 0 for chance, 1 for real pictures

    @classmethod
    def of(cls, cosine: np.ndarray, hits: np.ndarray, families: np.ndarray) -> "Bin":
        """Of captions' cosines (C,), shares of pictures, and of real ones, that show them (C, 2), and families (C,)."""
        value = paired_bootstrap(hits, families, lambda m: fit.chance_adjusted(m[..., 0], m[..., 1]))
        return cls(float(cosine.min()), float(cosine.max()), len(cosine), len(np.unique(families)), value)


def bins(cosine: np.ndarray, hits: np.ndarray, families: np.ndarray, least: int) -> list[Bin]:
    """Captions from far to near in bins of `least` families, 2 or more; what is left over joins the nearest bin."""
    parts: list[list[int]] = [[]]
    for i in np.argsort(cosine, kind="stable"):
        if len(np.unique(families[parts[-1]])) >= least:
            parts.append([])
        parts[-1].append(int(i))
    if len(parts) > 1 and len(np.unique(families[parts[-1]])) < least:
        parts[-2:] = [parts[-2] + parts[-1]]
    return [Bin.of(cosine[part], hits[part], families[part]) for part in parts]


def threshold(binned: Sequence[Bin]) -> float | None:
    """Lower edge of the lowest bin from which on every bin is above chance; None if the nearest is not."""
    above = list(takewhile(lambda each: each.fit.low > 0, reversed(binned)))
    return above[-1].low if above else None


def _arguments(parser: Parser) -> None:
    add = add_common(parser, "model", "--data", "--split", "--seed")
    add("-n", type=whole(1), default=4, help="pictures a caption")
    add("--families", type=whole(2), default=12, help="of a bin at least")
    add("--known", type=number(-1, 1), default=0.99, help="from this cosine on a caption is known itself")


def _run(args: argparse.Namespace, _: str) -> None:
    pipe = BridgePipeline.from_pretrained(args.model)
    judge = Judge.load(args.data, EfficientNetLite0(), say)
    parts = []
    for split in ROWS[args.split].values():
        bench = bench_of(judge, split, args.n, seed=args.seed)
        captions = list(bench.refs.captions)
        made = bench.samples(judge.look(pipe(captions, args.n, seed=args.seed, output_type="pt").images))
        pooled = pipe.text_encoder.encode(captions, 64, with_tokens=False).pooled
        hits = np.stack([made.per.hit, bench.real.per.hit], axis=1)
        parts.append((pipe.memory.familiarity(pooled).cpu().numpy(), hits, bench.refs.families))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    held_out = columns[0] < args.known
    print(f"{args.split}: fit by cosine of the nearest known caption, {args.n} pictures a caption, as it samples")
    cosine, hits, families = (column[held_out] for column in columns)
    binned = bins(cosine, hits, families, args.families)
    if (~held_out).any():
        binned.append(Bin.of(*(column[~held_out] for column in columns)))
    for each in binned:
        about = f"{each.captions} captions of {each.families} families"
        print(f"  {each.low:.2f} to {each.high:.2f}  fit {each.fit}  {about}")
    edge = threshold(binned)
    print(f"threshold: {'none' if edge is None else f'{edge:.2f}'}; the model's: {pipe.settings.trusted:g}")


STUDY = Study(__doc__, "pictures --data data/pictures", _arguments, _run)
