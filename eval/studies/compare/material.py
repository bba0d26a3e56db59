"""The same for everybody: pictures, latents and caption codes in memory, batches by key, and pictures for the judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bridge.codecs import ImageCodec, LatentDistribution
from bridge.errors import UserError
from bridge.memory import CaptionMemory
from bridge.noise import generator_for
from bridge.text import TextCode, TextEncoder
from eval.data import Pictures, caption_number, picture_latents
from eval.judge import Generate, Say
from eval.studies.compare.base import TOKENS, Batch, PeerNet, Sampling
from train.checkpoint import fingerprint_of
from train.data.cache import CACHE, Codes, caption_codes
from train.data.dataset import load_dataset

CAPTION_DROPOUT, LABEL_SHARE, FAMILY_POWER = 0.1, 0.4, 0.5
"""Shares of captions that are dropped and that are the label; weight of a row is (size of family) ** -FAMILY_POWER."""
PAIRED_SHARE = 0.75  # Least share of a batch that has captions to show, however many pictures have none
HELD_OUT = ("validation", "seen_validation")
WATCHED = 256  # Pictures of each held-out split on which the loss is watched
NONE = -1
MICRO_BATCH = 32  # Rows worked on at a time, padded: matrix kernels round differently for other sizes
FAMILIAR, TEMPERATURE = 0.75, 0.05
"""A caption below this cosine to every training caption takes a neighbour's code, by softmax(cosine / TEMPERATURE)."""


@dataclass(frozen=True)
class Shelf:
    """N pictures, encoded once."""

    pixels: Tensor  # (N, 3, H, W) uint8
    latents: LatentDistribution  # Their latent distributions
    variants: Tensor  # Numbers of the texts that may stand for each, the label first, padded by -1, (N, V)

    def data(self, rows: Tensor, uses_vae: bool, generator: torch.Generator | None) -> Tensor:
        """Latents, drawn from their posterior (their means without a generator), or pictures in [0, 1]."""
        if not uses_vae:
            return self.pixels[rows].float() / 255
        latents = LatentDistribution(self.latents.mean[rows], self.latents.std[rows])
        if generator is None:
            return latents.mean
        return latents.sample(torch.randn(latents.mean.shape, generator=generator))


