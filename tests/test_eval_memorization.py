"""C_T and AuthPct: what they must say of copies, of near copies and of independent draws."""

import numpy as np
import pytest

from eval.data import Pictures
from eval.metrics.nearest import authenticity, c_t
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


def test_c_t_does_not_depend_on_the_order_of_pictures(rng):
    held_out, samples = rng.standard_normal((2, 300, 2))
    train = np.repeat([[-20.0, 0], [20, 0], [0, 20]], 40, axis=0) + rng.standard_normal((120, 2))
    before = c_t(train, held_out, samples)
    assert c_t(train[::-1], held_out[::-1], samples[::-1]) == pytest.approx(before)


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


def test_grained_copies_of_artwork_are_found(real, rng):
    copies = real["train"] + 0.02 * rng.standard_normal(real["train"].shape)
    assert c_t(real["train"], real["validation"], copies) < -5 and authenticity(real["train"], copies) == 0


def test_artwork_held_out_is_no_copy_of_the_training_pictures(real):
    assert abs(c_t(real["train"], real["validation"], real["test"])) < 3
    assert authenticity(real["train"], real["test"]) > 0.3
