"""How well a picture fits a caption, as the mapper knows it: captions for a picture, pictures for a caption.

The score of picture z and caption c is evidence for the caption against no caption at all, so that a picture that
is likely anyway gains nothing by it. Two methods give it:

"density"    log p(z|c) - log p(z), in nats, of any `DensityMapper`.
"denoising"  how much better a `VelocityMapper` guesses z when it knows the caption: half of
             |z - g(null)|^2 - |z - g(c)|^2, where g is its guess of the clean latent from pure noise, averaged over
             the same draws for every caption. There the guess is the caption's mean latent, and so the score is the
             log ratio of unit normals about two means.

The second is the default of a mapper with a velocity: it costs 16 velocities a caption, whatever the number of
pictures. How well each method finds captions, and guesses from less noise: `python -m eval.studies.checks retrieval`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from bridge.arguments import texts, whole
from bridge.codecs import ImageCodec
from bridge.errors import UserError
from bridge.images import to_tensor
from bridge.mappers import DensityMapper, Mapper, VelocityMapper
from bridge.noise import generator_for, normal_rows
from bridge.text import TextCode, TextEncoder

METHODS = ("denoising", "density")
PROBES = 16
"""Draws of noise from which a latent is guessed."""
ROWS = 512
"""Pairs of a picture and a caption worked on at a time."""
SAMPLES = 32
"""Samples of a caption that its pictures are held against."""
MAX_SAMPLES = 1000
HUTCHINSON = 8
"""Random signs of a velocity's density, the same for every caption of a picture."""


class Model(Protocol):
    """What is asked of a `bridge.BridgePipeline`."""

    text_encoder: TextEncoder
    codec: ImageCodec

    @property
    def mapper(self) -> Mapper: ...

    @property
    def device(self) -> torch.device: ...

    def plain(self) -> AbstractContextManager[None]: ...


@dataclass(frozen=True, eq=False)
class ScoreMatrix:
    """Scores of M pictures and C captions.

    Attributes:
        score: Higher fits better, in the unit of `method`, (M, C).
        typical: Share of the model's own samples of the caption that score no higher, in [0, 1], (M, C): .5 for a
            picture like them, 0 for one worse than all of them. None where it was not asked for.
        method: One of METHODS.
    """

    captions: tuple[str, ...]
    score: Tensor
    typical: Tensor | None
    method: str

    def best_captions(self, image: int) -> list[int]:
        """Captions of one picture, best first."""
        return self.score[image].sort(descending=True, stable=True).indices.tolist()

    def best_images(self, caption: int) -> list[int]:
        """Pictures of one caption, best first."""
        return self.score[:, caption].sort(descending=True, stable=True).indices.tolist()


