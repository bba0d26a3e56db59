"""Captions of two things: how they are read, laid out, composed and drawn."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bridge import composition
from bridge.codecs import ImageCodec, LatentDistribution
from bridge.composition import (
    BESIDE,
    INTO,
    OVER,
    SMALL,
    UPON,
    WITHIN,
    compose,
    known_noun,
    lay_out,
    main_thing,
    on_white,
    parts_of,
    solid,
)
from bridge.errors import UserError
from bridge.mappers import LocalFlowMapper
from bridge.mappers.local import Material
from bridge.memory import CaptionMemory
from bridge.pipeline import BridgePipeline, Settings

SIDE = 16
COLOURS = {"a cat": (1, 0, 0), "a ball": (0, 0, 1), "a tree": (0, 1, 0)}


class PaintCodec(ImageCodec):
    """Latents are pixels; white is paper."""

    z_shape, image_size, fingerprint, draws_opacity = (3, SIDE, SIDE), SIDE, "paint", True

    def encode(self, x: Tensor) -> LatentDistribution:
        return LatentDistribution(x * 2 - 1, torch.full_like(x, 1e-3))

    def decode(self, z: Tensor) -> Tensor:
        return (z / 2 + 0.5).clamp(0, 1)

    def render(self, z: Tensor, size: int | None = None, transparent: bool = False) -> Tensor:
        x = self.decode(z)
        return torch.cat([x, (x.amin(1, keepdim=True) < 0.9).float()], 1) if transparent else x

    def save(self, folder: Path) -> None:
        raise NotImplementedError


class OpaqueCodec(PaintCodec):
    draws_opacity = False


def block(colour: tuple[int, int, int], size: int = 8) -> Tensor:
    """A square of one colour in the middle of white paper, (3, SIDE, SIDE)."""
    x, begin = torch.ones(3, SIDE, SIDE), (SIDE - size) // 2
    x[:, begin : begin + size, begin : begin + size] = torch.tensor(colour).view(3, 1, 1)
    return x


def drawing(colour: tuple[int, int, int]) -> Tensor:
    return PaintCodec().render(block(colour)[None] * 2 - 1, None, transparent=True)[0]


def make_pipeline(
    encoder, together: str = "", codec: ImageCodec | None = None, glyphs: tuple[str, ...] = ()
) -> BridgePipeline:
    """Two pictures each of a cat, a ball and a tree; two further ones where there is a caption of both."""
    captions = [*COLOURS, *([together] if together else [])]
    pictures = [block(COLOURS.get(caption, (0, 0, 0)), size) for caption in captions for size in (8, 10)]
    codes = encoder.encode(captions, with_tokens=False).pooled
    numbers = [[i] for i in range(len(captions)) for _ in range(2)]
    styles = ["glyph" if caption in glyphs else "flat" for caption in captions for _ in range(2)]
    mapper = LocalFlowMapper.from_memory(torch.stack(pictures) * 2 - 1, codes, numbers, perplexity=2, styles=styles)
    memory = CaptionMemory(mapper.unit_codes, captions)
    return BridgePipeline(encoder, mapper, codec or PaintCodec(), memory, Settings(num_inference_steps=6))


@pytest.fixture(scope="module")
def pipe(encoder) -> BridgePipeline:
    return make_pipeline(encoder)


def where(x: Tensor, colour: tuple[int, int, int]) -> tuple[float, float]:
    """Mean row and column, in [0, 1], of a picture's pixels (3, h, w) of about this colour."""
    near = (x - torch.tensor(colour).view(3, 1, 1)).abs().amax(0) < 0.3
    assert near.any()
    row, column = near.nonzero().float().add(0.5).div(x.shape[-1]).mean(0).tolist()
    return row, column


@pytest.mark.parametrize(
    ("caption", "glyphs"), [("a cat and a ball", ("a ball",)), ("a cat beside a ball", ("a cat with a ball",))]
)
def test_a_glyph_is_laid_beside_nothing_and_one_of_both_is_drawn_alone(encoder, caption, glyphs):
    pipe = make_pipeline(encoder, together="a cat with a ball", glyphs=glyphs)
    code = pipe.code(caption).pooled[0]

    def composed(style: str) -> bool:
        mapper = pipe.mapper.restricted(style=style)
        return compose(caption, code, mapper, lambda text: pipe.code(text).pooled[0], pipe.codec) is not None

    assert composed("not glyph") == ("a ball" not in glyphs)
    assert not composed("rather not glyph")


def test_a_style_that_is_rather_not_drawn_is_told(encoder):
    pipe = make_pipeline(encoder, glyphs=("a ball",))
    pipe.settings = replace(pipe.settings, style="rather not glyph")
    assert [note and "drawn as a glyph" in note for note in pipe(["a ball", "a tree"], 1, seed=0).notes] == [True, None]
    assert pipe("a ball", 1, seed=0, style="not glyph").notes == [None]


