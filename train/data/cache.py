"""Encode once: text codes and latents on disk, filed by what made them; read without being loaded.

Rows of tensors lie in Arrow files, a few thousand a file, mapped into memory when they are read. Such a shard, filed by
what made it and by the content of its rows, is complete or absent, and taken up again by every run that has those rows.
"""

import fcntl
import hashlib
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from tqdm import tqdm

from bridge.checkpoint import CheckpointError, atomic_write
from bridge.codecs import ImageCodec, LatentDistribution
from bridge.errors import UserError
from bridge.text import TextCode, TextEncoder

PICTURES, CAPTIONS = 64, 256  # Encoded at a time
ROWS, NAME = 4096, 24  # Rows of a shard but the last; digits of a content hash in a file's name
LOCK, FACTS = ".lock", b"bridge"


@dataclass(frozen=True)
class Ragged:
    """A column whose rows differ in length, (B,): their values one after the other, (sum of lengths, D)."""

    values: Tensor
    length: Tensor


Column = Tensor | Ragged
# First and last row, the last excluded, to the columns of those rows, or to those pictures, (B, 3, H, W) in [0, 1]
Compute = Callable[[int, int], Mapping[str, Column]]
PixelsOf = Callable[[int, int], Tensor]


@dataclass
class Shard:
    """One file of rows in `home`, named after the digest of their content and its checksum."""

    home: Path
    made_by: str
    content: str
    rows: int

    @property
    def path(self) -> Path | None:
        """The file, once it is there."""
        return next(self.home.glob(f"{self.content[:NAME]}-*.arrow"), None)

    def write(self, columns: Mapping[str, Column]) -> None:
        """Write the rows, all or nothing. Raises ValueError if a column has another number of rows."""
        for name, column in columns.items():
            if (count := len(column.length if isinstance(column, Ragged) else column)) != self.rows:
                raise ValueError(f"columns: {name!r} has {count} rows, expected {self.rows}")
        shapes = {name: list(c.shape[1:]) if isinstance(c, Tensor) else None for name, c in columns.items()}
        facts = {"made_by": self.made_by, "content": self.content, "shapes": shapes}
        arrays = [_to_arrow(column) for column in columns.values()]
        batch = pa.record_batch(arrays, names=list(columns), metadata={FACTS: json.dumps(facts).encode()})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        data = sink.getvalue().to_pybytes()
        atomic_write(self.home / f"{self.content[:NAME]}-{zlib.crc32(data):08x}.arrow", data)

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """The columns, mapped; of a ragged one NAME its values, and its (B + 1,) starts as "NAME starts".

        Raises CheckpointError if the file is damaged, or was made by something else or of other rows.
        """
        if (path := self.path) is None:
            raise CheckpointError(f"{self.home}: a shard is missing; run the same command again")
        data = pa.memory_map(str(path)).read_buffer() if path.stat().st_size else b""
        if f"{zlib.crc32(data):08x}" != path.stem[-8:]:
            raise CheckpointError(f"{path}: cut short or changed since it was written; delete it")
        reader = pa.ipc.open_file(data)
        facts, batch = json.loads(reader.schema.metadata[FACTS]), reader.get_batch(0)
        if (facts["made_by"], facts["content"]) != (self.made_by, self.content):
            raise CheckpointError(f"{path}: is stale, made by another encoder or of other rows; delete it")
        columns: dict[str, np.ndarray] = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            shape, values = facts["shapes"][name], column
            if shape is None:
                columns[f"{name} starts"], values = column.offsets.to_numpy(), column.values
                shape = [values.type.list_size]
            columns[name] = values.flatten().to_numpy(zero_copy_only=True).reshape(-1, *shape)
        return columns


def _to_arrow(column: Column) -> pa.Array:
    if isinstance(column, Ragged):
        starts = np.concatenate([[0], column.length.cumsum(0).numpy()]).astype(np.int64)
        return pa.LargeListArray.from_arrays(pa.array(starts), _to_arrow(column.values))
    flat = np.ascontiguousarray(column.flatten(1).numpy())
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])


