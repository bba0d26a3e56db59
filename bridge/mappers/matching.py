"""Conditional flow matching: noise to latents along straight paths, the clean latent predicted."""

import math

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from bridge.mappers.base import VelocityMapper
from bridge.mappers.nets import ModulatedMLP
from bridge.text import TextCode

MIN_REMAINING = 0.05
"""1 - t is not taken below this in a loss, where it divides."""


def linear_path(z: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Point z_t = t z + (1 - t) eps and its velocity, noise at t = 0.

    Args:
        z: Standardised latents, (B, *z_shape).
        eps: Standard normal noise, same shape.
        t: Times in [0, 1], (B,).

    Returns:
        z_t and dz_t/dt, each (B, *z_shape).

    Source: Liu et al. 2022, Flow Straight and Fast, arXiv:2209.03003
    """
    t = t.view(-1, *[1] * (z.ndim - 1))
    return t * z + (1 - t) * eps, z - eps


class FlowMatchingMapper(VelocityMapper):
    """Flow matching on flattened latents with a modulated perceptron.

    The network predicts the clean latent; the loss is on the velocity it implies.

    Args:
        z_shape: Shape of one latent.
        text_dim: Dimension of the text code.
        width: Features of the residual stream.
        hidden: Features inside a block.
        blocks: Residual blocks.
        condition: Dimension of the joint condition of time and text.
        dropout: Share of the features inside a block dropped in training, against memorising.
        text_dropout: Share of text features dropped in training.
        time_mean: Training times are sigmoid(time_mean + u), u standard normal.

    Source: Lipman et al. 2023, arXiv:2210.02747; clean prediction: Li & He 2025, arXiv:2511.13720;
        logit-normal times: Esser et al. 2024, arXiv:2403.03206
    """

    @register_to_config
    def __init__(
        self,
        z_shape: tuple[int, ...],
        text_dim: int,
        width: int = 512,
        hidden: int = 1024,
        blocks: int = 6,
        condition: int = 256,
        dropout: float = 0.0,
        text_dropout: float = 0.0,
        time_mean: float = 0.0,
    ) -> None:
        super().__init__()
        self.z_shape, self.text_dim, self.time_mean = tuple(z_shape), text_dim, time_mean
        dim = math.prod(z_shape)
        self.sample_noise_shape = self.z_shape
        self.loss_noise_shape = (dim + 1,)
        self.net = ModulatedMLP(dim, text_dim, width, hidden, blocks, condition, dropout, text_dropout)

    def clean(self, z_t: Tensor, t: Tensor, c: TextCode) -> Tensor:
        """Expected clean latent given z_t (B, *z_shape), times t (B,) and codes, (B, *z_shape)."""
        return self.net(z_t.flatten(1), t, c.pooled).view_as(z_t)

    def velocity(self, z_t: Tensor, t: Tensor, c: TextCode) -> Tensor:
        """See `VelocityMapper.velocity`; t below 1."""
        remaining = (1 - t).clamp(min=1e-3).view(-1, *[1] * (z_t.ndim - 1))
        return (self.clean(z_t, t, c) - z_t) / remaining

    def loss(self, z: Tensor, c: TextCode, *, noise: Tensor) -> Tensor:
        """Mean squared velocity error of each example, (B,); see `Mapper.loss`.

        The first number of a noise row places the time, the others are the path's start.
        """
        t = torch.sigmoid(self.time_mean + noise[:, 0])
        z_t, _ = linear_path(z, noise[:, 1:].view_as(z), t)
        error = (self.clean(z_t, t, c) - z).square().flatten(1).mean(1)
        return error / (1 - t).clamp(min=MIN_REMAINING).square()
