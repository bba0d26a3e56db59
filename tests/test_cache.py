"""Caches: computed once, and only for what they were computed from."""

import pytest
import torch
from torch import Tensor

from bridge.codec import VAECodec
from train.cache import cached, caption_codes, latents, text_codes
from train.data import to_unit


class Counter:
    """Computes one tensor and counts how often."""

    def __init__(self, value: float = 1.0) -> None:
        self.calls, self.value = 0, value

    def __call__(self) -> dict[str, Tensor]:
        self.calls += 1
        return {"a": torch.full((2, 3), self.value), "b": torch.arange(4)}


@pytest.fixture
def pixels() -> Tensor:
    return torch.randint(256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_the_second_time_nothing_is_computed(tmp_path):
    compute = Counter()
    for _ in range(2):
        cached(tmp_path, "x", [b"1"], compute)
    assert compute.calls == 1


def test_what_is_kept_is_what_was_computed(tmp_path):
    compute = Counter(0.1)
    first, second = (cached(tmp_path, "x", [b"1"], compute) for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("identity", [[b"2"], [b"1", b""], [b"1", b"1"], []])
def test_another_identity_is_computed_anew(tmp_path, identity):
    cached(tmp_path, "x", [b"1"], Counter(1.0))
    assert cached(tmp_path, "x", identity, Counter(2.0))["a"][0, 0] == 2


def test_where_one_part_ends_matters(tmp_path):
    """["ab", "c"] and ["a", "bc"] are other captions."""
    cached(tmp_path, "x", [b"ab", b"c"], Counter(1.0))
    assert cached(tmp_path, "x", [b"a", b"bc"], Counter(2.0))["a"][0, 0] == 2


def test_two_kinds_do_not_share_a_file(tmp_path):
    cached(tmp_path, "x", [b"1"], Counter(1.0))
    assert cached(tmp_path, "y", [b"1"], Counter(2.0))["a"][0, 0] == 2


def test_a_computation_that_fails_leaves_no_file(tmp_path):
    def fail() -> dict[str, Tensor]:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        cached(tmp_path, "x", [b"1"], fail)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_no_half_file(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        cached(tmp_path, "x", [b"1"], Counter())
    monkeypatch.undo()
    assert cached(tmp_path, "x", [b"1"], Counter(3.0))["a"][0, 0] == 3


def test_captions_keep_their_order(encoder, tmp_path):
    texts = ["a cat on a mat", "key", "fire"]
    codes = text_codes(encoder, texts, tmp_path)
    expected = torch.cat([encoder.encode([text], with_tokens=False).pooled for text in texts])
    torch.testing.assert_close(codes, expected, atol=1e-5, rtol=0)


def test_captions_in_another_order_are_another_cache(encoder, tmp_path):
    there, back = (text_codes(encoder, texts, tmp_path) for texts in (["key", "fire"], ["fire", "key"]))
    torch.testing.assert_close(there, back.flip(0), atol=1e-5, rtol=0)


def test_more_captions_than_a_chunk_are_all_encoded(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("train.cache.CHUNK", 2)
    assert text_codes(encoder, ["key", "fire", "cat", "bus", "bell"], tmp_path).shape == (5, 384)


TEXTS = ["a cat on a mat", "key", "a very small red boat", "fire"]


def test_tokens_are_the_encoders_to_half_precision(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("train.cache.CHUNK", 2)
    index = torch.tensor([2, 0, 2, 3])
    expected = encoder.encode([TEXTS[i] for i in index])
    for _ in range(2):  # computed, then read
        code = caption_codes(encoder, TEXTS, tmp_path, with_tokens=True).rows(index)
        torch.testing.assert_close(code.pooled, expected.pooled, atol=1e-5, rtol=0)
        torch.testing.assert_close(code.tokens, expected.tokens, atol=1e-2, rtol=1e-3)
        assert torch.equal(code.mask, expected.mask)


def test_codes_have_as_many_places_whatever_is_asked_for(encoder, tmp_path):
    codes = caption_codes(encoder, TEXTS, tmp_path, with_tokens=True)
    one, two = codes.rows(torch.tensor([1])), codes.rows(torch.tensor([2, 1]))
    assert one.tokens.shape == (1, codes.places, encoder.dim)
    assert torch.equal(one.tokens[0], two.tokens[1])
    assert not one.tokens[0, int(one.mask.sum()) :].any()


def test_codes_without_tokens_are_kept_apart(encoder, tmp_path):
    small, large = (caption_codes(encoder, TEXTS, tmp_path, with_tokens=with_tokens) for with_tokens in (False, True))
    torch.testing.assert_close(small.pooled, large.pooled, atol=1e-5, rtol=0)
    assert small.rows(torch.tensor([0, 2])).tokens.shape == (2, 0, encoder.dim)
    assert len(list(tmp_path.iterdir())) == 2


def test_latents_are_the_codecs(tiny_vae, pixels, tmp_path):
    codec = VAECodec(tiny_vae)
    found, expected = latents(codec, pixels, tmp_path), codec.encode(to_unit(pixels))
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.std, expected.std)


def test_another_codec_encodes_anew(tiny_vae, pixels, tmp_path):
    before = latents(VAECodec(tiny_vae), pixels, tmp_path).mean
    tiny_vae.register_to_config(latents_std=[1.0, 1.0, 1.0, 1.0])
    assert not torch.equal(latents(VAECodec(tiny_vae), pixels, tmp_path).mean, before)


def test_one_other_pixel_encodes_anew(tiny_vae, pixels, tmp_path):
    codec = VAECodec(tiny_vae)
    before = latents(codec, pixels, tmp_path).mean
    changed = pixels.clone()
    changed[1, 0, 5, 5] ^= 128
    after = latents(codec, changed, tmp_path).mean
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, True]
