"""Pictures for tests, whole and damaged."""

import io
import struct
import zlib

import numpy as np
from PIL import Image
from torch import Tensor

from eval.judge import Judge, Seen


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of a picture file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(colour: tuple[int, int, int] = (255, 0, 0), size: tuple[int, int] = (8, 8)) -> bytes:
    """One colour."""
    return encoded(Image.new("RGB", size, colour))


def pattern(seed: int, side: int = 32) -> Image.Image:
    """Four by four random colours: pictures of different seeds are no near-duplicates."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.NEAREST)


def bomb(side: int = 60_000) -> bytes:
    """A PNG whose header says side x side and which holds nothing."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    length, crc = struct.pack(">I", len(header)), struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + length + b"IHDR" + header + crc + struct.pack(">I", 0) + b"IDAT" + b"\x35\xaf\x06\x1e"


def seen(judge: Judge, x: Tensor) -> Seen:
    """What a judge sees of a model's pictures, (C, n, 3, H, W)."""
    return judge.look(x.flatten(0, 1))
