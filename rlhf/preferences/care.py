"""Looking after a store: a copy that is safe to take while people work, and a search for what should not be."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine

from rlhf.errors import StoreError
from rlhf.preferences.engine import shown
from rlhf.preferences.schema import APPEND_ONLY, assignments, judgments, task_completions, tasks

# ---- a copy ----------------------------------------------------------------------------------------------------------


def backup(engine: Engine, file: Path) -> None:
    """Copy the store as it is at one moment into a new file; readers and writers go on meanwhile.

    Of SQLite a store that can be opened as it is; of PostgreSQL what `pg_restore` reads. Raises StoreError if the file
    is there already, its folder is not, or the copy fails: then nothing is left behind.
    """
    if file.exists():
        raise StoreError(f"{file}: exists already; a backup never replaces one, give another name")
    if not file.parent.is_dir():
        raise StoreError(f"{file}: there is no folder {file.parent}; make it first")
    staging = file.with_name(f".{file.name}.staging")
    try:
        if engine.dialect.name == "sqlite":
            _copy_sqlite(Path(str(engine.url.database)), staging)
        else:
            _dump_postgresql(engine.url, staging)
        with staging.open("rb") as written:
            os.fsync(written.fileno())
        staging.replace(file)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{file}: cannot be written ({error})") from error
    finally:
        staging.unlink(missing_ok=True)


def _copy_sqlite(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)  # of a backup that was killed
    with closing(sqlite3.connect(source)) as here, closing(sqlite3.connect(target)) as there:
        here.backup(there)
        there.execute("PRAGMA journal_mode=DELETE")  # one file, with no log of its own beside it
        found = there.execute("PRAGMA integrity_check").fetchone()[0]
    if found != "ok":
        raise StoreError(f"{source}: its copy is damaged ({found}); `rlhf store check` says more")


def _dump_postgresql(url: URL, target: Path) -> None:
    program = shutil.which("pg_dump")
    if program is None:
        raise StoreError("pg_dump is not installed here; install PostgreSQL's client programs (postgresql-client)")
    plain = url.set(drivername="postgresql", password=None).render_as_string()
    environment = {**os.environ, **({"PGPASSWORD": str(url.password)} if url.password else {})}
    command = [program, "--format=custom", f"--file={target}", "--no-password", plain]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise StoreError(f"label store {shown(url)}: pg_dump failed: {reason}")


# ---- a search for faults ---------------------------------------------------------------------------------------------


def problems(connection: Connection) -> Iterator[str]:
    """What should not be in a store, a line each: damage, missing triggers, counts and judgments that do not fit."""
    if connection.dialect.name == "sqlite":
        for (said,) in connection.exec_driver_sql("PRAGMA integrity_check"):
            if said != "ok":
                yield f"the file is damaged: {said}"
        for row in connection.exec_driver_sql("PRAGMA foreign_key_check"):
            yield f"{row[0]}: row {row[1]} names a row of {row[2]} that is not there"
    yield from _missing_triggers(connection)
    yield from _wrong_counts(connection)
    yield from _wrong_revisions(connection)
    yield from _wrong_ranks(connection)


def _missing_triggers(connection: Connection) -> Iterator[str]:
    if connection.dialect.name == "sqlite":
        there = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        wanted = [f"{table}_no_{what}" for table in APPEND_ONLY for what in ("update", "delete", "replace")]
    else:
        there = "SELECT tgname FROM pg_trigger WHERE tgenabled <> 'D'"
        wanted = [f"{table}_no_{what}" for table in APPEND_ONLY for what in ("change", "truncate")]
    found = set(connection.exec_driver_sql(there).scalars())
    for name in wanted:
        if name not in found:
            yield f"trigger {name} is missing: what was said could be changed"


def _wrong_counts(connection: Connection) -> Iterator[str]:
    """A task's `judged` is how many people's judgments count, and never more than asked for."""
    done = sa.select(assignments.c.task_id, sa.func.count().label("n")).where(assignments.c.state == "done")
    counted = done.group_by(assignments.c.task_id).subquery()
    number = sa.func.coalesce(counted.c.n, 0)
    rows = connection.execute(
        sa.select(tasks.c.id, tasks.c.judged, tasks.c.overlap, number.label("n"))
        .outerjoin(counted, counted.c.task_id == tasks.c.id)
        .where(tasks.c.gold.is_(None), (tasks.c.judged != number) | (number > tasks.c.overlap))
        .order_by(tasks.c.id)
    )
    for row in rows:
        yield f"task {row.id}: says {row.judged} judged of {row.overlap}, but {row.n} judgments count"


def _wrong_revisions(connection: Connection) -> Iterator[str]:
    """A person's revisions of a task are 1, 2, ...; and its state is what the last one says."""
    who = (judgments.c.task_id, judgments.c.labeler_id)
    last = sa.func.max(judgments.c.revision)
    gaps = (
        sa.select(*who, sa.func.count().label("n"), last.label("last")).group_by(*who).having(sa.func.count() != last)
    )
    for row in connection.execute(gaps):
        yield f"task {row.task_id}, labeler {row.labeler_id}: {row.n} revisions, the last is number {row.last}"
    latest = sa.select(*who, last.label("last")).group_by(*who).subquery()
    rows = connection.execute(
        sa.select(*who, assignments.c.state, judgments.c.ranks, judgments.c.surplus)
        .join(latest, (latest.c.task_id == who[0]) & (latest.c.labeler_id == who[1]))
        .join(assignments, (assignments.c.task_id == who[0]) & (assignments.c.labeler_id == who[1]))
        .where(judgments.c.revision == latest.c.last)
        .execution_options(yield_per=1000)
    )
    for row in rows:
        said = "skipped" if row.ranks is None else "surplus" if row.surplus else "done"
        if row.state != said:
            yield f"task {row.task_id}, labeler {row.labeler_id}: is {row.state}, but the last judgment says {said}"


def _wrong_ranks(connection: Connection) -> Iterator[str]:
    """A judgment ranks the completions of its task, all of them and no other."""
    of_task: dict[int, set[int]] = {}
    for task, completion in connection.execute(sa.select(task_completions.c.task_id, task_completions.c.completion_id)):
        of_task.setdefault(task, set()).add(completion)
    query = sa.select(judgments.c.id, judgments.c.task_id, judgments.c.ranks, judgments.c.shown)
    for row in connection.execute(query.order_by(judgments.c.id).execution_options(yield_per=1000)):
        there = of_task.get(row.task_id, set())
        if row.ranks is not None and {int(c) for c in row.ranks} != there:
            yield f"judgment {row.id}: ranks other completions than task {row.task_id} has"
        if row.shown is not None and (set(row.shown) != there or len(row.shown) != len(there)):
            yield f"judgment {row.id}: showed other completions than task {row.task_id} has"
