"""Who ranks what: claiming, leases, progress. Functions on a connection within a write transaction.

A task wants `overlap` people. Its places are filled by counted judgments and by leases that have not run out; a place
whose lease runs out, or whose labeler skips, is free for the next person. Nobody is ever asked the same task twice,
except to take up again what they had open. Gold tasks, whose answer is known, are mixed in: everybody may get each of
them once, and they take no places.
"""

from __future__ import annotations

import hashlib
import random
import statistics
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Row

from rlhf.errors import StoreError
from rlhf.preferences import access
from rlhf.preferences.handle import project_settings
from rlhf.preferences.schema import (
    IN_HAND,
    assignments,
    bookmarks,
    drafts,
    judgments,
    now,
    projects,
    queues,
    task_completions,
    tasks,
)
from rlhf.preferences.settings import ProjectSettings
from rlhf.preferences.types import Assignment, Labeler, Progress

MOST_COUNTED = 1000  # progress counts what is left up to here: nobody reads more, and counting a million takes a while
MOST_TAKEN_UP = 8  # of the leases that ran out, the last ones are taken up again; others have the rest by now
REORDERED_AT_ONCE = 200  # tasks in one transaction: others pass over those, or wait for no more than them
DAY = 86400.0
_chance = random.SystemRandom()  # nothing that a seed set elsewhere can repeat


def claim(connection: Connection, project_id: int, labeler: Labeler) -> int | None:
    """The assignment that this labeler works on now: one being corrected, else the one they have open, else a new one.

    Its lease is renewed. None if nothing is left for them.
    """
    access.active(connection, labeler, alone=True)
    if labeler.id in access.excluded(connection, project_id):
        return None  # what they said would count nowhere
    settings = project_settings(connection, project_id)
    current = _current(connection, project_id, labeler)
    if current is not None:
        _extend(connection, settings, current)
        return current
    _move_bookmark(connection, project_id, labeler)
    task_id = _next_task(connection, project_id, labeler, settings)
    if task_id is None:
        return None
    position = had(connection, project_id, labeler)
    if gold_at(_secret(connection, project_id), labeler.id, position, settings.gold_share):
        task_id = _next_gold(connection, project_id, labeler) or task_id
    query = sa.select(task_completions.c.completion_id).where(task_completions.c.task_id == task_id)
    shown = list(connection.scalars(query))
    _chance.shuffle(shown)
    values = {"task_id": task_id, "project_id": project_id, "labeler_id": labeler.id, "state": "open", "shown": shown}
    insert = sa.insert(assignments).values(reopened=False, leased_until=_lease_end(connection, settings), **values)
    return int(connection.execute(insert.returning(assignments.c.id)).scalar_one())


def renew(connection: Connection, project_id: int, assignment: Assignment) -> bool:
    """Extend the lease; False if the task is no longer this labeler's to finish (judged, or given to others)."""
    access.active(connection, assignment.labeler, alone=True)
    row = of_labeler(connection, project_id, assignment.id, assignment.labeler)
    if not row.reopened:
        task = locked(connection, row.task_id)
        if row.state != "open" or free_places(connection, task, row.labeler_id) < 1:
            return False
    _extend(connection, project_settings(connection, project_id), row.id)
    return True


def release(connection: Connection, project_id: int, assignment: Assignment) -> None:
    """Give an open task back for others, or leave a reopened judgment as it was."""
    access.active(connection, assignment.labeler, alone=True)
    of_labeler(connection, project_id, assignment.id, assignment.labeler)
    update = sa.update(assignments).where(assignments.c.id == assignment.id)
    connection.execute(update.values(reopened=False, leased_until=now(connection.dialect.name)))
    connection.execute(sa.delete(drafts).where(drafts.c.assignment_id == assignment.id))
    access.record(connection, assignment.labeler, "release", assignment=assignment.id)


def locked(connection: Connection, task_id: int) -> Row[Any]:
    """The task's row, which no other transaction counts places of until this one ends. Lock tasks in order of id."""
    return connection.execute(sa.select(tasks).where(tasks.c.id == task_id).with_for_update(key_share=True)).one()


def of_labeler(connection: Connection, project_id: int, assignment_id: int, labeler: Labeler) -> Row[Any]:
    """The assignment's row; StoreError if the project has none of that number, or it is somebody else's."""
    row = connection.execute(sa.select(assignments).where(assignments.c.id == assignment_id)).one_or_none()
    if row is None or row.labeler_id != labeler.id or row.project_id != project_id:
        raise StoreError(f"assignment {assignment_id}: this labeler has none of that number; claim one")
    return row


