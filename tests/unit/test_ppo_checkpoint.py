"""A run that was cut off goes on as if it had not been: bit for bit, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_ppo_setup import make_base, make_trainer, same, short, weights

from rlhf.data.encoding import Encoder
from rlhf.errors import ArtifactError
from rlhf.ppo import checkpoint
from rlhf.ppo.roles import VALUE
from rlhf.ppo.scoring import load_judge
from rlhf.ppo.trainer import PPOTrainer

SECTION = short(
    updates=4,
    mini_batch_size=4,
    micro_batch_size=2,
    schedule="cosine",
    kl={"horizon": 50.0},
    length={"controller": "adaptive", "level": True},
)


def fresh(folder: Path, *, prepare: bool) -> PPOTrainer:
    base = make_base(folder)
    judge = load_judge("adapter:reward", base, Encoder(base.tokenizer))
    return make_trainer(base, SECTION, judge, prepare=prepare)


def told(metrics: dict[str, float]) -> dict[str, float]:
    """A round's numbers without its clock's."""
    return {k: v for k, v in metrics.items() if not k.startswith(("seconds_", "tokens_per_second"))}


@pytest.fixture
def saved(tiny_model_dir: Path, tmp_path: Path) -> tuple[PPOTrainer, Path]:
    """A trainer after one update, and its checkpoint."""
    trainer = fresh(tiny_model_dir, prepare=True)
    trainer.step()
    checkpoint.save(trainer, tmp_path / "ppo", "key")
    return trainer, tmp_path / "ppo"


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tiny_model_dir: Path, tmp_path: Path) -> None:
    whole = fresh(tiny_model_dir, prepare=True)
    for _ in range(2):
        whole.step()
    checkpoint.save(whole, tmp_path / "ppo", "key")
    rest = [told(whole.step()) for _ in range(2)]

    resumed = fresh(tiny_model_dir, prepare=False)
    torch.manual_seed(123)  # the global generator must not matter
    assert checkpoint.restore(resumed, tmp_path / "ppo", "key")
    assert resumed.updates_done == 2
    assert [told(resumed.step()) for _ in range(2)] == rest
    assert same(weights(resumed.base, "policy"), weights(whole.base, "policy"))
    assert torch.equal(resumed.base.heads[VALUE].weight, whole.base.heads[VALUE].weight)
    assert (resumed.kl.coef, resumed.length, resumed.normalizer) == (whole.kl.coef, whole.length, whole.normalizer)
    assert resumed.prompt_cycle.queue == whole.prompt_cycle.queue


def test_restoring_gives_back_everything_that_the_next_update_reads(
    saved: tuple[PPOTrainer, Path], tiny_model_dir: Path
) -> None:
    trainer, folder = saved
    other = fresh(tiny_model_dir, prepare=False)
    assert not same(weights(other.base, "policy"), weights(trainer.base, "policy"))
    assert checkpoint.restore(other, folder, "key")
    assert same(weights(other.base, "policy"), weights(trainer.base, "policy"))
    mine, theirs = (t.optimizer.state_dict()["state"] for t in (trainer, other))
    assert mine.keys() == theirs.keys() and len(mine) == len(weights(trainer.base, "policy")) + 1
    for i in mine:
        assert all(torch.equal(mine[i][k], theirs[i][k]) for k in ("step", "exp_avg", "exp_avg_sq"))
    assert other.scheduler.get_last_lr() == trainer.scheduler.get_last_lr()
    assert torch.equal(other.draws.get_state(), trainer.draws.get_state())
    assert torch.equal(other.order.get_state(), trainer.order.get_state())


def test_another_configs_checkpoint_is_not_used(saved: tuple[PPOTrainer, Path], tiny_model_dir: Path) -> None:
    other = fresh(tiny_model_dir, prepare=False)
    before = weights(other.base, "policy")
    assert not checkpoint.restore(other, saved[1], "another key")
    assert other.updates_done == 0 and same(weights(other.base, "policy"), before)


def test_no_checkpoint_is_no_error(tiny_model_dir: Path, tmp_path: Path) -> None:
    assert not checkpoint.restore(fresh(tiny_model_dir, prepare=False), tmp_path / "ppo", "key")


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: _flip(f / "tensors.safetensors"),
        lambda f: (f / "tensors.safetensors").write_bytes((f / "tensors.safetensors").read_bytes()[:500]),
        lambda f: (f / "tensors.safetensors").unlink(),
        lambda f: (f / "state.json").write_text('{"key": "key"'),
        lambda f: (f / "state.json").write_text('{"key": "key"}'),
        lambda f: (f / "state.json").write_text("[]"),
    ],
    ids=["flipped bit", "cut short", "tensors gone", "half a state", "keys gone", "a list"],
)
def test_a_damaged_checkpoint_is_refused(saved: tuple[PPOTrainer, Path], tiny_model_dir: Path, damage: Any) -> None:
    damage(saved[1])
    other = fresh(tiny_model_dir, prepare=False)
    before = weights(other.base, "policy")
    with pytest.raises(ArtifactError, match=r"the checkpoint is damaged \(.*\); delete it to start this stage anew"):
        checkpoint.restore(other, saved[1], "key")
    assert same(weights(other.base, "policy"), before) and other.updates_done == 0


@pytest.mark.parametrize("at", ["writing", "renaming"])
def test_a_kill_while_saving_leaves_the_last_whole_checkpoint(
    saved: tuple[PPOTrainer, Path], tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    trainer, folder = saved
    trainer.step()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, *(("save_file", killed) if at == "writing" else ("replace_folder", killed)))
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(trainer, folder, "key")
    other = fresh(tiny_model_dir, prepare=False)
    assert checkpoint.restore(other, folder, "key") and other.updates_done == 1
    checkpoint.save(trainer, folder, "key")  # what the kill left behind is in nobody's way
    assert json.loads((folder / "state.json").read_text())["updates_done"] == 2
    assert [p.name for p in folder.parent.iterdir()] == ["ppo"]
