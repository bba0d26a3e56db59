"""Word vectors as a text space: weighted means, files of every format, and the fit on training captions alone."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gensim.models import KeyedVectors

from bridge.checkpoint import CheckpointError
from bridge.errors import UserError
from bridge.pipeline import BridgePipeline
from bridge.text import CaptionTruncatedWarning, TextEncoder
from bridge.text.encoders import load_text_encoder
from bridge.text.words import WordVectors
from train.loop import LoopConfig
from train.mapper import MapperConfig, MapperTraining
from train.prepare import fit_words, idf_weights, main, training_sentences
from train.recipes.emoji import write_dataset

WORDS = ["red", "cat", "face", "Paris"]
VECTORS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0], [-1.0, 0.5, 0.0]])
IDF = torch.tensor([1.0, 3.0, 0.5, 2.0])
SENTENCES = [["red", "cat"], ["red", "bus"], ["cat", "face"], ["a", "red", "face"]]


@pytest.fixture
def space() -> WordVectors:
    return WordVectors(WORDS, VECTORS, IDF)


def unit(*numbers: float) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(numbers), dim=0)


# codes


def test_a_code_is_the_mean_weighted_by_idf(space):
    torch.testing.assert_close(space.encode(["red cat face"]).pooled[0], unit(1.0, 6.0, 0.5))


def test_without_idf_all_words_weigh_the_same():
    code = WordVectors(WORDS, VECTORS).encode(["red cat face"])
    torch.testing.assert_close(code.pooled[0], unit(1.0, 2.0, 1.0))


def test_a_word_said_twice_counts_twice(space):
    torch.testing.assert_close(space.encode(["red red face"]).pooled[0], unit(2.0, 0.0, 0.5))


def test_tokens_are_the_vectors_of_the_words_in_order(space):
    code = space.encode(["cat, red!", "face"])
    assert torch.equal(code.tokens[0], VECTORS[[1, 0]])
    assert torch.equal(code.tokens[1], torch.stack([VECTORS[2], torch.zeros(3)]))
    assert code.mask.tolist() == [[True, True], [True, False]]


def test_unknown_words_are_skipped(space):
    assert torch.equal(space.encode(["a cat in Rome"]).tokens[0], VECTORS[[1]])


@pytest.mark.parametrize(("caption", "row"), [("RED", 0), ("Paris", 3), ("😺-cat", 1), ("t_cat", 1), ("CAT's", 1)])
def test_words_are_found_as_written_and_then_lowered(space, caption, row):
    assert torch.equal(space.encode([caption]).tokens[0, -1], VECTORS[row])


def test_a_capital_that_is_known_is_not_lowered(space):
    with pytest.raises(ValueError, match="'paris' has none of the 4 known words"):
        space.encode(["paris"])


def test_emoji_are_read_by_their_names(space):
    assert torch.equal(space.encode(["🐱"]).tokens[0], VECTORS[[1, 2]])


def test_a_caption_without_a_known_word_is_named(space):
    with pytest.raises(ValueError, match=r"captions\[1\]: 'blue dog' has none of the 4 known words; use other words"):
        space.encode(["red", "blue dog"])
    with pytest.raises(ValueError, match="'blue dog' has none"):
        space.prepare("blue dog")


def test_words_that_cancel_out_are_named():
    space = WordVectors(["up", "down"], torch.tensor([[1.0], [-1.0]]))
    with pytest.raises(ValueError, match="the vectors of 'up down' cancel out"):
        space.encode(["up", "up down"], batch_size=2)


def test_any_batch_gives_the_same_codes(space):
    captions = ["red", "cat face red", "face cat", "red red"]
    one, four = space.encode(captions), space.encode(captions, batch_size=4)
    torch.testing.assert_close(four.pooled, one.pooled)
    assert torch.equal(four.tokens, one.tokens)


def test_a_long_caption_is_cut_and_says_so():
    space = WordVectors(WORDS, VECTORS, max_tokens=2)
    with pytest.warns(CaptionTruncatedWarning, match="has 3 tokens, the encoder reads 2; cut: 'face of it'") as caught:
        code = space.encode(["red and cat face of it"])
    assert (code.mask.shape, Path(caught[0].filename)) == ((1, 2), Path(__file__))


def test_frozen_means_frozen(space):
    before = {name: value.clone() for name, value in space.state_dict().items()}
    assert before.keys() == {"vectors", "idf"}
    with torch.enable_grad():
        assert not space.train().encode(["red"]).pooled.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in space.state_dict().items())
    assert not list(space.parameters())


def test_it_keeps_its_own_copy(space):
    vectors = VECTORS.clone()
    mine = WordVectors(WORDS, vectors, IDF)
    vectors[0] = 9
    assert torch.equal(mine.encode(["red"]).tokens[0, 0], VECTORS[0])


@pytest.mark.parametrize(
    ("words", "vectors", "idf", "told"),
    [
        (WORDS[:3], VECTORS, None, r"vectors: expected \(V, D\) for 3 >= 1 words, got \(4, 3\)"),
        ([], torch.zeros(0, 3), None, "vectors: expected"),
        (WORDS, VECTORS, IDF[:2], r"idf: expected \(4,\) finite weights of 0 or more"),
        (WORDS, VECTORS, -IDF, "idf: expected"),
        (WORDS, VECTORS / 0, None, "vectors: expected finite numbers"),
        (["red", "red", "a", "b"], VECTORS, None, "words: expected each once"),
    ],
)
def test_parts_that_do_not_fit_are_refused(words, vectors, idf, told):
    with pytest.raises(ValueError, match=told):
        WordVectors(words, vectors, idf)


def test_the_fingerprint_tells_words_vectors_and_weights_apart(space):
    others = [
        WordVectors([*WORDS[:3], "Rome"], VECTORS, IDF),
        WordVectors(WORDS, VECTORS + 1e-6, IDF),
        WordVectors(WORDS, VECTORS, IDF * 2),
        WordVectors(WORDS, VECTORS, IDF, max_tokens=9),
    ]
    assert len({space.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert WordVectors(WORDS, VECTORS, IDF, id="other").fingerprint == space.fingerprint


# files


def keyed() -> KeyedVectors:
    vectors = KeyedVectors(3)
    vectors.add_vectors(WORDS, VECTORS.numpy())
    return vectors


def write_text(path: Path, header: bool) -> None:
    lines = [f"{word} {' '.join(map(str, row))}" for word, row in zip(WORDS, VECTORS.tolist(), strict=True)]
    path.write_text("\n".join(["4 3"] * header + lines) + "\n")


def binary_row(word: str, vector: torch.Tensor) -> bytes:
    """As word2vec itself writes one: with a line's end, which gensim leaves out."""
    return word.encode() + b" " + vector.numpy().astype("<f4").tobytes() + b"\n"


