"""Running a model's trunk in ways that its own forward does not offer, where its kind is known to allow it."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from rlhf.ops.norm import rms_norm

# Models known to see nothing but what the mask and the positions say (no recurrence, no window of their own), whose
# trunk is an embedding, a list of layers and a last norm.
FULL_ATTENTION = {"llama", "qwen2", "qwen3", "smollm3", "olmo2"}

# Their normalisation is `ops.norm.rms_norm`, to the order of its casts.
NORMS = {"LlamaRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "SmolLM3RMSNorm"}


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


def has_fused_norm(module: nn.Module) -> bool:
    """Whether `fuse_norms` changes this module."""
    return type(module).__name__ in NORMS


def fuse_norms(model: nn.Module) -> None:
    """Give the norms of models that are known the one-step forward and backward."""
    for module in model.modules():
        if has_fused_norm(module):
            module.forward = types.MethodType(_norm_forward, module)  # type: ignore[method-assign]


def _norm_forward(self: Any, hidden_states: Tensor) -> Tensor:
    return rms_norm(hidden_states, self.weight, self.variance_epsilon)
