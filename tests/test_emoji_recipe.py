"""The recipe of the default data, from a stand-in for npm that packs a few real icons to the finished dataset."""

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from bridge import checkpoint
from tests.fixtures import ARTWORK
from train.recipes import clipart, emoji, icons, shapes
from train.recipes.drawing import draw_on_white as draw
from train.recipes.drawing import is_blank
from train.recipes.emoji import (
    STYLES,
    caption_variants,
    emoji_entries,
    matched_icons,
    slug,
    write_dataset,
    write_emoji_labels,
)
from train.recipes.icons import icon_svg, npm_pack
from train.recipes.writing import MissingToolError, write_rows
from train.splits import Splits

ROOT = Path(__file__).parent.parent
NPM = f"""#!{sys.executable} -S
import pathlib, sys, tarfile
_, command, package, *_ = sys.argv
name = package.rpartition("@")[0].rpartition("/")[2]
source = pathlib.Path({str(ARTWORK / "npm")!r}, name)
if command != "pack" or not source.is_dir():
    sys.exit("npm error 404 Not Found: " + package)
with tarfile.open(name + ".tgz", "w:gz") as archive:
    archive.add(source, "package")
with open(pathlib.Path(__file__).with_name("calls"), "a") as calls:
    print(package, file=calls)
"""
COLUMNS = ["captions", "label", "tags", "group", "artist", "style", "hexcode", "family", "split", "image"]


def put_npm(folder: Path, script: str = NPM) -> Path:
    """A folder holding one program, `npm`, to be put first on PATH."""
    folder.mkdir()
    (folder / "npm").write_text(script)
    (folder / "npm").chmod(0o755)
    return folder


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in on PATH; returns the file that lists what it packed."""
    folder = put_npm(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder / "calls"


# end to end


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The dataset's folder, and what the command printed, with the stand-in alone on PATH."""
    folder, out = tmp_path_factory.mktemp("recipe"), io.StringIO()
    put_npm(folder / "bin")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setenv("PATH", str(folder / "bin"))
        assert emoji.main(["--out", str(folder / "emoji"), "--downloads", str(folder / "npm")]) == 0
    return folder / "emoji", out.getvalue()


@pytest.fixture(scope="module")
def made(finished: tuple[Path, str]) -> datasets.Dataset:
    """What the recipe made of the stand-in's icons."""
    return datasets.load_from_disk(str(finished[0]))


def test_the_recipe_says_only_where_its_dataset_is(finished, made):
    folder, out = finished
    assert out == f"{folder}\n"


def test_the_dataset_has_the_promised_columns(made):
    assert made.column_names == COLUMNS


def test_every_style_that_draws_a_caption_is_there(made):
    styles = {row["style"] for row in made if row["label"] == "fire"}
    assert styles == {style.name for style in STYLES}


def test_skin_tones_are_pictures_of_their_own(made):
    tones = {row["label"] for row in made if row["style"] == "noto"}
    assert {"waving hand", "waving hand: dark skin tone"} <= tones


def test_both_fluent_sets_are_one_artist(made):
    assert {row["artist"] for row in made if row["style"].startswith("fluent")} == {"fluent"}


def test_rows_get_the_committed_families_and_sides(made):
    splits = Splits.load(emoji.SPLITS)
    found = {row["label"]: (row["family"], row["split"]) for row in made if row["artist"] == "twemoji"}
    family = splits.family_of
    assert found == {
        "bell": (family["bell"], "test"),
        "door": (family["door"], "train"),
        "fire": (family["fire"], "train"),
        "lemon": (family["lemon"], "validation"),
        "waving hand": (family["waving hand"], "train"),
        "waving hand: dark skin tone": (family["waving hand"], "train"),
    }


def test_hidden_artists_are_kept_out_of_training(made):
    assert {row["split"] for row in made if (row["label"], row["artist"]) == ("fire", "fxemoji")} == {"seen"}


