"""The pipeline: the same picture whatever is made beside it, settings that do what they say, safe loading."""

import json
import re
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.configuration_utils import register_to_config

from bridge import BridgePipeline
from bridge.arguments import MAX_IMAGES_PER_PROMPT
from bridge.checkpoint import CheckpointError
from bridge.errors import UserError
from bridge.mappers import FlowMatchingMapper, GaussianMapper, TransformerFlowMapper
from bridge.memory import CaptionMemory
from bridge.noise import generator_for
from bridge.opening import fingerprint
from bridge.pipeline import SAMPLE_BATCH, Settings, mapper_fingerprint
from bridge.text import TextCode
from bridge.text.words import WordVectors
from tests.fixtures import KNOWN, randomise


def pixels(pipe: BridgePipeline, prompt: str | list[str], n: int, seed: int = 7, **settings: float) -> torch.Tensor:
    return pipe(prompt, n, seed=seed, output_type="pt", **settings).images  # type: ignore[arg-type]


def test_same_seed_same_images(tiny_pipeline: BridgePipeline) -> None:
    assert torch.equal(pixels(tiny_pipeline, "a cat", 3), pixels(tiny_pipeline, "a cat", 3))


def test_another_seed_gives_other_images(tiny_pipeline: BridgePipeline) -> None:
    assert not torch.equal(pixels(tiny_pipeline, "a cat", 1, seed=1), pixels(tiny_pipeline, "a cat", 1, seed=2))


def test_images_of_one_caption_differ(tiny_pipeline: BridgePipeline) -> None:
    x = pixels(tiny_pipeline, "a cat", 2)
    assert not torch.equal(x[0], x[1])


@pytest.mark.parametrize("n", [1, SAMPLE_BATCH, SAMPLE_BATCH + 3])
def test_image_does_not_depend_on_how_many_are_asked_for(tiny_pipeline: BridgePipeline, n: int) -> None:
    assert torch.equal(pixels(tiny_pipeline, "a cat", n)[0], pixels(tiny_pipeline, "a cat", 2)[0])


def test_image_does_not_depend_on_other_captions(tiny_pipeline: BridgePipeline) -> None:
    beside = pixels(tiny_pipeline, ["a much longer caption about a fire", "bus", "a cat"], 5)
    assert torch.equal(beside[10:], pixels(tiny_pipeline, "a cat", 5))


def test_image_does_not_depend_on_its_place_in_the_micro_batch(tiny_pipeline: BridgePipeline) -> None:
    many = pixels(tiny_pipeline, ["bus"] * 3 + ["a cat"], 5)[15:]
    assert torch.equal(many, pixels(tiny_pipeline, "a cat", 5))


def test_one_seed_shares_its_noise_across_captions(tiny_pipeline: BridgePipeline) -> None:
    """With the caption ignored (guidance 0), image i is the same for every caption."""
    z = tiny_pipeline(["cat", "bus"], 2, seed=3, guidance_scale=0, output_type="latent").images
    assert torch.equal(z[:2], z[2:])


def test_stream_gives_the_same_images_as_a_call(tiny_pipeline: BridgePipeline) -> None:
    streamed = [np.asarray(item.image) for item in tiny_pipeline.stream(["cat", "bus"], 9, seed=7)]
    called = [np.asarray(image) for image in tiny_pipeline(["cat", "bus"], 9, seed=7).images]
    assert np.array_equal(streamed, called)


def test_stream_numbers_its_images(tiny_pipeline: BridgePipeline) -> None:
    told = [(i.prompt, i.prompt_index, i.index, i.seed) for i in tiny_pipeline.stream(["cat", "bus"], 2, seed=7)]
    assert told == [("cat", 0, 0, 7), ("cat", 0, 1, 7), ("bus", 1, 0, 7), ("bus", 1, 1, 7)]


def test_stream_takes_captions_as_they_come(tiny_pipeline: BridgePipeline) -> None:
    """Captions are read as needed: an endless list is no trouble."""

    def endless():  # type: ignore[no-untyped-def]
        while True:
            yield "cat"

    stream = tiny_pipeline.stream(endless(), 1, seed=0)
    assert [next(stream).prompt_index for _ in range(20)] == list(range(20))


