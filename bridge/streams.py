"""Standard streams that cannot break a command, and Ctrl-C that ends it in one line. Importing this is cheap."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from bridge.errors import UserError

STOPPED = 128 + signal.SIGINT
"""Exit code after Ctrl-C."""
_GONE = (errno.EPIPE, errno.EINVAL, errno.EBADF)
"""Errors of a stream that nobody reads any more; on Windows a closed pipe is EINVAL."""


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """Undecodable bytes as they came, so that names of files stay theirs; all else as \\x, \\u and \\U."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    if not any("\ud800" <= ch <= "\udfff" for ch in text):
        return codecs.backslashreplace_errors(error)
    parts = [
        bytes([ord(ch) - 0xDC00]) if "\udc80" <= ch <= "\udcff" else ch.encode("ascii", "backslashreplace")
        for ch in text
    ]
    return b"".join(parts), error.end


codecs.register_error("bridge.escape", _escaped)


class _Stream:
    """A standard stream that takes everything: what cannot be written is dropped, and `trouble` says why.

    A reader that has gone is no trouble.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.trouble: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._dropping():
            self._stream.flush()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _GONE:
                self.trouble = self.trouble or error
            with contextlib.suppress(OSError, ValueError):  # the rest of its buffer goes nowhere, and without an error
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)


def guarded(name: str, work: Callable[[], int]) -> int:
    """Run a command whatever its standard streams are: closed, full, read by nobody, of any encoding.

    What a stream cannot encode is escaped. A reader of standard output that has gone, as `head` does, is no error, and
    the work is done to its end; a full disk there is told once, at the end.

    Args:
        name: How the command is called.
        work: Does it, with `sys.stdout` and `sys.stderr` made safe; returns the exit code.

    Returns its exit code; 2 where all went well but for standard output.
    """
    _fill_gaps()
    with _safe_streams() as out:
        try:
            code, stop = work(), None
        except SystemExit as error:
            code, stop = error.code if isinstance(error.code, int) else int(error.code is not None), error
        out.flush()
        if out.trouble is not None and not code:
            print(f"{name}: standard output: {out.trouble.strerror}; what it lacks was not printed", file=sys.stderr)
            return 2
        if stop is not None:
            raise stop
        return code


def _fill_gaps() -> None:
    """Open what was closed of file descriptors 0 to 2: else the next file opened would be a standard stream."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


@contextlib.contextmanager
def _safe_streams() -> Iterator[_Stream]:
    """A block with safe standard output, which is given, and standard error."""
    before, errors = (sys.stdout, sys.stderr), []
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        if isinstance(stream, io.TextIOWrapper):
            errors.append((stream, stream.errors))
            stream.reconfigure(errors="bridge.escape")
        safe = _Stream(stream if stream is not None else open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        setattr(sys, name, safe)
    safe_streams: tuple[Any, Any] = sys.stdout, sys.stderr
    try:
        yield safe_streams[0]
    finally:
        for safe in safe_streams:
            safe.flush()
        sys.stdout, sys.stderr = before
        for stream, handler in errors:
            if not stream.closed:
                stream.reconfigure(errors=handler)


def read_input() -> bytes:
    """All of standard input. Raises UserError if it is closed, or cannot be read."""
    if sys.stdin is None or sys.stdin.closed:
        raise UserError("standard input: it is closed; pipe captions in, or name a file")
    try:
        buffer = getattr(sys.stdin, "buffer", None)
        return buffer.read() if buffer is not None else sys.stdin.read().encode("utf-8", "surrogateescape")
    except OSError as error:
        raise UserError(f"standard input: {error.strerror}; pipe captions in, or name a file") from None


class _Interrupt:
    """A handler of Ctrl-C: see `interruptible` and `uninterrupted`."""

    def __init__(self, line: str) -> None:
        self.line, self.noted, self.held, self.waiting = line, False, 0, False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        del number
        self.noted = True
        if self.held:
            self.waiting = True
            return
        while frame is not None:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                # What is being imported may swallow an exception, or take it for a module that is missing.
                os.write(2, f"{self.line}\n".encode("utf-8", "replace"))
                os._exit(STOPPED)
            frame = frame.f_back
        raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible(line: str) -> Iterator[None]:
    """A block that Ctrl-C ends as KeyboardInterrupt, whatever libraries make of that.

    While something is imported, the process ends at once with `line` on standard error and exit code 130.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # in the background it is ignored, and so it stays
        return
    handler = _Interrupt(line)
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    except Exception as error:
        if handler.noted:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """A short block of an `interruptible` one which Ctrl-C does not cut in two: it acts when the block ends."""
    handler = signal.getsignal(signal.SIGINT)
    if not isinstance(handler, _Interrupt):
        yield
        return
    handler.held += 1
    try:
        yield
    finally:
        handler.held -= 1
        if handler.waiting and not handler.held:
            handler.waiting = False
            raise KeyboardInterrupt
