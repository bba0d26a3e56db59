"""A model without training: a local flow over a dataset, python -m train.memory configs/pictures-memory.yaml

Encodes pictures and captions once and writes `out/model`. Its window and perplexity are chosen on validation, by
`python -m eval out/model --split validation` for each of a few.
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bridge.checkpoint import check_replaceable
from bridge.codec import load_codec
from bridge.learn import Memory
from bridge.memory import CaptionMemory
from bridge.pipeline import BridgePipeline, Settings
from bridge.text import TextEncoder
from train.config import ConfigError, named, run_config
from train.data.cache import CACHE, caption_codes
from train.data.dataset import latents_of, load_dataset
from train.mapper import read_card


@dataclass(frozen=True)
class MemoryConfig:
    """Which pictures to keep, and how to draw from them.

    Attributes:
        data: Folder of a dataset.
        vae: Folder of a codec.
        out: Run folder; the model ends in `out/model`.
        splits: Whose rows go into memory.
        captions: Most captions of a picture that are kept, those that say nothing new apart.
        text_encoder: See `TextEncoder.from_pretrained`.
        window: See `bridge.mappers.LocalFlowMapper`, like the next two.
        perplexity: Pictures that a caption effectively draws from.
        neighbours: The nearest pictures, which alone are weighed.
        settings: Of sampling, see `bridge.pipeline.Settings`.
        card: A file that becomes the model's README.md; empty for none.
    """

    data: Path
    vae: Path
    out: Path
    splits: tuple[str, ...] = ("train",)
    captions: int = 4
    text_encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    window: tuple[float, float] = (2.0, 1.7)
    perplexity: float = 8.0
    neighbours: int = 192
    settings: Settings = field(default_factory=Settings)
    card: str = ""

    def __post_init__(self) -> None:
        if self.captions < 1:
            raise ConfigError(f"captions: expected 1 or more, got {self.captions}")
        if len(self.window) != 2:
            raise ConfigError(f"window: expected two numbers, at t = 0 and at t = 1, got {self.window}")


def telling(captions: Sequence[str], style: str, most: int) -> list[str]:
    """The first captions that are more than another with an article, or with the kind of picture as a word.

    >>> telling(["cat", "a cat", "cat, flat", "flat drawing of a cat", "a black cat", "pet"], "flat", 3)
    ['cat', 'a black cat', 'pet']
    """
    kept: dict[str, str] = {}
    for caption in captions:
        bare = re.sub(r"^(an?|the) ", "", caption)
        kind = style and re.search(rf"\b{re.escape(style)}\b", caption) and style not in captions[0]
        if bare not in kept and (not kind or not kept):
            kept[bare] = caption
    return list(kept.values())[:most]


def build(config: MemoryConfig) -> Path:
    """Write the model; returns its folder.

    Raises:
        UserError: The data or the codec cannot be used.
    """
    check_replaceable(config.out / "model")
    dataset = load_dataset(config.data)
    rows = [i for i, split in enumerate(dataset["split"]) if split in config.splits]
    if not rows:
        raise ConfigError(f"splits: {config.data} has no rows of {', '.join(config.splits)}")
    dataset, cache = dataset.select(rows), config.data / CACHE
    with named("vae"):
        codec = load_codec(config.vae)
    with named("text_encoder"):
        encoder = TextEncoder.from_pretrained(config.text_encoder)
    card = read_card(config.card)
    styles = [str(style) for style in dataset["style"]]
    captions = [telling(c, s, config.captions) for c, s in zip(dataset["captions"], styles, strict=True)]
    texts = sorted({caption for row in captions for caption in row}, key=lambda text: (len(text), text))
    number = {text: i for i, text in enumerate(texts)}
    same = dataset["duplicate"] if "duplicate" in dataset.column_names else [-1] * len(dataset)
    memory = Memory(
        latents_of(codec, dataset, cache).means,
        caption_codes(encoder, texts, cache, with_tokens=False).all_pooled,
        texts,
        [[number[caption] for caption in row] for row in captions],
        [f"picture {i}" if group < 0 else f"group {group}" for i, group in enumerate(same)],
        styles,
    )
    mapper = memory.mapper(config.window, config.perplexity, config.neighbours)
    pipe = BridgePipeline(encoder, mapper, codec, CaptionMemory(mapper.unit_codes, texts), config.settings)
    pipe.save_pretrained(config.out / "model", card)
    return config.out / "model"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return run_config("python -m train.memory", __doc__, "configs/pictures-memory.yaml", MemoryConfig, build, argv)


if __name__ == "__main__":
    sys.exit(main())
