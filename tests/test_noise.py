"""Keyed randomness: a row's numbers depend on its key and on nothing beside it."""

import pytest
import torch

from bridge.noise import generator_for, normal_rows, spread_number


def test_the_same_key_gives_the_same_numbers():
    assert torch.equal(normal_rows([(7, 3)], (5,)), normal_rows([(7, 3)], (5,)))


@pytest.mark.parametrize("n", [1, 2, 15, 16, 33])
def test_a_row_does_not_depend_on_how_many_are_drawn(n):
    """torch.randn(n, k)[0] does, unless 16 divides k."""
    rows = normal_rows([(0, i) for i in range(n)], (5,))
    assert torch.equal(rows[0], normal_rows([(0, 0)], (5,))[0])


def test_a_row_does_not_depend_on_its_place():
    assert torch.equal(normal_rows([(0, 1), (0, 2)], (3,)).flip(0), normal_rows([(0, 2), (0, 1)], (3,)))


@pytest.mark.parametrize("other", [(1,), (1, 0), (0, 1), (12,), (1, 2, 0), (-1, 2), (2, 1)])
def test_another_key_gives_other_numbers(other):
    assert not (normal_rows([(1, 2)], (20,)) == normal_rows([other], (20,))).any()


def test_keys_of_one_digit_string_are_kept_apart():
    assert not torch.equal(normal_rows([(1, 23)], (4,)), normal_rows([(12, 3)], (4,)))


def test_rows_of_neighbouring_keys_are_uncorrelated():
    rows = normal_rows([(0, i) for i in range(64)], (2048,)).double()
    correlation = torch.corrcoef(rows) - torch.eye(64)
    assert correlation.abs().max() < 5.5 / 2048**0.5  # 2,016 pairs: 5 deviations and a little


def test_rows_are_standard_normal():
    rows = normal_rows([(5, i) for i in range(200)], (500,)).double()
    moments = torch.stack([rows.mean(), rows.var(), (rows**3).mean(), (rows**4).mean()])
    torch.testing.assert_close(moments, torch.tensor([0.0, 1, 0, 3]).double(), atol=0.06, rtol=0)


def test_the_global_generator_is_neither_read_nor_moved():
    before = torch.get_rng_state()
    first = normal_rows([(3, 1)], (4,))
    torch.testing.assert_close(torch.get_rng_state(), before)
    torch.rand(1)
    assert torch.equal(first, normal_rows([(3, 1)], (4,)))


def test_a_seed_too_large_for_64_bits_is_a_key_like_any_other():
    assert not torch.equal(normal_rows([(2**80,)], (4,)), normal_rows([(2**80 + 1,)], (4,)))


def test_noise_has_the_shape_of_a_latent():
    rows = normal_rows([(0, 0), (0, 1)], (4, 8, 8))
    assert (rows.shape, rows.dtype) == ((2, 4, 8, 8), torch.float32)


def test_numbers_are_those_of_every_release():
    """Images of a seed are promised to stay: whoever changes this changes them all."""
    assert generator_for(7, 0).initial_seed() == 6994474879687196333


@pytest.mark.parametrize("count", [2, 4, 8, 30])
def test_numbers_of_a_seeds_images_lie_evenly_however_many_there_are(count):
    numbers = torch.tensor([spread_number(3, i) for i in range(count)]).sort().values
    assert numbers[0] >= 0
    assert numbers[-1] < 1
    gaps = torch.cat([numbers, numbers[:1] + 1]).diff() * count
    assert float(gaps.min()) > 0.4
    assert float(gaps.max()) < 2


def test_another_seed_begins_elsewhere():
    begin = torch.tensor([spread_number(seed, 0) for seed in range(1000)])
    assert len(begin.unique()) == 1000
    assert begin.histc(10, 0, 1).min() > 60
