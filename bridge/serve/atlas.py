"""Captions and pictures of a model laid out by their latents: two grids of the same things, in two orders."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from bridge.images import WHITE, text_lines
from bridge.mappers import LocalFlowMapper
from bridge.pipeline import BridgePipeline

COLUMNS, ROWS = 6, 10
CELL = (116, 84)  # width and height in pixels
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

    def at(self, side: str, x: float, y: float) -> int | None:
        """The number of the caption at a pixel of a page; None between the last and the end of the page."""
        columns = min(COLUMNS, len(self.captions))
        column, row = int(x // CELL[0]), int(y // CELL[1])
        place = row * columns + column
        return self.places[side][place] if 0 <= column < columns and 0 <= place < len(self.captions) else None

    def near(self, side: str, number: int) -> list[str]:
        """The NEAR captions nearest to one on a side, nearest first, without itself."""
        away = (self.vectors[side] - self.vectors[side][number]).square().sum(1)
        return [self.captions[n] for n in away.argsort(stable=True).tolist() if n != number][:NEAR]

    def page(self, side: str, chosen: int | None = None) -> Image.Image:
        """A side as a picture: captions as text or as pictures, the chosen one and its nearest in frames."""
        columns, font = min(COLUMNS, len(self.captions)), ImageFont.load_default(19)
        page = Image.new("RGB", (columns * CELL[0], -(-len(self.captions) // columns) * CELL[1]), WHITE)
        draw = ImageDraw.Draw(page)
        near = [] if chosen is None else self.near(side, chosen)
        for place, number in enumerate(self.places[side]):
            x, y = place % columns * CELL[0], place // columns * CELL[1]
            if side == "text":
                lines = "\n".join(text_lines(self.captions[number], font, CELL[0] - 8)[:3])
                middle = (x + CELL[0] / 2, y + CELL[1] / 2)
                draw.multiline_text(middle, lines, fill=(30, 30, 30), font=font, anchor="mm", align="center")
            else:
                small = self.pictures[number].resize((CELL[1] - 8, CELL[1] - 8), Image.Resampling.LANCZOS)
                page.paste(small, (x + (CELL[0] - small.width) // 2, y + 4))
            is_near = self.captions[number] in near
            colour, width = (_CHOSEN, 4) if number == chosen else (_CHOSEN, 1) if is_near else (_GREY, 1)
            draw.rectangle((x, y, x + CELL[0] - 1, y + CELL[1] - 1), outline=colour, width=width)
        return page


def make_atlas(pipe: BridgePipeline) -> Atlas:
    """The captions that most pictures in memory show, each with one of them; without such a memory, with a sample."""
    if isinstance(pipe.mapper, LocalFlowMapper):
        numbers, latents = _remembered(pipe.mapper)
    else:
        numbers = _evenly(len(pipe.memory))
        asked = [pipe.memory.captions[int(n)] for n in numbers]
        latents = pipe(asked, 1, seed=0, output_type="latent").images
    vectors = {"text": pipe.memory.codes[numbers], "picture": latents.flatten(1).cpu()}
    places = {side: grid(rows, COLUMNS) for side, rows in vectors.items()}
    return Atlas([pipe.memory.captions[int(n)] for n in numbers], pipe.decode(latents), places, vectors)


def _evenly(count: int) -> Tensor:
    """Of `count` numbers from 0, those for the cells, evenly spread."""
    return torch.linspace(0, count - 1, min(COLUMNS * ROWS, count)).round().long()


def _remembered(mapper: LocalFlowMapper) -> tuple[Tensor, Tensor]:
    """Numbers of captions and the latent of a picture of each: of the most shown, evenly."""
    numbers, first, counts = np.unique(mapper.link.cpu().numpy(), return_index=True, return_counts=True)
    common = np.argsort(-counts, kind="stable")[: 6 * COLUMNS * ROWS]
    chosen = common[_evenly(len(common)).numpy()]
    picture = np.searchsorted(mapper.start.cpu().numpy(), first[chosen], side="right") - 1
    latents = mapper.picture_latents(torch.from_numpy(picture).to(mapper.latents.device))
    return torch.from_numpy(numbers[chosen]).long(), latents


def grid(vectors: Tensor, columns: int) -> list[int]:
    """Numbers of vectors (N, D) row by row, so that what is near in the two widest directions is near in the grid.

    The first direction chooses the column, the second the row within it.
    """
    centred = vectors.double() - vectors.double().mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    along = torch.zeros(len(vectors), 2, dtype=torch.float64)
    along[:, : len(directions[:2])] = centred @ directions[:2].T
    lines = along[:, 0].argsort(stable=True).tensor_split(columns)
    cells = [line[along[line, 1].argsort(stable=True)].tolist() for line in lines]
    return [cells[n % columns][n // columns] for n in range(len(vectors))]
