"""Train the image side alone: a VAE, or a plain autoencoder. Where the file has a `kind` of pca, whiten or diffusers,
an image space is fitted without gradients in its place.

From pictures of your own, with nothing to configure: python -m train FOLDER --codec-alone
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
from bridge.errors import UserError
from bridge.images import contact_sheet, save_png, to_pil
from bridge.noise import generator_for, normal_rows
from train.checkpoint import fingerprint_of
from train.codec import CodecConfig, channel_statistics, fit
from train.config import ConfigError, run_config
from train.data.dataset import (
    at_once,
    load_dataset,
    opacity_of,
    pixels_of,
    row_cumulative,
    rows_of,
    systematic_rows,
    to_unit,
)
from train.loop import Loop, LoopConfig
from train.perceptual import Discriminator, PerceptualDistance, distance

AnyVAE: TypeAlias = AutoencoderKL | DenseVAE | PaletteVAE
SHAPE = ("block_out_channels", "latent_channels", "norm_num_groups", "units", "sample_size", "widths")
"""Settings that a VAE to start from must share; of layers, see `PaletteVAE.extend`."""
LATER = (
    *("layers", "blocks", "crop", "gradient", "entropy", "opacity", "recolour", "shift", "zoom", "total_correlation"),
    *("adversarial", "decoder_alone", "noise"),
)
"""Settings that older runs did not have; at their defaults they are no part of a run's identity: those resume."""


@dataclass(frozen=True)
class VAEConfig:
    """What to train and on what."""

    data: Path  # Folder of a dataset; only its "train" rows are trained on
    out: Path  # Run folder; the VAE ends in `out/vae`
    loop: LoopConfig  # How to train
    # Channels of each resolution, finest first; each but the last halves the side
    widths: tuple[int, ...] = (16, 32, 64, 128)
    latent_channels: int = 4  # Channels of a latent
    # Width of a dense layer between convolutions and latents, so that a latent has no place in the picture
    # (bridge.codecs.dense.DenseVAE; each of `widths` then halves the side). 0 is AutoencoderKL, all
    # convolutions.
    units: int = 0
    # Layers that a picture is drawn in (bridge.codecs.PaletteVAE; `widths` are then its three). 0 is a decoder
    # to pixels.
    layers: int = 0
    blocks: int = 2  # Transformer blocks of a VAE of layers, in its encoder and in its decoder
    groups: int = 4  # Groups of the group normalisation; few of them, so that colour and contrast survive
    mse: float = 2.0  # Weight of the squared error beside the absolute error's 1
    perceptual: float = 0.1  # Weight of the perceptual distance
    crop: int = 0  # Side of the square, at a random place, on which that distance is taken; 0 takes all of a picture
    # Weight of what a discriminator on the perceptual distance's features takes for drawn, not real (VAE/GAN,
    # Larsen et al. 2016, arXiv:1512.09300).
    adversarial: float = 0.0
    gradient: float = 0.0  # Weight of the absolute error of differences between neighbouring pixels
    entropy: float = 0.0  # Weight of the masks' mean entropy in nats, which makes layers clear-cut
    opacity: float = 0.0  # Weight of the absolute error of the opacity, where a picture has a transparent part
    # Weight of the mean KL divergence a latent dimension, in nats. 0 trains a plain autoencoder: latents
    # without noise, and nothing that pulls them anywhere.
    kl: float = 3e-4
    # Weight of the latents' total correlation a dimension, in nats, beside its share in the KL (beta-TCVAE,
    # whose beta is 1 + total_correlation / kl); it is estimated within a batch, so micro-batches (`accumulate`)
    # and processes make it coarser
    total_correlation: float = 0.0
    decoder_alone: bool = False  # Whether the encoder stays that of `init`, so that latents mean what they did
    # Factor on the posterior's noise, 0 to 1. A decoder that will draw means, or what is near them, can learn
    # to with less of it than the latents need.
    noise: float = 1.0
    flip: bool = True  # Whether half of the pictures are mirrored
    recolour: float = 0.0  # Share of the pictures whose red, green and blue are exchanged at random
    shift: int = 0  # Most pixels by which half of the pictures are moved along each side, white coming in
    zoom: float = 1.0  # Most by which those are also enlarged or reduced, at random, as a factor
    more: str = ""  # Folder of a second dataset, for more pictures than `data` has; empty for none
    more_share: float = 0.3  # Share of an epoch's pictures that come from `more`
    # Pictures of `data` are drawn in proportion to (size of their family) ** -family_power; 1 weighs families
    # equally, 0 pictures
    family_power: float = 0.5
    # Folder of a VAE to start from, for a further training stage; empty starts from nothing. A VAE of layers
    # may have fewer latent channels or blocks than this config asks for: it is extended.
    init: str = ""
    sheet_rows: int = 4  # Rows of a sheet of held-out pictures and their reconstructions; 0 writes none

    def __post_init__(self) -> None:
        layered, decoder, judged = self.layers, self.decoder_alone, self.adversarial
        batch = self.loop.batch_size // self.loop.accumulate
        for fine, told in (
            (0 < self.more_share < 1, f"more_share: expected a share between 0 and 1, got {self.more_share!r}"),
            (0 <= self.kl < math.inf, f"kl: expected 0 or more, got {self.kl!r}"),
            (
                0 <= self.total_correlation < math.inf,
                f"total_correlation: expected 0 or more, got {self.total_correlation!r}",
            ),
            (
                not self.total_correlation or (self.kl and batch > 1),
                "total_correlation: needs a posterior and a batch; give a kl above 0, a batch_size of 2",
            ),
            (
                not layered or (layered >= 2 and len(self.widths) == 3),
                f"layers: expected 2 or more, and three widths, got {layered} and {self.widths}",
            ),
            (
                layered or not (self.entropy or self.opacity),
                "entropy, opacity: are losses of layers; set `layers`, or leave them out",
            ),
            (
                not judged or self.perceptual,
                "adversarial: judges by the perceptual distance's features; set `perceptual` above 0",
            ),
            (not decoder or self.init, "decoder_alone: needs an encoder; name a folder with a VAE as `init`"),
            (0 <= self.noise <= 1, f"noise: expected a factor from 0 to 1, got {self.noise!r}"),
            (self.shift >= 0, f"shift: expected 0 or more pixels, got {self.shift}"),
            (1 <= self.zoom <= 4, f"zoom: expected a factor from 1 to 4, got {self.zoom!r}"),
            (self.zoom == 1 or self.shift, "zoom: scales the pictures that `shift` moves; set `shift` above 0"),
        ):
            if not fine:
                raise ConfigError(told)


