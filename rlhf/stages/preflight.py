"""What can be known to fail is said before a model loads or a file is written."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf.config import Config
from rlhf.data.encoding import Encoder, fit
from rlhf.data.sources import BUILTIN, load_demonstrations, load_prompts, load_rankings
from rlhf.errors import ArtifactError, ConfigError, DataError, StoreError
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
    if "evaluate" in stages:
        held_out = load_prompts(config.data.prompts or "", "eval", eval_fraction=config.data.eval_fraction)
        if len(held_out) < config.evaluate.prompts:
            raise DataError(
                f"{config.data.prompts}: holds {len(held_out)} held-out prompts, evaluate.prompts asks for "
                f"{config.evaluate.prompts}; ask for fewer, or raise data.eval_fraction"
            )
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
