"""The report end to end, on small pictures of known captions by known artists; no network is loaded."""

import dataclasses
import io
import json
import os
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from bridge.codecs import ImageCodec, LatentDistribution
from bridge.noise import generator_for, spread_number
from bridge.pipeline import Settings
from eval import judge as judge_module
from eval import report as report_module
from eval.__main__ import build_parser, main, models_of
from eval.bench import ArtistBench, bench_of
from eval.data import Pictures, first_by_hash, references
from eval.features import Extractor, Features, RawPixels
from eval.judge import Judge
from eval.metrics.bootstrap import paired_bootstrap
from eval.report import evaluate, to_json, to_text, trade_off
from eval.samples import first_captions, generate_with
from tests.pictures import seen
from train.command import spelled

ARTISTS = 6
COUNTS = {"train": 60, "validation": 16, "test": 16}


def pattern(caption: str) -> np.ndarray:
    """What a caption shows: large shapes (3, 4, 4), from its name alone."""
    rng = np.random.default_rng(list(caption.encode()))
    return rng.uniform(0.3, 0.7, (3, 4, 4))


def drawing(caption: str, artist: int, rng: np.random.Generator) -> np.ndarray:
    """A picture (3, 16, 16) of a caption in an artist's colours, never twice the same."""
    style = np.random.default_rng(artist).uniform(-0.15, 0.15, (3, 1, 1))
    shape = pattern(caption) + 0.05 * rng.standard_normal((3, 4, 4)) + style
    return np.clip(np.kron(shape, np.ones((4, 4))) + 0.01 * rng.standard_normal((3, 16, 16)), 0, 1)


def png(x: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((x.transpose(1, 2, 0) * 255).round().astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def rows() -> list[dict]:
    rng, made = np.random.default_rng(0), []
    for split, count in COUNTS.items():
        for number in range(count):
            caption = f"{split} {number}"
            hidden = {0, 1, 2} if split == "train" and number < 12 else set()
            family = 100 * list(COUNTS).index(split) + number // 2
            for artist in range(ARTISTS):
                part = "seen_validation" if artist in hidden else split
                columns = {"label": caption, "artist": str(artist), "family": family, "split": part}
                made.append(columns | {"image": {"bytes": png(drawing(caption, artist, rng)), "path": None}})
    return made


class Pooled(Extractor):
    """Large shapes as late features, channel means and spreads as early ones."""

    id = "pooled"

    def encode_batch(self, x):
        late = torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)
        early = torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3))], dim=1)
        return Features(late.numpy(), early.numpy())


class Coarse(ImageCodec):
    """Latents are the pixels at half the side, on a scale of their own."""

    z_shape, image_size, fingerprint = (3, 8, 8), 16, "coarse"

    def encode(self, x):
        z = (torch.nn.functional.avg_pool2d(x, 2) - 0.5) / 0.2
        return LatentDistribution(z, torch.full_like(z, 0.01))

    def decode(self, z):
        return (z * 0.2 + 0.5).clamp(0, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)

    def to(self, device):
        return self

    def save(self, folder):
        raise AssertionError("the judge saves no codec")


class Blunt(Coarse):
    """Encodes too brightly, but not where it refines."""

    fingerprint = "blunt"

    def encode(self, x):
        latents = super().encode(x)
        return LatentDistribution(latents.mean + 0.5, latents.std)

    def refined(self, x, steps=1):
        return super().encode(x) if steps else self.encode(x)


def encode_text(captions):
    """Codes that tell little: a caption's brightness in a few places, and its name."""
    codes = np.stack([np.r_[pattern(c).ravel()[:6] - 0.5, pattern(c + "!").ravel()[:6] - 0.5] for c in captions])
    return codes / np.linalg.norm(codes, axis=1, keepdims=True)


def artists_model(captions, n):
    """A perfect model: fresh drawings in the styles of artists drawn without replacement."""
    rng = np.random.default_rng(1)
    x = [[drawing(c, a, rng) for a in rng.permutation(ARTISTS)[:n]] for c in captions]
    return torch.from_numpy(np.array(x)).float()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "tiny"
    source = datasets.Dataset.from_list(rows()).cast_column("image", datasets.Image())
    source.save_to_disk(str(path))
    return path


