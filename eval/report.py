"""One report: every headline of a model and of the obvious alternatives, on captions seen and held out."""

import dataclasses
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bridge.captions import well_formed
from bridge.codecs import ImageCodec
from bridge.errors import UserError
from eval.baselines import Baselines, EncodeText, decode_all, reconstruct, shuffle_captions
from eval.bench import Bench, Calibration, Figures, Judged, bench_of
from eval.data import BLOCK, LEAST, OPTIONAL, picture_latents
from eval.judge import Generate, Judge, Say, Seen, drawn, in_blocks, seen_by, seen_of
from eval.metrics import fit, quality
from eval.metrics.bootstrap import Interval, paired_bootstrap

Watch = Callable[[str, Bench], None]  # Name of a row and its bench

ROWS = {
    "validation": {"seen": "seen_validation", "held-out": "validation"},
    "test": {"seen": "seen", "held-out": "test"},
}
"""Rows of a report and the split of the data behind each."""
FAR_ROW, FAR = "far", 0.55
"""Held-out captions whose text code is below this cosine to every training caption's have a row of their own."""
BASES = ("real", "reconstruction")  # Methods that are no rivals: what is aimed at


@dataclass(frozen=True)
class Row:
    split: str  # The part of the data behind it
    captions: int  # How many were judged
    families: int  # Of how many families
    methods: dict[str, Figures]  # Figures of every model, of real pictures and of every baseline
    energy_less: dict[str, Interval]  # The first model's energy less each method's, paired: below 0 it is better
    calibration: dict[str, Calibration] = field(default_factory=dict)  # Of every model, and of nothing else
    pictures: int = 0  # Real pictures of these captions
    chance: float = fit.CHANCE  # Share of hits at which fit is 0
    left_out: int = 0  # How many captions of the split were not judged: a single artist drew them
    unconditional_energy: Interval | None = None  # What joint 0 costs: that of caption-blind training pictures
    real_joint: Interval | None = None  # Joint between two disjoint groups of artists, 1 but for chance
    real_joint_captions: int = 0  # On how many captions
    absent: dict[str, str] = field(default_factory=dict)  # What could not be measured for any method, and why


@dataclass(frozen=True)
class Codec:
    psnr: Interval  # On held-out pictures, of the mean squared error, families having equal weight, in dB
    psnr_pooled: float  # The same, pictures having equal weight
    sharpness: float  # Gradient energy of reconstructions over that of the pictures
    pictures: int  # How many


@dataclass(frozen=True)
class TradeOff:
    guidance_scale: float
    temperature: float
    fit: float
    diversity: float
    joint: float
    copied: float


@dataclass(frozen=True)
class Report:
    split: str  # 'validation', on which everything is chosen, or 'test'
    seed: int  # Of every draw made here
    samples: int  # Pictures a caption
    extractor: str  # Which network judged
    data: str  # Fingerprint of the dataset
    rows: dict[str, Row]  # 'seen' (captions of training, drawn by artists outside it), 'held-out' and, of these, 'far'
    codec: Codec | None  # Absent where no codec was given
    singly: str | None = None  # Why captions were judged by one picture each; None where several artists drew them
    repeated: dict[str, dict[str, Row]] = field(default_factory=dict)  # The rows by a second extractor, by its name
    trade_off: dict[str, list[TradeOff]] = field(default_factory=dict)  # The first model, by row of validation
    absent: dict[str, str] = field(default_factory=dict)  # What could not be measured, and why
    about: dict[str, str] = field(default_factory=dict)  # The model's fingerprint, its settings, the command