@dataclass(frozen=True)
class Material:
    """What every peer is trained on."""

    train: Shelf  # Training pictures, then pictures that never had a caption
    held_out: Shelf  # Pictures on which the loss is watched
    captions: Codes  # Codes of all texts
    texts: list[str]  # The texts
    paired: Tensor  # Rows of `train` whose captions may be used, (P,)
    unpaired: Tensor  # Rows whose captions may not, or that have none, (U,); used as null-caption examples
    weights: Tensor  # How often each of `paired` is drawn, (P,), up to a factor

    @property
    def fingerprint(self) -> str:
        """Identity of the captions and of which picture may be told by which, 16 hex digits."""
        return fingerprint_of([self.train.variants, self.held_out.variants, *self.texts])

    def labels(self) -> Tensor:
        """Numbers of the distinct labels of `paired`, (L,)."""
        return self.train.variants[self.paired, 0].unique()

    def codes(self, text: Tensor, with_tokens: bool = True) -> TextCode:
        """Codes of texts by number (B,), with TOKENS token places or none; NONE is the null code."""
        null, at = text == NONE, text.clamp(min=0)
        codes = self.captions.rows(at, TOKENS if with_tokens else 0)
        mask = codes.mask & ~null[:, None]
        return TextCode(codes.pooled.masked_fill(null[:, None], 0), codes.tokens * mask[..., None], mask)

    def only(self, paired: Tensor) -> "Material":
        """The same pictures with captions for the rows `paired` alone."""
        mine = torch.isin(self.paired, paired)
        both = torch.cat([self.paired[~mine], self.unpaired])
        return replace(self, paired=self.paired[mine], weights=self.weights[mine], unpaired=both)

    def pairs(self, uses_vae: bool) -> tuple[Tensor, Tensor, list[list[int]]]:
        """Data of `paired`, mean latents or pictures in [0, 1], pooled codes of its captions (M, D), and for each
        picture the numbers of its captions among them."""
        variants = self.train.variants[self.paired]
        numbers = variants[variants != NONE].unique()
        place = torch.searchsorted(numbers, variants)
        captions = [row[known].tolist() for row, known in zip(place, variants != NONE, strict=True)]
        return self.train.data(self.paired, uses_vae, None), self.captions.pooled(numbers), captions

    def draw(self, size: int, uses_vae: bool, tokens: bool, *key: int) -> Batch:
        """A training batch that depends on `key`, (seed, step), alone.

        The share of `paired` is as in the data, at least PAIRED_SHARE.
        """
        g = generator_for(*key)
        rows = self.paired[torch.multinomial(self.weights, size, replacement=True, generator=g)]
        share = len(self.paired) / (len(self.paired) + len(self.unpaired))
        has = torch.rand(size, generator=g) < max(PAIRED_SHARE, share)
        if len(self.unpaired):
            others = self.unpaired[torch.randint(len(self.unpaired), (size,), generator=g)]
            rows = torch.where(has, rows, others)
        dropped, label, which = torch.rand(3, size, generator=g)
        variants = self.train.variants[rows]
        count = (variants != NONE).sum(1)
        pick = torch.where(label < LABEL_SHARE, 0, (which * count).long())
        text = variants.gather(1, pick[:, None])[:, 0]
        text = text.masked_fill(~has | (dropped < CAPTION_DROPOUT), NONE)
        return Batch(self.train.data(rows, uses_vae, g), self.codes(text, tokens), g)

    def watched(self, size: int, uses_vae: bool, tokens: bool) -> list[Batch]:
        """Held-out batches with their labels, the same whenever asked for."""
        shelf, parts = self.held_out, torch.arange(len(self.held_out.variants)).split(size)
        return [
            Batch(shelf.data(rows, uses_vae, None), self.codes(shelf.variants[rows, 0], tokens), generator_for(0, i))
            for i, rows in enumerate(parts)
        ]


def load(
    folder: Path, pictures: Pictures, codec: ImageCodec, encoder: TextEncoder, more: Path | None, say: Say
) -> Material:
    """Encode the training pictures and captions of a dataset; codes and latents are kept in a hidden folder inside it.

    `folder` is where `pictures` was read from; it needs a column "captions", a list a row. `more` holds further
    pictures, whose captions are not read.
    """
    captions = [list(row) for row in load_dataset(folder, ["image", "captions"])["captions"]]
    train = pictures.where("train")
    splits = [pictures.where(split) for split in HELD_OUT if split in pictures.split]
    spread = [np.linspace(0, len(rows) - 1, min(WATCHED, len(rows))).astype(int) for rows in splits]
    watched = np.concatenate([rows[np.unique(at)] for rows, at in zip(splits, spread, strict=True)])
    texts = list(dict.fromkeys(text for row in (*train, *watched) for text in captions[row]))
    number = {text: i for i, text in enumerate(texts)}
    ids = [torch.tensor([number[t] for t in captions[row]]) for row in (*train, *watched)]
    variants = pad_sequence(ids, batch_first=True, padding_value=NONE)
    say(f"training material: {len(texts)} captions, {len(train)} pictures")
    codes = caption_codes(encoder, texts, folder / CACHE, with_tokens=True)
    pixels, z = _bytes(pictures, train), picture_latents(codec, pictures, train)
    if more is not None:
        others = Pictures.load(more)
        rows = others.where("train")
        others_pixels = _bytes(others, rows)
        if others_pixels.shape[1:] != pixels.shape[1:]:
            sizes = f"{tuple(others_pixels.shape[1:])}, the data {tuple(pixels.shape[1:])}"
            raise UserError(f"pictures: {more} holds {sizes}")
        pixels, more_z = torch.cat([pixels, others_pixels]), picture_latents(codec, others, rows)
        z = LatentDistribution(torch.cat([z.mean, more_z.mean]), torch.cat([z.std, more_z.std]))
    known, rest = torch.arange(len(pixels)).tensor_split([len(train)])
    nothing = torch.full((len(rest), variants.shape[1]), NONE)
    shelf = Shelf(pixels, z, torch.cat([variants[: len(train)], nothing]))
    held_out = Shelf(_bytes(pictures, watched), picture_latents(codec, pictures, watched), variants[len(train) :])
    _, family, size = np.unique(pictures.family[train], return_inverse=True, return_counts=True)
    weights = torch.from_numpy(size[family].astype(float) ** -FAMILY_POWER)
    return Material(shelf, held_out, codes, texts, known, rest, weights)


