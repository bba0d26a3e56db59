"""What every mapping family promises, and what those with a density or an inverse promise besides."""

import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bridge.mappers
from bridge.mappers import (
    FAMILIES,
    DensityMapper,
    GaussianMapper,
    InvertibleMapper,
    LocalFlowMapper,
    Mapper,
    MixtureMapper,
    TransformerFlowMapper,
    VelocityMapper,
)
from bridge.mappers.matching import caption_states
from bridge.text import TextCode
from tests.fixtures import randomise

DIM = 8
Z_SHAPE = (2, 2, 2)


@dataclass(frozen=True)
class Case:
    """A family in one of its forms, made small.

    Attributes:
        family: Its class.
        options: Arguments that make it small.
        steps: Adam's steps in the toy world; 0 leaves a form out of it that another of the family stands for.
        rate: Adam's first learning rate there.
        slack: Factor on that world's tolerances, for what so few steps do not finish.
        toy_options: Arguments that are others there.
    """

    family: str
    options: dict[str, Any]
    steps: int = 200
    rate: float = 6e-3
    slack: float = 1.0
    toy_options: dict[str, Any] = field(default_factory=dict)


SMALL = {"width": 24, "hidden": 24, "blocks": 1}
SMALL_FLOW = {"transforms": 2, "hidden": 24, "condition": 16}
CASES = {
    "matching": Case(
        "FlowMatchingMapper",
        {"width": 48, "hidden": 48, "blocks": 2, "condition": 16},
        steps=600,
        slack=1.5,
        toy_options={"time_mean": 0.5},
    ),
    "transformer": Case(
        "TransformerFlowMapper",
        {"patch": 1, "width": 16, "heads": 2, "blocks": 1},
        steps=400,
        rate=8e-3,
        slack=2.0,
        toy_options={"patch": 2, "width": 32, "time_mean": 0.5},
    ),
    "local": Case("LocalFlowMapper", {"window": (1.0, 0.7), "perplexity": 4.0, "neighbours": 16}, steps=0),
    "corrected": Case(
        "LocalFlowMapper",
        {
            "window": (1.0, 0.7),
            "perplexity": 4.0,
            "neighbours": 16,
            "correction": {"family": "TransformerFlowMapper", "patch": 1, "width": 16, "heads": 2, "blocks": 1},
        },
        steps=0,
    ),
    "gaussian": Case("GaussianMapper", SMALL),
    "low rank": Case("GaussianMapper", SMALL | {"rank": 2}, steps=0),
    "mixture": Case("MixtureMapper", SMALL | {"components": 4}),
    "coupling": Case("NormalizingFlowMapper", SMALL_FLOW, rate=1e-2),
    "splines": Case("NormalizingFlowMapper", SMALL_FLOW | {"bins": 4}, steps=0),
    "autoregressive": Case("NormalizingFlowMapper", SMALL_FLOW | {"kind": "autoregressive"}, steps=0),
}
"""A new family adds its line here and gets everything below that its class promises."""


def cases_of(capability: type[Mapper]) -> list[str]:
    return [name for name, case in CASES.items() if issubclass(FAMILIES[case.family], capability)]


