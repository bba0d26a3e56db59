"""python -m eval.studies.cheats --data data/pictures --split validation --out report/: no planted cheat may look real.

Every cheat is made of real pictures, as pixels, and judged exactly as a model is. A picture of the caption asked
for is always by another artist than the references it is held against: in each section some artists *give* their
pictures of a caption to the cheats, only the others of that caption stay references, and captions with too few
artists are left out and counted. Where no artist gives, every caption of the split is judged, as in a report.
With --codec the cheats are judged as a model's codec draws them, which is how a bridge would cheat.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bridge.checkpoint import atomic_write
from bridge.codecs import ImageCodec
from bridge.errors import UserError
from bridge.pipeline import BridgePipeline
from bridge.text import TextEncoder
from eval import baselines
from eval.baselines import EncodeText, reconstruct, text_codes
from eval.bench import ArtistBench, Figures
from eval.data import first_by_hash
from eval.features import EfficientNetLite0
from eval.judge import Judge, Say, Target
from eval.report import COLUMNS, ROWS, check_counts, to_json
from eval.table import table
from train.command import Parser, run_command, say, spelled, whole, writable_folder

NAME = "python -m eval.studies.cheats"
NOISE = 0.1
"""Standard deviation of the noise on one right image, pixels in [0, 1]."""
COPY_NOISE, REPLACED, SHIFT = 0.3, 0.25, 0.05
"""Shares: of noise in a noisy copy, of pictures replaced, of the side by which a copy is shifted."""
REFERENCES = 2
"""Artists of a caption that never give: fewer are no references."""
GIVEN = "given"
BESIDE = ("copied", "c_t", "authenticity", "realistic", "sharpness")
"""What stands beside the headlines."""
REAL, OTHERS, PARTLY = "real", "real, other artists", "real, 25% replaced"
"""References against each other and the pictures that were given, no cheats; and a cheat that is mostly real."""


@dataclass(frozen=True)
class Division:
    """The artists of C captions in two: those who give pictures to cheats, and the references.

    Args:
        bench: Judges against the references; no given picture is among them, nor among the rivals.
        given: Rows of the given pictures, one each by different artists, none of them a reference's: (C, givers).
        left_out: Captions of the split that fewer than givers + 2 artists drew.
        families_left_out: Families all of whose captions were left out.
    """

    bench: ArtistBench
    given: np.ndarray
    left_out: int
    families_left_out: int

    @classmethod
    def of(
        cls, judge: Judge, split: str, givers: int, *, n: int = 4, captions: int | None = None, seed: int = 0
    ) -> "Division":
        """Divide the artists of every caption of a split.

        Args:
            givers: How many artists of a caption give a picture; 0 divides nothing.
            captions: Judge at most so many, chosen by hash; all of the split's stay rivals.
            seed: Of who gives which picture (together with the caption), and of the bench.
        """
        given, away = _give(judge, split, givers, seed)
        # A given picture leaves the split, so that the target is made as it is for a model.
        parts = judge.pictures.split.astype(object)
        parts[away] = GIVEN
        judge = dataclasses.replace(judge, pictures=dataclasses.replace(judge.pictures, split=parts.astype(str)))
        target = judge.target(split, n, seed=seed)
        kept = target.refs[np.array([i for i, c in enumerate(target.refs.captions) if c in given], dtype=int)]
        every, families = len(target.refs) + len(target.refs.left_out), len(_families(judge, split))
        left_out, families_left_out = every - len(kept), families - len(np.unique(kept.families))
        chosen = kept if captions is None else first_by_hash(kept, captions)
        bench = ArtistBench.of(judge, narrow(target, chosen.captions), seed)
        return cls(bench, np.stack([given[c] for c in chosen.captions]), left_out, families_left_out)

    def pictures(self) -> Tensor:
        """The given pictures, (C, givers, 3, H, W)."""
        return _pixels(self.bench.judge, self.given)


def narrow(target: Target, captions: Sequence[str]) -> Target:
    """The same target for some of its captions, in their order; all stay rivals."""
    return target[np.array([target.refs.captions.index(c) for c in captions])]


def _give(judge: Judge, split: str, givers: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Rows that each caption with enough artists gives, (givers,), and all rows by those who give."""
    pictures, rows = judge.pictures, judge.pictures.where(split)
    given, away = {}, [np.empty(0, int)]
    for caption in np.unique(pictures.label[rows]):
        own = rows[pictures.label[rows] == caption]
        names = np.unique(pictures.artist[own])
        if len(names) < givers + REFERENCES:
            continue
        rng = np.random.default_rng([seed, *caption.encode()])
        giving = rng.permutation(names)[:givers]
        given[str(caption)] = np.array([rng.choice(own[pictures.artist[own] == a]) for a in giving], dtype=int)
        away.append(own[np.isin(pictures.artist[own], giving)])
    if len(given) < 2:
        raise UserError(
            f"split: {len(given)} captions of {split!r} were drawn by {givers + REFERENCES} artists, so that {givers} "
            f"can give a picture; a judgement needs two: ask for fewer samples"
        )
    return given, np.concatenate(away)


