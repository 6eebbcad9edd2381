"""Two processes at one global batch: the update of one process, and metrics over all responses."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from accelerate import Accelerator
from test_ppo_setup import by_hand, head_critic, make_base, make_trainer, same, short, weights

from rlhf.model.base import SharedBase
from rlhf.ppo.roles import VALUE
from rlhf.ppo.rollout import Rollout
from rlhf.ppo.trainer import PPOTrainer
from rlhf.ppo.update import Batch, Learner, clipped_update

LENGTHS = (7, 2, 11, 4, 1, 9, 5, 3)
# One mini-batch, so that both sides step over the same responses however each shuffles its own.
SECTION = short(ppo_epochs=3, micro_batch_size=2, value_trunk_gradient=True, learning_rate=1e-2, max_grad_norm=0.1)
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def part_of(whole: Rollout, rows: list[int]) -> Rollout:
    """Some of the responses, in tensors no wider than they need: another width in every process."""
    width = max(len(whole.responses[i]) for i in rows)
    tensors = (whole.logprobs, whole.entropies, whole.response_mask)
    return Rollout(
        [whole.prompts[i] for i in rows],
        [whole.responses[i] for i in rows],
        *(t[rows, :width] for t in tensors),
        whole.finished[rows],
    )


def update(folder: Path, accelerator: Accelerator) -> tuple[dict[str, float], list[torch.Tensor]]:
    """This process's share of one and the same update; its metrics, and the weights afterwards."""
    base: SharedBase = make_base(folder)
    base.add_head(VALUE).weight.data.normal_(generator=torch.Generator().manual_seed(4))
    whole = by_hand(base, LENGTHS)
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randn(whole.logprobs.shape, generator=generator) for _ in range(3)]
    rows = list(range(8))[accelerator.process_index :: accelerator.num_processes]
    mine = part_of(whole, rows)
    width = mine.logprobs.shape[1]
    trainer = PPOTrainer.__new__(PPOTrainer)
    trainer.accelerator = accelerator
    advantages = trainer._whiten(drawn[0][rows, :width], mine.response_mask)
    batch = Batch(mine, mine.logprobs, mine.logprobs, drawn[1][rows, :width], advantages, drawn[2][rows, :width])
    critic = head_critic(base, SECTION)
    parameters = [*base.adapter_parameters("policy"), critic.weight]
    optimizer = torch.optim.SGD(parameters, lr=0.5)
    order = torch.Generator().manual_seed(0)
    metrics = clipped_update(Learner(base, SECTION, optimizer, accelerator, order, critic), batch, lambda: None)
    return metrics, [p.detach().clone() for p in parameters]


def rounds(folder: Path) -> tuple[list[dict[str, float]], list[torch.Tensor], PPOTrainer]:
    """Two whole rounds, sampling included."""
    base = make_base(folder)
    trainer = make_trainer(base, short(mini_batch_size=4, micro_batch_size=2))
    metrics = [trainer.step() for _ in range(2)]
    return metrics, [*weights(base, "policy"), base.heads[VALUE].weight.detach().clone()], trainer


def work(rank: int, folder: Path, port: int, out: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    updated = update(folder, accelerator)
    metrics, after, trainer = rounds(folder)
    state = {"kl": trainer.kl.coef, "normalizer": trainer.normalizer, "length": trainer.length}
    state["queue"] = trainer.prompt_cycle.queue
    torch.save({"update": updated, "metrics": metrics, "weights": after, "state": state}, out / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def both(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes came to."""
    out = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, args=(tiny_model_dir, port, out), nprocs=2)
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_two_processes_make_the_update_of_one(both: list[dict[str, Any]], tiny_model_dir: Path) -> None:
    metrics, alone = update(tiny_model_dir, Accelerator(cpu=True))
    untouched = make_base(tiny_model_dir).adapter_parameters("policy")
    assert max(float((a - b).abs().max()) for a, b in zip(alone, untouched, strict=False)) > 1e-3
    for process in both:
        told, after = process["update"]
        for a, b in zip(after, alone, strict=True):
            torch.testing.assert_close(a, b, **CLOSE)
        assert told == pytest.approx(metrics, abs=1e-5, rel=1e-4)


def test_whole_rounds_leave_the_same_policy_in_both_processes(both: list[dict[str, Any]]) -> None:
    first, second = both
    assert same(first["weights"], second["weights"])
    assert first["state"] == second["state"]
    for mine, theirs in zip(first["metrics"], second["metrics"], strict=True):
        clock = {k for k in mine if k.startswith(("seconds_", "tokens_per_second"))}
        assert {k: mine[k] for k in mine.keys() - clock} == {k: theirs[k] for k in theirs.keys() - clock}
    assert first["metrics"][0]["kl"] == 0.0
