"""Word vectors of the training captions alone: python -m train.prepare data/emoji --words runs/words"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bridge.captions import prepare_caption
from bridge.text.words import WordVectors, split_words
from train.config import ConfigError
from train.data.dataset import load_dataset, rows_of

WINDOW, EPOCHS, SEED = 5, 20, 0
"""Captions are short: within one, every word is near every other."""


def training_sentences(data: Path) -> list[list[str]]:
    """Words of each distinct training caption of a dataset, in the captions' order.

    Raises ConfigError if `data` is no dataset, or has no training rows.
    """
    captions = (text for row in rows_of(load_dataset(data), "train")["captions"] for text in row)
    sentences = (split_words(prepare_caption(text)) for text in dict.fromkeys(captions))
    return [sentence for sentence in sentences if sentence]


def idf_weights(sentences: Sequence[Sequence[str]], words: Sequence[str]) -> Tensor:
    """Smoothed inverse document frequency ln((1 + N) / (1 + n)) + 1 of V words over N sentences, (V,).

    Source: Spärck Jones 1972, A Statistical Interpretation of Term Specificity

    >>> idf_weights([["red", "cat"], ["red", "bus"]], ["red", "unseen"])
    tensor([1.0000, 2.0986])
    """
    holders = Counter(word for sentence in sentences for word in set(sentence))
    counts = torch.tensor([holders[word] for word in words], dtype=torch.float64)
    return (torch.log((1 + len(sentences)) / (1 + counts)) + 1).float()


def fit(sentences: Sequence[Sequence[str]], dim: int, epochs: int = EPOCHS, seed: int = SEED) -> WordVectors:
    """Skip-gram vectors of every word of the sentences, with their idf; one thread, so equal for an equal seed.

    Raises ConfigError if an argument is out of range, or there are no words.

    Source: Mikolov et al. 2013, Distributed Representations of Words and Phrases, arXiv:1310.4546
    """
    from gensim.models import Word2Vec  # noqa: PLC0415

    for name, value in (("dim", dim), ("epochs", epochs)):
        if value < 1:
            raise ConfigError(f"{name}: expected 1 or more, got {value}")
    if not any(sentences):
        raise ConfigError("data: its training captions hold no words")
    model = Word2Vec(sentences, vector_size=dim, window=WINDOW, min_count=1, sg=1, workers=1, epochs=epochs, seed=seed)
    words = list(model.wv.index_to_key)
    vectors = torch.from_numpy(np.array(model.wv.vectors, np.float32))
    return WordVectors(words, vectors, idf_weights(sentences, words))
