"""make generate: the caption reaches the command as it was typed, and a second run installs nothing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment that looks installed, with a `bridge` that prints its arguments."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "bridge"
    command.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n", "utf-8")
    command.chmod(0o755)
    (tmp_path / ".installed").touch()
    os.utime(tmp_path / ".installed", (2**33, 2**33))
    return tmp_path


def make(venv: Path, target: str, *settings: str, path: str | None = None) -> list[str]:
    """Lines that a target prints, with another PATH where one is given."""
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    done = subprocess.run(
        [str(shutil.which("make")), "--no-print-directory", target, f"VENV={venv}", *settings],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=environment if path is None else {**environment, "PATH": path},
    )
    return done.stdout.splitlines()


def generate(venv: Path, *settings: str) -> list[str]:
    return make(venv, "generate", *settings)


@pytest.mark.parametrize(
    "caption", ["a smiling cat", 'it\'s "5 $"', "$HOME $(HOME) ${HOME} `id`", "😀 100% #1; a\\b", "$(shell id)"]
)
def test_caption_survives_make_and_shell(venv: Path, caption: str) -> None:
    assert generate(venv, f"CAPTION={caption}")[:2] == ["generate", caption]


def test_installed_environment_is_used_as_it_is(venv: Path) -> None:
    """Nothing but the command's own output: no pip."""
    assert generate(venv, "CAPTION=cat") == ["generate", "cat", "-n", "8", "--seed", "0", "--out", "out"]


def test_count_and_seed_are_passed_on(venv: Path) -> None:
    assert generate(venv, "CAPTION=cat", "N=3", "SEED=5")[2:6] == ["-n", "3", "--seed", "5"]


def test_without_a_browser_the_tests_of_the_page_are_skipped_and_say_so(venv: Path) -> None:
    told = make(venv, "test-web", path=str(venv / "nothing"))
    assert told == ["test-web: skipped, as chromium is missing and apt-get cannot install it"]


def test_without_playwright_too(venv: Path) -> None:
    (venv / "bin" / "chromium").touch(0o755)
    assert make(venv, "test-web", path=str(venv / "bin")) == ["test-web: skipped, as pip cannot install playwright"]
