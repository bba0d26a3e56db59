"""Emoji, icons, clip art and glyphs in one dataset, with more to say about each picture.

    python -m train.recipes.pictures --out data/pictures --size 128

downloads permissively licensed sets with `npm` and Debian's public-domain clip art with `apt-get`, and writes a
folder that `datasets.load_from_disk` opens, with CREDITS.md beside it. Pictures are RGBA with real transparency.
Columns: image, captions, label, tags, group, artist, style (the kind of picture), set, hexcode, family, split, turned
(a copy in another colour) and duplicate (a number that near-duplicates share, else -1). Split "held" holds what could
tell a model of a held-out emoji.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import datasets
import numpy as np
from tqdm import tqdm

from bridge.checkpoint import check_replaceable
from bridge.text import DEFAULT_DIGEST, DEFAULT_ID, TextEncoder
from train.command import Parser, run_command, writable_folder
from train.near import near_groups
from train.recipes.colours import HUES, WORDS
from train.recipes.drawings import copies_of, drawn_of
from train.recipes.emoji import SPLITS
from train.recipes.gather import (
    GLYPH_SETS,
    Found,
    Row,
    add_clip_art,
    add_emoji,
    add_icons,
    clip_art_folder,
    words_of_sets,
)
from train.recipes.iconify import add_size, write_rows
from train.recipes.icons import NEAR, PALETTE_SETS, content_words
from train.recipes.names import KINDS, captions_of, colour_is_free, words_of
from train.splits import LEAK_RMSE, Splits, base_label, near_pictures

COPIES = {"icon": 1, "glyph": 0}
"""Turned copies of a drawing by its kind; 2 of the others."""
ON_DISCS = {"streamline-kameleon-color"}
"""Sets whose pictures stand on coloured discs."""
SYNONYM = 0.45
"""A tag at least this near its label, in cosine similarity, may stand alone as a caption."""
HELD = "held"

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
        "set": TEXT,
        "hexcode": TEXT,
        "family": datasets.Value("int32"),
        "split": TEXT,
        "turned": datasets.Value("bool"),
        "duplicate": datasets.Value("int32"),
    }
)
Job = TypeVar("Job")
Result = TypeVar("Result")


def in_pool(work: Callable[[Job], Result], jobs: Sequence[Job], what: str) -> list[Result]:
    """Results of all jobs, on all cores, with a progress bar."""
    with ProcessPoolExecutor() as pool:
        return list(tqdm(pool.map(work, jobs, chunksize=64), total=len(jobs), desc=what, file=sys.stderr))


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


def leaking_texts(texts: Sequence[str], codes: Codes, splits: Splits) -> set[str]:
    """Which texts could tell of a held-out emoji: by a telling word, or by a code near a held-out label's."""
    sides: dict[bool, list[str]] = {True: [], False: []}
    for labels, side in zip(splits.families, splits.sides, strict=True):
        sides[side == "train"] += labels
    telling = content_words(sides[False]) - content_words(sides[True])
    telling |= {f"{w}s" for w in telling} - content_words(sides[True])
    held_out = codes[sides[False]].T
    near = np.concatenate([(codes[texts[i : i + 4096]] @ held_out).max(1) >= NEAR for i in range(0, len(texts), 4096)])
    return {t for t, by_code in zip(texts, near, strict=True) if by_code or telling & content_words([t])}


def rank_tags(row: Row, codes: Codes, labels: set[str]) -> None:
    """Put a row's tags in the order of their nearness to its label, and count those that may stand alone.

    Near ones may, unless they only repeat words of the label or are what another picture shows.
    """
    label, words = row["label"], set(words_of(row["label"]))
    row["synonyms"] = 0
    if row["tags"]:
        likeness = codes[row["tags"]] @ codes[[label]][0]
        ranked = sorted(zip(-likeness, row["tags"], strict=True))
        alone = [t for n, t in ranked if -n >= SYNONYM and t not in labels and not set(words_of(t)) <= words]
        row["tags"] = alone + [t for _, t in ranked if t not in alone]
        row["synonyms"] = len(alone)


