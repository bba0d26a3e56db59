"""Colours by their words: those of pixels, drawings painted in another, and captions of a thing in one.

Of "a pink elephant", memory has elephants and pink things. Its elephants are painted and encoded: for this caption,
the local flow then draws from these in place of pictures in memory. Of "a black cat", it has black cats, of which some
are violet: those that are black are drawn from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bridge.codecs import ImageCodec
from bridge.composition import content_words, drawn, draws_opacity
from bridge.errors import UserError
from bridge.mappers.local import Material

if TYPE_CHECKING:
    from bridge.mappers import LocalFlowMapper

WORDS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")
BLACK, UNNAMED = WORDS.index("black"), len(WORDS)
"""Number of the first word for what has no hue, and of what no word is sure of: skin, beige, turquoise between green
and blue."""
HUES = {"red": 0.0, "orange": 27.0, "yellow": 50.0, "green": 125.0, "blue": 214.0, "purple": 275.0, "pink": 332.0}
"""Hue in degrees that a turned drawing gets."""
BROWN = 25.0  # hue in degrees
REACH = 45.0  # hues this near the dominant one turn with it, in degrees
SHADES = {
    "red": (0.8, 0.88),
    "orange": (0.85, 0.97),
    "yellow": (0.75, 0.98),
    "green": (0.65, 0.68),
    "blue": (0.7, 0.85),
    "purple": (0.55, 0.65),
    "pink": (0.42, 0.98),
    "brown": (0.55, 0.5),
    "black": (0.1, 0.2),
    "white": (0.03, 0.95),
    "grey": (0.05, 0.6),
}
"""Saturation and value around which a thing is painted."""
SHADED = 0.7  # how much of the differences in saturation and value painting leaves
LEAST = 0.2  # share of what is drawn below which a hue is not its colour; then black, white or grey is
KEPT, WEIGHTY = 0.1, 0.01
"""Weight of the pictures that have a caption's colour, of all that it draws from, below which all are drawn from; and
of one of them, below which it does not count."""
LINE = 0.6  # grey of the line around what is painted white
PAINTED = 24  # pictures that a caption draws from
WHOLE, THING = 0.85, 0.85  # cosine with a known caption of a caption known as a whole, and of a known thing


def hsv(rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue in degrees, saturation and value in [0, 1], each (...), of RGB in [0, 1], (..., 3)."""
    high, low = rgb.max(-1), rgb.min(-1)
    span = high - low
    safe = np.where(span > 0, span, 1)
    r, g, b = np.moveaxis(rgb, -1, 0)
    sector = np.where(high == r, ((g - b) / safe) % 6, np.where(high == g, (b - r) / safe + 2, (r - g) / safe + 4))
    return np.where(span > 0, sector * 60, 0) % 360, span / np.maximum(high, 1e-6), high


