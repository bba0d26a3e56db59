"""What does one word in place of another change in pictures?

Pairs of pictures in the model's memory whose captions differ by it: how much of what they differ by `bridge edit` makes
of the first of them, learnt from other pairs or, between two colours, by painting.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bridge.changes import Change, change_pairs
from bridge.colours import colour_named
from bridge.composition import painting
from bridge.errors import UserError
from bridge.images import contact_sheet, save_png
from bridge.mappers import LocalFlowMapper
from bridge.pipeline import BridgePipeline
from eval.metrics.bootstrap import Interval, paired_bootstrap
from eval.studies import Study, add_common
from train.command import Parser, say, whole, writable_file

LEARNT = (10, 30, 100, 200)  # Pairs that a change is learnt from
JUDGED, SHOWN = 200, 8  # Pairs that it is judged on at most, and that a sheet shows


def _words(given: str) -> tuple[str, str]:
    minus, arrow, plus = given.partition("->")
    if not (minus.strip() and arrow and plus.strip()):
        raise argparse.ArgumentTypeError(f"expected 'WORDS -> WORDS', got {given!r}")
    return minus.strip(), plus.strip()


def _arguments(parser: Parser) -> None:
    add = add_common(parser, "model", "--seed")
    add("--change", type=_words, action="append", required=True, metavar="'A -> B'", help="may be repeated")
    add("--least", type=whole(2), default=10, metavar="N", help="captions, with fewer of which nothing is judged")
    add("--out", type=Path, metavar="PNG", help="a sheet: before, changed, after")


def first_captions(mapper: LocalFlowMapper, pairs: Tensor) -> np.ndarray:
    """Number of the first caption of each pair's first picture."""
    return np.asarray(mapper.link.cpu()[mapper.start.cpu()[pairs[:, 0]].long()].numpy())


def halves(mapper: LocalFlowMapper, captions: Sequence[str], minus: str, plus: str, seed: int) -> tuple[Tensor, Tensor]:
    """Pairs to learn from and to judge on, (N, 2) each, such that no caption of a first picture is on both sides."""
    pairs = torch.tensor(change_pairs(mapper, captions, minus, plus), dtype=torch.long).view(-1, 2)
    first, rng = first_captions(mapper, pairs), np.random.default_rng(seed)
    names = rng.permutation(np.unique(first))
    order = torch.from_numpy(rng.permutation(len(pairs)))
    learnt = torch.from_numpy(np.isin(first, names[: len(names) // 2]))[order]
    return pairs[order][learnt], pairs[order][~learnt][:JUDGED]


def left(z: Tensor, after: Tensor, before: Tensor, captions: np.ndarray) -> Interval:
    """Squared distance to the latents after a change, as a share of that of the latents before it."""
    error, all_of_it = ((x - after).flatten(1).square().sum(1).numpy() for x in (z, before))
    return paired_bootstrap(error / all_of_it.mean(), captions)


def _run(args: argparse.Namespace, command: str) -> None:
    if args.out:
        writable_file(args.out)
    pipe = BridgePipeline.from_pretrained(args.model)
    mapper = pipe.mapper
    if not isinstance(mapper, LocalFlowMapper):
        raise UserError(f"model: {args.model} has no memory of pictures; name one that has, such as pictures")
    print(command)
    names = ["mean difference", "painted", *(f"learnt from {n}" for n in LEARNT)]
    print("| change | pairs judged | " + " | ".join(names) + " |")
    print("| --- | --- |" + " --- |" * len(names))
    rows = []
    for minus, plus in args.change:
        learn, judge = halves(mapper, pipe.memory.captions, minus, plus, args.seed)
        shown = first_captions(mapper, judge)
        if len(learn) < LEARNT[0] or len(np.unique(shown)) < args.least:
            say(f"{minus} -> {plus}: {len(learn)} and {len(judge)} pairs in memory, too few to learn from or to judge")
            continue
        (before, after), (a, b) = (mapper.picture_latents(pairs.T) for pairs in (learn, judge))
        changed = {"mean difference": a + (after - before).mean(0)}
        if pipe.codec.draws_opacity and (colour := colour_named(plus)) and (source := colour_named(minus)):
            changed["painted"] = a + painting(a, colour, source, pipe.codec)
        changed |= {f"learnt from {n}": Change.fit(before[:n], after[:n]).apply(a) for n in LEARNT if n <= len(learn)}
        cells = [f"{left(changed[name], b, a, shown)}" if name in changed else "" for name in names]
        print(f"| {minus} → {plus} | {len(judge)} | {' | '.join(cells)} |", flush=True)
        best = list(changed)[-1:] + ["painted"] * ("painted" in changed)
        for name, z in (("before", a), *((name, changed[name]) for name in best), ("after", b)):
            rows.append((f"{minus} -> {plus}: {name}", pipe.decode(z[:SHOWN])))
    if not rows:
        raise UserError("--change: memory shows none of these often enough; see above")
    if args.out:
        save_png(contact_sheet([images for _, images in rows], [name for name, _ in rows]), args.out, {})
        print(args.out)


EXAMPLE = "pictures --change 'red -> blue' --change 'light skin tone -> dark skin tone'"
STUDY = Study(__doc__, EXAMPLE, _arguments, _run)
