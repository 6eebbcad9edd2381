"""Our PPO step against TRL 1.12's, an independent implementation, number by number (`benchmarks/ppo_oracle.py`).

One batch of a tiny Llama: log-probabilities, KL, rewards, advantages, returns, losses, and the gradients of two steps.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf.config import LoraSection, ModelSection
from rlhf.config_ppo import PPOSection
from rlhf.data.encoding import Encoder
from rlhf.data.records import Prompt
from rlhf.model.base import SharedBase
from rlhf.model.scores import score_sequences
from rlhf.ppo import trainer as trainer_module
from rlhf.ppo import update
from rlhf.ppo.control import LengthController, ScoreNormalizer
from rlhf.ppo.roles import POLICY, REFERENCE, REWARD, VALUE
from rlhf.ppo.rollout import Rollout, response_logprobs
from rlhf.ppo.trainer import PPOTrainer
from rlhf.ppo.update import Batch

ORACLE = json.loads((Path(__file__).parents[1] / "data" / "trl_ppo_oracle.json").read_text(encoding="utf-8"))
CLOSE: dict[str, float] = {"atol": 1e-5, "rtol": 1e-5}


def told(name: str) -> Tensor:
    return torch.tensor(ORACLE["round"][name])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    out = tmp_path_factory.mktemp("oracle")
    model = LlamaForCausalLM(LlamaConfig(**ORACLE["shape"]))
    model.load_state_dict({k: torch.tensor(v) for k, v in ORACLE["weights"].items()})
    model.save_pretrained(out)
    words = {f"t{i}": i for i in range(ORACLE["shape"]["vocab_size"])}
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="t3")),
        pad_token="t0",
        bos_token="t1",
        eos_token="t2",
    ).save_pretrained(out)
    return out


def fill(base: SharedBase, adapter: str, lora: str) -> None:
    """Put the oracle's LoRA matrices into an adapter, layer by layer."""
    for name, module in base.model.named_modules():
        if adapter in getattr(module, "lora_A", {}):
            matrices = ORACLE["loras"][lora][name]
            module.lora_A[adapter].weight.data.copy_(torch.tensor(matrices["a"]))
            module.lora_B[adapter].weight.data.copy_(torch.tensor(matrices["b"]))


def gradients(base: SharedBase, adapter: str) -> dict[str, Tensor]:
    """By PEFT's names of the parameters."""
    found = {}
    for name, module in base.model.named_modules():
        if adapter in getattr(module, "lora_A", {}):
            found[f"{name}.lora_A"] = module.lora_A[adapter].weight.grad
            found[f"{name}.lora_B"] = module.lora_B[adapter].weight.grad
    return found


@pytest.fixture
def trainer(folder: Path) -> PPOTrainer:
    """Ours with the oracle's models and settings; `sft` is the base itself, as TRL's reference is."""
    settings = ORACLE["settings"]
    lora = LoraSection(rank=ORACLE["rank"], alpha=ORACLE["alpha"])
    model = ModelSection(
        name=str(folder), quantization="fp32", compute_dtype="fp32", device="cpu", max_length=32, lora=lora
    )
    base = SharedBase.load(model, seed=1)
    base.add_adapter(REFERENCE)
    base.copy_adapter(REFERENCE, POLICY)
    fill(base, POLICY, "policy")
    base.add_adapter(REWARD, head=True)
    size = len(ORACLE["prompts"])
    section = PPOSection(
        rollout_batch_size=size,
        mini_batch_size=size,
        micro_batch_size=size,
        ppo_epochs=2,
        max_new_tokens=settings["response_length"],
        temperature=settings["temperature"],
        kl={"coef": settings["kl_coef"], "controller": "fixed"},
        gamma=settings["gamma"],
        lam=settings["lam"],
        clip_range=settings["cliprange"],
        clip_range_value=settings["cliprange_value"],
        vf_coef=settings["vf_coef"],
        learning_rate=settings["learning_rate"],
        value_learning_rate=settings["learning_rate"],
        schedule="constant",
        warmup_fraction=0.0,
        max_grad_norm=1e9,
        score_clip=1e9,
        missing_eos="none",
        critic="adapter",
        value_warmup_epochs=0,
    )

    def judge(_p: Any, prompts: Any, responses: Any) -> Tensor:
        with base.active(REWARD):
            return score_sequences(base, REWARD, [[*p, *r] for p, r in zip(prompts, responses, strict=True)])

    made = PPOTrainer(section, base, Encoder(base.tokenizer), [Prompt("t5")], judge, Accelerator(cpu=True), 1)
    fill(base, REWARD, "reward")
    base.heads[REWARD].weight.data.copy_(torch.tensor(ORACLE["heads"]["reward"]))
    fill(base, VALUE, "value")
    base.heads[VALUE].weight.data.copy_(torch.tensor(ORACLE["heads"]["value"]))
    made.normalizer, made.length = ScoreNormalizer(0.0, 1.0, 1e9), LengthController(section.length, 6.0)
    return made


@pytest.fixture
def rollout(trainer: PPOTrainer) -> Rollout:
    """The oracle's own responses; none has an end, so that its way of placing scores after one plays no part."""
    responses = ORACLE["responses"]
    shape = (len(responses), len(responses[0]))
    mask = torch.ones(shape, dtype=torch.bool)
    finished = torch.zeros(shape[0], dtype=torch.bool)
    made = Rollout(ORACLE["prompts"], responses, torch.zeros(shape), torch.ones(shape), mask, finished)
    made.logprobs = response_logprobs(trainer.base, POLICY, made, temperature=trainer.section.temperature)
    return made


