"""Captioned pictures of your own to a model, with nothing to configure: python -m train FOLDER

Codec, start, precision and length are chosen by what your pictures and this machine show, each with its reason; options
override them. The YAML files that repeat the run are written beside the model. An interrupted run resumes.
"""

import argparse
import contextlib
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from accelerate import PartialState
from datasets import Dataset

from bridge.arguments import writable_folder
from bridge.checkpoint import CheckpointError, atomic_write
from bridge.codecs import AUTOENCODERS, CONFIG, REFINING, codec_from_diffusers, load_codec, read_config
from bridge.codecs.palette import PaletteCodec
from bridge.errors import UserError
from bridge.hub import resolve_model, shipped_models
from bridge.mappers import FAMILIES, VelocityMapper
from bridge.pairs.reading import Reading
from bridge.pairs.sources import Wanted
from bridge.pipeline import Settings, settings_of_pairs
from bridge.text import DEFAULT_ID, TextEncoder
from train.autoencoder import VAEConfig, VAETraining
from train.codec import CodecConfig, fit, psnr
from train.command import Parser, number, run_command, say
from train.config import ConfigError, load_config, named
from train.data.dataset import at_once, load_dataset, pixels_of, rows_of, to_unit
from train.mapper import MapperConfig, MapperTraining
from train.memory import MemoryConfig, build, held_out_losses
from train.prepare import FACTS, OtherSourceError, add_arguments, chosen, prepare
from train.schedule import Budget, LoopConfig
from train.starting import STOPPED
from train.timing import slowdown

BASE = "pictures"
ENOUGH_PSNR, GAIN = 23.0, 0.3  # dB of held-out pictures: a shipped codec that is good enough; what tuning must add
CODEC_SHARE, LEAST_SHARE = 0.2, 0.3  # Of the minutes: for the codec before a mapper; for that however late it is
CODEC_BATCH, CODEC_WARMUP = 16, 30  # Pictures a step; steps
FEW_CODEC_PICTURES = 64  # Fewer are not trained on
PRECISION_GAIN = 0.8  # bfloat16 is taken where a product of matrices takes less than this share of float32's time
FACTOR, SMALLEST = 8, 16  # Pixels a side of a new codec's latent position, and of the smallest picture that it takes
PALETTE = Path(__file__).parent.parent / "configs" / "palette-vae.yaml"  # The default model's codec of layers
WEIGHTS = ("mse", "perceptual", "crop", "gradient", "entropy", "kl")  # Of its losses, those for a codec tuned here
NEW, TUNED = "new", "tuned"  # Codecs that are trained here: from nothing, and from the shipped one
MAPPERS = {
    "local": "LocalFlowMapper",
    "matching": "FlowMatchingMapper",
    "transformer": "TransformerFlowMapper",
    "gaussian": "GaussianMapper",
    "mixture": "MixtureMapper",
    "flow": "NormalizingFlowMapper",
}
WINDOWS, PERPLEXITIES = ((2.0, 1.7), (3.0, 2.5)), (2.0, 4.0, 8.0)  # Candidates of local flows; others make patchworks
TRIAL_STEPS, VALIDATIONS, PATIENCE = 30, 8, 4
LARGEST_BATCH, DROPOUT = 256, 0.05
SETTINGS = Settings(num_inference_steps=12)  # Of models with a trained mapper
GUIDANCE = 2.0  # Of trained flows, chosen on 150 held-out captions of clip art
COPIES_OF, FEW = 64, 20_000  # Held-out captions that are drawn to look for copies, of no more training pictures
METHODS = {"model": "this model", "nearest1": "the nearest training picture", "real": "other real pictures"}
"""Of a report, those whose figures are shown when a run ends."""
EXAMPLES = """
    python -m train photos/
    python -m train photos/ --minutes 30 --out runs/photos
    python -m train photos/ --codec stabilityai/sd-vae-ft-mse --text openai/clip-vit-base-patch32 --size 256 \\
        --mapper transformer
"""
Run = TypeVar("Run", MapperConfig, MemoryConfig, VAEConfig)


