"""Disentanglement on codes whose answer is known: the factors themselves, rotated, doubled, drowned, absent."""

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.stats import ortho_group

from eval.metrics import disentangle
from eval.metrics.disentangle import (
    DCI,
    active_units,
    dci,
    explained,
    linear_probe,
    mig,
    mutual_information,
    sap,
)
from eval.studies.checks.swap import agreement, nearest_captions, pair_rates, real_rates

FACTORS = np.array(list(itertools.product(range(4), range(3), range(5))) * 8)
"""Three independent factors, 480 rows."""
RNG = np.random.default_rng(0)
NOISE = RNG.standard_normal((len(FACTORS), 3))
STANDARD = (FACTORS - FACTORS.mean(0)) / FACTORS.std(0)
ROTATED = STANDARD @ ortho_group.rvs(3, random_state=np.random.default_rng(3))
DOUBLED = np.concatenate([STANDARD, STANDARD[:, :1] * -2], axis=1) + 1e-3 * RNG.standard_normal((len(FACTORS), 4))
CODES = {"plain": STANDARD, "rotated": ROTATED, "doubled": DOUBLED, "noise": NOISE, "noisy": STANDARD + 0.3 * NOISE}


@cache
def _scored(metric: Callable[..., Any], codes: bytes, dimensions: int) -> Any:
    return metric(np.frombuffer(codes).reshape(-1, dimensions), FACTORS)


def scored(metric: Callable[..., Any], codes: np.ndarray) -> Any:
    """What a metric says of codes, each looked at once."""
    return _scored(metric, codes.tobytes(), codes.shape[1])


def dci_of(name: str) -> DCI:
    return scored(dci, CODES[name])


MEASURES = {
    "mig": lambda codes: scored(mig, codes).score,
    "sap": lambda codes: scored(sap, codes).score,
    "disentanglement": lambda codes: scored(dci, codes).disentanglement,
    "completeness": lambda codes: scored(dci, codes).completeness,
}
EVERY = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
LARGEST_SAP = np.mean([1 - 1 / values for values in (4, 3, 5)])
"""What factors in dimensions of their own score: every other dimension is at chance."""


@EVERY
def test_factors_in_dimensions_of_their_own_score_highest(measure):
    codes = STANDARD[:, [2, 0, 1]] * [5, -0.1, 1] + [0, 7, 0]
    highest = LARGEST_SAP if measure is MEASURES["sap"] else 1
    assert measure(codes) > 0.97 * highest


@EVERY
def test_a_rotation_costs_most_of_the_score(measure):
    assert measure(ROTATED) < 0.5 * measure(STANDARD)


@EVERY
def test_noise_scores_nothing(measure):
    assert measure(NOISE) < 0.08


@EVERY
def test_invariant_to_the_scale_of_dimensions(measure):
    codes = STANDARD + 0.3 * NOISE
    assert measure(codes * [100, -3, 0.01] + 5) == pytest.approx(measure(codes), abs=0.05)


@EVERY
def test_invariant_to_the_order_of_dimensions(measure):
    codes = STANDARD + 0.3 * NOISE
    assert measure(codes[:, [1, 2, 0]]) == pytest.approx(measure(codes), abs=0.05)


@EVERY
def test_falls_as_dimensions_mix(measure):
    turn = ortho_group.rvs(3, random_state=np.random.default_rng(3))
    mixed = [measure(STANDARD + share * STANDARD @ turn) for share in (0, 0.3, 1)]
    assert mixed == sorted(mixed, reverse=True)


def test_a_doubled_factor_has_no_gap_and_the_others_keep_theirs():
    np.testing.assert_allclose(mig(DOUBLED, FACTORS).gap, [0, 1, 1], atol=0.03)
    np.testing.assert_allclose(sap(DOUBLED, FACTORS).gap, [0, 2 / 3, 4 / 5], atol=0.1)


def test_a_doubled_factor_is_less_complete_and_as_disentangled():
    single, double = dci_of("plain"), dci_of("doubled")
    assert double.completeness < single.completeness - 0.1
    assert double.disentanglement > 0.95


