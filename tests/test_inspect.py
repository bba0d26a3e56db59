"""python -m train.prepare without --out: what it tells of a source, that it writes nothing, and bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bridge.pairs.reading import Reading
from bridge.pairs.sources import Wanted
from tests.pictures import bomb, encoded, pattern, png
from train import inspect as inspect_module
from train.inspect import Sample, inspect, render
from train.prepare import main

ROOT = Path(__file__).parent.parent
WORDS = ("anchor", "balloon", "bicycle", "candle", "castle", "cloud", "drum", "envelope")
FRAMES = [Image.new("RGB", (16, 16), colour) for colour in ("white", "red")]
LONG = " ".join(["story"] * 300)


def put(folder: Path, captions: list[str], pictures: list[bytes]) -> Path:
    """A folder with a .txt beside each picture."""
    folder.mkdir(exist_ok=True)
    for i, (caption, picture) in enumerate(zip(captions, pictures, strict=True)):
        (folder / f"{i:02}.png").write_bytes(picture)
        (folder / f"{i:02}.txt").write_text(caption, encoding="utf-8")
    return folder


def plain(folder: Path) -> Path:
    return put(folder, list(WORDS), [encoded(pattern(i)) for i in range(len(WORDS))])


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory, encoder: Any) -> dict[str, Any]:
    """Of a folder with one of everything."""
    pictures = [
        *(encoded(pattern(i)) for i in range(8)),
        encoded(pattern(0)),
        encoded(Image.fromarray(np.asarray(pattern(1))[:, ::-1])),
        encoded(pattern(20, 48).resize((48, 16))),
        encoded(pattern(21).convert("L")),
        encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
        b"",
        encoded(pattern(22, 64), "JPEG")[:-200],
        bomb(),
        encoded(pattern(23)),
    ]
    captions = [*WORDS, "an anchor", "kettle", "😀", LONG, "flag", "a", "b", "c", " "]
    folder = put(tmp_path_factory.mktemp("inspect") / "source", captions, pictures)
    return inspect(Wanted(str(folder)), Reading(32), encoder=encoder)[0]


def test_bad_rows_are_counted_and_named_with_their_reasons(facts):
    """Faults 1, 2, 7 and 9."""
    rows = facts["rows"]
    assert (rows["all"], rows["usable"]) == (17, 13)
    assert [bad["row"] for bad in rows["bad"]] == ["13.png", "14.png", "15.png", "16.png"]
    reasons = ["0 bytes", "runcated", "pixels", "its caption is empty or blank"]
    assert [bad["why"] for bad, reason in zip(rows["bad"], reasons, strict=True) if reason not in bad["why"]] == []


def test_pictures_are_counted_by_size_mode_and_shape(facts):
    pictures = facts["pictures"]
    assert pictures["count"] == 12
    assert pictures["longer_side"] == {"least": 16, "median": 32, "most": 48}
    assert pictures["modes"] == {"RGB": 10, "L": 1, "P": 1}
    assert pictures["formats"] == {"PNG": 11, "GIF": 1}
    assert pictures["shapes"] == {"square": 11, "very wide (over 2:1)": 1}
    assert (pictures["animated"], pictures["one_colour"]) == (1, 1)


def test_duplicates_are_counted_exact_and_near(facts):
    assert facts["duplicates"]["same_file"] == 1
    assert facts["duplicates"]["near_pictures"] == 1
    assert facts["captions"]["most_of_a_picture"] == 2


def test_captions_the_encoder_would_cut_are_told(facts, encoder):
    """Fault 10."""
    captions = facts["captions"]
    assert (captions["cut"], captions["most_tokens"]) == (1, encoder.max_tokens)
    assert "the encoder reads 256; cut: 'story" in captions["first_cut"]
    assert captions["words"] == {"least": 1, "median": 1, "most": 300}
    assert captions["not_ascii"] == 1


def test_captions_the_encoder_knows_nothing_of_are_told(tmp_path, encoder):
    words = ["x" * 150, *WORDS[1:]]
    source = put(tmp_path / "source", words, [encoded(pattern(i)) for i in range(8)])
    told, _ = inspect(Wanted(str(source)), encoder=encoder)
    assert (told["captions"]["unknown"], told["captions"]["cut"]) == (1, 0)
    assert "the text encoder knows nothing of 1 captions; caption 'xxx" in render(told)


def test_too_many_bad_rows_are_told_as_the_refusal_they_will_be(facts):
    assert facts["training"]["refused"] == "4 of 17 rows are bad, more than --max-bad 0.05"


def test_the_facts_are_rendered_in_plain_words(facts):
    text = render(facts)
    expected = (
        "Rows: 17, of which 13 can be used and 4 cannot",
        "  13.png: its picture is empty (0 bytes)",
        "Pictures: 12 different files, longer side 16 to 48 pixels, median 32",
        "  duplicates: 1 of the same bytes, 1 nearly the same",
        "  1 are animated: their first frame is taken",
        "  the text encoder cuts 1 captions; caption 'story story",
        "Training: train.prepare would refuse this: 4 of 17 rows are bad",
    )
    assert [line for line in expected if line not in text] == []


def test_splits_are_those_that_prepare_makes(tmp_path, encoder):
    training = inspect(Wanted(str(plain(tmp_path / "source"))), encoder=encoder)[0]["training"]
    assert (training["pictures"], training["families"]) == ({"train": 6, "validation": 1, "test": 1}, 8)


def test_a_source_too_small_to_split_is_still_told(tmp_path, encoder):
    """Fault 13."""
    facts, sheet = inspect(Wanted(str(put(tmp_path / "source", ["cat"], [png()]))), encoder=encoder)
    assert facts["training"]["refused"].startswith("source: its captions form 1 families, too few to hold out")
    assert sheet.width > 128


def test_captions_on_both_sides_are_told(tmp_path, encoder):
    """Fault 12."""
    folder = plain(tmp_path / "source")
    lines = [f"{i:02}.png,{word},{'test' if i > 5 else 'train'}" for i, word in enumerate([*WORDS[:7], "an anchor"])]
    (folder / "metadata.csv").write_text("\n".join(["file_name,caption,split", *lines]))
    facts, _ = inspect(Wanted(str(folder)), encoder=encoder)
    assert facts["rows"]["splits"] == {"train": 6, "test": 2}
    assert "  leak: caption 'anchor' (00.png (metadata.csv row 1)) in" in render(facts)


# the sheet


def test_the_sheet_shows_pictures_from_the_whole_source(tmp_path, encoder):
    _, sheet = inspect(Wanted(str(plain(tmp_path / "source"))), Reading(32), encoder=encoder)
    pixels = np.asarray(sheet).reshape(-1, 3)
    shown = [i for i in range(8) if (pixels == np.asarray(pattern(i))[2, 2]).all(1).sum() > 200]
    assert shown == list(range(8))


@pytest.mark.parametrize("count", [1, 4, 7, 8, 9, 1000])
def test_the_sample_is_spread_evenly_and_bounded(count):
    sample, most = Sample(4), 0
    for i in range(count):
        sample.add(i, Image.new("RGB", (1, 1)))
        most = max(most, len(sample.kept))
    kept = sorted(sample.kept)
    assert most <= 8
    assert len(kept) >= min(count, 4)
    assert len(set(np.diff(kept).tolist())) <= 1


# the command


@pytest.fixture
def shared_encoder(encoder, monkeypatch):
    """The command with the tests' own MiniLM, which is loaded already."""
    monkeypatch.setattr(inspect_module.TextEncoder, "from_pretrained", lambda *_: encoder)


