"""Do latents stand for factors?

CODEC is a `vae` folder of train.autoencoder, the data a dataset of train.recipes shapes. MIG, SAP and DCI on held-out
pictures, beside the pictures' own principal components and the factors themselves, and for each codec a sheet of
traversals: latents along one direction, all else held, decoded.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from sklearn.decomposition import PCA
from torch import Tensor

from bridge.arguments import writable_folder
from bridge.checkpoint import atomic_write
from bridge.codecs import ImageCodec, load_codec
from bridge.errors import UserError
from bridge.images import contact_sheet, save_png, to_pil
from eval import plots
from eval.baselines import decode_all, decode_flat, flat_latents
from eval.data import Pictures, picture_latents
from eval.metrics import disentangle, quality
from eval.metrics.bootstrap import Interval
from eval.plots import Curve, to_svg
from eval.report import table, to_json
from eval.studies import Study
from train.command import Parser, number, say, whole
from train.copies import thumbnails

PREFIX = "factor_"
MEASURES = ("mig", "sap", "disentanglement", "completeness", "informativeness", "linear")
ENDS = (0.02, 0.98)  # A traversal runs between these quantiles of its coordinate
STEPS, CELL = 8, 48  # Pictures of a traversal, and their side on the sheet


def principal(flat: np.ndarray, count: int) -> np.ndarray:
    """Coordinates (N, D) of (N, L) along the first `count` principal components, or as many as there are."""
    return np.asarray(PCA(min(count, *flat.shape), svd_solver="full").fit_transform(flat))


def strip(codec: ImageCodec, flat: np.ndarray, dimension: int, steps: int) -> Tensor:
    """Pictures (steps, 3, H, W) of the first latent moved along one dimension, between quantiles of latents (N, L)."""
    moved, (low, high) = np.repeat(flat[:1], steps, axis=0), np.quantile(flat[:, dimension], ENDS)
    moved[:, dimension] = np.linspace(low, high, steps)
    return decode_flat(codec, moved)


def over_halves(values: Sequence[float]) -> Interval:
    """Mean, smallest and largest of a figure over random halves of the pictures."""
    return Interval(float(np.mean(values)), min(values), max(values))


@dataclass(frozen=True)
class Figures:
    """One coordinate system; the measures are those of `eval.metrics.disentangle`."""

    dimensions: int  # Of the codes
    mig: Interval
    sap: Interval
    disentanglement: Interval
    completeness: Interval
    informativeness: Interval
    linear: Interval
    best: dict[str, int]  # For each factor, the dimension with the most mutual information
    information: dict[str, float]  # That information, as a share of the factor's entropy
    gap: dict[str, float]  # How far that is ahead of the second dimension


@dataclass(frozen=True)
class CodecFigures:
    flattened: Figures  # Along the latent's own dimensions
    principal: Figures  # Along principal components of the same latents: a rotation, or fewer dimensions
    chance: Figures  # Of the latents of other pictures: what many dimensions and few pictures score by themselves
    active: int  # Latent dimensions whose mean depends on the picture
    rate: float  # KL divergence of the posterior from N(0, I), nats a picture: at most so much does a latent tell
    psnr: float  # Of reconstructions from mean latents, pooled, in dB


@dataclass(frozen=True)
class Factors:
    pictures: Pictures  # The dataset
    rows: np.ndarray  # Which of them are used, (N,)
    names: list[str]  # Of the factors, F
    values: np.ndarray  # Their value numbers, (N, F) int

    @classmethod
    def load(cls, folder: str | Path, split: str) -> "Factors":
        """The rows of one split of a dataset with columns factor_<name>."""
        pictures = Pictures.load(folder)
        rows = pictures.where(split)
        source = datasets.load_from_disk(str(folder))
        columns = [name for name in source.column_names if name.startswith(PREFIX)]
        if not columns:
            remedy = "make it with python -m train.recipes shapes --out FOLDER"
            raise UserError(f"data: {folder} has no {PREFIX}* column; {remedy}")
        values = np.array([list(source[c]) for c in columns]).T[rows]
        return cls(pictures, rows, [c.removeprefix(PREFIX) for c in columns], values)

    def figures(self, codes: np.ndarray, halves: int) -> Figures:
        """Every measure of codes (N, D) on random halves; classifiers train on one half and are scored on the other."""
        scores = []
        for seed in range(halves):
            half = np.random.default_rng(seed).permutation(len(codes))[: len(codes) // 2]
            gaps = {"mig": disentangle.mig(codes[half], self.values[half]).score}
            gaps["sap"] = disentangle.sap(codes, self.values, seed).score
            scores.append(gaps | vars(disentangle.dci(codes, self.values, seed)))
        ranges = {name: over_halves([score[name] for score in scores]) for name in MEASURES}
        every = disentangle.mig(codes, self.values)
        columns = (every.best, every.matrix.max(axis=0), every.gap)
        best, information, gap = (dict(zip(self.names, column.tolist(), strict=True)) for column in columns)
        return Figures(codes.shape[1], **ranges, best=best, information=information, gap=gap)

    def of_codec(self, codec: ImageCodec, components: int, halves: int) -> CodecFigures:
        q = picture_latents(codec, self.pictures, self.rows)
        flat = q.mean.flatten(1).numpy().astype(float)
        kl = 0.5 * (q.mean**2 + q.std**2 - 1) - q.std.log()
        error = quality.squared_error(self.pictures.pixels(self.rows).numpy(), decode_all(codec, q.mean).numpy())
        systems = flat, principal(flat, components), np.random.default_rng(0).permutation(flat)
        flattened, rotated, chance = (self.figures(codes, halves) for codes in systems)
        rate, psnr = float(kl.double().sum() / len(flat)), float(quality.psnr(error.mean()))
        return CodecFigures(flattened, rotated, chance, disentangle.active_units(flat), rate, psnr)


def load_codecs(folders: Sequence[Path]) -> dict[str, ImageCodec]:
    """Codecs by the name of their folder, or of the run that a folder `vae` is in."""
    codecs: dict[str, ImageCodec] = {}
    for folder in folders:
        if not (folder / "config.json").exists():
            remedy = "name the `vae` folder of a finished run of train.autoencoder"
            raise UserError(f"codec: {folder} holds no codec; {remedy}")
        name = folder.resolve().parent.name if folder.name == "vae" else folder.name
        if name in codecs:
            raise UserError(f"codec: two are called {name!r}; rename one of the folders")
        codecs[name] = load_codec(folder)
    return codecs


def to_text(codecs: Mapping[str, CodecFigures], controls: Mapping[str, Figures]) -> str:
    """One line a coordinate system, and what stands beside it."""
    systems: dict[str, Figures] = {}
    for name, codec in codecs.items():
        systems |= {name: codec.flattened, f"{name}, PCA": codec.principal, f"{name}, of other pictures": codec.chance}
    systems |= controls
    rows = [[name, str(f.dimensions), *(str(getattr(f, m)) for m in MEASURES)] for name, f in systems.items()]
    lines = table([["", "dims", *MEASURES], *rows])
    for name, codec in codecs.items():
        f = codec.flattened
        active = f"{codec.active} of {f.dimensions} dimensions active"
        lines.append(f"{name}: {codec.psnr:.2f} dB, {active}, at most {codec.rate:.1f} nats a picture")
        best = (f"{k} {f.best[k]} ({share:.2f}, gap {f.gap[k]:.2f})" for k, share in f.information.items())
        lines.append("  best dimension (share of the factor's entropy): " + ", ".join(best))
    return "\n".join(lines)


def chart(codecs: dict[str, CodecFigures], betas: Sequence[float]) -> str:
    """Every measure along the latents' own dimensions against the beta of each codec, SVG."""
    if len(betas) != len(codecs):
        raise UserError(f"--beta: expected {len(codecs)} numbers above 0, one a codec, got {list(betas)}")
    order = sorted(zip(betas, codecs.values(), strict=True), key=lambda pair: pair[0])
    curves = []
    for measure in MEASURES[:4]:
        name = measure.upper() if len(measure) == 3 else measure
        ranges = [getattr(codec.flattened, measure) for _, codec in order]
        curves.append(Curve(name, [beta for beta, _ in order], ranges))
    return to_svg(plots.curves("disentanglement of codecs on shapes", curves, "beta", "0: none, 1: whole"))


