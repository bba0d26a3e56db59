"""Keyed randomness: the same key gives the same noise, whatever else is drawn beside it.

Every row has a generator of its own, keyed by integers such as (seed, index) in generation and (seed, epoch, row) in
training.
"""

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from bridge.arguments import whole
from bridge.errors import UserError

SPREAD = -1  # in the place of an image's index


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


def spread_number(seed: int, index: int) -> float:
    """A number in [0, 1) for an image; those of one seed lie evenly, most so if they are 2, 4, 8 or so on.

    Source: van der Corput 1935, Verteilungsfunktionen (the bits of the index, mirrored), from a random start as in
        Cranley & Patterson 1976, Randomization of Number Theoretic Methods for Multiple Integration
    """
    first = torch.rand((), dtype=torch.float64, generator=generator_for(seed, SPREAD))
    mirrored = int(f"{index:b}"[::-1], 2) / 2 ** index.bit_length()
    return (float(first) + mirrored) % 1.0


def seed_or_generators(
    seed: Any, generator: torch.Generator | Iterable[torch.Generator] | None, images: int
) -> tuple[int | None, Sequence[torch.Generator] | None]:
    """A seed, drawn where none is given; or one generator for each of so many images.

    Raises UserError if both are given, the seed is no whole number, or the generators are not one for each image.
    """
    if generator is None:
        return secrets.randbits(32) if seed is None else whole(seed, "seed"), None
    if seed is not None:
        raise UserError("seed, generator: give one of them, not both")
    generators = list(generator) if isinstance(generator, Iterable) else [generator]
    if not all(isinstance(one, torch.Generator) for one in generators):
        raise UserError(f"generator: expected a torch.Generator for each image, got {type(generator).__name__}")
    if len(generators) != images or len({id(one) for one in generators}) != images:
        raise UserError(f"generator: expected {images}, one for each image and none twice, got {len(generators)}")
    return None, generators
