"""A report as one page: is it any good, does it copy, what else would have done?

The page is one file: pictures are data URIs, nothing is loaded and nothing is run. What it says is in words.yaml.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml
from PIL import Image

from eval import plots
from eval.bench import Calibration, Figures
from eval.metrics.bootstrap import Interval
from eval.report import BASES, Report, Row

RIVALS = ("nearest1", "nearestk", "ridge + Gaussian", "unconditional")
HERE = Path(__file__).parent
SHARED = yaml.safe_load((HERE / "words.yaml").read_text("utf-8"))
METHODS: dict[str, tuple[str, str]] = SHARED["methods"]
Words = dict[str, Any]


def _words(kind: str) -> Words:
    words: Words = SHARED[kind]
    return words | {
        "beside": SHARED["memory"] + SHARED["quality"] + words["beside"],
        "rows": words["rows"] | SHARED["absent"],
        "methods": METHODS | words["methods"],
    }


ARTISTS, SINGLE = _words("artists"), _words("single")


@dataclass(frozen=True)
class Scale:
    """Numbers in [low, high] to percent of a drawing's width; those beyond an end are drawn at it."""

    low: float
    high: float

    def x(self, number: float) -> float:
        """Percent from the left."""
        share = (number - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 2)

    def holds(self, number: float) -> bool:
        return self.low <= number <= self.high


@dataclass(frozen=True)
class Shown:
    caption: str  # As the model was given it
    samples: list[Image.Image]  # The model's n pictures
    nearest: list[Image.Image]  # The training picture nearest to each
    nearest_captions: list[str]  # Their captions
    copied: list[bool]  # Whether each sample counts as a copy of it
    references: list[Image.Image]  # Real pictures by other artists
    note: str | None  # What to trust less, if anything


@dataclass(frozen=True)
class Answer:
    kind: str  # 'good', 'fair', 'bad' or 'absent'
    badge: str
    lines: tuple[str, ...]


def to_html(report: Report, shown: Mapping[str, Sequence[Shown]]) -> str:
    """The page, with sample sheets by row; the same arguments give the same bytes.

    Calibration is that of each row's first model. ValueError if a sheet is of no row, a sheet is uneven, a row has no
    model, or a plot's figure is not finite.
    """
    rows = report.rows
    for name, row in rows.items():
        if not models_of(row):
            raise ValueError(f"report: row {name!r} has no model, only {', '.join(row.methods)}")
    if unknown := sorted(set(shown) - set(rows)):
        raise ValueError(f"shown: the report has no row {unknown[0]!r}, only {', '.join(rows)}")
    for sheet in (s for sheets in shown.values() for s in sheets):
        if len({len(sheet.samples), len(sheet.nearest), len(sheet.nearest_captions), len(sheet.copied)}) > 1:
            raise ValueError(f"shown: {sheet.caption!r} needs one nearest picture, caption and flag for each sample")
    if not all(math.isfinite(v) for points in report.trade_off.values() for p in points for v in vars(p).values()):
        raise ValueError("trade_off: a figure is not finite; leave it out")
    words = SINGLE if report.singly else ARTISTS
    env = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    env.loader = jinja2.FileSystemLoader(HERE)
    env.globals |= {f.__name__: f for f in (models_of, interval_of, ordered, number, percent, cell, versus, width_of)}
    env.globals |= {"uri": plots.data_uri, "plots": plots, "about_row": lambda n: words["rows"].get(n, (n, ""))}
    env.globals |= {"about_method": lambda name, row: about_method(name, row, words)}
    figures = [f for row in rows.values() for f in row.methods.values()]

    def present(table: Sequence[Sequence[str]]) -> list[Sequence[str]]:
        return [line for line in table if any(getattr(f, line[0], None) is not None for f in figures)]

    firsts = {name: models_of(row)[0] for name, row in rows.items()}
    calibrated = {name: row.calibration[firsts[name]] for name, row in rows.items() if firsts[name] in row.calibration}
    # What a newcomer asks, and every row's answer
    questions = (("Is it any good?", good), ("Does it just copy?", copies), ("Is it better than the obvious?", rivals))
    page = env.get_template("page.html.jinja").render(
        report=report,
        words=words,
        shown=shown,
        questions=[(asked, [(name, answer(row, words)) for name, row in rows.items()]) for asked, answer in questions],
        beside=present(words["beside"]),
        memory=present(SHARED["memory"]),
        wide=_scale_of([rows[name].methods[first] for name, first in firsts.items()]),
        narrow=Scale(-0.5, 1.2),
        share=Scale(0, 1),
        trade_off={name: points for name, points in report.trade_off.items() if points},
        calibration=calibrated,
    )
    return page.strip() + "\n"


def about_method(name: str, row: Row, words: Words = ARTISTS) -> tuple[str, str]:
    """Title and explanation of a method; a model is named as the report names it unless it is alone."""
    title, about = words["methods"].get(name, ("This model" if len(models_of(row)) == 1 else name, ""))
    return title, about


def models_of(row: Row) -> list[str]:
    """The names of the models; the first is what baselines are compared with."""
    return [name for name in row.methods if name not in METHODS]


def ordered(row: Row) -> list[str]:
    """Methods as the page lists them: what can be reached, the models, then what is simpler, then cheats."""
    known = [name for name in METHODS if name in row.methods]
    first = [name for name in known if name in BASES]
    return first + models_of(row) + known[len(first) :]


