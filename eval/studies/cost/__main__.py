"""What training costs: python -m eval.studies.cost loop CONFIG, rates MAPPER_CONFIG, or cache|own DATA

- loop: the loop's steps against bare forward, backward and optimiser step on one batch, interleaved; and where the
  difference goes.
- rates: what encoding and training cost a pair, and from that bytes and hours for many pairs.
- cache: reading a million cached pairs against ten thousand; filling the cache with training pictures of a dataset
  against the codec alone.
- own: what `python -m train` makes of a few pairs of a prepared dataset: seconds, fit and copies beside
  retrieval's and real pictures'.

On a CPU the clock is the process's own, so that neighbours on the machine count for little; `own` takes the wall's.
"""

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from bridge.errors import UserError
from bridge.pipeline import BridgePipeline
from eval.studies.cost.cache import fill_lines, read_lines
from eval.studies.cost.own import own_lines
from train.autoencoder import VAEConfig, VAETraining
from train.command import Parser, number, run_command, say, whole
from train.config import load_config
from train.data.dataset import load_dataset, rows_of
from train.loop import Loop
from train.mapper import MapperConfig, MapperTraining
from train.timing import interleaved

NAME = "python -m eval.studies.cost"
Training = MapperTraining | VAETraining
PAIRS = (10**6, 10**7, 10**8, 10**9)
FILLED = 512
"""Pictures that `cache` encodes."""


def open_training(path: Path) -> Training:
    """The run of a config, of a mapper or of a VAE, not begun."""
    values = yaml.safe_load(path.read_text("utf-8")) if path.exists() else {}
    if "vae" in (values or {}):
        return MapperTraining(load_config(path, MapperConfig))
    return VAETraining(load_config(path, VAEConfig))


def loop_works(loop: Loop) -> dict[str, Callable[[], object]]:
    """A bare step, the loop's step, and the parts that the bare one lacks."""
    rows, epoch = loop.order.at(0, loop.config.batch_size)
    inputs = [tensor.to(loop.accelerator.device) for tensor in loop.batch(rows, epoch)]
    optimizer = loop.optimizer.optimizer

    def bare() -> None:
        loop.objective(*inputs)["loss"].mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for parameter in loop.parameters:
        parameter.grad = torch.zeros_like(parameter)
    return {
        "bare": bare,
        "loop": loop.train_step,
        "batch": lambda: loop.batch(rows, epoch),
        "average": lambda: loop.ema.step(loop.parameters),
        "order": lambda: type(loop.order)(loop.rows, 0).at(0, loop.config.batch_size),
    }


def loop_lines(training: Training, repeats: int) -> list[str]:
    """Lines of the table of `loop`."""
    taken = interleaved(loop_works(training.loop), repeats)
    lines = [f"{name:8} {1000 * seconds:10.2f} ms" for name, seconds in taken.items()]
    return [*lines, f"loop / bare {taken['loop'] / taken['bare']:.3f}"]


def rate_lines(training: MapperTraining, model: str, repeats: int) -> list[str]:
    """Lines of the table of `rates`: measured rates and work, then bytes and hours of many pairs."""
    device = training.loop.accelerator.device
    pipe = BridgePipeline.from_pretrained(model).to(device)
    x = pipe.codec.decode(torch.zeros(64, *pipe.codec.z_shape, device=device))
    texts = training.train.table.texts[:64]
    works: dict[str, tuple[int, Callable[[], object]]] = {
        "images encoded": (len(x), lambda: pipe.codec.encode(x)),
        "captions encoded": (len(texts), lambda: pipe.text_encoder.encode(texts, batch_size=32, with_tokens=False)),
        "pairs trained on": (training.config.loop.batch_size, training.loop.train_step),
    }
    taken = interleaved({name: work for name, (_, work) in works.items()}, repeats)
    rates = {name: count / taken[name] for name, (count, _) in works.items()}
    lines = []
    for name, (count, work) in works.items():
        with FlopCounterMode(display=False) as counter:
            work()
        lines.append(f"{name:18} {rates[name]:10.1f} /s {counter.get_total_flops() / count / 1e9:8.3f} GFLOP each")
    latent, code = 2 * 4 * math.prod(pipe.codec.z_shape), 4 * pipe.text_encoder.dim
    lines.append(f"bytes a pair: pixels {x[0].numel()}, latent {latent} (mean and deviation), code {code}")
    return lines + scale_lines(rates, {"pixels": x[0].numel(), "cache": latent + code})


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


def cache_lines(data: Path, model: str, pairs: Sequence[int], repeats: int) -> list[str]:
    """Lines of the table of `cache`: reading few and many pairs, and filling it with pictures from all over `data`."""
    rows = rows_of(load_dataset(data), "train")
    spread = rows.select(range(0, len(rows), max(len(rows) // FILLED, 1))[:FILLED])
    codec = BridgePipeline.from_pretrained(model).codec
    few, many = pairs
    return read_lines(few, many, repeats) + fill_lines(codec, spread, repeats)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = Parser(NAME, __doc__, f"{NAME} loop configs/emoji-matching.yaml")
    parser.add_argument("what", choices=("loop", "rates", "cache", "own"), help="see above")
    parser.add_argument(
        "config", type=Path, help="YAML file of a run; of a mapper for `rates`; for `cache` and `own` a dataset"
    )
    parser.add_argument("--model", default="pictures", help="whose codec is measured, and text encoder")
    parser.add_argument("--repeats", type=whole(1), default=15, help="of each measurement, in turns")
    parser.add_argument("--pairs", type=whole(1), nargs=2, default=[10_000, 1_000_000], help="that `cache` reads")
    parser.add_argument("--few", type=whole(2), default=500, help="pairs that `own` trains on")
    parser.add_argument("--minutes", type=number(above=0), default=4.0, help="of `own`, see python -m train")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-own"), help="folder of `own`; it goes on there")
    return run_command(parser, argv, lambda args: print("\n".join(_lines(args))))


def _lines(args: argparse.Namespace) -> list[str]:
    if args.what == "own":
        return own_lines(args.config, args.few, args.out, args.minutes, say)
    if args.what == "cache":
        return cache_lines(args.config, args.model, args.pairs, args.repeats)
    training = open_training(args.config)
    if args.what == "loop":
        return loop_lines(training, args.repeats)
    if isinstance(training, MapperTraining):
        return rate_lines(training, args.model, args.repeats)
    raise UserError(f"CONFIG: {args.config} is no mapper's config; `{args.what}` needs one")


if __name__ == "__main__":
    sys.exit(main())
