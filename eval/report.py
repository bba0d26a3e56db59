"""One report: every headline of a model and of the obvious alternatives, on captions seen and held out."""

import dataclasses
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bridge.captions import well_formed
from bridge.codecs import ImageCodec
from bridge.errors import UserError
from eval.baselines import Baselines, EncodeText, decode_all, shuffle_captions
from eval.bench import Bench, Calibration, Figures, Judged, bench_of, fit_pairs
from eval.data import BLOCK, LEAST, OPTIONAL, picture_latents
from eval.judge import Judge, Say
from eval.metrics import fit, quality
from eval.metrics.bootstrap import Interval, paired_bootstrap
from eval.stream import SHUFFLED, Generate, seen_by_all, seen_of, seen_reconstructions
from eval.table import table

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Watch = Callable[[str, Bench], None]
"""Name of a row and its bench."""

ROWS = {
    "validation": {"seen": "seen_validation", "held-out": "validation"},
    "test": {"seen": "seen", "held-out": "test"},
}
"""Rows of a report and the split of the data behind each."""
FAR_ROW, FAR = "far", 0.55
"""Held-out captions whose text code is below this cosine to every training caption's have a row of their own."""
BASES = ("real", "reconstruction")
"""Methods that are no rivals: what is aimed at."""
NO_TRADE_OFF = "the headlines have no common 1 by which one setting could be called the best"
NO_VALIDATION = (
    "the data has no such split: realism and copies are calibrated on training pictures, each left out in turn"
)
NO_BASELINES = "retrieval and ridge need split 'validation', on which the ridge's penalty is chosen"


@dataclass(frozen=True)
class Row:
    """One kind of caption.

    Args:
        split: The part of the data behind it.
        captions: How many were judged.
        families: Of how many families.
        methods: Figures of every model, of real pictures and of every baseline.
        energy_less: For every method, the first model's energy less the method's, paired by caption: below 0 where
            the model is better.
        calibration: Of every model, and of nothing else.
        pictures: Real pictures of these captions.
        chance: Share of hits at which fit is 0.
        left_out: How many captions of the split were not judged: a single artist drew them.
        unconditional_energy: What joint 0 costs: energy distance of caption-blind training pictures.
        real_joint: Joint between two disjoint groups of artists, 1 but for chance; absent with a reason.
        real_joint_captions: On how many captions.
        absent: What could not be measured for any method, and why.
    """

    split: str
    captions: int
    families: int
    methods: dict[str, Figures]
    energy_less: dict[str, Interval]
    calibration: dict[str, Calibration] = field(default_factory=dict)
    pictures: int = 0
    chance: float = fit.CHANCE
    left_out: int = 0
    unconditional_energy: Interval | None = None
    real_joint: Interval | None = None
    real_joint_captions: int = 0
    absent: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Codec:
    """The image codec on the held-out pictures.

    Args:
        psnr: Of the mean squared error, families weighing equally, in dB.
        psnr_pooled: The same with every picture weighing equally.
        sharpness: Gradient energy of reconstructions over that of the pictures.
        pictures: How many.
    """

    psnr: Interval
    psnr_pooled: float
    sharpness: float
    pictures: int


@dataclass(frozen=True)
class TradeOff:
    """Headlines of a model at one guidance scale and temperature."""

    guidance_scale: float
    temperature: float
    fit: float
    diversity: float
    joint: float
    copied: float


