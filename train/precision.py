"""Tells whoever trains in bfloat16 on a processor that has no instructions for it, where that is many times slower."""

import functools
import time

import torch

from train.command import say

SIDE, REPEATS, SLOWER = 256, 10, 2.0
"""Of the matrices multiplied, how often, and how many times slower bfloat16 must be to be worth a word."""


@functools.cache
def slowdown() -> float:
    """Seconds of a matrix multiplied in bfloat16 by those in float32, on this processor; below 1 where it is faster."""
    least = {}
    for dtype in (torch.float32, torch.bfloat16):
        x, taken = torch.ones(SIDE, SIDE, dtype=dtype), []
        for _ in range(REPEATS):
            start = time.perf_counter()
            _ = x @ x
            taken.append(time.perf_counter() - start)
        least[dtype] = min(taken)
    return least[torch.bfloat16] / least[torch.float32]


def slow_bfloat16() -> bool:
    """Whether what is trained on here is a processor without bfloat16."""
    return not torch.accelerator.is_available() and slowdown() > SLOWER


def note_precision(mixed_precision: str, option: str) -> None:
    """Say on standard error that bfloat16 is slow here, where it is; an accelerator is taken to have it.

    Args:
        mixed_precision: "bf16", or anything else, of which nothing is said.
        option: What the reader has to set to "no" instead, such as "mixed_precision".
    """
    if mixed_precision == "bf16" and slow_bfloat16():
        say(
            f"{option}: on this processor bfloat16 takes {slowdown():.0f} times as long as float32; "
            f'"no" trains in float32'
        )
