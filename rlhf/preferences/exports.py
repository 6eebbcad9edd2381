"""What leaves a store: rankings and better answers, as they stand. Functions on a connection."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from rlhf.data.records import Demonstration, Ranking
from rlhf.preferences import access, judging, review
from rlhf.preferences.schema import completions, is_latest, judgments, labelers, prompts, task_completions, tasks
from rlhf.preferences.types import Counts, Verdict

Parts = dict[int, list[Any]]  # by task: its completions, in the order in which they were added


def scope(project_id: int, batch: str | None) -> sa.ColumnElement[bool]:
    """The project's ordinary tasks, of one batch or all."""
    mine = (tasks.c.project_id == project_id) & tasks.c.gold.is_(None)
    return mine if batch is None else mine & (tasks.c.batch == batch)


def rankings(connection: Connection, project_id: int, where: sa.ColumnElement[bool]) -> list[Ranking]:
    """What counts of these tasks, oldest task first: nobody's who is excluded, and a reviewer's verdict before all."""
    outside = access.excluded(connection, project_id)
    decided = review.verdicts_of(connection, project_id, where)
    own = parts(connection, where)
    out: list[tuple[int, Ranking]] = []
    for row in connection.execute(_said(where)):
        if row.labeler_id not in outside and decided.get(row.task_id, KEEP).kind == "keep":
            out.append((row.task_id, _ranking(row, own[row.task_id])))
    for task_id, row in _tasks(connection, [t for t, v in decided.items() if v.kind == "ranking"], where).items():
        out.append((task_id, _decided(row, decided[task_id], own[task_id])))
    return [ranking for _, ranking in sorted(out, key=lambda found: found[0])]


def every_ranking(connection: Connection, where: sa.ColumnElement[bool]) -> list[Ranking]:
    """Everybody's latest ranking of these tasks, whatever was decided about them."""
    own = parts(connection, where)
    return [_ranking(row, own[row.task_id]) for row in connection.execute(_said(where))]


def demonstrations(connection: Connection, project_id: int, where: sa.ColumnElement[bool]) -> list[Demonstration]:
    """The better answers that labelers wrote, oldest task first; none of the excluded, none of dropped tasks."""
    outside = access.excluded(connection, project_id)
    decided = review.verdicts_of(connection, project_id, where)
    written = _latest().where(where, judgments.c.better.is_not(None), ~judgments.c.surplus)
    rows = written.join(prompts, prompts.c.id == tasks.c.prompt_id).add_columns(prompts.c.body, tasks.c.split_group)
    return [
        Demonstration(judging.as_prompt(row.body), row.better, row.split_group)
        for row in connection.execute(rows.order_by(judgments.c.task_id, judgments.c.labeler_id))
        if row.labeler_id not in outside and decided.get(row.task_id, KEEP).kind != "drop"
    ]


def counts(connection: Connection, project_id: int, batch: str | None) -> Counts:
    """How much there is of the project, or of one batch of it."""
    where = scope(project_id, batch)
    made = sa.select(sa.func.count(), sa.func.count(sa.distinct(judgments.c.labeler_id)))
    judged, people = connection.execute(made.join_from(judgments, tasks).where(where)).one()
    latest = _latest().where(where, ~judgments.c.surplus).subquery()
    decided = review.verdicts_of(connection, project_id, where)
    instead = [t for t, v in decided.items() if v.kind != "keep"]
    number = sa.select(sa.func.count()).select_from(latest)
    ranked = latest.c.ranks.is_not(None) & latest.c.labeler_id.not_in(access.excluded(connection, project_id))
    total = sa.select(sa.func.count()).select_from(tasks).where(where)
    return Counts(
        tasks=connection.scalar(total) or 0,
        waiting=connection.scalar(total.where(tasks.c.judged < tasks.c.overlap)) or 0,
        rankings=(connection.scalar(number.where(ranked, latest.c.task_id.not_in(instead))) or 0)
        + sum(v.kind == "ranking" for v in decided.values()),
        skips=connection.scalar(number.where(latest.c.ranks.is_(None))) or 0,
        judgments=judged,
        labelers=people,
    )


