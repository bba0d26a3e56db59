"""What each command does; `bridge.cli` reads the command line and calls these.

Each raises UserError if an argument cannot be used, and nothing has been written then. Importing this is cheap.
"""

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from bridge.arguments import check_file_name, number, whole, writable_folder
from bridge.captions import well_formed
from bridge.checkpoint import check_replaceable, sha256_of
from bridge.errors import UserError, first_line, import_extra
from bridge.hub import resolve_model
from bridge.images import read_facts, read_image, save_picture, save_png
from bridge.manifest import Manifest
from bridge.streams import read_input
from bridge.textfile import WESTERN, EncodingError, decode, split_lines
from bridge.writing import Sheet, Writer, save_gif, save_walk, tell

if TYPE_CHECKING:
    from bridge.explore import End
    from bridge.pipeline import BridgePipeline, GeneratedImage

SAMPLING = ("guidance_scale", "num_inference_steps", "temperature", "negative_prompt", "novelty", "style", "compose")
READING = ("with_default", "caption_column", "image_column", "names", "refine")
"""Arguments that go to `BridgePipeline.resolve` and `BridgePipeline.from_pairs` as they are."""
_ESCAPES = str.maketrans(
    {"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"}
    | {c: f"\\u{ord(c):04x}" for c in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"}
)


def generate(args: argparse.Namespace) -> None:
    """Several images of each caption, their manifest and a contact sheet."""
    captions = read_captions(args.caption, args.captions)
    with writing("--out"):
        manifest = Manifest(args.out)
    pipe = open_model(args)
    check_captions(pipe, "CAPTION", *captions)
    check_captions(pipe, "--negative", args.negative_prompt)
    sampling = {name: getattr(args, name) for name in SAMPLING}
    settings = pipe.resolve(**sampling)
    _check_rendering(pipe, args)
    writable_folder(args.out)
    rendering = {"size": args.size, "transparent": args.transparent}
    writer = Writer(manifest, pipe, settings, args.negative_prompt, kind=args.format, **rendering)
    sheet = Sheet([pipe.text_encoder.prepare(caption) for caption in captions], args.n)
    total = args.n * len(captions)
    for done, item in enumerate(pipe.stream(captions, args.n, seed=args.seed, **sampling, **rendering), start=1):
        if item.index == 0 and item.note:
            tell(f"{item.prompt!r} is {item.note}")
        _write(writer, pipe, item, args)
        sheet.add(item)
        if sys.stderr.isatty():
            print(f"\r{done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    if not args.no_sheet:
        with writing("--out"):
            path = sheet.save(args.out, args.seed, writer.key)
        print_paths(path)


def interpolate(args: argparse.Namespace) -> None:
    """The pictures between two images or captions."""
    from bridge.explore import MORPH, between, usual_kind, weights  # noqa: PLC0415

    inputs = {"A": args.a, "B": args.b}
    _check_out(args.out, inputs, ".png", "")
    if args.gif is not None:
        _check_out(args.gif, inputs, ".gif", argument="--gif")
    places, steps = weights(args.steps), args.num_inference_steps
    if steps is not None and args.space == "latent":
        raise UserError("--sampling-steps: does nothing in --space latent; leave it out, or walk in --space noise")
    if args.kind == MORPH and args.space != "latent":
        raise UserError(f"--kind: {MORPH} is of latents; leave it out, or --space {args.space}")
    pipe = open_model(args)
    pipe.resolve(num_inference_steps=steps)
    a, b = _open_end(pipe, "A", args.a, args.seed), _open_end(pipe, "B", args.b, args.seed)
    kind = args.kind or usual_kind(pipe, args.space)
    with prefixed("--space", "space"):
        z = between(pipe, a, b, args.steps, space=args.space, kind=kind, num_inference_steps=steps)
    facts = {"space": args.space, "kind": kind, "steps": args.steps, **_provenance(pipe, args.seed, a, b)}
    if steps is not None:
        facts["sampling_steps"] = steps
    if args.gif is not None:
        writable_folder(args.gif.parent, "--gif")
    if args.frames is not None:
        writable_folder(args.frames, "--frames")
    writable_folder(args.out.parent)
    pictures = pipe.decode(z)
    with writing("--out"):
        written = save_walk(pictures, places, args.out, args.frames, facts)
    if args.gif is not None:
        with writing("--gif"):
            save_gif(pictures, args.gif)
        written.append(args.gif)
    print_paths(*written)


def edit(args: argparse.Namespace) -> None:
    """More of one caption and less of another in an image."""
    from bridge import explore  # noqa: PLC0415

    if args.plus is None and args.minus is None:
        raise UserError("--plus, --minus: none given; name a caption to have more of, or less of")
    _check_out(args.out, {"IMAGE": args.start}, ".png", "")
    number(args.scale, "scale", -explore.MAX_SCALE, explore.MAX_SCALE)
    pipe = open_model(args)
    check_captions(pipe, "--plus", args.plus)
    check_captions(pipe, "--minus", args.minus)
    start = _open_end(pipe, "IMAGE", args.start, args.seed)
    z = explore.edit(pipe, start, args.plus, args.minus, scale=args.scale, seed=args.seed)
    facts = {"plus": args.plus, "minus": args.minus, "scale": args.scale, **_provenance(pipe, args.seed, start)}
    writable_folder(args.out.parent)
    with writing("--out"):
        save_png(pipe.decode(z[None])[0], args.out, {k: v for k, v in facts.items() if v is not None})
    print_paths(args.out)


def vary(args: argparse.Namespace) -> None:
    """Pictures around an image."""
    from bridge import explore  # noqa: PLC0415
    from bridge.pipeline import GeneratedImage  # noqa: PLC0415

    number(args.distance, "distance", 0, 1)
    whole(args.n, "n", 1, explore.MAX_STEPS)
    with writing("--out"):
        manifest = Manifest(args.out)
    pipe = open_model(args)
    check_captions(pipe, "--caption", args.caption)
    _check_rendering(pipe, args)
    start = _open_end(pipe, "IMAGE", args.start, args.seed)
    shown = args.caption if args.caption is not None else explore.caption_shown(pipe, start)
    if shown != start.name:
        tell(f"{start.name!r} is taken to show {shown!r}" if shown else f"what {start.name!r} shows is not known")
    z = explore.vary(pipe, start, args.n, shown=shown, distance=args.distance, seed=args.seed)
    more = {**_provenance(pipe, args.seed, start), "shown": shown, "distance": args.distance}
    writable_folder(args.out)
    writer = Writer(manifest, pipe, pipe.settings, None, args.size, args.transparent, args.format, more)
    name = start.name if start.kind == "caption" else Path(start.name).stem
    for index, image in enumerate(pipe.decode(z, args.size, args.transparent)):
        _write(writer, pipe, GeneratedImage(image, name, 0, index, args.seed, None, z[index]), args)


def redo(args: argparse.Namespace) -> None:
    """A picture again from its own text chunks, and whether it is the same."""
    from bridge.again import remake  # noqa: PLC0415

    _check_out(args.out, {"PNG": args.png}, ".png", ".webp", "")
    data = read_file(args.png, "PNG")
    with prefixed(f"PNG: {args.png}"):
        facts = read_facts(data)
    if not facts:
        why = "another program may have taken its text chunks out"
        raise UserError(f"PNG: {args.png} holds nothing that bridge wrote; {why}")
    pipe = open_model(args)
    with prefixed(f"PNG: {args.png}"):
        image = remake(pipe, facts)
    writable_folder(args.out.parent)
    with writing("--out"):
        save_picture(image, args.out, facts)
    tell(_compared(image, data))
    print_paths(args.out)


def learn(args: argparse.Namespace) -> None:
    """A model folder of captioned pictures."""
    writable_folder(args.out.parent)
    with prefixed("--out"):
        check_replaceable(args.out)
    pipe = open_model(args)
    card = (
        f"# A model of {len(pipe.mapper.latents):,} pictures\n\nMade by `bridge learn {Path(args.pairs).name}` from "
        f"{len(pipe.memory):,} captions, without training: a local flow over the pictures' latents. The pictures can "
        "be recovered from it nearly as they are; their licences hold for it too.\n"
    )
    with writing("--out"):
        pipe.save_pretrained(args.out, card)
    print_paths(args.out)


def info(args: argparse.Namespace) -> None:
    """What is in a model: parts, sizes, settings and fingerprints, then its card with data and figures."""
    from bridge.mappers import LocalFlowMapper  # noqa: PLC0415

    pipe, folder = open_model(args), resolve_model(args.model)
    mapper, codec = pipe.mapper, pipe.codec
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    parameters = sum(p.numel() for p in mapper.parameters())
    print(f"folder        {folder} ({size / 1e6:.1f} MB)")
    print(f"text encoder  {pipe.text_encoder.id}: codes of {pipe.text_encoder.dim}")
    print(f"mapper        {type(mapper).__name__}: {parameters:,} parameters")
    print(f"codec         {type(codec).__name__}: {codec.image_size} px, latents {tuple(codec.z_shape)}")
    print(f"captions      {len(pipe.memory):,} known")
    if isinstance(mapper, LocalFlowMapper):
        styles = ", ".join(filter(None, mapper.config.styles)) or "none named"
        print(f"memory        {len(mapper.latents):,} pictures; styles: {styles}")
    print("settings     ", ", ".join(f"{name}={value}" for name, value in vars(pipe.settings).items() if value != ""))
    for part, value in pipe.fingerprints.items():
        print(f"fingerprint   {part} {value}")
    if card := _card_of(folder).strip():
        print(f"\n{card}")


def push(args: argparse.Namespace) -> None:
    """Upload a model with its card, and print where it is. Raises UserError also if the hub does not take it."""
    from huggingface_hub.errors import HFValidationError, HTTPError  # noqa: PLC0415

    pipe = open_model(args)
    try:
        print(pipe.push_to_hub(args.repo, _card_of(resolve_model(args.model)), private=args.private))
    except HFValidationError as error:
        raise UserError(f"USER/NAME: {first_line(error)}") from None
    except (HTTPError, OSError) as error:
        remedy = "check the connection, or log in with `hf auth login`"
        raise UserError(f"USER/NAME: the hub did not take {args.repo} ({first_line(error)}); {remedy}") from None


def _card_of(folder: Path) -> str:
    """The model card; empty where there is none."""
    path = folder / "README.md"
    return path.read_text("utf-8", errors="replace") if path.is_file() else ""


def serve(args: argparse.Namespace) -> None:
    """The web page of a model, until Ctrl-C."""
    import_extra("gradio", "serve", "gradio", "the web page")
    from bridge.serve.app import free_port, hosts_of, run  # noqa: PLC0415

    port = free_port(args.host, args.port)
    pipe = open_model(args)
    where = "for everybody who can reach it" if hosts_of(args.host) is None else "for this machine alone"
    host = f"[{args.host}]" if ":" in args.host else args.host
    tell(f"http://{host}:{port}, {where}; Ctrl-C ends it")
    run(pipe, args.host, port)


def score(args: argparse.Namespace) -> None:
    """A table of how well images fit captions."""
    from bridge.score import MAX_SAMPLES  # noqa: PLC0415

    whole(args.samples, "samples", 0, MAX_SAMPLES)
    captions = read_captions([], args.captions)
    pipe = open_model(args)
    check_captions(pipe, "--captions", *captions)
    with prefixed("IMAGE"):
        images = [read_image(name, size=pipe.codec.image_size) for name in args.image]
    scores = pipe.score(images, captions, samples=args.samples, seed=args.seed)
    last = "" if scores.typical is None else ", typical"
    tell(f"scores by {scores.method}; columns: file, caption, score{last}")
    if args.by == "image":
        cells = [(i, c) for i in range(len(images)) for c in scores.best_captions(i)]
    else:
        cells = [(i, c) for c in range(len(captions)) for i in scores.best_images(c)]
    for i, c in cells:
        typical = [] if scores.typical is None else [f"{float(scores.typical[i, c]):.2f}"]
        print(field(args.image[i]), field(captions[c]), f"{float(scores.score[i, c]):.3f}", *typical, sep="\t")


# what they share


def open_model(args: argparse.Namespace) -> "BridgePipeline":
    """The model of the command line, or that of its captioned pictures. Raises UserError if it cannot be opened."""
    from bridge.pipeline import BridgePipeline  # noqa: PLC0415

    if getattr(args, "pairs", None) is None:
        for option in [args.options[name] for name in READING if getattr(args, name, None)]:
            raise UserError(f"{option}: does nothing without --pairs SOURCE; add that, or leave {option} out")
        with prefixed(args.options["model"], "model"):
            return BridgePipeline.from_pretrained(args.model)
    reading = {name: getattr(args, name) for name in READING}
    return BridgePipeline.from_pairs(args.pairs, args.model, say=tell, **reading)


def read_captions(captions: Sequence[str], file: str | None) -> list[str]:
    """Captions of the command line and of a file, a line each; "-" is standard input. UserError if there is none."""
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
    caption, encoding = well_formed(text), ""
    if not re.search("[\ud800-\udc7f\udd00-\udfff]", text):  # bytes that were no text, not halves of characters
        with contextlib.suppress(EncodingError):
            caption, encoding = decode(os.fsencode(text))
    if encoding != "utf-8":  # which it is where the locale knows no UTF-8
        tell(f"warning: {text!r} is not UTF-8 text; it is read as {caption!r}")
    return caption


def check_captions(pipe: "BridgePipeline", argument: str, *captions: str | None) -> None:
    """Raise UserError if the text encoder cannot read one of an argument's captions."""
    for caption in captions:
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


def print_paths(*paths: Path) -> None:
    """Print paths, one a line: as it is, unless it would take several, which are escaped as in `field`."""
    for path in paths:
        print(path if len(str(path).splitlines()) == 1 else field(str(path)), flush=True)


def _check_out(out: Path, inputs: Mapping[str, str], *endings: str, argument: str = "--out") -> None:
    """Raise UserError as `check_file_name`, or if a file to write is an input, by its argument."""
    check_file_name(out, *endings, argument=argument)
    for given, name in inputs.items():
        if os.path.exists(out) and os.path.exists(name) and os.path.samefile(out, name):
            raise UserError(f"{argument}: {out} is {given} itself and would be lost; name another file")


def _check_rendering(pipe: "BridgePipeline", args: argparse.Namespace) -> None:
    """Raise UserError if --size, --transparent or --svg cannot be had of a model."""
    pipe.codec.check_render(args.size, args.transparent)
    if args.svg:
        from bridge.svg import check_traceable  # noqa: PLC0415

        check_traceable(pipe.codec)


def _write(writer: Writer, pipe: "BridgePipeline", item: "GeneratedImage", args: argparse.Namespace) -> None:
    """Write an image, its line of the manifest and, where --svg asks for one, its SVG; print its path."""
    svg = None
    with writing("--out"):
        if args.svg and item.latent is not None:
            from bridge.svg import trace  # noqa: PLC0415

            svg = trace(pipe.codec, item.latent, transparent=args.transparent, title=item.prompt)
        path = writer.write(item, svg)
    print_paths(path)


def _open_end(pipe: "BridgePipeline", argument: str, name: str, seed: int) -> "End":
    """A picture file or a caption of the command line; standard error says which."""
    from bridge.explore import is_image, open_end  # noqa: PLC0415

    with prefixed(argument, "prompts[0]", "caption"):
        end = open_end(pipe, name if is_image(name) else as_caption(name), seed)
    tell(f"{argument} is the {end.kind} {end.name!r}")
    if end.note:
        tell(f"{end.name!r} is {end.note}")
    return end


def _provenance(pipe: "BridgePipeline", seed: int, *ends: "End") -> dict[str, str | float | int]:
    """Facts of the model, its settings and the ends that a picture was made from."""
    facts: dict[str, str | float | int] = {"model": pipe.fingerprint, "seed": seed, **asdict(pipe.settings)}
    for letter, end in zip("ab", ends, strict=False):
        facts |= {letter: end.name, f"{letter}_kind": end.kind}
        if end.kind == "image":
            facts[f"{letter}_sha256"] = sha256_of(Path(end.name))
    return facts


def _compared(image: Image.Image, data: bytes) -> str:
    """How a picture differs from that of a file, in words."""
    with Image.open(io.BytesIO(data)) as before:
        if (before.mode, before.size) != (image.mode, image.size):
            return f"warning: it was {before.mode} of {before.size}, and is {image.mode} of {image.size}"
        difference = np.abs(np.asarray(before).astype(int) - np.asarray(image).astype(int))
    if not difference.any():
        return "the same, bit for bit"
    pixels = int(difference.any(-1).sum())
    why = "another machine, number of threads or version made it, or it was changed"
    return f"warning: {pixels} pixels differ, by up to {difference.max()} of 255; {why}"
