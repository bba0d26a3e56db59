"""The report on data with one picture a caption: what `eval.report` says, as far as such data can say it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bridge.codec import ImageCodec
from eval import baselines
from eval.bootstrap import Interval
from eval.data import OPTIONAL
from eval.decoded import Baselines, EncodeText, reconstruct
from eval.headlines import Calibration
from eval.judge import Judge
from eval.report import (
    BASES,
    FAR_ROW,
    ROWS,
    SHUFFLED,
    Codec,
    Generate,
    Say,
    TradeOff,
    check_asked,
    check_counts,
    codec_figures,
    drawn_by_all,
    far_captions,
    fit_baselines,
)
from eval.single_bench import SingleBench, fit_pairs
from eval.single_figures import Drawn, SingleFigures
from eval.single_space import LEAST, SingleSpace

Watch = Callable[[str, SingleBench, Tensor], None]
"""Name of a row, its bench, and the first model's pictures of it, (captions, n, 3, H, W)."""
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
        watch: Shown the first model's pictures of each row.
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
        except ValueError as error:
            absent[name] = str(error)
            continue
        judged, first = _judge_all(benches, models, rivals, codec, n, say)
        watch(name, benches[0], first)
        for found, bench, drawn in zip(rows, benches, judged, strict=True):
            found[name] = _row(bench, part, drawn, list(models))
        if name == "held-out":
            far = _far(benches[0], rivals, absent.get("baselines"))
            if isinstance(far, str):
                absent[FAR_ROW] = far
                continue
            watch(FAR_ROW, benches[0][far], first[far])
            for found, bench, drawn in zip(rows, benches, judged, strict=True):
                found[FAR_ROW] = _row(bench[far], part, {m: d[far] for m, d in drawn.items()}, list(models))
    if not rows[0]:
        raise ValueError("; ".join(f"{name}: {absent[name]}" for name in ROWS[split]))
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


def _judge_all(
    benches: Sequence[SingleBench],
    models: Mapping[str, Generate],
    rivals: Baselines | None,
    codec: ImageCodec | None,
    n: int,
    say: Say,
) -> tuple[list[dict[str, Drawn]], Tensor]:
    """Every method on one row, by every bench, and the first model's pictures."""
    judged: list[dict[str, Drawn]] = [{"real": bench.real} for bench in benches]
    if codec is not None:
        say("reconstruction")
        x = reconstruct(codec, benches[0].pixels)
        for found, bench in zip(judged, benches, strict=True):
            found["reconstruction"] = bench.of_real(x)
    refs, seed, first, nearest = benches[0].target.refs, benches[0].seed, None, None
    dealt = baselines.shuffle_captions(refs.families, np.random.default_rng(seed))  # as `drawn_by_all` deals them
    for name, x in drawn_by_all(refs, seed, models, rivals, n):
        first = x if first is None else first
        if name == "nearest1":
            nearest = x
        if name == "nearestk" and nearest is not None and torch.equal(x, nearest):
            continue  # with one picture a caption, filling up from the next caption is the same thing
        say(name)
        asked = refs.families[dealt] if name == SHUFFLED else None
        for found, bench in zip(judged, benches, strict=True):
            found[name] = bench.samples(x, asked)
    assert first is not None
    return judged, first


def _row(bench: SingleBench, split: str, drawn: Mapping[str, Drawn], models: Sequence[str]) -> SingleRow:
    first = bench.energy(drawn[models[0]])
    rivals = {name: d for name, d in drawn.items() if name not in (*BASES, models[0])}
    refs = bench.target.refs
    absent = {"score": NO_SCORE, "real_joint": NO_SECOND}
    if isinstance(bench.shuffled, str):
        absent["joint"] = bench.shuffled
    return SingleRow(
        split,
        len(refs),
        len(np.unique(refs.families)),
        sum(map(len, refs.rows)),
        bench.chance,
        {name: bench.figures(d) for name, d in drawn.items()},
        {name: bench.interval(first - bench.energy(d)) for name, d in rivals.items()},
        {name: bench.calibration(drawn[name]) for name in models},
        absent,
    )
