"""The few responses of every update that PPO keeps for people to look at."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_ppo_setup import make_base, make_trainer, short

from rlhf.data.encoding import Encoder
from rlhf.ppo import checkpoint
from rlhf.ppo.trainer import PPOTrainer
from rlhf.stages.ppo import _train, drop_samples, keep_samples

SECTION = short(updates=3, mini_batch_size=4, micro_batch_size=2)


def judge(prompts: Any, prompt_ids: Any, responses: Any) -> torch.Tensor:
    """Longer is better, and the first of a round best of all."""
    return torch.tensor([len(r) + (100.0 if i == 0 else 0.0) for i, r in enumerate(responses)])


def fresh(folder: Path, *, prepare: bool = True) -> PPOTrainer:
    return make_trainer(make_base(folder), SECTION, judge, prepare=prepare)


def rows(path: Path) -> list[dict[str, Any]]:
    """By line feeds alone: a text may hold other breaks."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_a_round_keeps_its_first_responses_with_what_they_were_worth(tiny_model_dir: Path) -> None:
    trainer = fresh(tiny_model_dir)
    seen: list[Any] = []
    real = trainer._sample
    trainer._sample = lambda *a: (seen.append(real(*a)), seen[-1])[1]  # type: ignore[method-assign]
    assert trainer.samples == []
    metrics = trainer.step()
    (rollout, prompts), encoder = seen[0], Encoder(trainer.base.tokenizer)
    assert len(trainer.samples) == 4 < len(prompts)
    for i, sample in enumerate(trainer.samples):
        assert sample["prompt"] == (prompts[i] if isinstance(prompts[i], str) else f"user: {prompts[i][0]['content']}")
        assert sample["completion"] == encoder.text(rollout.responses[i])
        assert sample["length"] == len(rollout.responses[i])
        assert sample["score"] == sample["length"] + (100.0 if i == 0 else 0.0)
        assert sample["ended"] == (rollout.responses[i][-1] == trainer.base.tokenizer.eos_token_id)
        assert sample["kl"] == pytest.approx(0.0, abs=1e-4)  # the policy is still the reference
    assert metrics["kl"] == pytest.approx(0.0, abs=1e-4)
    trainer.step()
    assert any(abs(sample["kl"]) > 1e-6 for sample in trainer.samples)


def test_a_resumed_run_writes_each_update_once_and_the_same(tiny_model_dir: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    trainer = fresh(tiny_model_dir)
    for update in (1, 2, 3):
        trainer.step()
        for path in (whole, cut) if update < 3 else (whole,):
            keep_samples(path, update, trainer.samples)
        if update == 1:
            checkpoint.save(trainer, tmp_path / "ppo", "key")
    cut.write_text(cut.read_text(encoding="utf-8") + '{"step": 3, "pro', encoding="utf-8")  # killed while it wrote
    resumed = fresh(tiny_model_dir, prepare=False)
    assert checkpoint.restore(resumed, tmp_path / "ppo", "key")
    drop_samples(cut, resumed.updates_done)
    assert {row["step"] for row in rows(cut)} == {1}
    for update in (2, 3):
        resumed.step()
        keep_samples(cut, update, resumed.samples)
    assert [row["step"] for row in rows(whole)] == [1] * 4 + [2] * 4 + [3] * 4
    assert cut.read_bytes() == whole.read_bytes()


def test_a_run_that_begins_anew_forgets_the_old_samples(tmp_path: Path) -> None:
    path = tmp_path / "ppo_samples.jsonl"
    drop_samples(path, 0)
    assert not path.exists()
    keep_samples(path, 1, [{"prompt": "p", "completion": "a\u2028b\n\ud800"}])
    assert rows(path) == [{"step": 1, "prompt": "p", "completion": "a\u2028b\n?"}]
    path.write_text(path.read_text(encoding="utf-8") + 'null\n[]\n{"step": "x"}\n{}\n', encoding="utf-8")
    drop_samples(path, 1)
    assert [row["step"] for row in rows(path)] == [1]
    drop_samples(path, 0)
    assert path.read_text() == "" and [p.name for p in tmp_path.iterdir()] == ["ppo_samples.jsonl"]


@pytest.mark.parametrize("main", [True, False])
def test_of_several_processes_the_main_one_alone_drops_samples(tmp_path: Path, main: bool) -> None:
    path = tmp_path / "ppo_samples.jsonl"
    keep_samples(path, 1, [{"prompt": "p"}])
    keep_samples(path, 4, [{"prompt": "p"}])
    trainer: Any = SimpleNamespace(
        section=SimpleNamespace(updates=3), updates_done=3, accelerator=SimpleNamespace(is_main_process=main)
    )
    tracker: Any = SimpleNamespace(path=tmp_path / "metrics.jsonl")
    nothing: Any = None
    assert _train(trainer, nothing, tracker, tmp_path / "ppo", "key") == {}  # all its updates are done
    assert [row["step"] for row in rows(path)] == ([1] if main else [1, 4])
