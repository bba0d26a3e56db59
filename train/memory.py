"""A model without training: a local flow over a dataset, python -m train.memory configs/pictures-memory.yaml

Encodes pictures and captions once and writes `out/model`. Window and perplexity are chosen on validation, by
`python -m eval out/model --quick --window 1.5 2 3 --perplexity 4 8 16`.
"""

import itertools
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from bridge.checkpoint import CACHE, check_replaceable
from bridge.codecs import AutoencoderCodec, ImageCodec, load_codec
from bridge.learn import WHITENING, Memory
from bridge.mappers import LocalFlowMapper
from bridge.mappers.local import HOTTEST, KEPT, SETTINGS
from bridge.memory import CaptionMemory
from bridge.noise import generator_for
from bridge.pipeline import BridgePipeline, Settings
from bridge.text import DEFAULT_ID, TextCode, TextEncoder
from train.command import say
from train.config import ConfigError, check, load_config, named, read_card, run_config
from train.data.cache import can_read, caption_codes
from train.data.dataset import latents_of, load_dataset, row_numbers
from train.recipes.names import words_of

CREDITS = "CREDITS.md"
HELD_OUT, VIEWS, AT_ONCE = 256, 4, 32  # Of `held_out_losses`: pairs, times of each, and examples at once


@dataclass(frozen=True)
class Names:
    """Everyday words -> labels of emoji that show them, whose captions they are too, and of no other emoji."""

    names: dict[str, Any]

    def __post_init__(self) -> None:
        for word, labels in self.names.items():
            if not isinstance(labels, tuple):
                raise ConfigError(f"names: expected a list of labels for {word!r}, got {labels!r}")
            if odd := [text for text in (word, *labels) if not isinstance(text, str)]:
                raise ConfigError(f"names: expected text, got {odd[0]!r} for {word!r}; put it in quotes")


@dataclass(frozen=True)
class MemoryConfig:
    """Which pictures to keep, and how to draw from them."""

    data: Path  # Folder of a dataset
    vae: Path  # Folder of a codec
    out: Path  # Run folder; the model ends in `out/model`
    splits: tuple[str, ...] = ("train",)  # Whose rows go into memory
    refine: int = 0  # Steps by which latents are brought nearer to their pictures; see `ImageCodec.refined`
    unrefined: tuple[str, ...] = ()  # Styles whose latents are not, which saves time
    half: bool = False  # Round the weights of codec and correction to half precision, which halves their bytes
    captions: int = 4  # Most captions of a picture that are kept, those that say nothing new apart
    tags: int = 0  # Most tags of an emoji that become further captions, see `allusions`
    names: str = ""  # YAML file of `Names`, further captions of emoji; empty for none
    text: str = DEFAULT_ID  # The text encoder; see `TextEncoder.from_pretrained`
    window: tuple[float, float] = (2.0, 1.7)  # See `bridge.mappers.LocalFlowMapper`, like the next two
    perplexity: float = 8.0  # Pictures that a caption effectively draws from
    neighbours: int = 192  # The nearest pictures, which alone are weighed
    hottest: float = HOTTEST  # Most that the temperature of the captions' kernel may be; see `LocalFlowMapper`
    lead: float = 0.0  # How much more the picture weighs that leads an image; see `LocalFlowMapper`
    whitening: float = WHITENING  # How far captions are whitened before they are compared, 0 to 1
    bits: tuple[int, ...] = (8,)  # One number for all channels of a latent, or one each; see `LocalFlowMapper`
    code_bits: int = 8  # Of a number of a caption's code: 2, 4, 6 or 8
    correction: str = ""  # A model folder whose learned correction is added; empty for none. See `train.mapper`.
    strength: float = 1.0  # Factor on it
    begin: float = 0.0  # Time from which on it corrects
    settings: Settings = field(default_factory=Settings)  # Of sampling, see `bridge.pipeline.Settings`
    card: str = ""  # A file that becomes the model's README.md, with the data's CREDITS.md below it; empty for none

    def __post_init__(self) -> None:
        check(self, "captions", "1 or more", lambda count: count >= 1)
        check(self, "tags refine", "0 or more", lambda count: count >= 0)
        check(self, "bits", "2, 4, 6 or 8, or one of these for each channel", len)
        check(self, "code_bits", "2, 4, 6 or 8", KEPT.__contains__)
        check(self, "window", "two numbers, at t = 0 and at t = 1", lambda window: len(window) == 2)

    def local(self) -> dict[str, Any]:
        """Settings of the local flow, but for `bits`."""
        return {name: value for name, value in vars(self).items() if name in SETTINGS}


