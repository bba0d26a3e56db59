"""One YAML file a run: data only, read into a dataclass, unknown names refused."""

import argparse
import contextlib
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from bridge.errors import UserError
from train.command import Parser, blaming, run_command, say

T = TypeVar("T")
KIND_NAMES: dict[type, str] = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
KIND_NAMES |= {Path: "a path", tuple: "a list", dict: "a mapping of settings"}


class ConfigError(UserError):
    """A configuration that cannot be read, naming the file, the key and the remedy."""


def check(config: object, names: str, expected: str, fits: Callable[[Any], object]) -> None:
    """Raise ConfigError for the first of some settings of a dataclass, `names` apart by spaces, that does not fit."""
    for name in names.split():
        if not fits(value := getattr(config, name)):
            raise ConfigError(f"{name}: expected {expected}, got {value!r}")


def from_mapping(cls: type[T], values: Any, where: str) -> T:
    """A dataclass, nested ones included, of what YAML says; else ConfigError, which begins with `where`."""
    if not isinstance(values, dict):
        kind = "nothing" if values is None else type(values).__name__
        raise ConfigError(f"{where}: expected a mapping of settings, got {kind}")
    hints, known = get_type_hints(cls), inspect.signature(cls).parameters
    if unknown := sorted(map(str, set(values) - set(known))):
        raise ConfigError(f"{where}: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    if missing := sorted(name for name in set(known) - set(values) if known[name].default is inspect.Parameter.empty):
        raise ConfigError(f"{where}: missing {', '.join(missing)}")
    converted = {name: _convert(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    try:
        return cls(**converted)
    except UserError as error:  # what the dataclass itself refuses
        raise ConfigError(f"{where}: {error}") from error


def _convert(kind: Any, value: Any, where: str) -> Any:
    """A value of YAML as the type that a dataclass declares."""
    if value is None:
        raise ConfigError(f"{where}: has no value; give it one, or remove the line for its default")
    if is_dataclass(kind):
        return from_mapping(kind, value, where)  # type: ignore[arg-type]
    origin, number = get_origin(kind) or kind, _number(value)
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(get_args(kind)[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {name: _undeclared(one, f"{where}: {name}") for name, one in value.items()}
    if kind is Path and isinstance(value, str) and value and "\0" not in value:
        return Path(value)
    if number is not None and kind is float:
        return number
    if type(value) is not kind or kind is float:
        raise ConfigError(f"{where}: expected {KIND_NAMES.get(origin, origin.__name__)}, got {value!r}")
    return value


def _undeclared(value: Any, where: str) -> Any:
    """A value whose type no dataclass declares."""
    if isinstance(value, str) and (number := _number(value)) is not None:
        return number
    return tuple(value) if isinstance(value, list) else _convert(type(value), value, where)


def _number(value: Any) -> float | None:
    """A finite number, also one that YAML 1.1 reads as text, such as 1e-3; None for anything else."""
    with contextlib.suppress(ValueError, OverflowError):
        if type(value) in (int, float, str) and math.isfinite(number := float(value)):
            return number
    return None


def read_card(path: str) -> str:
    """The text of a model's card; empty without a path. Raises ConfigError if it cannot be read."""
    try:
        return Path(path).read_text("utf-8") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"card: {path} cannot be read ({error}); name a Markdown file, or leave it out") from error


class _Loader(yaml.SafeLoader):
    """Refuses a setting that stands twice, of which yaml takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=deep) for key, _ in node.value]
        if twice := [name for i, name in enumerate(names) if name in names[:i]]:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} stands twice; keep one", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def load_config(path: Path, cls: type[T], others: Mapping[str, type[T]] | None = None) -> T:
    """A YAML file as `cls`, or as that of `others` under a setting which it has. ConfigError if it is no such file."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; configurations live in configs/") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; name a YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    names = values if isinstance(values, dict) else ()
    cls = next((other for name, other in (others or {}).items() if name in names), cls)
    return from_mapping(cls, values, str(path))


@contextlib.contextmanager
def named(setting: str) -> Iterator[None]:
    """A block that opens what a setting names; its errors become a ConfigError that begins with the setting."""
    try:
        yield
    except UserError as error:
        raise ConfigError(f"{setting}: {re.sub(r'^(source|model|data|digest): ', '', str(error))}") from error


def run_config(
    name: str,
    doc: str | None,
    example: str,
    cls: type,
    work: Callable[[Any], object],
    argv: Sequence[str] | None = None,
    others: Mapping[str, type] | None = None,
) -> int:
    """A command that prints what `work` makes of a YAML file, read by `load_config`; returns the exit code."""
    if any(word.split("=")[0] == "--data" for word in (sys.argv[1:] if argv is None else argv)):
        say(f"{name}: --data is now a command of its own: python -m train FOLDER (see python -m train --help)")
        return 2
    parser = Parser(name, doc, f"{name} {example}")
    parser.add_argument("config", metavar="CONFIG", type=Path, help=f"YAML file, such as {example}")

    def run(args: argparse.Namespace) -> None:
        config: Any = load_config(args.config, cls, others)
        with blaming(vars(config)):
            print(work(config))

    return run_command(parser, argv, run)
