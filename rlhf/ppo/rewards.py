"""From one score a response to one reward a token: normalised, cut-off and length rules, at the last token."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rlhf.config_ppo import PPOSection
from rlhf.ppo.control import LengthController, ScoreNormalizer
from rlhf.ppo.rollout import Rollout


def shaped_scores(
    section: PPOSection,
    normalizer: ScoreNormalizer,
    length: LengthController,
    scores: Tensor,
    rollout: Rollout,
    kl_penalties: Tensor,
    gather: Callable[[Tensor], Tensor],
) -> Tensor:
    """Normalised and clipped scores `(B,)`, with the rules for a missing EOS and for length.

    Args:
        scores: `(B,)`, as the judge gave them.
        kl_penalties: `(B,)`, what KL takes off each response's reward: levelling counts it, since it grows with length.
        gather: puts the `(B,)` of all processes together.
    """
    values = torch.tensor([normalizer(s) for s in scores.tolist()], device=scores.device)
    finished, lengths = rollout.finished, rollout.lengths.float()
    if section.missing_eos == "score":
        values = values.where(finished, section.missing_eos_value)
    elif section.missing_eos == "penalty":
        values = values.where(finished, values + section.missing_eos_value)
    whole, all_lengths = gather(finished), gather(lengths)
    slope = length.leveling(gather(values - kl_penalties)[whole].tolist(), all_lengths[whole].tolist())
    if slope != 0.0:  # a response cut off has no length of its own; its rule is the one for a missing EOS
        values = values.where(~finished, values - slope * (lengths - all_lengths[whole].mean()))
    bonus = torch.tensor([length.bonus(n) for n in lengths.tolist()], device=scores.device)
    fixed = ~finished if section.missing_eos == "score" else torch.zeros_like(finished)
    return values + bonus.where(~fixed, 0.0)


def token_rewards(shaped: Tensor, kl_penalties: Tensor, lengths: Tensor) -> Tensor:
    """r_t = -penalty_t, and the score on top at the last token (Ziegler 2019, eq. 2): `(B,)`, `(B, T)`, `(B,)`."""
    rewards = -kl_penalties
    rewards[torch.arange(len(shaped), device=shaped.device), lengths - 1] += shaped
    return rewards
