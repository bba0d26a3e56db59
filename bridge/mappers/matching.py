"""Conditional flow matching: noise to latents along straight paths, the clean latent predicted by a network."""

import math

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from bridge.errors import UserError
from bridge.mappers.base import CleanMapper
from bridge.mappers.nets import ModulatedMLP, TokenBlock, perceptron, time_features
from bridge.text import TextCode


class FlowMatchingMapper(CleanMapper):
    """Flow matching on flattened latents, by a perceptron modulated by time and text; see `Mapper`, `CleanMapper`."""

    @register_to_config
    def __init__(
        self,
        z_shape: tuple[int, ...],
        text_dim: int,
        width: int = 512,
        hidden: int = 1024,
        blocks: int = 6,
        condition: int = 256,  # Dimension of what modulates it
        dropout: float = 0.0,
        text_dropout: float = 0.0,
        time_mean: float = 0.0,
        inputs: int = 1,  # Latents that the network reads: one, or also those that `LocalFlowMapper` has it correct
    ) -> None:
        super().__init__()
        self.z_shape, self.text_dim, self.time_mean = tuple(z_shape), text_dim, time_mean
        dim = math.prod(z_shape)
        self.sample_noise_shape, self.loss_noise_shape = self.z_shape, (dim + 1,)
        self.net = ModulatedMLP(inputs * dim, dim, text_dim, width, hidden, blocks, condition, dropout, text_dropout)

    def clean(self, z_t: Tensor, t: Tensor, c: TextCode, *more: Tensor) -> Tensor:
        """See `CleanMapper.clean`; `more` are the `inputs` beyond z_t, each (B, *z_shape)."""
        return self.net(torch.cat([z.flatten(1) for z in (z_t, *more)], 1), t, c.pooled).view_as(z_t)


class TransformerFlowMapper(CleanMapper):
    """Flow matching with a transformer over latent tokens, one a piece of the latent, that attend to the caption's.

    They also attend to the pooled code. Caption tokens are padded to `max_tokens` always, so that no caption's length
    changes another's rounding; longer captions lose their last ones. Raises UserError if the latents cannot be cut into
    such pieces, or the width into such heads.

    Source: Chen et al. 2023, PixArt-alpha, arXiv:2310.00426 (caption by cross-attention); Peebles & Xie 2023,
        Scalable Diffusion Models with Transformers, arXiv:2212.09748 (adaLN-Zero)
    """

    @register_to_config
    def __init__(
        self,
        z_shape: tuple[int, ...],
        text_dim: int,
        patch: int = 2,  # Side of the squares that latents (C, H, W) are cut into, or length of the runs of (D,)
        width: int = 256,
        heads: int = 4,  # Of attention
        blocks: int = 6,
        expansion: int = 4,  # Features inside a block's perceptron, in widths
        max_tokens: int = 16,
        dropout: float = 0.0,
        text_dropout: float = 0.0,
        time_mean: float = 0.0,
        inputs: int = 1,  # See `FlowMatchingMapper`
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
        self.time = perceptron(width, width)
        self.pooled = perceptron(text_dim, width, text_dropout)
        self.words, self.drop = nn.Linear(text_dim, width), nn.Dropout(text_dropout)
        self.layers = nn.ModuleList(TokenBlock(width, heads, expansion, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        nn.init.zeros_(self.leave.weight)

    def clean(self, z_t: Tensor, t: Tensor, c: TextCode, *more: Tensor) -> Tensor:
        """See `FlowMatchingMapper.clean`."""
        states, mask = caption_states(c, self.max_tokens)
        states = self.words(self.drop(states))
        condition = F.silu(self.time(time_features(t, self.place.shape[1])) + self.pooled(c.pooled * self.text_scale))
        h = self.enter(torch.cat([self.cut(z) for z in (z_t, *more)], 2)) + self.place
        for layer in self.layers:
            h = layer(h, condition, states, mask)
        return self.join(self.leave(self.norm(h)))

    def cut(self, z: Tensor) -> Tensor:
        """Latents (B, *z_shape) as tokens (B, N, numbers of a piece)."""
        if len(self.z_shape) == 1:
            return z.unflatten(1, (-1, self.patch))
        return F.pixel_unshuffle(z, self.patch).flatten(2).mT

    def join(self, tokens: Tensor) -> Tensor:
        """The inverse of `cut`."""
        if len(self.z_shape) == 1:
            return tokens.flatten(1)
        return F.pixel_shuffle(tokens.mT.unflatten(2, (self.z_shape[1] // self.patch, -1)), self.patch)


def caption_states(c: TextCode, length: int) -> tuple[Tensor, Tensor]:
    """What attention reads: the pooled code at unit variance, then `length` tokens, cut or padded.

    States (B, 1 + length, D), one zero state for a null code, and a mask (B, 1 + length) bool, True where there is
    something to read.
    """
    kept = TextCode(c.pooled, c.tokens[:, :length], c.mask[:, :length]).padded(length)
    pooled = c.pooled[:, None] * math.sqrt(c.pooled.shape[1])
    return torch.cat([pooled, kept.tokens], dim=1), F.pad(kept.mask, (1, 0), value=True)