@dataclass
class AutoRun:
    """One run: in about so many `minutes` on this machine from a source's pictures to a model in folder `out`.

    Choices are reported at once and kept with their reasons in choices.json, so that a resumed run makes the same.
    """

    source: Wanted
    reading: Reading
    out: Path
    minutes: float
    seed: int
    codec: str = ""  # NEW, TUNED, a shipped model's name, a folder or a hub id; empty chooses
    text: str = ""  # See `MapperConfig.text`; empty is MiniLM
    mapper: str = ""  # One of MAPPERS; empty is the local flow, which is not trained
    resplit: bool = False  # Leave splits of the source's own aside

    def __post_init__(self) -> None:
        if self.codec in ("", NEW):
            check_size(self.reading.size)
        else:
            given_codec(BASE if self.codec == TUNED else self.codec, self.reading.size)
        self.began, self.data = time.monotonic(), self.out / "data"
        self.untrained = self.mapper in ("", "local")
        self.codec_share = 1.0 if self.untrained else CODEC_SHARE  # Of the minutes, for a codec that is trained
        path = self.out / "choices.json"
        self.choices: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.exists() else {}

    def choose(self, name: str, make: Callable[[], tuple[Any, str]]) -> Any:
        """The value of a choice, made now where it was not made before."""
        if name not in self.choices:
            value, why = make()
            self.record(name, value, why)
            say(f"{name}: {value} – {why}")
        return self.choices[name]["value"]

    def record(self, name: str, value: Any, why: str) -> None:
        """Keep a choice, in place of one before."""
        self.choices[name] = {"value": value, "why": why}
        atomic_write(self.out / "choices.json", json.dumps(self.choices, indent=1) + "\n")

    def run(self) -> Path:
        """Prepare, choose and train; returns the model's folder. ConfigError if the data cannot be read or are few."""
        dataset = self.prepared()
        rows, held_out = (len(rows_of(dataset, split)) for split in ("train", "validation"))
        say(f"data: {rows} pictures to train on, {held_out} to choose by")
        vae = self.codec_folder(dataset)
        return self.remembered(vae) if self.untrained else self.trained(vae, rows)

    def prepared(self) -> Dataset:
        """The source as a dataset with splits. ConfigError if it, or an option, has changed since the run began."""
        options = self.options()
        if self.text:
            with named("--text"):
                TextEncoder.from_pretrained(self.text)
        say(f"data: reading {self.source.source}")
        try:
            prepare(self.source, self.data, self.reading, self.seed, resplit=self.resplit)
            fingerprint = json.loads((self.data / FACTS).read_text("utf-8"))["fingerprint"]
            if options.setdefault("data", fingerprint) != fingerprint:
                raise OtherSourceError(self.data)
        except OtherSourceError as error:
            changed = f"{self.source.source}, or how it is read, has changed since this run began"
            raise ConfigError(f"SOURCE: {changed}; name another --out") from error
        self.record("options", options, "as asked for")
        return load_dataset(self.data)

    def options(self) -> dict[str, Any]:
        """What was asked for. Other minutes forget the steps chosen; ConfigError if another option differs."""
        reading = self.reading
        background = list(reading.background or ())
        asked = {"--size": reading.size, "--fit": reading.fit, "--background": background, "--max-bad": reading.max_bad}
        asked |= {f"--{name}": getattr(self, name) for name in ("seed", "resplit", "codec", "text", "mapper")}
        before: dict[str, Any] = self.choices.get("options", {}).get("value", {})
        for name, value in asked.items():
            if before.get(name, value) != value:
                differs = f"this run was begun with {before[name] or 'no such option'}, not {value or 'without'}"
                raise ConfigError(f"{name}: {differs}; name another --out, or repeat the option")
        if before.get("--minutes", self.minutes) != self.minutes and self.choices.pop("steps", None):
            say(f"minutes: {before['--minutes']:g} before, now {self.minutes:g}: the steps are chosen anew")
        return before | asked | {"--minutes": self.minutes}

    def loop(self, steps: int, batch_size: int, warmup: int) -> LoopConfig:
        """How codecs and mappers are trained alike."""
        precision = self.choose("precision", choose_precision)["mixed_precision"]
        loop = LoopConfig(steps, batch_size, warmup=warmup, ema_decay=0.99, mixed_precision=precision)
        return replace(loop, save_minutes=1, seed=self.seed)

    # codec

    def codec_folder(self, dataset: Dataset) -> Path:
        """The codec's folder, chosen, like the precision, where it was not."""
        self.choose("precision", choose_precision)
        return Path(self.choose("codec", lambda: self.choose_codec(dataset)))

    def choose_codec(self, dataset: Dataset) -> tuple[str, str]:
        """The shipped codec, or it fine-tuned, or for pictures of another size a new one; or what was asked for."""
        shipped, count = shipped_codec(), len(rows_of(dataset, "train"))
        if self.codec in (NEW, TUNED):
            return str(self.train_codec(str(shipped) if self.codec == TUNED else "", count)), "as asked for"
        if self.codec:
            if (folder := given_codec(self.codec, self.reading.size)) is None:
                say(f"codec: measuring the latents of {self.codec}")
                batch = at_once(self.reading.size)
                folder = fit(CodecConfig(self.data, self.out, "diffusers", inner=self.codec, batch_size=batch))
            return str(folder), "as asked for"
        size = load_codec(shipped).image_size
        if self.reading.size != size:
            return str(self.train_codec("", count)), f"a new one: the shipped one is for {size} pixels"
        held_out = pixels_of(rows_of(dataset, "validation")).split(at_once(size))
        before = psnr(load_codec(shipped), held_out)
        if before >= ENOUGH_PSNR:
            return str(shipped), f"as shipped: it keeps {before:.1f} dB of held-out pictures, as of others"
        if count < FEW_CODEC_PICTURES:
            return str(shipped), f"as shipped ({before:.1f} dB held out): {count} pictures are too few to fine-tune it"
        tuned = self.train_codec(str(shipped), count)
        after = psnr(load_codec(tuned), held_out)
        why = f"held-out pictures: {after:.1f} dB fine-tuned, {before:.1f} dB as shipped"
        return str(tuned if after >= before + GAIN else shipped), why

    def train_codec(self, init: str, count: int) -> Path:
        """A codec trained for its share of the minutes, from `init` or from nothing; its folder."""
        seconds, path = 60 * self.minutes * self.codec_share, self.out / "vae.yaml"
        loop, parts = self.loop(1, min(CODEC_BATCH, count), CODEC_WARMUP), -(-CODEC_BATCH // at_once(self.reading.size))
        loop = replace(loop, learning_rate=4e-4 if init else 1e-3, accumulate=min(parts, count))
        shape = palette_of(Path(init)) if init else {}
        config = written(VAEConfig(self.data, self.out / "codec", loop, init=init, **shape), path)
        say(f"codec: {'fine-tuning the shipped one' if init else 'training a new one'} for {seconds:.0f} s")
        training = VAETraining(config, Budget(seconds, clock=time.monotonic))
        folder = training.run()
        written(replace(config, loop=replace(config.loop, steps=training.loop.step)), path)
        return folder

    # mapper

    def remembered(self, vae: Path) -> Path:
        """A local flow over the training pictures, its window and perplexity chosen on those held out."""
        settings = settings_of_pairs(load_codec(vae))
        plain = MemoryConfig(self.data, vae, self.out, text=self.text or DEFAULT_ID, settings=settings)

        def choose() -> tuple[dict[str, Any], str]:
            say("mapper: encoding pictures and captions")
            losses = held_out_losses(plain, WINDOWS, PERPLEXITIES)
            best = min(losses, key=lambda setting: losses[setting])
            why = f"the least held-out loss of {len(losses)} settings: {losses[best]:.3f}"
            return {"window": list(best[0]), "perplexity": best[1]}, f"{why} (the most is {max(losses.values()):.3f})"

        best = self.choose("local flow", choose)
        config = replace(plain, window=tuple(best["window"]), perplexity=best["perplexity"])
        config = replace(config, refine=self.choose("refine", lambda: self.refining(vae)))
        return build(written(config, self.out / "memory.yaml"))

    def refining(self, vae: Path) -> tuple[int, str]:
        """Steps by which latents are brought nearer to their pictures, as many as the time that is left allows."""
        codec, pixels = load_codec(vae), pixels_of(rows_of(load_dataset(self.data), "train"))
        few, start = to_unit(pixels[:CODEC_BATCH]), time.monotonic()
        codec.refined(few, 1)
        seconds = (time.monotonic() - start) * len(pixels) / len(few)
        left = self.left()
        steps = min(REFINING, int(left / seconds))
        return steps, f"{left:.0f} s are left, and a step takes {seconds:.0f} s"

    def left(self) -> float:
        """Seconds that are left for the mapper, a share of the minutes at least."""
        return max(60 * self.minutes - (time.monotonic() - self.began), 60 * self.minutes * LEAST_SHARE)

    def trained(self, vae: Path, rows: int) -> Path:
        """A mapper trained for what is left of the minutes."""
        trial = self.choose("trial", lambda: self.trial(vae, rows))
        config = self.mapper_config(vae, self.choose("steps", lambda: self.steps_left(trial)), rows)
        return MapperTraining(written(config, self.out / "mapper.yaml")).run()

    def trial(self, vae: Path, rows: int) -> tuple[dict[str, float], str]:
        """Held-out loss after a short training, seconds a step, and seconds of a validation."""
        config = self.mapper_config(vae, TRIAL_STEPS, rows)
        once = replace(config.loop, validate_every=TRIAL_STEPS, stop_on="validation_loss", goal="min")
        training = MapperTraining(replace(config, loop=once, out=self.out / "trial"))
        for path in (self.out / "trial").glob("*checkpoint.pt"):
            path.unlink()  # an interrupted trial begins again: what remained could not be timed
        _ = training.memory  # encoded once, so no part of what a validation takes
        loop, start = training.loop, time.monotonic()
        loop.clock = time.monotonic
        loop.run()
        figures = {"loss": round(loop.best.value, 4), "seconds": round(loop.used / TRIAL_STEPS, 3)}
        figures["validation_seconds"] = round(time.monotonic() - start - loop.used, 1)
        return figures, f"held-out loss after {TRIAL_STEPS} steps, seconds a step, and of a validation"

    def steps_left(self, trial: Mapping[str, float]) -> tuple[int, str]:
        """As many as the time that is left allows, validations included; early stopping ends some runs sooner."""
        left = self.left()
        stepping = max(left - VALIDATIONS * trial["validation_seconds"], left / 2)
        steps = max(int(stepping / max(trial["seconds"], 1e-3)), VALIDATIONS)
        rates = f"{trial['seconds']:.2f} s a step and {trial['validation_seconds']:.0f} s a validation"
        return steps, f"what {left:.0f} s allow at {rates}; fewer once training pictures are copied"

    def mapper_config(self, vae: Path, steps: int, rows: int) -> MapperConfig:
        """How a mapper is trained, with an eye on copies where pictures are few."""
        family = FAMILIES[MAPPERS[self.mapper]]
        takes = inspect.signature(family.__init__).parameters
        arguments: dict[str, Any] = {"dropout": DROPOUT} if "dropout" in takes else {}
        if "patch" in takes:
            arguments["patch"] = 2 if all(side % 2 == 0 for side in load_codec(vae).z_shape[-2:]) else 1
        few = rows <= FEW
        loop = replace(
            self.loop(steps, min(LARGEST_BATCH, rows), min(50, steps // 10)),
            validate_every=max(steps // VALIDATIONS, 1),
            stop_on="steps_without_copies" if few else "validation_loss",
            goal="max" if few else "min",
            patience=PATIENCE,
        )
        return MapperConfig(
            data=self.data,
            vae=vae,
            out=self.out,
            loop=loop,
            text=self.text or DEFAULT_ID,
            family=family.__name__,
            mapper=arguments,
            mix_share=0.33,
            copies_of=COPIES_OF if few else 0,
            settings=replace(SETTINGS, guidance_scale=GUIDANCE if issubclass(family, VelocityMapper) else 1.0),
        )


def shipped_codec() -> Path:
    """Folder of the shipped model's codec."""
    return resolve_model(BASE) / "vae"


def palette_of(folder: Path) -> dict[str, Any]:
    """What a `VAEConfig` must say to fine-tune a folder's codec, where it is one of layers."""
    config = read_config(folder)
    if config["_class_name"] != PaletteCodec.model.__name__:
        return {}
    shape = {name: config[name] for name in ("widths", "latent_channels", "layers", "blocks")}
    return {name: getattr(load_config(PALETTE, VAEConfig), name) for name in WEIGHTS} | shape


def check_size(size: int) -> None:
    """Raise ConfigError, naming the nearest that do, unless a new codec takes pictures of `size` pixels."""
    if size < SMALLEST or size % FACTOR:
        low = size // FACTOR * FACTOR
        near = f"{SMALLEST}" if size < SMALLEST else f"{low} or {low + FACTOR}"
        expected = f"expected a multiple of {FACTOR} from {SMALLEST} to 1024 pixels, got {size}; try {near}"
        raise ConfigError(f"--size: {expected}, or name a --codec for other sizes")


def given_codec(name: str, size: int) -> Path | None:
    """The folder of a codec that is used as it is; None for a published autoencoder, whose latents need measuring.

    `name` is a shipped model's, a model's folder, a codec's folder, or a hub id. ConfigError unless it takes `size`.
    """
    folder = resolve_model(name) if name in shipped_models() else Path(name).expanduser()
    folder = folder / "vae" if (folder / "vae" / CONFIG).exists() else folder
    try:
        config = read_config(folder) if (folder / CONFIG).exists() else {}
        measured = config.get("latents_mean") or config.get("_latents_mean")
        if not config or (config["_class_name"] in AUTOENCODERS and not measured):
            codec_from_diffusers(name, size)
            return None
        made_for = load_codec(folder).image_size
    except CheckpointError as error:
        raise ConfigError(f"--codec: {str(error).removeprefix('source: ')}") from error
    except UserError as error:
        raise ConfigError(f"--size: {str(error).removeprefix('image_size: ')}") from error
    if made_for != size:
        raise ConfigError(f"--codec: {name} is for pictures of {made_for} pixels, got --size {size}; change either")
    return folder


def choose_precision() -> tuple[dict[str, str], str]:
    """The faster precision here, as `LoopConfig` names it, and why."""
    device = PartialState().device
    if device.type == "cpu":
        faster = slowdown() < PRECISION_GAIN
        why = f"a product of matrices takes {slowdown():.2g} times as long in bfloat16 as in float32 on this processor"
    else:
        faster = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        why = f"this accelerator {'computes' if faster else 'does not compute'} in bfloat16"
    return {"mixed_precision": "bf16" if faster else "no"}, why


def written(config: Run, path: Path) -> Run:
    """The config, written as the YAML that `train.config.load_config` reads; what has its default is left out.

    It keeps the warm-up of the run that wrote `path` before, if one did: other minutes change the steps alone.
    """

    def given(value: Any) -> Any:
        if not is_dataclass(value):
            return value
        return {f.name: given(v) for f in fields(value) if (v := getattr(value, f.name)) != f.default}

    if not isinstance(config, MemoryConfig):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
            warmup = int(yaml.safe_load(path.read_text("utf-8"))["loop"]["warmup"])
            config = replace(config, loop=replace(config.loop, warmup=warmup))
    plain = json.loads(json.dumps(given(config), default=str))  # no tuples and paths
    atomic_write(path, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
    return config


def quietly(module: str, words: Sequence[object]) -> int:
    """Exit code of `python -m MODULE WORDS` without its standard output: `eval` imports `train`, not the other way."""
    command = [sys.executable, "-m", module, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    code = subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=False).returncode
    if code == STOPPED:
        raise KeyboardInterrupt
    return code


def figure_lines(report: Path) -> list[str]:
    """Fit and copies on held-out captions, of the model and of what it is compared with, from a report's folder."""

    def shown(figure: dict[str, float] | None) -> str:
        return "–" if figure is None else "{value:.2f} [{low:.2f}, {high:.2f}]".format(**figure)

    rows = json.loads((report / "report.json").read_text("utf-8"))["rows"]
    methods = rows["held-out"]["methods"] if "held-out" in rows else {}
    known = {what: methods[name] for name, what in METHODS.items() if name in methods}
    return [f"held out, {what:34} fit {shown(f['fit'])}  copies {shown(f['copied'])}" for what, f in known.items()]


def use_device(name: str) -> None:
    """Train and encode on a device; must come before torch uses any. UserError if this machine has none such."""
    if name and not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"--device: expected cpu, cuda or cuda:N, got {name!r}")
    if name == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    elif name:
        index = int(name.removeprefix("cuda").removeprefix(":") or 0)
        if index >= torch.cuda.device_count():
            remedy = "leave the option out, or give cpu"
            raise UserError(f"--device: this machine has no {name} that torch can use; {remedy}")
        torch.cuda.set_device(index)
        os.environ["ACCELERATE_TORCH_DEVICE"] = name


def out_of(source: str) -> Path:
    """The run folder of a source, where none is given.

    >>> out_of("my photos/"), out_of("data/pairs.csv"), out_of("owner/name")
    (PosixPath('runs/my-photos'), PosixPath('runs/pairs'), PosixPath('runs/name'))
    """
    return Path("runs") / (re.sub(r"[^\w-]+", "-", Path(source).resolve().stem).strip("-") or "mine")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = Parser("python -m train", __doc__, EXAMPLES)
    add_arguments(parser)
    parser.set_defaults(size=read_config(shipped_codec())["sample_size"])
    add = parser.add_argument
    add("--out", type=Path, help="run folder, where an interrupted run resumes (default: runs/ and the source's name)")
    add("--minutes", type=number(above=0), default=4.0, help="about how long, from pictures to model")
    add("--codec", default="", help="new, tuned (the shipped one), a shipped model, a folder or a hub id; else chosen")
    add("--codec-alone", action="store_true", help="end with the codec; all of the minutes are for it")
    add("--text", default="", help="text encoder: a hub id, a folder or a file of word vectors (default: MiniLM)")
    families = f"{', '.join(MAPPERS)} (default: local, which is not trained)"
    add("--mapper", default="", choices=list(MAPPERS), metavar="FAMILY", help=families)
    add("--device", default="", help="cpu, cuda or cuda:N (default: the accelerator, where there is one)")
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> None:
    use_device(args.device)
    out = args.out or out_of(args.source)
    new = not out.exists()
    try:
        _train(args, out)
    finally:
        with contextlib.suppress(OSError):  # it holds something
            if new:
                out.rmdir()


def _train(args: argparse.Namespace, out: Path) -> None:
    run = AutoRun(*chosen(args), out, args.minutes, args.seed, args.codec, args.text, args.mapper, args.resplit)
    writable_folder(out)
    if args.codec_alone:
        run.codec_share = 1.0
        print(run.codec_folder(run.prepared()))
        return
    model, images, report = run.run(), out / "sheet.png", out / "report"
    if quietly("eval", [model, "--data", run.data, "--split", "validation", "-n", 8, "--sheet", images]):
        raise ConfigError(f"out: no sheet could be drawn from {model}; see the line above")
    say(f"sheet: {images}")
    say("report: judging held-out captions (a minute or two; the model is already there)")
    if quietly("eval", [model, "--data", run.data, "--quick", "--out", report]):
        say("report: left out, see the line above")
    else:
        say("\n".join([*figure_lines(report), f"report: {report / 'report.html'}"]))
    captions = rows_of(load_dataset(run.data), "validation")["label"]
    say(f"try: bridge generate {shlex.quote(str(captions[0]))} --model {shlex.quote(str(model))}")
    print(model)
