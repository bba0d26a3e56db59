"""The small commands of eval: sheets, speed. What they print and write, on tiny models."""

import json
from pathlib import Path

import pytest
from PIL import Image

from bridge import BridgePipeline
from eval import __main__ as command
from eval.studies.cost import drawing

pytestmark = pytest.mark.usefixtures("few_draws", "one_encoder")


@pytest.fixture
def model(model_folder: Path) -> str:
    return str(model_folder)


def test_sheet_shows_the_first_captions_of_a_split(model: str, artwork_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "docs" / "seen.png"
    argv = [model, "--data", str(artwork_folder), "--split", "train", "--captions", "2", "-n", "2", "--sheet", str(out)]
    assert command.main(argv) == 0
    with Image.open(out) as image:
        assert image.width > image.height


def test_sheet_of_an_unknown_split_is_refused(
    model: str, artwork_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [model, "--data", str(artwork_folder), "--split", "none", "--sheet", str(tmp_path / "x.png")]
    assert command.main(argv) == 2
    assert "split" in capsys.readouterr().err


def test_flops_grow_with_the_images(tiny_pipeline: BridgePipeline) -> None:
    assert drawing.decode_flops(tiny_pipeline, 32) == 2 * drawing.decode_flops(tiny_pipeline, 16) > 1e6


def test_throughput_prints_both_ratios(tiny_pipeline: BridgePipeline) -> None:
    lines = drawing.throughput(tiny_pipeline, images=4, repeats=1)
    assert [line.split("  ")[0] for line in lines[-2:]] == ["pipeline / decoding", "decoding / multiply"]


def judged(model: str, data: Path, out: Path, *options: str) -> int:
    return command.main([model, "--data", str(data), "--out", str(out), "--captions", "4", "--samples", "2", *options])


@pytest.fixture(scope="module")
def quick(
    few_draws: None,
    one_encoder: None,
    model_folder: Path,
    artwork_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path]:
    """A saved model, and its quick report."""
    report = tmp_path_factory.mktemp("judged") / "report"
    assert judged(str(model_folder), artwork_folder, report, "--quick") == 0
    return str(model_folder), report


def test_report_is_one_page_and_one_file_of_figures(quick: tuple[str, Path]) -> None:
    assert sorted(path.name for path in quick[1].iterdir()) == ["report.html", "report.json"]


def test_report_names_command_model_and_data(quick: tuple[str, Path]) -> None:
    model, out = quick
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert report["about"]["model"] == BridgePipeline.from_pretrained(model).fingerprint
    assert report["about"]["command"].startswith(f"python -m eval {model} --data")
    assert len(report["data"]) == 16


def test_page_shows_every_judged_caption_with_its_nearest_training_pictures(quick: tuple[str, Path]) -> None:
    page = (quick[1] / "report.html").read_text("utf-8")
    assert page.count("data:image/png;base64,") >= 4 * 2 * 2


def test_quick_report_has_one_judge_and_no_trade_off(quick: tuple[str, Path]) -> None:
    report = json.loads((quick[1] / "report.json").read_text("utf-8"))
    assert (report["repeated"], report["trade_off"]) == ({}, {})


def test_same_command_gives_the_same_bytes(quick: tuple[str, Path], artwork_folder: Path) -> None:
    model, out = quick
    before = [(out / name).read_bytes() for name in ("report.html", "report.json")]
    assert judged(model, artwork_folder, out, "--quick") == 0
    assert [(out / name).read_bytes() for name in ("report.html", "report.json")] == before


def test_whole_report_repeats_the_rows_and_draws_the_trade_off(
    quick: tuple[str, Path], artwork_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "GUIDANCE", (1.0, 2.0))
    monkeypatch.setattr(command, "TEMPERATURES", (1.0,))
    assert judged(quick[0], artwork_folder, tmp_path, "--second", "pixels") == 0
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert {name: list(rows) for name, rows in report["repeated"].items()} == {"pixels-16": list(report["rows"])}
    assert all([p["guidance_scale"] for p in points] == [1.0, 2.0] for points in report["trade_off"].values())


def test_unknown_second_judge_is_one_line_and_writes_nothing(
    quick: tuple[str, Path], artwork_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judged(quick[0], artwork_folder, tmp_path, "--second", "nothing") == 2
    assert "python -m eval: name: expected one of" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
