"""What callers give: captions, seeds, generators and numbers, whatever type they come in. Importing this is cheap."""

import operator
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bridge.errors import UserError

N = TypeVar("N", int, float)
MAX_IMAGES_PER_PROMPT = 100_000  # in one call


class Text(NamedTuple):
    """A caption and what its argument is called."""

    text: str
    name: str


def texts(given: Any, name: str) -> Iterator[Text]:
    """Captions of an argument that takes one or several; the argument is checked at once, each in its turn.

    Raises UserError if it is neither, or one of them is no text.
    """
    if getattr(given, "ndim", None) == 0:
        given = given.item()  # numpy's
    if isinstance(given, str):
        return iter([Text(str(given), name)])
    if isinstance(given, bytes | bytearray | Mapping | Set) or not isinstance(given, Iterable):
        raise UserError(f"{name}: expected a caption or a list of captions, got {type(given).__name__}; pass text")
    return (_text(text, f"{name}[{place}]") for place, text in enumerate(given))


def negatives_of(given: Any, prompts: int) -> list[Text | None]:
    """A negative caption for each of so many prompts, or None: of one caption for all, or one each.

    Raises UserError if it is neither, or one of them is no text.
    """
    name = "negative_prompt"
    if given is None or isinstance(given, str):
        return [None if given is None else Text(str(given), name)] * prompts
    if not isinstance(given, Sequence) or isinstance(given, bytes | bytearray):
        raise UserError(f"{name}: expected a caption, or one for each prompt, got {type(given).__name__}; pass text")
    if len(given) != prompts:
        raise UserError(f"{name}: expected a caption, or a list of {prompts}, one for each prompt, got {len(given)}")
    return [None if text is None else _text(text, f"{name}[{place}]") for place, text in enumerate(given)]


def _text(text: Any, name: str) -> Text:
    if not isinstance(text, str):
        raise UserError(f"{name}: expected a caption, got {type(text).__name__} {str(text)[:40]}; pass text")
    return Text(str(text), name)


def check_count(count: Any, name: str = "num_images_per_prompt") -> int:
    """`count`, if it is a whole number from 1 to MAX_IMAGES_PER_PROMPT; see `whole`."""
    return whole(count, name, 1, MAX_IMAGES_PER_PROMPT)


def whole(value: Any, name: str, low: int | None = None, high: int | None = None) -> int:
    """A whole number from `low` to `high`, of Python's, numpy's or torch's; else UserError that begins with `name`."""
    result = _converted(value, operator.index)
    if result is None or not (low is None or low <= result) or not (high is None or result <= high):
        span = "" if low is None or high is None else f" from {low} to {high}"
        raise UserError(f"{name}: expected a whole number{span}, got {_shown(value)}")
    return result


def number(value: Any, name: str, low: float, high: float) -> float:
    """A number from `low` to `high` of Python's, numpy's or torch's, whole ones as int; else UserError as `whole`."""
    result: float | None = None
    if not (getattr(value, "ndim", 0) > 0 or isinstance(value, str | bytes)):
        result = _converted(value, operator.index)
        if result is None:
            result = _converted(value, float)
    if result is None or not low <= result <= high:
        raise UserError(f"{name}: expected a number from {low} to {high}, got {_shown(value)}")
    return result


def check_one_of(value: Any, name: str, known: Sequence[str]) -> None:
    """Raise UserError, which begins with `name`, unless `value` is one of the words `known`."""
    if value not in known:
        raise UserError(f"{name}: expected one of {', '.join(known)}, got {value!r}")


def _converted(value: Any, convert: Callable[[Any], N]) -> N | None:
    """A number by `operator.index` or `float`; None if it is none, or True or False, also numpy's or torch's."""
    if isinstance(value, bool) or "bool" in str(getattr(value, "dtype", "")):
        return None
    try:
        return convert(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # of a number of more digits than Python writes
        return "a number without end"
    return text if len(text) <= 60 else f"{text[:60]}…"


def check_file_name(path: Path, *endings: str, argument: str = "--out") -> None:
    """Raise UserError if a file to write is a folder, or ends in none of `endings` ("" is no ending)."""
    if path.is_dir():
        raise UserError(f"{argument}: {path} is a folder; name a file, such as {path / f'picture{endings[0]}'}")
    if path.suffix.lower() not in endings:
        expected = " or ".join(filter(None, endings))
        raise UserError(f"{argument}: {path} does not end in {expected}; name it {path.with_suffix(endings[0])}")


def writable_folder(path: str | Path, argument: str = "--out") -> Path:
    """The folder for results, made if missing. UserError if nothing can be written there, which is tried."""
    out = Path(path)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UserError(f"{argument}: cannot write to {out}: {error.strerror}; name another folder") from error
    return out
