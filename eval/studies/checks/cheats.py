"""No planted cheat may look real.

Every cheat is made of real pictures, as pixels, and judged exactly as a model is. A picture of the caption asked
for is always by another artist than the references it is held against: in each section some artists *give* their
pictures of a caption to the cheats, only the others of that caption stay references, and captions with too few
artists are left out and counted. Where no artist gives, every caption of the split is judged, as in a report.
With --codec the cheats are judged as a model's codec draws them, which is how a bridge would cheat.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bridge.arguments import writable_folder
from bridge.checkpoint import atomic_write
from bridge.codecs import ImageCodec
from bridge.errors import UserError
from bridge.pipeline import BridgePipeline
from bridge.text import TextEncoder
from eval import baselines
from eval.baselines import EncodeText, reconstruct, text_codes
from eval.bench import Bench, Figures, bench_of
from eval.data import by_caption
from eval.features import EfficientNetLite0
from eval.judge import Judge, Say
from eval.report import COLUMNS, ROWS, check_counts, table, to_json
from eval.studies import Study, add_common
from train.command import Parser, say

NOISE = 0.1  # Standard deviation of the noise on one right image, pixels in [0, 1]
COPY_NOISE, REPLACED, SHIFT = 0.3, 0.25, 0.05  # Shares: noise in a copy, pictures replaced, side shifted by
REFERENCES = 2  # Artists of a caption that never give: fewer are no references
GIVEN = "given"
BESIDE = ("copied", "c_t", "authenticity", "realistic", "sharpness")  # What stands beside the headlines
REAL, OTHERS, PARTLY = "real", "real, other artists", "real, 25% replaced"
"""References against each other and the pictures that were given, no cheats; and a cheat that is mostly real."""


@dataclass(frozen=True)
class Division:
    """The artists of C captions in two: those who give pictures to cheats, and the references."""

    bench: Bench  # Judges against the references; no given picture is among them, nor among the rivals
    given: np.ndarray  # Rows of the given pictures, by artists who are no reference's, (C, givers)
    left_out: int  # Captions of the split that fewer than givers + 2 artists drew
    families_left_out: int  # Families all of whose captions were left out

    @classmethod
    def of(
        cls, judge: Judge, split: str, givers: int, *, n: int = 4, captions: int | None = None, seed: int = 0
    ) -> "Division":
        """Divide each caption's artists by `seed`: `givers` of them give a picture. `captions` at most are judged."""
        pictures = judge.pictures
        groups = by_caption(pictures, pictures.where(split))
        given, parts = {}, pictures.split.astype(object)
        for caption, rows in groups.items():
            artist = pictures.artist[rows]
            names = np.unique(artist)
            if len(names) >= givers + REFERENCES:
                rng = np.random.default_rng([seed, *caption.encode()])
                giving = rng.permutation(names)[:givers]
                given[caption] = np.array([rng.choice(rows[artist == name]) for name in giving], dtype=int)
                # A giver's pictures leave the split, so that the target is made as it is for a model.
                parts[rows[np.isin(artist, giving)]] = GIVEN
        if len(given) < 2:
            drawn = f"{len(given)} captions of {split!r} were drawn by {givers + REFERENCES} artists"
            remedy = "a judgement needs two: ask for fewer samples"
            raise UserError(f"split: {drawn}, so that {givers} can give a picture; {remedy}")
        divided = dataclasses.replace(judge, pictures=dataclasses.replace(pictures, split=parts.astype(str)))
        bench = bench_of(divided, split, n, captions=captions, only=given, seed=seed)
        all_families, kept = ({pictures.family[groups[c][0]] for c in chosen} for chosen in (groups, given))
        rows = np.stack([given[c] for c in bench.refs.captions])
        return cls(bench, rows, len(groups) - len(given), len(all_families - kept))


def _pixels(judge: Judge, rows: np.ndarray) -> Tensor:
    """Pictures (C, n, 3, H, W) of rows (C, n) of the dataset."""
    return judge.pictures.pixels(rows.ravel()).unflatten(0, rows.shape)


