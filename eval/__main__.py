"""python -m eval MODEL --data data/emoji --out report/: judge a model, in one page and one file of figures."""

import argparse
import copy
import functools
import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bridge.checkpoint import atomic_write
from bridge.mappers import VelocityMapper
from bridge.noise import generator_for
from bridge.pipeline import BridgePipeline
from eval.cache import caption_number
from eval.command import fitted
from eval.data import Pictures
from eval.decoded import text_codes
from eval.extractors import KNOWN, extractor
from eval.features import EfficientNetLite0
from eval.gallery import Gallery, Sheets
from eval.generated import MANIFEST, Generated
from eval.judge import Judge
from eval.page import to_html
from eval.report import ROWS, Report, TradeOff, check_counts, evaluate, trade_off
from eval.single_report import SingleReport, evaluate_single
from eval.single_space import why_single
from eval.stream import Generate
from eval.table import to_json, to_text
from train.command import Parser, number, run_command, say, spelled, whole, writable_folder

NAME = "python -m eval"
CHUNK = 64
QUICK, SHEETS = 24, 8
"""Captions of a row that a quick report judges, and that any report shows."""
SECOND = "efficientnet-lite2"
GUIDANCE, TEMPERATURES, TRADE_OFF_CAPTIONS = (1.0, 1.5, 2.0, 3.0), (0.8, 1.0, 1.2), 40
"""The trade-off curve."""


def generate_with(
    pipe: BridgePipeline,
    seed: int = 0,
    *,
    guidance_scale: float | None = None,
    num_inference_steps: int | None = None,
    temperature: float | None = None,
) -> Generate:
    """A pipeline as the report wants it: captions and n to pictures (captions, n, 3, H, W).

    Noise is keyed by caption too: one seed's images share theirs across captions, which would make the
    captions' errors agree and every interval over captions too narrow.

    Args:
        pipe: The model.
        seed: Of the noise.
        guidance_scale: Like the next two, the model's default where absent.
        num_inference_steps: Solver steps.
        temperature: Factor on the noise.
    """

    def generate(captions: Sequence[str], n: int) -> Tensor:
        parts = []
        for start in range(0, len(captions), CHUNK):
            some = list(captions[start : start + CHUNK])
            noise = [generator_for(seed, caption_number(c), i) for c in some for i in range(n)]
            output = pipe(
                some,
                n,
                generator=noise,
                guidance_scale=guidance_scale,
                num_inference_steps=num_inference_steps,
                temperature=temperature,
                output_type="pt",
            )
            parts.append(output.images.unflatten(0, (len(some), n)))
        return torch.cat(parts)

    return generate


def with_neighbours(
    pipe: BridgePipeline, familiar: float | None, neighbour_temperature: float | None
) -> BridgePipeline:
    """The same model with other values of these `Settings`; None keeps the model's."""
    chosen: dict[str, Any] = {"familiar": familiar, "neighbour_temperature": neighbour_temperature}
    other = copy.copy(pipe)
    other.settings = replace(pipe.settings, **{k: v for k, v in chosen.items() if v is not None})
    return other