def test_a_dimension_of_two_factors_is_complete_and_not_disentangled():
    codes = np.stack([STANDARD[:, 0] + 10 * STANDARD[:, 1], STANDARD[:, 2]], axis=1)
    found = dci(codes, FACTORS)
    assert found.completeness > 0.95 and found.disentanglement < 0.7


def test_the_best_dimension_is_where_the_factor_is():
    np.testing.assert_array_equal(mig(STANDARD[:, [2, 0, 1]], FACTORS).best, [1, 2, 0])


def test_information_is_the_share_of_entropy_by_hand():
    halves = (FACTORS[:, :1] >= 2).astype(float)
    shares = mutual_information(np.concatenate([halves, NOISE[:, :1]], axis=1), FACTORS)
    np.testing.assert_allclose(shares[0], [0.5, 0, 0], atol=1e-12)  # one of two bits


def test_thresholds_are_scored_on_held_out_rows():
    memorised = np.arange(len(FACTORS))[:, None] * np.ones((1, 2))
    assert sap(memorised, np.random.default_rng(1).permutation(FACTORS)).matrix.max() < 0.6


def test_a_rotation_costs_a_linear_probe_nothing():
    assert dci_of("rotated").linear == pytest.approx(1, abs=0.02)


def test_informativeness_is_whole_for_the_factors_and_none_for_noise():
    whole, none = dci_of("plain"), dci_of("noise")
    assert whole.informativeness == pytest.approx(1)
    assert max(abs(none.informativeness), abs(none.linear)) < 0.15


def test_importances_are_shares():
    importance = dci(STANDARD + NOISE, FACTORS).importance
    np.testing.assert_allclose(importance.sum(axis=0), 1)
    assert importance.shape == (3, 3)


def test_the_same_seed_gives_the_same_figures():
    codes = STANDARD + NOISE
    one, other = (dci(codes, FACTORS, 1) for _ in range(2))
    assert (one.linear, one.disentanglement) == (other.linear, other.disentanglement)
    assert sap(codes, FACTORS, 1).score == sap(codes, FACTORS, 1).score


def test_codes_that_never_change_score_nothing():
    found = dci(np.zeros((len(FACTORS), 2)), FACTORS)
    assert (found.disentanglement, found.completeness) == (0, 0)
    assert (found.informativeness, found.linear) == (0, 0)


@pytest.mark.parametrize("measure", [mig, sap, dci])
@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (np.zeros((4, 2)), np.zeros((3, 1), int), "codes, factors: expected"),
        (np.zeros((4, 1)), np.zeros((4, 1), int), "codes, factors: expected"),
        (np.zeros(4), np.zeros((4, 1), int), "codes, factors: expected"),
        (np.zeros((4, 2)), np.zeros((4, 0), int), "columns of integers"),
        (np.zeros((4, 2)), np.eye(4), "columns of integers"),
        (np.full((4, 2), np.nan), np.eye(4, dtype=int), "codes: expected finite"),
        (np.zeros((4, 2)), np.array([[0, 1], [1, 1]] * 2), "column 1 has one value only"),
    ],
)
def test_what_cannot_be_measured_is_refused(measure, codes, factors, message):
    with pytest.raises(ValueError, match=message):
        measure(codes, factors)


def test_a_value_too_rare_for_two_halves_is_refused():
    factors = np.array([0] * 17 + [1] * 3)[:, None]
    with pytest.raises(ValueError, match="value 1 occurs 3 times, a held-out score needs 4"):
        sap(NOISE[:20], factors)


def test_one_factor_cannot_be_disentangled():
    with pytest.raises(ValueError, match="needs two of them or more, got 1"):
        dci(STANDARD, FACTORS[:, :1])


def test_a_probe_that_knows_one_value_tells_it_of_everything():
    np.testing.assert_array_equal(linear_probe(NOISE, np.full(len(NOISE), 7), NOISE[:2]), [7, 7])


def test_accuracy_weighs_values_equally():
    factors = np.array([[0, 0]] * 90 + [[1, 1]] * 10)
    near = factors + np.random.default_rng(0).normal(0, 0.05, factors.shape)
    blind, telling = (dci(codes, factors) for codes in (np.zeros((100, 2)), near))
    assert (blind.informativeness, blind.linear) == (0, 0)
    assert (telling.informativeness, telling.linear) == (1, 1)


