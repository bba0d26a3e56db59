"""Train the image side alone: a VAE, or a plain autoencoder. Where the file has a `kind` of pca, whiten or diffusers,
an image space is fitted without gradients in its place.

From pictures of your own, with nothing to configure: python -m train FOLDER --codec-alone
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from diffusers import AutoencoderKL
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn import functional as F

from bridge.checkpoint import check_replaceable
from bridge.codecs import CONFIG, VAECodec, load_codec
from bridge.codecs.dense import DenseCodec, DenseVAE
from bridge.codecs.palette import PaletteCodec, PaletteVAE
from bridge.images import contact_sheet, save_png, to_pil
from bridge.noise import generator_for, normal_rows
from train.checkpoint import fingerprint_of
from train.codec import CodecConfig, channel_statistics, fit
from train.config import ConfigError, check, named, run_config
from train.data.dataset import EpochRows, at_once, load_dataset, opacity_of, pixels_of, rows_of, to_unit
from train.loop import Loop
from train.perceptual import Discriminator, PerceptualDistance, distance
from train.schedule import Budget, LoopConfig

AnyVAE: TypeAlias = AutoencoderKL | DenseVAE | PaletteVAE
SHAPE = ("block_out_channels", "latent_channels", "norm_num_groups", "units", "sample_size", "widths")
"""Settings that a VAE to start from must share; of layers, see `PaletteVAE.extend`."""
LATER = {"layers", "blocks", "crop", "gradient", "entropy", "opacity", "recolour", "shift", "zoom", "adversarial"}
LATER |= {"total_correlation", "decoder_alone", "noise", "splits"}
"""Settings that older runs did not have: no part of a run's identity at their defaults, so that those resume."""


