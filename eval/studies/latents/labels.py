"""Do latents tell what labels say?

CODEC is a `vae` folder of train.autoencoder, the data a dataset of train.recipes emoji: how well a linear probe tells
skin tone, hair, age, gender and expression. Nobody drew emoji to a plan: a factor is known for some labels only, so
each is measured by itself.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold

from bridge.arguments import writable_folder
from bridge.checkpoint import atomic_write
from bridge.errors import UserError
from eval.baselines import flat_latents
from eval.data import Pictures
from eval.metrics.bootstrap import Interval, family_mean, paired_bootstrap
from eval.metrics.disentangle import explained, linear_probe, mig
from eval.report import table, to_json
from eval.studies import Study, add_common
from eval.studies.latents.factors import add_codecs, load_codecs
from train.command import Parser, say
from train.copies import thumbnails

FACTORS = ("skin tone", "hair", "age", "gender", "expression")
AGES = {"baby": "baby", "boy": "child", "girl": "child", "child": "child", "man": "adult", "woman": "adult"}
AGES |= {"person": "adult", "old man": "older", "old woman": "older", "older person": "older"}
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
THUMBNAIL = 8  # Side of thumbnails that codes are compared with


def emoji_factors(label: str) -> dict[str, str | None]:
    """What a label says of each of FACTORS; None where it says nothing, or several things.

    Two persons with two tones, or a woman and a man, have neither tone nor gender. "person" leaves gender open, and
    age is that of portraits alone: a cook differs from a baby by more than years.
    """
    head, _, tail = label.partition(": ")
    parts, words = tail.split(", "), head.split()
    tones = {match[1] for part in parts if (match := TONE.fullmatch(part))}
    hair = {next(filter(None, match.groups())) for part in parts if (match := HAIR.fullmatch(part))}
    alone = words[:1] if not {"and", "baby"} & set(words) and words[:1] in (["man"], ["woman"]) else [""]
    letters = set(re.findall(r"[a-z]+", head))
    shown = next((kind for kind, telling in EXPRESSIONS.items() if letters & telling), None)
    return {
        "skin tone": tones.pop() if len(tones) == 1 else None,
        "hair": hair.pop() if len(hair) == 1 else None,
        "age": AGES.get(head),
        "gender": GENDERS.get(head if head in AGES else alone[0]),
        "expression": shown if letters & {"face", "cat"} else None,
    }


@dataclass(frozen=True)
class Readout:
    """How well codes tell one factor."""

    pictures: int  # With a known value
    apart: str  # What the probe's two sides never share, see `Known`
    groups: int  # How many of these
    values: list[str]  # The factor's values
    accuracy: float  # Linear probe's, values having equal weight; chance is 1 / values
    interval: Interval  # Share of pictures whose value the probe names, groups having equal weight, over redrawn groups
    most: float  # What naming the commonest value would score in `interval`
    information: float  # Largest share of the factor's entropy that one dimension holds
    gap: float  # How far that is ahead of the second dimension
    variance: float  # Largest share of one dimension's variance that lies between the factor's values
    dimension: int  # Which dimension holds the most information


@dataclass(frozen=True)
class Known:
    """Pictures of which a factor is known."""

    rows: np.ndarray  # Which, (M,)
    values: np.ndarray  # The factor's value, (M,) str
    apart: str  # "families" or "artists"
    groups: np.ndarray  # Family or artist of each, (M,)

    @classmethod
    def of(cls, factor: str, labels: Sequence[str] | np.ndarray, families: np.ndarray, artists: np.ndarray) -> "Known":
        """Rows with a known value, apart by families if each value has two, else by artists if two drew each."""
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
    """Probe codes (N, D) for a factor's values (N,), groups (N,) never on both sides; an unseen value is wrong."""
    count = len(np.unique(groups))
    if count < 2:
        raise UserError(f"groups: a probe needs two, one to train on and one to ask, got {count}")
    answers = np.empty_like(values)
    for fit, asked in GroupKFold(min(FOLDS, count)).split(codes, groups=groups):
        answers[asked] = linear_probe(codes[fit], values[fit], codes[asked])
    names, number = np.unique(values, return_inverse=True)
    shared = mig(codes, number[:, None])
    return Readout(
        pictures=len(values),
        apart=apart,
        groups=count,
        values=[str(v) for v in names],
        accuracy=float(balanced_accuracy_score(values, answers)),
        interval=paired_bootstrap((answers == values).astype(float), groups),
        most=max(float(family_mean((values == v).astype(float), groups)) for v in names),
        information=float(shared.matrix.max()),
        gap=shared.score,
        variance=float(explained(codes, values).max()),
        dimension=int(shared.best[0]),
    )


def to_text(readouts: Mapping[str, Mapping[str, Readout]], absent: Mapping[str, str]) -> str:
    """A table with a line for each codec and factor, and why factors are absent."""
    rows = [["", "accuracy", "chance", "by group", "commonest", "MI", "gap", "variance"]]
    for name, factors in readouts.items():
        for factor, t in factors.items():
            head = f"{name}: {factor} ({t.pictures}, {t.groups} {t.apart})"
            shares = [f"{t.accuracy:.2f}", f"{1 / len(t.values):.2f}", str(t.interval)]
            rows.append([head, *shares, *(f"{x:.2f}" for x in (t.most, t.information, t.gap, t.variance))])
    return "\n".join([*table(rows), *(f"{factor}: absent, {why}" for factor, why in absent.items())])


def _arguments(parser: Parser) -> None:
    add_codecs(parser)
    add_common(parser, "--data")


def _run(args: argparse.Namespace, command: str) -> None:
    codecs, pictures, out = load_codecs(args.codecs), Pictures.load(args.data), writable_folder(args.out)
    known: dict[str, Known] = {}
    absent = {}
    for factor in FACTORS:
        try:
            known[factor] = Known.of(factor, pictures.label, pictures.family, pictures.artist)
        except UserError as error:
            absent[factor] = str(error)
    if not known:
        factors = ", ".join(FACTORS)
        raise UserError(f"--data: no label tells of two values of {factors}; use a dataset of train.recipes emoji")
    rows = np.unique(np.concatenate([k.rows for k in known.values()]))
    codes = {name: flat_latents(codec, pictures, rows).astype(float) for name, codec in codecs.items()}
    codes[f"thumbnails of {THUMBNAIL} px"] = thumbnails(pictures.pixels(rows).numpy(), THUMBNAIL).astype(float)
    by_codec: dict[str, dict[str, Readout]] = {}
    for name, flat in codes.items():
        say(f"{name}: {len(rows)} pictures")
        at = {factor: flat[np.searchsorted(rows, k.rows)] for factor, k in known.items()}
        by_codec[name] = {factor: probe(at[factor], k.values, k.groups, k.apart) for factor, k in known.items()}
    about = {"command": command} | {name: codec.fingerprint for name, codec in codecs.items()}
    atomic_write(out / "real.json", to_json({"codecs": by_codec, "absent": absent, "about": about}))
    print(to_text(by_codec, absent))


STUDY = Study(__doc__, "runs/small-beta1/vae --data data/emoji --out report", _arguments, _run)