def test_explained_variance_by_hand():
    codes = np.array([[0.0, 1], [2, 1], [10, 1], [12, 1]])
    np.testing.assert_allclose(explained(codes, np.array(["a", "a", "b", "b"])), [25 / 26, 0])


def test_units_that_ignore_the_picture_are_not_active():
    assert active_units(np.stack([NOISE[:, 0], 0.01 * NOISE[:, 1]], axis=1)) == 1


def test_halves_share_no_row():
    fit, held_out = disentangle.halves(FACTORS[:, 0], 0)
    assert not set(fit) & set(held_out) and len(fit) + len(held_out) == len(FACTORS)


# the swap test

ROWS, COLUMNS = np.arange(12)[:, None] * np.ones((1, 4), int), np.arange(4) * np.ones((12, 1), int)
FAMILIES = np.arange(12) // 2


def test_labels_of_the_noise_agree_where_the_noise_is_held():
    found = agreement(COLUMNS, FAMILIES)
    assert (found.noise_held.value, found.caption_held.value, found.neither.value) == (1, 0, 0)
    assert found.noise_gain.low == 1


def test_labels_of_the_caption_agree_where_the_caption_is_held():
    found = agreement(ROWS, FAMILIES)
    assert (found.noise_held.value, found.caption_held.value, found.neither.value) == (0, 1, 0)


def test_labels_at_random_agree_at_chance():
    found = agreement(np.random.default_rng(2).integers(0, 4, (60, 8)), np.arange(60))
    assert not found.noise_gain.excludes(0) and not found.caption_gain.excludes(0)
    assert found.neither.value == pytest.approx(0.25, abs=0.02)


def test_captions_of_one_family_are_not_compared():
    labels = np.array([["a", "b"], ["a", "b"], ["c", "d"]])
    np.testing.assert_allclose(pair_rates(labels, np.array([0, 0, 1])), 0)


def test_rates_are_those_counted_pair_by_pair():
    labels = np.random.default_rng(3).integers(0, 3, (5, 3))
    families = np.array([0, 0, 1, 2, 3])
    counted = np.zeros((5, 3))
    for c in range(5):
        others = [d for d in range(5) if families[d] != families[c]]
        pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
        counted[c] = [
            np.mean([labels[c, i] == labels[d, i] for d in others for i in range(3)]),
            np.mean([labels[c, i] == labels[c, j] for i, j in pairs]),
            np.mean([labels[c, i] == labels[d, j] for d in others for i, j in pairs]),
        ]
    np.testing.assert_allclose(pair_rates(labels, families), counted)


def test_intervals_over_pairs_cover_the_truth():
    """Captions that keep the noise's label with a chance of .6: agreement .36 + chance, in most of 40 worlds."""
    truth, covered = 0.6**2 + (1 - 0.6**2) / 4, 0
    for world in range(40):
        rng = np.random.default_rng(world)
        kept = rng.random((25, 4)) < 0.6
        labels = np.where(kept, COLUMNS[:1], rng.integers(0, 4, (25, 4)))
        covered += not agreement(labels, np.arange(25), seed=world).noise_held.excludes(truth)
    assert covered >= 33


def test_nearest_captions_by_hand():
    shows = np.array([[[0.0], [9.0]], [[6.0], [4.0]]])
    np.testing.assert_array_equal(nearest_captions(shows, np.array([[1.0], [8.0]])), [[0, 1], [1, 0]])


def test_real_rates_by_hand():
    styles = [np.array(["a", "b"]), np.array(["a", "a"])]
    artists = [np.array(["x", "y"]), np.array(["x", "z"])]
    np.testing.assert_allclose(real_rates(styles, artists, np.array([0, 1])), [[1, 1 / 3], [1, 1 / 3]])


def test_a_caption_without_a_shared_artist_has_no_rate():
    styles, artists = [np.array(["a"]), np.array(["a"])], [np.array(["x"]), np.array(["y"])]
    np.testing.assert_array_equal(real_rates(styles, artists, np.array([0, 1])), [[np.nan, 1], [np.nan, 1]])


def test_one_family_has_nothing_to_be_compared_with():
    with pytest.raises(ValueError, match="there is one only"):
        pair_rates(np.zeros((3, 2)), np.zeros(3))
