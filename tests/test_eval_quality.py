"""Fréchet distance: against torchmetrics, against closed forms, and where covariances are singular."""

import numpy as np
import pytest
import torch
from torchmetrics.image.fid import _compute_fid

from eval.data import Pictures
from eval.metrics.quality import frechet
from train.copies import thumbnails


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("rows", [(60, 80), (6, 80), (6, 4)], ids=["full rank", "one singular", "both singular"])
def test_frechet_is_that_of_torchmetrics(rng, rows):
    x, y = (rng.standard_normal((n, 10)) * rng.uniform(0.5, 2, 10) + rng.random(10) for n in rows)
    fits = [torch.from_numpy(v) for a in (x, y) for v in (a.mean(axis=0), np.cov(a, rowvar=False))]
    assert frechet(x, y) == pytest.approx(float(_compute_fid(*fits)), abs=1e-5)


def test_frechet_of_shifted_features_is_the_squared_shift(rng):
    x, shift = rng.standard_normal((20, 5)), np.array([3.0, 0, 4, 0, 0])
    assert frechet(x + shift, x) == pytest.approx(25)


def test_frechet_of_stretched_features_is_that_of_their_deviations(rng):
    x = rng.standard_normal((30, 4))
    x -= x.mean(axis=0)
    assert frechet(3 * x, x) == pytest.approx(4 * x.var(axis=0, ddof=1).sum())


def test_frechet_of_large_draws_is_that_of_the_populations(rng):
    x, y = rng.standard_normal((2, 200_000, 2))
    assert frechet(x * [1, 3] + [2, 0], y * [2, 1]) == pytest.approx(4 + 1 + 4, abs=0.1)


def test_frechet_of_fewer_pictures_than_features_to_themselves_is_zero(rng):
    x = rng.standard_normal((8, 200))
    assert frechet(x, x[::-1]) == pytest.approx(0, abs=1e-9)


def test_two_constant_sets_are_apart_by_their_squared_distance():
    assert frechet(np.zeros((3, 7)), np.ones((4, 7))) == pytest.approx(7)


def test_frechet_is_symmetric(rng):
    x, y = rng.standard_normal((12, 30)), 2 * rng.standard_normal((40, 30))
    assert frechet(x, y) == pytest.approx(frechet(y, x))


def test_bias_of_small_samples_falls_as_documented(rng):
    """Ten times the rows, about a tenth of the distance between two draws from one distribution."""
    few, many = (np.mean([frechet(*rng.standard_normal((2, n, 5))) for _ in range(100)]) for n in (60, 600))
    assert few / many == pytest.approx(10, rel=0.25)


def test_frechet_keeps_float32_features_far_from_zero_exact(rng):
    x = rng.standard_normal((50, 6)).astype(np.float32) + 1000
    assert frechet(x, x + 1) == pytest.approx(6, rel=1e-3)


def test_noise_on_artwork_moves_it_away(artwork_folder, rng):
    pictures = Pictures.load(artwork_folder)
    real = thumbnails(pictures.pixels(pictures.where("train")).numpy())
    noise = rng.standard_normal(real.shape)
    values = [frechet(real + level * noise, real) for level in (0, 0.05, 0.1, 0.2)]
    assert values == sorted(values) and values[0] == pytest.approx(0, abs=1e-6) and values[1] > 0.1
