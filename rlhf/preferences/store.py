"""The label store: what was asked, who was asked, and what they answered, in one database."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple
from itertools import islice
from typing import Any

import sqlalchemy as sa

from rlhf.data.records import Demonstration, Ranking, check_text, fingerprint
from rlhf.preferences import access, exports, gold, imports, intake, judging, queue
from rlhf.preferences.lead import LeadStore
from rlhf.preferences.schema import guidelines, now, tasks
from rlhf.preferences.types import (
    Assignment,
    Counts,
    GoldResult,
    Guidelines,
    ImportReport,
    Labeler,
    NewTask,
    Note,
    Outcome,
    Past,
    Progress,
    Said,
)

IMPORTED_AT_ONCE = 1_000  # rankings in one transaction


class LabelStore(LeadStore):
    """Rankings and the work of making them. Safe to share between threads; many processes may have one file open.

    Every method that writes is one transaction (an import: several): when it returns, its rows are on the disk. `by`
    names the person on whose behalf a lead's method runs, whose role is checked; None is a program that holds the
    database anyway.
    """

    # What goes in

    def import_rankings(self, rankings: Iterable[Ranking], *, batch: str, by: Labeler | None = None) -> ImportReport:
        """Add finished rankings, from a file or another tool. Rows that the batch holds already add nothing.

        No labeler becomes `anonymous`. A named labeler's second ranking of the same completions, in the same order,
        is a revision of the first; anonymous ones never replace each other. Raises DataError for unusable texts: then
        nothing is written. Else it is written in parts, so that labelers wait for no more than one; killed in between,
        the same call goes on. Any iterable will do, in constant memory: it is walked twice, first to check it; what can
        be walked only once is kept in a temporary file meanwhile.
        """
        source = imports.walkable(rankings)
        intake.check_batch(batch)
        with self._reading() as connection:
            access.allow(connection, by, "admin")
        if not source.whole:
            for _ in source:  # every one is looked at before anything is written
                pass
        total, held = ImportReport(0, 0, 0, 0), True
        for some in _parts(source, IMPORTED_AT_ONCE):
            if held:  # so far nothing was new: who goes on where an import ended need not wait for other writers
                with self._reading() as connection:
                    access.allow(connection, by, "admin")
                    held = not imports.fresh(connection, self._project_id, some, batch)
            part = ImportReport(len(some), 0, len(some), 0)
            if not held:
                with self._filling() as connection:
                    access.allow(connection, by, "admin")
                    part = imports.write(connection, self._project_id, some, batch)
                    access.record(connection, by, "import rankings", project=self._project_id, added=part.added)
                held = not part.added
            total = ImportReport(*(a + b for a, b in zip(astuple(total), astuple(part), strict=True)))
        return total

    def add_tasks(
        self, new: Iterable[NewTask], *, batch: str, overlap: int | None = None, by: Labeler | None = None
    ) -> int:
        """Queue tasks, each for `overlap` people (None: as many as the project says); returns how many were new.

        A task is known by prompt, completions, sources and group: sent again it keeps its first overlap and priority.
        Raises DataError for unusable texts, for a task that holds one text twice, and for one of another number of
        completions than the project's k.
        """
        settings = self.settings()
        checked = intake.checked_tasks(new, settings.overlap if overlap is None else overlap, settings.k)
        intake.check_batch(batch)
        with self._filling() as connection:
            access.allow(connection, by, "admin")
            number = sa.select(sa.func.count()).select_from(tasks).where(exports.scope(self._project_id, batch))
            before = connection.scalar(number) or 0
            intake.write_tasks(connection, self._project_id, checked, batch)
            added = (connection.scalar(number) or 0) - before
            if added:
                queue.changed(connection, self._project_id)
            access.record(connection, by, "add tasks", project=self._project_id, added=added)
            return added

    def add_gold(self, known: Iterable[Ranking], *, batch: str = "gold", by: Labeler | None = None) -> int:
        """Add tasks whose answer is known, to be mixed in unseen (`gold_share`); returns how many were new.

        A row's ranks are the answer; `null` ranks and ties are not asked about. Raises DataError as `add_tasks` does,
        and for a row without two different ranks, which no answer could miss.
        """
        checked = gold.checked(known, self.settings().k)
        intake.check_batch(batch)
        with self._filling() as connection:
            access.allow(connection, by, "admin")
            added = gold.write(connection, self._project_id, checked, batch)
            access.record(connection, by, "add gold", project=self._project_id, added=added)
            return added

    def set_guidelines(self, text: str, *, by: Labeler | None = None) -> int:
        """Write new instructions for labelers; returns their version, which judgments made under them record."""
        check_text(text, "guidelines")
        mine = guidelines.c.project_id == self._project_id
        with self._filling() as connection:
            access.allow(connection, by, "admin")
            version = (connection.scalar(sa.select(sa.func.max(guidelines.c.version)).where(mine)) or 0) + 1
            row = {"project_id": self._project_id, "version": version, "body": text}
            connection.execute(sa.insert(guidelines).values(created_at=now(self._engine.dialect.name), **row))
            access.record(connection, by, "set guidelines", project=self._project_id, version=version)
        return version

    # What comes out

    def rankings(self, *, batch: str | None = None, by: Labeler | None = None) -> list[Ranking]:
        """What counts of what people ranked, oldest task first: everybody's latest ranking of every task.

        Skips, surplus, gold and excluded people's are left out; a reviewer's verdict may stand for all rankings of a
        task (`adjudicated` in `meta`), or leave none. Rankings made in the labeling app carry in `meta`: batch,
        sources, shown (positions, in the order on screen), comment, active_seconds, guideline_version, strength,
        better, and (one entry a completion) quality, flags, comments; imported ones carry what their file had. For
        reviewers and admins.
        """
        with self._reading() as connection:
            access.allow(connection, by, "reviewer")
            return exports.rankings(connection, self._project_id, exports.scope(self._project_id, batch))

    def demonstrations(self, *, batch: str | None = None, by: Labeler | None = None) -> list[Demonstration]:
        """The better answers that labelers wrote, as demonstrations for SFT, oldest task first.

        Excluded people's are left out, and those of tasks that a reviewer dropped.
        """
        with self._reading() as connection:
            access.allow(connection, by, "reviewer")
            return exports.demonstrations(connection, self._project_id, exports.scope(self._project_id, batch))

    def gold_results(self, *, by: Labeler | None = None) -> list[GoldResult]:
        """How each labeler did on the gold tasks, by name. For reviewers and admins."""
        with self._reading() as connection:
            access.allow(connection, by, "reviewer")
            return gold.results(connection, self._project_id)

    def fingerprint(self, *, batch: str | None = None, by: Labeler | None = None) -> str:
        """sha256 over `rankings()`: equal rankings in equal order give equal fingerprints, in any store."""
        return fingerprint(self.rankings(batch=batch, by=by))

    def batches(self, *, by: Labeler | None = None) -> list[str]:
        """The batches' names, oldest first."""
        query = sa.select(tasks.c.batch).group_by(tasks.c.batch).order_by(sa.func.min(tasks.c.id))
        with self._reading() as connection:
            access.allow(connection, by, "reviewer")
            return list(connection.scalars(query.where(exports.scope(self._project_id, None))))

    def counts(self, batch: str | None = None, *, by: Labeler | None = None) -> Counts:
        """How much there is, in the whole project or in one batch of it."""
        with self._reading() as connection:
            access.allow(connection, by, "reviewer")
            return exports.counts(connection, self._project_id, batch)

    # Labeling

    def claim(self, labeler: Labeler) -> Assignment | None:
        """The task to work on now, leased to this labeler; None if nothing is left for them.

        Whatever they have open comes first (with the order they saw, its lease renewed), so a reload loses nothing.
        Else it is the next task in the project's order that has a free place and that they never had, or a gold one.
        """
        with self._reading() as connection:  # most runs of a page change nothing: they wait for no writer
            found = queue.fresh(connection, self._project_id, labeler)
            if found is not None:
                return judging.load(connection, self._project_id, found, labeler)
        with self._writing() as connection:
            found = queue.claim(connection, self._project_id, labeler)
            return None if found is None else judging.load(connection, self._project_id, found, labeler)

    def assignment(self, labeler: Labeler, assignment_id: int) -> Assignment:
        """A task that this labeler was given, as `claim` gave it; StoreError if it is not theirs."""
        with self._reading() as connection:
            return judging.load(connection, self._project_id, assignment_id, labeler)

    def submit(
        self,
        assignment: Assignment,
        ranks: Mapping[int, int | None],
        *,
        submit_id: str,
        comment: str = "",
        strength: int | None = None,
        notes: Mapping[int, Note] | None = None,
        better: str = "",
        active_seconds: float | None = None,
    ) -> Outcome:
        """Record a ranking: `ranks` by completion id, 1 = best, equal = tie, None = not ranked (if the project allows).

        `strength`, `notes` (by completion id) and `better` are what `Said` says. A `submit_id` seen before is REPEATED
        and changes nothing. After the lease has run out the ranking still counts if the task has a free place; if
        others filled it, it is kept as SURPLUS and left out of exports. Raises StoreError for what does not fit, and
        for a task that this labeler has judged and not reopened; DataError for unusable texts.
        """
        what = Said(dict(ranks), strength, dict(notes or {}), comment, better)
        with self._writing() as connection:
            return judging.submit(
                connection, self._project_id, assignment, what, submit_id=submit_id, active_seconds=active_seconds
            )

    def skip(
        self, assignment: Assignment, reason: str = "", *, submit_id: str = "", active_seconds: float | None = None
    ) -> Outcome:
        """Record that this labeler does not rank this task; its place goes to somebody else.

        With a `submit_id`, a skip sent twice is REPEATED, as a submit is.
        """
        key = submit_id or uuid.uuid4().hex
        with self._writing() as connection:
            return judging.submit(
                connection,
                self._project_id,
                assignment,
                Said(),
                submit_id=key,
                skip_reason=reason,
                active_seconds=active_seconds,
            )

    def save_draft(self, assignment: Assignment, body: Mapping[str, Any]) -> None:
        """Keep what the labeler has begun to say (anything that JSON can hold); `claim` gives it back as `draft`."""
        with self._writing() as connection:
            judging.save_draft(connection, self._project_id, assignment, body)

    def renew(self, assignment: Assignment) -> bool:
        """Extend the lease; False if the task is no longer this labeler's to finish."""
        with self._writing() as connection:
            return queue.renew(connection, self._project_id, assignment)

    def release(self, assignment: Assignment) -> None:
        """Stop working on it: an open task is free for others at once, a reopened judgment stays as it was."""
        with self._writing() as connection:
            queue.release(connection, self._project_id, assignment)

    def reopen(self, labeler: Labeler, assignment_id: int | None = None) -> Assignment | None:
        """What this labeler judged or skipped, to correct it by a new revision: the given one, else the last one.

        None if there is nothing of theirs to correct.
        """
        with self._writing() as connection:
            found = judging.reopen(connection, self._project_id, labeler, assignment_id)
            return None if found is None else judging.load(connection, self._project_id, found, labeler)

    def history(self, labeler: Labeler, limit: int = 50) -> list[Past]:
        """What this labeler said, each task in its latest revision, last said first."""
        with self._reading() as connection:
            return judging.history(connection, self._project_id, labeler, limit)

    def guidelines(self) -> list[Guidelines]:
        """Every version of the instructions, newest first."""
        mine = sa.select(guidelines).where(guidelines.c.project_id == self._project_id)
        with self._reading() as connection:
            rows = connection.execute(mine.order_by(guidelines.c.version.desc())).all()
        return [Guidelines(row.version, row.body, row.created_at) for row in rows]

    def progress(self, labeler: Labeler) -> Progress:
        """How far this labeler is."""
        with self._reading() as connection:
            return queue.progress(connection, self._project_id, labeler)


def _parts(rankings: Iterable[Ranking], size: int) -> Iterator[list[Ranking]]:
    walk = iter(rankings)
    while some := list(islice(walk, size)):
        yield some
