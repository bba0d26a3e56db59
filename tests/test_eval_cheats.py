"""Planted cheats made of real pictures: nobody is compared with himself, and no cheat looks real."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bridge.text import TextEncoder
from eval.baselines import text_codes
from eval.bench import bench_of
from eval.data import Pictures
from eval.features import EfficientNetLite0
from eval.judge import Judge
from eval.studies.checks import __main__ as checks
from eval.studies.checks import cheats
from eval.studies.checks.cheats import OTHERS, PARTLY, REAL, CheatReport, Division
from tests import test_eval_report as drawings
from tests.test_eval_report import Coarse, Pooled, encode_text

DATA = Path(__file__).parent.parent / "data" / "emoji"
N = 4
MARGIN = 0.1
"""At least so much lies between the interval of real pictures' score and that of every cheat."""
FROM_TRAINING = {
    "nearest caption",
    "n nearest captions",
    "blends",
    "copies + 30% noise",
    "copies, mirrored",
    "copies, shifted",
    "unconditional",
    "noise",
}


@pytest.fixture(scope="module")
def judge(artwork_folder: Path) -> Judge:
    pictures = Pictures.load(artwork_folder)
    extractor = Pooled()
    return Judge.fit(extractor, pictures, extractor.encode(pictures.pixels(np.arange(len(pictures)))))


@pytest.fixture(scope="module")
def codes(encoder: TextEncoder):
    return text_codes(encoder)


@pytest.fixture(scope="module")
def division(judge: Judge) -> Division:
    return Division.of(judge, "validation", N)


@pytest.fixture(scope="module")
def made(division: Division, codes) -> dict[str, torch.Tensor]:
    return cheats.cheats_of(division, codes, N, np.random.default_rng(0))


@pytest.fixture(scope="module")
def drawn() -> Judge:
    """Drawings of more captions than the sample has, so that there are figures: two captions allow none."""
    table = drawings.rows()
    columns = [np.array([row[name] for row in table]) for name in ("label", "artist", "family", "split")]
    pictures, extractor = Pictures([row["image"]["bytes"] for row in table], *columns), Pooled()
    return Judge.fit(extractor, pictures, extractor.encode(pictures.pixels(np.arange(len(pictures)))))


@pytest.fixture(scope="module")
def report(drawn: Judge) -> CheatReport:
    return cheats.evaluate(drawn, encode_text)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# nobody is compared with himself


@pytest.mark.parametrize("givers", [1, N])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_artist_both_gives_and_is_a_reference(judge, givers, seed):
    division = Division.of(judge, "validation", givers, seed=seed)
    for rows, artists in zip(division.given, division.bench.refs.artists, strict=True):
        assert set(judge.pictures.artist[rows]).isdisjoint(artists)


@pytest.mark.parametrize("givers", [1, N])
def test_each_giver_gives_one_picture_of_the_caption_itself(judge, givers):
    division = Division.of(judge, "validation", givers)
    for rows, caption in zip(division.given, division.bench.refs.captions, strict=True):
        assert set(judge.pictures.label[rows]) == {caption}
        assert len(set(judge.pictures.artist[rows])) == givers


def test_every_caption_keeps_two_artists_for_references(division):
    assert all(len(set(a)) >= 2 for a in division.bench.refs.artists)


def test_references_and_rivals_are_those_of_a_dataset_without_the_givers(judge, division):
    """Found again by removing the givers' rows from the dataset, not by the division's own bookkeeping."""
    pictures = judge.pictures
    pairs = {(pictures.label[i], pictures.artist[i]) for i in division.given.ravel()}
    left = np.array([(c, a) not in pairs for c, a in zip(pictures.label, pictures.artist, strict=True)])
    parts = np.where(left | (pictures.split != "validation"), pictures.split, "elsewhere")
    without = dataclasses.replace(judge, pictures=dataclasses.replace(pictures, split=parts))
    bench = bench_of(without, "validation", N)
    assert [r.tolist() for r in bench.refs.rows] == [r.tolist() for r in division.bench.refs.rows]
    np.testing.assert_array_equal(bench.rivals.centroids, division.bench.rivals.centroids)


