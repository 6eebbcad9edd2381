"""Advantage estimators: with a critic (GAE), and without one (leave-one-out, group-normalised, reward-to-go)."""

from __future__ import annotations

import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman 2016, eq. 16); responses start at t = 0 and end where the mask does.

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


def reward_to_go(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """R_t = r_t + gamma R_{t+1}: `(B, T)`, 0 outside the mask; whitened over the batch it is REINFORCE++ (Hu 2025)."""
    return gae(rewards, torch.zeros_like(rewards), mask, gamma, 1.0)[0]


def rloo(totals: Tensor, group: int) -> Tensor:
    """Each response against the mean of its siblings (REINFORCE leave-one-out; Kool 2019, Ahmadian 2024, eq. 8).

    A_i = r_i - mean of r_j over the other j of its group.

    Args:
        totals: `(B,)`, one number a response; each `group` in a row answer the same prompt.
        group: responses a prompt, at least 2; divides B.
    Returns:
        `(B,)`; every group sums to 0.
    """
    grouped = totals.view(-1, group)
    return ((grouped - grouped.mean(dim=1, keepdim=True)) * (group / (group - 1))).view(-1)


def grpo(totals: Tensor, group: int, eps: float = 1e-4) -> Tensor:
    """Each response against its group, in the group's deviations (Shao 2024, section 4.1.2).

    A_i = (r_i - mean) / (std + eps), std with n - 1 in the denominator; a group of equal totals gets zeros. Shapes as
    for `rloo`.
    """
    grouped = totals.view(-1, group)
    centred = grouped - grouped.mean(dim=1, keepdim=True)
    return (centred / (grouped.std(dim=1, keepdim=True) + eps)).view(-1)
