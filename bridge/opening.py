"""What a model folder holds: JSON, and modules of diffusers with their configurations and identities."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging
from safetensors import SafetensorError
from torch import nn

from bridge.checkpoint import CheckpointError
from bridge.errors import first_line

CONFIG = "config.json"


def fingerprint(module: nn.Module, config: Mapping[str, Any]) -> str:
    """Identity of weights and configuration, 16 hex digits; equal on every device.

    Keys of `config` that start with "_", diffusers' own, do not count.
    Raises CheckpointError if the state of `module` holds anything but tensors, as when it is quantised.

    >>> fingerprint(nn.Identity(), {"width": (2, 3)}) == fingerprint(nn.Identity(), {"width": [2, 3]})
    True
    """
    public = {key: value for key, value in config.items() if not key.startswith("_")}
    digest = hashlib.sha256(json.dumps(public, sort_keys=True).encode())
    for name, value in sorted(module.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{type(module).__name__}: {name} is no tensor; undo what was quantised or replaced")
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()[:16]


def read_config(folder: Path, what: str = "codec", known: Iterable[str] | None = None) -> dict[str, Any]:
    """The config.json of a module. Raises CheckpointError if missing or damaged, or of a class not `known`."""
    config = read_object(folder / CONFIG, what, {"_class_name": str})
    if known is not None and (name := config["_class_name"]) not in known:
        names = ", ".join(known)
        raise CheckpointError(f"{folder / CONFIG}: unknown {what} {name!r}; known: {names}; update bridge")
    return config


def read_object(path: Path, what: str, needed: Mapping[str, type]) -> dict[str, Any]:
    """A JSON object in the folder of a saved `what`, its entries `needed` of these types. Raises CheckpointError."""
    try:
        whole = dict(json.loads(path.read_text("utf-8")))
        return whole | {name: kind(whole[name]) for name, kind in needed.items()}
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path}: missing; name the folder of a saved {what}") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(f"{path}: damaged; copy or download the {what} again") from None


def refuse_unknown(path: Path, settings: Iterable[str], known: Iterable[str]) -> None:
    """Raise CheckpointError if a file has settings, diffusers' own apart, that are not among `known`."""
    if unknown := sorted({name for name in settings if not name.startswith("_")} - set(known)):
        names = ", ".join(map(repr, unknown))
        raise CheckpointError(f"{path}: unknown setting {names}, a newer version's; update bridge")


def open_module(model: Any, folder: Path) -> Any:
    """The module that diffusers saved in a folder, every weight of it read.

    Raises CheckpointError if a file is missing or damaged, is no safetensors file, or lacks weights.
    """
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # what it would warn of is an error here
    try:
        options = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
        module, report = model.from_pretrained(folder, **options)
    except (OSError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: cannot be opened ({first_line(error)}); only whole safetensors are loaded"
        ) from error
    finally:
        logging.set_verbosity(level)
    if report["missing_keys"]:
        raise CheckpointError(f"{folder}: the weights lack {sorted(report['missing_keys'])[0]}; download it again")
    for tensor in (*module.parameters(), *module.buffers()):
        # A mapped file's lie at any address, where matrix products may round otherwise.
        tensor.data = tensor.data.clone()
    return module
