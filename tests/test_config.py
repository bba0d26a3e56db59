"""Configurations: one YAML file into a dataclass, and every mistake in it named."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from train.autoencoder import VAEConfig
from train.config import ConfigError, from_mapping, load_config
from train.loop import LoopConfig
from train.mapper import MapperConfig

CONFIGS = Path(__file__).parent.parent / "configs"


@dataclass(frozen=True)
class Inner:
    rate: float
    steps: int = 10


@dataclass(frozen=True)
class Outer:
    out: Path
    inner: Inner
    widths: tuple[int, ...] = (1, 2)
    name: str = "x"
    flip: bool = True
    extra: dict[str, Any] = field(default_factory=dict)


def read(tmp_path: Path, text: str) -> Outer:
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    return load_config(tmp_path / "run.yaml", Outer)


def test_every_kind_of_value_is_read(tmp_path):
    text = "out: runs/a\ninner: {rate: 0.5, steps: 3}\nwidths: [8, 16]\nname: é\nflip: false\nextra: {k: [1]}"
    expected = Outer(Path("runs/a"), Inner(0.5, 3), (8, 16), "é", False, {"k": (1,)})
    assert read(tmp_path, text) == expected


def test_what_is_left_out_keeps_its_default(tmp_path):
    assert read(tmp_path, "out: a\ninner: {rate: 1.0}") == Outer(Path("a"), Inner(1.0))


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1.0e-3"])
def test_every_way_to_write_a_number_is_one(tmp_path, text):
    assert read(tmp_path, f"out: a\ninner: {{rate: {text}}}").inner.rate == 0.001


def test_a_whole_number_serves_as_a_real_one(tmp_path):
    rate = read(tmp_path, "out: a\ninner: {rate: 2}").inner.rate
    assert (rate, type(rate)) == (2.0, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "out: a\ninner: {rate: 1}\nwidht: [1]",
            "run.yaml: unknown widht; known: extra, flip, inner, name, out, widths",
        ),
        ("out: a\ninner: {rate: 1, epochs: 3}", "run.yaml: inner: unknown epochs; known: rate, steps"),
        ("out: a", "run.yaml: missing inner"),
        ("out: a\ninner: {}", "run.yaml: inner: missing rate"),
        ("out: a\ninner: {rate: fast}", "run.yaml: inner: rate: expected a finite number, got 'fast'"),
        ("out: a\ninner: {rate: 1, steps: 1.5}", "run.yaml: inner: steps: expected a whole number, got 1.5"),
        ("out: a\ninner: {rate: 1, steps: true}", "run.yaml: inner: steps: expected a whole number, got True"),
        ("out: a\ninner: {rate: 1}\nflip: 1", "run.yaml: flip: expected true or false, got 1"),
        ("out: a\ninner: 3", "run.yaml: inner: expected a mapping of settings, got int"),
        ("- a\n- b", "run.yaml: expected a mapping of settings, got list"),
        ("", "run.yaml: expected a mapping of settings, got nothing"),
        ("out:\ninner: {rate: 1}", "run.yaml: out: has no value; give it one, or remove the line for its default"),
        ("out: a\ninner:", "run.yaml: inner: has no value; give it one, or remove the line for its default"),
        ("out: a\ninner: {rate: }", "inner: rate: has no value; give it one, or remove the line for its default"),
        ("out: a\ninner: {rate: 1}\nextra:", "extra: has no value; give it one, or remove the line for its default"),
        ("out: a\ninner: {rate: 1}\nextra: {k: }", "k: has no value; give it one, or remove the line for its default"),
        ("out: a\ninner: {rate: 1}\nwidths: 8", "run.yaml: widths: expected a list, got 8"),
        ("out: a\ninner: {rate: 1}\nwidths: [8, x]", "run.yaml: widths[1]: expected a whole number, got 'x'"),
        (
            "out: a\ninner: {rate: 1}\nwidths: [8, ]\nextra: [1]",
            "run.yaml: extra: expected a mapping of settings, got [1]",
        ),
        ("out: a\ninner: {rate: .nan}", "run.yaml: inner: rate: expected a finite number, got nan"),
        ("out: a\ninner: {rate: .inf}", "run.yaml: inner: rate: expected a finite number, got inf"),
        ("out: a\ninner: {rate: yes}", "run.yaml: inner: rate: expected a finite number, got True"),
        ("out: 5\ninner: {rate: 1}", "run.yaml: out: expected a path, got 5"),
        ("out: ''\ninner: {rate: 1}", "run.yaml: out: expected a path, got ''"),
        ("out: a\ninner: {rate: 1}\n5: x", "run.yaml: unknown 5; known: extra, flip, inner, name, out, widths"),
    ],
)
def test_a_mistake_is_named_by_file_and_key(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert str(caught.value).endswith(message)


def test_a_missing_file_says_where_configurations_live(tmp_path):
    with pytest.raises(ConfigError, match=r"none.yaml: no such file; configurations live in configs/"):
        load_config(tmp_path / "none.yaml", Outer)


def test_what_is_not_yaml_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"run\.yaml: not YAML"):
        read(tmp_path, "out: [a")


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "loop: {a: 1, a: 2}\n"])
def test_a_setting_that_stands_twice_is_refused(tmp_path, text):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"run\.yaml: not YAML: 'a' stands twice; keep one"):
        load_config(tmp_path / "run.yaml", VAEConfig)


def test_yaml_cannot_run_code(tmp_path):
    with pytest.raises(ConfigError, match="not YAML"):
        read(tmp_path, "out: !!python/object/apply:os.getcwd []")


def test_an_unknown_mapper_family_is_refused():
    values = {"data": "d", "vae": "v", "out": "o", "loop": {"steps": 1}, "family": "Ridge"}
    with pytest.raises(ConfigError, match="family: unknown 'Ridge'; known: FlowMatchingMapper"):
        from_mapping(MapperConfig, values, "x")


def test_a_family_that_is_not_trained_is_refused():
    values = {"data": "d", "vae": "v", "out": "o", "loop": {"steps": 1}, "family": "LocalFlowMapper"}
    with pytest.raises(ConfigError, match=r"family: LocalFlowMapper is made with .*train\.memory.*; name that model"):
        from_mapping(MapperConfig, values, "x")


@pytest.mark.parametrize("name", ["caption_dropout", "label_share", "mix_share"])
def test_a_share_is_between_0_and_1(name):
    with pytest.raises(ConfigError, match=f"{name}: expected a share from 0 to 1, got 1.5"):
        MapperConfig(Path("d"), Path("v"), Path("o"), LoopConfig(steps=1), **{name: 1.5})


@pytest.mark.parametrize(("name", "cls"), [("emoji-vae", VAEConfig), ("emoji-matching", MapperConfig)])
def test_the_shipped_configurations_can_be_read(name, cls):
    assert load_config(CONFIGS / f"{name}.yaml", cls).data == Path("data/emoji")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "run.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(ConfigError, match=r"run.yaml: is not UTF-8 text; save it as UTF-8"):
        load_config(tmp_path / "run.yaml", Outer)


def test_a_folder_is_no_configuration(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory; name a YAML file"):
        load_config(tmp_path, Outer)


@pytest.mark.parametrize(
    "setting",
    [
        {"warmup": -1},
        {"cooldown": -0.5},
        {"ema_decay": 2.0},
        {"learning_rate": 0.0},
        {"clip": -1.0},
        {"weight_decay": -0.1},
        {"save_minutes": -1.0},
    ],
)
def test_a_loops_setting_out_of_its_range_is_named(setting):
    (name,) = setting
    with pytest.raises(ConfigError, match=f"run.yaml: loop: {name}: expected"):
        from_mapping(MapperConfig, {"data": "a", "vae": "b", "out": "c", "loop": {"steps": 1} | setting}, "run.yaml")
