"""Does the model find captions from pictures, and back?

Pictures of 100 captions, by artists whose drawings of them are not in training, are scored against all 100 captions
by the model's evidence for them (`bridge.score`), beside ridge regression of latents on text codes with the cosine.
Captions are chosen by hash; families have equal weight. For a picture from a caption there is one picture of each
caption at a time, three times. `--times` tries guesses from less and less noise (0: all noise) instead, one by one.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor

from bridge import score as scores
from bridge.errors import UserError
from bridge.mappers import VelocityMapper
from bridge.noise import normal_rows
from bridge.pipeline import BridgePipeline
from bridge.text import TextCode
from eval.baselines import Baselines, text_codes
from eval.data import Pictures, first_by_hash, picture_latents, references
from eval.metrics.bootstrap import Interval, paired_bootstrap
from eval.report import ROWS
from eval.studies import Study, add_common
from train.command import Parser, number, whole

FIRST, ROUNDS = 10, 3


@dataclass(frozen=True)
class Retrieval:
    """How well the right one is found among so many."""

    first: Interval  # Share where it is ranked first
    ten: Interval  # Share where it is among the first ten
    median: float  # Median rank, 1 is best

    def line(self, name: str) -> str:
        return f"  {name:10} first {self.first}  first ten {self.ten}  median rank {self.median:g}"


def ranks(score: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Rank (M,) of the right column (M,) in every row of scores (M, C): 1 is best; equals share the mean of theirs."""
    return np.take_along_axis(rankdata(-score, axis=1), right[:, None], axis=1)[:, 0]


def retrieval(rank: np.ndarray, families: np.ndarray) -> Retrieval:
    """Figures of ranks (M,), families (M,) having equal weight but in the median."""
    first, ten = (paired_bootstrap((rank <= n).astype(float), families) for n in (1, FIRST))
    return Retrieval(first, ten, float(np.median(rank)))


def compare(title: str, model: np.ndarray, ridge: np.ndarray, families: np.ndarray) -> str:
    """Ranks of the right ones (M,) by the model and by ridge regression, in words; the difference is paired."""
    tens = np.stack([model <= FIRST, ridge <= FIRST], axis=1).astype(float)
    ahead = paired_bootstrap(tens, families, lambda m: m[..., 0] - m[..., 1])
    lines = [retrieval(rank, families).line(name) for name, rank in (("model", model), ("ridge", ridge))]
    return "\n".join([f"{title}:", *lines, f"  first ten, model less ridge: {ahead}"])


def picture_ranks(score: np.ndarray, groups: Sequence[np.ndarray], rounds: int) -> np.ndarray:
    """Rank of each caption's picture, taken in turns, among one of every caption, of scores (M, C): (rounds * C,)."""
    one = [[group[turn % len(group)] for group in groups] for turn in range(rounds)]
    return np.concatenate([ranks(score[rows].T, np.arange(len(groups))) for rows in one])


@torch.no_grad()
def from_less_noise(mapper: VelocityMapper, z: Tensor, c: TextCode, time: float, probes: int, seed: int = 0) -> Tensor:
    """Scores (M, C) of latents by guesses from themselves at a time, 0 = noise; see `bridge.score`.

    Source: Li et al. 2023, Your Diffusion Model is Secretly a Zero-Shot Classifier, arXiv:2303.16203
    """
    both, t = TextCode.cat([TextCode.null(1, c.pooled.shape[1]), c]), torch.full((len(z),), time)
    error = torch.zeros(len(z), len(both))
    for eps in normal_rows([(seed, probe) for probe in range(probes)], z.shape[1:]):
        z_t = time * z + (1 - time) * eps
        for i in range(len(both)):
            guess = z_t + (1 - time) * mapper.velocity(z_t, t, both[torch.full((len(z),), i)])
            error[:, i] += (guess - z).square().flatten(1).sum(1) / (2 * probes)
    return error[:, :1] - error[:, 1:]


def _arguments(parser: Parser) -> None:
    add, rows = add_common(parser, "model", "--data", "--split", "--seed"), ["seen", "held-out"]
    add("--rows", nargs="+", choices=rows, default=rows, help="of captions")
    add("--candidates", type=whole(2), default=100, help="captions")
    add("--method", choices=scores.METHODS, help="default: the mapper's own")
    add("--samples", type=whole(0), default=0, help="of each caption, for how typical pictures are")
    add("--pictures", type=whole(1), help="of each caption at most; default all")
    add("--times", type=number(0, 1), nargs="+", metavar="T", help="try these, and nothing else")
    add("--probes", type=whole(1), default=4, help="draws of noise for --times")


def _run(args: argparse.Namespace, _: str) -> None:
    pipe = BridgePipeline.from_pretrained(args.model)
    method = scores.resolve_method(pipe.mapper, args.method)
    if args.times and not isinstance(pipe.mapper, VelocityMapper):
        raise UserError(f"--times: {type(pipe.mapper).__name__} goes through no less noise; leave them out")
    pictures = Pictures.load(args.data)
    ridge = None if args.times else Baselines.fit(pictures, pipe.codec, text_codes(pipe.text_encoder)).ridge
    for row in args.rows:
        refs = first_by_hash(references(pictures, ROWS[args.split][row]), args.candidates)
        if args.pictures:
            refs = replace(refs, rows=tuple(r[: args.pictures] for r in refs.rows))
        sizes = [len(r) for r in refs.rows]
        right, families = np.repeat(np.arange(len(refs)), sizes), np.repeat(refs.families, sizes)
        z = picture_latents(pipe.codec, pictures, np.concatenate(refs.rows)).mean
        c = pipe.text_encoder.encode(list(refs.captions), 64, with_tokens=pipe.mapper.reads_tokens)
        print(f"{args.split}, {row}: {len(z)} pictures of {len(refs)} captions, by {method}", flush=True)
        if ridge is None:
            assert isinstance(pipe.mapper, VelocityMapper)
            for time in args.times:
                less = from_less_noise(pipe.mapper, z, c, time, args.probes, args.seed).numpy()
                print(retrieval(ranks(less, right), families).line(f"t = {time:g}"), flush=True)
            continue
        model = scores.score_latents(pipe.mapper, z, c, method=method, seed=args.seed)
        linear = cosine_similarity(z.flatten(1).numpy(), ridge.mean(c.pooled.numpy()))
        print(compare("caption from picture", ranks(model.numpy(), right), ranks(linear, right), families))
        groups = np.split(np.arange(len(z)), np.cumsum(sizes)[:-1])
        mine, theirs = (picture_ranks(m, groups, ROUNDS) for m in (model.numpy(), linear))
        print(compare("picture from caption", mine, theirs, np.tile(refs.families, ROUNDS)))
        if args.samples:  # how typical right and wrong pictures are of a caption
            share = scores.typical(pipe.mapper, model, c, method=method, samples=args.samples, seed=args.seed).numpy()
            is_right = np.eye(share.shape[1], dtype=bool)[right]
            for name, values in (("right", share[is_right]), ("wrong", share[~is_right])):
                figures = f"mean {values.mean():.2f}, share at 0 {(values == 0).mean():.2f}"
                print(f"typical, {name} pictures: {figures}; the model's own: .50, 0")
        sys.stdout.flush()


STUDY = Study(__doc__, "pictures --data data/pictures --split validation", _arguments, _run)
