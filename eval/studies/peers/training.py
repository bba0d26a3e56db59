"""Peers under train's one loop: so many seconds and no more, or until validation stops improving."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bridge.noise import generator_for
from bridge.text import TextCode
from eval.studies.peers.base import Batch, PeerNet, Trial
from train.loop import Budget, Loop, LoopConfig

PRECISIONS = ("no", "bf16")
SAVE_MINUTES = 0.75
GROWTH, PATIENCE = 1.1, 5
"""A plateau: no better validation for a third of the time used, which is five validations at times growing by 1.1."""
WARMUP, COOLDOWN = 100, 0.4
UNCOUNTED = 10**9
"""Steps of a run whose seconds are counted."""


@dataclass(frozen=True)
class Outcome:
    """What a run used and where it ended.

    Args:
        seconds: Training seconds used.
        best_seconds: When the weights that stay were reached.
    """

    steps: int
    seconds: float
    best_seconds: float
    validation: float


class Objective(nn.Module):
    """A peer's loss as the loop wants it."""

    def __init__(self, net: PeerNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, data: Tensor, pooled: Tensor, tokens: Tensor, mask: Tensor, key: Tensor) -> dict[str, Tensor]:
        """Loss of each example, (B,); its noise depends on `key`, (3,), alone."""
        generator = generator_for(*key.tolist())
        return {"loss": self.net.loss(Batch(data, TextCode(pooled, tokens, mask), generator))}


def loop_of(
    net: PeerNet,
    draw: Callable[[int], Batch],
    watched: Sequence[Batch],
    trial: Trial,
    budget: Budget,
    folder: Path,
    seed: int,
    identity: dict[str, Any],
    precision: str = "no",
) -> Loop:
    """The loop of one network, which in the end holds the averaged weights."""
    plateau = budget.growth > 1
    config = LoopConfig(
        steps=UNCOUNTED,
        batch_size=trial["batch_size"],
        learning_rate=trial["learning_rate"],
        warmup=trial.get("warmup", WARMUP),
        cooldown=COOLDOWN,
        schedule="constant" if plateau else "trapezoid",
        mixed_precision=precision,
        save_minutes=SAVE_MINUTES,
        seed=seed,
        stop_on="validation_loss" if plateau else "",
        patience=PATIENCE,
    )

    def batch(rows: Tensor, epoch: int) -> tuple[Tensor, ...]:
        # As many rows as a batch has: an epoch is a step, and what is drawn depends on it alone.
        drawn = draw(epoch)
        return drawn.data, drawn.c.pooled, drawn.c.tokens, drawn.c.mask, torch.tensor([seed, epoch, 1])

    def validate(_: int) -> dict[str, float]:
        device = loop.accelerator.device
        with loop.accelerator.autocast():
            losses = [net.loss(_again(b).to(device)).cpu() for b in watched]
        return {"validation_loss": float(torch.cat(losses).mean()), "seconds": loop.used}

    size = trial["batch_size"]
    loop = Loop(Objective(net), batch, size, validate, config, folder, identity, budget=budget)
    return loop


def train(loop: Loop, net: PeerNet) -> Outcome:
    """Run a loop of `loop_of` to its end, from its checkpoint where there is one."""
    loop.run()
    net.eval().cpu()
    lines = [json.loads(line) for line in (loop.out / "log.jsonl").read_text("utf-8").splitlines()]
    best = min(lines, key=lambda line: line["validation_loss"]) if loop.config.stop_on else lines[-1]
    return Outcome(loop.step, loop.used, best["seconds"], best["validation_loss"])


def _again(batch: Batch) -> Batch:
    """The batch with a generator of its own, in the same state."""
    generator = torch.Generator()
    generator.set_state(batch.generator.get_state())
    return Batch(batch.data, batch.c, generator)
