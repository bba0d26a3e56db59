"""Captions of what memory does not show as such, and pictures of it made from those that memory shows.

Of "a castle on a hill", it may have castles and hills: they are drawn, laid out as the caption says, and encoded. Of "a
pink elephant", it may have elephants and pink things: its elephants are painted. Of "a black cat", it has black cats,
of which some are violet: those that are black are chosen. Of "a tiny dog", it may have dogs and tiny things: its dogs
are taken. For this caption, the local flow then draws from these pictures in place of its nearest in memory.
"""

import contextlib
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bridge.codecs import ImageCodec
from bridge.colours import LEAST, WORDS, colour_numbers, painted
from bridge.errors import UserError
from bridge.mappers.local import LocalFlowMapper, Material

COMPOSITIONS = 24  # that a caption draws from
DRAWN_AGAIN = 3  # Steps of `ImageCodec.refined` of what is composed or painted: few, since a caption waits for them
KNOWN, WHOLE = 0.75, 0.85  # cosine with a known caption of a known thing, and of a caption known as a whole
PAINTABLE = 0.85  # cosine with a known caption of a thing that may be painted
STRANGE = 0.7  # cosine with a known caption, below which a caption is drawn as the thing that it is about
SHOWN, BOTH, APART = 0.6, 0.65, 0.05
"""A picture shows a thing if the nearest of its captions has this cosine with it; of two things both, if it has the
second with each, and the third more than they have with each other: a picture of a lion is near to "a tiger" too."""
SHARE = 0.25  # weight of the pictures that show both, from which on nothing is to be composed
MOSTLY = 0.5  # weight of those that show what a caption is about, from which on they are drawn
EQUAL = 0.5  # share of the greatest weight, from which on a picture shows a caption as well as the nearest
ALIKE = 0.05  # joint weight of pictures of one style from which on no others are laid out together
OUTLINE = 1 / 48  # width of the white line around what is in front, in sides of a picture
DRAWN = 0.5  # opacity from which on something is drawn
KEPT = 0.1  # weight of the pictures in a caption's colour, below which it draws from those of any colour
WEIGHTY = 0.01  # weight of a picture below which its colour does not count
PAINTED = 24  # pictures that a caption draws from
ONE_PICTURE = "shown by one picture in memory alone: expect pictures like it; a higher novelty goes further from it"
PAINTED_NOTE = "drawn from pictures of {!r} painted {}: memory shows {} of that colour"
FEW = 3  # pictures of a thing in a colour, up to which others of the thing are painted
PLAINLY = 0.4  # share of what is drawn that has the colour, from which on a picture is left as it is


class Box(NamedTuple):
    """Part of a picture, in shares of its side, into which a drawing is fitted; `low` sets it on the lower edge."""

    left: float
    top: float
    right: float
    bottom: float
    low: bool = True


class Layout(NamedTuple):
    """Where the first and the second thing are, the second behind the first unless `second_in_front`."""

    first: Box
    second: Box
    second_in_front: bool = False


