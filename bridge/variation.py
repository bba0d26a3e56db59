"""New pictures out of known ones: each in the shape and the colours of another that shows the same caption.

Six tractors in memory make thirty that nobody drew, as clean as the six, which parts of several side by side are not.

Source: free-form deformation, Rueckert et al. 1999, Nonrigid Registration Using Free-Form Deformations; a picture's few
    colours, replaced by another's, Chang et al. 2015, Palette-based Photo Recoloring.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from bridge.codecs import ImageCodec
from bridge.colours import from_oklab, oklab
from bridge.composition import DRAWN, DRAWN_AGAIN, drawings_of, on_white
from bridge.mappers.local import HALFWAY, Material, by_inverse_cdf

SIDE = 32  # At which shapes are compared, in pixels
CONTROLS = 6  # Of a deformation, along a side
STEPS, RATE = 60, 0.03  # Of Adam; the sides of a picture are at -1 and 1
STIFF, STEADY = 2.0, 0.02  # Penalties on bending and on the affine part
BLURRED = 9  # Width, in pixels, over which shapes are also compared, so that what lies apart attracts
COLOUR = 0.7  # Weight of a pixel's colour beside its opacity
COLOURS = 6  # Of a picture
KMEANS = 8  # Changes of pixels from which on the search for them goes on
STRIDE = 4  # Every so many pixels are read for them
RARE = 0.01  # Share of a picture from which on a colour counts
LIGHTNESS, PLACE, SHARE = 3.0, 0.6, 1.0  # Weights of what two colours differ in, beside hue and chroma
FAR = 0.6  # Sum of these from which on a colour is not replaced
SOFT = 0.04  # Distance, in Oklab, over which one colour's change passes into another's


class Palette(NamedTuple):
    """A picture's colours, at most COLOURS."""

    colours: np.ndarray  # In Oklab, (k, 3)
    share: np.ndarray  # Of what is drawn, (k,)
    place: np.ndarray  # Where they are on average, from -1 to 1, (k, 2)

    @classmethod
    def of(cls, drawing: np.ndarray) -> Self | None:
        """Of RGBA in [0, 1], (H, W, 4); None where nothing is drawn."""
        read = drawing[::STRIDE, ::STRIDE]
        seen = read[..., 3] > DRAWN
        points, at = read[seen, :3], 2 * np.argwhere(seen) / np.array(seen.shape) - 1
        if not len(points):
            return None
        pixels = Image.fromarray((points[None] * 255).round().astype(np.uint8))
        own = np.asarray(pixels.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=KMEANS))[0]
        count = np.bincount(own, minlength=COLOURS)
        sums = np.stack([np.bincount(own, x, COLOURS) for x in (*oklab(points).T, *at.T)], 1)
        kept = count > RARE * len(points)
        means = sums[kept] / count[kept, None]
        return cls(means[:, :3], count[kept] / len(points), means[:, 3:])

    def matched(self, other: Self) -> np.ndarray:
        """For each colour, the one of another palette that is as light, as frequent, and where it is, (k, 3).

        No two get the same one; those to which none is near stay.
        """
        apart = np.abs(self.colours[:, None] - other.colours)
        cost = LIGHTNESS * apart[..., 0] + np.linalg.norm(apart[..., 1:], axis=2)
        cost += PLACE * np.linalg.norm(self.place[:, None] - other.place, axis=2)
        cost += SHARE * np.abs(np.sqrt(self.share)[:, None] - np.sqrt(other.share))
        colours = self.colours.copy()
        while cost.min() < FAR:
            row, column = np.unravel_index(cost.argmin(), cost.shape)
            colours[row] = other.colours[column]
            cost[row], cost[:, column] = math.inf, math.inf
        return colours


def variations(draws: Sequence[tuple[Material, float]], codec: ImageCodec, novelty: float) -> Material | None:
    """Variations of pictures that a caption draws from; None where there are no two. `novelty` is above 0, up to 1.

    For each of up to ROOM draws, its number in [0, 1) chooses one of the material's pictures and another by inverse CDF
    of their weights. At novelty .5 a picture has another's colours and is halfway to its shape, at 1 all the way.
    """
    pairs = [(id(m), _pair(m.log_weight.double().exp().numpy(), u)) for m, u in draws]
    if all(first == second for _, (first, second) in pairs):
        return None
    latents = {(of, n): m.latents[n] for (m, _), (of, pair) in zip(draws, pairs, strict=True) for n in pair}
    drawings = dict(zip(latents, drawings_of(torch.stack([*latents.values()]), codec), strict=True))
    colours = {key: Palette.of(drawing.movedim(0, -1).numpy()) for key, drawing in drawings.items()}
    keys = [((of, first), (of, second)) for of, (first, second) in pairs]
    share = min(1.0, novelty / HALFWAY)
    coloured = torch.stack([recoloured(drawings[a], colours[a], colours[b], share) for a, b in keys])
    one, other = (torch.stack([drawings[pair[n]] for pair in keys]) for n in (0, 1))
    pictures = on_white(reshaped(coloured, one, other, novelty, opaque=not codec.draws_opacity))
    made = codec.refined(pictures.to(draws[0][0].latents), DRAWN_AGAIN).mean
    return Material(made, torch.full((len(draws),), -math.log(len(draws))))