def test_the_right_pictures_are_those_given(judge, division, made):
    given = judge.pictures.pixels(division.given.ravel()).unflatten(0, division.given.shape)
    assert torch.equal(made[OTHERS], given)
    assert all(torch.equal(made["one right image"][:, i], given[:, 0]) for i in range(N))


def test_the_given_pictures_leave_the_judge_as_it_was(judge, division):
    after = division.bench.judge
    assert after.space is judge.space and after.copy_test is judge.copy_test and after.train is judge.train


def test_who_gives_a_caption_does_not_depend_on_the_other_captions(judge):
    rows = judge.pictures.where("validation")
    names = np.unique(judge.pictures.label[rows])
    assert len(names) == 2  # so that hiding none of them changes nothing, and a third changes no giver
    more = dataclasses.replace(
        judge.pictures, split=np.where(judge.pictures.split == "test", "validation", judge.pictures.split)
    )
    alone = Division.of(judge, "validation", 2)
    together = Division.of(dataclasses.replace(judge, pictures=more), "validation", 2)
    where = [together.bench.refs.captions.index(c) for c in alone.bench.refs.captions]
    np.testing.assert_array_equal(together.given[where], alone.given)


def test_captions_by_too_few_artists_are_left_out_and_counted(judge):
    parts = judge.pictures.split.copy()
    parts[(judge.pictures.label == "bell") | (judge.pictures.label == "koala")] = "validation"
    bell = (judge.pictures.label == "bell") & ~np.isin(judge.pictures.artist, ["noto", "fxemoji", "streamline"])
    parts[bell] = "elsewhere"
    some = dataclasses.replace(judge, pictures=dataclasses.replace(judge.pictures, split=parts))
    division = Division.of(some, "validation", 2)
    assert (division.left_out, division.families_left_out) == (1, 1)
    assert "bell" not in division.bench.refs.captions


def test_captions_left_out_stay_rivals(judge):
    division = Division.of(judge, "validation", 0)
    narrow = Division.of(judge, "validation", 0, captions=1).bench
    assert len(narrow.refs) == 1 and len(narrow.rivals.families) == len(division.bench.refs) == 2


# what cheats are


def test_cheats_of_n_givers(made):
    assert set(made) == FROM_TRAINING | {
        OTHERS,
        PARTLY,
        "two right images",
        "one right image",
        "one right image + noise",
        "blur",
        "shuffled captions",
    }


def test_every_cheat_is_n_pictures_a_caption_in_range(made, division):
    shape = (len(division.bench.refs), N, 3, 64, 64)
    for x in made.values():
        assert x.shape == shape and x.dtype == torch.float32 and x.min() >= 0 and x.max() <= 1


def test_without_givers_no_right_picture_is_used(judge, codes):
    division = Division.of(judge, "validation", 0)
    assert set(cheats.cheats_of(division, codes, N, rng())) == FROM_TRAINING


def test_one_giver_gives_one_right_image(judge, codes):
    division = Division.of(judge, "validation", 1)
    assert set(cheats.cheats_of(division, codes, N, rng())) == {"one right image", "one right image + noise"}


