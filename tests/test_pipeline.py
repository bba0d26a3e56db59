"""The pipeline: the same picture whatever is made beside it, settings that do what they say, safe loading."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bridge import BridgePipeline
from bridge.checkpoint import CheckpointError
from bridge.limits import MAX_IMAGES_PER_PROMPT
from bridge.noise import generator_for
from bridge.pipeline import SAMPLE_BATCH, Settings


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


def test_saved_and_loaded_gives_identical_images(tiny_pipeline: BridgePipeline, tmp_path: Path) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "model")
    loaded = BridgePipeline.from_pretrained(tmp_path / "model")
    assert torch.equal(pixels(loaded, "a cat", 2), pixels(tiny_pipeline, "a cat", 2))
    assert (loaded.settings, loaded.fingerprint) == (tiny_pipeline.settings, tiny_pipeline.fingerprint)


def test_mapper_of_another_codec_is_refused(tiny_pipeline: BridgePipeline, tmp_path: Path) -> None:
    """Same shapes, other weights: the manifest is right, the fingerprint is not."""
    tiny_pipeline.save_pretrained(tmp_path / "model")
    with torch.no_grad():
        next(tiny_pipeline.codec.vae.parameters()).add_(1)  # type: ignore[attr-defined]
    tiny_pipeline.codec.vae.save_pretrained(tmp_path / "model" / "vae")  # type: ignore[attr-defined]
    (tmp_path / "model" / "manifest.json").unlink()
    from bridge.checkpoint import _write_manifest  # noqa: PLC0415

    _write_manifest(tmp_path / "model")
    with pytest.raises(CheckpointError, match="vae is not what this model was trained with"):
        BridgePipeline.from_pretrained(tmp_path / "model")


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


def test_parts_that_do_not_fit_are_refused(tiny_pipeline: BridgePipeline) -> None:
    tiny_pipeline.mapper.z_shape = (4, 4, 4)
    with pytest.raises(ValueError, match="mapper: made for"):
        BridgePipeline(
            tiny_pipeline.text_encoder, tiny_pipeline.mapper, tiny_pipeline.codec, tiny_pipeline.memory, Settings()
        )


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
    }
    assert sum(f.stat().st_size for f in (tmp_path / "model").rglob("*.safetensors")) < 2_000_000