TRAINED = [name for name, case in CASES.items() if case.family != "LocalFlowMapper"]
"""Families with weights; the local flow has a memory, see test_local.py."""
TOYS = [name for name, case in CASES.items() if case.steps]
EXACT = [name for name in cases_of(DensityMapper) if name not in cases_of(VelocityMapper)]
"""Densities without a differential equation in between."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def codes_of(pooled: Tensor, seed: int = 50) -> TextCode:
    """Codes with three tokens each, the last one padding in every second row; zero rows have no token."""
    tokens = normal(1, 3, pooled.shape[1], seed=seed) + pooled[:, None]
    mask = torch.ones(len(pooled), 3, dtype=torch.bool)
    mask[1::2, 2] = False
    mask &= pooled.any(1)[:, None]
    return TextCode(pooled, (tokens * mask[..., None]).to(pooled), mask)


def unit_codes(n: int, seed: int = 0) -> TextCode:
    return codes_of(torch.nn.functional.normalize(normal(n, DIM, seed=seed), dim=1))


def repeated(c: TextCode, times: int) -> TextCode:
    return TextCode.cat([c] * times)


def make(name: str, z_shape: tuple[int, ...] = Z_SHAPE, **options: Any) -> Mapper:
    """A mapper as it is before training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        case = CASES[name]
        if case.family == "LocalFlowMapper":
            latents, codes = normal(24, *z_shape, seed=11), unit_codes(24, seed=12).pooled
            known = {name: value for name, value in case.options.items() if name != "correction"}
            mapper = LocalFlowMapper.from_memory(latents, codes, [[i] for i in range(24)], **known, **options)
            return mapper.corrected(case.options["correction"]) if "correction" in case.options else mapper
        return FAMILIES[case.family](z_shape=z_shape, text_dim=DIM, **{**case.options, **options})


def make_random(name: str, z_shape: tuple[int, ...] = Z_SHAPE, **options: Any) -> Mapper:
    """A mapper no weight of which is zero, so that all it has shows in what it does."""
    mapper = make(name, z_shape, **options).eval()
    randomise(mapper, seed=1)
    return mapper


def loss_noise(mapper: Mapper, n: int, seed: int = 1) -> Tensor:
    return normal(n, *mapper.loss_noise_shape, seed=seed)


def sample_noise(mapper: Mapper, n: int, seed: int = 0) -> Tensor:
    return normal(n, *mapper.sample_noise_shape, seed=seed)


