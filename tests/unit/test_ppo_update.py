"""One update: exact at step 0, blind to padding and batching, and touching the policy and its critic alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from test_ppo_setup import (
    LENGTHS,
    by_hand,
    even_tokens,
    head_critic,
    make_base,
    make_trainer,
    same,
    short,
    stir,
    weights,
)
from torch import Tensor

from rlhf.data.encoding import Encoder
from rlhf.errors import TrainingError
from rlhf.model.base import SharedBase
from rlhf.ops import advantages
from rlhf.ppo import update
from rlhf.ppo.control import LengthController, ScoreNormalizer
from rlhf.ppo.metrics import check
from rlhf.ppo.rewards import shaped_scores
from rlhf.ppo.roles import VALUE
from rlhf.ppo.rollout import Rollout, response_logprobs
from rlhf.ppo.scoring import load_judge
from rlhf.ppo.update import Batch, Learner, clipped_update

PRECISIONS = {"fp32": {}, "nf4": {"quantization": "nf4", "compute_dtype": "bf16"}}


@pytest.fixture
def base(tiny_model_dir: Path) -> SharedBase:
    return make_base(tiny_model_dir)


# --- step 0 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
def test_at_step_0_kl_is_exactly_0_and_the_ratio_exactly_1(
    tiny_model_dir: Path, precision: str, ratios: list[Tensor]
) -> None:
    base = make_base(tiny_model_dir, **PRECISIONS[precision])
    metrics = make_trainer(base, short()).step()
    assert (metrics["kl"], metrics["kl_k2"], metrics["kl_k3"]) == (0.0, 0.0, 0.0)
    assert torch.equal(ratios[0], torch.ones_like(ratios[0]))
    assert not torch.equal(ratios[-1], torch.ones_like(ratios[-1])), "the second pass must see a moved policy"


def test_at_step_0_smaller_micro_batches_leave_the_ratio_at_1(base: SharedBase, ratios: list[Tensor]) -> None:
    make_trainer(base, short(micro_batch_size=2)).step()
    for ratio in ratios[:4]:
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_raw_base_is_another_reference(tiny_model_dir: Path, precision: str) -> None:
    """What makes the test above mean something: against the base without any adapter the KL is far from 0."""
    base = make_base(tiny_model_dir, **PRECISIONS[precision])
    rollout, _ = make_trainer(base, short())._sample("policy", 8)
    of = {name: response_logprobs(base, name, rollout, temperature=1.0) for name in ("policy", "sft", None)}
    assert torch.equal(of["policy"], of["sft"])
    assert (of["policy"] - of[None]).sum(1).abs().mean() > 0.1


def test_the_kl_is_what_the_policy_moved_from_sft(base: SharedBase) -> None:
    """A policy of other weights: the reported KL is the sum of k1, its mean over the responses, by plain forwards."""
    stir(base, "policy", 7)
    trainer = make_trainer(base, short(ppo_epochs=1, learning_rate=1e-9))
    seen: list[Rollout] = []
    real = trainer._sample
    trainer._sample = lambda *a: (lambda out: (seen.append(out[0]), out)[1])(real(*a))  # type: ignore[method-assign]
    kl = trainer.step()["kl"]
    total = 0.0
    for prompt, response in zip(seen[0].prompts, seen[0].responses, strict=True):
        logp = {}
        for name in ("policy", "sft"):
            with base.active(name):
                logits = base.peft_model(input_ids=torch.tensor([prompt + response])).logits[0].float()
            rows = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
            logp[name] = rows[torch.arange(len(response)), torch.tensor(response)].sum().item()
        total += logp["policy"] - logp["sft"]
    assert kl == pytest.approx(total / 8, abs=1e-4)
    assert abs(kl) > 0.1


# --- batching and padding change nothing -------------------------------------------------------------------------


def learn(
    base: SharedBase,
    rollout: Rollout,
    *,
    advantages: Tensor | None = None,
    returns: Tensor | None = None,
    values: Tensor | None = None,
    **changes: Any,
) -> tuple[list[Tensor], dict[str, float]]:
    """Gradients of the whole batch's loss, per token (adapter, then critic), and metrics; the rate is 0."""
    size = len(rollout.responses)
    section = short(
        **{
            "rollout_batch_size": size,
            "mini_batch_size": size,
            "micro_batch_size": size,
            "ppo_epochs": 1,
            "max_grad_norm": 1e9,
            **changes,
        }
    )
    critic = head_critic(base, section)
    parameters = [*base.adapter_parameters("policy"), critic.weight]
    generator = torch.Generator().manual_seed(3)
    shape = rollout.logprobs.shape
    made = [torch.randn(shape, generator=generator) for _ in range(3)]
    batch = Batch(
        rollout,
        logprobs=rollout.logprobs,
        ref_logprobs=rollout.logprobs,
        values=made[0] if values is None else values,
        advantages=made[1] if advantages is None else advantages,
        returns=made[2] if returns is None else returns,
    )
    optimizer, order = torch.optim.SGD(parameters, lr=0.0), torch.Generator().manual_seed(0)
    learner = Learner(base, section, optimizer, Accelerator(cpu=True), order, critic)
    metrics = clipped_update(learner, batch, lambda: None)
    return [p.grad.clone() for p in parameters], metrics


