"""What needs no training: retrieval, and ridge regression with a Gaussian residual, on the same latents."""

import abc
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from eval import baselines
from eval.baselines import Baselines
from eval.data import caption_number
from eval.stream import Generate
from eval.studies.peers.base import Peer, Trial


class SimplePeer(Peer):
    """A fitted `Baselines` asked caption by caption, so that a caption's pictures depend on no other's.

    Pictures without captions are of no use to it: there is nothing to retrieve them by, nor to regress on.
    """

    uses_vae = True

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
        rows = retrieve(baselines.nearest_captions(code, fitted.codes), fitted.caption, n, rng)
        return fitted.z[rows]


class Ridge(SimplePeer):
    """Linear regression of latents on text codes with one Gaussian residual; penalty chosen on validation."""

    name = "ridge"

    def draw(self, fitted: Baselines, trial: Trial, code: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        return fitted.ridge.sample(code, n, rng)
