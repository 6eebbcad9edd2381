"""What labelers say of their tasks: submitting, correcting, drafts, looking back. Functions on a connection."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from rlhf.data.records import PromptLike, check_text
from rlhf.errors import DataError, StoreError
from rlhf.preferences import access, queue
from rlhf.preferences.handle import project_settings
from rlhf.preferences.schema import (
    assignments,
    completions,
    drafts,
    guidelines,
    is_latest,
    judgments,
    now,
    prompts,
    tasks,
)
from rlhf.preferences.settings import ProjectSettings
from rlhf.preferences.types import Assignment, Labeler, Note, Outcome, Past, Said, ShownCompletion

COMMENT_LENGTH = 2_000  # characters, as all lengths here
BETTER_LENGTH = 20_000
REASON_LENGTH = 500
SUBMIT_ID_LENGTH = 100
DRAFT_LENGTH = 100_000  # of its JSON
WORST, BEST = 1, 7  # quality
MUCH = 3  # strength


def load(connection: Connection, project_id: int, assignment_id: int, labeler: Labeler) -> Assignment:
    """The assignment as its labeler may see it: no sources, their own order, their last judgment if reopened."""
    access.active(connection, labeler)
    row = queue.of_labeler(connection, project_id, assignment_id, labeler)
    prompt = sa.select(prompts.c.body).join_from(tasks, prompts).where(tasks.c.id == row.task_id)
    version, body = _guidelines(connection, project_id)
    last = _last_judgment(connection, row)
    return Assignment(
        id=row.id,
        task_id=row.task_id,
        labeler=labeler,
        prompt=as_prompt(connection.scalar(prompt)),
        completions=_shown(connection, row.shown),
        settings=project_settings(connection, project_id),
        guidelines=body,
        guideline_version=version,
        revision=1 if last is None else last.revision + 1,
        reopened=row.reopened,
        before=said(last) if row.reopened and last is not None else Said(),
        draft=connection.scalar(sa.select(drafts.c.body).where(drafts.c.assignment_id == row.id)) or {},
    )


def submit(
    connection: Connection,
    project_id: int,
    assignment: Assignment,
    what: Said,
    *,
    submit_id: str,
    skip_reason: str | None = None,
    active_seconds: float | None = None,
) -> Outcome:
    """Append one judgment: a ranking, or (`skip_reason` not None) a skip. See LabelStore.submit for the rules."""
    _check_sending(submit_id, skip_reason, active_seconds)
    access.active(connection, assignment.labeler, alone=True)
    row = queue.of_labeler(connection, project_id, assignment.id, assignment.labeler)
    earlier = connection.execute(sa.select(judgments).where(judgments.c.submit_id == submit_id)).one_or_none()
    if earlier is not None:
        if (earlier.task_id, earlier.labeler_id) != (row.task_id, row.labeler_id):
            raise StoreError("submit_id: was used for another task already; make a new one for every assignment")
        return Outcome.REPEATED
    if row.state != "open" and not row.reopened:
        raise StoreError("this task was judged or skipped already; reopen it to correct the judgment")
    revision = _revision(connection, row) + 1
    if revision != assignment.revision:
        raise StoreError("this task was judged in another tab meanwhile; look at it again, then correct it")
    task = queue.locked(connection, row.task_id)
    skipped = skip_reason is not None
    if not skipped:
        check_said(what, row.shown, project_settings(connection, project_id))
    counts = row.labeler_id not in access.excluded(connection, project_id)
    free = counts and queue.free_places(connection, task, row.labeler_id) > 0
    surplus = not skipped and row.state != "done" and not free
    state = "skipped" if skipped else "surplus" if surplus else "done"
    clock = connection.scalar(sa.select(now(connection.dialect.name)))
    connection.execute(
        sa.insert(judgments).values(
            task_id=row.task_id,
            labeler_id=row.labeler_id,
            revision=revision,
            submit_id=submit_id,
            skip_reason=skip_reason,
            surplus=surplus,
            active_seconds=active_seconds,
            guideline_version=assignment.guideline_version,
            shown=row.shown,
            stated_at=datetime.fromtimestamp(clock or 0.0, UTC).isoformat(timespec="milliseconds"),
            meta={},
            created_at=clock,
            **_columns(Said() if skipped else what),
        )
    )
    if task.gold is None:
        queue.count(connection, task, (state == "done") - (row.state == "done"))
    done = sa.update(assignments).where(assignments.c.id == row.id)
    connection.execute(done.values(state=state, reopened=False, leased_until=clock))
    connection.execute(sa.delete(drafts).where(drafts.c.assignment_id == row.id))
    action = "skip" if skipped else "judge"
    access.record(connection, assignment.labeler, action, assignment=row.id, revision=revision)
    return Outcome.SURPLUS if surplus else Outcome.COUNTED


def _check_sending(submit_id: str, skip_reason: str | None, active_seconds: float | None) -> None:
    check_text(submit_id, "submit_id")
    check_length(submit_id, "submit_id", SUBMIT_ID_LENGTH)
    check_length(skip_reason or "", "reason", REASON_LENGTH)
    if active_seconds is not None and not (math.isfinite(active_seconds) and active_seconds >= 0):
        raise StoreError(f"active_seconds: expected a time of 0 or more seconds, found {active_seconds}")


def reopen(connection: Connection, project_id: int, labeler: Labeler, assignment_id: int | None) -> int | None:
    """Open what this labeler judged or skipped for a new revision: the given one, else the last; None if nothing."""
    access.active(connection, labeler, alone=True)
    mine = (assignments.c.task_id == judgments.c.task_id) & (assignments.c.labeler_id == judgments.c.labeler_id)
    query = (
        sa.select(assignments.c.id)
        .join(judgments, mine)
        .join(tasks, tasks.c.id == assignments.c.task_id)
        .where(assignments.c.labeler_id == labeler.id, tasks.c.project_id == project_id)
        .order_by(judgments.c.id.desc())
        .limit(1)
    )
    found = connection.scalar(query if assignment_id is None else query.where(assignments.c.id == assignment_id))
    if found is None:
        return None
    here = (assignments.c.labeler_id == labeler.id) & (assignments.c.project_id == project_id)
    others = list(connection.scalars(sa.select(assignments.c.id).where(here, assignments.c.reopened)))
    connection.execute(sa.update(assignments).where(assignments.c.id.in_(others)).values(reopened=False))
    connection.execute(sa.delete(drafts).where(drafts.c.assignment_id.in_(set(others) - {found})))
    connection.execute(sa.update(assignments).where(assignments.c.id == found).values(reopened=True))
    access.record(connection, labeler, "reopen", assignment=found)
    return int(found)


def save_draft(connection: Connection, project_id: int, assignment: Assignment, body: Mapping[str, Any]) -> None:
    """Keep what the labeler has begun to say; nothing happens once that revision is written or given up."""
    text = check_text(json.dumps(dict(body), ensure_ascii=False), "draft")
    if len(text) > DRAFT_LENGTH:
        raise StoreError(f"draft: {len(text)} characters are too many; {DRAFT_LENGTH} are kept at most")
    access.active(connection, assignment.labeler, alone=True)
    row = queue.of_labeler(connection, project_id, assignment.id, assignment.labeler)
    if (row.state != "open" and not row.reopened) or _revision(connection, row) + 1 != assignment.revision:
        return
    connection.execute(sa.delete(drafts).where(drafts.c.assignment_id == row.id))
    kept = {"assignment_id": row.id, "body": dict(body)}
    connection.execute(sa.insert(drafts).values(saved_at=now(connection.dialect.name), **kept))


def history(connection: Connection, project_id: int, labeler: Labeler, limit: int) -> list[Past]:
    """This labeler's judgments, each in its latest revision, last made first."""
    access.active(connection, labeler)
    mine = (assignments.c.task_id == judgments.c.task_id) & (assignments.c.labeler_id == judgments.c.labeler_id)
    rows = connection.execute(
        sa.select(judgments, assignments.c.id.label("assignment_id"), assignments.c.state, prompts.c.body)
        .join(assignments, mine)
        .join(tasks, tasks.c.id == judgments.c.task_id)
        .join(prompts, prompts.c.id == tasks.c.prompt_id)
        .where(judgments.c.labeler_id == labeler.id, tasks.c.project_id == project_id, is_latest())
        .order_by(judgments.c.id.desc())
        .limit(limit)
    ).all()
    return [
        Past(
            assignment_id=row.assignment_id,
            prompt=as_prompt(row.body),
            completions=_shown(connection, row.shown),
            said=said(row),
            skip_reason=row.skip_reason,
            outcome={"done": "counted"}.get(row.state, row.state),
            revision=row.revision,
            at=row.created_at,
        )
        for row in rows
    ]


