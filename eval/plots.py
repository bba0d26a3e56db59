"""Plots, by matplotlib: the same figures give the same SVG."""

import base64
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter
from PIL import Image

from bridge.images import flatten
from eval.bench import Calibration
from eval.metrics.bootstrap import Interval
from eval.report import TradeOff

STYLE = {"svg.hashsalt": "bridge", "svg.fonttype": "none", "font.size": 9}
LARGEST = 128  # Sides of pictures on a page, at most, in pixels
PLACES = ((0, 7, "center"), (8, -3, "left"), (-8, -3, "right"), (0, -14, "center"))  # Of a label, in points
TURN = 60  # Degrees by which numbers of pairs are turned, so that near ones do not run into one another
BLUE, GREEN = "#2b6cb0", "#176a3a"


@dataclass(frozen=True)
class Curve:
    name: str
    x: Sequence[float]
    y: Sequence[Interval]
    dashed: bool = False


def to_svg(figure: Figure) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def data_uri(picture: Image.Image | Figure) -> str:
    """A picture or figure as the address of itself."""
    if isinstance(picture, Figure):
        return "data:image/svg+xml;base64," + base64.b64encode(to_svg(picture).encode()).decode()
    small, buffer = flatten(picture), io.BytesIO()
    small.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    small.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def curves(title: str, lines: Sequence[Curve], x_label: str, y_label: str) -> Figure:
    """Curves on a logarithmic axis, with their intervals."""
    figure = Figure(figsize=(7, 3.6))
    axes = figure.subplots()
    for line in lines:
        values, low, high = zip(*((i.value, i.low, i.high) for i in line.y), strict=True)
        axes.plot(line.x, values, "--" if line.dashed else "-", marker="o", markersize=4, label=line.name)
        axes.vlines(line.x, low, high, colors=axes.lines[-1].get_color(), linewidth=1)
    axes.set(title=title, xlabel=x_label, ylabel=y_label, xscale="log")
    axes.xaxis.set_major_locator(FixedLocator(sorted({x for line in lines for x in line.x})))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.tick_params(axis="x", rotation=TURN)
    axes.axhline(0, color="#888", linewidth=0.8)
    axes.grid(axis="y", color="#ddd")
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    return figure


def trade_off(points: Sequence[TradeOff]) -> Figure:
    """Fit against diversity; a line joins the temperatures of one guidance, the best score is green."""
    figure = Figure(figsize=(4.6, 3.8))
    axes = figure.subplots()
    ordered = sorted(points, key=lambda p: (p.guidance_scale, p.temperature))
    for _, line in itertools.groupby(ordered, key=lambda p: p.guidance_scale):
        axes.plot(*zip(*((p.diversity, p.fit) for p in line), strict=True), "-", color="#8fb3d9")
    best, places = best_of(ordered), [(p.diversity, p.fit) for p in ordered]
    x, y = zip(*places, strict=True)
    axes.scatter(x, y, c=[GREEN if p is best else BLUE for p in ordered], zorder=3)
    axes.margins(0.12)
    axes.set(xlabel="diversity", ylabel="fit")
    axes.grid(color="#e3e7eb")
    label(places, [setting(p) for p in ordered], figure)
    return figure


def best_of(points: Sequence[TradeOff]) -> TradeOff:
    """The point whose smallest headline is the largest."""
    return max(points, key=lambda p: min(p.fit, p.diversity, p.joint))


def setting(point: TradeOff) -> str:
    return f"{point.guidance_scale:g} / {point.temperature:g}"


def label(points: Sequence[tuple[float, float]], words: Sequence[str], figure: Figure) -> list[Annotation]:
    """Words beside points of a figure's only axes, where there is room; no two of them overlap."""
    (axes,) = figure.axes
    placed: list[Annotation] = []
    for point, text in zip(points, words, strict=True):
        for right, up, align in PLACES:
            note = axes.annotate(text, point, (right, up), textcoords="offset points", ha=align, fontsize=8)
            box = note.get_window_extent()
            if not any(box.overlaps(other.get_window_extent()) for other in placed):
                placed.append(note)
                break
            note.remove()
    return placed


def rank_histogram(calibration: Calibration) -> Figure:
    """Captions by rank of their real pictures, and the height of a flat histogram."""
    figure = Figure(figsize=(4.6, 2.4))
    axes, ranks = figure.subplots(), calibration.ranks
    axes.bar(range(1, len(ranks) + 1), ranks, color=BLUE)
    axes.axhline(sum(ranks) / len(ranks), color="#6b7683", linestyle="--")
    axes.set(xlabel="how far out the real one lies among the samples", ylabel="captions")
    return figure
