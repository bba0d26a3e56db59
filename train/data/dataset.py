"""Captioned images in memory, as training wants them."""

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets import Dataset, load_from_disk
from torch import Tensor
from torch.nn import functional as F

from bridge.codecs import ImageCodec
from bridge.images import flatten
from bridge.noise import generator_for
from train.config import ConfigError
from train.data.cache import Latents, latents

COLUMNS = ("image", "captions", "label", "family", "split")
CAPTIONED = "image captions label artist style family split"  # Columns that every dataset made here has
_TYPES = {"image": datasets.Image()}
_TYPES |= dict.fromkeys(("captions", "tags"), datasets.List(datasets.Value("string")))
_TYPES |= dict.fromkeys(("family", "duplicate", "factor"), datasets.Value("int32"))
_TYPES |= dict.fromkeys(("palette", "turned"), datasets.Value("bool"))


def features(names: str) -> datasets.Features:
    """Columns of a dataset by their names: text, unless they have a type of theirs; numbers where `factor_` begins."""
    types = {name: _TYPES.get(name.partition("_")[0], datasets.Value("string")) for name in names.split()}
    return datasets.Features(types)


def load_dataset(folder: Path, columns: Sequence[str] = COLUMNS) -> Dataset:
    """Open a folder that `datasets.Dataset.save_to_disk` wrote. ConfigError if it lacks a column, or pictures."""
    try:
        dataset = load_from_disk(str(folder))
    except OSError as error:
        raise ConfigError(f"data: {folder} is not a dataset; {_remedy(Path(folder))}") from error
    except Exception as error:  # of pyarrow, json and more
        why = " ".join(str(error).split())[:200]
        raise ConfigError(f"data: {folder} is damaged ({why}); remove it and make it again") from error
    if isinstance(dataset, datasets.DatasetDict):
        splits = sorted(dataset)
        raise ConfigError(f"data: {folder} holds the datasets {splits}; save one with a column 'split' instead")
    if missing := sorted(set(columns) - set(dataset.column_names)):
        names = ", ".join(dataset.column_names)
        raise ConfigError(f"data: {folder} lacks {', '.join(missing)}; it has {names}; {_remedy(Path(folder))}")
    if not isinstance(dataset.features["image"], datasets.Image):
        raise ConfigError(f"data: column 'image' of {folder} holds no pictures; cast it to datasets.Image()")
    return dataset


def _remedy(folder: Path) -> str:
    """How a dataset is made of what is there, or where nothing is."""
    name = shlex.quote(str(folder))
    if folder.exists():
        out = shlex.quote(f"data/{folder.resolve().name}-64")
        return f"make one of it with `python -m train.prepare {name} --out {out}`"
    own = f"`python -m train.prepare SOURCE --out {name}`"
    return f"make it with `python -m train.recipes emoji --out {name}`, or of pictures of your own with {own}"


def rows_of(dataset: Dataset, *splits: str) -> Dataset:
    """The rows of some splits. Raises ConfigError if there are none."""
    return dataset.select(row_numbers(dataset, splits))


def row_numbers(dataset: Dataset, splits: Sequence[str], option: str = "data") -> list[int]:
    """Numbers of the rows of some splits. Raises ConfigError, which blames `option`, if there are none."""
    rows = [i for i, split in enumerate(dataset["split"]) if split in splits]
    if not rows:
        asked = ", ".join(map(repr, splits))
        raise ConfigError(f"{option}: no row of split {asked}; found {', '.join(sorted(set(dataset['split'])))}")
    return rows


