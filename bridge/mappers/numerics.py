"""Equations solved and derivatives taken along a velocity; rows, (B, *shape), never depend on one another."""

from collections.abc import Callable

import torch
from torch import Tensor

TRACES = ("exact", "hutchinson")  # How a divergence is taken
TOLERANCE, EVALUATIONS, POINTS = 1e-6, 100, 8  # Of `solve`: its goal, limit, and points that are mixed


def per_row(values: Tensor, rows: Tensor) -> Tensor:
    """Values (B,) as (B, 1, ..., 1), to be multiplied with rows."""
    return values.view(-1, *[1] * (rows.ndim - 1))


def solve(function: Callable[[Tensor], Tensor], target: Tensor) -> tuple[Tensor, Tensor]:
    """Rows x with function(x) = target, by fixed-point iteration x + target - function(x) from x = target.

    Each iteration mixes the last points. A row stops once its largest error, as a share of the target's largest number
    or of 1, is within TOLERANCE. Returns the best x and that error, (B,), for the caller to judge.

    Source: Anderson 1965, Iterative Procedures for Nonlinear Integral Equations; Walker & Ni 2011, Anderson
        Acceleration for Fixed-Point Iterations
    """
    scale = target.flatten(1).abs().amax(1).clamp(min=1)
    x, points, errors = target, list[Tensor](), list[Tensor]()
    best, least = x, torch.full_like(scale, torch.inf)
    for _ in range(EVALUATIONS):
        error = target - function(x)
        size = error.flatten(1).abs().amax(1) / scale
        better = (size < least) & (least > TOLERANCE)
        best, least = torch.where(per_row(better, x), x, best), torch.where(better, size, least)
        if (least <= TOLERANCE).all():
            break
        points, errors = [*points, x.flatten(1)][-POINTS:], [*errors, error.flatten(1)][-POINTS:]
        x = _mixed(points, errors).view_as(x)
    return best, least


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


def integrate(
    slope: Callable[[Tensor, float], tuple[Tensor, Tensor]], x: Tensor, begin: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Where a differential equation leads from x at s = `begin` to s = 0, and an integral along the way.

    `slope` gives, at (x, s), dx/ds and the integrand. Runge-Kutta steps of the fourth order, of equal length.

    Source: Kutta 1901, Beitrag zur näherungsweisen Integration totaler Differentialgleichungen
    """
    h, total = -begin / steps, x.new_zeros(())
    for number in range(steps):
        s = begin + number * h
        x1, d1 = slope(x, s)
        x2, d2 = slope(x + h / 2 * x1, s + h / 2)
        x3, d3 = slope(x + h / 2 * x2, s + h / 2)
        x4, d4 = slope(x + h * x3, s + h)
        x = x + h / 6 * (x1 + 2 * x2 + 2 * x3 + x4)
        total = total + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return x, total


def probe_rows(z: Tensor, trace: str, probes: int, generator: torch.Generator | None) -> Tensor:
    """Vectors e, (P, B, *z_shape), whose products e . J e with a Jacobian at z (B, *z_shape) give its trace.

    "exact": each unit vector, to be summed; "hutchinson": P = `probes` random signs from `generator`, to be averaged.
    Raises ValueError if `trace` is unknown, or signs are asked for without a generator or fewer than two of them.
    """
    if trace not in TRACES:
        raise ValueError(f"trace: expected one of {', '.join(TRACES)}, got {trace!r}")
    if trace == "exact":
        units = torch.eye(z[0].numel(), dtype=z.dtype, device=z.device)
        return units.view(-1, 1, *z.shape[1:]).expand(-1, *z.shape)
    if generator is None or probes < 2:
        raise ValueError('generator, probes: trace="hutchinson" needs a torch.Generator and at least 2 probes')
    signs = torch.randint(0, 2, (probes, *z.shape), generator=generator, device=generator.device)
    return (2 * signs - 1).to(z)


def velocity_and_traces(velocity: Callable[[Tensor], Tensor], z: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """A velocity at z (B, *z_shape), and e . J e, (P, B), of its Jacobian J and probes e (P, B, *z_shape)."""
    with torch.enable_grad():
        at = z.detach().requires_grad_()
        v = velocity(at)
        if v.grad_fn is None:
            return v, z.new_zeros(probes.shape[:2])
        (products,) = torch.autograd.grad(v, at, probes, is_grads_batched=True, allow_unused=True)
    return v.detach(), (products * probes).flatten(2).sum(2)
