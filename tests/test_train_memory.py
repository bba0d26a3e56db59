"""A model of a dataset without training: which rows and captions it holds, and that it is one."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from bridge import BridgePipeline
from bridge.pipeline import Settings
from train.config import ConfigError
from train.data.dataset import load_dataset, pixels_of, rows_of, to_unit
from train.loop import LoopConfig
from train.mapper import MapperConfig, MapperTraining
from train.memory import MemoryConfig, build, main

pytestmark = pytest.mark.usefixtures("one_encoder")


@pytest.fixture
def config(artwork_folder, vae_folder, tmp_path) -> MemoryConfig:
    """On the shared sample: what one test encodes the others find in its cache."""
    return MemoryConfig(artwork_folder, vae_folder, tmp_path / "run", settings=Settings(num_inference_steps=4))


def test_it_holds_the_rows_of_its_splits(config, artwork_rows):
    pipe = BridgePipeline.from_pretrained(build(config))
    rows = [row for row in artwork_rows if row["split"] == "train"]
    assert len(pipe.mapper.latents) == len(rows)
    assert {row["label"] for row in rows} <= set(pipe.memory.captions)
    others = {row["label"] for row in artwork_rows} - {row["label"] for row in rows}
    assert others and not others & set(pipe.memory.captions)


def test_all_splits_make_a_larger_one(config, artwork_rows):
    splits = tuple({row["split"] for row in artwork_rows})
    both = MemoryConfig(config.data, config.vae, config.out, splits=splits, settings=config.settings)
    assert len(BridgePipeline.from_pretrained(build(both)).mapper.latents) == len(artwork_rows)


def test_refined_latents_are_nearer_to_their_pictures(config, artwork_rows):
    x = to_unit(pixels_of(rows_of(load_dataset(config.data), "train")))
    pipes = [BridgePipeline.from_pretrained(build(replace(config, refine=steps))) for steps in (0, 2)]
    errors = [(pipe.codec.decode(pipe.mapper.picture_latents(torch.arange(len(x)))) - x).abs().mean() for pipe in pipes]
    assert errors[1] < errors[0]


def test_its_styles_are_the_datasets(config, artwork_rows):
    pipe = BridgePipeline.from_pretrained(build(config))
    assert set(pipe.mapper.config.styles) == {row["style"] for row in artwork_rows if row["split"] == "train"}


def test_the_command_makes_a_model_that_draws(config, tmp_path, capsys):
    values = {"data": str(config.data), "vae": str(config.vae), "out": str(config.out), "captions": 1}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values | {"settings": {"num_inference_steps": 4}}), "utf-8")
    assert main([str(tmp_path / "run.yaml")]) == 0
    folder = Path(capsys.readouterr().out.strip())
    drawn = [BridgePipeline.from_pretrained(folder)("a cat", 1, seed=0, output_type="pt").images for _ in range(2)]
    assert torch.equal(*drawn)


def test_its_card_is_the_configs_and_the_datas_credits(config, tmp_path):
    data = Path(shutil.copytree(config.data, tmp_path / "data"))
    (data / "CREDITS.md").write_text("# Credits\n\n- Somebody\n", "utf-8")
    (tmp_path / "card.md").write_text("# A model\n", "utf-8")
    folder = build(replace(config, data=data, card=str(tmp_path / "card.md")))
    assert (folder / "README.md").read_text("utf-8") == "# A model\n\n## Credits\n\n- Somebody\n"


def test_tags_allude_to_pictures_of_the_splits(config, artwork_rows):
    plain = BridgePipeline.from_pretrained(build(config))
    pipe = BridgePipeline.from_pretrained(build(replace(config, tags=2, out=config.out / "tagged")))
    new = set(pipe.memory.captions) - set(plain.memory.captions)
    assert new and new == pipe.mapper.allusions(pipe.memory.captions)
    tagged = {f"{row['label']}, {tag}" for row in artwork_rows if row["split"] == "train" for tag in row["tags"]}
    assert new <= tagged
    assert torch.equal(pipe.mapper.latents, plain.mapper.latents)


def test_names_are_captions_of_emoji_like_any_other(config, tmp_path, capsys):
    file = tmp_path / "names.yaml"
    file.write_text("names:\n  omnibus: [bus, charabanc]\n  bus: [bus]\n", "utf-8")
    plain = BridgePipeline.from_pretrained(build(config))
    pipe = BridgePipeline.from_pretrained(build(replace(config, names=str(file), out=config.out / "named")))
    assert "names.yaml names labels that no picture has: charabanc\n" in capsys.readouterr().err
    assert set(pipe.memory.captions) - set(plain.memory.captions) == {"omnibus"}
    assert not pipe.mapper.allusions(pipe.memory.captions)
    assert pipe("omnibus", 1, seed=0).notes == pipe("bus", 1, seed=0).notes
    near = [set(pipe.mapper.nearest(pipe.code(word).pooled[0])[0][:2].tolist()) for word in ("omnibus", "bus")]
    assert near[0] == near[1]


def test_a_name_is_a_caption_of_no_other_emoji(config, tmp_path):
    file = tmp_path / "names.yaml"
    file.write_text("names:\n  a picture of beer mug: [bus]\n  bus: [beer mug]\n", "utf-8")
    pipe = BridgePipeline.from_pretrained(build(replace(config, names=str(file))))

    def shown(word: str) -> set[str]:
        number = pipe.memory.captions.index(word)
        starts = pipe.mapper.start.tolist()
        links = [pipe.mapper.link[a:b].tolist() for a, b in itertools.pairwise(starts)]
        return {pipe.memory.captions[link[0]] for link in links if number in link}

    assert shown("a picture of beer mug") == {"bus"}
    assert shown("bus") == {"bus", "beer mug"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("names:\n  omnibus: bus\n", "expected a list of labels for 'omnibus', got 'bus'"),
        ("names:\n  omnibus: [bus, on]\n", "expected text, got True for 'omnibus'; put it in quotes"),
        ("names:\n  no: [bus]\n", "expected text, got False for False; put it in quotes"),
        ("a: 1\n", "unknown a"),
    ],
)
def test_names_that_are_none_are_refused(config, tmp_path, text, why):
    file = tmp_path / "names.yaml"
    file.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=rf"^names: .*{why}"):
        build(replace(config, names=str(file)))


def test_fewer_than_no_tags_are_refused(config):
    with pytest.raises(ConfigError, match=r"^tags: expected 0 or more, got -1"):
        replace(config, tags=-1)


def test_half_precision_makes_a_smaller_codec_and_the_same_memory(config, vae_folder):
    whole = BridgePipeline.from_pretrained(build(config))
    half = BridgePipeline.from_pretrained(build(replace(config, half=True, out=config.out / "half")))
    sizes = [sum(f.stat().st_size for f in (config.out / at).iterdir()) for at in ("model/vae", "half/model/vae")]
    assert sizes[1] < 0.6 * sizes[0]
    assert half.memory.captions == whole.memory.captions


NETWORK = {"family": "TransformerFlowMapper", "patch": 2, "width": 16, "heads": 2, "blocks": 1, "max_tokens": 0}
LOOP = LoopConfig(steps=4, batch_size=8, learning_rate=1e-2, warmup=1, validate_every=4, save_minutes=60)


@pytest.fixture
def correction(config) -> MapperConfig:
    """Of the memory's local flow; its pictures are those of one kind."""
    settings = replace(config.settings, style="not noto")
    return MapperConfig(
        config.data, config.vae, config.out / "corrected", LOOP, memory=str(build(config)),
        family="LocalFlowMapper", mapper=NETWORK, settings=settings,
    )  # fmt: skip


