"""PPO for language models on one shared base (Schulman 2017; Ziegler 2019; Huang 2024).

`PPOTrainer.step` is the algorithm, top to bottom; `update.py` goes on from there to the gradient.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf.config import PPOSection
from rlhf.data.encoding import Encoder
from rlhf.data.records import Prompt
from rlhf.errors import TrainingError
from rlhf.model.base import SharedBase
from rlhf.model.schedule import build_scheduler
from rlhf.ops import kl
from rlhf.ops.advantages import gae
from rlhf.ops.masked import masked_mean, whiten
from rlhf.ppo.control import KLController, LengthController, ScoreNormalizer
from rlhf.ppo.rollout import Rollout, response_logprobs, response_pass, sample
from rlhf.ppo.scoring import Judge
from rlhf.ppo.update import VALUE, Batch, clipped_update

POLICY, REFERENCE = "policy", "sft"


class PPOTrainer:
    """Trains adapter `policy` (a copy of `sft`) against a judge, held near the frozen `sft`.

    Args:
        base: holds adapters `sft` and `policy`; the head `value` is added where it is missing.
        prompts: what to sample from; every process takes its own share of each rollout.
        judge: scores responses (see `scoring.py`).
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
    ) -> None:
        self.section, self.base, self.encoder, self.judge, self.accelerator = section, base, encoder, judge, accelerator
        self.prompts = [(p.prompt, encoder.prompt(p.prompt)) for p in prompts]
        self.local_batch = _share(section.rollout_batch_size, accelerator, "ppo.rollout_batch_size")
        _share(section.mini_batch_size, accelerator, "ppo.mini_batch_size")
        if VALUE not in base.heads:
            base.add_head(VALUE)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": base.adapter_parameters(POLICY), "lr": section.learning_rate},
                {"params": [base.heads[VALUE].weight], "lr": section.value_learning_rate},
            ],
            eps=section.adam_eps,
            weight_decay=section.weight_decay,
        )
        steps = section.updates * section.ppo_epochs * (section.rollout_batch_size // section.mini_batch_size)
        self.scheduler = build_scheduler(self.optimizer, section, steps)
        self.order = torch.Generator().manual_seed(seed)  # the same in every process
        self.draws = torch.Generator().manual_seed(seed * 1_000_003 + accelerator.process_index)
        self.queue: list[int] = []
        self.updates_done = 0
        self.kl = KLController(section.kl, section.kl.coef)
        self.normalizer: ScoreNormalizer | None = None
        self.length: LengthController | None = None

    def prepare(self) -> dict[str, float]:
        """Measure the reference: the mean and deviation of its scores, and its mean length."""
        scores, lengths, wanted = (
            [],
            [],
            _share(self.section.normalize_samples, self.accelerator, "ppo.normalize_samples"),
        )
        while sum(len(s) for s in scores) < wanted:
            rollout, prompts = self._sample(REFERENCE, min(self.local_batch, wanted - sum(len(s) for s in scores)))
            scores.append(self.judge(prompts, rollout.prompts, rollout.responses).to(self.base.device))
            lengths.append(rollout.lengths.float())
        score, length = self._gather(torch.cat(scores)), self._gather(torch.cat(lengths))
        if not float(score.std()) > 0.0:
            raise TrainingError(
                f"ppo.rewards: all {len(score)} responses of the reference score {float(score[0]):g}; "
                "a judge that tells none apart has nothing to teach"
            )
        self.normalizer = ScoreNormalizer(float(score.mean()), float(score.std()), self.section.score_clip)
        self.length = LengthController(self.section.length, float(length.mean()))
        return {"score_mean": self.normalizer.mean, "score_std": self.normalizer.std, "length": self.length.target}

    def step(self) -> dict[str, float]:
        """One round: sample, score, shape rewards, estimate advantages, update; returns what to log."""
        assert self.normalizer is not None and self.length is not None, "call prepare() first"
        section, clock = self.section, _Clock()

        rollout, prompts = self._sample(POLICY, self.local_batch)
        mask = rollout.response_mask
        clock.lap("sample")

        scores = self.judge(prompts, rollout.prompts, rollout.responses).to(self.base.device)
        ref_logprobs = response_logprobs(self.base, REFERENCE, rollout, temperature=section.temperature)
        clock.lap("score")

        # Computed as the update computes them: the first pass's ratio is 1, where a rollout's own differ by rounding.
        logprobs, hidden = response_pass(self.base, POLICY, rollout, temperature=section.temperature, with_hidden=True)
        assert hidden is not None
        log_ratio = kl.k1(logprobs, ref_logprobs) * mask
        shaped = self._shaped_scores(scores, rollout, -self.kl.coef * log_ratio.sum(1))
        rewards = -self.kl.coef * log_ratio
        rewards[torch.arange(len(shaped)), rollout.lengths - 1] += shaped

        if self.updates_done == 0:
            self._warm_up_value(hidden, rewards, mask)
        values = self._values(hidden, mask)
        advantages, returns = gae(rewards, values, mask, section.gamma, section.lam)
        if section.whiten_advantages:
            advantages = self._whiten(advantages, mask)
        clock.lap("prepare")

        batch = Batch(rollout, logprobs, values, advantages, returns)
        metrics = clipped_update(
            self.base, section, batch, self.optimizer, self.accelerator, self.order, self.scheduler.step
        )
        clock.lap("update")

        sequence_kl, lengths = self._gather(log_ratio.sum(1)), self._gather(rollout.lengths.float())
        metrics |= self._describe(rollout, scores, shaped, logprobs, ref_logprobs, values, returns)
        metrics |= {"kl": float(sequence_kl.mean()), "kl_coef": self.kl.coef, "length_coef": self.length.coef}
        self.kl.update(metrics["kl"], section.rollout_batch_size)
        self.length.update(float(lengths.mean()))
        self.updates_done += 1
        self._check(metrics)
        return metrics | clock.metrics(int(lengths.sum()))

    # ---- the parts, in the order in which `step` uses them ----------------------------------------------------------

    def _sample(self, adapter: str, count: int) -> tuple[Rollout, list[Any]]:
        chosen = [self.prompts[i] for i in self._next_prompts(count)]
        rollout = sample(
            self.base,
            adapter,
            [ids for _, ids in chosen],
            max_new_tokens=self.section.max_new_tokens,
            temperature=self.section.temperature,
            generator=self.draws,
        )
        return rollout, [prompt for prompt, _ in chosen]

    def _next_prompts(self, count: int) -> list[int]:
        """This process's share of the next prompts; all are used once before any comes again."""
        wanted = count * self.accelerator.num_processes
        while len(self.queue) < wanted:
            self.queue += torch.randperm(len(self.prompts), generator=self.order).tolist()
        taken, self.queue = self.queue[:wanted], self.queue[wanted:]
        return taken[self.accelerator.process_index :: self.accelerator.num_processes]

    def _shaped_scores(self, scores: Tensor, rollout: Rollout, penalties: Tensor) -> Tensor:
        """Normalised and clipped scores `(B,)`, with the rules for a missing EOS and for length.

        `penalties` `(B,)` is each response's KL part of the reward: levelling takes it in, since it grows with length.
        """
        assert self.normalizer is not None and self.length is not None
        values = torch.tensor([self.normalizer(s) for s in scores.tolist()], device=scores.device)
        finished, lengths = rollout.finished, rollout.lengths.float()
        if self.section.missing_eos == "score":
            values = values.where(finished, self.section.missing_eos_value)
        elif self.section.missing_eos == "penalty":
            values = values.where(finished, values + self.section.missing_eos_value)
        whole = self._gather(finished)
        all_lengths = self._gather(lengths)[whole]
        slope = self.length.leveling(self._gather(values + penalties)[whole].tolist(), all_lengths.tolist())
        if slope != 0.0:  # a response cut off has no length of its own; its rule is the one for a missing EOS
            values = values.where(~finished, values - slope * (lengths - all_lengths.mean()))
        bonus = torch.tensor([self.length.bonus(n) for n in lengths.tolist()], device=scores.device)
        fixed = ~finished if self.section.missing_eos == "score" else torch.zeros_like(finished)
        return values + bonus.where(~fixed, 0.0)

    def _values(self, hidden: Tensor, mask: Tensor) -> Tensor:
        with torch.no_grad():
            return self.base.apply_head(VALUE, hidden) * mask

    def _warm_up_value(self, hidden: Tensor, rewards: Tensor, mask: Tensor) -> None:
        """Fit the value head, which starts at zero, to the first rollout's rewards-to-go, the trunk held still."""
        _, targets = gae(rewards, torch.zeros_like(rewards), mask, self.section.gamma, 1.0)
        weight = self.base.heads[VALUE].weight
        weight.requires_grad_(True)
        optimizer = torch.optim.AdamW([weight], lr=self.section.value_learning_rate)
        for _ in range(self.section.value_warmup_epochs):
            for rows in torch.arange(len(mask)).split(self.section.micro_batch_size):
                error = (self.base.apply_head(VALUE, hidden[rows]) - targets[rows]) ** 2
                loss = masked_mean(error, mask[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if self.accelerator.num_processes > 1:
                    weight.grad = self.accelerator.reduce(weight.grad, "mean")
                optimizer.step()
        weight.grad = None
        weight.requires_grad_(False)

    def _whiten(self, advantages: Tensor, mask: Tensor) -> Tensor:
        """Whiten over the response tokens of all processes."""
        count = self._sum(mask.sum().float())
        mean = self._sum((advantages * mask).sum()) / count
        var = self._sum((((advantages - mean) ** 2) * mask).sum()) / count
        return whiten(advantages, mask, mean=mean, var=var)

    def _describe(
        self,
        rollout: Rollout,
        scores: Tensor,
        shaped: Tensor,
        logprobs: Tensor,
        ref_logprobs: Tensor,
        values: Tensor,
        returns: Tensor,
    ) -> dict[str, float]:
        """What was seen in the rollout, over all processes."""
        assert self.normalizer is not None
        mask = rollout.response_mask
        count = self._sum(mask.sum().float())
        residual = self._sum((((returns - values) ** 2) * mask).sum()) / count
        mean = self._sum((returns * mask).sum()) / count
        spread = self._sum((((returns - mean) ** 2) * mask).sum()) / count
        scores, shaped = self._gather(scores), self._gather(shaped)
        drift = (logprobs - rollout.logprobs).abs()
        return {
            "score": float(scores.mean()),
            "normalized_score": float((scores.mean() - self.normalizer.mean) / max(self.normalizer.std, 1e-6)),
            "shaped_score": float(shaped.mean()),
            "kl_k2": float(self._gather((kl.k2(logprobs, ref_logprobs) * mask).sum(1)).mean()),
            "kl_k3": float(self._gather((kl.k3(logprobs, ref_logprobs) * mask).sum(1)).mean()),
            "entropy": float(self._sum(rollout.entropies.sum()) / count),
            "explained_variance": float(1.0 - residual / spread.clamp(min=1e-8)),
            "length": float(self._gather(rollout.lengths.float()).mean()),
            "eos_rate": float(self._gather(rollout.finished.float()).mean()),
            "generation_logprob_gap": float(self._sum((drift * mask).sum()) / count),
            "learning_rate": float(self.scheduler.get_last_lr()[0]),
        }

    def _check(self, metrics: dict[str, float]) -> None:
        """Stop a run that has left its rails, saying where."""
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise TrainingError(f"ppo: {name} is {value} after update {self.updates_done}; lower ppo.learning_rate")
        if metrics["kl"] > self.section.kl.limit:
            raise TrainingError(
                f"ppo: KL is {metrics['kl']:.1f} nats after update {self.updates_done}, beyond ppo.kl.limit "
                f"({self.section.kl.limit:g}); raise ppo.kl.coef or lower ppo.learning_rate"
            )

    def _gather(self, x: Tensor) -> Tensor:
        return self.accelerator.gather(x) if self.accelerator.num_processes > 1 else x

    def _sum(self, x: Tensor) -> Tensor:
        return self.accelerator.reduce(x, "sum") if self.accelerator.num_processes > 1 else x


class _Clock:
    """Seconds of each phase of a round."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now

    def metrics(self, tokens: int) -> dict[str, float]:
        total = max(time.perf_counter() - self.start, 1e-9)
        return {f"seconds_{k}": v for k, v in self.laps.items()} | {"tokens_per_second": tokens / total}


def _share(count: int, accelerator: Accelerator, key: str) -> int:
    """This process's part of `count`."""
    if count % accelerator.num_processes:
        raise TrainingError(
            f"{key} ({count}) must be a multiple of the number of processes ({accelerator.num_processes})"
        )
    return count // accelerator.num_processes
