from train.interrupt import quit_while_importing

quit_while_importing()

from train.moved import redirect  # noqa: E402

redirect()
