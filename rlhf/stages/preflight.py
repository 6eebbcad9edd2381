"""What can be known to fail is said before a model loads or a file is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.config import Config, LoraSection
from rlhf.data.encoding import Encoder, fit
from rlhf.data.records import Prompt, Ranking
from rlhf.data.sources import BUILTIN, Split, load_demonstrations, load_prompts, load_rankings
from rlhf.data.splits import check_no_leak, split_by_hash
from rlhf.errors import ArtifactError, ConfigError, DataError, StoreError
from rlhf.ppo.roles import REFERENCE
from rlhf.ppo.scoring import probe_judge
from rlhf.preferences import LabelStore, ProjectSettings, intake
from rlhf.preferences.engine import make_engine, schema_version, shown, store_url
from rlhf.preferences.schema import DEFAULT_PROJECT
from rlhf.stages import contestants
from rlhf.stages.common import imported_batch

Recorded = Mapping[str, Mapping[str, Any]]  # entries of the manifest, by stage

# The adapters that a stage reads, and the stage that writes each.
NEEDS = {"ppo": ("sft",), "evaluate": ("sft", "policy"), "export": ("policy",), "active": ("reward",)}
WRITES = {"sft": "sft", "reward": "reward", "gold": "gold", "policy": "ppo"}


def check(config: Config, stages: Sequence[str], recorded: Recorded, base_sha256: str) -> None:
    """Parse every source that the stages read, find their judges, and see that the adapters they need exist.

    `recorded`: the stages on the run's record; `base_sha256`: the source weights of the base that is asked for.

    Raises:
        RLHFError: the first fault found, in one line.
    """
    if "sft" in stages:
        if config.data.demonstrations is None:
            raise ConfigError(
                "data.demonstrations: is not set; SFT needs prompt + completion rows (a file, or a builtin)"
            )
        load_demonstrations(config.data.demonstrations)
    if {"ppo", "evaluate", "sample"} & set(stages):
        if config.data.prompts is None:
            raise ConfigError("data.prompts: is not set; name the prompts to answer (a file, or a builtin)")
        prompts = load_prompts(config.data.prompts, "train", eval_fraction=config.data.eval_fraction)
        if "sample" in stages:
            _check_sampling(config, prompts)
            contestants.check(config, base_sha256)
    if "evaluate" in stages:
        held_out = load_prompts(config.data.prompts or "", "eval", eval_fraction=config.data.eval_fraction)
        if len(held_out) < config.evaluate.prompts:
            raise DataError(
                f"{config.data.prompts}: holds {len(held_out)} held-out prompts, evaluate.prompts asks for "
                f"{config.evaluate.prompts}; ask for fewer, or raise data.eval_fraction"
            )
    if "active" in stages:
        _check_order(config)
    for name in ("reward", "gold"):
        if name in stages:
            _check_rankings(config, name)
    if config.gold is not None and config.gold.rankings is not None and config.gold.rankings == config.reward.rankings:
        raise ConfigError(
            f"gold.rankings and reward.rankings are both {config.gold.rankings}; gold must have labels of its own"
        )
    if "evaluate" in stages:
        _check_leaks(config, stages)
    if "ppo" in stages:
        _check_judges(config, stages, recorded, base_sha256, list(config.ppo.rewards))
    if "evaluate" in stages:
        _check_judges(config, stages, recorded, base_sha256, list(config.evaluate.judges.values()))
    for stage in stages:
        needed = contestants.own_adapters(config.sample) if stage == "sample" else NEEDS.get(stage, ())
        for adapter in needed:
            _check_adapter(config, stages, recorded, base_sha256, adapter)


def check_lengths(config: Config, stages: Sequence[str], encoder: Encoder) -> None:
    """Count the rows that are too long for the model, before it loads; the stages count them again as they read.

    Raises:
        DataError: `data.over_long` is `refuse` and there are some, or nothing would be left.
    """
    data, limit = config.data, config.model.max_length
    if "sft" in stages and data.demonstrations is not None:
        rows = load_demonstrations(data.demonstrations)
        lengths = encoder.lengths([r.prompt for r in rows], [(r.completion,) for r in rows])
        fit(rows, lengths, limit, data.over_long, f"{data.demonstrations} (demonstrations)")
    if {"ppo", "evaluate", "sample"} & set(stages) and data.prompts is not None:
        prompts = load_prompts(data.prompts)
        lengths = encoder.lengths([p.prompt for p in prompts], [()] * len(prompts))
        room = limit - config.ppo.max_new_tokens
        fit(prompts, lengths, room, data.over_long, f"{data.prompts} (prompts, {config.ppo.max_new_tokens} to answer)")
    for name in ("reward", "gold"):
        section = config.reward if name == "reward" else config.gold
        if name in stages and section is not None and section.rankings is not None:
            rankings = load_rankings(section.rankings)
            lengths = encoder.lengths([r.prompt for r in rankings], [r.completions for r in rankings])
            fit(rankings, lengths, limit, data.over_long, f"{section.rankings} (rankings)")


def _check_rankings(config: Config, name: str) -> None:
    section = config.reward if name == "reward" else config.gold
    assert section is not None
    rankings: list[Ranking] = []
    if section.rankings is not None:
        rankings = load_rankings(section.rankings)
        if not any(r.pairs() for r in rankings):
            raise DataError(f"{section.rankings}: no ranking prefers one completion to another; rank some apart")
        for i, ranking in enumerate(rankings):
            intake.accepted(ranking, intake.place("ranking", i, section.rankings))
        intake.check_batch(imported_batch(section) or "")
        _project_settings(config)  # a store that cannot be used says so now
    else:
        with LabelStore.open(config.store_url, project=config.store.project) as store:
            batches = section.batches or store.batches()
            if not any(store.rankings(batch=b) for b in batches):
                raise StoreError(
                    f"{config.store_url}: no rankings yet in {', '.join(batches) or 'it'}; "
                    f"rank some with `rlhf label`, or set {name}.rankings to a file"
                )
    if section.eval_rankings is not None:
        load_rankings(section.eval_rankings, "eval" if section.eval_rankings.startswith(BUILTIN) else None)
    elif rankings:
        split_by_hash(rankings, config.data.eval_fraction)  # too few groups to hold any out: said now


def _check_sampling(config: Config, prompts: Sequence[Prompt]) -> None:
    """The store's project takes what sampling would bring it."""
    intake.check_batch(config.sample.batch)
    for i, prompt in enumerate(prompts):
        intake.check_group(prompt.group, f"{config.data.prompts}, prompt {i} to train on")
    settings, section = _project_settings(config), config.sample
    size = len(section.contestants) if section.against else section.completions
    if settings is not None and settings.k not in (None, size):
        what = f"against: makes tasks of {size} completions" if section.against else f"completions: is {size}"
        raise ConfigError(
            f"sample.{what}, but tasks of project {config.store.project!r} have {settings.k} (its k); "
            "set one to the other, or run the other stages alone"
        )