def test_generators_stand_for_a_seed(tiny_pipeline: BridgePipeline) -> None:
    generators = [generator_for(7, i) for i in range(2)]
    given = tiny_pipeline("cat", 2, generator=generators, output_type="pt").images
    assert torch.equal(given, pixels(tiny_pipeline, "cat", 2, seed=7))


def test_without_a_seed_the_output_tells_the_one_it_drew(tiny_pipeline: BridgePipeline) -> None:
    output = tiny_pipeline("cat", 1, output_type="pt")
    assert output.seed is not None
    assert torch.equal(output.images, pixels(tiny_pipeline, "cat", 1, seed=output.seed))


def test_output_types_agree(tiny_pipeline: BridgePipeline) -> None:
    x = pixels(tiny_pipeline, "cat", 2)
    array = tiny_pipeline("cat", 2, seed=7, output_type="np").images
    pil = tiny_pipeline("cat", 2, seed=7).images
    z = tiny_pipeline("cat", 2, seed=7, output_type="latent").images
    assert np.array_equal(array, x.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(np.asarray(pil[1]), (x[1] * 255).round().byte().permute(1, 2, 0).numpy())
    assert z.shape == (2, *tiny_pipeline.codec.z_shape)


def test_temperature_zero_gives_one_image_a_caption(tiny_pipeline: BridgePipeline) -> None:
    x = pixels(tiny_pipeline, "cat", 3, temperature=0)
    assert torch.equal(x[0], x[2])


def test_negative_caption_changes_the_image(tiny_pipeline: BridgePipeline) -> None:
    away = tiny_pipeline("cat", 1, seed=7, negative_prompt="fire", output_type="pt").images
    assert not torch.equal(away, pixels(tiny_pipeline, "cat", 1))


def test_negative_caption_without_guidance_is_refused(tiny_pipeline: BridgePipeline) -> None:
    with pytest.raises(ValueError, match="negative_prompt: does nothing at guidance_scale 1"):
        tiny_pipeline("cat", 1, guidance_scale=1, negative_prompt="fire")


@pytest.mark.parametrize("n", [0, -1, 1.5, "8", True, MAX_IMAGES_PER_PROMPT + 1, 10**9])
def test_impossible_counts_are_refused_before_anything_is_allocated(tiny_pipeline: BridgePipeline, n: int) -> None:
    with pytest.raises(ValueError, match=f"num_images_per_prompt: .* 1 to {MAX_IMAGES_PER_PROMPT}"):
        tiny_pipeline("cat", n)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": "  "}, "caption"),
        ({"guidance_scale": -1}, "guidance_scale"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"num_inference_steps": 2.5}, "num_inference_steps"),
        ({"temperature": -0.1}, "temperature"),
        ({"output_type": "jpeg"}, "output_type"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 1, "generator": [torch.Generator()]}, "seed, generator"),
        ({"generator": [torch.Generator()] * 3}, "generator"),
        ({"prompt": ["cat", "bus"], "negative_prompt": ["fire"]}, "negative_prompt"),
    ],
)
def test_bad_arguments_are_named(tiny_pipeline: BridgePipeline, arguments: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        tiny_pipeline(**({"prompt": "cat", "num_images_per_prompt": 1} | arguments))  # type: ignore[arg-type]


def test_decode_refuses_what_is_no_kind_of_picture(tiny_pipeline: BridgePipeline) -> None:
    with pytest.raises(UserError, match=r"^output_type: expected one of pil, np, pt, got 'latent'"):
        tiny_pipeline.decode(torch.zeros(1, *tiny_pipeline.codec.z_shape), output_type="latent")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"prompt": None}, "prompt: expected a caption or a list of captions, got NoneType"),
        ({"prompt": 5}, "prompt: expected a caption or a list of captions, got int"),
        ({"prompt": b"cat"}, "prompt: expected a caption or a list of captions, got bytes"),
        ({"prompt": {"cat": 1}}, "prompt: expected a caption or a list of captions, got dict"),
        ({"prompt": {"cat"}}, "prompt: expected a caption or a list of captions, got set"),
        ({"prompt": ["a cat", None]}, "prompt[1]: expected a caption, got NoneType None"),
        ({"prompt": ["a cat", b"cat"]}, "prompt[1]: expected a caption, got bytes"),
        ({"prompt": ["a cat", ["bus"]]}, "prompt[1]: expected a caption, got list"),
        ({"prompt": ["a cat", float("nan")]}, "prompt[1]: expected a caption, got float nan"),
        ({"prompt": ["a cat", " "]}, "prompt[1]: the caption is empty or blank"),
        ({"prompt": ""}, "prompt: the caption is empty or blank"),
        ({"negative_prompt": ""}, "negative_prompt: the caption is empty or blank"),
        ({"negative_prompt": 5}, "negative_prompt: expected a caption, or one for each prompt, got int"),
        ({"negative_prompt": [""]}, "negative_prompt[0]: the caption is empty or blank"),
        ({"negative_prompt": [5]}, "negative_prompt[0]: expected a caption, got int"),
        (
            {"negative_prompt": ["a", "b"]},
            "negative_prompt: expected a caption, or a list of 1, one for each prompt, got 2",
        ),
        ({"guidance_scale": "2"}, "guidance_scale: expected a number from 0 to 100, got '2'"),
        ({"guidance_scale": True}, "guidance_scale: expected"),
        ({"guidance_scale": np.bool_(True)}, "guidance_scale: expected"),
        ({"guidance_scale": np.array([1.0, 2.0])}, "guidance_scale: expected"),
        ({"guidance_scale": np.float32("inf")}, "guidance_scale: expected"),
        ({"guidance_scale": torch.tensor(float("nan"))}, "guidance_scale: expected"),
        ({"temperature": 1 + 2j}, "temperature: expected"),
        ({"temperature": 10**400}, "temperature: expected"),
        ({"num_inference_steps": torch.tensor(True)}, "num_inference_steps: expected"),
        ({"num_inference_steps": 10**5000}, "num_inference_steps: expected"),
        ({"num_images_per_prompt": None}, "num_images_per_prompt: expected"),
        ({"num_images_per_prompt": torch.tensor(True)}, "num_images_per_prompt: expected"),
        ({"num_images_per_prompt": np.array([2])}, "num_images_per_prompt: expected"),
        ({"num_images_per_prompt": 10**5000}, "num_images_per_prompt: expected"),
        ({"seed": "7"}, "seed: expected a whole number, got '7'"),
        ({"seed": float("nan")}, "seed: expected a whole number, got nan"),
        ({"generator": 5}, "generator: expected a torch.Generator for each image, got int"),
        ({"generator": [5]}, "generator: expected a torch.Generator for each image"),
        ({"generator": []}, "generator: expected 1, one for each image and none twice, got 0"),
        ({"output_type": None}, "output_type: expected one of"),
    ],
)
def test_what_is_no_caption_or_number_is_named(
    tiny_pipeline: BridgePipeline, arguments: dict[str, object], told: str
) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(told)}"):
        tiny_pipeline(**({"prompt": "cat", "num_images_per_prompt": 1} | arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "numbers",
    [
        {"guidance_scale": np.float32(2), "num_inference_steps": np.int64(4), "temperature": np.float64(0.5)},
        {"guidance_scale": np.int8(2), "num_inference_steps": np.array(4), "temperature": np.array(0.5)},
        {"guidance_scale": torch.tensor(2.0), "num_inference_steps": torch.tensor(4), "temperature": Fraction(1, 2)},
        {"guidance_scale": torch.tensor(2), "num_inference_steps": 4.0, "temperature": Decimal("0.5")},
    ],
)
def test_numbers_of_numpy_and_torch_are_numbers(tiny_pipeline: BridgePipeline, numbers: dict[str, object]) -> None:
    plain = pixels(tiny_pipeline, "cat", 2, guidance_scale=2, num_inference_steps=4, temperature=0.5)
    given = tiny_pipeline("cat", np.int32(2), seed=np.uint8(7), output_type="pt", **numbers).images  # type: ignore[arg-type]
    assert torch.equal(given, plain)
    settings = tiny_pipeline.resolve(**numbers)  # type: ignore[arg-type]
    assert {type(value) for name, value in vars(settings).items() if name not in ("style", "compose")} <= {int, float}


@pytest.mark.parametrize("many", [("cat", "bus"), np.array(["cat", "bus"]), iter(["cat", "bus"])])
def test_captions_come_in_any_row(tiny_pipeline: BridgePipeline, many: Any) -> None:
    assert torch.equal(pixels(tiny_pipeline, many, 1), pixels(tiny_pipeline, ["cat", "bus"], 1))


@pytest.mark.parametrize("one", ["cat", np.str_("cat"), np.array("cat")])
def test_stream_of_one_caption_is_of_that_caption(tiny_pipeline: BridgePipeline, one: Any) -> None:
    assert [item.prompt for item in tiny_pipeline.stream(one, 2, seed=0)] == ["cat", "cat"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"prompts": None}, "prompts: expected a caption or a list"),
        ({"prompts": 5}, "prompts: expected a caption or a list"),
        ({"prompts": b"cat"}, "prompts: expected a caption or a list"),
        ({"prompts": "cat", "negative_prompt": 5}, "negative_prompt: expected"),
        ({"prompts": "cat", "seed": 1.5}, "seed: expected"),
        ({"prompts": "cat", "num_images_per_prompt": 0}, "num_images_per_prompt: expected"),
    ],
)
def test_stream_checks_its_arguments_at_once(
    tiny_pipeline: BridgePipeline, arguments: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=f"^{told}"):
        tiny_pipeline.stream(**arguments)


