"""What several stages need: adapters from the run directory, encoded data, seeded samples."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from rlhf.config import Config, RewardSection
from rlhf.data.cache import sha256_of
from rlhf.data.encoding import Encoder, fit
from rlhf.data.records import Prompt
from rlhf.data.sources import Split, load_demonstrations, load_prompts
from rlhf.errors import ConfigError
from rlhf.functions import import_function
from rlhf.model.adapters import load_adapter
from rlhf.model.base import SharedBase

R = TypeVar("R")


def adapter_folder(config: Config, name: str) -> Path:
    """Where the run keeps adapter `name`."""
    return config.run_path / "adapters" / name


def judge_inputs(judges: Iterable[str]) -> dict[str, str]:
    """Fingerprints of the judges' own code, by name: of the module that a function is named in.

    An adapter is a parent instead; a module without a file counts by name.
    """
    found = {}
    for judge in judges:
        if not judge.startswith("adapter:"):
            import_function(judge)
            file = getattr(sys.modules[judge.partition(":")[0]], "__file__", None)
            found[f"judge {judge}"] = sha256_of(Path(file)) if file else judge
    return found


def judge_adapters(judges: Iterable[str]) -> tuple[str, ...]:
    """The adapters among the judges, each once."""
    return tuple(dict.fromkeys(j.removeprefix("adapter:") for j in judges if j.startswith("adapter:")))


def imported_batch(section: RewardSection) -> str | None:
    """The store's batch for the section's `rankings`: the first that it lists, else named after the source."""
    if section.rankings is None:
        return None
    return section.batches[0] if section.batches else section.rankings


def need_adapter(config: Config, base: SharedBase, name: str) -> None:
    """Have adapter `name` on the base: already there, or loaded from the run directory."""
    if name not in base.adapters:
        load_adapter(base, name, adapter_folder(config, name))


def seeded_sample(rows: Sequence[R], count: int | None, seed: int) -> list[R]:
    """`count` of the rows, drawn without replacement, in their order; all of them where `count` is None or larger."""
    if count is None or count >= len(rows):
        return list(rows)
    chosen = sorted(random.Random(seed).sample(range(len(rows)), count))
    return [rows[i] for i in chosen]


def usable_demonstrations(
    config: Config, encoder: Encoder, split: Split, count: int | None = None
) -> tuple[list[tuple[list[int], list[int]]], int]:
    """Prompt and response tokens of one side of the split's demonstrations, and how many were too long."""
    source = config.data.demonstrations
    if source is None:
        raise ConfigError("data.demonstrations: is not set; name prompt + completion rows (a file, or a builtin)")
    rows = load_demonstrations(source, split, eval_fraction=config.data.eval_fraction)
    encoded = [
        (encoder.prompt(r.prompt), encoder.response(r.completion)) for r in seeded_sample(rows, count, config.seed)
    ]
    lengths = [len(prompt) + len(response) for prompt, response in encoded]
    return fit(encoded, lengths, config.model.max_length, config.data.over_long, f"{source} ({split} demonstrations)")


def usable_prompts(
    config: Config, encoder: Encoder, split: Split, count: int | None, seed: int
) -> tuple[list[Prompt], int]:
    """The prompts of one side of the split that leave room for an answer, and how many were too long."""
    source = config.data.prompts
    if source is None:
        raise ConfigError("data.prompts: is not set; name the prompts to sample from (a file, or a builtin)")
    prompts = load_prompts(source, split, eval_fraction=config.data.eval_fraction)
    lengths = [len(encoder.prompt(p.prompt)) for p in prompts]
    room = config.model.max_length - config.ppo.max_new_tokens
    kept, longer = fit(prompts, lengths, room, config.data.over_long, f"{source} ({split} prompts)")
    return seeded_sample(kept, count, seed), longer
