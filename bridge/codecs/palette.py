"""A VAE for flat art: the decoder draws a few soft layers, each of one colour that may shade across the picture.

A picture is sum_k m_k(p) (a_k + g_k . p): masks m that sum to one everywhere, and K colours. The first layer is
what lies behind the drawing, so the masks carry transparency, and they can be drawn at any size.
"""

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from bridge.codecs.autoencoders import VAECodec
from bridge.codecs.base import Decoded, Encoded, Posterior
from bridge.errors import UserError

FACTOR = 16  # Side of the pixels under one latent position
SEEN = 1 / 255  # Opacity below which nothing is seen
ENCLOSED = 64  # Side at which it is told what is enclosed, in pixels
WHITE = 0.9  # Darkest channel on white from which on a pixel may be white paint or paper
OPAQUE = 0.25  # Mean opacity from which on what is enclosed and white is opaque
BLEED = 4  # Pixels by which colours go on where nothing is seen
ENCODER_BLOCKS, TRUNK_BLOCKS = 5, 2  # Where the transformer blocks begin in the encoder and in the decoder's trunk
SMALLEST, LARGEST = 64, 1024  # Sides at which layers are drawn, in pixels


@dataclass(frozen=True)
class Layers:
    """What pictures are made of; the first layer is the background."""

    logits: Tensor  # Of the masks, (B, K, h, h)
    colours: Tensor
    """(B, K - 1, 3, 3): for each layer but the first and each of red, green and blue, its value in the middle of the
    picture and its slopes along x and y, from -1 at the left and top to 1."""

    def draw(self, size: int, sharpness: float = 1.0) -> tuple[Tensor, Tensor]:
        """Premultiplied colours (B, 3, size, size) and opacity (B, 1, size, size), in [0, 1] but for rounding.

        `sharpness` multiplies the logits: edges of enlarged masks grow as narrow as they were.
        """
        logits = self.logits
        if logits.shape[-1] != size:
            resize = _resizing(logits.shape[-1], size).to(logits)
            logits = resize @ logits @ resize.T
        masks = (logits * sharpness).softmax(1)[:, 1:]
        at = (torch.arange(size, device=masks.device, dtype=masks.dtype) + 0.5) * 2 / size - 1
        # sum_k m_k (a_k + x g_k + y h_k), as three products over k
        a, g, h = (torch.einsum("bkc,bkij->bcij", self.colours[..., n], masks) for n in range(3))
        return a + g * at + h * at[:, None], masks.sum(1, keepdim=True)


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
        last = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), last)
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


class Attention(nn.Module):
    """A pre-norm transformer block over the positions of a grid, (B, C, h, w)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        last = nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), last)
        for layer in (self.out, last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # Written out: a fused kernel's gradient takes seven times as long in bfloat16 on a CPU, for so few positions.
        shares = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1).to(v)
        mixed = (shares @ v).transpose(1, 2).flatten(2)
        tokens = tokens + self.out(mixed)
        tokens = tokens + self.mlp(tokens)
        return tokens.transpose(1, 2).reshape(x.shape)


class Place(nn.Module):
    """A learned number a channel and position, added."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.randn(1, width, side, side) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.at


