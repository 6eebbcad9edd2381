"""What leads decide: verdicts on tasks that people disagree on, and whose rankings count. Functions on a connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf.data.records import check_text
from rlhf.errors import StoreError
from rlhf.preferences import access, intake, judging, queue
from rlhf.preferences.schema import assignments, exclusions, labelers, now, task_completions, tasks, verdicts
from rlhf.preferences.types import Exclusion, Labeler, Verdict, VerdictKind

reviewers = labelers.alias("reviewers")
NOBODY = 0  # no labeler has this id


def decide(
    connection: Connection,
    project_id: int,
    task_id: int,
    kind: VerdictKind,
    ranks: Mapping[int, int | None],
    comment: str,
    by: Labeler,
) -> None:
    """Append a verdict. See LeadStore.decide for the rules."""
    if kind not in get_args(VerdictKind):
        raise StoreError(f"verdict: expected one of {', '.join(get_args(VerdictKind))}, found {kind!r}")
    judging.check_length(comment, "comment", judging.COMMENT_LENGTH)
    task = connection.execute(sa.select(tasks.c.project_id, tasks.c.gold).where(tasks.c.id == task_id)).one_or_none()
    if task is None or task.project_id != project_id:
        raise StoreError(f"task {task_id}: this project has none of that number")
    if task.gold is not None:
        raise StoreError(f"task {task_id}: is a gold one, whose answer is known; it is in no export anyway")
    if kind == "ranking":
        own = sa.select(task_completions.c.completion_id).where(task_completions.c.task_id == task_id)
        judging.check_ranks(ranks, list(connection.scalars(own)), allow_partial=True)
    elif ranks:
        raise StoreError(f"ranks: belong to a verdict 'ranking', found {kind!r}")
    row = {"task_id": task_id, "labeler_id": by.id, "kind": kind, "comment": comment}
    kept = {str(c): rank for c, rank in ranks.items()} or None
    connection.execute(sa.insert(verdicts).values(created_at=now(connection.dialect.name), ranks=kept, **row))
    access.record(connection, by, "decide", task=task_id, verdict=kind)


def verdicts_of(connection: Connection, project_id: int, where: sa.ColumnElement[bool]) -> dict[int, Verdict]:
    """The verdict on each of these tasks that has one, the latest; those of excluded people do not stand."""
    heard = verdicts.c.labeler_id.not_in(access.excluded(connection, project_id))
    last = sa.select(sa.func.max(verdicts.c.id)).where(heard).group_by(verdicts.c.task_id)
    rows = connection.execute(
        sa.select(verdicts, labelers.c.name)
        .join(tasks, tasks.c.id == verdicts.c.task_id)
        .join(labelers, labelers.c.id == verdicts.c.labeler_id)
        .where(where, verdicts.c.id.in_(last))
        .order_by(verdicts.c.id)
    )
    return {
        row.task_id: Verdict(
            row.task_id,
            row.kind,
            {int(c): rank for c, rank in (row.ranks or {}).items()},
            row.comment,
            row.name,
            row.created_at,
        )
        for row in rows
    }


def exclude(
    connection: Connection, project_id: int, labeler_id: int, reason: str, *, replace: bool, by: Labeler | None
) -> None:
    """Let this person's rankings be in no export; `replace`: their tasks want one more person each."""
    check_text(reason, "reason")
    judging.check_length(reason, "reason", judging.REASON_LENGTH)
    if labeler_id in access.excluded(connection, project_id):
        raise StoreError("this person's rankings are left out of exports already")
    replaced = _settled_by(connection, project_id, labeler_id) if replace else []
    _append(connection, project_id, labeler_id, by, {"excluded": True, "replaced": replaced, "reason": reason})
    _ask(connection, project_id, replaced, 1)
    access.record(connection, by, "exclude", project=project_id, labeler=labeler_id, replace=replace)


def include(connection: Connection, project_id: int, labeler_id: int, by: Labeler | None) -> None:
    """Take an excluded person's rankings into exports again; places that were to replace theirs and are free, close."""
    mine = access.latest_exclusions(project_id).where(exclusions.c.labeler_id == labeler_id)
    row = connection.execute(mine.with_only_columns(exclusions.c.replaced)).one_or_none()
    if row is None:
        raise StoreError("this person's rankings are not left out of exports")
    _append(connection, project_id, labeler_id, by, {"excluded": False, "replaced": [], "reason": ""})
    _ask(connection, project_id, row.replaced, -1)
    access.record(connection, by, "include", project=project_id, labeler=labeler_id)


def _settled_by(connection: Connection, project_id: int, labeler_id: int) -> list[int]:
    """The tasks that this person ranked; those that a reviewer has decided want nobody more."""
    mine = (assignments.c.labeler_id == labeler_id) & (assignments.c.project_id == project_id)
    theirs = sa.select(assignments.c.task_id).where(mine, assignments.c.state == "done")
    ordinary = tasks.c.id.in_(theirs) & tasks.c.gold.is_(None) & (tasks.c.overlap < intake.MOST_OVERLAP)
    decided = {t for t, v in verdicts_of(connection, project_id, ordinary).items() if v.kind != "keep"}
    return [t for t in connection.scalars(sa.select(tasks.c.id).where(ordinary)) if t not in decided]


def _ask(connection: Connection, project_id: int, task_ids: Sequence[int], change: int) -> None:
    """Let each of these tasks want one person more, or (-1) one less, where nobody has that place yet."""
    for task_id in sorted(task_ids):
        task = queue.locked(connection, task_id)
        if change > 0 or queue.free_places(connection, task, NOBODY) > 0:
            update = sa.update(tasks).where(tasks.c.id == task_id)
            connection.execute(update.values(overlap=tasks.c.overlap + change))
    if task_ids:
        queue.changed(connection, project_id)


def exclusions_of(connection: Connection, project_id: int) -> list[Exclusion]:
    """Who is excluded, last decided first."""
    query = (
        access.latest_exclusions(project_id)
        .with_only_columns(exclusions, labelers.c.name, reviewers.c.name.label("by_name"))
        .join(labelers, labelers.c.id == exclusions.c.labeler_id)
        .outerjoin(reviewers, reviewers.c.id == exclusions.c.by_id)
    )
    rows = connection.execute(query.order_by(exclusions.c.id.desc()))
    return [Exclusion(row.name, row.reason, row.by_name or "", row.created_at) for row in rows]


def _append(
    connection: Connection, project_id: int, labeler_id: int, by: Labeler | None, what: Mapping[str, object]
) -> None:
    row = {"project_id": project_id, "labeler_id": labeler_id, "by_id": None if by is None else by.id, **what}
    connection.execute(sa.insert(exclusions).values(created_at=now(connection.dialect.name), **row))
