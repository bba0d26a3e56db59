"""What drawing costs: throughput, cold start, and the search in a model's memory."""

import argparse
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from bridge.errors import UserError
from bridge.mappers import LocalFlowMapper
from bridge.mappers.local import log_kernel
from bridge.noise import generator_for
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
MOVED = 0.6  # Length of what is added to a unit code: to a cosine of about .86, as between captions of one thing
SIZES = [10**4, 10**5, 10**6]


def decode_flops(pipe: BridgePipeline, images: int) -> float:
    """Floating-point operations of decoding `images` latents, a multiply-add counted as two."""
    z = torch.zeros(MICRO_BATCH, *pipe.codec.z_shape)
    with FlopCounterMode(display=False) as counter:
        pipe.codec.decode(z)
    return counter.get_total_flops() * images / MICRO_BATCH


def throughput(pipe: BridgePipeline, images: int, repeats: int) -> list[str]:
    """Lines of the table: pipeline at a novelty of 0 and as the model has it, decoding, matrix multiply."""
    z = pipe("a smiling cat", images, seed=0, output_type="latent").images
    flops = decode_flops(pipe, images)
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    count = max(round(flops / (2 * SIDE**3)), 1)

    def multiply() -> None:
        for _ in range(count):
            a @ b

    near = min(pipe.settings.novelty, 0)
    works = {
        "whole": lambda: pipe("a smiling cat", images, seed=0, novelty=near, output_type="pt"),
        "alone": lambda: [pipe.codec.decode(chunk) for chunk in z.split(MICRO_BATCH)],
        "multiply": multiply,
    }
    if pipe.settings.novelty > 0:
        works["new"] = lambda: pipe("a smiling cat", images, seed=0, output_type="pt")
    taken = interleaved(works, repeats, time.perf_counter)
    whole, alone = taken["whole"], taken["alone"]
    limit = taken["multiply"] * flops / (2 * SIDE**3 * count)
    new = [f"of new pictures       {images / taken['new']:8.1f} images/s"] if "new" in taken else []
    return [
        f"whole pipeline        {images / whole:8.1f} images/s",
        *new,
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


def _speed(args: argparse.Namespace, _: str) -> None:
    """Throughput and cold start of drawing, as ratios measured in one run.

    - the whole pipeline at a novelty of 0 against decoding alone, as many images;
    - decoding against matrix multiplies of the same number of floating-point operations;
    - a cold `bridge generate` against a process that only imports what that does, but for Bridge itself.
    """
    pipe = BridgePipeline.from_pretrained(args.model)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    print("\n".join(throughput(pipe, args.images, args.repeats) + cold_start(args.model, args.repeats)))


def _speed_arguments(parser: Parser) -> None:
    parser.add_argument("model", nargs="?", default="pictures", **COMMON["model"])
    parser.add_argument("--images", type=whole(1), default=64, help="drawn at a time")
    parser.add_argument("--repeats", type=whole(1), default=5, help="of each measurement, in turns")


def made_up(codes: Tensor, count: int, key: int) -> Tensor:
    """`count` unit codes (count, D): known ones (M, D) again and again, each moved at random."""
    generator = generator_for(0, key)
    rows = torch.randint(len(codes), (count,), generator=generator)
    moves = torch.randn(count, codes.shape[1], generator=generator)
    return F.normalize(codes[rows] + moves.mul_(MOVED / codes.shape[1] ** 0.5), dim=1)


def search_line(size: int, known: Tensor, queries: Tensor, whitening: float, repeats: int) -> str:
    """A line of the table: seconds to make a memory of `size` captions, and what a search in it takes and finds."""
    codes = made_up(known, size, 1)
    began = time.perf_counter()
    mapper = LocalFlowMapper.from_memory(torch.zeros(size, 1), codes, [[i] for i in range(size)], whitening=whitening)
    built = time.perf_counter() - began
    most = mapper.neighbours

    def exactly(code: Tensor) -> tuple[np.ndarray, np.ndarray]:
        cosine = mapper.similarity(code)
        near = np.argpartition(-cosine, most)[:most]
        return near, np.exp(log_kernel(cosine[near], mapper.perplexity))

    def search() -> None:
        view = mapper.varied()  # remembers no caption yet
        for code in queries:
            view.nearest(code)

    mapper.nearest(queries[0])  # opens the index
    taken = interleaved({"search": search, "exact": lambda: [exactly(code) for code in queries]}, repeats)
    exact = [(mapper.nearest(code)[0], *exactly(code)) for code in queries]
    mass = np.mean([weight[np.isin(near, by_index)].sum() for by_index, near, weight in exact])
    each = [1000 * taken[name] / len(queries) for name in ("search", "exact")]
    kept = f"{mapper.config.index_bytes / 1e6:6.0f} MB" if mapper.config.index_bytes else "     none"
    return f"{size:9,} | {built:6.1f} s | {kept} | {each[0]:7.1f} ms | {each[0] / each[1]:5.2f} | {mass:.3f}"


def _search(args: argparse.Namespace, _: str) -> None:
    """How long the search for a caption's pictures takes, and what the index misses, by how many captions memory holds.

    The captions are made up: codes of what the model knows, each moved at random, one picture to a caption.
    """
    mapper = BridgePipeline.from_pretrained(args.model).mapper
    if not isinstance(mapper, LocalFlowMapper):
        raise UserError(f"MODEL: {args.model} has no memory to search; take a local flow")
    known, whitening = mapper.unit_codes, float(mapper.config.whitening)
    queries = made_up(known, args.queries, 0)
    print(f"{torch.get_num_threads()} threads\n captions | to make | its index | a search | / exact | mass found")
    for size in args.sizes:
        print(search_line(size, known, queries, whitening, args.repeats), flush=True)


def _search_arguments(parser: Parser) -> None:
    parser.add_argument("model", nargs="?", default="pictures", **COMMON["model"])
    parser.add_argument("--sizes", type=whole(1000), nargs="+", default=SIZES, help="captions in memory")
    parser.add_argument("--queries", type=whole(1), default=50, help="captions that are searched for")
    parser.add_argument("--repeats", type=whole(1), default=3, help="of each measurement, in turns")


STUDIES = {
    "speed": Study(_speed.__doc__, "pictures", _speed_arguments, _speed),
    "search": Study(_search.__doc__, "pictures", _search_arguments, _search),
}