def evaluate(
    models: Mapping[str, Generate],
    judge: Judge,
    *,
    split: str = "validation",
    codec: ImageCodec | None = None,
    encode_text: EncodeText | None = None,
    second: Judge | None = None,
    n: int = 4,
    captions: int | None = None,
    only: Collection[str] | None = None,
    seed: int = 0,
    say: Say = lambda _: None,
    watch: Watch = lambda *_: None,
    about: Mapping[str, str] | None = None,
    refine: int = 0,
) -> Report:
    """Judge models by name, and baselines, on the seen and on the held-out captions of a split.

    Baselines are compared with the first model; there are none without `codec`, which decodes them, and `encode_text`,
    captions to unit codes. `second` is the same dataset seen by another extractor, to repeat the rows with. At most
    `captions` of each row are judged, chosen by hash, and none but those in `only`, n pictures of each, at least 2; a
    row with too few is absent. `seed` is of the baselines' draws, the bootstrap and the caption-blind pictures. `say`
    is called with what is being done, `watch` with each row that is judged; `about` is kept in the report. `refine` is
    by how many steps latents of real pictures are brought nearer to them, those of reconstructions and of retrieval,
    see `ImageCodec.refined`. ValueError if an argument is out of its range, or a model's pictures are not as promised.
    """
    if split not in ROWS:
        raise ValueError(f"split: expected one of {', '.join(ROWS)}, got {split!r}")
    if not models:
        raise ValueError("models: expected at least one")
    check_counts(n, captions)
    judges = [judge] if second is None else [judge, second]
    rivals, absent = _baselines(judge, codec, encode_text, refine, say)
    rows: list[dict[str, Row]] = [{} for _ in judges]
    for name, part in ROWS[split].items():
        say(f"{name}: references")
        try:
            if part not in judge.pictures.split:
                raise UserError(f"no picture of the dataset has split {part!r}")
            chosen: dict[str, Any] = {"captions": captions, "only": only, "seed": seed, "encode_text": encode_text}
            benches = [bench_of(j, part, n, **chosen) for j in judges]
        except UserError as error:
            absent[name] = str(error)
            continue
        makers = {name: [_RowMaker(part, bench, list(models)) for bench in benches]}
        far = _far(benches[0], rivals, absent.get("baselines")) if name == "held-out" else None
        if isinstance(far, str):
            absent[FAR_ROW] = far
        elif far is not None:
            makers[FAR_ROW] = [_RowMaker(part, bench[far], list(models), far) for bench in benches]
        _fill(makers, judged_by_all(benches, models, rivals, codec, n, refine), say, watch)
        rows = [known | {row: mine[i].row for row, mine in makers.items()} for i, known in enumerate(rows)]
    if not rows[0]:
        raise UserError("; ".join(f"{name}: {absent[name]}" for name in ROWS[split]))
    measured = next(part for part in reversed(ROWS[split].values()) if part in judge.pictures.split)
    run = split, seed, n, judge.extractor.id, judge.pictures.fingerprint
    of_codec = None if codec is None else codec_figures(judge, codec, measured, seed, refine)
    repeated = {} if second is None else {second.extractor.id: rows[1]}
    return Report(*run, rows[0], of_codec, judge.singly, repeated, absent=absent, about=dict(about or {}))


def check_counts(n: int, captions: int | None) -> None:
    """Raise UserError unless there are at least two samples a caption and two captions."""
    if n < 2:
        raise UserError(f"n must be at least 2 samples a caption, got {n}: one has no spread")
    if captions is not None and captions < 2:
        raise UserError(f"captions: expected at least 2, got {captions}")


def codec_figures(judge: Judge, codec: ImageCodec, split: str, seed: int = 0, refine: int = 0) -> Codec:
    """PSNR and sharpness of a codec on all pictures of a split."""
    rows = judge.pictures.where(split)
    errors, gradients = [], []
    z = picture_latents(codec, judge.pictures, rows, refine).mean
    for x, mean in zip(judge.pictures.blocks(rows), z.split(BLOCK), strict=True):
        y = decode_all(codec, mean).numpy()
        errors.append(quality.squared_error(y, x.numpy()))
        gradients.append([quality.gradient_energy(y), quality.gradient_energy(x.numpy())])
    error, (made, real) = np.concatenate(errors), np.concatenate(gradients, axis=1)
    psnr = paired_bootstrap(error, judge.pictures.family[rows], lambda m: quality.psnr(m[..., 0]), seed=seed)
    return Codec(psnr, float(quality.psnr(error.mean())), float(made.mean() / real.mean()), len(rows))


def _baselines(
    judge: Judge, codec: ImageCodec | None, encode_text: EncodeText | None, refine: int, say: Say
) -> tuple[Baselines | None, dict[str, str]]:
    """The decoded baselines where they can be fitted, and what is absent from the whole report."""
    absent = {column: OPTIONAL[column] for column in judge.pictures.lacks}
    if judge.singly:
        absent["trade_off"] = "the headlines have no common 1 by which one setting could be called the best"
    if "validation" not in judge.pictures.split:
        calibrated = "realism and copies are calibrated on training pictures, each left out in turn"
        absent["validation"] = f"the data has no such split: {calibrated}"
        absent["baselines"] = "retrieval and ridge need split 'validation', on which the ridge's penalty is chosen"
        return None, absent
    if (codec is None) != (encode_text is None):
        raise ValueError("codec, encode_text: the baselines need both; give both or neither")
    if codec is None or encode_text is None:
        return None, absent
    say("baselines: encoding the training pictures")
    return Baselines.fit(judge.pictures, codec, encode_text, refine), absent