def test_stream_names_the_caption_when_its_turn_comes(tiny_pipeline: BridgePipeline) -> None:
    stream = tiny_pipeline.stream(["cat"] * 40 + [" "], 1)
    assert next(stream).prompt == "cat"
    with pytest.raises(UserError, match=r"^prompts\[40\]: the caption is empty or blank"):
        list(stream)


def test_a_path_is_a_folder_also_where_a_model_is_called_so(
    tiny_pipeline: BridgePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_pipeline.save_pretrained("pictures")
    assert BridgePipeline.from_pretrained(Path("./pictures")).fingerprint == tiny_pipeline.fingerprint
    assert BridgePipeline.from_pretrained("pictures").fingerprint != tiny_pipeline.fingerprint


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "xpu", "meta", "nonsense", "", None, torch.float16, -1])
def test_a_move_that_fails_changes_nothing(tiny_pipeline: BridgePipeline, device: Any) -> None:
    before = pixels(tiny_pipeline, "cat", 1)
    with pytest.raises(UserError, match=r"^device: "):
        tiny_pipeline.to(device)
    assert tiny_pipeline.device == torch.device("cpu")
    assert torch.equal(pixels(tiny_pipeline, "cat", 1), before)


def test_a_move_that_fails_half_way_is_undone(tiny_pipeline: BridgePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the first parts fit on a device and the last does not."""
    moved: list[torch.device] = []

    def to(device: torch.device) -> None:
        moved.append(device)
        if device.type == "cuda":
            raise torch.OutOfMemoryError("out of memory\nmore")

    monkeypatch.setattr(tiny_pipeline.codec, "to", to)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    real = torch.device
    monkeypatch.setattr(type(tiny_pipeline.mapper), "to", lambda self, device: moved.append(real(device)) or self)
    monkeypatch.setattr(type(tiny_pipeline.text_encoder), "to", lambda self, device: self)
    with pytest.raises(UserError, match=r"device: cannot use 'cuda' \(.*\); the model stays on cpu"):
        tiny_pipeline.to("cuda")
    assert [device.type for device in moved][-2:] == ["cpu", "cpu"]
    assert tiny_pipeline.device.type == "cpu"


def test_known_caption_gets_no_note(tiny_pipeline: BridgePipeline) -> None:
    assert tiny_pipeline("cat", 1, seed=0).notes == [None]


def test_far_caption_gets_a_note_with_the_nearest_known(tiny_pipeline: BridgePipeline) -> None:
    [note] = tiny_pipeline("a treatise on monetary policy", 1, seed=0).notes
    assert note is not None
    assert sum(repr(caption) in note for caption in tiny_pipeline.memory.captions) == 3


def test_far_caption_is_drawn_through_near_known_ones(tiny_pipeline: BridgePipeline) -> None:
    """With temperature 0 all that varies is the neighbour: each image is that of some known caption."""
    far = tiny_pipeline("kitten riding a boat", 6, seed=0, temperature=0, output_type="latent").images
    known = tiny_pipeline(tiny_pipeline.memory.captions, 1, seed=0, temperature=0, output_type="latent").images
    distance = torch.cdist(far.flatten(1), known.flatten(1))
    assert float(distance.min(1).values.max()) < 1e-2


def test_emoji_is_read_as_its_label(tiny_pipeline: BridgePipeline) -> None:
    assert torch.equal(pixels(tiny_pipeline, "🔥", 1), pixels(tiny_pipeline, "fire", 1))


def test_a_model_does_not_tell_where_it_was_loaded_from(tiny_pipeline: BridgePipeline, tmp_path: Path) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "first")
    BridgePipeline.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    told = {p.name for p in (tmp_path / "second").rglob("*.json") if str(tmp_path) in p.read_text("utf-8")}
    assert not told


def test_saved_and_loaded_gives_identical_images(tiny_pipeline: BridgePipeline, tmp_path: Path) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "model")
    loaded = BridgePipeline.from_pretrained(tmp_path / "model")
    assert torch.equal(pixels(loaded, "a cat", 2), pixels(tiny_pipeline, "a cat", 2))
    assert (loaded.settings, loaded.fingerprint) == (tiny_pipeline.settings, tiny_pipeline.fingerprint)


def signed(folder: Path) -> None:
    """Make a model folder's manifest right for what is in it."""
    from bridge.checkpoint import _write_manifest  # noqa: PLC0415

    (folder / "manifest.json").unlink()
    _write_manifest(folder)


def edit(path: Path, **values: object) -> None:
    """Change entries of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), "utf-8")


def test_mapper_of_another_codec_is_refused(tiny_pipeline: BridgePipeline, tmp_path: Path) -> None:
    """Same shapes, other weights: the manifest is right, the fingerprint is not."""
    tiny_pipeline.save_pretrained(tmp_path / "model")
    with torch.no_grad():
        next(tiny_pipeline.codec.vae.parameters()).add_(1)  # type: ignore[attr-defined]
    tiny_pipeline.codec.save(tmp_path / "model" / "vae")
    signed(tmp_path / "model")
    with pytest.raises(CheckpointError, match="vae is not what this model was trained with"):
        BridgePipeline.from_pretrained(tmp_path / "model")


def test_mapper_of_the_same_codec_at_another_scale_is_refused(tiny_pipeline: BridgePipeline, tmp_path: Path) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "model")
    edit(tmp_path / "model" / "vae" / "config.json", latents_std=[1.5, 0.5, 1.0, 2.5])
    signed(tmp_path / "model")
    with pytest.raises(CheckpointError, match="vae is not what this model was trained with"):
        BridgePipeline.from_pretrained(tmp_path / "model")


def worded(tiny_pipeline: BridgePipeline, scale: float = 1.0) -> BridgePipeline:
    """The tiny pipeline over word vectors of MiniLM's width."""
    vectors = torch.randn(3, 384, generator=torch.Generator().manual_seed(0)) * scale
    words = WordVectors(["cat", "bus", "fire"], vectors, torch.tensor([1.0, 2.0, 3.0]))
    captions = ["cat", "bus", "fire cat"]
    memory = CaptionMemory(words.encode(captions).pooled, captions)
    return BridgePipeline(words, tiny_pipeline.mapper, tiny_pipeline.codec, memory, tiny_pipeline.settings)


def test_mapper_of_another_text_encoder_is_refused(tiny_pipeline: BridgePipeline, tmp_path: Path) -> None:
    """Same width, other vectors; the folder names them rightly, and the mapper was trained with others."""
    pipe, other = worded(tiny_pipeline), worded(tiny_pipeline, scale=2.0)
    pipe.save_pretrained(tmp_path / "model")
    other.text_encoder.save(tmp_path / "model" / "text")
    edit(tmp_path / "model" / "model_index.json", text_encoder=other.text_encoder.spec())
    signed(tmp_path / "model")
    with pytest.raises(CheckpointError, match="text is not what this model was trained with"):
        BridgePipeline.from_pretrained(tmp_path / "model")


def test_a_model_carries_word_vectors_and_says_what_it_cannot_read(
    tiny_pipeline: BridgePipeline, tmp_path: Path
) -> None:
    pipe = worded(tiny_pipeline)
    pipe.save_pretrained(tmp_path / "model")
    loaded = BridgePipeline.from_pretrained(tmp_path / "model")
    assert torch.equal(pixels(loaded, "a cat in a bus", 2), pixels(pipe, "a cat in a bus", 2))
    with pytest.raises(ValueError, match="'kitten' has none of the 3 known words"):
        loaded("kitten", 1)


def test_a_folder_of_version_0_1_opens(tiny_pipeline: BridgePipeline, tmp_path: Path) -> None:
    """Its index tells no kind of encoder, and its mapper's fingerprint counts entries at their defaults."""
    tiny_pipeline.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "model_index.json"
    index = json.loads(path.read_text("utf-8"))
    del index["text_encoder"]["kind"]
    index["fingerprints"]["mapper"] = fingerprint(tiny_pipeline.mapper, dict(tiny_pipeline.mapper.config))
    assert index["fingerprints"] != tiny_pipeline.fingerprints
    path.write_text(json.dumps(index), "utf-8")
    signed(tmp_path / "model")
    assert BridgePipeline.from_pretrained(tmp_path / "model").fingerprint == tiny_pipeline.fingerprint


def test_an_argument_gained_at_its_default_leaves_the_fingerprint(tiny_mapper: FlowMatchingMapper) -> None:
    class Grown(FlowMatchingMapper):
        @register_to_config
        def __init__(
            self, z_shape: tuple[int, ...], text_dim: int, width: int = 512, hidden: int = 1024, blocks: int = 6,
            condition: int = 256, dropout: float = 0.0, text_dropout: float = 0.0, time_mean: float = 0.0,
            inputs: int = 1, gain: tuple[int, ...] = (1, 2),
        ) -> None:  # fmt: skip
            rates = (dropout, text_dropout, time_mean)
            super().__init__(z_shape, text_dim, width, hidden, blocks, condition, *rates, inputs)
            self.register_to_config(gain=gain)

    Grown.__name__ = "FlowMatchingMapper"
    sizes = {"width": 16, "hidden": 16, "blocks": 1, "condition": 16}
    found = []
    for gain in ((1, 2), [1, 2], (1, 3)):
        grown = Grown((4, 8, 8), 384, **sizes, gain=gain)  # type: ignore[arg-type]
        grown.load_state_dict(tiny_mapper.state_dict())
        found.append(mapper_fingerprint(grown) == mapper_fingerprint(tiny_mapper))
    assert found == [True, True, False]


def test_families_of_equal_weights_have_other_fingerprints(tiny_mapper: FlowMatchingMapper) -> None:
    class Other(FlowMatchingMapper):
        pass

    other = Other((4, 8, 8), 384, width=16, hidden=16, blocks=1, condition=16)
    other.load_state_dict(tiny_mapper.state_dict())
    assert mapper_fingerprint(other) != mapper_fingerprint(tiny_mapper)


def test_flipped_bit_is_refused(tiny_pipeline: BridgePipeline, tmp_path: Path) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "model")
    weights = tmp_path / "model" / "mapper" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model.safetensors: damaged"):
        BridgePipeline.from_pretrained(tmp_path / "model")


