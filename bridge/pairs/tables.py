"""Tables of text that name pictures and their captions: CSV, TSV and JSON lines.

The standard library reads them: readers that guess types turn the caption "NA" into nothing and "007" into 7.
"""

import csv
import json
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bridge.checkpoint import sha256_of
from bridge.errors import UserError
from bridge.pairs.rows import (
    CAPTION_COLUMNS,
    ENDINGS,
    IMAGE_COLUMNS,
    KNOWN_SPLITS,
    OTHER_COLUMNS,
    SPLITS,
    Raw,
    Source,
    Wanted,
    cell_word,
    find_column,
    other_columns,
    relative_name,
    shown,
    stat_fingerprint,
    told_row,
)


def open_metadata(folder: Path, files: Sequence[Path], tables: Sequence[Path], wanted: Wanted) -> Source:
    """A folder whose metadata.csv or metadata.jsonl, or several below it, name its pictures.

    Raises:
        UserError: A table cannot be read, is empty, or lacks a column.
    """
    at = {unicodedata.normalize("NFC", os.path.normpath(file)): file for file in files}
    columns: dict[str, str] = {}
    found: list[Raw] = []
    for table in tables:
        more, rows = _read_table(table, wanted, folder)
        columns |= more
        split = table.relative_to(folder).parts[0] if len(tables) > 1 else ""
        split = split if SPLITS.get(split, split) in KNOWN_SPLITS else ""
        found += [replace(_placed(raw, table.parent, at), split=raw.split or split) for raw in rows]
    used = {raw.picture for raw in found}
    unused = [file for file in files if file.suffix.lower() in ENDINGS and file not in used]
    notes = (f"{len(unused)} pictures have no row, {relative_name(unused[0], folder)} for one",) if unused else ()
    kind = f"folder with {', '.join(sorted({table.name for table in tables}))}"
    return Source(
        kind, columns, lambda: iter(found), stat_fingerprint(files, folder, *_digests(tables)), len(found), notes
    )


def _placed(raw: Raw, folder: Path, at: Mapping[str, Path]) -> Raw:
    """The row with its file as the folder spells it, which must not lie outside the folder."""
    if not isinstance(raw.picture, Path):
        return raw
    if raw.picture.is_absolute() or ".." in raw.picture.parts:
        return replace(raw, picture=None, problem="its file lies outside the folder; name it from the folder")
    file = folder / raw.picture
    return replace(raw, picture=at.get(unicodedata.normalize("NFC", os.path.normpath(file)), file))


def open_table(path: Path, wanted: Wanted) -> Source:
    """A .csv, .tsv or .jsonl file; what it names lies beside it, or where it says from the root.

    Raises:
        UserError: It cannot be read, is empty, or lacks a column.
    """
    columns, rows = _read_table(path, wanted, path.parent)
    placed = [replace(raw, picture=path.parent / raw.picture) if isinstance(raw.picture, Path) else raw for raw in rows]
    files = [path, *(raw.picture for raw in placed if isinstance(raw.picture, Path))]
    kind, print_ = f"{path.suffix[1:]} file", stat_fingerprint(files, path.parent, *_digests([path]))
    return Source(kind, columns, lambda: iter(placed), print_, len(placed))


def _digests(tables: Sequence[Path]) -> list[str]:
    return [sha256_of(table) for table in tables]


def _read_csv(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        head = file.readline()
        file.seek(0)
        reader = csv.DictReader(file, delimiter=max(",;\t", key=head.count), strict=True)
        for number, row in enumerate(reader, 1):
            extra = row.pop(None, None)
            problem = "it has more cells than the header; a caption with commas needs quotes around it"
            yield f"row {number}", problem if extra else row


def _read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                yield f"line {number}", row if isinstance(row, dict) else "it is no JSON object"


def _read_table(path: Path, wanted: Wanted, root: Path) -> tuple[dict[str, str], list[Raw]]:
    """The columns of a table of text, and its rows with the files as they are written in it."""
    where = shown(os.path.relpath(path, root))
    try:
        cells = list(_read_jsonl(path) if path.suffix == ".jsonl" else _read_csv(path))
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{where}: cannot be read ({error}); save it as UTF-8 text") from error
    names = list(dict.fromkeys(name for _, row in cells if isinstance(row, dict) for name in row))
    if not cells:
        raise UserError(f"{where}: has no rows")
    columns = {
        "caption": find_column("caption", wanted.caption_column, CAPTION_COLUMNS, names, where),
        "image": find_column("image", wanted.image_column, IMAGE_COLUMNS, names, where),
        **other_columns(names),
    }
    joined: dict[tuple[str, ...], Raw] = {}
    for number, row in cells:
        raw = _table_row(f"{where} {number}", row, columns)
        key = (str(raw.picture), raw.artist, raw.style, raw.split, raw.problem and raw.name)
        earlier = joined.get(key)
        joined[key] = replace(earlier, captions=[*earlier.captions, *raw.captions]) if earlier else raw
    return columns, list(joined.values())


def _table_row(where: str, row: dict[str, Any] | str, columns: Mapping[str, str]) -> Raw:
    if isinstance(row, str):
        return Raw(where, captions=[], problem=row)
    file = row.get(columns["image"])
    caption = row.get(columns["caption"])
    told = {role: cell_word(row.get(columns[role])) for role in OTHER_COLUMNS if role in columns}
    raw = told_row(where, caption if isinstance(caption, list) else [caption], told)
    if not isinstance(file, str) or not file.strip():
        return replace(raw, problem="it names no picture")
    return replace(raw, name=f"{shown(file)} ({where})", picture=Path(file.strip().replace("\\", "/")))
