"""Train the bridge between two frozen encoders: python -m train.mapper configs/emoji-matching.yaml

With nothing to configure, from captioned pictures of your own: python -m train FOLDER
"""

import contextlib
import copy
import inspect
import math
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn

from bridge.checkpoint import CACHE, check_replaceable
from bridge.codecs import load_codec
from bridge.images import contact_sheet, save_png, to_pil
from bridge.mappers import FAMILIES, LocalFlowMapper, Mapper, TransformerFlowMapper, load_mapper
from bridge.mappers.local import NETWORKS
from bridge.memory import CaptionMemory
from bridge.noise import generator_for
from bridge.opening import CONFIG, read_config
from bridge.pipeline import MEMORY, BridgePipeline, Settings, check_settings
from bridge.text import DEFAULT_ID, TextCode, TextEncoder
from train.checkpoint import fingerprint_of
from train.command import say
from train.config import ConfigError, check, named, read_card, run_config
from train.copies import CopyTest, thumbnails
from train.data.cache import Codes, Latents, Shards, can_read, caption_codes
from train.data.dataset import CaptionTable, EpochRows, latents_of, load_dataset, pixels_of, rows_of, to_unit
from train.loop import Loop, LoopConfig

NEAR_CHUNK, VALIDATED, COPIES_EACH = 1024, 1024, 2
HELD_OUT = ("validation", "seen_validation")  # Captions that training never saw, and artists of those that it did
FORMER = {"replay": 0, "replay_share": 0.5}  # Settings of earlier versions in a run's identity, so that those resume


@dataclass(frozen=True)
class MapperConfig:
    """What to train, on what, and how the model then samples by default."""

    data: Path  # Folder of a dataset; only its "train" rows are trained on
    vae: Path  # Folder of a trained codec: a VAE, or any other that `bridge.codecs.load_codec` opens
    out: Path  # Run folder; the model ends in `out/model`
    loop: LoopConfig  # How to train
    text: str = DEFAULT_ID  # The text encoder: a hub id, a folder, or a file of word vectors
    text_digest: str = ""  # sha256 of its weights, to take no others; empty takes any (of MiniLM by id, the known ones)
    family: str = "FlowMatchingMapper"  # Class name of the mapper
    memory: str = ""  # Folder of a model whose local flow is corrected; for family LocalFlowMapper, and no other
    mapper: dict[str, Any] = field(default_factory=dict)  # Its arguments, or those of a local flow's correction
    strength: float = 1.0  # Of a correction, in the finished model; chosen on validation data, like the next
    begin: float = 0.0  # Time from which on it corrects there; it is trained at all times
    caption_dropout: float = 0.1  # Share of examples trained without their caption, for guidance
    label_share: float = 0.4  # Share of captions that are the label itself; the others are its variants
    mix_share: float = 0.0  # Share of captions moved towards the code of a near training caption
    family_power: float = 0.5  # Rows are drawn in proportion to (size of their family) ** -family_power
    init: str = ""  # Model folder whose mapper to start from; empty starts from nothing
    # Held-out captions of which pictures are drawn at each validation. The log then has `copies`, the share that
    # repeats a training picture, and `steps_without_copies`: the step where that share is at most `most_copies`, else
    # 0. To stop on its maximum is to train as long as nothing is copied.
    copies_of: int = 0
    most_copies: float = 0.02  # Of held-out real pictures .01 count as copies, by construction
    settings: Settings = field(default_factory=Settings)  # Defaults of the finished model, chosen on validation data
    card: str = ""  # Markdown file that becomes the model's README.md

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ConfigError(f"family: unknown {self.family!r}; known: {', '.join(FAMILIES)}")
        if self.corrects and not self.memory:
            remedy = "is made with `python -m train.memory`; name that model in `memory` to train a correction of it"
            raise ConfigError(f"family: {self.family} {remedy}")
        if self.memory and not self.corrects:
            raise ConfigError(f"memory: {self.family} has none; set `family: {LocalFlowMapper.__name__}`")
        shares = "caption_dropout label_share mix_share most_copies"
        check(self, shares, "a share from 0 to 1", lambda share: 0 <= share <= 1)
        check(self, "copies_of", "0 or more captions", lambda count: count >= 0)
        check_settings(FAMILIES[self.family], self.settings)

    @property
    def corrects(self) -> bool:
        """Whether a local flow's correction is trained."""
        return self.family == LocalFlowMapper.__name__


