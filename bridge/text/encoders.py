"""Every kind of text encoder by its name: opened by hand, or as a model folder tells.

A new text space is a subclass of `TextEncoder` and a line in `KINDS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from bridge.checkpoint import CheckpointError
from bridge.errors import MissingModelError
from bridge.text.base import DEFAULT_DIGEST, DEFAULT_ID, SENTENCE, TOWER, WORDS, TextEncoder
from bridge.text.sources import MODULES, find_folder


def open_text_encoder(source: str | Path = DEFAULT_ID, *, digest: str | None = None) -> TextEncoder:
    """Load an encoder; its folder tells the kind.

    Args:
        source: A folder (a `Path` always is one) or hub id of sentence-transformers (with modules.json) or of
            transformers, a folder that `WordVectors.save` wrote, or a file of word vectors; by default MiniLM.
        digest: sha256 of its weights, 64 hex digits. Without it any weights are taken, except for MiniLM asked
            for by its id, whose digest is known.

    Raises UserError if the weights have another digest, are damaged, or are of no known kind; MissingModelError if
    there is no such model here.
    """
    from bridge.text.words import INDEX, WordVectors  # noqa: PLC0415

    if Path(source).is_file() or (Path(source) / INDEX).is_file():
        return WordVectors.from_pretrained(source, digest=digest)
    if str(source) == DEFAULT_ID and not isinstance(source, os.PathLike):
        return _open_network(SENTENCE, DEFAULT_ID, digest or DEFAULT_DIGEST)
    if isinstance(source, os.PathLike):  # a folder, whatever it is called
        if not Path(source).is_dir():
            raise MissingModelError(f"source: {str(source)!r}: no such file or folder; a hub id is given as text")
        source = Path(source).absolute()
    folder = find_folder(str(source))
    return _open_network(SENTENCE if (folder / MODULES).is_file() else TOWER, str(source), digest, folder)


def load_text_encoder(spec: Mapping[str, str], folder: Path) -> TextEncoder:
    """The encoder of a model folder, by what `TextEncoder.spec` gave; `folder` has files of its own, if any.

    Without "kind" it is a sentence encoder, as in folders of version 0.1. Raises CheckpointError if it is unknown,
    and what `open_text_encoder` raises.
    """
    kind = spec.get("kind", SENTENCE)
    if kind not in KINDS:
        raise CheckpointError(f"text_encoder: unknown kind {kind!r}; known: {', '.join(KINDS)}; update bridge")
    return KINDS[kind](spec, folder)


def _words(spec: Mapping[str, str], folder: Path) -> TextEncoder:
    from bridge.text.words import WordVectors  # noqa: PLC0415

    return WordVectors.from_pretrained(folder, digest=spec["digest"], id=spec["id"])


def _open_network(kind: str, source: str, digest: str | None, folder: Path | None = None) -> TextEncoder:
    folder = folder or find_folder(source, modules=kind == SENTENCE)
    if kind == SENTENCE:
        from bridge.text.sentences import open_sentence_encoder  # noqa: PLC0415

        return open_sentence_encoder(folder, id=source, digest=digest)
    from bridge.text.towers import TransformerEncoder  # noqa: PLC0415

    return TransformerEncoder.from_folder(folder, id=source, digest=digest)


KINDS: dict[str, Callable[[Mapping[str, str], Path], TextEncoder]] = {
    SENTENCE: lambda spec, _: _open_network(SENTENCE, spec["id"], spec["digest"]),
    TOWER: lambda spec, _: _open_network(TOWER, spec["id"], spec["digest"]),
    WORDS: _words,
}
"""Kind of an encoder -> how a model folder's is opened; see docs/extending.md."""
