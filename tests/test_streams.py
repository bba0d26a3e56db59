"""Standard streams that are closed, full, unread or of few characters, and Ctrl-C at any moment: in a shell."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bridge import __version__, streams
from bridge.errors import UserError

if sys.platform == "win32":
    pytest.skip("redirections are a shell's", allow_module_level=True)

BRIDGE = shlex.join([sys.executable, "-m", "bridge"])
LINES = """
import sys
from bridge.streams import guarded
def work():
    for number in range(20000):
        print(f"line {number}")
        if number == 100:
            print("a note", file=sys.stderr)
    open("done", "w").close()
    return 0
sys.exit(guarded("command", work))
"""


def shell(line: str, cwd: Path, **settings: str) -> tuple[int, bytes, str]:
    """Run a line by bash; exit code (of the first command of a pipe), standard output, standard error."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "PYTHONIOENCODING"))}
    env |= {"PYTHONPATH": str(Path(__file__).parents[1]), "LC_ALL": "C.UTF-8", **settings}
    done = subprocess.run(
        ["bash", "-c", f"{line}\nexit ${{PIPESTATUS[0]}}"],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr.decode("utf-8", "backslashreplace")


def python(code: str) -> str:
    return shlex.join([sys.executable, "-c", code])


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        ("| head -1", 0, "a note\n"),
        (">/dev/null", 0, "a note\n"),
        (">&-", 0, "a note\n"),
        (">/dev/full", 2, "a note\ncommand: standard output: No space left on device; what it lacks was not printed\n"),
        ("2>&- >/dev/null", 0, ""),
        ("2>/dev/full >/dev/null", 0, ""),
        ("2>&- | head -1", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
    ],
)
def test_work_goes_on_whatever_the_streams_are(tmp_path, redirection, code, said):
    found, _, err = shell(f"{python(LINES)} {redirection}", tmp_path)
    assert (found, err) == (code, said)
    assert (tmp_path / "done").exists()


def test_without_standard_error_notes_do_not_land_among_results(tmp_path):
    _, out, _ = shell(f"{python(LINES)} 2>&-", tmp_path)
    assert out.count(b"\n") == 20000 and b"note" not in out


def test_a_file_opened_later_is_not_taken_for_standard_output(tmp_path):
    code = (
        "import os\nfrom bridge.streams import guarded\n"
        "def work():\n  file = open('mine', 'w')\n  os.system('echo noise')\n  return file.fileno() <= 2\n"
        "raise SystemExit(guarded('command', work))"
    )
    assert shell(f"{python(code)} >&-", tmp_path)[0] == 0
    assert (tmp_path / "mine").read_text() == ""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_what_a_stream_cannot_encode_is_escaped_and_bytes_stay_bytes(tmp_path, encoding):
    code = (
        "import sys\nfrom bridge.streams import guarded\n"
        "text = 'caf\\xe9 \\u732b \\U0001f600 \\ud83d a\\udce9'\n"
        "sys.exit(guarded('command', lambda: print(text) or print(text, file=sys.stderr) or 0))"
    )
    found, out, err = shell(python(code), tmp_path, PYTHONIOENCODING=encoding)
    assert (found, "Traceback" in err) == (0, False)
    wide = "猫 😀".encode() if encoding == "utf-8" else rb"\u732b \U0001f600"
    accent = rb"\xe9" if encoding == "ascii" else "é".encode(encoding)
    assert out == b"caf" + accent + b" " + wide + rb" \ud83d a" + b"\xe9\n"


def test_half_a_character_is_escaped_in_wide_encodings_too(tmp_path):
    code = "import sys\nfrom bridge.streams import guarded\nsys.exit(guarded('x', lambda: print('a\\ud83d') or 0))"
    found, out, _ = shell(python(code), tmp_path, PYTHONIOENCODING="utf-32-le")
    assert (found, out.decode("utf-32-le")) == (0, "a\\ud83d\n")


def test_streams_are_as_before_afterwards(capsys):
    before = sys.stdout, sys.stderr, sys.stdout.errors
    assert streams.guarded("command", lambda: print("é") or 3) == 3
    assert (sys.stdout, sys.stderr, sys.stdout.errors) == before
    assert capsys.readouterr().out == "é\n"


def test_an_error_passes(capsys):
    with pytest.raises(ZeroDivisionError):
        streams.guarded("command", lambda: 1 // 0)


def test_closed_standard_input_is_no_arguments_fault(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match=r"^standard input: it is closed; pipe captions in"):
        streams.read_input()


def test_a_terminal_that_hung_up_is_no_arguments_fault(monkeypatch):
    class Gone:
        closed = False

        def read(self):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"closed": False, "buffer": Gone()})())
    with pytest.raises(UserError, match=r"^standard input: Input/output error; "):
        streams.read_input()


# Ctrl-C


