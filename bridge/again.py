"""Pictures made again from the facts that bridge wrote into them."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from bridge import explore
from bridge.errors import UserError
from bridge.noise import generator_for
from bridge.pipeline import BridgePipeline, Settings
from bridge.writing import LATER, strip

_MARKS = {"walk": "space", "edit": "scale", "vary": "distance"}
"""What a picture was made by -> a fact that only such pictures have."""
_NEEDED = {
    "picture": ("caption", "index"),
    "walk": ("a", "a_kind", "b", "b_kind", "kind", "steps"),
    "edit": ("a", "a_kind"),
    "vary": ("a", "a_kind", "index"),
}


def remake(pipe: BridgePipeline, facts: Mapping[str, str]) -> Image.Image:
    """The picture that facts tell of, bit for bit on the same machine, versions and number of threads.

    Args:
        pipe: The model that made it.
        facts: What `bridge.images.read_facts` gives.

    Raises:
        UserError: A fact is missing or damaged, the model is another, or a picture that it was made from is missing
            or has changed.
    """
    made = next((name for name, mark in _MARKS.items() if mark in facts), "picture")
    _check_complete(
        facts, ("model", "seed", *_NEEDED[made], *(f.name for f in fields(Settings) if f.name not in LATER))
    )
    if facts["model"] != pipe.fingerprint:
        raise UserError(f"model: the picture is by {facts['model']}, and this is {pipe.fingerprint}; name that model")
    try:
        with _settings(pipe, _settings_of(facts)):
            return _MAKERS[made](pipe, facts)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"the picture's facts are damaged ({error}); nothing can be made of them") from None


def sha256_of(name: str) -> str:
    """Digest of a file that a picture is made from."""
    return hashlib.sha256(Path(name).read_bytes()).hexdigest()


def _check_complete(facts: Mapping[str, str], names: tuple[str, ...]) -> None:
    if not facts:
        raise UserError("it holds nothing that bridge wrote; another program may have taken its text chunks out")
    if missing := [name for name in names if name not in facts]:
        raise UserError(f"it does not tell {', '.join(missing)}, without which it cannot be made again")


def _settings_of(facts: Mapping[str, str]) -> Settings:
    given: dict[str, Any] = {f.name: facts[f.name] for f in fields(Settings) if f.name in facts}
    numbers = {name: _number(text) for name, text in given.items() if name not in ("style", "compose")}
    return Settings(**{**given, **numbers, "compose": given.get("compose") != "False"})


def _number(text: str) -> float:
    """A number as it was, whole ones int."""
    with contextlib.suppress(ValueError):
        return int(text)
    return float(text)


@contextlib.contextmanager
def _settings(pipe: BridgePipeline, settings: Settings) -> Iterator[None]:
    before = pipe.settings
    pipe.settings = settings
    try:
        yield
    finally:
        pipe.settings = before


def _picture(pipe: BridgePipeline, facts: Mapping[str, str]) -> Image.Image:
    output = pipe(
        facts["caption"],
        1,
        generator=generator_for(int(facts["seed"]), int(facts["index"])),
        negative_prompt=facts.get("negative"),
        **_rendered(facts),
    )
    image: Image.Image = output.images[0]
    return image


def _walk(pipe: BridgePipeline, facts: Mapping[str, str]) -> Image.Image:
    steps = int(facts["sampling_steps"]) if "sampling_steps" in facts else None
    z = explore.between(
        pipe, _end(pipe, facts, "a"), _end(pipe, facts, "b"), int(facts["steps"]),
        space=facts["space"], kind=facts["kind"], num_inference_steps=steps,
    )  # fmt: skip
    frames = pipe.decode(z)
    return frames[int(facts["frame"])] if "frame" in facts else strip(frames)


def _edit(pipe: BridgePipeline, facts: Mapping[str, str]) -> Image.Image:
    start, seed = _end(pipe, facts, "a"), int(facts["seed"])
    z = explore.edit(pipe, start, facts.get("plus"), facts.get("minus"), scale=_number(facts["scale"]), seed=seed)
    return pipe.decode(z[None])[0]


def _vary(pipe: BridgePipeline, facts: Mapping[str, str]) -> Image.Image:
    start, index = _end(pipe, facts, "a"), int(facts["index"])
    distance, seed = _number(facts["distance"]), int(facts["seed"])
    z: torch.Tensor = explore.vary(pipe, start, index + 1, shown=facts.get("shown"), distance=distance, seed=seed)
    return pipe.decode(z[index:], **_rendered(facts))[0]


_MAKERS = {"picture": _picture, "walk": _walk, "edit": _edit, "vary": _vary}


def _rendered(facts: Mapping[str, str]) -> dict[str, Any]:
    return {"size": int(facts["size"]) if "size" in facts else None, "transparent": facts.get("transparent") == "True"}


def _end(pipe: BridgePipeline, facts: Mapping[str, str], letter: str) -> explore.End:
    name = facts[letter]
    if facts[f"{letter}_kind"] != "image":
        return explore.caption_end(pipe, name, int(facts["seed"]))
    if not Path(name).is_file():
        raise UserError(f"it was made from {name!r}, and there is no such file; put it back")
    if facts.get(f"{letter}_sha256") not in (None, sha256_of(name)):
        raise UserError(f"it was made from {name!r}, and that file is another now; put the old one back")
    return explore.image_end(pipe, name)
