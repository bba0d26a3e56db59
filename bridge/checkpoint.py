"""A model's folder on disk: written whole or not at all, loaded only when every byte is as written.

A folder ends with manifest.json, which holds the size and sha256 of every other file. It is written last:
a folder without it is unfinished. Weights are safetensors; anything that may hold a pickle is refused.
"""

import contextlib
import glob
import hashlib
import json
import os
import secrets
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bridge.errors import UserError

MANIFEST = "manifest.json"
INDEX = "model_index.json"
CACHE = ".cache"  # folder inside another, for what can be made again
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".joblib", ".dill", ".msgpack"})
# Endings of files in a model folder that are for people, and of those that a library may load though none is listed.
DOCUMENTS = frozenset({"", ".md", ".txt", ".rst", ".html", ".pdf", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp"})
LOADABLE = frozenset({".safetensors", ".arrow", ".parquet", ".py", ".so", ".dll"})


class CheckpointError(UserError):
    """A model folder, or a file of encoded rows, that cannot be used; the message names it and the remedy."""


class UnverifiedWarning(UserWarning):
    """Files in a model folder that nothing is loaded from are not as they were saved."""


def sha256_of(path: Path) -> str:
    """sha256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def atomic_write(path: str | Path, data: bytes | str, *, durable: bool = True) -> None:
    """Put `data` at `path` so that a reader, or a crash, sees the old file or the new one; text as UTF-8.

    `durable` also survives a power cut (fsync of file and folder, some milliseconds).
    Raises OSError if it cannot be written; the old file stands and no temporary file is left.
    """
    temporary = _temporary(path := Path(path))
    try:
        with temporary.open("xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        _fsync(path.parent)


def remove_stale(path: str | Path) -> None:
    """Remove what a killed writer of `path` left beside it. Only for whoever alone writes `path`."""
    path = Path(path).resolve()
    for entry in path.parent.glob(glob.escape(_beside(path, ".").name) + "*.tmp"):
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `path` when the block ends without an error.

    The old folder stands until the new one is complete and on disk; after a kill the next reader finds one of the two.
    One writer at a time: what an earlier, killed one left behind is removed. Raises CheckpointError unless
    `check_replaceable`, OSError if it cannot be written.
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path)
    check_replaceable(path)
    remove_stale(path)
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        _write_manifest(temporary)
        check_replaceable(path)  # again: filling it may have taken hours
        _swap(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def verify_folder(path: str | Path) -> None:
    """Check that all that is loaded from a model folder is as it was saved, and that nothing in it could run code.

    Raises CheckpointError if a file that is loaded is missing, damaged or not listed, or may hold a pickle. Warns
    UnverifiedWarning if another one, such as README.md, was changed, removed or added.
    """
    path = Path(path)
    recover(path.resolve())
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder; pass the folder of a saved model")
    files = _files(path)
    for name in files:
        _refuse_pickle(path / name)
    listed, aside = _read_manifest(path), []
    for name in sorted(listed.keys() | files):
        damage, remedy = _damage_of(path, name, listed.get(name))
        if damage and _is_loaded(name, name in listed):
            raise CheckpointError(f"{path / name}: {damage}; {remedy}")
        aside += [f"{name} ({damage})"] if damage else []
    if aside:
        some = ", ".join(aside[:3]) + (f" and {len(aside) - 3} more" if len(aside) > 3 else "")
        what = "nothing is loaded from there, and the model is as it was saved"
        warnings.warn(UnverifiedWarning(f"{path}: {some}; {what}"), stacklevel=2)


def _damage_of(folder: Path, name: str, facts: Mapping[str, Any] | None) -> tuple[str, str]:
    """What of a file is not as its entry in the manifest says, "" for nothing, and the remedy."""
    file, again = folder / name, "copy or download the model again"
    if facts is None:
        return f"not in {MANIFEST}", "remove it, or save the model again"
    if not file.is_file() or ".." in Path(name).parts:
        return "missing", again
    if (size := file.stat().st_size) != facts["size"]:
        return f"damaged ({size} bytes of {facts['size']})", again
    return ("" if sha256_of(file) == facts["sha256"] else "damaged (sha256 differs)"), again


def _is_loaded(name: str, listed: bool) -> bool:
    """Whether a file of a model folder is loaded, or, where it is not listed, could be."""
    path = Path(name)
    suffix = path.suffix.lower()
    if listed:
        return suffix not in DOCUMENTS or ".." in path.parts
    of_a_part = len(path.parts) > 1 or path.name in (INDEX, "config.json", "words.json")
    return suffix in LOADABLE or (suffix == ".json" and (of_a_part or name.endswith(".index.json")))


def _beside(path: Path, ending: str) -> Path:
    """A hidden name in the folder of `path`, known to be its own, short enough for any file system."""
    own = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]
    return path.with_name(f".{path.name[:40]}.{own}{ending}")


def _temporary(path: Path) -> Path:
    return _beside(path, f".{secrets.token_hex(8)}.tmp")


def _old(path: Path) -> Path:
    return _beside(path, ".old")


def recover(path: Path) -> None:
    """Undo half a swap: a writer killed between its two renames leaves only the old folder, aside."""
    if _old(path).is_dir() and not path.exists():
        os.rename(_old(path), path)


def _swap(new: Path, path: Path) -> None:
    _discard_old(path)  # left by a writer killed after its swap
    if path.exists():
        os.rename(path, _old(path))
    try:
        os.rename(new, path)
    except BaseException:
        recover(path)
        raise
    _fsync(path.parent)
    _discard_old(path)


def _discard_old(path: Path) -> None:
    if _old(path).exists():
        doomed = _temporary(path)  # `recover` must not find it half removed
        os.rename(_old(path), doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def check_replaceable(path: str | Path) -> None:
    """Check that `atomic_folder` may take this place: it is free, empty, or holds what its manifest lists and CACHE.

    Raises CheckpointError if it is a file, a folder with anything else, or with a document that somebody edited, which
    would be lost; or a folder that cannot be replaced, a disk's or the current one.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise CheckpointError(f"{path}: is a file; choose another folder")
    current = path.is_dir() and Path.cwd().is_relative_to(path.resolve())
    if path.is_mount() or current:
        what = "a disk's own folder" if path.is_mount() else "the current folder"
        raise CheckpointError(f"{path}: is {what}, which cannot be replaced; choose a folder in it")
    ends = [entry for entry in path.rglob("*") if entry.is_symlink() or not entry.is_dir() or not any(entry.iterdir())]
    entries = {entry.relative_to(path).as_posix() for entry in ends}  # files, and folders that are empty
    listed = _read_manifest(path) if MANIFEST in entries else {}
    entries = {name for name in entries if Path(name).parts[0] != CACHE}
    for name in sorted(entries - listed.keys() - {MANIFEST}):
        lost = "was not written by this command and would be lost"
        raise CheckpointError(f"{path / name}: {lost}; choose another folder")
    for name in sorted(entries & listed.keys()):
        if not _is_loaded(name, True) and sha256_of(path / name) != listed[name]["sha256"]:
            raise CheckpointError(f"{path / name}: was edited and would be lost; move it, or choose another folder")


def _write_manifest(folder: Path) -> None:
    facts = {}
    for name in sorted(_files(folder)):
        _refuse_pickle(folder / name)
        _fsync(folder / name)
        facts[name] = {"sha256": sha256_of(folder / name), "size": (folder / name).stat().st_size}
    for parent in {(folder / name).parent for name in facts}:
        _fsync(parent)
    atomic_write(folder / MANIFEST, json.dumps({"files": facts}, indent=1) + "\n")


def _read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        files = json.loads((folder / MANIFEST).read_text("utf-8"))["files"]
        return {str(name): {"sha256": str(f["sha256"]), "size": int(f["size"])} for name, f in files.items()}
    except FileNotFoundError:
        raise CheckpointError(f"{folder / MANIFEST}: missing; {folder} is no complete model folder") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{folder / MANIFEST}: damaged; copy or download the model again") from None


def _files(folder: Path) -> set[str]:
    """Every file below `folder` by its posix path, but the manifest and what hides behind a dot."""
    names = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {n.as_posix() for n in names if not any(part.startswith(".") for part in n.parts)} - {MANIFEST}


def _refuse_pickle(path: Path) -> None:
    if path.suffix.lower() in PICKLES:
        raise CheckpointError(f"{path}: may hold a pickle, which runs code; only safetensors are loaded, remove it")
    if path.suffix == ".safetensors" and path.is_file():
        with path.open("rb") as file:
            head = file.read(9)
        if head[8:] != b"{":  # after the header's length, 8 bytes, a JSON object begins
            raise CheckpointError(f"{path}: is no safetensors file (a pickle, or damaged); save the model again")


def _fsync(path: Path) -> None:
    if os.name == "nt":
        return  # no handle of a folder, and files are flushed on close
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
