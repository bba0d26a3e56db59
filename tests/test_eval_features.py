"""Extractors, their cache, and the wall around the judge's network."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.data import Pictures
from eval.features import EfficientNetLite0, Extractor, Features, channel_statistics

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def judge() -> EfficientNetLite0:
    return EfficientNetLite0()


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.rand(7, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_shapes_of_the_two_descriptions(judge, x):
    features = judge.encode(x[:2])
    assert (features.late.shape, features.early.shape) == ((2, 1280), (2, 2 * (16 + 24 + 40 + 80)))


def test_features_do_not_depend_on_the_batch(judge, x):
    alone, together = judge.encode(x, batch_size=1), judge.encode(x, batch_size=7)
    np.testing.assert_allclose(alone.late, together.late, atol=2e-4)
    np.testing.assert_allclose(alone.early, together.early, atol=2e-3)


def test_same_pictures_same_features(judge, x):
    first, second = judge.encode(x[:3]), judge.encode(x[:3])
    assert np.array_equal(first.late, second.late) and np.array_equal(first.early, second.early)


def test_judge_is_frozen(judge, x):
    before = {k: v.clone() for k, v in judge.network.state_dict().items()}
    judge.encode(x[:2].requires_grad_())
    assert not any(p.requires_grad for p in judge.network.parameters()) and not judge.network.training
    assert all(torch.equal(v, before[k]) for k, v in judge.network.state_dict().items())


def test_late_features_are_those_of_the_package_itself(judge):
    x = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    theirs = judge.network.extract_features((x * 255 - 127) / 128).mean(dim=(2, 3))
    np.testing.assert_allclose(judge.encode(x).late, theirs.numpy(), atol=1e-5)


def test_channel_statistics_of_a_known_map():
    m = torch.tensor([[[[1.0, 3.0]], [[5.0, 5.0]]]])
    assert channel_statistics([m]).tolist() == [[2.0, 5.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(3, 64, 64), torch.zeros(0, 3, 64, 64), torch.zeros(1, 1, 64, 64), torch.full((1, 3, 8, 8), 2.0)],
)
def test_refuses_what_is_no_batch_of_pictures(judge, wrong):
    with pytest.raises(ValueError, match="x must"):
        judge.encode(wrong)


class Counting(Extractor):
    """Means of pictures, and how many it has seen."""

    id = "counting"

    def __init__(self) -> None:
        self.seen = 0

    def encode_batch(self, x):
        self.seen += len(x)
        return Features(x.mean(dim=(2, 3)).numpy(), x.mean(dim=(1, 2, 3)).numpy()[:, None])


def test_features_of_a_dataset_are_computed_once_and_kept_apart_by_extractor(artwork: Path) -> None:
    first, again, other = Counting(), Counting(), Counting()
    other.id = "another"
    pictures = Pictures.load(artwork)
    computed = pictures.features(first)
    np.testing.assert_array_equal(Pictures.load(artwork).features(again).late, computed.late)
    np.testing.assert_array_equal(Counting().encode(pictures.pixels(np.arange(3))).late, computed.late[:3])
    pictures.features(other)
    assert (first.seen, again.seen, other.seen) == (len(pictures), 0, len(pictures))


def test_features_need_one_row_a_picture():
    with pytest.raises(ValueError, match="one row a picture"):
        Features(np.zeros((2, 3)), np.zeros((3, 3)))


@pytest.mark.parametrize("room", ["bridge", "train"])
def test_the_judge_never_trains_filters_or_selects(room):
    """Neither its package nor the modules that hold it appear in code that makes models."""
    judge = re.compile(
        r"efficientnet[-_]?lite0|EfficientnetLite0|EfficientNetLite0|eval\.(features|judge|space|report)"
    )
    guilty = [str(p.relative_to(ROOT)) for p in (ROOT / room).rglob("*.py") if judge.search(p.read_text("utf-8"))]
    assert guilty == []
