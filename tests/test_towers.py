"""Every kind of transformer as a text space: tiny random models in the hub's own folder format, without a hub."""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, CLIPConfig, CLIPTextConfig, PreTrainedTokenizerFast, RobertaConfig, T5Config

from bridge.checkpoint import CheckpointError
from bridge.text import CaptionTruncatedWarning, TextEncoder, encoders
from bridge.text.encoders import load_text_encoder
from bridge.text.networks import LibraryEncoder, SentenceEncoder, TransformerEncoder, check_digest
from train.loop import LoopConfig
from train.mapper import MapperConfig, MapperTraining

WORDS = ["a", "the", "red", "big", "small", "cat", "dog", "bus", "boat", "fire", "smiling", "anchor", "query", ":"]
VOCABULARY = {word: i for i, word in enumerate(["<pad>", "<unk>", "<s>", "</s>", *WORDS])}
CAPTIONS = ["a cat", "the big red bus", "fire", "a small dog"]
SMALL: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 20,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "initializer_range": 0.5,  # so that captions differ without training
}
T5 = {"vocab_size": len(VOCABULARY), "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
POOLED = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
Opened = Callable[[str], TextEncoder]


def make_model(kind: str) -> Any:
    """A tiny random model; whole CLIP and T5 have the half that captions do not need, too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "clip":
            return transformers.CLIPTextModel(CLIPTextConfig(**SMALL))
        if kind == "clip-whole":
            vision = {k: v for k, v in SMALL.items() if k.startswith(("hidden", "inter", "num"))}
            vision |= {"image_size": 16, "patch_size": 8}
            return transformers.CLIPModel(CLIPConfig(text_config=SMALL, vision_config=vision, projection_dim=8))
        if kind == "t5":
            return transformers.T5ForConditionalGeneration(T5Config(**T5, num_decoder_layers=1))
        if kind == "roberta":
            return transformers.RobertaForMaskedLM(RobertaConfig(**SMALL))
        return transformers.BertModel(BertConfig(**SMALL))


def write_model(folder: Path, kind: str) -> Path:
    """Write a model folder as transformers does."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    fast.save_pretrained(folder)
    make_model(kind).save_pretrained(folder)
    return folder


def write_sentence_model(
    folder: Path, pooling: dict[str, Any], modules: tuple[str, ...] = ("Normalize",), **limits: Any
) -> Path:
    """Write a sentence-transformers folder around a tiny BERT."""
    write_model(folder, "bert")
    names = ["Transformer", "Pooling", *modules]
    paths = ["", *(f"{i}_{name}" for i, name in enumerate(names[1:], 1))]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12, **limits}))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, **pooling}))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder of each kind; only to be read."""
    root = tmp_path_factory.mktemp("models")
    found = {kind: write_model(root / kind, kind) for kind in ("bert", "clip", "clip-whole", "t5", "roberta")}
    for mode in POOLED:
        found[mode] = write_sentence_model(root / mode, {"pooling_mode": mode})
    found["plain"] = write_sentence_model(root / "plain", {"pooling_mode": "mean"}, modules=())
    found["lower"] = write_sentence_model(root / "lower", {"pooling_mode": "cls"}, do_lower_case=True)
    return found


@pytest.fixture(scope="module")
def opened(folders: dict[str, Path]) -> Opened:
    """Opens each folder once."""
    known: dict[str, TextEncoder] = {}

    def get(kind: str) -> TextEncoder:
        if kind not in known:
            known[kind] = TextEncoder.from_pretrained(folders[kind])
        return known[kind]

    return get


KINDS = ["bert", "clip", "clip-whole", "t5", "roberta", "cls", "mean", "plain"]


def ids(folder: Path, caption: str) -> torch.Tensor:
    return torch.tensor([Tokenizer.from_file(str(folder / "tokenizer.json")).encode(caption).ids])


# each against the library that it comes from


def test_clip_is_the_state_of_the_closing_token(folders, opened):
    model = transformers.CLIPTextModel.from_pretrained(folders["clip"])
    with torch.no_grad():
        expected = torch.cat([model(ids(folders["clip"], c)).pooler_output for c in CAPTIONS])
    code = opened("clip").encode(CAPTIONS, batch_size=4)
    torch.testing.assert_close(code.pooled, torch.nn.functional.normalize(expected, dim=1), atol=1e-6, rtol=0)


def test_the_text_tower_is_taken_out_of_a_whole_clip(folders, opened):
    model = transformers.CLIPModel.from_pretrained(folders["clip-whole"])
    with torch.no_grad():
        expected = model.text_model(ids(folders["clip-whole"], CAPTIONS[1])).last_hidden_state
    torch.testing.assert_close(opened("clip-whole").encode(CAPTIONS[1:2]).tokens, expected, atol=1e-6, rtol=0)


def test_t5_is_the_mean_of_its_encoders_states(folders, opened):
    model = transformers.T5ForConditionalGeneration.from_pretrained(folders["t5"])
    with torch.no_grad():
        states = model.encoder(ids(folders["t5"], CAPTIONS[1])).last_hidden_state
    code = opened("t5").encode(CAPTIONS[1:2])
    torch.testing.assert_close(code.tokens, states, atol=1e-6, rtol=0)
    torch.testing.assert_close(code.pooled, torch.nn.functional.normalize(states.mean(1), dim=1), atol=1e-6, rtol=0)


def test_bert_is_the_mean_of_its_states(folders, opened):
    model = transformers.BertModel.from_pretrained(folders["bert"])
    with torch.no_grad():
        states = model(ids(folders["bert"], CAPTIONS[1])).last_hidden_state
    code = opened("bert").encode(CAPTIONS[1:2])
    torch.testing.assert_close(code.pooled, torch.nn.functional.normalize(states.mean(1), dim=1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", [*POOLED, "plain", "lower"])
def test_sentence_models_pool_as_the_library_does(folders, opened, kind):
    captions = ["a Big red CAT", *CAPTIONS]
    model = SentenceTransformer(str(folders[kind]), device="cpu")
    expected = torch.stack([model.encode(c, convert_to_tensor=True, normalize_embeddings=True) for c in captions])
    torch.testing.assert_close(opened(kind).encode(captions).pooled, expected, atol=1e-6, rtol=0)
    tokens = model.encode(captions[1], output_value="token_embeddings", convert_to_tensor=True)
    torch.testing.assert_close(opened(kind).encode(captions[1:2]).tokens[0], tokens, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["cls", "max", "mean"])
def test_poolings_are_read_as_earlier_versions_wrote_them(opened, tmp_path, kind):
    flags = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens"}
    old = {f"pooling_mode_{flag}": name == kind for name, flag in flags.items()}
    encoder = TextEncoder.from_pretrained(write_sentence_model(tmp_path, old))
    assert encoder.fingerprint == opened(kind).fingerprint
    assert torch.equal(encoder.encode(CAPTIONS).pooled, opened(kind).encode(CAPTIONS).pooled)


def test_a_default_prompt_stands_before_every_caption(tmp_path):
    folder = write_sentence_model(tmp_path, {"pooling_mode": "mean"})
    before = TextEncoder.from_pretrained(folder)
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    after = TextEncoder.from_pretrained(folder)
    torch.testing.assert_close(after.encode(["a cat"]).pooled, before.encode(["query: a cat"]).pooled)
    assert (after.prepare("a cat"), after.fingerprint != before.fingerprint) == ("a cat", True)


# what all promise


@pytest.mark.parametrize("kind", KINDS)
def test_codes_do_not_depend_on_what_is_padded_beside_them(opened, kind):
    one, four = (opened(kind).encode(CAPTIONS, batch_size=n) for n in (1, 4))
    torch.testing.assert_close(four.pooled, one.pooled, atol=1e-5, rtol=0)
    torch.testing.assert_close(four.tokens, one.tokens, atol=1e-5, rtol=0)
    assert one.mask.sum(1).tolist() == [4, 6, 3, 5]
    assert torch.equal(four.tokens.ne(0).any(-1), four.mask)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_unit_and_differ(opened, kind):
    pooled = opened(kind).encode(CAPTIONS).pooled
    torch.testing.assert_close(pooled.norm(dim=1), torch.ones(4))
    assert (pooled @ pooled.T - 2 * torch.eye(4)).max() < 1 - 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_means_frozen(opened, kind):
    encoder = opened(kind)
    before = encoder.encode(CAPTIONS).pooled
    with torch.enable_grad():
        after = encoder.train().encode(CAPTIONS).pooled
    assert torch.equal(before, after)
    assert not after.requires_grad
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not any(module.training for module in encoder.model.modules())


@pytest.mark.filterwarnings("ignore::bridge.text.CaptionUnknownWarning")
@pytest.mark.parametrize("kind", ["clip", "t5", "cls"])
def test_a_mapper_is_trained_on_it_and_leaves_its_weights(folders, artwork_folder, vae_folder, tmp_path, kind):
    loop = LoopConfig(steps=2, batch_size=8, warmup=1, validate_every=2, save_minutes=60)
    mapper = {"width": 16, "hidden": 16, "blocks": 1, "condition": 16}
    config = MapperConfig(artwork_folder, vae_folder, tmp_path, loop, text=str(folders[kind]), mapper=mapper)
    training = MapperTraining(config)
    before = {name: value.clone() for name, value in training.encoder.state_dict().items()}
    fingerprint = training.encoder.fingerprint
    training.loop.train_step()
    assert all(torch.equal(value, before[name]) for name, value in training.encoder.state_dict().items())
    again = TextEncoder.from_pretrained(folders[kind])
    assert (training.encoder.fingerprint, again.fingerprint) == (fingerprint, fingerprint)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_model_folder_says_opens_the_same_space(opened, kind, tmp_path):
    encoder = opened(kind)
    spec = json.loads(json.dumps(encoder.spec()))
    again = load_text_encoder(spec, tmp_path)
    assert (type(again), again.fingerprint) == (type(encoder), encoder.fingerprint)
    assert torch.equal(again.encode(CAPTIONS).tokens, encoder.encode(CAPTIONS).tokens)


def test_every_space_has_its_own_fingerprint(opened):
    kinds = [*KINDS, "max", "lower"]
    assert len({opened(kind).fingerprint for kind in kinds}) == len(kinds)


def test_a_config_that_changes_the_codes_changes_the_fingerprint(folders, opened, tmp_path):
    """The weights are the same, the activation is not; a version's number does not count."""
    write_model(tmp_path, "bert")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"transformers_version": "5.0.0"}))
    assert TextEncoder.from_pretrained(tmp_path).fingerprint == opened("bert").fingerprint
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    assert TextEncoder.from_pretrained(tmp_path).fingerprint != opened("bert").fingerprint


