"""What the user can mend: every command turns a `UserError` into one line and exit code 2, and nothing else."""

import importlib
from types import ModuleType


class UserError(ValueError):
    """Bad input; the message names the argument and the remedy.

    A plain ValueError is a fault of ours: commands let it through as a traceback.
    """


class MissingModelError(UserError, FileNotFoundError):
    """A model that is not on this machine; the message says what to install or copy."""


def first_line(error: BaseException) -> str:
    """What an error of somebody else's says, in one line; its type where it says nothing.

    >>> first_line(RuntimeError(" one\\ntwo")), first_line(OSError())
    ('one', 'OSError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def import_extra(module: str, extra: str, package: str, what: str) -> ModuleType:
    """Import a module that `bridge` alone does not need, when it is first used.

    Raises UserError if it is not installed; says `what` needs it, and how pip installs it: an extra, or `package`.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        install = f"`pip install 'bridge-captions[{extra}]'` or `pip install {package}`"
        raise UserError(f"{what} needs {package}; {install}") from error
