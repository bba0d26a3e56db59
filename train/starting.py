"""The first moments of a command: Ctrl-C while it imports, and old names, each answered in one line.

Imports next to nothing, so that little can be interrupted before it.
"""

import _signal as signal  # type: ignore[import-not-found]  # the module proper takes a while to import
import os
import sys

STOPPED = 130  # Exit code of a command that Ctrl-C ended: 128 + SIGINT
FORMER_NAMES = {
    "eval MODEL --sheet PNG": "eval.sheets",
    "eval.studies.checks cheats": "eval.cheats eval.studies.cheats",
    "eval.studies.checks familiarity": "eval.familiarity eval.studies.familiarity",
    "eval.studies.checks retrieval": "eval.scoring eval.studies.retrieval",
    "eval.studies.checks swap": "eval.studies.swap eval.swap",
    "eval.studies.compare families": "eval.families eval.studies.families",
    "eval.studies.compare pairs": "eval.pairs eval.studies.pairs",
    "eval.studies.compare peers": "eval.peers eval.studies.peers",
    "eval.studies.cost": "train.bench",
    "eval.studies.cost speed": "eval.speed eval.studies.speed",
    "eval.studies.latents": "eval.latents",
    "eval.studies.latents factors": "eval.factors eval.studies.disentangle",
    "train": "train.own",
    "train.autoencoder": "train.codec train.vae",
    "train.prepare DATASET --words FOLDER": "train.words",
    "train.prepare SOURCE, without --out": "train.inspect",
    "train.recipes clipart": "train.openclipart train.recipes.clipart",
    "train.recipes emoji": "train.emoji train.recipes.emoji",
    "train.recipes icons": "train.icons train.recipes.icons",
    "train.recipes pictures": "train.recipes.pictures",
    "train.recipes shapes": "train.recipes.shapes train.shapes",
}
NEW_NAMES = {former: name for name, all_former in FORMER_NAMES.items() for former in all_former.split()}


def begin() -> None:
    """For a package's `__init__`, which runs before the module that was asked for.

    From here to `interruptible`, Ctrl-C ends a `python -m …` in one line, whatever is being imported; a process that
    was started under an old name ends.
    """
    if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _quit)
    if (module := _module()) in NEW_NAMES:
        print(f"{module} is now python -m {NEW_NAMES[module]}", file=sys.stderr)
        sys.exit(2)


def _module() -> str:
    """The module that this process was started to run; empty where it runs none."""
    words = sys.orig_argv
    return "".join(words[words.index("-m") + 1 :][:1]) if "-m" in words else ""


def interruptible() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt, as is usual."""
    if signal.getsignal(signal.SIGINT) is _quit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _quit(*_: object) -> None:
    # No exception: what is being imported may swallow it, or turn it into an ImportError.
    module = _module()
    name = f"python -m {module}" if module else "command"
    os.write(2, f"{name}: stopped\n".encode(errors="replace"))
    os._exit(STOPPED)
