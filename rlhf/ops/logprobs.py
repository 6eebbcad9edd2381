"""Log-probabilities and entropy of a categorical distribution over tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf.ops.linear import linear

CHUNK_NUMBERS = {"cpu": 1 << 22, "gpu": 1 << 26}  # logits at once: what stays in a CPU's cache, what fills a GPU


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature) at `tokens`.

    Args:
        logits: `(..., V)`, any float type; computed in fp32.
        tokens: `(...)`, int64.
    Returns:
        `(...)` fp32, in nats.
    """
    scaled = logits.float() / temperature
    return scaled.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - torch.logsumexp(scaled, dim=-1)


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """-sum p log p of softmax(logits / temperature): `(..., V)` to `(...)`, in nats, fp32."""
    logp = torch.log_softmax(logits.float() / temperature, dim=-1)
    return -(logp.exp() * logp.clamp(min=-1e4)).sum(dim=-1)  # 0 log 0 = 0


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    temperature: float = 1.0,
    *,
    bias: Tensor | None = None,
    with_entropy: bool = False,
    allowed: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """`token_logprobs` (and `entropy`) of a frozen output layer's logits, without ever holding them all.

    logits = (hidden W^T + bias) / temperature are made a chunk of rows at a time. Where `hidden` needs a gradient, its
    direction is made in the same pass, W being frozen:
    d logp(y) / d hidden = (onehot(y) - p) W / temperature;  d H / d hidden = -p (log p + H) W / temperature.

    Args:
        hidden: `(N, H)`; weight: `(V, H)`, bias `(V,)`, both without gradients; tokens: `(N,)`, int64.
        allowed: for each of the N, the token ids that the distribution is over (what a sampling filter kept).
    Returns:
        `(N,)` logprobs and, if asked for, `(N,)` entropies; fp32, in nats.
    """
    logprobs, entropies = _LinearLogprobs.apply(hidden, weight, tokens, temperature, bias, with_entropy, allowed)  # type: ignore[no-untyped-call]
    return logprobs, entropies if with_entropy else None


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        tokens: Tensor,
        temperature: float,
        bias: Tensor | None,
        with_entropy: bool,
        allowed: Sequence[Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        count, train = len(hidden), hidden.requires_grad
        logprobs = torch.zeros(count, device=hidden.device)
        entropies = torch.zeros(count, device=hidden.device)
        toward = torch.empty_like(hidden) if train else None
        spread = torch.empty_like(hidden) if train and with_entropy else None
        for start in range(0, count, rows := _chunk_rows(weight)):
            part = slice(start, start + rows)
            logits = linear(hidden[part], weight, bias)
            if temperature != 1.0:
                logits = logits.float().div_(temperature)
            if allowed is not None:
                logits = only(logits, allowed[part])
            logp, chosen = torch.log_softmax(logits, dim=-1, dtype=torch.float32), tokens[part, None]
            del logits
            logprobs[part] = logp.gather(1, chosen).squeeze(1)
            probs = logp.exp() if with_entropy else logp.exp_()
            if with_entropy:
                logp.clamp_(min=-1e4)  # 0 log 0 = 0
                entropies[part] = -torch.linalg.vecdot(probs, logp)
            if spread is not None:
                slope = logp.add_(entropies[part, None]).mul_(probs)
                spread[part] = linear(slope.to(weight.dtype), weight.t()).div_(-temperature)
            if toward is not None:
                probs.scatter_add_(1, chosen, probs.new_full(chosen.shape, -1.0))
                toward[part] = linear(probs.to(weight.dtype), weight.t()).div_(-temperature)
        ctx.save_for_backward(toward, spread)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        of_logprobs, of_entropies = grads
        toward, spread = ctx.saved_tensors
        grad = toward * of_logprobs.unsqueeze(1).to(toward.dtype)
        if spread is not None:
            grad += spread * of_entropies.unsqueeze(1).to(toward.dtype)
        return grad, None, None, None, None, None, None


def only(logits: Tensor, allowed: Sequence[Tensor]) -> Tensor:
    """`(N, V)` logits, minus infinity at every token that is not among its row's `allowed` ids."""
    out = torch.full_like(logits, float("-inf"))
    rows = torch.arange(len(allowed)).repeat_interleave(torch.tensor([len(ids) for ids in allowed])).to(logits.device)
    ids = torch.cat(list(allowed)).to(logits.device, torch.int64)
    out[rows, ids] = logits[rows, ids]
    return out


def filtered(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """`(N, V)` logits, minus infinity outside the `top_k` likeliest, then outside the nucleus of those.

    The nucleus is the fewest tokens whose probabilities add up to `top_p` or more (Holtzman 2020, section 3.1); one
    token always stays.
    """
    if top_k is not None and top_k < logits.shape[-1]:
        best = logits.topk(top_k, dim=-1)
        logits = torch.full_like(logits, float("-inf")).scatter(-1, best.indices, best.values)
    if top_p is not None:
        ordered, places = logits.sort(dim=-1, descending=True)
        probs = ordered.softmax(dim=-1)
        before = probs.cumsum(dim=-1) - probs  # what the likelier ones hold already
        ordered = ordered.masked_fill(before >= top_p, float("-inf"))
        logits = torch.empty_like(logits).scatter(-1, places, ordered)
    return logits


def _chunk_rows(weight: Tensor) -> int:
    """Rows of logits to make at once; a multiple of 8."""
    return max(8, CHUNK_NUMBERS["cpu" if weight.device.type == "cpu" else "gpu"] // weight.shape[0] // 8 * 8)


def sample_inverse_cdf(probs: Tensor, uniforms: Tensor) -> Tensor:
    """One token a row by inverse CDF: the first index at which the cumulative probability exceeds `u`.

    Several times faster than `torch.multinomial` on a CPU.

    Args:
        probs: `(B, V)`, non-negative, rows summing to about 1 (fp32).
        uniforms: `(B,)` in [0, 1).
    Returns:
        `(B,)` int64; never an index of probability zero.
    """
    cdf = probs.cumsum(dim=-1)
    total = cdf[:, -1:]
    # Just below the total, whatever u rounds to: the first entry past it then is one that added probability.
    target = torch.minimum(uniforms.unsqueeze(-1) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cdf, target, right=True).squeeze(-1)