def test_the_command_writes_nothing_but_the_sheet(tmp_path, capsys, shared_encoder):
    source = plain(tmp_path / "source")
    before = sorted(path.name for path in source.iterdir())
    assert main([str(source), "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert sorted(os.listdir(tmp_path)) == ["sheet.png", "source"]
    assert sorted(path.name for path in source.iterdir()) == before
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
    assert capsys.readouterr().out.startswith(f"{source}: folder with .txt files")


def test_its_own_sheet_is_no_picture_of_the_next_run(tmp_path, encoder, shared_encoder):
    source = plain(tmp_path / "source")
    assert main([str(source), "--sheet", str(source / "sheet.png")]) == 0
    facts, _ = inspect(Wanted(str(source)), encoder=encoder)
    assert (facts["rows"]["all"], facts["rows"]["bad"]) == (8, [])
    assert facts["notes"] == ["1 picture left out: a contact sheet or strip of bridge's own (sheet.png)"]


def test_json_is_json_and_nothing_else(tmp_path, capsys, shared_encoder):
    assert main([str(plain(tmp_path / "source")), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts) == {"source", "rows", "pictures", "duplicates", "captions", "training", "notes"}


def test_json_parses_whatever_bytes_the_folders_name_holds(tmp_path, capfdbinary, shared_encoder):
    source = plain(tmp_path / os.fsdecode(b'caf\xe9 \t"x"'))
    assert main([str(source), "--json"]) == 0
    assert json.loads(capfdbinary.readouterr().out.decode("utf-8"))["source"]["name"].endswith('caf? \t"x"')


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing here"], "source: 'nothing here' is no folder or file"),
        (["SOURCE", "--background", "octarine"], "--background: 'octarine' is no colour"),
        (["SOURCE", "--max-bad", "2"], "--max-bad: expected a finite number from 0 to 1"),
        (["SOURCE", "--out", "x", "--json"], "--json: is of a source that is only looked at; leave --out, --words and"),
        (["SOURCE", "--dim", "64"], "--dim: says how --words reads; give --words FOLDER"),
        (["SOURCE", "--all-captions"], "--all-captions: says how --words reads; give --words FOLDER"),
        (
            ["SOURCE", "--words", "x", "--sheet", "y"],
            "--sheet: is of a source that is only looked at; leave --out, --words",
        ),
        (
            ["SOURCE", "--contrastive", "x", "--json"],
            "--json: is of a source that is only looked at; leave --out, --words",
        ),
        (["EMPTY"], "has no pictures (.apng"),
        (["BAD"], "none of its rows has a picture and a caption: 00.png: its picture is empty"),
    ],
)
def test_bad_input_is_one_line_and_code_2(tmp_path, capsys, arguments, told):
    folders = {"SOURCE": plain(tmp_path / "s"), "EMPTY": tmp_path / "e", "BAD": put(tmp_path / "b", ["x"], [b""])}
    folders["EMPTY"].mkdir()
    assert main([str(folders.get(argument, argument)) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n"), told in said.err) == ("", 1, True)


def test_a_sheet_that_cannot_be_written_is_one_line(tmp_path, capsys, shared_encoder):
    assert main([str(plain(tmp_path / "source")), "--sheet", str(tmp_path / "none" / "sheet.png")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_it_runs_offline_without_a_home_and_in_an_ascii_terminal(tmp_path):
    """Faults 11 and 26."""
    captions = [*WORDS[:6], "שלום 😀", "日本語"]
    source = put(tmp_path / "source", captions, [encoded(pattern(i)) for i in range(8)])
    (source / "\udcff\n.png").write_bytes(b"")
    nowhere = {"HOME": "/dev/null/home", "HF_HOME": "/dev/null/hf", "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "train.prepare", str(source), "--max-bad", "0.5"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | nowhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Rows: 9, of which 8 can be used and 1 cannot" in done.stdout
