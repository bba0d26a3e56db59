"""A processor without bfloat16 is told of before hours are lost on it."""

import pytest
import torch

from train import timing as precision

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without bfloat16, and no accelerator."""
    monkeypatch.setattr(precision, "slowdown", lambda: 15.2)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)


def test_slow_bfloat16_is_told(processor: None, capsys: Capture) -> None:
    precision.note_precision("bf16", "--precision")
    assert capsys.readouterr().err == (
        '--precision: on this processor bfloat16 takes 15 times as long as float32; "no" trains in float32\n'
    )


def test_float32_is_not(processor: None, capsys: Capture) -> None:
    precision.note_precision("no", "--precision")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("accelerator", "times"), [(False, 0.6), (True, 15.2)])
def test_nor_is_bfloat16_where_it_is_fast(
    processor: None, monkeypatch: pytest.MonkeyPatch, capsys: Capture, accelerator: bool, times: float
) -> None:
    monkeypatch.setattr(precision, "slowdown", lambda: times)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
    precision.note_precision("bf16", "--precision")
    assert capsys.readouterr().err == ""


def test_it_is_measured() -> None:
    assert 0.01 < precision.slowdown() < 1000
