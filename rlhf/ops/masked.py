"""Statistics over the True entries of a mask, and whitening."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum of `x` where `mask` is True; both `(B, T)` (or any equal shape); a scalar. Masked entries may be NaN."""
    return torch.where(mask, x, 0.0).sum()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` where `mask` is True; NaN where the mask is empty."""
    return masked_sum(x, mask) / mask.sum()


def masked_var(x: Tensor, mask: Tensor) -> Tensor:
    """Population variance (divided by n) of `x` where `mask` is True."""
    return masked_mean((x - masked_mean(x, mask)) ** 2, mask)


def whiten(
    x: Tensor, mask: Tensor, *, mean: Tensor | None = None, var: Tensor | None = None, eps: float = 1e-8
) -> Tensor:
    """`(x - mean) / sqrt(var + eps)` over the masked entries, 0 elsewhere (Huang 2024, detail 7).

    Args:
        x: `(B, T)`.
        mask: `(B, T)`, True = a real token.
        mean, var: statistics to use instead of the tensor's own (those over all processes); scalars.
    """
    mean = masked_mean(x, mask) if mean is None else mean
    var = masked_var(x, mask) if var is None else var
    return torch.where(mask, (x - mean) * torch.rsqrt(var + eps), 0.0)
