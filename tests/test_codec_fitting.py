"""Fitting image spaces on real artwork: the right statistics, of the training pictures alone, in bounded memory."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import AutoencoderKL
from torch import Tensor

from bridge.codecs import AutoencoderCodec, TinyCodec, VAECodec, VQCodec, load_codec
from bridge.codecs.standardize import PCACodec, WhitenedCodec
from tests.fixtures import make_tiny_vae
from tests.test_codec import make_taesd, make_vq
from train import codec as codec_module
from train.autoencoder import main
from train.codec import (
    CodecConfig,
    Pictures,
    channel_statistics,
    fit,
    kept,
    latent_moments,
    pixel_axes,
    psnr,
    whitening_axes,
)
from train.config import ConfigError, load_config
from train.data.dataset import load_dataset, pixels_of, rows_of, to_unit
from train.recipes.emoji import write_dataset

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.fixture(scope="module")
def pixels(artwork_folder: Path) -> Tensor:
    """The sample's training pictures as bytes."""
    return pixels_of(rows_of(load_dataset(artwork_folder), "train"))


@pytest.fixture(scope="module")
def pictures(artwork_folder: Path) -> Pictures:
    """The same, from disk, 10 at a time."""
    return Pictures(rows_of(load_dataset(artwork_folder), "train"), 10)


def config_of(data: Path, out: Path, kind: str, **options: Any) -> CodecConfig:
    return CodecConfig(data, out, kind, **options)


# batches from disk


def test_batches_hold_every_picture_once(pictures, pixels):
    assert torch.equal(torch.cat(list(pictures)), pixels)
    assert max(len(chunk) for chunk in pictures) == 10


# statistics by channel