def gradients(base: SharedBase, rollout: Rollout, **how: Any) -> list[Tensor]:
    return learn(base, rollout, **how)[0]


@pytest.fixture
def with_critic(base: SharedBase) -> SharedBase:
    base.add_head(VALUE).weight.data.normal_(generator=torch.Generator().manual_seed(4))
    return base


def close(a: list[Tensor], b: list[Tensor], atol: float = 1e-5) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, atol=atol, rtol=1e-4)


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_micro_batches_add_up_to_the_same_gradient(with_critic: SharedBase, micro: int) -> None:
    rollout = by_hand(with_critic, LENGTHS)
    whole = gradients(with_critic, rollout, value_trunk_gradient=True, entropy_coef=0.1)
    parts = gradients(with_critic, rollout, value_trunk_gradient=True, entropy_coef=0.1, micro_batch_size=micro)
    assert max(float(g.abs().max()) for g in whole) > 1e-2
    close(whole, parts)


def widened(rollout: Rollout, by: int) -> tuple[Rollout, Callable[[Tensor, float], Tensor]]:
    """The same responses in wider tensors, and a function that fills everything outside the mask with a number."""
    mask = torch.nn.functional.pad(rollout.response_mask, (0, by))
    out = Rollout(
        rollout.prompts,
        rollout.responses,
        torch.nn.functional.pad(rollout.logprobs, (0, by)),
        torch.nn.functional.pad(rollout.entropies, (0, by)),
        mask,
        rollout.finished,
    )
    return out, lambda x, number: torch.where(mask, torch.nn.functional.pad(x, (0, mask.shape[1] - x.shape[1])), number)


@pytest.mark.parametrize("junk", [50.0, -50.0, float("nan")])
def test_nothing_outside_the_response_mask_counts(with_critic: SharedBase, junk: float) -> None:
    rollout = by_hand(with_critic, LENGTHS)
    generator = torch.Generator().manual_seed(8)
    tensors = {k: torch.randn(rollout.logprobs.shape, generator=generator) for k in ("advantages", "returns", "values")}
    clean, told = learn(with_critic, rollout, **tensors)
    wide, fill = widened(rollout, 3)
    wide.logprobs = fill(wide.logprobs, junk)
    dirty, told_again = learn(with_critic, wide, **{k: fill(v, junk) for k, v in tensors.items()})
    close(clean, dirty, atol=1e-6)
    assert told_again == pytest.approx(told, rel=1e-5)


def test_which_token_pads_does_not_matter(with_critic: SharedBase) -> None:
    rollout = by_hand(with_critic, LENGTHS)
    before = gradients(with_critic, rollout)
    pad = with_critic.tokenizer.pad_token_id
    with_critic.tokenizer.pad_token = "<|im_start|>"
    assert with_critic.tokenizer.pad_token_id != pad
    close(before, gradients(with_critic, rollout), atol=1e-6)


def test_a_longer_neighbour_without_an_advantage_adds_nothing(with_critic: SharedBase) -> None:
    """Losses are sums over tokens divided by the batch's count: gradient times count stays what it was."""
    both = by_hand(with_critic, (3, 12))
    alone = Rollout(
        both.prompts[:1],
        both.responses[:1],
        both.logprobs[:1, :3],
        both.entropies[:1, :3],
        both.response_mask[:1, :3],
        both.finished[:1],
    )
    advantages = torch.zeros(2, 12)
    advantages[0, :3] = torch.tensor([1.0, -2.0, 0.5])
    zeros = torch.zeros(2, 12)
    wide = gradients(with_critic, both, advantages=advantages, vf_coef=0, values=zeros, returns=zeros)
    narrow = gradients(
        with_critic, alone, advantages=advantages[:1, :3], vf_coef=0, values=zeros[:1, :3], returns=zeros[:1, :3]
    )
    assert max(float(g.abs().max()) for g in narrow) > 1e-2
    close([g * 15 for g in wide], [g * 3 for g in narrow], atol=1e-4)


