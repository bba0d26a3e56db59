"""Frozen networks as text encoders: CLIP's text tower, T5's encoder, BERTs, and models of sentence-transformers."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from bridge.checkpoint import sha256_of
from bridge.errors import UserError, first_line, import_extra
from bridge.text.base import SENTENCE, TOWER, TextCode, TextEncoder

WEIGHTS, SHARDS, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
TOKENIZER, MODULES, LIMITS = "tokenizer.json", "modules.json", "sentence_bert_config.json"
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
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
UNLIMITED = 512
"""Tokens that are read by a model which sets no limit itself, such as T5 with its relative positions."""


class TransformerEncoder(TextEncoder):
    """A text encoder of transformers: CLIP's text tower, T5's encoder, or a BERT.

    Truncation and padding of the tokenizer are not used; `dim`, D, is by default the network's width. `facts` tell its
    codes from others', for the fingerprint: "pooling" is "end", the state of the last token, which closes the text, or
    "mean", the mean of all; "prompt" stands before every caption, and with "lower" captions are lowered.

    Source: Radford et al. 2021, Learning Transferable Visual Models, arXiv:2103.00020 (CLIP); Raffel et al. 2019,
        Exploring the Limits of Transfer Learning, arXiv:1910.10683 (T5)
    """

    kind = TOWER
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
        self.unknown = spec["model"].get("unk_id")  # None, and no such token, where it knows every byte
        if self.unknown is None and "unk_token" in spec["model"]:
            self.unknown = self.tokenizer.token_to_id(spec["model"]["unk_token"] or "")
        self.id, self.digest, self.max_tokens = id, digest, max_tokens
        self.dim, self.facts = dim or int(model.config.hidden_size), dict(self.facts if facts is None else facts)
        all_facts = {"weights": digest, "tokenizer": spec, "max_tokens": max_tokens, **self.facts}
        self.fingerprint = hashlib.sha256(json.dumps(all_facts, sort_keys=True).encode()).hexdigest()[:16]

    def read(self, inputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled (B, D), of any norm, and token vectors (B, L, D) of padded ids (B, L) under a mask (B, L) bool."""
        tokens = self.model(input_ids=inputs, attention_mask=mask.long()).last_hidden_state.float()
        if self.facts["pooling"] == "end":
            return tokens[torch.arange(len(tokens), device=tokens.device), mask.sum(1) - 1], tokens
        return (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), tokens

    def token_ids(self, text: str) -> Tensor:
        text = self.facts.get("prompt", "") + text
        text = text.lower() if self.facts.get("lower") else text
        encoding = self.tokenizer.encode(text)
        ids, special = encoding.ids, encoding.special_tokens_mask
        if all(special_ or id_ == self.unknown for id_, special_ in zip(ids, special, strict=True)):
            self._warn_unknown(text)
        if len(ids) > self.max_tokens:
            closing = special[-1]  # keeps the last place where there is one
            kept = self.max_tokens - closing
            first = encoding.word_ids.index(encoding.word_ids[kept])
            self._warn_cut(text, len(ids), encoding.offsets[first][0])
            ids = ids[:kept] + ids[len(ids) - closing :]
        return torch.tensor(ids, dtype=torch.long)

    def code_batch(self, ids: Sequence[Tensor]) -> TextCode:
        rows = [torch.ones_like(row, dtype=torch.bool) for row in ids]
        mask = pad_sequence(rows, batch_first=True).to(self.device)
        inputs = pad_sequence(list(ids), batch_first=True).to(self.device)
        pooled, tokens = self.read(inputs, mask)
        return TextCode(F.normalize(pooled.float(), dim=1), tokens.float() * mask[..., None], mask)


class SentenceEncoder(TransformerEncoder):
    """A BERT of sentence-transformers, run by transformers alone: mean of the last layer's tokens, unit length.

    Importing sentence-transformers would add a second to every start; a test holds both to the same codes.

    Source: Reimers and Gurevych 2019, Sentence-BERT, arXiv:1908.10084
    """

    kind = SENTENCE
    facts = MappingProxyType({"pooling": "mean, unit"})


