"""Encode once: text codes and latents on disk, filed by what made them."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from bridge.codec import ImageCodec, LatentDistribution
from bridge.text import TextEncoder
from eval.store import cached
from train.data import to_unit

CHUNK = 256


def text_codes(encoder: TextEncoder, texts: Sequence[str], folder: Path) -> Tensor:
    """Pooled codes of captions, (N, D), kept in `folder`."""

    def compute() -> dict[str, Tensor]:
        starts = tqdm(range(0, len(texts), CHUNK), desc="captions", file=sys.stderr)
        chunks = [encoder.encode(texts[i : i + CHUNK], batch_size=32, with_tokens=False).pooled for i in starts]
        return {"codes": torch.cat(chunks)}

    identity = [encoder.fingerprint.encode(), *(text.encode() for text in texts)]
    return cached(folder, "codes", identity, compute)["codes"]


def latents(codec: ImageCodec, pixels: Tensor, folder: Path) -> LatentDistribution:
    """Latent distributions of pictures (N, 3, H, W) uint8, kept in `folder`."""

    def compute() -> dict[str, Tensor]:
        chunks = [codec.encode(to_unit(c)) for c in tqdm(pixels.split(64), desc="pictures", file=sys.stderr)]
        return {"mean": torch.cat([c.mean for c in chunks]), "std": torch.cat([c.std for c in chunks])}

    found = cached(folder, "latents", [codec.fingerprint.encode(), pixels.numpy().tobytes()], compute)
    return LatentDistribution(found["mean"], found["std"])
