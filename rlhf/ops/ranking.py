"""Losses of a reward model on rankings of K completions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def kwise_loss(scores: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over a ranking's untied pairs of -log sigmoid(score_better - score_worse) (Ouyang 2022, eq. 1).

    Args:
        scores: `(B, K)`.
        ranks: `(B, K)` int64; 1 = best, equal = tie (left out), 0 = not ranked or padding (unknown, left out).
    Returns:
        loss of each ranking `(B,)`, 0 where it has no untied pair; and the number of untied pairs `(B,)`.
    """
    better = _better(ranks)
    gaps = scores.unsqueeze(2) - scores.unsqueeze(1)
    pairs = better.sum(dim=(1, 2))
    total = torch.where(better, -F.logsigmoid(gaps), 0.0).sum(dim=(1, 2))
    return total / pairs.clamp(min=1), pairs


def rao_kupper_loss(scores: Tensor, ranks: Tensor, theta: float) -> tuple[Tensor, Tensor]:
    """Mean over a ranking's pairs of the negative log-likelihood under Rao & Kupper (1967), which models ties.

    P(i beats j) = sigmoid(s_i - s_j - log theta);
    P(i ties j) = (theta^2 - 1) sigmoid(s_i - s_j - log theta) sigmoid(s_j - s_i - log theta), theta > 1.

    Shapes as in `kwise_loss`; the count is of all ranked pairs, ties included.
    """
    better = _better(ranks)
    known = ranks > 0
    upper = torch.triu(torch.ones_like(better), diagonal=1)
    tied = (ranks.unsqueeze(2) == ranks.unsqueeze(1)) & known.unsqueeze(2) & known.unsqueeze(1) & upper
    gaps = scores.unsqueeze(2) - scores.unsqueeze(1)
    win = F.logsigmoid(gaps - math.log(theta))
    tie = win + F.logsigmoid(-gaps - math.log(theta)) + math.log(theta**2 - 1)
    pairs = (better | tied).sum(dim=(1, 2))
    total = torch.where(better, -win, 0.0).sum(dim=(1, 2)) + torch.where(tied, -tie, 0.0).sum(dim=(1, 2))
    return total / pairs.clamp(min=1), pairs


def pair_accuracy(scores: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """How many untied pairs of each ranking the scores order rightly (an equal score counts half), and how many there
    are: `(B, K)` to two `(B,)` tensors."""
    better = _better(ranks)
    gaps = scores.unsqueeze(2) - scores.unsqueeze(1)
    right = torch.where(better, (gaps > 0).float() + 0.5 * (gaps == 0).float(), 0.0).sum(dim=(1, 2))
    return right, better.sum(dim=(1, 2))


def _better(ranks: Tensor) -> Tensor:
    """`(B, K)` to `(B, K, K)`: True at [b, i, j] where completion i is ranked strictly better than j."""
    known = ranks > 0
    return (ranks.unsqueeze(2) < ranks.unsqueeze(1)) & known.unsqueeze(2) & known.unsqueeze(1)
