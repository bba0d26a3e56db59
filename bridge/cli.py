"""The command: bridge generate CAPTION…, interpolate A B, edit IMAGE, score IMAGE….

Standard output carries results alone (paths, or a table), standard error everything else. What is wrong is told
in one line that names the argument and the remedy, with exit code 2, before anything is written; Ctrl-C is one line and
130. An error that is not a `UserError` is a fault of ours and stays a traceback.
"""

import argparse
import contextlib
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from bridge import __version__
from bridge.captions import well_formed
from bridge.errors import UserError
from bridge.manifest import MANIFEST, Manifest
from bridge.streams import STOPPED, guarded, interruptible, read_input
from bridge.textfile import WESTERN, EncodingError, decode, split_lines
from bridge.writing import SHEET_ROWS, Sheet, Writer, save_walk, tell

if TYPE_CHECKING:
    from bridge.explore import End
    from bridge.pipeline import BridgePipeline
    from bridge.score import ScoreMatrix

__all__ = ["MANIFEST", "SHEET_ROWS", "main"]


class UsageError(UserError):
    """Something the user gave cannot be used; the message names it and the remedy."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage and a line."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


SAMPLING = {
    "guidance_scale": "--guidance-scale",
    "num_inference_steps": "--steps",
    "temperature": "--temperature",
    "negative_prompt": "--negative",
    "novelty": "--novelty",
    "style": "--style",
    "size": "--size",
    "transparent": "--transparent",
}
"""Arguments of a pipeline -> what they are called on the command line."""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = _Parser(prog="bridge", description="Captions to several plausible images, and what lies between them.")
    parser.add_argument("--version", action="version", version=f"bridge {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    _add_generate(commands.add_parser("generate", help="several images of each caption"))
    _add_learn(commands.add_parser("learn", help="a model from captioned pictures of your own, without training"))
    _add_interpolate(commands.add_parser("interpolate", help="the pictures between two images or captions"))
    _add_edit(commands.add_parser("edit", help="more of one caption and less of another in an image"))
    _add_score(commands.add_parser("score", help="how well images fit captions, as a table"))
    _add_info(commands.add_parser("info", help="what is in a model: parts, data, figures, fingerprints"))
    _add_push(commands.add_parser("push", help="share a model on the hub"))
    return parser


def _add_generate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("caption", nargs="*", type=_caption, metavar="CAPTION", help="what to draw; quote it")
    add("--captions", metavar="FILE", help="a caption a line, UTF-8; - reads standard input")
    add("-n", type=_count, default=8, metavar="N", help="images of each caption (default 8)")
    add("--out", type=Path, default=Path("out"), metavar="DIR", help="where to write (default out)")
    add("--guidance-scale", type=_number, metavar="G", help="1: as learned; more: closer to the caption")
    add("--steps", type=_whole, metavar="K", help="sampling steps")
    add("--temperature", type=_number, metavar="T", help="0: one image a caption; more: more variety")
    add("--negative", type=_caption, metavar="CAPTION", help="what to move away from")
    add("--pairs", metavar="SOURCE", help="draw from captioned pictures of your own: a folder, a table, a dataset")
    add("--novelty", type=_number, metavar="X", help="0 to 1: how far from the pictures in memory (default 0)")
    add(
        "--style",
        metavar="WORD",
        help="draw from one kind of picture in memory, or with 'not WORD' from the others; see `bridge info`",
    )
    add("--size", type=_whole, metavar="PIXELS", help="side of an image, of a model that draws at any")
    add("--transparent", action="store_true", help="leave the background transparent, of a model that knows it")
    add("--no-sheet", action="store_true", help="no contact sheet")
    _add_source(parser)
    _add_common(parser)


def _add_learn(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("pairs", metavar="SOURCE", help="captioned pictures: a folder, a table, a hub id")
    add("--out", type=Path, required=True, metavar="MODEL", help="the model folder to write")
    _add_source(parser)
    _add_model(parser)


def _add_source(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--with-default", action="store_true", help="keep what --model knows beside your pictures")
    add("--caption-column", metavar="NAME", help="the table's column of captions, if not found by its name")
    add("--image-column", metavar="NAME", help="the table's column of pictures, likewise")
    add("--captions-from", choices=("file", "folder"), default="", help="take file or folder names for captions")


def _add_interpolate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("a", metavar="A", help="an image file, or a caption")
    add("b", metavar="B", help="an image file, or a caption")
    add("--steps", type=_whole, default=9, metavar="N", help="pictures, both ends included (default 9)")
    add("--out", type=Path, default=Path("strip.png"), metavar="FILE", help="PNG to write (default strip.png)")
    add("--frames", type=Path, metavar="DIR", help="write the single pictures there too")
    add("--space", choices=("latent", "noise"), default="latent", help="where to walk (default latent)")
    add("--kind", choices=("linear", "spherical"), help="how (default: linear in latents, spherical in noise)")
    add("--sampling-steps", type=_whole, metavar="K", help="of --space noise (default: the model's)")
    _add_common(parser)


def _add_edit(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("start", metavar="IMAGE", help="an image file, or a caption")
    add("--plus", type=_caption, metavar="CAPTION", help="what to have more of")
    add("--minus", type=_caption, metavar="CAPTION", help="what to have less of")
    add("--scale", type=_number, default=1.0, metavar="S", help="how much of the difference (default 1)")
    add("--out", type=Path, default=Path("edit.png"), metavar="FILE", help="PNG to write (default edit.png)")
    _add_common(parser)


def _add_score(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("image", nargs="+", metavar="IMAGE", help="image files")
    add("--captions", required=True, metavar="FILE", help="a caption a line, UTF-8; - reads standard input")
    add("--by", choices=("image", "caption"), default="image", help="best caption of each image, or best image first")
    add("--samples", type=_whole, default=32, metavar="K", help="the model's own, for the last column; 0: none")
    _add_common(parser)


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a shipped name, a folder, or a hub id")


def _add_push(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model folder, such as runs/mine/model")
    parser.add_argument("repo", metavar="USER/NAME", help="where on the hub; made where it is missing")
    parser.add_argument("--private", action="store_true", help="for you alone")


def _add_model(parser: argparse.ArgumentParser) -> None:
    name = "a shipped name, a folder, or a hub id (default pictures)"
    parser.add_argument("--model", default="pictures", metavar="MODEL", help=name)


def _add_common(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("--seed", type=_whole, default=0, help="same seed, same result (default 0)")


def _caption(text: str) -> str:
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


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None


def _count(text: str) -> int:
    from bridge.arguments import check_count  # noqa: PLC0415

    try:
        return check_count(_whole(text), "N")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("N: ")) from None


def read_captions(captions: Sequence[str], file: str | None) -> list[str]:
    """Every caption asked for, in order.

    Args:
        captions: Those on the command line.
        file: A file with a caption a line, "-" for standard input, or None. Blank lines are skipped.

    Raises:
        UsageError: There is none, one is blank, or the file cannot be read.
    """
    if not captions and file is None:
        raise UsageError("CAPTION: none given; pass one in quotes, or --captions FILE")
    if file is None:
        return list(captions)
    name = "standard input" if file == "-" else file
    try:
        text, encoding = decode(read_input() if file == "-" else Path(file).read_bytes())
    except EncodingError as error:
        raise UsageError(f"--captions: {name}: {error}") from None
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        why = error.strerror if isinstance(error, OSError) else error  # a null byte in a name is a ValueError
        raise UsageError(f"--captions: cannot read {name}: {why}; check the path") from None
    if encoding == WESTERN:
        tell(f"warning: {name} is not UTF-8 text; it is read as {WESTERN}")
    found = [line.strip() for line in split_lines(text) if line.strip()]
    if not found:
        raise UsageError(f"--captions: {name} holds no caption; write one a line")
    return [*captions, *found]


def prepare_folder(out: Path, argument: str = "--out") -> None:
    """Make the output folder and try to write in it.

    Raises:
        UsageError: It cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UsageError(f"{argument}: cannot write in {out}: {error.strerror}; choose another folder") from None