def said(row: Row[Any]) -> Said:
    """A judgment's content, from its row."""
    return Said(
        ranks={int(c): rank for c, rank in (row.ranks or {}).items()},
        strength=row.strength,
        notes={
            int(c): Note(n.get("quality"), tuple(n.get("flags", ())), n.get("comment", ""))
            for c, n in (row.notes or {}).items()
        },
        comment=row.comment,
        better=row.better or "",
    )


def check_said(what: Said, shown: list[int], settings: ProjectSettings) -> None:
    """Raise StoreError (or DataError for unusable texts) unless this is a judgment that the project takes."""
    check_ranks(what.ranks, shown, settings.allow_partial)
    if what.strength is not None:
        tied = len(set(what.ranks.values())) == 1
        if not settings.strength or len(shown) != 2:
            raise StoreError(
                "strength: this project does not ask how much better one is, or the task has not 2 answers"
            )
        if not 0 <= what.strength <= MUCH or (what.strength == 0) != tied:
            raise StoreError(
                f"strength: expected 0 for a tie and 1 to {MUCH} for a better one, found {what.strength} "
                f"with the ranks {sorted(what.ranks.values(), key=str)}"
            )
    unknown = set(what.notes) - set(shown)
    if unknown:
        raise StoreError(f"notes: of completions {sorted(unknown)}, which this task does not have")
    for completion, note in what.notes.items():
        _check_note(note, f"notes: completion {completion}", settings)
    check_length(what.comment, "comment", COMMENT_LENGTH)
    check_length(what.better, "better", BETTER_LENGTH)
    if what.better and not settings.better_answer:
        raise StoreError("better: this project does not ask for answers of your own")


