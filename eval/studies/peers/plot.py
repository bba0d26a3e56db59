"""A small line chart as SVG: score against pairs on a logarithmic axis, with intervals."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

PLOT, HEIGHT, LEFT, TOP, BOTTOM = 354, 320, 56, 34, 46
LETTER = 7.2
"""Width of a letter, generously: who reads a file may have any font."""
COLOURS = ("#0b62a4", "#c2410c", "#6d28d9", "#15803d")


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Args:
        name: In the legend.
        x: Above 0.
        y: Values.
        low: Lower ends of their intervals.
        high: Upper ends.
        dashed: Drawn dashed.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    dashed: bool = False


def to_svg(title: str, curves: Sequence[Curve], x_label: str, y_label: str) -> str:
    """The chart, a whole SVG file."""
    xs = sorted({x for c in curves for x in c.x})
    ys = [y for c in curves for y in (*c.low, *c.high)]
    bottom, top = min(0.0, *ys), max(0.1, *ys)
    span = math.log(xs[-1] / xs[0]) or 1.0
    width = LEFT + PLOT + 48 + LETTER * max(len(c.name) for c in curves)

    def at(x: float, y: float) -> tuple[float, float]:
        right, down = math.log(x / xs[0]) / span, (top - y) / (top - bottom)
        return LEFT + right * PLOT, TOP + down * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>',
        _text(LEFT, 20, title, "start", "bold"),
        _text(LEFT + PLOT / 2, HEIGHT - 8, x_label, "middle"),
        f'<g transform="rotate(-90 14 {HEIGHT / 2})">{_text(14, HEIGHT / 2, y_label, "middle")}</g>',
    ]
    places, floor = [at(x, bottom)[0] for x in xs], at(xs[0], bottom)[1]
    for px, word, anchor in zip(places, words := [f"{x:,.0f}" for x in xs], _anchors(places, words), strict=True):
        parts += [_line([(px, floor), (px, floor + 5)], "#444"), _text(px, floor + 18, word, anchor)]
    for tick in _ticks(bottom, top):
        ends = [at(xs[0], tick), at(xs[-1], tick)]
        parts += [_line(ends, "#ddd"), _text(LEFT - 8, ends[0][1] + 4, f"{tick:g}", "end")]
    for i, curve in enumerate(curves):
        parts += _curve(curve, COLOURS[i % len(COLOURS)], at, TOP + 10 + 18 * i)
    return "\n".join([*parts, "</svg>", ""])


def _anchors(places: Sequence[float], words: Sequence[str]) -> list[str]:
    """How words at places are set: centred, or turned away from a neighbour that they would run into."""
    anchors = ["middle"] * len(places)
    for i in range(1, len(places)):
        if places[i] - places[i - 1] < LETTER * (len(words[i - 1]) + len(words[i]) + 1) / 2:
            anchors[i - 1 : i + 1] = ["end", "start"]
    return anchors


def _curve(curve: Curve, colour: str, at: Callable[[float, float], tuple[float, float]], legend: float) -> list[str]:
    points = [at(x, y) for x, y in zip(curve.x, curve.y, strict=True)]
    bars = [
        _line([at(x, low), at(x, high)], colour, 1) for x, low, high in zip(curve.x, curve.low, curve.high, strict=True)
    ]
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
    left = LEFT + PLOT + 12
    key = [
        _line([(left, legend), (left + 18, legend)], colour, 2, curve.dashed),
        _text(left + 24, legend + 4, curve.name),
    ]
    return [*bars, _line(points, colour, 2, curve.dashed), *dots, *key]


def _line(points: Sequence[tuple[float, float]], colour: str, width: int = 1, dashed: bool = False) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dash}/>'


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}"'
    return f"<text {place}>{escape(text)}</text>"


def _ticks(low: float, high: float) -> list[float]:
    """Round values from low to high, four to nine of them."""
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 1e9) if (high - low) / s <= 8)
    return [round(i * step, 6) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
