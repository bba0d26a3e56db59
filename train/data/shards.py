"""Rows of tensors in Arrow files on disk, a few thousand a file, mapped into memory when they are read.

A shard is filed by what made it and by the content of its own rows: it is complete or absent, is made by one of
however many processes work on the same rows, and is taken up again by every later run that has those rows.
"""

import contextlib
import fcntl
import hashlib
import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from bridge.checkpoint import CheckpointError, atomic_write

ROWS = 4096
"""Rows of a shard; the last one has fewer."""
WAIT_SECONDS = 0.2
LOCK = ".lock"
NAME = 24
"""Digits of a content hash in a file's name."""
FACTS = b"bridge"


@dataclass(frozen=True)
class Ragged:
    """A column whose rows differ in length, (B,): their values one after the other, (sum of lengths, D)."""

    values: Tensor
    length: Tensor


Column = Tensor | Ragged
Compute = Callable[[int, int], Mapping[str, Column]]
"""First and last row, the last excluded, to columns of those rows."""


def encoded_once(
    folder: Path,
    kind: str,
    maker: Sequence[str],
    names: Sequence[str],
    compute: Compute,
    progress: Callable[[int], object] = lambda _: None,
) -> "Shards":
    """Rows from `folder`, where they are there; the others are computed, shard by shard, and kept there.

    Several processes may work on the same rows: each shard is made by one of them, and one that dies is stood in for.

    Args:
        folder: Of all caches of a dataset; a folder in it, its name beginning with `kind`, is made when first written.
        maker: Fingerprints of everything but the rows that the columns depend on.
        names: Content hash of each row, (N,).
        compute: Makes columns.
        progress: Told how many rows have come to be there, each time some have.
    """
    made_by = _digest([kind, *maker])
    home = folder / f"{kind}-{made_by[:16]}"
    parts = [names[start : start + ROWS] for start in range(0, len(names), ROWS)]
    shards = Shards([Shard(home, made_by, _digest(part), len(part)) for part in parts])
    shards.find(home)
    missing = {i for i, shard in enumerate(shards.parts) if shard.path is None}
    progress(sum(len(part) for i, part in enumerate(parts) if i not in missing))
    if not missing:
        return shards
    home.mkdir(parents=True, exist_ok=True)
    with (home / LOCK).open("ab") as file:
        while missing:
            shards.find(home)
            done = {i for i in sorted(missing) if _made(file, i, shards.parts[i], compute)}
            missing -= done
            progress(sum(len(parts[i]) for i in done))
            if not done:
                time.sleep(WAIT_SECONDS)
    return shards


def _made(file: IO[bytes], number: int, shard: "Shard", compute: Compute) -> bool:
    """Whether the shard is there now: by this process, unless another one is at it."""
    if shard.path is not None:
        return True
    with _claimed(file, number) as mine:
        if mine and not shard.find():
            shard.write(compute(number * ROWS, number * ROWS + shard.rows))
        return mine


