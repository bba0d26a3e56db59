"""The recipe of all pictures: names, captions, colours, copies, and nothing of a held-out emoji in training."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image, ImageDraw

from bridge.captions import prepare_caption
from bridge.colours import HUES, WORDS
from bridge.text import TextEncoder
from tests.fixtures import ARTWORK
from tests.test_clipart_recipe import put
from tests.test_icons_recipe import put_package
from train.recipes import clipart, pictures
from train.recipes.drawing import colour_word, draw, drawn_of, turned
from train.recipes.emoji import EMOJIBASE, STYLES
from train.recipes.icons import Codes
from train.recipes.names import captions_of, clean_title, colour_is_free, says_nothing, with_article
from train.recipes.pictures import duplicate_numbers, hold_near, main, rank_tags, spells, taken_words
from train.recipes.writing import MissingToolError
from train.splits import Splits

RED_CAR = '<path d="M5 20h30v8h-30z" fill="#d00"/><circle cx="12" cy="30" r="4"/><circle cx="28" cy="30" r="4"/>'
"""A red body on black wheels."""
COLUMNS = ["captions", "label", "tags", "group", "artist", "style", "set", "hexcode", "family", "split", "turned"]


def put_downloads(folder: Path) -> Path:
    """What npm and apt-get would have fetched: the sample's emoji, a set of icons, one of glyphs, some clip art."""
    licences = {style.name: style.licence for style in STYLES}
    for package in (EMOJIBASE, *(style.package for style in STYLES)):
        target = folder / package.replace("@iconify-json/", "_iconify-json_").replace("@", "_")
        name = package.rpartition("@")[0].rpartition("/")[2]
        shutil.copytree(ARTWORK / "npm" / name, target)
        if name in licences:
            info = {"prefix": name, "name": name, "author": {"name": name}, "license": {"spdx": licences[name]}}
            (target / "info.json").write_text(json.dumps(info))
    put_package(folder, "flat-ui@1.2.3", names={"door": "door", "lemon-slice": "lemon", "align-left": "fire"})
    put_package(folder, "game-icons@1.2.4", "CC-BY-3.0", names={"burning-door": "fire", "small-house": "bell"})
    svg = folder / "openclipart-svg" / "usr/share/openclipart/svg"
    put(svg / "transportation", "a.svg", "sports_car 01", body=RED_CAR, width="40")
    put(svg / "transportation", "b.svg", "lemon svg theme", body=RED_CAR, width="40")
    put(svg / "transportation", "c.svg", "big bicycle")
    put(svg / "transportation", "d.svg", "old house", licence="Attribution", body=RED_CAR, width="40")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that the command wrote, and what it said."""
    folder = tmp_path_factory.mktemp("pictures")
    put_downloads(folder / "npm")
    with pytest.MonkeyPatch.context() as patch, pytest.MonkeyPatch.context() as screen:
        patch.setattr(pictures, "PALETTE_SETS", ("flat-ui@1.2.3",))
        patch.setattr(pictures, "GLYPH_SETS", ("game-icons@1.2.4",))
        said = io.StringIO()
        screen.setattr("sys.stdout", said)
        arguments = ["--out", folder / "pictures", "--downloads", folder / "npm", "--size", "32"]
        assert main([str(a) for a in arguments]) == 0
    return folder / "pictures", said.getvalue()


@pytest.fixture(scope="module")
def rows(made: tuple[Path, str]) -> list[dict[str, Any]]:
    return list(datasets.load_from_disk(str(made[0])))


def of(rows: list[dict[str, Any]], **wanted: object) -> list[dict[str, Any]]:
    """Rows whose columns have the wanted values."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


# end to end


def test_the_dataset_has_the_promised_columns(rows):
    assert sorted(rows[0]) == sorted([*COLUMNS, "duplicate", "image"])


def test_every_source_is_there_under_its_kind(rows):
    kinds = {(row["style"], row["set"]) for row in rows}
    assert {("icon", "flat-ui"), ("glyph", "game-icons"), ("clip art", "openclipart"), ("3d", "fluent-emoji")} <= kinds


def test_pictures_are_transparent_where_nothing_is_drawn(rows):
    car = of(rows, label="sports car")[0]["image"]
    assert (car.mode, car.size) == ("RGBA", (32, 32))
    assert car.getpixel((0, 0))[3] == 0
    assert car.getpixel((16, 15)) == pytest.approx((221, 0, 0, 255), abs=16)


