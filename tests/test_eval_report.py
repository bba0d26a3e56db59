"""The report end to end, on small pictures of known captions by known artists; no network is loaded."""

import dataclasses
import io
import json
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from bridge.codec import ImageCodec, LatentDistribution
from bridge.pipeline import Settings
from eval.__main__ import build_parser, generate_with, main, models_of
from eval.data import Pictures, first_by_hash, references
from eval.features import Extractor, Features
from eval.headlines import Bench
from eval.judge import Judge
from eval.report import evaluate
from eval.table import to_json, to_text

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


def test_same_seed_gives_the_same_bytes(report, judge):
    assert to_json(run(judge)) == to_json(report)


def test_json_holds_every_figure(report):
    assert json.loads(to_json(report)) == json.loads(json.dumps(dataclasses.asdict(report)))


def test_table_names_every_method(report):
    text = to_text(report)
    assert all(method in text for method in report.rows["seen"].methods)


def test_fewer_captions_on_request(judge):
    short = run(judge, captions=6)
    assert {row.captions for row in short.rows.values()} == {6}


def test_rivals_stay_when_captions_are_fewer(judge):
    assert len(judge.target("validation", 4, captions=6).rivals.families) == 16


def test_missing_split_is_absent_with_the_reason(judge):
    report = evaluate({"artists": artists_model}, judge, split="test")
    assert list(report.rows) == ["held-out"] and "'seen'" in report.absent["seen"]


def test_real_pictures_of_other_artists_have_joint_one(judge):
    bench = Bench.of(judge, judge.target("validation", 4))
    x = artists_model(bench.target.refs.captions, 4)
    assert not bench.samples(x)[1].joint.excludes(1.0)


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
    with pytest.raises(ValueError, match=r"artist.*it has \['image', 'label'\]"):
        Pictures.load(tmp_path / "d")


def test_no_dataset_says_how_to_make_one(tmp_path):
    with pytest.raises(ValueError, match=r"train\.emoji"):
        Pictures.load(tmp_path / "nothing")


def test_captions_by_one_artist_are_left_out_and_counted():
    label = np.array(["a", "a", "b", "b", "c", "c"])
    artist = np.array(["x", "y", "x", "x", "x", "y"])
    refs = references(Pictures([b""] * 6, label, artist, np.arange(6), np.array(["test"] * 6)), "test")
    assert (refs.captions, refs.left_out) == (("a", "c"), ("b",))


def test_first_captions_come_one_a_family(judge):
    refs = first_by_hash(references(judge.pictures, "validation"), 8)
    assert len(set(refs.families)) == 8


def test_fewer_captions_are_part_of_more(judge):
    refs = references(judge.pictures, "validation")
    assert set(first_by_hash(refs, 3).captions) < set(first_by_hash(refs, 7).captions)


class Pipe:
    """Stands for a BridgePipeline: each picture is the noise of its generator."""

    settings = Settings()

    def __call__(self, prompts, n, *, generator, output_type, **settings):
        assert output_type == "pt" and len(generator) == len(prompts) * n
        return SimpleNamespace(images=torch.stack([torch.rand(3, 2, 2, generator=g) for g in generator]))

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
