"""Sources: every way to keep captioned pictures gives the same rows, and what is wrong is named by file and row."""

import json
import os
import weakref
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bridge.errors import UserError
from bridge.images import ENDINGS, FORMATS, contact_sheet, save_png
from bridge.pairs import load_pairs, sources
from bridge.pairs.reading import Reading, survey
from bridge.pairs.sources import Raw, Wanted, open_source
from bridge.pairs.tables import SPLITS, find_columns, shown, split_name
from tests.pictures import encoded, pattern, png

CAPTIONS = {"a.png": "a red car", "b.png": "NA", "c.png": "007"}
COLOURS = {"a.png": (255, 0, 0), "b.png": (0, 255, 0), "c.png": (0, 0, 255)}


def put_pictures(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, colour in COLOURS.items():
        (folder / name).write_bytes(png(colour))
    return folder


def put_csv(folder: Path) -> Path:
    lines = [f"{name},{caption}" for name, caption in CAPTIONS.items()]
    (put_pictures(folder) / "metadata.csv").write_text("\n".join(["file_name,caption", *lines]))
    return folder


def put_jsonl(folder: Path) -> Path:
    lines = [json.dumps({"file_name": name, "text": caption}) for name, caption in CAPTIONS.items()]
    (put_pictures(folder) / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def put_texts(folder: Path) -> Path:
    for name, caption in CAPTIONS.items():
        (put_pictures(folder) / name).with_suffix(".txt").write_text(caption + "\n")
    return folder


def put_table(folder: Path) -> Path:
    lines = [f"{put_pictures(folder) / name};{caption}" for name, caption in CAPTIONS.items()]
    (folder / "list.csv").write_text("\n".join(["path;title", *lines]))
    return folder / "list.csv"


def as_dataset() -> datasets.Dataset:
    columns = {
        "image": [{"bytes": png(COLOURS[name]), "path": None} for name in CAPTIONS],
        "prompt": [*CAPTIONS.values()],
    }
    features = datasets.Features({"image": datasets.Image(), "prompt": datasets.Value("string")})
    return datasets.Dataset.from_dict(columns, features=features)


def put_saved(folder: Path) -> Path:
    as_dataset().save_to_disk(str(folder))
    return folder


def put_parquet(folder: Path) -> Path:
    folder.mkdir()
    as_dataset().to_parquet(str(folder / "rows.parquet"))
    return folder / "rows.parquet"


def put_hub(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    as_dataset().to_parquet(str(folder / "data" / "train-00000-of-00001.parquet"))
    (folder / "README.md").write_text("---\nlicense: cc0-1.0\n---\n")
    return folder


FORMS = [put_csv, put_jsonl, put_texts, put_table, put_saved, put_parquet, put_hub]


def rows_of(source: Path | str, **options: str) -> list[Raw]:
    return list(open_source(Wanted(str(source), **options)).rows())


def told(raw: Raw) -> tuple[str, bytes]:
    assert raw.picture is not None, raw.problem
    caption = raw.captions[0] if isinstance(raw.captions, list) else raw.captions
    return caption, raw.picture if isinstance(raw.picture, bytes) else raw.picture.read_bytes()


# forms


@pytest.mark.parametrize("put", FORMS, ids=lambda put: put.__name__)
def test_every_form_gives_the_same_rows(put: Callable[[Path], Path], tmp_path):
    """Also the captions "NA" and "007", which readers that guess types lose."""
    expected = [(caption, png(COLOURS[name])) for name, caption in CAPTIONS.items()]
    assert list(map(told, rows_of(put(tmp_path / "source")))) == expected


@pytest.mark.parametrize("put", FORMS, ids=lambda put: put.__name__)
def test_rows_can_be_read_twice(put, tmp_path):
    source = open_source(Wanted(str(put(tmp_path / "source"))))
    assert list(source.rows()) == list(source.rows())


@pytest.mark.parametrize("put", FORMS, ids=lambda put: put.__name__)
def test_the_fingerprint_changes_with_a_file_and_with_nothing_else(put, tmp_path):
    source = put(tmp_path / "source")
    prints = [open_source(Wanted(str(source))).fingerprint for _ in range(2)]
    changed = next(
        path for path in sorted((tmp_path / "source").rglob("*")) if path.suffix in (".png", ".arrow", ".parquet")
    )
    os.utime(changed, ns=(0, 0))
    assert (prints[0] == prints[1], open_source(Wanted(str(source))).fingerprint == prints[0]) == (True, False)


@pytest.mark.parametrize("name", ["metadata.parquet", "Metadata.PARQUET", "train.parquet", "sub/captions.parquet"])
def test_parquet_that_names_pictures_beside_it_is_read(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    put_pictures(file.parent)
    columns = {"file_name": list(CAPTIONS), "caption": list(CAPTIONS.values())}
    datasets.Dataset.from_dict(columns).to_parquet(str(file))
    assert load_pairs(tmp_path).captions == [[caption] for caption in CAPTIONS.values()]


def test_names_are_captions_only_when_asked(tmp_path):
    folder = tmp_path / "red_cars"
    folder.mkdir()
    (folder / "a-fast_car (2).png").write_bytes(png())
    with pytest.raises(UserError, match=r"1 picture and no captions; write metadata.csv .* or pass --names file"):
        open_source(Wanted(str(folder)))
    assert [rows_of(folder, names=names)[0].captions for names in ("file", "folder")] == ["a fast car", "red cars"]


def test_a_saved_dict_and_a_hub_folder_bring_their_splits(tmp_path):
    datasets.DatasetDict({"train": as_dataset(), "test": as_dataset().select([0])}).save_to_disk(
        str(tmp_path / "saved")
    )
    as_dataset().to_parquet(str(put_hub(tmp_path / "hub") / "data" / "validation-00000-of-00001.parquet"))
    assert [raw.split for raw in rows_of(tmp_path / "saved")] == ["train"] * 3 + ["test"]
    assert [raw.split for raw in rows_of(tmp_path / "hub")] == ["train"] * 3 + ["validation"] * 3


def test_tables_in_folders_called_like_splits_bring_them(tmp_path):
    (tmp_path / "all").mkdir()
    for name in ("train", "val"):
        put_csv(tmp_path / "all" / name)
    assert [raw.split for raw in rows_of(tmp_path / "all")] == ["train"] * 3 + ["validation"] * 3


def test_tables_in_folders_called_like_splits_bring_them_whatever_lies_beside_them(tmp_path):
    for name in ("Train", "TEST"):
        put_csv(tmp_path / name)
    put_pictures(tmp_path / "more")
    assert [raw.split for raw in rows_of(tmp_path)] == ["test"] * 3 + ["train"] * 3


def test_artist_style_and_split_are_read(tmp_path):
    put_pictures(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,caption,artist,style,split\na.png,car,Ann,flat,test\n")
    (raw,) = rows_of(tmp_path)
    assert (raw.artist, raw.style, raw.split) == ("Ann", "flat", "test")


def test_class_numbers_become_their_names(tmp_path):
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    columns = {"img": [{"bytes": png(), "path": None}] * 2, "label": [1, 0]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "saved"))
    assert [raw.captions for raw in rows_of(tmp_path / "saved")] == ["dog", "cat"]


def test_our_own_datasets_are_a_source(artwork_folder, artwork_rows):
    rows = rows_of(artwork_folder)
    expected = [(row["captions"], row["artist"], row["split"]) for row in artwork_rows]
    assert [(raw.captions, raw.artist, raw.split) for raw in rows] == expected


def test_several_rows_of_a_file_are_its_captions(tmp_path):
    put_pictures(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,caption\na.png,car\nb.png,tree\na.png,red car\n")
    assert [raw.captions for raw in rows_of(tmp_path)] == [["car", "red car"], ["tree"]]


def test_each_line_of_a_txt_is_a_caption(tmp_path):
    put_pictures(tmp_path)
    (tmp_path / "a.txt").write_text("\ufeffa car\n\na red car\n", encoding="utf-8")
    assert rows_of(tmp_path)[0].captions == ["a car", "a red car"]


def test_pictures_are_not_read_before_they_are_needed(tmp_path):
    rows = open_source(Wanted(str(put_csv(tmp_path)))).rows()
    (tmp_path / "c.png").unlink()
    assert [raw.picture.name for raw in rows] == ["a.png", "b.png", "c.png"]


def test_decoded_pictures_are_let_go(tmp_path):
    alive: list[weakref.ref] = []
    most = 0

    def sink(_: int, picture: object) -> None:
        nonlocal most
        alive.append(weakref.ref(picture))
        most = max(most, sum(ref() is not None for ref in alive))

    for i in range(40):
        (tmp_path / f"{i}.png").write_bytes(png((i, 0, 0)))
    survey(open_source(Wanted(str(tmp_path), names="folder")), Reading(), sink)
    assert (len(alive), most <= 2) == (40, True)


# columns


@pytest.mark.parametrize("put", FORMS[:2] + FORMS[3:], ids=lambda put: put.__name__)
def test_a_column_that_is_not_there_is_an_error_that_names_those_found(put, tmp_path):
    source = put(tmp_path / "source")
    found = "caption|text|title|prompt"
    with pytest.raises(UserError, match=rf"--caption-column: .* has no column 'words'; it has .*({found})"):
        open_source(Wanted(str(source), caption_column="words"))


def test_without_a_known_caption_column_the_error_names_those_found(tmp_path):
    put_pictures(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,words\na.png,car\n")
    with pytest.raises(UserError, match=r"no caption column .*; it has file_name, words; pass --caption-column NAME"):
        open_source(Wanted(str(tmp_path)))
    assert rows_of(tmp_path, caption_column="words")[0].captions == ["car"]


def test_without_a_known_image_column_the_error_names_those_found(tmp_path):
    (tmp_path / "list.csv").write_text("photo,caption\na.png,car\n")
    with pytest.raises(UserError, match=r"no image column .*; it has photo, caption; pass --image-column NAME"):
        open_source(Wanted(str(tmp_path / "list.csv")))
    assert rows_of(tmp_path / "list.csv", image_column="photo")[0].picture == tmp_path / "a.png"


def test_a_column_is_found_in_any_letter_case_and_the_likeliest_first():
    assert find_columns(["Label", "CAPTION ", "Img"], "x", {}) == {"caption": "CAPTION ", "image": "Img"}


# what is wrong


def problems(folder: Path) -> list[tuple[str, str]]:
    return [(raw.name, raw.problem) for raw in rows_of(folder) if raw.problem]


def test_a_caption_cut_by_a_comma_is_named_not_shortened(tmp_path):
    put_pictures(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,caption\na.png,a car\nb.png,a car, red\n")
    assert problems(tmp_path) == [
        ("metadata.csv row 2", "it has more cells than the header; a caption with commas needs quotes around it")
    ]


@pytest.mark.parametrize("line", ["{", "[]", "3"])
def test_a_broken_line_is_named(tmp_path, line):
    put_jsonl(tmp_path)
    with (tmp_path / "metadata.jsonl").open("a") as file:
        print(f"\n{line}", file=file)
    assert problems(tmp_path) == [("metadata.jsonl line 4", "it is no JSON object")]


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "x/../../a.png", "..\\a.png"])
def test_metadata_reads_nothing_outside_its_folder(tmp_path, name):
    put_csv(tmp_path / "in")
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "in" / "metadata.csv").write_text(f"file_name,caption\n{name},car\n")
    (raw,) = rows_of(tmp_path / "in")
    assert (raw.picture, raw.problem) == (None, "its file lies outside the folder; name it from the folder")


def test_a_row_without_a_picture_is_named(tmp_path):
    put_pictures(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,caption\n,car\na.png,car\n")
    assert problems(tmp_path) == [("metadata.csv row 1", "it names no picture")]


def test_pictures_without_a_txt_or_with_another_encoding_are_named(tmp_path):
    put_texts(tmp_path)
    (tmp_path / "a.txt").unlink()
    (tmp_path / "b.txt").write_bytes("красный дом".encode("cp1251"))
    (missing, unread) = problems(tmp_path)
    assert missing == ("a.png", "there is no a.txt beside it")
    assert unread[1].startswith("b.txt cannot be read: it is not UTF-8, UTF-16 or Western European text (line 1)")


def test_files_that_are_in_no_row_are_told(tmp_path):
    put_csv(tmp_path)
    (tmp_path / "more.png").write_bytes(png())
    assert open_source(Wanted(str(tmp_path))).notes == ("no row for 1 picture, more.png for one",)


def test_hidden_files_are_no_pictures(tmp_path):
    put_texts(tmp_path)
    (tmp_path / "._a.png").write_bytes(b"resource fork")
    assert len(rows_of(tmp_path)) == 3


@pytest.mark.parametrize("name", ["😀.png", "שלום.png", "日本語.png", "a\nb.png", "\udcff.png", "x" * 250 + ".png"])
def test_any_file_name_is_read_and_can_be_printed(tmp_path, name):
    (tmp_path / name).write_bytes(png())
    (raw,) = rows_of(tmp_path, names="file")
    assert raw.picture.read_bytes() == png()
    assert "\n" not in raw.name.encode("utf-8").decode()


def test_a_nul_in_a_file_name_is_no_crash(tmp_path):
    (tmp_path / "list.jsonl").write_text('{"file": "a\\u0000.png", "text": "x"}\n')
    assert rows_of(tmp_path / "list.jsonl")[0].name == "a?.png (list.jsonl line 1)"


def test_names_cannot_steer_the_terminal():
    assert shown("\x1b[2J\r\n\x00") == "?[2J???"


# damaged, missing


@pytest.mark.parametrize("source", ["nowhere/list.csv", "nothing here", "", "a\0b", "~", "x" * 5000])
def test_a_source_that_is_not_there_is_said(source):
    with pytest.raises(UserError, match="is no folder or file; a hub dataset is called like owner/name"):
        open_source(Wanted(source))


@pytest.mark.parametrize("option", ["caption_column", "image_column"])
def test_a_column_asked_for_where_no_table_is_read_is_refused(tmp_path, option):
    put_texts(tmp_path)
    told = f"--{option.replace('_', '-')}: "
    with pytest.raises(UserError, match=f"^{told}.* has captions in .txt files and no table; leave it out"):
        rows_of(tmp_path, **{option: "alt"})
    with pytest.raises(UserError, match=f"^{told}names are the captions, so no table is read"):
        rows_of(tmp_path, names="file", **{option: "alt"})


def test_a_column_asked_for_is_that_of_the_table_beside_texts(tmp_path):
    put_texts(tmp_path)
    (tmp_path / "captions.csv").write_text("file,alt\na.png,a red car")
    assert [raw.captions for raw in rows_of(tmp_path, caption_column="alt")] == [["a red car"]]


def test_another_file_is_refused(tmp_path):
    (tmp_path / "all.zip").touch()
    with pytest.raises(UserError, match=r"all\.zip is none of \.csv, \.json, .*\.parquet, .*; unpack them"):
        open_source(Wanted(str(tmp_path / "all.zip")))


def test_an_empty_folder_is_said(tmp_path):
    with pytest.raises(UserError, match="has no pictures"):
        open_source(Wanted(str(tmp_path)))


@pytest.mark.parametrize("put", [put_parquet, put_hub, put_saved])
def test_a_damaged_dataset_is_one_line(put, tmp_path):
    source = put(tmp_path / "source")
    data = next(path for path in sorted((tmp_path / "source").rglob("*")) if path.suffix in (".arrow", ".parquet"))
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(UserError, match=r"^source: .* cannot be read \(.*\)$"):
        rows_of(source)


@pytest.mark.parametrize("text", ["", "file_name,caption\n"])
def test_a_table_without_rows_is_said(tmp_path, text):
    put_pictures(tmp_path)
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(UserError, match=r"metadata\.csv: has no rows"):
        open_source(Wanted(str(tmp_path)))


def test_a_table_that_is_no_text_is_said(tmp_path):
    (tmp_path / "list.csv").write_bytes("path,caption\na.png,кот\n".encode("cp1251"))
    with pytest.raises(UserError, match=r"list\.csv: cannot be read: it is not UTF-8.* \(line 2\); save it as UTF-8"):
        open_source(Wanted(str(tmp_path / "list.csv")))


def test_a_hub_dataset_is_asked_for_by_its_name_and_its_failure_is_one_line(monkeypatch):
    asked = []

    def unreachable(source: str, name: str | None, cache_dir: str) -> None:
        asked.append((source, name))
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub\nlong story")

    monkeypatch.setattr(sources._datasets(), "load_dataset_builder", unreachable)
    with pytest.raises(UserError) as caught:
        open_source(Wanted("owner/name.v2", subset="small"))
    told = "owner/name.v2 (no folder here, so taken for a hub dataset) cannot be read (Couldn't reach"
    assert (asked, told in str(caught.value), "\n" in str(caught.value)) == ([("owner/name.v2", "small")], True, False)


# whole kinds: endings, links, what bridge drew itself


def endings_of(kinds: list[str]) -> list[str]:
    """Endings that Pillow knows of these formats."""
    Image.init()
    return sorted(ending for ending, kind in Image.EXTENSION.items() if kind in kinds and ending != ".pfm")


def test_every_ending_of_a_format_that_is_read_counts_as_a_picture():
    """But .pfm, whose pixels are floating-point."""
    assert set(endings_of(FORMATS)) <= ENDINGS


@pytest.mark.parametrize("ending", [".jfif", ".JPE", ".Jpg", ".pgm", ".PBM", ".TIFF", ".jfi", ".dib", ".WebP"])
@pytest.mark.parametrize("form", ["txt", "TXT", "csv", "names"])
def test_pictures_are_found_by_any_ending_in_any_case(tmp_path, ending, form):
    kind = Image.registered_extensions().get(ending.lower(), "JPEG")
    picture = Image.new("1" if ending == ".PBM" else "L" if ending == ".pgm" else "RGB", (8, 8))
    (tmp_path / f"a{ending}").write_bytes(encoded(picture, "PPM" if kind == "PPM" else kind))
    if form == "csv":
        (tmp_path / "metadata.csv").write_text(f"file,text\na{ending},a")
    elif form != "names":
        (tmp_path / f"a.{form}").write_text("a")
    pairs = load_pairs(tmp_path, names="file" if form == "names" else "")
    assert (pairs.captions, pairs.pictures[0].size, pairs.notes) == ([["a"]], (8, 8), ())


@pytest.mark.parametrize(
    "name", ["data.CSV", "Data.TSV", "metadata.Csv", "METADATA.JSONL", "captions.json", "x.ndjson"]
)
@pytest.mark.parametrize("where", ["file", "folder", "below"])
def test_tables_are_found_by_any_ending_in_any_case_wherever_they_stand(tmp_path, name, where):
    folder = put_pictures(tmp_path / "source")
    below = folder / "below" if where == "below" else folder
    below.mkdir(exist_ok=True)
    for picture in CAPTIONS if where == "below" else ():
        (folder / picture).rename(below / picture)
    if "json" in name.lower():
        text = json.dumps(CAPTIONS)
    else:
        delimiter = "\t" if "TSV" in name else ","
        text = "\n".join(map(delimiter.join, {"image": "text", **CAPTIONS}.items()))
    (below / name).write_text(text)
    expected = [(caption, png(COLOURS[picture])) for picture, caption in CAPTIONS.items()]
    assert list(map(told, rows_of(below / name if where == "file" else folder))) == expected


def test_parquet_is_found_in_any_case_wherever_it_stands(tmp_path):
    put_parquet(tmp_path / "source").rename(tmp_path / "source" / "Test.PARQUET")
    as_dataset().to_parquet(str(tmp_path / "source" / "train-0.PARQUET"))
    assert sorted(raw.split for raw in rows_of(tmp_path / "source")) == ["test"] * 3 + ["train"] * 3
    assert len(rows_of(tmp_path / "source" / "Test.PARQUET")) == 3


def test_what_is_not_read_is_counted_by_ending_with_the_remedy(tmp_path):
    put_texts(tmp_path)
    for name in ("d.heic", "e.HEIC", "f.svg", "g.psd", "all.zip", "list.xlsx", "film.mp4", "notes.md", "LICENSE"):
        (tmp_path / name).touch()
    (tmp_path / "d.txt").write_text("a dog")
    (note, lone) = open_source(Wanted(str(tmp_path))).notes
    assert note == (
        "not read: 2 .heic, 1 .svg, 1 .psd (save them as PNG or JPEG); 1 .mp4 (take pictures out of them); "
        "1 .zip (unpack them); 1 .xlsx (save the sheet as CSV); 1 .md; 1 without an ending"
    )
    assert lone == "no picture beside 1 .txt file, d.txt for one"


@pytest.mark.parametrize("names", ["", "file"])
def test_a_folder_of_pictures_that_are_not_read_says_so(tmp_path, names):
    for i in range(12):
        (tmp_path / f"{i}.heic").touch()
    with pytest.raises(UserError, match=r"not read: 12 \.heic \(save them as PNG or JPEG\)"):
        open_source(Wanted(str(tmp_path), names=names))


@pytest.mark.parametrize("form", ["txt", "csv", "names"])
def test_linked_files_and_folders_are_read_once_whatever_loops_there_are(tmp_path, form):
    source, away = tmp_path / "source", put_texts(tmp_path / "away")
    source.mkdir()
    (away / "deeper").mkdir()
    (away / "deeper" / "d.png").write_bytes(png((9, 9, 9)))
    (away / "deeper" / "d.txt").write_text("d")
    (source / "linked").symlink_to(away, target_is_directory=True)
    (source / "again").symlink_to(away / "deeper", target_is_directory=True)
    (source / "loop").symlink_to(source, target_is_directory=True)
    (away / "deeper" / "back").symlink_to(source, target_is_directory=True)
    (source / "up").symlink_to(tmp_path, target_is_directory=True)
    (source / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "e.png").write_bytes(png((7, 7, 7)))
    (source / "e.png").symlink_to(tmp_path / "e.png")
    (source / "e.txt").write_text("e")
    if form == "csv":
        names = [*(f"linked/{name}" for name in CAPTIONS), "linked/deeper/d.png", "e.png", "loop/e.png"]
        (source / "metadata.csv").write_text("\n".join(["file,text", *(f"{name},x" for name in names)]))
    pairs = load_pairs(source, names="file" if form == "names" else "")
    assert (len(pairs), pairs.skipped) == (5, ())


@pytest.mark.parametrize("form", ["txt", "names", "csv"])
def test_a_contact_sheet_of_ours_is_no_picture_of_the_next_run(tmp_path, form):
    put_texts(tmp_path)
    sheet = contact_sheet([[pattern(0)]], ["a cat"])
    save_png(sheet, tmp_path / "sheet-a-cat.png", {"seed": 0})
    (tmp_path / "sheet-a-cat.txt").write_text("a sheet")
    if form == "csv":
        rows = [f"{name},x" for name in [*CAPTIONS, "sheet-a-cat.png"]]
        (tmp_path / "metadata.csv").write_text("\n".join(["file,text", *rows]))
    pairs = load_pairs(tmp_path, names="file" if form == "names" else "")
    assert (len(pairs), pairs.skipped) == (3, ())
    assert "1 picture left out: a contact sheet or strip of bridge's own (sheet-a-cat.png" in "\n".join(pairs.notes)


def test_a_sheet_of_somebody_elses_is_a_picture(tmp_path):
    info = PngInfo()
    info.add_itxt("parameters", "bridge: a steel one")
    contact_sheet([[pattern(0)]], ["a cat"]).save(tmp_path / "sheet.png", pnginfo=info)
    assert len(load_pairs(tmp_path, names="file")) == 1


def drawn(folder: Path) -> None:
    """What `bridge generate --out` leaves in a folder."""
    (folder / "a-cat").mkdir(parents=True)
    facts = {"caption": "a cat", "seed": 0, "index": 0}
    save_png(pattern(5), folder / "a-cat" / "seed0-00000.png", facts)
    save_png(contact_sheet([[pattern(5)]], ["a cat"]), folder / "sheet-a-cat.png", {"seed": 0})
    (folder / "manifest.jsonl").write_text(json.dumps({"file": "a-cat/seed0-00000.png", **facts}) + "\n")


@pytest.mark.parametrize("out", ["", "out", "deeper/out"])
@pytest.mark.parametrize("form", ["txt", "names", "csv"])
def test_what_bridge_drew_into_the_folder_is_left_out(tmp_path, out, form):
    put_texts(tmp_path)
    drawn(tmp_path / out)
    if form == "csv":
        (tmp_path / "captions.csv").write_text("\n".join(["file,text", *map(",".join, CAPTIONS.items())]))
        for name in CAPTIONS:
            (tmp_path / name).with_suffix(".txt").unlink()
    pairs = load_pairs(tmp_path, names="file" if form == "names" else "")
    assert len(pairs) == 3
    assert f"left out: 1 picture that bridge drew ({out or '.'})" in "\n".join(pairs.notes)


def test_what_bridge_drew_is_read_when_it_is_what_is_asked_for(tmp_path):
    drawn(tmp_path)
    pairs = load_pairs(tmp_path)
    assert (pairs.captions, pairs.pictures[0].tobytes()) == ([["a cat"]], pattern(5).tobytes())


@pytest.mark.parametrize(
    "names", [("Train", "Test"), ("training", "VALID"), ("train", "val", "testing"), ("train_set", "Test Images")]
)
@pytest.mark.parametrize("form", ["txt", "file", "folder", "one table"])
def test_folders_called_like_splits_are_splits_in_every_form(tmp_path, names, form):
    for i, name in enumerate(names):
        (tmp_path / name / "cats").mkdir(parents=True)
        (tmp_path / name / "cats" / f"{i}.png").write_bytes(png((i, 0, 0)))
        if form == "txt":
            (tmp_path / name / "cats" / f"{i}.txt").write_text("a cat")
    if form == "one table":
        rows = [f"{name}/cats/{i}.png,a cat" for i, name in enumerate(names)]
        (tmp_path / "metadata.csv").write_text("\n".join(["file,text", *rows]))
    rows = rows_of(tmp_path, names=form if form in ("file", "folder") else "")
    assert {raw.split for raw in rows} == {split_name(name) for name in names}
    assert {split_name(name) for name in names} <= set(SPLITS)


@pytest.mark.parametrize("place", ["images/{}/a.png", "{}/images/a.png", "cat/{}/a.png", "photos/2027/{}/car/a.png"])
@pytest.mark.parametrize("form", ["txt", "folder", "one table", "tables"])
def test_splits_are_found_at_any_depth(tmp_path, place, form):
    for i, name in enumerate(("Train", "val2017")):
        file = tmp_path / place.format(name)
        file.parent.mkdir(parents=True)
        file.write_bytes(png((i, 0, 0)))
        if form == "txt":
            file.with_suffix(".txt").write_text("a cat")
        if form == "tables":
            (file.parent / "metadata.csv").write_text("file,text\na.png,a cat")
    if form == "one table":
        rows = [f"{place.format(name)},a cat" for name in ("Train", "val2017")]
        (tmp_path / "all.csv").write_text("\n".join(["file,text", *rows]))
    found = rows_of(tmp_path, names="folder" if form == "folder" else "")
    assert [raw.split for raw in found] == ["train", "validation"]
    if form == "folder" and place == "cat/{}/a.png":
        assert [raw.captions for raw in found] == ["cat", "cat"]


@pytest.mark.parametrize(
    ("beside", "told"), [("more/a.png", "more beside them is not"), ("a.png", "pictures lie beside them")]
)
def test_splits_that_are_not_taken_for_such_are_told(tmp_path, beside, told):
    for i, name in enumerate(("Train/a.png", "test/a.png", beside)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png((i, 0, 0)))
        (tmp_path / name).with_suffix(".txt").write_text("a cat")
    pairs = load_pairs(tmp_path)
    assert pairs.split == [""] * 3
    assert pairs.notes[0].startswith("folders Train, test are called like splits, but " + told)


def test_a_folder_called_train_among_others_is_a_thing(tmp_path):
    for name in ("train", "car"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(png())
    assert [(raw.captions, raw.split) for raw in rows_of(tmp_path, names="folder")] == [("car", ""), ("train", "")]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_texts_beside_pictures_are_read_in_any_encoding(tmp_path, encoding, end):
    put_pictures(tmp_path)
    for name in COLOURS:
        text = end.join(["un café", "", "une forêt; au loin", ""])
        (tmp_path / name).with_suffix(".txt").write_bytes(text.encode(encoding))
    pairs = load_pairs(tmp_path)
    assert pairs.captions == [["un café", "une forêt; au loin"]] * 3
    told = "3 rows: its .txt is not UTF-8; it was read as Windows-1252 (a.png)"
    assert pairs.notes == ((told,) if encoding == "cp1252" else ())


def test_a_txt_may_carry_the_whole_name_of_its_picture(tmp_path):
    put_pictures(tmp_path)
    for name, caption in CAPTIONS.items():
        (tmp_path / f"{name}.TXT").write_text(caption)
    assert [raw.captions for raw in rows_of(tmp_path)] == [[caption] for caption in CAPTIONS.values()]


@pytest.mark.parametrize("data", [{}, {"train": 5}])
def test_a_dictionary_of_anything_but_datasets_is_named(data):
    with pytest.raises(UserError, match="source: expected datasets by the names of their splits; pass"):
        load_pairs(data)


def test_a_size_of_no_pixels_is_refused(tmp_path):
    with pytest.raises(UserError, match="size: expected 8 to 1024 pixels, got 0"):
        load_pairs(put_texts(tmp_path), image_size=0)


@pytest.mark.parametrize("data", [None, 5, ["a.png"]])
def test_what_is_no_source_is_named(data):
    with pytest.raises(UserError, match="source: expected a folder, a file, a hub id or a dataset, got"):
        load_pairs(data)
