"""Image spaces of independent numbers: principal components of pixels, and of another codec's latents."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bridge.checkpoint import CheckpointError
from bridge.codecs.base import DETERMINISTIC_STD, REFINING, ImageCodec, LatentDistribution, load_codec
from bridge.errors import UserError
from bridge.opening import CONFIG, fingerprint, read_config, read_object

AXES, INNER = "axes.safetensors", "inner"


class PrincipalAxes(nn.Module):
    """Vectors v (B, D) <-> their k standardised principal components z (B, k).

    z = components (v - mean) / scale, and back v = mean + components^T (scale z), the nearest point in the span.

    Source: Pearson 1901, On lines and planes of closest fit; Kessy et al. 2018, Optimal whitening and
        decorrelation, arXiv:1512.00809 (PCA whitening)

    >>> axes = PrincipalAxes(torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 1.0]]), torch.tensor([2.0]))
    >>> axes.project(torch.tensor([[5.0, 4.0]])), axes.lift(torch.tensor([[2.0]]))
    (tensor([[2.]]), tensor([[1., 4.]]))
    """

    mean: Tensor  # (D,)
    components: Tensor  # Orthonormal rows, (k, D)
    scale: Tensor  # Standard deviation along each, (k,)

    def __init__(self, mean: Tensor, components: Tensor, scale: Tensor) -> None:
        super().__init__()
        shapes = tuple(components.shape), tuple(mean.shape), tuple(scale.shape)
        if components.ndim != 2 or shapes[1:] != (shapes[0][1:], shapes[0][:1]):
            raise ValueError(f"components, mean, scale: expected (k, D), (D,) and (k,), got {shapes}")
        if not all(bool(part.isfinite().all()) for part in (mean, components, scale)) or not bool((scale > 0).all()):
            raise UserError("mean, components, scale: expected finite numbers and positive scales; fit them again")
        for name, value in (("mean", mean), ("components", components), ("scale", scale)):
            self.register_buffer(name, value.float().contiguous())

    @classmethod
    def of(cls, mean: Tensor, covariance: Tensor, k: int) -> Self:
        """The k widest axes of vectors with a mean (D,) and a covariance (D, D), float64, widest first."""
        variance, vectors = torch.linalg.eigh(covariance)
        components = vectors.T.flip(0)
        sign = components.gather(1, components.abs().argmax(1, keepdim=True)).sign()
        return cls(mean, (components * sign)[:k], variance.flip(0).clamp(min=0)[:k].sqrt())

    def project(self, v: Tensor) -> Tensor:
        """Components z (B, k) of vectors v (B, D)."""
        return (v - self.mean) @ self.components.T / self.scale

    def project_std(self, std: Tensor) -> Tensor:
        """Standard deviation (B, k) of z where v has independent ones `std`, (B, D)."""
        return (std.square() @ self.components.square().T).sqrt() / self.scale

    def lift(self, z: Tensor) -> Tensor:
        """Vectors (B, D) of components z (B, k)."""
        return self.mean + (z * self.scale) @ self.components

    def save(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Write config.json and axes.safetensors; the folder is made where it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / AXES)
        (folder / CONFIG).write_text(json.dumps(dict(config), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; CheckpointError if axes.safetensors is missing or damaged."""
        try:
            tensors = load_file(folder / AXES)
            return cls(tensors["mean"], tensors["components"], tensors["scale"])
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise CheckpointError(f"{folder / AXES}: missing or damaged; copy or download the codec again") from error


class PCACodec(ImageCodec):
    """Latents are the k standardised principal components of the pixels: linear, and best of all linear codecs.

    `axes` are of pictures as vectors of 3 x image_size x image_size numbers in [0, 1]; std is DETERMINISTIC_STD.

    Source: Turk & Pentland 1991, Eigenfaces for Recognition
    """

    def __init__(self, axes: PrincipalAxes, image_size: int) -> None:
        if axes.components.shape[1] != 3 * image_size**2:
            problem = f"axes of {axes.components.shape[1]} numbers do not fit pictures of {image_size} pixels"
            raise UserError(f"image_size: {problem}; fit the axes on such pictures")
        self.axes, self.image_size, self.z_shape = axes, image_size, tuple(axes.scale.shape)
        self.fingerprint = fingerprint(axes, {"codec": "PCACodec", "image_size": image_size})

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Read what `save` wrote; CheckpointError if a file is missing or damaged."""
        folder = Path(folder)
        config = read_object(folder / CONFIG, "codec", {"image_size": int})
        return cls(PrincipalAxes.load(folder), config["image_size"])

    def save(self, folder: Path) -> None:
        self.axes.save(Path(folder), {"_class_name": "PCACodec", "image_size": self.image_size})

    @torch.no_grad()
    def encode(self, x: Tensor) -> LatentDistribution:
        self.check_pictures(x)
        z = self.axes.project(x.flatten(1))
        return LatentDistribution(z, torch.full_like(z, DETERMINISTIC_STD))

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        self.check_latents(z)
        return self.axes.lift(z).clamp(0, 1).unflatten(1, (3, self.image_size, self.image_size))


class WhitenedCodec(ImageCodec):
    """Another codec whose latents are whitened by `axes`: k uncorrelated numbers of unit variance, the widest first.

    A latent's mean is mapped exactly. Its deviations come out correlated; `encode` keeps the diagonal of that
    covariance, exact for each number alone. Source: see `PrincipalAxes`.
    """

    def __init__(self, inner: ImageCodec, axes: PrincipalAxes) -> None:
        if (dims := axes.components.shape[1]) != (numbers := math.prod(inner.z_shape)):
            raise UserError(
                f"axes: made for latents of {dims} numbers, the codec has {numbers}; fit them on its latents"
            )
        self.inner, self.axes = inner, axes
        self.image_size, self.z_shape = inner.image_size, tuple(axes.scale.shape)
        self.fingerprint = fingerprint(axes, {"codec": "WhitenedCodec", "inner": inner.fingerprint})

    @property
    def log_abs_det(self) -> float:
        """log |det dz / dz_inner| in nats: log p(z_inner) = log p(z) + log_abs_det, for every latent alike.

        With k below the inner codec's dimensions both are over the components' span, and compare on that span alone.
        """
        return -float(self.axes.scale.double().log().sum())

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Read what `save` wrote; CheckpointError if a file is damaged, or the inner codec is not the axes' own."""
        folder = Path(folder)
        codec = cls(load_codec(folder / INNER), PrincipalAxes.load(folder))
        if read_config(folder).get("inner") != codec.inner.fingerprint:
            raise CheckpointError(f"{folder / INNER}: is not the codec that was whitened; copy or fit it again")
        return codec

    def save(self, folder: Path) -> None:
        folder = Path(folder)
        self.inner.save(folder / INNER)
        self.axes.save(folder, {"_class_name": "WhitenedCodec", "inner": self.inner.fingerprint})

    def encode(self, x: Tensor) -> LatentDistribution:
        return self.refined(x, 0)

    @torch.no_grad()
    def refined(self, x: Tensor, steps: int = REFINING) -> LatentDistribution:
        latents = self.inner.refined(x, steps)
        mean, std = latents.mean.flatten(1), latents.std.flatten(1)
        return LatentDistribution(self.axes.project(mean), self.axes.project_std(std))

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        self.check_latents(z)
        return self.inner.decode(self.axes.lift(z).unflatten(1, self.inner.z_shape))
