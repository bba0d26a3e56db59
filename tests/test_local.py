"""The local flow: its formula, what its memory does to pictures, and what it refuses."""

import json
import math
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bridge.checkpoint import CheckpointError
from bridge.errors import UserError
from bridge.mappers import LocalFlowMapper, load_mapper
from bridge.mappers.local import VIEWS, Material, _largest, log_kernel
from bridge.pipeline import mapper_fingerprint
from tests.test_mappers import codes_of, normal, repeated, sample_noise, unit_codes

SHAPE = (3, 4, 4)
PICTURES = 20


def memory(n: int = PICTURES, z_shape: tuple[int, ...] = SHAPE, **options) -> LocalFlowMapper:
    codes = unit_codes(n, seed=5).pooled
    return LocalFlowMapper.from_memory(normal(n, *z_shape, seed=4), codes, [[i] for i in range(n)], **options)


def code_of(picture: int, n: int = 1):
    return repeated(codes_of(unit_codes(PICTURES, seed=5).pooled[picture : picture + 1]), n)


def by_hand(mapper: LocalFlowMapper, z_t: Tensor, t: float, code: Tensor) -> Tensor:
    """The formula of the class's docstring, loop by loop, for one row."""
    index, log_weight = mapper.nearest(code)
    known = mapper.picture_latents(torch.from_numpy(index)).double()
    s = mapper.window[0] + (mapper.window[1] - mapper.window[0]) * t
    out = torch.zeros(SHAPE, dtype=torch.double)
    for y in range(SHAPE[1]):
        for x in range(SHAPE[2]):
            misfit = torch.zeros(len(index), dtype=torch.double)
            for v in range(SHAPE[1]):
                for u in range(SHAPE[2]):
                    near = math.exp(-((y - v) ** 2 + (x - u) ** 2) / (2 * s * s))
                    misfit += near * (z_t[:, v, u].double() - t * known[:, :, v, u]).square().sum(1)
            weight = (torch.from_numpy(log_weight) - misfit / (2 * (1 - t) ** 2)).softmax(0)
            out[:, y, x] = weight @ known[:, :, y, x]
    return out


@pytest.mark.parametrize("t", [0.0, 0.3, 0.8])
def test_the_clean_latent_is_that_of_the_formula(t):
    mapper, z_t = memory(neighbours=12, window=(1.5, 0.8)), normal(2, *SHAPE, seed=1)
    c = unit_codes(2, seed=5)
    clean = mapper.clean(z_t, torch.full((2,), t), c)
    expected = torch.stack([by_hand(mapper, z_t[i], t, c.pooled[i]) for i in range(2)])
    torch.testing.assert_close(clean.double(), expected, atol=1e-4, rtol=1e-4)


def test_with_an_unbounded_window_it_is_the_posterior_mean_over_whole_pictures():
    mapper, z_t, t = memory(neighbours=PICTURES, window=(1e6, 1e6)), normal(1, *SHAPE, seed=1), 0.4
    index, log_weight = mapper.nearest(code_of(0).pooled[0])
    known = mapper.picture_latents(torch.from_numpy(index)).flatten(1)
    misfit = (z_t.flatten(1) - t * known).square().sum(1) / (2 * (1 - t) ** 2)
    expected = (torch.from_numpy(log_weight) - misfit).softmax(0).float() @ known
    torch.testing.assert_close(mapper.clean(z_t, torch.tensor([t]), code_of(0)).flatten(), expected)


def test_with_an_unbounded_window_samples_are_pictures_of_memory():
    mapper = memory(window=(1e6, 1e6))
    z = mapper.sample(code_of(0, 6), noise=sample_noise(mapper, 6), num_inference_steps=50)
    known = mapper.picture_latents(torch.arange(PICTURES))
    nearest = torch.cdist(z.flatten(1), known.flatten(1)).amin(1) / math.sqrt(z[0].numel())
    assert float(nearest.max()) < 0.1


def test_a_small_window_composes_pictures_that_memory_does_not_hold():
    mapper = memory(window=(0.3, 0.3), perplexity=12)
    z = mapper.sample(code_of(0, 6), noise=sample_noise(mapper, 6))
    known = mapper.picture_latents(torch.arange(PICTURES))
    assert float(torch.cdist(z.flatten(1), known.flatten(1)).amin(1).min()) > 1
    # each position is of one picture or another
    far = (z[:, None] - known).square().sum(2).amin(1)
    assert float(far.median()) < 0.05


