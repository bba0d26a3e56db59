"""What an encoder reads of a caption: one spelling, emoji by their names, nothing invisible."""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
import unicodedata
from collections.abc import Mapping

from bridge.errors import UserError

_ARTICLE = re.compile(r"\b(an?|the)\s+(?=\w)", re.IGNORECASE)
_PRESENTATION = dict.fromkeys((0xFE0E, 0xFE0F))  # "as text" and "as emoji" selectors: never meaningful here
# NUL and its like, and halves of characters (broken input bytes), part words; invisible marks do not.
_UNSEEN = {"Cc": " ", "Cs": " ", "Cf": ""}


def prepare_caption(caption: str, labels: Mapping[str, str] | None = None) -> str:
    """The text an encoder reads: NFC, emoji as words, no control characters, single spaces.

    Canonically equal captions give the same result. `labels` are names of emoji, by default those of `emoji_labels`.
    Raises UserError if `caption` is no string, or has nothing visible in it.

    >>> prepare_caption("a 🐱  in a boat", {"🐱": "cat face"})
    'a cat face in a boat'
    """
    if not isinstance(caption, str):
        raise UserError(f"caption: expected text, got {type(caption).__name__} {caption!r}; pass a str")
    text = unicodedata.normalize("NFC", caption)
    if not text.isascii():
        text = _name_emoji(text, _plain_keys() if labels is None else _strip_presentation(labels))
    text = "".join(_UNSEEN.get(unicodedata.category(ch), ch) for ch in text)
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    if not text:
        raise UserError("caption: it is empty or blank; write what the picture should show")
    return text


def without_articles(caption: str) -> str:
    """An English caption without a, an and the.

    >>> without_articles("A castle on the hill")
    'castle on hill'
    """
    return _ARTICLE.sub("", caption)


def well_formed(text: str) -> str:
    """`text` as files and encoders take it: halves of characters joined, or "?" like bytes that were no text.

    >>> well_formed("caf\\udce9"), well_formed("\\ud83d\\ude00")
    ('caf?', '😀')
    """
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return joined.encode("utf-8", "replace").decode()


@functools.cache
def emoji_labels() -> Mapping[str, str]:
    """Emoji to its English label, as shipped in emoji_labels.json (emojibase-data, MIT)."""
    file = importlib.resources.files("bridge").joinpath("emoji_labels.json")
    return json.loads(file.read_text("utf-8"))


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