class PaletteVAE(ModelMixin, ConfigMixin):
    """Encodes as AutoencoderKL does, decodes to layers; `decode` lays them on white.

    Source: Kingma & Welling 2014, Auto-Encoding Variational Bayes, arXiv:1312.6114; layers of one colour under soft
        masks: Sbai et al. 2020, Unsupervised Image Decomposition in Vector Layers, arXiv:1812.05484
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 128,  # Side of the pictures that it is trained on, a multiple of 16, or UserError
        latent_channels: int = 8,  # Of a latent, whose side is `sample_size` / 16
        widths: tuple[int, int, int] = (192, 128, 48),  # Channels at 1/16, 1/8 and 1/4 of the side
        layers: int = 12,  # The background among them
        heads: int = 6,  # Of attention, at 1/16 of the side
        blocks: int = 2,  # Of a transformer there, in the encoder and in the decoder
        in_channels: int = 3,
        out_channels: int = 3,
        scaling_factor: float = 1.0,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ) -> None:
        super().__init__()
        if sample_size % FACTOR or sample_size < FACTOR:
            raise UserError(f"sample_size: expected a multiple of {FACTOR}, got {sample_size}; resize the pictures")
        side, (coarse, middle, fine) = sample_size // FACTOR, widths
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(8),
            nn.Conv2d(in_channels * 64, middle, 3, padding=1),
            Residual(middle),
            nn.Conv2d(middle, coarse, 3, stride=2, padding=1),
            Place(coarse, side),
            *[Attention(coarse, heads) for _ in range(blocks)],
            nn.GroupNorm(8, coarse),
        )
        self.quant_conv = nn.Conv2d(coarse, 2 * latent_channels, 1)
        self.trunk = nn.Sequential(
            nn.Conv2d(latent_channels, coarse, 3, padding=1),
            Place(coarse, side),
            *[Attention(coarse, heads) for _ in range(blocks)],
            Residual(coarse),
            nn.Conv2d(coarse, 4 * middle, 1),
            nn.PixelShuffle(2),
            Residual(middle),
            Residual(middle),
        )
        self.masks = nn.Sequential(
            nn.Conv2d(middle, 4 * fine, 1),
            nn.PixelShuffle(2),
            Residual(fine),
            nn.GroupNorm(8, fine),
            nn.SiLU(),
            nn.Conv2d(fine, 4 * layers, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.layer = nn.Parameter(torch.randn(layers - 1, middle) * 0.5)
        self.colour = nn.Sequential(nn.Linear(middle, 2 * middle), nn.SiLU(), nn.Linear(2 * middle, 9))

    @torch.no_grad()
    def extend(self, other: "PaletteVAE") -> None:
        """Take over, in place, the weights of a VAE with as many latent channels and blocks or fewer, or UserError.

        What that lacks adds nothing at first: a latent's first channels alone decode as before.
        """
        for name in ("sample_size", "widths", "layers", "heads"):
            has, asked = other.config[name], self.config[name]
            if json.dumps(has) != json.dumps(asked):  # a file's tuples are lists
                raise UserError(f"{name}: cannot extend {has} to {asked}; keep it")
        channels, blocks = int(other.config.latent_channels), int(other.config.blocks)
        if channels > self.config.latent_channels or blocks > self.config.blocks:
            raise UserError(f"latent_channels, blocks: expected at least {channels} and {blocks}; a VAE cannot be cut")
        after = {"encoder": ENCODER_BLOCKS + blocks, "trunk": TRUNK_BLOCKS + blocks}
        state = self.state_dict()
        state["trunk.0.weight"].zero_()
        for name, weight in other.state_dict().items():
            part, number, rest = (*name.split(".", 2), "", "")[:3]
            if part in after and int(number) >= after[part]:
                state[f"{part}.{int(number) + int(self.config.blocks) - blocks}.{rest}"].copy_(weight)
            elif part == "quant_conv":  # means, then log variances
                state[name].unflatten(0, (2, -1))[:, :channels] = weight.unflatten(0, (2, -1))
            elif name == "trunk.0.weight":
                state[name][:, :channels] = weight
            else:
                state[name].copy_(weight)

    def encode(self, x: Tensor) -> Encoded:
        """Posterior of pictures x, (B, 3, H, W) in [-1, 1]; latents are (B, C, H / 16, W / 16)."""
        return Encoded(Posterior(self.quant_conv(self.encoder(x)).float()))

    def layers(self, z: Tensor) -> Layers:
        """Layers of latents z, (B, C, h, w)."""
        features = self.trunk(z)
        logits = self.masks(features).float()
        # What a layer's colour is read from: the features under its mask.
        weights = F.avg_pool2d(logits.softmax(1), logits.shape[-1] // features.shape[-1])[:, 1:].flatten(2)
        pooled = weights @ features.flatten(2).transpose(1, 2).float() / (weights.sum(2, keepdim=True) + 1e-3)
        return Layers(logits, self.colour(pooled + self.layer).float().unflatten(2, (3, 3)))

    def decode(self, z: Tensor) -> Decoded:
        """Pictures (B, 3, H, W), about -1 to 1, of latents z, (B, C, H / 16, W / 16), on white."""
        colour, opacity = self.layers(z).draw(int(self.config.sample_size))
        return Decoded((colour + 1 - opacity) * 2 - 1)


class PaletteCodec(VAECodec):
    """Codec of a `PaletteVAE`: draws at any side from 64 to 1,024 pixels, and with a transparent background."""

    model = PaletteVAE
    draws_opacity = True

    @classmethod
    def factor(cls, config: Mapping[str, Any]) -> int:
        return FACTOR

    def check_render(self, size: int | None, transparent: bool) -> None:
        if size is not None and not (isinstance(size, Integral) and SMALLEST <= size <= LARGEST):
            raise UserError(f"size: this model draws {SMALLEST} to {LARGEST} whole pixels a side, not {size!r}")

    @torch.no_grad()
    def render(self, z: Tensor, size: int | None = None, transparent: bool = False) -> Tensor:
        self.check_render(size, transparent)
        size = self.image_size if size is None else int(size)
        layers = self.layers(z)
        colour, opacity = layers.draw(size, sharpness=max(1.0, math.sqrt(size / self.image_size)))
        if not transparent:
            return (colour + 1 - opacity).clamp(0, 1)
        colour, opacity = _settled(colour, opacity, layers)
        return torch.cat([_straight(colour, opacity).clamp(0, 1), opacity.clamp(0, 1)], 1)

    @torch.no_grad()
    def layers(self, z: Tensor) -> Layers:
        """Layers of standardised latents z, (B, *z_shape)."""
        self.check_latents(z)
        return self.vae.layers(z * self.std + self.mean)


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)  # kept for training too, whoever asks first
def _resizing(before: int, after: int) -> Tensor:
    """Bicubic resizing of a side as a matrix, (after, before): two products take a quarter of F.interpolate's time."""
    identity = torch.eye(before, device="cpu")[None, None]
    return F.interpolate(identity, size=(after, before), mode="bicubic", antialias=after < before)[0, 0]


