"""Log-probabilities, entropy, and sampling by inverse CDF."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from rlhf.ops.logprobs import entropy, filtered, linear_logprobs, sample_inverse_cdf, token_logprobs

BELOW_ONE = 1 - 2**-24  # the largest float32 below 1, which torch.rand can give


def test_token_logprobs_literals() -> None:
    # Logits log 1, log 2, log 5 have probabilities 1/8, 2/8, 5/8.
    logits = torch.tensor([[1.0, 2.0, 5.0], [5.0, 1.0, 2.0]]).log()
    found = token_logprobs(logits, torch.tensor([2, 2]))
    assert found.tolist() == pytest.approx([math.log(5 / 8), math.log(2 / 8)])


def test_temperature_divides_the_logits() -> None:
    # At temperature 1/2 the weights are squared: 1, 4, 25 of 30. At 2 they are rooted: 1, 2, 3 of 6 from 1, 4, 9.
    cold = token_logprobs(torch.tensor([1.0, 2.0, 5.0]).log(), torch.tensor(1), temperature=0.5)
    assert cold.item() == pytest.approx(math.log(4 / 30))
    warm = token_logprobs(torch.tensor([1.0, 4.0, 9.0]).log(), torch.tensor(2), temperature=2.0)
    assert warm.item() == pytest.approx(math.log(1 / 2))


def test_any_leading_shape_and_a_16_bit_input() -> None:
    logits = torch.zeros(2, 3, 4, dtype=torch.bfloat16)
    found = token_logprobs(logits, torch.zeros(2, 3, dtype=torch.int64))
    assert found.shape == (2, 3)
    assert found.dtype == torch.float32
    assert torch.allclose(found, torch.tensor(-math.log(4)))


def test_huge_logits_stay_finite() -> None:
    found = token_logprobs(torch.tensor([[1e5, 0.0]]), torch.tensor([1]))
    assert found.item() == -1e5


def test_the_gradient_is_one_hot_minus_the_probabilities() -> None:
    logits = torch.tensor([1.0, 2.0, 5.0]).log().requires_grad_()
    token_logprobs(logits, torch.tensor(1)).backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx([-1 / 8, 1 - 2 / 8, -5 / 8])


def test_entropy_literals() -> None:
    # Four equal ones: log 4. Probabilities 1/2, 1/4, 1/4: (1/2) log 2 + (1/2) log 4 = 1.5 log 2.
    logits = torch.tensor([[1.0, 1.0, 1.0, 1.0], [2.0, 1.0, 1.0, 1e-30]]).log()
    assert entropy(logits).tolist() == pytest.approx([math.log(4), 1.5 * math.log(2)])


def test_entropy_at_a_temperature() -> None:
    # Weights 4, 1 at temperature 2 are 2, 1: probabilities 2/3, 1/3.
    expected = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    assert entropy(torch.tensor([4.0, 1.0]).log(), temperature=2.0).item() == pytest.approx(expected)


def test_sampling_follows_the_distribution() -> None:
    # Of 1,000 evenly spaced uniforms, each token gets its probability's share.
    probs = torch.tensor([0.1, 0.0, 0.25, 0.05, 0.6, 0.0])
    uniforms = (torch.arange(1000) + 0.5) / 1000
    tokens = sample_inverse_cdf(probs.expand(1000, 6), uniforms)
    assert tokens.bincount(minlength=6).tolist() == [100, 0, 250, 50, 600, 0]


def test_each_row_has_its_own_distribution_and_uniform() -> None:
    probs = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.0, 0.0, 1.0]])
    assert sample_inverse_cdf(probs, torch.tensor([0.75, 0.25, 0.0])).tolist() == [1, 1, 2]


@pytest.mark.parametrize("uniform", [0.0, 0.5, BELOW_ONE, 1.0])  # 1.0: a float64 rounded up
def test_no_token_of_probability_zero_at_either_end(uniform: float) -> None:
    probs = torch.tensor([[0.0, 0.0, 0.3, 0.7, 0.0, 0.0]])
    assert sample_inverse_cdf(probs, torch.tensor([uniform])).item() in (2, 3)


def test_rows_that_sum_to_a_little_less_or_more_than_one() -> None:
    probs = torch.tensor([[0.0, 0.499, 0.5, 0.0], [0.0, 0.501, 0.501, 0.0]])
    assert sample_inverse_cdf(probs, torch.full((2,), BELOW_ONE)).tolist() == [2, 2]
    assert sample_inverse_cdf(probs, torch.zeros(2)).tolist() == [1, 1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1, exclude_max=True, width=32), st.integers(1, 3000))
def test_never_a_token_of_probability_zero(seed: int, uniform: float, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, size, generator=generator) * 4
    hidden = torch.rand(1, size, generator=generator) < 0.7
    hidden[0, int(torch.randint(size, (1,), generator=generator))] = False
    probs = torch.softmax(logits.masked_fill(hidden, -math.inf), dim=-1)
    token = sample_inverse_cdf(probs, torch.tensor([uniform])).item()
    assert probs[0, int(token)].item() > 0


def linear_case(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states (7, 5) that need a gradient, an output layer (11, 5) with its bias, and tokens (7)."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(7, 5, generator=generator, dtype=dtype).requires_grad_()
    weight, bias = torch.randn(11, 5, generator=generator, dtype=dtype), torch.randn(11, dtype=dtype)
    return hidden, weight, bias, torch.randint(0, 11, (7,), generator=generator)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_the_output_layer_in_chunks_agrees_with_whole_logits(
    monkeypatch: pytest.MonkeyPatch, rows: int, with_entropy: bool, temperature: float
) -> None:
    """Values and gradients, whatever the size of a chunk, against autograd through logits that are all there."""
    monkeypatch.setattr("rlhf.ops.logprobs._chunk_rows", lambda _weight: rows)
    hidden, weight, bias, tokens = linear_case()
    found, spread = linear_logprobs(hidden, weight, tokens, temperature, bias=bias, with_entropy=with_entropy)
    weights = torch.linspace(-1.0, 2.0, 7)  # another gradient for every row
    total = (found * weights).sum() if spread is None else (found * weights + spread * weights.flip(0)).sum()
    (gradient,) = torch.autograd.grad(total, hidden)

    logits = hidden @ weight.T + bias
    expected = token_logprobs(logits, tokens, temperature)
    expected_total = (expected * weights).sum()
    assert (spread is None) is not with_entropy
    if spread is not None:
        expected_total = expected_total + (entropy(logits, temperature) * weights.flip(0)).sum()
        torch.testing.assert_close(spread, entropy(logits, temperature), atol=1e-5, rtol=0)
    (expected_gradient,) = torch.autograd.grad(expected_total, hidden)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-5, rtol=0)


def test_the_output_layer_without_gradients_and_with_a_token_ruled_out() -> None:
    # Weights 1, 2, 5 of 8; the last token has no probability: 0 log 0 counts as 0.
    weight, bias = torch.zeros(4, 2), torch.tensor([1.0, 2.0, 5.0, 0.0]).log()
    found, spread = linear_logprobs(torch.ones(1, 2), weight, torch.tensor([2]), bias=bias, with_entropy=True)
    assert spread is not None
    assert not found.requires_grad
    assert found.tolist() == pytest.approx([math.log(5 / 8)])
    assert spread.tolist() == pytest.approx([math.log(8) - (2 * math.log(2) + 5 * math.log(5)) / 8])


@pytest.mark.parametrize("with_entropy", [False, True])
def test_a_large_vocabulary_is_never_held_for_all_tokens(with_entropy: bool) -> None:
    """150k words by 256 tokens would be 38 million numbers; no tensor is a fifth of that, forward or backward."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            for made in result if isinstance(result, tuple | list) else [result]:
                largest = max(largest, made.numel() if isinstance(made, torch.Tensor) else 0)
            return result

    hidden, weight = torch.randn(256, 8, requires_grad=True), torch.randn(150_000, 8)
    tokens = torch.randint(0, 150_000, (256,))
    with Watch():
        found, spread = linear_logprobs(hidden, weight, tokens, with_entropy=with_entropy)
        (found.sum() if spread is None else found.sum() + spread.sum()).backward()
    assert 150_000 * 20 < largest < 256 * 150_000 / 5


