"""The tab Map: captions and pictures laid out by their latents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import gradio as gr

from bridge.serve.atlas import SIDES, Atlas, make_atlas
from bridge.serve.link import Fields
from bridge.serve.said import said
from bridge.serve.studio import Studio
from bridge.serve.tabs.common import PRIVATE, drawn_pictures, gallery_of, owner_of, refusal

ATLAS_DRAWN = 4
"""Pictures that a click draws."""


class Map:
    """Captions and pictures laid out by their latents."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.atlas: Atlas | None = None
        with gr.Tab("Map", id="map") as tab:
            told = gr.HTML(said("Laying out captions and pictures…"))
            with gr.Row():
                sides = [
                    gr.Image(
                        label=label,
                        show_label=False,
                        interactive=False,
                        elem_id=f"map-{side}",
                        elem_classes="atlas",
                        type="pil",
                        format="png",
                        buttons=[],
                    )
                    for side, label in zip(SIDES, ("By caption", "By picture"), strict=True)
                ]
            gallery = drawn_pictures("Drawn", "map-drawn", ATLAS_DRAWN, visible=False)
        tab.select(self.show, None, [told, *sides], **PRIVATE)
        for side, image in zip(SIDES, sides, strict=True):
            image.select(self._click(side), None, [told, *sides, gallery], **PRIVATE)

    async def show(self, request: gr.Request) -> list[Any]:
        """Both sides; they are laid out once."""
        try:
            atlas = await self._made(owner_of(request))
        except Exception as error:
            return [refusal(error), gr.update(), gr.update()]
        told = f"{len(atlas.captions)} captions that the model knows, left by their text, right by a picture of each: "
        return [said(f"{told}neighbours are alike. Click one to draw it."), *(atlas.page(side) for side in SIDES)]

    async def _made(self, owner: str) -> Atlas:
        if self.atlas is None:
            atlas = await self.studio.batcher.call(lambda: self.atlas or make_atlas(self.studio.pipe), owner)
            assert atlas is not None
            self.atlas = atlas
        return self.atlas

    def _click(self, side: str) -> Callable[..., AsyncIterator[list[Any]]]:
        async def click(event: gr.SelectData, request: gr.Request) -> AsyncIterator[list[Any]]:
            try:
                atlas = await self._made(owner_of(request))
                number = atlas.at(side, float(event.index[0]), float(event.index[1]))
                if number is None:
                    return
                caption = atlas.captions[number]
                near = [f"Near by {name}: {', '.join(atlas.near(name, number))}" for name in SIDES]
                pages = [atlas.page(name, number) for name in SIDES]
                yield [said(f"Drawing “{caption}”…", notes=near), *pages, gr.update()]
                asked = self.studio.request(
                    Fields(**{**vars(self.studio.default), "captions": caption, "count": ATLAS_DRAWN})
                )
                shown = [picture async for picture in self.studio.draw(asked, owner_of(request))]
                yield [said(f"“{caption}”", notes=near), *pages, gr.update(value=gallery_of(shown), visible=True)]
            except Exception as error:
                yield [refusal(error), *[gr.update()] * 3]

        return click
