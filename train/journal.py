"""What a run writes down as it goes: log.jsonl, and TensorBoard's files where asked."""

import json
from pathlib import Path
from typing import Any

from bridge.checkpoint import atomic_write
from train.config import ConfigError

NAME = "log.jsonl"


def rewind(out: Path, step: int) -> None:
    """Take out the lines of log.jsonl that lie after `step`, or were cut short by a kill."""
    path = out / NAME
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    kept = "".join(line + "\n" for line in text.splitlines() if 0 <= _step_of(line) <= step)
    if kept != text:
        atomic_write(path, kept)


def append(out: Path, step: int, figures: dict[str, float]) -> None:
    """Append one line to log.jsonl, figures rounded to six decimals."""
    with (out / NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step} | {k: round(v, 6) for k, v in figures.items()}) + "\n")


def tensorboard(out: Path, step: int) -> Any:
    """A SummaryWriter in `out/tensorboard`, which hides what an interrupted run logged after `step`.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            "tensorboard: not installed; `pip install tensorboard`, or set `tensorboard: false`"
        ) from error
    return SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return -1
