"""The training loop: exact resume, honest refusal, and weights that are what they are said to be."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from bridge.noise import normal_rows
from train.checkpoint import read_state, write_state
from train.config import ConfigError, from_mapping
from train.loop import Loop, LoopConfig, ResumeError, TrainingError
from train.schedule import FREE, RowOrder, learning_rate_at

CONFIG = LoopConfig(
    steps=12, batch_size=4, learning_rate=0.05, warmup=3, ema_decay=0.9, validate_every=5, save_minutes=0.0, seed=3
)
ROWS = 10  # two batches an epoch, two rows left out of each


class Killed(Exception):  # noqa: N818
    """A kill, as far as a test can stage one."""


class Toy(nn.Module):
    """Fits a line to noisy rows; `dropout` draws from wherever the loop says."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.line = nn.Linear(3, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        error = (self.line(self.dropout(x)) - y).square().mean(1)
        return {"loss": error, "twice": 2 * error}


class Run:
    """A loop on the toy, with what it did.

    Args:
        out: Run folder.
        stop_at: Step whose batch cannot be had: the process dies there.
        poison_at: Step whose batch is NaN.
        figures: What validation finds after steps 1, 2, ...; the step's number where nothing is said.
    """

    def __init__(
        self,
        out: Path,
        config: LoopConfig = CONFIG,
        *,
        stop_at: int | None = None,
        poison_at: int | None = None,
        rows: int = ROWS,
        identity: dict[str, Any] | None = None,
        dropout: float = 0.0,
        data_fingerprint: str = "",
        figures: Sequence[float] = (),
    ) -> None:
        self.stop_at, self.poison_at = stop_at, poison_at
        self.seen: list[tuple[int, list[int]]] = []
        self.validated: list[tuple[int, Tensor]] = []
        self.toy = Toy(dropout)
        self.figures = dict(enumerate(figures, 1))
        identity = identity or {"data": "toy"}
        self.loop = Loop(self.toy, self.batch, rows, self.validate, config, out, identity, data_fingerprint)

    def batch(self, rows: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        if self.loop.step == self.stop_at:
            raise Killed
        self.seen.append((epoch, rows.tolist()))
        x = normal_rows([(self.loop.config.seed, epoch, row) for row in rows.tolist()], (3,))
        poison = math.nan if self.loop.step == self.poison_at else 0.0
        return x, x.sum(1, keepdim=True) + rows[:, None] * 0.1 + poison

    def validate(self, step: int) -> dict[str, float]:
        self.validated.append((step, self.weights()))
        return {"figure": self.figures.get(step, float(step))}

    def weights(self) -> Tensor:
        return nn.utils.parameters_to_vector(self.toy.parameters()).detach().clone()

    def run(self) -> "Run":
        self.loop.run()
        return self

    def interrupted(self) -> None:
        with pytest.raises(Killed):
            self.loop.run()


# resume


@pytest.mark.parametrize("stops", [(1,), (2,), (3,), (3, 7), (11,)])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path, stops):
    """(3,) is the middle of the second epoch; (3, 7) is resumed twice."""
    for stop in stops:
        Run(tmp_path / "a", stop_at=stop).interrupted()
    resumed, whole = Run(tmp_path / "a").run(), Run(tmp_path / "b").run()
    assert torch.equal(resumed.weights(), whole.weights())


def test_a_resumed_run_has_the_optimiser_and_average_of_an_uninterrupted_one(tmp_path):
    Run(tmp_path / "a", stop_at=7).interrupted()
    states = []
    for run in (Run(tmp_path / "a").run(), Run(tmp_path / "b").run()):
        state = torch.load(run.loop.checkpoint, weights_only=True)
        moments = [v for slot in state["optimizer"]["state"].values() for v in (slot["exp_avg"], slot["exp_avg_sq"])]
        states.append(torch.cat([t.flatten() for t in [*state["parameters"], *state["ema"], *moments]]))
    assert torch.equal(*states)


