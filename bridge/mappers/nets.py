"""Conditional backbones shared by the mapping families."""

import math

import torch
from torch import Tensor, nn


def time_features(t: Tensor, dim: int) -> Tensor:
    """Sines and cosines of times t (B,) in [0, 1] at `dim / 2` log-spaced frequencies, (B, dim).

    Source: Vaswani et al. 2017, Attention Is All You Need, arXiv:1706.03762
    """
    frequencies = torch.exp(torch.linspace(0, math.log(1000.0), dim // 2, device=t.device))
    angles = t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class ModulatedBlock(nn.Module):
    """Residual two-layer perceptron, its normalised input scaled and shifted by a condition.

    Args:
        width: Features in and out.
        hidden: Features between.
        condition: Dimension of the condition.
        dropout: Share of the features between dropped in training.

    Source: Peebles & Xie 2023, Scalable Diffusion Models with Transformers, arXiv:2212.09748 (adaLN-Zero)
    """

    def __init__(self, width: int, hidden: int, condition: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(condition, 3 * width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """h (B, width), condition (B, condition) -> (B, width)."""
        scale, shift, gate = self.modulation(condition).chunk(3, dim=1)
        inner = nn.functional.silu(self.up(self.norm(h) * (1 + scale) + shift))
        return h + gate * self.down(self.dropout(inner))


class ModulatedMLP(nn.Module):
    """Residual perceptron on flat vectors, modulated by time and text code.

    Args:
        dim: Dimension in.
        out: Dimension out.
        text_dim: Dimension of the text code; the zero code is "no caption".
        width: Features of the residual stream.
        hidden: Features inside a block.
        blocks: How many blocks.
        condition: Dimension of the joint condition.
        dropout: Share of the features inside a block dropped in training.
        text_dropout: Share of text features dropped in training.
    """

    def __init__(
        self,
        dim: int,
        out: int,
        text_dim: int,
        width: int,
        hidden: int,
        blocks: int,
        condition: int,
        dropout: float,
        text_dropout: float,
    ) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(dim, width), nn.Linear(width, out)
        self.time = nn.Sequential(nn.Linear(condition, condition), nn.SiLU(), nn.Linear(condition, condition))
        self.text = nn.Sequential(
            nn.Dropout(text_dropout), nn.Linear(text_dim, condition), nn.SiLU(), nn.Linear(condition, condition)
        )
        self.blocks = nn.ModuleList(ModulatedBlock(width, hidden, condition, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.text_scale = math.sqrt(text_dim)
        self.condition = condition
        nn.init.zeros_(self.leave.weight)

    def forward(self, z: Tensor, t: Tensor, code: Tensor) -> Tensor:
        """z (B, dim), t (B,), code (B, text_dim) of unit norm or zero -> (B, out)."""
        condition = self.time(time_features(t, self.condition)) + self.text(code * self.text_scale)
        condition = nn.functional.silu(condition)
        h = self.enter(z)
        for block in self.blocks:
            h = block(h, condition)
        return self.leave(self.norm(h))


class CodeBlock(nn.Module):
    """Residual two-layer perceptron on normalised features.

    Args:
        width: Features in and out.
        hidden: Features between.
        dropout: Share of the features between dropped in training.
    """

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        """(B, width) -> (B, width)."""
        return h + self.down(self.dropout(nn.functional.silu(self.up(self.norm(h)))))


class CodeMLP(nn.Module):
    """Residual perceptron that reads a text code alone.

    Args:
        text_dim: Dimension of the text code; the zero code is "no caption".
        out: Features out.
        width: Features of the residual stream.
        hidden: Features inside a block.
        blocks: How many blocks.
        dropout: Share of the features inside a block dropped in training.
        text_dropout: Share of text features dropped in training.
    """

    def __init__(
        self, text_dim: int, out: int, width: int, hidden: int, blocks: int, dropout: float, text_dropout: float
    ) -> None:
        super().__init__()
        self.dropout, self.enter = nn.Dropout(text_dropout), nn.Linear(text_dim, width)
        self.blocks = nn.ModuleList(CodeBlock(width, hidden, dropout) for _ in range(blocks))
        self.norm, self.leave = nn.LayerNorm(width), nn.Linear(width, out)
        self.text_scale = math.sqrt(text_dim)

    def forward(self, code: Tensor) -> Tensor:
        """code (B, text_dim) of unit norm or zero -> (B, out)."""
        h = self.enter(self.dropout(code * self.text_scale))
        for block in self.blocks:
            h = block(h)
        out: Tensor = self.leave(self.norm(h))
        return out
