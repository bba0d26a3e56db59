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

STOPPED = 128 + signal.SIGINT  # Exit code after Ctrl-C
_GONE = (errno.EPIPE, errno.EINVAL, errno.EBADF)  # Nobody reads it any more; on Windows a closed pipe is EINVAL


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """Undecodable bytes as they came, so that names of files stay theirs; all else as \\x, \\u and \\U."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    first = error.object[error.start]
    if "\udc80" <= first <= "\udcff":  # a byte that surrogateescape once took
        return first.encode("ascii", "surrogateescape"), error.start + 1
    return first.encode("ascii", "backslashreplace").decode(), error.start + 1


codecs.register_error("bridge.escape", _escaped)


class _Stream:
    """A standard stream that drops what cannot be written; `trouble` says why, unless its reader has gone."""

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

    `work` has `sys.stdout` and `sys.stderr` made safe, and returns the exit code. What a stream cannot encode is
    escaped. A reader of standard output that has gone, as `head` does, is no error, and the work is done to its end; a
    full disk there is reported once, at the end.

    Returns the exit code; 2 where all went well but for standard output.
    """
    # Open what was closed of file descriptors 0 to 2: else the next file opened would be a standard stream.
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
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


@contextlib.contextmanager
def _safe_streams() -> Iterator[_Stream]:
    """A block with safe standard output, which is given, and standard error."""
    before = sys.stdout, sys.stderr
    errors = [(stream, stream.errors) for stream in before if isinstance(stream, io.TextIOWrapper)]
    for stream, _ in errors:
        stream.reconfigure(errors="bridge.escape")
    safe: list[Any] = [_Stream(stream or open(os.devnull, "w", encoding="utf-8")) for stream in before]  # noqa: SIM115
    try:
        with contextlib.redirect_stdout(safe[0]), contextlib.redirect_stderr(safe[1]):
            yield safe[0]
    finally:
        for stream in safe:
            stream.flush()
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
        self.line, self.pressed, self.held = line, False, False

    def __call__(self, _: int, frame: FrameType | None) -> None:
        self.pressed = True
        if self.held:
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
        if handler.pressed:
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
    handler.held = True
    try:
        yield
    finally:
        handler.held = False
        if handler.pressed:
            raise KeyboardInterrupt
