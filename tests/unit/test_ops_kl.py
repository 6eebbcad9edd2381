"""The KL estimators: worked numbers, and their expectations and gradients by enumerating a whole distribution."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf.ops.kl import k1, k2, k3

LOGITS = [0.3, -1.2, 0.8, 0.1, -0.4]
REF_LOGITS = [-0.5, 0.4, 0.2, 1.0, -1.1]


def _log_softmax(logits: list[float]) -> list[float]:
    total = math.log(sum(math.exp(x) for x in logits))
    return [x - total for x in logits]


def _exact_kl() -> float:
    p, q = _log_softmax(LOGITS), _log_softmax(REF_LOGITS)
    return sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))


def _expected_gradient(estimator: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """E_p of the gradient of the estimate, through log p, with respect to the logits; every token enumerated."""
    logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    logp = torch.log_softmax(logits, dim=-1)
    logq = torch.tensor(_log_softmax(REF_LOGITS), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((logp.exp().detach() * estimator(logp, logq)).sum(), logits)
    return gradient


def _kl_gradient() -> list[float]:
    """d KL(p, q) / d logit_i = p_i ((log p_i - log q_i) - KL): worked out with the softmax's derivative."""
    p, q, kl = _log_softmax(LOGITS), _log_softmax(REF_LOGITS), _exact_kl()
    return [math.exp(a) * ((a - b) - kl) for a, b in zip(p, q, strict=True)]


def test_literals() -> None:
    # p = 1/2, q = 1/4: log p - log q = log 2; k2 = (log 2)^2 / 2; k3 = 1/2 - 1 + log 2.
    # p = 1/4, q = 1/2: -log 2; the same k2; k3 = 2 - 1 - log 2.
    logp, logq = torch.tensor([[0.5, 0.25]]).log(), torch.tensor([[0.25, 0.5]]).log()
    assert k1(logp, logq).tolist() == [pytest.approx([0.6931472, -0.6931472])]
    assert k2(logp, logq).tolist() == [pytest.approx([0.2402265, 0.2402265])]
    assert k3(logp, logq).tolist() == [pytest.approx([0.1931472, 0.3068528])]


@pytest.mark.parametrize("estimator", [k1, k2, k3])
def test_equal_distributions_have_no_divergence(estimator: Callable[[Tensor, Tensor], Tensor]) -> None:
    logp = torch.tensor([[-0.1, -5.0, -30.0]])
    assert estimator(logp, logp).tolist() == [[0.0, 0.0, 0.0]]


@settings(max_examples=100, deadline=None)
@given(st.floats(-40, 0), st.floats(-40, 0))
def test_k2_and_k3_are_never_negative(a: float, b: float) -> None:
    logp, logq = torch.tensor([a]), torch.tensor([b])
    assert k2(logp, logq).item() >= 0
    assert k3(logp, logq).item() >= 0


@pytest.mark.parametrize(("estimator", "unbiased"), [(k1, True), (k2, False), (k3, True)])
def test_expectation_over_the_whole_distribution(estimator: Callable[[Tensor, Tensor], Tensor], unbiased: bool) -> None:
    logp = torch.tensor(_log_softmax(LOGITS), dtype=torch.float64)
    logq = torch.tensor(_log_softmax(REF_LOGITS), dtype=torch.float64)
    expected = (logp.exp() * estimator(logp, logq)).sum().item()
    assert (abs(expected - _exact_kl()) < 1e-12) == unbiased


def test_k1_as_a_loss_has_no_expected_gradient() -> None:
    assert _expected_gradient(k1).abs().max().item() < 1e-15


def test_k2_as_a_loss_has_the_gradient_of_the_kl() -> None:
    assert _expected_gradient(k2).tolist() == pytest.approx(_kl_gradient(), abs=1e-12)


def test_k3_as_a_loss_has_the_gradient_of_the_other_direction() -> None:
    # E_p[grad k3] = E_p[(1 - q/p) grad log p] = -sum_i q_i grad log p_i = grad KL(q, p) = p - q.
    p, q = _log_softmax(LOGITS), _log_softmax(REF_LOGITS)
    expected = [math.exp(a) - math.exp(b) for a, b in zip(p, q, strict=True)]
    assert _expected_gradient(k3).tolist() == pytest.approx(expected, abs=1e-12)
    assert max(abs(a - b) for a, b in zip(expected, _kl_gradient(), strict=True)) > 0.05
