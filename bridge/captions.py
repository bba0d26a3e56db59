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
_MEDIUM = r"photo(?:graph)?|picture|image|drawing|illustration|painting|sketch|(?:3d )?render|pixel art"
_LABEL = r"emoji|emoticon|sticker|icon|clip ?art"  # a medium that may also follow what it shows
_REQUEST = re.compile(
    r"^(?:(?:please|can you|could you) )*"
    r"(?:(?:draw|show|make|paint|sketch|generate|create|give) (?:(?:me|us) |(?=(?:an?|the|some|two|three) )))?"
    rf"(?:(?:(?:an?|the|some) )?(?:(?!an? |the )[\w'-]+ ){{0,2}}(?:{_MEDIUM}|{_LABEL})s? of )?",
    re.IGNORECASE,
)
_AFTER_REQUEST = re.compile(rf"(?: (?:{_LABEL})s?(?:,? please)?|,? please)[.!?]*$", re.IGNORECASE)
_PRESENTATION = dict.fromkeys((0xFE0E, 0xFE0F))  # "as text" and "as emoji" selectors: never meaningful here
# NUL and its like, and halves of characters (broken input bytes), part words; invisible marks do not.
_UNSEEN = {"Cc": " ", "Cs": " ", "Cf": ""}


def prepare_caption(caption: str) -> str:
    """The text an encoder reads: NFC, emoji as words, no control characters, single spaces.

    Canonically equal captions give the same result.
    Raises UserError if `caption` is no string, or has nothing visible in it.

    >>> prepare_caption("a 🐱  in a boat")
    'a cat face in a boat'
    """
    if not isinstance(caption, str):
        raise UserError(f"caption: expected text, got {type(caption).__name__} {caption!r}; pass a str")
    text = unicodedata.normalize("NFC", caption)
    if not text.isascii():
        labels, emoji = _plain_labels()
        text = emoji.sub(lambda found: f" {labels[found[0]]} ", text.translate(_PRESENTATION))
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


def asked_for(caption: str) -> str:
    """What an English request for a picture asks to see; a caption that is no request stays as it is.

    >>> asked_for("Draw me a cat, please!"), asked_for("a 3D render of a rocket"), asked_for("fox emoji")
    ('a cat', 'a rocket', 'fox')
    >>> asked_for("paint brush"), asked_for("a picture frame")
    ('paint brush', 'a picture frame')
    """
    words = " ".join(caption.split())
    thing = _AFTER_REQUEST.sub("", _REQUEST.sub("", words))
    return thing if thing != words and without_articles(f"{thing} x").strip() != "x" else caption


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
    return json.loads((importlib.resources.files("bridge") / "emoji_labels.json").read_text("utf-8"))


@functools.cache
def _plain_labels() -> tuple[Mapping[str, str], re.Pattern[str]]:
    """Labels of emoji without presentation selectors, and a pattern that finds them, the longest sequence first."""
    plain = ((key.translate(_PRESENTATION), label) for key, label in emoji_labels().items())
    labels = {key: label for key, label in plain if not key.isascii()}
    return labels, re.compile("|".join(map(re.escape, sorted(labels, key=len, reverse=True))))
