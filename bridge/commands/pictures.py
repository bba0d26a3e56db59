"""bridge generate, interpolate, edit, vary and redo: the commands that draw."""

import argparse
import contextlib
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.arguments import number, whole, writable_folder
from bridge.commands.common import (
    as_caption,
    check_caption,
    open_model,
    prefixed,
    print_path,
    read_captions,
    read_file,
    writing,
)
from bridge.errors import UserError
from bridge.manifest import Manifest
from bridge.writing import Sheet, Writer, save_gif, save_walk, tell

if TYPE_CHECKING:
    from PIL.Image import Image

    from bridge.explore import End
    from bridge.pipeline import BridgePipeline, GeneratedImage

SAMPLING = ("guidance_scale", "num_inference_steps", "temperature", "negative_prompt", "novelty", "style", "compose")
"""Arguments of `bridge generate` that are `BridgePipeline.resolve`'s."""


def generate(args: argparse.Namespace) -> None:
    """Several images of each caption, their manifest and a contact sheet."""
    captions = read_captions(args.caption, args.captions)
    with writing("--out"):
        Manifest(args.out)  # is it ours?
    pipe = open_model(args)
    for caption in captions:
        check_caption("CAPTION", caption, pipe)
    check_caption("--negative", args.negative_prompt, pipe)
    sampling = {name: getattr(args, name) for name in SAMPLING}
    settings = pipe.resolve(**sampling)
    _check_rendering(pipe, args)
    writable_folder(args.out)
    rendering = {"size": args.size, "transparent": args.transparent}
    with writing("--out"):
        writer = Writer(args.out, pipe, settings, args.negative_prompt, kind=args.format, **rendering)
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
        print_path(path)


def interpolate(args: argparse.Namespace) -> None:
    """The pictures between two images or captions."""
    from bridge.explore import between, weights  # noqa: PLC0415

    kind = args.kind or ("linear" if args.space == "latent" else "spherical")
    _check_out(args.out, {"A": args.a, "B": args.b})
    if args.gif is not None:
        _check_out(args.gif, {"A": args.a, "B": args.b}, (".gif",), "--gif")
    places, steps = weights(args.steps), args.num_inference_steps
    pipe = open_model(args)
    pipe.resolve(num_inference_steps=steps)
    a, b = _open_end(pipe, "A", args.a, args.seed), _open_end(pipe, "B", args.b, args.seed)
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
    for path in written:
        print_path(path)


def edit(args: argparse.Namespace) -> None:
    """More of one caption and less of another in an image."""
    from bridge import explore  # noqa: PLC0415
    from bridge.images import save_png  # noqa: PLC0415

    if args.plus is None and args.minus is None:
        raise UserError("--plus, --minus: none given; name a caption to have more of, or less of")
    _check_out(args.out, {"IMAGE": args.start})
    explore.check_scale(args.scale)
    pipe = open_model(args)
    check_caption("--plus", args.plus, pipe)
    check_caption("--minus", args.minus, pipe)
    start = _open_end(pipe, "IMAGE", args.start, args.seed)
    z = explore.edit(pipe, start, args.plus, args.minus, scale=args.scale, seed=args.seed)
    facts = {"plus": args.plus, "minus": args.minus, "scale": args.scale, **_provenance(pipe, args.seed, start)}
    writable_folder(args.out.parent)
    with writing("--out"):
        save_png(pipe.decode(z[None])[0], args.out, {k: v for k, v in facts.items() if v is not None})
    print_path(args.out)


