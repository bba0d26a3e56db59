"""What commands share: refusals in one line that name the argument, inputs, outputs."""

import argparse
import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.captions import well_formed
from bridge.errors import UserError
from bridge.streams import read_input
from bridge.textfile import WESTERN, EncodingError, decode, split_lines
from bridge.writing import tell

if TYPE_CHECKING:
    from bridge.pipeline import BridgePipeline, GeneratedImage
    from bridge.writing import Writer

RENDERING = {"size": "--size", "transparent": "--transparent", "svg": "--svg"}
"""Arguments of rendering -> what they are called on the command line."""


def read_captions(captions: Sequence[str], file: str | None) -> list[str]:
    """Captions of the command line, and those of a file, a line each, blank ones left out; "-" is standard input.

    Raises UserError if there is none, or the file cannot be read.
    """
    if not captions and file is None:
        raise UserError("CAPTION: none given; pass one in quotes, or --captions FILE")
    if file is None:
        return list(captions)
    name = "standard input" if file == "-" else file
    data = read_input() if file == "-" else read_file(file, "--captions")
    try:
        text, encoding = decode(data)
    except EncodingError as error:
        raise UserError(f"--captions: {name}: {error}") from None
    if encoding == WESTERN:
        tell(f"warning: {name} is not UTF-8 text; it is read as {WESTERN}")
    found = [line.strip() for line in split_lines(text) if line.strip()]
    if not found:
        raise UserError(f"--captions: {name} holds no caption; write one a line")
    return [*captions, *found]


def read_file(file: str, argument: str) -> bytes:
    """What a file holds. Raises UserError if it cannot be read."""
    try:
        return Path(file).read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error  # a null byte in a name is a ValueError
        raise UserError(f"{argument}: cannot read {file}: {why}; check the path") from None


def check_out(
    out: Path, inputs: Mapping[str, str], endings: Sequence[str] = (".png",), argument: str = "--out"
) -> None:
    """Raise UserError if a file to write is a folder, ends like one of another kind, or is one of `inputs`.

    `inputs` are pictures or captions by their arguments; the first of `endings` is what the file is told to have.
    """
    if out.is_dir():
        raise UserError(f"{argument}: {out} is a folder; name a file, such as {out / f'picture{endings[0]}'}")
    if out.suffix.lower() not in (*endings, *("" for ending in endings if ending == ".png")):
        kind = endings[0][1:].upper()
        raise UserError(f"{argument}: {out} would hold a {kind}; name it {out.with_suffix(endings[0])}")
    for given, name in inputs.items():
        same = False
        with contextlib.suppress(OSError, ValueError):  # one of them is no file
            same = out.samefile(name)
        if same:
            raise UserError(f"{argument}: {out} is {given} itself and would be lost; name another file")


def load_model(name: str, argument: str = "--model") -> "BridgePipeline":
    """Open a model. Raises UserError if it cannot be opened."""
    with prefixed(argument), words({"model": argument}):
        from bridge.pipeline import BridgePipeline  # noqa: PLC0415

        return BridgePipeline.from_pretrained(name)


def learn_model(args: argparse.Namespace, argument: str) -> "BridgePipeline":
    """The model of somebody's captioned pictures. Raises UserError if they cannot be read."""
    options = {"model": "--model", "with_default": "--with-default", "names": "--captions-from"}
    with words(options | {"source": argument, "pairs": argument}):
        from bridge.pipeline import BridgePipeline  # noqa: PLC0415

        return BridgePipeline.from_pairs(
            args.pairs,
            args.model,
            with_default=args.with_default,
            caption_column=args.caption_column,
            image_column=args.image_column,
            names=args.captions_from,
            say=tell,
        )


def check_caption(argument: str, caption: str, pipe: "BridgePipeline") -> None:
    """Raise UserError if the text encoder cannot read a caption."""
    try:
        pipe.text_encoder.prepare(caption)
    except UserError as error:
        raise UserError(f"{argument}: {caption[:40]!r}: {str(error).removeprefix('caption: ')}") from None


@contextlib.contextmanager
def words(options: Mapping[str, str]) -> Iterator[None]:
    """Let errors name the command line's arguments; `options` says what Python's are called there."""
    try:
        yield
    except UserError as error:
        raise UserError(renamed(str(error), options)) from error


def renamed(message: str, options: Mapping[str, str]) -> str:
    """A message that begins with an argument's name, or quotes longer ones, in the words of the command line.

    >>> renamed("steps: 3 steps at num_inference_steps 2", {"steps": "--steps", "num_inference_steps": "-k"})
    '--steps: 3 steps at -k 2'
    """
    for name, option in options.items():
        message = re.sub(rf"^{name}(\[\d+\])?(?=[:,])" + (rf"|\b{name}\b" if "_" in name else ""), option, message)
    return message


@contextlib.contextmanager
def prefixed(argument: str) -> Iterator[None]:
    """Let errors begin with an argument, unless they do."""
    try:
        yield
    except UserError as error:
        told = " ".join(str(error).split())
        raise UserError(told if told.startswith(f"{argument}: ") else f"{argument}: {told}") from error


@contextlib.contextmanager
def writing(argument: str) -> Iterator[None]:
    """A block that writes below an argument's folder; what a disk refuses is a UserError that names the argument."""
    try:
        with prefixed(argument):
            yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        told = f"{argument}: {where}{error.strerror or error}; make room or choose another folder"
        raise UserError(f"{told}; what was written before stands") from error


def as_caption(text: str) -> str:
    """A caption as it was typed, whatever the encoding of terminal and locale."""
    if well_formed(text) == text:
        return text
    halves = re.search("[\ud800-\udc7f\udd00-\udfff]", text)  # of characters, not bytes that were no text
    try:
        found, encoding = (well_formed(text), "") if halves else decode(os.fsencode(text))
    except EncodingError:
        found, encoding = well_formed(text), ""
    if encoding != "utf-8":  # which it is where the locale knows no UTF-8
        tell(f"warning: {text!r} is not UTF-8 text; it is read as {found!r}")
    return found


_FIELD = str.maketrans(
    {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}
    | {c: f"\\u{ord(c):04x}" for c in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"}
)


def field(text: str) -> str:
    r"""A field of a table whose columns are parted by tabs; tabs, line breaks and \ are escaped by \.

    >>> print(field("a\tb"))
    a\tb
    """
    return text.translate(_FIELD)


def one_line(path: Path) -> str:
    """A path as a line: as it is, unless it would take several, which are escaped as in `field`."""
    return str(path) if len(str(path).splitlines()) == 1 else field(str(path))


def check_rendering(pipe: "BridgePipeline", args: argparse.Namespace) -> None:
    """Raise UserError if --size, --transparent or --svg cannot be had of a model."""
    with words(RENDERING):
        pipe.codec.check_render(args.size, args.transparent)
        if args.svg:
            from bridge.svg import check_traceable  # noqa: PLC0415

            check_traceable(pipe.codec)


def write_picture(writer: "Writer", pipe: "BridgePipeline", item: "GeneratedImage", args: argparse.Namespace) -> Path:
    """Write an image, its line of the manifest and, where the command line asks for one, its SVG; returns its path."""
    svg = None
    with writing("--out"):
        if args.svg and item.latent is not None:
            from bridge.svg import trace  # noqa: PLC0415

            svg = trace(pipe.codec, item.latent, transparent=args.transparent, title=item.prompt)
        return writer.write(item, svg)
