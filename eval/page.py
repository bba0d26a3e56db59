"""A report as one page for whoever trained the model: is it any good, does it copy, what else would have done?

The page is one file: pictures are data URIs, plots inline SVG, nothing is loaded and nothing is run.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from PIL import Image

from eval import single_words
from eval.headlines import Figures
from eval.metrics.bootstrap import Interval
from eval.plot import Plot, Scale, data_uri
from eval.report import Calibration, Report, Row, TradeOff
from eval.single_figures import SingleFigures
from eval.single_report import SingleReport, SingleRow

HEADLINES = (
    ("fit", "Fit", "What they show", "chance"),
    ("diversity", "Diversity", "Variety", "no recognisable picture"),
    ("joint", "Joint", "A caption’s pictures together", "training pictures that ignore the caption"),
)
"""Name, title, what it is about, and what its floor is."""

MEMORY = (
    (
        "copied",
        "Copies",
        "Share of pictures nearer to a training picture than 99% of held-out real ones are. A first alarm: noise on a "
        "copy, a blend of two pictures, a shift and mostly a mirrored copy pass it: see the next two as well.",
    ),
    (
        "c_t",
        "C_T",
        "Do pictures lie nearer to training pictures than real ones do? Far below 0: they copy. Grows with their "
        "number: compare equal numbers. A codec’s blur raises it: compare with real pictures through the codec.",
    ),
    (
        "authenticity",
        "Authentic",
        "Share of pictures further from their nearest training picture than that one is from its own; 0 for copies. "
        "Real pictures do not reach 1: compare with them.",
    ),
)
QUALITY = (
    (
        "realistic",
        "Realistic",
        "Share of pictures that lie where real ones do, whatever they show. A copy passes, and so does a blur.",
    ),
    ("kid", "KID", "Distance of all pictures to all real ones, captions ignored; 0 is real. Wrong captions pass."),
    ("frechet", "Fréchet", "Another such distance; few pictures make it larger: compare equal numbers."),
    (
        "sharpness",
        "Sharpness",
        "Edges against those of real pictures: below 1 blurred, above 1 noisy. 1 proves nothing.",
    ),
    ("hit", "Recognised", "Share recognised as their caption among 100: the raw figure behind fit."),
    ("styles", "Styles", "Different styles among a caption’s recognised pictures: the raw count behind diversity."),
    ("energy", "Energy", "Energy distance to the real pictures: the raw figure behind joint."),
)
BESIDE = MEMORY + QUALITY
"""Field of `Figures`, title and meaning of all that stands beside the headlines; fields it lacks are skipped."""

ROWS = {
    "seen": ("Captions it was trained on", "The real pictures are by artists it never saw."),
    "held-out": ("Captions it never saw", "Whole families of captions were kept from training."),
    "far": ("Captions far from training", "Nothing like them was in training."),
}
METHODS = {
    "real": ("Real pictures", "each held against those by other artists: the 1 of every scale"),
    "reconstruction": ("Real, through the codec", "encoded and decoded: the most a model with this codec can reach"),
    "nearest1": ("Retrieval, nearest caption", "hand out training pictures of the most similar training caption"),
    "nearestk": ("Retrieval, several captions", "one training picture of each of the most similar captions"),
    "ridge + Gaussian": ("Ridge + Gaussian", "linear regression on the caption, with random variation"),
    "ridge mean": ("Ridge regression", "the same without variation: one picture per caption"),
    "unconditional": ("Caption ignored", "training pictures drawn blindly"),
    "model, shuffled captions": ("Model, shuffled captions", "its pictures held against another caption’s"),
    "model, one mode": ("Model, one picture", "its first picture several times"),
    "model, blur": ("Model, blurred", "the average of its pictures several times"),
}
"""Title and explanation of every method that is not a model."""

RIVALS = ("nearest1", "nearestk", "ridge + Gaussian", "unconditional")


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
    report: Report | SingleReport,
    shown: Mapping[str, Sequence[Shown]],
    trade_off: Sequence[TradeOff] = (),
    calibration: Mapping[str, Calibration] = {},
) -> str:
    """The page; the same arguments give the same bytes.

    Args:
        report: What was measured; on data with one picture a caption the page says other words.
        shown: Sample sheets by row of the report.
        trade_off: Points of the guidance and temperature curve; the report's own where absent.
        calibration: By row of the report; that of its first model where absent.

    Raises:
        ValueError: A sheet or a calibration is of no row, a sheet is uneven, or a plot's figure is not finite.
    """
    curves = {"": trade_off} if trade_off else report.trade_off
    spreads = calibration or _calibration(report)
    _check(report, shown, curves, spreads)
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    single = isinstance(report, SingleReport)
    env.globals.update(about_row=functools.partial(about_row, single=single), single=single, words=single_words)
    env.globals.update(about_method=about_method, models_of=models_of, interval_of=interval_of)
    env.globals.update(
        ordered=ordered, number=number, percent=percent, cell=cell, versus=versus, width_of=width_of, uri=data_uri
    )
    page = env.get_template("page.html.jinja").render(
        report=report,
        shown=shown,
        questions=questions(report),
        headlines=single_words.HEADLINES if single else HEADLINES,
        beside=_beside(report, _single_beside() if single else BESIDE),
        memory=_beside(report, MEMORY),
        wide=Scale(*_ends(report)),
        narrow=Scale(-0.5, 1.2),
        share=Scale(0, 1),
        plots={name: Plot.of(points) for name, points in curves.items() if points},
        calibration=spreads,
    )
    return page.strip() + "\n"


# --- words ---------------------------------------------------------------------------------------------------------


def about_row(name: str, single: bool = False) -> tuple[str, str]:
    """Title and explanation of a row; `single`: on data with one picture a caption."""
    return (single_words.ROWS if single else ROWS).get(name, (name, ""))


def about_method(name: str, row: Row | SingleRow) -> tuple[str, str]:
    """Title and explanation of a method; a model is named as the report names it unless it is alone."""
    if isinstance(row, SingleRow) and name in single_words.METHODS:
        return single_words.METHODS[name]
    if name in METHODS:
        return METHODS[name]
    return ("This model" if len(models_of(row)) == 1 else name), ""


def models_of(row: Row | SingleRow) -> list[str]:
    """The names of the models; the first is what baselines are compared with."""
    return [name for name in row.methods if name not in METHODS]


def ordered(row: Row | SingleRow) -> list[str]:
    """Methods as the page lists them: what can be reached, the models, then what is simpler, then cheats."""
    known = [name for name in METHODS if name in row.methods]
    first = [name for name in known if name in ("real", "reconstruction")]
    return first + models_of(row) + known[len(first) :]


def questions(report: Report | SingleReport) -> list[tuple[str, list[Answer]]]:
    """What a newcomer asks, and every row's answer, computed from the figures."""
    asked = (("Is it any good?", good), ("Does it just copy?", copies), ("Is it better than the obvious?", rivals))
    return [(question, [answer(name, row) for name, row in report.rows.items()]) for question, answer in asked]


