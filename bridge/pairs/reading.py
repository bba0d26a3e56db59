"""One pass over a source: every picture fully read, every caption cleaned, what is bad counted and named."""

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
from bridge.images import AnimatedImageWarning, ImageError, facts_of, flatten, header_of, read_image
from bridge.pairs.sources import Raw, Source, Wanted, open_source

THUMBNAIL = 16
"""Side of the pictures that are compared with each other, in pixels."""
MAX_BYTES = 2**28
"""Files larger than that are no pictures."""
LOST = ("nan", "NaN", "NAN", "<NA>")
"""What a lost value becomes when a program writes it as a word."""

Sink = Callable[[int, Image.Image], None]


class UnusableError(UserError):
    """A row that cannot be used; the message says why, without naming it."""


class OwnPageError(UserError):
    """A picture is a contact sheet or a strip of bridge's own."""


@dataclass(frozen=True)
class Reading:
    """How pictures are read.

    Args:
        size: Side of the square they become, in pixels.
        fit: "pad" shows all of a picture beside the background; "crop" cuts the longer side on both ends.
        background: RGB in 0..255 behind what is transparent and beside what is not square; None keeps it transparent.
        max_bad: Share of rows that may be unusable.
    """

    size: int = 64
    fit: str = "pad"
    background: tuple[int, int, int] | None = (255, 255, 255)
    max_bad: float = 0.05

    def __post_init__(self) -> None:
        if self.fit not in ("pad", "crop"):
            raise UserError(f"fit: expected 'pad' or 'crop', got {self.fit!r}")
        if not 8 <= self.size <= 1024:
            raise UserError(f"size: expected 8 to 1024 pixels, got {self.size}")
        if not 0 <= self.max_bad <= 1:
            raise UserError(f"max-bad: expected a share from 0 to 1, got {self.max_bad}")


@dataclass(frozen=True)
class Pair:
    """One picture that was read, and its captions.

    Attributes:
        name: Where it stands in the source.
        captions: Cleaned, each once, at least one; the first is the label.
        artist: See `Raw`, like style and split.
        digest: sha256 of its bytes.
        size: Width and height before it was resized.
        mode: Pillow's name of its pixels; `kind` its file format.
        animated: Whether it has more frames than the first, which is read.
    """

    name: str
    captions: tuple[str, ...]
    artist: str
    style: str
    split: str
    digest: str
    size: tuple[int, int]
    mode: str
    kind: str
    animated: bool


@dataclass
class Survey:
    """What one pass found.

    Attributes:
        pairs: Usable pictures.
        thumbnails: One a pair, (N, 16, 16, 3) uint8.
        bad: (where, why) of every row that was left out.
        lost: (where, why) of captions that were left out of a row which has others.
        joined: Rows whose picture an earlier row has byte for byte; their captions went there.
        rows: Rows read.
        pages: Contact sheets and strips of bridge's own, which count as no rows.
        notes: (where, what) of what the user should check.
    """

    pairs: list[Pair] = field(default_factory=list)
    thumbnails: np.ndarray = field(default_factory=lambda: np.zeros((0, THUMBNAIL, THUMBNAIL, 3), np.uint8))
    bad: list[tuple[str, str]] = field(default_factory=list)
    lost: list[tuple[str, str]] = field(default_factory=list)
    joined: int = 0
    rows: int = 0
    pages: list[str] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)


def survey(source: Source, how: Reading | None, sink: Sink | None = None, *, strict: bool = True) -> Survey:
    """Read every row once. Pictures are dropped as soon as the sink and the thumbnails have them.

    Args:
        source: See `bridge.pairs.sources.open_source`.
        how: How pictures are read; None keeps their size and transparency.
        sink: Gets the number of each pair and its square picture.
        strict: Raise UserError once more than `how.max_bad` of the rows are bad; else only count them.
    """
    surveyed = Survey()
    thumbnails: list[np.ndarray] = []
    number: dict[tuple[str, ...], int] = {}
    for raw in source.rows():
        surveyed.rows += 1
        try:
            pair, picture, lost = look(raw, how)
        except OwnPageError:
            surveyed.rows -= 1
            surveyed.pages.append(raw.name)
            continue
        except UnusableError as error:
            surveyed.bad.append((raw.name, str(error)))
            if strict and how is not None and source.total is not None:
                _check_bad(surveyed, source.total, how.max_bad)
            continue
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
        if sink is not None:
            sink(i, picture)
    if strict and how is not None:
        _check_bad(surveyed, surveyed.rows, how.max_bad)
    if not surveyed.pairs:
        first = f": {surveyed.bad[0][0]}: {surveyed.bad[0][1]}" if surveyed.bad else ""
        raise UserError(f"source: none of its {surveyed.rows} rows has a picture and a caption{first}")
    surveyed.thumbnails = np.stack(thumbnails)
    return surveyed


def _check_bad(surveyed: Survey, rows: int, max_bad: float) -> None:
    if len(surveyed.bad) > max_bad * rows:
        name, why = surveyed.bad[0]
        raise UserError(
            f"source: {len(surveyed.bad)} of {rows} rows are bad, more than max-bad {max_bad:g} allows, first {name}: "
            f"{why}; python -m train.prepare SOURCE lists them"
        )


def look(raw: Raw, how: Reading | None) -> tuple[Pair, Image.Image, list[str]]:
    """A row's pair, its picture as `how` says, and why captions of it were left out.

    Raises UnusableError if it has no usable picture or no usable caption.
    """
    data = _bytes_of(raw.picture) if raw.picture is not None or not raw.problem else b""
    if (drawn := facts_of(data)) and not drawn & {"caption", "frame"}:
        raise OwnPageError("it is a page of pictures that bridge drew")
    if raw.problem:
        raise UnusableError(raw.problem)
    captions, lost = _captions(raw.captions)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AnimatedImageWarning)
        try:
            picture, animated = _square(data, how), False
        except AnimatedImageWarning:
            warnings.simplefilter("ignore", AnimatedImageWarning)
            picture, animated = _square(data, how), True
    facts = (*header_of(data), animated)
    credits = (raw.artist, raw.style, raw.split, hashlib.sha256(data).hexdigest())
    return Pair(raw.name, captions, *credits, *facts), picture, lost