@pytest.mark.parametrize(
    ("caption", "parts"),
    [
        ("a castle on a hill", ("a castle", "a hill", UPON)),
        ("A Fox and an Owl.", ("A Fox", "an Owl", BESIDE)),
        ("a robot holding a flower", ("a robot", "a flower", SMALL)),
        ("a tent in front of the sea", ("a tent", "the sea", WITHIN)),
        ("a bridge over a river", ("a bridge", "a river", OVER)),
        ("a fish IN a bowl", ("a fish", "a bowl", INTO)),
        ("the cat on top of a box", ("the cat", "a box", UPON)),
        ("a cat in a red scarf", ("a cat", "a red scarf", SMALL)),
        ("a dog chasing a ball", ("a dog", "a ball", SMALL)),
        ("a knight fighting a dragon", ("a knight", "a dragon", BESIDE)),
    ],
)
def test_two_things_are_read(caption, parts):
    assert parts_of(caption) == parts


@pytest.mark.parametrize(
    "caption",
    [
        "a cat",
        "",
        "with a hat",
        "a hat with",
        "and",
        "a wizard with a beard",
        "sandy island",
        "candy",
        "the and a",
        "犬と猫",
    ],
)
def test_one_thing_is_not_taken_for_two(caption):
    assert parts_of(caption) is None


def test_a_hat_beside_something_is_a_thing():
    assert parts_of("a rabbit and a hat") is not None


def test_layouts_put_things_where_the_words_say():
    red, blue = drawing((1, 0, 0)), drawing((0, 0, 1))
    places = {
        layout: [where(on_white(lay_out(red, blue, layout)[None])[0], c) for c in ((1, 0, 0), (0, 0, 1))]
        for layout in (BESIDE, OVER, UPON)
    }
    (row, column), (other_row, other_column) = places[BESIDE]
    assert column < 0.5 < other_column
    assert row == pytest.approx(other_row, abs=0.1)
    for layout in (OVER, UPON):
        assert places[layout][0][0] < places[layout][1][0]


def test_what_is_in_front_hides_what_is_behind_inside_a_white_line():
    red, blue = drawing((1, 0, 0)), drawing((0, 0, 1))
    within = on_white(lay_out(red, blue, WITHIN)[None])[0]
    row, column = where(within, (1, 0, 0))
    assert within[:, int(row * SIDE), int(column * SIDE)].tolist() == pytest.approx([1, 0, 0], abs=0.05)
    large = [torch.nn.functional.interpolate(x[None], 96)[0] for x in (red, blue)]
    across = on_white(lay_out(*large, WITHIN)[None])[0, :, 80]  # a row of pixels through both
    colours = [tuple(c) for c in across.round().T.int().tolist()]
    order = [c for i, c in enumerate(colours) if i == 0 or c != colours[i - 1]]
    assert order == [(0, 0, 1), (1, 1, 1), (1, 0, 0), (1, 1, 1), (0, 0, 1)]


def test_nothing_drawn_leaves_the_other():
    empty = torch.zeros(4, SIDE, SIDE)
    alone = lay_out(empty, drawing((0, 0, 1)), BESIDE)
    assert 0.1 < float((alone[3] > 0.9).float().mean()) < 0.3
    assert not lay_out(empty, empty, BESIDE)[3].any()


def test_a_white_line_is_drawn_only_over_something():
    """So that a composition is as opaque as its two things."""
    red, blue = drawing((1, 0, 0)), drawing((0, 0, 1))
    apart, behind = (lay_out(red, blue, layout)[3] > 0.5 for layout in (BESIDE, WITHIN))
    each = [lay_out(x, y, BESIDE)[3] > 0.5 for x, y in ((red, torch.zeros_like(blue)), (torch.zeros_like(red), blue))]
    assert torch.equal(apart, each[0] | each[1])
    assert torch.equal(behind, lay_out(torch.zeros_like(red), blue, WITHIN)[3] > 0.5)


def test_holes_are_white_and_bays_are_not():
    ring = torch.zeros(1, 4, 9, 9)
    ring[:, 0, 2:7, 2:7] = 1
    ring[:, 3, 2:7, 2:7] = 1
    ring[:, :, 3:6, 3:6] = 0
    filled = solid(ring)
    assert filled[0, :, 4, 4].tolist() == [1, 1, 1, 1]
    assert torch.equal(filled[0, :, 2], ring[0, :, 2])
    assert not filled[0, 3, 0].any()
    ring[:, :, 4, :4] = 0  # a way in from the left
    assert torch.equal(solid(ring), ring)


