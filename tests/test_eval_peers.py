"""Rivals under one budget: every network learns a toy and draws by key; runs stop, resume and are remembered."""

import argparse
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bridge import BridgePipeline
from bridge.codecs import ImageCodec, LatentDistribution
from bridge.memory import CaptionMemory
from bridge.noise import generator_for
from bridge.text import TextCode, TextEncoder
from eval.bench import HEADLINES as HEADLINE_OF
from eval.data import Pictures
from eval.judge import Judge
from eval.studies import parser_of
from eval.studies.compare import __main__ as command
from eval.studies.compare import peers, study
from eval.studies.compare.material import MICRO_BATCH, NONE, Asked, Material, Shelf, keyed, load
from eval.studies.compare.nets import (
    BRIDGE_FLOW,
    DIRECT,
    DIRECT_PLATEAU,
    INVERTIBLE,
    LATENT,
    LOCAL_FLOW,
    LOCAL_PIXELS,
    PRIOR,
    RETRIEVAL,
    RIDGE,
    TOKENS,
    Batch,
    LocalPeer,
    LocalSampling,
    MapperNet,
    Peer,
    PeerNet,
    Sampling,
    TrainedPeer,
    Trial,
)
from eval.studies.compare.peers import Line, to_text
from eval.studies.compare.study import Benches, Outcome, Results, Spread, Workshop, minutes_left, train
from tests import test_eval_report
from train.data.cache import Codes
from train.loop import Budget, Loop, LoopConfig, ResumeError, TrainingError, learning_rate_at

DIM = 16
SMALL: dict[str, tuple[TrainedPeer, Trial]] = {
    "bridge_flow": (BRIDGE_FLOW, {"width": 32, "hidden": 32, "blocks": 1, "condition": 16}),
    "direct": (DIRECT, {"grid": 4, "widths": (8, 16)}),
    "latent": (LATENT, {"widths": (8,)}),
    "invertible": (INVERTIBLE, {"blocks": 4, "hidden": 32, "condition": 16}),
    "invertible, spline": (INVERTIBLE, {"blocks": 2, "hidden": 32, "condition": 16, "bins": 4}),
    "prior, one token": (PRIOR, {"patch": 4, "layers": 1, "heads": 1}),
    "prior, patches": (PRIOR, {"patch": 2, "layers": 1, "heads": 1}),
}
LOOP = {"learning_rate": 5e-3, "batch_size": 16}


class Coarse(ImageCodec):
    """Latents are 4 x 4 means of the pixels, on a scale of their own."""

    z_shape, image_size, fingerprint = (3, 4, 4), 16, "coarse"

    def encode(self, x):
        z = (nn.functional.avg_pool2d(x, 4) - 0.5) / 0.2
        return LatentDistribution(z, torch.full_like(z, 0.05))

    def decode(self, z):
        return (z * 0.2 + 0.5).clamp(0, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)

    def to(self, device):
        return self

    def save(self, folder):
        raise AssertionError("a comparison saves no codec")


SPACE = (Coarse(), DIM)


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny networks lose more to threads than they gain; and the count is put back for other files."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def few_solver_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of untrained networks need no care."""
    monkeypatch.setattr("eval.studies.compare.nets.DDIM_STEPS", 2)


class InMemory(Codes):
    """Made-up codes of three tokens each."""

    def __init__(self, pooled: Tensor, tokens: Tensor) -> None:
        self.code = TextCode(pooled, tokens, torch.ones(tokens.shape[:2], dtype=torch.bool))

    def pooled(self, index: Tensor) -> Tensor:
        return self.code.pooled[index]

    def rows(self, index: Tensor, places: int | None = None) -> TextCode:
        return self.code[index].padded(places) if places else self.code[index].without_tokens()


