"""The same images and types whatever the caller has set in torch, and whatever he has wrapped the parts in."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bridge import BridgePipeline, explore
from bridge.checkpoint import CheckpointError
from bridge.codecs import VAECodec
from bridge.codecs.standardize import WhitenedCodec
from bridge.context import unwrapped
from bridge.errors import UserError
from bridge.images import read_image
from bridge.pipeline import foreign_dtype
from tests.fixtures import make_tiny_vae
from tests.test_standardize import make_axes

CAT = str(sorted((Path(__file__).parent / "artwork").glob("cat--*.png"))[0])


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


CONTEXTS: dict[str, Callable[[], Any]] = {
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "autocast bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast float16": lambda: torch.autocast("cpu", torch.float16),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "device meta": lambda: torch.device("meta"),
    "default device meta": lambda: default_device("meta"),
    "deterministic": deterministic,
    "medium precision": lambda: matmul_precision("medium"),
}


def everything(pipe: BridgePipeline) -> list[Any]:
    """One result of each function that computes."""
    picture = read_image(CAT, size=64)
    ends = [explore.image_end(pipe, CAT), explore.caption_end(pipe, "cat", 3)]
    found = [
        pipe("a fire in a bus", 2, seed=7, output_type="pt").images,
        pipe(["cat", "bus"], 1, seed=7, negative_prompt="fire", output_type="latent").images,
        pipe("cat", 1, seed=7, output_type="np").images,
        np.stack([np.asarray(item.image) for item in pipe.stream("cat", 2, seed=7)]),
        pipe.score([picture], ["cat", "bus"], samples=2).score,
        *(end.z for end in ends),
        explore.between(pipe, *ends, 3),
        explore.caption_mean(pipe, None, samples=3),
        explore.edit(pipe, ends[1], "fire", None, samples=3),
        np.asarray(pipe.decode(ends[1].z[None])[0]),
        pipe.text_encoder.encode(["a cat"]).tokens,
    ]
    return found


@pytest.fixture(scope="module")
def shared(encoder: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """A model folder, and what is computed with it in no context."""
    from tests.fixtures import make_tiny_pipeline  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("context") / "model"
    make_tiny_pipeline(encoder).save_pretrained(folder)
    return folder, everything(BridgePipeline.from_pretrained(folder))


@pytest.mark.parametrize("name", CONTEXTS)
def test_values_and_types_are_the_same_in_every_context(shared: tuple[Path, list[Any]], name: str) -> None:
    """Opened and called in it."""
    folder, plain = shared
    with CONTEXTS[name]():
        found = everything(BridgePipeline.from_pretrained(folder))
        assert torch.zeros(()).device.type == ("meta" if "meta" in name else "cpu")  # as the caller had it
    for here, there in zip(found, plain, strict=True):
        assert type(here) is type(there) and here.dtype == there.dtype
        if isinstance(here, np.ndarray):
            assert np.array_equal(here, there)
        else:
            assert (here.device.type, here.requires_grad, here.is_inference()) == ("cpu", False, False)
            assert torch.equal(here, there)


def test_between_its_images_a_stream_leaves_the_callers_context_alone(tiny_pipeline: BridgePipeline) -> None:
    with default_dtype(torch.float64), torch.inference_mode():
        for _ in tiny_pipeline.stream("cat", 2, seed=0):
            assert torch.zeros(()).dtype == torch.float64
            assert torch.is_inference_mode_enabled()


def test_a_mapper_in_training_mode_draws_the_same_and_stays_so(tiny_pipeline: BridgePipeline) -> None:
    for module in tiny_pipeline.mapper.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    plain = tiny_pipeline("cat", 2, seed=7, output_type="pt").images
    tiny_pipeline.mapper.train()
    assert torch.equal(tiny_pipeline("cat", 2, seed=7, output_type="pt").images, plain)
    assert tiny_pipeline.mapper.training


# wrappers

WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "compile": lambda module: torch.compile(module, backend="eager"),
    "DataParallel": nn.DataParallel,
    "both": lambda module: torch.compile(nn.DataParallel(module), backend="eager"),
    "average": torch.optim.swa_utils.AveragedModel,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("scale", [1, 2])
def test_a_wrapped_part_draws_the_same_and_can_be_saved(
    tiny_pipeline: BridgePipeline, tmp_path: Path, wrapper: str, scale: float
) -> None:
    plain = tiny_pipeline("cat", 1, seed=7, guidance_scale=scale, output_type="pt").images
    wrap = WRAPPERS[wrapper]
    vae: Any = tiny_pipeline.codec
    tiny_pipeline.mapper = wrap(tiny_pipeline.mapper)
    tiny_pipeline.text_encoder = wrap(tiny_pipeline.text_encoder)
    vae.vae = wrap(vae.vae)
    if wrapper == "compile":
        encoder: Any = tiny_pipeline.text_encoder
        encoder.model = wrap(encoder.model)
    assert torch.equal(tiny_pipeline("cat", 1, seed=7, guidance_scale=scale, output_type="pt").images, plain)
    tiny_pipeline.save_pretrained(tmp_path / "model")
    assert BridgePipeline.from_pretrained(tmp_path / "model").fingerprint == tiny_pipeline.fingerprint


class Mine(nn.Module):
    """A wrapper that nobody knows."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


