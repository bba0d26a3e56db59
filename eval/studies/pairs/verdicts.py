"""Two curves of score against pairs: how many times fewer pairs one of them needs, and whether more would help."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.metrics.bootstrap import Interval

CLAIM = 5.0
"""How many times fewer pairs the bridge is said to need."""
FEWER = 3.0
"""Whether more pairs help is told from so many times fewer."""


Scores = Mapping[int, Interval]
"""By pairs."""


@dataclass(frozen=True)
class Verdict:
    """The claim on one row in one mode.

    Args:
        mode: 'equal minutes' or 'plateau'.
        row: 'seen' or 'held-out'.
        target: The direct way's best score.
        direct_pairs: With how few pairs it had it.
        untold: It had it with the fewest pairs tried, so that no ratio above 1 could be found.
        bridge_pairs: With how many the bridge has it, between sizes by interpolation; None: never reached.
        at_fewest: The bridge had it with the fewest pairs tried, so that the ratio is a lower bound.
        ratio: direct_pairs / bridge_pairs; None: never reached.
        reached: Whether the ratio is at least CLAIM.
        apart: Whether the bridge's interval, at the first size tried that has the score, lies above the direct way's.
    """

    mode: str
    row: str
    target: float
    direct_pairs: float
    untold: bool
    bridge_pairs: float | None
    at_fewest: bool
    ratio: float | None
    reached: bool
    apart: bool

    def __str__(self) -> str:
        start = f"{self.row}, {self.mode}: the direct way's best score, {self.target:.2f} with {self.direct_pairs:,.0f}"
        if self.ratio is None or self.bridge_pairs is None:
            return f"{start} pairs; the bridge: never reached"
        least = "at least " if self.at_fewest else ""
        verdict = "as claimed" if self.reached else f"claimed: {CLAIM:g}"
        asked = f"the bridge needs {self.bridge_pairs:,.0f}"
        claim = f"{start} pairs; {asked}: pairs needed for the same score: ratio {least}{self.ratio:.1f} ({verdict})"
        doubts = ["the direct way was best with the fewest pairs, so no larger ratio could be found"] * self.untold
        doubts += ["their intervals overlap there"] * (not self.apart)
        if round(self.target, 2) < 0:
            doubts.append("a score below 0 is worse than pictures drawn blindly")
        return "; ".join([claim, *doubts])


@dataclass(frozen=True)
class Trend:
    """Whether the bridge gained by its last pairs, on one row in one mode.

    Args:
        mode: 'equal minutes' or 'plateau'.
        row: 'seen' or 'held-out'.
        few: The largest size tried that is FEWER times below the largest, or the smallest.
        many: The largest.
        before: Score with `few`.
        after: Score with `many`.
    """

    mode: str
    row: str
    few: int
    many: int
    before: Interval
    after: Interval

    def __str__(self) -> str:
        if self.after.low > self.before.high:
            verdict = "more pairs helped, and still more may"
        elif self.after.high < self.before.low:
            verdict = "more pairs made it worse: they take more minutes"
        else:
            verdict = "no clear difference (their intervals overlap): more pairs like these may not help"
        scores = f"{self.before.value:.2f} to {self.after.value:.2f}"
        return f"{self.row}, {self.mode}: the bridge from {self.few:,} to {self.many:,} pairs, {scores}: {verdict}"


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


def verdict(mode: str, row: str, bridge: Scores, direct: Scores) -> Verdict:
    """Hold two curves against each other at the direct way's best score."""
    best = max(direct.values(), key=lambda score: score.value)
    had = min(pairs for pairs, score in direct.items() if score.value == best.value)
    needed = pairs_needed(list(bridge), [score.value for score in bridge.values()], best.value)
    ratio = None if needed is None else had / needed
    tried = [bridge[pairs] for pairs in sorted(bridge) if bridge[pairs].value >= best.value]
    return Verdict(
        mode,
        row,
        best.value,
        float(had),
        had == min(direct) < max(direct),
        needed,
        needed == min(bridge),
        ratio,
        ratio is not None and ratio >= CLAIM,
        bool(tried) and tried[0].low > best.high,
    )


def trend(mode: str, row: str, bridge: Scores) -> Trend | None:
    """What the last pairs brought; None where one size was tried."""
    few, many = min(bridge), max(bridge)
    few = max([pairs for pairs in bridge if pairs * FEWER <= many], default=few)
    return Trend(mode, row, few, many, bridge[few], bridge[many]) if few < many else None
