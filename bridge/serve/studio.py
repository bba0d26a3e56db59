"""What the page's tabs ask of the model, and the files that visitors see. Nothing here knows of Gradio."""

import contextlib
import functools
import itertools
import secrets
import shutil
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image

from bridge import explore
from bridge.arguments import number, whole
from bridge.errors import UserError
from bridge.images import save_png, slug
from bridge.mappers import LocalFlowMapper, VelocityMapper
from bridge.mappers.local import NOT, RATHER_NOT
from bridge.pipeline import BridgePipeline
from bridge.score import ScoreMatrix
from bridge.serve import limits
from bridge.serve.batching import Batcher, Owner, Request
from bridge.serve.limits import Fields, captions_of, count_of, one_caption, open_upload, seed_of, whole_number
from bridge.writing import save_gif, strip

DIRECTIONS = (
    ("Skin tone: lighter to darker", "waving hand: light skin tone", "waving hand: dark skin tone"),
    ("Expression: crying to smiling", "crying face", "smiling face"),
    ("Colour: blue to red", "blue heart", "red heart"),
    ("Sky: moon to sun", "moon", "sun"),
)
"""Sliders: a name, and the captions at its left and right end; those are offered whose captions the model knows."""
MOST_STEPS = 24  # pictures of a walk
NEAR = 5  # nearest captions that are shown
COMPLETIONS = 8
MEANS = 64  # captions whose mean latents are kept for the next visitor
KEPT, SECONDS = 4000, 3600  # folders of `Files`


class Files:
    """Folders below `root` of names that nobody can guess: at most `kept`, each for so many `seconds`."""

    def __init__(self, root: Path, kept: int = KEPT, seconds: float = SECONDS) -> None:
        self.root, self.kept, self.seconds = root, kept, seconds
        root.mkdir()
        self._made: deque[tuple[float, Path]] = deque()
        self._lock = Lock()

    def place(self, name: str) -> Path:
        """Where a new file of that name may be written."""
        folder = self.root / secrets.token_urlsafe(24)
        with self._lock:
            now = time.monotonic()
            while self._made and (len(self._made) >= self.kept or now - self._made[0][0] > self.seconds):
                shutil.rmtree(self._made.popleft()[1], ignore_errors=True)
            self._made.append((now, folder))
        folder.mkdir()
        return folder / name

    def save(self, image: Image.Image, name: str, facts: Mapping[str, str | float | int] | None = None) -> str:
        """Write a PNG with `facts` as text chunks; returns its path."""
        path = self.place(name)
        save_png(image, path, facts or {})
        return str(path)


@dataclass(frozen=True)
class Shown:
    """A picture's file on the page, what it was asked to show ("" where nobody said), and why to trust it less."""

    path: str
    caption: str
    note: str | None = None


