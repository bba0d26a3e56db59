"""What training costs: the loop's steps, encoding and training at scale, and the cache between the two."""

import argparse
import itertools
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bridge.codecs import ImageCodec, LatentDistribution
from bridge.errors import UserError
from bridge.mappers import FlowMatchingMapper
from bridge.pipeline import BridgePipeline
from bridge.text import TextCode
from eval.studies import Study
from train.autoencoder import VAEConfig, VAETraining
from train.command import Parser, whole
from train.config import load_config
from train.data.cache import PICTURES, Column, encoded_once
from train.data.dataset import latents_of, load_dataset, pixels_of, rows_of, to_unit
from train.mapper import MapperConfig, MapperTraining
from train.timing import interleaved

PAIRS = (10**6, 10**7, 10**8, 10**9)
BATCH, STEPS = 256, 10
SHAPES = {"mean": (4, 8, 8), "std": (4, 8, 8), "pooled": (384,)}  # Of a pair at 64 pixels
FILLED = 512  # Pictures that are encoded


def open_training(path: Path) -> MapperTraining | VAETraining:
    """The run of a config, of a mapper or of a VAE, not begun."""
    config: Any = load_config(path, VAEConfig, {"vae": MapperConfig})
    return MapperTraining(config) if isinstance(config, MapperConfig) else VAETraining(config)


def _loop(args: argparse.Namespace, _: str) -> None:
    """The loop's steps against bare forward, backward and optimiser step on one batch; where the difference goes."""
    loop = open_training(args.config).loop
    rows, epoch = loop.order.at(0, loop.config.batch_size)
    inputs = [tensor.to(loop.accelerator.device) for tensor in loop.batch(rows, epoch)]
    optimizer = loop.optimizer.optimizer

    def bare() -> None:
        loop.objective(*inputs)["loss"].mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for parameter in loop.parameters:
        parameter.grad = torch.zeros_like(parameter)
    works: dict[str, Callable[[], object]] = {
        "bare": bare,
        "loop": loop.train_step,
        "batch": lambda: loop.batch(rows, epoch),
        "average": lambda: loop.ema.step(loop.parameters),
        "order": lambda: type(loop.order)(loop.rows, 0).at(0, loop.config.batch_size),
    }
    taken = interleaved(works, args.repeats)
    for name, seconds in taken.items():
        print(f"{name:8} {1000 * seconds:10.2f} ms")
    print(f"loop / bare {taken['loop'] / taken['bare']:.3f}")


def _loop_arguments(parser: Parser) -> None:
    parser.add_argument("config", type=Path, help="YAML file of a run")
    parser.add_argument("--repeats", type=whole(1), default=15, help="of each measurement, in turns")


def _rates(args: argparse.Namespace, _: str) -> None:
    """What encoding and training cost a pair, and from that bytes and hours for many pairs."""
    training = open_training(args.config)
    if not isinstance(training, MapperTraining):
        raise UserError(f"CONFIG: {args.config} is no mapper's config; `rates` needs one")
    device = training.loop.accelerator.device
    pipe = BridgePipeline.from_pretrained(args.model).to(device)
    x = pipe.codec.decode(torch.zeros(64, *pipe.codec.z_shape, device=device))
    texts = training.train.table.texts[:64]
    works: dict[str, tuple[int, Callable[[], object]]] = {
        "images encoded": (len(x), lambda: pipe.codec.encode(x)),
        "captions encoded": (len(texts), lambda: pipe.text_encoder.encode(texts, batch_size=32, with_tokens=False)),
        "pairs trained on": (training.config.loop.batch_size, training.loop.train_step),
    }
    taken = interleaved({name: work for name, (_, work) in works.items()}, args.repeats)
    rates = {name: count / taken[name] for name, (count, _) in works.items()}
    for name, (count, work) in works.items():
        with FlopCounterMode(display=False) as counter:
            work()
        print(f"{name:18} {rates[name]:10.1f} /s {counter.get_total_flops() / count / 1e9:8.3f} GFLOP each")
    latent, code = 2 * 4 * math.prod(pipe.codec.z_shape), 4 * pipe.text_encoder.dim
    print(f"bytes a pair: pixels {x[0].numel()}, latent {latent} (mean and deviation), code {code}")
    print("\n".join(scale_lines(rates, {"pixels": x[0].numel(), "cache": latent + code})))


