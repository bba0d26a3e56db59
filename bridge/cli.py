"""The command: bridge generate CAPTION…

Standard output carries paths alone, standard error everything else. What is wrong is told in one line
that names the argument and the remedy, with exit code 2, before anything is written.
"""

import argparse
import contextlib
import hashlib
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from PIL.Image import Image

    from bridge.pipeline import BridgePipeline, GeneratedImage, Settings

MANIFEST = "manifest.jsonl"
SHEET_ROWS, SHEET_IMAGES = 24, 48
"""A contact sheet shows at most this many captions, and images of one caption."""


class UsageError(ValueError):
    """Something the user gave cannot be used; the message names it and the remedy."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage and a line."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = _Parser(prog="bridge", description="Captions to several plausible images.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    add = commands.add_parser("generate", help="several images of each caption").add_argument
    add("caption", nargs="*", metavar="CAPTION", help="what to draw; quote it")
    add("--captions", metavar="FILE", help="a caption a line, UTF-8; - reads standard input")
    add("-n", type=_count, default=8, metavar="N", help="images of each caption (default 8)")
    add("--seed", type=_whole, default=0, help="same seed, same images (default 0)")
    add("--out", type=Path, default=Path("out"), metavar="DIR", help="where to write (default out)")
    add(
        "--model",
        default="emoji",
        metavar="MODEL",
        help="a shipped name, a folder, or a hub id (default emoji)",
    )
    add("--guidance-scale", type=_number, metavar="G", help="1: as learned; more: closer to the caption")
    add("--steps", type=_whole, metavar="K", help="sampling steps")
    add("--temperature", type=_number, metavar="T", help="0: one image a caption; more: more variety")
    add("--negative", metavar="CAPTION", help="what to move away from")
    add("--no-sheet", action="store_true", help="no contact sheet")
    return parser


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
    from bridge.limits import check_count  # noqa: PLC0415

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
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        lines = data.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise UsageError(f"--captions: cannot read {file}: {error.strerror}; check the path") from None
    except UnicodeDecodeError:
        raise UsageError(f"--captions: {file} is not UTF-8 text; save it as UTF-8") from None
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise UsageError(f"--captions: {file} holds no caption; write one a line")
    return [*captions, *found]


def prepare_folder(out: Path) -> None:
    """Make the output folder and try to write in it.

    Raises:
        UsageError: It cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise UsageError(f"--out: cannot write in {out}: {error.strerror}; choose another folder") from None


def load_model(name: str) -> "BridgePipeline":
    """Open a model.

    Raises:
        UsageError: It cannot be opened.
    """
    from bridge.pipeline import BridgePipeline  # noqa: PLC0415

    try:
        return BridgePipeline.from_pretrained(name)
    except (ValueError, OSError, KeyError) as error:
        raise UsageError(f"--model: {str(error).removeprefix('model: ')}") from error


def check_caption(argument: str, caption: str, pipe: "BridgePipeline") -> None:
    """Refuse a caption that the text encoder cannot read.

    Raises:
        UsageError: It cannot.
    """
    try:
        pipe.text_encoder.prepare(caption)
    except ValueError as error:
        raise UsageError(f"{argument}: {caption[:40]!r}: {str(error).removeprefix('caption: ')}") from None


