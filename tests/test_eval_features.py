"""Extractors, their cache, and the wall around the judge's network."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from eval.features import EfficientNetLite0, Extractor, FeatureCache, Features, channel_statistics
from train.data.dataset import content_hash

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


@pytest.fixture
def pictures() -> tuple[list[str], torch.Tensor]:
    x = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    return [content_hash(p.numpy().tobytes()) for p in x], x


def test_cache_computes_a_picture_once(tmp_path, pictures):
    names, x = pictures
    FeatureCache(tmp_path, Counting()).features(names[:3], lambda i: x[i])
    again = Counting()
    FeatureCache(tmp_path, again).features(names, lambda i: x[i])
    assert again.seen == 2


def test_cache_gives_features_in_the_order_asked(tmp_path, pictures):
    names, x = pictures
    FeatureCache(tmp_path, Counting()).features(names, lambda i: x[i])
    order = [4, 0, 0, 2]
    cached = FeatureCache(tmp_path, Counting()).features([names[i] for i in order], lambda i: x[i])
    np.testing.assert_array_equal(cached.late, Counting().encode(x).late[order])


def test_cache_files_extractors_apart(tmp_path, pictures):
    names, x = pictures
    FeatureCache(tmp_path, Counting()).features(names, lambda i: x[i])
    other = Counting()
    other.id = "another"
    FeatureCache(tmp_path, other).features(names, lambda i: x[i])
    assert other.seen == 5


def test_damaged_shard_is_named(tmp_path, pictures):
    names, x = pictures
    FeatureCache(tmp_path, Counting()).features(names, lambda i: x[i])
    shard = next((tmp_path / "counting").iterdir())
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ValueError, match=shard.name):
        FeatureCache(tmp_path, Counting())


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
