"""Gold tasks: their answer is known, so they measure the labeler. Functions on a connection."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf.data.records import Ranking, parse_ranking, ranking_row
from rlhf.errors import DataError
from rlhf.preferences import intake
from rlhf.preferences.schema import is_latest, judgments, labelers, tasks
from rlhf.preferences.types import GoldResult, NewTask


class Answers(list[Ranking]):
    """Known answers that passed `checked`, with the task of each: they need not be checked again."""

    def __init__(self, rankings: Iterable[Ranking], tasks: list[intake.Task]) -> None:
        super().__init__(rankings)
        self.tasks = tasks


def checked(known: Iterable[Ranking], k: int | None, source: str = "") -> Answers:
    """The rankings, once each can be shown as a task and answered wrongly, and no two contradict; else DataError.

    `source`: the file that they are the rows of, for messages, which then count from 1.
    """
    answers = known if isinstance(known, Answers) else _checked(known, source)
    for task in answers.tasks:
        intake.check_count(task, task.where, k)
    return answers


def _checked(known: Iterable[Ranking], source: str) -> Answers:
    found: dict[str, tuple[Ranking, intake.Task]] = {}
    for i, ranking in enumerate(known):
        where = intake.place("gold", i, source)
        parse_ranking(ranking_row(ranking), where)
        if not ranking.pairs():
            raise DataError(f"{where}, field 'ranks': {list(ranking.ranks)} orders nothing; give two different ranks")
        new = NewTask(ranking.prompt, ranking.completions, group=ranking.group)
        task = intake.without_places(intake.checked_task(new, where, 1))
        first, there = found.setdefault(task.key, (ranking, task))
        if first.pairs() != ranking.pairs():
            raise DataError(
                f"{where}, field 'ranks': {list(ranking.ranks)} contradicts {list(first.ranks)}, the answer to the "
                f"same task in {there.where}; leave one out"
            )
    return Answers((r for r, _ in found.values()), [t for _, t in found.values()])


def write(connection: Connection, project_id: int, known: Answers, batch: str) -> int:
    """Add gold tasks; returns how many the batch did not have. One it has keeps its first answer."""
    answers = {task.key: ranking for ranking, task in zip(known, known.tasks, strict=True)}
    mine = (tasks.c.project_id == project_id) & (tasks.c.batch == batch)
    before = set(connection.scalars(sa.select(tasks.c.id).where(mine)))
    ids = intake.write_tasks(connection, project_id, known.tasks, batch, gold=True)
    fresh = {task_id: answers[key] for key, task_id in ids.items() if task_id not in before}
    order = intake.completion_ids(connection, list(fresh))
    for task_id, ranking in fresh.items():
        answer = {str(c): rank for c, rank in zip(order[task_id], ranking.ranks, strict=True)}
        connection.execute(sa.update(tasks).where(tasks.c.id == task_id).values(gold=answer))
    return len(fresh)


def results(connection: Connection, project_id: int) -> list[GoldResult]:
    """How each labeler's latest judgments agree with the known answers, on the pairs that the answer orders.

    A pair that the labeler ties or leaves unranked does not agree. Skipped tasks are left out.
    """
    rows = connection.execute(
        sa.select(labelers.c.name, judgments.c.ranks, tasks.c.gold)
        .select_from(judgments)
        .join(tasks, tasks.c.id == judgments.c.task_id)
        .join(labelers, labelers.c.id == judgments.c.labeler_id)
        .where(tasks.c.project_id == project_id, tasks.c.gold.is_not(None), judgments.c.ranks.is_not(None), is_latest())
    )
    totals: dict[str, list[int]] = {}
    for name, ranks, answer in rows:
        of = totals.setdefault(name, [0, 0, 0])
        pairs, agreed = agreement(ranks, answer)
        of[0], of[1], of[2] = of[0] + 1, of[1] + pairs, of[2] + agreed
    return [GoldResult(name, *totals[name]) for name in sorted(totals)]


def agreement(ranks: dict[str, int | None], answer: dict[str, int | None]) -> tuple[int, int]:
    """How many pairs the answer orders, and how many of them the ranks order alike."""
    pairs = agreed = 0
    for a, b in combinations(answer, 2):
        right = _order(answer[a], answer[b])
        if right:
            pairs += 1
            agreed += _order(ranks.get(a), ranks.get(b)) == right
    return pairs, agreed


def _order(first: int | None, second: int | None) -> int:
    """-1: the first is better, 1: the second, 0: a tie or unknown."""
    if first is None or second is None:
        return 0
    return (first > second) - (first < second)
