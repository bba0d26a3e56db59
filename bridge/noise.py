"""Keyed randomness: the same key gives the same noise, whatever else is drawn beside it.

Every row has a generator of its own, keyed by integers such as (seed, index) in generation and (seed, epoch, row) in
training.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator_for(*key: int) -> torch.Generator:
    """CPU generator whose stream depends on `key` alone, integers such as (seed, index), in their order."""
    digest = hashlib.sha256(",".join(str(int(part)) for part in key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def normal_rows(keys: Sequence[tuple[int, ...]], shape: Sequence[int]) -> Tensor:
    """Standard normal noise, float32 (len(keys), *shape), one independent row a key."""
    rows = torch.empty(len(keys), *shape)
    for row, key in zip(rows, keys, strict=True):
        row.normal_(generator=generator_for(*key))
    return rows
