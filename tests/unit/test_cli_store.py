"""`rlhf store` and `rlhf people` for leads: projects, gold tasks, the record of events, and who may come in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rlhf import cli
from rlhf.data.records import Demonstration
from rlhf.data.sources import load_demonstrations
from rlhf.errors import StoreError
from rlhf.preferences import LabelStore, NewTask

runner = CliRunner()
Call = Callable[..., str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An empty label store."""
    LabelStore.open(tmp_path / "labels.db", create=True).close()
    return tmp_path / "labels.db"


@pytest.fixture
def call(path: Path) -> Call:
    """Runs a command on the store, which must go well; what it wrote to stdout."""

    def run(*arguments: str, answer: str | None = None) -> str:
        result = runner.invoke(cli.app, [*arguments, "--store", str(path)], input=answer, env={"COLUMNS": "200"})
        assert (result.exit_code, result.stderr) == (0, ""), result.output
        return result.stdout

    return run


def refusal(*arguments: str | Path) -> str:
    """What a command is refused with, once that is one line on stderr, nothing on stdout and exit code 2."""
    result = runner.invoke(cli.app, [str(a) for a in arguments])
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr.startswith("rlhf: error: ") and result.stderr.count("\n") == 1
    return result.stderr.removeprefix("rlhf: error: ").rstrip("\n")


