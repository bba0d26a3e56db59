"""python -m train FOLDER: a bare folder becomes a model, each choice with its reason, and can be repeated."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch

from bridge.codecs import load_codec
from bridge.errors import UserError
from bridge.hub import resolve_model
from bridge.pairs.reading import Reading
from bridge.pairs.sources import Wanted
from bridge.pipeline import BridgePipeline
from tests.fixtures import made_up, shorten_own
from train import auto
from train.autoencoder import VAEConfig
from train.checkpoint import read_state
from train.config import load_config
from train.data.dataset import load_dataset, rows_of
from train.loop import Loop
from train.mapper import MapperConfig
from train.memory import MemoryConfig, build

ARTWORK = Path(__file__).parent / "artwork"
Again = Callable[..., tuple[int, Path]]
Codecs = list[tuple[VAEConfig, auto.Budget]]
Configs = list[MapperConfig]
Patch, Capture = pytest.MonkeyPatch, pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("one_encoder")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, each with a text file beside it: twelve captions by several artists."""
    folder = tmp_path_factory.mktemp("bare")
    for picture in sorted(ARTWORK.glob("*.png")):
        shutil.copy(picture, folder / picture.name)
        (folder / f"{picture.stem}.txt").write_text(picture.stem.split("--")[0].replace("-", " "), "utf-8")
    return folder


QUIETLY = auto.quietly


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    """Two steps a trial, no codec, a made-up report: what is chosen counts here, not how good it is."""
    with pytest.MonkeyPatch.context() as patch:
        shorten_own(patch)
        patch.setattr(auto, "quietly", made_up)
        yield


@pytest.fixture(scope="module")
def finished(short: None, one_encoder: None, bare: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that ended well."""
    out = tmp_path_factory.mktemp("own") / "run"
    assert auto.main([str(bare), "--out", str(out), "--minutes", "0.01"]) == 0
    return out


@pytest.fixture(scope="module")
def trained(short: None, one_encoder: None, bare: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that trained a mapper."""
    out = tmp_path_factory.mktemp("trained") / "run"
    words = ["--mapper", "matching", "--size", "32", "--minutes", "0.01"]
    assert auto.main([str(bare), "--out", str(out), *words]) == 0
    return out


def choices_of(out: Path) -> dict[str, Any]:
    """What a run chose, the value and the reason of each."""
    return json.loads((out / "choices.json").read_text("utf-8"))


@pytest.fixture
def again(bare: Path, trained: Path, tmp_path: Path) -> Again:
    """Run the command on a copy of `trained` in which some choices were not made yet, and others were made so."""
    out = Path(shutil.copytree(trained, tmp_path / "run"))

    def run(forgotten: str = "", minutes: float = 0.01, source: Path = bare, **values: Any) -> tuple[int, Path]:
        left = {name: choice for name, choice in choices_of(out).items() if name not in forgotten.split()}
        left |= {name: {"value": value, "why": "x"} for name, value in values.items()}
        (out / "choices.json").write_text(json.dumps(left), "utf-8")
        options = ["--mapper", "matching", "--size", "32", "--minutes", str(minutes)]
        return auto.main([str(source), "--out", str(out), *options]), out

    return run


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: Patch) -> Configs:
    """The configs of mappers, none of which is trained or judged."""
    kept: Configs = []

    def training(config: MapperConfig) -> SimpleNamespace:
        kept.append(config)
        return SimpleNamespace(run=lambda: tmp_path)

    monkeypatch.setattr(auto, "MapperTraining", training)
    monkeypatch.setattr(auto, "quietly", lambda _, words: int("--quick" in words))
    return kept


@pytest.fixture
def codecs(monkeypatch: Patch) -> Codecs:
    """The configs and budgets of codecs, of which each is interrupted at once."""
    kept: Codecs = []

    def training(*args: Any) -> NoReturn:
        kept.append(args)
        raise KeyboardInterrupt

    monkeypatch.setattr(auto, "VAETraining", training)
    return kept


