"""Shards: what is read is what was written, each is made once and by one, and no damaged or stale one is believed."""

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from tqdm import tqdm

from bridge.checkpoint import CheckpointError
from train.data import cache as shards
from train.data.cache import Column, Ragged, Shards, encoded_once

N = 11
NAMES = [f"row {i}" for i in range(N)]
MAKER = ["an encoder"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "ROWS", 4)


def fixed() -> Tensor:
    return torch.randn(N, 2, 3, generator=torch.Generator().manual_seed(0))


LENGTH = torch.tensor([0, 3, 1, 2, 0, 0, 5, 1, 1, 0, 2])


def values() -> Tensor:
    return torch.randn(int(LENGTH.sum()), 6, generator=torch.Generator().manual_seed(1)).half()


def compute(start: int, stop: int) -> Mapping[str, Column]:
    before = int(LENGTH[:start].sum())
    mine = values()[before : before + int(LENGTH[start:stop].sum())]
    return {"z": fixed()[start:stop], "tokens": Ragged(mine, LENGTH[start:stop])}


def never(start: int, stop: int) -> Mapping[str, Column]:
    pytest.fail(f"rows {start} to {stop} were computed again")


def made(folder: Path) -> Shards:
    return encoded_once(folder, "x", MAKER, NAMES, compute)


def test_rows_come_back_as_they_were_computed(tmp_path: Path) -> None:
    index = torch.tensor([10, 0, 3, 4, 4, 7])
    assert torch.equal(made(tmp_path).rows("z", index), fixed()[index])
    again = encoded_once(tmp_path, "x", MAKER, NAMES, never)
    assert len(again) == N and torch.equal(again.rows("z", index), fixed()[index])


def test_ragged_rows_come_back_padded(tmp_path: Path) -> None:
    found, there = made(tmp_path).ragged("tokens", torch.arange(N), 5)
    assert torch.equal(there.sum(1), LENGTH) and made(tmp_path).longest("tokens") == 5
    assert torch.equal(found[there], values()) and not found[~there].any()


def test_too_few_places_cut_the_end_off(tmp_path: Path) -> None:
    found, there = made(tmp_path).ragged("tokens", torch.tensor([6]), 2)
    start = int(LENGTH[:6].sum())
    assert torch.equal(found[0], values()[start : start + 2]) and there.all()


@pytest.mark.parametrize("row", [-1, N])
def test_a_row_that_is_not_there_is_an_error(tmp_path: Path, row: int) -> None:
    with pytest.raises(IndexError, match=f"expected rows 0 to {N - 1}"):
        made(tmp_path).rows("z", torch.tensor([0, row]))


def test_no_rows_are_no_shards(tmp_path: Path) -> None:
    assert len(encoded_once(tmp_path, "x", MAKER, [], never)) == 0


def test_a_stopped_run_goes_on_with_the_next_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(start: int, stop: int) -> Mapping[str, Column]:
        if start == 8:
            raise KeyboardInterrupt
        return compute(start, stop)

    with pytest.raises(KeyboardInterrupt):
        encoded_once(tmp_path, "x", MAKER, NAMES, stopped)
    asked: list[int] = []
    bars: list[tqdm] = []
    monkeypatch.setattr(shards, "tqdm", lambda **options: bars.append(tqdm(**options)) or bars[0])
    encoded_once(tmp_path, "x", MAKER, NAMES, lambda a, b: asked.append(a) or compute(a, b))
    assert asked == [8] and (bars[0].initial, bars[0].n) == (8, N)


def test_rows_added_at_the_end_leave_whole_shards_as_they_are(tmp_path: Path) -> None:
    encoded_once(tmp_path, "x", MAKER, NAMES[:8], compute)
    asked: list[int] = []
    encoded_once(tmp_path, "x", MAKER, NAMES, lambda a, b: asked.append(a) or compute(a, b))
    assert asked == [8]


@pytest.mark.parametrize(("kind", "maker"), [("y", MAKER), ("x", ["another encoder"]), ("x", ["an", "encoder"])])
def test_what_something_else_made_is_not_taken(tmp_path: Path, kind: str, maker: list[str]) -> None:
    made(tmp_path)
    asked: list[int] = []
    encoded_once(tmp_path, kind, maker, NAMES, lambda a, b: asked.append(a) or compute(a, b))
    assert asked == [0, 4, 8]


def test_a_wrong_number_of_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'z' has 3 rows, expected 4"):
        encoded_once(tmp_path, "x", MAKER, NAMES, lambda a, b: {"z": fixed()[a : b - 1]})


# damage


def test_no_flipped_bit_is_read(tmp_path: Path) -> None:
    """Anywhere in a file."""
    path = made(tmp_path).parts[0].path
    whole = path.read_bytes()
    for at in range(0, len(whole), 23):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="changed since it was written; delete it"):
            encoded_once(tmp_path, "x", MAKER, NAMES, never).rows("z", torch.arange(4))


@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_a_cut_file_is_named(tmp_path: Path, keep: float) -> None:
    path = made(tmp_path).parts[1].path
    path.write_bytes(path.read_bytes()[: int(keep if keep > 1 else keep * path.stat().st_size)])
    with pytest.raises(CheckpointError, match="cut short or changed since it was written; delete it"):
        encoded_once(tmp_path, "x", MAKER, NAMES, never).rows("z", torch.tensor([5]))


def test_a_stale_shard_is_refused(tmp_path: Path) -> None:
    """One of another encoder's, under the name of ours."""
    mine = made(tmp_path)
    other = encoded_once(tmp_path, "x", ["another encoder"], NAMES, compute)
    mine.parts[0].path.unlink()
    shutil.copy(other.parts[0].path, mine.parts[0].home)
    with pytest.raises(CheckpointError, match="is stale, made by another encoder"):
        encoded_once(tmp_path, "x", MAKER, NAMES, never).rows("z", torch.tensor([0]))


# several processes


def _work(folder: Path, log: Path, die_at: int) -> None:
    shards.ROWS = 4

    def slow(start: int, stop: int) -> Mapping[str, Column]:
        with log.open("a") as file:
            file.write(f"{start}\n")
        time.sleep(0.2)
        if start == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return compute(start, stop)

    encoded_once(folder, "x", MAKER, NAMES, slow)


@pytest.mark.parametrize("die_at", [-1, 4])
def test_processes_share_the_shards_and_stand_in_for_one_that_dies(tmp_path: Path, die_at: int) -> None:
    """Without a death each shard is made once; the one that a process died over is made by another."""
    context, log = multiprocessing.get_context("fork"), tmp_path / "log"
    workers = [context.Process(target=_work, args=(tmp_path, log, die if i == 0 else -1)) for i, die in
               enumerate([die_at, -1, -1])]  # fmt: skip
    for worker in workers:
        worker.start()
        if worker is workers[0] and die_at >= 0:
            while f"{die_at}\n" not in (log.read_text() if log.exists() else ""):
                time.sleep(0.01)
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [-signal.SIGKILL if die_at >= 0 else 0, 0, 0]
    starts = sorted(int(line) for line in log.read_text().split())
    assert starts == ([0, 4, 8] if die_at < 0 else [0, 4, 4, 8])
    assert torch.equal(encoded_once(tmp_path, "x", MAKER, NAMES, never).rows("z", torch.arange(N)), fixed())
