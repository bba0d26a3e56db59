"""C_T and AuthPct: what they must say of copies, of near copies and of independent draws."""

import numpy as np
import pytest

from eval.data import Pictures
from eval.metrics.memorization import authenticity, c_t
from train.copies import thumbnails


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def real(artwork_folder) -> dict[str, np.ndarray]:
    """Thumbnails of the artwork, by split."""
    pictures = Pictures.load(artwork_folder)
    return {s: thumbnails(pictures.pixels(pictures.where(s)).numpy()) for s in ("train", "validation", "test")}


def test_c_t_of_independent_draws_is_standard_normal(rng):
    values = [
        c_t(rng.standard_normal((50, 3)), rng.standard_normal((40, 3)), rng.standard_normal((60, 3)))
        for _ in range(200)
    ]
    assert abs(np.mean(values)) < 4 / np.sqrt(200) and np.std(values) == pytest.approx(1, abs=0.15)


def test_noisy_copies_have_c_t_far_below_zero(rng):
    train, held_out = rng.standard_normal((2, 200, 48))
    assert c_t(train, held_out, train + 0.3 * rng.standard_normal(train.shape)) < -10


def test_pictures_unlike_any_real_one_have_c_t_far_above_zero(rng):
    train, held_out, other = rng.standard_normal((3, 200, 48))
    assert c_t(train, held_out, 3 * other) > 10


def test_c_t_changes_sign_when_samples_and_real_pictures_change_places(rng):
    train, held_out, samples = rng.standard_normal((3, 80, 3))
    assert c_t(train, held_out, samples) == pytest.approx(-c_t(train, samples, held_out))


@pytest.mark.parametrize("cells", [1, 3])
def test_c_t_does_not_depend_on_the_order_of_pictures(rng, cells):
    held_out, samples = rng.standard_normal((2, 300, 2))
    train = np.repeat([[-20.0, 0], [20, 0], [0, 20]], 40, axis=0) + rng.standard_normal((120, 2))
    before = c_t(train, held_out, samples, cells)
    assert c_t(train[::-1], held_out[::-1], samples[::-1], cells) == pytest.approx(before)


def crowded_and_sparse(rng, crowded: int, sparse: int) -> np.ndarray:
    """Points of two clusters, one a hundredth as wide as the other."""
    near, far = rng.standard_normal((crowded, 5)) / 100, 30 + rng.standard_normal((sparse, 5))
    return np.concatenate([near, far])


def test_cells_find_copies_that_avoid_the_crowded_region(rng):
    train, held_out = crowded_and_sparse(rng, 100, 100), crowded_and_sparse(rng, 100, 100)
    copies = train[100:][rng.integers(100, size=180)] + 0.1 * rng.standard_normal((180, 5))
    samples = np.concatenate([crowded_and_sparse(rng, 20, 0), copies])
    assert c_t(train, held_out, samples) > -2 and c_t(train, held_out, samples, cells=2) < -4


def test_cells_weigh_as_their_held_out_pictures(rng):
    train, held_out, samples = (crowded_and_sparse(rng, *n) for n in ((50, 50), (30, 90), (40, 25)))
    apart = [c_t(train[:50], held_out[:30], samples[:40]), c_t(train[50:], held_out[30:], samples[40:])]
    assert c_t(train, held_out, samples, cells=2) == pytest.approx(0.25 * apart[0] + 0.75 * apart[1])


def test_a_cell_with_few_samples_does_not_count(rng):
    train, held_out = crowded_and_sparse(rng, 100, 100), crowded_and_sparse(rng, 100, 100)
    samples = crowded_and_sparse(rng, 100, 0)
    few = np.concatenate([samples, train[100:119]])
    enough = np.concatenate([samples, train[100:120]])
    alone, with_few, with_enough = (c_t(train, held_out, x, cells=2) for x in (samples, few, enough))
    assert with_few == pytest.approx(alone) and with_enough < alone - 1


def test_no_cell_with_enough_of_both_is_refused(rng):
    train = crowded_and_sparse(rng, 50, 50)
    with pytest.raises(ValueError, match="cells: none of 2"):
        c_t(train, train[:50], train[50:], cells=2)


@pytest.mark.parametrize("cells", [0, 6])
def test_an_impossible_number_of_cells_is_refused(cells):
    with pytest.raises(ValueError, match="cells: expected 1 to 5"):
        c_t(np.eye(5), np.eye(5), np.eye(5), cells)


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_c_t_refuses_an_empty_set(empty):
    sets = [np.eye(3)] * 3
    sets[empty] = np.zeros((0, 3))
    with pytest.raises(ValueError, match="at least one picture each"):
        c_t(*sets)


def test_equal_distances_are_no_evidence():
    assert c_t(np.zeros((4, 2)), np.ones((5, 2)), np.ones((6, 2))) == 0


@pytest.mark.parametrize(("dimension", "mutual"), [(1, 2 / 3), (2, 6 * np.pi / (8 * np.pi + 3 * np.sqrt(3)))])
def test_independent_draws_fail_as_often_as_nearest_neighbours_are_mutual(rng, dimension, mutual):
    train, samples = rng.random((2, 4000, dimension))
    assert authenticity(train, samples) == pytest.approx(1 - mutual, abs=0.03)


def test_noisy_copies_are_not_authentic(rng):
    train, held_out = rng.standard_normal((2, 300, 48))
    near = train + 0.3 * rng.standard_normal(train.shape)
    exact, noisy, drawn = (authenticity(train, x) for x in (train, near, held_out))
    assert exact == 0 and noisy < 0.02 and drawn > 0.4


def test_authenticity_falls_with_every_copy_among_the_samples(rng):
    train, held_out = rng.standard_normal((2, 200, 10))
    values = [authenticity(train, np.concatenate([train[:k], held_out[k:]])) for k in (0, 50, 100, 150, 200)]
    assert values == sorted(values, reverse=True) and values[-1] == 0


def test_a_copy_of_a_training_picture_with_a_twin_is_not_authentic(rng):
    train = np.repeat(rng.standard_normal((20, 3)), 2, axis=0)
    assert authenticity(train, train[:5]) == 0


def test_authenticity_does_not_depend_on_the_order_of_pictures(rng):
    train, samples = rng.standard_normal((2, 100, 4))
    assert authenticity(train[::-1], samples[::-1]) == authenticity(train, samples)


def test_one_training_picture_has_no_neighbour():
    with pytest.raises(ValueError, match="at least 2 training pictures"):
        authenticity(np.zeros((1, 2)), np.zeros((3, 2)))


def test_grained_copies_of_artwork_are_found(real, rng):
    copies = real["train"] + 0.02 * rng.standard_normal(real["train"].shape)
    assert c_t(real["train"], real["validation"], copies) < -5 and authenticity(real["train"], copies) == 0


def test_artwork_held_out_is_no_copy_of_the_training_pictures(real):
    assert abs(c_t(real["train"], real["validation"], real["test"])) < 3
    assert authenticity(real["train"], real["test"]) > 0.3
