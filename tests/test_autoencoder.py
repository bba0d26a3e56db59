"""Training the image side on real artwork: it learns, it opens anywhere, and it never saw a held-out picture."""

import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from bridge.codecs import VAECodec, load_codec
from bridge.codecs.dense import DenseCodec
from bridge.codecs.palette import PaletteVAE
from train import autoencoder as vae_module
from train.autoencoder import (
    VAEConfig,
    VAEObjective,
    VAETraining,
    build_vae,
    make_deterministic,
    placed,
    total_correlation,
)
from train.config import ConfigError, load_config
from train.data.dataset import load_dataset, pixels_of, rows_of, to_unit
from train.loop import LoopConfig
from train.perceptual import Discriminator, PerceptualDistance
from train.recipes.emoji import write_dataset

CONFIGS = Path(__file__).parent.parent / "configs"
Rows = list[dict[str, Any]]
LOOP = LoopConfig(
    steps=24, batch_size=8, learning_rate=3e-3, warmup=2, ema_decay=0.5, validate_every=8, save_minutes=60
)


def config_of(data: Path, out: Path, **changes: Any) -> VAEConfig:
    """A VAE small enough to train in seconds, without the perceptual network."""
    plain: dict[str, Any] = {"widths": (8, 8, 8, 8), "groups": 2, "perceptual": 0.0, "family_power": 0.0}
    return VAEConfig(data, out, LOOP, **(plain | changes))


