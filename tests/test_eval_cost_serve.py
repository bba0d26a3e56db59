"""The study of the page under load, on a tiny model."""

import re

from eval.studies.cost import serve
from eval.studies.cost.__main__ import main


def test_it_tells_identity_rates_memory_and_refusal(model_folder, capsys, monkeypatch):
    monkeypatch.setattr(serve.bound, "__defaults__", (1,))  # repeats
    words = ["--visitors", "2", "--seeds", "3", "--pictures", "2", "--rounds", "1", "--requests", "10"]
    assert main(["serve", str(model_folder), *words]) == 0
    told = capsys.readouterr().out
    assert "3 of 3 visitors at once" in told
    assert len(re.findall(r"^at once / serial +\d", told, flags=re.M)) == 2
    assert len(re.findall(r"^resident memory +[\d.]+ MB after", told, flags=re.M)) == 10
    assert len(re.findall(r"^at best by batches +\d", told, flags=re.M)) == 2
    assert "a full queue            refuses after" in told
