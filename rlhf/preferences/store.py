"""The label store: what was asked, who was asked, and what they answered, in one database."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from rlhf.data.records import Ranking, check_text, fingerprint
from rlhf.errors import StoreError
from rlhf.preferences import care, intake, queue
from rlhf.preferences import engine as db
from rlhf.preferences.schema import (
    DEFAULT_PROJECT,
    SCHEMA_VERSION,
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
from rlhf.preferences.types import Assignment, Counts, ImportReport, Labeler, NewTask, Outcome, Progress

NAME_LENGTH = 80


class LabelStore:
    """Rankings and the work of making them. Safe to share between threads; many processes may have one file open.

    Every method that writes is one transaction: when it returns, its rows are on the disk.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        with self._reading() as connection:
            found = connection.scalar(sa.select(projects.c.id).where(projects.c.name == DEFAULT_PROJECT))
        if found is None:
            raise StoreError(f"label store {self.name}: its project {DEFAULT_PROJECT!r} is missing; restore a backup")
        self._project_id: int = found

    @classmethod
    def open(cls, url: str | Path, create: bool = False) -> LabelStore:
        """Open the store at a file path or SQLAlchemy URL; `create` makes it (and its folder) where there is none.

        Raises StoreError if it is missing, is no label store, or has another schema version.
        """
        where = db.store_url(url)
        path = _file(where)
        if path is not None and not path.is_file():
            if path.exists():
                raise StoreError(f"label store {path}: this is a folder; give the path of a file in it")
            if not create:
                raise StoreError(
                    f"label store {path}: no such file; check the path, or fill a new store by importing or sampling"
                )
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"label store {path}: its folder cannot be made ({error.strerror})") from None
        engine = db.make_engine(where)
        try:
            if create and db.schema_version(engine) is None:
                db.migrate(engine)
            db.check_version(engine)
            db.use_wal(engine)
            return cls(engine)
        except BaseException:
            engine.dispose()
            raise

    @staticmethod
    def upgrade(url: str | Path) -> tuple[str, str]:
        """Bring a store's schema to this version; returns the version found and the one now. Copy it first."""
        where = db.store_url(url)
        path = _file(where)
        if path is not None and not path.is_file():
            raise StoreError(f"label store {path}: no such file; nothing to upgrade")
        engine = db.make_engine(where)
        try:
            found = db.schema_version(engine)
            if found is not None and found < SCHEMA_VERSION:
                db.migrate(engine)
            db.check_version(engine)
            return str(found), SCHEMA_VERSION
        finally:
            engine.dispose()

    def backup(self, file: str | Path) -> None:
        """Copy the store as it is now into a new file, while people go on working; see `care.backup`."""
        care.backup(self._engine, Path(file))

    def check(self) -> list[str]:
        """What should not be: damage, missing triggers, counts and judgments that do not fit. Empty: all is well."""
        with self._reading() as connection:
            return list(care.problems(connection))

    def close(self) -> None:
        """Let go of the database's connections."""
        self._engine.dispose()

    def __enter__(self) -> LabelStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The store for messages: its file, or its URL without the password."""
        return db.shown(self._engine.url)

    # What goes in

    def import_rankings(self, rankings: Iterable[Ranking], *, batch: str) -> ImportReport:
        """Add finished rankings, from a file or another tool. Rows that the batch holds already add nothing.

        No labeler becomes `anonymous`. A named labeler's second ranking of the same completions, in the same order,
        is a revision of the first; anonymous ones never replace each other. Raises DataError for unusable texts.
        """
        checked = intake.checked_rankings(rankings)
        check_text(batch, "batch")
        with self._filling() as connection:
            present = self._rankings(connection, batch)
            return intake.import_rankings(connection, self._project_id, checked, batch, present)

    def add_tasks(self, new: Iterable[NewTask], *, batch: str, overlap: int = 1) -> int:
        """Queue tasks, each for `overlap` people; returns how many were new to the batch.

        A task is known by prompt, completions, sources and group: sent again it keeps its first overlap and priority.
        Raises DataError for unusable texts and for a task that holds one text twice.
        """
        checked = intake.checked_tasks(new, overlap)
        check_text(batch, "batch")
        with self._filling() as connection:
            before = self._count(connection, tasks, tasks.c.batch == batch)
            intake.write_tasks(connection, self._project_id, checked, batch)
            return self._count(connection, tasks, tasks.c.batch == batch) - before

    def set_guidelines(self, text: str) -> int:
        """Write new instructions for labelers; returns their version, which judgments made under them record."""
        check_text(text, "guidelines")
        mine = guidelines.c.project_id == self._project_id
        with self._filling() as connection:
            version = (connection.scalar(sa.select(sa.func.max(guidelines.c.version)).where(mine)) or 0) + 1
            row = {"project_id": self._project_id, "version": version, "body": text}
            connection.execute(sa.insert(guidelines).values(created_at=now(self._engine.dialect.name), **row))
        return version

    def set_lease_seconds(self, seconds: float) -> None:
        """How long a claimed task stays reserved without a sign of life from its labeler."""
        if not 0 < seconds < float("inf"):
            raise StoreError(f"lease_seconds: expected a time above 0, found {seconds}")
        with self._writing() as connection:
            mine = sa.update(projects).where(projects.c.id == self._project_id)
            connection.execute(mine.values(lease_seconds=seconds))

    # What comes out

    def rankings(self, *, batch: str | None = None) -> list[Ranking]:
        """Everybody's latest ranking of every task, oldest task first; skips and surplus judgments are left out.

        Rankings made in the labeling app carry in `meta`: batch, sources, shown (positions, in the order on screen),
        comment, active_seconds, guideline_version; imported ones carry what their file had.
        """
        with self._reading() as connection:
            return self._rankings(connection, batch)

    def fingerprint(self, *, batch: str | None = None) -> str:
        """sha256 over `rankings()`: equal rankings in equal order give equal fingerprints, in any store."""
        return fingerprint(self.rankings(batch=batch))

    def batches(self) -> list[str]:
        """The batches' names, oldest first."""
        query = sa.select(tasks.c.batch).group_by(tasks.c.batch).order_by(sa.func.min(tasks.c.id))
        with self._reading() as connection:
            return list(connection.scalars(query.where(tasks.c.project_id == self._project_id)))

    def counts(self, batch: str | None = None) -> Counts:
        """How much there is, in the whole store or in one batch."""
        scope = self._scope(batch)
        with self._reading() as connection:
            made = sa.select(sa.func.count(), sa.func.count(sa.distinct(judgments.c.labeler_id)))
            judged, people = connection.execute(made.join_from(judgments, tasks).where(scope)).one()
            latest = self._latest().where(scope).subquery()
            kept = sa.select(sa.func.count()).select_from(latest).where(~latest.c.surplus)
            return Counts(
                tasks=self._count(connection, tasks, scope),
                waiting=self._count(connection, tasks, scope & (tasks.c.judged < tasks.c.overlap)),
                rankings=connection.scalar(kept.where(latest.c.ranks.is_not(None))) or 0,
                skips=connection.scalar(kept.where(latest.c.ranks.is_(None))) or 0,
                judgments=judged,
                labelers=people,
            )

    # Labeling

    def labeler(self, name: str) -> Labeler:
        """The person of this name, made on first use. StoreError for a name that is blank, long or unprintable."""
        name = name.strip()
        if not name or len(name) > NAME_LENGTH or not name.isprintable():
            raise StoreError(f"name: expected 1 to {NAME_LENGTH} visible characters, found {name[:NAME_LENGTH]!r}")
        known = sa.select(labelers.c.id).where(labelers.c.name == name)
        with self._reading() as connection:
            found = connection.scalar(known)
        if found is None:
            with self._writing() as connection:
                found = intake.write_labelers(connection, [name])[name]
        return Labeler(found, name)

    def claim(self, labeler: Labeler) -> Assignment | None:
        """The task to work on now, leased to this labeler; None if nothing is left for them.

        Whatever they have open comes first (with the order they saw, its lease renewed), so a reload loses nothing.
        Else it is the task of highest priority, oldest first, that has a free place and that they never had.
        """
        with self._writing() as connection:
            return queue.claim(connection, self._project_id, labeler)

    def submit(
        self,
        assignment: Assignment,
        ranks: Mapping[int, int | None],
        *,
        submit_id: str,
        comment: str = "",
        active_seconds: float | None = None,
    ) -> Outcome:
        """Record a ranking: `ranks` by completion id, 1 = best, equal = tie, None = not ranked (if the project allows).

        A `submit_id` seen before is REPEATED and changes nothing. After the lease has run out the ranking still counts
        if the task has a free place; if others filled it, it is kept as SURPLUS and left out of exports. Raises
        StoreError for ranks that do not fit, and for a task that this labeler has judged and not reopened.
        """
        with self._writing() as connection:
            return queue.submit(
                connection, assignment, ranks, submit_id=submit_id, comment=comment, active_seconds=active_seconds
            )

    def skip(
        self, assignment: Assignment, reason: str = "", *, submit_id: str = "", active_seconds: float | None = None
    ) -> Outcome:
        """Record that this labeler does not rank this task; its place goes to somebody else.

        With a `submit_id`, a skip sent twice is REPEATED, as a submit is.
        """
        submit_id = submit_id or uuid.uuid4().hex
        with self._writing() as connection:
            return queue.submit(
                connection, assignment, None, submit_id=submit_id, skip_reason=reason, active_seconds=active_seconds
            )

    def renew(self, assignment: Assignment) -> bool:
        """Extend the lease; False if the task is no longer this labeler's to finish."""
        with self._writing() as connection:
            return queue.renew(connection, self._project_id, assignment)

    def release(self, assignment: Assignment) -> None:
        """Stop working on it: an open task is free for others at once, a reopened judgment stays as it was."""
        with self._writing() as connection:
            queue.release(connection, assignment)

    def reopen_last(self, labeler: Labeler) -> Assignment | None:
        """What this labeler judged or skipped last, to correct it by a new revision; None if nothing."""
        with self._writing() as connection:
            return queue.reopen_last(connection, self._project_id, labeler)

    def progress(self, labeler: Labeler) -> Progress:
        """How far this labeler is."""
        with self._reading() as connection:
            return queue.progress(connection, self._project_id, labeler)

    # Helpers

    def _reading(self) -> AbstractContextManager[Connection]:
        return db.transaction(self._engine, reading=True)

    def _writing(self) -> AbstractContextManager[Connection]:
        return db.transaction(self._engine)

    @contextmanager
    def _filling(self) -> Iterator[Connection]:
        """A write transaction that no other import, addition or guideline of the project runs beside.

        SQLite has one writer anyway; on PostgreSQL labelers go on meanwhile.
        """
        with self._writing() as connection:
            mine = sa.select(projects.c.id).where(projects.c.id == self._project_id)
            connection.execute(mine.with_for_update(key_share=True))
            yield connection

    def _scope(self, batch: str | None) -> sa.ColumnElement[bool]:
        mine = tasks.c.project_id == self._project_id
        return mine if batch is None else mine & (tasks.c.batch == batch)

    def _count(self, connection: Connection, table: sa.Table, where: sa.ColumnElement[bool]) -> int:
        return connection.scalar(sa.select(sa.func.count()).select_from(table).where(where)) or 0

    def _latest(self) -> sa.Select[Any]:
        """The judgments that no later revision replaced, with their tasks."""
        later = judgments.alias("later")
        replaced = sa.exists().where(
            later.c.task_id == judgments.c.task_id,
            later.c.labeler_id == judgments.c.labeler_id,
            later.c.revision > judgments.c.revision,
        )
        return sa.select(judgments).join(tasks, tasks.c.id == judgments.c.task_id).where(~replaced)

    def _rankings(self, connection: Connection, batch: str | None) -> list[Ranking]:
        scope = self._scope(batch)
        said = self._latest().where(scope, judgments.c.ranks.is_not(None), ~judgments.c.surplus)
        rows = connection.execute(
            said.join(prompts, prompts.c.id == tasks.c.prompt_id)
            .join(labelers, labelers.c.id == judgments.c.labeler_id)
            .add_columns(prompts.c.body, labelers.c.name, tasks.c.split_group, tasks.c.batch)
            .order_by(judgments.c.task_id, judgments.c.labeler_id)
        ).all()
        parts = connection.execute(
            sa.select(task_completions.c.task_id, completions.c.id, completions.c.text, completions.c.source)
            .join(completions, completions.c.id == task_completions.c.completion_id)
            .join(tasks, tasks.c.id == task_completions.c.task_id)
            .where(scope)
            .order_by(task_completions.c.task_id, task_completions.c.position)
        )
        by_task: dict[int, list[Any]] = {}
        for part in parts:
            by_task.setdefault(part.task_id, []).append(part)
        return [_ranking(row, by_task[row.task_id]) for row in rows]


def _file(url: sa.engine.URL) -> Path | None:
    return Path(str(url.database)) if url.get_backend_name() == "sqlite" else None


def _ranking(row: Any, parts: list[Any]) -> Ranking:
    return Ranking(
        prompt=queue.as_prompt(row.body),
        completions=tuple(p.text for p in parts),
        ranks=tuple(row.ranks[str(p.id)] for p in parts),
        labeler=row.name,
        created_at=row.stated_at,
        group=row.split_group,
        meta=row.meta if row.shown is None else _circumstances(row, parts),
    )


def _circumstances(row: Any, parts: list[Any]) -> dict[str, Any]:
    """How a ranking was made in the app, in words that mean something outside this store (positions, not ids)."""
    position = {p.id: i for i, p in enumerate(parts)}
    known = {
        "batch": row.batch,
        "sources": [p.source for p in parts] if any(p.source for p in parts) else None,
        "shown": [position[i] for i in row.shown],
        "comment": row.comment or None,
        "active_seconds": row.active_seconds,
        "guideline_version": row.guideline_version or None,
    }
    return {name: value for name, value in known.items() if value is not None}
