"""Encode once: text codes and latents on disk, filed by what made them; read without being loaded."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from bridge.codecs import ImageCodec, LatentDistribution
from bridge.errors import UserError
from bridge.text import TextCode, TextEncoder
from train.data.shards import Column, Ragged, Shards, encoded_once

CACHE = ".cache"
"""Folder inside a dataset's, for all that is made of it once."""
PICTURES, CAPTIONS = 64, 256
"""Encoded at a time."""
SHOWN_AFTER = 1.0
"""Seconds of encoding before progress is shown: what is there already says nothing."""


PixelsOf = Callable[[int, int], Tensor]
"""First and last row, the last excluded, to these pictures, (B, 3, H, W) in [0, 1]."""


class Codes:
    """Codes of T texts on disk: a column "pooled" and, where tokens were asked for, a ragged one "tokens", half precision.
    """

    def __init__(self, shards: Shards, *, with_tokens: bool) -> None:
        self.shards = shards
        self.places = shards.longest("tokens") if with_tokens else 0
        """Token places of every code: the longest text's."""

    def pooled(self, index: Tensor) -> Tensor:
        """Pooled codes of texts (B,), (B, D)."""
        return self.shards.rows("pooled", index)

    @property
    def all_pooled(self) -> Tensor:
        """Pooled codes of all texts, in memory, (T, D)."""
        return self.pooled(torch.arange(len(self.shards)))

    def rows(self, index: Tensor, places: int | None = None) -> TextCode:
        """Codes of texts (B,), with so many token places: `self.places`, or fewer, the last tokens cut, or more."""
        pooled = self.pooled(index)
        count = self.places if places is None else places
        if not count:
            none = pooled.new_zeros(len(index), 0, pooled.shape[1])
            return TextCode(pooled, none, torch.zeros(len(index), 0, dtype=torch.bool))
        tokens, mask = self.shards.ragged("tokens", index, count)
        return TextCode(pooled, tokens.float(), mask)


class Latents:
    """Latent distributions of N pictures on disk, in columns "mean" and "std"; `names` are the pictures' content hashes.
    """

    def __init__(self, shards: Shards, names: Sequence[str]) -> None:
        self.shards, self.names = shards, names

    def __len__(self) -> int:
        return len(self.shards)

    def __add__(self, others: "Latents") -> "Latents":
        """These, then `others`, of one codec."""
        return Latents(Shards([*self.shards.parts, *others.shards.parts]), [*self.names, *others.names])

    def rows(self, index: Tensor) -> LatentDistribution:
        """Of pictures (B,)."""
        return LatentDistribution(self.shards.rows("mean", index), self.shards.rows("std", index))

    @property
    def every(self) -> LatentDistribution:
        """Of all pictures, in memory."""
        return self.rows(torch.arange(len(self)))

    @property
    def means(self) -> Tensor:
        """Of all pictures, in memory, (N, *z_shape)."""
        return self.shards.rows("mean", torch.arange(len(self)))


def can_read(encoder: TextEncoder, caption: str) -> bool:
    """Whether an encoder finds anything to read in a caption; word vectors know some words only."""
    try:
        encoder.prepare(caption)
    except UserError:
        return False
    return True


def caption_codes(encoder: TextEncoder, texts: Sequence[str], folder: Path, *, with_tokens: bool) -> Codes:
    """Codes of captions, kept in `folder`."""

    def compute(start: int, stop: int) -> Mapping[str, Column]:
        pooled, tokens, length = [], [], []
        for at in range(start, stop, CAPTIONS):
            code = encoder.encode(texts[at : min(at + CAPTIONS, stop)], batch_size=32, with_tokens=with_tokens)
            pooled.append(code.pooled.cpu())
            tokens.append(code.tokens[code.mask].half().cpu())
            length.append(code.mask.sum(1).cpu())
        columns: dict[str, Column] = {"pooled": torch.cat(pooled)}
        return columns | {"tokens": Ragged(torch.cat(tokens), torch.cat(length))} if with_tokens else columns

    kind = "tokens" if with_tokens else "codes"
    with tqdm(total=len(texts), desc="captions", file=sys.stderr, delay=SHOWN_AFTER) as bar:
        shards = encoded_once(folder, kind, [encoder.fingerprint], texts, compute, bar.update)
    return Codes(shards, with_tokens=with_tokens)


def latents(codec: ImageCodec, names: Sequence[str], pixels: PixelsOf, folder: Path) -> Latents:
    """Latent distributions of the N pictures with these content hashes, kept in `folder`, of all caches of a dataset.
    """

    def compute(start: int, stop: int) -> Mapping[str, Column]:
        return vars(encode(codec, pixels, start, stop))

    with tqdm(total=len(names), desc="pictures", file=sys.stderr, delay=SHOWN_AFTER) as bar:
        return Latents(encoded_once(folder, "latents", [codec.fingerprint], names, compute, bar.update), names)


def encode(codec: ImageCodec, pixels: PixelsOf, start: int, stop: int) -> LatentDistribution:
    """Latent distributions of pictures `start` to `stop`, the last excluded, (B, *z_shape)."""
    chunks = [codec.encode(pixels(at, min(at + PICTURES, stop))) for at in range(start, stop, PICTURES)]
    return LatentDistribution(*(torch.cat([getattr(c, name).cpu() for c in chunks]) for name in ("mean", "std")))
