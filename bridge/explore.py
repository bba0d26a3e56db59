"""Walking about in the two spaces: between two pictures, along a caption's difference, in latents or in noise.

The first functions are pure and know latents alone; those below them take a pipeline.
"""

import contextlib
import math
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from bridge.arguments import check_one_of, number, whole
from bridge.changes import learn_change
from bridge.colours import colour_named
from bridge.composition import painting
from bridge.errors import UserError
from bridge.guidance import guided
from bridge.images import ENDINGS, read_facts, read_image, to_tensor
from bridge.mappers import InvertibleMapper, LocalFlowMapper, Mapper, VelocityMapper
from bridge.noise import generator_for, normal_rows, spread_number
from bridge.pipeline import SAMPLE_BATCH, BridgePipeline, draw, view_of
from bridge.text import TextCode
from bridge.variation import morphed, variations

KINDS = ("linear", "spherical")  # of walks: straight, or along a great circle
MORPH = "morph"  # between the drawings of two latents
SPACES = ("latent", "noise")  # where a walk goes: among latents, or the noise from which the mapper makes them
_OTHERS = "heic heif hif svg psd eps xcf raw dng cr2 cr3 nef arw tga jxl exr pdf mp4 mov avi mkv webm txt csv zip"
FILES = (*sorted(ENDINGS), *(f".{ending}" for ending in _OTHERS.split()))
"""Endings of names that are taken for a file's, whether such a picture can be read or not."""
_PATH = re.compile(r"(\.{0,2}/|~/|[A-Za-z]:[\\/])\S")
MAX_STEPS, MAX_SAMPLES, MAX_SCALE = 1000, 10_000, 100
SAMPLES = 64  # whose mean stands for a caption
PARALLEL = 1e-6  # sine of the angle below which two directions are taken for one, or for opposites


def lerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The point (1 - weight) a + weight b, of the shape of `a` and `b`."""
    _check_alike(a, b)
    return (1 - weight) * a + weight * b


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The point at `weight` of the angle from `a` to `b`, each one latent of any shape.

    Direction and length change at constant speed. From or to the origin the way is straight. Between opposite points
    the great circle is taken that passes the coordinate axis most nearly at right angles to `a`.

    Source: Shoemake 1985, Animating Rotation with Quaternion Curves; for latents White 2016, arXiv:1609.04468

    >>> slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0]), 0.5)
    tensor([1.4142, 1.4142])
    """
    _check_alike(a, b)
    u, v = a.detach().flatten().double(), b.detach().flatten().double()
    from_length, to_length = float(u.norm()), float(v.norm())
    if min(from_length, to_length) == 0:
        return lerp(a, b, weight)
    u, v = u / from_length, v / to_length
    cosine = float(u @ v)
    aside = v - cosine * u
    sine = float(aside.norm())
    angle = math.atan2(sine, cosine)
    if sine < PARALLEL:
        angle = math.pi if cosine < 0 else 0.0
        axis = F.one_hot(u.abs().argmin(), len(u)).to(u)
        aside = axis - (axis @ u) * u
        sine = max(float(aside.norm()), 1e-30)  # in one dimension nothing is at right angles
    direction = math.cos(weight * angle) * u + math.sin(weight * angle) * (aside / sine)
    length = (1 - weight) * from_length + weight * to_length
    return (length * direction).to(a.dtype).view_as(a)


def walk(a: Tensor, b: Tensor, steps: int, kind: str = "linear") -> Tensor:
    """Points from `a` to `b` inclusive, (steps, *shape); exactly `a` and `b` at the ends, of one shape.

    `steps` is 2 to MAX_STEPS, `kind` "linear" or "spherical" (`lerp`, `slerp`), or UserError.
    """
    check_one_of(kind, "kind", KINDS)
    _check_alike(a, b)
    go = lerp if kind == "linear" else slerp
    return torch.stack([a, *(go(a, b, weight) for weight in weights(steps)[1:-1]), b])


def weights(steps: int) -> list[float]:
    """Where the points of a walk lie, from 0 to 1. Raises UserError unless `steps` is 2 to MAX_STEPS."""
    steps = whole(steps, "steps", 2, MAX_STEPS)
    return [number / (steps - 1) for number in range(steps)]


def arithmetic(z: Tensor, plus: Tensor, minus: Tensor, scale: float = 1.0) -> Tensor:
    """The latent z + scale (plus - minus): `z` is (*z_shape) or (B, *z_shape), the others (*z_shape).

    Source: Mikolov et al. 2013, arXiv:1301.3781; in an image's latents Radford et al. 2015, arXiv:1511.06434
    """
    _check_alike(plus, minus)
    return z + scale * (plus - minus)


def _check_alike(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"a, b: expected one shape, got {tuple(a.shape)} and {tuple(b.shape)}")


