"""The report page: whole, safe with any caption, true to its figures. Reports are made up; nothing is judged."""

import base64
import dataclasses
import io
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from eval import page, plots
from eval.bench import Calibration, Figures
from eval.metrics.bootstrap import Interval
from eval.page import Scale, Shown, to_html
from eval.report import Codec, Report, Row, TradeOff

VOID = {"meta", "img", "br", "link", "hr", "input"}
HOSTILE = '<script>alert("1")</script> & "onerror=x'
GEOMETRY = {"x", "x1", "x2", "width"}


class Page(HTMLParser):
    """Elements with their attributes, and the visible text; every tag must be closed, in order."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        raise AssertionError(f"<{tag}/> closes nothing in HTML")

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def all(self, tag: str, of: str | None = None) -> list[dict[str, str]]:
        """Attributes of all elements of a tag, and of a class where given."""
        return [a for t, a in self.elements if t == tag and (of is None or of in a.get("class", "").split())]


def figures(**changes) -> Figures:
    """Figures of .5, with an interval where a figure has one."""
    plain = ("c_t", "authenticity", "kid", "frechet", "sharpness")
    names = [f.name for f in dataclasses.fields(Figures) if f.name != "absent"]
    return Figures(**{name: 0.5 if name in plain else Interval(0.5, 0.4, 0.6) for name in names} | changes)


def row(model: Figures | None = None, **changes) -> Row:
    """A row with one model; on it retrieval is better, and ridge + Gaussian worse."""
    one = Interval(1, 1, 1)
    real = figures(fit=one, diversity=one, joint=one, copied=Interval(0.02, 0.01, 0.04))
    names = ("model, blur", "nearest1", "nearestk", "ridge + Gaussian", "unconditional")
    usual = {
        "split": "test",
        "captions": 60,
        "families": 50,
        "left_out": 3,
        "unconditional_energy": Interval(5, 4, 6),
        "real_joint": Interval(0.9, 0.7, 1.2),
        "real_joint_captions": 20,
        "methods": {"real": real, "model": model or figures()} | {name: figures() for name in names},
        "energy_less": {
            "nearest1": Interval(2, 1, 3),
            "ridge + Gaussian": Interval(-3.9, -5.1, -2.7),
            "unconditional": Interval(0.6, -0.4, 1.8),
        },
    }
    return Row(**usual | changes)


def report(*rows: Row, **changes) -> Report:
    """A report on 'seen' and 'held-out' captions, as far as rows are given; one row when none is."""
    usual = {
        "split": "test",
        "seed": 0,
        "samples": 4,
        "extractor": "network",
        "data": "da7a",
        "rows": dict(zip(("seen", "held-out"), rows or (row(),), strict=False)),
        "codec": Codec(Interval(22.5, 22, 23), 22.4, 0.7, 100),
        "about": {"model": "f1a9", "command": "python -m eval x"},
    }
    return Report(**usual | changes)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8))


def sheet(caption: str = "a cat", copied: tuple[bool, ...] = (False, True, False)) -> Shown:
    n = len(copied)
    x = [picture(i) for i in range(2 * n + 2)]
    return Shown(caption, x[:n], x[n : 2 * n], [f"{caption} {i}" for i in range(n)], list(copied), x[2 * n :], None)


TRADE_OFF = [TradeOff(g, t, 0.2 + 0.1 * g, 0.6 - 0.1 * g + 0.1 * t, 0.1 * g, 0.3) for g in (1, 2, 3) for t in (0.5, 1)]
SPREAD = Calibration(Interval(0.7, 0.6, 0.8), [4.0, 1.0, 1.0, 2.0], 0.4)


def made() -> str:
    rows = row(figures(joint=Interval(-0.2, -0.4, 0.1))), row(calibration={"model": SPREAD})
    return to_html(report(*rows, trade_off={"seen": TRADE_OFF}), {"seen": [sheet(HOSTILE)]})


@pytest.fixture(scope="module")
def html() -> str:
    return made()


def test_every_tag_is_closed_in_order(html):
    assert Page(html).text


def test_parser_would_notice_an_unclosed_tag():
    with pytest.raises(AssertionError):
        Page("<p><b>no end</p>")


def test_nothing_is_loaded_and_nothing_is_run(html):
    parsed = Page(html)
    addresses = [a[name] for _, a in parsed.elements for name in ("src", "href", "xlink:href", "data") if name in a]
    assert addresses and all(address.startswith("data:image/") for address in addresses)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in parsed.elements}
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style and "@import" not in style


def test_captions_are_text_wherever_they_stand(html):
    parsed = Page(html)
    assert HOSTILE in parsed.text and any(HOSTILE in a["alt"] for a in parsed.all("img"))
    assert not any(name.startswith("on") for _, a in parsed.elements for name in a)


def test_same_figures_same_bytes(html):
    assert html == made()


def test_accessible_to_those_who_do_not_see_it(html):
    parsed = Page(html)
    assert parsed.all("html")[0]["lang"] == "en"
    assert all(a["alt"] for a in parsed.all("img")) and all(a["scope"] in ("col", "row") for a in parsed.all("th"))
    assert all(a.get("aria-label") or a.get("aria-hidden") for a in parsed.all("svg"))


def test_pictures_are_the_ones_given():
    shown = sheet()
    found = [a["src"].split(",")[1] for a in Page(to_html(report(), {"seen": [shown]})).all("img")]
    pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]
    pairs = [x for pair in zip(shown.samples, shown.nearest, strict=True) for x in pair]
    assert all(np.array_equal(a, b) for a, b in zip(pixels, [*pairs, *shown.references], strict=True))


def test_copies_and_no_others_are_marked():
    parsed = Page(to_html(report(), {"seen": [sheet(copied=(False, True, True, False))]}))
    listed = [a.get("class") for a in parsed.all("li") if a.get("class") != "absent"][-6:]
    assert listed == [None, "copy", "copy", None, None, None] and len(parsed.all("span", "mark")) == 2


def test_nearest_picture_carries_its_caption():
    titles = [a["title"] for a in Page(to_html(report(), {"seen": [sheet("a cat")]})).all("img")]
    assert "Nearest training picture: “a cat 0”" in titles
    assert "Nearest training picture: “a cat 1”, counts as copied" in titles


def test_bar_and_whiskers_are_drawn_to_scale():
    html = to_html(report(row(figures(fit=Interval(0.84, 0.73, 0.96)))), {})
    svg = Page(html[html.index('<svg class="bar"') : html.index("</svg>") + 6])
    floor, real = (float(svg.all("line", of)[0]["x1"][:-1]) for of in ("floor", "real"))
    bar, whisker = svg.all("rect")[0], svg.all("line")[2]
    drawn = [float(bar["x"][:-1]) + float(bar["width"][:-1]), *(float(whisker[x][:-1]) for x in ("x1", "x2"))]
    assert [(x - floor) / (real - floor) for x in drawn] == pytest.approx([0.84, 0.73, 0.96], abs=1e-3)


def test_figure_below_its_floor_is_drawn_leftwards(html):
    first = next(svg for svg in html.split("<svg")[1:] if 'aria-label="Joint' in svg)
    rect = re.search(r'<rect class="value below" x="([\d.]+)%" y="\d+" width="([\d.]+)%"', first)
    floor = re.search(r'class="floor" x1="([\d.]+)%"', first)
    assert float(rect[1]) + float(rect[2]) == pytest.approx(float(floor[1]), abs=0.02) and float(rect[2]) > 1


def test_figures_beyond_the_scale_stay_on_the_drawing_and_say_so():
    html = to_html(report(row(figures(joint=Interval(-9, -12, -7), fit=Interval(8, 3, 9)))), {})
    shapes = [a for _, a in Page(html).elements if GEOMETRY & set(a)]
    ends = [float(a[name][:-1]) for a in shapes for name in GEOMETRY & set(a) if a[name].endswith("%")]
    assert min(ends) >= 0 and max(ends) <= 100 and "◀" in html and "▶" in html


def test_everything_absent_says_why():
    bare = row(methods={"real": figures(), "model": figures()}, energy_less={}, real_joint=None)
    bare = dataclasses.replace(bare, absent={"real_joint": "too few artists"})
    text = Page(to_html(report(bare, codec=None, absent={"far": "no caption is far"}), {})).text
    assert "too few artists" in text and "absent: no codec was given" in text and "absent: no caption is far" in text
    assert "the report was made without baselines" in text


@pytest.mark.parametrize("field", ["fit", "copied", "kid"])
def test_what_is_not_finite_is_absent(field):
    nothing = Interval(math.nan, math.nan, math.nan) if field != "kid" else math.nan
    model = figures(**{field: nothing})
    text = Page(to_html(report(row(model, absent={field: "too few pictures"})), {})).text
    assert "absent: too few pictures" in text and not re.search(r"\bnan\b", text, re.IGNORECASE)


@pytest.mark.parametrize(
    ("joint", "kind", "said"),
    [
        (Interval(0.03, -0.1, 0.15), "bad", "not shown to be better than training pictures that ignore"),
        (Interval(-0.3, -0.4, -0.2), "bad", "worse than training pictures that ignore"),
        (Interval(0.3, 0.2, 0.4), "fair", "a little of the way from"),
        (Interval(0.3, 0.2, 1.4), "good", "not shown to fall short of real pictures"),
        (Interval(1.3, 1.2, 1.4), "good", "above real pictures: an alarm"),
    ],
)
def test_verdict_on_the_weakest_headline(joint, kind, said):
    high = Interval(1.3, 1.2, 1.4)
    answer = page.good(row(figures(fit=high, diversity=high, joint=joint)))
    assert answer.kind == kind and said in answer.lines[2]
    assert joint == high or answer.badge == f"weakest: joint {page.number(joint.value)}"


@pytest.mark.parametrize(("low", "kind"), [(0.041, "bad"), (0.039, "good")])
def test_verdict_on_copies_needs_intervals_apart(low, kind):
    assert page.copies(row(figures(copied=Interval(0.3, low, 0.5)))).kind == kind


def test_verdict_on_the_obvious_alternatives():
    answer = page.rivals(row())
    assert answer.badge == "better than 1 of 3" and answer.kind == "fair"
    assert answer.lines == (
        "Worse than “Retrieval, nearest caption” by 2.0 [1.0, 3.0].",
        "Better than “Ridge + Gaussian” by 3.9 [2.7, 5.1].",
        "Not shown to differ from “Caption ignored”: 0.6 [−0.4, 1.8].",
    )


def test_verdict_stands_on_the_page(html):
    assert "Better than “Ridge + Gaussian” by 3.9 [2.7, 5.1]." in Page(html).text


def test_further_figures_need_one_line_each(monkeypatch):
    lines = (("score", "Smallest", "the smallest of three"), ("telepathy", "Telepathy", "no such field"))
    monkeypatch.setattr(page, "ARTISTS", page.ARTISTS | {"beside": lines})
    text = Page(to_html(report(), {})).text
    assert "the smallest of three" in text and "Telepathy" not in text


def test_any_row_and_several_models_are_shown():
    methods = row().methods
    several = row(methods={"real": methods["real"], "guidance=1": figures(), "guidance=<2>": figures()})
    text = Page(to_html(report(rows={"odd <row>": several}), {})).text
    assert "odd <row>" in text and "guidance=<2>" in text and "holds 2 models" in text


def test_second_judge_stands_beside_the_first():
    other = {"seen": row(figures(fit=Interval(0.77, 0.7, 0.8)))}
    assert "Judged by second-net: 0.77 [0.70, 0.80]" in Page(to_html(report(repeated={"second-net": other}), {})).text


def test_curve_and_calibration_of_the_report_are_drawn():
    own = report(row(calibration={"model": SPREAD}), trade_off={"seen": TRADE_OFF})
    text = Page(to_html(own, {})).text
    assert "More fit or more variety? Captions it was trained on" in text and "0.70 [0.60, 0.80], too narrow" in text
    assert "More fit" not in Page(to_html(report(), {})).text


def test_points_are_drawn_where_their_figures_say():
    (axes,) = plots.trade_off(TRADE_OFF).axes
    drawn = axes.collections[0].get_offsets()
    assert np.asarray(drawn).tolist() == [[p.diversity, p.fit] for p in TRADE_OFF]
    joined = [line.get_xydata().tolist() for line in axes.lines]
    assert joined == [[[p.diversity, p.fit] for p in TRADE_OFF[i : i + 2]] for i in (0, 2, 4)]


def test_best_smallest_headline_is_marked():
    points = [TradeOff(1, 0.5, 0.9, 0.9, 0.1, 0), TradeOff(1, 1, 0.4, 0.5, 0.6, 0), TradeOff(2, 1, 0.8, 0.3, 0.7, 0)]
    assert plots.best_of(points) == points[1]
    green, *blue = np.unique(plots.trade_off(points).axes[0].collections[0].get_facecolors(), axis=0)
    assert len(blue) == 1 and green[1] > green[2]
    parsed = Page(to_html(report(trade_off={"seen": points}), {}))
    assert [a.get("class") for a in parsed.all("tr")].count("model") == 3  # two of tables of figures


def test_no_two_labels_of_a_crowded_curve_overlap():
    crowd = [(0.3 + 0.001 * i, 0.3 + 0.002 * j) for i in range(8) for j in range(8)]
    figure = Figure()
    figure.subplots().scatter(*zip(*crowd, strict=True))
    boxes = [note.get_window_extent() for note in plots.label(crowd, ["1.5 / 0.8"] * len(crowd), figure)]
    assert len(boxes) > 2
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_one_point_is_a_curve_too():
    assert "<svg" in plots.to_svg(plots.trade_off(TRADE_OFF[:1]))


def test_a_figure_is_the_same_bytes_every_time():
    assert plots.to_svg(plots.rank_histogram(SPREAD)) == plots.to_svg(plots.rank_histogram(SPREAD))


def test_histogram_is_drawn_to_scale(html):
    (axes,) = plots.rank_histogram(SPREAD).axes
    assert [bar.get_height() for bar in axes.patches] == SPREAD.ranks
    assert axes.lines[0].get_ydata()[0] == 2
    assert any(a["alt"].startswith("Rank histogram: 4.0, 1.0") for a in Page(html).all("img"))


def test_scale_keeps_to_the_drawing():
    assert [Scale(-1, 1).x(v) for v in (-2, -1, 0, 1, 2)] == [0, 0, 50, 100, 100]


UNEVEN = dataclasses.replace(sheet(), nearest_captions=["one"])
ENDLESS = [TradeOff(1, 1, math.nan, 0, 0, 0)]


@pytest.mark.parametrize(
    ("shown", "rest", "named"),
    [
        ({"sen": []}, {}, "shown: the report has no row 'sen'"),
        ({"seen": [UNEVEN]}, {}, "shown: 'a cat' needs one"),
        ({}, {"trade_off": {"seen": ENDLESS}}, "trade_off: a figure is not finite"),
    ],
)
def test_wrong_arguments_are_named(shown, rest, named):
    with pytest.raises(ValueError, match=re.escape(named)):
        to_html(report(**rest), shown)


def test_row_without_a_model_is_named():
    with pytest.raises(ValueError, match="'seen' has no model"):
        to_html(report(row(methods={"real": figures()})), {})
