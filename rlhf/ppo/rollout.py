"""Sampling from the policy with our own decode loop, and the logprobs of what was sampled under any adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from rlhf.data.encoding import by_length, pad_left, pad_right
from rlhf.model.base import SharedBase
from rlhf.ops.logprobs import sample_inverse_cdf


@dataclass
class Rollout:
    """What the policy wrote, and what it thought while writing.

    Attributes:
        prompts, responses: token ids; a response holds its EOS where it has one.
        logprobs, entropies: `(B, T)` at sampling time, 0 outside the mask.
        response_mask: `(B, T)`, True = a real token.
        finished: `(B,)`, True = the response ended with EOS.
    """

    prompts: list[list[int]]
    responses: list[list[int]]
    logprobs: Tensor
    entropies: Tensor
    response_mask: Tensor
    finished: Tensor

    @property
    def lengths(self) -> Tensor:
        """Response lengths in tokens, EOS included: `(B,)` int64."""
        return self.response_mask.sum(dim=1)


def sample(
    base: SharedBase,
    adapter: str | None,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
    batch_size: int = 64,
) -> Rollout:
    """Sample one response a prompt under `adapter`; finished rows leave the batch.

    The same generator state, prompts and batch size give the same responses on the same machine.
    """
    responses: list[list[int]] = [[] for _ in prompts]
    size = (len(prompts), max_new_tokens)
    logprobs = torch.zeros(size, device=base.device)
    entropies = torch.zeros(size, device=base.device)
    with base.active(adapter), base.dense_weights():
        for rows in by_length([len(p) for p in prompts], batch_size):
            _decode(base, prompts, rows, responses, logprobs, entropies, temperature, generator)
    width = max(len(r) for r in responses)
    lengths = torch.tensor([len(r) for r in responses], device=base.device)
    mask = torch.arange(width, device=base.device) < lengths.unsqueeze(1)
    eos = base.tokenizer.eos_token_id
    finished = torch.tensor([r[-1] == eos for r in responses], device=base.device)
    return Rollout([list(p) for p in prompts], responses, logprobs[:, :width], entropies[:, :width], mask, finished)


def _decode(
    base: SharedBase,
    prompts: Sequence[Sequence[int]],
    rows: list[int],
    responses: list[list[int]],
    logprobs: Tensor,
    entropies: Tensor,
    temperature: float,
    generator: torch.Generator,
) -> None:
    """Decode the prompts at `rows`, writing into the outputs in place; uniforms are drawn for all rows at once."""
    eos, steps = base.tokenizer.eos_token_id, logprobs.shape[1]
    uniforms = torch.rand((len(rows), steps), generator=generator).to(base.device)
    ids, mask = pad_left([prompts[i] for i in rows], base.tokenizer.pad_token_id, base.device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    alive = torch.tensor(rows, device=base.device)
    draw = torch.arange(len(rows), device=base.device)
    cache = DynamicCache()
    for t in range(steps):
        hidden = base.decode_step(ids, mask, positions, cache)
        logp = torch.log_softmax(base.lm_head(hidden[:, -1]).float() / temperature, dim=-1)
        probs = logp.exp()  # made once: over a large vocabulary each pass counts
        tokens = sample_inverse_cdf(probs, uniforms[draw, t])
        logprobs[alive, t] = logp.gather(1, tokens.unsqueeze(1)).squeeze(1)
        entropies[alive, t] = -torch.linalg.vecdot(probs, logp.clamp_(min=-1e4))  # 0 log 0 = 0
        for row, token in zip(alive.tolist(), tokens.tolist(), strict=True):
            responses[row].append(token)
        keep = (tokens != eos).nonzero().squeeze(1)
        if len(keep) == 0:
            return
        if len(keep) < len(tokens):
            cache.batch_select_indices(keep)
            alive, draw, tokens, mask, positions = alive[keep], draw[keep], tokens[keep], mask[keep], positions[keep]
        ids = tokens.unsqueeze(1)
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        positions = positions[:, -1:] + 1


@dataclass
class Responses:
    """One forward's answers at the response positions of a micro-batch, flat: N = all its response tokens.

    Attributes:
        logprobs: `(N,)`; hidden: `(N, H)`, what a value head reads; index: `(2, N)`, row and time of each token.
        entropies: `(N,)`, or None where not asked for.
    """

    logprobs: Tensor
    hidden: Tensor
    index: Tensor
    entropies: Tensor | None

    def scatter(self, flat: Tensor, like: Tensor) -> Tensor:
        """Put `(N,)` values into `(B, T)` zeros of `like`'s shape."""
        return torch.zeros_like(like, dtype=flat.dtype).index_put((self.index[0], self.index[1]), flat)


def forward_responses(
    base: SharedBase,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    temperature: float,
    *,
    with_entropy: bool = False,
) -> Responses:
    """Run prompt + response (right-padded) under the active adapter; logits are made at response positions only.

    The token at position p is predicted by the hidden state at p - 1, which is also where its value is read.
    """
    sequences = [[*p, *r] for p, r in zip(prompts, responses, strict=True)]
    ids, mask = pad_right(sequences, base.tokenizer.pad_token_id, base.device)
    rows = torch.tensor([b for b, r in enumerate(responses) for _ in r], device=base.device)
    times = torch.tensor([t for r in responses for t in range(len(r))], device=base.device)
    starts = torch.tensor([len(p) for p in prompts], device=base.device)
    tokens = torch.tensor([token for r in responses for token in r], device=base.device)
    hidden = base.hidden(ids, mask)[rows, starts[rows] + times - 1]
    logprobs, entropies = base.token_logprobs(hidden, tokens, temperature, with_entropy=with_entropy)
    return Responses(logprobs, hidden, torch.stack([rows, times]), entropies)


def response_logprobs(base: SharedBase, adapter: str | None, rollout: Rollout, *, temperature: float) -> Tensor:
    """Logprobs `(B, T)` of the rollout's responses under `adapter`, without gradients."""
    return response_pass(base, adapter, rollout, temperature=temperature)[0]


def response_pass(
    base: SharedBase, adapter: str | None, rollout: Rollout, *, temperature: float, with_hidden: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Logprobs `(B, T)` and, if asked for, the trunk's features `(B, T, H)` in fp32, in length-sorted forwards."""
    logprobs = torch.zeros_like(rollout.logprobs)
    width = base.model.config.hidden_size
    hidden = torch.zeros((*logprobs.shape, width), device=logprobs.device) if with_hidden else None
    lengths = [len(p) + len(r) for p, r in zip(rollout.prompts, rollout.responses, strict=True)]
    with base.active(adapter):
        for rows in by_length(lengths, base.forward_rows):
            out = forward_responses(
                base, [rollout.prompts[i] for i in rows], [rollout.responses[i] for i in rows], temperature
            )
            index = torch.tensor(rows, device=logprobs.device)[out.index[0]]
            logprobs[index, out.index[1]] = out.logprobs
            if hidden is not None:
                hidden[index, out.index[1]] = out.hidden.float()
    return logprobs, hidden
