"""Where the pictures of `train.recipes.pictures` come from: emoji, icons, glyphs and Debian's clip art."""

import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from train.recipes.clipart import CC, DC, MAX_SHARED, RDF, read_drawing
from train.recipes.emoji import EMOJIBASE, STYLES, emoji_entries, matched_icons
from train.recipes.iconify import MissingToolError, icon_svg, npm_pack
from train.recipes.icons import IconSet, one_a_caption
from train.recipes.names import clean_name, clean_title, says_nothing
from train.splits import Splits, base_label

GLYPH_SETS = (
    "game-icons@1.2.4",
    "healthicons@1.2.13",
    "temaki@1.2.6",
    "maki@1.2.5",
    "pinhead@1.2.28",
    "fa7-solid@1.2.5",
)
"""Sets in one colour whose glyphs are mostly things."""
GLYPH_WORDS = 3
"""Words of a glyph's name at most."""
PLACING = {"above", "across", "and", "behind", "beside", "on", "over", "through", "under", "wide", "with"}
"""A glyph with one of these in its name is a map's sign made of several."""
CLIP_ART = "openclipart-svg"
MANY = 30
"""A keyword of more drawings of clip art is a category."""
Row = dict[str, Any]


@dataclass
class Found:
    """What the sources hold: rows without pictures, an SVG text or file for each, credits, and what was left out."""

    rows: list[Row] = field(default_factory=list)
    drawings: list[str | Path] = field(default_factory=list)
    credits: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, drawing: str | Path, row: Row) -> None:
        """One picture, its columns filled up."""
        self.rows.append({"tags": [], "group": "", "hexcode": "", "turned": False, **row})
        self.drawings.append(drawing)


def add_emoji(found: Found, downloads: Path, splits: Splits) -> None:
    """Every emoji of the eight sets, with the committed families and splits."""
    entries = emoji_entries(npm_pack(EMOJIBASE, downloads))
    family_of = splits.family_of()
    for style in tqdm(STYLES, desc="emoji", file=sys.stderr):
        package = npm_pack(style.package, downloads)
        found.credits.append(IconSet.load(package).credit)
        for entry, svg in matched_icons(package, entries):
            label, family = entry["label"], family_of.get(base_label(entry["label"]))
            if family is None:
                found.left_out["emoji without a family"] += 1
                continue
            split = splits.sides[family]
            for name, hidden in splits.hidden.items():
                if style.artist in hidden.get(label, []):
                    split = name
            tags = entry["tags"] if label == base_label(label) else []
            columns = {key: entry[key] for key in ("label", "group", "hexcode")}
            columns |= {
                "artist": style.artist,
                "style": style.words,
                "set": style.name,
                "family": family,
                "split": split,
            }
            found.add(svg, {**columns, "tags": [t for t in tags if len(t) > 2]})


def add_icons(found: Found, packages: Sequence[str], kind: str, downloads: Path, known: set[str]) -> None:
    """Icons of some sets, a drawing a caption and set, without those whose names say nothing."""
    for package in tqdm(packages, desc=kind, file=sys.stderr):
        icon_set = IconSet.load(npm_pack(f"@iconify-json/{package}", downloads))
        found.credits.append(icon_set.credit)
        prefix = icon_set.info["prefix"]
        names: dict[str, str] = {}
        for caption, name in one_a_caption(icon_set).items():
            names.setdefault(clean_name(caption), name)
        for label, name in names.items():
            if says_nothing(label, known):
                found.left_out[f"{kind}: name says nothing"] += 1
            elif kind == "glyph" and (len(label.split()) > GLYPH_WORDS or PLACING & set(label.split())):
                found.left_out["glyph: a sign of several things"] += 1
            else:
                row = {"label": label, "artist": prefix, "style": kind, "set": prefix}
                found.add(icon_svg(icon_set.icons, name), row)


