"""Splits that do not leak: families of captions, near-duplicate pictures, hidden artists.

The result is a committed file (configs/emoji-splits.json), so that every model and every report
means the same captions, whatever the version of the libraries that once computed it.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

SHARES = {"test": 0.08, "validation": 0.08}
MAX_HELD_OUT = 40
"""Families with more base captions stay in training: one would own every average."""

SAME_RMSE = 0.02
"""Thumbnails closer than this are one drawing: their families are joined."""
LEAK_RMSE = 0.03
"""Training pictures closer than this to a picture outside training are left out."""


@dataclass(frozen=True)
class Splits:
    """Which captions and artists belong to which side.

    Attributes:
        families: Base captions (without skin tone), one list a family.
        sides: "train", "validation" or "test", one a family.
        hidden: {"seen" | "seen_validation": {label: [artists that never reach training]}}.
    """

    families: list[list[str]]
    sides: list[str]
    hidden: dict[str, dict[str, list[str]]]

    def save(self, path: Path) -> None:
        """Write the splits as one JSON file."""
        path.write_text(json.dumps(asdict(self), ensure_ascii=False, indent=0) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Splits":
        """Read what `save` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def family_of(self) -> dict[str, int]:
        """Base caption -> number of its family."""
        return {label: number for number, labels in enumerate(self.families) for label in labels}


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


def caption_families(codes: np.ndarray, distance: float = 0.45) -> np.ndarray:
    """Average-linkage clusters of text codes at a cosine distance.

    Args:
        codes: (N, D), unit norm.
        distance: Cosine distance at which clusters stop merging, in [0, 2].

    Returns:
        Cluster numbers, (N,).
    """
    return fcluster(linkage(codes, "average", metric="cosine"), distance, "distance")


def duplicate_pairs(pixels: np.ndarray, rmse: float, *, mirrored: bool = False, block: int = 2048) -> np.ndarray:
    """Pairs of near-duplicate pictures.

    Args:
        pixels: Small pictures in [0, 1], (N, H, W, 3).
        rmse: Root mean squared difference under which two pictures are the same drawing.
        mirrored: Compare each picture with the others' mirror images instead.
        block: Rows compared at a time.

    Returns:
        Index pairs i < j, (P, 2).
    """
    other = pixels[:, :, ::-1] if mirrored else pixels
    i, j = _close(pixels, other, rmse, block).T
    return np.stack([i[i < j], j[i < j]], 1)


def near_pictures(pixels: np.ndarray, others: np.ndarray, rmse: float) -> np.ndarray:
    """Which pictures are near-duplicates of one of `others` or of its mirror image.

    Args:
        pixels: Small pictures in [0, 1], (N, H, W, 3).
        others: (M, H, W, 3).
        rmse: See `duplicate_pairs`.

    Returns:
        bool, (N,).
    """
    near = np.zeros(len(pixels), dtype=bool)
    for compared in (others, others[:, :, ::-1]):
        near[_close(pixels, compared, rmse)[:, 0]] = True
    return near


def _close(pixels: np.ndarray, others: np.ndarray, rmse: float, block: int = 2048) -> np.ndarray:
    """Index pairs (P, 2) of pictures and others closer than `rmse`."""
    flat, other = (p.reshape(len(p), -1).astype(np.float32) for p in (pixels, others))
    norms = (other**2).sum(1)
    found = []
    for start in range(0, len(flat), block):
        rows = flat[start : start + block]
        squared = (rows**2).sum(1)[:, None] + norms[None] - 2 * rows @ other.T
        i, j = np.nonzero(squared < rmse**2 * flat.shape[1])
        found.append(np.stack([i + start, j], 1))
    return np.concatenate(found)


def merge_families(family: np.ndarray, links: np.ndarray) -> np.ndarray:
    """Join families that share a near-duplicate picture.

    Args:
        family: Family of each caption, (N,).
        links: Pairs of captions that belong together, (P, 2).

    Returns:
        Family numbers from 0, (N,).
    """
    _, number = np.unique(family, return_inverse=True)
    size = number.max() + 1
    graph = coo_matrix((np.ones(len(links)), (number[links[:, 0]], number[links[:, 1]])), shape=(size, size))
    return connected_components(graph, directed=False)[1][number]


def assign_sides(families: Sequence[Sequence[str]]) -> list[str]:
    """Side of each family, 84/8/8 by number of families, in an order fixed by a hash."""
    order = sorted(range(len(families)), key=lambda i: order_of(families[i][0], "side"))
    small = [i for i in order if len(families[i]) <= MAX_HELD_OUT]
    sides = ["train"] * len(families)
    start = 0
    for side, share in SHARES.items():
        count = round(share * len(families))
        for i in small[start : start + count]:
            sides[i] = side
        start += count
    return sides


def hide_artists(
    artists: Mapping[str, set[str]], counts: Mapping[str, int], at_least: int = 6, hide: int = 3
) -> dict[str, dict[str, list[str]]]:
    """Choose seen captions and the artists whose pictures of them never reach training.

    Args:
        artists: Training caption -> the artists that drew it.
        counts: How many captions each named set takes, in order.
        at_least: Artists a caption must have.
        hide: Artists hidden for each.

    Returns:
        {set name: {caption: artists}}.
    """
    eligible = sorted((c for c, a in artists.items() if len(a) >= at_least), key=lambda c: order_of(c, "seen"))
    chosen: dict[str, dict[str, list[str]]] = {}
    start = 0
    for name, count in counts.items():
        captions = eligible[start : start + count]
        start += count
        chosen[name] = {
            c: sorted(sorted(artists[c], key=lambda a, c=c: order_of(f"{c}/{a}", "artist"))[:hide])  # type: ignore[misc]
            for c in sorted(captions)
        }
    return chosen


def make_splits(
    labels: Sequence[str],
    artists: Sequence[str],
    thumbnails: np.ndarray,
    encode: Callable[[list[str]], np.ndarray],
) -> Splits:
    """Compute the splits of a set of captioned pictures.

    Args:
        labels: Caption of each picture, (N,).
        artists: Artist of each picture, (N,).
        thumbnails: Small pictures in [0, 1], (N, H, W, 3).
        encode: Captions -> unit-norm text codes, (M, D).
    """
    bases = sorted({base_label(label) for label in labels})
    number = {base: i for i, base in enumerate(bases)}
    caption_of = np.array([number[base_label(label)] for label in labels])
    family = merge_families(caption_families(encode(bases)), caption_of[duplicate_pairs(thumbnails, SAME_RMSE)])
    members: dict[int, list[str]] = defaultdict(list)
    for base, i in zip(bases, family, strict=True):
        members[int(i)].append(base)
    families = [members[i] for i in sorted(members)]
    sides = assign_sides(families)
    side_of = {base: side for group, side in zip(families, sides, strict=True) for base in group}
    drawn: dict[str, set[str]] = defaultdict(set)
    for label, artist in zip(labels, artists, strict=True):
        if side_of[base_label(label)] == "train":
            drawn[label].add(artist)
    return Splits(families, sides, hide_artists(drawn, {"seen": 200, "seen_validation": 100}))
