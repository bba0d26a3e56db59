"""Debian's openclipart-svg as a bare folder of captioned pictures: thousands of public-domain drawings.

    python -m train.recipes clipart --out data/clipart
    python -m train.prepare data/clipart

fetches the package with `apt-get`, or takes the SVG files of `--svg`. A drawing's caption is the title inside its SVG.
Titles that many drawings share name a collection, and are left out, as is whatever does not say that it is in the
public domain or cannot be drawn.
"""

import argparse
import csv
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import resvg_py
from PIL import Image, ImageChops

from bridge.checkpoint import atomic_folder
from bridge.errors import UserError
from bridge.images import read_image, slug
from train.recipes.drawing import DPI, png_of
from train.recipes.writing import add_downloads, in_pool, run_recipe, run_tool

PACKAGE, INSIDE = "openclipart-svg", "usr/share/openclipart/svg"
MAX_SHARED = 3  # Drawings that may have one title; more of them are a collection
RDF, DC = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}", "{http://purl.org/dc/elements/1.1/}"
CC = ("{http://web.resource.org/cc/}", "{http://creativecommons.org/ns#}")


@dataclass(frozen=True)
class Drawing:
    """An SVG file and what its metadata says."""

    path: Path
    title: str
    artist: str
    keywords: tuple[str, ...]


def clip_art_folder(downloads: Path) -> Path:
    """Debian's openclipart-svg, fetched and unpacked once. Raises MissingToolError, which says how to do it by hand."""
    folder, pattern = downloads / PACKAGE, f"{PACKAGE}_*.deb"
    if folder.exists():
        return folder
    downloads.mkdir(parents=True, exist_ok=True)
    if (archive := max(downloads.glob(pattern), default=None)) is None:
        by_hand = f"get {PACKAGE}_*_all.deb from packages.debian.org/{PACKAGE} into {downloads} and run again"
        archive = run_tool(["apt-get", "download", PACKAGE], downloads, pattern, by_hand, by_hand)
    with tempfile.TemporaryDirectory(dir=downloads) as scratch:
        words = ["dpkg-deb", "-x", str(archive.resolve()), PACKAGE]
        unpack = f"unpack {archive} into {folder} and run again"
        run_tool(words, Path(scratch), PACKAGE, unpack, "delete it and run again").rename(folder)
    return folder


def read_drawing(path: Path) -> Drawing | None:
    """Title, artist and keywords of a public-domain SVG; None if it does not say so, has no title, or is damaged."""
    try:
        root = ET.parse(path).getroot()
    except (ET.ParseError, LookupError, ValueError):
        return None
    work = next((work for cc in CC for work in root.iter(f"{cc}Work")), None)
    if work is None:
        return None
    licences = [node.get(f"{RDF}resource", "").casefold() for cc in CC for node in work.iter(f"{cc}license")]
    title = " ".join(work.findtext(f"{DC}title", "").split())
    if not title or not any("publicdomain" in licence for licence in licences):
        return None
    artist = " ".join((work.findtext(f"{DC}creator//{DC}title") or "").split())
    words = [(node.text or "").lower().strip() for node in work.findall(f"{DC}subject/{RDF}Bag/{RDF}li")]
    return Drawing(path, title, artist, tuple(word for word in words if not word.startswith("hash(")))


def draw(path: Path, size: int) -> bytes | None:
    """An SVG on white without margins, at most `size` pixels a side, as PNG; None if it cannot be drawn or is blank."""
    try:
        page = read_image(bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=size, dpi=DPI)))
    except (ValueError, RuntimeError):
        return None
    ink = ImageChops.difference(page, Image.new("RGB", page.size, "white")).getbbox()
    if ink is None:
        return None
    drawn = page.crop(ink)
    drawn.thumbnail((size, size), Image.Resampling.LANCZOS)
    return png_of(drawn, compress_level=6)


def collect(folder: Path) -> list[Drawing]:
    """Drawings below a folder whose title at most MAX_SHARED of them have."""
    drawings = [drawing for path in sorted(folder.rglob("*.svg")) if (drawing := read_drawing(path))]
    shared = Counter(drawing.title.casefold() for drawing in drawings)
    return [drawing for drawing in drawings if shared[drawing.title.casefold()] <= MAX_SHARED]


def _options(parser: argparse.ArgumentParser) -> None:
    add_downloads(parser, size=256)
    parser.add_argument("--svg", type=Path, help="folder of SVG files, in place of Debian's package")


def _run(args: argparse.Namespace) -> None:
    folder = args.svg or clip_art_folder(args.downloads) / INSIDE
    drawings = collect(folder)
    if not drawings:
        raise UserError(f"--svg: {folder} has no public-domain SVG with a title; name the unpacked openclipart-svg")
    pngs = in_pool(partial(draw, size=args.size), [drawing.path for drawing in drawings], "draw")
    with atomic_folder(args.out) as out, (out / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "caption", "artist"])
        for number, (drawing, png) in enumerate(zip(drawings, pngs, strict=True)):
            if png is not None:
                name = f"{slug(drawing.title)}-{number}.png"
                (out / name).write_bytes(png)
                table.writerow([name, drawing.title, drawing.artist])


main = partial(run_recipe, "clipart", __doc__, _options, _run)