def free_places(connection: Connection, task: Row[Any], labeler_id: int) -> int:
    """Places of a task that are neither judged nor under a live lease of somebody else than `labeler_id`."""
    if task.gold is not None:
        return 1
    live = (assignments.c.state == "open") & (assignments.c.leased_until > now(connection.dialect.name))
    others = sa.select(sa.func.count()).where(
        assignments.c.task_id == task.id, assignments.c.labeler_id != labeler_id, (assignments.c.state == "done") | live
    )
    return int(task.overlap) - (connection.scalar(others) or 0)


def had(connection: Connection, project_id: int, labeler: Labeler) -> int:
    """How many tasks of the project this labeler was ever given."""
    return connection.scalar(sa.select(sa.func.count()).where(_of(labeler, project_id))) or 0


def gold_at(secret: str, labeler_id: int, position: int, share: float) -> bool:
    """Whether the task that is this labeler's number `position` is a gold one: as if by chance, but settled beforehand.

    So the number of tasks still to go can count the gold ones that will come, and going down by exactly one with each
    task it tells nobody which of them were gold.
    """
    digest = hashlib.sha256(f"{secret}:{labeler_id}:{position}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def progress(connection: Connection, project_id: int, labeler: Labeler) -> Progress:
    """How many tasks this labeler ranked and skipped, and how many they could still be given."""
    access.active(connection, labeler)
    states = connection.execute(
        sa.select(assignments.c.state, sa.func.count().label("n"))
        .where(_of(labeler, project_id))
        .group_by(assignments.c.state)
    )
    by_state: dict[str, int] = {row.state: row.n for row in states}
    # A subquery and no join: SQLite would go through the project's tasks, however many, for one person's judgments.
    of_project = sa.select(tasks.c.project_id).where(tasks.c.id == judgments.c.task_id).scalar_subquery() == project_id
    ranked = (judgments.c.labeler_id == labeler.id) & judgments.c.ranks.is_not(None) & of_project
    own = sa.select(judgments.c.active_seconds).where(ranked)
    recent = list(connection.scalars(own.order_by(judgments.c.created_at.desc()).limit(20)))
    seconds = [s for s in recent if s is not None]
    since = sa.select(now(connection.dialect.name) - DAY).scalar_subquery()  # once a statement: it can use the index
    today = own.with_only_columns(sa.func.count(sa.distinct(judgments.c.task_id))).where(judgments.c.created_at > since)
    return Progress(
        ranked=by_state.get("done", 0) + by_state.get("surplus", 0),
        skipped=by_state.get("skipped", 0),
        remaining=_remaining(connection, project_id, labeler, sum(by_state.values())),
        today=connection.scalar(today) or 0,
        seconds=statistics.median(seconds) if seconds else None,
    )


def _remaining(connection: Connection, project_id: int, labeler: Labeler, position: int) -> int:
    """Tasks to come: those with a place not judged yet, and the gold ones that will be mixed in; at most MOST_COUNTED.

    The one that is open now, gold or not, counts too. None for somebody whose rankings are excluded.
    """
    if labeler.id in access.excluded(connection, project_id):
        return 0
    unseen = _unseen(labeler)
    wanted = (tasks.c.judged < tasks.c.overlap) | tasks.c.gold.is_not(None)
    in_hand = sa.select(sa.func.count()).select_from(assignments).join(tasks, tasks.c.id == assignments.c.task_id)
    opened = connection.scalar(in_hand.where(_of(labeler, project_id), IN_HAND, assignments.c.state == "open", wanted))

    def count(*where: sa.ColumnElement[bool]) -> int:
        some = sa.select(tasks.c.id).where(tasks.c.project_id == project_id, unseen, *where).limit(MOST_COUNTED)
        return connection.scalar(sa.select(sa.func.count()).select_from(some.subquery())) or 0

    opened = opened or 0
    ordinary = 0
    for stretch in _stretches(_bookmark(connection, project_id, labeler)):
        ordinary += count(tasks.c.judged < tasks.c.overlap, stretch) if ordinary < MOST_COUNTED else 0
    share = project_settings(connection, project_id).gold_share
    gold = count(tasks.c.gold.is_not(None)) if share else 0
    secret = _secret(connection, project_id)
    total = 0
    while ordinary and opened + total < MOST_COUNTED:
        if gold and gold_at(secret, labeler.id, position + total, share):
            gold -= 1
        else:
            ordinary -= 1
        total += 1
    return opened + total


def fresh(connection: Connection, project_id: int, labeler: Labeler) -> int | None:
    """What `claim` would give, where it need not write: a correction, or a lease with half its time still to run."""
    access.active(connection, labeler)
    first = connection.execute(_in_hand(labeler, project_id).limit(1)).one_or_none()
    if first is None or labeler.id in access.excluded(connection, project_id):
        return None
    half = project_settings(connection, project_id).lease_seconds / 2
    enough = connection.scalar(sa.select(now(connection.dialect.name) + half)) or 0.0
    return int(first.id) if first.reopened or first.leased_until > enough else None


def _in_hand(labeler: Labeler, project_id: int) -> sa.Select[Any]:
    """What this labeler has open, first what they work on now: a correction, else the lease that ends last."""
    order = (assignments.c.reopened.desc(), assignments.c.leased_until.desc(), assignments.c.id)
    return sa.select(assignments).where(_of(labeler, project_id), IN_HAND).order_by(*order)


def _current(connection: Connection, project_id: int, labeler: Labeler) -> int | None:
    rows = connection.execute(_in_hand(labeler, project_id).limit(MOST_TAKEN_UP)).all()
    if not rows:
        return None
    savepoint = connection.begin_nested()  # whoever goes on to wait for another task must hold none
    # In order of id, so that two people with leases of the same tasks never wait for each other.
    found = {row.task_id: locked(connection, row.task_id) for row in sorted(rows, key=lambda r: r.task_id)}
    for row in rows:  # a lease that ran out is taken up again if nobody else took the place
        if row.reopened or free_places(connection, found[row.task_id], labeler.id) > 0:
            savepoint.commit()
            return int(row.id)
    savepoint.rollback()
    return None


def _next_task(connection: Connection, project_id: int, labeler: Labeler, settings: ProjectSettings) -> int | None:
    """The next task in the project's order that has a free place and that this labeler never had."""
    if settings.order != "random":
        order: tuple[sa.ColumnElement[Any], ...] = (tasks.c.priority.desc(), tasks.c.id)
        stretches = _stretches(_bookmark(connection, project_id, labeler))
    else:
        start = _chance.randrange(2**31)  # tasks lie on a ring in the order of `shuffle`: the first from a random point
        order = (tasks.c.shuffle, tasks.c.id)
        stretches = [tasks.c.shuffle >= start, tasks.c.shuffle < start]
    for stretch in stretches:
        if found := _first_free(connection, project_id, labeler, order, stretch):
            return found
    return None


def count(connection: Connection, task: Row[Any], change: int) -> None:
    """One judgment of the task counts more (1), or no longer (-1: it became a skip, and the place is free again)."""
    connection.execute(sa.update(tasks).where(tasks.c.id == task.id).values(judged=tasks.c.judged + change))
    if change < 0:
        changed(connection, task.project_id)


def changed(connection: Connection, project_id: int) -> None:
    """Say that the queue has new tasks, another order, or a judged place free again: no bookmark holds any longer."""
    version = sa.update(queues).where(queues.c.project_id == project_id).values(version=queues.c.version + 1)
    connection.execute(version)


def prioritise(connection: Connection, project_id: int, priorities: Sequence[tuple[int, int]]) -> None:
    """Give tasks of the project, in order of id, these priorities."""
    for task_id, priority in priorities:
        connection.execute(sa.update(tasks).where(tasks.c.id == task_id).values(priority=priority))
    changed(connection, project_id)


def _unseen(labeler: Labeler) -> sa.ColumnElement[bool]:
    """This labeler never had the task.

    A count and no EXISTS: PostgreSQL makes a join of that, and reads all that somebody ever did to find one task.
    """
    mine = (assignments.c.task_id == tasks.c.id) & (assignments.c.labeler_id == labeler.id)
    return sa.select(sa.func.count()).select_from(assignments).where(mine).correlate(tasks).scalar_subquery() == 0


def _of(labeler: Labeler, project_id: int) -> sa.ColumnElement[bool]:
    return (assignments.c.labeler_id == labeler.id) & (assignments.c.project_id == project_id)


def _bookmark(connection: Connection, project_id: int, labeler: Labeler) -> Row[Any] | None:
    """This labeler's bookmark, if it still holds."""
    mine = (bookmarks.c.project_id == project_id) & (bookmarks.c.labeler_id == labeler.id)
    query = sa.select(bookmarks).join(queues, queues.c.project_id == bookmarks.c.project_id)
    return connection.execute(query.where(mine, queues.c.version == bookmarks.c.version)).one_or_none()


def _stretches(mark: Row[Any] | None) -> list[sa.ColumnElement[bool]]:
    """The queue from the bookmark on: the rest of its priority, then the lower ones, each one range of the index."""
    if mark is None:
        return [sa.true()]
    return [(tasks.c.priority == mark.priority) & (tasks.c.id >= mark.task_id), tasks.c.priority < mark.priority]


def _move_bookmark(connection: Connection, project_id: int, labeler: Labeler) -> None:
    """Put the bookmark at the first open task that this labeler never had.

    Without it every claim would pass over all that they judged and that wait for others still. The version is read
    before the tasks: whoever changes the queue meanwhile makes this bookmark one that does not hold.
    """
    version = connection.scalar(sa.select(queues.c.version).where(queues.c.project_id == project_id))
    mark = _bookmark(connection, project_id, labeler)
    query = sa.select(tasks.c.priority, tasks.c.id).where(
        tasks.c.project_id == project_id, tasks.c.judged < tasks.c.overlap, _unseen(labeler)
    )
    for stretch in _stretches(mark):
        first = connection.execute(
            query.where(stretch).order_by(tasks.c.priority.desc(), tasks.c.id).limit(1)
        ).one_or_none()
        if first is not None:
            break
    if first is None or (mark is not None and (mark.priority, mark.task_id) == (first.priority, first.id)):
        return
    values = {"version": version, "priority": first.priority, "task_id": first.id}
    insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(bookmarks)
    row = insert.values(project_id=project_id, labeler_id=labeler.id, **values)
    connection.execute(row.on_conflict_do_update(index_elements=["project_id", "labeler_id"], set_=values))


def _first_free(
    connection: Connection,
    project_id: int,
    labeler: Labeler,
    order: tuple[sa.ColumnElement[Any], ...],
    among: sa.ColumnElement[bool],
) -> int | None:
    live = (assignments.c.state == "open") & (assignments.c.leased_until > now(connection.dialect.name))
    leased = sa.select(sa.func.count()).where(assignments.c.task_id == tasks.c.id, live).scalar_subquery()
    wanted = [
        tasks.c.project_id == project_id,
        tasks.c.judged < tasks.c.overlap,
        tasks.c.judged + leased < tasks.c.overlap,
        among,
    ]
    passed: list[int] = []  # PostgreSQL: tasks that another claim took between our look and our lock
    waits = connection.dialect.name == "sqlite"  # its writers are one at a time anyway
    while True:
        savepoint = connection.begin_nested()  # as in `_current`
        task = connection.execute(
            sa.select(tasks)
            .where(*wanted, _unseen(labeler), tasks.c.id.not_in(passed))
            .order_by(*order)
            .limit(1)
            .with_for_update(skip_locked=not waits, key_share=True)
        ).one_or_none()
        if task is not None and free_places(connection, task, labeler.id) > 0:
            savepoint.commit()
            return int(task.id)
        savepoint.rollback()
        if task is not None:
            passed.append(task.id)
        elif waits:
            return None
        else:  # what others hold in this moment may have a place left when they are done
            waits = True


def _next_gold(connection: Connection, project_id: int, labeler: Labeler) -> int | None:
    query = sa.select(tasks.c.id).where(tasks.c.project_id == project_id, tasks.c.gold.is_not(None), _unseen(labeler))
    return connection.scalar(query.order_by(tasks.c.shuffle).limit(1))


def _secret(connection: Connection, project_id: int) -> str:
    return str(connection.scalar(sa.select(projects.c.secret).where(projects.c.id == project_id)))


def _lease_end(connection: Connection, settings: ProjectSettings) -> sa.ColumnElement[float]:
    return now(connection.dialect.name) + settings.lease_seconds


def _extend(connection: Connection, settings: ProjectSettings, assignment_id: int) -> None:
    update = sa.update(assignments).where(assignments.c.id == assignment_id)
    connection.execute(update.values(leased_until=_lease_end(connection, settings)))
