"""Judging data with one picture a caption: what can be said is right, what cannot is absent with its reason."""

import dataclasses
import json
import math

import datasets
import numpy as np
import pytest
import torch

from eval.__main__ import main
from eval.bench import SingleBench, bench_of
from eval.data import LEAST, Pictures, references, why_single
from eval.judge import Judge
from eval.metrics import single
from eval.metrics.energy import energy_distance
from eval.metrics.single import PairSpace
from eval.page import to_html
from eval.report import ROWS, Report, evaluate, to_json, to_text
from eval.samples import Gallery
from tests.pictures import seen
from tests.test_eval_page import Page
from tests.test_eval_report import Coarse, Pooled, drawing, pattern, png

COUNTS = {"train": 80, "validation": 60, "test": 12}
WHY = "every caption has one picture"
PARTS = tuple(ROWS["validation"].values())


def rows(counts: dict[str, int], artists: int = 1) -> list[dict]:
    """Captions drawn once by each artist: columns image, label and split, and artist where there are several."""
    rng, made = np.random.default_rng(0), []
    for split, count in counts.items():
        for number in range(count):
            for artist in range(artists):
                image = {"bytes": png(drawing(f"{split} {number}", artist, rng)), "path": None}
                row = {"label": f"{split} {number}", "split": split, "image": image}
                made.append(row | ({"artist": str(artist)} if artists > 1 else {}))
    return made


def saved(folder, made: list[dict]):
    datasets.Dataset.from_list(made).cast_column("image", datasets.Image()).save_to_disk(str(folder))
    return folder


def in_memory(counts: dict[str, int]) -> Pictures:
    made = rows(counts)
    label, split = (np.array([row[name] for row in made]) for name in ("label", "split"))
    encoded = [row["image"]["bytes"] for row in made]
    lacks = ("artist", "family")
    return Pictures(encoded, label, np.full(len(made), ""), np.unique(label, return_inverse=True)[1], split, lacks)


def judge_of(pictures: Pictures) -> Judge:
    return Judge.fit(Pooled(), pictures, Pooled().encode(pictures.pixels(np.arange(len(pictures)))), WHY)


def codes(captions):
    """Unit codes that tell what is drawn."""
    c = np.stack([pattern(caption).ravel() - 0.5 for caption in captions])
    return c / np.linalg.norm(c, axis=1, keepdims=True)


def good(captions, n):
    """What the artist would draw: fresh drawings of the caption."""
    rng = np.random.default_rng(1)
    return torch.from_numpy(np.array([[drawing(c, 0, rng) for _ in range(n)] for c in captions])).float()


def noise(captions, n):
    return torch.rand(len(captions), n, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def average(captions, n):
    return good(captions, 8).mean(dim=1, keepdim=True).expand(-1, n, -1, -1, -1)


def one_right_and_noise(captions, n):
    return torch.cat([good(captions, 1), noise(captions, n - 1)], dim=1)


MODELS = {"good": good, "noise": noise, "average": average, "one right": one_right_and_noise}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("single") / "data", rows(COUNTS))


@pytest.fixture(scope="module")
def judge(folder) -> Judge:
    return judge_of(Pictures.load(folder))


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    return Gallery(2, good, 4, lambda _: None)


def run(judge, models=MODELS, **kwargs) -> Report:
    known = {"codec": Coarse(), "encode_text": codes} | kwargs
    return evaluate(models, judge, **known)


@pytest.fixture(scope="module")
def report(judge, gallery) -> Report:
    return run(judge, watch=gallery)


@pytest.fixture(scope="module")
def methods(report):
    return report.rows["held-out"].methods


@pytest.fixture(scope="module")
def bench(judge) -> SingleBench:
    return bench_of(judge, "validation", 4, encode_text=codes)


# --- the report ----------------------------------------------------------------------------------------------------


def test_a_good_model_is_found_and_varied_and_pairs_like_real_ones(methods):
    f = methods["good"]
    assert f.fit.low > 0.8 and f.diversity.low > 0.3 and f.joint.low > 0.4