def test_pictures_are_those_of_the_committed_sample(made, artwork_rows):
    """Drawn again from the original SVG, the real pictures come out the same."""
    expected = {
        (r["label"], r["style"]): np.asarray(Image.open(io.BytesIO(r["png"])).convert("RGB")) for r in artwork_rows
    }
    shared = {(r["label"], r["style"]): np.asarray(r["image"]) for r in made if (r["label"], r["style"]) in expected}
    worst = max(np.abs(shared[key].astype(int) - expected[key].astype(int)).max() for key in shared)
    assert (len(shared) >= 28, worst <= 2) == (True, True)


def test_captions_begin_with_the_label(made):
    assert all(row["captions"][0] == row["label"] for row in made)


def test_group_and_code_come_from_emojibase(made):
    row = next(row for row in made if row["label"] == "lemon")
    assert (row["group"], row["hexcode"]) == ("food & drink", "1F34B")


# npm


def test_without_npm_the_recipe_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    code = emoji.main(["--out", str(tmp_path / "emoji"), "--downloads", str(tmp_path / "npm")])
    said = "npm: not found; install Node.js (Debian: apt-get install npm; macOS: brew install node) and run again"
    assert (code, capsys.readouterr().err.splitlines()[-1]) == (2, f"python -m train.recipes emoji: {said}")


def test_when_npm_fails_its_words_are_passed_on(npm, tmp_path):
    with pytest.raises(MissingToolError, match=r"npm pack left-pad@1.3.0: npm error 404 .*; check the network"):
        npm_pack("left-pad@1.3.0", tmp_path / "downloads")


def test_when_npm_fails_nothing_is_left_behind(npm, tmp_path):
    with pytest.raises(MissingToolError):
        npm_pack("left-pad@1.3.0", tmp_path / "downloads")
    assert list((tmp_path / "downloads").iterdir()) == []


def test_npm_that_packs_nothing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(put_npm(tmp_path / "bin", "#!/bin/sh\nexit 0\n")))
    with pytest.raises(MissingToolError, match="no archive"):
        npm_pack(STYLES[0].package, tmp_path / "downloads")


def test_a_package_is_fetched_once(npm, tmp_path):
    first, second = (npm_pack(STYLES[0].package, tmp_path / "downloads") for _ in range(2))
    assert (first, npm.read_text()) == (second, f"{STYLES[0].package}\n")


def test_a_package_that_another_process_fetched_meanwhile_is_taken(tmp_path, monkeypatch):
    script = (
        f"#!{sys.executable} -S\nimport os, tarfile\nos.makedirs('../a_1/theirs'); os.makedirs('package')\n"
        "with tarfile.open('a.tgz', 'w:gz') as t: t.add('package')\n"
    )
    monkeypatch.setenv("PATH", str(put_npm(tmp_path / "bin", script)))
    folder = npm_pack("a@1", tmp_path / "downloads")
    assert [path.name for path in folder.iterdir()] == ["theirs"]


def test_an_archive_that_climbs_out_of_its_folder_is_refused(tmp_path, monkeypatch):
    script = (
        f"#!{sys.executable} -S\nimport tarfile\nwith tarfile.open('a.tgz', 'w:gz') as t: t.add(__file__, '../evil')\n"
    )
    monkeypatch.setenv("PATH", str(put_npm(tmp_path / "bin", script)))
    with pytest.raises(Exception, match="outside the destination"):
        npm_pack(STYLES[0].package, tmp_path / "downloads")


# entries and icons


@pytest.fixture
def entries() -> list[dict[str, Any]]:
    return emoji_entries(ARTWORK / "npm" / "emojibase-data")


def test_skins_carry_their_parents_tags(entries):
    tags = {entry["label"]: entry["tags"] for entry in entries}
    assert tags["waving hand: dark skin tone"] == tags["waving hand"] != []


def test_an_entry_without_a_group_is_other(tmp_path):
    (tmp_path / "en").mkdir()
    (tmp_path / "en/messages.json").write_text('{"groups": []}')
    (tmp_path / "en/data.json").write_text('[{"label": "regional indicator A", "hexcode": "1F1E6", "emoji": "🇦"}]')
    assert emoji_entries(tmp_path)[0]["group"] == "other"


