"""What every mapping family promises: text code and noise in, standardised latents out.

A capability is a class: `DensityMapper` knows how likely a latent is, `InvertibleMapper` finds the noise
behind a latent, `VelocityMapper` does both along a learned velocity and can be guided.
"""

import abc
import math
from collections.abc import Callable
from functools import partial

import torch
from diffusers import ConfigMixin, ModelMixin
from torch import Tensor

from bridge.errors import UserError
from bridge.guidance import guided
from bridge.mappers.numerics import integrate, per_row, probe_rows, solve, velocity_and_traces
from bridge.text import TextCode

MIN_REMAINING = 0.05  # 1 - t is not taken below this in a loss, where it divides
BLUR = 0.05  # Standard deviation of the noise under which `VelocityMapper.log_prob` sees latents
ROUND_TRIP = 1e-3  # Largest error that `invert` lets pass, as a share of a latent's largest number, or of 1


class Mapper(ModelMixin, ConfigMixin, abc.ABC):
    """Small stochastic map from text codes to image latents; the only part trained on pairs.

    The caller draws the noise, one row an example, so that an example depends on its own key alone.

    Families name their settings alike: `width` features of a residual stream; `blocks` residual blocks with `hidden`
    features inside, of which the share `dropout` is dropped in training; `text_dropout`, that share of text features.
    """

    z_shape: tuple[int, ...]  # Of one latent
    text_dim: int  # Dimension of `TextCode.pooled`
    loss_noise_shape: tuple[int, ...]  # Standard normal numbers that `loss` takes for one example
    sample_noise_shape: tuple[int, ...]  # The same of `sample`
    reads_tokens: bool = False  # Whether captions are to be encoded with `TextCode.tokens`

    @abc.abstractmethod
    def loss(self, z: Tensor, c: TextCode, *, noise: Tensor) -> Tensor:
        """Training loss of each example, (B,), for latents z (B, *z_shape) and codes, null ones without a caption.

        `noise` is standard normal, (B, *loss_noise_shape).
        """

    @abc.abstractmethod
    def sample(self, c: TextCode, *, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """One latent a code, (B, *z_shape), from standard normal `noise`, (B, *sample_noise_shape).

        `temperature` multiplies the noise's standard deviation; 0 gives one latent a caption.
        """

    def compact(self) -> "Mapper":
        """What to save: weights that half precision holds exactly, as after rounding, take half the bytes."""
        return self

    def check_rows(self, name: str, rows: Tensor, shape: tuple[int, ...], c: TextCode) -> None:
        """Raise ValueError unless `c` are codes for this mapper, and `rows`, the argument `name`, (B, *shape)."""
        if (dim := c.pooled.shape[1]) != self.text_dim:
            raise ValueError(f"c: expected codes of {self.text_dim}, got {dim}; use this mapper's encoder")
        if tuple(rows.shape) != (expected := (len(c), *shape)):
            raise ValueError(f"{name}: expected {expected}, one row a code, got {tuple(rows.shape)}; reshape it")


class DensityMapper(Mapper):
    """A mapper with a density; by default its loss is the negative log-likelihood in nats a dimension."""

    loss_noise_shape: tuple[int, ...] = (0,)

    @abc.abstractmethod
    def log_prob(self, z: Tensor, c: TextCode) -> Tensor:
        """Log density in nats, (B,), of latents z (B, *z_shape) under captions; log p(z) under null codes.

        It is the density of standardised latents: figures compare on the same standardiser alone.
        """

    def loss(self, z: Tensor, c: TextCode, *, noise: Tensor) -> Tensor:
        self.check_rows("noise", noise, self.loss_noise_shape, c)
        return -self.log_prob(z, c) / math.prod(self.z_shape)


class InvertibleMapper(Mapper):
    """A mapper under which each latent comes from one noise."""

    @abc.abstractmethod
    def invert(self, z: Tensor, c: TextCode) -> Tensor:
        """The noise, (B, *sample_noise_shape), from which `sample` at temperature 1 gives latents z (B, *z_shape)."""


class VelocityMapper(DensityMapper, InvertibleMapper):
    """A mapper that carries noise to latents along a learned velocity.

    `sample` and `invert` follow it in Euler steps and are each other's inverse at equal settings. `log_prob` follows
    the differential equation itself, which reaches every latent; Euler steps of a learned velocity need not.

    Source: Lipman et al. 2023, Flow Matching for Generative Modeling, arXiv:2210.02747
    """

    unreachable = "has no noise that leads to it at these settings; raise num_inference_steps"
    unstable = "comes back changed, its noise is too finely balanced; lower num_inference_steps"
    """What `invert` says of a latent to which no noise leads, and of one to which its noise does not lead back."""

    @abc.abstractmethod
    def velocity(self, z_t: Tensor, t: Tensor, c: TextCode) -> Tensor:
        """dz_t/dt, (B, *z_shape), at points z_t (B, *z_shape) and times t (B,) in [0, 1], 0 = noise."""

    @abc.abstractmethod
    def loss(self, z: Tensor, c: TextCode, *, noise: Tensor) -> Tensor: ...

    @torch.no_grad()
    def sample(
        self,
        c: TextCode,
        *,
        noise: Tensor,
        temperature: float = 1.0,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 16,
        negative: TextCode | None = None,
    ) -> Tensor:
        """One latent a code, (B, *z_shape), by Euler steps of equal length; see `Mapper.sample`.

        A `guidance_scale` of 1 follows the caption as it was learned, more exaggerates what sets it apart from no
        caption, or from the captions with codes `negative`, B of them.
        """
        self.check_rows("noise", noise, self.z_shape, c)
        step = self._euler(c, noise.device, guidance_scale, num_inference_steps, negative)
        z = noise * temperature
        for number in range(num_inference_steps):
            z = step(number, z)
        return z

    @torch.no_grad()
    def invert(
        self,
        z: Tensor,
        c: TextCode,
        *,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 16,
        negative: TextCode | None = None,
    ) -> Tensor:
        """The noise, (B, *z_shape), from which `sample`, at temperature 1 and the same settings, gives `z`.

        Each Euler step is solved for its beginning: in float32 to about 1e-4, for a latent that the mapper drew itself.
        Raises UserError, which names the latent and the remedy, if no noise leads back to one within `ROUND_TRIP`.

        Source: Pan et al. 2023, Effective Real Image Editing with Accelerated Iterative Diffusion Inversion,
            arXiv:2309.04907 (fixed-point iteration of a step, accelerated)
        """
        self.check_rows("z", z, self.z_shape, c)
        step = self._euler(c, z.device, guidance_scale, num_inference_steps, negative)
        start = z
        for number in reversed(range(num_inference_steps)):
            start, error = solve(partial(step, number), start)
            _check_errors(error, self.unreachable)
        end = start
        for number in range(num_inference_steps):
            end = step(number, end)
        _check_errors((end - z).flatten(1).abs().amax(1) / z.flatten(1).abs().amax(1).clamp(min=1), self.unstable)
        return start

    def log_prob(self, z: Tensor, c: TextCode, *, num_inference_steps: int = 16) -> Tensor:
        """Log density in nats, (B,), without gradient, by the exact trace; see `log_prob_with_error`."""
        return self.log_prob_with_error(z, c, num_inference_steps=num_inference_steps)[0]

    @torch.no_grad()
    def log_prob_with_error(
        self,
        z: Tensor,
        c: TextCode,
        *,
        num_inference_steps: int = 16,
        trace: str = "exact",
        probes: int = 8,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Log density in nats along the differential equation, and its standard error over the probes, each (B,).

        A velocity divides by the remaining time and is not defined at the data itself. So this is the density of
        latents blurred by normal noise of standard deviation `BLUR`, to which the path leads at t = 1 / (1 + BLUR): of
        unit mass, and close to the latents' own where they spread more than that. Guidance is no part of it. The
        Runge-Kutta steps, four velocities each, are of equal length in -log(1 - t).

        `trace` "exact" takes one gradient a dimension, and its error is 0; "hutchinson", for many dimensions, estimates
        the divergence from `probes` random signs a latent, at least 2, drawn from a CPU `generator`. Raises ValueError
        if it is neither, or there is no generator to draw from.

        Source: Chen et al. 2018, Neural Ordinary Differential Equations, arXiv:1806.07366; random signs:
            Grathwohl et al. 2019, FFJORD, arXiv:1810.01367
        """
        self.check_rows("z", z, self.z_shape, c)
        dim = math.prod(self.z_shape)
        vectors = probe_rows(z, trace, probes, generator)

        def slope(x: Tensor, s: float) -> tuple[Tensor, Tensor]:
            remaining = math.exp(-s)
            t = torch.full((len(x),), 1 - remaining, dtype=x.dtype, device=x.device)
            v, traces = velocity_and_traces(lambda at: self.velocity(at, t, c), x, vectors)
            return remaining * v, remaining * traces

        x, change = integrate(slope, z / (1 + BLUR), math.log1p(1 / BLUR), num_inference_steps)
        normal = -(x.flatten(1).square().sum(1) + dim * math.log(2 * math.pi)) / 2
        value = normal - dim * math.log1p(BLUR)
        if trace == "exact":
            return value + change.sum(0), torch.zeros_like(value)
        return value + change.mean(0), change.std(0) / math.sqrt(len(vectors))

    def _euler(
        self, c: TextCode, device: torch.device, scale: float, steps: int, negative: TextCode | None
    ) -> Callable[[int, Tensor], Tensor]:
        """One Euler step as a function of its number and its beginning."""
        away = TextCode.null(len(c), self.text_dim).to(device) if negative is None else negative

        def step(number: int, z: Tensor) -> Tensor:
            t = torch.full((len(z),), number / steps, dtype=z.dtype, device=z.device)
            return z + guided(self.velocity, z, t, c, away, scale) / steps

        return step


class CleanMapper(VelocityMapper):
    """Flow matching along straight paths whose network predicts the clean latent.

    A row of a loss's noise ends with the path's start and begins with a number u; the time is sigmoid(time_mean + u).

    Source: Lipman et al. 2023, arXiv:2210.02747; clean prediction: Li & He 2025, arXiv:2511.13720;
        logit-normal times: Esser et al. 2024, arXiv:2403.03206
    """

    time_mean: float

    @abc.abstractmethod
    def clean(self, z_t: Tensor, t: Tensor, c: TextCode) -> Tensor:
        """Expected clean latent given z_t (B, *z_shape), times t (B,) and codes, (B, *z_shape)."""

    def velocity(self, z_t: Tensor, t: Tensor, c: TextCode) -> Tensor:
        return (self.clean(z_t, t, c) - z_t) / per_row((1 - t).clamp(min=1e-3), z_t)

    def loss(self, z: Tensor, c: TextCode, *, noise: Tensor) -> Tensor:
        """Mean squared error of the velocity that the clean latent implies, (B,); see `Mapper.loss`."""
        t, z_t = self._on_path(z, c, noise)
        return velocity_error(self.clean(z_t, t, c), z, t, MIN_REMAINING)

    def _on_path(self, z: Tensor, c: TextCode, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Times (B,) and points z_t for a loss's noise."""
        self.check_rows("z", z, self.z_shape, c)
        self.check_rows("noise", noise, self.loss_noise_shape, c)
        t = torch.sigmoid(self.time_mean + noise[:, 0])
        return t, linear_path(z, noise[:, -math.prod(self.z_shape) :].view_as(z), t)[0]


def velocity_error(clean: Tensor, z: Tensor, t: Tensor, least: float) -> Tensor:
    """Mean squared error (B,) of the velocity a clean latent implies at times t; 1 - t counts as `least` or more."""
    return (clean - z).square().flatten(1).mean(1) / (1 - t).clamp(min=least).square()


def linear_path(z: Tensor, eps: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Point z_t = t z + (1 - t) eps and its velocity, of latents and noise (B, *z_shape) at times t (B,) in [0, 1].

    Source: Liu et al. 2022, Flow Straight and Fast, arXiv:2209.03003
    """
    t = per_row(t, z)
    return t * z + (1 - t) * eps, z - eps


def _check_errors(error: Tensor, problem: str) -> None:
    """Raise UserError about the first row whose error (B,) is above `ROUND_TRIP`, or not a number."""
    if rows := (~(error <= ROUND_TRIP)).nonzero().flatten().tolist():
        more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
        raise UserError(f"z: row {rows[0]}{more} {problem}")
