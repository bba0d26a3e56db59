"""What commands share: models, captions and files by the command line, and errors that name its arguments."""

import argparse
import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.captions import well_formed
from bridge.errors import UserError
from bridge.streams import read_input
from bridge.textfile import WESTERN, EncodingError, decode, split_lines
from bridge.writing import tell

if TYPE_CHECKING:
    from bridge.pipeline import BridgePipeline

_ESCAPES = str.maketrans(
    {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}
    | {c: f"\\u{ord(c):04x}" for c in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"}
)


def open_model(args: argparse.Namespace) -> "BridgePipeline":
    """The model of the command line, or that of its captioned pictures. Raises UserError if it cannot be opened."""
    from bridge.pipeline import BridgePipeline  # noqa: PLC0415

    if getattr(args, "pairs", None) is None:
        with prefixed(args.options["model"], "model"):
            return BridgePipeline.from_pretrained(args.model)
    return BridgePipeline.from_pairs(
        args.pairs,
        args.model,
        with_default=args.with_default,
        caption_column=args.caption_column,
        image_column=args.image_column,
        names=args.names,
        say=tell,
    )


def read_captions(captions: Sequence[str], file: str | None) -> list[str]:
    """Captions of the command line, and those of a file, a line each, blank ones left out; "-" is standard input.

    Raises UserError if there is none, or the file cannot be read.
    """
    if file is None:
        if not captions:
            raise UserError("CAPTION: none given; pass one in quotes, or --captions FILE")
        return list(captions)
    name = "standard input" if file == "-" else file
    data = read_input() if file == "-" else read_file(file, "--captions")
    try:
        text, encoding = decode(data)
    except EncodingError as error:
        raise UserError(f"--captions: {name}: {error}") from None
    if encoding == WESTERN:
        tell(f"warning: {name} is not UTF-8 text; it is read as {WESTERN}")
    lines = [line.strip() for line in split_lines(text) if line.strip()]
    if not lines:
        raise UserError(f"--captions: {name} holds no caption; write one a line")
    return [*captions, *lines]


def as_caption(text: str) -> str:
    """A caption as it was typed, whatever the encoding of terminal and locale."""
    if well_formed(text) == text:
        return text
    halves = re.search("[\ud800-\udc7f\udd00-\udfff]", text)  # of characters, not bytes that were no text
    try:
        caption, encoding = (well_formed(text), "") if halves else decode(os.fsencode(text))
    except EncodingError:
        caption, encoding = well_formed(text), ""
    if encoding != "utf-8":  # which it is where the locale knows no UTF-8
        tell(f"warning: {text!r} is not UTF-8 text; it is read as {caption!r}")
    return caption


def check_caption(argument: str, caption: str | None, pipe: "BridgePipeline") -> None:
    """Raise UserError if the text encoder cannot read a caption, where there is one."""
    if caption is not None:
        with prefixed(f"{argument}: {caption[:40]!r}", "caption"):
            pipe.text_encoder.prepare(caption)


def read_file(file: str, argument: str) -> bytes:
    """The bytes of a file. Raises UserError if it cannot be read."""
    try:
        return Path(file).read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error  # a null byte in a name is a ValueError
        raise UserError(f"{argument}: cannot read {file}: {why}; check the path") from None


@contextlib.contextmanager
def prefixed(argument: str, *names: str) -> Iterator[None]:
    """Let errors begin with an argument, in place of the name, one of `names`, that they begin with."""
    try:
        yield
    except UserError as error:
        message = " ".join(str(error).split())
        for name in (argument, *names):
            message = message.removeprefix(f"{name}: ")
        raise UserError(f"{argument}: {message}") from error


@contextlib.contextmanager
def writing(argument: str) -> Iterator[None]:
    """A block that writes below an argument's folder; what a disk refuses is a UserError that names the argument."""
    try:
        with prefixed(argument):
            yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        message = f"{argument}: {where}{error.strerror or error}; make room or choose another folder"
        raise UserError(f"{message}; what was written before stands") from error


def field(text: str) -> str:
    r"""A field of a table whose columns are parted by tabs; tabs, line breaks and \ are escaped by \.

    >>> print(field("a\tb"))
    a\tb
    """
    return text.translate(_ESCAPES)


def print_path(path: Path) -> None:
    """Print a path on a line: as it is, unless it would take several, which are escaped as in `field`."""
    print(path if len(str(path).splitlines()) == 1 else field(str(path)), flush=True)
