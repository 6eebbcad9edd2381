"""The keys and values of what has been decoded, in tensors that are as long as they can get from the start."""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


def decode_cache(length: int) -> Cache:
    """An empty cache for sequences of at most `length` tokens: a step writes its own, and copies nothing."""
    return Cache(layer_class_to_replicate=functools.partial(_Layer, length))  # type: ignore[arg-type]


class _Layer(DynamicLayer):  # type: ignore[misc]
    """`keys` and `values` `(B, heads, t, D)` are the filled parts of two rooms `(B, heads, length, D)`."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.rooms: list[Tensor] = []

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.rooms = [s.new_empty((*s.shape[:2], self.length, s.shape[3])) for s in (key_states, value_states)]
        self._show(0)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.keys.shape[-2]
        after = before + key_states.shape[-2]
        for room, states in zip(self.rooms, (key_states, value_states), strict=True):
            room[:, :, before:after] = states
        return self._show(after)

    def batch_select_indices(self, indices: Tensor) -> None:
        if not self.is_initialized:  # some layers share another's
            return
        filled = self.keys.shape[-2]
        self.rooms = [room[indices] for room in self.rooms]
        self._show(filled)

    def _show(self, count: int) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (room[:, :, :count] for room in self.rooms)
        return self.keys, self.values