WRITERS = {
    "glove.txt": lambda path: write_text(path, header=False),
    "word2vec.vec": lambda path: write_text(path, header=True),
    "gensim.txt": lambda path: keyed().save_word2vec_format(str(path)),
    "google.bin": lambda path: keyed().save_word2vec_format(str(path), binary=True),
    "UPPER.BIN": lambda path: keyed().save_word2vec_format(str(path), binary=True),
    "plain.bin": lambda path: path.write_bytes(b"4 3\n" + b"".join(map(binary_row, WORDS, VECTORS))),
    "arrays.npz": lambda path: np.savez(path, words=np.array(WORDS), vectors=VECTORS.numpy()),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_opens(tmp_path, name):
    WRITERS[name](tmp_path / name)
    opened = TextEncoder.from_pretrained(tmp_path / name)
    assert opened.fingerprint == WordVectors(WORDS, VECTORS).fingerprint
    assert (opened.id, opened.dim) == (str(tmp_path / name), 3)


def test_an_npz_may_hold_weights(space, tmp_path):
    np.savez(tmp_path / "a.npz", words=np.array(WORDS), vectors=VECTORS.numpy(), idf=IDF.numpy())
    assert WordVectors.from_pretrained(tmp_path / "a.npz").fingerprint == space.fingerprint


def test_a_word_may_hold_spaces_and_the_first_of_two_counts(tmp_path):
    (tmp_path / "a.txt").write_text("red 1 0\nnew york 0 1\nred 5 5\n")
    opened = WordVectors.from_pretrained(tmp_path / "a.txt")
    assert (opened.words, opened.vectors.tolist()) == (["red", "new york"], [[1, 0], [0, 1]])


def damaged_npz(path: Path) -> None:
    np.savez(path, words=np.array(WORDS, dtype=object), vectors=VECTORS.numpy())


def half_npz(path: Path) -> None:
    np.savez(path, words=np.array(WORDS))


@pytest.mark.parametrize(
    ("name", "write", "told"),
    [
        ("a.txt", lambda p: p.write_text("red 1 0\ncat 1\n"), "line 2 has 1 numbers, expected 2 after a word"),
        ("a.txt", lambda p: p.write_text("red 1 0\ncat 1 x\n"), "could not convert string to float: 'x'"),
        ("a.txt", lambda p: p.write_text("red\n"), "line 1 has 0 numbers, expected 1 after a word"),
        ("a.txt", lambda p: p.write_text(""), "it is empty"),
        ("a.txt", lambda p: p.write_bytes(b"\xff\xfe red 1"), "can't decode byte 0xff"),
        ("a.npz", lambda p: p.write_bytes(b"PK\x03\x04nothing"), "pass word vectors as text, .bin or .npz"),
        ("a.npz", damaged_npz, "Object arrays cannot be loaded when allow_pickle=False"),
        ("a.npz", half_npz, "it lacks vectors, it has words"),
        ("a.bin", lambda p: p.write_bytes(b"4 3\nred"), "do not hold 4 words of 3 numbers"),
        ("a.bin", lambda p: p.write_bytes(b"2 1\nred " + b"\0" * 30), "it ends in word 2 of 2"),
        ("a.bin", lambda p: p.write_bytes(b"\xba\x16\x4f\x2f" + b"\0" * 30), "does not begin with its counts"),
        ("a.bin", lambda p: p.write_bytes(b"99999999999 9999999999\n"), "do not hold"),
    ],
)
def test_damaged_files_are_one_line_with_the_remedy(tmp_path, name, write, told):
    write(tmp_path / name)
    with pytest.raises(ValueError, match="pass word vectors as text") as caught:
        TextEncoder.from_pretrained(tmp_path / name)
    said = str(caught.value)
    assert told in said
    assert (said.count("\n"), str(tmp_path / name) in said) == (0, True)


def test_a_file_with_numbers_that_are_none_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("red 1 nan\n")
    with pytest.raises(ValueError, match="vectors: expected finite numbers"):
        WordVectors.from_pretrained(tmp_path / "a.txt")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        WordVectors.from_pretrained(tmp_path / "none.txt")


# folders


def test_saved_and_loaded_is_the_same(space, tmp_path):
    space.save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    for again in (TextEncoder.from_pretrained(tmp_path), load_text_encoder(space.spec(), tmp_path)):
        assert again.fingerprint == space.fingerprint
        assert torch.equal(again.encode(["red cat"]).pooled, space.encode(["red cat"]).pooled)


def test_other_vectors_than_a_model_was_made_with_are_refused(space, tmp_path):
    WordVectors(WORDS, VECTORS * 2, IDF).save(tmp_path)
    with pytest.raises(ValueError, match=f"expected {space.digest}; these are not the vectors asked for"):
        load_text_encoder(space.spec(), tmp_path)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "words.safetensors").unlink(), "lacks words.safetensors"),
        (lambda folder: (folder / "words.safetensors").write_bytes(b"x"), "is damaged"),
        (lambda folder: (folder / "words.json").write_text("{"), "is damaged"),
        (lambda folder: (folder / "words.json").write_text('{"words": ["red"]}'), "is damaged .'max_tokens'"),
    ],
)
def test_damaged_folders_are_refused(space, tmp_path, damage, told):
    space.save(tmp_path)
    damage(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        TextEncoder.from_pretrained(tmp_path)


# fitted on training captions


def test_every_word_gets_a_vector_and_its_idf():
    space = fit_words(SENTENCES, dim=4, epochs=2)
    assert set(space.words) == {"red", "cat", "bus", "face", "a"}
    assert space.idf[space.words.index("red")] == pytest.approx(np.log(5 / 4) + 1)
    assert space.idf[space.words.index("bus")] == pytest.approx(np.log(5 / 2) + 1)


def test_idf_counts_captions_not_words():
    assert torch.equal(idf_weights([["red", "red"], ["cat"]], ["red"]), idf_weights([["red"], ["cat"]], ["red"]))


def test_the_same_sentences_give_the_same_vectors():
    one, two, other = (fit_words(SENTENCES, dim=4, epochs=2, seed=seed) for seed in (0, 0, 1))
    assert (one.fingerprint == two.fingerprint, one.fingerprint == other.fingerprint) == (True, False)


def test_words_of_like_company_are_near():
    """Two pairs of words that never meet, each seen with its own companions."""
    sentences = [[a, b] for a in ("cat", "dog") for b in ("fur", "paw", "tail")] * 60
    sentences += [[a, b] for a in ("bus", "car") for b in ("wheel", "road", "horn")] * 60
    space = fit_words(sentences, dim=8, epochs=300)
    cat, dog, bus = space.encode(["cat", "dog", "bus"]).pooled
    assert cat @ dog > 2 * abs(cat @ bus)


def test_only_training_captions_are_read(artwork_rows, tmp_path):
    rows = [
        row if row["split"] == "train" else {**row, "captions": ["secret words"], "label": "secret words"}
        for row in artwork_rows
    ]
    write_dataset(rows, tmp_path / "data")
    sentences = training_sentences(tmp_path / "data")
    assert ["cat"] in sentences
    assert not any("secret" in sentence for sentence in sentences)
    assert len(sentences) == len({tuple(sentence) for sentence in sentences} | {()}) - 1
    assert ["secret", "words"] in training_sentences(tmp_path / "data", every=True)


def test_the_command_writes_what_opens(artwork_folder, tmp_path, capsys):
    arguments = [str(artwork_folder), "--words", str(tmp_path / "words"), "--dim", "6", "--epochs", "1"]
    assert main(arguments) == 0
    opened = TextEncoder.from_pretrained(tmp_path / "words")
    assert (opened.dim, capsys.readouterr().out.strip()) == (6, str(tmp_path / "words"))
    assert main([*arguments[:2], str(tmp_path / "more"), *arguments[3:], "--all-captions"]) == 0
    assert set(opened.words) < set(TextEncoder.from_pretrained(tmp_path / "more").words)
    weights = tmp_path / "words" / "words.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"words.safetensors: damaged"):
        TextEncoder.from_pretrained(tmp_path / "words")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["DATA", "--dim", "0"], "--dim: expected a whole number of 1 or more"),
        (["nowhere"], "SOURCE: nowhere is not a dataset"),
    ],
)
def test_a_wrong_argument_is_one_line_and_code_2(artwork_folder, tmp_path, capsys, arguments, told):
    code = main(
        [str(artwork_folder) if argument == "DATA" else argument for argument in arguments]
        + ["--words", str(tmp_path / "words")]
    )
    assert (code, capsys.readouterr().err.startswith(f"python -m train.prepare: {told}")) == (2, True)
    assert not (tmp_path / "words").exists()


