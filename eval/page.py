"""A report as one page for whoever trained the model: is it any good, does it copy, what else would have done?

The page is one file: pictures are data URIs, nothing is loaded and nothing is run.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from PIL import Image

from eval import plots
from eval.bench import Calibration, Figures
from eval.metrics.bootstrap import Interval
from eval.report import BASES, Report, Row, TradeOff
from eval.words import ARTISTS, MEMORY, METHODS, SINGLE, Words

RIVALS = ("nearest1", "nearestk", "ridge + Gaussian", "unconditional")


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


@dataclass(frozen=True)
class Shown:
    """One caption of a sample sheet.

    Args:
        caption: As the model was given it.
        samples: The model's n pictures.
        nearest: The training picture nearest to each.
        nearest_captions: Their captions.
        copied: Whether each sample counts as a copy of it.
        references: Real pictures by other artists.
        note: What to trust less, if anything.
    """

    caption: str
    samples: list[Image.Image]
    nearest: list[Image.Image]
    nearest_captions: list[str]
    copied: list[bool]
    references: list[Image.Image]
    note: str | None


@dataclass(frozen=True)
class Answer:
    """One row's answer to a question: a badge of some kind ('good', 'fair', 'bad', 'absent'), and sentences."""

    row: str
    kind: str
    badge: str
    lines: tuple[str, ...]


