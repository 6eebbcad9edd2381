"""Masked statistics and whitening, against worked numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.ops.masked import masked_mean, masked_sum, masked_var, whiten

X = torch.tensor([[1.0, 2.0, float("nan")], [6.0, float("inf"), float("nan")]])
MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_sum_mean_and_variance_see_only_the_mask() -> None:
    # 1, 2, 6: sum 9, mean 3, squared deviations 4 + 1 + 9 = 14, over n = 3.
    assert masked_sum(X, MASK).item() == 9.0
    assert masked_mean(X, MASK).item() == 3.0
    assert masked_var(X, MASK).item() == pytest.approx(14 / 3)


def test_an_empty_mask_sums_to_zero_and_has_no_mean() -> None:
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    assert masked_sum(torch.ones(1, 2), nothing).item() == 0.0
    assert math.isnan(masked_mean(torch.ones(1, 2), nothing).item())


def test_masked_entries_get_no_gradient() -> None:
    x = torch.tensor([[1.0, 2.0]], requires_grad=True)
    masked_sum(x**2, torch.tensor([[True, False]])).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[2.0, 0.0]]


def test_whiten_literals() -> None:
    # 1, 3, 5: mean 3, variance (4 + 0 + 4) / 3 = 8/3, so -2, 0, 2 over sqrt(8/3); 0 outside the mask.
    out = whiten(torch.tensor([[1.0, 3.0, 99.0], [5.0, -7.0, 0.0]]), MASK)
    unit = 2 / math.sqrt(8 / 3)
    assert torch.allclose(out, torch.tensor([[-unit, 0.0, 0.0], [unit, 0.0, 0.0]]), atol=1e-6)


def test_whiten_by_other_statistics() -> None:
    # (x - 1) / sqrt(4): 1 -> 0, 3 -> 1, 5 -> 2.
    x = torch.tensor([[1.0, 3.0, 99.0], [5.0, 99.0, 99.0]])
    out = whiten(x, MASK, mean=torch.tensor(1.0), var=torch.tensor(4.0))
    assert torch.allclose(out, torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 0.0]]), atol=1e-6)


def test_two_processes_with_shared_statistics_whiten_as_one_would() -> None:
    whole = torch.tensor([[1.0, 3.0], [5.0, 11.0]])
    mask = torch.ones(2, 2, dtype=torch.bool)
    # 1, 3, 5, 11: mean 5, variance (16 + 4 + 0 + 36) / 4 = 14.
    halves = [whiten(whole[i : i + 1], mask[:1], mean=torch.tensor(5.0), var=torch.tensor(14.0)) for i in (0, 1)]
    assert torch.allclose(torch.cat(halves), whiten(whole, mask), atol=1e-6)


def test_whitening_a_constant_gives_zeros() -> None:
    assert whiten(torch.full((2, 3), 7.0), torch.ones(2, 3, dtype=torch.bool)).abs().max().item() == 0.0


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_whitened_entries_have_mean_0_and_variance_1(data: st.DataObject) -> None:
    seed, count = data.draw(st.integers(0, 10**6)), data.draw(st.integers(2, 24))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 6, generator=generator) * data.draw(st.floats(0.1, 100)) + data.draw(st.floats(-100, 100))
    mask = torch.zeros(24, dtype=torch.bool)
    mask[torch.randperm(24, generator=generator)[:count]] = True
    mask = mask.view(4, 6)
    out = whiten(x, mask)
    kept = out[mask].tolist()
    mean = sum(kept) / count
    assert mean == pytest.approx(0, abs=1e-3)
    assert sum((v - mean) ** 2 for v in kept) / count == pytest.approx(1, abs=1e-2)
    assert out[~mask].eq(0).all()
