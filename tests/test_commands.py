"""What all commands of train and eval share: one line for bad input, exit codes, Ctrl-C, closed streams, help."""

import errno
import importlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bridge.arguments import writable_folder
from bridge.errors import UserError
from train.command import Parser, blaming, number, run_command, whole, writable_file

ROOT = Path(__file__).parent.parent
COMMANDS = sorted(
    ".".join(path.with_suffix("").relative_to(ROOT).parts).removesuffix(".__main__")
    for package in ("train", "eval")
    for path in (ROOT / package).rglob("*.py")
    if "sys.exit(main())" in path.read_text("utf-8")
)
COMMANDS += [
    f"{command} {study}"
    for command in COMMANDS
    if command.startswith("eval.studies")
    for study in importlib.import_module(f"{command}.__main__").STUDIES
]


def process(*words: str, **settings: object) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *words]
    return subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE, **settings)  # type: ignore[call-overload,no-any-return]


def main_of(module: str):
    """Its `main`; a study, as in "eval.studies.cost speed", is asked first."""
    name, *study = module.split()
    try:
        main = importlib.import_module(name if name.count(".") else f"{name}.__main__").main
    except AttributeError:
        main = importlib.import_module(f"{name}.__main__").main
    return lambda words: main([*study, *words])


def test_there_are_commands():
    assert {"train.mapper", "eval", "eval.studies.compare", "train.prepare"} <= set(COMMANDS)


@pytest.mark.parametrize("module", COMMANDS)
def test_help_says_what_every_option_does_and_shows_an_example(module, capsys):
    with pytest.raises(SystemExit, match="0"):
        main_of(module)(["--help"])
    told = capsys.readouterr().out
    assert f"example:\n  python -m {module} " in told
    options = [line.split() for line in told.split("example:")[0].splitlines() if line.startswith("  -")]
    assert options


@pytest.mark.parametrize("module", COMMANDS)
def test_every_argument_has_a_help_of_its_own(module, monkeypatch):
    seen: list[Parser] = []

    def keep(self: Parser, *_: object) -> None:
        seen.append(self)
        raise SystemExit(0)

    monkeypatch.setattr(Parser, "parse_args", keep)
    with pytest.raises(SystemExit):
        main_of(module)([])
    assert seen and not [action.dest for action in seen[0]._actions if not action.help]


def test_a_list_of_defaults_is_shown_in_words() -> None:
    parser = Parser("python -m stand_in", "What a stand-in does.", "python -m stand_in")
    parser.add_argument("--modes", nargs="+", default=["no training", "plateau"], help="of these")
    parser.add_argument("--trial", nargs=2, type=whole(0), default=(0, 1), help="of each")
    text = " ".join(parser.format_help().split())
    assert "of these (default: no training, plateau)" in text and "of each (default: 0, 1)" in text


@pytest.mark.parametrize("module", COMMANDS)
def test_an_unknown_option_is_one_line(module, capsys):
    with pytest.raises(SystemExit, match="2"):
        main_of(module)(["--no-such-option"])
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("module", "words", "named"),
    [
        ("eval", ["pictures", "--captions", "0"], "--captions: expected a whole number of 1 or more, got '0'"),
        ("eval", ["pictures", "--samples", "1"], "--samples: expected a whole number of 2 or more"),
        ("eval", ["pictures", "--guidance-scale", "nan"], "--guidance-scale: expected a finite number"),
        ("eval.studies.checks cheats", ["--captions", "0"], "--captions"),
        ("eval", ["pictures", "--sheet", "x.png", "--captions", "0"], "--captions"),
        ("eval", ["pictures", "--sheet", "x.png", "-n", "0"], "-n"),
        ("eval.studies.checks swap", ["pictures", "--captions", "0"], "--captions"),
        ("eval.studies.latents near", ["pictures", "--out", "x.png", "-n", "0"], "-n"),
        ("eval.studies.checks retrieval", ["pictures", "--pictures", "0"], "--pictures"),
        ("eval.studies.checks retrieval", ["pictures", "--candidates", "1"], "--candidates"),
        ("eval.studies.compare pairs", ["pictures", "--captions", "0"], "--captions"),
        ("eval.studies.compare pairs", ["pictures", "--minutes", "inf"], "--minutes"),
        ("eval.studies.compare peers", ["pictures", "--trials", "0"], "--trials"),
        ("eval.studies.compare families", ["pictures", "--seeds", "0"], "--seeds"),
        ("eval.studies.checks familiarity", ["pictures", "-n", "0"], "-n"),
        ("eval.studies.latents factors", ["a", "--halves", "0"], "--halves"),
        ("eval.studies.cost speed", ["--repeats", "0"], "--repeats"),
        ("train.prepare", ["a", "--words", "b", "--dim", "0"], "--dim"),
        ("train.prepare", ["a", "--out", "b", "--max-bad", "nan"], "--max-bad"),
        ("train.recipes shapes", ["--count", "9"], "--count"),
    ],
)
def test_a_number_out_of_range_is_refused_at_once(module, words, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main_of(module)(words) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"python -m {module}: {named}") and told.count("\n") == 1
    assert not list(tmp_path.iterdir())