def good(name: str, row: Row | SingleRow) -> Answer:
    """How far each headline is on the way from its floor to real pictures; the badge is the smallest."""
    if isinstance(row, SingleRow):
        return _found(name, row)
    f, lines, found = row.methods[models_of(row)[0]], [], {}
    for field, title, subject, floor in HEADLINES:
        i = interval_of(f, field)
        if i is None:
            lines.append(f"{subject}: absent ({row.absent.get(field, 'not measured')}).")
            continue
        found[title] = i
        lines.append(f"{subject}: {number(i)}, {_level(i, floor)}.")
    if not found:
        return Answer(name, "absent", "absent", tuple(lines))
    weakest, i = min(found.items(), key=lambda item: item[1].value)
    kind = "bad" if i.low <= 0 else "fair" if i.high < 1 else "good"
    return Answer(name, kind, f"weakest: {weakest.lower()} {number(i.value)}", tuple(lines))


def _found(name: str, row: SingleRow) -> Answer:
    """The same where a caption has one picture: fit decides, since the three have no common 1."""
    f, lines = row.methods[models_of(row)[0]], []
    for field, _, subject, floor in single_words.HEADLINES:
        i = interval_of(f, field)
        said = f"absent ({why_absent(f, field, row)})" if i is None else f"{number(i)}, {_level_of(field, i, floor)}"
        lines.append(f"{subject}: {said}.")
    i = interval_of(f, "fit")
    if i is None:
        return Answer(name, "absent", "absent", tuple(lines))
    codec = row.methods.get("reconstruction")
    most = interval_of(codec, "fit") if codec is not None else None
    if most is not None:
        lines.append(f"Real pictures through the codec reach a fit of {number(most)}.")
    kind = "bad" if i.low <= 0 else "good" if most is not None and i.high >= most.low else "fair"
    return Answer(name, kind, f"fit {number(i.value)}", tuple(lines))


def _level_of(field: str, i: Interval, floor: str) -> str:
    """Where an interval lies on a scale whose 1 is not real pictures by other artists, in words."""
    if field == "diversity":
        return f"of the distance between {single_words.REACHED[field]}"
    if i.high < 0:
        return f"worse than {floor}"
    if i.low <= 0:
        return f"not shown to be better than {floor}"
    if i.high >= 1:
        return f"not shown to fall short of {single_words.REACHED[field]}"
    way = "a little" if i.value < 1 / 3 else "part" if i.value < 2 / 3 else "most"
    return f"{way} of the way from {floor} to {single_words.REACHED[field]}"


