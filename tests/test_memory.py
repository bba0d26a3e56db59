"""The memory of known captions: what is near, how near, and a draw among the near."""

import pytest
import torch
from torch.nn import functional as F

from bridge.memory import CaptionMemory
from bridge.text import TextCode

NAMES = ["east", "north", "north-east", "west"]


def directions(*degrees: float) -> torch.Tensor:
    """Unit vectors in the plane, (B, 2)."""
    angles = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def code(pooled: torch.Tensor, length: int = 0) -> TextCode:
    shape = (len(pooled), length)
    return TextCode(pooled, torch.ones(*shape, pooled.shape[1]), torch.ones(shape, dtype=torch.bool))


def random_codes(n: int, dim: int = 16, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.fixture
def memory() -> CaptionMemory:
    return CaptionMemory(directions(0, 90, 45, 180), NAMES)


def test_nearest_are_sorted_by_cosine(memory):
    cosine, index = memory.nearest(directions(40, 170), k=3)
    assert [[memory.captions[i] for i in row] for row in index] == [
        ["north-east", "east", "north"],
        ["west", "north", "north-east"],
    ]
    expected = torch.deg2rad(torch.tensor([[5.0, 40, 50], [10, 80, 125]])).cos()
    torch.testing.assert_close(cosine, expected, atol=1e-3, rtol=0)


def test_of_equally_near_captions_the_earlier_comes_first():
    same = CaptionMemory(directions(30, 30, 30), ["a", "b", "c"])
    assert same.nearest(directions(0), k=3)[1].tolist() == [[0, 1, 2]]


def test_familiarity_is_the_nearest_cosine(memory):
    pooled = directions(0, 10, -60)
    torch.testing.assert_close(memory.familiarity(pooled), memory.nearest(pooled, 1)[0][:, 0])


def test_a_known_caption_is_familiar(memory):
    torch.testing.assert_close(memory.familiarity(memory.codes), torch.ones(4))


def test_a_row_depends_on_no_other():
    memory, pooled = CaptionMemory(random_codes(300), ["x"] * 300), random_codes(33, seed=1)
    together = memory.nearest(pooled, 5)
    alone = memory.nearest(pooled[7:8], 5)
    assert torch.equal(together[0][7], alone[0][0])
    assert torch.equal(together[1][7], alone[1][0])


def test_no_rows_give_no_answers(memory):
    assert memory.nearest(torch.empty(0, 2), 2)[0].shape == (0, 2)
    assert memory.familiarity(torch.empty(0, 2)).shape == (0,)


def test_familiar_captions_are_left_alone(memory):
    c = code(directions(2, 88), length=3)
    soft = memory.soften(c, torch.tensor([0.5, 0.5]), 0.05, threshold=0.9)
    assert torch.equal(soft.pooled, c.pooled)
    assert torch.equal(soft.tokens, c.tokens)
    assert torch.equal(soft.mask, c.mask)


def test_an_unfamiliar_caption_gets_a_known_code(memory):
    soft = memory.soften(code(directions(20)), torch.tensor([0.0]), 0.05, threshold=0.99)
    assert torch.equal(soft.pooled[0], memory.codes[0])


def test_an_unfamiliar_caption_loses_its_tokens(memory):
    soft = memory.soften(code(directions(0, 20), length=3), torch.zeros(2), 0.05, threshold=0.99)
    assert soft.mask.any(1).tolist() == [True, False]
    assert soft.tokens.any(-1).any(-1).tolist() == [True, False]


def test_null_codes_stay_null(memory):
    soft = memory.soften(TextCode.null(2, 2), torch.zeros(2), 0.05, threshold=0.99)
    assert not soft.pooled.any()


def test_known_codes_are_drawn_as_often_as_their_softmax_says(memory):
    u = (torch.arange(10_000) + 0.5) / 10_000
    soft = memory.soften(code(directions(60).expand(10_000, 2)), u, 0.3, threshold=2)
    drawn = torch.stack([(soft.pooled == known).all(1).double().mean() for known in memory.codes])
    expected = torch.softmax((directions(60) @ memory.codes.T)[0].double() / 0.3, dim=0)
    torch.testing.assert_close(drawn, expected, atol=2e-4, rtol=0)


def test_a_low_temperature_draws_the_nearest(memory):
    u = torch.tensor([0.0, 0.5, 0.999])
    soft = memory.soften(code(directions(60).expand(3, 2)), u, 1e-3, threshold=2)
    assert torch.equal(soft.pooled, memory.codes[2].expand(3, 2))


def test_the_largest_u_draws_a_known_code(memory):
    last = torch.nextafter(torch.tensor([1.0]), torch.tensor([0.0]))
    soft = memory.soften(code(directions(60)), last, 100.0, threshold=2)
    assert torch.equal(soft.pooled[0], memory.codes[3])


def test_only_the_nearest_64_are_drawn():
    memory = CaptionMemory(random_codes(200), [str(i) for i in range(200)])
    pooled = random_codes(1, seed=1)
    near = memory.codes[memory.nearest(pooled, 64)[1][0]]
    soft = memory.soften(code(pooled.expand(2000, 16)), torch.linspace(0, 0.9999, 2000), 1e6, threshold=2)
    drawn = torch.unique(soft.pooled, dim=0)
    assert torch.equal(drawn, torch.unique(near, dim=0))


def test_arguments_are_not_changed(memory):
    c = code(directions(20), length=2)
    memory.soften(c, torch.zeros(1), 0.05, threshold=2)
    assert torch.equal(c.pooled, directions(20))
    assert c.mask.all()


def test_a_loaded_memory_answers_as_the_saved_one(tmp_path):
    memory = CaptionMemory(random_codes(50), [f"“{i}” 😀" for i in range(50)])
    memory.save(tmp_path / "captions")
    loaded = CaptionMemory.load(tmp_path / "captions")
    assert loaded.captions == memory.captions
    assert torch.equal(loaded.codes, memory.codes)


def test_saving_again_writes_the_same_bytes(tmp_path):
    CaptionMemory(random_codes(50), ["x"] * 50).save(tmp_path / "a")
    CaptionMemory.load(tmp_path / "a").save(tmp_path / "b")
    for name in ("memory.safetensors", "captions.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("codes", [random_codes(3), random_codes(4)[0], torch.empty(0, 16)])
def test_other_counts_than_captions_are_refused(codes):
    with pytest.raises(ValueError, match="codes: expected"):
        CaptionMemory(codes, NAMES)


@pytest.mark.parametrize("value", [0.0, 2.0, float("nan")])
def test_codes_without_unit_norm_are_refused(value):
    with pytest.raises(ValueError, match="unit norm"):
        CaptionMemory(torch.full((4, 16), value), NAMES)


@pytest.mark.parametrize("k", [0, 5])
def test_more_neighbours_than_captions_are_refused(memory, k):
    with pytest.raises(ValueError, match="k: expected 1 to 4"):
        memory.nearest(directions(0), k)


def test_codes_of_another_encoder_are_refused(memory):
    with pytest.raises(ValueError, match=r"pooled: expected \(B, 2\), got \(1, 16\)"):
        memory.familiarity(random_codes(1))


@pytest.mark.parametrize("u", [torch.tensor([1.0]), torch.tensor([-0.1]), torch.zeros(2), torch.tensor([float("nan")])])
def test_u_outside_its_range_is_refused(memory, u):
    with pytest.raises(ValueError, match="u: expected"):
        memory.soften(code(directions(0)), u, 0.05, threshold=2)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(memory, temperature):
    with pytest.raises(ValueError, match="temperature: expected"):
        memory.soften(code(directions(0)), torch.zeros(1), temperature, threshold=2)