def test_emoji_keep_their_families_and_sides(rows):
    family = Splits.load(pictures.SPLITS).family_of
    found = {row["label"]: (row["family"], row["split"]) for row in of(rows, set="twemoji", turned=False)}
    assert found["bell"] == (family["bell"], "test") and found["door"] == (family["door"], "train")
    assert {row["split"] for row in of(rows, label="fire", set="fxemoji")} == {"seen"}


def test_what_tells_of_a_held_out_emoji_is_held_whatever_its_source(rows):
    assert {row["split"] for row in rows if row["label"] in ("lemon slice", "big bicycle")} == {"held"}
    assert not [r for r in of(rows, split="train") if "lemon" in " ".join(r["captions"])]


def test_a_drawing_of_a_held_out_picture_is_held_whatever_its_name(rows):
    """The glyph "small house" is noto's bell."""
    assert of(rows, label="small house")[0]["split"] == "held"


def test_names_that_say_nothing_are_left_out_and_counted(made, rows):
    assert not {"align left", "lemon svg theme"} & {row["label"] for row in rows}
    assert "1 icon: name says nothing" in made[1] and "1 clip art: title says nothing" in made[1]


def test_the_command_says_what_there_is_of_each_kind(made):
    assert made[1].splitlines()[0].split() == ["style", "pictures", "turned", "labels", "captions", "train", "held"]
    assert made[1].splitlines()[-1] == str(made[0])


def test_icons_of_a_training_emoji_share_its_family(rows):
    assert of(rows, label="door", set="flat-ui")[0]["family"] == of(rows, label="door", set="noto")[0]["family"]


def test_copies_in_other_colours_belong_to_their_original(rows):
    car = of(rows, label="sports car")[0]
    copies = [row for row in rows if row["turned"] and row["label"].endswith(" sports car")]
    assert len(copies) == 2 and "red sports car" not in {row["label"] for row in copies}
    assert {(r["family"], r["split"], r["duplicate"]) for r in copies} == {(car["family"], "train", car["duplicate"])}
    for row in copies:
        word = row["label"].split()[0]
        assert colour_word(row["image"]) == word and all(word in caption.split() for caption in row["captions"])


def test_the_original_is_asked_for_by_its_colour_too(rows):
    assert {"a red sports car", "red sports car"} <= set(of(rows, label="sports car")[0]["captions"])


def test_a_colour_does_not_spell_a_held_out_label():
    held_out = [{"pink", "heart"}]
    captions = ["heart with ribbon", "pink heart with ribbon", "a red heart", "pink ribbon"]
    assert [c for c in captions if not spells(c, held_out)] == ["heart with ribbon", "a red heart", "pink ribbon"]


def test_only_training_pictures_are_copied(rows):
    assert {row["split"] for row in rows if row["turned"]} == {"train"}


def test_people_have_no_colour(rows):
    for row in rows:
        if row["group"] == "people & body":
            assert not any(f"{word} {row['label']}" in row["captions"] for word in WORDS)


def test_every_caption_can_be_encoded(rows):
    for row in rows:
        assert row["captions"][0] == row["label"] and len(row["captions"]) <= 8
        assert len({c.casefold() for c in row["captions"]}) == len(row["captions"])
        assert all(prepare_caption(caption) for caption in row["captions"])


def test_every_set_is_credited(made):
    credits = (made[0] / "CREDITS.md").read_text("utf-8")
    assert credits.count("\n- ") == len(STYLES) + 3
    assert "CC-BY-3.0" in credits and "public domain" in credits


def test_without_the_clip_art_the_command_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pictures, "PALETTE_SETS", ("flat-ui@1.2.3",))
    monkeypatch.setattr(pictures, "GLYPH_SETS", ("game-icons@1.2.4",))
    shutil.rmtree(put_downloads(tmp_path / "npm") / "openclipart-svg")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["--out", str(tmp_path / "out"), "--downloads", str(tmp_path / "npm")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(
        "python -m train.recipes pictures: apt-get: not found; get openclipart-svg_*_all.deb from packages."
    )
    assert not (tmp_path / "out").exists()


def test_an_archive_fetched_by_hand_needs_dpkg(tmp_path, monkeypatch):
    (tmp_path / "openclipart-svg_0.18_all.deb").write_bytes(b"")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError, match=r"dpkg-deb: not found; unpack .*openclipart-svg_0.18_all.deb into "):
        clipart.clip_art_folder(tmp_path)


