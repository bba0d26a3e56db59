"""Things in a colour that memory does not know them in: how captions are read, drawings painted, and pictures drawn."""

import numpy as np
import pytest
import torch
from PIL import Image

from bridge import composition, explore
from bridge.colours import WORDS, from_oklab, oklab, painted
from bridge.composition import colour_and_thing, coloured
from bridge.errors import UserError
from bridge.mappers import LocalFlowMapper
from bridge.memory import CaptionMemory
from bridge.pipeline import BridgePipeline, Settings
from tests.test_composition import OpaqueCodec, PaintCodec, block, make_pipeline, where
from train.recipes.drawing import colour_word

SIDE = 64


def drawing(*bands: tuple[float, float, float]) -> np.ndarray:
    """Bands of colour from left to right on nothing, RGBA."""
    pixels = np.zeros((SIDE, SIDE, 4))
    for number, columns in enumerate(np.array_split(np.arange(8, SIDE - 8), len(bands))):
        pixels[8:-8, columns, :3], pixels[8:-8, columns, 3] = bands[number], 1
    return pixels


def word_of(pixels: np.ndarray) -> str | None:
    return colour_word(Image.fromarray((pixels * 255).round().astype(np.uint8)))


def test_oklab_is_what_was_published_and_comes_back():
    rgb = np.random.default_rng(0).random((50, 3))
    np.testing.assert_allclose(from_oklab(oklab(rgb)), rgb, atol=1e-6)
    known = {(1, 1, 1): (1, 0, 0), (1, 0, 0): (0.628, 0.2249, 0.1258), (0, 0, 1): (0.452, -0.0325, -0.3115)}
    np.testing.assert_allclose(oklab(np.array([*known], dtype=float)), [*known.values()], atol=1e-3)
    assert from_oklab(np.array([0.9, 0.4, 0.4])).max() == pytest.approx(1)


@pytest.mark.parametrize("target", WORDS)
@pytest.mark.parametrize(
    "own", [(0.9, 0.2, 0.1), (0.2, 0.4, 0.9), (0.05, 0.05, 0.05), (1.0, 1.0, 1.0), (0.6, 0.6, 0.6)]
)
def test_a_painted_drawing_is_seen_in_its_new_colour(own, target):
    assert word_of(painted(drawing(own), target)) == target


def test_what_has_another_colour_stays_and_so_do_shades():
    pixels = drawing((0.9, 0.2, 0.1), (0.7, 0.1, 0.05), (0.6, 0.15, 0.1), (0.1, 0.3, 0.9))
    green = painted(pixels, "green")
    assert np.array_equal(green[:, 45:], pixels[:, 45:])
    assert np.array_equal(green[..., 3], pixels[..., 3])
    light, dark = green[32, 10, :3], green[32, 25, :3]
    assert light.argmax() == dark.argmax() == 1
    assert light.max() > dark.max() + 0.05


def test_what_has_the_target_already_is_not_what_is_painted():
    blue, orange = (0.2, 0.4, 0.9), (0.95, 0.55, 0.1)
    bus = drawing(blue, blue, blue, orange, orange, (0.6, 0.6, 0.6), (0.6, 0.6, 0.6))
    painted_blue = painted(bus, "blue")
    assert np.array_equal(painted_blue[:, :28], bus[:, :28])
    assert painted_blue[32, 35, :3].argmax() == 2
    assert np.array_equal(painted_blue[:, 43:], bus[:, 43:])
    mostly = drawing(blue, blue, blue, blue, orange)
    assert np.array_equal(painted(mostly, "blue")[:, 50:], mostly[:, 50:])


def test_only_what_has_the_source_is_painted():
    pixels = drawing((0.9, 0.2, 0.1), (0.1, 0.3, 0.9), (0.1, 0.3, 0.9))
    yellow = painted(pixels, "yellow", "red")
    assert np.array_equal(yellow[:, 30:], pixels[:, 30:])
    assert word_of(yellow[:, :25]) == "yellow"
    assert painted(pixels, "yellow", "green") is pixels


@pytest.mark.parametrize("target", WORDS)
@pytest.mark.parametrize("source", ["red", "blue", "black", "grey"])
def test_one_colour_becomes_another(source, target):
    own = {"red": (0.9, 0.15, 0.1), "blue": (0.2, 0.4, 0.9), "black": (0.05, 0.05, 0.05), "grey": (0.6, 0.6, 0.6)}
    assert word_of(painted(drawing(own[source]), target, source)) == target


