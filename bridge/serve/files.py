"""Pictures that visitors are shown, as files whose names nobody can guess, and which do not pile up."""

from __future__ import annotations

import secrets
import shutil
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

KEPT, SECONDS = 4000, 3600
"""Most folders that are kept, and for how long."""


class Files:
    """Folders of random names below `root`: at most `kept`, each for so many `seconds`, the oldest removed first."""

    def __init__(self, root: Path, kept: int = KEPT, seconds: float = SECONDS) -> None:
        self.root, self.kept, self.seconds = root, kept, seconds
        root.mkdir()
        self._made: deque[tuple[float, Path]] = deque()
        self._lock = Lock()

    def place(self, name: str) -> Path:
        """Where a new file of that name may be written."""
        folder = self.root / secrets.token_urlsafe(24)
        with self._lock:
            now = time.monotonic()
            while self._made and (len(self._made) >= self.kept or now - self._made[0][0] > self.seconds):
                shutil.rmtree(self._made.popleft()[1], ignore_errors=True)
            self._made.append((now, folder))
        folder.mkdir()
        return folder / name

    def save(self, image: Image, name: str, facts: Mapping[str, str | float | int] | None = None) -> str:
        """Write a PNG that tells its facts; returns its path."""
        from bridge.images import save_png  # noqa: PLC0415

        path = self.place(name)
        save_png(image, path, facts or {})
        return str(path)
