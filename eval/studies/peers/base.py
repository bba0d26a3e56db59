"""What every rival promises: how it is built, its loss, and pictures from codes and noise."""

import abc
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bridge.codecs import ImageCodec
from bridge.text import TextCode

TOKENS = 16
"""Tokens of a caption that are kept; longer captions lose their last ones, never the pooled code."""
LOOP_KEYS = ("learning_rate", "batch_size")
"""Entries of a trial that the training loop reads; the others are the network's."""

Trial = dict[str, Any]
"""One set of hyperparameters."""


@dataclass(frozen=True)
class Space:
    """What a network has to fit.

    Args:
        codec: Pictures <-> latents; frozen.
        text_dim: Dimension D of text codes.
    """

    codec: ImageCodec
    text_dim: int

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """Shape of one picture, (3, H, W)."""
        return 3, self.codec.image_size, self.codec.image_size


@dataclass(frozen=True)
class Batch:
    """What a loss takes.

    Args:
        data: Latents z (B, *z_shape) where the peer uses the VAE, else pictures x (B, 3, H, W) in [0, 1].
        c: Codes; a null code is a picture without caption.
        generator: Source of all noise of this batch, on the CPU.
    """

    data: Tensor
    c: TextCode
    generator: torch.Generator

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`."""
        return Batch(self.data.to(device), self.c.to(device), self.generator)


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn; chosen on validation, after training, among a peer's `settings`.

    Args:
        guidance: Classifier-free guidance scale, 1 is none.
        temperature: Factor on the noise.
        neighbours: Draw the code of an unfamiliar caption among near known ones, as the pipeline does.
    """

    guidance: float = 1.0
    temperature: float = 1.0
    neighbours: bool = False


GUIDED = (Sampling(), Sampling(guidance=2.0), Sampling(guidance=2.0, neighbours=True))
"""What peers with guidance choose from; every peer has three settings."""


class PeerNet(nn.Module, abc.ABC):
    """A conditional generative network.

    Attributes:
        noise_shape: Standard normal numbers that one picture takes.
    """

    noise_shape: tuple[int, ...]

    @abc.abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Training loss of each example, (B,)."""

    @abc.abstractmethod
    def sample(self, c: TextCode, noise: Tensor, sampling: Sampling) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of codes and noise (B, *noise_shape)."""


class Peer(abc.ABC):
    """One way from captions to pictures.

    Attributes:
        name: In the table and on the command line.
        uses_vae: Works on the VAE's latents, so that the VAE's training is charged to it.
        trials: Hyperparameters to choose from on validation.
        settings: Ways to sample to choose from on validation.
        follows: Name of the peer whose chosen trial this one takes instead of choosing.
    """

    name: str
    uses_vae: bool
    trials: tuple[Trial, ...] = ({},)
    settings: tuple[Sampling, ...] = (Sampling(),)
    follows: str | None = None


class TrainedPeer(Peer):
    """A peer with a network, trained by `training.loop_of`.

    Attributes:
        tokens: Reads the caption's tokens, not only its pooled code.
        plateau: Trained until validation stops improving instead of for the budget.
    """

    tokens: bool = False
    plateau: bool = False

    @abc.abstractmethod
    def build(self, trial: Trial, space: Space) -> PeerNet:
        """An untrained network."""


def net_arguments(trial: Trial) -> Trial:
    """The entries of a trial that the network takes."""
    return {name: value for name, value in trial.items() if name not in LOOP_KEYS}


def cross_states(c: TextCode) -> tuple[Tensor, Tensor]:
    """The sequence that attention reads: the pooled code at unit variance, then the tokens.

    Returns:
        States (B, 1 + L, D) and mask (B, 1 + L) bool; a null code is one zero state.
    """
    pooled = c.pooled[:, None] * math.sqrt(c.pooled.shape[1])
    first = torch.ones(len(c), 1, dtype=torch.bool, device=c.mask.device)
    return torch.cat([pooled, c.tokens], dim=1), torch.cat([first, c.mask], dim=1)
