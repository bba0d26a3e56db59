"""The same for everybody: pictures, latents and caption codes in memory, batches by key, and pictures for the judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bridge.checkpoint import CACHE
from bridge.codecs import ImageCodec, LatentDistribution
from bridge.errors import UserError
from bridge.memory import CaptionMemory
from bridge.noise import generator_for, spread_number
from bridge.text import TextCode, TextEncoder
from eval.data import Pictures, caption_number, picture_latents
from eval.judge import Generate
from eval.studies.compare.nets import TOKENS, Batch, PeerNet, Sampling
from train.checkpoint import fingerprint_of
from train.command import say
from train.data.cache import Codes, caption_codes
from train.data.dataset import CaptionTable, load_dataset

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
    latents: LatentDistribution
    variants: Tensor  # Numbers of the texts that may stand for each, the label first, padded by NONE, (N, V)

    @classmethod
    def of(cls, pictures: Pictures, rows: np.ndarray, codec: ImageCodec, variants: Tensor) -> "Shelf":
        pixels = (pictures.pixels(rows) * 255).round().to(torch.uint8)
        return cls(pixels, picture_latents(codec, pictures, rows), variants)

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
    texts: list[str]
    paired: Tensor  # Rows of `train` whose captions may be used, (P,)
    unpaired: Tensor  # Rows whose captions may not, or that have none, (U,); used as null-caption examples
    weights: Tensor  # How often each of `paired` is drawn, (P,), up to a factor

    @property
    def fingerprint(self) -> str:
        """Identity of the captions and of which picture each may describe, 16 hex digits."""
        return fingerprint_of([self.train.variants, self.held_out.variants, *self.texts])

    @cached_property
    def labels(self) -> Tensor:
        """Numbers of the distinct labels of `paired`, (L,)."""
        return self.train.variants[self.paired, 0].unique()

    @cached_property
    def memory(self) -> CaptionMemory:
        """The texts of `labels` and their pooled codes."""
        return CaptionMemory(self.captions.pooled(self.labels), [self.texts[i] for i in self.labels.tolist()])

    def codes(self, text: Tensor, with_tokens: bool = True) -> TextCode:
        """Codes of texts by number (B,), with TOKENS token places or none; NONE is the null code."""
        null = text == NONE
        codes = self.captions.rows(text.clamp(min=0), TOKENS if with_tokens else 0)
        mask = codes.mask & ~null[:, None]
        return TextCode(codes.pooled.masked_fill(null[:, None], 0), codes.tokens * mask[..., None], mask)

    def soften(self, c: TextCode, u: Tensor) -> TextCode:
        """Codes (B) whose unfamiliar rows are those of near known captions, drawn at u (B,) in [0, 1).

        Source: Sheynin et al. 2022, KNN-Diffusion, arXiv:2204.02849
        """
        far, index = self.memory.draw(c.pooled, u, TEMPERATURE, FAMILIAR)
        both = TextCode.cat([c, self.codes(self.labels[index])])
        return both[torch.arange(len(c)) + len(c) * far]

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
        """A batch that depends on `key`, (seed, step), alone; `paired` have their share, at least PAIRED_SHARE."""
        g = generator_for(*key)
        rows = self.paired[torch.multinomial(self.weights, size, replacement=True, generator=g)]
        share = len(self.paired) / (len(self.paired) + len(self.unpaired))
        has = torch.rand(size, generator=g) < max(PAIRED_SHARE, share)
        if len(self.unpaired):
            others = self.unpaired[torch.randint(len(self.unpaired), (size,), generator=g)]
            rows = torch.where(has, rows, others)
        dropped, label, which = torch.rand(3, size, generator=g)
        variants = self.train.variants[rows]
        pick = torch.where(label < LABEL_SHARE, 0, (which * (variants != NONE).sum(1)).long())
        text = variants.gather(1, pick[:, None])[:, 0].masked_fill(~has | (dropped < CAPTION_DROPOUT), NONE)
        return Batch(self.train.data(rows, uses_vae, g), self.codes(text, tokens), g)

    def watched(self, size: int, uses_vae: bool, tokens: bool) -> list[Batch]:
        """Held-out batches with their labels, the same whenever asked for."""
        shelf, parts = self.held_out, torch.arange(len(self.held_out.variants)).split(size)
        return [
            Batch(shelf.data(rows, uses_vae, None), self.codes(shelf.variants[rows, 0], tokens), generator_for(0, i))
            for i, rows in enumerate(parts)
        ]


def load(folder: Path, pictures: Pictures, codec: ImageCodec, encoder: TextEncoder, more: Path | None) -> Material:
    """Encode a dataset's training pictures and captions, a list a row of `folder`, and `more` without captions."""
    captions = [list(row) for row in load_dataset(folder, ["image", "captions"])["captions"]]
    train = pictures.where("train")
    splits = [pictures.where(split) for split in HELD_OUT if split in pictures.split]
    spread = [np.linspace(0, len(rows) - 1, min(WATCHED, len(rows))).astype(int) for rows in splits]
    watched = np.concatenate([rows[np.unique(at)] for rows, at in zip(splits, spread, strict=True)])
    table = CaptionTable.enumerate([captions[row] for row in (*train, *watched)])
    ids = table.number.long().split(table.start.diff().tolist())
    variants = pad_sequence(ids, batch_first=True, padding_value=NONE)
    say(f"training material: {len(table.texts)} captions, {len(train)} pictures")
    codes = caption_codes(encoder, table.texts, folder / CACHE, with_tokens=True)
    shelf = Shelf.of(pictures, train, codec, variants[: len(train)])
    if more is not None:
        others = Pictures.load(more)
        rows = others.where("train")
        shape, own = others.pixels(rows[:1]).shape[1:], shelf.pixels.shape[1:]
        if shape != own:
            raise UserError(f"pictures: {more} holds {tuple(shape)}, the data {tuple(own)}")
        extra = Shelf.of(others, rows, codec, torch.full((len(rows), variants.shape[1]), NONE))
        parts = ((s.pixels, s.latents.mean, s.latents.std, s.variants) for s in (shelf, extra))
        pixels, mean, std, numbers = (torch.cat(pair) for pair in zip(*parts, strict=True))
        shelf = Shelf(pixels, LatentDistribution(mean, std), numbers)
    known, rest = torch.arange(len(shelf.pixels)).tensor_split([len(train)])
    _, family, size = np.unique(pictures.family[train], return_inverse=True, return_counts=True)
    weights = torch.from_numpy(size[family].astype(float) ** -FAMILY_POWER)
    held_out = Shelf.of(pictures, watched, codec, variants[len(train) :])
    return Material(shelf, held_out, codes, table.texts, known, rest, weights)


