"""Image spaces: pixels <-> standardised latents."""

from bridge.codecs.autoencoders import (
    AUTOENCODERS,
    HUB_FILES,
    AutoencoderCodec,
    TinyCodec,
    VAECodec,
    VQCodec,
    codec_from_diffusers,
)
from bridge.codecs.base import CODECS, DETERMINISTIC_STD, REFINING, ImageCodec, LatentDistribution, load_codec
from bridge.codecs.dense import DenseCodec, DenseVAE
from bridge.codecs.palette import PaletteCodec, PaletteVAE
from bridge.codecs.standardize import PCACodec, PrincipalAxes, WhitenedCodec
from bridge.opening import CONFIG, read_config

CODECS |= {name: kind.from_pretrained for name, kind in AUTOENCODERS.items()} | {
    "DenseVAE": DenseCodec.from_pretrained,
    "PaletteVAE": PaletteCodec.from_pretrained,
    "PCACodec": PCACodec.from_pretrained,
    "WhitenedCodec": WhitenedCodec.from_pretrained,
}

__all__ = [
    "AUTOENCODERS", "CODECS", "CONFIG", "DETERMINISTIC_STD", "HUB_FILES", "REFINING", "AutoencoderCodec", "DenseCodec",
    "DenseVAE", "ImageCodec", "LatentDistribution", "PCACodec", "PaletteCodec", "PaletteVAE", "PrincipalAxes",
    "TinyCodec", "VAECodec", "VQCodec", "WhitenedCodec", "codec_from_diffusers", "load_codec", "read_config",
]  # fmt: skip
