"""What has been found so far, one line a finding, so that a killed run goes on where it was."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

Key = dict[str, Any]


class Results:
    """Findings by key, in a file of JSON lines that only grows.

    A last line cut short by a kill is left alone and written again.

    Args:
        path: The file; made with the first finding.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: dict[str, Any] = {}
        for line in path.read_text("utf-8").splitlines() if path.exists() else []:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            self._found[_canonical(entry["key"])] = entry["value"]

    def get(self, key: Key) -> Any:
        """What was found, or None."""
        return self._found.get(_canonical(key))

    def add(self, key: Key, value: Any) -> Any:
        """Append a finding and return it as it will be read again."""
        line = json.dumps({"key": key, "value": value}, allow_nan=False, ensure_ascii=False)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            file.seek(0, os.SEEK_END)
            torn = file.tell() > 0 and self._last_byte(file) != b"\n"
            file.write((b"\n" if torn else b"") + line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        read = json.loads(line)["value"]
        self._found[_canonical(key)] = read
        return read

    @staticmethod
    def _last_byte(file: Any) -> bytes:
        file.seek(-1, os.SEEK_END)
        byte: bytes = file.read(1)
        return byte


def digest(key: Key) -> str:
    """12 hex digits of a key, for a folder's name."""
    return hashlib.sha256(_canonical(key).encode()).hexdigest()[:12]


def _canonical(key: Key) -> str:
    return json.dumps(key, sort_keys=True)