class Asked:
    """Codes of captions asked for, each encoded alone and once, as training reads them: TOKENS tokens, rounded."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder
        self._known: dict[str, TextCode] = {}

    def __call__(self, captions: Sequence[str]) -> TextCode:
        new = [c for c in dict.fromkeys(captions) if c not in self._known]
        if new:
            c = self.encoder.encode(new)
            short = TextCode(c.pooled, c.tokens[:, :TOKENS].half().float(), c.mask[:, :TOKENS]).padded(TOKENS)
            self._known |= {caption: short[i : i + 1] for i, caption in enumerate(new)}
        return TextCode.cat([self._known[c] for c in captions])


def keyed(
    net: PeerNet, codes: Callable[[Sequence[str]], TextCode], material: Material, sampling: Sampling, seed: int
) -> Generate:
    """A network as the report wants it: image i of a caption depends on (seed, caption, i) alone."""

    @torch.no_grad()
    def generate(captions: Sequence[str], n: int) -> Tensor:
        jobs = [(row, i) for row in range(len(captions)) for i in range(n)]
        every, parts = codes(captions), []
        for at in range(0, len(jobs), MICRO_BATCH):
            some = jobs[at : at + MICRO_BATCH]
            noise, (u, choice) = torch.zeros(MICRO_BATCH, *net.noise_shape), torch.zeros(2, MICRO_BATCH)
            for place, (row, i) in enumerate(some):
                generator = generator_for(seed, caption_number(captions[row]), i)
                noise[place] = torch.randn(net.noise_shape, generator=generator)
                u[place] = torch.rand((), generator=generator)
                choice[place] = spread_number(seed, i)
            c = every[torch.tensor([row for row, _ in some])]
            c = TextCode.cat([c, TextCode.null(MICRO_BATCH - len(some), c.pooled.shape[1])])
            if sampling.neighbours:
                c = material.soften(c, u)
            parts.append(net.sample(c.chosen(choice), noise, sampling)[: len(some)].cpu())
        return torch.cat(parts).unflatten(0, (len(captions), n))

    return generate
