"""Who ranks what: claiming, submitting, skipping, correcting. Functions on a connection within a write transaction.

A task wants `overlap` people. Its places are filled by counted judgments and by leases that have not run out; a place
whose lease runs out, or whose labeler skips, is free for the next person. Nobody is ever asked the same task twice,
except to take up again what they had open.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from rlhf.data.records import PromptLike, check_text
from rlhf.errors import StoreError
from rlhf.preferences.schema import (
    assignments,
    completions,
    guidelines,
    judgments,
    labelers,
    now,
    projects,
    prompts,
    task_completions,
    tasks,
)
from rlhf.preferences.types import Assignment, Labeler, Outcome, Progress, ShownCompletion

_shuffle = random.SystemRandom().shuffle  # orders that no seed set elsewhere can repeat


def claim(connection: Connection, project_id: int, labeler: Labeler) -> Assignment | None:
    """What this labeler works on now: a judgment being corrected, else the task they have open, else the next one."""
    _one_at_a_time(connection, labeler.id)
    current = _current(connection, project_id, labeler)
    if current is not None:
        _extend(connection, project_id, current)
        return load(connection, current, labeler)
    task_id = _next_task(connection, project_id, labeler)
    if task_id is None:
        return None
    query = sa.select(task_completions.c.completion_id).where(task_completions.c.task_id == task_id)
    shown = list(connection.scalars(query))
    _shuffle(shown)
    values = {"task_id": task_id, "labeler_id": labeler.id, "state": "open", "reopened": False, "shown": shown}
    insert = sa.insert(assignments).values(leased_until=_lease_end(connection, project_id), **values)
    return load(connection, connection.execute(insert.returning(assignments.c.id)).scalar_one(), labeler)


def load(connection: Connection, assignment_id: int, labeler: Labeler) -> Assignment:
    """The assignment as its labeler may see it: no sources, their own order, their last judgment if reopened."""
    row = _assignment(connection, assignment_id)
    task = connection.execute(
        sa.select(tasks.c.project_id, prompts.c.body).join_from(tasks, prompts).where(tasks.c.id == row.task_id)
    ).one()
    texts = connection.execute(sa.select(completions.c.id, completions.c.text).where(completions.c.id.in_(row.shown)))
    by_id = {c.id: c.text for c in texts}
    version, body = _guidelines(connection, task.project_id)
    ranks: Mapping[int, int | None] = {}
    comment = ""
    if row.reopened:
        last = _last_judgment(connection, row)
        comment = last.comment
        ranks = {int(c): rank for c, rank in (last.ranks or {}).items()}
    return Assignment(
        id=row.id,
        task_id=row.task_id,
        labeler=labeler,
        prompt=as_prompt(task.body),
        completions=tuple(ShownCompletion(c, by_id[c]) for c in row.shown),
        guidelines=body,
        guideline_version=version,
        reopened=row.reopened,
        ranks=ranks,
        comment=comment,
    )


def submit(
    connection: Connection,
    assignment: Assignment,
    ranks: Mapping[int, int | None] | None,
    *,
    submit_id: str,
    comment: str = "",
    skip_reason: str | None = None,
    active_seconds: float | None = None,
) -> Outcome:
    """Append one judgment: a ranking, or (`ranks` None) a skip. See LabelStore.submit for the rules."""
    check_text(submit_id, "submit_id")
    check_text(comment, "comment", blank=True)
    check_text(skip_reason or "", "reason", blank=True)
    if active_seconds is not None and not (math.isfinite(active_seconds) and active_seconds >= 0):
        raise StoreError(f"active_seconds: expected a time of 0 or more seconds, found {active_seconds}")
    _one_at_a_time(connection, _assignment(connection, assignment.id).labeler_id)
    row = _assignment(connection, assignment.id)
    earlier = connection.execute(sa.select(judgments).where(judgments.c.submit_id == submit_id)).one_or_none()
    if earlier is not None:
        if (earlier.task_id, earlier.labeler_id) != (row.task_id, row.labeler_id):
            raise StoreError("submit_id: was used for another task already; make a new one for every assignment")
        return Outcome.REPEATED
    if row.state != "open" and not row.reopened:
        raise StoreError("this task was judged or skipped already; reopen it to correct the judgment")
    task = connection.execute(sa.select(tasks).where(tasks.c.id == row.task_id).with_for_update()).one()
    if ranks is not None:
        _check_ranks(connection, task.project_id, row.shown, ranks)
    surplus = ranks is not None and row.state != "done" and _free_places(connection, task, row.labeler_id) < 1
    state = "skipped" if ranks is None else "surplus" if surplus else "done"
    clock = connection.scalar(sa.select(now(connection.dialect.name)))
    connection.execute(
        sa.insert(judgments).values(
            task_id=row.task_id,
            labeler_id=row.labeler_id,
            revision=_revision(connection, row) + 1,
            submit_id=submit_id,
            ranks=None if ranks is None else {str(c): rank for c, rank in ranks.items()},
            skip_reason=skip_reason if ranks is None else None,
            surplus=surplus,
            comment=comment,
            active_seconds=active_seconds,
            guideline_version=assignment.guideline_version,
            shown=row.shown,
            stated_at=datetime.fromtimestamp(clock or 0.0, UTC).isoformat(timespec="milliseconds"),
            meta={},
            created_at=clock,
        )
    )
    change = (state == "done") - (row.state == "done")
    connection.execute(sa.update(tasks).where(tasks.c.id == task.id).values(judged=tasks.c.judged + change))
    done = sa.update(assignments).where(assignments.c.id == row.id)
    connection.execute(done.values(state=state, reopened=False, leased_until=clock))
    return Outcome.SURPLUS if surplus else Outcome.COUNTED


def renew(connection: Connection, project_id: int, assignment: Assignment) -> bool:
    """Extend the lease; False if the task is no longer this labeler's to finish (judged, or given to others)."""
    _one_at_a_time(connection, _assignment(connection, assignment.id).labeler_id)
    row = _assignment(connection, assignment.id)
    if not row.reopened:
        task = connection.execute(sa.select(tasks).where(tasks.c.id == row.task_id)).one()
        if row.state != "open" or _free_places(connection, task, row.labeler_id) < 1:
            return False
    _extend(connection, project_id, row.id)
    return True


