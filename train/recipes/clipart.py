"""Debian's openclipart-svg as a bare folder of captioned pictures: thousands of public-domain drawings.

    apt-get download openclipart-svg
    dpkg-deb -x openclipart-svg_*.deb clipart
    python -m train.recipes.clipart clipart/usr/share/openclipart/svg --out data/clipart
    python -m train.inspect data/clipart

A drawing's caption is the title inside its SVG. Titles that many drawings share name a collection, and are left
out, as is whatever does not say that it is in the public domain or cannot be drawn.
"""

import argparse
import csv
import io
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import resvg_py
from PIL import Image, ImageChops
from tqdm import tqdm

from bridge.checkpoint import atomic_folder, check_replaceable
from bridge.errors import UserError
from bridge.images import read_image, slug
from train.command import Parser, run_command, whole, writable_folder

MAX_SHARED = 3
"""Drawings that may have one title; more of them are a collection."""
DPI = 96
"""What makes a millimetre so many pixels; without it resvg_py refuses drawings in millimetres."""
RDF, DC = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}", "{http://purl.org/dc/elements/1.1/}"
CC = ("{http://web.resource.org/cc/}", "{http://creativecommons.org/ns#}")


@dataclass(frozen=True)
class Drawing:
    """An SVG file and what its metadata says."""

    path: Path
    title: str
    artist: str


def read_drawing(path: Path) -> Drawing | None:
    """Title and artist of a public-domain SVG; None if it does not say so, has no title, or is damaged."""
    try:
        root = ET.parse(path).getroot()
    except (ET.ParseError, LookupError, ValueError):
        return None
    works = [work for cc in CC for work in root.iter(f"{cc}Work")]
    if not works:
        return None
    licences = [node.get(f"{RDF}resource", "").casefold() for cc in CC for node in works[0].iter(f"{cc}license")]
    title = " ".join(works[0].findtext(f"{DC}title", "").split())
    if not title or not any("publicdomain" in licence for licence in licences):
        return None
    creator = works[0].find(f"{DC}creator")
    artist = "" if creator is None else " ".join((creator.findtext(f".//{DC}title") or "").split())
    return Drawing(path, title, artist)


def draw(path: Path, size: int) -> bytes | None:
    """An SVG on white without the margins of its page, at most `size` pixels a side, as PNG bytes.

    None if it cannot be drawn or shows nothing.
    """
    try:
        page = read_image(bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=size, dpi=DPI)))
    except (ValueError, RuntimeError):
        return None
    ink = ImageChops.difference(page, Image.new("RGB", page.size, "white")).getbbox()
    if ink is None:
        return None
    drawn = page.crop(ink)
    drawn.thumbnail((size, size), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    drawn.save(out, "PNG")
    return out.getvalue()


def collect(folder: Path) -> list[Drawing]:
    """Drawings below a folder whose title is their own."""
    drawings = [drawing for path in sorted(folder.rglob("*.svg")) if (drawing := read_drawing(path))]
    shared = Counter(drawing.title.casefold() for drawing in drawings)
    return [drawing for drawing in drawings if shared[drawing.title.casefold()] <= MAX_SHARED]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = Parser(
        "python -m train.recipes.clipart", __doc__, "python -m train.recipes.clipart svg/ --out data/clipart"
    )
    parser.add_argument("svg", type=Path, help="folder of SVG files, unpacked from openclipart-svg")
    parser.add_argument("--out", type=Path, default=Path("data/clipart"), help="folder of pictures")
    parser.add_argument("--size", type=whole(16, 1024), default=256, help="longest side of a picture in pixels")
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> None:
    check_replaceable(args.out)
    writable_folder(args.out.parent)
    drawings = collect(args.svg)
    if not drawings:
        raise UserError(f"SVG: {args.svg} has no public-domain SVG with a title; name the unpacked openclipart-svg")
    with ProcessPoolExecutor() as pool, atomic_folder(args.out) as out:
        jobs = pool.map(draw, [d.path for d in drawings], [args.size] * len(drawings), chunksize=16)
        with (out / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["file_name", "caption", "artist"])
            bar = tqdm(jobs, total=len(drawings), desc="draw", file=sys.stderr)
            for number, (drawing, png) in enumerate(zip(drawings, bar, strict=True)):
                if png is not None:
                    name = f"{slug(drawing.title)}-{number}.png"
                    (out / name).write_bytes(png)
                    table.writerow([name, drawing.title, drawing.artist])
    print(args.out)


if __name__ == "__main__":
    sys.exit(main())
