"""The recipe of the default data: what up to eight artists drew for the same emoji caption.

    python -m train.recipes emoji --out data/emoji

downloads eight permissively licensed Iconify sets and the emoji labels with `npm`, draws every picture at 64 x 64 on
white, and writes a folder that `datasets.load_from_disk` opens: image, captions, label, tags, group, artist, style,
hexcode, family, split.
"""

import argparse
import json
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from train.data.dataset import features
from train.recipes.drawing import draw_rows, thumbnails_of
from train.recipes.icons import icon_svg, npm_pack
from train.recipes.writing import SIZE, SPLITS, Row, add_downloads, run_recipe, write_rows
from train.splits import Splits, base_label, codes_of, make_splits, near_held_out, order_of

EMOJI_LABELS = Path(__file__).parents[2] / "bridge" / "emoji_labels.json"
EMOJIBASE = "emojibase-data@17.0.0"
FEATURES = features("image captions label tags group artist style hexcode family split")
write_dataset = partial(write_rows, FEATURES)  # Rows to a folder


@dataclass(frozen=True)
class Style:
    """An icon set: its npm package, its artist, its licence and its look in plain words."""

    package: str
    artist: str
    licence: str
    words: str

    @property
    def name(self) -> str:
        """Such as "noto-v1"."""
        return self.package.split("/")[1].split("@")[0]


STYLES = (
    Style("@iconify-json/noto@1.2.9", "noto", "Apache-2.0", "shaded"),
    Style("@iconify-json/noto-v1@1.2.5", "noto-v1", "Apache-2.0", "shaded"),
    Style("@iconify-json/twemoji@1.2.5", "twemoji", "CC-BY-4.0", "flat"),
    Style("@iconify-json/fluent-emoji@1.2.7", "fluent", "MIT", "3d"),
    Style("@iconify-json/fluent-emoji-flat@1.2.6", "fluent", "MIT", "flat"),
    Style("@iconify-json/emojione@1.2.3", "emojione", "CC-BY-4.0", "flat"),
    Style("@iconify-json/fxemoji@1.2.2", "fxemoji", "Apache-2.0", "flat"),
    Style("@iconify-json/streamline-emojis@1.2.4", "streamline", "CC-BY-4.0", "outlined"),
)
"""Only sets whose licence allows a trained model to be shipped with attribution."""


def slug(text: str) -> str:
    """Lower case, everything but letters and digits as one dash: "Åland Islands" is "aland-islands"."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")


def emoji_entries(package: Path) -> list[dict[str, Any]]:
    """Every emoji with its label, tags, group and code, skin-tone variants included."""
    groups = {g["order"]: g["message"] for g in json.loads((package / "en/messages.json").read_text("utf-8"))["groups"]}
    entries = []
    for parent in json.loads((package / "en/data.json").read_text("utf-8")):
        shared = {"tags": parent.get("tags", []), "group": groups.get(parent.get("group"), "other")}
        skins = [parent, *parent.get("skins", [])]
        entries += [shared | {key: skin[key] for key in ("label", "hexcode", "emoji")} for skin in skins]
    return entries


def caption_variants(label: str, tags: Sequence[str], style_words: str) -> list[str]:
    """Ways to say the same thing, the label first; fixed by the label, so that each is encoded once."""
    plain = label.replace(": ", " with " if "skin tone" in label else " ")
    tags = sorted((t for t in tags if len(t) > 2), key=lambda t: order_of(t, label))
    variants = [label, plain, f"a picture of {plain}", f"{plain}, {style_words}", f"{style_words} drawing of {plain}"]
    variants += [", ".join([plain, *tags[i : i + 2]]) for i in range(0, min(len(tags), 4), 2)]
    if tags and label == base_label(label):
        variants += [f"{tags[0]} {plain}", " ".join(tags[:3])]
    return list(dict.fromkeys(variants))


def matched_icons(package: Path, entries: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
    """Emoji entries that an icon set draws, each with its SVG: names match labels by slug, then without its dashes."""
    icons = json.loads((package / "icons.json").read_text("utf-8"))
    by_slug: dict[str, dict[str, Any]] = {}
    for entry in entries:
        by_slug.setdefault(slug(entry["label"]), entry)
    by_compact = {key.replace("-", ""): entry for key, entry in by_slug.items()}
    seen = set()
    for name in sorted(icons["icons"]):
        match = by_slug.get(name) or by_compact.get(name.replace("-", ""))
        if match is not None and match["label"] not in seen and not icons["icons"][name].get("hidden"):
            seen.add(match["label"])
            yield match, icon_svg(icons, name)


def emoji_rows(downloads: Path) -> Iterator[tuple[Style, Row]]:
    """Download everything: each drawing's row, with an SVG text under "drawing", and the set that it is of."""
    entries = emoji_entries(npm_pack(EMOJIBASE, downloads))
    for style in tqdm(STYLES, desc="emoji", file=sys.stderr):
        for entry, svg in matched_icons(npm_pack(style.package, downloads), entries):
            row = {key: entry[key] for key in ("label", "tags", "group", "hexcode")}
            yield style, {**row, "artist": style.artist, "style": style.name, "drawing": svg}


def collect(downloads: Path, size: int = SIZE) -> list[Row]:
    """Download and draw everything, size x size pixels, as rows with PNG bytes under "png" and without a split."""
    rows = emoji_rows(downloads)
    captioned = [{**row, "captions": caption_variants(row["label"], row["tags"], s.words)} for s, row in rows]
    kept = draw_rows(captioned, size)
    print(f"{len(kept)} pictures of {len({r['label'] for r in kept})} captions", file=sys.stderr)
    return kept


def assign_splits(rows: list[Row], splits: Splits) -> list[Row]:
    """Add family and split to each row; a row of a caption that the file does not know is left out."""
    placed = [(row, splits.place(row["label"], row["artist"])) for row in rows]
    return [{**row, "family": place[0], "split": place[1]} for row, place in placed if place is not None]


def drop_leaks(rows: list[Row], thumbnails: np.ndarray) -> list[Row]:
    """Leave out training pictures that are near-duplicates of one outside training, or of its mirror image."""
    leaks = near_held_out([row["split"] for row in rows], thumbnails)
    return [row for row, leak in zip(rows, leaks, strict=True) if not leak]


def write_emoji_labels(entries: Sequence[dict[str, Any]], path: Path) -> None:
    """Write {emoji: label}, by which the text encoder reads emoji characters."""
    labels = {entry["emoji"]: entry["label"] for entry in entries}
    path.write_text(json.dumps(labels, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def _options(parser: argparse.ArgumentParser) -> None:
    add_downloads(parser)
    parser.add_argument("--refresh", action="store_true", help=f"compute {SPLITS.name} and {EMOJI_LABELS.name} anew")


def _run(args: argparse.Namespace) -> None:
    rows = collect(args.downloads, args.size)
    if args.refresh:
        write_emoji_labels(emoji_entries(npm_pack(EMOJIBASE, args.downloads)), EMOJI_LABELS)
        labels, artists = ([row[key] for row in rows] for key in ("label", "artist"))
        make_splits(labels, artists, thumbnails_of(rows), partial(codes_of, None)).save(SPLITS)
    rows = assign_splits(rows, Splits.load(SPLITS))
    write_dataset(drop_leaks(rows, thumbnails_of(rows)), args.out)


main = partial(run_recipe, "emoji", __doc__, _options, _run)
