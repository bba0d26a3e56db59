"""The text code `c`, and what every text encoder promises."""

from __future__ import annotations

import abc
import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bridge.captions import prepare_caption
from bridge.context import plain_torch, unwrapped
from bridge.errors import UserError

DEFAULT_ID = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_DIGEST = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SENTENCE, TOWER, WORDS = "sentence-transformers", "transformers", "word-vectors"
"""Kinds of encoders."""


class CaptionTruncatedWarning(UserWarning):
    """A caption had more tokens than the encoder reads; the message quotes what was cut."""


class CaptionUnknownWarning(UserWarning):
    """Nothing of a caption is in the encoder's vocabulary."""


@dataclass(frozen=True, eq=False)
class TextCode:
    """What a mapper knows of B captions. Zero `pooled` rows are the null code: no caption."""

    pooled: Tensor  # One unit vector a caption, (B, D)
    tokens: Tensor  # One vector a token, zero where padded, (B, L, D); L may be 0
    mask: Tensor  # True where `tokens` holds a token, (B, L) bool
    # In [0, 1), which of the things that a caption may show an image is to show; NaN, the default, leaves it open, (B,)
    choice: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.pooled.ndim != 2 or self.mask.ndim != 2 or self.mask.dtype != torch.bool:
            raise ValueError("pooled, mask: expected pooled (B, D) and mask (B, L) bool")
        b, d = self.pooled.shape
        if len(self.mask) != b or self.tokens.shape != (*self.mask.shape, d):
            shapes = [tuple(t.shape) for t in (self.pooled, self.tokens, self.mask)]
            raise ValueError(f"tokens: expected (B, D), (B, L, D), (B, L), got {shapes}")
        if self.choice is None:
            object.__setattr__(self, "choice", self.pooled.new_full((b,), math.nan))
        elif self.choice.shape != (b,):
            raise ValueError(f"choice: expected ({b},), got {tuple(self.choice.shape)}")

    def __len__(self) -> int:
        return len(self.pooled)

    def __getitem__(self, index: slice | Tensor) -> TextCode:
        """Rows by slice, (N,) long tensor or (B,) bool tensor; the token length stays L."""
        if not isinstance(index, slice | Tensor) or (isinstance(index, Tensor) and index.ndim != 1):
            raise ValueError(f"index: expected a slice or a 1-d tensor, got {index!r}; for row i use code[i:i+1]")
        return TextCode(self.pooled[index], self.tokens[index], self.mask[index], self.choice[index])

    def to(self, device: torch.device | str) -> TextCode:
        return TextCode(*(part.to(device) for part in (self.pooled, self.tokens, self.mask, self.choice)))

    def padded(self, places: int) -> TextCode:
        """The same code with `places` token places, those added empty; ValueError if it has more."""
        more = places - self.mask.shape[1]
        if more < 0:
            raise ValueError(f"places: expected {self.mask.shape[1]} or more, got {places}")
        return replace(self, tokens=F.pad(self.tokens, (0, 0, 0, more)), mask=F.pad(self.mask, (0, more)))

    def replaced(self, rows: Tensor, pooled: Tensor) -> TextCode:
        """With the pooled codes (B, dim), and no tokens, in `rows`, (B,) bool."""
        tokens, mask = self.tokens.masked_fill(rows[:, None, None], 0), self.mask & ~rows[:, None]
        return TextCode(torch.where(rows[:, None], pooled, self.pooled), tokens, mask, self.choice)

    def chosen(self, choice: Tensor) -> TextCode:
        """The same captions with this choice, (B,)."""
        return replace(self, choice=choice.to(self.pooled))

    def without_tokens(self) -> TextCode:
        """The pooled codes alone, L = 0, nothing kept of the tokens' memory."""
        return replace(self, tokens=self.tokens[:, :0].clone(), mask=self.mask[:, :0].clone())

    @classmethod
    def null(cls, n: int, dim: int) -> TextCode:
        """`n` codes of "no caption": pooled (n, dim) all zero, no tokens."""
        return cls(torch.zeros(n, dim), torch.zeros(n, 0, dim), torch.zeros(n, 0, dtype=torch.bool))

    @classmethod
    def cat(cls, codes: Sequence[TextCode]) -> TextCode:
        """The rows of all `codes` in order, tokens zero-padded to the longest L."""
        if not codes:
            raise ValueError("codes: expected at least one TextCode, got none")
        length = max(c.mask.shape[1] for c in codes)
        parts = ((c.pooled, c.tokens, c.mask, c.choice) for c in (code.padded(length) for code in codes))
        return cls(*map(torch.cat, zip(*parts, strict=True)))


