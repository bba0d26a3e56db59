"""Icons by hundreds of artists, the name for a caption: more pictures for a VAE, more pairs for a mapper.

    python -m train.recipes.icons --out data/icons

downloads permissively licensed Iconify sets with `npm`, keeps one drawing a caption and set, leaves out
whatever resembles a held-out emoji caption or picture, draws the rest at 64 x 64 on white, and writes a
folder that `datasets.load_from_disk` opens: image, captions, label, artist, style, palette, family, split,
with CREDITS.md beside it. `--palette` takes the sets in several colours alone.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from tqdm import tqdm

from bridge.checkpoint import check_replaceable
from bridge.errors import UserError
from bridge.text import DEFAULT_DIGEST, DEFAULT_ID, TextEncoder
from train.command import Parser, run_command, writable_folder
from train.data.dataset import load_dataset
from train.recipes.emoji import SPLITS
from train.recipes.iconify import (
    SIZE,
    add_size,
    draw_all,
    icon_svg,
    is_blank,
    npm_pack,
    thumbnails_of,
    write_rows,
)
from train.splits import LEAK_RMSE, Splits, near_pictures

PALETTE_SETS = (
    "icon-park@1.2.4",
    "streamline-color@1.2.2",
    "streamline-plump-color@1.2.2",
    "streamline-freehand-color@1.2.2",
    "streamline-flex-color@1.2.2",
    "streamline-sharp-color@1.2.2",
    "streamline-ultimate-color@1.2.2",
    "fluent-color@1.2.21",
    "streamline-cyber-color@1.2.2",
    "streamline-kameleon-color@1.2.2",
    "streamline-stickies-color@1.2.2",
    "marketeq@1.2.2",
    "meteocons@1.2.4",
    "flat-color-icons@1.2.3",
    "flat-ui@1.2.3",
)
"""Sets in several colours."""
PLAIN_SETS = (
    "mdi@1.2.3",
    "ph@1.2.2",
    "tabler@1.2.41",
    "game-icons@1.2.4",
    "healthicons@1.2.13",
    "streamline@1.2.5",
    "fa7-solid@1.2.5",
    "lucide@1.2.137",
    "mingcute@1.2.8",
    "ri@1.2.10",
    "carbon@1.2.29",
    "solar@1.2.13",
    "hugeicons@1.2.35",
    "pinhead@1.2.28",
    "iconoir@1.2.11",
    "boxicons@1.2.0",
    "material-symbols@1.2.98",
    "fluent@1.2.60",
    "temaki@1.2.6",
    "maki@1.2.5",
    "mynaui@1.2.19",
    "clarity@1.2.4",
    "lets-icons@1.2.2",
    "majesticons@1.2.5",
    "gravity-ui@1.2.15",
    "teenyicons@1.2.2",
)
"""Sets in one colour, drawn black."""
LICENCES = {"MIT", "Apache-2.0", "ISC", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0"}
"""What a set's own `info.json` may say: a trained model may be shipped, with attribution."""

STYLE_WORDS = {
    *("outline", "outlined", "line", "linear", "stroke", "fill", "filled", "solid", "bulk", "bold", "light", "thin"),
    *("regular", "sharp", "round", "rounded", "curved", "twotone", "duotone", "flat", "color", "colour", "freehand"),
    *("remix", "broken", "alt", "variant", "off"),
}
"""Words of an icon's name that say how it is drawn."""
MAX_WORDS = 5
NEAR = 0.7
"""An icon whose caption is at least this near a held-out one, in cosine similarity, is left out."""
STOP_WORDS = {"a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"}

TEXT = datasets.Value("string")
FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "captions": datasets.List(TEXT),
        "label": TEXT,
        "artist": TEXT,
        "style": TEXT,
        "palette": datasets.Value("bool"),
        "family": datasets.Value("int32"),
        "split": TEXT,
    }
)


class LicenceError(UserError):
    """An icon set under a licence that is not permissive."""


@dataclass(frozen=True)
class IconSet:
    """One fetched set: its icons and what its own `info.json` says of it."""

    icons: dict[str, Any]
    info: dict[str, Any]

    @classmethod
    def load(cls, package: Path) -> "IconSet":
        """Read an unpacked package.

        Raises:
            LicenceError: Its licence is none of LICENCES.
        """
        icons, info = (json.loads((package / name).read_text("utf-8")) for name in ("icons.json", "info.json"))
        licence = info["license"].get("spdx")
        if licence not in LICENCES:
            raise LicenceError(
                f"{info['prefix']}: its licence is {licence}; use sets under {', '.join(sorted(LICENCES))}"
            )
        return cls(icons, info)

    @property
    def credit(self) -> str:
        """One line of CREDITS.md."""
        author, licence = self.info["author"], self.info["license"]
        return f"- {self.info['name']} by {author['name']} ({author.get('url', 'no address')}), {licence['spdx']}"


def icon_caption(name: str) -> str:
    """The caption in an icon's name: its words without those of style, sizes and numbers; may be empty.

    >>> icon_caption("alarm-clock-outline-24")
    'alarm clock'
    """
    words = [w for w in re.split(r"[^a-z]+", name.lower()) if w and w not in STYLE_WORDS]
    return " ".join(words)


