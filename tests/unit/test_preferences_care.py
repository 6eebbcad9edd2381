"""Backups that are whole, and a check that finds each kind of fault."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlhf import cli
from rlhf.data.records import Ranking
from rlhf.errors import StoreError
from rlhf.preferences import LabelStore, NewTask


@pytest.fixture
def used(store: LabelStore) -> LabelStore:
    """A store in which things have happened: an import, a ranking, a correction, a skip, an open task."""
    store.import_rankings([Ranking("i", ("a", "b"), (1, 2), "cid")], batch="imported")
    store.add_tasks([NewTask(p, ("a", "b")) for p in "pqr"], batch="one")
    store.set_guidelines("Be kind.")
    ann, bob = store.labeler("ann"), store.labeler("bob")
    for n, labeler in enumerate((ann, bob)):
        assignment = store.claim(labeler)
        assert assignment is not None
        if labeler is bob:
            store.skip(assignment, "unclear", submit_id="skip")
        else:
            store.submit(assignment, {c.id: 1 for c in assignment.completions}, submit_id=f"s{n}")
    again = store.reopen(ann)
    assert again is not None
    store.submit(again, {c.id: i for i, c in enumerate(again.completions, start=1)}, submit_id="edit")
    store.claim(ann)
    return store


def test_a_used_store_is_well(used: LabelStore) -> None:
    assert used.check() == []


FAULTS = {
    "UPDATE tasks SET judged = 0 WHERE judged = 1": "says 0 judged of 1, but 1 judgments count",
    "UPDATE tasks SET overlap = 0 WHERE judged = 1": "says 1 judged of 0, but 1 judgments count",
    "UPDATE assignments SET state = 'surplus' WHERE state = 'done'": "is surplus, but the last judgment says done",
    "UPDATE assignments SET state = 'open' WHERE state = 'skipped'": "is open, but the last judgment says skipped",
    "UPDATE judgments SET revision = 3 WHERE revision = 2": "2 revisions, the last is number 3",
    "UPDATE judgments SET ranks = '{\"99\": 1}' WHERE revision = 2": "ranks other completions than task",
    "UPDATE judgments SET shown = '[1, 1]' WHERE revision = 2": "showed other completions than task",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(used: LabelStore, fault: str) -> None:
    sqlite = used._engine.dialect.name == "sqlite"
    with used._writing() as connection:
        if sqlite:
            connection.exec_driver_sql("DROP TRIGGER judgments_no_update")
        else:
            connection.exec_driver_sql("ALTER TABLE judgments DISABLE TRIGGER judgments_no_change")
        connection.exec_driver_sql(fault)
    found = used.check()
    trigger = "judgments_no_update" if sqlite else "judgments_no_change"
    assert found[0] == f"trigger {trigger} is missing: what was said could be changed"
    assert any(FAULTS[fault] in line for line in found[1:]), found


def test_a_damaged_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    with LabelStore.open(path, create=True) as store:
        store.import_rankings([Ranking(str(i), ("a", "b"), (1, 2), "ann") for i in range(300)], batch="one")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute("DELETE FROM completions WHERE id = 1")
        connection.commit()
    with LabelStore.open(path) as store:
        assert store.check() == ["task_completions: row 1 names a row of completions that is not there"]
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = b"\xff" * 4096
    path.write_bytes(content)
    done = CliRunner().invoke(cli.app, ["store", "check", "--store", str(path)])
    assert done.exit_code in (1, 2) and "Traceback" not in done.output
    assert "damaged" in done.stderr or "malformed" in done.stderr


def test_a_backup_is_the_store_as_it_was(used: LabelStore, tmp_path: Path) -> None:
    """On SQLite it opens as it is; on PostgreSQL pg_restore makes it anew."""
    copy, before = tmp_path / "copy.db", used.rankings()
    assert before
    if used._engine.dialect.name == "postgresql" and not shutil.which("pg_dump"):
        pytest.skip("pg_dump is not in PATH here")
    used.backup(copy)
    used.import_rankings([Ranking("later", ("a", "b"), (1, 2), "cid")], batch="imported")
    assert sorted(p.name for p in tmp_path.iterdir() if "copy" in p.name) == ["copy.db"]
    where = str(copy)
    if used._engine.dialect.name == "postgresql":
        plain = used._engine.url.set(drivername="postgresql")
        where = plain.set(database=f"{plain.database}_back").render_as_string()
        subprocess.run(["createdb", "--maintenance-db", plain.render_as_string(), f"{plain.database}_back"], check=True)
        subprocess.run(["pg_restore", "-d", where, str(copy)], check=True)
    with LabelStore.open(where) as back:
        assert back.rankings() == before
        assert back.check() == []
        assert len(used.rankings()) == len(before) + 1
    with pytest.raises(StoreError, match="exists already; a backup never replaces one"):
        used.backup(copy)
    with pytest.raises(StoreError, match="there is no folder"):
        used.backup(tmp_path / "no" / "copy.db")


def test_the_commands(tmp_path: Path) -> None:
    path, copy = str(tmp_path / "labels.db"), tmp_path / "copy.db"
    with LabelStore.open(path, create=True) as store:
        store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
        store.create_project("other")
    done = CliRunner().invoke(cli.app, ["store", "backup", str(copy), "--store", path])
    assert (done.exit_code, done.stdout) == (0, f"{copy}: copy of {path}\n")
    done = CliRunner().invoke(cli.app, ["store", "check", "--store", str(copy)])
    held = "project default: 1 tasks, 0 judgments\nproject other: 0 tasks, 0 judgments\n"
    assert (done.exit_code, done.stdout) == (0, f"{copy}: all is well\n{held}")
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("UPDATE tasks SET judged = 1")
        connection.commit()
    done = CliRunner().invoke(cli.app, ["store", "check", "--store", str(copy)])
    assert (done.exit_code, done.stderr) == (1, f"{copy}: task 1: says 1 judged of 1, but 0 judgments count\n")
