"""Tensors that take minutes to make, kept on disk by what made them, so that a stopped run starts at once."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor

from bridge.checkpoint import atomic_write


def cached(
    folder: Path, kind: str, identity: Iterable[bytes], compute: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Tensors from `folder`, or computed and written there whole.

    Args:
        folder: Made when first written.
        kind: Start of the file's name.
        identity: Everything that the tensors depend on; names the file.
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