def test_a_correction_is_trained_on_what_memory_holds(correction):
    training = MapperTraining(correction)
    known = training.mapper.picture_latents(torch.arange(len(training.mapper.latents)))
    index = (training.train.latents.every.mean[:, None] == known).flatten(2).all(2).int().argmax(1)
    styles = {training.mapper.config.styles[int(training.mapper.style[i])] for i in index}
    assert styles and "noto" not in styles
    z, pooled, tokens, _, _ = training.batch(torch.arange(8), 0)
    assert bool((z[:, None] == known).flatten(2).all(2).any(1).all())
    assert (pooled.shape[0], tokens.shape[1]) == (8, 0)


def test_a_trained_correction_draws_otherwise_and_is_carried_to_another_memory(correction, config):
    pipe = BridgePipeline.from_pretrained(MapperTraining(correction).run())
    base = BridgePipeline.from_pretrained(correction.memory)
    drawn, before = (p("a cat", 2, seed=0, style="", output_type="latent").images for p in (pipe, base))
    assert not torch.equal(drawn, before)
    assert pipe.memory.captions == base.memory.captions
    other = replace(config, out=config.out / "other", correction=str(correction.out / "model"))
    again = BridgePipeline.from_pretrained(build(other))("a cat", 2, seed=0, output_type="latent").images
    assert torch.equal(again, drawn)
    none = BridgePipeline.from_pretrained(build(replace(other, strength=0.0)))
    assert torch.equal(none("a cat", 2, seed=0, output_type="latent").images, before)