def toy(pairs: int = 8, pictures: int = 12) -> Material:
    """Pictures of one colour each; caption i is picture i, and the last pictures have none."""
    g = generator_for(5)
    x = torch.rand(pictures, 3, 1, 1, generator=g).expand(-1, -1, 16, 16)
    tokens = torch.randn(pictures * 3, DIM, generator=g)
    pooled = nn.functional.normalize(torch.randn(pictures, DIM, generator=g), dim=1)
    captions = InMemory(pooled, tokens.half().float().view(pictures, 3, DIM))
    shelf = Shelf((x * 255).round().byte(), Coarse().encode(x), torch.arange(pictures)[:, None])
    rows = torch.arange(pictures)
    texts = [f"caption {i}" for i in rows]
    return Material(shelf, shelf, captions, texts, rows[:pairs], rows[pairs:], torch.ones(pairs).double())


def built(name: str) -> tuple[TrainedPeer, PeerNet]:
    peer, trial = SMALL[name]
    torch.manual_seed(0)
    return peer, peer.build(LOOP | trial, *SPACE)


class Ticks:
    """A clock by which every step takes a second."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> float:
        self.calls += 1
        return float(self.calls)


def loop_of(
    peer: TrainedPeer,
    net: PeerNet,
    folder: Path,
    seconds: float,
    growth: float = 1.0,
    least: float = 0.0,
    score: Callable[[], float] | None = None,
) -> Loop:
    material = toy()
    return study.loop_of(
        net,
        lambda step: material.draw(16, peer.uses_vae, peer.tokens, 0, step),
        material.watched(16, peer.uses_vae, peer.tokens),
        {"learning_rate": 5e-3, "batch_size": 16, "warmup": 5},
        Budget(seconds, growth, least, Ticks()),
        folder,
        0,
        {"peer": peer.name},
        score=score,
    )


def ask(captions, material: Material) -> TextCode:
    return material.codes(torch.tensor([int(c.split()[1]) for c in captions]))


@pytest.mark.parametrize("name", SMALL)
def test_loss_falls_on_a_toy(name: str, tmp_path: Path) -> None:
    peer, net = built(name)
    loop = loop_of(peer, net, tmp_path, 25)
    before = loop.evaluate()["validation_loss"]
    assert train(loop, net).validation < before - 0.03


@pytest.mark.parametrize("name", SMALL)
def test_loss_is_one_number_an_example(name: str) -> None:
    peer, net = built(name)
    batch = toy().draw(5, peer.uses_vae, peer.tokens, 0, 0)
    assert net.loss(batch).shape == (5,)


@pytest.mark.parametrize("name", SMALL)
def test_a_picture_depends_on_its_key_alone(name: str) -> None:
    _, net = built(name)
    material = toy()
    for p in net.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.1)  # else an untrained network ignores its caption
    net.eval()
    draw = keyed(net, lambda c: ask(c, material), material, Sampling(guidance=2.0), 3)
    alone, together = draw(["caption 2"], 2), draw([f"caption {i}" for i in range(12)], 3)
    assert together.shape == (12, 3, 3, 16, 16) and MICRO_BATCH < 12 * 3
    assert together.min() >= 0 and together.max() <= 1
    torch.testing.assert_close(alone[0], together[2, :2], atol=1e-4, rtol=0)
    assert not torch.equal(together[2, 0], together[2, 1])


@pytest.mark.parametrize("name", SMALL)
def test_another_caption_gives_another_picture(name: str) -> None:
    peer, net = built(name)
    for p in net.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.1)
    net.eval()
    material, noise = toy(), torch.randn(1, *net.noise_shape, generator=generator_for(1))
    x = [net.sample(material.codes(torch.tensor([i])), noise, Sampling()) for i in (0, 1)]
    assert not torch.equal(*x), peer.name


@pytest.mark.parametrize("peer", [LOCAL_FLOW, LOCAL_PIXELS])
def test_a_local_flow_draws_the_picture_of_a_known_caption_without_training(peer: LocalPeer) -> None:
    material = toy()
    net = peer.remember(*material.pairs(peer.uses_vae), SPACE[0])
    noise = torch.randn(4, *net.noise_shape, generator=generator_for(0))
    drawn = net.sample(ask(["caption 3"] * 4, material), noise, LocalSampling(perplexity=1.0))
    expected = material.train.pixels[3].float() / 255
    assert drawn.shape == (4, 3, 16, 16)
    assert (drawn - expected).abs().max() < 0.05


def test_a_local_flow_knows_pairs_alone() -> None:
    material = toy(pairs=5)
    data, codes, captions = material.pairs(True)
    assert (len(data), len(codes), captions) == (5, 5, [[0], [1], [2], [3], [4]])
    torch.testing.assert_close(codes, material.captions.pooled(torch.arange(5)))


def test_windows_cover_the_same_share_of_any_grid() -> None:
    nets = [peer.remember(*toy().pairs(peer.uses_vae), SPACE[0]) for peer in (LOCAL_FLOW, LOCAL_PIXELS)]
    windows = [net.varied(LocalSampling(window=(2.0, 1.0))).window for net in nets if isinstance(net, MapperNet)]
    assert windows == [(1.0, 0.5), (4.0, 2.0)]  # grids of 4 x 4 and 16 x 16


def test_flow_inverts_what_it_samples() -> None:
    _, net = built("invertible, spline")
    c = toy().codes(torch.arange(4))
    transform = net.flow(net.embed(c)).transform  # type: ignore[operator, union-attr]
    eps = torch.randn(4, *net.noise_shape, generator=generator_for(0))
    torch.testing.assert_close(transform(transform.inv(eps)), eps, atol=1e-4, rtol=0)


def test_budget_is_respected_and_counted_in_seconds_of_steps(tmp_path: Path) -> None:
    peer, net = built("bridge_flow")
    outcome = train(loop_of(peer, net, tmp_path, 12), net)
    assert (outcome.steps, outcome.seconds, outcome.best_seconds) == (12, 12.0, 12.0)


class KilledError(Exception):
    """Stands for a kill."""


def test_killed_run_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "SAVE_MINUTES", 0.0)

    def loop(folder: str) -> tuple[Loop, PeerNet]:
        peer, _ = SMALL["bridge_flow"]
        torch.manual_seed(0)
        net = peer.build(LOOP | SMALL["bridge_flow"][1] | {"dropout": 0.2}, *SPACE)
        return loop_of(peer, net, tmp_path / folder, 10), net

    outcome = train(*loop("whole"))
    killed, _ = loop("killed")
    batch = killed.batch

    def until(rows: Tensor, epoch: int) -> tuple[Tensor, ...]:
        if epoch == 6:
            raise KilledError
        return batch(rows, epoch)

    killed.batch = until
    with pytest.raises(KilledError):
        killed.run()
    (resumed, net), (_, whole) = loop("killed"), loop("whole")
    assert train(resumed, net) == outcome == Outcome(10, 10.0, 10.0, outcome.validation)
    train(loop_of(SMALL["bridge_flow"][0], whole, tmp_path / "whole", 10), whole)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), net.parameters(), strict=True))


def test_finished_run_is_loaded_and_not_trained_again(tmp_path: Path) -> None:
    (peer, net), (_, other) = built("latent"), built("latent")
    outcome = train(loop_of(peer, net, tmp_path, 3), net)
    again = loop_of(peer, other, tmp_path, 3)
    again.batch = lambda rows, epoch: pytest.fail("trained again")
    assert train(again, other) == outcome
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    peer, net = built("bridge_flow")
    loop_of(peer, net, tmp_path, 1).run()
    other = loop_of(peer, net, tmp_path, 1)
    other.identity |= {"peer": "another"}
    with pytest.raises(ResumeError, match="peer was 'bridge_flow', is 'another'; name another `out`"):
        other.run()


def test_plateau_stops_when_validation_no_longer_improves_and_keeps_the_best(tmp_path: Path) -> None:
    peer, net = built("bridge_flow")
    loop = loop_of(peer, net, tmp_path, 200, study.GROWTH, 5, lambda: 0.0)
    seen: list[tuple[float, Tensor]] = []

    def validate(_: int) -> dict[str, float]:
        seen.append((loop.used, next(net.parameters()).detach().clone()))
        return {"score": -abs(loop.used - 20), "validation_loss": 1 / loop.used, "seconds": loop.used}

    loop.validate = validate
    outcome = train(loop, net)
    best = min(seen, key=lambda entry: abs(entry[0] - 20))
    assert 18 <= outcome.best_seconds == best[0] <= 22
    assert outcome.best_seconds * 1.5 <= outcome.seconds <= outcome.best_seconds * 1.5 * 1.2 + 1
    assert torch.equal(next(net.parameters()), best[1])


def test_plateau_is_not_looked_for_before_its_floor(tmp_path: Path) -> None:
    peer, net = built("bridge_flow")
    loop = loop_of(peer, net, tmp_path, 60, study.GROWTH, 30, lambda: -loop.used)
    assert 30 <= train(loop, net).seconds <= 34
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["score"] for line in lines] == [-line["seconds"] for line in lines]


class Bad(PeerNet):
    noise_shape = (1,)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def loss(self, batch: Batch) -> Tensor:
        return self.weight * torch.full((len(batch.data),), math.nan)

    def sample(self, c: TextCode, noise: Tensor, sampling: Sampling) -> Tensor:
        raise NotImplementedError


def test_loss_that_is_no_number_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="step 1: the loss is nan; lower learning_rate"):
        loop_of(BRIDGE_FLOW, Bad(), tmp_path, 3).run()


@pytest.mark.parametrize(
    ("schedule", "share", "rate"),
    [("trapezoid", 0.8, 0.5), ("trapezoid", 1.2, 0), ("cosine", 0.75, 0.5 - math.sqrt(0.125)), ("constant", 0.9, 1)],
)
def test_rate_follows_the_share_of_the_budget(schedule: str, share: float, rate: float) -> None:
    config = LoopConfig(steps=10**9, learning_rate=2.0, cooldown=0.4, schedule=schedule)
    assert learning_rate_at(1000, config, share) == pytest.approx(2 * rate)


def test_the_vae_is_paid_for_in_full() -> None:
    assert minutes_left(15, 60) == 45
    with pytest.raises(ValueError, match=r"vae_minutes: 15 leave nothing of 6 minutes.*give more minutes"):
        minutes_left(15, 6)


def test_batches_depend_on_their_key_alone() -> None:
    a, b, other = (toy().draw(16, True, True, 0, step) for step in (7, 7, 8))
    assert torch.equal(a.data, b.data) and torch.equal(a.c.tokens, b.c.tokens)
    assert not torch.equal(a.data, other.data)


def test_captions_are_shown_of_pairs_alone_and_match_their_pictures() -> None:
    material = toy(pairs=4)
    batch = material.draw(2000, False, True, 0, 0)
    colour = (batch.data[:, :, 0, 0] * 255).round()
    row = (colour[:, None] == material.train.pixels[None, :, :, 0, 0]).all(2).int().argmax(1)
    shown = batch.c.pooled.any(1)
    assert set(row[shown].tolist()) == {0, 1, 2, 3} and set(row.tolist()) == set(range(12))
    torch.testing.assert_close(batch.c.pooled[shown], material.captions.pooled(row[shown]))
    assert shown.float().mean() == pytest.approx(0.75 * 0.9, abs=0.04)


def test_null_codes_have_neither_pooled_code_nor_tokens() -> None:
    c = toy().codes(torch.tensor([NONE, 1]))
    assert not c.pooled[0].any() and not c.tokens[0].any() and not c.mask[0].any()
    assert (c.mask.shape, int(c.mask[1].sum())) == ((2, TOKENS), 3)


def test_unfamiliar_captions_take_a_known_ones_whole_code() -> None:
    material = toy()
    far = material.codes(torch.tensor([11, 2, NONE]))
    got = material.soften(far, torch.zeros(3))
    near = int(material.memory.nearest(far.pooled[:1], 1)[1])
    assert torch.equal(got.tokens[0], material.codes(torch.tensor([near])).tokens[0])
    assert torch.equal(got.pooled[1:], far.pooled[1:]) and isinstance(material.memory, CaptionMemory)


def test_material_keeps_variants_and_hides_more_pictures_captions(tiny_pipeline: BridgePipeline, artwork: Path) -> None:
    pictures = Pictures.load(artwork)
    material = load(artwork, pictures, tiny_pipeline.codec, tiny_pipeline.text_encoder, artwork)
    train = pictures.where("train")
    assert (len(material.paired), len(material.unpaired)) == (len(train), len(train))
    row = int(train[0])
    said = [material.texts[int(i)] for i in material.train.variants[0] if i != NONE]
    assert said[0] == pictures.label[row] and len(said) > 4
    assert (material.train.variants[len(train) :] == NONE).all()
    code = tiny_pipeline.text_encoder.encode([said[1]])
    got = material.codes(material.train.variants[0, 1:2])
    torch.testing.assert_close(got.pooled, code.pooled, atol=1e-5, rtol=0)
    torch.testing.assert_close(got.tokens[got.mask], code.tokens[code.mask][:TOKENS], atol=2e-3, rtol=0)


def test_results_outlive_a_line_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    Results(path).add({"a": 1}, {"score": 2})
    with path.open("a") as file:
        file.write('\n{"key": {"b"')
    Results(path).add({"c": 1}, [3])
    found = Results(path)
    assert (found.get({"a": 1}), found.get({"b": 1}), found.get({"c": 1})) == ({"score": 2}, None, [3])


def test_table_sorts_by_score_and_says_who_is_absent() -> None:
    def line(name: str, score: float) -> Line:
        row = {h: Spread.of([score, score + 0.1]) for h in ("fit", "diversity", "joint", "score", "copied")}
        return Line(name, name == "a", [1.0, 2.0], [10, 20], {}, Sampling(), Spread.of([0.0]), {"seen": row})

    lines = [line("a", 0.1), line("b", 0.3), Line("c", True, failed="every trial or seed diverged")]
    text = to_text(lines, {"seen": {"real": 1.0}})
    assert text.index("\nb ") < text.index("\na ") and "0.35 ± 0.07" in text and "1.50  VAE" in text
    assert text.endswith("c: absent, every trial or seed diverged")


TINY = replace(  # Ours, small enough for a test
    BRIDGE_FLOW,
    trials=tuple(
        {"learning_rate": rate, "batch_size": 8, "width": 16, "hidden": 16, "blocks": 1, "condition": 16}
        for rate in (1e-3, 1e-2)
    ),
)
TINY_DIRECT = replace(DIRECT, trials=({"learning_rate": 1e-3, "batch_size": 4, "grid": 8, "widths": (8,)},))
TINY_PLATEAU = replace(DIRECT_PLATEAU, trials=TINY_DIRECT.trials, follows=TINY_DIRECT)


@pytest.fixture
def tiny_peers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Peer]:
    """Small networks, a step a second, a plateau at twice the budget at the latest."""
    tiny = {p.name: p for p in (LOCAL_FLOW, TINY, TINY_DIRECT, TINY_PLATEAU, RETRIEVAL, RIDGE)}
    monkeypatch.setattr(peers, "ALL", tuple(tiny.values()))
    return tiny


@pytest.fixture(scope="session")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report's tests' drawings of known captions, with two captions each."""
    folder = tmp_path_factory.mktemp("drawings") / "tiny"
    captions = [row | {"captions": [row["label"], f"a {row['label']}"]} for row in test_eval_report.rows()]
    datasets.Dataset.from_list(captions).cast_column("image", datasets.Image()).save_to_disk(str(folder))
    return folder


