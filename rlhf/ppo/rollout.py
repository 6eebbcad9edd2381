"""Sampling from the policy with our own decode loop, and the logprobs of what was sampled under any adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlhf.data.encoding import by_length, pad_left, pad_right
from rlhf.model.base import SharedBase
from rlhf.model.cache import decode_cache
from rlhf.ops.logprobs import filtered, sample_inverse_cdf


@dataclass
class Rollout:
    """What the policy wrote, and what it thought while writing.

    Attributes:
        prompts, responses: token ids; a response holds its EOS where it has one.
        logprobs, entropies: `(B, T)` at sampling time, of what was sampled from; 0 outside the mask.
        response_mask: `(B, T)`, True = a real token.
        finished: `(B,)`, True = the response ended with EOS.
        values: `(B, T)` by the value head while sampling, 0 outside the mask; None where none was asked for.
        allowed: by response and token, the ids that a sampling filter kept; None without a filter.
        lower: how many of the lowest layers no adapter touches, and what they make of each sequence `(T_i, H)`; None
            where there are none.
    """

    prompts: list[list[int]]
    responses: list[list[int]]
    logprobs: Tensor
    entropies: Tensor
    response_mask: Tensor
    finished: Tensor
    values: Tensor | None = None
    allowed: list[list[Tensor]] | None = None
    lower: tuple[int, list[Tensor]] | None = None

    @property
    def lengths(self) -> Tensor:
        """Response lengths in tokens, EOS included: `(B,)` int64."""
        return self.response_mask.sum(dim=1)

    @property
    def sequence_lengths(self) -> list[int]:
        """Prompt and response of each row, in tokens."""
        return [len(p) + len(r) for p, r in zip(self.prompts, self.responses, strict=True)]

    def kept(self, rows: Sequence[int]) -> list[Tensor] | None:
        """What the filter kept for each token of the responses at `rows`, flat."""
        return None if self.allowed is None else [ids for i in rows for ids in self.allowed[i]]


def assemble(
    base: SharedBase,
    prompts: Sequence[Sequence[int]],
    responses: list[list[int]],
    logprobs: Tensor,
    entropies: Tensor,
    **more: object,
) -> Rollout:
    """A rollout of finished responses; the tables `(B, max_new_tokens)` are cut to the longest."""
    width = max(len(r) for r in responses)
    lengths = torch.tensor([len(r) for r in responses], device=base.device)
    mask = torch.arange(width, device=base.device) < lengths.unsqueeze(1)
    eos = base.tokenizer.eos_token_id
    finished = torch.tensor([r[-1] == eos for r in responses], device=base.device)
    return Rollout(
        [list(p) for p in prompts],
        responses,
        logprobs[:, :width],
        entropies[:, :width],
        mask,
        finished,
        **more,  # type: ignore[arg-type]
    )


@dataclass
class _Tables:
    """What a decode loop writes, row by row; `(B, max_new_tokens)` each."""

    responses: list[list[int]]
    logprobs: Tensor
    entropies: Tensor
    values: Tensor | None
    allowed: list[list[Tensor]] | None = field(default=None)


def sample(
    base: SharedBase,
    adapter: str | None,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
    batch_size: int = 64,
    top_k: int | None = None,
    top_p: float | None = None,
    value_head: str | None = None,
) -> Rollout:
    """Sample one response a prompt under `adapter`; finished rows leave the batch.

    The same generator state, prompts and batch size give the same responses on the same machine. With `value_head`,
    that head's values are kept as well.
    """
    size = (len(prompts), max_new_tokens)
    out = _Tables(
        [[] for _ in prompts],
        torch.zeros(size, device=base.device),
        torch.zeros(size, device=base.device),
        torch.zeros(size, device=base.device) if value_head else None,
        [[] for _ in prompts] if top_k or top_p else None,
    )
    with base.active(adapter), base.dense_weights():
        for rows in by_length([len(p) for p in prompts], batch_size):
            uniforms = torch.rand((len(rows), max_new_tokens), generator=generator).to(base.device)
            _decode(base, [prompts[i] for i in rows], rows, uniforms, out, temperature, (top_k, top_p), value_head)
    rollout = assemble(base, prompts, out.responses, out.logprobs, out.entropies, allowed=out.allowed)
    rollout.values = None if out.values is None else out.values[:, : rollout.logprobs.shape[1]]
    return rollout


def _decode(
    base: SharedBase,
    prompts: Sequence[Sequence[int]],
    rows: list[int],
    uniforms: Tensor,
    out: _Tables,
    temperature: float,
    kept: tuple[int | None, float | None],
    value_head: str | None,
) -> None:
    """Decode the prompts into the tables' `rows`, in place; `uniforms` `(B, T)` decide every token beforehand."""
    eos = base.tokenizer.eos_token_id
    ids, mask = pad_left(prompts, base.tokenizer.pad_token_id, base.device)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    alive = torch.tensor(rows, device=base.device)
    draw = torch.arange(len(rows), device=base.device)
    cache = decode_cache(ids.shape[1] + uniforms.shape[1])
    for t in range(uniforms.shape[1]):
        hidden = base.decode_step(ids, mask, positions, cache)[:, -1]
        logits = base.logits(hidden) / temperature
        if out.allowed is not None:
            logits = filtered(logits, *kept)
            for row, ids_kept in zip(alive.tolist(), logits.isfinite(), strict=True):
                out.allowed[row].append(ids_kept.nonzero().squeeze(1).to(torch.int32))
        logp = torch.log_softmax(logits, dim=-1)
        probs = logp.exp()  # made once: over a large vocabulary each pass counts
        tokens = sample_inverse_cdf(probs, uniforms[draw, t])
        out.logprobs[alive, t] = logp.gather(1, tokens.unsqueeze(1)).squeeze(1)
        out.entropies[alive, t] = -torch.linalg.vecdot(probs, logp.clamp_(min=-1e4))  # 0 log 0 = 0
        if out.values is not None and value_head:
            out.values[alive, t] = base.apply_head(value_head, hidden)
        for row, token in zip(alive.tolist(), tokens.tolist(), strict=True):
            out.responses[row].append(token)
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
    """The trunk's answers at the response positions of a micro-batch, flat: N = all its response tokens.

    Attributes:
        hidden: `(N, H)`, what the output layer and a value head read; index: `(2, N)`, row and time of each token;
        tokens: `(N,)`, what was written there.
    """

    hidden: Tensor
    index: Tensor
    tokens: Tensor

    def scatter(self, flat: Tensor, like: Tensor) -> Tensor:
        """Put `(N,)` values into `(B, T)` zeros of `like`'s shape."""
        return torch.zeros_like(like, dtype=flat.dtype).index_put((self.index[0], self.index[1]), flat)


