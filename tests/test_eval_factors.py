"""Factors: what labels say, what probes tell of it, and what the command writes, on tiny codecs."""

import json
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from bridge.codecs import ImageCodec, LatentDistribution, VAECodec
from eval.baselines import decode_flat, flat_latents
from eval.data import Pictures
from eval.metrics.bootstrap import Interval
from eval.studies.latents import __main__ as command
from eval.studies.latents import factors as study
from eval.studies.latents.factors import CodecFigures, Factors, chart, load_codecs, over_halves, principal, strip
from eval.studies.latents.labels import FACTORS, Known, emoji_factors, probe
from tests.fixtures import make_tiny_vae
from train.autoencoder import VAEConfig, build_vae
from train.loop import LoopConfig
from train.recipes.emoji import write_dataset
from train.recipes.shapes import FEATURES, LEVELS, make_rows
from train.recipes.writing import write_rows

SMALL = VAEConfig(Path("-"), Path("-"), LoopConfig(steps=1), widths=(4,) * 7, latent_channels=3, groups=2)
"""64 px to 3 x 1 x 1."""
NONE: dict[str, str | None] = dict.fromkeys(FACTORS)
LABELS = {
    "woman: medium skin tone, red hair": {"skin tone": "medium", "hair": "red", "age": "adult", "gender": "woman"},
    "man: dark skin tone, beard": {"skin tone": "dark", "hair": "beard", "age": "adult", "gender": "man"},
    "man: curly hair": {"hair": "curly", "age": "adult", "gender": "man"},
    "person: medium-light skin tone, blond hair": {"skin tone": "medium-light", "hair": "blond", "age": "adult"},
    "woman: bald": {"hair": "bald", "age": "adult", "gender": "woman"},
    "boy: light skin tone": {"skin tone": "light", "age": "child", "gender": "man"},
    "girl": {"age": "child", "gender": "woman"},
    "baby: medium-dark skin tone": {"skin tone": "medium-dark", "age": "baby"},
    "old woman: medium skin tone": {"skin tone": "medium", "age": "older", "gender": "woman"},
    "older person": {"age": "older"},
    "waving hand: dark skin tone": {"skin tone": "dark"},
    "handshake: light skin tone, dark skin tone": {},
    "kiss: man, man, dark skin tone": {"skin tone": "dark"},
    "kiss: woman, man": {},
    "woman and man holding hands": {},
    "man construction worker: medium-dark skin tone": {"skin tone": "medium-dark", "gender": "man"},
    "woman running: facing right": {"gender": "woman"},
    "woman feeding baby": {},
    "man’s shoe": {},
    "baby chick": {},
    "family: man, woman, boy": {},
    "grinning face with big eyes": {"expression": "happy"},
    "cat with tears of joy": {"expression": "happy"},
    "slightly frowning face": {"expression": "sad"},
    "smiling face with tear": {"expression": "happy"},
    "face with steam from nose": {"expression": "angry"},
    "kissing face with smiling eyes": {"expression": "kissing"},
    "face screaming in fear": {"expression": "surprised"},
    "sad but relieved face": {"expression": "sad"},
    "cow face": {},
    "cat": {},
    "kiss mark": {},
    "red heart": {},
    "flag: Chad": {},
    "": {},
}


@pytest.mark.parametrize("label", LABELS)
def test_a_label_tells_these_factors(label):
    assert emoji_factors(label) == NONE | LABELS[label]


def test_most_labels_tell_nothing():
    table = json.loads((Path(command.__file__).parents[3] / "bridge" / "emoji_labels.json").read_text("utf-8"))
    known = {factor: {emoji_factors(label)[factor] for label in table.values()} - {None} for factor in FACTORS}
    assert known["skin tone"] == {"light", "medium-light", "medium", "medium-dark", "dark"}
    assert known["hair"] == {"red", "curly", "white", "blond", "bald", "beard"}
    assert known["gender"] == {"man", "woman"}
    assert known["age"] == {"baby", "child", "adult", "older"}


# probes


def test_a_value_in_one_family_is_told_apart_by_artists():
    labels = ["man: red hair", "woman: red hair", "man: bald", "woman: bald"]
    known = Known.of("hair", labels, np.array([0, 0, 1, 1]), np.array(["a", "b", "a", "b"]))
    assert known.apart == "artists" and list(known.groups) == ["a", "b", "a", "b"]


def test_values_in_several_families_are_told_apart_by_families():
    labels = ["man", "woman", "man cook", "woman cook", "anchor"]
    known = Known.of("gender", labels, np.array([0, 0, 1, 1, 2]), np.array(["a"] * 5))
    assert known.apart == "families" and list(known.rows) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("factor", "labels", "message"),
    [
        ("hair", ["man: red hair", "anchor"], "hair has 1 known values"),
        ("hair", ["man: red hair", "man: bald"], "one family and one artist only"),
        ("height", ["man"], "factor: expected one of skin tone, hair"),
    ],
)
def test_a_factor_that_cannot_be_probed_is_refused(factor, labels, message):
    with pytest.raises(ValueError, match=message):
        Known.of(factor, labels, np.arange(len(labels)), np.array(["a"] * len(labels)))