def test_one_picture_in_memory_is_what_is_drawn():
    mapper = memory(1)
    z = mapper.sample(unit_codes(3, seed=9), noise=sample_noise(mapper, 3))
    torch.testing.assert_close(z, mapper.picture_latents(torch.zeros(3, dtype=torch.long)), atol=1e-4, rtol=1e-4)


def test_equal_captions_weigh_alike():
    mapper = LocalFlowMapper.from_memory(normal(5, *SHAPE), unit_codes(1).pooled, [[0]] * 5)
    np.testing.assert_allclose(np.exp(mapper.nearest(unit_codes(1).pooled[0])[1]), 0.2)


def test_the_nearest_of_a_pictures_captions_counts():
    codes = unit_codes(3, seed=5).pooled
    mapper = LocalFlowMapper.from_memory(normal(2, *SHAPE), codes, [[0, 2], [1]])
    cosine = codes.numpy() @ codes[2].numpy()
    np.testing.assert_allclose(mapper.similarity(codes[2]), [cosine[2], cosine[1]], atol=0.01)


def with_allusions(whitening: float, allusions: list[bool] | None) -> LocalFlowMapper:
    """Two captions a picture, the second of which may only allude to it."""
    codes, captions = unit_codes(2 * PICTURES, seed=5).pooled, [[i, PICTURES + i] for i in range(PICTURES)]
    z = normal(PICTURES, *SHAPE, seed=4)
    return LocalFlowMapper.from_memory(z, codes, captions, whitening=whitening, allusions=allusions)


@pytest.mark.parametrize("whitening", [0.0, 0.5])
def test_a_caption_that_alludes_to_its_picture_counts_as_farther(whitening):
    plain = with_allusions(whitening, None)
    mapper = with_allusions(whitening, [i >= PICTURES for i in range(2 * PICTURES)])
    allusion = mapper.unit_codes[PICTURES]
    assert mapper.similarity(allusion)[0] == pytest.approx(0.9, abs=1e-4)
    assert mapper.similarity(allusion, whitened=False)[0] == pytest.approx(float(mapper.unit_codes[0] @ allusion))
    assert mapper.familiarity(allusion) < 0.9 < plain.familiarity(allusion)
    assert mapper.similarity(mapper.unit_codes[0])[0] == pytest.approx(1.0, abs=1e-4)
    assert plain.similarity(allusion)[0] == pytest.approx(1.0, abs=1e-4)


def test_allusions_do_not_change_how_captions_are_whitened():
    codes, z = unit_codes(PICTURES + 5, seed=5).pooled, normal(PICTURES, *SHAPE, seed=4)
    plain = LocalFlowMapper.from_memory(z, codes[:PICTURES], [[i] for i in range(PICTURES)], whitening=0.5)
    captions = [[i, PICTURES + i] if i < 5 else [i] for i in range(PICTURES)]
    alludes = [i >= PICTURES for i in range(PICTURES + 5)]
    mapper = LocalFlowMapper.from_memory(z, codes, captions, whitening=0.5, allusions=alludes)
    assert torch.equal(mapper.metric, plain.metric)


def test_a_saved_mapper_knows_what_alludes(tmp_path):
    mapper = with_allusions(0.0, [i >= PICTURES for i in range(2 * PICTURES)])
    mapper.save_pretrained(tmp_path)
    again = LocalFlowMapper.from_pretrained(tmp_path, use_safetensors=True)
    code = mapper.unit_codes[PICTURES]
    np.testing.assert_array_equal(again.similarity(code), mapper.similarity(code))
    texts = [str(i) for i in range(2 * PICTURES)]
    assert again.allusions(texts) == set(texts[PICTURES:])


def adjectives(whitening: float) -> tuple[LocalFlowMapper, Tensor]:
    """Pictures of 30 things in two colours, which weigh more in a code than the things; one thing in a third colour."""
    axes = torch.eye(40)
    colours = [3 * axes[0], -3 * axes[0]]
    codes = torch.stack([colour + thing for colour in colours for thing in axes[10:40]])
    asked = torch.nn.functional.normalize(2 * axes[0] + axes[1] + axes[12], dim=0)
    codes = torch.cat([torch.nn.functional.normalize(codes, dim=1), (-axes[0] + 2 * axes[12])[None] / 5**0.5])
    captions = [[i] for i in range(len(codes))]
    return LocalFlowMapper.from_memory(normal(len(codes), *SHAPE), codes, captions, whitening=whitening), asked