def scale_lines(rates: Mapping[str, float], bytes_a_pair: Mapping[str, int]) -> list[str]:
    """Hours and GB of many pairs: pairs / rate / 3600 and pairs x bytes / 1e9, a caption a pair, one pass each.

    >>> scale_lines({"images encoded": 1000.0}, {"cache": 2000})[1]
    '1e+06 | images encoded 0.3 h | cache 2.0 GB'
    """
    lines = ["one pass over so many pairs, by one process with these rates:"]
    for pairs in PAIRS:
        hours = [f"{name} {pairs / rate / 3600:.1f} h" for name, rate in rates.items()]
        sizes = [f"{name} {pairs * size / 1e9:.1f} GB" for name, size in bytes_a_pair.items()]
        lines.append(" | ".join([f"{pairs:.0e}", *hours, *sizes]))
    return lines


def _rates_arguments(parser: Parser) -> None:
    _loop_arguments(parser)
    parser.add_argument("--model", default="pictures", help="whose codec is measured, and text encoder")


def works_on(folder: Path, pairs: int) -> dict[str, Callable[[], object]]:
    """Reading a batch, and training on one, from a cache of random pairs in `folder`, written if it is not there."""

    def made_up(start: int, stop: int) -> Mapping[str, Column]:
        g = torch.Generator().manual_seed(start)
        return {name: torch.randn(stop - start, *shape, generator=g) for name, shape in SHAPES.items()}

    shards = encoded_once(folder, "pairs", [], [str(i) for i in range(pairs)], made_up)
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


def fill_line(codec: ImageCodec, rows: Dataset, repeats: int) -> str:
    """Filling the cache from pictures on disk, in turns with the codec alone on pictures in memory."""
    x = to_unit(pixels_of(rows))

    def fill() -> None:
        with tempfile.TemporaryDirectory() as scratch:
            latents_of(codec, rows, Path(scratch))

    taken = interleaved({"codec": lambda: [codec.encode(part) for part in x.split(PICTURES)], "cache": fill}, repeats)
    rates = {name: len(x) / seconds for name, seconds in taken.items()}
    figures = f"{rates['cache']:,.0f} pictures a second into the cache, {rates['codec']:,.0f} by the codec alone"
    return f"fill: {figures}; ratio {rates['cache'] / rates['codec']:.3f}"


def _cache(args: argparse.Namespace, _: str) -> None:
    """Reading a million cached pairs against ten thousand, and filling the cache against the codec alone.

    The pictures that fill it are training pictures from all over a dataset.
    """
    rows = rows_of(load_dataset(args.data), "train")
    spread = rows.select(range(0, len(rows), max(len(rows) // FILLED, 1))[:FILLED])
    codec = BridgePipeline.from_pretrained(args.model).codec
    few, many = args.pairs
    print(*read_lines(few, many, args.repeats), fill_line(codec, spread, args.repeats), sep="\n")


def _cache_arguments(parser: Parser) -> None:
    parser.add_argument("data", type=Path, help="a dataset")
    parser.add_argument("--model", default="pictures", help="whose codec is measured")
    parser.add_argument("--repeats", type=whole(1), default=15, help="of each measurement, in turns")
    parser.add_argument("--pairs", type=whole(1), nargs=2, default=[10_000, 1_000_000], help="that are read")


STUDIES = {
    "loop": Study(_loop.__doc__, "configs/emoji-matching.yaml", _loop_arguments, _loop),
    "rates": Study(_rates.__doc__, "configs/emoji-matching.yaml", _rates_arguments, _rates),
    "cache": Study(_cache.__doc__, "data/pictures", _cache_arguments, _cache),
}
