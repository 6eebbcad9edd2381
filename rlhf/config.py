"""Every configuration of the toolkit: what a key means, its range and default; how a file becomes a checked `Config`.

`load(path, overrides)` reads YAML, applies `key=value` overrides, and refuses unknown keys (naming the nearest known
one), wrong types, values out of range and parts that do not fit together, before any model loads. No torch here.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from rlhf.config_yaml import read_yaml, shown
from rlhf.errors import ConfigError

Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Above0 = Annotated[float, Field(gt=0)]
Epsilon = Annotated[float, Field(gt=0, le=1e-2)]
Temperature = Annotated[float, Field(gt=0, le=10)]


def _divides(small: int, small_name: str, large: int, large_name: str) -> None:
    if large % small:
        raise ValueError(f"{large_name} ({large}) must be a multiple of {small_name} ({small})")


def _check_judge(name: str) -> None:
    kind, sign, rest = name.partition(":")
    if not sign or not kind or not rest or (kind != "adapter" and not rest.isidentifier()):
        raise ValueError(f"{name!r} is no judge; expected `adapter:NAME` or `module:function`")


class Section(BaseModel):
    """A part of a config: unknown keys are errors, numbers must be finite, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True, strict=False)

    @field_validator("*", mode="before")
    @classmethod
    def _readable(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads `yes` as true, which pydantic would take for the number 1; no file name can hold a NUL."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError(f"found {value}, a truth value; expected a number, a text or a section")
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"found {value!r}, which holds a NUL character; remove it")
        return value


class LoraSection(Section):
    """Low-rank adapters (Hu 2021): the only weights that train."""

    rank: Annotated[int, Field(ge=1, le=1024)] = Field(16, description="rank r of every adapter")
    alpha: Above0 = Field(32, description="scale: the update is multiplied by alpha / rank")
    target_modules: str | list[str] = Field("all-linear", description="PEFT target modules, or `all-linear`")

    @model_validator(mode="after")
    def _trains(self) -> LoraSection:
        if not self.target_modules:
            raise ValueError("target_modules: names no module, so nothing would train; name some, or write all-linear")
        return self


class ModelSection(Section):
    """The one base model that all stages share, loaded once and frozen."""

    name: str = Field("builtin:smollm2-135m", min_length=1, description="builtin name, hub name or folder")
    quantization: Literal["nf4", "int8", "bf16", "fp32"] = Field("nf4", description="how the frozen weights are held")
    compute_dtype: Literal["bf16", "fp32"] = Field("bf16", description="precision of activations; adapters stay fp32")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto takes a GPU where there is one")
    lora: LoraSection = LoraSection()
    gradient_checkpointing: bool = Field(False, description="recompute activations: much less memory, about 1.3x time")
    max_length: Annotated[int, Field(ge=16)] = Field(1024, description="longest prompt + completion, in tokens")


class DataSection(Section):
    """Where demonstrations, prompts and rankings come from: `builtin:NAME`, a file, or a `datasets` name."""

    demonstrations: str | None = Field(None, description="for SFT: prompt + completion rows")
    prompts: str | None = Field(None, description="for PPO, evaluation and sampling")
    eval_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="share of prompt groups held out")
    over_long: Literal["refuse", "skip"] = Field(
        "refuse",
        description="rows longer than model.max_length (or prompts without room to answer): stop, or skip and count",
    )


class StoreSection(Section):
    """The label store."""

    url: str | None = Field(None, description="SQLite file or database URL; default: labels.db in the run directory")


class OptimizerSection(Section):
    """AdamW with linear warm-up and a schedule, as every stage uses it."""

    learning_rate: Rate = Field(2e-4, description="AdamW's step size at its highest")
    warmup_fraction: Fraction = Field(0.05, description="share of the steps over which the rate rises from 0")
    schedule: Literal["constant", "linear", "cosine"] = Field("linear", description="what the rate does after warm-up")
    weight_decay: NonNegative = Field(0.0, description="AdamW's decoupled decay of the adapter's weights")
    adam_eps: Epsilon = Field(1e-8, description="AdamW's epsilon")
    max_grad_norm: Above0 = Field(1.0, description="clip the gradient's norm to this")