def release(connection: Connection, assignment: Assignment) -> None:
    """Give an open task back for others, or leave a reopened judgment as it was."""
    update = sa.update(assignments).where(assignments.c.id == assignment.id)
    connection.execute(update.values(reopened=False, leased_until=now(connection.dialect.name)))


def reopen_last(connection: Connection, project_id: int, labeler: Labeler) -> Assignment | None:
    """The task that this labeler judged or skipped last, open for a new revision; None if there is none."""
    _one_at_a_time(connection, labeler.id)
    mine = (assignments.c.task_id == judgments.c.task_id) & (assignments.c.labeler_id == judgments.c.labeler_id)
    row = connection.execute(
        sa.select(assignments.c.id)
        .join(judgments, mine)
        .join(tasks, tasks.c.id == assignments.c.task_id)
        .where(assignments.c.labeler_id == labeler.id, tasks.c.project_id == project_id)
        .order_by(judgments.c.id.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        return None
    connection.execute(sa.update(assignments).where(assignments.c.labeler_id == labeler.id).values(reopened=False))
    connection.execute(sa.update(assignments).where(assignments.c.id == row.id).values(reopened=True))
    return load(connection, row.id, labeler)


def progress(connection: Connection, project_id: int, labeler: Labeler) -> Progress:
    """How many tasks this labeler ranked and skipped, and how many they could still be given."""
    states = connection.execute(
        sa.select(assignments.c.state, sa.func.count().label("n"))
        .join(tasks, tasks.c.id == assignments.c.task_id)
        .where(assignments.c.labeler_id == labeler.id, tasks.c.project_id == project_id)
        .group_by(assignments.c.state)
    )
    by_state: dict[str, int] = {row.state: row.n for row in states}
    mine = (assignments.c.task_id == tasks.c.id) & (assignments.c.labeler_id == labeler.id)
    had = sa.exists().where(mine, assignments.c.state != "open")
    remaining = connection.scalar(
        sa.select(sa.func.count())
        .select_from(tasks)
        .where(tasks.c.project_id == project_id, tasks.c.judged < tasks.c.overlap, ~had)
    )
    return Progress(by_state.get("done", 0) + by_state.get("surplus", 0), by_state.get("skipped", 0), remaining or 0)


def as_prompt(body: Any) -> PromptLike:
    """A prompt as records have it: JSON keeps chat messages as a list."""
    return body if isinstance(body, str) else tuple(body)


def _current(connection: Connection, project_id: int, labeler: Labeler) -> int | None:
    mine = (assignments.c.labeler_id == labeler.id) & (tasks.c.project_id == project_id)
    rows = connection.execute(
        sa.select(assignments.c.id, assignments.c.task_id, assignments.c.reopened)
        .join(tasks, tasks.c.id == assignments.c.task_id)
        .where(mine, (assignments.c.state == "open") | assignments.c.reopened)
        .order_by(assignments.c.reopened.desc(), assignments.c.leased_until.desc(), assignments.c.id)
    ).all()
    for row in rows:  # a lease that ran out is taken up again if nobody else took the place
        task = connection.execute(sa.select(tasks).where(tasks.c.id == row.task_id).with_for_update()).one()
        if row.reopened or _free_places(connection, task, labeler.id) > 0:
            return int(row.id)
    return None


def _next_task(connection: Connection, project_id: int, labeler: Labeler) -> int | None:
    """The next task by priority, then age, that has a free place and that this labeler never had."""
    live = (assignments.c.state == "open") & (assignments.c.leased_until > now(connection.dialect.name))
    leased = sa.select(sa.func.count()).where(assignments.c.task_id == tasks.c.id, live).scalar_subquery()
    mine = sa.exists().where(assignments.c.task_id == tasks.c.id, assignments.c.labeler_id == labeler.id)
    wanted = (
        tasks.c.project_id == project_id,
        tasks.c.judged < tasks.c.overlap,
        tasks.c.judged + leased < tasks.c.overlap,
    )
    passed: list[int] = []  # PostgreSQL: tasks that another claim took between our look and our lock
    while True:
        task = connection.execute(
            sa.select(tasks)
            .where(*wanted, ~mine, tasks.c.id.not_in(passed))
            .order_by(tasks.c.priority.desc(), tasks.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        ).one_or_none()
        if task is None or _free_places(connection, task, labeler.id) > 0:
            return None if task is None else int(task.id)
        passed.append(task.id)


def _free_places(connection: Connection, task: Row[Any], labeler_id: int) -> int:
    """Places of a task that are neither judged nor under a live lease of somebody else than `labeler_id`."""
    live = (assignments.c.state == "open") & (assignments.c.leased_until > now(connection.dialect.name))
    others = sa.select(sa.func.count()).where(
        assignments.c.task_id == task.id, assignments.c.labeler_id != labeler_id, (assignments.c.state == "done") | live
    )
    return int(task.overlap) - (connection.scalar(others) or 0)


def _check_ranks(connection: Connection, project_id: int, shown: list[int], ranks: Mapping[int, int | None]) -> None:
    if set(ranks) != set(shown):
        raise StoreError(f"ranks: expected one for each of the completions {sorted(shown)}, found {sorted(ranks)}")
    for completion, rank in ranks.items():
        if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
            raise StoreError(f"ranks: completion {completion}: expected a whole number from 1 (best), found {rank!r}")
    missing = sum(rank is None for rank in ranks.values())
    if missing and not connection.scalar(sa.select(projects.c.allow_partial).where(projects.c.id == project_id)):
        raise StoreError(
            f"ranks: {missing} of {len(ranks)} completions have none; this project wants all of them ranked"
        )


def _one_at_a_time(connection: Connection, labeler_id: int) -> None:
    """Let this transaction be the only one that acts for this person: two tabs, a double Enter, a request sent again.

    Whoever comes second waits here and then sees what the first one did. SQLite has one writer anyway.
    """
    connection.execute(sa.select(labelers.c.id).where(labelers.c.id == labeler_id).with_for_update())


def _assignment(connection: Connection, assignment_id: int) -> Row[Any]:
    row = connection.execute(sa.select(assignments).where(assignments.c.id == assignment_id)).one_or_none()
    if row is None:
        raise StoreError(f"assignment {assignment_id}: this store has none of that number; claim one")
    return row


def _last_judgment(connection: Connection, row: Row[Any]) -> Row[Any]:
    mine = (judgments.c.task_id == row.task_id) & (judgments.c.labeler_id == row.labeler_id)
    return connection.execute(sa.select(judgments).where(mine).order_by(judgments.c.revision.desc()).limit(1)).one()


def _revision(connection: Connection, row: Row[Any]) -> int:
    mine = (judgments.c.task_id == row.task_id) & (judgments.c.labeler_id == row.labeler_id)
    return connection.scalar(sa.select(sa.func.max(judgments.c.revision)).where(mine)) or 0


def _guidelines(connection: Connection, project_id: int) -> tuple[int, str]:
    row = connection.execute(
        sa.select(guidelines.c.version, guidelines.c.body)
        .where(guidelines.c.project_id == project_id)
        .order_by(guidelines.c.version.desc())
        .limit(1)
    ).one_or_none()
    return (0, "") if row is None else (row.version, row.body)


def _lease_end(connection: Connection, project_id: int) -> sa.ColumnElement[float]:
    seconds = sa.select(projects.c.lease_seconds).where(projects.c.id == project_id).scalar_subquery()
    return now(connection.dialect.name) + seconds


def _extend(connection: Connection, project_id: int, assignment_id: int) -> None:
    update = sa.update(assignments).where(assignments.c.id == assignment_id)
    connection.execute(update.values(leased_until=_lease_end(connection, project_id)))
