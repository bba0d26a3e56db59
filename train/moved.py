"""Commands that changed name: the old ones answer with the new one, in one line and with exit code 2."""

import sys
from collections.abc import Sequence

NEW_NAMES = {
    "eval.cheats": "eval.studies.cheats",
    "eval.factors": "eval.studies.disentangle",
    "eval.familiarity": "eval.studies.familiarity",
    "eval.families": "eval.studies.families",
    "eval.latents": "eval.studies.latents",
    "eval.pairs": "eval.studies.pairs",
    "eval.peers": "eval.studies.peers",
    "eval.sheets": "eval MODEL --sheet PNG",
    "eval.scoring": "eval.studies.retrieval",
    "eval.speed": "eval.studies.speed",
    "eval.swap": "eval.studies.swap",
    "train.bench": "eval.studies.cost",
    "train.emoji": "train.recipes.emoji",
    "train.icons": "train.recipes.icons",
    "train.openclipart": "train.recipes.clipart",
    "train.shapes": "train.recipes.shapes",
}


def answer(command: Sequence[str]) -> str | None:
    """What to say to a process' command line, if it runs a module under its old name.

    >>> answer(["python", "-m", "train.bench", "rates"])
    'train.bench is now python -m eval.studies.cost'
    """
    run = command[command.index("-m") + 1 :][:1] if "-m" in command else []
    return f"{run[0]} is now python -m {NEW_NAMES[run[0]]}" if run and run[0] in NEW_NAMES else None


def redirect() -> None:
    """End a process that was started under an old name."""
    if (words := answer(sys.orig_argv)) is not None:
        print(words, file=sys.stderr)
        sys.exit(2)
