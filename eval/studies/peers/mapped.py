"""Ours: the bridge's mapping families on the VAE's latents, under the rivals' loop and budget."""

import torch
from torch import Tensor

from bridge.mappers import FlowMatchingMapper, Mapper, VelocityMapper
from bridge.text import TextCode
from eval.studies.peers.base import GUIDED, Batch, PeerNet, Sampling, Space, TrainedPeer, Trial, net_arguments

STEPS = 16


class MapperNet(PeerNet):
    """A mapper with its codec. Pictures without captions train it under the null code.

    Args:
        space: What it has to fit.
        family: The mapper's class.
        arguments: Of the mapper, beside its shapes.
    """

    def __init__(self, space: Space, family: type[Mapper], arguments: Trial) -> None:
        super().__init__()
        self.codec = space.codec
        self.mapper: Mapper = family(space.codec.z_shape, space.text_dim, **arguments)
        self.noise_shape = self.mapper.sample_noise_shape

    def loss(self, batch: Batch) -> Tensor:
        noise = torch.randn(len(batch.data), *self.mapper.loss_noise_shape, generator=batch.generator)
        return self.mapper.loss(batch.data, batch.c, noise=noise.to(batch.data.device))

    def sample(self, c: TextCode, noise: Tensor, sampling: Sampling) -> Tensor:
        """See `PeerNet.sample`."""
        if isinstance(self.mapper, VelocityMapper):
            return self.codec.decode(
                self.mapper.sample(
                    c,
                    noise=noise,
                    temperature=sampling.temperature,
                    guidance_scale=sampling.guidance,
                    num_inference_steps=STEPS,
                )
            )
        if sampling.guidance != 1:
            raise ValueError(f"guidance: {type(self.mapper).__name__} has none; leave it at 1")
        return self.codec.decode(self.mapper.sample(c, noise=noise, temperature=sampling.temperature))


class MapperPeer(TrainedPeer):
    """A mapping family.

    Attributes:
        family: The mapper's class.
    """

    uses_vae = True
    family: type[Mapper]

    def build(self, trial: Trial, space: Space) -> PeerNet:
        return MapperNet(space, self.family, net_arguments(trial))


class BridgeFlow(MapperPeer):
    """Conditional flow matching by a modulated perceptron; pooled codes only."""

    name, family, settings = "bridge_flow", FlowMatchingMapper, GUIDED
    trials = (
        {"learning_rate": 1e-3, "batch_size": 256},
        {"learning_rate": 1e-3, "batch_size": 256, "dropout": 0.1},
        {"learning_rate": 7e-4, "batch_size": 256, "width": 768, "hidden": 1536},
    )
