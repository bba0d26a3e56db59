"""What callers give a pipeline: captions, negative captions, seeds and generators, whatever they come in."""

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch

from bridge.errors import UserError
from bridge.limits import whole


@dataclass(frozen=True)
class Text:
    """A caption and what its argument is called."""

    text: str
    name: str


def texts(given: Any, name: str) -> Iterator[Text]:
    """Captions of an argument that takes one or several; the argument is checked at once, each in its turn.

    Raises:
        UserError: It is neither, or one of them is no text.

    >>> [text.name for text in texts(["a cat", "a dog"], "prompt")]
    ['prompt[0]', 'prompt[1]']
    """
    if getattr(given, "ndim", None) == 0:
        given = given.item()  # numpy's
    if isinstance(given, str):
        return iter([Text(str(given), name)])
    if isinstance(given, bytes | bytearray | Mapping | Set) or not isinstance(given, Iterable):
        raise UserError(f"{name}: expected a caption or a list of captions, got {type(given).__name__}; pass text")
    return (_text(text, f"{name}[{place}]") for place, text in enumerate(given))


def negatives_of(given: Any, prompts: int) -> list[Text | None]:
    """A negative caption for each of so many prompts, or None: of one caption for all, or one each.

    Raises UserError if it is neither, or one of them is no text.
    """
    name = "negative_prompt"
    if given is None or isinstance(given, str):
        return [None if given is None else Text(str(given), name)] * prompts
    if not isinstance(given, Sequence) or isinstance(given, bytes | bytearray):
        raise UserError(f"{name}: expected a caption, or one for each prompt, got {type(given).__name__}; pass text")
    if len(given) != prompts:
        raise UserError(f"{name}: expected one, or one for each of the {prompts} prompts, got {len(given)}")
    return [None if text is None else _text(text, f"{name}[{place}]") for place, text in enumerate(given)]


def seed_or_generators(
    seed: Any, generator: torch.Generator | Iterable[torch.Generator] | None, images: int
) -> tuple[int | None, Sequence[torch.Generator] | None]:
    """A seed, drawn where none is given; or one generator for each of so many images.

    Raises UserError if both are given, the seed is no whole number, or the generators are not one for each image.
    """
    if generator is None:
        return secrets.randbits(32) if seed is None else whole(seed, "seed"), None
    if seed is not None:
        raise UserError("seed, generator: give one of them, not both")
    generators = list(generator) if isinstance(generator, Iterable) else [generator]
    if not all(isinstance(one, torch.Generator) for one in generators):
        raise UserError(f"generator: expected a torch.Generator for each image, got {type(generator).__name__}")
    if len(generators) != images or len({id(one) for one in generators}) != images:
        raise UserError(f"generator: expected one for each of the {images} images, got {len(generators)}")
    return None, generators


def _text(text: Any, name: str) -> Text:
    if not isinstance(text, str):
        raise UserError(f"{name}: expected a caption, got {type(text).__name__} {str(text)[:40]}; pass text")
    return Text(str(text), name)