def rgb_of(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The inverse of `hsv`, (..., 3)."""
    k = (np.array([5.0, 3.0, 1.0]) + hue[..., None] / 60) % 6
    return value[..., None] * (1 - saturation[..., None] * np.clip(np.minimum(k, 4 - k), 0, 1))


def colour_numbers(rgb: np.ndarray) -> np.ndarray:
    """Number into WORDS of every pixel, or UNNAMED; RGB in [0, 1], (..., 3) -> (...) int."""
    h, s, v = hsv(rgb)
    chroma = s * v
    bounds = np.array([11, 36.5, 66, 168, 180, 252, 294, 346])
    by_hue = np.array([0, 1, 2, 3, UNNAMED, 4, 5, 6, 0])
    number = by_hue[np.searchsorted(bounds, h, "right")]
    warm = (h < 48) | (h >= 346)
    number = np.where((number == 0) & (s < 0.6) & (v > 0.75), 6, number)  # light red is pink
    number = np.where((number == 1) & (s < 0.5), UNNAMED, number)  # skin, beige
    number = np.where((number == 2) & (s < 0.35), UNNAMED, number)
    number = np.where((number == 2) & (v < 0.65), UNNAMED, number)  # olive
    number = np.where((h >= 9) & (h < 48) & (v < 0.77) & (s > 0.25), 7, number)  # dark orange is brown
    number = np.where((h >= 346) & (v < 0.35), 7, np.where((h < 9) & (v < 0.4), 7, number))
    number = np.where((number == 6) & (v < 0.55), 5, number)  # dark pink is purple
    number = np.where(
        (chroma < 0.1) | ((chroma < 0.16) & ~warm & (v < 0.75)) | ((s < 0.4) & (v < 0.6) & ~warm), 10, number
    )
    number = np.where((v > 0.86) & (chroma < 0.1), 9, number)
    return np.where((v < 0.22) | ((v < 0.32) & (chroma < 0.14)), 8, number)


def painted(pixels: np.ndarray, target: str) -> np.ndarray:
    """A drawing, RGBA in [0, 1], (H, W, 4), in another colour, one of WORDS.

    What has its most frequent colour is painted, with its shades; the rest stays. White gets a grey line around, so
    that it is seen on white.
    """
    h, s, v = hsv(pixels[..., :3])
    seen = pixels[..., 3] > 0.5
    number = colour_numbers(pixels[..., :3])
    count = np.bincount(number[seen], minlength=UNNAMED + 1) / max(1, seen.sum())
    plain = BLACK + int(count[BLACK:UNNAMED].argmax())
    count[BLACK:UNNAMED] = 0
    if count.max() < LEAST:
        own, offset = number == plain, np.zeros_like(h)
    else:
        angle = np.deg2rad(h[seen & (number == count.argmax())])
        mean = np.rad2deg(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean()))
        offset = (h - mean + 180) % 360 - 180
        own = (np.abs(offset) < REACH) & (s * v > 0.06)
    if not (seen & own).any():
        return pixels
    saturation, value = SHADES[target]
    new_h = (HUES.get(target, BROWN) + offset / 4) % 360
    new_s = (saturation + SHADED * saturation * (s - s[seen & own].mean())).clip(0, 1)
    new_v = (value + SHADED * (v - v[seen & own].mean())).clip(0.03, 1)
    rgb = np.where(own[..., None], rgb_of(new_h, new_s, new_v), pixels[..., :3])
    if target == "white":
        width = max(1, len(seen) // 64)
        beyond = F.max_pool2d(torch.from_numpy(~seen)[None].float(), 2 * width + 1, 1, width)[0].numpy() > 0
        rgb = np.where((own & seen & beyond)[..., None], LINE, rgb)
    return np.concatenate([rgb, pixels[..., 3:]], -1)


@dataclass(frozen=True)
class Coloured:
    """The colour and the thing of a caption, and pictures of that in this colour; whether they were painted in it."""

    colour: str
    thing: str
    material: Material
    painted: bool = True


def colour_and_thing(caption: str) -> tuple[str, str] | None:
    """The two words or more of an English caption such as "a white dog", or None where it is no such caption.

    >>> colour_and_thing("A gray school bus."), colour_and_thing("an orange"), colour_and_thing("a dog in a red box")
    (('grey', 'school bus'), None, None)
    """
    words = content_words(caption)
    colour = words[0].replace("gray", "grey") if words else ""
    return (colour, " ".join(words[1:])) if colour in WORDS and len(words) > 1 else None


def coloured(
    caption: str, code: Tensor, mapper: LocalFlowMapper, encode: Callable[[str], Tensor], codec: ImageCodec
) -> Coloured | None:
    """Pictures that show a caption in its colour, or None where nothing is to be painted or left out.

    That is so where the caption does not begin with a colour, memory knows all of it, in this colour, or not the thing,
    or the codec draws no opacity. For the arguments, see `bridge.composition.compose`.
    """
    words = colour_and_thing(caption)
    if words is None or not draws_opacity(codec):
        return None
    if mapper.familiarity(code) >= WHOLE:
        return _of_that_colour(words, code, mapper, codec)
    try:
        thing = encode(words[1])
    except UserError:  # nothing that the encoder reads
        return None
    if mapper.familiarity(thing) < THING:
        return None
    near, log_weight = (torch.from_numpy(x[:PAINTED]) for x in mapper.nearest(thing))
    rgba = drawn(near.numpy(), mapper, codec).movedim(1, -1).numpy()
    pixels = torch.from_numpy(np.stack([painted(x, words[0]) for x in rgba])).movedim(-1, 1).float()
    on_white = pixels[:, :3] * pixels[:, 3:] + 1 - pixels[:, 3:]
    latents = codec.encode(on_white.to(code.device)).mean
    return Coloured(*words, Material(latents, log_weight.log_softmax(0), mapper.style.cpu()[near]))


def _of_that_colour(
    words: tuple[str, str], code: Tensor, mapper: LocalFlowMapper, codec: ImageCodec
) -> Coloured | None:
    """Those of a caption's nearest pictures that have its colour; None where all have it, or too few."""
    near, log_weight = (torch.from_numpy(x[:PAINTED]) for x in mapper.nearest(code))
    counted = log_weight.exp() >= WEIGHTY
    near, log_weight = near[counted], log_weight[counted]
    if log_weight.exp().sum() < KEPT:
        return None
    rgba = drawn(near.numpy(), mapper, codec).movedim(1, -1).numpy()
    seen = rgba[..., 3] > 0.5
    own = (colour_numbers(rgba[..., :3]) == WORDS.index(words[0])) & seen
    has = torch.from_numpy(own.sum((1, 2)) >= LEAST * seen.sum((1, 2)))
    if has.all() or log_weight[has].exp().sum() < KEPT:
        return None
    latents = mapper.picture_latents(near[has].to(mapper.latents.device)).to(code.device)
    return Coloured(*words, Material(latents, log_weight[has].log_softmax(0), mapper.style.cpu()[near[has]]), False)
