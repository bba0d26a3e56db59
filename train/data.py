"""Captioned images in memory, as training wants them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
from datasets import Dataset, load_from_disk
from torch import Tensor

from train.config import ConfigError

COLUMNS = ("image", "captions", "label", "family", "split")
CAPTIONED = {
    "image": datasets.Image(),
    "captions": datasets.List(datasets.Value("string")),
    "label": datasets.Value("string"),
    "artist": datasets.Value("string"),
    "style": datasets.Value("string"),
    "family": datasets.Value("int32"),
    "split": datasets.Value("string"),
}
"""Columns that every dataset made here has."""


def load_dataset(folder: Path) -> Dataset:
    """Open a folder written by `datasets`, with the columns that training needs.

    Raises:
        ConfigError: The folder is no dataset, or lacks a column; names those found.
    """
    try:
        dataset = load_from_disk(str(folder))
    except FileNotFoundError as error:
        raise ConfigError(
            f"data: {folder} is not a dataset; make it with `python -m train.emoji --out {folder}`"
        ) from error
    if missing := sorted(set(COLUMNS) - set(dataset.column_names)):
        raise ConfigError(f"data: {folder} lacks {', '.join(missing)}; it has {', '.join(dataset.column_names)}")
    return dataset


def rows_of(dataset: Dataset, split: str) -> Dataset:
    """The rows of one split.

    Raises:
        ConfigError: There are none.
    """
    rows = [i for i, name in enumerate(dataset["split"]) if name == split]
    if not rows:
        raise ConfigError(f"data: no row of split {split!r}; found {', '.join(sorted(set(dataset['split'])))}")
    return dataset.select(rows)


def pixels_of(dataset: Dataset) -> Tensor:
    """Every picture of a dataset as bytes, (N, 3, H, W) uint8."""
    arrays = [np.asarray(image.convert("RGB")) for image in dataset["image"]]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def to_unit(pixels: Tensor) -> Tensor:
    """Bytes -> pictures x in [0, 1], float32."""
    return pixels.float() / 255


@dataclass(frozen=True)
class CaptionTable:
    """Caption variants enumerated once: row i may be told by texts[j] for j in variants[i].

    Attributes:
        texts: Every distinct caption.
        variants: Numbers into `texts` of each row; the first is the label.
    """

    texts: list[str]
    variants: list[list[int]]

    @classmethod
    def of(cls, captions: Sequence[Sequence[str]]) -> "CaptionTable":
        """Enumerate the variants of all rows."""
        number: dict[str, int] = {}
        variants = [[number.setdefault(text, len(number)) for text in row] for row in captions]
        return cls(list(number), variants)


def row_cumulative(families: Tensor, power: float) -> Tensor:
    """Cumulative share of each row, (N,), rows weighed by (size of their family) ** -power.

    >>> row_cumulative(torch.tensor([0, 0, 1]), power=1.0)
    tensor([0.2500, 0.5000, 1.0000], dtype=torch.float64)
    """
    _, number, size = families.unique(return_inverse=True, return_counts=True)
    weight = size[number].double() ** -power
    return (weight / weight.sum()).cumsum(0)


def systematic_rows(positions: Tensor, cumulative: Tensor, offset: float) -> Tensor:
    """Rows of an epoch's positions by systematic resampling: each row near its share of times.

    Args:
        positions: 0 to N - 1, (B,).
        cumulative: See `row_cumulative`, (N,).
        offset: In [0, 1), the same for a whole epoch.

    Source: Kitagawa 1996, Monte Carlo Filter and Smoother
    """
    at = (positions.double() + offset) / len(cumulative)
    return torch.searchsorted(cumulative, at).clamp(max=len(cumulative) - 1)