@pytest.mark.parametrize("part", ["mapper", "text_encoder", "codec"])
@pytest.mark.parametrize(
    "wrap", [Mine, lambda part: nn.Sequential(*[part] * isinstance(part, nn.Module)), lambda _: None]
)
def test_what_is_no_part_is_refused(tiny_pipeline: BridgePipeline, part: str, wrap: Callable[[Any], Any]) -> None:
    before = getattr(tiny_pipeline, part)
    other = wrap(before) if isinstance(before, nn.Module) else object()
    with pytest.raises(UserError, match=f"^{part}: expected a .*; pass the part itself"):
        setattr(tiny_pipeline, part, other)
    assert getattr(tiny_pipeline, part) is before


def half(pipe: BridgePipeline) -> None:
    pipe.mapper.half()


def compiled_inside(pipe: BridgePipeline) -> None:
    mapper: Any = pipe.mapper
    mapper.net.enter = torch.compile(mapper.net.enter, backend="eager")


def quantised(pipe: BridgePipeline) -> None:
    mapper: Any = pipe.mapper
    mapper.net.leave = nn.Sequential(mapper.net.leave)


def normed(pipe: BridgePipeline) -> None:
    mapper: Any = pipe.mapper
    nn.utils.parametrizations.weight_norm(mapper.net.leave)


def moved_statistics(pipe: BridgePipeline) -> None:
    codec: Any = pipe.codec
    codec.vae.register_to_config(latents_mean=[0.0] * 4)


def other_weights(pipe: BridgePipeline) -> None:
    codec: Any = pipe.codec
    with torch.no_grad():
        next(codec.vae.parameters()).add_(1)


@pytest.mark.parametrize("alter", [half, compiled_inside, quantised, normed, moved_statistics, other_weights])
def test_what_would_not_open_again_is_not_saved(
    tiny_pipeline: BridgePipeline, tmp_path: Path, alter: Callable[[BridgePipeline], None]
) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "model")
    before = tiny_pipeline.fingerprint
    alter(tiny_pipeline)
    with pytest.raises(UserError, match=r"^folder: nothing was saved, since this model would not open again"):
        tiny_pipeline.save_pretrained(tmp_path / "model")
    assert BridgePipeline.from_pretrained(tmp_path / "model").fingerprint == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_codec_inside_another_is_float32_too():
    codec = WhitenedCodec(VAECodec(make_tiny_vae().half()), make_axes(256, 7))
    assert foreign_dtype(codec) == torch.float16


@pytest.mark.parametrize("part", ["text_encoder", "mapper", "codec"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_part_of_another_type_is_refused_by_name(
    tiny_pipeline: BridgePipeline, part: str, dtype: torch.dtype
) -> None:
    held: Any = copy.deepcopy(getattr(tiny_pipeline, part))
    setattr(tiny_pipeline, part, held)
    (held.vae if part == "codec" else held).to(dtype)
    with pytest.raises(UserError, match=rf"^{part}: holds numbers of {dtype}; .* call \.float\(\)"):
        tiny_pipeline("cat", 1, seed=0)


@pytest.mark.filterwarnings("ignore:.*quant", "ignore:typing_extensions")
def test_a_quantised_mapper_is_not_saved(tiny_pipeline: BridgePipeline, tmp_path: Path) -> None:
    tiny_pipeline.mapper = torch.ao.quantization.quantize_dynamic(tiny_pipeline.mapper, {nn.Linear})
    with pytest.raises(UserError, match="is no tensor; undo what was quantised"):
        tiny_pipeline.save_pretrained(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_only_wrappers_of_torchs_own_are_opened() -> None:
    layer = nn.Linear(1, 1)
    assert unwrapped(torch.compile(nn.DataParallel(layer), backend="eager")) is layer
    mine = Mine(layer)
    assert unwrapped(mine) is mine
    assert unwrapped(None) is None
    assert issubclass(CheckpointError, UserError)
