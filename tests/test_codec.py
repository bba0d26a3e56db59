"""Image space: pixels to standardised latents and back, frozen, and identified by what it holds."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, VQModel
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from bridge.checkpoint import CheckpointError
from bridge.codecs import (
    AUTOENCODERS,
    DETERMINISTIC_STD,
    AutoencoderCodec,
    ImageCodec,
    LatentDistribution,
    TinyCodec,
    VAECodec,
    VQCodec,
    codec_from_diffusers,
    load_codec,
)
from bridge.codecs.dense import DenseCodec, DenseVAE
from bridge.codecs.standardize import PCACodec, PrincipalAxes, WhitenedCodec
from bridge.hub import resolve_model
from tests.fixtures import make_tiny_vae

MEAN, STD = [0.1, -0.2, 0.3, 0.0], [1.5, 0.5, 1.0, 2.0]


def make_taesd(size: int | None = 64) -> AutoencoderTiny:
    """A random AutoencoderTiny, 64 px to 4 x 16 x 16, that says which pictures it is for where `size` is given."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        vae = AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            num_encoder_blocks=(1, 1, 1),
            num_decoder_blocks=(1, 1, 1),
        )
    if size:
        vae.register_to_config(_sample_size=size, _latents_mean=MEAN, _latents_std=STD)
    return vae


def make_vq() -> VQModel:
    """A random VQModel, 64 px to 4 x 16 x 16, of 16 code words."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        vae = VQModel(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 8),
            sample_size=64,
            num_vq_embeddings=16,
            norm_num_groups=2,
            vq_embed_dim=4,
        )
    vae.quantize.embedding.weight.data *= 16
    vae.register_to_config(_latents_mean=MEAN, _latents_std=STD)
    return vae


def make_dense(size: int = 64) -> DenseVAE:
    """A random DenseVAE, `size` px to 5 x 1 x 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return DenseVAE((8, 8), 16, 5, size, latents_mean=[0.1] * 5, latents_std=[0.5] * 5)


def make_axes(dims: int, k: int) -> PrincipalAxes:
    """Random axes of vectors of `dims` numbers around .5."""
    generator = torch.Generator().manual_seed(dims + k)
    rows = torch.linalg.qr(torch.randn(dims, k, generator=generator)).Q.T
    return PrincipalAxes(torch.full((dims,), 0.5), rows, torch.linspace(2, 0.1, k))


MAKERS: dict[str, Callable[[], ImageCodec]] = {
    "AutoencoderKL": lambda: VAECodec(make_tiny_vae()),
    "AutoencoderTiny": lambda: TinyCodec(make_taesd()),
    "VQModel": lambda: VQCodec(make_vq()),
    "DenseVAE": lambda: DenseCodec(make_dense()),
    "PCACodec": lambda: PCACodec(make_axes(3 * 64 * 64, 6), 64),
    "WhitenedCodec": lambda: WhitenedCodec(VAECodec(make_tiny_vae()), make_axes(256, 10)),
    "WhitenedCodec of a plain one": lambda: WhitenedCodec(TinyCodec(make_taesd()), make_axes(1024, 40)),
}
Z_SHAPES = {
    "AutoencoderKL": (4, 8, 8),
    "AutoencoderTiny": (4, 16, 16),
    "VQModel": (4, 16, 16),
    "DenseVAE": (5, 1, 1),
    "PCACodec": (6,),
    "WhitenedCodec": (10,),
    "WhitenedCodec of a plain one": (40,),
}


