"""The shipped model: what it weighs, what it carries, and that its settings do what their names say."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bridge import BridgePipeline, explore
from bridge.checkpoint import verify_folder
from bridge.codecs import HUB_FILES, load_codec
from bridge.hub import resolve_model
from bridge.pipeline import view_of
from eval.features import EfficientNetLite0
from train.data.dataset import pixels_of
from train.recipes.emoji import STYLES
from train.recipes.icons import GLYPH_SETS, PALETTE_SETS

IMAGES = 8
LICENCES = ("Apache-2.0", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "MIT", "public domain")
SHARE_ALIKE = ("BY-SA", "GPL", "OpenMoji")


@pytest.fixture(scope="module")
def model() -> BridgePipeline:
    return BridgePipeline.from_pretrained("pictures")


@pytest.fixture(scope="module")
def judge() -> EfficientNetLite0:
    return EfficientNetLite0()


@pytest.fixture(scope="module")
def centroids(artwork_folder: Path, judge: EfficientNetLite0) -> dict[str, Tensor]:
    """Mean late features of the sample's real pictures, by training caption."""
    import datasets  # noqa: PLC0415

    rows = datasets.load_from_disk(str(artwork_folder))
    labels = [row["label"] for row in rows.select_columns(["label", "split"]) if row["split"] == "train"]
    features = torch.from_numpy(judge.encode(pixels_of(rows).float() / 255).late)
    found = {}
    for label in dict.fromkeys(labels):
        found[label] = features[[i for i, other in enumerate(rows["label"]) if other == label]].mean(0)
    return found


def samples(model: BridgePipeline, judge: EfficientNetLite0, captions: list[str], **settings: Any) -> Tensor:
    """Late features of IMAGES pictures of each caption, (captions, IMAGES, F)."""
    x = model(captions, IMAGES, seed=11, output_type="pt", **settings).images
    return torch.from_numpy(judge.encode(x).late).unflatten(0, (len(captions), IMAGES))


def diversity(features: Tensor) -> float:
    """Mean distance between two pictures of one caption."""
    distance = torch.cdist(features, features)
    return float(distance.sum((1, 2)).mean() / (IMAGES * (IMAGES - 1)))


def fit(features: Tensor, centroids: Tensor) -> float:
    """How much nearer pictures are, in cosine, to their own caption's real ones than to other captions'."""
    shift = centroids.mean(0)
    similarity = torch.cosine_similarity(features[:, :, None] - shift, (centroids - shift)[None, None], dim=-1).mean(1)
    own = similarity.diagonal().mean()
    return float(own - (similarity.sum() - similarity.trace()) / (similarity.numel() - len(similarity)))


def test_weighs_at_most_60_megabytes() -> None:
    assert sum(f.stat().st_size for f in resolve_model("pictures").rglob("*") if f.is_file()) < 60e6


def test_folder_is_whole_and_holds_only_safetensors() -> None:
    verify_folder(resolve_model("pictures"))


def test_the_codec_takes_half_precisions_bytes() -> None:
    codec = load_codec(resolve_model("pictures") / "vae")
    weights = (resolve_model("pictures") / "vae" / HUB_FILES[1]).stat().st_size
    assert weights < 2.1 * sum(p.numel() for p in codec.vae.parameters())


def test_it_draws_at_any_size_with_a_transparent_background(model: BridgePipeline) -> None:
    picture = model("a cat", 1, seed=0, size=200, transparent=True).images[0]
    assert (picture.size, picture.mode) == ((200, 200), "RGBA")
    assert picture.getpixel((0, 0))[3] == 0


def test_card_credits_every_set() -> None:
    card = (resolve_model("pictures") / "README.md").read_text("utf-8")
    credited = [line for line in card.splitlines() if line.startswith("- ") and line.endswith(LICENCES)]
    assert len(credited) == len(STYLES) + len(PALETTE_SETS) + len(GLYPH_SETS) + 1  # and clip art
    assert not any(name in card for name in SHARE_ALIKE)


def test_memory_holds_what_the_split_model_must_not_see(model: BridgePipeline) -> None:
    """The shipped one is for drawing; `configs/pictures-memory.yaml` makes the one that is judged."""
    assert {"rocket", "rainbow", "witch"} <= set(model.memory.captions)


def test_what_glyphs_alone_show_is_drawn_as_a_glyph_and_told(model: BridgePipeline) -> None:
    notes = model(["a centaur", "a cat"], 1, seed=0, output_type="latent").notes
    assert "drawn as a glyph" in str(notes[0])
    assert notes[1] is None


@pytest.mark.parametrize(("word", "styles"), [("tree", {"3d", "flat"}), ("car", {"3d"}), ("wallet", {"icon"})])
def test_plain_words_are_drawn_as_emoji_or_as_icons_if_these_alone_show_them(
    model, word: str, styles: set[str]
) -> None:
    mapper = view_of(model.mapper, model.settings)
    near, log_weight = mapper.nearest(model.code(f"a {word}").pooled[0])
    weighty = near[np.exp(log_weight) > 0.02]
    drawn = {mapper.config.styles[i] for i in mapper.style[weighty].tolist()}
    assert drawn >= styles
    assert ("icon" in drawn) == (word == "wallet")