def test_dropout_does_not_break_exact_resume(tmp_path):
    Run(tmp_path / "a", dropout=0.5, stop_at=7).interrupted()
    torch.rand(5)  # another process has another global state
    resumed, whole = Run(tmp_path / "a", dropout=0.5).run(), Run(tmp_path / "b", dropout=0.5).run()
    assert torch.equal(resumed.weights(), whole.weights())


def test_training_leaves_the_global_generator_alone(tmp_path):
    before = torch.get_rng_state()
    Run(tmp_path, dropout=0.5).run()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_resumed_run_goes_on_with_the_next_rows(tmp_path):
    whole = Run(tmp_path / "b").run().seen
    first = Run(tmp_path / "a", stop_at=3)
    first.interrupted()
    assert first.seen + Run(tmp_path / "a").run().seen == whole


def test_a_finished_run_run_again_trains_no_further(tmp_path):
    done = Run(tmp_path).run()
    again = Run(tmp_path).run()
    assert (again.seen, torch.equal(again.weights(), done.weights())) == ([], True)


def test_a_kill_between_checkpoints_costs_only_the_steps_since(tmp_path):
    run = Run(tmp_path, replace(CONFIG, save_minutes=60.0), stop_at=7)
    run.interrupted()
    assert not run.loop.checkpoint.exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"config": replace(CONFIG, batch_size=5)}, "batch_size was 4, is 5"),
        ({"config": replace(CONFIG, seed=4)}, "seed was 3, is 4"),
        ({"config": replace(CONFIG, learning_rate=0.1)}, "learning_rate was 0.05, is 0.1"),
        ({"rows": 11}, "rows was 10, is 11"),
        ({"identity": {"data": "other"}}, "data was 'toy', is 'other'"),
        ({"identity": {"data": "toy", "width": 8}}, "width was None, is 8"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, change, told):
    Run(tmp_path, stop_at=3).interrupted()
    with pytest.raises(ResumeError) as caught:
        Run(tmp_path, **change).run()
    assert str(caught.value) == f"{tmp_path}: cannot resume: {told}; name another `out` or restore the settings"


def test_a_refused_run_leaves_the_checkpoint(tmp_path):
    run = Run(tmp_path, stop_at=3)
    run.interrupted()
    before = run.loop.checkpoint.read_bytes()
    with pytest.raises(ResumeError):
        Run(tmp_path, replace(CONFIG, seed=4)).run()
    assert run.loop.checkpoint.read_bytes() == before


def test_more_steps_are_no_other_run(tmp_path):
    Run(tmp_path, stop_at=3).interrupted()
    assert Run(tmp_path, replace(CONFIG, steps=14)).run().loop.step == 14


@pytest.mark.parametrize("name", sorted(FREE - {"steps", "stop_on", "goal", "tensorboard"}))
def test_a_setting_that_changes_no_row_may_differ(tmp_path, name):
    Run(tmp_path, stop_at=3).interrupted()
    other = replace(CONFIG, **{name: asdict(CONFIG)[name] + 1})
    assert Run(tmp_path, other).run().loop.step == 12


def test_data_is_what_it_holds_and_not_where_it_lies(tmp_path):
    moved = {"data": "elsewhere"}
    Run(tmp_path, stop_at=3, data_fingerprint="a1").interrupted()
    with pytest.raises(ResumeError, match="cannot resume: data_fingerprint was 'a1', is 'b2'; name another"):
        Run(tmp_path, data_fingerprint="b2").run()
    with pytest.raises(ResumeError, match="cannot resume: data was 'toy', is 'elsewhere'; name another"):
        Run(tmp_path, identity=moved).run()
    assert Run(tmp_path, identity=moved, data_fingerprint="a1").run().loop.step == 12


