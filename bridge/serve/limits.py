"""What one visitor may ask of the page, and what is said to who asks for more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bridge.arguments import whole
from bridge.errors import UserError
from bridge.textfile import split_lines

if TYPE_CHECKING:
    from PIL.Image import Image

CAPTION_LENGTH, CAPTIONS, PICTURES = 300, 8, 32
"""Characters of a caption, captions of a request, and pictures of a request, all captions together."""
UPLOAD_BYTES, UPLOAD_PIXELS, UPLOADS = 10 * 2**20, 16_000_000, 16
"""Of a picture: bytes, pixels by its header, and how many at a time."""
BODY_BYTES = UPLOAD_BYTES + 2**20
"""Of a request."""
WAITING = 64
"""Requests that wait or are worked on; one more is refused at once."""
MAX_SEED = 2**53
"""Numbers up to this are whole in a browser too."""


def captions_of(text: str, name: str = "captions", most: int = CAPTIONS) -> list[str]:
    """Captions, one a line.

    Raises:
        UserError: There is none, there are too many, or one is too long.
    """
    if not isinstance(text, str) or len(text) > (CAPTION_LENGTH + 2) * most:
        raise UserError(f"{name}: at most {most} lines of {CAPTION_LENGTH} characters; shorten them")
    lines = [line.strip() for line in split_lines(text) if line.strip()]
    if not lines:
        raise UserError(f"{name}: write what the picture should show")
    if len(lines) > most:
        raise UserError(f"{name}: at most {most} at a time, a line each")
    if any(len(line) > CAPTION_LENGTH for line in lines):
        raise UserError(f"{name}: at most {CAPTION_LENGTH} characters each; shorten them")
    return lines


def one_caption(text: str, name: str) -> str | None:
    """A caption, or None where nothing is written; see `captions_of`."""
    return captions_of(text, name, 1)[0] if isinstance(text, str) and text.strip() else None


def count_of(count: object, captions: int = 1, name: str = "pictures") -> int:
    """How many pictures of each caption.

    Raises:
        UserError: They are too many all together, or no whole number.
    """
    return whole(whole_number(count), name, 1, max(1, PICTURES // captions))


def seed_of(seed: object) -> int:
    """A seed from 0 to MAX_SEED.

    Raises:
        UserError: It is none.
    """
    return whole(whole_number(seed), "seed", 0, MAX_SEED)


def whole_number(value: Any) -> Any:
    """A browser's number, whole ones as int."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def open_upload(path: str | None, name: str, size: int | None = None) -> Image:
    """A picture that a visitor gave, as RGB.

    Raises:
        UserError: It is too large, by file or by its header, or cannot be read; its path is not told.
    """
    from bridge.images import ImageError, read_image  # noqa: PLC0415

    if not path:
        raise UserError(f"{name}: choose one first")
    data = Path(path).read_bytes() if Path(path).stat().st_size <= UPLOAD_BYTES else None
    if data is None:
        raise UserError(f"{name}: at most {UPLOAD_BYTES // 2**20} MB; choose a smaller one")
    try:
        return read_image(data, size=size, max_pixels=UPLOAD_PIXELS)
    except ImageError as error:
        raise UserError(f"{name}: {str(error).partition(': ')[2]}") from None


def check_uploads(paths: Sequence[str] | None) -> list[str]:
    """Several uploaded files.

    Raises:
        UserError: There are none, or too many.
    """
    if not paths:
        raise UserError("pictures: choose one or more first")
    if len(paths) > UPLOADS:
        raise UserError(f"pictures: at most {UPLOADS} at a time")
    return list(paths)
