"""A conditional invertible network between the two latent spaces, in the manner of net2net, on zuko."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from zuko.distributions import DiagNormal
from zuko.flows import Flow
from zuko.flows.coupling import GeneralCouplingTransform
from zuko.lazy import UnconditionalDistribution
from zuko.transforms import MonotonicRQSTransform

from bridge.noise import generator_for
from bridge.text import TextCode
from eval.studies.peers.base import Batch, PeerNet, Sampling, Space, TrainedPeer, Trial, net_arguments

BOUND = 8.0
"""Splines act on [-8, 8] and are the identity outside; standardised latents lie inside."""


class InvertibleNet(PeerNet):
    """Coupling blocks with random halves, each conditioned on an embedding of the text code.

    Pictures without captions enter the likelihood under the null code, an all-zero embedding input: they
    train the blocks that captioned ones share. There is no guidance; the temperature is chosen instead.

    Args:
        space: What it has to fit.
        blocks: Coupling blocks.
        hidden: Features of each block's two hidden layers.
        condition: Dimension of the text embedding.
        bins: Of rational-quadratic splines; 0 for affine couplings.
    """

    def __init__(self, space: Space, blocks: int, hidden: int, condition: int = 128, bins: int = 0) -> None:
        super().__init__()
        self.codec, self.text_scale = space.codec, math.sqrt(space.text_dim)
        dim = math.prod(space.codec.z_shape)
        self.noise_shape = (dim,)
        self.text = nn.Sequential(nn.Linear(space.text_dim, condition), nn.SiLU(), nn.Linear(condition, condition))
        univariate: dict[str, Any] = {}
        if bins:
            shapes = [(bins,), (bins,), (bins - 1,)]
            univariate = {"univariate": partial(MonotonicRQSTransform, bound=BOUND), "shapes": shapes}
        couplings = [
            GeneralCouplingTransform(
                dim,
                condition,
                _half(dim, block),
                hidden_features=(hidden, hidden),
                activation=nn.SiLU,
                **univariate,
            )
            for block in range(blocks)
        ]
        for coupling in couplings:  # each block starts near the identity
            nn.init.normal_(coupling.hyper[-1].weight, std=1e-3)
            nn.init.zeros_(coupling.hyper[-1].bias)
        base = UnconditionalDistribution(DiagNormal, loc=torch.zeros(dim), scale=torch.ones(dim), buffer=True)
        self.flow = Flow(couplings, base)

    def embed(self, c: TextCode) -> Tensor:
        """Condition of each code, (B, condition)."""
        out: Tensor = self.text(c.pooled * self.text_scale)
        return out

    def loss(self, batch: Batch) -> Tensor:
        """Negative log-likelihood in nats a dimension, (B,)."""
        z = batch.data.flatten(1)
        out: Tensor = -self.flow(self.embed(batch.c)).log_prob(z) / z.shape[1]
        return out

    @torch.no_grad()
    def sample(self, c: TextCode, noise: Tensor, sampling: Sampling) -> Tensor:
        z = self.flow(self.embed(c)).transform.inv(noise * sampling.temperature)
        return self.codec.decode(z.unflatten(1, self.codec.z_shape))


def _half(dim: int, block: int) -> Tensor:
    """Mask of a random half, (dim,) bool; a block and the next one share a permutation and swap the halves."""
    order = torch.randperm(dim, generator=generator_for(block // 2))
    return order % 2 == block % 2


class Invertible(TrainedPeer):
    """Exact likelihood from text code to image latent.

    Source: Rombach et al. 2020, Network-to-Network Translation with Conditional Invertible Neural Networks,
        arXiv:2005.13580; splines: Durkan et al. 2019, arXiv:1906.04032
    """

    name, uses_vae = "invertible", True
    settings = (Sampling(), Sampling(temperature=0.7), Sampling(temperature=0.7, neighbours=True))
    trials = (
        {"learning_rate": 5e-4, "batch_size": 128, "blocks": 12, "hidden": 512},
        {"learning_rate": 5e-4, "batch_size": 128, "blocks": 20, "hidden": 384},
        {"learning_rate": 5e-4, "batch_size": 128, "blocks": 8, "hidden": 384, "bins": 8},
    )

    def build(self, trial: Trial, space: Space) -> PeerNet:
        return InvertibleNet(space, **net_arguments(trial))