def test_a_run_of_before_fingerprints_goes_on_with_one(tmp_path):
    Run(tmp_path, stop_at=3).interrupted()
    Run(tmp_path, stop_at=6, data_fingerprint="a1").interrupted()
    with pytest.raises(ResumeError, match="data_fingerprint was 'a1', is 'b2'"):
        Run(tmp_path, data_fingerprint="b2").run()


def test_a_checkpoint_of_an_earlier_version_goes_on_bit_for_bit(tmp_path):
    """It knew none of the newer settings and kept less."""
    run = Run(tmp_path, stop_at=5)
    run.interrupted()
    state = read_state(run.loop.checkpoint)
    known = ("batch_size", "cooldown", "ema_decay", "learning_rate", "save_minutes", "seed", "steps", "warmup")
    state["config"] = {name: state["config"][name] for name in known}
    older = ("step", "config", "identity", "parameters", "ema", "ema_step", "optimizer")
    torch.save({name: state[name] for name in older}, run.loop.checkpoint)
    resumed, whole = Run(tmp_path).run(), Run(tmp_path / "whole").run()
    assert torch.equal(resumed.weights(), whole.weights())


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run = Run(tmp_path, stop_at=5)
    run.interrupted()
    state = read_state(run.loop.checkpoint)
    write_state(run.loop.checkpoint, state | {"parameters": state["parameters"][:1]})
    with pytest.raises(ResumeError, match="the checkpoint is of another model; name another `out`"):
        Run(tmp_path).run()


class Running(Toy):
    """A toy with a batch normalisation, whose means are no parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.normal = nn.BatchNorm1d(3)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return super().forward(self.normal(x), y)


def test_what_a_module_keeps_beside_its_parameters_is_resumed(tmp_path):
    means = []
    for out, stops in ((tmp_path / "a", (5, None)), (tmp_path / "b", (None,))):
        for stop in stops:
            run, toy = Run(out, stop_at=stop), Running()
            run.loop = Loop(toy, run.batch, ROWS, run.validate, CONFIG, out, {})
            if stop:
                run.interrupted()
            else:
                run.run()
        means.append(torch.cat([toy.normal.running_mean, toy.normal.running_var]))
    assert torch.equal(*means)


def with_scaler(run: Run) -> Run:
    """fp16's loss scaling, on the CPU, where accelerate offers none."""
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    run.loop.accelerator.scaler = scaler
    run.loop.optimizer = AcceleratedOptimizer(run.loop.optimizer.optimizer, device_placement=False, scaler=scaler)
    return run


def test_the_loss_scale_of_fp16_is_resumed(tmp_path):
    with_scaler(Run(tmp_path / "a", stop_at=7)).interrupted()
    resumed, whole = with_scaler(Run(tmp_path / "a")).run(), with_scaler(Run(tmp_path / "b")).run()
    scales = [run.loop.accelerator.scaler.get_scale() for run in (resumed, whole)]
    assert (scales[0] > 8, scales[0] == scales[1]) == (True, True)
    assert torch.equal(resumed.weights(), whole.weights())


# a loss that is no number


def test_a_nan_loss_stops_the_run_and_says_what_to_change(tmp_path):
    with pytest.raises(TrainingError, match=r"the loss is nan; lower learning_rate in the config"):
        Run(tmp_path, poison_at=5).run()


def test_a_nan_loss_leaves_the_last_good_checkpoint(tmp_path):
    with pytest.raises(TrainingError):
        Run(tmp_path, poison_at=5).run()
    good = Run(tmp_path / "good", stop_at=5)
    good.interrupted()
    states = [torch.load(path / "checkpoint.pt", weights_only=True) for path in (tmp_path, tmp_path / "good")]
    assert [state["step"] for state in states] == [5, 5]
    assert torch.equal(*[torch.cat([p.flatten() for p in state["parameters"]]) for state in states])


class Cliff(Toy):
    """A finite loss whose gradient is not: the weights would be NaN before any loss is."""

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.line(x) * 0).sqrt().sum(1)}


