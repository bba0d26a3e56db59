"""Training the bridge on real artwork: what it draws, what it never sees, and the model it leaves."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from diffusers import AutoencoderKL

from bridge.checkpoint import CheckpointError
from bridge.codecs.standardize import PCACodec, PrincipalAxes
from bridge.errors import UserError
from bridge.mappers import FAMILIES
from bridge.pipeline import BridgePipeline, Settings
from bridge.text import TextCode, TextEncoder
from bridge.text.words import WordVectors
from train import mapper as mapper_module
from train.config import ConfigError
from train.data.dataset import EpochRows, load_dataset, pixels_of, rows_of, to_unit
from train.loop import LoopConfig, ResumeError
from train.mapper import MapperConfig, MapperTraining
from train.recipes.emoji import write_dataset

LOOP = LoopConfig(
    steps=30, batch_size=16, learning_rate=3e-3, warmup=5, ema_decay=0.5, validate_every=10, save_minutes=60
)
MAPPER = {"width": 32, "hidden": 32, "blocks": 1, "condition": 16}
SETTINGS = Settings(guidance_scale=1.5, num_inference_steps=3, familiar=0.5, neighbour_temperature=0.05)
Build = Callable[..., MapperTraining]


@pytest.fixture(scope="module")
def data(artwork_folder: Path) -> Path:
    """The shared sample: what one test encodes the others find in its cache."""
    return artwork_folder


@pytest.fixture(scope="module")
def finished(data: Path, vae_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> MapperTraining:
    """A run that has come to its end."""
    out = tmp_path_factory.mktemp("mapper") / "run"
    training = MapperTraining(MapperConfig(data, vae_folder, out, LOOP, mapper=MAPPER, settings=SETTINGS))
    training.run()
    return training


@pytest.fixture(scope="module")
def opened(finished: MapperTraining) -> BridgePipeline:
    """The model that the finished run left, opened as anybody would."""
    return BridgePipeline.from_pretrained(finished.config.out / "model")


@pytest.fixture
def build(data: Path, vae_folder: Path, encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Makes runs that have not begun, with the changes asked for; they share one text encoder to save time."""
    monkeypatch.setattr(TextEncoder, "from_pretrained", lambda *_, **__: encoder)

    def make(**changes: Any) -> MapperTraining:
        defaults: dict[str, Any] = {"data": data, "vae": vae_folder, "out": tmp_path / "run", "mapper": MAPPER}
        return MapperTraining(MapperConfig(**{**defaults, "loop": LOOP, **changes}))

    return make


def is_null(codes: torch.Tensor) -> torch.Tensor:
    return (codes == 0).all(1)


# a finished run


def test_training_reduces_the_loss(finished, build):
    """On one batch with one noise, since over few steps the luck of the draw of times hides it."""
    batch = finished.batch(torch.arange(42), 0)
    with torch.no_grad():
        after, before = (t.loop.objective(*batch)["loss"].mean() for t in (finished, build()))
    assert after < 0.7 * before


def test_validation_reports_held_out_captions_and_hidden_artists(finished):
    last = json.loads((finished.config.out / "log.jsonl").read_text().splitlines()[-1])
    assert last.keys() == {"step", "loss", "validation_loss", "seen_validation_loss"}


def test_the_opened_model_draws_what_the_run_would(finished, opened):
    ours, theirs = (
        pipe("cat", 2, seed=3, output_type="latent").images for pipe in (finished.pipeline(finished.mapper), opened)
    )
    assert torch.equal(ours, theirs)


def test_the_model_remembers_the_training_labels(opened, artwork_rows):
    assert opened.memory.captions == sorted({row["label"] for row in artwork_rows if row["split"] == "train"})


def test_the_model_samples_with_the_configs_settings(opened):
    assert opened.settings == SETTINGS


def test_it_is_the_average_that_is_kept(finished):
    state = torch.load(finished.config.out / "checkpoint.pt", weights_only=True)
    for parameter, average in zip(finished.mapper.parameters(), state["ema"], strict=True):
        assert torch.equal(parameter, average)


