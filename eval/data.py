"""The dataset as the judge sees it: one row a picture, and the real pictures of every caption asked for."""

import hashlib
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bridge.codecs import ImageCodec, LatentDistribution
from bridge.errors import UserError
from bridge.images import flatten
from eval.features import Extractor, FeatureCache, Features, Progress
from train.data.cache import CACHE, encode, latents
from train.data.dataset import content_hash, encoded_picture, load_dataset

BLOCK = 256
COLUMNS = ("image", "label", "artist", "family", "split")
OPTIONAL = {
    "artist": "the data has no such column; who drew a picture is unknown",
    "family": "the data has no such column; every caption is taken for a family of its own",
}
"""Columns that a dataset may lack, and what is then assumed."""


@dataclass(frozen=True)
class Pictures:
    """N real pictures with what is known about each.

    Args:
        encoded: The pictures as PNG bytes, N of them.
        label: Caption, (N,) str.
        artist: Who drew it, (N,) str.
        family: Family of the caption, (N,) int.
        split: Which part of the data it belongs to, (N,) str.
        lacks: Columns of `OPTIONAL` that the dataset does not have: artists are then "", and every caption is
            a family of its own.
        cache: Folder of what is made of the pictures once; None for pictures that were not loaded from one.
    """

    encoded: Sequence[bytes]
    label: np.ndarray
    artist: np.ndarray
    family: np.ndarray
    split: np.ndarray
    lacks: tuple[str, ...] = ()
    cache: Path | None = None

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def load(cls, folder: str | Path) -> "Pictures":
        """Read a saved dataset with columns image, label and split; artist and family are used where it has them.

        Raises:
            UserError: See `train.data.dataset.load_dataset`; or a row lacks a caption, a split or a picture.
        """
        source = load_dataset(Path(folder), [c for c in COLUMNS if c not in OPTIONAL])
        raw = source.cast_column("image", datasets.Image(decode=False))
        columns = {name: list(source[name]) for name in COLUMNS[1:] if name in source.column_names}
        for name in ("label", "split"):
            _check_words(name, columns[name])
        label = np.array(columns["label"])
        return cls(
            [encoded_picture(i, row) for i, row in enumerate(raw["image"])],
            label,
            np.array(columns["artist"] if "artist" in columns else [""] * len(label)),
            np.array(columns["family"]) if "family" in columns else np.unique(label, return_inverse=True)[1],
            np.array(columns["split"]),
            tuple(name for name in OPTIONAL if name not in columns),
            Path(folder) / CACHE,
        )

    def pixels(self, index: np.ndarray) -> Tensor:
        """Pictures by row, (len(index), 3, H, W) float32 in [0, 1].

        Raises:
            ValueError: They differ in size.
        """
        arrays = [np.asarray(flatten(Image.open(io.BytesIO(self.encoded[i])))) for i in index]
        sizes = sorted({f"{a.shape[1]} x {a.shape[0]}" for a in arrays})
        if len(sizes) > 1:
            raise UserError(f"data: pictures must be of one size, found {', '.join(sizes[:4])}; resize them")
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255

    def blocks(self, index: np.ndarray) -> Iterator[Tensor]:
        """The same, BLOCK pictures at a time: all of a large dataset's pixels are never held at once."""
        for start in range(0, len(index), BLOCK):
            yield self.pixels(index[start : start + BLOCK])

    def where(self, split: str) -> np.ndarray:
        """Rows of one split, (M,) int.

        Raises:
            ValueError: There are none (names the splits found).
        """
        rows = np.flatnonzero(self.split == split)
        if len(rows) == 0:
            raise UserError(f"split: no picture has split {split!r}; found {sorted(set(self.split.tolist()))}")
        return rows

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with any picture, caption, artist, family or split."""
        digest = hashlib.sha256()
        for row in zip(self.encoded, self.label, self.artist, self.family, self.split, strict=True):
            digest.update(content_hash(row[0]).encode() + "\0".join(map(str, row[1:])).encode() + b"\1")
        return digest.hexdigest()[:16]

    def names(self, index: np.ndarray) -> list[str]:
        """Content hash of pictures by row."""
        return [content_hash(self.encoded[i]) for i in index]

    def features(self, extractor: Extractor, progress: Progress | None = None) -> Features:
        """Features of every picture; where there is a cache, computed once and kept there."""
        every = np.arange(len(self))
        if self.cache is None:
            return extractor.encode(self.pixels(every))
        return FeatureCache(self.cache / "features", extractor).features(self.names(every), self.pixels, progress)


def _check_words(name: str, column: list[Any]) -> None:
    """Raise ValueError, naming the row, where a column has anything but words."""
    for i, words in enumerate(column):
        if not isinstance(words, str) or not words.strip():
            raise UserError(f"data: row {i} has no {name} ({words!r}); give it one or remove the row")


def picture_latents(codec: ImageCodec, pictures: Pictures, rows: np.ndarray) -> LatentDistribution:
    """Latent distributions of real pictures by row, (len(rows), *z_shape), in memory; kept in `pictures.cache`."""

    def pixels(start: int, stop: int) -> Tensor:
        return pictures.pixels(rows[start:stop])

    if pictures.cache is None:
        return encode(codec, pixels, 0, len(rows))
    return latents(codec, pictures.names(rows), pixels, pictures.cache).every


LEAST = 10
"""Training pictures, and families of captions in a row, below which single pictures are not judged."""


@dataclass(frozen=True)
class References:
    """Real pictures of C captions that no sample may copy.

    Args:
        captions: C labels.
        families: Family of each caption, (C,).
        rows: Rows of each caption's pictures, [(k,)] * C.
        artists: Who drew each, [(k,)] * C.
        left_out: Captions of the split that only one artist drew.
    """

    captions: tuple[str, ...]
    families: np.ndarray
    rows: tuple[np.ndarray, ...]
    artists: tuple[np.ndarray, ...]
    left_out: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: np.ndarray) -> "References":
        """The captions at `index`, in that order."""
        pick = [int(i) for i in index]
        return References(
            tuple(self.captions[i] for i in pick),
            self.families[pick],
            tuple(self.rows[i] for i in pick),
            tuple(self.artists[i] for i in pick),
            self.left_out,
        )


def references(pictures: Pictures, split: str) -> References:
    """The captions of a split with their real pictures, in the order of their labels.

    Raises:
        ValueError: Fewer than two captions were drawn by two artists.
    """
    groups = by_caption(pictures, pictures.where(split))
    kept = {c: g for c, g in groups.items() if len(np.unique(pictures.artist[g])) >= 2}
    if len(kept) < 2:
        raise UserError(f"split: {split!r} has {len(kept)} captions by two artists; a judgement needs two")
    return References(
        tuple(kept),
        np.array([pictures.family[g[0]] for g in kept.values()]),
        tuple(kept.values()),
        tuple(pictures.artist[g] for g in kept.values()),
        tuple(c for c in groups if c not in kept),
    )


def single_references(pictures: Pictures, split: str) -> References:
    """The captions of a split with their real pictures, one or more each, in the order of their labels.

    Raises:
        ValueError: There are fewer than LEAST families of captions.
    """
    groups = by_caption(pictures, pictures.where(split))
    families = np.array([pictures.family[rows[0]] for rows in groups.values()])
    count = len(np.unique(families))
    if count < LEAST:
        raise UserError(f"split {split!r} has captions of {count} families; a judgement takes at least {LEAST}")
    rows = tuple(groups.values())
    return References(tuple(groups), families, rows, tuple(pictures.artist[r] for r in rows), ())


def why_single(pictures: Pictures, parts: Sequence[str]) -> str | None:
    """Why captions have to be judged by one picture each; None where several artists drew them.

    Args:
        pictures: The dataset.
        parts: The splits that a report would judge.

    Raises:
        ValueError: No picture has split 'train'.
    """
    train = pictures.where("train")
    drawn = np.unique(pictures.label[train], return_counts=True)[1]
    if len(np.unique(pictures.label)) == len(pictures):
        return "every caption has one picture"
    if len(np.unique(pictures.artist[train])) < 2:
        return "no two training pictures are known to be by different artists"
    if (drawn >= 2).sum() < 2:
        return "fewer than two training captions have two pictures"
    groups = [by_caption(pictures, pictures.where(part)).values() for part in parts if part in pictures.split]
    counts = [sum(len(np.unique(pictures.artist[rows])) >= 2 for rows in each) for each in groups]
    if max(counts, default=0) < 2:
        return f"fewer than two captions of {' or '.join(map(repr, parts))} were drawn by two artists"
    return None


def by_caption(pictures: Pictures, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Rows (M,) of every caption among them, in the order of their labels."""
    return {str(c): rows[pictures.label[rows] == c] for c in np.unique(pictures.label[rows])}


