"""Realism by local density: what is far from a crowd fails, what is as far from a loner passes."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from eval.metrics.nearest import QUANTILE, RealismTest, local_radius, relative_distance


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def uneven() -> np.ndarray:
    """A crowd of 400 about the origin, and 40 a hundred times sparser, far away, in 8 dimensions."""
    rng = np.random.default_rng(1)
    crowd, sparse = 0.1 * rng.standard_normal((800, 8)), 50 + 10 * rng.standard_normal((80, 8))
    return np.concatenate([crowd[::2], sparse[::2], crowd[1::2], sparse[1::2]])


@pytest.fixture(scope="module")
def passes(uneven: np.ndarray) -> RealismTest:
    return RealismTest.fit(uneven[:440], uneven[440:])


def test_radius_is_the_distance_to_the_kth_other() -> None:
    points = np.array([[0.0], [1.0], [3.0], [7.0]])
    np.testing.assert_array_equal(local_radius(points, 2), [3, 2, 3, 6])


def test_looking_at_all_points_is_the_definition(rng: np.random.Generator) -> None:
    points, x, radius = rng.standard_normal((50, 3)), rng.standard_normal((20, 3)), rng.uniform(1, 2, 50)
    expected = (np.linalg.norm(x[:, None] - points, axis=2) / radius).min(axis=1)
    np.testing.assert_allclose(relative_distance(x, points, radius, among=50), expected)


def test_a_copy_of_a_point_with_twins_is_at_no_distance() -> None:
    points = np.zeros((6, 2))
    assert relative_distance(points[:1], points, local_radius(points, 5)) == 0


def test_real_pictures_pass_at_the_chosen_rate(passes: RealismTest, uneven: np.ndarray) -> None:
    assert passes(uneven[440:]).mean() == pytest.approx(QUANTILE, abs=0.005)


def test_as_far_from_a_crowd_as_real_ones_are_from_each_other_elsewhere_fails(
    passes: RealismTest, uneven: np.ndarray
) -> None:
    """A threshold on plain distances, wide enough for the sparse region, would let it pass."""
    loner = np.linalg.norm(uneven[400:440, None] - uneven[None, 400:440], axis=2)
    away = np.sort(loner, axis=1)[:, 1].mean()
    beside_the_crowd = np.full((1, 8), away / np.sqrt(8))
    assert not passes(beside_the_crowd)[0]


def test_the_unit_of_the_space_does_not_count(
    passes: RealismTest, uneven: np.ndarray, rng: np.random.Generator
) -> None:
    x = uneven[440:] + 0.2 * rng.standard_normal((440, 8))
    larger = RealismTest.fit(7 * uneven[:440], 7 * uneven[440:])
    np.testing.assert_array_equal(larger(7 * x), passes(x))
    assert 0.05 < passes(x).mean() < 0.95


def test_without_held_out_pictures_each_training_picture_is_left_out_in_turn(uneven: np.ndarray) -> None:
    own = RealismTest.fit(uneven[:440], None)
    assert own.limit == pytest.approx(RealismTest.fit(uneven[:440], uneven[440:]).limit, rel=0.2)
    assert own(uneven[440:]).mean() > 0.9


@pytest.fixture(scope="module")
def points() -> dict[str, np.ndarray]:
    """Pictures where the default judge of data/emoji sees them (`judge.space.late`), at half precision.

    All training and validation pictures, and 300 each: what the shipped codec makes of validation pictures and of
    latents from N(0, I), and uniform noise. A few hundred training pictures are too few to tell these apart.
    """
    found = load_file(Path(__file__).parent / "artwork" / "realism.safetensors")
    return {name: value.astype(np.float64) for name, value in found.items()}


def test_shards_and_noise_are_not_realistic_and_held_out_artists_are(points: dict[str, np.ndarray]) -> None:
    test = RealismTest.fit(points["train"], points["held_out"])
    share = {name: float(test(x).mean()) for name, x in points.items() if name != "train"}
    assert share["held_out"] > 0.95 and share["reconstructions"] > 0.9, share
    assert share["shards"] < 0.3 and share["noise"] < 0.1, share
