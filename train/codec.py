"""Image spaces fitted on the training pictures without gradients; the command is train.autoencoder's."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from bridge.arguments import writable_folder
from bridge.checkpoint import atomic_folder, check_replaceable
from bridge.codecs import AutoencoderCodec, ImageCodec, codec_from_diffusers, load_codec
from bridge.codecs.standardize import PCACodec, PrincipalAxes, WhitenedCodec
from train.config import ConfigError, check, named
from train.data.dataset import load_dataset, pixels_of, rows_of, to_unit

MAX_DIMS = 8192  # Whitening keeps a covariance of latents in float64: half a gigabyte at this many dimensions
MAX_COMPONENTS = 1024  # Components that PCA of pixels looks at where it is asked for a share of the variance
FLAT = 1e-10  # Directions whose variance is below this share of the widest one's are rounding, and are never scaled up


@dataclass(frozen=True)
class CodecConfig:
    """What to fit and on what."""

    data: Path  # Folder of a dataset; only its "train" rows are fitted on
    out: Path  # Run folder; the codec ends in `out/codec`
    # "pca", components of pixels; "whiten", another codec's latents whitened; "diffusers", a published autoencoder, its
    # latents standardised by channel
    kind: str
    k: int = 0  # Components to keep; 0 where `explained_variance` decides
    explained_variance: float = 0.0  # Share of the variance that the components kept hold; 0 where `k` decides
    inner: str = ""  # Folder or hub id of the codec that "whiten" and "diffusers" start from
    batch_size: int = 64  # Pictures in memory at a time. PCA of pixels takes at least two for each component.

    def __post_init__(self) -> None:
        if self.kind not in FITS:
            raise ConfigError(f"kind: unknown {self.kind!r}; known: {', '.join(FITS)}")
        if self.k < 0 or self.batch_size < 1:
            raise ConfigError(f"k, batch_size: expected 0 and 1 or more, got {self.k} and {self.batch_size}")
        check(self, "explained_variance", "a share from 0 to 1", lambda share: 0 <= share <= 1)
        if bool(self.inner) != (self.kind != "pca"):
            expected = "has none" if self.kind == "pca" else "needs a folder or a hub id"
            raise ConfigError(f"inner: kind {self.kind!r} {expected}, got {self.inner!r}")
        given, wanted = bool(self.k) + bool(self.explained_variance), int(self.kind != "diffusers")
        if given != wanted:
            expected = "one of them" if wanted else "neither"
            raise ConfigError(f"k, explained_variance: kind {self.kind!r} takes {expected}, got {given}")


class Pictures:
    """Square pictures of a split in batches of bytes (B, 3, H, W), read from disk each time; else ConfigError."""

    def __init__(self, rows: Dataset, batch_size: int) -> None:
        self.rows, self.batch_size = rows, batch_size
        height, width = pixels_of(rows.select([0])).shape[-2:]
        if height != width:
            raise ConfigError(f"data: expected square pictures, got {width} x {height}; crop or pad them")
        self.size = int(width)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Tensor]:
        return map(pixels_of, self.rows.iter(self.batch_size))


def channel_statistics(codec: AutoencoderCodec, pictures: Iterable[Tensor]) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel of an autoencoder's own latents, posterior variance included."""
    sums, count = torch.zeros(3, codec.z_shape[0], dtype=torch.float64), 0
    for chunk in pictures:
        latents = codec.encode(to_unit(chunk).to(codec.mean.device))
        mean, var = latents.mean.double().cpu(), latents.std.double().cpu().square()
        sums += torch.stack([part.mean((2, 3)).sum(0) for part in (mean, mean.square(), var)])
        count += len(chunk)
    first, second, noise = sums / count
    shift, scale = codec.mean.double().cpu().flatten(), codec.std.double().cpu().flatten()
    deviation = (second - first.square() + noise).sqrt()
    return (shift + scale * first).tolist(), (scale * deviation).tolist()


