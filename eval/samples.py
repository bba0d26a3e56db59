"""Pictures to judge: a pipeline's, or a folder's that `bridge generate` wrote; and sheets of them to look at."""

import copy
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from bridge.errors import UserError
from bridge.images import contact_sheet, flatten, save_png, to_pil
from bridge.manifest import MANIFEST
from bridge.mappers import LocalFlowMapper
from bridge.noise import generator_for
from bridge.pipeline import BridgePipeline
from eval.bench import Bench
from eval.data import Pictures, caption_number, first_by_hash, references
from eval.page import Shown
from eval.stream import Generate
from train.data.dataset import content_hash

CHUNK = 64
NEIGHBOURS = ("familiar", "neighbour_temperature")
MEMORY = ("window", "perplexity", "strength", "begin")


def generate_with(pipe: BridgePipeline, seed: int = 0, settings: Mapping[str, Any] = {}) -> Generate:
    """A pipeline as the report wants it: captions and n to pictures (captions, n, 3, H, W).

    Noise is keyed by caption too: one seed's images share theirs across captions, which would make the captions' errors
    agree and every interval over captions too narrow. `settings` are arguments of the call; None is the model's own.
    """

    def generate(captions: Sequence[str], n: int) -> Tensor:
        parts = []
        for start in range(0, len(captions), CHUNK):
            some = list(captions[start : start + CHUNK])
            noise = [generator_for(seed, caption_number(c), i) for c in some for i in range(n)]
            images = pipe(some, n, generator=noise, output_type="pt", **settings).images
            parts.append(images.unflatten(0, (len(some), n)))
        return torch.cat(parts)

    return generate


def varied(pipe: BridgePipeline, settings: Mapping[str, float | None]) -> BridgePipeline:
    """The same model with other values of what no call takes; None keeps the model's.

    `familiar` and `neighbour_temperature` are `Settings`; `window` (at t = 0, in grid positions; the one at t = 1 keeps
    step), `perplexity`, `strength` and `begin` are a `LocalFlowMapper`'s alone, the last two of its correction.
    """
    chosen: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    other = copy.copy(pipe)
    other.settings = replace(pipe.settings, **{name: chosen[name] for name in NEIGHBOURS if name in chosen})
    if chosen.keys().isdisjoint(MEMORY):
        return other
    mapper = pipe.mapper
    if not isinstance(mapper, LocalFlowMapper):
        options = ", ".join(f"--{name}" for name in MEMORY)
        raise UserError(f"{options}: this model's {type(mapper).__name__} has none; leave them out")
    if mapper.network is None and chosen.keys() & {"strength", "begin"}:
        raise UserError("--strength, --begin: this model's local flow has no correction; leave them out")
    window = tuple(s * chosen["window"] / mapper.window[0] for s in mapper.window) if "window" in chosen else None
    other.mapper = mapper.varied(window=window, **{name: chosen[name] for name in MEMORY[1:] if name in chosen})
    return other


@dataclass(frozen=True)
class Generated:
    """Pictures by caption. Build it with `Generated.load`; call it with captions and n."""

    folder: Path  # Where they are
    files: dict[str, list[str]]  # Of each caption, in the manifest's order, relative to `folder`
    models: list[str]  # Fingerprints of the models that made them

    @classmethod
    def load(cls, folder: str | Path) -> "Generated":
        """Read a folder's manifest.

        Raises:
            UserError: There is no manifest, a line of it lacks a caption or a file, or a file is missing.
        """
        folder = Path(folder)
        try:
            lines = (folder / MANIFEST).read_text("utf-8-sig").split("\n")
        except FileNotFoundError as error:
            raise UserError(
                f"model: {folder} has no {MANIFEST}; write it with bridge generate --captions FILE --out {folder}"
            ) from error
        files: dict[str, list[str]] = defaultdict(list)
        models = set()
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("caption", "file")):
                raise UserError(f"{folder / MANIFEST}: line {number} has no caption and file; generate anew")
            if not (folder / row["file"]).is_file():
                raise UserError(f"{folder}: {row['file']} of {MANIFEST} is missing; generate it again")
            files[row["caption"]].append(row["file"])
            models.add(str(row.get("model", "unknown")))
        if not files:
            raise UserError(f"{folder / MANIFEST}: it is empty; generate some pictures first")
        return cls(folder, dict(files), sorted(models))

    def captions(self, n: int) -> frozenset[str]:
        """Captions with at least n pictures."""
        return frozenset(caption for caption, files in self.files.items() if len(files) >= n)

    def __call__(self, captions: Sequence[str], n: int) -> Tensor:
        """The first n pictures of each caption, (captions, n, 3, H, W) in [0, 1], all of one size."""
        return torch.stack([torch.stack([self._pixels(f) for f in self.files[c][:n]]) for c in captions])

    def _pixels(self, file: str) -> Tensor:
        try:
            with Image.open(self.folder / file) as image:
                array = np.asarray(flatten(image))
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise UserError(f"{self.folder}: {file} is damaged ({error}); delete it and generate it again") from error
        return torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255


def first_captions(pictures: Pictures, split: str, count: int) -> list[str]:
    """The first captions of a split by hash: of those by two artists, as in a report, or of all where none are."""
    rows = pictures.where(split)
    drawn = {(str(pictures.label[i]), str(pictures.artist[i])) for i in rows}
    if len(drawn) > len({label for label, _ in drawn}) + 1:
        return list(first_by_hash(references(pictures, split), count).captions)
    labels = sorted({label for label, _ in drawn}, key=lambda label: content_hash(label.encode()))
    return sorted(labels[:count])


def draw_sheet(pipe: BridgePipeline, captions: Sequence[str], n: int, seed: int, path: Path) -> None:
    """A contact sheet of n pictures of each caption; what the model does not know is marked."""
    output = pipe(list(captions), n, seed=seed)
    rows = [output.images[i * n : (i + 1) * n] for i in range(len(captions))]
    notes = ["unknown to the model" if note else None for note in output.notes]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(contact_sheet(rows, captions, notes), path, {"model": pipe.fingerprint, "seed": seed})


@dataclass(frozen=True)
class Gallery:
    """Collects the first captions of each row, by hash, as `evaluate` shows them: its `watch`."""

    captions: int  # So many of each row, at most
    generate: Generate  # Draws them, as it did for the report
    samples: int  # Pictures a caption
    notes: Callable[[Sequence[str]], list[str | None]]  # Captions to what the model says of each, if anything
    shown: dict[str, list[Shown]] = field(default_factory=dict)  # Sheets by row

    def __call__(self, row: str, bench: Bench) -> None:
        refs, pictures = bench.refs, bench.judge.pictures
        chosen = first_by_hash(refs, self.captions).captions
        self.shown[row] = []
        for caption, x, note in zip(chosen, self.generate(chosen, self.samples), self.notes(chosen), strict=True):
            i = refs.captions.index(caption)
            copied, nearest = bench.judge.copies(x)
            one_an_artist = np.sort(np.unique(refs.artists[i], return_index=True)[1])
            sheet = Shown(
                caption,
                to_pil(x),
                to_pil(pictures.pixels(nearest)),
                [str(label) for label in pictures.label[nearest]],
                [bool(c) for c in copied],
                to_pil(pictures.pixels(refs.rows[i][one_an_artist])),
                note,
            )
            self.shown[row].append(sheet)