def test_unknown_model_names_the_shipped_ones() -> None:
    with pytest.raises(CheckpointError, match="no shipped model"):
        BridgePipeline.from_pretrained("emojis")


@pytest.mark.parametrize("model", [None, b"emoji", 5])
def test_what_is_no_models_name_is_refused(model: Any) -> None:
    with pytest.raises(CheckpointError, match="model: expected a name or a folder, got"):
        BridgePipeline.from_pretrained(model)


def test_parts_that_do_not_fit_are_refused(tiny_pipeline: BridgePipeline) -> None:
    tiny_pipeline.mapper.z_shape = (4, 4, 4)
    with pytest.raises(ValueError, match="mapper: made for"):
        BridgePipeline(
            tiny_pipeline.text_encoder, tiny_pipeline.mapper, tiny_pipeline.codec, tiny_pipeline.memory, Settings()
        )


# a family without a velocity


@pytest.fixture
def gaussian_pipeline(tiny_pipeline: BridgePipeline) -> BridgePipeline:
    """`tiny_pipeline` with a mapper that takes no steps and no guidance."""
    mapper = GaussianMapper((4, 8, 8), 384, width=16, hidden=16, blocks=1)
    settings = replace(tiny_pipeline.settings, guidance_scale=1.0)
    return BridgePipeline(tiny_pipeline.text_encoder, mapper, tiny_pipeline.codec, tiny_pipeline.memory, settings)


