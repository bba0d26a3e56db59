"""Walks in latents and in noise: ends, speed, the awkward cases; and what a caption is in latent space."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from bridge import BridgePipeline, explore
from bridge.errors import UserError
from bridge.images import read_image, to_tensor
from bridge.mappers import Mapper, VelocityMapper
from bridge.noise import normal_rows
from bridge.text import TextCode, TextEncoder
from bridge.variation import morphed
from tests.test_composition import make_pipeline

ARTWORK = Path(__file__).parent / "artwork"
CAT, BUS = sorted(ARTWORK.glob("cat--*.png"))[0], sorted(ARTWORK.glob("bus--*.png"))[0]


def rows(*numbers: int) -> Tensor:
    return normal_rows([(n,) for n in numbers], (4, 8, 8))


class Sampler(Mapper):
    """A family that samples and does nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.z_shape, self.text_dim, self.sample_noise_shape, self.loss_noise_shape = (4, 8, 8), 384, (4, 8, 8), (0,)

    def loss(self, z: Tensor, c: TextCode, *, noise: Tensor) -> Tensor:
        return z.flatten(1).sum(1)

    def sample(self, c: TextCode, *, noise: Tensor, temperature: float = 1.0) -> Tensor:
        return noise * temperature + c.pooled.sum(1).view(-1, 1, 1, 1)