class SFTSection(OptimizerSection):
    """Supervised fine-tuning on demonstrations (TRL's SFTTrainer); loss on completions only."""

    batch_size: Positive = Field(16, description="demonstrations in one optimizer step")
    micro_batch_size: Positive = Field(16, description="demonstrations in one forward and backward")
    epochs: Above0 = Field(1.0, description="passes over the demonstrations")
    max_steps: Positive | None = Field(None, description="stop after this many optimizer steps, whatever `epochs` says")
    max_examples: Positive | None = Field(None, description="take this many demonstrations at most (a seeded sample)")
    eval_examples: Annotated[int, Field(ge=0)] = Field(128, description="held-out demonstrations for the loss; 0: none")

    @model_validator(mode="after")
    def _fits(self) -> SFTSection:
        _divides(self.micro_batch_size, "micro_batch_size", self.batch_size, "batch_size")
        return self


class RewardSection(OptimizerSection):
    """A reward model from the store's rankings: K-wise loss (Ouyang 2022, eq. 1)."""

    rankings: str | None = Field(None, description="source imported into the store first; null: only what it holds")
    batches: list[str] | None = Field(None, description="which of the store's batches to train on; null: all of them")
    eval_rankings: str | None = Field(None, description="held-out rankings; null: a hash split of the training ones")
    batch_size: Positive = Field(8, description="rankings in one optimizer step")
    micro_batch_size: Positive = Field(8, description="rankings in one forward and backward")
    epochs: Above0 = Field(1.0, description="passes over the rankings; more than one overfits (Ouyang 2022)")
    max_rankings: Positive | None = Field(None, description="take this many rankings at most (a seeded sample)")
    max_eval_rankings: Positive | None = Field(None, description="take this many held-out rankings at most")
    ties: Literal["skip", "rao-kupper"] = Field("skip", description="leave ties out, or model them (Rao & Kupper 1967)")
    tie_threshold: Annotated[float, Field(gt=1, le=10)] = Field(1.5, description="Rao-Kupper's theta; 1 means no ties")

    @model_validator(mode="after")
    def _fits(self) -> RewardSection:
        _divides(self.micro_batch_size, "micro_batch_size", self.batch_size, "batch_size")
        return self


class KLSection(Section):
    """How the policy is held near the reference: per-token KL in the reward (Ziegler 2019, section 2.2)."""

    coef: NonNegative = Field(0.05, description="kl_coef: first (or fixed) coefficient of logprobs - ref_logprobs")
    controller: Literal["adaptive", "fixed"] = Field("adaptive", description="adaptive: coef is steered to the target")
    target: Above0 = Field(6.0, description="nats a response that the controller steers to")
    horizon: Above0 = Field(10_000, description="episodes over which the controller acts")
    limit: Above0 = Field(50.0, description="stop the run when a batch's mean KL passes this")


class LengthSection(Section):
    """Keeps the policy's mean response length near the reference's, so that length cannot be what is learned."""

    level: bool = Field(
        False, description="reward at equal length: take off what a token of length was worth in each rollout"
    )
    controller: Literal["off", "adaptive"] = Field(
        "off", description="adaptive: score + c * (length - target) / target, c steered until the mean meets the target"
    )
    gain: Above0 = Field(4.0, description="c's answer to the relative error of the mean length at hand")
    integral: NonNegative = Field(0.5, description="c's answer to the errors of all rounds so far, added up")
    limit: Above0 = Field(3.0, description="c stays within ± this many score deviations")