def icon_package(folder: Path, icons: dict[str, dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "icons.json").write_text(json.dumps({"prefix": "x", "width": 4, "height": 4, "icons": icons}))
    return folder


def entry(label: str) -> dict[str, Any]:
    return {"label": label, "tags": [], "group": "objects", "hexcode": "0", "emoji": "?"}


def test_icons_match_labels_also_with_the_dashes_elsewhere(tmp_path):
    package = icon_package(tmp_path, {"jack-o-lantern": {"body": ""}, "flag-turks-caicos": {"body": ""}})
    labels = [e["label"] for e, _ in matched_icons(package, [entry("Jack O’Lantern"), entry("cat")])]
    assert labels == ["Jack O’Lantern"]


def test_hidden_icons_are_left_out(tmp_path):
    package = icon_package(tmp_path, {"cat": {"body": "", "hidden": True}})
    assert list(matched_icons(package, [entry("cat")])) == []


def test_a_label_is_drawn_once_a_set(tmp_path):
    package = icon_package(tmp_path, {"red-heart": {"body": "a"}, "redheart": {"body": "b"}})
    assert len(list(matched_icons(package, [entry("red heart")]))) == 1


def test_slug_keeps_latin_letters_and_digits():
    assert slug("Flag: Côte d’Ivoire (1st)") == "flag-cote-divoire-1st"


def test_emoji_labels_are_written_by_character(entries, tmp_path):
    write_emoji_labels(entries, tmp_path / "labels.json")
    assert json.loads((tmp_path / "labels.json").read_text("utf-8"))["👋🏿"] == "waving hand: dark skin tone"


# drawing


def pixels(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert (image.mode, image.size) == ("RGB", (64, 64))
    return np.asarray(image)


def drawn(body: str, **icon: float) -> np.ndarray:
    return pixels(draw(icon_svg({"width": 4, "height": 4, "icons": {"a": {"body": body, **icon}}}, "a")))


def test_what_is_not_drawn_is_white():
    assert (drawn('<circle cx="2" cy="2" r="1" fill="#f00"/>')[0, 0] == 255).all()


def test_half_transparent_black_on_white_is_grey():
    assert drawn('<path d="M0 0h4v4H0z" fill-opacity=".5"/>')[32, 32].tolist() == pytest.approx([127] * 3, abs=1)


def test_a_wide_icon_is_centred_from_its_corner():
    filled = drawn('<path d="M10 0h8v4h-8z" fill="#00f"/>', left=10, width=8)
    rows = np.flatnonzero((filled[:, 32] != 255).any(1))
    assert (rows[0], rows[-1]) == (16, 47)


def test_a_picture_of_nothing_is_blank():
    assert is_blank(draw(icon_svg({"icons": {"a": {"body": "<g/>"}}}, "a")))


def test_real_artwork_is_not_blank(artwork_rows):
    assert [row["label"] for row in artwork_rows if is_blank(row["png"])] == []


# captions


def test_the_label_comes_first_and_nothing_twice():
    variants = caption_variants("fire", ["burn", "flame", "hot", "lit"], "flat")
    assert (variants[0], len(set(variants))) == ("fire", len(variants))


def test_a_skin_tone_is_said_with_with():
    assert "waving hand with dark skin tone" in caption_variants("waving hand: dark skin tone", [], "flat")


def test_other_colons_go():
    assert "flag Chad" in caption_variants("flag: Chad", [], "flat")


def test_variants_name_the_style():
    assert "fire, 3d" in caption_variants("fire", [], "3d")


def test_tags_too_short_to_mean_anything_are_left_out():
    assert not any("af" in variant for variant in caption_variants("fire", ["af", "burn"], "flat"))


def test_variants_do_not_depend_on_the_order_of_tags():
    assert caption_variants("fire", ["burn", "hot"], "flat") == caption_variants("fire", ["hot", "burn"], "flat")


def test_a_skin_tone_is_never_told_by_tags_alone():
    """Otherwise the five tones of a hand would share captions that say nothing of the tone."""
    plain = "waving hand with dark skin tone"
    variants = caption_variants("waving hand: dark skin tone", ["wave", "hello", "bye"], "flat")
    assert all(plain in variant for variant in variants[1:])


# writing


def test_an_interrupted_write_leaves_no_half_dataset(artwork_rows, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(datasets.Dataset, "save_to_disk", fail)
    with pytest.raises(OSError, match="No space left"):
        write_dataset(artwork_rows, tmp_path / "emoji")
    assert not (tmp_path / "emoji").exists()


def test_an_interrupted_write_leaves_the_old_dataset(artwork_rows, tmp_path, monkeypatch):
    write_dataset(artwork_rows[:3], tmp_path / "emoji")

    def half(_: datasets.Dataset, folder: str) -> None:
        (Path(folder) / "data-00000-of-00001.arrow").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets.Dataset, "save_to_disk", half)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(artwork_rows, tmp_path / "emoji")
    assert len(datasets.load_from_disk(str(tmp_path / "emoji"))) == 3


def test_what_an_interrupted_write_left_is_no_hindrance(artwork_rows, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)  # as if killed
        patch.setattr(datasets.Dataset, "save_to_disk", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_dataset(artwork_rows[:3], tmp_path / "emoji")
    assert len(os.listdir(tmp_path)) == 1
    write_dataset(artwork_rows[:3], tmp_path / "emoji")
    assert os.listdir(tmp_path) == ["emoji"]


def test_a_dataset_of_ours_is_replaced_with_its_credits_and_cache(artwork_rows, tmp_path):
    write_rows(emoji.FEATURES, artwork_rows[:3], tmp_path / "emoji", ["- me"])
    (tmp_path / "emoji" / ".cache").mkdir()
    (tmp_path / "emoji" / ".cache" / "features").write_text("made again")
    write_dataset(artwork_rows[:5], tmp_path / "emoji")
    assert len(datasets.load_from_disk(str(tmp_path / "emoji"))) == 5
    assert not (tmp_path / "emoji" / "CREDITS.md").exists()


@pytest.mark.parametrize("recipe", [emoji, icons, shapes, clipart])
@pytest.mark.parametrize("mine", ["thesis.txt", "photos/a.png", ".git/HEAD", "state.json", "data-00000-of-00001.arrow"])
def test_no_recipe_empties_a_folder_that_it_did_not_make(tmp_path, capsys, monkeypatch, recipe, mine):
    """At once: before anything is downloaded or drawn."""
    works = ((emoji, "collect"), (icons, "collect"), (shapes, "make_rows"), (clipart, "clip_art_folder"))
    for module, work in works:
        monkeypatch.setattr(module, work, lambda *_: pytest.fail("worked before it looked"))
    file = tmp_path / "out" / mine
    file.parent.mkdir(parents=True)
    file.write_text("years of work")
    assert recipe.main(["--out", str(tmp_path / "out")]) == 2
    assert (file.read_text(), os.listdir(tmp_path)) == ("years of work", ["out"])
    told = capsys.readouterr().err
    assert (told.count("\n"), f"{mine}: was not written by this command and would be lost" in told) == (1, True)


def test_a_folder_beside_the_dataset_is_left_alone(artwork_rows, tmp_path):
    (tmp_path / "emoji.partial").mkdir()
    (tmp_path / "emoji.partial" / "thesis.txt").write_text("years of work")
    write_dataset(artwork_rows[:3], tmp_path / "emoji")
    assert (tmp_path / "emoji.partial" / "thesis.txt").read_text() == "years of work"


def test_a_row_comes_back_as_it_was(artwork_rows, artwork_folder):
    data = datasets.load_from_disk(str(artwork_folder)).cast_column("image", datasets.Image(decode=False))
    written, row = artwork_rows[7], data[7]
    assert (row["image"]["bytes"], row["captions"]) == (written["png"], written["captions"])


@pytest.mark.parametrize("size", [16, 32])
def test_pictures_are_drawn_at_the_size_asked_for(size):
    red = icon_svg({"icons": {"a": {"body": '<path fill="red" d="M0 0h16v16H0z"/>'}}}, "a")
    x = np.asarray(Image.open(io.BytesIO(draw(red, size))))
    assert x.shape == (size, size, 3) and (x == [255, 0, 0]).all()


def test_a_size_out_of_range_is_named(capsys):
    with pytest.raises(SystemExit, match="2"):
        emoji.main(["--size", "8"])
    assert "argument --size: expected 16 to 1024 pixels, got 8" in capsys.readouterr().err
