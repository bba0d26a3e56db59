"""New pictures out of known ones: each in the shape and the colours of another that shows the same caption, and morphs.

Six tractors in memory make thirty that nobody drew, as clean as the six, which parts of several side by side are not.

Source: free-form deformation, Rueckert et al. 1999, Nonrigid Registration Using Free-Form Deformations; a picture's few
    colours, replaced by another's, Chang et al. 2015, Palette-based Photo Recoloring; one picture deformed into another
    while it passes into it, Beier & Neely 1992, Feature-Based Image Metamorphosis.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from bridge.codecs import ImageCodec
from bridge.colours import from_oklab, oklab
from bridge.composition import DRAWN, drawings_of, multiplied, on_white, straight
from bridge.mappers.local import SAME, Material, by_inverse_cdf

NEAR = 0.3  # Share of the greatest weight, or of its root, from which on a picture is varied, or lends to another
SPREAD = 0.25  # By which pictures of the same two differ in shape
TOGETHER = 4  # Pictures made at a time
REFINED = 6  # Steps of `ImageCodec.refined`: few, since a caption waits for them
SIDE = 32  # At which shapes are compared, in pixels
CONTROLS = 6  # Of a deformation, along a side
STEPS, RATE = 60, 0.03  # Of Adam; the sides of a picture are at -1 and 1
STIFF, STEADY = 2.0, 0.04  # Penalties on bending and on the affine part
LOOSE = 0.15  # Factor on both in a morph, whose pictures are to meet half-way
BLURRED = 9  # Width, in pixels, over which shapes are also compared, so that what lies apart attracts
COLOUR = 0.7  # Weight of a pixel's colour beside its opacity
COLOURS = 6  # Of a picture
KMEANS = 8  # Changes of pixels from which on the search for them goes on
STRIDE = 4  # Every so many pixels are read for them
RARE = 0.01  # Share of a picture from which on a colour counts
LIGHTNESS, PLACE, SHARE = 3.0, 0.6, 1.0  # Weights of what two colours differ in, beside hue and chroma
FAR = 0.6  # Sum of these from which on a colour is not replaced
SOFT = 0.04  # Distance, in Oklab, over which one colour's change passes into another's
COARSE = 2  # Every so many pixels are read for whether a colour is plain to see; the widths below are in these
NARROW, AROUND, BORDER = 5, 5, 3  # Of lines, which are judged apart; of a part with what is beside it, and what passes
SMALLER = (1.4, 1.2, 1.0)  # How many times smaller a picture may be drawn, the last that fits being taken
CUT = 0.02  # Share of a picture's edge at which more may be drawn than was
PASSING = 0.2  # Share of a morph's way, around its middle, on which one picture passes into the other
PLAIN = 0.7  # Share of its contrast with what is beside it that a colour keeps, or it stays


class Palette(NamedTuple):
    """A picture's colours, at most COLOURS."""

    colours: np.ndarray  # In Oklab, (k, 3)
    share: np.ndarray  # Of what is drawn, (k,)
    place: np.ndarray  # Where they are on average, from -1 to 1, (k, 2)

    @classmethod
    def of(cls, drawing: Tensor) -> Self | None:
        """Of RGBA in [0, 1], (4, H, W); None where nothing is drawn."""
        read = drawing[:, ::STRIDE, ::STRIDE].movedim(0, -1).numpy()
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


def variations(
    draws: Sequence[tuple[Material, float]], codec: ImageCodec, novelty: float, of: Tensor | None = None
) -> Tensor:
    """Latents of new pictures, one for each draw, (B, *z_shape). `novelty` is above 0, up to 1.

    A draw's number, in [0, 1), chooses one of the material's pictures, or `of`, (*z_shape), is taken, and another that
    lends to it. At novelty .5 a picture has the other's colours and is about halfway to its shape, at 1 nearly all the
    way; where there is no other, it stays as it is. A draw gives the same picture whatever else is drawn.
    """
    pairs = [_pair(material, u, of) for material, u in draws]
    made = torch.stack([pair.one for pair in pairs])
    rows = [row for row, pair in enumerate(pairs) if pair.other is not pair.one or pair.drawing is not None]
    for some, padded in _groups(rows):
        made[some] = _lent([pairs[row] for row in padded], codec, novelty)[: len(some)].to(made)
    return made