def test_a_bare_folder_becomes_a_model(finished: Path) -> None:
    pipe = BridgePipeline.from_pretrained(finished / "model")
    assert len(pipe("anchor", 2, seed=0).images) == 2
    assert "anchor" in pipe.memory.captions
    assert (finished / "sheet.png").is_file()


def test_it_ends_with_a_few_figures_and_the_line_to_try(bare: Path, finished: Path, capsys: Capture) -> None:
    shutil.rmtree(finished / "report")
    assert auto.main([str(bare), "--out", str(finished), "--minutes", "0.01"]) == 0
    told = capsys.readouterr()
    assert told.out == f"{finished / 'model'}\n"
    last = [" ".join(line.split()) for line in told.err.splitlines()[-5:]]
    assert last[0] == "held out, this model fit 0.25 [0.10, 0.40] copies 0.25 [0.10, 0.40]"
    assert last[3] == f"report: {finished / 'report' / 'report.html'}"
    assert last[4].startswith("try: bridge generate ") and last[4].endswith(f"--model {finished / 'model'}")


def test_every_choice_has_a_reason(finished: Path) -> None:
    choices = json.loads((finished / "choices.json").read_text("utf-8"))
    assert set(choices) == {"options", "precision", "codec", "local flow", "refine"}
    assert all(choice["why"] for choice in choices.values())


def test_every_choice_of_a_trained_mapper_has_a_reason(trained: Path) -> None:
    choices = json.loads((trained / "choices.json").read_text("utf-8"))
    assert set(choices) == {"options", "precision", "codec", "trial", "steps"}
    assert all(choice["why"] for choice in choices.values())


def test_the_yaml_reproduces_the_run(finished: Path) -> None:
    config = load_config(finished / "memory.yaml", MemoryConfig)
    before = BridgePipeline.from_pretrained(finished / "model").fingerprint
    assert BridgePipeline.from_pretrained(build(replace(config, out=finished / "again"))).fingerprint == before


def test_the_yaml_of_a_trained_mapper_reproduces_the_run(trained: Path) -> None:
    config = load_config(trained / "mapper.yaml", MapperConfig)
    choices = json.loads((trained / "choices.json").read_text("utf-8"))
    assert (config.data, config.out, config.loop.steps) == (trained / "data", trained, choices["steps"]["value"])


def test_a_second_run_chooses_nothing_anew(bare: Path, finished: Path, monkeypatch: Patch) -> None:
    before = (finished / "choices.json").read_bytes()
    weights = BridgePipeline.from_pretrained(finished / "model").mapper.state_dict()
    monkeypatch.setattr(auto, "psnr", lambda *_: pytest.fail("the codec was chosen again"))
    assert auto.main([str(bare), "--out", str(finished), "--minutes", "0.01"]) == 0
    assert (finished / "choices.json").read_bytes() == before
    again = BridgePipeline.from_pretrained(finished / "model").mapper.state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


@pytest.mark.parametrize(("after", "tuned"), [(25.0, True), (20.1, False)])
def test_a_codec_is_fine_tuned_where_that_helps_held_out_pictures(
    bare: Path, tmp_path: Path, monkeypatch: Patch, after: float, tuned: bool
) -> None:
    folder, out, figures = tmp_path / "codec" / "vae", tmp_path / "run", iter([20.0, after])
    monkeypatch.setattr(auto, "ENOUGH_PSNR", 23.0)
    monkeypatch.setattr(auto, "FEW_CODEC_PICTURES", 1)
    monkeypatch.setattr(auto, "psnr", lambda *_: next(figures))
    monkeypatch.setattr(auto, "load_codec", lambda *_: SimpleNamespace(image_size=128))
    monkeypatch.setattr(auto.AutoRun, "train_codec", lambda *_: folder)
    assert auto.main([str(bare), "--out", str(out), "--codec-alone"]) == 0
    codec = choices_of(out)["codec"]
    assert (codec["value"] == str(folder)) is tuned
    assert f"{after:.1f} dB fine-tuned, 20.0 dB as shipped" in codec["why"]


