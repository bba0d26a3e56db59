"""One optimiser step, the same for one process and many, for whole batches and micro-batches."""

import contextlib
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn

from bridge.noise import generator_for
from train.average import Average
from train.config import ConfigError
from train.failures import StopRequest, TrainingError
from train.precision import note_precision
from train.schedule import LoopConfig, RowOrder, learning_rate_at

Batch = Callable[[Tensor, int], tuple[Tensor, ...]]
"""(row numbers (B,), epoch) -> what the objective takes."""

PATIENCE_OF_PROCESSES = timedelta(hours=2)
"""How long processes wait for the one that validates and saves."""


class Steps:
    """Optimiser steps of one objective, with a moving average of its weights.

    Args:
        objective: Module whose forward takes a batch and returns {"loss": (B,), ...}; every
            parameter that requires a gradient is trained.
        batch: Row numbers and epoch -> the objective's inputs.
        rows: Rows in the training data.
        config: How to train.

    Raises:
        ConfigError: The machine cannot train so: fp16 on a CPU, fewer examples than processes and micro-batches.
    """

    def __init__(self, objective: nn.Module, batch: Batch, rows: int, config: LoopConfig) -> None:
        self.accelerator = _accelerator(config)
        if self.accelerator.is_main_process:
            note_precision(config.mixed_precision, "mixed_precision")
        self.config, self.batch, self.rows = config, batch, rows
        self.parameters = [p for p in objective.parameters() if p.requires_grad]
        self.buffers = _buffers(objective)
        optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99)
        )
        self.objective, self.optimizer = self.accelerator.prepare(objective, optimizer)
        self.ema = Average(self.parameters, decay=config.ema_decay)
        self.order = RowOrder(rows, config.seed)
        self.step = 0
        self.stop = StopRequest()
        self._stop_agreed = False

    @property
    def stopping(self) -> bool:
        """Whether a signal came; the same in all processes, which must not part."""
        return self._stop_agreed if self.accelerator.num_processes > 1 else self.stop.number > 0

    @property
    def share(self) -> float | None:
        """Share of a budget of seconds that is used; None where steps are counted."""
        return None

    def forward(self, inputs: Sequence[Tensor], part: int = 0) -> dict[str, Tensor]:
        """What the objective says of micro-batch `part`; dropout is keyed by (seed, step, process, part)."""
        device = self.accelerator.device
        key = (self.config.seed, -1, self.step, self.accelerator.process_index, *([part] if part else []))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), self.accelerator.autocast():
            torch.manual_seed(generator_for(*key).initial_seed())
            parts: dict[str, Tensor] = self.objective(*inputs)
            return parts

    def train_step(self) -> dict[str, float]:
        """One optimiser step; returns the mean of everything the objective reported.

        Raises:
            TrainingError: The loss or its gradient is not finite; the weights are as before.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, self.config, self.share)
        means, norm = self.gradients()
        figures, length = self._figures(means, norm)
        if not length + 1e-6 <= self.config.clip:  # torch would multiply by 1 too
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.config.clip, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.parameters)
        self.step += 1
        return figures

    def gradients(self) -> tuple[dict[str, Tensor], Tensor]:
        """Leave the gradient of the step's mean loss in the parameters, not clipped yet.

        Returns:
            This process's share of the mean of everything reported, each (), and the gradient's norm, ().
        """
        rows, epoch = self.order.at(self.step, self.config.batch_size)
        processes, means = self.accelerator.num_processes, dict[str, Tensor]()
        chunks = rows[self.accelerator.process_index :: processes].tensor_split(self.config.accumulate)
        for part, chunk in enumerate(chunks):
            last = part == len(chunks) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.objective):
                inputs = [tensor.to(self.accelerator.device) for tensor in self.batch(chunk, epoch)]
                share = len(chunk) / len(rows)
                reported = {name: value.mean() for name, value in self.forward(inputs, part).items()}
                weight = share * processes  # gradients are averaged over processes
                self.accelerator.backward(reported["loss"] if weight == 1 else reported["loss"] * weight)
            for name, value in reported.items():
                mean = value.detach() if share == 1 else value.detach() * share
                means[name] = means[name] + mean if part else mean
        self.accelerator.unscale_gradients()
        return means, torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])

    def _figures(self, means: dict[str, Tensor], norm: Tensor) -> tuple[dict[str, float], float]:
        """All that the host must know of a step, by one transfer and, with several processes, one exchange.

        Returns:
            Means of everything reported over all processes, and the gradient's norm.
        """
        names = [*means, "stop"]
        asked = norm.new_tensor(float(self.stop.number > 0))
        values = torch.stack([value.to(norm.device).float() for value in [*means.values(), asked]])
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, "sum")
        *told, gradient = torch.cat([values, norm.float().reshape(1)]).tolist()
        figures = dict(zip(names, told, strict=True))
        self._stop_agreed = figures.pop("stop") > 0
        self.require_finite("loss", figures["loss"])
        if self.accelerator.scaler is None:  # fp16's scaler leaves such steps out itself
            self.require_finite("gradient", gradient)
        return figures, gradient

    def require_finite(self, name: str, value: float) -> None:
        """Stop before a loss or gradient that is no number reaches the weights.

        Raises:
            TrainingError: `value` is not finite.
        """
        if value - value != 0:
            raise TrainingError(f"step {self.step + 1}: the {name} is {value}; lower learning_rate in the config")


def _accelerator(config: LoopConfig) -> Accelerator:
    if config.mixed_precision == "fp16" and not torch.accelerator.is_available():
        raise ConfigError('mixed_precision: fp16 needs a GPU; set "bf16" or "no"')
    found = Accelerator(
        mixed_precision=config.mixed_precision, kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE_OF_PROCESSES)]
    )
    if config.batch_size < found.num_processes * config.accumulate:
        raise ConfigError(
            f"batch_size: {config.batch_size} examples cannot be shared by {found.num_processes} processes "
            f"with {config.accumulate} micro-batches each; raise it"
        )
    return found


def _buffers(objective: nn.Module) -> list[Tensor]:
    """What modules that train keep beside their parameters, such as running means."""
    training = [m for m in objective.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]
    return [buffer for module in training for buffer in module.buffers(recurse=False)]