def rows(table: str) -> list[list[str]]:
    """The cells of a printed table, without its head."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in table.splitlines() if line[:1] == "│"]


def write_rows(file: Path, *lines: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return file


def judge(labels: LabelStore, name: str, best_first: str, **said: Any) -> None:
    """Let this person rank the task they are given: its completions are single letters."""
    task = labels.claim(labels.labeler(name))
    assert task is not None
    ranks = {c.id: best_first.index(c.text) + 1 for c in task.completions}
    labels.submit(task, ranks, submit_id=f"{name}-{task.id}", **said)


# --- people ------------------------------------------------------------------------------------------------------


def test_an_invite_is_a_token_that_signs_its_owner_in(path: Path, call: Call) -> None:
    token = call("people", "invite", "ann", "--role", "reviewer", "--email", "Ann@Example.org").rstrip("\n")
    with LabelStore.open(path) as labels:
        ann = labels.signed_in(labels.sign_in_by_token(token))
        assert ann is not None and (ann.name, ann.role) == ("ann", "reviewer")
        assert labels.labeler_by_email("ann@example.org") == ann


def test_an_invite_can_be_a_link_and_makes_the_one_before_worthless(path: Path, call: Call) -> None:
    first = call("people", "invite", "ann").rstrip("\n")
    link = call("people", "invite", "ann", "--url", "https://rank.example.org/")
    found = re.fullmatch(r"https://rank\.example\.org/invite/([\w-]{32})\n", link)
    with LabelStore.open(path) as labels:
        assert found and labels.signed_in(labels.sign_in_by_token(found[1]))
        with pytest.raises(StoreError, match="not valid"):
            labels.sign_in_by_token(first)


def test_the_first_invite_makes_the_store(tmp_path: Path) -> None:
    new = tmp_path / "folder" / "new.db"
    assert runner.invoke(cli.app, ["people", "invite", "ann", "--store", str(new)]).exit_code == 0
    with LabelStore.open(new) as labels:
        assert [(p.name, p.role) for p in labels.people()] == [("ann", "labeler")]


def test_people_are_listed_with_their_way_in(path: Path, call: Call) -> None:
    call("people", "invite", "ann", "--role", "admin", "--email", "ann@example.org")
    with LabelStore.open(path) as labels:
        labels.add_tasks([NewTask("p", ("a", "b"))], batch="one")
        judge(labels, "bob [red]", "ab")
        for name in ("cat", "dan"):
            labels.labeler(name)
        labels.set_role("cat", "reviewer")
        labels.suspend("dan")
    found = rows(call("people", "list"))
    assert [row[:5] for row in found] == [
        ["ann", "admin", "ann@example.org", "by invite", "0"],
        ["bob [red]", "labeler", "", "by name, on this machine", "1"],
        ["cat", "reviewer", "", "once invited", "0"],  # a name alone is not enough for more than a labeler
        ["dan", "labeler", "", "no", "0"],
    ]
    assert [bool(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", row[5])) for row in found] == [False, True, False, False]


def test_roles_are_given_and_people_suspended_and_reinstated(path: Path, call: Call) -> None:
    call("people", "invite", "ann")
    assert call("people", "role", "ann", "admin") == "ann: admin\n"
    assert call("people", "suspend", "ann") == "ann: suspended\n"
    with LabelStore.open(path) as labels:
        assert [(p.role, p.active) for p in labels.people()] == [("admin", False)]
        assert call("people", "reinstate", "ann") == "ann: may come in again\n"
        assert [(p.role, p.active) for p in labels.people()] == [("admin", True)]


def test_erasing_asks_first_and_keeps_the_rankings(path: Path, call: Call) -> None:
    with LabelStore.open(path) as labels:
        labels.add_tasks([NewTask("p", ("a", "b"))], batch="one")
        judge(labels, "ann", "ab")
        for answer in ("n\n", ""):
            result = runner.invoke(cli.app, ["people", "erase", "ann", "--store", str(path)], input=answer)
            assert result.exit_code == 1 and [p.name for p in labels.people()] == ["ann"]
        said = call("people", "erase", "ann", answer="y\n")
        found = re.search(r"\[y/N\]: y\nnow called (erased-[0-9a-f]{8})\n$", said)
        assert found and [r.labeler for r in labels.rankings()] == [found[1]]
        labels.labeler("bob")
        assert re.fullmatch(r"now called erased-[0-9a-f]{8}\n", call("people", "erase", "bob", "--yes"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["invite", "  "], "name: expected 1 to 80 visible characters, found ''"),
        (["invite", "a\tb"], r"name: expected 1 to 80 visible characters, found 'a\tb'"),
        (["invite", "x" * 81], f"name: expected 1 to 80 visible characters, found '{'x' * 80}'"),
        (["invite", "bob", "--email", "bob"], "email: expected one like ann@example.org, found 'bob'"),
        (
            ["invite", "bob", "--email", "ANN@example.org"],
            "email: 'ann@example.org' is somebody else's; give another, or invite that person",
        ),
        *(
            ([*words], "name: nobody here is called 'zoe'; `rlhf people list` says who there is")
            for words in (("role", "zoe", "admin"), ("suspend", "zoe"), ("reinstate", "zoe"), ("erase", "zoe", "--yes"))
        ),
    ],
)
def test_people_who_do_not_fit_are_refused(path: Path, call: Call, arguments: list[str], message: str) -> None:
    call("people", "invite", "ann", "--email", "ann@example.org")
    assert refusal("people", *arguments, "--store", path) == message
    with LabelStore.open(path) as labels:
        assert [p.name for p in labels.people()] == ["ann"]


@pytest.mark.parametrize(
    "words",
    [("list",), ("role", "ann", "admin"), ("suspend", "ann"), ("reinstate", "ann"), ("erase", "ann", "--yes")],
    ids=lambda words: words[0],
)
def test_only_an_invite_makes_a_store(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert "no.db: no such file" in refusal("people", *words, "--store", tmp_path / "no.db")
    assert not (tmp_path / "no.db").exists()
    assert refusal("people", *words) == "name the label store by exactly one of --store URL and -c CONFIG.yaml"


# --- projects ----------------------------------------------------------------------------------------------------


def test_a_project_is_made_changed_and_shown(path: Path, call: Call, tmp_path: Path) -> None:
    (tmp_path / "text.md").write_text("Be *kind*. ü\n", encoding="utf-8")
    made = call("store", "project", "news", "overlap=3", "flags=[Rude, Wrong]", "--create")
    shown = yaml.safe_load(made)["news"]
    assert (shown["overlap"], shown["flags"], shown["k"], shown["lease_seconds"]) == (3, ["Rude", "Wrong"], None, 1800)
    assert "  overlap: 3  # people who rank each task, where a task says nothing\n" in made
    changed = call("store", "project", "news", "allow_partial=true", "k=4", "--guidelines", str(tmp_path / "text.md"))
    assert changed.startswith("instructions: version 1\nnews:\n")
    with LabelStore.open(path, project="news") as labels:
        settings = labels.settings()
        assert (settings.overlap, settings.allow_partial, settings.k) == (3, True, 4)
        assert [g.text for g in labels.guidelines()] == ["Be *kind*. ü\n"]
    everything = yaml.safe_load(call("store", "project"))
    assert list(everything) == ["default", "news"]
    assert everything["default"]["overlap"] == 1 and everything["news"]["overlap"] == 3
    assert yaml.safe_load(call("store", "project", "news")) == {"news": everything["news"]}


def test_making_a_project_makes_the_store(tmp_path: Path) -> None:
    (tmp_path / "text.md").write_text("Be kind.", encoding="utf-8")
    arguments = ["--create", "--guidelines", str(tmp_path / "text.md"), "--store", str(tmp_path / "new.db")]
    assert runner.invoke(cli.app, ["store", "project", "news", *arguments]).exit_code == 0
    with LabelStore.open(tmp_path / "new.db", project="news") as labels:
        assert [(g.version, g.text) for g in labels.guidelines()] == [(1, "Be kind.")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["overlap=0"], "project 'default': overlap: Input should be greater than or equal to 1, found 0"),
        (["overlap="], "project 'default': overlap: Input should be a valid integer, found None"),
        (["overlap"], "'overlap': expected key=value, for example overlap=3"),
        (["=3"], "'=3': expected key=value, for example overlap=3"),
        (["flags=["], None),
        (["flags=[Rude, Rude]"], None),
        (["skip_reasons=[]"], None),
        (["k=10"], None),
        (["overlap=2", "colour=red"], None),
        (["--create"], "project 'default': exists already; change its settings, or choose another name"),
        (["--guidelines", "{tmp}/none"], "{tmp}/none: cannot be read (No such file or directory)"),
        (["--guidelines", "{tmp}"], "{tmp}: cannot be read (Is a directory)"),
        (["--guidelines", "{tmp}/latin"], "{tmp}/latin: cannot be read (it is not UTF-8 text)"),
        (["--guidelines", "{tmp}/blank"], "{tmp}/blank: the text is blank; give it words or remove the row"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_change_that_does_not_fit_is_refused_and_changes_nothing(
    path: Path, tmp_path: Path, arguments: list[str], message: str | None
) -> None:
    (tmp_path / "latin").write_bytes(b"\xfcber")
    (tmp_path / "blank").write_text(" \n", encoding="utf-8")
    here = [a.replace("{tmp}", str(tmp_path)) for a in arguments]
    found = refusal("store", "project", "default", *here, "--store", path)
    assert message is None or found == message.replace("{tmp}", str(tmp_path))
    with LabelStore.open(path) as labels:
        assert labels.settings().overlap == 1 and labels.guidelines() == [] and labels.events() == []


def test_a_project_that_is_not_there_or_not_named_is_refused(path: Path) -> None:
    assert "holds no project 'news' but default" in refusal("store", "project", "news", "--store", path)
    for option in (["--create"], ["--guidelines", "text.md"]):
        assert refusal("store", "project", *option, "--store", path) == "name the project: rlhf store project NAME"
    assert "1 to 80 visible characters" in refusal("store", "project", "a\tb", "--create", "--store", path)


def test_what_is_refused_leaves_no_store_behind(tmp_path: Path) -> None:
    new, tied = tmp_path / "new.db", {"prompt": "p", "completions": ["a", "b"], "ranks": [1, 1]}
    assert "overlap" in refusal("store", "project", "news", "overlap=0", "--create", "--store", new)
    file = write_rows(tmp_path / "gold.jsonl", tied)
    expected = "gold 0, field 'ranks': [1, 1] orders nothing; give two different ranks"
    assert refusal("store", "gold", file, "--store", new) == expected
    assert not new.exists()


# --- gold, events, demonstrations --------------------------------------------------------------------------------


def test_gold_tasks_go_in_once_and_their_results_come_out(path: Path, call: Call, tmp_path: Path) -> None:
    assert rows(call("store", "gold")) == []
    file = write_rows(tmp_path / "gold.jsonl", {"prompt": "g", "completions": ["a", "b", "c"], "ranks": [1, 2, 3]})
    assert call("store", "gold", str(file)) == f"{path}: 1 new gold tasks of 1\n"
    assert call("store", "gold", str(file)) == f"{path}: 0 new gold tasks of 1\n"
    with LabelStore.open(path) as labels:
        labels.configure({"gold_share": 0.5})
        labels.add_tasks([NewTask(f"p{i}", ("a", "b", "c")) for i in range(40)], batch="one")
        for _ in range(20):
            judge(labels, "ann", "acb")
    # Of the pairs a before b, a before c and b before c, ann has the last one the other way round.
    assert rows(call("store", "gold")) == [["ann", "1", "3", "0.67"]]


def test_events_say_who_did_what_newest_first(path: Path, call: Call) -> None:
    with LabelStore.open(path) as labels:
        labels.add_tasks([NewTask("p", ("a", "b"))], batch="one")
        judge(labels, "ann", "ab")
        labels.suspend("ann")
    found = rows(call("store", "events"))
    assert [[*row[1:3], *sorted(row[3].split(", "))] for row in found] == [
        ["a program", "suspend", "labeler 1"],
        ["ann", "judge", "assignment 1", "revision 1"],
        ["a program", "add tasks", "added 1", "project 1"],
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", row[0]) for row in found)
    assert [row[2] for row in rows(call("store", "events", "--limit", "1"))] == ["suspend"]


def test_better_answers_are_exported_as_demonstrations(path: Path, call: Call, tmp_path: Path) -> None:
    out = tmp_path / "better.jsonl"
    arguments = ["store", "export", str(out), "--format", "demonstrations", "--store", str(path)]
    assert refusal(*arguments) == f"{path}: nobody has written a better answer yet; labelers may on the ranking page"
    assert not out.exists()
    with LabelStore.open(path) as labels:
        chat = ({"role": "user", "content": "Why?"},)
        labels.add_tasks([NewTask("p", ("a", "b")), NewTask(chat, ("a", "b"), group="g")], batch="one")
        labels.add_tasks([NewTask("q", ("a", "b"))], batch="two")
        for better in ("Better.", "Because.", ""):
            judge(labels, "ann", "ab", better=better)
    assert call("store", "export", str(out), "--format", "demonstrations") == f"{out}: 2 demonstrations from {path}\n"
    assert load_demonstrations(str(out)) == [Demonstration("p", "Better."), Demonstration(chat, "Because.", "g")]
    assert refusal(*arguments, "--batch", "two").startswith(f"{path}: nobody has written a better answer yet")
    assert refusal(*arguments, "--batch", "three") == f"{path}: holds no batch 'three'; its batches: one, two"
