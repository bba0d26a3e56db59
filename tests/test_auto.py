"""python -m train FOLDER: a bare folder becomes a model, each choice with its reason, and can be repeated."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bridge.codecs import load_codec
from bridge.hub import resolve_model
from bridge.pipeline import BridgePipeline
from tests.fixtures import made_up, shorten_own
from train import auto
from train.config import ConfigError, load_config
from train.loop import Loop
from train.mapper import MapperConfig
from train.memory import MemoryConfig, build

ARTWORK = Path(__file__).parent / "artwork"
pytestmark = pytest.mark.usefixtures("one_encoder")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, each with a text file beside it: twelve captions by several artists."""
    folder = tmp_path_factory.mktemp("bare")
    for picture in sorted(ARTWORK.glob("*.png")):
        shutil.copy(picture, folder / picture.name)
        (folder / f"{picture.stem}.txt").write_text(picture.stem.split("--")[0].replace("-", " "), "utf-8")
    return folder


TIMED_STEPS, QUIETLY = auto.codec_step_seconds, auto.quietly


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


def test_a_bare_folder_becomes_a_model(finished: Path) -> None:
    pipe = BridgePipeline.from_pretrained(finished / "model")
    assert len(pipe("anchor", 2, seed=0).images) == 2
    assert "anchor" in pipe.memory.captions
    assert (finished / "sheet.png").is_file()


