"""A mixture of Gaussians of each caption: weights, means and deviations from a perceptron."""

import math

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from bridge.errors import UserError
from bridge.mappers.base import DensityMapper
from bridge.mappers.nets import CodeMLP
from bridge.text import TextCode


class MixtureMapper(DensityMapper):
    """Latents are a mixture of diagonal Gaussians under a caption.

    The first number of a noise row picks the component, the others place the latent in it. Several noises give
    one latent, so there is no inverse. Temperature T also sharpens the weights w to w ** (1 / T²), as it does
    the densities; at 0 the likeliest component's mean remains.

    Args:
        z_shape: Shape of one latent.
        text_dim: Dimension of the text code.
        components: Gaussians in the mixture.
        width: Features of the residual stream.
        hidden: Features inside a block.
        blocks: Residual blocks.
        dropout: Share of the features inside a block dropped in training.
        text_dropout: Share of text features dropped in training.
        min_std: Least deviation, without which the likelihood has no maximum.

    Source: Bishop 1994, Mixture Density Networks, NCRG/94/004
    """

    @register_to_config
    def __init__(
        self,
        z_shape: tuple[int, ...],
        text_dim: int,
        components: int = 8,
        width: int = 512,
        hidden: int = 1024,
        blocks: int = 3,
        dropout: float = 0.0,
        text_dropout: float = 0.0,
        min_std: float = 0.05,
    ) -> None:
        super().__init__()
        if components < 1 or min_std <= 0:
            raise UserError(f"components, min_std: expected 1 or more, above 0, got {components} and {min_std}")
        self.z_shape, self.text_dim, self.components, self.min_std = tuple(z_shape), text_dim, components, min_std
        self.dim = math.prod(z_shape)
        self.sample_noise_shape = (1 + self.dim,)
        out = components * (1 + 2 * self.dim)
        self.net = CodeMLP(text_dim, out, width, hidden, blocks, dropout, text_dropout)
        with torch.no_grad():  # components start apart: equal ones would stay equal
            self.net.leave.weight.mul_(0.1)
            nn.init.zeros_(self.net.leave.bias)
            nn.init.normal_(self.net.leave.bias[components : components * (1 + self.dim)], std=0.5)

    def parameters_of(self, c: TextCode) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights (B, K), means (B, K, D) and deviations (B, K, D) under each caption."""
        k, dim = self.components, self.dim
        logits, means, raw = self.net(c.pooled).split([k, k * dim, k * dim], dim=1)
        std = self.min_std + nn.functional.softplus(raw + math.log(math.expm1(1 - self.min_std)))
        return logits.log_softmax(1), means.view(-1, k, dim), std.view(-1, k, dim)

    def log_prob(self, z: Tensor, c: TextCode) -> Tensor:
        """See `DensityMapper.log_prob`; exact."""
        self.check_rows("z", z, self.z_shape, c)
        weights, means, std = self.parameters_of(c)
        e = (z.flatten(1)[:, None] - means) / std
        each = -(e.square().sum(2) + self.dim * math.log(2 * math.pi)) / 2 - std.log().sum(2)
        return (weights + each).logsumexp(1)

    @torch.no_grad()
    def sample(self, c: TextCode, *, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """See `Mapper.sample`; the pick is the weights' quantile at the normal CDF of a row's first number."""
        self.check_rows("noise", noise, self.sample_noise_shape, c)
        weights, means, std = self.parameters_of(c)
        if temperature == 0:
            pick = weights.argmax(1)
        else:
            shares = (weights / temperature**2).softmax(1).cumsum(1)
            pick = (shares < torch.special.ndtr(noise[:, :1])).sum(1).clamp(max=self.components - 1)
        rows = torch.arange(len(c), device=noise.device)
        z = means[rows, pick] + std[rows, pick] * noise[:, 1:] * temperature
        return z.view(-1, *self.z_shape)
