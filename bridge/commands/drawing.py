"""bridge generate and bridge learn."""

import argparse
import sys

from bridge.commands.common import (
    RENDERING,
    check_caption,
    check_svg,
    learn_model,
    load_model,
    one_line,
    prefixed,
    prepare_folder,
    read_captions,
    traced,
    words,
    writing,
)
from bridge.manifest import Manifest
from bridge.writing import Sheet, Writer, tell

SAMPLING = {
    "guidance_scale": "--guidance-scale",
    "num_inference_steps": "--steps",
    "temperature": "--temperature",
    "negative_prompt": "--negative",
    "novelty": "--novelty",
    "style": "--style",
    **RENDERING,
}


def generate(args: argparse.Namespace) -> None:
    """bridge generate.

    Raises:
        UsageError: An argument cannot be used; nothing has been written then.
    """
    captions = read_captions(args.caption, args.captions)
    with writing("--out"):
        Manifest(args.out)  # is it ours?
    pipe = load_model(args.model) if args.pairs is None else learn_model(args, "--pairs")
    for caption in captions:
        check_caption("CAPTION", caption, pipe)
    if args.negative is not None:
        check_caption("--negative", args.negative, pipe)
    compose = False if args.no_compose else None
    with words(SAMPLING):
        settings = pipe.resolve(
            args.guidance_scale, args.steps, args.temperature, args.negative, args.novelty, args.style, compose
        )
        pipe.codec.check_render(args.size, args.transparent)
        check_svg(pipe, args)
    prepare_folder(args.out)
    with writing("--out"):
        writer = Writer(
            args.out, pipe, settings, args.negative, size=args.size, transparent=args.transparent, kind=args.format
        )
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
        compose=compose,
        size=args.size,
        transparent=args.transparent,
    )
    total = args.n * len(captions)
    for done, item in enumerate(images, start=1):
        if item.index == 0 and item.note:
            tell(f"{item.prompt!r} is {item.note}")
        with writing("--out"):
            path = writer.write(item, traced(pipe, item, args))
        print(one_line(path), flush=done % 100 == 0)
        sheet.add(item)
        if sys.stderr.isatty():
            print(f"\r{done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    if not args.no_sheet:
        with writing("--out"):
            path = sheet.save(args.out, args.seed, writer.key)
        print(one_line(path))


def learn(args: argparse.Namespace) -> None:
    """bridge learn.

    Raises:
        UsageError: An argument cannot be used; nothing has been written then.
    """
    from bridge.about import learnt_card  # noqa: PLC0415
    from bridge.checkpoint import check_replaceable  # noqa: PLC0415

    prepare_folder(args.out.parent)
    with prefixed("--out"):
        check_replaceable(args.out)
    pipe = learn_model(args, "SOURCE")
    with writing("--out"):
        pipe.save_pretrained(args.out, learnt_card(pipe, args.pairs))
    print(one_line(args.out))