class Shards:
    """N rows in shards, in the order of the rows, on disk until they are asked for."""

    def __init__(self, parts: Sequence[Shard]) -> None:
        self.parts = parts
        self._ends = np.cumsum([part.rows for part in parts], dtype=int)

    @classmethod
    def held(cls, columns: Mapping[str, Tensor]) -> "Shards":
        """Rows that are in memory, not on disk."""
        part = Shard(Path(), "", "", len(next(iter(columns.values()))))
        part.columns = {name: column.numpy() for name, column in columns.items()}
        return cls([part])

    def __len__(self) -> int:
        return sum(part.rows for part in self.parts)

    def rows(self, name: str, index: Tensor) -> Tensor:
        """A column of rows (B,), (B, ...), in memory; like `ragged`, raises IndexError if there is no such row."""
        first = self.parts[0].columns[name]
        out = np.empty((len(index), *first.shape[1:]), first.dtype)
        for row, (columns, at) in enumerate(self._where(index)):
            out[row] = columns[name][at]
        return torch.from_numpy(out)

    def ragged(self, name: str, index: Tensor, places: int) -> tuple[Tensor, Tensor]:
        """A ragged column of rows (B,), (B, places, D), what is shorter filled with zeros, and which are there."""
        first = self.parts[0].columns[name]
        out, there = np.zeros((len(index), places, first.shape[1]), first.dtype), np.zeros((len(index), places), bool)
        for row, (columns, at) in enumerate(self._where(index)):
            start, end = columns[f"{name} starts"][at : at + 2]
            count = min(int(end - start), places)
            out[row, :count], there[row, :count] = columns[name][start : start + count], True
        return torch.from_numpy(out), torch.from_numpy(there)

    def longest(self, name: str) -> int:
        """Largest length of a row of a ragged column."""
        return max((int(np.diff(p.columns[f"{name} starts"]).max(initial=0)) for p in self.parts), default=0)

    def _where(self, index: Tensor) -> Iterator[tuple[dict[str, np.ndarray], int]]:
        """Columns of each row's shard and its place there."""
        rows = index.numpy()
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"index: expected rows 0 to {len(self) - 1}, got {rows.min()} to {rows.max()}")
        which = np.searchsorted(self._ends, rows, side="right")
        local = rows - (self._ends - [part.rows for part in self.parts])[which]
        return ((self.parts[number].columns, at) for number, at in zip(which.tolist(), local.tolist(), strict=True))


def encoded_once(
    folder: Path, kind: str, maker: Sequence[str], names: Sequence[str], compute: Compute, what: str = "rows"
) -> Shards:
    """N rows with content hashes `names` from `folder`; what is not there is computed, shard by shard, and kept there.

    `folder` holds all caches of a dataset; the folder of this one begins with `kind`. `maker` are fingerprints of
    everything but the rows that the columns depend on; `what` is what progress calls the rows.

    Several processes may work on the same rows: each shard is made by one of them, and one that dies is stood in for.
    Progress is shown after a second: what is there already says nothing.
    """
    made_by = _digest([kind, *maker])
    home = folder / f"{kind}-{made_by[:16]}"
    parts = [names[start : start + ROWS] for start in range(0, len(names), ROWS)]
    shards = [Shard(home, made_by, _digest(part), len(part)) for part in parts]
    missing = {i: shard for i, shard in enumerate(shards) if shard.path is None}
    if not missing:
        return Shards(shards)
    home.mkdir(parents=True, exist_ok=True)
    there = len(names) - sum(shard.rows for shard in missing.values())
    with (
        (home / LOCK).open("ab") as file,  # Byte i is locked by whoever makes shard i, until it dies at the latest
        tqdm(total=len(names), initial=there, desc=what, file=sys.stderr, delay=1.0) as bar,
    ):
        # First what nobody else makes; then what others have made, or died over
        for flags in (fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_EX):
            for i in sorted(missing):
                try:
                    fcntl.lockf(file, flags, 1, i)
                except (BlockingIOError, PermissionError):
                    continue
                shard = missing.pop(i)
                if shard.path is None:
                    shard.write(compute(i * ROWS, i * ROWS + shard.rows))
                fcntl.lockf(file, fcntl.LOCK_UN, 1, i)
                bar.update(shard.rows)
    return Shards(shards)