def words_of_sets(glyphs: Sequence[str], icons: Sequence[str], downloads: Path) -> set[str]:
    """Words in the names of glyphs, and those that more than one set of icons uses: not misspelt, nor a trade mark."""
    uses: Counter[str] = Counter()
    for packages, weight in ((glyphs, 2), (icons, 1)):
        for package in packages:
            icon_set = IconSet.load(npm_pack(f"@iconify-json/{package}", downloads))
            words = {word for caption in one_a_caption(icon_set) for word in caption.split()}
            uses.update(dict.fromkeys(words, weight))
    return {word for word, number in uses.items() if number > 1}


def clip_art_folder(downloads: Path) -> Path:
    """Debian's openclipart-svg, fetched and unpacked once.

    Raises:
        MissingToolError: It cannot be fetched here; says how to do it by hand.
    """
    folder = downloads / CLIP_ART
    if folder.exists():
        return folder
    downloads.mkdir(parents=True, exist_ok=True)
    by_hand = f"get {CLIP_ART}_*_all.deb from packages.debian.org/{CLIP_ART} into {downloads} and run again"
    archives = sorted(downloads.glob(f"{CLIP_ART}_*.deb"))
    if not archives:
        if not (apt := shutil.which("apt-get")):
            raise MissingToolError(f"apt-get: not found; {by_hand}")
        done = subprocess.run([apt, "download", CLIP_ART], cwd=downloads, capture_output=True, text=True, check=False)
        archives = sorted(downloads.glob(f"{CLIP_ART}_*.deb"))
        if done.returncode or not archives:
            raise MissingToolError(f"apt-get download {CLIP_ART}: {done.stderr.strip() or 'no archive'}; {by_hand}")
    if not (dpkg := shutil.which("dpkg-deb")):
        raise MissingToolError(f"dpkg-deb: not found; unpack {archives[-1]} into {folder} and run again")
    with tempfile.TemporaryDirectory(dir=downloads) as scratch:
        unpacked = Path(scratch) / CLIP_ART
        done = subprocess.run([dpkg, "-x", archives[-1], unpacked], capture_output=True, text=True, check=False)
        if done.returncode:
            raise MissingToolError(f"dpkg-deb -x {archives[-1]}: {done.stderr.strip()}; delete it and run again")
        unpacked.rename(folder)
    return folder


def subjects(path: Path) -> list[str]:
    """The keywords in a drawing's metadata."""
    work = next((w for cc in CC for w in ET.parse(path).getroot().iter(f"{cc}Work")), None)
    found = [] if work is None else work.findall(f"{DC}subject/{RDF}Bag/{RDF}li")
    return [text for node in found if not (text := (node.text or "").lower().strip()).startswith("hash(")]


def add_clip_art(found: Found, folder: Path, known: set[str]) -> None:
    """Public-domain drawings below a folder whose titles say what they show."""
    titled = []
    for path in tqdm(sorted(folder.rglob("*.svg")), desc="clip art", file=sys.stderr):
        drawing = read_drawing(path)
        if drawing is None:
            found.left_out["clip art: no title, not said to be in the public domain, or damaged"] += 1
            continue
        group = path.parent.relative_to(folder).as_posix().partition("svg/")[2]
        label = clean_title(drawing.title)
        if label and "/flags" in group and "flag" not in label:
            label = f"flag of {label}"
        titled.append((drawing, label, group))
    shared = Counter(label for _, label, _ in titled)
    keywords = [[clean_title(word) for word in subjects(drawing.path)] for drawing, _, _ in titled]
    common = {tag for tag, n in Counter(tag for tags in keywords for tag in set(tags)).items() if n > MANY}
    for (drawing, label, group), tags in zip(titled, keywords, strict=True):
        if shared[label] > MAX_SHARED or says_nothing(label, known):
            found.left_out["clip art: title says nothing"] += 1
            continue
        own = [t for t in dict.fromkeys(tags) if t not in {*common, label} and not says_nothing(t, known)]
        artist = drawing.artist or "openclipart"
        row = {"label": label, "tags": own, "group": group, "artist": artist, "style": "clip art", "set": "openclipart"}
        found.add(drawing.path, row)
    found.credits.append("- Open Clip Art Library by its contributors (https://openclipart.org), public domain")