def of_one(x: Tensor, n: int, rng: np.random.Generator) -> dict[str, Tensor]:
    """What can be made of one right picture a caption, (C, 3, H, W): cheats, each (C, n, 3, H, W)."""
    same = x[:, None].expand(-1, n, -1, -1, -1).contiguous()
    noise = torch.from_numpy(rng.standard_normal(same.shape, dtype=np.float32))
    return {"one right image": same, "one right image + noise": (same + NOISE * noise).clamp(0, 1)}


def of_several(x: Tensor, strangers: Tensor, families: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
    """Cheats made of right pictures (C, n, 3, H, W), each by another artist, and of `strangers`; and OTHERS."""
    count, n = x.shape[:2]
    replaced = rng.permutation(count * n).reshape(count, n) < REPLACED * count * n
    made = {
        OTHERS: x,
        PARTLY: torch.where(torch.from_numpy(replaced)[:, :, None, None, None], strangers, x),
        "blur": torch.from_numpy(x.numpy().mean(axis=1, keepdims=True)).expand(x.shape),
        "shuffled captions": x[baselines.shuffle_captions(families, rng)],
    }
    if n > 2:  # two of two right pictures are simply real
        made["two right images"] = x[:, np.arange(n) % 2]
    return made


def of_training(
    judge: Judge, captions: Sequence[str], codes: EncodeText, n: int, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Cheats from training pictures, (C, n, 3, H, W), and noise; copies pass as real, only the copy rate tells them."""
    labels, caption = np.unique(judge.pictures.label[judge.train], return_inverse=True)
    order = baselines.nearest_captions(codes(captions), codes(labels.tolist()))
    near = baselines.retrieve_one(order, caption, n, rng)
    far = baselines.retrieve_each(order, caption, n + 1, rng)
    blind = baselines.draw_unconditional(judge.pictures.family[judge.train], len(captions), n, rng)
    x, y = _pixels(judge, judge.train[near]), _pixels(judge, judge.train[far[:, 1:]])
    rows, columns = ((torch.arange(side) - round(SHIFT * side)).clamp(min=0) for side in x.shape[-2:])

    grain, noise = (torch.from_numpy(rng.random(tuple(x.shape), dtype=np.float32)) for _ in range(2))
    return {
        "nearest caption": x,
        "n nearest captions": _pixels(judge, judge.train[far[:, :n]]),
        "blends": (x + y) / 2,
        "copies + 30% noise": (1 - COPY_NOISE) * x + COPY_NOISE * grain,
        "copies, mirrored": x.flip(-1),
        "copies, shifted": x[..., rows[:, None], columns],
        "unconditional": _pixels(judge, judge.train[blind]),
        "noise": noise,
    }


def cheats_of(division: Division, codes: EncodeText, n: int, rng: np.random.Generator) -> dict[str, Tensor]:
    """Cheats (C, n, 3, H, W) of one right picture if anyone gives, several if n do, training ones if 0 or n do."""
    judge, refs, givers = division.bench.judge, division.bench.refs, division.given.shape[1]
    made: dict[str, Tensor] = {}
    x = _pixels(judge, division.given) if givers else torch.empty(0)
    if givers == n:
        families = judge.pictures.family[judge.train]
        strangers = _pixels(judge, judge.train[baselines.draw_unconditional(families, len(refs), n, rng)])
        made |= of_several(x, strangers, refs.families, rng)
    if givers:
        made |= of_one(x[:, 0], n, rng)
    if givers in (0, n):
        made |= of_training(judge, refs.captions, codes, n, rng)
    return made


@dataclass(frozen=True)
class Section:
    """Cheats that are held against the same references, and real pictures beside them."""

    givers: int  # Artists of each caption whose pictures are the cheats', never references
    captions: int  # How many were judged
    families: int  # Of how many families
    left_out: int  # How many captions of the split too few artists drew
    families_left_out: int  # How many families lost every caption by that
    references: float  # Artists a caption that stayed references, on average
    figures: dict[str, Figures]  # Of real pictures and of every cheat


@dataclass(frozen=True)
class CheatReport:
    """Every planted cheat, beside real pictures."""

    split: str  # 'validation' or 'test'
    seed: int  # Of every draw
    samples: int  # Pictures a caption
    extractor: str  # Which network judged
    data: str  # Fingerprint of the dataset
    sections: list[Section]  # By how many artists of a caption gave pictures
    codec: str | None = None  # Fingerprint of the codec that drew the cheats, if one did
    about: dict[str, str] = field(default_factory=dict)  # What the caller adds: the command


def is_cheat(name: str) -> bool:
    """Whether a row of a section must lose; the others are real pictures."""
    return name not in (REAL, OTHERS)


def evaluate(
    judge: Judge,
    codes: EncodeText,
    *,
    split: str = "validation",
    n: int = 4,
    captions: int | None = None,
    seed: int = 0,
    codec: ImageCodec | None = None,
    say: Say = lambda _: None,
    about: dict[str, str] | None = None,
) -> CheatReport:
    """Judge every cheat, n pictures a caption, of at most `captions`: where n artists of each give, one, none."""
    if split not in ROWS:
        raise ValueError(f"split: expected one of {', '.join(ROWS)}, got {split!r}")
    check_counts(n, captions)
    sections = []
    for givers in (n, 1, 0):
        say(f"{givers} artists give")
        division = Division.of(judge, ROWS[split]["held-out"], givers, n=n, captions=captions, seed=seed)
        bench, refs = division.bench, division.bench.refs
        figures = {REAL: bench.figures(bench.real)}
        for name, x in cheats_of(division, codes, n, np.random.default_rng([seed, givers])).items():
            say(f"  {name}")
            shown = x.flatten(0, 1) if codec is None else reconstruct(codec, x.flatten(0, 1))
            figures[name] = bench.figures(bench.samples(bench.judge.look(shown)))
        counts = (len(refs), len(np.unique(refs.families)), division.left_out, division.families_left_out)
        artists = float(np.mean([len(np.unique(a)) for a in refs.artists]))
        sections.append(Section(givers, *counts, artists, figures))
    drawn_by = None if codec is None else codec.fingerprint
    return CheatReport(split, seed, n, judge.extractor.id, judge.pictures.fingerprint, sections, drawn_by, about or {})


def to_text(report: CheatReport) -> str:
    """The table: headlines with their intervals, what tells copies, realism and sharpness; highest score first."""
    through = "" if report.codec is None else f" · as codec {report.codec} draws them"
    lines = [f"split {report.split} · {report.samples} samples a caption · judge {report.extractor}{through}"]
    for s in report.sections:
        rows = [["", *COLUMNS, *BESIDE]]
        for name, f in sorted(s.figures.items(), key=lambda item: (is_cheat(item[0]), -item[1].value("score"))):
            headlines = [str(getattr(f, c) or "absent") for c in COLUMNS]
            rows.append([name, *headlines, *(f"{f.value(c):.2f}" for c in BESIDE)])
        judged = f"{s.references:.1f} are references: {s.captions} captions of {s.families} families"
        left_out = f"left out, too few artists: {s.left_out} captions, {s.families_left_out} families"
        lines += ["", f"{s.givers} artists of a caption give, {judged} ({left_out})", *table(rows)]
    return "\n".join(lines)


def _arguments(parser: Parser) -> None:
    add_common(parser, "--data", "--split", "--captions", "--samples", "--seed")
    parser.add_argument("--out", default="report", help="folder for cheats.json")
    parser.add_argument("--codec", metavar="MODEL", help="judge the cheats as this model's codec draws them")


def _run(args: argparse.Namespace, command: str) -> None:
    out = writable_folder(args.out)
    codec = None if args.codec is None else BridgePipeline.from_pretrained(args.codec).codec
    judge, codes = Judge.load(args.data, EfficientNetLite0(), say), text_codes(TextEncoder.from_pretrained())
    asked = {"split": args.split, "n": args.samples, "captions": args.captions, "seed": args.seed, "codec": codec}
    report = evaluate(judge, codes, **asked, say=say, about={"command": command})
    atomic_write(out / "cheats.json", to_json(report))
    print(to_text(report))


STUDY = Study(__doc__, "--data data/pictures --split validation --out report", _arguments, _run)
