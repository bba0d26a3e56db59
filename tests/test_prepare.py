"""Own pictures become a dataset: every fault is done to them, and what is written is whole and leaks nothing."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from bridge.checkpoint import verify_folder
from bridge.errors import UserError
from bridge.pairs.reading import Pair, Survey, UnusableError, clean_caption
from bridge.pairs.sources import Wanted
from eval.data import Pictures
from tests.pictures import bomb, encoded, pattern, png
from train import prepare as prepare_module
from train import splits as splits_module
from train.data.dataset import load_dataset, rows_of
from train.prepare import FACTS, Reading, main, prepare
from train.splits import (
    close_pairs,
    find_families,
    hold_out,
    leader_families,
    near_groups,
    partition,
    same_words,
)

WORDS = (
    *("anchor", "balloon", "bicycle", "candle", "castle", "cloud", "drum", "envelope"),
    *("feather", "giraffe", "hammer", "island", "jar", "kettle", "ladder", "moon"),
)
LOOSE = Reading(size=16, max_bad=0.5)


def put(
    folder: Path, captions: list[Any] | None = None, pictures: dict[int, bytes] | None = None, **columns: Any
) -> Path:
    """A folder with metadata.jsonl: picture i is `pattern(i)` with caption i, but those given."""
    folder.mkdir(parents=True, exist_ok=True)
    captions = list(WORDS) if captions is None else captions
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as file:
        for i, caption in enumerate(captions):
            (folder / f"{i}.png").write_bytes((pictures or {}).get(i, encoded(pattern(i))))
            row = {"file_name": f"{i}.png", "caption": caption} | {name: values[i] for name, values in columns.items()}
            print(json.dumps(row), file=file)
    return folder


@pytest.fixture
def made(tmp_path, encoder):
    """Prepares `put(...)`; returns the dataset and prepared.json."""

    def make(*args: Any, how: Reading = LOOSE, resplit: bool = False, **columns: Any) -> tuple[Any, dict[str, Any]]:
        source = put(tmp_path / "source", *args, **columns)
        out = prepare(source, tmp_path / "out", how, resplit=resplit, encoder=encoder)
        return datasets.load_from_disk(str(out)), json.loads((out / FACTS).read_text("utf-8"))

    return make


def by_label(data: Any) -> dict[str, np.ndarray]:
    return {row["label"]: np.asarray(row["image"]) for row in data}


# what is written


def test_training_and_the_judge_read_it(made, tmp_path):
    made(artist=["Ann"] * 16, style=["flat"] * 16)
    data, pictures = load_dataset(tmp_path / "out"), Pictures.load(tmp_path / "out")
    assert data.column_names == ["image", "captions", "label", "artist", "style", "family", "split", "source"]
    assert len(rows_of(data, "train")) > len(rows_of(data, "validation")) > 0
    assert (len(pictures.where("test")) > 0, set(pictures.artist)) == (True, {"Ann"})
    assert data[0]["image"].size == (16, 16)


def test_pictures_keep_their_captions(made):
    data, _ = made(how=Reading(size=32))
    assert {label: image.tobytes() for label, image in by_label(data).items()} == {
        word: pattern(i).tobytes() for i, word in enumerate(WORDS)
    }


def test_several_captions_stay_with_their_picture(made):
    data, _ = made([["a cat", " ", "a black cat"], *WORDS])
    assert [row["captions"] for row in data if row["label"] == "a cat"] == [["a cat", "a black cat"]]


def test_rows_of_the_same_bytes_are_one_picture(made):
    data, facts = made(["cat", "dog", "pet", *WORDS], {2: encoded(pattern(0))})
    assert [row["captions"] for row in data if row["label"] == "cat"] == [["cat", "pet"]]
    assert (facts["rows"], facts["joined_rows"], len(data)) == (19, 1, 18)


def test_a_second_time_nothing_is_done(made, tmp_path, encoder, monkeypatch):
    made()
    monkeypatch.setattr(prepare_module, "survey", lambda *_: pytest.fail("read again"))
    assert prepare(tmp_path / "source", tmp_path / "out", LOOSE, encoder=encoder) == tmp_path / "out"


@pytest.mark.parametrize("change", ["size", "seed", "picture", "caption"])
def test_a_folder_of_anything_else_is_refused_and_left_alone(made, tmp_path, encoder, change):
    made()
    how, seed = Reading(size=8, max_bad=0.5) if change == "size" else LOOSE, int(change == "seed")
    if change == "picture":
        (tmp_path / "source" / "3.png").write_bytes(png())
    if change == "caption":
        put(tmp_path / "source", ["other", *WORDS[1:]])
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(UserError, match=r"out: .* was made of another source, of other files or with other settings"):
        prepare(tmp_path / "source", tmp_path / "out", how, seed, encoder=encoder)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path, encoder):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"is no dataset made by train\.prepare; choose another folder$"):
        prepare(put(tmp_path / "source"), tmp_path / "out", LOOSE, encoder=encoder)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_a_damaged_dataset_is_not_taken_for_done(made, tmp_path, encoder):
    made()
    data = tmp_path / "out" / "data-00000-of-00001.arrow"
    data.write_bytes(data.read_bytes()[:-8])
    with pytest.raises(UserError, match="damaged"):
        prepare(tmp_path / "source", tmp_path / "out", LOOSE, encoder=encoder)


def test_a_full_disk_leaves_nothing(tmp_path, encoder, monkeypatch):
    def half(_: datasets.Dataset, folder: str) -> None:
        (Path(folder) / "data-00000-of-00001.arrow").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(datasets.Dataset, "save_to_disk", half)
    put(tmp_path / "source")
    with pytest.raises(OSError, match="No space left"):
        prepare(tmp_path / "source", tmp_path / "out", LOOSE, encoder=encoder)
    assert os.listdir(tmp_path) == ["source"]


def test_what_is_written_is_whole_and_holds_no_scratch_files(made, tmp_path):
    made()
    verify_folder(tmp_path / "out")
    names = {"data-00000-of-00001.arrow", "dataset_info.json", "manifest.json", FACTS, "state.json"}
    assert set(os.listdir(tmp_path / "out")) == names


# faults 1, 2, 7: bad pictures

BAD = {
    "empty": (b"", "its picture is empty (0 bytes)"),
    "truncated png": (encoded(pattern(9, 64))[:-200], "cannot be read as a picture"),
    "truncated jpeg": (encoded(pattern(9, 64), "JPEG")[:-200], "cannot be read as a picture"),
    "text": (b"not a picture", "is no picture of a known format"),
    "bomb": (bomb(), "pixels"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_picture_is_skipped_counted_and_named(made, kind):
    """Faults 1, 2 and 7: the truncated ones pass Pillow's verify()."""
    data, facts = made(None, {3: BAD[kind][0]})
    assert (len(data), facts["bad_rows"], facts["bad"][0]["row"]) == (15, 1, "3.png (metadata.jsonl line 4)")
    assert BAD[kind][1] in facts["bad"][0]["why"]
    assert WORDS[3] not in data["label"]