def _settled(colour: Tensor, opacity: Tensor, layers: Layers) -> tuple[Tensor, Tensor]:
    """Premultiplied colours (B, 3, H, W) and opacity of layers, in which enclosed white is all opaque or all clear.

    Encoders see pictures on white, where nobody can tell a white belly from a hole: there opacity comes out in patches.
    """
    small = layers.draw(ENCLOSED)
    region, share = enclosed(_white(*small)).flatten(1), small[1].flatten(1)
    empty = share.new_zeros(len(share), ENCLOSED**2 + 1)
    total, count = (empty.scatter_add(1, region, each) for each in (share, torch.ones_like(share)))
    opaque = (total / count.clamp(min=1)).gather(1, region) >= OPAQUE
    kind = (region > 0) * (1.0 + opaque)  # 0 is not enclosed, 1 clear, 2 opaque
    white = _white(colour, opacity)
    kind = F.interpolate(kind.view_as(small[1]), opacity.shape[-2:]) * white
    for _ in range(opacity.shape[-1] // ENCLOSED + 1):  # to where the white ends
        kind = F.max_pool2d(kind, 3, 1, 1) * white
    filled = F.max_pool2d((kind == 2).to(opacity), 3, 1, 1)  # and its soft edge
    colour = torch.where(filled > 0, colour + 1 - opacity, colour * (kind != 1))
    return colour, torch.where(filled > 0, filled, opacity * (kind != 1))


def _white(colour: Tensor, opacity: Tensor) -> Tensor:
    """Where premultiplied colours (B, 3, H, W) are white on white, (B, 1, H, W)."""
    return (colour + 1 - opacity).amin(1, keepdim=True) > WHITE


def enclosed(mask: Tensor) -> Tensor:
    """A number for each region of a mask, all (B, 1, H, W), from 1 to H * W; 0 elsewhere, and if it meets the edge."""
    edge = mask[0].numel() + 1
    inside = F.pad(mask.float(), (1, 1, 1, 1), value=1.0)
    number = torch.arange(1.0, edge, device=mask.device).view_as(mask[:1]) * mask
    number, before = F.pad(number, (1, 1, 1, 1), value=float(edge)), inside
    while not torch.equal(number, before):  # the greatest number of a region spreads from pixel to pixel
        across, down = F.max_pool2d(number, (1, 3), 1, (0, 1)), F.max_pool2d(number, (3, 1), 1, (1, 0))
        number, before = torch.maximum(across, down) * inside, number
    region = number[..., 1:-1, 1:-1].long()
    return region * (region < edge)


def _straight(colour: Tensor, opacity: Tensor) -> Tensor:
    """Colours (B, 3, H, W) no longer multiplied with opacity; where nothing is seen, those of what is seen nearby.

    Programs that scale a picture mix in the colours of unseen pixels: black or white there would become a fringe.
    """
    seen = opacity > SEEN
    colour, weight = colour * seen, opacity * seen
    straight = colour / weight.clamp(min=SEEN)
    for _ in range(BLEED):
        colour, weight = (F.avg_pool2d(x, 3, 1, 1) for x in (colour, weight))
        straight = torch.where(seen, straight, colour / weight.clamp(min=1e-6))
        seen = seen | (weight > 1e-6)
    return straight
