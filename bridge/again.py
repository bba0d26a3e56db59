"""Pictures made again from the facts that bridge wrote into them."""

import contextlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from PIL import Image

from bridge import explore
from bridge.checkpoint import sha256_of
from bridge.errors import UserError
from bridge.pipeline import BridgePipeline, Settings
from bridge.writing import LATER, strip


def remake(pipe: BridgePipeline, facts: Mapping[str, str]) -> Image.Image:
    """The picture that `bridge.images.read_facts` tells of, bit for bit on the same machine, versions and threads.

    Raises UserError if a fact is missing or damaged, another model made it, or a picture behind it is gone or changed.
    """
    make, own = next((maker for mark, maker in _MAKERS.items() if mark in facts), (_picture, ("caption", "index")))
    needed = ("model", "seed", *own, *(f.name for f in fields(Settings) if f.name not in LATER))
    if missing := [name for name in needed if name not in facts]:
        raise UserError(f"it does not tell {', '.join(missing)}, without which it cannot be made again")
    if facts["model"] != pipe.fingerprint:
        raise UserError(f"model: the picture is by {facts['model']}, and this is {pipe.fingerprint}; name that model")
    before = pipe.settings
    try:
        given: dict[str, Any] = {f.name: facts[f.name] for f in fields(Settings) if f.name in facts}
        numbers = {name: _number(text) for name, text in given.items() if name not in ("style", "compose")}
        pipe.settings = Settings(**{**given, **numbers, "compose": given.get("compose") != "False"})
        return make(pipe, facts)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"the picture's facts are damaged ({error}); nothing can be made of them") from None
    finally:
        pipe.settings = before


def _number(text: str) -> float:
    """A number as it was, whole ones int."""
    with contextlib.suppress(ValueError):
        return int(text)
    return float(text)


def _picture(pipe: BridgePipeline, facts: Mapping[str, str]) -> Image.Image:
    index, negative = int(facts["index"]), facts.get("negative")
    jobs = pipe.jobs([facts["caption"]], index + 1, seed=int(facts["seed"]), negative_prompt=negative)
    image: Image.Image = pipe.decode(pipe.sample(jobs[index:], pipe.settings), **_rendered(facts))[0]
    return image


def _walk(pipe: BridgePipeline, facts: Mapping[str, str]) -> Image.Image:
    a, b, steps = _end(pipe, facts, "a"), _end(pipe, facts, "b"), int(facts["steps"])
    count = int(facts["sampling_steps"]) if "sampling_steps" in facts else None
    z = explore.between(pipe, a, b, steps, space=facts["space"], kind=facts["kind"], num_inference_steps=count)
    frames = pipe.decode(z)
    return frames[int(facts["frame"])] if "frame" in facts else strip(frames)


def _edit(pipe: BridgePipeline, facts: Mapping[str, str]) -> Image.Image:
    start, scale, seed = _end(pipe, facts, "a"), _number(facts["scale"]), int(facts["seed"])
    z = explore.edit(pipe, start, facts.get("plus"), facts.get("minus"), scale=scale, seed=seed)
    return pipe.decode(z[None])[0]


def _vary(pipe: BridgePipeline, facts: Mapping[str, str]) -> Image.Image:
    start, index = _end(pipe, facts, "a"), int(facts["index"])
    distance, seed = _number(facts["distance"]), int(facts["seed"])
    z = explore.vary(pipe, start, index + 1, shown=facts.get("shown"), distance=distance, seed=seed)
    return pipe.decode(z[index:], **_rendered(facts))[0]


_MAKERS = {
    "space": (_walk, ("a", "a_kind", "b", "b_kind", "kind", "steps")),
    "scale": (_edit, ("a", "a_kind")),
    "distance": (_vary, ("a", "a_kind", "index")),
}
"""A fact that only some pictures have -> what makes them, and the facts that it needs."""


def _rendered(facts: Mapping[str, str]) -> dict[str, Any]:
    return {"size": int(facts["size"]) if "size" in facts else None, "transparent": facts.get("transparent") == "True"}


def _end(pipe: BridgePipeline, facts: Mapping[str, str], letter: str) -> explore.End:
    name = facts[letter]
    if facts[f"{letter}_kind"] != "image":
        return explore.caption_end(pipe, name, int(facts["seed"]))
    if not Path(name).is_file():
        raise UserError(f"it was made from {name!r}, and there is no such file; put it back")
    if facts.get(f"{letter}_sha256") not in (None, sha256_of(Path(name))):
        raise UserError(f"it was made from {name!r}, and that file is another now; put the old one back")
    return explore.image_end(pipe, name)
