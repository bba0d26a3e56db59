"""Tables as plain text."""

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column flush left, the others flush right, each as wide as it has to be.

    >>> table([("", "fit"), ("model", "0.5")])
    ['       fit', 'model  0.5']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [[row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))] for row in rows]
    return ["  ".join(row).rstrip() for row in cells]
