"""Clocks for benchmarks, that neighbours on the machine disturb little; and whether bfloat16 is slow here."""

import functools
import time
import timeit
from collections.abc import Callable, Mapping
from statistics import median

import torch

from train.command import say


def clock() -> float:
    """Seconds of this process on a CPU; of the wall, after waiting for the device, on an accelerator."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
        return time.perf_counter()
    return time.process_time()


def interleaved(
    works: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = clock
) -> dict[str, float]:
    """Median seconds of each work by `clock`, done in turns after two turns to warm up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 2):
        for name, work in works.items():
            start = clock()
            work()
            times[name].append(clock() - start)
    return {name: median(taken[2:]) for name, taken in times.items()}


@functools.cache
def slowdown() -> float:
    """Time of a matrix product in bfloat16 over that in float32 on this processor; below 1 where it is faster."""

    def least(dtype: torch.dtype) -> float:
        x = torch.ones(256, 256, dtype=dtype)
        return min(timeit.repeat(lambda: x @ x, number=1, repeat=10))

    return least(torch.bfloat16) / least(torch.float32)


def note_precision(mixed_precision: str, option: str) -> None:
    """Say where "bf16" is slow on this processor; `option` is what the reader sets to "no" instead.

    An accelerator is taken to have it.
    """
    if mixed_precision == "bf16" and not torch.accelerator.is_available() and slowdown() > 2:
        times = f"{slowdown():.0f} times as long as float32"
        say(f'{option}: on this processor bfloat16 takes {times}; "no" trains in float32')