def trade_off(
    models: Mapping[tuple[float, float], Generate], judge: Judge, *, split: str, n: int, captions: int, seed: int
) -> dict[str, list[TradeOff]]:
    """One model, by guidance scale and temperature, judged without baselines, by row; arguments as in `evaluate`.

    A setting without all of its headlines is left out: it has no place on the curve.
    """
    points: dict[str, list[TradeOff]] = {}
    for row, part in ROWS[split].items():
        if part not in judge.pictures.split:
            continue
        bench, points[row] = bench_of(judge, part, n, captions=captions, seed=seed), []
        for setting, generate in models.items():
            (seen,) = seen_of([judge], "model", generate, bench.refs.captions, n)
            figures = bench.figures(bench.samples(seen))
            values = [figures.value(name) for name in ("fit", "diversity", "joint", "copied")]
            if np.isfinite(values).all():
                points[row].append(TradeOff(*setting, *values))
    return points


def _far(bench: Bench, rivals: Baselines | None, without: str | None) -> np.ndarray | str:
    """Indices of captions far from training by the codes of `rivals`; or why there is no such row."""
    if rivals is None:
        return without or "what is far from training is told by text codes, and no text encoder was given"
    least = LEAST if bench.judge.singly else 2
    far = np.flatnonzero((rivals.encode_text(bench.refs.captions) @ rivals.codes.T).max(axis=1) < FAR)
    if (families := len(np.unique(bench.refs.families[far]))) < least:
        return f"{families} families of the captions judged are below cosine {FAR}; an interval needs {least}"
    return far


class _RowMaker:
    """Fills a row method by method; of each, only figures stay. `index` are its captions among those judged."""

    def __init__(self, split: str, bench: Bench, models: Sequence[str], index: np.ndarray | None = None) -> None:
        self.bench, self.models, self.index = bench, models, index
        self.first = np.empty(0)  # Energy of the first model, (C,), once it has come
        counts = len(bench.refs), len(np.unique(bench.refs.families))
        self.row = Row(split, *counts, methods={}, energy_less={}, pictures=len(bench.rows), **bench.about)

    def add(self, method: str, judged: Judged) -> None:
        mine = judged if self.index is None else judged[self.index]
        self.row.methods[method] = self.bench.figures(mine)
        if method in self.models:
            self.row.calibration[method] = self.bench.calibration(mine)
        if method == self.models[0]:
            self.first = mine.per.energy
        elif method not in BASES:
            self.row.energy_less[method] = self.bench.interval(self.first - mine.per.energy)


def _fill(
    makers: Mapping[str, Sequence[_RowMaker]], methods: Iterable[tuple[str, list[Judged]]], say: Say, watch: Watch
) -> None:
    """Fill rows, by name and then by judge, with every method as judged by each."""
    for name, (first, *_) in makers.items():
        watch(name, first.bench)
    for method, judged in methods:
        say(f"  {method}")
        for mine in makers.values():
            for maker, one in zip(mine, judged, strict=True):
                maker.add(method, one)


