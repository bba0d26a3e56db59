"""What befalls long runs, done for real: kills, full and read-only disks, damaged files, signals.

BRIDGE_FAULTS=50 (`make test-faults`) kills a run fifty times instead of three.
"""

import io
import itertools
import os
import pickle
import random
import signal
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from tests.test_loop import Run
from train.checkpoint import (
    END_BYTES,
    SEAL_BYTES,
    DamagedError,
    ResumeError,
    SaveError,
    damage_of,
    fingerprint_of,
    previous_of,
    read_state,
    seal,
    write_state,
)
from train.loop import SIGNALS, stop_request

if sys.platform != "linux":
    pytest.skip("faults are staged with Linux's means", allow_module_level=True)

from tests import faulty_run
from tests.faulty_run import Trouble, outcome, start, told, train, wait_for, weights_of

KILLS = int(os.environ.get("BRIDGE_FAULTS", "3"))
DAMAGED = "checkpoint.pt: damaged (sha256 differs); "


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing befell."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert outcome(start(train, out)) == 0
    return out


def same_run(a: Path, b: Path) -> bool:
    """Whether two finished runs have bit for bit the same weights and log, and no file more or less."""
    logs = [(path / "log.jsonl").read_bytes() for path in (a, b)]
    names = [sorted(path.name for path in out.iterdir()) for out in (a, b)]
    return torch.equal(weights_of(a), weights_of(b)) and logs[0] == logs[1] and names[0] == names[1]


# kill -9


def test_kills_at_random_moments_change_nothing(whole, tmp_path):
    """Every checkpoint found is complete, and the weights and the log are those of a run that was let alone."""
    chance, folders = random.Random(0), (tmp_path / f"run{i}" for i in itertools.count())
    out, kills = next(folders), 0
    while kills < KILLS:
        out.with_suffix(".started").unlink(missing_ok=True)
        process = start(train, out)
        wait_for(out.with_suffix(".started"), process)
        time.sleep(chance.uniform(0, 0.2))
        process.kill()
        if (code := outcome(process)) == 0:  # it was quicker
            assert same_run(whole, out)
            out = next(folders)
        else:
            assert code == -signal.SIGKILL
            kills += 1
            if (out / "checkpoint.pt").exists():
                assert 0 < read_state(out / "checkpoint.pt")["step"] <= 30
    assert outcome(start(train, out)) == 0
    assert same_run(whole, out)


@pytest.mark.parametrize("where", ["before_link", "half_written", "before_sync", "before_replace", "after_replace"])
def test_a_kill_in_the_middle_of_a_save_changes_nothing(whole, tmp_path, where):
    out = tmp_path / "run"
    assert outcome(start(train, out, Trouble(9, f"die_{where}"))) in (-signal.SIGKILL, -signal.SIGXFSZ)
    assert read_state(out / "checkpoint.pt")["step"] == (10 if where == "after_replace" else 9)
    assert outcome(start(train, out)) == 0
    assert same_run(whole, out)


# full and read-only disks


def check_refused(out: Path, why: str) -> None:
    remedy = "the last checkpoint stands; make room or mend the disk, then run the same command to resume"
    assert told(out) == f"{out}: cannot write: {why}; {remedy}"


def test_a_write_that_fails_half_way_leaves_the_old_checkpoint(whole, tmp_path):
    out = tmp_path / "run"
    assert outcome(start(train, out, Trouble(9, "starve"))) == 2
    check_refused(out, "File too large")
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith("previous-")) == [
        ".lock",
        "checkpoint.pt",
        "log.jsonl",
    ]
    assert read_state(out / "checkpoint.pt")["step"] == 9
    assert outcome(start(train, out)) == 0
    assert same_run(whole, out)


