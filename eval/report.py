"""One report: every headline of a model and of the obvious alternatives, on captions seen and held out."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bridge.codec import ImageCodec
from bridge.errors import UserError
from eval.collected import Collected, Say, collect
from eval.data import BLOCK, OPTIONAL, References, picture_latents
from eval.decoded import Baselines, EncodeText, decode_all
from eval.headlines import Bench, Calibration, Figures, Judged
from eval.judge import Judge
from eval.metrics import energy as joint
from eval.metrics import quality
from eval.metrics.bootstrap import Interval, paired_bootstrap
from eval.single_space import SingleSpace
from eval.stream import Generate, seen_by_all, seen_of, seen_reconstructions

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


@dataclass(frozen=True)
class Row:
    """One kind of caption.

    Args:
        split: The part of the data behind it.
        captions: How many were judged.
        families: Of how many families.
        left_out: How many captions of the split were not: a single artist drew them.
        unconditional_energy: What joint 0 costs: energy distance of caption-blind training pictures.
        real_joint: Joint between two disjoint groups of artists, 1 but for chance; absent with a reason.
        real_joint_captions: On how many captions.
        methods: Figures of every model, of real pictures and of every baseline.
        energy_less: For every method, the first model's energy distance less the method's, paired by
            caption: below 0 where the model is better.
        calibration: Of every model, and of nothing else.
        absent: What could not be measured, and why.
    """

    split: str
    captions: int
    families: int
    left_out: int
    unconditional_energy: Interval
    real_joint: Interval | None
    real_joint_captions: int
    methods: dict[str, Figures]
    energy_less: dict[str, Interval]
    calibration: dict[str, Calibration] = field(default_factory=dict)
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
        repeated: The same rows by a second extractor, by its name.
        trade_off: The first model at several guidance scales and temperatures, by row of validation.
        codec: Absent where no codec was given.
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
        say: Told what is being done.
        watch: Told each row that is judged.
        about: Kept in the report.

    Raises:
        ValueError: An argument is out of its range, or a model's pictures are not as promised.
    """
    check_asked(models, split)
    check_counts(n, captions)
    if isinstance(judge.space, SingleSpace):
        raise ValueError("judge: it was fitted to data with one picture a caption; use evaluate_single")
    rivals = fit_baselines(judge, codec, encode_text, say)
    judges = [judge] if second is None else [judge, second]
    rows: list[dict[str, Row]] = [{} for _ in judges]
    absent = {column: OPTIONAL[column] for column in judge.pictures.lacks}
    for name, part in ROWS[split].items():
        say(f"{name}: references")
        benches = _benches(judges, part, n, captions, seed, only)
        if isinstance(benches, str):
            absent[name] = benches
            continue
        far, why = far_captions(benches[0].target.refs, rivals) if name == "held-out" else (None, None)
        if why is not None:
            absent[FAR_ROW] = why
        parts = {name: None, FAR_ROW: far} if far is not None else {name: None}
        makers = [{row: RowMaker.of(bench, index, list(models)) for row, index in parts.items()} for bench in benches]
        for row, maker in makers[0].items():
            watch(row, maker.bench)
        collect(makers, _judged_by_all(benches, models, rivals, n), say)
        for found, mine in zip(rows, makers, strict=True):
            found |= {row: maker.row(part) for row, maker in mine.items()}
    if not rows[0]:
        raise UserError("; ".join(f"{name}: {why}" for name, why in absent.items()))
    return Report(
        split,
        seed,
        n,
        judge.extractor.id,
        judge.pictures.fingerprint,
        rows[0],
        None if codec is None else codec_figures(judge, codec, split, seed),
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


def check_asked(models: Mapping[str, Generate], split: str) -> None:
    """Raise ValueError unless there is a model and the split is one of a report."""
    if split not in ROWS:
        raise ValueError(f"split: expected one of {', '.join(ROWS)}, got {split!r}")
    if not models:
        raise ValueError("models: expected at least one")


def _benches(
    judges: Sequence[Judge], split: str, n: int, captions: int | None, seed: int, only: Collection[str] | None
) -> list[Bench] | str:
    """One row's bench by each judge, or why there is none."""
    if split not in judges[0].pictures.split:
        return f"no picture of the dataset has split {split!r}"
    try:
        return [Bench.of(judge, judge.target(split, n, captions, seed, only), seed) for judge in judges]
    except UserError as error:
        return str(error)


def fit_baselines(judge: Judge, codec: ImageCodec | None, encode_text: EncodeText | None, say: Say) -> Baselines | None:
    """The decoded baselines, or None without codec and text encoder.

    Raises:
        ValueError: Only one of the two is given, or the data has no split 'validation'.
    """
    if (codec is None) != (encode_text is None):
        raise ValueError("codec, encode_text: the baselines need both; give both or neither")
    if codec is None or encode_text is None:
        return None
    say("baselines: encoding the training pictures")
    return Baselines.fit(judge, codec, encode_text)


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
        bench = Bench.of(judge, judge.target(part, n, captions, seed), seed)
        asked = bench.target.refs.captions
        for (guidance, temperature), generate in models.items():
            f = bench.figures(bench.samples(*seen_of([judge], "model", generate, asked, n)))
            values = (f.fit.value, f.diversity.value, f.joint.value, f.copied.value)
            points.setdefault(name, []).append(TradeOff(guidance, temperature, *values))
    return points


def far_captions(refs: References, rivals: Baselines | None) -> tuple[np.ndarray | None, str | None]:
    """Captions far from every training caption, (C',) indices; or None and the reason."""
    if rivals is None:
        return None, "what is far from training is told by text codes, and no text encoder was given"
    cosine = (rivals.encode_text(refs.captions) @ rivals.codes.T).max(axis=1)
    far = np.flatnonzero(cosine < FAR)
    families = len(np.unique(refs.families[far]))
    if families < 2:
        return None, f"{families} families of the captions judged are below cosine {FAR}; an interval needs two"
    return far, None


def _judged_by_all(
    benches: Sequence[Bench], models: Mapping[str, Generate], rivals: Baselines | None, n: int
) -> Iterator[tuple[str, list[Judged]]]:
    """Every method on one row, by every bench; a method's pictures are made once and not kept."""
    judges, first = [bench.judge for bench in benches], benches[0]
    yield "real", [bench.real for bench in benches]
    if rivals is not None:
        seen = seen_reconstructions(judges, rivals.codec, first.rows)
        yield "reconstruction", [bench.reconstructions(s) for bench, s in zip(benches, seen, strict=True)]
    for name, seen in seen_by_all(judges, first.target.refs, first.seed, models, rivals, n):
        yield name, [bench.samples(s) for bench, s in zip(benches, seen, strict=True)]


class RowMaker(Collected):
    """Of a report on data drawn by several artists; its bench is a `Bench`."""

    def add(self, name: str, judged: Judged) -> None:
        mine = self.mine(judged)
        self.methods[name] = self.bench.real_figures() if name == "real" else self.bench.figures(mine)
        self.energy[name] = mine.per.energy
        if name in self.models:
            self.calibration[name] = self.bench.calibration(mine)

    def row(self, split: str) -> Row:
        """The row, once every method is in."""
        bench, refs = self.bench, self.bench.target.refs
        real_joint, count, absent = _real_joint(bench)
        first = self.energy[self.models[0]]
        rivals = {name: e for name, e in self.energy.items() if name not in (*BASES, self.models[0])}
        return Row(
            split,
            len(refs),
            len(np.unique(refs.families)),
            len(refs.left_out),
            bench.interval(bench.target.unconditional),
            real_joint,
            count,
            self.methods,
            {name: bench.interval(first - energy) for name, energy in rivals.items()},
            self.calibration,
            absent,
        )


def _real_joint(bench: Bench) -> tuple[Interval | None, int, dict[str, str]]:
    """Joint between two disjoint groups of artists, on how many captions, or why it is absent."""
    index, energy = bench.judge.real_elsewhere(bench.target, bench.seed)
    families = bench.target.refs.families[index]
    if len(np.unique(families)) < 2:
        return None, len(index), {"real_joint": "too few captions were drawn by four artists"}
    columns = np.stack([energy, bench.target.unconditional[index]], axis=1)

    def skill(m: np.ndarray) -> np.ndarray:
        return joint.root_skill(m[..., 0], m[..., 1])

    return paired_bootstrap(columns, families, skill, seed=bench.seed), len(index), {}