def test_a_gradient_that_is_no_number_is_not_saved(tmp_path):
    run = Run(tmp_path)
    loop = Loop(Cliff(), run.batch, ROWS, run.validate, CONFIG, tmp_path, {})
    with pytest.raises(TrainingError, match="gradient"):
        loop.run()
    assert not loop.checkpoint.exists()


# moving average


def test_validation_sees_the_average_and_training_goes_on_without_it(tmp_path):
    run = Run(tmp_path)
    run.loop.train_step()
    run.loop.train_step()
    trained = run.weights()
    run.loop.evaluate()
    average = torch.cat([p.flatten() for p in run.loop.ema.shadow_params])
    assert torch.equal(run.validated[0][1], average)
    assert not torch.equal(average, trained)
    assert torch.equal(run.weights(), trained)


def test_a_failing_validation_gives_the_training_weights_back(tmp_path):
    run = Run(tmp_path)
    run.loop.train_step()
    trained = run.weights()

    def fail(step: int) -> dict[str, float]:
        raise RuntimeError("no disk")

    run.loop.validate = fail
    with pytest.raises(RuntimeError, match="no disk"):
        run.loop.evaluate()
    assert torch.equal(run.weights(), trained)


def test_the_average_is_what_a_finished_run_leaves_in_place(tmp_path):
    run = Run(tmp_path).run()
    assert torch.equal(run.weights(), run.validated[-1][1])


def test_the_first_average_is_the_recursion_with_warm_up(tmp_path):
    """Decay min(ema_decay, (1 + n) / (10 + n)): after the first step the average has moved by 9/11 of it."""
    run = Run(tmp_path)
    start = run.weights().double()
    run.loop.train_step()
    first = run.weights().double()
    average = torch.cat([p.flatten() for p in run.loop.ema.shadow_params]).double()
    decay = run.loop.ema.cur_decay_value
    torch.testing.assert_close(average, decay * start + (1 - decay) * first, atol=1e-7, rtol=0)
    assert decay < CONFIG.ema_decay


@pytest.mark.parametrize("clip", [1e-3, 0.5, 1e3])
def test_gradients_are_clipped_as_torch_clips_them(tmp_path, clip):
    run = Run(tmp_path, replace(CONFIG, clip=clip))
    kept: list[Tensor] = []
    run.loop.optimizer.optimizer.register_step_pre_hook(
        lambda *_: kept.extend(p.grad.clone() for p in run.loop.parameters)
    )
    run.loop.train_step()
    other = Run(tmp_path, CONFIG)
    other.loop.gradients()
    nn.utils.clip_grad_norm_(other.loop.parameters, clip)
    assert all(torch.equal(a, b.grad) for a, b in zip(kept, other.loop.parameters, strict=True))


def test_validation_comes_every_so_often_and_at_the_end(tmp_path):
    assert [step for step, _ in Run(tmp_path).run().validated] == [5, 10, 12]


def test_the_log_has_the_mean_since_the_last_line_and_the_figures(tmp_path):
    Run(tmp_path).run()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["figure"]) for line in lines] == [(5, 5.0), (10, 10.0), (12, 12.0)]
    assert all(line["twice"] == pytest.approx(2 * line["loss"], abs=3e-6) for line in lines)


def test_a_resumed_runs_log_is_that_of_an_uninterrupted_one(tmp_path):
    """Stopped after a validation that no checkpoint knows of, and in the middle of a line."""
    config = replace(CONFIG, save_minutes=60.0)
    first = Run(tmp_path / "a", config, stop_at=7)
    first.interrupted()
    with (tmp_path / "a" / "log.jsonl").open("a") as file:
        file.write('{"step": 1')
    Run(tmp_path / "a", config).run()
    Run(tmp_path / "b", config).run()
    assert (tmp_path / "a" / "log.jsonl").read_text() == (tmp_path / "b" / "log.jsonl").read_text()


