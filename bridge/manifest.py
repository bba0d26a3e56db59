"""The list of the pictures in a folder, manifest.jsonl: a JSON object a picture. Importing this is cheap."""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bridge.captions import well_formed
from bridge.errors import UserError

MANIFEST = "manifest.jsonl"
KEYS = frozenset({"file", "caption", "seed", "index", "model"})  # of every line of ours
_START = b'{"file": "'
_NAMED = re.compile(rb'\{"file": "[a-z0-9-]+-[0-9a-f]{8}/seed')
_LINE_END = re.compile(rb"\r\n|\r|\n")
_BREAKS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}  # line breaks to some readers


class Manifest:
    """The manifest of a folder into which one process or several write pictures.

    One that bridge did not write is never changed. Of one that it wrote, a last line that a crash cut off is taken
    away; blank lines, any line ends and a byte order mark are read as editors leave them. Should the file be removed
    or replaced meanwhile, what this process added is listed again.

    Raises UserError if there is one that bridge did not write, or that cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / MANIFEST
        self.added: dict[str, str] = {}  # file -> line, of this process
        self.listed: set[str] = set()
        self.state: tuple[int, int, int] | None = None
        if os.path.lexists(self.path):
            with self._opened(create=False) as handle:
                _read(handle, self.path)

    def add(self, row: Mapping[str, Any]) -> None:
        """List a picture, unless it is listed: its "file", relative to the folder, and how it was made.

        Raises UserError if the manifest has become one that bridge did not write, OSError if it cannot be written.
        """
        known = {key: well_formed(v) if isinstance(v, str) else v for key, v in row.items()}
        file, line = str(row["file"]), json.dumps(known, ensure_ascii=False).translate(_BREAKS) + "\n"
        with self._opened(create=True) as handle:
            size, lines = os.fstat(handle).st_size, ""
            if self.state != _state(handle):
                self.listed, size, lines = _read(handle, self.path)
                missing = {name: line for name, line in self.added.items() if name not in self.listed}
                lines += "".join(old for name, old in missing.items() if (self.path.parent / name).is_file())
                self.listed |= missing.keys()
            if file not in self.listed:
                lines += line
            if lines or size != os.fstat(handle).st_size:
                _append(handle, size, lines.encode())
            self.listed.add(file)
            self.added[file] = line
            self.state = _state(handle)

    @contextlib.contextmanager
    def _opened(self, *, create: bool) -> Iterator[int]:
        """A handle of the file, locked against other writers, and surely that of `path`."""
        with contextlib.ExitStack() as stack:
            while True:
                if os.path.lexists(self.path) and not self.path.is_file():
                    kind = "a folder" if self.path.is_dir() else "no file"
                    raise UserError(f"{self.path} is {kind}; choose another folder")
                try:
                    flags = os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0)
                    handle = os.open(self.path, flags | (os.O_CREAT if create else 0), 0o666)
                except PermissionError as error:
                    reason = f"cannot write to {self.path}: {error.strerror}"
                    raise UserError(f"{reason}; choose another folder") from None
                stack.callback(os.close, handle)
                _lock(handle)
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.stat(self.path), os.fstat(handle)):
                        break
            yield handle


def _read(handle: int, path: Path) -> tuple[set[str], int, str]:
    """Pictures that a manifest lists, its bytes up to a line cut off, and the line's end that these lack, if any."""
    os.lseek(handle, 0, os.SEEK_SET)
    with open(handle, "rb", closefd=False) as file:
        data = file.read()
    *whole, last = _LINE_END.split(data.removeprefix(b"\xef\xbb\xbf"))
    files = {_file_of(line, path, number) for number, line in enumerate(whole, 1) if line.strip()}
    if not last.strip():
        return files, len(data), "\n" if last else ""
    # Cut off: it can be told from another tool's line by what stands before it, or by the name of a picture of ours.
    ours = (last.startswith(_START) or _START.startswith(last)) if files else _NAMED.match(last)
    if ours and _row(last) is None:
        return files, len(data) - len(last), ""
    return files | {_file_of(last, path, len(whole) + 1)}, len(data), "\n"


def _file_of(line: bytes, path: Path, number: int) -> str:
    row = _row(line)
    if row is None or not row.keys() >= KEYS or not isinstance(row["file"], str):
        foreign = f"line {number} is none that bridge wrote, so it is left as it is"
        raise UserError(f"{path}: {foreign}; choose another folder")
    return row["file"]


def _row(line: bytes) -> dict[str, Any] | None:
    """A line's JSON object; None where it holds none."""
    with contextlib.suppress(ValueError, RecursionError):
        row = json.loads(line)
        return row if isinstance(row, dict) else None
    return None


def _state(handle: int) -> tuple[int, int, int]:
    state = os.fstat(handle)
    return state.st_ino, state.st_size, state.st_mtime_ns


def _append(handle: int, size: int, data: bytes) -> None:
    """Put `data` after the first `size` bytes, all of it or none."""
    try:
        os.ftruncate(handle, size)
        left = memoryview(data)
        while left:
            left = left[os.write(handle, left) :]
    except BaseException:
        with contextlib.suppress(OSError):
            os.ftruncate(handle, size)
        raise


def _lock(handle: int) -> None:
    """Hold off other writers until `handle` is closed, where the system can."""
    with contextlib.suppress(ImportError, OSError):  # not on Windows, nor on every network disk
        import fcntl  # noqa: PLC0415

        fcntl.flock(handle, fcntl.LOCK_EX)