def test_a_broken_archive_is_named(tmp_path):
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not installed")
    (tmp_path / "openclipart-svg_0.18_all.deb").write_bytes(b"no archive")
    with pytest.raises(MissingToolError, match=r"dpkg-deb -x .*; delete it and run again"):
        clipart.clip_art_folder(tmp_path)
    assert not (tmp_path / "openclipart-svg").exists()


# names


@pytest.mark.parametrize(
    "title",
    [
        "ppt",
        "lemon svg theme",
        "part of the flat icon collection",
        "untitled",
        "x",
        "12 34",
        "sort",
        "align left",
        "arrow right blue",
        "github logo",
        "gatto con uova",
        "one two red blue cats and dogs here",
        "",
    ],
)
def test_names_that_say_nothing(title):
    assert says_nothing(clean_title(title))


@pytest.mark.parametrize("title", ["cat", "red car", "wheelchair symbol", "key", "ox", "hot air balloon", "apple"])
def test_names_of_things_stay(title):
    assert not says_nothing(clean_title(title))


def test_a_word_that_nobody_knows_says_nothing():
    assert says_nothing("red ubmrella", {"red", "umbrella"}) and not says_nothing("red umbrella", {"red", "umbrella"})


@pytest.mark.parametrize(
    ("title", "clean"),
    [
        ("Clipart by Ann Lee - birthday_cake", "birthday cake"),
        ("Lime (B and W)", "lime"),
        ("Hotel Icon Bar or Lounge", "bar or lounge"),
        ("horse#2", "horse"),
        ("palm-tree.svg", "palm tree"),
        ("flute in C", "flute"),
    ],
)
def test_titles_are_cleaned(title, clean):
    assert clean_title(title) == clean


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hour glass", "an hour glass"),
        ("bus", "a bus"),
        ("loaf of bread", "a loaf of bread"),
        ("bread", None),
        ("swimming", None),
        ("flag: Chad", None),
        ("the moon", None),
    ],
)
def test_an_article_where_it_is_natural(name, said):
    assert with_article(name) == said


def test_only_synonyms_stand_alone():
    captions = captions_of("automobile", "flat", ["car", "drive"], "red", 1)
    assert {"car", "red car", "a red car", "automobile, flat"} <= set(captions) and "drive" not in captions


def test_a_category_and_the_label_of_another_picture_are_no_names_of_one():
    rows = [{"label": f"beast {i}", "tags": ["animal", "pet"] if i else ["animal", "pet", "fur"]} for i in range(9)]
    rows += [{"label": "hat", "tags": ["fur"]}, {"label": "beast 1: dark skin tone", "tags": ["pet", "shade"]}]
    assert taken_words(rows) - {row["label"] for row in rows} == {"animal", "pet"}
    assert taken_words(rows[1:]) - {row["label"] for row in rows} == set()


def test_what_women_are_called_stands_alone_for_no_man():
    tags = ["wizard", "witch"]
    rows: list[dict[str, Any]] = [{"label": f"{who} mage", "tags": tags} for who in ("man", "woman", "old")]
    codes = Codes(["man mage", "woman mage", "old mage", "wizard", "witch"], TextEncoder.from_pretrained())
    for row in rows:
        rank_tags(row, codes, set())
    assert [row["tags"][: row["synonyms"]] for row in rows[:2]] == [["wizard"], ["witch"]]
    assert set(rows[2]["tags"][: rows[2]["synonyms"]]) == {"wizard", "witch"}


def test_a_label_that_names_a_colour_gets_no_other():
    assert not any("brown" in caption for caption in captions_of("red apple", "flat", ["fruit"], "brown"))


@pytest.mark.parametrize("label", ["person in car", "flag on car", "red heart", "lemon", "cat", "fire", "rainbow kite"])
def test_what_has_a_colour_of_its_own_is_not_turned(label):
    assert not colour_is_free(label)


# colours


