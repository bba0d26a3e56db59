"""What tabs share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from bridge.errors import UserError
from bridge.serve.said import line_of, wrong
from bridge.serve.studio import Shown, Studio

LOG = logging.getLogger("bridge.serve")
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
UNQUEUED: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
SAVED = ["download", "fullscreen"]
"""What can be done with a picture in its place."""
FULL_REFUSED = "the server could not do that; try something else"


def upload(label: str, name: str) -> gr.Image:
    """A field for a picture, whose file is not decoded before `bridge.serve.limits.open_upload` has bounded it."""
    field = gr.Image(
        label=label,
        type="filepath",
        height=220,
        sources=["upload", "clipboard"],
        image_mode=None,
        elem_id=f"{name}-picture",
        buttons=[],
    )
    # Gradio has checked that it is an upload of this page's. A subclass would be taken for a custom component.
    field.preprocess = lambda payload: None if payload is None else payload.path
    return field


def drawn_picture(label: str, name: str, height: int | None = None, kind: str = "png") -> gr.Image:
    """A picture that the server makes, not seen before there is one; low ones can be looked at in full."""
    return gr.Image(
        label=label,
        show_label=height is not None,
        interactive=False,
        height=height,
        elem_id=name,
        elem_classes=None if height is None else "large",
        format=kind,
        visible=False,
        buttons=SAVED,
    )


def drawn_pictures(label: str, name: str, columns: int = 4, visible: bool = True) -> gr.Gallery:
    """Pictures that the server makes, side by side."""
    return gr.Gallery(
        label=label,
        show_label=False,
        columns=columns,
        height="auto",
        elem_id=name,
        format="png",
        buttons=SAVED,
        interactive=False,
        visible=visible,
        object_fit="contain",
    )


def owner_of(request: gr.Request) -> str:
    """Whose tab asks."""
    return str(request.session_hash or "")


def stopper(studio: Studio) -> Callable[[gr.Request], None]:
    """Stops whatever a tab waits for."""

    def stop(request: gr.Request) -> None:
        studio.batcher.cancel(owner_of(request))

    return stop


def refusal(error: Exception) -> str:
    """What the page says of an error: what the visitor can mend; of a fault of ours the log has one line."""
    if isinstance(error, UserError):
        return wrong(str(error))
    LOG.error(line_of(error))
    return wrong(FULL_REFUSED)


def gallery_of(shown: Sequence[Shown]) -> list[tuple[str, str]]:
    several = len({picture.caption for picture in shown}) > 1
    return [(picture.path, picture.caption if several else "") for picture in shown]