def _pair(weight: np.ndarray, u: float) -> tuple[int, int]:
    """A picture in proportion to weights, by inverse CDF at u in [0, 1), and another one; the same if there is none."""
    first, rest = by_inverse_cdf(weight, u)
    others = np.where(np.arange(len(weight)) == first, 0, weight)
    return first, by_inverse_cdf(others, rest)[0] if others.any() else first


def recoloured(drawing: Tensor, own: Palette | None, other: Palette | None, share: float) -> Tensor:
    """A drawing (4, H, W) whose colours are moved towards another palette's, all the way at a share of 1."""
    if own is None or other is None:
        return drawing
    pixels = oklab(drawing[:3].movedim(0, -1).numpy())
    apart = np.square(pixels[..., None, :] - own.colours).sum(-1)
    near = np.exp((apart.min(-1, keepdims=True) - apart) / (2 * SOFT**2))
    moved = pixels + share * (near / near.sum(-1, keepdims=True)) @ (own.matched(other) - own.colours)
    return torch.cat([torch.from_numpy(from_oklab(moved)).movedim(-1, 0).to(drawing), drawing[3:]])


def reshaped(drawings: Tensor, first: Tensor, second: Tensor, share: float, *, opaque: bool = False) -> Tensor:
    """Drawings (B, 4, side, side), deformed as `first` is to look like `second`, all the way at a share of 1.

    Of `second` and its mirror image, the nearer is taken. Beyond the edge nothing is drawn or, if `opaque`, what is at
    the edge.
    """
    a, b, mirrored = (_shapes(x) for x in (first, second, second.flip(-1)))
    nearer = (a - mirrored).square().mean((1, 2, 3)) < (a - b).square().mean((1, 2, 3))
    beyond, side = "border" if opaque else "zeros", drawings.shape[-1]
    deformation = _deformation(a, torch.where(nearer.view(-1, 1, 1, 1), mirrored, b), beyond)
    grid = _grid(len(drawings), side) + share * deformation.at(side)
    multiplied = torch.cat([drawings[:, :3] * drawings[:, 3:], drawings[:, 3:]], 1)
    moved = F.grid_sample(multiplied, grid, "bicubic", beyond, align_corners=False).clamp(0, 1)
    return torch.cat([moved[:, :3] / moved[:, 3:].clamp(min=1e-3), moved[:, 3:]], 1).clamp(0, 1)


def _grid(count: int, side: int) -> Tensor:
    """Where the pixels of pictures are, (count, side, side, 2)."""
    return F.affine_grid(torch.eye(2, 3).expand(count, 2, 3), [count, 1, side, side], align_corners=False)


def _shapes(drawings: Tensor) -> Tensor:
    """What is compared of drawings (B, 4, side, side): small, and smaller still, (B, 8, SIDE, SIDE)."""
    colour, opacity = drawings[:, :3], drawings[:, 3:]
    small = F.interpolate(torch.cat([COLOUR * colour * opacity, opacity], 1), (SIDE, SIDE), mode="area")
    blurred = F.avg_pool2d(small, BLURRED, 1, BLURRED // 2)
    return torch.cat([small, 2 * blurred], 1)


class Deformation(NamedTuple):
    """Where pictures are read, in place of where they are."""

    bend: Tensor  # At CONTROLS points a side, (B, 2, CONTROLS, CONTROLS)
    affine: Tensor  # (B, 2, 3)

    def at(self, side: int) -> Tensor:
        """By how much, for each pixel, (B, side, side, 2)."""
        bent = F.interpolate(self.bend, (side, side), mode="bicubic", align_corners=True).movedim(1, -1)
        return bent + F.affine_grid(self.affine, [len(self.affine), 1, side, side], align_corners=False)


def _deformation(first: Tensor, second: Tensor, beyond: str) -> Deformation:
    """What makes some shapes look like others, both (B, C, SIDE, SIDE), without bending them too much."""
    with torch.inference_mode(False), torch.enable_grad():
        first, second, grid = first.clone(), second.clone(), _grid(len(first), SIDE)
        bend = torch.zeros(len(first), 2, CONTROLS, CONTROLS, requires_grad=True)
        affine = torch.zeros(len(first), 2, 3, requires_grad=True)
        deformation, optimizer = Deformation(bend, affine), torch.optim.Adam([bend, affine], RATE)
        for _ in range(STEPS):
            moved = F.grid_sample(first, grid + deformation.at(SIDE), padding_mode=beyond, align_corners=False)
            bending = bend.diff(dim=2).square().mean((1, 2, 3)) + bend.diff(dim=3).square().mean((1, 2, 3))
            loss = (moved - second).square().mean((1, 2, 3)) + STIFF * bending + STEADY * affine.square().mean((1, 2))
            bend.grad, affine.grad = torch.autograd.grad(loss.sum(), [bend, affine])
            optimizer.step()
        return Deformation(bend.detach(), affine.detach())