def _check_order(config: Config) -> None:
    """The project hands out tasks in the order that is about to be written."""
    with LabelStore.open(config.store_url, project=config.store.project) as store:
        order = store.settings().order
    if order != "active":
        raise ConfigError(
            f"project {config.store.project!r} hands out tasks in {order} order; set it: "
            f"rlhf store project {config.store.project} order=active --store {config.store_url}"
        )


def _project_settings(config: Config) -> ProjectSettings | None:
    """What the store's project says; None where there is no store yet. Nothing is made."""
    where, project = store_url(config.store_url), config.store.project
    path = Path(shown(where)) if where.get_backend_name() == "sqlite" else None
    there = path is None or path.exists()
    if there and not (path and path.is_dir()):
        engine = make_engine(where)
        there = schema_version(engine) is not None
        engine.dispose()
    if there:
        with LabelStore.open(config.store_url, project=project) as store:
            return store.settings()
    if project != DEFAULT_PROJECT:
        raise StoreError(
            f"label store {shown(where)}: is not there yet, so there is no project {project!r} in it; "
            f"make both with: rlhf store project {project} --create --store {shown(where)}"
        )
    return None


def _check_leaks(config: Config, stages: Sequence[str]) -> None:
    """No held-out prompt of the evaluation may be among what SFT or the reward models learn from."""
    fraction = config.data.eval_fraction
    held_out = load_prompts(config.data.prompts or "", "eval", eval_fraction=fraction)
    check_no_leak(load_prompts(config.data.prompts or "", "train", eval_fraction=fraction), held_out)
    if "sft" in stages and config.data.demonstrations is not None:
        check_no_leak(load_demonstrations(config.data.demonstrations, "train", eval_fraction=fraction), held_out)
    for name, section in (("reward", config.reward), ("gold", config.gold)):
        if name in stages and section is not None and section.rankings is not None:
            split: Split | None = "train" if section.eval_rankings is None else None
            check_no_leak(load_rankings(section.rankings, split, eval_fraction=fraction), held_out)


def _check_judges(config: Config, stages: Sequence[str], recorded: Recorded, base: str, judges: Sequence[str]) -> None:
    for judge in judges:
        if judge.startswith("adapter:"):
            _check_adapter(config, stages, recorded, base, judge.removeprefix("adapter:"))
        else:
            probe_judge(judge)


def _check_adapter(config: Config, stages: Sequence[str], recorded: Recorded, base: str, adapter: str) -> None:
    """The adapter is about to be trained, or is on the record as one of this very base."""
    writer = WRITES[adapter]
    if writer in stages:
        return
    if writer not in recorded:
        raise ArtifactError(
            f"adapter {adapter!r} is not on this run's record, or was made from what has changed since; "
            f"run `rlhf {writer}` first, or `rlhf run`"
        )
    entry, here = recorded[writer], config.model
    then = entry["sections"]["model"]
    if (entry["base_sha256"], then["quantization"]) != (base, here.quantization):
        raise ArtifactError(
            f"adapters/{adapter}: was trained on {then['name']} ({then['quantization']}, sha256 "
            f"{entry['base_sha256'][:12]}), but the base here is {here.name} ({here.quantization}, sha256 "
            f"{base[:12]}); set model.name and model.quantization to what it was trained on, or train it anew"
        )
    if adapter == REFERENCE and "ppo" in stages:
        _check_shape(LoraSection.model_validate(then.get("lora", {})), here.lora)


def _check_shape(then: LoraSection, here: LoraSection) -> None:
    """The policy is a copy of `sft`: with another shape than the config's it would train what nobody asked for."""
    old, new = (_comparable(lora) for lora in (then, here))
    if changed := [f"{key}={old[key]}" for key in old if old[key] != new[key]]:
        raise ArtifactError(
            f"adapters/{REFERENCE}: was trained with {', '.join(changed)} (model.lora), and the policy starts as a "
            f"copy of it; set model.lora to that, or run `rlhf {WRITES[REFERENCE]}` again"
        )


def _comparable(lora: LoraSection) -> dict[str, Any]:
    targets = lora.target_modules
    return lora.model_dump() | {"target_modules": targets if isinstance(targets, str) else sorted(targets)}
