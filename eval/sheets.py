"""python -m eval.sheets MODEL --data data/emoji --split seen --out docs/seen.png: unselected samples.

The first captions of a split by the hash of their label, one a family: nobody chose them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bridge.images import contact_sheet, save_png
from bridge.pipeline import BridgePipeline
from eval.data import Pictures, first_by_hash, references
from train.data.dataset import content_hash


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
    parser = argparse.ArgumentParser(prog="python -m eval.sheets", description=__doc__)
    parser.add_argument("model", help="a shipped model's name, a model folder, or a hub id")
    parser.add_argument("--data", type=Path, default=Path("data/emoji"), help="a dataset made by train.emoji")
    parser.add_argument("--split", default="seen", help="whose captions: seen, test, validation, …")
    parser.add_argument("--captions", type=int, default=10)
    parser.add_argument("-n", type=int, default=4, help="pictures a caption")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="PNG file")
    args = parser.parse_args(argv)
    try:
        pipe = BridgePipeline.from_pretrained(args.model)
        captions = first_captions(Pictures.load(args.data), args.split, args.captions)
        output = pipe(captions, args.n, seed=args.seed)
    except (ValueError, FileNotFoundError) as error:
        print(f"python -m eval.sheets: {error}", file=sys.stderr)
        return 2
    rows = [output.images[i * args.n : (i + 1) * args.n] for i in range(len(captions))]
    notes = ["unknown to the model" if note else None for note in output.notes]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_png(contact_sheet(rows, captions, notes), args.out, {"model": pipe.fingerprint, "seed": args.seed})
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
