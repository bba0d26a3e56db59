"""Conditional backbones shared by the mapping families.

Text codes are (B, text_dim), of unit norm, or zero for "no caption". Settings are named as in `bridge.mappers.Mapper`;
`condition` is the dimension of what modulates a network.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def time_features(t: Tensor, dim: int) -> Tensor:
    """Sines and cosines of times t (B,) in [0, 1] at `dim / 2` log-spaced frequencies, (B, dim).

    Source: Vaswani et al. 2017, Attention Is All You Need, arXiv:1706.03762
    """
    frequencies = torch.exp(torch.linspace(0, math.log(1000.0), dim // 2, device=t.device))
    angles = t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def perceptron(dim: int, out: int, dropout: float | None = None) -> nn.Sequential:
    """Two layers, (B, dim) -> (B, out), with dropout in front where it is given."""
    layers = nn.Linear(dim, out), nn.SiLU(), nn.Linear(out, out)
    return nn.Sequential(*layers) if dropout is None else nn.Sequential(nn.Dropout(dropout), *layers)


class Block(nn.Module):
    """Residual two-layer perceptron on normalised features, (B, width); a condition scales, shifts and gates it.

    Source: Peebles & Xie 2023, Scalable Diffusion Models with Transformers, arXiv:2212.09748 (adaLN-Zero)
    """

    def __init__(self, width: int, hidden: int, dropout: float, condition: int = 0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=not condition)
        if condition:
            self.modulation = nn.Linear(condition, 3 * width)
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, condition: Tensor | None = None) -> Tensor:
        inner, gate = self.norm(h), 1.0
        if condition is not None:
            scale, shift, gate = self.modulation(condition).chunk(3, dim=1)
            inner = inner * (1 + scale) + shift
        return h + gate * self.down(self.dropout(F.silu(self.up(inner))))


class ModulatedMLP(nn.Module):
    """Residual perceptron on flat vectors, (B, dim) -> (B, out), modulated by times (B,) and text codes."""

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
        self.time = perceptron(condition, condition)
        self.text = perceptron(text_dim, condition, text_dropout)
        self.blocks = nn.ModuleList(Block(width, hidden, dropout, condition) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.text_scale, self.condition = math.sqrt(text_dim), condition
        nn.init.zeros_(self.leave.weight)

    def forward(self, z: Tensor, t: Tensor, code: Tensor) -> Tensor:
        condition = F.silu(self.time(time_features(t, self.condition)) + self.text(code * self.text_scale))
        h = self.enter(z)
        for block in self.blocks:
            h = block(h, condition)
        return self.leave(self.norm(h))


class CodeMLP(nn.Module):
    """Residual perceptron that reads a text code alone, (B, text_dim) -> (B, out)."""

    def __init__(
        self, text_dim: int, out: int, width: int, hidden: int, blocks: int, dropout: float, text_dropout: float
    ) -> None:
        super().__init__()
        self.dropout, self.enter = nn.Dropout(text_dropout), nn.Linear(text_dim, width)
        self.blocks = nn.Sequential(*(Block(width, hidden, dropout) for _ in range(blocks)))
        self.norm, self.leave = nn.LayerNorm(width), nn.Linear(width, out)
        self.text_scale = math.sqrt(text_dim)

    def forward(self, code: Tensor) -> Tensor:
        return self.leave(self.norm(self.blocks(self.enter(self.dropout(code * self.text_scale)))))


class TokenBlock(nn.Module):
    """Self-attention, attention to the caption, and a perceptron; the first and last modulated by a condition."""

    def __init__(self, width: int, heads: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 6 * width)
        self.own, self.caption = Attention(width, heads), Attention(width, heads)
        self.up, self.down = nn.Linear(width, expansion * width), nn.Linear(expansion * width, width)
        self.dropout = nn.Dropout(dropout)
        for zero in (self.modulation, self.caption.leave):
            nn.init.zeros_(zero.weight)
            nn.init.zeros_(zero.bias)

    def forward(self, h: Tensor, condition: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """h (B, N, width), condition (B, width), states (B, S, width), mask (B, S) bool -> (B, N, width)."""
        scale, shift, gate, scale2, shift2, gate2 = self.modulation(condition)[:, None].chunk(6, dim=2)
        inner = self.norm(h) * (1 + scale) + shift
        h = h + gate * self.own(inner, inner, None)
        h = h + self.caption(self.norm(h), states, mask)
        inner = F.silu(self.up(self.norm(h) * (1 + scale2) + shift2))
        return h + gate2 * self.down(self.dropout(inner))


class Attention(nn.Module):
    """Multi-head attention of tokens to states. Keys have no bias: it would change nothing."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.value, self.leave = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, tokens: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
        """tokens (B, N, width), states (B, S, width), mask (B, S), True where a state is -> (B, N, width)."""
        sources = ((self.query, tokens), (self.key, states), (self.value, states))
        q, k, v = (linear(rows).unflatten(2, (self.heads, -1)).transpose(1, 2) for linear, rows in sources)
        scores = q @ k.mT / math.sqrt(q.shape[3])
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
        return self.leave((scores.softmax(3) @ v).transpose(1, 2).flatten(2))
