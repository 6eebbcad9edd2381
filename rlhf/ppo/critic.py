"""Who says what a response is worth while it is written: a head on the policy's trunk, or an adapter of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf.config_ppo import PPOSection
from rlhf.errors import ArtifactError
from rlhf.model.base import SharedBase
from rlhf.ops.masked import masked_sum
from rlhf.ppo.roles import REWARD, VALUE
from rlhf.ppo.rollout import Rollout, forward_rows, micro_batches, response_features


class Critic(Protocol):
    """A value function V(s_t) on the shared base; its parameters train inside `training` alone."""

    shares_trunk: bool  # whether the policy's own forward gives the features that its head reads

    def groups(self) -> list[dict[str, Any]]:
        """Its parameters for the optimizer, with their rates."""

    def values(self, rollout: Rollout, features: Tensor | None) -> Tensor:
        """Values `(B, T)`, 0 outside the mask, without gradients; `features` `(B, T, H)` where the trunk is shared."""

    def fit(self, rollout: Rollout, rows: list[int], features: Tensor | None) -> Tensor:
        """Values `(b, T)` of the responses at `rows`, with gradients; T is the longest of them."""

    def training(self) -> contextlib.AbstractContextManager[None]:
        """Inside, its parameters have gradients; forward and backward both belong there."""


class HeadCritic:
    """`critic: head`: a scalar head on the policy's trunk, so that one forward serves both; it starts at zero."""

    shares_trunk = True

    def __init__(self, base: SharedBase, section: PPOSection) -> None:
        self.base, self.section = base, section
        self.weight = base.add_head(VALUE).weight

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.weight], "lr": self.section.value_learning_rate}]

    def values(self, rollout: Rollout, features: Tensor | None) -> Tensor:
        assert features is not None
        with torch.no_grad():
            return self.base.apply_head(VALUE, features) * rollout.response_mask

    def fit(self, rollout: Rollout, rows: list[int], features: Tensor | None) -> Tensor:
        assert features is not None
        width = max(len(rollout.responses[i]) for i in rows)
        return self.base.apply_head(VALUE, features[rows, :width])

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        self.weight.requires_grad_(True)
        try:
            yield
        finally:
            self.weight.requires_grad_(False)


class AdapterCritic:
    """`critic: adapter`: LoRA and head of its own, at first a copy of the reward model (Ouyang 2022, appendix C.4).

    Twice the forwards and backwards of an update, and what TRL's trainer did with four models.
    """

    shares_trunk = False

    def __init__(self, base: SharedBase, section: PPOSection) -> None:
        if REWARD not in base.adapters:
            raise ArtifactError(
                f"ppo.critic: adapter is a copy of adapter {REWARD!r} at first, which is not on this base"
            )
        base.copy_adapter(REWARD, VALUE)
        self.base, self.section = base, section

    def groups(self) -> list[dict[str, Any]]:
        *lora, head = self.base.adapter_parameters(VALUE)
        return [
            {"params": lora, "lr": self.section.learning_rate},
            {"params": [head], "lr": self.section.value_learning_rate},
        ]

    def values(self, rollout: Rollout, features: Tensor | None) -> Tensor:
        with torch.no_grad():
            return self.base.apply_head(VALUE, response_features(self.base, VALUE, rollout)) * rollout.response_mask

    def fit(self, rollout: Rollout, rows: list[int], features: Tensor | None) -> Tensor:
        out = forward_rows(self.base, rollout, rows)
        width = max(len(rollout.responses[i]) for i in rows)
        return out.scatter(self.base.apply_head(VALUE, out.hidden), rollout.logprobs[rows, :width])

    def training(self) -> contextlib.AbstractContextManager[None]:
        return self.base.active(VALUE, train=True)


def build_critic(section: PPOSection, base: SharedBase) -> Critic | None:
    """The section's critic; None for an estimator that has none."""
    if section.advantage_estimator != "gae":
        return None
    return HeadCritic(base, section) if section.critic == "head" else AdapterCritic(base, section)


def warm_up(
    critic: Critic,
    section: PPOSection,
    rollout: Rollout,
    features: Tensor | None,
    targets: Tensor,
    accelerator: Accelerator,
) -> None:
    """Fit the critic, and nothing else, to the first rollout's rewards-to-go `targets` `(B, T)`.

    A head at zero (or one that scores whole responses) would make the first advantages noise.
    """
    groups = critic.groups()
    parameters = [p for group in groups for p in group["params"]]
    optimizer = torch.optim.AdamW(groups)
    for _ in range(section.value_warmup_epochs):
        for some in torch.arange(len(targets)).split(section.micro_batch_size):  # as many steps in every process
            optimizer.zero_grad(set_to_none=True)
            tokens = rollout.response_mask[some].sum()
            for rows in micro_batches(rollout, some.tolist(), section.micro_batch_size, section.micro_batch_tokens):
                with critic.training():
                    found = critic.fit(rollout, rows, features)
                    error = (found - targets[rows, : found.shape[1]]) ** 2
                    (masked_sum(error, rollout.response_mask[rows, : found.shape[1]]) / tokens).backward()
            if accelerator.num_processes > 1:
                for parameter in parameters:
                    parameter.grad = accelerator.reduce(parameter.grad, "mean")
            optimizer.step()
    for parameter in parameters:
        parameter.grad = None