@pytest.fixture(params=MAKERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def codec(name: str) -> ImageCodec:
    """Every codec in turn."""
    return MAKERS[name]()


@pytest.fixture(params=AUTOENCODERS)
def autoencoder(request: pytest.FixtureRequest) -> AutoencoderCodec:
    """Every diffusers autoencoder in turn."""
    codec = MAKERS[request.param]()
    assert isinstance(codec, AutoencoderCodec)
    return codec


@pytest.fixture
def x() -> torch.Tensor:
    """Two pictures in [0, 1]."""
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def normal(shape: tuple[int, ...], count: int = 2) -> torch.Tensor:
    """Latents as a mapper draws them."""
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


# what every codec does


def test_shapes_are_told(codec, name):
    assert (codec.z_shape, codec.image_size) == (Z_SHAPES[name], 64)


def test_latents_have_that_shape_and_a_positive_deviation(codec, x):
    codes = codec.encode(x)
    assert (codes.mean.shape, codes.std.shape) == ((2, *codec.z_shape),) * 2
    assert codes.mean.isfinite().all() and (codes.std > 0).all()


def test_decoded_pictures_lie_in_0_1(codec):
    pictures = codec.decode(100 * normal(codec.z_shape))
    assert pictures.shape == (2, 3, 64, 64)
    assert 0 <= float(pictures.min()) < float(pictures.max()) <= 1


def test_other_latents_are_other_pictures(codec):
    first, second = codec.decode(normal(codec.z_shape))
    assert not torch.equal(first, second)


def test_the_folder_gives_the_same_codec(codec, x, tmp_path):
    codec.save(tmp_path / "new" / "codec")
    again, z = load_codec(tmp_path / "new" / "codec"), normal(codec.z_shape)
    assert (type(again), again.fingerprint) == (type(codec), codec.fingerprint)
    assert torch.equal(again.decode(z), codec.decode(z))
    assert torch.equal(again.encode(x).mean, codec.encode(x).mean)
    assert torch.equal(again.encode(x).std, codec.encode(x).std)


def test_the_folder_holds_no_pickle(codec, tmp_path):
    codec.save(tmp_path)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".safetensors"}


def test_the_fingerprint_does_not_depend_on_the_folder(codec, tmp_path):
    codec.save(tmp_path / "a")
    load_codec(tmp_path / "a").save(tmp_path / "b")
    assert load_codec(tmp_path / "b").fingerprint == codec.fingerprint


def test_one_other_weight_is_another_codec(codec, tmp_path):
    codec.save(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    tensors = load_file(path)
    list(tensors.values())[-1].view(-1)[0] += 1e-3
    save_file(tensors, path)
    assert load_codec(tmp_path).fingerprint != codec.fingerprint


def test_codecs_of_all_kinds_are_told_apart():
    assert len({make().fingerprint for make in MAKERS.values()}) == len(MAKERS)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 1, 64, 64), (3, 64, 64)])
def test_pictures_of_another_shape_are_refused(codec, shape):
    with pytest.raises(ValueError, match=r"x: expected \(B, 3, 64, 64\), got .*; resize the pictures"):
        codec.encode(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(2, 4, 4, 4), (2, 255), (4, 8, 8)])
def test_latents_of_another_shape_are_refused(codec, shape):
    with pytest.raises(ValueError, match=rf"z: expected \(B, {', '.join(map(str, codec.z_shape))}\), got"):
        codec.decode(torch.zeros(shape))


def test_a_picture_does_not_depend_on_its_company(codec, x):
    z = normal(codec.z_shape, 5)
    torch.testing.assert_close(codec.decode(z)[3:4], codec.decode(z[3:4]), atol=1e-5, rtol=0)
    torch.testing.assert_close(codec.encode(x).mean[1:], codec.encode(x[1:]).mean, atol=1e-4, rtol=1e-5)


def test_nothing_of_a_codec_takes_a_gradient(codec, x):
    picture = codec.decode(normal(codec.z_shape).requires_grad_())
    codes = codec.encode(x.requires_grad_())
    assert not (picture.requires_grad or codes.mean.requires_grad or codes.std.requires_grad)


def test_no_argument_is_changed_in_place(codec, x):
    z = normal(codec.z_shape)
    before = x.clone(), z.clone()
    codec.encode(x)
    codec.refined(x, 1)
    codec.decode(z)
    assert (torch.equal(x, before[0]), torch.equal(z, before[1])) == (True, True)


def error(codec: ImageCodec, latents: LatentDistribution, x: torch.Tensor) -> float:
    return float((codec.decode(latents.mean) - x).abs().mean())


def test_refined_latents_are_of_the_same_kind(codec, x):
    refined, encoded = codec.refined(x), codec.encode(x)
    assert refined.mean.shape == encoded.mean.shape
    assert torch.equal(refined.std, encoded.std)
    assert not (refined.mean.requires_grad or refined.mean.is_inference())
    assert error(codec, refined, x) <= error(codec, encoded, x) + 1e-6


def test_no_steps_refine_nothing(codec, x):
    assert torch.equal(codec.refined(x, 0).mean, codec.encode(x).mean)


def test_refined_latents_decode_nearer_to_their_pictures(autoencoder):
    z = normal(autoencoder.z_shape)
    x = autoencoder.decode(z + 0.5)  # what the codec can draw
    steps = [error(autoencoder, autoencoder.refined(x, steps), x) for steps in (0, 2, 8)]
    assert steps == sorted(steps, reverse=True)
    assert steps[2] < 0.8 * steps[0]


