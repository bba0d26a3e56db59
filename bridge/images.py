"""Pictures in and out: read any file safely, write PNG files that say where they come from, show many.

Importing this is cheap: without torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageCms, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from bridge.captions import well_formed
from bridge.checkpoint import atomic_write
from bridge.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
MAX_PIXELS = 50_000_000
# Not everything that Pillow opens: its EPS reader, for one, runs another program on the file.
FORMATS = ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "JPEG2000", "QOI", "AVIF", "DIB"]
_ENDINGS = """
png apng jpg jpeg jpe jif jfif jfi mpo gif webp bmp dib tif tiff ppm pgm pbm pnm ico jp2 j2k j2c jpc jpf jpx qoi avif
avifs"""
ENDINGS = frozenset(f".{ending}" for ending in _ENDINGS.split())  # of their files, in lower case
_OURS = "bridge:"
_DESCRIPTION = 0x010E  # ImageDescription, of EXIF
_PNG = b"\x89PNG\r\n\x1a\n"
_INK, _GREY, _RULE, _FRAME = (32, 32, 32), (120, 120, 120), (228, 228, 228), (236, 236, 236)
_MAX_LINES = 6


class ImageError(UserError):
    """A picture that cannot be read; the message names the file."""


class AnimatedImageWarning(UserWarning):
    """A picture has several frames, of which the first is read."""


def read_image(
    source: str | Path | bytes, size: int | None = None, background: Colour | None = WHITE, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Any picture, a file or its bytes, as RGB: upright, opaque, 8 bits, its first frame.

    `size` fits it into a square of so many pixels, centred; None keeps its size. `background`, RGB in 0..255, is the
    colour beside it and behind what is transparent; None keeps transparency, as RGBA. More than `max_pixels` are
    refused from the header, before they are decoded.
    Raises ImageError if it is empty, truncated, too large, or no picture; warns AnimatedImageWarning of several frames.
    """
    if size is not None and size < 1:
        raise UserError(f"size: expected 1 or more pixels, got {size}")
    name = f"<{len(source)} bytes>" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        image = flatten(_decode(data, max_pixels), background)
        return image if size is None else _fit(image, size, background)
    except AnimatedImageWarning:  # where warnings are errors
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name}: is no picture of a known format ({', '.join(FORMATS)})") from None
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise ImageError(f"{name}: {error.strerror}; check the path") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
        raise ImageError(f"{name}: cannot be read as a picture ({error}); replace or remove it") from error


def flatten(image: Image.Image, background: Colour | None = WHITE) -> Image.Image:
    """A decoded picture as 8-bit RGB on `background`; without one, as RGBA where it is transparent.

    Raises ImageError if it has floating-point pixels.
    """
    if image.mode == "F":
        raise ImageError("it has floating-point pixels, expected 8 or 16 bits")
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.mode == "CMYK" and image.info.get("icc_profile"):
        image = _from_ink(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    if background is None:
        return image if image.getchannel("A").getextrema() != (255, 255) else image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image).convert("RGB")


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size as pixels `x`, (B, 3, H, W) float32 in [0, 1].

    Raises ValueError if there are none, or they differ in size or are not RGB.
    """
    import torch  # noqa: PLC0415

    kinds = {(image.mode, image.size) for image in images}
    if len(kinds) != 1 or next(iter(kinds))[0] != "RGB":
        raise ValueError(f"images: expected one or more RGB pictures of one size, got {sorted(kinds)}; use read_image")
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return pixels.permute(0, 3, 1, 2).contiguous().float() / 255


def to_pil(x: Tensor) -> list[Image.Image]:
    """Pixels `x` (B, 3 or 4, H, W) as RGB or RGBA pictures, rounded to 8 bits; beyond [0, 1] they are cut off.

    Raises ValueError if `x` has another shape, or values that are not finite.
    """
    if x.ndim != 4 or x.shape[1] not in (3, 4) or not x.isfinite().all():
        raise ValueError(f"x: expected finite pixels (B, 3 or 4, H, W), got {tuple(x.shape)}")
    pixels = (x.detach().float().clamp(0, 1) * 255).round().byte()
    return [Image.fromarray(row) for row in pixels.permute(0, 2, 3, 1).cpu().numpy()]


def save_png(image: Image.Image, path: str | Path, facts: Mapping[str, str | float | int]) -> None:
    """Write a PNG with its provenance, whole or not at all; an old file is replaced.

    Each fact becomes a text chunk "bridge:<name>", which Pillow gives back in `image.text`.
    Raises ValueError if a fact's name is not 1 to 70 printable ASCII characters, OSError if it cannot be written.
    """
    info, buffer = PngInfo(), io.BytesIO()
    for name, value in facts.items():
        if not (0 < len(name) <= 70 and name.isascii() and name.isprintable()):
            raise ValueError(f"facts: {name!r} cannot name a PNG text chunk; use up to 70 ASCII characters")
        info.add_itxt(f"{_OURS}{name}", well_formed(str(value)).replace("\0", "\ufffd"))
    image.save(buffer, "PNG", pnginfo=info)
    atomic_write(path, buffer.getvalue(), durable=False)


def save_picture(image: Image.Image, path: str | Path, facts: Mapping[str, str | float | int]) -> None:
    """`save_png`, or where `path` ends so a lossless WebP, which holds the facts as JSON in its EXIF description."""
    if Path(path).suffix.lower() != ".webp":
        save_png(image, path, facts)
        return
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[_DESCRIPTION] = json.dumps({f"{_OURS}{name}": well_formed(str(value)) for name, value in facts.items()})
    image.save(buffer, "WEBP", lossless=True, exact=True, exif=exif.tobytes())
    atomic_write(path, buffer.getvalue(), durable=False)


def read_facts(data: bytes) -> dict[str, str]:
    """The facts that `save_picture` put into a picture; none in anybody else's. Raises ImageError if it is none."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG", "WEBP"]) as image:
            if image.format == "PNG":
                image.load()
                texts = dict(getattr(image, "text", {}))
            else:
                texts = json.loads(image.getexif().get(_DESCRIPTION, "{}"))
    except UnidentifiedImageError:
        raise ImageError("it is no PNG or WebP") from None
    except Exception as error:  # as in `read_image`
        raise ImageError(f"it cannot be read ({error})") from error
    known = texts if isinstance(texts, dict) else {}
    return {name.removeprefix(_OURS): str(value) for name, value in known.items() if name.startswith(_OURS)}


