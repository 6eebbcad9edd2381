"""Details of PPO that are keys of their own: filters, engines, old logprobs, critics, ptx, KL in the loss, budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from test_ppo_setup import (
    LENGTHS,
    TEXTS,
    by_hand,
    chat,
    even_tokens,
    make_base,
    make_trainer,
    same,
    short,
    stir,
    weights,
)
from torch import Tensor

from rlhf.config_ppo import PPOSection
from rlhf.data.encoding import Encoder
from rlhf.data.records import Prompt
from rlhf.errors import TrainingError
from rlhf.model.base import SharedBase
from rlhf.ppo import checkpoint, critic, update
from rlhf.ppo.control import LengthController
from rlhf.ppo.critic import AdapterCritic
from rlhf.ppo.engines import ENGINES
from rlhf.ppo.roles import POLICY, REFERENCE, VALUE
from rlhf.ppo.rollout import Rollout, response_features, response_logprobs, sample
from rlhf.ppo.trainer import PPOTrainer
from rlhf.ppo.update import Batch, Learner, clipped_update


@pytest.fixture
def base(tiny_model_dir: Path) -> SharedBase:
    return make_base(tiny_model_dir)


def prompts_of(base: SharedBase) -> list[list[int]]:
    encoder = Encoder(base.tokenizer)
    return [encoder.prompt(chat(text)) for text in TEXTS]


def gradients(
    base: SharedBase, rollout: Rollout, kl_coef: float = 0.0, **changes: Any
) -> tuple[list[Tensor], dict[str, float]]:
    """The policy's gradients of one whole batch without a critic, and the metrics; the rate is 0."""
    size = len(rollout.responses)
    whole = {"rollout_batch_size": size, "mini_batch_size": size, "micro_batch_size": size, "ppo_epochs": 1}
    section = short(**{**whole, "max_grad_norm": 1e9, **changes})
    parameters = base.adapter_parameters(POLICY)
    generator = torch.Generator().manual_seed(3)
    advantages = torch.randn(rollout.logprobs.shape, generator=generator)
    if kl_coef > 0:  # KL alone
        advantages = torch.zeros_like(advantages)
    reference = response_logprobs(base, REFERENCE, rollout, temperature=1.0)
    zeros = torch.zeros_like(advantages)
    batch = Batch(rollout, rollout.logprobs, reference, zeros, advantages, zeros, kl_coef)
    optimizer, order = torch.optim.SGD(parameters, lr=0.0), torch.Generator().manual_seed(0)
    metrics = clipped_update(Learner(base, section, optimizer, Accelerator(cpu=True), order, None), batch, lambda: None)
    return [p.grad.clone() for p in parameters], metrics