def telling(captions: Sequence[str], style: str, most: int) -> list[str]:
    """The first captions that say more than those before, an article and the kind of picture apart.

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


def allusions(label: str, tags: Sequence[str], captions: Sequence[str], most: int) -> list[str]:
    """A picture's first tags that say more than its captions, each beside its label.

    >>> allusions("steaming bowl", ["bowl", "noodle", "ramen"], ["steaming bowl", "noodle bowl"], 2)
    ['steaming bowl, ramen']
    """
    known = {word for caption in captions for word in words_of(caption)}
    return [f"{label}, {tag}" for tag in tags if not set(words_of(tag)) <= known][:most]


def build(config: MemoryConfig) -> Path:
    """Write the model; returns its folder. UserError if the data or the codec cannot be used."""
    check_replaceable(config.out / "model")
    dataset, card, credit = load_dataset(config.data), read_card(config.card), config.data / CREDITS
    if credit.is_file():
        credits = credit.read_text("utf-8").replace("# Credits", "## Credits")
        card = "\n\n".join(filter(None, [card.rstrip(), credits]))
    row_numbers(dataset, config.splits, "splits")
    codec, encoder = opened(config)
    memory = remember(config, dataset, codec, encoder)
    bits = config.bits if len(config.bits) > 1 else config.bits[0]
    mapper = memory.mapper(config.local() | {"bits": bits, "code_bits": config.code_bits})
    if config.correction:
        mapper = mapper.corrected_like(correction_of(config, codec), config.strength, config.begin)
        for weight in mapper.parameters() if config.half else ():
            weight.data = weight.data.half().float()
    known = CaptionMemory(mapper.unit_codes, memory.texts)
    BridgePipeline(encoder, mapper, codec, known, config.settings).save_pretrained(config.out / "model", card)
    return config.out / "model"


def opened(config: MemoryConfig) -> tuple[ImageCodec, TextEncoder]:
    """The codec, rounded if the config says so, and the text encoder. ConfigError if one cannot be used."""
    with named("vae"):
        codec = load_codec(config.vae)
    if config.half:
        if not isinstance(codec, AutoencoderCodec):
            raise ConfigError(f"half: {config.vae} is a {type(codec).__name__}, whose weights cannot be rounded")
        codec = codec.rounded()
    with named("text"):
        return codec, TextEncoder.from_pretrained(config.text)


def correction_of(config: MemoryConfig, codec: ImageCodec) -> LocalFlowMapper:
    """The local flow whose correction is taken. ConfigError if there is none, or one of another codec."""
    with named("correction"):
        pipe = BridgePipeline.from_pretrained(Path(config.correction))
    if not isinstance(pipe.mapper, LocalFlowMapper) or pipe.mapper.network is None:
        raise ConfigError(f"correction: {config.correction} has none; train one with `python -m train.mapper`")
    if pipe.codec.fingerprint != codec.fingerprint:
        raise ConfigError(f"correction: {config.correction} was trained on another codec than {config.vae}")
    return pipe.mapper


def remember(config: MemoryConfig, dataset: Dataset, codec: ImageCodec, encoder: TextEncoder) -> Memory:
    """The rows of the config's splits, with their most telling captions.

    All of the dataset is encoded, so that a memory of other splits finds it in the cache; only what is kept is refined.
    """
    cache, styles = config.data / CACHE, [str(style) for style in dataset["style"]]
    captions = [
        telling([text for text in texts if can_read(encoder, text)], style, config.captions)
        for texts, style in zip(dataset["captions"], styles, strict=True)
    ]
    hexcodes, turned = column(dataset, "hexcode", ""), column(dataset, "turned", False)
    emoji = [i for i, row in enumerate(captions) if row and hexcodes[i] and not turned[i]]  # In their own colours
    labels = list(dataset["label"])
    if config.names and emoji:
        with named("names"):
            names = load_config(Path(config.names), Names).names
        if strange := sorted({label for shown in names.values() for label in shown} - set(labels)):
            say(f"train.memory: {config.names} names labels that no picture has: {', '.join(strange)}")
        for i in emoji:
            words = [word for word, shown in names.items() if labels[i] in shown]
            others = names.keys() - {*words, labels[i]}
            captions[i] = list(dict.fromkeys([*(text for text in captions[i] if text not in others), *words]))
    plain = {caption for row in captions for caption in row}
    if config.tags and emoji:
        tags = list(dataset["tags"])
        for i in emoji:
            more = allusions(labels[i], tags[i], captions[i], config.tags)
            captions[i] += [text for text in more if text not in captions[i]]
    rows = row_numbers(dataset, config.splits, "splits")
    kept = [i for i in rows if captions[i]]
    if lost := len(rows) - len(kept):
        say(f"train.memory: left out {lost} pictures whose captions the encoder cannot read")
    everything = sorted({caption for row in captions for caption in row}, key=lambda text: (len(text), text))
    codes = caption_codes(encoder, everything, cache, with_tokens=False).all_pooled
    known = {caption for i in kept for caption in captions[i]}
    chosen = [i for i, text in enumerate(everything) if text in known]
    texts = [everything[i] for i in chosen]
    number = {text: i for i, text in enumerate(texts)}
    latents = latents_of(codec, dataset, cache).means
    if refined := [i for i in kept if config.refine and styles[i] not in config.unrefined]:
        latents[refined] = latents_of(codec, dataset.select(refined), cache, config.refine).means
    numbers = [[number[caption] for caption in captions[i]] for i in kept]
    same = column(dataset, "duplicate", -1)
    groups = [f"picture {i}" if same[i] < 0 else f"group {same[i]}" for i in kept]
    kinds, allusive = [styles[i] for i in kept], frozenset(texts) - plain
    return Memory(latents[kept], codes[chosen], texts, numbers, groups, kinds, allusions=allusive)


def column(dataset: Dataset, name: str, default: Any) -> list[Any]:
    """A column of a dataset; the default in every row where there is none."""
    return list(dataset[name]) if name in dataset.column_names else [default] * len(dataset)


def held_out_losses(
    config: MemoryConfig, windows: Sequence[tuple[float, float]], perplexities: Sequence[float]
) -> dict[tuple[tuple[float, float], float], float]:
    """Flow matching loss on validation pairs of local flows over the config's rows, by (window, perplexity).

    Each pair, of `HELD_OUT` at most, is seen at `VIEWS` times, with the same noise under every setting. ConfigError if
    there are no validation rows.
    """
    dataset, (codec, encoder) = load_dataset(config.data), opened(config)
    memory = remember(config, dataset, codec, encoder)
    rows = row_numbers(dataset, ["validation"])[:HELD_OUT]
    z = latents_of(codec, dataset, config.data / CACHE).means[rows].repeat(VIEWS, *[1] * len(codec.z_shape))
    codes = encoder.encode([dataset[i]["captions"][0] for i in rows], batch_size=32, with_tokens=False)
    codes = TextCode.cat([codes] * VIEWS)
    parts = [slice(at, at + AT_ONCE) for at in range(0, len(z), AT_ONCE)]
    losses = {}
    for window, perplexity in itertools.product(windows, perplexities):
        mapper = memory.mapper(config.local() | {"window": window, "perplexity": perplexity})
        noise = torch.randn(len(z), *mapper.loss_noise_shape, generator=generator_for(0))
        with torch.no_grad():
            loss = torch.cat([mapper.loss(z[part], codes[part], noise=noise[part]) for part in parts])
        losses[window, perplexity] = float(loss.mean())
    return losses


main = partial(run_config, "python -m train.memory", __doc__, "configs/pictures-memory.yaml", MemoryConfig, build)

if __name__ == "__main__":
    sys.exit(main())
