"""What every source of captioned pictures gives: rows as they stand there, and what is known of them."""

import hashlib
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.errors import UserError

CAPTION_COLUMNS = ("caption", "captions", "text", "label", "title", "prompt", "description")
IMAGE_COLUMNS = ("image", "file_name", "filename", "file", "path", "image_path", "picture", "img")
OTHER_COLUMNS = ("artist", "style", "split")
METADATA = ("metadata.csv", "metadata.jsonl")
ENDINGS = {
    *(".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".ico", ".jp2", ".qoi", ".avif"),
}
SPLITS = {"training": "train", "val": "validation", "valid": "validation", "dev": "validation", "testing": "test"}
"""Other names of splits, and ours."""
KNOWN_SPLITS = ("train", "validation", "test", "seen", "seen_validation")


@dataclass(frozen=True)
class Wanted:
    """Which source, and how to read it.

    Args:
        source: A folder, a file, a hub id, or a `datasets.Dataset`.
        caption_column: Its column of captions; None finds it by its name.
        image_column: Its column of pictures or their files; None finds it by its type or name.
        names: "file" takes the files' names for captions, "folder" those of their folders.
        subset: Configuration of a hub dataset that has several.
    """

    source: Any
    caption_column: str | None = None
    image_column: str | None = None
    names: str = ""
    subset: str | None = None


@dataclass(frozen=True)
class Raw:
    """One row as the source has it.

    Attributes:
        name: Where it stands, for people: printable, on one line.
        picture: The picture's file or its bytes.
        captions: What its caption column holds.
        artist: Who drew it, "" where the source does not say.
        style: In which style, likewise.
        split: Its split by the source's own word, likewise.
        problem: Why it cannot be used, if that is known already.
    """

    name: str
    picture: Path | bytes | None = None
    captions: Any = None
    artist: str = ""
    style: str = ""
    split: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Source:
    """A source that was understood.

    Attributes:
        kind: What it is, in words.
        columns: {"caption" | "image" | "artist" | "style" | "split": column or where else it comes from}.
        rows: Iterates over the rows from the first; one picture's bytes are held at a time.
        fingerprint: 16 hex digits that change with the names, sizes and dates of its files; of a hub dataset,
            with its revision.
        total: How many rows there are, None where only reading tells.
        notes: What the user should know of it, one line each.
    """

    kind: str
    columns: Mapping[str, str]
    rows: Callable[[], Iterator[Raw]]
    fingerprint: str
    total: int | None = None
    notes: tuple[str, ...] = ()


def shown(name: str) -> str:
    """A name as it may be printed: NFC, on one line, no control or broken characters.

    >>> shown("cafe\\u0301\\x1b[31m.png")
    'café?[31m.png'
    """
    name = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode())
    return "".join(ch if ch.isprintable() or unicodedata.category(ch) == "Cf" else "?" for ch in name)


def name_caption(name: str) -> str:
    """The caption in a file's or folder's name: its words without a number at the end.

    >>> name_caption("a-red_house (2)"), name_caption("cat_0017"), name_caption("1984")
    ('a red house', 'cat', '1984')
    """
    words = re.sub(r"[_\-\s]+", " ", unicodedata.normalize("NFC", name)).strip()
    return re.sub(r"(?: \(?\d+\)?)+$", "", words)


def find_column(role: str, asked: str | None, known: Sequence[str], columns: Sequence[str], where: str) -> str:
    """The column that was asked for, or the first with a known name, letter case aside.

    Raises:
        UserError: There is none; names the columns found.
    """
    found = ", ".join(shown(str(name)) for name in columns) or "no columns"
    if asked is not None:
        if asked not in columns:
            raise UserError(f"--{role}-column: {where} has no column {asked!r}; it has {found}")
        return asked
    plain = {str(name).strip().casefold(): name for name in reversed(columns)}
    name = next((plain[name] for name in known if name in plain), None)
    if name is None:
        raise UserError(
            f"{where}: no {role} column called {', '.join(known)}; it has {found}; pass --{role}-column NAME"
        )
    return name


def other_columns(columns: Sequence[str]) -> dict[str, str]:
    """Those of OTHER_COLUMNS that are there, each by its role."""
    return {name: name for name in OTHER_COLUMNS if name in columns}


def cell_word(value: Any) -> str:
    """A cell of artist, style or split, "" where there is nothing."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else shown(str(value)).strip()


def told_row(name: str, captions: Any, told: Mapping[str, str]) -> Raw:
    """A row without its picture; `told` holds artist, style and split as far as they are known."""
    return Raw(name, None, captions, *(told.get(role, "") for role in OTHER_COLUMNS))


def walk(folder: Path) -> Iterator[Path]:
    """Every file below, in a fixed order, without what hides behind a dot."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in sorted(names) if not name.startswith("."))


def stat_fingerprint(files: Sequence[Path], root: Path, *facts: str) -> str:
    """16 hex digits of the files' names, sizes and dates, and of `facts`."""
    digest = hashlib.sha256("\0".join(facts).encode("utf-8", "replace"))
    for file in files:
        state = file.stat() if file.exists() else None
        told = (state.st_size, state.st_mtime_ns) if state else "missing"
        digest.update(f"\n{os.path.relpath(file, root)}\0{told}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def relative_name(file: Path, folder: Path) -> str:
    """A file by its name from `folder`, printable."""
    return shown(file.relative_to(folder).as_posix())
