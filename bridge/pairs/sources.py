"""Captioned pictures wherever they are, row by row, numbered from 1: nothing is decoded here, and nothing judged.

A source is a folder of pictures with a table, with a .txt beside each picture, or with captions in its names; a table
of paths; Parquet; a folder of `datasets`, or a dataset in memory; or a hub dataset.
"""

import contextlib
import functools
import hashlib
import json
import math
import os
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from bridge.checkpoint import sha256_of
from bridge.errors import UserError, first_line, import_extra
from bridge.hub import HUB_ID
from bridge.images import ENDINGS
from bridge.manifest import MANIFEST
from bridge.pairs.tables import SPLITS, Table, find_columns, number_of, read_table, shown, split_name
from bridge.textfile import WESTERN, EncodingError, decode, split_lines

T = TypeVar("T")
TEXTS = frozenset({".txt", ".caption"})
TABLES = frozenset({".csv", ".tsv", ".tab", ".json", ".jsonl", ".ndjson"})
PARQUET = ".parquet"
REMEDIES = {
    "save them as PNG or JPEG": ".heic .heif .hif .svg .svgz .psd .ai .eps .xcf .kra .raw .dng .cr2 .cr3 .nef .arw "
    ".orf .rw2 .raf .tga .jxl .jxr .exr .hdr .pfm .pam .dds .icns .pcx .xpm .xbm .sgi .ras .wmf .emf .pdf .djvu "
    ".clip .afphoto",
    "take pictures out of them": ".mp4 .mov .avi .mkv .webm .m4v",
    "unpack them": ".zip .tar .gz .tgz .bz2 .xz .7z .rar .zst",
    "save the sheet as CSV": ".xlsx .xls .xlsm .ods .numbers",
}
"""What to do about files that are not read."""
JUNK = frozenset({"__macosx", "thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class Wanted:
    """Which source, and how to read it."""

    source: Any  # A folder, a file, a hub id, a `datasets.Dataset`, or a dictionary of those by splits
    caption_column: str | None = None  # Its column of captions; None finds it by its name
    image_column: str | None = None  # Its column of pictures or their files; None finds it by its type or name
    names: str = ""  # "file" takes the files' names for captions, "folder" those of their folders
    subset: str | None = None  # Configuration of a hub dataset that has several

    @property
    def asked(self) -> dict[str, str | None]:
        """The columns that were asked for, by their roles."""
        return {"caption": self.caption_column, "image": self.image_column}

    @property
    def title(self) -> str:
        """What to call the source in a message."""
        return shown(str(self.source)) if isinstance(self.source, str | Path) else "the dataset"


@dataclass(frozen=True)
class Raw:
    """One row as the source has it."""

    name: str  # Where it stands, for people: printable, on one line
    picture: Path | bytes | None = None  # The picture's file or its bytes
    captions: Any = None  # What its caption column holds
    artist: str = ""  # Who drew it; "" where the source does not say, as of style and split
    style: str = ""
    split: str = ""  # By our name where it has one
    problem: str = ""  # Why it cannot be used, if that is known already
    note: str = ""  # What the user should check in it


@dataclass(frozen=True)
class Source:
    """A source that was understood."""

    kind: str  # What it is, in words
    columns: Mapping[str, str]  # {role of ROLES: column or where else it comes from}
    rows: Callable[[], Iterator[Raw]]  # Iterates from the first row; one picture's bytes are held at a time
    fingerprint: str  # 16 hex digits of names, sizes and dates of files, bytes of tables, revision of a hub dataset
    total: int | None = None  # Number of rows; None where only reading tells
    notes: tuple[str, ...] = ()  # What the user should know of it, one line each


def open_source(wanted: Wanted) -> Source:
    """What a source is. Raises UserError if there is none, it is damaged, or it has no pictures or captions."""
    if wanted.names not in ("", "file", "folder"):
        raise UserError(f"--names: expected 'file' or 'folder', got {wanted.names!r}")
    if not isinstance(wanted.source, str | Path):
        return _open_dataset(wanted)
    path = Path(wanted.source)
    if os.path.isdir(wanted.source):
        saved = any(os.path.isfile(path / name) for name in ("state.json", "dataset_dict.json"))
        return _open_dataset(wanted, path) if saved else _open_folder(Folder(path), wanted)
    if os.path.isfile(wanted.source):
        return _open_file(path, wanted)
    if HUB_ID.fullmatch(str(wanted.source)) and not _is_known(path):
        return _open_built(wanted, "hub dataset", str(wanted.source))
    raise UserError(f"source: {wanted.title!r} is no folder or file; a hub dataset is called like owner/name")


def _is_known(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS | TABLES | TEXTS | {PARQUET}


def _open_file(path: Path, wanted: Wanted) -> Source:
    ending = path.suffix.lower()
    if ending == PARQUET:
        return _open_built(wanted, "Parquet file", "parquet", str(path), path.parent)
    if ending in TABLES | {".txt"}:
        return _open_tables([path], wanted)
    remedies = {ending: remedy for remedy, endings in REMEDIES.items() for ending in endings.split()}
    known = ", ".join(sorted({*TABLES, PARQUET}))
    raise UserError(f"source: {shown(path.name)} is none of {known}; {remedies.get(ending, 'pass its folder')}")


# names of files, in any Unicode form or letter case


def _by_spelling(values: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Values by their names in NFC; where letter case is all that differs, also by lower case."""
    exact = {unicodedata.normalize("NFC", name): value for name, value in values}
    return {name.casefold(): value for name, value in exact.items()} | exact


def _spelled(values: Mapping[str, T], *names: str) -> T | None:
    """The value of the first name that is there, exactly or else in another letter case."""
    exact = [unicodedata.normalize("NFC", name) for name in names]
    return next((values[name] for name in [*exact, *map(str.casefold, exact)] if name in values), None)


class Locator:
    """Finds files as their folders spell them; each folder is listed once."""

    def __init__(self) -> None:
        self._listed: dict[Path, dict[str, str]] = {}

    def find(self, path: Path) -> Path | None:
        """The file or folder that is meant, None if there is none."""
        try:
            if path.exists():
                return path
        except (OSError, ValueError):  # no possible name
            return None
        if path.parent == path or (parent := self.find(path.parent)) is None:
            return None
        if parent not in self._listed:
            names = sorted(os.listdir(parent)) if parent.is_dir() else []
            self._listed[parent] = _by_spelling(zip(names, names, strict=True))
        name = _spelled(self._listed[parent], path.name)
        return parent / name if name else None

    def is_there(self, folder: Path, cell: str) -> bool:
        """Whether a cell of a table names a file from a folder."""
        return bool(cell.strip()) and self.find(Path(os.path.normpath(folder / _path(cell)))) is not None


def _path(cell: str) -> Path:
    return Path(cell.strip().replace("\\", "/"))


# folders


class Folder:
    """A folder's files, in a fixed order: linked ones too, but not what hides behind a dot, nor what bridge drew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = sorted(_walk(path), key=lambda file: file.parts)
        # Of what bridge drew, and the files that they list
        self.manifests = {file: listed for file in self.files if file.name == MANIFEST and (listed := _drawn(file))}
        drawn = set().union(*self.manifests.values())
        every = [file for file in self.files if file.suffix.lower() in ENDINGS]
        self.pictures = [file for file in every if file not in drawn]
        unread = _unread(self.files)
        self.also = f" ({unread})" if unread else ""  # What is not read, to add to a message
        own = ""
        if left := len(every) - len(self.pictures):
            where = ", ".join(sorted({self.name(file.parent) for file in self.manifests}))
            own = f"left out: {number_of(left, 'picture')} that bridge drew ({where}); to use them, pass that folder"
        self.notes = [note for note in (own, unread, self._near_splits()) if note]

    def name(self, file: Path) -> str:
        """A file as its path from the folder, printable."""
        return shown(file.relative_to(self.path).as_posix())

    def split_of(self, file: Path) -> str:
        """The split that a folder above a file names, where all folders at its depth are called like splits."""
        folders, depth = self._folders(file), self._split_depth
        return split_name(folders[depth]) if depth is not None and depth < len(folders) else ""

    def kind_of(self, file: Path) -> str:
        """The name of the folder that a file is in, below one that is called like a split the one above it."""
        folders = self._folders(file)
        if self._split_depth == len(folders) - 1 and len(folders) > 1:
            folders = folders[:-1]
        return folders[-1] if folders else self.path.resolve().name

    def _folders(self, file: Path) -> tuple[str, ...]:
        return file.relative_to(self.path).parts[:-1]

    @functools.cached_property
    def _split_depth(self) -> int | None:
        """Folders above those that are called like splits; None where there are none such."""
        every = {self._folders(file) for file in self.pictures}
        depths = range(min(map(len, every), default=0))
        return next((i for i in depths if all(split_name(folders[i]) in SPLITS for folders in every)), None)

    def _near_splits(self) -> str:
        """What to say where folders beside others are called like splits; "" where none are, or they are splits."""
        if self._split_depth is not None:
            return ""
        tops = sorted({folders[0] if (folders := self._folders(file)) else "" for file in self.pictures})
        like = [top for top in tops if split_name(top) in SPLITS]
        if len({split_name(top) for top in like}) < 2:
            return ""
        other = next(top for top in tops if top not in like)
        beside = f"{shown(other)} beside them is not" if other else "pictures lie beside them"
        return f"folders {', '.join(map(shown, like))} are called like splits, but {beside}: they are taken for none"


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below, each folder once, by its own path rather than by a link's."""
    links, seen = [folder], {str(parent) for parent in Path(os.path.realpath(folder)).parents}
    while links:
        root = links.pop(0)
        for place, folders, names in os.walk(root):
            if (real := os.path.realpath(place)) in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = _not_junk(sorted(folders))
            links += [Path(place, name) for name in folders if os.path.islink(os.path.join(place, name))]
            yield from (Path(place, name) for name in _not_junk(names))


def _not_junk(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.startswith(".") and name.lower() not in JUNK]


def _drawn(manifest: Path) -> list[Path]:
    """Files that a manifest of bridge's own lists; none if it is another's."""
    try:
        rows = [json.loads(line) for line in split_lines(manifest.read_text("utf-8")) if line.strip()]
        return [manifest.parent / row["file"] for row in rows if {"file", "caption", "seed", "index"} <= row.keys()]
    except (OSError, ValueError, TypeError, AttributeError):
        return []


def _unread(files: Sequence[Path]) -> str:
    """How many files of each ending are not read, and what to do about them; "" if there are none."""
    counts = Counter(file.suffix.lower() or "without an ending" for file in files if not _is_known(file))
    parts = []
    for remedy, endings in REMEDIES.items():
        if counted := [f"{counts.pop(ending)} {ending}" for ending in endings.split() if ending in counts]:
            parts.append(f"{', '.join(counted)} ({remedy})")
    parts += [f"{count} {ending}" for ending, count in sorted(counts.items())]
    return f"not read: {'; '.join(parts)}" if parts else ""


def _stat_fingerprint(files: Iterable[Path], root: Path, *facts: str) -> str:
    """16 hex digits of the files' names, sizes and dates, and of `facts`."""
    digest = hashlib.sha256("\0".join(facts).encode("utf-8", "replace"))
    for file in files:
        try:
            state = file.stat()
            fact: Any = (state.st_size, state.st_mtime_ns)
        except (OSError, ValueError):
            fact = "missing"
        digest.update(f"\n{os.path.relpath(file, root)}\0{fact}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _open_folder(folder: Folder, wanted: Wanted) -> Source:
    tables = [file for file in folder.files if file.suffix.lower() in TABLES and file not in folder.manifests]
    metadata = [file for file in tables if file.stem.lower() == "metadata"]
    texts = [file for file in folder.files if file.suffix.lower() in TEXTS]
    option = next((f"--{role}-column" for role, column in wanted.asked.items() if column is not None), "")
    if wanted.names:
        if option:
            raise UserError(f"{option}: names are the captions, so no table is read; leave it or --names out")
        return _from_names(folder, wanted)
    if not metadata and any(file.suffix.lower() == PARQUET for file in folder.files):
        return _open_parquets(folder, wanted)
    if not metadata and not (option and tables) and (text_of := _texts_of(folder.pictures, texts)):
        if option:
            raise UserError(f"{option}: {wanted.title} has captions in .txt files and no table; leave it out")
        return _from_texts(folder, texts, text_of)
    if tables := metadata or tables or list(folder.manifests):
        return _open_tables(tables, wanted, folder)
    for lone in texts:  # a table under a plain name
        with contextlib.suppress(UserError):
            return _open_tables([lone], wanted, folder)
    _check_pictures(folder, wanted)
    raise UserError(
        f"source: {wanted.title} has {number_of(len(folder.pictures), 'picture')} and no captions; write metadata.csv "
        f"with the columns file_name and caption, or a .txt beside each picture, or pass --names file{folder.also}"
    )


def _from_names(folder: Folder, wanted: Wanted) -> Source:
    _check_pictures(folder, wanted)

    def rows() -> Iterator[Raw]:
        for file in folder.pictures:
            caption = name_caption(file.stem if wanted.names == "file" else folder.kind_of(file))
            yield Raw(folder.name(file), file, caption, split=folder.split_of(file))

    columns = {"caption": f"name of the {wanted.names}", "image": "files"}
    fingerprint = _stat_fingerprint(folder.files, folder.path, wanted.names)
    return Source("folder of pictures", columns, rows, fingerprint, len(folder.pictures), tuple(folder.notes))


def _check_pictures(folder: Folder, wanted: Wanted) -> None:
    if not folder.pictures:
        raise UserError(f"source: {wanted.title} has no pictures ({', '.join(sorted(ENDINGS))}){folder.also}")


def name_caption(name: str) -> str:
    """The caption in a file's or folder's name: its words without a number at the end.

    >>> name_caption("a-red_house (2)"), name_caption("cat_0017"), name_caption("1984")
    ('a red house', 'cat', '1984')
    """
    words = re.sub(r"[_\-\s]+", " ", unicodedata.normalize("NFC", name)).strip()
    return re.sub(r"(?: \(?\d+\)?)+$", "", words)


def _texts_of(pictures: Sequence[Path], texts: Sequence[Path]) -> dict[Path, Path]:
    """The text of each picture that has one: cat.txt, or cat.png.txt."""
    known = _by_spelling((str(text.with_suffix("")), text) for text in texts)
    return {file: text for file in pictures if (text := _spelled(known, str(file.with_suffix("")), str(file)))}


def _from_texts(folder: Folder, texts: Sequence[Path], text_of: Mapping[Path, Path]) -> Source:
    def rows() -> Iterator[Raw]:
        for file in folder.pictures:
            yield _with_text(Raw(folder.name(file), file, split=folder.split_of(file)), file, text_of.get(file))

    used = {text.with_suffix("") for text in text_of.values()}
    lone = sorted(folder.name(text) for text in texts if text.with_suffix("") not in used)
    notes = [f"no picture beside {number_of(len(lone), '.txt file')}, {lone[0]} for one"] if lone else []
    columns = {"caption": "the .txt beside each picture, a caption a line", "image": "files"}
    fingerprint, total = _stat_fingerprint(folder.files, folder.path), len(folder.pictures)
    return Source("folder with .txt files", columns, rows, fingerprint, total, (*folder.notes, *notes))


def _with_text(raw: Raw, file: Path, text: Path | None) -> Raw:
    if text is None:
        return replace(raw, problem=f"there is no {shown(file.stem)}.txt beside it")
    try:
        content, encoding = decode(text.read_bytes())
    except (EncodingError, OSError) as error:
        return replace(raw, problem=f"{shown(text.name)} cannot be read: {error}")
    note = "its .txt is not UTF-8; it was read as Windows-1252" if encoding == WESTERN else ""
    return replace(raw, captions=[line for line in split_lines(content) if line.strip()] or "", note=note)


# tables


def _open_tables(tables: Sequence[Path], wanted: Wanted, folder: Folder | None = None) -> Source:
    """Tables of a folder, which name pictures below it; or one by itself, which names pictures anywhere."""
    root, locator = folder.path if folder else tables[0].parent, Locator()
    columns: dict[str, str] = {}
    rows: list[Raw] = []
    notes = list(folder.notes) if folder else []
    refused = []
    for file in tables:
        where = shown(os.path.relpath(file, root))
        try:
            table = read_table(file, where, wanted.asked, functools.partial(locator.is_there, file.parent))
        except UserError as error:
            refused.append(error)
            continue
        columns |= table.columns
        notes += table.notes
        words = map(split_name, (file.stem, *file.relative_to(root).parts[:-1])) if len(tables) > 1 else ()
        split = next((name for name in words if name in SPLITS), "")
        split_rows = (replace(raw, split=raw.split or split) for raw in _table_rows(table, where))
        rows += [_placed(raw, file.parent, locator, folder) for raw in split_rows]
    if refused and (len(tables) == 1 or not rows or any(file.stem.lower() == "metadata" for file in tables)):
        raise refused[0]
    notes += [f"{number_of(len(refused), 'table')} left out: {refused[0]}"] if refused else []
    named = [raw.picture for raw in rows if isinstance(raw.picture, Path)]
    used = set(named)
    if folder and (unused := [file for file in folder.pictures if file not in used]):
        notes.append(f"no row for {number_of(len(unused), 'picture')}, {folder.name(unused[0])} for one")
    files = folder.files if folder else [*tables, *named]
    fingerprint = _stat_fingerprint(files, root, *map(sha256_of, tables))
    names = ", ".join(sorted({file.name for file in tables}))
    kind = f"folder with {names}" if folder else f"{tables[0].suffix[1:].lower()} file"
    return Source(kind, columns, lambda: iter(rows), fingerprint, len(rows), tuple(notes))


def _table_rows(table: Table, where: str) -> list[Raw]:
    """The rows of a table; those of one file, artist, style and split are one row with several captions."""
    joined: dict[tuple[str, ...], Raw] = {}
    for number, row in table.rows:
        if isinstance(row, str):
            raw = Raw(f"{where} {number}", captions=[], problem=row)
        else:
            cell = {role: row.get(column) for role, column in table.columns.items()}
            caption, file = cell["caption"], cell["image"]
            raw = _raw(f"{where} {number}", caption if isinstance(caption, list) else [caption], cell)
            if isinstance(file, str) and file.strip():
                raw = replace(raw, name=f"{shown(file.strip())} ({raw.name})", picture=_path(file))
            else:
                raw = replace(raw, problem="it names no picture")
        key = (str(raw.picture), raw.artist, raw.style, raw.split, raw.problem and raw.name)
        earlier = joined.get(key)
        joined[key] = replace(earlier, captions=[*earlier.captions, *raw.captions]) if earlier else raw
    return list(joined.values())


def _placed(raw: Raw, beside: Path, locator: Locator, folder: Folder | None) -> Raw:
    """The row of a table with its file as the folder spells it, and with the folder's split if it has none."""
    if not isinstance(raw.picture, Path):
        return raw
    if folder and (raw.picture.is_absolute() or ".." in raw.picture.parts):
        return replace(raw, picture=None, problem="its file lies outside the folder; name it from the folder")
    file = Path(os.path.normpath(beside / raw.picture))
    file = locator.find(file) or file
    split = folder.split_of(file) if folder and folder.path in file.parents else ""
    return replace(raw, picture=file, split=raw.split or split)


def _raw(where: str, captions: Any, cells: Mapping[str, Any]) -> Raw:
    """A row without its picture; `cells` are by roles."""

    def word(role: str) -> str:
        value = cells.get(role)
        return "" if value is None or (isinstance(value, float) and math.isnan(value)) else shown(str(value)).strip()

    return Raw(where, None, captions, word("artist"), word("style"), split_name(word("split")))


# what `datasets` reads


def _datasets() -> Any:
    """The package `datasets`, which plain folders and tables do without; UserError says how to install it."""
    return import_extra("datasets", "pairs", "datasets", "source: this source")


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn whatever `datasets` raises on what it cannot read into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"source: {shown(name)} cannot be read ({shown(first_line(error))[:300]})") from error


def _open_dataset(wanted: Wanted, folder: Path | None = None) -> Source:
    """A dataset or a dictionary of them by their splits: in memory, or in a folder that `save_to_disk` wrote."""
    kind, data = "dataset", wanted.source
    if folder is not None:
        kind = "folder saved by datasets"
        with _reading(wanted.title):
            data = _datasets().load_from_disk(str(folder))
    elif not (hasattr(data, "features") or isinstance(data, dict)):
        raise UserError(f"source: expected a folder, a file, a hub id or a dataset, got {type(data).__name__}")
    parts = dict(data) if isinstance(data, dict) else {"": data}
    if not parts or not all(hasattr(part, "features") for part in parts.values()):
        raise UserError("source: expected datasets by the names of their splits; pass {'train': dataset}")
    content = "".join(str(part._fingerprint) for part in parts.values())
    fingerprint = _stat_fingerprint(sorted(_walk(folder)), folder) if folder else digest_of(content)
    streams = {name: part.to_iterable_dataset() for name, part in parts.items()}
    return replace(_from_parts(kind, streams, wanted, fingerprint), total=sum(map(len, parts.values())))


def digest_of(text: str) -> str:
    """16 hex digits of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _open_parquets(folder: Folder, wanted: Wanted) -> Source:
    """A folder of Parquet; the hub's rules hold where names are as the hub has them, and no pictures lie beside."""
    files = [file for file in folder.files if file.suffix.lower() == PARQUET]
    if all(file.suffix == PARQUET and (not folder.pictures or file.stem == "metadata") for file in files):
        return _open_built(wanted, "folder in the hub's format", str(wanted.source))
    parts: dict[str, list[str]] = {}
    for file in files:
        words = [split_name(word) for word in re.split(r"[-_. ]", file.stem)]
        parts.setdefault(next((word for word in words if word in SPLITS), "train"), []).append(str(file))
    places = {file.parent for file in files}
    base = places.pop() if len(places) == 1 else folder.path
    return _open_built(wanted, "folder of Parquet", "parquet", parts, base)


def _open_built(wanted: Wanted, kind: str, path: str, data_files: Any = None, base: Path | None = None) -> Source:
    """A hub id or folder, or Parquet that names pictures from `base`; streamed: nothing of it is kept on disk."""
    missing = "" if os.path.exists(wanted.source) else " (no folder here, so taken for a hub dataset)"
    options = {"data_files": data_files} if data_files else {}
    with _reading(f"{wanted.source}{missing}"), tempfile.TemporaryDirectory() as scratch:  # its locks
        builder = _datasets().load_dataset_builder(path, wanted.subset, cache_dir=scratch, **options)
        parts = builder.as_streaming_dataset()
    files = builder.config.data_files or {}  # their addresses name the revision
    revisions = [f"{name} {list(urls)} {urls.origin_metadata}" for name, urls in files.items()]
    digest = digest_of("\n".join([str(wanted.source), str(wanted.subset), *revisions]))
    return _from_parts(kind, dict(parts), wanted, digest, base)


def _from_parts(kind: str, parts: Mapping[str, Any], wanted: Wanted, digest: str, base: Path | None = None) -> Source:
    """Streams of `datasets` by their splits."""
    with _reading(wanted.title):
        typed = {n: part if part.features is not None else part._resolve_features() for n, part in parts.items()}
        streams = {name: part.decode(False) for name, part in typed.items()}
        features = next(iter(streams.values())).features
    pictures = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    asked = wanted.asked | ({"image": pictures[0]} if len(pictures) == 1 and not wanted.image_column else {})
    columns = find_columns(list(features), wanted.title, asked)
    classes = {name: feature for name, feature in features.items() if type(feature).__name__ == "ClassLabel"}
    locator = Locator()

    def named(column: str, cell: Any) -> Any:
        """A cell, a class number as its name."""
        is_class = column in classes and isinstance(cell, int) and cell >= 0
        return classes[column].int2str(cell) if is_class else cell

    def rows() -> Iterator[Raw]:
        number = 0
        for name, stream in streams.items():
            split = split_name(name) if len(streams) > 1 else ""
            with _reading(f"{wanted.title}, after row {number},"):
                for row in stream.select_columns(list(dict.fromkeys(columns.values()))):
                    number += 1
                    cells = {role: named(column, row[column]) for role, column in columns.items()}
                    raw = _dataset_row(f"row {number}", cells, base, locator)
                    yield replace(raw, split=split or raw.split)

    parts_as_split = {"split": f"its parts {', '.join(streams)}"} if len(streams) > 1 else {}
    return Source(kind, columns | parts_as_split, rows, digest)


def _dataset_row(where: str, cells: Mapping[str, Any], base: Path | None, locator: Locator) -> Raw:
    raw, cell = _raw(where, cells["caption"], cells), cells["image"]
    data, file = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if isinstance(data, str):
        data, file = None, data
    if data is None and file:
        data = _path(file)
        if base is not None:
            data = locator.find(base / data) or base / data
    if not isinstance(data, bytes | Path):
        return replace(raw, problem="it has no picture")
    return replace(raw, picture=data, name=f"{shown(file)} ({where})" if file else where)
