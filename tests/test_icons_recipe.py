"""The recipe of the icon pairs: permissive sets, one drawing a caption and set, nothing of a held-out emoji."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from bridge.text import TextEncoder
from tests.fixtures import ARTWORK
from train.recipes import icons
from train.recipes.icons import Codes, IconSet, LicenceError, icon_caption, leaking
from train.splits import Splits

BODIES = json.loads((ARTWORK / "npm" / "noto" / "icons.json").read_text("utf-8"))
NAMES = {
    "door": "door",
    "door-outline": "door",
    "waving-hand-bold": "waving-hand",
    "alarm-bell": "bell",
    "lemon-slice": "lemon",
}
"""Icons of the stand-in set, and the emoji whose drawing each takes; "bell" and "lemon" are held out."""


def put_package(downloads: Path, package: str, licence: str = "MIT", names: dict[str, str] | None = None) -> Path:
    """An unpacked Iconify package, as npm would leave it."""
    folder = downloads / f"_iconify-json_{package.replace('@', '_')}"
    folder.mkdir(parents=True)
    drawn = {name: BODIES["icons"][source] for name, source in (names or NAMES).items()}
    prefix = package.partition("@")[0]
    info = {
        "prefix": prefix,
        "name": "Stand-in Icons",
        "author": {"name": "Somebody", "url": "https://example.org"},
        "license": {"spdx": licence},
        "palette": True,
    }
    (folder / "icons.json").write_text(json.dumps(BODIES | {"prefix": prefix, "icons": drawn}))
    (folder / "info.json").write_text(json.dumps(info))
    return folder


@pytest.fixture(scope="module")
def made(artwork_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes from one stand-in set."""
    folder = tmp_path_factory.mktemp("icons")
    put_package(folder / "npm", "flat-ui@1.2.3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(icons, "PALETTE_SETS", ("flat-ui@1.2.3",))
        arguments = ["--out", folder / "icons", "--emoji", artwork_folder, "--downloads", folder / "npm", "--palette"]
        assert icons.main([str(a) for a in arguments]) == 0
    return folder / "icons"


@pytest.fixture(scope="module")
def rows(made: Path) -> list[dict[str, Any]]:
    return list(datasets.load_from_disk(str(made)))


def test_names_become_captions_and_one_drawing_a_caption_stays(rows):
    assert sorted(row["label"] for row in rows) == ["door", "waving hand"]


def test_an_icon_that_tells_of_a_held_out_caption_is_left_out(rows):
    assert not {"alarm bell", "lemon slice"} & {row["label"] for row in rows}


def test_a_drawing_of_a_held_out_picture_is_left_out_whatever_its_name(artwork_folder, artwork_rows, tmp_path, capsys):
    hidden = {r["label"] for r in artwork_rows if r["style"] == "noto" and r["split"] not in ("train", "seen")}
    names = {"quiet-thing": sorted(hidden & set(BODIES["icons"]))[0], "door": "door"}
    put_package(tmp_path / "npm", "flat-ui@1.2.3", names=names)
    kept, _ = icons.collect(["flat-ui@1.2.3"], tmp_path / "npm", Splits.load(icons.SPLITS), artwork_folder)
    assert [row["label"] for row in kept] == ["door"]
    assert "1 pictures that are near held-out ones" in capsys.readouterr().err


def test_every_icon_may_be_trained_on_and_has_its_own_family(rows):
    assert {row["split"] for row in rows} == {"train"}
    assert len({row["family"] for row in rows}) == len({row["label"] for row in rows})


def test_every_set_is_credited_with_its_licence(made):
    assert "- Stand-in Icons by Somebody (https://example.org), MIT" in (made / "CREDITS.md").read_text("utf-8")


@pytest.mark.parametrize("licence", ["CC-BY-SA-4.0", "GPL-2.0-only", "OFL-1.1", None])
def test_a_set_under_another_licence_is_refused(licence, tmp_path):
    folder = put_package(tmp_path, "flat-ui@1.2.3", licence)
    with pytest.raises(LicenceError, match=f"flat-ui: its licence is {licence}; use sets under Apache-2.0, "):
        IconSet.load(folder)


def test_a_refused_set_writes_nothing(artwork_folder, tmp_path, monkeypatch, capsys):
    put_package(tmp_path / "npm", "flat-ui@1.2.3", "GPL-3.0")
    monkeypatch.setattr(icons, "PALETTE_SETS", ("flat-ui@1.2.3",))
    arguments = ["--out", tmp_path / "icons", "--emoji", artwork_folder, "--downloads", tmp_path / "npm", "--palette"]
    assert icons.main([str(a) for a in arguments]) == 2
    assert "python -m train.recipes icons: flat-ui: its licence is GPL-3.0" in capsys.readouterr().err
    assert not (tmp_path / "icons").exists()


def test_without_the_emoji_the_command_says_how_to_make_them(tmp_path, capsys):
    assert icons.main(["--emoji", str(tmp_path / "none"), "--out", str(tmp_path / "icons")]) == 2
    assert "make it with `python -m train.recipes emoji" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "caption"),
    [("alarm-clock-24-filled", "alarm clock"), ("Cat2", "cat"), ("outline", ""), ("t-shirt", "t shirt")],
)
def test_the_caption_is_the_name_without_style_and_size(name, caption):
    assert icon_caption(name) == caption


def test_of_a_captions_drawings_the_plainest_name_is_taken():
    drawn = {name: {"body": ""} for name in ("cat-bold", "cat", "cat-duotone", "a-b-c-d-e-f", "x")}
    assert IconSet({"icons": drawn}, {}).captions == {"cat": "cat"}


def test_hidden_icons_are_not_drawn():
    assert IconSet({"icons": {"cat": {"body": "", "hidden": True}}}, {}).captions == {}


def leaks(captions: list[str], splits: Splits, encoder: TextEncoder, **options: bool) -> set[str]:
    return leaking(captions, Codes([*captions, *splits.family_of], encoder), splits, **options)


def test_captions_near_a_held_out_one_leak_even_in_other_words(encoder):
    splits = Splits([["sofa"], ["door", "fire"]], ["test", "train"], {})
    assert leaks(["couch", "gateway", "red sofa"], splits, encoder) == {"couch", "red sofa"}


def test_a_word_that_a_training_label_has_too_does_not_leak(encoder):
    splits = Splits([["fire engine"], ["fire"]], ["test", "train"], {})
    assert leaks(["fire pit", "old engine"], splits, encoder) == {"old engine"}


def test_a_telling_word_leaks_in_its_plural_where_asked_for(encoder):
    splits = Splits([["anchor"], ["fire"]], ["test", "train"], {})
    found = [
        leaks(["three anchors of hope and charity"], splits, encoder, plurals=plurals) for plurals in (False, True)
    ]
    assert list(map(len, found)) == [0, 1]
