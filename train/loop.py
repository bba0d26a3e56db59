"""One training loop on accelerate: EMA, trapezoidal schedule, exact resume.

All randomness is keyed by (seed, epoch, row), so that a resumed run sees what an uninterrupted
one sees, and two processes see what one does.
"""

import io
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm import tqdm

from bridge.checkpoint import atomic_write, remove_stale
from bridge.noise import generator_for

Batch = Callable[[Tensor, int], tuple[Tensor, ...]]
"""(row numbers (B,), epoch) -> what the objective takes."""
Validate = Callable[[int], dict[str, float]]
"""step -> figures, called with the EMA weights in place."""


class ResumeError(ValueError):
    """A run folder that cannot be gone on with, naming what differs."""


class TrainingError(RuntimeError):
    """Training stopped: the loss or its gradient is not finite."""


@dataclass(frozen=True)
class LoopConfig:
    """How to train.

    Attributes:
        steps: Optimiser steps in all.
        batch_size: Examples a step, over all processes.
        learning_rate: The plateau of the trapezoid.
        warmup: Steps to reach it.
        cooldown: Share of `steps`, at the end, over which it falls to zero.
        weight_decay: AdamW's.
        clip: Largest gradient norm.
        ema_decay: Limit of the moving average's decay, reached by warm-up.
        mixed_precision: "no", "bf16" or "fp16".
        validate_every: Steps between validations.
        save_minutes: Minutes between checkpoints.
        seed: Key of all randomness.
    """

    steps: int
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup: int = 200
    cooldown: float = 0.35
    weight_decay: float = 0.01
    clip: float = 1.0
    ema_decay: float = 0.999
    mixed_precision: str = "no"
    validate_every: int = 1000
    save_minutes: float = 5.0
    seed: int = 0


def learning_rate_at(step: int, config: LoopConfig) -> float:
    """Trapezoid: linear warm-up, plateau, linear cool-down to zero at `steps`.

    Source: Haegele et al. 2024, Scaling Laws Beyond Fixed Training Durations, arXiv:2405.18392

    >>> config = LoopConfig(steps=100, warmup=10, cooldown=0.5, learning_rate=1.0)
    >>> [round(learning_rate_at(s, config), 2) for s in (0, 9, 30, 75)]
    [0.1, 1.0, 1.0, 0.5]
    """
    up = (step + 1) / max(config.warmup, 1)
    down = (config.steps - step) / max(config.cooldown * config.steps, 1)
    return config.learning_rate * min(1.0, up, down)


def epoch_order(rows: int, seed: int, epoch: int) -> Tensor:
    """The order of the rows in an epoch, (rows,), fixed by (seed, epoch)."""
    return torch.randperm(rows, generator=generator_for(seed, epoch))


