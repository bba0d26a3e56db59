"""The dataset as the judge sees it: one row a picture, and the real pictures of every caption asked for."""

import hashlib
import io
import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bridge.checkpoint import CACHE
from bridge.codecs import ImageCodec, LatentDistribution
from bridge.errors import UserError
from bridge.images import flatten
from eval.features import Extractor, Features
from train.data.cache import Column, encode, encoded_once, latents
from train.data.dataset import content_hash, encoded_picture, load_dataset

BLOCK = 256
OPTIONAL = {
    "artist": "the data has no such column; who drew a picture is unknown",
    "family": "the data has no such column; every caption is taken for a family of its own",
}
"""Columns that a dataset may lack, and what is then assumed."""
LEAST = 10  # Training pictures, and families of captions in a row, below which single pictures are not judged


@dataclass(frozen=True)
class Pictures:
    """N real pictures with what is known about each."""

    encoded: Sequence[bytes]  # The pictures as PNG bytes, N of them
    label: np.ndarray  # Caption, (N,) str
    artist: np.ndarray  # Who drew it, (N,) str
    family: np.ndarray  # Family of the caption, (N,) int
    split: np.ndarray  # Which part of the data it belongs to, (N,) str
    lacks: tuple[str, ...] = ()  # Columns of `OPTIONAL` that are missing: artists are then "", families captions
    cache: Path | None = None  # Folder of what is made of the pictures once; None in memory

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def load(cls, folder: str | Path) -> "Pictures":
        """Read columns image, label, split and, where there, artist and family; UserError if a row lacks a value."""
        source = load_dataset(Path(folder), ["image", "label", "split"])
        raw = source.cast_column("image", datasets.Image(decode=False))
        columns = {name: list(source[name]) for name in ("label", "split", *OPTIONAL) if name in source.column_names}
        for name in ("label", "split"):
            for i, words in enumerate(columns[name]):
                if not isinstance(words, str) or not words.strip():
                    raise UserError(f"data: row {i} has no {name} ({words!r}); give it one or remove the row")
        label = np.array(columns["label"])
        encoded = [encoded_picture(i, row) for i, row in enumerate(raw["image"])]
        artist = np.array(columns.get("artist", [""] * len(label)))
        family = np.array(columns["family"]) if "family" in columns else np.unique(label, return_inverse=True)[1]
        lacks = tuple(name for name in OPTIONAL if name not in columns)
        return cls(encoded, label, artist, family, np.array(columns["split"]), lacks, Path(folder) / CACHE)

    def pixels(self, index: np.ndarray) -> Tensor:
        """Pictures by row, (len(index), 3, H, W) float32 in [0, 1]; UserError where they differ in size."""
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
        """Rows of one split, (M,) int; UserError where there are none."""
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
        return [content_hash(self.encoded[i]) for i in index]

    def features(self, extractor: Extractor) -> Features:
        """Features of every picture; where there is a cache, computed once and kept there."""
        every = np.arange(len(self))
        if self.cache is None:
            return extractor.encode(self.pixels(every))

        def columns(start: int, stop: int) -> dict[str, Column]:
            features = Features.cat([extractor.encode(x) for x in self.blocks(every[start:stop])])
            return {name: torch.from_numpy(column) for name, column in vars(features).items()}

        shards = encoded_once(self.cache, "features", [extractor.id], self.names(every), columns, "features")
        return Features(*(shards.rows(name, torch.from_numpy(every)).numpy() for name in ("late", "early")))


def picture_latents(codec: ImageCodec, pictures: Pictures, rows: np.ndarray, refine: int = 0) -> LatentDistribution:
    """Latent distributions of real pictures by row, (len(rows), *z_shape), in memory; kept in `pictures.cache`.

    `refine` is how many steps of `ImageCodec.refined` they take.
    """

    def pixels(start: int, stop: int) -> Tensor:
        return pictures.pixels(rows[start:stop])

    if pictures.cache is None:
        return encode(codec, pixels, 0, len(rows), refine)
    return latents(codec, pictures.names(rows), pixels, pictures.cache, refine).every


