"""PPO for language models on one shared base (Schulman 2017; Ziegler 2019; Huang 2024).

`PPOTrainer.step` is the algorithm, top to bottom; `update.py` goes on from there to the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf.config_ppo import PPOSection
from rlhf.data.encoding import Encoder
from rlhf.data.records import Prompt
from rlhf.errors import TrainingError
from rlhf.model.base import SharedBase
from rlhf.model.schedule import build_scheduler
from rlhf.ops import advantages as estimators
from rlhf.ops.kl import ESTIMATORS
from rlhf.ops.masked import whiten
from rlhf.ppo.control import Cycle, KLController, LengthController, ScoreNormalizer
from rlhf.ppo.critic import build_critic, warm_up
from rlhf.ppo.engines import ENGINES
from rlhf.ppo.metrics import Clock, check, describe, some_samples
from rlhf.ppo.rewards import shaped_scores, token_rewards
from rlhf.ppo.roles import POLICY, REFERENCE, VALUE
from rlhf.ppo.rollout import Rollout, response_features, response_logprobs, response_pass, run_lower
from rlhf.ppo.scoring import Judge
from rlhf.ppo.update import Batch, Demonstration, Learner, clipped_update


class PPOTrainer:
    """Trains adapter `policy` (a copy of `sft`) against a judge, held near the frozen `sft`.

    Args:
        base: holds adapters `sft` and `policy` (and `reward`, where the critic is an adapter).
        prompts: what to sample from; every process takes its own share of each rollout.
        judge: scores responses (see `scoring.py`).
        demonstrations: prompt and response tokens for the ptx loss; needed where `ptx_coef` is above 0.
    """

    def __init__(
        self,
        section: PPOSection,
        base: SharedBase,
        encoder: Encoder,
        prompts: Sequence[Prompt],
        judge: Judge,
        accelerator: Accelerator,
        seed: int,
        demonstrations: Sequence[Demonstration] = (),
    ) -> None:
        self.section, self.base, self.encoder, self.judge, self.accelerator = section, base, encoder, judge, accelerator
        self.seed = seed
        self.prompts = [(p.prompt, encoder.prompt(p.prompt)) for p in prompts]
        self.local_batch = _share(section.rollout_batch_size, accelerator, "ppo.rollout_batch_size")
        _share(section.mini_batch_size, accelerator, "ppo.mini_batch_size")
        _share(section.rollout_batch_size // section.samples_per_prompt, accelerator, "a rollout's number of prompts")
        if section.ptx_coef > 0:
            _share(section.ptx_batch_size, accelerator, "ppo.ptx_batch_size")
        critic = build_critic(section, base)
        own = [{"params": base.adapter_parameters(POLICY), "lr": section.learning_rate}]
        self.optimizer = torch.optim.AdamW(
            own + (critic.groups() if critic else []), eps=section.adam_eps, weight_decay=section.weight_decay
        )
        steps = section.updates * section.ppo_epochs * (section.rollout_batch_size // section.mini_batch_size)
        self.scheduler = build_scheduler(self.optimizer, section, steps)
        self.order = torch.Generator().manual_seed(seed)  # the same in every process
        self.draws = torch.Generator()
        self.seed_draws()
        self.prompt_cycle = Cycle(len(self.prompts))
        self.learner = Learner(base, section, self.optimizer, accelerator, self.order, critic, tuple(demonstrations))
        self.critic = critic
        self.updates_done = 0
        self.samples: list[dict[str, Any]] = []  # some of the last round's, to look at
        self.kl = KLController(section.kl, section.kl.coef)
        self.normalizer: ScoreNormalizer | None = None
        self.length: LengthController | None = None

    def seed_draws(self, after: int = 0) -> None:
        """Random numbers of this process's own, from the seed and the rounds that are done."""
        self.draws.manual_seed(self.seed * 1_000_003 + 1009 * after + self.accelerator.process_index)

    def prepare(self) -> dict[str, float]:
        """Measure the reference: the mean and deviation of its scores, and its mean length."""
        scores, lengths, section = [], [], self.section
        wanted = _share(section.normalize_samples, self.accelerator, "ppo.normalize_samples")
        while sum(len(s) for s in scores) < wanted:
            rollout, prompts = self._sample(REFERENCE, min(self.local_batch, wanted - sum(len(s) for s in scores)))
            scores.append(self.judge(prompts, rollout.prompts, rollout.responses).to(self.base.device))
            lengths.append(rollout.lengths.float())
        score, length = self.gather(torch.cat(scores)), self.gather(torch.cat(lengths))
        if not float(score.std()) > 0.0:
            raise TrainingError(
                f"ppo.rewards: all {len(score)} responses of the reference score {float(score[0]):g}; "
                "a judge that tells none apart has nothing to teach"
            )
        self.normalizer = ScoreNormalizer(float(score.mean()), float(score.std()), section.score_clip)
        self.length = LengthController(section.length, float(length.mean()), section.length.coef)
        return {"score_mean": self.normalizer.mean, "score_std": self.normalizer.std, "length": self.length.target}

    def step(self) -> dict[str, float]:
        """One round: sample, score, shape rewards, estimate advantages, update; returns what to log."""
        assert self.normalizer is not None and self.length is not None, "call prepare() first"
        section, base, clock = self.section, self.base, Clock()

        # 1. Responses of the policy, and what they are worth.
        rollout, prompts = self._sample(POLICY, self.local_batch, section.samples_per_prompt)
        mask = rollout.response_mask
        clock.lap("sample")
        if layers := base.frozen_layers(POLICY, REFERENCE, *([VALUE] if VALUE in base.adapters else [])):
            run_lower(base, rollout, layers)
        scores = self.judge(prompts, rollout.prompts, rollout.responses).to(base.device)

        # 2. Logprobs of the same tokens under the reference and under the policy that wrote them.
        ref_logprobs = response_logprobs(base, REFERENCE, rollout, temperature=section.temperature)
        clock.lap("score")
        logprobs, features = self._old_pass(rollout)

        # 3. A reward for every token: the score at the last one, KL at each, unless KL is in the loss.
        weight = self.kl.coef if section.kl.place == "reward" else 0.0
        penalties = torch.zeros_like(logprobs)
        if weight > 0:
            penalties = weight * ESTIMATORS[section.kl.estimator](logprobs, ref_logprobs) * mask
        shaped = shaped_scores(section, self.normalizer, self.length, scores, rollout, penalties.sum(1), self.gather)
        rewards = token_rewards(shaped, penalties, rollout.lengths)

        # 4. How much better than expected each token was.
        if self.critic and self.updates_done == 0:
            targets = estimators.reward_to_go(rewards, mask, section.gamma)
            warm_up(self.critic, section, rollout, features, targets, self.accelerator)
        values = self._values(rollout, features)
        del features  # (B, T, H): nothing reads them from here on
        advantages, returns = self._advantages(rewards, values, mask)
        clock.lap("prepare")

        # 5. Several passes of clipped gradient steps over the round.
        batch = Batch(rollout, logprobs, ref_logprobs, values, advantages, returns, self.kl.coef - weight)
        metrics = clipped_update(self.learner, batch, self.scheduler.step)
        clock.lap("update")

        # 6. The controllers meet their targets; the round is described, and a run off its rails stopped.
        metrics |= describe(self, batch, scores, shaped)
        metrics |= {"kl_coef": self.kl.coef, "length_coef": self.length.coef, **clock.metrics(metrics["tokens"])}
        self.kl.update(metrics["kl"], section.rollout_batch_size)
        self.length.update(metrics["length"])
        self.updates_done += 1
        self.samples = some_samples(self.encoder, prompts, batch, scores)
        check(section, metrics, self.updates_done)
        return metrics

    # ---- the parts, in the order in which `step` uses them ----------------------------------------------------------

    def _sample(self, adapter: str, count: int, of_each: int = 1) -> tuple[Rollout, list[Any]]:
        """`count` responses, `of_each` in a row to the same prompt."""
        chosen = [self.prompts[i] for i in self._next_prompts(count // of_each) for _ in range(of_each)]
        section, critic = self.section, self.critic
        with_values = adapter == POLICY and section.old_logprobs == "rollout" and critic and critic.shares_trunk
        rollout = ENGINES[section.engine](
            self.base,
            adapter,
            [ids for _, ids in chosen],
            max_new_tokens=section.max_new_tokens,
            temperature=section.temperature,
            generator=self.draws,
            top_k=section.top_k,
            top_p=section.top_p,
            value_head=VALUE if with_values else None,
        )
        return rollout, [prompt for prompt, _ in chosen]

    def _next_prompts(self, count: int) -> list[int]:
        """This process's share of the next prompts; all are used once before any comes again."""
        taken = self.prompt_cycle.take(count * self.accelerator.num_processes, self.order)
        return taken[self.accelerator.process_index :: self.accelerator.num_processes]

    def _old_pass(self, rollout: Rollout) -> tuple[Tensor, Tensor | None]:
        """The ratio's denominator `(B, T)`, and the features `(B, T, H)` that a head on the trunk needs.

        `recompute`: as the update computes them, so that the first pass's ratio is 1, where a rollout's own differ by
        rounding. `rollout`: as sampled; only the first round, in which the head is warmed up, needs a pass.
        """
        temperature, shared = self.section.temperature, self.critic is not None and self.critic.shares_trunk
        if self.section.old_logprobs == "rollout":
            warming = shared and self.updates_done == 0
            return rollout.logprobs, response_features(self.base, POLICY, rollout) if warming else None
        if not shared:
            return response_logprobs(self.base, POLICY, rollout, temperature=temperature, as_sampled=True), None
        return response_pass(self.base, POLICY, rollout, temperature=temperature)

    def _values(self, rollout: Rollout, features: Tensor | None) -> Tensor:
        """The critic's `(B, T)`; zeros where the estimator has none."""
        if self.critic is None:
            return torch.zeros_like(rollout.logprobs)
        if rollout.values is not None and features is None:
            return rollout.values
        return self.critic.values(rollout, features)

    def _advantages(self, rewards: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages and returns `(B, T)`; a response's one advantage without a critic is every token's."""
        section, returns = self.section, torch.zeros_like(rewards)
        if section.advantage_estimator == "gae":
            advantages, returns = estimators.gae(rewards, values, mask, section.gamma, section.lam)
        elif section.advantage_estimator == "reinforce++":
            advantages = estimators.reward_to_go(rewards, mask, section.gamma)
        else:
            compare = {"rloo": estimators.rloo, "grpo": estimators.grpo}[section.advantage_estimator]
            advantages = compare(rewards.sum(1), section.samples_per_prompt).unsqueeze(1) * mask
        if section.whiten_advantages and section.advantage_estimator != "grpo":  # which has done so in its groups
            advantages = self._whiten(advantages, mask)
        return advantages, returns

    def _whiten(self, advantages: Tensor, mask: Tensor) -> Tensor:
        """Whiten over the response tokens of all processes."""
        count = self.sum(mask.sum().float())
        mean = self.sum((advantages * mask).sum()) / count
        var = self.sum((((advantages - mean) ** 2) * mask).sum()) / count
        return whiten(advantages, mask, mean=mean, var=var)

    def gather(self, x: Tensor) -> Tensor:
        """The `(B, ...)` of all processes together."""
        return self.accelerator.gather(x) if self.accelerator.num_processes > 1 else x

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all processes."""
        return self.accelerator.reduce(x, "sum") if self.accelerator.num_processes > 1 else x


def _share(count: int, accelerator: Accelerator, key: str) -> int:
    """This process's part of `count`."""
    if count % accelerator.num_processes:
        raise TrainingError(
            f"{key} ({count}) must be a multiple of the number of processes ({accelerator.num_processes})"
        )
    return count // accelerator.num_processes