def test_whitened_captions_share_what_is_rare():
    mapper, asked = adjectives(0.0)
    np.testing.assert_allclose(mapper.similarity(asked), (mapper.unit_codes @ asked).numpy(), rtol=1e-6)
    before = mapper.similarity(asked)
    mapper, _ = adjectives(1.0)
    after = mapper.similarity(asked)
    np.testing.assert_array_equal(mapper.similarity(asked, whitened=False), before)
    thing, other = 2, 3  # of the colour asked for: that thing, and another
    assert after[thing] - after[other] > 3 * (before[thing] - before[other])
    assert before[60] < before[other]
    assert after[60] > after[other]  # the thing in another colour, before another thing in that colour
    assert mapper.nearest(asked)[0][0] == thing


def test_whitening_is_that_of_the_known_codes():
    codes = torch.nn.functional.normalize(normal(4000, 6, seed=2) * torch.tensor([9.0, 3, 1, 1, 1, 1]), dim=1)
    mapper = LocalFlowMapper.from_memory(normal(4000, 4), codes, [[i] for i in range(4000)], whitening=1.0)
    apart = mapper.unit_codes.double() - mapper.unit_codes.double().mean(0)
    covariance = apart.T @ apart / 4000 + (0.1 + 6 / 4000) * apart.square().mean() * torch.eye(6)
    white = apart @ torch.linalg.inv(torch.linalg.cholesky(covariance)).T
    expected = torch.nn.functional.cosine_similarity(white[:1], white)
    np.testing.assert_allclose(mapper.similarity(mapper.unit_codes[0]), expected.numpy(), atol=1e-4)


def test_a_whitened_mapper_is_saved_with_its_metric(tmp_path):
    mapper, asked = adjectives(0.5)
    mapper.save_pretrained(tmp_path)
    again = LocalFlowMapper.from_pretrained(tmp_path, use_safetensors=True)
    np.testing.assert_array_equal(again.similarity(asked), mapper.similarity(asked))


@pytest.mark.parametrize("bits", [2, 4, 6])
@pytest.mark.parametrize("z_shape", [SHAPE, (3,), (5, 1, 3)])
def test_fewer_bits_make_a_smaller_memory_and_round_what_is_kept(tmp_path, z_shape, bits):
    z = normal(PICTURES, *z_shape, seed=4)
    eight, few = memory(z_shape=z_shape), memory(z_shape=z_shape, bits=bits)
    everything, most = torch.arange(PICTURES), {2: 1.5, 4: 2.7, 6: 3.5}[bits]
    assert few.latents.nbytes == PICTURES * z_shape[0] * bits // 2 * -(-math.prod(z_shape[1:]) // 4)
    assert few.picture_latents(everything[:6].view(2, 3)).shape == (2, 3, *z_shape)
    kept = few.picture_latents(everything)
    assert (kept - z.clamp(-most, most)).abs().max() <= most / (2 ** (bits - 1) - 1) / 2 + 1e-5
    assert (eight.picture_latents(everything) - z).abs().max() < (kept - z).abs().max()
    few.save_pretrained(tmp_path)
    again = LocalFlowMapper.from_pretrained(tmp_path, use_safetensors=True)
    assert torch.equal(again.picture_latents(everything), kept)


def test_each_channel_has_its_bits():
    z, bits = normal(PICTURES, 3, 4, 4, seed=4), (8, 2, 6)
    mixed = memory(z_shape=(3, 4, 4), bits=bits).picture_latents(torch.arange(PICTURES))
    for channel, number in enumerate(bits):
        alone = memory(z_shape=(3, 4, 4), bits=number).picture_latents(torch.arange(PICTURES))
        assert torch.equal(mixed[:, channel], alone[:, channel])
    assert (mixed - z).square().mean((0, 2, 3)).argsort().tolist() == [0, 2, 1]


