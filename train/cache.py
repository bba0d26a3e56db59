"""Encode once: text codes and latents on disk, filed by what made them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from bridge.codec import ImageCodec, LatentDistribution
from bridge.text import TextCode, TextEncoder
from eval.store import cached
from train.data import to_unit

CHUNK = 256


@dataclass(frozen=True)
class Codes:
    """Codes of T texts, their tokens in one ragged row at half precision.

    Args:
        pooled: (T, D).
        tokens: All tokens, text after text, (sum of lengths, D) float16; none where they were not asked for.
        length: Tokens of each text, (T,).
    """

    pooled: Tensor
    tokens: Tensor
    length: Tensor

    @property
    def places(self) -> int:
        """Token places of every code: the longest text's."""
        return int(self.length.max()) if len(self.length) else 0

    def rows(self, index: Tensor) -> TextCode:
        """Codes of texts (B,), with `places` token places."""
        place, length = torch.arange(self.places), self.length[index, None]
        mask = place < length
        at = (self.length.cumsum(0) - self.length)[index, None] + place
        tokens = self.tokens[at.clamp(max=max(len(self.tokens) - 1, 0))].float()
        return TextCode(self.pooled[index], tokens * mask[..., None], mask)


def text_codes(encoder: TextEncoder, texts: Sequence[str], folder: Path) -> Tensor:
    """Pooled codes of captions, (N, D), kept in `folder`."""
    return caption_codes(encoder, texts, folder, with_tokens=False).pooled


def caption_codes(encoder: TextEncoder, texts: Sequence[str], folder: Path, *, with_tokens: bool) -> Codes:
    """Codes of captions, kept in `folder`."""

    def compute() -> dict[str, Tensor]:
        pooled, tokens, length = [], [], []
        for i in tqdm(range(0, len(texts), CHUNK), desc="captions", file=sys.stderr):
            code = encoder.encode(texts[i : i + CHUNK], batch_size=32, with_tokens=with_tokens)
            pooled.append(code.pooled)
            tokens.append(code.tokens[code.mask].half())
            length.append(code.mask.sum(1))
        found = {"codes": torch.cat(pooled)}
        return found | {"tokens": torch.cat(tokens), "length": torch.cat(length)} if with_tokens else found

    identity = [encoder.fingerprint.encode(), *(text.encode() for text in texts)]
    found = cached(folder, "tokens" if with_tokens else "codes", identity, compute)
    pooled = found["codes"]
    none = {"tokens": pooled.new_zeros(0, pooled.shape[1]).half(), "length": torch.zeros(len(pooled), dtype=torch.long)}
    rest = {name: found.get(name, value) for name, value in none.items()}
    return Codes(pooled, rest["tokens"], rest["length"])


def latents(codec: ImageCodec, pixels: Tensor, folder: Path) -> LatentDistribution:
    """Latent distributions of pictures (N, 3, H, W) uint8, kept in `folder`."""

    def compute() -> dict[str, Tensor]:
        chunks = [codec.encode(to_unit(c)) for c in tqdm(pixels.split(64), desc="pictures", file=sys.stderr)]
        return {"mean": torch.cat([c.mean for c in chunks]), "std": torch.cat([c.std for c in chunks])}

    found = cached(folder, "latents", [codec.fingerprint.encode(), pixels.numpy().tobytes()], compute)
    return LatentDistribution(found["mean"], found["std"])
