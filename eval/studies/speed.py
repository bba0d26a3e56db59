"""python -m eval.studies.speed MODEL: throughput and cold start, as ratios measured in one run.

- the whole pipeline against decoding alone, the same images;
- decoding against matrix multiplies of the same number of floating-point operations;
- a cold `bridge generate` against a process that only makes the imports it needs.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from bridge.pipeline import MICRO_BATCH, BridgePipeline
from train.command import Parser, run_command, whole

IMPORTS = "import torch, numpy, PIL.Image, diffusers, diffusers.models, transformers.models.bert, tokenizers"

NAME = "python -m eval.studies.speed"


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median time of one call, after one call to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times)


def decode_flops(pipe: BridgePipeline, images: int) -> float:
    """Floating-point operations of decoding `images` latents, a multiply-add counted as two."""
    z = torch.zeros(MICRO_BATCH, *pipe.codec.z_shape)
    with FlopCounterMode(display=False) as counter:
        pipe.codec.decode(z)
    return counter.get_total_flops() * images / MICRO_BATCH


def throughput(pipe: BridgePipeline, images: int, repeats: int) -> list[str]:
    """Lines of the table: pipeline, decoding, matrix multiply."""
    z = pipe("a smiling cat", images, seed=0, output_type="latent").images

    def decode() -> None:
        for chunk in z.split(MICRO_BATCH):
            pipe.codec.decode(chunk)

    flops = decode_flops(pipe, images)
    side = 1024
    a, b = torch.randn(side, side), torch.randn(side, side)
    count = max(round(flops / (2 * side**3)), 1)

    def multiply() -> None:
        for _ in range(count):
            a @ b

    whole = seconds(lambda: pipe("a smiling cat", images, seed=0, output_type="pt"), repeats)
    alone, limit = seconds(decode, repeats), seconds(multiply, repeats) * flops / (2 * side**3 * count)
    return [
        f"whole pipeline        {images / whole:8.1f} images/s",
        f"decoding alone        {images / alone:8.1f} images/s",
        f"matrix multiply       {images / limit:8.1f} images/s ({flops / images / 1e9:.2f} GFLOP an image)",
        f"pipeline / decoding   {alone / whole:8.2f}",
        f"decoding / multiply   {limit / alone:8.2f}",
    ]


def cold_start(model: str, repeats: int) -> list[str]:
    """Lines of the table: a process that generates eight images, one that only imports."""

    def run(*command: str) -> None:
        subprocess.run([sys.executable, *command], check=True, capture_output=True)

    with tempfile.TemporaryDirectory() as out:
        command = ("-m", "bridge.cli", "generate", "a smiling cat", "--model", model, "--out", out)
        whole = seconds(lambda: run(*command), repeats)
    bare = seconds(lambda: run("-c", IMPORTS), repeats)
    return [
        f"bridge generate       {whole:8.2f} s, cold, 8 images",
        f"bare imports          {bare:8.2f} s",
        f"generate / imports    {whole / bare:8.2f}",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = Parser(NAME, __doc__, f"{NAME} pictures")
    parser.add_argument(
        "model", nargs="?", default="pictures", help="a shipped model's name, a model folder, or a hub id"
    )
    parser.add_argument("--images", type=whole(1), default=64, help="drawn at a time")
    parser.add_argument("--repeats", type=whole(1), default=5, help="of each measurement, in turns")
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> None:
    pipe = BridgePipeline.from_pretrained(args.model)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for line in throughput(pipe, args.images, args.repeats) + cold_start(args.model, args.repeats):
        print(line)


if __name__ == "__main__":
    sys.exit(main())
