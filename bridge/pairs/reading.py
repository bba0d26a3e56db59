"""One pass over a source: every picture is read whole, every caption cleaned, and what is bad counted and named."""

import hashlib
import json
import math
import time
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from bridge.captions import prepare_caption
from bridge.errors import UserError
from bridge.images import WHITE, AnimatedImageWarning, Colour, ImageError, facts_of, flatten, header_of, read_image
from bridge.pairs.sources import Raw, Source, Wanted, digest_of, open_source
from bridge.pairs.tables import number_of

THUMBNAIL = 16  # Side of the pictures that are compared with each other, in pixels
MAX_BYTES = 2**28  # A larger file is no picture
LOST = ("nan", "NaN", "NAN", "<NA>")  # What programs write for a missing value


class UnusableError(UserError):
    """A row that cannot be used; the message says why, without naming it."""


@dataclass(frozen=True)
class Reading:
    """How pictures are read."""

    size: int = 64  # Side of the square they become, in pixels
    fit: str = "pad"  # Shows all of a picture, beside the background; "crop" cuts the longer side on both ends
    background: Colour | None = WHITE  # Behind what is transparent, beside what is not square; None keeps transparency
    max_bad: float = 0.05  # Share of rows that may be unusable

    def __post_init__(self) -> None:
        if self.fit not in ("pad", "crop"):
            raise UserError(f"fit: expected 'pad' or 'crop', got {self.fit!r}")
        if not 8 <= self.size <= 1024:
            raise UserError(f"size: expected 8 to 1024 pixels, got {self.size}")
        if not 0 <= self.max_bad <= 1:
            raise UserError(f"max-bad: expected a share from 0 to 1, got {self.max_bad}")


@dataclass(frozen=True)
class Pair:
    """One picture that was read, and its captions."""

    name: str  # Where it stands in the source
    captions: tuple[str, ...]  # Cleaned, each once, at least one; the first is the label
    artist: str  # See `Raw`, like style and split
    style: str
    split: str
    digest: str  # sha256 of its bytes
    size: tuple[int, int]  # Width and height before it was resized
    mode: str  # Pillow's name of its pixels
    kind: str  # File format
    animated: bool  # Whether it has more frames than the first, which is read


@dataclass
class Survey:
    """The result of one pass."""

    pairs: list[Pair] = field(default_factory=list)
    thumbnails: np.ndarray = field(default_factory=lambda: np.zeros((0, 16, 16, 3), np.uint8))  # One a pair
    bad: list[tuple[str, str]] = field(default_factory=list)  # (where, why) of rows left out
    lost: list[tuple[str, str]] = field(default_factory=list)  # (where, why) of captions left out of rows with others
    joined: int = 0  # Rows with the bytes of an earlier row's picture, which got their captions
    rows: int = 0  # Rows read
    pages: list[str] = field(default_factory=list)  # Contact sheets and strips of bridge's own, which are no rows
    notes: list[tuple[str, str]] = field(default_factory=list)  # (where, what) of what the user should check


def survey(source: Source, how: Reading | None, sink: Callable[[int, Image.Image], None]) -> Survey:
    """Read every row once; `sink` gets the number of each pair and its picture, which is then let go.

    `how` None keeps the size and transparency of pictures, and allows any number of bad rows.
    Raises UserError once more than `how.max_bad` of the rows are bad, or if none is usable.
    """
    surveyed, max_bad = Survey(), 1 if how is None else how.max_bad
    thumbnails: list[np.ndarray] = []
    number: dict[tuple[str, ...], int] = {}
    for raw in source.rows():
        try:
            if (looked := look(raw, how)) is None:
                surveyed.pages.append(raw.name)
                continue
        except UnusableError as error:
            surveyed.rows += 1
            surveyed.bad.append((raw.name, str(error)))
            if source.total is not None:
                _check_bad(surveyed, source.total, max_bad)
            continue
        pair, picture, lost = looked
        surveyed.rows += 1
        surveyed.notes += [(raw.name, raw.note)] if raw.note else []
        surveyed.lost += [(raw.name, why) for why in lost]
        i = number.setdefault((pair.digest, pair.artist, pair.style, pair.split), len(surveyed.pairs))
        if i < len(surveyed.pairs):
            earlier = surveyed.pairs[i]
            surveyed.pairs[i] = replace(earlier, captions=tuple(dict.fromkeys(earlier.captions + pair.captions)))
            surveyed.joined += 1
            continue
        surveyed.pairs.append(pair)
        thumbnails.append(np.asarray(flatten(picture).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)))
        sink(i, picture)
    _check_bad(surveyed, surveyed.rows, max_bad)
    if not surveyed.pairs:
        first = f": {surveyed.bad[0][0]}: {surveyed.bad[0][1]}" if surveyed.bad else ""
        raise UserError(f"source: none of its rows has a picture and a caption{first}")
    surveyed.thumbnails = np.stack(thumbnails)
    return surveyed