def test_one_group_has_no_other_to_ask():
    with pytest.raises(ValueError, match="groups: a probe needs two"):
        probe(np.zeros((4, 2)), np.array(list("abab")), np.zeros(4))


def test_a_factor_of_every_family_is_told():
    rng = np.random.default_rng(0)
    number = np.tile([0, 1, 2], 40)
    codes = rng.standard_normal((120, 6))
    codes[:, 3] += 8 * number
    found = probe(codes, np.array(["a", "b", "c"])[number], np.repeat(np.arange(20), 6))
    assert found.accuracy == found.interval.value == 1
    assert found.dimension == 3 and found.gap > 0.7 and found.variance > 0.9


def test_what_only_families_have_in_common_is_not_told():
    """Values that go with the family, codes that are the family's: another family's probe cannot know."""
    rng = np.random.default_rng(1)
    family = np.repeat(np.arange(40), 5)
    codes = (rng.standard_normal((40, 8)) * 5)[family] + 0.1 * rng.standard_normal((200, 8))
    values = np.where(rng.random(40) < 0.5, "a", "b")[family]
    assert abs(probe(codes, values, family).accuracy - 0.5) < 0.2


def test_the_commonest_value_is_the_one_of_most_groups():
    values = np.array(["a"] * 8 + ["b", "b"])
    groups = np.array([0] * 8 + [1, 2])
    assert probe(np.random.default_rng(0).standard_normal((10, 2)), values, groups).most == pytest.approx(2 / 3)


# axes and traversals


class Flat(ImageCodec):
    """Four latents that are the mean brightness of a picture's four columns."""

    z_shape, image_size, fingerprint = (4, 1, 1), 64, "flat"

    def encode(self, x):
        z = x.mean(dim=(1, 2)).unflatten(1, (4, 16)).mean(-1)[:, :, None, None]
        return LatentDistribution(z, torch.full_like(z, 0.5))

    def decode(self, z):
        return z.flatten(1).repeat_interleave(16, 1)[:, None, None].expand(-1, 3, 64, 64).clamp(0, 1)

    def to(self, device):
        return self

    def save(self, folder):
        raise NotImplementedError


def test_principal_axes_are_a_rotation_where_all_are_kept():
    flat = np.random.default_rng(0).standard_normal((20, 3)) * [1, 10, 0.1]
    coordinates = principal(flat, 10)
    assert coordinates.shape == (20, 3)
    lengths = [np.linalg.norm(points, axis=1) for points in (flat - flat.mean(0), coordinates)]
    np.testing.assert_allclose(*lengths, atol=1e-12)


def test_a_strip_runs_from_the_low_to_the_high_end_of_its_dimension():
    flat = np.tile(np.linspace(0.2, 0.8, 101)[:, None], (1, 4))
    pictures = strip(Flat(), flat, 1, steps=3)[:, 0, 0, ::16].numpy()
    np.testing.assert_allclose(pictures[:, 1], [0.212, 0.5, 0.788], atol=1e-6)
    np.testing.assert_allclose(pictures[:, [0, 2, 3]], 0.2, atol=1e-6)


def test_latents_are_flattened_as_they_are_decoded(shapes_folder):
    codec, pictures = VAECodec(make_tiny_vae()), Pictures.load(shapes_folder)
    flat = flat_latents(codec, pictures, np.arange(3))
    direct = codec.decode(codec.encode(pictures.pixels(np.arange(3))).mean)
    torch.testing.assert_close(decode_flat(codec, flat), direct)


# the command


@pytest.fixture(scope="module")
def shapes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    write_rows(FEATURES, make_rows(320), folder)
    return folder


@pytest.fixture(scope="module")
def small_forests() -> Iterator[None]:
    """Forests of two trees, for tests that ask nothing of their importances."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eval.metrics.disentangle.TREES", 2)
        yield


@pytest.fixture(scope="module")
def run(small_forests: None, shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two codecs "a" and "b" that nobody trained, and in "out" what the command writes of them."""
    folder = tmp_path_factory.mktemp("factors")
    for name in ("a", "b"):
        build_vae(SMALL, 64).save_pretrained(folder / name / "vae")
    argv = [folder / "a" / "vae", folder / "b" / "vae", "--data", shapes_folder, "--components", "2", "--halves", "1"]
    assert command.main(["factors", *map(str, argv), "--beta", "8", "1", "--out", str(folder / "out")]) == 0
    return folder


@pytest.fixture(scope="module")
def factors(shapes_folder: Path) -> Factors:
    return Factors.load(shapes_folder, "validation")


@pytest.fixture(scope="module")
def of_columns(small_forests: None, factors: Factors) -> CodecFigures:
    return factors.of_codec(Flat(), components=4, halves=1)


