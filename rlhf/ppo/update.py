"""The clipped update: from a rollout with advantages to the gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf.config import PPOSection
from rlhf.data.encoding import by_length
from rlhf.errors import TrainingError
from rlhf.model.base import SharedBase
from rlhf.ops import kl
from rlhf.ops.losses import policy_loss, value_loss
from rlhf.ops.masked import masked_sum
from rlhf.ppo.rollout import Rollout, forward_responses

VALUE = "value"  # the critic's head on the policy's trunk


@dataclass
class Batch:
    """A rollout ready for learning; all tensors `(B, T)`."""

    rollout: Rollout
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


@dataclass
class Totals:
    """Sums over tokens, from which an update's statistics are made."""

    sums: dict[str, float] = field(default_factory=dict)
    ratio_max: float = 1.0
    grad_norms: list[float] = field(default_factory=list)
    steps: int = 0

    def add(self, **values: Tensor | float) -> None:
        """Add to the named sums."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach() if isinstance(value, Tensor) else value)

    def metrics(self) -> dict[str, float]:
        """Means a token over all the passes of the update."""
        tokens = max(self.sums.pop("tokens", 0.0), 1.0)
        means = {name: total / tokens for name, total in self.sums.items()}
        norms = self.grad_norms
        return {**means, "ratio_max": self.ratio_max, "grad_norm": sum(norms) / max(len(norms), 1), "steps": self.steps}


def clipped_update(
    base: SharedBase,
    section: PPOSection,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    generator: torch.Generator,
    after_step: Callable[[], None],
) -> dict[str, float]:
    """`ppo_epochs` passes over the batch in shuffled mini-batches, one step each (Schulman 2017, algorithm 1).

    Returns the means over all tokens and passes; stops early where `target_kl` says so.
    """
    totals = Totals()
    size = section.mini_batch_size // accelerator.num_processes
    for _ in range(section.ppo_epochs):
        seen = dict(totals.sums)
        order = torch.randperm(len(batch.rollout.responses), generator=generator).tolist()
        for start in range(0, len(order), size):
            _optimizer_step(base, section, batch, order[start : start + size], optimizer, accelerator, totals)
            after_step()
        drift = totals.sums["approx_kl"] - seen.get("approx_kl", 0.0)
        tokens = totals.sums["tokens"] - seen.get("tokens", 0.0)
        if (
            section.target_kl is not None
            and _total(accelerator, drift) / _total(accelerator, tokens) > section.target_kl
        ):
            break
    _add_over_processes(accelerator, totals)
    return totals.metrics()


def _optimizer_step(
    base: SharedBase,
    section: PPOSection,
    batch: Batch,
    rows: list[int],
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    totals: Totals,
) -> None:
    """One mini-batch: gradients summed over micro-batches and processes, divided by its tokens, clipped, applied."""
    tokens = _total(accelerator, float(batch.rollout.response_mask[rows].sum()))
    optimizer.zero_grad(set_to_none=True)
    for micro in micro_batches(batch.rollout, rows, section.micro_batch_size):
        with base.active("policy", train=True):
            base.heads[VALUE].weight.requires_grad_(True)
            loss = _loss(base, section, batch, micro, totals) / tokens
            loss.backward()
            base.heads[VALUE].weight.requires_grad_(False)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if accelerator.num_processes > 1:
        for parameter in parameters:
            parameter.grad = accelerator.reduce(parameter.grad, "sum")
    norm = torch.nn.utils.clip_grad_norm_(parameters, section.max_grad_norm)
    if not torch.isfinite(norm):
        raise TrainingError(f"ppo: the gradient's norm is {float(norm)}; lower ppo.learning_rate or ppo.score_clip")
    optimizer.step()
    totals.grad_norms.append(float(norm))
    totals.steps += 1


def _loss(base: SharedBase, section: PPOSection, batch: Batch, rows: list[int], totals: Totals) -> Tensor:
    """L = L_policy + vf_coef L_value - entropy_coef H, summed over the micro-batch's response tokens."""
    prompts = [batch.rollout.prompts[i] for i in rows]
    responses = [batch.rollout.responses[i] for i in rows]
    width = max(len(r) for r in responses)
    old, advantages = batch.logprobs[rows, :width], batch.advantages[rows, :width]
    mask = batch.rollout.response_mask[rows, :width]
    out = forward_responses(base, prompts, responses, section.temperature, with_entropy=section.entropy_coef > 0)
    new = out.scatter(out.logprobs, old)
    features = out.hidden if section.value_trunk_gradient else out.hidden.detach()
    new_values = out.scatter(base.apply_head(VALUE, features), old)

    policy, ratio, clipped = policy_loss(new, old, advantages, mask, section.clip_range)
    value, value_clipped = value_loss(
        new_values, batch.values[rows, :width], batch.returns[rows, :width], mask, section.clip_range_value
    )
    loss = policy + section.vf_coef * value
    if out.entropies is not None:
        loss = loss - section.entropy_coef * out.entropies.sum()
    totals.add(
        tokens=mask.sum(),
        policy_loss=policy,
        value_loss=value,
        clip_fraction=clipped,
        value_clip_fraction=value_clipped,
        ratio_mean=masked_sum(ratio, mask),
        approx_kl=masked_sum(kl.k3(old, new.detach()), mask),
    )
    totals.ratio_max = max(totals.ratio_max, float(ratio.max()))
    return loss


def micro_batches(rollout: Rollout, rows: list[int], size: int) -> Iterator[list[int]]:
    """The rows in groups of at most `size`, similar lengths together, so that little is padding."""
    lengths = [len(rollout.prompts[i]) + len(rollout.responses[i]) for i in rows]
    for group in by_length(lengths, size):
        yield [rows[i] for i in group]


def _total(accelerator: Accelerator, value: float) -> float:
    """The sum of a number over processes."""
    if accelerator.num_processes == 1:
        return value
    return float(accelerator.reduce(torch.tensor(value, device=accelerator.device), "sum"))


def _add_over_processes(accelerator: Accelerator, totals: Totals) -> None:
    """Make the sums those over all processes, so that each reports the whole mini-batch's means."""
    if accelerator.num_processes == 1:
        return
    sums = torch.tensor(list(totals.sums.values()), dtype=torch.float64, device=accelerator.device)
    totals.sums = dict(zip(totals.sums, accelerator.reduce(sums, "sum").tolist(), strict=True))
    highest = torch.tensor([totals.ratio_max], device=accelerator.device)
    totals.ratio_max = float(accelerator.gather(highest).max())
