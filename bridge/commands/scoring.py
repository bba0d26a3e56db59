"""bridge score."""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bridge.commands.common import check_caption, field, load_model, prefixed, read_captions, words
from bridge.writing import tell

if TYPE_CHECKING:
    from bridge.score import ScoreMatrix


def score(args: argparse.Namespace) -> None:
    """bridge score.

    Raises:
        UsageError: An argument cannot be used; nothing has been printed then.
    """
    from bridge.images import read_image  # noqa: PLC0415
    from bridge.score import check_samples, resolve_method  # noqa: PLC0415
    from bridge.score import score as score_all  # noqa: PLC0415

    with words({"samples": "--samples"}):
        check_samples(args.samples)
    captions = read_captions([], args.captions)
    pipe = load_model(args.model)
    for caption in captions:
        check_caption("--captions", caption, pipe)
    with words({"model": "--model"}):
        method = resolve_method(pipe.mapper)
    with prefixed("IMAGE"):
        images = [read_image(name, size=pipe.codec.image_size) for name in args.image]
    found = score_all(pipe, images, captions, method=method, samples=args.samples, seed=args.seed)
    tell(f"scores by {method}; columns: file, caption, score, typical")
    for i, k in _ranked(found, args.by):
        last = [] if found.typical is None else [f"{float(found.typical[i, k]):.2f}"]
        print(field(args.image[i]), field(captions[k]), f"{float(found.score[i, k]):.3f}", *last, sep="\t")


def _ranked(found: "ScoreMatrix", by: str) -> Iterator[tuple[int, int]]:
    """Pairs (image, caption) in the order in which they are printed."""
    images, captions = found.score.shape
    if by == "image":
        yield from ((i, c) for i in range(images) for c in found.best_captions(i))
    else:
        yield from ((i, c) for c in range(captions) for i in found.best_images(c))