def parts(connection: Connection, where: sa.ColumnElement[bool]) -> Parts:
    """The completions of these tasks."""
    rows = connection.execute(
        sa.select(task_completions.c.task_id, completions.c.id, completions.c.text, completions.c.source)
        .join(completions, completions.c.id == task_completions.c.completion_id)
        .join(tasks, tasks.c.id == task_completions.c.task_id)
        .where(where)
        .order_by(task_completions.c.task_id, task_completions.c.position)
    )
    by_task: Parts = {}
    for row in rows:
        by_task.setdefault(row.task_id, []).append(row)
    return by_task


KEEP = Verdict(0, "keep", {}, "", "", 0.0)  # of a task that nobody decided about


def _latest() -> sa.Select[Any]:
    """The judgments that no later revision replaced, with their tasks."""
    return sa.select(judgments).join(tasks, tasks.c.id == judgments.c.task_id).where(is_latest())


def _said(where: sa.ColumnElement[bool]) -> sa.Select[Any]:
    said = _latest().where(where, judgments.c.ranks.is_not(None), ~judgments.c.surplus)
    return (
        said.join(prompts, prompts.c.id == tasks.c.prompt_id)
        .join(labelers, labelers.c.id == judgments.c.labeler_id)
        .add_columns(prompts.c.body, labelers.c.name, tasks.c.split_group, tasks.c.batch)
        .order_by(judgments.c.task_id, judgments.c.labeler_id)
    )


def _tasks(connection: Connection, ids: list[int], where: sa.ColumnElement[bool]) -> dict[int, Row[Any]]:
    query = sa.select(tasks.c.id, tasks.c.batch, tasks.c.split_group, prompts.c.body).join_from(tasks, prompts)
    found: dict[int, Row[Any]] = {}
    for start in range(0, len(ids), 5_000):
        some = query.where(where, tasks.c.id.in_(ids[start : start + 5_000]))
        found |= {row.id: row for row in connection.execute(some)}
    return found


def _ranking(row: Row[Any], own: list[Row[Any]]) -> Ranking:
    return Ranking(
        prompt=judging.as_prompt(row.body),
        completions=tuple(p.text for p in own),
        ranks=tuple(row.ranks[str(p.id)] for p in own),
        labeler=row.name,
        created_at=row.stated_at,
        group=row.split_group,
        meta=row.meta if row.shown is None else _circumstances(row, own),
    )


def _decided(row: Row[Any], verdict: Verdict, own: list[Row[Any]]) -> Ranking:
    """A reviewer's own ranking, where it stands for everybody's."""
    known = {"batch": row.batch, "sources": _sources(own), "comment": verdict.comment or None, "adjudicated": True}
    return Ranking(
        prompt=judging.as_prompt(row.body),
        completions=tuple(p.text for p in own),
        ranks=tuple(verdict.ranks[p.id] for p in own),
        labeler=verdict.by,
        created_at=datetime.fromtimestamp(verdict.at, UTC).isoformat(timespec="milliseconds"),
        group=row.split_group,
        meta={name: value for name, value in known.items() if value is not None},
    )


def _circumstances(row: Row[Any], own: list[Row[Any]]) -> dict[str, Any]:
    """How a ranking was made in the app, in words that mean something outside this store (positions, not ids)."""
    position = {p.id: i for i, p in enumerate(own)}
    known: dict[str, Any] = {
        "batch": row.batch,
        "sources": _sources(own),
        "shown": [position[i] for i in row.shown],
        "comment": row.comment or None,
        "active_seconds": row.active_seconds,
        "guideline_version": row.guideline_version or None,
        "strength": row.strength,
        "better": row.better,
    }
    notes = [(row.notes or {}).get(str(p.id), {}) for p in own]
    for name, of in (("quality", "quality"), ("flags", "flags"), ("comments", "comment")):
        if any(of in note for note in notes):
            known[name] = [note.get(of) for note in notes]
    return {name: value for name, value in known.items() if value is not None}


def _sources(own: list[Row[Any]]) -> list[str] | None:
    return [p.source for p in own] if any(p.source for p in own) else None
