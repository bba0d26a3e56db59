"""Variations, pictures made again from their own facts, and GIFs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from bridge import BridgePipeline, explore
from bridge.again import remake
from bridge.cli import main
from bridge.errors import UserError
from bridge.images import read_facts, read_image, save_picture
from bridge.mappers import LocalFlowMapper, VelocityMapper
from bridge.memory import CaptionMemory
from bridge.noise import normal_rows
from bridge.pipeline import Settings
from bridge.text import TextCode
from tests.fixtures import KNOWN
from tests.test_explore import Sampler

CAT, BUS = (str(sorted((Path(__file__).parent / "artwork").glob(f"{name}--*.png"))[0]) for name in ("cat", "bus"))
Run = Callable[..., tuple[int, list[str], str]]

pytestmark = pytest.mark.usefixtures("one_encoder")


@pytest.fixture
def model(model_folder: Path) -> str:
    return str(model_folder)


@pytest.fixture
def run(model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command with the tiny model, in a folder of its own: exit code, stdout lines, stderr."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*args: str) -> tuple[int, list[str], str]:
        try:
            code = main([*args, "--model", model])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return call


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


# vary


def test_vary_writes_as_many_as_asked_and_tells_how(run: Run):
    code, lines, err = run("vary", CAT, "-n", "3", "--distance", "0.25", "--caption", "cat", "--seed", "4")
    assert (code, len(lines)) == (0, 3)
    assert f"{CAT!r} is taken to show 'cat'" in err
    facts = read_facts(Path(lines[2]).read_bytes())
    told = [facts[name] for name in ("a", "a_kind", "shown", "distance", "seed", "index")]
    assert told == [CAT, "image", "cat", "0.25", "4", "2"]
    assert len({pixels(line).tobytes() for line in lines}) == 3


def test_a_variation_does_not_depend_on_how_many_are_made(tiny_pipeline: BridgePipeline):
    start = explore.image_end(tiny_pipeline, CAT)
    many, few = (explore.vary(tiny_pipeline, start, count, distance=0.7, seed=1) for count in (33, 2))
    assert torch.equal(many[:2], few)
    assert torch.equal(many[32], explore.vary(tiny_pipeline, start, 40, distance=0.7, seed=1)[32])


def remember(pipe: BridgePipeline, codes: torch.Tensor, third: torch.Tensor) -> None:
    """Let the model draw from a memory of random latents under KNOWN, but for the one given."""
    latents = normal_rows([(n,) for n in range(len(KNOWN))], (4, 8, 8))
    latents[3] = third
    pipe.settings = Settings()
    pipe.mapper = LocalFlowMapper.from_memory(latents, codes, [[n] for n in range(len(KNOWN))])
    pipe.memory = CaptionMemory(codes, KNOWN)


class Velocity(VelocityMapper):
    """A local flow's velocity, and nothing else of it."""

    def __init__(self, flow: LocalFlowMapper) -> None:
        super().__init__()
        self.flow, self.z_shape, self.text_dim = flow, flow.z_shape, flow.text_dim
        self.sample_noise_shape, self.loss_noise_shape = flow.sample_noise_shape, flow.loss_noise_shape

    def velocity(self, z_t: Tensor, t: Tensor, c: TextCode) -> Tensor:
        return self.flow.velocity(z_t, t, c)

    def loss(self, z: Tensor, c: TextCode, *, noise: Tensor) -> Tensor:
        return self.flow.loss(z, c, noise=noise)


def test_farther_variations_differ_more(tiny_pipeline: BridgePipeline, known_codes: torch.Tensor):
    start = explore.image_end(tiny_pipeline, CAT)
    remember(tiny_pipeline, known_codes, start.z)
    assert isinstance(tiny_pipeline.mapper, LocalFlowMapper)
    tiny_pipeline.mapper = Velocity(tiny_pipeline.mapper)
    none, near, far = (
        float((explore.vary(tiny_pipeline, start, 4, distance=distance, seed=1) - start.z).abs().mean())
        for distance in (0.0, 0.1, 1.0)
    )
    assert none == 0
    assert near < 0.1 < far


def test_at_distance_1_a_variation_is_what_the_model_draws(tiny_pipeline: BridgePipeline):
    start = explore.image_end(tiny_pipeline, CAT)
    z = explore.vary(tiny_pipeline, start, 2, shown="cat", distance=1, seed=5)
    drawn = tiny_pipeline("cat", 2, seed=5, output_type="latent").images
    torch.testing.assert_close(z, drawn, atol=1e-4, rtol=1e-4)


