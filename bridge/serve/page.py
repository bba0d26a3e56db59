"""The page: five tabs, and how it looks."""

from __future__ import annotations

from importlib.resources import files as resources
from typing import Any

import gradio as gr

from bridge.serve.studio import Studio
from bridge.serve.tabs.around import Around
from bridge.serve.tabs.between import Between
from bridge.serve.tabs.common import PRIVATE, stopper
from bridge.serve.tabs.drawing import Draw
from bridge.serve.tabs.map import Map
from bridge.serve.tabs.scoring import Score

TABS = 200
"""Tabs whose state is kept, the last used ones: Gradio never forgets one that was closed."""
FONTS = ["system-ui", "sans-serif"]


def build(studio: Studio) -> gr.Blocks:
    """The page of a model."""
    with gr.Blocks(title="Bridge", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML("<h1>Bridge</h1><p>Captions to several pictures, and what lies between them.</p>", elem_id="title")
        with gr.Tabs(elem_id="tabs") as tabs:
            draw = Draw(studio)
            between = Between(studio)
            around = Around(studio)
            Map(studio)
            Score(studio)
        draw.wire(tabs, between, around)
        page.load(draw.restore, None, [*draw.fields, draw.said], **PRIVATE)
        page.unload(stopper(studio))
    for field in page.blocks.values():
        if isinstance(field, gr.Slider | gr.Number | gr.Dropdown | gr.Radio):
            field.preprocess = _as_given
    page.state_session_capacity = TABS
    page.queue(default_concurrency_limit=None, max_size=4 * studio.batcher.most, api_open=False)
    return page


def _as_given(value: Any) -> Any:
    """What a field holds. It is checked by `bridge.serve.studio`, whose messages the page shows."""
    return value


def look() -> dict[str, Any]:
    """Theme, style sheet and script of the page; nothing of them comes from another host."""
    theme = gr.themes.Default(font=FONTS, font_mono=["ui-monospace", "monospace"])
    return {"theme": theme, "css": asset("page.css"), "head": f"<script>{asset('page.js')}</script>"}


def asset(name: str) -> str:
    """A file that belongs to the page."""
    return resources("bridge.serve").joinpath("assets", name).read_text("utf-8")
