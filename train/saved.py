"""A run's checkpoint on disk: whole or absent, checked byte for byte, free of pickled code.

The file is what `torch.save` writes, a zip archive, with the sha256 of everything before it as the archive's
comment: `torch.load(path, weights_only=True)` reads it, and does not notice a flipped bit; `read_state` does.
"""

import contextlib
import hashlib
import io
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bridge.checkpoint import atomic_write
from train.failures import DamagedError, ResumeError
from train.schedule import FREE, LoopConfig

END = b"PK\x05\x06"
SEAL = re.compile(rb"sha256:([0-9a-f]{64})\Z")
SEAL_BYTES = 71
END_BYTES = 22


def seal(archive: bytes) -> bytes:
    """A zip archive without a comment -> the same with its sha256 as comment.

    Raises:
        ValueError: It ends otherwise than such an archive does.
    """
    if not _ends_plainly(archive):
        raise ValueError("archive: expected a zip archive without a comment")
    body = archive[:-2] + struct.pack("<H", SEAL_BYTES)
    return body + b"sha256:" + hashlib.sha256(body).hexdigest().encode()


def damage_of(data: bytes) -> str:
    """What is wrong with a sealed archive; empty where nothing is.

    Archives without a seal, as earlier versions wrote them, are checked by the CRC-32 of their records.

    >>> damage_of(b"PK")
    'no end of archive: it is cut short'
    """
    sealed = SEAL.search(data[-SEAL_BYTES:])
    if sealed:
        whole = hashlib.sha256(memoryview(data)[:-SEAL_BYTES]).hexdigest().encode() == sealed[1]
        return "" if whole else "sha256 differs"
    if not _ends_plainly(data):
        return "no end of archive: it is cut short"
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, OSError) as error:
        return str(error)
    return f"CRC-32 of {bad} differs" if bad else ""


def _ends_plainly(archive: bytes) -> bool:
    """Whether it ends as a zip archive without a comment does."""
    return archive[-END_BYTES : -END_BYTES + 4] == END and archive[-2:] == bytes(2)


def previous_of(path: Path) -> Path:
    """Where the checkpoint before the last one is kept."""
    return path.with_name(f"previous-{path.name}")


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Put a state at `path`, complete or not at all; the one that was there stays beside it as `previous_of(path)`.

    At any moment, and after any failure, `path` is the old state or the new one. Needs room for two states. On a
    file system without hard links no previous one is kept.

    Raises:
        OSError: It cannot be written; the old state stands and no temporary file is left.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    previous = previous_of(path)
    previous.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        os.link(path, previous)
    atomic_write(path, seal(buffer.getvalue()))


def read_state(path: Path) -> dict[str, Any]:
    """The state at `path`, its tensors on the CPU.

    Raises:
        DamagedError: Not as it was written, or with objects that could run code; says what to do.
    """
    data = path.read_bytes()
    damage = damage_of(data)
    if not damage:
        try:
            state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            return state
        except pickle.UnpicklingError:
            damage = "holds objects that could run code"
        except (RuntimeError, ValueError, KeyError, EOFError) as error:
            damage = str(error).splitlines()[0]
    raise DamagedError(f"{path}: damaged ({damage}); {_remedy(path)}")


def _remedy(path: Path) -> str:
    previous = previous_of(path)
    if previous.exists() and not damage_of(previous.read_bytes()):
        return f"`mv {previous} {path}` goes on from the save before"
    return "put a copy in its place, or remove it to begin again"


def require_same(out: Path, state: dict[str, Any], config: dict[str, Any], identity: dict[str, Any]) -> None:
    """Refuse a state that another run has written.

    Args:
        out: Run folder, for the message.
        state: Holds the "config" and "identity" of the run that wrote it. Settings that are missing, as earlier
            versions did not have them, count as the defaults; those of `FREE` may differ.
        config: Settings of the run that goes on.
        identity: What else must be the same. "data", a path, only counts where no "data_fingerprint" does.

    Raises:
        ResumeError: Names what differs.
    """
    settings = [asdict(LoopConfig(steps=1)) | state["config"], config]
    before, now = (
        {k: v for k, v in setting.items() if k not in FREE} | told
        for setting, told in zip(settings, (state["identity"], identity), strict=True)
    )
    left_out = "data" if "data_fingerprint" in before.keys() & now.keys() else "data_fingerprint"
    names = (before.keys() | now.keys()) - {left_out}
    if differs := sorted(name for name in names if before.get(name) != now.get(name)):
        told = ", ".join(f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in differs)
        raise ResumeError(f"{out}: cannot go on: {told}; name another `out` or restore the settings")


def fingerprint_of(parts: Iterable[Tensor | str]) -> str:
    """Identity of a dataset's contents, 16 hex digits: tensors by type, shape and bytes, and strings, in order.

    >>> fingerprint_of(["a", "b"]) == fingerprint_of(["ab"])
    False
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(b"s" + hashlib.sha256(part.encode()).digest())
        else:
            flat = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(f"t {part.dtype} {tuple(part.shape)}".encode())
            digest.update(hashlib.sha256(flat.numpy().data if flat.numel() else b"").digest())
    return digest.hexdigest()[:16]
