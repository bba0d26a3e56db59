"""Iconify packages from npm: fetched, and their icons drawn on white."""

import argparse
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import resvg_py
from PIL import Image
from tqdm import tqdm

from bridge.checkpoint import atomic_folder
from bridge.errors import UserError
from bridge.images import flatten

SIZE, SMALLEST, LARGEST = 64, 16, 1024
"""Side of a picture, in pixels."""


class MissingToolError(UserError):
    """A program that the recipe needs is not on this machine."""


def slug(text: str) -> str:
    """Lower case, everything but letters and digits as one dash.

    >>> slug("flag: Åland Islands")
    'flag-aland-islands'
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")


def npm_pack(package: str, folder: Path) -> Path:
    """Download `NAME@VERSION` with npm and unpack it once.

    Args:
        package: Name and version on the npm registry.
        folder: Where downloads are kept; an unpacked package is not fetched again.

    Returns:
        The unpacked package's folder.

    Raises:
        MissingToolError: npm is not installed, or could not fetch the package.
    """
    target = folder / re.sub(r"[^\w.-]+", "_", package)
    if target.exists():
        return target
    npm = shutil.which("npm")
    if npm is None:
        raise MissingToolError(
            "npm: not found; install Node.js (Debian: apt-get install npm; macOS: brew install node) and run again"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        done = subprocess.run(
            [npm, "pack", package, "--silent"], cwd=scratch, capture_output=True, text=True, check=False
        )
        archives = list(Path(scratch).glob("*.tgz"))
        if done.returncode or not archives:
            raise MissingToolError(f"npm pack {package}: {done.stderr.strip() or 'no archive'}; check the network")
        with tarfile.open(archives[0]) as archive:
            archive.extractall(scratch, filter="data")
        try:
            (Path(scratch) / "package").rename(target)
        except OSError:
            if not target.exists():  # else another process was first with the same package
                raise
    return target


def icon_svg(icon_set: dict[str, Any], name: str) -> str:
    """One icon of an Iconify set as a square SVG document, the drawing centred."""
    icon = icon_set["icons"][name]
    left, top = (icon.get(key, icon_set.get(key, 0)) for key in ("left", "top"))
    width, height = (icon.get(key, icon_set.get(key, 16)) for key in ("width", "height"))
    side = max(width, height)
    box = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" width="{SIZE}" height="{SIZE}">{icon["body"]}</svg>'
    )


def add_size(parser: argparse.ArgumentParser) -> None:
    """The option `--size`, of SMALLEST to LARGEST pixels."""

    def side(word: str) -> int:
        if not word.isdecimal() or not SMALLEST <= int(word) <= LARGEST:
            raise argparse.ArgumentTypeError(f"expected {SMALLEST} to {LARGEST} pixels, got {word}")
        return int(word)

    parser.add_argument("--size", type=side, default=SIZE, help=f"side of a picture, {SMALLEST} to {LARGEST} pixels")


def draw(svg: str, size: int = SIZE) -> bytes:
    """Draw an SVG at size x size on white, as PNG bytes."""
    page = flatten(Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)))))
    out = io.BytesIO()
    page.save(out, "PNG")
    return out.getvalue()


def draw_all(svgs: Sequence[str], size: int = SIZE) -> list[bytes]:
    """Draw every SVG at size x size, on all cores, with a progress bar."""
    with ProcessPoolExecutor() as pool:
        drawn = pool.map(partial(draw, size=size), svgs, chunksize=64)
        return list(tqdm(drawn, total=len(svgs), desc="draw", file=sys.stderr))


def pixels_of(png: bytes, size: int = SIZE) -> np.ndarray:
    """PNG bytes -> pixels in [0, 1], (size, size, 3), box-filtered down."""
    image = flatten(Image.open(io.BytesIO(png))).resize((size, size), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float32) / 255


def is_blank(png: bytes) -> bool:
    """Whether nothing was drawn (an icon that needs a feature the renderer lacks)."""
    return bool(np.ptp(pixels_of(png)) < 0.02)


def thumbnails_of(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """Pictures small enough to be compared with each other, (N, 16, 16, 3) in [0, 1]."""
    return np.stack([pixels_of(row["png"], 16) for row in rows])


def write_rows(rows: Sequence[dict[str, Any]], features: datasets.Features, out: Path, credit: str = "") -> None:
    """Write rows, their pictures under "png", as a `datasets` folder with CREDITS.md, complete or not at all.

    Raises:
        CheckpointError: `out` holds anything but such a folder; see `bridge.checkpoint.check_replaceable`.
    """
    columns = {key: [row[key] for row in rows] for key in features if key != "image"}
    columns["image"] = [{"bytes": row["png"], "path": None} for row in rows]
    with atomic_folder(out) as folder:
        datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(folder))
        if credit:
            (folder / "CREDITS.md").write_text(credit, encoding="utf-8")