# --- sampling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"top_k": 3}, {"top_p": 0.5}, {"top_k": 20, "top_p": 0.8}])
def test_filtered_samples_have_the_filtered_distributions_logprobs(base: SharedBase, how: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(5)
    out = sample(base, POLICY, prompts_of(base), max_new_tokens=8, temperature=1.3, generator=generator, **how)
    assert out.allowed is not None
    kept = [len(ids) for ids in out.kept(range(8)) or []]
    assert len(kept) == int(out.lengths.sum())
    assert max(kept) <= how.get("top_k", 512)
    assert all(t in ids for r, a in zip(out.responses, out.allowed, strict=True) for t, ids in zip(r, a, strict=True))
    again = response_logprobs(base, POLICY, out, temperature=1.3, as_sampled=True)
    torch.testing.assert_close(again, out.logprobs, atol=1e-5, rtol=0)
    plain = response_logprobs(base, POLICY, out, temperature=1.3)
    assert (plain < again - 0.05)[out.response_mask].any(), "the filter must have taken probability from somewhere"


@pytest.mark.parametrize("how", [{"top_k": 5}, {"top_p": 0.7}])
def test_under_a_filter_the_first_ratio_is_1_and_the_reference_stays_whole(
    base: SharedBase, ratios: list[Tensor], how: dict[str, Any]
) -> None:
    metrics = make_trainer(base, short(**how)).step()
    assert torch.equal(ratios[0], torch.ones_like(ratios[0]))
    assert metrics["kl"] > 0.1, "a filtered policy differs from the unfiltered reference"


def test_generate_samples_the_same_distribution_whatever_the_models_own_settings(base: SharedBase) -> None:
    """The mean logprob and length of many samples agree between the engines; a repetition penalty is not applied."""
    base.model.generation_config.repetition_penalty = 5.0
    before = base.model.generation_config
    made = {}
    for name, engine in ENGINES.items():
        generator = torch.Generator().manual_seed(2)
        out = engine(base, POLICY, prompts_of(base) * 40, max_new_tokens=6, temperature=1.0, generator=generator)
        made[name] = out
        again = response_logprobs(base, POLICY, out, temperature=1.0)
        torch.testing.assert_close(out.logprobs, again, atol=1e-4, rtol=0)
        assert out.finished.tolist() == [r[-1] == base.tokenizer.eos_token_id for r in out.responses]
    assert base.model.generation_config is before
    native, theirs = made["native"], made["generate"]
    for of in (lambda o: o.logprobs.sum(1), lambda o: o.entropies.sum(1), lambda o: o.lengths.float()):
        a, b = of(native), of(theirs)
        error = float(((a.var() + b.var()) / len(a)).sqrt())
        assert abs(float(a.mean() - b.mean())) < 4 * error + 1e-6


def test_generate_trains(base: SharedBase, ratios: list[Tensor]) -> None:
    before = weights(base, POLICY)
    metrics = make_trainer(base, short(engine="generate")).step()
    assert torch.equal(ratios[0], torch.ones_like(ratios[0]))
    assert metrics["entropy"] > 0.1
    assert not same(weights(base, POLICY), before)


# --- old logprobs ------------------------------------------------------------------------------------------------


def test_what_was_captured_while_sampling_is_what_a_pass_would_give(tiny_model_dir: Path) -> None:
    """Two rounds in fp32 by either way: the same samples, and the same update to rounding."""
    after = {}
    for way in ("recompute", "rollout"):
        base = make_base(tiny_model_dir)
        trainer = make_trainer(base, short(old_logprobs=way, learning_rate=1e-4))
        after[way] = [trainer.step() for _ in range(2)], weights(base, POLICY)
    (recomputed, a), (captured, b) = after.values()
    for key in ("score", "kl", "policy_loss", "value_loss", "explained_variance", "length"):
        for one, other in zip(recomputed, captured, strict=True):
            assert one[key] == pytest.approx(other[key], abs=1e-4), key
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, atol=2e-4, rtol=0)
    assert all(m["generation_logprob_gap"] < 1e-5 for m in recomputed + captured)


