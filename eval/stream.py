"""What the judge sees of every method's pictures, a few captions at a time: the pictures themselves are not kept."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from torch import Tensor

from bridge.codecs import ImageCodec
from eval.baselines import Baselines, reconstruct, shuffle_captions
from eval.bench import Bench, Judged
from eval.features import check_pictures
from eval.judge import Judge, Seen

Generate = Callable[[Sequence[str], int], Tensor]
"""Captions and n to pictures (captions, n, 3, H, W) in [0, 1]; a caption's n are independent draws, and depend on
no other caption."""

BLOCK = 32  # Captions whose pictures are held at once
SHUFFLED, ONE_MODE, BLUR = "model, shuffled captions", "model, one mode", "model, blur"
"""What cheats would make of the first model's pictures."""


def drawn(name: str, generate: Generate, captions: Sequence[str], n: int) -> Iterator[Tensor]:
    """A model's pictures, (B, n, 3, H, W), block of captions by block; ValueError if they are not as promised."""
    for start in range(0, len(captions), BLOCK):
        some = captions[start : start + BLOCK]
        x = generate(some, n)
        if x.ndim != 5 or x.shape[:2] != (len(some), n):
            raise ValueError(f"models: {name!r} must give ({len(some)}, {n}, 3, H, W), gave {tuple(x.shape)}")
        check_pictures(x.flatten(0, 1))
        yield x.detach().cpu().float()


def seen_by(judges: Sequence[Judge], blocks: Iterable[Tensor]) -> list[Seen]:
    """What each judge sees of pictures that come in blocks (B, 3, H, W); each picture is made once."""
    parts = [[judge.look(x) for judge in judges] for x in blocks]
    return [Seen.cat(mine) for mine in zip(*parts, strict=True)]


def seen_of(judges: Sequence[Judge], name: str, generate: Generate, captions: Sequence[str], n: int) -> list[Seen]:
    """What each judge sees of a model's pictures, see `drawn`: n of each caption, caption by caption."""
    return seen_by(judges, (x.flatten(0, 1) for x in drawn(name, generate, captions, n)))


def judged_by_all(
    benches: Sequence[Bench], models: Mapping[str, Generate], rivals: Baselines | None, codec: ImageCodec | None, n: int
) -> Iterator[tuple[str, list[Judged]]]:
    """Every method on one row, by every bench of the same captions; a method's pictures are made once and not kept.

    Real pictures, what the codec makes of them, models, what cheats would make of the first model's pictures, and the
    baselines. The shuffle is the first draw of the first bench's seed.
    """
    judges, first = [bench.judge for bench in benches], benches[0]
    captions, rng = first.refs.captions, np.random.default_rng(first.seed)

    def samples(seen: Sequence[Seen], asked: np.ndarray | None = None) -> list[Judged]:
        return [bench.samples(s, asked) for bench, s in zip(benches, seen, strict=True)]

    yield "real", [bench.real for bench in benches]
    if codec is not None:
        seen = seen_by(judges, (reconstruct(codec, x) for x in first.judge.pictures.blocks(first.rows)))
        yield "reconstruction", [bench.reconstructions(s) for bench, s in zip(benches, seen, strict=True)]
    soft: list[list[Seen]] = []
    (name, generate), *others = models.items()

    def with_blur() -> Iterator[Tensor]:
        for x in drawn(name, generate, captions, n):
            soft.append([judge.look(x.mean(1)) for judge in judges])
            yield x.flatten(0, 1)

    own = seen_by(judges, with_blur())
    yield name, samples(own)
    for other, make in others:
        yield other, samples(seen_of(judges, other, make, captions, n))
    rows, families = np.arange(len(captions) * n).reshape(len(captions), n), first.refs.families
    order = shuffle_captions(families, rng)
    yield SHUFFLED, samples([seen[rows[order].ravel()] for seen in own], families[order])
    yield ONE_MODE, samples([seen[np.repeat(rows[:, 0], n)] for seen in own])
    blurred = [Seen.cat(mine) for mine in zip(*soft, strict=True)]
    yield BLUR, samples([seen[np.repeat(np.arange(len(captions)), n)] for seen in blurred])
    nearest = np.empty(0)
    for baseline, z in () if rivals is None else rivals.latents(captions, n, rng):
        assert rivals is not None
        seen = seen_by(judges, (rivals.decode(z[i : i + BLOCK]).flatten(0, 1) for i in range(0, len(z), BLOCK)))
        if baseline == "nearest1":
            nearest = seen[0].late
        if baseline == "nearestk" and np.array_equal(seen[0].late, nearest):
            continue  # with one picture a caption, filling up from the next caption is the same thing
        yield baseline, samples(seen)
