"""Caches: computed once, and only for what they were computed from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as DatasetImage
from PIL import Image
from torch import Tensor

from bridge.checkpoint import CACHE
from bridge.codecs import VAECodec
from bridge.text import TextEncoder
from eval.data import Pictures, picture_latents
from tests.pictures import encoded
from train.data import cache as encoding
from train.data.cache import caption_codes, latents
from train.data.dataset import CAPTIONED, features, latents_of, load_dataset, pixels_of, rows_of, to_unit


@pytest.fixture
def pixels() -> Tensor:
    return torch.randint(256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def dataset_of(pixels: Tensor) -> Dataset:
    files = [encoded(Image.fromarray(x.permute(1, 2, 0).numpy())) for x in pixels]
    return Dataset.from_dict({"image": files}, Features({"image": DatasetImage()}))


def pooled_of(encoder: TextEncoder, texts: list[str], folder: Path) -> Tensor:
    return caption_codes(encoder, texts, folder, with_tokens=False).all_pooled


def test_captions_keep_their_order(encoder, tmp_path):
    texts = ["a cat on a mat", "key", "fire"]
    codes = pooled_of(encoder, texts, tmp_path)
    expected = torch.cat([encoder.encode([text], with_tokens=False).pooled for text in texts])
    torch.testing.assert_close(codes, expected, atol=1e-5, rtol=0)


def test_captions_in_another_order_are_another_cache(encoder, tmp_path):
    there, back = (pooled_of(encoder, texts, tmp_path) for texts in (["key", "fire"], ["fire", "key"]))
    torch.testing.assert_close(there, back.flip(0), atol=1e-5, rtol=0)


def test_more_captions_than_a_chunk_are_all_encoded(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "CAPTIONS", 2)
    assert pooled_of(encoder, ["key", "fire", "cat", "bus", "bell"], tmp_path).shape == (5, 384)


TEXTS = ["a cat on a mat", "key", "a very small red boat", "fire"]


def test_tokens_are_the_encoders_to_half_precision(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "CAPTIONS", 2)
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
    every = torch.arange(len(TEXTS))
    torch.testing.assert_close(small.pooled(every), large.pooled(every), atol=1e-5, rtol=0)
    assert small.rows(torch.tensor([0, 2])).tokens.shape == (2, 0, encoder.dim)
    assert len(list(tmp_path.iterdir())) == 2


def test_latents_are_the_codecs(tiny_vae, pixels, tmp_path):
    codec = VAECodec(tiny_vae)
    found, expected = latents_of(codec, dataset_of(pixels), tmp_path), codec.encode(to_unit(pixels))
    index = torch.tensor([2, 0])
    torch.testing.assert_close(found.rows(index).mean, expected.mean[index])
    torch.testing.assert_close(found.rows(index).std, expected.std[index])
    torch.testing.assert_close(found.means, expected.mean)


def test_another_codec_encodes_anew(tiny_vae, pixels, tmp_path):
    before = latents_of(VAECodec(tiny_vae), dataset_of(pixels), tmp_path).means
    tiny_vae.register_to_config(latents_std=[1.0, 1.0, 1.0, 1.0])
    assert not torch.equal(latents_of(VAECodec(tiny_vae), dataset_of(pixels), tmp_path).means, before)


def test_one_other_pixel_encodes_anew(tiny_vae, pixels, tmp_path):
    codec = VAECodec(tiny_vae)
    before = latents_of(codec, dataset_of(pixels), tmp_path).means
    changed = pixels.clone()
    changed[1, 0, 5, 5] ^= 128
    after = latents_of(codec, dataset_of(changed), tmp_path).means
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, True]


def test_a_few_pictures_are_decoded_at_a_time(tiny_vae, pixels, tmp_path, monkeypatch):
    """Pictures are read from disk as they are encoded: millions need not fit in memory."""
    asked = []

    def few(start: int, stop: int) -> Tensor:
        asked.append((start, stop))
        return to_unit(pixels[start:stop])

    monkeypatch.setattr(encoding, "PICTURES", 2)
    monkeypatch.setattr("train.data.cache.ROWS", 3)
    found = latents(VAECodec(tiny_vae), ["a", "b", "c"], few, tmp_path)
    assert asked == [(0, 2), (2, 3)]
    torch.testing.assert_close(found.means, VAECodec(tiny_vae).encode(to_unit(pixels)).mean)


def test_judge_and_training_share_what_is_encoded(tiny_vae, artwork, tmp_path, monkeypatch):
    """One cache for the pictures of one split, whoever encodes them first."""
    codec, pictures = VAECodec(tiny_vae), Pictures.load(artwork)
    first = latents_of(codec, rows_of(load_dataset(artwork), "train"), artwork / CACHE)
    monkeypatch.setattr(codec, "encode", lambda x: pytest.fail("encoded again"))
    again = picture_latents(codec, pictures, pictures.where("train"))
    assert torch.equal(first.means, again.mean)


def test_more_or_fewer_token_places_than_the_longest_caption_has(encoder, tmp_path):
    codes = caption_codes(encoder, TEXTS, tmp_path, with_tokens=True)
    full, index = codes.rows(torch.arange(4)), torch.arange(4)
    more, fewer, none = (codes.rows(index, places) for places in (codes.places + 3, 4, 0))
    assert torch.equal(more.tokens[:, : codes.places], full.tokens) and not more.mask[:, codes.places :].any()
    assert torch.equal(fewer.tokens, full.tokens[:, :4]) and torch.equal(fewer.mask, full.mask[:, :4])
    assert none.tokens.shape == (4, 0, encoder.dim) and torch.equal(none.pooled, full.pooled)


def test_judge_and_training_see_transparent_pictures_on_white(tmp_path):
    """A hidden colour stays hidden, and half of black is grey."""
    picture = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    picture.paste((0, 0, 0, 128), (0, 4, 8, 8))
    row = {"image": picture, "captions": ["a"], "label": "a", "artist": "", "style": "", "family": 0, "split": "train"}
    Dataset.from_list([row], features(CAPTIONED)).save_to_disk(str(tmp_path / "data"))
    seen = to_unit(pixels_of(load_dataset(tmp_path / "data")))
    assert (seen[0, :, 0] == 1).all()
    torch.testing.assert_close(seen[0, :, 4:], torch.full((3, 4, 8), 127 / 255))
    assert torch.equal(Pictures.load(tmp_path / "data").pixels(np.array([0])), seen)