@pytest.fixture(scope="module")
def judge(folder) -> Judge:
    return Judge.load(folder, Pooled())


def run(judge, **kwargs):
    return evaluate({"artists": artists_model}, judge, codec=Coarse(), encode_text=encode_text, **kwargs)


@pytest.fixture(scope="module")
def report(judge):
    return run(judge)


def test_judges_seen_and_held_out_captions(report):
    assert {name: (row.split, row.captions) for name, row in report.rows.items()} == {
        "seen": ("seen_validation", 12),
        "held-out": ("validation", 16),
    }


def cosine_to_training(captions, judge):
    codes = encode_text(sorted(set(judge.pictures.label[judge.train])))
    return (encode_text(captions) @ codes.T).max(axis=1)


def test_captions_far_from_training_are_a_row_of_their_own(report, judge, monkeypatch):
    monkeypatch.setattr(report_module, "FAR", 0.8)
    found = run(judge)
    captions = references(judge.pictures, "validation").captions
    assert found.rows["far"].captions == (cosine_to_training(captions, judge) < 0.8).sum() >= 2
    assert found.rows["held-out"] == report.rows["held-out"]


def test_captions_far_from_training_are_absent_where_there_are_too_few(report):
    assert report.absent["far"] == "1 families of the captions judged are below cosine 0.55; an interval needs 2"


def test_without_text_codes_nothing_is_called_far(judge):
    assert "no text encoder" in evaluate({"artists": artists_model}, judge).absent["far"]


def test_some_captions_of_a_bench_have_the_figures_of_the_whole_bench(judge):
    bench = bench_of(judge, "validation", 4)
    everything = bench.samples(seen(judge, artists_model(bench.refs.captions, 4)))
    some = np.array([7, 2, 4])  # of three families
    np.testing.assert_array_equal(everything[some].per.hit, everything.per.hit[some])
    assert bench[some].figures(everything[some]).copied.value == everything.per.copied[some].mean()
    assert bench[some].refs.captions == tuple(bench.refs.captions[i] for i in some)


def test_a_second_extractor_repeats_every_row_on_the_same_pictures(report, judge, folder):
    calls = []

    def counted(captions, n):
        calls.append(captions)
        return artists_model(captions, n)

    second = Judge.load(folder, RawPixels())
    found = evaluate({"artists": counted}, judge, codec=Coarse(), encode_text=encode_text, second=second)
    repeated = found.repeated[second.extractor.id]
    assert (len(calls), found.rows) == (2, report.rows)
    assert {name: list(row.methods) for name, row in repeated.items()} == {
        name: list(row.methods) for name, row in report.rows.items()
    }
    assert repeated["held-out"].methods["artists"].energy != report.rows["held-out"].methods["artists"].energy


def test_a_second_report_says_the_same_without_encoding_the_dataset_again(report, folder, monkeypatch):
    """The judge keeps what a codec makes of training and validation pictures beside them."""
    run(Judge.load(folder, Pooled()))
    judge, encoded = Judge.load(folder, Pooled()), []
    encode = Coarse.encode
    monkeypatch.setattr(Coarse, "encode", lambda self, x: encoded.append(len(x)) or encode(self, x))
    assert to_json(run(judge)) == to_json(report)
    shown = [len(r) for split in ("seen_validation", "validation") for r in references(judge.pictures, split).rows]
    assert sum(encoded) == sum(shown)  # the rows' own pictures, for the codec's reconstructions of them


def test_pictures_are_made_and_judged_a_few_captions_at_a_time(judge, monkeypatch):
    """And the figures do not depend on how many: memory need not grow with the captions."""
    asked = []

    def keyed(captions, n):
        asked.append(len(captions))
        return torch.cat([artists_model([c], n) for c in captions])

    known = {"codec": Coarse(), "encode_text": encode_text}
    monkeypatch.setattr(judge_module, "BLOCK", 1000)
    whole = evaluate({"artists": keyed}, judge, **known)
    monkeypatch.setattr(judge_module, "BLOCK", 5)
    blocks = evaluate({"artists": keyed}, judge, **known)
    assert asked == [12, 16, 5, 5, 2, 5, 5, 5, 1]
    for row, found in whole.rows.items():
        for name, figures in found.methods.items():
            again = blocks.rows[row].methods[name]
            assert again.score.value == pytest.approx(figures.score.value, abs=1e-6), (row, name)
            assert again.kid == pytest.approx(figures.kid, abs=1e-6), (row, name)


