"""The latent spaces of a model: draws from them, neighbourhoods in them, ways between two pictures."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor

from bridge import explore
from bridge.codecs import load_codec
from bridge.errors import UserError
from bridge.images import contact_sheet, save_png, to_pil
from bridge.mappers import Mapper
from bridge.noise import generator_for, normal_rows
from bridge.pipeline import BridgePipeline, Settings, draw
from bridge.text import TextCode
from eval.baselines import decode_all, flat_latents
from eval.data import Pictures, picture_latents, references, spread_over_families
from eval.features import EfficientNetLite0, Extractor
from eval.judge import Judge, JudgeSpace
from eval.metrics.bootstrap import Interval, family_mean, paired_bootstrap
from eval.metrics.nearest import local_radius, relative_distance
from eval.metrics.quality import kid
from eval.studies import Study, add_common, named
from train.command import Parser, say, whole, writable_file
from train.data.dataset import content_hash

SHOWN, CELL, COLOURS = 8, 64, 128
CHUNK = 256
Sheet = list[tuple[str, list[Image.Image]]]
Measure = Callable[[argparse.Namespace, BridgePipeline], Sheet]


def normal(args: argparse.Namespace, pipe: BridgePipeline) -> Sheet:
    """Is it normal by design?

    Draws from N(0, I) and from a fitted Gaussian, decoded, for several codecs, and draws through the mapper's own
    normal space: kernel distance to held-out pictures, and the shares of draws that pass the realism test, and that
    lie among held-out pictures (precision).
    """
    judge = Judge.load(args.data, EfficientNetLite0(), say)
    pictures, train, held_out = judge.pictures, judge.train, judge.pictures.where(args.split)
    late = judge.features[held_out].late
    print(f"{args.n} draws each; KID to {len(held_out)} real pictures of {args.split}; shares that pass as real")
    sheet: Sheet = []

    def show(name: str, x: Tensor) -> None:
        features = judge.extractor.encode(x)
        passes = (judge.space.describe(features).realistic, near_real(features.late, late))
        real, precision = (paired_bootstrap(v.astype(float), np.arange(len(v))) for v in passes)
        distance = kid(features.late, late)
        print(f"  {name:34} KID {distance:6.3f}  realistic {real}  precision {precision}", flush=True)
        sheet.append((name, to_pil(x[:SHOWN])))

    real = judge.space.describe(judge.features[held_out]).realistic.astype(float)
    by_family = paired_bootstrap(real, pictures.family[held_out])
    print(f"  {'real ' + args.split:34} KID  0      realistic {by_family} by family")
    order = torch.randperm(len(train), generator=generator_for(args.seed))[: args.n].numpy()
    show("real training pictures", pictures.pixels(train[order]))
    keys = [(args.seed, i) for i in range(args.n)]
    for name, codec in {"model": pipe.codec, **{name: load_codec(Path(folder)) for name, folder in args.codec}}.items():
        z, noise = picture_latents(codec, pictures, train).mean, normal_rows(keys, codec.z_shape)
        show(f"{name}: reconstructions", decode_all(codec, picture_latents(codec, pictures, held_out[: args.n]).mean))
        show(f"{name}: N(0, I)", decode_all(codec, channel_draws(z, noise)))
        show(f"{name}: fitted Gaussian", decode_all(codec, gaussian_draws(z, noise)))
    steps = int(pipe.settings.num_inference_steps)
    noise, null = normal_rows(keys, pipe.mapper.sample_noise_shape), TextCode.null(args.n, pipe.text_encoder.dim)
    show("through the mapper", decode_all(pipe.codec, mapped(pipe.mapper, null, noise, steps)))
    return sheet


def gaussian_draws(z: Tensor, normal: Tensor) -> Tensor:
    """Draws (n, *z_shape) from the Gaussian fitted to latents (N, *z_shape), by standard normal noise (n, *z_shape)."""
    flat = z.flatten(1).double()
    covariance = torch.cov(flat.T) + 1e-6 * torch.eye(flat.shape[1], dtype=torch.float64)
    draws = flat.mean(0) + normal.flatten(1).double() @ torch.linalg.cholesky(covariance).T
    return draws.float().view_as(normal)


def channel_draws(z: Tensor, normal: Tensor) -> Tensor:
    """Normal noise (n, C, *places) with the mean and deviation of each channel of latents (N, C, *places)."""
    over = [0, *range(2, z.ndim)]
    return z.mean(over, keepdim=True) + z.std(over, keepdim=True) * normal


def mapped(mapper: Mapper, c: TextCode, noise: Tensor, steps: int) -> Tensor:
    """Latents of codes, without guidance, (B, *z_shape); `steps` count for a mapper with a velocity."""
    parts, settings = range(0, len(noise), CHUNK), Settings(num_inference_steps=steps)
    return torch.cat([draw(mapper, c[i : i + CHUNK], noise[i : i + CHUNK], settings) for i in parts])


def near(args: argparse.Namespace, pipe: BridgePipeline) -> Sheet:
    """Do similar items lie close?

    Nearest captions in text space and in image space (means of real latents, and of the mapper's samples), how far
    they agree, and nearest pictures.
    """
    pictures, sheet = Pictures.load(args.data), []
    for split in ("train", args.split):
        rows, refs = pictures.where(split), references(pictures, split)
        z = flat_latents(pipe.codec, pictures, rows)
        order = spread_over_families([content_hash(c.encode()) for c in refs.captions], refs.families)
        refs = refs[np.array(order[: min(args.n, len(np.unique(refs.families)))])]  # one a family
        captions = list(refs.captions)
        c = pipe.text_encoder.encode(captions, 64, with_tokens=pipe.mapper.reads_tokens)
        bridged = mapped_means(pipe.mapper, c, args.samples, int(pipe.settings.num_inference_steps), args.seed)
        image = np.stack([z[np.searchsorted(rows, own)].mean(0) for own in refs.rows])
        k = min(10, (len(captions) - 1) // 4)
        points = {"text": c.pooled.numpy(), "pictures": image, "bridged": bridged.flatten(1).numpy()}
        neighbours = {name: nearest(each, k) for name, each in points.items()}
        chance = f"chance {k / (len(captions) - 1):.2f}"
        print(f"{split}: {len(captions)} captions, one a family; shared of the {k} nearest, {chance}")
        pairs = [("text", "pictures"), ("bridged", "pictures"), ("text", "bridged")]
        shared = {f"{a} and {b}": overlap(neighbours[a], neighbours[b]) for a, b in pairs}
        shared["after less before"] = shared["bridged and pictures"] - shared["text and pictures"]
        for name, values in shared.items():
            print(f"  {name:20} {paired_bootstrap(values, np.arange(len(captions)))}", flush=True)
        for i, caption in enumerate(captions[:3]):
            for name, index in neighbours.items():
                print(f"    {caption!r} in {name}: {', '.join(captions[j] for j in index[i, :4])}")
        if split == args.split:
            sheet += _nearest_pictures(pictures, rows, z, [own[0] for own in refs.rows[:6]])
    return sheet


def _nearest_pictures(pictures: Pictures, rows: np.ndarray, z: np.ndarray, queries: Sequence[int]) -> Sheet:
    """Each query and its nearest pictures in image space; and how often the nearest has its caption or family."""
    index = nearest(z, SHOWN - 1)
    families = pictures.family[rows]
    for name, labels in (("caption", pictures.label[rows]), ("family", families), ("artist", pictures.artist[rows])):
        same = (labels[index[:, 0]] == labels).astype(float)
        equal = np.array([(labels == one).sum() - 1 for one in labels]) / (len(labels) - 1)
        chance = float(family_mean(equal, families))
        print(f"  nearest picture has the same {name}: {paired_bootstrap(same, families)}, chance {chance:.2f}")
    shown = [np.array([query, *rows[index[np.searchsorted(rows, query)]]]) for query in queries]
    return [(str(pictures.label[row[0]]), to_pil(pictures.pixels(row))) for row in shown]


def mapped_means(mapper: Mapper, c: TextCode, samples: int, steps: int, seed: int) -> Tensor:
    """Mean of each caption's samples, without guidance and on shared noise, (C, *z_shape)."""
    noise = normal_rows([(seed, i) for i in range(samples)], mapper.sample_noise_shape)
    which = torch.arange(len(c)).repeat_interleave(samples)
    z = mapped(mapper, c[which], noise.repeat(len(c), *[1] * (noise.ndim - 1)), steps)
    return z.unflatten(0, (len(c), samples)).mean(1)


def nearest(points: np.ndarray, k: int) -> np.ndarray:
    """The k nearest others of every point (N, D) by the cosine to the points' mean, (N, k), nearest first.

    >>> nearest(np.array([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [-1.0, 0.1]]), 1).ravel()
    array([1, 0, 3, 2])
    """
    if not 1 <= k < len(points):
        raise UserError(f"k: expected 1 to {len(points) - 1} neighbours of {len(points)} points, got {k}")
    cosine = cosine_similarity(points - points.mean(axis=0))
    np.fill_diagonal(cosine, -np.inf)
    return np.argsort(-cosine, axis=1, kind="stable")[:, :k]


def overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Share of each item's neighbours that two spaces have in common, (N,), of indices (N, k) each."""
    return (a[:, :, None] == b[:, None, :]).any(2).mean(1)


def paths(args: argparse.Namespace, pipe: BridgePipeline) -> Sheet:
    """What lies between two real pictures of other families?

    A cross-fade, latents, a morph, the mapper's noise: how even and straight the steps are, and what passes as real.
    """
    judge = Judge.load(args.data, EfficientNetLite0(), say)
    pictures, rows = judge.pictures, judge.pictures.where(args.split)
    names, rng, pairs = np.unique(pictures.family[rows]), np.random.default_rng(args.seed), []
    for _ in range(args.n):
        both = rng.choice(names, 2, replace=False)
        pairs.append(np.array([rng.choice(rows[pictures.family[rows] == family]) for family in both]))
    null = TextCode.null(1, pipe.text_encoder.dim)
    explore.weights(args.steps)  # a wrong number is named before any pair is left out for it
    every: list[dict[str, Tensor]] = []  # the ways of each pair
    farthest = 0.0
    for number, pair in enumerate(pairs):
        a, b = pictures.pixels(pair)
        z = pipe.codec.encode(torch.stack([a, b])).mean
        ways = {"cross-fade": explore.walk(a, b, args.steps)}
        start, end = (explore.End(f"{n} picture", "image", z[i], null) for i, n in enumerate(("first", "second")))
        for kind in (*explore.KINDS, explore.MORPH):
            ways[f"latent {kind}"] = pipe.codec.decode(explore.between(pipe, start, end, args.steps, kind=kind))
        try:
            noise = explore.noise_walk(pipe, start, end, args.steps, num_inference_steps=args.sampling_steps)
        except ValueError as error:
            say(f"pair {number} has no way through noise: {error}")
        else:
            farthest = max(farthest, float((noise[[0, -1]] - z).abs().max()))
            ways["noise"] = pipe.codec.decode(noise)
        every.append(ways)
        say(f"  {number + 1} of {len(pairs)} pairs")
    kept = [ways for ways in every if "noise" in ways]
    if len(kept) < 2:
        kept = [{name: path for name, path in ways.items() if name != "noise"} for ways in every]
        say("fewer than two pairs have noise that leads to both pictures: that way is left out; try --sampling-steps 6")
    print(f"{len(kept)} of {len(pairs)} pairs of {args.split}, {args.steps} pictures each")
    if "noise" in kept[0]:
        print(f"  ends from noise: largest difference {farthest:.1e} of a standardised latent")
    real = judge.features[np.setdiff1d(rows, np.concatenate(pairs))].late
    for name in kept[0]:
        figures = smoothness(judge.space, judge.extractor, torch.stack([w[name] for w in kept]), real, args.seed)
        print(f"  {name:17} largest/mean step {figures.largest}  length {figures.length}")
        print(f"  {'':17} plausible {figures.plausible}  precision {figures.precision}", flush=True)
    return [(name, to_pil(path)) for ways in kept[:2] for name, path in ways.items()]


def near_real(features: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Whether each picture (B, F) lies as near to a real one (N, F) as that one's third nearest real one, (B,) bool.

    Unlike the realism test it uses all features, not only what captions differ in, and is not calibrated.

    Source: Kynkäänniemi et al. 2019, Improved Precision and Recall Metric, arXiv:1904.06991
    """
    return relative_distance(features, real, local_radius(real, 3), len(real)) <= 1


@dataclass(frozen=True)
class Smoothness:
    """How paths run, averaged over pairs."""

    largest: Interval  # Largest step over the mean step; 1 for equal steps
    length: Interval  # Sum of the steps over the distance of the ends; 1 for the straight way
    plausible: Interval  # Share of the pictures between the ends that pass the realism test
    precision: Interval  # Share of them that lie among real pictures; see `near_real`


def smoothness(space: JudgeSpace, extractor: Extractor, paths: Tensor, real: np.ndarray, seed: int = 0) -> Smoothness:
    """P > 1 paths of S > 2 pictures, (P, S, 3, H, W) in [0, 1], as a judge sees them; `real` are late features (N, F).

    Source: Karras et al. 2019, arXiv:1812.04948, also measure a path by steps in a judge's features
    """
    features = extractor.encode(paths.flatten(0, 1))
    described = space.describe(features)
    passes = (described.realistic, near_real(features.late, real))
    shares = [each.reshape(paths.shape[:2])[:, 1:-1].mean(1) for each in passes]
    columns = (*step_ratios(described.shows.reshape(*paths.shape[:2], -1)), *shares)
    return Smoothness(*(paired_bootstrap(v.astype(float), np.arange(len(paths)), seed=seed) for v in columns))


def step_ratios(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of paths (P, S, D): largest step over the mean step, and summed steps over the ends' distance, (P,) each."""
    steps = np.linalg.norm(np.diff(points, axis=1), axis=2)
    ends = np.linalg.norm(points[:, -1] - points[:, 0], axis=1)
    return steps.max(1) / np.maximum(steps.mean(1), 1e-30), steps.sum(1) / np.maximum(ends, 1e-30)


def _study(measure: Measure, count: int, what: str, options: Mapping[str, dict[str, Any]]) -> Study:
    """A study of a model that prints figures and writes a sheet; `count` is the default of `what` it draws."""

    def arguments(parser: Parser) -> None:
        add = add_common(parser, "model", "--data", "--seed")
        add("--split", default="validation", help="the real pictures to compare with")
        add("-n", type=whole(1), default=count, help=what)
        add("--out", type=Path, required=True, help="PNG file")
        for name, keywords in options.items():
            add(name, **keywords)

    def run(args: argparse.Namespace, _: str) -> None:
        writable_file(args.out)
        pipe = BridgePipeline.from_pretrained(args.model)
        names, rows = zip(*measure(args, pipe), strict=True)
        page = contact_sheet(rows, names, cell=CELL, columns=max(len(row) for row in rows))
        save_png(page.quantize(COLOURS), args.out, {"model": pipe.fingerprint, "seed": args.seed})
        print(args.out)

    return Study(measure.__doc__, f"pictures --data data/pictures --out {measure.__name__}.png", arguments, run)


CODEC = {"type": named, "action": "append", "default": [], "metavar": "NAME=FOLDER", "help": "another codec"}
SAMPLES = {"type": whole(1), "default": 16, "help": "of each caption"}
STEPS = {"type": whole(2), "default": 9, "help": "pictures of one, both ends included"}
SAMPLING = {"type": whole(1, 1000), "help": "of the mapper; default its own"}
STUDIES = {
    "normal": _study(normal, 500, "draws", {"--codec": CODEC}),
    "near": _study(near, 300, "captions", {"--samples": SAMPLES}),
    "paths": _study(paths, 20, "pairs", {"--steps": STEPS, "--sampling-steps": SAMPLING}),
}
