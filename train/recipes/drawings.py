"""Drawings on nothing: SVG to PNG with transparency, measured, and copied in other colours."""

import io
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

from bridge.images import flatten
from train.recipes.clipart import DPI
from train.recipes.colours import HUES, colour_word, turned
from train.splits import order_of

THUMBNAIL = 16


def png_of(picture: Image.Image) -> bytes:
    """A picture as PNG bytes."""
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=4)
    return out.getvalue()


def on_square(picture: Image.Image, size: int) -> Image.Image | None:
    """A drawing without the margins of its page, fitted into a square; None if it shows nothing."""
    pixels = np.asarray(picture)
    opaque = bool((pixels[..., 3] == 255).all())
    ink = (pixels[..., 3] > 0) & ((pixels[..., :3] < 250).any(-1) if opaque else True)
    if not ink.any():
        return None
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    picture = picture.crop((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    room = size - 2 * (size // 32)
    scale = room / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    page = Image.new("RGBA", (size, size), (255, 255, 255, 255 if opaque else 0))
    page.paste(picture.resize((width, height), Image.Resampling.LANCZOS), ((size - width) // 2, (size - height) // 2))
    return page


def draw(drawing: str | Path, size: int) -> bytes | None:
    """An SVG on nothing, size x size, as PNG bytes with transparency; None if it cannot be drawn or shows nothing."""
    try:
        if isinstance(drawing, str):
            return bytes(resvg_py.svg_to_bytes(svg_string=drawing, width=size, height=size))
        page = bytes(resvg_py.svg_to_bytes(svg_path=str(drawing), width=2 * size, dpi=DPI))
        picture = on_square(Image.open(io.BytesIO(page)).convert("RGBA"), size)
    except (ValueError, RuntimeError, OSError):
        return None
    return None if picture is None else png_of(picture)


def thumbnail(picture: Image.Image) -> np.ndarray:
    """A picture on white, (16, 16, 3) uint8."""
    return np.asarray(flatten(picture).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))


Drawn = tuple[bytes, np.ndarray, str | None]
"""PNG, thumbnail and colour word of a picture."""


def measured(png: bytes, coloured: bool = True) -> Drawn | None:
    """A picture for the dataset, its colour word only if asked for; None if nothing is to be seen on white."""
    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    small = thumbnail(picture)
    return None if np.ptp(small) < 5 else (png, small, colour_word(picture) if coloured else None)


def drawn_of(job: tuple[str | Path, bool], size: int) -> Drawn | None:
    """Draw and measure an SVG, and its colour where that is wanted."""
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