@dataclass(frozen=True, eq=False)
class End:
    """One end of a walk, a picture or a caption."""

    name: str  # the file or the caption, as given
    kind: str  # "image" or "caption"
    z: Tensor  # the picture's mean latent, or the caption's sample, (*z_shape)
    code: TextCode  # one row; the null code for an image
    note: str | None = None  # why to trust a caption's sample less
    noise: Tensor | None = None  # what the sample was drawn from, where guidance is no part of it


def is_image(name: str) -> bool:
    """Whether `name` is an existing file, which is then read as a picture; anything else is a caption.

    Raises UserError if it is written like a picture's name or a path, and there is no such file.
    """
    exists = os.path.isfile(name)  # which is False of a name that is too long, where `Path` raises
    if name.startswith(("http://", "https://")):
        raise UserError(f"{name!r} is an address; download the picture and name its file")
    if not exists and (name.lower().endswith(FILES) or _PATH.match(name)):
        if os.path.isdir(name):
            raise UserError(f"{name!r} is a folder; name a picture in it")
        raise UserError(f"{name!r} is named like a picture and there is no such file; check the path")
    return exists


def image_end(pipe: BridgePipeline, name: str) -> End:
    """A picture file as an end, as near as the codec can draw it. Raises ImageError if it cannot be read."""
    return picture_end(pipe, read_image(name, size=pipe.codec.image_size), name)


def picture_end(pipe: BridgePipeline, picture: Image.Image, name: str = "") -> End:
    """An RGB picture of the model's size as an end; see `image_end`."""
    with pipe.plain():
        x = to_tensor([picture]).to(pipe.device)
        return End(name, "image", pipe.codec.refined(x).mean[0], code_of(pipe, None))


def caption_end(pipe: BridgePipeline, caption: str, seed: int = 0) -> End:
    """A caption as an end: its picture 0 of `seed`, as by `bridge generate`. Raises UserError if it cannot be read."""
    with pipe.plain():
        [job] = pipe.jobs([caption], 1, seed=seed)
        noise, code = None, pipe.codes([job], pipe.settings)
        if pipe.settings.guidance_scale == pipe.settings.temperature == 1:
            noise = torch.randn(pipe.mapper.sample_noise_shape, generator=generator_for(seed, 0)).to(pipe.device)
        return End(caption, "caption", pipe.sample([job], pipe.settings)[0], code, job.note, noise)


def open_end(pipe: BridgePipeline, name: str, seed: int = 0) -> End:
    """An existing file as a picture, anything else as a caption; see `image_end` and `caption_end`."""
    return image_end(pipe, name) if is_image(name) else caption_end(pipe, name, seed)


def between(
    pipe: BridgePipeline,
    a: End,
    b: End,
    steps: int,
    *,
    space: str = "latent",
    kind: str | None = None,
    num_inference_steps: int | None = None,
) -> Tensor:
    """Latents from one end to the other, (steps, *z_shape); the ends are exactly theirs.

    `space` "latent" walks between the latents, "noise" between the noise behind them; see `walk` and `noise_walk`.
    `kind` is of KINDS or, between latents, "morph", see `bridge.variation.morphed`; by default `usual_kind`.
    Raises UserError if an argument is none of these, or the mapper does not find the noise behind a latent.
    """
    check_one_of(space, "space", SPACES)
    kind = kind or usual_kind(pipe, space)
    check_one_of(kind, "kind", (*KINDS, MORPH) if space == "latent" else KINDS)
    with pipe.plain():
        if kind == MORPH:
            return torch.cat([a.z[None], morphed(a.z, b.z, weights(steps)[1:-1], pipe.codec), b.z[None]])
        if space == "latent":
            return walk(a.z, b.z, steps, kind)
        z = noise_walk(pipe, a, b, steps, kind, num_inference_steps=num_inference_steps)
        return torch.cat([a.z[None], z[1:-1], b.z[None]])


def usual_kind(pipe: BridgePipeline, space: str) -> str:
    """How a walk goes if nobody says: between latents a morph, where the codec tells drawings from paper."""
    if space != "latent":
        return "spherical"
    return MORPH if pipe.codec.draws_opacity else "linear"