def test_without_a_velocity_a_variation_turns_towards_samples(tiny_pipeline: BridgePipeline):
    tiny_pipeline.settings = Settings()
    tiny_pipeline.mapper = Sampler()
    start = explore.image_end(tiny_pipeline, CAT)
    code, noise = explore.code_of(tiny_pipeline, "cat"), normal_rows([(2, 0)], (4, 8, 8))
    z = explore.vary(tiny_pipeline, start, 1, shown="cat", distance=0.5, seed=2)
    torch.testing.assert_close(z[0], explore.slerp(start.z, tiny_pipeline.mapper.sample(code, noise=noise)[0], 0.5))


def test_what_a_picture_shows_is_what_it_tells_or_the_nearest_in_memory(
    tiny_pipeline: BridgePipeline, known_codes: torch.Tensor, run: Run
):
    _, [drawn], _ = run("generate", "a red bus", "-n", "1", "--no-sheet")
    assert explore.caption_shown(tiny_pipeline, explore.image_end(tiny_pipeline, drawn)) == "a red bus"
    assert explore.caption_shown(tiny_pipeline, explore.image_end(tiny_pipeline, CAT)) is None
    cat = explore.image_end(tiny_pipeline, CAT)
    remember(tiny_pipeline, known_codes, cat.z)
    assert explore.caption_shown(tiny_pipeline, cat) == KNOWN[3]
    assert len(set(explore.near_captions(tiny_pipeline, cat.z, 5))) == 5


def test_an_unfamiliar_captions_image_is_made_again(run: Run, tiny_pipeline: BridgePipeline):
    _, lines, err = run("generate", "a zeppelin", "-n", "4", "--no-sheet", "--seed", "11")
    assert "not among the captions" in err
    for line in lines:
        again = remake(tiny_pipeline, read_facts(Path(line).read_bytes()))
        assert np.array_equal(np.asarray(again), pixels(line))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--distance", "1.1"], "--distance: expected a number from 0 to 1"),
        (["--distance", "nan"], "--distance"),
        (["-n", "0"], "-n: expected a whole number from 1 to 1000"),
        (["-n", "1001"], "-n: "),
        (["--caption", " "], "--caption"),
        (["--transparent"], "--transparent: this model's pictures have no background"),
        (["--size", "256"], "--size: "),
        (["--svg"], "--svg: this model does not draw in layers"),
    ],
)
def test_bad_input_to_vary_is_one_line_and_writes_nothing(run: Run, words: list[str], named: str):
    code, lines, err = run("vary", CAT, *words)
    assert (code, lines, err.count("\n")) == (2, [], 1)
    assert err.startswith(f"bridge vary: {named}")
    assert not list(Path.cwd().iterdir())


# redo


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_a_picture_is_made_again_bit_for_bit(run: Run, kind: str):
    words = ["--seed", "3", "--guidance-scale", "3", "--steps", "5", "--temperature", "0.7", "--negative", "fire"]
    _, lines, _ = run("generate", "cat", "a far thing", "-n", "3", "--no-sheet", "--format", kind, *words)
    for number in (2, 4):
        code, [again], err = run("redo", lines[number], "--out", f"again.{kind}")
        assert (code, "bridge: the same, bit for bit\n" in err) == (0, True)
        assert Path(again).read_bytes() == Path(lines[number]).read_bytes()


@pytest.mark.parametrize(
    "words",
    [
        ("vary", CAT, "-n", "2", "--caption", "cat"),
        ("vary", "a bus", "-n", "2"),
        ("edit", CAT, "--plus", "fire", "--scale", "0.5", "--out", "e.png"),
        ("interpolate", CAT, "a bus", "--steps", "3", "--out", "s.png", "--frames", "frames"),
    ],
)
def test_what_the_other_commands_drew_is_made_again_too(run: Run, words: tuple[str, ...]):
    _, lines, _ = run(*words, "--seed", "2")
    assert lines
    for line in lines[:2]:
        code, [again], err = run("redo", line, "--out", "again.png")
        assert (code, "the same, bit for bit" in err) == (0, True), err
        assert (pixels(line) == pixels(again)).all()


