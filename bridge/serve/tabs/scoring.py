"""The tab Score: how well pictures fit captions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from bridge.serve.limits import CAPTION_LENGTH, CAPTIONS, captions_of
from bridge.serve.said import said, table
from bridge.serve.studio import Studio
from bridge.serve.tabs.common import PRIVATE, UNQUEUED, owner_of, refusal, stopper


class Score:
    """How well pictures fit captions."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        with gr.Tab("Score", id="score"), gr.Row():
            with gr.Column(scale=2, min_width=300):
                pictures = gr.File(
                    label="Pictures",
                    file_count="multiple",
                    type="filepath",
                    elem_id="score-pictures",
                    file_types=["image"],
                )
                captions = gr.Textbox(
                    label="Captions, one a line",
                    lines=4,
                    max_lines=CAPTIONS,
                    elem_id="score-captions",
                    max_length=(CAPTION_LENGTH + 1) * CAPTIONS,
                )
                with gr.Row():
                    go = gr.Button("Score", variant="primary", elem_id="score-go", min_width=100)
                    stop = gr.Button("Cancel", min_width=100)
            with gr.Column(scale=3, min_width=320):
                told = gr.HTML(said("Which caption fits which picture: the best first."))
                scores = gr.HTML("", elem_id="scores")
        go.click(self.score, [pictures, captions], [told, scores], **PRIVATE)
        stop.click(stopper(studio), None, None, **UNQUEUED)

    async def score(self, paths: list[str] | None, text: str, request: gr.Request) -> AsyncIterator[list[Any]]:
        """The table."""
        yield [said("Scoring…"), gr.update()]
        try:
            scored = await self.studio.score(paths, text, owner_of(request))
            names = [str(path).replace("\\", "/").rsplit("/", 1)[-1] for path in paths or []]
            told = "Score: evidence for the caption, in nats. Typical: share of the model's own that fit no better."
            yield [said(told), table(scored, captions_of(text), names)]
        except Exception as error:
            yield [refusal(error), gr.update()]