def as_prompt(body: Any) -> PromptLike:
    """A prompt as records have it: JSON keeps chat messages as a list."""
    return body if isinstance(body, str) else tuple(body)


def _shown(connection: Connection, ids: list[int]) -> tuple[ShownCompletion, ...]:
    texts = connection.execute(sa.select(completions.c.id, completions.c.text).where(completions.c.id.in_(ids)))
    by_id = {c.id: c.text for c in texts}
    return tuple(ShownCompletion(c, by_id[c]) for c in ids)


def _columns(what: Said) -> dict[str, Any]:
    notes = {
        str(c): {
            name: value
            for name, value in (("quality", n.quality), ("flags", list(n.flags)), ("comment", n.comment))
            if value
        }
        for c, n in what.notes.items()
        if n != Note()
    }
    return {
        "ranks": {str(c): rank for c, rank in what.ranks.items()} or None,
        "strength": what.strength,
        "notes": notes or None,
        "comment": what.comment,
        "better": what.better if what.better.strip() else None,
    }


def check_ranks(ranks: Mapping[int, int | None], shown: list[int], allow_partial: bool) -> None:
    """Raise StoreError unless these are ranks of just these completions, two of them or more."""
    if set(ranks) != set(shown):
        raise StoreError(f"ranks: expected one for each of the completions {sorted(shown)}, found {sorted(ranks)}")
    for completion, rank in ranks.items():
        if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
            raise StoreError(f"ranks: completion {completion}: expected a whole number from 1 (best), found {rank!r}")
    missing = sum(rank is None for rank in ranks.values())
    if missing and not allow_partial:
        raise StoreError(
            f"ranks: {missing} of {len(ranks)} completions have none; this project wants all of them ranked"
        )
    if len(ranks) - missing < 2:
        raise StoreError("ranks: at least two completions must have one; skip the task if you cannot compare them")


def _check_note(note: Note, where: str, settings: ProjectSettings) -> None:
    if note.quality is not None and (isinstance(note.quality, bool) or not isinstance(note.quality, int)):
        raise StoreError(f"{where}: quality: expected a whole number, found {note.quality!r}")
    if note.quality is not None and not (settings.quality and WORST <= note.quality <= BEST):
        asked = f"expected {WORST} to {BEST}, found {note.quality}" if settings.quality else "is not asked for here"
        raise StoreError(f"{where}: quality: {asked}")
    unknown = [flag for flag in note.flags if flag not in settings.flags]
    if unknown:
        raise StoreError(
            f"{where}: flags: this project has no {unknown[0]!r} but {', '.join(settings.flags) or 'none'}"
        )
    check_length(note.comment, f"{where}: comment", COMMENT_LENGTH)


def check_length(text: str, where: str, most: int) -> None:
    """Raise DataError for a text that is unusable or too long."""
    check_text(text, where, blank=True)
    if len(text) > most:
        raise DataError(f"{where}: {len(text)} characters are too many; write {most} at most")


def _last_judgment(connection: Connection, row: Row[Any]) -> Row[Any] | None:
    mine = (judgments.c.task_id == row.task_id) & (judgments.c.labeler_id == row.labeler_id)
    latest = sa.select(judgments).where(mine).order_by(judgments.c.revision.desc()).limit(1)
    return connection.execute(latest).one_or_none()


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