def test_top_k_keeps_the_likeliest() -> None:
    logits = torch.tensor([[1.0, 2.0, 5.0, 4.0]]).log()
    kept = filtered(logits, 2, None)
    assert kept.exp().tolist() == [pytest.approx([0.0, 0.0, 5.0, 4.0])]
    assert torch.equal(filtered(logits, 4, None), logits)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.39, [2]), (0.41, [2, 3]), (0.74, [2, 3]), (0.76, [1, 2, 3]), (0.99, [0, 1, 2, 3])]
)
def test_the_nucleus_is_the_fewest_tokens_that_hold_top_p(top_p: float, kept: list[int]) -> None:
    # Probabilities 0.1, 0.15, 0.4, 0.35: the likeliest hold 0.4, 0.75, 0.9, 1.
    found = filtered(torch.tensor([[0.1, 0.15, 0.4, 0.35]]).log(), None, top_p)
    assert found[0].isfinite().nonzero().squeeze(1).tolist() == kept


def test_the_nucleus_is_taken_of_what_top_k_left() -> None:
    # Of 0.4 and 0.35 alone the first holds 0.533.
    found = filtered(torch.tensor([[0.1, 0.15, 0.4, 0.35]]).log(), 2, 0.5)
    assert found[0].isfinite().nonzero().squeeze(1).tolist() == [2]


@pytest.mark.parametrize("rows", [2, 100])
def test_logprobs_over_the_allowed_tokens_alone(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Values and gradients against whole logits with minus infinity everywhere else."""
    monkeypatch.setattr("rlhf.ops.logprobs._chunk_rows", lambda _weight: rows)
    hidden, weight, bias, tokens = linear_case()
    allowed = [torch.unique(torch.cat([t[None], torch.arange(i % 4)])).int() for i, t in enumerate(tokens)]
    assert {len(ids) for ids in allowed} >= {1, 3}
    found, spread = linear_logprobs(hidden, weight, tokens, 0.7, bias=bias, with_entropy=True, allowed=allowed)
    assert spread is not None
    (gradient,) = torch.autograd.grad((found * torch.arange(7)).sum() + spread.sum(), hidden)

    ruled_out = torch.ones(7, 11, dtype=torch.bool)
    for row, ids in enumerate(allowed):
        ruled_out[row, ids.long()] = False
    logits = (hidden @ weight.T + bias).masked_fill(ruled_out, -1e9)
    expected, expected_spread = token_logprobs(logits, tokens, 0.7), entropy(logits, 0.7)
    (expected_gradient,) = torch.autograd.grad((expected * torch.arange(7)).sum() + expected_spread.sum(), hidden)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(spread, expected_spread, atol=1e-5, rtol=0)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-5, rtol=1e-4)
