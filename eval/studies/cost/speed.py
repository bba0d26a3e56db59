"""Throughput and cold start of drawing, as ratios measured in one run.

- the whole pipeline against decoding alone, the same images;
- decoding against matrix multiplies of the same number of floating-point operations;
- a cold `bridge generate` against a process that only imports what that does, but for Bridge itself.
"""

import argparse
import subprocess
import sys
import tempfile
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from bridge.pipeline import MICRO_BATCH, BridgePipeline
from eval.studies import COMMON, Study
from train.command import Parser, whole
from train.timing import interleaved

SIDE = 1024
LISTED = """
import json, sys
from bridge.cli import main
main(sys.argv[2:])
names = [name for name in sys.modules if name.split(".")[0] not in ("bridge", "__main__")]
open(sys.argv[1], "w").write(json.dumps(names))
"""
"""A program that draws, and then writes the names of all modules that it has imported from elsewhere."""
IMPORTED = """
import contextlib, importlib, json, sys
for name in json.load(open(sys.argv[1])):
    with contextlib.suppress(ImportError):  # made at run time, by another module
        importlib.import_module(name)
"""
"""A program that only imports those, in the same order."""


def decode_flops(pipe: BridgePipeline, images: int) -> float:
    """Floating-point operations of decoding `images` latents, a multiply-add counted as two."""
    z = torch.zeros(MICRO_BATCH, *pipe.codec.z_shape)
    with FlopCounterMode(display=False) as counter:
        pipe.codec.decode(z)
    return counter.get_total_flops() * images / MICRO_BATCH


def throughput(pipe: BridgePipeline, images: int, repeats: int) -> list[str]:
    """Lines of the table: pipeline, decoding, matrix multiply."""
    z = pipe("a smiling cat", images, seed=0, output_type="latent").images
    flops = decode_flops(pipe, images)
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    count = max(round(flops / (2 * SIDE**3)), 1)

    def multiply() -> None:
        for _ in range(count):
            a @ b

    works = {
        "whole": lambda: pipe("a smiling cat", images, seed=0, output_type="pt"),
        "alone": lambda: [pipe.codec.decode(chunk) for chunk in z.split(MICRO_BATCH)],
        "multiply": multiply,
    }
    whole, alone, multiplied = interleaved(works, repeats, time.perf_counter).values()
    limit = multiplied * flops / (2 * SIDE**3 * count)
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
        command = ("generate", "a smiling cat", "--model", model, "--out", out)
        modules = f"{out}/modules.json"
        run("-c", LISTED, modules, *command)
        works = {"whole": lambda: run("-m", "bridge", *command), "bare": lambda: run("-c", IMPORTED, modules)}
        whole, bare = interleaved(works, repeats, time.perf_counter).values()
    return [
        f"bridge generate       {whole:8.2f} s, cold, 8 images",
        f"bare imports          {bare:8.2f} s",
        f"generate / imports    {whole / bare:8.2f}",
    ]


def _arguments(parser: Parser) -> None:
    parser.add_argument("model", nargs="?", default="pictures", **COMMON["model"])
    parser.add_argument("--images", type=whole(1), default=64, help="drawn at a time")
    parser.add_argument("--repeats", type=whole(1), default=5, help="of each measurement, in turns")


def _run(args: argparse.Namespace, _: str) -> None:
    pipe = BridgePipeline.from_pretrained(args.model)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    print("\n".join(throughput(pipe, args.images, args.repeats) + cold_start(args.model, args.repeats)))


STUDY = Study(__doc__, "pictures", _arguments, _run)
