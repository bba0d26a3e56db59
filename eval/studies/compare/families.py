"""Every mapping family at equal minutes, in one table.

All see the same pairs through the same codec and text encoder, have the same minutes of processor time, up to three
ways to sample chosen on validation, and the same judge. "whitened" families work on the codec's latents after PCA
whitening with all components kept: a change of variables, so that densities compare after its log-determinant.
"""

import argparse
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from bridge import mappers
from bridge.checkpoint import atomic_write
from bridge.codecs import LatentDistribution
from bridge.codecs.standardize import PrincipalAxes, WhitenedCodec
from bridge.noise import generator_for
from eval.report import ROWS, table, to_json
from eval.studies import Study
from eval.studies.compare import nets
from eval.studies.compare.material import Shelf
from eval.studies.compare.nets import LocalPeer, MapperNet, Sampling, TrainedPeer, Trial
from eval.studies.compare.study import HEADLINES, Spread, Workshop, add_workshop, best_first, open_workshop
from train.command import Parser
from train.timing import interleaved

DENSITY_PICTURES, STEPS, PROBES = 128, 16, 4
"""Held-out pictures whose likelihood is measured; solver steps and probes where it follows an equation."""
SPEED_IMAGES, SPEED_REPEATS = 64, 3


def family_peer(name: str, family: type[mappers.Mapper], trial: Trial, whitened: bool = False) -> TrainedPeer:
    """A mapping family with one trial: learning rate, batch size, and arguments of the mapper."""
    settings = nets.GUIDED if issubclass(family, mappers.VelocityMapper) else nets.PLAIN
    return TrainedPeer(name, (trial,), settings, whitened=whitened, family=family, tokens=family.reads_tokens)


FAST = {"learning_rate": 1e-3, "batch_size": 256}
SLOW = {"learning_rate": 5e-4, "batch_size": 128}
AUTOREGRESSIVE = SLOW | {"kind": "autoregressive"}
ALL: tuple[TrainedPeer | LocalPeer, ...] = (
    replace(nets.LOCAL_FLOW, name="local flow"),
    replace(nets.BRIDGE_FLOW, name="flow matching, MLP", trials=nets.BRIDGE_FLOW.trials[:1]),
    family_peer("flow matching, transformer", mappers.TransformerFlowMapper, SLOW),
    family_peer("flow, coupling", mappers.NormalizingFlowMapper, SLOW),
    family_peer("flow, coupling, whitened", mappers.NormalizingFlowMapper, SLOW, whitened=True),
    family_peer("flow, autoregressive, whitened", mappers.NormalizingFlowMapper, AUTOREGRESSIVE, whitened=True),
    family_peer("Gaussian, diagonal", mappers.GaussianMapper, FAST),
    family_peer("Gaussian, diagonal, whitened", mappers.GaussianMapper, FAST, whitened=True),
    family_peer("Gaussian, rank 16", mappers.GaussianMapper, FAST | {"rank": 16}),
    family_peer("mixture of 8 Gaussians, whitened", mappers.MixtureMapper, FAST, whitened=True),
)


@dataclass(frozen=True)
class Density:
    """Held-out log-likelihood, of the codec's standardised latents whatever space a family works in."""

    bits: dict[str, float]  # -log2 p(z | label) over dimensions, smaller is better, by row of the test
    error: float  # Standard error of the estimate itself, in the same unit; 0 where it is exact


@dataclass(frozen=True)
class Family:
    name: str
    sampling: Sampling | None = None  # Chosen on validation, of seed 0
    rows: dict[str, dict[str, Spread]] = field(default_factory=dict)  # HEADLINES by row; none if training diverged
    steps: list[int] = field(default_factory=list)  # Optimiser steps, by seed
    minutes: list[float] = field(default_factory=list)  # Of training, or encoding the pairs, by seed; not the VAE's
    parameters: int = 0  # Numbers trained, or remembered
    images_per_second: float = 0.0  # Latents drawn and decoded on this machine, with that sampling
    density: Density | None = None  # Of seed 0
    absent: dict[str, str] = field(default_factory=dict)  # What could not be measured, and why

    def cells(self, row: str) -> list[str]:
        bits = "–"
        if self.density is not None:
            error = f" ± {self.density.error:.3f}" if self.density.error else ""
            bits = f"{self.density.bits[row]:.3f}{error}"
        cost = [f"{statistics.fmean(self.minutes):.2f}", f"{self.images_per_second:.1f}", f"{self.parameters:,}"]
        return [self.name, *(str(self.rows[row][h]) for h in HEADLINES), bits, *cost]


def whitened(shop: Workshop) -> Workshop:
    """The same workshop on latents that are PCA-whitened with all components kept, fitted to its training pictures."""
    train = shop.material.train.latents.mean[: len(shop.material.paired) + len(shop.material.unpaired)]
    flat = train.flatten(1).double()
    axes = PrincipalAxes.of(flat.mean(0), torch.cov(flat.T, correction=0), flat.shape[1])

    def move(shelf: Shelf) -> Shelf:
        mean, std = (part.flatten(1) for part in (shelf.latents.mean, shelf.latents.std))
        return replace(shelf, latents=LatentDistribution(axes.project(mean), axes.project_std(std)))

    codec = WhitenedCodec(shop.codec, axes)
    material = replace(shop.material, train=move(shop.material.train), held_out=move(shop.material.held_out))
    return replace(shop, codec=codec, material=material, identity={**shop.identity, "vae": codec.fingerprint})


