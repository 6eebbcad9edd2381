"""The clipped update: from a rollout with advantages to the gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf.config_ppo import PPOSection
from rlhf.data.encoding import by_length
from rlhf.errors import TrainingError
from rlhf.model.base import SharedBase
from rlhf.ops import kl
from rlhf.ops.losses import policy_loss, value_loss
from rlhf.ops.masked import masked_sum
from rlhf.ppo.control import Cycle
from rlhf.ppo.critic import Critic
from rlhf.ppo.roles import POLICY, VALUE
from rlhf.ppo.rollout import Responses, Rollout, forward_responses, forward_rows, micro_batches

Demonstration = tuple[list[int], list[int]]  # prompt and response tokens


@dataclass
class Batch:
    """A rollout ready for learning; all tensors `(B, T)`; `kl_coef` weighs KL in the loss (0: it is in the reward)."""

    rollout: Rollout
    logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    kl_coef: float = 0.0


class Learner:
    """What an update works with; `demonstrations` are for the ptx loss, `order` shuffles alike in every process."""

    def __init__(
        self,
        base: SharedBase,
        section: PPOSection,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        order: torch.Generator,
        critic: Critic | None,
        demonstrations: tuple[Demonstration, ...] = (),
    ) -> None:
        self.base, self.section, self.optimizer, self.accelerator = base, section, optimizer, accelerator
        self.order, self.critic, self.demonstrations = order, critic, demonstrations
        self.demonstration_cycle = Cycle(len(demonstrations))
        if section.ptx_coef > 0 and not demonstrations:
            raise TrainingError("ppo.ptx_coef: is above 0, but there are no demonstrations; set data.demonstrations")

    def next_demonstrations(self) -> list[Demonstration]:
        """This process's share of the next `ptx_batch_size` demonstrations."""
        taken = self.demonstration_cycle.take(self.section.ptx_batch_size, self.order)
        mine = taken[self.accelerator.process_index :: self.accelerator.num_processes]
        return [self.demonstrations[i] for i in mine]


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
        sums = dict(self.sums)
        tokens, first, demonstrated = (max(sums.pop(k, 0.0), 1.0) for k in ("tokens", "first_tokens", "ptx_tokens"))
        divisors = {"generation_logprob_gap": first, "ptx_loss": demonstrated}
        means = {name: total / divisors.get(name, tokens) for name, total in sums.items()}
        norms = self.grad_norms
        return {**means, "ratio_max": self.ratio_max, "grad_norm": sum(norms) / max(len(norms), 1), "steps": self.steps}


def clipped_update(learner: Learner, batch: Batch, after_step: Callable[[], None]) -> dict[str, float]:
    """`ppo_epochs` passes over the batch in shuffled mini-batches, one step each (Schulman 2017, algorithm 1).

    Returns the means over all tokens and passes; stops early where `target_kl` says so.
    """
    section, accelerator, totals = learner.section, learner.accelerator, Totals()
    size = section.mini_batch_size // accelerator.num_processes
    for _ in range(section.ppo_epochs):
        seen = dict(totals.sums)
        order = torch.randperm(len(batch.rollout.responses), generator=learner.order).tolist()
        for start in range(0, len(order), size):
            _optimizer_step(learner, batch, order[start : start + size], totals)
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


def _optimizer_step(learner: Learner, batch: Batch, rows: list[int], totals: Totals) -> None:
    """One mini-batch: gradients summed over micro-batches and processes, divided by its tokens, clipped, applied."""
    base, section, accelerator, critic = learner.base, learner.section, learner.accelerator, learner.critic
    tokens = _total(accelerator, float(batch.rollout.response_mask[rows].sum()))
    learner.optimizer.zero_grad(set_to_none=True)
    for micro in micro_batches(batch.rollout, rows, section.micro_batch_size, section.micro_batch_tokens):
        with base.active(POLICY, train=True):
            out, loss = _policy_loss(learner, batch, micro, totals)
            if critic is None or not critic.shares_trunk:
                (loss / tokens).backward()
            else:  # one forward for both
                with critic.training():
                    features = out.hidden if section.value_trunk_gradient else out.hidden.detach()
                    values = out.scatter(base.apply_head(VALUE, features), batch.values[micro, : _width(batch, micro)])
                    ((loss + _value_loss(learner, batch, micro, values, totals)) / tokens).backward()
        if critic is not None and not critic.shares_trunk:
            with critic.training():
                values = critic.fit(batch.rollout, micro, None)
                (_value_loss(learner, batch, micro, values, totals) / tokens).backward()
    if section.ptx_coef > 0:
        _demonstrations_backward(learner, totals)
    parameters = [p for group in learner.optimizer.param_groups for p in group["params"]]
    if accelerator.num_processes > 1:
        for parameter in parameters:
            parameter.grad = accelerator.reduce(parameter.grad, "sum")
    norm = torch.nn.utils.clip_grad_norm_(parameters, section.max_grad_norm)
    if not torch.isfinite(norm):
        raise TrainingError(f"ppo: the gradient's norm is {float(norm)}; lower ppo.learning_rate or ppo.score_clip")
    learner.optimizer.step()
    totals.grad_norms.append(float(norm))
    totals.steps += 1


