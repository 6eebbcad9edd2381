"""PPO reaches what theory says: the KL-regularised optimum exactly, and a bandit's best arm by every estimator.

A language of thirteen words, one word a response, so that the whole distribution can be read off.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from rlhf.ppo.control import LengthController, ScoreNormalizer
from rlhf.ppo.roles import POLICY, REFERENCE
from rlhf.ppo.trainer import PPOTrainer

WORDS = [f"w{i}" for i in range(13)]
PROMPT = "w0 w1"
REWARDS = torch.tensor([0.0] * 3 + [1.0, 0.5, -1.0, 2.0, 0.0, -0.5, 1.5, 0.3, -2.0, 0.8, 0.1, -0.3, 0.6])  # by token id


@pytest.fixture(scope="module")
def words_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with sixteen tokens: three special ones and the words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("words")
    ids = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", *WORDS])}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<s>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=64
    )
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=64,  # with this spread of weights logits can reach 9: a policy can be nearly certain
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        initializer_range=0.15,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trainer_on(folder: Path, seed: int, rewards: Tensor = REWARDS, **changes: Any) -> PPOTrainer:
    """A trainer for one-word answers to one prompt, paid by the word; scores are taken as they are."""
    section = PPOSection(
        **{
            "updates": 150,
            "rollout_batch_size": 256,
            "mini_batch_size": 256,
            "micro_batch_size": 256,
            "ppo_epochs": 1,
            "learning_rate": 1e-2,
            "schedule": "linear",
            "warmup_fraction": 0.0,
            "max_grad_norm": 100.0,
            "max_new_tokens": 1,
            "missing_eos": "none",
            "min_entropy": 0.0,
            "value_learning_rate": 1e-2,
            **changes,
        }
    )
    model = ModelSection(
        name=str(folder),
        quantization="fp32",
        compute_dtype="fp32",
        device="cpu",
        max_length=16,
        lora=LoraSection(rank=16),
    )
    base = SharedBase.load(model, seed=seed)
    base.add_adapter(REFERENCE)
    base.copy_adapter(REFERENCE, POLICY)

    def judge(_p: Any, _i: Any, responses: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor([float(rewards[r[0]]) for r in responses])

    trainer = PPOTrainer(section, base, Encoder(base.tokenizer), [Prompt(PROMPT)], judge, Accelerator(cpu=True), seed)
    trainer.normalizer, trainer.length = ScoreNormalizer(0.0, 1.0, 100.0), LengthController(section.length, 1.0)
    return trainer


def distribution(trainer: PPOTrainer, adapter: str) -> Tensor:
    """The probability of every token as the answer, `(16,)`."""
    ids = torch.tensor([Encoder(trainer.base.tokenizer).prompt(PROMPT)])
    with trainer.base.active(adapter):
        return trainer.base.lm_head(trainer.base.hidden(ids, torch.ones_like(ids)))[0, -1].softmax(-1)


@pytest.mark.parametrize(
    "how",
    [
        {"kl": {"place": "reward", "estimator": "k1"}},
        {"kl": {"place": "loss", "estimator": "k2"}},
        {"advantage_estimator": "rloo", "samples_per_prompt": 256, "kl": {"place": "reward", "estimator": "k1"}},
    ],
    ids=["k1 in the reward", "k2 in the loss", "rloo"],
)
def test_the_policy_becomes_the_reference_tilted_by_the_reward(words_dir: Path, how: dict[str, Any]) -> None:
    """With a fixed beta and neither whitening nor clipping: pi ~ pi_ref exp(r / beta) (Korbak 2022, eq. 3).

    Half the L1 distance to it, 0.6 at first, falls below 0.06; a beta twice as large, or none, is further away.
    """
    beta = 0.7
    kl = {**how["kl"], "coef": beta, "controller": "fixed"}
    clipping = {"clip_range": 0.99, "clip_range_value": 100.0, "score_clip": 100.0, "whiten_advantages": False}
    trainer = trainer_on(words_dir, 1, **{**clipping, **how, "kl": kl})
    reference = distribution(trainer, REFERENCE)

    def away(of: float) -> float:
        optimum = reference * (REWARDS / of).exp()
        return float((distribution(trainer, POLICY) - optimum / optimum.sum()).abs().sum() / 2)

    before = away(beta)
    for _ in range(trainer.section.updates):
        trainer.step()
    assert before > 0.3
    assert away(beta) < 0.06
    assert away(2 * beta) > 0.15
    assert away(beta / 2) > 0.15


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("estimator", ["gae", "rloo", "grpo", "reinforce++"])
def test_the_best_arm_is_found_by_every_estimator(words_dir: Path, estimator: str, seed: int) -> None:
    """One word pays 1 and all others 0: after 15 rounds it is what the policy says."""
    rewards = torch.zeros(16)
    best = 3 + seed
    rewards[best] = 1.0
    trainer = trainer_on(
        words_dir,
        seed,
        rewards,
        updates=15,
        rollout_batch_size=64,
        mini_batch_size=32,
        micro_batch_size=32,
        ppo_epochs=2,
        advantage_estimator=estimator,
        samples_per_prompt=1 if estimator in ("gae", "reinforce++") else 8,
        schedule="constant",
        kl={"coef": 0.01, "controller": "fixed"},
    )
    before = float(distribution(trainer, POLICY)[best])
    for _ in range(trainer.section.updates):
        trainer.step()
    assert before < 0.2
    assert float(distribution(trainer, POLICY)[best]) > 0.9
