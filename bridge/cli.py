"""The command line: bridge generate CAPTION…, interpolate A B, edit IMAGE, vary IMAGE, redo PNG, score IMAGE….

Standard output carries results alone (paths, or a table), standard error everything else. Bad input is one line that
names the argument and the remedy, and exit code 2, before anything is written; Ctrl-C is one line and 130. An error
that is not a `UserError` is a fault of ours and stays a traceback.
"""

import argparse
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from bridge import __version__, commands
from bridge.arguments import check_count
from bridge.commands import as_caption
from bridge.errors import UserError
from bridge.streams import STOPPED, guarded, interruptible
from bridge.writing import tell

Add = Callable[..., Any]  # `add_argument`; a `dest` is what Python calls the argument, so that errors can be `renamed`
Command = Callable[[str, str], Add]  # adds a command by its name and summary


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage and a line."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The command line; what it parses has `options`, the user's name of each argument by Python's, and `refuse`.

    `refuse` ends the command with a message, as a usage error.
    """
    parser = _Parser(prog="bridge", description="Captions to several plausible images, and what lies between them.")
    parser.add_argument("--version", action="version", version=f"bridge {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, summary: str) -> Add:
        return subparsers.add_parser(name, help=summary).add_argument

    _add_drawing(command)
    _add_others(command)
    for subparser in subparsers.choices.values():
        options = {action.dest: [*action.option_strings, action.metavar][0] for action in subparser._actions}
        subparser.set_defaults(options={**options, "source": options.get("pairs")}, refuse=subparser.error)
    return parser


def _add_drawing(command: Command) -> None:
    add = command("generate", "several images of each caption")
    add("caption", nargs="*", type=as_caption, metavar="CAPTION", help="what to draw; quote it")
    add("--captions", metavar="FILE", help="a caption a line, UTF-8; - reads standard input")
    add("-n", type=_count, default=8, metavar="N", help="images of each caption (default 8)")
    add("--out", type=Path, default=Path("out"), metavar="DIR", help="where to write (default out)")
    add("--guidance-scale", type=_number, metavar="G", help="1: as learned; more: closer to the caption")
    add("--steps", type=_whole, dest="num_inference_steps", metavar="K", help="sampling steps (default: the model's)")
    add("--temperature", type=_number, metavar="T", help="0: one image a caption; more: more variety")
    add("--negative", type=as_caption, dest="negative_prompt", metavar="CAPTION", help="what to move away from")
    add("--pairs", metavar="SOURCE", help="draw from captioned pictures of your own: a folder, a table, a dataset")
    far = "-1 to 1: how far from the pictures in memory; below 0, nearer to one of them (default: the model's)"
    add("--novelty", type=_number, metavar="X", help=far)
    kinds = (
        "kinds of picture in memory to draw from, such as 'flat, 3d'; 'not flat, 3d': all others; 'rather not flat, "
        "3d': all others, unless only these show a caption; `bridge info` lists them"
    )
    add("--style", metavar="WORDS", help=kinds)
    alone = "do not compose pictures of two things, nor paint things in another colour"
    add("--no-compose", action="store_const", const=False, dest="compose", help=alone)
    _add_rendering(add)
    add("--no-sheet", action="store_true", help="no contact sheet")
    _add_pairs(add)
    _add_model(add, seed=True)

    add = command("interpolate", "the pictures between two images or captions")
    add("a", metavar="A", help="an image file, or a caption")
    add("b", metavar="B", help="an image file, or a caption")
    add("--steps", type=_whole, default=9, metavar="N", help="pictures, both ends included (default 9)")
    add("--out", type=Path, default=Path("strip.png"), metavar="FILE", help="PNG to write (default strip.png)")
    add("--frames", type=Path, metavar="DIR", help="also write each picture into this folder")
    add("--gif", type=Path, metavar="FILE", help="also write a GIF, there and back again")
    add("--space", choices=("latent", "noise"), default="latent", help="where to walk (default latent)")
    kind = "shapes and colours that pass into each other, or latents mixed straight or along a sphere (default: morph "
    kind += "in latents, if the model draws in layers, or else linear; spherical in noise)"
    add("--kind", choices=("morph", "linear", "spherical"), help=kind)
    steps = "sampling steps, with --space noise (default: the model's)"
    add("--sampling-steps", type=_whole, dest="num_inference_steps", metavar="K", help=steps)
    _add_model(add, seed=True)

    add = command("edit", "more of one caption and less of another in an image")
    add("start", metavar="IMAGE", help="an image file, or a caption")
    add("--plus", type=as_caption, metavar="CAPTION", help="what to have more of")
    add("--minus", type=as_caption, metavar="CAPTION", help="what to have less of")
    add("--scale", type=_number, default=1.0, metavar="S", help="how much of the difference (default 1)")
    add("--out", type=Path, default=Path("edit.png"), metavar="FILE", help="PNG to write (default edit.png)")
    _add_model(add, seed=True)

    add = command("vary", "pictures around an image, as far from it as you say")
    add("start", metavar="IMAGE", help="an image file, or a caption")
    add("--distance", type=_number, default=0.5, metavar="D", help="0: the image itself, 1: another (default 0.5)")
    add("-n", type=_whole, default=8, metavar="N", help="variations (default 8)")
    shown = "what it shows (default: as its text chunks say, else as the nearest picture)"
    add("--caption", type=as_caption, metavar="CAPTION", help=shown)
    add("--out", type=Path, default=Path("out"), metavar="DIR", help="where to write (default out)")
    _add_rendering(add)
    _add_model(add, seed=True)


def _add_others(command: Command) -> None:
    add = command("redo", "a picture again from its own text chunks, bit for bit")
    add("png", metavar="PNG", help="a picture by bridge, PNG or WebP, with its text chunks")
    add("--out", type=Path, default=Path("redo.png"), metavar="FILE", help="PNG or WebP to write (default redo.png)")
    add("--pairs", metavar="SOURCE", help="the captioned pictures that it was drawn from")
    _add_pairs(add)
    _add_model(add)

    add = command("learn", "a model from captioned pictures of your own, without training")
    add("pairs", metavar="SOURCE", help="captioned pictures: a folder, a table, a hub id")
    add("--out", type=Path, required=True, metavar="MODEL", help="the model folder to write")
    _add_pairs(add)
    _add_model(add)

    add = command("score", "how well images fit captions, as a table")
    add("image", nargs="+", metavar="IMAGE", help="image files")
    add("--captions", required=True, metavar="FILE", help="a caption a line, UTF-8; - reads standard input")
    ranked = "rank captions for each image, or images for each caption (default image)"
    add("--by", choices=("image", "caption"), default="image", help=ranked)
    own = "the model's own pictures, for the last column (default 32; 0: none)"
    add("--samples", type=_whole, default=32, metavar="K", help=own)
    _add_model(add, seed=True)

    add = command("serve", "a web page to look, compare and explore")
    _add_model(add)
    add("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1: this machine alone)")
    add("--port", type=_whole, default=7860, help="port to listen at (default 7860; 0: any free one)")

    add = command("info", "what is in a model: parts, data, figures, fingerprints")
    add("model", metavar="MODEL", help="a shipped name, a folder, or a hub id")

    add = command("push", "share a model on the hub")
    add("model", metavar="MODEL", help="a model folder, such as runs/mine/model")
    add("repo", metavar="USER/NAME", help="repository on the hub; created if missing")
    add("--private", action="store_true", help="make the repository private")


def _add_rendering(add: Add) -> None:
    add("--size", type=_whole, metavar="PIXELS", help="side of an image, if the model draws at any size")
    add("--transparent", action="store_true", help="leave the background transparent, if the model can")
    add("--format", choices=("png", "webp"), default="png", help="of the images (default png); both are lossless")
    add("--svg", action="store_true", help="an SVG beside each image, if the model draws in layers")


def _add_pairs(add: Add) -> None:
    add("--refine", action="store_true", help="draw nearer to your pictures, for some .15 s each, once")
    add("--with-default", action="store_true", help="keep what --model knows beside your pictures")
    add("--caption-column", metavar="NAME", help="the table's column of captions, if its name does not say so")
    add("--image-column", metavar="NAME", help="the table's column of pictures, if its name does not say so")
    names = "take file or folder names for captions"
    add("--captions-from", choices=("file", "folder"), default="", dest="names", help=names)


def _add_model(add: Add, seed: bool = False) -> None:
    name = "a shipped name, a folder, or a hub id (default pictures)"
    add("--model", default="pictures", metavar="MODEL", help=name)
    if seed:
        add("--seed", type=_whole, default=0, help="same seed, same result (default 0)")


def _number(text: str, kind: type[float] = float, expected: str = "a number") -> Any:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}") from None


def _whole(text: str) -> int:
    return int(_number(text, int, "a whole number"))


def _count(text: str) -> int:
    try:
        return check_count(_whole(text), "N")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("N: ")) from None


def renamed(message: str, options: Mapping[str, str | None]) -> str:
    """A message that begins with an argument's name, or quotes longer ones or options, in the command line's words.

    >>> renamed("steps: 3 steps at num_inference_steps 2", {"steps": "--steps", "num_inference_steps": "-k"})
    '--steps: 3 steps at -k 2'
    >>> renamed("source: no captions; pass --names file", {"names": "--captions-from"})
    'source: no captions; pass --captions-from file'
    """
    for name, option in options.items():
        pattern = rf"^{name}(\[\d+\])?(?=[:,])|--{name}(?![\w-])" + (rf"|\b{name}\b" if "_" in name else "")
        message = re.sub(pattern, option or name, message)
    return message


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return guarded("bridge", lambda: _run(argv))


def _run(argv: Sequence[str] | None) -> int:
    args, unknown = build_parser().parse_known_args(argv)
    if unknown:
        args.refuse(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        with interruptible("bridge: stopped; run it again to go on"), warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = lambda message, *_args, **_kwargs: tell(f"warning: {message}")
            getattr(commands, args.command)(args)
    except UserError as error:
        print(f"bridge {args.command}: {renamed(' '.join(str(error).split()), args.options)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"bridge {args.command}: stopped; run it again to go on", file=sys.stderr)
        return STOPPED
    return 0
