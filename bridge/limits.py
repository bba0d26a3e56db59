"""Numbers that callers give: read whatever type they come in, held to their range. Importing this is cheap."""

import math
import operator
from typing import Any

from bridge.errors import UserError

MAX_IMAGES_PER_PROMPT = 100_000
"""Most images of one caption in one call."""


def check_count(count: Any, name: str = "num_images_per_prompt") -> int:
    """`count`, if it is a whole number from 1 to MAX_IMAGES_PER_PROMPT; see `whole`.

    >>> check_count(8)
    8
    """
    return whole(count, name, 1, MAX_IMAGES_PER_PROMPT)


def whole(value: Any, name: str, low: int | None = None, high: int | None = None) -> int:
    """A whole number from `low` to `high`, of Python's, numpy's or torch's; else UserError that begins with `name`.

    >>> import numpy
    >>> whole(numpy.int64(3), "steps", 1, 9)
    3
    """
    try:
        result = None if _is_bool(value) else operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        result = None
    if result is None or not (low is None or low <= result) or not (high is None or result <= high):
        span = "" if low is None or high is None else f" from {low} to {high}"
        raise UserError(f"{name}: expected a whole number{span}, got {_shown(value)}")
    return result


def number(value: Any, name: str, low: float, high: float) -> float:
    """A number from `low` to `high`, of Python's, numpy's or torch's, whole ones as int; else UserError, see `whole`.

    >>> import numpy
    >>> number(numpy.float32(0.5), "scale", -1, 1)
    0.5
    """
    if isinstance(value, int) and not _is_bool(value):
        result: float = value
    else:
        try:
            result = math.nan if _is_bool(value) or isinstance(value, str | bytes) else _float_or_int(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            result = math.nan
    if not low <= result <= high:
        raise UserError(f"{name}: expected a number from {low} to {high}, got {_shown(value)}")
    return result


def _float_or_int(value: Any) -> float:
    if getattr(value, "ndim", 0):
        raise TypeError("a row of numbers")
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):
        return float(value)


def _is_bool(value: Any) -> bool:
    """Whether it is True or False, also numpy's or torch's."""
    return isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # of a number of more digits than Python writes
        return "a number without end"
    return text if len(text) <= 60 else f"{text[:60]}…"
