"""Judge a model, in one page and one file of figures; or draw a sheet of unselected samples.

MODEL may also be a folder of pictures that `bridge generate` wrote. A sheet (--sheet) shows the first captions of a
split by the hash of their label, one a family: nobody chose them.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bridge.arguments import MAX_IMAGES_PER_PROMPT
from bridge.captions import well_formed
from bridge.checkpoint import atomic_write
from bridge.errors import UserError
from bridge.manifest import MANIFEST
from bridge.mappers import VelocityMapper
from bridge.pipeline import BridgePipeline
from eval.baselines import text_codes
from eval.data import Pictures, why_single
from eval.extractors import KNOWN, extractor
from eval.features import EfficientNetLite0
from eval.judge import Judge
from eval.page import to_html
from eval.report import ROWS, Report, TradeOff, check_counts, evaluate, to_json, to_text, trade_off
from eval.samples import (
    Gallery,
    Generated,
    Sheets,
    draw_sheet,
    first_captions,
    generate_with,
    with_memory,
    with_neighbours,
)
from eval.stream import Generate
from train.command import Parser, number, run_command, say, spelled, whole, writable_file, writable_folder

NAME = "python -m eval"
QUICK, SHEETS = 24, 8
"""Captions of a row that a quick report judges, and that any report shows."""
SHEET_CAPTIONS = 10
SECOND = "efficientnet-lite2"
GUIDANCE, TEMPERATURES, TRADE_OFF_CAPTIONS = (1.0, 1.5, 2.0, 3.0), (0.8, 1.0, 1.2), 40
"""The trade-off curve."""


def build_parser() -> Parser:
    """The command's arguments."""
    example = (
        f"{NAME} pictures --data data/pictures --quick --out report\n{NAME} pictures --split seen --sheet seen.png"
    )
    parser = Parser(NAME, __doc__, example)
    add = parser.add_argument
    add("model", help="a shipped model's name, a model folder, a hub id, or a folder of pictures")
    add("--data", default="data/pictures", help="a saved dataset with columns image, label, split")
    add("--split", default="validation", help="validation, to choose on, or test; of a sheet any split of the data")
    add("--out", default="report", help="folder for report.json and report.html")
    add("--sheet", type=Path, metavar="PNG", help="draw a sheet of samples, and no report")
    add("--quick", action="store_true", help=f"{QUICK} captions a row, one extractor, no trade-off")
    add("--captions", type=whole(1), help=f"at most so many captions of each row; {SHEET_CAPTIONS} on a sheet")
    add("--second", default=SECOND, metavar="EXTRACTOR", help=f"repeat with this: {', '.join(KNOWN)}, …")
    add("--samples", type=whole(2), default=4, help="pictures a caption, at least 2")
    add("-n", type=whole(1, MAX_IMAGES_PER_PROMPT), default=4, help="pictures a caption on a sheet")
    add("--seed", type=whole(0), default=0, help="key of all randomness")
    for option, kind, metavar, meaning in (
        ("--guidance-scale", number(0, 100), "G", "1 follows the caption, more exaggerates it"),
        ("--steps", whole(1, 1000), "K", "of the solver"),
        ("--temperature", number(0, 10), "T", "factor on the noise"),
        ("--familiar", number(-1, 1), "COSINE", "captions with no known one as near are unfamiliar"),
        ("--neighbour-temperature", number(0), "T", "of the draw among known captions for an unfamiliar one"),
        ("--window", number(above=0), "S", "of a local flow at t = 0, in grid positions"),
        ("--perplexity", number(1), "P", "pictures that a local flow effectively draws from"),
        ("--strength", number(0), "S", "factor on a local flow's learned correction"),
    ):
        more = "; several are compared; by default the model's own"
        add(option, type=kind, nargs="+", default=[None], metavar=metavar, help=meaning + more)
    return parser


