"""A text encoder tuned to pictures, as CLIP's is; the command is train.prepare's."""

import shutil
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from bridge.checkpoint import atomic_folder, check_replaceable
from bridge.errors import UserError
from bridge.noise import generator_for
from bridge.text import TextEncoder
from bridge.text.encoders import find_folder
from bridge.text.networks import SentenceEncoder
from train.checkpoint import fingerprint_of
from train.data.dataset import CaptionTable, at_once, load_dataset, pixels_of, rows_of, to_unit
from train.loop import Loop
from train.perceptual import PictureFeatures
from train.schedule import LoopConfig

LOOP = LoopConfig(
    steps=400, batch_size=128, learning_rate=1e-4, warmup=20, validate_every=50, stop_on="validation_loss", patience=3
)
TEMPERATURE = 0.07  # Of the cosines, at the start; it is learnt, down to .01


class ContrastiveObjective(nn.Module):
    """Captions against pictures within a batch: whose is whose? The pictures' network is locked.

    Source: Zhai et al. 2022, LiT: Zero-Shot Transfer with Locked-image text Tuning, arXiv:2111.07991; the loss Radford
        et al. 2021, Learning Transferable Visual Models, arXiv:2103.00020 (CLIP)
    """

    def __init__(self, encoder: SentenceEncoder, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.pictures = nn.Linear(width, encoder.dim)
        self.log_scale = nn.Parameter(torch.tensor(1 / TEMPERATURE).log())

    def forward(self, ids: Tensor, mask: Tensor, features: Tensor, family: Tensor) -> dict[str, Tensor]:
        """Loss in nats, (B,), of captions as token ids (B, L) under a mask and their pictures' features (B, F).

        Other pictures and captions of the same family (B,) are not taken for wrong answers.
        """
        captions = F.normalize(self.encoder.read(ids, mask)[0], dim=1)
        pictures = F.normalize(self.pictures(features), dim=1)
        same = (family[:, None] == family) & ~torch.eye(len(ids), dtype=torch.bool, device=ids.device)
        logits = captions @ pictures.T * self.log_scale.exp().clamp(max=100)
        logits = logits.masked_fill(same, -torch.inf)
        right = torch.arange(len(ids), device=ids.device)
        ways = [F.cross_entropy(side, right, reduction="none") for side in (logits, logits.T)]
        return {"loss": (ways[0] + ways[1]) / 2}


class ContrastiveTraining:
    """Tunes the upper half of a sentence encoder on the training rows of the dataset `data`; it ends in `out/text`.

    The lower half is locked too, so that words which training does not show keep up with the others.

    Raises ConfigError if `data` has no such rows or none to validate on, UserError if `encoder` cannot be tuned.
    """

    def __init__(self, data: Path, out: Path, encoder: TextEncoder, loop: LoopConfig = LOOP) -> None:
        if not isinstance(encoder, SentenceEncoder):
            raise UserError(f"encoder: {encoder.id} is no BERT of sentence-transformers with mean pooling; pass one")
        self.out, self.encoder, self.source = out, encoder, find_folder(encoder.id)
        self.captions: dict[str, CaptionTable] = {}
        self.features: dict[str, Tensor] = {}
        self.families: dict[str, Tensor] = {}
        dataset, network = load_dataset(data), PictureFeatures()
        parts = {split: rows_of(dataset, split) for split in ("train", "validation")}
        for split, rows in parts.items():
            self.captions[split] = CaptionTable.enumerate(rows["captions"])
            self.families[split] = torch.tensor(rows["family"])
            count = at_once(int(pixels_of(rows.select([0])).shape[-1]))
            chunks = tqdm(torch.arange(len(rows)).split(count), desc=f"features of {split}", mininterval=5)
            pixels = (pixels_of(rows.select(chunk.tolist())) for chunk in chunks)
            self.features[split] = torch.cat([network(to_unit(x)) for x in pixels])
        self.shift, self.scale = self.features["train"].mean(0), self.features["train"].std(0) + 1e-6
        table, identity = self.captions["train"], {"text": encoder.fingerprint}
        tensors = self.features["train"], self.families["train"], table.number, table.start
        content = fingerprint_of([*tensors, *table.texts])
        layers = encoder.model.encoder.layer
        layers[len(layers) // 2 :].requires_grad_(True)
        torch.manual_seed(loop.seed)
        self.objective = ContrastiveObjective(encoder, self.features["train"].shape[1])
        self.loop = Loop(self.objective, self.batch, len(table), self.validate, loop, out, identity, content)

    def batch(self, rows: Tensor, epoch: int) -> tuple[Tensor, ...]:
        """What the objective takes of training rows; which of a row's captions is keyed by (seed, epoch, row)."""
        seed = self.loop.config.seed
        draws = [torch.rand((), generator=generator_for(seed, epoch, row)) for row in rows.tolist()]
        return self._inputs("train", rows, torch.stack(draws))

    def _inputs(self, split: str, rows: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        table = self.captions[split]
        texts = [table.texts[i] for i in table.pick(rows, u).tolist()]
        ids = [self.encoder.token_ids(self.encoder.prepare(text)) for text in texts]
        mask = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in ids], batch_first=True)
        features = (self.features[split][rows] - self.shift) / self.scale
        return pad_sequence(ids, batch_first=True), mask, features, self.families[split][rows]

    def validate(self, step: int) -> dict[str, float]:
        """Mean loss of the validation rows, by their labels, in batches of a fixed order."""
        count = len(self.families["validation"])
        order = torch.randperm(count, generator=generator_for(0))
        device = self.objective.log_scale.device
        chunks = order.split(self.loop.config.batch_size)
        inputs = ([t.to(device) for t in self._inputs("validation", c, torch.zeros(len(c)))] for c in chunks)
        return {"validation_loss": float(torch.cat([self.objective(*parts)["loss"] for parts in inputs]).mean())}

    def run(self) -> Path:
        """Train, resuming where it was stopped, and write `out/text`, a sentence-transformers folder; returns that."""
        folder = self.out / "text"
        with self.loop.locked():
            check_replaceable(folder)
            self.loop.run()
            with atomic_folder(folder) as scratch:
                shutil.copytree(self.source, scratch, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
                self.encoder.model.save_pretrained(scratch)
        return folder
