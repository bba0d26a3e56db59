"""What the commands of this package share: words on standard error, exit codes, the folder for results."""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from eval.data import Pictures
from eval.features import Extractor, Features
from eval.judge import Judge
from eval.single_space import fit_single


def say(line: str) -> None:
    """Tell whoever waits, on standard error."""
    print(line, file=sys.stderr, flush=True)


def exit_code(name: str, run: Callable[[], None]) -> int:
    """Run a command: 0 when it is done, 2 with one line on standard error for bad input."""
    try:
        run()
    except (ValueError, OSError) as error:
        say(f"{name}: {error}")
        return 2
    return 0


def spelled(name: str, argv: Sequence[str] | None) -> str:
    """The command as it was typed, `argv` absent for the process' own."""
    return shlex.join([*name.split(), *(sys.argv[1:] if argv is None else argv)])


def output_folder(path: str | Path) -> Path:
    """The folder for results, made if missing.

    Raises:
        ValueError: It cannot be made.
    """
    out = Path(path)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out: cannot write to {out} ({error.strerror}); give another folder") from error
    return out


def load_judge(data: str | Path, network: Extractor) -> Judge:
    """The judge of a dataset whose captions were drawn by several artists; see `features_of`."""
    return fitted(Pictures.load(data), network, None)


def fitted(pictures: Pictures, network: Extractor, why: str | None) -> Judge:
    """The judge of a dataset; see `features_of`.

    Args:
        pictures: The dataset.
        network: Describes pictures.
        why: Of `why_single`: the judge is one of single pictures where it is given.
    """
    return (Judge.fit if why is None else fit_single)(network, pictures, features_of(pictures, network))


def features_of(pictures: Pictures, network: Extractor) -> Features:
    """Features of all pictures of a dataset, kept in its folder, telling how far they are."""
    say(f"judge: features of the dataset by {network.id} (cached after the first time)")
    return pictures.features(network, lambda done, total: say(f"  {done} of {total} pictures"))
