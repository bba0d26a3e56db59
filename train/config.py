"""One YAML file a run: data only, read into a dataclass, unknown names refused."""

from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from bridge.errors import UserError

T = TypeVar("T")


class ConfigError(UserError):
    """A configuration that cannot be read, naming the file, the key and the remedy."""


def from_mapping(cls: type[T], values: Any, where: str) -> T:
    """Build a dataclass from a mapping, nested dataclasses included.

    Args:
        cls: The dataclass.
        values: What the YAML says.
        where: What to call this place in an error.

    Raises:
        ConfigError: `values` is no mapping, has an unknown key, lacks a required one, or is out of range.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected a mapping of settings, got {type(values).__name__}")
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known)):
        raise ConfigError(f"{where}: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    required = {n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
    if missing := sorted(required - set(values)):
        raise ConfigError(f"{where}: missing {', '.join(missing)}")
    converted = {name: _convert(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    try:
        return cls(**converted)
    except ConfigError:
        raise
    except ValueError as error:  # what the dataclass itself refuses
        raise ConfigError(f"{where}: {error}") from error


def _convert(kind: Any, value: Any, where: str) -> Any:
    if is_dataclass(kind):
        return from_mapping(kind, value, where)  # type: ignore[arg-type]
    if kind is Path:
        return Path(value)
    if isinstance(value, list):
        return tuple(value)
    if kind is float and isinstance(value, int | float | str):
        try:
            return float(value)  # YAML 1.1 reads 1e-3 as a string
        except ValueError as error:
            raise ConfigError(f"{where}: expected a number, got {value!r}") from error
    if kind in (int, bool, str) and type(value) is not kind:
        raise ConfigError(f"{where}: expected {kind.__name__}, got {value!r}")
    return value


def load_config(path: Path, cls: type[T]) -> T:
    """Read a YAML file into a dataclass.

    Raises:
        ConfigError: The file is missing, is not YAML, or does not fit the dataclass.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; configurations live in configs/") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    return from_mapping(cls, values, str(path))
