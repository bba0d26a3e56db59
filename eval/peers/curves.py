"""Two curves of score against pairs, and how many times fewer pairs one of them needs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

CLAIM = 5.0
"""How many times fewer pairs the bridge is said to need."""


@dataclass(frozen=True)
class Verdict:
    """The claim on one row in one mode.

    Args:
        mode: 'equal minutes' or 'plateau'.
        row: 'seen' or 'held-out'.
        target: The direct way's best score.
        direct_pairs: With how few pairs it had it.
        bridge_pairs: With how many the bridge has it, between sizes by interpolation; None: never reached.
        at_fewest: The bridge had it with the fewest pairs tried, so that the ratio is a lower bound.
        ratio: direct_pairs / bridge_pairs; None: never reached.
        reached: Whether the ratio is at least CLAIM.
    """

    mode: str
    row: str
    target: float
    direct_pairs: float
    bridge_pairs: float | None
    at_fewest: bool
    ratio: float | None
    reached: bool

    def __str__(self) -> str:
        start = f"{self.row}, {self.mode}: the direct way's best score, {self.target:.2f} with {self.direct_pairs:,.0f}"
        if self.ratio is None or self.bridge_pairs is None:
            return f"{start} pairs; the bridge: never reached"
        least = "at least " if self.at_fewest else ""
        verdict = "as claimed" if self.reached else f"claimed: {CLAIM:g}"
        asked = f"the bridge needs {self.bridge_pairs:,.0f}"
        return f"{start} pairs; {asked}: pairs needed for the same score: ratio {least}{self.ratio:.1f} ({verdict})"


def pairs_needed(pairs: Sequence[float], scores: Sequence[float], target: float) -> float | None:
    """The fewest pairs with which a score is had, between sizes by log-linear interpolation; None: never.

    >>> pairs_needed([100, 10000], [0.0, 1.0], 0.5)
    1000.0
    >>> pairs_needed([100, 10000], [0.0, 0.4], 0.5) is None
    True
    """
    order = sorted(zip(pairs, scores, strict=True))
    for i, (count, score) in enumerate(order):
        if score < target:
            continue
        if i == 0:
            return float(count)
        before, low = order[i - 1]
        share = (target - low) / (score - low)
        return round(math.exp(math.log(before) + share * math.log(count / before)), 6)
    return None


def verdict(mode: str, row: str, bridge: dict[int, float], direct: dict[int, float]) -> Verdict:
    """Hold the two curves, score by pairs, against each other at the direct way's best score."""
    target = max(direct.values())
    had = float(min(pairs for pairs, score in direct.items() if score == target))
    needed = pairs_needed(list(bridge), list(bridge.values()), target)
    ratio = None if needed is None else had / needed
    reached = ratio is not None and ratio >= CLAIM
    return Verdict(mode, row, target, had, needed, needed == min(bridge), ratio, reached)
