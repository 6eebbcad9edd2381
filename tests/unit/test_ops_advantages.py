"""Generalised advantage estimation, against worked numbers and identities."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.ops.advantages import gae, grpo, reward_to_go, rloo

ALL = torch.ones(1, 3, dtype=torch.bool)


def test_literals() -> None:
    # r = 1, 2, 4; V = 3, 1, 2; gamma = 1/2, lam = 1/2, so gamma lam = 1/4.
    # delta_2 = 4 - 2 = 2; delta_1 = 2 + 2/2 - 1 = 2; delta_0 = 1 + 1/2 - 3 = -1.5.
    # A_2 = 2; A_1 = 2 + 2/4 = 2.5; A_0 = -1.5 + 2.5/4 = -0.875. R = A + V = 2.125, 3.5, 4.
    rewards, values = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[3.0, 1.0, 2.0]])
    advantages, returns = gae(rewards, values, ALL, gamma=0.5, lam=0.5)
    assert advantages.tolist() == [[-0.875, 2.5, 2.0]]
    assert returns.tolist() == [[2.125, 3.5, 4.0]]


def test_a_shorter_row_ends_where_its_mask_does() -> None:
    # Row 1 has two tokens: delta_1 = 2 - 1 = 1 (no value after the last); delta_0 = 1 + 1 - 3 = -1; gamma = lam = 1:
    # A_1 = 1, A_0 = 0. What lies behind the mask (9, 9) reaches nothing.
    rewards = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 9.0]])
    values = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 9.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    assert advantages[1].tolist() == [0.0, 1.0, 0.0]
    assert returns[1].tolist() == [3.0, 2.0, 0.0]


def test_nothing_is_changed_in_place() -> None:
    rewards, values = torch.ones(1, 3), torch.ones(1, 3)
    gae(rewards, values, ALL, gamma=1.0, lam=0.9)
    assert rewards.eq(1).all()
    assert values.eq(1).all()


def _rows(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 7, (3,), generator=generator).tolist()
    mask = torch.arange(6) < torch.tensor(lengths).unsqueeze(1)
    rewards = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    return rewards, torch.randn(3, 6, generator=generator, dtype=torch.float64), mask, lengths


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_gamma_and_lam_of_one_make_returns_the_reward_to_go(seed: int) -> None:
    rewards, values, mask, lengths = _rows(seed)
    _, returns = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    for row, length in enumerate(lengths):
        for t in range(6):
            expected = sum(rewards[row, t:length].tolist())
            assert abs(returns[row, t].item() - expected) < 1e-12


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_lam_of_zero_is_the_one_step_error(seed: int, gamma: float) -> None:
    rewards, values, mask, lengths = _rows(seed)
    advantages, _ = gae(rewards, values, mask, gamma=gamma, lam=0.0)
    for row, length in enumerate(lengths):
        for t in range(length):
            following = values[row, t + 1].item() if t + 1 < length else 0.0
            expected = rewards[row, t].item() + gamma * following - values[row, t].item()
            assert abs(advantages[row, t].item() - expected) < 1e-12


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1))
def test_a_perfect_critic_leaves_no_advantage(seed: int, gamma: float, lam: float) -> None:
    rewards, _, mask, lengths = _rows(seed)
    values = torch.zeros_like(rewards)
    for row, length in enumerate(lengths):
        for t in range(length):
            values[row, t] = sum(gamma ** (k - t) * rewards[row, k].item() for k in range(t, length))
    advantages, _ = gae(rewards, values, mask, gamma=gamma, lam=lam)
    assert advantages.abs().max().item() < 1e-12


def test_leave_one_out_literals() -> None:
    # 1, 2, 6: against the means of the others, 4, 3.5 and 1.5. 5, 5, 5: nothing to choose.
    found = rloo(torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0]), 3)
    torch.testing.assert_close(found, torch.tensor([-3.0, -1.5, 4.5, 0.0, 0.0, 0.0]))


def test_group_normalised_literals() -> None:
    # 1, 2, 6: mean 3, variance (4 + 1 + 9) / 2 = 7. A group of equals is left at 0, not at 0 / 0.
    found = grpo(torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0]), 3, eps=0.0)
    torch.testing.assert_close(found[:3], torch.tensor([-2.0, -1.0, 3.0]) / 7**0.5)
    assert grpo(torch.tensor([5.0, 5.0]), 2).tolist() == [0.0, 0.0]


def test_reward_to_go_literals() -> None:
    # gamma 1/2: 4; 2 + 4/2 = 4; 1 + 4/2 = 3. The second row ends after two tokens: 2; 1 + 2/2 = 2.
    rewards = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 9.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    assert reward_to_go(rewards, mask, 0.5).tolist() == [[3.0, 4.0, 4.0], [2.0, 2.0, 0.0]]
