"""`rlhf arena`: files of completions become blind tasks, and votes a leaderboard."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rlhf import cli
from rlhf.data import readers
from rlhf.preferences import LabelStore, NewTask

runner = CliRunner()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "labels.db"


def write(file: Path, *rows: dict[str, Any]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def says(prompt: str, completion: str) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion}


def call(*arguments: str | Path) -> str:
    result = runner.invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def refusal(*arguments: str | Path) -> str:
    result = runner.invoke(cli.app, [str(a) for a in arguments])
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr.startswith("rlhf: error: ") and result.stderr.count("\n") == 1
    return result.stderr.removeprefix("rlhf: error: ").rstrip("\n")


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in table.splitlines() if line[:1] == "│"]


def vote(labels: LabelStore, name: str, prefers: str) -> None:
    """Let this person say of everything they are given that `prefers` wrote the better one."""
    sources = {c.id: c.source for task in labels.waiting() for c in task.completions}
    while (task := labels.claim(labels.labeler(name))) is not None:
        ranks = {c.id: 1 if sources[c.id] == prefers else 2 for c in task.completions}
        labels.submit(task, ranks, submit_id=f"{name}-{task.id}")


# --- add


def test_rows_meet_by_prompt(store: Path, tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hello?"}]
    ours = write(
        tmp_path / "ours.jsonl",
        says("p1", "our one"),
        says("p2", "alike "),
        says("p3", "only ours"),
        says("p1", "our second thought"),
        {"messages": [*chat, {"role": "assistant", "content": "our hello"}]},
    )
    theirs = write(
        tmp_path / "theirs.jsonl",
        {"prompt": chat, "completion": "their hello"},
        says("p2", "alike"),
        says("p1", "their one"),
        says("p4", "only theirs"),
    )
    out = call("arena", "add", ours, theirs, "--batch", "duel", "--store", store)
    assert out.splitlines() == [
        f"{store}: 2 new tasks of 2 in batch 'duel': ours, theirs".replace(str(store), LabelStore.open(store).name),
        "2 prompts are not in all files: left out",
        "1 more completions of one prompt in one file: its first counts",
        "of 3 prompts, on 1 two contestants wrote the same: left out",
    ]
    with LabelStore.open(store) as labels:
        found = labels.waiting("duel")
    assert [(t.prompt, [(c.source, c.text) for c in t.completions]) for t in found] == [
        ("p1", [("ours", "our one"), ("theirs", "their one")]),
        (tuple(chat), [("ours", "our hello"), ("theirs", "their hello")]),
    ]
    again = call("arena", "add", ours, theirs, "--batch", "duel", "--store", store)
    assert ": 0 new tasks of 2 in batch 'duel'" in again


def test_models_may_be_named_and_asked_of_several_people(store: Path, tmp_path: Path) -> None:
    files = [write(tmp_path / f"{n}.jsonl", says("p", f"text {n}")) for n in range(3)]
    names = ("gpt", "our policy", "[red]x")
    options = [part for name in names for part in ("--name", name)]
    out = call("arena", "add", *files, "--batch", "three", *options, "--overlap", "3", "--store", store)
    assert "in batch 'three': gpt, our policy, [red]x" in out
    with LabelStore.open(store) as labels:
        (task,) = labels.waiting()
    assert ([c.source for c in task.completions], task.overlap) == (list(names), 3)


def test_what_makes_no_arena_is_refused_and_leaves_nothing_behind(store: Path, tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", says("p", "x"))
    other = write(tmp_path / "other.jsonl", says("q", "y"))
    same = write(tmp_path / "same.jsonl", says("p", "x"))
    end = ("--batch", "b", "--store", store)
    assert refusal("arena", "add", one, *end) == "name 2 to 9 files, one a model; found 1"
    assert refusal("arena", "add", one, other, *end).endswith(": share no prompt; there is nothing to compare")
    assert "on 1 two contestants wrote the same: left out; there is" in refusal("arena", "add", one, same, *end)
    assert "two contestants would be called 'one'" in refusal("arena", "add", one, one, *end)
    assert refusal("arena", "add", one, other, "--name", "a", *end).startswith("--name: found 1 for 2 files")
    assert "visible characters" in refusal("arena", "add", one, other, "--name", "a", "--name", "b\n", *end)
    assert "no.jsonl: no such file" in refusal("arena", "add", one, tmp_path / "no.jsonl", *end)
    bad = write(tmp_path / "bad.jsonl", {"prompt": "p"})
    assert "bad.jsonl, line 1: field 'completion' is missing" in refusal("arena", "add", one, bad, *end)
    assert refusal("arena", "add", one, other, "--batch", "", "--store", store).startswith("batch: expected 1 to 200")
    assert not store.exists()


def test_a_line_without_an_end_is_refused(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "LONGEST", 2**20)
    one = write(tmp_path / "one.jsonl", says("p", "x"))
    long = write(tmp_path / "long.jsonl", says("p", "x"), says("q", "y" * 2**20))
    said = refusal("arena", "add", one, long, "--batch", "b", "--store", store)
    assert said.startswith(f"{long}, line 2: longer than 1 MiB, the most for one row; put each record on a line")
    os.mkfifo(tmp_path / "pipe.jsonl")
    said = refusal("arena", "add", one, tmp_path / "pipe.jsonl", "--batch", "b", "--store", store)
    assert "pipe.jsonl: is no ordinary file (but a pipe or a device); copy" in said
    assert not store.exists()


# --- show


def test_the_leaderboard_is_of_the_votes_that_count(store: Path) -> None:
    with LabelStore.open(store, create=True) as labels:
        new = [NewTask(f"p{i}", (f"long text {i}", f"text {i}"), ("win[dy]", "brief")) for i in range(12)]
        labels.add_tasks(new, batch="duel", overlap=2)
        labels.add_tasks([NewTask("q", ("x", "y"))], batch="plain")
        vote(labels, "ann", prefers="win[dy]")
        vote(labels, "bot", prefers="brief")
        labels.exclude("bot", "clicks through")
    out = call("arena", "show", "--store", store)
    assert cells(out)[0] == ["1", "win[dy]", "100 % [79, 100]", "96 % [79, 97]", "not known", "not known", "12", "11"]
    assert [row[:2] for row in cells(out)] == [["1", "win[dy]"], ["2", "brief"]]
    assert "12 comparisons from 12 rankings of 12 tasks." in out
    assert "0 of 12 tasks still want votes." in out
    assert "Somebody won, or lost, every comparison" in out
    assert "who wrote an answer says how long it is" in out
    assert "plain" not in out
    assert call("arena", "show", "--batch", "duel", "--store", store) == out


def test_a_task_that_a_reviewer_dropped_has_no_vote(store: Path) -> None:
    with LabelStore.open(store, create=True) as labels:
        labels.add_tasks([NewTask(f"p{i}", ("x", "y"), ("a", "b")) for i in range(3)], batch="duel", overlap=1)
        vote(labels, "ann", prefers="a")
        labels.invite("rita", "reviewer")
        labels.decide(labels.judged()[0].task_id, "drop", by=labels.labeler("rita"))
    assert "2 comparisons from 2 rankings of 2 tasks." in call("arena", "show", "--store", store)


def test_without_votes_there_is_no_leaderboard(store: Path) -> None:
    with LabelStore.open(store, create=True) as labels:
        labels.add_tasks([NewTask("p", ("x", "y"), ("a", "b"))], batch="duel")
    assert "no votes on completions of two sources yet" in refusal("arena", "show", "--store", store)
    assert "holds no batch 'dule'; its batches: duel" in refusal("arena", "show", "--batch", "dule", "--store", store)


def test_help_is_quick() -> None:
    begin = time.perf_counter()
    code = "import sys; from rlhf import cli; print({'scipy', 'numpy', 'sqlalchemy', 'rich.table'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert time.perf_counter() - begin < 10