def _groups(rows: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Rows, TOGETHER at a time, and as many to compute, so that they round alike however few they are."""
    for at in range(0, len(rows), TOGETHER):
        some = list(rows[at : at + TOGETHER])
        yield some, (some + some[-1:] * TOGETHER)[:TOGETHER]


def morphed(first: Tensor, second: Tensor, shares: Sequence[float], codec: ImageCodec) -> Tensor:
    """Latents of what lies at shares, in [0, 1], of the way from one to another, (N, *z_shape), both (*z_shape).

    Shape and colours of each go over to the other's. Up to the middle it is the first that is seen, then the second.
    """
    one = drawings_of(torch.stack([first, second]), codec)
    palettes, shapes, side = [Palette.of(drawing) for drawing in one], _shapes(one), one.shape[-1]
    beyond = "zeros" if codec.draws_opacity else "border"
    deformation, pictures = _deformation(shapes, shapes.flip(0), beyond, LOOSE).at(side), list[Tensor]()
    for share in shares:
        ways = torch.tensor([share, 1 - share])
        coloured = [recoloured(one[i], palettes[i], palettes[1 - i], float(ways[i])) for i in (0, 1)]
        grid = _grid(2, side) + ways.view(2, 1, 1, 1) * deformation
        parts = _moved(multiplied(torch.stack(coloured)), grid, beyond)
        passed = min(max((share - 0.5) / PASSING + 0.5, 0), 1)
        pictures.append(on_white(straight(torch.lerp(parts[:1], parts[1:], passed))))
    made = first.new_zeros(len(shares), *first.shape)
    for some, padded in _groups(range(len(shares))):
        x = torch.cat([pictures[row] for row in padded]).to(first)
        made[some] = codec.refined(x, REFINED).mean[: len(some)].to(made)
    return made


class Pair(NamedTuple):
    """What a new picture is made of."""

    one: Tensor  # A known picture's latent, (*z_shape)
    other: Tensor  # That of the picture that lends to it, itself where there is no other
    u: float  # In [0, 1), for what else is to be chosen
    drawing: Tensor | None = None  # What the first is of, where its latent is only near to it, (4, side, side) uint8
    lender: Tensor | None = None  # What the second is of


def _lent(pairs: Sequence[Pair], codec: ImageCodec, novelty: float) -> Tensor:
    """Latents of pictures in others' colours and shapes, for TOGETHER pairs."""
    one = _drawings([(pair.one, pair.drawing) for pair in pairs], codec)
    other = _drawings([(pair.other, pair.lender) for pair in pairs], codec)
    colours, both = min(1.0, 2 * novelty), zip(one, other, strict=True)
    coloured = torch.stack([recoloured(a, Palette.of(a), Palette.of(b), colours) for a, b in both])
    share = novelty * (1 + SPREAD * (2 * torch.tensor([pair.u for pair in pairs]) - 1))
    pictures = on_white(reshaped(coloured, one, other, share.clamp(max=1), opaque=not codec.draws_opacity))
    return codec.refined(pictures.to(pairs[0].one), REFINED).mean


def _drawings(pictures: Sequence[tuple[Tensor, Tensor | None]], codec: ImageCodec) -> Tensor:
    """What latents are of, if it is given, or else what they decode to, (B, 4, side, side) in [0, 1]."""
    given = [drawing for _, drawing in pictures if drawing is not None]
    if len(given) == len(pictures):
        return torch.stack(given) / 255
    made = drawings_of(torch.stack([z for z, _ in pictures]), codec)
    return torch.stack([x if d is None else d / 255 for x, (_, d) in zip(made, pictures, strict=True)])


def _pair(material: Material, u: float, of: Tensor | None = None) -> Pair:
    """Two pictures chosen at u in [0, 1) by inverse CDF of weights, the second of their roots: more lend than show."""
    weight, drawing = material.log_weight.double().exp().cpu().numpy(), None
    latents = material.latents.unbind()
    drawings = [None] * len(latents) if material.drawings is None else material.drawings.unbind()
    if of is None:
        first, u = by_inverse_cdf(_near(weight), u)
        of, drawing, weight[first] = latents[first], drawings[first], 0
    else:
        weight[((material.latents - of).square().flatten(1).mean(1) < SAME).cpu().numpy()] = 0
    if not weight.any():
        return Pair(of, of, u, drawing, drawing)
    second, u = by_inverse_cdf(_near(np.sqrt(weight)), u)
    return Pair(of, latents[second], u, drawing, drawings[second])


def _near(weight: np.ndarray) -> np.ndarray:
    """Weights of all that weigh at least NEAR as much as what weighs most."""
    return np.where(weight < NEAR * weight.max(), 0, weight)


def recoloured(drawing: Tensor, own: Palette | None, other: Palette | None, share: float) -> Tensor:
    """A drawing (4, H, W) whose colours are moved towards another palette's, all the way at a share of 1.

    What is plain to see against what is around it, as eyes are in a face, stays so.
    """
    if own is None or other is None:
        return drawing
    pixels = oklab(drawing[:3].movedim(0, -1).numpy())
    apart = np.square(pixels[..., None, :] - own.colours).sum(-1)
    near = np.exp((apart.min(-1, keepdims=True) - apart) / (2 * SOFT**2))
    change = share * (own.matched(other) - own.colours)
    stays = _staying(apart.argmin(-1), drawing[3].numpy() > DRAWN, own.colours, own.colours + change)
    moved = pixels + (np.where(stays, 0, near) / near.sum(-1, keepdims=True)) @ change
    return torch.cat([torch.from_numpy(from_oklab(moved)).movedim(-1, 0).to(drawing), drawing[3:]])


def _staying(number: np.ndarray, seen: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Where which of k colours would no longer be plain to see, if all became the new ones, (H, W, k) bool.

    Given each pixel's number of a colour and where something is drawn, (H, W), and colours, (k, 3). Lines and other
    narrow parts are told from wide ones.
    """
    count, size, (number, seen) = len(old), number.shape, (x[::COARSE, ::COARSE] for x in (number, seen))
    own = torch.from_numpy((number == np.arange(count)[:, None, None]) & seen)[:, None].float()
    wide = own * _grown(-_grown(-own, NARROW), NARROW)
    parts = torch.stack([wide, own - wide], 1)[:, :, 0]  # (k, 2, H / COARSE, W / COARSE)
    ring = (_grown(parts, AROUND) * (1 - own)).numpy() * seen
    stays = np.zeros((count, 2, 1, 1), np.float32)
    for n, part in np.ndindex(count, 2):
        if ring[n, part].any():
            beside = np.bincount(number[ring[n, part] > 0], minlength=count)
            pairs = (old[n], old), (new[n], new), (old[n], new)
            before, after, left = (beside @ np.linalg.norm(a - b, axis=1) for a, b in pairs)
            stays[n, part] = after < PLAIN * min(before, left)
    where = F.interpolate(_grown(parts * torch.from_numpy(stays), BORDER).amax(1)[None], size)
    return where[0].movedim(0, -1).numpy() > 0


def _grown(mask: Tensor, width: int) -> Tensor:
    return F.max_pool2d(mask, width, 1, width // 2)


def reshaped(drawings: Tensor, first: Tensor, second: Tensor, share: Tensor, *, opaque: bool = False) -> Tensor:
    """Drawings (B, 4, side, side), deformed as `first` is to look like `second`, all the way at a share, (B,), of 1.

    Of `second` and its mirror image, the nearer is taken. Beyond the edge nothing is drawn or, if `opaque`, what is at
    the edge. What would be cut off at the edge is drawn smaller, or stays as it is.
    """
    a, b, mirrored = (_shapes(x) for x in (first, second, second.flip(-1)))
    nearer = (a - mirrored).square().mean((1, 2, 3)) < (a - b).square().mean((1, 2, 3))
    beyond, side = "border" if opaque else "zeros", drawings.shape[-1]
    deformation = _deformation(a, torch.where(nearer.view(-1, 1, 1, 1), mirrored, b), beyond)
    grid = _grid(len(drawings), side) + share.view(-1, 1, 1, 1) * deformation.at(side)
    made = mixed = multiplied(drawings)
    most = _at_edge(mixed) + CUT
    for smaller in SMALLER:
        moved = _moved(mixed, smaller * grid, beyond)
        whole = opaque | (_at_edge(moved) <= most)
        made = torch.where(whole.view(-1, 1, 1, 1), moved, made)
    return straight(made)


def _moved(mixed: Tensor, grid: Tensor, beyond: str) -> Tensor:
    """`multiplied` drawings read at a grid (B, side, side, 2)."""
    return F.grid_sample(mixed, grid, "bicubic", beyond, align_corners=False).clamp(0, 1)


def _at_edge(drawings: Tensor) -> Tensor:
    """Share of the edge of drawings (B, 4, side, side) at which something is drawn, (B,)."""
    opacity = drawings[:, 3]
    return torch.cat([opacity[:, [0, -1]], opacity[:, :, [0, -1]].mT], 2).mean((1, 2))


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


def _deformation(first: Tensor, second: Tensor, beyond: str, penalty: float = 1.0) -> Deformation:
    """What makes some shapes look like others, both (B, C, SIDE, SIDE), without bending them too much."""
    with torch.inference_mode(False), torch.enable_grad():
        first, second, grid = first.clone(), second.clone(), _grid(len(first), SIDE)
        bend = torch.zeros(len(first), 2, CONTROLS, CONTROLS, requires_grad=True)
        affine = torch.zeros(len(first), 2, 3, requires_grad=True)
        deformation, optimizer = Deformation(bend, affine), torch.optim.Adam([bend, affine], RATE)
        for _ in range(STEPS):
            moved = F.grid_sample(first, grid + deformation.at(SIDE), padding_mode=beyond, align_corners=False)
            bending = bend.diff(dim=2).square().mean((1, 2, 3)) + bend.diff(dim=3).square().mean((1, 2, 3))
            loss = (moved - second).square().mean((1, 2, 3)) + penalty * STIFF * bending
            loss = loss + penalty * STEADY * affine.square().mean((1, 2))
            bend.grad, affine.grad = torch.autograd.grad(loss.sum(), [bend, affine])
            optimizer.step()
        return Deformation(bend.detach(), affine.detach())