def forward_responses(
    base: SharedBase,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    lower: tuple[int, list[Tensor]] | None = None,
) -> Responses:
    """Run prompt + response (right-padded) under the active adapter; with `lower`, the layers above those alone.

    The token at position p is predicted by the hidden state at p - 1, which is also where its value is read.
    """
    sequences = [[*p, *r] for p, r in zip(prompts, responses, strict=True)]
    ids, mask = pad_right(sequences, base.tokenizer.pad_token_id, base.device)
    rows = torch.tensor([b for b, r in enumerate(responses) for _ in r], device=base.device)
    times = torch.tensor([t for r in responses for t in range(len(r))], device=base.device)
    starts = torch.tensor([len(p) for p in prompts], device=base.device)
    tokens = torch.tensor([token for r in responses for token in r], device=base.device)
    below = None if lower is None else (lower[0], torch.nn.utils.rnn.pad_sequence(lower[1], batch_first=True))
    hidden = base.hidden(ids, mask, lower=below)[rows, starts[rows] + times - 1]
    return Responses(hidden, torch.stack([rows, times]), tokens)


def forward_rows(base: SharedBase, rollout: Rollout, rows: Sequence[int]) -> Responses:
    """`forward_responses` of some of a rollout's rows."""
    lower = None if rollout.lower is None else (rollout.lower[0], [rollout.lower[1][i] for i in rows])
    return forward_responses(base, [rollout.prompts[i] for i in rows], [rollout.responses[i] for i in rows], lower)