@pytest.mark.parametrize(
    ("words", "emoji"),
    [
        ("thank you", "folded hands"),
        ("Congratulations!", "party popper"),
        ("high five", "raising hands"),
        ("yes", "thumbs up"),
        ("draw a deadline, please", "hourglass not done"),
    ],
)
def test_chat_words_are_drawn_as_the_emoji_that_show_them(model: BridgePipeline, words: str, emoji: str) -> None:
    mapper = view_of(model.mapper, model.settings)
    near, log_weight = mapper.nearest(model.code(words).pooled[0])
    linked = [mapper.link[mapper.start[i] : mapper.start[i + 1]] for i in near[np.exp(log_weight) > 0.02]]
    assert emoji in {model.memory.captions[int(i)] for i in torch.cat(linked)}
    assert model([words], 1, seed=0, output_type="latent").notes == [None]


def test_a_black_cat_is_black(model: BridgePipeline) -> None:
    x = torch.from_numpy(model("a black cat", 2, seed=0, output_type="np").images)
    drawn = x.amin(-1) < 0.9
    assert float(x.amax(-1)[drawn].median()) < 0.35


@pytest.fixture(scope="module")
def drawn(model: BridgePipeline, judge: EfficientNetLite0, centroids: dict[str, Tensor]) -> Tensor:
    """Features of pictures of every caption by the model's own settings, but near to known ones: that is soon done."""
    assert (model.settings.temperature, model.settings.guidance_scale) == (1.0, 1.0)
    return samples(model, judge, list(centroids), novelty=0)


def test_diversity_grows_with_temperature(
    model: BridgePipeline, judge: EfficientNetLite0, centroids: dict[str, Tensor], drawn: Tensor
) -> None:
    known = list(centroids)
    cold = (0.0, 0.25)  # from .5 on it grows no more
    colder = [samples(model, judge, known, temperature=t, novelty=0) for t in cold]
    values = [diversity(features) for features in (*colder, drawn)]
    assert values == sorted(values)
    assert values[0] < 0.01 * values[2]


def test_fit_grows_with_guidance(
    model: BridgePipeline, judge: EfficientNetLite0, centroids: dict[str, Tensor], drawn: Tensor
) -> None:
    """From no caption (0) to as known (1)."""
    real = torch.stack(list(centroids.values()))
    assert fit(samples(model, judge, list(centroids), guidance_scale=0.0, novelty=0), real) < fit(drawn, real)


def test_pictures_fit_their_captions(
    model: BridgePipeline, judge: EfficientNetLite0, centroids: dict[str, Tensor], drawn: Tensor
) -> None:
    """More than half of the pictures are nearest to their own caption's real pictures, of new ones too."""
    real, new = torch.stack(list(centroids.values())), samples(model, judge, list(centroids)[::8])
    for features, own in ((drawn, torch.arange(len(real))), (new, torch.arange(0, len(real), 8))):
        nearest = torch.cdist(features.flatten(0, 1), real).argmin(1).view(-1, IMAGES)
        assert float((nearest == own[:, None]).float().mean()) > 0.5


@pytest.mark.parametrize(("novelty", "count"), [(0, 19), (0.5, 11)])
def test_image_does_not_depend_on_its_company(model: BridgePipeline, novelty: float, count: int) -> None:
    company = ["a treatise on monetary policy", "bus", "a smiling cat"]
    alone = model("a smiling cat", 2, seed=3, novelty=novelty, output_type="pt").images
    beside = model(company, count, seed=3, novelty=novelty, output_type="pt").images
    assert torch.equal(beside[2 * count : 2 * count + 2], alone)


def test_settings_are_recorded(model: BridgePipeline) -> None:
    index = json.loads((resolve_model("pictures") / "model_index.json").read_text("utf-8"))
    assert index["settings"] == asdict(model.settings)


def test_the_index_names_its_text_encoder_and_its_parts(model: BridgePipeline) -> None:
    """The fingerprints are those of today's reckoning: nothing is opened as a folder of an earlier version."""
    index = json.loads((resolve_model("pictures") / "model_index.json").read_text("utf-8"))
    assert index["text_encoder"] == model.text_encoder.spec()
    assert index["fingerprints"] == model.fingerprints


def test_opening_and_drawing_import_no_optional_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sentence_transformers", "gensim"):
        monkeypatch.setitem(sys.modules, name, None)  # an import would fail
    assert len(BridgePipeline.from_pretrained("pictures")("cat", 1, seed=0).images) == 1


@pytest.mark.parametrize("caption", ["a cat", "a dog in a hat"])
def test_walks_and_variations_begin_with_what_a_call_draws(model: BridgePipeline, caption: str) -> None:
    """Also of a caption that the model does not know: with the style and the known caption of that image."""
    drawn = model(caption, 2, seed=3, output_type="latent").images
    start, other = (explore.caption_end(model, text, 3) for text in (caption, "a house"))
    assert torch.equal(start.z, drawn[0])
    assert torch.equal(explore.noise_walk(model, start, other, 3)[0], drawn[0])
    around = explore.vary(model, start, 2, distance=0.25, seed=3)
    assert 0 < float((around - start.z).square().mean()) < 0.5 * float((drawn[1] - start.z).square().mean())
