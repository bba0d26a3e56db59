"""Pictures to judge: a pipeline's, or a folder's that `bridge generate` wrote; and sheets of them to look at."""

import contextlib
import copy
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bridge.errors import UserError
from bridge.images import flatten, to_pil, to_tensor
from bridge.manifest import MANIFEST
from bridge.mappers import LocalFlowMapper
from bridge.noise import generator_for
from bridge.pipeline import BridgePipeline
from eval.bench import Bench
from eval.data import Pictures, by_caption, by_two_artists, caption_number, first_by_hash, references
from eval.judge import Generate
from eval.page import Shown
from train.data.dataset import content_hash

NEIGHBOURS = ("familiar", "neighbour_temperature")
MEMORY = ("window", "perplexity", "lead", "strength", "begin")


def generate_with(pipe: BridgePipeline, seed: int = 0, settings: Mapping[str, Any] = {}) -> Generate:
    """A pipeline as the report wants it; `settings` are arguments of the call, None is the model's own.

    Noise is keyed by caption too: shared noise would make the captions' errors agree and intervals too narrow.
    """

    def generate(captions: Sequence[str], n: int) -> Tensor:
        chosen = pipe.resolve(**settings)
        jobs = [
            replace(job, generator=generator_for(seed, caption_number(c), job.index))  # the noise of earlier reports
            for c in captions
            for job in pipe.jobs([c], n, seed=caption_number(c) + seed, settings=chosen)
        ]
        pixels: Tensor = pipe.decode(pipe.sample(jobs, chosen), output_type="pt")
        return pixels.unflatten(0, (len(captions), n))

    return generate


def varied(pipe: BridgePipeline, settings: Mapping[str, float | None]) -> BridgePipeline:
    """The same model with other values of what no call takes; None keeps the model's.

    `window` is at t = 0, in grid positions; the one at t = 1 keeps step. Only a `LocalFlowMapper` has those of
    `MEMORY`, and only its correction the last two.
    """
    chosen: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    other = copy.copy(pipe)
    other.settings = replace(pipe.settings, **{name: chosen[name] for name in NEIGHBOURS if name in chosen})
    local = {name: chosen[name] for name in MEMORY if name in chosen}
    if not local:
        return other
    mapper = pipe.mapper
    if not isinstance(mapper, LocalFlowMapper):
        options = ", ".join(f"--{name}" for name in MEMORY)
        raise UserError(f"{options}: this model's {type(mapper).__name__} has none; leave them out")
    if mapper.network is None and local.keys() & {"strength", "begin"}:
        raise UserError("--strength, --begin: this model's local flow has no correction; leave them out")
    if "window" in local:
        local["window"] = tuple(s * local["window"] / mapper.window[0] for s in mapper.window)
    other.mapper = mapper.varied(**local)
    return other


@dataclass(frozen=True)
class Generated:
    """Pictures by caption. Build it with `Generated.load`; call it with captions and n."""

    folder: Path  # Where they are
    files: dict[str, list[str]]  # Of each caption, in the manifest's order, relative to `folder`
    models: list[str]  # Fingerprints of the models that made them

    @classmethod
    def load(cls, folder: str | Path) -> "Generated":
        """Read a folder's manifest; UserError if there is none, a line lacks a caption or a file, or a file is gone."""
        folder = Path(folder)
        manifest = folder / MANIFEST
        try:
            lines = manifest.read_text("utf-8-sig").split("\n")
        except FileNotFoundError as error:
            remedy = f"write it with bridge generate --captions FILE --out {folder}"
            raise UserError(f"model: {folder} has no {MANIFEST}; {remedy}") from error
        files: dict[str, list[str]] = defaultdict(list)
        models = set()
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            row = None
            with contextlib.suppress(json.JSONDecodeError):
                row = json.loads(line)
            if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("caption", "file")):
                raise UserError(f"{manifest}: line {number} has no caption and file; generate anew")
            if not (folder / row["file"]).is_file():
                raise UserError(f"{folder}: {row['file']} of {MANIFEST} is missing; generate it again")
            files[row["caption"]].append(row["file"])
            models.add(str(row.get("model", "unknown")))
        if not files:
            raise UserError(f"{manifest}: it is empty; generate some pictures first")
        return cls(folder, dict(files), sorted(models))

    def captions(self, n: int) -> frozenset[str]:
        """Those with at least n pictures."""
        return frozenset(caption for caption, files in self.files.items() if len(files) >= n)

    def __call__(self, captions: Sequence[str], n: int) -> Tensor:
        """The first n pictures of each caption, (captions, n, 3, H, W) in [0, 1], all of one size."""
        return torch.cat([self._pixels(f) for c in captions for f in self.files[c][:n]]).unflatten(0, (-1, n))

    def _pixels(self, file: str) -> Tensor:
        try:
            with Image.open(self.folder / file) as image:
                return to_tensor([flatten(image)])
        except (OSError, SyntaxError) as error:
            raise UserError(f"{self.folder}: {file} is damaged ({error}); delete it and generate it again") from error


def first_captions(pictures: Pictures, split: str, count: int) -> list[str]:
    """The first captions of a split by hash: of those by two artists, as in a report, or of all if they are too few."""
    groups = by_caption(pictures, pictures.where(split))
    if len(by_two_artists(pictures, groups)) >= 2:
        return list(first_by_hash(references(pictures, split), count).captions)
    return sorted(sorted(groups, key=lambda label: content_hash(label.encode()))[:count])


@dataclass(frozen=True)
class Gallery:
    """Collects the first captions of each row, by hash, as `evaluate` shows them: its `watch`."""

    captions: int  # So many of each row, at most
    generate: Generate  # Draws them, as it did for the report
    samples: int  # Pictures a caption
    note: Callable[[str], str | None]  # What the model says of a caption, if anything
    shown: dict[str, list[Shown]] = field(default_factory=dict)  # Sheets by row

    def __call__(self, row: str, bench: Bench) -> None:
        refs, pictures = first_by_hash(bench.refs, self.captions), bench.judge.pictures
        self.shown[row] = []
        drawn = self.generate(refs.captions, self.samples)
        for caption, x, own, artists in zip(refs.captions, drawn, refs.rows, refs.artists, strict=True):
            copied, nearest = bench.judge.copies(x)
            one_an_artist = own[np.sort(np.unique(artists, return_index=True)[1])]
            samples, near, real = to_pil(x), to_pil(pictures.pixels(nearest)), to_pil(pictures.pixels(one_an_artist))
            labels = pictures.label[nearest].tolist()
            self.shown[row].append(Shown(caption, samples, near, labels, copied.tolist(), real, self.note(caption)))