def one_a_caption(icon_set: IconSet) -> dict[str, str]:
    """{caption: icon name}: of a caption's drawings the one with the shortest name, hidden ones left out."""
    chosen: dict[str, str] = {}
    for name in sorted(icon_set.icons["icons"], key=lambda n: (len(n), n)):
        caption = icon_caption(name)
        if len(caption) > 1 and len(caption.split()) <= MAX_WORDS and not icon_set.icons["icons"][name].get("hidden"):
            chosen.setdefault(caption, name)
    return chosen


def content_words(captions: Sequence[str]) -> set[str]:
    """Words of captions that mean something by themselves."""
    words = {word for caption in captions for word in re.findall(r"[a-z]+", caption.lower())}
    return {word for word in words if len(word) > 1} - STOP_WORDS


def leaking(captions: Sequence[str], splits: Splits, encoder: TextEncoder) -> np.ndarray:
    """Which captions could tell of a held-out one.

    Those that share a content word with a held-out label which no training label has, and those whose
    text code is near a held-out label's.

    Returns:
        bool, (N,).
    """
    sides: dict[bool, list[str]] = {True: [], False: []}
    for labels, side in zip(splits.families, splits.sides, strict=True):
        sides[side == "train"] += labels
    telling = content_words(sides[False]) - content_words(sides[True])
    by_word = np.array([bool(telling & content_words([caption])) for caption in captions], dtype=bool)
    held_out = encoder.encode(sides[False], batch_size=32, with_tokens=False).pooled.numpy()
    by_code = np.zeros(len(captions), dtype=bool)
    for start in tqdm(range(0, len(captions), 256), desc="captions", file=sys.stderr):
        codes = encoder.encode(captions[start : start + 256], batch_size=32, with_tokens=False).pooled.numpy()
        by_code[start : start + 256] = (codes @ held_out.T).max(1) >= NEAR
    return by_word | by_code


def collect(
    packages: Sequence[str], downloads: Path, splits: Splits, emoji: Path, size: int = SIZE
) -> tuple[list[dict[str, Any]], str]:
    """Download, choose and draw.

    Args:
        packages: NAME@VERSION of each set, without the npm scope.
        downloads: Where npm packages are kept.
        splits: Which emoji captions are held out.
        emoji: The dataset of train.recipes.emoji, for its held-out pictures.
        size: Side of a picture in pixels.

    Returns:
        Rows with PNG bytes under "png", and the credits.

    Raises:
        LicenceError: A set's licence is not permissive.
        MissingToolError: npm is missing or failed.
        UserError: `emoji` is no dataset.
    """
    reference = load_dataset(emoji).cast_column("image", datasets.Image(decode=False))
    held_out = reference.select([i for i, side in enumerate(reference["split"]) if side != "train"])
    encoder = TextEncoder.from_pretrained(DEFAULT_ID, digest=DEFAULT_DIGEST)
    rows, svgs, credits = [], [], []
    for package in tqdm(packages, desc="download", file=sys.stderr):
        icon_set = IconSet.load(npm_pack(f"@iconify-json/{package}", downloads))
        credits.append(icon_set.credit)
        prefix, palette = icon_set.info["prefix"], bool(icon_set.info.get("palette"))
        for caption, name in one_a_caption(icon_set).items():
            rows.append(
                {"label": caption, "captions": [caption], "artist": prefix, "style": prefix, "palette": palette}
            )
            svgs.append(icon_svg(icon_set.icons, name))
    labels = sorted({row["label"] for row in rows})
    leaks = {label for label, leak in zip(labels, leaking(labels, splits, encoder), strict=True) if leak}
    family = {label: number for number, label in enumerate(labels)}
    chosen = [i for i, row in enumerate(rows) if row["label"] not in leaks]
    pngs = draw_all([svgs[i] for i in chosen], size)
    drawn = [
        {**rows[i], "family": family[rows[i]["label"]], "split": "train", "png": png}
        for i, png in zip(chosen, pngs, strict=True)
        if not is_blank(png)
    ]
    thumbnails = thumbnails_of([{"png": image["bytes"]} for image in held_out["image"]])
    near = near_pictures(thumbnails_of(drawn), thumbnails, LEAK_RMSE)
    kept = [row for row, leak in zip(drawn, near, strict=True) if not leak]
    print(
        f"{len(kept)} pictures of {len({r['label'] for r in kept})} captions; left out {len(leaks)} captions and "
        f"{int(near.sum())} pictures that are near held-out ones",
        file=sys.stderr,
    )
    return kept, "\n".join(["# Credits", "", *credits, ""])


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = Parser("python -m train.recipes.icons", __doc__, "python -m train.recipes.icons --out data/icons")
    parser.add_argument("--out", type=Path, default=Path("data/icons"), help="folder of the dataset")
    parser.add_argument(
        "--emoji", type=Path, default=Path("data/emoji"), help="the dataset made by train.recipes.emoji"
    )
    parser.add_argument("--downloads", type=Path, default=Path("data/npm"), help="where npm packages are kept")
    add_size(parser)
    parser.add_argument("--palette", action="store_true", help="only the sets in several colours")
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> None:
    check_replaceable(args.out)
    writable_folder(args.out.parent)
    packages = PALETTE_SETS if args.palette else PALETTE_SETS + PLAIN_SETS
    rows, credit = collect(packages, args.downloads, Splits.load(SPLITS), args.emoji, args.size)
    write_rows(rows, FEATURES, args.out, credit)
    print(args.out)


if __name__ == "__main__":
    sys.exit(main())
