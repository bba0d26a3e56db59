"""The model card of a model that was saved without one."""

import shlex

from bridge.codecs import ImageCodec
from bridge.mappers import LocalFlowMapper, Mapper
from bridge.memory import CaptionMemory
from bridge.text import TextEncoder

CARD = """\
---
library_name: bridge
pipeline_tag: text-to-image
---

# Captions to several pictures each

{encoder} → {mapper} → {codec}, pictures of {size} pixels. It knows {known:,} captions.

    bridge generate {shell} -n 8 --model FOLDER

```python
from bridge import BridgePipeline

pipe = BridgePipeline.from_pretrained("FOLDER")  # or its id on the hub
pipe({caption!r}, num_images_per_prompt=8, seed=0).images
```

`python -m eval FOLDER --data DATASET` judges it. Before you publish it, write here whose pictures it was made from and
under which licence{copies}.
"""


def default_card(encoder: TextEncoder, mapper: Mapper, codec: ImageCodec, memory: CaptionMemory) -> str:
    """Markdown that says what a model is made of and how it is used, and what its owner has to add."""
    name, copies, caption = type(mapper).__name__, "", memory.captions[0]
    if isinstance(mapper, LocalFlowMapper):
        name += f" over {len(mapper.latents):,} pictures"
        copies = ": it holds them in its memory, and draws pictures that are near to them"
    return CARD.format(
        encoder=encoder.id,
        mapper=name,
        codec=type(codec).__name__,
        size=codec.image_size,
        known=len(memory),
        shell=shlex.quote(caption),
        caption=caption,
        copies=copies,
    )
