"""Captions and pictures of a model laid out by their latents: two grids of the same things, in two orders."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from bridge.images import WHITE, text_lines
from bridge.mappers import LocalFlowMapper
from bridge.pipeline import BridgePipeline

COLUMNS, ROWS = 6, 10
CELL = (116, 84)
"""Width and height of a cell, in pixels."""
NEAR = 5
SIDES = ("text", "picture")
_GREY, _CHOSEN = (225, 225, 225), (234, 88, 12)


@dataclass(frozen=True)
class Atlas:
    """N captions with a picture each; for each side their numbers row by row, and what they are laid out by, (N, D)."""

    captions: list[str]
    pictures: list[Image.Image]
    places: dict[str, list[int]]
    vectors: dict[str, Tensor]

    @property
    def columns(self) -> int:
        """Cells in a row."""
        return min(COLUMNS, len(self.captions))

    def at(self, side: str, x: float, y: float) -> int | None:
        """The number of the caption at a pixel of a page; None between the last and the end of the page."""
        column, row = int(x // CELL[0]), int(y // CELL[1])
        place = row * self.columns + column
        if not (0 <= column < self.columns and 0 <= place < len(self.captions)):
            return None
        return self.places[side][place]

    def near(self, side: str, number: int, count: int = NEAR) -> list[str]:
        """Captions nearest to one on a side, nearest first, without itself."""
        away = (self.vectors[side] - self.vectors[side][number]).square().sum(1)
        return [self.captions[n] for n in away.argsort(stable=True).tolist() if n != number][:count]

    def page(self, side: str, chosen: int | None = None) -> Image.Image:
        """A side as a picture: captions as text or as pictures, the chosen one and its nearest in frames."""
        rows = -(-len(self.captions) // self.columns)
        page = Image.new("RGB", (self.columns * CELL[0], rows * CELL[1]), WHITE)
        draw = ImageDraw.Draw(page)
        near = [] if chosen is None else self.near(side, chosen)
        for place, number in enumerate(self.places[side]):
            x, y = place % self.columns * CELL[0], place // self.columns * CELL[1]
            if side == "text":
                _write(draw, self.captions[number], x, y)
            else:
                small = self.pictures[number].resize((CELL[1] - 8, CELL[1] - 8), Image.Resampling.LANCZOS)
                page.paste(small, (x + (CELL[0] - small.width) // 2, y + 4))
            is_near = self.captions[number] in near
            colour, width = (_CHOSEN, 4) if number == chosen else (_CHOSEN, 1) if is_near else (_GREY, 1)
            draw.rectangle((x, y, x + CELL[0] - 1, y + CELL[1] - 1), outline=colour, width=width)
        return page


def make_atlas(pipe: BridgePipeline, most: int = COLUMNS * ROWS) -> Atlas:
    """The captions that most pictures in memory show, each with one of them; without such a memory, with a sample."""
    if isinstance(pipe.mapper, LocalFlowMapper):
        numbers, latents = _remembered(pipe.mapper, most)
    else:
        numbers = torch.linspace(0, len(pipe.memory) - 1, min(most, len(pipe.memory))).round().long()
        asked = [pipe.memory.captions[int(n)] for n in numbers]
        latents = pipe(asked, 1, seed=0, output_type="latent").images
    vectors = {"text": pipe.memory.codes[numbers], "picture": latents.flatten(1).cpu()}
    places = {side: grid(rows, COLUMNS) for side, rows in vectors.items()}
    return Atlas([pipe.memory.captions[int(n)] for n in numbers], pipe.decode(latents), places, vectors)


def _remembered(mapper: LocalFlowMapper, most: int) -> tuple[Tensor, Tensor]:
    """Numbers of captions and the latent of a picture of each: of the most shown, evenly."""
    link = mapper.link.cpu().long()
    counts = torch.bincount(link, minlength=len(mapper.codes))
    common = counts.argsort(descending=True, stable=True)[: 6 * most]
    common = common[counts[common] > 0]
    numbers = common[torch.linspace(0, len(common) - 1, min(most, len(common))).round().long()]
    first = torch.stack([(link == n).nonzero()[0, 0] for n in numbers])
    picture = torch.searchsorted(mapper.start.cpu().long(), first, right=True) - 1
    return numbers, mapper.picture_latents(picture.to(mapper.latents.device))


def grid(vectors: Tensor, columns: int) -> list[int]:
    """Numbers of vectors (N, D) row by row, so that what is near in the two widest directions is near in the grid.

    The first direction chooses the column, the second the row within it.
    """
    count = len(vectors)
    centred = vectors.double() - vectors.double().mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    along = centred @ directions[: min(2, len(directions))].T
    along = torch.cat([along, torch.zeros(count, 2 - along.shape[1], dtype=along.dtype)], 1)
    columns = min(columns, count)
    rows, rest = divmod(count, columns)
    by_first = along[:, 0].argsort(stable=True)
    cells: list[list[int]] = []
    for column in by_first.split([rows + (n < rest) for n in range(columns)]):
        cells.append(column[along[column, 1].argsort(stable=True)].tolist())
    return [cells[n % columns][n // columns] for n in range(count)]


def _write(draw: ImageDraw.ImageDraw, caption: str, x: int, y: int) -> None:
    font = ImageFont.load_default(19)
    lines = "\n".join(text_lines(caption, font, CELL[0] - 8)[:3])
    draw.multiline_text(
        (x + CELL[0] / 2, y + CELL[1] / 2), lines, fill=(30, 30, 30), font=font, anchor="mm", align="center"
    )