def hold_back(rows: list[Row], codes: Codes, splits: Splits) -> None:
    """Take leaking tags out of emoji, and give other leaking rows the split "held"; families for the others."""
    leaking = leaking_texts(sorted({text for row in rows for text in [row["label"], *row["tags"]]}), codes, splits)
    families: dict[str, int] = {base_label(row["label"]).casefold(): row["family"] for row in rows if "family" in row}
    number = max(families.values()) + 1
    for row in rows:
        if "family" in row:
            if row["split"] not in ("validation", "test"):
                row["tags"] = [tag for tag in row["tags"] if tag not in leaking]
            continue
        row["split"] = HELD if leaking & {row["label"], *row["tags"]} else "train"
        if row["label"] not in families:
            families[row["label"]] = number
            number += 1
        row["family"] = families[row["label"]]


def coloured_labels(splits: Splits) -> list[set[str]]:
    """Words of each held-out label that names a colour."""
    held_out = [
        label for labels, side in zip(splits.families, splits.sides, strict=True) if side != "train" for label in labels
    ]
    return [words for label in held_out if (words := content_words([label])) & set(WORDS)]


def spells(caption: str, labels: Sequence[set[str]]) -> bool:
    """Whether a caption has all the words of one of the labels.

    >>> spells("a pink heart with ribbon", [{"pink", "heart"}])
    True
    """
    words = content_words([caption])
    return any(label <= words for label in labels)


def near(rows: Sequence[Row], others: Sequence[Row]) -> np.ndarray:
    """Which rows' pictures are near-duplicates of one of the others', (N,) bool."""
    if not rows or not others:
        return np.zeros(len(rows), bool)
    ours, theirs = (np.stack([r["thumbnail"] for r in group]).astype(np.float32) / 255 for group in (rows, others))
    return near_pictures(ours, theirs, LEAK_RMSE)


def hold_near(rows: Sequence[Row]) -> int:
    """Give training rows whose pictures are near one outside training the split "held"; returns how many."""
    train = [row for row in rows if row["split"] == "train"]
    held = near(train, [row for row in rows if row["split"] != "train"])
    for row, leaks in zip(train, held, strict=True):
        if leaks:
            row["split"] = HELD
    return int(held.sum())


def may_be_coloured(row: Row) -> bool:
    """Whether a colour word belongs into captions of a row: not for people, flags, glyphs."""
    people = row["group"] in {"people & body", "flags"} or "flag" in row["label"] or "skin tone" in row["label"]
    return row["style"] != "glyph" and row["set"] not in ON_DISCS and not people


def turned_rows(rows: Sequence[Row], held_out: Sequence[set[str]]) -> list[Row]:
    """Copies of training rows in other colours, but for those that show what is held out (see `spells`)."""
    sources = [
        row
        for row in rows
        if row["split"] == "train"
        and row["colour"] in HUES
        and row["group"] != "symbols"
        and COPIES.get(row["style"], 2)
        and colour_is_free(row["label"])
    ]
    jobs = [(r["png"], r["colour"], f"{r['set']}/{r['label']}", COPIES.get(r["style"], 2)) for r in sources]
    out = []
    for row, copies in zip(sources, in_pool(copies_of, jobs, "turn"), strict=True):
        for word, (png, small, _) in copies:
            captions = captions_of(row["label"], row["style"], row["tags"], word, row["synonyms"], turned=True)
            if any(spells(caption, held_out) for caption in captions):
                continue
            changes = {"captions": captions, "label": captions[0], "png": png, "thumbnail": small, "turned": True}
            out.append({**row, **changes, "source": row["number"]})
    return out


def duplicate_numbers(rows: Sequence[Row]) -> list[int]:
    """A number for each group of near-duplicates, a turned copy being one of its original; -1 for the others."""
    originals = [row for row in rows if not row["turned"]]
    group = near_groups(np.stack([row["thumbnail"] for row in originals]))
    by_number = {row["number"]: int(g) for row, g in zip(originals, group, strict=True)}
    groups = [by_number[row["source"] if row["turned"] else row["number"]] for row in rows]
    size = Counter(groups)
    names: dict[int, int] = {}
    return [-1 if size[g] == 1 else names.setdefault(g, len(names)) for g in groups]


