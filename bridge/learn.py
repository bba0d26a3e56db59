"""Captioned pictures to a model without training: each is encoded once, into the memory of a local flow.

What was encoded is kept in a cache, by the contents of pictures and captions; adding or removing a picture costs
that picture alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bridge.checkpoint import atomic_write
from bridge.codecs import REFINING, ImageCodec
from bridge.errors import UserError
from bridge.images import flatten, to_tensor
from bridge.mappers import LocalFlowMapper
from bridge.pairs import Pairs, load_pairs, pairs_fingerprint
from bridge.pairs.sources import Wanted
from bridge.pairs.tables import number_of
from bridge.text import TextEncoder

PICTURES, CAPTIONS = 32, 128  # encoded at a time
WHITENING = 0.3  # of captions, unless somebody chooses another; see `LocalFlowMapper`
Say = Callable[[str], None] | None
TAUGHT = ("", "train")  # splits whose pictures are learnt; others are somebody's to judge with


@dataclass(frozen=True)
class Memory:
    """N captioned pictures, encoded."""

    latents: Tensor  # standardised, (N, *z_shape)
    codes: Tensor  # unit text codes of M different captions, (M, D)
    texts: list[str]  # the M captions
    captions: list[list[int]]  # for each picture, numbers of its captions
    hashes: list[str]  # for each picture, of its file; the same for copies of a file
    styles: list[str]  # for each picture, its kind; "" where nobody said
    notes: tuple[str, ...] = ()  # what was left out or should be known, a line each
    allusions: frozenset[str] = frozenset()  # those of `texts` that only allude to their pictures, as tags do

    def __len__(self) -> int:
        return len(self.latents)

    def __add__(self, other: Memory) -> Memory:
        """Both memories' pictures; equal captions become one."""
        texts = list(dict.fromkeys([*self.texts, *other.texts]))
        number = {text: i for i, text in enumerate(texts)}
        new = [i for i, text in enumerate(other.texts) if number[text] >= len(self.texts)]
        return Memory(
            torch.cat([self.latents, other.latents]),
            torch.cat([self.codes, other.codes[new]]),
            texts,
            [*self.captions, *([number[other.texts[i]] for i in row] for row in other.captions)],
            [*self.hashes, *other.hashes],
            [*self.styles, *other.styles],
            (*self.notes, *other.notes),
            (self.allusions | other.allusions) - ({*self.texts} - self.allusions) - ({*other.texts} - other.allusions),
        )

    def mapper(self, settings: Mapping[str, Any] | None = None) -> LocalFlowMapper:
        """The local flow over this memory, with settings of `LocalFlowMapper`."""
        first: dict[str, int] = {}
        return LocalFlowMapper.from_memory(
            self.latents,
            self.codes,
            self.captions,
            styles=self.styles if any(self.styles) else None,
            groups=[first.setdefault(digest, i) for i, digest in enumerate(self.hashes)],
            allusions=[text in self.allusions for text in self.texts],
            **{"whitening": WHITENING} | dict(settings or {}),
        )

    @classmethod
    def of(cls, mapper: LocalFlowMapper, texts: Sequence[str]) -> Memory:
        """What a mapper holds; `texts` are its captions."""
        start, link = mapper.start.tolist(), mapper.link.tolist()
        kinds = tuple(mapper.config.styles) or ("",)
        return cls(
            mapper.picture_latents(torch.arange(len(mapper.latents))),
            mapper.unit_codes,
            list(texts),
            [link[a:b] for a, b in pairwise(start)],
            [f"group {g}" if g >= 0 else f"picture {i}" for i, g in enumerate(mapper.group.tolist())],
            [kinds[i] for i in mapper.style.tolist()],
            allusions=mapper.allusions(texts),
        )


