"""Charts of score against pairs, from results of `pairs`.

Reads the pairs.json of one run or several, and draws one chart for captions seen and one for captions held out.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from bridge.checkpoint import atomic_write
from bridge.errors import UserError
from eval.report import ROWS
from eval.studies import Study
from eval.studies.compare.pairs import Point, chart
from train.command import Parser, writable_file

ENDS = ("score", "low", "high")
"""What is drawn of a point's figures."""


def points_of(path: Path) -> list[Point]:
    """The points of a pairs.json.

    Raises:
        UserError: There is no such file, or it is none that `pairs` writes.
    """
    try:
        points = json.loads(path.read_text("utf-8"))["points"]
        read = [Point(p["mode"], p["method"], int(p["pairs"]), p["rows"], space=p.get("space", "")) for p in points]
        known = all(isinstance(f[end], int | float) for p in read for f in p.rows.values() for end in ENDS)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a pairs.json that `pairs` wrote") from error
    if not (read and known):
        raise UserError(f"{path}: holds no scores; give a pairs.json that `pairs` wrote")
    return read


def chosen(points: Sequence[Point], curves: Sequence[str] | None) -> list[Point]:
    """The points of some curves by their names in the legend, in that order; all of None."""
    names = list(dict.fromkeys(p.way for p in points))
    for name in curves or ():
        if name not in names:
            raise UserError(f"--curves: there is no {name!r}; there are: {'; '.join(names)}")
    return [p for name in curves or names for p in points if p.way == name]


def _arguments(parser: Parser) -> None:
    add, rows = parser.add_argument, list(ROWS["test"])
    add("results", type=Path, nargs="+", metavar="FILE", help="a pairs.json; of several, the points of all")
    add("--curves", nargs="+", metavar="NAME", help="as in the legend, such as 'bridge, no training'; default all")
    add("--rows", nargs="+", choices=rows, default=rows, metavar="ROW", help=f"of {', '.join(rows)}")
    add("--out", type=Path, required=True, metavar="PREFIX", help="charts are PREFIX-ROW.svg")


def _run(args: argparse.Namespace, _: str) -> None:
    points = chosen([p for path in args.results for p in points_of(path)], args.curves)
    rows = [row for row in args.rows if any(row in p.rows for p in points)]
    if not rows:
        raise UserError(f"--rows: no result has {' or '.join(args.rows)}")
    for row in rows:
        out = args.out.with_name(f"{args.out.name}-{row}.svg")
        writable_file(out)
        atomic_write(out, chart(points, row))
        print(out)


STUDY = Study(__doc__, "runs/pairs/pairs.json --out pairs", _arguments, _run)
