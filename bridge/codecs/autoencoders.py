"""Image spaces of diffusers' autoencoders, frozen: AutoencoderKL, AutoencoderTiny and VQModel."""

import copy
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from bridge.checkpoint import CheckpointError
from bridge.codecs.base import DETERMINISTIC_STD, REFINING, ImageCodec, LatentDistribution
from bridge.codecs.refine import refine
from bridge.context import unwrapped
from bridge.errors import UserError
from bridge.hub import HubError, local_folder, snapshot
from bridge.opening import CONFIG, fingerprint, open_module, read_config

HUB_FILES = (CONFIG, "diffusion_pytorch_model.safetensors")


class FromDiffusers:
    """A class of diffusers, imported when it is asked for: with one autoencoder come all, and seconds."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> Any:
        import diffusers  # noqa: PLC0415

        return getattr(diffusers, self.name)


class AutoencoderCodec(ImageCodec):
    """What the autoencoders share: `vae`, frozen, and the `mean` and `std`, (1, C, 1, 1), that standardise its latents.

    These stand in the autoencoder's own config, as `latents_mean` and `latents_std`, a number a channel; without them
    `shift_factor` and 1 / `scaling_factor` do, as in diffusers' own pipelines. A setting that the autoencoder's class
    does not know has a "_" before its name: diffusers keeps such settings and asks nothing about them.

    Raises UserError if the autoencoder is not one of colour pictures, its side is unknown or no multiple of what a
    latent covers, or its statistics are not one number a channel.
    """

    model: ClassVar[Any]

    def __init__(self, vae: Any) -> None:
        self.vae = vae = unwrapped(vae).eval().requires_grad_(False)
        config, factor = vae.config, self.factor(vae.config)
        settings = {name: config[_key(type(vae), name)] for name in SETTINGS if _key(type(vae), name) in config}
        if settings.get("sample_size") is None:
            raise UserError(f"image_size: {type(vae).__name__} does not say which pictures it is for; give their side")
        self.image_size = int(settings["sample_size"])
        if self.image_size % factor or self.image_size < factor:
            low = max(self.image_size // factor * factor, factor)
            expected = f"image_size: expected a multiple of {factor}, got {self.image_size}; resize the pictures"
            raise UserError(f"{expected}, to {low} or {low + factor}")
        if (config.in_channels, config.out_channels) != (3, 3):
            raise UserError(f"vae: expected pictures of 3 channels, this one has {config.in_channels}; choose another")
        channels = int(config.get("vq_embed_dim") or config.latent_channels)
        self.z_shape = (channels, self.image_size // factor, self.image_size // factor)
        shift, scale = config.get("shift_factor") or 0.0, 1 / config.scaling_factor
        self.mean = _channelwise(settings.get("latents_mean") or [shift] * channels, "latents_mean", channels)
        self.std = _channelwise(settings.get("latents_std") or [scale] * channels, "latents_std", channels)
        if not bool((self.std > 0).all()):
            raise UserError("latents_std: expected positive numbers; measure them with `python -m train.autoencoder`")
        self.fingerprint = fingerprint(vae, dict(config) | settings)

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, unwrapped(value))

    @classmethod
    def factor(cls, config: Mapping[str, Any]) -> int:
        """Side of the pixels under one latent position."""
        return int(2 ** (len(config.get("encoder_block_out_channels") or config["block_out_channels"]) - 1))

    def raw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the autoencoder's own latents of pictures `x` (B, 3, H, W) in [-1, 1]."""
        encoded = self.vae.encode(x)
        if hasattr(encoded, "latent_dist"):
            return encoded.latent_dist.mean, encoded.latent_dist.std
        return encoded.latents, DETERMINISTIC_STD * self.std.expand_as(encoded.latents)

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Open a folder that diffusers wrote; CheckpointError if it is damaged, or holds no safetensors."""
        return cls(open_module(cls.model, Path(folder)))

    def with_statistics(self, mean: Sequence[float], std: Sequence[float]) -> Self:
        """A copy, standardised by other statistics of the autoencoder's own latents, one number a channel."""
        vae = copy.deepcopy(self.vae)
        values = {"latents_mean": list(mean), "latents_std": list(std)}
        vae.register_to_config(**{_key(type(vae), name): value for name, value in values.items()})
        return type(self)(vae)

    def rounded(self) -> Self:
        """A copy whose weights are rounded to half precision; it computes in float32 as before."""
        vae = copy.deepcopy(self.vae)
        for weight in vae.parameters():
            weight.data = weight.data.half().float()
        return type(self)(vae)

    def save(self, folder: Path) -> None:
        """Write a folder that diffusers alone opens; weights as after `rounded` take half the bytes."""
        halved = all(torch.equal(weight, weight.half().float()) for weight in self.vae.state_dict().values())
        (copy.deepcopy(self.vae).half() if halved else self.vae).save_pretrained(folder)

    @torch.no_grad()
    def encode(self, x: Tensor) -> LatentDistribution:
        self.check_pictures(x)
        mean, std = self.raw(x * 2 - 1)
        return LatentDistribution((mean - self.mean) / self.std, std / self.std)

    def refined(self, x: Tensor, steps: int = REFINING) -> LatentDistribution:
        """As `encode`, with means moved so that they decode to what is nearer x; see `bridge.codecs.refine`."""
        return refine(self._decoded, x, self.encode(x), steps)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        self.check_latents(z)
        return self._decoded(z)

    def _decoded(self, z: Tensor) -> Tensor:
        return (self.vae.decode(z * self.std + self.mean).sample / 2 + 0.5).clamp(0, 1)


