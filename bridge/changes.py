"""What one word in place of another changes in a picture, learnt from pairs of pictures in memory.

A memory with "red car" and "blue car", "red cup" and "blue cup" shows what "blue" in place of "red" does. It is a map
of the latent around each position, so that it finds what is red wherever that is.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from bridge.mappers import LocalFlowMapper

LEAST, MOST = 8, 200  # pairs below which nothing is learnt, and that are learnt from at most
RIDGE = 0.05  # share of the features' mean square that is added to each one's


@dataclass(frozen=True)
class Change:
    """A map of latents (C, h, w), least squares over pairs of pictures; `weight` is (features, C), float64.

    At each position, what is added is linear in the latent there and at its eight neighbours, and in the products of
    its channels there.
    """

    weight: Tensor

    @classmethod
    def fit(cls, before: Tensor, after: Tensor) -> Self:
        """From latents before and after the change, both (N, C, h, w)."""
        x = _features(before).flatten(0, 1)
        y = (after - before).flatten(2).transpose(1, 2).flatten(0, 1).double()
        square = x.T @ x
        square += RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype, device=square.device)
        return cls(torch.linalg.solve(square, x.T @ y))

    def apply(self, z: Tensor, scale: float = 1.0) -> Tensor:
        """Latents z (B, C, h, w) changed; a `scale` of 0 changes nothing, of -1 about the other way."""
        added = (_features(z) @ self.weight).transpose(1, 2).reshape(z.shape)
        return z + scale * added.to(z)


def _features(z: Tensor) -> Tensor:
    """What a change may depend on, (B, h * w, features), of latents (B, C, h, w)."""
    z = z.double()
    around = F.unfold(F.pad(z, (1, 1, 1, 1), mode="replicate"), 3)
    first, second = torch.triu_indices(z.shape[1], z.shape[1])
    here = z.flatten(2)
    return torch.cat([around, here[:, first] * here[:, second], torch.ones_like(here[:, :1])], 1).transpose(1, 2)


def learn_change(mapper: LocalFlowMapper, captions: Sequence[str], minus: str, plus: str) -> Change | None:
    """The change from `minus` to `plus`, such as "red" to "blue", or None where too few pairs show it.

    It is learnt from the mapper's memory of latents with a grid, (C, h, w); `captions` are the memory's, in its order.
    """
    if len(mapper.z_shape) != 3 or minus == plus:
        return None
    pairs = change_pairs(mapper, captions, minus, plus)
    if len(pairs) < LEAST:
        return None
    step = max(1, len(pairs) / MOST)
    some = torch.tensor([pairs[int(i * step)] for i in range(min(MOST, len(pairs)))])
    return Change.fit(*mapper.picture_latents(some.T.to(mapper.latents.device)))


def change_pairs(mapper: LocalFlowMapper, captions: Sequence[str], minus: str, plus: str) -> list[tuple[int, int]]:
    """Numbers of pictures in memory, of one style, whose captions differ by `plus` in place of `minus`.

    Each picture is paired once, with the nearest of those that it may be paired with.
    """
    if not minus:
        return []
    words = re.compile(rf"\b{re.escape(minus)}\b")
    number = {caption: i for i, caption in enumerate(captions)}
    siblings = {
        i: number[other]
        for i, caption in enumerate(captions)
        if words.search(caption) and (other := words.sub(lambda _: plus, caption)) in number
    }
    shown: dict[int, list[int]] = {caption: [] for caption in {*siblings, *siblings.values()}}
    link: list[int] = mapper.link.tolist()
    for picture, (begin, end) in enumerate(pairwise(mapper.start.tolist())):
        for caption in shown.keys() & link[begin:end]:
            shown[caption].append(picture)
    style: list[int] = mapper.style.tolist()
    some = sorted({picture for pictures in shown.values() for picture in pictures})
    index = torch.tensor(some, dtype=torch.long, device=mapper.latents.device)
    z = dict(zip(some, mapper.picture_latents(index).flatten(1), strict=True))
    paired: dict[int, int] = {}
    for first, second in siblings.items():
        for picture in shown[first]:
            rest = [p for p in shown[second] if style[p] == style[picture] and p not in shown[first]]
            if rest and picture not in paired:
                away = torch.stack([z[p] for p in rest]) - z[picture]
                paired[picture] = rest[int(away.square().sum(1).argmin())]
    return list(paired.items())
