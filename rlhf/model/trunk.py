"""Running a model's trunk in ways that its own forward does not offer, where its kind is known to allow it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

# Models known to see nothing but what the mask and the positions say (no recurrence, no window of their own), whose
# trunk is an embedding, a list of layers and a last norm.
FULL_ATTENTION = {"llama", "qwen2", "qwen3", "smollm3", "olmo2"}


def is_plain(config: Any) -> bool:
    """Whether the model takes a mask and positions of ours, and its layers in parts."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return config.model_type in FULL_ATTENTION and kinds == {"full_attention"}


@contextlib.contextmanager
def layers_of(trunk: Any, part: slice, norm: bool = True) -> Iterator[None]:
    """Inside the block a plain model's trunk has these layers alone, and its last norm or none."""
    whole, last_norm = trunk.layers, trunk.norm
    trunk.layers, trunk.norm = whole[part], last_norm if norm else nn.Identity()
    try:
        yield
    finally:
        trunk.layers, trunk.norm = whole, last_norm