def header_of(data: bytes) -> tuple[tuple[int, int], str, str, bool]:
    """Width and height, mode and format of a picture's bytes, and whether it has several frames, by its header."""
    with Image.open(io.BytesIO(_without_texts(data)), formats=FORMATS) as image:
        return image.size, image.mode, image.format or "", _is_animated(image)


def facts_of(data: bytes) -> set[str]:
    """Names of the facts that `save_png` put into a picture; none in anybody else's."""
    keywords = [data[start + 8 : start + 90] for kind, start, _ in _png_chunks(data) if kind == b"iTXt"]
    words = (keyword.partition(b"\0")[0].decode("latin-1") for keyword in keywords)
    return {word.removeprefix(_OURS) for word in words if word.startswith(_OURS)}


def slug(caption: str) -> str:
    """A file name for a caption, safe on every file system: what ASCII shows of it, then 8 hex digits of its sha256.

    Captions that are canonically equal share it; others differ, also where only letter case does.

    >>> slug("A smiling cat/..")
    'a-smiling-cat-546bba7f'
    """
    caption = unicodedata.normalize("NFC", caption)
    ascii_part = unicodedata.normalize("NFKD", caption).encode("ascii", "ignore").decode().lower()
    readable = re.sub(r"[^a-z0-9]+", "-", ascii_part)[:40].strip("-") or "caption"
    return f"{readable}-{hashlib.sha256(caption.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    captions: Sequence[str],
    notes: Sequence[str | None] | None = None,
    cell: int = 128,
    columns: int = 12,
) -> Image.Image:
    """One page with a row of pictures a caption, any number and size, scaled to fit `cell` by `cell` pixels.

    Captions are written left of their rows, notes below in small grey letters; a row of more than `columns` pictures
    continues below. Raises ValueError if there are no rows, or not as many captions or notes as rows.
    """
    notes = [None] * len(rows) if notes is None else notes
    if not rows or not len(rows) == len(captions) == len(notes):
        counts = f"{len(rows)}, {len(captions)}, {len(notes)}"
        raise ValueError(f"rows, captions, notes: expected as many of each and at least one, got {counts}")
    strips = [_strip(*row, cell, columns) for row in zip(rows, captions, notes, strict=True)]
    margin = y = max(cell // 8, 4)
    width = max(strip.width for strip in strips) + 2 * margin
    page = Image.new("RGB", (width, sum(strip.height + margin for strip in strips) + margin), WHITE)
    for strip in strips:
        if y > margin:
            ImageDraw.Draw(page).line([(margin, y - margin // 2), (width - margin, y - margin // 2)], _RULE)
        page.paste(strip, (margin, y))
        y += strip.height + margin
    return page


def _strip(row: Sequence[Image.Image], caption: str, note: str | None, cell: int, columns: int) -> Image.Image:
    """One row of the sheet: a column of text, one and a half cells wide, then the pictures."""
    side, gap = cell * 3 // 2, max(cell // 16, 2)
    text: list[tuple[str, Font, int, Colour]] = []
    for words, points, colour in ((caption, max(cell // 8, 9), _INK), (note or "", max(cell // 10, 9), _GREY)):
        font = ImageFont.load_default(points)
        text += [(line, font, round(points * 1.3), colour) for line in text_lines(words, font, side)]
    text_height = sum(line_height for _, _, line_height, _ in text)
    height = max(-(-len(row) // columns) * (cell + gap) - gap, text_height, cell)
    strip = Image.new("RGB", (side + min(len(row), columns) * (cell + gap), height), WHITE)
    draw = ImageDraw.Draw(strip)
    y = max(0, (cell - text_height) // 2)
    for line, font, line_height, colour in text:
        draw.text((0, y), line, colour, font)
        y += line_height
    for index, picture in enumerate(row):
        x, y = side + gap + index % columns * (cell + gap), index // columns * (cell + gap)
        strip.paste(_fit(flatten(picture), cell, WHITE), (x, y))
        draw.rectangle([x, y, x + cell - 1, y + cell - 1], outline=_FRAME)
    return strip


def text_lines(text: str, font: Font, width: int) -> list[str]:
    """Lines no wider than `width`; a word that is wider breaks, and what is too long ends in an ellipsis."""
    text = unicodedata.normalize("NFC", well_formed(text[:1000]))
    lines: list[str] = []
    for word in "".join(_drawable(ch, font) if ch.isprintable() else " " for ch in text).split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines += _pieces(word, font, width)
        if len(lines) > _MAX_LINES:
            line = lines[_MAX_LINES - 1]
            while line and font.getlength(f"{line}…") > width:
                line = line[:-1]
            return [*lines[: _MAX_LINES - 1], f"{line.rstrip()}…"]
    return lines


def _drawable(ch: str, font: Font) -> str:
    """`ch`, or without its accent where the font lacks it; else the font's own box."""
    if ch.isascii() or bytes(font.getmask(ch)) != bytes(font.getmask("\U0010fffd")):
        return ch
    if unicodedata.category(ch) == "Pd":
        return "-"
    return unicodedata.normalize("NFD", ch).encode("ascii", "ignore").decode() or ch


def _pieces(word: str, font: Font, width: int) -> list[str]:
    """`word` cut into parts that fit."""
    pieces = [""]
    for ch in word:
        if pieces[-1] and font.getlength(pieces[-1] + ch) > width:
            pieces.append("")
        pieces[-1] += ch
    return pieces


def _decode(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise ImageError("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise ImageError(f"{image.width} x {image.height} pixels are more than max_pixels={max_pixels}")
            if _is_animated(image):
                warnings.warn(AnimatedImageWarning("animated pictures are read by their first frame"), stacklevel=2)
            image.seek(0)
            image.load()  # all of it: verify() passes truncated files
            if image.format == "PNG" and "transparency" in image.info:
                image.info["transparency"] = _hidden(image.info["transparency"], image.mode, depth=data[24])
            return ImageOps.exif_transpose(image)
    except (ValueError, OSError):
        bare = _without_texts(data)
        if len(bare) == len(data):
            raise
        return _decode(bare, max_pixels)


def _is_animated(image: Image.Image) -> bool:
    return getattr(image, "is_animated", False) and image.format != "MPO"  # MPO: a photo and its depth


def _hidden(value: Any, mode: str, depth: int) -> Any:
    """A PNG's transparent colour on the scale of the pixels, which Pillow brings to 8 bits without it."""
    if mode == "RGB" and depth == 16:
        return tuple(part >> 8 for part in value)
    return value * 255 // (2**depth - 1) if mode == "L" and depth < 8 else value


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk of a PNG; none if it is no PNG."""
    at = len(_PNG)
    while data.startswith(_PNG) and at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        yield data[at + 4 : at + 8], at, end
        at = end


def _without_texts(data: bytes) -> bytes:
    """A PNG without texts and colour profile: Pillow refuses the picture where one of them is long."""
    kept = [data[a:b] for kind, a, b in _png_chunks(data) if kind not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP")]
    return _PNG + b"".join(kept) if kept else data


def _from_ink(image: Image.Image) -> Image.Image:
    """CMYK by its own profile, or, where that is no use, by plain arithmetic later."""
    with contextlib.suppress(OSError, ImageCms.PyCMSError):
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB") or image
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError("it has 32 bits a pixel, expected 8 or 16")
    grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if isinstance(hidden := image.info.get("transparency"), int):
        grey.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return grey


def _fit(image: Image.Image, size: int, background: Colour | None) -> Image.Image:
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    if width == height:
        return image
    canvas = Image.new(image.mode, (size, size), background or (WHITE if image.mode == "RGB" else 0))
    canvas.paste(image, ((size - width) // 2, (size - height) // 2))
    return canvas
