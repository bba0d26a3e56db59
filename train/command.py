"""What commands share: words on standard error, exit codes, the folder for results."""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def say(line: str) -> None:
    """Tell whoever waits, on standard error."""
    print(line, file=sys.stderr, flush=True)


def exit_code(name: str, run: Callable[[], None]) -> int:
    """Run a command: 0 when it is done, 2 with one line on standard error for bad input."""
    try:
        run()
    except (ValueError, OSError) as error:
        say(f"{name}: {error}")
        return 2
    return 0


def spelled(name: str, argv: Sequence[str] | None) -> str:
    """The command as it was typed, `argv` absent for the process' own."""
    return shlex.join([*name.split(), *(sys.argv[1:] if argv is None else argv)])


def output_folder(path: str | Path) -> Path:
    """The folder for results, made if missing.

    Raises:
        ValueError: It cannot be made.
    """
    out = Path(path)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out: cannot write to {out} ({error.strerror}); give another folder") from error
    return out
