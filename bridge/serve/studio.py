"""What the page's tabs ask of the model. Nothing here knows of Gradio."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from bridge import explore
from bridge.arguments import number
from bridge.codecs.palette import PaletteCodec
from bridge.errors import UserError
from bridge.images import slug
from bridge.mappers import LocalFlowMapper, VelocityMapper
from bridge.mappers.local import NOT, RATHER_NOT
from bridge.pipeline import BridgePipeline
from bridge.serve.batching import Batcher, Request
from bridge.serve.limits import (
    RANGES,
    WAITING,
    Fields,
    captions_of,
    count_of,
    one_caption,
    open_upload,
    open_uploads,
    seed_of,
    style_of,
    whole_number,
)
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
    """A picture's file on the page, what it was asked to show ("" where nobody said), and why to trust it less."""

    path: str
    caption: str
    note: str | None = None


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


class Studio:
    """A model, its queue in which so many may be `waiting`, and the files that visitors see.

    Its methods raise UserError where a visitor's argument is missing, out of range or cannot be read.
    """

    def __init__(self, pipe: BridgePipeline, files: Files, waiting: int = WAITING) -> None:
        self.pipe, self.files, self.batcher = pipe, files, Batcher(pipe, waiting)
        local = isinstance(pipe.mapper, LocalFlowMapper)
        kinds = list(filter(None, pipe.mapper.config.styles)) if local else []
        own = pipe.settings.style
        self.styles: list[str] = ([own] if own and own not in kinds else []) + ["", *kinds] if kinds else []
        self.has_novelty, self.has_steps = local, isinstance(pipe.mapper, VelocityMapper)
        self.has_layers = isinstance(pipe.codec, PaletteCodec)
        known = set(pipe.memory.captions)
        self.directions = [entry for entry in DIRECTIONS if known >= set(entry[1:])]
        self._sorted = sorted(known, key=lambda caption: (len(caption), caption))
        # A caption's mean latent is kept for the next visitor.
        self._mean = functools.lru_cache(MEANS)(functools.partial(explore.caption_mean, pipe))
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
        words = {style: style.replace(RATHER_NOT, NOT).replace(NOT, "all but ", 1) for style in self.styles}
        words[""] = "any"
        return [(words[style], style) for style in self.styles]

    def complete(self, text: str, count: int = COMPLETIONS) -> list[str]:
        """Known captions that begin like a text, then those that hold it, the shortest first."""
        text = text[:100].strip().casefold()
        if len(text) < 2:
            return []
        begin = [caption for caption in self._sorted if caption.casefold().startswith(text)]
        inside = (caption for caption in self._sorted if f" {text}" in caption.casefold())
        return list(itertools.islice(dict.fromkeys(itertools.chain(begin, inside)), count))

    # Draw

    def request(self, fields: Fields) -> Request:
        """What the fields ask for."""
        captions = captions_of(fields.captions)
        for name in ("guidance", "temperature", "steps", "novelty", "size"):
            number(getattr(fields, name), name, *RANGES[name])
        settings = replace(
            self.pipe.settings,
            guidance_scale=fields.guidance if self.has_steps else 1.0,
            num_inference_steps=whole_number(fields.steps),
            temperature=fields.temperature,
            novelty=fields.novelty if self.has_novelty else 0.0,
            style=style_of(fields.style, self.styles or [""]),
        )
        size = whole_number(fields.size) if self.has_layers and fields.size != self.pipe.codec.image_size else None
        self.pipe.codec.check_render(size, fields.transparent)
        count, seed = count_of(fields.count, len(captions)), seed_of(fields.seed)
        return Request(tuple(captions), count, seed, settings, size=size, transparent=fields.transparent)

    async def draw(self, request: Request, owner: str) -> AsyncIterator[Shown]:
        """The pictures of a request, as files that tell how to make them again."""
        optional = {"size": request.size, "transparent": request.transparent or None, "negative": request.negative}
        told = {name: value for name, value in optional.items() if value is not None}
        told |= {"model": self.pipe.fingerprint, "seed": request.seed, **asdict(request.settings)}
        async with contextlib.aclosing(self.batcher.draw(request, owner)) as pictures:
            async for item in pictures:
                name = f"{slug(item.prompt)}-seed{item.seed}-{item.index:05d}.png"
                path = self.files.save(item.image, name, {"caption": item.prompt, "index": item.index, **told})
                yield Shown(path, item.prompt, item.note)

    # Between

    async def walk(
        self, ends: Sequence[tuple[str | None, str]], steps: object, kind: str, seed: object, owner: str
    ) -> tuple[list[str], str, str]:
        """Frames, strip and GIF of a walk between two ends, each an uploaded picture or a caption."""
        count = int(number(whole_number(steps), "pictures", 2, MOST_STEPS))
        seed = seed_of(seed)
        opened = [self._end(path, text, name, seed) for (path, text), name in zip(ends, ("from", "to"), strict=True)]

        def work() -> list[Image.Image]:
            a, b = (end() for end in opened)
            return self.pipe.decode(explore.between(self.pipe, a, b, count, kind=kind))

        frames = await self.batcher.call(work, owner)
        facts: dict[str, Any] = {"model": self.pipe.fingerprint, "kind": kind, "seed": seed}
        paths = [self.files.save(frame, f"frame-{number:02d}.png", facts) for number, frame in enumerate(frames)]
        gif = self.files.place("between.gif")
        save_gif(frames, gif)
        return paths, self.files.save(strip(frames), "strip.png", facts), str(gif)

    def _end(self, path: str | None, text: str, name: str, seed: int) -> Callable[[], explore.End]:
        """What opens, on the batcher's thread, a visitor's picture, or where there is none the caption."""
        caption = one_caption(text, name)
        if path:
            picture = open_upload(path, name, self.pipe.codec.image_size)
            return lambda: explore.picture_end(self.pipe, picture)
        if caption is None:
            raise UserError(f"{name}: choose a picture, or write a caption")
        return lambda: explore.caption_end(self.pipe, caption, seed)

    # Around

    async def vary(
        self, path: str | None, text: str, distance: object, count: object, seed: object, owner: str
    ) -> tuple[list[Shown], str | None]:
        """Variations of an uploaded picture, and what it is taken to show."""
        count, seed = count_of(count), seed_of(seed)
        start, caption = self._end(path, text, "picture", seed), one_caption(text, "picture")
        far = number(distance, "distance", 0, 1)

        def work() -> tuple[list[Image.Image], str | None]:
            end = start()
            shown = caption or explore.caption_shown(self.pipe, end)
            z = explore.vary(self.pipe, end, count, shown=shown, distance=far, seed=seed)
            return self.pipe.decode(z), shown

        images, shown = await self.batcher.call(work, owner)
        facts: dict[str, Any] = {"model": self.pipe.fingerprint, "distance": far, "seed": seed, "shown": shown or ""}
        paths = [self.files.save(image, f"variation-{n:02d}.png", facts) for n, image in enumerate(images)]
        return [Shown(path, shown or "") for path in paths], shown

    async def steer(
        self, path: str | None, text: str, amounts: Sequence[object], plus: str, minus: str, scale: object, owner: str
    ) -> str:
        """A picture moved along directions, and towards one caption and away from another; the path of its file."""
        start, caption = self._end(path, text, "picture", 0), one_caption(text, "picture")
        moves = [
            (number(amount, name, -2, 2), left, right)
            for amount, (name, left, right) in zip(amounts, self.directions, strict=True)
        ]
        more, less = one_caption(plus, "more of"), one_caption(minus, "less of")
        far = number(scale, "how much", 0, 2)

        def work() -> Image.Image:
            z = start().z
            for amount, left, right in moves:
                if amount:
                    z = explore.arithmetic(z, self._mean(right), self._mean(left), amount)
            if more or less:
                z = explore.arithmetic(z, self._mean(more), self._mean(less), far)
            return self.pipe.decode(z[None])[0]

        image = await self.batcher.call(work, owner)
        return self.files.save(image, "edit.png", {"model": self.pipe.fingerprint, "shown": caption or ""})

    # Score

    async def score(self, paths: Sequence[str] | None, text: str, owner: str) -> list[ScoredPicture]:
        """How well each uploaded picture fits each caption, and the known captions nearest to it."""
        captions, pictures = captions_of(text), open_uploads(paths, self.pipe.codec.image_size)

        def work() -> list[ScoredPicture]:
            found = self.pipe.score(pictures, captions)
            near = [explore.near_captions(self.pipe, explore.picture_end(self.pipe, p).z, NEAR) for p in pictures]
            typical = [[0.0] * len(captions)] * len(pictures) if found.typical is None else found.typical.tolist()
            return [
                ScoredPicture(found.score[i].tolist(), typical[i], found.best_captions(i), near[i])
                for i in range(len(pictures))
            ]

        return await self.batcher.call(work, owner)
