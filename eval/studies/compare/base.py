"""What every rival promises: how it is built, its loss, and pictures from codes and noise."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bridge.codecs import ImageCodec
from bridge.text import TextCode
from eval import baselines
from eval.baselines import Baselines
from eval.data import caption_number
from eval.judge import Generate

TOKENS = 16  # Tokens of a caption that are kept; longer captions lose their last ones, never the pooled code
LOOP_KEYS = ("learning_rate", "batch_size")
"""Entries of a trial that the training loop reads; the others are the network's."""

Trial = dict[str, Any]  # One set of hyperparameters


@dataclass(frozen=True)
class Space:
    """What a network has to fit: pictures <-> latents by a frozen codec, and text codes of dimension D."""

    codec: ImageCodec
    text_dim: int


@dataclass(frozen=True)
class Batch:
    data: Tensor  # Latents z (B, *z_shape) where the peer uses the VAE, else pictures x (B, 3, H, W) in [0, 1]
    c: TextCode  # Codes; a null code is a picture without caption
    generator: torch.Generator  # Source of all noise of this batch, on the CPU


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn; chosen on validation, after training, among a peer's `settings`."""

    guidance: float = 1.0  # Classifier-free guidance scale, 1 is none
    temperature: float = 1.0  # Factor on the noise
    neighbours: bool = False  # Draw the code of an unfamiliar caption among near known ones, as the pipeline does


@dataclass(frozen=True)
class LocalSampling(Sampling):
    """How a local flow draws."""

    window: tuple[float, float] = (2.0, 1.7)  # At t = 0 and 1, in positions of a grid of GRID x GRID
    perplexity: float = 8.0  # Pictures that a caption effectively draws from


GUIDED = (Sampling(), Sampling(guidance=2.0), Sampling(guidance=2.0, neighbours=True))
PLAIN = (Sampling(), Sampling(temperature=0.7), Sampling(temperature=0.7, neighbours=True))
"""What peers with guidance, and without, choose from; every trained peer has three settings."""


class PeerNet(nn.Module, abc.ABC):
    """A conditional generative network."""

    noise_shape: tuple[int, ...]  # Standard normal numbers that one picture takes

    @abc.abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Training loss of each example, (B,)."""

    @abc.abstractmethod
    def sample(self, c: TextCode, noise: Tensor, sampling: Sampling) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of codes and noise (B, *noise_shape)."""


class Peer(abc.ABC):
    """One way from captions to pictures."""

    name: str  # In the table and on the command line
    uses_vae: bool = True  # Works on the VAE's latents, so that the VAE's training is charged to it
    trials: tuple[Trial, ...] = ({},)  # Hyperparameters to choose from on validation
    settings: tuple[Sampling, ...] = (Sampling(),)  # Ways to sample to choose from on validation
    follows: str | None = None  # Name of the peer whose chosen trial this one takes instead of choosing


class TrainedPeer(Peer):
    net: type[PeerNet]
    tokens: bool = False  # Reads the caption's tokens, not only its pooled code
    plateau: bool = False  # Trained until validation stops improving instead of for the budget

    def build(self, trial: Trial, space: Space) -> PeerNet:
        """An untrained network."""
        return self.net(space, **net_arguments(trial))


def net_arguments(trial: Trial) -> Trial:
    """The entries of a trial that the network takes."""
    return {name: value for name, value in trial.items() if name not in LOOP_KEYS}


# --- without training ----------------------------------------------------------------------------------------------


class SimplePeer(Peer):
    """A fitted `Baselines` asked caption by caption, so that a caption's pictures depend on no other's.

    Pictures without captions are of no use to it: there is nothing to retrieve them by, nor to regress on.
    """

    @abc.abstractmethod
    def draw(self, fitted: Baselines, trial: Trial, code: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """Flattened latents (1, n, Z) of one text code (1, D)."""

    def generate(self, fitted: Baselines, trial: Trial, seed: int) -> Generate:
        """Pictures keyed by (seed, caption); a caption's first pictures are the same however many are asked for."""

        def pictures(captions: Sequence[str], n: int) -> Tensor:
            drawn = []
            for caption in captions:
                rng = np.random.default_rng([seed, caption_number(caption)])
                z = self.draw(fitted, trial, fitted.encode_text([caption]), n, rng)
                drawn.append(torch.cat([fitted.decode(z[:, i : i + 1]) for i in range(n)], dim=1))
            return torch.cat(drawn)

        return pictures


class Retrieval(SimplePeer):
    """Training pictures of near captions, through the codec: n of the nearest, or one of each of the n nearest."""

    name = "retrieval"
    trials = ({"pick": "nearest1"}, {"pick": "nearestk"})

    def draw(self, fitted: Baselines, trial: Trial, code: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        retrieve = baselines.retrieve_one if trial["pick"] == "nearest1" else baselines.retrieve_each
        return fitted.z[retrieve(baselines.nearest_captions(code, fitted.codes), fitted.caption, n, rng)]


class Ridge(SimplePeer):
    name = "ridge"

    def draw(self, fitted: Baselines, trial: Trial, code: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        return fitted.ridge.sample(code, n, rng)
