"""Icons by hundreds of artists, the name for a caption: more pictures for a VAE, more pairs for a mapper.

    python -m train.recipes icons --out data/icons

downloads permissively licensed Iconify sets with `npm`, keeps one drawing a caption and set, leaves out whatever
resembles a held-out emoji caption or picture, draws the rest at 64 x 64 on white, and writes a folder that
`datasets.load_from_disk` opens: image, captions, label, artist, style, palette, family, split, with CREDITS.md beside
it. `--palette` takes the sets in several colours alone.
"""

import argparse
import json
import re
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from tqdm import tqdm

from bridge.errors import UserError
from bridge.text import TextEncoder
from train.data.dataset import features, load_dataset
from train.recipes.drawing import draw_rows, thumbnails_of
from train.recipes.writing import LISTS, SIZE, SPLITS, Row, add_downloads, run_recipe, run_tool, write_rows
from train.splits import Splits, near_pictures

PALETTE_SETS, PLAIN_SETS, GLYPH_SETS = (LISTS[name] for name in ("PALETTE_SETS", "PLAIN_SETS", "GLYPH_SETS"))
"""NAME@VERSION of sets in several colours, of sets in one, and of those of the latter that are mostly things."""
LICENCES = {"MIT", "Apache-2.0", "ISC", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0"}
"""What a set's own `info.json` may say: a trained model may be shipped, with attribution."""
MAX_WORDS = 5
NEAR = 0.7  # A caption at least this near a held-out one, in cosine similarity, could tell a model of it
BLOCK = 4096
FEATURES = features("image captions label artist style palette family split")


class LicenceError(UserError):
    """An icon set under a licence that is not permissive."""


def npm_pack(package: str, folder: Path) -> Path:
    """The folder of `NAME@VERSION`, fetched with npm into `folder` and unpacked once. Raises MissingToolError."""
    target = folder / re.sub(r"[^\w.-]+", "_", package)
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    install = "install Node.js (Debian: apt-get install npm; macOS: brew install node) and run again"
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = Path(name)
        words = ["npm", "pack", package, "--silent"]
        with tarfile.open(run_tool(words, scratch, "*.tgz", install, "check the network")) as archive:
            archive.extractall(scratch, filter="data")
        try:
            (scratch / "package").rename(target)
        except OSError:
            if not target.exists():  # else another process was first with the same package
                raise
    return target


@dataclass(frozen=True)
class IconSet:
    """One fetched set of Iconify: its icons.json, and its info.json, which names author and licence."""

    icons: dict[str, Any]
    info: dict[str, Any]

    @classmethod
    def fetch(cls, package: str, downloads: Path) -> "IconSet":
        """NAME@VERSION of Iconify's sets; see `load`."""
        return cls.load(npm_pack(f"@iconify-json/{package}", downloads))

    @classmethod
    def load(cls, folder: Path) -> "IconSet":
        """Read an unpacked package. Raises LicenceError if its licence is none of LICENCES."""
        icons, info = (json.loads((folder / name).read_text("utf-8")) for name in ("icons.json", "info.json"))
        if (licence := info["license"].get("spdx")) not in LICENCES:
            known = ", ".join(sorted(LICENCES))
            raise LicenceError(f"{info['prefix']}: its licence is {licence}; use sets under {known}")
        return cls(icons, info)

    @property
    def credit(self) -> str:
        """One line of CREDITS.md."""
        author, licence = self.info["author"], self.info["license"]
        return f"- {self.info['name']} by {author['name']} ({author.get('url', 'no address')}), {licence['spdx']}"

    @cached_property
    def captions(self) -> dict[str, str]:
        """{caption: icon name}: of a caption's drawings the one with the shortest name, hidden ones left out."""
        chosen: dict[str, str] = {}
        for name in sorted(self.icons["icons"], key=lambda n: (len(n), n)):
            caption = icon_caption(name)
            if len(caption) > 1 and len(caption.split()) <= MAX_WORDS and not self.icons["icons"][name].get("hidden"):
                chosen.setdefault(caption, name)
        return chosen


def icon_caption(name: str) -> str:
    """The caption in an icon's name: its words without those of style, sizes and numbers; may be empty."""
    return " ".join(w for w in re.split(r"[^a-z]+", name.lower()) if w and w not in LISTS["STYLE_WORDS"])


def icon_svg(icons: dict[str, Any], name: str) -> str:
    """One icon of an icons.json as a square SVG document, the drawing centred."""
    icon = icons["icons"][name]
    left, top = (icon.get(key, icons.get(key, 0)) for key in ("left", "top"))
    width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
    side = max(width, height)
    box = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} viewBox="{box}" width="64" height="64">{icon["body"]}</svg>'


