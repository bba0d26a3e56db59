"""Bootstrap, quality, memorisation and baselines: pure functions against numbers known otherwise."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio
from torchmetrics.image.kid import poly_mmd

from eval import baselines
from eval.metrics import quality
from eval.metrics.bootstrap import Interval, family_mean, paired_bootstrap
from train.copies import CopyTest, nearest_training, thumbnails


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_families_weigh_equally():
    values, families = np.array([0.0] * 9 + [1.0]), np.array([0] * 9 + [1])
    assert family_mean(values, families) == 0.5


def test_interval_covers_the_truth_as_often_as_it_says(rng):
    inside = [
        not paired_bootstrap(rng.standard_normal(40), np.arange(40), draws=300, seed=i).excludes(0.0)
        for i in range(200)
    ]
    assert 0.88 < np.mean(inside) < 0.99


def test_pairing_removes_what_captions_share(rng):
    shared, families = 10 * rng.standard_normal(50), np.arange(50)
    values = np.stack([shared + 1 + 0.1 * rng.standard_normal(50), shared], axis=1)
    apart = paired_bootstrap(values, families, lambda m: m[..., 0] - m[..., 1])
    assert apart.high - apart.low < 0.1 < paired_bootstrap(values, families).high


def test_captions_of_one_family_are_drawn_together(rng):
    """Ten copies of each caption must not narrow the interval."""
    values = rng.standard_normal(20)
    once = paired_bootstrap(values, np.arange(20))
    tenfold = paired_bootstrap(np.repeat(values, 10), np.repeat(np.arange(20), 10))
    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high))


def test_interval_repeats_with_its_seed(rng):
    values = rng.standard_normal(30)
    assert paired_bootstrap(values, np.arange(30), seed=3) == paired_bootstrap(values, np.arange(30), seed=3)


def test_one_family_has_no_interval():
    with pytest.raises(ValueError, match="at least two"):
        paired_bootstrap(np.ones(3), np.zeros(3))


def test_interval_excludes_what_lies_outside():
    assert Interval(1, 0.5, 1.5).excludes(0) and not Interval(1, 0.5, 1.5).excludes(0.5)


def test_pooled_psnr_is_that_of_torchmetrics(rng):
    x, y = rng.random((2, 5, 3, 8, 8))
    theirs = peak_signal_noise_ratio(torch.from_numpy(x), torch.from_numpy(y), data_range=1.0)
    assert quality.psnr(quality.squared_error(x, y).mean()) == pytest.approx(float(theirs), rel=1e-6)


def test_kid_is_that_of_torchmetrics(rng):
    x, y = rng.random((2, 30, 10))
    theirs = float(poly_mmd(torch.from_numpy(x), torch.from_numpy(y)))
    # Both leave x = x' out; torchmetrics adds the cross term over m^2, as the paper does.
    assert quality.kid(x, y) == pytest.approx(theirs, rel=1e-9)


def test_kid_of_one_distribution_is_zero_on_average(rng):
    values = [quality.kid(*rng.standard_normal((2, 12, 6))) for _ in range(400)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 20


def test_blur_is_less_sharp_than_real_pictures_and_noise_more(rng):
    real = rng.random((4, 3, 16, 16))
    blurred = (real + np.roll(real, 1, 2) + np.roll(real, 1, 3)) / 3
    noisy = real + 0.5 * rng.standard_normal(real.shape)
    ratios = np.array(
        [quality.gradient_energy(v).mean() / quality.gradient_energy(real).mean() for v in (blurred, noisy)]
    )
    assert ratios[0] < 0.8 and ratios[1] > 1.25


def test_thumbnails_are_block_means():
    x = np.arange(32, dtype=float).reshape(1, 2, 4, 4)
    assert thumbnails(x, 2)[0].tolist() == [2.5, 4.5, 10.5, 12.5, 18.5, 20.5, 26.5, 28.5]


def test_nearest_training_finds_the_row(rng):
    train = rng.standard_normal((50, 4))
    distance, row = nearest_training(train[[7, 3]] + 1e-3, train)
    assert row[:, 0].tolist() == [7, 3] and (distance < 0.01).all()


def smooth(rng, count: int) -> np.ndarray:
    """Pictures with the large shapes that real ones have."""
    return np.kron(rng.random((count, 3, 4, 4)), np.ones((16, 16)))


def test_copies_blurred_and_grained_by_a_decoder_are_found(rng):
    train, held_out = smooth(rng, 200), smooth(rng, 200)
    test = CopyTest.fit(thumbnails(train), thumbnails(held_out))
    decoded = (train + np.roll(train, 1, 3)) / 2 + 0.03 * rng.standard_normal(train.shape)
    copied, row = test(thumbnails(decoded))
    assert copied.mean() > 0.95 and (row == np.arange(200)).all()


def test_real_pictures_are_copies_as_rarely_as_calibrated(rng):
    test = CopyTest.fit(thumbnails(smooth(rng, 100)), thumbnails(smooth(rng, 400)))
    assert test(thumbnails(smooth(rng, 400)))[0].mean() < 0.03


def unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def test_nearest1_stays_with_one_caption_while_it_lasts(rng):
    order = np.array([[1, 0, 2]])
    caption = np.array([0, 1, 1, 1, 2, 0])
    chosen = baselines.retrieve_one(order, caption, 4, rng)[0]
    assert set(chosen[:3]) == {1, 2, 3} and caption[chosen[3]] == 0


def test_nearestk_takes_one_picture_of_each_caption(rng):
    caption = np.array([0, 0, 1, 1, 2, 2])
    chosen = baselines.retrieve_each(np.array([[2, 0, 1]]), caption, 2, rng)
    assert caption[chosen].tolist() == [[2, 0]]


def test_nearest_captions_by_cosine():
    codes = unit(np.array([[1.0, 0], [1, 1], [0, 1]]))
    assert baselines.nearest_captions(codes[:1], codes).tolist() == [[0, 1, 2]]


def test_retrieval_of_too_many_is_refused(rng):
    with pytest.raises(ValueError, match="n must be 1 to 2"):
        baselines.retrieve_each(np.array([[0, 1]]), np.array([0, 1]), 3, rng)


def test_unconditional_draws_weigh_families(rng):
    families = np.array([0] * 99 + [1])
    drawn = baselines.draw_unconditional(families, 500, 4, rng)
    assert (families[drawn] == 1).mean() == pytest.approx(0.5, abs=0.05)


def test_shuffled_captions_leave_their_family(rng):
    families = np.repeat(np.arange(10), 3)
    assert not (families[baselines.shuffle_captions(families, rng)] == families).any()


@pytest.fixture
def linear(rng):
    """Text codes and latents with a known linear law and residual covariance."""
    c, weight = rng.standard_normal((4000, 5)), rng.standard_normal((3, 5))
    root = np.array([[1.0, 0, 0], [0.5, 0.8, 0], [0.0, 0.3, 0.2]])
    return c, c @ weight.T + 2 + rng.standard_normal((4000, 3)) @ root.T, weight, root


def fitted(c, z):
    return baselines.fit_ridge(
        c[:3000], z[:3000], c_validation=c[3000:], z_validation=z[3000:], families_validation=np.arange(1000)
    )


def test_ridge_finds_the_law(linear):
    c, z, weight, _ = linear
    np.testing.assert_allclose(fitted(c, z).mean(c[:50]), c[:50] @ weight.T + 2, atol=0.2)


def test_ridge_residual_has_the_covariance(linear, rng):
    c, z, _, root = linear
    model = fitted(c, z)
    residual = model.sample(c[:20], 2000, rng) - model.mean(c[:20])[:, None]
    np.testing.assert_allclose(np.cov(residual.reshape(-1, 3), rowvar=False), root @ root.T, atol=0.1)


def test_ridge_penalty_is_chosen_on_validation(linear, monkeypatch):
    monkeypatch.setattr(baselines, "PENALTIES", (1e-2, 1e6))
    c, _, _, _ = linear
    noise = np.random.default_rng(1).standard_normal((4000, 3))
    assert fitted(c, noise).regression.alpha == 1e6
