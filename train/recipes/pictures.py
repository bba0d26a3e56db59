"""Emoji, icons, clip art and glyphs in one dataset, with more to say about each picture.

    python -m train.recipes pictures --out data/pictures --size 128

downloads permissively licensed sets with `npm` and Debian's public-domain clip art with `apt-get`, and writes a
folder that `datasets.load_from_disk` opens, with CREDITS.md beside it. Pictures are RGBA with real transparency.
Columns: image, captions, label, tags, group, artist, style (the kind of picture), set, hexcode, family, split, turned
(a copy in another colour) and duplicate (a number that near-duplicates share, else -1). Split "held" holds what could
tell a model of a held-out emoji.
"""

import argparse
import itertools
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bridge.colours import HUES, WORDS
from bridge.text import TextEncoder
from train.data.dataset import features
from train.recipes.clipart import MAX_SHARED, clip_art_folder, read_drawing
from train.recipes.drawing import copies_of, drawn_of
from train.recipes.emoji import STYLES, assign_splits, emoji_rows
from train.recipes.icons import GLYPH_SETS, PALETTE_SETS, Codes, IconSet, content_words, icon_svg, leaking, npm_pack
from train.recipes.names import KINDS, captions_of, clean_name, clean_title, colour_is_free, says_nothing, words_of
from train.recipes.writing import LISTS, SPLITS, Row, add_downloads, in_pool, run_recipe, write_rows
from train.splits import Splits, base_label, near_groups, near_held_out, near_pictures

COPIES = {"icon": 1, "glyph": 0}  # Turned copies of a drawing by its kind; 2 of the others
ON_DISCS = {"streamline-kameleon-color"}  # Sets whose pictures stand on coloured discs
SYNONYM = 0.45  # A tag at least this near its label, in cosine similarity, may stand alone as a caption
OF_OTHERS = dict.fromkeys(("man", "men", "boy"), "OF_WOMEN") | dict.fromkeys(("woman", "women", "girl"), "OF_MEN")
"""Words of a label, and of whom the words are that may then not stand alone."""
CATEGORY = 8  # A tag of more labels is a category, such as "animal"
HELD = "held"
GLYPH_WORDS = 3  # Words of a glyph's name at most
PLACING = frozenset(["above", "across", "and", "behind", "beside", "on", "over", "through", "under", "wide", "with"])
"""A glyph with one of these in its name is a map's sign made of several."""
MANY = 30  # A keyword of more drawings of clip art is a category
FEATURES = features("image captions label tags group artist style set hexcode family split turned duplicate")


@dataclass
class Gathered:
    """What the sources hold: rows with an SVG text or file under "drawing", credits, and what was left out."""

    rows: list[Row] = field(default_factory=list)
    credits: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row) -> None:
        """One picture, its columns filled up."""
        self.rows.append({"tags": [], "group": "", "hexcode": "", "turned": False, **row})


def add_emoji(gathered: Gathered, downloads: Path, splits: Splits) -> None:
    """Every emoji of the eight sets, with the committed families and splits."""
    rows = [{**row, "set": style.name, "style": style.words} for style, row in emoji_rows(downloads)]
    placed = assign_splits(rows, splits)
    gathered.left_out += Counter({"emoji without a family": len(rows) - len(placed)})
    for row in placed:
        tags = [t for t in row["tags"] if len(t) > 2] if row["label"] == base_label(row["label"]) else []
        gathered.add({**row, "tags": tags})
    gathered.credits += [IconSet.load(npm_pack(style.package, downloads)).credit for style in STYLES]


def add_icons(gathered: Gathered, packages: Sequence[str], kind: str, downloads: Path, known: set[str]) -> None:
    """Icons of some sets, a drawing a caption and set, without those whose names say nothing."""
    for package in tqdm(packages, desc=kind, file=sys.stderr):
        icon_set = IconSet.fetch(package, downloads)
        gathered.credits.append(icon_set.credit)
        prefix = icon_set.info["prefix"]
        names: dict[str, str] = {}
        for caption, name in icon_set.captions.items():
            names.setdefault(clean_name(caption), name)
        for label, name in names.items():
            if says_nothing(label, known):
                gathered.left_out[f"{kind}: name says nothing"] += 1
            elif kind == "glyph" and (len(label.split()) > GLYPH_WORDS or PLACING & set(label.split())):
                gathered.left_out["glyph: a sign of several things"] += 1
            else:
                drawing = icon_svg(icon_set.icons, name)
                gathered.add({"label": label, "artist": prefix, "style": kind, "set": prefix, "drawing": drawing})