def _digest(words: Sequence[str]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(word.encode()).digest() for word in words)).hexdigest()


class Codes:
    """Codes of T texts: columns "pooled" and, where asked for, "tokens", at half precision, `places` to the longest."""

    def __init__(self, shards: Shards, *, with_tokens: bool) -> None:
        self.shards = shards
        self.places = shards.longest("tokens") if with_tokens else 0

    def pooled(self, index: Tensor) -> Tensor:
        """Pooled codes of texts (B,), (B, D)."""
        return self.shards.rows("pooled", index)

    @property
    def all_pooled(self) -> Tensor:
        """Pooled codes of all texts, in memory, (T, D)."""
        return self.pooled(torch.arange(len(self.shards)))

    def rows(self, index: Tensor, places: int | None = None) -> TextCode:
        """Codes of texts (B,), with so many token places: `self.places`, or fewer, the last tokens cut, or more."""
        pooled, count = self.pooled(index), self.places if places is None else places
        if not count:
            return replace(TextCode.null(*pooled.shape), pooled=pooled)
        tokens, mask = self.shards.ragged("tokens", index, count)
        return TextCode(pooled, tokens.float(), mask)


@dataclass(frozen=True)
class Latents:
    """Latent distributions of N pictures, in columns "mean" and "std"; `names` are their content hashes."""

    shards: Shards
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.shards)

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

    def chunk(at: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        code = encoder.encode(texts[at : min(at + CAPTIONS, stop)], batch_size=32, with_tokens=with_tokens)
        return code.pooled.cpu(), code.tokens[code.mask].half().cpu(), code.mask.sum(1).cpu()

    def compute(start: int, stop: int) -> Mapping[str, Column]:
        chunks = [chunk(at, stop) for at in range(start, stop, CAPTIONS)]
        pooled, tokens, length = map(torch.cat, zip(*chunks, strict=True))
        return {"pooled": pooled} | ({"tokens": Ragged(tokens, length)} if with_tokens else {})

    kind = "tokens" if with_tokens else "codes"
    shards = encoded_once(folder, kind, [encoder.fingerprint], texts, compute, "captions")
    return Codes(shards, with_tokens=with_tokens)


def latents(codec: ImageCodec, names: Sequence[str], pixels: PixelsOf, folder: Path, refine: int = 0) -> Latents:
    """Latent distributions of the N pictures with these content hashes, kept in `folder`, of a dataset's caches.

    `refine` is how many steps of `ImageCodec.refined` they take.
    """
    maker = [codec.fingerprint, *([f"refined {refine}"] if refine else [])]

    def compute(start: int, stop: int) -> Mapping[str, Column]:
        return vars(encode(codec, pixels, start, stop, refine))

    return Latents(encoded_once(folder, "latents", maker, names, compute, "pictures"), names)


def encode(codec: ImageCodec, pixels: PixelsOf, start: int, stop: int, refine: int = 0) -> LatentDistribution:
    """Latent distributions of pictures `start` to `stop`, the last excluded, (B, *z_shape)."""
    parts = (pixels(at, min(at + PICTURES, stop)) for at in range(start, stop, PICTURES))
    chunks = [codec.refined(x, refine) for x in parts]
    return LatentDistribution(*(torch.cat([getattr(c, name).cpu() for c in chunks]) for name in ("mean", "std")))
