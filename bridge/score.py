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

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from bridge.arguments import check_one_of
from bridge.errors import UserError
from bridge.mappers import DensityMapper, Mapper, VelocityMapper
from bridge.noise import generator_for, normal_rows
from bridge.text import TextCode

METHODS = ("denoising", "density")
PROBES = 16  # draws of noise from which a latent is guessed
ROWS = 512  # pairs of a picture and a caption worked on at a time
SAMPLES, MAX_SAMPLES = 32, 1000  # of a caption, that its pictures are held against
HUTCHINSON = 8  # random signs of a velocity's density, the same for every caption of a picture


@dataclass(frozen=True, eq=False)
class ScoreMatrix:
    """Scores of M pictures and C captions by one of METHODS."""

    captions: tuple[str, ...]
    score: Tensor  # higher fits better, in the unit of the method, (M, C)
    # Share of the model's own samples of the caption that score no higher, in [0, 1], (M, C): .5 for a picture like
    # them, 0 for one worse than all of them. None where it was not asked for.
    typical: Tensor | None
    method: str

    def best_captions(self, image: int) -> list[int]:
        """Captions of one picture, best first."""
        return self.score[image].sort(descending=True, stable=True).indices.tolist()

    def best_images(self, caption: int) -> list[int]:
        """Pictures of one caption, best first."""
        return self.score[:, caption].sort(descending=True, stable=True).indices.tolist()


def check_pictures(images: Any) -> list[Image.Image]:
    """One picture or several as a list. Raises UserError if one of them is something else."""
    given = [images] if isinstance(images, Image.Image) or not isinstance(images, Iterable) else list(images)
    for image in given:
        if not isinstance(image, Image.Image):
            expected = f"expected pictures in a list, got {type(image).__name__}; open files with read_image"
            raise UserError(f"images: {expected}")
    return given


def resolve_method(mapper: Mapper, method: str | None = None) -> str:
    """The method asked for, or the mapper's own. Raises UserError if there is none such, or not for this mapper."""
    if not isinstance(mapper, DensityMapper):
        raise UserError(f"model: {type(mapper).__name__} knows no density to score by; use one that does")
    if method is None:
        return "denoising" if isinstance(mapper, VelocityMapper) else "density"
    check_one_of(method, "method", METHODS)
    if method == "denoising" and not isinstance(mapper, VelocityMapper):
        raise UserError(f"method: {type(mapper).__name__} has no velocity to denoise by; use density")
    return method


def score_latents(mapper: Mapper, z: Tensor, c: TextCode, *, method: str | None = None, seed: int = 0) -> Tensor:
    """Scores of M latents (M, *z_shape) and C codes, (M, C)."""
    rows = torch.arange(len(z)).repeat_interleave(len(c)).to(z.device)
    columns = torch.arange(len(c)).repeat(len(z)).to(z.device)
    return _evidence(mapper, z, c, rows, columns, resolve_method(mapper, method), seed).view(len(z), len(c))


def typical(
    mapper: Mapper, values: Tensor, c: TextCode, *, method: str | None = None, samples: int = SAMPLES, seed: int = 0
) -> Tensor:
    """Share of the model's own samples of each caption that score no higher than `values` (M, C), in [0, 1], (M, C).

    The mapper, a `DensityMapper`, samples without guidance, at temperature 1; `method` is that of `values`.
    """
    noise = normal_rows([(seed, i) for i in range(samples)], mapper.sample_noise_shape).to(c.pooled.device)
    again = noise.repeat(len(c), *[1] * (noise.ndim - 1))
    which = torch.arange(len(c)).repeat_interleave(samples).to(noise.device)
    rows = torch.arange(len(which)).to(noise.device)
    z = torch.cat([mapper.sample(c[w], noise=again[r]) for r, w in _chunks(rows, which)])
    own = _evidence(mapper, z, c, rows, which, resolve_method(mapper, method), seed).view(len(c), samples)
    return (own[None] <= values[:, :, None]).float().mean(2)


@torch.no_grad()
def guesses(mapper: VelocityMapper, c: TextCode, *, seed: int = 0) -> Tensor:
    """The clean latent of each code guessed from pure noise, averaged over PROBES draws, (C, *z_shape).

    Source: Li et al. 2023, Your Diffusion Model is Secretly a Zero-Shot Classifier, arXiv:2303.16203, at t = 0
    """
    noise = normal_rows([(seed, number) for number in range(PROBES)], mapper.z_shape).to(c.pooled)
    mean = torch.zeros(len(c), *mapper.z_shape, device=noise.device)
    for eps in noise:
        for rows in torch.arange(len(c)).to(noise.device).split(ROWS):
            at, t = eps.expand(len(rows), *eps.shape), torch.zeros(len(rows), device=noise.device)
            mean[rows] += at + mapper.velocity(at, t, c[rows])
    return mean / PROBES


def _evidence(mapper: Mapper, z: Tensor, c: TextCode, rows: Tensor, columns: Tensor, method: str, seed: int) -> Tensor:
    """Scores of latents z[rows] under codes c[columns], (P,)."""
    null, pairs = TextCode.null(len(z), c.pooled.shape[1]).to(c.pooled.device), _chunks(rows, columns)
    if method == "denoising":
        assert isinstance(mapper, VelocityMapper)
        guess, alone = guesses(mapper, c, seed=seed), guesses(mapper, null[:1], seed=seed)
        return torch.cat([(_squares(z[r] - alone) - _squares(z[r] - guess[k])) / 2 for r, k in pairs])
    assert isinstance(mapper, DensityMapper)
    alone = _log_prob(mapper, z, null, seed)
    return torch.cat([_log_prob(mapper, z[r], c[k], seed) - alone[r] for r, k in pairs])


def _squares(z: Tensor) -> Tensor:
    return z.square().flatten(1).sum(1)


def _log_prob(mapper: DensityMapper, z: Tensor, c: TextCode, seed: int) -> Tensor:
    if not isinstance(mapper, VelocityMapper):
        return mapper.log_prob(z, c)
    # One row at a time: the random signs of a batch are drawn together, and would differ from row to row.
    rows = zip(z.split(1), (c[i : i + 1] for i in range(len(c))), strict=True)
    options: dict[str, Any] = {"trace": "hutchinson", "probes": HUTCHINSON}
    return torch.cat([mapper.log_prob_with_error(*row, **options, generator=generator_for(seed))[0] for row in rows])


def _chunks(rows: Tensor, columns: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(rows.split(ROWS), columns.split(ROWS), strict=True)
