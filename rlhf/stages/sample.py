"""Sampling: completions go into the label store, for people to rank: several of one adapter, or one of each contestant.

The latter is an arena, and blind: labelers never see who wrote what; `rlhf arena show` and the app's admins do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rlhf.config import Config
from rlhf.data.encoding import Encoder
from rlhf.data.records import Prompt, prompt_key
from rlhf.data.sources import source_fingerprint
from rlhf.errors import ConfigError, StoreError
from rlhf.model.base import SharedBase
from rlhf.ppo.rollout import sample
from rlhf.preferences import LabelStore, NewTask
from rlhf.preferences.arena import paired, showable
from rlhf.stages import contestants
from rlhf.stages.common import need_adapter, seeded_sample, usable_prompts
from rlhf.stages.manifest import Plan
from rlhf.stages.tracking import Tracker

STAGE = "sample"


def plan(config: Config) -> Plan:
    """What the stage depends on."""
    if config.data.prompts is None:
        raise ConfigError("data.prompts: is not set; sampling needs prompts (a file, or a builtin)")
    return Plan(
        STAGE,
        sections={"model": config.model, "data": config.data, "sample": config.sample},
        inputs={"prompts": source_fingerprint(config.data.prompts), **contestants.fingerprints(config.sample)},
        parents=tuple(contestants.WRITERS[name] for name in contestants.own_adapters(config.sample)),
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
    """Sample completions, and add them to the store as tasks of one batch."""
    return _arena(config, base, tracker) if config.sample.against else _alone(config, base, tracker)


def _alone(config: Config, base: SharedBase, tracker: Tracker) -> dict[str, Any]:
    """K completions a prompt of one adapter; equal ones count once.

    A prompt with fewer different ones than the project's tasks have (its `k`, else 2) is left out and counted.
    """
    section, encoder = config.sample, Encoder(base.tokenizer)
    need_adapter(config, base, section.adapter)
    prompts, longer = usable_prompts(config, encoder, "train", section.prompts, config.seed + 1)
    tracker.start(STAGE, 1)
    each = [p for p in prompts for _ in range(section.completions)]
    texts = _written(config, base, encoder, section.adapter, each)
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


def _arena(config: Config, base: SharedBase, tracker: Tracker) -> dict[str, Any]:
    """One completion of each contestant a held-out prompt.

    All draw with the same random numbers, so that they differ by what they learned; a prompt on which two write the
    same is a tie that nobody is asked about: it is left out and counted.
    """
    section, encoder = config.sample, Encoder(base.tokenizer)
    held_out, longer = usable_prompts(config, encoder, "eval", None, config.seed + 1)
    prompts = seeded_sample(contestants.answered(config, held_out), section.prompts, config.seed + 1)
    tracker.start(STAGE, len(section.contestants))
    files, written = contestants.files_of(section), {}
    for step, (name, what) in enumerate(section.contestants.items(), start=1):
        if name in files:
            written[name] = [files[name][prompt_key(p.prompt)] for p in prompts]
        else:
            with contestants.on_base(config, base, what) as adapter:
                written[name] = _written(config, base, encoder, adapter, prompts)
        tracker.log(STAGE, step, len(section.contestants))
    pairing = paired(prompts, written)
    with LabelStore.open(config.store_url, create=True, project=config.store.project) as store:
        added = store.add_tasks(pairing.tasks, batch=section.batch, overlap=section.overlap)
    if left_out := pairing.words():
        tracker.say(f"{STAGE}: of {len(prompts)} prompts, {left_out}")
    return {
        "batch": section.batch,
        "tasks": len(pairing.tasks),
        "added": added,
        "completions": sum(len(t.completions) for t in pairing.tasks),
        "same": pairing.same,
        "blank": pairing.blank,
        "over_long": longer,
        "contestants": section.contestants,
    }


def _written(
    config: Config, base: SharedBase, encoder: Encoder, adapter: str | None, prompts: Sequence[Prompt]
) -> list[str]:
    rollout = sample(
        base,
        adapter,
        [encoder.prompt(p.prompt) for p in prompts],
        max_new_tokens=config.ppo.max_new_tokens,
        temperature=config.sample.temperature,
        generator=torch.Generator().manual_seed(config.seed + 1),
        batch_size=config.evaluate.batch_size,
    )
    return [encoder.text(response) for response in rollout.responses]


def _different(
    config: Config, prompts: Sequence[Prompt], texts: Sequence[str], least: int
) -> tuple[list[NewTask], int]:
    """Tasks of each prompt's different completions, and how many prompts have fewer than `least`."""
    count, adapter = config.sample.completions, config.sample.adapter
    tasks, too_alike = [], 0
    for i, prompt in enumerate(prompts):
        unique = tuple(dict.fromkeys(t for t in texts[i * count : (i + 1) * count] if showable(t)))
        if len(unique) < least:
            too_alike += 1
            continue
        sources = (adapter,) * len(unique)
        tasks.append(NewTask(prompt=prompt.prompt, completions=unique, sources=sources, group=prompt.group))
    return tasks, too_alike
