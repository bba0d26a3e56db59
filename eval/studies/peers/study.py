"""Trials chosen on validation, then several seeds of the chosen one; every step kept and never done twice."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from bridge.codecs import ImageCodec
from bridge.errors import UserError
from bridge.text import TextEncoder
from eval.baselines import Baselines, text_codes
from eval.judge import Say
from eval.stream import Generate
from eval.studies.peers.base import Peer, PeerNet, Sampling, Space, TrainedPeer, Trial
from eval.studies.peers.benches import Benches
from eval.studies.peers.material import Material
from eval.studies.peers.results import Key, Results, digest
from eval.studies.peers.sampling import Asked, Neighbours, keyed
from eval.studies.peers.simple import SimplePeer
from eval.studies.peers.training import GROWTH, loop_of, train
from train.loop import Budget, SaveError, TrainingError

PLATEAU_TIMES, PLATEAU_SEEDS = 4.0, 1
"""A run to the plateau ends at so many times the budget at the latest, and is made once."""


def minutes_left(vae_minutes: float, minutes: float) -> float:
    """Minutes that are left to train on latents, once the VAE's training is paid for in full."""
    if not minutes > 0 or vae_minutes < 0:
        raise UserError(f"minutes, vae_minutes: expected above 0 and at least 0, got {minutes:g} and {vae_minutes:g}")
    if vae_minutes >= minutes:
        raise UserError(
            f"vae_minutes: {vae_minutes:g} leave nothing of {minutes:g} minutes to what uses the VAE; "
            "give more minutes, or a codec that was trained for fewer (configs/peers-vae.yaml)"
        )
    return minutes - vae_minutes


@dataclass(frozen=True)
class Chosen:
    """The outcome of a choice on validation.

    Args:
        trial: Number of the trial.
        sampling: How its pictures are drawn.
        score: Mean over the validation rows of the smallest headline.
    """

    trial: int
    sampling: Sampling
    score: float


@dataclass(frozen=True)
class Tested:
    """A trained peer on the test.

    Args:
        sampling: Chosen on validation.
        rows: See `benches.Benches.figures`, of the test.
        steps: Optimiser steps.
        minutes: Of training, the VAE's not included.
    """

    sampling: Sampling
    rows: dict[str, dict[str, float]]
    steps: int
    minutes: float