@dataclass(frozen=True)
class Report:
    """Everything measured.

    Args:
        split: 'validation', on which everything is chosen, or 'test'.
        seed: Of every draw made here.
        samples: Pictures a caption.
        extractor: Which network judged.
        data: Fingerprint of the dataset.
        rows: 'seen' (captions of training, drawn by artists outside it), 'held-out' and, of these, 'far'.
        codec: Absent where no codec was given.
        singly: Why captions were judged by one picture each; None where several artists drew them.
        repeated: The same rows by a second extractor, by its name.
        trade_off: The first model at several guidance scales and temperatures, by row of validation.
        absent: What could not be measured, and why.
        about: What the caller adds: the model's fingerprint, its settings, the command.
    """

    split: str
    seed: int
    samples: int
    extractor: str
    data: str
    rows: dict[str, Row]
    codec: Codec | None
    singly: str | None = None
    repeated: dict[str, dict[str, Row]] = field(default_factory=dict)
    trade_off: dict[str, list[TradeOff]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)


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
) -> Report:
    """Judge models and baselines on the seen and on the held-out captions of a split.

    Args:
        models: By name; the first is the one that baselines are compared with.
        judge: The dataset and the space fitted to it.
        split: 'validation' or 'test'.
        codec: Decodes the baselines; without it (and `encode_text`) there are none.
        encode_text: Captions to unit codes, for the baselines and for what is far from training.
        second: The same dataset seen by another extractor, to repeat the rows with.
        n: Samples a caption, at least 2.
        captions: Judge at most so many of each row, chosen by hash.
        only: Judge none but these captions; a row with too few of them is absent.
        seed: Of the baselines' draws, the bootstrap and the caption-blind pictures.
        say: Called with what is being done.
        watch: Called with each row that is judged.
        about: Kept in the report.

    Raises:
        ValueError: An argument is out of its range, or a model's pictures are not as promised.
    """
    if split not in ROWS:
        raise ValueError(f"split: expected one of {', '.join(ROWS)}, got {split!r}")
    if not models:
        raise ValueError("models: expected at least one")
    check_counts(n, captions)
    judges = [judge] if second is None else [judge, second]
    rivals, absent = _baselines(judge, codec, encode_text, say)
    pairs = [fit_pairs(j, encode_text) if j.singly else None for j in judges]
    rows: list[dict[str, Row]] = [{} for _ in judges]
    for name, part in ROWS[split].items():
        say(f"{name}: references")
        if part not in judge.pictures.split:
            absent[name] = f"no picture of the dataset has split {part!r}"
            continue
        each = zip(judges, pairs, strict=True)
        try:
            benches = [bench_of(j, part, n, captions=captions, only=only, seed=seed, pairs=p) for j, p in each]
        except UserError as error:
            absent[name] = str(error)
            continue
        index, why = _parts(name, benches[0], rivals, absent.get("baselines"))
        absent |= why
        makers = [{row: _RowMaker.of(b, some, list(models)) for row, some in index.items()} for b in benches]
        for row, maker in makers[0].items():
            watch(row, maker.bench)
        _collect(makers, _judged_by_all(benches, models, rivals, codec, n), say)
        for made, mine in zip(rows, makers, strict=True):
            made |= {row: maker.row(part) for row, maker in mine.items()}
    if not rows[0]:
        raise UserError("; ".join(f"{name}: {absent[name]}" for name in ROWS[split]))
    measured = next(part for part in reversed(ROWS[split].values()) if part in judge.pictures.split)
    return Report(
        split,
        seed,
        n,
        judge.extractor.id,
        judge.pictures.fingerprint,
        rows[0],
        None if codec is None else codec_figures(judge, codec, measured, seed),
        judge.singly,
        {} if second is None else {second.extractor.id: rows[1]},
        {},
        absent,
        dict(about or {}),
    )


def check_counts(n: int, captions: int | None) -> None:
    """Raise ValueError unless there are at least two samples a caption and two captions."""
    if n < 2:
        raise UserError(f"n must be at least 2 samples a caption, got {n}: one has no spread")
    if captions is not None and captions < 2:
        raise UserError(f"captions: expected at least 2, got {captions}")


def codec_figures(judge: Judge, codec: ImageCodec, split: str, seed: int = 0) -> Codec:
    """PSNR and sharpness of a codec on all pictures of a split."""
    rows = judge.pictures.where(split)
    errors, gradients = [], []
    z = picture_latents(codec, judge.pictures, rows).mean
    for x, mean in zip(judge.pictures.blocks(rows), z.split(BLOCK), strict=True):
        y = decode_all(codec, mean).numpy()
        errors.append(quality.squared_error(y, x.numpy()))
        gradients.append([quality.gradient_energy(y), quality.gradient_energy(x.numpy())])
    error, (made, real) = np.concatenate(errors), np.concatenate(gradients, axis=1)
    return Codec(
        paired_bootstrap(error, judge.pictures.family[rows], lambda m: quality.psnr(m[..., 0]), seed=seed),
        float(quality.psnr(error.mean())),
        float(made.mean() / real.mean()),
        len(rows),
    )


