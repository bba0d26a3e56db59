"""One training loop for all peers: so many seconds and no more, resumable to the last weight."""

import io
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor

from bridge.checkpoint import atomic_write, remove_stale
from bridge.errors import UserError
from bridge.noise import generator_for
from eval.studies.peers.base import Batch, PeerNet
from eval.studies.peers.recipe import Budget, Recipe, learning_rate_at

SAVE_SECONDS = 45.0
"""Between checkpoints, on the wall's clock: under a minute."""
PRECISIONS = ("no", "bf16")
"""Names that accelerate knows float32 and bfloat16 autocast by."""
GROWTH, FIRST = 1.1, 0.02
"""In plateau mode validations come at growing times, the first at this share of the limit."""


class DivergedError(ValueError):
    """A loss or gradient that is no finite number."""


@dataclass(frozen=True)
class Outcome:
    """What a run used and where it ended.

    Args:
        steps: Optimiser steps made.
        seconds: Training seconds used.
        best_seconds: When the weights that stay were reached.
        validation: Their validation loss.
    """

    steps: int
    seconds: float
    best_seconds: float
    validation: float


class BudgetLoop:
    """Trains one network.

    Counted are the seconds of its own steps, batches included; not validation, checkpoints and whatever other
    processes do. What was lost by a kill after the last checkpoint is not counted twice.

    Args:
        net: To be trained in place; in the end it holds the averaged weights, on the CPU.
        draw: Step -> training batch, by key.
        watched: Held-out batches; their generators are not used up.
        recipe: How to train.
        budget: How long.
        folder: Where the checkpoint is kept.
        seed: Of dropout.
        identity: What must be the same for a run to be gone on with.
        clock: Seconds; processor time by default, the wall's on an accelerator.
        precision: One of PRECISIONS.
    """

    def __init__(
        self,
        net: PeerNet,
        draw: Callable[[int], Batch],
        watched: Sequence[Batch],
        recipe: Recipe,
        budget: Budget,
        folder: Path,
        seed: int,
        identity: dict[str, Any],
        clock: Callable[[], float] | None = None,
        precision: str = "no",
    ) -> None:
        self.accelerator = Accelerator(mixed_precision=precision)
        on_cpu = self.accelerator.device.type == "cpu"
        self.clock = clock or (time.process_time if on_cpu else time.monotonic)
        self.draw, self.watched, self.recipe, self.budget = draw, watched, recipe, budget
        self.checkpoint, self.seed = folder / "checkpoint.pt", seed
        self.identity = json.dumps(identity, sort_keys=True, default=str)
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            self.parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.99)
        )
        self.plain = net
        self.net, self.optimizer = self.accelerator.prepare(net, optimizer)
        self.ema = EMAModel(self.parameters, decay=recipe.ema_decay)
        self.step, self.used, self.finished = 0, 0.0, False
        self.checked, self.best_at, self.best = 0.0, 0.0, math.inf
        self.kept: list[Tensor] = []

    @property
    def share(self) -> float:
        """Share of the budget used; 0 in plateau mode, where nobody knows."""
        return 0.0 if self.budget.plateau else self.used / self.budget.seconds

    def run(self) -> Outcome:
        """Train until the budget is used, from the checkpoint where there is one.

        Raises:
            DivergedError: The loss or its gradient is not finite; the last checkpoint is untouched.
            ValueError: The checkpoint belongs to another run.
        """
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(self.checkpoint)
        self.resume()
        saved = time.monotonic()
        while not self.finished:
            start = self.clock()
            self.train_step()
            self.used += self.clock() - start
            if self.budget.plateau:
                self.look()
            self.finished = self.finished or self.used >= self.budget.seconds
            if not self.finished and time.monotonic() - saved >= SAVE_SECONDS:
                self.save()
                saved = time.monotonic()
        return self.end()

    def train_step(self) -> None:
        """One optimiser step.

        Raises:
            DivergedError: See `run`.
        """
        batch = self.draw(self.step).to(self.accelerator.device)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, self.share, self.recipe)
        device = self.accelerator.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(generator_for(self.seed, -1, self.step).initial_seed())
            loss = self.net(batch).mean()
        self.require_finite("loss", loss)
        self.accelerator.backward(loss)
        self.require_finite("gradient", self.accelerator.clip_grad_norm_(self.parameters, self.recipe.clip))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.parameters)
        self.step += 1

    def require_finite(self, name: str, value: Tensor) -> None:
        """Raise DivergedError where `value` is not finite."""
        if not torch.isfinite(value):
            raise DivergedError(
                f"step {self.step + 1}: the {name} is {value.item()}; lower the trial's learning_rate of "
                f"{self.recipe.learning_rate:g}"
            )

    def validate(self) -> float:
        """Mean loss of the held-out pictures under the averaged weights and fixed noise."""
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        self.plain.eval()
        try:
            with torch.no_grad():
                losses = [self.net(_again(b).to(self.accelerator.device)).cpu() for b in self.watched]
            return float(torch.cat(losses).mean())
        finally:
            self.plain.train()
            self.ema.restore(self.parameters)

    def look(self) -> None:
        """In plateau mode: now and then compare the validation loss with the best, and stop in time."""
        due = max(FIRST * self.budget.seconds, self.checked * GROWTH)
        if self.used < due and self.used < self.budget.seconds:
            return
        self.checked = self.used
        value = self.validate()
        if value < self.best:
            self.best, self.best_at = value, self.used
            self.kept = [p.detach().cpu().clone() for p in self.ema.shadow_params]
        stale = self.used - self.best_at
        self.finished = self.used >= self.budget.floor and stale >= self.budget.patience * self.used

    def end(self) -> Outcome:
        """Put the weights that stay in place and write the last, smaller checkpoint."""
        if not self.kept:
            self.best, self.best_at = self.validate(), self.used
            self.kept = [p.detach().cpu().clone() for p in self.ema.shadow_params]
        self.save()
        with torch.no_grad():
            for parameter, value in zip(self.parameters, self.kept, strict=True):
                parameter.copy_(value)
        self.plain.eval().cpu()
        return Outcome(self.step, self.used, self.best_at, self.best)

    def save(self) -> None:
        """Write the whole state, complete or not at all; of a finished run the weights that stay."""
        state = {name: getattr(self, name) for name in _PLAIN} | {"kept": self.kept}
        if not self.finished:
            state |= {
                "parameters": [p.detach().cpu() for p in self.parameters],
                "ema": [p.detach().cpu() for p in self.ema.shadow_params],
                "ema_step": self.ema.optimization_step,
                "optimizer": self.optimizer.state_dict(),
            }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        atomic_write(self.checkpoint, buffer.getvalue())

    def resume(self) -> None:
        """Go on from the checkpoint, where there is one.

        Raises:
            ValueError: It belongs to another run.
        """
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        if state["identity"] != self.identity:
            raise UserError(f"{self.checkpoint}: was made by another run; name another --out")
        for name in (*_PLAIN, "kept"):
            setattr(self, name, state[name])
        if self.finished:
            return
        with torch.no_grad():
            for mine, saved in zip(
                [*self.parameters, *self.ema.shadow_params], [*state["parameters"], *state["ema"]], strict=True
            ):
                mine.copy_(saved)
        self.ema.optimization_step = state["ema_step"]
        self.optimizer.load_state_dict(state["optimizer"])


_PLAIN = ("identity", "step", "used", "finished", "checked", "best_at", "best")


def _again(batch: Batch) -> Batch:
    """The batch with a generator of its own, in the same state."""
    generator = torch.Generator()
    generator.set_state(batch.generator.get_state())
    return Batch(batch.data, batch.c, generator)
