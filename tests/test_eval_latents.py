"""What a latent space is: draws, neighbourhoods, steps of a path; and the commands on tiny models."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from bridge import BridgePipeline
from bridge.codecs import VAECodec
from bridge.explore import walk
from bridge.mappers import LocalFlowMapper, VelocityMapper
from bridge.memory import CaptionMemory
from bridge.noise import normal_rows
from bridge.text import TextEncoder
from eval.data import Pictures
from eval.features import Extractor, Features
from eval.judge import Judge
from eval.studies.latents import __main__ as latents
from eval.studies.latents import model as latent_spaces
from tests.fixtures import make_tiny_vae

pytestmark = pytest.mark.usefixtures("few_draws", "one_encoder")


class Grid(Extractor):
    """Pixels averaged over a grid, four and two cells a side."""

    id = "grid"

    def encode_batch(self, x: Tensor) -> Features:
        late, early = (F.adaptive_avg_pool2d(x, side).flatten(1).numpy() for side in (4, 2))
        return Features(late, early)


@pytest.fixture
def model(model_folder: Path) -> str:
    return str(model_folder)


def test_gaussian_draws_have_the_moments_of_the_latents() -> None:
    z = normal_rows([(i,) for i in range(4000)], (2, 1, 1)) @ torch.tensor([[2.0]]) + 3
    draws = latent_spaces.gaussian_draws(z, normal_rows([(9, i) for i in range(4000)], (2, 1, 1)))
    assert torch.allclose(draws.mean(0).flatten(), torch.full((2,), 3.0), atol=0.15)
    assert torch.allclose(draws.std(0).flatten(), torch.full((2,), 2.0), atol=0.1)


def test_channel_draws_have_the_scale_of_each_channel() -> None:
    z = torch.tensor([1.0, 10.0]).view(1, 2, 1, 1) * normal_rows([(i,) for i in range(200)], (2, 4, 4)) + 5
    draws = latent_spaces.channel_draws(z, normal_rows([(9, i) for i in range(200)], (2, 4, 4)))
    assert torch.allclose(draws.std((0, 2, 3)), torch.tensor([1.0, 10.0]), rtol=0.1)
    assert torch.allclose(draws.mean((0, 2, 3)), torch.full((2,), 5.0), atol=0.6)


def test_means_of_captions_share_their_noise(tiny_pipeline: BridgePipeline) -> None:
    c = tiny_pipeline.text_encoder.encode(["cat", "bus", "cat"], with_tokens=False)
    found = latent_spaces.mapped_means(tiny_pipeline.mapper, c, samples=3, steps=2, seed=4)
    noise = normal_rows([(4, i) for i in range(3)], (4, 8, 8))
    assert isinstance(tiny_pipeline.mapper, VelocityMapper)
    alone = tiny_pipeline.mapper.sample(c[torch.tensor([1, 1, 1])], noise=noise, num_inference_steps=2).mean(0)
    assert torch.allclose(found[0], found[2], atol=1e-5)
    assert torch.allclose(found[1], alone, atol=1e-5)


def test_nearest_never_names_the_point_itself() -> None:
    points = np.random.default_rng(0).standard_normal((20, 3))
    index = latent_spaces.nearest(points, 19)
    assert all(i not in row and len(set(row)) == 19 for i, row in enumerate(index.tolist()))


def test_more_neighbours_than_points_are_refused() -> None:
    with pytest.raises(ValueError, match="k: expected 1 to 2 neighbours of 3 points, got 3"):
        latent_spaces.nearest(np.eye(3), 3)


def test_overlap_of_a_space_with_itself_is_one_and_with_noise_chance() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 400, 8))
    index = latent_spaces.nearest(a, 10)
    assert latent_spaces.overlap(index, index).mean() == 1
    assert latent_spaces.overlap(index, index[:, ::-1]).mean() == 1
    assert latent_spaces.overlap(index, latent_spaces.nearest(b, 10)).mean() == pytest.approx(10 / 399, abs=0.01)


def test_even_straight_path_has_both_ratios_one() -> None:
    path = np.linspace(0, 1, 5)[:, None] * np.array([3.0, 4.0])
    assert [float(v[0]) for v in latent_spaces.step_ratios(path[None])] == pytest.approx([1, 1])


def test_jump_and_detour_are_seen() -> None:
    jump = np.array([[[0.0, 0], [0, 0], [4, 0], [4, 0]]])
    detour = np.array([[[0.0, 0], [0, 3], [4, 3], [4, 0]]])
    assert latent_spaces.step_ratios(jump)[0] == pytest.approx(3)
    assert latent_spaces.step_ratios(detour)[1] == pytest.approx(2.5)


def test_noise_does_not_lie_among_real_pictures() -> None:
    rng = np.random.default_rng(0)
    real, others = rng.standard_normal((2, 300, 4))
    assert latent_spaces.near_real(others, real).mean() > 0.6
    assert latent_spaces.near_real(6 * others, real).mean() < 0.25


def test_smooth_path_of_real_pictures_and_a_jump(artwork_folder: Path) -> None:
    extractor = Grid()
    pictures = Pictures.load(artwork_folder)
    judge = Judge.fit(extractor, pictures, extractor.encode(pictures.pixels(np.arange(len(pictures)))))
    a, b = pictures.pixels(judge.train[[0, 40]])
    faded = walk(a, b, 5)
    jump = torch.stack([a, a, a, b, b])
    real = judge.features.late
    smooth, jumps = (
        latent_spaces.smoothness(judge.space, extractor, torch.stack([path, path]), real) for path in (faded, jump)
    )
    assert smooth.largest.value == pytest.approx(1, abs=0.05)  # these features are linear in the pixels
    assert jumps.largest.value == pytest.approx(4, abs=0.01)
    assert jumps.precision.value == 1


def command(what: str, model: str, data: Path, out: Path, *options: str) -> int:
    return latents.main([what, model, "--data", str(data), "--out", str(out), *options])


def test_normal_tells_of_every_space(
    model: str, artwork_folder: Path, vae_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["-n", "4", "--codec", f"other={vae_folder}"]
    assert command("normal", model, artwork_folder, tmp_path / "a.png", *options) == 0
    printed = capsys.readouterr().out
    for name in ("real training", "model: N(0, I)", "other: fitted Gaussian", "other: recon", "through the mapper"):
        assert name in printed
    with Image.open(tmp_path / "a.png") as image:
        assert image.height > image.width // 2


def test_near_tells_how_far_the_spaces_agree(
    model: str, artwork_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Three families are held out of the sample: too few for neighbours, so its training part stands for them.
    options = ["--samples", "2", "--split", "train"]
    assert command("near", model, artwork_folder, tmp_path / "a.png", *options) == 0
    printed = capsys.readouterr().out
    assert "after less before" in printed
    assert "nearest picture has the same artist" in printed
    assert (tmp_path / "a.png").is_file()


def test_paths_leave_out_noise_that_leads_to_no_picture(
    model: str, artwork_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tiny model's random weights fold the noise: no pair has that way, and the command says so."""
    assert command("paths", model, artwork_folder, tmp_path / "a.png", "-n", "2", "--steps", "3") == 0
    out, err = capsys.readouterr()
    assert err.count("has no way through noise: space: ") == 2
    assert "fewer than two pairs" in err
    for way in ("cross-fade", "latent linear", "latent spherical"):
        assert f"  {way} " in out
    assert "  noise" not in out
    with Image.open(tmp_path / "a.png") as image:
        assert image.height > image.width


