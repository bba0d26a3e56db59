"""Encode once: text codes and latents on disk, filed by what made them."""

import hashlib
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from bridge.checkpoint import atomic_write
from bridge.codec import ImageCodec, LatentDistribution
from bridge.text import TextEncoder
from train.data import to_unit

CHUNK = 256


def cached(
    folder: Path, kind: str, identity: Iterable[bytes], compute: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Tensors from `folder`, or computed and kept there.

    Args:
        folder: Where caches live; made when first written.
        kind: Start of the file's name.
        identity: Everything the tensors depend on; names the file.
        compute: Makes the tensors.
    """
    digest = hashlib.sha256()
    for part in identity:
        digest.update(hashlib.sha256(part).digest())
    path = folder / f"{kind}-{digest.hexdigest()[:24]}.safetensors"
    if path.exists():
        return load_file(path)
    tensors = compute()
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    return tensors


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
