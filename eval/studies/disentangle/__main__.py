"""python -m eval.studies.disentangle CODEC [CODEC ...] --data data/shapes --out report: do latents stand for factors?

CODEC is a `vae` folder of train.autoencoder. On a dataset of train.recipes shapes: MIG, SAP and DCI on held-out
pictures, beside the pictures' own principal components and the factors themselves, and for each codec a sheet of
traversals. With --real, on a dataset of train.recipes emoji: how well a linear probe tells what labels say of skin
tone, hair, age, gender and expression.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bridge.checkpoint import atomic_write
from bridge.codecs import ImageCodec, load_codec
from bridge.errors import UserError
from bridge.images import contact_sheet, save_png, to_pil
from eval import plots
from eval.baselines import flat_latents
from eval.data import Pictures
from eval.plots import Curve, to_svg
from eval.report import to_json
from eval.studies.disentangle.codecs import MEASURES, CodecFigures, Factors, Figures
from eval.studies.disentangle.emoji import FACTORS, Known, Readout, probe
from eval.studies.disentangle.traversal import Axes, strip
from eval.table import table
from train.command import Parser, number, run_command, say, spelled, whole, writable_folder
from train.copies import thumbnails

NAME = "python -m eval.studies.disentangle"
STEPS, CELL, THUMBNAIL = 8, 48, 8
"""Pictures of a traversal, their side on the sheet, and the side of thumbnails that codes are compared with."""


@dataclass(frozen=True)
class FactorsReport:
    """Factors known by construction.

    Args:
        split: Whose pictures.
        pictures: How many.
        halves: Random halves behind each range.
        codecs: By name.
        controls: The same measures where no codec had a hand.
        about: Command and fingerprints.
    """

    split: str
    pictures: int
    halves: int
    codecs: dict[str, CodecFigures]
    controls: dict[str, Figures]
    about: dict[str, str]


@dataclass(frozen=True)
class RealReport:
    """Factors that labels carry: by codec (and "thumbnails") and factor, why factors are absent, the command."""

    codecs: dict[str, dict[str, Readout]]
    absent: dict[str, str]
    about: dict[str, str]


def load_codecs(folders: Sequence[Path]) -> dict[str, ImageCodec]:
    """Codecs by the name of their folder, or of the run that a folder `vae` is in."""
    codecs: dict[str, ImageCodec] = {}
    for folder in folders:
        if not (folder / "config.json").exists():
            raise UserError(
                f"codec: {folder} holds no codec; name the `vae` folder of a finished run of train.autoencoder"
            )
        name = folder.resolve().parent.name if folder.name == "vae" else folder.name
        if name in codecs:
            raise UserError(f"codec: two are called {name!r}; rename one of the folders")
        codecs[name] = load_codec(folder)
    return codecs


def to_text(report: FactorsReport) -> str:
    """One line a coordinate system, and what stands beside it."""
    lines = [f"{report.pictures} pictures of {report.split}; mean [smallest, largest] of {report.halves} random halves"]
    systems: dict[str, Figures] = {}
    for name, codec in report.codecs.items():
        systems |= {name: codec.flattened, f"{name}, PCA": codec.principal, f"{name}, of other pictures": codec.chance}
    systems |= report.controls
    rows = [[name, str(f.dimensions), *(str(getattr(f, m)) for m in MEASURES)] for name, f in systems.items()]
    lines += table([["", "dims", *MEASURES], *rows])
    for name, codec in report.codecs.items():
        lines.append(
            f"{name}: {codec.psnr:.2f} dB, {codec.active} of {codec.flattened.dimensions} dimensions active, "
            f"at most {codec.rate:.1f} nats a picture"
        )
        best = (
            f"{factor} {codec.flattened.best[factor]} ({share:.2f}, gap {codec.flattened.gap[factor]:.2f})"
            for factor, share in codec.flattened.information.items()
        )
        lines.append("  best dimension (share of the factor's entropy): " + ", ".join(best))
    return "\n".join(lines)


def real_text(report: RealReport) -> str:
    """One line a codec and factor."""
    rows = [["", "accuracy", "chance", "by group", "commonest", "MI", "gap", "variance"]]
    for name, factors in report.codecs.items():
        for factor, t in factors.items():
            about = f"{name}: {factor} ({t.pictures}, {t.groups} {t.apart})"
            shares = [f"{t.accuracy:.2f}", f"{1 / len(t.values):.2f}", str(t.interval)]
            rows.append([about, *shares, *(f"{x:.2f}" for x in (t.most, t.information, t.gap, t.variance))])
    return "\n".join([*table(rows), *(f"{factor}: absent, {why}" for factor, why in report.absent.items())])


def chart(codecs: dict[str, CodecFigures], betas: Sequence[float]) -> str:
    """Every measure along the latents' own dimensions against beta, SVG.

    Args:
        betas: Of each, above 0.
    """
    if len(betas) != len(codecs) or min(betas) <= 0:
        raise UserError(f"--beta: expected {len(codecs)} numbers above 0, one a codec, got {list(betas)}")
    order = sorted(zip(betas, codecs.values(), strict=True), key=lambda pair: pair[0])
    curves = []
    for measure in MEASURES[:4]:
        ranges = [getattr(codec.flattened, measure) for _, codec in order]
        ends = ([r.value for r in ranges], [r.low for r in ranges], [r.high for r in ranges])
        curves.append(Curve(measure.upper() if len(measure) == 3 else measure, [b for b, _ in order], *ends))
    return to_svg(plots.curves("disentanglement of codecs on shapes", curves, "beta", "0: none, 1: whole"))


def traversals(codec: ImageCodec, factors: Factors, figures: Figures, path: Path) -> None:
    """Write a sheet: for each factor, a picture's latent moved along the dimension that tells most of it."""
    flat = flat_latents(codec, factors.pictures, factors.rows).astype(float)
    axes = Axes.flattened(flat.shape[1])
    rows = [to_pil(strip(codec, axes, flat, j, STEPS)) for j in figures.best.values()]
    notes = [f"dimension {figures.best[name]}, MI {figures.information[name]:.2f}" for name in figures.best]
    sheet = contact_sheet(rows, list(figures.best), notes, cell=CELL)
    save_png(sheet, path, {"codec": codec.fingerprint, "caption": str(factors.pictures.label[factors.rows[0]])})