def score(
    pipe: Model,
    images: Sequence[Image.Image],
    captions: Sequence[str],
    *,
    method: str | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> ScoreMatrix:
    """Score every picture against every caption; guidance and temperature are no part of it.

    Args:
        pipe: The model.
        images: RGB pictures of the model's size; see `bridge.images.read_image`.
        captions: What they may show; like the pictures, also a single one.
        method: One of METHODS; by default "denoising" where the mapper has a velocity, else "density".
        samples: Of each caption, to tell how typical a score is; 0 leaves that out.
        seed: Of probes and samples.

    Raises UserError if the mapper knows no density, there is no picture or caption, or an argument is out of range.
    """
    side, images = pipe.codec.image_size, _pictures(images)
    captions = [text.text for text in texts(captions, "captions")]
    if not images or not captions:
        raise UserError("images, captions: expected one or more of each, in a list")
    if {image.size for image in images} != {(side, side)} or {image.mode for image in images} != {"RGB"}:
        raise UserError(
            f"images: expected RGB pictures of {side} pixels a side; open them with read_image(file, {side})"
        )
    samples, seed = check_samples(samples), whole(seed, "seed")
    mapper, method = pipe.mapper, resolve_method(pipe.mapper, method)
    with pipe.plain():
        z = pipe.codec.encode(to_tensor(images).to(pipe.device)).mean
        c = pipe.text_encoder.encode(captions, with_tokens=mapper.reads_tokens)
        values = score_latents(mapper, z, c, method=method, seed=seed)
        shares = typical(mapper, values, c, method=method, samples=samples, seed=seed) if samples else None
    return ScoreMatrix(tuple(captions), values.cpu(), None if shares is None else shares.cpu(), method)


def _pictures(images: Any) -> list[Image.Image]:
    given = [images] if isinstance(images, Image.Image) or not isinstance(images, Iterable) else list(images)
    for image in given:
        if not isinstance(image, Image.Image):
            expected = f"expected pictures in a list, got {type(image).__name__}; open files with read_image"
            raise UserError(f"images: {expected}")
    return given


def check_samples(samples: int) -> int:
    """`samples` of `score`, from 0 to MAX_SAMPLES. Raises UserError if it is not."""
    return whole(samples, "samples", 0, MAX_SAMPLES)


def resolve_method(mapper: Mapper, method: str | None = None) -> str:
    """The method asked for, or the mapper's own.

    Raises ValueError if there is no such method, or not for this mapper.
    """
    if not isinstance(mapper, DensityMapper):
        raise UserError(f"model: {type(mapper).__name__} knows no density to score by; use one that does")
    if method is None:
        return "denoising" if isinstance(mapper, VelocityMapper) else "density"
    if method not in METHODS:
        raise UserError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    if method == "denoising" and not isinstance(mapper, VelocityMapper):
        raise UserError(f"method: {type(mapper).__name__} has no velocity to denoise by; use density")
    return method


def score_latents(mapper: Mapper, z: Tensor, c: TextCode, *, method: str | None = None, seed: int = 0) -> Tensor:
    """Scores of M latents (M, *z_shape) and C codes, (M, C); see `score`."""
    rows = torch.arange(len(z)).repeat_interleave(len(c)).to(z.device)
    columns = torch.arange(len(c)).repeat(len(z)).to(z.device)
    return _evidence(mapper, z, c, rows, columns, resolve_method(mapper, method), seed).view(len(z), len(c))


def typical(
    mapper: Mapper, values: Tensor, c: TextCode, *, method: str | None = None, samples: int = SAMPLES, seed: int = 0
) -> Tensor:
    """Share of the model's own samples of each caption that score no higher than `values` (M, C), in [0, 1], (M, C).

    The mapper, a `DensityMapper`, samples without guidance, at temperature 1; `method` is that of `values`.
    """
    own = own_scores(mapper, c, method=method, samples=samples, seed=seed)
    return (own[None] <= values[:, :, None]).float().mean(2)


def own_scores(mapper: Mapper, c: TextCode, *, method: str | None, samples: int, seed: int) -> Tensor:
    """Scores of the model's own samples under their captions, (C, samples)."""
    noise = normal_rows([(seed, i) for i in range(samples)], mapper.sample_noise_shape).to(c.pooled.device)
    which = torch.arange(len(c)).repeat_interleave(samples).to(c.pooled.device)
    again = noise.repeat(len(c), *[1] * (noise.ndim - 1))
    parts = [mapper.sample(c[w], noise=again[r]) for r, w in _chunks(torch.arange(len(which)).to(which.device), which)]
    z, rows = torch.cat(parts), torch.arange(len(which)).to(which.device)
    return _evidence(mapper, z, c, rows, which, resolve_method(mapper, method), seed).view(len(c), samples)


@torch.no_grad()
def guesses(mapper: VelocityMapper, c: TextCode, *, seed: int = 0) -> Tensor:
    """The clean latent of each code guessed from pure noise, averaged over PROBES draws, (C, *z_shape).

    Source: Li et al. 2023, Your Diffusion Model is Secretly a Zero-Shot Classifier, arXiv:2303.16203, at t = 0
    """
    noise = normal_rows([(seed, number) for number in range(PROBES)], mapper.z_shape).to(c.pooled)
    mean = torch.zeros(len(c), *mapper.z_shape, device=noise.device)
    for eps in noise:
        for number, rows in enumerate(torch.arange(len(c)).to(noise.device).split(ROWS)):
            at, t = eps.expand(len(rows), *eps.shape), torch.zeros(len(rows), device=noise.device)
            mean[number * ROWS :][: len(rows)] += at + mapper.velocity(at, t, c[rows])
    return mean / PROBES


def _evidence(mapper: Mapper, z: Tensor, c: TextCode, rows: Tensor, columns: Tensor, method: str, seed: int) -> Tensor:
    """Scores of latents z[rows] under codes c[columns], (P,)."""
    if method == "denoising":
        assert isinstance(mapper, VelocityMapper)
        guess, null = guesses(mapper, c, seed=seed), guesses(mapper, _null(1, c), seed=seed)
        pairs = _chunks(rows, columns)
        return torch.cat([(_squares(z[r] - null) - _squares(z[r] - guess[k])) / 2 for r, k in pairs])
    assert isinstance(mapper, DensityMapper)
    alone = _log_prob(mapper, z, _null(len(z), c), seed)
    return torch.cat([_log_prob(mapper, z[r], c[k], seed) - alone[r] for r, k in _chunks(rows, columns)])


def _squares(z: Tensor) -> Tensor:
    return z.square().flatten(1).sum(1)


def _log_prob(mapper: DensityMapper, z: Tensor, c: TextCode, seed: int) -> Tensor:
    if not isinstance(mapper, VelocityMapper):
        return mapper.log_prob(z, c)
    # One row at a time: the random signs of a batch are drawn together, and would differ from row to row.
    rows = zip(z.split(1), (c[i : i + 1] for i in range(len(c))), strict=True)
    parts = [
        mapper.log_prob(*row, trace="hutchinson", probes=HUTCHINSON, generator=generator_for(seed)) for row in rows
    ]
    return torch.cat(parts)


def _null(count: int, c: TextCode) -> TextCode:
    return TextCode.null(count, c.pooled.shape[1]).to(c.pooled.device)


def _chunks(rows: Tensor, columns: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(rows.split(ROWS), columns.split(ROWS), strict=True)