def codec_class(config: VAEConfig) -> type[VAECodec]:
    """What the VAE is used through."""
    if config.layers:
        return PaletteCodec
    return DenseCodec if config.units else VAECodec


def build_vae(config: VAEConfig, size: int) -> AnyVAE:
    """A diffusers AutoencoderKL for pictures of `size` pixels, one layer a block; a DenseVAE where there are `units`.

    Raises ConfigError if there are more `widths` than a picture can be halved.
    """
    blocks = len(config.widths)
    try:
        if config.layers:
            coarse, middle, fine = config.widths
            return PaletteVAE(size, config.latent_channels, (coarse, middle, fine), config.layers, blocks=config.blocks)
        if config.units:
            return DenseVAE(config.widths, config.units, config.latent_channels, size)
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
            block_out_channels=config.widths,
            latent_channels=config.latent_channels,
            norm_num_groups=config.groups,
            sample_size=size,
            scaling_factor=1.0,
        )
    except (ValueError, ArithmeticError, LookupError, RuntimeError) as error:
        reason = f"{error}".splitlines()[0].removeprefix("widths: ")
        raise ConfigError(f"widths: {reason}") from error


def first_vae(config: VAEConfig, size: int) -> AnyVAE:
    """The VAE that training begins with: that of `config.init`, or a new one.

    Raises ConfigError if `init` holds no VAE, or one of another shape than the config's.
    """
    new = build_vae(config, size)
    if not config.init:
        return new
    if not (Path(config.init) / CONFIG).exists():
        raise ConfigError(f"init: {config.init} holds no VAE; name the `vae` folder of a finished run")
    codec = load_codec(Path(config.init))
    if type(codec) is not codec_class(config):
        raise ConfigError(f"init: {config.init} is a {type(codec).__name__}, this config trains a {type(new).__name__}")
    if isinstance(new, PaletteVAE):
        try:
            new.extend(codec.vae)
        except UserError as error:
            raise ConfigError(f"init: {config.init}: {error}") from error
        return new
    for name in SHAPE:
        has, asked = (json.dumps(v.config.get(name)) for v in (codec.vae, new))
        if has != asked:
            raise ConfigError(f"init: {config.init} has {name} {has}, this config asks for {asked}")
    vae: AnyVAE = codec.vae.requires_grad_(True)
    return vae.train()


