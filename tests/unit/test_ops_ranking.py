"""Losses on rankings, against worked numbers and the laws of the models behind them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.ops.ranking import kwise_loss, pair_accuracy, rao_kupper_loss


def _nls(gap: float) -> float:
    """-log sigmoid(gap)."""
    return math.log1p(math.exp(-gap))


def test_two_completions_are_bradley_terry() -> None:
    # -log sigmoid(1) = log(1 + e^-1) = 0.3132617; the worse one first: -log sigmoid(-1) = 1.3132617.
    loss, pairs = kwise_loss(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([[1, 2], [1, 2]]))
    assert loss.tolist() == pytest.approx([0.3132617, 1.3132617])
    assert pairs.tolist() == [1, 1]


def test_four_completions_with_a_tie() -> None:
    # Ranks 1, 2, 2, 4; scores 3, 1, 2, 0: pairs (0,1), (0,2), (0,3), (1,3), (2,3) with gaps 2, 1, 3, 1, 2.
    loss, pairs = kwise_loss(torch.tensor([[3.0, 1.0, 2.0, 0.0]]), torch.tensor([[1, 2, 2, 4]]))
    assert pairs.tolist() == [5]
    assert loss.item() == pytest.approx((_nls(2) + _nls(1) + _nls(3) + _nls(1) + _nls(2)) / 5, rel=1e-6)


def test_what_is_not_ranked_is_unknown_not_worse() -> None:
    # Rank 0 leaves a completion out wherever it stands: only (0, 2) remains, gap 3 - 1 = 2; its score gets no gradient.
    scores = torch.tensor([[3.0, 50.0, 1.0]], requires_grad=True)
    loss, pairs = kwise_loss(scores, torch.tensor([[1, 0, 2]]))
    loss.sum().backward()
    assert pairs.tolist() == [1]
    assert loss.item() == pytest.approx(_nls(2), rel=1e-6)
    assert scores.grad is not None
    assert scores.grad[0, 1].item() == 0.0
    assert scores.grad[0, 0].item() == pytest.approx(-1 / (1 + math.exp(2)), rel=1e-5)


def test_no_untied_pair_is_no_loss() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0]] * 3, requires_grad=True)
    loss, pairs = kwise_loss(scores, torch.tensor([[1, 1, 1], [0, 0, 0], [0, 2, 0]]))
    loss.sum().backward()
    assert loss.tolist() == [0.0, 0.0, 0.0]
    assert pairs.tolist() == [0, 0, 0]
    assert scores.grad is not None
    assert scores.grad.abs().max().item() == 0.0


def test_padding_a_ranking_changes_nothing() -> None:
    scores, ranks = torch.tensor([[0.5, -1.0, 2.0]]), torch.tensor([[2, 1, 2]])
    padded = torch.tensor([[0.5, -1.0, 2.0, 0.0, 0.0]]), torch.tensor([[2, 1, 2, 0, 0]])
    for function in (kwise_loss, pair_accuracy):
        for plain, wide in zip(function(scores, ranks), function(*padded), strict=True):
            assert torch.equal(plain, wide)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=4, max_size=4), st.floats(-10, 10))
def test_only_differences_of_scores_count(scores: list[float], shift: float) -> None:
    ranks = torch.tensor([[1, 2, 3, 3]])
    plain = torch.tensor([scores], dtype=torch.float64)
    assert kwise_loss(plain, ranks)[0].item() == pytest.approx(kwise_loss(plain + shift, ranks)[0].item(), abs=1e-9)
    shifted = rao_kupper_loss(plain + shift, ranks, 1.5)[0].item()
    assert rao_kupper_loss(plain, ranks, 1.5)[0].item() == pytest.approx(shifted, abs=1e-9)


def test_extreme_scores_stay_finite() -> None:
    loss, _ = kwise_loss(torch.tensor([[-1e4, 1e4]]), torch.tensor([[1, 2]]))
    assert loss.item() == 2e4


@settings(max_examples=60, deadline=None)
@given(st.floats(-8, 8), st.floats(1.001, 10))
def test_rao_kupper_win_tie_and_loss_sum_to_one(gap: float, theta: float) -> None:
    scores = torch.tensor([[gap, 0.0]], dtype=torch.float64)
    outcomes = [torch.tensor([ranks]) for ranks in ([1, 2], [1, 1], [2, 1])]
    probabilities = [math.exp(-rao_kupper_loss(scores, ranks, theta)[0].item()) for ranks in outcomes]
    assert sum(probabilities) == pytest.approx(1, abs=1e-9)


def test_rao_kupper_literals() -> None:
    # Equal scores, theta = 2: win = 1 / (1 + 2) = 1/3, and so is loss; tie = (4 - 1) / 9 = 1/3.
    scores = torch.zeros(3, 2, dtype=torch.float64)
    loss, pairs = rao_kupper_loss(scores, torch.tensor([[1, 2], [1, 1], [2, 1]]), theta=2.0)
    assert loss.tolist() == pytest.approx([math.log(3)] * 3)
    assert pairs.tolist() == [1, 1, 1]


def test_rao_kupper_averages_ranked_pairs_and_leaves_unknown_ones_out() -> None:
    # Ranks 1, 1, 2, unknown; equal scores, theta = 2: one tie and two wins, each of probability 1/3.
    loss, pairs = rao_kupper_loss(torch.zeros(1, 4), torch.tensor([[1, 1, 2, 0]]), theta=2.0)
    assert pairs.tolist() == [3]
    assert loss.item() == pytest.approx(math.log(3), rel=1e-6)
    nothing, none = rao_kupper_loss(torch.zeros(1, 2), torch.tensor([[1, 0]]), theta=2.0)
    assert (nothing.item(), none.item()) == (0.0, 0)


def test_rao_kupper_without_ties_is_bradley_terry_as_theta_goes_to_one() -> None:
    scores, ranks = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64), torch.tensor([[3, 2, 1]])
    # Gaps 1.7 (2 over 0), 3.0 (2 over 1) and -1.3 (1 over 0).
    expected = (_nls(1.7) + _nls(3.0) + _nls(-1.3)) / 3
    assert rao_kupper_loss(scores, ranks, 1 + 1e-9)[0].item() == pytest.approx(expected, abs=1e-8)
    assert rao_kupper_loss(scores, ranks, 1.5)[0].item() > expected + 0.1


def test_rao_kupper_pulls_tied_scores_together() -> None:
    scores = torch.tensor([[2.0, 0.0]], requires_grad=True)
    rao_kupper_loss(scores, torch.tensor([[1, 1]]), 1.5)[0].sum().backward()
    assert scores.grad is not None
    assert scores.grad[0, 0].item() > 0 > scores.grad[0, 1].item()


def test_pair_accuracy_counts_equal_scores_half() -> None:
    # Ranks 1, 2, 3, unknown. Scores 5, 5, 1, 9: (0,1) equal = 1/2, (0,2) right, (1,2) right: 2.5 of 3.
    # Scores 0, 1, 1, 9: (0,1) wrong, (0,2) wrong, (1,2) equal: 0.5 of 3. All tied: 0 of 0.
    scores = torch.tensor([[5.0, 5.0, 1.0, 9.0], [0.0, 1.0, 1.0, 9.0], [1.0, 2.0, 3.0, 4.0]])
    right, pairs = pair_accuracy(scores, torch.tensor([[1, 2, 3, 0], [1, 2, 3, 0], [2, 2, 2, 2]]))
    assert right.tolist() == [2.5, 0.5, 0.0]
    assert pairs.tolist() == [3, 3, 0]
