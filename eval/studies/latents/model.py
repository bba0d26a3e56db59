"""The latent spaces of a model: draws from them, neighbourhoods in them, ways between two pictures."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bridge import explore
from bridge.codecs import load_codec
from bridge.errors import UserError
from bridge.images import contact_sheet, save_png, to_pil
from bridge.noise import generator_for, normal_rows
from bridge.pipeline import BridgePipeline
from bridge.text import TextCode
from eval.baselines import decode_all, flat_latents
from eval.data import Pictures, by_caption, picture_latents
from eval.features import EfficientNetLite0
from eval.judge import Judge
from eval.metrics.bootstrap import family_mean, paired_bootstrap
from eval.metrics.quality import kid
from eval.studies import Study, add_common, named
from eval.studies.latents import spaces
from train.command import Parser, say, whole, writable_file
from train.data.dataset import content_hash

SHOWN, CELL, COLOURS = 8, 64, 128
Sheet = list[tuple[str, list[Image.Image]]]


def normal(args: argparse.Namespace, pipe: BridgePipeline) -> Sheet:
    """Is it normal by design?

    Draws from N(0, I) and from a fitted Gaussian, decoded, for several codecs, and draws through the mapper's own
    normal space: kernel distance to held-out pictures, and the shares of draws that pass the realism test, and that
    lie among held-out pictures (precision).
    """
    judge = Judge.load(args.data, EfficientNetLite0(), say)
    pictures, train = judge.pictures, judge.train
    held_out = pictures.where(args.split)
    late = judge.features[held_out].late
    print(f"{args.n} draws each; KID to {len(held_out)} real pictures of {args.split}; shares that pass as real")
    sheet: Sheet = []

    def show(name: str, x: Tensor) -> None:
        features = judge.extractor.encode(x)
        passes = (judge.space.describe(features).realistic, spaces.near_real(features.late, late))
        real, precision = (paired_bootstrap(v.astype(float), np.arange(len(v))) for v in passes)
        distance = kid(features.late, late)
        print(f"  {name:34} KID {distance:6.3f}  realistic {real}  precision {precision}", flush=True)
        sheet.append((name, to_pil(x[:SHOWN])))

    real = judge.space.describe(judge.features[held_out]).realistic.astype(float)
    by_family = paired_bootstrap(real, pictures.family[held_out])
    print(f"  {'real ' + args.split:34} KID  0      realistic {by_family} by family")
    order = torch.randperm(len(train), generator=generator_for(args.seed))[: args.n].numpy()
    show("real training pictures", pictures.pixels(train[order]))
    codecs = {"model": pipe.codec, **{name: load_codec(Path(folder)) for name, folder in args.codec}}
    keys = [(args.seed, i) for i in range(args.n)]
    for name, codec in codecs.items():
        z = picture_latents(codec, pictures, train).mean
        noise = normal_rows(keys, codec.z_shape)
        real_z = picture_latents(codec, pictures, held_out[: args.n]).mean
        show(f"{name}: reconstructions", decode_all(codec, real_z))
        show(f"{name}: N(0, I)", decode_all(codec, spaces.channel_draws(z, noise)))
        show(f"{name}: fitted Gaussian", decode_all(codec, spaces.gaussian_draws(z, noise)))
    noise, null = normal_rows(keys, pipe.mapper.sample_noise_shape), TextCode.null(args.n, pipe.text_encoder.dim)
    through = spaces.mapped(pipe.mapper, null, noise, int(pipe.settings.num_inference_steps))
    show("through the mapper", decode_all(pipe.codec, through))
    return sheet


def near(args: argparse.Namespace, pipe: BridgePipeline) -> Sheet:
    """Do similar items lie close?

    Nearest captions in text space and in image space (means of real latents, and of the mapper's samples), how far
    they agree, and nearest pictures.
    """
    pictures, sheet = Pictures.load(args.data), []
    for split in ("train", args.split):
        rows = pictures.where(split)
        z = flat_latents(pipe.codec, pictures, rows)
        groups = _one_a_family(pictures, rows, args.n)
        captions = list(groups)
        c = pipe.text_encoder.encode(captions, 64, with_tokens=pipe.mapper.reads_tokens)
        image = np.stack([z[np.searchsorted(rows, g)].mean(0) for g in groups.values()])
        bridged = spaces.mapped_means(pipe.mapper, c, args.samples, int(pipe.settings.num_inference_steps), args.seed)
        k = min(10, (len(captions) - 1) // 4)
        points = {"text": c.pooled.numpy(), "pictures": image, "bridged": bridged.flatten(1).numpy()}
        neighbours = {name: spaces.nearest(each, k) for name, each in points.items()}
        chance = f"chance {k / (len(captions) - 1):.2f}"
        print(f"{split}: {len(captions)} captions, one a family; shared of the {k} nearest, {chance}")
        pairs = [("text", "pictures"), ("bridged", "pictures"), ("text", "bridged")]
        shared = {f"{a} and {b}": spaces.overlap(neighbours[a], neighbours[b]) for a, b in pairs}
        shared["after less before"] = shared["bridged and pictures"] - shared["text and pictures"]
        for name, values in shared.items():
            print(f"  {name:20} {paired_bootstrap(values, np.arange(len(captions)))}", flush=True)
        for i, caption in enumerate(captions[:3]):
            for name, index in neighbours.items():
                print(f"    {caption!r} in {name}: {', '.join(captions[j] for j in index[i, :4])}")
        if split == args.split:
            sheet += _nearest_pictures(pictures, rows, z, [groups[caption][0] for caption in captions[:6]])
    return sheet


def _one_a_family(pictures: Pictures, rows: np.ndarray, most: int) -> dict[str, np.ndarray]:
    """Rows of at most `most` captions, one a family, each drawn by two artists, by the hash of the caption."""
    groups = by_caption(pictures, rows)
    chosen: dict[int, str] = {}
    for caption in sorted(groups, key=lambda c: content_hash(c.encode())):
        if len(np.unique(pictures.artist[groups[caption]])) >= 2:
            chosen.setdefault(int(pictures.family[groups[caption][0]]), caption)
    return {caption: groups[caption] for caption in list(chosen.values())[:most]}


def _nearest_pictures(pictures: Pictures, rows: np.ndarray, z: np.ndarray, queries: Sequence[int]) -> Sheet:
    """Each query and its nearest pictures in image space; and how often the nearest has its caption or family."""
    index = spaces.nearest(z, SHOWN - 1)
    families, artists = pictures.family[rows], pictures.artist[rows]
    for name, labels in (("caption", pictures.label[rows]), ("family", families), ("artist", artists)):
        same = (labels[index[:, 0]] == labels).astype(float)
        equal = np.array([(labels == one).sum() - 1 for one in labels]) / (len(labels) - 1)
        chance = float(family_mean(equal, families))
        print(f"  nearest picture has the same {name}: {paired_bootstrap(same, families)}, chance {chance:.2f}")
    shown = [np.array([query, *rows[index[np.searchsorted(rows, query)]]]) for query in queries]
    return [(str(pictures.label[row[0]]), to_pil(pictures.pixels(row))) for row in shown]


def paths(args: argparse.Namespace, pipe: BridgePipeline) -> Sheet:
    """What lies between two real pictures of other families?

    A cross-fade, latents, the mapper's noise: how even and how straight the steps are, and what passes as real.
    """
    judge = Judge.load(args.data, EfficientNetLite0(), say)
    pictures = judge.pictures
    rows = pictures.where(args.split)
    names, rng, pairs = np.unique(pictures.family[rows]), np.random.default_rng(args.seed), []
    for _ in range(args.n):
        both = rng.choice(names, 2, replace=False)
        pairs.append(np.array([rng.choice(rows[pictures.family[rows] == family]) for family in both]))
    x = pictures.pixels(np.concatenate(pairs)).unflatten(0, (len(pairs), 2))
    null = TextCode.null(1, pipe.text_encoder.dim)
    explore.weights(args.steps)  # a wrong number is named before any pair is left out for it
    ways: dict[str, list[Tensor]] = {name: [] for name in ("cross-fade", "latent linear", "latent spherical", "noise")}
    farthest = 0.0
    for number, (a, b) in enumerate(x):
        z = pipe.codec.encode(torch.stack([a, b])).mean
        ends = [explore.End("", "image", one, null) for one in z]
        try:
            noise = explore.noise_walk(pipe, ends[0], ends[1], args.steps, num_inference_steps=args.sampling_steps)
        except ValueError as error:
            say(f"pair {number} is left out: {error}")
            continue
        farthest = max(farthest, float((noise[[0, -1]] - z).abs().max()))
        ways["cross-fade"].append(explore.walk(a, b, args.steps))
        for kind in explore.KINDS:
            ways[f"latent {kind}"].append(pipe.codec.decode(explore.walk(z[0], z[1], args.steps, kind)))
        ways["noise"].append(pipe.codec.decode(noise))
        say(f"  {number + 1} of {len(pairs)} pairs")
    kept = len(ways["noise"])
    if kept < 2:
        raise UserError("-n: fewer than two pairs have noise that leads to both pictures; try --sampling-steps 6")
    print(f"{kept} of {len(pairs)} pairs of {args.split}, {args.steps} pictures each; the others have no noise")
    print(f"  ends from noise: largest difference {farthest:.1e} of a standardised latent")
    real = judge.features[np.setdiff1d(rows, np.concatenate(pairs))].late
    for name, path in ways.items():
        figures = spaces.smoothness(judge.space, judge.extractor, torch.stack(path), real, args.seed)
        print(f"  {name:17} largest/mean step {figures.largest}  length {figures.length}")
        print(f"  {'':17} plausible {figures.plausible}  precision {figures.precision}", flush=True)
    return [(name, to_pil(path[i])) for i in range(min(2, kept)) for name, path in ways.items()]


def _study(measure: Callable[[argparse.Namespace, BridgePipeline], Sheet], count: int, what: str) -> Study:
    """A study of a model that prints figures and writes a sheet; `count` is the default of what it draws."""
    name = measure.__name__

    def arguments(parser: Parser) -> None:
        add_common(parser, "model", "--data", "--seed")
        add = parser.add_argument
        add("--split", default="validation", help="the real pictures to compare with")
        add("-n", type=whole(1), default=count, help=what)
        add("--out", type=Path, required=True, help="PNG file")
        if name == "normal":
            add("--codec", type=named, action="append", default=[], metavar="NAME=FOLDER", help="another codec")
        elif name == "near":
            add("--samples", type=whole(1), default=16, help="of each caption")
        else:
            add("--steps", type=whole(2), default=9, help="pictures of one, both ends included")
            add("--sampling-steps", type=whole(1, 1000), help="of the mapper; default its own")

    def run(args: argparse.Namespace, _: str) -> None:
        writable_file(args.out)
        pipe = BridgePipeline.from_pretrained(args.model)
        names, rows = zip(*measure(args, pipe), strict=True)
        page = contact_sheet(rows, names, cell=CELL, columns=max(len(row) for row in rows))
        save_png(page.quantize(COLOURS), args.out, {"model": pipe.fingerprint, "seed": args.seed})
        print(args.out)

    return Study(measure.__doc__ or "", f"pictures --data data/pictures --out {name}.png", arguments, run)


NORMAL = _study(normal, 500, "draws")
NEAR = _study(near, 300, "captions")
PATHS = _study(paths, 20, "pairs")
