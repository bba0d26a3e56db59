"""Conditional flow matching by a transformer that reads the caption's tokens."""

import math
from collections.abc import Sequence

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from bridge.errors import UserError
from bridge.mappers.base import CleanMapper
from bridge.mappers.nets import time_features
from bridge.text import TextCode


class TransformerFlowMapper(CleanMapper):
    """Flow matching with a transformer over latent tokens that attend to the caption's.

    Latents of shape (C, H, W) are cut into squares, those of shape (D,) into runs of numbers; each piece is a
    token. They attend to the pooled code and to `max_tokens` caption tokens, always padded to that many, so that
    no caption's length changes another's rounding.

    Args:
        z_shape: Shape of one latent, (C, H, W) or (D,).
        text_dim: Dimension of the text code.
        patch: Side of a square, or length of a run; a divisor of H and W, or of D.
        width: Features of a token.
        heads: Attention heads; a divisor of `width`.
        blocks: Transformer blocks.
        expansion: Features inside a block's perceptron, in widths.
        max_tokens: Caption tokens that are read; longer captions lose their last ones, never the pooled code.
        dropout: Share of the features inside a block's perceptron dropped in training.
        text_dropout: Share of text features dropped in training.
        time_mean: Training times are sigmoid(time_mean + u), u standard normal.
        inputs: Latents that `predict` reads side by side, as `LocalFlowMapper` has a network read.

    Raises:
        ValueError: The latents cannot be cut into such pieces, or the width into such heads.

    Source: Chen et al. 2023, PixArt-alpha, arXiv:2310.00426 (caption by cross-attention); Peebles & Xie 2023,
        Scalable Diffusion Models with Transformers, arXiv:2212.09748 (adaLN-Zero)
    """

    reads_tokens = True

    @register_to_config
    def __init__(
        self,
        z_shape: tuple[int, ...],
        text_dim: int,
        patch: int = 2,
        width: int = 256,
        heads: int = 4,
        blocks: int = 6,
        expansion: int = 4,
        max_tokens: int = 16,
        dropout: float = 0.0,
        text_dropout: float = 0.0,
        time_mean: float = 0.0,
        inputs: int = 1,
    ) -> None:
        super().__init__()
        shape = tuple(z_shape)
        if len(shape) not in (1, 3) or patch < 1 or any(side % patch for side in shape[-2:]):
            raise UserError(
                f"z_shape, patch: latents {shape} cannot be cut into pieces of {patch}; latents are (C, H, W) or "
                "(D,), and patch divides H and W, or D"
            )
        if width % (2 * heads):
            raise UserError(f"width, heads: expected an even number of features a head, got {width} and {heads}")
        self.z_shape, self.text_dim, self.time_mean = shape, text_dim, time_mean
        self.patch, self.max_tokens, self.text_scale = patch, max_tokens, math.sqrt(text_dim)
        self.sample_noise_shape, self.loss_noise_shape = shape, (math.prod(shape) + 1,)
        self.reads_tokens = max_tokens > 0
        size = patch if len(shape) == 1 else shape[0] * patch**2
        self.enter, self.leave = nn.Linear(inputs * size, width), nn.Linear(width, size)
        self.place = nn.Parameter(torch.randn(math.prod(shape) // size, width) * 0.02)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.pooled = nn.Sequential(
            nn.Dropout(text_dropout), nn.Linear(text_dim, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.words, self.drop = nn.Linear(text_dim, width), nn.Dropout(text_dropout)
        self.layers = nn.ModuleList(TokenBlock(width, heads, expansion, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        nn.init.zeros_(self.leave.weight)

    def clean(self, z_t: Tensor, t: Tensor, c: TextCode) -> Tensor:
        """Expected clean latent given z_t (B, *z_shape), times t (B,) and codes with tokens, (B, *z_shape)."""
        return self.predict([z_t], t, c)

    def predict(self, seen: Sequence[Tensor], t: Tensor, c: TextCode) -> Tensor:
        """What the network makes of `inputs` latents, each (B, *z_shape), times t (B,) and codes, (B, *z_shape)."""
        states, mask = caption_states(c, self.max_tokens)
        states = self.words(self.drop(states))
        condition = self.time(time_features(t, self.place.shape[1])) + self.pooled(c.pooled * self.text_scale)
        condition = nn.functional.silu(condition)
        h = self.enter(torch.cat([self.cut(z) for z in seen], 2)) + self.place
        for layer in self.layers:
            h = layer(h, condition, states, mask)
        return self.join(self.leave(self.norm(h)))

    def cut(self, z: Tensor) -> Tensor:
        """Latents (B, *z_shape) as tokens (B, N, numbers of a piece)."""
        if len(self.z_shape) == 1:
            return z.unflatten(1, (-1, self.patch))
        pieces = z.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))  # B C h p w q
        return pieces.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def join(self, tokens: Tensor) -> Tensor:
        """The inverse of `cut`."""
        if len(self.z_shape) == 1:
            return tokens.flatten(1)
        channels, height, width = self.z_shape
        pieces = tokens.unflatten(2, (channels, self.patch, self.patch))
        pieces = pieces.unflatten(1, (height // self.patch, width // self.patch))  # B h w C p q
        return pieces.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, height, width)


class TokenBlock(nn.Module):
    """Self-attention, attention to the caption, and a perceptron; the first and last modulated by a condition.

    Args:
        width: Features of a token.
        heads: Attention heads.
        expansion: Features inside the perceptron, in widths.
        dropout: Share of the features inside the perceptron dropped in training.
    """

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
        inner = nn.functional.silu(self.up(self.norm(h) * (1 + scale2) + shift2))
        return h + gate2 * self.down(self.dropout(inner))


class Attention(nn.Module):
    """Multi-head attention of tokens to states. Keys have no bias: it would change nothing.

    Args:
        width: Features of tokens and states.
        heads: Attention heads.
    """

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
        out: Tensor = self.leave((scores.softmax(3) @ v).transpose(1, 2).flatten(2))
        return out


def caption_states(c: TextCode, length: int) -> tuple[Tensor, Tensor]:
    """What attention reads: the pooled code at unit variance, then `length` tokens, cut or padded.

    Args:
        c: Codes of B captions; a null code is one zero state.
        length: Tokens.

    Returns:
        States (B, 1 + length, D) and mask (B, 1 + length) bool, True where there is something to read.
    """
    missing = max(length - c.mask.shape[1], 0)
    tokens = nn.functional.pad(c.tokens[:, :length], (0, 0, 0, missing))
    first = torch.ones(len(c), 1, dtype=torch.bool, device=c.mask.device)
    mask = torch.cat([first, nn.functional.pad(c.mask[:, :length], (0, missing))], dim=1)
    pooled = c.pooled[:, None] * math.sqrt(c.pooled.shape[1])
    return torch.cat([pooled, tokens], dim=1), mask
