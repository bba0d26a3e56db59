"""Trials chosen on validation, then several seeds of the chosen one; every step kept and never done twice."""

import argparse
import contextlib
import hashlib
import json
import os
import statistics
import time
import timeit
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bridge.arguments import writable_folder
from bridge.codecs import ImageCodec, load_codec
from bridge.errors import UserError
from bridge.noise import generator_for
from bridge.pipeline import BridgePipeline
from bridge.text import TextEncoder
from eval.baselines import Baselines, text_codes
from eval.bench import Bench, bench_of
from eval.data import Pictures, why_single
from eval.features import EfficientNetLite0
from eval.judge import Generate, Judge, seen_of
from eval.report import ROWS
from eval.studies import add_common
from eval.studies.compare.material import MICRO_BATCH, NONE, Asked, Material, keyed, load
from eval.studies.compare.nets import Batch, LocalPeer, Peer, PeerNet, Sampling, SimplePeer, TrainedPeer, Trial
from train.checkpoint import SaveError
from train.command import Parser, number, say, whole
from train.loop import Budget, Loop, LoopConfig, TrainingError
from train.timing import note_precision

SAVE_MINUTES = 0.75
GROWTH, PATIENCE = 1.2, 3
"""A plateau: no better validation score for two fifths of the time used: three validations at times growing by 1.2."""
WATCHED_SAMPLING = Sampling(guidance=2.0)  # Of the score that a plateau is told by
PLATEAU_TIMES = 4.0  # A run to the plateau ends at so many times the budget at the latest
WARMUP, COOLDOWN = 100, 0.4
TIMED = 256  # Pairs whose encoding is timed; more take as many times longer
UNCOUNTED = 10**9  # Steps of a run whose seconds are counted
HEADLINES = ("fit", "diversity", "joint", "score", "copied")
SINGLE = "the score is fit alone, with which diversity and joint have no scale in common"
"""What a judge of single pictures takes for the score."""
seconds_of = partial(timeit.timeit, timer=time.process_time, number=1)  # Of the processor, that a function takes
Key = dict[str, Any]
Choice = tuple[int, Sampling]  # Number of a trial, and how its pictures are drawn


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


def best_first(lines: Iterable[Any], row: str) -> list[list[str]]:
    """Cells of the lines of a report that have a row, best score first."""
    here = [line for line in lines if row in line.rows]
    return [line.cells(row) for line in sorted(here, key=lambda line: -line.rows[row]["score"].mean)]


