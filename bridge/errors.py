"""What the user can mend: every command turns a `UserError` into one line and exit code 2, and nothing else."""


class UserError(ValueError):
    """Bad input; the message names the argument and the remedy.

    A plain ValueError is a fault of ours: commands let it through as a traceback.
    """


class MissingModelError(UserError, FileNotFoundError):
    """A model that is not on this machine; the message says what to install or copy."""
