"""Tables of text that name pictures and their captions, as people and spreadsheets write them.

The standard library reads them: readers that guess types turn the caption "NA" into nothing and "007" into 7.
"""

import csv
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.errors import UserError
from bridge.images import ENDINGS
from bridge.textfile import WESTERN, EncodingError, decode, split_lines

ROLES = {
    "caption": ("caption", "captions", "text", "label", "title", "prompt", "description"),
    "image": ("image", "file_name", "filename", "file", "path", "image_path", "picture", "img"),
    "artist": ("artist", "author", "creator"),
    "style": ("style",),
    "split": ("split",),
}
"""Names of columns by what they hold, the likeliest first."""
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
SPLITS = ("train", "validation", "test", "seen", "seen_validation")
_SPLIT_NAMES = {name.replace("_", ""): name for name in SPLITS} | {"training": "train", "testing": "test"}
_SPLIT_NAMES |= dict.fromkeys(("val", "valid", "dev", "eval", "evaluation"), "validation")
NO_OBJECT = "it is no JSON object"

Row = dict[str, Any] | str
"""Cells by column, or why the row cannot be used."""


def plain(name: str) -> str:
    """What two spellings of a column or a split share: letters and digits, in one case and Unicode form.

    >>> plain("\\ufeff File-Name") == plain("file_name")
    True
    """
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


def split_name(word: str) -> str:
    """A split by our name for it, or the word as it is, where it is none.

    >>> split_name("Val "), split_name("TESTING"), split_name("train_set"), split_name("fold 3")
    ('validation', 'test', 'train', 'fold 3')
    """
    bare = re.sub(r"(?:set|split|data|images|\d{4})$", "", plain(word))
    return _SPLIT_NAMES.get(bare, word.strip())


def find_columns(names: Sequence[str], where: str, asked: Mapping[str, str | None]) -> dict[str, str]:
    """{role: column} of all roles that are there, by names of ROLES or as `asked` for, in any spelling.

    Raises UserError if a column asked for is not there, or none of captions or pictures; `where` is the table's name.
    """
    spelled = {plain(str(name)): name for name in reversed(names)}
    listed = ", ".join(shown(str(name)) for name in names) or "no columns"
    columns = {}
    for role, known in ROLES.items():
        if (wish := asked.get(role)) is not None:
            if wish not in names and plain(wish) not in spelled:
                raise UserError(f"--{role}-column: {where} has no column {wish!r}; it has {listed}")
            columns[role] = wish if wish in names else spelled[plain(wish)]
        elif (name := next((spelled[plain(name)] for name in known if plain(name) in spelled), None)) is not None:
            columns[role] = name
        elif role in ("caption", "image"):
            expected = f"no {role} column called {', '.join(known)}"
            raise UserError(f"{where}: {expected}; it has {listed}; pass --{role}-column NAME")
    return columns


def shown(name: str) -> str:
    """A name as it may be printed: NFC, on one line, no control or broken characters.

    >>> shown("cafe\\u0301\\x1b[31m.png")
    'café?[31m.png'
    """
    name = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode())
    return "".join(ch if ch.isprintable() or unicodedata.category(ch) == "Cf" else "?" for ch in name)


def number_of(count: int, what: str) -> str:
    """How many, in words.

    >>> number_of(1, "row"), number_of(2, "row")
    ('1 row', '2 rows')
    """
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


@dataclass(frozen=True)
class Table:
    """A table that was read."""

    columns: dict[str, str]  # {role: column}
    rows: list[tuple[str, Row]]  # Where each stands, and its cells
    notes: list[str]  # For the user