def to_html(
    report: Report,
    shown: Mapping[str, Sequence[Shown]],
    trade_off: Sequence[TradeOff] = (),
    calibration: Mapping[str, Calibration] = {},
) -> str:
    """The page; the same arguments give the same bytes.

    Args:
        report: What was measured.
        shown: Sample sheets by row of the report.
        trade_off: Points of the guidance and temperature curve; the report's own where absent.
        calibration: By row of the report; that of its first model where absent.

    Raises:
        ValueError: A sheet or a calibration is of no row, a sheet is uneven, or a plot's figure is not finite.
    """
    points = {"": trade_off} if trade_off else report.trade_off
    spreads = calibration or {
        name: row.calibration[model]
        for name, row in report.rows.items()
        for model in models_of(row)[:1]
        if model in row.calibration
    }
    _check(report, shown, points, spreads)
    words = SINGLE if report.singly else ARTISTS
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals.update(about_row=lambda name: words.rows.get(name, (name, "")))
    env.globals.update(about_method=lambda name, row: about_method(name, row, words))
    env.globals.update(models_of=models_of, interval_of=interval_of, ordered=ordered, number=number, percent=percent)
    env.globals.update(cell=cell, versus=versus, width_of=width_of, uri=plots.data_uri, plots=plots)
    figures = [f for row in report.rows.values() for f in row.methods.values()]

    def present(table: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
        return [line for line in table if any(getattr(f, line[0], None) is not None for f in figures)]

    page = env.get_template("page.html.jinja").render(
        report=report,
        words=words,
        shown=shown,
        questions=questions(report),
        beside=present(words.beside),
        memory=present(MEMORY),
        wide=Scale(*_ends(report)),
        narrow=Scale(-0.5, 1.2),
        share=Scale(0, 1),
        trade_off={name: list(each) for name, each in points.items() if each},
        calibration=spreads,
    )
    return page.strip() + "\n"


# --- words ---------------------------------------------------------------------------------------------------------


def about_method(name: str, row: Row, words: Words = ARTISTS) -> tuple[str, str]:
    """Title and explanation of a method; a model is named as the report names it unless it is alone."""
    if name in words.methods:
        return words.methods[name]
    return ("This model" if len(models_of(row)) == 1 else name), ""


def models_of(row: Row) -> list[str]:
    """The names of the models; the first is what baselines are compared with."""
    return [name for name in row.methods if name not in METHODS]


def ordered(row: Row) -> list[str]:
    """Methods as the page lists them: what can be reached, the models, then what is simpler, then cheats."""
    known = [name for name in METHODS if name in row.methods]
    first = [name for name in known if name in BASES]
    return first + models_of(row) + known[len(first) :]


def questions(report: Report) -> list[tuple[str, list[Answer]]]:
    """What a newcomer asks, and every row's answer, computed from the figures."""
    words = SINGLE if report.singly else ARTISTS
    asked = (("Is it any good?", good), ("Does it just copy?", copies), ("Is it better than the obvious?", rivals))
    return [(question, [answer(name, row, words) for name, row in report.rows.items()]) for question, answer in asked]


def good(name: str, row: Row, words: Words = ARTISTS) -> Answer:
    """How far each headline is on the way from its floor to its 1.

    The badge is the smallest headline; on single pictures, whose three have no common 1, it is fit.
    """
    f, lines, measured = row.methods[models_of(row)[0]], [], {}
    for field, title, subject, floor in words.headlines:
        i = interval_of(f, field)
        if i is not None:
            measured[title] = i
        if i is None:
            lines.append(f"{subject}: absent ({why_absent(f, field, row)}).")
        else:
            lines.append(f"{subject}: {number(i)}, {_level(field, i, floor, words)}.")
    if words is SINGLE:
        measured = {title: i for title, i in measured.items() if title == "Fit"}
    if not measured:
        return Answer(name, "absent", "absent", tuple(lines))
    weakest, i = min(measured.items(), key=lambda item: item[1].value)
    least, badge = 1.0, f"weakest: {weakest.lower()} {number(i.value)}"
    if words is SINGLE:
        codec = row.methods.get("reconstruction")
        most = None if codec is None else interval_of(codec, "fit")
        least, badge = math.inf if most is None else most.low, f"fit {number(i.value)}"
        if most is not None:
            lines.append(f"Real pictures through the codec reach a fit of {number(most)}.")
    kind = "bad" if i.low <= 0 else "good" if i.high >= least else "fair"
    return Answer(name, kind, badge, tuple(lines))


def copies(name: str, row: Row, words: Words = ARTISTS) -> Answer:
    """Whether the model's copy rate is above that of real pictures: their intervals do not meet."""
    own, real = interval_of(row.methods[models_of(row)[0]], "copied"), interval_of(row.methods["real"], "copied")
    if own is None or real is None:
        return Answer(name, "absent", "absent", (f"absent: {row.absent.get('copied', 'not measured')}",))
    badge = f"{percent(own.value)} copies, real {percent(real.value)}"
    lines = [f"{percent(own)} of its pictures lie nearer to a training picture than 99% of real ones do."]
    if own.low > real.high:
        kind, said = "bad", f"More than of {words.others}, {percent(real)}: it repeats what it was shown."
    else:
        kind, said = "good", f"Not shown to be more than of {words.others}, {percent(real)}."
    retrieval = interval_of(row.methods["nearest1"], "copied") if "nearest1" in row.methods else None
    if retrieval is not None:
        lines.append(f"Retrieval, which does nothing but copy: {percent(retrieval)}.")
    return Answer(name, kind, badge, (lines[0], said, *lines[1:]))


def rivals(name: str, row: Row, words: Words = ARTISTS) -> Answer:
    """Whether the model's energy is lower than each obvious alternative's, paired by caption."""
    against = [rival for rival in RIVALS if rival in row.energy_less]
    if not against:
        return Answer(name, "absent", "absent", ("absent: the report was made without baselines",))
    verdicts = [versus(row.energy_less[rival]) for rival in against]
    lines = [_compared(about_method(rival, row, words)[0], row.energy_less[rival]) for rival in against]
    wins = verdicts.count("better")
    kind = "good" if wins == len(against) else "fair" if wins else "bad"
    return Answer(name, kind, f"better than {wins} of {len(against)}", tuple(lines))


def versus(less: Interval) -> str:
    """What an interval of the model's energy less another's says of the model."""
    if not less.excludes(0):
        return "not shown to differ"
    return "better" if less.value < 0 else "worse"


def width_of(c: Calibration) -> str:
    """Whether a caption's pictures are spread too 'narrow' or too 'wide', or the interval leaves it 'open'."""
    return "narrow" if c.spread_skill.high < 1 else "wide" if c.spread_skill.low > 1 else "open"


def _compared(title: str, less: Interval) -> str:
    if versus(less) == "worse":
        return f"Worse than “{title}” by {number(less, 1)}."
    if versus(less) == "better":
        return f"Better than “{title}” by {number(Interval(-less.value, -less.high, -less.low), 1)}."
    return f"Not shown to differ from “{title}”: {number(less, 1)}."


def _level(field: str, i: Interval, floor: str, words: Words) -> str:
    """Where an interval lies between its floor and its 1, in words."""
    reached = words.reached[field]
    if words is SINGLE and field == "diversity":
        return f"of the distance between {reached}"
    if words is ARTISTS and i.low > 1:
        return "above real pictures: an alarm, not a success"
    if i.high < 0:
        return f"worse than {floor}"
    if i.low <= 0:
        return f"not shown to be better than {floor}"
    if i.high >= 1:
        return f"not shown to fall short of {reached}"
    way = "a little" if i.value < 1 / 3 else "part" if i.value < 2 / 3 else "most"
    return f"{way} of the way from {floor} to {reached}"


# --- figures -------------------------------------------------------------------------------------------------------


def interval_of(f: Figures, field: str) -> Interval | None:
    """A figure with its interval, if it was measured; a plain number's interval has no width."""
    value = getattr(f, field, None)
    if isinstance(value, int | float):
        value = Interval(value, value, value)
    ends = () if value is None else (value.value, value.low, value.high)
    return value if ends and all(map(math.isfinite, ends)) else None


def number(value: Interval | float, digits: int = 2) -> str:
    """A number, with its interval if it has one.

    >>> number(-0.061), number(-0.0001), number(Interval(3.94, 2.71, 5.1), 1)
    ('−0.06', '0.00', '3.9 [2.7, 5.1]')
    """
    if isinstance(value, Interval):
        ends = f"{number(value.low, digits)}, {number(value.high, digits)}"
        return number(value.value, digits) + ("" if value.low == value.high else f" [{ends}]")
    text = f"{value:.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", "−")


