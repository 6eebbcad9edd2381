"""Tasks with all that was said of them and decided about them, as a reviewer looks at them and decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from rlhf.preferences import access, evidence, intake, judging, queue, review
from rlhf.preferences.handle import StoreHandle
from rlhf.preferences.schema import assignments, is_latest, judgments, labelers, now, tasks, verdicts
from rlhf.preferences.types import Labeler, Note, Said, TaskView, Verdict, VerdictKind


@dataclass(frozen=True)
class Opinion:
    """What one person said of a task, in its latest revision, with everything that stands beside the ranks."""

    labeler: str
    said: Said
    skip_reason: str | None  # None: not skipped
    shown: tuple[int, ...]  # completion ids in the order on this person's screen; empty: imported
    seconds: float | None  # active ones
    at: float  # when it was written, seconds since 1970
    revision: int
    surplus: bool  # came after the task was full: in no export
    excluded: bool  # its labeler is excluded from exports

    @property
    def counts(self) -> bool:
        """Whether it is a ranking that exports take, as long as nobody decides about the task."""
        return bool(self.said.ranks) and not self.surplus and not self.excluded


@dataclass(frozen=True)
class Case:
    """A task as it stood at one moment. `seen` says which: it changes with every judgment and verdict on the task."""

    view: TaskView
    gold: Mapping[int, int | None] | None = field(hash=False)  # the known answer, of a gold task
    opinions: tuple[Opinion, ...]  # in the order in which they were last said
    verdict: Verdict | None
    seen: str


def cases(store: StoreHandle, task_ids: Iterable[int], *, by: Labeler | None = None) -> list[Case]:
    """These tasks of the project, in this order; unknown numbers are left out. For reviewers and admins."""
    ids = list(task_ids)
    with store._reading() as connection:
        access.allow(connection, by, "reviewer")
        project = store._project_id
        views = evidence.task_views(connection, project, ids)
        outside = access.excluded(connection, project)
        found: list[Case] = []
        for start in range(0, len(views), intake.CHUNK):
            some = views[start : start + intake.CHUNK]
            found += _cases(connection, project, some, outside)
    return found


def decide(
    store: StoreHandle,
    case: Case,
    kind: VerdictKind,
    ranks: Mapping[int, int | None] | None = None,
    comment: str = "",
    *,
    by: Labeler,
) -> bool:
    """As `LeadStore.decide`, unless the task was judged or decided since it was `case`: then nothing, and False."""
    with store._writing() as connection:
        access.allow(connection, by, "reviewer")
        queue.locked(connection, case.view.id)  # whoever judges or decides it meanwhile waits, or was first
        if _seen(connection, [case.view.id])[case.view.id] != case.seen:
            return False
        review.decide(connection, store._project_id, case.view.id, kind, dict(ranks or {}), comment, by)
    return True


def in_hand(store: StoreHandle, name: str, *, by: Labeler | None = None) -> int:
    """How many tasks this person has open now, of all projects: what suspending them gives to others. For reviewers."""
    with store._reading() as connection:
        access.allow(connection, by, "reviewer")
        live = (assignments.c.state == "open") & (assignments.c.leased_until > now(connection.dialect.name))
        mine = sa.select(sa.func.count()).join_from(assignments, labelers).where(labelers.c.name == name)
        return connection.scalar(mine.where(live)) or 0


def _cases(connection: Connection, project_id: int, views: list[TaskView], outside: set[int]) -> list[Case]:
    ids = [view.id for view in views]
    by_task: dict[int, list[Opinion]] = {}
    rows = connection.execute(
        sa.select(judgments, labelers.c.name)
        .join(labelers, labelers.c.id == judgments.c.labeler_id)
        .where(judgments.c.task_id.in_(ids), is_latest())
        .order_by(judgments.c.id)
    )
    order = {view.id: [c.id for c in view.completions] for view in views}
    for row in rows:
        said = judging.said(row)
        opinion = Opinion(
            labeler=row.name,
            said=said if row.shown is not None else _imported(said, row.meta, order[row.task_id]),
            skip_reason=row.skip_reason,
            shown=tuple(row.shown or ()),
            seconds=row.active_seconds,
            at=row.created_at,
            revision=row.revision,
            surplus=row.surplus,
            excluded=row.labeler_id in outside,
        )
        by_task.setdefault(row.task_id, []).append(opinion)
    known = dict(connection.execute(sa.select(tasks.c.id, tasks.c.gold).where(tasks.c.id.in_(ids))).tuples().all())
    decided = review.verdicts_of(connection, project_id, tasks.c.id.in_(ids))
    marks = _seen(connection, ids)
    return [
        Case(
            view=view,
            gold=None if known[view.id] is None else {int(c): rank for c, rank in known[view.id].items()},
            opinions=tuple(by_task.get(view.id, ())),
            verdict=decided.get(view.id),
            seen=marks[view.id],
        )
        for view in views
    ]


def _seen(connection: Connection, ids: list[int]) -> dict[int, str]:
    """Of each task, which judgments and verdicts there were: both only grow, so their last numbers tell."""
    last = [
        dict(
            connection.execute(
                sa.select(t.c.task_id, sa.func.max(t.c.id)).where(t.c.task_id.in_(ids)).group_by(t.c.task_id)
            )
            .tuples()
            .all()
        )
        for t in (judgments, verdicts)
    ]
    return {i: "-".join(str(of.get(i, 0)) for of in last) for i in ids}


def _imported(said: Said, meta: Mapping[str, Any], order: list[int]) -> Said:
    """What a file said beside the ranks, where it has the form that our own exports have."""
    columns = {name: meta.get(name) for name in ("quality", "flags", "comments")}
    rows = {
        n: of if isinstance(of, list) and len(of) == len(order) else [None] * len(order) for n, of in columns.items()
    }
    notes = {}
    for completion, quality, flags, comment in zip(
        order, rows["quality"], rows["flags"], rows["comments"], strict=True
    ):
        notes[completion] = Note(
            quality if type(quality) is int else None,
            tuple(f for f in flags if isinstance(f, str)) if isinstance(flags, list) else (),
            comment if isinstance(comment, str) else "",
        )
    comment, better = (text if isinstance(text, str) else "" for text in (meta.get("comment"), meta.get("better")))
    return replace(said, notes={c: n for c, n in notes.items() if n != Note()}, comment=comment, better=better)
