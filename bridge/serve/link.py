"""The settings of the tab Draw as a link's query, and back, whatever somebody has put into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any
from urllib.parse import urlencode

from bridge.arguments import number
from bridge.errors import UserError
from bridge.serve.limits import MAX_SEED, PICTURES, captions_of, whole_number

RANGES = {
    "count": (1, PICTURES),
    "seed": (0, MAX_SEED),
    "guidance": (0, 20),
    "temperature": (0, 2),
    "steps": (1, 50),
    "novelty": (-1, 1),
    "size": (64, 1024),
}
"""Least and greatest of each number."""
WHOLE = ("count", "seed", "steps", "size")


@dataclass(frozen=True)
class Fields:
    """What the fields of the tab Draw hold; see `bridge.pipeline.Settings`."""

    captions: str = ""
    count: int = 8
    seed: int = 0
    style: str = ""
    guidance: float = 1.0
    temperature: float = 1.0
    steps: int = 12
    novelty: float = 0.0
    size: int = 128
    transparent: bool = False

    def query(self, default: Fields) -> str:
        """What of a link restores these, where it differs from `default`."""
        own = asdict(self)
        changed = {name: value for name, value in own.items() if value != getattr(default, name)}
        return urlencode({name: int(value) if isinstance(value, bool) else value for name, value in changed.items()})


def restored(query: Mapping[str, str], default: Fields, styles: list[str]) -> tuple[Fields, list[str]]:
    """Fields as a link's query has them, and what of it is left out, a line each; it is text and nothing else.

    Args:
        query: Names and values; unknown names are passed over.
        default: What is not in it.
        styles: Those that the model knows.
    """
    values, wrong = asdict(default), []
    for name in (field.name for field in fields(Fields) if field.name in query):
        try:
            values[name] = _value(name, str(query[name]), styles)
        except UserError as error:
            wrong.append(f"the link's {error}")
    return Fields(**values), wrong


def _value(name: str, text: str, styles: list[str]) -> Any:
    if name == "captions":
        return "\n".join(captions_of(text))
    if name == "style":
        if text not in styles:
            raise UserError("style: is none that this model knows")
        return text
    if name == "transparent":
        return text == "1"
    try:
        value = float(text[:40])
    except ValueError:
        value = float("nan")
    low, high = RANGES[name]
    found = number(value, name, low, high)
    if name in WHOLE:
        whole = whole_number(found)
        if not isinstance(whole, int):
            raise UserError(f"{name}: expected a whole number")
        return whole
    return found