def test_training_leaves_both_encoders_as_they_were(finished, encoder, vae_folder):
    """Bit for bit."""
    vae, text = finished.codec.vae, finished.encoder.model
    fresh = AutoencoderKL.from_pretrained(vae_folder, use_safetensors=True)
    for ours, theirs in ((vae, fresh), (text, encoder.model)):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_the_card_becomes_the_models_readme(build, tmp_path):
    (tmp_path / "card.md").write_text("# A card\n")
    folder = build(card=str(tmp_path / "card.md"), loop=replace(LOOP, steps=1)).run()
    assert (folder / "README.md").read_text() == "# A card\n"


# a second training stage


def test_a_second_stage_begins_with_the_weights_of_the_last(finished, build, tmp_path):
    last = finished.config.out / "model"
    again = build(init=str(last), out=tmp_path / "again", mapper=MAPPER | {"dropout": 0.5})
    kept = BridgePipeline.from_pretrained(last).mapper
    assert all(torch.equal(a, b) for a, b in zip(again.mapper.parameters(), kept.parameters(), strict=True))
    assert (again.mapper.config["dropout"], again.mapper.training) == (0.5, True)
    assert all(parameter.requires_grad for parameter in again.mapper.parameters())


def test_a_mapper_of_another_shape_is_refused(finished, build):
    with pytest.raises(ConfigError, match=r"init: .* has a mapper of another shape: size mismatch for net"):
        build(init=str(finished.config.out / "model"), mapper=MAPPER | {"width": 24})


def test_a_start_that_is_no_model_is_refused(build, tmp_path):
    with pytest.raises(ConfigError, match=r"init: .* holds no mapper; name the `model` folder of a finished run"):
        build(init=str(tmp_path))


def test_a_run_of_a_version_with_replay_resumes_where_it_did_not_use_it(build):
    first = build()
    first.config.out.mkdir()
    first.loop.identity |= {"replay": 0, "replay_share": 0.5}
    first.loop.save()
    build().loop.resume()
    first.loop.identity |= {"replay": 5}
    first.loop.save()
    with pytest.raises(ResumeError, match="replay was 5, is 0"):
        build().loop.resume()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"copies_of": -1}, "copies_of: expected 0 or more captions, got -1"),
        ({"most_copies": 1.5}, "most_copies: expected a share from 0 to 1, got 1.5"),
    ],
)
def test_shares_and_counts_out_of_range_are_refused(build, changes, told):
    with pytest.raises(ConfigError, match=told):
        build(**changes)


# how long without copies


def test_validation_tells_how_much_is_copied(build):
    training = build(copies_of=5, loop=replace(LOOP, steps=2, validate_every=1))
    training.run()
    last = json.loads((training.config.out / "log.jsonl").read_text().splitlines()[-1])
    assert 0 <= last["copies"] <= 1
    assert last["steps_without_copies"] == (2 if last["copies"] <= 0.02 else 0)


def looked(training: MapperTraining) -> dict[str, float]:
    """Figures of a validation at step 7."""
    training.config.out.mkdir(exist_ok=True)
    with torch.no_grad():
        return training.validate(7)


def test_a_model_that_draws_training_pictures_copies(build, monkeypatch):
    training = build(copies_of=5)
    known = to_unit(pixels_of(rows_of(load_dataset(training.config.data), "train")))
    monkeypatch.setattr(BridgePipeline, "__call__", lambda self, p, n, **_: SimpleNamespace(images=known[: len(p) * n]))
    figures = looked(training)
    assert (figures["copies"], figures["steps_without_copies"]) == (1.0, 0)
    monkeypatch.setattr(
        BridgePipeline, "__call__", lambda self, p, n, **_: SimpleNamespace(images=torch.rand(len(p) * n, 3, 64, 64))
    )
    figures = looked(training)
    assert (figures["copies"], figures["steps_without_copies"]) == (0.0, 7)


def test_looking_for_copies_leaves_the_mapper_in_training(build):
    training = build(copies_of=2)
    looked(training)
    assert all(parameter.requires_grad for parameter in training.mapper.parameters())


def test_copies_are_looked_for_in_the_same_pictures_each_time(build):
    training = build(copies_of=3)
    assert looked(training)["copies"] == looked(training)["copies"]


# what reaches training