class LibraryEncoder(TransformerEncoder):
    """Any other model of sentence-transformers, run by that library: it pools as its modules say."""

    kind = SENTENCE

    def read(self, inputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        out = self.model({"input_ids": inputs, "attention_mask": mask.long()})
        return out["sentence_embedding"], out["token_embeddings"]


def open_transformer_encoder(folder: Path, *, id: str, digest: str | None) -> TransformerEncoder:
    """Open a folder that transformers wrote, with a tokenizer.json.

    Raises UserError if the weights have another digest or lack a part, or the model is no text encoder.
    """
    digest, config = check_digest(folder, digest), _config(folder)
    model_type = str(config.get("model_type"))
    name, pooling = TOWERS.get(model_type, ("AutoModel", "mean"))
    if model_type not in TOWERS and (config.get("is_encoder_decoder") or "vision_config" in config):
        raise UserError(
            f"source: {id} is a {model_type}, which has no text encoder known here; pass a BERT-like model or "
            f"one of {', '.join(TOWERS)}"
        )
    tokenizer, facts = (folder / TOKENIZER).read_text("utf-8"), {"config": config, "pooling": pooling}
    model, limit = _load_network(folder, name), _token_limit(folder)
    encoder = TransformerEncoder(model, tokenizer, id=id, digest=digest, max_tokens=limit, facts=facts)
    if pooling == "end" and not encoder.tokenizer.encode("a").special_tokens_mask[-1]:
        raise UserError(f"source: the tokenizer of {id} closes no text with a token; pass CLIP's own tokenizer")
    return encoder


def open_sentence_encoder(folder: Path, *, id: str, digest: str | None) -> TransformerEncoder:
    """Open a folder of sentence-transformers: a BERT with mean and normalisation without that library, others with it.

    Raises UserError if the weights have another digest, the model pools into another width than its tokens have, or
    sentence-transformers is needed and not installed.
    """
    with ThreadPoolExecutor(1) as pool:
        checked = pool.submit(check_digest, folder, digest)  # while transformers is imported: a third of a second
        try:
            config, prompt = _config(folder), _prompt(folder)
            pooling, normalised = _pooling(folder, prompt)
            limits = read_json(folder / LIMITS) if (folder / LIMITS).is_file() else {}
            network = _load_network(folder, TOWERS.get(str(config.get("model_type")), ("AutoModel", ""))[0])
        finally:
            digest = checked.result()  # what is wrong with the weights comes first
    tokenizer, lower = (folder / TOKENIZER).read_text("utf-8"), bool(limits.get("do_lower_case"))
    max_tokens = int(limits.get("max_seq_length") or _token_limit(folder))
    if (config.get("model_type"), pooling, normalised, prompt, lower) == ("bert", "mean", True, "", False):
        return SentenceEncoder(network, tokenizer, id=id, digest=digest, max_tokens=max_tokens)
    del network  # the library loads its own, without a word about weights that lack
    library = import_extra("sentence_transformers", "sentence", "sentence-transformers", "source: this text encoder")
    weights = {"use_safetensors": True, "dtype": torch.float32}
    with _loading(f"{folder} cannot be opened by sentence-transformers"):
        model = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs=weights)
    facts = {"config": config, "pooling": pooling, "prompt": prompt, "lower": lower}
    dim = int(model[1].pooling_output_dimension)
    return LibraryEncoder(model, tokenizer, id=id, digest=digest, max_tokens=max_tokens, dim=dim, facts=facts)