def models_of(pipe: BridgePipeline, args: argparse.Namespace) -> dict[str, Generate]:
    """One model for every combination of the settings given, named after those that vary.

    Raises:
        ValueError: A setting is out of its range.
    """
    axes = {
        "guidance_scale": args.guidance_scale,
        "num_inference_steps": args.steps,
        "temperature": args.temperature,
        "familiar": args.familiar,
        "neighbour_temperature": args.neighbour_temperature,
        "window": args.window,
        "perplexity": args.perplexity,
        "strength": args.strength,
    }
    models = {}
    for values in itertools.product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        call = {name: settings[name] for name in ("guidance_scale", "num_inference_steps", "temperature")}
        pipe.resolve(**call)
        other = with_memory(pipe, settings["window"], settings["perplexity"], settings["strength"])
        other = with_neighbours(other, settings["familiar"], settings["neighbour_temperature"])
        varied = [f"{name}={value:g}" for name, value in settings.items() if len(axes[name]) > 1]
        models[", ".join(varied) or "model"] = generate_with(other, args.seed, **call)
    return models


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when report or sheet is written, 2 for bad input."""
    return run_command(
        build_parser(), argv, lambda args: _sheet(args) if args.sheet else _report(args, spelled(NAME, argv))
    )


def _sheet(args: argparse.Namespace) -> None:
    writable_file(args.sheet, "--sheet")
    pipe = BridgePipeline.from_pretrained(args.model)
    captions = first_captions(Pictures.load(args.data), args.split, args.captions or SHEET_CAPTIONS)
    draw_sheet(pipe, captions, args.n, args.seed, args.sheet)
    print(args.sheet)


def _report(args: argparse.Namespace, command: str) -> None:
    if args.split not in ROWS:
        raise UserError(f"--split: expected one of {', '.join(ROWS)}, got {args.split!r}; others have sheets alone")
    check_counts(args.samples, args.captions or (QUICK if args.quick else None))
    out = writable_folder(args.out)
    folder = (Path(args.model) / MANIFEST).exists()
    report, shown = (_of_pictures if folder else _of_model)(args, command)
    atomic_write(out / "report.html", well_formed(to_html(report, shown)).encode())
    atomic_write(out / "report.json", to_json(report))
    print(to_text(report))
    print(out / "report.html")


def _judges(args: argparse.Namespace, pipe: BridgePipeline | None) -> tuple[Judge, Judge | None]:
    """The judge, and the one by a second extractor unless the report is a quick one."""
    data = Pictures.load(args.data)
    why = why_single(data, tuple(ROWS[args.split].values()))
    if why is not None:
        say(f"judged singly: {why}")
    first = Judge.of(data, EfficientNetLite0(), why, say)
    if args.quick:
        return first, None
    return first, Judge.of(data, extractor(args.second, None if pipe is None else pipe.codec), why, say)


def _of_pictures(args: argparse.Namespace, command: str) -> tuple[Report, Sheets]:
    """Of pictures that somebody generated: no codec and no text encoder, hence no baselines."""
    pictures = Generated.load(args.model)
    judge, second = _judges(args, None)
    gallery = Gallery(SHEETS, pictures, args.samples, lambda asked: [None] * len(asked))
    report = evaluate(
        {"pictures": pictures},
        judge,
        split=args.split,
        second=second,
        n=args.samples,
        captions=args.captions or (QUICK if args.quick else None),
        only=pictures.captions(args.samples),
        seed=args.seed,
        say=say,
        watch=gallery,
        about={"command": command, "model": ", ".join(pictures.models)},
    )
    return report, gallery.shown


def _of_model(args: argparse.Namespace, command: str) -> tuple[Report, Sheets]:
    pipe = BridgePipeline.from_pretrained(args.model)
    models = models_of(pipe, args)
    judge, second = _judges(args, pipe)
    notes = lambda asked: [pipe.note(pipe.text_encoder.encode([c])) for c in asked]  # noqa: E731
    gallery = Gallery(SHEETS, next(iter(models.values())), args.samples, notes)
    report = evaluate(
        models,
        judge,
        split=args.split,
        codec=pipe.codec,
        encode_text=text_codes(pipe.text_encoder),
        second=second,
        n=args.samples,
        captions=args.captions or (QUICK if args.quick else None),
        seed=args.seed,
        say=say,
        watch=gallery,
        about={"command": command, "model": pipe.fingerprint, "settings": str(pipe.settings)},
    )
    if judge.singly is None and not args.quick:
        report = replace(report, trade_off=_trade_off(pipe, judge, args))
    return report, gallery.shown


def _trade_off(pipe: BridgePipeline, judge: Judge, args: argparse.Namespace) -> dict[str, list[TradeOff]]:
    """The model's headlines over guidance and temperature, on validation: settings are never chosen on test."""
    scales = GUIDANCE if isinstance(pipe.mapper, VelocityMapper) else (1.0,)
    say(f"trade-off: {len(scales)} guidance scales, {len(TEMPERATURES)} temperatures")
    models = {
        (scale, temperature): generate_with(
            pipe, args.seed, guidance_scale=scale, num_inference_steps=args.steps[0], temperature=temperature
        )
        for scale in scales
        for temperature in TEMPERATURES
    }
    captions = TRADE_OFF_CAPTIONS if args.captions is None else min(args.captions, TRADE_OFF_CAPTIONS)
    return trade_off(models, judge, split="validation", n=args.samples, captions=captions, seed=args.seed)


if __name__ == "__main__":
    sys.exit(main())
