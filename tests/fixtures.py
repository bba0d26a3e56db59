"""What several test files share: real artwork, the real text encoder, and tiny models that run in no time."""

import contextlib
import functools
import io
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from bridge.codecs import VAECodec
from bridge.mappers import FlowMatchingMapper
from bridge.memory import CaptionMemory
from bridge.pipeline import BridgePipeline, Settings
from bridge.text import TextEncoder, networks
from eval import __main__ as judge
from eval.metrics.bootstrap import paired_bootstrap
from train import auto
from train.mapper import MapperConfig
from train.recipes.emoji import write_dataset

ARTWORK = Path(__file__).parent / "artwork"
KNOWN = ("anchor", "balloon", "beer mug", "bus", "cat", "fire", "waving hand", "waving hand: dark skin tone")
"""What `tiny_pipeline` knows: the training captions of the sample."""


def randomise(module: nn.Module, seed: int, std: float = 0.1) -> None:
    """Give every all-zero weight of `module` (adaLN-Zero's, the last layer's) normal values, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(0, std, generator=generator)


@pytest.fixture(scope="session")
def artwork_rows() -> list[dict[str, Any]]:
    """The sample's rows as `train.recipes.emoji` has them before writing: the columns, and PNG bytes under "png"."""
    rows = json.loads((ARTWORK / "captions.json").read_text("utf-8"))
    return [{**row, "png": (ARTWORK / row["file"]).read_bytes()} for row in rows]


@pytest.fixture(scope="session")
def artwork_folder(artwork_rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample as a `datasets` folder, with all five splits; shared, so only to be read."""
    folder = tmp_path_factory.mktemp("artwork") / "emoji"
    write_dataset(artwork_rows, folder)
    return folder


@pytest.fixture
def artwork(artwork_folder: Path, tmp_path: Path) -> Path:
    """The sample as a `datasets` folder of the test's own, `tmp_path / "artwork"`, fit for a config's `data`."""
    return Path(shutil.copytree(artwork_folder, tmp_path / "artwork"))


@pytest.fixture(scope="module")
def few_draws() -> Iterator[None]:
    """Intervals of 50 redrawings, for tests that ask nothing of their ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(paired_bootstrap.__kwdefaults__, "draws", 50)
        yield


@pytest.fixture(scope="session")
def encoder() -> TextEncoder:
    """The real MiniLM; frozen, so shared."""
    return TextEncoder.from_pretrained()


@pytest.fixture(scope="module")
def one_encoder(encoder: TextEncoder) -> Iterator[None]:
    """Whoever opens MiniLM gets `encoder`, for modules that open many models and test something else."""
    whole = networks.open_sentence_encoder

    def shared(folder: Path, *, id: str, digest: str | None) -> TextEncoder:
        same = (id, digest) == (encoder.id, encoder.digest)
        return encoder if same else whole(folder, id=id, digest=digest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "open_sentence_encoder", shared)
        yield


def make_tiny_vae() -> AutoencoderKL:
    """What `tiny_vae` is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            norm_num_groups=2,
            sample_size=64,
            scaling_factor=1.0,
        )
    with torch.no_grad():
        vae.quant_conv.bias[4:] -= 6  # a trained VAE is as sure of its latents: a posterior deviation of about .05
    vae.register_to_config(latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.5, 1.0, 2.0])
    return vae.eval()


@pytest.fixture
def tiny_vae() -> AutoencoderKL:
    """A random VAE, 64 px to 4 x 8 x 8, whose latents have statistics other than 0 and 1."""
    return make_tiny_vae()


@pytest.fixture(scope="session")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_vae` as diffusers saves it, fit for a config's `vae`; shared, so only to be read."""
    folder = tmp_path_factory.mktemp("tiny") / "vae"
    make_tiny_vae().save_pretrained(folder)
    return folder


def make_tiny_mapper() -> FlowMatchingMapper:
    """What `tiny_mapper` is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        mapper = FlowMatchingMapper((4, 8, 8), 384, width=16, hidden=16, blocks=1, condition=16)
    randomise(mapper, seed=2)
    return mapper.eval()


@pytest.fixture
def tiny_mapper() -> FlowMatchingMapper:
    """A random flow-matching mapper for MiniLM and `tiny_vae`; no weight of it is zero."""
    return make_tiny_mapper()


@functools.cache
def codes_of_known(encoder: TextEncoder) -> torch.Tensor:
    """What `known_codes` is."""
    return encoder.encode(KNOWN, with_tokens=False).pooled


@pytest.fixture(scope="session")
def known_codes(encoder: TextEncoder) -> torch.Tensor:
    """Pooled codes of KNOWN, (8, 384)."""
    return codes_of_known(encoder)


def make_tiny_pipeline(encoder: TextEncoder) -> BridgePipeline:
    """What `tiny_pipeline` is."""
    settings = Settings(guidance_scale=2.0, num_inference_steps=4, familiar=0.6, neighbour_temperature=0.05)
    memory = CaptionMemory(codes_of_known(encoder).clone(), KNOWN)
    return BridgePipeline(encoder, make_tiny_mapper(), VAECodec(make_tiny_vae()), memory, settings)


@pytest.fixture
def tiny_pipeline(encoder: TextEncoder) -> BridgePipeline:
    """The real MiniLM with a tiny random mapper and VAE: pictures of nothing, but other ones for other inputs.

    It knows the captions KNOWN; guidance 2, 4 steps, and a caption below cosine .6 is unfamiliar.
    """
    return make_tiny_pipeline(encoder)


@pytest.fixture(scope="session")
def model_folder(encoder: TextEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_pipeline` as a model folder; shared, so only to be read."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    make_tiny_pipeline(encoder).save_pretrained(folder)
    return folder


def shorten_own(patch: pytest.MonkeyPatch) -> None:
    """Let `train.auto` take two steps a trial, train no codec for pictures of 128 pixels, and only small networks."""
    short = {"TRIAL_STEPS": 2, "ENOUGH_PSNR": 0.0, "VALIDATIONS": 2, "COPIES_OF": 2, "CODEC_BATCH": 2}
    for name, value in (short | {"WINDOWS": ((2.0, 1.7),), "PERPLEXITIES": (2.0, 8.0)}).items():
        patch.setattr(auto, name, value)
    patch.setattr(auto, "slowdown", lambda: 1.0)
    chosen, small = auto.AutoRun.mapper_config, {"width": 16, "hidden": 16, "blocks": 1, "condition": 16}

    def mapper_config(run: auto.AutoRun, vae: Path, steps: int, rows: int) -> MapperConfig:
        config = chosen(run, vae, steps, rows)
        return replace(config, mapper=config.mapper | small) if run.mapper == "matching" else config

    patch.setattr(auto.AutoRun, "mapper_config", mapper_config)


def made_up(module: str, words: Sequence[object]) -> int:
    """In place of `auto.quietly`: a sheet is drawn here, and every method of a report has the same fit and copies."""
    argv = [str(word) for word in words]
    if "--sheet" in argv:
        with contextlib.redirect_stdout(io.StringIO()):
            return judge.main(argv)
    figure = {"value": 0.25, "low": 0.1, "high": 0.4}
    methods = {name: {"fit": None if name == "real" else figure, "copied": figure} for name in auto.METHODS}
    report = Path(argv[argv.index("--out") + 1])
    report.mkdir(exist_ok=True)
    (report / "report.json").write_text(json.dumps({"rows": {"held-out": {"methods": methods}}}))
    return 0
