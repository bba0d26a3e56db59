"""Latents brought nearer to their pictures than an encoder brings them, which answers each at once.

Source: Kim et al. 2018, Semi-Amortized Variational Autoencoders, arXiv:1802.02550
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from bridge.codecs.base import LatentDistribution

RATE, DECAYS = 0.1, (0.6, 0.9)  # Length of a step in standard deviations, and decays of Adam's two means
SQUARES, EDGES = 2.0, 1.0  # Weights, beside absolute errors, of squared ones and of errors of differences to neighbours
AT_ONCE = 16 * 128**2  # Pixels refined at a time

Decode = Callable[[Tensor], Tensor]  # with a gradient


def refine(decode: Decode, x: Tensor, latents: LatentDistribution, steps: int) -> LatentDistribution:
    """Means moved by so many steps of gradient descent, so that they decode to what is nearer pictures x.

    No picture comes out farther from x than by `latents`. A step takes about three times as long as decoding.
    """
    if not steps:
        return latents
    count = max(AT_ONCE // x[0, 0].numel(), 1)
    parts = [slice(at, at + count) for at in range(0, len(x), count)]
    means = [_refined(decode, x[part], latents.mean[part], latents.std[part], steps) for part in parts]
    return replace(latents, mean=torch.cat(means))


def _refined(decode: Decode, x: Tensor, mean: Tensor, std: Tensor, steps: int) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        x, mean, rate = x.clone(), mean.clone(), std.sqrt()  # what shows less in a picture moves more
        rate = rate / rate.flatten(1).mean(1).view(-1, *[1] * (rate.dim() - 1))
        moved = torch.zeros_like(mean, requires_grad=True)
        optimizer = torch.optim.Adam([moved], RATE, DECAYS)
        losses = []
        for _ in range(steps):
            losses.append(_misfit(decode(mean + rate * moved), x))
            (moved.grad,) = torch.autograd.grad(losses[-1].sum(), moved)
            optimizer.step()
        z = (mean + rate * moved).detach()
        nearer = _misfit(decode(z), x) < losses[0].detach()
        return torch.where(nearer.view(-1, *[1] * (z.dim() - 1)), z, mean)


def _misfit(y: Tensor, x: Tensor) -> Tensor:
    """How far pictures y are from x, (B,)."""
    error = y - x
    edges = error.diff(dim=2).abs().mean((1, 2, 3)) + error.diff(dim=3).abs().mean((1, 2, 3))
    return error.abs().mean((1, 2, 3)) + SQUARES * error.square().mean((1, 2, 3)) + EDGES * edges