def fit(mapper: Mapper, steps: int, rate: float, batch: Callable[[int], tuple[Tensor, TextCode]]) -> list[float]:
    """Train on batches (z, c) by step; returns the losses."""
    optimizer = torch.optim.Adam(mapper.parameters(), lr=rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    losses = []
    for step in range(steps):
        z, c = batch(step)
        loss = mapper.loss(z, c, noise=loss_noise(mapper, len(z), seed=10_000 + step)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    return losses


def test_every_family_is_tested_here():
    assert {case.family for case in CASES.values()} == set(FAMILIES)


# every family


@pytest.fixture(params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def mapper(name: str) -> Mapper:
    return make_random(name)


def test_the_loss_comes_one_an_example(mapper):
    loss = mapper.loss(normal(5, *Z_SHAPE), unit_codes(5), noise=loss_noise(mapper, 5))
    assert (loss.shape, bool(loss.isfinite().all())) == ((5,), True)


def test_an_examples_loss_is_its_own(mapper):
    z, c, noise = normal(5, *Z_SHAPE), unit_codes(5), loss_noise(mapper, 5)
    alone = mapper.loss(z[2:3], c[2:3], noise=noise[2:3])
    torch.testing.assert_close(mapper.loss(z, c, noise=noise)[2:3], alone)


@pytest.mark.parametrize("name", TRAINED)
def test_the_gradient_reaches_every_parameter(mapper):
    mapper.loss(normal(8, *Z_SHAPE), unit_codes(8), noise=loss_noise(mapper, 8)).mean().backward()
    assert [name for name, p in mapper.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_sample_depends_on_its_own_row_alone(mapper):
    """In a batch of fixed size, other captions, also longer ones, and other noise change no bit of it."""
    noise, c = sample_noise(mapper, 4), unit_codes(4)
    z = mapper.sample(c, noise=noise)
    other_noise, other = sample_noise(mapper, 4, seed=7), unit_codes(4, seed=8)
    other_noise[0] = noise[0]
    longer = TextCode(other.pooled, normal(4, 5, DIM, seed=9), torch.ones(4, 5, dtype=torch.bool))
    company = TextCode.cat([c[:1], longer[1:]])
    assert torch.equal(mapper.sample(company, noise=other_noise)[0], z[0])


@pytest.mark.parametrize("name", TRAINED)
def test_a_sample_depends_on_its_noise_and_on_its_caption(mapper):
    noise, c = sample_noise(mapper, 3), unit_codes(3)
    z = mapper.sample(c, noise=noise)
    assert not (mapper.sample(c, noise=noise.flip(0))[0] == z[0]).any()
    assert not (mapper.sample(unit_codes(3, seed=5), noise=noise)[0] == z[0]).any()


def test_at_temperature_0_a_caption_has_one_latent(mapper):
    c = repeated(unit_codes(1), 4)
    z = mapper.sample(c, noise=sample_noise(mapper, 4), temperature=0.0)
    assert torch.equal(z, z[:1].expand_as(z))


def test_neither_loss_nor_sample_touches_the_global_generator(mapper):
    before = torch.get_rng_state()
    mapper.loss(normal(2, *Z_SHAPE), unit_codes(2), noise=loss_noise(mapper, 2))
    mapper.sample(unit_codes(2), noise=sample_noise(mapper, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_no_argument_is_changed_in_place(mapper):
    z, c, noise, start = normal(2, *Z_SHAPE), unit_codes(2), loss_noise(mapper, 2), sample_noise(mapper, 2, seed=2)
    before = [tensor.clone() for tensor in (z, c.pooled, c.tokens, noise, start)]
    mapper.loss(z, c, noise=noise)
    mapper.sample(c, noise=start)
    assert all(torch.equal(a, b) for a, b in zip(before, (z, c.pooled, c.tokens, noise, start), strict=True))


def test_no_caption_is_a_caption_too(mapper):
    """The null code has a loss, and samples other than any caption's."""
    noise, null = sample_noise(mapper, 2), TextCode.null(2, DIM)
    z = mapper.sample(null, noise=noise)
    assert bool(z.isfinite().all())
    assert not (z == mapper.sample(unit_codes(2), noise=noise)).any()
    assert bool(mapper.loss(z, null, noise=loss_noise(mapper, 2)).isfinite().all())


def test_tokens_are_read_where_a_family_says_so(mapper):
    c, noise = unit_codes(2), sample_noise(mapper, 2)
    other = TextCode(c.pooled, c.tokens.flip(0), c.mask)
    assert torch.equal(mapper.sample(c, noise=noise), mapper.sample(other, noise=noise)) != mapper.reads_tokens


def test_padding_is_not_read(mapper):
    c, noise = unit_codes(2), sample_noise(mapper, 2)
    other = TextCode(c.pooled, c.tokens + ~c.mask[..., None] * 7, c.mask)
    assert torch.equal(mapper.sample(c, noise=noise), mapper.sample(other, noise=noise))


def test_a_saved_mapper_is_the_same_mapper(mapper, name, tmp_path):
    mapper.save_pretrained(tmp_path)
    again = FAMILIES[CASES[name].family].from_pretrained(tmp_path, use_safetensors=True)
    noise, c = sample_noise(mapper, 2), unit_codes(2)
    assert torch.equal(again.sample(c, noise=noise), mapper.sample(c, noise=noise))


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("share", ["dropout", "text_dropout"])
def test_a_mapper_has_dropout_in_training_alone(name, share):
    mapper = make_random(name, **{share: 0.5}).train()
    z, c, noise = normal(4, *Z_SHAPE), unit_codes(4), loss_noise(mapper, 4)
    assert not torch.equal(mapper.loss(z, c, noise=noise), mapper.loss(z, c, noise=noise))
    mapper.eval()
    assert torch.equal(mapper.loss(z, c, noise=noise), mapper.loss(z, c, noise=noise))


def test_latents_of_another_shape_are_refused(mapper):
    with pytest.raises(ValueError, match=r"^z: expected \(3, 2, 2, 2\)"):
        mapper.loss(normal(3, 8), unit_codes(3), noise=loss_noise(mapper, 3))


def test_noise_of_another_shape_is_refused(mapper):
    with pytest.raises(ValueError, match=r"^noise: expected \(3, "):
        mapper.sample(unit_codes(3), noise=sample_noise(mapper, 2))


def test_codes_of_another_encoder_are_refused(mapper):
    with pytest.raises(ValueError, match=r"^c: expected codes of 8, got 9"):
        mapper.sample(TextCode.null(3, DIM + 1), noise=sample_noise(mapper, 3))


@pytest.mark.parametrize("name", TRAINED)
def test_training_on_eight_pairs_does_not_blow_up(name):
    """By the end it has them by heart: samples lie near, the losses stayed finite, and so is a far latent's."""
    mapper = make(name)
    z, c = 2 * normal(8, *Z_SHAPE, seed=3), unit_codes(8)
    losses = fit(mapper, 300, 0.01, lambda step: (z, c))
    drawn = mapper.eval().sample(c, noise=sample_noise(mapper, 8, seed=3))
    far = mapper.loss(10 * normal(8, *Z_SHAPE), c, noise=loss_noise(mapper, 8))
    assert all(map(math.isfinite, losses)) and bool(far.isfinite().all())
    assert float((drawn - z).square().mean()) < 0.5 * float(z.square().mean())


# a world whose answer is known: z | c is a Gaussian of its own for each of two captions

TOY_MEANS, TOY_STDS = torch.tensor([[1.5, -1.0], [-1.0, 0.5]]), torch.tensor([[0.6, 1.2], [1.0, 0.4]])
TOY_DROPOUT = 0.2


def toy_batch(step: int, size: int = 192) -> tuple[Tensor, TextCode]:
    caption = torch.arange(size) % 2
    z = TOY_MEANS[caption] + TOY_STDS[caption] * normal(size, 2, seed=step)
    pooled = unit_codes(2).pooled[caption]
    dropped = torch.rand(size, generator=torch.Generator().manual_seed(step)) < TOY_DROPOUT
    return z, codes_of(pooled.masked_fill(dropped[:, None], 0))


@pytest.fixture(scope="module", params=TOYS)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def toy(case: Case) -> Mapper:
    mapper = make(next(name for name in TOYS if CASES[name] is case), z_shape=(2,), **case.toy_options)
    fit(mapper, case.steps, case.rate, toy_batch)
    return mapper.eval()


def toy_code(caption: int | None, n: int) -> TextCode:
    pooled = torch.zeros(1, DIM) if caption is None else unit_codes(2).pooled[caption : caption + 1]
    return repeated(codes_of(pooled), n)


def toy_samples(toy: Mapper, caption: int | None, n: int = 1500, **settings: Any) -> Tensor:
    return toy.sample(toy_code(caption, n), noise=sample_noise(toy, n, seed=99), **settings)


def true_log_prob(z: Tensor, caption: int) -> Tensor:
    return torch.distributions.Normal(TOY_MEANS[caption], TOY_STDS[caption]).log_prob(z).sum(1)


@pytest.mark.parametrize("caption", [0, 1])
def test_samples_have_the_captions_mean_and_variance(toy, case, caption):
    z = toy_samples(toy, caption)
    torch.testing.assert_close(z.mean(0), TOY_MEANS[caption], atol=0.12 * case.slack, rtol=0)
    torch.testing.assert_close(z.std(0), TOY_STDS[caption], atol=0.05, rtol=0.12 * case.slack)


def test_dropped_captions_teach_the_null_code_both_captions(toy, case):
    """Without a caption samples are the mixture: its mean, and its larger variance."""
    z = toy_samples(toy, None)
    variance = (TOY_STDS.square() + TOY_MEANS.square()).mean(0) - TOY_MEANS.mean(0).square()
    torch.testing.assert_close(z.mean(0), TOY_MEANS.mean(0), atol=0.15 * case.slack, rtol=0)
    torch.testing.assert_close(z.std(0), variance.sqrt(), atol=0.05, rtol=0.12 * case.slack)


def test_samples_spread_more_at_a_higher_temperature(toy):
    spread = [float(toy_samples(toy, 0, 300, temperature=t).std(0).mean()) for t in (0.0, 0.5, 1.0, 1.5)]
    assert spread[0] < 1e-6
    assert all(low < 0.8 * high for low, high in pairwise(spread))


# families with a density: all of them so far


def log_prob(mapper: Mapper, z: Tensor, c: TextCode) -> Tensor:
    assert isinstance(mapper, DensityMapper)
    settings = {"num_inference_steps": 6} if isinstance(mapper, VelocityMapper) else {}
    return mapper.log_prob(z, c, **settings).detach()


def mass(mapper: Mapper, caption: int | None, points: int = 29) -> tuple[Tensor, Tensor, Tensor]:
    """Points of the plane, the mapper's log density there, and the probability around each."""
    line = torch.linspace(-6, 6, points)
    plane = torch.cartesian_prod(line, line)
    value = log_prob(mapper, plane, toy_code(caption, len(plane)))
    return plane, value, value.exp() * float(line[1] - line[0]) ** 2


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("caption", [0, None])
def test_a_density_has_unit_mass(name, caption):
    assert float(mass(make_random(name, z_shape=(2,)), caption, 65)[2].sum()) == pytest.approx(1, abs=0.002)


def test_samples_follow_the_density(toy, case):
    """It has unit mass; their mean log density is its negative entropy, and their mean its mean."""
    plane, value, share = mass(toy, 0)
    assert float(share.sum()) == pytest.approx(1, abs=0.01)
    z = toy_samples(toy, 0, 1000, **{"num_inference_steps": 128} if isinstance(toy, VelocityMapper) else {})
    found = log_prob(toy, z, toy_code(0, len(z)))
    assert float(found.mean()) == pytest.approx(float((share * value).sum()), abs=0.1 * case.slack)
    torch.testing.assert_close(z.mean(0), (share[:, None] * plane).sum(0), atol=0.1 * case.slack, rtol=0)


@pytest.mark.parametrize("caption", [0, 1])
def test_a_trained_density_is_the_true_one(toy, case, caption):
    """The Kullback-Leibler divergence from the truth, in nats, from latents that the truth drew."""
    z = TOY_MEANS[caption] + TOY_STDS[caption] * normal(1000, 2, seed=77)
    found = log_prob(toy, z, toy_code(caption, len(z)))
    assert float((true_log_prob(z, caption) - found).mean()) == pytest.approx(0, abs=0.06 * case.slack)


@pytest.mark.parametrize("name", cases_of(DensityMapper))
def test_latents_of_another_shape_have_no_density(mapper):
    with pytest.raises(ValueError, match=r"^z: expected \(3, 2, 2, 2\)"):
        log_prob(mapper, normal(4, *Z_SHAPE), unit_codes(3))


@pytest.mark.parametrize("name", cases_of(DensityMapper))
def test_a_latents_density_is_its_own(mapper):
    z, c = normal(4, *Z_SHAPE), unit_codes(4)
    torch.testing.assert_close(log_prob(mapper, z, c)[1:2], log_prob(mapper, z[1:2], c[1:2]), atol=1e-3, rtol=1e-4)


# families with an inverse


def invert(mapper: Mapper, z: Tensor, c: TextCode) -> Tensor:
    assert isinstance(mapper, InvertibleMapper)
    return mapper.invert(z, c).detach()


def test_a_latents_noise_is_found_again(toy):
    if isinstance(toy, InvertibleMapper):
        noise, c = sample_noise(toy, 6), unit_codes(6)
        torch.testing.assert_close(invert(toy, toy.sample(c, noise=noise), c), noise, atol=1e-3, rtol=1e-3)


def test_noise_that_was_found_gives_the_latent(toy):
    if isinstance(toy, InvertibleMapper):
        z, c = TOY_MEANS + TOY_STDS * normal(2, 2, seed=4), unit_codes(2)
        torch.testing.assert_close(toy.sample(c, noise=invert(toy, z, c)), z, atol=1e-4, rtol=1e-4)


def changes(function: Callable[[Tensor], Tensor], z: Tensor, h: float = 1e-5) -> Iterator[Tensor]:
    """Columns of the Jacobian of function at z (1, *shape), by central differences."""
    for unit in torch.eye(z.numel(), dtype=z.dtype):
        step = h * unit.view_as(z)
        yield ((function(z + step) - function(z - step)) / (2 * h)).flatten()


@pytest.mark.parametrize("name", [name for name in cases_of(InvertibleMapper) if name in EXACT])
def test_the_density_is_that_of_the_noise_times_the_inverses_change_of_volume(mapper):
    mapper = mapper.double()
    z, c = normal(1, *Z_SHAPE, seed=5).double(), codes_of(unit_codes(1).pooled.double())
    noise = invert(mapper, z, c)
    torch.testing.assert_close(mapper.sample(c, noise=noise), z)
    volume = torch.linalg.slogdet(torch.stack(list(changes(lambda at: invert(mapper, at, c), z)))).logabsdet
    expected = torch.distributions.Normal(0, 1).log_prob(noise).sum() + volume
    assert float(log_prob(mapper, z, c)[0]) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("name", cases_of(InvertibleMapper))
def test_latents_of_another_shape_have_no_noise(mapper):
    with pytest.raises(ValueError, match=r"^z: expected \(3, 2, 2, 2\)"):
        invert(mapper, normal(4, *Z_SHAPE), unit_codes(3))


# what single families promise


def test_the_low_rank_density_is_torchs():
    mapper = make_random("low rank")
    assert isinstance(mapper, GaussianMapper)
    mean, std, v = mapper.parameters_of(unit_codes(3))
    factor, z = std[:, :, None] * v, normal(3, *Z_SHAPE)
    expected = torch.distributions.LowRankMultivariateNormal(mean, factor, std.square()).log_prob(z.flatten(1))
    torch.testing.assert_close(mapper.log_prob(z, unit_codes(3)), expected)


def test_low_rank_samples_have_its_covariance():
    mapper, c = make_random("low rank"), repeated(unit_codes(1), 20_000)
    assert isinstance(mapper, GaussianMapper)
    mean, std, v = (rows[0].detach() for rows in mapper.parameters_of(c[:1]))
    factor = std[:, None] * v
    z = mapper.sample(c, noise=sample_noise(mapper, len(c))).flatten(1)
    torch.testing.assert_close(z.mean(0), mean, atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(z.T), factor @ factor.T + std.square().diag(), atol=0.08, rtol=0.05)


def test_a_mixtures_components_are_drawn_by_their_weights():
    """And at temperature 0 the likeliest one alone."""
    mapper, c = make_random("mixture"), repeated(unit_codes(1), 5000)
    assert isinstance(mapper, MixtureMapper)
    weights, means, _ = mapper.parameters_of(c[:1])
    noise = sample_noise(mapper, len(c))
    noise[:, 1:] = 0
    picked = torch.cdist(mapper.sample(c, noise=noise).flatten(1), means[0]).argmin(1)
    shares = torch.bincount(picked, minlength=4) / len(c)
    torch.testing.assert_close(shares, weights[0].exp().detach(), atol=0.02, rtol=0)
    still = mapper.sample(c[:1], noise=noise[:1], temperature=0.0)
    torch.testing.assert_close(still.flatten(), means[0, weights[0].argmax()])


@pytest.mark.parametrize("name", ["gaussian", "mixture"])
def test_deviations_have_a_floor(name):
    mapper = make_random(name, min_std=0.3)
    assert isinstance(mapper, GaussianMapper | MixtureMapper)
    with torch.no_grad():
        mapper.net.leave.bias.fill_(-100)
    _, second, third = mapper.parameters_of(unit_codes(3))
    std = second if name == "gaussian" else third
    torch.testing.assert_close(std, torch.full_like(std, 0.3))


def test_a_flow_is_trained_on_jittered_latents():
    mapper, z, c = make_random("coupling", jitter=0.3), normal(3, *Z_SHAPE), unit_codes(3)
    noise = loss_noise(mapper, 3)
    expected = -log_prob(mapper, z + 0.3 * noise.view_as(z), c) / z[0].numel()
    torch.testing.assert_close(mapper.loss(z, c, noise=noise), expected)


def test_an_unknown_kind_of_flow_is_refused():
    with pytest.raises(ValueError, match=r"^kind: expected one of autoregressive, coupling"):
        make("coupling", kind="magic")


def test_without_zuko_a_flow_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(ValueError, match="pip install zuko"):
        make("coupling")


def test_importing_the_mappers_imports_no_zuko():
    for path in Path(bridge.mappers.__file__).parent.glob("*.py"):
        assert not re.search(r"^(import|from) zuko", path.read_text("utf-8"), re.MULTILINE), path.name


@pytest.mark.parametrize(("z_shape", "patch"), [((2, 4, 6), 2), ((3, 3, 3), 3), ((12,), 4)])
def test_pieces_of_latents_are_put_together_again(z_shape, patch):
    mapper = make("transformer", z_shape=z_shape, patch=patch)
    assert isinstance(mapper, TransformerFlowMapper)
    z = normal(2, *z_shape)
    assert torch.equal(mapper.join(mapper.cut(z)), z)
    size = patch if len(z_shape) == 1 else z_shape[0] * patch**2
    assert mapper.cut(z).shape == (2, math.prod(z_shape) // size, size)


def test_a_piece_is_a_square_of_all_channels():
    mapper = make("transformer", z_shape=(2, 4, 6), patch=2)
    assert isinstance(mapper, TransformerFlowMapper)
    z = normal(1, 2, 4, 6)
    assert torch.equal(mapper.cut(z)[0, 4], z[0, :, 2:4, 2:4].flatten())  # second row, second column of 2 x 3


@pytest.mark.parametrize(("z_shape", "patch"), [((2, 4, 5), 2), ((2, 3), 1), ((9,), 2)])
def test_latents_that_cannot_be_cut_are_refused(z_shape, patch):
    with pytest.raises(ValueError, match=r"^z_shape, patch: "):
        make("transformer", z_shape=z_shape, patch=patch)


def test_tokens_after_the_last_that_is_read_change_nothing():
    mapper, c = make_random("transformer", max_tokens=2), unit_codes(2)
    noise, short = sample_noise(mapper, 2), TextCode(c.pooled, c.tokens[:, :2], c.mask[:, :2])
    assert torch.equal(mapper.sample(c, noise=noise), mapper.sample(short, noise=noise))


@pytest.mark.parametrize("length", [2, 3, 7])
def test_captions_of_any_length_give_as_many_states(length):
    """The pooled code at unit variance and `length` tokens, cut or padded; null codes have the first state alone."""
    c = TextCode.cat([unit_codes(2), TextCode.null(1, DIM)])
    states, mask = caption_states(c, length)
    kept = min(length, 3)
    assert (states.shape, mask.sum(1).tolist()) == ((3, 1 + length, DIM), [1 + kept, 3, 1])
    assert torch.equal(states[:, 0], c.pooled * DIM**0.5)
    assert torch.equal(states[:, 1 : 1 + kept], c.tokens[:, :kept]) and not states[:, 1 + kept :].any()
