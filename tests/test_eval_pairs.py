"""How many pairs: nested subsets, curves, the verdict, and the command end to end on tiny networks."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import datasets
import numpy as np
import pytest
import torch

from bridge.codecs import LatentDistribution
from bridge.noise import generator_for
from bridge.text.words import WordVectors
from eval import plots
from eval.data import Pictures
from eval.metrics.bootstrap import Interval
from eval.plots import Curve
from eval.studies.compare import __main__ as command
from eval.studies.compare import pairs, study
from eval.studies.compare.material import NONE
from eval.studies.compare.nets import LOCAL_FLOW, LOCAL_PIXELS, Sampling
from eval.studies.compare.pairs import MODES, Point, pair_order, pairs_needed, scores, sizes_of, trend, verdict
from eval.studies.compare.study import Workshop
from tests import test_eval_report, test_eval_single
from tests.test_eval_peers import TINY, TINY_DIRECT, TINY_PLATEAU, Coarse, drawings, drawings_judge, opened, toy
from train.loop import Loop

__all__ = ["drawings", "drawings_judge", "opened"]  # fixtures


def some_pictures(rows: int = 60) -> Pictures:
    family = np.arange(rows) // 6 * (np.arange(rows) % 6 > 0)  # one large family, and small ones
    names = np.array([f"label {i}" for i in range(rows)])
    return Pictures([bytes([i]) for i in range(rows)], names, names, family, np.array(["train"] * rows))


def test_order_is_a_permutation_that_no_seed_changes() -> None:
    pictures = some_pictures()
    order = pair_order(pictures, np.arange(60))
    assert sorted(order) == list(range(60)) and (order == pair_order(pictures, np.arange(60))).all()


def test_order_has_one_of_each_family_before_a_second() -> None:
    pictures = some_pictures()
    families = pictures.family[pair_order(pictures, np.arange(60))]
    count = len(set(pictures.family))
    assert len(set(families[:count])) == count


def test_order_of_rows_does_not_depend_on_how_they_are_listed() -> None:
    pictures = some_pictures()
    rows = np.arange(60)[::-1].copy()
    assert (rows[pair_order(pictures, rows)] == pair_order(pictures, np.arange(60))).all()


def test_fewer_pairs_are_part_of_more_and_all_other_pictures_lose_their_captions() -> None:
    material, order = toy(pairs=10, pictures=12), torch.tensor([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])
    few, more = material.only(order[:3]), material.only(order[:6])
    assert set(few.paired.tolist()) == {3, 1, 4} < set(more.paired.tolist())
    assert sorted([*few.paired.tolist(), *few.unpaired.tolist()]) == list(range(12))
    assert len(few.weights) == 3 and sorted(few.labels.tolist()) == [1, 3, 4]
    batch = few.draw(500, False, True, 0, 0)
    assert {tuple(c.tolist()) for c in batch.c.pooled[batch.c.pooled.any(1)]} == {
        tuple(c.tolist()) for c in material.captions.pooled(torch.tensor([1, 3, 4]))
    }
    assert NONE not in few.labels


def test_needed_pairs_lie_between_sizes_on_a_logarithmic_scale() -> None:
    assert pairs_needed([10, 1000], [0.0, 1.0], 0.25) == pytest.approx(10 ** (1 + 0.5))
    assert pairs_needed([1000, 10], [1.0, 0.0], 1.0) == 1000
    assert pairs_needed([10, 100], [0.5, 0.6], 0.4) == 10
    assert pairs_needed([10, 100], [0.5, 0.6], 0.7) is None


def curve(values: Mapping[int, float], half: float = 0.05) -> dict[int, Interval]:
    return {pairs: Interval(value, value - half, value + half) for pairs, value in values.items()}


def test_claim_holds_where_the_bridge_needs_five_times_fewer() -> None:
    direct = curve({100: 0.0, 1000: 0.2, 10000: 0.4})
    found = verdict("plateau", "seen", curve({100: 0.1, 1000: 0.55, 10000: 0.6}), direct)
    assert (found.target, found.direct_pairs) == (0.4, 10000) and 100 < float(found.bridge_pairs or 0) < 1000
    assert found.reached and found.apart and str(found).endswith("(as claimed)")


def test_smaller_ratio_is_told_beside_the_claim() -> None:
    same = curve({100: 0.0, 10000: 0.2})
    found = verdict("plateau", "seen", same, same)
    assert found.ratio == 1 and not found.reached and "ratio 1.0 (claimed: 5)" in str(found)


def test_ratio_is_a_lower_bound_where_the_fewest_pairs_do() -> None:
    found = verdict("plateau", "seen", curve({100: 0.5, 1000: 0.6}), curve({100: 0.1, 1000: 0.2}))
    assert found.at_fewest and "ratio at least 10.0" in str(found)


def test_never_reached_is_told_as_that() -> None:
    found = verdict("plateau", "held-out", curve({100: 0.0, 1000: 0.1}), curve({100: 0.1, 1000: 0.3}))
    assert found.ratio is None and not found.reached and str(found).endswith("the bridge: never reached")


def test_verdict_tells_where_intervals_overlap_and_where_nobody_is_above_0() -> None:
    found = verdict("plateau", "seen", curve({100: -0.2, 1000: 0.1}), curve({100: -0.4, 1000: -0.25}))
    assert not found.apart and "intervals overlap" in str(found) and "worse than pictures drawn blindly" in str(found)
    found = verdict("plateau", "seen", curve({100: 0.2, 1000: 0.3}), curve({100: 0.0, 1000: 0.05}))
    assert found.apart and "overlap" not in str(found) and "worse" not in str(found)


def test_verdict_says_when_no_ratio_could_be_found() -> None:
    found = verdict("plateau", "seen", curve({100: 0.5, 1000: 0.6}), curve({100: 0.2, 1000: 0.1}))
    assert found.untold and found.ratio == 1 and "best with the fewest pairs, so no larger ratio" in str(found)
    assert not verdict("plateau", "seen", curve({100: 0.5, 1000: 0.6}), curve({100: 0.1, 1000: 0.2})).untold


@pytest.mark.parametrize(
    ("last", "told"), [(0.5, "more pairs helped"), (0.22, "no clear difference"), (0.05, "more pairs made it worse")]
)
def test_trend_tells_what_the_last_pairs_brought(last: float, told: str) -> None:
    found = trend("plateau", "seen", curve({100: 0.0, 1000: 0.2, 5000: 0.9, 6000: last}))
    assert found is not None and (found.few, found.many) == (1000, 6000)
    assert told in str(found) and f"0.20 to {last:.2f}" in str(found)


def test_no_trend_of_one_size() -> None:
    assert trend("plateau", "seen", curve({100: 0.0})) is None
    found = trend("plateau", "seen", curve({100: 0.0, 150: 0.0}))
    assert found is not None and (found.few, found.many) == (100, 150)


def test_the_direct_way_alone_has_neither_verdict_nor_trend() -> None:
    rows = {"seen": {"score": -0.2, "low": -0.3, "high": -0.1}}
    points = [Point("equal minutes", "direct", count, rows) for count in (100, 1000)]
    assert pairs.conclusions(points) == ([], [])


def test_scores_are_means_over_seeds() -> None:
    points = [
        Point(
            "plateau", "direct", 10, {"seen": {"score": score, "low": 0.0, "high": 1.0}}, seed, Sampling(), 1, 1.0, 60.0
        )
        for seed, score in enumerate((0.25, 0.75))
    ]
    assert scores(points, "plateau", "direct", "seen") == {10: Interval(0.5, 0.0, 1.0)}


def test_sizes_are_sorted_and_all_is_the_rest() -> None:
    assert sizes_of(["all", "3", "10"], 40) == [3, 10, 40]


def test_sizes_that_the_data_does_not_have_are_tried_only_where_asked_for() -> None:
    assert sizes_of(None, 1000) == [100, 300, 1000]
    assert sizes_of(None, 50) == [50]


@pytest.mark.parametrize("word", ["1", "41", "many", "-3"])
def test_impossible_size_is_named(word: str) -> None:
    with pytest.raises(ValueError, match=f"--sizes: expected numbers from 2 to 40 or 'all', got '{word}'"):
        sizes_of([word], 40)


def test_chart_is_well_formed_and_holds_every_point() -> None:
    upper = Curve("a < b", [10, 100], [Interval(0.1, 0.0, 0.2), Interval(0.5, 0.4, 0.6)])
    lines = [upper, Curve("b", [10], [Interval(-0.3, -0.5, 0.1)])]
    figure = plots.curves("seen", lines, "pairs", "score")
    assert [line.get_xydata().tolist() for line in figure.axes[0].lines[:2]] == [[[10, 0.1], [100, 0.5]], [[10, -0.3]]]
    ends = [path.vertices[:, 1].tolist() for bars in figure.axes[0].collections for path in bars.get_paths()]
    assert ends == [[0.0, 0.2], [0.4, 0.6], [-0.5, 0.1]]
    words = [e.text for e in ElementTree.fromstring(plots.to_svg(figure)).iter()]
    assert {"a < b", "b", "pairs", "score", "seen"} <= set(words)


def test_near_sizes_do_not_run_into_one_another() -> None:
    line = Curve("a method with a long name, equal minutes", [100, 10000, 11754], [Interval(0.1, 0.0, 0.2)] * 3)
    figure = plots.curves("seen", [line], "pairs", "score")
    figure.canvas.draw()
    labels = figure.axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == ["100", "10,000", "11,754"]
    places = [figure.axes[0].transData.transform((x, 0))[0] * 72 / figure.dpi for x in (10000, 11754)]
    apart = (places[1] - places[0]) * math.sin(math.radians(plots.TURN))
    assert apart > 0.8 * labels[0].get_fontsize()


def test_command_prints_table_and_verdicts_and_does_nothing_twice(
    opened: Callable[..., Workshop],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peers = {
        "no training": (LOCAL_FLOW, LOCAL_PIXELS),
        "equal minutes": (TINY, TINY_DIRECT),
        "plateau": (replace(MODES["plateau"][0], trials=TINY.trials), TINY_PLATEAU),
    }
    # how to sample is not chosen: that is the peers' test
    modes = {mode: tuple(replace(p, settings=p.settings[:1]) for p in pair) for mode, pair in peers.items()}
    monkeypatch.setattr(pairs, "MODES", modes)
    monkeypatch.setattr(pairs, "open_workshop", opened)
    out = tmp_path / "out"
    argv = [
        "pairs",
        "model",
        "--minutes",
        "0.04",
        "--sizes",
        "8",
        "all",
        "--samples",
        "2",
        "--captions",
        "6",
        "--out",
        str(out),
    ]
    assert command.main(argv) == 0
    printed = capsys.readouterr().out
    report = json.loads((out / "pairs.json").read_text())
    sizes = {p["pairs"] for p in report["points"]}
    assert len(sizes) == 2 and 8 in sizes
    assert {(p["mode"], p["method"], p["pairs"]) for p in report["points"]} == {
        (mode, method, size) for mode in modes for method in pairs.METHODS for size in sizes
    }
    assert len(report["verdicts"]) == printed.count("the direct way's best score") == 5
    assert printed.count("no training against plateau: the direct way's best") == 1
    assert len(report["trends"]) == printed.count(": the bridge from 8 to ") == 3
    for point in report["points"]:
        assert point["seconds"] > 60 * point["minutes"] > 0
        assert (point["steps"] == 0) == (point["mode"] == "no training")
    ElementTree.parse(out / "pairs-held-out.svg")
    before = (out / "results.jsonl").read_bytes()
    monkeypatch.setattr(Loop, "train_step", lambda self: pytest.fail("trained again"))
    assert command.main(argv) == 0
    assert capsys.readouterr().out == printed and (out / "results.jsonl").read_bytes() == before


def test_the_bridge_alone_has_no_verdict(
    opened: Callable[..., Workshop], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "open_workshop", opened)
    argv = ["pairs", "model", "--sizes", "8", "--samples", "2", "--captions", "6", "--out", str(tmp_path / "out")]
    assert command.main([*argv, "--modes", "no training", "--methods", "bridge_flow"]) == 0
    report = json.loads((tmp_path / "out" / "pairs.json").read_text())
    assert [p["method"] for p in report["points"]] == ["bridge_flow"] and report["verdicts"] == []
    assert "held-out" in capsys.readouterr().out


@pytest.fixture
def other_spaces(opened: Callable[..., Workshop], drawings: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of a run without training that has another codec and another text encoder; the codec is no file."""
    words = [word for row in datasets.load_from_disk(str(drawings))["captions"] for word in " ".join(row).split()]
    known = sorted(set(words))
    vectors = torch.randn(len(known), 12, generator=generator_for(0))
    WordVectors(known, vectors).save(drawings / "words")
    monkeypatch.setattr(pairs, "open_workshop", opened)
    monkeypatch.setattr(pairs, "load_codec", lambda folder: Finer())
    argv = ["pairs", "model", "--data", str(drawings), "--sizes", "8", "--samples", "2", "--captions", "6"]
    return [*argv, "--modes", "no training", "--codec", "finer=folder", "--text", f"words={drawings / 'words'}"]