# what is the user's and what is ours


def test_only_what_the_user_can_mend_is_one_line(capsys):
    def fail(error: BaseException) -> None:
        raise error

    parser = Parser("x", "y", "z")
    parser.add_argument("--out", default="/elsewhere")
    assert run_command(parser, [], lambda _: fail(UserError("--a: wrong;\n do b"))) == 2
    assert capsys.readouterr().err == "x: --a: wrong; do b\n"
    for ours in (ValueError("internal"), KeyError("internal"), FileNotFoundError(errno.ENOENT, "no", "/internal")):
        with pytest.raises(type(ours)):
            run_command(parser, [], lambda _, ours=ours: fail(ours))


@pytest.mark.parametrize("name", ["EROFS", "ENOSPC", "EACCES", "EISDIR", "ENOTDIR", "ENOENT", "ENAMETOOLONG"])
def test_what_a_disk_refuses_is_blamed_on_the_argument_above_it(name):
    code, given = getattr(errno, name), {"--data": "/data", "--out": Path("/data/mine"), "-n": 3, "MODEL": "pictures"}
    with pytest.raises(UserError) as caught, blaming(given):
        raise OSError(code, os.strerror(code), "/data/mine/x/y.png")
    assert str(caught.value).startswith(f"--out: /data/mine/x/y.png: {os.strerror(code)}; ")


def test_a_full_disk_without_a_name_is_blamed_on_nobody():
    with pytest.raises(UserError, match=r"^No space left on device; make room"), blaming({"--out": "/data"}):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_trouble_with_a_stream_is_blamed_on_no_argument():
    with pytest.raises(BrokenPipeError), blaming({"--out": "/data"}):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_folders_and_files_for_results_are_tried_before_the_work(tmp_path):
    assert writable_folder(tmp_path / "a" / "b").is_dir() and writable_file(tmp_path / "c" / "d.png").parent.is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^--out: cannot write to .*file/x: Not a directory; name another folder"):
        writable_folder(tmp_path / "file" / "x")
    with pytest.raises(UserError, match=r"^--sheet: .* is a folder; name a file"):
        writable_file(tmp_path, "--sheet")
    with pytest.raises(UserError, match=r"^--sheet: .*x.jpg does not end in .png; name it .*x.png"):
        writable_file(tmp_path / "x.jpg", "--sheet")
    with pytest.raises(UserError, match=r"^--out: .*x.png does not end in .svg; name it .*x.svg"):
        writable_file(tmp_path / "x.png", ending=".svg")


def test_numbers_say_their_bounds():
    told = [str(kind) for kind in (whole(2), whole(1, 9), number(), number(0), number(0, 1), number(above=0))]
    assert told == [
        "a whole number of 2 or more",
        "a whole number from 1 to 9",
        "a finite number",
        "a finite number of 0 or more",
        "a finite number from 0 to 1",
        "a finite number above 0",
    ]


# streams


