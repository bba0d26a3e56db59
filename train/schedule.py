"""What happens at which step: the learning rate, which rows are seen, when to stop early."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from bridge.errors import UserError
from bridge.noise import generator_for
from train.config import check

CHOICES = {
    "mixed_precision": ("no", "bf16", "fp16"),
    "schedule": ("trapezoid", "cosine", "constant"),
    "goal": ("min", "max"),
}
FIRST_LOOK = 0.02  # Share of a budget after which the first validation comes, where there are several


class TrainingError(UserError):
    """Training stopped: the loss or its gradient is not finite, or nothing can be saved."""


@dataclass(frozen=True)
class LoopConfig:
    """How to train."""

    steps: int  # Optimiser steps in all
    batch_size: int = 16  # Examples a step, over all processes and micro-batches
    learning_rate: float = 1e-3  # The plateau of the trapezoid, the top of the cosine
    warmup: int = 200  # Steps to reach it
    cooldown: float = 0.35  # Share of `steps`, at the end, over which the trapezoid falls to zero
    weight_decay: float = 0.01  # AdamW's
    clip: float = 1.0  # Largest gradient norm
    ema_decay: float = 0.999  # Limit of the moving average's decay, reached as (1 + n) / (10 + n)
    mixed_precision: str = "no"  # "no", "bf16" or "fp16"; in YAML `"no"` needs its quotes
    validate_every: int = 1000  # Steps between validations
    save_minutes: float = 5.0  # Minutes between checkpoints
    seed: int = 0  # Key of all randomness
    schedule: str = "trapezoid"  # "trapezoid", "cosine" or "constant"
    accumulate: int = 1  # Micro-batches that a process's share of a step is computed in, to save memory
    stop_on: str = ""  # Validation figure by which training stops early and the best weights are kept; or none
    goal: str = "min"  # "min" or "max": which way `stop_on` gets better
    patience: int = 5  # Validations in a row without a better figure after which training stops
    tensorboard: bool = False  # Whether to log for TensorBoard too, in the run folder

    def __post_init__(self) -> None:
        check(self, "steps batch_size validate_every accumulate patience", "1 or more", lambda value: value >= 1)
        check(self, "warmup cooldown weight_decay save_minutes", "0 or more", lambda value: 0 <= value < math.inf)
        check(self, "ema_decay", "0 to 1", lambda value: 0 <= value <= 1)
        check(self, "learning_rate clip", "a number above 0", lambda value: 0 < value < math.inf)
        for name, known in CHOICES.items():
            check(self, name, f"one of {', '.join(known)}", known.__contains__)


FREE = frozenset(
    ("steps", "save_minutes", "validate_every", "cooldown", "accumulate", "stop_on", "goal", "patience", "tensorboard")
)
"""Settings of a LoopConfig that may differ in a resumed run."""


@dataclass(frozen=True)
class Budget:
    """Seconds of training steps, batches included, in place of a number of steps."""

    seconds: float
    growth: float = 1.0  # Between times of validation, where `stop_on` may end training; at 1 there is one, at the end
    least: float = 0.0  # Seconds before which validation does not end training
    clock: Callable[[], float] | None = None  # Seconds; None for processor time, or the wall's on an accelerator

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError(f"minutes: expected a time above 0, got {self.seconds / 60:g}; give more")

    def due(self, used: float, looked: float) -> bool:
        """Whether to validate after `used` seconds, the last time having been after `looked`."""
        first = FIRST_LOOK * self.seconds
        return used >= self.seconds or (self.growth > 1 and used >= max(first, looked * self.growth))

    def share(self, used: float) -> float:
        """Share that is used; 0 where validation may end training, so that the learning rate does not fall."""
        return 0.0 if self.growth > 1 else used / self.seconds


def learning_rate_at(step: int, config: LoopConfig, share: float | None = None) -> float:
    """The trapezoid: linear warm-up, plateau, linear cool-down to zero at `steps`; or the cosine, or no cool-down.

    `share` is the part of a `Budget` that is used, in place of the part of `steps` that is done.

    Source: Haegele et al. 2024, Scaling Laws Beyond Fixed Training Durations, arXiv:2405.18392; the cosine
        Loshchilov & Hutter 2017, SGDR, arXiv:1608.03983
    """
    up, cosine = (step + 1) / max(config.warmup, 1), config.schedule == "cosine"
    if config.schedule == "constant":
        return config.learning_rate * min(1.0, up)
    if share is None:
        begin = config.warmup if cosine else 0
        share = max(step - begin, 0) / max(config.steps - begin, 1)
    left = max(1 - share, 0.0)
    down = 0.5 - 0.5 * math.cos(math.pi * left) if cosine else left / max(config.cooldown, 1e-9)
    return config.learning_rate * min(1.0, up, down)


class RowOrder:
    """Which rows a step sees; an epoch's order is fixed by (seed, epoch).

    The last incomplete batch of an epoch is left out; a batch larger than the data repeats rows.
    """

    def __init__(self, rows: int, seed: int) -> None:
        self.rows = rows
        self.order = lru_cache(1)(lambda epoch: torch.randperm(rows, generator=generator_for(seed, epoch)))

    def at(self, step: int, batch_size: int) -> tuple[Tensor, int]:
        """Row numbers of one step, (batch_size,), and its epoch."""
        epoch, position = divmod(step, max(self.rows // batch_size, 1))
        order = self.order(epoch)
        if self.rows < batch_size:
            order = order.repeat(math.ceil(batch_size / self.rows))
        return order[position * batch_size : (position + 1) * batch_size], epoch


class Best:
    """Early stopping (Prechelt 1998, Early Stopping - But When?) on `config.stop_on`, and the best averaged weights."""

    def __init__(self, config: LoopConfig) -> None:
        self.config = config
        self.aim = {"stop_on": config.stop_on, "goal": config.goal}
        self.value, self.step, self.worse = math.inf, 0, 0  # Of the best; validations in a row since
        self.weights: list[Tensor] = []  # Copies on the CPU; empty where nothing was validated

    @property
    def enough(self) -> bool:
        """Whether to stop."""
        return bool(self.config.stop_on) and self.worse >= self.config.patience

    def look(self, step: int, figures: dict[str, float], weights: Sequence[Tensor]) -> None:
        """Compare a validation with the best; NaN counts as worse. TrainingError if the figure is missing."""
        if not (name := self.config.stop_on):
            return
        if name not in figures:
            raise TrainingError(f"stop_on: no figure {name!r} in the log; there are {', '.join(sorted(figures))}")
        value = figures[name] if self.config.goal == "min" else -figures[name]
        if value < self.value:
            self.value, self.step, self.worse = value, step, 0
            self.weights = [weight.detach().cpu().clone() for weight in weights]
        else:
            self.worse += 1

    def state(self) -> dict[str, Any]:
        """What `restore` takes: numbers, strings and tensors."""
        return {"value": self.value, "step": self.step, "worse": self.worse, "weights": self.weights} | self.aim

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`, unless it is that of another figure."""
        if self.aim.items() <= state.items():
            self.value, self.step, self.worse, self.weights = (state[k] for k in ("value", "step", "worse", "weights"))