def words_of_sets(glyphs: Sequence[str], icons: Sequence[str], downloads: Path) -> set[str]:
    """Words in the names of glyphs, and those that more than one set of icons uses: not misspelt, nor a trade mark."""
    uses: Counter[str] = Counter()
    for package in (*glyphs, *icons):
        words = {word for caption in IconSet.fetch(package, downloads).captions for word in caption.split()}
        uses.update(dict.fromkeys(words, 2 if package in glyphs else 1))
    return {word for word, number in uses.items() if number > 1}


def add_clip_art(gathered: Gathered, folder: Path, known: set[str]) -> None:
    """Public-domain drawings below a folder whose titles say what they show."""
    titled = []
    for path in tqdm(sorted(folder.rglob("*.svg")), desc="clip art", file=sys.stderr):
        drawing = read_drawing(path)
        if drawing is None:
            gathered.left_out["clip art: no title, not said to be in the public domain, or damaged"] += 1
            continue
        group = path.parent.relative_to(folder).as_posix().partition("svg/")[2]
        label = clean_title(drawing.title)
        if label and "/flags" in group and "flag" not in label:
            label = f"flag of {label}"
        titled.append((drawing, label, group))
    shared = Counter(label for _, label, _ in titled)
    keywords = [[clean_title(word) for word in drawing.keywords] for drawing, _, _ in titled]
    common = {tag for tag, n in Counter(tag for tags in keywords for tag in set(tags)).items() if n > MANY}
    for (drawing, label, group), tags in zip(titled, keywords, strict=True):
        if shared[label] > MAX_SHARED or says_nothing(label, known):
            gathered.left_out["clip art: title says nothing"] += 1
            continue
        own = [t for t in dict.fromkeys(tags) if t not in {*common, label} and not says_nothing(t, known)]
        row = {"label": label, "tags": own, "group": group, "style": "clip art", "set": "openclipart"}
        gathered.add({**row, "artist": drawing.artist or "openclipart", "drawing": drawing.path})
    gathered.credits.append("- Open Clip Art Library by its contributors (https://openclipart.org), public domain")


def rank_tags(row: Row, codes: Codes, taken: set[str]) -> None:
    """Sort a row's tags by nearness to its label, those first that may stand alone as "synonyms", and count these."""
    label, words = row["label"], set(words_of(row["label"]))
    others = {word for own, of in OF_OTHERS.items() if own in words for word in LISTS[of]}
    row["synonyms"] = 0
    if row["tags"]:
        likeness = codes[row["tags"]] @ codes[[label]][0]
        ranked = sorted(zip(-likeness, row["tags"], strict=True))
        near = [t for n, t in ranked if -n >= SYNONYM and not set(words_of(t)) <= words]
        alone = [t for t in near if t not in taken and t not in others]
        row["tags"] = alone + [t for _, t in ranked if t not in alone]
        row["synonyms"] = len(alone)


def taken_words(rows: Sequence[Row]) -> set[str]:
    """What no picture's tag may be called alone: labels and categories."""
    borne = Counter(tag for _, tag in {(base_label(row["label"]), tag) for row in rows for tag in row["tags"]})
    return {row["label"] for row in rows} | {tag for tag, number in borne.items() if number > CATEGORY}


def hold_back(rows: list[Row], codes: Codes, splits: Splits) -> None:
    """Take leaking tags out of emoji, and give other leaking rows the split "held"; families for the others."""
    texts = sorted({text for row in rows for text in [row["label"], *row["tags"]]})
    leaks = leaking(texts, codes, splits, plurals=True)
    known = {base_label(row["label"]).casefold(): row["family"] for row in rows if "family" in row}
    families = defaultdict(itertools.count(max(known.values()) + 1).__next__, known)
    for row in rows:
        if "family" not in row:
            row["split"] = HELD if leaks & {row["label"], *row["tags"]} else "train"
            row["family"] = families[row["label"]]
        elif row["split"] not in ("validation", "test"):
            row["tags"] = [tag for tag in row["tags"] if tag not in leaks]


def spells(caption: str, labels: Sequence[set[str]]) -> bool:
    """Whether a caption has all the words of one of the labels."""
    words = content_words([caption])
    return any(label <= words for label in labels)


def thumbnails(rows: Sequence[Row]) -> np.ndarray:
    """Of rows that were drawn, (N, 16, 16, 3) uint8."""
    return np.stack([row["thumbnail"] for row in rows]) if rows else np.zeros((0, 16, 16, 3), np.uint8)


def hold_near(rows: Sequence[Row]) -> int:
    """Give training rows whose pictures are near one outside training the split "held"; returns how many."""
    near = near_held_out([row["split"] for row in rows], thumbnails(rows))
    for number in np.flatnonzero(near).tolist():
        rows[number]["split"] = HELD
    return int(near.sum())


def may_be_coloured(row: Row) -> bool:
    """Whether a colour word belongs into a row's captions: not for people, flags, glyphs."""
    people = row["group"] in {"people & body", "flags"} or "flag" in row["label"] or "skin tone" in row["label"]
    return row["style"] != "glyph" and row["set"] not in ON_DISCS and not people