def learn(
    wanted: Wanted,
    text_encoder: TextEncoder,
    codec: ImageCodec,
    *,
    refine: bool = False,
    cache: bool = True,
    say: Say = None,
) -> Memory:
    """Encode captioned pictures, or with `cache` take from `cache_folder()` what has been encoded before.

    `refine` brings latents nearer to their pictures; see `ImageCodec.refined`.
    Raises UserError if the source cannot be read, or holds no picture to learn.
    """
    known, stamp, source = None, "", wanted.source
    if cache:
        stamp = pairs_fingerprint(wanted, codec.image_size)
        place = str(Path(source).resolve()) if isinstance(source, str | Path) and Path(source).exists() else str(source)
        how = {name: getattr(wanted, name) for name in ("caption_column", "image_column", "names")}
        key = json.dumps([place, how, text_encoder.fingerprint, codec.fingerprint, *(["refined"] if refine else [])])
        path = cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"
        known, before = _load(path)
        if known is not None and before == stamp:
            return known
    pairs, steps = load_pairs(wanted, image_size=codec.image_size, say=say), REFINING if refine else 0
    memory = encode(pairs, text_encoder, codec, known, say, steps)
    if cache:
        with contextlib.suppress(OSError):  # a full disk, or a home that cannot be written: the next call encodes again
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, _bytes_of(memory, stamp), durable=False)
    return memory


def encode(
    pairs: Pairs,
    text_encoder: TextEncoder,
    codec: ImageCodec,
    known: Memory | None = None,
    say: Say = None,
    refine: int = 0,
) -> Memory:
    """Encode the pictures that are to be learnt, and their captions, but for those that are `known`.

    `refine` is how many steps of `ImageCodec.refined` pictures take.
    Raises UserError if every picture is of a split for judging.
    """
    rows = [i for i, split in enumerate(pairs.split) if split in TAUGHT]
    if not rows:
        raise UserError("pairs: every picture is of a split other than train; put some into train, or into no split")
    notes = [*pairs.skipped, *pairs.notes]
    if len(rows) < len(pairs):
        notes.append(f"not learnt: {number_of(len(pairs) - len(rows), 'picture')} of other splits than train")
    hashes = [pairs.hashes[i] for i in rows]
    old = {} if known is None else dict(zip(known.hashes, known.latents, strict=True))
    latents, new = _recalled(hashes, codec.z_shape, old)
    for start in range(0, len(new), PICTURES):
        chunk = new[start : start + PICTURES]
        if say is not None and start % (8 * PICTURES) == 0 and len(new) > PICTURES:
            say(f"encoding pictures: {start} of {len(new)}")
        x = to_tensor([flatten(pairs.pictures[rows[k]]) for k in chunk])
        latents[chunk] = codec.refined(x, refine).mean.cpu()
    texts = list(dict.fromkeys(caption for i in rows for caption in pairs.captions[i]))
    number = {text: i for i, text in enumerate(texts)}
    old = {} if known is None else dict(zip(known.texts, known.codes, strict=True))
    codes, new = _recalled(texts, (text_encoder.dim,), old)
    new.sort(key=lambda i: len(texts[i]))  # captions of like length are encoded together
    for start in range(0, len(new), CAPTIONS):
        chunk = new[start : start + CAPTIONS]
        code = text_encoder.encode([texts[i] for i in chunk], batch_size=CAPTIONS, with_tokens=False)
        codes[chunk] = code.pooled.cpu()
    captions = [[number[caption] for caption in pairs.captions[i]] for i in rows]
    return Memory(latents, codes, texts, captions, hashes, [pairs.style[i] for i in rows], tuple(notes))


def _recalled(keys: Sequence[str], shape: Sequence[int], old: Mapping[str, Tensor]) -> tuple[Tensor, list[int]]:
    """A row for each key, (len(keys), *shape), filled where it is an `old` one, and the numbers of the others."""
    rows = torch.empty(len(keys), *shape)
    for i, key in enumerate(keys):
        if key in old:
            rows[i] = old[key]
    return rows, [i for i, key in enumerate(keys) if key not in old]


def cache_folder() -> Path:
    """Where encoded pictures and captions are kept: $BRIDGE_CACHE, else bridge/ in the user's folder of caches."""
    if chosen := os.environ.get("BRIDGE_CACHE"):
        return Path(chosen)
    with contextlib.suppress(RuntimeError):  # no home
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bridge"
    return Path(".cache") / "bridge"


def _bytes_of(memory: Memory, stamp: str) -> bytes:
    facts = {name: getattr(memory, name) for name in ("texts", "captions", "hashes", "styles", "notes")}
    return save({"latents": memory.latents, "codes": memory.codes}, {"facts": json.dumps({"stamp": stamp, **facts})})


def _load(path: Path) -> tuple[Memory | None, str]:
    """A kept memory and the fingerprint of its source; None where there is none, or it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
            stamp, notes = facts.pop("stamp"), tuple(facts.pop("notes"))
            return Memory(file.get_tensor("latents"), file.get_tensor("codes"), **facts, notes=notes), stamp
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None, ""