def good(row: Row, words: Words = ARTISTS) -> Answer:
    """How far each headline is on the way from its floor to its 1; the badge is the smallest (singly, fit)."""
    f, lines, measured = row.methods[models_of(row)[0]], [], {}
    for field, title, subject, floor in words["headlines"]:
        i = interval_of(f, field)
        if i is None:
            lines.append(f"{subject}: absent ({why_absent(f, field, row)}).")
            continue
        lines.append(f"{subject}: {number(i)}, {_level(field, i, floor, words)}.")
        if words is not SINGLE or field == "fit":
            measured[title] = i
    if not measured:
        return Answer("absent", "absent", tuple(lines))
    weakest, i = min(measured.items(), key=lambda item: item[1].value)
    least, badge = 1.0, f"weakest: {weakest.lower()} {number(i.value)}"
    if words is SINGLE:
        least, badge = math.inf, f"fit {number(i.value)}"
        if most := interval_of(row.methods.get("reconstruction"), "fit"):
            least = most.low
            lines.append(f"Real pictures through the codec reach a fit of {number(most)}.")
    kind = "bad" if i.low <= 0 else "good" if i.high >= least else "fair"
    return Answer(kind, badge, tuple(lines))


def copies(row: Row, words: Words = ARTISTS) -> Answer:
    """Whether the model's copy rate is above that of real pictures: their intervals do not meet."""
    own, real = interval_of(row.methods[models_of(row)[0]], "copied"), interval_of(row.methods["real"], "copied")
    if own is None or real is None:
        return Answer("absent", "absent", (f"absent: {row.absent.get('copied', 'not measured')}",))
    lines = [f"{percent(own)} of its pictures lie nearer to a training picture than 99% of real ones do."]
    repeats = own.low > real.high
    if repeats:
        lines.append(f"More than of {words['others']}, {percent(real)}: it repeats what it was shown.")
    else:
        lines.append(f"Not shown to be more than of {words['others']}, {percent(real)}.")
    if retrieval := interval_of(row.methods.get("nearest1"), "copied"):
        lines.append(f"Retrieval, which does nothing but copy: {percent(retrieval)}.")
    badge = f"{percent(own.value)} copies, real {percent(real.value)}"
    return Answer("bad" if repeats else "good", badge, tuple(lines))


def rivals(row: Row, words: Words = ARTISTS) -> Answer:
    """Whether the model's energy is lower than each obvious alternative's, paired by caption."""
    against = {rival: row.energy_less[rival] for rival in RIVALS if rival in row.energy_less}
    if not against:
        return Answer("absent", "absent", ("absent: the report was made without baselines",))
    lines, wins = [], 0
    for rival, less in against.items():
        verdict, title = versus(less), about_method(rival, row, words)[0]
        if verdict == "not shown to differ":
            lines.append(f"Not shown to differ from “{title}”: {number(less, 1)}.")
        else:
            wins += verdict == "better"
            gap = less if verdict == "worse" else Interval(-less.value, -less.high, -less.low)
            lines.append(f"{verdict.capitalize()} than “{title}” by {number(gap, 1)}.")
    kind = "good" if wins == len(against) else "fair" if wins else "bad"
    return Answer(kind, f"better than {wins} of {len(against)}", tuple(lines))


def versus(less: Interval) -> str:
    """What an interval of the model's energy less another's says of the model."""
    if not less.excludes(0):
        return "not shown to differ"
    return "better" if less.value < 0 else "worse"


def width_of(c: Calibration) -> str:
    """Whether a caption's pictures are spread too 'narrow' or too 'wide', or the interval leaves it 'open'."""
    return "narrow" if c.spread_skill.high < 1 else "wide" if c.spread_skill.low > 1 else "open"


def _level(field: str, i: Interval, floor: str, words: Words) -> str:
    """Where an interval lies between its floor and its 1, in words."""
    reached = words["reached"][field]
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


def interval_of(f: Figures | None, field: str) -> Interval | None:
    """A figure with its interval, if it was measured; a plain number's interval has no width."""
    value = getattr(f, field, None)
    if isinstance(value, int | float):
        value = Interval(value, value, value)
    return value if value is not None and all(map(math.isfinite, (value.value, value.low, value.high))) else None


def number(value: Interval | float, digits: int = 2) -> str:
    """A number, with its interval if it has one.

    >>> number(-0.061), number(-0.0001), number(Interval(3.94, 2.71, 5.1), 1)
    ('−0.06', '0.00', '3.9 [2.7, 5.1]')
    """
    if isinstance(value, Interval):
        ends = f"{number(value.low, digits)}, {number(value.high, digits)}"
        return number(value.value, digits) + ("" if value.low == value.high else f" [{ends}]")
    return f"{value:z.{digits}f}".replace("-", "−")


def percent(value: Interval | float) -> str:
    """A share in percent, such as '44% [30, 58]'."""
    if isinstance(value, Interval):
        return f"{value.value:.0%} [{100 * value.low:.0f}, {100 * value.high:.0f}]"
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


def _scale_of(figures: Sequence[Figures]) -> Scale:
    """The axis of all headlines, one for all rows so that they compare."""
    intervals = [i for f in figures for field, *_ in ARTISTS["headlines"] if (i := interval_of(f, field))]
    low, high = min([i.low for i in intervals], default=0.0), max([i.high for i in intervals], default=1.0)
    return Scale(max(min(-0.25, low - 0.05), -1.5), min(max(1.15, high + 0.05), 2.0))
