"""What can be known to fail is said before a model loads or a file is written."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf.config import Config
from rlhf.data.sources import BUILTIN, load_demonstrations, load_prompts, load_rankings
from rlhf.errors import ArtifactError, ConfigError, StoreError
from rlhf.ppo.scoring import import_function
from rlhf.preferences import LabelStore
from rlhf.stages.common import adapter_folder

# The adapters that a stage reads, and the stage that writes each.
NEEDS = {"ppo": ("sft",), "evaluate": ("sft", "policy"), "export": ("policy",)}
WRITES = {"sft": "sft", "reward": "reward", "gold": "gold", "policy": "ppo"}


def check(config: Config, stages: Sequence[str]) -> None:
    """Parse every source that the stages read, find their judges, and see that the adapters they need exist.

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
        load_prompts(config.data.prompts, "train", eval_fraction=config.data.eval_fraction)
    for name in ("reward", "gold"):
        if name in stages:
            _check_rankings(config, name)
    if "ppo" in stages:
        _check_judges(config, stages, list(config.ppo.rewards))
    if "evaluate" in stages:
        _check_judges(config, stages, list(config.evaluate.judges.values()))
    for stage in stages:
        needed = (config.sample.adapter,) if stage == "sample" else NEEDS.get(stage, ())
        for adapter in needed:
            _check_adapter(config, stages, adapter)


def _check_rankings(config: Config, name: str) -> None:
    section = config.reward if name == "reward" else config.gold
    assert section is not None
    if section.rankings is not None:
        load_rankings(section.rankings)
    else:
        with LabelStore.open(config.store_url) as store:
            batches = section.batches or store.batches()
            if not any(store.rankings(batch=b) for b in batches):
                raise StoreError(
                    f"{config.store_url}: no rankings yet in {', '.join(batches) or 'it'}; "
                    f"rank some with `rlhf label`, or set {name}.rankings to a file"
                )
    if section.eval_rankings is not None:
        load_rankings(section.eval_rankings, "eval" if section.eval_rankings.startswith(BUILTIN) else None)


def _check_judges(config: Config, stages: Sequence[str], judges: Sequence[str]) -> None:
    for judge in judges:
        if judge.startswith("adapter:"):
            _check_adapter(config, stages, judge.removeprefix("adapter:"))
        else:
            import_function(judge)


def _check_adapter(config: Config, stages: Sequence[str], adapter: str) -> None:
    writer = WRITES.get(adapter)
    if writer is None:
        raise ConfigError(f"sample.adapter: {adapter!r} is no adapter that writes text; known: sft, policy")
    if writer not in stages and not adapter_folder(config, adapter).is_dir():
        raise ArtifactError(
            f"{adapter_folder(config, adapter)}: no such adapter; run `rlhf {writer}` first, or `rlhf run`"
        )