def add_codecs(parser: Parser) -> None:
    parser.add_argument("codecs", nargs="+", type=Path, metavar="CODEC", help="`vae` folders of train.autoencoder")
    parser.add_argument("--out", default="report", help="folder for JSON, sheets and chart")


def _arguments(parser: Parser) -> None:
    add_codecs(parser)
    add = parser.add_argument
    add("--data", type=Path, default=Path("data/shapes"), help="a dataset of train.recipes shapes")
    add("--split", default="validation", help="whose pictures")
    add("--components", type=whole(1), default=10, help="principal components")
    add("--halves", type=whole(1), default=5, help="random halves behind each range")
    add("--beta", type=number(above=0), nargs="+", help="of each codec: draws factors.svg")


def _run(args: argparse.Namespace, command: str) -> None:
    codecs, factors, out = load_codecs(args.codecs), Factors.load(args.data, args.split), writable_folder(args.out)
    by_codec: dict[str, CodecFigures] = {}
    for name, codec in codecs.items():
        say(f"{name}: {len(factors.rows)} pictures")
        by_codec[name] = factors.of_codec(codec, args.components, args.halves)
        # A sheet: for each factor, a picture's latent moved along the dimension that tells most of it.
        best, information = by_codec[name].flattened.best, by_codec[name].flattened.information
        flat = flat_latents(codec, factors.pictures, factors.rows).astype(float)
        strips = [to_pil(strip(codec, flat, dimension, STEPS)) for dimension in best.values()]
        notes = [f"dimension {dimension}, MI {information[factor]:.2f}" for factor, dimension in best.items()]
        facts = {"codec": codec.fingerprint, "caption": str(factors.pictures.label[factors.rows[0]])}
        save_png(contact_sheet(strips, list(best), notes, cell=CELL), out / f"traversal-{name}.png", facts)
    if args.beta is not None:
        atomic_write(out / "factors.svg", chart(by_codec, args.beta))
    pixels = thumbnails(factors.pictures.pixels(factors.rows).numpy(), 16).astype(float)
    controls = {
        "the factors themselves": factors.figures(factors.values.astype(float), args.halves),
        "pixels, PCA": factors.figures(principal(pixels, args.components), args.halves),
    }
    about = {"command": command} | {name: codec.fingerprint for name, codec in codecs.items()}
    report = {"split": args.split, "pictures": len(factors.rows), "halves": args.halves}
    atomic_write(out / "factors.json", to_json(report | {"codecs": by_codec, "controls": controls, "about": about}))
    print(f"{len(factors.rows)} pictures of {args.split}; mean [smallest, largest] of {args.halves} random halves")
    print(to_text(by_codec, controls))


STUDY = Study(__doc__, "runs/shapes-vae/vae --data data/shapes --out report", _arguments, _run)