def build(downloads: Path, size: int) -> tuple[list[Row], Found]:
    """Download, choose, draw, measure and split everything.

    Raises:
        UserError: npm, apt-get or dpkg-deb is missing or failed, or a set's licence is not permissive.
    """
    splits = Splits.load(SPLITS)
    encoder = TextEncoder.from_pretrained(DEFAULT_ID, digest=DEFAULT_DIGEST)
    found = Found()
    add_emoji(found, downloads, splits)
    known = {w for row in found.rows for text in [row["label"], *row["tags"]] for w in words_of(text)}
    tokenizer: Any = encoder.tokenizer
    known |= {w for w in tokenizer.get_vocab() if w.isalpha()} | words_of_sets(GLYPH_SETS, PALETTE_SETS, downloads)
    add_icons(found, PALETTE_SETS, "icon", downloads, known)
    add_icons(found, GLYPH_SETS, "glyph", downloads, known)
    add_clip_art(found, clip_art_folder(downloads), known)
    jobs = [(drawing, may_be_coloured(row)) for row, drawing in zip(found.rows, found.drawings, strict=True)]
    drawn = in_pool(partial(drawn_of, size=size), jobs, "draw")
    labels = {row["label"] for row in found.rows}
    texts = [*labels, *(tag for row in found.rows for tag in row["tags"]), *splits.family_of()]
    codes = Codes(texts, encoder)
    hold_back(found.rows, codes, splits)
    held_out = coloured_labels(splits)
    rows: list[Row] = []
    same: set[tuple[str, str, bytes]] = set()
    for row, picture in zip(found.rows, drawn, strict=True):
        if picture is None:
            found.left_out[f"{row['style']}: cannot be drawn, or shows nothing"] += 1
            continue
        png, small, colour = picture
        if (key := (row["set"], row["label"], small.tobytes())) in same:
            found.left_out[f"{row['style']}: the same drawing and title again"] += 1
            continue
        same.add(key)
        rank_tags(row, codes, labels)
        captions = captions_of(row["label"], row["style"], row["tags"], colour, row["synonyms"])
        if row["split"] == "train":
            captions = [captions[0], *(c for c in captions[1:] if not spells(c, held_out))]
        rows.append(
            {**row, "png": png, "thumbnail": small, "colour": colour, "captions": captions, "number": len(rows)}
        )
    found.left_out["held: near a picture outside training"] = hold_near(rows)
    copies = turned_rows(rows, held_out)
    leaks = near(copies, [row for row in rows if row["split"] != "train"])
    rows += [row for row, leak in zip(copies, leaks, strict=True) if not leak]
    for row, number in zip(rows, duplicate_numbers(rows), strict=True):
        row["duplicate"] = number
    return rows, found


def table(rows: Sequence[Row], left_out: Counter[str]) -> str:
    """Pictures and captions by kind, and what was left out."""
    lines = [f"{'style':10}{'pictures':>10}{'turned':>8}{'labels':>8}{'captions':>10}{'train':>8}{'held':>7}"]
    for style in [*KINDS, "all"]:
        chosen = [row for row in rows if style in (row["style"], "all")]
        captions = len({c for row in chosen for c in row["captions"]})
        counts = [len(chosen), sum(r["turned"] for r in chosen), len({r["label"] for r in chosen}), captions]
        counts += [sum(r["split"] == side for r in chosen) for side in ("train", HELD)]
        lines.append(f"{style:10}" + "".join(f"{n:>{w}}" for n, w in zip(counts, (10, 8, 8, 10, 8, 7), strict=True)))
    lines += [f"{number:6} {what}" for what, number in sorted(left_out.items())]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    name = "python -m train.recipes.pictures"
    parser = Parser(name, __doc__, f"{name} --out data/pictures --size 128")
    parser.add_argument("--out", type=Path, default=Path("data/pictures"), help="folder of the dataset")
    parser.add_argument("--downloads", type=Path, default=Path("data/npm"), help="where downloads are kept")
    add_size(parser)
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> None:
    check_replaceable(args.out)
    writable_folder(args.out.parent)
    rows, found = build(args.downloads, args.size)
    write_rows(rows, FEATURES, args.out, "\n".join(["# Credits", "", *found.credits, ""]))
    print(table(rows, found.left_out))
    print(args.out)


if __name__ == "__main__":
    sys.exit(main())
