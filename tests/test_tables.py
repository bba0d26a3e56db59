"""Tables as spreadsheets and people write them: each case is read, or its row and the rule are named."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import datasets
import pytest

from bridge.errors import UserError
from bridge.pairs.sources import Raw, Wanted, open_source
from bridge.pairs.tables import SPLITS, find_columns, split_name
from tests.pictures import png

NAMES = [f"{name}.png" for name in "abcd"]


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(png((i, 0, 0)))
    return tmp_path


def rows_of(source: Any, **options: str) -> list[Raw]:
    return list(open_source(Wanted(str(source), **options)).rows())


def read(folder: Path, table: str | bytes, name: str = "metadata.csv") -> dict[str, Any]:
    """{file: captions} of a folder with this table, problems for captions where a row has one."""
    (folder / name).write_bytes(table if isinstance(table, bytes) else table.encode())
    return {
        raw.picture.name if isinstance(raw.picture, Path) else raw.name: raw.problem or raw.captions
        for raw in rows_of(folder)
    }


def notes_of(folder: Path) -> str:
    return "\n".join(open_source(Wanted(str(folder))).notes)


# columns and splits: one look-up for every role and every format

SPELLINGS = {
    "caption": [
        "caption",
        "Caption",
        "CAPTION ",
        " caption",
        "\ufeffcaption",
        "Captions",
        "ｃａｐｔｉｏｎ",
        "_caption",
    ],
    "image": ["file_name", "File_Name", " FILE NAME", "file-name", "FileName", "\ufefffile_name", "ｆｉｌｅ＿ｎａｍｅ"],
    "artist": ["artist", "Artist", " ARTIST ", "ａｒｔｉｓｔ"],
    "style": ["style", "Style", " STYLE ", "ｓｔｙｌｅ"],
    "split": ["split", "Split", " SPLIT ", "ｓｐｌｉｔ"],
}
ROW = {"image": "a.png", "caption": "a red car", "artist": "Ann", "style": "flat", "split": "TEST"}


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "json", "parquet", "dataset"])
@pytest.mark.parametrize(("role", "spelling"), [(role, s) for role, spellings in SPELLINGS.items() for s in spellings])
def test_every_spelling_of_every_column_is_found_in_every_format(folder, form, role, spelling):
    names = {other: SPELLINGS[other][0] for other in SPELLINGS} | {role: spelling}
    row = {names[other]: value for other, value in ROW.items()}
    if form in ("csv", "tsv"):
        lines = [*map(("," if form == "csv" else "\t").join, [row.keys(), row.values()])]
        (folder / f"metadata.{form}").write_text("\n".join(lines), encoding="utf-8")
    elif form in ("json", "jsonl"):
        text = json.dumps(row) if form == "jsonl" else json.dumps([row])
        (folder / f"metadata.{form}").write_text(text)
    else:
        data = datasets.Dataset.from_list([row])
        if form == "parquet":
            data.to_parquet(str(folder / "rows.parquet"))
        source = Wanted(str(folder / "rows.parquet") if form == "parquet" else data)
        (raw,) = open_source(source if form == "parquet" else Wanted(data)).rows()
    if form not in ("parquet", "dataset"):
        (raw,) = rows_of(folder)
    captions = raw.captions if isinstance(raw.captions, list) else [raw.captions]
    assert (captions, raw.artist, raw.style, raw.split) == (["a red car"], "Ann", "flat", "test")
    assert form == "dataset" or raw.picture == folder / "a.png"


@pytest.mark.parametrize(
    "header", ["File_Name,Caption,Split", "file_name, caption, split", '"file_name","caption","split"']
)
@pytest.mark.parametrize("word", ["test", "Test", " TEST ", "testing", "ｔｅｓｔ"])
def test_the_users_test_pictures_stay_test_pictures(folder, header, word):
    (folder / "metadata.csv").write_text(f"{header}\na.png,a red car,{word}\n", encoding="utf-8")
    assert [raw.split for raw in rows_of(folder)] == ["test"]


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_splits_under_another_name_are_read_and_told(folder, name):
    """A column that holds splits alone; one of colours, or of a single word, is none."""
    words = ("Train", "val", "")
    rows = [
        {"file": f"{c}.png", "text": c, "colour": c, "kind": "test", "subset": w}
        for c, w in zip("abc", words, strict=True)
    ]
    lines = [json.dumps(row) for row in rows]
    if name.endswith("csv"):
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    (folder / name).write_text("\n".join(lines))
    source = open_source(Wanted(str(folder)))
    assert [raw.split for raw in source.rows()] == ["train", "validation", ""]
    assert any("column subset holds names of splits, so it was read as the split" in note for note in source.notes)


@pytest.mark.parametrize(
    ("word", "name"),
    [
        *((word, "train") for word in ("Train", "TRAINING", " train\n")),
        *((word, "validation") for word in ("val", "Valid", "DEV", "Validation", "eval", "val2017")),
        *((word, "test") for word in ("test_set", "TestSet", "test images")),
        *(
            ("Seen_Validation", "seen_validation"),
            ("seen validation", "seen_validation"),
            ("fold 3", "fold 3"),
            ("", ""),
        ),
    ],
)
def test_splits_have_one_name(word, name):
    assert split_name(word) == name
    assert all(split_name(split) == split for split in SPLITS)


def test_a_column_may_be_asked_for_in_any_spelling_and_exactly_first():
    found = find_columns(["Words", "words", "File"], "x", {"caption": "words"})
    assert found == {"caption": "words", "image": "File"}
    assert find_columns(["Words ", "File"], "x", {"caption": "words"})["caption"] == "Words "


# separated values


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", " ;"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_delimiter_and_line_end_is_read(folder, delimiter, end):
    lines = [f"file_name{delimiter}caption", f"a.png{delimiter}a red car", f'b.png{delimiter}"a; b, c | d"', ""]
    assert read(folder, end.join(lines)) == {"a.png": ["a red car"], "b.png": ["a; b, c | d"]}


def test_the_delimiter_is_that_of_the_header_not_of_the_captions(folder):
    assert read(folder, "file_name;caption, in, English\na.png;red, old car\n".replace(", in, English", "")) == {
        "a.png": ["red, old car"]
    }


@pytest.mark.parametrize(
    "head",
    [
        "#file_name,caption\n",
        "# file_name,caption\n",
        "\ufeff#file_name,caption\n",
        "# made on Monday, by Ann\n\nfile_name,caption\n",
        "\n\n  \nfile_name,caption\n",
        ",,\nfile_name,caption\n",
        "sep=,\nfile_name,caption\n",
        'sep=,\r\n"file_name","caption"\r\n',
    ],
)
def test_what_stands_before_the_rows_is_understood(folder, head):
    assert read(folder, f"{head}a.png,a red car\n") == {"a.png": ["a red car"]}


def test_comments_and_blank_lines_are_no_rows_and_are_told(folder):
    (folder / "#1.png").write_bytes(png((9, 9, 9)))
    table = "file_name,caption\na.png,a car\n# b.png,an old name\n\n,,\n#1.png,number one\n#\nc.png,#1 fan\n"
    assert read(folder, table) == {"a.png": ["a car"], "#1.png": ["number one"], "c.png": ["#1 fan"]}
    assert "passed over 2 lines beginning with # and naming no picture" in notes_of(folder)


def test_a_header_that_is_a_row_is_named(folder):
    with pytest.raises(UserError, match=r"its first row names a picture; write the row file_name,caption above it"):
        read(folder, "a.png,a red car\nb.png,a blue car\n")


@pytest.mark.parametrize(
    ("cell", "caption"),
    [
        ('"Big" red circle', "Big red circle"),
        ('"a ""big"" car"', 'a "big" car'),
        ('"a "big" car"', 'a "big" car'),
        ('"a \\"big\\" car"', 'a "big" car'),
        ('a 5" nail', 'a 5" nail'),
        ('a "big" car', 'a "big" car'),
        (' "a red, old car"', "a red, old car"),
        ('"a car\nby the sea"', "a car\nby the sea"),
        ('"a\u2028b"', "a\u2028b"),
        ("a\u2028b", "a\u2028b"),
        ("it's", "it's"),
    ],
)
def test_quotes_are_read_as_spreadsheets_read_them(folder, cell, caption):
    table = f"file_name,caption\na.png,{cell}\nb.png,a tree\n"
    assert read(folder, table) == {"a.png": [caption], "b.png": ["a tree"]}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["c.png,a tree", 'c.png,a "tall" tree', 'c.png,the end"', 'c.png,"a tree"'])
def test_a_quote_that_is_not_closed_swallows_no_rows(folder, last, end):
    found = read(folder, end.join(["file_name,caption", 'a.png,"Big red circle', "b.png,a house", last, "d.png,a sea"]))
    assert sorted(found) == NAMES
    assert (found["a.png"], found["b.png"], found["d.png"]) == (["Big red circle"], ["a house"], ["a sea"])
    assert "row 1 (line 2): a quote opens and is not closed before lines that name other pictures" in notes_of(folder)


def test_a_quote_that_is_never_closed_in_a_long_table_swallows_no_rows(folder):
    rows = [f"no{i}.png,{'word ' * 20}" for i in range(4000)]
    found = read(folder, "\n".join(["file_name,caption", 'a.png,"Big red circle', *rows]))
    assert (len(found), found["a.png"]) == (4001, ["Big red circle"])


def test_a_row_with_more_cells_than_the_header_is_named_with_the_rule(folder):
    found = read(folder, 'file_name,caption\na.png,"a "big", red car"\nb.png,red, old\nc.png,a sea,,\n')
    assert found["c.png"] == ["a sea"]
    rule = "it has more cells than the header; a caption with commas needs quotes around it"
    assert found["metadata.csv row 1"] == f"{rule}, and quotes inside it are written twice"
    assert found["metadata.csv row 2"] == rule


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "cp1252", "latin-1", "utf-32"])
@pytest.mark.parametrize("name", ["metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.json"])
def test_every_usual_encoding_is_read_in_every_table(folder, encoding, name):
    rows = {"a.png": "un café", "b.png": "une forêt"}
    if name.endswith("sv"):
        table = "\n".join(
            f"{a}{',' if name.endswith('.csv') else chr(9)}{b}" for a, b in {"file": "text", **rows}.items()
        )
    else:
        told = [{"file": file, "text": text} for file, text in rows.items()]
        table = (
            json.dumps(told, ensure_ascii=False)
            if name == "metadata.json"
            else "\n".join(json.dumps(row, ensure_ascii=False) for row in told)
        )
    assert read(folder, table.encode(encoding), name) == {file: [text] for file, text in rows.items()}
    assert ("Windows-1252" in notes_of(folder)) == (encoding in ("cp1252", "latin-1"))


# JSON

PAIRS = [{"file_name": "a.png", "caption": "a car"}, {"file_name": "b.png", "caption": "a sea"}]
COCO = {
    "info": {"year": 2026},
    "images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "b.png"}],
    "annotations": [{"id": 1, "image_id": 8, "caption": "a sea"}, {"id": 2, "image_id": 7, "caption": "a car"}],
}


@pytest.mark.parametrize("name", ["metadata.json", "metadata.jsonl", "Metadata.JSONL", "list.ndjson", "metadata.csv"])
@pytest.mark.parametrize(
    "text",
    [
        "\n".join(map(json.dumps, PAIRS)),
        "\r\n".join(map(json.dumps, PAIRS)) + "\r\n",
        "\r".join(map(json.dumps, PAIRS)),
        ",\n".join(map(json.dumps, PAIRS)),
        "# made by Ann\n" + "\n\n".join(map(json.dumps, PAIRS)),
        json.dumps(PAIRS),
        json.dumps(PAIRS, indent=2),
        "\n".join(json.dumps(row, indent=2) for row in PAIRS),
        json.dumps({"rows": PAIRS, "version": 3}),
        json.dumps({"a.png": "a car", "b.png": "a sea"}),
        json.dumps({"a.png": ["a car"], "b.png": ["a sea"]}, indent=1),
        json.dumps({"a.png": {"caption": "a car"}, "b.png": {"caption": "a sea"}}),
        json.dumps({"0": PAIRS[0], "1": PAIRS[1]}),
        json.dumps({"file_name": ["a.png", "b.png"], "caption": ["a car", "a sea"]}),
        json.dumps({"file_name": {"0": "a.png", "1": "b.png"}, "caption": {"0": "a car", "1": "a sea"}}),
        json.dumps(COCO),
        "\ufeff" + json.dumps(PAIRS),
    ],
)
def test_json_is_read_however_it_is_laid_out(folder, text, name):
    if name == "metadata.csv" and text.startswith("#"):
        pytest.skip("that is a CSV with a comment")
    assert read(folder, text, name) == {"a.png": ["a car"], "b.png": ["a sea"]}


def test_a_line_separator_inside_json_ends_no_line(folder):
    text = "\n".join(json.dumps({**row, "caption": "a\u2028b"}, ensure_ascii=False) for row in PAIRS)
    assert read(folder, text, "metadata.jsonl") == {"a.png": ["a\u2028b"], "b.png": ["a\u2028b"]}


@pytest.mark.parametrize("text", ["[{'file': 'a.png', 'text': 't'}]", "file: a.png\ntext: t\n", "[1, 2]", "{file: 1}"])
def test_what_is_no_json_at_all_says_so(folder, text):
    with pytest.raises(UserError, match=r"metadata\.jsonl: holds no JSON object, (line|entry) 1 for one"):
        read(folder, text, "metadata.jsonl")


def test_one_row_that_is_no_object_is_named_by_its_line(folder):
    text = "\n".join(['{"file_name": "a.png", "caption": "a car"}', "", "[1]", '"x"'])
    found = read(folder, text, "metadata.jsonl")
    assert found["metadata.jsonl line 3"] == found["metadata.jsonl line 4"] == "it is no JSON object"


# file names


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("form", ["csv in folder", "csv", "jsonl", "txt", "parquet", "json of captions"])
def test_names_are_compared_in_one_unicode_form(tmp_path, on_disk, form):
    told = "NFD" if on_disk == "NFC" else "NFC"
    names = ["été/café.png", "naïve ☕.png", "가나.png", "Ångström.png"]
    for i, name in enumerate(names):
        file = tmp_path / unicodedata.normalize(on_disk, name)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(png((i, 0, 0)))
    names = [unicodedata.normalize(told, name) for name in names]
    source: Path = tmp_path
    if form == "txt":
        for name in names:
            folder = tmp_path / unicodedata.normalize(on_disk, Path(name).parent.name)
            (folder / Path(name).name).with_suffix(".txt").write_text("x")
    elif form == "parquet":
        source = tmp_path / "rows.parquet"
        datasets.Dataset.from_list([{"file_name": name, "caption": "x"} for name in names]).to_parquet(str(source))
    elif form == "jsonl":
        source = tmp_path / "list.jsonl"
        source.write_text("\n".join(json.dumps({"file_name": name, "caption": "x"}) for name in names))
    elif form == "json of captions":
        (tmp_path / "metadata.json").write_text(json.dumps(dict.fromkeys(names, "x")))
    else:
        source = tmp_path / "metadata.csv"
        source.write_text("\n".join(["file_name,caption", *(f"{name},x" for name in names)]), encoding="utf-8")
        source = tmp_path if form == "csv in folder" else source
    rows = rows_of(source)
    found = sorted(raw.picture.read_bytes() for raw in rows if isinstance(raw.picture, Path) and raw.picture.is_file())
    assert found == sorted(png((i, 0, 0)) for i in range(4))


@pytest.mark.parametrize("name", ["A.PNG", "./a.png", ".\\a.png", " a.png ", "A.png"])
def test_names_are_found_as_other_systems_spell_them(folder, name):
    assert list(read(folder, f"file_name,caption\n{name},a car\n")) == ["a.png"]
