"""docs/extending.md does what it says: its own code runs, and what it adds is trained, saved and opened."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bridge.codecs import CODECS
from bridge.mappers import FAMILIES
from bridge.pipeline import BridgePipeline
from bridge.text.encoders import KINDS

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"


TABLES: tuple[dict[str, Any], ...] = (CODECS, KINDS, FAMILIES)


@pytest.fixture
def walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the page's blocks, run one after the other in an empty folder, leave behind."""
    monkeypatch.chdir(tmp_path)
    before, found = [dict(table) for table in TABLES], {"__name__": "walkthrough"}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), found)
    yield found
    for table, old in zip(TABLES, before, strict=True):
        table.clear()
        table.update(old)


def test_what_the_page_builds_is_saved_and_opened(walked, tmp_path):
    again = BridgePipeline.from_pretrained(tmp_path / "runs" / "mine")
    asked = {"prompt": "a cat", "num_images_per_prompt": 4, "seed": 0, "output_type": "np"}
    np.testing.assert_array_equal(again(**asked).images, walked["pipe"](**asked).images)
    assert type(again.mapper).__name__ == "LinearMapper"
    assert type(again.text_encoder).__name__ == "Letters"
    assert type(again.codec).__name__ == "Thumbnails"


def test_the_pages_family_can_be_trained(walked):
    torch.manual_seed(0)
    mapper, code = walked["LinearMapper"]((3, 8, 8), 26), walked["encoder"].encode(["a cat", "a bus"])
    z, nothing = torch.randn(2, 3, 8, 8), torch.zeros(2, 0)
    optimizer = torch.optim.Adam(mapper.parameters(), 0.05)
    losses = []
    for _ in range(30):
        losses.append(mapper.loss(z, code, noise=nothing).mean())
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] / 10


def test_an_unknown_kind_is_named(walked, tmp_path):
    KINDS.pop("letters")
    with pytest.raises(ValueError, match="letters"):
        BridgePipeline.from_pretrained(tmp_path / "runs" / "mine")
