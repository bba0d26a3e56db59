"""One report: every headline of a model and of the obvious alternatives, on captions seen and held out."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bridge.codec import ImageCodec
from eval import baselines, joint, quality
from eval.bootstrap import Interval, paired_bootstrap
from eval.data import OPTIONAL, References
from eval.decoded import Baselines, EncodeText, reconstruct
from eval.features import check_pictures
from eval.headlines import Bench, Calibration, Figures, Judged
from eval.judge import Judge
from eval.single_space import SingleSpace

Generate = Callable[[Sequence[str], int], Tensor]
"""Captions and n to pictures (captions, n, 3, H, W) in [0, 1]; a caption's n are independent draws."""
Say = Callable[[str], None]
Watch = Callable[[str, Bench, Tensor], None]
"""Name of a row, its bench, and the first model's pictures of it, (captions, n, 3, H, W)."""

ROWS = {
    "validation": {"seen": "seen_validation", "held-out": "validation"},
    "test": {"seen": "seen", "held-out": "test"},
}
"""Rows of a report and the split of the data behind each."""
FAR_ROW, FAR = "far", 0.55
"""Held-out captions whose text code is below this cosine to every training caption's have a row of their own."""
SHUFFLED = "model, shuffled captions"
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
        watch: Shown the first model's pictures of each row.
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

        def show(x: Tensor, name: str = name, bench: Bench = benches[0], far: np.ndarray | None = far) -> None:
            watch(name, bench, x)
            if far is not None:
                watch(FAR_ROW, bench[far], x[far])

        judged = _judge_all(benches, models, rivals, n, say, show)
        for found, bench, methods in zip(rows, benches, judged, strict=True):
            found[name] = _row(bench, part, methods, list(models))
            if far is not None:
                found[FAR_ROW] = _row(bench[far], part, {m: j[far] for m, j in methods.items()}, list(models))
        if why is not None:
            absent[FAR_ROW] = why
    if not rows[0]:
        raise ValueError("; ".join(f"{name}: {why}" for name, why in absent.items()))
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
        raise ValueError(f"n must be at least 2 samples a caption, got {n}: one has no spread")
    if captions is not None and captions < 2:
        raise ValueError(f"captions: expected at least 2, got {captions}")


def codec_figures(judge: Judge, codec: ImageCodec, split: str, seed: int = 0) -> Codec:
    """PSNR and sharpness of a codec on all pictures of a split."""
    rows = judge.pictures.where(split)
    x = judge.pictures.pixels(rows)
    y = reconstruct(codec, x).numpy()
    error = quality.squared_error(y, x.numpy())
    return Codec(
        paired_bootstrap(error, judge.pictures.family[rows], lambda m: quality.psnr(m[..., 0]), seed=seed),
        float(quality.psnr(error.mean())),
        quality.sharpness_ratio(y, x.numpy()),
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
    except ValueError as error:
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
            f = bench.figures(bench.samples(_checked("model", generate(asked, n), len(asked), n)))
            values = (f.fit.value, f.diversity.value, f.joint.value, f.copied.value)
            points.setdefault(name, []).append(TradeOff(guidance, temperature, *values))
    return points


def _judge_all(
    benches: Sequence[Bench],
    models: Mapping[str, Generate],
    rivals: Baselines | None,
    n: int,
    say: Say,
    show: Callable[[Tensor], None],
) -> list[dict[str, Judged]]:
    """Every method on one row, by every bench: each picture is made once."""
    judged: list[dict[str, Judged]] = [{"real": bench.real} for bench in benches]
    if rivals is not None:
        say("reconstruction")
        x = reconstruct(rivals.codec, benches[0].pixels)
        for found, bench in zip(judged, benches, strict=True):
            found["reconstruction"] = bench.reconstructions(x)
    for name, x in drawn_by_all(benches[0].target.refs, benches[0].seed, models, rivals, n):
        say(name)
        if name == next(iter(models)):
            show(x)
        for found, bench in zip(judged, benches, strict=True):
            found[name] = bench.samples(x)
    return judged


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


def _row(bench: Bench, split: str, methods: Mapping[str, Judged], models: Sequence[str]) -> Row:
    first = methods[models[0]].per.energy
    rivals = {name: m for name, m in methods.items() if name not in (*BASES, models[0])}
    real_joint, count, absent = _real_joint(bench)
    refs = bench.target.refs
    return Row(
        split,
        len(refs),
        len(np.unique(refs.families)),
        len(refs.left_out),
        bench.interval(bench.target.unconditional),
        real_joint,
        count,
        {"real": bench.real_figures()} | {name: bench.figures(m) for name, m in methods.items() if name != "real"},
        {name: bench.interval(first - rival.per.energy) for name, rival in rivals.items()},
        {name: bench.calibration(methods[name]) for name in models},
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


def drawn_by_all(
    refs: References, seed: int, models: Mapping[str, Generate], rivals: Baselines | None, n: int
) -> Iterator[tuple[str, Tensor]]:
    """Models, what cheats would make of the first one's pictures, and the decoded baselines.

    Args:
        refs: The captions asked for.
        seed: Of the cheats and the baselines; the shuffle is its first draw.
        models: By name.
        rivals: The baselines, if any.
        n: Pictures a caption.
    """
    rng = np.random.default_rng(seed)
    captions, first = refs.captions, None
    for name, generate in models.items():
        x = _checked(name, generate(captions, n), len(captions), n)
        first = x if first is None else first
        yield name, x
    assert first is not None
    order = baselines.shuffle_captions(refs.families, rng)
    yield SHUFFLED, first[order]
    yield "model, one mode", torch.from_numpy(baselines.one_mode(first.numpy()))
    yield "model, blur", torch.from_numpy(baselines.blur(first.numpy()))
    if rivals is not None:
        yield from rivals.pictures(captions, n, rng)


def _checked(name: str, x: Tensor, captions: int, n: int) -> Tensor:
    if x.ndim != 5 or x.shape[:2] != (captions, n):
        raise ValueError(f"models: {name!r} must give ({captions}, {n}, 3, H, W), gave {tuple(x.shape)}")
    check_pictures(x.flatten(0, 1))
    return x.detach().cpu().float()
