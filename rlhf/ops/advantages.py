"""Generalised advantage estimation (Schulman 2016, eq. 16)."""

from __future__ import annotations

import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns over responses that start at t = 0 and end where the mask does.

    delta_t = r_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lam A_{t+1};  R_t = A_t + V_t.
    The value after the last token is 0.

    Args:
        rewards, values: `(B, T)`.
        mask: `(B, T)`, True = a response token; False entries follow the True ones.
    Returns:
        advantages and returns, `(B, T)`, 0 outside the mask.
    """
    alive = mask.to(values.dtype)
    values, rewards = values * alive, rewards * alive
    advantages = torch.zeros_like(values)
    following = torch.zeros_like(values[:, 0])
    next_value = torch.zeros_like(following)
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * lam * following) * alive[:, t]
        advantages[:, t] = following
        next_value = values[:, t]
    return advantages, advantages + values
