"""One training loop on accelerate: moving average, schedules, early stopping, exact resume, safe through failures.

All randomness is keyed by (seed, epoch, row), so that a resumed run sees what an uninterrupted one sees, and two
processes see what one does.
"""

import contextlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, gather_object
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from bridge.checkpoint import remove_stale
from bridge.noise import generator_for
from train import checkpoint
from train.checkpoint import ResumeError, writing
from train.command import say
from train.config import ConfigError
from train.schedule import Best, Budget, LoopConfig, RowOrder, TrainingError, learning_rate_at
from train.timing import note_precision

Batch = Callable[[Tensor, int], tuple[Tensor, ...]]  # (row numbers (B,), epoch) -> what the objective takes
Validate = Callable[[int], dict[str, float]]  # step -> figures, called with the EMA weights in place
BARRIER_TIMEOUT = timedelta(hours=2)  # How long processes wait for the one that validates and saves
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stop_request() -> Iterator[list[int]]:
    """Note the first Ctrl-C or SIGTERM while the block runs, so that the step in progress can finish.

    After it a Ctrl-C kills at once; further SIGTERMs, of which launchers send several, change nothing. Outside the main
    thread Python cannot listen.
    """
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if not noted:
            noted.append(number)
            os.write(2, b"\nstopping: this step ends, then the run is saved; Ctrl-C quits at once\n")

    listens = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, note) for number in SIGNALS} if listens else {}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Loop:
    """Trains one objective.

    With `accelerate launch` each process takes its share of every batch, by position; the rows seen and, but for
    rounding and dropout, the weights are those of one process. All must see the disk of `out`.
    Raises ConfigError if the machine cannot train so: fp16 on a CPU, fewer examples than processes and micro-batches.
    """

    def __init__(
        self,
        objective: nn.Module,  # Takes a batch and returns {"loss": (B,), ...}; all that requires a gradient is trained
        batch: Batch,
        rows: int,  # How many there are
        validate: Validate,  # Called every `validate_every` steps and at the end, in the main process alone
        config: LoopConfig,
        out: Path,  # Run folder
        identity: dict[str, Any],  # What must be the same for a run to be resumed (data, model settings)
        data_fingerprint: str = "",  # Of the rows' contents; where given, it counts and identity's "data", a path, not
        budget: Budget | None = None,  # In place of `config.steps` and `config.validate_every`
    ) -> None:
        self.accelerator = _accelerator(config)
        self.main = self.accelerator.is_main_process
        if self.main:
            note_precision(config.mixed_precision, "mixed_precision")
        self.config, self.batch, self.rows, self.validate, self.out = config, batch, rows, validate, out
        self.checkpoint = out / "checkpoint.pt"
        content = {"data_fingerprint": data_fingerprint} if data_fingerprint else {}
        self.identity = json.loads(json.dumps(identity | {"rows": rows} | content, default=str))
        self.parameters = [p for p in objective.parameters() if p.requires_grad]
        modules = [m for m in objective.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]
        self.buffers = [buffer for module in modules for buffer in module.buffers(recurse=False)]
        optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99)
        )
        kept = {id(buffer) for buffer in self.buffers}
        frozen = [name for name, buffer in objective.named_buffers() if id(buffer) not in kept]
        # The same in every process, and not all of a type that gloo can send
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(objective, frozen)
        self.objective, self.optimizer = self.accelerator.prepare(objective, optimizer)
        self.ema = EMAModel(self.parameters, decay=config.ema_decay, foreach=True)  # Polyak & Juditsky 1992
        self.tensors = {"parameters": self.parameters, "buffers": self.buffers, "ema": self.ema.shadow_params}
        self.order, self.best = RowOrder(rows, config.seed), Best(config)
        self.budget, self.used, self.looked = budget, 0.0, 0.0
        on_cpu = self.accelerator.device.type == "cpu"
        self.clock = (budget and budget.clock) or (time.process_time if on_cpu else time.monotonic)
        self.step = self.validated = self.seen = 0
        self.sums: dict[str, float] = {}
        self.unsaved = True
        self.signals: list[int] = []
        self._stop_agreed = self._locked = False

    def train_step(self) -> dict[str, float]:
        """One optimiser step; returns the mean of all reported. TrainingError, before it, unless all is finite."""
        share = self.budget.share(self.used) if self.budget else None
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, self.config, share)
        means, norm = self.gradients()
        figures, length = self._figures(means, norm)
        if not length + 1e-6 <= self.config.clip:  # torch would multiply by 1 too
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.config.clip, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.parameters)
        self.step += 1
        return figures

    def gradients(self) -> tuple[dict[str, Tensor], Tensor]:
        """Leave the gradient in the parameters, unclipped; returns this process's share of the means, and the norm."""
        rows, epoch = self.order.at(self.step, self.config.batch_size)
        processes, means = self.accelerator.num_processes, dict[str, Tensor]()
        chunks = rows[self.accelerator.process_index :: processes].tensor_split(self.config.accumulate)
        for part, chunk in enumerate(chunks):
            last = part == len(chunks) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.objective):
                inputs = [tensor.to(self.accelerator.device) for tensor in self.batch(chunk, epoch)]
                share = len(chunk) / len(rows)
                reported = {name: value.mean() for name, value in self.forward(inputs, part).items()}
                self.accelerator.backward(reported["loss"] * (share * processes))  # processes average their gradients
            for name, value in reported.items():
                means[name] = means.get(name, 0.0) + value.detach() * share
        self.accelerator.unscale_gradients()
        return means, torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])

    def forward(self, inputs: Sequence[Tensor], part: int = 0) -> dict[str, Tensor]:
        """The objective on micro-batch `part`; dropout is keyed by (seed, step, process, part)."""
        device = self.accelerator.device
        key = (self.config.seed, -1, self.step, self.accelerator.process_index, *([part] if part else []))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), self.accelerator.autocast():
            torch.manual_seed(generator_for(*key).initial_seed())
            return self.objective(*inputs)

    def _figures(self, means: dict[str, Tensor], norm: Tensor) -> tuple[dict[str, float], float]:
        """Means over all processes and the gradient's norm, by one exchange that also agrees on stopping."""
        asked = norm.new_tensor(float(len(self.signals)))
        values = torch.stack([value.to(norm.device).float() for value in [*means.values(), asked]])
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, "sum")
        *numbers, stop, gradient = torch.cat([values, norm.float().reshape(1)]).tolist()
        figures, self._stop_agreed = dict(zip(means, numbers, strict=True)), stop > 0
        scaled = self.accelerator.scaler is not None  # fp16's scaler leaves steps without a finite gradient out itself
        for name, value in (("loss", figures["loss"]), ("gradient", 0.0 if scaled else gradient)):
            if not math.isfinite(value):
                raise TrainingError(f"step {self.step + 1}: the {name} is {value}; lower learning_rate in the config")
        return figures, gradient

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run folder; `run` does, and so should what writes there afterwards. Raises as `run_lock` does."""
        problem: ResumeError | None = None
        with contextlib.ExitStack() as stack:
            try:
                if self.main and not self._locked:
                    stack.enter_context(checkpoint.run_lock(self.out))
                    stack.callback(setattr, self, "_locked", False)
                    self._locked = True
            except ResumeError as error:
                problem = error
            if problem := self._from_main(problem):
                raise problem
            yield

    def save(self) -> None:
        """Write the whole state; SaveError if the disk refuses, and the last one stands."""
        self.unsaved = False
        if not self.main:
            return
        scaler = self.accelerator.scaler
        state = {
            "step": self.step,
            "validated": self.validated,
            "time": {"used": self.used, "looked": self.looked},
            "config": asdict(self.config),
            "identity": self.identity,
            **{name: [tensor.detach().cpu() for tensor in tensors] for name, tensors in self.tensors.items()},
            "ema_step": self.ema.optimization_step,
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
            "since": {"sums": self.sums, "seen": self.seen},
            "best": self.best.state(),
        }
        with writing(self.out):
            checkpoint.write_state(self.checkpoint, state)

    def resume(self) -> None:
        """Continue from the checkpoint, if any; ResumeError unless it is whole, of this run and of all processes."""
        if self.checkpoint.exists():
            self._restore(checkpoint.read_state(self.checkpoint))
        if len(set(gather_object([self.step]))) > 1:
            raise ResumeError(f"{self.out}: processes see different checkpoints; name an `out` on a disk they share")

    @torch.no_grad()
    def _restore(self, state: dict[str, Any]) -> None:
        checkpoint.require_same(self.out, state, asdict(self.config), self.identity)
        # earlier versions did not write all of it
        absent: dict[str, Any] = {"validated": state["step"], "buffers": self.buffers, "scaler": {}, "best": {}}
        state = absent | {"time": {"used": 0.0, "looked": 0.0}, "since": {"sums": {}, "seen": 0}} | state
        for name, tensors in self.tensors.items():
            if [t.shape for t in tensors] != [t.shape for t in state[name]]:
                raise ResumeError(f"{self.out}: cannot resume: the checkpoint is of another model; name another `out`")
            for tensor, value in zip(tensors, state[name], strict=True):
                tensor.copy_(value)
        self.ema.optimization_step = state["ema_step"]
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.validated, self.unsaved = state["step"], state["validated"], False
        self.used, self.looked = (state["time"][name] for name in ("used", "looked"))
        self.sums, self.seen = (state["since"][name] for name in ("sums", "seen"))
        self.best.restore(state["best"])

    def run(self) -> None:
        """Train to the end, from the checkpoint where there is one; leaves the EMA weights, with `stop_on` the best.

        Raises ResumeError, see `resume` and `locked`; TrainingError if the loss or its gradient is not finite, or the
        disk refuses (SaveError), the last checkpoint being untouched; SystemExit with code 130 or 143 after Ctrl-C or
        SIGTERM, when the step has ended and all is saved. A second Ctrl-C kills at once, without harm.
        """
        with self.locked(), stop_request() as self.signals:
            if self.main:
                remove_stale(self.checkpoint)
            self.resume()
            self._train()
            if self.unsaved:
                self.save()
            if signals := gather_object(list(self.signals)):
                if self.main:
                    of = f" of {self.config.steps}" if self.budget is None else ""
                    done = f"stopped by {signal.Signals(signals[0]).name} after step {self.step}{of}"
                    say(f"{done}; saved in {self.checkpoint}; run the same command to resume")
                raise SystemExit(128 + signals[0])
            if self.main:
                checkpoint.previous_of(self.checkpoint).unlink(missing_ok=True)
            with torch.no_grad():
                for parameter, weight in zip(self.parameters, self.best.weights or self.ema.shadow_params, strict=True):
                    parameter.copy_(weight)

    @property
    def stopping(self) -> bool:
        """Whether a signal came; the same in all processes, which must not part."""
        return self._stop_agreed if self.accelerator.num_processes > 1 else bool(self.signals)

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
        saved, total = time.monotonic(), self.config.steps if self.budget is None else None
        board = _tensorboard(self.out, self.validated) if self.main and self.config.tensorboard else None
        if self.main:
            with writing(self.out):
                checkpoint.rewind(self.out, self.validated)
        with (
            tqdm(total=total, initial=self.step, desc=self.out.name, mininterval=5, disable=not self.main) as bar,
            contextlib.closing(board) if board else contextlib.nullcontext(),
        ):
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
            if self.main:
                checkpoint.append(self.out, self.step, figures)
            for name, value in figures.items() if board else ():
                board.add_scalar(name, value, self.step)
        self.sums, self.seen, self.validated, self.unsaved, self.looked = {}, 0, self.step, True, self.used

    def evaluate(self) -> dict[str, float]:
        """Figures of the EMA weights; the training weights come back afterwards."""
        figures: dict[str, float] = {}
        if self.main:
            self.ema.store(self.parameters)
            self.ema.copy_to(self.parameters)
            self.objective.eval()
            try:
                with torch.no_grad():
                    figures = self.validate(self.step)
            finally:
                self.objective.train()
                self.ema.restore(self.parameters)
        return self._from_main(figures)

    def _from_main(self, value: Any) -> Any:
        """The main process's `value`, in every process."""
        return value if self.accelerator.num_processes == 1 else broadcast_object_list([value])[0]


def _accelerator(config: LoopConfig) -> Accelerator:
    if config.mixed_precision == "fp16" and not torch.accelerator.is_available():
        raise ConfigError('mixed_precision: fp16 needs a GPU; set "bf16" or "no"')
    timeout = InitProcessGroupKwargs(timeout=BARRIER_TIMEOUT)
    accelerator = Accelerator(mixed_precision=config.mixed_precision, kwargs_handlers=[timeout])
    if config.batch_size < accelerator.num_processes * config.accumulate:
        shares = f"{accelerator.num_processes} processes with {config.accumulate} micro-batches each"
        raise ConfigError(f"batch_size: {config.batch_size} examples cannot be shared by {shares}; raise it")
    return accelerator


def _tensorboard(out: Path, step: int) -> Any:
    """A SummaryWriter that hides what came after `step`; accelerate's says nothing where TensorBoard is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415
    except ImportError as error:
        remedy = "`pip install tensorboard`, or set `tensorboard: false`"
        raise ConfigError(f"tensorboard: not installed; {remedy}") from error
    return SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)
