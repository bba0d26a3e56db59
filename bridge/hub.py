"""Models by name: those that are shipped, folders, and the hub."""

import contextlib
import os
import re
from pathlib import Path

from bridge.checkpoint import INDEX, CheckpointError, recover
from bridge.errors import UserError, first_line

SHIPPED = Path(__file__).parent / "pretrained"
FORMER = "emoji"  # a model that was shipped once
PATTERNS = ["*.json", "*.safetensors", "*.md", "*.txt"]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # owner/name


class HubError(UserError):
    """A repository that cannot be had; the message says why, and begins with its name."""


def snapshot(name: str, patterns: list[str], *, ignored: list[str] | None = None, offline: bool = False) -> Path:
    """The folder in the hub's cache that holds the files of a repository "owner/name", fetched where they are not.

    Raises HubError if there is no such repository, or it is not in the cache and the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=ignored, local_files_only=offline))
    except LocalEntryNotFoundError as error:
        why = "it is not in the hub's cache and the hub cannot be reached (offline?)"
        raise HubError(f"{name!r} is no folder; {why}") from error
    except (OSError, ValueError, HTTPError) as error:
        raise HubError(f"{name!r} is no folder, and the hub has none such ({first_line(error)})") from error


def local_folder(source: str | Path) -> Path | None:
    """The folder of that name, None if there is none; what is no possible name is none."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        folder = Path(source).expanduser()
        recover(folder.resolve())
        return folder if str(source) and folder.is_dir() else None
    return None


def shipped_models() -> list[str]:
    """Names of the models that come with the package, for `resolve_model`."""
    return sorted(index.parent.name for index in SHIPPED.glob(f"*/{INDEX}"))


def resolve_model(model: str | Path) -> Path:
    """The folder of a model: of a shipped name, a folder, or a hub id ("owner/name"), fetched into the hub's cache.

    A name is looked up among the shipped ones first; a `Path` is a folder, whatever it is called.
    Raises CheckpointError if there is no such model, or it cannot be fetched; says what there is.
    """
    names = ", ".join(shipped_models()) or "none"
    if not isinstance(model, str | os.PathLike):
        raise CheckpointError(f"model: expected a name or a folder, got {type(model).__name__}; pass text or a Path")
    if model == FORMER:
        raise CheckpointError(f"model: {FORMER!r} is no longer shipped; `pictures`, which draws at 128 pixels, is")
    if isinstance(model, str) and model in shipped_models():
        return SHIPPED / model
    if (folder := local_folder(model)) is not None:
        return folder
    if not isinstance(model, str):
        raise CheckpointError(f"model: {str(model)!r}: no such folder; a shipped name or a hub id is given as text")
    if not HUB_ID.fullmatch(model):
        reason = f"model: {str(model)!r} is no folder and no shipped model ({names})"
        raise CheckpointError(f"{reason}; a hub id looks like 'owner/name'")
    try:
        return snapshot(str(model), PATTERNS)
    except HubError as error:
        raise CheckpointError(f"model: {error}; shipped models: {names}") from error