def test_a_caption_of_two_things_shows_both(pipe):
    output = pipe("a cat and a ball", 3, seed=0, output_type="pt")
    for x in output.images:
        assert where(x, COLOURS["a cat"])[1] < 0.5 < where(x, COLOURS["a ball"])[1]
    assert output.notes == ["composed of 'a cat' and 'a ball': memory shows them one by one, not together"]


def test_without_composing_it_shows_one_of_them(pipe):
    output = pipe("a cat and a ball", 3, seed=0, compose=False, output_type="pt")
    assert "composed" not in str(output.notes)
    assert all(abs(where(x, c)[1] - 0.5) < 0.1 for x in output.images for c in COLOURS.values() if shows(x, c))


def shows(x: Tensor, colour: tuple[int, int, int]) -> bool:
    return bool(((x - torch.tensor(colour).view(3, 1, 1)).abs().amax(0) < 0.3).any())


def test_an_image_depends_on_neither_number_nor_company(pipe):
    many = pipe(["a tree", "a cat and a ball", "a ball on a tree"], 3, seed=5, output_type="pt").images
    assert torch.equal(pipe("a cat and a ball", 2, seed=5, output_type="pt").images, many[3:5])
    streamed = list(pipe.stream(["a cat", "a cat and a ball"], 1, seed=5))
    assert torch.equal(streamed[1].latent, pipe("a cat and a ball", 1, seed=5, output_type="latent").images[0])


def test_jobs_carry_what_was_composed_as_their_settings_ask(pipe):
    jobs = pipe.jobs(["a cat and a ball"], 2, seed=5)
    z = pipe.sample(jobs, pipe.settings)
    assert torch.equal(z, pipe("a cat and a ball", 2, seed=5, output_type="latent").images)
    [alone] = pipe.jobs(["a cat and a ball"], 1, seed=5, settings=Settings(compose=False))
    assert alone.material == ()


def test_a_negative_caption_is_the_same_whatever_company_it_has(pipe):
    asked = {"seed": 5, "guidance_scale": 2.0, "negative_prompt": "a cat and a ball", "output_type": "latent"}
    alone = pipe("a tree", 2, **asked).images
    assert torch.equal(pipe(["a tree", "a cat and a ball"], 2, **asked).images[:2], alone)
    assert not torch.equal(pipe("a tree", 2, **asked, compose=False).images, alone)


@pytest.mark.parametrize("caption", ["a cat", "a submarine and a ball", "a cat and a submarine"])
def test_what_memory_does_not_know_is_not_composed(pipe, caption):
    code = pipe.code(caption).pooled[0]
    assert compose(caption, code, pipe.mapper, lambda text: pipe.code(text).pooled[0], pipe.codec) is None


def test_what_the_encoder_cannot_read_is_not_composed(pipe):
    def encode(text: str) -> Tensor:
        raise UserError(f"caption: {text!r} has no word that is known")

    code = pipe.code("a cat and a ball").pooled[0]
    assert compose("a cat and a ball", code, pipe.mapper, encode, pipe.codec) is None


@pytest.mark.parametrize("together", ["a cat and a ball", "ball and cat"])
def test_what_memory_shows_together_is_not_composed(encoder, together):
    assert "composed" not in str(make_pipeline(encoder, together)("a cat and a ball", 1, seed=0).notes)


def test_things_that_are_near_to_each_other_are_two_things(encoder, monkeypatch):
    """A picture of a lion is not one of a tiger too, though their codes have a cosine of .69."""
    monkeypatch.setitem(COLOURS, "a lion", (1, 1, 0))
    monkeypatch.setitem(COLOURS, "a tiger", (0, 1, 1))
    assert "composed of 'a lion' and 'a tiger'" in str(make_pipeline(encoder)("a lion and a tiger", 1, seed=0).notes)


def test_a_codec_without_opacity_composes_nothing(encoder):
    pipe = make_pipeline(encoder, codec=OpaqueCodec())
    assert "composed" not in str(pipe("a cat and a ball", 1, seed=0).notes)


def test_things_of_one_style_are_laid_out_together(encoder, monkeypatch):
    captions = ["a cat", "a ball"]
    pictures = torch.stack([block(c) for c in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0))]) * 2 - 1
    codes = encoder.encode(captions, with_tokens=False).pooled
    mapper = LocalFlowMapper.from_memory(
        pictures, codes, [[0], [0], [1], [1]], perplexity=2, styles=["flat", "line", "flat", "line"]
    )

    def encode(text: str) -> Tensor:
        return encoder.encode([text], with_tokens=False).pooled[0]

    made = compose("a cat and a ball", encode("a cat and a ball"), mapper, encode, PaintCodec())
    assert made is not None
    pairs = {tuple(shows(x, c) for c in ((1, 0, 0), (0, 0, 1))) for x in PaintCodec().decode(made.latents)}
    assert pairs == {(True, True), (False, False)}
    monkeypatch.setattr(composition, "COMPOSITIONS", 3)
    made = compose("a cat and a ball", encode("a cat and a ball"), mapper, encode, PaintCodec())
    assert made is not None
    assert len(made.latents) == 3