def _captions(value: Any) -> tuple[tuple[str, ...], list[str]]:
    values = list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
    good: dict[str, None] = {}
    lost = []
    for one in values:
        try:
            good[clean_caption(one)] = None
        except UnusableError as error:
            lost.append(str(error))
    if not good:
        raise UnusableError(lost[0] if lost else "it has no caption")
    return tuple(good), lost


def clean_caption(value: Any) -> str:
    """A caption as it is kept: NFC, one line, single spaces, no control characters; emoji and marks stay.

    Raises UnusableError if it is missing, empty, blank, no text, or the word a lost value leaves.

    >>> clean_caption("  a cafe\\u0301\\n by the\\x00sea ")
    'a café by the sea'
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise UnusableError("its caption is missing")
    if not isinstance(value, str):
        raise UnusableError(
            f"its caption is no text but {type(value).__name__} {str(value)[:40]}; choose another column"
        )
    text = "".join(" " if unicodedata.category(ch) in ("Cc", "Cs") else ch for ch in value)
    text = " ".join(unicodedata.normalize("NFC", text).split())
    if text in LOST:
        raise UnusableError(f"its caption is the word {text!r}, which a lost value leaves; write a caption")
    try:
        prepare_caption(text)
    except ValueError:
        raise UnusableError("its caption is empty or blank") from None
    return text


def _bytes_of(picture: Path | bytes | None) -> bytes:
    if isinstance(picture, bytes):
        data = picture
    else:
        try:
            if picture is None or not picture.is_file():
                raise UnusableError("there is no such file")
            if picture.stat().st_size > MAX_BYTES:
                raise UnusableError(f"its file has more than {MAX_BYTES} bytes")
            data = picture.read_bytes()
        except OSError as error:
            raise UnusableError(f"its file cannot be read ({error.strerror or error})") from None
    if not data:
        raise UnusableError("its picture is empty (0 bytes)")
    return data


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
    """N captioned pictures in memory.

    Attributes:
        pictures: Upright; RGBA where the file has transparent pixels, else RGB.
        captions: Cleaned captions of each, at least one; the first is the label.
        names: Where each stands in its source, printable.
        artist: Who drew it, style and split: "" where the source does not say.
        hashes: sha256 of each picture file's bytes, 64 hex digits.
        skipped: What was left out and why, with counts, a line each.
        notes: What else the user should know of the source, a line each.
    """

    pictures: list[Image.Image]
    captions: list[list[str]]
    names: list[str]
    artist: list[str]
    style: list[str]
    split: list[str]
    hashes: list[str]
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

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

    Args:
        source: A folder, a table, a hub id, a `datasets.Dataset` (a dictionary of them by splits), or a `Wanted`, which
            says all of the rest.
        image_size: Side of the square that each is scaled and padded to, in pixels; None leaves them as they are.
        caption_column: The column of captions, if it is not found by its name; so `image_column`.
        names: "file" takes the files' names for captions, "folder" those of their folders.
        subset: Configuration of a hub dataset that has several.
        say: Told every few seconds how many rows were read.

    Raises UserError if the source cannot be read, or no row of it has a picture and a caption.
    """
    wanted = source if isinstance(source, Wanted) else Wanted(source, caption_column, image_column, names, subset)
    opened = open_source(wanted)
    pictures: list[Image.Image] = []
    spoken = time.monotonic()

    def keep(number: int, picture: Image.Image) -> None:
        nonlocal spoken
        pictures.append(picture)
        if say is not None and time.monotonic() - spoken > 5:
            spoken = time.monotonic()
            say(f"{number + 1} pictures read{f' of {opened.total}' if opened.total else ''}")

    surveyed = survey(opened, Reading(image_size, background=None) if image_size else None, keep, strict=False)
    pairs = surveyed.pairs
    return Pairs(
        pictures,
        [list(pair.captions) for pair in pairs],
        [pair.name for pair in pairs],
        [pair.artist for pair in pairs],
        [pair.style for pair in pairs],
        [pair.split for pair in pairs],
        [pair.digest for pair in pairs],
        (*_grouped("rows left out", surveyed.bad), *_grouped("captions left out", surveyed.lost)),
        tuple(all_notes(opened, surveyed)),
    )


def all_notes(source: Source, surveyed: Survey) -> list[str]:
    """What the user should know of a source and of what was read of it, a line each."""
    pages = [(name, "pages of pictures that bridge drew are left out") for name in surveyed.pages]
    return [*source.notes, *_grouped("", pages), *_grouped("rows", surveyed.notes)]


def _grouped(what: str, reasons: Sequence[tuple[str, str]]) -> list[str]:
    """One line a reason: how many, and the first."""
    first: dict[str, str] = {}
    for name, why in reasons:
        first.setdefault(why, name)
    counts = Counter(why for _, why in reasons)
    return [f"{count} {f'{what}: ' if what else ''}{why} ({first[why]})" for why, count in counts.most_common()]


def pairs_fingerprint(wanted: Wanted, image_size: int | None = None) -> str:
    """16 hex digits of what `load_pairs` would read, without reading a picture.

    It changes with the options, with the names, sizes and dates of the files, and with the bytes of a table.
    """
    opened = open_source(wanted)
    facts = [opened.fingerprint, dict(opened.columns), image_size, wanted.names]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
