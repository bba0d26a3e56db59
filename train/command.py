"""What all commands share: a parser that errs in one line, exit codes, and words on standard error.

Bad input (a `UserError`, or what a disk refuses) is one line and exit code 2; Ctrl-C is one line and 130; anything else
is a fault of ours and stays a traceback. Importing this module is cheap.
"""

import argparse
import contextlib
import errno
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from bridge.arguments import check_file_name, writable_folder
from bridge.captions import well_formed
from bridge.errors import UserError
from bridge.streams import guarded
from train.starting import STOPPED, interruptible

# What a disk refuses, whoever writes or reads; what is wrong with a path, the user's fault only where the user named it
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM)
PATH = (errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL)


class Parser(argparse.ArgumentParser):
    """An argument parser that errs in one line and whose help ends with an example, one or more command lines."""

    def __init__(self, prog: str, description: str | None, example: str) -> None:
        lines = "\n".join(f"  {line.strip()}" for line in example.strip().splitlines())
        about = (description or "").strip()
        super().__init__(prog, description=about, epilog=f"example:\n{lines}", formatter_class=_Help)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def _get_value(self, action: argparse.Action, text: str) -> Any:
        try:
            return super()._get_value(action, text)
        except argparse.ArgumentError:
            if not isinstance(action.type, Range):
                raise
            raise UserError(f"{_called(action)}: expected {action.type}, got {text!r}") from None

    def paths(self, args: argparse.Namespace) -> dict[str, Any]:
        """What was given, by the name that the user knows each argument by."""
        return {_called(action): getattr(args, action.dest, None) for action in self._actions}


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Paragraphs and examples as they were written, and the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "", [], False, argparse.SUPPRESS) or action.default == [None]:
            return action.help
        text = super()._get_help_string(action)
        if text and isinstance(action.default, list | tuple):
            return text.replace("%(default)s", ", ".join(map(str, action.default)))
        return text


def _called(action: argparse.Action) -> str:
    names = sorted(action.option_strings, key=lambda name: not name.startswith("--"))
    return names[0] if names else str(action.metavar or action.dest).upper()


@dataclass(frozen=True)
class Range:
    """An argument's type: int, or a finite float, from `least` to `most` and greater than `above`."""

    kind: type[int] | type[float]
    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf

    def __call__(self, text: str) -> int | float:
        """The number that a text says. ValueError if it says none, or one out of bounds."""
        value = self.kind(text)
        if not (math.isfinite(value) and self.least <= value <= self.most and value > self.above):
            raise ValueError(text)
        return value

    def __str__(self) -> str:
        name = "a whole number" if self.kind is int else "a finite number"
        if self.above > -math.inf:
            return f"{name} above {self.above:g}"
        if self.most < math.inf:
            return f"{name} from {self.least:g} to {self.most:g}"
        return f"{name} of {self.least:g} or more" if self.least > -math.inf else name


whole, number = partial(Range, int), partial(Range, float)


def say(line: str) -> None:
    """Tell whoever waits, on standard error."""
    print(line, file=sys.stderr, flush=True)


def spelled(name: str, argv: Sequence[str] | None) -> str:
    """The command as it was typed, `argv` absent for the process' own; bytes in it that were no text become "?"."""
    return well_formed(shlex.join([*name.split(), *(sys.argv[1:] if argv is None else argv)]))


def run_command(parser: Parser, argv: Sequence[str] | None, work: Callable[[argparse.Namespace], object]) -> int:
    """Parse `argv`, None for the process' own, and do the work; returns the exit code, see above and `blaming`."""

    def run() -> int:
        see = f" (see {parser.prog} --help)"
        try:
            args, see = parser.parse_args(argv), ""
            interruptible()
            with blaming(parser.paths(args)):
                work(args)
        except UserError as error:
            say(f"{parser.prog}: {' '.join(str(error).split())}{see}")
            return 2
        except KeyboardInterrupt:
            say(f"{parser.prog}: stopped")
            return STOPPED
        return 0

    return guarded(parser.prog, run)


@contextlib.contextmanager
def blaming(paths: Mapping[str, Any]) -> Iterator[None]:
    """Turn what a disk refuses to the block into a UserError that names the argument whose path the file is under.

    What is no path in `paths` is passed over; what is wrong with a path under none of them is raised as it is.
    """
    try:
        yield
    except (BrokenPipeError, ConnectionError):
        raise  # no file's fault
    except OSError as error:
        if error.errno not in DISK + PATH:
            raise
        file = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
        reason = ": ".join(filter(None, [file, error.strerror or str(error)]))
        given = {name: os.path.abspath(path) for name, path in paths.items() if isinstance(path, str | Path) and path}
        above = [name for name, path in given.items() if file and Path(os.path.abspath(file)).is_relative_to(path)]
        if above:
            nearest = max(above, key=lambda name: len(given[name]))
            raise UserError(f"{nearest}: {reason}; name another path, or mend this one") from error
        if error.errno in PATH:
            raise
        raise UserError(f"{reason}; make room or mend the disk, then run the command again") from error


def writable_file(path: str | Path, argument: str = "--out", ending: str = ".png") -> Path:
    """A file for results, its folder made if missing. UserError as `check_file_name` and `writable_folder`."""
    check_file_name(Path(path), ending, argument=argument)
    writable_folder(Path(path).parent, argument)
    return Path(path)
