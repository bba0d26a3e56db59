"""MiniLM tuned to pictures."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer

from bridge.errors import UserError
from bridge.text import TextEncoder
from bridge.text.words import WordVectors
from train import contrastive
from train.contrastive import ContrastiveObjective, ContrastiveTraining
from train.data.dataset import load_dataset, pixels_of, rows_of, to_unit
from train.perceptual import PictureFeatures
from train.prepare import main
from train.recipes.emoji import write_dataset

SHORT = replace(contrastive.LOOP, steps=6, batch_size=16, learning_rate=3e-4, warmup=1, validate_every=3)


class Codes(torch.nn.Module):
    """In place of a text encoder: captions are their first token's row of `table`."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table, self.dim = table, table.shape[1]

    def read(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.table[ids[:, 0]], ids


def loss_of(family: list[int]) -> torch.Tensor:
    """Loss of three captions of orthogonal codes, with pictures of the codes 0, 1 and 1."""
    objective = ContrastiveObjective(Codes(torch.eye(3)), 3)  # type: ignore[arg-type]
    objective.load_state_dict({"pictures.weight": torch.eye(3), "pictures.bias": torch.zeros(3)}, strict=False)
    ids = torch.arange(3)[:, None]
    with torch.no_grad():
        objective.log_scale.fill_(0)
        return objective(ids, torch.ones_like(ids), torch.eye(3)[[0, 1, 1]], torch.tensor(family))["loss"]


def test_the_loss_is_the_mean_of_both_ways():
    """Of cosines 1 0 0, 0 1 1, 0 0 0 at a scale of 1, by hand."""
    e = math.e
    captions = [math.log(e + 2) - 1, math.log(2 * e + 1) - 1, math.log(3)]
    pictures = [math.log(e + 2) - 1, math.log(e + 2) - 1, math.log(e + 2)]
    assert loss_of([1, 2, 3]).tolist() == pytest.approx([(a + b) / 2 for a, b in zip(captions, pictures, strict=True)])


def test_pictures_of_one_family_are_no_wrong_answers():
    e = math.e
    captions = [math.log(e + 2) - 1, math.log(e + 1) - 1, math.log(2)]
    pictures = [math.log(e + 2) - 1, math.log(e + 1) - 1, math.log(2)]
    assert loss_of([1, 2, 2]).tolist() == pytest.approx([(a + b) / 2 for a, b in zip(captions, pictures, strict=True)])
    assert loss_of([7, 7, 7]).tolist() == [0, 0, 0]


def test_features_tell_what_is_shown(artwork_folder):
    """Cats are nearer to cats of other artists than to buses, at any size; training takes no gradient of them."""
    rows = rows_of(load_dataset(artwork_folder), "train", "seen_validation")
    label, x = rows["label"], to_unit(pixels_of(rows))
    cats, buses = (x[[i for i, name in enumerate(label) if name == wanted]] for wanted in ("cat", "bus"))
    features = PictureFeatures()
    assert features(cats).shape == (len(cats), 1280)
    larger = torch.nn.functional.interpolate(cats, (160, 160), mode="bilinear")
    one, other, bus = (torch.nn.functional.normalize(features(part), dim=1) for part in (cats, larger, buses))
    apart = ~torch.eye(len(cats), dtype=torch.bool)
    assert (one @ other.T)[apart].mean() > (one @ bus.T).mean() + 0.1
    assert not any(parameter.requires_grad for parameter in features.network.parameters())


@pytest.fixture(scope="module")
def tuned(artwork_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ContrastiveTraining, Path]:
    """A run of six steps and its folder."""
    out = tmp_path_factory.mktemp("contrastive") / "run"
    training = ContrastiveTraining(artwork_folder, out, TextEncoder.from_pretrained(), SHORT)
    return training, training.run()


def test_captions_come_nearer_to_their_pictures(tuned, encoder):
    training, _ = tuned
    inputs = training.batch(torch.arange(len(training.families["train"])), 0)
    with torch.no_grad():
        after = training.objective(*inputs)["loss"].mean()
        training.objective.encoder, own = encoder, training.objective.encoder
        before = training.objective(*inputs)["loss"].mean()
        training.objective.encoder = own
    assert after < before - 0.1


def test_the_folder_opens_as_any_text_encoder(tuned, encoder):
    _, folder = tuned
    opened = TextEncoder.from_pretrained(folder)
    captions = ["a cat", "fire"]
    codes = opened.encode(captions).pooled
    theirs = torch.from_numpy(SentenceTransformer(str(folder), device="cpu").encode(captions))
    torch.testing.assert_close(codes, theirs, atol=1e-5, rtol=0)
    assert opened.fingerprint != encoder.fingerprint
    assert not torch.allclose(codes, encoder.encode(captions).pooled, atol=1e-3)
    changed = []
    for (name, own), before in zip(opened.model.named_parameters(), encoder.model.parameters(), strict=True):
        changed += [] if torch.equal(own, before) else [name.split("layer.")[1].split(".")[0]]
    assert set(changed) == {"3", "4", "5"}


def test_a_finished_run_is_not_trained_again(tuned, artwork_folder):
    training, folder = tuned
    again = ContrastiveTraining(artwork_folder, training.out, TextEncoder.from_pretrained(), SHORT)
    assert again.run() == folder
    assert again.loop.step == 6
    for one, two in zip(again.loop.parameters, training.loop.parameters, strict=True):
        assert torch.equal(one, two)


def test_which_caption_a_row_shows_is_keyed(tuned):
    training, _ = tuned
    rows = torch.tensor([3, 9, 20])
    same = training.batch(rows, 1)[0], training.batch(rows, 1)[0]
    assert torch.equal(*same)
    shown = {tuple(training.batch(rows[:1], epoch)[0][0].tolist()) for epoch in range(20)}
    assert len(shown) > 3


def test_only_a_bert_with_mean_pooling_can_be_tuned(artwork_folder, tmp_path):
    words = WordVectors(["red", "cat"], torch.eye(2))
    with pytest.raises(UserError, match=r"encoder: .* is no BERT of sentence-transformers with mean pooling"):
        ContrastiveTraining(artwork_folder, tmp_path / "out", words)


def test_the_command_prints_the_folder(artwork_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(contrastive.ContrastiveTraining.__init__, "__defaults__", (replace(SHORT, steps=1),))
    assert main([str(artwork_folder), "--contrastive", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "text")
    assert TextEncoder.from_pretrained(tmp_path / "run" / "text").dim == 384


def test_data_without_validation_is_one_line(artwork_rows, tmp_path, capsys):
    write_dataset([row for row in artwork_rows if row["split"] != "validation"], tmp_path / "data")
    capsys.readouterr()
    assert main([str(tmp_path / "data"), "--contrastive", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert (said.count("\n"), "SOURCE: no row of split 'validation'" in said) == (1, True)
