"""How captions are found from pictures and back, and from which cosine on a caption is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bridge.mappers import GaussianMapper, VelocityMapper
from bridge.noise import normal_rows
from bridge.pipeline import BridgePipeline, Settings
from bridge.score import guesses, score_latents
from bridge.text import TextCode
from eval.metrics.bootstrap import Interval
from eval.studies.checks import __main__ as checks
from eval.studies.checks import familiarity
from eval.studies.checks import retrieval as scoring

FAMILIES = np.arange(6)

pytestmark = pytest.mark.usefixtures("few_draws", "one_encoder")


@pytest.fixture
def model(model_folder: Path) -> str:
    return str(model_folder)


def test_perfect_and_worst_scores() -> None:
    right = np.arange(6)
    assert scoring.ranks(np.eye(6), right).tolist() == [1] * 6
    assert scoring.ranks(-np.eye(6), right).tolist() == [6] * 6


def test_scores_that_say_nothing_rank_in_the_middle() -> None:
    assert scoring.ranks(np.zeros((6, 6)), np.arange(6)).tolist() == [3.5] * 6


def test_random_scores_find_the_tenth_by_chance() -> None:
    rng = np.random.default_rng(0)
    found = scoring.ranks(rng.standard_normal((4000, 100)), rng.integers(0, 100, 4000))
    assert (found <= 10).mean() == pytest.approx(0.1, abs=0.02)


def test_one_family_of_many_does_not_own_the_figures() -> None:
    rank = np.array([1.0] * 50 + [99.0])
    found = scoring.retrieval(rank, np.array([0] * 50 + [1]))
    assert (found.first.value, found.median) == (0.5, 1)


def test_comparison_is_paired() -> None:
    rank = np.array([1.0, 50, 1, 50, 1, 50])
    assert scoring.compare("", rank, rank, FAMILIES).endswith(f"model less ridge: {Interval(0, 0, 0)}")
    ahead = scoring.compare("", np.ones(6), np.full(6, 20.0), FAMILIES)
    assert ahead.endswith(f"model less ridge: {Interval(1, 1, 1)}")


def test_pictures_take_turns() -> None:
    score = np.array([[1.0, 0.0], [0.0, 0.5], [0.0, 2.0]])  # the second picture of caption 0 is a bad one
    found = scoring.picture_ranks(score, [np.array([0, 1]), np.array([2])], 2)
    assert found.tolist() == [1, 1, 1.5, 1]


class Expects(VelocityMapper):
    """Guesses the code, whatever it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.z_shape, self.text_dim, self.sample_noise_shape = (2, 1, 1), 2, (2, 1, 1)

    def velocity(self, z_t: Tensor, t: Tensor, c: TextCode) -> Tensor:
        return (c.pooled.view(-1, 2, 1, 1) - z_t) / (1 - t).view(-1, 1, 1, 1)

    def loss(self, z: Tensor, c: TextCode, *, noise: Tensor) -> Tensor:
        return z.flatten(1).sum(1)


@pytest.mark.parametrize("time", [0.0, 0.5])
def test_a_guess_that_does_not_look_scores_alike_from_any_noise(time: float) -> None:
    z, pooled = normal_rows([(i,) for i in range(3)], (2, 1, 1)), torch.eye(2)
    c = TextCode(pooled, torch.zeros(2, 0, 2), torch.zeros(2, 0, dtype=torch.bool))
    assert torch.allclose(guesses(Expects(), c).flatten(1), pooled, atol=1e-5)
    assert torch.allclose(scoring.from_less_noise(Expects(), z, c, time, 2), score_latents(Expects(), z, c), atol=1e-4)


def test_command_prints_both_directions(model: str, artwork_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [model, "--data", str(artwork_folder), "--rows", "held-out", "--samples", "2"]
    assert checks.main(["retrieval", *argv]) == 0
    printed = capsys.readouterr().out
    for words in ("caption from picture", "picture from caption", "model less ridge", "typical, right"):
        assert words in printed


def test_command_tries_times(model: str, artwork_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [model, "--data", str(artwork_folder), "--rows", "held-out", "--pictures", "1", "--times", "0", "0.5"]
    assert checks.main(["retrieval", *argv, "--probes", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("first")[0].strip() for line in lines[1:]] == ["t = 0", "t = 0.5"]


def test_times_are_refused_for_a_mapper_without_them(
    model: str, artwork_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = BridgePipeline.from_pretrained(model)
    pipe.mapper = GaussianMapper(pipe.mapper.z_shape, pipe.mapper.text_dim, width=8, hidden=8, blocks=1)
    pipe.settings = Settings()
    pipe.save_pretrained(tmp_path / "gaussian")
    argv = [str(tmp_path / "gaussian"), "--data", str(artwork_folder), "--times", "0.5"]
    assert checks.main(["retrieval", *argv]) == 2
    assert "--times: GaussianMapper goes through no less noise" in capsys.readouterr().err


def test_bad_data_is_one_line(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checks.main(["retrieval", model, "--data", str(tmp_path)]) == 2
    assert "python -m eval.studies.checks retrieval: data:" in capsys.readouterr().err


def test_bins_go_from_far_to_near_and_hold_so_many_families() -> None:
    cosine = np.linspace(0.9, 0.2, 14)
    hits = np.stack([(cosine > 0.5).astype(float), np.ones(14)], axis=1)
    families = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 9, 10, 11])
    far, middle, near = familiarity.bins(cosine, hits, families, 4)
    assert [(each.captions, each.families) for each in (far, middle, near)] == [(4, 4), (5, 4), (5, 5)]
    assert far.high < middle.low < middle.high < near.low
    assert far.fit.value < near.fit.value == pytest.approx(1)


def test_threshold_stops_at_the_first_bin_at_chance() -> None:
    chance, known = Interval(0.1, -0.1, 0.3), Interval(0.5, 0.3, 0.7)
    edges = [familiarity.Bin(low, low + 0.1, 9, 9, fit) for low, fit in ((0.2, known), (0.4, chance), (0.6, known))]
    assert familiarity.threshold(edges) == 0.6
    assert familiarity.threshold(edges[:2]) is None
    assert familiarity.threshold(edges[:1]) == 0.2


def test_familiarity_is_told_by_bins(model: str, artwork_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [model, "--data", str(artwork_folder), "-n", "2", "--families", "2"]
    assert checks.main(["familiarity", *argv]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "captions of" in lines[1]
    assert lines[-1].startswith("threshold: ")