class PPOSection(OptimizerSection):
    """Proximal policy optimisation (Schulman 2017) as N+ implementation details of RLHF (Huang 2024) has it."""

    adam_eps: Epsilon = Field(1e-5, description="AdamW's epsilon")
    learning_rate: Rate = Field(1e-4, description="AdamW's step size at its highest")
    updates: Positive = Field(20, description="rollout + optimisation rounds")
    rollout_batch_size: Positive = Field(64, description="responses sampled in one round")
    mini_batch_size: Positive = Field(32, description="responses in one optimizer step")
    micro_batch_size: Positive = Field(16, description="responses in one forward and backward")
    ppo_epochs: Annotated[int, Field(ge=1, le=32)] = Field(4, description="passes over each round's rollout")
    gamma: Rate = Field(1.0, description="discount of a later token's reward")
    lam: Annotated[float, Field(ge=0, le=1)] = Field(0.95, description="GAE's lambda: 1 is unbiased, less is calmer")
    clip_range: Annotated[float, Field(gt=0, lt=1)] = Field(0.2, description="ratio is clipped to 1 ± this")
    clip_range_value: Above0 = Field(0.2, description="new values are clipped to the rollout's ± this")
    vf_coef: NonNegative = Field(0.1, description="weight of the value loss beside the policy loss")
    value_warmup_epochs: Annotated[int, Field(ge=0)] = Field(4, description="value-only passes over the first rollout")
    value_trunk_gradient: bool = Field(False, description="whether the value loss also trains the policy's adapter")
    value_learning_rate: Rate = Field(1e-3, description="rate of the value head alone")
    entropy_coef: NonNegative = Field(0.0, description="weight of an entropy bonus")
    target_kl: Above0 | None = Field(None, description="stop a round's epochs when KL(old, new), by k3, passes this")
    whiten_advantages: bool = Field(True, description="mean 0 and deviation 1 over a rollout's response tokens")
    kl: KLSection = KLSection()
    length: LengthSection = LengthSection()
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
    max_new_tokens: Positive = Field(48, description="a response is cut off after this many tokens")
    temperature: Temperature = Field(1.0, description="logits are divided by this in sampling and in every pass")
    max_prompts: Positive | None = Field(None, description="take this many training prompts at most (a seeded sample)")
    checkpoint_every: Positive = Field(5, description="rounds between checkpoints")

    @model_validator(mode="after")
    def _fits(self) -> PPOSection:
        _divides(self.mini_batch_size, "mini_batch_size", self.rollout_batch_size, "rollout_batch_size")
        _divides(self.micro_batch_size, "micro_batch_size", self.mini_batch_size, "mini_batch_size")
        if not self.rewards:
            raise ValueError("rewards: at least one `adapter:NAME` or `module:function` is needed")
        for name in self.rewards:
            _check_judge(name)
        return self


class EvaluateSection(Section):
    """The policy beside SFT on held-out prompts: scores by several judges, KL, length, diversity, samples."""

    prompts: Positive = Field(200, description="held-out prompts")
    judges: dict[str, str] = Field(
        {"reward": "adapter:reward"}, description="name: `adapter:NAME` or `module:function`, by which texts are scored"
    )
    batch_size: Positive = Field(64, description="prompts answered at once")
    bootstrap: Annotated[int, Field(ge=100)] = Field(2000, description="resamples of the prompts for the intervals")
    shown_samples: Positive = Field(20, description="prompts shown side by side in the report")

    @model_validator(mode="after")
    def _known(self) -> EvaluateSection:
        for judge in self.judges.values():
            _check_judge(judge)
        return self


class ExportSection(Section):
    """The aligned adapter, as plain PEFT loads it."""

    base_model_name: str | None = Field(None, description="written into adapter_config.json; default: the model's name")
    verify: bool = Field(True, description="load it in a fresh process and compare logits")
    tolerance: Above0 = Field(1e-3, description="largest logit difference that passes")
    drift_prompts: Annotated[int, Field(ge=0)] = Field(16, description="prompts for the drift to a bf16 base; 0: skip")


class SampleSection(Section):
    """Completions for people to rank, put into the label store."""

    adapter: Literal["sft", "policy"] = Field("policy", description="which adapter writes the completions")
    prompts: Positive = Field(25, description="how many tasks")
    completions: Annotated[int, Field(ge=2, le=9)] = Field(4, description="K: completions a prompt")
    batch: str = Field("policy-samples", min_length=1, description="name of the batch in the store")
    overlap: Positive = Field(1, description="people who rank each task")
    temperature: Temperature = Field(1.0, description="of the sampling")


