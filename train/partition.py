"""Splits of anybody's captioned pictures that do not leak: whole families of captions are held out.

A family is captions that mean nearly the same, that are told of one picture, or whose pictures are near-duplicates.
"""

import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from bridge.captions import prepare_caption
from bridge.pairs.reading import Pair, Survey
from bridge.pairs.tables import SPLITS
from bridge.text import CaptionTruncatedWarning, CaptionUnknownWarning, TextEncoder
from train.config import ConfigError
from train.splits import (
    MAX_HELD_OUT,
    SHARES,
    caption_families,
    hide_artists,
    merge_families,
    near_groups,
    near_held_out,
    order_of,
)

DISTANCE = 0.45  # Cosine distance of text codes at which families stop growing
MAX_LINKED, MAX_ENCODED = 5_000, 50_000  # Labels up to which families are clusters, and up to which they have leaders
BIG_SHARE = 0.2  # A family with more of the pictures is held out only where there are too few others
HIDE_FROM, HIDE = 4, 2  # A training caption with so many artists (or pictures) may have so many of them hidden
LISTED, SHOWN = 1000, 10  # Bad rows and leaks that a summary lists, and that are told
Encode = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class Partition:
    """Families and splits of N pairs."""

    family: np.ndarray  # Numbers from 0, (N,)
    split: list[str]  # One of SPLITS each; "" is left out, near a held-out picture
    leaks: tuple[str, ...] = ()  # What stands on both sides all the same, one line each
    notes: tuple[str, ...] = ()  # How it was made, one line each


def partition(surveyed: Survey, encode: Encode, seed: int = 0, *, resplit: bool = False) -> Partition:
    """Put every pair into a family and a split.

    Splits of the source's own are kept, unless `resplit`, and their leaks listed; where they hold out nothing for
    validation, some training families are taken. Else 84, 8 and 8 of a hundred families train, validate and test, at
    least one each, in an order fixed by a hash and `seed`; of some training captions with many pictures, a few are
    hidden ("seen"). `encode` makes unit-norm text codes (M, D) of captions.

    Raises ConfigError if there are fewer than three families, or a split of the source's own has an unknown name.
    """
    groups = near_groups(surveyed.thumbnails)
    family, notes = find_families(surveyed.pairs, groups, encode)
    own = [] if resplit else own_splits(surveyed.pairs)
    if set(own) > {"train"}:
        split = own
        if "validation" not in own:
            rows = [i for i, name in enumerate(own) if name == "train"]
            sides = hold_out(family[rows], [surveyed.pairs[i].captions[0] for i in rows], seed, ("validation",))
            split = [name if name != "train" else sides[int(family[i])] for i, name in enumerate(own)]
            notes.append("the source's splits hold out nothing for validation; it gets 8 % of the training families")
    else:
        sides = hold_out(family, [pair.captions[0] for pair in surveyed.pairs], seed, tuple(SHARES))
        split = hide([sides[int(number)] for number in family], surveyed.pairs)
        near = near_held_out(split, surveyed.thumbnails)
        split = ["" if leaks else name for name, leaks in zip(split, near, strict=True)]
    return Partition(family, split, leaks_of(surveyed, split, groups), tuple(notes))


def own_splits(pairs: Sequence[Pair]) -> list[str]:
    """The source's splits, empty where it has none. ConfigError if a name is unknown, or some rows have none."""
    names = [pair.split for pair in pairs]
    if not any(names):
        return []
    for pair in pairs:
        if pair.split not in SPLITS:
            told = f"{pair.name} has split {pair.split!r}; expected one of {', '.join(SPLITS)}, or pass --resplit"
            raise ConfigError(f"split: {told}")
    return names


def same_words(caption: str) -> str:
    """What captions share that say the same: letter case, articles and punctuation do not count.

    >>> same_words("A red car!") == same_words("the Red car")
    True
    """
    words = re.findall(r"\w+", prepare_caption(caption).casefold())
    return " ".join(word for word in words if word not in ("a", "an", "the")) or caption


