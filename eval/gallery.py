"""Sample sheets for the report's page: a model's pictures with what they may have been copied from."""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from bridge.images import to_pil
from eval.data import first_by_hash
from eval.headlines import Bench
from eval.page import Shown
from eval.single_bench import SingleBench
from eval.stream import Generate

Sheets = dict[str, list[Shown]]
"""Sheets by row of a report."""


class Gallery:
    """Collects the first captions of each row, by hash, as `evaluate` and `evaluate_single` show them: their `watch`.

    Args:
        captions: So many of each row, at most.
        generate: Draws them, as it did for the report.
        samples: Pictures a caption.
        notes: Captions to what the model says of each, if anything.

    Attributes:
        shown: Sheets by row.
    """

    def __init__(
        self, captions: int, generate: Generate, samples: int, notes: Callable[[Sequence[str]], list[str | None]]
    ) -> None:
        self.captions, self.generate, self.samples, self.notes = captions, generate, samples, notes
        self.shown: Sheets = {}

    def __call__(self, row: str, bench: Bench | SingleBench) -> None:
        """Draw some of a bench's captions."""
        refs = bench.target.refs
        chosen = first_by_hash(refs, self.captions).captions
        index = [refs.captions.index(caption) for caption in chosen]
        drawn = zip(index, self.generate(chosen, self.samples), self.notes(chosen), strict=True)
        self.shown[row] = [self._sheet(bench, i, x, note) for i, x, note in drawn]

    def _sheet(self, bench: Bench | SingleBench, i: int, x: Tensor, note: str | None) -> Shown:
        refs, pictures = bench.target.refs, bench.judge.pictures
        copied, nearest = bench.judge.copies(x)
        return Shown(
            refs.captions[i],
            to_pil(x),
            to_pil(pictures.pixels(nearest)),
            [str(label) for label in pictures.label[nearest]],
            [bool(c) for c in copied],
            to_pil(pictures.pixels(_one_an_artist(refs.rows[i], refs.artists[i]))),
            note,
        )


def _one_an_artist(rows: np.ndarray, artists: np.ndarray) -> np.ndarray:
    """The first row of each artist, (A,), from rows and artists (k,)."""
    return rows[np.sort(np.unique(artists, return_index=True)[1])]
