"""The store's file: append-only by triggers, versions refused or upgraded, settings that keep what was said."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from rlhf.data.records import Ranking
from rlhf.errors import StoreError
from rlhf.preferences import LabelStore, NewTask, schema

CHANGES = (
    "UPDATE judgments SET ranks = '{}'",
    "UPDATE judgments SET comment = 'edited' WHERE id = 1",
    "DELETE FROM judgments",
    "INSERT OR REPLACE INTO judgments SELECT * FROM judgments",
    "REPLACE INTO judgments SELECT 99, task_id, labeler_id, revision, submit_id, ranks, skip_reason, surplus, comment, "
    "active_seconds, guideline_version, shown, stated_at, meta, created_at, strength, notes, better FROM judgments",
    "UPDATE guidelines SET body = 'other'",
    "DELETE FROM guidelines",
    "INSERT OR REPLACE INTO guidelines SELECT project_id, version, 'other', created_at FROM guidelines",
    "UPDATE events SET action = 'other'",
    "DELETE FROM events",
    "INSERT OR REPLACE INTO events SELECT id, at, labeler_id, 'other', subject FROM events",
    "UPDATE verdicts SET kind = 'drop'",
    "DELETE FROM verdicts",
    "INSERT OR REPLACE INTO verdicts SELECT id, task_id, labeler_id, 'drop', ranks, comment, created_at FROM verdicts",
    "UPDATE exclusions SET excluded = 0",
    "DELETE FROM exclusions",
    "INSERT OR REPLACE INTO exclusions "
    "SELECT id, project_id, labeler_id, 0, '[]', 'x', by_id, created_at FROM exclusions",
)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "labels.db"
    with LabelStore.open(path, create=True) as store:
        store.import_rankings([Ranking("p", ("a", "b"), (1, 2), "ann")], batch="one")
        store.set_guidelines("Be kind.")
        store.invite("lead", "reviewer")
        store.decide(1, "keep", by=store.labeler("lead"))
        store.labeler("bob")
        store.exclude("bob", "Ranks at random.")
    return path


@pytest.fixture
def path(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(filled, tmp_path / "labels.db"))


@pytest.fixture
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program's connection, with none of the store's own care."""
    with closing(sqlite3.connect(path)) as connection:
        yield connection


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_said_cannot_be_changed_by_any_program(raw: sqlite3.Connection, path: Path, change: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="append-only: write a new revision"):
        raw.execute(change)
    raw.rollback()
    with LabelStore.open(path) as store:
        assert [r.ranks for r in store.rankings()] == [(1, 2)]


@pytest.mark.parametrize("change", CHANGES)
def test_without_the_triggers_the_same_statements_succeed(raw: sqlite3.Connection, change: str) -> None:
    """The test above has teeth: it is the triggers that refuse, nothing else."""
    for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        raw.execute(f"DROP TRIGGER {name}")
    assert raw.execute(change).rowcount >= 1


ON_POSTGRES = pytest.mark.parametrize(
    "store_url", [pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True
)
POSTGRES_CHANGES = (
    "UPDATE judgments SET ranks = '{}'",
    "DELETE FROM judgments",
    "TRUNCATE judgments",
    "UPDATE guidelines SET body = 'other'",
    "DELETE FROM guidelines",
    "TRUNCATE guidelines",
    "UPDATE events SET action = 'other'",
    "DELETE FROM events",
    "TRUNCATE events",
)


@ON_POSTGRES
@pytest.mark.parametrize("change", POSTGRES_CHANGES)
def test_nor_can_it_on_postgresql(store: LabelStore, change: str) -> None:
    """The triggers refuse; without them the same statement succeeds."""
    store.import_rankings([Ranking("p", ("a", "b"), (1, 2), "ann")], batch="one")
    store.set_guidelines("Be kind.")
    with pytest.raises(StoreError, match="append-only: write a new revision"), store._writing() as connection:
        connection.exec_driver_sql(change)
    assert [r.ranks for r in store.rankings()] == [(1, 2)]
    table = next(name for name in schema.APPEND_ONLY if name in change)
    with store._writing() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        connection.exec_driver_sql(change)


@ON_POSTGRES
def test_the_migrations_make_the_same_tables_on_postgresql(store: LabelStore) -> None:
    with store._reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []


@ON_POSTGRES
def test_a_store_on_postgresql_that_is_not_there_is_one_clear_line(store_url: str) -> None:
    with pytest.raises(StoreError, match="does not exist") as caught:
        LabelStore.open(store_url + "_not")
    assert "\n" not in str(caught.value)
    with pytest.raises(StoreError, match="holds no label store"):
        LabelStore.open(store_url.rpartition("/")[0] + "/postgres")


def test_the_store_keeps_its_file_safe(path: Path) -> None:
    with LabelStore.open(path) as store, store._reading() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


def test_a_write_takes_the_lock_at_its_beginning(path: Path) -> None:
    """BEGIN IMMEDIATE: a second writer waits at once, instead of failing when it has read already."""
    with LabelStore.open(path) as store, closing(sqlite3.connect(path, timeout=0)) as other:
        with store._writing(), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        with store._reading() as connection:
            connection.exec_driver_sql("SELECT count(*) FROM tasks")
            other.execute("BEGIN IMMEDIATE")  # readers hold nobody up


def test_an_acknowledged_import_survives_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    code = (
        "import os, signal; from rlhf.preferences import *; from rlhf.data.records import Ranking\n"
        f"store = LabelStore.open({str(path)!r}, create=True)\n"
        "store.import_rankings([Ranking('p', ('a', 'b'), (2, 1), 'ann')], batch='one')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -9
    with LabelStore.open(path) as store:
        assert [r.ranks for r in store.rankings()] == [(2, 1)]


def test_many_may_make_one_store_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        stores = list(pool.map(lambda _: LabelStore.open(tmp_path / "labels.db", create=True), range(6)))
    assert [s.counts().tasks for s in stores] == [0] * 6


def test_a_missing_store_is_one_clear_line_and_no_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "labels.db"
    with pytest.raises(StoreError, match=r"labels\.db: no such file") as caught:
        LabelStore.open(path)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []
    LabelStore.open(path, create=True).close()
    LabelStore.open(f"sqlite:///{path}").close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no label store"),
        (b"just some text, long enough to be looked at as a database header" * 20, "not a usable SQLite database"),
    ],
)
def test_another_file_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=message):
        LabelStore.open(path)
    assert path.read_bytes() == content