@pytest.mark.parametrize(("times", "precision"), [(0.5, "bf16"), (0.9, "no"), (57.0, "no")])
def test_the_faster_precision_is_taken(
    again: Again, configs: Configs, monkeypatch: Patch, times: float, precision: str
) -> None:
    monkeypatch.setattr(auto, "slowdown", lambda: times)
    _, out = again("precision")
    assert choices_of(out)["precision"]["value"] == {"mixed_precision": precision}
    assert f"{times:g} times as long in bfloat16" in choices_of(out)["precision"]["why"]
    assert configs[0].loop.mixed_precision == precision and configs[0].settings.trusted == 0


@pytest.mark.parametrize(("able", "precision"), [(True, "bf16"), (False, "no")])
def test_an_accelerator_computes_in_bfloat16_where_it_can(monkeypatch: Patch, able: bool, precision: str) -> None:
    monkeypatch.setattr(auto, "PartialState", lambda: SimpleNamespace(device=torch.device("cuda")))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able)
    assert auto.choose_precision()[0] == {"mixed_precision": precision}


@pytest.mark.parametrize(
    ("more", "stop"), [(0, ("steps_without_copies", "max", 2)), (1, ("validation_loss", "min", 0))]
)
def test_few_pairs_are_trained_on_as_long_as_nothing_is_copied(
    again: Again, trained: Path, configs: Configs, monkeypatch: Patch, more: int, stop: tuple[str, str, int]
) -> None:
    monkeypatch.setattr(auto, "FEW", len(rows_of(load_dataset(trained / "data"), "train")) - more)
    assert again()[0] == 0
    assert (configs[0].loop.stop_on, configs[0].loop.goal, configs[0].copies_of) == stop


def test_the_codec_alone_is_fine_tuned(bare: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    assert auto.main([str(bare), "--out", str(out), "--codec", "tuned", "--codec-alone", "--minutes", "0.001"]) == 0
    tuned, shipped = (load_codec(folder) for folder in (out / "codec" / "vae", resolve_model("pictures") / "vae"))
    assert tuned.z_shape == shipped.z_shape and tuned.fingerprint != shipped.fingerprint
    assert load_config(out / "vae.yaml", VAEConfig).loop.steps == read_state(out / "codec" / "checkpoint.pt")["step"]


def test_an_unknown_codec_is_named(bare: Path, tmp_path: Path, capsys: Capture) -> None:
    assert auto.main([str(bare), "--out", str(tmp_path / "x"), "--codec", "./no-such"]) == 2
    assert "--codec: './no-such' is no folder" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "x").exists()


def test_an_unknown_text_encoder_is_named_before_anything_is_read(bare: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "x"
    assert auto.main([str(bare), "--out", str(out), "--text", "./no-such"]) == 2
    assert capsys.readouterr().err.startswith("python -m train: --text: './no-such' is no folder")
    assert not out.exists()


@pytest.mark.parametrize(("argv", "named"), [(["/no/such/folder"], "/no/such/folder"), (["--minutes", "0"], "minutes")])
def test_bad_input_is_one_line_and_exit_code_2(
    argv: list[str], named: str, bare: Path, tmp_path: Path, capsys: Capture
) -> None:
    source = [] if argv[0].startswith("/") else [str(bare)]
    assert auto.main([*source, *argv, "--out", str(tmp_path / "run")]) == 2
    assert named in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("began", "steps"),
    [(0.0, 2000), (150.0, 500), (1000.0, 360)],
    ids=["all is left", "some", "late, at least a share"],
)
def test_validations_are_a_part_of_the_minutes(
    again: Again, configs: Configs, monkeypatch: Patch, began: float, steps: int
) -> None:
    monkeypatch.setattr(auto, "VALIDATIONS", 10)
    monkeypatch.setattr(auto, "time", SimpleNamespace(monotonic=iter([0.0, began]).__next__))
    _, out = again("steps", 4.0, trial={"loss": 1.0, "seconds": 0.1, "validation_seconds": 4.0})
    assert choices_of(out)["steps"]["value"] == configs[0].loop.steps == steps
    assert "4 s a validation" in choices_of(out)["steps"]["why"]