class Finer(Coarse):
    """The same means from 2 x 2 pixels, as one vector."""

    z_shape, fingerprint = (3 * 8 * 8,), "finer"

    def encode(self, x: torch.Tensor) -> LatentDistribution:
        z = (torch.nn.functional.avg_pool2d(x, 2) - 0.5).flatten(1) / 0.2
        return LatentDistribution(z, torch.full_like(z, 0.05))

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        means = (z.unflatten(1, (3, 8, 8)) * 0.2 + 0.5).clamp(0, 1)
        return means.repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_other_spaces_are_measured_one_at_a_time(
    other_spaces: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command.main([*other_spaces, "--out", str(out)]) == 0
    report = json.loads((out / "pairs.json").read_text())
    ways = [(p["space"], p["method"]) for p in report["points"]]
    both = ["bridge_flow", "direct"]
    assert ways == [*(("", m) for m in both), ("finer", "bridge_flow"), *(("words", m) for m in both)]
    figures = [p["rows"]["held-out"] for p in report["points"]]
    assert len({json.dumps(one) for one in figures}) == len(figures)
    assert all(one["fit_low"] <= one["fit"] <= one["fit_high"] for one in figures)
    assert [v["mode"] for v in report["verdicts"]] == ["no training"]
    words = [e.text for e in ElementTree.parse(out / "pairs-held-out.svg").iter()]
    assert {"bridge, no training", "bridge, no training, finer", "direct, no training, words"} <= set(words)
    assert "finer" in capsys.readouterr().out


def test_spaces_of_one_name_are_refused(other_spaces: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([*other_spaces, "--codec", "words=folder"]) == 2
    assert "--codec, --text: expected different names, got finer, words, words" in capsys.readouterr().err


def test_codec_without_the_way_that_uses_it_is_refused(
    other_spaces: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*other_spaces, "--methods", "direct"]) == 2
    assert "--codec: the direct way uses none; add bridge_flow to --methods" in capsys.readouterr().err


def test_source_without_a_name_is_refused(other_spaces: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main([*other_spaces, "--text", "words"])
    assert "expected NAME=SOURCE, got 'words'" in capsys.readouterr().err


def results(path: Path, *points: tuple[str, str, int, float]) -> str:
    made = [
        {
            "mode": mode,
            "method": method,
            "pairs": count,
            "rows": {"seen": {"score": s, "low": s - 0.1, "high": s + 0.1}},
        }
        for mode, method, count, s in points
    ]
    path.write_text(json.dumps({"points": made}))
    return str(path)


def test_charts_are_of_the_curves_asked_for_from_several_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = results(tmp_path / "a.json", ("no training", "bridge_flow", 60, 0.1), ("plateau", "direct", 60, 0.2))
    there = results(tmp_path / "b.json", ("equal minutes", "direct", 100, 0.3))
    out = tmp_path / "new" / "made"
    argv = ["charts", here, there, "--curves", "bridge, no training", "direct, equal minutes", "--out", str(out)]
    assert command.main(argv) == 0
    assert capsys.readouterr().out.split() == [f"{out}-seen.svg"]
    words = {e.text for e in ElementTree.parse(f"{out}-seen.svg").iter()}
    assert {"bridge, no training", "direct, equal minutes", "60", "100"} <= words and "direct, plateau" not in words


def test_unknown_curve_is_refused_with_those_that_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = results(tmp_path / "a.json", ("plateau", "direct", 60, 0.2))
    assert command.main(["charts", here, "--curves", "bridge", "--out", str(tmp_path / "made")]) == 2
    assert "--curves: there is no 'bridge'; there are: direct, plateau" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", [None, "{", "[]", '{"points": []}', '{"points": [{"mode": "plateau"}]}', '{"points": 3}']
)
def test_file_that_holds_no_results_is_refused(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    assert command.main(["charts", str(path), "--out", str(tmp_path / "made")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{path}: " in error and "give a pairs.json" in error


@pytest.mark.parametrize(("name", "count"), [("pairs", 33), ("pairs-icons", 6)])
def test_results_behind_the_pages_charts_are_those_of_its_tables(name: str, count: int) -> None:
    docs = Path(__file__).parents[1] / "docs"
    lines = (docs / "pairs.md").read_text("utf-8").splitlines()
    points = pairs.points_of(docs / f"{name}.json")
    assert len(points) >= count
    for p in points:
        cells = [str(Interval(*(f[end] for end in pairs.ENDS))) for f in p.rows.values()]
        printed = [re.sub(r"(?<!\d)0(?=\.)", "", cell).replace("-", "−") for cell in cells]
        assert any(all(cell in line for cell in printed) for line in lines), p


@pytest.fixture
def one_each(tmp_path: Path) -> Path:
    """A dataset with one picture a caption."""
    made = [row | {"captions": [row["label"]]} for row in test_eval_single.rows(test_eval_single.COUNTS)]
    return Path(test_eval_single.saved(tmp_path / "one", made))


@pytest.fixture
def quick_judge(few_draws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures described without a network, tiny networks."""
    monkeypatch.setattr(study, "EfficientNetLite0", test_eval_report.Pooled)
    monkeypatch.setattr(study, "load_codec", lambda folder: test_eval_report.Coarse())
    monkeypatch.setattr(pairs, "MODES", {"equal minutes": (TINY, TINY_DIRECT)})
    monkeypatch.setattr("eval.studies.compare.material.WATCHED", 8)
    monkeypatch.setattr("eval.studies.compare.nets.DDIM_STEPS", 2)


def test_data_with_one_picture_a_caption_is_compared_by_fit(
    one_each: Path, quick_judge: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = ["pairs", "pictures", "--data", str(one_each), "--vae", "coarse", "--minutes", "0.01", "--sizes", "8"]
    assert command.main([*argv, "--samples", "2", "--captions", "12", "--out", str(out)]) == 0
    report = json.loads((out / "pairs.json").read_text())
    rows = [point["rows"]["held-out"] for point in report["points"]]
    assert len(rows) == 2 and all(row["score"] == row["fit"] and "joint" not in row for row in rows)
    told = capsys.readouterr()
    assert "judged singly: the score is fit alone" in told.out and "every caption has one picture" in told.err
    assert [(v["mode"], v["row"]) for v in report["verdicts"]] == [("equal minutes", "held-out")]


def test_peers_refuse_data_with_one_picture_a_caption_before_training(
    one_each: Path, quick_judge: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["peers", "pictures", "--data", str(one_each), "--vae", "coarse", "--out", str(tmp_path / "out")]
    assert command.main(argv) == 2
    assert "every caption has one picture, so there is no one score to compare by" in capsys.readouterr().err


def test_data_that_cannot_be_judged_is_named_before_training(
    quick_judge: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"train": 40, "validation": 12, "test": 5}
    made = [row | {"captions": [row["label"]]} for row in test_eval_single.rows(few)]
    folder = test_eval_single.saved(tmp_path / "few", made)
    monkeypatch.setattr(Loop, "train_step", lambda self: pytest.fail("trained first"))
    argv = [
        "pairs",
        "pictures",
        "--data",
        str(folder),
        "--vae",
        "coarse",
        "--sizes",
        "8",
        "--out",
        str(tmp_path / "out"),
    ]
    assert command.main(argv) == 2
    assert "split 'test' has captions of 5 families; a judgement takes at least 10" in capsys.readouterr().err


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["pairs", "model", "--trial", "9", "0", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--trial" in error
