"""The one place that joins text encoder, mapper and image codec: captions in, several images out."""

import contextlib
import inspect
import json
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Self

import huggingface_hub
import torch
from PIL import Image
from torch import Generator, Tensor, nn

from bridge.arguments import Text, check_count, check_one_of, negatives_of, number, texts, whole
from bridge.captions import asked_for, without_articles
from bridge.card import default_card
from bridge.checkpoint import INDEX, CheckpointError, atomic_folder, verify_folder
from bridge.codecs import ImageCodec, load_codec
from bridge.composition import DRAWN_AGAIN, ONE_PICTURE, coloured, compose, main_thing
from bridge.context import plain_torch, unwrapped
from bridge.errors import UserError, first_line
from bridge.hub import resolve_model
from bridge.images import to_pil, to_tensor
from bridge.learn import Memory, learn
from bridge.mappers import LocalFlowMapper, Mapper, VelocityMapper, load_mapper
from bridge.mappers.local import BELOW_ONE, RATHER_NOT, SETTINGS, Material
from bridge.memory import CaptionMemory, code_key, kept
from bridge.noise import generator_for, seed_or_generators, spread_number
from bridge.opening import fingerprint, read_object, refuse_unknown
from bridge.pairs.sources import Wanted
from bridge.score import MAX_SAMPLES, SAMPLES, ScoreMatrix, check_pictures, resolve_method, score_latents, typical
from bridge.text import TextCode, TextEncoder
from bridge.text.encoders import load_text_encoder
from bridge.variation import variations

SAMPLE_BATCH, MICRO_BATCH = 32, 8
VARIED_BATCH = 8  # New pictures that are made before the first of them is given: some .2 s each
"""Rows that mapper and decoder work on at a time, padded: matrix kernels round differently for other sizes.

The mapper is bound by reading its weights, the decoder by arithmetic.
"""
LEAST_PLACES = 16  # token places of the shortest captions, for a mapper that reads tokens; see `token_places`
TEXT, MAPPER, CODEC, MEMORY = "text", "mapper", "vae", "captions"  # folders inside a model's
MATERIALS = 128  # Captions of which it is remembered what they draw from
TO_THE_LETTER = 0.98  # cosine with a known caption from which on a caption is taken for that one
Prompts = Iterable[tuple[Text, Text | None]]  # captions, each with its negative one
PIXELS = ("pil", "np", "pt")
OUTPUT_TYPES = (*PIXELS, "latent")
PARTS: dict[str, Any] = {"text_encoder": TextEncoder, "mapper": Mapper, "codec": ImageCodec}


def _within(low: float, high: float, default: float) -> Any:
    return field(default=default, metadata={"range": (low, high)})


@dataclass(frozen=True)
class Settings:
    """How to sample; a model folder carries the values chosen on its validation data.

    A caption is unfamiliar if its best cosine with a known one is below `familiar`: its code is then drawn, for each
    image, among those of near known ones (`CaptionMemory.soften`, `LocalFlowMapper.known_code`). Below `trusted`, 0
    where nobody measured it, its pictures were not shown to be better than chance (`eval.studies.checks familiarity`).
    The last three are of a memory of pictures: see `LocalFlowMapper.restricted` and `bridge.composition`.
    Raises UserError if a number is out of its range.
    """

    guidance_scale: float = _within(0, 100, 1.0)  # 1 follows the caption as learned; more exaggerates it
    num_inference_steps: int = _within(1, 1000, 16)  # Euler steps
    temperature: float = _within(0, 10, 1.0)  # factor on the noise; 0 gives one image a caption
    familiar: float = _within(-10, 10, 0.0)
    neighbour_temperature: float = _within(0, 1000, 0.0)  # of that draw; 0 keeps the caption's own code
    trusted: float = _within(-10, 10, 0.0)
    novelty: float = _within(-1, 1, 0.0)  # how far from known pictures
    style: str = ""  # kinds of pictures: "flat, 3d"; "not glyph": any other; "rather not glyph, icon"; "": any
    compose: bool = True  # draw together what is known only apart, and paint what is known in other colours alone

    def __post_init__(self) -> None:
        for setting in fields(self):
            if "range" in setting.metadata:
                value = number(getattr(self, setting.name), setting.name, *setting.metadata["range"])
                object.__setattr__(self, setting.name, value)
        object.__setattr__(self, "compose", bool(self.compose))
        if self.num_inference_steps != int(self.num_inference_steps):
            raise UserError(f"num_inference_steps: expected a whole number, got {self.num_inference_steps!r}")


