"""Runs in processes of their own, to be killed, starved, interrupted, or joined by others.

A fork server imports torch once; each run then starts in a moment. What a run tells goes to files.
"""

import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.test_loop import CONFIG, Run
from train.checkpoint import run_lock

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faulty_run", "tests.test_distributed"])
PATIENCE = 120.0
LONG = replace(CONFIG, steps=30, validate_every=7)
CLONE_NEWNS, MS_RDONLY, MS_REMOUNT, MS_REC, MS_PRIVATE = 0x20000, 1, 32, 0x4000, 1 << 18
NO_MOUNTS = 77
"""Exit code of a run that may not mount anything."""


def start(target: Callable[..., None], *args: Any) -> ForkServerProcess:
    """Begin `target`, a function of this module, in a process of its own."""
    process = CONTEXT.Process(target=target, args=args, daemon=True)
    process.start()
    return process


def outcome(process: ForkServerProcess) -> int:
    """Exit code of a process that comes to its end; minus the signal where one killed it."""
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("still running")
    return process.exitcode


def wait_for(path: Path, process: ForkServerProcess) -> None:
    """Wait until a run has made `path`, or has ended without, as one does that was killed after its last step."""
    until = time.monotonic() + PATIENCE
    while not path.exists() and process.is_alive():
        assert time.monotonic() < until, path
        time.sleep(0.002)


def weights_of(out: Path) -> Tensor:
    """What a finished run left in place."""
    weights: Tensor = torch.load(out.with_suffix(".weights"), weights_only=True)
    return weights


@dataclass(frozen=True)
class Trouble:
    """What befalls a run at a step's batch.

    Attributes:
        step: When.
        act: Name of a function of this module, called with the run folder.
    """

    step: int = -1
    act: str = ""


def train(out: Path, trouble: Trouble = Trouble()) -> None:
    """Train the toy; its final weights go to OUT.weights, its stderr to OUT.stderr, OUT.started when it trains."""
    torch.set_num_threads(1)
    log = os.open(out.with_suffix(".stderr"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    run = Run(out, LONG, dropout=0.2)
    whole = run.loop.batch

    def batch(rows: Tensor, epoch: int) -> tuple[Tensor, ...]:
        out.with_suffix(".started").touch()
        if run.loop.step == trouble.step:
            globals()[trouble.act](out)
        return whole(rows, epoch)

    run.loop.batch = batch
    try:
        run.run()
    except (ValueError, RuntimeError) as error:  # as the commands do
        print(error, file=sys.stderr)
        sys.exit(2)
    torch.save(run.weights(), out.with_suffix(".weights"))


def told(out: Path) -> str:
    """Last line of a run's stderr."""
    return out.with_suffix(".stderr").read_text().splitlines()[-1]


# troubles


def dawdle(out: Path) -> None:
    """A long step, begun when OUT.begun appears."""
    out.with_suffix(".begun").touch()
    time.sleep(0.5)


def hang(out: Path) -> None:
    """A step without end."""
    out.with_suffix(".begun").touch()
    while not out.with_suffix(".noted").exists():
        time.sleep(0.01)
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            out.with_suffix(".noted").touch()
    time.sleep(PATIENCE)


def starve(out: Path) -> None:
    """No file may be longer than half a checkpoint: writing fails in the middle with an OSError."""
    half = (out / "checkpoint.pt").stat().st_size // 2
    resource.setrlimit(resource.RLIMIT_FSIZE, (half, half))


def die_half_written(out: Path) -> None:
    """As `starve`, but the kernel kills in the middle of the write."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    starve(out)


def _die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_before_link(out: Path) -> None:
    os.link = _die


def die_before_sync(out: Path) -> None:
    os.fsync = _die


def die_before_replace(out: Path) -> None:
    os.replace = _die


def die_after_replace(out: Path) -> None:
    real = os.replace
    os.replace = lambda *names: _die(real(*names))


# disks


def mount(where: Path, size: int = 0, flags: int = 0) -> None:
    """Put a tmpfs of `size` bytes at `where`, seen by this process alone and gone with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not flags and (libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)):
        sys.exit(NO_MOUNTS)
    if libc.mount(b"tmpfs", str(where).encode(), b"tmpfs", flags, f"size={size}".encode() if size else None):
        sys.exit(NO_MOUNTS)


def train_on_a_small_disk(out: Path, size: int) -> None:
    """Train on a disk of `size` bytes until it is full; then, in the same place, say what is left in OUT.left."""
    out.mkdir()
    mount(out, size)
    (out / "ballast").write_bytes(b"0" * 4096)
    try:
        train(out)
    finally:
        left = {path.name: path.read_bytes() for path in out.iterdir()}
        torch.save(left, out.with_suffix(".left"))


def train_on_a_read_only_disk(out: Path) -> None:
    """Train where nothing can be written."""
    out.mkdir()
    mount(out, 1 << 20)
    mount(out, flags=MS_REMOUNT | MS_RDONLY)
    train(out)


# a lock's holder


def hold(out: Path) -> None:
    """Hold the lock of a run folder until killed."""
    with run_lock(out):
        out.with_suffix(".started").touch()
        time.sleep(PATIENCE)
