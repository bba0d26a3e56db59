"""Trials chosen on validation, then several seeds of the chosen one; every step kept and never done twice."""

import argparse
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bridge.arguments import writable_folder
from bridge.codecs import ImageCodec, load_codec
from bridge.errors import UserError
from bridge.noise import generator_for
from bridge.pipeline import BridgePipeline
from bridge.text import TextCode, TextEncoder
from eval.baselines import Baselines, text_codes
from eval.bench import Bench, bench_of
from eval.data import Pictures, why_single
from eval.features import EfficientNetLite0
from eval.judge import Generate, Judge, Say, seen_of
from eval.report import ROWS
from eval.studies import add_common
from eval.studies.compare.base import Batch, Peer, PeerNet, Sampling, SimplePeer, Space, TrainedPeer, Trial
from eval.studies.compare.material import MICRO_BATCH, NONE, Asked, Material, Neighbours, keyed, load
from eval.studies.compare.nets import LocalFlow
from train.command import Parser, number, say, whole
from train.loop import Budget, Loop, LoopConfig, SaveError, TrainingError
from train.timing import note_precision

PRECISIONS = ("no", "bf16")
SAVE_MINUTES = 0.75
GROWTH, PATIENCE = 1.1, 5
"""A plateau: no better validation for a third of the time used, which is five validations at times growing by 1.1."""
PLATEAU_TIMES = 4.0  # A run to the plateau ends at so many times the budget at the latest
WARMUP, COOLDOWN = 100, 0.4
TIMED = 256
"""Pairs whose encoding is timed; more take as many times longer."""
UNCOUNTED = 10**9  # Steps of a run whose seconds are counted
HEADLINES = ("fit", "diversity", "joint", "score", "copied")
SINGLE = "the score is fit alone, with which diversity and joint have no scale in common"
"""What a judge of single pictures takes for the score."""
Key = dict[str, Any]


@dataclass(frozen=True)
class Spread:
    mean: float  # Over the seeds
    deviation: float | None  # Sample standard deviation; None with a single seed
    values: list[float]  # One a seed

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Of one value a seed.

        >>> str(Spread.of([0.25, 0.75]))
        '0.50 ± 0.35'
        """
        values = list(values)
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, values)

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.deviation is None else f"{self.mean:.2f} ± {self.deviation:.2f}"


# --- results -------------------------------------------------------------------------------------------------------


class Results:
    """Results by key, in a file of JSON lines that only grows, so that an interrupted study resumes.

    A last line cut short by a kill is left alone and written again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Any] = {}
        for line in path.read_text("utf-8").splitlines() if path.exists() else []:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            self._known[_canonical(entry["key"])] = entry["value"]

    def get(self, key: Key) -> Any:
        return self._known.get(_canonical(key))

    def add(self, key: Key, value: Any) -> Any:
        """Append a result and return it as it will be read again."""
        line = json.dumps({"key": key, "value": value}, allow_nan=False, ensure_ascii=False)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(b"\n" + line.encode())  # a line that was cut short stays one of its own
            file.flush()
            os.fsync(file.fileno())
        self._known[_canonical(key)] = read = json.loads(line)["value"]
        return read


def _canonical(key: Key) -> str:
    return json.dumps(key, sort_keys=True)


# --- judging -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Benches:
    """What a peer's pictures are held against."""

    judge: Judge  # The dataset and the space fitted to it
    n: int  # Pictures a caption
    captions: int | None  # Judge at most so many of each row
    made: dict[str, dict[str, Bench]] = field(default_factory=dict)  # So far, by split and row

    def of(self, split: str) -> dict[str, Bench]:
        """The rows of a split that the dataset has, by name."""
        if split not in self.made:
            parts = {name: part for name, part in ROWS[split].items() if part in self.judge.pictures.split}
            if not parts:
                raise UserError(f"data: no picture has split {' or '.join(map(repr, ROWS[split].values()))}")
            benches = {row: bench_of(self.judge, part, self.n, captions=self.captions) for row, part in parts.items()}
            self.made[split] = benches
        return self.made[split]

    def figures(self, generate: Generate, split: str) -> dict[str, dict[str, float]]:
        """Figures by row of a split: headlines and copies as far as they exist, each with the ends of its interval as
        `NAME_low` and `NAME_high`, those of the score as `low` and `high`; for single pictures the score is fit."""
        rows = {}
        for row, bench in self.of(split).items():
            (seen,) = seen_of([self.judge], "peer", generate, bench.refs.captions, self.n)
            figures, rows[row] = bench.figures(bench.samples(seen)), dict[str, float]()
            for name in HEADLINES:
                figure = figures.fit if name == "score" and self.judge.singly else getattr(figures, name)
                if figure is not None:
                    head = "" if name == "score" else f"{name}_"
                    rows[row] |= {name: figure.value, f"{head}low": figure.low, f"{head}high": figure.high}
        return rows


