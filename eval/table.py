"""A report as plain text, and as JSON."""

import dataclasses
import json
from typing import TYPE_CHECKING

from eval.metrics.bootstrap import Interval
from eval.report import Report, Row
from eval.single_report import SingleReport, SingleRow

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

COLUMNS = ("fit", "diversity", "joint", "score")
SINGLE_COLUMNS = ("fit", "diversity", "joint", "energy_score")


def to_json(report: "DataclassInstance") -> str:
    """Every figure of a report (any dataclass), indented, ending in a newline; the same report gives the same bytes.

    Raises:
        ValueError: A figure is not finite.
    """
    return json.dumps(dataclasses.asdict(report), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def to_text(report: Report | SingleReport) -> str:
    """One table a row of the report, headlines with their intervals."""
    lines = [f"split {report.split} · {report.samples} samples a caption · judge {report.extractor}"]
    if isinstance(report, SingleReport):
        lines.append(f"judged {report.judged}; 1 is not real pictures by other artists, and there is no score")
    if report.codec is not None:
        c = report.codec
        lines.append(
            f"codec, {c.pictures} held-out pictures: PSNR {_interval(c.psnr)} dB by family, "
            f"{c.psnr_pooled:.2f} dB pooled, sharpness {c.sharpness:.2f}"
        )
    for name, row in report.rows.items():
        lines += ["", *(_single_row(name, row) if isinstance(row, SingleRow) else _row(name, row))]
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


def _single_row(name: str, row: SingleRow) -> list[str]:
    lines = [
        f"{name}: {row.captions} captions of {row.families} families, {row.pictures} real pictures",
        f"{'':26}" + "".join(f"{c:>22}" for c in SINGLE_COLUMNS) + f"{'copies':>8}{'real?':>7}{'KID':>7}{'sharp':>7}",
    ]
    reasons: dict[tuple[str, str], list[str]] = {}
    for method, f in row.methods.items():
        headlines = "".join(f"{_or_absent(getattr(f, c)):>22}" for c in SINGLE_COLUMNS)
        kid, sharp = (f"{'absent' if v is None else format(v, '.2f'):>7}" for v in (f.kid, f.sharpness))
        lines.append(f"{method:26}{headlines}{f.copied.value:>8.3f}{f.realistic.value:>7.2f}{kid}{sharp}")
        for what, why in f.absent.items():
            if what not in row.absent:
                reasons.setdefault((method, why), []).append(what)
    model, *_ = [m for m in row.methods if m not in ("real", "reconstruction")]
    for other in ("ridge + Gaussian", "nearest1", "unconditional"):
        if other in row.energy_less:
            lines.append(f"energy score, {model} less {other}: {_interval(row.energy_less[other])} (below 0 is better)")
    lines += [f"{what}: absent, {why}" for what, why in row.absent.items()]
    return lines + [f"{method}: {', '.join(what)} absent, {why}" for (method, why), what in reasons.items()]


def _or_absent(i: Interval | None) -> str:
    return "absent" if i is None else _interval(i)


def _interval(i: Interval) -> str:
    return f"{i.value:.2f} [{i.low:.2f}, {i.high:.2f}]"