def test_the_log_of_a_run_stopped_between_validations_has_means_over_all_steps(tmp_path):
    Run(tmp_path / "a", stop_at=8).interrupted()
    Run(tmp_path / "a").run()
    Run(tmp_path / "b").run()
    assert (tmp_path / "a" / "log.jsonl").read_text() == (tmp_path / "b" / "log.jsonl").read_text()


def test_training_fits(tmp_path):
    Run(tmp_path, replace(CONFIG, steps=100, validate_every=20, save_minutes=60.0)).run()
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.2 * losses[0]


# micro-batches


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_micro_batches_have_the_gradient_of_the_whole_batch(tmp_path, parts):
    """In float64; of four rows three parts are unequal."""
    found = []
    for accumulate in (1, parts):
        run = Run(tmp_path, replace(CONFIG, accumulate=accumulate, clip=1e9))
        run.toy.double()
        whole = run.loop.batch
        run.loop.batch = lambda rows, epoch, whole=whole: tuple(t.double() for t in whole(rows, epoch))
        means, _ = run.loop.gradients()
        gradient = torch.cat([p.grad.flatten() for p in run.loop.parameters])
        found.append((gradient, means["loss"], [row for _, rows in run.seen for row in rows]))
    assert found[0][2] == found[1][2]
    torch.testing.assert_close(found[1][:2], found[0][:2], rtol=1e-12, atol=0)


def test_dropout_differs_between_micro_batches(tmp_path):
    run = Run(tmp_path, dropout=0.5)
    ones = (torch.ones(4, 3), torch.zeros(4, 1))
    first, again, second = (run.loop.forward(ones, part)["loss"] for part in (0, 0, 1))
    assert (torch.equal(first, again), torch.equal(first, second)) == (True, False)


def test_a_batch_too_small_to_share_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="batch_size: 4 examples cannot be shared by 1 processes with 5 micro"):
        Run(tmp_path, replace(CONFIG, accumulate=5))


# early stopping

STOP = replace(CONFIG, steps=9, validate_every=1, stop_on="figure", patience=2, cooldown=0.0)


def test_it_stops_after_so_many_validations_without_a_better_figure(tmp_path):
    run = Run(tmp_path, STOP, figures=[5, 3, 4, math.nan, 1]).run()
    assert [step for step, _ in run.validated] == [1, 2, 3, 4]


def test_the_best_average_is_what_stays_in_place(tmp_path):
    run = Run(tmp_path, STOP, figures=[5, 3, 4, 4]).run()
    assert torch.equal(run.weights(), run.validated[1][1])


def test_a_figure_that_should_grow_may(tmp_path):
    run = Run(tmp_path, replace(STOP, goal="max"), figures=[1, 2, 3, 2, 2]).run()
    assert torch.equal(run.weights(), run.validated[2][1])
    assert len(run.validated) == 5


def test_without_a_stop_the_best_stays_too(tmp_path):
    run = Run(tmp_path, replace(STOP, steps=3), figures=[2, 1, 3]).run()
    assert torch.equal(run.weights(), run.validated[1][1])


def test_early_stopping_is_resumed(tmp_path):
    figures = [5, 3, 4, 4]
    Run(tmp_path / "a", STOP, figures=figures, stop_at=3).interrupted()
    resumed, whole = Run(tmp_path / "a", STOP, figures=figures).run(), Run(tmp_path / "b", STOP, figures=figures).run()
    assert torch.equal(resumed.weights(), whole.weights())
    again = Run(tmp_path / "a", STOP, figures=figures).run()
    assert (again.seen, torch.equal(again.weights(), whole.weights())) == ([], True)


def test_a_figure_that_is_not_there_is_told_with_those_that_are(tmp_path):
    with pytest.raises(TrainingError, match="stop_on: no figure 'fid' in the log; there are figure, loss, twice"):
        Run(tmp_path, replace(STOP, stop_on="fid")).run()


# TensorBoard


