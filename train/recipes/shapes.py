"""Pictures whose factors are known, because we drew them: shape, colour, size, place and number.

    python -m train.recipes shapes --out data/shapes

draws every combination of the factors once, at 64 x 64 on white (`--size`: at half of that, or twice), and writes a
folder that `datasets.load_from_disk` opens: image, captions, label, artist, style, family, split, and the number of
each factor's value under factor_<name>. `--count` takes a random part of the combinations.
"""

import argparse
import itertools
import math
import sys
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from train.command import whole
from train.data.dataset import CAPTIONED, features
from train.recipes.drawing import png_of
from train.recipes.writing import SIZE, Row, run_recipe, write_rows

Outline = tuple[tuple[float, float], ...]


def regular(corners: int, turn: float = 0.0, inner: float | None = None) -> Outline:
    """Corners of a polygon in the unit circle, the first at the top, y downwards, turned clockwise by `turn` rounds.

    `inner` is the radius of further corners halfway between, which makes a star.

    >>> [(round(x), round(y)) for x, y in regular(4)]
    [(0, -1), (1, 0), (0, 1), (-1, 0)]
    """
    radii = [1.0] * corners if inner is None else [1.0, inner] * corners
    angles = [2 * math.pi * (i / len(radii) + turn) for i in range(len(radii))]
    return tuple((r * math.sin(a), -r * math.cos(a)) for r, a in zip(radii, angles, strict=True))


SHAPES: dict[str, Outline] = {
    "circle": regular(48),
    "square": regular(4, turn=1 / 8),
    "triangle": regular(3),
    "star": regular(5, inner=0.4),
}
COLOURS = {
    "red": (214, 39, 40),
    "orange": (255, 140, 0),
    "green": (34, 139, 34),
    "blue": (31, 87, 200),
    "purple": (128, 0, 160),
    "black": (24, 24, 24),
}
RADII = {"tiny": 4.5, "small": 6.5, "medium": 8.5, "large": 10.5}  # Radius of the circle around one figure, in pixels
COLUMNS = ("far left", "left", "centre", "right", "far right")
ROWS = ("top", "upper", "middle", "lower", "bottom")
COUNTS = ("one", "two", "three")
STEP, GAP, FINER = 5, 2, 4
"""Pixels between neighbouring places and between two figures; a picture is drawn so many times finer."""
SIDES = (32, SIZE, 2 * SIZE)  # What a picture is shrunk to; lengths above are in pixels of the latter
SPLIT_CYCLE = ("test", "test", "validation", "validation", *["train"] * 6)  # Of every ten pictures


@dataclass(frozen=True)
class Factors:
    """What one picture shows, each factor as the number of its value."""

    shape: int
    colour: int
    size: int
    x: int
    y: int
    count: int


LEVELS = {"shape": len(SHAPES), "colour": len(COLOURS), "size": len(RADII), "x": 5, "y": 5, "count": len(COUNTS)}
"""How many values each factor has, in the order of `Factors`."""
COMBINATIONS = math.prod(LEVELS.values())

FEATURES = features(" ".join([CAPTIONED, *(f"factor_{name}" for name in LEVELS)]))


def label_of(f: Factors) -> str:
    """The caption that names every factor.

    >>> label_of(Factors(shape=0, colour=0, size=1, x=1, y=0, count=2))
    'three small red circles at the top left'
    """
    shape, colour, size = list(SHAPES)[f.shape], list(COLOURS)[f.colour], list(RADII)[f.size]
    plural = "s" if f.count else ""
    return f"{COUNTS[f.count]} {size} {colour} {shape}{plural} at the {ROWS[f.y]} {COLUMNS[f.x]}"


def centres(f: Factors) -> list[tuple[float, float]]:
    """Where the figures stand, in pixels: one at the place itself, two beside it, three in a triangle around it."""
    x, y = (SIZE / 2 + STEP * (place - 2) for place in (f.x, f.y))
    apart = list(RADII.values())[f.size] + GAP / 2
    offsets = ([(0, 0)], [(-1, 0), (1, 0)], [(0, -1), (-1, 1), (1, 1)])[f.count]
    return [(x + apart * dx, y + apart * dy) for dx, dy in offsets]


def draw(f: Factors, size: int = SIZE) -> bytes:
    """The picture, antialiased on white, as PNG bytes; `size`, one of SIDES, is its side."""
    page = Image.new("RGB", (SIZE * FINER, SIZE * FINER), "white")
    pen = ImageDraw.Draw(page)
    outline, radius = list(SHAPES.values())[f.shape], list(RADII.values())[f.size]
    for x, y in centres(f):
        corners = [((x + radius * dx) * FINER, (y + radius * dy) * FINER) for dx, dy in outline]
        pen.polygon(corners, fill=list(COLOURS.values())[f.colour])
    return png_of(page.reduce(FINER * SIZE // size), compress_level=6)


def combinations() -> list[Factors]:
    """All of them; a combination's place in this list is its family."""
    return [Factors(*values) for values in itertools.product(*map(range, LEVELS.values()))]


def make_rows(count: int = COMBINATIONS, seed: int = 0, size: int = SIZE) -> list[Row]:
    """Rows of different combinations, with PNG bytes under "png"; a smaller count's are part of a larger one's."""
    everything = combinations()
    chosen = np.random.default_rng(seed).permutation(len(everything))[:count]
    rows = []
    bar = tqdm(chosen, desc="draw", file=sys.stderr, mininterval=5)
    for family, split in zip(bar, itertools.cycle(SPLIT_CYCLE), strict=False):
        f = everything[family]
        label = label_of(f)
        row: Row = {"label": label, "captions": [label, f"a picture of {label}", f"{label}, flat"], "split": split}
        row |= {"artist": "shapes", "style": "shapes", "family": int(family), "png": draw(f, size)}
        rows.append(row | {f"factor_{name}": value for name, value in asdict(f).items()})
    return rows


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=whole(10, COMBINATIONS), default=COMBINATIONS, help="of the combinations")
    parser.add_argument("--seed", type=whole(0), default=0, help="chooses the combinations and their splits")
    parser.add_argument("--size", type=int, choices=SIDES, default=SIZE, help="side of a picture in pixels")


def _run(args: argparse.Namespace) -> None:
    write_rows(FEATURES, make_rows(args.count, args.seed, args.size), args.out)


main = partial(run_recipe, "shapes", __doc__, _options, _run)
