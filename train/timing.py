"""Clocks for benchmarks, that neighbours on the machine disturb little."""

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch


def clock() -> float:
    """Seconds of this process on a CPU; of the wall, after waiting for the device, on an accelerator."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
        return time.perf_counter()
    return time.process_time()


def interleaved(
    works: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = clock
) -> dict[str, float]:
    """Median seconds of each work by `clock`, done in turns after two turns to warm up.

    >>> sorted(interleaved({"a": int, "b": str}, repeats=3))
    ['a', 'b']
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 2):
        for name, work in works.items():
            start = clock()
            work()
            times[name].append(clock() - start)
    return {name: median(taken[2:]) for name, taken in times.items()}
