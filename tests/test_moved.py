"""Commands under their old names say the new one."""

import contextlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from train.starting import NEW_NAMES


@pytest.mark.parametrize("name", NEW_NAMES)
def test_an_old_name_is_no_command_and_its_new_one_is(name: str) -> None:
    assert importlib.util.find_spec(NEW_NAMES[name].split()[0]) is not None
    found = None
    with contextlib.suppress(ModuleNotFoundError):  # its package may be gone as well
        found = importlib.util.find_spec(name)
    assert found is None or '"__main__"' not in Path(found.origin or "").read_text("utf-8")


@pytest.mark.parametrize(
    "name", [next(name for name in NEW_NAMES if name.startswith(room)) for room in ("train", "eval")]
)
def test_an_old_name_answers_in_one_line(name: str) -> None:
    done = subprocess.run([sys.executable, "-m", name, "any", "--thing"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{name} is now python -m {NEW_NAMES[name]}\n"
