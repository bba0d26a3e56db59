"""Frozen transformers as text encoders: CLIP's text tower, T5's encoder, BERTs, token by token and pooled."""

from __future__ import annotations

import abc
import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from bridge.errors import UserError
from bridge.text.base import TOWER, TextCode, TextEncoder
from bridge.text.sources import CONFIG, TOKENIZER, check_digest, read_json

TOWERS = {
    "bert": ("BertModel", "mean"),  # what AutoModel would take, without importing its table of all models
    "clip": ("CLIPTextModel", "end"),
    "clip_text_model": ("CLIPTextModel", "end"),
    "t5": ("T5EncoderModel", "mean"),
    "mt5": ("MT5EncoderModel", "mean"),
    "umt5": ("UMT5EncoderModel", "mean"),
    "longt5": ("LongT5EncoderModel", "mean"),
}
"""Model types: the class in transformers of the part that is taken, and how it pools. Others: AutoModel, mean."""
UNLIMITED = 512
"""Tokens that are read by a model which sets no limit itself, such as T5 with its relative positions."""


class NetworkEncoder(TextEncoder):
    """A network over a tokenizer's ids.

    Args:
        model: The network; frozen here.
        tokenizer_json: Text of a tokenizer.json; its truncation and padding are not used.
        id: The name it was asked for by.
        digest: sha256 of its weights.
        max_tokens: Tokens it reads of a caption.
        dim: Length D of a code; by default the network's width.
        facts: What else tells its codes from others', for the fingerprint.
    """

    facts: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        model: Any,
        tokenizer_json: str,
        *,
        id: str,
        digest: str,
        max_tokens: int,
        dim: int = 0,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        from tokenizers import Tokenizer  # noqa: PLC0415

        super().__init__()
        spec = json.loads(tokenizer_json) | {"truncation": None, "padding": None}
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = Tokenizer.from_str(tokenizer_json)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.unknown = _unknown_token(spec["model"], self.tokenizer)
        self.id, self.digest, self.max_tokens = id, digest, max_tokens
        self.dim, self.facts = dim or int(model.config.hidden_size), dict(self.facts if facts is None else facts)
        all_facts = {"weights": digest, "tokenizer": spec, "max_tokens": max_tokens, **self.facts}
        self.fingerprint = hashlib.sha256(json.dumps(all_facts, sort_keys=True).encode()).hexdigest()[:16]

    @abc.abstractmethod
    def read(self, inputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled (B, D), of any norm, and token vectors (B, L, D) of padded ids (B, L) under a mask (B, L) bool."""

    def spell(self, text: str) -> str:
        """What the tokenizer gets of a prepared text."""
        return text

    def token_ids(self, text: str) -> Tensor:
        """See `TextEncoder.token_ids`."""
        text = self.spell(text)
        encoding = self.tokenizer.encode(text)
        ids = encoding.ids
        words = [id_ for id_, special in zip(ids, encoding.special_tokens_mask, strict=True) if not special]
        if all(word == self.unknown for word in words):
            self._warn_unknown(text)
        if len(ids) > self.max_tokens:
            closing = encoding.special_tokens_mask[-1]  # keeps the last place where there is one
            kept = self.max_tokens - closing
            first = encoding.word_ids.index(encoding.word_ids[kept])
            self._warn_cut(text, len(ids), encoding.offsets[first][0])
            ids = ids[:kept] + ids[len(ids) - closing :]
        return torch.tensor(ids, dtype=torch.long)

    def code_batch(self, ids: Sequence[Tensor]) -> TextCode:
        """See `TextEncoder.code_batch`."""
        rows = [torch.ones_like(row, dtype=torch.bool) for row in ids]
        mask = pad_sequence(rows, batch_first=True).to(self.device)
        inputs = pad_sequence(list(ids), batch_first=True).to(self.device)
        pooled, tokens = self.read(inputs, mask)
        return TextCode(F.normalize(pooled.float(), dim=1), tokens.float() * mask[..., None], mask)


class TransformerEncoder(NetworkEncoder):
    """A text encoder of transformers: CLIP's text tower, T5's encoder, or a BERT.

    Its fact "pooling" is "end", the state of the last token, which closes the text, or "mean", the mean of all.

    Source: Radford et al. 2021, Learning Transferable Visual Models, arXiv:2103.00020 (CLIP); Raffel et al. 2019,
        Exploring the Limits of Transfer Learning, arXiv:1910.10683 (T5)
    """

    kind = TOWER

    @classmethod
    def from_folder(cls, folder: Path, *, id: str, digest: str | None) -> TransformerEncoder:
        """Open a folder that transformers wrote, with a tokenizer.json.

        Raises ValueError if the weights have another digest or lack a part, or the model is no text encoder.
        """
        digest = check_digest(folder, digest)
        config = config_facts(read_json(folder / CONFIG))
        model_type = str(config.get("model_type"))
        name, pooling = TOWERS.get(model_type, ("AutoModel", "mean"))
        if model_type not in TOWERS and (config.get("is_encoder_decoder") or "vision_config" in config):
            raise UserError(
                f"source: {id} is a {model_type}, which has no text encoder known here; pass a BERT-like model or "
                f"one of {', '.join(TOWERS)}"
            )
        tokenizer, facts = (folder / TOKENIZER).read_text("utf-8"), {"config": config, "pooling": pooling}
        model, limit = load_network(folder, name), token_limit(folder)
        encoder = cls(model, tokenizer, id=id, digest=digest, max_tokens=limit, facts=facts)
        if pooling == "end" and not encoder.tokenizer.encode("a").special_tokens_mask[-1]:
            raise UserError(f"source: the tokenizer of {id} closes no text with a token; pass CLIP's own tokenizer")
        return encoder

    def read(self, inputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See `NetworkEncoder.read`."""
        tokens = self.model(input_ids=inputs, attention_mask=mask.long()).last_hidden_state.float()
        if self.facts["pooling"] == "end":
            return tokens[torch.arange(len(tokens), device=tokens.device), mask.sum(1) - 1], tokens
        return (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), tokens


def _unknown_token(model: Mapping[str, Any], tokenizer: Any) -> int | None:
    """Id of the token that stands for what a tokenizer does not know; None where it knows every byte."""
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    name = model.get("unk_token")
    number: int | None = None if name is None else tokenizer.token_to_id(name)
    return number


def config_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config.json the codes depend on: not versions, names and number formats."""
    aside = {"transformers_version", "_name_or_path", "torch_dtype", "dtype"}
    return {key: value for key, value in config.items() if key not in aside}


def token_limit(folder: Path) -> int:
    """Tokens that positions and tokenizer allow, the smaller of the two."""
    from transformers import AutoConfig  # noqa: PLC0415

    config = AutoConfig.from_pretrained(folder, local_files_only=True).to_dict()  # with the type's own defaults
    text = config.get("text_config") or config
    limits = []
    if places := text.get("max_position_embeddings"):
        # RoBERTa's and MPNet's positions begin after the padding token's.
        late = any(name in str(config.get("model_type")) for name in ("roberta", "camembert", "mpnet"))
        offset = int(text.get("pad_token_id") or 0) + 1 if late else 0
        limits.append(int(places) - offset)
    path = folder / "tokenizer_config.json"
    said = read_json(path).get("model_max_length") if path.is_file() else None
    if said is not None and said < 1e6:  # beyond, it stands for "none"
        limits.append(int(said))
    return min(limits, default=UNLIMITED)


def load_network(folder: Path, name: str) -> nn.Module:
    """A network of transformers, float32, by its class's name. Raises UserError if it cannot be loaded whole."""
    import transformers  # noqa: PLC0415

    with quiet_transformers():
        try:
            model, info = getattr(transformers, name).from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"source: {folder} cannot be loaded as {name}: {reason}; pass another model") from error
    # A pooler's output is not read, and models trained to guess words have none.
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing or info["mismatched_keys"]:
        raise UserError(f"source: {folder} lacks weights its config asks for: {missing}; copy or download it again")
    loaded: nn.Module = model
    return loaded


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bar and no report for an eye-blink's loading: standard error belongs to the caller."""
    from transformers.utils import logging  # noqa: PLC0415

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
