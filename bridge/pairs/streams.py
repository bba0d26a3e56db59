"""Sources that `datasets` reads, as streams: Parquet, folders saved by it, hub datasets."""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bridge.errors import UserError
from bridge.pairs.rows import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    OTHER_COLUMNS,
    Raw,
    Source,
    Wanted,
    cell_word,
    find_column,
    other_columns,
    shown,
    stat_fingerprint,
    told_row,
    walk,
)
from bridge.sources import import_extra


def library() -> Any:
    """The package `datasets`, which plain folders and tables do without.

    Raises:
        UserError: It is not installed; says how to install it.
    """
    return import_extra("datasets", "pairs", "datasets", "this source")


def open_dataset(data: Any, wanted: Wanted) -> Source:
    """A `datasets.Dataset`, or a dictionary of them by their splits.

    Raises:
        UserError: It lacks a column.
    """
    parts = dict(data) if isinstance(data, dict) else {"": data}
    streams = {name: part.to_iterable_dataset() for name, part in parts.items()}
    print_ = hashlib.sha256("".join(part._fingerprint for part in parts.values()).encode()).hexdigest()[:16]
    return replace(_from_parts("dataset", streams, wanted, print_), total=sum(map(len, parts.values())))


def open_parquet(path: Path, wanted: Wanted) -> Source:
    """One Parquet file.

    Raises:
        UserError: It is damaged, or lacks a column.
    """
    with reading(path.name), tempfile.TemporaryDirectory() as scratch:
        stream = library().Dataset.from_parquet(str(path), cache_dir=scratch, streaming=True)
        return _from_parts("Parquet file", {"": stream}, wanted, stat_fingerprint([path], path.parent))


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn whatever `datasets` raises on what it cannot read into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        told = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"source: {shown(name)} cannot be read ({shown(told)[:300]})") from error


def open_saved(folder: Path, wanted: Wanted) -> Source:
    """A folder that `save_to_disk` wrote, of one dataset or of several by their splits.

    Raises:
        UserError: It is damaged, or lacks a column.
    """
    with reading(folder.name):
        saved = library().load_from_disk(str(folder))
    parts = dict(saved) if isinstance(saved, dict) else {"": saved}
    total = sum(map(len, parts.values()))
    streams = {name: part.to_iterable_dataset() for name, part in parts.items()}
    files = stat_fingerprint(list(walk(folder)), folder)
    return replace(_from_parts("folder saved by datasets", streams, wanted, files), total=total)


def open_hub(source: str, wanted: Wanted) -> Source:
    """A hub id, or a local folder in the hub's format, streamed: nothing of it is kept on disk.

    Raises:
        UserError: There is no such dataset, the hub cannot be reached, or it lacks a column.
    """
    missing = "" if Path(source).is_dir() else " (no folder here, so taken for a hub dataset)"
    with reading(source + missing), tempfile.TemporaryDirectory() as scratch:  # its locks; a stream downloads nothing
        builder = library().load_dataset_builder(source, wanted.subset, cache_dir=scratch)
        parts = builder.as_streaming_dataset()
    files = builder.config.data_files or {}  # their addresses name the revision
    told = [f"{name} {list(urls)} {urls.origin_metadata}" for name, urls in files.items()]
    digest = hashlib.sha256("\n".join([source, str(wanted.subset), *told]).encode()).hexdigest()[:16]
    kind = "folder in the hub's format" if Path(source).is_dir() else "hub dataset"
    return _from_parts(kind, dict(parts), wanted, digest)


def _from_parts(kind: str, parts: Mapping[str, Any], wanted: Wanted, fingerprint: str) -> Source:
    with reading(_called(wanted)):
        streams = {name: _undecoded(part) for name, part in parts.items()}
        features = next(iter(streams.values())).features
    columns = _dataset_columns(features, wanted)
    names = list(dict.fromkeys(columns.values()))
    split_of = {name: name if len(streams) > 1 else "" for name in streams}

    def rows() -> Iterator[Raw]:
        number = 0
        for name, stream in streams.items():
            with reading(f"{_called(wanted)}, after row {number},"):
                for row in stream.select_columns(names):
                    number += 1
                    yield _dataset_row(f"row {number}", row, columns, features, split_of[name])

    if len(streams) > 1:
        columns = {**columns, "split": f"its parts {', '.join(streams)}"}
    return Source(kind, columns, rows, fingerprint)


def _called(wanted: Wanted) -> str:
    return wanted.source if isinstance(wanted.source, str) else "the dataset"


def _undecoded(stream: Any) -> Any:
    stream = stream if stream.features is not None else stream._resolve_features()
    return stream.decode(False)


def _dataset_columns(features: Mapping[str, Any], wanted: Wanted) -> dict[str, str]:
    pictures = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    where, names = shown(_called(wanted)), list(features)
    image = wanted.image_column or (pictures[0] if len(pictures) == 1 else None)
    return {
        "caption": find_column("caption", wanted.caption_column, CAPTION_COLUMNS, names, where),
        "image": find_column("image", image, IMAGE_COLUMNS, names, where),
        **other_columns(names),
    }


def _dataset_row(
    where: str, row: dict[str, Any], columns: Mapping[str, str], features: Mapping[str, Any], split: str
) -> Raw:
    def value(role: str) -> Any:
        cell, feature = row.get(columns.get(role, "")), features.get(columns.get(role, ""))
        classes = type(feature).__name__ == "ClassLabel" and isinstance(cell, int) and cell >= 0
        return feature.int2str(cell) if classes and feature else cell

    told = {role: cell_word(value(role)) for role in OTHER_COLUMNS}
    raw = told_row(where, value("caption"), told | {"split": split or told["split"]})
    cell = value("image")
    data, file = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if isinstance(data, str):
        data, file = None, data
    if file and data is None:
        return replace(raw, name=f"{shown(file)} ({where})", picture=Path(file))
    if not isinstance(data, bytes):
        return replace(raw, problem="it has no picture")
    return replace(raw, picture=data, name=f"{shown(file)} ({where})" if file else where)