@dataclass
class Seen:
    """What our own step computed on the way: the batch, and for each of its two steps what it saw and made."""

    batch: Batch
    new_logprobs: list[Tensor]
    policy_losses: list[float]
    value_losses: list[float]
    gradients: list[dict[str, Tensor]]
    head_gradients: list[Tensor]
    metrics: dict[str, float]


@pytest.fixture
def seen(trainer: PPOTrainer, rollout: Rollout, monkeypatch: pytest.MonkeyPatch) -> Seen:
    found = Seen(None, [], [], [], [], [], {})  # type: ignore[arg-type]
    real_update, real_loss, real_value = trainer_module.clipped_update, update._policy_loss, update.value_loss
    real_ratio = update.policy_loss

    def watched_update(learner: Any, batch: Batch, after_step: Any) -> Any:
        found.batch = batch

        def after() -> None:
            found.gradients.append({k: v.clone() for k, v in gradients(trainer.base, POLICY).items()})
            found.head_gradients.append(trainer.base.heads[VALUE].weight.grad.clone())
            after_step()

        return real_update(learner, batch, after)

    def watched_loss(learner: Any, batch: Batch, rows: list[int], totals: Any) -> Any:
        def ratio(new: Tensor, *rest: Any) -> Any:
            found.new_logprobs.append(put_back(new.detach(), rows))
            out = real_ratio(new, *rest)
            found.policy_losses.append(float(out[0].detach()))
            return out

        monkeypatch.setattr(update, "policy_loss", ratio)
        return real_loss(learner, batch, rows, totals)

    def watched_value(*args: Any) -> Any:
        out = real_value(*args)
        found.value_losses.append(float(out[0].detach()))
        return out

    monkeypatch.setattr(trainer, "_sample", lambda *_: (rollout, ["t5"] * len(rollout.responses)))
    monkeypatch.setattr(trainer_module, "clipped_update", watched_update)
    monkeypatch.setattr(update, "_policy_loss", watched_loss)
    monkeypatch.setattr(update, "value_loss", watched_value)
    found.metrics = trainer.step()
    return found


def put_back(rows_of: Tensor, order: list[int]) -> Tensor:
    """Rows that a mini-batch shuffled, in the rollout's order."""
    out = torch.empty_like(rows_of)
    out[order] = rows_of
    return out


def test_the_rollouts_numbers_are_trls(seen: Seen) -> None:
    torch.testing.assert_close(seen.batch.logprobs, told("logprobs"), **CLOSE)
    torch.testing.assert_close(seen.batch.ref_logprobs, told("ref_logprobs"), **CLOSE)
    torch.testing.assert_close(seen.batch.values, told("values"), **CLOSE)
    torch.testing.assert_close(seen.batch.returns, told("returns"), **CLOSE)
    torch.testing.assert_close(seen.batch.advantages * bessel(seen), told("advantages"), **CLOSE)
    assert seen.metrics["score"] == pytest.approx(float(told("scores").mean()), abs=1e-5)
    assert seen.metrics["kl"] == pytest.approx(float(told("kl").sum(1).mean()), abs=1e-5)
    assert abs(seen.metrics["kl"]) > 0.1


def bessel(seen: Seen) -> float:
    """TRL whitens by the sample's deviation (n - 1), we by the population's (n): one factor in all that follows."""
    count = seen.batch.advantages.numel()
    return float(((count - 1) / count) ** 0.5)


@pytest.mark.parametrize("step", [0, 1])
def test_the_policys_loss_and_gradients_are_trls(seen: Seen, step: int) -> None:
    """The second step starts from the first one's weights, so that the optimizers are compared as well."""
    theirs, count, scale = ORACLE["steps"][step], seen.batch.advantages.numel(), bessel(seen)
    looser = 1 + 4 * step
    wanted = put_back(torch.tensor(theirs["new_logprobs"]), theirs["order"])
    torch.testing.assert_close(seen.new_logprobs[step], wanted, atol=1e-5 * looser, rtol=1e-5)
    assert seen.policy_losses[step] / count * scale == pytest.approx(theirs["pg_loss"], abs=1e-5 * looser)
    largest = 0.0
    for name, gradient in seen.gradients[step].items():
        expected = torch.tensor(theirs["gradients"][f"policy.base_model.model.{name}.default.weight"])
        torch.testing.assert_close(gradient * scale, expected, atol=1e-5 * looser, rtol=1e-4)
        largest = max(largest, float(expected.abs().max()))
    assert largest > 1e-2
    moved = float((seen.new_logprobs[step] - seen.batch.logprobs).abs().max())
    assert (moved > 0.1) is bool(step), "clipping must bind in the second step"


def test_the_critics_loss_and_heads_gradient_are_trls(seen: Seen) -> None:
    """Its first step: from then on TRL's critic has moved all of its weights, ours its adapter."""
    theirs = ORACLE["steps"][0]
    assert seen.value_losses[0] / seen.batch.advantages.numel() == pytest.approx(theirs["vf_loss"], abs=1e-5)
    head = torch.tensor(theirs["gradients"]["value_model.score.weight"])
    torch.testing.assert_close(seen.head_gradients[0], head, **CLOSE)
    assert float(head.abs().max()) > 1e-2
