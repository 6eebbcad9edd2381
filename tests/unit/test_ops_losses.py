"""PPO's clipped losses, against worked numbers."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf.ops.losses import policy_loss, value_loss

ONE = torch.ones(1, 1, dtype=torch.bool)


def _policy(ratio: float, advantage: float, clip: float = 0.2) -> tuple[float, int, float]:
    """Loss, clipped tokens, and the gradient with respect to the new logprob, of one token."""
    new = torch.tensor([[math.log(ratio) - 1.0]], requires_grad=True)
    loss, _, clipped = policy_loss(new, torch.tensor([[-1.0]]), torch.tensor([[advantage]]), ONE, clip)
    loss.backward()
    assert new.grad is not None
    return loss.item(), int(clipped.item()), new.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped", "gradient"),
    [
        (1.0, 2.0, -2.0, 0, -2.0),  # -A r; its gradient with respect to the logprob is -A r too
        (1.1, 2.0, -2.2, 0, -2.2),  # inside the range
        (1.5, 2.0, -2.4, 1, 0.0),  # a good token already likelier than 1.2: -1.2 * 2, and nothing more to gain
        (1.5, -2.0, 3.0, 0, 3.0),  # a bad token that became likelier: pushed back in full
        (0.5, -2.0, 1.6, 1, 0.0),  # a bad token already rarer than 0.8: 0.8 * 2
        (0.5, 2.0, -1.0, 0, -1.0),  # a good token that became rarer: pulled back in full
    ],
)
def test_policy_loss_of_one_token(ratio: float, advantage: float, loss: float, clipped: int, gradient: float) -> None:
    found_loss, found_clipped, found_gradient = _policy(ratio, advantage)
    assert found_loss == pytest.approx(loss, rel=1e-6)
    assert found_clipped == clipped
    assert found_gradient == pytest.approx(gradient, rel=1e-6)


def test_policy_loss_sums_over_the_mask_and_counts_there() -> None:
    # Ratios 1.5, 0.5, (masked 1.5); advantages 1, -1, 1; eps 0.2: -1.2 + 0.8 = -0.4, both clipped, the third not seen.
    new = torch.tensor([[1.5, 0.5, 1.5]]).log()
    advantages, mask = torch.tensor([[1.0, -1.0, 1.0]]), torch.tensor([[True, True, False]])
    loss, ratio, clipped = policy_loss(new, torch.zeros(1, 3), advantages, mask, 0.2)
    assert loss.item() == pytest.approx(-0.4)
    assert ratio.tolist() == [pytest.approx([1.5, 0.5, 1.0])]
    assert int(clipped.item()) == 2


def test_what_lies_outside_the_mask_reaches_neither_loss_nor_gradient() -> None:
    new = torch.tensor([[-1.0, float("inf")]], requires_grad=True)
    mask = torch.tensor([[True, False]])
    loss, ratio, _ = policy_loss(new, torch.tensor([[-1.0, 0.0]]), torch.tensor([[3.0, 5.0]]), mask, 0.2)
    loss.backward()
    assert loss.item() == -3.0
    assert ratio.tolist() == [[1.0, 1.0]]
    assert new.grad is not None
    assert new.grad.tolist() == [[-3.0, 0.0]]
    assert not ratio.requires_grad


@pytest.mark.parametrize(
    ("new", "old", "target", "loss", "clipped"),
    [
        (1.0, 1.0, 3.0, 2.0, 0),  # (1 - 3)^2 / 2
        (1.1, 1.0, 3.0, 1.805, 0),  # inside the range: 1.9^2 / 2
        (2.0, 1.0, 3.0, 1.62, 1),  # moved too far towards the target: as if at 1.2, 1.8^2 / 2
        (0.0, 1.0, -1.0, 1.62, 1),  # the same downwards: as if at 0.8, 1.8^2 / 2
        (2.0, 1.0, 0.0, 2.0, 0),  # moved away from the target: the plain error 2^2 / 2 is the larger
    ],
)
def test_value_loss_of_one_token(new: float, old: float, target: float, loss: float, clipped: int) -> None:
    tensors = [torch.tensor([[x]]) for x in (new, old, target)]
    found, count = value_loss(*tensors, ONE, 0.2)
    assert found.item() == pytest.approx(loss, rel=1e-6)
    assert int(count.item()) == clipped


def test_value_loss_sums_over_the_mask() -> None:
    # Errors 2 and 1, a third one masked: (4 + 1) / 2.
    new, target = torch.tensor([[2.0, 1.0, 9.0]]), torch.zeros(1, 3)
    loss, count = value_loss(new, new, target, torch.tensor([[True, True, False]]), 0.2)
    assert loss.item() == 2.5
    assert int(count.item()) == 0


def test_a_clipped_value_gets_no_gradient() -> None:
    new = torch.tensor([[2.0, 1.1]], requires_grad=True)
    loss, _ = value_loss(new, torch.ones(1, 2), torch.full((1, 2), 3.0), torch.ones(1, 2, dtype=torch.bool), 0.2)
    loss.backward()
    assert new.grad is not None
    assert new.grad.tolist() == [pytest.approx([0.0, -1.9])]  # d/dv of (v - 3)^2 / 2 at 1.1


def test_micro_batches_add_up_to_the_whole() -> None:
    generator = torch.Generator().manual_seed(3)
    new, old, other = (torch.randn(4, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    mask = torch.arange(5) < torch.tensor([[5], [1], [3], [4]])
    whole_policy, _, whole_count = policy_loss(new, old, other, mask, 0.2)
    whole_value, _ = value_loss(new, old, other, mask, 0.2)
    parts = [slice(0, 1), slice(1, 4)]
    policy = [policy_loss(new[s], old[s], other[s], mask[s], 0.2) for s in parts]
    value = [value_loss(new[s], old[s], other[s], mask[s], 0.2) for s in parts]
    assert sum(p[0].item() for p in policy) == pytest.approx(whole_policy.item(), abs=1e-12)
    assert sum(int(p[2].item()) for p in policy) == int(whole_count.item()) > 0
    assert sum(v[0].item() for v in value) == pytest.approx(whole_value.item(), abs=1e-12)