def test_two_of_two_right_images_are_no_cheat():
    x = torch.rand(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert "two right images" not in cheats.of_several(x, x, np.arange(2), rng())


def test_noise_is_noise(made):
    """Uniform, and no two neighbouring pixels, pictures or captions agree."""
    x = made["noise"].numpy()
    assert x.mean() == pytest.approx(0.5, abs=0.01) and x.var() == pytest.approx(1 / 12, abs=0.002)
    for a, b in [(x[..., 1:], x[..., :-1]), (x[:, 1:], x[:, :-1]), (x[1:], x[:-1])]:
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.02


def test_noise_on_a_right_image_has_its_deviation_and_differs_picture_by_picture():
    x = cheats.of_one(torch.full((2, 3, 32, 32), 0.5), N, rng())["one right image + noise"]
    assert float(x.std()) == pytest.approx(cheats.NOISE, rel=0.05)
    assert not torch.equal(x[:, 0], x[:, 1])


def test_noise_on_copies_is_thirty_percent(made):
    residual = made["copies + 30% noise"] - 0.7 * made["nearest caption"]
    assert residual.min() > -1e-6 and residual.max() < 0.3 + 1e-6
    assert float(residual.mean()) == pytest.approx(0.15, abs=0.01)


def test_mirrored_copies_are_copies_when_mirrored_back(made):
    assert torch.equal(made["copies, mirrored"].flip(-1), made["nearest caption"])


def test_shifted_copies_lie_three_pixels_of_64_down_and_right(made):
    x, moved = made["nearest caption"], made["copies, shifted"]
    assert torch.equal(moved[..., 3:, 3:], x[..., :-3, :-3])
    assert torch.equal(moved[..., 1, :], moved[..., 0, :]) and torch.equal(moved[..., 0, 3:], x[..., 0, :-3])


def test_blur_is_the_mean_of_the_right_pictures(made):
    torch.testing.assert_close(made["blur"], made[OTHERS].mean(1, keepdim=True).expand_as(made["blur"]))


def test_two_right_images_alternate(made):
    assert torch.equal(made["two right images"], made[OTHERS][:, [0, 1, 0, 1]])


def test_a_quarter_is_replaced(made):
    same = (made[PARTLY] == made[OTHERS]).flatten(2).all(-1)
    assert float((~same).float().mean()) == 0.25


def test_shuffled_captions_are_another_familys(made):
    """Lemon is answered by rockets and rocket by lemons."""
    assert torch.equal(made["shuffled captions"], made[OTHERS].flip(0))


def test_retrieved_pictures_are_training_pictures_of_near_captions(judge, made, division, codes):
    labels = np.unique(judge.pictures.label[judge.train])
    near = codes(division.bench.refs.captions) @ codes(labels.tolist()).T
    best = labels[near.argmax(axis=1)]
    for x, caption in zip(made["nearest caption"], best, strict=True):
        rows = judge.train[judge.pictures.label[judge.train] == caption]
        known = {p.numpy().tobytes() for p in judge.pictures.pixels(rows)}
        assert all(p.numpy().tobytes() in known for p in x)


def test_pictures_of_the_n_nearest_captions_show_n_captions(judge, made):
    for x in made["n nearest captions"]:
        _, rows = judge.copies(x)
        assert len(set(judge.pictures.label[rows])) == N


def test_half_of_a_blend_is_of_the_nearest_caption(made):
    other = 2 * made["blends"] - made["nearest caption"]
    assert other.min() > -1e-5 and other.max() < 1 + 1e-5
    assert not torch.allclose(other, made["nearest caption"], atol=0.1)


# the report


def test_same_seed_gives_the_same_bytes(drawn, report):
    assert cheats.to_json(cheats.evaluate(drawn, encode_text)) == cheats.to_json(report)


@pytest.mark.parametrize("givers", [0, 1, 2])
def test_no_planted_cheat_beats_the_artists(report, givers):
    real = report.sections[0].figures[OTHERS].score.value
    section = report.sections[givers]
    assert max(f.score.value for name, f in section.figures.items() if cheats.is_cheat(name)) < real - 0.2


def test_another_seed_gives_other_pictures(judge, codes, made):
    again = Division.of(judge, "validation", N, seed=1)
    assert not np.array_equal(again.given, Division.of(judge, "validation", N).given)
    assert not torch.equal(cheats.cheats_of(again, codes, N, np.random.default_rng(1))["noise"], made["noise"])


def test_sections_are_n_givers_one_and_none(report):
    assert [(s.givers, s.captions, s.families) for s in report.sections] == [(4, 16, 8), (1, 16, 8), (0, 16, 8)]


def test_real_pictures_stand_beside_the_cheats_of_every_section(report):
    for section in report.sections:
        assert section.figures[REAL].score.value == pytest.approx(1, abs=1e-6)


def test_retrieval_is_caught_copying(report):
    figures = report.sections[-1].figures
    assert figures["nearest caption"].copied.value == 1 and figures["unconditional"].copied.value == 1


def test_cheats_are_judged_as_a_codec_draws_them(drawn, report):
    through = cheats.evaluate(drawn, encode_text, codec=Coarse())
    assert "as codec coarse draws them" in cheats.to_text(through) and "as codec" not in cheats.to_text(report)
    for section, plain in zip(through.sections, report.sections, strict=True):
        assert section.figures[REAL] == plain.figures[REAL]
        assert all(f.sharpness < plain.figures[name].sharpness for name, f in section.figures.items() if name != REAL)


def test_json_holds_every_figure(report):
    assert json.loads(cheats.to_json(report)) == json.loads(json.dumps(dataclasses.asdict(report)))


def test_table_names_every_cheat_and_what_was_left_out(report):
    text = cheats.to_text(report)
    assert all(name in text for section in report.sections for name in section.figures)
    assert text.count("left out, too few artists: 0 captions, 0 families") == 3


def test_what_is_absent_is_called_so(report):
    bare = [
        dataclasses.replace(s, figures={name: dataclasses.replace(f, score=None) for name, f in s.figures.items()})
        for s in report.sections
    ]
    text = cheats.to_text(dataclasses.replace(report, sections=bare))
    assert "absent" in text and "None" not in text


# bad input


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"split": "train"}, "split: expected one of validation, test"),
        ({"n": 1}, "n must"),
        ({"captions": 1}, "captions: expected"),
        ({"n": 6}, "drawn by 8 artists.*ask for fewer samples"),
    ],
)
def test_wrong_arguments_are_named(judge, codes, wrong, named):
    with pytest.raises(ValueError, match=named):
        cheats.evaluate(judge, codes, **wrong)


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--data", "nowhere"], "train.recipes emoji"),
        (["--samples", "1"], "--samples: expected"),
        (["--captions", "0"], "--captions: expected"),
        (["--seed", "-1"], "--seed"),
        (["--codec", "./nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(argv, named, tmp_path, capsys):
    code, err = checks.main(["cheats", *argv, "--out", str(tmp_path / "report")]), capsys.readouterr().err
    assert code == 2 and named in err.splitlines()[-1] and "Traceback" not in err


def test_an_out_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert checks.main(["cheats", "--out", str(tmp_path / "file")]) == 2
    assert "--out" in capsys.readouterr().err


# on all the data, where it has been made


WHOLE = pytest.mark.skipif(
    not DATA.exists(),
    reason="data/emoji is not there: cheats are judged on drawings only; make it with `python -m train.recipes emoji`",
)


@pytest.fixture(scope="module")
def whole(codes) -> CheatReport:
    """30 captions a section, one a family: 2,500 pictures are enough to tell real ones from cheats."""
    return cheats.evaluate(Judge.load(DATA, EfficientNetLite0()), codes, captions=30)


@WHOLE
def test_real_pictures_by_other_artists_score_one(whole):
    """Else a cheat could lose for no merit of the judge: because whatever is held against other artists loses."""
    real = whole.sections[0].figures[OTHERS]
    assert not real.fit.excludes(1.0) and not real.diversity.excludes(1.0) and not real.joint.excludes(1.0)


@WHOLE
def test_a_quarter_of_random_pictures_is_noticed(whole):
    assert whole.sections[0].figures[PARTLY].score.high < 1


@WHOLE
@pytest.mark.parametrize("section", [0, 1, 2], ids=["n give", "one gives", "none gives"])
def test_no_cheat_comes_near_real_pictures(whole, section):
    real, figures = whole.sections[0].figures[OTHERS].score, whole.sections[section].figures
    wholly = [name for name in figures if cheats.is_cheat(name) and name != PARTLY]
    best = max(wholly, key=lambda name: figures[name].score.high)
    assert figures[best].score.high < real.low - MARGIN, f"{best}: {figures[best].score}, real pictures: {real}"