def test_other_splits_change_no_weight(build, artwork_rows, tmp_path):
    """Pictures and captions of every other split are replaced: the mapper comes out bit for bit equal."""
    other = {"png": artwork_rows[0]["png"], "captions": ["something else"], "label": "something else"}
    replaced = [row if row["split"] == "train" else {**row, **other} for row in artwork_rows]
    states = []
    for name, rows in (("real", artwork_rows), ("replaced", replaced)):
        write_dataset(rows, tmp_path / "data" / name)
        model = build(data=tmp_path / "data" / name, out=tmp_path / name, loop=replace(LOOP, steps=3)).run()
        states.append([(path.name, path.read_bytes()) for path in sorted(model.glob("[mc]a*/*"))])
    assert len(states[0]) == 4
    assert states[0] == states[1]


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(build, tmp_path):
    """With dropout, mixing and dropped captions, stopped in the middle of the second epoch."""
    options = {"mapper": MAPPER | {"dropout": 0.2}, "mix_share": 0.3, "loop": replace(LOOP, steps=6, cooldown=0.0)}
    whole = build(out=tmp_path / "whole", **options)
    whole.run()
    first = build(out=tmp_path / "halved", **options)
    first.config.out.mkdir()
    for _ in range(3):
        first.loop.train_step()
    first.loop.save()
    resumed = build(out=tmp_path / "halved", **options)
    resumed.run()
    assert resumed.pipeline(resumed.mapper).fingerprint == whole.pipeline(whole.mapper).fingerprint


def test_a_second_run_encodes_nothing_again(build, monkeypatch):
    build()

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("encoded again")

    monkeypatch.setattr(TextEncoder, "encode", fail)
    monkeypatch.setattr("bridge.codecs.VAECodec.encode", fail)
    assert len(build().train.table) == 42


def test_validation_takes_the_same_noise_every_time(finished):
    with torch.no_grad():
        assert finished.validate(98) == finished.validate(99)


# batches


def test_an_example_is_the_same_in_any_batch(build):
    training = build(mix_share=0.5)
    alone, together = training.batch(torch.tensor([7]), 3), training.batch(torch.tensor([2, 7, 30]), 3)
    for one, three in zip(alone, together, strict=True):
        assert torch.equal(one[0], three[1])


@pytest.mark.parametrize("change", ["seed", "epoch", "position"])
def test_the_noise_depends_on_seed_epoch_and_position(build, change):
    noise = build().batch(torch.tensor([1]), 0)[-1]
    training = build(loop=replace(LOOP, seed=1)) if change == "seed" else build()
    other = training.batch(torch.tensor([2 if change == "position" else 1]), 1 if change == "epoch" else 0)[-1]
    assert not (noise == other).any()


def test_noise_is_standard_normal(build):
    noise = build().batch(torch.arange(42), 0)[-1]
    assert (noise.shape, abs(float(noise.mean())) < 0.03, abs(float(noise.std()) - 1) < 0.03) == ((42, 257), True, True)


def test_latents_are_drawn_from_the_posterior_of_their_row(build):
    """Standardised by the row's own posterior they are standard normal, and not the noise the mapper gets."""
    training = build(family_power=0.0)
    rows = torch.arange(42)
    z, *_, noise = training.batch(rows, 0)
    posterior = training.train.latents.rows(rows)
    eps = ((z - posterior.mean) / posterior.std).flatten(1)
    assert (abs(float(eps.mean())) < 0.03, abs(float(eps.std()) - 1) < 0.03) == (True, True)
    assert abs(float((eps * noise[:, 1:]).mean())) < 0.03


def test_captions_are_dropped_as_often_as_asked_even_two_at_a_time(build):
    training = build(caption_dropout=0.1)
    codes = torch.cat(
        [training.batch(torch.tensor([2 * i, 2 * i + 1]), epoch)[1] for epoch in range(60) for i in range(21)]
    )
    assert float(is_null(codes).float().mean()) == pytest.approx(0.1, abs=0.02)


def test_without_dropout_every_code_has_unit_norm(build):
    codes = build(caption_dropout=0.0, mix_share=0.5).batch(torch.arange(42), 0)[1]
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(42))


