"""The study of the page under load, on a tiny model."""

import re

from eval.studies.cost.__main__ import main


def test_it_tells_identity_rates_memory_and_refusal(model_folder, capsys):
    words = ["--visitors", "4", "--seeds", "5", "--pictures", "2", "--rounds", "1", "--requests", "10"]
    assert main(["serve", str(model_folder), *words]) == 0
    told = capsys.readouterr().out
    assert "5 of 5 visitors at once" in told
    assert len(re.findall(r"^at once / serial +\d", told, flags=re.M)) == 2
    assert len(re.findall(r"^resident memory +[\d.]+ MB after", told, flags=re.M)) == 10
    assert len(re.findall(r"^at best by batches +\d", told, flags=re.M)) == 2
    assert "a full queue            refuses after" in told