@pytest.fixture(scope="session")
def drawings_judge(drawings: Path) -> Judge:
    """A quick judge of the drawings, which no comparison changes."""
    return Judge.load(drawings, test_eval_report.Pooled())


@pytest.fixture
def opened(
    drawings: Path, drawings_judge: Judge, encoder: TextEncoder, few_draws: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Workshop]:
    """What stands for `open_workshop`: the drawings, a quick judge, one step a second, two steps a picture."""
    codec, judge = test_eval_report.Coarse(), drawings_judge
    monkeypatch.setattr(study, "PLATEAU_TIMES", 2.0)
    monkeypatch.setattr("eval.studies.compare.material.WATCHED", 8)
    monkeypatch.setattr("eval.studies.compare.nets.DDIM_STEPS", 2)
    monkeypatch.setattr("eval.studies.compare.nets.FLOW_STEPS", 2)
    monkeypatch.setattr("eval.studies.compare.material.MICRO_BATCH", 12)

    def shop(args: argparse.Namespace, **_: object) -> Workshop:
        Path(args.out).mkdir(exist_ok=True)
        return Workshop(
            Benches(judge, args.samples, args.captions),
            Asked(encoder),
            codec,
            encoder,
            load(drawings, judge.pictures, codec, encoder, None),
            Results(Path(args.out) / "results.jsonl"),
            Path(args.out) / "runs",
            args.minutes,
            args.vae_minutes,
            {},
            clock=Ticks(),
        )

    return shop


