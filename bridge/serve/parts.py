"""What the page's tabs are made of: fields, places for pictures, handlers of events, and text in HTML."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from html import escape
from typing import Any

import gradio as gr

from bridge.errors import UserError
from bridge.score import ScoreMatrix
from bridge.serve.limits import CAPTION_LENGTH, CAPTIONS, MAX_SEED
from bridge.serve.studio import Shown, Studio

LOG = logging.getLogger("bridge.serve")
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
UNQUEUED: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
SAVED = ["download", "fullscreen"]
"""What can be done with a picture in its place."""
LONGEST = 300
"""Characters of a visitor's text that the page repeats."""
Changes = AsyncIterator[dict[Any, Any]]
"""New values of the page's parts that change."""


# Handlers


def answering(message: gr.HTML, handler: Callable[..., Changes], working: str = "") -> Callable[..., Changes]:
    """A handler of events that says in `message` that it is `working`, and what goes wrong."""

    @functools.wraps(handler)
    async def answer(*values: Any) -> Changes:
        if working:
            yield {message: said(working)}
        try:
            async for changes in handler(*values):
                yield changes
        except UserError as error:
            yield {message: wrong(str(error))}
        except Exception as error:
            log_fault(error)
            yield {message: wrong("the server could not do that; try something else")}

    return answer


def log_fault(error: BaseException | None) -> None:
    """A fault of ours as one line of the log."""
    LOG.error("%s: %s", type(error).__name__, error)


def owner_of(request: gr.Request) -> str:
    """Whose tab asks."""
    return str(request.session_hash or "")


def stopper(studio: Studio) -> Callable[[gr.Request], None]:
    """Stops whatever a tab waits for."""

    def stop(request: gr.Request) -> None:
        studio.batcher.cancel(owner_of(request))

    return stop


# Fields and places for pictures


def start(name: str, picture: str, caption: str, placeholder: str | None = None) -> tuple[gr.Image, gr.Textbox]:
    """Fields for a picture and for a caption, with their labels, which `render` puts into their place.

    The picture's file is not decoded before `bridge.serve.limits.open_upload` has bounded it.
    """
    field = gr.Image(
        label=picture, type="filepath", height=220, sources=["upload", "clipboard"], image_mode=None,
        elem_id=f"{name}-picture", buttons=[], render=False,
    )  # fmt: skip
    # Gradio has checked that it is an upload of this page's. A subclass would be taken for a custom component.
    field.preprocess = lambda payload: None if payload is None else payload.path
    return field, gr.Textbox(
        label=caption, max_length=CAPTION_LENGTH, elem_id=f"{name}-caption", placeholder=placeholder, render=False
    )


def caption_lines(name: str, lines: int, placeholder: str | None = None, *, autofocus: bool = False) -> gr.Textbox:
    """A field for several captions."""
    return gr.Textbox(
        label="Captions, one a line", placeholder=placeholder, lines=lines, max_lines=CAPTIONS, elem_id=name,
        max_length=(CAPTION_LENGTH + 1) * CAPTIONS, autofocus=autofocus,
    )  # fmt: skip


def seed_field(value: int = 0) -> gr.Number:
    """A field for a seed."""
    return gr.Number(value, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)


def go_button(studio: Studio, label: str, name: str, variant: str = "primary") -> gr.Button:
    """A button that starts something, beside one that cancels whatever the tab waits for."""
    with gr.Row():
        go = gr.Button(label, variant=variant, elem_id=f"{name}-go", min_width=100)
        gr.Button("Cancel", elem_id=f"{name}-stop", min_width=100).click(stopper(studio), None, None, **UNQUEUED)
    return go


def drawn_picture(label: str, name: str, height: int | None = None, kind: str = "png") -> gr.Image:
    """A picture that the server makes, not seen before there is one; low ones can be looked at in full."""
    return gr.Image(
        label=label, show_label=height is not None, interactive=False, height=height, elem_id=name,
        elem_classes=None if height is None else "large", format=kind, visible=False, buttons=SAVED,
    )  # fmt: skip


def drawn_pictures(label: str, name: str, visible: bool = True) -> gr.Gallery:
    """Pictures that the server makes, side by side."""
    return gr.Gallery(
        label=label, show_label=False, columns=4, height="auto", elem_id=name, format="png", buttons=SAVED,
        interactive=False, visible=visible, object_fit="contain",
    )  # fmt: skip


def gallery_of(shown: Sequence[Shown]) -> list[tuple[str, str]]:
    """Pictures as a gallery takes them, with their captions where these differ."""
    several = len({picture.caption for picture in shown}) > 1
    return [(picture.path, picture.caption if several else "") for picture in shown]


# HTML in which a visitor's words are text and nothing else


def said(line: str, notes: Iterable[str] = (), link: str | None = None) -> str:
    """A line, notes in grey below it, and a link that restores the settings."""
    parts = [f"<p>{_text(line)}</p>", *(f'<p class="note">{_text(note)}</p>' for note in notes)]
    if link is not None:
        parts.append(f'<p><a href="?{escape(link)}">Link to these settings</a></p>')
    return _live("".join(parts))


def wrong(message: str) -> str:
    """What is wrong with what a visitor asked for."""
    return _live(f'<p class="wrong">{_text(message[:1].upper() + message[1:])}</p>')


def table(scores: ScoreMatrix, near: Sequence[Sequence[str]], names: Sequence[str]) -> str:
    """Scores of pictures of these `names` as a table, the best caption of each first; below it what each is `near`."""
    rows = ["<tr><th>Picture</th><th>Caption</th><th>Score</th><th>Typical</th></tr>"]
    for i, name in enumerate(names):
        for place, k in enumerate(scores.best_captions(i)):
            typical = "" if scores.typical is None else f"{float(scores.typical[i, k]):.0%}"
            rows.append(
                f"<tr{' class=best' if place == 0 else ''}><td>{_text(name)}</td><td>{_text(scores.captions[k])}</td>"
                f'<td class="number">{float(scores.score[i, k]):.2f}</td><td class="number">{typical}</td></tr>'
            )
    lines = [f"<p>{_text(n)} is nearest to {_text(', '.join(c))}.</p>" for n, c in zip(names, near, strict=True) if c]
    return f'<div class="scores"><table>{"".join(rows)}</table>{"".join(lines)}</div>'


def _live(html: str) -> str:
    return f'<div class="said" role="status" aria-live="polite">{html}</div>'


def _text(text: str) -> str:
    return escape(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")
