"""Own pictures at once: no training, a cache by content, a model folder, and what is said of few pictures."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import bridge.learn
from bridge import BridgePipeline
from bridge.cli import main
from bridge.codecs import VAECodec
from bridge.errors import UserError
from bridge.images import to_tensor
from bridge.mappers import LocalFlowMapper
from bridge.pipeline import ONE_PICTURE
from tests.fixtures import randomise

pytestmark = pytest.mark.usefixtures("one_encoder")

CAPTIONS = ("a red square", "a blue square", "a green circle", "a yellow circle", "an old tree", "a small house")


@pytest.fixture
def base(model_folder) -> Path:
    """A model folder whose codec and encoder the pictures are learnt with."""
    return Path(model_folder)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BRIDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST)


@pytest.fixture
def folder(tmp_path) -> Path:
    own = tmp_path / "own"
    own.mkdir()
    for number, caption in enumerate(CAPTIONS):
        picture(number).save(own / f"{number}.png")
        (own / f"{number}.txt").write_text(caption, "utf-8")
    return own


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """How many pictures each call of the codec encodes."""
    counts: list[int] = []
    encode = VAECodec.encode
    monkeypatch.setattr(VAECodec, "encode", lambda self, x: (counts.append(len(x)), encode(self, x))[1])
    return counts


def test_a_caption_draws_from_its_picture(folder, base):
    pipe = BridgePipeline.from_pairs(folder, base)
    z = pipe("an old tree", 4, seed=1, output_type="latent").images
    known = pipe.mapper.picture_latents(torch.arange(len(CAPTIONS)))
    nearest = torch.cdist(z.flatten(1), known.flatten(1)).argmin(1)
    assert nearest.tolist() == [4] * 4


def test_a_caption_known_without_its_articles_is_taken_for_that(folder, base):
    (folder / "6.txt").write_text("rocket", "utf-8")
    picture(6).save(folder / "6.png")
    pipe = BridgePipeline.from_pairs(folder, base)

    def code(text: str) -> torch.Tensor:
        return pipe.text_encoder.encode([text], with_tokens=False).pooled

    assert not torch.equal(code("a rocket"), code("rocket"))
    assert torch.equal(pipe.code("a rocket").pooled, code("rocket"))
    for caption in ("a red square", "a fast rocket", "an unknown thing", "the", "rocket"):
        assert torch.equal(pipe.code(caption).pooled, code(caption))


@pytest.mark.parametrize(("more", "taken"), [("rocket", "rocket"), ("a rocket", "a rocket"), ("comet", "a rocket")])
def test_of_a_caption_with_and_without_its_article_that_of_more_pictures_is_taken(folder, base, more, taken):
    for number, caption in enumerate(("rocket", "a rocket", more), start=6):
        (folder / f"{number}.txt").write_text(caption, "utf-8")
        picture(number).save(folder / f"{number}.png")
    pipe = BridgePipeline.from_pairs(folder, base)
    assert torch.equal(pipe.code("a rocket").pooled, pipe.text_encoder.encode([taken], with_tokens=False).pooled)


def test_a_request_is_read_as_what_it_asks_for(folder, base):
    pipe = BridgePipeline.from_pairs(folder, base)
    asked, plain = (
        pipe(text, 2, seed=3, output_type="pt").images for text in ("Draw me an old tree, please!", "an old tree")
    )
    assert torch.equal(asked, plain)
    assert pipe.read("a photo of a house") == "a house"


def test_a_request_that_is_a_known_caption_stays_whole(folder, base):
    (folder / "4.txt").write_text("a photo of an old tree", "utf-8")
    pipe = BridgePipeline.from_pairs(folder, base)
    assert pipe.read("a photo of an old tree") == "a photo of an old tree"


def test_a_request_for_what_an_encoder_cannot_read_stays_whole(folder, base, monkeypatch):
    pipe = BridgePipeline.from_pairs(folder, base)
    encode = type(pipe.text_encoder).encode

    def without_zebras(self, captions, **options):
        if "zebra" in captions:
            raise UserError("captions[0]: it has no known word")
        return encode(self, captions, **options)

    monkeypatch.setattr(type(pipe.text_encoder), "encode", without_zebras)
    assert pipe.read("a photo of zebra") == "a photo of zebra"


def test_an_image_depends_on_neither_number_nor_company(folder, base):
    pipe = BridgePipeline.from_pairs(folder, base)
    many = pipe(["a house", "a square"], 5, seed=3, output_type="pt").images
    assert torch.equal(pipe("a square", 2, seed=3, output_type="pt").images, many[5:7])


def test_the_second_time_nothing_is_read_or_encoded(folder, base, encoded, monkeypatch):
    first = BridgePipeline.from_pairs(folder, base)
    encoded.clear()
    monkeypatch.setattr(bridge.learn, "load_pairs", lambda *a, **k: pytest.fail("read again"))
    assert BridgePipeline.from_pairs(folder, base).fingerprint == first.fingerprint
    assert encoded == []


def test_a_new_picture_costs_that_picture_alone(folder, base, encoded):
    BridgePipeline.from_pairs(folder, base)
    encoded.clear()
    picture(9).save(folder / "9.png")
    (folder / "9.txt").write_text("a new bicycle", "utf-8")
    pipe = BridgePipeline.from_pairs(folder, base)
    assert encoded == [1]
    assert len(pipe.mapper.latents) == len(CAPTIONS) + 1


def test_refined_pictures_are_drawn_nearer_to_what_they_are(folder, base):
    plain, refined = (BridgePipeline.from_pairs(folder, base, refine=refine) for refine in (False, True))
    x = to_tensor([picture(number) for number in range(len(CAPTIONS))])
    errors = [
        (pipe.codec.decode(pipe.mapper.picture_latents(torch.arange(6))) - x).square() for pipe in (plain, refined)
    ]
    assert (errors[1].mean((1, 2, 3)) < errors[0].mean((1, 2, 3))).all()


def test_refined_and_plain_latents_are_kept_apart(folder, base, encoded):
    both = [BridgePipeline.from_pairs(folder, base, refine=refine).fingerprint for refine in (False, True)]
    encoded.clear()
    assert [BridgePipeline.from_pairs(folder, base, refine=refine).fingerprint for refine in (False, True)] == both
    assert (encoded, len(set(both))) == ([], 2)


def test_a_picture_that_was_removed_is_forgotten(folder, base, encoded):
    BridgePipeline.from_pairs(folder, base)
    encoded.clear()
    (folder / "4.png").unlink()
    (folder / "4.txt").unlink()
    pipe = BridgePipeline.from_pairs(folder, base)
    assert (encoded, "an old tree" in pipe.memory.captions) == ([], False)


def test_a_picture_that_was_replaced_is_encoded_again(folder, base, encoded):
    before = BridgePipeline.from_pairs(folder, base)
    encoded.clear()
    picture(77).save(folder / "4.png")
    after = BridgePipeline.from_pairs(folder, base)
    assert encoded == [1]
    assert not torch.equal(after.mapper.latents[4], before.mapper.latents[4])


def test_a_damaged_cache_is_made_again(folder, base, cache):
    first = BridgePipeline.from_pairs(folder, base)
    [file] = cache.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert BridgePipeline.from_pairs(folder, base).fingerprint == first.fingerprint
    assert file.stat().st_size > 100


def test_without_a_place_for_the_cache_it_works_all_the_same(folder, base, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BRIDGE_CACHE", str(tmp_path / "file" / "cache"))
    assert len(BridgePipeline.from_pairs(folder, base).mapper.latents) == len(CAPTIONS)


def test_a_saved_model_of_pairs_is_the_same_model(folder, base, tmp_path):
    pipe = BridgePipeline.from_pairs(folder, base)
    pipe.save_pretrained(tmp_path / "mine")
    again = BridgePipeline.from_pretrained(tmp_path / "mine")
    assert again.fingerprint == pipe.fingerprint
    drawn = [p("a tree", 2, seed=5, output_type="pt").images for p in (again, pipe)]
    assert torch.equal(*drawn)
    assert again.memory.captions == pipe.memory.captions
    assert not (tmp_path / "mine" / "captions" / "memory.safetensors").exists()


def test_with_default_both_memories_are_known(folder, base, tmp_path):
    mine = BridgePipeline.from_pairs(folder, base)
    mine.settings = replace(mine.settings, novelty=0.2)
    mine.mapper = bridge.learn.Memory.of(mine.mapper, mine.memory.captions).mapper({"perplexity": 5.0})
    mine.save_pretrained(tmp_path / "mine")
    other = tmp_path / "other"
    other.mkdir()
    picture(50).save(other / "a.png")
    (other / "a.txt").write_text("an old tree", "utf-8")  # known already
    picture(51).save(other / "b.png")
    (other / "b.txt").write_text("a sailing boat", "utf-8")
    pipe = BridgePipeline.from_pairs(other, tmp_path / "mine", with_default=True)
    assert pipe.settings == mine.settings
    assert pipe.mapper.perplexity == 5
    assert sorted(pipe.memory.captions) == sorted([*CAPTIONS, "a sailing boat"])
    assert len(pipe.mapper.latents) == len(CAPTIONS) + 2
    code = pipe.text_encoder.encode(["an old tree"], with_tokens=False).pooled[0]
    assert set(pipe.mapper.nearest(code)[0][:2].tolist()) == {4, 6}


def test_with_default_needs_a_model_with_a_memory(folder, base):
    with pytest.raises(ValueError, match=r"^with_default: .* has no memory of pictures"):
        BridgePipeline.from_pairs(folder, base, with_default=True)


def test_pictures_to_judge_with_are_not_learnt(tmp_path, base):
    for number in range(3):
        picture(number).save(tmp_path / f"{number}.png")
    table = "file_name,caption,split\n0.png,a cat,train\n1.png,a dog,test\n2.png,a cow,\n"
    (tmp_path / "metadata.csv").write_text(table, "utf-8")
    said: list[str] = []
    pipe = BridgePipeline.from_pairs(tmp_path, base, say=said.append)
    assert pipe.memory.captions == ["a cat", "a cow"]
    assert any("not learnt: 1 picture of other splits than train" in line for line in said)


def test_one_picture_of_a_caption_is_told(folder, base):
    pipe = BridgePipeline.from_pairs(folder, base)
    assert pipe("an old tree", 1, seed=0).notes == [ONE_PICTURE]


def test_two_pictures_of_a_caption_are_enough(folder, base):
    picture(30).save(folder / "30.png")
    (folder / "30.txt").write_text("an old tree", "utf-8")
    assert BridgePipeline.from_pairs(folder, base)("an old tree", 1, seed=0).notes == [None]


def test_a_style_is_drawn_from_alone(tmp_path, base):
    for number in range(4):
        picture(number).save(tmp_path / f"{number}.png")
    rows = "".join(f"{n}.png,a cat,{'flat' if n % 2 else 'photo'}\n" for n in range(4))
    (tmp_path / "metadata.csv").write_text("file_name,caption,style\n" + rows, "utf-8")
    pipe = BridgePipeline.from_pairs(tmp_path, base)
    known = pipe.mapper.picture_latents(torch.arange(4)).flatten(1)
    z = pipe("a cat", 8, seed=0, style="flat", output_type="latent").images
    assert set(torch.cdist(z.flatten(1), known).argmin(1).tolist()) <= {1, 3}
    with pytest.raises(ValueError, match=r"^style: .*its styles: flat, photo"):
        pipe("a cat", style="oil")


def test_novelty_and_style_are_refused_without_a_memory_of_pictures(tiny_pipeline):
    for settings in ({"novelty": 0.5}, {"style": "flat"}):
        with pytest.raises(ValueError, match=r"^novelty, style: FlowMatchingMapper"):
            tiny_pipeline("a cat", 1, **settings)


@pytest.mark.parametrize("novelty", [-2, 2, float("nan"), "much"])
def test_a_novelty_out_of_range_is_refused(folder, base, novelty):
    with pytest.raises(ValueError, match=r"^novelty: expected a number from -1 to 1"):
        BridgePipeline.from_pairs(folder, base)("a cat", 1, novelty=novelty)


def run(capsys, *words: object) -> tuple[int, list[str], str]:
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def test_the_command_draws_from_a_folder(folder, base, tmp_path, capsys):
    words = ("generate", "a house", "-n", 2, "--pairs", folder, "--model", base, "--out", tmp_path / "out")
    code, out, _ = run(capsys, *words)
    assert (code, len(out)) == (0, 3)
    assert all(Path(line).is_file() for line in out)


def test_the_command_learns_a_model_folder(folder, base, tmp_path, capsys):
    mine = tmp_path / "mine"
    assert run(capsys, "learn", folder, "--model", base, "--out", mine)[:2] == (0, [str(mine)])
    code, out, _ = run(capsys, "info", tmp_path / "mine")
    assert code == 0
    assert any("6 pictures" in line for line in out)
    words = ("generate", "a house", "-n", 2, "--no-sheet", "--out", tmp_path / "out")
    from_model = run(capsys, *words, "--model", tmp_path / "mine")[1]
    from_pairs = run(capsys, *words, "--model", base, "--pairs", folder)[1]
    assert from_model == from_pairs  # the same names: the same model and settings
    refined = ("--refine", "--model", base)
    assert run(capsys, "learn", folder, *refined, "--out", mine)[0] == 0
    from_model = run(capsys, *words, "--model", mine)[1]
    assert from_model == run(capsys, *words, *refined, "--pairs", folder)[1] != from_pairs


def test_a_folder_of_somebody_elses_is_refused_before_anything_is_learnt(folder, base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bridge.learn, "load_pairs", lambda *a, **k: pytest.fail("read"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("mine")
    code, _, err = run(capsys, "learn", folder, "--model", base, "--out", tmp_path / "mine")
    assert (code, "--out: " in err, "diary.txt: was not written by this command" in err) == (2, True, True)


def test_the_provenance_names_novelty_where_it_was_asked_for(folder, base, tmp_path, capsys):
    out = tmp_path / "out"
    words = ("generate", "a house", "-n", 1, "--no-sheet", "--pairs", folder, "--model", base, "--out", out)
    run(capsys, *words)
    run(capsys, *words, "--novelty", "0.5")
    plain, novel = (json.loads(line) for line in (out / "manifest.jsonl").read_text("utf-8").splitlines())
    assert "novelty" not in plain
    assert novel["novelty"] == 0.5


def test_drawings_of_a_folder_are_new_ones_and_photographs_are_not(folder, base):
    assert BridgePipeline.from_pairs(folder, base).settings.novelty == 0
    assert BridgePipeline.from_pairs(folder).settings.novelty == 0.5


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--pairs", "nowhere"), "--pairs: "),
        (("--pairs", "FOLDER", "--with-default"), "--with-default: "),
        (("--pairs", "FOLDER", "--style", "oil"), "--style: "),
        (("--pairs", "FOLDER", "--novelty", "2"), "--novelty: "),
        (("--pairs", "FOLDER", "--size", "100"), "--size: "),
        (("--pairs", "FOLDER", "--transparent"), "--transparent: "),
        (("--with-default",), "--with-default: does nothing without --pairs SOURCE; add that"),
        (("--caption-column", "text"), "--caption-column: does nothing without --pairs SOURCE; add that"),
        (("--captions-from", "file"), "--captions-from: does nothing without --pairs SOURCE; add that"),
    ],
)
def test_bad_input_is_one_line(words, error, folder, base, tmp_path, capsys):
    words = tuple(str(folder) if word == "FOLDER" else word for word in words)
    code, out, err = run(capsys, "generate", "a cat", "--model", base, "--out", tmp_path / "out", *words)
    told = [line for line in err.splitlines() if line.startswith("bridge generate: ")]
    assert (code, out, len(told)) == (2, [], 1)
    assert error in told[0]


def test_pictures_without_captions_are_told_the_option_of_this_command(base, tmp_path, capsys):
    (tmp_path / "bare").mkdir()
    picture(0).save(tmp_path / "bare" / "cat.png")
    code, _, err = run(capsys, "learn", tmp_path / "bare", "--model", base, "--out", tmp_path / "mine")
    assert code == 2
    assert "or pass --captions-from file" in err


def test_a_models_correction_serves_other_pictures(folder, base, tmp_path):
    pipe = BridgePipeline.from_pairs(folder, base)
    pipe.mapper = pipe.mapper.corrected(
        {"family": "TransformerFlowMapper", "width": 16, "heads": 2, "blocks": 1, "max_tokens": 0}, begin=0.5
    )
    randomise(pipe.mapper.network, 0)
    pipe.save_pretrained(tmp_path / "corrected")
    again = BridgePipeline.from_pairs(folder, tmp_path / "corrected")
    assert again.mapper.begin == 0.5
    drawn = [p("a house", 1, seed=0, output_type="latent").images for p in (pipe, again)]
    assert torch.equal(*drawn)
    assert not torch.equal(
        drawn[0], BridgePipeline.from_pairs(folder, base)("a house", 1, seed=0, output_type="latent").images
    )


def test_memory_of_a_mapper_and_back(folder, base):
    pipe = BridgePipeline.from_pairs(folder, base)
    again = bridge.learn.Memory.of(pipe.mapper, pipe.memory.captions).mapper()
    assert isinstance(again, LocalFlowMapper)
    assert torch.equal(again.latents, pipe.mapper.latents)
    code = pipe.text_encoder.encode(["a house"], with_tokens=False).pooled[0]
    assert np.array_equal(again.nearest(code)[0], pipe.mapper.nearest(code)[0])


def test_a_caption_that_says_what_a_picture_shows_is_no_allusion_beside_another_memory(folder, base):
    pipe = BridgePipeline.from_pairs(folder, base)
    plain = bridge.learn.Memory.of(pipe.mapper, pipe.memory.captions)
    first, second = plain.texts[:2]
    alluding = replace(plain, allusions=frozenset([first]))
    assert bridge.learn.Memory.of(alluding.mapper(), plain.texts).allusions == {first}
    assert (alluding + plain).allusions == (plain + alluding).allusions == frozenset()
    assert (alluding + replace(plain, allusions=frozenset([first, second]))).allusions == {first}