def find_families(pairs: Sequence[Pair], groups: np.ndarray, encode: Encode) -> tuple[np.ndarray, list[str]]:
    """Family of each pair, (N,), and notes.

    Up to 5,000 labels are clustered by average linkage of their codes, up to 50,000 by leaders, and more by their
    words alone, since linkage takes memory with the square of their number and encoding takes hours.
    """
    labels = sorted({pair.captions[0] for pair in pairs})
    number = {label: i for i, label in enumerate(labels)}
    label_of = np.array([number[pair.captions[0]] for pair in pairs])
    notes = []
    if len(labels) > MAX_ENCODED:
        notes.append(f"{len(labels)} labels are more than {MAX_ENCODED}: those of the same words are a family")
        family = np.unique([same_words(label) for label in labels], return_inverse=True)[1]
    elif len(labels) > MAX_LINKED:
        notes.append(f"{len(labels)} labels are more than {MAX_LINKED}: grouped by leaders, not by average linkage")
        family = leader_families(encode(labels), DISTANCE)
    else:
        family = caption_families(encode(labels), DISTANCE) if len(labels) > 1 else np.zeros(1, int)
    near: dict[int, set[int]] = defaultdict(set)
    told: dict[str, set[int]] = defaultdict(set)
    for pair, group, label in zip(pairs, groups.tolist(), label_of.tolist(), strict=True):
        near[group].add(label)
        for words in map(same_words, pair.captions):
            told[words].add(label)
    general = sum(len(labels) > MAX_HELD_OUT for labels in told.values())
    if general:
        notes.append(f"{general} captions stand with more than {MAX_HELD_OUT} labels; they join no families")
    joined = [*near.values(), *(labels for labels in told.values() if len(labels) <= MAX_HELD_OUT)]
    links = [(min(labels), other) for labels in joined for other in labels]
    family = merge_families(family, np.array(links, dtype=int).reshape(-1, 2))
    return family[label_of], notes


def leader_families(codes: np.ndarray, distance: float, block: int = 1024) -> np.ndarray:
    """Families (N,): each unit-norm code (N, D) joins the nearest leader within a cosine distance, or leads a new one.

    Their order matters; time grows with leaders, not pairs.

    Source: Hartigan 1975, Clustering Algorithms, chapter 3 (the leader algorithm)
    """
    leaders = np.empty_like(codes)
    count = 0
    family = np.empty(len(codes), dtype=int)
    for start in range(0, len(codes), block):
        rows = codes[start : start + block]
        known, old = rows @ leaders[:count].T, count
        for i, row in enumerate(rows):
            near = np.concatenate([known[i], leaders[old:count] @ row])
            if len(near) and near.max() >= 1 - distance:
                family[start + i] = near.argmax()
            else:
                leaders[count] = row
                family[start + i] = count
                count += 1
    return family


def hold_out(family: np.ndarray, labels: Sequence[str], seed: int, splits: Sequence[str]) -> dict[int, str]:
    """Split of each family: 8 of a hundred families to each of `splits`, at least one, the others train.

    Families of very many captions or pictures come last in the order, which is fixed by a hash.
    Raises ConfigError if there are too few families to leave one for training.
    """
    members: dict[int, list[str]] = defaultdict(list)
    for number, label in zip(family.tolist(), labels, strict=True):
        members[number].append(label)
    if len(members) <= len(splits):
        told = f"too few to hold out one each for {' and '.join(splits)}"
        remedy = "add pictures of other things, or a column 'split'"
        raise ConfigError(f"source: its captions form {len(members)} families, {told}; {remedy}")

    def rank(number: int) -> tuple[bool, str]:
        own = members[number]
        big = len(set(own)) > MAX_HELD_OUT or len(own) > BIG_SHARE * len(family)
        return big, order_of(min(own), f"side {seed}")

    order = iter(sorted(members, key=rank))
    sides = dict.fromkeys(members, "train")
    for name in splits:
        sides |= dict.fromkeys(islice(order, max(1, round(SHARES[name] * len(members)))), name)
    return sides


