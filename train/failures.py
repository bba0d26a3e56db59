"""What can stop a run: errors told in one line, and signals that let the step in progress finish."""

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from bridge.errors import UserError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM)


class ResumeError(UserError):
    """A run folder that cannot be gone on with, naming what differs."""


class DamagedError(ResumeError):
    """A checkpoint that is not as it was written."""


class LockedError(ResumeError):
    """A run folder that another process trains in."""


class TrainingError(UserError):
    """Training stopped: the loss or its gradient is not finite, or nothing can be saved."""


class SaveError(TrainingError):
    """The disk refuses: full, read-only or broken. The last checkpoint stands."""


class Stopped(SystemExit):
    """A signal stopped training and all is saved; `code` is 130 after Ctrl-C, 143 after SIGTERM."""


@contextlib.contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn what a disk refuses to a block that writes below `out` into one line.

    Raises:
        SaveError: Says what the system says, and that the last checkpoint stands.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise SaveError(
            f"{out}: cannot write: {error.strerror}; the last checkpoint stands; "
            "make room or mend the disk, then the same command goes on"
        ) from error


class StopRequest:
    """Notes Ctrl-C and SIGTERM while its block runs, instead of dying of them.

    The first signal only sets `number`. After it a Ctrl-C kills at once, as if nobody listened, whatever is in
    progress; further SIGTERMs change nothing, because launchers send several. Outside the main thread, where
    Python cannot listen, nothing changes.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if not self.number:
            self.number = number
            os.write(2, b"\nstopping: this step ends, then the run is saved; Ctrl-C quits at once\n")


def stopped(number: int, step: int, steps: int, checkpoint: Path, *, tell: bool) -> Stopped:
    """What to raise after a signal and a save; where `tell`, says on stderr how to resume. `steps` 0: not counted."""
    if tell:
        name = signal.Signals(number).name
        of = f" of {steps}" if steps else ""
        told = f"stopped by {name} after step {step}{of}; saved in {checkpoint}"
        print(f"{told}; the same command goes on from there", file=sys.stderr)
    return Stopped(128 + number)
