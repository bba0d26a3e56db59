"""Early stopping: the best weights so far by a validation figure, and for how long none were better."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from train.failures import TrainingError
from train.schedule import LoopConfig


class Best:
    """The best averaged weights so far by `config.stop_on`.

    Attributes:
        weights: Copies on the CPU; empty before the first validation, and without `stop_on`.
        step: When they were validated.
        worse: Validations in a row that were no better.

    Source: Prechelt 1998, Early Stopping - But When?
    """

    def __init__(self, config: LoopConfig) -> None:
        self.config = config
        self.value, self.step, self.worse = math.inf, 0, 0
        self.weights: list[Tensor] = []

    @property
    def enough(self) -> bool:
        """Whether to stop."""
        return bool(self.config.stop_on) and self.worse >= self.config.patience

    def look(self, step: int, figures: dict[str, float], weights: Sequence[Tensor]) -> None:
        """Compare the figures of a validation with the best; not a number counts as worse.

        Raises:
            TrainingError: There is no figure of that name; says which there are.
        """
        name = self.config.stop_on
        if not name:
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
        kept = {name: getattr(self, name) for name in ("value", "step", "worse", "weights")}
        return kept | {"stop_on": self.config.stop_on, "goal": self.config.goal}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`, unless it is that of another figure."""
        if (state["stop_on"], state["goal"]) == (self.config.stop_on, self.config.goal):
            self.value, self.step, self.worse = state["value"], state["step"], state["worse"]
            self.weights = state["weights"]

    @torch.no_grad()
    def copy_to(self, parameters: Sequence[Tensor]) -> None:
        """Put the best weights in place."""
        for parameter, best in zip(parameters, self.weights, strict=True):
            parameter.copy_(best)
