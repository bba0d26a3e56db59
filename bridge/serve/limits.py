"""What one visitor may ask of the page, by its fields or by a link; what is out of bounds is a UserError."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL.Image import Image

from bridge.arguments import number, whole
from bridge.errors import UserError
from bridge.images import ImageError, read_image
from bridge.textfile import split_lines

CAPTION_LENGTH = 300  # characters
CAPTIONS, PICTURES = 8, 32  # of a request, all captions' pictures together
UPLOAD_BYTES, UPLOAD_PIXELS, UPLOADS = 10 * 2**20, 16_000_000, 16  # of a picture, the latter by its header; how many
BODY_BYTES = UPLOAD_BYTES + 2**20  # of a request
WAITING = 64  # requests that wait or are worked on; one more is refused at once
MAX_SEED = 2**53  # numbers up to this are whole in a browser too
RANGES = {  # of the numbers of the tab Draw
    "count": (1, PICTURES),
    "seed": (0, MAX_SEED),
    "guidance": (0, 20),
    "temperature": (0, 2),
    "steps": (1, 50),
    "novelty": (-1, 1),
    "size": (64, 1024),
}
WHOLE = ("count", "seed", "steps", "size")


@dataclass(frozen=True)
class Fields:
    """What the fields of the tab Draw hold; see `bridge.pipeline.Settings`."""

    captions: str = ""
    count: int = 8
    seed: int = 0
    style: str = ""
    guidance: float = 1.0
    temperature: float = 1.0
    steps: int = 12
    novelty: float = 0.0
    size: int = 128
    transparent: bool = False

    def query(self, default: "Fields") -> str:
        """What of a link restores these, where it differs from `default`."""
        changed = {name: value for name, value in asdict(self).items() if value != getattr(default, name)}
        return urlencode({name: int(value) if isinstance(value, bool) else value for name, value in changed.items()})


def restored(query: Mapping[str, str], default: Fields, styles: Collection[str]) -> tuple[Fields, list[str]]:
    """Fields as a link's query has them, else as `default`, and why a field of the link is left out, a line each."""
    values, wrong = asdict(default), []
    for name in [name for name in values if name in query]:
        try:
            values[name] = _value(name, str(query[name]), styles)
        except UserError as error:
            wrong.append(f"the link's {error}")
    return Fields(**values), wrong


def _value(name: str, text: str, styles: Collection[str]) -> Any:
    if name == "captions":
        return "\n".join(captions_of(text))
    if name == "style":
        return style_of(text, styles)
    if name == "transparent":
        return text == "1"
    try:
        value = float(text[:40])
    except ValueError:
        value = float("nan")
    value = whole_number(number(value, name, *RANGES[name]))
    if name in WHOLE and not isinstance(value, int):
        raise UserError(f"{name}: expected a whole number")
    return value


def captions_of(text: str, name: str = "captions", most: int = CAPTIONS) -> list[str]:
    """Captions, one a line: at least one, at most `most` of CAPTION_LENGTH characters."""
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


def style_of(style: object, styles: Collection[str]) -> str:
    """A style, one of `styles`."""
    if not isinstance(style, str) or style not in styles:
        raise UserError("style: is none that this model knows")
    return style


def count_of(count: object, captions: int = 1) -> int:
    """How many pictures of each caption; all captions' together are at most PICTURES."""
    return whole(whole_number(count), "pictures", 1, max(1, PICTURES // captions))


def seed_of(seed: object) -> int:
    """A seed from 0 to MAX_SEED."""
    return whole(whole_number(seed), "seed", *RANGES["seed"])


def whole_number(value: Any) -> Any:
    """A browser's number, whole ones as int."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def open_upload(path: str, name: str, size: int) -> Image:
    """A visitor's picture as RGB of `size` pixels a side, bounded before it is decoded; no error tells its path."""
    if Path(path).stat().st_size > UPLOAD_BYTES:
        raise UserError(f"{name}: at most {UPLOAD_BYTES // 2**20} MB; choose a smaller one")
    try:
        return read_image(Path(path).read_bytes(), size=size, max_pixels=UPLOAD_PIXELS)
    except ImageError as error:
        raise UserError(f"{name}: {str(error).partition(': ')[2]}") from None
