"""Encode once: text codes and latents on disk, filed by what made them; read without being loaded."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor
from tqdm import tqdm

from bridge.codec import ImageCodec, LatentDistribution
from bridge.text import TextCode, TextEncoder
from train.data import picture_hashes, pixels_of, to_unit
from train.shards import Column, Ragged, Shards, encoded_once

PICTURES, CAPTIONS = 64, 256
"""Encoded at a time."""


class Codes:
    """Codes of T texts on disk, their tokens at half precision.

    Args:
        shards: With a column "pooled" and, where tokens were asked for, a ragged one "tokens".
        with_tokens: Whether they were.
    """

    def __init__(self, shards: Shards, *, with_tokens: bool) -> None:
        self.shards = shards
        self.places = shards.longest("tokens") if with_tokens else 0
        """Token places of every code: the longest text's."""

    def pooled(self, index: Tensor) -> Tensor:
        """Pooled codes of texts (B,), (B, D)."""
        return self.shards.rows("pooled", index)

    def rows(self, index: Tensor) -> TextCode:
        """Codes of texts (B,), with `places` token places."""
        pooled = self.pooled(index)
        if not self.places:
            none = pooled.new_zeros(len(index), 0, pooled.shape[1])
            return TextCode(pooled, none, torch.zeros(len(index), 0, dtype=torch.bool))
        tokens, mask = self.shards.ragged("tokens", index, self.places)
        return TextCode(pooled, tokens.float(), mask)


class Latents:
    """Latent distributions of N pictures on disk.

    Args:
        shards: With columns "mean" and "std".
        names: Content hash of each picture.
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
    def means(self) -> Tensor:
        """Of all pictures, in memory, (N, *z_shape)."""
        return self.shards.rows("mean", torch.arange(len(self)))


def text_codes(encoder: TextEncoder, texts: Sequence[str], folder: Path) -> Tensor:
    """Pooled codes of captions, (N, D), kept in `folder` and in memory."""
    return caption_codes(encoder, texts, folder, with_tokens=False).pooled(torch.arange(len(texts)))


def caption_codes(encoder: TextEncoder, texts: Sequence[str], folder: Path, *, with_tokens: bool) -> Codes:
    """Codes of captions, kept in `folder`."""

    def compute(start: int, stop: int) -> Mapping[str, Column]:
        pooled, tokens, length = [], [], []
        for at in range(start, stop, CAPTIONS):
            code = encoder.encode(texts[at : min(at + CAPTIONS, stop)], batch_size=32, with_tokens=with_tokens)
            pooled.append(code.pooled.cpu())
            tokens.append(code.tokens[code.mask].half().cpu())
            length.append(code.mask.sum(1).cpu())
        found: dict[str, Column] = {"pooled": torch.cat(pooled)}
        return found | {"tokens": Ragged(torch.cat(tokens), torch.cat(length))} if with_tokens else found

    kind = "tokens" if with_tokens else "codes"
    with tqdm(total=len(texts), desc="captions", file=sys.stderr) as bar:
        shards = encoded_once(folder, kind, [encoder.fingerprint], texts, compute, bar.update)
    return Codes(shards, with_tokens=with_tokens)


def latents(codec: ImageCodec, rows: Dataset, folder: Path) -> Latents:
    """Latent distributions of a dataset's pictures, kept in `folder`; a shard's pictures are in memory at a time."""

    def compute(start: int, stop: int) -> Mapping[str, Column]:
        pixels = pixels_of(rows.select(range(start, stop)))
        chunks = [codec.encode(to_unit(chunk)) for chunk in pixels.split(PICTURES)]
        return {name: torch.cat([getattr(c, name).cpu() for c in chunks]) for name in ("mean", "std")}

    names = picture_hashes(rows)
    with tqdm(total=len(rows), desc="pictures", file=sys.stderr) as bar:
        return Latents(encoded_once(folder, "latents", [codec.fingerprint], names, compute, bar.update), names)
