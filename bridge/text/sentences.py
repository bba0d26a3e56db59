"""Models of sentence-transformers as text encoders: the usual kind without that library, all others with it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from bridge.errors import UserError
from bridge.extras import import_extra
from bridge.text.base import SENTENCE
from bridge.text.sources import CONFIG, LIMITS, MODULES, TOKENIZER, check_digest, read_json
from bridge.text.towers import (
    TOWERS,
    NetworkEncoder,
    TransformerEncoder,
    config_facts,
    load_network,
    quiet_transformers,
    token_limit,
)

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


class SentenceEncoder(TransformerEncoder):
    """A BERT of sentence-transformers, run by transformers alone: mean of the last layer's tokens, unit length.

    Importing sentence-transformers would add a second to every start; a test holds both to the same codes.

    Source: Reimers and Gurevych 2019, Sentence-BERT, arXiv:1908.10084
    """

    kind = SENTENCE
    facts = MappingProxyType({"pooling": "mean, unit"})


class LibraryEncoder(NetworkEncoder):
    """Any other model of sentence-transformers, run by that library: it pools as its modules say.

    Its facts "prompt" and "lower" say what stands before every caption, and whether captions are lowered first.

    Source: Reimers and Gurevych 2019, Sentence-BERT, arXiv:1908.10084
    """

    kind = SENTENCE

    def spell(self, text: str) -> str:
        """The text after the model's prompt."""
        text = f"{self.facts['prompt']}{text}"
        return text.lower() if self.facts["lower"] else text

    def read(self, inputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See `NetworkEncoder.read`."""
        out = self.model({"input_ids": inputs, "attention_mask": mask.long()})
        return out["sentence_embedding"], out["token_embeddings"]


def open_sentence_encoder(folder: Path, *, id: str, digest: str | None) -> NetworkEncoder:
    """Open a folder of sentence-transformers: a BERT with mean and normalisation without that library, others with it.

    Raises ValueError if the weights have another digest, the model pools into another width than its tokens have, or
    sentence-transformers is needed and not installed.
    """
    with ThreadPoolExecutor(1) as pool:
        checked = pool.submit(check_digest, folder, digest)  # while transformers is imported: a third of a second
        try:
            kinds, modes = _modules(folder)
            config = config_facts(read_json(folder / CONFIG))
            limits = read_json(folder / LIMITS) if (folder / LIMITS).is_file() else {}
            prompt, lower = _prompt(folder), bool(limits.get("do_lower_case"))
            network = load_network(folder, TOWERS.get(str(config.get("model_type")), ("AutoModel", ""))[0])
        finally:
            digest = checked.result()  # what is wrong with the weights is told first
    tokenizer = (folder / TOKENIZER).read_text("utf-8")
    max_tokens = int(limits.get("max_seq_length") or token_limit(folder))
    plain = config.get("model_type") == "bert" and modes == ["mean"] and kinds[2:] == ["Normalize"]
    if plain and not prompt and not lower:
        return SentenceEncoder(network, tokenizer, id=id, digest=digest, max_tokens=max_tokens)
    del network  # the library loads its own, without a word about weights that lack
    model = _load_by_library(folder)
    facts = {"config": config, "pooling": modes[0], "prompt": prompt, "lower": lower}
    dim = int(model[1].pooling_output_dimension)
    return LibraryEncoder(model, tokenizer, id=id, digest=digest, max_tokens=max_tokens, dim=dim, facts=facts)


def _load_by_library(folder: Path) -> Any:
    library = import_extra("sentence_transformers", "sentence", "sentence-transformers")
    with quiet_transformers():
        try:
            weights = {"use_safetensors": True, "dtype": torch.float32}
            return library.SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs=weights)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"source: sentence-transformers cannot open {folder}: {reason}; pass another") from error


def _modules(folder: Path) -> tuple[list[str], list[str]]:
    """Kinds of the modules of a sentence-transformers folder, and how it pools."""
    modules = read_json(folder / MODULES)
    kinds = [str(module["type"].rsplit(".", 1)[-1]) for module in modules]
    foreign = any(not module["type"].startswith("sentence_transformers.") for module in modules)
    if foreign or kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Normalize"}:
        raise UserError(
            f"source: {folder} is {kinds}; only Transformer, Pooling and Normalize can be loaded, since other "
            "modules give a code of another width than its tokens have"
        )
    config = read_json(folder / modules[1]["path"] / CONFIG)
    modes = _pooling_modes(config)
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise UserError(f"source: {folder} pools by {modes}; only one of {', '.join(POOLINGS)} can be loaded")
    if not config.get("include_prompt", True) and _prompt(folder):
        raise UserError(f"source: {folder} leaves its prompt out of the pooling; pass a model that does not")
    return kinds, modes


def _pooling_modes(config: Mapping[str, Any]) -> list[str]:
    """Names of the active poolings, as sentence-transformers 6 writes them or as earlier ones did."""
    if "pooling_mode" in config:
        modes = config["pooling_mode"]
        return [modes] if isinstance(modes, str) else list(modes)
    old = {"cls_token": "cls", "max_tokens": "max", "mean_tokens": "mean", "weightedmean_tokens": "weightedmean"}
    active = [key.removeprefix("pooling_mode_") for key, on in config.items() if on is True and "pooling_mode_" in key]
    return [old.get(key, key) for key in active] or ["mean"]


def _prompt(folder: Path) -> str:
    path = folder / "config_sentence_transformers.json"
    config = read_json(path) if path.is_file() else {}
    return str((config.get("prompts") or {}).get(config.get("default_prompt_name") or "", ""))