def judged_by_all(
    benches: Sequence[Bench],
    models: Mapping[str, Generate],
    rivals: Baselines | None,
    codec: ImageCodec | None,
    n: int,
    refine: int = 0,
) -> Iterator[tuple[str, list[Judged]]]:
    """Every method on one row, by every bench of the same captions; a method's pictures are made once and not kept."""
    judges, first = [bench.judge for bench in benches], benches[0]
    captions, rng = first.refs.captions, np.random.default_rng(first.seed)

    def samples(seen: Sequence[Seen], asked: np.ndarray | None = None) -> list[Judged]:
        return [bench.samples(s, asked) for bench, s in zip(benches, seen, strict=True)]

    yield "real", [bench.real for bench in benches]
    if codec is not None:
        seen = seen_by(judges, (reconstruct(codec, x, refine) for x in first.judge.pictures.blocks(first.rows)))
        yield "reconstruction", [bench.reconstructions(s) for bench, s in zip(benches, seen, strict=True)]
    (name, generate), *others = models.items()
    blocks = drawn(name, generate, captions, n)
    both = [(seen_by(judges, [x.flatten(0, 1)]), seen_by(judges, [x.mean(1)])) for x in blocks]
    own, blurred = ([Seen.cat(mine) for mine in zip(*parts, strict=True)] for parts in zip(*both, strict=True))
    yield name, samples(own)
    for other, make in others:
        yield other, samples(seen_of(judges, other, make, captions, n))
    rows, families = np.arange(len(captions) * n).reshape(len(captions), n), first.refs.families
    order = shuffle_captions(families, rng)
    yield "model, shuffled captions", samples([seen[rows[order].ravel()] for seen in own], families[order])
    yield "model, one mode", samples([seen[np.repeat(rows[:, 0], n)] for seen in own])
    yield "model, blur", samples([seen[np.repeat(np.arange(len(captions)), n)] for seen in blurred])
    if rivals is None:
        return
    nearest = np.empty(0)
    for baseline, z in rivals.latents(captions, n, rng):
        seen = seen_by(judges, (rivals.decode(part).flatten(0, 1) for part in in_blocks(z)))
        if baseline == "nearest1":
            nearest = seen[0].late
        if baseline == "nearestk" and np.array_equal(seen[0].late, nearest):
            continue  # with one picture a caption, filling up from the next caption is the same thing
        yield baseline, samples(seen)


COLUMNS = ("fit", "diversity", "joint", "score")
COMPARED = ("ridge + Gaussian", "nearest1", "nearestk", "unconditional")


def to_json(report: object) -> str:
    """A report of dataclasses and dicts as JSON; the same report gives the same bytes. ValueError for NaN."""
    text = json.dumps(report, default=dataclasses.asdict, indent=1, allow_nan=False, ensure_ascii=False)
    return well_formed(text) + "\n"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column flush left, the others flush right, each as wide as it has to be.

    >>> table([("", "fit"), ("model", "0.5")])
    ['       fit', 'model  0.5']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [[row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))] for row in rows]
    return ["  ".join(row).rstrip() for row in cells]


def to_text(report: Report) -> str:
    """One table a row of the report, headlines with their intervals."""
    lines = [f"split {report.split} · {report.samples} samples a caption · judge {report.extractor}"]
    if report.singly:
        lines.append(f"judged singly: {report.singly}; 1 is not real pictures by other artists, and there is no score")
    if (c := report.codec) is not None:
        psnr = f"PSNR {c.psnr} dB by family, {c.psnr_pooled:.2f} dB pooled"
        lines.append(f"codec, {c.pictures} held-out pictures: {psnr}, sharpness {c.sharpness:.2f}")
    for name, row in report.rows.items():
        lines += ["", *_row_lines(name, row, "energy score" if report.singly else "energy distance")]
    return "\n".join(lines + [f"{name}: absent, {why}" for name, why in report.absent.items()])


def _row_lines(name: str, row: Row, energy: str) -> list[str]:
    columns = [c for c in COLUMNS if c not in row.absent] + ["energy"] * ("score" in row.absent)
    cells = [["", *columns, "copies", "real?", "KID", "sharp"]]
    reasons: dict[tuple[str, str], list[str]] = {}
    for method, f in row.methods.items():
        beside = [f"{f.value('copied'):.3f}", f"{f.value('realistic'):.2f}", f"{f.kid:.3f}", f"{f.sharpness:.2f}"]
        cells.append([method, *(str(getattr(f, c) or "absent") for c in columns), *beside])
        for what, why in f.absent.items():
            if what not in row.absent:
                reasons.setdefault((method, why), []).append(what)
    left_out = f" ({row.left_out} left out: one artist)" if row.left_out else ""
    head = f"{name}: {row.captions} captions of {row.families} families, {row.pictures} real pictures{left_out}"
    lines = [head, *table(cells)]
    if row.real_joint is not None:
        where = f"two groups of artists, {row.real_joint_captions} captions"
        lines.append(f"joint of real pictures ({where}): {row.real_joint}")
    model = next(m for m in row.methods if m not in BASES)
    compared = [(other, row.energy_less[other]) for other in COMPARED if other in row.energy_less]
    lines += [f"{energy}, {model} less {other}: {less} (below 0 is better)" for other, less in compared]
    lines += [f"{what}: absent, {why}" for what, why in row.absent.items()]
    return lines + [f"{method}: {', '.join(what)} absent, {why}" for (method, why), what in reasons.items()]
