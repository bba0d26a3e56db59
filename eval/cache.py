"""Features on disk, filed by extractor and by the content of each picture, so that a second report is quick.

A folder `<extractor id>/` holds shards of a few hundred pictures; a shard is written whole or not at all, so
an interrupted run keeps what it finished.
"""

import hashlib
import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from bridge.checkpoint import atomic_write
from bridge.errors import UserError
from eval.features import Extractor, Features, Progress
from train.data.dataset import content_hash

SHARD = 1024


def caption_number(caption: str) -> int:
    """64 bits of a caption, for a key of its noise."""
    return int.from_bytes(hashlib.sha256(caption.encode()).digest()[:8], "little")


class FeatureCache:
    """Features of pictures already seen, for one extractor.

    Args:
        folder: Where the shards live; made when first written.
        extractor: Describes the pictures that are not there yet.

    Raises:
        ValueError: A shard in `folder` cannot be read.
    """

    def __init__(self, folder: str | Path, extractor: Extractor) -> None:
        self.extractor = extractor
        self.folder = Path(folder) / extractor.id
        self._rows: dict[str, int] = {}
        self._parts: list[Features] = []
        for path in sorted(self.folder.glob("*.npz")):
            self._add(*_read_shard(path))

    def features(
        self, names: Sequence[str], pixels: Callable[[np.ndarray], Tensor], progress: Progress | None = None
    ) -> Features:
        """Features of pictures by name, computing and keeping the missing ones.

        Args:
            names: Content hash of every picture, B of them; repeats are computed once.
            pixels: Given indices into `names`, their pictures (b, 3, H, W) in [0, 1].
            progress: Called with (done, total) over the missing pictures.
        """
        first = {name: i for i, name in reversed(list(enumerate(names)))}
        missing = np.array(sorted(i for name, i in first.items() if name not in self._rows), dtype=int)
        for start in range(0, len(missing), SHARD):
            index = missing[start : start + SHARD]
            found = self.extractor.encode(pixels(index))
            shard_names = [names[i] for i in index]
            _write_shard(self.folder, shard_names, found)
            self._add(shard_names, found)
            if progress is not None:
                progress(start + len(index), len(missing))
        everything = Features.cat(self._parts)
        self._parts = [everything]
        return everything[np.array([self._rows[name] for name in names], dtype=int)]

    def _add(self, names: Sequence[str], features: Features) -> None:
        start = sum(len(p) for p in self._parts)
        self._rows |= {name: start + i for i, name in enumerate(names)}
        self._parts.append(features)


def _write_shard(folder: Path, names: Sequence[str], features: Features) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, names=np.array(names), late=features.late, early=features.early)
    atomic_write(folder / f"{content_hash(''.join(names).encode())[:24]}.npz", buffer.getvalue())


def _read_shard(path: Path) -> tuple[list[str], Features]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as shard:
            return shard["names"].tolist(), Features(shard["late"], shard["early"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a readable feature shard ({error}); delete it") from error
