"""The tab Between: the pictures between two."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from bridge.serve.limits import CAPTION_LENGTH, MAX_SEED
from bridge.serve.said import said
from bridge.serve.studio import MOST_STEPS, Studio
from bridge.serve.tabs.common import PRIVATE, UNQUEUED, drawn_picture, owner_of, refusal, stopper, upload


class Between:
    """The pictures between two."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.pictures: list[gr.Image] = []
        self.captions: list[gr.Textbox] = []
        with gr.Tab("Between", id="between"):
            with gr.Row():
                for name in ("From", "To"):
                    with gr.Column(min_width=150):
                        self.pictures.append(upload(f"{name}: a picture", name.lower()))
                        box = gr.Textbox(
                            label=f"{name}: or a caption", max_length=CAPTION_LENGTH, elem_id=f"{name.lower()}-caption"
                        )
                        self.captions.append(box)
            with gr.Row():
                steps = gr.Slider(3, MOST_STEPS, 9, step=1, label="Pictures")
                kind = gr.Radio(
                    [("straight", "linear"), ("along the sphere", "spherical")], value="linear", label="Way"
                )
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)
            with gr.Row():
                go = gr.Button("Interpolate", variant="primary", elem_id="between-go", min_width=100)
                stop = gr.Button("Cancel", min_width=100)
            told = gr.HTML(said("Two pictures or captions, and what lies between them."))
            place = gr.Slider(0, 8, 4, step=1, label="Along the way", elem_id="along", visible=False)
            with gr.Row():
                frame = drawn_picture("Picture", "frame", height=260)
                moving = drawn_picture("GIF", "gif", height=260, kind="gif")
            line = drawn_picture("Strip", "strip")
            frames: gr.State = gr.State([])
        a, b = zip(self.pictures, self.captions, strict=True)
        outputs = [told, place, frame, moving, line, frames]
        go.click(self.walk, [*a, *b, steps, kind, seed], outputs, **PRIVATE)
        stop.click(stopper(studio), None, None, **UNQUEUED)
        place.input(self.step, [frames, place], frame, **UNQUEUED)

    async def walk(self, request: gr.Request, *values: Any) -> AsyncIterator[list[Any]]:
        """Frames, GIF and strip."""
        from_picture, from_text, to_picture, to_text, steps, kind, seed = values
        same = [gr.update()] * 5
        yield [said("Drawing…"), *same]
        try:
            ends = ((from_picture, from_text), (to_picture, to_text))
            frames, line, moving = await self.studio.walk(ends, steps, kind, seed, owner_of(request))
            middle = len(frames) // 2
            yield [
                said(f"{len(frames)} pictures; move the slider, or use its arrow keys."),
                gr.update(maximum=len(frames) - 1, value=middle, visible=True),
                gr.update(value=frames[middle], visible=True),
                gr.update(value=moving, visible=True),
                gr.update(value=line, visible=True),
                frames,
            ]
        except Exception as error:
            yield [refusal(error), *same]

    def step(self, frames: list[str], place: float) -> Any:
        """The picture under the slider."""
        return frames[max(0, min(int(place), len(frames) - 1))] if frames else gr.update()
