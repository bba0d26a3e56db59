"""The tab Draw: captions to pictures."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import gradio as gr

from bridge.serve.limits import CAPTION_LENGTH, CAPTIONS, MAX_SEED, PICTURES
from bridge.serve.link import RANGES, Fields, restored
from bridge.serve.said import said, wrong
from bridge.serve.studio import Shown, Studio
from bridge.serve.tabs.around import Around
from bridge.serve.tabs.between import Between
from bridge.serve.tabs.common import UNQUEUED, drawn_pictures, gallery_of, owner_of, refusal, stopper

HOW = "Write a caption, then press Draw (or Shift and Enter)."


class Draw:
    """Captions to pictures."""

    def __init__(self, studio: Studio) -> None:
        self.studio, default = studio, studio.default
        with gr.Tab("Draw", id="draw"):
            with gr.Row():
                with gr.Column(scale=2, min_width=300):
                    captions = gr.Textbox(
                        label="Captions, one a line",
                        placeholder="a smiling cat",
                        lines=2,
                        max_lines=CAPTIONS,
                        max_length=(CAPTION_LENGTH + 1) * CAPTIONS,
                        elem_id="captions",
                        autofocus=True,
                    )
                    with gr.Row():
                        count = gr.Slider(1, PICTURES, default.count, step=1, label="Pictures")
                        seed = gr.Number(default.seed, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)
                    style = gr.Dropdown(
                        studio.style_choices or [("any", "")],
                        value=default.style,
                        label="Style",
                        visible=bool(studio.styles),
                    )
                    with gr.Accordion("More settings", open=False):
                        self._more(default)
                    with gr.Row():
                        self.go = gr.Button("Draw", variant="primary", elem_id="draw-go", min_width=100)
                        self.stop = gr.Button("Cancel", elem_id="draw-stop", min_width=100)
                with gr.Column(scale=3, min_width=320):
                    self.gallery = drawn_pictures("Pictures", "pictures")
                    self.said = gr.HTML(said(HOW))
                    with gr.Row(visible=False) as self.actions:
                        self.vary = gr.Button("Vary or edit", size="sm", min_width=110, elem_id="to-around")
                        self.from_ = gr.Button("Interpolate from", size="sm", min_width=110, elem_id="to-from")
                        self.to = gr.Button("Interpolate to", size="sm", min_width=110, elem_id="to-to")
                        self.save = gr.DownloadButton("Download", size="sm", min_width=110, elem_id="download")
            self.drawn: gr.State = gr.State([])
            self.chosen: gr.State = gr.State(0)
        self.fields: list[gr.components.Component] = [captions, count, seed, style, *self.more]

    def _more(self, default: Fields) -> None:
        studio = self.studio

        def slider(name: str, label: str, step: float, shown: bool) -> gr.Slider:
            low, high = RANGES[name]
            return gr.Slider(low, high, getattr(default, name), step=step, label=label, visible=shown)

        self.more: list[gr.components.Component] = [
            slider("guidance", "Guidance: more is closer to the caption", 0.1, studio.has_steps),
            slider("temperature", "Temperature: more is more variety", 0.05, True),
            slider("steps", "Steps", 1, studio.has_steps),
            slider("novelty", "Novelty: further from known pictures", 0.05, studio.has_novelty),
            slider("size", "Size in pixels", 1, studio.has_layers),
            gr.Checkbox(default.transparent, label="Transparent background", visible=studio.has_layers),
        ]

    def wire(self, tabs: gr.Tabs, between: Between, around: Around) -> None:
        """Connect the tab with itself and with the tabs that its pictures can go to."""
        shown = [self.gallery, self.said, self.actions, self.drawn, self.chosen]
        gr.on(
            [self.go.click, self.fields[0].submit],
            self.draw,
            self.fields,
            shown,
            api_name="draw",
            show_progress="hidden",
            concurrency_limit=None,
        )
        self.stop.click(stopper(self.studio), None, None, **UNQUEUED)
        picked = [self.chosen, self.save]
        self.gallery.select(self.pick, self.drawn, picked, **UNQUEUED)
        for button, tab, picture, caption in (
            (self.vary, "around", around.picture, around.caption),
            (self.from_, "between", between.pictures[0], between.captions[0]),
            (self.to, "between", between.pictures[1], between.captions[1]),
        ):
            send = _sender(tab)
            button.click(send, [self.drawn, self.chosen], [tabs, picture, caption], **UNQUEUED)

    def restore(self, request: gr.Request) -> list[Any]:
        """The fields as the link has them; without one they stay, for somebody may have begun to write."""
        if not request.query_params:
            return [gr.update()] * (len(self.fields) + 1)
        fields, left_out = restored(dict(request.query_params), self.studio.default, self.studio.styles or [""])
        told = (
            wrong("; ".join(left_out)) if left_out else said("Write a caption, then press Draw (or Shift and Enter).")
        )
        return [*vars(fields).values(), told]

    async def draw(self, request: gr.Request, *values: Any) -> AsyncIterator[list[Any]]:
        """Pictures as they are made."""
        try:
            fields = Fields(*values)
            asked = self.studio.request(fields)
            total = asked.count * len(asked.captions)
            before = self.studio.batcher.waiting
            queue = f"Waiting for {before} earlier requests…" if before else f"Drawing {total} pictures…"
            yield [[], said(queue), gr.update(visible=False), [], 0]
            shown: list[Shown] = []
            async for picture in self.studio.draw(asked, owner_of(request)):
                shown.append(picture)
                if len(shown) % 4 == 0 and len(shown) < total:
                    yield [gallery_of(shown), said(f"{len(shown)} of {total}"), gr.update(), shown, 0]
            notes = dict.fromkeys(f"{picture.caption}: {picture.note}" for picture in shown if picture.note)
            link = fields.query(self.studio.default)
            done = said(f"{total} pictures. Click one to vary it, edit it or download it.", notes=notes, link=link)
            yield [gallery_of(shown), done, gr.update(visible=True), shown, 0]
        except Exception as error:
            yield [gr.update(), refusal(error), gr.update(), gr.update(), gr.update()]

    def pick(self, drawn: list[Shown], event: gr.SelectData) -> list[Any]:
        """The picture that was clicked."""
        place = event.index if isinstance(event.index, int) and 0 <= event.index < len(drawn) else 0
        return [place, gr.update(value=drawn[place].path) if drawn else gr.update()]


def _sender(tab: str) -> Callable[[list[Shown], int], list[Any]]:
    """Opens another tab with the chosen picture."""

    def send(drawn: list[Shown], chosen: int) -> list[Any]:
        if not drawn:
            return [gr.update(), gr.update(), gr.update()]
        picture = drawn[min(int(chosen), len(drawn) - 1)]
        return [gr.update(selected=tab), picture.path, picture.caption]

    return send