@pytest.mark.parametrize("codec", [VAECodec(make_tiny_vae()), TinyCodec(make_taesd()), VQCodec(make_vq())])
def test_standardised_latents_have_mean_0_and_variance_1(codec: AutoencoderCodec, pixels):
    fitted = codec.with_statistics(*channel_statistics(codec, pixels.split(16)))
    codes = fitted.encode(to_unit(pixels))
    torch.testing.assert_close(codes.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
    second = (codes.mean.square() + codes.std.square()).mean((0, 2, 3))
    torch.testing.assert_close(second, torch.ones(4), atol=1e-3, rtol=0)


def test_statistics_are_those_of_the_autoencoders_own_latents(tiny_vae, pixels):
    """Whatever it was standardised by before."""
    with torch.no_grad():
        posterior = tiny_vae.encode(to_unit(pixels) * 2 - 1).latent_dist
    mean, std = channel_statistics(VAECodec(tiny_vae), pixels.split(7))
    torch.testing.assert_close(torch.tensor(mean), posterior.mean.mean((0, 2, 3)), atol=1e-4, rtol=1e-4)
    whole = posterior.mean.transpose(0, 1).flatten(1).var(1, unbiased=False) + posterior.var.mean((0, 2, 3))
    torch.testing.assert_close(torch.tensor(std), whole.sqrt(), atol=1e-4, rtol=1e-4)


# whitening


def test_moments_are_those_of_all_latents_at_once(tiny_vae, pixels):
    codec = VAECodec(tiny_vae)
    codes = codec.encode(to_unit(pixels))
    z, var = codes.mean.flatten(1).double(), codes.std.flatten(1).double().square()
    mean, covariance = latent_moments(codec, pixels.split(7))
    torch.testing.assert_close(mean, z.mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(covariance, z.T.cov(correction=0) + var.mean(0).diag(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("k", [256, 9])
def test_whitened_latents_have_identity_covariance(tiny_vae, pixels, k):
    inner = VAECodec(tiny_vae)
    codec = WhitenedCodec(inner, whitening_axes(*latent_moments(inner, pixels.split(16)), k, 0))
    z = codec.encode(to_unit(pixels)).mean.double()
    noise = inner.encode(to_unit(pixels)).std.flatten(1).double().square().mean(0).diag()
    matrix = (codec.axes.components / codec.axes.scale[:, None]).double()
    covariance = z.T.cov(correction=0) + matrix @ noise @ matrix.T
    torch.testing.assert_close(covariance, torch.eye(k).double(), atol=5e-3, rtol=0)
    torch.testing.assert_close(z.mean(0), torch.zeros(k).double(), atol=5e-3, rtol=0)


def test_whitened_deviations_add_up_to_variance_1(tiny_vae, pixels):
    inner = VAECodec(tiny_vae)
    codec = WhitenedCodec(inner, whitening_axes(*latent_moments(inner, pixels.split(16)), 20, 0))
    codes = codec.encode(to_unit(pixels))
    second = (codes.mean.square() + codes.std.square()).mean(0)
    torch.testing.assert_close(second, torch.ones(20), atol=5e-3, rtol=0)


def test_the_widest_direction_comes_first(tiny_vae, pixels):
    inner = VAECodec(tiny_vae)
    scale = whitening_axes(*latent_moments(inner, [pixels]), 0, 1.0).scale
    assert torch.equal(scale, scale.sort(descending=True).values)


# how many components


@pytest.mark.parametrize(("share", "k"), [(0.5, 1), (0.8, 1), (0.81, 2), (0.95, 2), (0.951, 3), (1.0, 3)])
def test_a_share_is_held_by_as_few_components_as_can(share, k):
    assert kept(torch.tensor([8.0, 1.5, 0.5, 1e-15]).double(), 10.0, 0, share) == k


def test_directions_without_variance_are_never_scaled_up():
    with pytest.raises(ConfigError, match="k: the training pictures vary in 2 directions, got 3; lower k"):
        kept(torch.tensor([1.0, 0.5, 1e-14]), 1.5, 3, 0.0)


def test_a_share_out_of_reach_says_what_is_held():
    with pytest.raises(ConfigError, match=r"explained_variance: 2 components hold 0\.5000 of 0\.9; ask for less"):
        kept(torch.tensor([4.0, 1.0]), 10.0, 0, 0.9)


# principal components of pixels


def test_components_are_those_of_the_exact_decomposition(pictures, pixels):
    """All batches within one: the incremental fit has nothing to forget."""
    whole = Pictures(pictures.rows, len(pixels))
    axes, total = pixel_axes(whole, 5, 5, 0)
    flat = to_unit(pixels).flatten(1).double()
    _, singular, rows = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    torch.testing.assert_close((rows[:5] @ axes.components.T.double()).abs(), torch.eye(5).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(axes.scale.double(), singular[:5] / math.sqrt(len(flat)), atol=1e-4, rtol=1e-4)
    assert total == pytest.approx(float(flat.var(0, correction=0).sum()), rel=1e-4)


def test_in_batches_latents_still_have_mean_0_and_variance_1(pictures, pixels):
    codec = PCACodec(pixel_axes(pictures, 5, 5, 0)[0], 64)
    z = codec.encode(to_unit(pixels)).mean
    torch.testing.assert_close(z.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.var(0, correction=0), torch.ones(5), atol=1e-4, rtol=0)


def test_in_batches_nearly_as_much_is_explained(pictures, pixels):
    exact, _ = pixel_axes(Pictures(pictures.rows, len(pixels)), 5, 5, 0)
    batched, _ = pixel_axes(pictures, 5, 5, 0)
    assert 0.9 < float(batched.scale.square().sum() / exact.scale.square().sum()) < 1 + 1e-6


def test_every_component_gives_the_training_pictures_back(pictures, pixels):
    limit = len(pixels) - 1
    axes, _ = pixel_axes(Pictures(pictures.rows, len(pixels)), limit, 0, 1.0)
    codec, x = PCACodec(axes, 64), to_unit(pixels)
    torch.testing.assert_close(codec.decode(codec.encode(x).mean), x, atol=1e-3, rtol=0)


def test_psnr_is_that_of_all_pixels_pooled(pictures, pixels):
    codec, x = PCACodec(pixel_axes(pictures, 5, 5, 0)[0], 64), to_unit(pixels)
    mse = (codec.decode(codec.encode(x).mean) - x).double().square().mean()
    assert psnr(codec, pixels.split(9)) == pytest.approx(float(-10 * mse.log10()), abs=1e-3)


# the command


KINDS: dict[str, dict[str, Any]] = {
    "pca": {"kind": "pca", "k": 6},
    "pca by share": {"kind": "pca", "explained_variance": 0.6},
    "whiten": {"kind": "whiten", "k": 12, "inner": "VAE"},
    "whiten by share": {"kind": "whiten", "explained_variance": 0.9, "inner": "VAE"},
    "diffusers": {"kind": "diffusers", "inner": "VAE"},
}


@pytest.fixture(params=KINDS)
def values(request: pytest.FixtureRequest, artwork_folder: Path, vae_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """A whole config for each kind in turn."""
    options = {key: str(vae_folder) if value == "VAE" else value for key, value in KINDS[request.param].items()}
    return {"data": str(artwork_folder), "out": str(tmp_path / "run"), **options}


def run_main(tmp_path: Path, values: object) -> int:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    return main([str(tmp_path / "run.yaml")])


def test_the_command_writes_a_codec_and_says_how_good_it_is(values, tmp_path, capsys, artwork_folder):
    assert run_main(tmp_path, values) == 0
    figures, folder = capsys.readouterr().out.splitlines()
    codec = load_codec(Path(folder))
    held_out = pixels_of(rows_of(load_dataset(artwork_folder), "validation"))
    assert figures.startswith(f"{values['kind']}: z {' x '.join(map(str, codec.z_shape))}, ")
    assert figures.endswith(f"validation PSNR {psnr(codec, [held_out]):.2f} dB")


@pytest.fixture(scope="module")
def replaced_folder(artwork_rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample, with every picture outside training replaced by one and the same."""
    other = next(row["png"] for row in artwork_rows if row["split"] == "test")
    folder = tmp_path_factory.mktemp("replaced") / "emoji"
    write_dataset([row if row["split"] == "train" else {**row, "png": other} for row in artwork_rows], folder)
    return folder


def test_a_codec_is_fitted_on_the_training_pictures_alone(values, tmp_path, replaced_folder):
    found = []
    for data in (values["data"], replaced_folder):
        assert run_main(tmp_path, values | {"data": str(data)}) == 0
        found.append(load_codec(tmp_path / "run" / "codec").fingerprint)
    assert found[0] == found[1]


def test_the_folder_holds_no_pickle(values, tmp_path):
    run_main(tmp_path, values)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}


def test_a_share_of_the_variance_is_reached(artwork_folder, vae_folder, tmp_path, pixels):
    config = config_of(artwork_folder, tmp_path, "whiten", explained_variance=0.9, inner=str(vae_folder))
    codec = load_codec(fit(config))
    assert isinstance(codec, WhitenedCodec)
    _, covariance = latent_moments(codec.inner, [pixels])
    held = codec.axes.scale.double().square()
    assert float(held.sum() / covariance.trace()) >= 0.9 > float(held[:-1].sum() / covariance.trace())


def test_a_published_autoencoder_opens_with_diffusers_alone(artwork_folder, tmp_path):
    make_taesd(None).save_pretrained(tmp_path / "taesd")
    folder = fit(config_of(artwork_folder, tmp_path / "run", "diffusers", inner=str(tmp_path / "taesd")))
    codec = load_codec(folder)
    assert (codec.image_size, codec.z_shape) == (64, (4, 16, 16))
    vae = TinyCodec.model.from_pretrained(folder, use_safetensors=True)
    assert vae.decode(torch.zeros(1, 4, 16, 16)).sample.shape == (1, 3, 64, 64)


def test_fitting_again_takes_the_place_of_the_last(artwork_folder, tmp_path):
    for k in (3, 4):
        folder = fit(config_of(artwork_folder, tmp_path, "pca", k=k))
    assert load_codec(folder).z_shape == (4,)


def test_a_folder_with_other_things_in_it_is_left_alone(artwork_folder, tmp_path, capsys):
    (tmp_path / "run" / "codec").mkdir(parents=True)
    (tmp_path / "run" / "codec" / "diary.txt").write_text("dear diary")
    values = {"data": str(artwork_folder), "out": str(tmp_path / "run"), "kind": "pca", "k": 3}
    assert run_main(tmp_path, values) == 2
    assert "diary.txt: was not written by this command" in capsys.readouterr().err
    assert (tmp_path / "run" / "codec" / "diary.txt").read_text() == "dear diary"


DEEP = {
    "down_block_types": ("DownEncoderBlock2D",) * 8,
    "up_block_types": ("UpDecoderBlock2D",) * 8,
    "block_out_channels": (4,) * 8,
}
"""Settings of an autoencoder that halves the side seven times."""


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kind": "ica", "k": 3}, "kind: unknown 'ica'; known: pca, whiten, diffusers"),
        ({"kind": "pca"}, "k, explained_variance: kind 'pca' takes one of them, got 0"),
        ({"kind": "pca", "k": 3, "explained_variance": 0.9}, "k, explained_variance: kind 'pca' takes one of them"),
        ({"kind": "diffusers", "inner": "a/b", "k": 3}, "k, explained_variance: kind 'diffusers' takes neither, got 1"),
        ({"kind": "pca", "k": 3, "inner": "a/b"}, "inner: kind 'pca' has none, got 'a/b'"),
        ({"kind": "whiten", "k": 3}, "inner: kind 'whiten' needs a folder or a hub id, got ''"),
        ({"kind": "pca", "explained_variance": 1.5}, "explained_variance: expected a share from 0 to 1, got 1.5"),
        ({"kind": "pca", "k": -1}, "k, batch_size: expected 0 and 1 or more, got -1 and 64"),
        ({"kind": "pca", "k": 999}, r"k: \d+ training pictures have at most \d+ components, got 999; lower k"),
        ({"kind": "whiten", "k": 999, "inner": "VAE"}, "k: the training pictures vary in 256 directions, got 999"),
        ({"kind": "whiten", "k": 3, "inner": "./none"}, "inner: './none' is no folder; a hub id looks like"),
        ({"kind": "whiten", "k": 3, "inner": "SMALL"}, "inner: made for pictures of 32 pixels, those of data have 64"),
        ({"kind": "diffusers", "inner": "DEEP"}, "inner: image_size: expected a multiple of 128, got 64; resize"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(options, told, artwork_folder, vae_folder, tmp_path, capsys):
    make_taesd(32).save_pretrained(tmp_path / "small")
    deep = AutoencoderKL.from_config({**make_tiny_vae().config, **DEEP})
    deep.save_pretrained(tmp_path / "deep")
    named = {"VAE": str(vae_folder), "SMALL": str(tmp_path / "small"), "DEEP": str(tmp_path / "deep")}
    options = {key: named.get(value, value) for key, value in options.items()}
    code = run_main(tmp_path, {"data": str(artwork_folder), "out": str(tmp_path / "run")} | options)
    said = capsys.readouterr().err.splitlines()[-1]
    assert code == 2
    assert re.match(rf"python -m train\.autoencoder: (.*: )?{told}", said)


def test_latents_too_large_to_whiten_are_refused(artwork_folder, vae_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(codec_module, "MAX_DIMS", 255)
    with pytest.raises(ConfigError, match="inner: latents of 256 numbers; at most 255 can be whitened"):
        fit(config_of(artwork_folder, tmp_path, "whiten", k=3, inner=str(vae_folder)))


def test_pictures_that_are_not_square_are_refused(artwork_folder):
    rows = rows_of(load_dataset(artwork_folder), "train").map(
        lambda row: {"image": row["image"].crop((0, 0, 64, 32))}, keep_in_memory=True
    )
    with pytest.raises(ConfigError, match="data: expected square pictures, got 64 x 32; crop or pad them"):
        Pictures(rows, 4)


@pytest.mark.parametrize("name", ["emoji-pca", "emoji-whitened"])
def test_the_shipped_configurations_can_be_read(name):
    assert load_config(CONFIGS / f"{name}.yaml", CodecConfig).data == Path("data/emoji")
