"""The factor dataset: every combination once, drawn as its caption says, the same every time."""

import io
from dataclasses import astuple, replace
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from bridge.codecs.dense import DenseCodec
from train.autoencoder import VAEConfig, build_vae
from train.config import load_config
from train.data.dataset import load_dataset, rows_of
from train.recipes import shapes
from train.recipes.shapes import COLOURS, COMBINATIONS, LEVELS, Factors, combinations, draw, label_of, make_rows

CONFIGS = Path(__file__).parent.parent / "configs"
PLAIN = Factors(shape=1, colour=0, size=2, x=2, y=2, count=0)


def pixels(f: Factors) -> np.ndarray:
    """(64, 64, 3) in 0..255."""
    return np.asarray(Image.open(io.BytesIO(draw(f)))).astype(int)


def ink(f: Factors) -> np.ndarray:
    """How much is drawn at each pixel, (64, 64)."""
    return (255 - pixels(f)).sum(axis=2)


def centre(f: Factors) -> np.ndarray:
    """Centre of mass of what is drawn, row and column."""
    at = np.indices((64, 64)).reshape(2, -1)
    return at @ ink(f).ravel() / ink(f).sum()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes") / "shapes"
    assert shapes.main(["--out", str(folder), "--count", "60"]) == 0
    return folder


def test_every_combination_is_there_once():
    everything = combinations()
    assert len(set(map(astuple, everything))) == len(everything) == COMBINATIONS == 7200
    assert [len(set(column)) for column in zip(*map(astuple, everything), strict=True)] == list(LEVELS.values())


def test_every_combination_has_a_caption_of_its_own():
    assert len({label_of(f) for f in combinations()}) == COMBINATIONS


@pytest.mark.parametrize("side", [32, 64])
def test_half_the_size_is_the_same_picture(side):
    shrunk = Image.open(io.BytesIO(draw(PLAIN, 2 * side))).reduce(2)
    np.testing.assert_allclose(np.asarray(Image.open(io.BytesIO(draw(PLAIN, side)))), np.asarray(shrunk), atol=1)


def test_pictures_differ_in_every_factor():
    others = [replace(PLAIN, **{name: (getattr(PLAIN, name) + 1) % levels}) for name, levels in LEVELS.items()]
    assert all((pixels(other) != pixels(PLAIN)).any() for other in others)
    assert len({draw(other) for other in others}) == len(LEVELS)


def test_the_figure_has_the_colour_of_its_caption():
    for number, colour in enumerate(COLOURS.values()):
        assert tuple(pixels(replace(PLAIN, colour=number))[32, 32]) == colour


def test_neighbouring_places_are_a_step_apart():
    columns = [centre(replace(PLAIN, x=x))[1] for x in range(5)]
    rows = [centre(replace(PLAIN, y=y))[0] for y in range(5)]
    np.testing.assert_allclose(np.diff(columns), shapes.STEP, atol=0.01)
    np.testing.assert_allclose(np.diff(rows), shapes.STEP, atol=0.01)


def test_a_larger_size_and_a_higher_count_draw_more():
    sizes = [ink(replace(PLAIN, size=size)).sum() for size in range(4)]
    counts = [ink(replace(PLAIN, count=count)).sum() for count in range(3)]
    assert sizes == sorted(set(sizes))
    np.testing.assert_allclose(np.array(counts) / counts[0], [1, 2, 3], rtol=0.05)


@pytest.mark.parametrize("shape", range(LEVELS["shape"]))
def test_the_largest_figures_in_the_corners_stay_whole(shape):
    inner = Factors(shape, 0, 3, 2, 2, 2)
    for x, y in ((0, 0), (0, 4), (4, 0), (4, 4)):
        assert ink(replace(inner, x=x, y=y)).sum() == pytest.approx(ink(inner).sum(), rel=0.01)


def test_edges_are_antialiased():
    assert len(np.unique(pixels(replace(PLAIN, shape=0))[..., 1])) > 4


def test_the_same_seed_makes_the_same_rows_and_another_does_not():
    assert make_rows(20, seed=1) == make_rows(20, seed=1) != make_rows(20, seed=2)


def test_fewer_are_part_of_more():
    assert make_rows(20) == make_rows(40)[:20]


def test_splits_share_no_combination(made):
    rows = datasets.load_from_disk(str(made))
    parts = {split: {r["family"] for r in rows if r["split"] == split} for split in set(rows["split"])}
    assert {split: len(families) for split, families in parts.items()} == {"train": 36, "validation": 12, "test": 12}
    assert len(set.union(*parts.values())) == 60


def test_factor_columns_are_the_numbers_of_the_family(made):
    everything = combinations()
    for row in datasets.load_from_disk(str(made)):
        f = Factors(**{name: row[f"factor_{name}"] for name in LEVELS})
        assert everything[row["family"]] == f and row["label"] == row["captions"][0] == label_of(f)


def test_training_can_read_it(made):
    assert len(rows_of(load_dataset(made), "train")) == 36


@pytest.mark.parametrize("count", ["9", "7201", "-1"])
def test_an_impossible_count_is_one_line_and_writes_nothing(count, tmp_path, capsys):
    assert shapes.main(["--out", str(tmp_path / "x"), "--count", count]) == 2
    assert f"--count: expected a whole number from 10 to 7200, got {count!r}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_two_codecs_differ_in_the_weight_of_the_divergence_alone():
    plain, beta = (load_config(CONFIGS / f"shapes-{name}.yaml", VAEConfig) for name in ("vae", "beta"))
    assert replace(beta, kl=plain.kl, out=plain.out) == plain
    assert beta.kl == pytest.approx(8 * plain.kl, rel=1e-3)


def test_a_beta_of_1_is_latents_over_pixel_values():
    config = load_config(CONFIGS / "shapes-vae.yaml", VAEConfig)
    assert DenseCodec(build_vae(config, 64)).z_shape == (10, 1, 1), "a latent has no place left"
    assert config.kl == pytest.approx(config.latent_channels / (3 * 64 * 64), rel=1e-3)
