"""How long and how to train: the same for every peer but for rate and batch."""

import math
from dataclasses import dataclass

from bridge.errors import UserError

SCHEDULES = ("trapezoid", "cosine", "constant")


@dataclass(frozen=True)
class Budget:
    """How long to train.

    Args:
        seconds: Of training; by default counted as processor time of this process, all threads added up.
        plateau: Stop earlier, once the validation loss has not improved for `patience`; the best weights stay.
        floor: Seconds before which a plateau is not looked for.
        patience: Share of the time used so far that may pass without improvement.
    """

    seconds: float
    plateau: bool = False
    floor: float = 0.0
    patience: float = 1 / 3

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise UserError(f"minutes: expected a time above 0, got {self.seconds / 60:g}; give more")


@dataclass(frozen=True)
class Recipe:
    """How to train, for every peer the same but for rate and batch.

    Args:
        learning_rate: The largest.
        batch_size: Examples a step.
        schedule: Of the rate over the share of the budget used: trapezoid, cosine, or constant.
        warmup: Steps to the largest rate.
        cooldown: Share of the budget over which a trapezoid falls to zero.
        weight_decay: AdamW's.
        clip: Largest gradient norm.
        ema_decay: Limit of the moving average's decay, reached by warm-up.
    """

    learning_rate: float
    batch_size: int
    schedule: str = "trapezoid"
    warmup: int = 100
    cooldown: float = 0.4
    weight_decay: float = 0.01
    clip: float = 1.0
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule: expected one of {', '.join(SCHEDULES)}, got {self.schedule!r}")


def learning_rate_at(step: int, share: float, recipe: Recipe) -> float:
    """The rate of a step when `share` of the budget is used.

    Source: Haegele et al. 2024, arXiv:2405.18392 (trapezoid); Loshchilov & Hutter 2017, arXiv:1608.03983 (cosine)

    >>> recipe = Recipe(1.0, 8, warmup=10, cooldown=0.5)
    >>> [learning_rate_at(*at, recipe) for at in ((0, 0.0), (100, 0.3), (100, 0.75), (100, 1.0))]
    [0.1, 1.0, 0.5, 0.0]
    """
    up = (step + 1) / max(recipe.warmup, 1)
    down = 1.0
    if recipe.schedule == "trapezoid":
        down = (1 - share) / max(recipe.cooldown, 1e-9)
    elif recipe.schedule == "cosine":
        down = (1 + math.cos(math.pi * min(share, 1))) / 2
    return recipe.learning_rate * max(min(1.0, up, down), 0.0)