@pytest.mark.parametrize("way", ["recompute", "rollout"])
def test_what_sampling_and_training_differ_by_is_told(
    base: SharedBase, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The tiny model has no rounding to speak of, so the sampler here says a hundredth of a nat too much."""

    def off(*args: Any, **how: Any) -> Rollout:
        out = sample(*args, **how)
        out.logprobs = (out.logprobs + 0.01) * out.response_mask
        return out

    monkeypatch.setitem(ENGINES, "native", off)
    gap = make_trainer(base, short(old_logprobs=way)).step()["generation_logprob_gap"]
    assert gap == pytest.approx(0.01, abs=1e-4)


def test_values_captured_while_sampling_are_the_critics(base: SharedBase) -> None:
    trainer = make_trainer(base, short(old_logprobs="rollout"))
    trainer.step()
    rollout, _ = trainer._sample(POLICY, 8)
    assert rollout.values is not None
    assert trainer.critic is not None
    recomputed = trainer.critic.values(rollout, response_features(base, POLICY, rollout))
    torch.testing.assert_close(rollout.values, recomputed, atol=1e-4, rtol=0)
    assert rollout.values.abs().max() > 1e-3


# --- the critic --------------------------------------------------------------------------------------------------


def test_a_critic_of_its_own_starts_as_the_reward_model_and_trains_alone(base: SharedBase, tmp_path: Path) -> None:
    reward = weights(base, "reward")
    section = short(critic="adapter", rewards={"adapter:reward": 1.0}, value_warmup_epochs=0, learning_rate=1e-3)
    trainer = make_trainer(base, section)
    assert isinstance(trainer.critic, AdapterCritic)
    assert same(weights(base, VALUE), reward)
    policy = weights(base, POLICY)
    metrics = trainer.step()
    assert same(weights(base, "reward"), reward)
    assert not any(torch.equal(a, b) for a, b in zip(weights(base, VALUE), reward, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(weights(base, POLICY), policy, strict=True))
    assert metrics["value_loss"] > 0

    checkpoint.save(trainer, tmp_path / "ppo", "key")
    expected = trainer.step()
    again = make_base(Path(base.folder))
    resumed = make_trainer(again, section, prepare=False)
    assert checkpoint.restore(resumed, tmp_path / "ppo", "key")
    assert resumed.step()["value_loss"] == expected["value_loss"]
    assert same(weights(again, VALUE), weights(base, VALUE))


def test_the_warm_up_of_a_critic_of_its_own_leaves_the_policy(base: SharedBase) -> None:
    section = short(critic="adapter", value_warmup_epochs=6, learning_rate=1e-2, value_learning_rate=1e-2, updates=1)
    losses = []
    for epochs in (0, 6):
        base = make_base(Path(base.folder))
        trainer = make_trainer(base, section.model_copy(update={"value_warmup_epochs": epochs}))
        losses.append(trainer.step()["value_loss"])
    assert losses[1] < losses[0]


def test_the_warm_up_of_a_critic_of_its_own_keeps_to_the_token_budget(
    base: SharedBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = critic.forward_rows

    def recorded(base: SharedBase, rollout: Rollout, rows: list[int]) -> Any:
        sizes.append(len(rows) * max(rollout.sequence_lengths[i] for i in rows))
        return real(base, rollout, rows)

    monkeypatch.setattr(critic, "forward_rows", recorded)
    make_trainer(base, short(critic="adapter", micro_batch_tokens=90)).step()
    assert len(sizes) > 4 and max(sizes) <= 90


@pytest.mark.parametrize("estimator", ["rloo", "grpo", "reinforce++"])
def test_without_a_critic_no_features_are_kept(base: SharedBase, estimator: str) -> None:
    trainer = make_trainer(base, short(advantage_estimator=estimator, samples_per_prompt=2))
    rollout, _ = trainer._sample(POLICY, 8, 2)
    assert trainer._old_pass(rollout)[1] is None


@pytest.mark.parametrize("estimator", ["rloo", "grpo", "reinforce++"])
def test_without_a_critic_there_is_none(base: SharedBase, estimator: str) -> None:
    trainer = make_trainer(base, short(advantage_estimator=estimator, samples_per_prompt=2))
    assert trainer.critic is None
    assert VALUE not in base.heads
    metrics = trainer.step()
    assert "value_loss" not in metrics and "explained_variance" not in metrics
    assert metrics["grad_norm"] > 0


def test_samples_of_a_prompt_lie_side_by_side(base: SharedBase) -> None:
    trainer = make_trainer(base, short(advantage_estimator="rloo", samples_per_prompt=4))
    rollout, prompts = trainer._sample(POLICY, 8, 4)
    assert rollout.prompts[0] == rollout.prompts[3] != rollout.prompts[4] == rollout.prompts[7]
    assert prompts[0] == prompts[3]
    assert len({tuple(r) for r in rollout.responses}) > 2


# --- losses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("estimator", "slope"), [("k2", lambda d: d), ("k3", lambda d: 1 - (-d).exp())])
def test_kl_in_the_loss_pulls_with_the_estimators_own_slope(base: SharedBase, estimator: str, slope: Any) -> None:
    """d k2 / d logp = d and d k3 / d logp = 1 - exp(-d), with d = logp - ref_logp; through plain logits."""
    rollout = by_hand(base, LENGTHS)
    stir(base, POLICY, 7)
    rollout.logprobs = response_logprobs(base, POLICY, rollout, temperature=1.0)
    found, _ = gradients(base, rollout, 0.5, kl={"place": "loss", "estimator": estimator})
    reference = response_logprobs(base, REFERENCE, rollout, temperature=1.0)
    weight = 0.5 * slope(rollout.logprobs - reference) * rollout.response_mask / rollout.response_mask.sum()
    by_hand_gradients = weighted_gradients(base, rollout, weight)
    assert max(float(g.abs().max()) for g in found) > 1e-3
    for a, b in zip(found, by_hand_gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def weighted_gradients(base: SharedBase, rollout: Rollout, weight: Tensor) -> list[Tensor]:
    """Gradients of sum(weight * logprobs), sequence by sequence through plain logits."""
    parameters = base.adapter_parameters(POLICY)
    total = [torch.zeros_like(p) for p in parameters]
    for i, (prompt, response) in enumerate(zip(rollout.prompts, rollout.responses, strict=True)):
        ids = torch.tensor([prompt + response])
        with base.active(POLICY, train=True):
            logits = base.lm_head(base.hidden(ids, torch.ones_like(ids)))[0, len(prompt) - 1 : -1]
            logp = torch.log_softmax(logits.float(), -1).gather(1, torch.tensor(response)[:, None]).squeeze(1)
            for t, g in zip(
                total, torch.autograd.grad((weight[i, : len(response)] * logp).sum(), parameters), strict=True
            ):
                t += g
    return total


def test_ptx_adds_the_mean_loss_a_token_on_demonstrations(base: SharedBase) -> None:
    made = by_hand(base, (4, 6))
    demonstrations = tuple(zip(made.prompts, made.responses, strict=True))
    section = short(ptx_coef=0.5, ptx_batch_size=2, max_grad_norm=1e9, ppo_epochs=1, advantage_estimator="reinforce++")
    rollout = by_hand(base, LENGTHS, seed=4)
    zeros = torch.zeros_like(rollout.logprobs)
    parameters = base.adapter_parameters(POLICY)
    learner = Learner(
        base,
        section,
        torch.optim.SGD(parameters, lr=0.0),
        Accelerator(cpu=True),
        torch.Generator(),
        None,
        demonstrations,
    )
    metrics = clipped_update(learner, Batch(rollout, rollout.logprobs, zeros, zeros, zeros, zeros), lambda: None)
    expected = weighted_gradients(base, made, torch.full(made.logprobs.shape, -0.5 / 10))
    for a, b in zip([p.grad for p in parameters], expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)
    logprobs = response_logprobs(base, POLICY, made, temperature=1.0)
    assert metrics["ptx_loss"] == pytest.approx(-float(logprobs.sum()) / 10, abs=1e-4)


def test_demonstrations_that_the_processes_cannot_share_are_refused(base: SharedBase) -> None:
    class Two:
        num_processes, process_index = 2, 0

    section, encoder = short(ptx_coef=0.1, ptx_batch_size=3), Encoder(base.tokenizer)
    with pytest.raises(TrainingError, match=r"ppo.ptx_batch_size \(3\) must be a multiple of .* \(2\)"):
        PPOTrainer(section, base, encoder, [Prompt("The")], even_tokens, Two(), 1, [([5], [6])])  # type: ignore[arg-type]


def test_ptx_without_demonstrations_is_refused(base: SharedBase) -> None:
    with pytest.raises(TrainingError, match=r"ppo\.ptx_coef: is above 0, but there are no demonstrations"):
        make_trainer(base, short(ptx_coef=0.1))


def test_a_token_budget_changes_no_gradient(base: SharedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = by_hand(base, LENGTHS)
    whole, _ = gradients(base, rollout)
    sizes: list[int] = []
    real = update.forward_rows

    def recorded(base: SharedBase, rollout: Rollout, rows: list[int]) -> Any:
        sizes.append(len(rows) * max(rollout.sequence_lengths[i] for i in rows))
        return real(base, rollout, rows)

    monkeypatch.setattr(update, "forward_rows", recorded)
    parts, _ = gradients(base, rollout, micro_batch_tokens=90)
    assert len(sizes) > 2 and max(sizes) <= 90
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_a_fixed_length_penalty_stays() -> None:
    section = PPOSection(length={"controller": "fixed", "coef": -0.5}).length
    controller = LengthController(section, 10.0, section.coef)
    controller.update(40.0)
    assert controller.bonus(20.0) == -0.5


# --- what a config may not say -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"kl": {"place": "loss"}}, "k1 in the loss has an expected gradient of zero"),
        ({"advantage_estimator": "rloo"}, "compares responses to the same prompt and needs at least 2"),
        ({"advantage_estimator": "grpo"}, "compares responses to the same prompt and needs at least 2"),
        ({"advantage_estimator": "reinforce++", "whiten_advantages": False}, "whitened over the batch"),
        ({"advantage_estimator": "rloo", "samples_per_prompt": 2, "critic": "adapter"}, "rloo has no critic"),
        ({"critic": "adapter", "rewards": {"math:sqrt": 1.0}}, "is not among rewards"),
        ({"critic": "adapter", "value_trunk_gradient": True}, "is about critic=head"),
        ({"top_k": 1}, "greater than or equal to 2"),
        ({"missing_eos": "penalty", "missing_eos_value": 0.5}, "would pay for never ending"),
        ({"samples_per_prompt": 3}, "must be a multiple of samples_per_prompt"),
        ({"engine": "generate", "old_logprobs": "rollout"}, "keeps no logprobs"),
        ({"engine": "generate", "top_k": 5}, "need engine=native"),
        ({"engine": "generate", "top_p": 0.5}, "need engine=native"),
        ({"length": {"coef": 0.5}}, "set controller=fixed"),
    ],
)
def test_what_does_not_fit_together_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPOSection(**keys)