def test_a_closed_pipe_ends_no_work_and_makes_no_noise(tmp_path):
    """Three lines are written though nobody reads, and the work after them is done."""
    code = (
        "import sys, pathlib; from train.command import *\n"
        "parser = Parser('x', 'y', 'z')\n"
        "def work(_):\n"
        "    for _ in range(3): print('a' * 100_000, flush=True)\n"
        f"    pathlib.Path({str(tmp_path / 'done')!r}).touch()\n"
        "sys.exit(run_command(parser, [], work))\n"
    )
    (tmp_path / "x.py").write_text(code, "utf-8")
    script = f"{sys.executable} {tmp_path / 'x.py'} | true; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr, (tmp_path / "done").exists()) == (0, "", True)


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "0<&-", "1>&- 2>&- 0<&-"])
def test_closed_streams_are_no_ones_fault(closed, tmp_path):
    (tmp_path / "x.py").write_text(
        "import sys; from train.command import *\n"
        "def work(_):\n    print('told'); say('said'); print('x', file=sys.stderr)\n"
        "sys.exit(run_command(Parser('x', 'y', 'z'), [], work))\n",
        "utf-8",
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = f"{sys.executable} {tmp_path / 'x.py'} {closed}"
    assert subprocess.run(["bash", "-c", script], capture_output=True, env=environment, check=False).returncode == 0


def test_a_character_unknown_to_the_terminal_is_escaped(tmp_path):
    (tmp_path / "x.py").write_text(
        "import sys; from train.command import *\n"
        "sys.exit(run_command(Parser('x', 'y', 'z'), [], lambda _: print('\\u732b caf\\udce9')))\n",
        "utf-8",
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, str(tmp_path / "x.py")], capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (0, b"\\u732b caf\xe9\n")  # a byte of a file's name stays it


# Ctrl-C


def wait_for_import(pid: int, name: str) -> None:
    """Until a process has a shared library of a package in memory."""
    for _ in range(6000):
        if f"/{name}/" in Path(f"/proc/{pid}/maps").read_text("utf-8"):
            return
        time.sleep(0.005)
    pytest.fail(f"{name} was not imported")


@pytest.mark.parametrize("module", ["train.mapper", "eval"])
def test_ctrl_c_while_importing_is_one_line_and_130(module):
    running = process(module, "--help", stdout=subprocess.DEVNULL)
    wait_for_import(running.pid, "numpy")
    running.send_signal(signal.SIGINT)
    assert (running.communicate()[1], running.returncode) == (f"python -m {module}: stopped\n", 130)


def test_ctrl_c_at_work_is_one_line_and_130(capsys):
    def work(_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    assert run_command(Parser("x", "y", "z"), [], work) == 130
    assert capsys.readouterr().err == "x: stopped\n"


def test_in_a_program_that_imports_us_ctrl_c_is_as_before():
    code = "import train, eval, signal; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# read-only disks


def read_only(tmp_path: Path) -> Path:
    """A folder that cannot be written to, whoever we are: a file stands where it would be."""
    (tmp_path / "disk").write_bytes(b"")
    return tmp_path / "disk" / "run"


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("eval", ["pictures", "--data", "DATA", "--quick"]),
        ("eval.studies.checks cheats", ["--data", "DATA"]),
        ("eval.studies.compare pairs", ["pictures", "--data", "DATA"]),
        ("eval.studies.compare peers", ["pictures", "--data", "DATA"]),
        ("eval.studies.compare families", ["pictures", "--data", "DATA"]),
        ("eval.studies.checks swap", ["pictures", "--data", "DATA"]),
        ("eval.studies.latents near", ["pictures", "--data", "DATA"]),
        ("train.prepare", ["ARTWORK"]),
        ("train.recipes shapes", ["--count", "10"]),
        ("train", ["ARTWORK"]),
    ],
)
def test_an_out_that_cannot_be_written_is_one_line(module, words, tmp_path, artwork_folder, capsys):
    places = {"DATA": str(artwork_folder), "ARTWORK": str(Path(__file__).parent / "artwork")}
    out = read_only(tmp_path)
    assert main_of(module)([places.get(word, word) for word in words] + ["--out", str(out)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith(f"python -m {module}: --out: ") and not any("Traceback" in line for line in told)


@pytest.mark.parametrize("option", ["--sheet", "--words"])
def test_other_files_of_prepare_that_cannot_be_written_are_one_line(option, tmp_path, artwork_folder, capsys):
    assert main_of("train.prepare")([str(artwork_folder), option, str(read_only(tmp_path))]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"python -m train.prepare: {option}: ") and told.count("\n") == 1


def test_a_real_read_only_disk_is_one_line(tmp_path):
    """The same of a mounted one, where the machine lets us mount."""
    if os.geteuid() != 0:
        pytest.skip("nothing may be mounted here")
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "x.py").write_text(
        "import sys; from train.command import *\n"
        "sys.exit(run_command(Parser('x', 'y', 'z'), [], lambda _: writable_folder('disk/a')))\n",
        "utf-8",
    )
    script = f"mount -t tmpfs -o ro none disk || exit 77; {sys.executable} x.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = ["unshare", "-m", "bash", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    if done.returncode == 77:
        pytest.skip("nothing may be mounted here")
    told = "x: --out: cannot write to disk/a: Read-only file system; name another folder\n"
    assert (done.returncode, done.stderr) == (2, told)


def test_a_stream_of_a_test_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert run_command(Parser("x", "y", "z"), [], lambda _: print("told")) == 0
    assert sys.stdout.getvalue() == "told\n"


@pytest.mark.parametrize("module", ["train.mapper", "train.autoencoder"])
def test_the_option_that_became_a_command_says_so(module, capsys):
    assert main_of(module)(["--data", "photos", "--out", "x"]) == 2
    told = (
        f"python -m {module}: --data is now a command of its own: python -m train FOLDER (see python -m train --help)"
    )
    assert capsys.readouterr().err == told + "\n"