@dataclass(frozen=True)
class GeneratedImage:
    """One image and how it was made."""

    image: Image.Image
    prompt: str
    prompt_index: int  # the caption's place in the call
    index: int  # the image's number among the caption's
    seed: int | None  # the call's, None where the caller gave generators
    note: str | None  # why to trust it less
    latent: Tensor | None = field(default=None, repr=False, compare=False)  # what it is drawn from, (*z_shape)


@dataclass(frozen=True)
class BridgeOutput:
    """What a call gives: the images of all captions in their order, and a note for each caption."""

    images: Any  # list of pictures, array (B, H, W, 3) or pixels (B, 3, H, W) in [0, 1], or latents (B, *z_shape)
    notes: list[str | None]  # why to trust a caption's images less
    seed: int | None  # gives the same images again; None where generators were given


def settings_of_pairs(codec: ImageCodec, familiar: float = 0.0) -> Settings:
    """How models made from pairs draw: new pictures, unless the codec does not tell a drawing from its paper."""
    return Settings(num_inference_steps=12, familiar=familiar, novelty=0.5 if codec.draws_opacity else 0.0)


@dataclass(frozen=True)
class Job:
    """One image to make; those of equal `places` can be sampled together."""

    prompt: str
    prompt_index: int
    index: int
    code: TextCode
    away: TextCode
    generator: Generator
    choice: float | None  # see `TextCode.choice`; None: a number from the generator, after the noise
    note: str | None
    places: int
    # What its captions, the negative one too, draw from in place of memory, by text codes, (text_dim,).
    material: tuple[tuple[Tensor, Material], ...] = field(default=(), repr=False, compare=False)


