"""python -m eval.sheets MODEL --data data/emoji --split seen --out docs/seen.png: unselected samples.

The first captions of a split by the hash of their label, one a family: nobody chose them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bridge.images import contact_sheet, save_png
from bridge.limits import MAX_IMAGES_PER_PROMPT
from bridge.pipeline import BridgePipeline
from eval.data import Pictures, first_by_hash, references
from train.command import Parser, run_command, whole, writable_file
from train.data.dataset import content_hash

NAME = "python -m eval.sheets"


def first_captions(pictures: Pictures, split: str, count: int) -> list[str]:
    """The first captions of a split by hash: of those that two artists drew, as in a report, or of all where none are.

    Raises:
        ValueError: The split has no pictures.
    """
    rows = pictures.where(split)
    drawn = {(str(pictures.label[i]), str(pictures.artist[i])) for i in rows}
    if len(drawn) > len({label for label, _ in drawn}) + 1:
        return list(first_by_hash(references(pictures, split), count).captions)
    labels = sorted({label for label, _ in drawn}, key=lambda label: content_hash(label.encode()))
    return sorted(labels[:count])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when the sheet is written, 2 for bad input."""
    parser = Parser(NAME, __doc__, f"{NAME} emoji --data data/emoji --split seen --out seen.png")
    parser.add_argument("model", help="a shipped model's name, a model folder, or a hub id")
    parser.add_argument("--data", type=Path, default=Path("data/emoji"), help="a dataset made by train.emoji")
    parser.add_argument("--split", default="seen", help="whose captions: seen, test, validation, …")
    parser.add_argument("--captions", type=whole(1), default=10, help="at most so many")
    parser.add_argument("-n", type=whole(1, MAX_IMAGES_PER_PROMPT), default=4, help="pictures a caption")
    parser.add_argument("--seed", type=whole(0), default=0, help="key of all randomness")
    parser.add_argument("--out", type=Path, required=True, help="PNG file")
    return run_command(parser, argv, _run)


def _run(args: argparse.Namespace) -> None:
    writable_file(args.out)
    pipe = BridgePipeline.from_pretrained(args.model)
    captions = first_captions(Pictures.load(args.data), args.split, args.captions)
    output = pipe(captions, args.n, seed=args.seed)
    rows = [output.images[i * args.n : (i + 1) * args.n] for i in range(len(captions))]
    notes = ["unknown to the model" if note else None for note in output.notes]
    save_png(contact_sheet(rows, captions, notes), args.out, {"model": pipe.fingerprint, "seed": args.seed})
    print(args.out)


if __name__ == "__main__":
    sys.exit(main())