class Drift(VelocityMapper):
    """A gentle velocity, whose Euler steps fold nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.z_shape, self.text_dim, self.sample_noise_shape, self.loss_noise_shape = (4, 8, 8), 384, (4, 8, 8), (0,)

    def velocity(self, z_t: Tensor, t: Tensor, c: TextCode) -> Tensor:
        return z_t.tanh() + 10 * c.pooled[:, :256].view_as(z_t) * z_t.cos()

    def loss(self, z: Tensor, c: TextCode, *, noise: Tensor) -> Tensor:
        return z.flatten(1).sum(1)


@pytest.mark.parametrize("kind", explore.KINDS)
def test_walk_has_exactly_its_ends(kind: str) -> None:
    a, b = rows(0, 1)
    points = explore.walk(a, b, 5, kind)
    assert torch.equal(points[0], a)
    assert torch.equal(points[-1], b)


def test_straight_walk_has_equal_steps() -> None:
    steps = explore.walk(*rows(0, 1), 6).diff(dim=0)
    assert torch.allclose(steps, steps[0].expand_as(steps), atol=1e-6)


def test_great_circle_keeps_the_length_and_turns_at_constant_speed() -> None:
    a, b = rows(0, 1)
    points = explore.walk(a / a.norm() * 16, b / b.norm() * 16, 7, "spherical").flatten(1)
    assert torch.allclose(points.norm(dim=1), torch.full((7,), 16.0), atol=1e-4)
    turns = torch.cosine_similarity(points[1:], points[:-1])
    assert torch.allclose(turns, turns[0].expand(6), atol=1e-5)


def test_great_circle_between_lengths_goes_from_one_to_the_other() -> None:
    a, b = rows(0, 1)
    assert float(explore.slerp(a / a.norm(), 3 * b / b.norm(), 0.5).norm()) == pytest.approx(2, abs=1e-5)


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_great_circle_between_one_direction_is_straight(factor: float) -> None:
    a = rows(0)[0]
    assert torch.allclose(explore.slerp(a, factor * a, 0.25), explore.lerp(a, factor * a, 0.25), atol=1e-5)


def test_great_circle_between_opposites_stays_on_the_sphere_and_arrives() -> None:
    a = rows(0)[0]
    middle = explore.slerp(a, -a, 0.5)
    assert float(middle.norm()) == pytest.approx(float(a.norm()), rel=1e-5)
    assert abs(float((middle * a).sum())) < 1e-3
    assert torch.allclose(explore.slerp(a, -a, 1.0), -a, atol=1e-5)


def test_from_the_origin_the_way_is_straight() -> None:
    a = rows(0)[0]
    assert torch.equal(explore.slerp(torch.zeros_like(a), a, 0.25), explore.lerp(torch.zeros_like(a), a, 0.25))


@pytest.mark.parametrize("steps", [1, 0, -3, 1001, 2.5, True])
def test_steps_out_of_range_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="steps: expected a whole number from 2"):
        explore.walk(*rows(0, 1), steps)


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind: expected one of linear, spherical"):
        explore.walk(*rows(0, 1), 3, "round")


def test_unlike_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one shape"):
        explore.lerp(torch.zeros(1, 3), torch.zeros(3), 0.5)


def test_arithmetic_there_and_back_is_where_it_began() -> None:
    z, plus, minus = rows(0, 1, 2)
    there = explore.arithmetic(z, plus, minus, 0.7)
    assert not torch.allclose(there, z)
    assert torch.allclose(explore.arithmetic(there, minus, plus, 0.7), z, atol=1e-6)


def test_file_is_a_picture_and_anything_else_a_caption(tmp_path: Path) -> None:
    assert explore.is_image(str(CAT))
    assert not explore.is_image("a cat")
    assert not explore.is_image("x" * 5000)
    with pytest.raises(ValueError, match="no such file"):
        explore.is_image(str(tmp_path / "cat.PNG"))
    with pytest.raises(UserError, match=r"is a folder; name a picture in it$"):
        explore.is_image(str(tmp_path))
    with pytest.raises(UserError, match=r"^'https://x.org/cat.png' is an address; download the picture"):
        explore.is_image("https://x.org/cat.png")


def test_end_of_a_picture_is_the_codecs_latent(tiny_pipeline: BridgePipeline) -> None:
    end = explore.open_end(tiny_pipeline, str(CAT))
    x = to_tensor([read_image(CAT, size=64)])
    assert end.kind == "image"
    assert torch.equal(end.z, tiny_pipeline.codec.refined(x).mean[0])
    assert not end.code.pooled.any()


def test_end_of_a_caption_is_the_picture_that_generate_makes(tiny_pipeline: BridgePipeline) -> None:
    end = explore.open_end(tiny_pipeline, "cat", seed=3)
    assert end.kind == "caption"
    assert torch.equal(end.z, tiny_pipeline("cat", 2, seed=3, output_type="latent").images[0])


@pytest.mark.parametrize("names", [(str(CAT), str(BUS)), ("cat", "bus"), (str(CAT), "bus")])
def test_walk_in_noise_comes_back_to_both_ends(tiny_pipeline: BridgePipeline, names: tuple[str, str]) -> None:
    tiny_pipeline.mapper = Drift()
    a, b = (explore.open_end(tiny_pipeline, name) for name in names)
    z = explore.between(tiny_pipeline, a, b, 3, space="noise", kind="spherical")
    assert torch.equal(z[[0, -1]], torch.stack([a.z, b.z]))
    assert not torch.allclose(z[1], explore.between(tiny_pipeline, a, b, 3)[1], atol=1e-2)


@pytest.mark.parametrize(
    "name",
    ["x.heic", "x.HEIC", "my cat.jfif", "x.svg", "x.psd", "photos/x.JPG", "./cat", "../cat", "/home/me/cat", "~/cat",
     r"C:\\pictures\\cat", "x.txt"],
)  # fmt: skip
def test_a_mistyped_file_is_no_caption(name: str) -> None:
    with pytest.raises(UserError, match="there is no such file; check the path"):
        explore.is_image(name)


@pytest.mark.parametrize(
    "name", ["a cat", "a cat / dog", "node.js", "Mr. T", "~ tilde", "/ slash", "1.5", "cat.", ".5"]
)
def test_captions_with_dots_and_slashes_are_captions(name: str) -> None:
    assert not explore.is_image(name)


def test_walk_in_noise_needs_a_family_that_inverts(tiny_pipeline: BridgePipeline) -> None:
    a, b = (explore.open_end(tiny_pipeline, name) for name in ("cat", "bus"))
    tiny_pipeline.mapper = Sampler()
    with pytest.raises(ValueError, match="Sampler finds no noise behind a latent; use space latent"):
        explore.between(tiny_pipeline, a, b, 3, space="noise")


def test_unknown_space_is_refused(tiny_pipeline: BridgePipeline) -> None:
    end = explore.open_end(tiny_pipeline, "cat")
    with pytest.raises(ValueError, match="space: expected one of latent, noise"):
        explore.between(tiny_pipeline, end, end, 3, space="pixels")


def test_a_morph_is_the_way_of_codecs_that_draw_on_paper(encoder: TextEncoder, tiny_pipeline: BridgePipeline) -> None:
    pipe = make_pipeline(encoder)
    a, b = (explore.caption_end(pipe, name) for name in ("a cat", "a ball"))
    z = explore.between(pipe, a, b, 5)
    assert torch.equal(z[[0, -1]], torch.stack([a.z, b.z]))
    assert torch.equal(z[1:-1], morphed(a.z, b.z, [0.25, 0.5, 0.75], pipe.codec))
    assert torch.equal(explore.between(pipe, a, b, 2), torch.stack([a.z, b.z]))
    assert torch.equal(explore.between(pipe, a, b, 5, kind="linear"), explore.walk(a.z, b.z, 5))
    a, b = (explore.caption_end(tiny_pipeline, name) for name in ("cat", "bus"))
    assert torch.equal(explore.between(tiny_pipeline, a, b, 5), explore.walk(a.z, b.z, 5))
    assert not torch.equal(explore.between(tiny_pipeline, a, b, 5, kind="morph")[2], explore.walk(a.z, b.z, 5)[2])
    with pytest.raises(UserError, match=r"^kind: expected one of linear, spherical, got 'morph'"):
        explore.between(tiny_pipeline, a, b, 3, space="noise", kind="morph")
    with pytest.raises(UserError, match=r"^kind: expected one of linear, spherical, morph, got 'round'"):
        explore.between(tiny_pipeline, a, b, 3, kind="round")


def test_mean_of_a_caption_is_that_of_its_pictures(tiny_pipeline: BridgePipeline) -> None:
    mean = explore.caption_mean(tiny_pipeline, "cat", samples=5, seed=2)
    assert torch.equal(mean, tiny_pipeline("cat", 5, seed=2, output_type="latent").images.mean(0))


def test_mean_of_no_caption_shares_the_noise_of_captions(tiny_pipeline: BridgePipeline) -> None:
    null = TextCode.null(5, 384)
    noise = normal_rows([(2, i) for i in range(5)], (4, 8, 8))
    z = tiny_pipeline.mapper.sample(null, noise=noise, num_inference_steps=4)
    assert torch.equal(explore.caption_mean(tiny_pipeline, None, samples=5, seed=2), z.mean(0))


@pytest.mark.parametrize("samples", [0, 10_001, 1.5])
def test_samples_out_of_range_are_refused(tiny_pipeline: BridgePipeline, samples: int) -> None:
    with pytest.raises(ValueError, match="samples: expected"):
        explore.caption_mean(tiny_pipeline, "cat", samples=samples)


def test_a_seed_that_is_no_whole_number_is_refused(tiny_pipeline: BridgePipeline) -> None:
    start = explore.caption_end(tiny_pipeline, "cat", seed=1)
    with pytest.raises(UserError, match=r"^seed: expected a whole number, got 0.5"):
        explore.caption_end(tiny_pipeline, "cat", seed=0.5)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"^seed: expected a whole number, got 0.5"):
        explore.vary(tiny_pipeline, start, 2, seed=0.5)  # type: ignore[arg-type]


def test_edit_by_a_caption_less_itself_changes_nothing(tiny_pipeline: BridgePipeline) -> None:
    start = explore.open_end(tiny_pipeline, str(CAT))
    assert torch.equal(explore.edit(tiny_pipeline, start, "bus", "bus", samples=2), start.z)
    assert not torch.allclose(explore.edit(tiny_pipeline, start, "bus", None, samples=2), start.z, atol=1e-2)


def test_edit_without_captions_is_refused(tiny_pipeline: BridgePipeline) -> None:
    start = explore.open_end(tiny_pipeline, "cat")
    with pytest.raises(ValueError, match="plus, minus: none given"):
        explore.edit(tiny_pipeline, start, None, None)


def test_real_model_walks_from_caption_to_caption_through_their_noise() -> None:
    """The walk's own ends are the captions' pictures, and nothing jumps there."""
    pipe = BridgePipeline.from_pretrained("pictures")
    a, b = (explore.open_end(pipe, name, seed=2) for name in ("a cat", "a bus"))
    z = explore.noise_walk(pipe, a, b, 3)
    torch.testing.assert_close(torch.stack([z[0], z[-1]]), torch.stack([a.z, b.z]), atol=1e-4, rtol=1e-4)


def test_real_model_says_that_no_noise_leads_to_a_picture_that_it_never_saw() -> None:
    pipe = BridgePipeline.from_pretrained("pictures")
    with pytest.raises(UserError, match=rf"^space: '{CAT}' is not made up of pictures in memory, .*; use space latent"):
        explore.between(pipe, explore.open_end(pipe, str(CAT)), explore.open_end(pipe, "a bus"), 3, space="noise")


def test_unreadable_file_is_refused(tiny_pipeline: BridgePipeline, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no picture"):
        explore.open_end(tiny_pipeline, str(tmp_path / "x.png"))


def test_pictures_of_another_size_are_fitted(tiny_pipeline: BridgePipeline, tmp_path: Path) -> None:
    Image.new("RGBA", (31, 90), (10, 200, 30, 255)).save(tmp_path / "tall.png")
    assert explore.open_end(tiny_pipeline, str(tmp_path / "tall.png")).z.shape == (4, 8, 8)
