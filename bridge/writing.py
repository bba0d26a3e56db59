"""Pictures on disk: each with its provenance, their manifest, a page of many, a strip. Importing this is cheap."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from bridge.checkpoint import atomic_write
from bridge.images import WHITE, contact_sheet, save_picture, save_png, slug
from bridge.manifest import Manifest
from bridge.streams import uninterrupted

if TYPE_CHECKING:
    from bridge.pipeline import BridgePipeline, GeneratedImage, Settings

# Settings that are written only where they are not at their default, so that names stay those of older versions
LATER = ("novelty", "style", "compose")
SHEET_ROWS, SHEET_IMAGES = 24, 48  # Most captions on a contact sheet, and images of one caption
GAP = 2  # White pixels between the frames of a strip
FRAME_MS = 80  # Milliseconds that a frame of a GIF is shown


class Writer:
    """Writes images below the folder of a manifest, each with its provenance, and lists them there.

    A file's name carries seed, index, and six digits of what else made it (model, settings, negative caption, size,
    transparency, `more`), so that a second seed, other settings or another model add pictures and never overwrite one.
    `kind` is "png" or "webp".
    """

    def __init__(
        self,
        manifest: Manifest,
        pipe: BridgePipeline,
        settings: Settings,
        negative: str | None,
        size: int | None = None,
        transparent: bool = False,
        kind: str = "png",
        more: Mapping[str, Any] | None = None,
    ) -> None:
        self.manifest, self.kind = manifest, kind
        defaults = {name: getattr(type(settings), name) for name in LATER} | {"size": None, "transparent": False}
        chosen = {**asdict(settings), "size": size, "transparent": transparent}
        self.facts: dict[str, Any] = {"model": pipe.fingerprint, "negative": negative}
        self.facts |= {name: value for name, value in chosen.items() if name not in defaults or value != defaults[name]}
        self.facts |= more or {}
        self.key = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:6]

    def write(self, item: GeneratedImage, svg: str | None = None) -> Path:
        """Write one image, its tracing `svg` and its line of the manifest, all or none; returns the image's path.

        Raises UserError if the manifest has become one that bridge did not write, OSError if a file cannot be written.
        """
        file = Path(slug(item.prompt)) / f"seed{item.seed}-{item.index:05d}-{self.key}.{self.kind}"
        facts = {"caption": item.prompt, "seed": item.seed, "index": item.index, **self.facts}
        path = self.manifest.path.parent / file
        with uninterrupted():
            path.parent.mkdir(parents=True, exist_ok=True)
            new = not path.exists()
            save_picture(item.image, path, {k: v for k, v in facts.items() if v is not None})
            try:
                if svg is not None:
                    atomic_write(path.with_suffix(".svg"), svg, durable=False)
                self.manifest.add({"file": file.as_posix(), **facts, "note": item.note})
            except BaseException:
                if new:
                    path.unlink(missing_ok=True)
                    path.with_suffix(".svg").unlink(missing_ok=True)
                raise
        return path


class Sheet:
    """Collects the first images of the first captions for one page; few fonts draw emoji, so these are words."""

    def __init__(self, captions: Sequence[str], count: int) -> None:
        self.captions, self.count = captions, count
        self.columns = min(count, 8)
        self.each = min(count, SHEET_IMAGES if len(captions) == 1 else self.columns)
        self.rows: list[list[Image.Image]] = []
        self.notes: list[str | None] = []

    def add(self, item: GeneratedImage) -> None:
        """Keep the image if the sheet has room for it."""
        if item.prompt_index >= SHEET_ROWS or item.index >= self.each:
            return
        if item.index == 0:
            self.rows.append([])
            self.notes.append(brief(item.note))
        self.rows[-1].append(item.image)

    def save(self, out: Path, seed: int, key: str) -> Path:
        """Write the page into `out`; says on standard error what it leaves out. Returns its path."""
        shown = list(self.captions[: len(self.rows)])
        if len(shown) < len(self.captions) or self.each < self.count:
            images, captions = f"{self.each} of {self.count} images", f"{len(shown)} of {len(self.captions)} captions"
            tell(f"the contact sheet shows {images} of {captions}")
        name = slug("\n".join(self.captions))
        path = out / f"sheet-{name}-seed{seed}-{key}.png"
        save_png(contact_sheet(self.rows, shown, self.notes, columns=self.columns), path, {"seed": seed})
        return path


def brief(note: str | None) -> str | None:
    """What of a note on a caption a contact sheet has room for.

    >>> brief("composed of 'a cat' and 'a ball': memory shows them one by one, not together")
    "composed of 'a cat' and 'a ball'"
    """
    first = (note or "").partition(":")[0]
    return "unknown to the model" if first.startswith("not among the captions") else first or None


def tell(message: str) -> None:
    """One line on standard error."""
    print(f"bridge: {message}", file=sys.stderr)


def strip(frames: Sequence[Image.Image]) -> Image.Image:
    """Frames of one size side by side, from left to right, on white."""
    width, height = frames[0].size
    page = Image.new("RGB", ((width + GAP) * len(frames) - GAP, height), WHITE)
    for place, frame in enumerate(frames):
        page.paste(frame, (place * (width + GAP), 0))
    return page


def save_gif(frames: Sequence[Image.Image], out: Path) -> None:
    """Write frames of one size as an endless GIF, there and back again."""
    buffer = io.BytesIO()
    first, *others = [*frames, *frames[-2:0:-1]]
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=FRAME_MS, loop=0)
    atomic_write(out, buffer.getvalue(), durable=False)


def save_walk(
    frames: Sequence[Image.Image], weights: Sequence[float], out: Path, folder: Path | None, facts: Mapping[str, Any]
) -> list[Path]:
    """Write the strip of a walk and, into `folder` if it is given, its frames; returns the files.

    Each has `facts` as text chunks, a frame also its number and its weight, 0 to 1.
    """
    save_png(strip(frames), out, facts)
    written = [out]
    for number, (frame, weight) in enumerate(zip(frames, weights, strict=True)):
        if folder is not None:
            written.append(folder / f"{out.stem}-{number:04d}.png")
            save_png(frame, written[-1], {**facts, "frame": number, "weight": weight})
    return written
