"""Principal axes: exact there and back, with the right log-determinant, and whole on disk."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bridge.checkpoint import CheckpointError
from bridge.codecs import VAECodec, load_codec
from bridge.codecs.standardize import PCACodec, PrincipalAxes, WhitenedCodec
from tests.fixtures import make_tiny_vae


def make_axes(dims: int, k: int, seed: int = 0) -> PrincipalAxes:
    """Random axes of vectors of `dims` numbers."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.linalg.qr(torch.randn(dims, dims, generator=generator)).Q[:k]
    scale = torch.rand(k, generator=generator) + 0.2
    return PrincipalAxes(torch.randn(dims, generator=generator), rows, scale)


@pytest.fixture
def v() -> Tensor:
    return torch.randn(3, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def whitened() -> WhitenedCodec:
    return WhitenedCodec(VAECodec(make_tiny_vae()), make_axes(256, 256))


# the axes


def test_all_components_lose_nothing(v):
    axes = make_axes(12, 12)
    torch.testing.assert_close(axes.lift(axes.project(v)), v, atol=1e-5, rtol=0)


def test_components_come_back_whatever_their_number():
    axes, z = make_axes(12, 5), torch.randn(3, 5)
    torch.testing.assert_close(axes.project(axes.lift(z)), z, atol=1e-5, rtol=0)


def test_fewer_components_give_the_nearest_point_of_their_span(v):
    """Against least squares over the span."""
    axes = make_axes(12, 5)
    basis = axes.components.T
    nearest = axes.mean + (basis @ torch.linalg.lstsq(basis, (v - axes.mean).T).solution).T
    torch.testing.assert_close(axes.lift(axes.project(v)), nearest, atol=1e-5, rtol=0)


def test_deviations_are_those_of_each_component_alone():
    """Against the diagonal of the whole covariance."""
    axes, std = make_axes(12, 5), torch.rand(2, 12) + 0.1
    matrix = axes.components / axes.scale[:, None]
    exact = torch.stack([(matrix @ s.square().diag() @ matrix.T).diagonal().sqrt() for s in std])
    torch.testing.assert_close(axes.project_std(std), exact)


@pytest.mark.parametrize(
    ("mean", "components", "scale"),
    [((3,), (2, 4), (2,)), ((4,), (2, 4), (3,)), ((4,), (4,), (4,)), ((1, 4), (2, 4), (2,))],
)
def test_shapes_that_do_not_fit_are_refused(mean, components, scale):
    with pytest.raises(ValueError, match=r"components, mean, scale: expected \(k, D\), \(D,\) and \(k,\)"):
        PrincipalAxes(torch.zeros(mean), torch.zeros(components), torch.ones(scale))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_no_deviation_is_refused(scale):
    with pytest.raises(ValueError, match="expected finite numbers and positive scales; fit them again"):
        PrincipalAxes(torch.zeros(2), torch.eye(2), torch.tensor([1.0, scale]))


# whitening


def test_the_mean_is_mapped_exactly(whitened):
    x = torch.rand(2, 3, 64, 64)
    inner = whitened.inner.encode(x).mean.flatten(1)
    expected = (inner - whitened.axes.mean) @ whitened.axes.components.T / whitened.axes.scale
    torch.testing.assert_close(whitened.encode(x).mean, expected)


def test_at_full_k_decoding_is_the_inner_codecs(whitened):
    z = torch.randn(2, 256, generator=torch.Generator().manual_seed(2))
    inner = (whitened.axes.mean + (z * whitened.axes.scale) @ whitened.axes.components).view(2, 4, 8, 8)
    torch.testing.assert_close(whitened.decode(z), whitened.inner.decode(inner))


def test_a_round_trip_at_full_k_is_the_inner_codecs(whitened):
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    there = whitened.inner.decode(whitened.inner.encode(x).mean)
    torch.testing.assert_close(whitened.decode(whitened.encode(x).mean), there, atol=1e-4, rtol=0)


def test_log_abs_det_is_that_of_autograds_jacobian(whitened):
    axes = make_axes(256, 256).double()
    jacobian = torch.autograd.functional.jacobian(lambda v: axes.project(v[None])[0], torch.zeros(256).double())
    assert whitened.log_abs_det == pytest.approx(float(torch.linalg.slogdet(jacobian).logabsdet), abs=1e-3)


def test_log_abs_det_turns_one_density_into_the_other(whitened):
    """A Gaussian over z against the same one over the inner latents, in closed form."""
    axes = make_axes(256, 256).double()
    covariance = axes.components.T @ axes.scale.square().diag() @ axes.components
    inner = torch.distributions.MultivariateNormal(axes.mean, (covariance + covariance.T) / 2)
    v = inner.mean + torch.randn(2, 256, generator=torch.Generator().manual_seed(4)).double()
    over_z = torch.distributions.Normal(0, 1).log_prob(axes.project(v)).sum(1)
    torch.testing.assert_close(inner.log_prob(v), over_z + whitened.log_abs_det, atol=1e-2, rtol=0)


def test_with_fewer_components_it_is_that_of_the_map_on_their_span():
    codec = WhitenedCodec(VAECodec(make_tiny_vae()), make_axes(256, 7))
    on_span = (codec.axes.components / codec.axes.scale[:, None]) @ codec.axes.components.T
    assert codec.log_abs_det == pytest.approx(float(torch.linalg.slogdet(on_span.double()).logabsdet), abs=1e-4)


def test_axes_of_other_latents_are_refused():
    with pytest.raises(ValueError, match="axes: made for latents of 12 numbers, the codec has 256; fit them"):
        WhitenedCodec(VAECodec(make_tiny_vae()), make_axes(12, 3))


def test_whitening_of_whitening_is_possible(whitened, tmp_path):
    twice = WhitenedCodec(whitened, make_axes(256, 5, seed=9))
    twice.save(tmp_path)
    assert load_codec(tmp_path).fingerprint == twice.fingerprint


# identity


def test_another_inner_codec_is_another_codec(whitened):
    other = WhitenedCodec(VAECodec(make_tiny_vae()).with_statistics([0.0] * 4, [1.0] * 4), make_axes(256, 256))
    assert other.fingerprint != whitened.fingerprint


@pytest.mark.parametrize("name", ["mean", "components", "scale"])
def test_every_part_of_the_axes_counts(name):
    parts = dict(make_axes(48, 3).state_dict())
    before = PCACodec(PrincipalAxes(**parts), 4).fingerprint
    parts[name] = parts[name] * 1.01
    assert PCACodec(PrincipalAxes(**parts), 4).fingerprint != before


def test_an_inner_codec_that_was_exchanged_is_refused(whitened, tmp_path):
    whitened.save(tmp_path)
    whitened.inner.with_statistics([0.0] * 4, [1.0] * 4).save(tmp_path / "inner")
    with pytest.raises(CheckpointError, match="inner: is not the codec that was whitened; copy or fit it again"):
        load_codec(tmp_path)


def test_an_inner_codec_moves_too():
    codec = WhitenedCodec(PCACodec(make_axes(48, 3), 4), make_axes(3, 2)).to("meta")
    assert {axes.mean.device.type for axes in (codec.axes, codec.inner.axes)} == {"meta"}


# on disk


@pytest.fixture
def folder(tmp_path):
    """A saved PCACodec."""
    PCACodec(make_axes(48, 3), 4).save(tmp_path)
    return tmp_path


def test_missing_axes_are_named(folder):
    (folder / "axes.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"axes\.safetensors: missing or damaged; copy or download"):
        load_codec(folder)


def test_cut_axes_are_refused(folder):
    path = folder / "axes.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"axes\.safetensors: missing or damaged"):
        load_codec(folder)


def test_a_number_that_is_none_is_refused(folder):
    """safetensors itself loads it silently."""
    path = folder / "axes.safetensors"
    tensors = load_file(path)
    tensors["mean"][0] = math.nan
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match="missing or damaged"):
        load_codec(folder)


def test_a_config_without_the_side_is_damaged(folder):
    (folder / "config.json").write_text('{"_class_name": "PCACodec"}')
    with pytest.raises(CheckpointError, match=r"config\.json: damaged"):
        load_codec(folder)


def test_axes_of_pictures_of_another_size_are_refused():
    with pytest.raises(ValueError, match="image_size: axes of 48 numbers do not fit pictures of 8 pixels; fit"):
        PCACodec(make_axes(48, 3), 8)
