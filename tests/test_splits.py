"""Splits that do not leak: the functions that make them, and the committed file itself."""

import io
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from bridge.text import TextEncoder
from train.recipes.drawing import thumbnails_of
from train.recipes.emoji import SPLITS, assign_splits, drop_leaks
from train.splits import (
    LEAK_RMSE,
    MAX_HELD_OUT,
    Splits,
    assign_sides,
    base_label,
    caption_families,
    close_pairs,
    hide_artists,
    make_splits,
    merge_families,
)

DATA = Path(__file__).parent.parent / "data" / "emoji"
HELD_OUT = ("validation", "test")
PEOPLE = re.compile(r"\b(man|woman|person|men|women|people|boy|girl|child)\b")


def compared_pairs(a: np.ndarray, b: np.ndarray, rmse: float) -> np.ndarray:
    """Index pairs (i, j), (P, 2), of pictures a[i] and b[j], (N, H, W, 3) and (M, H, W, 3), closer than `rmse`."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.argwhere(squared < rmse**2 * a.shape[1])


def unit(rows: list[list[float]]) -> np.ndarray:
    codes = np.array(rows, dtype=np.float64)
    return codes / np.linalg.norm(codes, axis=1, keepdims=True)


def pictures(*greys: float) -> np.ndarray:
    return np.stack([np.full((4, 4, 3), grey, np.float32) for grey in greys])


# base labels


@pytest.mark.parametrize("tone", ["light", "medium-light", "medium", "medium-dark", "dark"])
def test_base_label_drops_every_skin_tone(tone):
    assert base_label(f"waving hand: {tone} skin tone") == "waving hand"


def test_base_label_drops_both_tones_of_a_pair():
    label = "woman and man holding hands: dark skin tone, light skin tone"
    assert base_label(label) == "woman and man holding hands"


def test_base_label_keeps_what_is_no_skin_tone():
    assert base_label("person: medium skin tone, red hair") == "person: red hair"


def test_base_label_of_a_base_label_is_itself():
    assert base_label(base_label("man: dark skin tone, beard")) == "man: beard"


# families


def test_near_codes_share_a_family_and_far_ones_do_not():
    family = caption_families(unit([[1, 0, 0], [1, 0.1, 0], [0, 1, 0], [0, 1, 0.1]]))
    assert family[0] == family[1] != family[2] == family[3]


def test_the_distance_decides_what_is_near():
    codes = unit([[1, 0], [1, 1]])  # cosine distance .29
    assert len(set(caption_families(codes, 0.2))) == 2
    assert len(set(caption_families(codes, 0.4))) == 1


# near-duplicate pictures


def test_duplicates_are_found_in_every_block():
    shown = pictures(0.0, 0.5, 0.01, 1.0, 0.505)
    pairs = close_pairs(shown, shown, rmse=0.02, block=2)
    assert sorted((i, j) for i, j in pairs if i < j) == [(0, 2), (1, 4)]


def test_a_pair_exactly_as_far_as_the_threshold_is_no_duplicate():
    assert len(close_pairs(pictures(0.0), pictures(0.5), rmse=0.5)) == 0


def test_families_sharing_a_drawing_are_joined_through_each_other():
    joined = merge_families(np.array([5, 5, 7, 9, 11]), np.array([[1, 2], [2, 3]]))
    assert joined[0] == joined[1] == joined[2] == joined[3] != joined[4]


def test_without_a_shared_drawing_families_stay_as_they_are():
    joined = merge_families(np.array([5, 7, 5]), np.empty((0, 2), int))
    assert joined[0] == joined[2] != joined[1]


# sides


def test_sides_are_shared_out_84_8_8_by_family():
    sides = assign_sides([[f"caption {i}"] for i in range(200)])
    assert {side: sides.count(side) for side in set(sides)} == {"train": 168, "validation": 16, "test": 16}


def test_a_large_family_is_never_held_out():
    families = [[f"flag {i}/{j}" for j in range(MAX_HELD_OUT + 1)] for i in range(50)]
    assert set(assign_sides(families)) == {"train"}


def test_a_family_keeps_its_order_when_others_are_listed_before_it():
    families = [[f"caption {i}"] for i in range(100)]
    sides = dict(zip(map(tuple, families), assign_sides(families), strict=True))
    backwards = families[::-1]
    assert dict(zip(map(tuple, backwards), assign_sides(backwards), strict=True)) == sides


# hidden artists


def test_only_captions_that_enough_artists_drew_hide_some():
    artists = {"cat": set("abcdef"), "dog": set("abcde")}
    assert list(hide_artists(artists, {"seen": 2}, at_least=6)["seen"]) == ["cat"]


def test_hidden_artists_drew_the_caption_and_leave_others_to_train_on():
    artists = {f"caption {i}": set("abcdefg") for i in range(20)}
    hidden = hide_artists(artists, {"seen": 20}, at_least=6, hide=3)["seen"]
    assert all(len(set(names)) == 3 and set(names) < artists[caption] for caption, names in hidden.items())


def test_sets_of_seen_captions_do_not_overlap():
    artists = {f"caption {i}": set("abcdef") for i in range(10)}
    hidden = hide_artists(artists, {"seen": 6, "seen_validation": 4})
    assert not hidden["seen"].keys() & hidden["seen_validation"].keys()


def test_different_captions_hide_different_artists():
    artists = {f"caption {i}": set("abcdefg") for i in range(20)}
    hidden = hide_artists(artists, {"seen": 20})["seen"]
    assert len({tuple(names) for names in hidden.values()}) > 5


# all together, on real artwork


@pytest.fixture(scope="module")
def made(artwork_rows: list[dict[str, Any]], encoder: TextEncoder) -> Splits:
    labels, artists = ([row[key] for row in artwork_rows] for key in ("label", "artist"))
    return make_splits(labels, artists, thumbnails_of(artwork_rows), lambda texts: encoder.encode(texts).pooled.numpy())


def test_every_base_label_of_the_data_has_one_family(made, artwork_rows):
    found = sorted(label for family in made.families for label in family)
    assert found == sorted({base_label(row["label"]) for row in artwork_rows})


def test_only_training_captions_hide_artists(made):
    side_of = {label: made.sides[number] for label, number in made.family_of.items()}
    assert {side_of[base_label(label)] for hidden in made.hidden.values() for label in hidden} == {"train"}


def test_splits_survive_a_file(made, tmp_path):
    made.save(tmp_path / "splits.json")
    assert Splits.load(tmp_path / "splits.json") == made


# rows get their sides


def row(label: str, artist: str = "noto") -> dict[str, Any]:
    return {"label": label, "artist": artist}


EXAMPLE = Splits([["cat", "cat face"], ["dog"]], ["train", "test"], {"seen": {"cat": ["fxemoji"]}})


def test_a_hidden_artists_picture_leaves_training():
    rows = assign_splits([row("cat"), row("cat", "fxemoji"), row("cat face", "fxemoji")], EXAMPLE)
    assert [r["split"] for r in rows] == ["train", "seen", "train"]


def test_a_skin_tone_follows_its_base_caption():
    assert assign_splits([row("dog: dark skin tone")], EXAMPLE)[0] == row("dog: dark skin tone") | {
        "family": 1,
        "split": "test",
    }


def test_a_caption_the_file_does_not_know_is_left_out():
    assert assign_splits([row("unicorn")], EXAMPLE) == []


def test_of_a_leaking_pair_the_training_picture_goes():
    rows = [{"split": "train"}, {"split": "test"}, {"split": "seen"}, {"split": "train"}]
    kept = drop_leaks(rows, pictures(0.1, 0.11, 0.9, 0.89))
    assert [r["split"] for r in kept] == ["test", "seen"]


def test_a_mirrored_training_picture_leaks_too():
    half = np.concatenate([np.zeros((1, 4, 2, 3)), np.ones((1, 4, 2, 3))], 2)
    kept = drop_leaks([{"split": "train"}, {"split": "test"}], np.concatenate([half, half[:, :, ::-1]]))
    assert [r["split"] for r in kept] == ["test"]


def test_duplicates_within_training_stay():
    rows = [{"split": "train"}, {"split": "train"}]
    assert len(drop_leaks(rows, pictures(0.5, 0.5))) == 2


# the committed file


@pytest.fixture(scope="module")
def committed() -> Splits:
    return Splits.load(SPLITS)


@pytest.fixture(scope="module")
def side_of(committed: Splits) -> dict[str, str]:
    """Base label -> side."""
    return {label: side for labels, side in zip(committed.families, committed.sides, strict=True) for label in labels}


def test_no_caption_stands_in_two_families(committed):
    labels = [label for family in committed.families for label in family]
    assert len(labels) == len(set(labels))


def test_the_file_names_base_captions_only(side_of):
    assert [label for label in side_of if base_label(label) != label] == []


def test_families_are_split_84_8_8(committed):
    shares = {side: committed.sides.count(side) / len(committed.sides) for side in ("train", *HELD_OUT)}
    assert shares == pytest.approx({"train": 0.84, "validation": 0.08, "test": 0.08}, abs=0.002)


def test_genders_of_one_person_are_on_one_side(side_of):
    sides: dict[str, set[str]] = {}
    for label, side in side_of.items():
        sides.setdefault(PEOPLE.sub("somebody", label), set()).add(side)
    assert {label: found for label, found in sides.items() if len(found) > 1} == {}


def test_200_and_100_seen_captions_hide_three_artists_each(committed):
    sizes = {name: {len(set(artists)) for artists in hidden.values()} for name, hidden in committed.hidden.items()}
    counts = {name: len(hidden) for name, hidden in committed.hidden.items()}
    assert (counts, sizes) == ({"seen": 200, "seen_validation": 100}, {"seen": {3}, "seen_validation": {3}})


def test_seen_captions_are_training_captions(committed, side_of):
    hidden = [label for captions in committed.hidden.values() for label in captions]
    assert {side_of[base_label(label)] for label in hidden} == {"train"}


@pytest.fixture(scope="module")
def coded(side_of: dict[str, str], encoder: TextEncoder) -> tuple[list[str], np.ndarray]:
    """All base labels and their codes, (N, 384)."""
    labels = list(side_of)
    return labels, encoder.encode(labels, batch_size=64, with_tokens=False).pooled.numpy()


@pytest.mark.parametrize(("side", "other"), [("validation", "train"), ("test", "train"), ("test", "validation")])
def test_no_held_out_caption_nearly_says_what_another_side_says(coded, side_of, side, other):
    labels, codes = coded
    here, there = ([i for i, label in enumerate(labels) if side_of[label] == s] for s in (side, other))
    cosine = codes[here] @ codes[there].T
    near = [(labels[here[i]], labels[there[j]]) for i, j in np.argwhere(cosine > 0.85)]
    assert near == []


# pictures: the sample always, the whole data where it has been made


def rows_of_dataset(folder: Path) -> list[dict[str, Any]]:
    data = datasets.load_from_disk(str(folder)).cast_column("image", datasets.Image(decode=False))
    columns = {name: data[name][:] for name in ("label", "artist", "split", "family", "image")}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [{**row, "png": row.pop("image")["bytes"]} for row in rows]


WHOLE = pytest.param(
    "whole",
    marks=pytest.mark.skipif(
        not DATA.exists(),
        reason="data/emoji is not there: only the sample is checked; make it with `python -m train.recipes emoji`",
    ),
)


@pytest.fixture(scope="module", params=["sample", WHOLE])
def drawn(request, artwork_rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the committed sample, then of data/emoji."""
    return artwork_rows if request.param == "sample" else rows_of_dataset(DATA)


