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
KIND_NAMES = {int: "a whole number", bool: "true or false", str: "text", Path: "a path"}


class ConfigError(UserError):
    """A configuration that cannot be read, naming the file, the key and the remedy."""


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
    """A value of YAML as the type that a dataclass wants."""
    if value is None:
        raise ConfigError(f"{where}: has no value; give it one, or remove the line for its default")
    if is_dataclass(kind):
        return from_mapping(kind, value, where)  # type: ignore[arg-type]
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: expected a list, got {value!r}")
        return tuple(_convert(get_args(kind)[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    if get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected a mapping of settings, got {value!r}")
        return {name: _plain(one, f"{where}: {name}") for name, one in value.items()}
    if kind is Path and isinstance(value, str) and value and "\0" not in value:
        return Path(value)
    if kind is float:
        return _finite(value, where)
    if type(value) is not kind:
        raise ConfigError(f"{where}: expected {KIND_NAMES.get(kind, kind.__name__)}, got {value!r}")
    return value


def _finite(value: Any, where: str) -> float:
    number = math.nan
    if type(value) in (int, float, str):
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)  # YAML 1.1 reads 1e-3 as a string
    if not math.isfinite(number):
        raise ConfigError(f"{where}: expected a finite number, got {value!r}")
    return number


def _plain(value: Any, where: str) -> Any:
    """A value whose type nobody declared."""
    if value is None:
        return _convert(Any, value, where)
    if isinstance(value, str):
        with contextlib.suppress(ConfigError):
            return _finite(value, where)
    return tuple(value) if isinstance(value, list) else value


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
    for name, other in (others or {}).items():
        if isinstance(values, dict) and name in values:
            cls = other
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
    argv: Sequence[str] | None,
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
