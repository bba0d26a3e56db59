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
from eval.studies.compare.base import TOKENS, PeerNet, Sampling
from eval.studies.compare.material import Material

MICRO_BATCH = 32  # Rows worked on at a time, padded: matrix kernels round differently for other sizes
FAMILIAR, TEMPERATURE = 0.75, 0.05
"""A caption below this cosine to every training caption takes a neighbour's code, by softmax(cosine / TEMPERATURE)."""


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
