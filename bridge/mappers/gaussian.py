"""A Gaussian of each caption: mean and covariance from a perceptron."""

import math

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from bridge.errors import UserError
from bridge.mappers.base import DensityMapper, InvertibleMapper
from bridge.mappers.nets import CodeMLP
from bridge.text import TextCode


class GaussianMapper(DensityMapper, InvertibleMapper):
    """Latents are normal under a caption, with covariance S (I + V V^T) S: S diagonal, V of `rank` columns.

    Noise becomes a latent by the symmetric root of I + V V^T, so that each latent has its own noise; the plain
    way, one noise for S and another for V, has many.

    Args:
        z_shape: Shape of one latent.
        text_dim: Dimension of the text code.
        rank: Columns of V; 0 for a diagonal covariance.
        width: Features of the residual stream.
        hidden: Features inside a block.
        blocks: Residual blocks.
        dropout: Share of the features inside a block dropped in training.
        text_dropout: Share of text features dropped in training.
        min_std: Least value on S's diagonal, without which the likelihood of few pairs has no maximum.

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
        min_std: float = 0.05,
    ) -> None:
        super().__init__()
        if rank < 0 or min_std <= 0:
            raise UserError(f"rank, min_std: expected 0 or more, and more than 0, got {rank} and {min_std}")
        self.z_shape, self.text_dim, self.rank, self.min_std = tuple(z_shape), text_dim, rank, min_std
        self.sample_noise_shape = self.z_shape
        self.dim = math.prod(z_shape)
        out = self.dim * (2 + rank)
        self.net = CodeMLP(text_dim, out, width, hidden, blocks, dropout, text_dropout)
        with torch.no_grad():  # about N(0, 1), what latents are without a caption
            self.net.leave.weight.mul_(0.1)
            nn.init.zeros_(self.net.leave.bias)

    def parameters_of(self, c: TextCode) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (B, D), diagonal of S (B, D) and V (B, D, rank) under each caption, D numbers a latent."""
        mean, raw, columns = self.net(c.pooled).split([self.dim, self.dim, self.dim * self.rank], dim=1)
        std = self.min_std + nn.functional.softplus(raw + math.log(math.expm1(1 - self.min_std)))
        return mean, std, columns.view(len(c), self.dim, self.rank)

    def log_prob(self, z: Tensor, c: TextCode) -> Tensor:
        """See `DensityMapper.log_prob`; exact."""
        self.check_rows("z", z, self.z_shape, c)
        mean, std, v = self.parameters_of(c)
        e = (z.flatten(1) - mean) / std
        value = -(e.square().sum(1) + self.dim * math.log(2 * math.pi)) / 2 - std.log().sum(1)
        if not self.rank:
            return value
        # Woodbury's identity and the determinant lemma: rank x rank instead of D x D
        root = torch.linalg.cholesky(v.mT @ v + torch.eye(self.rank, dtype=v.dtype, device=v.device))
        inner = torch.linalg.solve_triangular(root, v.mT @ e[:, :, None], upper=False)
        return value + inner.square().sum((1, 2)) / 2 - root.diagonal(dim1=1, dim2=2).log().sum(1)

    @torch.no_grad()
    def sample(self, c: TextCode, *, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """See `Mapper.sample`; at temperature 0 the mean."""
        self.check_rows("noise", noise, self.z_shape, c)
        mean, std, v = self.parameters_of(c)
        z = mean + std * _root(v, noise.flatten(1) * temperature, 0.5)
        return z.view_as(noise)

    @torch.no_grad()
    def invert(self, z: Tensor, c: TextCode) -> Tensor:
        """See `InvertibleMapper.invert`; exact."""
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