def check_digest(folder: Path, digest: str | None) -> str:
    """sha256 of the weights: of the one file, or of the digests of all shards. Raises UserError if not `digest`."""
    names = weight_files(folder)
    digests = [sha256_of(folder / name) for name in names]
    whole = digests[0] if len(names) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    if digest not in (None, whole):
        raise UserError(
            f"digest: {folder / names[0]} has sha256 {whole}, expected {digest}; "
            "these are not the weights asked for: remove that folder, or pass the digest you trust"
        )
    return whole


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold the weights: one, or the shards that an index lists, after the index."""
    if not (folder / SHARDS).is_file():
        return [WEIGHTS]
    return [SHARDS, *sorted(set(read_json(folder / SHARDS)["weight_map"].values()))]


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises UserError if it is damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"source: {path} is no JSON; copy or download the model again") from error


def _config(folder: Path) -> dict[str, Any]:
    """What of a config.json the codes depend on: not versions, names and number formats."""
    aside = {"transformers_version", "_name_or_path", "torch_dtype", "dtype"}
    return {key: value for key, value in read_json(folder / CONFIG).items() if key not in aside}


def _pooling(folder: Path, prompt: str) -> tuple[str, bool]:
    """How a sentence-transformers folder pools, and whether it normalises; UserError if it is of another make."""
    modules = read_json(folder / MODULES)
    kinds = [str(module["type"].rsplit(".", 1)[-1]) for module in modules]
    foreign = any(not module["type"].startswith("sentence_transformers.") for module in modules)
    if foreign or kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Normalize"}:
        raise UserError(
            f"source: {folder} is {kinds}; only Transformer, Pooling and Normalize can be loaded, since other "
            "modules give a code of another width than its tokens have"
        )
    config = read_json(folder / modules[1]["path"] / CONFIG)
    modes = config.get("pooling_mode")
    if modes is None:  # as written before sentence-transformers 6
        old = {"cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean", "weightedmean_tokens": "weightedmean"}
        active = [k.removeprefix("pooling_mode_") for k, on in config.items() if on is True and "pooling_mode_" in k]
        modes = [old.get(name, name) for name in active] or ["mean"]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise UserError(f"source: {folder} pools by {modes}; only one of {', '.join(POOLINGS)} can be loaded")
    if prompt and not config.get("include_prompt", True):
        raise UserError(f"source: {folder} leaves its prompt out of the pooling; pass a model that does not")
    return modes[0], kinds[2:] == ["Normalize"]


def _prompt(folder: Path) -> str:
    path = folder / "config_sentence_transformers.json"
    config = read_json(path) if path.is_file() else {}
    return str((config.get("prompts") or {}).get(config.get("default_prompt_name") or "", ""))


def _token_limit(folder: Path) -> int:
    """Tokens that positions and tokenizer allow, the smaller of the two."""
    from transformers import AutoConfig  # noqa: PLC0415

    config = AutoConfig.from_pretrained(folder, local_files_only=True).to_dict()  # with the type's own defaults
    text, limits = config.get("text_config") or config, list[int]()
    if places := text.get("max_position_embeddings"):
        # RoBERTa's and MPNet's positions begin after the padding token's.
        late = any(name in str(config.get("model_type")) for name in ("roberta", "camembert", "mpnet"))
        limits.append(int(places) - (int(text.get("pad_token_id") or 0) + 1 if late else 0))
    path = folder / "tokenizer_config.json"
    own = read_json(path).get("model_max_length") if path.is_file() else None
    if own is not None and own < 1e6:  # beyond, it stands for "none"
        limits.append(int(own))
    return min(limits, default=UNLIMITED)


def _load_network(folder: Path, name: str) -> nn.Module:
    """A network of transformers, float32, by its class's name. Raises UserError if it cannot be loaded whole."""
    import transformers  # noqa: PLC0415

    with _loading(f"{folder} cannot be loaded as {name}"):
        model, info = getattr(transformers, name).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    # A pooler's output is not read, and models trained to guess words have none.
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing or info["mismatched_keys"]:
        raise UserError(f"source: {folder} lacks weights its config asks for: {missing}; copy or download it again")
    return model


@contextlib.contextmanager
def _loading(problem: str) -> Iterator[None]:
    """Load without progress bar and report, standard error being the caller's; failures are a UserError."""
    from transformers.utils import logging  # noqa: PLC0415

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"source: {problem}: {first_line(error)}; pass another model") from error
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
