"""Variations: known pictures in each other's shapes and colours."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bridge import explore, pipeline
from bridge.composition import DRAWN_AGAIN, drawings_of
from bridge.mappers import LocalFlowMapper
from bridge.mappers.local import Material
from bridge.memory import CaptionMemory
from bridge.pipeline import BridgePipeline, Settings
from bridge.variation import REFINED, Palette, _pair, morphed, recoloured, reshaped, variations
from tests.test_composition import OpaqueCodec, PaintCodec, block, make_pipeline

SIDE = 32
RED, BLUE, BLACK, WHITE = (0.9, 0.2, 0.2), (0.3, 0.5, 0.8), (0.1, 0.1, 0.1), (1.0, 1.0, 1.0)


def drawing(body: tuple[float, ...], wheels: tuple[float, ...], rows: slice = slice(6, 18), left: int = 4) -> Tensor:
    """A body above two wheels on nothing, (4, SIDE, SIDE)."""
    x = torch.zeros(4, SIDE, SIDE)
    for colour, down, across in (
        (body, rows, slice(left, 28)),
        (wheels, slice(18, 26), slice(left, left + 8)),
        (wheels, slice(18, 26), slice(20, 28)),
    ):
        x[:, down, across] = torch.tensor([*colour, 1.0]).view(4, 1, 1)
    return x


def palette(x: Tensor) -> Palette:
    found = Palette.of(x)
    assert found is not None
    return found


def bent(one: Tensor, first: Tensor, second: Tensor, share: float, *, opaque: bool = False) -> Tensor:
    return reshaped(one, first, second, torch.tensor([share]), opaque=opaque)


def repainted(one: Tensor, other: Tensor, share: float = 1.0) -> Tensor:
    return recoloured(one, palette(one), palette(other), share)


def colours(x: Tensor) -> set[tuple[float, ...]]:
    """Those of what is drawn, to a tenth."""
    return {tuple(round(c + 0.001, 1) for c in pixel) for pixel in x[:3, x[3] > 0.5].T.tolist()}


def test_a_palette_holds_what_is_drawn_and_where():
    found = palette(drawing(RED, BLACK))
    assert len(found.share) == 2
    body = int(found.share.argmax())
    assert found.share.tolist()[body] == pytest.approx(24 * 12 / (24 * 12 + 128), abs=0.05)
    assert found.place[body, 0] < 0 < found.place[1 - body, 0]  # above, and below
    assert Palette.of(torch.zeros(4, SIDE, SIDE)) is None


def test_a_drawing_takes_on_anothers_colours_part_by_part():
    other = drawing(BLUE, BLACK)
    new = repainted(drawing(RED, BLACK), other)
    assert colours(new) == colours(other)
    assert torch.equal(new[3], other[3])


def test_a_colour_that_the_other_has_nothing_like_stays():
    for other in (drawing(BLUE, BLUE), drawing(WHITE, WHITE)):
        new = repainted(drawing(RED, BLACK), other)
        assert len(colours(new)) == 2
        assert colours(drawing(BLACK, BLACK)) < colours(new)


def test_colours_move_by_the_share_asked_for():
    one, other = drawing(RED, BLACK), drawing(BLUE, BLACK)
    moved = [float((repainted(one, other, share) - one).abs().mean()) for share in (0.0, 0.5, 1.0)]
    assert moved[0] < 1e-5 < moved[1] < moved[2]
    assert recoloured(one, None, palette(other), 1.0) is one


def test_a_drawing_takes_on_anothers_shape():
    small, large = drawing(RED, BLACK, left=12)[None], drawing(RED, BLACK, rows=slice(2, 18))[None]
    apart = [float((bent(small, small, large, s)[:, 3] - large[:, 3]).abs().mean()) for s in (0.0, 0.5, 1.0)]
    torch.testing.assert_close(bent(small, small, large, 0.0), small, atol=1e-5, rtol=0)
    assert apart[0] > 1.2 * apart[1] > 1.2**2 * apart[2]


def test_a_shape_is_compared_with_the_mirror_image_too():
    one = drawing(RED, BLACK, left=12)[None]
    new = bent(one, one, one.flip(-1), 1.0)
    assert float((new - one).abs().mean()) < 0.01


def test_beyond_the_edge_nothing_is_drawn_but_for_pictures_without_paper():
    full, small = torch.ones(1, 4, SIDE, SIDE), F.pad(torch.ones(1, 4, SIDE // 2, SIDE // 2), [SIDE // 4] * 4)
    paper, without = (bent(full, full, small, 1.0, opaque=opaque)[0, 3] for opaque in (False, True))
    assert float(paper[0].max()) < 0.1
    assert float(paper[SIDE // 2, SIDE // 2]) > 0.9
    torch.testing.assert_close(without, full[0, 3])


def test_a_picture_is_chosen_as_often_as_it_weighs_and_another_too():
    def pair(weight: list[float], u: float) -> tuple[int, int]:
        latents = torch.arange(len(weight))
        one, other, rest, *_ = _pair(Material(latents, torch.tensor(weight).log()), u)
        assert 0 <= rest < 1
        return int(one), int(other)

    first, second = map(np.array, zip(*[pair([0.5, 0.25, 0.25, 0.0], (n + 0.5) / 24) for n in range(24)], strict=True))
    assert np.bincount(first, minlength=4).tolist() == [12, 6, 6, 0]
    assert np.bincount(second[first == 0], minlength=4).tolist() == [0, 6, 6, 0]
    assert np.bincount(second[first == 1], minlength=4).tolist() == [4, 0, 2, 0]
    assert [pair(weight, 0.999) for weight in ([1.0, 0.0], [0.9999, 0.0001, 0.0])] == [(0, 0), (0, 1)]


def material(*pictures: Tensor) -> Material:
    weight = torch.full((len(pictures),), 1 / len(pictures))
    return Material(torch.stack(pictures) * 2 - 1, weight.log())


def evenly(known: Material, count: int = 6) -> list[tuple[Material, float]]:
    return [(known, (n + 0.5) / count) for n in range(count)]


@pytest.mark.parametrize("codec", [PaintCodec(), OpaqueCodec()])
def test_variations_are_farther_with_more_novelty(codec):
    known = material(block(RED, 6), block(BLUE, 10), block((0, 0.6, 0), 12))
    apart = []
    for novelty in (0.1, 0.5, 1.0):
        made = variations(evenly(known), codec, novelty)
        assert made.shape == (6, *codec.z_shape)
        apart.append(float((made - known.latents.repeat_interleave(2, 0)).abs().mean()))
    assert 0 < apart[0] < apart[1] < apart[2]


def test_a_variation_does_not_depend_on_the_others():
    known, other = material(block(RED, 6), block(BLUE, 10), block((0, 0.6, 0), 12)), material(block(WHITE), block(RED))
    many = variations([*evenly(other, 3), *evenly(known)], PaintCodec(), 0.5)
    for row, draw in enumerate(evenly(known)):
        assert torch.equal(variations([draw], PaintCodec(), 0.5)[0], many[3 + row])


def test_drawings_that_are_given_are_varied_in_place_of_what_latents_decode_to():
    known = material(block(RED, 6), block(BLUE, 10), block((0, 0.6, 0), 12))
    given = (drawings_of(known.latents, PaintCodec()) * 255).byte()
    faint = replace(known, latents=known.latents / 2 + 0.5, drawings=given)
    made, sharp = (variations(evenly(x), PaintCodec(), 0.5) for x in (faint, known))
    torch.testing.assert_close(made, sharp, atol=0.05, rtol=0)  # bytes are rounded
    assert not torch.allclose(variations(evenly(replace(faint, drawings=None)), PaintCodec(), 0.5), sharp, atol=0.1)
    mixed = variations([*evenly(faint, 3), *evenly(known, 3)], PaintCodec(), 0.5)
    assert torch.equal(mixed[:3], variations(evenly(faint, 3), PaintCodec(), 0.5))
    alone = Material(faint.latents[:1], torch.zeros(1), drawings=given[:1])
    torch.testing.assert_close(variations(evenly(alone, 1), PaintCodec(), 0.5), known.latents[:1], atol=0.02, rtol=0)


@pytest.mark.parametrize("caption", ["a cat and a ball", "a green cat"])
def test_what_is_composed_or_painted_is_refined_once(encoder, caption, monkeypatch):
    """Where a variation is, what it is made of is not; where the latents themselves are drawn from, they are."""
    steps: list[int] = []

    def refined(codec, x, count):
        steps.append(count)
        return PaintCodec.encode(codec, x)

    monkeypatch.setattr(PaintCodec, "refined", refined)
    pipe = make_pipeline(encoder)
    pipe(caption, 2, seed=0, novelty=0.5)
    assert steps == [0, REFINED]
    pipe(caption, 2, seed=1, novelty=0.5)
    assert steps == [0, REFINED, REFINED]
    pipe(caption, 2, seed=0, novelty=0.0)
    assert steps == [0, REFINED, REFINED, DRAWN_AGAIN]


def test_one_picture_has_no_variations_and_an_empty_one_makes_no_fault():
    alone = material(block(RED))
    other = Material(material(block(RED), block(BLUE)).latents, torch.tensor([0.0, -math.inf]))
    made = variations([*evenly(alone, 1), *evenly(other, 1)], PaintCodec(), 0.5)
    assert torch.equal(made, torch.cat([alone.latents] * 2))
    for empty in (material(block(RED), block(WHITE)), material(block(WHITE), block(WHITE))):
        assert variations(evenly(empty), PaintCodec(), 0.5).isfinite().all()


def test_an_image_of_a_variation_depends_on_its_seed_and_number_alone(encoder):
    pipe = make_pipeline(encoder)
    many = pipe(["a cat", "a ball"], 4, seed=3, novelty=0.5, output_type="latent")
    few = pipe("a ball", 2, seed=3, novelty=0.5, output_type="latent")
    assert torch.equal(many.images[4:6], few.images)
    assert not torch.equal(few.images, pipe("a ball", 2, seed=3, output_type="latent").images)
    own = [torch.Generator().manual_seed(n) for n in range(3)]
    first = pipe("a ball", 3, generator=own, novelty=0.5, output_type="latent").images
    own = [torch.Generator().manual_seed(n) for n in range(3)]
    assert torch.equal(first[:1], pipe("a ball", 1, generator=own[:1], novelty=0.5, output_type="latent").images)


def pipeline_of_cats(encoder, *pictures: Tensor) -> BridgePipeline:
    """A model that knows one caption, which they all show."""
    codes, numbers = encoder.encode(["a cat"], with_tokens=False).pooled, [[0] for _ in pictures]
    mapper = LocalFlowMapper.from_memory(material(*pictures).latents, codes, numbers, perplexity=8)
    memory = CaptionMemory(mapper.unit_codes, ["a cat"])
    return BridgePipeline(encoder, mapper, PaintCodec(), memory, Settings(num_inference_steps=6))


def test_as_many_variations_as_are_asked_for_are_different(encoder):
    pictures = [block((x, 0.5, 1 - x), size) for x, size in zip(np.linspace(0, 1, 8), range(4, 12), strict=True)]
    pipe = pipeline_of_cats(encoder, *pictures)
    images = pipe("a cat", 40, seed=0, novelty=0.5, output_type="latent").images.flatten(1)
    apart = torch.cdist(images, images) + 10 * torch.eye(40)
    assert float(apart.min()) > 0.1


def test_what_is_composed_is_varied_too(encoder):
    pipe = make_pipeline(encoder)
    [near], [far] = (pipe("a cat and a ball", 1, seed=0, novelty=n, output_type="pt").images for n in (0.0, 0.5))
    assert not torch.equal(near, far)
    note = "composed of 'a cat' and 'a ball': memory shows them one by one, not together"
    assert pipe("a cat and a ball", 1, seed=0, novelty=0.5).notes == [note]
    plain = pipe("a cat and a ball", 1, seed=0, novelty=0.5, compose=False, output_type="pt")
    assert not torch.equal(plain.images[0], far)


def test_a_memory_of_two_draws_variations(encoder):
    pipe = pipeline_of_cats(encoder, block(RED, 6), block(BLUE, 10))
    images = pipe("a cat", 4, seed=0, novelty=0.5, output_type="latent").images
    assert images.isfinite().all()
    known = pipe.mapper.picture_latents(torch.arange(2)).flatten(1)
    assert float(torch.cdist(images.flatten(1), known).amin()) > 0.1


def test_a_negative_caption_moves_variations_away(encoder):
    pipe = make_pipeline(encoder)
    away = pipe("a cat", 2, seed=0, novelty=0.5, negative_prompt="a ball", guidance_scale=2.0, output_type="latent")
    assert not torch.equal(away.images, pipe("a cat", 2, seed=0, novelty=0.5, output_type="latent").images)


def test_without_temperature_all_images_are_one_variation(encoder):
    pipe = make_pipeline(encoder)
    images = pipe("a cat", 3, seed=0, novelty=0.5, temperature=0, output_type="latent").images
    assert torch.equal(images[1:], images[:1].expand_as(images[1:]))
    assert not torch.equal(images[:1], pipe("a cat", 1, seed=0, temperature=0, output_type="latent").images)


def test_a_strange_captions_variations_are_each_of_one_known_caption(encoder, monkeypatch):
    drawn: list[Material] = []

    def noted(draws, *args):
        drawn.extend(m for m, _ in draws)
        return variations(draws, *args)

    monkeypatch.setattr(pipeline, "variations", noted)
    pipe = make_pipeline(encoder)
    pipe.settings = replace(pipe.settings, neighbour_temperature=0.5, familiar=0.9)
    known = [pipe.mapper.material_of(code).latents for code in pipe.mapper.unit_codes]
    pipe("xylophones of tomorrow", 8, seed=0, novelty=0.5, compose=False)
    which = [next(n for n, z in enumerate(known) if torch.equal(m.latents, z)) for m in drawn]
    assert len(set(which)) > 1
    pipe.settings, drawn[:] = replace(pipe.settings, familiar=-1.0), []
    pipe("xylophones of tomorrow", 8, seed=0, novelty=0.5, compose=False)
    assert all(torch.equal(m.latents, drawn[0].latents) for m in drawn)


def test_what_is_plain_to_see_stays_so():
    face = drawing((0.9, 0.7, 0.3), (0.1, 0.1, 0.1))
    face[:3, 10:13, 10:13] = torch.tensor((0.3, 0.5, 0.9)).view(3, 1, 1)  # an eye
    other = drawing((0.3, 0.5, 0.9), (0.1, 0.1, 0.1))  # as blue as the eye is, all over
    new = repainted(face, other)
    skin, eye = new[:3, 8, 20], new[:3, 11, 11]
    assert float((skin - eye).norm()) > 0.4


def test_what_would_be_cut_off_is_drawn_smaller():
    tall = drawing(RED, BLACK, rows=slice(1, 18))[None]
    wide = drawing(RED, BLACK, rows=slice(0, 18), left=0)[None]
    wide[:, :, :, 28:] = wide[:, :, :, 20:24]
    new = bent(tall, tall, wide, 1.0)
    assert float(new[:, 3, 0].mean()) < 0.1


def test_pictures_around_one_are_lent_to_by_those_that_show_the_same(encoder):
    pipe = make_pipeline(encoder)
    start = explore.End("own.png", "image", block((0.1, 0.2, 0.7), 9) * 2 - 1, explore.code_of(pipe, None))
    many, few = (explore.vary(pipe, start, n, shown="a ball", seed=2) for n in (5, 2))
    assert torch.equal(many[:2], few)
    assert not torch.equal(few, explore.vary(pipe, start, 2, shown="a ball", seed=3))
    assert torch.equal(explore.vary(pipe, start, 2, distance=0), start.z.expand(2, *start.z.shape))
    apart = [
        float((explore.vary(pipe, start, 4, shown="a ball", distance=d) - start.z).abs().mean()) for d in (0.1, 0.5, 1)
    ]
    assert 0 < apart[0] < apart[1] <= apart[2]
    for shown, blue in (("a ball", 1.0), ("a cat", 0.7)):  # the one that is red lends no colour
        made = explore.vary(pipe, start, 4, shown=shown)[:, 2, 8, 8] / 2 + 0.5
        torch.testing.assert_close(made, torch.full((4,), blue), atol=0.1, rtol=0)
    assert explore.vary(pipe, start, 3).isfinite().all()


def test_a_known_picture_is_lent_to_by_others(encoder):
    pipe = make_pipeline(encoder)
    known = pipe.mapper.material_of(pipe.code("a cat").pooled[0])
    start = explore.End("own.png", "image", known.latents[0], explore.code_of(pipe, None))
    assert not any(torch.equal(z, start.z) for z in explore.vary(pipe, start, 4, shown="a cat"))


def test_a_morph_goes_from_one_shape_and_colour_to_the_others():
    small, large = block(RED, 4) * 2 - 1, block(BLUE, 12) * 2 - 1
    made = morphed(small, large, [0.0, 0.25, 0.45, 0.55, 0.75, 1.0], PaintCodec()) / 2 + 0.5
    area = ((1 - made).amax(1) > 0.1).float().sum((1, 2)).tolist()
    assert area == sorted(area)
    assert area[0] < area[2] < 0.9 * area[5]
    assert area[0] < 0.9 * area[3] < area[5]
    ends = torch.stack([small, large]) / 2 + 0.5
    torch.testing.assert_close(made[[0, -1]], ends, atol=0.02, rtol=0)


def test_a_morph_is_the_same_backwards_and_however_many_are_asked_for():
    one, other = block(RED, 6) * 2 - 1, block(BLUE, 10) * 2 - 1
    shares = [0.125, 0.375, 0.5, 0.625, 0.875]
    there, back = morphed(one, other, shares, PaintCodec()), morphed(other, one, shares, PaintCodec())
    torch.testing.assert_close(there, back.flip(0), atol=1e-5, rtol=0)
    assert torch.equal(morphed(one, other, shares[1:2], PaintCodec()), there[1:2])
    assert morphed(one, other, [], PaintCodec()).shape == (0, *one.shape)


@pytest.mark.parametrize("codec", [PaintCodec(), OpaqueCodec()])
def test_a_morph_of_one_picture_or_of_nothing_is_itself(codec):
    for picture in (block(RED, 6), torch.ones(3, 16, 16)):
        z = picture * 2 - 1
        made = morphed(z, z, [0.25, 0.5, 0.75], codec)
        torch.testing.assert_close(made, z.expand(3, *z.shape), atol=0.02, rtol=0)


def test_only_around_the_middle_are_both_seen():
    """An empty picture beside one: what is seen of both is paler than either."""
    one, nothing = block(BLACK, 8) * 2 - 1, torch.ones(3, 16, 16)
    made = morphed(one, nothing, [0.2, 0.39, 0.5, 0.61, 0.8], PaintCodec())[:, 0, 8, 8] / 2 + 0.5
    torch.testing.assert_close(made, torch.tensor([0.1, 0.1, 0.55, 1.0, 1.0]), atol=0.02, rtol=0)
