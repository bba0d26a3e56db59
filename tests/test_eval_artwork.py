"""The headlines on real artwork, by the real network: real pictures at the top, every spoiling seen, no cheat wins."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from torch import Tensor

from bridge.text import TextEncoder
from eval.baselines import text_codes
from eval.bench import Figures
from eval.data import Pictures
from eval.features import EfficientNetLite0
from eval.judge import Judge
from eval.studies import cheats
from eval.studies.cheats import OTHERS, PARTLY, CheatReport, Division
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


@pytest.fixture(scope="module")
def real(division: Division) -> Tensor:
    return division.pictures()


@pytest.fixture(scope="module")
def judged(division: Division, real: Tensor) -> Figures:
    return figures(division, real)


def figures(division: Division, x: Tensor) -> Figures:
    return division.bench.figures(division.bench.samples(seen(division.bench.judge, x)))


def other_captions(x: Tensor) -> Tensor:
    return x.roll(len(x) // 2, dims=0)


def test_other_artists_are_at_the_top(judged):
    """They do not take part in the references' centroids, as samples do not: that costs a little fit, and its gate."""
    assert not judged.fit.excludes(0.95) and not judged.diversity.excludes(0.95) and not judged.joint.excludes(1.0)
    assert min(judged.fit.value, judged.diversity.value, judged.joint.value) > 0.7


def test_other_captions_pictures_are_at_the_floor(division, real):
    shuffled = figures(division, other_captions(real))
    assert not shuffled.fit.excludes(0.0)
    assert shuffled.diversity.high < 0.4
    assert shuffled.joint.high < 0


@pytest.mark.parametrize("name", ["diversity", "joint"])
def test_falls_as_artists_are_dropped(division, real, name):
    found = [getattr(figures(division, real[:, [i % k for i in range(N)]]), name).value for k in range(N, 0, -1)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < found[0] - 0.3


@pytest.fixture(scope="module")
def contaminated(division, real) -> list[Figures]:
    """With none to all of a caption's pictures replaced."""
    wrong = other_captions(real)
    return [figures(division, torch.cat([wrong[:, :k], real[:, k:]], dim=1)) for k in range(N + 1)]


@pytest.mark.parametrize("name", HEADLINES)
def test_falls_as_pictures_of_other_captions_are_mixed_in(contaminated, name):
    found = [getattr(f, name).value for f in contaminated]
    assert found == sorted(found, reverse=True)


def test_the_order_of_pictures_and_captions_does_not_count(division, real, judged):
    back = np.arange(len(real))[::-1].copy()
    turned = division.bench[back]
    found = turned.figures(turned.samples(seen(turned.judge, real[torch.from_numpy(back)].flip(1))))
    for name in HEADLINES:
        assert getattr(found, name).value == pytest.approx(getattr(judged, name).value, abs=1e-6)


def test_stable_in_the_number_of_pictures(judge, judged):
    """Three artists give instead of four, of the same captions and more: within the interval of four."""
    division = Division.of(judge, "validation", N - 1, n=N - 1)
    fewer = figures(division, division.pictures())
    for name in HEADLINES:
        interval = getattr(judged, name)
        assert interval.low <= getattr(fewer, name).value <= interval.high


# planted cheats


@pytest.fixture(scope="module")
def planted(judge: Judge, encoder: TextEncoder) -> CheatReport:
    return cheats.evaluate(judge, text_codes(encoder), captions=24)


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