def begun(pipe: BridgePipeline, caption: str, nearest: str) -> Material | None:
    """What a caption is drawn from whose code is nearest to a known one, at a cosine of .6."""
    code = near_to(pipe.code(nearest).pooled[0])
    return main_thing(caption, code, pipe.mapper, lambda text: pipe.code(text).pooled[0])


def near_to(known: Tensor) -> Tensor:
    """A code of cosine .6 with a known one."""
    other = torch.randn(len(known), generator=torch.Generator().manual_seed(0))
    other -= (other @ known) * known
    return 0.6 * known + 0.8 * other / other.norm()


@pytest.mark.parametrize(
    ("caption", "thing"),
    [
        ("a cat curled up asleep", "a cat"),
        ("a cat sliding through a door", "a cat sliding"),
        ("a cat that nobody knows", "a cat"),
        ("a jolly old cat at home", "cat"),
        ("a hungry cat", "cat"),
        ("Sleepy tiny cat!", "cat"),
    ],
)
def test_a_strange_caption_is_drawn_as_what_it_is_about(pipe, caption, thing):
    made = begun(pipe, caption, "a tree")
    assert made.note == f"drawn as {thing!r}: memory shows none as the rest of the caption says"
    assert made.log_weight.exp().sum().item() == pytest.approx(1)
    heaviest = PaintCodec().decode(made.latents[made.log_weight.argmax()][None])[0]
    assert shows(heaviest, COLOURS["a cat"]) and not shows(heaviest, COLOURS["a tree"])


@pytest.mark.parametrize(
    "caption", ["a cat", "the", "!", "asleep in a village", "a xylophone at home", "a cat: asleep at home"]
)
def test_what_is_about_nothing_known_is_drawn_as_a_whole(pipe, caption):
    assert begun(pipe, caption, "a tree") is None


def test_a_part_is_not_what_a_caption_is_about(pipe, monkeypatch):
    monkeypatch.setattr(composition, "ATTRIBUTES", {"cat"})  # as a face is of a cat
    assert begun(pipe, "a hungry cat", "a tree") is None


def test_as_much_of_a_thing_is_said_as_memory_knows(encoder):
    codes = encoder.encode(["cat", "old cat"], with_tokens=False).pooled
    mapper = LocalFlowMapper.from_memory(torch.stack([block((1, 0, 0)), block((0, 0, 1))]), codes, [[0], [1]])
    found = known_noun("a wise old cat", mapper, lambda text: encoder.encode([text]).pooled[0])
    assert found is not None and found[0] == "old cat"


def test_a_thing_that_only_avoided_kinds_show_is_not_drawn_for_a_strange_caption(encoder):
    codes = encoder.encode(["cat", "tree"], with_tokens=False).pooled
    pictures = torch.stack([block((1, 0, 0)), block((0, 0, 1))])
    mapper = LocalFlowMapper.from_memory(pictures, codes, [[0], [1]], styles=["glyph", "flat"])
    made = [
        main_thing("a hungry cat", near_to(codes[1]), view, lambda text: encoder.encode([text]).pooled[0])
        for view in (mapper, mapper.restricted(style="rather not glyph"))
    ]
    assert made[0] is not None and made[1] is None


def test_of_the_nearest_pictures_those_that_show_the_thing_are_drawn_from_where_most_do(pipe):
    made = begun(pipe, "a cat curled up asleep", "a cat")
    assert made.note is None
    assert made.log_weight.exp().sum().item() == pytest.approx(1)
    pictures = PaintCodec().decode(made.latents)
    assert len(pictures) == 2 and all(shows(picture, COLOURS["a cat"]) for picture in pictures)


def test_of_a_second_thing_as_much_is_composed_as_memory_knows(pipe):
    note = pipe("a cat with a ball behind a xylophone at home", 1, seed=0).notes[0]
    assert note == "composed of 'a cat' and 'a ball': memory shows them one by one, not together"


def test_a_strange_caption_is_composed_of_its_noun(pipe):
    note = pipe("a jolly old cat dressed as a tree catching a ball", 1, seed=0).notes[0]
    assert note == "composed of 'cat' and 'a ball': memory shows them one by one, not together"
