"""What is logged of a round, and when a run has left its rails."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from rlhf.config_ppo import PPOSection
from rlhf.data.encoding import Encoder
from rlhf.data.records import PromptLike, prompt_text
from rlhf.errors import TrainingError
from rlhf.ops import kl

if TYPE_CHECKING:
    from rlhf.ppo.trainer import PPOTrainer
    from rlhf.ppo.update import Batch

SHOWN = 4  # samples of a round


def describe(trainer: PPOTrainer, batch: Batch, scores: Tensor, shaped: Tensor) -> dict[str, float]:
    """What was seen in the rollout, over all processes; KL by all three estimators, in nats a response."""
    assert trainer.normalizer is not None
    rollout, mask = batch.rollout, batch.rollout.response_mask
    count = trainer.sum(mask.sum().float())

    def a_response(x: Tensor) -> float:
        return float(trainer.gather(x).float().mean())

    def a_token(x: Tensor) -> float:
        return float(trainer.sum((x * mask).sum()) / count)

    found = {
        "score": a_response(scores),
        "normalized_score": (a_response(scores) - trainer.normalizer.mean) / max(trainer.normalizer.std, 1e-6),
        "shaped_score": a_response(shaped),
        "entropy": a_token(rollout.entropies),
        "length": a_response(rollout.lengths),
        "eos_rate": a_response(rollout.finished),
        "tokens": float(count),
        "learning_rate": float(trainer.scheduler.get_last_lr()[0]),
    }
    for name, estimator in {"kl": kl.k1, "kl_k2": kl.k2, "kl_k3": kl.k3}.items():
        found[name] = a_response((estimator(batch.logprobs, batch.ref_logprobs) * mask).sum(1))
    if trainer.section.old_logprobs == "recompute":  # else the update's first pass shows it
        found["generation_logprob_gap"] = a_token((batch.logprobs - rollout.logprobs).abs())
    if trainer.critic is not None:
        mean = trainer.sum((batch.returns * mask).sum()) / count
        residual, spread = a_token((batch.returns - batch.values) ** 2), a_token((batch.returns - mean) ** 2)
        found["explained_variance"] = 1.0 - residual / max(spread, 1e-8)
    return found


def some_samples(encoder: Encoder, prompts: Sequence[PromptLike], batch: Batch, scores: Tensor) -> list[dict[str, Any]]:
    """The first SHOWN responses of this process's rollout with score, KL (k1, nats a response), length and end."""
    rollout = batch.rollout
    moved = (kl.k1(batch.logprobs, batch.ref_logprobs) * rollout.response_mask).sum(1)
    return [
        {
            "prompt": prompt_text(prompts[i]),
            "completion": encoder.text(rollout.responses[i]),
            "score": float(scores[i]),
            "kl": float(moved[i]),
            "length": int(rollout.lengths[i]),
            "ended": bool(rollout.finished[i]),
        }
        for i in range(min(SHOWN, len(prompts)))
    ]


def check(section: PPOSection, metrics: dict[str, float], update: int) -> None:
    """Stop a run that has left its rails, saying where.

    Raises:
        TrainingError: a number is not finite, KL is beyond its limit, or the policy's entropy has collapsed.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise TrainingError(f"ppo: {name} is {value} after update {update}; lower ppo.learning_rate")
    if metrics["kl"] > section.kl.limit:
        raise TrainingError(
            f"ppo: KL is {metrics['kl']:.1f} nats after update {update}, beyond ppo.kl.limit "
            f"({section.kl.limit:g}); raise ppo.kl.coef or lower ppo.learning_rate"
        )
    if metrics["entropy"] < section.min_entropy:
        raise TrainingError(
            f"ppo: the policy's entropy is {metrics['entropy']:.4f} nats a token after update {update}, below "
            f"ppo.min_entropy ({section.min_entropy:g}): it writes the same again and again; raise ppo.kl.coef or "
            "ppo.entropy_coef, or lower ppo.learning_rate"
        )


class Clock:
    """Seconds of each phase of a round."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """The phase `name` ends now."""
        now = time.perf_counter()
        self.laps[name], self.last = now - self.last, now

    def metrics(self, tokens: float) -> dict[str, float]:
        """Seconds a phase, and response tokens a second over the whole round."""
        total = max(time.perf_counter() - self.start, 1e-9)
        return {f"seconds_{k}": v for k, v in self.laps.items()} | {"tokens_per_second": tokens / total}