def read_table(path: Path, where: str, asked: Mapping[str, str | None], is_file: Callable[[str], bool]) -> Table:
    """Read a table of comma- or otherwise separated values, or of JSON.

    `where` is what to call it, `asked` see `find_columns`; `is_file` says whether a cell names a file that is there.
    Raises UserError if it cannot be decoded, has no rows, or lacks a column.
    """
    try:
        text, encoding = decode(path.read_bytes())
    except EncodingError as error:
        raise UserError(f"{where}: cannot be read: {error}") from None
    notes = [f"{where} is not UTF-8; it was read as Windows-1252, a usual export"] if encoding == WESTERN else []
    if path.suffix.lower() in (".json", ".jsonl", ".ndjson") or text.lstrip()[:1] in ("{", "["):
        rows = [(place, row if isinstance(row, dict) else NO_OBJECT) for place, row in _read_json(text)]
        if rows and all(row == NO_OBJECT for _, row in rows):
            raise UserError(f"{where}: holds no JSON object, {rows[0][0]} for one; write one a row, in double quotes")
        names = list(dict.fromkeys(name for _, row in rows if isinstance(row, dict) for name in row))
    else:
        names, rows = _read_csv(split_lines(text), where, asked, is_file, notes)
    if not rows:
        raise UserError(f"{where}: has no rows")
    columns = find_columns(names, where, asked)
    others = [name for name in names if name not in columns.values()]
    if "split" not in columns and (name := next((n for n in others if _holds_splits(n, rows)), None)) is not None:
        columns["split"] = name
        notes.append(f"{where}: column {shown(name)} holds names of splits, so it was read as the split")
    return Table(columns, rows, notes)


def _holds_splits(name: str, rows: Sequence[tuple[str, Row]]) -> bool:
    """Whether the cells of a column are names of splits, two at least, and nothing else."""
    cells = {str(row.get(name) or "").strip() for _, row in rows if isinstance(row, dict)} - {""}
    splits = set(map(split_name, cells))
    return len(splits) > 1 and splits <= set(SPLITS)


def _read_csv(
    lines: Sequence[str], where: str, asked: Mapping[str, str | None], is_file: Callable[[str], bool], notes: list[str]
) -> tuple[list[str], list[tuple[str, Row]]]:
    """Names of the columns, and the rows; adds to the notes."""
    start, delimiter, names = _header(lines, where, asked)
    if not names:
        return [], []
    if any(Path(name).suffix.lower() in ENDINGS for name in names):
        raise UserError(f"{where}: its first row names a picture; write the row file_name,caption above it")
    image = names.index(find_columns(names, where, asked)["image"])

    def names_file(cells: Sequence[str]) -> bool:
        return len(cells) > image and is_file(cells[image])

    def is_row(line: str) -> bool:
        cells = _cells(line, delimiter)
        pictures = any(Path(cell).suffix.lower() in ENDINGS for cell in cells)
        return len(cells) == len(names) and (pictures or names_file(cells))

    rows: list[tuple[str, Row]] = []
    comments = 0
    for number, cells, mended in _records(lines, start, delimiter, is_row):
        if cells and cells[0].startswith("#") and not names_file(cells):
            comments += 1
            continue
        if not any(cell.strip() for cell in cells):
            continue
        extra = _extra_cells(lines[number], delimiter) if any(cells[len(names) :]) else ""
        rows.append((f"row {len(rows) + 1}", extra or dict(zip(names, cells, strict=False))))
        if mended:
            notes.append(
                f"{where} row {len(rows)} (line {number + 1}): a quote opens and is not closed before lines that name "
                "other pictures; it was read as one line; close the quote, or write it twice"
            )
    if comments:
        notes.append(f"{where}: passed over {number_of(comments, 'line')} beginning with # and naming no picture")
    return names, rows


def _extra_cells(line: str, delimiter: str) -> str:
    quoted = f"a caption with {DELIMITERS.get(delimiter, delimiter)} needs quotes around it"
    doubled = ", and quotes inside it are written twice" if '"' in line else ""
    return f"it has more cells than the header; {quoted}{doubled}"


def _header(lines: Sequence[str], where: str, asked: Mapping[str, str | None]) -> tuple[int, str, list[str]]:
    """Where the rows begin, the delimiter, and the names of the columns."""
    only = ""
    for i, line in enumerate(lines):
        if (declared := re.fullmatch(r'"?sep=(.)"?', line.strip("\ufeff "), re.IGNORECASE)) is not None:
            only = declared[1]
            continue
        if not line.strip("".join(DELIMITERS) + '\ufeff "'):
            continue
        fits = {}
        for delimiter in only or DELIMITERS:
            names = [name.strip() for name in _cells(re.sub(r"^\ufeff?(?: *#+ *)?", "", line), delimiter)]
            try:
                find_columns(names, where, asked)
                return i + 1, delimiter, names
            except UserError:
                fits[delimiter] = names
        if not line.lstrip("\ufeff ").startswith("#"):
            return i + 1, *max(fits.items(), key=lambda fit: len(fit[1]))
    return len(lines), ",", []


