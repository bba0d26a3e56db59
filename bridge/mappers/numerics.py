"""Equations solved and derivatives taken along a velocity."""

from collections.abc import Callable

import torch
from torch import Tensor

TRACES = ("exact", "hutchinson")
"""How a divergence is taken."""


def solve(
    function: Callable[[Tensor], Tensor], target: Tensor, *, tolerance: float = 1e-6, steps: int = 100, window: int = 8
) -> tuple[Tensor, Tensor]:
    """Rows x with function(x) = target, by fixed-point iteration x + target - function(x) with memory.

    A row stops by itself, so that it depends on no other.

    Args:
        function: Rows to rows of equal shape, each row by itself.
        target: (B, *shape); also where the search begins.
        tolerance: A row's search ends where the largest error of its numbers, over its largest number or 1, is
            below this.
        steps: Evaluations at most.
        window: Evaluations that are remembered.

    Returns:
        The best x seen, (B, *shape), and its error on the tolerance's scale, (B,), for the caller to judge.

    Source: Anderson 1965, Iterative Procedures for Nonlinear Integral Equations; Walker & Ni 2011, Anderson
        Acceleration for Fixed-Point Iterations
    """
    scale = target.flatten(1).abs().amax(1).clamp(min=1)
    x, points, errors = target, list[Tensor](), list[Tensor]()
    best, least = x, torch.full_like(scale, torch.inf)
    for _ in range(steps):
        error = target - function(x)
        size = error.flatten(1).abs().amax(1) / scale
        better = (size < least) & (least > tolerance)
        best, least = torch.where(_wide(better, x), x, best), torch.where(better, size, least)
        if (least <= tolerance).all():
            break
        points, errors = [*points, x.flatten(1)][-window:], [*errors, error.flatten(1)][-window:]
        x = _mixed(points, errors).view_as(x)
    return best, least


def _wide(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(-1, *[1] * (like.ndim - 1))


def _mixed(points: list[Tensor], errors: list[Tensor]) -> Tensor:
    """Next points of an Anderson iteration, (B, D): where the remembered errors, mixed, are least."""
    if len(points) == 1:
        return points[0] + errors[0]
    x, error = torch.stack(points, 2).double(), torch.stack(errors, 2).double()
    dx, de = x.diff(dim=2), error.diff(dim=2)
    gram = de.mT @ de
    ridge = 1e-10 * gram.diagonal(dim1=1, dim2=2).sum(1).clamp(min=1e-30)
    gram = gram + ridge[:, None, None] * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    share = torch.linalg.solve_ex(gram, de.mT @ error[:, :, -1:])[0]
    step = error[:, :, -1:] - (dx + de) @ share
    return (x[:, :, -1:] + step)[:, :, 0].to(points[0].dtype)


def follow(
    slope: Callable[[Tensor, float], tuple[Tensor, Tensor]],
    x: Tensor,
    total: Tensor,
    span: tuple[float, float],
    steps: int,
) -> tuple[Tensor, Tensor]:
    """A differential equation and an integral along it, by Runge-Kutta steps of the fourth order.

    Args:
        slope: Of (x, s): dx/ds, and what is summed up.
        x: Where it begins.
        total: What the integral begins with.
        span: First and last s; the last may be the smaller.
        steps: Of equal length.

    Returns:
        x and the integral at the end.

    Source: Kutta 1901, Beitrag zur näherungsweisen Integration totaler Differentialgleichungen
    """
    h = (span[1] - span[0]) / steps
    for number in range(steps):
        s = span[0] + number * h
        x1, d1 = slope(x, s)
        x2, d2 = slope(x + h / 2 * x1, s + h / 2)
        x3, d3 = slope(x + h / 2 * x2, s + h / 2)
        x4, d4 = slope(x + h * x3, s + h)
        x = x + h / 6 * (x1 + 2 * x2 + 2 * x3 + x4)
        total = total + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return x, total


def probe_rows(z: Tensor, trace: str, probes: int, generator: torch.Generator | None) -> Tensor:
    """What a Jacobian's products are taken with, (P, B, *z_shape).

    Args:
        z: Points, (B, *z_shape).
        trace: "exact" gives each unit vector once, "hutchinson" random signs.
        probes: P, at least 2; unit vectors are as many as dimensions.
        generator: Source of the signs; unit vectors take none.

    Raises:
        ValueError: `trace` is unknown, or signs are asked for without a generator or too few of them.
    """
    if trace not in TRACES:
        raise ValueError(f"trace: expected one of {', '.join(TRACES)}, got {trace!r}")
    if trace == "exact":
        dim = z[0].numel()
        units = torch.eye(dim, dtype=z.dtype, device=z.device).view(dim, 1, *z.shape[1:])
        return units.expand(dim, *z.shape)
    if generator is None or probes < 2:
        raise ValueError('generator, probes: trace="hutchinson" needs a torch.Generator and at least 2 probes')
    signs = torch.randint(0, 2, (probes, *z.shape), generator=generator, device=generator.device)
    return (2 * signs - 1).to(z)


def velocity_and_traces(velocity: Callable[[Tensor], Tensor], z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """A velocity and products with its Jacobian J, without gradient.

    Args:
        velocity: (B, *z_shape) to (B, *z_shape), each row by itself.
        z: Points, (B, *z_shape).
        rows: Vectors e, (P, B, *z_shape).

    Returns:
        Velocity (B, *z_shape), and e . J e, (P, B).
    """
    with torch.enable_grad():
        at = z.detach().requires_grad_()
        v = velocity(at)
        if v.grad_fn is None:
            return v, z.new_zeros(rows.shape[:2])
        (products,) = torch.autograd.grad(v, at, rows, is_grads_batched=True, allow_unused=True)
    return v.detach(), (products * rows).flatten(2).sum(2)