def test_tensorboard_gets_what_the_log_gets(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    Run(tmp_path, replace(CONFIG, tensorboard=True)).run()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("figure")] == [(5, 5.0), (10, 10.0), (12, 12.0)]


def test_a_missing_tensorboard_is_told_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError) as caught:
        Run(tmp_path, replace(CONFIG, tensorboard=True)).run()
    remedy = "`pip install tensorboard`, or set `tensorboard: false`"
    assert str(caught.value) == f"tensorboard: not installed; {remedy}"


# rows


def test_an_epoch_takes_no_row_twice():
    rows = torch.cat([RowOrder(ROWS, 0).at(step, 4)[0] for step in (0, 1)])
    assert len(rows.unique()) == 8


def test_epochs_take_rows_in_different_orders():
    order = RowOrder(50, 0)
    assert not torch.equal(order.at(0, 50)[0], order.at(1, 50)[0])


def test_every_row_has_its_turn():
    rows = torch.cat([RowOrder(ROWS, 0).at(step, 4)[0] for step in range(20)])
    assert rows.unique().tolist() == list(range(ROWS))


def test_a_batch_larger_than_the_data_repeats_every_row_alike():
    rows, epoch = RowOrder(3, 0).at(2, 9)
    assert (rows.bincount().tolist(), epoch) == ([3, 3, 3], 2)


def test_a_batch_larger_than_the_data_trains(tmp_path):
    run = Run(tmp_path, replace(CONFIG, batch_size=7, steps=2), rows=1).run()
    assert run.seen == [(0, [0] * 7), (1, [0] * 7)]


# schedule


def test_the_plateau_is_the_learning_rate():
    config = LoopConfig(steps=100, warmup=10, cooldown=0.5, learning_rate=2.0)
    assert {learning_rate_at(step, config) for step in range(9, 51)} == {2.0}


def test_the_rate_falls_to_one_step_short_of_zero():
    config = LoopConfig(steps=100, warmup=10, cooldown=0.5, learning_rate=1.0)
    assert [learning_rate_at(step, config) for step in (50, 75, 99)] == pytest.approx([1.0, 0.5, 0.02])


@pytest.mark.parametrize("step", range(4))
def test_the_rate_is_positive_even_in_the_shortest_run(step):
    assert learning_rate_at(step, LoopConfig(steps=4, warmup=0, cooldown=0.0)) > 0


def test_the_optimiser_takes_the_scheduled_rate(tmp_path):
    run = Run(tmp_path)
    run.loop.train_step()
    assert run.loop.optimizer.param_groups[0]["lr"] == pytest.approx(CONFIG.learning_rate / 3)


def test_the_cosine_is_half_way_down_half_way_through():
    config = LoopConfig(steps=110, warmup=10, learning_rate=2.0, schedule="cosine")
    assert [learning_rate_at(step, config) for step in (4, 9, 10, 60)] == pytest.approx([1.0, 2.0, 2.0, 1.0])
    falling = [learning_rate_at(step, config) for step in range(10, 110)]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"steps": 0}, "steps: expected 1 or more, got 0"),
        ({"accumulate": 0}, "accumulate: expected 1 or more, got 0"),
        ({"schedule": "linear"}, "schedule: expected one of trapezoid, cosine, constant, got 'linear'"),
        ({"mixed_precision": "fp8"}, "mixed_precision: expected one of no, bf16, fp16, got 'fp8'"),
        ({"goal": "up"}, "goal: expected one of min, max, got 'up'"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(change, told):
    with pytest.raises(ConfigError) as caught:
        from_mapping(LoopConfig, {"steps": 9} | change, "loop")
    assert str(caught.value) == f"loop: {told}"


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
def test_fp16_without_a_gpu_is_refused(tmp_path):
    with pytest.raises(ConfigError, match='mixed_precision: fp16 needs a GPU; set "bf16" or "no"'):
        Run(tmp_path, replace(CONFIG, mixed_precision="fp16"))
