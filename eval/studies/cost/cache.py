"""Reading a million cached pairs against ten thousand, and filling the cache against the codec alone.

The pictures that fill it are training pictures from all over a dataset.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor

from bridge.codecs import ImageCodec, LatentDistribution
from bridge.mappers import FlowMatchingMapper
from bridge.pipeline import BridgePipeline
from bridge.text import TextCode
from eval.studies import Study
from train.command import Parser, whole
from train.data.cache import PICTURES, Column, Shards, encoded_once
from train.data.dataset import latents_of, load_dataset, pixels_of, rows_of, to_unit
from train.timing import interleaved

BATCH, STEPS = 256, 10
SHAPES = {"mean": (4, 8, 8), "std": (4, 8, 8), "pooled": (384,)}  # Of a pair at 64 pixels
FILLED = 512  # Pictures that are encoded


def open_pairs(folder: Path, pairs: int) -> Shards:
    """A cache of so many made-up pairs in `folder`, written where it is not there."""

    def made_up(start: int, stop: int) -> Mapping[str, Column]:
        g = torch.Generator().manual_seed(start)
        return {name: torch.randn(stop - start, *shape, generator=g) for name, shape in SHAPES.items()}

    return encoded_once(folder, "pairs", [], [str(i) for i in range(pairs)], made_up)


def works_on(folder: Path, pairs: int) -> dict[str, Callable[[], object]]:
    """Reading a batch of random pairs, and training a flow matching network on such a batch."""
    shards = open_pairs(folder, pairs)
    order = torch.randperm(pairs, generator=torch.Generator().manual_seed(0))
    batches = itertools.cycle(order[: len(order) // BATCH * BATCH].split(BATCH))
    mapper = FlowMatchingMapper(SHAPES["mean"], *SHAPES["pooled"])
    optimizer = torch.optim.AdamW(mapper.parameters(), lr=1e-4)
    for part in shards.parts:  # checked and mapped on first use
        _ = part.columns

    def read() -> list[Tensor]:
        rows = next(batches)
        return [shards.rows(name, rows) for name in SHAPES]

    def train() -> None:
        mean, std, pooled = read()
        z = LatentDistribution(mean, std).sample(torch.randn(mean.shape))
        c = TextCode(pooled, pooled.new_zeros(BATCH, 0, pooled.shape[1]), torch.zeros(BATCH, 0, dtype=torch.bool))
        mapper.loss(z, c, noise=torch.randn(BATCH, *mapper.loss_noise_shape)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return {"read": read, "train": train}


def trained_mib(folder: str, pairs: int) -> float:
    """Resident memory, in MiB, of this process that is no file's, after a little training from a cache; Linux only."""
    train = works_on(Path(folder), pairs)["train"]
    for _ in range(STEPS):
        train()
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:"))


def read_lines(few: int, many: int, repeats: int) -> list[str]:
    """Lines about caches of few and of many pairs: in turns in this process, and the memory of one process each."""

    def line(what: str, a: float, b: float, unit: str = "") -> str:
        return f"{what} {a:,.0f}{unit} with {few:,}, {b:,.0f}{unit} with {many:,}; ratio {b / a:.3f}"

    def memory(folder: str, pairs: int) -> float:
        code = f"from {__name__} import trained_mib; print(trained_mib({folder!r}, {pairs}))"
        return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)

    with tempfile.TemporaryDirectory() as scratch:
        works = {f"{kind} {n}": work for n in (few, many) for kind, work in works_on(Path(scratch), n).items()}
        rate = {name: BATCH / seconds for name, seconds in interleaved(works, repeats).items()}
        mib = (memory(scratch, few), memory(scratch, many))
    lines = [line(f"{k}: pairs a second", rate[f"{k} {few}"], rate[f"{k} {many}"]) for k in ("read", "train")]
    return [*lines, line("anonymous memory in training:", *mib, " MiB")]


def fill_lines(codec: ImageCodec, rows: Dataset, repeats: int) -> list[str]:
    """Lines about filling the cache from pictures on disk, in turns with the codec alone on pictures in memory."""
    x = to_unit(pixels_of(rows))

    def fill() -> None:
        with tempfile.TemporaryDirectory() as scratch:
            latents_of(codec, rows, Path(scratch))

    taken = interleaved({"codec": lambda: [codec.encode(part) for part in x.split(PICTURES)], "cache": fill}, repeats)
    rates = {name: len(x) / seconds for name, seconds in taken.items()}
    figures = f"{rates['cache']:,.0f} pictures a second into the cache, {rates['codec']:,.0f} by the codec alone"
    return [f"fill: {figures}; ratio {rates['cache'] / rates['codec']:.3f}"]


def _arguments(parser: Parser) -> None:
    parser.add_argument("data", type=Path, help="a dataset")
    parser.add_argument("--model", default="pictures", help="whose codec is measured")
    parser.add_argument("--repeats", type=whole(1), default=15, help="of each measurement, in turns")
    parser.add_argument("--pairs", type=whole(1), nargs=2, default=[10_000, 1_000_000], help="that are read")


def _run(args: argparse.Namespace, _: str) -> None:
    rows = rows_of(load_dataset(args.data), "train")
    spread = rows.select(range(0, len(rows), max(len(rows) // FILLED, 1))[:FILLED])
    codec = BridgePipeline.from_pretrained(args.model).codec
    few, many = args.pairs
    print("\n".join(read_lines(few, many, args.repeats) + fill_lines(codec, spread, args.repeats)))


STUDY = Study(__doc__, "data/pictures", _arguments, _run)
