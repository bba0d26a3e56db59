"""Captioned pictures wherever they are, row by row: nothing is decoded here, and nothing judged.

A source is a folder of pictures with metadata.csv or metadata.jsonl, with a .txt beside each picture, or with
captions in its names; a CSV or JSON-lines file of paths; Parquet; a folder of `datasets`; or a hub dataset.
Rows are numbered from 1.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bridge.errors import UserError
from bridge.pairs.rows import (
    ENDINGS,
    METADATA,
    Raw,
    Source,
    Wanted,
    name_caption,
    relative_name,
    shown,
    stat_fingerprint,
    walk,
)
from bridge.pairs.streams import open_dataset, open_hub, open_parquet, open_saved
from bridge.pairs.tables import open_metadata, open_table

FILES = {".csv", ".tsv", ".jsonl", ".parquet"}


def open_source(wanted: Wanted) -> Source:
    """Find out what a source is.

    Raises:
        UserError: There is no such source, it is damaged, or it has no pictures or captions; says what it has.
    """
    if wanted.names not in ("", "file", "folder"):
        raise UserError(f"--names: expected 'file' or 'folder', got {wanted.names!r}")
    if hasattr(wanted.source, "keys") or hasattr(wanted.source, "features"):
        return open_dataset(wanted.source, wanted)
    wanted = replace(wanted, source=str(wanted.source))
    path = Path(wanted.source)
    if os.path.isdir(wanted.source):
        return _open_folder(path, wanted)
    if os.path.isfile(wanted.source):
        return _open_file(path, wanted)
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", wanted.source) and path.suffix.lower() not in FILES | ENDINGS:
        return open_hub(wanted.source, wanted)
    raise UserError(f"source: {shown(wanted.source)!r} is no folder or file; a hub dataset is called like owner/name")


def _open_file(path: Path, wanted: Wanted) -> Source:
    if path.suffix == ".parquet":
        return open_parquet(path, wanted)
    if path.suffix in FILES:
        return open_table(path, wanted)
    raise UserError(f"source: {shown(path.name)} is none of {', '.join(sorted(FILES))}; pass its folder")


def _open_folder(folder: Path, wanted: Wanted) -> Source:
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return open_saved(folder, wanted)
    files = list(walk(folder))
    pictures = [file for file in files if file.suffix.lower() in ENDINGS]
    if wanted.names:
        return _from_names(folder, files, pictures, wanted.names)
    if tables := [file for file in files if file.name in METADATA]:
        return open_metadata(folder, files, tables, wanted)
    if any(file.suffix == ".parquet" for file in files):
        return open_hub(str(folder), wanted)
    texts = {file.with_suffix("") for file in files if file.suffix.lower() == ".txt"}
    if any(file.with_suffix("") in texts for file in pictures):
        return _from_texts(folder, files, pictures)
    raise UserError(
        f"source: {shown(str(folder))} has {len(pictures)} pictures and no captions; write metadata.csv with the "
        "columns file_name and caption, or a .txt beside each picture, or pass --names file"
    )


def _from_names(folder: Path, files: Sequence[Path], pictures: Sequence[Path], names: str) -> Source:
    if not pictures:
        raise UserError(f"source: {shown(str(folder))} has no pictures ({', '.join(sorted(ENDINGS))})")

    def rows() -> Iterator[Raw]:
        for file in pictures:
            name = file.stem if names == "file" else file.parent.resolve().name
            yield Raw(relative_name(file, folder), file, name_caption(name))

    columns = {"caption": f"name of the {names}", "image": "files"}
    return Source("folder of pictures", columns, rows, stat_fingerprint(files, folder, names), len(pictures))


def _from_texts(folder: Path, files: Sequence[Path], pictures: Sequence[Path]) -> Source:
    texts = {file.with_suffix(""): file for file in files if file.suffix.lower() == ".txt"}

    def rows() -> Iterator[Raw]:
        for file in pictures:
            raw = Raw(relative_name(file, folder), file)
            try:
                text = texts[file.with_suffix("")].read_text("utf-8-sig")
                yield replace(raw, captions=[line for line in text.splitlines() if line.strip()] or "")
            except KeyError:
                yield replace(raw, problem=f"there is no {shown(file.stem)}.txt beside it")
            except UnicodeDecodeError:
                yield replace(raw, problem=f"{shown(file.stem)}.txt is not UTF-8 text")

    columns = {"caption": "the .txt beside each picture, a caption a line", "image": "files"}
    lone = sorted(relative_name(texts[stem], folder) for stem in texts.keys() - {p.with_suffix("") for p in pictures})
    notes = (f"{len(lone)} .txt files have no picture beside them, {lone[0]} for one",) if lone else ()
    return Source("folder with .txt files", columns, rows, stat_fingerprint(files, folder), len(pictures), notes)
