"""Colours by their words: those of pixels, and drawings painted in another."""

import math

import numpy as np
import torch
from torch.nn import functional as F

PAINTS = {  # hue in degrees, saturation and value around which a thing is painted
    "red": (0.0, 0.8, 0.88),
    "orange": (27.0, 0.85, 0.97),
    "yellow": (50.0, 0.75, 0.98),
    "green": (125.0, 0.65, 0.68),
    "blue": (214.0, 0.7, 0.85),
    "purple": (275.0, 0.55, 0.65),
    "pink": (332.0, 0.42, 0.98),
    "brown": (25.0, 0.55, 0.5),
    "black": (25.0, 0.1, 0.2),
    "white": (25.0, 0.03, 0.95),
    "grey": (25.0, 0.05, 0.6),
}
WORDS = tuple(PAINTS)
BLACK = WORDS.index("black")  # number of the first word for what has no hue
UNNAMED = len(WORDS)  # number of what no word is sure of: skin, beige, turquoise between green and blue
HUES = {word: PAINTS[word][0] for word in WORDS[: WORDS.index("brown")]}  # that a turned drawing gets, in degrees
REACH = 45.0  # hues this near the dominant one turn with it, in degrees
SHADED = 0.7  # how much of the differences in saturation and value painting leaves
CHROMATIC = WORDS[:BLACK]  # those with a hue, between which a light or dark shade stays one
STEEPEST = 4.0  # power to which saturation and value are raised at most, to bring one colour's shade to another's
LEAST = 0.2  # share of what is drawn below which a hue is not its colour; then black, white or grey is
MOSTLY = 0.5  # share from which on what has the target already is painted again, rather than something else
TO_CONES = np.array(  # of Oklab, from linear sRGB
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
TO_LAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip
LINE = 0.6  # grey of the line around what is painted white


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


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Lightness in [0, 1] and two axes of hue and chroma, (..., 3), of RGB in [0, 1], (..., 3).

    Source: Ottosson 2020, A Perceptual Color Space for Image Processing
    """
    linear = np.where(rgb <= 0.04045, rgb / 12.92, (np.maximum(rgb, 0.04045) + 0.055) ** 2.4 / 1.055**2.4)
    return np.cbrt(linear @ TO_CONES.T) @ TO_LAB.T


def from_oklab(lab: np.ndarray) -> np.ndarray:
    """The inverse of `oklab`; what is not in RGB is cut off, (..., 3) in [0, 1]."""
    linear = ((lab @ np.linalg.inv(TO_LAB).T) ** 3 @ np.linalg.inv(TO_CONES).T).clip(0, 1)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


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
    grey = (chroma < 0.1) | (~warm & (((chroma < 0.16) & (v < 0.75)) | ((s < 0.4) & (v < 0.6))))
    number = np.where(grey, 10, number)
    number = np.where((v > 0.86) & (chroma < 0.1), 9, number)
    return np.where((v < 0.22) | ((v < 0.32) & (chroma < 0.14)), 8, number)


def colour_named(text: str) -> str | None:
    """The colour, one of WORDS, that a text names and nothing else; else None.

    >>> colour_named("Gray "), colour_named("a red bus")
    ('grey', None)
    """
    word = text.strip().lower().replace("gray", "grey")
    return word if word in WORDS else None


def painted(pixels: np.ndarray, target: str, source: str | None = None) -> np.ndarray:
    """A drawing, RGBA in [0, 1], (H, W, 4), in another colour, one of WORDS.

    What has the colour `source`, one of WORDS, is painted, with its shades; without a `source`, what has the drawing's
    most frequent colour, but not windows of a bus that is to be blue, unless it mostly is. The rest stays, and where
    nothing has that colour all does. White gets a grey line around, so that it is seen on white.
    """
    h, s, v = hsv(pixels[..., :3])
    seen = pixels[..., 3] > 0.5
    number = colour_numbers(pixels[..., :3])
    colour = WORDS.index(source) if source else _main_colour(number[seen], WORDS.index(target))
    own, offset = number == colour, np.zeros_like(h)
    if (colour < BLACK or colour == UNNAMED) and (seen & own).any():
        angle = np.deg2rad(h[seen & own])
        mean = np.rad2deg(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean()))
        offset = (h - mean + 180) % 360 - 180
        own = (np.abs(offset) < REACH) & (s * v > 0.06)
    if not (seen & own).any():
        return pixels
    hue, saturation, value = PAINTS[target]
    new_h = (hue + offset / 4) % 360
    if source in CHROMATIC and target in CHROMATIC:
        new_s, new_v = (
            x ** np.clip(math.log(to) / math.log(from_), 1 / STEEPEST, STEEPEST)
            for x, from_, to in zip((s, v), PAINTS[source][1:], PAINTS[target][1:], strict=True)
        )
    else:
        new_s = (saturation + SHADED * saturation * (s - s[seen & own].mean())).clip(0, 1)
        new_v = (value + SHADED * (v - v[seen & own].mean())).clip(0.03, 1)
    rgb = np.where(own[..., None], rgb_of(new_h, new_s, new_v), pixels[..., :3])
    if target == "white":
        width = max(1, len(seen) // 64)
        beyond = F.max_pool2d(torch.from_numpy(~seen)[None].float(), 2 * width + 1, 1, width)[0].numpy() > 0
        rgb = np.where((own & seen & beyond)[..., None], LINE, rgb)
    return np.concatenate([rgb, pixels[..., 3:]], -1)


def _main_colour(number: np.ndarray, target: int) -> int:
    """The most frequent of colours' numbers, those with a hue first; not the target, unless MOSTLY or nothing else."""
    share = np.bincount(number, minlength=UNNAMED + 1) / max(1, len(number))
    others = share.copy()
    others[target] *= share[target] >= MOSTLY
    for counted in (others, share):
        hued, plain = counted.copy(), counted[BLACK:UNNAMED]
        hued[BLACK:UNNAMED] = 0
        if hued.max() >= LEAST:
            return int(hued.argmax())
        if plain.max() >= LEAST:
            break
    return BLACK + int(plain.argmax())
