"""Drawings: SVG to PNG, thumbnails, the colour of a drawing as a word, and copies in another colour."""

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image
from scipy.ndimage import binary_fill_holes

from bridge.colours import BLACK, HUES, REACH, UNNAMED, WORDS, colour_numbers, hsv, rgb_of
from bridge.images import flatten
from train.recipes.writing import Row, in_pool
from train.splits import order_of

DPI = 96  # Pixels to the inch; without it resvg_py refuses drawings in millimetres
THUMBNAIL = 16
DOMINANT, OF_ALL = 0.7, 0.35
"""Share of a word among the coloured pixels, and among all that is drawn, from which the drawing has its colour."""
WHITE, GREY = WORDS.index("white"), WORDS.index("grey")
Drawn = tuple[bytes, np.ndarray, str | None]  # PNG, thumbnail (16, 16, 3) uint8 on white, and colour word of a picture


def draw_on_white(svg: str, size: int = 64) -> bytes:
    """An SVG at size x size on white, as PNG bytes."""
    page = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size))
    return png_of(flatten(Image.open(io.BytesIO(page))), compress_level=6)


def draw_rows(rows: Sequence[Row], size: int) -> list[Row]:
    """Rows with an SVG text under "drawing", drawn on white as "png"; those that show nothing are left out."""
    pngs = in_pool(partial(draw_on_white, size=size), [row["drawing"] for row in rows], "draw")
    return [{**row, "png": png} for row, png in zip(rows, pngs, strict=True) if not is_blank(png)]


def thumbnails_of(rows: Sequence[Row]) -> np.ndarray:
    """Pictures small enough to be compared with each other, (N, 16, 16, 3) in [0, 1]."""
    return np.stack([_pixels(row["png"], THUMBNAIL) for row in rows])


def is_blank(png: bytes) -> bool:
    """Whether nothing was drawn (an icon that needs a feature the renderer lacks)."""
    return bool(np.ptp(_pixels(png, 64)) < 0.02)


def _pixels(png: bytes, size: int) -> np.ndarray:
    image = flatten(Image.open(io.BytesIO(png))).resize((size, size), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float32) / 255


def png_of(picture: Image.Image, compress_level: int = 4) -> bytes:
    """A picture as PNG bytes."""
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=compress_level)
    return out.getvalue()


