"""`rlhf people exclude|include`: whose rankings a project's exports hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rlhf import cli
from rlhf.data.records import Ranking
from rlhf.preferences import LabelStore, NewTask

runner = CliRunner()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "labels.db"
    with LabelStore.open(path, create=True) as store:
        store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
        task = store.claim(store.labeler("bob"))
        assert task is not None
        store.submit(task, {c.id: 1 for c in task.completions}, submit_id="s")
        store.import_rankings([Ranking("q", ("a", "b"), (1, 2), "ann")], batch="file")
    return path


def call(path: Path, *arguments: str) -> Result:
    return runner.invoke(cli.app, ["people", *arguments, "--store", str(path)])


def test_an_excluded_persons_rankings_are_exported_no_more_until_taken_in_again(path: Path) -> None:
    done = call(path, "exclude", "bob", "--reason", "At random.", "--replace")
    assert (done.exit_code, done.stdout) == (0, "bob: in no export of project default, others are asked\n")
    with LabelStore.open(path) as store:
        assert [r.labeler for r in store.rankings()] == ["ann"] and store.counts().waiting == 1
        assert [(e.labeler, e.reason, e.by) for e in store.exclusions()] == [("bob", "At random.", "")]
        assert call(path, "include", "bob").stdout == "bob: in exports of project default again\n"
        assert [r.labeler for r in store.rankings()] == ["bob", "ann"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("exclude", "eve", "--reason", "why"), "nobody here is called 'eve'"),
        (("exclude", "bob", "--reason", " "), "reason: the text is blank"),
        (("include", "bob"), "this person's rankings are not left out of exports"),
        (("exclude", "bob", "--reason", "why", "--project", "other"), "holds no project 'other'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(path: Path, arguments: tuple[str, ...], said: str) -> None:
    result = call(path, *arguments)
    assert result.exit_code == 2 and result.stderr.startswith("rlhf: error: ") and said in result.stderr
    assert result.stderr.count("\n") == 1 and result.stdout == ""
    with LabelStore.open(path) as store:
        assert len(store.rankings()) == 2
