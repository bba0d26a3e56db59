"""Pictures that a model draws itself, to be trained on beside new ones: what it knew is not forgotten for them.

Source: Shin et al. 2017, Continual Learning with Deep Generative Replay, arXiv:1705.08690
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from bridge.codecs import DETERMINISTIC_STD, ImageCodec, LatentDistribution
from bridge.mappers import VelocityMapper
from bridge.noise import generator_for, normal_rows
from bridge.pipeline import BridgePipeline
from train.data.cache import PICTURES, Column, Latents, encoded_once

VERSION = "2"
"""Counts changes to what is drawn."""


@dataclass(frozen=True)
class Replay:
    """Pictures that a model drew.

    Args:
        latents: Of R pictures.
        captions: Of each.
        known: All captions that the model knows.
    """

    latents: Latents
    captions: list[str]
    known: list[str]


def replayed(model: str, count: int, codec: ImageCodec, folder: Path, seed: int) -> Replay:
    """Latents of pictures that a model draws of captions it knows, kept in `folder`.

    Drawn without guidance: what the model holds likely, not a sharpened choice of it.

    Args:
        model: Model folder.
        count: How many pictures; each known caption has one before any has two.
        codec: Its latents are wanted. Where it is the model's own, they are those drawn; else pictures are encoded.
        folder: Of all caches of a dataset.
        seed: Of the captions' order and of the pictures.
    """
    pipe = BridgePipeline.from_pretrained(model)
    known = pipe.memory.captions
    order = torch.randperm(len(known), generator=generator_for(seed, -3)).tolist()
    captions = [known[order[i % len(known)]] for i in range(count)]

    same = codec.fingerprint == pipe.codec.fingerprint
    settings: dict[str, Any] = {"temperature": pipe.settings.temperature}
    if isinstance(pipe.mapper, VelocityMapper):
        settings["num_inference_steps"] = pipe.settings.num_inference_steps

    def draw(start: int, stop: int) -> LatentDistribution:
        c = pipe.text_encoder.encode(captions[start:stop], batch_size=32, with_tokens=pipe.mapper.reads_tokens)
        noise = normal_rows([(seed, -3, i) for i in range(start, stop)], pipe.mapper.sample_noise_shape)
        z = pipe.mapper.sample(c, noise=noise, **settings)
        if same:
            return LatentDistribution(z, torch.full_like(z, DETERMINISTIC_STD))
        return codec.encode(pipe.codec.decode(z))

    def compute(start: int, stop: int) -> Mapping[str, Column]:
        chunks = [draw(at, min(at + PICTURES, stop)) for at in range(start, stop, PICTURES)]
        return {name: torch.cat([getattr(c, name).cpu() for c in chunks]) for name in ("mean", "std")}

    names = [f"{i} {caption}" for i, caption in enumerate(captions)]
    maker = [pipe.fingerprint, codec.fingerprint, str(seed), VERSION]
    with tqdm(total=count, desc="replay", file=sys.stderr) as bar:
        shards = encoded_once(folder, "replay", maker, names, compute, bar.update)
    return Replay(Latents(shards, names), captions, known)