# limits


@pytest.mark.parametrize(("kind", "limit"), [("bert", 20), ("clip", 20), ("roberta", 19), ("cls", 12), ("t5", 512)])
def test_the_limit_is_the_models_own(opened, kind, limit):
    assert opened(kind).max_tokens == limit


@pytest.mark.parametrize("kind", ["bert", "clip", "roberta", "cls"])
def test_a_caption_over_the_limit_is_cut_and_says_so(opened, kind):
    encoder = opened(kind)
    kept = encoder.max_tokens - 2
    with pytest.warns(CaptionTruncatedWarning, match=f"the encoder reads {encoder.max_tokens}; cut: 'dog dog'"):
        cut = encoder.encode(["cat " * kept + "dog dog"])
    assert torch.equal(cut.pooled, encoder.encode(["cat " * kept]).pooled)


def test_the_warning_points_at_the_caller(opened):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        opened("lower").encode(["cat " * 300])
    assert Path(caught[0].filename) == Path(__file__)


# what is chosen, and what is refused


@pytest.mark.parametrize(
    ("kind", "cls"),
    [("bert", TransformerEncoder), ("mean", SentenceEncoder), ("plain", LibraryEncoder), ("cls", LibraryEncoder)],
)
def test_only_what_needs_the_library_is_run_by_it(opened, kind, cls):
    assert type(opened(kind)) is cls


