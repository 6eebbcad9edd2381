"""PPO learns: on a task whose best answer is known, the mean score rises in every seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_ppo_setup import load, make_trainer, short

from rlhf.data.encoding import Encoder


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_best_of_four_opinions_is_learned(tiny_model_dir: Path, seed: int) -> None:
    """The tiny model gives one of four opinions by chance; the judge pays 1 for the best, so that the optimum is 1."""
    base = load(tiny_model_dir)
    base.add_adapter("sft")
    base.copy_adapter("sft", "policy")
    encoder = Encoder(base.tokenizer)

    def is_wonderful(_p: Any, _i: Any, responses: Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor([float("wonderful" in encoder.text(r)) for r in responses])

    section = short(
        updates=10,
        rollout_batch_size=32,
        mini_batch_size=16,
        micro_batch_size=16,
        normalize_samples=32,
        max_new_tokens=16,
        missing_eos="none",
        learning_rate=5e-3,
        schedule="constant",
        kl={"coef": 0.01, "controller": "fixed"},
    )
    trainer = make_trainer(base, section, is_wonderful, seed=seed)
    scores = [trainer.step()["score"] for _ in range(section.updates)]
    assert scores[0] < 0.2, scores
    assert sum(scores[-3:]) / 3 > 0.5, scores