def _bytes(pictures: Pictures, rows: np.ndarray) -> Tensor:
    return (pictures.pixels(rows) * 255).round().to(torch.uint8)


# --- pictures for the judge ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Neighbours:
    """The captions of the pairs, with their tokens: what `bridge.memory` does, for every peer alike."""

    memory: CaptionMemory  # Their pooled codes
    material: Material  # Has all of their codes
    labels: Tensor  # Their numbers there, in the order of `memory`, (L,)

    @classmethod
    def of(cls, material: Material) -> "Neighbours":
        labels = material.labels()
        pooled = material.captions.pooled(labels)
        return cls(CaptionMemory(pooled, [material.texts[int(i)] for i in labels]), material, labels)

    def soften(self, c: TextCode, u: Tensor) -> TextCode:
        """Codes (B) whose unfamiliar rows are those of near known captions, drawn at u (B,) in [0, 1).

        Source: Sheynin et al. 2022, KNN-Diffusion, arXiv:2204.02849
        """
        far, index = self.memory.draw(c.pooled, u, TEMPERATURE, FAMILIAR)
        near = self.material.codes(self.labels[index])
        return TextCode(
            torch.where(far[:, None], near.pooled, c.pooled),
            torch.where(far[:, None, None], near.tokens, c.tokens),
            torch.where(far[:, None], near.mask, c.mask),
        )


class Asked:
    """Codes of captions asked for, each encoded alone and once, as training reads them.

    That is with TOKENS token places, the tokens rounded to half precision.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder
        self._known: dict[str, TextCode] = {}

    def __call__(self, captions: Sequence[str]) -> TextCode:
        new = [c for c in dict.fromkeys(captions) if c not in self._known]
        if new:
            c = self.encoder.encode(new, batch_size=1)
            short = TextCode(c.pooled, c.tokens[:, :TOKENS].half().float(), c.mask[:, :TOKENS]).padded(TOKENS)
            self._known |= {caption: short[i : i + 1] for i, caption in enumerate(new)}
        return TextCode.cat([self._known[c] for c in captions])


def keyed(
    net: PeerNet, codes: Callable[[Sequence[str]], TextCode], neighbours: Neighbours, sampling: Sampling, seed: int
) -> Generate:
    """A network as the report wants it: image i of a caption depends on (seed, caption, i) alone."""

    @torch.no_grad()
    def generate(captions: Sequence[str], n: int) -> Tensor:
        jobs = [(row, i) for row in range(len(captions)) for i in range(n)]
        every, parts = codes(captions), []
        for at in range(0, len(jobs), MICRO_BATCH):
            some = jobs[at : at + MICRO_BATCH]
            noise, u = torch.zeros(MICRO_BATCH, *net.noise_shape), torch.zeros(MICRO_BATCH)
            for place, (row, i) in enumerate(some):
                generator = generator_for(seed, caption_number(captions[row]), i)
                noise[place] = torch.randn(net.noise_shape, generator=generator)
                u[place] = torch.rand((), generator=generator)
            c = every[torch.tensor([row for row, _ in some])]
            c = TextCode.cat([c, TextCode.null(MICRO_BATCH - len(some), c.pooled.shape[1])])
            if sampling.neighbours:
                c = neighbours.soften(c, u)
            parts.append(net.sample(c, noise, sampling)[: len(some)].cpu())
        return torch.cat(parts).unflatten(0, (len(captions), n))

    return generate
