"""The palette VAE: layers, their masks and colours, sizes, transparency, and a short training."""

import numpy as np
import pytest
import torch
from torch import Tensor

from bridge.codecs import HUB_FILES, load_codec, palette
from bridge.codecs.palette import Layers, PaletteCodec, PaletteVAE
from tests.fixtures import randomise


@pytest.fixture
def vae() -> PaletteVAE:
    """A small random one, 32 px to 2 x 2 x 4, no weight of which is zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = PaletteVAE(32, 4, (24, 16, 8), layers=4, heads=2, blocks=1)
    randomise(vae, seed=1)
    return vae.eval()


def larger(**options) -> PaletteVAE:
    return PaletteVAE(
        **{"sample_size": 32, "latent_channels": 6, "widths": (24, 16, 8), "layers": 4, "heads": 2, "blocks": 3}
        | options
    )


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def half_red() -> Layers:
    """One layer of red on the left half, the background on the right."""
    logits = torch.full((1, 2, 8, 8), -20.0)
    logits[0, 1, :, :4] = 20
    logits[0, 0, :, 4:] = 20
    colours = torch.zeros(1, 1, 3, 3)
    colours[0, 0, 0, 0] = 1
    return Layers(logits, colours)


def test_a_layer_is_its_colour_under_its_mask():
    colour, opacity = half_red().draw(8)
    expected = torch.zeros(8, 8)
    expected[:, :4] = 1
    torch.testing.assert_close(opacity[0, 0], expected)
    torch.testing.assert_close(colour[0], torch.stack([expected, torch.zeros(8, 8), torch.zeros(8, 8)]))


def test_a_colour_shades_along_its_slopes():
    layers = Layers(torch.tensor([-20.0, 20.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4), torch.zeros(1, 1, 3, 3))
    layers.colours[0, 0, 1] = torch.tensor([0.5, 0.25, -0.125])  # green: value, along x, along y
    at = torch.tensor([-0.75, -0.25, 0.25, 0.75])
    expected = 0.5 + 0.25 * at[None, :] - 0.125 * at[:, None]
    torch.testing.assert_close(layers.draw(4)[0][0, 1], expected)


def test_edges_stay_crisp_when_enlarged():
    """Between red and background at 64 px no more than three pixels are neither."""
    _, opacity = half_red().draw(64)
    between = ((opacity > 0.05) & (opacity < 0.95)).sum(-1)
    assert int(between.max()) <= 3


def test_the_picture_is_laid_on_white(vae):
    z = normal(2, 4, 2, 2)
    colour, opacity = vae.layers(z).draw(32)
    torch.testing.assert_close(vae.decode(z).sample, (colour + 1 - opacity) * 2 - 1)


def test_a_latents_picture_is_its_own(vae):
    z = normal(3, 4, 2, 2)
    torch.testing.assert_close(vae.decode(z[1:2]).sample, vae.decode(z).sample[1:2], atol=1e-5, rtol=1e-4)


def test_every_parameter_gets_a_gradient(vae):
    vae.train()
    posterior = vae.encode(normal(2, 3, 32, 32)).latent_dist
    z = posterior.mean + posterior.std * normal(2, 4, 2, 2)
    (vae.decode(z).sample.square().mean() + posterior.kl().mean()).backward()
    assert [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_gradient_comes_also_after_drawing_in_inference_mode(vae):
    palette._resizing.cache_clear()
    with torch.inference_mode():
        vae.decode(normal(1, 4, 2, 2))
    vae.decode(normal(1, 4, 2, 2)).sample.square().sum().backward()
    assert all(p.grad is not None for p in vae.trunk.parameters())


def test_a_saved_codec_draws_the_same(vae, tmp_path):
    codec = PaletteCodec(vae).with_statistics([0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 0.5, 1.5])
    codec.save(tmp_path)
    again, z = load_codec(tmp_path), normal(2, 4, 2, 2)
    assert isinstance(again, PaletteCodec)
    assert again.fingerprint == codec.fingerprint
    assert torch.equal(again.decode(z), codec.decode(z))


def test_a_rounded_codec_takes_half_the_bytes_and_draws_the_same(vae, tmp_path):
    codec, z = PaletteCodec(vae), normal(2, 4, 2, 2)
    rounded = codec.rounded()
    codec.save(tmp_path / "whole")
    rounded.save(tmp_path / "half")
    whole, half = ((tmp_path / name / HUB_FILES[1]).stat().st_size for name in ("whole", "half"))
    assert half < 0.6 * whole
    again = load_codec(tmp_path / "half")
    assert again.fingerprint == rounded.fingerprint != codec.fingerprint
    assert torch.equal(again.decode(z), rounded.decode(z))
    assert float((rounded.decode(z) - codec.decode(z)).abs().max()) < 0.02


@pytest.mark.parametrize("size", [64, 100, 256])
def test_it_draws_at_any_size(vae, size):
    x = PaletteCodec(vae).render(normal(1, 4, 2, 2), size)
    assert x.shape == (1, 3, size, size)
    assert 0 <= float(x.min()) <= float(x.max()) <= 1


def test_enlarging_moves_nothing(vae):
    """The picture at twice the size, scaled down again, is nearly the picture."""
    codec, z = PaletteCodec(vae), normal(1, 4, 2, 2)
    again = torch.nn.functional.avg_pool2d(codec.vae.layers(z).draw(64)[0], 2)
    own = codec.vae.layers(z).draw(32)[0]
    assert float((again - own).abs().mean()) < 0.02


def test_on_white_a_transparent_picture_is_the_opaque_one(vae):
    codec, z = PaletteCodec(vae), normal(2, 4, 2, 2)
    rgba = codec.render(z, 64, transparent=True)
    colour, opacity = rgba[:, :3], rgba[:, 3:]
    seen = opacity > 0.01
    difference = (colour * opacity + 1 - opacity - codec.render(z, 64)).abs()
    drawn = codec.vae.layers(z).draw(64, 2**0.5)[0]
    clipped = (drawn > opacity) | (drawn < 0)
    assert float(difference[(seen & ~clipped)].max()) < 1e-4


def test_on_black_there_is_no_halo():
    """Along an edge the straight colour is the layer's own, not mixed with white."""
    colour, opacity = half_red().draw(64)
    edge = (opacity[0, 0] > 0.05) & (opacity[0, 0] < 0.95)
    straight = (colour / opacity.clamp(min=1e-3))[0, :, edge]
    torch.testing.assert_close(straight, torch.tensor([1.0, 0.0, 0.0])[:, None].expand_as(straight))