class TextEncoder(nn.Module, abc.ABC):
    """A frozen text space: captions to codes. Make one with `from_pretrained`.

    Frozen means frozen: weights take no gradient, `train()` changes nothing. A new text space is a subclass
    with `token_ids` and `code_batch`, and a line in `bridge.text.encoders`.
    """

    kind: ClassVar[str]  # How a model folder names this class of encoders
    opener: ClassVar[Callable[..., TextEncoder]]  # `bridge.text.encoders.open_text_encoder`
    id: str  # The name it was asked for by
    digest: str  # sha256 of its weights, 64 hex digits
    fingerprint: str  # 16 hex digits; equal exactly where the codes are
    dim: int  # Length D of a code
    max_tokens: int  # Tokens it reads of a caption, special ones included

    @classmethod
    def from_pretrained(cls, source: str | Path = DEFAULT_ID, *, digest: str | None = None) -> TextEncoder:
        """Load an encoder of any kind; see `bridge.text.encoders.open_text_encoder`."""
        return TextEncoder.opener(source, digest=digest)

    @abc.abstractmethod
    def token_ids(self, text: str) -> Tensor:
        """Token ids of a prepared text, (L,) long, L <= max_tokens; warns of what it leaves out."""

    @abc.abstractmethod
    def code_batch(self, ids: Sequence[Tensor]) -> TextCode:
        """Codes of B rows of token ids, padded to the longest."""

    def spec(self) -> dict[str, str]:
        """What names this encoder in a model folder, for `bridge.text.encoders.load_text_encoder`."""
        return {"kind": self.kind, "id": self.id, "digest": self.digest}

    def save(self, folder: Path) -> None:
        """Write the encoder's own files into `folder`, where it is not to be had elsewhere; here: none."""

    def train(self, mode: bool = True) -> TextEncoder:
        """No effect: a frozen encoder has no training mode."""
        return self

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, unwrapped(value))

    def prepare(self, caption: str) -> str:
        """The text that is encoded. Raises UserError if the encoder cannot read it; see `prepare_caption`."""
        return prepare_caption(caption)

    @plain_torch()
    def encode(self, captions: Sequence[str], batch_size: int = 1, *, with_tokens: bool = True) -> TextCode:
        """Text codes of B captions, float32, on the encoder's device.

        A `batch_size` of 1 encodes each caption alone and unpadded, so that its code depends on nothing else; larger
        is faster, and equal up to float rounding. Without `with_tokens` L = 0, which keeps large caches small.
        Raises UserError naming a caption that is no string, or has nothing to read in it. Warns CaptionTruncatedWarning
        of one longer than `max_tokens`, with what was cut, CaptionUnknownWarning of one whose words are all unknown.
        """
        if isinstance(captions, str) or batch_size < 1:
            raise UserError("captions, batch_size: expected a list of captions and a size of 1 or more")
        ids = []
        for row, caption in enumerate(captions):
            try:
                text = self.prepare(caption)
            except UserError as error:
                raise UserError(f"captions[{row}]: {str(error).removeprefix('caption: ')}") from None
            ids.append(self.token_ids(text))
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # stable: like lengths go together
        codes = []
        for start in range(0, len(ids), batch_size):
            code = self.code_batch([ids[i] for i in order[start : start + batch_size]])
            codes.append(code if with_tokens else code.without_tokens())
        rows = torch.tensor(order, dtype=torch.long).argsort()
        return TextCode.cat(codes or [TextCode.null(0, self.dim).to(self.device)])[rows.to(self.device)]

    @property
    def device(self) -> torch.device:
        return next(itertools.chain(self.parameters(), self.buffers())).device

    def _warn_cut(self, text: str, tokens: int, start: int) -> None:
        """Warn whoever called `encode`, from `token_ids`, that `text` is read up to character `start` only."""
        cut = text[start:].strip()
        shown = cut if len(cut) <= 200 else f"{cut[:200]}…"
        message = f"has {tokens} tokens, the encoder reads {self.max_tokens}; cut: {shown!r}"
        warnings.warn(CaptionTruncatedWarning(f"caption {text[:40]!r}… {message}"), stacklevel=5)

    def _warn_unknown(self, text: str) -> None:
        """Warn whoever called `encode`, from `token_ids`, that the encoder knows nothing of `text`."""
        message = f"caption {text[:40]!r}: the text encoder knows none of its words, and reads all such captions alike"
        warnings.warn(CaptionUnknownWarning(message), stacklevel=5)
