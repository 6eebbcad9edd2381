"""PPO's clipped losses (Schulman 2017, eq. 7; value clipping as in Huang 2024, detail 8). Sums over tokens: the caller
divides by the token count of the whole mini-batch, so that micro-batches and processes add up exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf.ops.masked import masked_sum


def policy_loss(
    new_logprobs: Tensor, logprobs: Tensor, advantages: Tensor, mask: Tensor, clip_range: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum over tokens of max(-A r, -A clip(r, 1 - eps, 1 + eps)), with r = exp(new_logprobs - logprobs).

    All `(B, T)`. Returns the summed loss, the ratio `(B, T)` (detached; 1 outside the mask), and the number of tokens
    whose clipped branch was the active one.
    """
    ratio = torch.where(mask, new_logprobs - logprobs, 0.0).exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    loss = masked_sum(torch.maximum(plain, clipped), mask)
    return loss, ratio.detach(), ((clipped > plain) & mask).sum()


def value_loss(
    new_values: Tensor, values: Tensor, returns: Tensor, mask: Tensor, clip_range_value: float
) -> tuple[Tensor, Tensor]:
    """Half the sum over tokens of max((V - R)^2, (clip(V, V_old - eps, V_old + eps) - R)^2).

    All `(B, T)`. Returns the summed loss and the number of tokens whose clipped branch was the active one.
    """
    clipped = torch.minimum(torch.maximum(new_values, values - clip_range_value), values + clip_range_value)
    plain_error, clipped_error = (new_values - returns) ** 2, (clipped - returns) ** 2
    loss = 0.5 * masked_sum(torch.maximum(plain_error, clipped_error), mask)
    return loss, ((clipped_error > plain_error) & mask).sum()
