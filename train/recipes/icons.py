"""Icons by hundreds of artists, the name for a caption: more pictures for a VAE, more pairs for a mapper.

    python -m train.recipes icons --out data/icons

downloads permissively licensed Iconify sets with `npm`, keeps one drawing a caption and set, leaves out whatever
resembles a held-out emoji caption or picture, draws the rest at 64 x 64 on white, and writes a folder that
`datasets.load_from_disk` opens: image, captions, label, artist, style, palette, family, split, with CREDITS.md beside
it. `--palette` takes the sets in several colours alone.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import datasets
import numpy as np
from tqdm import tqdm

from bridge.text import TextEncoder
from train.data.dataset import features, load_dataset
from train.recipes.drawing import draw_rows, thumbnails_of
from train.recipes.emoji import SPLITS
from train.recipes.iconify import PALETTE_SETS, PLAIN_SETS, IconSet, icon_svg
from train.recipes.writing import LISTS, SIZE, Row, add_downloads, run_recipe, write_rows
from train.splits import Splits, near_pictures

NEAR = 0.7
"""A caption at least this near a held-out one, in cosine similarity, could tell a model of it."""
FEATURES = features("image captions label artist style palette family split")


class Codes:
    """Text codes of many captions, encoded once."""

    def __init__(self, texts: Sequence[str], encoder: TextEncoder) -> None:
        self.place = {text: i for i, text in enumerate(sorted(set(texts)))}
        blocks = [list(self.place)[start : start + 4096] for start in range(0, len(self.place), 4096)]
        bar = tqdm(blocks, desc="captions", file=sys.stderr)
        self.codes = np.concatenate([encoder.encode(b, batch_size=256, with_tokens=False).pooled.numpy() for b in bar])

    def __getitem__(self, texts: Sequence[str]) -> np.ndarray:
        """Unit-norm codes, (N, D)."""
        return self.codes[[self.place[text] for text in texts]]


def content_words(captions: Sequence[str]) -> set[str]:
    """Words of captions that mean something by themselves."""
    words = {word for caption in captions for word in re.findall(r"[a-z]+", caption.lower())}
    return {word for word in words if len(word) > 1} - set(LISTS["STOP_WORDS"])


def leaking(captions: Sequence[str], codes: Codes, splits: Splits, *, plurals: bool = False) -> set[str]:
    """Captions that could tell of a held-out one: by a code near a held-out label's, or by a word.

    That is a content word of held-out labels, or its plural where asked for, which no training label has.
    """
    held_out, known = splits.labels(train=False), content_words(splits.labels(train=True))
    telling = content_words(held_out) - known
    if plurals:
        telling |= {f"{word}s" for word in telling} - known
    far = codes[held_out].T
    parts = [captions[i : i + 4096] for i in range(0, len(captions), 4096)]
    near = np.concatenate([(codes[part] @ far).max(1) >= NEAR for part in parts])
    return {text for text, by_code in zip(captions, near, strict=True) if by_code or telling & content_words([text])}


def collect(
    packages: Sequence[str], downloads: Path, splits: Splits, emoji: Path, size: int = SIZE
) -> tuple[list[Row], list[str]]:
    """Download, choose and draw: rows with PNG bytes under "png", and the credits.

    `packages` are NAME@VERSION without the npm scope; `emoji` is the dataset of `train.recipes emoji`, whose pictures
    outside training, as the captions that `splits` holds out, nothing may resemble.
    """
    reference = load_dataset(emoji).cast_column("image", datasets.Image(decode=False))
    held_out = reference.select([i for i, side in enumerate(reference["split"]) if side != "train"])
    rows, credits = [], []
    for package in tqdm(packages, desc="download", file=sys.stderr):
        icon_set = IconSet.fetch(package, downloads)
        credits.append(icon_set.credit)
        prefix, palette = icon_set.info["prefix"], bool(icon_set.info.get("palette"))
        for caption, name in icon_set.captions.items():
            columns = {"label": caption, "captions": [caption], "artist": prefix, "style": prefix, "palette": palette}
            rows.append({**columns, "split": "train", "svg": icon_svg(icon_set.icons, name)})
    labels = sorted({row["label"] for row in rows})
    codes = Codes([*labels, *splits.labels(train=False)], TextEncoder.from_pretrained())
    leaks = leaking(labels, codes, splits)
    family = {label: number for number, label in enumerate(labels)}
    drawn = draw_rows([{**row, "family": family[row["label"]]} for row in rows if row["label"] not in leaks], size)
    held_out_thumbnails = thumbnails_of([{"png": image["bytes"]} for image in held_out["image"]])
    near = near_pictures(thumbnails_of(drawn), held_out_thumbnails)
    kept = [row for row, leak in zip(drawn, near, strict=True) if not leak]
    counts = f"{len(kept)} pictures of {len({r['label'] for r in kept})} captions; left out {len(leaks)} captions and"
    print(f"{counts} {int(near.sum())} pictures that are near held-out ones", file=sys.stderr)
    return kept, credits


def _options(parser: argparse.ArgumentParser) -> None:
    add_downloads(parser)
    parser.add_argument("--emoji", type=Path, default=Path("data/emoji"), help="the dataset of the recipe emoji")
    parser.add_argument("--palette", action="store_true", help="only the sets in several colours")


def _run(args: argparse.Namespace) -> None:
    packages = PALETTE_SETS if args.palette else PALETTE_SETS + PLAIN_SETS
    rows, credits = collect(packages, args.downloads, Splits.load(SPLITS), args.emoji, args.size)
    write_rows(rows, FEATURES, args.out, credits)


main = partial(run_recipe, "icons", __doc__, _options, _run)
