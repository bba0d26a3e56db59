"""Studies: what a report does not ask. Each command answers several questions: `python -m eval.studies.NAME WHAT …`."""

import argparse
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.report import ROWS
from train.command import Parser, run_command, spelled, whole

COMMON: dict[str, dict[str, Any]] = {
    "model": {"help": "a shipped model's name, a model folder, or a hub id"},
    "--data": {"default": "data/pictures", "help": "a dataset"},
    "--split": {"choices": sorted(ROWS), "default": "validation", "help": "where settings are chosen, or test"},
    "--samples": {"type": whole(2), "default": 4, "help": "pictures a caption, at least 2"},
    "--captions": {"type": whole(2), "help": "judge at most so many captions of each row"},
    "--seed": {"type": whole(0), "default": 0, "help": "key of all randomness"},
}


@dataclass(frozen=True)
class Study:
    """One question of a command."""

    about: str | None  # What it measures, for --help; its first line is shown by the command's own
    example: str  # What follows the command's name and the question
    arguments: Callable[[Parser], None]  # Adds the arguments
    run: Callable[[argparse.Namespace, str], None]  # Answers it, given these and the command as it was typed


def parser_of(name: str, what: str, study: Study) -> Parser:
    parser = Parser(f"{name} {what}", inspect.cleandoc(study.about or ""), f"{name} {what} {study.example}")
    study.arguments(parser)
    return parser


def run_study(name: str, about: str, studies: Mapping[str, Study], argv: Sequence[str] | None = None) -> int:
    """Answer the question that `argv`, absent for the process' own, begins with; 0 when done, 2 for bad input."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] in studies:
        study = studies[words[0]]
        command = spelled(name, argv)
        return run_command(parser_of(name, words[0], study), words[1:], lambda args: study.run(args, command))
    lines = [f"  {what:13}{(study.about or '').strip().splitlines()[0]}" for what, study in studies.items()]
    examples = "\n".join(f"{name} {what} {study.example}" for what, study in studies.items())
    parser = Parser(name, "\n".join([about.strip(), "", *lines]), examples)
    parser.add_argument("what", choices=list(studies), help=f"see {name} WHAT --help")
    return run_command(parser, words, lambda _: None)


def add_common(parser: Parser, *names: str) -> Callable[..., argparse.Action]:
    """Add arguments of COMMON; returns what adds more."""
    for name in names:
        parser.add_argument(name, **COMMON[name])
    return parser.add_argument


def named(given: str) -> tuple[str, str]:
    """Name and source of an argument NAME=SOURCE.

    >>> named("PCA=runs/small-pca/codec")
    ('PCA', 'runs/small-pca/codec')
    """
    name, _, source = given.partition("=")
    if not (name and source):
        raise argparse.ArgumentTypeError(f"expected NAME=SOURCE, got {given!r}")
    return name, source
