"""What the page's tabs are made of: fields, places for pictures, and handlers of events that tell what goes wrong."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal

import gradio as gr

from bridge.errors import UserError
from bridge.serve.limits import CAPTION_LENGTH, CAPTIONS, MAX_SEED
from bridge.serve.said import line_of, wrong
from bridge.serve.studio import Shown, Studio

LOG = logging.getLogger("bridge.serve")
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
UNQUEUED: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
SAVED = ["download", "fullscreen"]
"""What can be done with a picture in its place."""
Changes = AsyncIterator[dict[Any, Any]]
"""New values of the page's parts that change."""


def answering(told: gr.HTML, handler: Callable[..., Changes]) -> Callable[..., Changes]:
    """A handler of events that says in `told` what goes wrong."""

    @functools.wraps(handler)
    async def answer(*values: Any) -> Changes:
        try:
            async for changes in handler(*values):
                yield changes
        except Exception as error:
            yield {told: refusal(error)}

    return answer


def refusal(error: Exception) -> str:
    """What the page says of an error: what the visitor can mend; of a fault of ours the log has one line."""
    if isinstance(error, UserError):
        return wrong(str(error))
    LOG.error(line_of(error))
    return wrong("the server could not do that; try something else")


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
    elem_id = f"{name}-caption"
    return field, gr.Textbox(
        label=caption, max_length=CAPTION_LENGTH, elem_id=elem_id, placeholder=placeholder, render=False
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


def go_button(studio: Studio, label: str, name: str, variant: Literal["primary", "secondary"] = "primary") -> gr.Button:
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


def drawn_pictures(label: str, name: str, columns: int = 4, visible: bool = True) -> gr.Gallery:
    """Pictures that the server makes, side by side."""
    return gr.Gallery(
        label=label, show_label=False, columns=columns, height="auto", elem_id=name, format="png", buttons=SAVED,
        interactive=False, visible=visible, object_fit="contain",
    )  # fmt: skip


def gallery_of(shown: Sequence[Shown]) -> list[tuple[str, str]]:
    """Pictures as a gallery takes them, with their captions where these differ."""
    several = len({picture.caption for picture in shown}) > 1
    return [(picture.path, picture.caption if several else "") for picture in shown]


def owner_of(request: gr.Request) -> str:
    """Whose tab asks."""
    return str(request.session_hash or "")


def stopper(studio: Studio) -> Callable[[gr.Request], None]:
    """Stops whatever a tab waits for."""

    def stop(request: gr.Request) -> None:
        studio.batcher.cancel(owner_of(request))

    return stop