def test_a_family_without_a_velocity_draws_saves_and_opens(gaussian_pipeline: BridgePipeline, tmp_path: Path) -> None:
    gaussian_pipeline.save_pretrained(tmp_path / "model")
    loaded = BridgePipeline.from_pretrained(tmp_path / "model")
    assert torch.equal(pixels(loaded, "a cat", 3), pixels(gaussian_pipeline, "a cat", 3))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"guidance_scale": 2}, "guidance_scale: GaussianMapper has no guidance; leave it out"),
        ({"num_inference_steps": 8}, "num_inference_steps: GaussianMapper takes no steps; leave it out"),
        ({"negative_prompt": "fire"}, "negative_prompt: GaussianMapper has no guidance; leave it out"),
    ],
)
def test_what_such_a_family_cannot_follow_is_refused(
    gaussian_pipeline: BridgePipeline, asked: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=f"^{told}$"):
        gaussian_pipeline("cat", 1, **asked)
    with pytest.raises(ValueError, match=f"^{told}$"):
        gaussian_pipeline.stream(["cat"], 1, **asked)


def test_settings_that_a_family_cannot_follow_are_refused(gaussian_pipeline: BridgePipeline) -> None:
    parts = (gaussian_pipeline.text_encoder, gaussian_pipeline.mapper, gaussian_pipeline.codec)
    with pytest.raises(ValueError, match="guidance_scale: GaussianMapper has no guidance"):
        BridgePipeline(*parts, gaussian_pipeline.memory, Settings(guidance_scale=2.0))