def disc(colour: tuple[int, int, int] | str, ring: str | None = None, width: int = 8) -> Image.Image:
    """A disc in one colour, with an outline, on nothing."""
    image = Image.new("RGBA", (96, 96), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((8, 8, 88, 88), colour, ring, width if ring else 0)
    return image


SHADES = {
    "red": ["#d00000", "#dd2e44", "#8b0000"],
    "orange": ["#f4900c", "#ff822d"],
    "yellow": ["#ffcc4d", "#fcc21b", "#ffee00"],
    "green": ["#77b255", "#008463", "#00aa00"],
    "blue": ["#2f88ff", "#55acee", "#00008b"],
    "purple": ["#8d65c5", "#7b2fbf"],
    "pink": ["#f4abba", "#ff69b4", "#f06292"],
    "brown": ["#8a4b38", "#a0522d"],
    "black": ["#000000", "#1b1b1b"],
    "white": ["#ffffff", "#f5f8fa"],
    "grey": ["#808080", "#99aab5", "#546e7a"],
}


@pytest.mark.parametrize(("word", "shade"), [(word, shade) for word, shades in SHADES.items() for shade in shades])
def test_a_colour_is_called_as_people_call_it(word, shade):
    assert colour_word(disc(shade)) == word


def test_an_outline_does_not_hide_the_colour():
    assert colour_word(disc("#2f88ff", "black")) == "blue"


def test_an_empty_outline_has_no_colour():
    assert colour_word(disc((0, 0, 0, 0), "#d00000", 4)) is None


def test_two_colours_have_no_word():
    image = disc("#d00000")
    image.paste("#2f88ff", (0, 0, 48, 96), image.getchannel("A").crop((0, 0, 48, 96)))
    assert colour_word(image) is None


def test_white_paper_is_no_colour():
    page = Image.new("RGBA", (96, 96), "white")
    assert colour_word(page) is None
    page.alpha_composite(disc("#d00000"))
    assert colour_word(page) == "red"


def test_nothing_has_no_colour():
    assert colour_word(Image.new("RGBA", (96, 96), (255, 0, 0, 0))) is None


@pytest.mark.parametrize("word", HUES)
@pytest.mark.parametrize("target", HUES)
def test_a_turned_picture_is_seen_in_its_new_colour(word, target):
    copy = turned(disc(SHADES[word][0], "black"), word, target)
    assert copy is not None and colour_word(copy) == target


def test_turning_keeps_the_outline_and_what_is_transparent():
    before = disc("#d00000", "black")
    after = np.asarray(turned(before, "red", "blue"))
    old = np.asarray(before)
    assert (after[..., 3] == old[..., 3]).all()
    black = (old == [0, 0, 0, 255]).all(-1)
    assert black.any() and (after[black] == old[black]).all()


# drawing, duplicates, splits


def test_clip_art_loses_its_margins_and_keeps_an_opaque_page(tmp_path):
    page = '<rect width="300" height="300" fill="#fff"/><rect x="60" y="60" width="20" height="10" fill="#00f"/>'
    image = Image.open(io.BytesIO(draw(put(tmp_path, "a.svg", body=page, width="40mm"), 64) or b""))
    assert (image.size, image.getchannel("A").getextrema()) == ((64, 64), (255, 255))
    assert (image.getpixel((32, 32)), image.getpixel((32, 4))) == ((0, 0, 255, 255), (255, 255, 255, 255))


@pytest.mark.parametrize("body", ["<g/>", '<rect width="9" height="9" fill="#fff"/>'])
def test_what_cannot_be_seen_on_white_is_left_out(tmp_path, body):
    assert drawn_of((f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">{body}</svg>', True), 32) is None
    assert drawn_of((put(tmp_path, "a.svg", body=body), True), 32) is None


def test_what_cannot_be_drawn_is_left_out():
    assert drawn_of(("<svg", True), 32) is None


def flat_rows(*shades: int, **columns: object) -> list[dict[str, Any]]:
    """Rows with plain thumbnails of these shades."""
    made = [np.full((16, 16, 3), shade, np.uint8) for shade in shades]
    return [{"thumbnail": t, "turned": False, "number": i, "split": "train", **columns} for i, t in enumerate(made)]


def test_near_duplicates_share_a_number_and_others_have_none():
    rows = flat_rows(10, 200, 12, 100)
    rows.append({"thumbnail": rows[1]["thumbnail"] // 2, "turned": True, "source": 1, "split": "train"})
    assert duplicate_numbers(rows) == [0, 1, 0, -1, 1]


def test_training_pictures_near_others_are_held():
    rows = flat_rows(10, 12, 200)
    rows[0]["split"] = "test"
    assert hold_near(rows) == 1
    assert [row["split"] for row in rows] == ["test", "held", "train"]
