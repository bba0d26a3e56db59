"""The captions a model was trained on, by their text codes: which are near a caption, and how near.

A mapper answers an unknown caption with an average of what it knows. Drawing the code of a *near known*
caption instead moves the uncertainty into the randomness: every picture is of one thing.

Source: Sheynin et al. 2022, KNN-Diffusion: Image Generation via Large-Scale Retrieval, arXiv:2204.02849;
Blattmann et al. 2022, Semi-Parametric Neural Image Synthesis, arXiv:2204.11824
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bridge.text import TextCode

K = TypeVar("K")
T = TypeVar("T")

CODES, CAPTIONS = "memory.safetensors", "captions.json"
NEIGHBOURS = 64  # beyond these a softmax at temperature .05 has next to no mass
REMEMBERED = 8  # captions whose similarities to all known ones are kept: each is asked about several times


class CaptionMemory:
    """N known captions and their text codes (N, D), unit vectors, or ValueError.

    Kept at half precision, as in its file, so that a memory made and one loaded answer alike. Distances
    are computed on the CPU, row by row: what a caption gets depends on no other caption of its batch.
    """

    def __init__(self, codes: Tensor, captions: Sequence[str]) -> None:
        if codes.ndim != 2 or len(codes) != len(captions) or not len(captions):
            raise ValueError(f"codes: expected (N, D) for {len(captions)} >= 1 captions, got {tuple(codes.shape)}")
        self._half = codes.detach().cpu().half().contiguous()
        rows = self._half.float()
        norm = rows.norm(dim=1, keepdim=True)
        if not ((norm - 1).abs() < 0.01).all():  # written so that NaN fails too
            raise ValueError("codes: expected unit norm, as in TextCode.pooled")
        self.codes = rows.div_(norm)
        self.captions = list(captions)
        self._last: OrderedDict[bytes, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self.captions)

    def nearest(self, pooled: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The `k`, 1 to N, nearest known captions of unit codes (B, D), nearest first; of equals the earlier first.

        Returns cosine similarity in [-1, 1] and index into `captions`, each (B, k), on `pooled`'s device.
        """
        if not 1 <= k <= len(self):
            raise ValueError(f"k: expected 1 to {len(self)} known captions, got {k}")
        cosine, index = torch.sort(self._cosine(pooled), dim=1, descending=True, stable=True)
        return cosine[:, :k].to(pooled.device), index[:, :k].to(pooled.device)

    def familiarity(self, pooled: Tensor) -> Tensor:
        """Cosine similarity of the nearest known caption, (B,) in [-1, 1]; about 1 where it is known itself."""
        return self._cosine(pooled).amax(1).to(pooled.device)

    def soften(self, c: TextCode, u: Tensor, temperature: float, threshold: float) -> TextCode:
        """Replace the codes of unfamiliar captions by those of near known ones.

        A row whose familiarity is below `threshold` gets the code of one of its 64 nearest captions, drawn
        from softmax(cosine / temperature) by inverse CDF at `u`, uniform in [0, 1), (B,); u = 0 is the nearest. It
        loses its tokens. Familiar rows and null rows stay as they are. See `draw`.
        """
        far, index = self.draw(c.pooled, u, temperature, threshold)
        return c.replaced(far, self.codes.to(c.pooled)[index])

    def draw(self, pooled: Tensor, u: Tensor, temperature: float, threshold: float) -> tuple[Tensor, Tensor]:
        """Which captions are unfamiliar, (B,) bool, null rows never, and a near known caption for each, (B,), an index.

        See `soften`. Raises ValueError if `u` is out of range, or `temperature`, usually .05, not above 0.
        """
        if u.shape != (len(pooled),) or not ((u >= 0) & (u < 1)).all():
            raise ValueError(f"u: expected ({len(pooled)},) in [0, 1), got {tuple(u.shape)}")
        if not temperature > 0:
            raise ValueError(f"temperature: expected a number above 0, got {temperature}")
        cosine, index = self.nearest(pooled, min(NEIGHBOURS, len(self)))
        cdf = torch.softmax(cosine.double() / temperature, dim=1).cumsum(1)
        drawn = torch.searchsorted(cdf, u.to(cdf)[:, None], right=True).clamp(max=index.shape[1] - 1)
        return (cosine[:, 0] < threshold) & pooled.any(1), index.gather(1, drawn)[:, 0]

    def save(self, folder: str | Path, with_codes: bool = True) -> None:
        """Write captions (JSON) and codes (float16 safetensors, unless a mapper holds them) into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if with_codes:
            save_file({"codes": self._half}, folder / CODES)
        text = json.dumps(self.captions, ensure_ascii=False, indent=0)
        (folder / CAPTIONS).write_text(text + "\n", "utf-8")

    @classmethod
    def load(cls, folder: str | Path, codes: Tensor | None = None) -> Self:
        """What `save` wrote; `codes` where they are kept elsewhere."""
        captions: list[str] = json.loads((Path(folder) / CAPTIONS).read_text("utf-8"))
        return cls(load_file(Path(folder) / CODES)["codes"] if codes is None else codes, captions)

    def _cosine(self, pooled: Tensor) -> Tensor:
        """Cosine similarity to every known caption, (B, N). Equal rows are computed once."""
        if pooled.ndim != 2 or pooled.shape[1] != self.codes.shape[1]:
            raise ValueError(f"pooled: expected (B, {self.codes.shape[1]}), got {tuple(pooled.shape)}")
        if not len(pooled):
            return torch.empty(0, len(self))
        rows, inverse = torch.unique(pooled.detach().cpu().float(), dim=0, return_inverse=True)
        # By matrix-vector products: one with a matrix of rows rounds differently as the batch grows.
        cosine = [remembered(self._last, REMEMBERED, row, lambda c: (self.codes @ c).clamp(-1, 1)) for row in rows]
        return torch.stack(cosine)[inverse]


def code_key(code: Tensor) -> bytes:
    """What a text code, (D,), is remembered by."""
    return code.detach().cpu().float().numpy().tobytes()


def remembered(cache: OrderedDict[bytes, T], most: int, code: Tensor, compute: Callable[[Tensor], T]) -> T:
    """What `compute` gives for a text code, cached for the last `most` of them."""
    return kept(cache, most, code_key(code), lambda: compute(code))


def kept(cache: OrderedDict[K, T], most: int, key: K, compute: Callable[[], T]) -> T:
    """What `compute` gives, cached for the last `most` keys."""
    if key not in cache:
        cache[key] = compute()
        while len(cache) > most:
            cache.popitem(last=False)
    return cache[key]