def test_a_missing_picture_is_skipped_and_named(tmp_path, encoder):
    (put(tmp_path / "source") / "5.png").unlink()
    out = prepare(tmp_path / "source", tmp_path / "out", LOOSE, encoder=encoder)
    bad = json.loads((out / FACTS).read_text())["bad"]
    assert bad == [{"row": "5.png (metadata.jsonl line 6)", "why": "there is no such file"}]


def test_a_pipe_called_like_a_picture_does_not_hang(tmp_path, encoder):
    (put(tmp_path / "source") / "5.png").unlink()
    os.mkfifo(tmp_path / "source" / "5.png")
    out = prepare(tmp_path / "source", tmp_path / "out", LOOSE, encoder=encoder)
    assert json.loads((out / FACTS).read_text())["bad"][0]["why"] == "there is no such file"


@pytest.mark.parametrize(("bad", "fails"), [(1, False), (2, True)])
def test_more_bad_rows_than_allowed_fail_the_run(tmp_path, encoder, bad, fails):
    """Fault 1: of 16 rows a share of .1 allows one."""
    source, how = put(tmp_path / "source", None, dict.fromkeys(range(bad), b"")), Reading(16, max_bad=0.1)
    if not fails:
        assert prepare(source, tmp_path / "out", how, encoder=encoder).is_dir()
        return
    with pytest.raises(UserError, match=r"2 of 16 rows are bad, more than max-bad 0\.1 allows, first 0\.png"):
        prepare(source, tmp_path / "out", how, encoder=encoder)
    assert os.listdir(tmp_path) == ["source"]


