"""Splits that do not leak: families of captions, near-duplicate pictures, hidden artists.

A family is captions that mean nearly the same, that one picture has, or whose pictures are near-duplicates; whole
families are held out. The splits of the emoji are a committed file (configs/emoji-splits.json), so that every model and
every report means the same captions, whatever the version of the libraries that once computed it.
"""

import hashlib
import json
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from bridge.captions import prepare_caption
from bridge.pairs.reading import Pair, Survey
from bridge.pairs.tables import SPLITS
from bridge.text import CaptionTruncatedWarning, CaptionUnknownWarning, TextEncoder
from train.config import ConfigError

K = TypeVar("K")
V = TypeVar("V")
SHARES = {"test": 0.08, "validation": 0.08}
MAX_HELD_OUT = 40  # Families with more labels stay in training: one would own every average
BIG_SHARE = 0.2  # A family with more of the pictures is held out only where there are too few others
DISTANCE = 0.45  # Cosine distance of text codes at which families stop growing
MAX_LINKED, MAX_ENCODED = 5_000, 50_000  # Labels up to which families are clusters, and up to which they have leaders
HIDE_FROM, HIDE = 4, 2  # A training caption with so many artists (or pictures) may have so many of them hidden
SAME_RMSE, LEAK_RMSE = 0.02, 0.03
"""Thumbnails closer than the first are one drawing; training pictures closer than the second to one outside training
are left out. Root mean squared difference, on the scale 0 to 1."""

Encode = Callable[[list[str]], np.ndarray]
"""Captions to unit-norm text codes (M, D)."""


def order_of(text: str, salt: str) -> str:
    """A fixed pseudo-random order: sort by this digest."""
    return hashlib.sha256(f"{salt}:{text}".encode()).hexdigest()


def close_pairs(
    pixels: np.ndarray, others: np.ndarray, rmse: float, *, mirrored: bool = False, block: int = 2048
) -> np.ndarray:
    """Index pairs (P, 2) of pictures (N, H, W, 3) and others (M, H, W, 3), or their mirror images, closer than `rmse`.

    They are in [0, 1], or uint8; see SAME_RMSE.
    """
    right = _flat(others[:, :, ::-1] if mirrored else others)
    norms = (right**2).sum(1)
    pairs = [np.empty((0, 2), int)]
    for start in range(0, len(pixels), block):
        rows = _flat(pixels[start : start + block])
        squared = (rows**2).sum(1)[:, None] + norms[None] - 2 * rows @ right.T
        i, j = np.nonzero(squared < rmse**2 * right.shape[1])
        pairs.append(np.stack([i + start, j], 1))
    return np.concatenate(pairs)


def _flat(pixels: np.ndarray) -> np.ndarray:
    flat = pixels.reshape(len(pixels), -1).astype(np.float32)
    return flat / 255 if pixels.dtype == np.uint8 else flat


