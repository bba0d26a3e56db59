"""A VAE whose latents have no place in the picture: convolutions, then dense layers, as beta-VAEs are built."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from bridge.codecs.autoencoders import VAECodec
from bridge.codecs.base import Decoded, Encoded, Posterior
from bridge.errors import UserError


class DenseVAE(ModelMixin, ConfigMixin):
    """Strided convolutions, one dense layer, L latents; and back. Encodes and decodes as AutoencoderKL does.

    Source: Burgess et al. 2018, Understanding disentangling in beta-VAE, arXiv:1804.03599 (there with one width of
        32, two dense layers, and ReLU)
    """

    @register_to_config
    def __init__(
        self,
        block_out_channels: tuple[int, ...] = (32, 32, 64, 64),  # After each halving of the side, finest first
        units: int = 256,  # Width of the dense layer
        latent_channels: int = 10,  # L
        sample_size: int = 64,  # Side of the pictures, in pixels; UserError if it cannot be halved so often
        in_channels: int = 3,
        out_channels: int = 3,
        scaling_factor: float = 1.0,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ) -> None:
        super().__init__()
        widths = list(block_out_channels)
        side, rest = divmod(sample_size, 2 ** len(widths))
        if rest:
            expected = f"expected a multiple of {2 ** len(widths)} to halve {len(widths)} times, got {sample_size}"
            raise UserError(f"sample_size: {expected}; give fewer block_out_channels")
        down: list[nn.Module] = []
        for before, after in pairwise([in_channels, *widths]):
            down += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.SiLU()]
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(widths[-1] * side * side, units), nn.SiLU())
        self.quant_conv = nn.Conv2d(units, 2 * latent_channels, 1)
        up: list[nn.Module] = []
        for before, after in pairwise([*widths[::-1], out_channels]):
            up += [nn.SiLU(), nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
        self.decoder = nn.Sequential(
            nn.Flatten(),
            nn.Linear(latent_channels, units),
            nn.SiLU(),
            nn.Linear(units, widths[-1] * side * side),
            nn.Unflatten(1, (widths[-1], side, side)),
            *up,
        )

    def encode(self, x: Tensor) -> Encoded:
        """Posterior of pictures x, (B, in_channels, H, W) in [-1, 1]; latents are (B, L, 1, 1)."""
        return Encoded(Posterior(self.quant_conv(self.encoder(x)[..., None, None]).float()))

    def decode(self, z: Tensor) -> Decoded:
        """Pictures (B, out_channels, H, W), about -1 to 1, of latents z, (B, L, 1, 1)."""
        return Decoded(self.decoder(z))


class DenseCodec(VAECodec):
    """Codec of a `DenseVAE`: each latent sees, and draws, the whole picture."""

    model = DenseVAE

    @classmethod
    def factor(cls, config: Mapping[str, Any]) -> int:
        return int(config["sample_size"])
