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
from typing import Any

from bridge.arguments import MAX_IMAGES_PER_PROMPT, writable_folder
from bridge.captions import well_formed
from bridge.checkpoint import atomic_write
from bridge.errors import UserError
from bridge.images import contact_sheet, save_png
from bridge.manifest import MANIFEST
from bridge.mappers import VelocityMapper
from bridge.pipeline import BridgePipeline
from bridge.writing import brief
from eval.baselines import text_codes
from eval.data import Pictures, why_single
from eval.features import KNOWN, EfficientNetLite0, extractor
from eval.judge import Generate, Judge
from eval.page import to_html
from eval.report import ROWS, check_counts, evaluate, to_json, to_text, trade_off
from eval.samples import Gallery, Generated, first_captions, generate_with, varied
from train.command import Parser, number, run_command, say, spelled, whole, writable_file

NAME = "python -m eval"
EXAMPLE = f"{NAME} pictures --data data/pictures --quick --out report\n{NAME} pictures --split seen --sheet seen.png"
QUICK, SHEETS = 24, 8  # Captions of a row that a quick report judges, and that any report shows
SHEET_CAPTIONS = 10
SECOND = "efficientnet-lite2"
GUIDANCE, TEMPERATURES, TRADE_OFF_CAPTIONS = (1.0, 1.5, 2.0, 3.0), (0.8, 1.0, 1.2), 40  # The trade-off curve
SETTINGS = {
    "guidance_scale": (number(0, 100), "G", "1 follows the caption, more exaggerates it"),
    "num_inference_steps": (whole(1, 1000), "K", "of the solver"),
    "temperature": (number(0, 10), "T", "factor on the noise"),
    "familiar": (number(-1, 1), "COSINE", "captions with no known one as near are unfamiliar"),
    "neighbour_temperature": (number(0), "T", "of the draw among known captions for an unfamiliar one"),
    "compose": (whole(0, 1), "0|1", "whether two things are composed and things painted in other colours"),
    "novelty": (number(-1, 1), "X", "how far from a local flow's memory"),
    "window": (number(above=0), "S", "of a local flow at t = 0, in grid positions"),
    "perplexity": (number(1), "P", "pictures that a local flow effectively draws from"),
    "lead": (number(0), "L", "how much more the picture weighs that leads an image of a local flow"),
    "strength": (number(0), "S", "factor on a local flow's learned correction"),
    "begin": (number(0, 1), "T", "time from which on it corrects"),
}
"""Type, metavar and meaning of what may be compared."""
CALL = ("guidance_scale", "num_inference_steps", "temperature", "compose", "novelty")
"""Those of them that a call of the pipeline takes."""


def build_parser() -> Parser:
    parser = Parser(NAME, __doc__, EXAMPLE)
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
    nearer = "steps that bring the codec's reconstructions, and pictures retrieved, nearer to real ones (default 0)"
    add("--refine", type=whole(0), default=0, help=nearer)
    add("-n", type=whole(1, MAX_IMAGES_PER_PROMPT), default=4, help="pictures a caption on a sheet")
    add("--seed", type=whole(0), default=0, help="key of all randomness")
    for name, (kind, metavar, meaning) in SETTINGS.items():
        option = "--steps" if name == "num_inference_steps" else f"--{name.replace('_', '-')}"
        more = meaning + "; several are compared; by default the model's own"
        add(option, type=kind, nargs="+", default=[None], metavar=metavar, help=more, dest=name)
    return parser


