"""Classifier-free guidance of a velocity, also away from a negative caption."""

from collections.abc import Callable

import torch
from torch import Tensor

from bridge.text import TextCode

Velocity = Callable[[Tensor, Tensor, TextCode], Tensor]


def guided(velocity: Velocity, z_t: Tensor, t: Tensor, c: TextCode, away: TextCode, scale: float) -> Tensor:
    """The velocity v(away) + scale (v(c) - v(away)), (B, *z_shape), at points z_t and times t, (B,) in [0, 1].

    `away` are codes to move away from, null codes for plain guidance; `scale` 1 is none, and costs one evaluation
    instead of two.

    Source: Ho & Salimans 2022, Classifier-Free Diffusion Guidance, arXiv:2207.12598
    """
    if scale == 1:
        return velocity(z_t, t, c)
    towards, from_ = velocity(torch.cat([z_t, z_t]), torch.cat([t, t]), TextCode.cat([c, away])).chunk(2)
    return from_ + scale * (towards - from_)
