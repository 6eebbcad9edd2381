"""What leads look at: judgments for statistics, tasks with their sources. Functions on a connection."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf.preferences import access, exports, intake, judging
from rlhf.preferences.schema import (
    completions,
    exclusions,
    is_latest,
    judgments,
    labelers,
    prompts,
    queues,
    task_completions,
    tasks,
    verdicts,
)
from rlhf.preferences.types import Judged, SourcedCompletion, TaskView


def judged(connection: Connection, project_id: int, batch: str | None) -> list[Judged]:
    """Everybody's judgments in their latest revisions, in the order in which those were made."""
    where = tasks.c.project_id == project_id
    where = where if batch is None else where & (tasks.c.batch == batch)
    outside = access.excluded(connection, project_id)
    lengths: dict[int, dict[int, int]] = {}
    sources: dict[int, dict[int, str]] = {}
    for part in connection.execute(_facts(where)):
        lengths.setdefault(part.task_id, {})[part.id] = part.length
        sources.setdefault(part.task_id, {})[part.id] = part.source
    rows = connection.execute(
        sa.select(judgments, labelers.c.name, tasks.c.batch, tasks.c.gold, tasks.c.split_group)
        .join(tasks, tasks.c.id == judgments.c.task_id)
        .join(labelers, labelers.c.id == judgments.c.labeler_id)
        .where(where, is_latest())
        .order_by(judgments.c.id)
    )
    return [
        Judged(
            task_id=row.task_id,
            batch=row.batch,
            labeler=row.name,
            ranks=_by_id(row.ranks),
            skip_reason=row.skip_reason,
            shown=tuple(row.shown or ()),
            seconds=row.active_seconds,
            at=row.created_at,
            flags={int(c): tuple(note["flags"]) for c, note in (row.notes or {}).items() if note.get("flags")},
            strength=row.strength,
            surplus=row.surplus,
            excluded=row.labeler_id in outside,
            gold=None if row.gold is None else _by_id(row.gold),
            lengths=lengths[row.task_id],
            sources=_named(sources[row.task_id], row.meta),
            revision=row.revision,
            group=row.split_group,
        )
        for row in rows
    ]


def stamp(connection: Connection, project_id: int) -> str:
    """Changes whenever `judged`, verdicts, exclusions, tasks or the queue's order do.

    PostgreSQL gives out ids before it commits, so that one may come in below the highest: there rows are counted too.
    """
    counted = [sa.func.count()] if connection.dialect.name == "postgresql" else []
    last = [
        tuple(connection.execute(sa.select(sa.func.max(table.c.id), *counted).select_from(table)).one())
        for table in (judgments, verdicts, exclusions, tasks)
    ]
    version = connection.scalar(sa.select(queues.c.version).where(queues.c.project_id == project_id))
    # Names are shown beside the numbers: somebody who is erased, or invited, shall not be seen under the old ones.
    people = connection.execute(sa.select(labelers.c.name).order_by(labelers.c.id)).scalars()
    return hashlib.sha256(repr((last, version, list(people))).encode()).hexdigest()[:16]


def task_views(connection: Connection, project_id: int, ids: Sequence[int]) -> list[TaskView]:
    """These tasks of the project, in this order; what it has not is left out."""
    found: dict[int, TaskView] = {}
    wanted = sorted(set(ids))
    for start in range(0, len(wanted), intake.CHUNK):
        some = tasks.c.id.in_(wanted[start : start + intake.CHUNK]) & (tasks.c.project_id == project_id)
        found |= {view.id: view for view in _views(connection, some)}
    return [found[i] for i in ids if i in found]


def waiting(connection: Connection, project_id: int, batch: str | None) -> list[TaskView]:
    """The ordinary tasks that still want somebody, in the order of the queue."""
    return _views(connection, exports.scope(project_id, batch) & (tasks.c.judged < tasks.c.overlap))


def open_places(connection: Connection, project_id: int, batch: str | None) -> dict[int, int]:
    """Places not judged yet, by task, of the tasks that have any."""
    where = exports.scope(project_id, batch) & (tasks.c.judged < tasks.c.overlap)
    rows = connection.execute(sa.select(tasks.c.id, (tasks.c.overlap - tasks.c.judged).label("free")).where(where))
    return {row.id: row.free for row in rows}


def _views(connection: Connection, where: sa.ColumnElement[bool]) -> list[TaskView]:
    own = exports.parts(connection, where)
    query = sa.select(tasks, prompts.c.body).join(prompts, prompts.c.id == tasks.c.prompt_id).where(where)
    return [
        TaskView(
            id=row.id,
            batch=row.batch,
            prompt=judging.as_prompt(row.body),
            completions=tuple(SourcedCompletion(p.id, p.text, p.source) for p in own[row.id]),
            group=row.split_group,
            priority=row.priority,
            overlap=row.overlap,
            judged=row.judged,
            gold=row.gold is not None,
        )
        for row in connection.execute(query.order_by(tasks.c.priority.desc(), tasks.c.id))
    ]


def _facts(where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    length = sa.func.length(completions.c.text).label("length")
    return (
        sa.select(task_completions.c.task_id, completions.c.id, length, completions.c.source)
        .join(completions, completions.c.id == task_completions.c.completion_id)
        .join(tasks, tasks.c.id == task_completions.c.task_id)
        .where(where)
        .order_by(task_completions.c.task_id, task_completions.c.position)
    )


def _by_id(ranks: dict[str, int | None] | None) -> dict[int, int | None]:
    return {int(c): rank for c, rank in (ranks or {}).items()}


def _named(sources: dict[int, str], meta: Any) -> dict[int, str]:
    """Who wrote each completion; an imported ranking's file may have said so."""
    said = meta.get("sources") if isinstance(meta, dict) else None
    fits = isinstance(said, list) and len(said) == len(sources) and all(isinstance(s, str) for s in said)
    if not fits or any(sources.values()):
        return sources
    return dict(zip(sources, said or [], strict=True))