def test_a_light_shade_becomes_a_light_shade():
    light = painted(drawing((0.75, 0.85, 1.0), (0.1, 0.3, 0.9)), "green", "blue")[32, 15, :3]
    assert light.min() > 0.6
    assert light.argmax() == 1


def test_white_is_seen_on_white():
    white = painted(drawing((0.8, 0.5, 0.2)), "white")
    assert white[32, 32, :3].min() > 0.85
    assert white[8, 32, :3].max() < 0.7


def test_nothing_drawn_stays_nothing():
    nothing = np.zeros((SIDE, SIDE, 4))
    assert np.array_equal(painted(nothing, "red"), nothing)


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("a white dog", ("white", "dog")),
        ("The Purple hot-air balloon!", ("purple", "hot-air balloon")),
        ("grey cat", ("grey", "cat")),
        ("a white", None),
        ("a dog that is white", None),
        ("a big white dog", None),
        ("...", None),
    ],
)
def test_a_colour_comes_first(caption, found):
    assert colour_and_thing(caption) == found


@pytest.fixture(scope="module")
def pipe(encoder) -> BridgePipeline:
    """Red cats, blue balls and green trees."""
    return make_pipeline(encoder)


def made(pipe: BridgePipeline, caption: str, codec=None):
    return coloured(
        caption, pipe.code(caption).pooled[0], pipe.mapper, lambda text: pipe.code(text).pooled[0], codec or pipe.codec
    )


def share_of(x: torch.Tensor, channel: int) -> float:
    """Share of the pixels where a channel is well above the others."""
    others = [c for c in range(3) if c != channel]
    return float((x[..., channel, :, :] > x[..., others, :, :].amax(-3) + 0.3).float().mean())


def test_a_thing_of_another_colour_is_painted(pipe):
    assert pipe.mapper.familiarity(pipe.code("a green cat").pooled[0]) < 0.85
    found = made(pipe, "a green cat")
    assert found.note == "drawn from pictures of 'cat' painted green: memory shows none of that colour"
    x = PaintCodec().decode(found.latents)
    assert share_of(x, 1) > 0.1
    assert share_of(x, 0) == 0
    assert float(found.log_weight.exp().sum()) == pytest.approx(1)


def test_pictures_of_a_call_are_of_that_colour_and_say_so(pipe):
    out = pipe("a green cat", 3, seed=0, output_type="pt")
    assert out.notes == ["drawn from pictures of 'cat' painted green: memory shows none of that colour"]
    assert share_of(out.images, 1) > 0.1
    assert share_of(out.images, 0) == 0
    assert share_of(pipe("a green cat", 3, seed=0, output_type="pt", compose=False).images, 1) < share_of(out.images, 1)


def test_painted_pictures_depend_on_no_other_caption(pipe):
    alone = pipe("a green cat", 2, seed=1, output_type="latent").images
    beside = pipe(["a tree", "a green cat"], 2, seed=1, output_type="latent").images
    assert torch.equal(alone, beside[2:])


def test_what_more_than_a_few_pictures_show_is_not_painted(encoder, monkeypatch):
    assert made(make_pipeline(encoder, "a green cat"), "a green cat") is not None
    monkeypatch.setattr(composition, "FEW", 0)
    assert made(make_pipeline(encoder, "a green cat"), "a green cat") is None


def test_of_what_is_known_in_this_colour_those_that_have_it_are_drawn(encoder):
    """Four of five pictures of "a green cat" are green, one of two of "a red cat" red, that of "a blue cat" yellow.

    One is few, so that the other is painted red.
    """
    greens = [(0, 0.6, 0), (0, 0.6, 0), (1, 0, 0), (0, 0.5, 0), (0, 0.6, 0)]
    colours = [*greens, (1, 0, 0), (0, 0, 1), (1, 1, 0)]
    latents = torch.stack([block(colour) for colour in colours]) * 2 - 1
    captions = ["a green cat", "a red cat", "a blue cat"]
    codes = encoder.encode(captions, with_tokens=False).pooled
    mapper = LocalFlowMapper.from_memory(latents, codes, [[0]] * 5 + [[1]] * 2 + [[2]], perplexity=2)
    memory = CaptionMemory(mapper.unit_codes, captions)
    pipe = BridgePipeline(encoder, mapper, PaintCodec(), memory, Settings(num_inference_steps=6))
    found = made(pipe, "a green cat")
    assert found.note is None
    assert len(found.latents) == 4
    assert share_of(PaintCodec().decode(found.latents), 0) == 0
    assert made(pipe, "a blue cat") is None
    out = pipe(["a green cat", "a red cat"], 4, seed=0, output_type="pt")
    assert share_of(out.images[:4], 0) == share_of(out.images[4:], 1) == share_of(out.images[4:], 2) == 0
    assert out.notes == [None, "drawn from pictures of 'cat' painted red: memory shows few of that colour"]
    assert len(made(pipe, "a red cat").latents) == 2