BESIDE = Layout(Box(0.02, 0.16, 0.49, 0.84), Box(0.51, 0.16, 0.98, 0.84))
SMALL = Layout(Box(0.02, 0.03, 0.74, 0.97), Box(0.56, 0.52, 0.98, 0.97), second_in_front=True)
UPON = Layout(Box(0.18, 0.02, 0.82, 0.64), Box(0.03, 0.52, 0.97, 0.98, low=False))
OVER = Layout(Box(0.22, 0.02, 0.78, 0.46), Box(0.03, 0.5, 0.97, 0.98))
WITHIN = Layout(Box(0.24, 0.42, 0.76, 0.95), Box(0, 0, 1, 1))
INTO = Layout(Box(0.2, 0.02, 0.8, 0.62), Box(0.14, 0.44, 0.86, 0.98), second_in_front=True)
LAYOUTS = {  # by the words between two things
    **dict.fromkeys(("and", "next to", "beside", "near", "fighting", "hugging", "meeting"), BESIDE),
    **dict.fromkeys(("with", "holding", "carrying", "eating", "drinking", "reading", "playing", "wearing"), SMALL),
    **dict.fromkeys(("giving", "catching", "chasing", "kicking", "throwing", "pulling", "pushing", "using"), SMALL),
    **dict.fromkeys(("on top of", "on", "riding"), UPON),
    **dict.fromkeys(("over", "above"), OVER),
    **dict.fromkeys(("in front of", "inside", "in", "under"), WITHIN),
}
DETERMINERS = {"a", "an", "the", "some", "his", "her", "its"}
ATTRIBUTES = {"hair", "beard", "moustache", "glasses", "sunglasses", "hat", "cap", "crown", "mask", "smile", "face"}
"""What is part of the thing that has it, and not beside it."""
GARMENTS = {"scarf", "coat", "dress", "suit", "shirt", "jacket", "helmet", "boots"}
"""What is not around the thing that is in it."""
CONTAINERS = {"box", "bowl", "pot", "cup", "mug", "glass", "vase", "bag", "basket", "bucket", "jar", "nest", "bed"}
"""What hides the lower part of what is in it."""
_VERBS = r"\w{3,}(?:ing|ed)"
_OTHERS = "at|behind|below|against|through|by|after|before|from|for|full|made|that|who|which|where|while"
_AFTER = re.compile(rf"\s(?:{'|'.join(LAYOUTS)}|{_OTHERS}|{_VERBS})\b", re.IGNORECASE)
"""What may follow the thing that a caption is about."""
_BETWEEN = re.compile(rf"\b({'|'.join(sorted(LAYOUTS, key=len, reverse=True))})\b", re.IGNORECASE)


def parts_of(caption: str) -> tuple[str, str, Layout] | None:
    """The two things of an English caption and how they are laid out, or None where it does not name two.

    What follows a colon, as in "woman with headscarf: dark skin tone", says more of the whole, which is one thing.
    """
    for match in _BETWEEN.finditer(caption) if ":" not in caption else ():
        first, second = caption[: match.start()].strip(), caption[match.end() :].strip(" .!?")
        if content_words(first) and (words := content_words(second)):
            between, last = match[1].lower(), words[-1]
            if last in ATTRIBUTES and between != "and":
                return None
            layout = LAYOUTS[between]
            if between in ("in", "inside"):
                layout = INTO if last in CONTAINERS else SMALL if last in GARMENTS else layout
            return first, second, layout
    return None


def content_words(text: str) -> list[str]:
    """The words of an English text in lower case, without determiners."""
    return [word for word in re.findall(r"[\w'-]+", text.lower()) if word not in DETERMINERS]


def lay_out(first: Tensor, second: Tensor, layout: Layout) -> Tensor:
    """One drawing of two, all with opacity, (4, side, side) in [0, 1]."""
    drawn = [(first, layout.first), (second, layout.second)]
    whole = torch.zeros_like(first)
    for drawing, box in drawn if layout.second_in_front else reversed(drawn):
        whole = _laid_on(whole, drawing, box)
    return straight(whole[None])[0]


