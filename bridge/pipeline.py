"""The one place that joins text encoder, mapper and image codec: captions in, several images out."""

import inspect
import json
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bridge.checkpoint import (
    INDEX,
    CheckpointError,
    atomic_folder,
    fingerprint,
    resolve_model,
    settled,
    verify_folder,
)
from bridge.codec import ImageCodec, load_codec
from bridge.encoders import load_text_encoder
from bridge.errors import UserError
from bridge.images import to_pil
from bridge.limits import check_count
from bridge.mappers import FAMILIES, Mapper, VelocityMapper
from bridge.memory import CaptionMemory
from bridge.noise import generator_for
from bridge.text import TextCode, TextEncoder

if TYPE_CHECKING:
    from bridge.score import ScoreMatrix


SAMPLE_BATCH, MICRO_BATCH = 32, 16
"""Rows that mapper and decoder work on at a time, padded: matrix kernels round differently for other sizes.

The mapper is bound by reading its weights, the decoder by arithmetic.
"""
LEAST_PLACES = 16
"""Token places of the shortest captions, for a mapper that reads tokens; see `token_places`."""
TEXT, MAPPER, CODEC, MEMORY = "text", "mapper", "vae", "captions"
"""Folders inside a model's: the text encoder's own files (if it has any), mapper, codec, known captions."""
OUTPUT_TYPES = ("pil", "np", "pt", "latent")


@dataclass(frozen=True)
class Settings:
    """How to sample; a model folder carries the values chosen on its validation data.

    Attributes:
        guidance_scale: 1 follows the caption as learned; more exaggerates it. 0 to 100.
        num_inference_steps: Euler steps, 1 to 1000.
        temperature: Factor on the noise, 0 to 10; 0 gives one image a caption.
        familiar: A caption whose best cosine with a known one is lower is called unfamiliar.
        neighbour_temperature: An unfamiliar caption's code is drawn, for each image, among known ones by
            softmax(cosine / this); 0 keeps its own code.
        trusted: Pictures of captions whose best cosine with a known one is lower were not shown to be better than
            chance (`eval.studies.familiarity`); 0 where nobody measured it.
    """

    guidance_scale: float = 1.0
    num_inference_steps: int = 16
    temperature: float = 1.0
    familiar: float = 0.0
    neighbour_temperature: float = 0.0
    trusted: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("guidance_scale", 0, 100),
            ("num_inference_steps", 1, 1000),
            ("temperature", 0, 10),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise UserError(f"{name}: expected a number from {low} to {high}, got {value!r}")
        if self.num_inference_steps != int(self.num_inference_steps):
            raise UserError(f"num_inference_steps: expected a whole number, got {self.num_inference_steps!r}")


@dataclass(frozen=True)
class GeneratedImage:
    """One image and where it comes from.

    Attributes:
        image: The picture.
        prompt: Its caption, as given.
        prompt_index: The caption's place in the call.
        index: The image's number among its caption's.
        seed: The call's seed; None where the caller gave generators.
        note: Why to trust it less, or None.
    """

    image: Image.Image
    prompt: str
    prompt_index: int
    index: int
    seed: int | None
    note: str | None


@dataclass(frozen=True)
class BridgeOutput:
    """What a call gives.

    Attributes:
        images: All images, a caption's together, in the captions' order: a list of pictures, an array
            (B, H, W, 3) in [0, 1], pixels (B, 3, H, W) in [0, 1], or latents (B, *z_shape).
        notes: One a caption: which known captions an unfamiliar one is near to, else None.
        seed: What gives the same images again; None where generators were given.
    """

    images: Any
    notes: list[str | None]
    seed: int | None


@dataclass(frozen=True)
class _Job:
    """One image to make."""

    prompt: str
    prompt_index: int
    index: int
    code: TextCode
    away: TextCode
    generator: torch.Generator
    note: str | None
    places: int