class Config(Section):
    """A whole run. Every stage reads its own section; `run_dir` holds what they write."""

    run_dir: str = Field("runs/default", min_length=1, description="folder that the run writes, and goes on from")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(1, description="of everything that is drawn by chance")
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    store: StoreSection = StoreSection()
    sft: SFTSection = SFTSection()
    reward: RewardSection = RewardSection()
    gold: RewardSection | None = Field(None, description="a second reward model for evaluation alone, on other labels")
    ppo: PPOSection = PPOSection()
    evaluate: EvaluateSection = EvaluateSection()
    export: ExportSection = ExportSection()
    sample: SampleSection = SampleSection()

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.ppo.max_new_tokens >= self.model.max_length:
            raise ValueError(
                f"ppo.max_new_tokens ({self.ppo.max_new_tokens}) must be smaller than model.max_length "
                f"({self.model.max_length}): a prompt needs room too"
            )
        known = ["reward"] + (["gold"] if self.gold else [])
        for where, judges in (("ppo.rewards", self.ppo.rewards), ("evaluate.judges", self.evaluate.judges.values())):
            for judge in judges:
                if judge.startswith("adapter:") and judge.removeprefix("adapter:") not in known:
                    raise ValueError(
                        f"{where}: {judge!r} is not trained by this config; known reward adapters: {', '.join(known)}"
                    )
        if "adapter:gold" in self.ppo.rewards:
            raise ValueError("ppo.rewards: 'adapter:gold' must stay unseen by training; it is the evaluation's judge")
        if self.gold and self.gold.batches and self.reward.batches:
            shared = sorted(set(self.gold.batches) & set(self.reward.batches))
            if shared:
                raise ValueError(
                    f"gold.batches and reward.batches share {', '.join(shared)}; gold must have labels of its own"
                )
        if self.gold and not (self.gold.batches and self.reward.batches):
            raise ValueError("with a gold section, name both reward.batches and gold.batches, so that they stay apart")
        return self

    @property
    def run_path(self) -> Path:
        """The run directory."""
        return Path(self.run_dir)

    @property
    def store_url(self) -> str:
        """The label store: as configured, else `labels.db` in the run directory."""
        return self.store.url or str(self.run_path / "labels.db")


def load(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Read a YAML config, apply `section.key=value` overrides (values are YAML), and check everything.

    Raises:
        ConfigError: one line naming file, key, what was found, what was expected, and the fix.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such config file{_similar_file(file)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as UTF-8 text: {error}") from None
    raw = read_yaml(text, str(file))
    raw = {} if raw is None else raw
    if not isinstance(raw, dict):
        raise ConfigError(f"{file}: expected a mapping of sections at the top, found {type(raw).__name__}")
    for override in overrides:
        _apply(raw, override)
    return parse(raw, str(file))


def parse(raw: Mapping[str, Any], where: str) -> Config:
    """Check a mapping that already lies in memory; `where` names it in errors."""
    try:
        return Config.model_validate(dict(raw))
    except ValidationError as error:
        raise ConfigError(_explain(error, where)) from None


def dump(config: Config) -> str:
    """The resolved config as YAML, every default written out; `load` reads it back equal."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _apply(raw: dict[str, Any], override: str) -> None:
    key, sign, value = override.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"override {override!r}: expected key=value, for example ppo.updates=10")
    parts = key.strip().split(".")
    target = raw
    for part in parts[:-1]:
        following = target.get(part)
        if following is None:
            following = target[part] = {}
        if not isinstance(following, dict):
            raise ConfigError(f"override {override!r}: {part!r} is a value, not a section")
        target = following
    target[parts[-1]] = read_yaml(value, f"override {shown(override)}", line=False)


def _explain(error: ValidationError, where: str) -> str:
    """The first fault in one line; the number of the others behind it."""
    faults = error.errors(include_url=False)
    first = faults[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _known_keys(first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys here: {', '.join(known)}"
        text = f"unknown key '{key}'; {hint}"
    elif first["type"] == "value_error":
        text = (f"{key}: " if key else "") + str(first["ctx"]["error"])
    else:
        message = first["msg"][0].lower() + first["msg"][1:]
        text = f"{key}: found {shown(first['input'])}; {message}"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{where}: {text}{more}"


def _known_keys(loc: Sequence[int | str]) -> list[str]:
    model: Any = Config
    for part in loc:
        field = model.model_fields.get(str(part)) if isinstance(model, type) and issubclass(model, Section) else None
        if field is None:
            return []
        options = get_args(field.annotation) if get_origin(field.annotation) else (field.annotation,)
        model = next((o for o in options if isinstance(o, type) and issubclass(o, Section)), None)
        if model is None:
            return []
    return list(model.model_fields)


def _similar_file(file: Path) -> str:
    folder = file.parent if file.parent.is_dir() else Path("configs")
    names = [str(p) for p in sorted(folder.rglob("*.yaml"))]
    near = difflib.get_close_matches(str(file), names, n=1, cutoff=0.4)
    return f"; did you mean {near[0]}?" if near else ""