@pytest.fixture(scope="module")
def finished(artwork_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder after training."""
    out = tmp_path_factory.mktemp("vae") / "run"
    VAETraining(config_of(artwork_folder, out)).run()
    return out


@pytest.fixture(scope="module")
def train_pixels(artwork_folder: Path) -> Tensor:
    return pixels_of(rows_of(load_dataset(artwork_folder), "train"))


@pytest.fixture
def training(artwork_folder: Path, tmp_path: Path) -> VAETraining:
    """A run that has not begun."""
    (tmp_path / "run").mkdir()
    return VAETraining(config_of(artwork_folder, tmp_path / "run"))


def figures(out: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (out / "log.jsonl").read_text().splitlines()]


# a finished run


def test_training_reduces_the_loss(finished):
    losses = figures(finished, "loss")
    assert losses[-1] < 0.8 * losses[0]


def test_reconstructions_of_held_out_pictures_improve(finished):
    psnr = figures(finished, "validation_psnr")
    assert psnr[-1] > psnr[0] + 0.5


def test_every_validation_leaves_a_sheet(finished):
    assert sorted(path.name for path in finished.glob("*.png")) == [f"sheet-{step:06d}.png" for step in (8, 16, 24)]


def test_the_vae_opens_with_diffusers_alone(finished):
    vae = AutoencoderKL.from_pretrained(finished / "vae", use_safetensors=True)
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        y = vae.decode(vae.encode(x).latent_dist.mean).sample
    assert (y.shape, bool(y.isfinite().all())) == (x.shape, True)


def test_it_is_the_average_that_is_kept(finished):
    vae = AutoencoderKL.from_pretrained(finished / "vae", use_safetensors=True)
    state = torch.load(finished / "checkpoint.pt", weights_only=True)
    for parameter, average in zip(vae.parameters(), state["ema"], strict=True):
        assert torch.equal(parameter, average)


def test_standardised_latents_of_training_pictures_have_mean_0_and_variance_1(finished, train_pixels):
    codes = VAECodec.from_pretrained(finished / "vae").encode(to_unit(train_pixels))
    torch.testing.assert_close(codes.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    second = (codes.mean.square() + codes.std.square()).mean((0, 2, 3))
    torch.testing.assert_close(second, torch.ones(4), atol=1e-4, rtol=0)


def test_sampled_latents_are_standardised_too(finished, train_pixels):
    codes = VAECodec.from_pretrained(finished / "vae").encode(to_unit(train_pixels))
    z = codes.sample(torch.randn(codes.mean.shape, generator=torch.Generator().manual_seed(0)))
    assert z.mean((0, 2, 3)).abs().max() < 0.1
    assert (z.std((0, 2, 3)) - 1).abs().max() < 0.1


# what reaches training


def test_training_pixels_are_those_of_the_training_rows(training, artwork_rows):
    assert len(training.pixels) == sum(row["split"] == "train" for row in artwork_rows)


def test_pictures_outside_training_change_no_weight(artwork_rows, tmp_path):
    """Every picture of another split is replaced by one and the same: the VAE comes out bit for bit equal."""
    other = next(row["png"] for row in artwork_rows if row["split"] == "test")
    replaced = [row if row["split"] == "train" else {**row, "png": other} for row in artwork_rows]
    states = []
    for name, rows in (("real", artwork_rows), ("replaced", replaced)):
        write_dataset(rows, tmp_path / "data" / name)
        config = config_of(tmp_path / "data" / name, tmp_path / name, sheet_rows=0)
        folder = VAETraining(replace(config, loop=replace(LOOP, steps=2, validate_every=2))).run()
        states.append((folder / "diffusion_pytorch_model.safetensors").read_bytes())
    assert states[0] == states[1]


# batches


def test_a_row_is_the_same_in_any_batch(training):
    (x, eps), (x_all, eps_all) = training.batch(torch.tensor([5]), 2), training.batch(torch.tensor([1, 5, 9]), 2)
    assert torch.equal(x[0], x_all[1])
    assert torch.equal(eps[0], eps_all[1])


def test_posterior_noise_is_new_in_each_epoch(training):
    rows = torch.arange(4)
    assert not torch.equal(training.batch(rows, 0)[1], training.batch(rows, 1)[1])


def test_about_half_of_the_pictures_are_mirrored(training):
    rows = torch.arange(len(training.pixels))
    plain = to_unit(training.pixels)
    lopsided = (plain != plain.flip(-1)).flatten(1).any(1)
    mirrored = torch.cat([(training.batch(rows, epoch)[0] != plain).flatten(1).any(1)[lopsided] for epoch in range(6)])
    assert 0.35 < mirrored.float().mean() < 0.65


def test_without_flip_pictures_stay_as_drawn(artwork_folder, tmp_path):
    training = VAETraining(config_of(artwork_folder, tmp_path, flip=False))
    rows = torch.arange(len(training.pixels))
    assert torch.equal(training.batch(rows, 0)[0], to_unit(training.pixels))


def test_a_shift_moves_half_of_the_pictures_and_lets_white_in(artwork_folder, tmp_path):
    training = VAETraining(config_of(artwork_folder, tmp_path, flip=False, shift=3, family_power=0.0))
    still = VAETraining(config_of(artwork_folder, tmp_path, flip=False, family_power=0.0))
    rows = torch.arange(len(training.pixels))
    (x, *_), (plain, *_) = training.batch(rows, 0), still.batch(rows, 0)
    moved = (x != plain).flatten(1).any(1)
    assert 0.3 < moved.float().mean() < 0.7
    assert not torch.equal(x, training.batch(rows, 1)[0])
    one = torch.tensor([int(moved.nonzero()[0])])
    assert torch.equal(training.batch(one, 0)[0][0], x[one[0]])


def test_what_leaves_a_moved_picture_is_lost():
    x = torch.arange(9.0).view(1, 3, 3)
    assert placed(x, 1, -1, 1.0, 9.0)[0].tolist() == [[9, 9, 9], [1, 2, 9], [4, 5, 9]]
    assert placed(x, 0, 0, 1.0, 9.0) is x


def test_a_reduced_picture_lies_in_the_middle_of_what_comes_in_and_an_enlarged_one_loses_its_edges():
    x = torch.zeros(1, 8, 8)
    x[:, 2:6, 2:6] = 1
    reduced, enlarged = placed(x, 0, 0, 0.5, 9.0), placed(x, 0, 0, 2.0, 9.0)
    assert (reduced == 9).sum() == 64 - 16
    assert float(reduced[0, 3:5, 3:5].mean()) > 0.75
    assert (enlarged[0, 1:7, 1:7] > 0.7).all()
    torch.testing.assert_close(placed(x, 1, 0, 0.5, 9.0)[:, 1:], reduced[:, :-1])


def test_a_zoom_scales_the_pictures_that_are_moved(artwork_folder, tmp_path):
    options: dict[str, Any] = {"flip": False, "shift": 1, "family_power": 0.0}
    scaled = VAETraining(config_of(artwork_folder, tmp_path, zoom=1.5, **options))
    moved = VAETraining(config_of(artwork_folder, tmp_path, **options))
    rows = torch.arange(len(moved.pixels))
    (x, *_), (y, *_) = scaled.batch(rows, 0), moved.batch(rows, 0)
    still = (y == to_unit(moved.pixels)).flatten(1).all(1)
    differs = (x != y).flatten(1).any(1)
    assert 0 < differs.sum() < len(rows)
    assert not bool((differs & still).all())


def test_a_zoom_below_one_only_reduces(artwork_folder, tmp_path, monkeypatch):
    scales: list[float] = []
    monkeypatch.setattr(vae_module, "placed", lambda x, down, right, scale, fill: scales.append(scale) or x)
    for zoom in (0.5, 2.0):
        training = VAETraining(config_of(artwork_folder, tmp_path, zoom=zoom, shift=1))
        for epoch in range(4):
            training.batch(torch.arange(len(training.pixels)), epoch)
    reduced, both = scales[: len(scales) // 2], scales[len(scales) // 2 :]
    assert 0.5 <= min(reduced) < 0.75 < max(reduced) <= 1
    assert 0.5 <= min(both) < 1 < max(both) <= 2


def test_a_codec_trains_on_the_splits_that_are_asked_for(artwork_folder, tmp_path):
    count = len(VAETraining(config_of(artwork_folder, tmp_path)).pixels)
    more = VAETraining(config_of(artwork_folder, tmp_path, splits=("train", "validation")))
    assert len(more.pixels) == count + len(more.held_out)
    with pytest.raises(ConfigError, match=r"^data: no row of split 'nowhere'"):
        VAETraining(config_of(artwork_folder, tmp_path, splits=("nowhere",)))


@pytest.mark.parametrize(("shift", "zoom", "told"), [(1, 0.2, "from .25 to 4"), (0, 1.5, "set `shift` above 0")])
def test_a_zoom_that_cannot_be_is_refused(artwork_folder, tmp_path, shift, zoom, told):
    with pytest.raises(ConfigError, match=rf"^zoom: .*{told}"):
        config_of(artwork_folder, tmp_path, shift=shift, zoom=zoom)


def test_opacity_moves_with_its_picture_and_opaque_pictures_stay_opaque(artwork_folder, tmp_path):
    layered: dict[str, Any] = {"layers": 3, "widths": (16, 16, 8), "opacity": 0.5, "family_power": 0.0}
    training = VAETraining(config_of(artwork_folder, tmp_path, shift=3, **layered))
    assert training.opacity is not None
    clear = torch.zeros_like(training.opacity)
    clear[..., 4:-4, 4:-4] = 255
    training.opacity = torch.cat([clear[::2], torch.full_like(clear[1::2], 255)])
    training.pixels = 255 - training.opacity.expand_as(training.pixels)  # black where opaque
    rows = torch.arange(len(clear))
    x, _, opacity = training.batch(rows, 0)
    known = opacity.amin((1, 2, 3)) < 1
    assert torch.equal(opacity[known].expand_as(x[known]), 1 - x[known])
    assert int((~known).sum()) == len(clear[1::2])


def test_a_shift_below_0_is_refused(artwork_folder, tmp_path):
    with pytest.raises(ConfigError, match=r"^shift: expected 0 or more"):
        config_of(artwork_folder, tmp_path, shift=-1)


def test_small_families_are_shown_more_often_than_large_ones(artwork_folder, tmp_path):
    training = VAETraining(config_of(artwork_folder, tmp_path, family_power=1.0, flip=False))
    family = torch.tensor(rows_of(load_dataset(artwork_folder), "train")["family"])
    positions = torch.arange(len(training.pixels))
    shown = torch.cat([training.batch(positions, epoch)[0] for epoch in range(10)])
    row = {picture.numpy().tobytes(): i for i, picture in enumerate(to_unit(training.pixels))}
    counts = family[[row[picture.numpy().tobytes()] for picture in shown]].unique(return_counts=True)[1]
    assert counts.float().std() / counts.float().mean() < 0.25


# more pictures


@pytest.fixture
def more(artwork_rows: Rows, tmp_path: Path) -> Path:
    """A second dataset: the sample's pictures upside down, all for training."""
    write_dataset([{**row, "split": "train", "png": turned(row["png"])} for row in artwork_rows], tmp_path / "more")
    return tmp_path / "more"


def turned(png: bytes, side: int = 64) -> bytes:
    """A picture upside down."""
    out = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").rotate(180).resize((side, side)).save(out, "PNG")
    return out.getvalue()


def test_more_pictures_take_their_share_of_an_epoch(artwork_folder, more, tmp_path):
    training = VAETraining(config_of(artwork_folder, tmp_path / "run", more=str(more), more_share=0.4, flip=False))
    own = {p.numpy().tobytes() for p in to_unit(training.pixels)}
    x, _ = training.batch(torch.arange(training.loop.rows), 3)
    share = sum(p.numpy().tobytes() not in own for p in x) / len(x)
    assert share == pytest.approx(0.4, abs=0.05)


def test_a_picture_of_the_second_dataset_is_the_same_in_any_batch(artwork_folder, more, tmp_path):
    training = VAETraining(config_of(artwork_folder, tmp_path / "run", more=str(more)))
    last = training.loop.rows - 1
    assert torch.equal(training.batch(torch.tensor([last]), 2)[0][0], training.batch(torch.tensor([0, last]), 2)[0][1])


def test_more_pictures_are_opaque(artwork_folder, more, tmp_path):
    layered: dict[str, Any] = {"layers": 3, "widths": (16, 16, 8), "opacity": 0.5}
    training = VAETraining(config_of(artwork_folder, tmp_path / "run", more=str(more), flip=False, **layered))
    assert training.opacity is not None
    training.opacity = torch.zeros_like(training.opacity)
    own = len(training.pixels)
    *_, opacity = training.batch(torch.tensor([0, own - 1, own, own + 1]), 0)
    assert opacity.amax((1, 2, 3)).tolist() == opacity.amin((1, 2, 3)).tolist() == [0, 0, 1, 1]


def test_more_pictures_of_another_size_are_refused(artwork_folder, artwork_rows, tmp_path):
    rows = [{**row, "split": "train", "png": turned(row["png"], 32)} for row in artwork_rows]
    write_dataset(rows, tmp_path / "small")
    with pytest.raises(ConfigError, match=r"more: .* has pictures of 32 x 32, .* of 64 x 64"):
        VAETraining(config_of(artwork_folder, tmp_path / "run", more=str(tmp_path / "small")))


def test_a_share_of_more_pictures_outside_its_range_is_refused(artwork_folder, tmp_path):
    with pytest.raises(ConfigError, match="more_share: expected a share between 0 and 1, got 1"):
        config_of(artwork_folder, tmp_path, more_share=1)


# a second training stage


def test_a_second_stage_begins_with_the_weights_of_the_last(finished, artwork_folder, tmp_path):
    training = VAETraining(config_of(artwork_folder, tmp_path / "run", init=str(finished / "vae")))
    last = AutoencoderKL.from_pretrained(finished / "vae", use_safetensors=True)
    assert all(torch.equal(a, b) for a, b in zip(training.vae.parameters(), last.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in training.vae.parameters())


def test_a_missing_vae_to_begin_with_is_named(artwork_folder, tmp_path):
    with pytest.raises(ConfigError, match=r"init: none holds no VAE; name the `vae` folder of a finished run"):
        VAETraining(config_of(artwork_folder, tmp_path / "run", init="none"))


def test_a_vae_of_another_shape_to_begin_with_is_refused(finished, artwork_folder, tmp_path):
    config = config_of(artwork_folder, tmp_path / "run", init=str(finished / "vae"), latent_channels=3)
    with pytest.raises(ConfigError, match=r"init: .* has latent_channels 4, this config asks for 3"):
        VAETraining(config)


def test_a_vae_of_another_kind_to_begin_with_is_refused(finished, artwork_folder, tmp_path):
    config = config_of(artwork_folder, tmp_path / "run", init=str(finished / "vae"), units=8)
    with pytest.raises(ConfigError, match=r"init: .* is a VAECodec, this config trains a DenseVAE"):
        VAETraining(config)


def test_a_vae_of_layers_to_begin_with_may_be_extended(artwork_folder, tmp_path):
    layered = {"layers": 3, "widths": (16, 16, 8), "latent_channels": 2, "blocks": 1}
    with torch.random.fork_rng():
        first = PaletteVAE(64, 2, (16, 16, 8), 3, blocks=1)
    first.register_to_config(latents_mean=[0.0] * 2, latents_std=[1.0] * 2)
    first.save_pretrained(tmp_path / "vae")
    layered["init"] = str(tmp_path / "vae")
    larger = {"latent_channels": 4, "blocks": 2}
    training = VAETraining(config_of(artwork_folder, tmp_path / "run", **layered | larger))
    assert training.vae.config.latent_channels == 4
    assert torch.equal(training.vae.trunk[0].weight[:, :2], first.trunk[0].weight)
    with pytest.raises(ConfigError, match=r"init: .*vae: latent_channels, blocks: expected at least 2 and 1"):
        VAETraining(config_of(artwork_folder, tmp_path / "run", **layered | {"latent_channels": 1}))


# latents without a place


@pytest.fixture(scope="module", params=[1e-3, 0.0], ids=["variational", "plain"])
def dense(request: pytest.FixtureRequest, artwork_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder after training a VAE with a dense layer."""
    out = tmp_path_factory.mktemp("dense") / "run"
    VAETraining(config_of(artwork_folder, out, units=32, latent_channels=6, kl=request.param)).run()
    return out


def test_a_dense_vae_learns(dense):
    losses = figures(dense, "loss")
    assert losses[-1] < 0.8 * losses[0]


def test_its_latents_are_standardised_without_a_place(dense, train_pixels):
    codec = load_codec(dense / "vae")
    assert (type(codec), codec.z_shape, codec.image_size) == (DenseCodec, (6, 1, 1), 64)
    codes = codec.encode(to_unit(train_pixels))
    torch.testing.assert_close(codes.mean.mean((0, 2, 3)), torch.zeros(6), atol=1e-4, rtol=0)
    second = (codes.mean.square() + codes.std.square()).mean((0, 2, 3))
    torch.testing.assert_close(second, torch.ones(6), atol=1e-4, rtol=0)


def test_a_dense_vae_begins_a_second_stage(dense, artwork_folder, tmp_path):
    config = config_of(artwork_folder, tmp_path / "run", units=32, latent_channels=6, init=str(dense / "vae"))
    last = load_codec(dense / "vae")
    assert isinstance(last, DenseCodec)
    training = VAETraining(config)
    assert all(torch.equal(a, b) for a, b in zip(training.vae.parameters(), last.vae.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in training.vae.parameters())


def test_more_widths_than_halvings_are_refused(artwork_folder, tmp_path):
    with pytest.raises(ConfigError, match=r"widths: sample_size: expected a multiple of 128 to halve 7 times, got 64"):
        VAETraining(config_of(artwork_folder, tmp_path / "run", units=8, widths=(4,) * 7))


# figures and losses


def test_psnr_is_that_of_all_pixels_pooled(training):
    x = to_unit(training.held_out)
    with torch.no_grad():
        vae = training.vae.eval()
        y = (vae.decode(vae.encode(x * 2 - 1).latent_dist.mean).sample / 2 + 0.5).clamp(0, 1)
        psnr = training.validate(0)["validation_psnr"]
    assert psnr == pytest.approx(float(10 * torch.log10(1 / (x - y).double().square().mean())), abs=1e-3)


@pytest.fixture
def losses(artwork_folder: Path, train_pixels: Tensor) -> Callable[..., dict[str, Tensor]]:
    """Losses of three real pictures under other weights of the same VAE."""

    def compute(eps: Tensor | None = None, **weights: float) -> dict[str, Tensor]:
        eps = torch.zeros(3, 4, 8, 8) if eps is None else eps
        config = replace(config_of(artwork_folder, Path("run")), **weights)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            return VAEObjective(build_vae(config, 64), config)(to_unit(train_pixels[:3]), eps)

    return compute


def test_the_loss_is_the_weighed_sum_of_its_parts(losses):
    parts = losses(mse=2.0, kl=0.5)
    torch.testing.assert_close(parts["loss"], parts["l1"] + 2 * parts["mse"] + 0.5 * parts["kl"])


def test_losses_come_one_an_example(losses):
    assert {part.shape for part in losses().values()} == {(3,)}


def test_kl_is_a_mean_over_latent_dimensions(losses, train_pixels):
    """Against the closed form of KL(N(m, s) || N(0, 1)), dimension by dimension."""
    config = config_of(Path("data"), Path("run"))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        posterior = build_vae(config, 64).encode(to_unit(train_pixels[:3]) * 2 - 1).latent_dist
    kl = (posterior.mean.square() + posterior.var - 1 - posterior.var.log()) / 2
    torch.testing.assert_close(losses()["kl"], kl.flatten(1).mean(1))


# a plain autoencoder


@pytest.fixture(scope="module")
def plain(artwork_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder after training without KL."""
    out = tmp_path_factory.mktemp("ae") / "run"
    VAETraining(config_of(artwork_folder, out, kl=0.0)).run()
    return out


def test_a_plain_autoencoder_learns(plain):
    losses = figures(plain, "loss")
    assert losses[-1] < 0.8 * losses[0]


def test_its_loss_has_no_kl_and_no_noise(losses):
    parts, noisy = losses(kl=0.0, mse=2.0), losses(kl=0.0, mse=2.0, eps=torch.ones(3, 4, 8, 8))
    torch.testing.assert_close(parts["loss"], parts["l1"] + 2 * parts["mse"])
    assert set(parts) == {"loss", "l1", "mse"}
    assert torch.equal(parts["loss"], noisy["loss"])


def test_with_kl_noise_counts(losses):
    assert not torch.equal(losses(kl=0.5)["l1"], losses(kl=0.5, eps=torch.ones(3, 4, 8, 8))["l1"])


def test_its_latents_are_deterministic_in_diffusers_alone(plain, train_pixels):
    vae = AutoencoderKL.from_pretrained(plain / "vae", use_safetensors=True)
    with torch.no_grad():
        posterior = vae.encode(to_unit(train_pixels[:4]) * 2 - 1).latent_dist
    torch.testing.assert_close(posterior.std, torch.full_like(posterior.std, math.exp(-15)))
    torch.testing.assert_close(posterior.sample(torch.Generator().manual_seed(0)), posterior.mean, atol=1e-5, rtol=0)


def test_its_codec_is_standardised_and_sure(plain, train_pixels):
    codes = VAECodec.from_pretrained(plain / "vae").encode(to_unit(train_pixels))
    assert 0 < codes.std.max() < 1e-4
    torch.testing.assert_close(codes.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(codes.mean.square().mean((0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)


def test_making_it_deterministic_leaves_the_latents(training, train_pixels):
    x = to_unit(train_pixels[:2]) * 2 - 1
    with torch.no_grad():
        before = training.vae.encode(x).latent_dist.mean
        make_deterministic(training.vae)
        torch.testing.assert_close(training.vae.encode(x).latent_dist.mean, before)


@pytest.mark.parametrize("kl", [-1e-3, float("nan"), float("inf")])
def test_a_weight_of_the_kl_below_0_is_refused(artwork_folder, tmp_path, kl):
    with pytest.raises(ConfigError, match="kl: expected 0 or more, got"):
        config_of(artwork_folder, tmp_path, kl=kl)


# total correlation

STD = 0.5


def posteriors(correlation: float, pictures: int = 2000) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, means and log-variances (N, 2) of posteriors of deviation STD; all together are N(0, [[1, r], [r, 1]])
    for r the correlation."""
    g = torch.Generator().manual_seed(0)
    covariance = torch.tensor([[1.0, correlation], [correlation, 1.0]]) - STD**2 * torch.eye(2)
    mean = torch.randn(pictures, 2, generator=g) @ torch.linalg.cholesky(covariance).T
    z = mean + STD * torch.randn(pictures, 2, generator=g)
    return z, mean, torch.full_like(mean, 2 * math.log(STD))


@pytest.mark.parametrize("correlation", [0.0, 0.4, 0.7])
def test_total_correlation_of_all_pictures_is_that_of_their_gaussian(correlation):
    found = total_correlation(*posteriors(correlation), 2000).mean()
    assert float(found) == pytest.approx(-0.5 * math.log(1 - correlation**2), abs=0.05)


def test_total_correlation_of_a_batch_is_near_that_of_all_pictures():
    batches = zip(*(part.split(250) for part in posteriors(0.7)), strict=True)
    found = torch.stack([total_correlation(*batch, 2000).mean() for batch in batches]).mean()
    assert float(found) == pytest.approx(-0.5 * math.log(1 - 0.7**2), abs=0.05)


def test_divergence_is_information_and_total_correlation_and_the_rest_of_each_dimension():
    """KL(q(z|x) | p) = I(x; z) + TC(z) + sum_j KL(q(z_j) | p_j), each known of a Gaussian; here the last is 0."""
    z, mean, logvar = posteriors(0.7)
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1).mean()
    covariance = torch.tensor([[1.0, 0.7], [0.7, 1.0]])
    information = 0.5 * torch.logdet(covariance / STD**2)
    found = information + total_correlation(z, mean, logvar, 2000).mean()
    torch.testing.assert_close(found, divergence, atol=0.06, rtol=0)


def test_total_correlation_counts_beside_the_kl(losses):
    plain, more = losses(kl=0.5), losses(kl=0.5, total_correlation=2.0)
    torch.testing.assert_close(more["loss"], plain["loss"] + 2 * more["total_correlation"])
    assert more["total_correlation"].shape == plain["loss"].shape


@pytest.mark.parametrize("changes", [{"total_correlation": -1.0}, {"total_correlation": 1.0, "kl": 0.0}])
def test_total_correlation_without_a_posterior_or_below_0_is_refused(artwork_folder, tmp_path, changes):
    with pytest.raises(ConfigError, match="total_correlation: "):
        config_of(artwork_folder, tmp_path, **changes)


@pytest.mark.parametrize(
    ("first", "name", "kl"),
    [
        ("emoji-vae", "emoji-ae", 0.0),
        ("emoji-vae", "emoji-beta4", 4 * 3e-4),
        ("peers-vae", "small-ae", 0.0),
        ("peers-vae", "small-beta01", 10 * 1e-3),
        ("peers-vae", "small-beta1", 256 / 3072),
    ],
)
def test_variants_differ_from_a_codec_in_the_kl_alone(first, name, kl):
    plain, other = (load_config(CONFIGS / f"{n}.yaml", VAEConfig) for n in (first, name))
    assert other == replace(plain, kl=other.kl, out=other.out)
    assert (other.kl, other.out != plain.out) == (pytest.approx(kl, rel=1e-3), True)


def test_the_codec_of_icons_differs_in_data_and_precision_alone():
    plain, icons = (load_config(CONFIGS / f"{name}-vae.yaml", VAEConfig) for name in ("peers", "icons"))
    assert icons == replace(
        plain, data=Path("data/icons-pairs"), out=icons.out, loop=replace(plain.loop, mixed_precision="no")
    )


# the perceptual distance


@pytest.fixture(scope="module")
def distance() -> PerceptualDistance:
    return PerceptualDistance()


def test_a_picture_is_at_no_distance_from_itself(distance, train_pixels):
    x = to_unit(train_pixels[:2])
    assert distance(x, x).tolist() == [0, 0]


def test_another_picture_is_farther_than_a_slightly_noisy_copy(distance, train_pixels):
    x = to_unit(train_pixels[[0, 20]])
    noisy = x + 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    assert (distance(x, noisy) < 0.5 * distance(x, x.flip(0))).all()


def test_the_gradient_goes_to_the_reconstruction_not_to_the_network(distance, train_pixels):
    y = to_unit(train_pixels[:1]).requires_grad_()
    distance(to_unit(train_pixels[20:21]), y).sum().backward()
    assert y.grad is not None and y.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in distance.parameters())


def test_the_perceptual_network_stays_in_evaluation_mode(distance):
    distance.train()
    assert not any(module.training for module in distance.modules())


# the discriminator


@pytest.fixture(scope="module")
def features(distance, train_pixels) -> list[list[Tensor]]:
    """Of real pictures, and of their blurred copies."""
    x = to_unit(train_pixels[:8])
    return [distance.features(p) for p in (x, torch.nn.functional.avg_pool2d(x, 5, 1, 2))]


def test_a_discriminator_learns_to_tell_pictures_from_blurred_ones(features):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        discriminator = Discriminator(16)
    optimizer = torch.optim.Adam(discriminator.parameters(), 3e-3)
    for _ in range(60):
        loss = discriminator.losses(*features)[1].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        deceived, told = discriminator.losses(*features)
        of_real, _ = discriminator.losses(*features[::-1])
    assert float(told.mean()) < 1  # 2 where it cannot tell
    assert float(deceived.mean()) > float(of_real.mean())


def test_neither_trains_the_others_part(features):
    discriminator = Discriminator(16)
    drawn = [f.clone().requires_grad_() for f in features[1]]
    deceived, told = discriminator.losses(features[0], drawn)
    assert all(g is None for g in torch.autograd.grad(told.sum(), drawn, retain_graph=True, allow_unused=True))
    weights = list(discriminator.parameters())
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(deceived.sum(), weights, retain_graph=True)
    assert all(bool(g.any()) for g in torch.autograd.grad(deceived.sum(), drawn))
    assert all(w.requires_grad for w in weights)


def test_a_decoder_alone_is_trained_against_a_discriminator(finished, artwork_folder, tmp_path):
    changes = {"perceptual": 0.1, "adversarial": 0.01, "decoder_alone": True, "init": str(finished / "vae")}
    training = VAETraining(config_of(artwork_folder, tmp_path / "run", **changes))
    training.loop.config = replace(LOOP, steps=3, validate_every=3)
    codec = VAECodec.from_pretrained(training.run())
    before, after = (c.vae.state_dict() for c in (VAECodec.from_pretrained(finished / "vae"), codec))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any(name.startswith(("encoder.", "quant_conv.")) for name in changed)
    row = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])
    expected = row["l1"] + 2 * row["mse"] + row["kl"] * VAEConfig.kl + 0.1 * row["perceptual"]
    assert row["loss"] == pytest.approx(expected + 0.01 * row["adversarial"] + row["discriminator"], rel=1e-3)


def test_without_noise_a_decoder_learns_from_means(losses):
    eps = torch.ones(3, 4, 8, 8)
    assert torch.equal(losses(eps, noise=0.0)["l1"], losses(noise=1.0)["l1"])
    assert not torch.equal(losses(eps, noise=0.5)["l1"], losses(eps, noise=1.0)["l1"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"adversarial": 0.1}, "adversarial: judges by the perceptual distance's features; set `perceptual`"),
        ({"decoder_alone": True}, "decoder_alone: needs an encoder; name a folder with a VAE as `init`"),
        ({"noise": 1.5}, "noise: expected a factor from 0 to 1, got 1.5"),
    ],
)
def test_what_cannot_be_trained_so_is_refused(changes, told, artwork_folder, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(told)):
        config_of(artwork_folder, tmp_path, **changes)


# the command


def run_main(tmp_path: Path, values: object) -> int:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    return vae_module.main([str(tmp_path / "run.yaml")])


def test_a_folder_that_is_no_dataset_is_one_line_and_code_2(tmp_path, capsys):
    code = run_main(tmp_path, {"data": str(tmp_path / "none"), "out": "o", "loop": {"steps": 1}})
    made = f"make it with `python -m train.recipes emoji --out {tmp_path}/none`, or"
    said = f"data: {tmp_path}/none is not a dataset; {made}"
    err = capsys.readouterr().err
    assert (code, err.count("\n"), err.startswith(f"python -m train.autoencoder: {said}")) == (2, 1, True)


def test_a_dataset_without_training_rows_says_what_it_has(artwork_rows, tmp_path, capsys):
    write_dataset([row for row in artwork_rows if row["split"] in ("test", "seen")], tmp_path / "data")
    code = run_main(tmp_path, {"data": str(tmp_path / "data"), "out": "o", "loop": {"steps": 1}})
    last = capsys.readouterr().err.splitlines()[-1]
    assert (code, last) == (2, "python -m train.autoencoder: data: no row of split 'train'; found seen, test")


def test_a_missing_column_is_named_beside_those_found(artwork_folder, tmp_path, capsys):
    load_dataset(artwork_folder).select_columns(["image", "label", "split"]).save_to_disk(str(tmp_path / "data"))
    code = run_main(tmp_path, {"data": str(tmp_path / "data"), "out": "o", "loop": {"steps": 1}})
    last = capsys.readouterr().err.splitlines()[-1]
    assert (code, last) == (
        2,
        f"python -m train.autoencoder: data: {tmp_path}/data lacks captions, family; it has image, label, split; "
        f"make one of it with `python -m train.prepare {tmp_path}/data --out data/data-64`",
    )


@pytest.mark.parametrize(
    ("size", "widths", "told"),
    [
        ((20, 20), [8, 8, 8, 8], "multiples of 8; prepare them with --size 16 or 24, or give fewer widths"),
        ((16, 24), [8, 8], "has pictures of 16 x 24; crop or pad them to squares"),
        ((16, 16), [6, 8], "widths: "),
        ((16, 16), [], "widths: "),
    ],
)
def test_widths_that_do_not_fit_the_pictures_are_named_before_training(
    size, widths, told, artwork_folder, tmp_path, capsys
):
    def small(row: dict[str, object]) -> dict[str, object]:
        return row | {"image": row["image"].convert("RGB").resize(size)}  # type: ignore[attr-defined]

    load_dataset(artwork_folder).map(small).save_to_disk(str(tmp_path / "data"))
    out = tmp_path / "out"
    code = run_main(tmp_path, {"data": str(tmp_path / "data"), "out": str(out), "widths": widths, "loop": {"steps": 1}})
    said = capsys.readouterr().err.splitlines()[-1]
    assert code == 2 and told in said and said.startswith("python -m train.autoencoder: ") and not out.exists()