def interrupted(code: str, tmp_path: Path) -> tuple[int, str]:
    """Run Python, press Ctrl-C once it has made the file "begun"; exit code and standard error."""
    env = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[1]}:{tmp_path}"}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "begun").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    return process.returncode, err


RUN = """
import sys, time
from bridge.streams import STOPPED, guarded, interruptible, uninterrupted
def work():
    try:
        with interruptible("command: stopped"):
            inner()
    except KeyboardInterrupt:
        print("command: stopped", file=sys.stderr)
        return STOPPED
    return 0
def begin():
    open("begun", "w").close()
"""
GO = "\nsys.exit(guarded('command', work))\n"


@pytest.mark.parametrize("swallowed", ["BaseException", "Exception"])
def test_ctrl_c_while_importing_ends_at_once_though_the_module_swallows_it(tmp_path, swallowed):
    (tmp_path / "slow_module.py").write_text(
        f"import time\ntry:\n    open('begun', 'w').close(); time.sleep(60)\nexcept {swallowed}:\n    pass\n"
        "time.sleep(60)\n"
    )
    code = RUN + "def inner():\n    import slow_module\n" + GO
    assert interrupted(code, tmp_path) == (130, "command: stopped\n")


def test_ctrl_c_that_a_library_turns_into_another_error_is_ctrl_c(tmp_path):
    code = RUN + (
        "def inner():\n    begin()\n    try:\n        time.sleep(60)\n"
        "    except KeyboardInterrupt:\n        raise ValueError('a font is missing') from None\n"
    )
    assert interrupted(code + GO, tmp_path) == (130, "command: stopped\n")


def test_ctrl_c_waits_for_what_must_not_be_cut_in_two(tmp_path):
    code = RUN + (
        "def inner():\n    with uninterrupted():\n        begin()\n        time.sleep(1)\n"
        "        open('whole', 'w').close()\n    open('more', 'w').close()\n"
    )
    assert interrupted(code + GO, tmp_path) == (130, "command: stopped\n")
    assert (tmp_path / "whole").exists() and not (tmp_path / "more").exists()


def test_after_the_block_ctrl_c_is_as_before():
    before = signal.getsignal(signal.SIGINT)
    with streams.interruptible("stopped"):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_in_the_background_ctrl_c_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with streams.interruptible("stopped"):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# the command itself


def test_version(tmp_path):
    assert shell(f"{BRIDGE} --version", tmp_path) == (0, f"bridge {__version__}\n".encode(), "")


@pytest.mark.parametrize("command", ["--help", "generate --help", "--version"])
def test_help_on_a_full_disk_is_one_line(tmp_path, command):
    code, _, err = shell(f"{BRIDGE} {command} >/dev/full", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("bridge: standard output: No space left")


def test_closed_standard_input_is_not_blamed_on_captions(tmp_path):
    code, _, err = shell(f"{BRIDGE} generate --captions - <&-", tmp_path)
    assert (code, err.count("\n"), "--captions" in err) == (2, 1, False)
    assert "standard input" in err


def test_generate_from_standard_input_into_head_draws_all_and_lists_all(model_folder, tmp_path):
    caption = "a $HOME \"cat\" 😀 'quoted'"
    (tmp_path / "captions").write_text(f"{caption}\n", "utf-8")
    line = f"{BRIDGE} generate --captions - -n 40 --model {model_folder} --out o --no-sheet <captions | head -1"
    code, out, err = shell(line, tmp_path)
    assert (code, out.count(b"\n"), err.count("\n")) == (0, 1, 1)
    assert "not among the captions this model knows" in err
    assert len(list((tmp_path / "o").rglob("*.png"))) == 40
    manifest = (tmp_path / "o" / "manifest.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(entry)["caption"] for entry in manifest] == [caption] * 40


def test_captions_and_folders_that_the_terminal_cannot_encode(model_folder, tmp_path):
    """Neither in files' names nor on its streams. One caption is UTF-8, one Latin-1, as an old script may hold it."""
    line = f"{BRIDGE} generate 'café 猫 cat' $'caf\\xe9 cat' -n 1 --model {model_folder} --out é"
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code, out, err = shell(line, tmp_path, **ascii_only)
    assert (code, out.count(b"\n"), "Traceback" in err) == (0, 3, False)
    manifest = (tmp_path / "é" / "manifest.jsonl").read_text("utf-8")
    assert manifest.count("\n") == 2
    assert '"café 猫 cat"' in manifest and '"café cat"' in manifest


def test_ctrl_c_of_the_command_is_one_line(model_folder, tmp_path):
    """While torch is imported."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "bridge", "info", str(model_folder)],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "torch" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    said = [line for line in err.splitlines() if not line.startswith("import time:")]
    assert (process.returncode, said) == (130, ["bridge: stopped; run it again to go on"])