def test_the_watcher_is_told_each_row(judge):
    told = {}
    run(judge, watch=lambda name, bench: told.update({name: len(bench.refs)}))
    assert told == {"seen": 12, "held-out": 16}


def test_the_artists_own_model_is_calibrated_and_one_mode_is_too_sure(judge):
    bench = bench_of(judge, "validation", 4)
    x = artists_model(bench.refs.captions, 4)
    own = bench.calibration(bench.samples(seen(judge, x)))
    nearly = bench.calibration(bench.samples(seen(judge, x[:, :1] + 0.001 * (x - x[:, :1]))))
    assert own.spread_skill.value == pytest.approx(1, abs=0.25)
    assert nearly.spread_skill.high < 0.2 and nearly.reliability > 3 * own.reliability


def test_only_models_are_asked_for_their_calibration(report):
    assert set(report.rows["held-out"].calibration) == {"artists"}


def test_copies_are_nearer_to_training_than_real_pictures(report):
    methods = report.rows["seen"].methods
    assert methods["real"].c_t == 0
    assert methods["nearest1"].c_t < -5 < methods["artists"].c_t
    assert methods["nearest1"].authenticity < methods["artists"].authenticity


def test_trade_off_has_a_point_for_every_setting_and_row(judge):
    def narrow(captions, n):
        x = artists_model(captions, n)
        return x[:, :1] + 0.1 * (x - x[:, :1])

    models = {(1.0, 1.0): artists_model, (2.0, 0.5): narrow}
    points = trade_off(models, judge, split="validation", n=4, captions=16, seed=0)
    assert {name: [(p.guidance_scale, p.temperature) for p in row] for name, row in points.items()} == {
        "seen": [(1.0, 1.0), (2.0, 0.5)],
        "held-out": [(1.0, 1.0), (2.0, 0.5)],
    }
    wide, thin = points["held-out"]
    assert wide.diversity > thin.diversity and wide.fit > 0.8


def test_a_setting_without_all_headlines_has_no_place_on_the_curve(judge, monkeypatch):
    headlines = ArtistBench.headlines
    monkeypatch.setattr(ArtistBench, "headlines", lambda *given: headlines(*given) | {"diversity": None})
    points = trade_off({(1.0, 1.0): artists_model}, judge, split="validation", n=4, captions=16, seed=0)
    assert points == {"seen": [], "held-out": []}


def test_every_baseline_stands_beside_the_model(report):
    assert set(report.rows["held-out"].methods) == {
        "real",
        "reconstruction",
        "artists",
        "model, shuffled captions",
        "model, one mode",
        "model, blur",
        "nearest1",
        "nearestk",
        "ridge mean",
        "ridge + Gaussian",
        "unconditional",
    }


def test_real_pictures_are_the_unit_of_every_headline(report):
    real = report.rows["held-out"].methods["real"]
    assert [real.fit.value, real.diversity.value, real.joint.value] == pytest.approx([1, 1, 1], abs=1e-6)


def test_the_artists_own_model_scores_like_real_pictures(report):
    model = report.rows["held-out"].methods["artists"]
    assert model.score.value > 0.75


def test_every_baseline_scores_less_on_held_out_captions(report):
    methods = report.rows["held-out"].methods
    others = [f.score.value for m, f in methods.items() if m not in ("artists", "real", "reconstruction")]
    assert max(others) < 0.6


def test_score_is_the_smallest_headline(report):
    for row in report.rows.values():
        for f in row.methods.values():
            assert f.score.value == min(f.fit.value, f.diversity.value, f.joint.value)


def test_paired_interval_says_the_model_is_better_than_blind(report):
    assert report.rows["held-out"].energy_less["unconditional"].high < 0


def test_retrieval_of_seen_captions_is_caught_copying(report):
    assert report.rows["seen"].methods["nearest1"].copied.value > 0.95
    assert report.rows["held-out"].methods["real"].copied.value < 0.1


