"""One process a run folder, by a lock that dies with its holder."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.test_loop import Run
from train.checkpoint import LOCK, LockedError, run_lock

if sys.platform != "linux":
    pytest.skip("holders are started with Linux's means", allow_module_level=True)

from tests.faulty_run import hold, outcome, start, wait_for


def refusal(out: Path, pid: int) -> str:
    where = f"process {pid} on {socket.gethostname()} trains there"
    return f"{out}: {where}; wait for its end, stop it, or name another `out`"


def test_a_second_process_is_refused_in_one_line(tmp_path):
    out = tmp_path / "run"
    holder = start(hold, out)
    wait_for(out.with_suffix(".started"), holder)
    with pytest.raises(LockedError) as caught, run_lock(out):
        pass
    assert str(caught.value) == refusal(out, holder.pid or 0)
    holder.kill()
    assert outcome(holder) == -signal.SIGKILL


def test_the_lock_of_a_killed_process_is_gone(tmp_path):
    out = tmp_path / "run"
    holder = start(hold, out)
    wait_for(out.with_suffix(".started"), holder)
    holder.kill()
    outcome(holder)
    assert (out / LOCK).exists()
    with run_lock(out):
        pass


def test_a_second_run_in_one_process_is_refused_too_and_changes_nothing(tmp_path):
    Run(tmp_path, stop_at=3).interrupted()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    run = Run(tmp_path)
    with run_lock(tmp_path), pytest.raises(LockedError) as caught:
        run.run()
    assert (str(caught.value), run.seen) == (refusal(tmp_path, os.getpid()), [])
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {**after, LOCK: b""} == {**before, LOCK: b""}


def test_a_run_lets_go_at_its_end_also_after_an_error(tmp_path):
    Run(tmp_path, stop_at=3).interrupted()
    Run(tmp_path).run()
    with run_lock(tmp_path):
        pass


def test_a_loop_may_hold_its_folder_around_a_run(tmp_path):
    """What a command does, to write the model under the same lock."""
    run = Run(tmp_path)
    with run.loop.locked():
        run.run()
        with pytest.raises(LockedError), run_lock(tmp_path):
            pass
    with run_lock(tmp_path):
        pass


def test_an_unsigned_lock_is_told_without_a_name(tmp_path):
    with run_lock(tmp_path):
        (tmp_path / LOCK).write_bytes(b"")
        with pytest.raises(LockedError, match="another process trains there"), run_lock(tmp_path):
            pass
