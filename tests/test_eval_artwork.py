"""The headlines on real artwork, by the real network: real pictures at the top, every spoiling seen, no cheat wins."""

from pathlib import Path

import datasets
import numpy as np
import pytest
from torch import Tensor

from bridge.text import TextEncoder
from eval.baselines import text_codes
from eval.bench import Figures
from eval.data import Pictures
from eval.features import EfficientNetLite0
from eval.judge import Judge, Seen
from eval.studies.checks import cheats
from eval.studies.checks.cheats import OTHERS, PARTLY, CheatReport, Division
from tests.pictures import seen

N = 4
HEADLINES = ("fit", "diversity", "joint")


@pytest.fixture(scope="module")
def judge() -> Judge:
    table = datasets.Dataset.from_parquet(str(Path(__file__).parent / "artwork" / "judge.parquet"))
    columns = [np.array(table[name]) for name in ("label", "artist", "family", "split")]
    pictures, extractor = Pictures(list(table["image"]), *columns), EfficientNetLite0()
    return Judge.fit(extractor, pictures, extractor.encode(pictures.pixels(np.arange(len(pictures)))))


@pytest.fixture(scope="module")
def division(judge: Judge) -> Division:
    """Four artists give a picture of each caption, the others judge it."""
    return Division.of(judge, "validation", N)


def given(division: Division) -> Tensor:
    """The given pictures, (C, N, 3, H, W)."""
    return division.bench.judge.pictures.pixels(division.given.ravel()).unflatten(0, division.given.shape)


@pytest.fixture(scope="module")
def looked(division: Division) -> Seen:
    """What the judge sees of the given pictures, caption by caption: looked at once, for all tests rearrange them."""
    return division.bench.judge.look(given(division).flatten(0, 1))


@pytest.fixture(scope="module")
def rows(division: Division) -> np.ndarray:
    """Rows of `looked`, (C, N)."""
    return np.arange(division.given.size).reshape(division.given.shape)


@pytest.fixture(scope="module")
def judged(division: Division, looked: Seen, rows: np.ndarray) -> Figures:
    return figures(division, looked, rows)


def figures(division: Division, looked: Seen, rows: np.ndarray) -> Figures:
    return division.bench.figures(division.bench.samples(looked[rows.ravel()]))


def other_captions(rows: np.ndarray) -> np.ndarray:
    return np.roll(rows, len(rows) // 2, axis=0)


def test_other_artists_are_at_the_top(judged):
    """They do not take part in the references' centroids, as samples do not: that costs a little fit, and its gate."""
    assert not judged.fit.excludes(0.95) and not judged.diversity.excludes(0.95) and not judged.joint.excludes(1.0)
    assert min(judged.fit.value, judged.diversity.value, judged.joint.value) > 0.7


def test_other_captions_pictures_are_at_the_floor(division, looked, rows):
    shuffled = figures(division, looked, other_captions(rows))
    assert not shuffled.fit.excludes(0.0)
    assert shuffled.diversity.high < 0.4
    assert shuffled.joint.high < 0


@pytest.fixture(scope="module")
def repeated(division, looked, rows) -> list[Figures]:
    """With pictures by four artists to one, repeated."""
    return [figures(division, looked, rows[:, [i % k for i in range(N)]]) for k in range(N, 0, -1)]


@pytest.mark.parametrize("name", ["diversity", "joint"])
def test_falls_as_artists_are_dropped(repeated, name):
    values = [getattr(f, name).value for f in repeated]
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0] - 0.3


@pytest.fixture(scope="module")
def contaminated(division, looked, rows) -> list[Figures]:
    """With none to all of a caption's pictures replaced."""
    wrong = other_captions(rows)
    mixed = (np.concatenate([wrong[:, :k], rows[:, k:]], axis=1) for k in range(N + 1))
    return [figures(division, looked, some) for some in mixed]


@pytest.mark.parametrize("name", HEADLINES)
def test_falls_as_pictures_of_other_captions_are_mixed_in(contaminated, name):
    values = [getattr(f, name).value for f in contaminated]
    assert values == sorted(values, reverse=True)


def test_the_order_of_pictures_and_captions_does_not_count(division, looked, rows, judged):
    back = np.arange(len(rows))[::-1].copy()
    turned = division.bench[back]
    again = turned.figures(turned.samples(looked[rows[back][:, ::-1].ravel()]))
    for name in HEADLINES:
        assert getattr(again, name).value == pytest.approx(getattr(judged, name).value, abs=1e-6)


def test_stable_in_the_number_of_pictures(judge, judged):
    """Three artists give instead of four, of the same captions and more: within the interval of four."""
    division = Division.of(judge, "validation", N - 1, n=N - 1)
    fewer = division.bench.figures(division.bench.samples(seen(division.bench.judge, given(division))))
    for name in HEADLINES:
        interval = getattr(judged, name)
        assert interval.low <= getattr(fewer, name).value <= interval.high


# planted cheats


@pytest.fixture(scope="module")
def planted(judge: Judge, encoder: TextEncoder) -> CheatReport:
    return cheats.evaluate(judge, text_codes(encoder), captions=12)


@pytest.mark.parametrize("section", [0, 1, 2], ids=["n give", "one gives", "none gives"])
def test_no_cheat_comes_near_real_pictures(planted, section):
    real, found = planted.sections[0].figures[OTHERS].score, planted.sections[section].figures
    wholly = {name: f.score for name, f in found.items() if cheats.is_cheat(name) and name != PARTLY}
    best = max(wholly, key=lambda name: wholly[name].value)
    assert wholly[best].value < real.value - 0.2, best
    assert wholly[best].value < real.low, best


@pytest.mark.parametrize("moved", ["copies, mirrored", "copies, shifted"])
def test_moved_copies_are_found_through_the_network(planted, moved):
    """The copy rate, of thumbnails, misses most of them."""
    found, real = (planted.sections[-1].figures[name] for name in (moved, cheats.REAL))
    assert found.copied.value < 0.5
    assert found.c_t < -4 and found.authenticity < real.authenticity - 0.3
