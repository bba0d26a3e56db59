"""The recipe of the default data: what up to eight artists drew for the same emoji caption.

    python -m train.recipes.emoji --out data/emoji

downloads eight permissively licensed Iconify sets and the emoji labels with `npm`, draws every
picture at 64 x 64 on white, and writes a folder that `datasets.load_from_disk` opens: image,
captions, label, tags, group, artist, style, hexcode, family, split.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from tqdm import tqdm

from bridge.checkpoint import check_replaceable
from bridge.text import DEFAULT_DIGEST, DEFAULT_ID, TextEncoder
from train.command import Parser, run_command, writable_folder
from train.recipes.iconify import (
    SIZE,
    add_size,
    draw_all,
    icon_svg,
    is_blank,
    npm_pack,
    slug,
    thumbnails_of,
    write_rows,
)
from train.splits import LEAK_RMSE, Splits, base_label, duplicate_pairs, make_splits, order_of

ROOT = Path(__file__).parents[2]
SPLITS = ROOT / "configs" / "emoji-splits.json"
EMOJI_LABELS = ROOT / "bridge" / "emoji_labels.json"
EMOJIBASE = "emojibase-data@17.0.0"


@dataclass(frozen=True)
class Style:
    """One icon set: the npm package, who drew it, its licence and its look in plain words."""

    package: str
    artist: str
    licence: str
    words: str

    @property
    def name(self) -> str:
        """Name of the icon set, such as "noto-v1"."""
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


TEXT = datasets.Value("string")
FEATURES = datasets.Features(
    {
        "image": datasets.Image(),
        "captions": datasets.List(TEXT),
        "label": TEXT,
        "tags": datasets.List(TEXT),
        "group": TEXT,
        "artist": TEXT,
        "style": TEXT,
        "hexcode": TEXT,
        "family": datasets.Value("int32"),
        "split": TEXT,
    }
)


def emoji_entries(package: Path) -> list[dict[str, Any]]:
    """Every emoji with its label, tags, group and code, skin-tone variants included."""
    groups = {g["order"]: g["message"] for g in json.loads((package / "en/messages.json").read_text("utf-8"))["groups"]}
    entries = []
    for parent in json.loads((package / "en/data.json").read_text("utf-8")):
        for emoji in [parent, *parent.get("skins", [])]:
            entries.append(
                {
                    "label": emoji["label"],
                    "tags": parent.get("tags", []),
                    "group": groups.get(parent.get("group"), "other"),
                    "hexcode": emoji["hexcode"],
                    "emoji": emoji["emoji"],
                }
            )
    return entries


def caption_variants(label: str, tags: Sequence[str], style_words: str) -> list[str]:
    """Ways to say the same thing; the first is the label itself.

    The choice is fixed by the label, so that a caption's variants are encoded once.

    >>> caption_variants("alarm clock", ["clock", "hours", "time"], "flat")[0]
    'alarm clock'
    """
    plain = label.replace(": ", " with " if "skin tone" in label else " ")
    tags = sorted((t for t in tags if len(t) > 2), key=lambda t: order_of(t, label))
    base = base_label(label)
    variants = [
        label,
        plain,
        f"a picture of {plain}",
        f"{plain}, {style_words}",
        f"{style_words} drawing of {plain}",
    ]
    variants += [", ".join([plain, *tags[i : i + 2]]) for i in range(0, min(len(tags), 4), 2)]
    if tags and label == base:
        variants += [f"{tags[0]} {plain}", " ".join(tags[:3])]
    return list(dict.fromkeys(variants))


def matched_icons(package: Path, entries: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
    """Emoji entries that an icon set draws, each with its SVG.

    An icon name is matched to a label by slug, then with the dashes taken out.
    """
    icon_set = json.loads((package / "icons.json").read_text("utf-8"))
    by_slug: dict[str, dict[str, Any]] = {}
    for entry in entries:
        by_slug.setdefault(slug(entry["label"]), entry)
    by_compact = {key.replace("-", ""): entry for key, entry in by_slug.items()}
    seen = set()
    for name in sorted(icon_set["icons"]):
        match = by_slug.get(name) or by_compact.get(name.replace("-", ""))
        if match is not None and match["label"] not in seen and not icon_set["icons"][name].get("hidden"):
            seen.add(match["label"])
            yield match, icon_svg(icon_set, name)


def write_emoji_labels(entries: Sequence[dict[str, Any]], path: Path) -> None:
    """Write {emoji: label}, which the text encoder reads emoji characters by."""
    labels = {entry["emoji"]: entry["label"] for entry in entries}
    path.write_text(json.dumps(labels, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def collect(downloads: Path, size: int = SIZE) -> list[dict[str, Any]]:
    """Download and draw everything, at size x size pixels.

    Returns:
        Rows with label, tags, group, hexcode, artist, style, captions and PNG bytes under "png".
    """
    entries = emoji_entries(npm_pack(EMOJIBASE, downloads))
    rows, svgs = [], []
    for style in tqdm(STYLES, desc="download", file=sys.stderr):
        for entry, svg in matched_icons(npm_pack(style.package, downloads), entries):
            captions = caption_variants(entry["label"], entry["tags"], style.words)
            row = {key: entry[key] for key in ("label", "tags", "group", "hexcode")}
            rows.append({**row, "artist": style.artist, "style": style.name, "captions": captions})
            svgs.append(svg)
    pngs = draw_all(svgs, size)
    kept = [{**row, "png": png} for row, png in zip(rows, pngs, strict=True) if not is_blank(png)]
    print(f"{len(kept)} pictures of {len({r['label'] for r in kept})} captions", file=sys.stderr)
    return kept


def assign_splits(rows: list[dict[str, Any]], splits: Splits) -> list[dict[str, Any]]:
    """Add family and split to each row; a row of a caption that the file does not know is left out."""
    family_of = splits.family_of()
    out = []
    for row in rows:
        family = family_of.get(base_label(row["label"]))
        if family is None:
            continue
        side = splits.sides[family]
        for name, hidden in splits.hidden.items():
            if row["artist"] in hidden.get(row["label"], []):
                side = name
        out.append({**row, "family": family, "split": side})
    return out


def leak_pairs(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """Near-duplicate pictures, mirrored ones too, since the VAE mirrors: index pairs, (P, 2)."""
    thumbnails = thumbnails_of(rows)
    return np.concatenate([duplicate_pairs(thumbnails, LEAK_RMSE, mirrored=mirrored) for mirrored in (False, True)])


def drop_leaks(rows: list[dict[str, Any]], pairs: np.ndarray) -> list[dict[str, Any]]:
    """Leave out training pictures that are near-duplicates of a picture outside training."""
    leaks = set()
    for i, j in pairs:
        for a, b in ((i, j), (j, i)):
            if rows[a]["split"] == "train" and rows[b]["split"] != "train":
                leaks.add(int(a))
    return [row for i, row in enumerate(rows) if i not in leaks]


def write_dataset(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """Write the rows as a `datasets` folder, complete or not at all."""
    write_rows(rows, FEATURES, out)


def compute_splits(rows: Sequence[dict[str, Any]]) -> Splits:
    """The splits of these pictures, by the default text encoder."""
    encoder = TextEncoder.from_pretrained(DEFAULT_ID, digest=DEFAULT_DIGEST)
    return make_splits(
        [row["label"] for row in rows],
        [row["artist"] for row in rows],
        thumbnails_of(rows),
        lambda captions: encoder.encode(captions, batch_size=64, with_tokens=False).pooled.numpy(),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = Parser("python -m train.recipes.emoji", __doc__, "python -m train.recipes.emoji --out data/emoji")
    parser.add_argument("--out", type=Path, default=Path("data/emoji"), help="folder of the dataset")
    parser.add_argument("--downloads", type=Path, default=Path("data/npm"), help="where npm packages are kept")
    add_size(parser)
    parser.add_argument("--refresh", action="store_true", help=f"compute {SPLITS.name} and {EMOJI_LABELS.name} anew")
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> None:
    check_replaceable(args.out)
    writable_folder(args.out.parent)
    rows = collect(args.downloads, args.size)
    if args.refresh:
        write_emoji_labels(emoji_entries(npm_pack(EMOJIBASE, args.downloads)), EMOJI_LABELS)
        compute_splits(rows).save(SPLITS)
    rows = assign_splits(rows, Splits.load(SPLITS))
    rows = drop_leaks(rows, leak_pairs(rows))
    write_dataset(rows, args.out)
    print(args.out)


if __name__ == "__main__":
    sys.exit(main())
