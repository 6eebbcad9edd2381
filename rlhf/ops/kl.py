"""Estimators of KL(p, q) from samples of p (Schulman 2020, "Approximating KL divergence").

All take log p and log q of the sampled tokens, `(B, T)`, and give one estimate a token in nats. As a *value* k1 and
k3 are unbiased; as a *loss* they are not interchangeable: differentiated through log p, k1 has an expected gradient of
zero and k3 one of another divergence, while k2 has the right one. In the reward, k1 is the right choice.
"""

from __future__ import annotations

from torch import Tensor


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """log p - log q: unbiased, of either sign."""
    return logprobs - ref_logprobs


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """(log p - log q)^2 / 2: biased, never negative, low variance."""
    return 0.5 * (logprobs - ref_logprobs) ** 2


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """(q/p - 1) - log(q/p): unbiased and never negative."""
    log_ratio = ref_logprobs - logprobs
    return log_ratio.expm1() - log_ratio


ESTIMATORS = {"k1": k1, "k2": k2, "k3": k3}
