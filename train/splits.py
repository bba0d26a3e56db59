"""Splits that do not leak: families of captions, near-duplicate pictures, hidden artists.

Those of the emoji are a committed file (configs/emoji-splits.json), so that every model and every report means the
same captions, whatever the version of the libraries that once computed it.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

SHARES = {"test": 0.08, "validation": 0.08}
MAX_HELD_OUT = 40  # Families with more base captions stay in training: one would own every average
SAME_RMSE, LEAK_RMSE = 0.02, 0.03
"""Thumbnails closer than the first are one drawing; training pictures closer than the second to one outside training
are left out. Root mean squared difference, on the scale 0 to 1."""


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
        if family is None:
            return None
        hidden = [name for name, captions in self.hidden.items() if artist in captions.get(label, [])]
        return family, [self.sides[family], *hidden][-1]

    def labels(self, *, train: bool) -> list[str]:
        """Base captions that are trained on, or those that are held out."""
        both = zip(self.families, self.sides, strict=True)
        return [label for labels, side in both if (side == "train") == train for label in labels]


def base_label(label: str) -> str:
    """The label without its skin tones: all tones of one person are one caption family.

    >>> base_label("waving hand: light skin tone"), base_label("man: dark skin tone, beard")
    ('waving hand', 'man: beard')
    >>> base_label("flag: Chad")
    'flag: Chad'
    """
    head, colon, tail = label.partition(": ")
    kept = [part for part in tail.split(", ") if not part.endswith("skin tone")]
    return head + (colon + ", ".join(kept) if kept and colon else "")


def order_of(text: str, salt: str) -> str:
    """A fixed pseudo-random order: sort by this digest."""
    return hashlib.sha256(f"{salt}:{text}".encode()).hexdigest()


# pictures


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


def near_pictures(pixels: np.ndarray, others: np.ndarray, rmse: float = LEAK_RMSE) -> np.ndarray:
    """Which pictures are near-duplicates of one of `others` or of its mirror image, (N,) bool; see `close_pairs`."""
    near = np.zeros(len(pixels), dtype=bool)
    for mirrored in (False, True) if len(pixels) and len(others) else ():
        near[close_pairs(pixels, others, rmse, mirrored=mirrored)[:, 0]] = True
    return near


def near_held_out(split: Sequence[str], thumbnails: np.ndarray) -> np.ndarray:
    """Which training pictures are near-duplicates of one of another split, (N,) bool; split "" counts nowhere."""
    sides = np.array(split)
    near, train = np.zeros(len(sides), dtype=bool), sides == "train"
    near[train] = near_pictures(thumbnails[train], thumbnails[~train & (sides != "")])
    return near


def near_groups(thumbnails: np.ndarray, rmse: float = SAME_RMSE, block: int = 1024) -> np.ndarray:
    """Group numbers, (N,), of small pictures (N, H, W, 3) uint8 linked by near-duplicates, mirrored ones too."""
    flat, same = np.unique(thumbnails.reshape(len(thumbnails), -1), axis=0, return_inverse=True)
    means = flat.mean(1) / 255
    order = np.argsort(means, kind="stable")
    means, distinct = means[order], flat[order].reshape(-1, *thumbnails.shape[1:])
    group = np.arange(len(order))
    for start in range(0, len(order), block):
        # Two pictures can only be close if their means are, so only those are compared.
        stop = int(np.searchsorted(means, means[min(start + block, len(means)) - 1] + rmse, "right"))
        for at in range(start, stop, 8 * block):  # bounds the memory
            others = distinct[at : min(at + 8 * block, stop)]
            for mirrored in (False, True):
                links = close_pairs(distinct[start : start + block], others, rmse, mirrored=mirrored)
                group = merge_families(group, links + np.array([start, at]))
    return np.unique(group[np.argsort(order)][same.ravel()], return_inverse=True)[1]


# captions


def caption_families(codes: np.ndarray, distance: float = 0.45) -> np.ndarray:
    """Average-linkage clusters (N,) of unit-norm text codes (N, D), up to a cosine distance in [0, 2]."""
    return fcluster(linkage(codes, "average", metric="cosine"), distance, "distance")


def merge_families(family: np.ndarray, links: np.ndarray) -> np.ndarray:
    """Family numbers from 0, (N,), after joining the families (N,) of linked captions, pairs (P, 2)."""
    _, number = np.unique(family, return_inverse=True)
    size = number.max() + 1
    graph = coo_matrix((np.ones(len(links), bool), (number[links[:, 0]], number[links[:, 1]])), shape=(size, size))
    return connected_components(graph, directed=False)[1][number]


def assign_sides(families: Sequence[Sequence[str]]) -> list[str]:
    """Side of each family, 84/8/8 by number of families, in an order fixed by a hash."""
    order = sorted(range(len(families)), key=lambda i: order_of(families[i][0], "side"))
    small = iter([i for i in order if len(families[i]) <= MAX_HELD_OUT])
    sides = ["train"] * len(families)
    for side, share in SHARES.items():
        for i in islice(small, round(share * len(families))):
            sides[i] = side
    return sides


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


def make_splits(
    labels: Sequence[str], artists: Sequence[str], thumbnails: np.ndarray, encode: Callable[[list[str]], np.ndarray]
) -> Splits:
    """Splits of N captioned pictures, thumbnails (N, H, W, 3) in [0, 1]; `encode` makes unit-norm codes of captions."""
    bases, caption_of = np.unique([base_label(label) for label in labels], return_inverse=True)
    same = caption_of[close_pairs(thumbnails, thumbnails, SAME_RMSE)]
    family = merge_families(caption_families(encode(bases.tolist())), same)
    members: dict[int, list[str]] = defaultdict(list)
    for base, i in zip(bases.tolist(), family.tolist(), strict=True):
        members[i].append(base)
    families = [members[i] for i in sorted(members)]
    sides = assign_sides(families)
    side_of = {base: side for group, side in zip(families, sides, strict=True) for base in group}
    drawn: dict[str, set[str]] = defaultdict(set)
    for label, artist in zip(labels, artists, strict=True):
        if side_of[base_label(label)] == "train":
            drawn[label].add(artist)
    return Splits(families, sides, hide_artists(drawn, {"seen": 200, "seen_validation": 100}))