class BridgePipeline:
    """Captions to several images each.

    A call gives the same images whatever its caller has set in torch: autocast, inference mode, a default type or
    device. Text encoder and mapper can be replaced; a part in a wrapper of torch's (torch.compile, DataParallel) is
    unwrapped. `memory` holds the training captions, to tell which captions are far from all of them; `settings` are the
    defaults of every call. Raises UserError if a part is none, or the parts do not fit each other.

    Example, which needs the shipped model: `BridgePipeline.from_pretrained("pictures")("a smiling cat").images`
    """

    def __init__(
        self,
        text_encoder: TextEncoder,
        mapper: Mapper,
        codec: ImageCodec,
        memory: CaptionMemory,
        settings: Settings | None = None,
    ) -> None:
        self._device = torch.device("cpu")
        self.text_encoder, self.mapper, self.codec, self.memory = text_encoder, mapper, codec, memory
        dim, z_shape = self.text_encoder.dim, tuple(self.codec.z_shape)
        if (self.mapper.text_dim, tuple(self.mapper.z_shape)) != (dim, z_shape):
            raise UserError(
                f"mapper: made for text codes of {self.mapper.text_dim} and latents {tuple(self.mapper.z_shape)}, not "
                f"for {dim} and {z_shape}; use the mapper trained on these encoders"
            )
        self.settings = settings or Settings()
        check_settings(type(mapper), self.settings)

    def __setattr__(self, name: str, value: Any) -> None:
        """A part is unwrapped, frozen, and moved to where the others are."""
        if name in PARTS:
            value, kind = unwrapped(value), PARTS[name]
            if not isinstance(value, kind):
                got = type(value).__name__
                raise UserError(f"{name}: expected a {kind.__name__}, got {got}; pass the part itself, unwrapped")
            value = (value.eval().requires_grad_(False) if name == "mapper" else value).to(self._device)
            self._materials: OrderedDict[tuple[Any, ...], Material | None] = OrderedDict()  # see `_material`
        super().__setattr__(name, value)

    @property
    def device(self) -> torch.device:
        """Where all parts are; see `to`."""
        return self._device

    @property
    def fingerprints(self) -> dict[str, str]:
        """Identity of each part: text, vae, mapper."""
        mapper = mapper_fingerprint(self.mapper)
        return {"text": self.text_encoder.fingerprint, "vae": self.codec.fingerprint, "mapper": mapper}

    @property
    def fingerprint(self) -> str:
        """Identity of the whole model, 16 hex digits a part."""
        return "-".join(self.fingerprints.values())

    @classmethod
    def from_pretrained(cls, model: str | Path) -> Self:
        """Open a shipped model ("pictures"), a model folder, or a hub id.

        Raises CheckpointError if there is no such model, it is damaged, or its parts are not those it was trained with;
        FileNotFoundError if the text encoder is not on this machine.
        """
        folder = resolve_model(model)
        try:
            verify_folder(folder)
        except CheckpointError as error:
            raise CheckpointError(f"model: {error}") from None
        with plain_torch():
            return cls._opened(folder)

    @classmethod
    def _opened(cls, folder: Path, encoder: TextEncoder | None = None) -> Self:
        """The model of a folder, with `encoder` in place of its own where one is given."""
        path = folder / INDEX
        index = read_object(path, "model", {"settings": dict, "fingerprints": dict, "text_encoder": dict})
        refuse_unknown(path, index["settings"], [field.name for field in fields(Settings)])
        encoder = encoder or load_text_encoder(index["text_encoder"], folder / TEXT)
        mapper = load_mapper(folder / MAPPER)
        memory = CaptionMemory.load(folder / MEMORY, _codes(mapper))
        pipe = cls(encoder, mapper, load_codec(folder / CODEC), memory, Settings(**index["settings"]))
        differs = sorted(k for k, v in pipe.fingerprints.items() if index["fingerprints"].get(k) != v)
        # Version 0.1 counted every entry of the mapper's config, those at their defaults too.
        former = fingerprint(pipe.mapper, mapper.config) if differs == ["mapper"] else None
        if differs and index["fingerprints"].get("mapper", "") != former:
            parts = ", ".join(differs)
            raise CheckpointError(f"{folder}: {parts} is not what this model was trained with; download it again")
        return pipe

    @classmethod
    def from_pairs(
        cls,
        source: Any,
        model: str | Path = "pictures",
        *,
        with_default: bool = False,
        caption_column: str | None = None,
        image_column: str | None = None,
        names: str = "",
        refine: bool = False,
        cache: bool = True,
        say: Callable[[str], None] | None = None,
    ) -> Self:
        """A model that draws from captioned pictures of your own, without training: a local flow over them.

        `source`, its columns and `names` are those of `bridge.pairs.load_pairs`; text encoder, codec and correction, if
        any, are those of `model`. `with_default` keeps in memory what that model knows; `refine` draws nearer to your
        pictures, for some .15 s of two cores each, see `ImageCodec.refined`; `cache` keeps what is encoded for the next
        call, see `bridge.learn.cache_folder`; `say` is called with progress and with what was left out.

        Raises UserError if the pictures cannot be read, or the model has no memory to keep.
        """
        base = cls.from_pretrained(model)
        with base.plain():
            wanted = Wanted(source, caption_column, image_column, names)
            memory = learn(wanted, base.text_encoder, base.codec, refine=refine, cache=cache, say=say)
            how = {}
            if with_default:
                if not isinstance(base.mapper, LocalFlowMapper):
                    raise UserError(f"with_default: {model} has no memory of pictures to keep; leave it out")
                memory = Memory.of(base.mapper, base.memory.captions) + memory
                how = {name: base.mapper.config[name] for name in SETTINGS}
            mapper = memory.mapper(how)
            if isinstance(base.mapper, LocalFlowMapper) and base.mapper.network is not None:
                mapper = mapper.corrected_like(base.mapper, base.mapper.strength, base.mapper.begin)
        if say is not None:
            for note in memory.notes:
                say(note)
        settings = base.settings
        if not with_default:
            settings = settings_of_pairs(base.codec, settings.familiar)
        return cls(base.text_encoder, mapper, base.codec, CaptionMemory(mapper.unit_codes, memory.texts), settings)

    def save_pretrained(self, folder: str | Path, card: str = "") -> None:
        """Write a model folder, complete or not at all; `card`, or what can be said without one, becomes its README.md.

        Raises UserError if what was written would not open again, or `folder` holds what is no model.
        """
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
            self.mapper.compact().save_pretrained(scratch / MAPPER)
            self.memory.save(scratch / MEMORY, with_codes=_codes(self.mapper) is None)
            _forget_where(scratch)
            (scratch / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
            card = card or default_card(self.text_encoder, self.mapper, self.codec, self.memory)
            (scratch / "README.md").write_text(card, encoding="utf-8")
            self._check_opens(scratch)

    def _check_opens(self, scratch: Path) -> None:
        """Refuse to save what does not open again: quantised, half-precision or otherwise altered parts."""
        own_files = (scratch / TEXT).is_dir() and any((scratch / TEXT).iterdir())
        try:
            with plain_torch():
                self._opened(scratch, None if own_files else self.text_encoder)
        except UserError as error:
            reason = str(error).replace(f"{scratch}", "it").replace("; download it again", "")
            raise UserError(
                f"folder: nothing was saved, since this model would not open again ({reason}); undo what was changed "
                "in its parts, such as their type or what compiles or quantises them"
            ) from error

    def push_to_hub(self, repo_id: str, card: str = "", *, private: bool = False) -> str:
        """Upload the model folder to the hub; returns the address of the commit."""
        api = huggingface_hub.HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            self.save_pretrained(Path(scratch) / "model", card)
            return str(api.upload_folder(repo_id=repo_id, folder_path=Path(scratch) / "model"))

    def to(self, device: torch.device | str) -> Self:
        """Move every part, in place; returns self.

        Raises UserError if there is no such device, or not all fits on it; everything is where it was then.
        """
        before = self._device
        try:
            target = torch.device(device)
            if target.type == "meta":
                raise UserError("device: meta holds no numbers, and so no model; name another")
            torch.zeros(1, device=target)
            self._move(target)
        except BaseException as error:
            self._move(before)
            if isinstance(error, UserError) or not isinstance(error, Exception):
                raise
            why = first_line(error)
            raise UserError(f"device: cannot use {device!r} ({why}); the model stays on {before}") from error
        return self

    def _move(self, device: torch.device) -> None:
        for name in PARTS:
            getattr(self, name).to(device)
        self._device = device

    @contextlib.contextmanager
    def plain(self) -> Iterator[None]:
        """A block in which the parts compute as they do at any other time; see `bridge.context.plain_torch`.

        Raises UserError if somebody has changed the type of a part's numbers.
        """
        for name in PARTS:
            if (dtype := foreign_dtype(getattr(self, name))) is not None:
                raise UserError(f"{name}: holds numbers of {dtype}; the model computes in float32: call .float() on it")
        training = self.mapper.training
        with plain_torch():
            try:
                self.mapper.eval()
                yield
            finally:
                self.mapper.train(training)

    def resolve(
        self,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        temperature: float | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        novelty: float | None = None,
        style: str | None = None,
        compose: bool | None = None,
    ) -> Settings:
        """The model's settings with what the caller asked for instead.

        Raises UserError if a value is out of its range, or would do nothing: guidance or steps where the mapper has
        none, a negative caption without guidance.
        """
        asked: dict[str, Any] = {"guidance_scale": guidance_scale, "num_inference_steps": num_inference_steps}
        asked |= {"temperature": temperature, "novelty": novelty, "style": style, "compose": compose}
        settings = replace(self.settings, **{k: v for k, v in asked.items() if v is not None})
        family = type(self.mapper)
        check_settings(family, settings)
        view_of(self.mapper, settings)
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
        generator: Generator | Sequence[Generator] | None = None,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        temperature: float | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        novelty: float | None = None,
        style: str | None = None,
        compose: bool | None = None,
        size: int | None = None,
        transparent: bool = False,
        output_type: str = "pil",
    ) -> BridgeOutput:
        """Several images of each caption, by default as the model's `Settings` ask.

        Args:
            prompt: A caption or several.
            num_images_per_prompt: Images of each, 1 to `bridge.arguments.MAX_IMAGES_PER_PROMPT`.
            seed: Image i of a caption depends on (seed, i), the caption, the settings and the model, on
                nothing else; one seed's images share their noise across captions. Default: a new one.
            generator: One an image, captions in order, instead of a seed.
            negative_prompt: What to move away from: one caption for all, or one each. Needs guidance.
            size: Side of the images in pixels, of a codec that draws at any; see `ImageCodec.render`.
            transparent: Give images an opacity: RGBA, four channels.
            output_type: "pil", "np", "pt" or "latent"; see `BridgeOutput`.

        Raises UserError if an argument is out of range; nothing has been allocated then.
        """
        check_one_of(output_type, "output_type", OUTPUT_TYPES)
        prompts = list(texts(prompt, "prompt"))
        if not prompts:
            raise UserError("prompt: expected at least one caption, got an empty list")
        settings = self.resolve(
            guidance_scale, num_inference_steps, temperature, negative_prompt, novelty, style, compose
        )
        self.codec.check_render(size, transparent)
        count = check_count(num_images_per_prompt)
        seed, generators = seed_or_generators(seed, generator, len(prompts) * count)
        negatives = negatives_of(negative_prompt, len(prompts))
        with self.plain():
            jobs = list(self._jobs(zip(prompts, negatives, strict=True), count, settings, seed, generators))
            latents = self.sample(jobs, settings)
        images = latents if output_type == "latent" else self.decode(latents, size, transparent, output_type)
        return BridgeOutput(images, [job.note for job in jobs[::count]], seed)

    def decode(self, z: Tensor, size: int | None = None, transparent: bool = False, output_type: str = "pil") -> Any:
        """Pictures of latents z, (B, *z_shape): of those that a call gives, the pictures that it gives.

        However many there are, always so many rows are computed at a size. `output_type` is "pil", "np" or "pt", or
        UserError.
        """
        check_one_of(output_type, "output_type", PIXELS)
        rows = MICRO_BATCH if size is None else max(1, int(MICRO_BATCH * min(1.0, (128 / size) ** 2)))
        parts = []
        with self.plain():
            for some in z.to(self.device).split(rows):
                padded = torch.zeros(rows, *some.shape[1:], device=some.device)
                padded[: len(some)] = some
                parts.append(self.codec.render(padded, size, transparent)[: len(some)].cpu())
            pixels = torch.cat(parts)
        if output_type == "pil":
            return to_pil(pixels)
        return pixels if output_type == "pt" else pixels.permute(0, 2, 3, 1).numpy()

    def score(
        self,
        images: Sequence[Image.Image],
        captions: Sequence[str],
        *,
        method: str | None = None,
        samples: int = SAMPLES,
        seed: int = 0,
    ) -> ScoreMatrix:
        """How well every picture fits every caption; guidance and temperature are no part of it. See `bridge.score`.

        `images` are RGB and of the model's size; see `bridge.images.read_image`. Of each caption, `samples` tell how
        typical a score is, 0 leaves that out. `seed` is of probes and samples.
        Raises UserError if the mapper knows no density, there is no picture or caption, or an argument is out of range.
        """
        pictures, names = check_pictures(images), [text.text for text in texts(captions, "captions")]
        if not pictures or not names:
            raise UserError("images, captions: expected one or more of each, in a list")
        side = self.codec.image_size
        if {(image.mode, image.size) for image in pictures} != {("RGB", (side, side))}:
            expected = f"expected RGB pictures of {side} pixels a side; open them with read_image(file, {side})"
            raise UserError(f"images: {expected}")
        samples, seed, mapper = whole(samples, "samples", 0, MAX_SAMPLES), whole(seed, "seed"), self.mapper
        method = resolve_method(mapper, method)
        with self.plain():
            z = self.codec.encode(to_tensor(pictures).to(self.device)).mean
            c = self.text_encoder.encode(names, with_tokens=mapper.reads_tokens)
            values = score_latents(mapper, z, c, method=method, seed=seed)
            shares = typical(mapper, values, c, method=method, samples=samples, seed=seed) if samples else None
        return ScoreMatrix(tuple(names), values.cpu(), None if shares is None else shares.cpu(), method)

    def stream(
        self,
        prompts: str | Iterable[str],
        num_images_per_prompt: int = 8,
        *,
        seed: int = 0,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        temperature: float | None = None,
        negative_prompt: str | None = None,
        novelty: float | None = None,
        style: str | None = None,
        compose: bool | None = None,
        size: int | None = None,
        transparent: bool = False,
    ) -> Iterator[GeneratedImage]:
        """The same images as a call gives, one after the other, in memory that does not grow with their number.

        The arguments are checked at once, the captions when their turn comes.
        """
        settings = self.resolve(
            guidance_scale, num_inference_steps, temperature, negative_prompt, novelty, style, compose
        )
        self.codec.check_render(size, transparent)
        count = check_count(num_images_per_prompt)
        drawn_seed, _ = seed_or_generators(seed, None, 0)
        [negative] = negatives_of(negative_prompt, 1)
        pairs = ((text, negative) for text in texts(prompts, "prompts"))
        chunks = _chunks(self._jobs(pairs, count, settings, drawn_seed, None), given_at_once(settings))

        def images() -> Iterator[GeneratedImage]:
            while True:
                with self.plain():  # not while the caller has its turn
                    if (jobs := next(chunks, None)) is None:
                        return
                    latents = self.sample(jobs, settings)
                    pictures = self.decode(latents, size, transparent)
                for job, image, z in zip(jobs, pictures, latents, strict=True):
                    yield GeneratedImage(image, job.prompt, job.prompt_index, job.index, drawn_seed, job.note, z)

        return images()

    def jobs(
        self,
        prompts: Sequence[str],
        count: int,
        *,
        seed: int,
        negative_prompt: str | None = None,
        settings: Settings | None = None,
    ) -> list[Job]:
        """What `stream` would make, to be sampled with others' jobs. Raises UserError if a caption cannot be read."""
        count, seed, [negative] = check_count(count), whole(seed, "seed"), negatives_of(negative_prompt, 1)
        with self.plain():
            pairs = ((text, negative) for text in texts(prompts, "prompts"))
            return list(self._jobs(pairs, count, settings or self.settings, seed, None))

    def _jobs(
        self, prompts: Prompts, count: int, settings: Settings, seed: int | None, generators: Sequence[Generator] | None
    ) -> Iterator[Job]:
        for place, (prompt, negative) in enumerate(prompts):
            code = self._encode(prompt)
            away = self._encode(negative) if negative else TextCode.null(1, self.text_encoder.dim).to(self.device)
            places = token_places(max(code.mask.shape[1], away.mask.shape[1]), self.text_encoder.max_tokens)
            made = self._material(prompt.text, code, settings)
            other = self._material(negative.text, away, settings) if negative else None
            material = tuple((c.pooled[0], m) for c, m in ((code, made), (away, other)) if m is not None)
            note = (made.note if made else None) or self._note(code, settings)
            for index in range(count):
                own = generators[place * count + index] if generators else generator_for(seed or 0, index)
                choice = None if generators else spread_number(seed or 0, index)
                yield Job(prompt.text, place, index, code, away, own, choice, note, places, material)

    def view(self, captions: Mapping[str, TextCode]) -> Mapper:
        """The mapper as the model's settings ask, which draws each of these captions, with its code, as a call does.

        Codes without a choice are of no one image: they are drawn from what memory holds, whatever the novelty.
        """
        made = [(code.pooled[0], self._material(text, code, self.settings)) for text, code in captions.items()]
        mapper = view_of(self.mapper, self.settings, [(code, each) for code, each in made if each is not None])
        chosen = [code for code in captions.values() if bool(code.choice.isfinite().all())]
        return self._varying(mapper, TextCode.cat(chosen), self.settings.novelty) if chosen else mapper

    def _note(self, code: TextCode, settings: Settings) -> str | None:
        """See `note`; also that a caption is drawn from pictures of a style that is rather not drawn."""
        notes, mapper = [self.note(code)], view_of(self.mapper, settings)
        if isinstance(mapper, LocalFlowMapper) and mapper.yields(code.pooled[0]):
            style = settings.style.removeprefix(RATHER_NOT).split(",")[0]
            notes.append(f"drawn as a {style}: memory shows it in no other style")
        return "; ".join(filter(None, notes)) or None

    def _material(self, caption: str, code: TextCode, settings: Settings) -> Material | None:
        """What a caption draws from, or None where that is what is nearest in memory; remembered, for it takes long."""
        mapper = view_of(self.mapper, settings)
        if not isinstance(mapper, LocalFlowMapper) or not settings.compose:
            return None
        again = 0 if settings.novelty > 0 else DRAWN_AGAIN  # of drawings that become other ones, see `bridge.variation`
        key = caption, code_key(code.pooled[0]), settings.style, again
        return kept(self._materials, MATERIALS, key, lambda: self._made(caption, code, mapper, again))

    def _made(self, caption: str, code: TextCode, mapper: LocalFlowMapper, again: int) -> Material | None:
        known = self.read(caption), code.pooled[0], mapper, lambda text: self.code(text).pooled[0]
        made = compose(*known, self.codec, again) or coloured(*known, self.codec, again)
        return made or main_thing(*known)

    def _varying(self, mapper: Mapper, c: TextCode, novelty: float) -> Mapper:
        """A view in which each of codes, B rows, draws from a new picture of its own, where novelty asks for that."""
        captioned = c.pooled.any(1)
        if novelty <= 0 or not isinstance(mapper, LocalFlowMapper) or not captioned.any():
            return mapper
        c = c[captioned]
        choice = c.choice.nan_to_num(0.0).tolist()
        draws = [(mapper.material_of(code), u) for code, u in zip(c.pooled, choice, strict=True)]
        made = [Material(z[None], torch.zeros(1)) for z in variations(draws, self.codec, novelty)]
        return mapper.given([*zip(torch.cat([c.pooled, c.choice[:, None]], 1), made, strict=True)])

    def _strange(self, c: TextCode, settings: Settings) -> Tensor:
        """Which codes are drawn from known ones in their place, (B,) bool."""
        strange = (self.memory.familiarity(c.pooled) < settings.familiar) & c.pooled.any(1)
        return strange & (settings.neighbour_temperature > 0)

    def _encode(self, caption: Text) -> TextCode:
        try:
            return self.code(caption.text)
        except UserError as error:
            reason = str(error).removeprefix("captions[0]: ").removeprefix("captions: ")
            reason = f"the caption {reason[3:]}" if reason.startswith("it ") else reason
            raise UserError(f"{caption.name}: {reason}") from None

    def read(self, caption: str) -> str:
        """What a caption is read as: of "draw me a cat", a cat, where the model knows that better than all of it."""
        if (thing := asked_for(caption)) != caption:
            with contextlib.suppress(UserError):  # the encoder cannot read it; of the caption, its caller is told
                known, whole = self.memory.familiarity(self.text_encoder.encode([thing, caption]).pooled).tolist()
                return thing if known > whole else caption
        return caption

    def code(self, caption: str) -> TextCode:
        """The text code that a caption is drawn from, one row. Raises UserError if the encoder cannot read it.

        Where a memory of pictures knows the caption without its articles to the letter, that is taken: "a witch" is not
        quite "witch" to a text encoder, and other captions are then nearer than they should be. Where it knows both,
        that of more pictures is. Of a request for a picture, see `read`.
        """
        caption = self.read(caption)
        mapper, bare = self.mapper, without_articles(caption)
        code = self.text_encoder.encode([caption], with_tokens=mapper.reads_tokens)
        if bare != caption and isinstance(mapper, LocalFlowMapper):
            other = self.text_encoder.encode([bare], with_tokens=mapper.reads_tokens)
            known, as_it_is = (float(self.memory.familiarity(c.pooled)) for c in (other, code))
            if known >= TO_THE_LETTER > as_it_is:
                return other
            if known >= TO_THE_LETTER:
                return max(code, other, key=lambda c: mapper.support(c.pooled[0], 1 - TO_THE_LETTER))
        return code

    def note(self, code: TextCode) -> str | None:
        """Why to trust pictures of a caption, one code, less: None where the model knows such captions."""
        cosine, index = self.memory.nearest(code.pooled, min(3, len(self.memory)))
        best, settings = float(cosine[0, 0]), self.settings
        if best >= max(settings.familiar, settings.trusted):
            alone = isinstance(self.mapper, LocalFlowMapper) and self.mapper.support(code.pooled[0]) <= 1
            return ONE_PICTURE if alone else None
        near = ", ".join(repr(self.memory.captions[int(i)]) for i in index[0])
        nearest = f"nearest: {near} (cosine {best:.2f})"
        if best < settings.trusted:
            return f"unknown to this model: of captions so far from its own it draws no better than chance; {nearest}"
        return f"not among the captions this model knows, pictures may be of a near one; {nearest}"

    def sample(self, jobs: Iterable[Job], settings: Settings) -> Tensor:
        """Latents of one job or more, (B, *z_shape), in their order."""
        with self.plain():
            return torch.cat([self._sample(chunk, settings) for chunk in _chunks(jobs)])

    def _sample(self, jobs: Sequence[Job], settings: Settings) -> Tensor:
        """Latents of 1 to SAMPLE_BATCH jobs of equal `places`, always computed as SAMPLE_BATCH rows."""
        shape, null = self.mapper.sample_noise_shape, TextCode.null(SAMPLE_BATCH - len(jobs), self.text_encoder.dim)
        noise, made = torch.zeros(SAMPLE_BATCH, *shape), []
        for row, job in enumerate(jobs):
            at = job.generator.device
            noise[row] = torch.randn(shape, generator=job.generator, device=at).cpu()
            choice = float(torch.rand((), generator=job.generator, device=at)) if job.choice is None else job.choice
            made.append(replace(job, choice=choice))
        places = jobs[0].places
        c = TextCode.cat([self.codes(made, settings), null.to(self.device)]).padded(places)
        away = TextCode.cat([*(job.away for job in jobs), null.to(self.device)]).padded(places)
        mapper = self._varying(view_of(self.mapper, settings, _material_of(jobs)), c, settings.novelty)
        return draw(mapper, c, noise.to(self.device), settings, away)[: len(jobs)]

    def codes(self, jobs: Sequence[Job], settings: Settings) -> TextCode:
        """What images with a choice are drawn from, in a `plain` block: their captions' codes, or near known ones'."""
        mapper = view_of(self.mapper, settings, _material_of(jobs))
        c, one = TextCode.cat([job.code for job in jobs]), settings.temperature == 0  # one image a caption
        choice = torch.tensor([0.0 if one else job.choice for job in jobs])
        choice, temperature = choice.clamp(max=BELOW_ONE).to(self.device), settings.neighbour_temperature
        if temperature > 0 and not isinstance(mapper, LocalFlowMapper):
            c = self.memory.soften(c, choice, temperature, settings.familiar)
        elif isinstance(mapper, LocalFlowMapper):
            far, near = self._strange(c, settings), c.pooled.clone()
            for row in far.nonzero()[:, 0].tolist():
                near[row], choice[row] = mapper.known_code(c.pooled[row], float(choice[row]), temperature)
            c = c.replaced(far, near)
        return c if one else c.chosen(choice)