def test_a_failure_that_says_nothing_is_told_by_its_type(folders, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(transformers.BertModel, "from_pretrained", fail)
    with pytest.raises(ValueError, match=r"cannot be loaded as BertModel: OSError; pass another model"):
        TextEncoder.from_pretrained(folders["bert"])


def test_without_the_library_the_remedy_is_told(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ValueError, match=r"needs sentence-transformers; `pip install 'bridge-captions\[sentence\]'`"):
        TextEncoder.from_pretrained(folders["cls"])


@pytest.mark.parametrize(
    ("pooling", "modules", "told"),
    [
        ({"pooling_mode": "mean"}, ("Dense", "Normalize"), "only Transformer, Pooling and Normalize can be loaded"),
        ({"pooling_mode": ["cls", "mean"]}, (), r"pools by \['cls', 'mean'\]; only one of cls, max"),
        ({"pooling_mode": "median"}, (), r"pools by \['median'\]"),
    ],
)
def test_sentence_models_of_another_make_are_refused(tmp_path, pooling, modules, told):
    with pytest.raises(ValueError, match=told):
        TextEncoder.from_pretrained(write_sentence_model(tmp_path, pooling, modules))


def test_modules_of_other_packages_are_not_imported(tmp_path):
    folder = write_sentence_model(tmp_path, {"pooling_mode": "cls"})
    text = (folder / "modules.json").read_text()
    (folder / "modules.json").write_text(text.replace("sentence_transformers.models.Pooling", "antigravity.Pooling"))
    with pytest.raises(ValueError, match="only Transformer, Pooling and Normalize can be loaded"):
        TextEncoder.from_pretrained(folder)


@pytest.mark.parametrize("sentence", [False, True])
def test_weights_that_the_config_asks_for_are_refused_where_they_lack(tmp_path, sentence):
    folder = write_sentence_model(tmp_path, {"pooling_mode": "cls"}) if sentence else write_model(tmp_path, "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"lacks weights its config asks for: \['encoder.layer.2"):
        TextEncoder.from_pretrained(folder)


def test_a_model_without_a_text_encoder_is_refused(tmp_path):
    write_model(tmp_path, "bert")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bart", "is_encoder_decoder": True}))
    with pytest.raises(ValueError, match="is a bart, which has no text encoder known here; pass a BERT-like model"):
        TextEncoder.from_pretrained(tmp_path)


def test_a_type_that_transformers_does_not_know_is_refused(tmp_path):
    write_model(tmp_path, "bert")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "berd"}))
    with pytest.raises(ValueError, match=r"cannot be loaded as AutoModel: .*berd.*; pass another model"):
        TextEncoder.from_pretrained(tmp_path)


