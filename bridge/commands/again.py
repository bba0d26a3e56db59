"""bridge redo."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bridge.commands.common import (
    UsageError,
    check_out,
    learn_model,
    load_model,
    one_line,
    prefixed,
    prepare_folder,
    writing,
)
from bridge.writing import tell

if TYPE_CHECKING:
    from PIL.Image import Image


def redo(args: argparse.Namespace) -> None:
    """Make a picture again from its own text chunks, and say whether it is the same.

    Raises:
        UsageError: Something is missing; nothing has been written then.
    """
    from bridge.again import remake  # noqa: PLC0415
    from bridge.images import read_facts, save_picture  # noqa: PLC0415

    check_out(args.out, {"PNG": args.png}, (".png", ".webp"))
    try:
        data = Path(args.png).read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"PNG: cannot read {args.png}: {why}; check the path") from None
    with prefixed("PNG"):
        facts = read_facts(data)
        if not facts:
            told = "another program may have taken its text chunks out"
            raise UsageError(f"PNG: {args.png} holds nothing that bridge wrote; {told}")
    pipe = load_model(args.model) if args.pairs is None else learn_model(args, "--pairs")
    with prefixed("PNG"):
        image = remake(pipe, facts)
    prepare_folder(args.out.parent)
    with writing("--out"):
        save_picture(image, args.out, facts)
    tell(_compared(image, data))
    print(one_line(args.out))


def _compared(image: "Image", data: bytes) -> str:
    """Whether a picture is that of a file, in words."""
    import io  # noqa: PLC0415

    import numpy as np  # noqa: PLC0415
    from PIL import Image as Pictures  # noqa: PLC0415

    with Pictures.open(io.BytesIO(data)) as before:
        if (before.mode, before.size) != (image.mode, image.size):
            return f"warning: it was {before.mode} of {before.size}, and is {image.mode} of {image.size}"
        difference = np.abs(np.asarray(before).astype(int) - np.asarray(image).astype(int))
    if not difference.any():
        return "the same, bit for bit"
    pixels = int(difference.any(-1).sum())
    why = "another machine, number of threads or version made it, or it was changed"
    return f"warning: {pixels} pixels differ, by up to {difference.max()} of 255; {why}"