CHEATS = ("noise", "model, shuffled captions", "unconditional")


@pytest.mark.parametrize("cheat", CHEATS)
def test_pictures_of_something_else_lose_every_headline(methods, cheat):
    f, own = methods[cheat], methods["good"]
    assert f.fit.high < 0.15 and f.diversity.high < 0.15
    assert f.joint.value < 0.4 < own.joint.low and f.energy.low > own.energy.high


@pytest.mark.parametrize("cheat", ["model, one mode", "model, blur", "average", "ridge mean"])
def test_repeated_pictures_have_no_diversity_and_a_worse_energy_score(methods, cheat):
    assert methods[cheat].diversity.high == 0
    assert methods[cheat].energy.low > methods["good"].energy.high


def test_blur_shows_in_sharpness(judge):
    x = good(references(judge.pictures, "validation", singly=True).captions, 4)
    bench = bench_of(judge, "validation", 4)
    sharp, soft = (
        bench.figures(bench.samples(seen(bench.judge, y))) for y in (x, x.mean(dim=1, keepdim=True).expand_as(x))
    )
    assert soft.sharpness < sharp.sharpness == pytest.approx(1, abs=0.1)


def test_one_right_picture_amid_noise_buys_a_quarter_of_fit_and_no_diversity(methods):
    f = methods["one right"]
    assert f.fit.value == pytest.approx(methods["good"].fit.value / 4, abs=0.05) and f.diversity.value < 0.08


def test_retrieval_copies_and_is_listed_once(methods):
    assert methods["nearest1"].copied.value > 0.95 and "nearestk" not in methods
    assert methods["good"].copied.value < 0.1 and methods["nearest1"].c_t < -5


def test_the_codec_reaches_more_than_chance_and_no_diversity_is_made_up(methods):
    f = methods["reconstruction"]
    assert f.fit.value > 0.8 and f.diversity is None and "one picture a caption" in f.absent["diversity"]


def test_a_better_model_has_a_lower_paired_energy_score(report):
    less = report.rows["held-out"].energy_less
    assert all(less[cheat].high < 0 for cheat in CHEATS) and "good" not in less and "real" not in less


def test_real_pictures_are_not_found_by_themselves(methods):
    real = methods["real"]
    assert (real.fit, real.hit, real.joint, real.kid) == (None, None, None, 0)
    assert "always found" in real.absent["fit"] and real.realistic.value > 0.9


def test_whatever_is_none_has_a_reason(report):
    for row in report.rows.values():
        for method, f in row.methods.items():
            for name, value in vars(f).items():
                assert value is not None or f.absent[name], (method, name)


def numbers(value):
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, float):
        yield value


def test_no_number_is_nan(report):
    found = list(numbers(json.loads(to_json(report))))
    assert len(found) > 100 and all(map(math.isfinite, found))


def test_report_says_how_it_was_judged_and_what_was_assumed(report):
    assert report.singly == WHY
    assert set(report.absent) >= {"artist", "family", "seen", "trade_off"}
    assert "no common 1" in report.rows["held-out"].absent["score"]


def test_same_seed_gives_the_same_bytes(judge):
    some = {"good": good}
    first, again = (to_json(run(judge, some, captions=10)) for _ in range(2))
    assert first == again


def test_without_a_text_encoder_joint_is_absent_and_the_rest_is_not(judge):
    row = evaluate({"good": good}, judge, captions=12).rows["held-out"]
    assert row.methods["good"].joint is None and "no text encoder" in row.methods["good"].absent["joint"]
    assert row.methods["good"].fit.value > 0.8 and "no text encoder" in row.absent["joint"]


def test_on_few_captions_joint_is_absent_with_the_reason(judge):
    row = run(judge, {"good": good}, split="test").rows["held-out"]
    assert row.methods["good"].joint is None and "so few captions" in row.absent["joint"]
    assert row.methods["good"].fit.value > 0.8


