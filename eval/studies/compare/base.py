"""What every peer promises: how it is made, its loss, and pictures from codes and noise; and those without training."""

import abc
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bridge.codecs import ImageCodec
from bridge.noise import generator_for
from bridge.text import TextCode
from eval import baselines
from eval.baselines import Baselines
from eval.data import caption_number
from eval.stream import Generate

TOKENS = 16  # Tokens of a caption that are kept; longer captions lose their last ones, never the pooled code
LOOP_KEYS = ("learning_rate", "batch_size")
"""Entries of a trial that the training loop reads; the others are arguments of the network."""

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


GUIDED = (Sampling(), Sampling(guidance=2.0), Sampling(guidance=2.0, neighbours=True))
PLAIN = (Sampling(), Sampling(temperature=0.7), Sampling(temperature=0.7, neighbours=True))
"""What peers with guidance, and without, choose from; every trained peer has three settings."""


class PeerNet(nn.Module, abc.ABC):
    """A conditional generative network of latents or, with `pixels`, of pixels in [-1, 1]."""

    noise_shape: tuple[int, ...]  # Standard normal numbers that one picture takes
    codec: ImageCodec
    pixels = False

    @abc.abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Training loss of each example, (B,)."""

    def forward(self, data: Tensor, pooled: Tensor, tokens: Tensor, mask: Tensor, key: Tensor) -> dict[str, Tensor]:
        """The loss as train's loop reads it; its noise depends on `key`, (3,), alone."""
        return {"loss": self.loss(Batch(data, TextCode(pooled, tokens, mask), generator_for(*key.tolist())))}

    @abc.abstractmethod
    def sample(self, c: TextCode, noise: Tensor, sampling: Sampling) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of codes and noise (B, *noise_shape)."""

    def decode(self, data: Tensor) -> Tensor:
        """Pictures in [0, 1] of what the network generates."""
        return (data / 2 + 0.5).clamp(0, 1) if self.pixels else self.codec.decode(data)


@dataclass(frozen=True)
class Peer:
    """One way from captions to pictures."""

    name: str  # In the table and on the command line
    trials: tuple[Trial, ...] = ({},)  # Hyperparameters to choose from on validation
    settings: tuple[Sampling, ...] = (Sampling(),)  # Ways to sample to choose from on validation
    _: KW_ONLY
    uses_vae: bool = True  # Works on the VAE's latents, so that the VAE's training is charged to it
    whitened: bool = False  # Works on PCA-whitened latents; see `families`
    follows: str = ""  # Name of the peer whose chosen trial this one takes instead of choosing


@dataclass(frozen=True, kw_only=True)
class TrainedPeer(Peer):
    net: Callable[..., PeerNet]  # Of a Space and a trial's arguments
    tokens: bool = False  # Reads the caption's tokens, not only its pooled code
    plateau: bool = False  # Trained until validation stops improving instead of for the budget

    def build(self, trial: Trial, space: Space) -> PeerNet:
        """An untrained network."""
        return self.net(space, **{name: value for name, value in trial.items() if name not in LOOP_KEYS})


@dataclass(frozen=True, kw_only=True)
class SimplePeer(Peer):
    """A fitted `Baselines` asked caption by caption, so that a caption's pictures depend on no other's."""

    draw: Callable[[Baselines, Trial, np.ndarray, int, np.random.Generator], np.ndarray]
    """Flattened latents (1, n, Z) of one text code (1, D) and a count n."""

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


def _retrieve(fitted: Baselines, trial: Trial, code: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Training pictures of near captions: n of the nearest, or one of each of the n nearest."""
    pick = baselines.retrieve_one if trial["pick"] == "nearest1" else baselines.retrieve_each
    return fitted.z[pick(baselines.nearest_captions(code, fitted.codes), fitted.caption, n, rng)]


RETRIEVAL = SimplePeer("retrieval", ({"pick": "nearest1"}, {"pick": "nearestk"}), draw=_retrieve)
RIDGE = SimplePeer("ridge", draw=lambda fitted, _, code, n, rng: fitted.ridge.sample(code, n, rng))
