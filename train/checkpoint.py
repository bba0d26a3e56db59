"""A run's folder: its lock, its log, and its checkpoint, whole or absent, checked byte for byte, free of pickled code.

A checkpoint is what `torch.save` writes, a zip archive, with the sha256 of everything before it as the archive's
comment: `torch.load(path, weights_only=True)` reads it and does not notice a flipped bit; `read_state` does.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import pickle
import re
import socket
import struct
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bridge.checkpoint import atomic_write
from bridge.errors import UserError
from train.command import DISK
from train.schedule import FREE, LoopConfig, TrainingError

LOCK, LOG = ".lock", "log.jsonl"
PLAIN_END, END_BYTES = re.compile(rb"\APK\x05\x06.{16}\0\0\Z", re.DOTALL), 22
"""How a zip archive without a comment ends."""
SEAL, SEAL_BYTES = re.compile(rb"sha256:([0-9a-f]{64})\Z"), 71


class ResumeError(UserError):
    """A run folder that cannot be resumed, naming what differs."""


class DamagedError(ResumeError):
    """A checkpoint that is not as it was written."""


class LockedError(ResumeError):
    """A run folder that another process trains in."""


class SaveError(TrainingError):
    """The disk refuses: full, read-only or broken. The last checkpoint stands."""


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """A block that writes below `out`; what the disk refuses becomes a SaveError."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK:
            raise
        remedy = "make room or mend the disk, then run the same command to resume"
        raise SaveError(f"{out}: cannot write: {error.strerror}; the last checkpoint stands; {remedy}") from error


def seal(archive: bytes) -> bytes:
    """A zip archive without a comment -> the same with its sha256 as comment. ValueError if it ends otherwise."""
    if not PLAIN_END.search(archive[-END_BYTES:]):
        raise ValueError("archive: expected a zip archive without a comment")
    body = archive[:-2] + struct.pack("<H", SEAL_BYTES)
    return body + b"sha256:" + hashlib.sha256(body).hexdigest().encode()


def damage_of(data: bytes) -> str:
    """What is wrong with an archive, if anything: by its seal, or in an earlier version's by the records' CRC-32."""
    if sealed := SEAL.search(data[-SEAL_BYTES:]):
        whole = hashlib.sha256(memoryview(data)[:-SEAL_BYTES]).hexdigest().encode() == sealed[1]
        return "" if whole else "sha256 differs"
    if not PLAIN_END.search(data[-END_BYTES:]):
        return "no end of archive: it is cut short"
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, OSError) as error:
        return str(error)
    return f"CRC-32 of {bad} differs" if bad else ""


def previous_of(path: Path) -> Path:
    """Where the checkpoint before the last one is kept."""
    return path.with_name(f"previous-{path.name}")


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Put a state at `path`; the one before stays as `previous_of(path)`, if the file system has hard links.

    Raises OSError if it cannot be written; the old state then stands.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    previous = previous_of(path)
    previous.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        os.link(path, previous)
    atomic_write(path, seal(buffer.getvalue()))


def read_state(path: Path) -> dict[str, Any]:
    """The state at `path`, on the CPU. DamagedError, with a remedy, if it is not as written or could run code."""
    data = path.read_bytes()
    if not (damage := damage_of(data)):
        try:
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            damage = "holds objects that could run code"
        except (RuntimeError, ValueError, KeyError, EOFError) as error:
            damage = str(error).splitlines()[0]
    previous, remedy = previous_of(path), "put a copy in its place, or remove it to begin again"
    if previous.exists() and not damage_of(previous.read_bytes()):
        remedy = f"`mv {previous} {path}` resumes from the save before"
    raise DamagedError(f"{path}: damaged ({damage}); {remedy}")


def require_same(out: Path, state: dict[str, Any], config: dict[str, Any], identity: dict[str, Any]) -> None:
    """Raise ResumeError, naming what differs besides `FREE`, unless `state` is of a run with this config and identity.

    Settings that earlier versions lacked count as the defaults; "data", a path, only without a "data_fingerprint".
    """
    before, now = asdict(LoopConfig(steps=1)) | state["config"] | state["identity"], config | identity
    left_out = "data" if "data_fingerprint" in before.keys() & now.keys() else "data_fingerprint"
    names = (before.keys() | now.keys()) - FREE - {left_out}
    if differs := sorted(name for name in names if before.get(name) != now.get(name)):
        listed = ", ".join(f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in differs)
        raise ResumeError(f"{out}: cannot resume: {listed}; name another `out` or restore the settings")


def fingerprint_of(parts: Iterable[Tensor | str]) -> str:
    """Identity of some contents, 16 hex digits: tensors by type, shape and bytes, and strings, in order.

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


def rewind(out: Path, step: int) -> None:
    """Remove the lines of log.jsonl that lie after `step`, or were cut short by a kill."""
    path = out / LOG
    text, kept = path.read_text("utf-8") if path.exists() else "", ""
    for line in text.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            kept += f"{line}\n" if int(json.loads(line)["step"]) <= step else ""
    if kept != text:
        atomic_write(path, kept)


def append(out: Path, step: int, figures: dict[str, float]) -> None:
    """One more line of log.jsonl, figures rounded to six decimals."""
    with (out / LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step} | {k: round(v, 6) for k, v in figures.items()}) + "\n")


@contextlib.contextmanager
def run_lock(out: Path) -> Iterator[None]:
    """Hold the run folder `out`, made where it is missing, while the block runs; the kernel lets go of it at death.

    A network share mounted with `nolock` or `local_lock=flock` keeps out other processes of the same machine only.
    Raises LockedError, naming process and machine, if another process holds it; ResumeError if it cannot be written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(os.open(out / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b", buffering=0)
    except OSError as error:
        raise ResumeError(f"{out}: cannot be written to: {error.strerror}; name another `out`") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = "another process"
            with contextlib.suppress(ValueError, KeyError, TypeError):
                owner = json.loads(file.read())
                who = f"process {int(owner['pid'])} on {owner['host']}"
            remedy = "wait for its end, stop it, or name another `out`"
            raise LockedError(f"{out}: {who} trains there; {remedy}") from None
        except OSError as error:
            raise ResumeError(f"{out}: cannot be locked: {error.strerror}; name an `out` on a local disk") from error
        with contextlib.suppress(OSError):  # a full disk: locked all the same, only nameless
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
