"""What training and drawing cost: python -m eval.studies.cost loop|rates|cache|own|speed|serve|search

On a CPU the clock of loop, rates, cache and search is the process's own, so that neighbours on the machine count for
little; the others take the wall's.
"""

import argparse
import math
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from bridge.errors import UserError
from bridge.pipeline import BridgePipeline
from eval.studies import Study, run_study
from eval.studies.cost import cache, own, search, serve, speed
from train.autoencoder import VAEConfig, VAETraining
from train.command import Parser, whole
from train.config import load_config
from train.loop import Loop
from train.mapper import MapperConfig, MapperTraining
from train.timing import interleaved

PAIRS = (10**6, 10**7, 10**8, 10**9)


def open_training(path: Path) -> MapperTraining | VAETraining:
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


def _loop(args: argparse.Namespace, _: str) -> None:
    """The loop's steps against bare forward, backward and optimiser step on one batch; where the difference goes."""
    taken = interleaved(loop_works(open_training(args.config).loop), args.repeats)
    for name, seconds in taken.items():
        print(f"{name:8} {1000 * seconds:10.2f} ms")
    print(f"loop / bare {taken['loop'] / taken['bare']:.3f}")


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


def _loop_arguments(parser: Parser) -> None:
    parser.add_argument("config", type=Path, help="YAML file of a run")
    parser.add_argument("--repeats", type=whole(1), default=15, help="of each measurement, in turns")


def _rates_arguments(parser: Parser) -> None:
    _loop_arguments(parser)
    parser.add_argument("--model", default="pictures", help="whose codec is measured, and text encoder")


STUDIES = {
    "loop": Study(_loop.__doc__ or "", "configs/emoji-matching.yaml", _loop_arguments, _loop),
    "rates": Study(_rates.__doc__ or "", "configs/emoji-matching.yaml", _rates_arguments, _rates),
    "cache": cache.STUDY,
    "own": own.STUDY,
    "speed": speed.STUDY,
    "serve": serve.STUDY,
    "search": search.STUDY,
}


main = partial(run_study, "python -m eval.studies.cost", __doc__, STUDIES)  # of argv, absent for the process' own


if __name__ == "__main__":
    sys.exit(main())
