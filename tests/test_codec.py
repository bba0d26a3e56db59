"""Image space: pixels to standardised latents and back, frozen, and identified by what it holds."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from bridge.codec import ImageCodec, LatentDistribution, VAECodec


@pytest.fixture
def codec(tiny_vae: AutoencoderKL) -> VAECodec:
    return VAECodec(tiny_vae)


@pytest.fixture
def x() -> torch.Tensor:
    """Two pictures in [0, 1]."""
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def z() -> torch.Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


MEAN, STD = (torch.tensor(values).view(1, 4, 1, 1) for values in ([0.1, -0.2, 0.3, 0.0], [1.5, 0.5, 1.0, 2.0]))


def test_shapes_come_from_the_vae(codec):
    assert (codec.z_shape, codec.image_size) == ((4, 8, 8), 64)


def test_encoding_standardises_each_channel(codec, tiny_vae, x):
    with torch.no_grad():
        raw = tiny_vae.encode(x * 2 - 1).latent_dist
    torch.testing.assert_close(codec.encode(x).mean * STD + MEAN, raw.mean)
    torch.testing.assert_close(codec.encode(x).std * STD, raw.std)


def test_decoding_undoes_the_standardisation(codec, tiny_vae, z):
    with torch.no_grad():
        raw = tiny_vae.decode(z * STD + MEAN).sample / 2 + 0.5
    torch.testing.assert_close(codec.decode(z), raw.clamp(0, 1))


def test_decoded_pictures_lie_in_0_1(codec, z):
    pictures = codec.decode(100 * z)
    assert (float(pictures.min()), float(pictures.max())) == (0.0, 1.0)


def test_without_statistics_latents_are_taken_as_they_are(tiny_vae, x):
    tiny_vae.register_to_config(latents_mean=None, latents_std=None)
    with torch.no_grad():
        raw = tiny_vae.encode(x * 2 - 1).latent_dist.mean
    torch.testing.assert_close(VAECodec(tiny_vae).encode(x).mean, raw)


def test_a_sample_is_mean_plus_std_eps():
    codes = LatentDistribution(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0]))
    assert codes.sample(torch.tensor([2.0, -1.0])).tolist() == [2.0, -1.0]


def test_the_folder_gives_the_same_codec(codec, z, tmp_path):
    codec.vae.save_pretrained(tmp_path)
    again = VAECodec.from_pretrained(tmp_path)
    assert again.fingerprint == codec.fingerprint
    assert torch.equal(again.decode(z), codec.decode(z))


def test_a_pickle_is_not_opened(codec, tmp_path):
    codec.vae.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(OSError, match="safetensors"):
        VAECodec.from_pretrained(tmp_path)


def test_one_other_weight_is_another_codec(codec, tiny_vae):
    with torch.no_grad():
        tiny_vae.decoder.conv_out.bias[0] += 1e-3
    assert VAECodec(tiny_vae).fingerprint != codec.fingerprint


def test_another_scale_is_another_codec(codec, tiny_vae):
    """The same shapes and weights with other statistics: a mapper made for one is wrong for the other."""
    tiny_vae.register_to_config(latents_std=[1.5, 0.5, 1.0, 2.1])
    assert VAECodec(tiny_vae).fingerprint != codec.fingerprint


def test_the_fingerprint_does_not_depend_on_the_folder(codec, tmp_path):
    found = []
    for name in ("a", "b"):
        codec.vae.save_pretrained(tmp_path / name)
        found.append(VAECodec.from_pretrained(tmp_path / name).fingerprint)
    assert found[0] == found[1]


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 1, 64, 64), (3, 64, 64)])
def test_pictures_of_another_shape_are_refused(codec, shape):
    with pytest.raises(ValueError, match=r"x: expected \(B, 3, 64, 64\), got .*; resize the pictures"):
        codec.encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 4, 4, 4), (2, 256), (4, 8, 8)])
def test_latents_of_another_shape_are_refused(codec, shape):
    with pytest.raises(ValueError, match=r"z: expected \(B, 4, 8, 8\), got"):
        codec.decode(torch.zeros(shape))


def test_nothing_of_a_codec_takes_a_gradient(codec, z):
    picture = codec.decode(z.requires_grad_())
    assert (picture.requires_grad, any(p.requires_grad for p in codec.vae.parameters())) == (False, False)


def test_no_argument_is_changed_in_place(codec, x, z):
    before = x.clone(), z.clone()
    codec.encode(x)
    codec.decode(z)
    assert (torch.equal(x, before[0]), torch.equal(z, before[1])) == (True, True)


def test_a_codec_without_decode_cannot_be_made():
    class Half(ImageCodec):
        def encode(self, x: torch.Tensor) -> LatentDistribution:
            return LatentDistribution(x, x)

    with pytest.raises(TypeError, match="abstract"):
        Half()


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(OSError, match="none"):
        VAECodec.from_pretrained(Path(tmp_path) / "none")
