"""python -m eval.studies.peers MODEL --data data/pictures --vae-minutes M: ours and every rival at equal cost.

All see the same pairs and the same pictures without captions, have the same minutes of processor time (less the
VAE's where they use it), up to three trials and three ways to sample chosen on validation, and three seeds.
Nothing is done twice: a stopped run goes on.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.checkpoint import atomic_write
from bridge.codecs import load_codec
from bridge.errors import UserError
from bridge.pipeline import BridgePipeline
from eval.baselines import text_codes
from eval.data import Pictures, why_single
from eval.features import EfficientNetLite0
from eval.judge import Judge
from eval.report import ROWS, Report, check_counts, evaluate, to_json
from eval.stream import Generate
from eval.studies.peers.base import Peer, TrainedPeer
from eval.studies.peers.benches import SINGLE, Benches
from eval.studies.peers.direct import Direct, DirectPlateau
from eval.studies.peers.invertible import Invertible
from eval.studies.peers.latent import Latent
from eval.studies.peers.mapped import BridgeFlow
from eval.studies.peers.material import load
from eval.studies.peers.prior import Prior
from eval.studies.peers.results import Results
from eval.studies.peers.sampling import Asked
from eval.studies.peers.simple import Retrieval, Ridge
from eval.studies.peers.study import PLATEAU_SEEDS, Chosen, Workshop, minutes_left
from eval.studies.peers.table import HEADLINES, Line, PeersReport, Spread, to_text
from eval.studies.peers.training import PRECISIONS
from train.command import Parser, number, run_command, say, spelled, whole, writable_folder
from train.timing import note_precision

NAME = "python -m eval.studies.peers"
ALL: tuple[Peer, ...] = (
    BridgeFlow(),
    Direct(),
    DirectPlateau(),
    Latent(),
    Invertible(),
    Prior(),
    Retrieval(),
    Ridge(),
)
PEERS: Mapping[str, Peer] = {peer.name: peer for peer in ALL}


@dataclass(frozen=True)
class Entry:
    """One peer on its way to the test: its choice and its seeds' validation scores.

    Args:
        peer: Who.
        chosen: Trial and sampling; None where every trial diverged.
        scores: Validation score of each seed that did not diverge, by seed.
    """

    peer: Peer
    chosen: Chosen | None
    scores: dict[int, float]

    def name(self, seed: int) -> str:
        """In the report."""
        return f"{self.peer.name}, seed {seed}"


def enter(shop: Workshop, peer: Peer, trials: int, seeds: int, peers: Mapping[str, Peer] = PEERS) -> Entry:
    """Choose a peer's trial and train its other seeds."""
    chooser = peers[peer.follows] if peer.follows else peer
    chosen = shop.choose(chooser, trials)
    scores = {}
    if chosen is not None:
        plateau = isinstance(peer, TrainedPeer) and peer.plateau
        for seed in range(min(seeds, PLATEAU_SEEDS) if plateau else seeds):
            (score,) = shop.validated(peer, peer.trials[chosen.trial], seed, [chosen.sampling])
            if score is not None:
                scores[seed] = score
    return Entry(peer, chosen, scores)


def judge_all(shop: Workshop, entries: Sequence[Entry]) -> Report:
    """One report on the test split of every seed of every peer."""
    models: dict[str, Generate] = {}
    for entry in entries:
        for seed in entry.scores:
            assert entry.chosen is not None
            trial = entry.peer.trials[entry.chosen.trial]
            models[entry.name(seed)] = shop.generate(entry.peer, trial, seed)(entry.chosen.sampling)
    return evaluate(
        models,
        shop.benches.judge,
        split="test",
        codec=shop.codec,
        encode_text=text_codes(shop.encoder),
        n=shop.benches.n,
        captions=shop.benches.captions,
        say=shop.say,
    )


def line_of(shop: Workshop, entry: Entry, report: Report) -> Line:
    """A peer's line of the table."""
    if entry.chosen is None or not entry.scores:
        return Line(entry.peer.name, entry.peer.uses_vae, failed="every trial or seed diverged")
    trial = entry.peer.trials[entry.chosen.trial]
    runs = [shop.results.get({"trained": shop.key(entry.peer, trial, seed)}) for seed in entry.scores]
    rows = {
        row: {
            name: Spread.of([judged.methods[entry.name(seed)].value(name) for seed in entry.scores])
            for name in HEADLINES
        }
        for row, judged in report.rows.items()
    }
    return Line(
        entry.peer.name,
        entry.peer.uses_vae,
        [run["seconds"] / 60 for run in runs if run],
        [run["steps"] for run in runs if run],
        trial,
        entry.chosen.sampling,
        Spread.of(list(entry.scores.values())),
        rows,
    )


