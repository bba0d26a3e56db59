"""Static word vectors as a text encoder: no network, a caption is the weighted mean of its words."""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from bridge.checkpoint import MANIFEST, verify_folder
from bridge.errors import MissingModelError, UserError, first_line
from bridge.text.base import WORDS, TextCode, TextEncoder

INDEX, VECTORS = "words.json", "words.safetensors"
MAX_TOKENS = 256
_WORD = re.compile(r"[^\W_]+")


class WordVectors(TextEncoder):
    """Word vectors, a caption's code their mean weighted by inverse document frequency, at unit length.

    A caption's tokens are the vectors of its words in order, at most `max_tokens`; unknown words are skipped. A word is
    looked up among the V distinct `words` as it is written, then lowered; `vectors` are (V, D), and `idf`, the words'
    weights, none negative, (V,): without it all weigh the same.

    Source: Mikolov et al. 2013, Distributed Representations of Words and Phrases, arXiv:1310.4546; idf: Spärck
        Jones 1972, A Statistical Interpretation of Term Specificity

    >>> space = WordVectors(["red", "cat"], torch.eye(2))
    >>> space.encode(["a red cat"]).pooled
    tensor([[0.7071, 0.7071]])
    """

    kind = WORDS
    vectors: Tensor
    idf: Tensor

    def __init__(
        self,
        words: Sequence[str],
        vectors: Tensor,
        idf: Tensor | None = None,
        *,
        id: str = "words",
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        super().__init__()
        vectors = vectors.detach().float().contiguous().clone()
        idf = torch.ones(len(words)) if idf is None else idf.detach().float().clone()
        if vectors.ndim != 2 or len(vectors) != len(words) or not vectors.numel():
            raise UserError(f"vectors: expected (V, D) for {len(words)} >= 1 words, got {tuple(vectors.shape)}")
        if idf.shape != (len(words),) or not (idf.isfinite() & (idf >= 0)).all():
            raise UserError(f"idf: expected ({len(words)},) finite weights of 0 or more, got {tuple(idf.shape)}")
        if not vectors.isfinite().all():
            raise UserError("vectors: expected finite numbers; leave out the words without")
        self.words = list(words)
        self.number = {word: row for row, word in enumerate(self.words)}
        if len(self.number) != len(self.words):
            raise UserError("words: expected each once; leave out the repeated ones")
        self.register_buffer("vectors", vectors)
        self.register_buffer("idf", idf)
        self.id, self.dim, self.max_tokens = id, vectors.shape[1], max_tokens
        identity = hashlib.sha256(json.dumps([self.words, max_tokens]).encode())
        for tensor in (vectors, idf):
            identity.update(tensor.cpu().numpy().tobytes())
        self.digest = identity.hexdigest()
        self.fingerprint = self.digest[:16]

    @classmethod
    def from_pretrained(
        cls, source: str | Path = "", *, digest: str | None = None, id: str | None = None
    ) -> WordVectors:
        """Open a folder that `save` wrote, or a file of word vectors; its `id` is the given one, or its path.

        A file is text (a word and its numbers a line, with or without a first line of counts: GloVe, word2vec,
        fastText), .bin (word2vec) or .npz (words, vectors and perhaps idf). Of a word that stands twice the first
        counts. No pickle is loaded: not gensim's .kv, and no objects in an .npz.

        Raises MissingModelError if there is no such file, UserError if it is damaged, of another format, or its
        `WordVectors.digest` is not `digest`.
        """
        path = Path(source)
        if not str(source) or not path.exists():
            raise MissingModelError(f"source: no such file or folder {str(source)!r}; pass a file of word vectors")
        parts, max_tokens = _read_folder(path) if path.is_dir() else (_read_file(path), MAX_TOKENS)
        encoder = cls(*parts, id=id or str(source), max_tokens=max_tokens)
        if digest not in (None, encoder.digest):
            raise UserError(
                f"digest: {path} has {encoder.digest}, expected {digest}; these are not the vectors asked for: "
                "pass the digest you trust"
            )
        return encoder

    def save(self, folder: Path) -> None:
        """Write words.json and words.safetensors into `folder`, made if missing."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"vectors": self.vectors.cpu(), "idf": self.idf.cpu()}, folder / VECTORS)
        index = {"max_tokens": self.max_tokens, "words": self.words}
        (folder / INDEX).write_text(json.dumps(index, ensure_ascii=False, indent=0) + "\n", "utf-8")

    def prepare(self, caption: str) -> str:
        """The text that is encoded. Raises UserError also where the caption has no known word."""
        text = super().prepare(caption)
        if not self._rows(text):
            raise UserError(
                f"caption: {caption[:60]!r} has none of the {len(self.words)} known words; use other words, or "
                "word vectors that know more"
            )
        return text

    def token_ids(self, text: str) -> Tensor:
        rows = self._rows(text)
        if len(rows) > self.max_tokens:
            self._warn_cut(text, len(rows), rows[self.max_tokens][1])
        return torch.tensor([row for row, _ in rows[: self.max_tokens]], dtype=torch.long)

    def code_batch(self, ids: Sequence[Tensor]) -> TextCode:
        mask = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in ids], batch_first=True).to(self.device)
        rows = pad_sequence(list(ids), batch_first=True).to(self.device)
        tokens = self.vectors[rows] * mask[..., None]
        pooled = (tokens * self.idf[rows][..., None]).sum(1)
        for row in (pooled.norm(dim=1) == 0).nonzero()[:, 0].tolist():
            named = " ".join(self.words[i] for i in ids[row].tolist())
            raise UserError(f"captions: the vectors of {named!r} cancel out; use other words")
        return TextCode(F.normalize(pooled, dim=1), tokens, mask)

    def _rows(self, text: str) -> list[tuple[int, int]]:
        """Row and first character of each known word of a prepared text."""
        rows = ((self.number.get(m[0], self.number.get(m[0].lower())), m.start()) for m in _WORD.finditer(text))
        return [(row, start) for row, start in rows if row is not None]


def split_words(text: str) -> list[str]:
    """The words of a prepared text, lowered, as `WordVectors` looks them up.

    >>> split_words("T-shirt: medium-dark skin tone")
    ['t', 'shirt', 'medium', 'dark', 'skin', 'tone']
    """
    return [word.lower() for word in _WORD.findall(text)]


Parts = tuple[list[str], Tensor, Tensor | None]
"""Words, vectors and idf."""


def _read_folder(folder: Path) -> tuple[Parts, int]:
    if (folder / MANIFEST).is_file():
        verify_folder(folder)
    if missing := [name for name in (INDEX, VECTORS) if not (folder / name).is_file()]:
        raise MissingModelError(f"source: {folder} lacks {', '.join(missing)}; copy it whole")
    try:
        index, tensors = json.loads((folder / INDEX).read_text("utf-8")), load_file(folder / VECTORS)
        return (list(index["words"]), tensors["vectors"], tensors["idf"]), int(index["max_tokens"])
    except Exception as error:  # safetensors' own error is none of Python's
        remedy = "make it again with train.prepare --words"
        raise UserError(f"source: {folder} is damaged ({first_line(error)}); {remedy}") from error


def _read_file(path: Path) -> Parts:
    readers = {".npz": _read_npz, ".bin": _read_binary}
    try:
        with path.open("rb") as file:
            head = file.read(2)
        if path.suffix.lower() == ".kv" or (head[:1] == b"\x80" and head[1:] in (b"\2", b"\3", b"\4", b"\5")):
            raise UserError(
                "it is a pickle, which runs code when it is opened, and is not loaded; of one that you trust, "
                "`gensim.models.KeyedVectors.load(PATH).save_word2vec_format('words.txt')` makes text"
            )
        return readers.get(path.suffix.lower(), _read_text)(path)
    except (ValueError, OSError, EOFError, KeyError, BadZipFile) as error:
        reason = first_line(error).removeprefix("source: ")
        raise UserError(f"source: {path}: {reason}; pass word vectors as text, .bin or .npz") from error


def _read_text(path: Path) -> Parts:
    words: dict[str, np.ndarray] = {}
    dim = 0
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            fields = line.split()
            if number == 1 and len(fields) == 2 and all(field.isdecimal() for field in fields):
                dim = int(fields[1])
                continue
            dim = dim or len(fields) - 1
            word, *numbers = line.rstrip().rsplit(None, dim) if dim > 0 else [""]
            if len(numbers) != dim or not word:
                raise UserError(f"line {number} has {len(fields) - 1} numbers, expected {max(dim, 1)} after a word")
            words.setdefault(word, np.array(numbers, dtype=np.float32))
    if not words:
        raise UserError("it is empty")
    return list(words), torch.from_numpy(np.stack(list(words.values()))), None


def _read_npz(path: Path) -> Parts:
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        if missing := [name for name in ("words", "vectors") if name not in file]:
            raise UserError(f"it lacks {', '.join(missing)}, it has {', '.join(file) or 'nothing'}")
        idf = torch.from_numpy(file["idf"].astype(np.float32)) if "idf" in file else None
        return [str(word) for word in file["words"]], torch.from_numpy(file["vectors"].astype(np.float32)), idf


def _read_binary(path: Path) -> Parts:
    """word2vec's own format: a line with the counts of words and numbers, then each word, a space, its float32."""
    size, words = path.stat().st_size, dict[str, np.ndarray]()
    with path.open("rb") as file:
        head = file.readline(64)
        counts = head.split()
        if len(counts) != 2 or not all(count.isdigit() for count in counts) or not head.endswith(b"\n"):
            raise UserError("it does not begin with its counts of words and numbers, as word2vec's .bin does")
        rows, dim = map(int, counts)
        if not rows or not dim or rows * (4 * dim + 2) > size:
            raise UserError(f"it is cut short, or damaged: {size} bytes do not hold {rows} words of {dim} numbers")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            place = len(head)
            for row in range(1, rows + 1):
                end = data.find(b" ", place) + 1
                vector = data[end : end + 4 * dim]
                if not end or len(vector) < 4 * dim:
                    raise UserError(f"it is cut short: it ends in word {row} of {rows}")
                word = data[place : end - 1].lstrip(b"\r\n").decode("utf-8", "replace")
                words.setdefault(word, np.frombuffer(vector, "<f4"))
                place = end + 4 * dim
    return list(words), torch.from_numpy(np.stack(list(words.values())).astype(np.float32)), None
