"""Conditional normalizing flows: exact likelihood, an exact inverse, no path to follow."""

import math
from functools import partial
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from bridge.arguments import check_one_of
from bridge.errors import UserError
from bridge.mappers.base import DensityMapper, InvertibleMapper
from bridge.mappers.nets import CodeMLP
from bridge.noise import generator_for
from bridge.text import TextCode

KINDS = ("autoregressive", "coupling")
BOUND = 8.0  # Splines act on [-8, 8] and are the identity outside; standardised latents lie inside


class NormalizingFlowMapper(DensityMapper, InvertibleMapper):
    """Invertible blocks of zuko's between normal noise and latents, each conditioned on an embedding of the code.

    "autoregressive" blocks take one network pass to score a latent and as many as it has dimensions to sample one: 256
    times as long for 256 dimensions. "coupling" blocks take one pass either way, and say less each. Raises UserError if
    zuko is not installed, or `kind` is unknown. For settings not named here see `Mapper`.

    Source: Papamakarios et al. 2017, Masked Autoregressive Flow, arXiv:1705.07057; couplings: Dinh et al. 2017,
        Real NVP, arXiv:1605.08803; splines: Durkan et al. 2019, arXiv:1906.04032; jitter: Rothfuss et al. 2019,
        Noise Regularization for Conditional Density Estimation, arXiv:1907.08982
    """

    @register_to_config
    def __init__(
        self,
        z_shape: tuple[int, ...],
        text_dim: int,
        kind: str = "coupling",
        transforms: int = 8,  # Blocks
        hidden: int = 512,  # Features of each block's two hidden layers
        condition: int = 128,  # Dimension of the text embedding
        bins: int = 0,  # Of rational-quadratic splines; 0 for affine blocks
        dropout: float = 0.0,
        text_dropout: float = 0.0,
        jitter: float = 0.05,  # Deviation of noise on the latents in training; else few pairs have no best likelihood
    ) -> None:
        super().__init__()
        check_one_of(kind, "kind", KINDS)
        self.z_shape, self.text_dim, self.jitter = tuple(z_shape), text_dim, jitter
        self.dim = math.prod(z_shape)
        self.sample_noise_shape, self.loss_noise_shape = self.z_shape, (self.dim,)
        self.text = CodeMLP(text_dim, condition, condition, 2 * condition, 1, dropout, text_dropout)
        self.flow = _flow(self.dim, kind, transforms, hidden, condition, bins)

    def log_prob(self, z: Tensor, c: TextCode) -> Tensor:
        self.check_rows("z", z, self.z_shape, c)
        return self.flow(self.text(c.pooled)).log_prob(z.flatten(1))

    def loss(self, z: Tensor, c: TextCode, *, noise: Tensor) -> Tensor:
        self.check_rows("z", z, self.z_shape, c)
        self.check_rows("noise", noise, self.loss_noise_shape, c)
        return -self.log_prob(z + self.jitter * noise.view_as(z), c) / self.dim

    @torch.no_grad()
    def sample(self, c: TextCode, *, noise: Tensor, temperature: float = 1.0) -> Tensor:
        self.check_rows("noise", noise, self.z_shape, c)
        return self.flow(self.text(c.pooled)).transform.inv(noise.flatten(1) * temperature).view_as(noise)

    @torch.no_grad()
    def invert(self, z: Tensor, c: TextCode) -> Tensor:
        self.check_rows("z", z, self.z_shape, c)
        return self.flow(self.text(c.pooled)).transform(z.flatten(1)).view_as(z)


def _flow(dim: int, kind: str, transforms: int, hidden: int, condition: int, bins: int) -> Any:
    """A zuko flow, its blocks near the identity."""
    try:
        import zuko  # noqa: PLC0415
    except ImportError as error:
        raise UserError("NormalizingFlowMapper: zuko is not installed; `pip install zuko`") from error
    options: dict[str, Any] = {"hidden_features": (hidden, hidden), "activation": nn.SiLU}
    if bins:
        spline = partial(zuko.transforms.MonotonicRQSTransform, bound=BOUND)
        options |= {"univariate": spline, "shapes": [(bins,), (bins,), (bins - 1,)]}
    blocks = []
    for number in range(transforms):
        order = torch.randperm(dim, generator=generator_for(number // 2))
        if kind == "coupling":  # a block and the next one share a random order and swap its halves
            block = zuko.flows.coupling.GeneralCouplingTransform(dim, condition, order % 2 == number % 2, **options)
        else:  # a block and the next one go through a random order from either end
            order = order if number % 2 else dim - 1 - order
            block = zuko.flows.autoregressive.MaskedAutoregressiveTransform(dim, condition, order=order, **options)
        blocks.append(block)
    for block in blocks:
        nn.init.normal_(block.hyper[-1].weight, std=1e-3)
        nn.init.zeros_(block.hyper[-1].bias)
    normal = zuko.distributions.DiagNormal
    base = zuko.lazy.UnconditionalDistribution(normal, torch.zeros(dim), torch.ones(dim), buffer=True)
    return zuko.lazy.Flow(blocks, base)