@pytest.mark.parametrize(("bits", "cosine"), [(2, 0.5), (4, 0.98), (6, 0.999)])
def test_fewer_bits_of_codes_make_a_smaller_memory_that_finds_the_same(tmp_path, bits, cosine):
    eight, few = memory(whitening=0.5), memory(whitening=0.5, code_bits=bits)
    assert few.codes.nbytes == PICTURES * bits // 2 * -(-few.text_dim // 4)
    kept = few.unit_codes
    torch.testing.assert_close(kept.norm(dim=1), torch.ones(PICTURES))
    assert cosine < float((kept * eight.unit_codes).sum(1).min()) < 0.99999
    few.save_pretrained(tmp_path)
    again = LocalFlowMapper.from_pretrained(tmp_path, use_safetensors=True)
    assert torch.equal(again.unit_codes, kept)
    for picture in range(PICTURES):
        code = code_of(picture).pooled[0]
        assert again.nearest(code)[0][0] == eight.nearest(code)[0][0] == picture
        some = np.array([picture, 0])
        cosine = again._cosine(code, None, False)[some]
        np.testing.assert_allclose(again._cosine(code, some, False), cosine, atol=1e-6)


@pytest.mark.parametrize("bits", [0, 3, 16, (8, 8), (8, 8, 5)])
def test_other_bits_are_refused(bits):
    with pytest.raises(ValueError, match=r"bits: expected 2, 4, 6 or 8, one for all or for each of 3 channels, got"):
        memory(z_shape=(3, 4, 4), bits=bits)


@pytest.mark.parametrize("bits", [0, 3, 16])
def test_other_bits_of_codes_are_refused(bits):
    with pytest.raises(ValueError, match=r"code_bits: one of these, got"):
        memory(code_bits=bits)


@pytest.mark.parametrize("captions", [1, 2])
def test_few_captions_can_be_whitened(captions):
    mapper = memory(captions, whitening=1.0)
    weights = np.exp(mapper.nearest(code_of(0).pooled[0])[1])
    np.testing.assert_allclose(weights.sum(), 1)


@pytest.mark.parametrize("whitening", [-0.1, 1.1, math.nan])
def test_a_whitening_out_of_range_is_refused(whitening):
    with pytest.raises(ValueError, match=r"whitening: expected a number from 0 to 1, got"):
        memory(whitening=whitening)


def test_of_near_duplicates_one_is_weighed():
    mapper = memory(groups=[7, 7, 7, *[-1] * (PICTURES - 3)], neighbours=PICTURES)
    index, _ = mapper.nearest(code_of(1).pooled[0])
    assert index[0] == 1
    assert not {0, 2} & set(index.tolist())
    assert len(index) == PICTURES - 2


def test_eight_bits_keep_latents_to_a_128th_of_their_range():
    z = normal(PICTURES, *SHAPE, seed=4)
    error = (memory().picture_latents(torch.arange(PICTURES)) - z).abs().amax((0, 2, 3))
    assert bool((error <= z.abs().amax((0, 2, 3)) / 127 / 2 + 1e-6).all())


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_latents_noise_is_found_again(scale):
    mapper = memory(perplexity=3)
    noise, c = sample_noise(mapper, 4), unit_codes(4, seed=5)
    z = mapper.sample(c, noise=noise, guidance_scale=scale, num_inference_steps=6)
    again = mapper.invert(z, c, guidance_scale=scale, num_inference_steps=6)
    torch.testing.assert_close(
        mapper.sample(c, noise=again, guidance_scale=scale, num_inference_steps=6), z, atol=2e-3, rtol=1e-3
    )


def test_a_captions_own_picture_is_likelier_under_it_than_under_another():
    mapper = memory(perplexity=2, z_shape=(2, 2, 2))
    z, c = mapper.picture_latents(torch.tensor([0, 1])), unit_codes(2, seed=5)
    right = mapper.log_prob(z, c, num_inference_steps=8)
    wrong = mapper.log_prob(z, repeated(unit_codes(PICTURES, seed=5)[9:10], 2), num_inference_steps=8)
    assert bool((right > wrong).all())


def test_guidance_leaves_no_caption_further_behind():
    """The caption's picture is nearer at a higher scale."""
    mapper = memory(perplexity=10, window=(0.6, 0.6))
    noise, c = sample_noise(mapper, 64), code_of(3, 64)
    picture = mapper.picture_latents(torch.tensor([3]))
    near = [float((mapper.sample(c, noise=noise, guidance_scale=g) - picture).square().mean()) for g in (1.0, 2.0, 4.0)]
    assert near[0] > near[1] > near[2]


