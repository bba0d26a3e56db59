"""A report as plain text, and as JSON."""

import dataclasses
import json
from typing import TYPE_CHECKING

from eval.bootstrap import Interval
from eval.report import Report, Row

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

COLUMNS = ("fit", "diversity", "joint", "score")


def to_json(report: "DataclassInstance") -> str:
    """Every figure of a report (any dataclass), indented, ending in a newline; the same report gives the same bytes.

    Raises:
        ValueError: A figure is not finite.
    """
    return json.dumps(dataclasses.asdict(report), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def to_text(report: Report) -> str:
    """One table a row of the report, headlines with their intervals."""
    lines = [f"split {report.split} · {report.samples} samples a caption · judge {report.extractor}"]
    if report.codec is not None:
        c = report.codec
        lines.append(
            f"codec, {c.pictures} held-out pictures: PSNR {_interval(c.psnr)} dB by family, "
            f"{c.psnr_pooled:.2f} dB pooled, sharpness {c.sharpness:.2f}"
        )
    for name, row in report.rows.items():
        lines += ["", *_row(name, row)]
    lines += [f"{name}: absent, {why}" for name, why in report.absent.items()]
    return "\n".join(lines)


def _row(name: str, row: Row) -> list[str]:
    lines = [
        f"{name}: {row.captions} captions of {row.families} families ({row.left_out} left out: one artist)",
        f"{'':26}" + "".join(f"{c:>22}" for c in COLUMNS) + f"{'copies':>8}{'real?':>7}{'KID':>7}{'sharp':>7}",
    ]
    for method, f in row.methods.items():
        headlines = "".join(f"{_interval(getattr(f, c)):>22}" for c in COLUMNS)
        beside = f"{f.copied.value:>8.3f}{f.realistic.value:>7.2f}{f.kid:>7.3f}{f.sharpness:>7.2f}"
        lines.append(f"{method:26}{headlines}{beside}")
    if row.real_joint is not None:
        where = f"two groups of artists, {row.real_joint_captions} captions"
        lines.append(f"joint of real pictures ({where}): {_interval(row.real_joint)}")
    model, *_ = [m for m in row.methods if m not in ("real", "reconstruction")]
    for other in ("ridge + Gaussian", "nearestk", "unconditional"):
        if other in row.energy_less:
            lines.append(
                f"energy distance, {model} less {other}: {_interval(row.energy_less[other])} (below 0 is better)"
            )
    return lines + [f"{what}: absent, {why}" for what, why in row.absent.items()]


def _interval(i: Interval) -> str:
    return f"{i.value:.2f} [{i.low:.2f}, {i.high:.2f}]"