def vary(args: argparse.Namespace) -> None:
    """Pictures around an image."""
    from bridge import explore  # noqa: PLC0415
    from bridge.pipeline import GeneratedImage  # noqa: PLC0415

    number(args.distance, "distance", 0, 1)
    whole(args.n, "n", 1, explore.MAX_STEPS)
    with writing("--out"):
        Manifest(args.out)  # is it ours?
    pipe = open_model(args)
    check_caption("--caption", args.caption, pipe)
    _check_rendering(pipe, args)
    start = _open_end(pipe, "IMAGE", args.start, args.seed)
    shown = args.caption if args.caption is not None else explore.caption_shown(pipe, start)
    if shown != start.name:
        tell(f"{start.name!r} is taken to show {shown!r}" if shown else f"what {start.name!r} shows is not known")
    z = explore.vary(pipe, start, args.n, shown=shown, distance=args.distance, seed=args.seed)
    more = {**_provenance(pipe, args.seed, start), "shown": shown, "distance": args.distance}
    writable_folder(args.out)
    with writing("--out"):
        writer = Writer(args.out, pipe, pipe.settings, None, args.size, args.transparent, args.format, more)
    name = start.name if start.kind == "caption" else Path(start.name).stem
    for index, image in enumerate(pipe.decode(z, args.size, args.transparent)):
        _write(writer, pipe, GeneratedImage(image, name, 0, index, args.seed, None, z[index]), args)


def redo(args: argparse.Namespace) -> None:
    """A picture again from its own text chunks, and whether it is the same."""
    from bridge.again import remake  # noqa: PLC0415
    from bridge.images import read_facts, save_picture  # noqa: PLC0415

    _check_out(args.out, {"PNG": args.png}, (".png", ".webp"))
    data = read_file(args.png, "PNG")
    with prefixed("PNG"):
        facts = read_facts(data)
    if not facts:
        why = "another program may have taken its text chunks out"
        raise UserError(f"PNG: {args.png} holds nothing that bridge wrote; {why}")
    pipe = open_model(args)
    with prefixed("PNG"):
        image = remake(pipe, facts)
    writable_folder(args.out.parent)
    with writing("--out"):
        save_picture(image, args.out, facts)
    tell(_compared(image, data))
    print_path(args.out)


def _check_out(
    out: Path, inputs: Mapping[str, str], endings: Sequence[str] = (".png",), argument: str = "--out"
) -> None:
    """Raise UserError if a file to write is a folder, ends like one of another kind, or is one of `inputs`.

    `inputs` are pictures or captions by their arguments; the first of `endings` is the one that is suggested.
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
    print_path(path)


def _open_end(pipe: "BridgePipeline", argument: str, name: str, seed: int) -> "End":
    """A picture file or a caption of the command line; standard error says which."""
    from bridge.explore import is_image, open_end  # noqa: PLC0415

    with prefixed(argument, "prompt", "caption"):
        end = open_end(pipe, name if is_image(name) else as_caption(name), seed)
    tell(f"{argument} is the {end.kind} {end.name!r}")
    if end.note:
        tell(f"{end.name!r} is {end.note}")
    return end


def _provenance(pipe: "BridgePipeline", seed: int, *ends: "End") -> dict[str, str | float | int]:
    """Facts of the model, its settings and the ends that a picture was made from."""
    from bridge.checkpoint import sha256_of  # noqa: PLC0415

    facts: dict[str, str | float | int] = {"model": pipe.fingerprint, "seed": seed, **asdict(pipe.settings)}
    for letter, end in zip("ab", ends, strict=False):
        facts |= {letter: end.name, f"{letter}_kind": end.kind}
        if end.kind == "image":
            facts[f"{letter}_sha256"] = sha256_of(Path(end.name))
    return facts


def _compared(image: "Image", data: bytes) -> str:
    """How a picture differs from that of a file, in words."""
    import numpy as np  # noqa: PLC0415
    from PIL import Image as Pictures  # noqa: PLC0415

    with Pictures.open(io.BytesIO(data)) as before:
        if (before.mode, before.size) != (image.mode, image.size):
            return f"warning: it was {before.mode} of {before.size}, and is {image.mode} of {image.size}"
        difference = np.abs(np.asarray(before).astype(int) - np.asarray(image).astype(int))
    if not difference.any():
        return "the same, bit for bit"
    pixels = int(difference.any(-1).sum())
    why = "another machine, number of threads or version made it, or it was changed"
    return f"warning: {pixels} pixels differ, by up to {difference.max()} of 255; {why}"