def test_a_correction_reads_tokens_where_its_network_does(correction):
    training = MapperTraining(replace(correction, mapper=NETWORK | {"max_tokens": 4}))
    assert training.batch(torch.arange(8), 0)[2].shape[1] > 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mapper": NETWORK | {"family": "GaussianMapper"}}, r"^mapper: unknown family 'GaussianMapper'; known: "),
        ({"mapper": NETWORK | {"inputs": 2}}, r"^mapper: unknown inputs"),
        ({"mapper": NETWORK | {"patch": 3}}, r"^mapper: z_shape, patch: "),
        ({"memory": "nowhere"}, r"^memory: nowhere holds no mapper"),
    ],
)
def test_a_correction_that_cannot_be_trained_is_refused(correction, changes, message):
    with pytest.raises(ConfigError, match=message):
        MapperTraining(replace(correction, **changes))


def test_only_a_local_flow_has_a_memory_to_correct(correction):
    with pytest.raises(ConfigError, match=r"^memory: FlowMatchingMapper has none; set `family: LocalFlowMapper`"):
        replace(correction, family="FlowMatchingMapper", mapper={})


def test_a_model_without_a_correction_or_of_another_codec_is_refused(config, correction, tmp_path):
    with pytest.raises(ConfigError, match=r"^correction: .* has none; train one"):
        build(replace(config, out=tmp_path / "new", correction=correction.memory))
    trained = MapperTraining(correction).run()
    with pytest.raises(ConfigError, match=r"^correction: .* was trained on another codec"):
        build(replace(config, out=tmp_path / "new", half=True, correction=str(trained)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"splits": ("nowhere",)}, r"^splits: no row of split 'nowhere'; found .*train"),
        ({"window": (1.0, 0.0)}, r"^window: "),
        ({"card": "no/such.md"}, r"^card: no/such.md cannot be read"),
    ],
)
def test_what_cannot_be_built_is_refused(config, settings, message):
    with pytest.raises(ValueError, match=message):
        build(MemoryConfig(config.data, config.vae, config.out, **settings))


@pytest.mark.parametrize(("name", "value"), [("captions", 0), ("refine", -1), ("window", (1.0,))])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"^{name}: "):
        MemoryConfig(Path("d"), Path("v"), Path("o"), **{name: value})


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("vae", "vae: nowhere/config.json: missing; name the folder of a saved codec"),
        ("text", "text: 'nowhere' is no folder"),
        ("card", "card: nowhere cannot be read"),
    ],
)
def test_what_a_setting_names_and_is_not_there_is_named(config, setting, told):
    value = Path("nowhere") if setting == "vae" else "nowhere"
    with pytest.raises(ConfigError, match=rf"^{told}"):
        build(replace(config, **{setting: value}))


def test_a_missing_dataset_is_one_line(config, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"data": "no", "vae": "no", "out": "o"}), "utf-8")
    assert main([str(tmp_path / "run.yaml")]) == 2
    assert capsys.readouterr().err.startswith("python -m train.memory: data: ")
