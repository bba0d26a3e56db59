"""Text that people's programs wrote: decoded and split into lines as editors do it."""

import codecs
import re

from bridge.errors import UserError

BOMS = (  # those of UTF-32 first: that of UTF-16 is how one of them begins
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WESTERN = "cp1252"
_FOREIGN = (
    r"[^\W\d_][¡-¿×÷][^\W\d_]",  # a sign inside a word
    r"[^\x00-\x7f\W]{3}",  # no plain letter in a row
    r"[a-zà-ÿ][À-ÞŠŒŽŸ]",  # a capital inside a word
)
_SIGNS = frozenset("€‚„…†‡‰‹‘’“”•–—™›\xa0¡¢£§©«®°±²³´·»¼½¾¿×÷")


class EncodingError(UserError):
    """Text in no encoding that is sure; the message says why and what to do, without naming the file."""


def decode(data: bytes) -> tuple[str, str]:
    """Text, and the encoding it is in: by its byte order mark, else UTF-8, UTF-16 or Windows-1252.

    Raises EncodingError if it is none of them, or is UTF-8 with broken bytes.

    >>> decode("un café".encode("utf-16-le")), decode("un café".encode("latin-1"))
    (('un café', 'utf-16-le'), ('un café', 'cp1252'))
    """
    encoding = next((name for bom, name in BOMS if data.startswith(bom)), None) or _without_mark(data) or "utf-8"
    try:
        return data.decode(encoding), encoding
    except UnicodeDecodeError as error:
        text = data.decode("utf-8", "replace")
        broken = text.count("\ufffd")
        if encoding == "utf-8" and sum(not ch.isascii() for ch in text) < 2 * broken and _is_western(data):
            return data.decode(WESTERN), WESTERN
        line = len(split_lines(data[: error.start].decode(encoding, "replace") + "?"))
        expected = "it is not UTF-8, UTF-16 or Western European text"
        raise EncodingError(f"{expected} (line {line}); save it as UTF-8") from None


def split_lines(text: str) -> list[str]:
    """Lines as editors count them: only CR, LF and both together end one; a last line without text is none.

    >>> split_lines("a\\u2028b\\rc\\r\\n\\nd\\n")
    ['a\\u2028b', 'c', '', 'd']
    """
    lines = re.split(r"\r\n|\r|\n", text)
    return lines if lines[-1] else lines[:-1]


def _without_mark(data: bytes) -> str | None:
    """UTF-16 by its zero bytes, which delimiters and line ends have in every language."""
    if not data or len(data) % 2:
        return None
    even, odd = data[::2].count(0), data[1::2].count(0)
    if max(even, odd) * 20 < len(data) // 2 or min(even, odd) * 10 > max(even, odd):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _is_western(data: bytes) -> bool:
    """Whether bytes make sense as Windows-1252: accented letters among plain ones, and signs that people write."""
    try:
        text = data.decode(WESTERN)
    except UnicodeDecodeError:
        return False
    if "\0" in text or any(not (ch.isascii() or ch.isalpha() or ch in _SIGNS) for ch in text):
        return False
    letters = [ch for ch in text if ch.isalpha()]
    accented = sum(not ch.isascii() for ch in letters)
    return accented * 2 <= max(len(letters), 6) and not any(re.search(pattern, text) for pattern in _FOREIGN)
