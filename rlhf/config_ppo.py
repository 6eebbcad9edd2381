"""PPO's part of a config: each detail of the algorithm is a key with its range, its default and its paper."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rlhf.config_base import (
    Above0,
    Epsilon,
    NonNegative,
    OptimizerSection,
    Positive,
    Rate,
    Section,
    Temperature,
    check_judge,
    divides,
)


class KLSection(Section):
    """How the policy is held near the reference (Ziegler 2019, section 2.2; Schulman 2020 for the estimators)."""

    coef: NonNegative = Field(0.05, description="kl_coef: first (or fixed) coefficient of the KL penalty")
    place: Literal["reward", "loss"] = Field(
        "reward", description="where the penalty acts: taken off each token's reward, or added to the policy's loss"
    )
    estimator: Literal["k1", "k2", "k3"] = Field(
        "k1", description="k1 is right in the reward, k2 in the loss; k2 and k3 elsewhere are biased (Schulman 2020)"
    )
    controller: Literal["adaptive", "fixed"] = Field("adaptive", description="adaptive: coef is steered to the target")
    target: Above0 = Field(6.0, description="nats a response that the controller steers to")
    horizon: Above0 = Field(10_000, description="episodes over which the controller acts")
    limit: Above0 = Field(50.0, description="stop the run when a batch's mean KL passes this")

    @model_validator(mode="after")
    def _has_a_gradient(self) -> KLSection:
        if self.place == "loss" and self.estimator == "k1":
            raise ValueError(
                "estimator: k1 in the loss has an expected gradient of zero and would hold nothing; "
                "set estimator=k2 (or place=reward)"
            )
        return self


class LengthSection(Section):
    """Keeps the policy's mean response length near the reference's, so that length cannot be what is learned."""

    level: bool = Field(
        False, description="reward at equal length: take off what a token of length was worth in each rollout"
    )
    controller: Literal["off", "fixed", "adaptive"] = Field(
        "off", description="score + c * (length - target) / target: c fixed, or steered until the mean is the target"
    )
    coef: Annotated[float, Field(ge=-100, le=100)] = Field(
        0.0, description="c where it is fixed, in score deviations; negative: a penalty on length"
    )
    gain: Above0 = Field(4.0, description="c's answer to the relative error of the mean length at hand")
    integral: NonNegative = Field(0.5, description="c's answer to the errors of all rounds so far, added up")
    limit: Above0 = Field(3.0, description="c stays within ± this many score deviations")

    @model_validator(mode="after")
    def _is_used(self) -> LengthSection:
        if self.coef != 0.0 and self.controller != "fixed":
            raise ValueError(f"coef: found {self.coef:g} with controller={self.controller}; set controller=fixed")
        return self


class PPOSection(OptimizerSection):
    """Proximal policy optimisation (Schulman 2017) as N+ implementation details of RLHF (Huang 2024) has it."""

    # What a round is
    updates: Positive = Field(20, description="rollout + optimisation rounds")
    rollout_batch_size: Positive = Field(64, description="responses sampled in one round")
    samples_per_prompt: Positive = Field(
        1, description="responses to each prompt of a round; rloo and grpo compare them"
    )
    mini_batch_size: Positive = Field(32, description="responses in one optimizer step")
    micro_batch_size: Positive = Field(16, description="responses in one forward and backward, at most")
    micro_batch_tokens: Positive | None = Field(
        None, description="tokens (padding too) in one forward and backward, at most; one response always fits"
    )
    ppo_epochs: Annotated[int, Field(ge=1, le=32)] = Field(4, description="passes over each round's rollout")
    max_prompts: Positive | None = Field(None, description="take this many training prompts at most (a seeded sample)")
    checkpoint_every: Positive = Field(5, description="rounds between checkpoints")

    # Sampling
    engine: Literal["native", "generate"] = Field(
        "native", description="what samples: our own decode loop, or transformers' `generate`"
    )
    max_new_tokens: Positive = Field(48, description="a response is cut off after this many tokens")
    temperature: Temperature = Field(1.0, description="logits are divided by this in sampling and in every pass")
    top_k: Annotated[int, Field(ge=2)] | None = Field(
        None, description="sample from the k likeliest tokens; old and new logprobs too"
    )
    top_p: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="sample from the fewest tokens that hold this probability; old and new logprobs too"
    )
    old_logprobs: Literal["recompute", "rollout"] = Field(
        "recompute", description="the ratio's denominator: by the training forward (exact), or as sampled (a pass less)"
    )

    # What a response is worth
    rewards: dict[str, float] = Field(
        {"adapter:reward": 1.0}, description="what scores a response: `adapter:NAME` or `module:function`, with weights"
    )
    normalize_samples: Annotated[int, Field(ge=2)] = Field(
        128, description="responses of the reference from which the score's mean and deviation are taken"
    )
    score_clip: Above0 = Field(5.0, description="normalised scores are clipped to ± this")
    missing_eos: Literal["score", "penalty", "none"] = Field(
        "score", description="a response cut off: gets a fixed normalised score, loses a penalty, or nothing happens"
    )
    missing_eos_value: float = Field(-1.0, description="that score, or (negative) that penalty")
    kl: KLSection = KLSection()
    length: LengthSection = LengthSection()

    # Advantages
    advantage_estimator: Literal["gae", "rloo", "grpo", "reinforce++"] = Field(
        "gae",
        description="GAE with a critic (Schulman 2016); without one: leave-one-out (Ahmadian 2024), group-normalised "
        "(Shao 2024), or reward-to-go over the whole batch (Hu 2025)",
    )
    critic: Literal["head", "adapter"] = Field(
        "head",
        description="gae's value model: a head on the policy's trunk, or an adapter of its own (a copy of reward)",
    )
    gamma: Rate = Field(1.0, description="discount of a later token's reward")
    lam: Annotated[float, Field(ge=0, le=1)] = Field(0.95, description="GAE's lambda: 1 is unbiased, less is calmer")
    whiten_advantages: bool = Field(True, description="mean 0 and deviation 1 over a rollout's response tokens")

    # The update
    adam_eps: Epsilon = Field(1e-5, description="AdamW's epsilon")
    learning_rate: Rate = Field(1e-4, description="AdamW's step size at its highest")
    clip_range: Annotated[float, Field(gt=0, lt=1)] = Field(0.2, description="ratio is clipped to 1 ± this")
    clip_range_value: Above0 = Field(0.2, description="new values are clipped to the rollout's ± this")
    vf_coef: NonNegative = Field(0.1, description="weight of the value loss beside the policy loss")
    value_warmup_epochs: Annotated[int, Field(ge=0)] = Field(4, description="value-only passes over the first rollout")
    value_trunk_gradient: bool = Field(
        False, description="critic=head: whether the value loss also trains the policy's adapter"
    )
    value_learning_rate: Rate = Field(1e-3, description="rate of the value head alone")
    entropy_coef: NonNegative = Field(0.0, description="weight of an entropy bonus")
    min_entropy: NonNegative = Field(
        0.01,
        description="stop the run when the mean entropy of what is sampled from falls below this (nats a token)",
    )
    target_kl: Above0 | None = Field(None, description="stop a round's epochs when KL(old, new), by k3, passes this")
    ptx_coef: NonNegative = Field(
        0.0, description="weight of the loss on SFT's demonstrations in every step (Ouyang 2022, eq. 2)"
    )
    ptx_batch_size: Positive = Field(16, description="demonstrations in an optimizer step, where ptx_coef is above 0")

    @model_validator(mode="after")
    def _fits(self) -> PPOSection:
        divides(self.mini_batch_size, "mini_batch_size", self.rollout_batch_size, "rollout_batch_size")
        divides(self.micro_batch_size, "micro_batch_size", self.mini_batch_size, "mini_batch_size")
        divides(self.samples_per_prompt, "samples_per_prompt", self.rollout_batch_size, "rollout_batch_size")
        if self.missing_eos == "penalty" and self.missing_eos_value > 0:
            raise ValueError(
                f"missing_eos_value: found {self.missing_eos_value:g}, which would pay for never ending; "
                "a penalty is 0 or below"
            )
        if not self.rewards:
            raise ValueError("rewards: at least one `adapter:NAME` or `module:function` is needed")
        for name in self.rewards:
            check_judge(name)
        return self

    @model_validator(mode="after")
    def _estimates(self) -> PPOSection:
        estimator = self.advantage_estimator
        if estimator in ("rloo", "grpo") and self.samples_per_prompt < 2:
            raise ValueError(
                f"samples_per_prompt: {estimator} compares responses to the same prompt and needs at least 2, found 1"
            )
        if estimator == "reinforce++" and not self.whiten_advantages:
            raise ValueError("whiten_advantages: reinforce++ is reward-to-go whitened over the batch; leave it true")
        if estimator != "gae" and self.critic != "head":
            raise ValueError(f"critic: found {self.critic!r}, but {estimator} has no critic; leave the key out")
        if self.critic == "adapter" and "adapter:reward" not in self.rewards:
            raise ValueError("critic: 'adapter' starts as a copy of adapter:reward, which is not among rewards")
        if self.critic == "adapter" and self.value_trunk_gradient:
            raise ValueError("value_trunk_gradient: is about critic=head; an adapter's trunk always learns")
        return self

    @model_validator(mode="after")
    def _samples(self) -> PPOSection:
        if self.engine == "generate":
            if self.old_logprobs == "rollout":
                raise ValueError("old_logprobs: engine=generate keeps no logprobs; set recompute (or engine=native)")
            if self.top_k is not None or self.top_p is not None:
                raise ValueError("top_k, top_p: need engine=native, which keeps what each token was sampled from")
        return self