def test_refining_does_not_depend_on_company_or_surroundings(autoencoder, x):
    refined = autoencoder.refined(x, 3).mean
    with torch.inference_mode():
        alone = autoencoder.refined(x[1:].clone(), 3).mean
    torch.testing.assert_close(alone, refined[1:], atol=2e-2, rtol=0)


def test_large_pictures_are_refined_few_at_a_time(tiny_vae, x, monkeypatch):
    codec, sizes = VAECodec(tiny_vae), []
    whole = codec.refined(x.repeat(3, 1, 1, 1), 2).mean
    decode = type(codec)._decoded
    monkeypatch.setattr(type(codec), "_decoded", lambda self, z: sizes.append(len(z)) or decode(self, z))
    monkeypatch.setattr("bridge.codecs.refine.AT_ONCE", 4 * 64**2)
    torch.testing.assert_close(codec.refined(x.repeat(3, 1, 1, 1), 2).mean, whole, atol=2e-2, rtol=0)
    assert sizes == [4, 4, 4, 2, 2, 2]


def test_moving_gives_the_codec_itself(codec):
    assert codec.to("cpu") is codec


def test_all_of_a_codec_moves(autoencoder):
    codec = copy.deepcopy(autoencoder).to("meta")
    assert {part.device.type for part in (codec.mean, codec.std, *codec.vae.parameters())} == {"meta"}


# what every diffusers autoencoder does


def test_the_weights_are_frozen(autoencoder):
    assert not any(p.requires_grad for p in autoencoder.vae.parameters())
    assert not autoencoder.vae.training


def test_encoding_standardises_each_channel(autoencoder, x):
    with torch.no_grad():
        mean, _ = autoencoder.raw(x * 2 - 1)
    shift, scale = (torch.tensor(values).view(1, 4, 1, 1) for values in (MEAN, STD))
    torch.testing.assert_close(autoencoder.encode(x).mean * scale + shift, mean)