def test_a_damaged_config_is_refused(tmp_path):
    write_model(tmp_path, "bert")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is no JSON; copy or download the model again"):
        TextEncoder.from_pretrained(tmp_path)


def test_a_pickle_of_weights_is_not_opened(tmp_path):
    write_model(tmp_path, "bert")
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"lacks model\.safetensors"):
        TextEncoder.from_pretrained(tmp_path)


def test_other_weights_are_refused(folders):
    with pytest.raises(ValueError, match=r"digest: .* has sha256 .*, expected 00; these are not the weights asked for"):
        TextEncoder.from_pretrained(folders["clip"], digest="00")


def test_shards_have_one_digest(tmp_path):
    write_model(tmp_path, "bert")
    (tmp_path / "model.safetensors").unlink()
    make_model("bert").save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    digest = check_digest(tmp_path, None)
    assert TextEncoder.from_pretrained(tmp_path, digest=digest).digest == digest
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(index.read_text() + "\n")
    assert check_digest(tmp_path, None) != digest


def test_a_tokenizer_that_closes_nothing_does_not_fit_clip(tmp_path):
    write_model(tmp_path, "clip")
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec | {"post_processor": None}))
    with pytest.raises(ValueError, match="closes no text with a token; pass CLIP's own tokenizer"):
        TextEncoder.from_pretrained(tmp_path)


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="unknown kind 'smells'; known: sentence-transformers, transformers"):
        load_text_encoder({"kind": "smells", "id": "x", "digest": "y"}, tmp_path)


def test_a_spec_without_a_kind_is_a_sentence_encoder(folders, opened, tmp_path):
    """As in model folders of version 0.1."""
    spec = {"id": str(folders["mean"]), "digest": opened("mean").digest}
    assert load_text_encoder(spec, tmp_path).fingerprint == opened("mean").fingerprint


# the hub


@pytest.fixture
def hub(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A hub whose models are the folders, named "tiny/KIND", and an empty cache; records who asks offline."""
    asked: list[bool] = []

    def snapshot_download(name: str, *, local_files_only: bool, **_: object) -> str:
        asked.append(local_files_only)
        if local_files_only or name.removeprefix("tiny/") not in folders:
            raise OSError("not here")
        return str(folders[name.removeprefix("tiny/")])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


@pytest.mark.parametrize("kind", ["clip", "t5", "cls", "mean"])
def test_hub_ids_open_what_their_folders_hold(hub, opened, kind):
    encoder = TextEncoder.from_pretrained(f"tiny/{kind}")
    assert (encoder.fingerprint, encoder.id) == (opened(kind).fingerprint, f"tiny/{kind}")


def test_a_model_folder_looks_in_the_cache_first(hub, opened, tmp_path):
    spec = {"kind": encoders.TOWER, "id": "tiny/clip", "digest": opened("clip").digest}
    assert load_text_encoder(spec, tmp_path).fingerprint == opened("clip").fingerprint
    assert hub == [True, False]


def test_a_hub_id_that_cannot_be_had_says_what_to_do(hub):
    with pytest.raises(FileNotFoundError, match=r"'tiny/none' is no folder, .* could not be fetched; connect"):
        TextEncoder.from_pretrained("tiny/none")
