"""What the page says, as HTML in which a visitor's words are text and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridge.serve.studio import ScoredPicture

LONGEST = 300


def said(*lines: str, notes: Iterable[str] = (), link: str | None = None) -> str:
    """Lines, notes in grey below them, and a link that restores the settings."""
    parts = [f"<p>{_text(line)}</p>" for line in lines]
    parts += [f'<p class="note">{_text(note)}</p>' for note in notes]
    if link is not None:
        parts.append(f'<p><a href="?{escape(link)}">Link to these settings</a></p>')
    return _live(parts)


def wrong(message: str) -> str:
    """What is wrong with what a visitor asked for."""
    return _live([f'<p class="wrong">{_text(message[:1].upper() + message[1:])}</p>'])


def table(scored: Sequence[ScoredPicture], captions: Sequence[str], names: Sequence[str]) -> str:
    """Scores as a table, the best caption of each picture first, and the known captions nearest to it."""
    head = "<tr><th>Picture</th><th>Caption</th><th>Score</th><th>Typical</th></tr>"
    rows = [
        f"<tr{' class=best' if place == 0 else ''}><td>{_text(name)}</td><td>{_text(captions[k])}</td>"
        f'<td class="number">{picture.score[k]:.2f}</td><td class="number">{picture.typical[k]:.0%}</td></tr>'
        for name, picture in zip(names, scored, strict=True)
        for place, k in enumerate(picture.order)
    ]
    near = [
        f"<p>{_text(name)} is nearest to {_text(', '.join(picture.near))}.</p>"
        for name, picture in zip(names, scored, strict=True)
        if picture.near
    ]
    return f'<div class="scores"><table>{head}{"".join(rows)}</table>{"".join(near)}</div>'


def line_of(error: BaseException | None) -> str:
    """An error as one line of the log."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:LONGEST]}"


def _live(parts: Sequence[str]) -> str:
    return f'<div class="said" role="status" aria-live="polite">{"".join(parts)}</div>'


def _text(text: str) -> str:
    return escape(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")