Compared = tuple[list[dict[str, Any]], np.ndarray, list[dict[str, Any]], np.ndarray]


@pytest.fixture(scope="module")
def compared(drawn: list[dict[str, Any]]) -> Compared:
    """Rows and thumbnails of training, and of everything else."""
    inside, outside = ([row for row in drawn if (row["split"] == "train") == train] for train in (True, False))
    return inside, thumbnails_of(inside), outside, thumbnails_of(outside)


def test_no_training_picture_nearly_is_one_outside_training(compared):
    inside, a, outside, b = compared
    assert [(inside[i]["label"], outside[j]["label"]) for i, j in compared_pairs(a, b, LEAK_RMSE)] == []


def test_no_mirrored_training_picture_nearly_is_one_outside_training(compared):
    """The VAE's training mirrors half of the pictures: an arrow to the left is also one to the right."""
    inside, a, outside, b = compared
    assert [(inside[i]["label"], outside[j]["label"]) for i, j in compared_pairs(a[:, :, ::-1], b, LEAK_RMSE)] == []


def test_rows_are_where_the_committed_file_puts_them(drawn, committed):
    again = assign_splits(drawn, committed)
    assert [(row["family"], row["split"]) for row in drawn] == [(row["family"], row["split"]) for row in again]


def test_no_picture_by_a_hidden_artist_is_trained_on(drawn, committed):
    hidden = {(c, a) for captions in committed.hidden.values() for c, artists in captions.items() for a in artists}
    assert {row["split"] for row in drawn if (row["label"], row["artist"]) in hidden} == {"seen", "seen_validation"}


def test_every_seen_caption_is_also_trained_on_by_other_artists(drawn):
    trained = {row["label"] for row in drawn if row["split"] == "train"}
    assert {row["label"] for row in drawn if row["split"] in ("seen", "seen_validation")} <= trained


def test_a_near_duplicate_is_found_through_png_and_resizing(artwork_rows):
    image = Image.open(io.BytesIO(artwork_rows[0]["png"]))
    out = io.BytesIO()
    image.point(lambda value: min(value + 3, 255)).save(out, "PNG")
    before, after = (thumbnails_of([row]) for row in (artwork_rows[0], {"png": out.getvalue()}))
    assert len(close_pairs(before, after, LEAK_RMSE)) == 1


@pytest.mark.parametrize("page", ["README.md", "docs/default-model.md", "configs/emoji-card.md"])
def test_documents_tell_how_many_captions_have_hidden_artists(page):
    root = Path(__file__).parent.parent
    hidden = Splits.load(root / "configs" / "emoji-splits.json").hidden
    assert {len(artists) for side in hidden.values() for artists in side.values()} == {3}
    told = re.findall(r"three artists of (?:each of )?(\d+) training captions", (root / page).read_text("utf-8"))
    assert set(told) <= {str(sum(map(len, hidden.values())))}