def percent(value: Interval | float) -> str:
    """A share in percent.

    >>> percent(Interval(0.44, 0.3, 0.582))
    '44% [30, 58]'
    """
    if isinstance(value, Interval):
        return f"{value.value:.0%}" + f" [{100 * value.low:.0f}, {100 * value.high:.0f}]"
    return f"{value:.0%}"


def why_absent(f: Figures, field: str, row: Row) -> str:
    """Why a figure of a method is absent: its own reason, or that of the whole row."""
    return f.absent.get(field) or row.absent.get(field, "not measured")


def cell(f: Figures, field: str, row: Row) -> str:
    """A figure for a table, or why it is absent; small ones without an interval get a third decimal."""
    i = interval_of(f, field)
    if i is None:
        return f"absent: {why_absent(f, field, row)}"
    return number(i, 3 if i.low == i.high and 0 < abs(i.value) < 0.1 else 2)


def _ends(report: Report) -> tuple[float, float]:
    """Ends of the axis of all headlines, one for all rows so that they compare."""
    figures = [row.methods[models_of(row)[0]] for row in report.rows.values()]
    intervals = [i for f in figures for field, *_ in ARTISTS.headlines if (i := interval_of(f, field))]
    low, high = min([i.low for i in intervals], default=0.0), max([i.high for i in intervals], default=1.0)
    return max(min(-0.25, low - 0.05), -1.5), min(max(1.15, high + 0.05), 2.0)


def _check(
    report: Report,
    shown: Mapping[str, Sequence[Shown]],
    points: Mapping[str, Sequence[TradeOff]],
    spreads: Mapping[str, Calibration],
) -> None:
    for name, row in report.rows.items():
        if not models_of(row):
            raise ValueError(f"report: row {name!r} has no model, only {', '.join(row.methods)}")
    for argument, names in (("shown", shown), ("calibration", spreads)):
        if unknown := sorted(set(names) - set(report.rows)):
            raise ValueError(f"{argument}: the report has no row {unknown[0]!r}, only {', '.join(report.rows)}")
    for sheet in (s for sheets in shown.values() for s in sheets):
        if len({len(sheet.samples), len(sheet.nearest), len(sheet.nearest_captions), len(sheet.copied)}) > 1:
            raise ValueError(f"shown: {sheet.caption!r} needs one nearest picture, caption and flag for each sample")
    plotted = [("trade_off", (*vars(p).values(),)) for each in points.values() for p in each]
    plotted += [("calibration", tuple(c.ranks)) for c in spreads.values()]
    for argument, values in plotted:
        if not all(map(math.isfinite, values)):
            raise ValueError(f"{argument}: a figure is not finite; leave it out")
