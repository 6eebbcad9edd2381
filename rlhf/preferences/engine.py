"""Opening a database: URLs, SQLite's settings, schema versions. Every failure becomes a StoreError of one line."""

from __future__ import annotations

import importlib.resources
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from rlhf.errors import StoreError
from rlhf.preferences.schema import SCHEMA_VERSION

BUSY_MS = 30_000  # how long a writer waits for another before it gives up


def store_url(where: str | Path) -> URL:
    """A path or SQLAlchemy URL as a URL; `postgresql://` means psycopg 3. Raises StoreError if it is neither."""
    if isinstance(where, Path) or "://" not in where:
        if not str(where).strip() or str(where) == ":memory:":
            raise StoreError(f"label store: expected a file path or a database URL, found {str(where)!r}")
        return URL.create("sqlite", database=str(Path(where).expanduser()))
    try:
        url = make_url(where)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        raise StoreError("label store: the URL cannot be read; write it like postgresql://user@host/database") from None
    if url.drivername in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise StoreError(f"label store: {url.get_backend_name()!r} is not supported; use a file path or postgresql://…")
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise StoreError("label store: labels in memory would be lost; give a file path")
    return url


def shown(url: URL) -> str:
    """The store's name for messages: the file, or the URL without its password."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return url.set(query={}).render_as_string(hide_password=True)  # the query may hold a password too


def make_engine(url: URL) -> Engine:
    """An engine whose transactions are what the store relies on: writers queue, and a commit is on the disk."""
    try:
        engine = sa.create_engine(url, pool_size=10, max_overflow=40)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise StoreError(
            f"label store {shown(url)}: the database driver is missing ({error}); pip install 'psycopg[binary]'"
        ) from None
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    else:
        sa.event.listen(engine, "connect", _configure_postgresql)
    return engine


def _configure_postgresql(connection: Any, _record: object) -> None:
    connection.autocommit = True  # else the setting would go with the first rollback
    connection.execute("SET jit = off")  # compiling takes 20 ms; the queries that it is tried on take one
    connection.autocommit = False


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver's own BEGIN is deferred: two readers that turn writers would clash
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_MS}")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA secure_delete=ON")  # what is erased is written over, not only let go
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


@contextmanager
def transaction(engine: Engine, *, reading: bool = False) -> Iterator[Connection]:
    """One transaction, committed on leaving; the database's refusals come out as StoreError.

    What a reading one sees is one moment, however many statements it has: SQLite is so by itself.
    """
    options: dict[str, Any] = {"reading": reading}
    if reading and engine.dialect.name == "postgresql":
        options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    try:
        with engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection
    except DBAPIError as error:
        raise StoreError(f"label store {shown(engine.url)}: {_reason(error)}") from error
    except sa.exc.TimeoutError as error:  # all connections are in use: their writers wait for one lock
        raise StoreError(f"label store {shown(engine.url)}: is too busy; try again in a moment") from error


def _reason(error: DBAPIError) -> str:
    reason = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
    if "locked" in reason:
        return f"another process kept it locked for {BUSY_MS // 1000} s; try again when that is done"
    if "not a database" in reason or "malformed" in reason:
        return f"this file is not a usable SQLite database ({reason}); restore a backup or choose another path"
    return reason


def schema_version(engine: Engine) -> str | None:
    """The schema that the database has, or None if it has none."""
    with transaction(engine, reading=True) as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def check_version(engine: Engine) -> None:
    """Raise StoreError unless the database's schema is the one this code was written for."""
    found = schema_version(engine)
    name = shown(engine.url)
    if found is None:
        raise StoreError(
            f"label store {name}: this database holds no label store; import rankings or sample tasks into it"
        )
    if found < SCHEMA_VERSION:
        raise StoreError(
            f"label store {name}: has schema {found}, this version needs {SCHEMA_VERSION}; "
            f"make a copy of it, then run: rlhf store upgrade {name}"
        )
    if found > SCHEMA_VERSION:
        raise StoreError(
            f"label store {name}: has schema {found} of a newer rlhf-toolkit, this version knows {SCHEMA_VERSION}; "
            "install the newer version (rlhf store upgrade only goes forward)"
        )


def use_wal(engine: Engine) -> None:
    """Let readers go on while somebody writes. The file remembers it; a file that is no store of ours is left alone."""
    if engine.dialect.name != "sqlite":
        return
    deadline = time.monotonic() + BUSY_MS / 1000
    raw = engine.raw_connection()
    try:
        cursor = raw.cursor()
        while cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":  # setting it anew would need a lock
            try:
                cursor.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError:  # locked: for this change SQLite does not wait by itself
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
    except sqlite3.Error as error:
        raise StoreError(f"label store {shown(engine.url)}: cannot be set up for several users ({error})") from error
    finally:
        raw.close()


def forget(engine: Engine) -> None:
    """Let nothing that was erased linger in SQLite's log: what is in it goes into the file, and it is emptied."""
    if engine.dialect.name == "sqlite":
        raw = engine.raw_connection()
        try:
            raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            raw.close()


def migrate(engine: Engine) -> None:
    """Bring the schema to SCHEMA_VERSION, in one transaction: it is done as a whole or not at all."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(importlib.resources.files("rlhf.preferences") / "migrations"))
    with transaction(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
