"""Every mapping family in one table: the same pairs, densities in one unit, nothing trained twice."""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bridge.mappers import DensityMapper, FlowMatchingMapper, GaussianMapper, Mapper
from eval.studies.compare import __main__ as command
from eval.studies.compare import families
from eval.studies.compare.families import density_of, family_peer, held_out_latents, whitened
from eval.studies.compare.nets import LOCAL_FLOW, Sampling, TrainedPeer
from eval.studies.compare.study import Workshop
from tests.test_eval_peers import drawings, drawings_judge, opened
from train.loop import Loop

__all__ = ["drawings", "drawings_judge", "opened"]

FAST = {"learning_rate": 1e-3, "batch_size": 16}
SMALL = {"width": 16, "hidden": 16, "blocks": 1}
TINY = (
    replace(LOCAL_FLOW, name="local flow"),
    family_peer("matching", FlowMatchingMapper, FAST | SMALL | {"condition": 16}),
    family_peer("gaussian", GaussianMapper, FAST | SMALL),
    family_peer("gaussian, whitened", GaussianMapper, FAST | SMALL, whitened=True),
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def shop(opened: Callable[..., Workshop], tmp_path: Path) -> Workshop:
    out = str(tmp_path / "shop")
    return opened(argparse.Namespace(out=out, samples=2, captions=6, minutes=0.04, vae_minutes=0.0))


def test_whitened_latents_have_unit_covariance(shop: Workshop) -> None:
    z = whitened(shop).material.train.latents.mean.double()
    torch.testing.assert_close(torch.cov(z.T, correction=0), torch.eye(z.shape[1]).double(), atol=1e-3, rtol=0)


def test_whitening_is_part_of_what_a_training_depends_on(shop: Workshop) -> None:
    assert whitened(shop).identity["vae"] != shop.identity.get("vae")


class Normal(DensityMapper):
    """Standard normal latents, whatever the caption; no network."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def log_prob(self, z: Tensor, c: object) -> Tensor:
        return -(z.flatten(1).square().sum(1) + z[0].numel() * math.log(2 * math.pi)) / 2

    def sample(self, c: object, *, noise: Tensor, temperature: float = 1.0) -> Tensor:
        return noise


def test_bits_of_whitened_latents_are_those_of_the_codecs_own(shop: Workshop) -> None:
    """N(0, I) of whitened latents is the fitted Gaussian of the others: the same bits, by another way."""
    train = shop.material.train.latents.mean.flatten(1).double()
    fitted = torch.distributions.MultivariateNormal(train.mean(0), torch.cov(train.T, correction=0))
    z, _ = held_out_latents(shop, "test")
    flat = z.flatten(1).double()
    found = density_of(whitened(shop), Normal(), {"held-out": "test"})
    assert found is not None and found.error == 0
    expected = -float(fitted.log_prob(flat).mean()) / flat.shape[1] / math.log(2)
    assert found.bits["held-out"] == pytest.approx(expected, rel=1e-3)


def test_a_family_without_density_has_none(shop: Workshop) -> None:
    class Blind(Mapper):
        def __init__(self) -> None:
            torch.nn.Module.__init__(self)

        def loss(self, z: Tensor, c: object, *, noise: Tensor) -> Tensor:
            raise AssertionError

        def sample(self, c: object, *, noise: Tensor, temperature: float = 1.0) -> Tensor:
            raise AssertionError

    assert density_of(shop, Blind(), {"held-out": "test"}) is None


def test_command_prints_one_table_and_does_nothing_twice(
    opened: Callable[..., Workshop],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(families, "ALL", TINY)
    monkeypatch.setattr(families, "open_workshop", opened)
    monkeypatch.setattr(families, "DENSITY_PICTURES", 4)
    monkeypatch.setattr(families, "STEPS", 2)
    monkeypatch.setattr(families, "SPEED_IMAGES", 2)
    monkeypatch.setattr(families, "SPEED_REPEATS", 1)
    out = tmp_path / "out"
    argv = ["families", "model", "--minutes", "0.04", "--samples", "2", "--captions", "6", "--out", str(out)]
    assert command.main(argv) == 0
    printed = capsys.readouterr().out
    found = json.loads((out / "families.json").read_text("utf-8"))["families"]
    assert [one["name"] for one in found] == [peer.name for peer in TINY]
    assert all(name in printed for name in ("matching", "gaussian, whitened", "bits/dim"))
    assert [one["density"]["error"] > 0 for one in found] == [True, True, False, False]
    assert all(one["parameters"] > 0 and one["images_per_second"] > 0 for one in found)
    monkeypatch.setattr(Loop, "train_step", lambda self: pytest.fail("trained again"))
    assert command.main(argv) == 0


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["families", "model", "--seeds", "0", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--seeds" in error


def test_guidance_is_refused_where_there_is_none(shop: Workshop) -> None:
    peer = TINY[2]
    assert isinstance(peer, TrainedPeer)
    net = peer.build(peer.trials[0], shop.codec, shop.encoder.dim)
    with pytest.raises(ValueError, match="guidance"):
        net.sample(shop.asked(["a"]), torch.zeros(1, *net.noise_shape), Sampling(guidance=2.0))