def test_decoding_undoes_the_standardisation_with_diffusers_alone(autoencoder, tmp_path):
    """The folder opens without our code, and its pictures are the codec's."""
    autoencoder.save(tmp_path)
    vae = autoencoder.model.from_pretrained(tmp_path, use_safetensors=True)
    z = normal(autoencoder.z_shape)
    shift, scale = (torch.tensor(values).view(1, 4, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        raw = vae.decode(z * scale + shift).sample / 2 + 0.5
    torch.testing.assert_close(autoencoder.decode(z), raw.clamp(0, 1))


def test_another_scale_is_another_codec(autoencoder):
    """The same shapes and weights with other statistics: a mapper made for one is wrong for the other."""
    before = autoencoder.fingerprint
    other = autoencoder.with_statistics(MEAN, [1.5, 0.5, 1.0, 2.1])
    assert other.fingerprint != before
    assert (autoencoder.fingerprint, autoencoder.std.flatten().tolist()) == (before, STD)


def test_other_statistics_are_kept_in_the_folder(autoencoder, tmp_path):
    other = autoencoder.with_statistics([1.0, 2.0, 3.0, 4.0], [0.5] * 4)
    other.save(tmp_path)
    again = load_codec(tmp_path)
    assert isinstance(again, AutoencoderCodec)
    assert (again.mean.flatten().tolist(), again.std.flatten().tolist()) == ([1, 2, 3, 4], [0.5] * 4)


@pytest.mark.parametrize(("mean", "std"), [([0.0] * 3, STD), (MEAN, [1.0, 1.0, 1.0, float("nan")])])
def test_statistics_that_are_not_one_number_a_channel_are_refused(autoencoder, mean, std):
    with pytest.raises(ValueError, match=r"latents_(mean|std): expected 4 finite numbers"):
        autoencoder.with_statistics(mean, std)


def test_a_deviation_of_zero_is_refused(autoencoder):
    with pytest.raises(ValueError, match=r"latents_std: expected positive numbers; measure .*train\.autoencoder"):
        autoencoder.with_statistics(MEAN, [1.0, 1.0, 1.0, 0.0])


def test_a_pickle_is_not_opened(autoencoder, tmp_path):
    autoencoder.vae.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(CheckpointError, match=r"cannot be opened \(.*safetensors.*\); only whole safetensors"):
        load_codec(tmp_path)


def test_damaged_weights_are_one_line(autoencoder, tmp_path):
    autoencoder.save(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="cannot be opened") as error:
        load_codec(tmp_path)
    assert "\n" not in str(error.value)


def test_a_missing_weight_is_not_made_up(autoencoder, tmp_path):
    """diffusers alone would give it random values and only log it."""
    autoencoder.save(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    tensors = load_file(path)
    gone = sorted(tensors)[0]
    save_file({key: value for key, value in tensors.items() if key != gone}, path)
    with pytest.raises(CheckpointError, match=f"the weights lack {gone}; download it again"):
        load_codec(tmp_path)


def test_another_image_size_gives_latents_of_another_size(autoencoder, tmp_path):
    autoencoder.save(tmp_path / "a")
    codec = codec_from_diffusers(tmp_path / "a", image_size=32)
    assert (codec.image_size, codec.z_shape[1]) == (32, autoencoder.z_shape[1] // 2)
    assert codec.encode(torch.rand(1, 3, 32, 32)).mean.shape[1:] == codec.z_shape
    codec.save(tmp_path / "b")
    assert (load_codec(tmp_path / "b").image_size, codec.fingerprint != autoencoder.fingerprint) == (32, True)


@pytest.mark.parametrize("side", [0, 3, 65])
def test_an_image_size_that_does_not_fit_is_refused(autoencoder, tmp_path, side):
    autoencoder.save(tmp_path)
    with pytest.raises(ValueError, match=rf"image_size: expected a multiple of (4|8), got {side}; resize"):
        codec_from_diffusers(tmp_path, image_size=side)


# variational, distilled, quantised


def test_the_posterior_is_standardised_too(x):
    codec = VAECodec(make_tiny_vae())
    with torch.no_grad():
        raw = codec.vae.encode(x * 2 - 1).latent_dist
    torch.testing.assert_close(codec.encode(x).std * torch.tensor(STD).view(1, 4, 1, 1), raw.std)


@pytest.mark.parametrize("make", [lambda: TinyCodec(make_taesd()), lambda: VQCodec(make_vq())])
def test_without_a_posterior_the_deviation_is_one_tiny_number(make, x):
    assert make().encode(x).std.unique().tolist() == pytest.approx([DETERMINISTIC_STD])


def test_published_scaling_counts_where_there_are_no_statistics(tiny_vae, x):
    tiny_vae.register_to_config(latents_mean=None, latents_std=None, scaling_factor=0.25, shift_factor=0.5)
    with torch.no_grad():
        raw = tiny_vae.encode(x * 2 - 1).latent_dist.mean
    torch.testing.assert_close(VAECodec(tiny_vae).encode(x).mean, (raw - 0.5) * 0.25)


def test_statistics_come_before_published_scaling(tiny_vae, x):
    before = VAECodec(tiny_vae).encode(x).mean
    tiny_vae.register_to_config(scaling_factor=0.25, shift_factor=0.5)
    assert torch.equal(VAECodec(tiny_vae).encode(x).mean, before)


def test_without_scaling_or_statistics_latents_are_taken_as_they_are(tiny_vae, x):
    tiny_vae.register_to_config(latents_mean=None, latents_std=None)
    with torch.no_grad():
        raw = tiny_vae.encode(x * 2 - 1).latent_dist.mean
    torch.testing.assert_close(VAECodec(tiny_vae).encode(x).mean, raw)


def test_latents_of_a_quantiser_are_continuous_and_its_pictures_quantised():
    """A small step in z leaves most pictures' code words, so the picture; a latent itself is no code word."""
    codec, z = VQCodec(make_vq()), normal((4, 16, 16))
    assert codec.encode(torch.rand(2, 3, 64, 64)).mean.unique().numel() > 16 * 4
    raw = z * codec.std + codec.mean
    words = codec.vae.quantize.embedding.weight
    nearest = words[torch.cdist(raw.permute(0, 2, 3, 1).reshape(-1, 4), words).argmin(1)]
    quantised = nearest.view(2, 16, 16, 4).permute(0, 3, 1, 2)
    torch.testing.assert_close(codec.decode((quantised - codec.mean) / codec.std), codec.decode(z), atol=1e-4, rtol=0)


def test_a_tiny_autoencoder_must_be_told_the_side_of_its_pictures(tmp_path):
    make_taesd(None).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"image_size: AutoencoderTiny does not say .*; give their side"):
        codec_from_diffusers(tmp_path)
    assert codec_from_diffusers(tmp_path, 64).z_shape == (4, 16, 16)


def test_half_precision_weights_become_single(tmp_path):
    make_taesd().half().save_pretrained(tmp_path)
    assert codec_from_diffusers(tmp_path).decode(normal((4, 16, 16))).dtype == torch.float32


def test_an_autoencoder_of_grey_pictures_is_refused():
    vae = AutoencoderKL(in_channels=1, out_channels=1, norm_num_groups=2, block_out_channels=(4,), sample_size=8)
    with pytest.raises(ValueError, match="vae: expected pictures of 3 channels, this one has 1; choose another"):
        VAECodec(vae)


def test_a_latent_without_place_changes_the_whole_picture():
    codec, z = MAKERS["DenseVAE"](), torch.zeros(1, 5, 1, 1)
    moved = (codec.decode(z + 3 * torch.eye(5)[2].view(1, 5, 1, 1)) - codec.decode(z)).abs().amax(1)
    assert (moved > 0).float().mean() > 0.9


def test_a_side_that_cannot_be_halved_so_often_is_refused():
    with pytest.raises(ValueError, match="sample_size: expected a multiple of 4 to halve 2 times, got 30"):
        make_dense(30)


def test_a_sample_is_mean_plus_std_eps():
    codes = LatentDistribution(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0]))
    assert codes.sample(torch.tensor([2.0, -1.0])).tolist() == [2.0, -1.0]


def test_the_shipped_codec_is_the_one_its_mapper_was_trained_on():
    folder = resolve_model("pictures")
    told = json.loads((folder / "model_index.json").read_text("utf-8"))["fingerprints"]["vae"]
    assert load_codec(folder / "vae").fingerprint == told


@pytest.mark.parametrize("left_out", ["encode", "decode", "save"])
def test_a_codec_with_something_missing_cannot_be_made(left_out):
    whole = {n: getattr(PCACodec, n) for n in ("encode", "decode", "save") if n != left_out}
    with pytest.raises(TypeError, match=f"abstract method '?{left_out}"):
        type("Part", (ImageCodec,), whole)()


# folders and the hub


def test_an_unknown_class_is_named_with_those_known(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    known, ours = "AutoencoderKL, AutoencoderTiny, VQModel", "DenseVAE, PaletteVAE, PCACodec, WhitenedCodec"
    with pytest.raises(ValueError, match=rf"unknown codec 'UNet2DModel'; known: {known}, {ours}; update bridge$"):
        load_codec(tmp_path)
    with pytest.raises(ValueError, match=rf"unknown autoencoder 'UNet2DModel'; known: {known}$"):
        codec_from_diffusers(tmp_path)


def test_a_folder_without_a_config_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json: missing; name the folder of a saved codec"):
        load_codec(tmp_path / "none")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", "\xff"])
def test_a_damaged_config_says_so(tmp_path, text):
    (tmp_path / "config.json").write_text(text, "latin-1")
    with pytest.raises(ValueError, match=r"config\.json: damaged; copy or download the codec again"):
        load_codec(tmp_path)


@pytest.mark.parametrize(("name", "inner"), [("owner/name", ""), ("owner/name/vae", "vae/")])
def test_a_hub_id_is_fetched_without_pickles(tmp_path, monkeypatch, name, inner):
    make_taesd().save_pretrained(tmp_path / inner)
    asked = {}

    def fetch(repository: str, allow_patterns: list[str], **_: object) -> str:
        asked[repository] = allow_patterns
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert codec_from_diffusers(name).z_shape == (4, 16, 16)
    assert asked == {"owner/name": [f"{inner}config.json", f"{inner}diffusion_pytorch_model.safetensors"]}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            LocalEntryNotFoundError("none"),
            r"cannot be reached \(offline\?\); name a folder, or fetch it .*`hf download",
        ),
        (OSError("404 Client Error\nmore"), r"the hub has none such \(404 Client Error\); name a folder"),
    ],
)
def test_a_hub_id_that_cannot_be_had_is_one_line(monkeypatch, error, told):
    def fetch(repository: str, allow_patterns: list[str], **_: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(CheckpointError, match=rf"source: 'owner/name' is no folder.*{told}"):
        codec_from_diffusers("owner/name")


@pytest.mark.parametrize("name", ["", "none", "a/../b", "/none", "x" * 300, "a\0b", "~nobody/x"])
def test_what_is_neither_a_folder_nor_a_hub_id_says_so(name):
    with pytest.raises(CheckpointError, match="is no folder; a hub id looks like 'owner/name'"):
        codec_from_diffusers(name)


def test_a_folder_of_a_plain_path_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    MAKERS["AutoencoderTiny"]().save(Path("owner/name"))
    assert codec_from_diffusers("owner/name").image_size == 64
    shutil.rmtree(tmp_path / "owner")