class VAECodec(AutoencoderCodec):
    """A diffusers AutoencoderKL: variational, with a posterior of its own for each picture.

    Source: Kingma & Welling 2014, Auto-Encoding Variational Bayes, arXiv:1312.6114
    """

    model = FromDiffusers("AutoencoderKL")


class TinyCodec(AutoencoderCodec):
    """A diffusers AutoencoderTiny, a distilled plain autoencoder: without a posterior, std is DETERMINISTIC_STD.

    Source: Boer Bohan, Tiny AutoEncoder for Stable Diffusion, github.com/madebyollin/taesd
    """

    model = FromDiffusers("AutoencoderTiny")


class VQCodec(AutoencoderCodec):
    """A diffusers VQModel. Latents are those before quantisation, so continuous; decoding quantises, and may jump.

    Without a posterior, std is DETERMINISTIC_STD.

    Source: van den Oord et al. 2017, Neural Discrete Representation Learning, arXiv:1711.00937
    """

    model = FromDiffusers("VQModel")


SETTINGS = ("sample_size", "latents_mean", "latents_std")
AUTOENCODERS = {"AutoencoderKL": VAECodec, "AutoencoderTiny": TinyCodec, "VQModel": VQCodec}


def codec_from_diffusers(source: str | Path, image_size: int | None = None) -> AutoencoderCodec:
    """A codec over a published autoencoder: AutoencoderKL, AutoencoderTiny or VQModel.

    `source` is a folder that diffusers wrote, or a hub id, "owner/name" or "owner/name/folder"; safetensors only.
    `image_size` is the side of the pictures, in pixels; by default what the config says, often more than they have.
    Latents are scaled as the config says; `python -m train.autoencoder` measures their statistics on pictures.

    Raises CheckpointError if there is no such autoencoder or it is damaged, UserError if it is not for such pictures.
    """
    folder = local_folder(source)
    if folder is None and isinstance(source, os.PathLike):
        raise CheckpointError(f"source: {str(source)!r}: no such folder; a hub id is given as text")
    folder = folder or _download(str(source))
    name = read_config(folder)["_class_name"]
    if name not in AUTOENCODERS:
        raise CheckpointError(f"{folder / CONFIG}: unknown autoencoder {name!r}; known: {', '.join(AUTOENCODERS)}")
    codec = AUTOENCODERS[name]
    vae = open_module(codec.model, folder)
    if image_size is not None:
        vae.register_to_config(**{_key(codec.model, "sample_size"): image_size})
    return codec(vae)


def _download(source: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/\w[\w.-]*)+", source):
        raise CheckpointError(f"source: {source!r} is no folder; a hub id looks like 'owner/name'")
    owner, name, *inner = source.split("/")
    try:
        folder = snapshot(f"{owner}/{name}", ["/".join([*inner, file]) for file in HUB_FILES])
    except HubError as error:
        remedy = f"name a folder, or fetch it where there is a network: `hf download {owner}/{name}`"
        raise CheckpointError(f"source: {error}; {remedy}") from error
    return folder.joinpath(*inner)


def _key(model: Any, name: str) -> str:
    """What a setting of ours is called in the config of an autoencoder of class `model`."""
    return name if name in inspect.signature(model.__init__).parameters else f"_{name}"


def _channelwise(values: Sequence[float], name: str, channels: int) -> Tensor:
    numbers = torch.tensor(values, dtype=torch.float32)
    if numbers.shape != (channels,) or not bool(numbers.isfinite().all()):
        raise UserError(f"{name}: expected {channels} finite numbers, got {list(values)!r}")
    return numbers.view(1, -1, 1, 1)