def on_square(picture: Image.Image, size: int) -> Image.Image | None:
    """An RGBA drawing without the margins of its page, fitted into a square; None if it shows nothing."""
    pixels = np.asarray(picture)
    opaque = bool((pixels[..., 3] == 255).all())
    ink = (pixels[..., 3] > 0) & ((pixels[..., :3] < 250).any(-1) if opaque else True)
    if not ink.any():
        return None
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    picture = picture.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    scale = (size - 2 * (size // 32)) / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    page = Image.new("RGBA", (size, size), (255, 255, 255, 255 if opaque else 0))
    page.paste(picture.resize((width, height), Image.Resampling.LANCZOS), ((size - width) // 2, (size - height) // 2))
    return page


def draw(drawing: str | Path, size: int) -> bytes | None:
    """An SVG text, or a file less its margins, as a square transparent PNG; None if it shows nothing or is damaged."""
    try:
        if isinstance(drawing, str):
            return bytes(resvg_py.svg_to_bytes(svg_string=drawing, width=size, height=size))
        page = bytes(resvg_py.svg_to_bytes(svg_path=str(drawing), width=2 * size, dpi=DPI))
        picture = on_square(Image.open(io.BytesIO(page)).convert("RGBA"), size)
    except (ValueError, RuntimeError, OSError):
        return None
    return None if picture is None else png_of(picture)


def measured(png: bytes, coloured: bool = True) -> Drawn | None:
    """A picture for the dataset, its colour word only if asked for; None if nothing is to be seen on white."""
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    small = np.asarray(flatten(picture).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    return None if np.ptp(small) < 5 else (png, small, colour_word(picture) if coloured else None)


def drawn_of(job: tuple[str | Path, bool], size: int) -> Drawn | None:
    """Draw an SVG, and measure its colour where that is wanted."""
    png = draw(job[0], size)
    return None if png is None else measured(png, job[1])


def copies_of(job: tuple[bytes, str, str, int]) -> list[tuple[str, Drawn]]:
    """Up to `count` copies of a picture (PNG, its colour word, salt, count) in other colours, with their words."""
    png, word, salt, count = job
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    copies: list[tuple[str, Drawn]] = []
    for target in sorted(HUES.keys() - {word}, key=lambda t: order_of(t, salt)):
        if len(copies) == count:
            break
        copy = turned(picture, word, target)
        if copy is not None and (data := measured(png_of(copy))) is not None:
            copies.append((target, data))
    return copies


def colour_word(picture: Image.Image) -> str | None:
    """The colour that dominates an RGBA drawing, or None; what an outline encloses is white, a white page is not."""
    small = np.asarray(picture.resize((48, 48), Image.Resampling.BOX), dtype=np.float32) / 255
    drawn = small[..., 3] > 0.6
    count = np.bincount(colour_numbers(small[..., :3][drawn]), minlength=UNNAMED + 1).astype(float)
    holes = binary_fill_holes(drawn).sum() - drawn.sum()
    if (small[..., 3] > 0.98).all():
        count[WHITE] = 0
    black, white, grey = count[[BLACK, WHITE, GREY]]
    area = count.sum() + holes
    if area < 40:
        return None
    neutrals = ((black, black, 0.4), (grey, grey, 0.3), (white, white + holes, 0.45))
    neutral = sum(pixels for pixels, seen, least in neutrals if seen > least * area)
    best = int(count[:BLACK].argmax())
    vivid = count[:BLACK].sum() + count[UNNAMED]
    if count[best] >= DOMINANT * (vivid + neutral) and count[best] >= OF_ALL * area:
        return WORDS[best]
    shares = ((BLACK, 0.8), (WHITE, 0.8), (GREY, 0.7))
    return next((WORDS[number] for number, share in shares if count[number] >= share * area), None)


def turned(picture: Image.Image, word: str, target: str) -> Image.Image | None:
    """The picture, RGBA of colour `word`, turned to the hue of `target`; None if it does not then read as that."""
    pixels = np.asarray(picture, dtype=np.float32) / 255
    h, s, v = hsv(pixels[..., :3])
    own = (colour_numbers(pixels[..., :3]) == WORDS.index(word)) & (pixels[..., 3] > 0.5)
    angle = np.deg2rad(h[own])
    mean = np.rad2deg(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean()))
    offset = (h - mean + 180) % 360 - 180
    reach = (np.abs(offset) < REACH) & (s * v > 0.04)
    spread = 0.5 if target in {"orange", "yellow", "pink"} else 0.8
    new_h = (HUES[target] + spread * offset) % 360
    new_s, new_v = 1 - (1 - s) * (0.5 if word in {"pink", "purple"} and target in {"red", "orange", "yellow"} else 1), v
    if target in {"yellow", "orange"}:
        new_s, new_v = np.clip(new_s * 1.1, 0, 1), 1 - (1 - v) * 0.35
    elif target == "pink":
        new_s, new_v = s * 0.62, 1 - (1 - v) * 0.45
    elif target in {"red", "purple", "blue", "green"} and word in {"yellow", "orange", "pink"}:
        new_s, new_v = 1 - (1 - new_s) * 0.7, v * 0.9
    rgb = np.where(reach[..., None], rgb_of(new_h, new_s, new_v), pixels[..., :3])
    out = np.concatenate([rgb, pixels[..., 3:]], -1)
    image = Image.fromarray((out.clip(0, 1) * 255 + 0.5).astype(np.uint8))
    return image if colour_word(image) == target else None
