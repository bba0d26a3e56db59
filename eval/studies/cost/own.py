"""What `python -m train` makes of a few pairs of a prepared dataset: seconds, fit and copies.

Beside retrieval's and real pictures'.
"""

import argparse
import csv
import json
import time
from pathlib import Path

import torch
from datasets import Dataset

from bridge.checkpoint import atomic_folder, atomic_write
from bridge.codecs import load_codec
from bridge.noise import generator_for
from bridge.pairs.reading import Reading
from bridge.pairs.sources import Wanted
from eval.data import Pictures
from eval.studies import Study
from train.auto import AutoRun, figure_lines, quietly, shipped_codec
from train.command import Parser, number, whole
from train.config import ConfigError
from train.data.dataset import load_dataset


def write_source(dataset: Dataset, pairs: int, folder: Path) -> None:
    """A folder as anybody has it, pictures and `metadata.csv`: `pairs` training rows, and all that are held out."""
    train = [i for i, split in enumerate(dataset["split"]) if split == "train"]
    if len(train) < pairs:
        raise ConfigError(f"pairs: expected at most {len(train)}, the training rows there are, got {pairs}")
    kept = [train[i] for i in torch.randperm(len(train), generator=generator_for(0))[:pairs].tolist()]
    kept += [i for i, split in enumerate(dataset["split"]) if split in ("validation", "test")]
    with atomic_folder(folder) as scratch, (scratch / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "caption", "split"])
        for number, row in enumerate(dataset.select(kept)):
            name = f"{number:05d}.png"
            row["image"].save(scratch / name)
            table.writerow([name, row["label"], row["split"]])


def own_lines(data: Path, pairs: int, out: Path, minutes: float) -> list[str]:
    """Lines of the table for so many training rows; made in `out`, once. ConfigError if that was begun with others."""
    source, begun, facts = out / "source", out / "begun.json", {"data": Pictures.load(data).fingerprint, "pairs": pairs}
    if source.exists():
        before = json.loads(begun.read_text("utf-8")) if begun.exists() else {}
        if differs := [name for name, value in facts.items() if before.get(name) != value]:
            raise ConfigError(f"--out: {out} was begun with other {' and '.join(differs)}; name another folder")
    else:
        out.mkdir(parents=True, exist_ok=True)
        atomic_write(begun, json.dumps(facts) + "\n")
        write_source(load_dataset(data), pairs, source)
    fresh, start = not (out / "run").exists(), time.monotonic()
    run = AutoRun(Wanted(str(source)), Reading(load_codec(shipped_codec()).image_size), out / "run", minutes, 0)
    model, sheet = run.run(), out / "sheet.png"
    quietly("eval", [model, "--data", run.data, "--split", "validation", "-n", 8, "--sheet", sheet])
    taken = f"{time.monotonic() - start:.0f} s" if fresh else "resumed an interrupted run, so not timed:"
    report = out / "report"
    if quietly("eval", [model, "--data", run.data, "--split", "test", "--captions", 200, "--out", report]):
        raise ConfigError(f"{report}: no report; see the line above")
    return [f"{taken} from {pairs} pairs in a folder to a model and its sheet {sheet}", *figure_lines(report)]


def _arguments(parser: Parser) -> None:
    parser.add_argument("data", type=Path, help="a dataset")
    parser.add_argument("--few", type=whole(2), default=500, help="pairs that are trained on")
    parser.add_argument("--minutes", type=number(above=0), default=4.0, help="see python -m train")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-own"), help="folder; it resumes there")


def _run(args: argparse.Namespace, _: str) -> None:
    print("\n".join(own_lines(args.data, args.few, args.out, args.minutes)))


STUDY = Study(__doc__, "data/pictures --few 500", _arguments, _run)
