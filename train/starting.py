"""The first moments of a command: Ctrl-C while it imports, and old names, each answered in one line.

Imports next to nothing, so that little can be interrupted before it.
"""

import _signal as signal  # type: ignore[import-not-found]  # the module proper takes a while to import
import os
import sys
from collections.abc import Sequence

STOPPED = 130
"""Exit code of a command that Ctrl-C ended: 128 + SIGINT."""
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
    "eval.studies.familiarity": "eval.studies.checks familiarity",
    "eval.studies.families": "eval.studies.compare families",
    "eval.studies.pairs": "eval.studies.compare pairs",
    "eval.studies.peers": "eval.studies.compare peers",
    "eval.studies.retrieval": "eval.studies.checks retrieval",
    "eval.studies.speed": "eval.studies.cost speed",
    "eval.studies.swap": "eval.studies.checks swap",
    "eval.swap": "eval.studies.checks swap",
    "train.bench": "eval.studies.cost",
    "train.codec": "train.autoencoder",
    "train.emoji": "train.recipes emoji",
    "train.icons": "train.recipes icons",
    "train.inspect": "train.prepare SOURCE, without --out",
    "train.openclipart": "train.recipes clipart",
    "train.own": "train",
    "train.recipes.clipart": "train.recipes clipart",
    "train.recipes.emoji": "train.recipes emoji",
    "train.recipes.icons": "train.recipes icons",
    "train.recipes.pictures": "train.recipes pictures",
    "train.recipes.shapes": "train.recipes shapes",
    "train.shapes": "train.recipes shapes",
    "train.vae": "train.autoencoder",
    "train.words": "train.prepare DATASET --words FOLDER",
}
"""Commands that changed name."""


def begin() -> None:
    """For a package's `__init__`, which runs before the module that was asked for.

    From here to `interruptible`, Ctrl-C ends a `python -m …` in one line, whatever is being imported; a process that
    was started under an old name ends. Does nothing anywhere else.
    """
    if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _quit)
    if (words := answer(sys.orig_argv)) is not None:
        print(words, file=sys.stderr)
        sys.exit(2)


def answer(command: Sequence[str]) -> str | None:
    """What to say to a process' command line, if it runs a module under its old name.

    >>> answer(["python", "-m", "train.bench", "rates"])
    'train.bench is now python -m eval.studies.cost'
    """
    run = command[command.index("-m") + 1 :][:1] if "-m" in command else []
    return f"{run[0]} is now python -m {NEW_NAMES[run[0]]}" if run and run[0] in NEW_NAMES else None


def interruptible() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt, as is usual."""
    if signal.getsignal(signal.SIGINT) is _quit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _quit(*_: object) -> None:
    # No exception: what is being imported may swallow it, or turn it into an ImportError.
    words = sys.orig_argv
    name = " ".join(["python", *words[words.index("-m") :][:2]]) if "-m" in words else "command"
    os.write(2, f"{name}: stopped\n".encode(errors="replace"))
    os._exit(STOPPED)
