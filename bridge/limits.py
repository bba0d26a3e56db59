"""How many images one call may ask for; apart from the pipeline, so that checking costs no import."""

import operator

from bridge.errors import UserError

MAX_IMAGES_PER_PROMPT = 100_000
"""Most images of one caption in one call."""


def check_count(count: int, name: str = "num_images_per_prompt") -> int:
    """`count`, if it is a whole number from 1 to MAX_IMAGES_PER_PROMPT.

    Raises:
        ValueError: It is not; the message begins with `name`.

    >>> check_count(8)
    8
    """
    try:
        whole = -1 if isinstance(count, bool) else operator.index(count)
    except TypeError:
        whole = -1
    if not 1 <= whole <= MAX_IMAGES_PER_PROMPT:
        raise UserError(f"{name}: expected a whole number from 1 to {MAX_IMAGES_PER_PROMPT}, got {count!r}")
    return whole