def test_two_captions_on_request_give_no_joint(judge):
    row = run(judge, {"good": good}, captions=2).rows["held-out"]
    assert row.captions == 2 and row.absent["joint"] == f"2 families of captions; it takes {LEAST}"


def test_rivals_stay_when_captions_are_fewer(judge, bench):
    few = bench_of(judge, "validation", 4, captions=12)
    assert few.chance == bench.chance == single.chance_of(59)


def test_some_captions_of_a_bench_have_the_figures_of_the_whole_bench(bench):
    whole = bench.samples(seen(bench.judge, good(bench.refs.captions, 4)))
    some = np.array([7, 2, 4])
    np.testing.assert_array_equal(whole[some].per.energy, whole.per.energy[some])
    assert bench[some].figures(whole[some]).hit.value == pytest.approx(whole.per.hit[some].mean())


def test_the_order_of_captions_and_of_samples_does_not_matter(bench):
    x = good(bench.refs.captions, 4)
    order = np.random.default_rng(0).permutation(len(x))
    f, g = (
        bench.figures(bench.samples(seen(bench.judge, x))),
        bench[order].figures(bench[order].samples(seen(bench.judge, x[order].flip(1)))),
    )
    for name in ("fit", "diversity", "hit", "energy", "copied"):
        assert getattr(f, name).value == pytest.approx(getattr(g, name).value, abs=1e-6), name
    # What shuffled captions cost is an average over 32 shuffles, and another order gives others.
    assert f.joint.value == pytest.approx(g.joint.value, abs=0.1)


def test_second_extractor_repeats_the_rows(judge):
    class Fine(Pooled):
        id = "fine"

    other = Judge.fit(Fine(), judge.pictures, judge.features, WHY)
    report = run(judge, {"good": good}, captions=12, second=other)
    assert report.repeated == {"fine": report.rows}


def test_calibration_needs_one_real_picture(report):
    own = report.rows["held-out"].calibration
    assert own["good"].spread_skill.value == pytest.approx(1, abs=0.25) and own["average"].spread_skill.high < 0.1
    assert set(own) == set(MODELS)


def test_text_table_names_every_method_and_reason(report):
    text = to_text(report)
    assert all(method in text for method in report.rows["held-out"].methods)
    assert "judged singly: every caption has one picture" in text and "real: fit, hit absent, a real picture is" in text


# --- the page ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def html(report, gallery) -> str:
    return to_html(report, gallery.shown)


def test_page_is_whole_and_says_what_one_means(html):
    text = Page(html).text
    assert "Judged singly: every caption has one picture" in text
    assert "1 never means “as good as real pictures by other artists” here" in text
    assert "always found 1" in text and "other captions 1" in text and "real pairs 1" in text


@pytest.mark.parametrize("wrong", ["drawn by other artists", "Real pictures by other artists", "None", "nan"])
def test_page_says_nothing_that_only_several_artists_allow(html, wrong):
    assert wrong not in Page(html).text and ">real 1<" not in html


def test_page_says_why_something_is_absent(html):
    text = Page(html).text
    assert "absent: a real picture is the one looked for" in text and "Trade-off curve – absent" in text


def test_page_shows_samples_with_nearest_training_pictures_and_the_real_one(html):
    titles = [image["title"] for image in Page(html).all("img") if "title" in image]
    assert len(titles) == 2 * (4 + 4 + 1) * html.count('<div class="sheets">')
    assert sum(title.startswith("Nearest training picture: “train ") for title in titles) * 9 == 4 * len(titles)


def test_page_without_fit_has_no_verdict(report):
    row = report.rows["held-out"]
    bare = dataclasses.replace(row.methods["good"], fit=None, absent={"fit": "nothing drawn"})
    changed = dataclasses.replace(row, methods=row.methods | {"good": bare})
    text = Page(to_html(dataclasses.replace(report, rows={"held-out": changed}), {})).text
    assert "What they show: absent (nothing drawn)." in text


# --- choosing the way ----------------------------------------------------------------------------------------------