def _check_bad(surveyed: Survey, rows: int, max_bad: float) -> None:
    if len(surveyed.bad) > max_bad * rows:
        name, why = surveyed.bad[0]
        raise UserError(
            f"source: {len(surveyed.bad)} of {rows} rows are bad, more than max-bad {max_bad:g} allows, first {name}: "
            f"{why}; python -m train.prepare SOURCE lists them"
        )


def look(raw: Raw, how: Reading | None) -> tuple[Pair, Image.Image, list[str]] | None:
    """A row's pair, its picture, and why captions were left out; None for bridge's own pages. Raises UnusableError."""
    data = b"" if raw.picture is None else _bytes_of(raw.picture)
    if (drawn := facts_of(data)) and not drawn & {"caption", "frame"}:
        return None  # a contact sheet or a strip
    if raw.problem:
        raise UnusableError(raw.problem)
    captions, lost = _captions(raw.captions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnimatedImageWarning)
        picture = _square(data, how)
    digest = hashlib.sha256(data).hexdigest()
    return Pair(raw.name, captions, raw.artist, raw.style, raw.split, digest, *header_of(data)), picture, lost


def _captions(value: Any) -> tuple[tuple[str, ...], list[str]]:
    """The usable captions of a cell, each once, and why others are not."""
    good: list[str] = []
    lost: list[str] = []
    for caption in value if isinstance(value, list | tuple | np.ndarray) else [value]:
        try:
            good.append(clean_caption(caption))
        except UnusableError as error:
            lost.append(str(error))
    if not good:
        raise UnusableError(lost[0] if lost else "it has no caption")
    return tuple(dict.fromkeys(good)), lost