@contextlib.contextmanager
def _claimed(file: IO[bytes], number: int) -> Iterator[bool]:
    """Whether no other process holds byte `number` of the lock file; held while the block runs.

    The kernel lets go when the process dies, however it dies.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
    except (BlockingIOError, PermissionError):
        yield False
        return
    try:
        yield True
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, number)


class Shard:
    """One file of rows in `home`, named after the digest of their content hashes and the checksum of the whole file.

    `path` is the file, None until it is there; `made_by` the digest of what made it.
    """

    def __init__(self, home: Path, made_by: str, content: str, rows: int) -> None:
        self.home, self.made_by, self.content, self.rows = home, made_by, content, rows
        self.path: Path | None = None
        self._columns: dict[str, np.ndarray] = {}

    @property
    def name(self) -> str:
        """Start of the file's name."""
        return self.content[:NAME]

    def find(self) -> bool:
        """Whether the file is there by now."""
        self.path = self.path or next(self.home.glob(f"{self.name}-*.arrow"), None)
        return self.path is not None

    def write(self, columns: Mapping[str, Column]) -> None:
        """Write the rows, all or nothing. Raises ValueError if a column has another number of rows."""
        shapes, arrays = {}, []
        for name, column in columns.items():
            count = len(column.length if isinstance(column, Ragged) else column)
            if count != self.rows:
                raise ValueError(f"columns: {name!r} has {count} rows, expected {self.rows}")
            shapes[name] = list(column.shape[1:]) if isinstance(column, Tensor) else None
            arrays.append(_to_arrow(column))
        batch = pa.record_batch(arrays, names=list(columns))
        facts = {"made_by": self.made_by, "content": self.content, "shapes": shapes}
        schema = batch.schema.with_metadata({FACTS: json.dumps(facts).encode()})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))
        data = sink.getvalue().to_pybytes()
        path = self.home / f"{self.name}-{zlib.crc32(data):08x}.arrow"
        atomic_write(path, data)
        self.path = path

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The columns, mapped; of a ragged one NAME its values, and its (B + 1,) starts as "NAME starts".

        Raises CheckpointError if the file is damaged, or was made by something else or of other rows.
        """
        if not self._columns:
            self._columns = self._read()
        return self._columns

    def _read(self) -> dict[str, np.ndarray]:
        if self.path is None:
            raise CheckpointError(f"{self.home}: a shard is missing; run the same command again")
        data = pa.memory_map(str(self.path)).read_buffer() if self.path.stat().st_size else b""
        if f"{zlib.crc32(data):08x}" != self.path.stem[-8:]:
            raise CheckpointError(f"{self.path}: cut short or changed since it was written; delete it")
        reader = pa.ipc.open_file(data)
        facts, batch = json.loads(reader.schema.metadata[FACTS]), reader.get_batch(0)
        if (facts["made_by"], facts["content"]) != (self.made_by, self.content):
            raise CheckpointError(f"{self.path}: is stale, made by another encoder or of other rows; delete it")
        columns: dict[str, np.ndarray] = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            shape = facts["shapes"][name]
            if shape is None:
                columns[f"{name} starts"] = column.offsets.to_numpy()
                column = column.values  # noqa: PLW2901
                shape = [column.type.list_size]
            columns[name] = column.flatten().to_numpy(zero_copy_only=True).reshape(-1, *shape)
        return columns


class Shards:
    """N rows in shards, on disk until they are asked for.

    Args:
        parts: The shards, in the order of the rows.
    """

    def __init__(self, parts: Sequence[Shard]) -> None:
        self.parts = parts
        self._ends = np.cumsum([part.rows for part in parts])

    def find(self, home: Path) -> None:
        """Look which files are in the folder by now."""
        there = {path.name[:NAME]: path for path in home.glob("*.arrow")}
        for part in self.parts:
            part.path = part.path or there.get(part.name)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def rows(self, name: str, index: Tensor) -> Tensor:
        """A column of rows (B,), (B, ...), in memory. Raises IndexError if there is no such row."""
        which, local = self._where(index)
        first = self.parts[0].columns[name]
        out = np.empty((len(index), *first.shape[1:]), first.dtype)
        for row, (number, at) in enumerate(zip(which.tolist(), local.tolist(), strict=True)):
            out[row] = self.parts[number].columns[name][at]
        return torch.from_numpy(out)

    def ragged(self, name: str, index: Tensor, places: int) -> tuple[Tensor, Tensor]:
        """A ragged column of rows (B,), (B, places, D), what is shorter filled with zeros, and which are there.

        Raises IndexError if there is no such row.
        """
        which, local = self._where(index)
        first = self.parts[0].columns[name]
        out, there = np.zeros((len(index), places, first.shape[1]), first.dtype), np.zeros((len(index), places), bool)
        for row, (number, at) in enumerate(zip(which, local, strict=True)):
            columns = self.parts[number].columns
            start, end = columns[f"{name} starts"][at : at + 2]
            count = min(int(end - start), places)
            out[row, :count], there[row, :count] = columns[name][start : start + count], True
        return torch.from_numpy(out), torch.from_numpy(there)

    def longest(self, name: str) -> int:
        """Largest length of a row of a ragged column."""
        return max((int(np.diff(p.columns[f"{name} starts"]).max(initial=0)) for p in self.parts), default=0)

    def _where(self, index: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Shard of each row and its place there."""
        rows = index.numpy()
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"index: expected rows 0 to {len(self) - 1}, got {rows.min()} to {rows.max()}")
        which = np.searchsorted(self._ends, rows, side="right")
        return which, rows - (self._ends - [part.rows for part in self.parts])[which]


def _digest(words: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for word in words:
        digest.update(hashlib.sha256(word.encode()).digest())
    return digest.hexdigest()


def _to_arrow(column: Column) -> pa.Array:
    if isinstance(column, Ragged):
        starts = np.concatenate([[0], column.length.cumsum(0).numpy()]).astype(np.int64)
        return pa.LargeListArray.from_arrays(pa.array(starts), _to_arrow(column.values))
    flat = np.ascontiguousarray(column.flatten(1).numpy())
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])