def foreign_dtype(part: Any) -> torch.dtype | None:
    """The first type of numbers in a module, or in the modules and codecs that an object holds, that is not float32."""
    if not isinstance(part, nn.Module):
        held = (each for each in vars(part).values() if isinstance(each, nn.Module | ImageCodec))
        return next(filter(None, map(foreign_dtype, held)), None)
    tensors = (*part.parameters(), *part.buffers())
    return next((t.dtype for t in tensors if t.is_floating_point() and t.dtype != torch.float32), None)


def draw(mapper: Mapper, c: TextCode, noise: Tensor, settings: Settings, away: TextCode | None = None) -> Tensor:
    """One latent a code, (B, *z_shape), as the settings ask; steps and guidance where the mapper has a velocity."""
    temperature = settings.temperature
    if not isinstance(mapper, VelocityMapper):
        return mapper.sample(c, noise=noise, temperature=temperature)
    scale, steps = settings.guidance_scale, int(settings.num_inference_steps)
    return mapper.sample(
        c, noise=noise, temperature=temperature, guidance_scale=scale, num_inference_steps=steps, negative=away
    )


def _codes(mapper: Mapper) -> Tensor | None:
    """Codes of the known captions, of a mapper that holds them."""
    return mapper.unit_codes if isinstance(mapper, LocalFlowMapper) else None