@pytest.mark.parametrize(("also_a_cat", "shows_a_cat"), [(True, True), (False, True), (False, False)])
def test_where_few_pictures_have_the_colour_others_of_the_thing_are_painted(
    encoder, also_a_cat, shows_a_cat, monkeypatch
):
    """Three red cats and what is known as a green cat, and as a cat or not; a caption's cosine tells if it is one."""
    monkeypatch.setattr(composition, "SHOWN", 0.6 if shows_a_cat else 0.99)
    shade = (0.1, 0.7, 0.2)
    latents = torch.stack([block(colour) for colour in [(1, 0, 0)] * 3 + [shade]]) * 2 - 1
    captions = ["cat", "a green cat"]
    codes = encoder.encode(captions, with_tokens=False).pooled
    mapper = LocalFlowMapper.from_memory(latents, codes, [[0]] * 3 + [[0, 1] if also_a_cat else [1]], perplexity=4)
    memory = CaptionMemory(mapper.unit_codes, captions)
    pipe = BridgePipeline(encoder, mapper, PaintCodec(), memory, Settings(num_inference_steps=6))
    found = made(pipe, "a green cat")
    if not shows_a_cat:
        assert found.note.startswith("shown by one picture")
        assert len(found.latents) == 1
        return
    assert found.note == "drawn from pictures of 'cat' painted green: memory shows few of that colour"
    x = PaintCodec().decode(found.latents)
    assert len(x) == 4
    assert share_of(x, 0) == 0
    as_it_is = (x - block(shade)).abs().amax((1, 2, 3)) < 0.02
    assert as_it_is.sum() == 1


@pytest.mark.parametrize("caption", ["a cat", "a green submarine", "green"])
def test_other_captions_are_not_painted(pipe, caption):
    assert made(pipe, caption) is None


def test_a_codec_without_transparency_paints_nothing(pipe):
    assert made(pipe, "a green cat", OpaqueCodec()) is None


def edited(pipe: BridgePipeline, plus: str, minus: str | None = None, scale: float = 1.0) -> torch.Tensor:
    """An edit of a red square on paper, as a picture."""
    start = explore.End("red.png", "image", block((1, 0, 0)) * 2 - 1, explore.code_of(pipe, None))
    return pipe.codec.decode(explore.edit(pipe, start, plus, minus, scale=scale, samples=2)[None])[0]


@pytest.mark.parametrize("minus", [None, "red"])
def test_a_picture_is_edited_by_painting_it(encoder, minus):
    blue = edited(make_pipeline(encoder), " Blue", minus)
    assert blue[:, 8, 8].argmax() == 2
    assert torch.equal(blue[:, 0, 0], torch.ones(3))
    assert where(blue, tuple(blue[:, 8, 8].tolist())) == (0.5, 0.5)


def test_half_of_an_edit_is_between_the_colours(encoder):
    pipe = make_pipeline(encoder)
    none, half, whole = (edited(pipe, "blue", scale=scale) for scale in (0, 0.5, 1))
    assert torch.equal(none, block((1, 0, 0)))
    torch.testing.assert_close(half, (none + whole) / 2)


def test_a_colour_that_a_picture_lacks_cannot_be_replaced(encoder):
    with pytest.raises(UserError, match=r"^minus: nothing in the picture is green; leave it out to paint"):
        edited(make_pipeline(encoder), "blue", "green")


def test_pictures_of_a_codec_without_layers_are_not_painted(encoder):
    pipe = make_pipeline(encoder, codec=OpaqueCodec())
    assert not torch.equal(edited(pipe, "blue"), edited(make_pipeline(encoder), "blue"))