def copies(name: str, row: Row | SingleRow) -> Answer:
    """Whether the model's copy rate is above that of real pictures: their intervals do not meet."""
    own, real = interval_of(row.methods[models_of(row)[0]], "copied"), interval_of(row.methods["real"], "copied")
    others = "held-out real pictures" if isinstance(row, SingleRow) else "real pictures by other artists"
    if own is None or real is None:
        return Answer(name, "absent", "absent", (f"absent: {row.absent.get('copied', 'not measured')}",))
    badge = f"{percent(own.value)} copies, real {percent(real.value)}"
    lines = [f"{percent(own)} of its pictures lie nearer to a training picture than 99% of real ones do."]
    if own.low > real.high:
        kind, said = "bad", f"More than of {others}, {percent(real)}: it repeats what it was shown."
    else:
        kind, said = "good", f"Not shown to be more than of {others}, {percent(real)}."
    retrieval = interval_of(row.methods["nearest1"], "copied") if "nearest1" in row.methods else None
    if retrieval is not None:
        lines.append(f"Retrieval, which does nothing but copy: {percent(retrieval)}.")
    return Answer(name, kind, badge, (lines[0], said, *lines[1:]))


def rivals(name: str, row: Row | SingleRow) -> Answer:
    """Whether the model's energy distance (or score) is lower than each obvious alternative's, paired by caption."""
    against = [rival for rival in RIVALS if rival in row.energy_less]
    if not against:
        return Answer(name, "absent", "absent", ("absent: the report was made without baselines",))
    words = [versus(row.energy_less[rival]) for rival in against]
    lines = [_compared(about_method(rival, row)[0], row.energy_less[rival]) for rival in against]
    wins = words.count("better")
    kind = "good" if wins == len(against) else "fair" if wins else "bad"
    return Answer(name, kind, f"better than {wins} of {len(against)}", tuple(lines))


def versus(less: Interval) -> str:
    """What an interval of the model's energy distance less another's says of the model."""
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


def _level(i: Interval, floor: str) -> str:
    """Where an interval lies between floor and real pictures, in words."""
    if i.low > 1:
        return "above real pictures: an alarm, not a success"
    if i.high < 0:
        return f"worse than {floor}"
    if i.low <= 0:
        return f"not shown to be better than {floor}"
    if i.high >= 1:
        return "not shown to fall short of real pictures"
    way = "a little" if i.value < 1 / 3 else "part" if i.value < 2 / 3 else "most"
    return f"{way} of the way from {floor} to real pictures"


# --- figures -------------------------------------------------------------------------------------------------------


def interval_of(f: Figures | SingleFigures, field: str) -> Interval | None:
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


def why_absent(f: Figures | SingleFigures, field: str, row: Row | SingleRow) -> str:
    """Why a figure of a method is absent: its own reason, or that of the whole row."""
    own = f.absent if isinstance(f, SingleFigures) else {}
    return own.get(field) or row.absent.get(field, "not measured")


def cell(f: Figures | SingleFigures, field: str, row: Row | SingleRow) -> str:
    """A figure for a table, or why it is absent; small ones without an interval get a third decimal."""
    i = interval_of(f, field)
    if i is None:
        return f"absent: {why_absent(f, field, row)}"
    return number(i, 3 if i.low == i.high and 0 < abs(i.value) < 0.1 else 2)


def _single_beside() -> list[tuple[str, str, str]]:
    """`BESIDE` with the figures that only data with one picture a caption has, before what they replace."""
    known = single_words.BESIDE
    return [line for line in BESIDE if line[0] not in known] + [(name, *about) for name, about in known.items()]


def _beside(report: Report | SingleReport, table: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Those lines of a table whose field some method has."""
    figures = [f for row in report.rows.values() for f in row.methods.values()]
    return [line for line in table if any(hasattr(f, line[0]) for f in figures)]


def _calibration(report: Report | SingleReport) -> dict[str, Calibration]:
    """That of every row's first model, where there is one."""
    firsts = {name: models_of(row)[:1] for name, row in report.rows.items()}
    return {
        n: report.rows[n].calibration[m]
        for n, first in firsts.items()
        for m in first
        if m in report.rows[n].calibration
    }


def _ends(report: Report | SingleReport) -> tuple[float, float]:
    """Ends of the axis of all headlines, one for all rows so that they compare."""
    figures = [row.methods[models_of(row)[0]] for row in report.rows.values()]
    found = [i for f in figures for field, *_ in HEADLINES if (i := interval_of(f, field))]
    low, high = min([i.low for i in found], default=0.0), max([i.high for i in found], default=1.0)
    return max(min(-0.25, low - 0.05), -1.5), min(max(1.15, high + 0.05), 2.0)


def _check(
    report: Report | SingleReport,
    shown: Mapping[str, Sequence[Shown]],
    curves: Mapping[str, Sequence[TradeOff]],
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
    plotted = [("trade_off", (*vars(p).values(),)) for points in curves.values() for p in points]
    plotted += [("calibration", tuple(c.ranks)) for c in spreads.values()]
    for label, values in plotted:
        if not all(map(math.isfinite, values)):
            raise ValueError(f"{label}: a figure is not finite; leave it out")
