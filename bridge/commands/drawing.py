"""bridge generate."""

import argparse
import sys

from bridge.arguments import writable_folder
from bridge.commands.common import (
    check_caption,
    check_rendering,
    learn_model,
    load_model,
    one_line,
    read_captions,
    words,
    write_picture,
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
}


def generate(args: argparse.Namespace) -> None:
    """Several images of each caption, their manifest and a contact sheet."""
    captions = read_captions(args.caption, args.captions)
    with writing("--out"):
        Manifest(args.out)  # is it ours?
    pipe = load_model(args.model) if args.pairs is None else learn_model(args, "--pairs")
    for caption in captions:
        check_caption("CAPTION", caption, pipe)
    if args.negative is not None:
        check_caption("--negative", args.negative, pipe)
    asked = {name: getattr(args, option[2:].replace("-", "_")) for name, option in SAMPLING.items()}
    asked["compose"] = False if args.no_compose else None
    with words(SAMPLING):
        settings = pipe.resolve(**asked)
    check_rendering(pipe, args)
    writable_folder(args.out)
    rendered = {"size": args.size, "transparent": args.transparent}
    with writing("--out"):
        writer = Writer(args.out, pipe, settings, args.negative, kind=args.format, **rendered)
    sheet = Sheet([pipe.text_encoder.prepare(caption) for caption in captions], args.n)
    total = args.n * len(captions)
    for done, item in enumerate(pipe.stream(captions, args.n, seed=args.seed, **asked, **rendered), start=1):
        if item.index == 0 and item.note:
            tell(f"{item.prompt!r} is {item.note}")
        path = write_picture(writer, pipe, item, args)
        print(one_line(path), flush=done % 100 == 0)
        sheet.add(item)
        if sys.stderr.isatty():
            print(f"\r{done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    if not args.no_sheet:
        with writing("--out"):
            path = sheet.save(args.out, args.seed, writer.key)
        print(one_line(path))