def test_it_ends_with_a_few_figures_and_the_line_to_try(
    bare: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    assert set(choices) == {"options", "precision", "codec", "local flow"}
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


def test_a_second_run_chooses_nothing_anew(bare: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (finished / "choices.json").read_bytes()
    weights = BridgePipeline.from_pretrained(finished / "model").mapper.state_dict()
    monkeypatch.setattr(auto, "psnr", lambda *_: pytest.fail("the codec was chosen again"))
    assert auto.main([str(bare), "--out", str(finished), "--minutes", "0.01"]) == 0
    assert (finished / "choices.json").read_bytes() == before
    again = BridgePipeline.from_pretrained(finished / "model").mapper.state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


@pytest.mark.parametrize(("after", "tuned"), [(25.0, True), (20.1, False)])
def test_a_codec_is_fine_tuned_where_that_helps_held_out_pictures(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: float, tuned: bool
) -> None:
    folder, figures = tmp_path / "codec" / "vae", iter([20.0, after])
    monkeypatch.setattr(auto, "ENOUGH_PSNR", 23.0)
    monkeypatch.setattr(auto, "FEW_CODEC_PICTURES", 1)
    monkeypatch.setattr(auto, "psnr", lambda *_: next(figures))
    monkeypatch.setattr(auto, "load_codec", lambda *_: SimpleNamespace(image_size=128))
    monkeypatch.setattr(auto.Own, "train_codec", lambda *_: folder)
    run = auto.Own(auto.Wanted(str(bare)), auto.Reading(128), tmp_path, 1.0, 0, lambda _: None)
    value, why = run.choose_codec(run.prepared(run.resumed()), auto.Pace("no", 1.0))
    assert (value == str(folder)) is tuned
    assert f"{after:.1f} dB fine-tuned, 20.0 dB as shipped" in why


@pytest.mark.parametrize(("bf16", "chosen"), [(0.5, "bf16"), (0.9, "no"), (3.0, "no")])
def test_the_faster_precision_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bf16: float, chosen: str
) -> None:
    monkeypatch.setattr(auto, "codec_step_seconds", lambda size: {"no": 1.0, "bf16": bf16})
    run = auto.Own(auto.Wanted("x"), auto.Reading(), tmp_path, 1.0, 0, lambda _: None, mapper="matching")
    pace = run.pace(auto.Choices(tmp_path / "choices.json", lambda _: None))
    assert (pace.mixed_precision, pace.codec_seconds) == (chosen, bf16 if chosen == "bf16" else 1.0)
    config = run.mapper_config(Path("vae"), 2, 10, tmp_path, pace)
    assert config.loop.mixed_precision == chosen and config.settings.trusted == 0


@pytest.mark.parametrize(
    ("rows", "stop"), [(auto.FEW, ("steps_without_copies", "max", 2)), (auto.FEW + 1, ("validation_loss", "min", 0))]
)
def test_few_pairs_are_trained_on_as_long_as_nothing_is_copied(
    tmp_path: Path, rows: int, stop: tuple[str, str, int]
) -> None:
    run = auto.Own(auto.Wanted("x"), auto.Reading(), tmp_path, 1.0, 0, lambda _: None, mapper="matching")
    config = run.mapper_config(Path("vae"), 2, rows, tmp_path, auto.Pace("no", 1.0))
    assert (config.loop.stop_on, config.loop.goal, config.copies_of) == stop


def test_the_codec_alone_is_fine_tuned(bare: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    assert auto.main([str(bare), "--out", str(out), "--codec", "tuned", "--codec-alone", "--minutes", "0.001"]) == 0
    tuned, shipped = (load_codec(folder) for folder in (out / "codec" / "vae", resolve_model("pictures") / "vae"))
    assert tuned.z_shape == shipped.z_shape and tuned.fingerprint != shipped.fingerprint


def test_an_unknown_codec_is_named(bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert auto.main([str(bare), "--out", str(tmp_path / "x"), "--codec", "./no-such"]) == 2
    assert "--codec: source: './no-such' is no folder" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["/no/such/folder"], "/no/such/folder"),
        (["--minutes", "0"], "minutes"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    argv: list[str], named: str, bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = [] if argv[0].startswith("/") else [str(bare)]
    assert auto.main([*source, *argv, "--out", str(tmp_path / "run")]) == 2
    assert named in capsys.readouterr().err.strip().splitlines()[-1]


def test_minutes_are_positive() -> None:
    with pytest.raises(ConfigError, match="minutes"):
        auto.Own(auto.Wanted("x"), auto.Reading(), Path("x"), 0, 0, lambda _: None)


@pytest.mark.parametrize(("slow", "timed"), [(False, {"no", "bf16"}), (True, {"no"})])
def test_a_codecs_step_is_timed_in_the_precisions_that_the_processor_has(
    monkeypatch: pytest.MonkeyPatch, slow: bool, timed: set[str]
) -> None:
    monkeypatch.setattr(auto, "TIMED", 1)
    monkeypatch.setattr(auto, "SLOW", float("inf"))  # however busy the machine is
    monkeypatch.setattr(auto, "slow_bfloat16", lambda: slow)
    taken = TIMED_STEPS(16)
    assert set(taken) == timed and min(taken.values()) > 0


def test_a_machine_too_slow_is_timed_by_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "SLOW", 0.0)
    monkeypatch.setattr(auto, "interleaved", lambda *_: pytest.fail("timed at length"))
    assert list(TIMED_STEPS(16)) == ["no"]


@pytest.mark.parametrize(("seconds", "why"), [(0.2, "57 times as long in bfloat16"), (6.0, "takes 6 s, too long")])
def test_a_precision_not_timed_is_not_taken(monkeypatch: pytest.MonkeyPatch, seconds: float, why: str) -> None:
    monkeypatch.setattr(auto, "slowdown", lambda: 57.0)
    chosen, told = auto.choose_precision({"no": seconds})
    assert chosen == "no" and why in told


@pytest.mark.parametrize(
    ("began", "steps"),
    [(0.0, 2000), (150.0, 500), (1000.0, 360)],
    ids=["all is left", "some", "late, at least a share"],
)
def test_validations_are_a_part_of_the_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, began: float, steps: int
) -> None:
    monkeypatch.setattr(auto, "VALIDATIONS", 10)
    monkeypatch.setattr(auto.time, "monotonic", lambda: began)
    run = auto.Own(auto.Wanted("x"), auto.Reading(), tmp_path, 4.0, 0, lambda _: None, began=0.0)
    found, why = run.choose_steps({"loss": 1.0, "seconds": 0.1, "validation_seconds": 4.0})
    assert found == steps and "4 s a validation" in why


def test_commands_run_in_a_process_of_their_own(capfd: pytest.CaptureFixture[str]) -> None:
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
    bare: Path, finished: Path, capsys: pytest.CaptureFixture[str], option: str, before: str, value: str
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
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    for minutes, seconds in ((1.0, 60), (3.0, 180)):
        run = auto.Own(auto.Wanted(str(bare)), auto.Reading(), tmp_path, minutes, 0, said.append)
        monkeypatch.setattr(auto.time, "monotonic", lambda run=run: run.began)
        choices = run.resumed()
        run.prepared(choices)
        trial = {"loss": 1.0, "seconds": 0.1, "validation_seconds": 0.0}
        steps = choices.get("steps", lambda run=run, trial=trial: run.choose_steps(trial))
        assert steps == round(seconds / 0.1)
    assert "minutes: 1 before, now 3: the steps are chosen anew" in said


def test_other_minutes_go_on_with_the_mapper_and_the_codec_that_was_begun(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More steps would ask for a longer warm-up, which is settled when a run begins."""
    configs = {"mapper": [], "codec": []}
    for name, training in (("mapper", "MapperTraining"), ("codec", "VAETraining")):
        monkeypatch.setattr(
            auto,
            training,
            lambda config, kept=configs[name]: (kept.append(config), SimpleNamespace(run=lambda: tmp_path))[1],
        )
    for minutes, steps in ((1.0, 60), (30.0, 9000)):
        run = auto.Own(auto.Wanted(str(bare)), auto.Reading(), tmp_path, minutes, 0, lambda _: None, mapper="gaussian")
        monkeypatch.setattr(run.__class__, "with_codec", lambda *_: (auto.shipped_codec(), auto.Pace("no", 1.0)))
        monkeypatch.setattr(run.__class__, "trial", lambda *_: {"loss": 1.0})
        monkeypatch.setattr(run.__class__, "choose_steps", lambda *_, steps=steps: (steps, "as it is"))
        run.run()
        run.train_codec("", 64, auto.Pace("no", 1.0))
    for kept in configs.values():
        before, now = (config.loop for config in kept)
        assert now.steps > before.steps
        assert now.warmup == before.warmup


def test_an_older_run_without_options_resumes(tmp_path: Path) -> None:
    (tmp_path / "choices.json").write_text(json.dumps({"steps": {"value": 7, "why": "x"}}), "utf-8")
    run = auto.Own(auto.Wanted("x"), auto.Reading(), tmp_path, 4.0, 0, lambda _: None)
    assert run.resumed().get("steps", lambda: pytest.fail("chosen anew")) == 7


def test_pictures_that_changed_are_not_mixed_with_old_choices(bare: Path, tmp_path: Path) -> None:
    """The prepared dataset was removed, as its own refusal says, and the pictures are others."""
    folder = Path(shutil.copytree(bare, tmp_path / "pictures"))
    run = auto.Own(auto.Wanted(str(folder)), auto.Reading(), tmp_path / "run", 1.0, 0, lambda _: None)
    run.prepared(run.resumed())
    shutil.rmtree(run.data)
    next(folder.glob("*.txt")).write_text("another caption", "utf-8")
    with pytest.raises(ConfigError, match=r"^SOURCE: .* has changed since this run began; name another --out"):
        run.prepared(run.resumed())


def test_a_trial_that_was_interrupted_is_timed_over_all_of_its_steps(
    bare: Path, vae_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoint, one step before the end, is not gone on with: one step's time would be divided by all."""
    run = auto.Own(auto.Wanted(str(bare)), auto.Reading(), tmp_path, 1.0, 0, lambda _: None, mapper="matching")
    dataset = run.prepared(run.resumed())
    vae, rows = vae_folder, len(auto.rows_of(dataset, "train"))
    steps: list[int] = []

    def stop(self: object) -> None:
        self.config = replace(self.config, steps=1)  # type: ignore[attr-defined]
        whole(self)

    whole = Loop.run
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "run", stop)
        run.trial(auto.Choices(tmp_path / "a.json", lambda _: None), vae, rows, auto.Pace("no", 1.0))
    assert (tmp_path / "trial" / "checkpoint.pt").exists()
    step = auto.MapperTraining.batch

    def counted(self: auto.MapperTraining, *args: object) -> object:
        steps.append(self.loop.step)
        return step(self, *args)

    monkeypatch.setattr(auto.MapperTraining, "batch", counted)
    run.trial(auto.Choices(tmp_path / "b.json", lambda _: None), vae, rows, auto.Pace("no", 1.0))
    assert steps == list(range(auto.TRIAL_STEPS))


# sizes


@pytest.mark.parametrize(
    ("size", "near"), [("8", "16"), ("15", "16"), ("20", "16 or 24"), ("100", "96 or 104"), ("1023", "1016 or 1024")]
)
def test_a_size_that_cannot_be_trained_on_is_refused_at_once(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], size: str, near: str
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
