"""LoRA's forward and backward in one step, for frozen dense and NF4 weights alike.

PEFT's own forward casts every input to fp32, clones the base's output and leaves autograd a dozen small tensors a
layer. The function here keeps the input and the rank-r projection only, adds in place, and casts the adapter's fp32
weights to the activations' type. Parameters, names and files stay PEFT's: a layer whose weights this cannot read (int8)
keeps PEFT's forward.
"""

from __future__ import annotations

import contextlib
import re
import types
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from rlhf.config import LoraSection
from rlhf.errors import ConfigError
from rlhf.ops.linear import add_product_, linear, product, round_rows


class _LoraLinear(torch.autograd.Function):
    """y = x W^T + b + s (x A^T) B^T, with W frozen (Hu 2021, eq. 3).

    x `(N, in)`, A `(r, in)`, B `(out, r)`; the gradient flows to x, A and B:
    dx = dy W + s (dy B) A;  dA = s (dy B)^T x;  dB = s dy^T (x A^T).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, scale: float, layer: Any) -> Tensor:
        rows, count = round_rows(x), len(x)
        projected = product(rows, a.to(x.dtype))
        y = product(rows, dense_weight(layer, x.dtype), _bias(layer, x.dtype))
        add_product_(y, projected, b.to(x.dtype), scale)
        ctx.save_for_backward(x, projected, a, b)
        ctx.scale, ctx.layer = scale, layer
        return y[:count].detach()  # no view, for a model may change it in place

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = grads
        x, projected, a, b = ctx.saved_tensors
        dy, count = round_rows(dy), len(x)
        through = product(dy, b.to(x.dtype).t()).mul_(ctx.scale)
        dx = da = db = None
        if ctx.needs_input_grad[0]:
            dx = product(dy, dense_weight(ctx.layer, x.dtype).t())
            dx = add_product_(dx, through, a.to(x.dtype).t())[:count]
        if ctx.needs_input_grad[1]:
            da = product(through.t(), round_rows(x).t()).to(a.dtype)
        if ctx.needs_input_grad[2]:
            db = product(projected.t(), dy.t()).t().mul_(ctx.scale).to(b.dtype)
        return dx, da, db, None, None


class _FrozenLinear(torch.autograd.Function):
    """y = x W^T + b, with W frozen: the gradient flows to x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any) -> Tensor:
        ctx.layer = layer
        return linear(x, dense_weight(layer, x.dtype), _bias(layer, x.dtype)).detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (dy,) = grads
        return linear(dy, dense_weight(ctx.layer, dy.dtype).t()), None


def _bias(layer: Any, dtype: torch.dtype) -> Tensor | None:
    return None if layer.bias is None else layer.bias.to(dtype)


def dense_weight(layer: Any, dtype: torch.dtype) -> Tensor:
    """The layer's frozen weight `(out, in)` in `dtype`; NF4 is dequantized on the fly."""
    kept: Tensor | None = getattr(layer, "rlhf_dense", None)
    if kept is not None and kept.dtype == dtype:
        return kept
    weight: Tensor = layer.weight
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight.to(dtype)
    from bitsandbytes.functional import dequantize_4bit

    dense: Tensor = dequantize_4bit(weight.data, state)
    return dense.to(dtype)


@contextlib.contextmanager
def kept_dense(layers: Iterable[Any], dtype: torch.dtype) -> Iterator[None]:
    """Inside the block the layers hold their dense weights, and free them at its end; those that did so stay so."""
    new = [layer for layer in layers if getattr(layer, "rlhf_dense", None) is None]
    try:
        for layer in new:
            layer.rlhf_dense = dense_weight(layer, dtype)
        yield
    finally:
        for layer in new:
            layer.rlhf_dense = None


def readable(layer: Any) -> bool:
    """Whether this is a linear layer, dense or NF4, whose product `dense_weight` and `bias` say in full.

    Of other kinds (int8, routers that return more, layers that quantize what comes in) nothing is known.
    """
    return type(layer) is nn.Linear or type(layer).__name__ == "Linear4bit"


