"""PPO: adapter `policy`, a copy of `sft`, learns what the reward model likes without going far from `sft`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from accelerate import Accelerator

from rlhf.config import Config
from rlhf.data.encoding import Encoder
from rlhf.data.sources import source_fingerprint
from rlhf.errors import ConfigError, TrainingError
from rlhf.model.adapters import save_adapter
from rlhf.model.base import SharedBase
from rlhf.ppo import checkpoint
from rlhf.ppo.roles import POLICY, REFERENCE, VALUE
from rlhf.ppo.scoring import combine, load_judge
from rlhf.ppo.trainer import PPOTrainer
from rlhf.stages.common import (
    adapter_folder,
    judge_adapters,
    judge_inputs,
    need_adapter,
    usable_demonstrations,
    usable_prompts,
)
from rlhf.stages.manifest import Manifest, Plan
from rlhf.stages.tracking import Tracker

STAGE = "ppo"
SAMPLES = "ppo_samples.jsonl"  # some of every update's responses, for people to look at


def plan(config: Config) -> Plan:
    """What the stage depends on."""
    if config.data.prompts is None:
        raise ConfigError("data.prompts: is not set; PPO needs prompts to answer (a file, or a builtin)")
    inputs = {"prompts": source_fingerprint(config.data.prompts), **judge_inputs(config.ppo.rewards)}
    if config.ppo.ptx_coef > 0 and config.data.demonstrations is not None:
        inputs["demonstrations"] = source_fingerprint(config.data.demonstrations)
    return Plan(
        STAGE,
        sections={"model": config.model, "data": config.data, "ppo": config.ppo},
        inputs=inputs,
        parents=("sft", *judge_adapters(config.ppo.rewards)),
        outputs=(adapter_folder(config, POLICY),),
    )


def run(config: Config, base: SharedBase, tracker: Tracker) -> dict[str, Any]:
    """Train and save adapter `policy`; goes on from the last checkpoint of this very config, if there is one."""
    section, encoder = config.ppo, Encoder(base.tokenizer)
    accelerator = Accelerator(cpu=base.device.type == "cpu")

    # 1. The reference and the judges; the policy starts as an exact copy of the reference.
    need_adapter(config, base, REFERENCE)
    for name in judge_adapters(section.rewards):
        need_adapter(config, base, name)
    base.copy_adapter(REFERENCE, POLICY)
    judge = combine({n: load_judge(n, base, encoder) for n in section.rewards}, section.rewards)

    # 2. Prompts that leave room for an answer, and demonstrations where the ptx loss needs them.
    prompts, longer = usable_prompts(config, encoder, "train", section.max_prompts, config.seed)
    demonstrations = usable_demonstrations(config, encoder, "train")[0] if section.ptx_coef > 0 else []

    # 3. Update by update, from the beginning or from the last checkpoint.
    trainer = PPOTrainer(section, base, encoder, prompts, judge, accelerator, config.seed, demonstrations)
    folder = config.run_path / "checkpoints" / STAGE
    key = Manifest(config.run_path, config.seed, base.identity.source_sha256).key(plan(config))
    resumed = checkpoint.restore(trainer, folder, key)
    if resumed:
        tracker.say(f"ppo: goes on after update {trainer.updates_done} of {section.updates}")
    else:
        trainer.prepare()
    assert trainer.normalizer is not None and trainer.length is not None
    tracker.start(STAGE, section.updates, trainer.updates_done)
    metrics = _train(trainer, base, tracker, folder, key)

    # 4. Save the aligned adapter; the critic stays behind.
    result = {
        "updates": section.updates,
        "episodes": section.updates * section.rollout_batch_size,
        "prompts": len(prompts),
        "over_long": longer,
        "reference": {
            "score_mean": trainer.normalizer.mean,
            "score_std": trainer.normalizer.std,
            "length": trainer.length.target,
        },
        # Without the clock's numbers: the same training must give the same files, or all that follows runs again.
        "last": {k: v for k, v in metrics.items() if not k.startswith(("seconds_", "tokens_per_second"))},
    }
    if VALUE in base.adapters:
        base.remove_adapter(VALUE)
    save_adapter(
        base, POLICY, adapter_folder(config, POLICY), record={"stage": STAGE, "result": result}, with_head=False
    )
    shutil.rmtree(folder, ignore_errors=True)
    return result


def _train(trainer: PPOTrainer, base: SharedBase, tracker: Tracker, folder: Path, key: str) -> dict[str, float]:
    """Update by update, with checkpoints in `folder`; the last one's metrics."""
    section, metrics = trainer.section, dict[str, float]()
    if trainer.accelerator.is_main_process:  # nobody else reads or writes them, so nobody waits
        drop_samples(tracker.path.with_name(SAMPLES), trainer.updates_done)
    while trainer.updates_done < section.updates:
        try:
            with base.dense_weights():
                metrics = trainer.step()
        except TrainingError as error:
            kept = f"; the last good checkpoint is {folder}" if folder.is_dir() else ""
            raise TrainingError(f"{error}{kept}") from error
        rss = psutil.Process().memory_info().rss / 2**20
        if trainer.accelerator.is_main_process:
            tracker.log(STAGE, trainer.updates_done, section.updates, **metrics, rss_mib=rss)
            keep_samples(tracker.path.with_name(SAMPLES), trainer.updates_done, trainer.samples)
            if trainer.updates_done % section.checkpoint_every == 0 and trainer.updates_done < section.updates:
                checkpoint.save(trainer, folder, key)
    return metrics


def keep_samples(path: Path, update: int, samples: Sequence[dict[str, Any]]) -> None:
    """Append an update's samples, in one write."""
    lines = [json.dumps({"step": update, **sample}, ensure_ascii=False) + "\n" for sample in samples]
    with path.open("a", encoding="utf-8", errors="replace") as stream:
        stream.write("".join(lines))


def drop_samples(path: Path, done: int) -> None:
    """Drop what is kept of updates after `done`, and half a line that a killed run left: they come again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            if json.loads(line)["step"] <= done:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    staging = path.with_suffix(".staging")
    staging.write_text("".join(kept), encoding="utf-8")
    staging.replace(path)