class Results:
    """Results by key, in a file of JSON lines that only grows; a last line cut short by a kill is written again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Any] = {}
        for line in path.read_text("utf-8").splitlines() if path.exists() else []:
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                self._known[_canonical(entry["key"])] = entry["value"]

    def get(self, key: Key) -> Any:
        return self._known.get(_canonical(key))

    def add(self, key: Key, value: Any) -> Any:
        """Append a result and return it as it will be read again."""
        line = json.dumps({"key": key, "value": value}, allow_nan=False, ensure_ascii=False)
        with self.path.open("ab") as file:
            file.write(b"\n" + line.encode())  # a line that was cut short stays one of its own
            file.flush()
            os.fsync(file.fileno())
        self._known[_canonical(key)] = read = json.loads(line)["value"]
        return read


def _canonical(key: Key) -> str:
    return json.dumps(key, sort_keys=True)


class Benches:
    """Benches for n pictures a caption, `captions` at most, by split and row; UserError without any, or a score."""

    def __init__(self, judge: Judge, n: int, captions: int | None) -> None:
        self.judge, self.n, self.captions = judge, n, captions
        self.rows: dict[str, dict[str, Bench]] = {}
        for split, parts in ROWS.items():
            here = {row: part for row, part in parts.items() if part in judge.pictures.split}
            if not here:
                raise UserError(f"data: no picture has split {' or '.join(map(repr, parts.values()))}")
            self.rows[split] = {row: bench_of(judge, part, n, captions=captions) for row, part in here.items()}
            if judge.singly:
                continue  # fit is the score, and real pictures have none
            for row, bench in self.rows[split].items():
                absent: dict[str, str] = {}
                bench.headlines(bench.real, absent)
                if "score" in absent:
                    raise UserError(f"data: {row} captions of {split} have no score: {absent['score']}; hold out more")

    def figures(self, generate: Generate, split: str) -> dict[str, dict[str, float]]:
        """Figures by row of a split: headlines and copies as far as they exist, each with the ends of its interval as
        `NAME_low` and `NAME_high`, those of the score as `low` and `high`; for single pictures the score is fit."""
        rows = {}
        for row, bench in self.rows[split].items():
            (seen,) = seen_of([self.judge], "peer", generate, bench.refs.captions, self.n)
            figures, rows[row] = bench.figures(bench.samples(seen)), dict[str, float]()
            for name in HEADLINES:
                figure = figures.fit if name == "score" and self.judge.singly else getattr(figures, name)
                if figure is not None:
                    head = "" if name == "score" else f"{name}_"
                    rows[row] |= {name: figure.value, f"{head}low": figure.low, f"{head}high": figure.high}
        return rows


@dataclass(frozen=True)
class Outcome:
    """What a run took; of a peer that trains nothing, what encoding its pairs did."""

    steps: int  # Of the optimiser
    seconds: float
    best_seconds: float  # When the weights that stay were reached
    validation: float | None  # Their loss


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
    score: Callable[[], float] | None = None,
) -> Loop:
    """train's loop of one network, for so many seconds, or until the validation `score` stops improving.

    The averaged weights stay, with `score` those that had the best.
    """
    config = LoopConfig(
        steps=UNCOUNTED,
        batch_size=trial["batch_size"],
        learning_rate=trial["learning_rate"],
        warmup=trial.get("warmup", WARMUP),
        cooldown=COOLDOWN,
        schedule="constant" if score else "trapezoid",
        mixed_precision=precision,
        save_minutes=SAVE_MINUTES,
        seed=seed,
        stop_on="score" if score else "",
        goal="max",
        patience=PATIENCE,
    )

    def batch(_: Tensor, epoch: int) -> tuple[Tensor, ...]:
        drawn = draw(epoch)  # as many rows as a batch has: an epoch is a step, and what is drawn depends on it alone
        return drawn.data, drawn.c.pooled, drawn.c.tokens, drawn.c.mask, torch.tensor([seed, epoch, 1])

    def validate(_: int) -> dict[str, float]:
        device = loop.accelerator.device
        with loop.accelerator.autocast():  # the same noise every time
            same = (Batch(b.data.to(device), b.c.to(device), b.generator.clone_state()) for b in watched)
            losses = [net.loss(batch).cpu() for batch in same]
        figures = {"validation_loss": float(torch.cat(losses).mean()), "seconds": loop.used}
        if score:
            net.cpu()  # where pictures to be judged are drawn
            figures["score"] = score()
            net.to(device)
        return figures

    loop = Loop(net, batch, trial["batch_size"], validate, config, folder, identity, budget=budget)
    return loop


def train(loop: Loop, net: PeerNet) -> Outcome:
    """Run a loop of `loop_of` to its end, from its checkpoint where there is one."""
    loop.run()
    net.eval().cpu()
    lines = [json.loads(line) for line in (loop.out / "log.jsonl").read_text("utf-8").splitlines()]
    best = max(lines, key=lambda line: line["score"]) if loop.config.stop_on else lines[-1]
    return Outcome(loop.step, loop.used, best["seconds"], best["validation_loss"])


@dataclass(frozen=True)
class Tested:
    """A peer on the test."""

    sampling: Sampling  # Chosen on validation
    rows: dict[str, dict[str, float]]  # See `Benches.figures`
    steps: int  # Optimiser steps
    minutes: float  # Of training or, where there is none, of encoding the pairs; the VAE's not included
    drawing: float | None  # Processor seconds of one picture and its caption's code; None in older studies


@dataclass(frozen=True)
class Workshop:
    """Trains and judges peers, and remembers."""

    benches: Benches
    asked: Asked  # Codes of captions to draw
    codec: ImageCodec  # Of all peers that use latents
    encoder: TextEncoder  # Of all captions
    material: Material  # What is trained on
    results: Results  # What is known so far
    runs: Path  # Folder of checkpoints
    minutes: float  # Of every peer, the VAE's part included
    vae_minutes: float  # Of these, charged to what uses the VAE
    identity: Mapping[str, Any]  # Everything else that results depend on
    precision: str = "no"  # Of training, or "bf16"; pictures are always made in float32
    clock: Callable[[], float] | None = None  # Seconds of training; None for the process' own

    @cached_property
    def baselines(self) -> Baselines:
        say("baselines: encoding the training pictures")
        return Baselines.fit(self.benches.judge.pictures, self.codec, text_codes(self.encoder))

    @property
    def judged(self) -> Key:
        return {"n": self.benches.n, "captions": self.benches.captions}

    def key(self, peer: Peer, trial: Trial, seed: int) -> Key:
        """What a trained network depends on."""
        about = {"peer": peer.name, "trial": trial, "seed": seed, **self.identity}
        about |= {"stop_on": "score", **self.judged} if isinstance(peer, TrainedPeer) and peer.plateau else {}
        return about | {"minutes": self.minutes, "vae_minutes": self.vae_minutes, "precision": self.precision}

    def budget(self, peer: TrainedPeer) -> Budget:
        """Of a peer: the minutes less the VAE's part where it uses one; more in plateau mode."""
        seconds = 60 * (minutes_left(self.vae_minutes, self.minutes) if peer.uses_vae else self.minutes)
        if peer.plateau:
            return Budget(PLATEAU_TIMES * seconds, GROWTH, seconds, self.clock)
        return Budget(seconds, clock=self.clock)

    def network(self, peer: TrainedPeer | LocalPeer, trial: Trial, seed: int) -> PeerNet:
        """What draws a peer's pictures: trained, or loaded where that is done, or filled with the pairs."""
        key = self.key(peer, trial, seed)
        known = self.results.get({"trained": key}) is not None
        if isinstance(peer, LocalPeer):
            data, codes, captions = self.material.pairs(peer.uses_vae)
            begin = time.process_time()
            net = peer.remember(data, codes, captions, self.codec)
            seconds = time.process_time() - begin + (0 if known else self.encoding(peer.uses_vae))
            outcome = Outcome(0, seconds, seconds, None)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                net = peer.build(trial, self.codec, self.encoder.dim)
            kind = (trial["batch_size"], peer.uses_vae, peer.tokens)
            batches = (lambda step: self.material.draw(*kind, seed, step)), self.material.watched(*kind)
            folder = self.runs / f"{peer.name}-{hashlib.sha256(_canonical(key).encode()).hexdigest()[:12]}"
            drawn = keyed(net, self.asked, self.material, WATCHED_SAMPLING, seed)
            score = (lambda: self.validation(drawn)[0]) if peer.plateau else None
            loop = loop_of(net, *batches, trial, self.budget(peer), folder, seed, key, self.precision, score)
            outcome = train(loop, net)
        if not known:
            self.results.add({"trained": key}, asdict(outcome))
        return net

    def encoding(self, uses_vae: bool) -> float:
        """Seconds of processor time to encode the pairs, pictures (where that is needed) and captions."""
        train, texts, rows = self.material.train, self.material.texts, self.material.paired
        some = rows[torch.linspace(0, len(rows) - 1, min(TIMED, len(rows))).long()]
        every, few = (variants[variants != NONE].unique() for variants in (train.variants[rows], train.variants[some]))
        parts = some.split(MICRO_BATCH) if uses_vae else ()
        captions = seconds_of(lambda: self.encoder.encode([texts[i] for i in few], MICRO_BATCH, with_tokens=False))
        pictures = seconds_of(lambda: [self.codec.encode(train.data(part, False, None)) for part in parts])
        return captions * len(every) / len(few) + pictures * len(rows) / len(some)

    def generate(self, peer: Peer, trial: Trial, seed: int) -> Callable[[Sampling], Generate]:
        """Pictures of a peer, trained first where it has to be, by how they are to be drawn."""
        if isinstance(peer, SimplePeer):
            return lambda _: peer.generate(self.baselines, trial, seed)
        assert isinstance(peer, TrainedPeer | LocalPeer)
        net = self.network(peer, trial, seed)
        return lambda sampling: keyed(net, self.asked, self.material, sampling, seed)

    def validation(self, generate: Generate) -> tuple[float, dict[str, dict[str, float]]]:
        """Score on validation, mean of the rows' smallest headlines, and the rows' figures."""
        rows = self.benches.figures(generate, "validation")
        return sum(row["score"] for row in rows.values()) / len(rows), rows

    def validated(self, peer: Peer, trial: Trial, seed: int, settings: Sequence[Sampling]) -> dict[Sampling, float]:
        """Validation score of every setting; without those that diverged."""
        keys = {s: {"validated": self.key(peer, trial, seed), **asdict(s), **self.judged} for s in settings}
        if any(self.results.get(key) is None for key in keys.values()):
            say(f"{peer.name}, seed {seed}: {trial}")
            try:
                generator = self.generate(peer, trial, seed)
            except SaveError:
                raise
            except TrainingError as error:
                say(f"{peer.name}: {error}")
                for key in keys.values():
                    self.results.add(key, {"score": None, "why": str(error)})
            else:
                for sampling, key in keys.items():
                    score, rows = self.validation(generator(sampling))
                    say(f"{peer.name}: validation score {score:.3f} with {sampling}")
                    self.results.add(key, {"score": score, "rows": rows})
        scores = {sampling: self.results.get(key)["score"] for sampling, key in keys.items()}
        return {sampling: score for sampling, score in scores.items() if score is not None}

    def choose(self, peer: Peer, trials: Iterable[int], seed: int = 0) -> Choice | None:
        """The best of some trials and ways to sample on validation; None where all diverged."""
        scores = {
            (trial, sampling): score
            for trial in trials
            for sampling, score in self.validated(peer, peer.trials[trial], seed, peer.settings).items()
        }
        return max(scores, key=scores.__getitem__, default=None)

    def tested(self, peer: TrainedPeer | LocalPeer, trial: int, seed: int) -> Tested | None:
        """A peer on the test, sampled as is best on validation; None where its training diverged."""
        if (choice := self.choose(peer, [trial], seed)) is None:
            return None
        _, sampling = choice
        trained = self.key(peer, peer.trials[trial], seed)
        key = {"test": trained, **asdict(sampling), **self.judged}
        if (rows := self.results.get(key)) is None:
            net = self.network(peer, peer.trials[trial], seed)
            caption = self.benches.judge.pictures.label[0]
            noise = torch.randn(1, *net.noise_shape, generator=generator_for(0))
            with torch.no_grad():
                drawing = seconds_of(lambda: net.sample(self.encoder.encode([caption]), noise, sampling))
            self.results.add({"drawing": key}, drawing)
            generate = keyed(net, self.asked, self.material, sampling, seed)
            rows = self.results.add(key, self.benches.figures(generate, "test"))
        run, drawing = self.results.get({"trained": trained}), self.results.get({"drawing": key})
        return Tested(sampling, rows, run["steps"], run["seconds"] / 60, drawing)


