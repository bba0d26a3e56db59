"""Commands that changed name: the old ones answer with the new one, in one line and with exit code 2."""

import sys
from collections.abc import Sequence

NEW_NAMES = {
    "eval.cheats": "eval.studies.checks cheats",
    "eval.factors": "eval.studies.latents factors",
    "eval.familiarity": "eval.studies.checks familiarity",
    "eval.families": "eval.studies.compare families",
    "eval.latents": "eval.studies.latents",
    "eval.pairs": "eval.studies.compare pairs",
    "eval.peers": "eval.studies.compare peers",
    "eval.scoring": "eval.studies.checks retrieval",
    "eval.sheets": "eval MODEL --sheet PNG",
    "eval.speed": "eval.studies.cost speed",
    "eval.studies.cheats": "eval.studies.checks cheats",
    "eval.studies.disentangle": "eval.studies.latents factors",
    "eval.studies.families": "eval.studies.compare families",
    "eval.studies.familiarity": "eval.studies.checks familiarity",
    "eval.studies.pairs": "eval.studies.compare pairs",
    "eval.studies.peers": "eval.studies.compare peers",
    "eval.studies.retrieval": "eval.studies.checks retrieval",
    "eval.studies.speed": "eval.studies.cost speed",
    "eval.studies.swap": "eval.studies.checks swap",
    "eval.swap": "eval.studies.checks swap",
    "train.bench": "eval.studies.cost",
    "train.emoji": "train.recipes.emoji",
    "train.icons": "train.recipes.icons",
    "train.openclipart": "train.recipes.clipart",
    "train.own": "train",
    "train.shapes": "train.recipes.shapes",
    "train.vae": "train.autoencoder",
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