def models_of(pipe: BridgePipeline, args: argparse.Namespace) -> dict[str, Generate]:
    """One model for every combination of the settings given, named after those that vary."""
    axes = {name: getattr(args, name) for name in SETTINGS}
    models = {}
    for values in itertools.product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        call = {name: settings[name] for name in CALL}
        pipe.resolve(**call)
        name = ", ".join(f"{name}={value:g}" for name, value in settings.items() if len(axes[name]) > 1)
        models[name or "model"] = generate_with(varied(pipe, settings), args.seed, call)
    return models


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when report or sheet is written, 2 for bad input."""
    command = spelled(NAME, argv)
    return run_command(build_parser(), argv, lambda args: _sheet(args) if args.sheet else _report(args, command))


def _sheet(args: argparse.Namespace) -> None:
    """Draw a contact sheet of n pictures of each caption; a note says why to trust a caption's less."""
    writable_file(args.sheet, "--sheet")
    pipe = BridgePipeline.from_pretrained(args.model)
    captions = first_captions(Pictures.load(args.data), args.split, args.captions or SHEET_CAPTIONS)
    output = pipe(captions, args.n, seed=args.seed)
    rows = [output.images[i : i + args.n] for i in range(0, len(output.images), args.n)]
    sheet = contact_sheet(rows, captions, list(map(brief, output.notes)))
    save_png(sheet, args.sheet, {"model": pipe.fingerprint, "seed": args.seed})
    print(args.sheet)


def _report(args: argparse.Namespace, command: str) -> None:
    """Judge a model, or pictures that somebody generated: these have no codec and no text encoder, so no baselines."""
    if args.split not in ROWS:
        raise UserError(f"--split: expected one of {', '.join(ROWS)}, got {args.split!r}; others have sheets alone")
    captions = args.captions or (QUICK if args.quick else None)
    check_counts(args.samples, captions)
    out, pipe, codec = writable_folder(args.out), None, None
    known: dict[str, Any] = {"split": args.split, "n": args.samples, "captions": captions, "seed": args.seed}
    if (Path(args.model) / MANIFEST).exists():
        pictures = Generated.load(args.model)
        models: dict[str, Generate] = {"pictures": pictures}
        known["only"] = pictures.captions(args.samples)
        about = {"command": command, "model": ", ".join(pictures.models)}
    else:
        pipe = BridgePipeline.from_pretrained(args.model)
        models, codec = models_of(pipe, args), pipe.codec
        known |= {"codec": codec, "encode_text": text_codes(pipe.text_encoder), "refine": args.refine}
        about = {"command": command, "model": pipe.fingerprint, "settings": str(pipe.settings)}
    data = Pictures.load(args.data)
    why = why_single(data, tuple(ROWS[args.split].values()))
    if why is not None:
        say(f"judged singly: {why}")
    judge = Judge.load(data, EfficientNetLite0(), say, why)
    second = None if args.quick else Judge.load(data, extractor(args.second, codec), say, why)

    def note(caption: str) -> str | None:
        return None if pipe is None else pipe.note(pipe.text_encoder.encode([caption]))

    gallery = Gallery(SHEETS, next(iter(models.values())), args.samples, note)
    report = evaluate(models, judge, second=second, say=say, watch=gallery, about=about, **known)
    if pipe is not None and judge.singly is None and not args.quick:
        # Settings are never chosen on test.
        scales = GUIDANCE if isinstance(pipe.mapper, VelocityMapper) else (1.0,)
        say(f"trade-off: {len(scales)} guidance scales, {len(TEMPERATURES)} temperatures")
        curve, steps = {}, {"num_inference_steps": args.num_inference_steps[0]}
        for scale, temperature in itertools.product(scales, TEMPERATURES):
            call = {"guidance_scale": scale, "temperature": temperature} | steps
            curve[scale, temperature] = generate_with(pipe, args.seed, call)
        few = min(args.captions or TRADE_OFF_CAPTIONS, TRADE_OFF_CAPTIONS)
        points = trade_off(curve, judge, split="validation", n=args.samples, captions=few, seed=args.seed)
        report = replace(report, trade_off=points)
    atomic_write(out / "report.html", well_formed(to_html(report, gallery.shown)).encode())
    atomic_write(out / "report.json", to_json(report))
    print(to_text(report))
    print(out / "report.html")


if __name__ == "__main__":
    sys.exit(main())
