"""The report on data with one picture a caption: what `eval.report` says, as far as such data can say it."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bridge.codec import ImageCodec
from bridge.errors import UserError
from eval import baselines
from eval.collected import Collected, Say, collect
from eval.data import OPTIONAL
from eval.decoded import Baselines, EncodeText
from eval.headlines import Calibration
from eval.judge import Judge
from eval.metrics.bootstrap import Interval
from eval.report import (
    BASES,
    FAR_ROW,
    ROWS,
    Codec,
    TradeOff,
    check_asked,
    check_counts,
    codec_figures,
    far_captions,
    fit_baselines,
)
from eval.single_bench import SingleBench, fit_pairs
from eval.single_figures import Drawn, SingleFigures
from eval.single_space import LEAST, SingleSpace
from eval.stream import SHUFFLED, Generate, seen_by_all, seen_reconstructions

Watch = Callable[[str, SingleBench], None]
"""Name of a row and its bench."""
NO_SCORE = "the three headlines have no common 1 on data with one picture a caption, so the smallest says nothing"
NO_SECOND = "no caption has a second set of real pictures to hold against the first"
NO_TRADE_OFF = "the headlines have no common 1 by which one setting could be called the best"
NO_VALIDATION = (
    "the data has no such split: realism and copies are calibrated on training pictures, each left out in turn"
)


@dataclass(frozen=True)
class SingleRow:
    """One kind of caption.

    Args:
        split: The part of the data behind it.
        captions: How many were judged.
        families: Of how many families.
        pictures: Real pictures of these captions.
        chance: Share of hits at which fit is 0.
        methods: Figures of every model, of real pictures and of every baseline.
        energy_less: For every method, the first model's energy score less the method's, paired by caption: below
            0 where the model is better. Half of what the difference in energy distance would be.
        calibration: Of every model, and of nothing else.
        absent: What could not be measured for any method, and why.
    """

    split: str
    captions: int
    families: int
    pictures: int
    chance: float
    methods: dict[str, SingleFigures]
    energy_less: dict[str, Interval]
    calibration: dict[str, Calibration] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SingleReport:
    """Everything measured; fields as in `eval.report.Report`, and why it is this report.

    Args:
        judged: 'singly: ' and the reason.
        split: 'validation', on which everything is chosen, or 'test'.
        seed: Of every draw made here.
        samples: Pictures a caption.
        extractor: Which network judged.
        data: Fingerprint of the dataset.
        rows: 'seen', 'held-out' and, of these, 'far', as far as the data has them.
        repeated: The same rows by a second extractor, by its name.
        trade_off: Empty: without a common scale there is no best setting.
        codec: Absent where no codec was given.
        absent: What could not be measured, and why.
        about: What the caller adds.
    """

    judged: str
    split: str
    seed: int
    samples: int
    extractor: str
    data: str
    rows: dict[str, SingleRow]
    codec: Codec | None
    repeated: dict[str, dict[str, SingleRow]] = field(default_factory=dict)
    trade_off: dict[str, list[TradeOff]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)


def evaluate_single(
    models: Mapping[str, Generate],
    judge: Judge,
    why: str,
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
) -> SingleReport:
    """Judge models and baselines on data with one picture a caption.

    Args:
        models: By name; the first is the one that baselines are compared with.
        judge: The dataset and the space fitted to it, of `eval.single_space.fit_single`.
        why: Why it is judged singly, of `eval.single_space.why_single`.
        split: Like all that follow, as in `eval.report.evaluate`.
        codec: Decodes the baselines.
        encode_text: Captions to unit codes, for the baselines, joint, and for what is far from training.
        second: The same dataset seen by another extractor.
        n: Samples a caption, at least 2.
        captions: Judge at most so many of each row.
        only: Judge none but these captions.
        seed: Of the baselines' draws and the bootstrap.
        say: Told what is being done.
        watch: Told each row that is judged.
        about: Kept in the report.

    Raises:
        ValueError: An argument is out of its range, a judge is of the other kind, or no row can be judged.
    """
    check_asked(models, split)
    check_counts(n, captions)
    judges = [judge] if second is None else [judge, second]
    if not all(isinstance(j.space, SingleSpace) for j in judges):
        raise ValueError("judge, second: expected judges of eval.single_space.fit_single; use eval.report.evaluate")
    rivals, absent = _rivals(judge, codec, encode_text, say)
    pairs = [fit_pairs(j, encode_text) for j in judges]
    rows: list[dict[str, SingleRow]] = [{} for _ in judges]
    for name, part in ROWS[split].items():
        say(f"{name}: references")
        if part not in judge.pictures.split:
            absent[name] = f"no picture of the dataset has split {part!r}"
            continue
        try:
            benches = [
                SingleBench.of(j, part, p, captions=captions, only=only, seed=seed)
                for j, p in zip(judges, pairs, strict=True)
            ]
        except UserError as error:
            absent[name] = str(error)
            continue
        far = _far(benches[0], rivals, absent.get("baselines")) if name == "held-out" else None
        if isinstance(far, str):
            absent[FAR_ROW] = far
        parts = {name: None, FAR_ROW: far} if isinstance(far, np.ndarray) else {name: None}
        makers = [
            {row: SingleRowMaker.of(bench, index, list(models)) for row, index in parts.items()} for bench in benches
        ]
        for row, maker in makers[0].items():
            watch(row, maker.bench)
        collect(makers, _judged_by_all(benches, models, rivals, codec, n), say)
        for found, mine in zip(rows, makers, strict=True):
            found |= {row: maker.row(part) for row, maker in mine.items()}
    if not rows[0]:
        raise UserError("; ".join(f"{name}: {absent[name]}" for name in ROWS[split]))
    measured = next(part for part in reversed(ROWS[split].values()) if part in judge.pictures.split)
    return SingleReport(
        f"singly: {why}",
        split,
        seed,
        n,
        judge.extractor.id,
        judge.pictures.fingerprint,
        rows[0],
        None if codec is None else codec_figures(judge, codec, measured, seed),
        {} if second is None else {second.extractor.id: rows[1]},
        {},
        absent,
        dict(about or {}),
    )


def _rivals(
    judge: Judge, codec: ImageCodec | None, encode_text: EncodeText | None, say: Say
) -> tuple[Baselines | None, dict[str, str]]:
    """The decoded baselines where they can be fitted, and what is absent from the whole report."""
    absent = {column: OPTIONAL[column] for column in judge.pictures.lacks}
    absent["trade_off"] = NO_TRADE_OFF
    if "validation" in judge.pictures.split:
        return fit_baselines(judge, codec, encode_text, say), absent
    absent["validation"] = NO_VALIDATION
    absent["baselines"] = "retrieval and ridge need split 'validation', on which the ridge's penalty is chosen"
    return None, absent


def _far(bench: SingleBench, rivals: Baselines | None, without: str | None) -> np.ndarray | str:
    """Captions far from every training caption, (C',) indices, or why they are no row.

    `without` says why there are no baselines, if the data is at fault: they hold the codes of the training captions.
    """
    if without is not None:
        return without
    refs = bench.target.refs
    far, why = far_captions(refs, rivals)
    if far is None:
        return str(why)
    families = len(np.unique(refs.families[far]))
    if families < LEAST:
        return f"{families} families of the captions judged are far from training; a judgement takes {LEAST}"
    return far


def _judged_by_all(
    benches: Sequence[SingleBench],
    models: Mapping[str, Generate],
    rivals: Baselines | None,
    codec: ImageCodec | None,
    n: int,
) -> Iterator[tuple[str, list[Drawn]]]:
    """Every method on one row, by every bench; a method's pictures are made once and not kept."""
    judges, first = [bench.judge for bench in benches], benches[0]
    yield "real", [bench.real for bench in benches]
    if codec is not None:
        seen = seen_reconstructions(judges, codec, first.rows)
        yield "reconstruction", [bench.reconstructions(s) for bench, s in zip(benches, seen, strict=True)]
    refs, nearest = first.target.refs, None
    dealt = baselines.shuffle_captions(refs.families, np.random.default_rng(first.seed))  # as `seen_by_all` deals them
    for name, seen in seen_by_all(judges, refs, first.seed, models, rivals, n):
        if name == "nearest1":
            nearest = seen[0].late
        if name == "nearestk" and nearest is not None and np.array_equal(seen[0].late, nearest):
            continue  # with one picture a caption, filling up from the next caption is the same thing
        asked = refs.families[dealt] if name == SHUFFLED else None
        yield name, [bench.samples(s, asked) for bench, s in zip(benches, seen, strict=True)]


class SingleRowMaker(Collected):
    """Of data with one picture a caption; its bench is a `SingleBench`."""

    def add(self, name: str, judged: Drawn) -> None:
        mine = self.mine(judged)
        self.methods[name] = self.bench.figures(mine)
        if name not in BASES:
            self.energy[name] = self.bench.energy(mine)
        if name in self.models:
            self.calibration[name] = self.bench.calibration(mine)

    def row(self, split: str) -> SingleRow:
        """The row, once every method is in."""
        bench, refs = self.bench, self.bench.target.refs
        first = self.energy[self.models[0]]
        absent = {"score": NO_SCORE, "real_joint": NO_SECOND}
        if isinstance(bench.shuffled, str):
            absent["joint"] = bench.shuffled
        return SingleRow(
            split,
            len(refs),
            len(np.unique(refs.families)),
            sum(map(len, refs.rows)),
            bench.chance,
            self.methods,
            {name: bench.interval(first - e) for name, e in self.energy.items() if name != self.models[0]},
            self.calibration,
            absent,
        )
