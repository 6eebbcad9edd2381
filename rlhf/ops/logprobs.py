"""Log-probabilities and entropy of a categorical distribution over tokens."""

from __future__ import annotations

import torch
from torch import Tensor


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
    return -(logp.exp() * logp).sum(dim=-1)


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
