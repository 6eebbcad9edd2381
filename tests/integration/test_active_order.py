"""Active order on a tiny model: what the reward model does not know is handed out first, and chance keeps its share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf.config import Config, parse
from rlhf.data.records import Ranking
from rlhf.data.splits import split_by_hash
from rlhf.errors import ArtifactError, ConfigError
from rlhf.preferences import LabelStore, NewTask
from rlhf.stages import active, pipeline
from rlhf.stages.tracking import Tracker

MakeConfig = Callable[..., dict[str, Any]]
GOOD, BAD = "is wonderful and full of warmth.", "is dull and badly made."
SUBJECTS = ("cast", "film", "music", "plot", "song", "story", "title", "villain", "ending", "hero")
FAMILIAR, STRANGE = 4, 6


def side(prompt: str) -> str:
    """Where the reward model's split puts a prompt."""
    apart = split_by_hash([Ranking(p, ("a", "b"), (1, 2)) for p in (prompt, *map(ask, SUBJECTS))], 0.3)[1]
    return "held out" if prompt in {r.prompt for r in apart} else "free"


def ask(subject: str) -> str:
    return f"Review the {subject}."


def free_prompts(count: int) -> list[str]:
    return [p for p in (f"Write about {i}." for i in range(100)) if side(p) == "free"][:count]


def familiar(prompt: str, i: int) -> NewTask:
    subject = SUBJECTS[i % len(SUBJECTS)]
    return NewTask(prompt, (f"The {subject} {GOOD}", f"The {subject} {BAD}"))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(Tracker, "say", lambda _self, text: lines.append(text))
    return lines


@pytest.fixture
def config(tiny_config: MakeConfig, tmp_path: Path) -> Config:
    """A reward model of 40 rankings of one kind: a warm sentence over a harsh one, of ten subjects."""
    rows = [
        {"prompt": p, "completions": [f"The {s} {GOOD}", f"The {s} {BAD}"], "ranks": [1, 2], "labeler": "ann"}
        for p in map(ask, SUBJECTS)
        for s in SUBJECTS[:4]
    ]
    file = tmp_path / "known.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return parse(tiny_config({"reward.rankings": str(file)}), "test")


@pytest.fixture
def store(config: Config) -> Iterator[LabelStore]:
    config.run_path.mkdir()
    with LabelStore.open(config.store_url, create=True) as opened:
        yield opened


def next_prompt(store: LabelStore) -> object:
    assignment = store.claim(store.labeler("zoe"))
    assert assignment is not None
    return assignment.prompt


def queue_up(store: LabelStore) -> list[str]:
    """Four tasks like those that people have ranked, and then six of another kind: their prompts."""
    prompts = free_prompts(FAMILIAR + STRANGE)
    known, strange = prompts[:FAMILIAR], prompts[FAMILIAR:]
    store.add_tasks([familiar(p, i) for i, p in enumerate(known)], batch="asked")
    texts = [(f"system user {i}", f"assistant user user {i}") for i in range(STRANGE)]
    store.add_tasks([NewTask(p, t) for p, t in zip(strange, texts, strict=True)], batch="asked")
    return strange


def test_what_the_model_knows_least_about_is_claimed_next(config: Config, store: LabelStore, said: list[str]) -> None:
    strange = queue_up(store)
    store.configure({"order": "active", "gold_share": 0})
    assert store.waiting()[0].prompt not in strange
    summary = pipeline.run(config, stages=["reward"])
    assert next_prompt(store) in strange
    order = [t.prompt for t in store.waiting()]
    assert set(order[:4]) <= set(strange) and set(order[7:9]).isdisjoint(strange)  # the fifth and tenth are chance's
    found = summary["active"]
    assert (found["tasks"], found["chosen"], found["held_out"], found["random_share"]) == (10, 10, 0, 0.2)
    assert found["disagreement_first"] == pytest.approx(found["disagreement"])  # all ten are on the first page
    assert any(line.startswith("10 tasks wait in a new order: the model chose among 10") for line in said)


@pytest.mark.parametrize("order", ["priority", "random"])
def test_another_order_is_left_alone(config: Config, store: LabelStore, said: list[str], order: str) -> None:
    queue_up(store)
    store.configure({"order": order})
    before = store.waiting()
    summary = pipeline.run(config, stages=["reward"])
    assert store.waiting() == before
    assert "active" not in summary and not any("active" in line for line in said)
    assert "active" not in json.loads((config.run_path / "manifest.json").read_text())["stages"]


def test_it_can_be_asked_for_again_by_hand(config: Config, store: LabelStore, said: list[str]) -> None:
    strange = queue_up(store)
    pipeline.run(config, stages=["reward"])
    with pytest.raises(
        ConfigError, match=r"hands out tasks in priority order; set it: rlhf store project default order"
    ):
        pipeline.run(config, stages=["active"])
    store.configure({"order": "active"})
    for _ in range(2):  # nothing has changed, and yet it runs: people may have ranked meanwhile
        store.reorder([])
        pipeline.run(config, stages=["active"])
        assert store.waiting()[0].prompt in strange
    pipeline.run(config, stages=["reward"])
    assert said[-2:][0].startswith("10 tasks wait") and "reward: unchanged, skipped" in said