def test_labels_are_told_as_often_as_asked(build):
    training = build(caption_dropout=0.0, label_share=0.4, family_power=0.0)
    rows = torch.arange(42)
    drawn = torch.cat([training.batch(rows, epoch)[1] for epoch in range(40)])
    labels = training.train.codes.pooled(training.train.table.labels).repeat(40, 1)
    # a variant is drawn uniformly, the label among them
    by_chance = (1 / training.train.table.start.diff()).mean()
    expected = 0.4 + 0.6 * float(by_chance)
    assert float((drawn == labels).all(1).float().mean()) == pytest.approx(expected, abs=0.04)


def test_every_variant_of_a_caption_has_its_turn(build):
    training = build(caption_dropout=0.0, label_share=0.0)
    row = torch.zeros(400, dtype=torch.long)
    codes = training.draw_codes(row, torch.rand(400, 5, generator=torch.Generator().manual_seed(0)))
    assert len(codes.pooled.unique(dim=0)) == int(training.train.table.start[1])


def test_a_mixed_code_lies_between_its_label_and_a_neighbours(build):
    training = build(caption_dropout=0.0, label_share=1.0, mix_share=1.0)
    u = torch.tensor([[0.0, 0.0, 0.25, 0.0, 1.0 - 1e-6]])
    mixed = training.draw_codes(torch.tensor([0]), u).pooled[0]
    own = training.train.codes.pooled(training.train.table.labels)[0]
    near = training.train.codes.pooled(training.near[0, :1])[0]
    torch.testing.assert_close(mixed, torch.nn.functional.normalize(0.75 * own + 0.25 * near, dim=0))


def test_the_first_neighbour_has_the_nearest_other_label(build, artwork_rows):
    training = build(mix_share=0.5)
    table = training.train.table
    first = training.near[:, 0]
    nearest = {table.texts[label]: table.texts[near] for label, near in zip(table.labels, first, strict=True)}
    assert nearest["waving hand"] == "waving hand: dark skin tone"


# every family, codec and text space


FAMILY_ARGUMENTS: dict[str, dict[str, Any]] = {
    "FlowMatchingMapper": MAPPER,
    "GaussianMapper": {"width": 16, "hidden": 16, "blocks": 1},
    "MixtureMapper": {"width": 16, "hidden": 16, "blocks": 1, "components": 2},
    "NormalizingFlowMapper": {"transforms": 2, "hidden": 16, "condition": 16},
    "TransformerFlowMapper": {"width": 16, "heads": 2, "blocks": 1, "patch": 4},
}
TOKENS: dict[str, Any] = {"family": "TransformerFlowMapper", "mapper": FAMILY_ARGUMENTS["TransformerFlowMapper"]}


@pytest.fixture(scope="module")
def pca_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec whose latents are vectors of 12 numbers, fit for a config's `vae`."""
    folder = tmp_path_factory.mktemp("pca") / "codec"
    rows = torch.linalg.qr(torch.randn(3 * 64 * 64, 12, generator=torch.Generator().manual_seed(0))).Q.T
    axes = PrincipalAxes(torch.full((3 * 64 * 64,), 0.5), rows.contiguous(), torch.linspace(1, 3, 12))
    PCACodec(axes, 64).save(folder)
    return folder


@pytest.mark.parametrize("codec", ["vae_folder", "pca_folder"])
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "LocalFlowMapper"])
def test_every_family_is_trained_on_every_codec_and_opens(build, request, family, codec):
    loop = replace(LOOP, steps=2, warmup=1, learning_rate=1e-3)
    training = build(
        vae=request.getfixturevalue(codec),
        family=family,
        mapper=FAMILY_ARGUMENTS.get(family, {}),
        settings=Settings(),
        loop=loop,
    )
    pipe = BridgePipeline.from_pretrained(training.run())
    z = pipe(["cat", "a smiling cat in a boat"], 2, seed=3, output_type="latent").images
    assert (z.shape, bool(z.isfinite().all())) == ((4, *training.codec.z_shape), True)
    assert torch.equal(
        z,
        training.pipeline(training.mapper)(["cat", "a smiling cat in a boat"], 2, seed=3, output_type="latent").images,
    )


