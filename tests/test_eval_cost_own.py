"""The benchmark of one's own few pairs: what it trains on, and what it tells."""

import csv
import re
from pathlib import Path

import datasets
import pytest

from eval.studies.cost import __main__ as cost
from eval.studies.cost import own as cost_own
from tests.fixtures import made_up, shorten_own
from train.config import ConfigError
from train.data.dataset import load_dataset, rows_of
from train.recipes.emoji import write_dataset

PAIRS = 20


@pytest.fixture(scope="module")
def told(artwork_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Where a short benchmark left its files, and what it told; the judge's report is made up."""

    out = tmp_path_factory.mktemp("bench") / "own"
    with pytest.MonkeyPatch.context() as patch:
        shorten_own(patch)
        patch.setattr(cost_own, "quietly", made_up)
        return out, cost_own.own_lines(artwork_folder, PAIRS, out, 0.01)


def test_it_trains_on_so_many_pairs_and_holds_out_all_there_are(told, artwork_folder):
    out, _ = told
    table = list(csv.DictReader((out / "source" / "metadata.csv").read_text("utf-8").splitlines()))
    all_rows, used = load_dataset(artwork_folder), load_dataset(out / "run" / "data")
    assert sum(row["split"] == "train" for row in table) == PAIRS
    assert all((out / "source" / row["file_name"]).is_file() for row in table)
    for split in ("validation", "test"):
        assert len(rows_of(used, split)) == len(rows_of(all_rows, split))


def test_it_tells_seconds_and_figures(told):
    _, lines = told
    seconds, *figures = lines
    assert re.match(r"\d+ s from 20 pairs in a folder to a model and its sheet .*sheet\.png$", seconds)
    assert [" ".join(line.split()) for line in figures] == [
        "held out, this model fit 0.25 [0.10, 0.40] copies 0.25 [0.10, 0.40]",
        "held out, the nearest training picture fit 0.25 [0.10, 0.40] copies 0.25 [0.10, 0.40]",
        "held out, other real pictures fit – copies 0.25 [0.10, 0.40]",
    ]


def test_more_pairs_than_there_are_is_one_line(artwork_folder, tmp_path, capsys):
    argv = ["own", str(artwork_folder), "--few", "999", "--out", str(tmp_path / "out")]
    assert cost.main(argv) == 2
    assert re.search(r"pairs: expected at most \d+, the training rows there are, got 999", capsys.readouterr().err)
    assert not (tmp_path / "out" / "source").exists()


def test_other_pictures_under_the_same_path_are_not_taken_for_those_before(told, artwork_rows, tmp_path):
    out, _ = told
    left = {path: path.read_bytes() for path in out.rglob("*.json")}
    changed = [row | {"label": "another"} if i == 0 else row for i, row in enumerate(artwork_rows)]
    write_dataset(changed, tmp_path / "data")
    with pytest.raises(ConfigError, match=r"^--out: .* was begun with other data; name another folder"):
        cost_own.own_lines(tmp_path / "data", PAIRS, out, 0.01)
    assert {path: path.read_bytes() for path in out.rglob("*.json")} == left


def test_another_number_of_pairs_is_not_taken_for_the_one_before(told, artwork_folder):
    with pytest.raises(ConfigError, match=r"was begun with other pairs; name another folder"):
        cost_own.own_lines(artwork_folder, PAIRS - 1, told[0], 0.01)


def test_fewer_pairs_are_part_of_more(artwork_folder, tmp_path):
    dataset: datasets.Dataset = load_dataset(artwork_folder)
    kept = []
    for pairs in (4, 9):
        cost_own.write_source(dataset, pairs, tmp_path / str(pairs))
        kept.append([(tmp_path / str(pairs) / f"{i:05d}.png").read_bytes() for i in range(pairs)])
    assert kept[1][:4] == kept[0]