def test_codec_figures_are_those_of_its_reconstructions(report, judge):
    x = judge.pictures.pixels(judge.pictures.where("validation"))
    error = ((Coarse().decode(Coarse().encode(x).mean) - x) ** 2).mean()
    assert report.codec.psnr_pooled == pytest.approx(float(-10 * torch.log10(error)), abs=1e-3)


def test_reconstructions_and_retrieval_are_refined_on_request(report, judge):
    models = {"artists": artists_model}
    blunt, refined = (evaluate(models, judge, codec=Blunt(), encode_text=encode_text, refine=n) for n in (0, 1))
    assert blunt.codec.psnr_pooled + 1 < refined.codec.psnr_pooled == report.codec.psnr_pooled
    methods = [each.rows["seen"].methods for each in (report, refined)]
    for name in ("reconstruction", "nearest1", "nearestk"):
        assert methods[0][name] == methods[1][name]


def test_same_seed_gives_the_same_bytes(report, judge):
    assert to_json(run(judge)) == to_json(report)


def test_a_report_can_be_written_whatever_bytes_its_command_holds(report):
    command = spelled("python -m eval", [os.fsdecode(b"caf\xe9")])
    held = {"command": command, "model": os.fsdecode(b"\xe9")}
    written = to_json(dataclasses.replace(report, about=held)).encode("utf-8")
    assert json.loads(written)["about"] == {"command": "python -m eval 'caf?'", "model": "?"}


def test_json_holds_every_figure(report):
    assert json.loads(to_json(report)) == json.loads(json.dumps(dataclasses.asdict(report)))


def test_table_names_every_method(report):
    text = to_text(report)
    assert all(method in text for method in report.rows["seen"].methods)


def test_fewer_captions_on_request(judge):
    short = run(judge, captions=6)
    assert {row.captions for row in short.rows.values()} == {6}


def test_only_the_captions_asked_for(judge):
    some = references(judge.pictures, "validation").captions[:6]
    found = run(judge, only=some)
    assert (list(found.rows), found.rows["held-out"].captions) == (["held-out"], 6)
    assert found.absent["seen"] == "only: 0 of these captions are in 'seen_validation'; it takes two of two families"


def test_a_report_without_a_single_row_is_refused_with_the_reasons(judge):
    with pytest.raises(ValueError, match=r"seen: only: 0 of .*; held-out: only: 0 of "):
        run(judge, only=["no such caption"])


def test_rivals_stay_when_captions_are_fewer(judge):
    assert len(bench_of(judge, "validation", 4, captions=6).rivals.families) == 16


def test_missing_split_is_absent_with_the_reason(judge):
    report = evaluate({"artists": artists_model}, judge, split="test")
    assert list(report.rows) == ["held-out"] and "'seen'" in report.absent["seen"]


def test_what_the_data_lacks_is_said(judge):
    lacking = dataclasses.replace(judge, pictures=dataclasses.replace(judge.pictures, lacks=("family",)))
    assert "a family of its own" in evaluate({"artists": artists_model}, lacking).absent["family"]


def test_real_pictures_of_other_artists_have_joint_one(judge):
    bench = bench_of(judge, "validation", 4)
    x = artists_model(bench.refs.captions, 4)
    assert not bench.figures(bench.samples(seen(judge, x))).joint.excludes(1.0)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"split": "train"}, "split"), ({"captions": 1}, "captions"), ({"n": 1}, "n must"), ({"codec": None}, "codec")],
)
def test_wrong_arguments_are_named(judge, wrong, named):
    with pytest.raises(ValueError, match=named):
        run_with = {"codec": Coarse(), "encode_text": encode_text} | wrong
        evaluate({"artists": artists_model}, judge, **run_with)


def test_model_with_the_wrong_shape_is_named(judge):
    with pytest.raises(ValueError, match="'flat' must give"):
        evaluate({"flat": lambda captions, n: torch.zeros(len(captions), 3, 16, 16)}, judge)


def test_missing_column_lists_those_found(tmp_path):
    datasets.Dataset.from_list([{"image": 1, "label": "cat"}]).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(ValueError, match="lacks split; it has image, label"):
        Pictures.load(tmp_path / "d")


