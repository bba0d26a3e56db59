"""One process a run folder: a lock that dies with whoever holds it."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from train.failures import LockedError, ResumeError

NAME = ".lock"


@contextlib.contextmanager
def run_lock(out: Path) -> Iterator[None]:
    """Hold the run folder `out`, made where it is missing, while the block runs.

    The kernel lets go when the process dies, however it dies, so nothing is ever stale; the file `.lock` stays
    behind and means nothing by itself. Children of a fork share the lock until they end too.

    On NFS the lock is as good as the server's lock service: a share mounted with `nolock` or `local_lock=flock`
    keeps out other processes of the same machine only. Linux and macOS; Windows has no `flock`.

    Raises:
        LockedError: Another process holds it; names the process and its machine.
        ResumeError: The folder cannot be written to.
    """
    with _opened(out) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(f"{out}: {_holder(file)}; wait for its end, stop it, or name another `out`") from None
        except OSError as error:
            raise ResumeError(f"{out}: cannot be locked: {error.strerror}; name an `out` on a local disk") from error
        with contextlib.suppress(OSError):  # a full disk: locked all the same, only nameless
            _sign(file)
        yield


def _opened(out: Path) -> IO[bytes]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        return os.fdopen(os.open(out / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b", buffering=0)
    except OSError as error:
        raise ResumeError(f"{out}: cannot be written to: {error.strerror}; name another `out`") from error


def _sign(file: IO[bytes]) -> None:
    file.truncate(0)
    file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())


def _holder(file: IO[bytes]) -> str:
    try:
        owner = json.loads(file.read())
        return f"process {int(owner['pid'])} on {owner['host']} trains there"
    except (ValueError, KeyError, TypeError):
        return "another process trains there"
