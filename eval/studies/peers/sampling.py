"""Pictures of a trained peer for the judge: noise keyed by caption, micro-batches of one size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bridge.memory import CaptionMemory
from bridge.noise import generator_for
from bridge.text import TextCode, TextEncoder
from eval.data import caption_number
from eval.stream import Generate
from eval.studies.peers.base import TOKENS, PeerNet, Sampling
from eval.studies.peers.material import Material

MICRO_BATCH = 32
"""Rows worked on at a time, padded: matrix kernels round differently for other sizes."""
FAMILIAR, TEMPERATURE = 0.75, 0.05
"""A caption below this cosine to every training caption takes a neighbour's code, by softmax(cosine / TEMPERATURE)."""


@dataclass(frozen=True)
class Neighbours:
    """The captions of the pairs, with their tokens: what `bridge.memory` does, for every peer alike.

    Args:
        memory: Their pooled codes.
        material: Has all of their codes.
        labels: Their numbers there, in the order of `memory`, (L,).
    """

    memory: CaptionMemory
    material: Material
    labels: Tensor

    @classmethod
    def of(cls, material: Material) -> "Neighbours":
        """Of the labels of the pairs."""
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
    """Codes of captions asked for, each encoded alone and once.

    Args:
        encoder: Of all captions.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder
        self._known: dict[str, TextCode] = {}

    def __call__(self, captions: Sequence[str]) -> TextCode:
        """Codes of B captions with `base.TOKENS` token places."""
        new = [c for c in dict.fromkeys(captions) if c not in self._known]
        if new:
            every = self.encoder.encode(new, batch_size=1)
            self._known |= {c: placed(every[i : i + 1]) for i, c in enumerate(new)}
        return TextCode.cat([self._known[c] for c in captions])


def placed(c: TextCode) -> TextCode:
    """Codes as training reads them: TOKENS token places, the tokens rounded to half precision."""
    short = TextCode(c.pooled, c.tokens[:, :TOKENS].half().float(), c.mask[:, :TOKENS])
    return short.padded(TOKENS)


def keyed(
    net: PeerNet,
    codes: Callable[[Sequence[str]], TextCode],
    neighbours: Neighbours,
    sampling: Sampling,
    seed: int,
) -> Generate:
    """A network as the report wants it: image i of a caption depends on (seed, caption, i) alone."""

    def generate(captions: Sequence[str], n: int) -> Tensor:
        jobs = [(row, i) for row in range(len(captions)) for i in range(n)]
        every = codes(captions)
        parts = []
        for at in range(0, len(jobs), MICRO_BATCH):
            some = jobs[at : at + MICRO_BATCH]
            generators = [generator_for(seed, caption_number(captions[row]), i) for row, i in some]
            rows = torch.tensor([row for row, _ in some])
            parts.append(_micro_batch(net, every[rows], generators, neighbours, sampling))
        return torch.cat(parts).unflatten(0, (len(captions), n))

    return generate


@torch.no_grad()
def _micro_batch(
    net: PeerNet, c: TextCode, generators: Sequence[torch.Generator], neighbours: Neighbours, sampling: Sampling
) -> Tensor:
    """Pictures of at most MICRO_BATCH codes, always computed as MICRO_BATCH rows."""
    padding = MICRO_BATCH - len(c)
    noise = torch.zeros(MICRO_BATCH, *net.noise_shape)
    u = torch.zeros(MICRO_BATCH)
    for row, generator in enumerate(generators):
        noise[row] = torch.randn(net.noise_shape, generator=generator)
        u[row] = torch.rand((), generator=generator)
    c = TextCode.cat([c, TextCode.null(padding, c.pooled.shape[1])])
    if sampling.neighbours:
        c = neighbours.soften(c, u)
    return net.sample(c, noise, sampling)[: MICRO_BATCH - padding].cpu()
