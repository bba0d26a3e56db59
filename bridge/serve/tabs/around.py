"""The tab Around: variations of a picture, and directions from it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from bridge.serve.limits import CAPTION_LENGTH, MAX_SEED, PICTURES
from bridge.serve.said import said
from bridge.serve.studio import Studio
from bridge.serve.tabs.common import (
    PRIVATE,
    UNQUEUED,
    drawn_picture,
    drawn_pictures,
    gallery_of,
    owner_of,
    refusal,
    stopper,
    upload,
)


class Around:
    """What lies around a picture."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        with gr.Tab("Around", id="around"), gr.Row():
            with gr.Column(scale=2, min_width=300):
                self.picture = upload("A picture, or a caption below", "around")
                self.caption = gr.Textbox(
                    label="What it shows",
                    max_length=CAPTION_LENGTH,
                    elem_id="around-caption",
                    placeholder="as is nearest",
                )
                distance = gr.Slider(0, 1, 0.5, step=0.05, label="Distance", elem_id="distance")
                with gr.Row():
                    count = gr.Slider(1, PICTURES, 8, step=1, label="Variations")
                    seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)
                go = gr.Button("Vary", variant="primary", elem_id="around-go")
                amounts: list[gr.components.Component] = []
                for name, _, _ in studio.directions:
                    amounts.append(gr.Slider(-2, 2, 0, step=0.1, label=name))
                with gr.Row():
                    plus = gr.Textbox(label="More of", max_length=CAPTION_LENGTH, elem_id="plus")
                    minus = gr.Textbox(label="Less of", max_length=CAPTION_LENGTH, elem_id="minus")
                scale = gr.Slider(0, 2, 1, step=0.1, label="How much")
                with gr.Row():
                    edit = gr.Button("Edit", elem_id="around-edit", min_width=100)
                    stop = gr.Button("Cancel", min_width=100)
            with gr.Column(scale=3, min_width=320):
                told = gr.HTML(said("Choose a picture, then vary it, or move it with the sliders and press Edit."))
                gallery = drawn_pictures("Variations", "variations")
                edited = drawn_picture("Edited", "edited", height=280)
        start = [self.picture, self.caption]
        go.click(self.vary, [*start, distance, count, seed], [gallery, told], **PRIVATE)
        steered = [*start, plus, minus, scale, *amounts]
        edit.click(self.steer, steered, [edited, told], **PRIVATE)
        for amount in amounts:
            assert isinstance(amount, gr.Slider)
            amount.release(self.steer, steered, [edited, told], **PRIVATE)
        stop.click(stopper(studio), None, None, **UNQUEUED)

    async def vary(self, request: gr.Request, *values: Any) -> AsyncIterator[list[Any]]:
        """Variations."""
        path, text, distance, count, seed = values
        yield [gr.update(), said("Drawing…")]
        try:
            shown, caption = await self.studio.vary(path, text, distance, count, seed, owner_of(request))
            known = f"taken to show “{caption}”" if caption else "of which nothing is known"
            yield [gallery_of(shown), said(f"{len(shown)} variations of a picture {known}.")]
        except Exception as error:
            yield [gr.update(), refusal(error)]

    async def steer(self, request: gr.Request, *values: Any) -> AsyncIterator[list[Any]]:
        """The picture moved as the sliders and captions say."""
        path, text, plus, minus, scale, *amounts = values
        yield [gr.update(), said("Drawing…")]
        try:
            edited = await self.studio.steer(path, text, amounts, plus, minus, scale, owner_of(request))
            yield [gr.update(value=edited, visible=True), said("Edited.")]
        except Exception as error:
            yield [gr.update(), refusal(error)]
