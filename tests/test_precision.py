"""A processor without bfloat16 is told of before hours are lost on it."""

import pytest
import torch

from eval import precision

Capture = pytest.CaptureFixture[str]


def test_slow_bfloat16_is_told(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(precision, "slowdown", lambda: 15.2)
    precision.note_precision("bf16", torch.device("cpu"), "--precision")
    assert capsys.readouterr().err == (
        '--precision: on this processor bfloat16 takes 15 times as long as float32; "no" trains in float32\n'
    )


@pytest.mark.parametrize(("asked", "device", "times"), [("bf16", "cpu", 0.6), ("no", "cpu", 15), ("bf16", "cuda", 15)])
def test_nothing_else_is(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, asked: str, device: str, times: float
) -> None:
    monkeypatch.setattr(precision, "slowdown", lambda: times)
    precision.note_precision(asked, torch.device(device), "mixed_precision")
    assert capsys.readouterr().err == ""


def test_it_is_measured() -> None:
    assert 0.01 < precision.slowdown() < 1000
