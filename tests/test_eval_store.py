"""Tensors kept on disk: computed once, and only for what they were computed from."""

import pytest
import torch
from torch import Tensor

from eval.store import cached


class Counter:
    """Computes one tensor and counts how often."""

    def __init__(self, value: float = 1.0) -> None:
        self.calls, self.value = 0, value

    def __call__(self) -> dict[str, Tensor]:
        self.calls += 1
        return {"a": torch.full((2, 3), self.value), "b": torch.arange(4)}


def test_the_second_time_nothing_is_computed(tmp_path):
    compute = Counter()
    for _ in range(2):
        cached(tmp_path, "x", [b"1"], compute)
    assert compute.calls == 1


def test_what_is_kept_is_what_was_computed(tmp_path):
    compute = Counter(0.1)
    first, second = (cached(tmp_path, "x", [b"1"], compute) for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("identity", [[b"2"], [b"1", b""], [b"1", b"1"], []])
def test_another_identity_is_computed_anew(tmp_path, identity):
    cached(tmp_path, "x", [b"1"], Counter(1.0))
    assert cached(tmp_path, "x", identity, Counter(2.0))["a"][0, 0] == 2


def test_where_one_part_ends_matters(tmp_path):
    """["ab", "c"] and ["a", "bc"] are other captions."""
    cached(tmp_path, "x", [b"ab", b"c"], Counter(1.0))
    assert cached(tmp_path, "x", [b"a", b"bc"], Counter(2.0))["a"][0, 0] == 2


def test_two_kinds_do_not_share_a_file(tmp_path):
    cached(tmp_path, "x", [b"1"], Counter(1.0))
    assert cached(tmp_path, "y", [b"1"], Counter(2.0))["a"][0, 0] == 2


def test_a_computation_that_fails_leaves_no_file(tmp_path):
    def fail() -> dict[str, Tensor]:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        cached(tmp_path, "x", [b"1"], fail)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_no_half_file(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        cached(tmp_path, "x", [b"1"], Counter())
    monkeypatch.undo()
    assert cached(tmp_path, "x", [b"1"], Counter(3.0))["a"][0, 0] == 3