def _baselines(
    judge: Judge, codec: ImageCodec | None, encode_text: EncodeText | None, say: Say
) -> tuple[Baselines | None, dict[str, str]]:
    """The decoded baselines where they can be fitted, and what is absent from the whole report."""
    absent = {column: OPTIONAL[column] for column in judge.pictures.lacks}
    if judge.singly:
        absent["trade_off"] = NO_TRADE_OFF
    if "validation" not in judge.pictures.split:
        return None, absent | {"validation": NO_VALIDATION, "baselines": NO_BASELINES}
    if (codec is None) != (encode_text is None):
        raise ValueError("codec, encode_text: the baselines need both; give both or neither")
    if codec is None or encode_text is None:
        return None, absent
    say("baselines: encoding the training pictures")
    return Baselines.fit(judge, codec, encode_text), absent


def trade_off(
    models: Mapping[tuple[float, float], Generate], judge: Judge, *, split: str, n: int, captions: int, seed: int
) -> dict[str, list[TradeOff]]:
    """One model at several settings, judged without baselines, by row.

    Args:
        models: By guidance scale and temperature.
        judge: The dataset and the space fitted to it.
        split: 'validation' or 'test'.
        n: Samples a caption, at least 2.
        captions: Judge at most so many of each row, chosen by hash.
        seed: As in `evaluate`.
    """
    points: dict[str, list[TradeOff]] = {}
    for name, part in ROWS[split].items():
        if part not in judge.pictures.split:
            continue
        bench = bench_of(judge, part, n, captions=captions, seed=seed)
        for setting, generate in models.items():
            (seen,) = seen_of([judge], "model", generate, bench.refs.captions, n)
            f = bench.figures(bench.samples(seen))
            fit_, diversity, joint = (math.nan if i is None else i.value for i in (f.fit, f.diversity, f.joint))
            points.setdefault(name, []).append(TradeOff(*setting, fit_, diversity, joint, f.copied.value))
    return points


def _parts(
    name: str, bench: Bench, rivals: Baselines | None, without: str | None
) -> tuple[dict[str, np.ndarray | None], dict[str, str]]:
    """Rows made of one split's captions, by their indices (None for all), and why there is none of those far off.

    `without` says why there are no baselines, if the data is at fault: they hold the codes of the training captions.
    """
    if name != "held-out":
        return {name: None}, {}
    if rivals is None:
        why = without or "what is far from training is told by text codes, and no text encoder was given"
        return {name: None}, {FAR_ROW: why}
    least = LEAST if bench.judge.singly else 2
    cosine = (rivals.encode_text(bench.refs.captions) @ rivals.codes.T).max(axis=1)
    far = np.flatnonzero(cosine < FAR)
    families = len(np.unique(bench.refs.families[far]))
    if families < least:
        why = f"{families} families of the captions judged are below cosine {FAR}; an interval needs {least}"
        return {name: None}, {FAR_ROW: why}
    return {name: None, FAR_ROW: far}, {}


def _collect(
    rows: Sequence[Mapping[str, "_RowMaker"]], methods: Iterable[tuple[str, Sequence[Judged]]], say: Say
) -> None:
    """Show every method, as judged by each bench, to that bench's rows."""
    for name, judged in methods:
        say(f"  {name}")
        for mine, one in zip(rows, judged, strict=True):
            for row in mine.values():
                row.add(name, one)


def _judged_by_all(
    benches: Sequence[Bench],
    models: Mapping[str, Generate],
    rivals: Baselines | None,
    codec: ImageCodec | None,
    n: int,
) -> Iterator[tuple[str, list[Judged]]]:
    """Every method on one row, by every bench; a method's pictures are made once and not kept."""
    judges, first = [bench.judge for bench in benches], benches[0]
    yield "real", [bench.real for bench in benches]
    if codec is not None:
        seen = seen_reconstructions(judges, codec, first.rows)
        yield "reconstruction", [bench.reconstructions(s) for bench, s in zip(benches, seen, strict=True)]
    refs, nearest = first.refs, None
    dealt = shuffle_captions(refs.families, np.random.default_rng(first.seed))  # as `seen_by_all` deals them
    for name, seen in seen_by_all(judges, refs, first.seed, models, rivals, n):
        if name == "nearest1":
            nearest = seen[0].late
        if name == "nearestk" and nearest is not None and np.array_equal(seen[0].late, nearest):
            continue  # with one picture a caption, filling up from the next caption is the same thing
        asked = refs.families[dealt] if name == SHUFFLED else None
        yield name, [bench.samples(s, asked) for bench, s in zip(benches, seen, strict=True)]


