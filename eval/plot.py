"""What the report's page draws: scales, the trade-off curve, pictures as addresses."""

import base64
import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from bridge.images import flatten
from eval.report import TradeOff

LARGEST = 128
"""Sides of pictures on the page, at most, in pixels."""


@dataclass(frozen=True)
class Scale:
    """Numbers in [low, high] to percent of a drawing's width; those beyond an end are drawn at it."""

    low: float
    high: float

    def x(self, number: float) -> float:
        """Percent from the left.

        >>> Scale(-1, 1).x(0.5), Scale(-1, 1).x(-7)
        (75.0, 0.0)
        """
        share = (number - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 2)

    def holds(self, number: float) -> bool:
        """Whether a number is drawn where it belongs."""
        return self.low <= number <= self.high


def data_uri(image: Image.Image) -> str:
    """A picture as the address of itself."""
    small = flatten(image)
    small.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class Mark:
    """A point of the curve in a plot's own units, and where its label goes, if there is room."""

    point: TradeOff
    x: float
    y: float
    text: str
    at: tuple[float, float] | None
    best: bool


@dataclass(frozen=True)
class Plot:
    """Fit against diversity, 360 x 300: the frame is 44 to 348 across and 12 to 256 down."""

    marks: list[Mark]
    lines: list[tuple[Mark, Mark]]
    across: list[tuple[float, float]]
    down: list[tuple[float, float]]

    @classmethod
    def of(cls, points: Sequence[TradeOff]) -> "Plot":
        """Lay out points; a line joins the temperatures of one guidance, the best score is marked."""
        ordered = sorted(points, key=lambda p: (p.guidance_scale, p.temperature))
        across, down = _ticks([p.diversity for p in ordered]), _ticks([p.fit for p in ordered])
        wide, high = Scale(across[0], across[-1]), Scale(down[0], down[-1])
        place = [(44 + 3.04 * wide.x(p.diversity), 256 - 2.44 * high.x(p.fit)) for p in ordered]
        texts = [f"{p.guidance_scale:g} / {p.temperature:g}" for p in ordered]
        best = max(map(_score, ordered))
        labels = _labels(place, texts)
        marks = [
            Mark(p, round(x, 1), round(y, 1), text, at, _score(p) == best)
            for p, (x, y), text, at in zip(ordered, place, texts, labels, strict=True)
        ]
        pairs = itertools.pairwise(marks)
        joined = [(a, b) for a, b in pairs if a.point.guidance_scale == b.point.guidance_scale]
        return cls(
            marks,
            joined,
            [(round(44 + 3.04 * wide.x(t), 1), t) for t in across],
            [(round(256 - 2.44 * high.x(t), 1), t) for t in down],
        )


def _score(p: TradeOff) -> float:
    return min(p.fit, p.diversity, p.joint)


def _ticks(values: Sequence[float]) -> list[float]:
    """Multiples of .1 (or more where there are many) around all values."""
    step = next(s for s in (1, 2, 5, 10, 1000) if max(values) - min(values) <= 0.6 * s)
    low, high = math.floor(10 * min(values) / step), math.ceil(10 * max(values) / step)
    return [t * step / 10 for t in range(low, max(high, low + 1) + 1)]


def _labels(points: list[tuple[float, float]], texts: list[str]) -> list[tuple[float, float] | None]:
    """Where labels go, left end and base line: beside their point, clear of the frame and of one another."""
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    found: list[tuple[float, float] | None] = []
    for (x, y), text in zip(points, texts, strict=True):
        width = 6.2 * len(text)
        boxes = (
            (left, base - 9, left + width, base + 2)
            for base in (y - 8, y + 16, y + 4)
            for left in (x - width / 2, x + 8, x - 8 - width)
            if left >= 46 and left + width <= 346 and 22 <= base <= 252
        )
        box = next((b for b in boxes if not any(_meet(b, other) for other in taken)), None)
        found.append(None if box is None else (round(box[0], 1), round(box[3] - 2, 1)))
        taken += [] if box is None else [box]
    return found


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