@dataclass(frozen=True)
class VAEConfig:
    """What to train and on what."""

    data: Path  # Folder of a dataset; validated on its "validation" rows
    out: Path  # Run folder; the VAE ends in `out/vae`
    loop: LoopConfig  # How to train
    splits: tuple[str, ...] = ("train",)  # Whose rows are trained on
    widths: tuple[int, ...] = (16, 32, 64, 128)  # Channels of each resolution, finest first; each halves the side
    latent_channels: int = 4  # Channels of a latent
    # Width of a dense layer between convolutions and latents, so that a latent has no place in the picture
    # (`DenseVAE`; each of `widths` then halves the side). 0 is AutoencoderKL, all convolutions.
    units: int = 0
    layers: int = 0  # Layers that a picture is drawn in (`PaletteVAE`, with three `widths`); 0 is a decoder to pixels
    blocks: int = 2  # Transformer blocks of a VAE of layers, in its encoder and in its decoder
    groups: int = 4  # Groups of the group normalisation; few of them, so that colour and contrast survive
    mse: float = 2.0  # Weight of the squared error beside the absolute error's 1
    perceptual: float = 0.1  # Weight of the perceptual distance
    crop: int = 0  # Side of the square, at a random place, on which that distance is taken; 0 takes all of a picture
    # Weight of deceiving a discriminator on the perceptual distance's features (Larsen et al. 2016, arXiv:1512.09300)
    adversarial: float = 0.0
    gradient: float = 0.0  # Weight of the absolute error of differences between neighbouring pixels
    entropy: float = 0.0  # Weight of the masks' mean entropy in nats, which makes layers clear-cut
    opacity: float = 0.0  # Weight of the absolute error of the opacity, where a picture has a transparent part
    kl: float = 3e-4  # Weight of the mean KL divergence a latent dimension, in nats; 0 trains a plain autoencoder
    # Weight of the latents' total correlation a dimension, in nats, beside its share in the KL (beta-TCVAE, whose beta
    # is 1 + total_correlation / kl), estimated within a batch: `accumulate` and processes make it coarser
    total_correlation: float = 0.0
    decoder_alone: bool = False  # Whether the encoder stays that of `init`, so that latents mean what they did
    noise: float = 1.0  # Factor on the posterior's noise, 0 to 1; with less, a decoder learns to draw means
    flip: bool = True  # Whether half of the pictures are mirrored
    recolour: float = 0.0  # Share of the pictures whose red, green and blue are exchanged at random
    shift: int = 0  # Most pixels by which half of the pictures are moved along each side, white coming in
    zoom: float = 1.0  # Most by which those are also enlarged or reduced, at random, as a factor; below 1, only reduced
    more: str = ""  # Folder of a second dataset, for more pictures than `data` has; empty for none
    more_share: float = 0.3  # Share of an epoch's pictures that come from `more`
    family_power: float = 0.5  # Pictures are drawn in proportion to (size of their family) ** -family_power
    # Folder of a VAE to start from; empty starts from nothing. One of layers is extended where this config asks for
    # more latent channels or blocks.
    init: str = ""
    sheet_rows: int = 4  # Rows of a sheet of held-out pictures and their reconstructions; 0 writes none

    def __post_init__(self) -> None:
        check(self, "more_share", "a share between 0 and 1", lambda share: 0 < share < 1)
        check(self, "kl total_correlation", "0 or more", lambda weight: 0 <= weight < math.inf)
        check(self, "noise", "a factor from 0 to 1", lambda factor: 0 <= factor <= 1)
        check(self, "shift", "0 or more pixels", lambda pixels: pixels >= 0)
        check(self, "zoom", "a factor from .25 to 4", lambda factor: 0.25 <= factor <= 4)
        if self.total_correlation and not (self.kl and self.loop.batch_size // self.loop.accumulate > 1):
            raise ConfigError("total_correlation: needs a posterior and a batch; give a kl above 0, a batch_size of 2")
        if self.layers and (self.layers < 2 or len(self.widths) != 3):
            raise ConfigError(f"layers: expected 2 or more, and three widths, got {self.layers} and {self.widths}")
        if not self.layers and (self.entropy or self.opacity):
            raise ConfigError("entropy, opacity: are losses of layers; set `layers`, or leave them out")
        if self.adversarial and not self.perceptual:
            raise ConfigError("adversarial: judges by the perceptual distance's features; set `perceptual` above 0")
        if self.decoder_alone and not self.init:
            raise ConfigError("decoder_alone: needs an encoder; name a folder with a VAE as `init`")
        if self.zoom != 1 and not self.shift:
            raise ConfigError("zoom: scales the pictures that `shift` moves; set `shift` above 0")


def codec_class(config: VAEConfig) -> type[VAECodec]:
    """What the VAE is used through."""
    if config.layers:
        return PaletteCodec
    return DenseCodec if config.units else VAECodec


def build_vae(config: VAEConfig, size: int) -> AnyVAE:
    """A new VAE of the config's kind for pictures of `size` pixels. ConfigError if its `widths` do not fit them."""
    try:
        if config.layers:
            coarse, middle, fine = config.widths
            return PaletteVAE(size, config.latent_channels, (coarse, middle, fine), config.layers, blocks=config.blocks)
        if config.units:
            return DenseVAE(config.widths, config.units, config.latent_channels, size)
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(config.widths),
            up_block_types=("UpDecoderBlock2D",) * len(config.widths),
            block_out_channels=config.widths,
            latent_channels=config.latent_channels,
            norm_num_groups=config.groups,
            sample_size=size,
            scaling_factor=1.0,
        )
    except (ValueError, ArithmeticError, LookupError, RuntimeError) as error:
        raise ConfigError(f"widths: {str(error).splitlines()[0].removeprefix('widths: ')}") from error


def first_vae(config: VAEConfig, size: int) -> AnyVAE:
    """That of `config.init`, or a new one. ConfigError if `init` holds no VAE, or one of another shape."""
    new = build_vae(config, size)
    if not config.init:
        return new
    if not (Path(config.init) / CONFIG).exists():
        raise ConfigError(f"init: {config.init} holds no VAE; name the `vae` folder of a finished run")
    codec = load_codec(Path(config.init))
    if type(codec) is not codec_class(config):
        raise ConfigError(f"init: {config.init} is a {type(codec).__name__}, this config trains a {type(new).__name__}")
    if isinstance(new, PaletteVAE):
        with named(f"init: {config.init}"):
            new.extend(codec.vae)
        return new
    for name in SHAPE:
        has, asked = (json.dumps(v.config.get(name)) for v in (codec.vae, new))
        if has != asked:
            raise ConfigError(f"init: {config.init} has {name} {has}, this config asks for {asked}")
    return codec.vae.requires_grad_(True).train()