def turned_rows(rows: Sequence[Row], held_out: Sequence[set[str]]) -> list[Row]:
    """Copies of training rows in other colours, but for those that show what is held out (see `spells`)."""
    coloured = [row for row in rows if row["split"] == "train" and row["colour"] in HUES and row["group"] != "symbols"]
    sources = [row for row in coloured if COPIES.get(row["style"], 2) and colour_is_free(row["label"])]
    jobs = [(r["png"], r["colour"], f"{r['set']}/{r['label']}", COPIES.get(r["style"], 2)) for r in sources]
    out = []
    for row, copies in zip(sources, in_pool(copies_of, jobs, "turn"), strict=True):
        for word, (png, small, _) in copies:
            captions = captions_of(row["label"], row["style"], row["tags"], word, row["synonyms"], turned=True)
            if not any(spells(caption, held_out) for caption in captions):
                changes = {"captions": captions, "label": captions[0], "png": png, "thumbnail": small, "turned": True}
                out.append({**row, **changes, "source": row["number"]})
    return out


def duplicate_numbers(rows: Sequence[Row]) -> list[int]:
    """A number for each group of near-duplicates, a turned copy being one of its original; -1 for the others."""
    originals = [row for row in rows if not row["turned"]]
    group = near_groups(thumbnails(originals))
    by_number = {row["number"]: int(g) for row, g in zip(originals, group, strict=True)}
    groups = [by_number[row["source"] if row["turned"] else row["number"]] for row in rows]
    size = Counter(groups)
    names: dict[int, int] = {}
    return [-1 if size[g] == 1 else names.setdefault(g, len(names)) for g in groups]


def build(downloads: Path, size: int) -> tuple[list[Row], Gathered]:
    """Download, draw, measure and split everything; UserError if a tool is missing or a licence not permissive."""
    splits, encoder, gathered = Splits.load(SPLITS), TextEncoder.from_pretrained(), Gathered()
    add_emoji(gathered, downloads, splits)
    known = {w for row in gathered.rows for text in [row["label"], *row["tags"]] for w in words_of(text)}
    tokenizer: Any = encoder.tokenizer
    known |= {w for w in tokenizer.get_vocab() if w.isalpha()} | words_of_sets(GLYPH_SETS, PALETTE_SETS, downloads)
    add_icons(gathered, PALETTE_SETS, "icon", downloads, known)
    add_icons(gathered, GLYPH_SETS, "glyph", downloads, known)
    add_clip_art(gathered, clip_art_folder(downloads), known)
    jobs = [(row["drawing"], may_be_coloured(row)) for row in gathered.rows]
    drawn = in_pool(partial(drawn_of, size=size), jobs, "draw")
    taken = taken_words(gathered.rows)
    codes = Codes([*taken, *(tag for row in gathered.rows for tag in row["tags"]), *splits.family_of], encoder)
    hold_back(gathered.rows, codes, splits)
    held_out = [words for label in splits.labels(train=False) if (words := content_words([label])) & set(WORDS)]
    rows: list[Row] = []
    known_drawings: set[tuple[str, str, bytes]] = set()
    for row, picture in zip(gathered.rows, drawn, strict=True):
        if picture is None:
            gathered.left_out[f"{row['style']}: cannot be drawn, or shows nothing"] += 1
            continue
        png, small, colour = picture
        if (key := (row["set"], row["label"], small.tobytes())) in known_drawings:
            gathered.left_out[f"{row['style']}: the same drawing and title again"] += 1
            continue
        known_drawings.add(key)
        rank_tags(row, codes, taken)
        captions = captions_of(row["label"], row["style"], row["tags"], colour, row["synonyms"])
        if row["split"] == "train":
            captions = [captions[0], *(c for c in captions[1:] if not spells(c, held_out))]
        measured = {"png": png, "thumbnail": small, "colour": colour, "captions": captions, "number": len(rows)}
        rows.append({**row, **measured})
    gathered.left_out["held: near a picture outside training"] = hold_near(rows)
    copies = turned_rows(rows, held_out)
    leaks = near_pictures(thumbnails(copies), thumbnails([row for row in rows if row["split"] != "train"]))
    rows += [row for row, leak in zip(copies, leaks, strict=True) if not leak]
    for row, number in zip(rows, duplicate_numbers(rows), strict=True):
        row["duplicate"] = number
    return rows, gathered


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


def _run(args: argparse.Namespace) -> None:
    rows, gathered = build(args.downloads, args.size)
    write_rows(FEATURES, rows, args.out, gathered.credits)
    print(table(rows, gathered.left_out))


main = partial(run_recipe, "pictures", __doc__, add_downloads, _run)
