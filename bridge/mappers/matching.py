"""Conditional flow matching: noise to latents along straight paths, the clean latent predicted."""

import math
from collections.abc import Sequence

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from bridge.mappers.base import MIN_REMAINING, CleanMapper, linear_path
from bridge.mappers.nets import ModulatedMLP
from bridge.text import TextCode

__all__ = ["MIN_REMAINING", "FlowMatchingMapper", "linear_path"]


class FlowMatchingMapper(CleanMapper):
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
        inputs: Latents that `predict` reads side by side, as `LocalFlowMapper` has a network read.

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
        inputs: int = 1,
    ) -> None:
        super().__init__()
        self.z_shape, self.text_dim, self.time_mean = tuple(z_shape), text_dim, time_mean
        dim = math.prod(z_shape)
        self.sample_noise_shape = self.z_shape
        self.loss_noise_shape = (dim + 1,)
        self.net = ModulatedMLP(inputs * dim, dim, text_dim, width, hidden, blocks, condition, dropout, text_dropout)

    def clean(self, z_t: Tensor, t: Tensor, c: TextCode) -> Tensor:
        """Expected clean latent given z_t (B, *z_shape), times t (B,) and codes, (B, *z_shape)."""
        return self.predict([z_t], t, c)

    def predict(self, seen: Sequence[Tensor], t: Tensor, c: TextCode) -> Tensor:
        """What the network makes of `inputs` latents, each (B, *z_shape), times t (B,) and codes, (B, *z_shape)."""
        return self.net(torch.cat([z.flatten(1) for z in seen], 1), t, c.pooled).view_as(seen[0])
