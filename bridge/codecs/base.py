"""Image space: pixels <-> standardised latents, and the folder that holds one."""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from bridge.errors import UserError
from bridge.opening import read_config

DETERMINISTIC_STD = 1e-6
"""`LatentDistribution.std` without a posterior: positive, so that it has a logarithm, but invisible in a picture."""

REFINING = 8  # Steps of `ImageCodec.refined`: more gain little for their time


@dataclass(frozen=True)
class LatentDistribution:
    """Diagonal Gaussian over standardised latents: mean and positive std, each (B, *z_shape)."""

    mean: Tensor
    std: Tensor

    def sample(self, eps: Tensor) -> Tensor:
        """Latents mean + std * eps, (B, *z_shape), for standard normal `eps` of that shape."""
        return self.mean + self.std * eps


class Posterior:
    """Diagonal Gaussian of a VAE's own latents, of moments (B, 2 C, h, w): means, then log-variances.

    As diffusers' DiagonalGaussianDistribution; to import that would import every autoencoder of diffusers.
    """

    def __init__(self, moments: Tensor) -> None:
        self.mean, logvar = moments.chunk(2, dim=1)
        self.logvar = logvar.clamp(-30.0, 20.0)
        self.std, self.var = torch.exp(0.5 * self.logvar), torch.exp(self.logvar)

    def kl(self) -> Tensor:
        """Divergence from N(0, I) in nats, (B,)."""
        return 0.5 * torch.sum(torch.pow(self.mean, 2) + self.var - 1.0 - self.logvar, dim=[1, 2, 3])


class Encoded(NamedTuple):
    """What a VAE's `encode` gives, as in diffusers."""

    latent_dist: Posterior


class Decoded(NamedTuple):
    """What a VAE's `decode` gives, as in diffusers."""

    sample: Tensor


class ImageCodec(abc.ABC):
    """Pixels <-> standardised latents; frozen."""

    z_shape: tuple[int, ...]  # Of one latent
    image_size: int  # Side of the pictures, in pixels
    fingerprint: str  # Identity of weights and configuration
    draws_opacity: bool = False  # Whether it tells what is drawn from what lies behind

    @abc.abstractmethod
    def encode(self, x: Tensor) -> LatentDistribution:
        """Latents of pictures x in [0, 1]; UserError unless they are (B, 3, image_size, image_size)."""

    def refined(self, x: Tensor, steps: int = REFINING) -> LatentDistribution:
        """As `encode`, with means that decode to what is nearer x, where a codec can tell; 0 steps are `encode`."""
        return self.encode(x)

    @abc.abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of latents z; ValueError unless they are (B, *z_shape)."""

    def check_pictures(self, x: Tensor) -> None:
        """Raise UserError unless pictures are (B, 3, image_size, image_size)."""
        if x.shape[1:] != (shape := (3, self.image_size, self.image_size)):
            raise UserError(f"x: expected (B, {', '.join(map(str, shape))}), got {tuple(x.shape)}; resize the pictures")

    def check_latents(self, z: Tensor) -> None:
        """Raise ValueError unless latents are (B, *z_shape)."""
        if z.shape[1:] != self.z_shape:
            raise ValueError(f"z: expected (B, {', '.join(map(str, self.z_shape))}), got {tuple(z.shape)}")

    def check_render(self, size: int | None, transparent: bool) -> None:
        """Raise UserError if `render` cannot draw so: at another size, or without a background."""
        if size is not None and size != self.image_size:
            raise UserError(f"size: this model draws {self.image_size} pixels a side alone, not {size}; leave it out")
        if transparent and not self.draws_opacity:
            raise UserError("transparent: this model's pictures have no background of their own; leave it out")

    def render(self, z: Tensor, size: int | None = None, transparent: bool = False) -> Tensor:
        """Pictures (B, 3 or 4, size, size) in [0, 1] of latents `z`, at any side or with an opacity as channel 4.

        Colours are then straight, not premultiplied. See `check_render`.
        """
        self.check_render(size, transparent)
        return self.decode(z)

    def to(self, device: torch.device | str) -> Self:
        """Move its modules, tensors and codecs to a device, in place; returns self."""
        for name, part in vars(self).items():
            if isinstance(part, Tensor | nn.Module | ImageCodec):
                setattr(self, name, part.to(device))
        return self

    @abc.abstractmethod
    def save(self, folder: Path) -> None:
        """Write a folder for `load_codec`: config.json and safetensors; it is made where it is missing."""


CODECS: dict[str, Callable[[Path], ImageCodec]] = {}
"""`_class_name` in a codec folder's config.json -> how it is opened; `bridge.codecs` fills it."""


def load_codec(folder: Path) -> ImageCodec:
    """Open what `ImageCodec.save` or diffusers wrote; CheckpointError if it is damaged or of an unknown class."""
    folder = Path(folder)
    return CODECS[read_config(folder, known=CODECS)["_class_name"]](folder)
