"""Icon sets of Iconify, from npm: fetched, their licences checked, their names read as captions."""

import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bridge.errors import UserError
from train.recipes.writing import LISTS

PALETTE_SETS, PLAIN_SETS, GLYPH_SETS = (LISTS[name] for name in ("PALETTE_SETS", "PLAIN_SETS", "GLYPH_SETS"))
"""NAME@VERSION of sets in several colours, of sets in one, and of those of the latter that are mostly things."""
LICENCES = {"MIT", "Apache-2.0", "ISC", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0"}
"""What a set's own `info.json` may say: a trained model may be shipped, with attribution."""
MAX_WORDS = 5


class MissingToolError(UserError):
    """A program that the recipe needs is not on this machine, or failed."""


class LicenceError(UserError):
    """An icon set under a licence that is not permissive."""


def run_tool(words: Sequence[str | Path], folder: Path, output: str, if_missing: str, if_failed: str) -> Path:
    """Run a program in a folder; returns the last file there that matches the pattern `output`.

    Raises MissingToolError, which names a remedy, if the program is not installed, fails or writes no such file.
    """
    if (program := shutil.which(words[0])) is None:
        raise MissingToolError(f"{words[0]}: not found; {if_missing}")
    done = subprocess.run([program, *words[1:]], cwd=folder, capture_output=True, text=True, check=False)
    written = max(folder.glob(output), default=None)
    if done.returncode or written is None:
        command = " ".join(map(str, words[:3]))
        raise MissingToolError(f"{command}: {done.stderr.strip() or 'no archive'}; {if_failed}")
    return written


def npm_pack(package: str, folder: Path) -> Path:
    """The folder of `NAME@VERSION`, fetched with npm into `folder` and unpacked once. Raises MissingToolError."""
    target = folder / re.sub(r"[^\w.-]+", "_", package)
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    install = "install Node.js (Debian: apt-get install npm; macOS: brew install node) and run again"
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = Path(name)
        words = ["npm", "pack", package, "--silent"]
        with tarfile.open(run_tool(words, scratch, "*.tgz", install, "check the network")) as archive:
            archive.extractall(scratch, filter="data")
        try:
            (scratch / "package").rename(target)
        except OSError:
            if not target.exists():  # else another process was first with the same package
                raise
    return target


@dataclass(frozen=True)
class IconSet:
    """One fetched set: its icons.json, and its info.json, which names author and licence."""

    icons: dict[str, Any]
    info: dict[str, Any]

    @classmethod
    def fetch(cls, package: str, downloads: Path) -> "IconSet":
        """NAME@VERSION of Iconify's sets; see `load`."""
        return cls.load(npm_pack(f"@iconify-json/{package}", downloads))

    @classmethod
    def load(cls, folder: Path) -> "IconSet":
        """Read an unpacked package. Raises LicenceError if its licence is none of LICENCES."""
        icons, info = (json.loads((folder / name).read_text("utf-8")) for name in ("icons.json", "info.json"))
        if (licence := info["license"].get("spdx")) not in LICENCES:
            known = ", ".join(sorted(LICENCES))
            raise LicenceError(f"{info['prefix']}: its licence is {licence}; use sets under {known}")
        return cls(icons, info)

    @property
    def credit(self) -> str:
        """One line of CREDITS.md."""
        author, licence = self.info["author"], self.info["license"]
        return f"- {self.info['name']} by {author['name']} ({author.get('url', 'no address')}), {licence['spdx']}"

    @cached_property
    def captions(self) -> dict[str, str]:
        """{caption: icon name}: of a caption's drawings the one with the shortest name, hidden ones left out."""
        chosen: dict[str, str] = {}
        for name in sorted(self.icons["icons"], key=lambda n: (len(n), n)):
            caption = icon_caption(name)
            if len(caption) > 1 and len(caption.split()) <= MAX_WORDS and not self.icons["icons"][name].get("hidden"):
                chosen.setdefault(caption, name)
        return chosen


def icon_caption(name: str) -> str:
    """The caption in an icon's name: its words without those of style, sizes and numbers; may be empty.

    >>> icon_caption("alarm-clock-outline-24")
    'alarm clock'
    """
    return " ".join(w for w in re.split(r"[^a-z]+", name.lower()) if w and w not in LISTS["STYLE_WORDS"])


def icon_svg(icons: dict[str, Any], name: str) -> str:
    """One icon of an icons.json as a square SVG document, the drawing centred."""
    icon = icons["icons"][name]
    left, top = (icon.get(key, icons.get(key, 0)) for key in ("left", "top"))
    width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
    side = max(width, height)
    box = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" width="64" height="64">{icon["body"]}</svg>'
    )
