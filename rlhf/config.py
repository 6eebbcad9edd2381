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
from pydantic import Field, ValidationError, field_validator, model_validator

from rlhf.config_base import (
    Above0,
    OptimizerSection,
    Positive,
    Section,
    Temperature,
    check_judge,
    divides,
)
from rlhf.config_ppo import PPOSection
from rlhf.config_yaml import read_yaml, shown
from rlhf.errors import ConfigError

MOST_RANKED = 9  # completions of one task: a key of the keyboard for each


class LoraSection(Section):
    """Low-rank adapters (Hu 2021): the only weights that train."""

    rank: Annotated[int, Field(ge=1, le=1024)] = Field(16, description="rank r of every adapter")
    alpha: Above0 = Field(32, description="scale: the update is multiplied by alpha / rank")
    target_modules: str | list[str] = Field("all-linear", description="PEFT target modules, or `all-linear`")
    first_layer: Annotated[int, Field(ge=0)] = Field(
        0,
        description="adapters on this layer and above; PPO's passes and epochs share one run of those below",
    )

    @model_validator(mode="after")
    def _trains(self) -> LoraSection:
        if not self.target_modules:
            raise ValueError("target_modules: names no module, so nothing would train; name some, or write all-linear")
        if self.first_layer and isinstance(self.target_modules, str) and self.target_modules != "all-linear":
            raise ValueError("first_layer: goes with all-linear or a list of target_modules, not with a pattern")
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
    project: str = Field(
        "default", min_length=1, description="which of the store's projects; `rlhf store project` makes one"
    )


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
        divides(self.micro_batch_size, "micro_batch_size", self.batch_size, "batch_size")
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
        divides(self.micro_batch_size, "micro_batch_size", self.batch_size, "batch_size")
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
            check_judge(judge)
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
    against: list[str] | dict[str, str] = Field(
        [],
        description="makes it an arena, on held-out prompts: who else writes one completion each, `sft`, `policy`, "
        "`base` (no adapter), an adapter's folder, or a file of completions; a list, or name: contestant",
    )
    prompts: Positive = Field(25, description="how many tasks")
    completions: Annotated[int, Field(ge=2, le=MOST_RANKED)] = Field(
        4, description="K: completions a prompt, where nothing is `against`"
    )
    batch: str = Field("policy-samples", min_length=1, max_length=200, description="name of the batch in the store")
    overlap: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, description="people who rank each task; null: as the project says"
    )
    temperature: Temperature = Field(1.0, description="of the sampling")

    @field_validator("against", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        texts = [*value, *value.values()] if isinstance(value, dict) else value
        if not isinstance(texts, list) or not all(isinstance(t, str) and t.strip() for t in texts):
            raise ValueError(f"found {shown(value)}; expected a list, as [sft], or a mapping of name: contestant")
        return value

    @model_validator(mode="after")
    def _fits(self) -> SampleSection:
        listed = list(self.against.values()) if isinstance(self.against, dict) else self.against
        names, everybody = [self.adapter, *self.against], [self.adapter, *listed]
        if twice := sorted({n for n in names if names.count(n) > 1} | {w for w in everybody if everybody.count(w) > 1}):
            raise ValueError(f"against: {shown(twice[0])} is in it twice, or is sample.adapter itself; leave one out")
        if len(names) > MOST_RANKED:
            raise ValueError(f"against: {len(names)} contestants are too many to rank; leave {MOST_RANKED} at most")
        return self

    @property
    def contestants(self) -> dict[str, str]:
        """Who writes, by name: `adapter`, then those that it is against."""
        named = self.against if isinstance(self.against, dict) else {what: what for what in self.against}
        return {self.adapter: self.adapter, **named}


class ActiveSection(Section):
    """The order of the label store's tasks, where its project's `order` is `active`: what the reward model lacks."""

    random_share: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.2, description="share of tasks that chance orders; held-out prompts have these places while there are any"
    )
    acquisition: Literal["information", "heads", "gap"] = Field(
        "information",
        description="which tasks come first: those whose labels settle most of what is open of the reward head; those "
        "that bootstrapped heads disagree on; or those whose scores lie closest",
    )
    heads: Annotated[int, Field(ge=2, le=256)] = Field(16, description="bootstrapped heads, for acquisition `heads`")
    max_tasks: Positive = Field(
        1000, description="waiting tasks to choose from (drawn by chance); a forward for each of their completions"
    )


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
    active: ActiveSection = ActiveSection()

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.ppo.max_new_tokens >= self.model.max_length:
            raise ValueError(
                f"ppo.max_new_tokens ({self.ppo.max_new_tokens}) must be smaller than model.max_length "
                f"({self.model.max_length}): a prompt needs room too"
            )
        if self.ppo.ptx_coef > 0 and self.data.demonstrations is None:
            raise ValueError("ppo.ptx_coef: is above 0, but data.demonstrations is not set; name SFT's demonstrations")
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
    return parse(raw, str(file), overrides)


def parse(raw: Mapping[str, Any], where: str, overrides: Sequence[str] = ()) -> Config:
    """Check a mapping that already lies in memory; `where` names it in errors, but for what an override says."""
    try:
        return Config.model_validate(dict(raw))
    except ValidationError as error:
        place = [str(part) for part in error.errors(include_url=False)[0]["loc"]]
        blamed = [o for o in overrides if o.partition("=")[0].strip().split(".")[: len(place)] == place and place]
        raise ConfigError(_explain(error, f"override {blamed[-1]!r}" if blamed else where)) from None


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
