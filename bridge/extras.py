"""Libraries that only some of `bridge` needs."""

import importlib
from types import ModuleType

from bridge.errors import UserError


def import_extra(module: str, extra: str, package: str, what: str = "this text encoder") -> ModuleType:
    """Import a module that `bridge` alone does not need, when it is first used.

    Raises UserError if it is not installed; names `what` needs it, and how pip installs it: an extra, or `package`.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"source: {what} needs {package}; `pip install 'bridge-captions[{extra}]'` or `pip install {package}`"
        ) from error