def check_png(out: Path, inputs: Mapping[str, str]) -> None:
    """Refuse a name under which a PNG would not be looked for, or which would replace what is drawn from.

    Args:
        out: The name.
        inputs: Pictures or captions, by their arguments.

    Raises:
        UsageError: It ends like a file of another kind, is a folder, or is one of `inputs`.
    """
    if out.is_dir():
        raise UsageError(f"--out: {out} is a folder; name a file, such as {out / 'picture.png'}")
    if out.suffix.lower() not in ("", ".png"):
        raise UsageError(f"--out: {out} would hold a PNG; name it {out.with_suffix('.png')}")
    for argument, name in inputs.items():
        same = False
        with contextlib.suppress(OSError, ValueError):  # one of them is no file
            same = out.samefile(name)
        if same:
            raise UsageError(f"--out: {out} is {argument} itself and would be lost; name another file")


def load_model(name: str, argument: str = "--model") -> "BridgePipeline":
    """Open a model.

    Raises:
        UsageError: It cannot be opened.
    """
    with _prefixed(argument), _words({"model": argument}):
        from bridge.pipeline import BridgePipeline  # noqa: PLC0415

        return BridgePipeline.from_pretrained(name)


def learn_model(args: argparse.Namespace, argument: str) -> "BridgePipeline":
    """The model of somebody's captioned pictures.

    Raises:
        UsageError: They cannot be read.
    """
    options = {"model": "--model", "with_default": "--with-default", "names": "--captions-from"}
    with _words(options | {"source": argument, "pairs": argument}):
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


