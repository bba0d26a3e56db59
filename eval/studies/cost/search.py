"""How long the search for a caption's pictures takes, and what the index misses, by how many captions memory holds.

The captions are made up: codes of what the model knows, each moved at random, one picture to a caption.
"""

import argparse
import time

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bridge.errors import UserError
from bridge.mappers import LocalFlowMapper
from bridge.mappers.local import log_kernel
from bridge.noise import generator_for
from bridge.pipeline import BridgePipeline
from eval.studies import COMMON, Study
from train.command import Parser, whole
from train.timing import interleaved

MOVED = 0.6
"""Length of what is added to a unit code: to a cosine of about .86, as between captions of one thing."""
SIZES = [10**4, 10**5, 10**6]


def made_up(codes: Tensor, count: int, key: int) -> Tensor:
    """`count` unit codes (count, D): known ones (M, D) again and again, each moved at random."""
    generator = generator_for(0, key)
    rows = torch.randint(len(codes), (count,), generator=generator)
    moves = torch.randn(count, codes.shape[1], generator=generator)
    return F.normalize(codes[rows] + moves.mul_(MOVED / codes.shape[1] ** 0.5), dim=1)


def line(size: int, known: Tensor, queries: Tensor, whitening: float, repeats: int) -> str:
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
    mass = np.mean([weight[np.isin(near, found)].sum() for found, near, weight in exact])
    each = [1000 * taken[name] / len(queries) for name in ("search", "exact")]
    kept = f"{mapper.config.index_bytes / 1e6:6.0f} MB" if mapper.config.index_bytes else "     none"
    return f"{size:9,} | {built:6.1f} s | {kept} | {each[0]:7.1f} ms | {each[0] / each[1]:5.2f} | {mass:.3f}"


def _arguments(parser: Parser) -> None:
    parser.add_argument("model", nargs="?", default="pictures", **COMMON["model"])
    parser.add_argument("--sizes", type=whole(1000), nargs="+", default=SIZES, help="captions in memory")
    parser.add_argument("--queries", type=whole(1), default=50, help="captions that are searched for")
    parser.add_argument("--repeats", type=whole(1), default=3, help="of each measurement, in turns")


def _run(args: argparse.Namespace, _: str) -> None:
    mapper = BridgePipeline.from_pretrained(args.model).mapper
    if not isinstance(mapper, LocalFlowMapper):
        raise UserError(f"MODEL: {args.model} has no memory to search; take a local flow")
    known, whitening = mapper.unit_codes, float(mapper.config.whitening)
    queries = made_up(known, args.queries, 0)
    print(f"{torch.get_num_threads()} threads\n captions | to make | its index | a search | / exact | mass found")
    for size in args.sizes:
        print(line(size, known, queries, whitening, args.repeats), flush=True)


STUDY = Study(__doc__, "pictures", _arguments, _run)