def ring_of_patches(opaque_rows: int) -> Layers:
    """A black ring, 32 x 32, in whose middle of 16 x 16 so many rows are white paint, the others nothing."""
    logits = torch.zeros(1, 3, 32, 32)  # nothing, black, white
    logits[:, 0] = 20
    logits[:, :, 4:28, 4:28] = torch.tensor([0.0, 20.0, 0.0])[:, None, None]
    logits[:, :, 8:24, 8:24] = torch.tensor([20.0, 0.0, 0.0])[:, None, None]
    logits[:, :, 8 : 8 + opaque_rows, 8:24] = torch.tensor([0.0, 0.0, 20.0])[:, None, None]
    colours = torch.zeros(1, 2, 3, 3)
    colours[0, 1, :, 0] = 1
    return Layers(logits, colours)


@pytest.mark.parametrize("size", [64, 96, 256])
@pytest.mark.parametrize(("opaque_rows", "expected"), [(16, 1), (10, 1), (6, 1), (2, 0), (0, 0)])
def test_enclosed_white_is_opaque_or_clear_as_a_whole(vae, opaque_rows, expected, size):
    codec = PaletteCodec(vae)
    codec.layers = lambda z: ring_of_patches(opaque_rows)
    [rgba] = codec.render(normal(1, 4, 2, 2), size, transparent=True)
    unit = size // 32
    middle = rgba[:, 9 * unit : 23 * unit, 9 * unit : 23 * unit]
    assert torch.equal(middle[3].round(decimals=2), torch.full_like(middle[3], expected))
    if expected:
        assert float(middle[:3].min()) > 0.98
    assert float(rgba[3, : 3 * unit].max()) < 0.02  # what is outside stays clear
    assert float(rgba[3, 5 * unit : 7 * unit, 10 * unit : 22 * unit].min()) > 0.98  # and the ring opaque
    [opaque] = codec.render(normal(1, 4, 2, 2), size)
    assert float((rgba[:3] * rgba[3] + 1 - rgba[3] - opaque).abs().max()) < 0.1


def test_white_that_meets_the_edge_keeps_its_opacity(vae):
    """A white half beside nothing: neither is enclosed."""
    codec, layers = PaletteCodec(vae), half_red()
    layers.colours[..., 0] = 1
    codec.layers = lambda z: layers
    opacity = codec.render(normal(1, 4, 2, 2), 64, transparent=True)[0, 3]
    torch.testing.assert_close(opacity, layers.draw(64, 2**0.5)[1][0, 0].clamp(0, 1))