def _laid_on(whole: Tensor, drawing: Tensor, box: Box) -> Tensor:
    """A multiplied drawing with what is drawn of another, as large as the box allows, inside a white line."""
    side = whole.shape[-1]
    seen = drawing[3] > DRAWN
    if not seen.any():
        return whole
    rows, columns = (seen.any(d).nonzero()[:, 0].tolist() for d in (1, 0))
    cut = drawing[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = side * min((box.right - box.left) / cut.shape[2], (box.bottom - box.top) / cut.shape[1])
    height, width = (min(side, max(1, round(scale * n))) for n in cut.shape[1:])
    small = F.interpolate(multiplied(cut[None]), (height, width), mode="bilinear", antialias=True)
    left = round(side * (box.left + box.right) / 2 - width / 2)
    top = round(side * box.bottom) - height if box.low else round(side * box.top)
    left, top = max(0, min(left, side - width)), max(0, min(top, side - height))
    placed = F.pad(small[0], (left, side - left - width, top, side - top - height))
    line = round(OUTLINE * side)
    around, opacity = F.max_pool2d(placed[3:], 2 * line + 1, 1, line), whole[3:]
    colour = placed[:3] + (around - placed[3:]) * opacity + (1 - around) * whole[:3]  # no line where nothing is behind
    return torch.cat([colour, placed[3:] + (1 - placed[3:]) * opacity])


def multiplied(drawings: Tensor) -> Tensor:
    """Drawings (B, 4, side, side) with colours multiplied by the opacity, which can be mixed; see `straight`."""
    return torch.cat([drawings[:, :3] * drawings[:, 3:], drawings[:, 3:]], 1)


def straight(mixed: Tensor) -> Tensor:
    """Drawings (B, 4, side, side) of `multiplied` ones."""
    colour, opacity = mixed[:, :3], mixed[:, 3:]
    return torch.cat([colour / opacity.clamp(min=1e-3), opacity], 1).clamp(0, 1)


def solid(drawings: Tensor) -> Tensor:
    """Drawings (B, 4, side, side) whose holes are white: white parts of a picture are where its paper shows through."""
    paper = F.pad(drawings[:, 3:] <= DRAWN, (1, 1, 1, 1), value=True)
    outside = torch.ones_like(paper)
    outside[..., 1:-1, 1:-1] = False
    while not torch.equal(outside, grown := _grown(outside) & paper):  # flood fill from the edge
        outside = grown
    inside = ~outside[..., 1:-1, 1:-1]
    colour, alpha = drawings[:, :3], drawings[:, 3:]
    return torch.cat([torch.where(inside, on_white(drawings), colour), torch.where(inside, 1.0, alpha)], 1)


def _grown(mask: Tensor) -> Tensor:
    """A mask (..., H, W) and the pixels around it; opposite edges touch."""
    for axis in (-2, -1):
        mask = mask.roll(1, axis).logical_or_(mask.roll(-1, axis)).logical_or_(mask)
    return mask


def compose(
    caption: str,
    code: Tensor,
    mapper: LocalFlowMapper,
    encode: Callable[[str], Tensor],
    codec: ImageCodec,
    again: int = DRAWN_AGAIN,
) -> Material | None:
    """Compositions that show an English caption with this text code, (text_dim,), or None if nothing is to be composed.

    That is so where the caption does not name two things, memory does not know one of them or already shows both in
    one picture, a style that is rather not drawn shows more than others do, or the codec draws no opacity. `encode`
    gives the text code of a thing, `again` the steps of `ImageCodec.refined`: the drawings need none. A view of the
    mapper of some style draws from that style alone.
    """
    parts = parts_of(caption)
    if parts is None or not codec.draws_opacity or mapper.familiarity(code) >= WHOLE:
        return None
    first, second, layout = parts
    one = known_thing(first, mapper, encode, noun=mapper.familiarity(code) < STRANGE)
    others = (known_thing(text, mapper, encode) for text in [second, *reversed(beginnings(second))])
    other = next(filter(None, others), None)
    if one is None or other is None:
        return None
    first, second, codes = one[0], other[0], (one[1], other[1])
    if any(map(mapper.yields, (code, *codes))):  # a glyph of the whole is better than two things, and worse beside one
        return None
    if _weight_of(code, mapper, *codes, least=max(BOTH, float(codes[0] @ codes[1]) + APART)) >= SHARE:
        return None
    count = min(COMPOSITIONS, mapper.neighbours, len(mapper.latents))
    pairs = [drawn(numbers, mapper, codec) for numbers in _pairs(mapper, *codes, count)]
    drawings = torch.stack([lay_out(a, b, layout) for a, b in zip(*pairs, strict=True)])
    note = f"composed of {first!r} and {second!r}: memory shows them one by one, not together"
    latents = codec.refined(on_white(drawings).to(code.device), again).mean
    return Material(latents, torch.full((count,), -math.log(count)), note, to_bytes(drawings))


def to_bytes(drawings: Tensor) -> Tensor:
    """Drawings in [0, 1] as bytes: material is remembered."""
    return (drawings * 255).round().byte()


def beginnings(caption: str) -> list[str]:
    """What an English caption may be about: how it goes on before each word that may follow a thing, longest last.

    >>> beginnings("an old man asleep on a bench"), beginnings("a sleeping cat")
    (['an old man asleep'], [])
    """
    parts = [caption[: match.start()] for match in _AFTER.finditer(caption)]
    return [part for part in parts if content_words(part)]


def known_thing(
    text: str, mapper: LocalFlowMapper, encode: Callable[[str], Tensor], *, noun: bool = False
) -> tuple[str, Tensor] | None:
    """A thing that memory knows and its code: what a text says or, with `noun`, its `known_noun`; else None."""
    if (code := _known_code(text, KNOWN, mapper, encode)) is not None:
        return text, code
    return known_noun(text, mapper, encode) if noun else None


def known_noun(text: str, mapper: LocalFlowMapper, encode: Callable[[str], Tensor]) -> tuple[str, Tensor] | None:
    """The most that memory knows of the end of what a text is about and its code: of "a wise old man", an old man."""
    words = content_words([*beginnings(text), text][0])
    if not words or words[-1] in ATTRIBUTES or re.fullmatch(_VERBS, words[-1]):
        return None
    for name in (" ".join(words[i:]) for i in range(1, len(words))):
        if (code := _known_code(name, WHOLE, mapper, encode)) is not None:
            return name, code
    return None


def _known_code(text: str, least: float, mapper: LocalFlowMapper, encode: Callable[[str], Tensor]) -> Tensor | None:
    """The code of a text, if its cosine with a known caption is `least` or more."""
    with contextlib.suppress(UserError):  # it is nothing that the encoder reads
        if mapper.familiarity(code := encode(text)) >= least:
            return code
    return None


def main_thing(caption: str, code: Tensor, mapper: LocalFlowMapper, encode: Callable[[str], Tensor]) -> Material | None:
    """Pictures of what an English caption is about: the fox of "a fox curled up asleep", the dog of "a tiny dog".

    Where most of the caption's nearest pictures show it, those that do; else those of the thing alone. None where
    memory knows the caption, or not the thing, or shows it only in kinds that are rather not drawn. For the arguments,
    see `compose`.
    """
    if ":" in caption or mapper.familiarity(code) >= STRANGE:
        return None
    begins = beginnings(caption)[::-1]
    each = (known_thing(begin, mapper, encode, noun=begin is begins[0]) for begin in begins)  # all have one noun
    thing = next(filter(None, each), None) if begins else known_noun(caption, mapper, encode)
    if thing is None or mapper.resort(thing[1]) is not None:
        return None
    near, log_weight = map(torch.from_numpy, mapper.nearest(code))
    shows, note = _shown(near.numpy(), mapper, thing[1]) >= KNOWN, None
    if log_weight[shows].exp().sum() >= MOSTLY:
        near, log_weight = near[shows], log_weight[shows].log_softmax(0)
    else:
        near, log_weight = map(torch.from_numpy, mapper.nearest(thing[1]))
        note = f"drawn as {thing[0]!r}: memory shows none as the rest of the caption says"
    return Material(mapper.picture_latents(near).to(code.device), log_weight, note)


def _weight_of(code: Tensor, mapper: LocalFlowMapper, *things: Tensor, least: float = SHOWN) -> float:
    """Weight of a caption's nearest pictures that show all of some things, by codes, of a cosine of `least` or more."""
    near, log_weight = mapper.nearest(code)
    return float(np.exp(log_weight)[_shown(near, mapper, *things) >= least].sum())


def _shown(near: np.ndarray, mapper: LocalFlowMapper, *things: Tensor) -> np.ndarray:
    """Of pictures in memory, the least cosine of their nearest captions with some things, by codes."""
    return np.minimum.reduce([mapper.similarity(thing, whitened=False)[near] for thing in things])


def _pairs(mapper: LocalFlowMapper, first: Tensor, second: Tensor, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of two captions at evenly spaced quantiles of their joint weights, of one style where there are such."""
    (a, log_a), (b, log_b) = mapper.nearest(first), mapper.nearest(second)
    style = mapper.style.cpu().numpy()
    weight = np.exp(log_a[:, None] + log_b)
    alike = weight * (style[a][:, None] == style[b])
    if alike.sum() >= ALIKE:
        weight = alike
    cdf = weight.cumsum()
    chosen = np.searchsorted(cdf / cdf[-1], (np.arange(count) + 0.5) / count)
    return a[chosen // len(b)], b[chosen % len(b)]


def drawn(numbers: np.ndarray, mapper: LocalFlowMapper, codec: ImageCodec) -> Tensor:
    """Pictures in memory, opaque where something is drawn, (B, 4, side, side)."""
    some, which = np.unique(numbers, return_inverse=True)
    return drawings_of(mapper.picture_latents(torch.from_numpy(some)), codec)[torch.from_numpy(which)]


def drawings_of(z: Tensor, codec: ImageCodec) -> Tensor:
    """Pictures of latents z, (B, *z_shape), opaque where something is drawn or, if none can tell, all over."""
    pictures = codec.render(z, None, transparent=codec.draws_opacity).cpu().float()
    return solid(pictures) if codec.draws_opacity else F.pad(pictures, (0, 0, 0, 0, 0, 1), value=1.0)


def colour_and_thing(caption: str) -> tuple[str, str] | None:
    """The two words or more of an English caption such as "a white dog", or None where it is no such caption.

    >>> colour_and_thing("A gray school bus."), colour_and_thing("an orange"), colour_and_thing("a dog in a red box")
    (('grey', 'school bus'), None, None)
    """
    words = content_words(caption)
    colour = words[0].replace("gray", "grey") if words else ""
    return (colour, " ".join(words[1:])) if colour in WORDS and len(words) > 1 else None


def coloured(
    caption: str,
    code: Tensor,
    mapper: LocalFlowMapper,
    encode: Callable[[str], Tensor],
    codec: ImageCodec,
    again: int = DRAWN_AGAIN,
) -> Material | None:
    """Pictures that show a caption in its colour, or None where nothing is to be painted or left out.

    That is so where the caption does not begin with a colour, memory knows all of it, in this colour and by more than
    FEW pictures, or not the thing, or the codec draws no opacity. For the arguments, see `compose`.
    """
    words = colour_and_thing(caption)
    if words is None or not codec.draws_opacity:
        return None
    colour, thing = words
    known, code_of_thing = mapper.familiarity(code) >= WHOLE, _known_code(thing, PAINTABLE, mapper, encode)
    if known and (code_of_thing is None or not _few_of_many(code, code_of_thing, mapper)):
        return _of_that_colour(colour, thing, code, mapper, codec, again)
    if code_of_thing is None:
        return None
    near, log_weight = (torch.from_numpy(x[:PAINTED]) for x in mapper.nearest(code_of_thing))
    drawings = drawn(near.numpy(), mapper, codec)
    least, some = (PLAINLY, "few") if known else (math.inf, "none")
    has, note = _share_of(colour, drawings) >= least, PAINTED_NOTE.format(thing, colour, some)
    latents, painted = _painted(near, has, drawings, colour, mapper, codec, again)
    return Material(latents.to(code.device), log_weight.log_softmax(0), note, painted)


def _few_of_many(code: Tensor, code_of_thing: Tensor, mapper: LocalFlowMapper) -> bool:
    """Whether FEW pictures at most show a caption, and the nearest of them shows the thing."""
    return mapper.support(code) <= FEW and _shown(mapper.nearest(code)[0][:1], mapper, code_of_thing)[0] >= SHOWN


def repainted(drawings: Tensor, colour: str, source: str | None = None) -> Tensor:
    """Drawings (B, 4, side, side) in another colour; see `painted`."""
    pixels = np.stack([painted(x, colour, source) for x in drawings.movedim(1, -1).numpy()])
    return torch.from_numpy(pixels).movedim(-1, 1).float()


def painting(z: Tensor, colour: str, source: str | None, codec: ImageCodec) -> Tensor:
    """What painting their pictures, as by `painted`, adds to latents z, both (B, *z_shape); 0 where it changes none."""
    before = drawings_of(z, codec)
    after = repainted(before, colour, source)
    first, second = (codec.encode(on_white(drawings).to(z.device)).mean for drawings in (before, after))
    return second - first


def on_white(drawings: Tensor) -> Tensor:
    """Pictures (B, 3, side, side) of drawings with opacity, (B, 4, side, side)."""
    return drawings[:, :3] * drawings[:, 3:] + 1 - drawings[:, 3:]


def _share_of(colour: str, drawings: Tensor) -> Tensor:
    """How much of what is drawn has a colour, (B,), of drawings (B, 4, side, side)."""
    rgba = drawings.movedim(1, -1).numpy()
    seen = rgba[..., 3] > DRAWN
    own = (colour_numbers(rgba[..., :3]) == WORDS.index(colour)) & seen
    return torch.from_numpy(own.sum((1, 2)) / np.maximum(1, seen.sum((1, 2))))


def _of_that_colour(
    colour: str, thing: str, code: Tensor, mapper: LocalFlowMapper, codec: ImageCodec, again: int
) -> Material | None:
    """Those of a caption's nearest pictures that have its colour; None where all have it, or next to none.

    Where FEW have it, others that show the caption as well are painted.
    """
    near, log_weight = (torch.from_numpy(x[:PAINTED]) for x in mapper.nearest(code))
    counted = log_weight.exp() >= WEIGHTY
    near, log_weight = near[counted], log_weight[counted]
    if log_weight.exp().sum() < KEPT:
        return None
    drawings = drawn(near.numpy(), mapper, codec)
    has = _share_of(colour, drawings) >= LEAST
    if has.all() or log_weight[has].exp().sum() < KEPT:
        return None
    taken, note = has, ONE_PICTURE if has.sum() == 1 else None
    as_well = log_weight >= log_weight.max() + math.log(EQUAL)
    if has.sum() <= FEW and not has[as_well].all():
        taken, note = has | as_well, PAINTED_NOTE.format(thing, colour, "few")
    latents, painted = _painted(near[taken], has[taken], drawings[taken], colour, mapper, codec, again)
    return Material(latents.to(code.device), log_weight[taken].log_softmax(0), note, painted)


def _painted(
    near: Tensor, has: Tensor, drawings: Tensor, colour: str, mapper: LocalFlowMapper, codec: ImageCodec, again: int
) -> tuple[Tensor, Tensor | None]:
    """K pictures in memory, of which those that lack a colour are painted: latents, and drawings if any is painted."""
    latents, lacks = mapper.picture_latents(near), ~has
    if not lacks.any():
        return latents, None
    painted = drawings.clone()
    painted[lacks] = repainted(drawings[lacks], colour)
    latents[lacks] = codec.refined(on_white(painted[lacks]).to(latents.device), again).mean
    return latents, to_bytes(painted)
