"""Captions to several plausible images, through two latent spaces that never met.

Notation, the same everywhere:

    x      pixels, (B, 3, H, W) in [0, 1]
    z      standardised image latents, (B, *z_shape): zero mean, unit variance over the training images
    c      text code of a caption (`TextCode`); the null code stands for "no caption"
    eps    standard normal noise
    t      time in [0, 1], 0 = noise, 1 = data

    caption -> TextEncoder -> c -> Mapper (+ eps) -> z -> ImageCodec -> x
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.pipeline import BridgeOutput, BridgePipeline
    from bridge.text import TextCode, TextEncoder
    from bridge.text.words import WordVectors

__version__ = "0.1.0"
__all__ = ["BridgeOutput", "BridgePipeline", "TextCode", "TextEncoder", "WordVectors", "__version__"]

_HOME = {
    "BridgeOutput": "bridge.pipeline",
    "BridgePipeline": "bridge.pipeline",
    "TextCode": "bridge.text",
    "TextEncoder": "bridge.text",
    "WordVectors": "bridge.text.words",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command line answers a typing error at once."""
    if name not in _HOME:
        raise AttributeError(f"module 'bridge' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