def learn(args: argparse.Namespace) -> None:
    """bridge learn.

    Raises:
        UsageError: An argument cannot be used; nothing has been written then.
    """
    from bridge.about import learnt_card  # noqa: PLC0415
    from bridge.checkpoint import check_replaceable  # noqa: PLC0415

    prepare_folder(args.out.parent)
    with _prefixed("--out"):
        check_replaceable(args.out)
    pipe = learn_model(args, "SOURCE")
    with _writing("--out"):
        pipe.save_pretrained(args.out, learnt_card(pipe, args.pairs))
    print(_one_line(args.out))


def check_caption(argument: str, caption: str, pipe: "BridgePipeline") -> None:
    """Refuse a caption that the text encoder cannot read.

    Raises:
        UsageError: It cannot.
    """
    try:
        pipe.text_encoder.prepare(caption)
    except UserError as error:
        raise UsageError(f"{argument}: {caption[:40]!r}: {str(error).removeprefix('caption: ')}") from None


@contextlib.contextmanager
def _words(options: Mapping[str, str]) -> Iterator[None]:
    """Let errors name the command line's arguments.

    Args:
        options: What an argument of Python's is called on the command line.
    """
    try:
        yield
    except UserError as error:
        raise UsageError(_renamed(str(error), options)) from error


def _renamed(message: str, options: Mapping[str, str]) -> str:
    """A message that begins with an argument's name, or quotes longer ones, in the words of the command line.

    >>> _renamed("steps: 3 steps at num_inference_steps 2", {"steps": "--steps", "num_inference_steps": "-k"})
    '--steps: 3 steps at -k 2'
    """
    for name, option in options.items():
        message = re.sub(rf"^{name}(\[\d+\])?(?=[:,])" + (rf"|\b{name}\b" if "_" in name else ""), option, message)
    return message


@contextlib.contextmanager
def _prefixed(argument: str) -> Iterator[None]:
    """Let errors begin with an argument, unless they do."""
    try:
        yield
    except UserError as error:
        told = " ".join(str(error).split())
        raise UsageError(told if told.startswith(f"{argument}: ") else f"{argument}: {told}") from error


@contextlib.contextmanager
def _writing(argument: str) -> Iterator[None]:
    """A block that writes below an argument's folder; what a disk refuses is told of that argument.

    Raises:
        UsageError: Something could not be written.
    """
    try:
        with _prefixed(argument):
            yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        told = f"{argument}: {where}{error.strerror or error}; make room or choose another folder"
        raise UsageError(f"{told}; what was written before stands") from error


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_args, **_kwargs: tell(f"warning: {message}")
        yield


