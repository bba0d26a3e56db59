"""What one word in place of another changes, learnt from pairs in memory."""

import pytest
import torch
from torch import Tensor

from bridge import explore
from bridge.changes import LEAST, Change, change_pairs, learn_change
from bridge.codecs import VAECodec
from bridge.mappers import LocalFlowMapper
from bridge.memory import CaptionMemory
from bridge.pipeline import BridgePipeline, Settings
from tests.fixtures import make_tiny_vae
from tests.test_matching import normal

SHAPE = (4, 8, 8)
THINGS = [f"thing {letter}" for letter in "abcdefghijkl"]


def turned(z: Tensor) -> Tensor:
    """What "blue" in place of "red" does here: channels 0 and 1 change places where channel 2 is high."""
    high = torch.sigmoid(z[:, 2:3])
    return torch.cat([z[:, :2] + high * (z[:, :2].flip(1) - z[:, :2]), z[:, 2:]], 1)


def memory(things: int = len(THINGS), styles: tuple[str, str] = ("flat", "flat")) -> tuple[LocalFlowMapper, list[str]]:
    """Red things, then blue ones; the red ones first in one style and then in another."""
    captions = [f"{colour} {thing}" for colour in ("red", "blue") for thing in THINGS[:things]]
    red = normal(things, *SHAPE, seed=1).clamp(-3, 3)
    codes = torch.nn.functional.normalize(normal(2 * things, 384, seed=2), dim=1)
    kinds = [style for style in styles for _ in range(things)]
    mapper = LocalFlowMapper.from_memory(
        torch.cat([red, turned(red)]), codes, [[i] for i in range(2 * things)], styles=kinds
    )
    return mapper, captions


def test_a_change_is_learnt_and_holds_for_other_pictures():
    mapper, captions = memory()
    change = learn_change(mapper, captions, "red", "blue")
    assert change is not None
    assert len(change_pairs(mapper, captions, "red", "blue")) == len(THINGS)
    z = normal(5, *SHAPE, seed=3)
    assert torch.equal(change.apply(z, 0), z)
    left = (change.apply(z) - turned(z)).square().mean() / (turned(z) - z).square().mean()
    assert left < 0.2


def test_it_is_a_least_squares_map_of_the_neighbourhood():
    before = normal(300, 2, 5, 5, seed=4)
    after = before + torch.nn.functional.pad(before, (1, 1, 1, 1), mode="replicate")[:, :, :-2, 1:-1] * 0.5
    z = normal(2, 2, 5, 5, seed=5)
    exact = z + torch.nn.functional.pad(z, (1, 1, 1, 1), mode="replicate")[:, :, :-2, 1:-1] * 0.5
    assert (Change.fit(before, after).apply(z) - exact).abs().max() < 0.1


def test_pictures_are_paired_once_with_the_nearest_of_their_style():
    latents = torch.stack([torch.full(SHAPE, value) for value in (0.0, 1.0, 0.1, 0.0)])
    codes = torch.nn.functional.normalize(normal(2, 384, seed=2), dim=1)
    mapper = LocalFlowMapper.from_memory(
        latents, codes, [[0], [1], [1], [1]], styles=["flat", "flat", "flat", "outlined"]
    )
    assert change_pairs(mapper, ["red car", "blue car"], "red", "blue") == [(0, 2)]
    assert change_pairs(mapper, ["red car", "blue car"], "blue", "red") == [(1, 0), (2, 0)]


@pytest.mark.parametrize(("minus", "plus"), [("re", "blu"), ("", "blue"), ("red", "red"), ("(", "["), ("red", r"\1")])
def test_words_are_whole_and_no_patterns(minus, plus):
    mapper, captions = memory()
    assert learn_change(mapper, captions, minus, plus) is None


def test_too_few_pairs_teach_nothing():
    mapper, captions = memory(LEAST - 1)
    assert len(change_pairs(mapper, captions, "red", "blue")) == LEAST - 1
    assert learn_change(mapper, captions, "red", "blue") is None
    mapper, captions = memory(styles=("flat", "outlined"))
    assert learn_change(mapper, captions, "red", "blue") is None


def test_latents_without_a_grid_teach_nothing():
    codes = torch.nn.functional.normalize(normal(24, 384, seed=2), dim=1)
    mapper = LocalFlowMapper.from_memory(normal(24, 6, seed=1), codes, [[i] for i in range(24)])
    assert learn_change(mapper, memory()[1], "red", "blue") is None


def test_edit_makes_the_learnt_change(encoder):
    mapper, captions = memory()
    known = CaptionMemory(mapper.unit_codes, captions)
    pipe = BridgePipeline(encoder, mapper, VAECodec(make_tiny_vae()), known, Settings())
    start = explore.End("x.png", "image", normal(1, *SHAPE, seed=3)[0], explore.code_of(pipe, None))
    change = learn_change(mapper, captions, "red", "blue")
    assert change is not None
    edited = explore.edit(pipe, start, "blue", "red", scale=0.5)
    assert torch.equal(edited, change.apply(start.z[None], 0.5)[0])
    assert not torch.equal(explore.edit(pipe, start, "blue", None, samples=2), edited)
