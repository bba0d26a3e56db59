"""The small commands of eval: sheets, normal, speed. What they print and write, on tiny models."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from bridge import BridgePipeline
from bridge.noise import normal_rows
from eval import normal, sheets, speed


@pytest.fixture
def model(tiny_pipeline: BridgePipeline, tmp_path: Path) -> str:
    tiny_pipeline.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_sheet_shows_the_first_captions_of_a_split(model: str, artwork_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "docs" / "seen.png"
    argv = [model, "--data", str(artwork_folder), "--split", "train", "--captions", "2", "-n", "2", "--out", str(out)]
    assert sheets.main(argv) == 0
    with Image.open(out) as image:
        assert image.width > image.height


def test_sheet_of_an_unknown_split_is_refused(
    model: str, artwork_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [model, "--data", str(artwork_folder), "--split", "none", "--out", str(tmp_path / "x.png")]
    assert sheets.main(argv) == 2
    assert "split" in capsys.readouterr().err


def test_normal_prints_a_distance_for_each_kind_of_draw(
    model: str, artwork_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "normal.png"
    argv = [model, "--data", str(artwork_folder), "-n", "4", "--out", str(out)]
    assert normal.main(argv) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("N(0, I)", "fitted Gaussian", "real training pictures"))
    assert out.is_file()


def test_gaussian_draws_have_the_moments_of_the_latents() -> None:
    z = normal_rows([(i,) for i in range(4000)], (2, 1, 1)) @ torch.tensor([[2.0]]) + 3
    draws = normal.gaussian_draws(z, normal_rows([(9, i) for i in range(4000)], (2, 1, 1)))
    assert torch.allclose(draws.mean(0).flatten(), torch.full((2,), 3.0), atol=0.15)
    assert torch.allclose(draws.std(0).flatten(), torch.full((2,), 2.0), atol=0.1)


def test_flops_grow_with_the_images(tiny_pipeline: BridgePipeline) -> None:
    assert speed.decode_flops(tiny_pipeline, 32) == 2 * speed.decode_flops(tiny_pipeline, 16) > 1e6


def test_throughput_prints_both_ratios(tiny_pipeline: BridgePipeline) -> None:
    lines = speed.throughput(tiny_pipeline, images=4, repeats=1)
    assert [line.split("  ")[0] for line in lines[-2:]] == ["pipeline / decoding", "decoding / multiply"]