@pytest.mark.parametrize(
    ("familiar", "trusted", "told"),
    [(-1.0, 0.0, None), (2.0, 0.0, "not among the captions this model knows"), (0.0, 2.0, "no better than chance")],
)
def test_the_note_tells_how_far_a_caption_is(
    tiny_pipeline: BridgePipeline, familiar: float, trusted: float, told: str | None
) -> None:
    settings = replace(tiny_pipeline.settings, familiar=familiar, trusted=trusted)
    parts = tiny_pipeline.text_encoder, tiny_pipeline.mapper, tiny_pipeline.codec, tiny_pipeline.memory
    pipe = BridgePipeline(*parts, settings)
    note = pipe.note(pipe.text_encoder.encode(["a treatise on monetary policy"]))
    assert note is None if told is None else told in str(note) and "nearest: '" in str(note)


def test_images_of_an_unfamiliar_caption_share_near_captions_evenly(
    tiny_pipeline: BridgePipeline, known_codes: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 images among 8 captions of equal weight: independent draws would give some caption none or a dozen."""
    pipe, codes = tiny_pipeline, []
    pipe.settings = replace(pipe.settings, familiar=2.0, neighbour_temperature=1000.0)
    sample = pipe.mapper.sample

    def spy(c: TextCode, **rest: Any) -> torch.Tensor:
        codes.append(c.pooled)
        return sample(c, **rest)

    monkeypatch.setattr(pipe.mapper, "sample", spy)
    drawn = []
    for seed in range(3):
        pipe("a zeppelin", 32, seed=seed, output_type="latent")
        drawn.append((codes[-1] @ known_codes.T).argmax(1))
        assert {int(n) for n in drawn[-1].bincount(minlength=len(KNOWN))} <= {3, 4, 5}
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    one = pipe("a zeppelin", 4, seed=0, temperature=0, output_type="latent").images
    assert torch.equal(one, one[:1].expand_as(one))


# a family that reads tokens


@pytest.fixture
def token_pipeline(tiny_pipeline: BridgePipeline) -> BridgePipeline:
    """`tiny_pipeline` with a mapper that reads a caption's tokens; none of its weights is zero."""
    mapper = TransformerFlowMapper((4, 8, 8), 384, width=16, heads=2, blocks=1, patch=4, max_tokens=40)
    randomise(mapper, seed=2)
    settings = replace(tiny_pipeline.settings, familiar=-1.0)
    return BridgePipeline(tiny_pipeline.text_encoder, mapper, tiny_pipeline.codec, tiny_pipeline.memory, settings)


def test_tokens_reach_the_mapper(token_pipeline: BridgePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padded to places that the caption and its negative set."""
    seen: list[tuple[int, ...]] = []
    sample = token_pipeline.mapper.sample

    def spy(c: TextCode, *, negative: TextCode, **rest: Any) -> torch.Tensor:
        seen.append((c.mask.shape[1], negative.mask.shape[1], int(c.mask[0].sum()), int(negative.mask[0].sum())))
        return sample(c, negative=negative, **rest)

    monkeypatch.setattr(token_pipeline.mapper, "sample", spy)
    token_pipeline("a cat", 1, seed=0)
    token_pipeline("a cat", 1, seed=0, negative_prompt="fire " * 20)
    assert seen == [(16, 16, 4, 0), (32, 32, 4, 22)]


def test_a_pooled_family_gets_no_tokens(tiny_pipeline: BridgePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    encode = tiny_pipeline.text_encoder.encode

    def spy(captions: list[str], *, with_tokens: bool) -> TextCode:
        asked.append(with_tokens)
        return encode(captions, with_tokens=with_tokens)

    monkeypatch.setattr(tiny_pipeline.text_encoder, "encode", spy)
    tiny_pipeline("a cat", 1, seed=0)
    assert asked == [False]


@pytest.mark.parametrize("n", [1, SAMPLE_BATCH + 3])
def test_with_tokens_an_image_does_not_depend_on_its_company(token_pipeline: BridgePipeline, n: int) -> None:
    """Long captions beside it, before and after, have more token places."""
    alone = pixels(token_pipeline, "a cat", n)
    long = "a very long caption about " + "fire and water and " * 5 + "smoke"
    beside = pixels(token_pipeline, ["bus", long, "a cat", long], n)
    assert torch.equal(beside[2 * n : 3 * n], alone)
    assert torch.equal(pixels(token_pipeline, "a cat", n + 2)[:n], alone)


def test_streaming_with_tokens_keeps_the_order(token_pipeline: BridgePipeline) -> None:
    captions = ["cat", "fire " * 20, "bus", "a " * 30]
    told = [(item.prompt, item.index) for item in token_pipeline.stream(captions, 2, seed=0)]
    assert told == [(caption, i) for caption in captions for i in range(2)]


def test_push_to_hub_uploads_a_whole_model(tiny_pipeline: BridgePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client is given a folder that loads."""
    seen: dict[str, object] = {}

    class FakeApi:
        def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
            seen["repo"] = (repo_id, private, exist_ok)

        def upload_folder(self, *, repo_id: str, folder_path: Path) -> str:
            seen["loaded"] = BridgePipeline.from_pretrained(folder_path).fingerprint
            return f"https://hub/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", FakeApi)
    assert tiny_pipeline.push_to_hub("me/mine", private=True) == "https://hub/me/mine"
    assert seen == {"repo": ("me/mine", True, True), "loaded": tiny_pipeline.fingerprint}


def test_index_names_the_text_encoder_and_copies_no_weights_of_it(
    tiny_pipeline: BridgePipeline, tmp_path: Path
) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text("utf-8"))
    assert index["text_encoder"] == {
        "id": "sentence-transformers/all-MiniLM-L6-v2",
        "digest": tiny_pipeline.text_encoder.digest,
        "kind": "sentence-transformers",
    }
    assert sum(f.stat().st_size for f in (tmp_path / "model").rglob("*.safetensors")) < 2_000_000
