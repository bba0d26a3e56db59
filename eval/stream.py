"""What the judge sees of every method's pictures, a few captions at a time: the pictures themselves are not kept."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from torch import Tensor

from bridge.codecs import ImageCodec
from eval import baselines
from eval.baselines import Baselines, reconstruct
from eval.data import References
from eval.features import check_pictures
from eval.judge import Judge, Seen

Generate = Callable[[Sequence[str], int], Tensor]
"""Captions and n to pictures (captions, n, 3, H, W) in [0, 1]; a caption's n are independent draws, and depend on
no other caption."""

BLOCK = 32
"""Captions whose pictures are held at once."""
SHUFFLED, ONE_MODE, BLUR = "model, shuffled captions", "model, one mode", "model, blur"
"""What cheats would make of the first model's pictures."""


def drawn(name: str, generate: Generate, captions: Sequence[str], n: int) -> Iterator[Tensor]:
    """A model's pictures, (B, n, 3, H, W), block of captions by block.

    Raises:
        ValueError: They are not as promised.
    """
    for start in range(0, len(captions), BLOCK):
        some = captions[start : start + BLOCK]
        x = generate(some, n)
        if x.ndim != 5 or x.shape[:2] != (len(some), n):
            raise ValueError(f"models: {name!r} must give ({len(some)}, {n}, 3, H, W), gave {tuple(x.shape)}")
        check_pictures(x.flatten(0, 1))
        yield x.detach().cpu().float()


def seen_by(judges: Sequence[Judge], blocks: Iterable[Tensor]) -> list[Seen]:
    """What each judge sees of pictures that come in blocks (B, 3, H, W); each picture is made once."""
    return _joined([[judge.look(x) for judge in judges] for x in blocks])


def seen_of(judges: Sequence[Judge], name: str, generate: Generate, captions: Sequence[str], n: int) -> list[Seen]:
    """What each judge sees of a model's pictures, see `drawn`: n of each caption, caption by caption."""
    return seen_by(judges, (x.flatten(0, 1) for x in drawn(name, generate, captions, n)))


def seen_reconstructions(judges: Sequence[Judge], codec: ImageCodec, rows: np.ndarray) -> list[Seen]:
    """What each judge sees of what a codec makes of rows (R,) of the dataset."""
    return seen_by(judges, (reconstruct(codec, x) for x in judges[0].pictures.blocks(rows)))


def seen_by_all(
    judges: Sequence[Judge],
    refs: References,
    seed: int,
    models: Mapping[str, Generate],
    rivals: Baselines | None,
    n: int,
) -> Iterator[tuple[str, list[Seen]]]:
    """What each judge sees of models, of what cheats would make of the first one's pictures, and of the baselines.

    Args:
        judges: Of the same dataset.
        refs: The C captions asked for.
        seed: Of the cheats and the baselines; the shuffle is its first draw.
        models: By name, at least one.
        rivals: The baselines, if any.
        n: Pictures a caption.

    Yields:
        A method's name and C * n pictures by each judge, caption by caption.
    """
    rng = np.random.default_rng(seed)
    names = list(models)
    first, blurred = _first(judges, names[0], models[names[0]], refs.captions, n)
    yield names[0], first
    for name in names[1:]:
        yield name, seen_of(judges, name, models[name], refs.captions, n)
    rows = np.arange(len(refs) * n).reshape(len(refs), n)
    order = baselines.shuffle_captions(refs.families, rng)
    yield SHUFFLED, [seen[rows[order].ravel()] for seen in first]
    yield ONE_MODE, [seen[np.repeat(rows[:, 0], n)] for seen in first]
    yield BLUR, [seen[np.repeat(np.arange(len(refs)), n)] for seen in blurred]
    if rivals is None:
        return
    for name, z in rivals.latents(refs.captions, n, rng):
        blocks = (rivals.decode(z[start : start + BLOCK]).flatten(0, 1) for start in range(0, len(z), BLOCK))
        yield name, seen_by(judges, blocks)


def _first(
    judges: Sequence[Judge], name: str, generate: Generate, captions: Sequence[str], n: int
) -> tuple[list[Seen], list[Seen]]:
    """A model's pictures, and the mean of each caption's."""
    sharp, soft = [], []
    for x in drawn(name, generate, captions, n):
        sharp.append([judge.look(x.flatten(0, 1)) for judge in judges])
        soft.append([judge.look(x.mean(1)) for judge in judges])
    return _joined(sharp), _joined(soft)


def _joined(parts: Sequence[Sequence[Seen]]) -> list[Seen]:
    """Blocks by judge to one a judge."""
    return [Seen.cat(mine) for mine in zip(*parts, strict=True)]
