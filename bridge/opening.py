"""The parts of a model folder that tell how to make it: its index, and its mapper."""

import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bridge.checkpoint import INDEX, CheckpointError, open_module
from bridge.mappers import FAMILIES, Mapper


def read_index(folder: Path, known: Iterable[str]) -> dict[str, Any]:
    """A model folder's index, its settings among `known`. Raises CheckpointError if damaged, or a newer version's."""
    path = folder / INDEX
    try:
        index = dict(json.loads(path.read_text("utf-8")))
        settings, _, _ = dict(index["settings"]), dict(index["fingerprints"]), dict(index["text_encoder"])
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; name the folder of a saved model") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path}: damaged; copy or download the model again") from None
    _refuse_unknown(path, settings, known)
    return index


def load_mapper(folder: Path) -> Mapper:
    """The mapper of a folder, on torch's default device. Raises CheckpointError if damaged, or a newer version's."""
    path = folder / "config.json"
    try:
        config = dict(json.loads(path.read_text("utf-8")))
        name = str(config["_class_name"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path}: missing or damaged; copy or download the model again") from None
    if name not in FAMILIES:
        raise CheckpointError(f"{path}: unknown mapper {name}; known: {', '.join(FAMILIES)}; update bridge")
    _refuse_unknown(path, config, list(inspect.signature(FAMILIES[name].__init__).parameters))
    return open_module(FAMILIES[name], folder)


def _refuse_unknown(path: Path, settings: Iterable[str], known: Iterable[str]) -> None:
    if unknown := sorted({name for name in settings if not name.startswith("_")} - set(known)):
        raise CheckpointError(f"{path}: unknown setting {unknown[0]!r}, a newer version's; update bridge")