def build_parser() -> Parser:
    """The command's arguments."""
    parser = Parser(NAME, __doc__, f"{NAME} emoji --data data/emoji --quick --out report")
    parser.add_argument("model", help="a shipped model's name, a model folder, a hub id, or a folder of pictures")
    parser.add_argument("--data", default="data/emoji", help="a saved dataset with columns image, label, split")
    parser.add_argument("--split", choices=sorted(ROWS), default="validation", help="choose on validation")
    parser.add_argument("--out", default="report", help="folder for report.json and report.html")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} captions a row, one extractor, no trade-off")
    parser.add_argument("--captions", type=whole(2), help="judge at most so many captions of each row")
    parser.add_argument(
        "--second", default=SECOND, metavar="EXTRACTOR", help=f"repeat with this: {', '.join(KNOWN)}, …"
    )
    parser.add_argument("--samples", type=whole(2), default=4, help="pictures a caption, at least 2")
    parser.add_argument("--seed", type=whole(0), default=0, help="key of all randomness")
    for option, kind, metavar, told in (
        ("--guidance-scale", number(0, 100), "G", "1 follows the caption, more exaggerates it"),
        ("--steps", whole(1, 1000), "K", "of the solver"),
        ("--temperature", number(0, 10), "T", "factor on the noise"),
        ("--familiar", number(-1, 1), "COSINE", "captions with no known one as near are unfamiliar"),
        ("--neighbour-temperature", number(0), "T", "of the draw among known captions for an unfamiliar one"),
    ):
        more = "; several are compared; by default the model's own"
        parser.add_argument(option, type=kind, nargs="+", default=[None], metavar=metavar, help=told + more)
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
    }
    models = {}
    for values in itertools.product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        call = {name: settings[name] for name in ("guidance_scale", "num_inference_steps", "temperature")}
        pipe.resolve(**call)
        other = with_neighbours(pipe, settings["familiar"], settings["neighbour_temperature"])
        varied = [f"{name}={value:g}" for name, value in settings.items() if len(axes[name]) > 1]
        models[", ".join(varied) or "model"] = generate_with(other, args.seed, **call)
    return models


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the report is written, 2 for bad input."""
    return run_command(build_parser(), argv, lambda args: _run(args, spelled(NAME, argv)))


def _run(args: argparse.Namespace, command: str) -> None:
    captions = QUICK if args.quick and args.captions is None else args.captions
    check_counts(args.samples, captions)
    out = writable_folder(args.out)
    if (Path(args.model) / MANIFEST).exists():
        report, shown = _report_of_pictures(args, captions, command)
    else:
        report, shown = _report_of_model(args, captions, command)
    atomic_write(out / "report.html", to_html(report, shown).encode())
    atomic_write(out / "report.json", to_json(report))
    print(to_text(report))
    print(out / "report.html")


def _load(args: argparse.Namespace) -> tuple[Pictures, str | None]:
    """The dataset, and why it is judged singly, if it is."""
    data = Pictures.load(args.data)
    why = why_single(data, tuple(ROWS[args.split].values()))
    if why is not None:
        say(f"judged singly: {why}")
    return data, why


def _report_of_pictures(
    args: argparse.Namespace, captions: int | None, command: str
) -> tuple[Report | SingleReport, Sheets]:
    """Of pictures that somebody generated: no codec and no text encoder, hence no baselines."""
    pictures = Generated.load(args.model)
    data, why = _load(args)
    judge = fitted(data, EfficientNetLite0(), why)
    second = None if args.quick else fitted(data, extractor(args.second), why)
    gallery = Gallery(SHEETS, pictures, args.samples, lambda asked: [None] * len(asked))
    judged = evaluate if why is None else functools.partial(evaluate_single, why=why)
    report = judged(
        {"pictures": pictures},
        judge,
        split=args.split,
        second=second,
        n=args.samples,
        captions=captions,
        only=pictures.captions(args.samples),
        seed=args.seed,
        say=say,
        watch=gallery,
        about={"command": command, "model": ", ".join(pictures.models)},
    )
    return report, gallery.shown


def _report_of_model(
    args: argparse.Namespace, captions: int | None, command: str
) -> tuple[Report | SingleReport, Sheets]:
    pipe = BridgePipeline.from_pretrained(args.model)
    models = models_of(pipe, args)
    data, why = _load(args)
    judge = fitted(data, EfficientNetLite0(), why)
    second = None if args.quick else fitted(data, extractor(args.second, pipe.codec), why)
    first = next(iter(models.values()))
    gallery = Gallery(
        SHEETS, first, args.samples, lambda asked: [pipe.note(pipe.text_encoder.encode([c])) for c in asked]
    )
    judged = evaluate if why is None else functools.partial(evaluate_single, why=why)
    report = judged(
        models,
        judge,
        split=args.split,
        codec=pipe.codec,
        encode_text=text_codes(pipe.text_encoder),
        second=second,
        n=args.samples,
        captions=captions,
        seed=args.seed,
        say=say,
        watch=gallery,
        about={"command": command, "model": pipe.fingerprint, "settings": str(pipe.settings)},
    )
    if isinstance(report, Report) and not args.quick:
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
