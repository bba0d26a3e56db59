"""Image space: pixels <-> standardised latents, over a frozen diffusers autoencoder."""

import abc
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from bridge.checkpoint import fingerprint


@dataclass(frozen=True)
class LatentDistribution:
    """Diagonal Gaussian over standardised latents.

    Attributes:
        mean: (B, *z_shape).
        std: (B, *z_shape), positive.
    """

    mean: Tensor
    std: Tensor

    def sample(self, eps: Tensor) -> Tensor:
        """Latents mean + std * eps, (B, *z_shape), for standard normal `eps` of that shape."""
        return self.mean + self.std * eps


class ImageCodec(abc.ABC):
    """Pixels <-> standardised latents; frozen.

    Attributes:
        z_shape: Shape of one latent.
        image_size: Side of the pictures, in pixels.
        fingerprint: Identity of weights and configuration.
    """

    z_shape: tuple[int, ...]
    image_size: int
    fingerprint: str

    @abc.abstractmethod
    def encode(self, x: Tensor) -> LatentDistribution:
        """Latents of pictures `x`, (B, 3, H, W) in [0, 1]."""

    @abc.abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of latents `z`, (B, *z_shape)."""

    @abc.abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Move to a device, in place; returns self."""


class VAECodec(ImageCodec):
    """A diffusers AutoencoderKL; the statistics of its latents stand in its own config.

    Args:
        vae: The autoencoder. `latents_mean` and `latents_std`, one number a channel, standardise
            its latents; without them the latents are taken as they are.

    Source: Kingma & Welling 2014, Auto-Encoding Variational Bayes, arXiv:1312.6114
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        self.vae = vae.eval().requires_grad_(False)
        config = vae.config
        self.image_size = int(config.sample_size)
        side = self.image_size // 2 ** (len(config.block_out_channels) - 1)
        channels = int(config.latent_channels)
        self.z_shape = (channels, side, side)
        self.mean = torch.tensor(config.latents_mean or [0.0] * channels).view(1, -1, 1, 1)
        self.std = torch.tensor(config.latents_std or [1.0] * channels).view(1, -1, 1, 1)
        self.fingerprint = fingerprint(vae, dict(config))

    @classmethod
    def from_pretrained(cls, folder: Path) -> "VAECodec":
        """Open a folder that diffusers wrote; safetensors only."""
        return cls(AutoencoderKL.from_pretrained(folder, use_safetensors=True, local_files_only=True))

    def to(self, device: torch.device | str) -> Self:
        self.vae.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    @torch.no_grad()
    def encode(self, x: Tensor) -> LatentDistribution:
        """See `ImageCodec.encode`.

        Raises:
            ValueError: `x` has another shape than (B, 3, image_size, image_size).
        """
        if x.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(
                f"x: expected (B, 3, {self.image_size}, {self.image_size}), got {tuple(x.shape)}; resize the pictures"
            )
        posterior = self.vae.encode(x * 2 - 1).latent_dist
        return LatentDistribution((posterior.mean - self.mean) / self.std, posterior.std / self.std)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """See `ImageCodec.decode`.

        Raises:
            ValueError: `z` has another shape than (B, *z_shape).
        """
        if z.shape[1:] != self.z_shape:
            raise ValueError(f"z: expected (B, {', '.join(map(str, self.z_shape))}), got {tuple(z.shape)}")
        return (self.vae.decode(z * self.std + self.mean).sample / 2 + 0.5).clamp(0, 1)