# --- training ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a run used and where it ended; the weights that stay were reached at `best_seconds` of training.

    Of a way that trains nothing, the seconds are those of encoding its pairs, and nothing is validated.
    """

    steps: int
    seconds: float
    best_seconds: float
    validation: float | None


class Objective(nn.Module):
    def __init__(self, net: PeerNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, data: Tensor, pooled: Tensor, tokens: Tensor, mask: Tensor, key: Tensor) -> dict[str, Tensor]:
        """Loss of each example, (B,); its noise depends on `key`, (3,), alone."""
        return {"loss": self.net.loss(Batch(data, TextCode(pooled, tokens, mask), generator_for(*key.tolist())))}


def loop_of(
    net: PeerNet,
    draw: Callable[[int], Batch],
    watched: Sequence[Batch],
    trial: Trial,
    budget: Budget,
    folder: Path,
    seed: int,
    identity: dict[str, Any],
    precision: str = "no",
) -> Loop:
    """train's loop of one network, for so many seconds, or until validation stops improving; averaged weights stay."""
    plateau = budget.growth > 1
    config = LoopConfig(
        steps=UNCOUNTED,
        batch_size=trial["batch_size"],
        learning_rate=trial["learning_rate"],
        warmup=trial.get("warmup", WARMUP),
        cooldown=COOLDOWN,
        schedule="constant" if plateau else "trapezoid",
        mixed_precision=precision,
        save_minutes=SAVE_MINUTES,
        seed=seed,
        stop_on="validation_loss" if plateau else "",
        patience=PATIENCE,
    )

    def batch(_: Tensor, epoch: int) -> tuple[Tensor, ...]:
        drawn = draw(epoch)  # as many rows as a batch has: an epoch is a step, and what is drawn depends on it alone
        return drawn.data, drawn.c.pooled, drawn.c.tokens, drawn.c.mask, torch.tensor([seed, epoch, 1])

    def validate(_: int) -> dict[str, float]:
        device, losses = loop.accelerator.device, []
        for b in watched:
            generator = torch.Generator()
            generator.set_state(b.generator.get_state())  # the same noise every time
            with loop.accelerator.autocast():
                losses.append(net.loss(Batch(b.data.to(device), b.c.to(device), generator)).cpu())
        return {"validation_loss": float(torch.cat(losses).mean()), "seconds": loop.used}

    loop = Loop(Objective(net), batch, trial["batch_size"], validate, config, folder, identity, budget=budget)
    return loop


def train(loop: Loop, net: PeerNet) -> Outcome:
    """Run a loop of `loop_of` to its end, from its checkpoint where there is one."""
    loop.run()
    net.eval().cpu()
    lines = [json.loads(line) for line in (loop.out / "log.jsonl").read_text("utf-8").splitlines()]
    best = min(lines, key=lambda line: line["validation_loss"]) if loop.config.stop_on else lines[-1]
    return Outcome(loop.step, loop.used, best["seconds"], best["validation_loss"])


# --- the workshop --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chosen:
    """The outcome of a choice on validation."""

    trial: int  # Number of the trial
    sampling: Sampling  # How its pictures are drawn
    score: float  # Mean over the validation rows of the smallest headline