def minutes_left(vae_minutes: float, minutes: float) -> float:
    """Minutes that are left to train on latents, once the VAE's training is paid for in full."""
    if vae_minutes >= minutes:
        nothing = f"{vae_minutes:g} leave nothing of {minutes:g} minutes to what uses the VAE"
        remedy = "give more minutes, or a codec that was trained for fewer (configs/peers-vae.yaml)"
        raise UserError(f"vae_minutes: {nothing}; {remedy}")
    return minutes - vae_minutes


def add_workshop(parser: Parser, out: str, seeds: int) -> None:
    add = add_common(parser, "model", "--data", "--captions", "--samples")
    add("--vae", type=Path, help="a codec's folder, in place of the model's, that all share")
    add("--pictures", type=Path, help="a dataset of more pictures, shown to all without captions")
    add("--vae-minutes", type=number(0), default=0.0, help="processor minutes that the VAE's training cost")
    add("--minutes", type=number(above=0), default=60.0, help="processor minutes of each, the VAE's included")
    add("--precision", choices=("no", "bf16"), default="no", help="bf16 trains all in bfloat16 autocast")
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
    judge = Judge.load(pictures, EfficientNetLite0(), say, why)
    return Workshop(
        Benches(judge, args.samples, args.captions),  # what cannot be judged is not trained first
        results=Results(out / "results.jsonl"),
        runs=out / "runs",
        minutes=args.minutes,
        vae_minutes=args.vae_minutes,
        precision=args.precision,
        **in_space(args, pictures, codec, pipe.text_encoder),
    )


def in_space(args: argparse.Namespace, pictures: Pictures, codec: ImageCodec, encoder: TextEncoder) -> dict[str, Any]:
    """The fields of a command's workshop that depend on codec and text encoder."""
    material = load(Path(args.data), pictures, codec, encoder, args.pictures)
    identity = {
        "data": pictures.fingerprint,
        "pictures": Pictures.load(args.pictures).fingerprint if args.pictures else None,
        "captions": material.fingerprint,
        "vae": codec.fingerprint,
        "text": encoder.fingerprint,
    }
    return {"asked": Asked(encoder), "codec": codec, "encoder": encoder, "material": material, "identity": identity}
