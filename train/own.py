"""Your own pairs to a model, with nothing to configure: python -m train.mapper --data SOURCE --out runs/mine

Precision, codec, start and length are chosen by size, machine and what validation says, each with its reason; the YAML
files that reproduce the run are written beside it. A stopped run goes on where it was.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset

from bridge.checkpoint import INDEX, atomic_write, resolve_model
from bridge.codec import load_codec
from bridge.pairs.reading import Reading
from bridge.pairs.sources import Wanted
from bridge.pipeline import Settings
from train.codec import psnr
from train.command import Parser, number, run_command, say, writable_folder
from train.config import ConfigError
from train.data.dataset import load_dataset, pixels_of, rows_of
from train.interrupt import STOPPED
from train.loop import LoopConfig
from train.mapper import MapperConfig, MapperTraining
from train.precision import slow_bfloat16, slowdown
from train.prepare import add_arguments, chosen, prepare
from train.timing import interleaved
from train.vae import VAEConfig, VAEObjective, VAETraining, build_vae

BASE = "emoji"
CHOICES = "choices.json"
ENOUGH_PSNR = 23.0
"""Of the shipped codec on emoji it never saw, in dB: where yours are kept as well, little is gained by training it."""
GAIN = 0.3
"""A fine-tuned codec must keep so many dB more of held-out pictures to be taken."""
CODEC_SHARE, LEAST_SHARE = 0.2, 0.3
"""Of the minutes: for a codec where one is trained, and for the mapper however late it is."""
CODEC_BATCH, TIMED, SLOW = 16, 3, 5.0
PRECISION_GAIN = 0.8
"""bfloat16 is taken where a step takes less than this share of float32's time."""
FEW_CODEC_PICTURES, PICTURES = 64, 64
"""Fewer are not trained on; so many are encoded at a time."""
TRIAL_STEPS, VALIDATIONS, PATIENCE = 30, 8, 4
LARGEST_BATCH, DROPOUT, GUIDANCE = 256, 0.05, 2.0
ADAPTED_RATE, CODEC_RATE = 6e-4, 4e-4
COPIES_OF, FEW = 64, 20_000
"""Held-out captions of which copies are looked for, where no more pictures than these are trained on."""
REPLAY, REPLAY_SHARE = 2000, 0.67
"""Pictures of the shipped mapper's own that an adapted one is trained on beside yours, and their share."""
METHODS = {"model": "this model", "nearest1": "the nearest training picture", "real": "other real pictures"}
"""Of a report, those that are told when a run ends."""
Say = Callable[[str], None]


@dataclass
class Choices:
    """What was chosen and why, kept on disk so that a stopped run does not choose again.

    Args:
        path: JSON file.
        made: Name -> value and reason.
        say: Told of each choice when it is made.
    """

    path: Path
    say: Say
    made: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists():
            self.made = json.loads(self.path.read_text("utf-8"))

    def get(self, name: str, choose: Callable[[], tuple[Any, str]]) -> Any:
        """The value of a choice, made now where it was not made before."""
        if name not in self.made:
            value, why = choose()
            self.made[name] = {"value": value, "why": why}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self.path, json.dumps(self.made, indent=1, ensure_ascii=False) + "\n")
            self.say(f"{name}: {value} – {why}")
        return self.made[name]["value"]


@dataclass(frozen=True)
class Pace:
    """How fast this machine trains.

    Args:
        mixed_precision: The faster one, as `LoopConfig` names it.
        codec_seconds: Of one training step of a codec of the shipped one's shape, on 16 pictures.
    """

    mixed_precision: str
    codec_seconds: float


def codec_step_seconds(size: int) -> dict[str, float]:
    """Seconds of one training step of a new codec on 16 pictures of `size` pixels, by precision, in turns.

    In float32 alone on a processor without bfloat16, or where a single step takes SLOW seconds.
    """
    config = VAEConfig(Path(), Path(), LoopConfig(steps=1, batch_size=CODEC_BATCH))
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    vae = build_vae(config, size).to(device)
    objective = VAEObjective(vae, config).to(device)
    x = torch.full((CODEC_BATCH, 3, size, size), 0.5, device=device)
    eps = torch.zeros_like(vae.encode(x).latent_dist.mean)

    def step(precision: str) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = objective(x, eps)["loss"].mean()
        loss.backward()

    start = time.monotonic()
    step("no")
    first = time.monotonic() - start
    if first > SLOW:
        return {"no": first}
    names = ("no",) if slow_bfloat16() else ("no", "bf16")
    return interleaved({name: partial(step, name) for name in names}, TIMED, time.monotonic)