@dataclass(frozen=True)
class Tested:
    """A trained peer on the test."""

    sampling: Sampling  # Chosen on validation
    rows: dict[str, dict[str, float]]  # See `Benches.figures`, of the test
    steps: int  # Optimiser steps
    minutes: float  # Of training or, where there is none, of encoding the pairs; the VAE's not included
    drawing: float | None  # Seconds that one picture then takes; None where an older study did not measure it


@dataclass(frozen=True)
class Workshop:
    """Trains and judges peers, and remembers."""

    benches: Benches  # Judge of all pictures
    asked: Asked  # Codes of captions to draw
    codec: ImageCodec  # Of all peers that use latents
    encoder: TextEncoder  # Of all captions
    material: Material  # What is trained on
    results: Results  # What is known so far
    runs: Path  # Folder of checkpoints
    minutes: float  # Of every peer, the VAE's part included
    vae_minutes: float  # Of these, charged to what uses the VAE
    identity: Mapping[str, Any]  # Everything else that results depend on
    precision: str = "no"  # Of training, one of PRECISIONS; pictures are always made in float32
    say: Say = lambda _: None  # Called with what is being done
    clock: Callable[[], float] | None = None  # Seconds of training; None for the process' own

    @cached_property
    def neighbours(self) -> Neighbours:
        return Neighbours.of(self.material)

    @cached_property
    def baselines(self) -> Baselines:
        self.say("baselines: encoding the training pictures")
        return Baselines.fit(self.benches.judge.pictures, self.codec, text_codes(self.encoder))

    @property
    def judged(self) -> Key:
        return {"n": self.benches.n, "captions": self.benches.captions}

    def budget(self, peer: TrainedPeer) -> Budget:
        """Of a peer: the minutes less the VAE's part where it uses one; more in plateau mode."""
        seconds = 60 * (minutes_left(self.vae_minutes, self.minutes) if peer.uses_vae else self.minutes)
        if peer.plateau:
            return Budget(PLATEAU_TIMES * seconds, GROWTH, seconds, self.clock)
        return Budget(seconds, clock=self.clock)

    def key(self, peer: Peer, trial: Trial, seed: int) -> Key:
        """What a trained network depends on."""
        about = {"peer": peer.name, "trial": trial, "seed": seed, **self.identity}
        return about | {"minutes": self.minutes, "vae_minutes": self.vae_minutes, "precision": self.precision}

    def train(self, peer: TrainedPeer, trial: Trial, seed: int) -> PeerNet:
        """The network of a trial, trained or, where that is done, loaded."""
        key = self.key(peer, trial, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = peer.build(trial, Space(self.codec, self.encoder.dim))
        kind = (trial["batch_size"], peer.uses_vae, peer.tokens)
        batches = (lambda step: self.material.draw(*kind, seed, step)), self.material.watched(*kind)
        folder = self.runs / f"{peer.name}-{hashlib.sha256(_canonical(key).encode()).hexdigest()[:12]}"
        loop = loop_of(net, *batches, trial, self.budget(peer), folder, seed, key, self.precision)
        outcome = train(loop, net)
        if self.results.get({"trained": key}) is None:
            self.results.add({"trained": key}, asdict(outcome))
        return net

    def remember(self, peer: LocalFlow, trial: Trial, seed: int) -> PeerNet:
        """The memory of a way that trains nothing; how long it takes to make from pictures is measured once."""
        data, codes, captions = self.material.pairs(peer.uses_vae)
        begin = time.process_time()
        net = peer.remember(data, codes, captions, Space(self.codec, self.encoder.dim))
        key = {"trained": self.key(peer, trial, seed)}
        if self.results.get(key) is None:
            seconds = time.process_time() - begin + self.encoding(peer.uses_vae)
            self.results.add(key, asdict(Outcome(0, seconds, seconds, None)))
        return net

    def encoding(self, uses_vae: bool) -> float:
        """Seconds of processor time to encode the pairs, pictures (where that is needed) and captions."""
        train, texts, rows = self.material.train, self.material.texts, self.material.paired
        some = rows[torch.linspace(0, len(rows) - 1, min(TIMED, len(rows))).long()]
        every, few = (variants[variants != NONE].unique() for variants in (train.variants[rows], train.variants[some]))
        begin = time.process_time()
        self.encoder.encode([texts[i] for i in few], MICRO_BATCH, with_tokens=False)
        between = time.process_time()
        for part in some.split(MICRO_BATCH) if uses_vae else ():
            self.codec.encode(train.data(part, False, None))
        of_pictures = (time.process_time() - between) * len(rows) / len(some)
        return (between - begin) * len(every) / len(few) + of_pictures

    def network(self, peer: TrainedPeer | LocalFlow, trial: Trial, seed: int) -> PeerNet:
        """What draws a way's pictures, trained or filled first where that is not done."""
        return self.train(peer, trial, seed) if isinstance(peer, TrainedPeer) else self.remember(peer, trial, seed)

    def generate(self, peer: Peer, trial: Trial, seed: int) -> Callable[[Sampling], Generate]:
        """Pictures of a peer, trained first where it has to be, by how they are to be drawn."""
        if isinstance(peer, SimplePeer):
            return lambda _: peer.generate(self.baselines, trial, seed)
        assert isinstance(peer, TrainedPeer | LocalFlow)
        net = self.network(peer, trial, seed)
        return lambda sampling: keyed(net, self.asked, self.neighbours, sampling, seed)

    def validated(self, peer: Peer, trial: Trial, seed: int, settings: Sequence[Sampling]) -> list[float | None]:
        """Validation score of every setting: mean of the rows' smallest headlines; None for what diverged."""
        keys = [{"validated": self.key(peer, trial, seed), **asdict(s), **self.judged} for s in settings]
        if all(self.results.get(key) is not None for key in keys):
            return [self.results.get(key)["score"] for key in keys]
        self.say(f"{peer.name}, seed {seed}: {trial}")
        try:
            maker = self.generate(peer, trial, seed)
        except SaveError:
            raise
        except TrainingError as error:
            self.say(f"{peer.name}: {error}")
            return [self.results.add(key, {"score": None, "why": str(error)})["score"] for key in keys]
        scores: list[float | None] = []
        for key, sampling in zip(keys, settings, strict=True):
            rows = self.benches.figures(maker(sampling), "validation")
            score = sum(row["score"] for row in rows.values()) / len(rows)
            self.say(f"{peer.name}: validation score {score:.3f} with {sampling}")
            scores.append(self.results.add(key, {"score": score, "rows": rows})["score"])
        return scores

    def choose(self, peer: Peer, trials: Iterable[int], seed: int = 0) -> Chosen | None:
        """The best of some trials and ways to sample on validation; None where all diverged."""
        choices = []
        for trial in trials:
            scores = self.validated(peer, peer.trials[trial], seed, peer.settings)
            each = zip(peer.settings, scores, strict=True)
            choices += [Chosen(trial, sampling, score) for sampling, score in each if score is not None]
        return max(choices, key=lambda c: c.score, default=None)

    def drawing(self, net: PeerNet, sampling: Sampling) -> float:
        """Seconds of processor time that one picture takes, the caption's code included."""
        caption = self.benches.judge.pictures.label[0]
        noise = torch.randn(1, *net.noise_shape, generator=generator_for(0))
        begin = time.process_time()
        with torch.no_grad():
            net.sample(self.encoder.encode([caption]), noise, sampling)
        return time.process_time() - begin

    def tested(self, peer: TrainedPeer | LocalFlow, trial: int, seed: int) -> Tested | None:
        """A way on the test, sampled as is best on validation; None where its training diverged."""
        chosen = self.choose(peer, [trial], seed)
        if chosen is None:
            return None
        trained = self.key(peer, peer.trials[trial], seed)
        key = {"test": trained, **asdict(chosen.sampling), **self.judged}
        if (rows := self.results.get(key)) is None:
            net = self.network(peer, peer.trials[trial], seed)
            self.results.add({"drawing": key}, self.drawing(net, chosen.sampling))
            generate = keyed(net, self.asked, self.neighbours, chosen.sampling, seed)
            rows = self.results.add(key, self.benches.figures(generate, "test"))
        run, drawing = self.results.get({"trained": trained}), self.results.get({"drawing": key})
        return Tested(chosen.sampling, rows, run["steps"], run["seconds"] / 60, drawing)


def minutes_left(vae_minutes: float, minutes: float) -> float:
    """Minutes that are left to train on latents, once the VAE's training is paid for in full."""
    if vae_minutes >= minutes:
        raise UserError(
            f"vae_minutes: {vae_minutes:g} leave nothing of {minutes:g} minutes to what uses the VAE; "
            "give more minutes, or a codec that was trained for fewer (configs/peers-vae.yaml)"
        )
    return minutes - vae_minutes


# --- the commands --------------------------------------------------------------------------------------------------


def add_workshop(parser: Parser, out: str, seeds: int) -> None:
    add_common(parser, "model", "--data", "--captions", "--samples")
    add = parser.add_argument
    add("--vae", type=Path, help="a codec's folder, in place of the model's, that all share")
    add("--pictures", type=Path, help="a dataset of more pictures, shown to all without captions")
    add("--vae-minutes", type=number(0), default=0.0, help="processor minutes that the VAE's training cost")
    add("--minutes", type=number(above=0), default=60.0, help="processor minutes of each, the VAE's included")
    add("--precision", choices=PRECISIONS, default="no", help="bf16 trains all in bfloat16 autocast")
    add("--seeds", type=whole(1), default=seeds, help="trainings of each")
    add("--out", default=out, help="folder of results; an interrupted study resumes there")


def open_workshop(args: argparse.Namespace, *, singly: bool = False) -> Workshop:
    """Model, judge and training material of a command; data of single pictures are refused unless `singly`."""
    minutes_left(args.vae_minutes, args.minutes)
    if args.vae_minutes == 0:
        say("note: the VAE's training is charged to nobody; give --vae-minutes")
    note_precision(args.precision, "--precision")
    out = writable_folder(args.out)
    pipe = BridgePipeline.from_pretrained(args.model)
    codec = load_codec(args.vae) if args.vae else pipe.codec
    pictures = Pictures.load(args.data)
    why = why_single(pictures, tuple(part for parts in ROWS.values() for part in parts.values()))
    if why is not None:
        if not singly:
            others = "eval and eval.studies.compare pairs take such data"
            raise UserError(f"--data: {why}, so there is no one score to compare by; {others}")
        say(f"judged singly: {why}; {SINGLE}")
    benches = Benches(Judge.load(pictures, EfficientNetLite0(), say, why), args.samples, args.captions)
    for split in ROWS:
        benches.of(split)  # what cannot be judged is not trained first
    kept: dict[str, Any] = {"results": Results(out / "results.jsonl"), "runs": out / "runs", "say": say}
    kept |= {name: getattr(args, name) for name in ("minutes", "vae_minutes", "precision")}
    return Workshop(benches, **kept, **_in_space(args, pictures, codec, pipe.text_encoder, say))


def _in_space(
    args: argparse.Namespace, pictures: Pictures, codec: ImageCodec, encoder: TextEncoder, say: Say
) -> dict[str, Any]:
    """What of a command's workshop depends on codec and text encoder."""
    material = load(Path(args.data), pictures, codec, encoder, args.pictures, say)
    identity = {
        "data": pictures.fingerprint,
        "pictures": Pictures.load(args.pictures).fingerprint if args.pictures else None,
        "captions": material.fingerprint,
        "vae": codec.fingerprint,
        "text": encoder.fingerprint,
    }
    return {"asked": Asked(encoder), "codec": codec, "encoder": encoder, "material": material, "identity": identity}


def in_space(
    shop: Workshop, args: argparse.Namespace, *, codec: ImageCodec | None = None, encoder: TextEncoder | None = None
) -> Workshop:
    """The workshop of a command with another codec or text encoder, its pictures and captions encoded by these."""
    pictures = shop.benches.judge.pictures
    return replace(shop, **_in_space(args, pictures, codec or shop.codec, encoder or shop.encoder, shop.say))