def held_out_latents(shop: Workshop, split: str) -> tuple[Tensor, list[str]]:
    """Mean latents (B, *z_shape) and labels of at most DENSITY_PICTURES pictures of a split, evenly spread."""
    pictures = shop.benches.judge.pictures
    rows = pictures.where(split)
    rows = rows[torch.linspace(0, len(rows) - 1, min(DENSITY_PICTURES, len(rows))).long().numpy()]
    z = torch.cat([shop.codec.encode(part).mean for part in pictures.pixels(rows).split(64)])
    return z, pictures.label[rows].tolist()


def density_of(shop: Workshop, mapper: mappers.Mapper, splits: Mapping[str, str]) -> Density | None:
    """Bits a dimension of held-out latents under their labels, or None where a family has no density."""
    if not isinstance(mapper, mappers.DensityMapper):
        return None
    shift = shop.codec.log_abs_det if isinstance(shop.codec, WhitenedCodec) else 0.0
    bits, errors = {}, [0.0]
    for row, split in splits.items():
        z, labels = held_out_latents(shop, split)
        c, nats = shop.asked(labels), z[0].numel() * math.log(2)
        if isinstance(mapper, mappers.VelocityMapper):
            value, error = mapper.log_prob_with_error(
                z, c, num_inference_steps=STEPS, trace="hutchinson", probes=PROBES, generator=generator_for(0)
            )
            errors.append(float(error.square().mean().sqrt()) / math.sqrt(len(z)) / nats)
        else:
            with torch.no_grad():
                value = mapper.log_prob(z, c)
        bits[row] = -(float(value.mean()) + shift) / nats
    return Density(bits, max(errors))


def measure(shop: Workshop, peer: TrainedPeer | LocalPeer, seeds: int) -> Family:
    """Train a family with every seed, judge each on the test, and measure density and speed with the first."""
    tested = [one for seed in range(seeds) if (one := shop.tested(peer, 0, seed)) is not None]
    if len(tested) < seeds:
        return Family(peer.name, absent={"everything": "training diverged; see the messages above"})
    net, sampling = shop.network(peer, peer.trials[0], 0).eval(), tested[0].sampling
    assert isinstance(net, MapperNet)
    mapper = net.varied(sampling)
    rows = {row: {h: Spread.of(one.rows[row][h] for one in tested) for h in HEADLINES} for row in tested[0].rows}
    density = density_of(shop, mapper, {row: split for row, split in ROWS["test"].items() if row in rows})
    c = shop.asked([shop.benches.judge.pictures.label[0]] * SPEED_IMAGES)
    noise = torch.randn(SPEED_IMAGES, *net.noise_shape, generator=generator_for(0))
    with torch.no_grad():
        works = {"draw": lambda: net.sample(c, noise, sampling)}
        rate = SPEED_IMAGES / interleaved(works, SPEED_REPEATS, time.perf_counter)["draw"]
    steps, minutes = [one.steps for one in tested], [one.minutes for one in tested]
    count = sum(p.numel() for p in net.parameters()) or sum(b.numel() for b in net.buffers())
    absent = {} if density else {"density": f"{type(mapper).__name__} has none"}
    return Family(peer.name, sampling, rows, steps, minutes, count, rate, density, absent)


def _arguments(parser: Parser) -> None:
    add_workshop(parser, "runs/families", 1)
    names = [peer.name for peer in ALL]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of {'; '.join(names)}")


def _run(args: argparse.Namespace, command: str) -> None:
    plain = open_workshop(args)
    chosen = [peer for peer in ALL if not args.only or peer.name in args.only]
    white = whitened(plain) if any(peer.whitened for peer in chosen) else plain
    families = [measure(white if peer.whitened else plain, peer, args.seeds) for peer in chosen]
    about = {"command": command, "data": plain.benches.judge.pictures.fingerprint}
    report = {name: getattr(args, name) for name in ("minutes", "vae_minutes", "captions", "samples")}
    atomic_write(Path(args.out) / "families.json", to_json(report | {"families": families, "about": about}))
    minutes = f"{args.minutes:g} minutes each, {args.vae_minutes:g} of them for the VAE"
    bits = "bits/dim of the codec's own latents, the smaller the better"
    print(f"{minutes} · {args.samples} samples a caption · {bits}")
    head = ["", *HEADLINES, "bits/dim", "minutes", "images/s", "parameters"]
    for row in dict.fromkeys(row for one in families for row in one.rows):
        print("", row, *table([head, *best_first(families, row)]), sep="\n")
    for one in families:
        for what, why in one.absent.items():
            print(f"{one.name}: {what} absent, {why}")


STUDY = Study(__doc__, "pictures --data data/pictures --minutes 10", _arguments, _run)