class BridgePipeline:
    """Captions to several images each.

    Args:
        text_encoder: Frozen; captions to codes.
        mapper: Codes and noise to latents.
        codec: Latents to pictures; frozen.
        memory: The training captions, to tell which captions are far from all of them.
        settings: Defaults of every call.

    Raises:
        ValueError: The parts do not fit each other.

    Example, which needs the shipped model: `BridgePipeline.from_pretrained("emoji")("a smiling cat").images`
    """

    def __init__(
        self,
        text_encoder: TextEncoder,
        mapper: Mapper,
        codec: ImageCodec,
        memory: CaptionMemory,
        settings: Settings | None = None,
    ) -> None:
        if mapper.text_dim != text_encoder.dim or tuple(mapper.z_shape) != tuple(codec.z_shape):
            raise UserError(
                f"mapper: made for text codes of {mapper.text_dim} and latents {tuple(mapper.z_shape)}, not for "
                f"{text_encoder.dim} and {tuple(codec.z_shape)}; use the mapper trained on these encoders"
            )
        self.settings = settings or Settings()
        check_settings(type(mapper), self.settings)
        self.text_encoder, self.codec, self.memory = text_encoder, codec, memory
        self.mapper = mapper.eval().requires_grad_(False)
        self.device = torch.device("cpu")

    @property
    def fingerprints(self) -> dict[str, str]:
        """Identity of each part: text, vae, mapper."""
        return {
            "text": self.text_encoder.fingerprint,
            "vae": self.codec.fingerprint,
            "mapper": mapper_fingerprint(self.mapper),
        }

    @property
    def fingerprint(self) -> str:
        """Identity of the whole model, 16 hex digits a part."""
        return "-".join(self.fingerprints.values())

    @classmethod
    def from_pretrained(cls, model: str | Path) -> Self:
        """Open a shipped model ("emoji"), a model folder, or a hub id.

        Raises:
            CheckpointError: There is no such model, or it is damaged, or its parts are not those it was
                trained with.
            FileNotFoundError: The text encoder is not on this machine; says what to install.
        """
        folder = resolve_model(model)
        verify_folder(folder)
        index = json.loads((folder / INDEX).read_text("utf-8"))
        config = json.loads((folder / MAPPER / "config.json").read_text("utf-8"))
        name = config["_class_name"]
        if name not in FAMILIES:
            raise CheckpointError(f"{folder}: unknown mapper {name}; known: {', '.join(FAMILIES)}; update bridge")
        pipe = cls(
            load_text_encoder(index["text_encoder"], folder / TEXT),
            settled(FAMILIES[name].from_pretrained(folder / MAPPER, use_safetensors=True, local_files_only=True)),
            load_codec(folder / CODEC),
            CaptionMemory.load(folder / MEMORY),
            Settings(**index["settings"]),
        )
        differs = sorted(k for k, v in pipe.fingerprints.items() if index["fingerprints"][k] != v)
        # Version 0.1 counted every entry of the mapper's config, those at their defaults too.
        if differs == ["mapper"] and index["fingerprints"]["mapper"] == fingerprint(pipe.mapper, config):
            differs = []
        if differs:
            raise CheckpointError(
                f"{folder}: {', '.join(differs)} is not what this model was trained with; download it again"
            )
        return pipe

    def save_pretrained(self, folder: str | Path, card: str = "") -> None:
        """Write a model folder, complete or not at all; `card` becomes its README.md."""
        index = {
            "_class_name": type(self).__name__,
            "text_encoder": self.text_encoder.spec(),
            "fingerprints": self.fingerprints,
            "image_size": self.codec.image_size,
            "settings": asdict(self.settings),
        }
        with atomic_folder(folder) as scratch:
            self.text_encoder.save(scratch / TEXT)
            self.codec.save(scratch / CODEC)
            self.mapper.save_pretrained(scratch / MAPPER)
            self.memory.save(scratch / MEMORY)
            _forget_where(scratch)
            (scratch / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
            (scratch / "README.md").write_text(card or "A bridge model.\n", encoding="utf-8")

    def push_to_hub(self, repo_id: str, card: str = "", *, private: bool = False) -> str:
        """Upload the model folder to the hub; returns the address of the commit."""
        import tempfile  # noqa: PLC0415

        from huggingface_hub import HfApi  # noqa: PLC0415

        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            self.save_pretrained(Path(scratch) / "model", card)
            return str(api.upload_folder(repo_id=repo_id, folder_path=Path(scratch) / "model"))

    def to(self, device: torch.device | str) -> Self:
        """Move every part, in place; returns self."""
        self.device = torch.device(device)
        self.text_encoder.to(self.device)
        self.mapper.to(self.device)
        self.codec.to(self.device)
        return self

    def resolve(
        self,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        temperature: float | None = None,
        negative_prompt: str | Sequence[str] | None = None,
    ) -> Settings:
        """The model's settings with what the caller asked for instead.

        Raises:
            ValueError: A value is out of its range, or would do nothing: guidance or steps where the mapper
                has none, a negative caption without guidance.
        """
        asked: dict[str, Any] = {
            "guidance_scale": guidance_scale,
            "num_inference_steps": num_inference_steps,
            "temperature": temperature,
        }
        settings = replace(self.settings, **{k: v for k, v in asked.items() if v is not None})
        check_settings(type(self.mapper), settings)
        family = type(self.mapper)
        if not issubclass(family, VelocityMapper):
            if num_inference_steps is not None:
                raise UserError(f"num_inference_steps: {family.__name__} takes no steps; leave it out")
            if negative_prompt is not None:
                raise UserError(f"negative_prompt: {family.__name__} has no guidance; leave it out")
        if negative_prompt is not None and settings.guidance_scale == 1:
            raise UserError("negative_prompt: does nothing at guidance_scale 1; ask for more, such as 2")
        return settings

    def __call__(
        self,
        prompt: str | Sequence[str],
        num_images_per_prompt: int = 8,
        *,
        seed: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        temperature: float | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        output_type: str = "pil",
    ) -> BridgeOutput:
        """Several images of each caption.

        Args:
            prompt: A caption or several.
            num_images_per_prompt: Images of each, 1 to `bridge.limits.MAX_IMAGES_PER_PROMPT`.
            seed: Image i of a caption depends on (seed, i), the caption, the settings and the model, on
                nothing else; one seed's images share their noise across captions. Default: a new one.
            generator: One an image, captions in order, instead of a seed.
            guidance_scale: See `Settings`; like the next two, by default the model's.
            num_inference_steps: See `Settings`.
            temperature: See `Settings`.
            negative_prompt: What to move away from: one caption for all, or one each. Needs guidance.
            output_type: "pil", "np", "pt" or "latent"; see `BridgeOutput.images`.

        Raises:
            ValueError: An argument is out of range; nothing has been allocated then.
        """
        if output_type not in OUTPUT_TYPES:
            raise UserError(f"output_type: expected one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise UserError("prompt: expected at least one caption, got an empty list")
        settings = self.resolve(guidance_scale, num_inference_steps, temperature, negative_prompt)
        count = check_count(num_images_per_prompt)
        seed, generators = _seed_or_generators(seed, generator, len(prompts) * count)
        negatives = _negatives(negative_prompt, len(prompts))
        jobs = list(self._jobs(zip(prompts, negatives, strict=True), count, seed, generators))
        latents = [self._sample(chunk, settings) for chunk in _chunks(jobs)]
        notes = [job.note for job in jobs[::count]]
        if output_type == "latent":
            return BridgeOutput(torch.cat(latents), notes, seed)
        pixels = torch.cat([self._decode(z) for z in latents])
        if output_type == "pt":
            return BridgeOutput(pixels, notes, seed)
        if output_type == "np":
            return BridgeOutput(pixels.permute(0, 2, 3, 1).numpy(), notes, seed)
        return BridgeOutput(to_pil(pixels), notes, seed)

    def score(
        self, images: Sequence[Image.Image], captions: Sequence[str], *, samples: int = 32, seed: int = 0
    ) -> "ScoreMatrix":
        """How well pictures fit captions; see `bridge.score.score`."""
        from bridge.score import score  # noqa: PLC0415

        return score(self, images, captions, samples=samples, seed=seed)

    def stream(
        self,
        prompts: Iterable[str],
        num_images_per_prompt: int = 8,
        *,
        seed: int = 0,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        temperature: float | None = None,
        negative_prompt: str | None = None,
    ) -> Iterator[GeneratedImage]:
        """The same images one after the other, in memory that does not grow with their number.

        The arguments are checked at once, the captions when their turn comes. See `__call__`.
        """
        settings = self.resolve(guidance_scale, num_inference_steps, temperature, negative_prompt)
        count = check_count(num_images_per_prompt)
        _seed_or_generators(seed, None, 0)
        return self._stream(((prompt, negative_prompt) for prompt in prompts), count, seed, settings)

    def _stream(
        self, pairs: Iterable[tuple[str, str | None]], count: int, seed: int | None, settings: Settings
    ) -> Iterator[GeneratedImage]:
        for chunk in _chunks(self._jobs(pairs, count, seed, None)):
            for job, image in zip(chunk, to_pil(self._decode(self._sample(chunk, settings))), strict=True):
                yield GeneratedImage(image, job.prompt, job.prompt_index, job.index, seed, job.note)

    def _jobs(
        self,
        pairs: Iterable[tuple[str, str | None]],
        count: int,
        seed: int | None,
        generators: Sequence[torch.Generator] | None,
    ) -> Iterator[_Job]:
        for number, (prompt, negative) in enumerate(pairs):
            code = self._encode(prompt)
            away = TextCode.null(1, self.text_encoder.dim).to(self.device)
            if negative is not None:
                away = self._encode(negative)
            places = token_places(max(code.mask.shape[1], away.mask.shape[1]), self.text_encoder.max_tokens)
            note = self.note(code)
            for index in range(count):
                if generators is None:
                    assert seed is not None  # one of the two is always there
                    generator = generator_for(seed, index)
                else:
                    generator = generators[number * count + index]
                yield _Job(prompt, number, index, code, away, generator, note, places)

    def _encode(self, caption: str) -> TextCode:
        return self.text_encoder.encode([caption], with_tokens=self.mapper.reads_tokens)

    def note(self, code: TextCode) -> str | None:
        """What to tell whoever asked for this caption, one code: None where the model knows such captions."""
        cosine, index = self.memory.nearest(code.pooled, min(3, len(self.memory)))
        best, settings = float(cosine[0, 0]), self.settings
        if best >= max(settings.familiar, settings.trusted):
            return None
        near = ", ".join(repr(self.memory.captions[int(i)]) for i in index[0])
        nearest = f"nearest: {near} (cosine {best:.2f})"
        if best < settings.trusted:
            return f"unknown to this model: of captions so far from its own it draws no better than chance; {nearest}"
        return f"not among the captions this model knows, pictures may be of a near one; {nearest}"

    def _sample(self, jobs: Sequence[_Job], settings: Settings) -> Tensor:
        """Latents of at most SAMPLE_BATCH jobs of like token places, always computed as SAMPLE_BATCH rows."""
        noise = torch.zeros(SAMPLE_BATCH, *self.mapper.sample_noise_shape)
        choice = torch.zeros(SAMPLE_BATCH)
        for row, job in enumerate(jobs):
            shape, at = self.mapper.sample_noise_shape, job.generator.device
            noise[row] = torch.randn(shape, generator=job.generator, device=at).cpu()
            choice[row] = torch.rand((), generator=job.generator, device=at).cpu()
        padding = SAMPLE_BATCH - len(jobs)
        null = TextCode.null(padding, self.text_encoder.dim).to(self.device)
        c = TextCode.cat([job.code for job in jobs] + [null]).padded(jobs[0].places)
        if settings.neighbour_temperature > 0:
            c = self.memory.soften(c, choice.to(self.device), settings.neighbour_temperature, settings.familiar)
        away = TextCode.cat([job.away for job in jobs] + [null]).padded(jobs[0].places)
        noise = noise.to(self.device)
        if isinstance(self.mapper, VelocityMapper):
            z = self.mapper.sample(
                c,
                noise=noise,
                temperature=settings.temperature,
                guidance_scale=settings.guidance_scale,
                num_inference_steps=int(settings.num_inference_steps),
                negative=away,
            )
        else:
            z = self.mapper.sample(c, noise=noise, temperature=settings.temperature)
        return z[: len(jobs)]

    def _decode(self, latents: Tensor) -> Tensor:
        """Pictures of any number of latents on the CPU, always computed as MICRO_BATCH rows."""
        parts = []
        for z in latents.split(MICRO_BATCH):
            padded = torch.zeros(MICRO_BATCH, *z.shape[1:], device=z.device)
            padded[: len(z)] = z
            parts.append(self.codec.decode(padded)[: len(z)].cpu())
        return torch.cat(parts)


def check_settings(family: type[Mapper], settings: Settings) -> None:
    """Refuse settings that a mapping family cannot follow.

    Raises:
        ValueError: Guidance, for a family without a velocity.
    """
    if settings.guidance_scale != 1 and not issubclass(family, VelocityMapper):
        raise UserError(f"guidance_scale: {family.__name__} has no guidance; leave it out")


def mapper_fingerprint(mapper: Mapper) -> str:
    """Identity of family, weights and configuration, 16 hex digits.

    Entries of the configuration that are at their defaults do not count, so that a family may gain an argument
    without making the folders it has written unreadable. A default itself is not to be changed.
    """
    arguments = inspect.signature(type(mapper).__init__).parameters
    defaults = {name: argument.default for name, argument in arguments.items()}
    config = {
        name: value
        for name, value in mapper.config.items()
        if name not in defaults or _plain(value) != _plain(defaults[name])
    }
    return fingerprint(mapper, {**config, "family": type(mapper).__name__})


def token_places(tokens: int, most: int) -> int:
    """Places that a caption of so many tokens is padded to: the next power of 2 from LEAST_PLACES on.

    It depends on the caption alone, not on those it is drawn beside, and so do the bits of its images.

    Args:
        tokens: 0 to `most`; 0 stays 0.
        most: The encoder's limit.

    >>> [token_places(tokens, 77) for tokens in (0, 5, 17, 65)]
    [0, 16, 32, 77]
    """
    return min(max(LEAST_PLACES, 1 << (tokens - 1).bit_length()), most) if tokens else 0


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _seed_or_generators(
    seed: int | None, generator: torch.Generator | Sequence[torch.Generator] | None, images: int
) -> tuple[int | None, Sequence[torch.Generator] | None]:
    if generator is None:
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int | np.integer)):
            raise ValueError(f"seed: expected a whole number, got {seed!r}")
        return secrets.randbits(32) if seed is None else int(seed), None
    if seed is not None:
        raise ValueError("seed, generator: give one of them, not both")
    generators = [generator] if isinstance(generator, torch.Generator) else list(generator)
    if len(generators) != images or len({id(g) for g in generators}) != images:
        raise ValueError(f"generator: expected one for each of the {images} images, got {len(generators)}")
    return None, generators


def _negatives(negative_prompt: str | Sequence[str] | None, prompts: int) -> list[str | None]:
    if negative_prompt is None or isinstance(negative_prompt, str):
        return [negative_prompt] * prompts
    if len(negative_prompt) != prompts:
        raise UserError(
            f"negative_prompt: expected one, or one for each of the {prompts} prompts, got {len(negative_prompt)}"
        )
    return list(negative_prompt)


def _chunks(jobs: Iterable[_Job]) -> Iterator[list[_Job]]:
    for _, alike in groupby(jobs, key=lambda job: job.places):
        while chunk := list(islice(alike, SAMPLE_BATCH)):
            yield chunk


def _forget_where(folder: Path) -> None:
    """Take out of diffusers' configs the path that a part was once loaded from: somebody's disk, and no identity."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text("utf-8"))
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