def clean_caption(value: Any) -> str:
    """A caption as it is kept: NFC, one line, single spaces, no control characters; emoji and marks stay.

    Raises UnusableError if it is missing, empty, blank, no text, or what programs write for a missing value.

    >>> clean_caption("  a cafe\\u0301\\n by the\\x00sea ")
    'a café by the sea'
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise UnusableError("its caption is missing")
    if not isinstance(value, str):
        given = f"{type(value).__name__} {str(value)[:40]}"
        raise UnusableError(f"its caption is no text but {given}; choose another column")
    text = "".join(" " if unicodedata.category(ch) in ("Cc", "Cs") else ch for ch in value)
    text = " ".join(unicodedata.normalize("NFC", text).split())
    if text in LOST:
        raise UnusableError(f"its caption is the word {text!r}, which a lost value leaves; write a caption")
    try:
        prepare_caption(text)
    except ValueError:
        raise UnusableError("its caption is empty or blank") from None
    return text


def _bytes_of(picture: Path | bytes) -> bytes:
    try:
        if not isinstance(picture, bytes):
            if not picture.is_file():
                raise UnusableError("there is no such file")
            if picture.stat().st_size > MAX_BYTES:
                raise UnusableError(f"its file has more than {MAX_BYTES} bytes")
            picture = picture.read_bytes()
    except OSError as error:
        raise UnusableError(f"its file cannot be read ({error.strerror or error})") from None
    if not picture:
        raise UnusableError("its picture is empty (0 bytes)")
    return picture


def _square(data: bytes, how: Reading | None) -> Image.Image:
    try:
        if how is None:
            return read_image(data, background=None)
        if how.fit == "pad":
            return read_image(data, how.size, how.background)
        return ImageOps.fit(read_image(data, None, how.background), (how.size, how.size), Image.Resampling.LANCZOS)
    except ImageError as error:
        raise UnusableError(str(error).partition(": ")[2].removesuffix("; replace or remove it")) from None


@dataclass(frozen=True)
class Pairs:
    """N captioned pictures in memory."""

    pictures: list[Image.Image]  # Upright; RGBA where the file has transparent pixels, else RGB
    captions: list[list[str]]  # Cleaned captions of each, at least one; the first is the label
    names: list[str]  # Where each stands in its source, printable
    artist: list[str]  # Who drew each; "" where the source does not say, as of style and split
    style: list[str]
    split: list[str]
    hashes: list[str]  # sha256 of each picture file's bytes, 64 hex digits
    skipped: tuple[str, ...] = ()  # What was left out and why, with counts, a line each
    notes: tuple[str, ...] = ()  # What else the user should know of the source, a line each

    def __len__(self) -> int:
        return len(self.pictures)


def load_pairs(
    source: Any,
    *,
    image_size: int | None = None,
    caption_column: str | None = None,
    image_column: str | None = None,
    names: str = "",
    subset: str | None = None,
    say: Callable[[str], None] | None = None,
) -> Pairs:
    """Anybody's captioned pictures in memory, in a fixed order.

    `source` is a folder, a table, a hub id, a `datasets.Dataset`, a dictionary of those by splits, or a `Wanted`, which
    stands for all options but two: `image_size`, the side in pixels of the square that each picture is scaled and
    padded to, None to leave them as they are; and `say`, called every few seconds with the number of rows read.

    Raises UserError if the source cannot be read, or no row of it has a picture and a caption.
    """
    wanted = source if isinstance(source, Wanted) else Wanted(source, caption_column, image_column, names, subset)
    opened = open_source(wanted)
    pictures: list[Image.Image] = []
    last_said = time.monotonic()

    def keep(number: int, picture: Image.Image) -> None:
        nonlocal last_said
        pictures.append(picture)
        if say is not None and time.monotonic() - last_said > 5:
            last_said = time.monotonic()
            say(f"{number + 1} pictures read{f' of {opened.total}' if opened.total else ''}")

    surveyed = survey(opened, Reading(image_size, background=None, max_bad=1) if image_size is not None else None, keep)
    captions = [list(pair.captions) for pair in surveyed.pairs]
    columns = ("name", "artist", "style", "split", "digest")
    where, artist, style, split, hashes = ([getattr(pair, name) for pair in surveyed.pairs] for name in columns)
    skipped = (*_grouped("row", surveyed.bad, " left out"), *_grouped("caption", surveyed.lost, " left out"))
    notes = tuple(all_notes(opened, surveyed))
    return Pairs(pictures, captions, where, artist, style, split, hashes, skipped, notes)


def all_notes(source: Source, surveyed: Survey) -> list[str]:
    """What the user should know of a source and of what was read of it, a line each."""
    pages = [(name, "a contact sheet or strip of bridge's own") for name in surveyed.pages]
    return [*source.notes, *_grouped("picture", pages, " left out"), *_grouped("row", surveyed.notes)]


def _grouped(what: str, reasons: Sequence[tuple[str, str]], fate: str = "") -> list[str]:
    """One line a reason: how many, and the first."""
    first = {why: name for name, why in reversed(reasons)}
    counts = Counter(why for _, why in reasons)
    return [f"{number_of(count, what)}{fate}: {why} ({first[why]})" for why, count in counts.most_common()]


def pairs_fingerprint(wanted: Wanted, image_size: int | None = None) -> str:
    """16 hex digits that change with what `load_pairs` would read: with the options, with the names, sizes and dates of
    the files, and with the bytes of a table; no picture is read.
    """
    opened = open_source(wanted)
    facts = [opened.fingerprint, dict(opened.columns), image_size, wanted.names]
    return digest_of(json.dumps(facts, sort_keys=True))
