"""Root-mean-square normalisation, forward and backward in one step each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps), in fp32, then in x's type times the frozen `weight` (Zhang 2019, eq. 4).

    Autograd's own backward of this takes about three times as long on a CPU, and keeps an fp32 copy of a 16-bit x.

    Args:
        x: `(..., H)`; weight: `(H,)`, without a gradient.
    Returns:
        `(..., H)`, in x's type.
    """
    y: Tensor = _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return y


class _RMSNorm(torch.autograd.Function):
    """With s = 1 / rms(x) and t = dy weight: dx = s t - x s^3 <t, x> / H."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, scale, weight)
        y: Tensor = (wide * scale).to(x.dtype)
        return y.mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, weight = ctx.saved_tensors
        wide, toward = x.float(), (grads[0] * weight).float()
        along = torch.linalg.vecdot(toward, wide).unsqueeze(-1).mul_(scale**3).div_(-x.shape[-1])
        return toward.mul_(scale).addcmul_(wide, along).to(x.dtype), None, None