class Writer:
    """Writes images below one folder, each with its provenance, and their manifest.

    Args:
        out: The folder.
        pipe: The model.
        settings: How the images are made.
        negative: The negative caption, or None.

    A file's name carries seed, index, and six digits of what else made it, so that a second seed, other
    settings or another model add pictures and never overwrite one.
    """

    def __init__(self, out: Path, pipe: "BridgePipeline", settings: "Settings", negative: str | None) -> None:
        self.out = out
        self.facts: dict[str, Any] = {"model": pipe.fingerprint, "negative": negative, **asdict(settings)}
        self.key = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:6]
        self.manifest = out / MANIFEST
        self.known = self._known()

    def _known(self) -> set[str]:
        """Files that the manifest lists; a line cut off by a crash is taken out of it."""
        if not self.manifest.exists():
            return set()
        data = self.manifest.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            os.truncate(self.manifest, len(whole))
        return {json.loads(line)["file"] for line in whole.splitlines()}

    def write(self, item: "GeneratedImage") -> Path:
        """Write one image and its line of the manifest; returns its path."""
        from bridge.images import save_png, slug  # noqa: PLC0415

        file = Path(slug(item.prompt)) / f"seed{item.seed}-{item.index:05d}-{self.key}.png"
        facts = {"caption": item.prompt, "seed": item.seed, "index": item.index, **self.facts}
        path = self.out / file
        path.parent.mkdir(exist_ok=True)
        save_png(item.image, path, {k: v for k, v in facts.items() if v is not None})
        if file.as_posix() not in self.known:
            self.known.add(file.as_posix())
            line = json.dumps({"file": file.as_posix(), **facts, "note": item.note}, ensure_ascii=False)
            with self.manifest.open("a", encoding="utf-8") as manifest:
                manifest.write(line + "\n")
        return path


class Sheet:
    """Collects the first images of the first captions for one page.

    Args:
        captions: All captions of the run, emoji as words: few fonts draw them.
        count: Images of each.
    """

    def __init__(self, captions: Sequence[str], count: int) -> None:
        self.captions, self.count = captions, count
        self.columns = min(count, 8)
        self.each = min(count, SHEET_IMAGES if len(captions) == 1 else self.columns)
        self.rows: list[list[Image]] = []
        self.notes: list[str | None] = []

    def add(self, item: "GeneratedImage") -> None:
        """Keep the image if the sheet has room for it."""
        if item.prompt_index >= SHEET_ROWS or item.index >= self.each:
            return
        if item.index == 0:
            self.rows.append([])
            self.notes.append("unknown to the model" if item.note else None)
        self.rows[-1].append(item.image)

    def save(self, out: Path, seed: int, key: str) -> Path:
        """Write the page into `out`; says on standard error what it leaves out. Returns its path."""
        from bridge.images import contact_sheet, save_png, slug  # noqa: PLC0415

        shown = list(self.captions[: len(self.rows)])
        if len(shown) < len(self.captions) or self.each < self.count:
            tell(
                f"the contact sheet shows {self.each} of {self.count} images of "
                f"{len(shown)} of {len(self.captions)} captions"
            )
        name = slug("\n".join(self.captions)) if len(self.captions) > 1 else slug(self.captions[0])
        path = out / f"sheet-{name}-seed{seed}-{key}.png"
        save_png(contact_sheet(self.rows, shown, self.notes, columns=self.columns), path, {"seed": seed})
        return path


def tell(message: str) -> None:
    """One line on standard error."""
    print(f"bridge: {message}", file=sys.stderr)


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
    pipe = load_model(args.model)
    for caption in captions:
        check_caption("CAPTION", caption, pipe)
    if args.negative is not None:
        check_caption("--negative", args.negative, pipe)
    try:
        settings = pipe.resolve(args.guidance_scale, args.steps, args.temperature, args.negative)
    except ValueError as error:
        raise UsageError(str(error).replace("num_inference_steps", "--steps")) from None
    prepare_folder(args.out)
    writer = Writer(args.out, pipe, settings, args.negative)
    sheet = Sheet([pipe.text_encoder.prepare(caption) for caption in captions], args.n)
    images = pipe.stream(
        captions,
        args.n,
        seed=args.seed,
        guidance_scale=args.guidance_scale,
        num_inference_steps=args.steps,
        temperature=args.temperature,
        negative_prompt=args.negative,
    )
    total = args.n * len(captions)
    for done, item in enumerate(images, start=1):
        if item.index == 0 and item.note:
            tell(f"{item.prompt!r} is {item.note}")
        print(writer.write(item), flush=done % 100 == 0)
        sheet.add(item)
        if sys.stderr.isatty():
            print(f"\r{done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    if not args.no_sheet:
        print(sheet.save(args.out, args.seed, writer.key))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = build_parser().parse_args(argv)
    try:
        with _warnings_as_lines():
            generate(args)
    except UsageError as error:
        print(f"bridge {args.command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"bridge {args.command}: --out: {error}; what was written before stands", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"bridge {args.command}: stopped; run it again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