def test_a_full_disk_leaves_the_old_checkpoint_and_no_temporary_file(whole, tmp_path):
    """A real one, with room for a checkpoint and a half."""
    out, size = tmp_path / "run", (whole / "checkpoint.pt").stat().st_size
    code = outcome(start(faulty_run.train_on_a_small_disk, out, size * 3 // 2 + 8192))
    if code == faulty_run.NO_MOUNTS:
        pytest.skip("nothing may be mounted here")
    assert code == 2
    check_refused(out, "No space left on device")
    left = torch.load(out.with_suffix(".left"), weights_only=True)
    assert sorted(left) == [".lock", "ballast", "checkpoint.pt", "previous-checkpoint.pt"]
    (tmp_path / "copy.pt").write_bytes(left["checkpoint.pt"])
    assert read_state(tmp_path / "copy.pt")["step"] == 1


def test_a_read_only_folder_is_refused_in_one_line(tmp_path):
    out = tmp_path / "run"
    code = outcome(start(faulty_run.train_on_a_read_only_disk, out))
    if code == faulty_run.NO_MOUNTS:
        pytest.skip("nothing may be mounted here")
    assert code == 2
    assert told(out) == f"{out}: cannot be written to: Read-only file system; name another `out`"


# damaged files


@pytest.fixture
def stopped_run(tmp_path: Path) -> Run:
    """A run that stopped after five steps; the fourth is beside."""
    run = Run(tmp_path / "run", stop_at=5)
    run.interrupted()
    return run


def test_a_flipped_bit_anywhere_is_found(stopped_run):
    sound = stopped_run.loop.checkpoint.read_bytes()
    chance = random.Random(0)
    places = [0, len(sound) - 1, len(sound) - SEAL_BYTES, *chance.sample(range(len(sound)), 300)]
    for place in places:
        data = bytearray(sound)
        data[place] ^= 1 << chance.randrange(8)
        assert damage_of(bytes(data)), place
    assert not damage_of(sound)


def test_a_file_cut_short_anywhere_is_found(stopped_run):
    sound = stopped_run.loop.checkpoint.read_bytes()
    for length in [0, 1, len(sound) - SEAL_BYTES, len(sound) - 1, *range(2, len(sound), 97)]:
        assert damage_of(sound[:length]), length


def test_torch_alone_would_not_notice(stopped_run, tmp_path):
    """Why there is a checksum; should this fail, torch checks by itself now."""
    data = bytearray(stopped_run.loop.checkpoint.read_bytes())
    weight = stopped_run.loop.parameters[0].detach().numpy().tobytes()
    data[data.index(weight)] ^= 1
    (tmp_path / "flipped.pt").write_bytes(data)
    assert torch.load(tmp_path / "flipped.pt", weights_only=True)["step"] == 5
    assert damage_of(bytes(data)) == "sha256 differs"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()  # the save before may be the same file
    path.write_bytes(data)


def test_a_damaged_checkpoint_names_the_one_before_which_goes_on(stopped_run):
    path = stopped_run.loop.checkpoint
    flip(path)
    with pytest.raises(DamagedError) as caught:
        Run(path.parent).run()
    before = previous_of(path)
    assert str(caught.value) == f"{path.parent}/{DAMAGED}`mv {before} {path}` resumes from the save before"
    before.replace(path)
    assert read_state(path)["step"] == 4
    resumed, whole = Run(path.parent).run(), Run(path.parent.with_name("whole")).run()
    assert torch.equal(resumed.weights(), whole.weights())


def test_a_damaged_checkpoint_without_one_before_says_so(stopped_run):
    path = stopped_run.loop.checkpoint
    for name in (path, previous_of(path)):
        flip(name)
    with pytest.raises(DamagedError) as caught:
        read_state(path)
    assert str(caught.value) == f"{path.parent}/{DAMAGED}put a copy in its place, or remove it to begin again"


def test_an_earlier_versions_checkpoint_is_read_and_checked(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"step": 7, "ema": [torch.arange(1000.0)]}, path)
    assert read_state(path)["step"] == 7
    flip(path)
    with pytest.raises(DamagedError, match=r"checkpoint.pt: damaged \((CRC-32|Bad CRC|File name)"):
        read_state(path)


class Evil:
    """Runs code when unpickled as pickles are."""

    ran = False

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("from tests.test_faults import Evil; Evil.ran = True",)


@pytest.mark.parametrize("sealed", [True, False])
def test_a_checkpoint_that_could_run_code_does_not(tmp_path, sealed):
    path, buffer = tmp_path / "checkpoint.pt", io.BytesIO()
    torch.save({"step": Evil()}, buffer)
    path.write_bytes(seal(buffer.getvalue()) if sealed else buffer.getvalue())
    with pytest.raises(DamagedError, match=r"damaged \(holds objects that could run code\); put a copy"):
        read_state(path)
    assert not Evil.ran


def test_a_bare_pickle_is_refused_unread(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DamagedError, match="no end of archive: it is cut short"):
        read_state(tmp_path / "checkpoint.pt")
    assert not Evil.ran


def test_the_seal_is_the_archives_comment(tmp_path):
    """So that torch and any unzip open the file."""
    write_state(tmp_path / "state.pt", {"step": 3})
    with zipfile.ZipFile(tmp_path / "state.pt") as archive:
        assert (archive.comment[:7], len(archive.comment), archive.testzip()) == (b"sha256:", SEAL_BYTES, None)
    assert torch.load(tmp_path / "state.pt", weights_only=True) == {"step": 3}


@pytest.mark.parametrize("data", [b"", b"x" * END_BYTES, seal(b"PK\x05\x06" + bytes(18))])
def test_only_a_plain_archive_is_sealed(data):
    with pytest.raises(ValueError, match="archive: expected a zip archive without a comment"):
        seal(data)


def test_the_one_before_is_the_save_before(tmp_path):
    for step in range(3):
        write_state(tmp_path / "state.pt", {"step": step})
    assert [read_state(path)["step"] for path in (tmp_path / "state.pt", previous_of(tmp_path / "state.pt"))] == [2, 1]


def test_a_finished_run_keeps_one_checkpoint(whole):
    assert sorted(path.name for path in whole.iterdir()) == [".lock", "checkpoint.pt", "log.jsonl"]


# signals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_step_saves_and_says_how_to_go_on(whole, tmp_path, number):
    out = tmp_path / "run"
    process = start(train, out, Trouble(9, "dawdle"))
    wait_for(out.with_suffix(".begun"), process)
    os.kill(process.pid, number)
    assert outcome(process) == 128 + number
    where = f"after step 10 of 30; saved in {out}/checkpoint.pt"
    assert told(out) == f"stopped by {number.name} {where}; run the same command to resume"
    assert read_state(out / "checkpoint.pt")["step"] == 10
    assert outcome(start(train, out)) == 0
    assert same_run(whole, out)


def test_a_second_ctrl_c_quits_at_once_without_harm(whole, tmp_path):
    out = tmp_path / "run"
    process = start(train, out, Trouble(9, "hang"))
    wait_for(out.with_suffix(".begun"), process)
    os.kill(process.pid, signal.SIGINT)
    wait_for(out.with_suffix(".noted"), process)
    os.kill(process.pid, signal.SIGINT)
    assert outcome(process) == -signal.SIGINT
    assert outcome(start(train, out)) == 0
    assert same_run(whole, out)


def test_a_signal_before_a_validation_leaves_it_to_the_next_start(whole, tmp_path):
    """Step 7 is validated: a stop right after it does not wait for that, and the log misses nothing in the end."""
    out = tmp_path / "run"
    process = start(train, out, Trouble(6, "dawdle"))
    wait_for(out.with_suffix(".begun"), process)
    os.kill(process.pid, signal.SIGTERM)
    assert outcome(process) == 143
    state = read_state(out / "checkpoint.pt")
    assert (state["step"], state["validated"], (out / "log.jsonl").exists()) == (7, 0, False)
    assert outcome(start(train, out)) == 0
    assert same_run(whole, out)


def test_after_a_run_signals_are_as_before():
    before = [signal.getsignal(number) for number in SIGNALS]
    with stop_request():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


# other faults of the folder


def test_a_validation_that_fills_the_disk_is_told_in_one_line(tmp_path):
    run = Run(tmp_path)

    def fail(step: int) -> dict[str, float]:
        raise OSError(28, "No space left on device")

    run.loop.validate = fail
    with pytest.raises(SaveError, match="cannot write: No space left on device; the last checkpoint stands"):
        run.run()
    assert read_state(run.loop.checkpoint)["step"] == 4


def test_an_error_that_is_not_the_disks_is_not_called_so(tmp_path):
    run = Run(tmp_path)

    def fail(step: int) -> dict[str, float]:
        raise FileNotFoundError(2, "No such file", "font.ttf")

    run.loop.validate = fail
    with pytest.raises(FileNotFoundError, match=r"font\.ttf"):
        run.run()


def test_a_run_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(ResumeError, match="run: cannot be written to: File exists; name another `out`"):
        Run(tmp_path / "run").run()


# identity of the data


def test_a_fingerprint_depends_on_every_byte_and_on_order():
    rows = torch.arange(6.0)
    others = [rows.flip(0), rows.double(), rows.view(2, 3), rows + 1e-3]
    found = {fingerprint_of([part, "a"]) for part in (rows, *others)} | {fingerprint_of(["a", rows])}
    assert (len(found), fingerprint_of([rows.clone(), "a"]) in found) == (6, True)