@dataclass(frozen=True)
class _RowMaker:
    """Collects a row method by method; of each, only figures stay.

    Args:
        bench: What the row's pictures are held against.
        index: Its captions among those judged, (C',); None for all.
        models: Names of the models, the one that others are compared with first.
        methods: Figures so far.
        energy: What methods are compared by, of every caption, (C',) by method.
        calibration: Of the models so far.
    """

    bench: Bench
    index: np.ndarray | None
    models: Sequence[str]
    methods: dict[str, Figures] = field(default_factory=dict)
    energy: dict[str, np.ndarray] = field(default_factory=dict)
    calibration: dict[str, Calibration] = field(default_factory=dict)

    @classmethod
    def of(cls, bench: Bench, index: np.ndarray | None, models: Sequence[str]) -> "_RowMaker":
        """For all captions of a bench, or for those at `index`."""
        return cls(bench if index is None else bench[index], index, models)

    def add(self, name: str, judged: Judged) -> None:
        """Take in a method, judged on all captions."""
        mine = judged if self.index is None else judged[self.index]
        self.methods[name] = self.bench.figures(mine)
        self.energy[name] = mine.per.energy
        if name in self.models:
            self.calibration[name] = self.bench.calibration(mine)

    def row(self, split: str) -> Row:
        """The row, once every method is in."""
        refs, first = self.bench.refs, self.energy[self.models[0]]
        rivals = {name: e for name, e in self.energy.items() if name not in (*BASES, self.models[0])}
        return Row(
            split,
            len(refs),
            len(np.unique(refs.families)),
            self.methods,
            {name: self.bench.interval(first - energy) for name, energy in rivals.items()},
            self.calibration,
            len(self.bench.rows),
            **self.bench.about,
        )


# --- as JSON and as plain text -------------------------------------------------------------------------------------

COLUMNS = ("fit", "diversity", "joint", "score")
COMPARED = ("ridge + Gaussian", "nearest1", "nearestk", "unconditional")


def to_json(report: "DataclassInstance") -> str:
    """Every figure of a report (any dataclass), indented, ending in a newline; the same report gives the same bytes.

    Raises:
        ValueError: A figure is not finite.
    """
    return well_formed(json.dumps(dataclasses.asdict(report), indent=1, allow_nan=False, ensure_ascii=False)) + "\n"


def to_text(report: Report) -> str:
    """One table a row of the report, headlines with their intervals."""
    lines = [f"split {report.split} · {report.samples} samples a caption · judge {report.extractor}"]
    if report.singly:
        lines.append(f"judged singly: {report.singly}; 1 is not real pictures by other artists, and there is no score")
    if report.codec is not None:
        c = report.codec
        lines.append(
            f"codec, {c.pictures} held-out pictures: PSNR {c.psnr} dB by family, "
            f"{c.psnr_pooled:.2f} dB pooled, sharpness {c.sharpness:.2f}"
        )
    for name, row in report.rows.items():
        lines += ["", *_row_lines(name, row, "energy score" if report.singly else "energy distance")]
    lines += [f"{name}: absent, {why}" for name, why in report.absent.items()]
    return "\n".join(lines)


def _row_lines(name: str, row: Row, energy: str) -> list[str]:
    columns = [c for c in COLUMNS if c not in row.absent] + ["energy"] * ("score" in row.absent)
    left_out = f" ({row.left_out} left out: one artist)" if row.left_out else ""
    cells = [["", *columns, "copies", "real?", "KID", "sharp"]]
    reasons: dict[tuple[str, str], list[str]] = {}
    for method, f in row.methods.items():
        beside = [f"{f.value('copied'):.3f}", f"{f.value('realistic'):.2f}", f"{f.kid:.3f}", f"{f.sharpness:.2f}"]
        cells.append([method, *(str(getattr(f, c) or "absent") for c in columns), *beside])
        for what, why in f.absent.items():
            if what not in row.absent:
                reasons.setdefault((method, why), []).append(what)
    head = f"{name}: {row.captions} captions of {row.families} families, {row.pictures} real pictures{left_out}"
    lines = [head, *table(cells)]
    if row.real_joint is not None:
        where = f"two groups of artists, {row.real_joint_captions} captions"
        lines.append(f"joint of real pictures ({where}): {row.real_joint}")
    model = next(m for m in row.methods if m not in BASES)
    for other in COMPARED:
        if other in row.energy_less:
            lines.append(f"{energy}, {model} less {other}: {row.energy_less[other]} (below 0 is better)")
    lines += [f"{what}: absent, {why}" for what, why in row.absent.items()]
    return lines + [f"{method}: {', '.join(what)} absent, {why}" for (method, why), what in reasons.items()]
