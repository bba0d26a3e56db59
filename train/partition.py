"""Splits of anybody's captioned pictures that do not leak: whole families of captions are held out.

A family is captions that mean nearly the same, that are told of one picture, or whose pictures are near-duplicates.
"""

import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

DISTANCE = 0.45
"""Cosine distance of text codes at which families stop growing."""
MAX_LINKED, MAX_ENCODED = 5_000, 50_000
"""Labels up to which families are average-linkage clusters, and up to which they are grouped by leaders."""
BIG_SHARE = 0.2
"""A family with more of the pictures is held out only where there are too few others."""
HIDE_FROM, HIDE = 4, 2
"""A training caption with so many artists (pictures, where artists are unknown) may have so many of them hidden."""
LISTED = 1000
"""Bad rows and leaks that a summary lists."""

Encode = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class Partition:
    """Families and splits of N pairs.

    Attributes:
        family: Numbers from 0, (N,).
        split: "train", "validation", "test", "seen" or "seen_validation" each; "" is left out, near a held-out picture.
        leaks: What stands on both sides all the same, one line each.
        notes: How it was made, one line each.
    """

    family: np.ndarray
    split: list[str]
    leaks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """Pictures of each split that has any, those left out under ""."""
        surveyed = Counter(self.split)
        return {name: surveyed[name] for name in (*SPLITS, "") if surveyed[name]}


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
    """The source's splits by our names; empty where it has none.

    Raises ConfigError if a name is unknown, or some rows have none.
    """
    names = [pair.split for pair in pairs]
    if not any(names):
        return []
    unknown = next((i for i, name in enumerate(names) if name not in SPLITS), None)
    if unknown is not None:
        raise ConfigError(
            f"split: {pairs[unknown].name} has split {pairs[unknown].split!r}; expected one of "
            f"{', '.join(SPLITS)}, or pass --resplit"
        )
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
    links = _chain(groups, label_of)
    general = 0
    for numbers in _tellers(pairs, label_of).values():
        if len(numbers) > MAX_HELD_OUT:
            general += 1
        else:
            links += [(numbers[0], other) for other in numbers[1:]]
    if general:
        notes.append(f"{general} captions stand with more than {MAX_HELD_OUT} labels; they join no families")
    family = merge_families(family, np.array(links, dtype=int).reshape(-1, 2))
    return family[label_of], notes


def _tellers(pairs: Sequence[Pair], label_of: np.ndarray) -> dict[str, list[int]]:
    """Words of every caption -> labels of the pictures that have it, each once."""
    tellers: dict[str, dict[int, None]] = defaultdict(dict)
    for pair, label in zip(pairs, label_of, strict=True):
        for caption in pair.captions:
            tellers[same_words(caption)][int(label)] = None
    return {words: list(labels) for words, labels in tellers.items()}


def _chain(groups: np.ndarray, label_of: np.ndarray) -> list[tuple[int, int]]:
    """Links between the labels of each group of pictures."""
    first: dict[int, int] = {}
    return [
        (first.setdefault(int(group), int(label)), int(label)) for group, label in zip(groups, label_of, strict=True)
    ]


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
    members: dict[int, set[str]] = defaultdict(set)
    for number, label in zip(family.tolist(), labels, strict=True):
        members[number].add(label)
    if len(members) <= len(splits):
        raise ConfigError(
            f"source: its captions form {len(members)} families, too few to hold out one each for "
            f"{' and '.join(splits)}; add pictures of other things, or a column 'split'"
        )
    pictures = Counter(family.tolist())
    salt = f"side {seed}"

    def rank(number: int) -> tuple[bool, str]:
        big = len(members[number]) > MAX_HELD_OUT or pictures[number] > BIG_SHARE * len(family)
        return big, order_of(min(members[number]), salt)

    order = sorted(members, key=rank)
    sides = dict.fromkeys(members, "train")
    start = 0
    for name in splits:
        count = max(1, round(SHARES[name] * len(members)))
        sides |= dict.fromkeys(order[start : start + count], name)
        start += count
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
    out = list(split)
    for i, (pair, who) in enumerate(zip(pairs, artist, strict=True)):
        for name, chosen in hidden.items():
            if split[i] == "train" and who in chosen.get(pair.captions[0], []):
                out[i] = name
    return out


def leaks_of(surveyed: Survey, split: Sequence[str], groups: np.ndarray) -> tuple[str, ...]:
    """Captions and pictures that stand in training and in validation or test, one line each."""
    captions: dict[str, dict[str, str]] = defaultdict(dict)
    pictures: dict[int, dict[str, str]] = defaultdict(dict)
    for pair, side, group in zip(surveyed.pairs, split, groups.tolist(), strict=True):
        if side:
            pictures[group].setdefault(side, pair.name)
        for caption in pair.captions if side in ("train", "validation", "test") else ():
            captions[same_words(caption)].setdefault(side, f"{caption!r} ({pair.name})")
    leaks = [f"caption {_sides(sides)}" for sides in captions.values() if _leaks(sides)]
    leaks += [f"picture {_sides(sides)}" for sides in pictures.values() if _leaks(sides)]
    near = near_held_out(split, surveyed.thumbnails) & ~np.array([_leaks(pictures[group]) for group in groups.tolist()])
    leaks += [f"picture {surveyed.pairs[i].name} of train is near a held-out one" for i in np.flatnonzero(near)]
    return tuple(leaks)


def _leaks(sides: dict[str, str]) -> bool:
    return "train" in sides and len(sides) > 1


def _sides(sides: dict[str, str]) -> str:
    return ", ".join(f"{where} in {name}" for name, where in sides.items())


def encoding(encoder: TextEncoder | None = None) -> Any:
    """A function from captions to unit-norm codes (M, D), which loads MiniLM when it is first called."""

    def encode(captions: list[str]) -> np.ndarray:
        used = encoder or TextEncoder.from_pretrained()
        with warnings.catch_warnings():
            for kind in (CaptionTruncatedWarning, CaptionUnknownWarning):  # train.inspect counts them
                warnings.simplefilter("ignore", kind)
            return used.encode(captions, batch_size=64, with_tokens=False).pooled.cpu().numpy()

    return encode


def summary(surveyed: Survey, plan: Partition) -> dict[str, Any]:
    """Counts, what was left out and why, and leaks, fit for JSON."""
    splits = plan.counts()
    return {
        "rows": surveyed.rows,
        "pictures": splits | {"left out": splits.pop("")} if "" in splits else splits,
        "families": len(set(plan.family.tolist())),
        "bad_rows": len(surveyed.bad),
        "bad": [{"row": name, "why": why} for name, why in surveyed.bad[:LISTED]],
        "lost_captions": [{"row": name, "why": why} for name, why in surveyed.lost[:LISTED]],
        "joined_rows": surveyed.joined,
        "leak_count": len(plan.leaks),
        "leaks": list(plan.leaks[:LISTED]),
        "notes": list(plan.notes),
    }