def test_regions_are_told_apart():
    mask = torch.zeros(2, 1, 6, 7, dtype=torch.bool)
    mask[0, 0, 1:3, 1:3] = mask[0, 0, 3, 3] = True  # they touch at a corner
    mask[0, 0, 4:, 5] = True  # it meets the edge
    mask[1, 0, 2, 1:6] = mask[1, 0, 2:5, 5] = mask[1, 0, 4, 2:6] = True  # a hook
    regions = palette.enclosed(mask)
    assert len(regions[0].unique()) == 3
    assert regions[0, 0, 1:3, 1:3].unique().numel() == 1
    assert not regions[0, 0, 4:, 5].any()
    assert torch.equal(regions[1] > 0, mask[1])
    assert len(regions[1].unique()) == 2
    assert not palette.enclosed(torch.ones(1, 1, 4, 4, dtype=torch.bool)).any()
    assert not palette.enclosed(torch.zeros(1, 1, 4, 4, dtype=torch.bool)).any()


def test_scaled_down_by_any_program_no_fringe_appears_on_black_or_white(vae):
    """What is unseen next to an edge has the edge's colour, so that mixing straight colours changes nothing."""
    codec = PaletteCodec(vae)
    codec.layers = lambda z: half_red()
    [rgba] = codec.render(normal(1, 4, 2, 2), 64, transparent=True)
    edge = int((rgba[3, 0] > 0.5).sum())
    near = rgba[:3, :, : edge + 4]
    torch.testing.assert_close(near, torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand_as(near), atol=1e-3, rtol=0)
    small = torch.nn.functional.avg_pool2d(rgba[None], 8)[0]
    for back in (0.0, 1.0):
        seen = small[:3] * small[3] + back * (1 - small[3])
        assert float((seen[1:] - back * (1 - small[3])).abs().max()) < 1e-3
        assert float((seen[0] - (small[3] + back * (1 - small[3]))).abs().max()) < 0.01


@pytest.mark.parametrize("size", [8, 63, 1025, 64.0, "64"])
def test_a_size_out_of_range_is_refused(vae, size):
    with pytest.raises(ValueError, match=r"^size: this model draws 64 to 1024 whole pixels"):
        PaletteCodec(vae).render(normal(1, 4, 2, 2), size)


def test_a_size_may_be_a_number_of_numpy(vae):
    codec, z = PaletteCodec(vae), normal(1, 4, 2, 2)
    assert torch.equal(codec.render(z, np.int64(64)), codec.render(z, 64))


def test_other_codecs_say_what_they_cannot(tiny_pipeline):
    z = normal(1, *tiny_pipeline.codec.z_shape)
    with pytest.raises(ValueError, match=r"^size: this model draws 64 pixels"):
        tiny_pipeline.codec.render(z, 128)
    with pytest.raises(ValueError, match=r"^transparent: "):
        tiny_pipeline.codec.render(z, transparent=True)


def test_a_side_that_is_no_multiple_of_16_is_refused():
    with pytest.raises(ValueError, match=r"^sample_size: expected a multiple of 16, got 40"):
        PaletteVAE(40)


# extended


@pytest.mark.parametrize(("channels", "blocks"), [(4, 1), (6, 1), (4, 3), (6, 3)])
def test_an_extended_vae_does_as_before_at_first(vae, channels, blocks):
    new, x = larger(latent_channels=channels, blocks=blocks).eval(), torch.rand(3, 3, 32, 32)
    new.extend(vae)
    before, after = vae.encode(x).latent_dist, new.encode(x).latent_dist
    assert after.mean.shape == (3, channels, 2, 2)
    assert torch.equal(after.mean[:, :4], before.mean)
    torch.testing.assert_close(after.std[:, :4], before.std)
    torch.testing.assert_close(new.decode(after.mean).sample, vae.decode(before.mean).sample)


def test_what_is_new_in_an_extended_vae_is_trained(vae):
    new = larger()
    new.extend(vae)
    x = torch.rand(2, 3, 32, 32)
    new.decode(new.encode(x).latent_dist.mean).sample.square().mean().backward()
    assert new.trunk[0].weight.grad[:, 4:].any()
    assert new.trunk[4].out.weight.grad.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_channels": 3}, "latent_channels, blocks: expected at least 4 and 1"),
        ({"blocks": 0}, "latent_channels, blocks: expected at least 4 and 1"),
        ({"widths": (24, 16, 16)}, r"widths: cannot extend \(24, 16, 8\) to \(24, 16, 16\); keep it"),
        ({"layers": 5}, "layers: cannot extend 4 to 5; keep it"),
    ],
)
def test_a_vae_that_cannot_be_extended_to_another_is_refused(vae, options, message):
    with pytest.raises(ValueError, match=message):
        larger(**options).extend(vae)