def test_command_prints_one_table_and_does_nothing_twice(
    opened: Callable[..., Workshop],
    tiny_peers: dict[str, Peer],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "open_workshop", opened)
    out = tmp_path / "out"
    argv = ["peers", "model", "--minutes", "0.05", "--vae-minutes", "0.02", "--captions", "4"]
    argv += ["--trials", "2", "--seeds", "2", "--samples", "2", "--out", str(out)]
    assert command.main(argv) == 0
    printed = capsys.readouterr().out
    report = json.loads((out / "peers.json").read_text())
    lines = {line["peer"]: line for line in report["lines"]}
    assert set(lines) == set(tiny_peers) and all(name in printed for name in tiny_peers)
    assert lines["bridge_flow"]["steps"] == [2, 2] and lines["direct"]["steps"] == [3, 3]
    assert 3 <= lines["direct_plateau"]["steps"][0] <= 6 and len(lines["direct_plateau"]["steps"]) == 1
    assert lines["local_flow"]["steps"] == [0, 0]
    assert lines["ridge"]["steps"] == [] and len(lines["ridge"]["rows"]["held-out"]["score"]["values"]) == 2
    before = (out / "results.jsonl").read_bytes()
    monkeypatch.setattr(Loop, "train_step", lambda self: pytest.fail("trained again"))
    assert command.main(argv) == 0
    assert capsys.readouterr().out == printed and (out / "results.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--minutes", "0"], "minutes"),
        (["--vae-minutes", "70"], "give more minutes"),
        (["--seeds", "0"], "--seeds"),
        (["--trials", "0"], "--trials"),
        (["--samples", "1"], "--samples"),
        ([], "no folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    argv: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = command.main(["peers", str(tmp_path / "none"), "--out", str(tmp_path / "out"), "--vae-minutes", "1", *argv])
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (2, 1) and named in error


def test_rows_without_a_score_are_named_before_anything_is_trained(
    drawings_judge: Judge, few_draws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HEADLINE_OF, "score", lambda means: np.full(means.shape[:-1], np.nan))
    with pytest.raises(ValueError, match="data: seen captions of validation have no score: real pictures of too few"):
        Benches(drawings_judge, 2, 4)


def test_a_study_knows_its_further_pictures_by_content(artwork_folder, tmp_path, monkeypatch):
    """Changed pictures under the same path are not taken for those of earlier findings."""
    encoder, codec = SimpleNamespace(fingerprint="text"), SimpleNamespace(fingerprint="codec")
    pipe = SimpleNamespace(codec=codec, text_encoder=encoder)
    monkeypatch.setattr(study.BridgePipeline, "from_pretrained", lambda _: pipe)
    monkeypatch.setattr(study, "EfficientNetLite0", lambda: None)
    monkeypatch.setattr(study, "why_single", lambda *_: None)
    monkeypatch.setattr(study.Judge, "load", lambda *_: None)
    monkeypatch.setattr(study, "Benches", lambda *_: SimpleNamespace(of=lambda _: None))
    monkeypatch.setattr(study, "load", lambda *_: SimpleNamespace(fingerprint="captions"))
    monkeypatch.setattr(study, "Asked", lambda _: None)
    more = tmp_path / "more"
    argv = ["model", "--data", str(artwork_folder), "--pictures", str(more), "--out", str(tmp_path / "out")]
    parser = parser_of("x", "peers", peers.STUDY)
    identities = []
    for rows in (range(8), range(8), range(1, 9)):
        shutil.rmtree(more, ignore_errors=True)
        datasets.load_from_disk(str(artwork_folder)).select(rows).save_to_disk(str(more))
        args = parser.parse_args([*argv, "--vae-minutes", "1"])
        identities.append(study.open_workshop(args).identity["pictures"])
    assert identities[0] == identities[1] != identities[2] and str(more) not in identities