def test_factors_are_read_with_their_names(factors, shapes_folder):
    row = datasets.load_from_disk(str(shapes_folder))[int(factors.rows[0])]
    assert factors.names == list(LEVELS)
    assert list(factors.values[0]) == [row[f"factor_{name}"] for name in LEVELS]


def test_report_has_every_codec_and_control(run):
    report = json.loads((run / "out" / "factors.json").read_text("utf-8"))
    assert list(report["codecs"]) == ["a", "b"]
    assert [report["codecs"]["a"][axes]["dimensions"] for axes in ("flattened", "principal", "chance")] == [3, 2, 3]
    assert report["controls"]["the factors themselves"]["mig"]["value"] > 0.6
    assert (report["split"], report["pictures"], report["halves"]) == ("validation", 64, 1)


def test_sheets_show_a_traversal_for_every_factor(run):
    with Image.open(run / "out" / "traversal-a.png") as sheet:
        assert sheet.height > len(LEVELS) * study.CELL and sheet.width > study.STEPS * study.CELL


def test_chart_is_drawn_over_beta(run):
    svg = (run / "out" / "factors.svg").read_text("utf-8")
    assert all(word in svg for word in ("beta", "MIG", "SAP", "disentanglement", "completeness"))


def test_rate_by_hand(factors, of_columns):
    mean = flat_latents(Flat(), factors.pictures, factors.rows)
    expected = (0.5 * (mean**2 + 0.25 - 1) - np.log(0.5)).sum(axis=1).mean()
    assert of_columns.rate == pytest.approx(expected, rel=1e-5)


def test_a_codec_that_copies_columns_has_the_psnr_of_column_means(factors, of_columns):
    x = factors.pictures.pixels(factors.rows).numpy()
    means = Flat().decode(Flat().encode(torch.from_numpy(x)).mean).numpy()
    expected = -10 * np.log10(((x - means) ** 2).mean())
    assert of_columns.psnr == pytest.approx(expected, rel=1e-4)


def test_brightness_of_columns_tells_place_and_not_shape(of_columns):
    assert of_columns.active <= 4
    assert of_columns.flattened.information["x"] > of_columns.flattened.information["shape"] + 0.1


def test_range_holds_mean_and_ends():
    assert over_halves([0.2, 0.6, 0.1]) == Interval(pytest.approx(0.3), 0.1, 0.6)


def test_chart_wants_one_beta_a_codec():
    with pytest.raises(ValueError, match="--beta: expected 1 numbers above 0"):
        chart({"a": None}, [1, 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--halves", "0"], "--halves: expected a whole number of 1 or more, got '0'"),
        (["--split", "none"], "split: no picture has split 'none'"),
        (["--data", "nowhere"], "nowhere is not a dataset"),
    ],
)
def test_bad_input_is_one_line(change, message, run, shapes_folder, tmp_path, capsys):
    argv = ["factors", str(run / "a" / "vae"), "--data", str(shapes_folder), "--out", str(tmp_path / "out"), *change]
    assert command.main(argv) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("python -m eval.studies.latents factors: ") and message in last


def test_labels_that_tell_nothing_are_refused(run, shapes_folder, tmp_path, capsys):
    argv = ["labels", str(run / "a" / "vae"), "--data", str(shapes_folder), "--out", str(tmp_path / "out")]
    assert command.main(argv) == 2 and "no label tells of two values" in capsys.readouterr().err


def test_a_dataset_without_factors_is_refused(run, artwork_folder, capsys):
    assert command.main(["factors", str(run / "a" / "vae"), "--data", str(artwork_folder)]) == 2
    assert "has no factor_* column; make it with python -m train.recipes shapes" in capsys.readouterr().err


def test_a_folder_without_a_codec_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no codec; name the `vae` folder"):
        load_codecs([tmp_path])


def test_two_codecs_of_one_name_are_refused(run):
    with pytest.raises(ValueError, match="two are called 'a'"):
        load_codecs([run / "a" / "vae"] * 2)


def test_real_factors_are_probed_and_the_others_named(run, artwork_rows, tmp_path, capsys):
    tones = ("light", "medium", "dark")
    rows = [{**row, "label": f"waving hand: {tones[i % 3]} skin tone"} for i, row in enumerate(artwork_rows)]
    write_dataset(rows, tmp_path / "hands")
    argv = ["labels", str(run / "a" / "vae"), "--data", str(tmp_path / "hands"), "--out", str(tmp_path / "out")]
    assert command.main(argv) == 0
    report = json.loads((tmp_path / "out" / "real.json").read_text("utf-8"))
    found = {name: list(factors) for name, factors in report["codecs"].items()}
    assert found == {"a": ["skin tone"], "thumbnails of 8 px": ["skin tone"]}
    assert report["codecs"]["a"]["skin tone"]["pictures"] == len(rows)
    assert "hair: absent, labels: hair has 0 known values" in capsys.readouterr().out
