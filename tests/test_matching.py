"""Mapping families: what each of them promises, and the algebra of flow matching and guidance."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from bridge.guidance import guided
from bridge.mappers import FAMILIES, FlowMatchingMapper, Mapper, VelocityMapper
from bridge.mappers.matching import MIN_REMAINING, linear_path
from bridge.text import TextCode
from tests.conftest import randomise

DIM = 6
SMALLEST: dict[str, dict[str, Any]] = {
    "FlowMatchingMapper": {"width": 48, "hidden": 48, "blocks": 2, "condition": 16},
}
"""Arguments that make each family small; a new family adds its own here and gets the contract below."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def codes_of(pooled: Tensor) -> TextCode:
    null = TextCode.null(len(pooled), pooled.shape[1])
    return TextCode(pooled, null.tokens, null.mask)


def unit_codes(n: int, seed: int = 0) -> TextCode:
    return codes_of(torch.nn.functional.normalize(normal(n, DIM, seed=seed), dim=1))


def make(family: str, z_shape: tuple[int, ...] = (2, 3), **options: Any) -> Mapper:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FAMILIES[family](z_shape=z_shape, text_dim=DIM, **SMALLEST[family], **options)


def fit(mapper: Mapper, steps: int, rate: float, batch: Callable[[int], tuple[Tensor, TextCode]]) -> list[float]:
    """Train on batches (z, c) by step; returns the losses."""
    optimizer = torch.optim.Adam(mapper.parameters(), lr=rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    losses = []
    for step in range(steps):
        z, c = batch(step)
        loss = mapper.loss(z, c, noise=normal(len(z), *mapper.loss_noise_shape, seed=10_000 + step)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


# the contract of every family


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def mapper(family: str) -> Mapper:
    """A random mapper no weight of which is zero, so that all it has shows in what it does."""
    found = make(family).eval()
    randomise(found, seed=1)
    return found


def test_the_loss_comes_one_an_example(mapper):
    loss = mapper.loss(normal(5, 2, 3), unit_codes(5), noise=normal(5, *mapper.loss_noise_shape, seed=1))
    assert (loss.shape, bool(loss.isfinite().all())) == ((5,), True)


def test_an_examples_loss_is_its_own(mapper):
    z, c, noise = normal(5, 2, 3), unit_codes(5), normal(5, *mapper.loss_noise_shape, seed=1)
    alone = mapper.loss(z[2:3], c[2:3], noise=noise[2:3])
    torch.testing.assert_close(mapper.loss(z, c, noise=noise)[2:3], alone)


def test_the_gradient_reaches_every_parameter(mapper):
    mapper.loss(normal(8, 2, 3), unit_codes(8), noise=normal(8, *mapper.loss_noise_shape, seed=1)).mean().backward()
    assert [name for name, p in mapper.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_sample_depends_on_its_own_row_alone(mapper):
    """In a batch of fixed size, other captions and other noise beside it change no bit of it."""
    noise, c = normal(4, *mapper.sample_noise_shape), unit_codes(4)
    z = mapper.sample(c, noise=noise)
    other_noise, other_codes = noise.clone(), c.pooled.clone()
    other_noise[1:], other_codes[1:] = normal(3, *mapper.sample_noise_shape, seed=7), unit_codes(3, seed=8).pooled
    assert torch.equal(mapper.sample(codes_of(other_codes), noise=other_noise)[0], z[0])


def test_a_sample_depends_on_its_noise_and_on_its_caption(mapper):
    noise, c = normal(3, *mapper.sample_noise_shape), unit_codes(3)
    z = mapper.sample(c, noise=noise)
    assert not (mapper.sample(c, noise=noise.flip(0))[0] == z[0]).any()
    assert not (mapper.sample(unit_codes(3, seed=5), noise=noise)[0] == z[0]).any()


def test_at_temperature_0_a_caption_has_one_latent(mapper):
    c = codes_of(unit_codes(1).pooled.expand(4, -1))
    z = mapper.sample(c, noise=normal(4, *mapper.sample_noise_shape), temperature=0.0)
    assert torch.equal(z, z[:1].expand_as(z))


def test_neither_loss_nor_sample_touches_the_global_generator(mapper):
    before = torch.get_rng_state()
    mapper.loss(normal(2, 2, 3), unit_codes(2), noise=normal(2, *mapper.loss_noise_shape))
    mapper.sample(unit_codes(2), noise=normal(2, *mapper.sample_noise_shape))
    assert torch.equal(torch.get_rng_state(), before)


def test_no_argument_is_changed_in_place(mapper):
    z, c, noise = normal(2, 2, 3), unit_codes(2), normal(2, *mapper.loss_noise_shape, seed=1)
    start = normal(2, *mapper.sample_noise_shape, seed=2)
    before = [tensor.clone() for tensor in (z, c.pooled, noise, start)]
    mapper.loss(z, c, noise=noise)
    mapper.sample(c, noise=start)
    assert all(torch.equal(a, b) for a, b in zip(before, (z, c.pooled, noise, start), strict=True))


def test_no_caption_is_a_caption_too(mapper):
    """The null code has a loss, and samples other than any caption's."""
    noise = normal(2, *mapper.sample_noise_shape)
    null = mapper.sample(TextCode.null(2, DIM), noise=noise)
    assert bool(null.isfinite().all())
    assert not (null == mapper.sample(unit_codes(2), noise=noise)).any()


def test_a_saved_mapper_is_the_same_mapper(mapper, family, tmp_path):
    mapper.save_pretrained(tmp_path)
    again = FAMILIES[family].from_pretrained(tmp_path, use_safetensors=True)
    noise, c = normal(2, *mapper.sample_noise_shape), unit_codes(2)
    assert torch.equal(again.sample(c, noise=noise), mapper.sample(c, noise=noise))


@pytest.mark.parametrize("name", ["dropout", "text_dropout"])
def test_a_mapper_has_dropout_in_training_alone(family, name):
    mapper = make(family, **{name: 0.5})
    randomise(mapper, seed=1)
    z, c, noise = normal(4, 2, 3), unit_codes(4), normal(4, *mapper.loss_noise_shape)
    assert not torch.equal(mapper.loss(z, c, noise=noise), mapper.loss(z, c, noise=noise))
    mapper.eval()
    assert torch.equal(mapper.loss(z, c, noise=noise), mapper.loss(z, c, noise=noise))


def test_training_on_two_pairs_does_not_blow_up(family):
    mapper = make(family)
    z, c = 2 * normal(2, 2, 3), unit_codes(2)
    losses = fit(mapper, 150, 0.01, lambda step: (z.repeat(8, 1, 1), TextCode.cat([c] * 8)))
    drawn = mapper.eval().sample(c, noise=normal(2, *mapper.sample_noise_shape, seed=3))
    assert all(map(math.isfinite, losses))
    assert (drawn - z).abs().max() < 1  # by now it has the two by heart


# a world whose answer is known: z | c is a Gaussian of its own for each of two captions

TOY_MEANS, TOY_STDS = torch.tensor([[1.5, -1.0], [-1.0, 0.5]]), torch.tensor([[0.6, 1.2], [1.0, 0.4]])
TOY_DROPOUT = 0.2


def toy_batch(step: int, size: int = 192) -> tuple[Tensor, TextCode]:
    caption = torch.arange(size) % 2
    z = TOY_MEANS[caption] + TOY_STDS[caption] * normal(size, 2, seed=step)
    pooled = unit_codes(2).pooled[caption]
    dropped = torch.rand(size, generator=torch.Generator().manual_seed(step)) < TOY_DROPOUT
    return z, codes_of(pooled.masked_fill(dropped[:, None], 0))


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def toy(request: pytest.FixtureRequest) -> Mapper:
    mapper = make(str(request.param), z_shape=(2,))
    fit(mapper, 900, 4e-3, toy_batch)
    return mapper.eval()


def toy_samples(toy: Mapper, pooled: Tensor, temperature: float = 1.0) -> Tensor:
    n = 3000
    noise = normal(n, *toy.sample_noise_shape, seed=99)
    return toy.sample(codes_of(pooled.expand(n, -1)), noise=noise, temperature=temperature)


@pytest.mark.parametrize("caption", [0, 1])
def test_samples_have_the_captions_mean_and_variance(toy, caption):
    z = toy_samples(toy, unit_codes(2).pooled[caption])
    torch.testing.assert_close(z.mean(0), TOY_MEANS[caption], atol=0.12, rtol=0)
    torch.testing.assert_close(z.std(0), TOY_STDS[caption], atol=0.05, rtol=0.12)


def test_dropped_captions_teach_the_null_code_both_captions(toy):
    """Without a caption samples are the mixture: its mean, and its larger variance."""
    z = toy_samples(toy, torch.zeros(DIM))
    variance = (TOY_STDS.square() + TOY_MEANS.square()).mean(0) - TOY_MEANS.mean(0).square()
    torch.testing.assert_close(z.mean(0), TOY_MEANS.mean(0), atol=0.15, rtol=0)
    torch.testing.assert_close(z.std(0), variance.sqrt(), atol=0.05, rtol=0.12)


def test_samples_spread_more_at_a_higher_temperature(toy):
    spread = [float(toy_samples(toy, unit_codes(2).pooled[0], t).std(0).mean()) for t in (0.0, 0.5, 1.0, 1.5)]
    assert spread[0] < 1e-6
    assert all(low < 0.8 * high for low, high in pairwise(spread))


# the straight path


def test_the_path_leads_from_noise_to_data():
    z, eps = normal(2, 3), normal(2, 3, seed=1)
    assert torch.equal(linear_path(z, eps, torch.zeros(2))[0], eps)
    assert torch.equal(linear_path(z, eps, torch.ones(2))[0], z)


def test_the_velocity_is_the_paths_derivative():
    z, eps = normal(2, 2, 3).double(), normal(2, 2, 3, seed=1).double()
    t, h = torch.tensor([0.3, 0.8]).double(), 1e-4
    slope = (linear_path(z, eps, t + h)[0] - linear_path(z, eps, t - h)[0]) / (2 * h)
    torch.testing.assert_close(linear_path(z, eps, t)[1], slope)


# from a clean latent to a velocity, and back


@pytest.fixture
def matching() -> FlowMatchingMapper:
    mapper = make("FlowMatchingMapper")
    assert isinstance(mapper, FlowMatchingMapper)
    randomise(mapper, seed=1)
    return mapper.eval()


def test_a_perfect_predictor_has_the_paths_velocity(matching, monkeypatch):
    z, eps, t = normal(3, 2, 3), normal(3, 2, 3, seed=1), torch.tensor([0.0, 0.4, 0.9])
    monkeypatch.setattr(matching, "clean", lambda *_: z)
    z_t, velocity = linear_path(z, eps, t)
    torch.testing.assert_close(matching.velocity(z_t, t, unit_codes(3)), velocity, atol=1e-5, rtol=1e-5)


def test_following_the_velocity_to_the_end_gives_the_clean_latent(matching):
    z_t, t, c = normal(3, 2, 3), torch.tensor([0.0, 0.4, 0.9]), unit_codes(3)
    with torch.no_grad():
        end = z_t + (1 - t).view(-1, 1, 1) * matching.velocity(z_t, t, c)
        torch.testing.assert_close(end, matching.clean(z_t, t, c), atol=1e-5, rtol=1e-5)


def test_a_perfect_predictor_has_no_loss(matching, monkeypatch):
    z = normal(3, 2, 3)
    monkeypatch.setattr(matching, "clean", lambda *_: z)
    assert matching.loss(z, unit_codes(3), noise=normal(3, 7, seed=1)).tolist() == [0, 0, 0]


def test_the_loss_is_the_velocitys_squared_error(matching):
    z, c, noise = normal(3, 2, 3), unit_codes(3), normal(3, 7, seed=1)
    t = torch.sigmoid(noise[:, 0])
    assert (1 - t > MIN_REMAINING).all()
    z_t, velocity = linear_path(z, noise[:, 1:].view_as(z), t)
    error = (matching.velocity(z_t, t, c) - velocity).square().flatten(1).mean(1)
    torch.testing.assert_close(matching.loss(z, c, noise=noise), error)


def test_close_to_the_data_the_loss_is_bounded(matching, monkeypatch):
    """At t = 1 an error of 1 counts 1 / MIN_REMAINING ** 2, not infinity."""
    z = normal(1, 2, 3)
    monkeypatch.setattr(matching, "clean", lambda *_: z + 1)
    noise = normal(1, 7, seed=1)
    noise[0, 0] = 50.0
    assert float(matching.loss(z, unit_codes(1), noise=noise)) == pytest.approx(MIN_REMAINING**-2, rel=1e-4)


@pytest.mark.parametrize(("time_mean", "expected"), [(0.0, 0.5), (-1.0, 0.2689), (1.0, 0.7311)])
def test_training_times_are_centred_where_asked(monkeypatch, time_mean, expected):
    mapper, seen = make("FlowMatchingMapper", time_mean=time_mean), []
    monkeypatch.setattr(mapper, "clean", lambda z_t, t, c: seen.append(t) or z_t)
    mapper.loss(normal(1, 2, 3), unit_codes(1), noise=torch.zeros(1, 7))
    assert float(seen[0]) == pytest.approx(expected, abs=1e-4)


# Euler steps along velocities whose solution is known


class Known(VelocityMapper):
    """A velocity given as a function of (z_t, t, c)."""

    def __init__(self, function: Callable[[Tensor, Tensor, TextCode], Tensor]) -> None:
        super().__init__()
        self.function, self.calls = function, 0
        self.z_shape = self.sample_noise_shape = self.loss_noise_shape = (2,)
        self.text_dim = DIM

    def velocity(self, z_t: Tensor, t: Tensor, c: TextCode) -> Tensor:
        self.calls += 1
        return self.function(z_t, t.view(-1, 1), c)

    def loss(self, z: Tensor, c: TextCode, *, noise: Tensor) -> Tensor:
        return z.sum(1)


@pytest.mark.parametrize("steps", [1, 3, 16])
def test_a_velocity_linear_in_z_grows_as_compound_interest(steps):
    noise = normal(3, 2)
    z = Known(lambda z, t, c: 0.5 * z).sample(unit_codes(3), noise=noise, num_inference_steps=steps)
    torch.testing.assert_close(z, noise * (1 + 0.5 / steps) ** steps)


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_times_are_those_at_the_steps_beginnings(steps):
    """dz/dt = t gives 0 + 1/n + ... + (n - 1)/n over n: (n - 1) / 2n."""
    z = Known(lambda z, t, c: t.expand_as(z)).sample(unit_codes(1), noise=torch.zeros(1, 2), num_inference_steps=steps)
    torch.testing.assert_close(z, torch.full((1, 2), (steps - 1) / (2 * steps)))


@pytest.mark.parametrize("steps", [1, 2, 16])
def test_a_flow_to_one_point_arrives_in_any_number_of_steps(steps):
    point = torch.tensor([3.0, -2.0])
    known = Known(lambda z, t, c: (point - z) / (1 - t))
    z = known.sample(unit_codes(4), noise=normal(4, 2), num_inference_steps=steps)
    torch.testing.assert_close(z, point.expand(4, 2), atol=1e-5, rtol=0)


def test_temperature_scales_the_noise():
    still = Known(lambda z, t, c: torch.zeros_like(z))
    noise = normal(3, 2)
    torch.testing.assert_close(still.sample(unit_codes(3), noise=noise, temperature=0.7), 0.7 * noise)


# guidance: the velocity here is the code's first two numbers, so the outcome can be read off


@pytest.fixture
def follows_code() -> Known:
    return Known(lambda z, t, c: c.pooled[:, :2])


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0, 7.5])
def test_guidance_multiplies_what_sets_a_caption_apart_from_none(follows_code, scale):
    c = unit_codes(3)
    z = follows_code.sample(c, noise=torch.zeros(3, 2), guidance_scale=scale)
    torch.testing.assert_close(z, scale * c.pooled[:, :2])


@pytest.mark.parametrize("scale", [0.0, 2.0, 7.5])
def test_guidance_leads_away_from_a_negative_caption(follows_code, scale):
    c, away = unit_codes(3), unit_codes(3, seed=1)
    z = follows_code.sample(c, noise=torch.zeros(3, 2), guidance_scale=scale, negative=away)
    torch.testing.assert_close(z, away.pooled[:, :2] + scale * (c.pooled - away.pooled)[:, :2])


def test_at_scale_1_guidance_is_no_guidance(matching):
    z_t, t, c = normal(3, 2, 3), torch.tensor([0.0, 0.4, 0.9]), unit_codes(3)
    with torch.no_grad():
        plain = matching.velocity(z_t, t, c)
        assert torch.equal(guided(matching.velocity, z_t, t, c, unit_codes(3, seed=1), 1.0), plain)


def test_at_scale_1_the_velocity_is_asked_once_a_step(follows_code):
    follows_code.sample(unit_codes(1), noise=torch.zeros(1, 2), num_inference_steps=5)
    assert follows_code.calls == 5


def test_guided_is_the_closed_form_of_two_velocities(matching):
    z_t, t, c, away = normal(3, 2, 3), torch.tensor([0.0, 0.4, 0.9]), unit_codes(3), unit_codes(3, seed=1)
    with torch.no_grad():
        towards, from_ = matching.velocity(z_t, t, c), matching.velocity(z_t, t, away)
        found = guided(matching.velocity, z_t, t, c, away, 3.0)
    torch.testing.assert_close(found, from_ + 3 * (towards - from_), atol=1e-5, rtol=1e-5)


def test_codes_with_tokens_can_be_led_away_from_codes_without(follows_code):
    c = TextCode(unit_codes(2).pooled, torch.ones(2, 3, DIM), torch.ones(2, 3, dtype=torch.bool))
    z = follows_code.sample(c, noise=torch.zeros(2, 2), guidance_scale=2.0)
    torch.testing.assert_close(z, 2 * c.pooled[:, :2])
