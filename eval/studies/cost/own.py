"""For `eval.studies.cost own`: minutes, fit and copies of `python -m train` on a few hundred pairs."""

import csv
import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from bridge.checkpoint import atomic_folder, atomic_write
from bridge.mappers import VelocityMapper
from bridge.noise import generator_for
from bridge.pairs.reading import Reading
from bridge.pairs.sources import Wanted
from bridge.pipeline import BridgePipeline
from eval.data import Pictures
from eval.metrics.bootstrap import paired_bootstrap
from train.auto import Own, figure_lines, quietly
from train.config import ConfigError, load_config
from train.data.dataset import load_dataset, pixels_of, rows_of, to_unit
from train.mapper import MapperConfig, MapperTraining

BEGUN = "begun.json"
HELD_OUT = ("validation", "test")
FROM_SCRATCH_RATE = 1e-3
STEPS, PROBES, DENSITY_PICTURES = 16, 4, 128
"""Solver steps and random signs of a log-likelihood; held-out pictures that have one."""


def write_source(dataset: Dataset, pairs: int, folder: Path, seed: int = 0) -> None:
    """A folder as anybody has it, pictures and `metadata.csv`: `pairs` training rows, and all that are held out."""
    train = [i for i, split in enumerate(dataset["split"]) if split == "train"]
    if len(train) < pairs:
        raise ConfigError(f"pairs: expected at most {len(train)}, the training rows there are, got {pairs}")
    kept = [train[i] for i in torch.randperm(len(train), generator=generator_for(seed))[:pairs].tolist()]
    kept += [i for i, split in enumerate(dataset["split"]) if split in HELD_OUT]
    with atomic_folder(folder) as scratch:
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(["file_name", "caption", "split"])
        for number, row in enumerate(dataset.select(kept)):
            name = f"{number:05d}.png"
            row["image"].save(scratch / name)
            table.writerow([name, row["label"], row["split"]])
        (scratch / "metadata.csv").write_text(text.getvalue(), "utf-8")


def begin(out: Path, facts: dict[str, Any]) -> None:
    """Note what a benchmark is of, or see that it is still of the same.

    Raises:
        ConfigError: `out` is of other pictures, or of another number of them.
    """
    path = out / BEGUN
    if (out / "source").exists():
        before = json.loads(path.read_text("utf-8")) if path.exists() else {}
        if differs := [name for name, value in facts.items() if before.get(name) != value]:
            raise ConfigError(f"--out: {out} was begun with other {' and '.join(differs)}; name another folder")
        return
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(facts) + "\n")


def log_likelihoods(model: Path, rows: Dataset) -> np.ndarray:
    """Log-likelihood of held-out latents under their captions, in bits a dimension, (B,); the larger the better."""
    pipe = BridgePipeline.from_pretrained(str(model))
    if not isinstance(pipe.mapper, VelocityMapper):
        raise ConfigError(f"model: {type(pipe.mapper).__name__} is not compared by this command")
    z = pipe.codec.encode(to_unit(pixels_of(rows))).mean
    c = pipe.text_encoder.encode(rows["label"], 64, with_tokens=pipe.mapper.reads_tokens)
    value, _ = pipe.mapper.log_prob_with_error(
        z, c, num_inference_steps=STEPS, trace="hutchinson", probes=PROBES, generator=generator_for(0)
    )
    return value.numpy() / (math.log(2) * z[0].numel())


def own_lines(data: Path, pairs: int, out: Path, minutes: float, say: Callable[[str], None]) -> list[str]:
    """Lines of the table of `own`. The same mapper from scratch has the same codec, and at most as many steps.

    Args:
        data: A prepared dataset with training, validation and test rows.
        pairs: Training rows of it that are used.
        out: Folder of all that is made; what is there is not made again.
        minutes: See `train.auto`.
        say: Told what is done.

    Raises:
        ConfigError: The dataset is too small, or another than the run began with, or the shipped mapper was not what
            it began with.
    """
    source = out / "source"
    begin(out, {"data": Pictures.load(data).fingerprint, "pairs": pairs})
    if not source.exists():
        write_source(load_dataset(data), pairs, source)
    fresh, start = not (out / "run").exists(), time.monotonic()
    own = Own(Wanted(str(source)), Reading(), out / "run", minutes, 0, say)
    model, sheet = own.run(), out / "sheet.png"
    quietly("eval", [model, "--data", own.data, "--split", "validation", "-n", 8, "--sheet", sheet])
    taken = f"{time.monotonic() - start:.0f} s" if fresh else "went on with a stopped run, so not timed:"
    config = load_config(own.out / "mapper.yaml", MapperConfig)
    if not config.init:
        raise ConfigError(f"start: validation chose a mapper from scratch; see {own.out / 'choices.json'}")
    scratch = replace(
        config, init="", replay=0, out=out / "scratch", loop=replace(config.loop, learning_rate=FROM_SCRATCH_RATE)
    )
    say("from scratch: the same mapper, at most as many steps")
    plain = MapperTraining(scratch).run()
    held_out = rows_of(load_dataset(own.data), "test")
    held_out = held_out.select(range(min(DENSITY_PICTURES, len(held_out))))
    both = np.stack([log_likelihoods(folder, held_out) for folder in (model, plain)], axis=1)
    families = np.array(held_out["family"])
    better = paired_bootstrap(both, families, lambda m: m[..., 0] - m[..., 1])
    report = out / "report"
    if quietly("eval", [model, "--data", own.data, "--split", "test", "--captions", 200, "--out", report]):
        raise ConfigError(f"{report}: no report; see the line above")
    return [
        f"{taken} from {pairs} pairs in a folder to a model and its sheet {sheet}",
        *figure_lines(report),
        f"log-likelihood of held-out pictures, less that from scratch: {better} bits a dimension",
    ]