def freeze(layer: Any) -> None:
    """Give a `readable` layer the forward of frozen weights."""
    layer.forward = types.MethodType(_frozen_forward, layer)


def _frozen_forward(self: Any, input: Tensor) -> Tensor:
    y: Tensor = _FrozenLinear.apply(input.reshape(-1, input.shape[-1]), self)  # type: ignore[no-untyped-call]
    return y.view(*input.shape[:-1], y.shape[-1])


def fuse(layer: Any) -> bool:
    """Give a PEFT LoRA layer the one-step forward; returns whether its base weights allow it."""
    if not readable(layer.get_base_layer()):
        return False
    layer.forward = types.MethodType(_forward, layer)
    return True


def _forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    base = self.get_base_layer()
    flat = x.reshape(-1, x.shape[-1])
    if self.disable_adapters or not self.active_adapters:
        y = _FrozenLinear.apply(flat, base)  # type: ignore[no-untyped-call]
    else:
        (name,) = self.active_adapters
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        y = _LoraLinear.apply(flat, a, b, self.scaling[name], base)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], y.shape[-1])


def targets_from(model: nn.Module, lora: LoraSection) -> tuple[str | list[str], list[int] | None]:
    """PEFT's `target_modules` and `layers_to_transform` for adapters on `lora.first_layer` and above.

    Raises:
        ConfigError: the model has fewer layers.
    """
    if lora.first_layer == 0:
        return lora.target_modules, None
    count: int = model.config.num_hidden_layers  # type: ignore[union-attr, assignment]
    if lora.first_layer >= count:
        raise ConfigError(
            f"model.lora.first_layer: found {lora.first_layer}, but the model has layers 0 to {count - 1}; lower it"
        )
    targets = linear_names(model) if lora.target_modules == "all-linear" else list(lora.target_modules)
    whole = [target for target in targets if "." in target]
    if whole or not targets:  # PEFT puts an adapter on a module named in full, whatever its layer
        raise ConfigError(
            "model.lora.first_layer: goes with the last parts of modules' names in target_modules, "
            f"found {', '.join(whole) or 'no linear layer'}; give such as q_proj, or set first_layer=0"
        )
    return targets, list(range(lora.first_layer, count))


def shape_of_adapter(config: Any) -> LoraSection:
    """Rank, scale, targets and layers of an adapter, as PEFT holds them."""
    targets = config.target_modules
    return LoraSection(
        rank=config.r,
        alpha=config.lora_alpha,
        target_modules=targets if isinstance(targets, str) else sorted(targets),
        first_layer=min(config.layers_to_transform or [0]),
    )


def check_targets(model: nn.Module, targets: str | Iterable[str] | None) -> None:
    """Refuse what names no module of the model: PEFT passes over a wrong name in a list when another one is right.

    The embedding and the output layer are refused too: an adapter on one would not train, or break the fused logprobs.

    Raises:
        ValueError: the name or the pattern that nothing matches, or that matches one of those two.
    """
    if targets is None or targets == "all-linear":
        return
    modules = dict(model.named_modules())
    if isinstance(targets, str):  # a pattern, as PEFT takes it
        matched = {targets: [name for name in modules if re.fullmatch(targets, name)]}
    else:
        matched = {t: [name for name in modules if f".{name}".endswith(f".{t}")] for t in sorted(targets)}
    if missing := [target for target, names in matched.items() if not names]:
        raise ValueError(f"{', '.join(map(repr, missing))} matches no module of this model")
    ends = (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore[operator]
    for target, names in matched.items():
        for name in names:
            if any(modules[name] is end for end in ends):
                raise ValueError(f"{target!r} matches {name!r}, the embedding or the output layer, which stay frozen")


def linear_names(model: nn.Module) -> list[str]:
    """The last parts of its linear layers' names, each once, the output layer and what PEFT added left out."""
    names = (
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | LoraLayer) and ".lora_" not in name and "lm_head" not in name
    )
    return [name for name in dict.fromkeys(names) if name != "base_layer"]