def view_of(mapper: Mapper, settings: Settings, given: Sequence[tuple[Tensor, Material]] = ()) -> Mapper:
    """The mapper as the settings ask for it, and with material that is `given` to captions' codes, (text_dim,).

    Raises UserError if it holds no picture of that style.
    """
    if not isinstance(mapper, LocalFlowMapper):
        return mapper
    return mapper.restricted(style=settings.style or None, novelty=settings.novelty).given(given)


def _material_of(jobs: Sequence[Job]) -> list[tuple[Tensor, Material]]:
    return [each for job in jobs for each in job.material]


def check_settings(family: type[Mapper], settings: Settings) -> None:
    """Raise UserError for guidance of a mapping family without a velocity, novelty or style of one without a memory."""
    if not isinstance(settings.style, str):
        raise UserError(f"style: expected a word, got {settings.style!r}")
    if (settings.novelty or settings.style) and not issubclass(family, LocalFlowMapper):
        raise UserError(f"novelty, style: {family.__name__} draws from no memory of pictures; leave them out")
    if settings.guidance_scale != 1 and not issubclass(family, VelocityMapper):
        raise UserError(f"guidance_scale: {family.__name__} has no guidance; leave it out")


def mapper_fingerprint(mapper: Mapper) -> str:
    """Identity of family, weights and configuration, 16 hex digits.

    Entries of the configuration that are at their defaults, or no arguments, do not count, so that a family may gain
    or lose an argument without making the folders it has written unreadable. A default itself is not to be changed.
    """
    arguments = inspect.signature(type(mapper).__init__).parameters
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in mapper.config.items()}
    config = {name: plain[name] for name in plain.keys() & arguments.keys() if plain[name] != arguments[name].default}
    return fingerprint(mapper, {**config, "family": type(mapper).__name__})


def token_places(tokens: int, most: int) -> int:
    """Places that a caption of 0 to `most` tokens is padded to: the next power of 2 from LEAST_PLACES on; 0 stays 0.

    It depends on the caption alone, not on those it is drawn beside, and so do the bits of its images.

    >>> [token_places(tokens, 77) for tokens in (0, 5, 17, 65)]
    [0, 16, 32, 77]
    """
    return min(max(LEAST_PLACES, 1 << (tokens - 1).bit_length()), most) if tokens else 0


def given_at_once(settings: Settings) -> int:
    """Images that are made before the first of them is given."""
    return VARIED_BATCH if settings.novelty > 0 else SAMPLE_BATCH


def _chunks(jobs: Iterable[Job], most: int = SAMPLE_BATCH) -> Iterator[list[Job]]:
    for _, alike in groupby(jobs, key=lambda job: job.places):
        while chunk := list(islice(alike, most)):
            yield chunk


def _forget_where(folder: Path) -> None:
    """Take out of diffusers' configs the path that a part was once loaded from: somebody's disk, and no identity."""
    for path in folder.rglob("config.json"):
        config = json.loads(path.read_text("utf-8"))
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
