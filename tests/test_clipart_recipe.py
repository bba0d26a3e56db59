"""Debian's clip art as captioned pictures: titles for captions, public domain only, margins cut off."""

import csv
from pathlib import Path

import pytest
from PIL import Image

from train.recipes.clipart import collect, draw, main, read_drawing

SVG = """<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="40mm"
  xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:dc="http://purl.org/dc/elements/1.1/">
<metadata><rdf:RDF xmlns:cc="http://web.resource.org/cc/"><cc:Work><dc:title>{title}</dc:title>
<dc:creator><cc:Agent><dc:title>Ann</dc:title></cc:Agent></dc:creator>
<cc:license rdf:resource="http://web.resource.org/cc/{licence}"/></cc:Work></rdf:RDF></metadata>{body}</svg>"""
SQUARE = '<rect x="20" y="60" width="40" height="20" fill="#f00"/>'


def put(
    folder: Path, name: str, title: str = "cat", licence: str = "PublicDomain", body: str = SQUARE, width: str = "40mm"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(SVG.format(title=title, licence=licence, body=body, width=width), encoding="utf-8")
    return folder / name


def test_the_title_is_the_caption_and_not_the_creators(tmp_path):
    drawing = read_drawing(put(tmp_path, "a.svg", "a\n red  cat"))
    assert drawing is not None
    assert (drawing.title, drawing.artist) == ("a red cat", "Ann")


@pytest.mark.parametrize("options", [{"licence": "Attribution"}, {"title": " "}, {"body": "<g>"}])
def test_another_licence_no_title_or_damage_leaves_a_drawing_out(tmp_path, options):
    assert read_drawing(put(tmp_path, "a.svg", **options)) is None


@pytest.mark.parametrize("text", ["", "<svg", '<svg xmlns="http://www.w3.org/2000/svg"/>'])
def test_a_file_without_metadata_is_left_out(tmp_path, text):
    (tmp_path / "a.svg").write_text(text)
    assert read_drawing(tmp_path / "a.svg") is None


def test_titles_that_many_share_name_a_collection(tmp_path):
    for i in range(4):
        put(tmp_path / "x", f"{i}.svg", "Icons")
    for i in range(3):
        put(tmp_path, f"{i}.svg", "cat")
    assert [drawing.title for drawing in collect(tmp_path)] == ["cat"] * 3


def test_margins_are_cut_off(tmp_path):
    """The page is 40 mm, 151 pixels of 96 to the inch; its rectangle is two wide and one high."""
    (tmp_path / "a.png").write_bytes(draw(put(tmp_path, "a.svg"), 151) or b"")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (40, 20)
        assert image.getpixel((20, 10)) == (255, 0, 0)


@pytest.mark.parametrize("options", [{"body": ""}, {"width": "0"}])
def test_what_shows_nothing_or_cannot_be_drawn_is_left_out(tmp_path, options):
    assert draw(put(tmp_path, "a.svg", **options), 64) is None


def test_the_command_writes_pictures_and_their_table(tmp_path):
    put(tmp_path / "svg", "a.svg", "../evil, cat")
    put(tmp_path / "svg", "b.svg", "nothing", body="")
    assert main(["--svg", str(tmp_path / "svg"), "--out", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "metadata.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["caption"], row["artist"]) == ("../evil, cat", "Ann")
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {row["file_name"]}


def test_a_folder_without_drawings_is_one_line(tmp_path, capsys):
    assert main(["--svg", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "has no public-domain SVG with a title" in capsys.readouterr().err
