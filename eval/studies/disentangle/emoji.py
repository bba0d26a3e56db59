"""Factors that emoji carry in their labels, and how well a codec's latents tell them.

Nobody drew emoji to a plan: a factor is known for some labels only, so each is measured by itself.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold

from bridge.errors import UserError
from eval.metrics.bootstrap import Interval, family_mean, paired_bootstrap
from eval.metrics.disentangle import explained, linear_probe, mutual_information

FACTORS = ("skin tone", "hair", "age", "gender", "expression")
AGES = {
    "baby": "baby",
    "boy": "child",
    "girl": "child",
    "child": "child",
    "man": "adult",
    "woman": "adult",
    "person": "adult",
    "old man": "older",
    "old woman": "older",
    "older person": "older",
}
"""Persons who do nothing but be shown; the whole of a label's head."""
GENDERS = {"man": "man", "boy": "man", "old man": "man", "woman": "woman", "girl": "woman", "old woman": "woman"}
HAIR = re.compile(r"(red|curly|white|blond) hair|(bald)|(beard)")
TONE = re.compile(r"(.+) skin tone")
EXPRESSIONS = {
    "angry": {"angry", "enraged", "pouting", "steam", "symbols"},
    "sad": {"crying", "disappointed", "frowning", "pensive", "sad", "weary", "worried", "tired", "anguished"},
    "surprised": {"astonished", "fear", "fearful", "hushed", "flushed", "anxious"},
    "kissing": {"kiss", "kissing"},
    "happy": {"beaming", "grinning", "joy", "smiling", "partying"},
}
"""Words of a face's label; the first kind with a word in it is meant."""
FOLDS = 5


def emoji_factors(label: str) -> dict[str, str | None]:
    """What a label says of each of FACTORS; None where it says nothing, or several things.

    Two persons with two tones, or a woman and a man, have neither tone nor gender. "person" leaves gender open, and
    age is that of portraits alone: a cook differs from a baby by more than years.

    >>> known = emoji_factors("woman: medium skin tone, red hair")
    >>> [known[name] for name in FACTORS]
    ['medium', 'red', 'adult', 'woman', None]
    """
    head, _, tail = label.partition(": ")
    parts = tail.split(", ")
    tones = {match[1] for part in parts if (match := TONE.fullmatch(part))}
    hair = {next(filter(None, match.groups())) for part in parts if (match := HAIR.fullmatch(part))}
    return {
        "skin tone": _only(tones),
        "hair": _only(hair),
        "age": AGES.get(head),
        "gender": GENDERS.get(_person(head)),
        "expression": _expression(head),
    }


def _only(values: set[str]) -> str | None:
    return next(iter(values)) if len(values) == 1 else None


def _person(head: str) -> str:
    """Which single person a label's head names, such as "man" of "man cook"; "" for none or several."""
    if head in AGES:
        return head
    words = head.split()
    alone = not {"and", "baby"} & set(words)
    return words[0] if words and alone and words[0] in ("man", "woman") else ""


def _expression(head: str) -> str | None:
    """The expression of a face, a human or a cat's one."""
    words = set(re.findall(r"[a-z]+", head))
    if not words & {"face", "cat"}:
        return None
    return next((kind for kind, telling in EXPRESSIONS.items() if words & telling), None)


@dataclass(frozen=True)
class Readout:
    """How well codes tell one factor.

    Args:
        pictures: With a known value.
        apart: What the probe's two sides never share: "families" of captions, or "artists" where a value is
            known in one family only.
        groups: How many of these.
        values: The factor's values.
        accuracy: Linear probe's, values weighing equally; chance is 1 / values.
        interval: Share of pictures told right, groups weighing equally, over redrawn groups.
        most: What naming the commonest value would score in `interval`.
        information: Largest share of the factor's entropy that one dimension holds.
        gap: How far that is ahead of the second dimension.
        variance: Largest share of one dimension's variance that lies between the factor's values.
        dimension: Which dimension holds the most information.
    """

    pictures: int
    apart: str
    groups: int
    values: list[str]
    accuracy: float
    interval: Interval
    most: float
    information: float
    gap: float
    variance: float
    dimension: int


@dataclass(frozen=True)
class Known:
    """Pictures of which a factor is known.

    Args:
        rows: Which, (M,).
        values: The factor's value, (M,) str.
        apart: "families" or "artists".
        groups: Family or artist of each, (M,).
    """

    rows: np.ndarray
    values: np.ndarray
    apart: str
    groups: np.ndarray

    @classmethod
    def of(cls, factor: str, labels: Sequence[str] | np.ndarray, families: np.ndarray, artists: np.ndarray) -> "Known":
        """Rows with a known value, and how to keep a probe's two sides apart.

        By families of captions where every value is known in two of them; else by artists, where every value was
        drawn by two.

        Args:
            labels: (N,).
            families: Family of each, (N,).
            artists: Artist of each, (N,).
        """
        if factor not in FACTORS:
            raise ValueError(f"factor: expected one of {', '.join(FACTORS)}, got {factor!r}")
        known = np.array([emoji_factors(str(label))[factor] or "" for label in labels])
        rows = np.flatnonzero(known != "")
        values = known[rows]
        if len(np.unique(values)) < 2:
            raise UserError(f"labels: {factor} has {len(np.unique(values))} known values, a probe needs two")
        for apart, groups in (("families", families[rows]), ("artists", artists[rows])):
            if all(len(np.unique(groups[values == v])) >= 2 for v in np.unique(values)):
                return cls(rows, values, apart, groups)
        raise UserError(f"labels: a value of {factor} has one family and one artist only; leave the factor out")


def probe(codes: np.ndarray, values: np.ndarray, groups: np.ndarray, apart: str = "families") -> Readout:
    """Probe codes (N, D) for the values (N,) of one factor, groups (N,) never on both sides of a probe.

    What a fold's other folds do not show is counted as wrong.

    Args:
        codes: Of the pictures with a known value, (N, D).
        values: (N,) str.
        groups: (N,), of any sortable kind.
    """
    count = len(np.unique(groups))
    if count < 2:
        raise UserError(f"groups: a probe needs two, one to train on and one to ask, got {count}")
    answers = np.empty_like(values)
    for fit, asked in GroupKFold(min(FOLDS, count)).split(codes, groups=groups):
        answers[asked] = linear_probe(codes[fit], values[fit], codes[asked])
    names, number = np.unique(values, return_inverse=True)
    shares = mutual_information(codes, number[:, None])[:, 0]
    second, first = np.sort(shares)[-2:]
    return Readout(
        pictures=len(values),
        apart=apart,
        groups=count,
        values=[str(v) for v in names],
        accuracy=float(balanced_accuracy_score(values, answers)),
        interval=paired_bootstrap((answers == values).astype(float), groups),
        most=max(float(family_mean((values == v).astype(float), groups)) for v in names),
        information=float(first),
        gap=float(first - second),
        variance=float(explained(codes, values).max()),
        dimension=int(shares.argmax()),
    )