def test_noise_has_the_shape_that_the_family_takes(build):
    training = build(family="GaussianMapper", mapper=FAMILY_ARGUMENTS["GaussianMapper"])
    assert training.batch(torch.arange(3), 0)[-1].shape == (3, 0)
    training.mapper.loss_noise_shape = (2, 3)
    assert training.batch(torch.arange(3), 0)[-1].shape == (3, 2, 3)


def test_only_a_family_that_reads_tokens_gets_them(build):
    assert build().batch(torch.arange(3), 0)[2].shape == (3, 0, 384)
    assert build(**TOKENS).batch(torch.arange(3), 0)[2].shape[1] > 2


def test_tokens_are_those_of_the_caption_that_is_told(build, encoder):
    """To half precision; where they end the mask does."""
    training = build(**TOKENS, caption_dropout=0.0, label_share=1.0, family_power=0.0)
    rows = torch.tensor([3, 20])
    code = training.draw_codes(rows, torch.full((2, 5), 0.5))
    expected = encoder.encode([training.train.table.texts[i] for i in training.train.table.labels[rows].tolist()])
    expected = expected.padded(training.train.codes.places)
    torch.testing.assert_close(code.pooled, expected.pooled, atol=1e-5, rtol=0)
    torch.testing.assert_close(code.tokens, expected.tokens, atol=1e-2, rtol=1e-3)
    assert torch.equal(code.mask, expected.mask)


def test_dropped_and_mixed_captions_have_no_tokens(build):
    training = build(**TOKENS, caption_dropout=0.3, mix_share=0.3)
    rows = torch.arange(30)
    u = torch.rand(30, 5, generator=torch.Generator().manual_seed(0))
    code, without = training.draw_codes(rows, u), (u[:, 2] < 0.3) | (u[:, 4] < 0.3)
    assert 0 < without.sum() < 30
    assert torch.equal(~code.mask.any(1), without)
    assert torch.equal(code.tokens.ne(0).any(-1), code.mask)


def test_an_example_with_tokens_is_the_same_in_any_batch(build):
    training = build(**TOKENS, mix_share=0.5)
    alone, together = training.batch(torch.tensor([7]), 3), training.batch(torch.tensor([2, 7, 30]), 3)
    for one, three in zip(alone, together, strict=True):
        assert torch.equal(one[0], three[1])


def test_a_resumed_run_over_tokens_ends_where_an_uninterrupted_one_does(build, tmp_path):
    options = {**TOKENS, "loop": replace(LOOP, steps=4, cooldown=0.0)}
    whole = build(out=tmp_path / "whole", **options)
    whole.run()
    first = build(out=tmp_path / "halved", **options)
    first.config.out.mkdir()
    for _ in range(2):
        first.loop.train_step()
    first.loop.save()
    resumed = build(out=tmp_path / "halved", **options)
    resumed.run()
    assert resumed.pipeline(resumed.mapper).fingerprint == whole.pipeline(whole.mapper).fingerprint


def test_captions_that_cannot_be_read_are_left_out_and_told(build, encoder, monkeypatch, capsys):
    """The first caption that can be read stands for the label; rows without any go."""

    def prepare(caption: str) -> str:
        if "anchor" in caption or "ship" in caption or ("bus" in caption and "school" not in caption):
            raise UserError("caption: unknown")
        return caption

    monkeypatch.setattr(encoder, "prepare", prepare)
    training = build(loop=replace(LOOP, seed=5), mix_share=0.5)
    told = capsys.readouterr().err
    assert "train.mapper: train: left out" in told
    assert len(training.train.latents) == len(training.train.table) == len(training.near) < 42
    assert not any("anchor" in text for text in training.train.table.texts)
    assert "bus, school, vehicle" in training.memory.captions
    assert not {"bus", "anchor"} & set(training.memory.captions)


# rows of an epoch


@pytest.mark.parametrize("offset", [0.0, 0.3, 0.999])
def test_each_row_is_drawn_as_often_as_its_share_to_within_one(offset):
    families = torch.randint(5, (200,), generator=torch.Generator().manual_seed(0))
    rows = EpochRows(families, power=0.8)
    shares = torch.diff(rows.cumulative, prepend=torch.zeros(1, dtype=torch.float64))
    drawn = rows.at(torch.arange(200), offset).bincount(minlength=200)
    assert ((drawn - 200 * shares).abs() < 1).all()


