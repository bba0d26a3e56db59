"""Ctrl-C while a command is still importing: one line and exit code 130, from the first import on.

Imports next to nothing itself, so that little can be interrupted before it.
"""

import _signal as signal  # type: ignore[import-not-found]  # the module proper takes a while to import
import os
import sys

STOPPED = 130
"""Exit code of a command that Ctrl-C ended: 128 + SIGINT."""


def quit_while_importing() -> None:
    """From here to `interruptible`, Ctrl-C ends a `python -m …` in one line, whatever is being imported.

    For a package's `__init__`, which runs before the module that was asked for; does nothing anywhere else.
    """
    if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _quit)


def interruptible() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt, as is usual."""
    if signal.getsignal(signal.SIGINT) is _quit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _quit(*_: object) -> None:
    # No exception: what is being imported may swallow it, or turn it into an ImportError.
    words = sys.orig_argv
    name = " ".join(["python", *words[words.index("-m") :][:2]]) if "-m" in words else "command"
    os.write(2, f"{name}: stopped\n".encode(errors="replace"))
    os._exit(STOPPED)
