"""python -m train.mapper --data …: a bare folder becomes a model, each choice with its reason, and can be repeated."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bridge.checkpoint import resolve_model
from bridge.codec import load_codec
from bridge.pipeline import BridgePipeline
from tests.conftest import made_up, shorten_own
from train import mapper, own, vae
from train.config import ConfigError, load_config
from train.mapper import MapperConfig

ARTWORK = Path(__file__).parent / "artwork"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, each with a text file beside it: twelve captions by several artists."""
    folder = tmp_path_factory.mktemp("bare")
    for picture in sorted(ARTWORK.glob("*.png")):
        shutil.copy(picture, folder / picture.name)
        (folder / f"{picture.stem}.txt").write_text(picture.stem.split("--")[0].replace("-", " "), "utf-8")
    return folder


TIMED_STEPS, QUIETLY = own.codec_step_seconds, own.quietly


@pytest.fixture(scope="module", autouse=True)
def short() -> Iterator[None]:
    """Two steps a trial, no codec, a made-up report: what is chosen counts here, not how good it is."""
    with pytest.MonkeyPatch.context() as patch:
        shorten_own(patch)
        patch.setattr(own, "quietly", made_up)
        yield


@pytest.fixture(scope="module")
def finished(short: None, bare: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that ended well."""
    out = tmp_path_factory.mktemp("own") / "run"
    assert mapper.main(["--data", str(bare), "--out", str(out), "--minutes", "0.01"]) == 0
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
    assert mapper.main(["--data", str(bare), "--out", str(finished), "--minutes", "0.01"]) == 0
    told = capsys.readouterr()
    assert told.out == f"{finished / 'model'}\n"
    last = [" ".join(line.split()) for line in told.err.splitlines()[-5:]]
    assert last[0] == "held out, this model fit 0.25 [0.10, 0.40] copies 0.25 [0.10, 0.40]"
    assert last[3] == f"report: {finished / 'report' / 'report.html'}"
    assert last[4].startswith("try: bridge generate ") and last[4].endswith(f"--model {finished / 'model'}")


def test_every_choice_has_a_reason(finished: Path) -> None:
    choices = json.loads((finished / "choices.json").read_text("utf-8"))
    assert set(choices) == {"precision", "codec", "trial, adapted mapper", "trial, new mapper", "start", "steps"}
    assert all(choice["why"] for choice in choices.values())


def test_the_better_trial_is_gone_on_with(finished: Path) -> None:
    choices = json.loads((finished / "choices.json").read_text("utf-8"))
    adapted, new = (choices[f"trial, {name} mapper"]["value"]["loss"] for name in ("adapted", "new"))
    assert bool(choices["start"]["value"]) == (adapted <= new)


def test_the_yaml_reproduces_the_run(finished: Path) -> None:
    config = load_config(finished / "mapper.yaml", MapperConfig)
    choices = json.loads((finished / "choices.json").read_text("utf-8"))
    assert config.loop.steps == choices["steps"]["value"]
    assert (config.data, config.out, config.init) == (finished / "data", finished, choices["start"]["value"])


def test_a_second_run_chooses_nothing_anew(bare: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (finished / "choices.json").read_bytes()
    weights = BridgePipeline.from_pretrained(finished / "model").mapper.state_dict()
    monkeypatch.setattr(own, "psnr", lambda *_: pytest.fail("the codec was chosen again"))
    assert mapper.main(["--data", str(bare), "--out", str(finished), "--minutes", "0.01"]) == 0
    assert (finished / "choices.json").read_bytes() == before
    again = BridgePipeline.from_pretrained(finished / "model").mapper.state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


@pytest.mark.parametrize(("after", "tuned"), [(25.0, True), (20.1, False)])
def test_a_codec_is_fine_tuned_where_that_helps_held_out_pictures(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: float, tuned: bool
) -> None:
    folder, figures = tmp_path / "codec" / "vae", iter([20.0, after])
    monkeypatch.setattr(own, "ENOUGH_PSNR", 23.0)
    monkeypatch.setattr(own, "FEW_CODEC_PICTURES", 1)
    monkeypatch.setattr(own, "psnr", lambda *_: next(figures))
    monkeypatch.setattr(own, "load_codec", lambda *_: SimpleNamespace(image_size=64))
    monkeypatch.setattr(own.Own, "train_codec", lambda *_: folder)
    run = own.Own(own.Wanted(str(bare)), own.Reading(), tmp_path, 1.0, 0, lambda _: None)
    own.prepare(run.source, run.data, run.reading, 0)
    value, why = run.choose_codec(own.load_dataset(run.data), own.Pace("no", 1.0))
    assert (value == str(folder)) is tuned
    assert f"{after:.1f} dB fine-tuned, 20.0 dB as shipped" in why


@pytest.mark.parametrize(("bf16", "chosen"), [(0.5, "bf16"), (0.9, "no"), (3.0, "no")])
def test_the_faster_precision_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bf16: float, chosen: str
) -> None:
    monkeypatch.setattr(own, "codec_step_seconds", lambda size: {"no": 1.0, "bf16": bf16})
    run = own.Own(own.Wanted("x"), own.Reading(), tmp_path, 1.0, 0, lambda _: None)
    pace = run.pace(own.Choices(tmp_path / "choices.json", lambda _: None))
    assert (pace.mixed_precision, pace.codec_seconds) == (chosen, bf16 if chosen == "bf16" else 1.0)
    config = run.mapper_config(Path("vae"), "", 2, 10, tmp_path, pace)
    assert config.loop.mixed_precision == chosen and config.settings.trusted == 0


@pytest.mark.parametrize(
    ("rows", "stop"), [(own.FEW, ("steps_without_copies", "max", 2)), (own.FEW + 1, ("validation_loss", "min", 0))]
)
def test_few_pairs_are_trained_on_as_long_as_nothing_is_copied(
    tmp_path: Path, rows: int, stop: tuple[str, str, int]
) -> None:
    run = own.Own(own.Wanted("x"), own.Reading(), tmp_path, 1.0, 0, lambda _: None)
    config = run.mapper_config(Path("vae"), "", 2, rows, tmp_path, own.Pace("no", 1.0))
    assert (config.loop.stop_on, config.loop.goal, config.copies_of) == stop


def test_an_adapted_mapper_replays_what_it_knew(tmp_path: Path) -> None:
    run = own.Own(own.Wanted("x"), own.Reading(), tmp_path, 1.0, 0, lambda _: None)
    adapted, new = (
        run.mapper_config(Path("vae"), init, 2, 10, tmp_path, own.Pace("no", 1.0)) for init in ("emoji", "")
    )
    assert (adapted.replay, new.replay) == (4, 0)


def test_the_codec_alone_is_fine_tuned(bare: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    assert vae.main(["--data", str(bare), "--out", str(out), "--init", "emoji", "--minutes", "0.001"]) == 0
    tuned, shipped = (load_codec(folder) for folder in (out / "codec" / "vae", resolve_model("emoji") / "vae"))
    assert tuned.z_shape == shipped.z_shape and tuned.fingerprint != shipped.fingerprint


def test_an_unknown_model_to_start_from_is_named(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vae.main(["--data", str(bare), "--out", str(tmp_path / "x"), "--init", "no-such"]) == 2
    assert "no-such" in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--data", "/no/such/folder"], "/no/such/folder"),
        (["--minutes", "0"], "minutes"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    argv: list[str], named: str, bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(bare), "--out", str(tmp_path / "run"), *argv]
    assert mapper.main(given) == 2
    assert named in capsys.readouterr().err.strip().splitlines()[-1]


def test_minutes_are_positive() -> None:
    with pytest.raises(ConfigError, match="minutes"):
        own.Own(own.Wanted("x"), own.Reading(), Path("x"), 0, 0, lambda _: None)


@pytest.mark.parametrize(("slow", "timed"), [(False, {"no", "bf16"}), (True, {"no"})])
def test_a_codecs_step_is_timed_in_the_precisions_that_the_processor_has(
    monkeypatch: pytest.MonkeyPatch, slow: bool, timed: set[str]
) -> None:
    monkeypatch.setattr(own, "TIMED", 1)
    monkeypatch.setattr(own, "slow_bfloat16", lambda: slow)
    taken = TIMED_STEPS(16)
    assert set(taken) == timed and min(taken.values()) > 0


def test_a_machine_too_slow_is_timed_by_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "SLOW", 0.0)
    monkeypatch.setattr(own, "interleaved", lambda *_: pytest.fail("timed at length"))
    assert list(TIMED_STEPS(16)) == ["no"]


@pytest.mark.parametrize(("seconds", "why"), [(0.2, "57 times as long in bfloat16"), (6.0, "takes 6 s, too long")])
def test_a_precision_not_timed_is_not_taken(monkeypatch: pytest.MonkeyPatch, seconds: float, why: str) -> None:
    monkeypatch.setattr(own, "slowdown", lambda: 57.0)
    chosen, told = own.choose_precision({"no": seconds})
    assert chosen == "no" and why in told


@pytest.mark.parametrize(
    ("began", "steps"),
    [(0.0, 2000), (150.0, 500), (1000.0, 360)],
    ids=["all is left", "some", "late, at least a share"],
)
def test_validations_are_a_part_of_the_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, began: float, steps: int
) -> None:
    monkeypatch.setattr(own, "VALIDATIONS", 10)
    monkeypatch.setattr(own.time, "monotonic", lambda: began)
    run = own.Own(own.Wanted("x"), own.Reading(), tmp_path, 4.0, 0, lambda _: None, began=0.0)
    found, why = run.choose_steps({"loss": 1.0, "seconds": 0.1, "validation_seconds": 4.0})
    assert found == steps and "4 s a validation" in why


def test_commands_of_eval_run_in_a_process_of_their_own(capfd: pytest.CaptureFixture[str]) -> None:
    assert QUIETLY("eval", ["--help"]) == 0
    assert QUIETLY("eval", ["emoji", "--samples", 1]) == 2
    told = capfd.readouterr()
    assert told.out == "" and "--samples: expected a whole number of 2 or more" in told.err
