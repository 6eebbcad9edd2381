"""Scores of whole sequences by a reward adapter: the same forward for its training, for PPO and for evaluation.

Completions of one prompt can share a row: the prompt is run once, each completion sees it and itself alone, and its
positions go on from the prompt's end, so every score is what the sequence on its own would get.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.data.encoding import by_length, pad_right
from rlhf.model.base import SharedBase

Tokens = Sequence[int]
MOST_TOGETHER = 9  # completions in a row: the largest K of a ranking; attention grows with the square of the row


@dataclass(frozen=True)
class _Row:
    """A prompt and completions of it in one row of a batch; `first` is the first completion's place among them all."""

    prompt: Tokens
    completions: Sequence[Tokens]
    first: int

    @property
    def length(self) -> int:
        return len(self.prompt) + sum(map(len, self.completions))


def score_sequences(base: SharedBase, name: str, sequences: Sequence[Tokens]) -> Tensor:
    """Scores `(N,)` under the active adapter by head `name`, in the sequences' order; similar lengths share a forward.

    Differentiable where the caller activated the adapter for training.
    """
    return score_completions(base, name, [((), (sequence,)) for sequence in sequences])


def score_completions(base: SharedBase, name: str, groups: Sequence[tuple[Tokens, Sequence[Tokens]]]) -> Tensor:
    """Scores `(N,)` of all the completions of `(prompt, completions)` groups, in order; a prompt is run once a group.

    The same numbers as `score_sequences` on prompt + completion, to rounding.
    """
    rows: list[_Row] = []
    first = 0
    for prompt, completions in groups:
        for part in _parts(base, prompt, completions):
            rows.append(_Row(prompt, part, first))
            first += len(part)
    scores, places = [], []
    for chosen in by_length([row.length for row in rows], base.forward_rows, base.forward_tokens):
        batch = [rows[i] for i in chosen]
        scores.append(_forward(base, name, batch))
        places += [row.first + k for row in batch for k in range(len(row.completions))]
    return torch.cat(scores)[torch.tensor(places, device=base.device).argsort()]


def _parts(base: SharedBase, prompt: Tokens, completions: Sequence[Tokens]) -> Iterator[Sequence[Tokens]]:
    """The completions as they share rows: some together, or each alone."""
    for start in range(0, len(completions), MOST_TOGETHER):
        some = completions[start : start + MOST_TOGETHER]
        if _worth_sharing(base, prompt, some):
            yield some
        else:
            yield from ([c] for c in some)


def _worth_sharing(base: SharedBase, prompt: Tokens, completions: Sequence[Tokens]) -> bool:
    """Whether the prompt's tokens saved outweigh the attention between completions, which is computed and masked.

    A token costs a layer about 12 H^2 multiplications, a query and key 2 H; the latter count threefold, being slower.
    """
    if not base.shares_prompts or len(completions) < 2:
        return False
    apart = sum((len(prompt) + len(c)) ** 2 for c in completions)
    together = (len(prompt) + sum(map(len, completions))) ** 2
    return (len(completions) - 1) * len(prompt) * 2 * base.model.config.hidden_size > together - apart


def _forward(base: SharedBase, name: str, rows: Sequence[_Row]) -> Tensor:
    """Scores of the rows' completions, flat."""
    sequences = [[*row.prompt, *(token for c in row.completions for token in c)] for row in rows]
    ids, mask = pad_right(sequences, base.tokenizer.pad_token_id, base.device)
    if all(len(row.completions) == 1 for row in rows):
        return base.score(name, ids, mask)
    segments, positions, ends = torch.full_like(ids, -1), torch.zeros_like(ids), []
    for r, row in enumerate(rows):
        at = len(row.prompt)
        segments[r, :at] = 0
        positions[r, :at] = torch.arange(at)
        for k, completion in enumerate(row.completions):
            part = slice(at, at + len(completion))
            segments[r, part] = k + 1
            positions[r, part] = torch.arange(len(row.prompt), len(row.prompt) + len(completion))
            at = part.stop
            ends.append((r, at - 1))
    dtype = base.model.get_input_embeddings().weight.dtype  # the activations', whatever compute_dtype says of linears
    hidden = base.hidden(ids, _tree_mask(segments, dtype), positions)
    at_row, at_time = torch.tensor(ends, device=base.device).unbind(1)
    return base.apply_head(name, hidden[at_row, at_time])


def _tree_mask(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention's logits `(B, 1, T, T)`: 0 where a token may look, the lowest number elsewhere.

    `segments` `(B, T)` is 0 for the prompt, k for completion k, -1 for padding; a token sees what came before it in the
    prompt and in its own completion.
    """
    query, key = segments.unsqueeze(2), segments.unsqueeze(1)
    seen = ((key == 0) | ((key == query) & (key > 0))).tril()
    lowest = torch.finfo(dtype).min
    return torch.zeros(seen.shape, dtype=dtype, device=segments.device).masked_fill(~seen, lowest).unsqueeze(1)