def test_at_power_1_families_weigh_the_same():
    families = torch.tensor([0] * 9 + [1] * 3)
    drawn = EpochRows(families, 1.0).at(torch.arange(12), 0.5)
    assert families[drawn].bincount().tolist() == [6, 6]


def test_at_power_0_every_row_is_drawn_once():
    rows = EpochRows(torch.tensor([0] * 9 + [1] * 3), 0.0)
    assert rows.at(torch.arange(12), 0.5).tolist() == list(range(12))


def test_over_epochs_a_rare_row_has_its_turn():
    rows = EpochRows(torch.tensor([0] * 99 + [1]), 1.0)
    drawn = torch.cat([rows.drawn(torch.arange(100), seed=0, epoch=epoch) for epoch in range(60)])
    assert len(drawn.unique()) == 100


# the command


def run_main(tmp_path: Path, values: dict[str, Any]) -> int:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"out": str(tmp_path / "run"), "loop": {"steps": 1}} | values))
    return mapper_module.main([str(tmp_path / "run.yaml")])


def test_a_missing_vae_says_how_to_train_one(data, tmp_path, capsys):
    code = run_main(tmp_path, {"data": str(data), "vae": str(tmp_path / "none")})
    said = f"vae: {tmp_path}/none holds no VAE; train it with `python -m train.autoencoder` first"
    assert (code, capsys.readouterr().err.splitlines()[-1]) == (2, f"python -m train.mapper: {said}")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"mapper": {"widht": 3}},
            "mapper: unknown widht; known: blocks, condition, dropout, hidden, text_dropout, time_mean, width",
        ),
        ({"settings": {"guidance": 2}}, "settings: unknown guidance; known: "),
        ({"settings": {"temperature": -1}}, "settings: temperature: expected a number from 0 to 10, got -1.0"),
        ({"mix_share": 2}, "mix_share: expected a share from 0 to 1, got 2.0"),
        ({"family": "Gaussian"}, "family: unknown 'Gaussian'; known: FlowMatchingMapper, GaussianMapper"),
        (
            {"family": "GaussianMapper", "settings": {"guidance_scale": 2}},
            "guidance_scale: GaussianMapper has no guidance; leave it out",
        ),
        ({"family": "GaussianMapper", "mapper": {"rank": -1}}, "mapper: rank, min_std: expected 0 or more"),
    ],
)
def test_a_wrong_setting_is_one_line_and_code_2(build, data, vae_folder, tmp_path, capsys, values, told):
    code = run_main(tmp_path, {"data": str(data), "vae": str(vae_folder)} | values)
    assert (code, told in capsys.readouterr().err.splitlines()[-1]) == (2, True)


def test_an_encoder_that_cannot_be_had_is_one_line_and_code_2(data, vae_folder, tmp_path, capsys, monkeypatch):
    def no_hub(*_: object, **__: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_hub)
    code = run_main(tmp_path, {"data": str(data), "vae": str(vae_folder), "text": "somebody/encoder"})
    said = "text: 'somebody/encoder' is no folder, is not in the hub's cache and could not be fetched; connect to"
    assert (code, said in capsys.readouterr().err.splitlines()[-1]) == (2, True)


def test_other_text_weights_than_the_config_names_are_refused(data, vae_folder, tmp_path, capsys):
    code = run_main(tmp_path, {"data": str(data), "vae": str(vae_folder), "text_digest": "00"})
    assert (code, "expected 00; these are not the weights" in capsys.readouterr().err.splitlines()[-1]) == (2, True)


def test_a_start_for_a_text_space_of_another_width_is_refused(finished, build, monkeypatch):
    words = WordVectors(["cat", "face", "hand", "fire", "bus", "mug", "tone", "flag"], torch.eye(8))
    monkeypatch.setattr(TextEncoder, "from_pretrained", lambda *_, **__: words)
    with pytest.raises(ConfigError, match=r"init: .* has a mapper of another shape: size mismatch for net\.text"):
        build(init=str(finished.config.out / "model"))


