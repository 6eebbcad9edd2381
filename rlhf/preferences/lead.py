"""A label store in a lead's hands: what people said, seen together; verdicts, exclusions, the order of the queue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa

from rlhf.errors import StoreError
from rlhf.preferences import access, evidence, exports, people, queue, review
from rlhf.preferences.people import People
from rlhf.preferences.schema import tasks
from rlhf.preferences.types import Exclusion, Judged, Labeler, TaskView, Verdict, VerdictKind


class LeadStore(People):
    """What a campaign's lead does beside inviting people."""

    def judged(self, batch: str | None = None, *, by: Labeler | None = None) -> list[Judged]:
        """Every judgment in its latest revision, in the order in which they were made. For reviewers and admins.

        Skips, surplus, gold tasks and excluded people's are among them, marked as such.
        """
        with self._reading() as connection:
            access.allow(connection, by, "reviewer")
            return evidence.judged(connection, self._project_id, batch)

    def stamp(self, *, by: Labeler | None = None) -> str:
        """Changes whenever anything does that `judged`, verdicts, exclusions or progress tell. For reviewers."""
        with self._reading() as connection:
            access.allow(connection, by, "reviewer")
            return evidence.stamp(connection, self._project_id)

    def task_views(self, ids: Iterable[int], *, by: Labeler | None = None) -> list[TaskView]:
        """These tasks, in this order, with who wrote what; unknown numbers are left out. For reviewers and admins."""
        with self._reading() as connection:
            access.allow(connection, by, "reviewer")
            return evidence.task_views(connection, self._project_id, list(ids))

    def waiting(self, batch: str | None = None, *, by: Labeler | None = None) -> list[TaskView]:
        """The tasks that still want somebody, gold ones aside, in the order of the queue. For reviewers and admins."""
        with self._reading() as connection:
            access.allow(connection, by, "reviewer")
            return evidence.waiting(connection, self._project_id, batch)

    def open_places(self, batch: str | None = None, *, by: Labeler | None = None) -> dict[int, int]:
        """How many people each task still wants, of those that want any; gold ones aside. For reviewers and admins."""
        with self._reading() as connection:
            access.allow(connection, by, "reviewer")
            return evidence.open_places(connection, self._project_id, batch)

    def reorder(self, task_ids: Sequence[int], *, by: Labeler | None = None) -> int:
        """Hand out these open tasks in this order from now on, all others after them, oldest first. For admins.

        Returns how many of them are open. It is done in parts, so that nobody who ranks meanwhile waits for it.
        """
        place = {task_id: len(task_ids) - i for i, task_id in enumerate(task_ids)}
        if len(place) != len(task_ids):
            raise StoreError("order: a task is in it twice; name each once")
        mine = exports.scope(self._project_id, None) & (tasks.c.judged < tasks.c.overlap)
        with self._filling() as connection:
            access.allow(connection, by, "admin")
            there = list(connection.execute(sa.select(tasks.c.id, tasks.c.priority).where(mine).order_by(tasks.c.id)))
            access.record(connection, by, "reorder", project=self._project_id, tasks=len(place))
        wrong = [(i, place.get(i, 0)) for i, priority in there if priority != place.get(i, 0)]
        for start in range(0, len(wrong), queue.REORDERED_AT_ONCE):
            with self._filling() as connection:
                access.allow(connection, by, "admin")
                queue.prioritise(connection, self._project_id, wrong[start : start + queue.REORDERED_AT_ONCE])
        return len(place.keys() & {i for i, _ in there})

    # Review

    def verdicts(self, *, by: Labeler | None = None) -> dict[int, Verdict]:
        """What was decided, by task: the latest verdict of each. For reviewers and admins."""
        with self._reading() as connection:
            access.allow(connection, by, "reviewer")
            return review.verdicts_of(connection, self._project_id, exports.scope(self._project_id, None))

    def decide(
        self,
        task_id: int,
        kind: VerdictKind,
        ranks: Mapping[int, int | None] | None = None,
        comment: str = "",
        *,
        by: Labeler,
    ) -> None:
        """Decide about a task that people disagree on; what they said stays, and a later verdict replaces this one.

        "ranking": `ranks` (by completion id, None = not ranked) stand for everybody's in exports; "keep": all of theirs
        stay; "drop": none is exported. For reviewers and admins.
        """
        with self._writing() as connection:
            access.allow(connection, by, "reviewer")
            review.decide(connection, self._project_id, task_id, kind, dict(ranks or {}), comment, by)

    def exclude(self, name: str, reason: str, *, replace: bool = False, by: Labeler | None = None) -> None:
        """Leave this person's rankings out of the project's exports, for a reason that stays on record. For admins.

        They are given no more tasks of it, and what they have open takes nobody's place. `replace`: each task that they
        ranked is asked of one person more. What they said stays in the store.
        """
        with self._writing() as connection:
            access.allow(connection, by, "admin")
            person = people.find_person(connection, name, erased=True).id
            review.exclude(connection, self._project_id, person, reason, replace=replace, by=by)

    def include(self, name: str, *, by: Labeler | None = None) -> None:
        """Take an excluded person's rankings into exports again. Nobody more is asked in their place. For admins."""
        with self._writing() as connection:
            access.allow(connection, by, "admin")
            review.include(connection, self._project_id, people.find_person(connection, name, erased=True).id, by)

    def exclusions(self, *, by: Labeler | None = None) -> list[Exclusion]:
        """Whose rankings are left out of exports and why, last decided first. For reviewers and admins."""
        with self._reading() as connection:
            access.allow(connection, by, "reviewer")
            return review.exclusions_of(connection, self._project_id)