def _records(
    lines: Sequence[str], start: int, delimiter: str, is_row: Callable[[str], bool]
) -> Iterator[tuple[int, list[str], bool]]:
    """(number of its first line, cells, whether its quotes were mended) of every record.

    A record over several lines, one of which alone is a row, is a quote never closed: its first line stands alone then.
    """
    while start < len(lines):
        rest = (lines[k] + "\n" for k in range(start, len(lines)))
        reader = csv.reader(rest, delimiter=delimiter, skipinitialspace=True)
        try:
            cells, swallowed = next(reader), False
        except csv.Error:  # a cell longer than any: a quote took the rest
            cells, swallowed = [], True
        first, *others = lines[start : start + reader.line_num]
        mended = swallowed or any(map(is_row, others))
        if mended:
            cells, others = [cell.replace('"', "") for cell in first.split(delimiter)], []
        elif not others:
            cells = _literal(first, cells, delimiter)
        yield start, cells, mended
        start += 1 + len(others)


def _literal(line: str, cells: list[str], delimiter: str) -> list[str]:
    """The cells of one line; where its quotes follow no rule, and splitting gives as many cells, as they stand there.

    >>> _literal('a.png,"a "big" car"', ["a.png", 'a big" car"'], ",")
    ['a.png', 'a "big" car']
    """
    if not any('"' in cell for cell in cells):
        return cells
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True))
    except csv.Error:
        parts = [part.strip() for part in line.split(delimiter)]
        if len(parts) != len(cells):
            return cells
        whole = [part[1:-1] if len(part) > 1 and part[0] == part[-1] == '"' else part for part in parts]
        return [part.replace('\\"', '"') for part in whole]


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        return line.split(delimiter)


def _read_json(text: str) -> list[tuple[str, Any]]:
    """The rows of a document, or of JSON objects one after the other, one a line or each over several lines."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return _read_objects(split_lines(text))
    rows = _rows_of(whole)
    unit = "line" if rows == [whole] else "entry"
    return [(f"{unit} {i}", row) for i, row in enumerate(rows, 1)]


def _rows_of(whole: Any) -> list[Any]:
    """Rows of a document: a list of them, one under some name, columns, {file: caption}, as COCO has it, or one row."""
    if not isinstance(whole, dict):
        return whole if isinstance(whole, list) else []
    if _has(whole, "caption", "image"):
        return _rows_of_columns(whole)
    lists = {key: v for key, v in whole.items() if isinstance(v, list) and v and all(isinstance(r, dict) for r in v)}
    if {"images", "annotations"} <= lists.keys():
        by_id = {image.get("id"): image for image in lists["images"]}
        return [by_id.get(row.get("image_id"), {}) | row for row in lists["annotations"]]
    if len(lists) == 1:
        return next(iter(lists.values()))
    if all(isinstance(row, dict) and _has(row, "image") for row in whole.values()):
        return list(whole.values())
    rows = {file: value if isinstance(value, dict) else {"caption": value} for file, value in whole.items()}
    return [{**row, "file_name": file} for file, row in rows.items()]


def _rows_of_columns(whole: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of {column: cells}, the cells a list or {row: cell}; else `whole` is one row."""
    columns = {key: list(v.values()) if isinstance(v, dict) else v for key, v in whole.items()}
    listed = all(isinstance(cells, list) for cells in columns.values())
    if not listed or len({len(cells) for cells in columns.values()}) > 1:
        return [whole]
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _has(row: dict[str, Any], *roles: str) -> bool:
    known = {plain(name) for role in roles for name in ROLES[role]}
    return any(plain(key) in known for key in row)


def _read_objects(lines: Sequence[str]) -> list[tuple[str, Any]]:
    text, decoder, gap = "\n".join(lines), json.JSONDecoder(), re.compile(r"[\s,]*")
    rows = []
    at, number, counted = 0, 1, 0
    try:
        while (at := gap.match(text, at).end()) < len(text):  # type: ignore[union-attr]
            number, counted = number + text.count("\n", counted, at), at
            row, at = decoder.raw_decode(text, at)
            rows.append((f"line {number}", row))
        return rows
    except (ValueError, RecursionError):
        numbered = [(i, line.strip()) for i, line in enumerate(lines, 1)]
        return [(f"line {i}", _object(line)) for i, line in numbered if line and not line.startswith(("#", "//"))]


def _object(line: str) -> Any:
    try:
        return json.loads(line.removesuffix(","))
    except (ValueError, RecursionError):
        return None