def generate(args: argparse.Namespace) -> None:
    """bridge generate.

    Raises:
        UsageError: An argument cannot be used; nothing has been written then.
    """
    captions = read_captions(args.caption, args.captions)
    with _writing("--out"):
        Manifest(args.out)  # is it ours?
    pipe = load_model(args.model) if args.pairs is None else learn_model(args, "--pairs")
    for caption in captions:
        check_caption("CAPTION", caption, pipe)
    if args.negative is not None:
        check_caption("--negative", args.negative, pipe)
    with _words(SAMPLING):
        settings = pipe.resolve(
            args.guidance_scale, args.steps, args.temperature, args.negative, args.novelty, args.style
        )
        pipe.codec.check_render(args.size, args.transparent)
    prepare_folder(args.out)
    with _writing("--out"):
        writer = Writer(args.out, pipe, settings, args.negative, size=args.size, transparent=args.transparent)
    sheet = Sheet([pipe.text_encoder.prepare(caption) for caption in captions], args.n)
    images = pipe.stream(
        captions,
        args.n,
        seed=args.seed,
        guidance_scale=args.guidance_scale,
        num_inference_steps=args.steps,
        temperature=args.temperature,
        negative_prompt=args.negative,
        novelty=args.novelty,
        style=args.style,
        size=args.size,
        transparent=args.transparent,
    )
    total = args.n * len(captions)
    for done, item in enumerate(images, start=1):
        if item.index == 0 and item.note:
            tell(f"{item.prompt!r} is {item.note}")
        with _writing("--out"):
            path = writer.write(item)
        print(_one_line(path), flush=done % 100 == 0)
        sheet.add(item)
        if sys.stderr.isatty():
            print(f"\r{done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    if not args.no_sheet:
        with _writing("--out"):
            path = sheet.save(args.out, args.seed, writer.key)
        print(_one_line(path))


def interpolate(args: argparse.Namespace) -> None:
    """bridge interpolate.

    Raises:
        UsageError: An argument cannot be used; nothing has been written then.
    """
    from bridge.explore import between, weights  # noqa: PLC0415

    kind = args.kind or ("linear" if args.space == "latent" else "spherical")
    check_png(args.out, {"A": args.a, "B": args.b})
    with _words({"steps": "--steps"}):
        places = weights(args.steps)
    pipe = load_model(args.model)
    with _words({"num_inference_steps": "--sampling-steps"}):
        pipe.resolve(num_inference_steps=args.sampling_steps)
    ends = [_end(pipe, argument, name, args.seed) for argument, name in (("A", args.a), ("B", args.b))]
    with _words({"num_inference_steps": "--sampling-steps", "space": "--space"}), _prefixed("--space"):
        z = between(
            pipe, ends[0], ends[1], args.steps, space=args.space, kind=kind, num_inference_steps=args.sampling_steps
        )
    facts = {"space": args.space, "kind": kind, "steps": args.steps, **_facts(pipe, args.seed, ends)}
    if args.frames is not None:
        prepare_folder(args.frames, "--frames")
    prepare_folder(args.out.parent)
    pictures = pipe.decode(z)
    with _writing("--out"):
        written = save_walk(pictures, places, args.out, args.frames, facts)
    for path in written:
        print(_one_line(path))


def edit(args: argparse.Namespace) -> None:
    """bridge edit.

    Raises:
        UsageError: An argument cannot be used; nothing has been written then.
    """
    from bridge import explore  # noqa: PLC0415
    from bridge.images import save_png  # noqa: PLC0415

    if args.plus is None and args.minus is None:
        raise UsageError("--plus, --minus: none given; name a caption to have more of, or less of")
    check_png(args.out, {"IMAGE": args.start})
    with _words({"scale": "--scale"}):
        explore.check_scale(args.scale)
    pipe = load_model(args.model)
    for argument, caption in (("--plus", args.plus), ("--minus", args.minus)):
        if caption is not None:
            check_caption(argument, caption, pipe)
    start = _end(pipe, "IMAGE", args.start, args.seed)
    z = explore.edit(pipe, start, args.plus, args.minus, scale=args.scale, seed=args.seed)
    said = {"plus": args.plus, "minus": args.minus}
    facts = {**{k: v for k, v in said.items() if v is not None}, "scale": args.scale}
    prepare_folder(args.out.parent)
    with _writing("--out"):
        save_png(pipe.decode(z[None])[0], args.out, {**facts, **_facts(pipe, args.seed, [start])})
    print(_one_line(args.out))


def score(args: argparse.Namespace) -> None:
    """bridge score.

    Raises:
        UsageError: An argument cannot be used; nothing has been printed then.
    """
    from bridge.images import read_image  # noqa: PLC0415
    from bridge.score import check_samples, resolve_method  # noqa: PLC0415
    from bridge.score import score as score_all  # noqa: PLC0415

    with _words({"samples": "--samples"}):
        check_samples(args.samples)
    captions = read_captions([], args.captions)
    pipe = load_model(args.model)
    for caption in captions:
        check_caption("--captions", caption, pipe)
    with _words({"model": "--model"}):
        method = resolve_method(pipe.mapper)
    with _prefixed("IMAGE"):
        images = [read_image(name, size=pipe.codec.image_size) for name in args.image]
    found = score_all(pipe, images, captions, method=method, samples=args.samples, seed=args.seed)
    tell(f"scores by {method}; columns: file, caption, score, typical")
    for i, k in _ranked(found, args.by):
        last = [] if found.typical is None else [f"{float(found.typical[i, k]):.2f}"]
        print(_field(args.image[i]), _field(captions[k]), f"{float(found.score[i, k]):.3f}", *last, sep="\t")


_FIELD = str.maketrans(
    {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}
    | {c: f"\\u{ord(c):04x}" for c in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"}
)


def _field(text: str) -> str:
    r"""A field of a table whose columns are parted by tabs; tabs, line breaks and \ are escaped by \.

    >>> print(_field("a\tb"))
    a\tb
    """
    return text.translate(_FIELD)


def _one_line(path: Path) -> str:
    """A path as a line: as it is, unless it would take several, which are escaped as in `_field`."""
    return str(path) if len(str(path).splitlines()) == 1 else _field(str(path))


def _ranked(found: "ScoreMatrix", by: str) -> Iterator[tuple[int, int]]:
    """Pairs (image, caption) in the order in which they are printed."""
    images, captions = found.score.shape
    if by == "image":
        yield from ((i, c) for i in range(images) for c in found.best_captions(i))
    else:
        yield from ((i, c) for c in range(captions) for i in found.best_images(c))


def _end(pipe: "BridgePipeline", argument: str, name: str, seed: int) -> "End":
    from bridge.explore import is_image, open_end  # noqa: PLC0415

    with _words({"prompt": argument, "caption": argument}), _prefixed(argument):
        end = open_end(pipe, name if is_image(name) else _caption(name), seed)
    tell(f"{argument} is {'the image' if end.kind == 'image' else 'the caption'} {end.name!r}")
    if end.note:
        tell(f"{end.name!r} is {end.note}")
    return end


def _facts(pipe: "BridgePipeline", seed: int, ends: Sequence["End"]) -> dict[str, str | float | int]:
    facts: dict[str, str | float | int] = {"model": pipe.fingerprint, "seed": seed}
    for letter, end in zip("ab", ends, strict=False):
        facts |= {letter: end.name, f"{letter}_kind": end.kind}
    return facts


def info(args: argparse.Namespace) -> None:
    """Print what is in a model."""
    from bridge.about import describe  # noqa: PLC0415
    from bridge.hub import resolve_model  # noqa: PLC0415

    pipe = load_model(args.model, "MODEL")
    print(describe(pipe, resolve_model(args.model)))


def push(args: argparse.Namespace) -> None:
    """Upload a model with its card, and print where it is.

    Raises:
        UsageError: The hub refuses, or cannot be reached.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError  # noqa: PLC0415

    from bridge.about import card_of  # noqa: PLC0415
    from bridge.hub import resolve_model  # noqa: PLC0415

    pipe = load_model(args.model, "MODEL")
    try:
        print(pipe.push_to_hub(args.repo, card_of(resolve_model(args.model)), private=args.private))
    except HFValidationError as error:
        raise UsageError(f"USER/NAME: {str(error).splitlines()[0]}") from None
    except (HfHubHTTPError, OSError) as error:
        why = str(error).strip().splitlines()[0]
        raise UsageError(f"USER/NAME: the hub did not take {args.repo} ({why}); log in with `hf auth login`") from None


RUN = {
    "generate": generate,
    "learn": learn,
    "interpolate": interpolate,
    "edit": edit,
    "score": score,
    "info": info,
    "push": push,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return guarded("bridge", lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    name = "bridge"
    try:
        with interruptible("bridge: stopped; run it again to go on"):
            args = build_parser().parse_args(argv)
            name = f"bridge {args.command}"
            with _warnings_as_lines():
                RUN[args.command](args)
    except UserError as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: stopped; run it again to go on", file=sys.stderr)
        return STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
