"""What all recipes share: the command, programs that fetch, work on all cores, and the dataset's folder."""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import datasets
from tqdm import tqdm

from bridge.arguments import writable_folder
from bridge.checkpoint import atomic_folder, check_replaceable
from bridge.errors import UserError
from train.command import Parser, run_command

SIZE, SMALLEST, LARGEST = 64, 16, 1024  # Side of a picture, in pixels
SPLITS = Path(__file__).parents[2] / "configs" / "emoji-splits.json"
_PARTS = re.split(r"^\[(\w+)\].*$", Path(__file__).with_name("words.txt").read_text("utf-8"), flags=re.MULTILINE)
LISTS = {name: tuple(words.split()) for name, words in zip(_PARTS[1::2], _PARTS[2::2], strict=True)}
"""Words, and names of icon sets, by the list's name; words.txt says what each is for."""
Row = dict[str, Any]
Job = TypeVar("Job")
Result = TypeVar("Result")


class MissingToolError(UserError):
    """A program that the recipe needs is not on this machine, or failed."""


def run_recipe(
    name: str,
    doc: str | None,
    add_options: Callable[[argparse.ArgumentParser], object],
    work: Callable[[argparse.Namespace], object],
    argv: Sequence[str] | None = None,
) -> int:
    """`python -m train.recipes NAME --out FOLDER`, which replaces no folder but one that it made; the exit code."""
    command = f"python -m train.recipes {name}"
    parser = Parser(command, doc, f"{command} --out data/{name}")
    parser.add_argument("--out", type=Path, default=Path("data", name), help="folder of the dataset")
    add_options(parser)

    def run(args: argparse.Namespace) -> None:
        check_replaceable(args.out)
        writable_folder(args.out.parent)
        work(args)
        print(args.out)

    return run_command(parser, argv, run)


def add_downloads(parser: argparse.ArgumentParser, size: int = SIZE) -> None:
    """The options `--downloads` and `--size`, of SMALLEST to LARGEST pixels."""

    def side(word: str) -> int:
        if not word.isdecimal() or not SMALLEST <= int(word) <= LARGEST:
            raise argparse.ArgumentTypeError(f"expected {SMALLEST} to {LARGEST} pixels, got {word}")
        return int(word)

    parser.add_argument("--downloads", type=Path, default=Path("data/npm"), help="where downloads are kept")
    parser.add_argument("--size", type=side, default=size, help=f"side of a picture, {SMALLEST} to {LARGEST} pixels")


def run_tool(words: Sequence[str], folder: Path, output: str, if_missing: str, if_failed: str) -> Path:
    """Run a program; the last file in `folder` that matches `output`. MissingToolError, with a remedy, if it fails."""
    if (program := shutil.which(words[0])) is None:
        raise MissingToolError(f"{words[0]}: not found; {if_missing}")
    done = subprocess.run([program, *words[1:]], cwd=folder, capture_output=True, text=True, check=False)
    written = max(folder.glob(output), default=None)
    if done.returncode or written is None:
        raise MissingToolError(f"{' '.join(words[:3])}: {done.stderr.strip() or 'no archive'}; {if_failed}")
    return written


def in_pool(work: Callable[[Job], Result], jobs: Sequence[Job], what: str) -> list[Result]:
    """Results of all jobs, on all cores, with a progress bar."""
    with ProcessPoolExecutor() as pool:
        return list(tqdm(pool.map(work, jobs, chunksize=64), total=len(jobs), desc=what, file=sys.stderr))


def write_rows(features: datasets.Features, rows: Sequence[Row], out: Path, credits: Sequence[str] = ()) -> None:
    """Write rows, pictures under "png", as a `datasets` folder with CREDITS.md, or nothing; see `check_replaceable`."""
    columns = {key: [row[key] for row in rows] for key in features if key != "image"}
    columns["image"] = [{"bytes": row["png"], "path": None} for row in rows]
    with atomic_folder(out) as folder:
        datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(folder))
        if credits:
            (folder / "CREDITS.md").write_text("\n".join(["# Credits", "", *credits, ""]), encoding="utf-8")
