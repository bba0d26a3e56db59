"""Layers traced to SVG: resvg opens it and draws what the codec draws."""

import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from bridge import BridgePipeline, svg
from bridge.cli import main
from bridge.codecs.palette import Layers, PaletteCodec
from bridge.errors import UserError
from bridge.mappers import FlowMatchingMapper
from bridge.memory import CaptionMemory
from bridge.pipeline import Settings
from tests.fixtures import KNOWN, randomise
from tests.test_palette import half_red, normal, vae  # noqa: F401

NAMESPACE = "{http://www.w3.org/2000/svg}"


def discs() -> Layers:
    """A large disc of green that shades to black, and a small red one on it, on nothing."""
    x, y = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="xy")
    far = (x.square() + y.square()).sqrt()
    logits = 80 * torch.stack([far - 0.8, torch.zeros(64, 64), 0.4 - far])
    logits[1] = torch.where(far < 0.8, 0.0, -20.0)
    logits[0] = torch.where(far < 0.8, -20.0, 20.0)
    colours = torch.zeros(1, 2, 3, 3)
    colours[0, 0, 1, :2] = torch.tensor([0.5, 0.4])
    colours[0, 1, 0, 0] = 1
    return Layers(logits[None], colours)


@pytest.mark.parametrize("layers", [half_red, discs])
def test_resvg_draws_what_the_layers_are(layers):
    text = svg.svg_of(layers())
    difference = np.abs(svg.drawn(text) - svg.drawn_layers(layers()))
    assert float(difference.mean()) < 0.01


def test_a_colour_that_shades_becomes_a_gradient():
    root = ElementTree.fromstring(svg.svg_of(discs()))
    [gradient] = root.iter(f"{NAMESPACE}linearGradient")
    assert sorted(float(gradient.get(name)) for name in ("x1", "x2")) == pytest.approx([0, svg.TRACED], abs=1)
    assert [path.get("fill") for path in root.iter(f"{NAMESPACE}path")] == [f"url(#{gradient.get('id')})", "#ff0000"]


def test_nothing_shines_through_where_layers_meet():
    """Between the discs no pixel is lighter than both."""
    seen = svg.drawn(svg.svg_of(discs(), transparent=True))
    ring = seen[40:88, 40:88]
    assert float(ring[..., 2].max()) < 0.02  # white would bring blue


@pytest.mark.parametrize(("transparent", "backs"), [(True, 0), (False, 1)])
def test_the_background_is_left_out_if_asked(transparent, backs):
    root = ElementTree.fromstring(svg.svg_of(half_red(), transparent=transparent))
    assert len(list(root.iter(f"{NAMESPACE}rect"))) == backs


@pytest.mark.parametrize("title", ["</title><script>alert(1)</script>", "a\0b\x1b &amp; <", "caf\udce9 😀"])
def test_a_title_is_text_whatever_is_in_it(title):
    root = ElementTree.fromstring(svg.svg_of(half_red(), title=title))
    assert not list(root.iter(f"{NAMESPACE}script"))
    assert root.find(f"{NAMESPACE}title").text


def test_a_latent_is_traced(vae):  # noqa: F811
    codec = PaletteCodec(vae)
    codec.layers = lambda z: discs()
    text = svg.trace(codec, normal(4, 2, 2), title="a cat")
    assert ElementTree.fromstring(text).find(f"{NAMESPACE}title").text == "a cat"


def test_a_tracing_that_differs_from_the_picture_is_told(vae, monkeypatch):  # noqa: F811
    monkeypatch.setattr(svg, "svg_of", lambda *_, **__: '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"/>')
    codec = PaletteCodec(vae)
    codec.layers = lambda z: half_red()
    with pytest.warns(UserWarning, match=r"^the SVG of '' differs from the picture by 0\.3"):
        svg.trace(codec, normal(4, 2, 2))


def test_what_resvg_cannot_open_is_told():
    with pytest.raises(UserError, match=r"^svg: resvg cannot open"):
        svg.drawn("<svg")


def test_a_model_without_layers_says_so(tiny_pipeline):
    with pytest.raises(UserError, match=r"^svg: this model does not draw in layers"):
        svg.check_traceable(tiny_pipeline.codec)


def test_a_missing_library_is_named(vae, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "vtracer", None)
    with pytest.raises(UserError, match=r"pip install 'bridge-captions\[svg\]'"):
        svg.check_traceable(PaletteCodec(vae))


@pytest.fixture
def layered(encoder, vae):  # noqa: F811
    """A tiny pipeline that draws in layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        mapper = FlowMatchingMapper((4, 2, 2), 384, width=16, hidden=16, blocks=1, condition=16)
    randomise(mapper, seed=2)
    memory = CaptionMemory(encoder.encode(KNOWN, with_tokens=False).pooled, KNOWN)
    return BridgePipeline(encoder, mapper, PaletteCodec(vae), memory, Settings(num_inference_steps=2))


@pytest.mark.filterwarnings("ignore:the SVG of:UserWarning")
def test_a_sticker_and_its_svg_lie_beside_each_other_and_are_made_again(layered, tmp_path, capsys):
    layered.save_pretrained(tmp_path / "model")
    model, out = ("--model", str(tmp_path / "model")), tmp_path / "out"
    words = ("--transparent", "--size", "128", "--svg", "--format", "webp", "--no-sheet", "--out", str(out))
    assert main(["generate", "cat", "-n", "2", *words, *model]) == 0
    path = Path(capsys.readouterr().out.splitlines()[1])
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("WEBP", "RGBA", (128, 128))
    assert svg.drawn(path.with_suffix(".svg").read_text("utf-8")).shape == (128, 128, 3)
    assert main(["redo", str(path), "--out", str(tmp_path / "again.webp"), *model]) == 0
    assert (tmp_path / "again.webp").read_bytes() == path.read_bytes()


@pytest.mark.filterwarnings("ignore:the SVG of:UserWarning")
def test_an_svg_whose_picture_cannot_be_listed_is_not_left(layered, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    layered.save_pretrained(tmp_path / "model")
    monkeypatch.setattr("bridge.manifest._append", full)
    words = ("-n", "1", "--svg", "--no-sheet", "--out", str(tmp_path / "out"), "--model", str(tmp_path / "model"))
    assert main(["generate", "cat", *words]) == 2
    assert [path.name for path in (tmp_path / "out").rglob("*.*")] == ["manifest.jsonl"]


def test_a_latent_comes_with_each_image(layered):
    images = list(layered.stream("cat", 3, seed=1))
    latents = torch.stack([item.latent for item in images])
    assert [image.tobytes() for image in layered.decode(latents)] == [item.image.tobytes() for item in images]