def redone(run: Run, facts: dict[str, str]) -> str:
    """What `bridge redo` says of a picture that tells these facts."""
    save_picture(Image.new("RGB", (64, 64)), "told.png", facts)
    code, lines, err = run("redo", "told.png")
    assert (code, lines) == (2, [])
    assert not Path("redo.png").exists()
    return err


def test_what_is_missing_is_said(run: Run):
    _, [line], _ = run("generate", "cat", "-n", "1", "--no-sheet")
    facts = read_facts(Path(line).read_bytes())
    assert redone(run, {}).startswith("bridge redo: PNG: told.png holds nothing that bridge wrote")
    without = {name: text for name, text in facts.items() if name not in ("caption", "temperature")}
    assert "it does not tell caption, temperature" in redone(run, without)
    assert "the picture is by somebody, and this is" in redone(run, {**facts, "model": "somebody"})
    assert "damaged" in redone(run, {**facts, "seed": "x"})
    assert "guidance_scale: expected a number from 0 to 100" in redone(run, {**facts, "guidance_scale": "1e9"})


def test_a_picture_that_it_was_made_from_must_be_there_and_the_same(run: Run):
    Path("photo.png").write_bytes(Path(CAT).read_bytes())
    _, [line], _ = run("edit", "photo.png", "--plus", "fire", "--out", "e.png")
    Path("photo.png").write_bytes(Path(BUS).read_bytes())
    assert "'photo.png', and that file is another now" in run("redo", line)[2]
    Path("photo.png").unlink()
    assert "'photo.png', and there is no such file" in run("redo", line)[2]


def test_a_picture_that_was_changed_is_told(run: Run):
    _, [line], _ = run("generate", "cat", "-n", "1", "--no-sheet")
    with Image.open(line) as image:
        changed = image.copy()
        facts = read_facts(Path(line).read_bytes())
    changed.putpixel((0, 0), (1, 2, 3))
    save_picture(changed, "changed.png", facts)
    code, [again], err = run("redo", "changed.png")
    assert (code, "warning: 1 pixels differ" in err) == (0, True)
    assert (pixels(again) == pixels(line)).all()


def test_settings_are_as_before_when_a_picture_cannot_be_made_again(tiny_pipeline: BridgePipeline, run: Run):
    _, [line], _ = run("generate", "cat", "-n", "1", "--no-sheet", "--guidance-scale", "3")
    before = tiny_pipeline.settings
    with pytest.raises(UserError, match="damaged"):
        remake(tiny_pipeline, {**read_facts(Path(line).read_bytes()), "index": "x"})
    assert tiny_pipeline.settings == before


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_one_line(run: Run, data: bytes):
    Path("x.png").write_bytes(data)
    code, _, err = run("redo", "x.png")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("bridge redo: PNG: x.png: it ")


# GIF


def test_a_gif_goes_there_and_back(run: Run):
    code, lines, _ = run("interpolate", CAT, BUS, "--steps", "4", "--gif", "walk.gif", "--out", "s.png")
    assert (code, lines) == (0, ["s.png", "walk.gif"])
    with Image.open("walk.gif") as gif:
        assert (gif.n_frames, gif.size, gif.info["loop"]) == (6, (64, 64), 0)  # type: ignore[attr-defined]
        frames = []
        for number in range(6):
            gif.seek(number)
            frames.append(np.asarray(gif.convert("RGB")).astype(int))
    strip = pixels("s.png").astype(int)
    for number, place in enumerate((0, 1, 2, 3, 2, 1)):
        assert np.abs(frames[number] - strip[:, place * 66 : place * 66 + 64]).mean() < 8


def test_a_gif_is_named_so(run: Run):
    code, _, err = run("interpolate", CAT, BUS, "--gif", "walk.png")
    assert (code, "--gif: walk.png does not end in .gif; name it walk.gif" in err) == (2, True)


def test_a_webp_tells_as_much_as_a_png(tmp_path: Path):
    image = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    facts = {"caption": 'ein "Bär" 🐻', "seed": 1}
    for name in ("a.png", "a.webp"):
        save_picture(image, tmp_path / name, facts)
        assert read_facts((tmp_path / name).read_bytes()) == {"caption": 'ein "Bär" 🐻', "seed": "1"}
        assert (pixels(str(tmp_path / name)) == np.asarray(image)).all()
    assert read_image(tmp_path / "a.webp").size == (8, 8)
