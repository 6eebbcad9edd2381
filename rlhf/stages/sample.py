"""Sampling: completions of one adapter go into the label store, for people to rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rlhf.config import Config
from rlhf.data.encoding import Encoder
from rlhf.data.records import Prompt
from rlhf.data.sources import source_fingerprint
from rlhf.errors import ConfigError, StoreError
from rlhf.model.base import SharedBase
from rlhf.ppo.rollout import sample
from rlhf.preferences import LabelStore, NewTask
from rlhf.stages.common import need_adapter, usable_prompts
from rlhf.stages.manifest import Plan
from rlhf.stages.tracking import Tracker

STAGE = "sample"
PARENT = {"sft": "sft", "policy": "ppo"}


def plan(config: Config) -> Plan:
    """What the stage depends on."""
    if config.data.prompts is None:
        raise ConfigError("data.prompts: is not set; sampling needs prompts (a file, or a builtin)")
    return Plan(
        STAGE,
        sections={"model": config.model, "data": config.data, "sample": config.sample},
        inputs={"prompts": source_fingerprint(config.data.prompts)},
        parents=(PARENT[config.sample.adapter],),
        outputs=(),
        extra={
            "max_new_tokens": config.ppo.max_new_tokens,
            "store": config.store_url,
            "project": config.store.project,
            "batch_size": config.evaluate.batch_size,
        },
        present=lambda result: _has_batch(config, result),
    )


def _has_batch(config: Config, result: Mapping[str, Any]) -> bool:
    if result["tasks"] == 0:
        return True  # all completions were alike: there is nothing that the store should hold
    try:
        with LabelStore.open(config.store_url, project=config.store.project) as store:
            return config.sample.batch in store.batches()
    except StoreError:
        return False


def run(config: Config, base: SharedBase, tracker: Tracker) -> dict[str, Any]:
    """Sample K completions a prompt and add them to the store as tasks of one batch; equal completions count once.

    A prompt with fewer different ones than the project's tasks have (its `k`, else 2) is left out and counted.
    """
    section, encoder = config.sample, Encoder(base.tokenizer)
    need_adapter(config, base, section.adapter)
    prompts, longer = usable_prompts(config, encoder, "train", section.prompts, config.seed + 1)
    tracker.start(STAGE, 1)
    rollout = sample(
        base,
        section.adapter,
        [encoder.prompt(p.prompt) for p in prompts for _ in range(section.completions)],
        max_new_tokens=config.ppo.max_new_tokens,
        temperature=section.temperature,
        generator=torch.Generator().manual_seed(config.seed + 1),
        batch_size=config.evaluate.batch_size,
    )
    texts = [encoder.text(r) for r in rollout.responses]
    with LabelStore.open(config.store_url, create=True, project=config.store.project) as store:
        tasks, too_alike = _different(config, prompts, texts, store.settings().k or 2)
        added = store.add_tasks(tasks, batch=section.batch, overlap=section.overlap)
    tracker.log(STAGE, 1, 1)
    return {
        "batch": section.batch,
        "tasks": len(tasks),
        "added": added,
        "completions": sum(len(t.completions) for t in tasks),
        "too_alike": too_alike,
        "over_long": longer,
        "adapter": section.adapter,
    }


def _different(
    config: Config, prompts: Sequence[Prompt], texts: Sequence[str], least: int
) -> tuple[list[NewTask], int]:
    """Tasks of each prompt's different completions, and how many prompts have fewer than `least`."""
    count, adapter = config.sample.completions, config.sample.adapter
    tasks, too_alike = [], 0
    for i, prompt in enumerate(prompts):
        unique = tuple(dict.fromkeys(t for t in texts[i * count : (i + 1) * count] if t.strip()))
        if len(unique) < least:
            too_alike += 1
            continue
        sources = (adapter,) * len(unique)
        tasks.append(NewTask(prompt=prompt.prompt, completions=unique, sources=sources, group=prompt.group))
    return tasks, too_alike
