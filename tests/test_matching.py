"""The algebra of flow matching and guidance: paths, velocities, steps there and back, likelihoods.

What the mapper promises as a mapping family stands in test_mappers.py.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bridge.guidance import guided
from bridge.mappers import FlowMatchingMapper, VelocityMapper
from bridge.mappers.base import BLUR, MIN_REMAINING, linear_path
from bridge.text import TextCode
from tests.fixtures import randomise

DIM = 6


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def codes_of(pooled: Tensor) -> TextCode:
    null = TextCode.null(len(pooled), pooled.shape[1])
    return TextCode(pooled, null.tokens, null.mask)


def unit_codes(n: int, seed: int = 0) -> TextCode:
    return codes_of(torch.nn.functional.normalize(normal(n, DIM, seed=seed), dim=1))


def make(**options: Any) -> FlowMatchingMapper:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FlowMatchingMapper((2, 3), DIM, width=48, hidden=48, blocks=2, condition=16, **options)


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
    mapper = make()
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
    mapper, seen = make(time_mean=time_mean), []
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


# and back


@pytest.mark.parametrize(("steps", "scale"), [(1, 1.0), (5, 1.0), (5, 3.0)])
def test_each_step_is_undone(steps, scale):
    known = Known(lambda z, t, c: torch.sin(2 * z) * (0.3 + t) + c.pooled[:, :2])
    noise, c = 2 * normal(6, 2), unit_codes(6)
    z = known.sample(c, noise=noise, num_inference_steps=steps, guidance_scale=scale)
    found = known.invert(z, c, num_inference_steps=steps, guidance_scale=scale)
    torch.testing.assert_close(found, noise, atol=1e-5, rtol=1e-5)


def test_noise_away_from_a_negative_caption_is_found(follows_code):
    noise, c, away = normal(3, 2), unit_codes(3), unit_codes(3, seed=1)
    z = follows_code.sample(c, noise=noise, guidance_scale=2.0, negative=away)
    found = follows_code.invert(z, c, guidance_scale=2.0, negative=away)
    torch.testing.assert_close(found, noise, atol=1e-5, rtol=0)


def test_a_latents_noise_does_not_depend_on_its_company():
    known = Known(lambda z, t, c: torch.sin(2 * z))
    z, c = normal(4, 2), unit_codes(4)
    other = torch.cat([z[:1], 30 * normal(3, 2, seed=9)])
    assert torch.equal(known.invert(z, c)[0], known.invert(other, c)[0])


def test_a_latent_that_no_noise_leads_to_is_refused():
    point = torch.tensor([3.0, -2.0])
    known = Known(lambda z, t, c: (point - z) / (1 - t))
    z = torch.stack([point, point + 1])
    with pytest.raises(ValueError, match=r"^z: row 1 has no noise .* raise num_inference_steps$"):
        known.invert(z, unit_codes(2))


def test_a_latent_that_rounding_carries_off_is_refused():
    """Five steps that part neighbours a hundred thousandfold."""
    known = Known(lambda z, t, c: 45 * (z - 1))
    with pytest.raises(ValueError, match=r"^z: row 0 .* lower num_inference_steps$"):
        known.invert(torch.tensor([[1.5123, 1.3]]), unit_codes(1), num_inference_steps=5)


# likelihoods along velocities whose density is known

COVARIANCE = torch.tensor([[0.5, 0.3], [0.3, 0.4]]).double()
MEAN = torch.tensor([0.7, -0.2]).double()


@pytest.fixture
def gaussian() -> Known:
    """The velocity of the straight path to N(MEAN, COVARIANCE)."""

    def velocity(z: Tensor, t: Tensor, c: TextCode) -> Tensor:
        time = t[:, :, None]
        spread = time**2 * COVARIANCE + (1 - time) ** 2 * torch.eye(2)
        gain = time * COVARIANCE @ torch.linalg.inv(spread)
        clean = MEAN + (gain @ (z - t * MEAN)[:, :, None])[:, :, 0]
        return (clean - z) / (1 - t)

    return Known(velocity)


def test_the_log_density_is_that_of_blurred_latents(gaussian):
    blurred = torch.distributions.MultivariateNormal(MEAN, COVARIANCE + BLUR**2 * torch.eye(2))
    z = MEAN + 2 * normal(20, 2).double()
    torch.testing.assert_close(gaussian.log_prob(z, unit_codes(20)), blurred.log_prob(z), atol=1e-3, rtol=0)


def test_more_steps_come_closer_to_the_log_density(gaussian):
    blurred = torch.distributions.MultivariateNormal(MEAN, COVARIANCE + BLUR**2 * torch.eye(2))
    z, c = MEAN + normal(20, 2).double(), unit_codes(20)
    errors = [float((gaussian.log_prob(z, c, num_inference_steps=n) - blurred.log_prob(z)).abs().max()) for n in (4, 8)]
    assert errors[1] < errors[0] / 8  # fourth order


def test_random_signs_estimate_the_exact_trace_and_state_their_error(gaussian):
    z, c = MEAN + normal(200, 2).double(), unit_codes(200)
    exact, none = gaussian.log_prob_with_error(z, c)
    generator = torch.Generator().manual_seed(0)
    value, error = gaussian.log_prob_with_error(z, c, trace="hutchinson", probes=32, generator=generator)
    assert not none.any()
    assert 0.8 < float(((value - exact) / error).std()) < 1.25
    assert float((value - exact).mean()) == pytest.approx(0, abs=4 * float(error.mean()) / 200**0.5)


def test_random_signs_are_the_generators(gaussian):
    z, c = normal(2, 2).double(), unit_codes(2)
    first, again, other = (
        gaussian.log_prob_with_error(z, c, trace="hutchinson", probes=2, generator=torch.Generator().manual_seed(s))[0]
        for s in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"trace": "magic"}, "^trace: expected one of exact, hutchinson"),
        ({"trace": "hutchinson"}, "^generator, probes: "),
        ({"trace": "hutchinson", "probes": 1, "generator": torch.Generator()}, "^generator, probes: "),
    ],
)
def test_an_estimate_that_cannot_be_made_is_refused(gaussian, arguments, told):
    with pytest.raises(ValueError, match=told):
        gaussian.log_prob_with_error(normal(2, 2), unit_codes(2), **arguments)


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
