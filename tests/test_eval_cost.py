"""Benchmarks run and print ratios; what they print is measured elsewhere."""

import re
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features, Image

from bridge.codecs import VAECodec
from eval.studies.cost import __main__ as cost
from eval.studies.cost import drawing, training
from tests.pictures import encoded, pattern
from train.timing import interleaved


def test_works_take_turns() -> None:
    done: list[str] = []
    taken = interleaved({name: lambda name=name: done.append(name) for name in "ab"}, 1)  # type: ignore[misc]
    assert done == ["a", "b"] * 3 and min(taken.values()) >= 0


def test_reading_few_and_many_pairs_is_told_as_ratios(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(training, "STEPS", 1)

    def run(command: list[str], **_: object) -> object:
        assert command[1] == "-c" and "trained_mib" in command[2]
        return type("Done", (), {"stdout": "123.0"})

    monkeypatch.setattr(training.subprocess, "run", run)
    read, trained, memory = training.read_lines(300, 600, 1)
    assert re.fullmatch(r"read: pairs a second [\d,]+ with 300, [\d,]+ with 600; ratio \d+\.\d{3}", read)
    assert trained.startswith("train: pairs a second") and "MiB with 600; ratio 1.0" in memory


def test_memory_is_that_of_a_process_that_trains_from_a_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(training, "STEPS", 1)
    assert 10 < training.trained_mib(str(tmp_path), 300) < 100_000
    assert len(list(tmp_path.rglob("*.arrow"))) == 1


def test_filling_is_told_against_the_codec(tiny_vae: object) -> None:
    files = [encoded(pattern(i, 64)) for i in range(3)]
    rows = Dataset.from_dict({"image": files}, Features({"image": Image()}))
    line = training.fill_line(VAECodec(tiny_vae), rows, 1)  # type: ignore[arg-type]
    assert re.fullmatch(r"fill: [\d,]+ pictures a second into the cache, .* ratio \d+\.\d{3}", line)


def test_the_cache_is_filled_from_all_over_a_dataset(
    artwork_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "FILLED", 4)
    monkeypatch.setattr(training, "read_lines", lambda few, many, repeats: [f"{few} {many}"])
    monkeypatch.setattr(training, "fill_line", lambda codec, rows, repeats: f"{codec.image_size} {len(rows)}")
    assert cost.main(["cache", str(artwork_folder), "--pairs", "300", "600", "--repeats", "1"]) == 0
    assert capsys.readouterr().out == "300 600\n128 4\n"


def test_a_cache_of_no_dataset_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cost.main(["cache", str(tmp_path)]) == 2
    assert f"python -m eval.studies.cost cache: data: {tmp_path} is not a dataset" in capsys.readouterr().err


def test_a_search_through_an_index_is_told_against_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr("bridge.mappers.local.EXACT", 2000)
    known = drawing.made_up(torch.eye(32), 300, 5)
    queries = drawing.made_up(known, 3, 0)
    assert float((queries.norm(dim=1) - 1).abs().max()) < 1e-5
    few, many = (drawing.search_line(size, known, queries, 0.5, 1).split(" | ") for size in (1500, 6000))
    assert few[2].strip() == "none" and float(few[5]) == 1
    assert many[2].strip().endswith("MB") and float(many[5]) > 0.9
    assert 0 < float(many[4]) < 100


def test_a_model_without_a_memory_cannot_be_searched(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cost.main(["search", str(model_folder)]) == 2
    assert "has no memory to search; take a local flow" in capsys.readouterr().err
