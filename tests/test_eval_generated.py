"""Judging a folder of pictures that somebody generated."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from bridge import BridgePipeline, cli
from eval import __main__ as command
from eval.samples import Generated, varied
from tests.fixtures import make_tiny_pipeline

pytestmark = pytest.mark.usefixtures("one_encoder")


@pytest.fixture
def folder(model_folder, artwork_rows, tmp_path) -> Path:
    """What `bridge generate` writes for all held-out captions of the sample."""
    labels = sorted({row["label"] for row in artwork_rows if row["split"] in ("validation", "seen_validation")})
    (tmp_path / "captions.txt").write_text("\n".join(labels), "utf-8")
    arguments = ["generate", "--captions", tmp_path / "captions.txt", "-n", 3, "--seed", 5, "--model", model_folder]
    assert cli.main([*map(str, arguments), "--no-sheet", "--out", str(tmp_path / "out")]) == 0
    return tmp_path / "out"


def judged(folder: Path, data: Path, out: Path) -> int:
    return command.main([str(folder), "--data", str(data), "--out", str(out), "--samples", "3", "--quick"])


def test_pictures_are_those_the_model_made(folder, model_folder):
    caption = next(iter(Generated.load(folder).files))
    expected = BridgePipeline.from_pretrained(model_folder)(caption, 3, seed=5, output_type="pt").images
    assert (Generated.load(folder)([caption], 3)[0] - expected).abs().max() < 1 / 255


def test_a_folder_of_pictures_is_judged_like_a_model(folder, artwork_folder, tmp_path):
    assert judged(folder, artwork_folder, tmp_path / "report") == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))
    assert set(report["rows"]["held-out"]["methods"]) >= {"real", "pictures"}
    assert report["codec"] is None and "no text encoder" in report["absent"]["far"]


def test_captions_with_too_few_pictures_are_left_out(folder):
    lines = (folder / "manifest.jsonl").read_text("utf-8").splitlines()
    (folder / "manifest.jsonl").write_text("\n".join(lines[1:]) + "\n", "utf-8")
    generated = Generated.load(folder)
    assert set(generated.files) - generated.captions(3) == {json.loads(lines[0])["caption"]}


def test_a_missing_picture_is_named_and_no_report_is_written(folder, artwork_folder, tmp_path, capsys):
    gone = next(folder.glob("*/*.png"))
    gone.unlink()
    assert judged(folder, artwork_folder, tmp_path / "report") == 2
    assert f"{gone.relative_to(folder)} of manifest.jsonl is missing" in capsys.readouterr().err
    assert not list((tmp_path / "report").iterdir())


def test_a_truncated_picture_is_named_and_no_report_is_written(folder, artwork_folder, tmp_path, capsys):
    cut = next(folder.glob("*/*.png"))
    cut.write_bytes(cut.read_bytes()[:200])
    assert judged(folder, artwork_folder, tmp_path / "report") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"{cut.relative_to(folder)} is damaged" in said and "generate it again" in said
    assert not list((tmp_path / "report").iterdir())


@pytest.mark.parametrize("line", ["{", '{"caption": "cat"}', "[]", '{"caption": 1, "file": "a"}'])
def test_a_broken_line_of_the_manifest_is_named(folder, line):
    with (folder / "manifest.jsonl").open("a", encoding="utf-8") as manifest:
        manifest.write(line + "\n")
    with pytest.raises(ValueError, match=r"manifest.jsonl: line \d+ has no caption and file"):
        Generated.load(folder)


def test_a_folder_without_a_manifest_says_how_to_write_one(tmp_path):
    with pytest.raises(ValueError, match=r"has no manifest.jsonl; write it with bridge generate"):
        Generated.load(tmp_path)


def test_an_empty_manifest_is_refused(tmp_path):
    (tmp_path / "manifest.jsonl").touch()
    with pytest.raises(ValueError, match="it is empty"):
        Generated.load(tmp_path)


def test_grey_pictures_are_read_as_colour(tmp_path):
    Image.new("L", (8, 8), 51).save(tmp_path / "a.png")
    (tmp_path / "manifest.jsonl").write_text('{"caption": "cat", "file": "a.png"}\n')
    assert torch.equal(Generated.load(tmp_path)(["cat"], 1), torch.full((1, 1, 3, 8, 8), 0.2))


def test_a_manifest_is_read_as_editors_leave_it(tmp_path):
    """With a byte order mark, blank lines, carriage returns, and captions that hold other line breaks."""
    Image.new("L", (8, 8), 100).save(tmp_path / "a.png")
    row = json.dumps({"caption": "a\u2028cat", "file": "a.png"}, ensure_ascii=False)
    (tmp_path / "manifest.jsonl").write_bytes(f"\ufeff{row}\r\n\r\n{row}".encode())
    assert Generated.load(tmp_path).files == {"a\u2028cat": ["a.png", "a.png"]}


def test_a_window_and_a_perplexity_are_compared_of_a_local_flow_alone(encoder):
    pipe = BridgePipeline.from_pretrained("pictures")
    begin, end = pipe.mapper.window
    mapper = varied(pipe, {"window": 2 * begin, "perplexity": 3.0, "begin": None}).mapper
    assert (mapper.window, mapper.perplexity, mapper.begin) == ((2 * begin, 2 * end), 3.0, pipe.mapper.begin)
    assert varied(pipe, {"window": None}).mapper is pipe.mapper
    with pytest.raises(ValueError, match=r"^--window, --perplexity, --lead, --strength, --begin: this .* has none"):
        varied(make_tiny_pipeline(encoder), {"window": 2.0})