def test_several_artists_are_judged_as_ever():
    made = rows({"train": 12, "validation": 4}, artists=2)
    label, artist, split = (np.array([row[name] for row in made]) for name in ("label", "artist", "split"))
    pictures = Pictures([b""] * len(made), label, artist, np.unique(label, return_inverse=True)[1], split)
    assert why_single(pictures, PARTS) is None


CASES = {
    "every caption has one picture": ("abcdef", "xyxyxy"),
    "no two training pictures are known": ("aabbcc", "xxxxxx"),
    "fewer than two training captions": ("aabcdd", "xyxyxx"),
    "fewer than two captions of 'seen_validation' or 'validation'": ("aabbcd", "xyxyxy"),
}


@pytest.mark.parametrize("reason", CASES)
def test_reason_for_judging_singly(reason):
    label, artist = (np.array(list(letters)) for letters in CASES[reason])
    split = np.array(["train"] * 4 + ["validation"] * 2)
    pictures = Pictures([b""] * 6, label, artist, np.arange(6), split)
    assert why_single(pictures, PARTS).startswith(reason)


# --- bad input -----------------------------------------------------------------------------------------------------


def test_artist_and_family_may_be_absent(folder):
    pictures = Pictures.load(folder)
    assert pictures.lacks == ("artist", "family") and set(pictures.artist) == {""}
    assert len(np.unique(pictures.family)) == len(np.unique(pictures.label)) == len(pictures)


def test_missing_split_column_lists_those_found(tmp_path):
    made = [{k: v for k, v in row.items() if k != "split"} for row in rows({"train": 2})]
    with pytest.raises(ValueError, match="lacks split; it has label, image"):
        Pictures.load(saved(tmp_path / "d", made))


@pytest.mark.parametrize(("name", "value"), [("label", " "), ("label", None), ("split", "")])
def test_row_without_words_is_named(tmp_path, name, value):
    made = rows({"train": 3})
    made[1][name] = value
    with pytest.raises(ValueError, match=f"row 1 has no {name}"):
        Pictures.load(saved(tmp_path / "d", made))


def test_row_without_a_picture_is_named(tmp_path):
    made = rows({"train": 3})
    made[2]["image"] = None
    with pytest.raises(ValueError, match="row 2 has no picture"):
        Pictures.load(saved(tmp_path / "d", made))


def test_column_without_pictures_is_named(tmp_path):
    made = [{"image": 1, "label": "cat", "split": "train"}]
    datasets.Dataset.from_list(made).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(ValueError, match=r"'image' of .* holds no pictures"):
        Pictures.load(tmp_path / "d")


def test_dataset_of_datasets_is_named(tmp_path):
    part = datasets.Dataset.from_list([{"label": "cat"}])
    datasets.DatasetDict({"train": part}).save_to_disk(str(tmp_path / "d"))
    with pytest.raises(ValueError, match=r"holds the datasets \['train'\]; save one with"):
        Pictures.load(tmp_path / "d")


def test_pictures_of_two_sizes_are_named():
    pictures = Pictures([png(np.zeros((3, 16, 16))), png(np.zeros((3, 16, 32)))], *[np.array(["", ""])] * 4)
    with pytest.raises(ValueError, match="of one size, found 16 x 16, 32 x 16"):
        pictures.pixels(np.arange(2))


def test_no_training_split_names_those_found():
    with pytest.raises(ValueError, match=r"'train'; found \['validation'\]"):
        why_single(in_memory({"validation": 12}), PARTS)


@pytest.mark.parametrize(
    ("counts", "named"),
    [
        ({"train": 30, "validation": LEAST - 1}, "held-out: split 'validation' has captions of 9 families"),
        ({"train": 30}, "held-out: no picture of the dataset has split 'validation'"),
    ],
)
def test_too_few_captions_are_refused_with_the_reason(counts, named):
    with pytest.raises(ValueError, match=named):
        evaluate({"good": good}, judge_of(in_memory(counts)))


def test_too_few_training_pictures_are_refused():
    with pytest.raises(ValueError, match="9 training pictures; judging takes at least 10"):
        judge_of(in_memory({"train": 9, "validation": 12}))


