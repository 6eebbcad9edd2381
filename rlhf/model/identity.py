"""Which tensors the loaded base is made of, and their hash: what no stage may change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def base_sha256(model: nn.Module) -> str:
    """Hash of the loaded base tensors (quantized bytes and their scales), adapters and heads left out."""
    digest = hashlib.sha256()
    for name, tensor in _base_tensors(model):
        digest.update(name.encode() + b"\0")
        digest.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _base_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The base's own parameters and buffers by the name they have without PEFT, in a fixed order."""
    found: dict[str, Tensor] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if "lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        found[plain] = tensor
        state = getattr(tensor, "quant_state", None)
        if state is not None:
            found[plain + ".absmax"] = state.absmax
            found[plain + ".code"] = state.code
    for name, module in model.named_modules():  # int8's scales, one a row: bitsandbytes moves them at the first forward
        for place in ("weight", "state"):
            scales: Tensor | None = getattr(getattr(module, place, None), "SCB", None)
            if scales is not None:
                found[f"{name}.".replace(".base_layer.", ".") + "SCB"] = scales
    yield from sorted(found.items())
