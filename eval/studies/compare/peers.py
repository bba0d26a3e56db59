"""Ours and every rival at equal cost.

All see the same pairs and the same pictures without captions, have the same minutes of processor time (less the
VAE's where they use it), up to three trials and three ways to sample chosen on validation, and three seeds.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bridge.checkpoint import atomic_write
from bridge.errors import UserError
from eval.baselines import text_codes
from eval.judge import Generate
from eval.report import BASES, evaluate, table, to_json
from eval.studies import Study
from eval.studies.compare import nets
from eval.studies.compare.nets import Peer, Sampling, TrainedPeer, Trial
from eval.studies.compare.study import HEADLINES, Spread, Workshop, add_workshop, best_first, open_workshop
from train.command import Parser, say, whole

TRAINED = (nets.DIRECT, nets.DIRECT_PLATEAU, nets.LATENT, nets.INVERTIBLE, nets.PRIOR)
ALL: tuple[Peer, ...] = (nets.LOCAL_FLOW, nets.LOCAL_PIXELS, nets.BRIDGE_FLOW, *TRAINED, nets.RETRIEVAL, nets.RIDGE)


@dataclass(frozen=True)
class Line:
    peer: str  # Its name
    uses_vae: bool  # Whether the VAE's minutes were charged to it
    minutes: list[float] = field(default_factory=list)  # Of training its own network, by seed; empty without training
    steps: list[int] = field(default_factory=list)  # Optimiser steps, by seed
    trial: Trial | None = None  # The chosen hyperparameters
    sampling: Sampling | None = None  # The chosen way to sample
    validation: Spread | None = None  # Score on validation, by seed
    rows: dict[str, dict[str, Spread]] = field(default_factory=dict)  # Headlines on the test rows, by row and name
    failed: str | None = None  # Why there are none

    def cells(self, row: str) -> list[str]:
        cost = ["", ""]
        if self.steps:
            cost = [f"{statistics.fmean(self.steps):.0f}", f"{statistics.fmean(self.minutes):.2f}"]
        return [self.peer, *(str(self.rows[row][h]) for h in HEADLINES), *cost, "VAE" if self.uses_vae else ""]


def trained(shop: Workshop, peer: Peer, trials: int, seeds: int) -> tuple[Line, dict[str, Generate]]:
    """A peer's line, still without rows, and its models by name, one a seed; chosen with seed 0, or as it follows."""
    chooser = peer.follows or peer
    choice = shop.choose(chooser, range(min(trials, len(chooser.trials))))
    failed = Line(peer.name, peer.uses_vae, failed="every trial or seed diverged")
    if choice is None:
        return failed, {}
    trial, sampling = peer.trials[choice[0]], choice[1]
    if isinstance(peer, TrainedPeer) and peer.plateau:
        seeds = 1  # such a run is made once
    each = {seed: shop.validated(peer, trial, seed, [sampling]).get(sampling) for seed in range(seeds)}
    scores = {seed: score for seed, score in each.items() if score is not None}
    if not scores:
        return failed, {}
    runs = [run for seed in scores if (run := shop.results.get({"trained": shop.key(peer, trial, seed)}))]
    cost = [run["seconds"] / 60 for run in runs], [run["steps"] for run in runs]
    models = {f"{peer.name}, seed {seed}": shop.generate(peer, trial, seed)(sampling) for seed in scores}
    return Line(peer.name, peer.uses_vae, *cost, trial, sampling, Spread.of(scores.values())), models


def to_text(lines: Sequence[Line], references: Mapping[str, Mapping[str, float]]) -> str:
    """A table a row, best score first, with the scores of real pictures and reconstructions; 'VAE' marks who paid."""
    text = []
    for row, scores in references.items():
        rows = [["", *HEADLINES, "steps", "minutes", ""], *best_first(lines, row)]
        rows += [[name, "", "", "", f"{value:.2f}", "", "", "", ""] for name, value in scores.items()]
        text += ["", row, *table(rows)]
    return "\n".join(text + [f"{line.peer}: absent, {line.failed}" for line in lines if line.failed])


def _arguments(parser: Parser) -> None:
    add_workshop(parser, "runs/peers", 3)
    parser.add_argument("--trials", type=whole(1), default=3, help="hyperparameters tried, chosen on validation")
    names = [peer.name for peer in ALL]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")


def _run(args: argparse.Namespace, command: str) -> None:
    shop = open_workshop(args)
    chosen = [peer for peer in ALL if not args.only or peer.name in args.only]
    entries = [trained(shop, peer, args.trials, args.seeds) for peer in chosen]
    models = {name: model for _, own in entries for name, model in own.items()}
    if not models:
        raise UserError("every trial of every peer diverged; see the messages above")
    judge, codec, encode = shop.benches.judge, shop.codec, text_codes(shop.encoder)
    report = evaluate(models, judge, split="test", codec=codec, encode_text=encode, say=say, **shop.judged)
    lines = []
    for line, own in entries:
        rows = {
            row: {h: Spread.of(judged.methods[name].value(h) for name in own) for h in HEADLINES}
            for row, judged in report.rows.items()
            if own
        }
        lines.append(replace(line, rows=rows))
    real = {row: {b: judged.methods[b].value("score") for b in BASES} for row, judged in report.rows.items()}
    comparison: dict[str, Any] = {"split": report.split}
    comparison |= {name: getattr(args, name) for name in ("minutes", "vae_minutes", "captions", "samples")}
    comparison |= {"lines": lines, "references": real, "about": {"command": command, "data": report.data}}
    atomic_write(Path(args.out) / "report.json", to_json(report))
    atomic_write(Path(args.out) / "peers.json", to_json(comparison))
    minutes = f"{args.minutes:g} minutes each, {args.vae_minutes:g} of them for the VAE where one is used"
    print(f"split {report.split} · {args.samples} samples a caption · {minutes} · mean ± deviation over seeds")
    print(to_text(lines, real))


STUDY = Study(__doc__, "pictures --data data/pictures --minutes 10 --vae-minutes 1", _arguments, _run)