def rows_at(step: int, rows: int, batch_size: int, seed: int) -> tuple[Tensor, int]:
    """Row numbers of one step and its epoch; the last incomplete batch of an epoch is left out.

    A batch larger than the data repeats rows.
    """
    per_epoch = max(rows // batch_size, 1)
    epoch, position = divmod(step, per_epoch)
    order = epoch_order(rows, seed, epoch)
    if rows < batch_size:
        order = order.repeat(math.ceil(batch_size / rows))
    return order[position * batch_size : (position + 1) * batch_size], epoch


class Loop:
    """Trains one objective.

    Args:
        objective: Module whose forward takes a batch and returns {"loss": (B,), ...}; every
            parameter that requires a gradient is trained.
        batch: Row numbers and epoch -> the objective's inputs.
        rows: Rows in the training data.
        validate: Called with EMA weights in place every `validate_every` steps and at the end.
        config: How to train.
        out: Run folder.
        identity: What must be the same for a run to be gone on with (data, model settings).
    """

    def __init__(
        self,
        objective: nn.Module,
        batch: Batch,
        rows: int,
        validate: Validate,
        config: LoopConfig,
        out: Path,
        identity: dict[str, Any],
    ) -> None:
        self.accelerator = Accelerator(mixed_precision=config.mixed_precision)
        self.config, self.batch, self.rows, self.validate, self.out = config, batch, rows, validate, out
        self.parameters = [p for p in objective.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99)
        )
        self.objective, self.optimizer = self.accelerator.prepare(objective, optimizer)
        self.ema = EMAModel(self.parameters, decay=config.ema_decay)
        self.identity = json.loads(json.dumps(identity | {"rows": rows}, default=str))
        self.step = 0

    @property
    def checkpoint(self) -> Path:
        """Where the state is kept."""
        return self.out / "checkpoint.pt"

    def save(self) -> None:
        """Write the whole state, complete or not at all."""
        if not self.accelerator.is_main_process:
            return
        state = {
            "step": self.step,
            "config": asdict(self.config),
            "identity": self.identity,
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
            ResumeError: The checkpoint belongs to other data, another model or other settings. More
                steps and another saving interval are fine.
        """
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        free = {"steps", "save_minutes", "validate_every", "cooldown"}
        before = {k: v for k, v in state["config"].items() if k not in free} | state["identity"]
        now = {k: v for k, v in asdict(self.config).items() if k not in free} | self.identity
        differs = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
        if differs:
            told = ", ".join(f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in differs)
            raise ResumeError(f"{self.out}: cannot go on: {told}; name another `out` or restore the settings")
        with torch.no_grad():
            for parameter, saved in zip(self.parameters, state["parameters"], strict=True):
                parameter.copy_(saved)
            for shadow, saved in zip(self.ema.shadow_params, state["ema"], strict=True):
                shadow.copy_(saved)
        self.ema.optimization_step = state["ema_step"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def forward(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """What the objective says of a batch; dropout and its like are keyed by (seed, step, process)."""
        device = self.accelerator.device
        key = generator_for(self.config.seed, -1, self.step, self.accelerator.process_index)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), self.accelerator.autocast():
            torch.manual_seed(key.initial_seed())
            parts: dict[str, Tensor] = self.objective(*inputs)
            return parts

    def require_finite(self, name: str, value: Tensor) -> None:
        """Stop before a loss or gradient that is no number reaches the weights.

        Raises:
            TrainingError: `value` is not finite.
        """
        if not torch.isfinite(value):
            raise TrainingError(
                f"step {self.step + 1}: the {name} is {value.item()}; lower learning_rate in the config"
            )

    def train_step(self) -> dict[str, float]:
        """One optimiser step; returns the mean of everything the objective reported.

        Raises:
            TrainingError: The loss or its gradient is not finite; the weights are as before.
        """
        rows, epoch = rows_at(self.step, self.rows, self.config.batch_size, self.config.seed)
        mine = rows[self.accelerator.process_index :: self.accelerator.num_processes]
        inputs = [tensor.to(self.accelerator.device) for tensor in self.batch(mine, epoch)]
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, self.config)
        parts = self.forward(inputs)
        loss = parts["loss"].mean()
        self.require_finite("loss", loss)
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.config.clip)
        if self.accelerator.scaler is None:  # fp16's scaler leaves such steps out itself
            self.require_finite("gradient", norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.parameters)
        self.step += 1
        return {name: float(value.detach().mean()) for name, value in parts.items()}

    def evaluate(self) -> dict[str, float]:
        """Figures of the EMA weights; the training weights come back afterwards."""
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        try:
            self.objective.eval()
            with torch.no_grad():
                return self.validate(self.step)
        finally:
            self.objective.train()
            self.ema.restore(self.parameters)

    def log(self, figures: dict[str, float]) -> None:
        """Append one line to log.jsonl."""
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.step} | {k: round(v, 6) for k, v in figures.items()}) + "\n")

    def run(self) -> None:
        """Train to the end, from the checkpoint where there is one; the EMA weights are left in place.

        Raises:
            ResumeError: See `resume`.
            TrainingError: The loss or its gradient is not finite; the last checkpoint is untouched.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        remove_stale(self.checkpoint)
        self.resume()
        saved = time.monotonic()
        sums: dict[str, float] = {}
        seen = 0
        bar = tqdm(total=self.config.steps, initial=self.step, desc=self.out.name, file=sys.stderr, mininterval=5)
        while self.step < self.config.steps:
            parts = self.train_step()
            sums = {k: sums.get(k, 0.0) + v for k, v in parts.items()}
            seen += 1
            bar.update()
            if self.step % self.config.validate_every == 0 or self.step == self.config.steps:
                figures = {k: v / seen for k, v in sums.items()} | self.evaluate()
                bar.set_postfix({k: f"{v:.4g}" for k, v in figures.items()})
                self.log(figures)
                sums, seen = {}, 0
            if time.monotonic() - saved > 60 * self.config.save_minutes:
                self.save()
                saved = time.monotonic()
        bar.close()
        self.save()
        self.ema.copy_to(self.parameters)