def test_no_dataset_says_how_to_make_one(tmp_path):
    with pytest.raises(ValueError, match=r"train\.recipes emoji"):
        Pictures.load(tmp_path / "nothing")


def test_captions_by_one_artist_are_left_out_and_counted():
    label = np.array(["a", "a", "b", "b", "c", "c"])
    artist = np.array(["x", "y", "x", "x", "x", "y"])
    refs = references(Pictures([b""] * 6, label, artist, np.arange(6), np.array(["test"] * 6)), "test")
    assert (refs.captions, refs.left_out) == (("a", "c"), ("b",))


def test_first_captions_come_one_a_family(judge):
    refs = first_by_hash(references(judge.pictures, "validation"), 8)
    assert len(set(refs.families)) == 8


@pytest.mark.parametrize(("artists", "shown"), [("xyzxx", "abc"), ("xyzxy", "ac")])
def test_sheets_show_captions_by_two_artists_if_there_are_two_or_else_all(artists, shown):
    label, split = np.array(list("aaabc" if artists == "xyzxx" else "aabcc")), np.array(["train"] * 5)
    pictures = Pictures([b""] * 5, label, np.array(list(artists)), np.unique(label, return_inverse=True)[1], split)
    assert first_captions(pictures, "train", 3) == list(shown)


def test_fewer_captions_are_part_of_more(judge):
    refs = references(judge.pictures, "validation")
    assert set(first_by_hash(refs, 3).captions) < set(first_by_hash(refs, 7).captions)


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Stands for a Job."""

    index: int
    generator: torch.Generator
    choice: float


class Pipe:
    """Stands for a BridgePipeline: each picture is the noise of its generator, and its choice."""

    settings = Settings()

    def jobs(self, prompts, count, *, seed, settings):
        assert len(prompts) == 1
        return [Drawing(i, generator_for(seed, i), spread_number(seed, i)) for i in range(count)]

    def sample(self, jobs, settings):
        return torch.stack([torch.rand(3, 2, 2, generator=job.generator) + job.choice for job in jobs])

    def decode(self, z, output_type):
        assert output_type == "pt"
        return z

    def resolve(self, **settings):
        return settings


def test_noise_of_a_picture_depends_on_seed_caption_and_index_alone():
    alone, together = generate_with(Pipe(), 3)(["b"], 2), generate_with(Pipe(), 3)(["a", "b", "c"], 4)
    assert torch.equal(alone[0], together[1, :2])


def test_captions_do_not_share_their_noise():
    x = generate_with(Pipe(), 3)(["a", "b"], 2)
    assert not torch.equal(x[0], x[1])


def test_every_combination_of_settings_is_a_model():
    args = build_parser().parse_args(["m", "--guidance-scale", "1", "2", "--temperature", "0.5", "1", "--steps", "8"])
    assert list(models_of(Pipe(), args)) == [
        "guidance_scale=1, temperature=0.5",
        "guidance_scale=1, temperature=1",
        "guidance_scale=2, temperature=0.5",
        "guidance_scale=2, temperature=1",
    ]


def test_unknown_model_is_one_line_and_exit_code_2(tmp_path, capsys):
    code = main([str(tmp_path / "no-such-model"), "--out", str(tmp_path / "report")])
    assert code == 2 and capsys.readouterr().err.count("\n") == 1


def test_a_figure_over_real_pictures_that_nobody_recognises_is_absent():
    """Diversity is a share of the real pictures' styles; of none there is no share, and a report stays writable."""
    per = SimpleNamespace(hit=np.ones(4), styles=np.ones(4), energy=np.ones(4))
    real = SimpleNamespace(per=SimpleNamespace(hit=np.ones(4), styles=np.array([0.0, 0, 0, 1])))
    bench = SimpleNamespace(real=real, unconditional=np.full(4, 2.0))
    bench.interval = lambda values, *statistic: paired_bootstrap(values, np.arange(4), *statistic)
    absent: dict[str, str] = {}
    found = ArtistBench.headlines(bench, SimpleNamespace(per=per), absent)
    assert found["diversity"] is None and found["score"] is None
    assert np.isfinite([found["joint"].low, found["joint"].high]).all()
    assert absent == dict.fromkeys(("diversity", "score"), "real pictures of too few captions are recognised")