def noise_walk(
    pipe: BridgePipeline, a: End, b: End, steps: int, kind: str = "spherical", *, num_inference_steps: int | None = None
) -> Tensor:
    """Latents whose noise lies on the way from that of one end to that of the other, (steps, *z_shape).

    The noise of a picture is found under the null code, that of a caption's sample, where it is not known, under its
    caption. On the way back the velocity goes over from one end's to the other's as the noise does: (1 - w) v(a) + w
    v(b), which is guidance at scale w. A mapper without velocity is inverted under the null code throughout. Fewer
    `num_inference_steps` (by default the model's) are easier to invert.
    Raises UserError if the mapper does not find the noise behind a latent, or not behind one of these.
    """
    mapper = pipe.view({end.name: end.code for end in (a, b) if end.kind == "caption"})
    if not isinstance(mapper, InvertibleMapper):
        raise UserError(f"space: {type(mapper).__name__} finds no noise behind a latent; use space latent")
    if not isinstance(mapper, VelocityMapper):
        first, last = mapper.invert(torch.stack([a.z, b.z]), _null(pipe, 2))
        return mapper.sample(_null(pipe, steps), noise=walk(first, last, steps, kind))
    count = pipe.resolve(num_inference_steps=num_inference_steps).num_inference_steps
    noise = [_noise_behind(mapper, end, count) for end in (a, b)]
    parts = [
        mapper.sample(b.code, noise=eps[None], guidance_scale=w, negative=a.code, num_inference_steps=count)
        for eps, w in zip(walk(noise[0], noise[1], steps, kind), weights(steps), strict=True)
    ]
    return torch.cat(parts)


def _noise_behind(mapper: VelocityMapper, end: End, count: int) -> Tensor:
    """The noise from which `count` steps lead to an end. Raises UserError, which names the end, if there is none."""
    if end.noise is not None:
        return end.noise
    try:
        return mapper.invert(end.z[None], end.code, num_inference_steps=count)[0]
    except UserError as error:
        raise UserError(str(error).replace("z: row 0", f"space: {end.name!r}")) from None


def caption_mean(pipe: BridgePipeline, caption: str | None, *, samples: int = SAMPLES, seed: int = 0) -> Tensor:
    """What a caption (None: no caption) is in latent space: the mean of 1 to MAX_SAMPLES samples, (*z_shape).

    The noise of sample i depends on (seed, i) alone, so that much of it cancels in a difference of two captions' means.
    Raises UserError if `samples` is out of range, or the encoder cannot read the caption.
    """
    samples, seed = whole(samples, "samples", 1, MAX_SAMPLES), whole(seed, "seed")
    with pipe.plain():
        if caption is not None:
            novelty = min(pipe.settings.novelty, 0)  # what memory holds, which variations are spread around
            return pipe(caption, samples, seed=seed, novelty=novelty, output_type="latent").images.mean(0)
        noise = normal_rows([(seed, i) for i in range(samples)], pipe.mapper.sample_noise_shape).to(pipe.device)
        settings = replace(pipe.settings, guidance_scale=1)
        return draw(view_of(pipe.mapper, settings), _null(pipe, samples), noise, settings).mean(0)