def near_pictures(pixels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which pictures are near-duplicates of one of `others` or of its mirror image, (N,) bool; see `close_pairs`."""
    near = np.zeros(len(pixels), dtype=bool)
    for mirrored in (False, True) if len(pixels) and len(others) else ():
        near[close_pairs(pixels, others, LEAK_RMSE, mirrored=mirrored)[:, 0]] = True
    return near


def near_held_out(split: Sequence[str], thumbnails: np.ndarray) -> np.ndarray:
    """Which training pictures are near-duplicates of one of another split, (N,) bool; split "" counts nowhere."""
    sides = np.array(split)
    near, train = np.zeros(len(sides), dtype=bool), sides == "train"
    near[train] = near_pictures(thumbnails[train], thumbnails[~train & (sides != "")])
    return near


def near_groups(thumbnails: np.ndarray, block: int = 1024) -> np.ndarray:
    """Group numbers, (N,), of small pictures (N, H, W, 3) uint8 linked by near-duplicates, mirrored ones too."""
    flat, same = np.unique(thumbnails.reshape(len(thumbnails), -1), axis=0, return_inverse=True)
    means = flat.mean(1) / 255
    order = np.argsort(means, kind="stable")
    means, distinct = means[order], flat[order].reshape(-1, *thumbnails.shape[1:])
    group = np.arange(len(order))
    for start in range(0, len(order), block):
        # Two pictures can only be close if their means are, so only those are compared.
        stop = int(np.searchsorted(means, means[min(start + block, len(means)) - 1] + SAME_RMSE, "right"))
        for at in range(start, stop, 8 * block):  # bounds the memory
            others = distinct[at : min(at + 8 * block, stop)]
            for mirrored in (False, True):
                links = close_pairs(distinct[start : start + block], others, SAME_RMSE, mirrored=mirrored)
                group = merge_families(group, links + np.array([start, at]))
    return np.unique(group[np.argsort(order)][same.ravel()], return_inverse=True)[1]


def same_words(caption: str) -> str:
    """What captions share that say the same: letter case, articles and punctuation do not count."""
    words = re.findall(r"\w+", prepare_caption(caption).casefold())
    return " ".join(word for word in words if word not in ("a", "an", "the")) or caption


def caption_families(codes: np.ndarray, distance: float = DISTANCE) -> np.ndarray:
    """Average-linkage clusters (N,) of unit-norm text codes (N, D), up to a cosine distance in [0, 2]."""
    return fcluster(linkage(codes, "average", metric="cosine"), distance, "distance")


def leader_families(codes: np.ndarray, distance: float, block: int = 1024) -> np.ndarray:
    """Families (N,): each unit-norm code (N, D) joins the nearest leader within a cosine distance, or leads a new one.

    Their order matters; time grows with leaders, not pairs.

    Source: Hartigan 1975, Clustering Algorithms, chapter 3 (the leader algorithm)
    """
    leaders, count = np.empty_like(codes), 0
    family = np.empty(len(codes), dtype=int)
    for start in range(0, len(codes), block):
        rows = codes[start : start + block]
        known, old = rows @ leaders[:count].T, count
        for i, row in enumerate(rows):
            near = np.concatenate([known[i], leaders[old:count] @ row])
            if len(near) and near.max() >= 1 - distance:
                family[start + i] = near.argmax()
            else:
                leaders[count], family[start + i] = row, count
                count += 1
    return family


def merge_families(family: np.ndarray, links: np.ndarray) -> np.ndarray:
    """Family numbers from 0, (N,), after joining the families (N,) of linked captions, pairs (P, 2)."""
    _, number = np.unique(family, return_inverse=True)
    size = number.max() + 1
    graph = coo_matrix((np.ones(len(links), bool), (number[links[:, 0]], number[links[:, 1]])), shape=(size, size))
    return connected_components(graph, directed=False)[1][number]


def find_families(pairs: Sequence[Pair], groups: np.ndarray, encode: Encode) -> tuple[np.ndarray, list[str]]:
    """Family of each pair, (N,), and notes.

    Up to 5,000 labels are clustered by average linkage of their codes, up to 50,000 by leaders, and more by their
    words alone, since linkage takes memory with the square of their number and encoding takes hours.
    """
    labels, notes = sorted({pair.captions[0] for pair in pairs}), []
    number = {label: i for i, label in enumerate(labels)}
    label_of = np.array([number[pair.captions[0]] for pair in pairs])
    if len(labels) > MAX_ENCODED:
        notes.append(f"{len(labels)} labels are more than {MAX_ENCODED}: those of the same words are a family")
        family = np.unique([same_words(label) for label in labels], return_inverse=True)[1]
    elif len(labels) > MAX_LINKED:
        notes.append(f"{len(labels)} labels are more than {MAX_LINKED}: grouped by leaders, not by average linkage")
        family = leader_families(encode(labels), DISTANCE)
    else:
        family = caption_families(encode(labels), DISTANCE) if len(labels) > 1 else np.zeros(1, int)
    of_group = _sets(zip(groups.tolist(), label_of.tolist(), strict=True))
    numbered = zip(pairs, label_of.tolist(), strict=True)
    of_caption = _sets((same_words(caption), i) for pair, i in numbered for caption in pair.captions)
    specific = [numbers for numbers in of_caption.values() if len(numbers) <= MAX_HELD_OUT]
    if general := len(of_caption) - len(specific):
        notes.append(f"{general} captions stand with more than {MAX_HELD_OUT} labels; they join no families")
    links = [(min(numbers), other) for numbers in [*of_group.values(), *specific] for other in numbers]
    return merge_families(family, np.array(links, dtype=int))[label_of], notes


def _sets(items: Iterable[tuple[K, V]]) -> dict[K, set[V]]:
    sets: dict[K, set[V]] = defaultdict(set)
    for key, value in items:
        sets[key].add(value)
    return sets


def codes_of(encoder: TextEncoder | None, captions: list[str]) -> np.ndarray:
    """Unit-norm codes (M, D) of captions, by default MiniLM's."""
    encoder = encoder or TextEncoder.from_pretrained()
    with warnings.catch_warnings():
        for kind in (CaptionTruncatedWarning, CaptionUnknownWarning):  # train.inspect counts them
            warnings.simplefilter("ignore", kind)
        return encoder.encode(captions, batch_size=64, with_tokens=False).pooled.cpu().numpy()


# pictures of anybody's


@dataclass(frozen=True)
class Partition:
    """Families and splits of N pairs."""

    family: np.ndarray  # Numbers from 0, (N,)
    split: list[str]  # One of SPLITS each; "" is left out, near a held-out picture
    leaks: tuple[str, ...] = ()  # What stands on both sides all the same, one line each
    notes: tuple[str, ...] = ()  # How it was made, one line each


def partition(
    surveyed: Survey, groups: np.ndarray, encode: Encode, seed: int = 0, *, resplit: bool = False
) -> Partition:
    """Put every pair into a family and a split; for `groups` see `near_groups`.

    Splits of the source's own are kept, unless `resplit`, and their leaks listed; where they hold out nothing for
    validation, some training families are taken. Else 84, 8 and 8 of a hundred families train, validate and test, at
    least one each, in an order fixed by a hash and `seed`; of some training captions with many pictures, a few are
    hidden ("seen").

    Raises ConfigError if there are fewer than three families, or a split of the source's own has an unknown name.
    """
    family, notes = find_families(surveyed.pairs, groups, encode)
    labels = [pair.captions[0] for pair in surveyed.pairs]
    split = [] if resplit else own_splits(surveyed.pairs)
    if not set(split) > {"train"}:
        sides = hold_out(family, labels, seed, tuple(SHARES))
        split = hide([sides[number] for number in family.tolist()], surveyed.pairs)
        near = near_held_out(split, surveyed.thumbnails)
        split = ["" if leaks else name for name, leaks in zip(split, near, strict=True)]
    elif "validation" not in split:
        rows = [i for i, name in enumerate(split) if name == "train"]
        sides = hold_out(family[rows], [labels[i] for i in rows], seed, ("validation",))
        for i in rows:
            split[i] = sides[int(family[i])]
        notes.append("the source's splits hold out nothing for validation; it gets 8 % of the training families")
    return Partition(family, split, leaks_of(surveyed, split, groups), tuple(notes))


def own_splits(pairs: Sequence[Pair]) -> list[str]:
    """The source's splits, empty where it has none. ConfigError if a name is unknown, or some rows have none."""
    names = [pair.split for pair in pairs]
    unknown = next((pair for pair in pairs if pair.split not in SPLITS), None)
    if any(names) and unknown is not None:
        expected = f"expected one of {', '.join(SPLITS)}, or pass --resplit"
        raise ConfigError(f"split: {unknown.name} has split {unknown.split!r}; {expected}")
    return names if any(names) else []


def hold_out(family: np.ndarray, labels: Sequence[str], seed: int, splits: Sequence[str]) -> dict[int, str]:
    """Split of each family: 8 of a hundred families to each of `splits`, at least one, the others train.

    Families of very many captions or pictures come last in the order, which is fixed by a hash.
    Raises ConfigError if there are too few families to leave one for training.
    """
    members: dict[int, list[str]] = defaultdict(list)
    for number, label in zip(family.tolist(), labels, strict=True):
        members[number].append(label)
    if len(members) <= len(splits):
        few = f"{len(members)} families, too few to hold out one each for {' and '.join(splits)}"
        raise ConfigError(f"source: its captions form {few}; add pictures of other things, or a column 'split'")

    def rank(number: int) -> tuple[bool, str]:
        own = members[number]
        big = len(set(own)) > MAX_HELD_OUT or len(own) > BIG_SHARE * len(family)
        return big, order_of(min(own), f"side {seed}")

    return dict.fromkeys(members, "train") | _dealt(sorted(members, key=rank), len(members), splits, 1)


def _dealt(order: Iterable[int], count: int, splits: Iterable[str], least: int) -> dict[int, str]:
    """Splits of the first families in order: each split takes its share of `count` families, `least` or more."""
    left = iter(order)
    return {i: name for name in splits for i in islice(left, max(least, round(SHARES[name] * count)))}


def hide(split: Sequence[str], pairs: Sequence[Pair]) -> list[str]:
    """Hide some pictures of training captions that have many: "seen" and "seen_validation" of 8 % of those each."""
    drawings = [(pair.captions[0], pair.artist or f"picture {i}") for i, pair in enumerate(pairs)]
    drawn = _sets(drawing for drawing, side in zip(drawings, split, strict=True) if side == "train")
    enough = sum(len(artists) >= HIDE_FROM for artists in drawn.values())
    count = max(1, round(0.08 * enough)) if enough > 1 else 0
    hidden = hide_artists(drawn, {"seen_validation": count, "seen": count}, HIDE_FROM, HIDE)
    return [hiding_set(hidden, *drawing) or side for drawing, side in zip(drawings, split, strict=True)]


def hide_artists(
    artists: Mapping[str, set[str]], counts: Mapping[str, int], at_least: int = 6, hide: int = 3
) -> dict[str, dict[str, list[str]]]:
    """Choose seen captions and the artists whose pictures of them never reach training: {set name: {caption: artists}}.

    Each named set takes so many of the training captions that at least `at_least` `artists` drew, and hides `hide`.
    """

    def hidden(caption: str) -> list[str]:
        return sorted(sorted(artists[caption], key=lambda artist: order_of(f"{caption}/{artist}", "artist"))[:hide])

    enough = (caption for caption, drawn in artists.items() if len(drawn) >= at_least)
    eligible = iter(sorted(enough, key=lambda caption: order_of(caption, "seen")))
    return {name: {c: hidden(c) for c in sorted(islice(eligible, count))} for name, count in counts.items()}


def hiding_set(hidden: Mapping[str, Mapping[str, Sequence[str]]], caption: str, artist: str) -> str:
    """Name of the set that hides an artist's pictures of a caption, "" if none does; see `hide_artists`."""
    return next((name for name, artists in hidden.items() if artist in artists.get(caption, ())), "")


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
    return *leaks, *(f"picture {surveyed.pairs[i].name} of train is near a held-out one" for i in np.flatnonzero(near))


# the emoji


@dataclass(frozen=True)
class Splits:
    """Which captions and artists belong to which side."""

    families: list[list[str]]  # Base captions (without skin tone), one list a family
    sides: list[str]  # "train", "validation" or "test", one each
    hidden: dict[str, dict[str, list[str]]]  # {"seen" | "seen_validation": {label: [artists never trained on]}}

    def save(self, path: Path) -> None:
        """Write the splits as one JSON file."""
        path.write_text(json.dumps(asdict(self), ensure_ascii=False, indent=0) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Splits":
        """Read what `save` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    @cached_property
    def family_of(self) -> dict[str, int]:
        """Base caption -> number of its family."""
        return {label: number for number, labels in enumerate(self.families) for label in labels}

    def place(self, label: str, artist: str) -> tuple[int, str] | None:
        """Family and split of a picture; None if the caption is unknown."""
        family = self.family_of.get(base_label(label))
        return None if family is None else (family, hiding_set(self.hidden, label, artist) or self.sides[family])

    def labels(self, *, train: bool) -> list[str]:
        """Base captions that are trained on, or those that are held out."""
        both = zip(self.families, self.sides, strict=True)
        return [label for labels, side in both if (side == "train") == train for label in labels]


def base_label(label: str) -> str:
    """The label without its skin tones: all tones of one person are one caption family.

    >>> base_label("man: dark skin tone, beard"), base_label("flag: Chad")
    ('man: beard', 'flag: Chad')
    """
    head, colon, tail = label.partition(": ")
    kept = [part for part in tail.split(", ") if not part.endswith("skin tone")]
    return head + (colon + ", ".join(kept) if kept and colon else "")


def assign_sides(families: Sequence[Sequence[str]]) -> list[str]:
    """Side of each family, 84/8/8 by number of families, in an order fixed by a hash."""
    order = sorted(range(len(families)), key=lambda i: order_of(families[i][0], "side"))
    held_out = _dealt((i for i in order if len(families[i]) <= MAX_HELD_OUT), len(families), SHARES, 0)
    return [held_out.get(i, "train") for i in range(len(families))]


def make_splits(labels: Sequence[str], artists: Sequence[str], thumbnails: np.ndarray, encode: Encode) -> Splits:
    """Splits of N captioned pictures by their thumbnails (N, H, W, 3) in [0, 1]."""
    bases, caption_of = np.unique([base_label(label) for label in labels], return_inverse=True)
    same = caption_of[close_pairs(thumbnails, thumbnails, SAME_RMSE)]
    family = merge_families(caption_families(encode(bases.tolist())), same)
    families = [bases[family == number].tolist() for number in range(family.max() + 1)]
    sides = assign_sides(families)
    trained = set(Splits(families, sides, {}).labels(train=True))
    drawings = zip(labels, artists, strict=True)
    drawn = _sets(drawing for drawing in drawings if base_label(drawing[0]) in trained)
    return Splits(families, sides, hide_artists(drawn, {"seen": 200, "seen_validation": 100}))
