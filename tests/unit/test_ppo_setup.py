"""What the tests of PPO share: a tiny base with stirred adapters, short sections, trainers, rollouts made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from rlhf.config import LoraSection, ModelSection
from rlhf.config_ppo import PPOSection
from rlhf.data.encoding import Encoder
from rlhf.data.records import Prompt, PromptLike
from rlhf.errors import TrainingError
from rlhf.model.base import SharedBase
from rlhf.ppo.critic import HeadCritic
from rlhf.ppo.roles import VALUE
from rlhf.ppo.rollout import Rollout, response_logprobs
from rlhf.ppo.scoring import Judge
from rlhf.ppo.trainer import PPOTrainer

# Of different lengths, so that every batch has padding.
TEXTS = (
    "Review the film.",
    "Review the love story of the lead and the villain.",
    "Review the plot.",
    "Review the remake of the comedy.",
    "Review the sound.",
    "This music and this scenery",
    "Review the jokes of the hero in the sequel of the thriller.",
    "A title",
)


LENGTHS = (7, 2, 11, 4, 1, 9, 5, 3)  # of responses made by hand


def chat(text: str) -> PromptLike:
    return ({"role": "user", "content": text},)


def load(folder: Path, quantization: str = "fp32", compute_dtype: str = "fp32", device: str = "cpu") -> SharedBase:
    section = ModelSection(
        name=str(folder),
        quantization=quantization,
        compute_dtype=compute_dtype,
        device=device,
        lora=LoraSection(rank=4, alpha=8),
        max_length=128,
    )
    return SharedBase.load(section, seed=1)


def stir(base: SharedBase, name: str, seed: int, scale: float = 0.1) -> None:
    """Random weights in all of an adapter, B and the head too, so that it does something."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in base.adapter_parameters(name):
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def make_base(folder: Path, **more: str) -> SharedBase:
    """A tiny base with PPO's roles on it."""
    return give_roles(load(folder, **more))


def give_roles(base: SharedBase) -> SharedBase:
    """Adapters `sft` (far from the raw base), `policy` (its copy) and `reward`."""
    base.add_adapter("sft")
    stir(base, "sft", 1)
    base.copy_adapter("sft", "policy")
    base.add_adapter("reward", head=True)
    stir(base, "reward", 2)
    return base


def short(**changes: Any) -> PPOSection:
    """A section of a few seconds' work; `changes` are laid over it."""
    return PPOSection(
        **{
            "updates": 4,
            "rollout_batch_size": 8,
            "mini_batch_size": 8,
            "micro_batch_size": 8,
            "ppo_epochs": 2,
            "learning_rate": 1e-3,
            "normalize_samples": 8,
            "value_warmup_epochs": 1,
            "max_new_tokens": 12,
            "checkpoint_every": 1,
            **changes,
        }
    )


def even_tokens(
    _prompts: Sequence[Any], _ids: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
) -> torch.Tensor:
    """A judge without a model: the share of even token ids."""
    return torch.tensor([sum(t % 2 == 0 for t in r) / len(r) for r in responses])


def make_trainer(
    base: SharedBase, section: PPOSection, judge: Judge = even_tokens, *, prepare: bool = True, seed: int = 1
) -> PPOTrainer:
    prompts = [Prompt(chat(text)) for text in TEXTS]
    trainer = PPOTrainer(section, base, Encoder(base.tokenizer), prompts, judge, Accelerator(cpu=True), seed)
    if prepare:
        trainer.prepare()
    return trainer


def by_hand(base: SharedBase, lengths: Sequence[int], seed: int = 0) -> Rollout:
    """A rollout of random tokens with responses of the given lengths; its logprobs are near the policy's."""
    generator = torch.Generator().manual_seed(seed)
    encoder = Encoder(base.tokenizer)
    prompts = [encoder.prompt(chat(TEXTS[i % len(TEXTS)])) for i in range(len(lengths))]
    responses = [torch.randint(3, 512, (n,), generator=generator).tolist() for n in lengths]
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    zeros = torch.zeros(mask.shape)
    out = Rollout(prompts, responses, zeros, zeros.clone(), mask, torch.tensor([False] * len(lengths)))
    noise = 0.1 * torch.randn(mask.shape, generator=generator)
    out.logprobs = (response_logprobs(base, "policy", out, temperature=1.0) + noise) * mask
    return out


def head_critic(base: SharedBase, section: PPOSection) -> HeadCritic:
    """The critic of a base whose value head has weights already; they stay."""
    before = base.heads[VALUE].weight.detach().clone()
    critic = HeadCritic(base, section)
    critic.weight.data.copy_(before)
    return critic


def weights(base: SharedBase, name: str) -> list[torch.Tensor]:
    return [p.detach().clone() for p in base.adapter_parameters(name)]


def same(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def base(tiny_model_dir: Path) -> SharedBase:
    return make_base(tiny_model_dir)


# --- what a trainer does before its first update -----------------------------------------------------------------


def test_prepare_takes_mean_deviation_and_length_from_the_reference(base: SharedBase) -> None:
    """The judge here gives each response its own length, so that all three numbers are known from the lengths."""
    seen: list[int] = []

    def length(_p: Any, _i: Any, responses: Sequence[Sequence[int]]) -> torch.Tensor:
        seen.extend(len(r) for r in responses)
        return torch.tensor([float(len(r)) for r in responses])

    stir(base, "policy", 9)  # must not matter: the reference is sampled
    trainer = make_trainer(base, short(normalize_samples=20), length, prepare=False)
    told = trainer.prepare()
    mean = sum(seen) / 20
    deviation = (sum((n - mean) ** 2 for n in seen) / 19) ** 0.5
    assert len(seen) == 20
    assert told == pytest.approx({"score_mean": mean, "score_std": deviation, "length": mean})


def test_all_prompts_are_used_before_any_comes_again(base: SharedBase) -> None:
    trainer = make_trainer(base, short(), prepare=False)
    rounds = [i for _ in range(4) for i in trainer._next_prompts(4)]
    assert sorted(rounds[:8]) == sorted(rounds[8:]) == list(range(8))
    assert rounds[:8] != rounds[8:]


def test_a_batch_that_the_processes_cannot_share_is_refused(base: SharedBase) -> None:
    class Three:
        num_processes, process_index = 3, 0

    with pytest.raises(TrainingError, match=r"ppo.rollout_batch_size \(8\) must be a multiple of .* \(3\)"):
        PPOTrainer(short(), base, Encoder(base.tokenizer), [Prompt("The")], even_tokens, Three(), 1)  # type: ignore[arg-type]