def test_a_folder_and_a_store_in_memory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="this is a folder"):
        LabelStore.open(tmp_path, create=True)
    for url in ("sqlite://", ":memory:", ""):
        with pytest.raises(StoreError):
            LabelStore.open(url, create=True)
    with pytest.raises(StoreError, match="'mysql' is not supported"):
        LabelStore.open("mysql://somewhere/labels")


def test_messages_hide_passwords() -> None:
    from rlhf.preferences import engine

    in_query = engine.store_url("postgresql://ann@host/labels?password=topsecret")
    assert engine.shown(in_query) == "postgresql+psycopg://ann@host/labels"
    with pytest.raises(StoreError, match="the URL cannot be read"):
        engine.store_url("postgresql://ann@host:1x/labels")

    assert (
        engine.shown(engine.store_url("postgresql://ann:secret@host/labels"))
        == "postgresql+psycopg://ann:***@host/labels"
    )


@pytest.mark.parametrize(
    ("version", "message"),
    [("0000", "has schema 0000, this version needs 0003.*rlhf store upgrade"), ("9999", "newer rlhf-toolkit.*install")],
)
def test_another_schema_version_is_refused_with_the_way_out(
    raw: sqlite3.Connection, path: Path, version: str, message: str
) -> None:
    raw.execute("UPDATE alembic_version SET version_num = ?", (version,))
    raw.commit()
    with pytest.raises(StoreError, match=message):
        LabelStore.open(path)


def test_upgrading_a_current_store_changes_nothing(path: Path) -> None:
    assert LabelStore.upgrade(path) == ("0003", "0003")
    with LabelStore.open(path) as store:
        assert len(store.rankings()) == 1


def test_upgrade_refuses_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nothing to upgrade"):
        LabelStore.upgrade(tmp_path / "labels.db")


def test_the_migrations_make_exactly_the_tables_that_the_code_uses(path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    engine.dispose()
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == schema.SCHEMA_VERSION


def test_nothing_in_the_schema_is_sqlites_alone() -> None:
    """Every table and index can be said in PostgreSQL's words too."""
    dialect = postgresql.dialect()
    ddl = [str(CreateTable(t).compile(dialect=dialect)) for t in schema.metadata.sorted_tables]
    ddl += [str(CreateIndex(i).compile(dialect=dialect)) for t in schema.metadata.sorted_tables for i in t.indexes]
    assert len(ddl) == 16 + 14  # tables and indexes
    assert any("WHERE judged < overlap" in statement for statement in ddl)
    clock = sa.select(schema.now("postgresql")).compile(dialect=dialect)
    assert str(clock) == "SELECT CAST(EXTRACT(epoch FROM clock_timestamp()) AS FLOAT) AS anon_1"


def test_the_store_needs_no_torch() -> None:
    code = "import sys, rlhf.preferences, rlhf.preferences.migrations; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_tasks_and_rankings_of_a_closed_store_can_be_opened_again(path: Path) -> None:
    with LabelStore.open(path) as store:
        store.add_tasks([NewTask("q", ("a", "b"))], batch="two")
        ann = store.labeler("ann")
        assignment = store.claim(ann)
    with LabelStore.open(path) as store:
        assert store.claim(ann) == assignment


def test_more_people_at_once_than_connections_are_told_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LabelStore.open(path) as store:
        monkeypatch.setattr(store._engine.pool, "_timeout", 0.05)
        held = [store._engine.connect() for _ in range(50)]
        with pytest.raises(StoreError, match="is too busy; try again"):
            store.counts()
        for connection in held:
            connection.close()
        assert store.counts().rankings == 1
