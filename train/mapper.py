"""Train the bridge between two frozen encoders: python -m train.mapper configs/emoji-matching.yaml"""

import argparse
import inspect
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn

from bridge.checkpoint import CheckpointError
from bridge.codec import LatentDistribution, VAECodec
from bridge.images import contact_sheet, to_pil
from bridge.mappers import FAMILIES, Mapper
from bridge.memory import CaptionMemory
from bridge.noise import generator_for
from bridge.pipeline import BridgePipeline, Settings
from bridge.text import DEFAULT_DIGEST, DEFAULT_ID, TextCode, TextEncoder
from train.cache import latents, text_codes
from train.config import ConfigError, load_config
from train.data import CaptionTable, load_dataset, pixels_of, row_cumulative, rows_of, systematic_rows
from train.loop import Loop, LoopConfig, ResumeError, TrainingError

HELD_OUT = ("validation", "seen_validation")
"""Held-out captions, and artists that training never saw of captions it did."""


@dataclass(frozen=True)
class MapperConfig:
    """What to train, on what, and how the model then samples by default.

    Attributes:
        data: Folder of a dataset; only its "train" rows are trained on.
        vae: Folder of a trained VAE.
        out: Run folder; the model ends in `out/model`.
        loop: How to train.
        family: Class name of the mapper.
        mapper: Its arguments beside z_shape and text_dim.
        caption_dropout: Share of examples trained without their caption, for guidance.
        label_share: Share of captions that are the label itself; the others are its variants.
        mix_share: Share of captions moved towards the code of a near training caption.
        family_power: Rows are drawn in proportion to (size of their family) ** -family_power; 1 weighs
            families equally, 0 rows.
        init: Model folder whose mapper to start from, for another sitting or another codec; empty starts from
            nothing.
        settings: Defaults of the finished model, chosen on validation data.
        card: Markdown file that becomes the model's README.md.
    """

    data: Path
    vae: Path
    out: Path
    loop: LoopConfig
    family: str = "FlowMatchingMapper"
    mapper: dict[str, Any] = field(default_factory=dict)
    caption_dropout: float = 0.1
    label_share: float = 0.4
    mix_share: float = 0.0
    family_power: float = 0.5
    init: str = ""
    settings: Settings = field(default_factory=Settings)
    card: str = ""

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ConfigError(f"family: unknown {self.family!r}; known: {', '.join(FAMILIES)}")
        for name in ("caption_dropout", "label_share", "mix_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: expected a share from 0 to 1, got {getattr(self, name)!r}")