def _families(judge: Judge, split: str) -> np.ndarray:
    """Families of a split, the given pictures included."""
    return np.unique(judge.pictures.family[np.isin(judge.pictures.split, (split, GIVEN))])


def _pixels(judge: Judge, rows: np.ndarray) -> Tensor:
    """Pictures (C, n, 3, H, W) of rows (C, n) of the dataset."""
    return judge.pictures.pixels(rows.ravel()).unflatten(0, rows.shape)


def add_noise(x: Tensor, std: float, rng: np.random.Generator) -> Tensor:
    """Pictures of any shape with normal noise of deviation `std`, clamped to [0, 1]."""
    return (x + std * torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))).clamp(0, 1)


def uniform(shape: Sequence[int], rng: np.random.Generator) -> Tensor:
    """Pixels of the given shape, uniform in [0, 1)."""
    return torch.from_numpy(rng.random(tuple(shape), dtype=np.float32))


def mix(x: Tensor, y: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """x (C, n, ...) with a share of all C * n pictures, drawn at random, replaced by those of y, same shape."""
    chosen = rng.permutation(x.shape[0] * x.shape[1]).reshape(x.shape[:2]) < share * x.shape[0] * x.shape[1]
    return torch.where(torch.from_numpy(chosen)[:, :, None, None, None], y, x)


def shifted(x: Tensor, share: float) -> Tensor:
    """Pictures (..., 3, H, W) moved right and down by a share of the side; the first row and column fill the gap."""
    rows, columns = ((torch.arange(side) - round(share * side)).clamp(min=0) for side in x.shape[-2:])
    return x[..., rows[:, None], columns]


def of_one(x: Tensor, n: int, rng: np.random.Generator) -> dict[str, Tensor]:
    """What can be made of one right picture a caption, (C, 3, H, W): cheats, each (C, n, 3, H, W)."""
    same = x[:, None].expand(-1, n, -1, -1, -1).contiguous()
    return {"one right image": same, "one right image + noise": add_noise(same, NOISE, rng)}


def of_several(x: Tensor, strangers: Tensor, families: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
    """What can be made of n right pictures a caption, each by another artist.

    Args:
        x: Right pictures, (C, n, 3, H, W), n at least 2.
        families: Family of each caption, (C,).

    Returns:
        Cheats, each of the same shape; also `OTHERS`, the right pictures themselves.
    """
    n = x.shape[1]
    made = {
        OTHERS: x,
        PARTLY: mix(x, strangers, REPLACED, rng),
        "blur": torch.from_numpy(baselines.blur(x.numpy())),
        "shuffled captions": x[baselines.shuffle_captions(families, rng)],
    }
    # Two of two right pictures are simply real.
    return made | ({"two right images": x[:, np.arange(n) % 2]} if n > 2 else {})


def of_training(
    judge: Judge, captions: Sequence[str], codes: EncodeText, n: int, rng: np.random.Generator
) -> Iterator[tuple[str, Tensor]]:
    """What training pictures give for captions nobody trained on, and noise.

    Retrieved pictures are pixel for pixel those of training: the realism test, a distance to training pictures,
    always lets them pass, and only the copy rate holds it against them.

    Args:
        codes: Captions to unit text codes.

    Returns:
        Name and pictures (C, n, 3, H, W) of every cheat, one at a time.
    """
    labels, caption = np.unique(judge.pictures.label[judge.train], return_inverse=True)
    order = baselines.nearest_captions(codes(captions), codes(labels.tolist()))
    near = baselines.retrieve_one(order, caption, n, rng)
    far = baselines.retrieve_each(order, caption, n + 1, rng)
    blind = baselines.draw_unconditional(judge.pictures.family[judge.train], len(captions), n, rng)
    x, y = _pixels(judge, judge.train[near]), _pixels(judge, judge.train[far[:, 1:]])
    yield "nearest caption", x
    yield "n nearest captions", _pixels(judge, judge.train[far[:, :n]])
    yield "blends", (x + y) / 2
    yield "copies + 30% noise", (1 - COPY_NOISE) * x + COPY_NOISE * uniform(x.shape, rng)
    yield "copies, mirrored", x.flip(-1)
    yield "copies, shifted", shifted(x, SHIFT)
    yield "unconditional", _pixels(judge, judge.train[blind])
    yield "noise", uniform(x.shape, rng)


def cheats_of(division: Division, codes: EncodeText, n: int, rng: np.random.Generator) -> dict[str, Tensor]:
    """Every cheat that the given pictures of a division allow, (C, n, 3, H, W) in [0, 1].

    Those of training pictures where nobody or n artists give, those of one right picture where anybody gives,
    those of several where n artists do.

    Args:
        codes: Captions to unit text codes.
        n: Pictures a caption, at least 2.
    """
    judge, refs, givers = division.bench.judge, division.bench.target.refs, division.given.shape[1]
    made: dict[str, Tensor] = {}
    if givers == n:
        x, families = division.pictures(), judge.pictures.family[judge.train]
        strangers = _pixels(judge, judge.train[baselines.draw_unconditional(families, len(refs), n, rng)])
        made |= of_several(x, strangers, refs.families, rng)
    if givers > 0:
        made |= of_one(division.pictures()[:, 0], n, rng)
    if givers in (0, n):
        made |= dict(of_training(judge, refs.captions, codes, n, rng))
    return made


@dataclass(frozen=True)
class Section:
    """Cheats that are held against the same references.

    Args:
        givers: Artists of each caption whose pictures are the cheats', never references.
        captions: How many were judged.
        families: Of how many families.
        left_out: How many captions of the split too few artists drew.
        families_left_out: How many families lost every caption by that.
        references: Artists a caption that stayed references, on average.
        figures: Of real pictures and of every cheat.
    """

    givers: int
    captions: int
    families: int
    left_out: int
    families_left_out: int
    references: float
    figures: dict[str, Figures]


@dataclass(frozen=True)
class CheatReport:
    """Every planted cheat, beside real pictures.

    Args:
        split: 'validation' or 'test'.
        seed: Of every draw.
        samples: Pictures a caption.
        extractor: Which network judged.
        data: Fingerprint of the dataset.
        sections: By how many artists of a caption gave pictures.
        codec: Fingerprint of the codec that drew the cheats, if one did.
        about: What the caller adds: the command.
    """

    split: str
    seed: int
    samples: int
    extractor: str
    data: str
    sections: list[Section]
    codec: str | None = None
    about: dict[str, str] = field(default_factory=dict)


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
    """Judge every cheat: where n artists of a caption give, where one does and where none does.

    Args:
        codes: Captions to unit text codes.
        n: Pictures a caption, at least 2.
        captions: Judge at most so many in each section, chosen by hash.
    """
    if split not in ROWS:
        raise ValueError(f"split: expected one of {', '.join(ROWS)}, got {split!r}")
    check_counts(n, captions)
    part, sections = ROWS[split]["held-out"], []
    for givers in (n, 1, 0):
        say(f"{givers} artists give")
        division = Division.of(judge, part, givers, n=n, captions=captions, seed=seed)
        cheats = cheats_of(division, codes, n, np.random.default_rng([seed, givers]))
        sections.append(_section(division, cheats, codec, say))
    data, drawn_by = judge.pictures.fingerprint, None if codec is None else codec.fingerprint
    return CheatReport(split, seed, n, judge.extractor.id, data, sections, drawn_by, about or {})


def _section(division: Division, cheats: dict[str, Tensor], codec: ImageCodec | None, say: Say) -> Section:
    bench = division.bench
    figures = {REAL: bench.figures(bench.real)}
    for name, x in cheats.items():
        say(f"  {name}")
        shown = x.flatten(0, 1) if codec is None else reconstruct(codec, x.flatten(0, 1))
        figures[name] = bench.figures(bench.samples(bench.judge.look(shown)))
    refs = bench.target.refs
    return Section(
        division.given.shape[1],
        len(refs),
        len(np.unique(refs.families)),
        division.left_out,
        division.families_left_out,
        float(np.mean([len(np.unique(a)) for a in refs.artists])),
        figures,
    )


def to_text(report: CheatReport) -> str:
    """The table: headlines with their intervals, what tells copies, realism and sharpness; highest score first."""
    through = "" if report.codec is None else f" · as codec {report.codec} draws them"
    lines = [f"split {report.split} · {report.samples} samples a caption · judge {report.extractor}{through}"]
    for s in report.sections:
        ordered = sorted(s.figures.items(), key=lambda item: (is_cheat(item[0]), -item[1].value("score")))
        rows = [
            [name, *(str(getattr(f, c)) for c in COLUMNS), *(f"{f.value(c):.2f}" for c in BESIDE)]
            for name, f in ordered
        ]
        lines += [
            "",
            f"{s.givers} artists of a caption give, {s.references:.1f} are references: {s.captions} captions of "
            f"{s.families} families (left out, too few artists: {s.left_out} captions, {s.families_left_out} families)",
            *table([["", *COLUMNS, *BESIDE], *rows]),
        ]
    return "\n".join(lines)


def build_parser() -> Parser:
    """The command's arguments."""
    parser = Parser(NAME, __doc__, f"{NAME} --data data/pictures --split validation --out report")
    parser.add_argument("--data", default="data/pictures", help="a dataset")
    parser.add_argument("--split", choices=sorted(ROWS), default="validation", help="whose captions")
    parser.add_argument("--out", default="report", help="folder for cheats.json")
    parser.add_argument("--captions", type=whole(2), help="judge at most so many captions of each section")
    parser.add_argument("--codec", metavar="MODEL", help="judge the cheats as this model's codec draws them")
    parser.add_argument("--samples", type=whole(2), default=4, help="pictures a caption, at least 2")
    parser.add_argument("--seed", type=whole(0), default=0, help="key of all randomness")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the table is printed, 2 for bad input."""
    return run_command(build_parser(), argv, lambda args: _run(args, spelled(NAME, argv)))


def _run(args: argparse.Namespace, command: str) -> None:
    check_counts(args.samples, args.captions)
    out = writable_folder(args.out)
    codec = None if args.codec is None else BridgePipeline.from_pretrained(args.codec).codec
    judge = Judge.load(args.data, EfficientNetLite0(), say)
    report = evaluate(
        judge,
        text_codes(TextEncoder.from_pretrained()),
        split=args.split,
        n=args.samples,
        captions=args.captions,
        seed=args.seed,
        codec=codec,
        say=say,
        about={"command": command},
    )
    atomic_write(out / "cheats.json", to_json(report))
    print(to_text(report))


if __name__ == "__main__":
    sys.exit(main())
