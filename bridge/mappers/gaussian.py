"""Gaussians of each caption, one or a mixture, from a perceptron."""

import math

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from bridge.errors import UserError
from bridge.mappers.base import DensityMapper, InvertibleMapper
from bridge.mappers.nets import CodeMLP
from bridge.text import TextCode


def _deviation(raw: Tensor, least: float) -> Tensor:
    """Standard deviations above `least`, 1 where a network answers 0."""
    return least + nn.functional.softplus(raw + math.log(math.expm1(1 - least)))


def _log_normal(e: Tensor, std: Tensor) -> Tensor:
    """Log density of points, e deviations away along each of the last dimension's axes."""
    return -(e.square().sum(-1) + e.shape[-1] * math.log(2 * math.pi)) / 2 - std.log().sum(-1)


class GaussianMapper(DensityMapper, InvertibleMapper):
    """Latents are normal under a caption, with covariance S (I + V V^T) S: S diagonal, V of `rank` columns.

    Noise becomes a latent by the symmetric root of I + V V^T, so that each latent has its own noise; the plain
    way, one noise for S and another for V, has many. For settings not named here see `Mapper`.

    Source: Nix & Weigend 1994, Estimating the Mean and Variance of the Target Probability Distribution; low rank:
        Rezende et al. 2014, Stochastic Backpropagation, arXiv:1401.4082
    """

    @register_to_config
    def __init__(
        self,
        z_shape: tuple[int, ...],
        text_dim: int,
        rank: int = 0,
        width: int = 512,
        hidden: int = 1024,
        blocks: int = 3,
        dropout: float = 0.0,
        text_dropout: float = 0.0,
        min_std: float = 0.05,  # Least value on S's diagonal; else the likelihood of few pairs has no maximum
    ) -> None:
        super().__init__()
        if rank < 0 or min_std <= 0:
            raise UserError(f"rank, min_std: expected 0 or more, and more than 0, got {rank} and {min_std}")
        self.z_shape, self.text_dim, self.rank, self.min_std = tuple(z_shape), text_dim, rank, min_std
        self.sample_noise_shape = self.z_shape
        self.dim = math.prod(z_shape)
        self.net = CodeMLP(text_dim, self.dim * (2 + rank), width, hidden, blocks, dropout, text_dropout)
        with torch.no_grad():  # about N(0, 1), what latents are without a caption
            self.net.leave.weight.mul_(0.1)
            self.net.leave.bias.zero_()

    def parameters_of(self, c: TextCode) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (B, D), diagonal of S (B, D) and V (B, D, rank) under each caption, D numbers a latent."""
        mean, raw, columns = self.net(c.pooled).split([self.dim, self.dim, self.dim * self.rank], dim=1)
        return mean, _deviation(raw, self.min_std), columns.view(len(c), self.dim, self.rank)

    def log_prob(self, z: Tensor, c: TextCode) -> Tensor:
        self.check_rows("z", z, self.z_shape, c)
        mean, std, v = self.parameters_of(c)
        e = (z.flatten(1) - mean) / std
        value = _log_normal(e, std)
        if not self.rank:
            return value
        # Woodbury's identity and the determinant lemma: rank x rank instead of D x D
        root = torch.linalg.cholesky(v.mT @ v + torch.eye(self.rank, dtype=v.dtype, device=v.device))
        inner = torch.linalg.solve_triangular(root, v.mT @ e[:, :, None], upper=False)
        return value + inner.square().sum((1, 2)) / 2 - root.diagonal(dim1=1, dim2=2).log().sum(1)

    @torch.no_grad()
    def sample(self, c: TextCode, *, noise: Tensor, temperature: float = 1.0) -> Tensor:
        self.check_rows("noise", noise, self.z_shape, c)
        mean, std, v = self.parameters_of(c)
        return (mean + std * _root(v, noise.flatten(1) * temperature, 0.5)).view_as(noise)

    @torch.no_grad()
    def invert(self, z: Tensor, c: TextCode) -> Tensor:
        self.check_rows("z", z, self.z_shape, c)
        mean, std, v = self.parameters_of(c)
        return _root(v, (z.flatten(1) - mean) / std, -0.5).view_as(z)


def _root(v: Tensor, e: Tensor, power: float) -> Tensor:
    """(I + V V^T) ** power on e (B, D), for V (B, D, rank)."""
    if not v.shape[2]:
        return e
    values, vectors = torch.linalg.eigh(v.mT @ v)
    values = values.clamp(min=torch.finfo(v.dtype).eps)
    gain = torch.expm1(power * values.log1p()) / values
    axes = v @ vectors
    return e + (axes @ (gain[:, :, None] * (axes.mT @ e[:, :, None])))[:, :, 0]


class MixtureMapper(DensityMapper):
    """Latents are a mixture of diagonal Gaussians, `components` of them, under a caption.

    The first number of a noise row picks the component, the weights' quantile at its normal CDF; the others place the
    latent in it. Several noises give one latent, so there is no inverse. Temperature T also sharpens the weights w to
    w ** (1 / T²), as it does the densities; at 0 the likeliest component's mean remains. For settings not named here
    see `Mapper`.

    Source: Bishop 1994, Mixture Density Networks, NCRG/94/004
    """

    @register_to_config
    def __init__(
        self,
        z_shape: tuple[int, ...],
        text_dim: int,
        components: int = 8,
        width: int = 512,
        hidden: int = 1024,
        blocks: int = 3,
        dropout: float = 0.0,
        text_dropout: float = 0.0,
        min_std: float = 0.05,  # Least deviation; else the likelihood has no maximum
    ) -> None:
        super().__init__()
        if components < 1 or min_std <= 0:
            raise UserError(f"components, min_std: expected 1 or more, above 0, got {components} and {min_std}")
        self.z_shape, self.text_dim, self.components, self.min_std = tuple(z_shape), text_dim, components, min_std
        self.dim = math.prod(z_shape)
        self.sample_noise_shape = (1 + self.dim,)
        self.net = CodeMLP(text_dim, components * (1 + 2 * self.dim), width, hidden, blocks, dropout, text_dropout)
        with torch.no_grad():  # components start apart: equal ones would stay equal
            self.net.leave.weight.mul_(0.1)
            self.net.leave.bias.zero_()
            self.net.leave.bias[components : components * (1 + self.dim)].normal_(std=0.5)

    def parameters_of(self, c: TextCode) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights (B, K), means (B, K, D) and deviations (B, K, D) under each caption."""
        k, dim = self.components, self.dim
        logits, means, raw = self.net(c.pooled).split([k, k * dim, k * dim], dim=1)
        return logits.log_softmax(1), means.view(-1, k, dim), _deviation(raw, self.min_std).view(-1, k, dim)

    def log_prob(self, z: Tensor, c: TextCode) -> Tensor:
        self.check_rows("z", z, self.z_shape, c)
        weights, means, std = self.parameters_of(c)
        return (weights + _log_normal((z.flatten(1)[:, None] - means) / std, std)).logsumexp(1)

    @torch.no_grad()
    def sample(self, c: TextCode, *, noise: Tensor, temperature: float = 1.0) -> Tensor:
        self.check_rows("noise", noise, self.sample_noise_shape, c)
        weights, means, std = self.parameters_of(c)
        if temperature == 0:
            pick = weights.argmax(1)
        else:
            shares = (weights / temperature**2).softmax(1).cumsum(1)
            pick = (shares < torch.special.ndtr(noise[:, :1])).sum(1).clamp(max=self.components - 1)
        rows = torch.arange(len(c), device=noise.device)
        z = means[rows, pick] + std[rows, pick] * noise[:, 1:] * temperature
        return z.view(-1, *self.z_shape)