@dataclass(frozen=True)
class Workshop:
    """Trains and judges peers, and remembers.

    Args:
        benches: Judge of all pictures.
        asked: Codes of captions to draw.
        codec: Of all peers that use latents.
        encoder: Of all captions.
        material: What is trained on.
        results: What was found so far.
        runs: Folder of checkpoints.
        minutes: Of every peer, the VAE's part included.
        vae_minutes: Of these, charged to what uses the VAE.
        identity: Everything else that results depend on.
        precision: Of training, one of `training.PRECISIONS`; pictures are always made in float32.
        say: Called with what is being done.
        clock: Seconds of training; None for the process' own.
    """

    benches: Benches
    asked: Asked
    codec: ImageCodec
    encoder: TextEncoder
    material: Material
    results: Results
    runs: Path
    minutes: float
    vae_minutes: float
    identity: Mapping[str, Any]
    precision: str = "no"
    say: Say = lambda _: None
    clock: Callable[[], float] | None = None

    @cached_property
    def neighbours(self) -> Neighbours:
        """The captions of the pairs."""
        return Neighbours.of(self.material)

    @cached_property
    def baselines(self) -> Baselines:
        """Fitted to all training pictures."""
        self.say("baselines: encoding the training pictures")
        return Baselines.fit(self.benches.judge, self.codec, text_codes(self.encoder))

    def budget(self, peer: TrainedPeer) -> Budget:
        """Of a peer: the minutes less the VAE's part where it uses one; more in plateau mode."""
        seconds = 60 * (minutes_left(self.vae_minutes, self.minutes) if peer.uses_vae else self.minutes)
        if peer.plateau:
            return Budget(PLATEAU_TIMES * seconds, GROWTH, seconds, self.clock)
        return Budget(seconds, clock=self.clock)

    def key(self, peer: Peer, trial: Trial, seed: int) -> Key:
        """What a trained network depends on."""
        about = {"peer": peer.name, "trial": trial, "seed": seed, **self.identity}
        return about | {"minutes": self.minutes, "vae_minutes": self.vae_minutes, "precision": self.precision}

    def train(self, peer: TrainedPeer, trial: Trial, seed: int) -> PeerNet:
        """The network of a trial, trained or, where that is done, loaded."""
        key = self.key(peer, trial, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = peer.build(trial, Space(self.codec, self.encoder.dim))
        size = trial["batch_size"]
        loop = loop_of(
            net,
            lambda step: self.material.draw(size, peer.uses_vae, peer.tokens, seed, step),
            self.material.watched(size, peer.uses_vae, peer.tokens),
            trial,
            self.budget(peer),
            self.runs / f"{peer.name}-{digest(key)}",
            seed,
            key,
            self.precision,
        )
        outcome = train(loop, net)
        if self.results.get({"trained": key}) is None:
            self.results.add({"trained": key}, asdict(outcome))
        return net

    def generate(self, peer: Peer, trial: Trial, seed: int) -> Callable[[Sampling], Generate]:
        """Pictures of a peer, trained first where it has to be, by how they are to be drawn."""
        if isinstance(peer, SimplePeer):
            return lambda _: peer.generate(self.baselines, trial, seed)
        assert isinstance(peer, TrainedPeer)
        net = self.train(peer, trial, seed)
        return lambda sampling: keyed(net, self.asked, self.neighbours, sampling, seed)

    def validated(self, peer: Peer, trial: Trial, seed: int, settings: Sequence[Sampling]) -> list[float | None]:
        """Validation score of every setting: mean of the rows' smallest headlines; None for what diverged."""
        keys = [{"validated": self.key(peer, trial, seed), **asdict(s), **self.judged} for s in settings]
        if all(self.results.get(key) is not None for key in keys):
            return [self.results.get(key)["score"] for key in keys]
        self.say(f"{peer.name}, seed {seed}: {trial}")
        try:
            maker = self.generate(peer, trial, seed)
        except SaveError:
            raise
        except TrainingError as error:
            self.say(f"{peer.name}: {error}")
            return [self.results.add(key, {"score": None, "why": str(error)})["score"] for key in keys]
        scores: list[float | None] = []
        for key, sampling in zip(keys, settings, strict=True):
            rows = self.benches.figures(maker(sampling), "validation")
            score = sum(row["score"] for row in rows.values()) / len(rows)
            self.say(f"{peer.name}: validation score {score:.3f} with {sampling}")
            scores.append(self.results.add(key, {"score": score, "rows": rows})["score"])
        return scores

    def tested(self, peer: TrainedPeer, trial: Trial, seed: int) -> Tested | None:
        """A peer's training on the test, sampled as is best on validation; None where it diverged."""
        scores = self.validated(peer, trial, seed, peer.settings)
        known = [(score, setting) for score, setting in zip(scores, peer.settings, strict=True) if score is not None]
        if not known:
            return None
        sampling = max(known, key=lambda one: one[0])[1]
        key = {"test": self.key(peer, trial, seed), **asdict(sampling), **self.judged}
        rows = self.results.get(key)
        if rows is None:
            rows = self.results.add(key, self.benches.figures(self.generate(peer, trial, seed)(sampling), "test"))
        run = self.results.get({"trained": self.key(peer, trial, seed)})
        return Tested(sampling, rows, run["steps"], run["seconds"] / 60)

    @property
    def judged(self) -> Key:
        """How validation is judged."""
        return {"n": self.benches.n, "captions": self.benches.captions}

    def choose(self, peer: Peer, trials: int) -> Chosen | None:
        """The best of at most so many trials at seed 0 on validation; None where all diverged."""
        choices = [
            Chosen(number, sampling, score)
            for number, trial in enumerate(peer.trials[:trials])
            for sampling, score in zip(peer.settings, self.validated(peer, trial, 0, peer.settings), strict=True)
            if score is not None
        ]
        return max(choices, key=lambda c: c.score) if choices else None
