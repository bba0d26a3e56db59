"""The command: what it writes, what it prints where, and how it refuses."""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import HTTPError
from PIL import Image

from bridge import BridgePipeline, checkpoint
from bridge.cli import main
from bridge.commands import read_captions
from bridge.pipeline import GeneratedImage
from bridge.writing import SHEET_ROWS, Sheet

pytestmark = pytest.mark.usefixtures("one_encoder")


@pytest.fixture
def model(model_folder: Path, tmp_path: Path) -> str:
    """The test's own, which it may damage."""
    return str(shutil.copytree(model_folder, tmp_path / "model"))


Run = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def run(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `bridge generate ARGS` into tmp_path/out; returns exit code, stdout lines, stderr."""

    def call(*args: str) -> tuple[int, list[str], str]:
        try:
            code = main(["generate", "--model", model, "--out", str(tmp_path / "out"), *args])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err

    return call


def test_prints_only_paths_that_exist(run: Run) -> None:
    code, lines, _ = run("cat", "-n", "3")
    assert code == 0
    assert len(lines) == 4
    assert all(Path(line).is_file() for line in lines)


def test_one_folder_a_caption(run: Run, tmp_path: Path) -> None:
    run("cat", "bus", "-n", "1", "--no-sheet")
    assert sorted(p.name.rsplit("-", 1)[0] for p in (tmp_path / "out").iterdir() if p.is_dir()) == ["bus", "cat"]


def test_second_seed_adds(run: Run) -> None:
    _, first, _ = run("cat", "-n", "2", "--no-sheet")
    before = [Path(p).read_bytes() for p in first]
    _, second, _ = run("cat", "-n", "2", "--seed", "1", "--no-sheet")
    assert not set(first) & set(second)
    assert [Path(p).read_bytes() for p in first] == before


def test_other_settings_do_not_overwrite(run: Run) -> None:
    _, first, _ = run("cat", "-n", "1", "--no-sheet")
    _, second, _ = run("cat", "-n", "1", "--no-sheet", "--temperature", "0.5")
    assert first != second


def test_same_call_writes_the_same_bytes(run: Run) -> None:
    _, first, _ = run("cat", "-n", "2", "--no-sheet")
    before = [Path(p).read_bytes() for p in first]
    _, again, _ = run("cat", "-n", "2", "--no-sheet")
    assert (again, [Path(p).read_bytes() for p in again]) == (first, before)


def test_manifest_lists_every_image_once(run: Run, tmp_path: Path) -> None:
    run("cat", "-n", "2")
    run("cat", "-n", "3")
    lines = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text("utf-8").splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert all((tmp_path / "out" / line["file"]).is_file() for line in lines)
    assert {"caption", "seed", "index", "model", "guidance_scale", "num_inference_steps", "temperature"} <= set(
        lines[0]
    )


def test_manifest_line_cut_off_by_a_crash_is_mended(run: Run, tmp_path: Path) -> None:
    run("cat", "-n", "1")
    manifest = tmp_path / "out" / "manifest.jsonl"
    whole = manifest.read_text("utf-8")
    manifest.write_text(whole + whole[:20], "utf-8")
    run("bus", "-n", "1")
    assert [json.loads(line)["caption"] for line in manifest.read_text("utf-8").splitlines()] == ["cat", "bus"]


def test_png_tells_where_it_comes_from(run: Run) -> None:
    _, [path], _ = run("cat", "-n", "1", "--seed", "5", "--no-sheet")
    with Image.open(path) as image:
        facts = image.text  # type: ignore[attr-defined]
    assert (facts["bridge:caption"], facts["bridge:seed"], facts["bridge:index"]) == ("cat", "5", "0")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_a_file_of_captions_is_read_as_editors_read_it(tmp_path: Path, encoding: str, end: str) -> None:
    captions = ["un café", "a\u2028b" if encoding.startswith("utf") else "a b"]
    (tmp_path / "captions.txt").write_bytes(end.join([*captions, "", ""]).encode(encoding))
    assert read_captions([], str(tmp_path / "captions.txt")) == captions


def test_captions_from_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("cat\n\n  bus  \n", "utf-8")
    _, lines, _ = run("--captions", str(tmp_path / "list.txt"), "-n", "1", "--no-sheet")
    assert len(lines) == 2


@pytest.mark.parametrize(
    "data",
    ["caf\u00e9\r\n\r\nbus\u2028stop".encode(encoding) for encoding in ("utf-8-sig", "utf-16", "utf-16-le")]
    + ["caf\u00e9\rbus stop".encode("latin-1")],
)
def test_a_file_of_captions_is_read_as_editors_save_it(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(data)
    first, second = read_captions([], str(tmp_path / "list.txt"))
    assert (first, second.replace("\u2028", " ")) == ("café", "bus stop")


def test_contact_sheet_is_capped_and_says_so(run: Run, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join(f"cat {i}" for i in range(SHEET_ROWS + 1)), "utf-8")
    _, _, err = run("--captions", str(tmp_path / "list.txt"), "-n", "1")
    assert f"{SHEET_ROWS} of {SHEET_ROWS + 1} captions" in err


def test_the_contact_sheet_says_what_is_known_of_a_caption() -> None:
    unknown = "not among the captions this model knows, pictures may be of a near one; nearest: 'a: b' (cosine 0.52)"
    painted = "drawn from pictures of 'cat' painted green: memory shows none of that colour"
    sheet = Sheet(["a", "b", "c"], 1)
    for row, note in enumerate([None, unknown, painted]):
        sheet.add(GeneratedImage(Image.new("RGB", (8, 8)), "a", row, 0, 0, note))
    assert sheet.notes == [None, "unknown to the model", "drawn from pictures of 'cat' painted green"]


def test_far_caption_is_told_on_stderr(run: Run) -> None:
    _, _, err = run("a treatise on monetary policy", "-n", "2", "--no-sheet")
    assert err.count("not among the captions this model knows") == 1


def test_long_caption_is_told_on_stderr_in_one_line(run: Run) -> None:
    code, _, err = run("cat " * 400, "-n", "1", "--no-sheet")
    assert code == 0
    assert "warning" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ([], "CAPTION"),
        (["  "], "CAPTION"),
        (["cat", ""], "CAPTION"),
        (["\0"], "CAPTION"),
        (["cat", "-n", "0"], "-n"),
        (["cat", "-n", "-1"], "-n"),
        (["cat", "-n", "1.5"], "-n"),
        (["cat", "-n", "1000000000"], "-n"),
        (["cat", "--seed", "x"], "--seed"),
        (["cat", "--steps", "0"], "--steps"),
        (["cat", "--temperature", "-1"], "temperature"),
        (["cat", "--guidance-scale", "much"], "--guidance-scale"),
        (["cat", "--guidance-scale", "nan"], "--guidance-scale: expected a number from 0 to 100, got nan"),
        (["cat", "--guidance-scale", "inf"], "--guidance-scale"),
        (["cat", "--temperature", "1e39"], "--temperature: expected"),
        (["cat", "--temperature", "nan"], "--temperature: expected"),
        (["cat", "--steps", "1" + "0" * 5000], "--steps"),
        (["cat", "-n", "1" + "0" * 5000], "-n"),
        (["cat", "--seed", "inf"], "--seed"),
        (["cat", "--captions", "a\0b"], "--captions"),
        (["cat", "--captions", "/"], "--captions"),
        (["cat", "--guidance-scale", "1", "--negative", "bus"], "negative"),
        (["cat", "--negative", " "], "--negative"),
        (["cat", "--negative", ""], "--negative"),
        (["--captions", "nowhere.txt"], "--captions"),
        (["cat", "--model", "nothing"], "--model"),
        (["cat", "--no-such-option"], "--no-such-option (see bridge generate --help)"),
        (["cat", "--with-default"], "--with-default: does nothing without --pairs SOURCE"),
        (["cat", "--captions-from", "folder"], "--captions-from: does nothing without --pairs SOURCE"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(run: Run, tmp_path: Path, args: list[str], named: str) -> None:
    code, lines, err = run(*args)
    assert (code, lines) == (2, [])
    assert named in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("data", [b"", b"\n \n", b"\xff\xfe\xfa"])
def test_unreadable_caption_file_is_refused(run: Run, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "list.txt").write_bytes(data)
    code, _, err = run("--captions", str(tmp_path / "list.txt"))
    assert (code, err.count("\n")) == (2, 1)
    assert "--captions" in err


def test_damaged_model_is_one_line(run: Run, model: str) -> None:
    (Path(model) / "vae" / "config.json").write_text("{}", "utf-8")
    code, _, err = run("cat")
    assert (code, err.count("\n")) == (2, 1)
    assert "damaged" in err


def test_pickle_is_refused(run: Run, model: str) -> None:
    (Path(model) / "vae" / "weights.bin").write_bytes(b"\x80\x04.")
    code, _, err = run("cat")
    assert (code, err.count("\n")) == (2, 1)
    assert "pickle" in err


@pytest.mark.parametrize("data", [b'{"file_name": "a.png"}\n{"file_name": "b.png"}', b"", b"\x80\n"])
def test_another_tools_manifest_stays_as_it_is(run: Run, tmp_path: Path, data: bytes) -> None:
    """An empty one is nobody's."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.jsonl").write_bytes(data)
    code, lines, err = run("cat", "-n", "1")
    assert code == (2 if data else 0)
    if data:
        assert (lines, err.count("\n")) == ([], 1)
        assert err.startswith(f"bridge generate: --out: {tmp_path / 'out' / 'manifest.jsonl'}: line 1 is none that")
        assert [p.read_bytes() for p in (tmp_path / "out").iterdir()] == [data]


def test_a_picture_that_cannot_be_listed_is_not_left(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bridge.manifest._append", full)
    code, lines, err = run("cat", "-n", "2")
    assert (code, lines, err.count("\n")) == (2, [], 1)
    assert "--out: No space left on device" in err
    assert not list((tmp_path / "out").rglob("*.png"))


def test_an_internal_error_stays_a_traceback(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what the user can mend is one line."""

    def broken(*_: object, **__: object) -> None:
        raise ValueError("planted")

    for place in ("resolve", "from_pretrained", "stream"):
        with monkeypatch.context() as patch:
            patch.setattr(BridgePipeline, place, broken)
            with pytest.raises(ValueError, match="planted"):
                run("cat")
            capsys.readouterr()


@pytest.mark.parametrize("where", ["model_index.json", "mapper/config.json"])
def test_a_newer_versions_model_asks_for_an_update(run: Run, model: str, where: str) -> None:
    path = Path(model) / where
    config = json.loads(path.read_text("utf-8"))
    (config.get("settings", config))["new_setting"] = 1
    path.write_text(json.dumps(config), "utf-8")
    sign(Path(model))
    code, lines, err = run("cat")
    assert (code, lines, err.count("\n")) == (2, [], 1)
    assert f"--model: {path}: unknown setting 'new_setting', a newer version's; update bridge" in err


@pytest.mark.parametrize(
    "change", [{"settings": None}, {"fingerprints": None}, {"text_encoder": None}, {"settings": 3}]
)
def test_an_index_that_lacks_something_is_one_line(run: Run, model: str, change: dict[str, object]) -> None:
    path = Path(model) / "model_index.json"
    index = json.loads(path.read_text("utf-8")) | change
    path.write_text(json.dumps({key: value for key, value in index.items() if value is not None}), "utf-8")
    sign(Path(model))
    code, lines, err = run("cat")
    assert (code, lines, err.count("\n")) == (2, [], 1)
    assert "model_index.json: damaged" in err


def sign(folder: Path) -> None:
    """Make a model folder's manifest right for what is in it."""
    (folder / "manifest.json").unlink()
    checkpoint._write_manifest(folder)


def test_folder_that_cannot_be_written_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file", "utf-8")
    code, _, err = run("cat")
    assert (code, err.count("\n")) == (2, 1)
    assert "--out" in err


def call(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, list[str], str]:
    """Run the command line; exit code, stdout lines, stderr."""
    try:
        code = main(args)
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err


CAT, BUS = (str(sorted((Path(__file__).parent / "artwork").glob(f"{name}--*.png"))[0]) for name in ("cat", "bus"))


def test_interpolate_writes_a_strip_and_its_frames(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, frames = tmp_path / "new" / "strip.png", tmp_path / "frames"
    options = ["--model", model, "--steps", "4", "--out", str(out), "--frames", str(frames), "--seed", "3"]
    code, lines, err = call(capsys, "interpolate", CAT, "a bus", *options)
    assert (code, lines) == (0, [str(out), *(str(frames / f"strip-000{i}.png") for i in range(4))])
    assert f"A is the image {CAT!r}" in err
    assert "B is the caption 'a bus'" in err
    with Image.open(out) as strip, Image.open(lines[2]) as frame:
        assert (strip.size, frame.size) == ((4 * 64 + 3 * 2, 64), (64, 64))
        assert strip.crop((66, 0, 130, 64)).tobytes() == frame.tobytes()
        facts = frame.text  # type: ignore[attr-defined]
    assert (facts["bridge:a"], facts["bridge:a_kind"], facts["bridge:b_kind"]) == (CAT, "image", "caption")
    assert (facts["bridge:seed"], facts["bridge:space"], facts["bridge:kind"]) == ("3", "latent", "linear")
    assert (facts["bridge:frame"], float(facts["bridge:weight"])) == ("1", pytest.approx(1 / 3))


def test_caption_end_of_a_strip_is_what_generate_makes(
    model: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, [picture], _ = run("cat", "-n", "1", "--no-sheet")
    frames = ["--frames", str(tmp_path), "--out", str(tmp_path / "s.png")]
    call(capsys, "interpolate", "cat", "bus", "--model", model, "--steps", "2", *frames)
    with Image.open(picture) as made, Image.open(tmp_path / "s-0000.png") as frame:
        assert made.tobytes() == frame.tobytes()


def test_both_ends_of_a_strip_are_bit_for_bit_what_generate_makes(
    model: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, pictures, _ = run("cat", "a fire in a bus", "-n", "1", "--no-sheet", "--seed", "4")
    frames = ["--frames", str(tmp_path), "--out", str(tmp_path / "s.png"), "--seed", "4"]
    code, lines, _ = call(capsys, "interpolate", "cat", "a fire in a bus", "--model", model, "--steps", "3", *frames)
    assert code == 0
    made = [Image.open(path).tobytes() for path in pictures]
    assert made == [Image.open(path).tobytes() for path in (lines[1], lines[3])]


def test_an_edit_of_nothing_is_bit_for_bit_what_generate_makes(
    model: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, [picture], _ = run("cat", "-n", "1", "--no-sheet")
    options = ["--plus", "fire", "--scale", "0", "--model", model, "--out", str(tmp_path / "e.png")]
    call(capsys, "edit", "cat", *options)
    assert Image.open(picture).tobytes() == Image.open(tmp_path / "e.png").tobytes()


def test_edit_writes_a_picture_that_tells_how(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "edit.png"
    options = ["--plus", "fire", "--minus", "bus", "--scale", "0.5", "--model", model, "--out", str(out)]
    code, lines, _ = call(capsys, "edit", CAT, *options)
    assert (code, lines) == (0, [str(out)])
    with Image.open(out) as image:
        facts = image.text  # type: ignore[attr-defined]
    told = [facts[f"bridge:{name}"] for name in ("a", "plus", "minus", "scale")]
    assert told == [CAT, "fire", "bus", "0.5"]


def test_score_is_a_table_best_caption_first(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.txt").write_text("cat\nbus\nfire\n", "utf-8")
    options = ["--captions", str(tmp_path / "list.txt"), "--model", model, "--samples", "4"]
    code, lines, _ = call(capsys, "score", CAT, BUS, *options)
    table = [line.split("\t") for line in lines]
    assert code == 0
    assert [row[0] for row in table] == [CAT] * 3 + [BUS] * 3
    for rows in (table[:3], table[3:]):
        assert {row[1] for row in rows} == {"cat", "bus", "fire"}
        scores = [float(row[2]) for row in rows]
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= float(row[3]) <= 1 for row in rows)
    _, lines, _ = call(capsys, "score", CAT, BUS, *options, "--by", "caption")
    assert [line.split("\t")[1] for line in lines] == ["cat", "cat", "bus", "bus", "fire", "fire"]
    assert sorted(line.split("\t") for line in lines) == sorted(table)
    _, lines, err = call(capsys, "score", CAT, *options[:-1], "0")
    assert {len(line.split("\t")) for line in lines} == {3}
    assert err.endswith("columns: file, caption, score\n")


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["interpolate", "cat", "bus", "--steps", "1"], "--steps"),
        (["interpolate", "cat", "bus", "--kind", "round"], "--kind"),
        (["interpolate", "cat", "bus", "--kind", "morph", "--space", "noise"], "--kind: morph is of latents; leave it"),
        (["interpolate", "cat", " "], "B: the caption is empty or blank"),
        (["interpolate", "nowhere.png", "bus"], "A"),
        (["interpolate", "cat", "bus", "--space", "noise", "--sampling-steps", "0"], "--sampling-steps"),
        (["interpolate", "cat", "bus", "--sampling-steps", "9"], "--sampling-steps: does nothing in --space latent"),
        (["edit", "cat"], "--plus"),
        (["edit", "cat", "--plus", " "], "--plus"),
        *(
            (["edit", "cat", "--plus", "bus", f"--scale={scale}"], "--scale: expected a number from -100 to 100")
            for scale in ("nan", "inf", "-inf", "1e39", "101")
        ),
        (
            ["edit", "cat", "--plus", "bus", "--out", "strip.jpg"],
            "--out: strip.jpg does not end in .png; name it strip.png",
        ),
        (["edit", "cat", "--plus", "bus", "--out", "."], "--out"),
        (["interpolate", "cat", "bus", "--out", "strip.JPEG"], "--out: strip.JPEG does not end in .png"),
        (["interpolate", "cat", "bus", "--out", "strip.webp"], "name it strip.png"),
        (["interpolate", "cat", "bus", "--steps", "1001"], "--steps"),
        (["score", CAT, "--captions", "LIST", "--samples", "1001"], "--samples: expected"),
        (["edit", "nowhere.png", "--plus", "bus"], "IMAGE"),
        (["score", "nowhere.png", "--captions", "LIST"], "nowhere.png: No such file or directory; check the path"),
        (["score", CAT, "--captions", "nowhere.txt"], "--captions"),
        (["score", CAT, "--captions", "LIST", "--samples", "-1"], "--samples"),
        (["score", CAT], "--captions"),
    ],
)
def test_bad_input_to_the_other_commands_is_one_line(
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    named: str,
) -> None:
    (tmp_path / "list.txt").write_text("cat\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    code, lines, err = call(capsys, *(str(tmp_path / "list.txt") if a == "LIST" else a for a in args), "--model", model)
    said = [line for line in err.splitlines() if not line.startswith("bridge: ")]
    assert (code, lines, len(said)) == (2, [], 1)
    assert named in said[0]
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["nowhere", "nobody/nothing", "."])
def test_a_model_that_is_none_is_told_of_the_argument_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for words, argument in ((["generate", "cat", "--model", name], "--model"), (["info", name], "MODEL")):
        code, _, err = call(capsys, *words)
        assert (code, err.count("\n")) == (2, 1)
        assert err.startswith(f"bridge {words[0]}: {argument}: ")
        assert "model: " not in err.removeprefix(f"bridge {words[0]}: {argument}: ")


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("words", [("edit", "--plus", "a bus"), ("interpolate", "a bus")])
def test_the_picture_drawn_from_is_not_replaced(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], link: bool
) -> None:
    photo, out = tmp_path / "photo.png", tmp_path / "link.png"
    photo.write_bytes(Path(CAT).read_bytes())
    out.symlink_to(photo)
    code, _, err = call(
        capsys, words[0], str(photo), *words[1:], "--out", str(out if link else photo), "--model", model
    )
    assert (code, err.count("\n"), "itself and would be lost; name another file" in err) == (2, 1, True)
    assert photo.read_bytes() == Path(CAT).read_bytes()


def test_a_table_holds_names_and_captions_with_tabs_and_line_breaks(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "a\tb\nc.png"
    picture.write_bytes(Path(CAT).read_bytes())
    (tmp_path / "list.txt").write_text('a\tcat\n"big" bus\na back\\slash\n', "utf-8")
    options = ["--captions", str(tmp_path / "list.txt"), "--model", model, "--samples", "2"]
    code, lines, _ = call(capsys, "score", str(picture), *options)
    rows = [[field.encode().decode("unicode_escape") for field in line.split("\t")] for line in lines]
    assert (code, [len(row) for row in rows]) == (0, [4, 4, 4])
    assert {row[0] for row in rows} == {str(picture)}
    assert {row[1] for row in rows} == {"a\tcat", '"big" bus', "a back\\slash"}


def test_a_folder_whose_name_breaks_lines_is_printed_on_one(run: Run, tmp_path: Path) -> None:
    code, lines, _ = run("cat", "-n", "2", "--no-sheet", "--out", str(tmp_path / "a\nb"))
    assert (code, len(lines)) == (0, 2)
    assert all(Path(line.encode().decode("unicode_escape")).is_file() for line in lines)


def test_usage_error_needs_no_torch() -> None:
    """A typing error is answered at once: nothing heavy is imported for it."""
    code = (
        "import sys; from bridge.cli import main\ntry: main(['generate', 'cat', '-n', '0'])\nexcept SystemExit: pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


# info and push


def test_info_tells_parts_settings_and_card(
    tiny_pipeline: BridgePipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "mine", "# Mine\n\nSeen fit .5.\n")
    assert main(["info", str(tmp_path / "mine")]) == 0
    told = capsys.readouterr().out
    assert all(value in told for value in tiny_pipeline.fingerprints.values())
    assert f"{len(tiny_pipeline.memory)} known" in told and "guidance_scale=2" in told
    assert told.endswith("# Mine\n\nSeen fit .5.\n")


def test_a_model_saved_without_a_card_has_one_whose_example_works(
    tiny_pipeline: BridgePipeline, tmp_path: Path
) -> None:
    tiny_pipeline.memory.captions[0] = caption = 'a "cat\'s" $HOME'
    tiny_pipeline.save_pretrained(tmp_path / "mine")
    card = (tmp_path / "mine" / "README.md").read_text("utf-8")
    assert f"{len(tiny_pipeline.memory)} captions" in card
    command = next(line for line in card.splitlines() if line.startswith("    bridge generate"))
    assert shlex.split(command)[2:] == [caption, "-n", "8", "--model", "FOLDER"]
    code = card.split("```python\n")[1].split("```")[0].replace("FOLDER", str(tmp_path / "mine")).replace("=8", "=2")
    names: dict[str, Any] = {}
    exec(compile(code.replace("\npipe(", "\nimages = pipe("), "card", "exec"), names)
    assert len(names["images"]) == 2


@pytest.mark.filterwarnings("ignore::bridge.checkpoint.UnverifiedWarning")
def test_info_shows_a_card_of_any_encoding(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    (Path(model) / "README.md").write_bytes("# Un café\n".encode("latin-1"))
    assert main(["info", model]) == 0
    assert capsys.readouterr().out.endswith("# Un caf\ufffd\n")


def test_info_of_a_damaged_model_is_one_line(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    (Path(model) / "captions" / "captions.json").write_text("[]", "utf-8")
    assert main(["info", model]) == 2
    assert capsys.readouterr().err.count("\n") == 1


class Hub:
    """Stands for the hub's client: takes a folder, or refuses."""

    error: Exception | None = None

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        if self.error:
            raise self.error

    def upload_folder(self, *, repo_id: str, folder_path: Path) -> str:
        return f"https://hub/{repo_id}: {(Path(folder_path) / 'README.md').read_text('utf-8').strip()}"


def test_push_uploads_the_model_with_its_card(
    tiny_pipeline: BridgePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "mine", "My card.")
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert main(["push", str(tmp_path / "mine"), "me/mine"]) == 0
    assert capsys.readouterr().out == "https://hub/me/mine: My card.\n"


@pytest.mark.parametrize("kind", [OSError, HTTPError])
def test_push_that_the_hub_refuses_is_one_line(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: type[Exception]
) -> None:
    """Or that does not reach it: an error of the client's, which is no OSError."""
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr(Hub, "error", kind("401 Unauthorized\nmore"))
    assert main(["push", model, "me/mine"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "me/mine" in error and "401" in error and "connection, or log in" in error