def edit(
    pipe: BridgePipeline,
    start: End,
    plus: str | None,
    minus: str | None,
    *,
    scale: float = 1.0,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Tensor:
    """A picture's or a caption's latent with more of one caption and less of another (None: no caption), (*z_shape).

    Where `plus` is a colour, what shows `minus`, a colour too, is painted in it, or without `minus` what shows the
    picture's most frequent colour; the codec must draw in layers. Where memory has pictures whose captions differ by
    `plus` in place of `minus`, such as "light skin tone" and "dark skin tone", it is what that changes in them; see
    `bridge.changes`. Otherwise it is the difference of the captions' `caption_mean`. `scale`, -MAX_SCALE to MAX_SCALE,
    is how much of the change.
    Raises UserError if `scale` is out of range, both captions are None, one cannot be read, or nothing shows `minus`.
    """
    if plus is None and minus is None:
        raise UserError("plus, minus: none given; name a caption to have more of, or less of")
    scale = number(scale, "scale", -MAX_SCALE, MAX_SCALE)
    with pipe.plain():
        colour, source = (text and colour_named(text) for text in (plus, minus))
        if colour and pipe.codec.draws_opacity and (source or minus is None):
            added = painting(start.z[None], colour, source, pipe.codec)[0]
            if source and not added.any():
                raise UserError(f"minus: nothing in the picture is {source}; leave it out to paint most of the picture")
            return start.z + scale * added
        if plus and minus and isinstance(pipe.mapper, LocalFlowMapper):
            change = learn_change(pipe.mapper, pipe.memory.captions, minus, plus)
            if change is not None:
                return change.apply(start.z[None], scale)[0]
        means = [caption_mean(pipe, caption, samples=samples, seed=seed) for caption in (plus, minus)]
        return arithmetic(start.z, means[0], means[1], scale)


def vary(
    pipe: BridgePipeline, start: End, count: int, *, shown: str | None = None, distance: float = 0.5, seed: int = 0
) -> Tensor:
    """Latents around one, (count, *z_shape); variation i depends on (seed, i), not on `count`.

    A memory of pictures lends to the latent's picture the colours and, by `distance`, the shapes of those that show the
    same; see `bridge.variation`. Along the velocity of a network, a latent is taken back to time t = (1 - distance)^3,
    to the mixture t z + (1 - t) eps, and forward again. From later times it mostly comes back as it was; the power
    spreads what changes over all distances. With a mapper that has no velocity, it turns by `distance` of the angle
    towards the mapper's own samples.

    `shown` is what the picture shows, by default a caption's own words, and of a picture nothing. Distance 0 gives the
    latent itself, 1, without a memory, what the model draws of what is shown.
    Raises UserError unless `count` is 1 to MAX_STEPS, `distance` 0 to 1 and `seed` a whole number.

    Source: Meng et al. 2022, SDEdit, arXiv:2108.01073
    """
    count, distance = whole(count, "n", 1, MAX_STEPS), number(distance, "distance", 0, 1)
    seed = whole(seed, "seed")
    if shown is None and start.kind == "caption":
        shown = start.name
    code = code_of(pipe, shown or None)
    with pipe.plain():
        mapper = pipe.view({shown: code} if shown else {})
        if isinstance(mapper, LocalFlowMapper):
            return _lent_to(pipe, mapper, start.z, shown, count, distance, seed)
        parts = []
        for first in range(0, count, SAMPLE_BATCH):
            keys = [(seed, i) for i in range(first, first + SAMPLE_BATCH)]  # always so many rows: see `pipeline`
            noise = normal_rows(keys, pipe.mapper.sample_noise_shape).to(pipe.device)
            c = TextCode.cat([code] * SAMPLE_BATCH).chosen(torch.tensor([spread_number(*key) for key in keys]))
            parts.append(_varied(pipe, mapper, start.z, c, noise, distance))
        return torch.cat(parts)[:count]


def _lent_to(
    pipe: BridgePipeline, mapper: LocalFlowMapper, z: Tensor, shown: str | None, count: int, distance: float, seed: int
) -> Tensor:
    """Variations of a latent (*z_shape) by pictures in memory that show a caption, or by any."""
    if distance == 0:
        return z.expand(count, *z.shape)
    c = pipe.codes(pipe.jobs([shown], count, seed=seed), pipe.settings) if shown else _null(pipe, count)
    choice = [spread_number(seed, i) for i in range(count)] if c.choice.isnan().any() else c.choice.tolist()
    draws = [(mapper.material_of(pooled), u) for pooled, u in zip(c.pooled, choice, strict=True)]
    return variations(draws, pipe.codec, distance, z)


def _varied(pipe: BridgePipeline, mapper: Mapper, z: Tensor, c: TextCode, noise: Tensor, distance: float) -> Tensor:
    """Latents around z (*z_shape), one for each row of noise."""
    settings = pipe.settings
    if not isinstance(mapper, VelocityMapper):
        return torch.stack([slerp(z, sample, distance) for sample in draw(mapper, c, noise, settings)])
    away, start = _null(pipe, len(c)), (1 - distance) ** 3
    steps = math.ceil((1 - start) * settings.num_inference_steps)
    at = start * z + (1 - start) * settings.temperature * noise
    for step in range(steps):
        length = (1 - start) / steps
        t = torch.full((len(at),), start + step * length, device=at.device)
        at = at + length * guided(mapper.velocity, at, t, c, away, settings.guidance_scale)
    return at


def caption_shown(pipe: BridgePipeline, start: End) -> str | None:
    """What an end shows, as a caption, or None if unknown.

    A caption shows itself, a picture by bridge what it was made of, another what the nearest picture in memory shows.
    """
    if start.kind == "caption":
        return start.name
    facts = {}
    with contextlib.suppress(UserError, OSError):  # "" is a folder
        facts = read_facts(Path(start.name).read_bytes())
    near = facts.get("shown") or facts.get("caption")
    return near if near is not None else next(iter(near_captions(pipe, start.z, 1)), None)


def code_of(pipe: BridgePipeline, caption: str | None) -> TextCode:
    """The text code of a caption, one row; the null code of None."""
    with pipe.plain():
        return _null(pipe, 1) if caption is None else pipe.code(caption)


def _null(pipe: BridgePipeline, count: int) -> TextCode:
    return TextCode.null(count, pipe.text_encoder.dim).to(pipe.device)


def near_captions(pipe: BridgePipeline, z: Tensor, count: int) -> list[str]:
    """Captions of the pictures in memory that are nearest to a latent (*z_shape), without repeats; none without one."""
    mapper, captions = pipe.mapper, dict[str, None]()
    if not isinstance(mapper, LocalFlowMapper):
        return []
    with pipe.plain():
        chunks = torch.arange(len(mapper.latents), device=z.device).split(4096)
        away = torch.cat([(mapper.picture_latents(some) - z).flatten(1).square().sum(1) for some in chunks])
    for picture in away.argsort().tolist():
        captions[pipe.memory.captions[int(mapper.link[mapper.start[picture]])]] = None
        if len(captions) == count:
            break
    return list(captions)