class MapperObjective(nn.Module):
    """A mapper's loss, behind a forward that takes tensors."""

    def __init__(self, mapper: Mapper) -> None:
        super().__init__()
        self.mapper = mapper

    def forward(self, z: Tensor, code: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Loss of latents z (B, *z_shape) under pooled codes (B, D) and noise, (B,)."""
        return {"loss": self.mapper.loss(z, pooled_code(code), noise=noise)}


def pooled_code(pooled: Tensor) -> TextCode:
    """A TextCode without tokens, of pooled codes (B, D)."""
    empty = TextCode.null(len(pooled), pooled.shape[1]).to(pooled.device)
    return TextCode(pooled, empty.tokens, empty.mask)


@dataclass(frozen=True)
class Side:
    """One split, encoded: latents, and the codes that may stand for each row's caption."""

    latents: LatentDistribution
    table: CaptionTable
    codes: Tensor

    @property
    def labels(self) -> Tensor:
        """Code of each row's label, (N, D)."""
        return self.codes[torch.tensor([row[0] for row in self.table.variants])]


class MapperTraining:
    """Everything a mapper run needs around the loop."""

    def __init__(self, config: MapperConfig) -> None:
        self.config = config
        dataset = load_dataset(config.data)
        self.encoder = TextEncoder.from_pretrained(DEFAULT_ID, digest=DEFAULT_DIGEST)
        if not (config.vae / "config.json").exists():
            raise ConfigError(f"vae: {config.vae} holds no VAE; train it with `python -m train.vae` first")
        self.codec = VAECodec.from_pretrained(config.vae)
        rows = rows_of(dataset, "train")
        self.train = self.encode(rows)
        self.labels = sorted(set(rows["label"]))
        self.held_out = {split: self.encode(rows_of(dataset, split)) for split in HELD_OUT}
        self.cumulative = row_cumulative(torch.tensor(rows["family"]), config.family_power)
        self.near = self.neighbours()
        torch.manual_seed(config.loop.seed)
        self.mapper = self.first_mapper()
        left_out = ("loop", "out", "settings", "card", "vae", "init")
        settings = {k: v for k, v in asdict(config).items() if k not in left_out}
        identity = settings | {"vae": self.codec.fingerprint, "text": self.encoder.fingerprint}
        self.loop = Loop(
            MapperObjective(self.mapper),
            self.batch,
            len(rows),
            self.validate,
            config.loop,
            config.out,
            identity,
        )

    def build_mapper(self) -> Mapper:
        """An untrained mapper for these encoders."""
        family = FAMILIES[self.config.family]
        known = set(inspect.signature(family.__init__).parameters) - {"self", "z_shape", "text_dim"}
        if unknown := sorted(set(self.config.mapper) - known):
            raise ConfigError(f"mapper: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        return family(z_shape=self.codec.z_shape, text_dim=self.encoder.dim, **self.config.mapper)

    def first_mapper(self) -> Mapper:
        """The mapper that training begins with: a new one, with the weights of `config.init` where it is given.

        Raises:
            ConfigError: `init` holds no mapper, or one of another shape than the config's.
        """
        mapper, folder = self.build_mapper(), Path(self.config.init) / "mapper"
        if not self.config.init:
            return mapper
        if not (folder / "config.json").exists():
            raise ConfigError(f"init: {self.config.init} holds no mapper; name the `model` folder of a finished run")
        last = type(mapper).from_pretrained(folder, use_safetensors=True, local_files_only=True)
        try:
            mapper.load_state_dict(last.state_dict())
        except RuntimeError as error:
            told = str(error).splitlines()[1].strip()
            raise ConfigError(f"init: {self.config.init} has a mapper of another shape: {told}") from error
        return mapper

    def encode(self, rows: Dataset) -> Side:
        """Latents and caption codes of rows, from the cache beside the data where they are there."""
        folder = self.config.data / ".cache"
        table = CaptionTable.of(rows["captions"])
        return Side(latents(self.codec, pixels_of(rows), folder), table, text_codes(self.encoder, table.texts, folder))

    def neighbours(self, k: int = 8) -> Tensor:
        """For each training row, `k` training rows with the nearest other labels, (N, k)."""
        labels = self.train.labels
        distinct, of_row = labels.unique(dim=0, return_inverse=True)
        a_row = torch.zeros(len(distinct), dtype=torch.long).scatter_(0, of_row, torch.arange(len(labels)))
        similarity = distinct @ distinct.T
        similarity.fill_diagonal_(-1)
        return a_row[similarity.topk(min(k, len(distinct))).indices][of_row]

    def batch(self, positions: Tensor, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, pooled codes and noise, all keyed by (seed, epoch, position)."""
        seed, dim = self.config.loop.seed, self.train.latents.mean[0].numel()
        offset = float(torch.rand((), generator=generator_for(seed, epoch, -1)))
        rows = systematic_rows(positions, self.cumulative, offset)
        generators = [generator_for(seed, epoch, int(p)) for p in positions]
        size = dim + self.mapper.loss_noise_shape[0]
        normal = torch.stack([torch.randn(size, generator=g) for g in generators])
        uniform = torch.stack([torch.rand(5, generator=g) for g in generators])
        mean, std = self.train.latents.mean[rows], self.train.latents.std[rows]
        z = LatentDistribution(mean, std).sample(normal[:, :dim].view_as(mean))
        return z, self.draw_codes(rows, uniform), normal[:, dim:]

    def draw_codes(self, rows: Tensor, uniform: Tensor) -> Tensor:
        """One code a row: a variant of its caption, now and then mixed with a neighbour's, or none.

        Args:
            rows: Training rows, (B,).
            uniform: In [0, 1), (B, 5).
        """
        config, codes = self.config, []
        for row, u in zip(rows.tolist(), uniform.tolist(), strict=True):
            variants = self.train.table.variants[row]
            pick = 0 if u[0] < config.label_share else int(u[1] * len(variants))
            code = self.train.codes[variants[pick]]
            if u[2] < config.mix_share:
                other = self.near[row, int(u[3] * self.near.shape[1])]
                near = self.train.codes[self.train.table.variants[int(other)][0]]
                share = u[2] / config.mix_share
                code = nn.functional.normalize((1 - share) * code + share * near, dim=0)
            codes.append(torch.zeros_like(code) if u[4] < config.caption_dropout else code)
        return torch.stack(codes)

    def validate(self, step: int) -> dict[str, float]:
        """Loss of held-out captions and of hidden artists under fixed noise; writes a sheet of samples."""
        figures = {}
        self.mapper.eval()
        for split, side in self.held_out.items():
            generator = generator_for(self.config.loop.seed, len(side.labels))
            noise = torch.randn(len(side.labels), *self.mapper.loss_noise_shape, generator=generator)
            device = self.mapper.device
            loss = self.mapper.loss(
                side.latents.mean.to(device), pooled_code(side.labels.to(device)), noise=noise.to(device)
            )
            figures[f"{split}_loss"] = float(loss.mean())
            self.sheet(split, side, step)
        return figures

    def sheet(self, split: str, side: Side, step: int, captions: int = 8, images: int = 8) -> None:
        """Write sheet-SPLIT-STEP.png: samples of the first captions of a split."""
        first = dict.fromkeys(side.table.texts[row[0]] for row in side.table.variants)
        shown = list(first)[:: max(len(first) // captions, 1)][:captions]
        pooled = torch.stack([side.codes[side.table.texts.index(text)] for text in shown])
        code = pooled_code(pooled.repeat_interleave(images, 0).to(self.mapper.device))
        noise = torch.randn(images, *self.mapper.sample_noise_shape, generator=generator_for(0))
        z = self.mapper.sample(code, noise=noise.repeat(len(shown), 1, 1, 1).to(self.mapper.device))
        pictures = to_pil(self.codec.decode(z.cpu()))
        rows = [pictures[i * images : (i + 1) * images] for i in range(len(shown))]
        contact_sheet(rows, shown).save(self.config.out / f"sheet-{split}-{step:06d}.png")

    def pipeline(self) -> BridgePipeline:
        """The trained model, its memory the training captions."""
        codes = text_codes(self.encoder, self.labels, self.config.data / ".cache")
        memory = CaptionMemory(codes, self.labels)
        return BridgePipeline(self.encoder, self.mapper.cpu(), self.codec, memory, self.config.settings)

    def run(self) -> Path:
        """Train and write `out/model`; returns that folder."""
        self.loop.run()
        card = Path(self.config.card).read_text("utf-8") if self.config.card else ""
        self.pipeline().save_pretrained(self.config.out / "model", card)
        return self.config.out / "model"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m train.mapper", description=__doc__)
    parser.add_argument("config", type=Path, help="YAML file, such as configs/emoji-matching.yaml")
    args = parser.parse_args(argv)
    try:
        print(MapperTraining(load_config(args.config, MapperConfig)).run())
    except (ConfigError, ResumeError, TrainingError, CheckpointError, FileNotFoundError) as error:
        print(f"train.mapper: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