def test_without_a_reward_model_it_says_what_to_run(config: Config, store: LabelStore) -> None:
    store.configure({"order": "active"})
    with pytest.raises(ArtifactError, match=r"adapter 'reward' is not on this run's record.*run `rlhf reward` first"):
        pipeline.run(config, stages=["active"])


def test_sampled_tasks_are_ordered_as_they_come(config: Config, store: LabelStore) -> None:
    store.configure({"order": "active"})
    sample = config.sample.model_copy(update={"adapter": "sft"})
    sft = config.sft.model_copy(update={"max_steps": 12, "epochs": 3.0, "learning_rate": 1e-2})
    summary = pipeline.run(config.model_copy(update={"sample": sample, "sft": sft}), stages=["sft", "reward", "sample"])
    assert summary["active"]["tasks"] == summary["active"]["chosen"] == summary["sample"]["added"] > 0


def test_held_out_prompts_are_not_chosen_but_drawn(config: Config, store: LabelStore) -> None:
    """However little the model knows about them, they come in the places of chance, in the order of a hash."""
    prompts = [p for p in (f"Write about {i}." for i in range(100)) if side(p) == "held out"][:3]
    strange = [NewTask(p, (f"system user {i}", "user user user user")) for i, p in enumerate(prompts)]
    store.add_tasks(strange, batch="asked")
    store.add_tasks([familiar(p, i) for i, p in enumerate(free_prompts(12))], batch="asked")
    store.configure({"order": "active"})
    summary = pipeline.run(config, stages=["reward"])
    assert summary["active"]["held_out"] == 3 and summary["active"]["chosen"] == 12
    order = [t.prompt for t in store.waiting()]
    assert [i for i, p in enumerate(order) if p in prompts] == [4, 9, 14]
    expected = [t.prompt for t in active.by_chance(store.waiting(), f"{config.seed} tasks") if t.prompt in prompts]
    assert [p for p in order if p in prompts] == expected


def test_with_rankings_of_its_own_to_be_measured_on_no_prompt_is_held_out(
    config: Config, store: LabelStore, tiny_task: Any
) -> None:
    section = config.reward.model_copy(update={"eval_rankings": str(tiny_task.gold_rankings), "batches": ["known"]})
    prompts = [p for p in (f"Write about {i}." for i in range(100)) if side(p) == "held out"][:3]
    store.add_tasks([familiar(p, i) for i, p in enumerate(prompts)], batch="known")
    store.add_tasks([familiar(p, i) for i, p in enumerate(free_prompts(4))], batch="others")
    free, held_out = active.sides(config.model_copy(update={"reward": section}), store.waiting(), [])
    assert len(free) == 7 and held_out == []


def test_only_tasks_that_the_reward_model_would_learn_from_are_ordered(
    config: Config, store: LabelStore, tmp_path: Path
) -> None:
    section = config.reward.model_copy(update={"batches": ["mine"]})
    store.add_tasks([familiar(p, i) for i, p in enumerate(free_prompts(4))], batch="others")
    store.add_tasks([familiar(p, i) for i, p in enumerate(free_prompts(8)[4:])], batch="mine")
    store.configure({"order": "active"})
    summary = pipeline.run(config.model_copy(update={"reward": section}), stages=["reward"])
    assert summary["active"]["tasks"] == 4
    assert [t.batch for t in store.waiting()] == ["mine"] * 4 + ["others"] * 4


def test_too_few_rankings_leave_it_to_chance(
    config: Config, store: LabelStore, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue_up(store)
    store.configure({"order": "active"})
    monkeypatch.setattr(active, "FEWEST", 1000)
    summary = pipeline.run(config, stages=["reward"])
    assert "active: fewer than 1000 rankings to learn from; 10 tasks wait, in random order" in said
    assert (summary["active"]["chosen"], summary["active"]["random_share"]) == (0, 1.0)
    tasks = store.waiting()
    assert tasks == active.by_chance(tasks, f"{config.seed} tasks")


def test_a_task_too_long_for_the_model_is_not_chosen(config: Config, store: LabelStore, said: list[str]) -> None:
    strange = queue_up(store)
    long = free_prompts(FAMILIAR + STRANGE + 1)[-1]
    store.add_tasks([NewTask(long, ("warm " * 200, "dull"))], batch="asked")
    store.configure({"order": "active"})
    found = pipeline.run(config, stages=["reward"])["active"]
    assert (found["tasks"], found["chosen"], found["over_long"]) == (11, 10, 1)
    order = [t.prompt for t in store.waiting()]
    assert order[0] in strange and long in order


def test_the_model_looks_at_so_many_tasks_and_chance_has_the_others(config: Config, store: LabelStore) -> None:
    queue_up(store)
    store.configure({"order": "active"})
    changed = config.model_copy(update={"active": config.active.model_copy(update={"max_tasks": 3})})
    found = pipeline.run(changed, stages=["reward"])["active"]
    assert (found["tasks"], found["chosen"]) == (10, 3)


def test_an_empty_queue_is_no_fault(config: Config, store: LabelStore, said: list[str]) -> None:
    store.configure({"order": "active"})
    assert pipeline.run(config, stages=["reward"])["active"]["tasks"] == 0
    assert "active: nothing for the model to choose; 0 tasks wait, in random order" in said
