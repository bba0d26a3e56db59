"""Captions to text codes `c`. Importing this is cheap: an encoder's libraries are imported when it is loaded."""

from bridge.text.base import DEFAULT_ID, CaptionTruncatedWarning, CaptionUnknownWarning, TextCode, TextEncoder
from bridge.text.encoders import open_text_encoder

TextEncoder.opener = staticmethod(open_text_encoder)

__all__ = [
    "DEFAULT_ID",
    "CaptionTruncatedWarning",
    "CaptionUnknownWarning",
    "TextCode",
    "TextEncoder",
    "open_text_encoder",
]
