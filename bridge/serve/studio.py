"""What the page's tabs ask of the model. Nothing here knows of Gradio."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from bridge import explore
from bridge.arguments import number
from bridge.codecs.palette import PaletteCodec
from bridge.errors import UserError
from bridge.images import slug
from bridge.mappers import LocalFlowMapper, VelocityMapper
from bridge.mappers.local import NOT
from bridge.pipeline import BridgePipeline, GeneratedImage
from bridge.serve.batching import Batcher, Request
from bridge.serve.limits import (
    captions_of,
    check_uploads,
    count_of,
    one_caption,
    open_upload,
    seed_of,
    whole_number,
)
from bridge.serve.link import RANGES, Fields
from bridge.writing import save_gif, strip

if TYPE_CHECKING:
    from bridge.serve.files import Files

DIRECTIONS = (
    ("Skin tone: lighter to darker", "waving hand: light skin tone", "waving hand: dark skin tone"),
    ("Expression: crying to smiling", "crying face", "smiling face"),
    ("Colour: blue to red", "blue heart", "red heart"),
    ("Sky: moon to sun", "moon", "sun"),
)
"""Sliders: a name, and the captions at its left and right end; those are offered whose captions the model knows."""
MOST_STEPS = 24
"""Pictures of a walk."""
NEAR = 5
"""Nearest captions that are told."""
COMPLETIONS = 8
MEANS = 64
"""Captions whose mean latents are kept."""


@dataclass(frozen=True)
class Shown:
    """A picture on the page.

    Attributes:
        path: Its file.
        caption: What it was asked to show; "" where nobody said.
        note: Why to trust it less, or None.
    """

    path: str
    caption: str
    note: str | None = None


class Studio:
    """A model, its queue, and the files that visitors see.

    Args:
        pipe: The model.
        files: Where pictures go.
        waiting: See `Batcher`.
    """

    def __init__(self, pipe: BridgePipeline, files: Files, waiting: int | None = None) -> None:
        self.pipe, self.files = pipe, files
        self.batcher = Batcher(pipe) if waiting is None else Batcher(pipe, waiting)
        local = isinstance(pipe.mapper, LocalFlowMapper)
        kinds = list(filter(None, pipe.mapper.config.styles)) if local else []
        own = pipe.settings.style
        self.styles: list[str] = ([own] if own and own not in kinds else []) + ["", *kinds] if kinds else []
        self.has_novelty, self.has_steps = local, isinstance(pipe.mapper, VelocityMapper)
        self.has_layers = isinstance(pipe.codec, PaletteCodec)
        known = set(pipe.memory.captions)
        self.directions = [entry for entry in DIRECTIONS if known >= set(entry[1:])]
        self._sorted = sorted(known, key=lambda caption: (len(caption), caption))
        self._means: OrderedDict[str, torch.Tensor] = OrderedDict()
        settings = pipe.settings
        self.default = Fields(
            style=settings.style,
            guidance=settings.guidance_scale,
            temperature=settings.temperature,
            steps=int(settings.num_inference_steps),
            novelty=settings.novelty,
            size=pipe.codec.image_size,
        )

    @property
    def style_choices(self) -> list[tuple[str, str]]:
        """Styles, and what they are called on the page; the model's own first."""
        words = {style: style.replace(NOT, "all but ", 1) for style in self.styles} | {"": "any"}
        return [(words[style], style) for style in self.styles]

    def close(self) -> None:
        """Stop working, and remove the files."""
        self.batcher.close()
        self.files.close()

    def complete(self, text: str, count: int = COMPLETIONS) -> list[str]:
        """Known captions that begin like a text, then those that hold it, the shortest first."""
        text = text[:100].strip().casefold()
        if len(text) < 2:
            return []
        begin = [caption for caption in self._sorted if caption.casefold().startswith(text)][:count]
        more = count - len(begin)
        inside = (caption for caption in self._sorted if f" {text}" in caption.casefold()) if more else ()
        return begin + [caption for caption, _ in zip((c for c in inside if c not in begin), range(more), strict=False)]

    # Draw

    def request(self, fields: Fields) -> Request:
        """What the fields ask for.

        Raises:
            UserError: One of them is out of range.
        """
        captions = captions_of(fields.captions)
        for name in ("guidance", "temperature", "steps", "novelty", "size"):
            number(getattr(fields, name), name, *RANGES[name])
        settings = replace(
            self.pipe.settings,
            guidance_scale=fields.guidance if self.has_steps else 1.0,
            num_inference_steps=whole_number(fields.steps),
            temperature=fields.temperature,
            novelty=fields.novelty if self.has_novelty else 0.0,
            style=self._style(fields.style),
        )
        size = whole_number(fields.size) if self.has_layers and fields.size != self.pipe.codec.image_size else None
        self.pipe.codec.check_render(size, fields.transparent)
        count = count_of(fields.count, len(captions))
        return Request(
            tuple(captions), count, seed_of(fields.seed), settings, size=size, transparent=fields.transparent
        )  # fmt: skip

    def _style(self, style: object) -> str:
        if style not in (self.styles or [""]):
            raise UserError("style: is none that this model knows")
        return str(style)

    async def draw(self, request: Request, owner: str) -> AsyncIterator[Shown]:
        """The pictures of a request, as files that tell how to make them again."""
        settings = asdict(request.settings)
        optional = {"size": request.size, "transparent": request.transparent or None, "negative": request.negative}
        told = {name: value for name, value in optional.items() if value is not None}
        pictures = self.batcher.draw(request, owner)
        try:
            async for item in pictures:
                facts = {"caption": item.prompt, "seed": request.seed, "index": item.index, **self._model(), **settings}
                yield self._shown(item, {**facts, **told})
        finally:
            await pictures.aclose()  # type: ignore[attr-defined]

    def _model(self) -> dict[str, Any]:
        return {"model": self.pipe.fingerprint}

    def _shown(self, item: GeneratedImage, facts: dict[str, Any]) -> Shown:
        name = f"{slug(item.prompt)}-seed{item.seed}-{item.index:05d}.png"
        return Shown(self.files.save(item.image, name, facts), item.prompt, item.note)

    # Between

    async def walk(
        self, ends: Sequence[tuple[str | None, str]], steps: object, kind: str, seed: object, owner: str
    ) -> tuple[list[str], str, str]:
        """Frames, strip and GIF of a walk between two ends, each an uploaded picture or a caption.

        Raises:
            UserError: An end is missing or cannot be read, or another argument is out of range.
        """
        count = int(number(whole_number(steps), "pictures", 2, MOST_STEPS))
        seed = seed_of(seed)
        given = [self._end(path, text, name) for (path, text), name in zip(ends, ("from", "to"), strict=True)]

        def work() -> list[Image.Image]:
            a, b = (self._open(picture, caption, seed) for picture, caption in given)
            return self.pipe.decode(explore.between(self.pipe, a, b, count, kind=kind))

        frames = await self.batcher.call(work, owner)
        facts = {**self._model(), "kind": kind, "seed": seed}
        paths = [self.files.save(frame, f"frame-{number:02d}.png", facts) for number, frame in enumerate(frames)]
        gif = self.files.place("between.gif")
        save_gif(frames, gif)
        return paths, self.files.save(strip(frames), "strip.png", facts), str(gif)

    def _end(self, path: str | None, text: str, name: str) -> tuple[Image.Image | None, str | None]:
        caption = one_caption(text, name)
        if path:
            return open_upload(path, name, self.pipe.codec.image_size), caption
        if caption is None:
            raise UserError(f"{name}: choose a picture, or write a caption")
        return None, caption

    def _open(self, picture: Image.Image | None, caption: str | None, seed: int) -> explore.End:
        if picture is None:
            assert caption is not None
            return explore.caption_end(self.pipe, caption, seed)
        return explore.picture_end(self.pipe, picture)

    # Around

    async def vary(
        self, path: str | None, text: str, distance: object, count: object, seed: object, owner: str
    ) -> tuple[list[Shown], str | None]:
        """Variations of an uploaded picture, and what it is taken to show.

        Raises:
            UserError: The picture cannot be read, or an argument is out of range.
        """
        picture, caption = self._end(path, text, "picture")
        count, seed = count_of(count), seed_of(seed)
        far = number(distance, "distance", 0, 1)

        def work() -> tuple[list[Image.Image], str | None]:
            start = self._open(picture, caption, seed)
            shown = caption or explore.caption_shown(self.pipe, start)
            z = explore.vary(self.pipe, start, count, shown=shown, distance=far, seed=seed)
            return self.pipe.decode(z), shown

        images, shown = await self.batcher.call(work, owner)
        facts = {**self._model(), "distance": far, "seed": seed, "shown": shown or ""}
        paths = [self.files.save(image, f"variation-{n:02d}.png", facts) for n, image in enumerate(images)]
        return [Shown(path, shown or "") for path in paths], shown

    async def steer(
        self, path: str | None, text: str, amounts: Sequence[object], plus: str, minus: str, scale: object, owner: str
    ) -> str:
        """A picture moved along directions, and towards one caption and away from another; the path of its file.

        Raises:
            UserError: See `vary`.
        """
        picture, caption = self._end(path, text, "picture")
        moves = [
            (number(amount, name, -2, 2), left, right)
            for amount, (name, left, right) in zip(amounts, self.directions, strict=True)
        ]
        more, less = one_caption(plus, "more of"), one_caption(minus, "less of")
        far = number(scale, "how much", 0, 2)

        def work() -> Image.Image:
            z = self._open(picture, caption, 0).z
            for amount, left, right in moves:
                if amount:
                    z = explore.arithmetic(z, self._mean(right), self._mean(left), amount)
            if more or less:
                z = explore.arithmetic(z, self._mean(more), self._mean(less), far)
            return self.pipe.decode(z[None])[0]

        image = await self.batcher.call(work, owner)
        return self.files.save(image, "edit.png", {**self._model(), "shown": caption or ""})

    def _mean(self, caption: str | None) -> torch.Tensor:
        """A caption's mean latent, kept for the next visitor."""
        key = caption or ""
        if key not in self._means:
            self._means[key] = explore.caption_mean(self.pipe, caption)
            while len(self._means) > MEANS:
                self._means.popitem(last=False)
        return self._means[key]

    # Score

    async def score(self, paths: Sequence[str] | None, text: str, owner: str) -> list[ScoredPicture]:
        """How well each uploaded picture fits each caption, and the known captions nearest to it.

        Raises:
            UserError: There are none, too many, or one cannot be read.
        """
        captions, files = captions_of(text), check_uploads(paths)
        side = self.pipe.codec.image_size
        pictures = [open_upload(path, f"picture {n}", side) for n, path in enumerate(files, 1)]

        def work() -> list[ScoredPicture]:
            found = self.pipe.score(pictures, captions)
            near = [explore.near_captions(self.pipe, explore.picture_end(self.pipe, p).z, NEAR) for p in pictures]
            typical = [[0.0] * len(captions)] * len(pictures) if found.typical is None else found.typical.tolist()
            return [
                ScoredPicture(found.score[i].tolist(), typical[i], found.best_captions(i), near[i])
                for i in range(len(pictures))
            ]

        return await self.batcher.call(work, owner)


@dataclass(frozen=True)
class ScoredPicture:
    """Scores of one picture, a caption each; see `bridge.score.ScoreMatrix`.

    Attributes:
        score: Higher fits better.
        typical: Share of the model's own pictures of the caption that score no higher.
        order: Captions, best first.
        near: Known captions of the pictures in memory nearest to it.
    """

    score: list[float]
    typical: list[float]
    order: list[int]
    near: list[str]
