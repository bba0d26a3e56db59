"""Scores of pictures under captions: against closed forms, shared probes, how typical, and refusals."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bridge import BridgePipeline, score
from bridge.errors import UserError
from bridge.images import read_image
from bridge.mappers import DensityMapper, Mapper, VelocityMapper
from bridge.noise import normal_rows
from bridge.text import TextCode

ARTWORK = Path(__file__).parent / "artwork"
FILES = [sorted(ARTWORK.glob(f"{name}--*.png"))[0] for name in ("cat", "bus", "fire")]
SHAPE = (2, 1, 1)


class Normal(DensityMapper):
    """z given c is normal about the code, of deviation `std`; codes have as many numbers as latents."""

    def __init__(self, std: float = 0.5) -> None:
        super().__init__()
        self.z_shape, self.text_dim, self.sample_noise_shape, self.std = SHAPE, 2, SHAPE, std

    def log_prob(self, z: Tensor, c: TextCode) -> Tensor:
        error = (z.flatten(1) - c.pooled) / self.std
        return -(error.square() / 2 + math.log(self.std * math.sqrt(2 * math.pi))).sum(1)

    def sample(self, c: TextCode, *, noise: Tensor, temperature: float = 1.0) -> Tensor:
        return c.pooled.view(-1, *SHAPE) + self.std * temperature * noise


class Straight(VelocityMapper):
    """A velocity that expects the code itself, whatever it sees: the guess of the clean latent is the code."""

    def __init__(self) -> None:
        super().__init__()
        self.z_shape, self.text_dim, self.sample_noise_shape = SHAPE, 2, SHAPE

    def velocity(self, z_t: Tensor, t: Tensor, c: TextCode) -> Tensor:
        return (c.pooled.view(-1, *SHAPE) - z_t) / (1 - t).view(-1, 1, 1, 1)

    def loss(self, z: Tensor, c: TextCode, *, noise: Tensor) -> Tensor:
        return z.flatten(1).sum(1)


class Sampler(Mapper):
    """A family without a density."""

    def __init__(self) -> None:
        super().__init__()

    def loss(self, z: Tensor, c: TextCode, *, noise: Tensor) -> Tensor:
        return z

    def sample(self, c: TextCode, *, noise: Tensor, temperature: float = 1.0) -> Tensor:
        return noise


def codes(*vectors: tuple[float, float]) -> TextCode:
    return TextCode(torch.tensor(vectors), torch.zeros(len(vectors), 0, 2), torch.zeros(len(vectors), 0).bool())


C = codes((1.0, 0.0), (0.0, 1.0), (-0.6, 0.8))
Z = normal_rows([(i,) for i in range(4)], SHAPE)


def half_squares(z: Tensor, c: TextCode) -> Tensor:
    """(|z|^2 - |z - c|^2) / 2, (M, C)."""
    flat = z.flatten(1)
    return (flat.square().sum(1)[:, None] - (flat[:, None] - c.pooled[None]).square().sum(2)) / 2


def test_density_is_the_log_ratio_to_no_caption() -> None:
    found = score.score_latents(Normal(0.5), Z, C)
    assert torch.allclose(found, half_squares(Z, C) / 0.25, atol=1e-5)


def test_denoising_is_how_much_better_the_guess_is() -> None:
    found = score.score_latents(Straight(), Z, C)
    assert torch.allclose(found, half_squares(Z, C), atol=1e-4)


def test_density_of_a_velocity_agrees_with_the_closed_form() -> None:
    """Noise shrinks onto a point, blurred by BLUR: log ratio = (|z|^2 - |z - c|^2) / 2 over the blurred variance."""
    found = score.score_latents(Straight(), 0.05 * Z, codes((0.1, 0.0), (0.0, -0.1)), method="density")
    shares = half_squares(0.05 * Z, codes((0.1, 0.0), (0.0, -0.1)))
    ratio = found / shares
    assert torch.allclose(ratio, ratio.mean().expand_as(ratio), rtol=0.05)
    assert float(ratio.mean()) == pytest.approx(1 / 0.05**2, rel=0.1)


def test_scores_depend_on_no_other_picture_or_caption(tiny_pipeline: BridgePipeline) -> None:
    z = normal_rows([(i,) for i in range(3)], (4, 8, 8))
    c = tiny_pipeline.text_encoder.encode(["cat", "bus", "fire"], with_tokens=False)
    whole = score.score_latents(tiny_pipeline.mapper, z, c)
    alone = score.score_latents(tiny_pipeline.mapper, z[1:2], c[2:3])
    assert float(alone) == pytest.approx(float(whole[1, 2]), abs=1e-3)


def test_chunks_do_not_change_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score.score_latents(Normal(), Z, C)
    monkeypatch.setattr(score, "ROWS", 3)
    assert torch.allclose(score.score_latents(Normal(), Z, C), whole)


def test_share_of_own_samples_is_uniform_for_samples() -> None:
    c = codes((1.0, 0.0))
    z = Normal().sample(c[torch.zeros(400, dtype=torch.long)], noise=normal_rows([(5, i) for i in range(400)], SHAPE))
    share = score.typical(Normal(), score.score_latents(Normal(), z, c), c, samples=200)
    assert float(share.mean()) == pytest.approx(0.5, abs=0.06)
    assert float(share.std()) == pytest.approx(1 / math.sqrt(12), abs=0.04)


def test_picture_of_another_caption_is_not_typical() -> None:
    c = codes((3.0, 0.0))
    share = score.typical(Normal(), score.score_latents(Normal(), torch.tensor([[-3.0, 0.0]]).view(1, *SHAPE), c), c)
    assert float(share) == 0


def test_best_comes_first_both_ways() -> None:
    found = score.ScoreMatrix(("a", "b", "c"), torch.tensor([[0.0, 2.0, 1.0], [5.0, 1.0, 1.0]]), None, "density")
    assert (found.best_captions(0), found.best_captions(1)) == ([1, 2, 0], [0, 1, 2])
    assert found.best_images(0) == [1, 0]


def test_pipeline_scores_pictures_by_captions(tiny_pipeline: BridgePipeline) -> None:
    images = [read_image(path, size=64) for path in FILES]
    found = tiny_pipeline.score(images, ["cat", "bus"], samples=4)
    assert found.method == "denoising"
    assert found.score.shape == (3, 2)
    assert found.typical is not None
    assert ((found.typical >= 0) & (found.typical <= 1)).all()
    again = tiny_pipeline.score(images, ["cat", "bus"], samples=0)
    assert torch.equal(again.score, found.score)
    assert again.typical is None


@pytest.mark.parametrize(("images", "captions", "samples"), [([], ["cat"], 2), (FILES, [], 2), (FILES, ["cat"], -1)])
def test_nothing_to_score_is_refused(
    tiny_pipeline: BridgePipeline, images: list[Path], captions: list[str], samples: int
) -> None:
    with pytest.raises(ValueError, match="expected"):
        tiny_pipeline.score([read_image(path, size=64) for path in images], captions, samples=samples)


def test_one_picture_and_one_caption_need_no_list(tiny_pipeline: BridgePipeline) -> None:
    image = read_image(FILES[0], size=64)
    found = tiny_pipeline.score(image, "cat", samples=0)  # type: ignore[arg-type]
    assert found.captions == ("cat",)
    assert torch.equal(found.score, tiny_pipeline.score([image], ["cat"], samples=0).score)


@pytest.mark.parametrize(
    ("images", "captions", "told"),
    [
        (["cat.png"], "cat", "images: expected pictures in a list, got str; open files with read_image"),
        ("cat.png", "cat", "images: expected pictures in a list, got str"),
        (None, "cat", "images: expected pictures in a list, got NoneType"),
        (np.zeros((1, 3, 64, 64)), "cat", "images: expected pictures in a list, got ndarray"),
        ([Image.new("RGB", (32, 32))], "cat", "images: expected RGB pictures of 64 pixels a side"),
        ([Image.new("L", (64, 64))], "cat", "images: expected RGB pictures of 64 pixels a side"),
        ([Image.new("RGB", (64, 64))], None, "captions: expected a caption or a list of captions, got NoneType"),
        ([Image.new("RGB", (64, 64))], ["cat", None], r"captions\[1\]: expected a caption, got NoneType"),
    ],
)
def test_what_is_no_picture_or_caption_is_named(
    tiny_pipeline: BridgePipeline, images: Any, captions: Any, told: str
) -> None:
    with pytest.raises(UserError, match=f"^{told}"):
        tiny_pipeline.score(images, captions)


def test_family_without_density_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="Sampler knows no density to score by; use one that does"):
        score.resolve_method(Sampler())


def test_denoising_needs_a_velocity() -> None:
    assert score.resolve_method(Normal()) == "density"
    with pytest.raises(ValueError, match="Normal has no velocity"):
        score.resolve_method(Normal(), "denoising")


def test_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="method: expected one of denoising, density"):
        score.resolve_method(Straight(), "clip")


def test_real_model_knows_the_captions_of_real_pictures() -> None:
    """The shipped model on pictures of the sample: the right ones of three captions score best on average."""
    pipe = BridgePipeline.from_pretrained("pictures")
    names = ("cat", "bus", "fire")
    images = [
        read_image(path, size=pipe.codec.image_size)
        for name in names
        for path in sorted(ARTWORK.glob(f"{name}--*.png"))
    ]
    found = pipe.score(images, names, samples=0).score.view(3, 8, 3)
    assert found.mean(1).argmax(1).tolist() == [0, 1, 2]
    assert float((found.argmax(2) == torch.arange(3)[:, None]).float().mean()) > 0.75
