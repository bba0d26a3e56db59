"""One training loop on accelerate: moving average, schedules, early stopping, exact resume, safe through failures.

All randomness is keyed by (seed, epoch, row), so that a resumed run sees what an uninterrupted
one sees, and two processes see what one does.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn
from tqdm import tqdm

from bridge.checkpoint import remove_stale
from train import journal
from train.failures import (
    DamagedError,
    LockedError,
    ResumeError,
    SaveError,
    StopRequest,
    TrainingError,
    stopped,
    writing,
)
from train.lock import run_lock
from train.saved import previous_of, read_state, require_same, write_state
from train.schedule import Budget, LoopConfig, epoch_order, learning_rate_at, rows_at
from train.steps import Batch, Steps
from train.stopping import Best

__all__ = [
    "Batch", "Budget", "DamagedError", "LockedError", "Loop", "LoopConfig", "ResumeError", "SaveError", "TrainingError",
    "Validate", "epoch_order", "learning_rate_at", "rows_at",
]  # fmt: skip

Validate = Callable[[int], dict[str, float]]
"""step -> figures, called with the EMA weights in place."""


class Loop(Steps):
    """Trains one objective.

    With `accelerate launch` each process takes its share of every batch, by position; the rows seen and, but for
    rounding and dropout, the weights are those of one process. `validate` runs in the main process alone. `out`
    must then be on a disk that all of them see.

    Args:
        objective: Module whose forward takes a batch and returns {"loss": (B,), ...}; every
            parameter that requires a gradient is trained.
        batch: Row numbers and epoch -> the objective's inputs.
        rows: Rows in the training data.
        validate: Called with EMA weights in place every `validate_every` steps and at the end.
        config: How to train.
        out: Run folder.
        identity: What must be the same for a run to be gone on with (data, model settings).
        data_fingerprint: Identity of the rows' contents, see `train.saved.fingerprint_of`; where given, it counts
            and identity's "data", a path, does not.
        budget: Seconds of training in place of `config.steps` and `config.validate_every`.

    Raises:
        ConfigError: The machine cannot train so: fp16 on a CPU, fewer examples than processes and micro-batches.
    """

    def __init__(
        self,
        objective: nn.Module,
        batch: Batch,
        rows: int,
        validate: Validate,
        config: LoopConfig,
        out: Path,
        identity: dict[str, Any],
        data_fingerprint: str = "",
        budget: Budget | None = None,
    ) -> None:
        super().__init__(objective, batch, rows, config)
        self.validate, self.out = validate, out
        content = {"data_fingerprint": data_fingerprint} if data_fingerprint else {}
        self.identity = json.loads(json.dumps(identity | {"rows": rows} | content, default=str))
        self.budget, self.used, self.looked = budget, 0.0, 0.0
        on_cpu = self.accelerator.device.type == "cpu"
        own = None if budget is None else budget.clock
        self.clock = own or (time.process_time if on_cpu else time.monotonic)
        self.validated = 0
        self.unsaved = True
        self.sums: dict[str, float] = {}
        self.seen = 0
        self.best = Best(config)
        self._locked = False

    @property
    def checkpoint(self) -> Path:
        """Where the state is kept."""
        return self.out / "checkpoint.pt"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run folder, made where it is missing; `run` does, and so should what writes there afterwards.

        Raises:
            LockedError: Another process trains there.
            ResumeError: The folder cannot be written to.
        """
        with contextlib.ExitStack() as stack:
            problem: ResumeError | None = None
            if self.accelerator.is_main_process and not self._locked:
                try:
                    stack.enter_context(run_lock(self.out))
                    self._locked = True
                    stack.callback(setattr, self, "_locked", False)
                except ResumeError as error:
                    problem = error
            if problem := self._from_main(problem):
                raise problem
            yield

    # the state

    def save(self) -> None:
        """Write the whole state, complete or not at all.

        Raises:
            SaveError: The disk refuses; the last checkpoint stands.
        """
        if not self.accelerator.is_main_process:
            self.unsaved = False
            return
        scaler = self.accelerator.scaler
        state = {
            "step": self.step,
            "validated": self.validated,
            "time": {"used": self.used, "looked": self.looked},
            "config": asdict(self.config),
            "identity": self.identity,
            "parameters": [p.detach().cpu() for p in self.parameters],
            "buffers": [b.detach().cpu() for b in self.buffers],
            "ema": [p.detach().cpu() for p in self.ema.shadow_params],
            "ema_step": self.ema.optimization_step,
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
            "since": {"sums": self.sums, "seen": self.seen},
            "best": self.best.state(),
        }
        with writing(self.out):
            write_state(self.checkpoint, state)
        self.unsaved = False

    def resume(self) -> None:
        """Go on from the checkpoint, where there is one.

        Raises:
            ResumeError: The checkpoint belongs to other data, another model or other settings (those of
                `train.schedule.FREE` may differ), is damaged, or is not the same for all processes.
        """
        if self.checkpoint.exists():
            state = read_state(self.checkpoint)
            require_same(self.out, state, asdict(self.config), self.identity)
            self._restore(state)
        if len(set(gather_object([self.step]))) > 1:
            raise ResumeError(f"{self.out}: processes see different checkpoints; name an `out` on a disk they share")

    @torch.no_grad()
    def _restore(self, state: dict[str, Any]) -> None:
        pairs = [(self.parameters, state["parameters"]), (self.ema.shadow_params, state["ema"])]
        if "buffers" in state:
            pairs.append((self.buffers, state["buffers"]))
        for ours, saved in pairs:
            if [t.shape for t in ours] != [t.shape for t in saved]:
                raise ResumeError(f"{self.out}: cannot go on: the checkpoint is of another model; name another `out`")
            for tensor, value in zip(ours, saved, strict=True):
                tensor.copy_(value)
        self.ema.optimization_step = state["ema_step"]
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.unsaved = state["step"], False
        self.validated = state.get("validated", self.step)
        spent = state.get("time", {"used": 0.0, "looked": 0.0})
        self.used, self.looked = spent["used"], spent["looked"]
        since = state.get("since", {"sums": {}, "seen": 0})
        self.sums, self.seen = since["sums"], since["seen"]
        if "best" in state:
            self.best.restore(state["best"])

    # a run

    def evaluate(self) -> dict[str, float]:
        """Figures of the EMA weights; the training weights come back afterwards."""
        figures: dict[str, float] = {}
        if self.accelerator.is_main_process:
            self.ema.store(self.parameters)
            self.ema.copy_to(self.parameters)
            try:
                self.objective.eval()
                with torch.no_grad():
                    figures = self.validate(self.step)
            finally:
                self.objective.train()
                self.ema.restore(self.parameters)
        return self._from_main(figures)

    def run(self) -> None:
        """Train to the end, from the checkpoint where there is one; the EMA weights are left in place.

        With `stop_on`, the best of them. A first Ctrl-C or SIGTERM ends the step and saves; a second Ctrl-C kills
        at once, without harm.

        Raises:
            ResumeError: See `resume` and `locked`.
            TrainingError: The loss or its gradient is not finite, or the disk refuses (SaveError); the last
                checkpoint is untouched.
            Stopped: A signal came; all is saved. A SystemExit with code 130 or 143.
        """
        with self.locked(), StopRequest() as self.stop:
            if self.accelerator.is_main_process:
                remove_stale(self.checkpoint)
            self.resume()
            self._train()
            if self.unsaved:
                self.save()
            if signals := [number for number in gather_object([self.stop.number]) if number]:
                main = self.accelerator.is_main_process
                steps = self.config.steps if self.budget is None else 0
                raise stopped(signals[0], self.step, steps, self.checkpoint, tell=main)
            if self.accelerator.is_main_process:
                previous_of(self.checkpoint).unlink(missing_ok=True)
            self.ema.copy_to(self.parameters)
            if self.best.weights:
                self.best.copy_to(self.parameters)

    @property
    def share(self) -> float | None:
        """Share of the budget that is used; 0 where validation may end training, and None without a budget."""
        if self.budget is None:
            return None
        return 0.0 if self.budget.growth > 1 else self.used / self.budget.seconds

    @property
    def over(self) -> bool:
        """Whether all steps are done or all seconds used, or validation says that it is enough."""
        if self.budget is None:
            return self.step >= self.config.steps or self.best.enough
        return self.used >= self.budget.seconds or (self.best.enough and self.used >= self.budget.least)

    @property
    def due(self) -> bool:
        """Whether the step just done is to be validated and was not yet."""
        if not 0 < self.step != self.validated:
            return False
        if self.budget is not None:
            return self.budget.due(self.used, self.looked)
        return self.step % self.config.validate_every == 0 or self.step == self.config.steps

    def _train(self) -> None:
        main, saved = self.accelerator.is_main_process, time.monotonic()
        board = journal.tensorboard(self.out, self.validated) if main and self.config.tensorboard else None
        if main:
            with writing(self.out):
                journal.rewind(self.out, self.validated)
        bar = tqdm(
            total=self.config.steps if self.budget is None else None,
            initial=self.step,
            desc=self.out.name,
            file=sys.stderr,
            mininterval=5,
            disable=not main,
        )
        with contextlib.closing(bar), contextlib.closing(board) if board else contextlib.nullcontext():
            if self.due:  # stopped between this step and its validation
                self._report(bar, board)
            while not (self.over or self.stopping):
                start = self.clock()
                reported = self.train_step()
                self.used += self.clock() - start
                for name, value in reported.items():
                    self.sums[name] = self.sums.get(name, 0.0) + value
                self.seen += 1
                self.unsaved = True
                bar.update()
                if self.due and not self.stopping:
                    self._report(bar, board)
                if time.monotonic() - saved > 60 * self.config.save_minutes:
                    self.save()
                    saved = time.monotonic()

    def _report(self, bar: Any, board: Any) -> None:
        with writing(self.out):
            figures = {k: v / self.seen for k, v in self.sums.items()} | self.evaluate()
        self.best.look(self.step, figures, self.ema.shadow_params)
        bar.set_postfix({k: f"{v:.4g}" for k, v in figures.items()})
        with writing(self.out):
            self.log(figures)
            for name, value in figures.items() if board else ():
                board.add_scalar(name, value, self.step)
        self.sums, self.seen, self.validated, self.unsaved, self.looked = {}, 0, self.step, True, self.used

    def log(self, figures: dict[str, float]) -> None:
        """Append one line to log.jsonl."""
        if self.accelerator.is_main_process:
            journal.append(self.out, self.step, figures)

    def _from_main(self, value: Any) -> Any:
        """The main process's `value`, in every process."""
        return value if self.accelerator.num_processes == 1 else broadcast_object_list([value])[0]