@dataclass(frozen=True)
class References:
    """Real pictures of C captions that no sample may copy."""

    captions: tuple[str, ...]  # C labels
    families: np.ndarray  # Family of each caption, (C,)
    rows: tuple[np.ndarray, ...]  # Rows of each caption's pictures, [(k,)] * C
    artists: tuple[np.ndarray, ...]  # Who drew each, [(k,)] * C
    left_out: tuple[str, ...] = ()  # Captions of the split that only one artist drew

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: np.ndarray) -> "References":
        rows, artists = (tuple(column[i] for i in index) for column in (self.rows, self.artists))
        return References(tuple(self.captions[i] for i in index), self.families[index], rows, artists, self.left_out)


def references(pictures: Pictures, split: str, singly: bool = False) -> References:
    """Captions of a split by label: those two artists drew, or `singly` all of them; UserError if they are too few."""
    groups = by_caption(pictures, pictures.where(split))
    kept = groups if singly else by_two_artists(pictures, groups)
    families = np.array([pictures.family[g[0]] for g in kept.values()], dtype=pictures.family.dtype)
    if singly and (count := len(np.unique(families))) < LEAST:
        raise UserError(f"split {split!r} has captions of {count} families; a judgement takes at least {LEAST}")
    if not singly and len(kept) < 2:
        raise UserError(f"split: {split!r} has {len(kept)} captions by two artists; a judgement needs two")
    artists = tuple(pictures.artist[g] for g in kept.values())
    return References(tuple(kept), families, tuple(kept.values()), artists, tuple(c for c in groups if c not in kept))


def why_single(pictures: Pictures, parts: Sequence[str]) -> str | None:
    """Why captions of these splits are judged by one picture each; None where several artists drew them."""
    train = pictures.where("train")
    if len(np.unique(pictures.label)) == len(pictures):
        return "every caption has one picture"
    if len(np.unique(pictures.artist[train])) < 2:
        return "no two training pictures are known to be by different artists"
    if (np.unique(pictures.label[train], return_counts=True)[1] >= 2).sum() < 2:
        return "fewer than two training captions have two pictures"
    groups = [by_caption(pictures, pictures.where(part)) for part in parts if part in pictures.split]
    if all(len(by_two_artists(pictures, each)) < 2 for each in groups):
        return f"fewer than two captions of {' or '.join(map(repr, parts))} were drawn by two artists"
    return None


def by_caption(pictures: Pictures, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Rows (M,) of every caption among them, in the order of their labels."""
    names, caption, counts = np.unique(pictures.label[rows], return_inverse=True, return_counts=True)
    parts = np.split(rows[np.argsort(caption, kind="stable")], np.cumsum(counts)[:-1])
    return dict(zip(names.tolist(), parts, strict=True))


def by_two_artists(pictures: Pictures, groups: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Those captions that two artists drew, or more, with their rows."""
    return {caption: rows for caption, rows in groups.items() if len(np.unique(pictures.artist[rows])) >= 2}


def narrowed(refs: References, split: str, captions: int | None, only: Collection[str] | None) -> References:
    """At most `captions` of a split's captions, chosen by hash, none but those in `only`, of two families or more."""
    if only is not None:
        refs = refs[np.flatnonzero([caption in only for caption in refs.captions])]
        if len(np.unique(refs.families)) < 2:
            raise UserError(f"only: {len(refs)} of these captions are in {split!r}; it takes two of two families")
    return refs if captions is None else first_by_hash(refs, captions)


def spread_over_families(keys: Sequence[str], families: np.ndarray) -> list[int]:
    """Indices in the order of their keys, one of each family before a second of any."""
    place: dict[int, Iterator[int]] = defaultdict(itertools.count)
    rank = {i: next(place[families[i]]) for i in sorted(range(len(keys)), key=keys.__getitem__)}
    return sorted(rank, key=rank.__getitem__)


def first_by_hash(refs: References, count: int) -> References:
    """At most `count` captions by a hash of the label, one a family before a second: fewer are part of more."""
    chosen = spread_over_families([content_hash(c.encode()) for c in refs.captions], refs.families)[:count]
    return refs[np.array(sorted(chosen))]


def caption_number(caption: str) -> int:
    """64 bits of a caption, for a key of its noise."""
    return int.from_bytes(hashlib.sha256(caption.encode()).digest()[:8], "little")
