"""A PPO run's whole state on disk: policy, critic, optimizer, schedule, random numbers, controllers, prompt queue.

Written beside and put in place by `model.folders`, so that a kill at any moment leaves the last whole checkpoint or
the new one. Tensors are safetensors, the rest is JSON; resuming gives bit-identical training on a CPU at the same
thread count; several processes go on with fresh random numbers instead.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf.errors import ArtifactError
from rlhf.model.folders import recover, replace_folder, staging_of
from rlhf.ppo.control import LengthController, ScoreNormalizer
from rlhf.ppo.trainer import PPOTrainer

TENSORS, STATE = "tensors.safetensors", "state.json"
LENGTH_STATE = ("target", "coef", "errors")


def save(trainer: PPOTrainer, folder: Path, key: str) -> None:
    """Write the trainer's state under `key`, which names the config and inputs that it belongs to."""
    staging = staging_of(folder)
    save_file(_tensors(trainer), staging / TENSORS)
    assert trainer.length is not None and trainer.normalizer is not None
    state = {
        "key": key,
        "sha256": hashlib.sha256((staging / TENSORS).read_bytes()).hexdigest(),
        "updates_done": trainer.updates_done,
        "prompt_queue": trainer.prompt_cycle.queue,
        "demonstration_queue": trainer.learner.demonstration_cycle.queue,
        "kl_coef": trainer.kl.coef,
        "length": {k: getattr(trainer.length, k) for k in LENGTH_STATE},
        "normalizer": asdict(trainer.normalizer),
        "scheduler": {k: v for k, v in trainer.scheduler.state_dict().items() if isinstance(v, int | float | list)},
        "rates": [group["lr"] for group in trainer.optimizer.param_groups],
    }
    (staging / STATE).write_text(json.dumps(state) + "\n", encoding="utf-8")
    replace_folder(staging, folder)


def restore(trainer: PPOTrainer, folder: Path, key: str) -> bool:
    """Bring the trainer to the state in `folder`; False where there is none, or it belongs to another config.

    Raises:
        ArtifactError: the checkpoint is damaged.
    """
    recover(folder)
    if not (folder / STATE).is_file():
        return False
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        blob = (folder / TENSORS).read_bytes()
        if state["key"] != key:
            return False
        if hashlib.sha256(blob).hexdigest() != state["sha256"]:
            raise ValueError("the tensors do not match their sha256")
        tensors = load_file(folder / TENSORS)
        _apply(trainer, state, tensors)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ArtifactError(
            f"{folder}: the checkpoint is damaged ({error}); delete it to start this stage anew"
        ) from error
    return True


def _tensors(trainer: PPOTrainer) -> dict[str, Tensor]:
    tensors = {f"parameter.{i}": p.detach() for i, p in enumerate(_parameters(trainer))}
    for i, parameter in enumerate(_parameters(trainer)):
        for name, value in trainer.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{i}.{name}"] = torch.as_tensor(value).detach()
    tensors["random.order"] = trainer.order.get_state()
    tensors["random.draws"] = trainer.draws.get_state()
    return {k: v.cpu().contiguous() for k, v in tensors.items()}


def _parameters(trainer: PPOTrainer) -> list[Tensor]:
    return [p for group in trainer.optimizer.param_groups for p in group["params"]]


def _apply(trainer: PPOTrainer, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    parameters = _parameters(trainer)
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            parameter.copy_(tensors[f"parameter.{i}"])
    for i, parameter in enumerate(parameters):
        names = [k for k in tensors if k.startswith(f"optimizer.{i}.")]
        # AdamW keeps its step counter on the CPU, whatever the device
        trainer.optimizer.state[parameter] = {
            (short := k.rsplit(".", 1)[1]): tensors[k] if short == "step" else tensors[k].to(parameter.device)
            for k in names
        }
    trainer.scheduler.load_state_dict({**trainer.scheduler.state_dict(), **state["scheduler"]})
    for group, rate in zip(trainer.optimizer.param_groups, state["rates"], strict=True):
        group["lr"] = rate
    trainer.order.set_state(tensors["random.order"])
    trainer.draws.set_state(tensors["random.draws"])
    if trainer.accelerator.num_processes > 1:  # the state is the main process's; the others must not draw the same
        trainer.seed_draws(after=state["updates_done"])
    trainer.prompt_cycle.queue, trainer.updates_done = state["prompt_queue"], state["updates_done"]
    trainer.learner.demonstration_cycle.queue = state["demonstration_queue"]
    trainer.kl.coef = state["kl_coef"]
    trainer.normalizer = ScoreNormalizer(**state["normalizer"])
    trainer.length = LengthController(trainer.section.length, **{k: state["length"][k] for k in LENGTH_STATE})