def hide(split: Sequence[str], pairs: Sequence[Pair]) -> list[str]:
    """Hide some pictures of training captions that have many: "seen" and "seen_validation" of 8 % of those each."""
    artist = [pair.artist or f"picture {i}" for i, pair in enumerate(pairs)]
    drawn: dict[str, set[str]] = defaultdict(set)
    for side, pair, who in zip(split, pairs, artist, strict=True):
        if side == "train":
            drawn[pair.captions[0]].add(who)
    enough = sum(len(artists) >= HIDE_FROM for artists in drawn.values())
    count = max(1, round(0.08 * enough)) if enough > 1 else 0
    hidden = hide_artists(drawn, {"seen_validation": count, "seen": count}, HIDE_FROM, HIDE)

    def side_of(side: str, pair: Pair, who: str) -> str:
        names = [name for name, chosen in hidden.items() if who in chosen.get(pair.captions[0], [])]
        return names[-1] if side == "train" and names else side

    return [side_of(*row) for row in zip(split, pairs, artist, strict=True)]


def leaks_of(surveyed: Survey, split: Sequence[str], groups: np.ndarray) -> tuple[str, ...]:
    """Captions and pictures that stand in training and in validation or test, one line each."""
    captions: dict[str, dict[str, str]] = defaultdict(dict)
    pictures: dict[int, dict[str, str]] = defaultdict(dict)
    for pair, side, group in zip(surveyed.pairs, split, groups.tolist(), strict=True):
        if side:
            pictures[group].setdefault(side, pair.name)
        for caption in pair.captions if side in ("train", "validation", "test") else ():
            captions[same_words(caption)].setdefault(side, f"{caption!r} ({pair.name})")

    def leak(sides: dict[str, str]) -> bool:
        return "train" in sides and len(sides) > 1

    leaks = [
        f"{what} {', '.join(f'{where} in {name}' for name, where in sides.items())}"
        for what, places in (("caption", captions), ("picture", pictures))
        for sides in places.values()
        if leak(sides)
    ]
    near = near_held_out(split, surveyed.thumbnails) & ~np.array([leak(pictures[group]) for group in groups.tolist()])
    leaks += [f"picture {surveyed.pairs[i].name} of train is near a held-out one" for i in np.flatnonzero(near)]
    return tuple(leaks)


def encoding(encoder: TextEncoder | None = None) -> Any:
    """A function from captions to unit-norm codes (M, D), which loads MiniLM when it is first called."""

    def encode(captions: list[str]) -> np.ndarray:
        used = encoder or TextEncoder.from_pretrained()
        with warnings.catch_warnings():
            for kind in (CaptionTruncatedWarning, CaptionUnknownWarning):  # train.inspect counts them
                warnings.simplefilter("ignore", kind)
            return used.encode(captions, batch_size=64, with_tokens=False).pooled.cpu().numpy()

    return encode


def reasons(rows: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Where and why, fit for JSON."""
    return [{"row": name, "why": why} for name, why in rows]


def shortened(lines: Sequence[str], count: int, more: str = "") -> list[str]:
    """The first ten lines, and one that says how many of `count` are left."""
    return [*lines[:SHOWN], *([f"and {count - SHOWN} more{more}"] if count > SHOWN else [])]


def counted(counts: Mapping[str, int]) -> str:
    """Counts by name in one line."""
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def summary(surveyed: Survey, plan: Partition) -> dict[str, Any]:
    """Counts, what was left out and why, and leaks, fit for JSON."""
    return {
        "rows": surveyed.rows,
        "pictures": {name or "left out": plan.split.count(name) for name in (*SPLITS, "") if name in plan.split},
        "families": len(set(plan.family.tolist())),
        "bad_rows": len(surveyed.bad),
        "bad": reasons(surveyed.bad[:LISTED]),
        "lost_captions": reasons(surveyed.lost[:LISTED]),
        "joined_rows": surveyed.joined,
        "leak_count": len(plan.leaks),
        "leaks": list(plan.leaks[:LISTED]),
        "notes": list(plan.notes),
    }