def test_codec_without_a_name_is_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        latents.main(["normal", model, "--out", str(tmp_path / "a.png"), "--codec", "folder"])


def test_changes_tell_what_is_left_of_a_difference(
    encoder: TextEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    things = [f"thing {a}{b}" for a in "abcdef" for b in "uvwxyz"]
    captions = [f"{colour} {thing}" for colour in ("red", "blue") for thing in things]
    red = normal_rows([(0, i) for i in range(len(things))], (4, 8, 8))
    codes = torch.nn.functional.normalize(normal_rows([(1, i) for i in range(len(captions))], (384,)), dim=1)
    mapper = LocalFlowMapper.from_memory(torch.cat([red, red * 0.5]), codes, [[i] for i in range(len(captions))])
    pipe = BridgePipeline(encoder, mapper, VAECodec(make_tiny_vae()), CaptionMemory(mapper.unit_codes, captions))
    pipe.save_pretrained(tmp_path / "model")
    asked = ["changes", str(tmp_path / "model"), "--change", "red -> blue", "--change", "red -> green"]
    assert latents.main([*asked, "--out", str(tmp_path / "a.png")]) == 0
    output = capsys.readouterr()
    _, change, judged, mean, _, learnt, *_ = next(line for line in output.out.splitlines() if "→" in line).split("|")
    assert (change.strip(), judged.strip()) == ("red → blue", "18")
    assert float(learnt.split()[0]) < 0.2  # halving is linear
    assert float(mean.split()[0]) > 0.9  # and has no direction
    assert "red -> green: 0 and 0 pairs" in output.err
    assert (tmp_path / "a.png").is_file()


@pytest.mark.parametrize("change", ["red", "red ->", "-> blue"])
def test_a_change_without_both_words_is_refused(change: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        latents.main(["changes", "pictures", "--change", change])
    assert "expected 'WORDS -> WORDS'" in capsys.readouterr().err
