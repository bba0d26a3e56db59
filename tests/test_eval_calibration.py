"""Calibration on worlds whose posterior is known: right, too sure, too unsure, off, and blind to the caption."""

import numpy as np
import pytest

from eval.data import Pictures
from eval.features import RawPixels
from eval.metrics.calibration import (
    ranks_per_caption,
    reliability,
    spread_skill,
    spread_skill_ratio,
)

CAPTIONS, N, D = 2000, 4, 4
Points = list[np.ndarray]
ONE = [np.array(["an artist"])] * CAPTIONS


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def world(rng, width: float = 1.0, n: int = N, offset: float = 0.0) -> tuple[Points, Points, Points]:
    """Captions with a centre each, n samples about it at `width`, and a real picture by one artist at deviation 1."""
    centres = 3 * rng.standard_normal((CAPTIONS, 1, D))
    samples = centres + offset + width * rng.standard_normal((CAPTIONS, n, D))
    return list(samples), list(centres + rng.standard_normal((CAPTIONS, 1, D))), ONE


def ratio(samples: Points, references: Points, artists: Points) -> float:
    spread, skill = spread_skill(samples, references, artists)
    return float(spread_skill_ratio(spread.mean(), skill.mean(), len(samples[0])))


@pytest.mark.parametrize("n", [2, 4, 16])
def test_calibrated_samples_have_ratio_one_whatever_their_number(rng, n):
    assert ratio(*world(rng, n=n)) == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("width", [0.5, 2.0])
def test_ratio_of_samples_too_sure_or_too_unsure_is_the_known_one(rng, width):
    known = np.sqrt((1 + 1 / N) * width**2 / (1 + width**2 / N))
    assert ratio(*world(rng, width)) == pytest.approx(known, rel=0.04)


def test_an_error_of_the_mean_lowers_the_ratio(rng):
    known = np.sqrt((1 + 1 / N) / (1 + 1 / N + 1.5**2))
    assert ratio(*world(rng, offset=1.5)) == pytest.approx(known, rel=0.04)


def test_a_model_blind_to_the_caption_is_calibrated_too(rng):
    """Why none of this is a headline."""
    samples, *real = world(rng)
    blind = [np.sqrt(10) * rng.standard_normal(x.shape) for x in samples]
    assert ratio(blind, *real) == pytest.approx(1, abs=0.05)
    assert reliability(ranks_per_caption(blind, *real).sum(axis=0)) < 0.08


def test_one_picture_many_times_has_no_spread(rng):
    samples, *real = world(rng)
    assert ratio([np.repeat(x[:1], N, axis=0) for x in samples], *real) == 0


def test_artists_weigh_equally_in_skill():
    x = [np.array([[-1.0], [1.0]])]
    twice = spread_skill(x, [np.array([[3.0], [3.0], [1.0]])], [np.array(["a", "a", "b"])])
    assert twice[1][0] == pytest.approx((9 + 1) / 2)


def test_artists_weigh_equally_in_ranks():
    x, r = [np.array([[-1.0], [1.0]])], [np.array([[3.0], [3.5], [0.0]])]
    assert ranks_per_caption(x, r, [np.array(["a", "a", "b"])])[0].tolist() == [0.5, 0, 0.5]


def test_ranks_of_calibrated_samples_are_flat(rng):
    counts = ranks_per_caption(*world(rng)).sum(axis=0)
    chance = np.sqrt(2 * N / (np.pi * CAPTIONS))
    assert counts.sum() == pytest.approx(CAPTIONS) and reliability(counts) < 2 * chance


def test_expected_deviation_of_calibrated_ranks_is_as_documented(rng):
    values = [reliability(np.bincount(rng.integers(5, size=300), minlength=5)) for _ in range(2000)]
    assert np.mean(values) == pytest.approx(np.sqrt(2 * 4 / (np.pi * 300)), rel=0.05)


def test_references_outside_samples_too_alike_are_outlying(rng):
    counts = ranks_per_caption(*world(rng, 0.4)).sum(axis=0)
    assert counts[-1] > 0.8 * CAPTIONS


def test_references_amid_samples_too_unlike_are_not_outlying(rng):
    counts = ranks_per_caption(*world(rng, 2.5)).sum(axis=0)
    assert counts[0] > 0.5 * CAPTIONS


def test_ties_are_broken_evenly():
    same = [np.zeros((N, D))] * CAPTIONS
    counts = ranks_per_caption(same, [np.zeros((1, D))] * CAPTIONS, ONE).sum(axis=0)
    assert reliability(counts) < 2 * np.sqrt(2 * N / (np.pi * CAPTIONS))


def test_a_sample_that_copies_the_reference_ties_with_it(rng):
    """Half of the time above, half below: rounding must not decide."""
    r = list(rng.standard_normal((80, 1, 7)))
    x = [np.concatenate([p + 5 * rng.standard_normal((9, 7)), p]) for p in r]
    seeds = [ranks_per_caption(x, r, ONE[:80], seed=s) for s in range(8)]
    assert (np.mean(seeds, axis=0).max(axis=1) < 1).mean() > 0.95


def test_ties_repeat_with_their_seed():
    same, r = [np.zeros((N, D))] * 50, [np.zeros((1, D))] * 50
    first, again, other = (ranks_per_caption(same, r, ONE[:50], seed=s) for s in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_ranks_do_not_depend_on_the_order_of_samples_or_references(rng):
    x, r = list(rng.standard_normal((20, 5, 3))), list(rng.standard_normal((20, 4, 3)))
    artists = [np.array(["a", "a", "b", "c"])] * 20
    turned = [v[::-1] for v in x], [v[::-1] for v in r], [v[::-1] for v in artists]
    np.testing.assert_allclose(ranks_per_caption(*turned), ranks_per_caption(x, r, artists))


def test_spread_and_skill_do_not_depend_on_the_order_of_samples_or_references(rng):
    x, r = list(rng.standard_normal((20, 5, 3))), list(rng.standard_normal((20, 4, 3)))
    artists = [np.array(["a", "a", "b", "c"])] * 20
    turned = [v[::-1] for v in x], [v[::-1] for v in r], [v[::-1] for v in artists]
    np.testing.assert_allclose(spread_skill(*turned), spread_skill(x, r, artists))


def test_artwork_held_against_the_rest_of_its_caption_fills_every_bin_once(artwork_folder):
    """Real pictures of a caption are interchangeable: each in turn among the others takes each rank once."""
    pictures = Pictures.load(artwork_folder)
    rows = np.concatenate([pictures.where(s) for s in ("validation", "test")])
    points = RawPixels().encode(pictures.pixels(rows)).late
    groups = [points[pictures.label[rows] == c] for c in np.unique(pictures.label[rows])]
    left = [np.delete(g, i, axis=0) for g in groups for i in range(8)]
    one = [g[i : i + 1] for g in groups for i in range(8)]
    counts = ranks_per_caption(left, one, ONE[: len(one)]).sum(axis=0)
    assert len(groups) == 4 and counts.tolist() == [4] * 8