def test_commands_run_in_a_process_of_their_own(capfd: Capture) -> None:
    """Of `bridge`, which starts in a moment; those of `eval` are in the same folder."""
    assert QUIETLY("bridge", ["--version"]) == 0
    assert QUIETLY("bridge", ["generate", "cat", "-n", 0]) == 2
    told = capfd.readouterr()
    assert told.out == "" and "-n: " in told.err


# rerun with other options


@pytest.mark.parametrize(
    ("option", "before", "value"),
    [
        ("--size", "128", "32"),
        ("--size", "128", "72"),
        ("--fit", "pad", "crop"),
        ("--seed", "no such option", "1"),
        ("--codec", "no such option", "new"),
        ("--text", "no such option", "somebody/else"),
        ("--mapper", "no such option", "gaussian"),
        ("--max-bad", "0.05", "0.5"),
    ],
)
def test_another_option_on_the_same_run_is_refused_aloud(
    bare: Path, finished: Path, capsys: Capture, option: str, before: str, value: str
) -> None:
    left = {path: path.read_bytes() for path in finished.rglob("*.json")}
    assert auto.main([str(bare), "--out", str(finished), "--minutes", "0.01", option, value]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told == [
        f"python -m train: {option}: this run was begun with {before}, not {value}; name another --out, or repeat the "
        "option"
    ]
    assert {path: path.read_bytes() for path in finished.rglob("*.json")} == left


def test_other_minutes_choose_the_steps_anew_and_train_on(
    again: Again, configs: Configs, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    """More steps would ask for a longer warm-up, which is settled when a run begins."""
    monkeypatch.setattr(auto, "time", SimpleNamespace(monotonic=lambda: 0.0))
    trial = {"loss": 1.0, "seconds": 0.1, "validation_seconds": 0.0}
    (tmp_path / "run" / "mapper.yaml").write_text("loop: {warmup: 7}\n")
    for minutes in (1.0, 3.0):
        again(minutes=minutes, trial=trial)
    assert [config.loop.steps for config in configs] == [600, 1800]
    assert [config.loop.warmup for config in configs] == [7, 7]
    assert "minutes: 1 before, now 3: the steps are chosen anew" in capsys.readouterr().err.splitlines()


def test_other_minutes_go_on_with_the_codec_that_was_begun(bare: Path, tmp_path: Path, codecs: Codecs) -> None:
    """With its warm-up too, which was another one in earlier versions."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "vae.yaml").write_text("loop: {warmup: 7}\n")
    for minutes in ("1", "30"):
        words = ["--codec", "new", "--size", "32", "--minutes", minutes]
        assert auto.main([str(bare), "--out", str(tmp_path / "run"), *words]) == 130
    assert [budget.seconds for _, budget in codecs] == [60, 1800]
    assert [config.loop.warmup for config, _ in codecs] == [7, 7]


@pytest.mark.parametrize(
    ("began", "seconds", "steps"),
    [(0.0, 20.0, 8), (140.0, 20.0, 5), (1000.0, 20.0, 3), (0.0, 1000.0, 0)],
    ids=["all is left", "some", "late, at least a share", "not enough for one"],
)
def test_latents_are_refined_as_long_as_the_minutes_last(
    finished: Path, bare: Path, tmp_path: Path, monkeypatch: Patch, began: float, seconds: float, steps: int
) -> None:
    run = auto.AutoRun(Wanted(str(bare)), Reading(size=128), tmp_path / "run", 4.0, 0)
    run.data, run.began = finished / "data", 0.0
    pictures = len(rows_of(load_dataset(run.data), "train"))
    times = iter([0.0, seconds * min(auto.CODEC_BATCH, pictures) / pictures, began])
    monkeypatch.setattr(auto, "time", SimpleNamespace(monotonic=times.__next__))
    chosen, why = run.refining(auto.shipped_codec())
    assert chosen == steps
    assert f"a step takes {seconds:.0f} s" in why


@pytest.mark.parametrize(
    ("options", "seconds"), [("", 60), ("--mapper matching", 12), ("--mapper matching --codec-alone", 60)]
)
def test_a_codec_takes_its_share_of_the_minutes(
    bare: Path, tmp_path: Path, codecs: Codecs, options: str, seconds: float
) -> None:
    words = ["--codec", "new", "--size", "32", "--minutes", "1", *options.split()]
    assert auto.main([str(bare), "--out", str(tmp_path / "run"), *words]) == 130
    assert codecs[0][1].seconds == pytest.approx(seconds)


def test_an_older_run_without_options_resumes(again: Again, configs: Configs) -> None:
    pace = {"mixed_precision": "bf16", "codec_seconds": 0.5}
    assert again("options", steps=7, precision=pace)[0] == 0
    assert (configs[0].loop.steps, configs[0].loop.mixed_precision) == (7, "bf16")


@pytest.mark.parametrize("prepared", [True, False], ids=["as prepared", "what was prepared is removed"])
def test_pictures_that_changed_are_not_mixed_with_old_choices(
    again: Again, bare: Path, tmp_path: Path, capsys: Capture, prepared: bool
) -> None:
    folder = Path(shutil.copytree(bare, tmp_path / "pictures"))
    next(folder.glob("*.txt")).write_text("another caption", "utf-8")
    if not prepared:
        shutil.rmtree(tmp_path / "run" / "data")
    assert again(source=folder)[0] == 2
    told = f"python -m train: SOURCE: {folder}, or how it is read, has changed since this run began; name another --out"
    assert capsys.readouterr().err.splitlines()[-1] == told


def test_a_trial_that_was_interrupted_is_timed_over_all_of_its_steps(again: Again, monkeypatch: Patch) -> None:
    """Its checkpoint, one step before the end, is not gone on with: one step's time would be divided by all."""
    steps: list[int] = []
    whole, batch = Loop.run, auto.MapperTraining.batch

    def stop(self: Loop) -> None:
        self.config = replace(self.config, steps=1)
        whole(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "run", stop)
        code, out = again("trial steps")
    assert code == 130 and (out / "trial" / "checkpoint.pt").exists()

    def counted(self: auto.MapperTraining, *args: Any) -> Any:
        if self.config.out.name == "trial":
            steps.append(self.loop.step)
        return batch(self, *args)

    monkeypatch.setattr(auto.MapperTraining, "batch", counted)
    again("trial steps")
    assert steps == list(range(auto.TRIAL_STEPS))


# sizes


@pytest.mark.parametrize(
    ("size", "near"), [("8", "16"), ("15", "16"), ("20", "16 or 24"), ("100", "96 or 104"), ("1023", "1016 or 1024")]
)
def test_a_size_that_cannot_be_trained_on_is_refused_at_once(
    bare: Path, tmp_path: Path, capsys: Capture, size: str, near: str
) -> None:
    assert auto.main([str(bare), "--out", str(tmp_path / "x"), "--size", size]) == 2
    told = f"--size: expected a multiple of 8 from 16 to 1024 pixels, got {size}; try {near}, or name a --codec"
    assert capsys.readouterr().err.startswith(f"python -m train: {told}")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("size", [16, 24])
def test_every_size_that_is_accepted_can_be_trained_on(bare: Path, tmp_path: Path, size: int) -> None:
    out = tmp_path / "run"
    assert auto.main([str(bare), "--out", str(out), "--size", str(size), "--minutes", "0.001"]) == 0
    assert BridgePipeline.from_pretrained(out / "model")("anchor", 1, seed=0).images[0].size == (size, size)


# devices


@pytest.mark.parametrize("name", ["cpu:1", "cuda:", "cuda:x", "tpu"])
def test_a_device_of_no_known_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"^--device: expected cpu, cuda or cuda:N, got '{name}'$"):
        auto.use_device(name)


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"^--device: this machine has no cuda:99 that torch can use; leave"):
        auto.use_device("cuda:99")


def test_a_source_that_is_not_there_leaves_no_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert auto.main(["nothing here", "--out", str(tmp_path / "run")]) == 2
    assert "'nothing here' is no folder or file" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