def content_hash(data: bytes) -> str:
    """Name of a picture: sha256 of its encoded bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def encoded_picture(number: int, row: dict[str, Any] | None) -> bytes:
    """The bytes of a picture, from its file where the dataset only names it. ConfigError if the row has none."""
    if row and row["bytes"] is not None:
        return bytes(row["bytes"])
    if row and row["path"]:
        return Path(row["path"]).read_bytes()
    raise ConfigError(f"data: row {number} has no picture; give it one or remove the row")


def pixels_of(dataset: Dataset | dict[str, Any]) -> Tensor:
    """Every picture of a dataset, or of a batch, as bytes, (N, 3, H, W) uint8, white where they are transparent."""
    arrays = [np.asarray(flatten(image)) for image in dataset["image"]]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def opacity_of(dataset: Dataset) -> Tensor:
    """Opacity of every picture of a dataset as bytes, (N, 1, H, W) uint8; 255 everywhere where a file has none."""
    arrays = [np.asarray(image.convert("RGBA"))[..., 3] for image in dataset["image"]]
    return torch.from_numpy(np.stack(arrays))[:, None]


def at_once(size: int) -> int:
    """Pictures of `size` pixels that are worked on at a time: as much memory for large ones as for small.

    >>> at_once(64), at_once(256), at_once(1024)
    (64, 16, 1)
    """
    return max(min(64, 64 * 128**2 // size**2), 1)


def to_unit(pixels: Tensor) -> Tensor:
    """Bytes -> pictures x in [0, 1], float32."""
    return pixels.float() / 255


def latents_of(codec: ImageCodec, rows: Dataset, folder: Path, refine: int = 0) -> Latents:
    """Latent distributions of a dataset's pictures, scaled to the codec's size if need be, once; see `latents`."""
    size = (codec.image_size, codec.image_size)
    raw = rows.cast_column("image", datasets.Image(decode=False))  # neither decoded nor held
    hashes = [content_hash(encoded_picture(i, row)) for i, row in enumerate(raw["image"])]

    def pixels(start: int, stop: int) -> Tensor:
        x = to_unit(pixels_of(rows.select(range(start, stop))))
        return x if x.shape[2:] == size else F.interpolate(x, size=size, mode="bicubic", antialias=True).clamp(0, 1)

    return latents(codec, hashes, pixels, folder, refine)


@dataclass(frozen=True)
class CaptionTable:
    """Captions enumerated once: those of row i are `texts` with number[start[i] : start[i + 1]]."""

    texts: list[str]
    number: Tensor  # Of the captions of all rows, int32; the first of a row is its label
    start: Tensor  # Where each of N rows starts there, and where the last ends, (N + 1,)

    @classmethod
    def enumerate(cls, captions: Sequence[Sequence[str]]) -> "CaptionTable":
        """The variants of all rows.

        >>> CaptionTable.enumerate([["cat", "kitten"], ["dog"], ["cat"]]).number.tolist()
        [0, 1, 2, 0]
        """
        known: dict[str, int] = {}
        number = torch.tensor([known.setdefault(text, len(known)) for row in captions for text in row])
        ends = torch.tensor([0, *map(len, captions)]).cumsum(0)
        return cls(list(known), number.int(), ends)

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def labels(self) -> Tensor:
        """Number of each row's label, (N,)."""
        return self.number[self.start[:-1]].long()

    def pick(self, rows: Tensor, u: Tensor) -> Tensor:
        """Number of one variant of each row, (B,), the one at share `u` in [0, 1) of them, (B,)."""
        start = self.start[rows]
        place = (u.double() * (self.start[rows + 1] - start)).long()
        return self.number[start + place].long()


class EpochRows:
    """Which row stands at each position of an epoch, rows weighed by (size of their family) ** -power.

    `cumulative` is the cumulative share of each row, (N,).

    >>> EpochRows(torch.tensor([0, 0, 1]), power=1.0).cumulative
    tensor([0.2500, 0.5000, 1.0000], dtype=torch.float64)
    """

    def __init__(self, families: Tensor, power: float) -> None:
        _, number, size = families.unique(return_inverse=True, return_counts=True)
        weight = size[number].double() ** -power
        self.cumulative = (weight / weight.sum()).cumsum(0)

    def drawn(self, positions: Tensor, seed: int, epoch: int) -> Tensor:
        """Rows at positions (B,), (B,), the same for the same seed and epoch."""
        return self.at(positions, float(torch.rand((), generator=generator_for(seed, epoch, -1))))

    def at(self, positions: Tensor, offset: float) -> Tensor:
        """Rows by systematic resampling, each near its share of times; `offset`, in [0, 1), is that of the epoch.

        Source: Kitagawa 1996, Monte Carlo Filter and Smoother
        """
        share = (positions.double() + offset) / len(self.cumulative)
        return torch.searchsorted(self.cumulative, share).clamp(max=len(self.cumulative) - 1)