def micro_batches(rollout: Rollout, rows: list[int], size: int, tokens: int | None) -> Iterator[list[int]]:
    """The rows in groups of at most `size` and `tokens`, similar lengths together, so that little is padding."""
    for group in by_length([rollout.sequence_lengths[i] for i in rows], size, tokens):
        yield [rows[i] for i in group]


def run_lower(base: SharedBase, rollout: Rollout, layers: int) -> None:
    """Run the lowest `layers` layers over the rollout, once for all the passes and epochs to come."""
    sequences = [[*p, *r] for p, r in zip(rollout.prompts, rollout.responses, strict=True)]
    kept: dict[int, Tensor] = {}
    for rows in by_length(rollout.sequence_lengths, base.forward_rows):
        ids, mask = pad_right([sequences[i] for i in rows], base.tokenizer.pad_token_id, base.device)
        hidden = base.lower_hidden(ids, mask, layers)
        kept |= {i: hidden[r, : len(sequences[i])].clone() for r, i in enumerate(rows)}
    rollout.lower = layers, [kept[i] for i in range(len(sequences))]


def response_logprobs(
    base: SharedBase, adapter: str | None, rollout: Rollout, *, temperature: float, as_sampled: bool = False
) -> Tensor:
    """Logprobs `(B, T)` of the rollout's responses under `adapter`, without gradients.

    `as_sampled`: over the tokens that the rollout's filter kept, as the policy's own are; the reference's never are.
    """
    logprobs = torch.zeros_like(rollout.logprobs)
    for rows, at, out in forwards(base, adapter, rollout):
        logprobs[at] = _logprobs(base, rollout, rows, out, temperature, as_sampled)
    return logprobs


def response_features(base: SharedBase, adapter: str | None, rollout: Rollout) -> Tensor:
    """The trunk's features `(B, T, H)` in fp32 where the responses' tokens are predicted, without gradients."""
    features = torch.zeros((*rollout.logprobs.shape, base.model.config.hidden_size), device=base.device)
    for _, at, out in forwards(base, adapter, rollout):
        features[at] = out.hidden.float()
    return features


def response_pass(
    base: SharedBase, adapter: str | None, rollout: Rollout, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """The policy's `response_logprobs`, as sampled, and its `response_features`, by the same forwards."""
    logprobs = torch.zeros_like(rollout.logprobs)
    features = torch.zeros((*logprobs.shape, base.model.config.hidden_size), device=base.device)
    for rows, at, out in forwards(base, adapter, rollout):
        logprobs[at] = _logprobs(base, rollout, rows, out, temperature, as_sampled=True)
        features[at] = out.hidden.float()
    return logprobs, features


def forwards(
    base: SharedBase, adapter: str | None, rollout: Rollout
) -> Iterator[tuple[list[int], tuple[Tensor, Tensor], Responses]]:
    """Length-sorted forwards of the whole rollout: rows, places of their tokens in `(B, T)`, the trunk's answers."""
    with base.active(adapter):
        for rows in by_length(rollout.sequence_lengths, base.forward_rows):
            out = forward_rows(base, rollout, rows)
            yield rows, (torch.tensor(rows, device=base.device)[out.index[0]], out.index[1]), out


def _logprobs(
    base: SharedBase, rollout: Rollout, rows: list[int], out: Responses, temperature: float, as_sampled: bool
) -> Tensor:
    allowed = rollout.kept(rows) if as_sampled else None
    return base.token_logprobs(out.hidden, out.tokens, temperature, allowed=allowed)[0]