@dataclass(frozen=True)
class Own:
    """One such run.

    Args:
        source: What to train on; see docs/data.md.
        reading: How its pictures are read.
        out: Run folder.
        minutes: About how long on this machine, from pictures to model.
        seed: Key of all randomness.
        say: Told what is done.
    """

    source: Wanted
    reading: Reading
    out: Path
    minutes: float
    seed: int
    say: Say
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise ConfigError(f"minutes: expected a time above 0, got {self.minutes:g}")

    @property
    def data(self) -> Path:
        """The prepared dataset."""
        return self.out / "data"

    def run(self) -> Path:
        """Prepare, choose and train; returns the model's folder.

        Raises:
            ConfigError: The data cannot be read, or are too few.
        """
        dataset = self.prepared()
        rows, held_out = (len(rows_of(dataset, split)) for split in ("train", "validation"))
        self.say(f"data: {rows} pictures to train on, {held_out} to choose by")
        choices = Choices(self.out / CHOICES, self.say)
        pace = self.pace(choices)
        vae = Path(choices.get("codec", lambda: self.choose_codec(dataset, pace)))
        trials = {init: self.trial(choices, vae, init, rows, pace) for init in self.starts(vae)}
        init = choices.get("start", lambda: choose_start(trials))
        steps = choices.get("steps", lambda: self.choose_steps(trials[init]))
        config = self.mapper_config(vae, init, steps, rows, self.out, pace)
        save_config(config, self.out / "mapper.yaml")
        return MapperTraining(config).run()

    def prepared(self) -> Dataset:
        """The source as a dataset with splits, made where it is not there yet."""
        self.say(f"data: reading {self.source.source}")
        prepare(self.source, self.data, self.reading, self.seed)
        return load_dataset(self.data)

    def pace(self, choices: Choices) -> Pace:
        """The precision to train in on this machine, and how long a codec's step takes in it."""

        def choose() -> tuple[dict[str, Any], str]:
            taken = codec_step_seconds(self.reading.size)
            chosen, why = choose_precision(taken)
            return {"mixed_precision": chosen, "codec_seconds": round(taken[chosen], 4)}, why

        return Pace(**choices.get("precision", choose))

    # codec

    def choose_codec(self, dataset: Dataset, pace: Pace) -> tuple[str, str]:
        """The shipped codec, or it fine-tuned, or for pictures of another size a new one."""
        shipped = resolve_model(BASE) / "vae"
        size = load_codec(shipped).image_size
        count = len(rows_of(dataset, "train"))
        if self.reading.size != size:
            return str(self.train_codec("", count, pace)), f"a new one: the shipped one is for {size} pixels"
        held_out = pixels_of(rows_of(dataset, "validation")).split(PICTURES)
        before = psnr(load_codec(shipped), held_out)
        if before >= ENOUGH_PSNR:
            return str(shipped), f"as shipped: it keeps {before:.1f} dB of held-out pictures, as of unseen emoji"
        if count < FEW_CODEC_PICTURES:
            return str(shipped), f"as shipped ({before:.1f} dB held out): {count} pictures are too few to fine-tune it"
        tuned = self.train_codec(str(shipped), count, pace)
        after = psnr(load_codec(tuned), held_out)
        why = f"held-out pictures: {after:.1f} dB fine-tuned, {before:.1f} dB as shipped"
        return str(tuned if after >= before + GAIN else shipped), why

    def train_codec(self, init: str, count: int, pace: Pace) -> Path:
        """A codec trained for its share of the minutes, from `init` or from nothing; its folder."""
        seconds = 60 * self.minutes * CODEC_SHARE
        steps = max(int(seconds / pace.codec_seconds), 2 * VALIDATIONS)
        loop = LoopConfig(
            steps=steps,
            batch_size=min(CODEC_BATCH, count),
            mixed_precision=pace.mixed_precision,
            learning_rate=CODEC_RATE if init else 1e-3,
            warmup=min(100, steps // 10),
            ema_decay=0.99,
            validate_every=max(2 * steps // VALIDATIONS, 1),
            save_minutes=1,
            seed=self.seed,
            stop_on="validation_psnr",
            goal="max",
        )
        config = VAEConfig(self.data, self.out / "codec", loop, init=init)
        save_config(config, self.out / "vae.yaml")
        self.say(f"codec: {'fine-tuning the shipped one' if init else 'training a new one'}, {steps} steps")
        return VAETraining(config).run()

    # mapper

    def starts(self, vae: Path) -> list[str]:
        """What a mapper may start from: the shipped model, where the latents have its shape, and nothing."""
        same = load_codec(vae).z_shape == load_codec(resolve_model(BASE) / "vae").z_shape
        return [str(resolve_model(BASE)), ""] if same else [""]

    def trial(self, choices: Choices, vae: Path, init: str, rows: int, pace: Pace) -> dict[str, float]:
        """Held-out loss after a short training from `init`, seconds a step, and seconds of a validation."""
        name = "adapted" if init else "new"

        def run() -> tuple[dict[str, float], str]:
            out = self.out / "trials" / name
            config = self.mapper_config(vae, init, TRIAL_STEPS, rows, out, pace)
            once = replace(config.loop, validate_every=TRIAL_STEPS, stop_on="validation_loss", goal="min")
            training = MapperTraining(replace(config, loop=once))
            _ = training.memory  # encoded once, so no part of what a validation takes
            validating = 0.0

            def validate(step: int) -> dict[str, float]:
                nonlocal validating
                began = time.monotonic()
                figures = training.validate(step)
                validating = time.monotonic() - began
                return figures

            training.loop.validate = validate
            start = time.monotonic()
            training.loop.run()
            stepping = (time.monotonic() - start - validating) / TRIAL_STEPS
            loss = round(training.loop.best.value, 4)
            found = {"loss": loss, "seconds": round(stepping, 3), "validation_seconds": round(validating, 1)}
            return found, f"held-out loss after {TRIAL_STEPS} steps, seconds a step, and of a validation"

        found: dict[str, float] = choices.get(f"trial, {name} mapper", run)
        return found

    def choose_steps(self, trial: Mapping[str, float]) -> tuple[int, str]:
        """As many as the time that is left allows, validations included; early stopping ends some runs sooner."""
        left = max(60 * self.minutes - (time.monotonic() - self.began), 60 * self.minutes * LEAST_SHARE)
        stepping = max(left - VALIDATIONS * trial["validation_seconds"], left / 2)
        steps = max(int(stepping / trial["seconds"]), VALIDATIONS)
        told = f"{trial['seconds']:.2f} s a step and {trial['validation_seconds']:.0f} s a validation"
        return steps, f"what {left:.0f} s allow at {told}; fewer once training pictures are copied"

    def mapper_config(self, vae: Path, init: str, steps: int, rows: int, out: Path, pace: Pace) -> MapperConfig:
        """The shipped mapper's architecture, a step smaller than the data where they are few."""
        base = resolve_model(BASE)
        found = json.loads((base / "mapper" / "config.json").read_text("utf-8"))
        family = found.pop("_class_name")
        arguments = {k: v for k, v in found.items() if not k.startswith("_") and k not in ("z_shape", "text_dim")}
        # What the shipped model does not know was measured on emoji; guidance on 150 held-out captions of clip art.
        changed = {"trusted": 0.0, "guidance_scale": GUIDANCE}
        settings = Settings(**json.loads((base / INDEX).read_text("utf-8"))["settings"] | changed)
        few = rows <= FEW
        loop = LoopConfig(
            steps=steps,
            batch_size=min(LARGEST_BATCH, rows),
            mixed_precision=pace.mixed_precision,
            learning_rate=ADAPTED_RATE if init else 1e-3,
            warmup=min(50, steps // 10),
            ema_decay=0.99,
            validate_every=max(steps // VALIDATIONS, 1),
            save_minutes=1,
            seed=self.seed,
            stop_on="steps_without_copies" if few else "validation_loss",
            goal="max" if few else "min",
            patience=PATIENCE,
        )
        return MapperConfig(
            self.data,
            vae,
            out,
            loop,
            family=family,
            mapper=arguments | {"dropout": DROPOUT},
            mix_share=0.33,
            init=init,
            replay=REPLAY if init else 0,
            replay_share=REPLAY_SHARE,
            copies_of=COPIES_OF if few else 0,
            settings=settings,
        )


def choose_precision(seconds: Mapping[str, float]) -> tuple[str, str]:
    """The precision whose step is clearly the shorter one; float32 where the other was not worth timing."""
    if "bf16" in seconds:
        share = seconds["bf16"] / seconds["no"]
        told = f"a step of the codec takes {share:.2f} of float32's time in bfloat16"
        return ("bf16" if share < PRECISION_GAIN else "no"), told
    if seconds["no"] > SLOW:
        return "no", f"a step of the codec takes {seconds['no']:.0f} s, too long to try another precision"
    return "no", f"a product of matrices takes {slowdown():.0f} times as long in bfloat16 on this processor"


def choose_start(trials: Mapping[str, Mapping[str, float]]) -> tuple[str, str]:
    """The start whose trial ended with the smallest held-out loss."""
    best = min(trials, key=lambda init: trials[init]["loss"])
    told = ", ".join(f"{found['loss']:.3f} {'adapted' if init else 'new'}" for init, found in trials.items())
    return best, ("the shipped mapper adapted" if best else "a new mapper") + f"; held-out loss {told}"


def save_config(config: MapperConfig | VAEConfig, path: Path) -> None:
    """Write a config as the YAML that `train.config.load_config` reads; what has its default is left out."""

    def plain(value: Any) -> Any:
        if is_dataclass(value):
            given = {f.name: f.default if f.default is not MISSING else MISSING for f in fields(value)}
            return {name: plain(v) for name, v in vars(value).items() if v != given.get(name, MISSING)}
        return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value

    text = yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, text)


def show(model: Path, data: Path, out: Path, say: Say) -> None:
    """A sheet of held-out captions, a quick report with its first figures, and the line to try."""
    images, report = out / "sheet.png", out / "report"
    if quietly("eval", [model, "--data", data, "--split", "validation", "-n", 8, "--sheet", images]):
        raise ConfigError(f"out: no sheet could be drawn from {model}; see the line above")
    say(f"sheet: {images}")
    say("report: judging held-out captions (a minute or two; the model is already there)")
    if quietly("eval", [model, "--data", data, "--quick", "--out", report]):
        say("report: left out, see the line above")
    else:
        say("\n".join([*figure_lines(report), f"report: {report / 'report.html'}"]))
    captions = rows_of(load_dataset(data), "validation")["label"]
    say(f"try: bridge generate {shlex.quote(str(captions[0]))} --model {shlex.quote(str(model))}")


def quietly(module: str, words: Sequence[object]) -> int:
    """Exit code of `python -m MODULE WORDS` without its standard output.

    A process of its own, because `eval` imports `train` and not the other way round.
    """
    path = [str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", module, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    code = subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=False).returncode
    if code == STOPPED:
        raise KeyboardInterrupt
    return code


def figure_lines(report: Path) -> list[str]:
    """Fit and copies on held-out captions, of the model and of what it is held against, from a report's folder."""
    rows = json.loads((report / "report.json").read_text("utf-8"))["rows"]
    methods = rows["held-out"]["methods"] if "held-out" in rows else {}
    return [
        f"held out, {told:34} fit {_told(methods[name]['fit'])}  copies {_told(methods[name]['copied'])}"
        for name, told in METHODS.items()
        if name in methods
    ]


def _told(figure: dict[str, float] | None) -> str:
    return "–" if figure is None else "{value:.2f} [{low:.2f}, {high:.2f}]".format(**figure)


def parser_of(prog: str, example: str) -> Parser:
    """Arguments of the commands that choose for themselves."""
    parser = Parser(prog, __doc__, example)
    add_arguments(parser, "--data")
    parser.add_argument("--out", type=Path, required=True, help="run folder; a stopped run goes on there")
    parser.add_argument("--minutes", type=number(above=0), default=4.0, help="about how long, from pictures to model")
    return parser


def mapper_main(argv: Sequence[str]) -> int:
    """`python -m train.mapper --data …`; returns the exit code."""
    parser = parser_of("python -m train.mapper", "python -m train.mapper --data photos/ --out runs/photos")

    def run(args: argparse.Namespace) -> None:
        own = Own(*chosen(args), writable_folder(args.out), args.minutes, args.seed, say)
        model = own.run()
        show(model, own.data, args.out, say)
        print(model)

    return run_command(parser, argv, run)


def vae_main(argv: Sequence[str]) -> int:
    """`python -m train.vae --data … [--init emoji]`; returns the exit code."""
    parser = parser_of("python -m train.vae", "python -m train.vae --data photos/ --out runs/codec --init emoji")
    parser.add_argument("--init", default="", metavar="MODEL", help="fine-tune this model's codec; else a new one")

    def run(args: argparse.Namespace) -> None:
        own = Own(*chosen(args), writable_folder(args.out), args.minutes / CODEC_SHARE, args.seed, say)
        init = str(resolve_model(args.init) / "vae") if args.init else ""
        count = len(rows_of(own.prepared(), "train"))
        print(own.train_codec(init, count, own.pace(Choices(args.out / CHOICES, say))))

    return run_command(parser, argv, run)