def build_parser() -> Parser:
    """The command's arguments."""
    parser = Parser(NAME, __doc__, f"{NAME} pictures --data data/pictures --minutes 10 --vae-minutes 1")
    add_common(parser)
    parser.add_argument("--trials", type=whole(1), default=3, help="hyperparameters tried, chosen on validation")
    parser.add_argument("--only", nargs="+", choices=list(PEERS), metavar="NAME", help=f"of {', '.join(PEERS)}")
    parser.set_defaults(out="runs/peers", seeds=3)
    return parser


def add_common(parser: argparse.ArgumentParser) -> None:
    """Arguments that `eval.studies.peers` and `eval.studies.pairs` share."""
    parser.add_argument("model", help="whose VAE and text encoder all share: a shipped model's name, or a folder")
    parser.add_argument("--data", default="data/pictures", help="a dataset")
    parser.add_argument("--vae", type=Path, help="a codec's folder, in place of the model's")
    parser.add_argument("--pictures", type=Path, help="a dataset of more pictures, shown to all without captions")
    parser.add_argument(
        "--vae-minutes", type=number(0), default=0.0, help="processor minutes that the VAE's training cost"
    )
    parser.add_argument(
        "--minutes", type=number(above=0), default=60.0, help="processor minutes of each, the VAE's included"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="no", help="bf16 trains all in bfloat16 autocast")
    parser.add_argument("--seeds", type=whole(1), help="trainings of each")
    parser.add_argument("--out", help="folder of results; a run goes on where it was stopped")
    parser.add_argument("--captions", type=whole(2), help="judge at most so many captions of each row")
    parser.add_argument("--samples", type=whole(2), default=4, help="pictures a caption, at least 2")


def open_workshop(args: argparse.Namespace, *, singly: bool = False) -> Workshop:
    """Model, judge and training material of a command."""
    check_counts(args.samples, args.captions)
    if args.seeds < 1:
        raise UserError(f"--seeds: expected at least 1, got {args.seeds}")
    minutes_left(args.vae_minutes, args.minutes)
    if args.vae_minutes == 0:
        say("note: the VAE's training is charged to nobody; give --vae-minutes")
    note_precision(args.precision, "--precision")
    out = writable_folder(args.out)
    pipe = BridgePipeline.from_pretrained(args.model)
    codec = load_codec(args.vae) if args.vae else pipe.codec
    benches = Benches(_judge(args.data, singly=singly), args.samples, args.captions)
    for split in ROWS:
        benches.of(split)  # what cannot be judged is not trained first
    judge = benches.judge
    material = load(Path(args.data), judge.pictures, codec, pipe.text_encoder, args.pictures, say)
    identity: dict[str, Any] = {
        "data": judge.pictures.fingerprint,
        "pictures": Pictures.load(args.pictures).fingerprint if args.pictures else None,
        "captions": material.fingerprint,
        "vae": codec.fingerprint,
        "text": pipe.text_encoder.fingerprint,
    }
    return Workshop(
        benches,
        Asked(pipe.text_encoder),
        codec,
        pipe.text_encoder,
        material,
        Results(out / "results.jsonl"),
        out / "runs",
        args.minutes,
        args.vae_minutes,
        identity,
        args.precision,
        say,
    )


def _judge(folder: str, *, singly: bool) -> Judge:
    """The judge of a dataset, of single pictures where it has to be and `singly` allows it."""
    pictures = Pictures.load(folder)
    why = why_single(pictures, tuple(part for parts in ROWS.values() for part in parts.values()))
    if why is not None and not singly:
        raise UserError(
            f"--data: {why}, so there is no one score to compare by; eval and eval.studies.pairs take such data"
        )
    if why is not None:
        say(f"judged singly: {why}; {SINGLE}")
    return Judge.of(pictures, EfficientNetLite0(), why, say)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the table is printed, 2 for bad input."""
    return run_command(build_parser(), argv, lambda args: _run(args, spelled(NAME, argv)))


def _run(args: argparse.Namespace, command: str) -> None:
    if args.trials < 1:
        raise UserError(f"--trials: expected at least 1, got {args.trials}")
    shop = open_workshop(args)
    chosen = [peer for peer in ALL if not args.only or peer.name in args.only]
    entries = [enter(shop, peer, args.trials, args.seeds) for peer in chosen]
    if not any(entry.scores for entry in entries):
        raise UserError("every trial of every peer diverged; see the messages above")
    report = judge_all(shop, entries)
    atomic_write(Path(args.out) / "report.json", to_json(report))
    about = {"command": command, "data": report.data}
    comparison = PeersReport(
        report.split,
        args.minutes,
        args.vae_minutes,
        args.captions,
        args.samples,
        [line_of(shop, entry, report) for entry in entries],
        {
            row: {name: judged.methods[name].value("score") for name in ("real", "reconstruction")}
            for row, judged in report.rows.items()
        },
        about,
    )
    atomic_write(Path(args.out) / "peers.json", to_json(comparison))
    print(to_text(comparison))


if __name__ == "__main__":
    sys.exit(main())