class Codes:
    """Text codes of many captions, encoded once."""

    def __init__(self, texts: Sequence[str], encoder: TextEncoder) -> None:
        known = sorted(set(texts))
        self.place = {text: i for i, text in enumerate(known)}
        bar = tqdm([known[start : start + BLOCK] for start in range(0, len(known), BLOCK)], "captions", file=sys.stderr)
        self.codes = np.concatenate([encoder.encode(b, batch_size=256, with_tokens=False).pooled.numpy() for b in bar])

    def __getitem__(self, texts: Sequence[str]) -> np.ndarray:
        """Unit-norm codes, (N, D)."""
        return self.codes[[self.place[text] for text in texts]]


def content_words(captions: Sequence[str]) -> set[str]:
    """Words of captions that mean something by themselves."""
    words = {word for caption in captions for word in re.findall(r"[a-z]+", caption.lower())}
    return {word for word in words if len(word) > 1} - set(LISTS["STOP_WORDS"])


def leaking(captions: Sequence[str], codes: Codes, splits: Splits, *, plurals: bool = False) -> set[str]:
    """Captions near a held-out label by code, or with one of its words (or `plurals`) that no training label has."""
    held_out, known = splits.labels(train=False), content_words(splits.labels(train=True))
    telling = content_words(held_out) - known
    if plurals:
        telling |= {f"{word}s" for word in telling} - known
    far = codes[held_out].T
    parts = [captions[start : start + BLOCK] for start in range(0, len(captions), BLOCK)]
    near = np.concatenate([(codes[part] @ far).max(1) >= NEAR for part in parts])
    return {text for text, by_code in zip(captions, near, strict=True) if by_code or telling & content_words([text])}


def collect(
    packages: Sequence[str], downloads: Path, splits: Splits, emoji: Path, size: int = SIZE
) -> tuple[list[Row], list[str]]:
    """Rows with "png", and credits, of packages NAME@VERSION, but what is near what `splits` or `emoji` hold out."""
    reference = load_dataset(emoji).cast_column("image", datasets.Image(decode=False))
    held_out = reference.select([i for i, side in enumerate(reference["split"]) if side != "train"])
    rows, credits = [], []
    for package in tqdm(packages, desc="download", file=sys.stderr):
        icon_set = IconSet.fetch(package, downloads)
        credits.append(icon_set.credit)
        prefix, palette = icon_set.info["prefix"], bool(icon_set.info.get("palette"))
        for caption, name in icon_set.captions.items():
            row = {"label": caption, "captions": [caption], "artist": prefix, "style": prefix, "palette": palette}
            rows.append({**row, "split": "train", "drawing": icon_svg(icon_set.icons, name)})
    labels = sorted({row["label"] for row in rows})
    family = {label: number for number, label in enumerate(labels)}
    codes = Codes([*labels, *splits.labels(train=False)], TextEncoder.from_pretrained())
    leaks = leaking(labels, codes, splits)
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
    write_rows(FEATURES, rows, args.out, credits)


main = partial(run_recipe, "icons", __doc__, _options, _run)
