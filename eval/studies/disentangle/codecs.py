"""What eval.studies.disentangle finds about one codec, as arrays and numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np

from bridge.codecs import ImageCodec
from bridge.errors import UserError
from eval.baselines import decode_flat, flat_latents
from eval.data import Pictures
from eval.metrics import disentangle, quality
from eval.metrics.bootstrap import Interval
from eval.studies.disentangle.traversal import CHUNK, Axes
from train.copies import thumbnails

PREFIX = "factor_"
MEASURES = ("mig", "sap", "disentanglement", "completeness", "informativeness", "linear")


def over_halves(values: Sequence[float]) -> Interval:
    """A figure over random halves of the pictures: the mean, the smallest and the largest."""
    return Interval(float(np.mean(values)), min(values), max(values))


@dataclass(frozen=True)
class Figures:
    """One coordinate system; the measures are those of `eval.metrics.disentangle`.

    Args:
        dimensions: Of the codes.
        best: For each factor, the dimension with the most mutual information.
        information: That information, as a share of the factor's entropy.
        gap: How far that is ahead of the second dimension.
    """

    dimensions: int
    mig: Interval
    sap: Interval
    disentanglement: Interval
    completeness: Interval
    informativeness: Interval
    linear: Interval
    best: dict[str, int]
    information: dict[str, float]
    gap: dict[str, float]


@dataclass(frozen=True)
class CodecFigures:
    """One codec.

    Args:
        flattened: Along the latent's own dimensions.
        principal: Along principal components of the same latents: a rotation, or fewer dimensions.
        chance: Of the latents of other pictures: what many dimensions and few pictures score by themselves.
        active: Latent dimensions whose mean depends on the picture.
        rate: KL divergence of the posterior from a normal distribution with the latents' own mean and standard
            deviation, in nats a picture: an upper bound on what a latent tells of its picture.
        psnr: Of reconstructions from mean latents, pooled, in dB.
    """

    flattened: Figures
    principal: Figures
    chance: Figures
    active: int
    rate: float
    psnr: float


@dataclass(frozen=True)
class Factors:
    """Pictures whose factors are known.

    Args:
        pictures: The dataset.
        rows: Which of them are used, (N,).
        names: Of the factors, F.
        values: Their value numbers, (N, F) int.
    """

    pictures: Pictures
    rows: np.ndarray
    names: list[str]
    values: np.ndarray

    @classmethod
    def load(cls, folder: str | Path, split: str) -> "Factors":
        """The rows of one split of a dataset with columns factor_<name>."""
        pictures = Pictures.load(folder)
        rows = pictures.where(split)
        source = datasets.load_from_disk(str(folder))
        columns = [name for name in source.column_names if name.startswith(PREFIX)]
        if not columns:
            raise UserError(
                f"data: {folder} has no {PREFIX}* column; make it with python -m train.recipes shapes --out FOLDER"
            )
        values = np.array([list(source[c]) for c in columns]).T[rows]
        return cls(pictures, rows, [c.removeprefix(PREFIX) for c in columns], values)

    def figures(self, codes: np.ndarray, halves: int) -> Figures:
        """Every measure of codes (N, D) on random halves of the rows.

        Mutual information is that within a half; classifiers are trained on one half and scored on the other.
        """
        if halves < 1:
            raise UserError(f"--halves: expected 1 or more, got {halves}")
        scores: dict[str, list[float]] = {name: [] for name in MEASURES}
        for seed in range(halves):
            half = np.random.default_rng(seed).permutation(len(codes))[: len(codes) // 2]
            scores["mig"].append(disentangle.mig(codes[half], self.values[half]).score)
            scores["sap"].append(disentangle.sap(codes, self.values, seed).score)
            dci = disentangle.dci(codes, self.values, seed)
            for name in MEASURES[2:]:
                scores[name].append(getattr(dci, name))
        whole = disentangle.mig(codes, self.values)
        best = [int(j) for j in whole.best]
        mig, sap, disentanglement, completeness, informativeness, linear = map(over_halves, scores.values())
        return Figures(
            codes.shape[1],
            mig,
            sap,
            disentanglement,
            completeness,
            informativeness,
            linear,
            best=dict(zip(self.names, best, strict=True)),
            information=dict(zip(self.names, map(float, whole.matrix.max(axis=0)), strict=True)),
            gap=dict(zip(self.names, map(float, whole.gap), strict=True)),
        )

    def of_codec(self, codec: ImageCodec, components: int, halves: int) -> CodecFigures:
        """Everything about one codec on these pictures; `components` are the principal ones."""
        flat = flat_latents(codec, self.pictures, self.rows).astype(float)
        axes = Axes.principal(flat, components)
        return CodecFigures(
            flattened=self.figures(flat, halves),
            principal=self.figures(axes.coordinates(flat), halves),
            chance=self.figures(np.random.default_rng(0).permutation(flat), halves),
            active=disentangle.active_units(flat),
            rate=self.rate(codec),
            psnr=self.psnr(codec, flat),
        )

    def controls(self, components: int, halves: int) -> dict[str, Figures]:
        """The same measures where no codec had a hand: the factors themselves, and the pixels' components."""
        pixels = thumbnails(self.pictures.pixels(self.rows).numpy(), 16).astype(float)
        return {
            "the factors themselves": self.figures(self.values.astype(float), halves),
            "pixels, PCA": self.figures(Axes.principal(pixels, components).coordinates(pixels), halves),
        }

    def rate(self, codec: ImageCodec) -> float:
        """See `CodecFigures.rate`."""
        total = 0.0
        for start in range(0, len(self.rows), CHUNK):
            q = codec.encode(self.pictures.pixels(self.rows[start : start + CHUNK]))
            total += float((0.5 * (q.mean**2 + q.std**2 - 1) - q.std.log()).double().sum())
        return total / len(self.rows)

    def psnr(self, codec: ImageCodec, flat: np.ndarray) -> float:
        """See `CodecFigures.psnr`; `flat` are the pictures' latents, (N, L)."""
        errors = [
            quality.squared_error(
                self.pictures.pixels(self.rows[i : i + CHUNK]).numpy(), decode_flat(codec, flat[i : i + CHUNK]).numpy()
            )
            for i in range(0, len(flat), CHUNK)
        ]
        return float(quality.psnr(np.concatenate(errors).mean()))
