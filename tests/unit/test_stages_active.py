"""How what the model chose and what chance drew become one order."""

from __future__ import annotations

import pytest
import torch

from rlhf.config import ActiveSection, parse
from rlhf.data.records import Ranking
from rlhf.errors import ConfigError
from rlhf.ops import active as ops
from rlhf.preferences import TaskView
from rlhf.preferences.types import SourcedCompletion
from rlhf.stages.active import by_chance, interleave, sides, telling


def task(number: int, prompt: str = "", group: str = "") -> TaskView:
    texts = (SourcedCompletion(2 * number, f"a{number}", ""), SourcedCompletion(2 * number + 1, f"b{number}", ""))
    return TaskView(number, "one", prompt or f"prompt {number}", texts, group, 0, 1, 0, False)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0, [1, 2, 3, 4, 5, 6, 7, 8, 91, 92]),
        (0.2, [1, 2, 3, 4, 91, 5, 6, 7, 8, 92]),
        (0.5, [1, 91, 2, 92, 3, 4, 5, 6, 7, 8]),
        (0.3, [1, 2, 3, 91, 4, 5, 92, 6, 7, 8]),
    ],
)
def test_chance_has_its_share_of_the_places(share: float, expected: list[int]) -> None:
    assert interleave([1, 2, 3, 4, 5, 6, 7, 8], [91, 92], share) == expected


def test_every_task_comes_once_though_chance_draws_what_was_chosen() -> None:
    assert interleave([1, 2, 3, 4, 5], [5, 1, 9, 4, 8], 0.4) == [1, 2, 5, 3, 9, 4, 8]
    assert interleave([], [3, 1, 2], 0.2) == [3, 1, 2]
    assert interleave([3, 1, 2], [], 0.2) == [3, 1, 2]


def test_shares_of_a_long_order_are_exact_in_every_first_part() -> None:
    order = interleave(list(range(1000)), list(range(1000, 2000)), 0.29)
    for n in range(1, 1000):
        assert sum(i >= 1000 for i in order[:n]) == n * 29 // 100


def test_chance_looks_at_texts_alone() -> None:
    """Not at numbers, which tell who came first, nor at the order of the completions."""
    tasks = [task(i) for i in range(20)]
    drawn = [t.prompt for t in by_chance(tasks, "1")]
    assert sorted(drawn) == sorted(t.prompt for t in tasks) and drawn != [t.prompt for t in tasks]
    renumbered = [TaskView(100 - t.id, "two", t.prompt, t.completions[::-1], "", 5, 3, 1, False) for t in tasks]
    assert [t.prompt for t in by_chance(reversed(renumbered), "1")] == drawn
    assert [t.prompt for t in by_chance(tasks, "2")] != drawn


def test_a_group_is_on_one_side_and_the_side_is_the_hash_s() -> None:
    config = parse({"data": {"eval_fraction": 0.3}}, "test")
    tasks = [task(i, group=f"group {i % 10}") for i in range(40)]
    free, held_out = sides(config, tasks, [])
    # sha256("|group 7") is 0.266 of its range, the nine others' are above 0.3: computed apart
    assert {t.group for t in held_out} == {"group 7"}
    assert len(free) + len(held_out) == 40 and not {t.group for t in free} & {t.group for t in held_out}


def test_what_is_held_out_depends_on_the_rankings_too() -> None:
    """One waiting prompt alone cannot be split; among the rankings' it is on the side that its hash says."""
    config = parse({"data": {"eval_fraction": 0.3}}, "test")
    rankings = [Ranking(f"group {i}", ("a", "b"), (1, 2)) for i in range(10)]
    assert sides(config, [task(1, group="group 7")], rankings)[0] == []
    assert sides(config, [task(1, group="group 3")], rankings)[1] == []


@pytest.mark.parametrize("share", [-0.1, 0.6])
def test_the_share_has_a_range(share: float) -> None:
    with pytest.raises(ConfigError, match=r"active.random_share: found"):
        parse({"active": {"random_share": share}}, "test")


def test_each_acquisition_asks_for_what_it_is_called_after() -> None:
    """Three tasks: of the first all is known, the second is liked and disliked alike, the third was never seen."""
    d = torch.tensor([[2.0, 0.0, 0.0]] * 60 + [[0.0, 2.0, 0.0]] * 8 + [[0.0, -2.0, 0.0]] * 8, dtype=torch.float64)
    lesson = d, torch.ones(len(d), dtype=torch.float64), torch.arange(len(d))
    head = ops.Head(*_fitted(d, 3.0), 3.0)
    tasks = torch.stack([torch.stack([axis, -axis]) for axis in torch.eye(3, dtype=torch.float64)])
    asked = {
        how: telling(ActiveSection(acquisition=how), head, lesson, tasks, torch.ones(3, 2, dtype=torch.bool), 1)
        for how in ("information", "heads", "gap")
    }
    assert asked["gap"][2] == 0  # 1 and 2 are both even
    assert asked["heads"][0] == 1  # of what was never seen, all heads say the same: one half
    assert asked["information"] == [2, 1, 0]  # what nobody was asked about settles most


def _fitted(d: torch.Tensor, precision: float) -> tuple[torch.Tensor, torch.Tensor]:
    start = torch.zeros(3, dtype=torch.float64)
    mean, hessian = ops.newton(d, torch.ones(len(d), dtype=torch.float64), precision, start)
    return mean, torch.linalg.inv(hessian)