def test_a_style_is_drawn_from_its_pictures_alone():
    styles = ["flat", "shaded"] * (PICTURES // 2)
    mapper = memory(styles=styles)
    index, _ = mapper.restricted(style="shaded").nearest(code_of(0).pooled[0])
    assert set(index.tolist()) == set(range(1, PICTURES, 2))
    assert set(mapper.nearest(code_of(0).pooled[0])[0].tolist()) == set(range(PICTURES))


@pytest.mark.parametrize("perplexity", [1.5, 3.0, 8.0])
def test_the_caption_kernel_has_the_perplexity_asked_for(perplexity):
    log_p = log_kernel(np.linspace(1, -0.2, 64), perplexity)
    assert math.exp(-(np.exp(log_p) * log_p).sum()) == pytest.approx(perplexity, rel=1e-3)


def test_a_caption_with_few_near_pictures_draws_from_no_far_ones_below_a_temperature():
    cosine = np.array([1.0, 1.0, *np.linspace(0.5, 0.3, 30)])
    far = [float(np.exp(log_kernel(cosine, 8.0, hottest))[2:].sum()) for hottest in (10.0, 0.08)]
    assert far[0] > 0.2
    assert far[1] < 0.02
    near = np.linspace(1, 0.98, 30)
    np.testing.assert_allclose(log_kernel(near, 8.0, 0.08), log_kernel(near, 8.0))
    with pytest.raises(ValueError, match=r"^hottest: expected a number above 0.0001 and up to 10.0, got 0"):
        memory(hottest=0)


def test_the_largest_are_those_of_a_stable_sort():
    x = np.random.default_rng(0).integers(0, 5, 50).astype(float)
    for k in (1, 7, 49, 50, 80):
        assert _largest(x, k).tolist() == np.argsort(-x, kind="stable")[:k].tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": (0.0, 1.0)}, "^window: "),
        ({"window": (1.0, math.nan)}, "^window: "),
        ({"perplexity": 0.5}, "^perplexity, neighbours: "),
        ({"neighbours": 0}, "^perplexity, neighbours: "),
        ({"whitening": 1.1}, "^whitening: "),
        ({"lead": -1.0}, r"^lead: expected a number of 0 or more, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        memory(**options)


def test_an_empty_memory_is_refused():
    with pytest.raises(ValueError, match=r"^pictures: the memory is empty"):
        memory(0)


def test_a_picture_without_a_caption_is_refused():
    with pytest.raises(ValueError, match=r"^captions: expected at least one"):
        LocalFlowMapper.from_memory(normal(2, *SHAPE), unit_codes(1).pooled, [[0], []])


def test_an_unknown_style_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"^style: .*'oil'; its styles: flat, shaded"):
        memory(styles=["flat", "shaded"] * (PICTURES // 2)).restricted(style="oil")


@pytest.mark.parametrize(("novelty", "own", "lead"), [(-1, 4, 8), (-0.25, 0, 1), (0, 4, 4), (0, 0, 0), (0.5, 4, 4)])
def test_novelty_below_zero_adds_to_the_lead(novelty, own, lead):
    assert memory(lead=own).restricted(novelty=novelty).lead == pytest.approx(lead)


def test_the_nearest_pictures_are_material_that_draws_as_they_do():
    mapper, c = memory(lead=4.0), unit_codes(1).chosen(torch.tensor([0.3]))
    given = mapper.given([(c.pooled[0], mapper.material_of(c.pooled[0]))])
    noise = sample_noise(mapper, 1)
    torch.testing.assert_close(given.sample(c, noise=noise), mapper.sample(c, noise=noise))


def test_views_do_not_pile_up():
    mapper = memory()
    views = [mapper.restricted(novelty=-i / 100) for i in range(1, 101)]
    assert len(mapper._views) == VIEWS
    assert mapper.restricted(novelty=-1.0) is views[-1]
    assert mapper.restricted(novelty=-0.01).lead == views[0].lead


@pytest.mark.parametrize("novelty", [-1.1, 1.1, math.nan])
def test_a_novelty_out_of_range_is_refused(novelty):
    with pytest.raises(ValueError, match=r"^novelty: "):
        memory().restricted(novelty=novelty)


def test_a_variation_is_a_mapper_made_with_those_settings():
    noise, c = sample_noise(memory(), 3), unit_codes(3)
    varied = memory().varied(window=(1.0, 0.5), perplexity=3.0)
    assert torch.equal(varied.sample(c, noise=noise), memory(window=(1.0, 0.5), perplexity=3.0).sample(c, noise=noise))


def test_a_style_that_is_rather_not_drawn_is_drawn_where_no_other_shows_a_caption():
    """Four captions, the last of a glyph alone, the third of a glyph and of a flat picture."""
    codes = torch.eye(5)
    codes[4] = F.normalize(codes[0] + codes[3], dim=0)
    latents = torch.randn(5, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    styles = ["flat", "flat", "flat", "glyph", "glyph"]
    mapper = LocalFlowMapper.from_memory(latents, codes[:4], [[0], [1], [2], [2], [3]], styles=styles)
    soft, strict = (mapper.restricted(style=style) for style in ("rather not glyph", "not glyph"))

    def drawn(view: LocalFlowMapper, code: torch.Tensor) -> set[str]:
        return {view.config.styles[i] for i in view.style[view.nearest(code)[0]].tolist()}

    assert [drawn(soft, code) for code in codes[:4]] == [{"flat"}, {"flat"}, {"flat"}, {"glyph"}]
    assert [soft.yields(code) for code in codes[:4]] == [False, False, False, True]
    assert soft.familiarity(codes[3]) == pytest.approx(1, abs=0.02)
    assert not soft.yields(codes[4])  # as near to a flat picture
    assert drawn(soft, torch.zeros(5)) == {"flat"}
    assert drawn(strict, codes[3]) == {"flat"}
    assert not strict.yields(codes[3])


def test_of_two_kinds_that_are_rather_not_drawn_the_first_is_the_last_resort():
    """Captions: 0 of all three kinds, 1 of an icon and a glyph, 2 of a glyph alone; 3 of an icon, near to 0 by .85."""
    codes = torch.eye(4)
    codes[3] = torch.tensor([0.85, 0, 0, math.sqrt(1 - 0.85**2)])
    kinds = ["flat", "icon", "glyph", "icon", "glyph", "glyph", "icon"]
    numbers = [[0], [0], [0], [1], [1], [2], [3]]
    mapper = LocalFlowMapper.from_memory(normal(7, 2, 4, 4, seed=1), codes, numbers, styles=kinds)
    view = mapper.restricted(style="rather not glyph, icon")
    drawn = [{kinds[i] for i in view.nearest(code)[0]} for code in codes]
    assert drawn == [{"flat"}, {"icon"}, {"glyph"}, {"flat"}]
    assert [view.yields(code) for code in codes] == [False, False, True, False]
    assert {kinds[i] for i in mapper.restricted(style="icon,glyph").nearest(codes[0])[0]} == {"icon", "glyph"}
    assert {kinds[i] for i in mapper.restricted(style="not icon, glyph").nearest(codes[1])[0]} == {"flat"}
    with pytest.raises(UserError, match=r"^style: this model knows no style 'rather not glyph, oil'; its styles: flat"):
        mapper.restricted(style="rather not glyph, oil")


def test_the_picture_that_its_choice_falls_on_leads_an_image(tmp_path):
    """Three pictures of a caption, nearest first: each third of the choices is led by one of them."""
    memory = partial(LocalFlowMapper.from_memory, normal(3, 2, 4, 4, seed=1), torch.eye(4)[:1], [[0]] * 3)
    mapper, plain = memory(lead=100.0, window=(9.0, 9.0)), memory(window=(9.0, 9.0))
    noise, code = normal(30, 2, 4, 4, seed=2), codes_of(torch.eye(4)[:1].expand(30, 4))
    choice = torch.linspace(0, 1, 30)  # 1 is what a number below it may round to
    known = mapper.picture_latents(torch.arange(3))

    def drawn(view: LocalFlowMapper, chosen: torch.Tensor) -> list[int]:
        latents = view.sample(code.chosen(chosen), noise=noise)
        return [int((known - z).flatten(1).square().sum(1).argmin()) for z in latents]

    assert drawn(mapper, choice) == [0] * 10 + [1] * 10 + [2] * 10
    assert drawn(mapper, choice.flip(0)) == [2] * 10 + [1] * 10 + [0] * 10
    assert torch.equal(mapper.sample(code, noise=noise), plain.sample(code, noise=noise))  # no choice, no lead
    assert torch.equal(plain.sample(code.chosen(choice), noise=noise), plain.sample(code, noise=noise))
    mapper.save_pretrained(tmp_path)
    assert LocalFlowMapper.from_pretrained(tmp_path).lead == 100


def test_what_leads_an_image_does_not_depend_on_the_others_beside_it():
    mapper, noise = memory(lead=4.0), sample_noise(memory(), 5)
    c = code_of(0, 5).chosen(torch.tensor([0.1, math.nan, 0.9, 0.4, 0.6]))
    together = mapper.sample(c, noise=noise)
    alone = torch.cat([mapper.sample(c[i : i + 1], noise=noise[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_the_argument_of_a_former_version_is_read_over_at_its_default(tmp_path):
    mapper = memory()
    mapper.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for value in (0.0, 0.5):
        (tmp_path / "config.json").write_text(json.dumps({**config, "coherence": value}))
        if value:
            with pytest.raises(CheckpointError, match=r"config.json: coherence is no longer known; make the model"):
                load_mapper(tmp_path)
        else:
            assert mapper_fingerprint(load_mapper(tmp_path)) == mapper_fingerprint(mapper)


def test_a_number_serves_two_choices():
    """Of images whose numbers lie evenly, those drawn through one known caption have numbers that lie evenly again."""
    mapper = memory(perplexity=4)
    code = F.normalize(2 * code_of(0).pooled[0] + code_of(1).pooled[0], dim=0)
    drawn = [mapper.known_code(code, u, 1.0) for u in torch.linspace(0, 0.9999, 4000).tolist()]
    rest = torch.tensor([again for known, again in drawn if torch.equal(known, drawn[0][0])])
    assert len(rest) > 400
    np.testing.assert_allclose(rest.sort().values, torch.linspace(0, 1, len(rest)), atol=0.01)


def test_images_drawn_through_one_caption_of_many_pictures_are_led_by_all_of_them():
    """Eight numbers that lie evenly, and eight pictures of the nearest caption, leave numbers that lie evenly."""
    codes = F.normalize(normal(2, 16, seed=3), dim=1)
    mapper = LocalFlowMapper.from_memory(normal(9, *SHAPE), codes, [[0]] * 8 + [[1]], perplexity=8)
    rest = [mapper.known_code(codes[0], (number + 0.3) / 8, 0.02)[1] for number in range(8)]
    np.testing.assert_allclose(np.diff(sorted(rest)), 1 / 8, atol=0.02)


def test_a_style_may_be_left_out():
    mapper = memory(styles=["flat", "shaded", "glyph"] * (PICTURES // 3) + ["flat"] * (PICTURES % 3))
    near, _ = mapper.restricted(style="not flat").nearest(unit_codes(1).pooled[0])
    assert {mapper.config.styles[i] for i in mapper.style[near].tolist()} == {"glyph", "shaded"}
    with pytest.raises(ValueError, match=r"^style: all pictures in memory are 'flat'"):
        memory(styles=["flat"] * PICTURES).restricted(style="not flat")


def test_samples_depend_on_their_noise_and_on_their_caption():
    mapper = memory()
    noise, c = sample_noise(mapper, 3), unit_codes(3)
    z = mapper.sample(c, noise=noise)
    assert not torch.equal(mapper.sample(c, noise=noise.flip(0))[0], z[0])
    assert not torch.equal(mapper.sample(unit_codes(3, seed=6), noise=noise)[0], z[0])


@pytest.fixture(params=[0.0, 0.5])
def many(request, monkeypatch) -> tuple[LocalFlowMapper, LocalFlowMapper]:
    """The same 3,000 captions of 1,500 pictures, compared one by one and through an index."""
    pytest.importorskip("faiss")
    codes, z = unit_codes(3000, seed=5).pooled, normal(1500, *SHAPE, seed=4)
    captions = [[i, 1500 + i] for i in range(1500)]
    options = {"neighbours": 24, "whitening": request.param, "allusions": [i % 3 == 0 for i in range(3000)]}
    exact = LocalFlowMapper.from_memory(z, codes, captions, **options)
    monkeypatch.setattr("bridge.mappers.local.EXACT", 1000)
    return exact, LocalFlowMapper.from_memory(z, codes, captions, **options)


def test_an_index_gives_the_same_neighbours(many):
    exact, indexed = many
    assert indexed.config.index_bytes > 0
    for code in unit_codes(5, seed=8).pooled:
        (right, weight), (near, same) = exact.nearest(code), indexed.nearest(code)
        assert len(set(right.tolist()) & set(near.tolist())) >= 22
        assert near[0] == right[0]
        np.testing.assert_allclose(same[:5], weight[:5], atol=0.2)


def test_a_mapper_with_an_index_is_saved_with_it(many, tmp_path):
    many[1].save_pretrained(tmp_path)
    again = LocalFlowMapper.from_pretrained(tmp_path, use_safetensors=True)
    code = unit_codes(1, seed=8).pooled[0]
    assert np.array_equal(again.nearest(code)[0], many[1].nearest(code)[0])


def test_a_style_that_the_index_does_not_find_is_drawn_all_the_same(monkeypatch):
    """Of the 20 pictures nearest to caption 0, none is of the one style asked for."""
    pytest.importorskip("faiss")
    codes, z = unit_codes(3000, seed=5).pooled, normal(3000, 2, seed=4)
    far = (codes @ codes[0]).argsort()[:3].tolist()
    styles = ["glyph" if i in far else "flat" for i in range(3000)]
    monkeypatch.setattr("bridge.mappers.local.EXACT", 1000)
    monkeypatch.setattr("bridge.mappers.local.SHORT_LIST", 20)
    mapper = LocalFlowMapper.from_memory(z, codes, [[i] for i in range(3000)], styles=styles)
    view = mapper.restricted(style="glyph")
    assert set(view.nearest(codes[0])[0]) == set(far)
    assert view.familiarity(codes[0]) < 0
    view.sample(codes_of(codes[:1]), noise=normal(1, 2))


def test_without_faiss_a_large_memory_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr("bridge.mappers.local.EXACT", 10)
    with pytest.raises(ValueError, match=r"a memory of so many captions needs faiss-cpu; `pip install"):
        memory()


def test_what_a_row_draws_from_is_gathered_once_for_all_steps(monkeypatch):
    mapper, gathered = memory(), []
    gather = LocalFlowMapper._gathered
    monkeypatch.setattr(LocalFlowMapper, "_gathered", lambda self, *a: (gathered.append(1), gather(self, *a))[1])
    noise = normal(2, *SHAPE, seed=7)
    first = mapper.sample(code_of(0, 2), noise=noise, num_inference_steps=6)
    assert len(gathered) == 1
    other = mapper.sample(code_of(1, 2), noise=noise, num_inference_steps=6)
    assert len(gathered) == 2
    assert not torch.equal(first, other)
    assert torch.equal(mapper.sample(code_of(0, 2), noise=noise, num_inference_steps=6), first)
    wide = mapper.varied(perplexity=12.0)
    assert not torch.equal(wide.sample(code_of(0, 2), noise=noise, num_inference_steps=6), first)


def test_an_unknown_captions_code_becomes_that_of_a_known_one_by_softmax_of_the_cosine():
    mapper = memory(perplexity=4)
    code = F.normalize(2 * code_of(0).pooled[0] + code_of(1).pooled[0], dim=0)
    near, _ = mapper.nearest(code)
    numbers = torch.linspace(0, 0.9999, 2000).tolist()
    drawn = torch.stack([mapper.known_code(code, u, 0.1)[0] for u in numbers])
    known = mapper.unit_codes[near]
    shares = torch.stack([(drawn == each).all(1).float().mean() for each in known])
    torch.testing.assert_close(shares, torch.softmax(known @ code / 0.1, 0), atol=2e-3, rtol=0)
    assert torch.equal(mapper.known_code(code, 0.99, 1e-3)[0], known[0])


def test_a_caption_of_many_pictures_is_no_likelier_for_an_unknown_one():
    codes = F.normalize(normal(2, 16, seed=3), dim=1)
    mapper = LocalFlowMapper.from_memory(normal(9, *SHAPE), codes, [[0]] * 8 + [[1]], perplexity=8)
    between = F.normalize(codes.sum(0), dim=0)
    drawn = [mapper.known_code(between, u, 0.05)[0] for u in (0.1, 0.4, 0.6, 0.9)]
    assert sum(torch.equal(each, mapper.unit_codes[1]) for each in drawn) == 2


def test_a_caption_with_material_of_its_own_keeps_its_code():
    mapper, code = memory(), code_of(0).pooled[0]
    view = mapper.given([(code, Material(normal(2, *SHAPE, seed=9), torch.zeros(2).log_softmax(0)))])
    assert view.known_code(code, 0.5, 1.0) == (code, 0.5)