def narrowed(refs: References, split: str, captions: int | None, only: Collection[str] | None) -> References:
    """At most `captions` of a split's captions, chosen by hash, and none but those in `only`.

    Raises:
        ValueError: Fewer than two families are left by `only`.
    """
    if only is not None:
        refs = refs[np.flatnonzero([caption in only for caption in refs.captions])]
        if len(np.unique(refs.families)) < 2:
            raise UserError(f"only: {len(refs)} of these captions are in {split!r}; it takes two of two families")
    return refs if captions is None else first_by_hash(refs, captions)


def first_by_hash(refs: References, count: int) -> References:
    """At most `count` captions, chosen by a hash of the label, one of each family before a second of any.

    The choice of a caption depends on no seed, and a smaller count is part of a larger one.
    """
    key = [content_hash(c.encode()) for c in refs.captions]
    order = sorted(range(len(refs)), key=lambda i: key[i])
    seen: dict[int, int] = {}
    rank = {}
    for i in order:
        family = int(refs.families[i])
        seen[family] = rank[i] = seen.get(family, 0) + 1
    chosen = sorted(order, key=lambda i: (rank[i], key[i]))[:count]
    return refs[np.array(sorted(chosen))]


def caption_number(caption: str) -> int:
    """64 bits of a caption, for a key of its noise."""
    return int.from_bytes(hashlib.sha256(caption.encode()).digest()[:8], "little")
