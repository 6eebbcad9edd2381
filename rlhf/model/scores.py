"""Scores of whole sequences by a reward adapter: the same forward for its training, for PPO and for evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf.data.encoding import by_length, pad_right
from rlhf.model.base import SharedBase


def score_sequences(base: SharedBase, name: str, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Scores `(N,)` under the active adapter by head `name`, in the sequences' order; similar lengths share a forward.

    Differentiable where the caller activated the adapter for training.
    """
    groups = by_length([len(s) for s in sequences], base.forward_rows)
    parts = []
    for rows in groups:
        ids, mask = pad_right([sequences[i] for i in rows], base.tokenizer.pad_token_id, base.device)
        parts.append(base.score(name, ids, mask))
    order = torch.tensor([i for rows in groups for i in rows], device=base.device)
    return torch.cat(parts)[torch.argsort(order)]