class VAEObjective(nn.Module):
    """Reconstruction, perceptual distance and KL of a VAE, per example; of a plain autoencoder at kl 0.

    `pictures` is how many are trained on, for the total correlation alone; if fewer than a batch, a batch is all.

    Source: Kingma & Welling 2014, arXiv:1312.6114; Rombach et al. 2022, arXiv:2112.10752; with a weight of the KL
        Higgins et al. 2017, beta-VAE; of the total correlation Chen et al. 2018, arXiv:1802.04942; with neither Hinton
        & Salakhutdinov 2006, Reducing the Dimensionality of Data with Neural Networks
    """

    def __init__(self, vae: AnyVAE, config: VAEConfig, pictures: int = 0) -> None:
        super().__init__()
        self.vae, self.config, self.pictures = vae, config, pictures
        self.distance = PerceptualDistance() if config.perceptual else None
        self.discriminator = Discriminator() if config.adversarial else None

    def forward(self, x: Tensor, eps: Tensor, opacity: Tensor | None = None) -> dict[str, Tensor]:
        """Losses, each (B,), of pictures x (B, 3, H, W) in [0, 1] on white, under posterior noise eps (B, *z_shape).

        "loss" is the sum of the others, weighted by the config. At kl 0 there is no posterior and `eps` counts for
        nothing. `opacity`, (B, 1, H, W) in [0, 1], is for a VAE of layers; 1 everywhere where nobody knows it.
        """
        config, posterior = self.config, self.vae.encode(x * 2 - 1).latent_dist
        z = posterior.mean + config.noise * posterior.std * eps if config.kl else posterior.mean
        y, of_layers = self.decoded(z, opacity)
        error = y - x
        parts = {"l1": error.abs().mean((1, 2, 3)), "mse": error.square().mean((1, 2, 3))} | of_layers
        if config.gradient:
            across, down = (error.diff(dim=d).abs().mean((1, 2, 3)) for d in (3, 2))
            parts["gradient"] = (across + down) / 2
        if config.kl:
            parts["kl"] = posterior.kl().float() / eps[0].numel()
        if config.total_correlation:
            latents, mean, logvar = (p.float().flatten(1) for p in (z, posterior.mean, posterior.logvar))
            whole = total_correlation(latents, mean, logvar, max(self.pictures, len(x)))
            parts["total_correlation"] = whole / latents.shape[1]
        if self.distance is not None:
            real, drawn = (self.distance.features(p) for p in self.cropped(x, y))
            parts["perceptual"] = distance(real, drawn)
            if self.discriminator is not None:
                parts["adversarial"], parts["discriminator"] = self.discriminator.losses(real, drawn)
        weighted = (getattr(config, name, 1.0) * part for name, part in parts.items())  # 1 where the config has none
        return {"loss": sum(weighted, start=x.new_zeros(len(x)))} | parts

    def decoded(self, z: Tensor, opacity: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Pictures (B, 3, H, W) of latents, and the losses of layers, each (B,)."""
        if not isinstance(self.vae, PaletteVAE):
            return self.vae.decode(z).sample.float() / 2 + 0.5, {}
        layers = self.vae.layers(z)
        colour, drawn = layers.draw(int(self.vae.config.sample_size))
        log_masks = layers.logits.log_softmax(1)
        parts = {"entropy": -(log_masks.exp() * log_masks).sum(1).mean((1, 2))}
        if opacity is not None:
            known = (opacity.amin((1, 2, 3)) < 1).float()
            parts["opacity"] = known * (drawn - opacity).abs().mean((1, 2, 3))
        return colour + 1 - drawn, parts

    def cropped(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The same square of both, at a place that torch's generator chooses."""
        side = self.config.crop
        if not 0 < side < x.shape[-1]:
            return x, y
        top, left = torch.randint(x.shape[-1] - side + 1, (2,)).tolist()
        square = ..., slice(top, top + side), slice(left, left + side)
        return x[square], y[square]


def total_correlation(z: Tensor, mean: Tensor, logvar: Tensor, pictures: int) -> Tensor:
    """log q(z) - sum_j log q(z_j) in nats, (B,); its mean estimates the total correlation of the latents.

    z (B, L) holds one latent from the posterior of each of B >= 2 pictures, with its `mean` and `logvar`, (B, L). q is
    the mixture of the posteriors of all N >= B `pictures`. The batch stands for it: a picture's own posterior weighs
    1 / N, and the B - 1 others share the rest, which makes q(z) unbiased.

    Source: Chen et al. 2018, Isolating Sources of Disentanglement in VAEs, arXiv:1802.04942, stratified sampling
        (there one other picture, in place of all alike, makes up for the share of what is left out)
    """
    batch = len(z)
    error = (z[:, None] - mean).square() * (-logvar).exp()
    log_density = -0.5 * (error + logvar + math.log(2 * math.pi))  # of latent i under posterior j, a dimension
    own = torch.eye(batch, dtype=torch.bool, device=z.device)
    log_share = torch.full((batch, batch), math.log((pictures - 1) / (pictures * (batch - 1)))).to(z)
    log_share = log_share.masked_fill(own, -math.log(pictures))
    joint = (log_density.sum(2) + log_share).logsumexp(1)
    return joint - (log_density + log_share[..., None]).logsumexp(1).sum(1)


def make_deterministic(vae: AnyVAE) -> None:
    """Give every posterior the smallest deviation of diffusers, e^-15, in place: sampling then changes no latent."""
    channels, last = vae.config.latent_channels, vae.quant_conv
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    with torch.no_grad():
        last.weight[channels:] = 0
        last.bias[channels:] = -30


class VAETraining:
    """Everything a VAE run needs around the loop."""

    def __init__(self, config: VAEConfig, budget: Budget | None = None) -> None:
        self.config = config
        dataset = load_dataset(config.data)
        rows = rows_of(dataset, *config.splits)
        self.pixels = pixels_of(rows)
        self.size = int(self.pixels.shape[-1])  # Side of the pictures, in pixels
        self.opacity = opacity_of(rows) if config.opacity else None
        self.epoch_rows = EpochRows(torch.tensor(rows["family"]), config.family_power)
        self.more = self.load_more()
        share = config.more_share if len(self.more) else 0.0
        self.extra = round(len(self.pixels) * share / (1 - share))  # Pictures of `more` in an epoch
        self.held_out = pixels_of(rows_of(dataset, "validation"))
        torch.manual_seed(config.loop.seed)
        check_sides(self.pixels, 1 if config.layers or config.units else 2 ** (len(config.widths) - 1), config.data)
        self.vae = first_vae(config, self.size)
        if config.decoder_alone:
            for part in (self.vae.encoder, self.vae.quant_conv):
                part.requires_grad_(False)
        self.vae.to(memory_format=torch.channels_last)  # convolutions are a fifth faster so, on a CPU
        side = self.size // codec_class(config).factor(self.vae.config)
        self.z_shape = (config.latent_channels, side, side)
        left_out = {"loop", "out", "init", "sheet_rows"}
        left_out |= {name for name in LATER if getattr(config, name) == getattr(VAEConfig, name)}
        identity = {k: v for k, v in asdict(config).items() if k not in left_out}
        identity["pictures"] = [len(self.pixels), len(self.more)]
        count = len(self.pixels) + self.extra
        data = fingerprint_of([self.pixels, self.epoch_rows.cumulative, *([self.more] if len(self.more) else [])])
        objective = VAEObjective(self.vae, config, count)
        self.loop = Loop(objective, self.batch, count, self.validate, config.loop, config.out, identity, data, budget)

    def load_more(self) -> Tensor:
        """Pictures of `config.more`, (M, 3, H, W) uint8; ConfigError if `data` has another size."""
        if not self.config.more:
            return self.pixels[:0]
        more = pixels_of(rows_of(load_dataset(Path(self.config.more)), "train"))
        if more.shape[1:] != self.pixels.shape[1:]:
            sides = [f"{p.shape[-1]} x {p.shape[-2]}" for p in (more, self.pixels)]
            raise ConfigError(f"more: {self.config.more} has pictures of {sides[0]}, {self.config.data} of {sides[1]}")
        return more

    def batch(self, positions: Tensor, epoch: int) -> tuple[Tensor, ...]:
        """Augmented pictures, posterior noise and, where it counts, opacity, keyed by (seed, epoch, position).

        The last positions of an epoch are pictures of `more`.
        """
        seed, own = self.config.loop.seed, len(self.pixels)
        rows = self.epoch_rows.drawn(positions.clamp(max=own - 1), seed, epoch)
        x, extra = self.pixels[rows], positions >= own
        if extra.any():
            order = torch.randint(len(self.more), (self.extra,), generator=generator_for(seed, epoch, -2))
            x[extra] = self.more[order[positions[extra] - own]]
        parts = [to_unit(x)]
        if self.opacity is not None:
            opaque = self.opacity[rows]
            opaque[extra] = 255  # nobody knows that of more pictures
            parts.append(to_unit(opaque))
        keys = [(seed, epoch, position) for position in positions.tolist()]
        augmented = [self.augmented(example, key) for *example, key in zip(*parts, keys, strict=True)]
        x, *opacity = (torch.stack(part) for part in zip(*augmented, strict=True))
        return x, normal_rows(keys, self.z_shape), *opacity

    def augmented(self, parts: Sequence[Tensor], key: tuple[int, int, int]) -> list[Tensor]:
        """A picture (3, H, W), and its opacity (1, H, W) where it is given, mirrored, recoloured, moved and scaled."""
        config = self.config
        if config.flip and float(torch.rand((), generator=generator_for(*key, 1))) < 0.5:
            parts = [part.flip(-1) for part in parts]
        x, *opacity = parts
        if config.recolour:
            generator = generator_for(*key, 2)
            if float(torch.rand((), generator=generator)) < config.recolour:
                x = x[torch.randperm(3, generator=generator)]
        generator = generator_for(*key, 3)
        if not config.shift or float(torch.rand((), generator=generator)) < 0.5:
            return [x, *opacity]
        down, right = torch.randint(-config.shift, config.shift + 1, (2,), generator=generator).tolist()
        power = float(torch.rand((), generator=generator))
        scale = config.zoom ** (power * 2 - 1 if config.zoom > 1 else power)
        fills = [1.0, *(float(part.min() == 1) for part in opacity)]  # what is opaque everywhere, or unknown, stays so
        return [placed(part, down, right, scale, fill) for part, fill in zip([x, *opacity], fills, strict=True)]

    def validate(self, step: int) -> dict[str, float]:
        """Pooled PSNR in dB of held-out pictures, from the posterior mean; writes a sheet."""
        errors: list[Tensor] = []
        shown: list[list[Image]] = []
        for chunk in self.held_out.split(at_once(self.size)):
            x = to_unit(chunk).to(self.vae.device)
            y = self.vae.decode(self.vae.encode(x * 2 - 1).latent_dist.mean).sample
            y = (y.float() / 2 + 0.5).clamp(0, 1)
            errors.append((x - y).square().mean((1, 2, 3)))
            if len(shown) < self.config.sheet_rows:
                shown += [to_pil(x[:12].cpu()), to_pil(y[:12].cpu())]
        if shown:
            captions = ["held out", "reconstructed"] * (len(shown) // 2)
            save_png(contact_sheet(shown, captions), self.config.out / f"sheet-{step:06d}.png", {"step": step})
        return {"validation_psnr": float(-10 * torch.cat(errors).mean().log10())}

    def run(self) -> Path:
        """Train, measure the latents, write `out/vae`; returns that folder."""
        folder = self.config.out / "vae"
        with self.loop.locked():
            check_replaceable(folder)
            self.loop.run()
            if not self.config.kl:
                make_deterministic(self.vae)
            codec = codec_class(self.config)(self.vae).to(self.vae.device)
            codec.with_statistics(*channel_statistics(codec, self.pixels.split(at_once(self.size)))).save(folder)
        return folder


def check_sides(pixels: Tensor, factor: int, data: Path) -> None:
    """Raise ConfigError, with the nearest size that will do, unless pictures (N, 3, H, W) fit latents of `factor`."""
    height, width = pixels.shape[-2:]
    if height != width:
        raise ConfigError(f"data: {data} has pictures of {width} x {height}; crop or pad them to squares")
    if width % factor:
        low = max(width // factor * factor, factor)
        remedy = f"these widths take multiples of {factor}; prepare them with --size {low} or {low + factor}"
        raise ConfigError(f"data: {data} has pictures of {width} pixels, {remedy}, or give fewer widths")


def placed(x: Tensor, down: int, right: int, scale: float, fill: float) -> Tensor:
    """A picture (C, H, W) scaled about its middle and moved by so many pixels; `fill` comes in, what leaves is lost."""
    height, width = x.shape[-2:]
    if scale != 1:
        sides = (max(1, round(height * scale)), max(1, round(width * scale)))
        x = F.interpolate(x[None], sides, mode="bilinear", antialias=True)[0]
    top, left = (height - x.shape[-2]) // 2 + down, (width - x.shape[-1]) // 2 + right
    if x.shape[-2:] == (height, width) and not (top or left):
        return x
    return F.pad(x, [left, width - x.shape[-1] - left, top, height - x.shape[-2] - top], value=fill)


def make(config: VAEConfig | CodecConfig) -> Path:
    """Train or fit what a config asks for; returns the codec's folder."""
    return fit(config) if isinstance(config, CodecConfig) else VAETraining(config).run()


command = "python -m train.autoencoder", __doc__, "configs/emoji-vae.yaml"
main = partial(run_config, *command, VAEConfig, make, others={"kind": CodecConfig})

if __name__ == "__main__":
    sys.exit(main())