class MapperObjective(nn.Module):
    """A mapper's loss, behind a forward that takes tensors."""

    def __init__(self, mapper: Mapper) -> None:
        super().__init__()
        self.mapper = mapper

    def forward(self, z: Tensor, pooled: Tensor, tokens: Tensor, mask: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Loss, (B,), of latents z (B, *z_shape) under the parts of a TextCode and noise (B, *loss_noise_shape)."""
        return {"loss": self.mapper.loss(z, TextCode(pooled, tokens, mask), noise=noise)}


@dataclass(frozen=True)
class Side:
    """One split of N rows, encoded."""

    latents: Latents
    table: CaptionTable  # Captions of each row
    codes: Codes  # Of all captions
    families: Tensor  # Of the rows, (N,)
    content: str  # Identity of latents and captions


class MapperTraining:
    """Everything a mapper run needs around the loop."""

    def __init__(self, config: MapperConfig) -> None:
        self.config, self.cache = config, config.data / CACHE
        self.card = read_card(config.card)
        dataset = load_dataset(config.data)
        with named("text"):
            self.encoder = TextEncoder.from_pretrained(config.text, digest=config.text_digest or None)
        if not (config.vae / CONFIG).exists():
            raise ConfigError(f"vae: {config.vae} holds no VAE; train it with `python -m train.autoencoder` first")
        self.codec = load_codec(config.vae)
        torch.manual_seed(config.loop.seed)
        self.mapper = self.first_mapper()
        self.train = self.remembered() if config.corrects else self.encode(dataset, "train")
        self.epoch_rows = EpochRows(self.train.families, config.family_power)
        splits = [split for split in HELD_OUT if split in dataset["split"]]
        if not splits:
            raise ConfigError(f"data: {config.data} has no split {' or '.join(HELD_OUT)} to watch; hold captions out")
        self.held_out = {split: self.encode(dataset, split) for split in splits}
        self.near = self.neighbours() if config.mix_share else None
        self.copy_test = copy_test_of(dataset, splits[0]) if config.copies_of else None
        left_out = ["loop", "out", "settings", "card", "vae", "init", "text_digest"]
        left_out += [] if config.memory else ["memory"]
        settings = FORMER | {k: v for k, v in asdict(config).items() if k not in left_out}
        identity = settings | {"vae": self.codec.fingerprint, "text": self.encoder.fingerprint}
        content = fingerprint_of([self.train.content, self.epoch_rows.cumulative])
        objective, rows = MapperObjective(self.mapper), len(self.train.latents)
        self.loop = Loop(objective, self.batch, rows, self.validate, config.loop, config.out, identity, content)

    def first_mapper(self) -> Mapper:
        """A new mapper, with the weights of `config.init` where it is given. ConfigError unless all fits."""
        family = FAMILIES[self.config.family]
        if self.config.corrects:
            mapper: Mapper = self.local_flow()
        else:
            with self.arguments_of(family, self.config.mapper):
                mapper = family(z_shape=self.codec.z_shape, text_dim=self.encoder.dim, **self.config.mapper)
        if not self.config.init:
            return mapper
        last = self.saved_mapper("init", self.config.init)
        try:
            mapper.load_state_dict(last.state_dict())
        except RuntimeError as error:
            why = str(error).splitlines()[1].strip()
            raise ConfigError(f"init: {self.config.init} has a mapper of another shape: {why}") from error
        return mapper

    def local_flow(self) -> LocalFlowMapper:
        """The local flow of `config.memory`, of the kinds of pictures that are drawn, with an untrained correction."""
        options = {"family": TransformerFlowMapper.__name__} | self.config.mapper
        if options["family"] not in NETWORKS:
            raise ConfigError(f"mapper: unknown family {options['family']!r}; known: {', '.join(NETWORKS)}")
        base = self.saved_mapper("memory", self.config.memory)
        assert isinstance(base, LocalFlowMapper)
        if tuple(base.z_shape) != tuple(self.codec.z_shape) or base.text_dim != self.encoder.dim:
            raise ConfigError(f"memory: {self.config.memory} has another codec or text encoder; name its own")
        with self.arguments_of(NETWORKS[options["family"]], options.keys() - {"family"}):
            mapper = base.corrected(options, self.config.strength, self.config.begin)
        if style := self.config.settings.style:
            mapper.allowed = mapper.restricted(style=style).allowed
        return mapper.train()

    @staticmethod
    @contextlib.contextmanager
    def arguments_of(family: type[Mapper], options: Collection[str]) -> Iterator[None]:
        """A block that passes the config's `mapper` to a family; what that refuses becomes a ConfigError."""
        known = set(inspect.signature(family.__init__).parameters) - {"self", "z_shape", "text_dim", "inputs"}
        if unknown := sorted(set(options) - known):
            raise ConfigError(f"mapper: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        try:
            yield
        except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
            raise ConfigError(f"mapper: {str(error).splitlines()[0]}") from error

    def saved_mapper(self, argument: str, model: str) -> Mapper:
        """The mapper of a model that the config's `argument` names. ConfigError unless it is of the family."""
        folder, family = Path(model) / "mapper", self.config.family
        if not (folder / CONFIG).exists():
            raise ConfigError(f"{argument}: {model} holds no mapper; name the `model` folder of a finished run")
        with named(argument):
            if (name := read_config(folder, "mapper")["_class_name"]) == family:
                return load_mapper(folder)
        differs = f"has a {name}, this config trains a {family}"
        raise ConfigError(f"{argument}: {model} {differs}; name another model, or set `family: {name}`")

    def remembered(self) -> Side:
        """What a local flow remembers, of the kinds of pictures that the finished model draws from."""
        mapper, texts = self.mapper, self.memory.captions
        assert isinstance(mapper, LocalFlowMapper)
        allowed = torch.arange(len(mapper.latents)) if mapper.allowed is None else mapper.allowed.nonzero()[:, 0]
        links = mapper.link.split(mapper.start.diff().tolist())
        numbers = [links[i] for i in allowed.tolist()]
        ends = torch.tensor([0, *map(len, numbers)]).cumsum(0)
        table = CaptionTable(texts, torch.cat(numbers).int(), ends)
        if mapper.reads_tokens:
            codes = caption_codes(self.encoder, texts, self.cache, with_tokens=True)
        else:
            codes = Codes(Shards.held({"pooled": mapper.unit_codes}), with_tokens=False)
        mean = mapper.picture_latents(allowed)
        content = fingerprint_of([mapper.latents, mapper.codes, allowed, table.number])
        latents = Latents(Shards.held({"mean": mean, "std": torch.zeros(()).expand_as(mean)}), [])
        return Side(latents, table, codes, torch.arange(len(allowed)), content)

    def encode(self, dataset: Dataset, split: str) -> Side:
        """The rows of a split with captions that the encoder can read, encoded, or from the cache where they are there.

        The others are left out, with a line on standard error. Raises ConfigError if no row is left.
        """
        rows = rows_of(dataset, split)
        captions = [[text for text in row if can_read(self.encoder, text)] for row in rows["captions"]]
        kept = [i for i, row in enumerate(captions) if row]
        if lost := sum(map(len, rows["captions"])) - sum(map(len, captions)):
            lost_rows = f"{len(rows) - len(kept)} of {len(rows)} rows"
            say(f"train.mapper: {split}: left out {lost} captions that the text encoder cannot read, and {lost_rows}")
        if not kept:
            raise ConfigError(f"text: {self.config.text} can read no caption of split {split!r}; name another")
        rows = rows.select(kept) if len(kept) < len(rows) else rows
        encoded = latents_of(self.codec, rows, self.cache)
        table = CaptionTable.enumerate([captions[i] for i in kept])
        codes = caption_codes(self.encoder, table.texts, self.cache, with_tokens=self.mapper.reads_tokens)
        content = fingerprint_of([*encoded.names, table.number, table.start, *table.texts])
        return Side(encoded, table, codes, torch.tensor(rows["family"]), content)

    def neighbours(self, k: int = 8) -> Tensor:
        """Texts of the `k` nearest other training labels of each row's label, nearest first, (N, k)."""
        labels, of_row = self.train.table.labels.unique(return_inverse=True)
        codes = self.train.codes.pooled(labels)
        nearest = []
        for start in range(0, len(labels), NEAR_CHUNK):
            similarity = codes[start : start + NEAR_CHUNK] @ codes.T
            similarity.diagonal(start).fill_(-1)
            nearest.append(similarity.topk(min(k, len(labels))).indices)
        return labels[torch.cat(nearest)][of_row]

    def batch(self, positions: Tensor, epoch: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Latents, pooled codes, tokens, their mask and noise, all keyed by (seed, epoch, position)."""
        seed, dim = self.config.loop.seed, math.prod(self.codec.z_shape)
        rows = self.epoch_rows.drawn(positions, seed, epoch)
        generators = [generator_for(seed, epoch, int(p)) for p in positions]
        size = dim + math.prod(self.mapper.loss_noise_shape)
        normal = torch.stack([torch.randn(size, generator=g) for g in generators])
        uniform = torch.stack([torch.rand(5, generator=g) for g in generators])
        posterior = self.train.latents.rows(rows)
        z = posterior.sample(normal[:, :dim].view_as(posterior.mean))
        code = self.draw_codes(rows, uniform)
        noise = normal[:, dim:].reshape(len(rows), *self.mapper.loss_noise_shape)
        return z, code.pooled, code.tokens, code.mask, noise

    def draw_codes(self, rows: Tensor, uniform: Tensor) -> TextCode:
        """One code a training row (B,): a variant of its caption, now and then mixed with a neighbour's, or none.

        A mixed code has no tokens, like one that `CaptionMemory.soften` has drawn. `uniform` is in [0, 1), (B, 5).
        """
        config, (own, variant, mix, neighbour, drop) = self.config, uniform.unbind(1)
        code = self.train.codes.rows(self.train.table.pick(rows, variant.masked_fill(own < config.label_share, 0)))
        if self.near is not None:
            near = self.train.codes.pooled(self.near[rows, (neighbour.double() * self.near.shape[1]).long()])
            share = (mix / config.mix_share)[:, None]
            between = nn.functional.normalize((1 - share) * code.pooled + share * near, dim=1)
            code = code.replaced(mix < config.mix_share, between)
        return code.replaced(drop < config.caption_dropout, torch.zeros_like(code.pooled))

    def validate(self, step: int) -> dict[str, float]:
        """Loss of held-out captions and of hidden artists under fixed noise; writes a sheet of samples."""
        figures = {}
        self.mapper.eval()
        for split, side in self.held_out.items():
            figures[f"{split}_loss"] = self.held_out_loss(side)
            self.sheet(split, side, step)
        if self.copy_test is not None:
            figures["copies"] = self.copies(self.copy_test)
            figures["steps_without_copies"] = step if figures["copies"] <= self.config.most_copies else 0
        return figures

    def held_out_loss(self, side: Side) -> float:
        """Mean loss of a split under fixed noise, a few rows in memory at a time."""
        device, generator = self.mapper.device, generator_for(self.config.loop.seed, len(side.latents))
        total = 0.0
        for rows in torch.arange(len(side.latents)).split(VALIDATED):
            z, labels = side.latents.rows(rows).mean, side.codes.rows(side.table.labels[rows])
            noise = torch.randn(len(rows), *self.mapper.loss_noise_shape, generator=generator)
            total += float(self.mapper.loss(z.to(device), labels.to(device), noise=noise.to(device)).double().sum())
        return total / len(side.latents)

    def copies(self, test: CopyTest) -> float:
        """Share of pictures of held-out captions, drawn as the finished model would, that repeat a training picture."""
        table = next(iter(self.held_out.values())).table
        shown = [table.texts[i] for i in spread(table.labels.unique().tolist(), self.config.copies_of)]
        generators = [generator_for(self.config.loop.seed, -4, i) for i in range(len(shown) * COPIES_EACH)]
        pipe = self.pipeline(copy.deepcopy(self.mapper))
        pictures = pipe(shown, COPIES_EACH, generator=generators, output_type="pt").images
        return float(test(thumbnails(pictures.numpy()))[0].mean())

    def sheet(self, split: str, side: Side, step: int) -> None:
        """Write sheet-SPLIT-STEP.png: eight samples each of eight captions of a split."""
        shown = spread(list(dict.fromkeys(side.table.labels.tolist())), 8)
        code = side.codes.rows(torch.tensor(shown).repeat_interleave(8)).to(self.mapper.device)
        noise = torch.randn(8, *self.mapper.sample_noise_shape, generator=generator_for(0))
        noise = noise.repeat(len(shown), *[1] * len(self.mapper.sample_noise_shape))
        z = self.mapper.sample(code, noise=noise.to(self.mapper.device))
        pictures, texts = to_pil(self.codec.decode(z.cpu())), [side.table.texts[i] for i in shown]
        rows = [pictures[start : start + 8] for start in range(0, len(pictures), 8)]
        save_png(contact_sheet(rows, texts), self.config.out / f"sheet-{split}-{step:06d}.png", {"step": step})

    @cached_property
    def memory(self) -> CaptionMemory:
        """The captions that the model knows."""
        if isinstance(self.mapper, LocalFlowMapper):
            return CaptionMemory.load(Path(self.config.memory) / MEMORY, self.mapper.unit_codes)
        table = self.train.table
        labels = sorted(table.texts[i] for i in table.labels.unique().tolist())
        return CaptionMemory(caption_codes(self.encoder, labels, self.cache, with_tokens=False).all_pooled, labels)

    def pipeline(self, mapper: Mapper) -> BridgePipeline:
        """The model with this mapper, which moves to the CPU; its memory is the training captions."""
        return BridgePipeline(self.encoder, mapper.cpu(), self.codec, self.memory, self.config.settings)

    def run(self) -> Path:
        """Train and write `out/model`; returns that folder."""
        with self.loop.locked():
            check_replaceable(self.config.out / "model")
            self.loop.run()
            self.pipeline(self.mapper).save_pretrained(self.config.out / "model", self.card)
        return self.config.out / "model"


def spread(items: Sequence[int], count: int) -> Sequence[int]:
    """So many of some items, or all, at equal distances."""
    return items[:: max(len(items) // count, 1)][:count]


def copy_test_of(dataset: Dataset, held_out: str) -> CopyTest:
    """Tells copies of a dataset's training pictures, calibrated on those of a held-out split."""

    def small(split: str) -> np.ndarray:
        parts = rows_of(dataset, split).iter(256)
        return np.concatenate([thumbnails(to_unit(pixels_of(part)).numpy()) for part in parts])

    return CopyTest.fit(small("train"), small(held_out))


command = "python -m train.mapper", __doc__, "configs/emoji-matching.yaml"
main = partial(run_config, *command, MapperConfig, lambda config: MapperTraining(config).run())

if __name__ == "__main__":
    sys.exit(main())