def test_mini_batches_cover_every_response_once_an_epoch(
    with_critic: SharedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = update._policy_loss

    def recorded(learner: Any, batch: Any, rows: list[int], totals: Any) -> Any:
        seen.extend(rows)
        return real(learner, batch, rows, totals)

    monkeypatch.setattr(update, "_policy_loss", recorded)
    gradients(with_critic, by_hand(with_critic, LENGTHS), mini_batch_size=4, micro_batch_size=2, ppo_epochs=2)
    assert sorted(seen[:8]) == sorted(seen[8:]) == list(range(8))
    assert seen[:8] != seen[8:]


# --- who learns --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reaches", [False, True])
def test_the_value_loss_reaches_the_trunk_only_where_asked(with_critic: SharedBase, reaches: bool) -> None:
    rollout = by_hand(with_critic, LENGTHS)
    none = torch.zeros_like(rollout.logprobs)
    *adapter, head = gradients(with_critic, rollout, advantages=none, vf_coef=1.0, value_trunk_gradient=reaches)
    assert head.abs().max() > 1e-2
    moved = max(float(g.abs().max()) for g in adapter)
    assert moved > 1e-3 if reaches else moved == 0.0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_training_changes_the_policy_and_its_critic_alone(tiny_model_dir: Path, precision: str) -> None:
    base = make_base(tiny_model_dir, **PRECISIONS[precision])
    before = {name: weights(base, name) for name in base.adapters}
    sha = base.sha256()
    trainer = make_trainer(base, short(), load_judge("adapter:reward", base, Encoder(base.tokenizer)))
    for _ in range(2):
        trainer.step()
    assert same(weights(base, "sft"), before["sft"])
    assert same(weights(base, "reward"), before["reward"])
    assert base.sha256() == sha
    assert not any(torch.equal(a, b) for a, b in zip(weights(base, "policy"), before["policy"], strict=True))
    assert base.heads[VALUE].weight.abs().max() > 0
    assert not any(p.requires_grad for name in base.adapters for p in base.adapter_parameters(name))


def test_target_kl_ends_a_rounds_epochs(tiny_model_dir: Path) -> None:
    steps = {}
    for target in (None, 1e-9, 1e9):
        base = make_base(tiny_model_dir)
        section = short(ppo_epochs=5, mini_batch_size=4, micro_batch_size=4, warmup_fraction=0, target_kl=target)
        steps[target] = make_trainer(base, section).step()["steps"]
    assert steps == {None: 10, 1e-9: 2, 1e9: 10}


# --- rewards -----------------------------------------------------------------------------------------------------


def test_the_score_lies_on_the_last_response_token(base: SharedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """At step 0 there is no KL, so the rewards are the shaped score at the last token and 0 everywhere else."""
    seen: list[tuple[Tensor, Tensor]] = []
    real = advantages.gae

    def recorded(rewards: Tensor, values: Tensor, mask: Tensor, *rest: float) -> Any:
        seen.append((rewards.clone(), mask))
        return real(rewards, values, mask, *rest)

    section = short(value_warmup_epochs=0, missing_eos="none")
    trainer = make_trainer(base, section, lambda p, i, r: torch.full((len(r),), 3.0), prepare=False)
    trainer.normalizer, trainer.length = ScoreNormalizer(1.0, 4.0, 5.0), LengthController(section.length, 6.0)
    monkeypatch.setattr(advantages, "gae", recorded)
    trainer.step()
    rewards, mask = seen[-1]
    lengths = mask.sum(1)
    expected = torch.zeros_like(rewards)
    expected[torch.arange(8), lengths - 1] = 0.5
    assert torch.equal(rewards, expected)


def test_kl_is_taken_off_token_by_token(base: SharedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    """A moved policy and a judge of zeros: what is left of the rewards is -0.5 times the log ratio."""
    stir(base, "policy", 7)
    seen: list[Tensor] = []
    real = advantages.gae

    def recorded(rewards: Tensor, *rest: Any) -> Any:
        seen.append(rewards.clone())
        return real(rewards, *rest)

    monkeypatch.setattr(advantages, "gae", recorded)
    section = short(kl={"coef": 0.5}, missing_eos="none")
    trainer = make_trainer(base, section, lambda p, i, r: torch.zeros(len(r)), prepare=False)
    trainer.normalizer, trainer.length = ScoreNormalizer(0.0, 1.0, 5.0), LengthController(section.length, 6.0)
    metrics = trainer.step()
    assert seen[-1].sum(1).mean().item() == pytest.approx(-0.5 * metrics["kl"], abs=1e-5)
    assert abs(metrics["kl"]) > 0.1


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [("score", -1.0, [1.0, -1.0]), ("penalty", -0.75, [1.0, 0.25]), ("none", -1.0, [1.0, 1.0])],
)
def test_rules_for_a_response_without_an_end(base: SharedBase, rule: str, value: float, expected: list[float]) -> None:
    trainer = make_trainer(base, short(missing_eos=rule, missing_eos_value=value), prepare=False)
    trainer.normalizer = ScoreNormalizer(mean=2.0, std=0.5, clip=5.0)
    trainer.length = LengthController(trainer.section.length, target=4.0)
    rollout = by_hand(base, (3, 6))
    rollout.finished = torch.tensor([True, False])
    scores, no_kl = torch.tensor([2.5, 2.5]), torch.zeros(2)

    def shaped() -> list[float]:
        assert trainer.normalizer is not None and trainer.length is not None
        return shaped_scores(
            trainer.section, trainer.normalizer, trainer.length, scores, rollout, no_kl, trainer.gather
        ).tolist()

    assert shaped() == expected
    trainer.length.coef = 0.5  # + 0.5 (3 - 4) / 4 and + 0.5 (6 - 4) / 4
    longer = shaped()
    cut_off = expected[1] + (0.0 if rule == "score" else 0.25)  # a fixed score stays what the config says
    assert longer == pytest.approx([expected[0] - 0.125, cut_off])


def test_levelling_takes_off_what_a_token_was_worth(base: SharedBase) -> None:
    """Scores that are 3 a token of length, less a KL of 1 a token: at slope 2 a token every response is worth 9.

    The response cut off (length 8) is left out of the line and keeps its own score.
    """
    section = short(missing_eos="none", length={"level": True}, score_clip=100.0)
    trainer = make_trainer(base, section, prepare=False)
    trainer.normalizer, trainer.length = ScoreNormalizer(0.0, 1.0, 100.0), LengthController(section.length, 4.0)
    rollout = by_hand(base, (1, 3, 5, 8))
    rollout.finished = torch.tensor([True, True, True, False])
    lengths = torch.tensor([1.0, 3.0, 5.0, 8.0])
    shaped = shaped_scores(section, trainer.normalizer, trainer.length, 3.0 * lengths, rollout, lengths, trainer.gather)
    assert shaped.tolist() == pytest.approx([3.0 + 4.0, 9.0, 15.0 - 4.0, 24.0])


def test_advantages_are_whitened_over_response_tokens(base: SharedBase) -> None:
    trainer = make_trainer(base, short(), prepare=False)
    mask = torch.tensor([[True, True, False], [True, True, False]])
    out = trainer._whiten(torch.tensor([[1.0, 3.0, 99.0], [5.0, 7.0, 99.0]]), mask)
    unit = 5.0**0.5  # mean 4, population variance (9 + 1 + 1 + 9) / 4
    expected = torch.tensor([[-3 / unit, -1 / unit, 0.0], [1 / unit, 3 / unit, 0.0]])
    torch.testing.assert_close(out, expected)


# --- stopping ----------------------------------------------------------------------------------------------------


def test_a_kl_beyond_its_limit_stops_the_run(base: SharedBase) -> None:
    stir(base, "policy", 7)
    trainer = make_trainer(base, short(kl={"limit": 0.01}))
    with pytest.raises(TrainingError, match=r"KL is [\d.]+ nats after update 1, beyond ppo\.kl\.limit \(0\.01\)"):
        trainer.step()


def test_a_gradient_that_is_not_finite_stops_the_run_and_changes_nothing(base: SharedBase) -> None:
    trainer = make_trainer(base, short(value_warmup_epochs=0))
    base.heads[VALUE].weight.data.fill_(float("nan"))
    before = weights(base, "policy")
    with pytest.raises(TrainingError, match=r"ppo: the gradient's norm is nan; lower ppo.learning_rate"):
        trainer.step()
    assert same(weights(base, "policy"), before)


def test_a_number_that_is_not_finite_is_named(base: SharedBase) -> None:
    with pytest.raises(TrainingError, match=r"ppo: entropy is nan after update 3; lower ppo\.learning_rate"):
        check(short(), {"kl": 0.1, "entropy": float("nan")}, 3)


def test_a_collapsed_policy_is_stopped() -> None:
    check(short(min_entropy=0.5), {"kl": 0.1, "entropy": 0.5}, 3)
    with pytest.raises(
        TrainingError, match=r"entropy is 0\.4900 nats a token after update 3, below ppo\.min_entropy \(0"
    ):
        check(short(min_entropy=0.5), {"kl": 0.1, "entropy": 0.49}, 3)


def test_the_schedule_ends_at_zero(base: SharedBase) -> None:
    """Linear without warm-up over 2 updates of 2 epochs of 2 mini-batches: 8 steps."""
    section = short(updates=2, mini_batch_size=4, micro_batch_size=4, warmup_fraction=0.0, schedule="linear")
    trainer = make_trainer(base, section, even_tokens)
    assert trainer.step()["learning_rate"] == pytest.approx(5e-4)
    assert trainer.step()["learning_rate"] == pytest.approx(0.0)
