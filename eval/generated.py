"""Pictures that already exist, as a model: a folder written by `bridge generate`, judged by its manifest."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from bridge.errors import UserError
from bridge.images import flatten
from bridge.writing import MANIFEST


@dataclass(frozen=True)
class Generated:
    """Pictures by caption. Build it with `Generated.load`; call it with captions and n.

    Args:
        folder: Where they are.
        files: Of each caption, in the manifest's order, relative to `folder`.
        models: Fingerprints of the models that made them.
    """

    folder: Path
    files: dict[str, list[str]]
    models: list[str]

    @classmethod
    def load(cls, folder: str | Path) -> "Generated":
        """Read a folder's manifest.

        Raises:
            ValueError: There is no manifest, a line of it lacks a caption or a file, or a file is missing.
        """
        folder = Path(folder)
        try:
            lines = (folder / MANIFEST).read_text("utf-8").splitlines()
        except FileNotFoundError as error:
            raise UserError(
                f"model: {folder} has no {MANIFEST}; write it with bridge generate --captions FILE --out {folder}"
            ) from error
        files: dict[str, list[str]] = defaultdict(list)
        models = set()
        for number, line in enumerate(lines, 1):
            row = _row(line)
            if row is None:
                raise UserError(f"{folder / MANIFEST}: line {number} has no caption and file; generate anew")
            if not (folder / row["file"]).is_file():
                raise UserError(f"{folder}: {row['file']} of {MANIFEST} is missing; generate it again")
            files[row["caption"]].append(row["file"])
            models.add(str(row.get("model", "unknown")))
        if not files:
            raise UserError(f"{folder / MANIFEST}: it is empty; generate some pictures first")
        return cls(folder, dict(files), sorted(models))

    def captions(self, n: int) -> frozenset[str]:
        """Captions with at least n pictures."""
        return frozenset(caption for caption, files in self.files.items() if len(files) >= n)

    def __call__(self, captions: Sequence[str], n: int) -> Tensor:
        """The first n pictures of each caption, (captions, n, 3, H, W) in [0, 1].

        Raises:
            ValueError: A picture cannot be read, or is of another size than the first.
        """
        return torch.stack([torch.stack([self._pixels(f) for f in self.files[c][:n]]) for c in captions])

    def _pixels(self, file: str) -> Tensor:
        try:
            with Image.open(self.folder / file) as image:
                array = np.asarray(flatten(image))
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise UserError(f"{self.folder}: {file} is damaged ({error}); delete it and generate it again") from error
        return torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255


def _row(line: str) -> dict[str, str] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    whole = isinstance(row, dict) and all(isinstance(row.get(key), str) for key in ("caption", "file"))
    return row if whole else None
