"""Extractors besides the judge: second opinions on a report, and what to compare a network with.

>>> extractor("pixels").encode(torch.zeros(2, 3, 64, 64)).late.shape
(2, 768)
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel

from bridge.checkpoint import fingerprint
from bridge.codecs import ImageCodec
from bridge.errors import UserError
from eval.features import EfficientNetLite, Extractor, Features, channel_statistics

KNOWN = ("efficientnet-lite0", "efficientnet-lite2", "pixels", "latents")
"""Names that `extractor` knows, besides models of transformers."""


def extractor(name: str, codec: ImageCodec | None = None, device: str | torch.device = "cpu") -> Extractor:
    """The extractor of a name.

    Args:
        name: One of `KNOWN`, or a vision model of transformers: a folder, or a hub id with a slash.
        codec: Whose latents, for "latents".
        device: Where a network runs; a codec runs where it is.

    Raises:
        ValueError: An unknown name, no codec for "latents", or weights that cannot be loaded.
    """
    if name.startswith("efficientnet-lite") and name in KNOWN:
        return EfficientNetLite(int(name[-1]), device)
    if name == "pixels":
        return RawPixels()
    if name == "latents":
        if codec is None:
            raise UserError("codec: 'latents' are those of a codec; give one, or another name")
        return CodecLatents(codec)
    if "/" in name or (name and Path(name).is_dir()):
        return TransformersVision(name, device)
    raise UserError(
        f"name: expected one of {', '.join(KNOWN)}, a folder or a hub id (owner/model) of a transformers "
        f"vision model, got {name!r}"
    )


class RawPixels(Extractor):
    """No network at all: what any learned description has to beat.

    Late features are a thumbnail, 16 x 16 px in three channels; early ones the channel statistics of the
    picture and of the size of its local gradients.
    """

    SIZE = 16

    def __init__(self) -> None:
        self.id = f"pixels-{self.SIZE}"

    def encode_batch(self, x: Tensor) -> Features:
        """Features of one batch of pictures x, (B, 3, H, W) in [0, 1], at least 2 x 2 px."""
        x = x.detach().cpu().float()
        late = F.interpolate(x, (self.SIZE, self.SIZE), mode="bilinear", antialias=True, align_corners=False)
        corner = x[:, :, :-1, :-1]
        gradient = torch.hypot(x[:, :, :-1, 1:] - corner, x[:, :, 1:, :-1] - corner)
        return Features(late.flatten(1).numpy(), channel_statistics([x, gradient]).numpy())


class CodecLatents(Extractor):
    """The space that the mapper itself works in: agreement here is agreement with its training loss.

    Late features are the standardised latent means, flattened; early ones their channel statistics.

    Args:
        codec: With latents (C, h, w). Pictures must have its size.

    Raises:
        ValueError: The codec's latents are no maps.
    """

    def __init__(self, codec: ImageCodec) -> None:
        if len(codec.z_shape) != 3:
            raise UserError(f"codec: expected latents (C, h, w), got z_shape {codec.z_shape}; use 'pixels' instead")
        self.codec = codec
        self.id = f"latents-{codec.fingerprint}"

    def encode_batch(self, x: Tensor) -> Features:
        """Features of one batch of pictures x, (B, 3, image_size, image_size) in [0, 1]."""
        z = self.codec.encode(x).mean.detach().cpu().float()
        return Features(z.flatten(1).numpy(), channel_statistics([z]).numpy())


class TransformersVision(Extractor):
    """Any vision model of transformers, such as CLIP, DINOv2, ViT or ConvNeXt, with its own preprocessing.

    Late features are its pooled output, or the mean over tokens where it has none (or none with trained
    weights). Early ones are means and deviations over tokens (or positions) of two early hidden states: the
    first layer's and the one a third of the way up. Of a model with two towers, the vision tower. Frozen.

    Args:
        model_id_or_folder: A folder that `save_pretrained` wrote, with model.safetensors and
            preprocessor_config.json, or a hub id.
        device: Where the network runs.

    Raises:
        ValueError: There is no such model, it is none for pictures, or its weights do not fit it.

    Source: Radford et al. 2021, CLIP, arXiv:2103.00020, for the extractor that most reports use
    """

    def __init__(self, model_id_or_folder: str | Path, device: str | torch.device = "cpu") -> None:
        try:
            # The PIL backend: one result with and without torchvision.
            self._processor = AutoImageProcessor.from_pretrained(str(model_id_or_folder), backend="pil")
            model, info = AutoModel.from_pretrained(
                str(model_id_or_folder), use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            raise UserError(
                f"model_id_or_folder: cannot load {model_id_or_folder} ({str(error).splitlines()[0]}); give a vision "
                "model's folder with config, safetensors and preprocessor_config.json, or a hub id and a connection"
            ) from error
        untrained = [key for key in info["missing_keys"] if "pooler" not in key]
        if untrained or info["mismatched_keys"]:
            raise UserError(
                f"model_id_or_folder: the weights in {model_id_or_folder} lack "
                f"{sorted(untrained or info['mismatched_keys'])[0]}; save the whole model again"
            )
        tower: Any = getattr(model, "vision_model", model)
        if info["missing_keys"]:
            tower.pooler = None  # its weights are random, other ones at every load
        self.network = tower.eval().requires_grad_(False).to(device)
        self._device = torch.device(device)
        self.id = f"{model.config.model_type}-{fingerprint(self.network, self._processor.to_dict())}"

    def encode_batch(self, x: Tensor) -> Features:
        """Features of one batch of pictures x, (B, 3, H, W) in [0, 1]."""
        # Bytes, as read from a file: processors guess the range of anything else.
        pictures = (x.detach().cpu().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        inputs = self._processor(list(pictures), return_tensors="pt", input_data_format="channels_last")
        output = self.network(inputs["pixel_values"].to(self._device), output_hidden_states=True)
        hidden = output.hidden_states
        early = [_as_maps(hidden[i]) for i in sorted({1, min(max(2, len(hidden) // 3), len(hidden) - 1)})]
        pooled = output.get("pooler_output")
        late = _as_maps(output.last_hidden_state).mean(dim=(2, 3)) if pooled is None else pooled.flatten(1)
        return Features(late.cpu().numpy(), channel_statistics(early).cpu().numpy())


def _as_maps(h: Tensor) -> Tensor:
    """Tokens (B, T, C) as maps (B, C, T, 1); maps stay maps."""
    return h.transpose(1, 2).unsqueeze(-1) if h.ndim == 3 else h