def _policy_loss(learner: Learner, batch: Batch, rows: list[int], totals: Totals) -> tuple[Responses, Tensor]:
    """L_policy - entropy_coef H + kl_coef KL, summed over the micro-batch's response tokens."""
    section, rollout = learner.section, batch.rollout
    width = _width(batch, rows)
    old, advantages = batch.logprobs[rows, :width], batch.advantages[rows, :width]
    mask = rollout.response_mask[rows, :width]
    out = forward_rows(learner.base, rollout, rows)
    logprobs, entropies = learner.base.token_logprobs(
        out.hidden,
        out.tokens,
        section.temperature,
        with_entropy=section.entropy_coef > 0,
        allowed=rollout.kept(rows),
    )
    new = out.scatter(logprobs, old)
    loss, ratio, clipped = policy_loss(new, old, advantages, mask, section.clip_range)
    totals.add(
        tokens=mask.sum(),
        policy_loss=loss,
        clip_fraction=clipped,
        ratio_mean=masked_sum(ratio, mask),
        approx_kl=masked_sum(kl.k3(old, new.detach()), mask),
    )
    totals.ratio_max = max(totals.ratio_max, float(ratio.max()))
    if totals.steps == 0:  # the policy has not moved yet: what differs from the rollout's logprobs is rounding
        totals.add(first_tokens=mask.sum(), generation_logprob_gap=masked_sum((new.detach() - old).abs(), mask))
    if entropies is not None:
        loss = loss - section.entropy_coef * entropies.sum()
    if batch.kl_coef > 0:
        penalty = kl.ESTIMATORS[section.kl.estimator](new, batch.ref_logprobs[rows, :width])
        loss = loss + batch.kl_coef * masked_sum(penalty, mask)
    return out, loss


def _width(batch: Batch, rows: list[int]) -> int:
    """The longest response at `rows`."""
    return max(len(batch.rollout.responses[i]) for i in rows)


def _value_loss(learner: Learner, batch: Batch, rows: list[int], values: Tensor, totals: Totals) -> Tensor:
    """vf_coef L_value, summed over the micro-batch's response tokens."""
    width = values.shape[1]
    mask = batch.rollout.response_mask[rows, :width]
    old, returns = batch.values[rows, :width], batch.returns[rows, :width]
    loss, clipped = value_loss(values, old, returns, mask, learner.section.clip_range_value)
    totals.add(value_loss=loss, value_clip_fraction=clipped)
    return learner.section.vf_coef * loss


def _demonstrations_backward(learner: Learner, totals: Totals) -> None:
    """The gradient of ptx_coef times the mean loss a token on demonstrations (Ouyang 2022, eq. 2)."""
    some = learner.next_demonstrations()
    tokens = _total(learner.accelerator, float(sum(len(response) for _, response in some)))
    lengths = [len(p) + len(r) for p, r in some]
    for micro in by_length(lengths, learner.section.micro_batch_size, learner.section.micro_batch_tokens):
        with learner.base.active(POLICY, train=True):
            out = forward_responses(learner.base, [some[i][0] for i in micro], [some[i][1] for i in micro])
            loss = -learner.base.token_logprobs(out.hidden, out.tokens)[0].sum()
            (learner.section.ptx_coef * loss / tokens).backward()
        totals.add(ptx_loss=loss, ptx_tokens=len(out.tokens))


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