# under a mapper


@pytest.fixture(scope="module")
def trained(artwork_folder: Path, vae_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> MapperTraining:
    """A run over word vectors of the sample's own captions, ended after two steps."""
    root = tmp_path_factory.mktemp("run")
    fit_words(training_sentences(artwork_folder), dim=8, epochs=2).save(root / "words")
    loop = LoopConfig(steps=2, batch_size=8, warmup=1, validate_every=2, save_minutes=60)
    mapper = {"width": 16, "hidden": 16, "blocks": 1, "condition": 16}
    config = MapperConfig(artwork_folder, vae_folder, root / "run", loop, text=str(root / "words"), mapper=mapper)
    training = MapperTraining(config)
    training.run()
    return training


def test_a_model_over_word_vectors_carries_them(trained, tmp_path):
    """It draws the same after the folder it was trained from is gone."""
    model = trained.config.out / "model"
    index = json.loads((model / "model_index.json").read_text("utf-8"))
    assert index["text_encoder"]["kind"] == "word-vectors"
    (Path(trained.config.text) / "words.json").rename(tmp_path / "moved.json")
    try:
        opened = BridgePipeline.from_pretrained(model)
        z = opened("cat", 2, seed=3, output_type="latent").images
    finally:
        (tmp_path / "moved.json").rename(Path(trained.config.text) / "words.json")
    assert torch.equal(z, trained.pipeline(trained.mapper)("cat", 2, seed=3, output_type="latent").images)


def test_training_leaves_the_vectors_as_they_were(trained):
    fresh = WordVectors.from_pretrained(trained.config.text)
    assert torch.equal(trained.encoder.vectors, fresh.vectors)
    assert torch.equal(trained.encoder.idf, fresh.idf)


def test_held_out_captions_without_a_known_word_are_left_out_and_told(trained, artwork_folder, capsys):
    MapperTraining(trained.config)
    said = capsys.readouterr().err
    assert "captions that the text encoder cannot read" in said
    known = set(trained.encoder.words)
    for side in trained.held_out.values():
        assert all(known & set(text.lower().replace(":", "").split()) for text in side.table.texts)


class Evil:
    """Runs code when it is unpickled."""

    ran = False

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("from tests.test_words import Evil; Evil.ran = True",)


@pytest.mark.parametrize("name", ["a.kv", "a.KV", "a.model", "a.pkl", "a.txt", "a.bin", "a.npz"])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_no_pickle_is_loaded_whatever_it_is_called(tmp_path: Path, name: str, protocol: int) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Evil(), protocol))
    with pytest.raises(UserError, match="source: "):
        WordVectors.from_pretrained(tmp_path / name)
    assert not Evil.ran


def test_objects_in_an_npz_are_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", words=np.array([Evil()], dtype=object), vectors=np.ones((1, 2)))
    with pytest.raises(UserError, match="Object arrays cannot be loaded"):
        WordVectors.from_pretrained(tmp_path / "a.npz")
    assert not Evil.ran


def test_gensims_own_file_is_refused_with_the_way_to_text(tmp_path: Path) -> None:
    keyed().save(str(tmp_path / "own.kv"))
    with pytest.raises(UserError, match=r"it is a pickle, .*save_word2vec_format\('words.txt'\)` makes text"):
        WordVectors.from_pretrained(tmp_path / "own.kv")
