"""Sampling and its logprobs, held against plain forwards of one unpadded sequence at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_ppo_setup import TEXTS, by_hand, chat, make_base
from torch import Tensor

from rlhf.data.encoding import Encoder
from rlhf.model.base import SharedBase
from rlhf.ppo.rollout import Rollout, forward_responses, response_logprobs, sample

NEW = 12


@pytest.fixture(scope="module")
def base(tiny_model_dir: Path) -> SharedBase:
    return make_base(tiny_model_dir)


def encoded(base: SharedBase) -> list[list[int]]:
    encoder = Encoder(base.tokenizer)
    return [encoder.prompt(chat(text)) for text in TEXTS]


def rollout(base: SharedBase, seed: int = 5, **changes: Any) -> Rollout:
    how = {"max_new_tokens": NEW, "temperature": 1.0, "batch_size": 64, **changes}
    return sample(base, "policy", encoded(base), generator=torch.Generator().manual_seed(seed), **how)


def plain_logits(base: SharedBase, adapter: str, ids: list[int]) -> Tensor:
    """All logits `(T, V)` of one sequence, through PEFT's own forward: no padding, no cache, nothing of ours."""
    with base.active(adapter):
        return base.peft_model(input_ids=torch.tensor([ids])).logits[0].float()


def naive_logprobs(base: SharedBase, prompt: list[int], response: list[int], temperature: float) -> Tensor:
    """The token at position p by the logits at p - 1, written out."""
    logits = plain_logits(base, "policy", prompt + response) / temperature
    rows = [torch.log_softmax(logits[len(prompt) + t - 1], dim=-1)[token] for t, token in enumerate(response)]
    return torch.stack(rows)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_left_padding_and_the_cache_change_no_logprob(base: SharedBase, temperature: float) -> None:
    assert len({len(p) for p in encoded(base)}) > 4
    out = rollout(base, temperature=temperature)
    for i, (prompt, response) in enumerate(zip(out.prompts, out.responses, strict=True)):
        expected = naive_logprobs(base, prompt, response, temperature)
        torch.testing.assert_close(out.logprobs[i, : len(response)], expected, atol=1e-5, rtol=0)


def test_entropies_are_those_of_the_plain_forward(base: SharedBase) -> None:
    out = rollout(base)
    prompt, response = out.prompts[1], out.responses[1]
    p = torch.softmax(plain_logits(base, "policy", prompt + response)[len(prompt) - 1], dim=-1)
    assert out.entropies[1, 0].item() == pytest.approx(-(p * p.log()).sum().item(), abs=1e-5)
    assert torch.equal(out.entropies == 0, ~out.response_mask)


def test_tokens_are_the_inverse_cdf_of_the_generators_uniforms(base: SharedBase) -> None:
    """Every step by hand, one prompt alone: the first token at which the cumulative probability passes u."""
    prompt = encoded(base)[3]
    out = sample(
        base, "policy", [prompt], max_new_tokens=NEW, temperature=1.0, generator=torch.Generator().manual_seed(11)
    )
    uniforms = torch.rand((1, NEW), generator=torch.Generator().manual_seed(11))[0]
    expected: list[int] = []
    for u in uniforms:
        cdf = torch.softmax(plain_logits(base, "policy", prompt + expected)[-1], dim=-1).cumsum(0)
        expected.append(int((cdf <= u * cdf[-1]).sum()))
        if expected[-1] == base.tokenizer.eos_token_id:
            break
    assert out.responses == [expected]


def test_the_same_generator_gives_the_same_responses_and_another_gives_others(base: SharedBase) -> None:
    first, again, other = rollout(base, seed=5), rollout(base, seed=5), rollout(base, seed=6)
    assert first.responses == again.responses
    assert torch.equal(first.logprobs, again.logprobs)
    assert first.responses != other.responses


def test_finished_rows_leave_the_batch(base: SharedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    step = base.decode_step

    def counted(ids: Tensor, *rest: Any) -> Tensor:
        sizes.append(len(ids))
        return step(ids, *rest)

    monkeypatch.setattr(base, "decode_step", counted)
    out = rollout(base)
    lengths = [len(r) for r in out.responses]
    assert len(set(lengths)) > 2, "the seed must end rows at different steps"
    assert sizes == [sum(n > t for n in lengths) for t in range(max(lengths))]


def test_masks_flags_and_lengths_say_what_happened(base: SharedBase) -> None:
    out = rollout(base)
    eos = base.tokenizer.eos_token_id
    assert 0 < out.finished.sum() < len(out.responses), "the seed must give both kinds"
    for i, response in enumerate(out.responses):
        assert eos not in response[:-1]
        assert bool(out.finished[i]) == (response[-1] == eos)
        if not out.finished[i]:
            assert len(response) == NEW
        width = out.response_mask.shape[1]
        assert out.response_mask[i].tolist() == [t < len(response) for t in range(width)]
    assert out.lengths.tolist() == [len(r) for r in out.responses]
    assert torch.equal(out.logprobs == 0, ~out.response_mask)
    assert out.prompts == encoded(base)


def test_a_response_cut_off_is_not_finished(base: SharedBase) -> None:
    out = rollout(base, max_new_tokens=1)
    eos = base.tokenizer.eos_token_id
    assert out.lengths.tolist() == [1] * len(TEXTS)
    assert out.finished.tolist() == [r == [eos] for r in out.responses]
    assert not out.finished.all()


def test_logprobs_at_sampling_are_those_of_the_training_forward(base: SharedBase) -> None:
    out = rollout(base)
    again = response_logprobs(base, "policy", out, temperature=1.0)
    torch.testing.assert_close(out.logprobs, again, atol=1e-5, rtol=0)


def test_each_token_is_predicted_by_the_state_before_it(base: SharedBase) -> None:
    made = by_hand(base, (5, 1, 9, 3))
    with base.active("policy"):
        out = forward_responses(base, made.prompts, made.responses)
        logprobs, _ = base.token_logprobs(out.hidden, out.tokens, 1.3)
    table = out.scatter(logprobs, made.logprobs)
    assert out.index.tolist() == [
        [0] * 5 + [1] + [2] * 9 + [3] * 3,
        [0, 1, 2, 3, 4, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2],
    ]
    for i, (prompt, response) in enumerate(zip(made.prompts, made.responses, strict=True)):
        expected = naive_logprobs(base, prompt, response, 1.3)
        torch.testing.assert_close(table[i, : len(response)], expected, atol=1e-5, rtol=0)
        assert (table[i, len(response) :] == 0).all()


def test_the_value_is_read_where_the_token_is_predicted(base: SharedBase) -> None:
    made = by_hand(base, (4, 2))
    with base.active("policy"):
        out = forward_responses(base, made.prompts, made.responses)
        alone = base.hidden(
            torch.tensor([made.prompts[1] + made.responses[1]]), torch.ones(1, len(made.prompts[1]) + 2)
        )
    last_of_prompt = len(made.prompts[1]) - 1
    torch.testing.assert_close(out.hidden[4:], alone[0, last_of_prompt : last_of_prompt + 2], atol=1e-5, rtol=0)


def test_nf4_in_bf16_stays_near_its_own_training_forward(tiny_model_dir: Path) -> None:
    """Cached decoding rounds differently in bf16: hundredths, not tenths."""
    base = make_base(tiny_model_dir, quantization="nf4", compute_dtype="bf16")
    out = rollout(base)
    again = response_logprobs(base, "policy", out, temperature=1.0)
    gap = (out.logprobs - again).abs()[out.response_mask]
    assert gap.mean() < 0.1