def test_bad_pictures_in_parquet_are_named_by_row(tmp_path, encoder):
    pictures = [{"bytes": b"" if i == 3 else encoded(pattern(i)), "path": None} for i in range(16)]
    features = datasets.Features({"image": datasets.Image(decode=False), "text": datasets.Value("string")})
    columns = {"image": pictures, "text": [*WORDS[:7], None, *WORDS[8:]]}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(tmp_path / "rows.parquet"))
    out = prepare(tmp_path / "rows.parquet", tmp_path / "out", LOOSE, encoder=encoder)
    bad = [(bad["row"], bad["why"]) for bad in json.loads((out / FACTS).read_text())["bad"]]
    assert bad == [("row 4", "its picture is empty (0 bytes)"), ("row 8", "its caption is missing")]
    with pytest.raises(UserError, match=r"2 of 16 rows are bad, more than max-bad 0\.1 allows, first row 4"):
        prepare(tmp_path / "rows.parquet", tmp_path / "other", Reading(16, max_bad=0.1), encoder=encoder)


# faults 3 to 6: other pictures


def sixteen_bit() -> bytes:
    return encoded(Image.fromarray(np.full((16, 16), 128 * 257, np.uint16)))


def rotated() -> bytes:
    image = Image.new("RGB", (16, 16), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 3
    return encoded(image, exif=exif)


@pytest.mark.parametrize(
    ("picture", "corner"),
    [
        (encoded(Image.new("RGBA", (16, 16), (0, 255, 0, 0))), (10, 20, 30)),
        (sixteen_bit(), (128, 128, 128)),
        (encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
        (encoded(Image.new("RGB", (16, 16), (255, 0, 0)).quantize(2), "GIF"), (255, 0, 0)),
        (rotated(), (0, 0, 255)),
    ],
    ids=["transparent", "16 bits", "CMYK", "palette", "EXIF"],
)
def test_colours_are_right_and_the_right_way_up(made, picture, corner):
    """Faults 3 to 5."""
    data, _ = made(None, {2: picture}, how=Reading(16, background=(10, 20, 30)))
    assert tuple(by_label(data)[WORDS[2]][0, 0]) == corner


def test_an_animation_gives_its_first_frame(made):
    """Fault 6; train.prepare without --out says how many there are."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("white", "red")]
    data, _ = made(None, {2: encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])})
    assert by_label(data)[WORDS[2]][0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("fit", "corner"), [("pad", (255, 255, 255)), ("crop", (255, 0, 0))])
def test_a_wide_picture_is_padded_or_cropped(made, fit, corner):
    data, _ = made(None, {2: png((255, 0, 0), (40, 20))}, how=Reading(16, fit))
    assert tuple(by_label(data)[WORDS[2]][0, 8]) == corner


@pytest.mark.parametrize("options", [{"fit": "stretch"}, {"size": 0}, {"size": 10**9}, {"max_bad": 2.0}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(UserError, match=f"{next(iter(options)).replace('_', '-')}: expected"):
        Reading(**options)


# faults 9 to 11: captions


@pytest.mark.parametrize("caption", ["", " \n\t", "\u200b", "\0", None, float("nan"), "nan", "NaN", 7, ["", None], []])
def test_a_caption_of_nothing_is_rejected_with_its_row(made, caption):
    """Fault 9."""
    data, facts = made([*WORDS[:3], caption, *WORDS[4:]])
    assert (facts["bad_rows"], facts["bad"][0]["row"]) == (1, "3.png (metadata.jsonl line 4)")
    assert "caption" in facts["bad"][0]["why"]
    assert not {"nan", "None", ""} & {label.casefold() for label in data["label"]}


def test_an_empty_cell_of_a_csv_is_rejected(tmp_path, encoder):
    folder = put(tmp_path / "source")
    (folder / "metadata.jsonl").unlink()
    lines = [f"{i}.png,{'' if i == 3 else word}" for i, word in enumerate(WORDS)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,caption", *lines]))
    out = prepare(folder, tmp_path / "out", LOOSE, encoder=encoder)
    bad = json.loads((out / FACTS).read_text())["bad"]
    assert bad == [{"row": "3.png (metadata.csv row 4)", "why": "its caption is empty or blank"}]


def test_a_very_long_caption_is_kept_whole(made):
    """Fault 10: what the encoder cuts is told where a source is looked at."""
    long = "story " * 300
    data, _ = made([long, *WORDS[1:]])
    assert long.strip() in data["label"]


def test_any_language_is_kept_and_equal_text_is_one_caption(made):
    """Fault 11: emoji, right to left, NUL, half characters, two spellings of é."""
    captions = ["😀 smile", "שלום עולם", "日本語の猫", "a\0b", "x\ud83dy", "cafe\u0301", "caf\u00e9"]
    data, _ = made([*captions, *WORDS[7:]])
    told = set(data["label"])
    assert {"😀 smile", "שלום עולם", "日本語の猫", "a b", "x y", "café"} <= told
    assert sum(label == "café" for label in data["label"]) == 2
    assert "cafe\u0301" not in told


@pytest.mark.parametrize("value", [b"cat", 3.5, {"text": "cat"}, True])
def test_what_is_no_text_is_no_caption(value):
    with pytest.raises(UnusableError, match="its caption is no text but"):
        clean_caption(value)


# fault 12: leaks


def sides(data: Any) -> dict[str, str]:
    return dict(zip(data["label"], data["split"], strict=True))


def test_near_captions_and_shared_captions_share_a_split(tmp_path, encoder):
    captions = [*WORDS, "a red car", "the red car!", ["sofa", "thing x"], ["volcano", "Thing X"]]
    for seed in range(4):
        source = put(tmp_path / "source", captions)
        out = prepare(source, tmp_path / f"out{seed}", LOOSE, seed, encoder=encoder)
        split = sides(datasets.load_from_disk(str(out)))
        assert split["a red car"] == split["the red car!"]
        assert split["sofa"] == split["volcano"]


@pytest.mark.parametrize("mirrored", [False, True])
def test_near_pictures_share_a_split_whatever_their_captions(tmp_path, encoder, mirrored):
    twin = np.asarray(pattern(0))[:, ::-1] if mirrored else np.asarray(pattern(0))
    twin = encoded(Image.fromarray(np.clip(twin.astype(int) + 2, 0, 255).astype(np.uint8)))
    for seed in range(4):
        source = put(tmp_path / "source", None, {7: twin})
        out = prepare(source, tmp_path / f"out{seed}", LOOSE, seed, encoder=encoder)
        split = sides(datasets.load_from_disk(str(out)))
        assert split[WORDS[0]] == split[WORDS[7]]
        assert json.loads((out / FACTS).read_text())["leaks"] == []


def test_leaks_in_the_sources_own_splits_are_reported_and_kept(made):
    split = ["train"] * 12 + ["val", "val", "test", "test"]
    captions = [*WORDS[:12], "The anchor.", *WORDS[13:]]
    data, facts = made(captions, {15: encoded(pattern(1))}, split=split)
    assert data["split"] == ["train"] * 12 + ["validation"] * 2 + ["test"] * 2
    told = "\n".join(facts["leaks"])
    assert facts["leak_count"] == 2
    assert "caption 'anchor' (0.png (metadata.jsonl line 1)) in train, 'The anchor.' (12.png" in told
    assert "picture 1.png (metadata.jsonl line 2) in train, 15.png (metadata.jsonl line 16) in test" in told


def test_the_sources_own_splits_can_be_left_aside(made):
    _, facts = made(["anchor", "anchor", *WORDS[2:]], split=["train", "test"] + ["train"] * 14, resplit=True)
    assert (facts["leaks"], set(facts["pictures"])) == ([], {"train", "validation", "test"})


def test_a_source_without_validation_gets_one_of_its_training_families(made):
    data, facts = made(split=["train"] * 12 + ["test"] * 4)
    assert data["split"][12:] == ["test"] * 4
    assert (data["split"][:12].count("validation"), "for validation" in facts["notes"][0]) == (1, True)


@pytest.mark.parametrize("names", [["train"] * 15 + ["extra"], ["train"] * 15 + [""]])
def test_an_unknown_split_is_an_error_that_names_its_row(made, names):
    with pytest.raises(UserError, match=r"split: 15\.png \(metadata\.jsonl line 16\) has split .*or pass --resplit"):
        made(split=names)


def test_a_near_duplicate_of_a_held_out_picture_is_left_out_of_training(monkeypatch):
    found = survey_of(["a", "b", "c", "d", "e"])
    found.thumbnails[4] = np.clip(found.thumbnails[0].astype(int) + 6, 0, 255)  # farther than SAME, nearer than LEAK
    monkeypatch.setattr(
        splits_module,
        "hold_out",
        lambda family, *_: {int(family[0]): "test", **dict.fromkeys(family[1:].tolist(), "train")},
    )
    plan = partition(found, near_groups(found.thumbnails), lambda labels: np.eye(len(labels)))
    assert (plan.split, plan.leaks) == (["test", "train", "train", "train", ""], ())


def test_some_pictures_of_well_known_captions_are_hidden(made):
    """So that train.mapper has its "seen_validation"."""
    _, facts = made([word for word in WORDS for _ in range(5)])
    counts = facts["pictures"]
    assert counts["seen"] == counts["seen_validation"] == 2
    assert facts["leaks"] == []


# fault 13: little data


@pytest.mark.parametrize("captions", [["cat"], ["cat"] * 20, ["cat", "mountain"]])
def test_too_few_families_are_a_clear_error(made, captions):
    with pytest.raises(UserError, match=r"its captions form \d families, too few to hold out one each for"):
        made(captions)


def test_three_families_are_enough(made):
    data, _ = made(["cat", "mountain", "trumpet"])
    assert sorted(data["split"]) == ["test", "train", "validation"]


def test_one_picture_with_a_split_of_its_own_is_enough(made):
    data, _ = made(["cat", "dog"], split=["train", "validation"])
    assert data["split"] == ["train", "validation"]


def test_nothing_usable_is_a_clear_error(made):
    with pytest.raises(UserError, match=r"none of its rows has a picture and a caption: 0\.png"):
        made([None], how=Reading(16, max_bad=1.0))


# families


def survey_of(captions: list[str]) -> Survey:
    pairs = [
        Pair(f"row {i}", (text,), "", "", "", str(i), (8, 8), "RGB", "PNG", False) for i, text in enumerate(captions)
    ]
    return Survey(pairs, np.stack([np.asarray(pattern(i, 16)) for i in range(len(captions))]))


def unit(*angles: float) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def test_leaders_gather_what_is_near_them_and_nothing_else():
    families = leader_families(unit(0.0, 0.1, 2.0, 0.2, 2.1, 4.0), distance=0.05, block=2)
    assert families.tolist() == [0, 0, 1, 0, 1, 2]


def test_leaders_do_not_depend_on_the_block():
    codes = np.random.default_rng(0).normal(size=(200, 3))
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    expected = leader_families(codes, 0.2, block=1)
    assert all((leader_families(codes, 0.2, block=block) == expected).all() for block in (7, 64, 1000))
    assert 1 < len(set(expected.tolist())) < 200


@pytest.mark.parametrize(
    ("linked", "most", "note"), [(99, 99, ""), (2, 99, "grouped by leaders"), (1, 2, "same words")]
)
def test_more_labels_take_faster_ways_to_families(monkeypatch, linked, most, note):
    monkeypatch.setattr(splits_module, "MAX_LINKED", linked)
    monkeypatch.setattr(splits_module, "MAX_ENCODED", most)
    pairs = survey_of(["A cat", "a cat!", "dog"]).pairs
    family, notes = find_families(pairs, np.arange(3), lambda labels: unit(0.0, 0.1, 2.0))
    assert (family[0] == family[1] != family[2], note in "".join(notes)) == (True, True)


def test_a_caption_of_very_many_labels_joins_nothing(monkeypatch):
    monkeypatch.setattr(splits_module, "MAX_HELD_OUT", 2)
    pairs = [replace(pair, captions=(*pair.captions, "a picture")) for pair in survey_of(["a", "b", "c"]).pairs]
    family, notes = find_families(pairs, np.arange(3), lambda labels: np.eye(3))
    assert len(set(family.tolist())) == 3
    assert notes == ["1 captions stand with more than 2 labels; they join no families"]


def test_a_family_of_most_pictures_is_kept_for_training():
    family = np.array([0] * 50 + list(range(1, 11)))
    for seed in range(20):
        assert hold_out(family, [str(number) for number in family], seed, ("test", "validation"))[0] == "train"


def test_shares_are_84_8_8_and_a_seed_holds_out_others():
    family = np.arange(100)
    plans = [hold_out(family, [f"word {i}" for i in family], seed, ("test", "validation")) for seed in (0, 0, 1)]
    assert [list(plans[0].values()).count(name) for name in ("train", "validation", "test")] == [84, 8, 8]
    assert (plans[0] == plans[1], plans[0] == plans[2]) == (True, False)


def test_words_alone_count():
    assert same_words("A Red car!") == same_words("the red  CAR") != same_words("red cars")
    assert same_words("!!!") == "!!!"


def test_near_groups_are_those_of_a_comparison_of_all():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (60, 4, 4, 3))
    noisy = np.clip(base[rng.integers(0, 60, 300)] + rng.integers(-6, 7, (300, 4, 4, 3)), 0, 255)
    flip = rng.random(300) < 0.5
    thumbnails = np.where(flip[:, None, None, None], noisy[:, :, ::-1], noisy).astype(np.uint8)
    groups = near_groups(thumbnails, block=32)
    pictures = thumbnails / 255
    pairs = np.concatenate([close_pairs(pictures, pictures, 0.02, mirrored=mirrored) for mirrored in (False, True)])
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    assert len(pairs) > 50
    assert (groups[pairs[:, 0]] == groups[pairs[:, 1]]).all()
    reached = {frozenset(np.flatnonzero(groups == g).tolist()) for g in groups}
    assert len(reached) == 300 - np.linalg.matrix_rank(np.eye(300)[pairs[:, 0]] - np.eye(300)[pairs[:, 1]])


def test_very_many_equal_pictures_are_one_group():
    assert set(near_groups(np.zeros((20_000, 16, 16, 3), np.uint8)).tolist()) == {0}


# fault 23: names


@pytest.mark.parametrize("caption", ["../../etc/passwd", "/abs", "CON", "x" * 5000, "a/b\\c"])
def test_captions_never_become_file_names(made, tmp_path, caption):
    """Fault 23: the dataset is a fixed handful of files, whatever its captions."""
    data, _ = made([caption, *WORDS[1:]])
    assert caption in data["label"]
    assert set(os.listdir(tmp_path)) == {"source", "out"}


# the command


def test_the_command_prints_the_folder(tmp_path, capsys):
    source = put(tmp_path / "source", None, {3: b""})
    assert main([str(source), "--out", str(tmp_path / "out"), "--size", "16", "--max-bad", "0.5"]) == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'out'}\n"
    assert "left out: 3.png (metadata.jsonl line 4): its picture is empty (0 bytes)" in said.err


@pytest.mark.parametrize("options", [["--background", "octarine"], ["--size", "4"], ["--caption-column", "words"]])
def test_bad_input_is_one_line_and_code_2(tmp_path, capsys, options):
    assert main([str(put(tmp_path / "source")), "--out", str(tmp_path / "out"), *options]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n"), said.err.startswith("python -m train.prepare: ")) == ("", 1, True)
    assert os.listdir(tmp_path) == ["source"]


def test_wanted_columns_reach_the_source(tmp_path, encoder):
    source = put(tmp_path / "source", None, words=[f"{word} drawing" for word in WORDS])
    out = prepare(Wanted(str(source), caption_column="words"), tmp_path / "out", LOOSE, encoder=encoder)
    assert all(label.endswith(" drawing") for label in datasets.load_from_disk(str(out))["label"])


# advice


@pytest.mark.parametrize("opened", [load_dataset, Pictures.load])
def test_a_folder_of_pictures_is_told_how_it_becomes_a_dataset(tmp_path, opened):
    folder = put(tmp_path / "my photos")
    with pytest.raises(UserError, match=r"my photos is not a dataset; make one of it with `python -m train\.prepare '"):
        opened(folder)
    with pytest.raises(UserError, match=r"of pictures of your own with `python -m train\.prepare SOURCE --out"):
        opened(tmp_path / "nowhere")


@pytest.mark.parametrize("opened", [load_dataset, Pictures.load])
@pytest.mark.parametrize("damaged", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
def test_a_damaged_folder_is_one_line(made, tmp_path, opened, damaged):
    made()
    (tmp_path / "out" / damaged).write_bytes(b"{")
    with pytest.raises(UserError, match=r"out is damaged \(.*\); remove it and make it again"):
        opened(tmp_path / "out")