def latent_moments(codec: ImageCodec, pictures: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D), float64, of flattened latents, posterior variance included, in one pass."""
    dims, count = math.prod(codec.z_shape), 0
    total, square = torch.zeros(dims, dtype=torch.float64), torch.zeros(dims, dims, dtype=torch.float64)
    for chunk in pictures:
        latents = codec.encode(to_unit(chunk))
        z, noise = latents.mean.flatten(1).double(), latents.std.flatten(1).double().square().sum(0)
        total += z.sum(0)
        square += z.T @ z + noise.diag()
        count += len(chunk)
    mean = total / count
    return mean, square / count - mean.outer(mean)


def whitening_axes(mean: Tensor, covariance: Tensor, k: int, share: float) -> PrincipalAxes:
    """Principal axes of vectors with a mean (D,) and a covariance (D, D), float64, widest first; see `kept`."""
    variance = torch.linalg.eigvalsh(covariance).flip(0).clamp(min=0)
    return PrincipalAxes.of(mean, covariance, kept(variance, float(variance.sum()), k, share))


def pixel_axes(pictures: Pictures, limit: int, k: int, share: float) -> tuple[PrincipalAxes, float]:
    """Principal axes of pictures as vectors, widest first, and the variance of all pixels together; see `kept`.

    The incremental fit, of `limit` axes over batches of at least so many, forgets what early batches held beyond them:
    its axes are made orthonormal in double precision, and a second pass measures the mean square along each.

    Source: Ross et al. 2008, Incremental Learning for Robust Visual Tracking (sklearn's IncrementalPCA)
    """
    from sklearn.decomposition import IncrementalPCA  # noqa: PLC0415

    pca = IncrementalPCA(n_components=limit, copy=False)
    for chunk in pictures:
        pca.partial_fit(to_unit(chunk).flatten(1).numpy())
    mean = torch.from_numpy(np.asarray(pca.mean_)).double()
    q, r = torch.linalg.qr(torch.from_numpy(pca.components_).double().T)
    components = (q * r.diagonal().sign()).T
    squares, total = torch.zeros(limit, dtype=torch.float64), 0.0
    for chunk in pictures:
        apart = to_unit(chunk).flatten(1).double() - mean
        squares += (apart @ components.T).square().sum(0)
        total += float(apart.square().sum())
    total /= len(pictures)
    variance, order = (squares / len(pictures)).sort(descending=True, stable=True)
    count = kept(variance, total, k, share)
    return PrincipalAxes(mean, components[order[:count]], variance[:count].sqrt()), total


def kept(variance: Tensor, total: float, k: int, share: float) -> int:
    """`k`, or the fewest variances, largest first, that hold `share` of the total; ConfigError if they are too few."""
    able = int((variance > FLAT * variance.max()).sum())
    if k > able:
        raise ConfigError(f"k: the training pictures vary in {able} directions, got {k}; lower k")
    if k:
        return k
    held = variance[:able].cumsum(0) / total
    if held[-1] < share - 1e-9:
        reached = f"{able} components hold {float(held[-1]):.4f} of {share}"
        raise ConfigError(f"explained_variance: {reached}; ask for less, or give k")
    return min(int((held < share - 1e-9).sum()) + 1, able)


def psnr(codec: ImageCodec, pictures: Iterable[Tensor]) -> float:
    """PSNR in dB, all pixels pooled, of pictures through mean latents and back; batches of uint8 (B, 3, H, W)."""
    total, count = 0.0, 0
    for chunk in pictures:
        x = to_unit(chunk)
        total += float((codec.decode(codec.encode(x).mean) - x).double().square().sum())
        count += x.numel()
    return 10 * math.log10(count / max(total, 1e-12))


def fit_pca(config: CodecConfig, pictures: Pictures) -> tuple[ImageCodec, float | None]:
    """A PCACodec, and the share of variance that it explains. ConfigError if that, or the pictures, are too few."""
    count = len(pictures)
    most = min(count, 3 * pictures.size**2)
    if config.k > most:
        raise ConfigError(f"k: {count} training pictures have at most {most} components, got {config.k}; lower k")
    limit = config.k or min(MAX_COMPONENTS, most)
    pictures.batch_size = max(config.batch_size, 2 * limit)
    axes, total = pixel_axes(pictures, limit, config.k, config.explained_variance)
    return PCACodec(axes, pictures.size), float(axes.scale.double().square().sum()) / total


def fit_whitening(config: CodecConfig, pictures: Pictures) -> tuple[ImageCodec, float | None]:
    """A WhitenedCodec, and the share of variance that it explains. ConfigError unless `config.inner` fits."""
    folder = Path(config.inner).expanduser()
    with named("inner"):
        inner = load_codec(folder) if folder.is_dir() else codec_from_diffusers(config.inner, pictures.size)
    if inner.image_size != pictures.size:
        raise ConfigError(f"inner: made for pictures of {inner.image_size} pixels, those of data have {pictures.size}")
    if math.prod(inner.z_shape) > MAX_DIMS:
        raise ConfigError(f"inner: latents of {math.prod(inner.z_shape)} numbers; at most {MAX_DIMS} can be whitened")
    mean, covariance = latent_moments(inner, pictures)
    axes = whitening_axes(mean, covariance, config.k, config.explained_variance)
    return WhitenedCodec(inner, axes), float(axes.scale.double().square().sum() / covariance.trace())


def fit_diffusers(config: CodecConfig, pictures: Pictures) -> tuple[ImageCodec, float | None]:
    """A published autoencoder for pictures of this side, standardised by channel over them; and None."""
    with named("inner"):
        codec = codec_from_diffusers(config.inner, pictures.size)
    return codec.with_statistics(*channel_statistics(codec, pictures)), None


FITS = {"pca": fit_pca, "whiten": fit_whitening, "diffusers": fit_diffusers}


def fit(config: CodecConfig) -> Path:
    """Fit a codec, print its figures, write `out/codec`; returns that folder. UserError if anything does not fit."""
    folder = writable_folder(config.out, "out") / "codec"
    check_replaceable(folder)
    dataset = load_dataset(config.data)
    train, held_out = (rows_of(dataset, split) for split in ("train", "validation"))
    codec, share = FITS[config.kind](config, Pictures(train, config.batch_size))
    figures = [f"{config.kind}: z {' x '.join(map(str, codec.z_shape))}"]
    if share is not None:
        figures.append(f"k {codec.z_shape[0]}, explained variance {share:.4f}")
    if isinstance(codec, WhitenedCodec):
        figures.append(f"log |det| {codec.log_abs_det:.3f} nats")
    figures.append(f"validation PSNR {psnr(codec, Pictures(held_out, config.batch_size)):.2f} dB")
    print(", ".join(figures))
    with atomic_folder(folder) as scratch:
        codec.save(scratch)
    return folder