def test_a_run_for_another_text_space_does_not_go_on(build, monkeypatch):
    words = {seed: torch.randn(4, 384, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)}
    spaces = [WordVectors(["cat", "lemon", "fire", "bus"], vectors) for vectors in words.values()]
    runs = []
    for space in spaces:
        monkeypatch.setattr(TextEncoder, "from_pretrained", lambda *_, space=space, **__: space)
        runs.append(build(loop=replace(LOOP, steps=1)))
    runs[0].config.out.mkdir()
    runs[0].loop.save()
    with pytest.raises(ValueError, match=r"cannot resume: text was '[0-9a-f]{16}', is '[0-9a-f]{16}'"):
        runs[1].run()


def test_a_mapper_for_another_vae_does_not_go_on(build, vae_folder, tmp_path):
    first = build(loop=replace(LOOP, steps=1))
    first.config.out.mkdir()
    first.loop.save()
    other = first.codec.vae
    other.register_to_config(latents_std=[1.0, 1.0, 1.0, 1.0])
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"cannot resume: vae was '[0-9a-f]{16}', is '[0-9a-f]{16}'"):
        build(vae=tmp_path / "other").run()


@pytest.fixture
def altered(finished, tmp_path):
    """A copy of the finished model, with other entries in its mapper's config."""

    def alter(**entries: object) -> str:
        folder = tmp_path / "altered"
        shutil.copytree(finished.config.out / "model", folder)
        path = folder / "mapper" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | entries), "utf-8")
        return str(folder)

    return alter


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        (
            {"_class_name": "GaussianMapper"},
            r"init: .* has a GaussianMapper, this config trains a FlowMatchingMapper; name another",
        ),
        ({"_class_name": "FutureMapper"}, r"init: .* has a FutureMapper, this config trains a FlowMatchingMapper"),
        (
            {"depths": 3, "lanes": 2},
            r"init: .*config.json: unknown setting 'depths', 'lanes', a newer version's; update bridge$",
        ),
    ],
)
def test_a_start_of_another_family_or_version_is_named(altered, build, entries, told):
    with pytest.raises(ConfigError, match=told):
        build(init=altered(**entries))


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "{}"])
def test_a_start_with_a_damaged_config_is_named(altered, build, text):
    init = altered()
    (Path(init) / "mapper" / "config.json").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=r"init: .*config.json: damaged; copy or download the mapper again$"):
        build(init=init)


def test_a_start_with_damaged_weights_is_named(altered, build):
    init = altered()
    (Path(init) / "mapper" / "diffusion_pytorch_model.safetensors").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"init: .* cannot be opened \(.*\); only whole safetensors are loaded$"):
        build(init=init)


def test_a_missing_card_is_told_before_training(build):
    with pytest.raises(ConfigError, match=r"card: none\.md cannot be read"):
        build(card="none.md")


def test_a_model_folder_that_cannot_be_replaced_is_told_before_training(build, monkeypatch):
    training = build()
    monkeypatch.setattr(training.loop, "run", lambda: pytest.fail("trained"))
    (training.config.out / "model").mkdir(parents=True)
    (training.config.out / "model" / "diary.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"diary\.txt: was not written by this command and would be lost"):
        training.run()


def test_held_out_loss_is_computed_a_few_rows_at_a_time(finished, monkeypatch):
    """As much is in memory for a large split as for a small one, and the mean is over all of its rows."""
    side = finished.held_out["validation"]
    sizes: list[int] = []
    loss = finished.mapper.loss

    def counted(z: torch.Tensor, c: TextCode, *, noise: torch.Tensor) -> torch.Tensor:
        sizes.append(len(z))
        return loss(z, c, noise=torch.zeros_like(noise))

    monkeypatch.setattr(finished.mapper, "loss", counted)
    whole = finished.held_out_loss(side)
    assert sizes == [len(side.latents)]
    monkeypatch.setattr(mapper_module, "VALIDATED", 2)
    assert finished.held_out_loss(side) == pytest.approx(whole, rel=1e-6)
    assert max(sizes[1:]) == 2 and sum(sizes[1:]) == len(side.latents)
