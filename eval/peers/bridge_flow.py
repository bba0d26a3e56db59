"""Ours: the bridge's flow-matching mapper on the VAE's latents, under the rivals' loop and budget."""

import torch
from torch import Tensor

from bridge.mappers import FlowMatchingMapper
from bridge.text import TextCode
from eval.peers.base import GUIDED, Batch, PeerNet, Sampling, Space, TrainedPeer, Trial, net_arguments

STEPS = 16


class BridgeNet(PeerNet):
    """A `FlowMatchingMapper` with its codec. Pictures without captions train it under the null code.

    Args:
        space: What it has to fit.
        arguments: Of the mapper, beside its shapes.
    """

    def __init__(self, space: Space, arguments: Trial) -> None:
        super().__init__()
        self.codec = space.codec
        self.mapper = FlowMatchingMapper(space.codec.z_shape, space.text_dim, **arguments)
        self.noise_shape = self.mapper.sample_noise_shape

    def loss(self, batch: Batch) -> Tensor:
        noise = torch.randn(len(batch.data), *self.mapper.loss_noise_shape, generator=batch.generator)
        return self.mapper.loss(batch.data, batch.c, noise=noise.to(batch.data.device))

    def sample(self, c: TextCode, noise: Tensor, sampling: Sampling) -> Tensor:
        z = self.mapper.sample(
            c,
            noise=noise,
            temperature=sampling.temperature,
            guidance_scale=sampling.guidance,
            num_inference_steps=STEPS,
        )
        return self.codec.decode(z)


class BridgeFlow(TrainedPeer):
    """Conditional flow matching by a modulated perceptron; pooled codes only."""

    name, uses_vae, settings = "bridge_flow", True, GUIDED
    trials = (
        {"learning_rate": 1e-3, "batch_size": 256},
        {"learning_rate": 1e-3, "batch_size": 256, "dropout": 0.1},
        {"learning_rate": 7e-4, "batch_size": 256, "width": 768, "hidden": 1536},
    )

    def build(self, trial: Trial, space: Space) -> PeerNet:
        return BridgeNet(space, net_arguments(trial))