def build_parser() -> Parser:
    """The command's arguments."""
    parser = Parser(NAME, __doc__, f"{NAME} runs/shapes-vae/vae --data data/shapes --out report")
    parser.add_argument("codecs", nargs="+", type=Path, metavar="CODEC", help="`vae` folders of train.autoencoder")
    parser.add_argument("--data", type=Path, help="by default data/shapes, with --real data/pictures")
    parser.add_argument("--real", action="store_true", help="factors that emoji labels carry")
    parser.add_argument("--split", default="validation", help="whose pictures; all of them with --real")
    parser.add_argument("--components", type=whole(1), default=10, help="principal components")
    parser.add_argument("--halves", type=whole(1), default=5, help="random halves behind each range")
    parser.add_argument("--beta", type=number(above=0), nargs="+", help="of each codec: draws factors.svg")
    parser.add_argument("--out", default="report", help="folder for factors.json (real.json), sheets and chart")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the table is printed, 2 for bad input."""
    command = spelled(NAME, argv)
    return run_command(build_parser(), argv, lambda args: (_run_real if args.real else _run_shapes)(args, command))


def _about(codecs: dict[str, ImageCodec], command: str) -> dict[str, str]:
    return {"command": command} | {name: codec.fingerprint for name, codec in codecs.items()}


def _run_shapes(args: argparse.Namespace, command: str) -> None:
    codecs = load_codecs(args.codecs)
    factors = Factors.load(args.data or Path("data/shapes"), args.split)
    out = writable_folder(args.out)
    by_codec: dict[str, CodecFigures] = {}
    for name, codec in codecs.items():
        say(f"{name}: {len(factors.rows)} pictures")
        by_codec[name] = factors.of_codec(codec, args.components, args.halves)
        traversals(codec, factors, by_codec[name].flattened, out / f"traversal-{name}.png")
    if args.beta is not None:
        atomic_write(out / "factors.svg", chart(by_codec, args.beta))
    controls = factors.controls(args.components, args.halves)
    report = FactorsReport(args.split, len(factors.rows), args.halves, by_codec, controls, _about(codecs, command))
    atomic_write(out / "factors.json", to_json(report))
    print(to_text(report))


def _run_real(args: argparse.Namespace, command: str) -> None:
    codecs = load_codecs(args.codecs)
    pictures = Pictures.load(args.data or Path("data/pictures"))
    out = writable_folder(args.out)
    known, absent = known_factors(pictures)
    if not known:
        raise UserError(
            f"--data: no label tells of two values of {', '.join(FACTORS)}; use a dataset of train.recipes emoji"
        )
    rows = np.unique(np.concatenate([k.rows for k in known.values()]))
    codes = {name: flat_latents(codec, pictures, rows).astype(float) for name, codec in codecs.items()}
    codes[f"thumbnails of {THUMBNAIL} px"] = thumbnails(pictures.pixels(rows).numpy(), THUMBNAIL).astype(float)
    by_codec: dict[str, dict[str, Readout]] = {}
    for name, flat in codes.items():
        say(f"{name}: {len(rows)} pictures")
        at = {factor: flat[np.searchsorted(rows, k.rows)] for factor, k in known.items()}
        by_codec[name] = {factor: probe(at[factor], k.values, k.groups, k.apart) for factor, k in known.items()}
    report = RealReport(by_codec, absent, _about(codecs, command))
    atomic_write(out / "real.json", to_json(report))
    print(real_text(report))


def known_factors(pictures: Pictures) -> tuple[dict[str, Known], dict[str, str]]:
    """The factors that can be probed on a dataset, and why the others cannot."""
    known, absent = {}, {}
    for factor in FACTORS:
        try:
            known[factor] = Known.of(factor, pictures.label, pictures.family, pictures.artist)
        except UserError as error:
            absent[factor] = str(error)
    return known, absent


if __name__ == "__main__":
    sys.exit(main())
