"""The shipped model: what it weighs, what it carries, and that its settings do what their names say."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from bridge import BridgePipeline
from bridge.checkpoint import resolve_model, verify_folder
from eval.features import EfficientNetLite0
from train.data.dataset import pixels_of
from train.recipes.emoji import STYLES

IMAGES = 8


@pytest.fixture(scope="module")
def emoji() -> BridgePipeline:
    return BridgePipeline.from_pretrained("emoji")


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


def samples(emoji: BridgePipeline, judge: EfficientNetLite0, captions: list[str], **settings: Any) -> Tensor:
    """Late features of IMAGES pictures of each caption, (captions, IMAGES, F)."""
    x = emoji(captions, IMAGES, seed=11, output_type="pt", **settings).images
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
    assert sum(f.stat().st_size for f in resolve_model("emoji").rglob("*") if f.is_file()) < 60e6


def test_folder_is_whole_and_holds_only_safetensors() -> None:
    verify_folder(resolve_model("emoji"))


def test_vae_runs_in_diffusers_alone() -> None:
    vae = AutoencoderKL.from_pretrained(resolve_model("emoji") / "vae")
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mean
        assert (z.shape, vae.decode(z).sample.shape) == ((2, 4, 8, 8), x.shape)


def test_card_credits_every_artist_set() -> None:
    card = (resolve_model("emoji") / "README.md").read_text("utf-8")
    assert all(style.package.rsplit("@", 1)[0] in card and style.licence in card for style in STYLES)


def test_memory_holds_no_held_out_caption(emoji: BridgePipeline) -> None:
    from train.splits import Splits, base_label  # noqa: PLC0415

    splits = Splits.load(Path(__file__).parent.parent / "configs" / "emoji-splits.json")
    family = splits.family_of()
    assert {splits.sides[family[base_label(c)]] for c in emoji.memory.captions} == {"train"}


def test_diversity_grows_with_temperature(
    emoji: BridgePipeline, judge: EfficientNetLite0, centroids: dict[str, Tensor]
) -> None:
    values = [diversity(samples(emoji, judge, list(centroids), temperature=t)) for t in (0.0, 0.5, 1.0)]
    assert values == sorted(values)
    assert values[0] < 0.01 * values[2]


def test_fit_grows_with_guidance(emoji: BridgePipeline, judge: EfficientNetLite0, centroids: dict[str, Tensor]) -> None:
    """From no caption (0) over as learned (1) to the default."""
    default = emoji.settings.guidance_scale
    assert default > 1
    real = torch.stack(list(centroids.values()))
    none, learned, guided = (
        fit(samples(emoji, judge, list(centroids), guidance_scale=g), real) for g in (0.0, 1.0, default)
    )
    assert none < learned < guided


def test_pictures_fit_their_captions(
    emoji: BridgePipeline, judge: EfficientNetLite0, centroids: dict[str, Tensor]
) -> None:
    """More than half of the pictures are nearest to their own caption's real pictures."""
    real = torch.stack(list(centroids.values()))
    features = samples(emoji, judge, list(centroids))
    nearest = torch.cdist(features.flatten(0, 1), real).argmin(1).view(len(real), IMAGES)
    assert float((nearest == torch.arange(len(real))[:, None]).float().mean()) > 0.5


def test_image_does_not_depend_on_its_company(emoji: BridgePipeline) -> None:
    alone = emoji("a smiling cat", 2, seed=3, output_type="pt").images
    beside = emoji(["a treatise on monetary policy", "bus", "a smiling cat"], 19, seed=3, output_type="pt").images
    assert torch.equal(beside[2 * 19 : 2 * 19 + 2], alone)


def test_settings_are_recorded(emoji: BridgePipeline) -> None:
    index = json.loads((resolve_model("emoji") / "model_index.json").read_text("utf-8"))
    assert index["settings"]["guidance_scale"] == emoji.settings.guidance_scale


def test_the_index_names_its_text_encoder_and_its_parts(emoji: BridgePipeline) -> None:
    """The fingerprints are those of today's reckoning: nothing is opened as a folder of an earlier version."""
    index = json.loads((resolve_model("emoji") / "model_index.json").read_text("utf-8"))
    assert index["text_encoder"] == emoji.text_encoder.spec()
    assert index["fingerprints"] == emoji.fingerprints


def test_opening_and_drawing_import_no_optional_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sentence_transformers", "gensim"):
        monkeypatch.setitem(sys.modules, name, None)  # an import would fail
    assert len(BridgePipeline.from_pretrained("emoji")("cat", 1, seed=0).images) == 1