def test_training_pictures_all_alike_are_refused():
    same = dataclasses.replace(pictures := in_memory({"train": 12}), encoded=[png(np.zeros((3, 16, 16)))] * 12)
    assert len(pictures) == 12
    with pytest.raises(ValueError, match="look the same"):
        judge_of(same)


def test_without_validation_the_test_split_is_judged_and_the_calibration_said():
    report = run(judge_of(in_memory({"train": 40, "test": 12})), {"good": good}, split="test")
    f = report.rows["held-out"].methods
    assert f["good"].fit.value > 0.8 and "nearest1" not in f
    assert "left out in turn" in report.absent["validation"] and "'validation'" in report.absent["baselines"]
    assert report.absent["far"] == report.absent["baselines"] and "Retrieval" in Page(to_html(report, {})).text


def test_command_on_bad_data_is_one_line_and_exit_code_2(model_folder, tmp_path, capsys):
    data = saved(tmp_path / "data", rows({"validation": 12}))
    code = main([str(model_folder), "--data", str(data), "--out", str(tmp_path / "report")])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("python -m eval")]
    assert code == 2 and len(said) == 1 and "no picture has split 'train'" in said[0]


# --- the metrics ---------------------------------------------------------------------------------------------------


def test_chance_is_what_blind_pictures_score():
    rng, c = np.random.default_rng(0), 15
    families = np.arange(c)
    hits = []
    for _ in range(60):
        r, x = rng.standard_normal((2, c, 1, 5))
        rivals = single.fit.Rivals(r[:, 0], families)
        hits.append(np.mean([rivals.hits(*each) for each in zip(x, np.ones((c, 1)), r, families, strict=True)]))
    assert np.mean(hits) == pytest.approx(single.chance_of(c - 1), abs=0.015)


def test_what_is_not_realistic_is_no_hit():
    r = [np.eye(3)[i : i + 1] for i in range(3)]
    rivals = single.fit.Rivals(np.eye(3), np.arange(3))
    passes = [np.zeros(1), np.ones(1), np.ones(1)]
    hits = [rivals.hits(x, p, x, own) for own, (x, p) in enumerate(zip(r, passes, strict=True))]
    assert [h[0] for h in hits] == [0, 1, 1]


def test_valid_distance_does_not_depend_on_how_many_pictures_there_are():
    rng = np.random.default_rng(0)

    def mean(n):
        draws = [(rng.standard_normal((n, 3)), (rng.random(n) < 0.7).astype(float), 2.0) for _ in range(4000)]
        return np.mean([single.valid_distance(*each) for each in draws])

    assert mean(2) == pytest.approx(mean(6), rel=0.05)


def test_energy_score_is_half_the_energy_distance_up_to_a_constant():
    rng = np.random.default_rng(0)
    r = rng.standard_normal((300, 1, 2))
    near, far = rng.standard_normal((300, 4, 2)), 1 + rng.standard_normal((300, 4, 2))
    score = [np.mean([single.energy_score(*each) for each in zip(x, r, strict=True)]) for x in (far, near)]
    scores = score[0] - score[1]
    distances = [energy_distance(x.reshape(-1, 2), r[:, 0]) for x in (far, near)]
    assert scores == pytest.approx((distances[0] - distances[1]) / 2, rel=0.15)


def all_pairs(text):
    families = np.arange(len(text))
    return single.Asked(text, families, families, np.ones((1, len(text))))


def test_pair_energy_is_the_energy_distance_of_the_pairs():
    text, x, r = np.random.default_rng(0).standard_normal((3, 7, 2))
    off = ~np.eye(7, dtype=bool)
    u, v = np.c_[text, x], np.c_[text, r]
    parts = [np.linalg.norm(a[:, None] - b[None], axis=2)[off].mean() for a, b in ((u, v), (u, u), (v, v))]
    found = single.pair_energy(all_pairs(text), list(x[:, None]), list(r[:, None]))
    assert found == pytest.approx(2 * parts[0] - parts[1] - parts[2])


