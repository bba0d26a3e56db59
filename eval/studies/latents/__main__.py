"""python -m eval.studies.latents normal|near|paths MODEL --data data/pictures --out PNG: latent spaces, measured.

normal   Is it normal by design? Draws from N(0, I) and from a fitted Gaussian, decoded, for several codecs, and
         draws through the mapper's own normal space: kernel distance to held-out pictures, and the shares of draws
         that pass the realism test, and that lie among held-out pictures (precision).
near     Do similar items lie close? Nearest captions in text space and in image space (means of real latents, and
         of the mapper's samples), how far they agree, and nearest pictures.
paths    What lies between two real pictures: cross-fade, latents, the mapper's noise.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bridge import explore
from bridge.codecs import ImageCodec, load_codec
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
from eval.studies.latents import spaces
from train.command import Parser, run_command, say, whole, writable_file
from train.data.dataset import content_hash

NAME = "python -m eval.studies.latents"
SHOWN, CELL, COLOURS = 8, 64, 128
Sheet = list[tuple[str, list[Image.Image]]]


def _split_name(given: str) -> tuple[str, Path]:
    name, equals, folder = given.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"expected NAME=FOLDER, got {given!r}")
    return name, Path(folder)


def normal(args: argparse.Namespace, pipe: BridgePipeline, judge: Judge) -> Sheet:
    """Draws from each space beside real pictures."""
    pictures = judge.pictures
    held_out = pictures.where(args.split)
    late = judge.features[held_out].late
    families = pictures.family[held_out]
    print(f"{args.n} draws each; KID to {len(held_out)} real pictures of {args.split}; shares that pass as real")
    sheet: Sheet = []

    def tell(name: str, x: Tensor) -> None:
        features = judge.extractor.encode(x)
        real = judge.space.describe(features).realistic.astype(float)
        within = spaces.near_real(features.late, late).astype(float)
        share, precision = (paired_bootstrap(v, np.arange(len(v))) for v in (real, within))
        distance = kid(features.late, late)
        print(f"  {name:34} KID {distance:6.3f}  realistic {share}  precision {precision}", flush=True)
        sheet.append((name, to_pil(x[:SHOWN])))

    real = judge.space.describe(judge.features[held_out]).realistic.astype(float)
    print(f"  {'real ' + args.split:34} KID  0      realistic {paired_bootstrap(real, families)} by family")
    train = judge.train
    order = torch.randperm(len(train), generator=generator_for(args.seed))[: args.n].numpy()
    tell("real training pictures", pictures.pixels(train[order]))
    codecs: dict[str, ImageCodec] = {"model": pipe.codec, **{name: load_codec(folder) for name, folder in args.codec}}
    for name, codec in codecs.items():
        z = picture_latents(codec, pictures, train).mean
        noise = normal_rows([(args.seed, i) for i in range(args.n)], codec.z_shape)
        real_z = picture_latents(codec, pictures, held_out[: args.n]).mean
        tell(f"{name}: reconstructions", decode_all(codec, real_z))
        tell(f"{name}: N(0, I)", decode_all(codec, spaces.channel_draws(z, noise)))
        tell(f"{name}: fitted Gaussian", decode_all(codec, spaces.gaussian_draws(z, noise)))
    noise = normal_rows([(args.seed, i) for i in range(args.n)], pipe.mapper.sample_noise_shape)
    null = TextCode.null(args.n, pipe.text_encoder.dim)
    through = spaces.mapped(pipe.mapper, null, noise, int(pipe.settings.num_inference_steps))
    tell("through the mapper", decode_all(pipe.codec, through))
    return sheet


def near(args: argparse.Namespace, pipe: BridgePipeline, pictures: Pictures) -> Sheet:
    """Neighbourhoods in text space and in image space, before and after the bridge."""
    sheet: Sheet = []
    for split in ("train", args.split):
        rows = pictures.where(split)
        z = flat_latents(pipe.codec, pictures, rows)
        groups = _one_a_family(pictures, rows, args.n)
        captions = list(groups)
        c = pipe.text_encoder.encode(captions, 64, with_tokens=pipe.mapper.reads_tokens)
        place = {int(row): i for i, row in enumerate(rows)}
        image = np.stack([z[[place[int(r)] for r in g]].mean(0) for g in groups.values()])
        bridged = spaces.mapped_means(pipe.mapper, c, args.samples, int(pipe.settings.num_inference_steps), args.seed)
        k = min(10, (len(captions) - 1) // 4)
        neighbours = {
            name: spaces.nearest(points, k)
            for name, points in (
                ("text", c.pooled.numpy()),
                ("pictures", image),
                ("bridged", bridged.flatten(1).numpy()),
            )
        }
        _tell_overlaps(split, len(captions), k, neighbours)
        for caption in captions[:3]:
            i = captions.index(caption)
            for name, index in neighbours.items():
                print(f"    {caption!r} in {name}: {', '.join(captions[j] for j in index[i, :4])}")
        if split == args.split:
            sheet += _nearest_pictures(pictures, rows, z, [groups[caption][0] for caption in captions[:6]])
    return sheet


def _tell_overlaps(split: str, count: int, k: int, neighbours: dict[str, np.ndarray]) -> None:
    each = np.arange(count)
    print(f"{split}: {count} captions, one a family; shared of the {k} nearest, chance {k / (count - 1):.2f}")
    before = spaces.overlap(neighbours["text"], neighbours["pictures"])
    after = spaces.overlap(neighbours["bridged"], neighbours["pictures"])
    print(f"  text and pictures    {paired_bootstrap(before, each)}")
    print(f"  bridged and pictures {paired_bootstrap(after, each)}")
    print(f"  text and bridged     {paired_bootstrap(spaces.overlap(neighbours['text'], neighbours['bridged']), each)}")
    print(f"  after less before    {paired_bootstrap(after - before, each)}", flush=True)


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
    place = {int(row): i for i, row in enumerate(rows)}
    sheet = []
    for query in queries:
        shown = np.array([query, *rows[index[place[int(query)]]]])
        sheet.append((str(pictures.label[query]), to_pil(pictures.pixels(shown))))
    return sheet


def paths(args: argparse.Namespace, pipe: BridgePipeline, judge: Judge) -> Sheet:
    """Ways between two real pictures of other families."""
    pictures = judge.pictures
    rows = pictures.where(args.split)
    pairs = _pairs(pictures, rows, args.n, args.seed)
    x = pictures.pixels(np.concatenate(pairs)).unflatten(0, (len(pairs), 2))
    null = TextCode.null(1, pipe.text_encoder.dim)
    places = explore.weights(args.steps)
    ways: dict[str, list[Tensor]] = {name: [] for name in ("cross-fade", "latent linear", "latent spherical", "noise")}
    farthest, shown = 0.0, []
    for number, (a, b) in enumerate(x):
        z = pipe.codec.encode(torch.stack([a, b])).mean
        ends = [explore.End("", "image", one, null) for one in z]
        try:
            noise = explore.noise_walk(pipe, ends[0], ends[1], args.steps, num_inference_steps=args.sampling_steps)
        except ValueError as error:
            say(f"pair {number} is left out: {error}")
            continue
        shown.append(number)
        farthest = max(farthest, float((noise[[0, -1]] - z).abs().max()))
        ways["cross-fade"].append(spaces.cross_fade(a, b, places))
        for kind in explore.KINDS:
            ways[f"latent {kind}"].append(pipe.codec.decode(explore.walk(z[0], z[1], args.steps, kind)))
        ways["noise"].append(pipe.codec.decode(noise))
        say(f"  {number + 1} of {len(pairs)} pairs")
    if len(shown) < 2:
        raise UserError("-n: fewer than two pairs have noise that leads to both pictures; try --sampling-steps 6")
    print(f"{len(shown)} of {len(pairs)} pairs of {args.split}, {args.steps} pictures each; the others have no noise")
    print(f"  ends from noise: largest difference {farthest:.1e} of a standardised latent")
    real = judge.features[np.setdiff1d(rows, np.concatenate(pairs))].late
    for name, path in ways.items():
        figures = spaces.smoothness(judge.space, judge.extractor, torch.stack(path), real, args.seed)
        print(f"  {name:17} largest/mean step {figures.largest}  length {figures.length}")
        print(f"  {'':17} plausible {figures.plausible}  precision {figures.precision}", flush=True)
    return [(name, to_pil(path[i])) for i in range(min(2, len(shown))) for name, path in ways.items()]


def _pairs(pictures: Pictures, rows: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """Pairs of pictures of other families, each picture once, drawn by `seed`: [(2,)] * count at most."""
    names = np.unique(pictures.family[rows])
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        a, b = rng.choice(names, 2, replace=False)
        pairs.append(np.array([rng.choice(rows[pictures.family[rows] == family]) for family in (a, b)]))
    return pairs


def _run(args: argparse.Namespace) -> None:
    args.n = {"normal": 500, "near": 300, "paths": 20}[args.what] if args.n is None else args.n
    writable_file(args.out)
    pipe = BridgePipeline.from_pretrained(args.model)
    if args.what == "near":
        sheet = near(args, pipe, Pictures.load(args.data))
    else:
        judge = Judge.load(args.data, EfficientNetLite0(), say)
        sheet = {"normal": normal, "paths": paths}[args.what](args, pipe, judge)
    names, rows = zip(*sheet, strict=True)
    page = contact_sheet(rows, names, cell=CELL, columns=max(len(row) for row in rows))
    save_png(page.quantize(COLOURS), args.out, {"model": pipe.fingerprint, "seed": args.seed})
    print(args.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when table and sheet are written, 2 for bad input."""
    parser = Parser(NAME, __doc__, f"{NAME} paths pictures --data data/pictures --out paths.png")
    add = parser.add_argument
    add("what", choices=("normal", "near", "paths"), help="see above")
    add("model", help="a shipped model's name, a model folder, or a hub id")
    add("--data", type=Path, default=Path("data/pictures"), help="a dataset")
    add("--split", default="validation", help="the real pictures to compare with")
    add("--codec", type=_split_name, action="append", default=[], metavar="NAME=FOLDER", help="normal: one more codec")
    add("-n", type=whole(1), help="draws (500), captions (300), or pairs (20)")
    add("--samples", type=whole(1), default=16, help="near: of each caption")
    add("--steps", type=whole(2), default=9, help="paths: pictures of one, both ends included")
    add("--sampling-steps", type=whole(1, 1000), help="paths: of the mapper; default its own")
    add("--seed", type=whole(0), default=0, help="key of all randomness")
    add("--out", type=Path, required=True, help="PNG file")
    return run_command(parser, argv, _run)


if __name__ == "__main__":
    sys.exit(main())