class VAEObjective(nn.Module):
    """Reconstruction, perceptual distance and KL of a VAE, per example; of a plain autoencoder at kl 0.

    `pictures` is how many are trained on, for the total correlation alone; if fewer than a batch, a batch is all.

    Source: Kingma & Welling 2014, arXiv:1312.6114; Rombach et al. 2022, arXiv:2112.10752; with a weight of the KL
        of its own Higgins et al. 2017, beta-VAE; with one of the total correlation's Chen et al. 2018,
        arXiv:1802.04942; without any Hinton & Salakhutdinov 2006, Reducing the
        Dimensionality of Data with Neural Networks
    """

    def __init__(self, vae: AnyVAE, config: VAEConfig, pictures: int = 0) -> None:
        super().__init__()
        self.vae, self.config, self.pictures = vae, config, pictures
        self.distance = PerceptualDistance() if config.perceptual else None
        self.discriminator = Discriminator() if config.adversarial else None

    def forward(self, x: Tensor, eps: Tensor, opacity: Tensor | None = None) -> dict[str, Tensor]:
        """Losses, each (B,), of pictures x (B, 3, H, W) in [0, 1] on white, under posterior noise eps (B, *z_shape).

        At kl 0 there is no posterior: `eps` counts for nothing and no "kl" is reported. `opacity`, (B, 1, H, W) in [0,
        1], is for a VAE of layers; 1 everywhere where nobody knows it.
        """
        posterior = self.vae.encode(x * 2 - 1).latent_dist
        z = posterior.mean + self.config.noise * posterior.std * eps if self.config.kl else posterior.mean
        y, parts = self.decoded(z, opacity)
        error = y - x
        parts |= {"l1": error.abs().mean((1, 2, 3)), "mse": error.square().mean((1, 2, 3))}
        loss = parts["l1"] + self.config.mse * parts["mse"]
        loss = loss + sum(getattr(self.config, name) * parts[name] for name in ("entropy", "opacity") if name in parts)
        if self.config.gradient:
            across, down = (error.diff(dim=d).abs().mean((1, 2, 3)) for d in (3, 2))
            parts["gradient"] = (across + down) / 2
            loss = loss + self.config.gradient * parts["gradient"]
        if self.config.kl:
            parts["kl"] = posterior.kl().float() / eps[0].numel()
            loss = loss + self.config.kl * parts["kl"]
        if self.config.total_correlation:
            latents, mean, logvar = (p.float().flatten(1) for p in (z, posterior.mean, posterior.logvar))
            of_all = total_correlation(latents, mean, logvar, max(self.pictures, len(x)))
            parts["total_correlation"] = of_all / latents.shape[1]
            loss = loss + self.config.total_correlation * parts["total_correlation"]
        if self.distance is not None:
            real, drawn = (self.distance.features(p) for p in self.cropped(x, y))
            parts["perceptual"] = distance(real, drawn)
            loss = loss + self.config.perceptual * parts["perceptual"]
            if self.discriminator is not None:
                parts["adversarial"], parts["discriminator"] = self.discriminator.losses(real, drawn)
                loss = loss + self.config.adversarial * parts["adversarial"] + parts["discriminator"]
        return {"loss": loss} | parts

    def decoded(self, z: Tensor, opacity: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Pictures (B, 3, H, W) of latents, and what layers lose beside; each (B,)."""
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
        return tuple(p[..., top : top + side, left : left + side] for p in (x, y))  # type: ignore[return-value]


def total_correlation(z: Tensor, mean: Tensor, logvar: Tensor, pictures: int) -> Tensor:
    """log q(z) - sum_j log q(z_j) in nats, (B,); its mean estimates the total correlation of the latents.

    q is the mixture of the posteriors of all pictures. The batch stands for it: a picture's own posterior weighs 1 / N
    of N `pictures`, and the B - 1 others share the rest, which makes q(z) unbiased.

    Args:
        z: One latent from the posterior of each picture of the batch, (B, L), B at least 2.
        mean: Of the posteriors, (B, L); so `logvar`.
        pictures: N, at least B.

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
    """Give every posterior the smallest deviation that diffusers knows, e^-15, whatever the picture; in place.

    What a plain autoencoder's latents then are, no sampling changes, here or in diffusers alone.
    """
    channels, last = vae.config.latent_channels, vae.quant_conv
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    with torch.no_grad():
        last.weight[channels:] = 0
        last.bias[channels:] = -30


class VAETraining:
    """Everything a VAE run needs around the loop."""

    def __init__(self, config: VAEConfig) -> None:
        self.config = config
        dataset = load_dataset(config.data)
        rows = rows_of(dataset, "train")
        self.pixels = pixels_of(rows)
        self.opacity = opacity_of(rows) if config.opacity else None
        self.cumulative = row_cumulative(torch.tensor(rows["family"]), config.family_power)
        self.more = self.load_more()
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
        unset = {name for name in LATER if getattr(config, name) == getattr(VAEConfig, name)}
        left_out = {"loop", "out", "init", "sheet_rows"} | unset
        settings = {k: v for k, v in asdict(config).items() if k not in left_out}
        self.loop = Loop(
            VAEObjective(self.vae, config, len(self.pixels) + self.extra),
            self.batch,
            len(self.pixels) + self.extra,
            self.validate,
            config.loop,
            config.out,
            settings | {"pictures": [len(self.pixels), 0 if self.more is None else len(self.more)]},
            fingerprint_of([self.pixels, self.cumulative, *([] if self.more is None else [self.more])]),
        )

    @property
    def size(self) -> int:
        """Side of the pictures, in pixels."""
        return int(self.pixels.shape[-1])

    def load_more(self) -> Tensor | None:
        """Pictures of `config.more`, (M, 3, H, W) uint8.

        Raises ConfigError if it is no dataset, or its pictures are of another size.
        """
        if not self.config.more:
            return None
        more = pixels_of(rows_of(load_dataset(Path(self.config.more)), "train"))
        if more.shape[1:] != self.pixels.shape[1:]:
            sides = [f"{p.shape[-1]} x {p.shape[-2]}" for p in (more, self.pixels)]
            raise ConfigError(f"more: {self.config.more} has pictures of {sides[0]}, {self.config.data} of {sides[1]}")
        return more

    @property
    def extra(self) -> int:
        """Pictures of `more` in an epoch."""
        share = self.config.more_share
        return 0 if self.more is None else round(len(self.pixels) * share / (1 - share))

    def rows(self, positions: Tensor, epoch: int) -> Tensor:
        """Rows of `data` at positions of an epoch, (B,); beyond its end, its last position's."""
        offset = float(torch.rand((), generator=generator_for(self.config.loop.seed, epoch, -1)))
        return systematic_rows(positions.clamp(max=len(self.pixels) - 1), self.cumulative, offset)

    def pictures(self, positions: Tensor, epoch: int) -> Tensor:
        """Pictures at positions of an epoch, in [0, 1]: first those of `data`, then those of `more`."""
        seed, own = self.config.loop.seed, len(self.pixels)
        picked = self.pixels[self.rows(positions, epoch)]
        if self.more is not None:
            order = torch.randint(len(self.more), (self.extra,), generator=generator_for(seed, epoch, -2))
            from_more = positions >= own
            picked[from_more] = self.more[order[positions[from_more] - own]]
        return to_unit(picked)

    def batch(self, positions: Tensor, epoch: int) -> tuple[Tensor, ...]:
        """Pictures, mirrored, recoloured, moved and scaled, noise and opacity, keyed by (seed, epoch, position)."""
        x = self.pictures(positions, epoch)
        keys = [(self.config.loop.seed, epoch, int(position)) for position in positions]
        flipped = torch.zeros(len(x), 1, 1, 1, dtype=torch.bool)
        if self.config.flip:
            coin = torch.stack([torch.rand((), generator=generator_for(*key, 1)) for key in keys])
            flipped = coin.view(-1, 1, 1, 1) < 0.5
            x = torch.where(flipped, x.flip(-1), x)
        if self.config.recolour:
            x = torch.stack(
                [recoloured(p, self.config.recolour, generator_for(*k, 2)) for p, k in zip(x, keys, strict=True)]
            )
        noise = normal_rows(keys, self.z_shape)
        moves = [self.move(generator_for(*key, 3)) for key in keys] if self.config.shift else []
        if moves:
            x = torch.stack([placed(p, *move, 1.0) for p, move in zip(x, moves, strict=True)])
        if self.opacity is None:
            return x, noise
        opacity = to_unit(self.opacity[self.rows(positions, epoch)])
        opacity = torch.where(flipped, opacity.flip(-1), opacity)
        if moves:
            outside = (opacity.amin((1, 2, 3)) == 1).float().tolist()  # opaque, or nobody knows
            opacity = torch.stack([placed(p, *m, o) for p, m, o in zip(opacity, moves, outside, strict=True)])
        return x, noise, opacity

    def move(self, generator: torch.Generator) -> tuple[int, int, float]:
        """Pixels down and to the right, and the factor of the size, of half of the pictures."""
        most, zoom = self.config.shift, self.config.zoom
        if float(torch.rand((), generator=generator)) < 0.5:
            return 0, 0, 1.0
        down, right = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
        return down, right, zoom ** float(torch.rand((), generator=generator) * 2 - 1)

    def validate(self, step: int) -> dict[str, float]:
        """Pooled PSNR in dB of held-out pictures, from the posterior mean; writes a sheet."""
        errors: list[Tensor] = []
        shown: list[list[Image]] = []
        for chunk in self.held_out.split(at_once(self.size)):
            x = to_unit(chunk).to(self.vae.device)
            y = self.vae.decode(self.vae.encode(x * 2 - 1).latent_dist.mean).sample.float() / 2 + 0.5
            y = y.clamp(0, 1)
            errors.append((x - y).square().mean((1, 2, 3)))
            if len(shown) < self.config.sheet_rows:
                shown += [to_pil(x[:12].cpu()), to_pil(y[:12].cpu())]
        if shown:
            captions = ["held out", "reconstructed"] * (len(shown) // 2)
            save_png(contact_sheet(shown, captions), self.config.out / f"sheet-{step:06d}.png", {"step": step})
        mse = torch.cat(errors).mean()
        return {"validation_psnr": float(-10 * mse.log10())}

    def run(self) -> Path:
        """Train, measure the latents, write `out/vae`; returns that folder."""
        with self.loop.locked():
            check_replaceable(self.config.out / "vae")
            self.loop.run()
            if not self.config.kl:
                make_deterministic(self.vae)
            codec = codec_class(self.config)(self.vae).to(self.vae.device)
            statistics = channel_statistics(codec, self.pixels.split(at_once(self.size)))
            codec.with_statistics(*statistics).save(self.config.out / "vae")
        return self.config.out / "vae"


def check_sides(pixels: Tensor, factor: int, data: Path) -> None:
    """Raise ConfigError, with the nearest size that will do, unless pictures (N, 3, H, W) fit latents of `factor`."""
    height, width = pixels.shape[-2:]
    if height != width:
        raise ConfigError(f"data: {data} has pictures of {width} x {height}; crop or pad them to squares")
    if width % factor:
        low = max(width // factor * factor, factor)
        remedy = f"these widths take multiples of {factor}; prepare them with --size {low} or {low + factor}"
        raise ConfigError(f"data: {data} has pictures of {width} pixels, {remedy}, or give fewer widths")


def recoloured(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A picture (3, H, W) whose channels are exchanged at random, in `share` of the cases; white stays white."""
    if float(torch.rand((), generator=generator)) >= share:
        return x
    return x[torch.randperm(3, generator=generator)]


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


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    name, example = "python -m train.autoencoder", "configs/emoji-vae.yaml"
    return run_config(name, __doc__, example, VAEConfig, made, argv, {"kind": CodecConfig})


def made(config: VAEConfig | CodecConfig) -> Path:
    """Train or fit what a config says; returns the codec's folder."""
    return fit(config) if isinstance(config, CodecConfig) else VAETraining(config).run()


if __name__ == "__main__":
    sys.exit(main())