def test_pictures_are_averaged_whatever_their_number(monkeypatch):
    monkeypatch.setattr(single, "BLOCK", 2)
    rng = np.random.default_rng(0)
    text, x, r = rng.standard_normal((5, 2)), [rng.standard_normal((k + 1, 2)) for k in range(5)], rng.random((5, 1, 2))
    twice = [np.repeat(group, 2, axis=0) for group in x]
    once = single.pair_energy(all_pairs(text), x, list(r))
    assert once == pytest.approx(single.pair_energy(all_pairs(text), twice, list(r)))


def joint_of(text, x, r):
    """Joint without its interval, from points (C, 2)."""
    x, r, pairs = list(x[:, None]), list(r[:, None]), all_pairs(text)
    own, dealt = single.pair_energy(pairs, x, r), single.shuffled_energy(pairs, x, r)
    return float(((dealt - own) / single.shuffled_energy(pairs, r, r))[0])


def test_joint_is_one_for_the_artist_zero_for_the_blind_and_negative_for_the_wrong():
    rng, found = np.random.default_rng(0), []
    for _ in range(12):
        text, other, *noise = rng.standard_normal((4, 30, 2))
        r, own = text + 0.3 * noise[0], text + 0.3 * noise[1]
        found.append([joint_of(text, x, r) for x in (r, own, other, -text)])
    real, own, blind, wrong = np.mean(found, axis=0)
    assert real == pytest.approx(1, abs=0.1) and own == pytest.approx(1, abs=0.1)
    assert blind == pytest.approx(0, abs=0.2) and wrong < -1


def test_joint_forgives_what_all_pictures_share():
    text, noise = np.random.default_rng(0).standard_normal((2, 60, 2))
    r = text + 0.3 * noise
    assert joint_of(text, r + np.array([0.3, 0.0]), r) == pytest.approx(1, abs=0.1)


def test_shuffled_pictures_are_never_held_against_what_they_were_drawn_for():
    families, asked = np.arange(6), np.random.default_rng(0).permutation(6)
    cross, within, real = single.independent(families, asked)
    i, j = np.nonzero(cross)
    assert cross.any() and (asked[i] != j).all() and (i != j).all()
    i, j = np.nonzero(within)
    assert (asked[i] != j).all() and (asked[j] != i).all() and real.sum() == 30


def test_interval_of_joint_holds_its_value_and_noise_is_refused():
    rng = np.random.default_rng(0)
    shuffled = np.r_[1.0, 1 + 0.1 * rng.standard_normal(500)]
    found = single.joint_interval(shuffled / 2, shuffled, shuffled)
    assert found.value == pytest.approx(0.5) and found.low <= 0.5 <= found.high
    with pytest.raises(ValueError, match="so few captions"):
        single.joint_interval(shuffled, shuffled, shuffled - 1)


def test_families_weigh_equally_in_the_first_draw():
    weights = single.redrawn_weights(np.array([5, 5, 9]), draws=3)
    assert weights.shape == (4, 3) and weights[0].tolist() == [0.5, 0.5, 1]
    np.testing.assert_array_equal(weights[:, 0], weights[:, 1])


def test_shared_axes_are_those_that_go_together():
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((400, 1))
    c, x = np.c_[shared, rng.standard_normal((400, 5))], np.c_[rng.standard_normal((400, 5)), shared]
    space = PairSpace.fit(c, x + 0.01)
    together = [abs(np.corrcoef(space.text(c)[:, k], space.pictures(x)[:, k])[0, 1]) for k in range(4)]
    assert max(together) > 0.9 and np.allclose(space.text(c).std(axis=0), 1)


def test_codes_that_tell_nothing_are_refused():
    with pytest.raises(ValueError, match="do not vary together"):
        PairSpace.fit(np.ones((5, 3)), np.eye(5))


def test_style_is_a_point(judge):
    described = judge.space.describe(judge.features)
    assert described.style.shape == (len(judge.features), 6)