class Studio:
    """A model, its queue in which so many may be `waiting`, and the files that visitors see.

    Its methods raise UserError where a visitor's argument is missing, out of range or cannot be read.
    """

    def __init__(self, pipe: BridgePipeline, files: Files, waiting: int) -> None:
        self.pipe, self.files, self.batcher = pipe, files, Batcher(pipe, waiting)
        local, settings = isinstance(pipe.mapper, LocalFlowMapper), pipe.settings
        kinds = list(filter(None, pipe.mapper.config.styles)) if local else []
        own = [settings.style] if settings.style and settings.style not in kinds else []
        styles = [*own, "", *kinds] if kinds else [""]  # the model's own first
        self.styles = {style: style.replace(RATHER_NOT, NOT).replace(NOT, "all but ", 1) or "any" for style in styles}
        """Styles, and what they are called on the page."""
        self.has_novelty, self.has_steps = local, isinstance(pipe.mapper, VelocityMapper)
        self.has_layers = pipe.codec.draws_opacity
        known = set(pipe.memory.captions)
        self.directions = [entry for entry in DIRECTIONS if known >= set(entry[1:])]
        self._sorted = sorted(known, key=lambda caption: (len(caption), caption))
        self._mean = functools.lru_cache(MEANS)(functools.partial(explore.caption_mean, pipe))
        self.default = Fields(
            style=settings.style,
            guidance=settings.guidance_scale,
            temperature=settings.temperature,
            steps=int(settings.num_inference_steps),
            novelty=settings.novelty,
            size=pipe.codec.image_size,
        )

    def complete(self, text: str) -> list[str]:
        """Known captions that begin like a text, then those that hold it, the shortest first."""
        text = text[:100].strip().casefold()
        if len(text) < 2:
            return []
        begin = [caption for caption in self._sorted if caption.casefold().startswith(text)]
        inside = (caption for caption in self._sorted if f" {text}" in caption.casefold())
        return list(itertools.islice(dict.fromkeys(itertools.chain(begin, inside)), COMPLETIONS))

    def request(self, fields: Fields) -> Request:
        """What the fields of the tab Draw ask for."""
        captions = captions_of(fields.captions)
        for name in ("guidance", "temperature", "steps", "novelty", "size"):
            number(getattr(fields, name), name, *limits.RANGES[name])
        settings = replace(
            self.pipe.settings,
            guidance_scale=fields.guidance if self.has_steps else 1.0,
            num_inference_steps=whole_number(fields.steps),
            temperature=fields.temperature,
            novelty=fields.novelty if self.has_novelty else 0.0,
            style=limits.style_of(fields.style, self.styles),
        )
        size = whole_number(fields.size) if self.has_layers and fields.size != self.pipe.codec.image_size else None
        self.pipe.codec.check_render(size, fields.transparent)
        count, seed = count_of(fields.count, len(captions)), seed_of(fields.seed)
        return Request(tuple(captions), count, seed, settings, size=size, transparent=fields.transparent)

    async def draw(self, request: Request, owner: Owner) -> AsyncIterator[Shown]:
        """The pictures of a request, as files that tell how to make them again."""
        rendering = {"size": request.size, "transparent": request.transparent or None}
        facts: dict[str, Any] = {name: value for name, value in rendering.items() if value is not None}
        facts |= {"model": self.pipe.fingerprint, "seed": request.seed, **asdict(request.settings)}
        async with contextlib.aclosing(self.batcher.draw(request, owner)) as pictures:
            async for item in pictures:
                name = f"{slug(item.prompt)}-seed{item.seed}-{item.index:05d}.png"
                path = self.files.save(item.image, name, {"caption": item.prompt, "index": item.index, **facts})
                yield Shown(path, item.prompt, item.note)

    # The following is for the batcher's thread: see `Batcher.call`.

    def walk(
        self, from_picture: str | None, from_text: str, to_picture: str | None, to_text: str,
        steps: object, kind: str, seed: object,
    ) -> tuple[list[str], str, str]:  # fmt: skip
        """Frames, strip and GIF of a walk between two ends, each an uploaded picture or a caption."""
        count, seed = whole(whole_number(steps), "pictures", 2, MOST_STEPS), seed_of(seed)
        a, b = self._end(from_picture, from_text, "from", seed), self._end(to_picture, to_text, "to", seed)
        frames = self.pipe.decode(explore.between(self.pipe, a, b, count, kind=kind))
        facts: dict[str, Any] = {"model": self.pipe.fingerprint, "kind": kind, "seed": seed}
        paths = [self.files.save(frame, f"frame-{number:02d}.png", facts) for number, frame in enumerate(frames)]
        gif = self.files.place("between.gif")
        save_gif(frames, gif)
        return paths, self.files.save(strip(frames), "strip.png", facts), str(gif)

    def vary(
        self, path: str | None, text: str, distance: object, count: object, seed: object
    ) -> tuple[list[str], str | None]:
        """Variations of an uploaded picture or a caption, and what it is taken to show."""
        count, seed, far = count_of(count), seed_of(seed), number(distance, "distance", 0, 1)
        start = self._end(path, text, "picture", seed)
        shown = one_caption(text, "picture") or explore.caption_shown(self.pipe, start)
        images = self.pipe.decode(explore.vary(self.pipe, start, count, shown=shown, distance=far, seed=seed))
        facts: dict[str, Any] = {"model": self.pipe.fingerprint, "distance": far, "seed": seed, "shown": shown or ""}
        return [self.files.save(image, f"variation-{n:02d}.png", facts) for n, image in enumerate(images)], shown

    def steer(self, path: str | None, text: str, plus: str, minus: str, scale: object, *amounts: object) -> str:
        """A picture moved along directions, and towards one caption and away from another; the path of its file."""
        far, less, more = number(scale, "how much", 0, 2), one_caption(minus, "less of"), one_caption(plus, "more of")
        start = self._end(path, text, "picture", 0)
        z = start.z
        for amount, (name, left, right) in zip(amounts, self.directions, strict=True):
            if moved := number(amount, name, -2, 2):
                z = explore.arithmetic(z, self._mean(right), self._mean(left), moved)
        if far and (less or more):
            z = explore.edit(self.pipe, replace(start, z=z), more, less, scale=far)
        facts = {"model": self.pipe.fingerprint, "shown": one_caption(text, "picture") or ""}
        return self.files.save(self.pipe.decode(z[None])[0], "edit.png", facts)

    def score(self, paths: Sequence[str] | None, text: str) -> tuple[ScoreMatrix, list[list[str]]]:
        """How well each uploaded picture fits each caption, and the known captions nearest to each picture."""
        captions, size = captions_of(text), self.pipe.codec.image_size
        if not paths:
            raise UserError("pictures: choose one or more first")
        if len(paths) > limits.UPLOADS:
            raise UserError(f"pictures: at most {limits.UPLOADS} at a time")
        pictures = [open_upload(path, f"picture {n}", size) for n, path in enumerate(paths, 1)]
        latents = [explore.picture_end(self.pipe, picture).z for picture in pictures]
        return self.pipe.score(pictures, captions), [explore.near_captions(self.pipe, z, NEAR) for z in latents]

    def _end(self, path: str | None, text: str, name: str, seed: int) -> explore.End:
        """A visitor's picture, or where there is none the caption."""
        caption = one_caption(text, name)
        if path:
            return explore.picture_end(self.pipe, open_upload(path, name, self.pipe.codec.image_size))
        if caption is None:
            raise UserError(f"{name}: choose a picture, or write a caption")
        return explore.caption_end(self.pipe, caption, seed)
