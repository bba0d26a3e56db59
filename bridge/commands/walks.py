"""bridge interpolate, edit, vary and redo: from pictures or captions to others near or between them, or the same."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.arguments import number, whole, writable_folder
from bridge.commands.common import (
    as_caption,
    check_caption,
    check_out,
    check_rendering,
    learn_model,
    load_model,
    one_line,
    prefixed,
    read_file,
    words,
    write_picture,
    writing,
)
from bridge.errors import UserError
from bridge.writing import Writer, save_gif, save_walk, tell

if TYPE_CHECKING:
    from PIL.Image import Image

    from bridge.explore import End
    from bridge.pipeline import BridgePipeline


def interpolate(args: argparse.Namespace) -> None:
    """The pictures between two images or captions."""
    from bridge.explore import between, weights  # noqa: PLC0415

    kind = args.kind or ("linear" if args.space == "latent" else "spherical")
    check_out(args.out, {"A": args.a, "B": args.b})
    if args.gif is not None:
        check_out(args.gif, {"A": args.a, "B": args.b}, (".gif",), "--gif")
    with words({"steps": "--steps"}):
        places = weights(args.steps)
    pipe = load_model(args.model)
    with words({"num_inference_steps": "--sampling-steps"}):
        pipe.resolve(num_inference_steps=args.sampling_steps)
    ends = [open_named(pipe, argument, name, args.seed) for argument, name in (("A", args.a), ("B", args.b))]
    with words({"num_inference_steps": "--sampling-steps", "space": "--space"}), prefixed("--space"):
        z = between(
            pipe, ends[0], ends[1], args.steps, space=args.space, kind=kind, num_inference_steps=args.sampling_steps
        )
    facts = {"space": args.space, "kind": kind, "steps": args.steps, **facts_of_ends(pipe, args.seed, ends)}
    if args.sampling_steps is not None:
        facts["sampling_steps"] = args.sampling_steps
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
        print(one_line(path))


def edit(args: argparse.Namespace) -> None:
    """More of one caption and less of another in an image."""
    from bridge import explore  # noqa: PLC0415
    from bridge.images import save_png  # noqa: PLC0415

    if args.plus is None and args.minus is None:
        raise UserError("--plus, --minus: none given; name a caption to have more of, or less of")
    check_out(args.out, {"IMAGE": args.start})
    with words({"scale": "--scale"}):
        number(args.scale, "scale", -explore.MAX_SCALE, explore.MAX_SCALE)
    pipe = load_model(args.model)
    for argument, caption in (("--plus", args.plus), ("--minus", args.minus)):
        if caption is not None:
            check_caption(argument, caption, pipe)
    start = open_named(pipe, "IMAGE", args.start, args.seed)
    z = explore.edit(pipe, start, args.plus, args.minus, scale=args.scale, seed=args.seed)
    said = {"plus": args.plus, "minus": args.minus, "scale": args.scale, **facts_of_ends(pipe, args.seed, [start])}
    writable_folder(args.out.parent)
    with writing("--out"):
        save_png(pipe.decode(z[None])[0], args.out, {k: v for k, v in said.items() if v is not None})
    print(one_line(args.out))


def vary(args: argparse.Namespace) -> None:
    """Pictures around an image."""
    from bridge import explore  # noqa: PLC0415
    from bridge.manifest import Manifest  # noqa: PLC0415
    from bridge.pipeline import GeneratedImage  # noqa: PLC0415

    with words({"distance": "--distance", "n": "-n"}):
        number(args.distance, "distance", 0, 1)
        whole(args.n, "n", 1, explore.MAX_STEPS)
    with writing("--out"):
        Manifest(args.out)  # is it ours?
    pipe = load_model(args.model)
    if args.caption is not None:
        check_caption("--caption", args.caption, pipe)
    check_rendering(pipe, args)
    start = open_named(pipe, "IMAGE", args.start, args.seed)
    shown = args.caption if args.caption is not None else explore.caption_shown(pipe, start)
    if shown != start.name:
        tell(f"{start.name!r} is taken to show {shown!r}" if shown else f"what {start.name!r} shows is not known")
    z = explore.vary(pipe, start, args.n, shown=shown, distance=args.distance, seed=args.seed)
    more = {**facts_of_ends(pipe, args.seed, [start]), "shown": shown, "distance": args.distance}
    writable_folder(args.out)
    with writing("--out"):
        writer = Writer(
            args.out, pipe, pipe.settings, None,
            size=args.size, transparent=args.transparent, kind=args.format, more=more,
        )  # fmt: skip
    name = start.name if start.kind == "caption" else Path(start.name).stem
    for index, image in enumerate(pipe.decode(z, args.size, args.transparent)):
        item = GeneratedImage(image, name, 0, index, args.seed, None, z[index])
        print(one_line(write_picture(writer, pipe, item, args)))


def redo(args: argparse.Namespace) -> None:
    """A picture again from its own text chunks, and whether it is the same."""
    from bridge.again import remake  # noqa: PLC0415
    from bridge.images import read_facts, save_picture  # noqa: PLC0415

    check_out(args.out, {"PNG": args.png}, (".png", ".webp"))
    data = read_file(args.png, "PNG")
    with prefixed("PNG"):
        facts = read_facts(data)
        if not facts:
            told = "another program may have taken its text chunks out"
            raise UserError(f"PNG: {args.png} holds nothing that bridge wrote; {told}")
    pipe = load_model(args.model) if args.pairs is None else learn_model(args, "--pairs")
    with prefixed("PNG"):
        image = remake(pipe, facts)
    writable_folder(args.out.parent)
    with writing("--out"):
        save_picture(image, args.out, facts)
    tell(_compared(image, data))
    print(one_line(args.out))


def _compared(image: "Image", data: bytes) -> str:
    """Whether a picture is that of a file, in words."""
    import io  # noqa: PLC0415

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


def open_named(pipe: "BridgePipeline", argument: str, name: str, seed: int) -> "End":
    from bridge.explore import is_image, open_end  # noqa: PLC0415

    with words({"prompt": argument, "caption": argument}), prefixed(argument):
        end = open_end(pipe, name if is_image(name) else as_caption(name), seed)
    tell(f"{argument} is {'the image' if end.kind == 'image' else 'the caption'} {end.name!r}")
    if end.note:
        tell(f"{end.name!r} is {end.note}")
    return end


def facts_of_ends(pipe: "BridgePipeline", seed: int, ends: Sequence["End"]) -> dict[str, str | float | int]:
    """What a picture tells of the model, its settings and what it was made from."""
    from dataclasses import asdict  # noqa: PLC0415

    from bridge.checkpoint import sha256_of  # noqa: PLC0415

    facts: dict[str, str | float | int] = {"model": pipe.fingerprint, "seed": seed, **asdict(pipe.settings)}
    for letter, end in zip("ab", ends, strict=False):
        facts |= {letter: end.name, f"{letter}_kind": end.kind}
        if end.kind == "image":
            facts[f"{letter}_sha256"] = sha256_of(Path(end.name))
    return facts
