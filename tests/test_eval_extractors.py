"""Second opinions: every extractor keeps the interface, and each describes what it says it describes."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextConfig,
    ConvNextModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from bridge.codecs import VAECodec
from eval.data import Pictures
from eval.features import (
    EARLY_BLOCKS,
    CodecLatents,
    EfficientNetLite,
    EfficientNetLite0,
    RawPixels,
    TransformersVision,
    extractor,
)
from tests.fixtures import make_tiny_vae

ROOT = Path(__file__).resolve().parent.parent
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}


def tiny_vit(seed: int = 0, pooled: bool = True) -> ViTModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ViTModel(ViTConfig(**SMALL, image_size=32, patch_size=8), add_pooling_layer=pooled).eval()


def save(model, folder: Path, processor=None) -> Path:
    model.save_pretrained(folder)
    (processor or ViTImageProcessorPil(size={"height": 32, "width": 32})).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny_vit(), tmp_path_factory.mktemp("vision") / "vit")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A whole CLIP, and its vision tower alone."""
    folder = tmp_path_factory.mktemp("vision")
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    text = {**SMALL, "vocab_size": 50, "max_position_embeddings": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        whole = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
        alone = CLIPVisionModel(CLIPVisionConfig(**vision))
    missing = alone.load_state_dict(whole.vision_model.state_dict(), strict=False).missing_keys
    assert not missing
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return save(whole, folder / "whole", processor), save(alone, folder / "alone", processor)


@pytest.fixture(scope="module")
def lite2() -> EfficientNetLite:
    return EfficientNetLite(2)


@pytest.fixture(scope="module")
def every(vit, clip, lite2) -> dict[str, object]:
    """One extractor of every kind."""
    return {
        "lite2": lite2,
        "pixels": RawPixels(),
        "latents": CodecLatents(VAECodec(make_tiny_vae())),
        "vit": TransformersVision(vit),
        "clip": TransformersVision(clip[1]),
    }


KINDS = pytest.mark.parametrize("kind", ["lite2", "pixels", "latents", "vit", "clip"])


@pytest.fixture(scope="module")
def real(artwork_folder) -> torch.Tensor:
    """Ten pictures of the artwork, no two of one caption and artist."""
    return Pictures.load(artwork_folder).pixels(np.arange(0, 40, 4))


@KINDS
def test_features_do_not_depend_on_the_batch(every, real, kind):
    alone, together = every[kind].encode(real[:5], batch_size=1), every[kind].encode(real[:5], batch_size=5)
    np.testing.assert_allclose(alone.late, together.late, atol=1e-3)
    np.testing.assert_allclose(alone.early, together.early, atol=1e-2)


@KINDS
def test_grain_moves_a_picture_less_than_another_picture_does(every, real, kind):
    grained = (real + 0.005 * torch.randn(real.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    x, y = every[kind].encode(real).late, every[kind].encode(grained).late
    assert (np.linalg.norm(y[:, None] - x, axis=2).argmin(axis=1) == np.arange(len(x))).all()


@KINDS
def test_both_descriptions_are_float32_and_tell_pictures_apart(every, real, kind):
    features = every[kind].encode(real)
    for each in (features.late, features.early):
        assert each.dtype == np.float32 and len(np.unique(each, axis=0)) == len(real)


@KINDS
def test_id_can_be_the_name_of_a_folder(every, kind):
    assert re.fullmatch(r"[\w.-]+", every[kind].id)


@KINDS
def test_refuses_what_is_no_batch_of_pictures(every, kind):
    with pytest.raises(ValueError, match="x must"):
        every[kind].encode(torch.zeros(3, 64, 64))


@pytest.mark.parametrize("kind", ["lite2", "vit", "clip"])
def test_networks_are_frozen(every, real, kind):
    network = every[kind].network
    before = {k: v.clone() for k, v in network.state_dict().items()}
    every[kind].encode(real[:2].clone().requires_grad_())
    assert not any(p.requires_grad for p in network.parameters()) and not network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_the_judge_kept_its_id():
    """Cached features are filed under it."""
    assert EfficientNetLite0().id == EfficientNetLite(0).id == "efficientnet-lite0-579344248a93-96"


def test_early_blocks_are_the_last_of_their_width(lite2, real):
    channels = [lite2.network._blocks[i]._project_conv.out_channels for i in EARLY_BLOCKS[2]]
    following = [lite2.network._blocks[i + 1]._project_conv.out_channels for i in EARLY_BLOCKS[2]]
    assert channels == [16, 24, 48, 88] and all(a != b for a, b in zip(channels, following, strict=True))
    assert lite2.encode(real[:1]).early.shape == (1, 2 * sum(channels))


def test_second_opinion_is_that_of_the_package_itself(lite2):
    x = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    theirs = lite2.network.extract_features((x * 255 - 127) / 128).mean(dim=(2, 3))
    np.testing.assert_allclose(lite2.encode(x).late, theirs.numpy(), atol=1e-4)


@pytest.mark.parametrize("variant", [1, 3])
def test_networks_that_train_or_do_not_exist_are_refused(variant):
    with pytest.raises(ValueError, match="variant: expected one of 0, 2"):
        EfficientNetLite(variant)


def test_thumbnail_of_a_flat_picture_is_its_colour():
    colour = torch.tensor([0.1, 0.5, 0.9])
    features = RawPixels().encode(colour[None, :, None, None].expand(1, 3, 64, 64))
    np.testing.assert_allclose(features.late.reshape(3, 256), colour[:, None].expand(3, 256), atol=1e-6)
    np.testing.assert_allclose(features.early[0], [0.1, 0.5, 0.9] + [0] * 9, atol=1e-6)


def test_fine_detail_does_not_alias_into_the_thumbnail():
    """Stripes of two pixels average to grey, though the middle of every thumbnail pixel is white."""
    stripes = torch.tensor([0.0, 1, 1, 0]).repeat(16).expand(1, 3, 64, 64)
    late = RawPixels().encode(stripes).late.reshape(3, 16, 16)
    np.testing.assert_allclose(late[:, :, 1:-1], 0.5, atol=0.1)


def test_early_features_of_pixels_see_a_ramp():
    """Brightness rises by 1/63 a pixel to the right: that is the gradient, everywhere."""
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    early = RawPixels().encode(ramp).early[0]
    np.testing.assert_allclose(early[6:], [1 / 63] * 3 + [0] * 3, atol=1e-6)


def test_latents_are_the_codecs_standardised_means(real):
    codec = VAECodec(make_tiny_vae())
    z = codec.encode(real).mean
    features = CodecLatents(codec).encode(real)
    np.testing.assert_allclose(features.late, z.flatten(1).numpy(), atol=1e-5)
    np.testing.assert_allclose(features.early[:, :4], z.mean(dim=(2, 3)).numpy(), atol=1e-5)


def test_id_of_latents_changes_with_the_codec():
    other = make_tiny_vae()
    with torch.no_grad():
        other.quant_conv.bias[0] += 1
    assert CodecLatents(VAECodec(other)).id != CodecLatents(VAECodec(make_tiny_vae())).id


def test_vision_features_are_those_of_the_model_itself(vit):
    x = (torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 255).round() / 255
    with torch.inference_mode():
        theirs = tiny_vit()((x - 0.5) / 0.5, output_hidden_states=True)
    features = TransformersVision(vit).encode(x)
    np.testing.assert_allclose(features.late, theirs.pooler_output.numpy(), atol=1e-5)
    means = np.concatenate([theirs.hidden_states[i].mean(dim=1).numpy() for i in (1, 2)], axis=1)
    np.testing.assert_allclose(features.early[:, [*range(16), *range(32, 48)]], means, atol=1e-5)


def test_a_model_saved_without_pooler_gives_the_mean_over_tokens_every_time(tmp_path, real):
    folder = save(tiny_vit(pooled=False), tmp_path / "vit")
    first, again = TransformersVision(folder), TransformersVision(folder)
    assert first.id == again.id
    np.testing.assert_array_equal(first.encode(real).late, again.encode(real).late)


def test_a_model_with_maps_for_hidden_states_is_described(tmp_path, real):
    config = ConvNextConfig(hidden_sizes=[4, 6, 8, 10], depths=[1, 1, 1, 1], image_size=32)
    features = TransformersVision(save(ConvNextModel(config), tmp_path / "convnext")).encode(real)
    assert features.late.shape == (10, 10) and features.early.shape[1] == 2 * (4 + 6)


def test_a_whole_clip_is_its_vision_tower(clip, real):
    whole, alone = (TransformersVision(folder).encode(real) for folder in clip)
    np.testing.assert_allclose(whole.late, alone.late, atol=1e-6)
    np.testing.assert_allclose(whole.early, alone.early, atol=1e-6)


def test_id_changes_with_weights_and_with_preprocessing_only(vit, tmp_path):
    same = save(tiny_vit(), tmp_path / "same")
    weights = save(tiny_vit(seed=1), tmp_path / "weights")
    size = save(tiny_vit(), tmp_path / "size", ViTImageProcessorPil(size={"height": 32, "width": 32}, resample=3))
    ids = [TransformersVision(folder).id for folder in (vit, same, weights, size)]
    assert ids[0] == ids[1] and len(set(ids)) == 3


def test_missing_model_is_named_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"model_id_or_folder: cannot load .*nothing.*; give a vision"):
        TransformersVision(tmp_path / "nothing")


def test_a_model_without_safetensors_is_refused(vit, tmp_path):
    folder = save(tiny_vit(), tmp_path / "vit")
    (folder / "model.safetensors").unlink()
    torch.save(tiny_vit().state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot load"):
        TransformersVision(folder)


def test_a_model_with_half_its_weights_is_refused(tmp_path):
    smaller = ViTModel(ViTConfig(**{**SMALL, "num_hidden_layers": 2}, image_size=32, patch_size=8))
    folder = save(smaller, tmp_path / "vit")
    tiny_vit().config.save_pretrained(folder)
    with pytest.raises(ValueError, match="lack"):
        TransformersVision(folder)


@pytest.mark.parametrize("name", ["efficientnet-lite0", "efficientnet-lite2", "pixels"])
def test_a_name_gives_the_extractor_of_that_name(name):
    assert extractor(name).id.startswith(name)


def test_latents_are_those_of_the_codec_given():
    codec = VAECodec(make_tiny_vae())
    assert extractor("latents", codec).id == CodecLatents(codec).id


def test_latents_need_a_codec():
    with pytest.raises(ValueError, match="codec: 'latents'"):
        extractor("latents")


def test_a_folder_gives_a_transformers_model(vit):
    assert extractor(str(vit)).id == TransformersVision(vit).id


@pytest.mark.parametrize("name", ["efficientnet-lite1", "inception", ""])
def test_an_unknown_name_is_answered_with_the_known_ones(name):
    with pytest.raises(ValueError, match="efficientnet-lite0, efficientnet-lite2, pixels, latents"):
        extractor(name)


@pytest.mark.parametrize("room", ["bridge", "train"])
def test_second_opinions_never_train_filter_or_select(room):
    wall = re.compile(r"efficientnet[-_]?lite2|EfficientnetLite2|EfficientNetLite\b|eval\.extractors")
    guilty = [str(p.relative_to(ROOT)) for p in (ROOT / room).rglob("*.py") if wall.search(p.read_text("utf-8"))]
    assert guilty == []
