"""What reading and filling the cache cost, for `train.bench cache`: the same with many pairs as with few."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor

from bridge.codec import ImageCodec, LatentDistribution
from bridge.pipeline import BridgePipeline
from bridge.text import TextCode
from train.cache import PICTURES, latents
from train.data import pixels_of, to_unit
from train.shards import Column, Shards, encoded_once

BATCH, READS, STEPS = 256, 100, 10
SHAPES = {"mean": (4, 8, 8), "std": (4, 8, 8), "pooled": (384,)}
"""Of a pair, as the shipped model has it."""


def made_up(start: int, stop: int) -> Mapping[str, Column]:
    """Columns of a cache of pairs; what the numbers are counts for nothing here."""
    g = torch.Generator().manual_seed(start)
    return {name: torch.randn(stop - start, *shape, generator=g) for name, shape in SHAPES.items()}


def open_pairs(folder: Path, pairs: int) -> Shards:
    """A cache of so many made-up pairs in `folder`, written where it is not there."""
    return encoded_once(folder, "pairs", [], [str(i) for i in range(pairs)], made_up)


def read_pairs(folder: Path, pairs: int, clock: Callable[[], float]) -> dict[str, float]:
    """Read batches of random rows, then train the shipped mapper on such.

    Returns:
        Pairs a second, read and trained on, and this process' anonymous memory in MiB afterwards.
    """
    shards = open_pairs(folder, pairs)
    order = torch.randperm(pairs, generator=torch.Generator().manual_seed(0))
    for part in shards.parts:  # checked and mapped on first use
        _ = part.columns
    mapper = BridgePipeline.from_pretrained("emoji").mapper.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(mapper.parameters(), lr=1e-4)

    def read(i: int) -> list[Tensor]:
        rows = order[torch.arange(i * BATCH, (i + 1) * BATCH) % pairs]
        return [shards.rows(name, rows) for name in SHAPES]

    def train(i: int) -> None:
        mean, std, pooled = read(i)
        z = LatentDistribution(mean, std).sample(torch.randn(mean.shape))
        c = TextCode(pooled, pooled.new_zeros(BATCH, 0, pooled.shape[1]), torch.zeros(BATCH, 0, dtype=torch.bool))
        mapper.loss(z, c, noise=torch.randn(BATCH, *mapper.loss_noise_shape)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    def rate(work: Callable[[int], object], times: int) -> float:
        work(0)
        start = clock()
        for i in range(1, times + 1):
            work(i)
        return times * BATCH / (clock() - start)

    found = {"read": rate(read, READS), "trained on": rate(train, STEPS)}
    return found | {"MiB of anonymous memory": anonymous_mib()}


def anonymous_mib() -> float:
    """Resident memory of this process that is no file's, in MiB; Linux only."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:"))


def read_lines(counts: Sequence[int]) -> list[str]:
    """Lines about reading caches of so many pairs, each read by a process of its own."""
    lines: list[str] = []
    found: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for pairs in counts:
            open_pairs(Path(scratch), pairs)
            told = subprocess.run(
                [sys.executable, "-m", "train.bench_cache", scratch, str(pairs)],
                check=True,
                capture_output=True,
                text=True,
            )
            found.append(json.loads(told.stdout))
    for name in found[0]:
        values = [one[name] for one in found]
        unit = "" if "memory" in name else " pairs a second"
        each = ", ".join(f"{value:,.0f} with {pairs:,}" for value, pairs in zip(values, counts, strict=True))
        lines.append(f"{name}{unit}: {each}; ratio {values[-1] / values[0]:.3f}")
    return lines


def fill_lines(codec: ImageCodec, rows: Dataset, clock: Callable[[], float]) -> list[str]:
    """Lines about filling the cache from pictures on disk, against the codec alone on the same pictures in memory."""
    x = to_unit(pixels_of(rows))
    start = clock()
    for chunk in x.split(PICTURES):
        codec.encode(chunk)
    bare = clock() - start
    with tempfile.TemporaryDirectory() as scratch:
        start = clock()
        latents(codec, rows, Path(scratch))
        filled = clock() - start
    rates = f"{len(x) / filled:,.0f} pictures a second into the cache, {len(x) / bare:,.0f} by the codec alone"
    return [rates, f"cache / codec {bare / filled:.3f}"]


if __name__ == "__main__":
    from train.bench import clock as bench_clock

    print(json.dumps(read_pairs(Path(sys.argv[1]), int(sys.argv[2]), bench_clock)))
