"""`rlhf store` and `rlhf people` for leads: projects, gold tasks, the record of events, and who may come in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from typer.testing import CliRunner

from rlhf import cli
from rlhf.data.records import Demonstration, Ranking
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
        labels.suspend("dan")
        with labels._writing() as connection:  # an older version could do this
            connection.exec_driver_sql("UPDATE labelers SET role = 'reviewer' WHERE name = 'cat'")
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
    assert "  overlap: 3  # people who rank each task that is queued from now on" in made
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


def test_a_project_is_shown_whatever_is_in_the_others(path: Path, call: Call) -> None:
    """A newer version may have written settings that this one cannot read: that is no matter of this project."""
    call("store", "project", "future", "--create")
    with LabelStore.open(path) as labels, labels._writing() as connection:
        connection.exec_driver_sql("UPDATE projects SET settings = '{\"overlap\": \"many\"}' WHERE name = 'future'")
    assert yaml.safe_load(call("store", "project", "default", "overlap=2"))["default"]["overlap"] == 2
    assert "project 'future': overlap" in refusal("store", "project", "future", "--store", path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["k=3", "k=4"], "setting 'k=4': 'k' is set twice; leave one out"),
        (["k=3", " k =3"], "setting ' k =3': 'k' is set twice; leave one out"),
        (["overlap=0x" + "f" * 9000], "a number of so many digits is of no use here; give a smaller one"),
        (["x" * 9000], "…: expected key=value, for example overlap=3"),
    ],
    ids=["twice", "twice with blanks", "digits", "long"],
)
def test_settings_that_cannot_be_meant_are_refused(path: Path, changes: list[str], message: str) -> None:
    said = refusal("store", "project", "default", *changes, "--store", path)
    assert said.endswith(message) and len(said) < 400
    with LabelStore.open(path) as labels:
        assert labels.settings().k is None and labels.events() == []


def test_what_is_refused_leaves_no_store_behind(tmp_path: Path) -> None:
    new, tied = tmp_path / "new.db", {"prompt": "p", "completions": ["a", "b"], "ranks": [1, 1]}
    assert "overlap" in refusal("store", "project", "news", "overlap=0", "--create", "--store", new)
    file = write_rows(tmp_path / "gold.jsonl", tied)
    expected = f"{file}, row 1, field 'ranks': [1, 1] orders nothing; give two different ranks"
    assert refusal("store", "gold", file, "--store", new) == expected
    assert not new.exists()


GOOD = {"prompt": "p", "completions": ["a", "b"], "ranks": [1, 2]}
NAMES = {"": "''", " padded ": "' padded '", "bad\nname": r"'bad\nname'", "\x1b[31m": r"'\x1b[31m'", "‮x": r"'\u202ex'"}


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_name_of_a_batch_or_project_leaves_no_store_behind(tmp_path: Path, name: str) -> None:
    new, file = tmp_path / "folder" / "new.db", write_rows(tmp_path / "rows.jsonl", GOOD)
    most, around = "visible characters without spaces around them, found", f"{NAMES[name]}; change it"
    for command in (("store", "gold"), ("data", "import")):
        said = refusal(*command, file, "--batch", name, "--store", new)
        assert said == f"batch: expected 1 to 200 {most} {around}"
        said = refusal(*command, file, "--batch", "one", "--project", name, "--store", new)
        assert said == f"project: expected 1 to 80 {most} {around}"
    for option in (["--create"], ["overlap=2"], []):
        said = refusal("store", "project", name, *option, "--store", new)
        assert said == f"project: expected 1 to 80 {most} {around}"
    assert not new.parent.exists()


def test_a_project_that_a_new_store_would_lack_leaves_no_store_behind(tmp_path: Path, path: Path) -> None:
    new, file = tmp_path / "folder" / "new.db", write_rows(tmp_path / "rows.jsonl", GOOD)
    for store in (new, f"sqlite:///{new}"):
        for command in (("store", "gold"), ("data", "import")):
            arguments = [file, "--batch", "one", "--project", "nope", "--store", store]
            assert refusal(*command, *arguments) == (
                f"label store {new}: no such file, so there is no project 'nope' in it; "
                "make both with: rlhf store project nope --create"
            )
    said = "project 'default': overlap: Input should be greater than or equal to 1, found 0"
    assert refusal("store", "project", "default", "overlap=0", "--create", "--store", new) == said
    said = "'overlap=2': is a setting; name the project before it: rlhf store project default overlap=2"
    assert refusal("store", "project", "overlap=2", "--create", "--store", new) == said
    assert not new.parent.exists()
    arguments = [file, "--batch", "one", "--project", "nope", "--store", path]
    assert "holds no project 'nope' but default" in refusal("data", "import", *arguments)


def test_a_store_can_begin_with_its_settings(tmp_path: Path) -> None:
    """Before anything is queued, since the overlap is that of the day on which a task is."""
    new = tmp_path / "new.db"
    arguments = ["store", "project", "default", "overlap=2", "--create", "--store", str(new)]
    first = runner.invoke(cli.app, arguments)
    assert (first.exit_code, first.stderr) == (0, "") and "  overlap: 2  #" in first.stdout
    with LabelStore.open(new) as labels:
        labels.add_tasks([NewTask("p", ("a", "b"))], batch="one")
        assert labels.open_places() == {1: 2}
    again = runner.invoke(cli.app, [*arguments[:3], "overlap=3", "--store", str(new)])
    assert again.stderr == "1 of the tasks that wait keep the overlap that they were queued with\n"


def test_a_row_that_the_store_refuses_leaves_no_store_behind(tmp_path: Path) -> None:
    new = tmp_path / "new.db"
    file = write_rows(tmp_path / "rows.jsonl", GOOD, GOOD | {"labeler": "ann\u202e"})
    assert refusal("data", "import", file, "--batch", "one", "--store", new).startswith(
        f"{file}, line 2, field 'labeler': expected 1 to 80 visible characters"
    )
    file = write_rows(tmp_path / "gold.jsonl", GOOD, GOOD | {"prompt": "q"}, GOOD | {"ranks": [2, 1]})
    assert refusal("store", "gold", file, "--store", new) == (
        f"{file}, row 3, field 'ranks': [2, 1] contradicts [1, 2], the answer to the same task in {file}, row 1; "
        "leave one out"
    )
    assert not new.exists()


def test_files_that_cannot_be_read_or_written_are_refused_in_one_line(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "latin.jsonl").write_bytes(b"\xfc\n")
    (tmp_path / "folder.jsonl").mkdir()
    here = ["--store", path]
    into = (["data", "import", "--batch", "one"], ["store", "gold"])
    for command in into:
        assert "expected a file's name, found ''" in refusal(*command, "", *here)
        assert "not UTF-8" in refusal(*command, tmp_path / "latin.jsonl", *here)
        assert "is a folder" in refusal(*command, tmp_path / "folder.jsonl", *here)
        assert "no such file" in refusal(*command, tmp_path / "none.jsonl", *here)
        assert "cannot be read (File name too long)" in refusal(*command, "x" * 5000, *here)
    for command in (["data", "export"], ["store", "backup"]):
        for target in ("", ".", "..", "/", tmp_path):
            assert refusal(*command, target, *here).endswith("is a folder; name a file to write")
        assert "File name too long" in refusal(*command, "x" * 5000, *here)

    def shut(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    file = write_rows(tmp_path / "rows.jsonl", GOOD)
    monkeypatch.setattr(Path, "open", shut)
    for command in into:
        assert refusal(*command, file, *here) == f"{file}: cannot be read (Permission denied); check the path"


def test_the_number_of_events_has_a_limit(path: Path) -> None:
    result = runner.invoke(cli.app, ["store", "events", "--limit", "9" * 20, "--store", str(path)])
    assert result.exit_code == 2 and "100000" in result.stderr and "Traceback" not in result.output


# --- what a terminal would obey


def test_names_are_shown_and_not_obeyed(path: Path, call: Call) -> None:
    """Names of an older store, whose imports nobody checked: no character of theirs may steer the terminal."""
    bad, shown = "eve\x1b]0;x\x07\u202e\nü", r"eve\x1b]0;x\x07\u202e\nü"
    with LabelStore.open(path) as labels:
        labels.add_gold([Ranking("g", ("a", "b"), (1, 2))])
        labels.add_tasks([NewTask("p", ("a", "b"))], batch="one")
        labels.configure({"gold_share": 0.5})
        labels.import_rankings([Ranking("q", ("a", "b"), (1, 2), labeler="old")], batch="old")
        for _ in range(2):
            if labels.claim(labels.labeler("eve")) is not None:
                judge(labels, "eve", "ab")
        with labels._writing() as connection:
            connection.execute(sa.text("UPDATE labelers SET name = :bad WHERE name = 'eve'"), {"bad": bad})
            connection.execute(sa.text("UPDATE tasks SET batch = :bad WHERE batch = 'old'"), {"bad": bad})
            judged = connection.scalar(sa.text("SELECT count(*) FROM judgments j JOIN tasks t ON t.id = task_id "
                                               "WHERE gold IS NOT NULL"))  # fmt: skip
    for command in (["people", "list"], ["store", "events"], ["store", "stats"], *([["store", "gold"]] * bool(judged))):
        said = call(*command)
        assert shown in said and not set("\x1b\x07\u202e") & set(said)
    for command in (["suspend"], ["reinstate"]):
        assert call("people", *command, bad).startswith(f"{shown}: ")
    said = refusal("data", "export", path.parent / "o.jsonl", "--batch", "none", "--store", path)
    assert shown in said


@pytest.mark.parametrize(
    "url",
    [
        "not a url", "rank.example.org", "ftp://rank.example.org", "https://", "http:///x", "javascript:alert(1)",
        "https://a b.org", "https://a.org/\x1b[2J", "http://[::1", "https://a.org:port", "https://a.org/?x=1",
        "https://a.org/#x", "https://a.org:99999",
    ],
)  # fmt: skip
def test_an_invite_to_no_address_is_refused(tmp_path: Path, url: str) -> None:
    new = tmp_path / "new.db"
    said = refusal("people", "invite", "ann", "--url", url, "--store", new)
    assert said == f"--url: expected the page's address, like https://rank.example.org, found {url!r}"
    assert not new.exists()


@pytest.mark.parametrize(
    "words", [("role", "admin"), ("suspend",), ("reinstate",), ("erase", "--yes")], ids=lambda w: w[0]
)
def test_a_name_that_is_no_text_is_refused(path: Path, words: tuple[str, ...]) -> None:
    """What the shell hands over of bytes that are not UTF-8."""
    said = refusal("people", words[0], "\udcff", *words[1:], "--store", path)
    assert said.startswith("name: holds a lone surrogate")


def test_a_store_whose_path_is_too_long_is_refused() -> None:
    for command in (
        ["store", "stats"],
        ["store", "upgrade"],
        ["people", "list"],
        ["people", "invite", "ann"],
        ["label"],
    ):
        said = refusal(*command, "--store", "x" * 5000)
        assert said == f"label store {'x' * 200}…: File name too long; give another path"


def test_inviting_again_keeps_the_role(path: Path, call: Call) -> None:
    call("people", "invite", "ann", "--role", "admin")
    call("people", "invite", "ann", "--url", "http://[::1]:8501/rank/")
    with LabelStore.open(path) as labels:
        assert [p.role for p in labels.people()] == ["admin"]
    call("people", "invite", "ann", "--role", "labeler")
    with LabelStore.open(path) as labels:
        assert [p.role for p in labels.people()] == ["labeler"]


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
    assert [[*row[1:4], *sorted(row[4].split("; "))] for row in found] == [
        ["", "yes", "suspend", '"ann"'],
        ["ann", "", "judge", "revision 1", "task 1 (assignment 1)"],
        ["", "yes", "add person", '"ann"'],
        ["", "yes", "add tasks", "added 1", 'project "default"'],
    ]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", row[0]) for row in found)
    assert [row[3] for row in rows(call("store", "events", "--limit", "1"))] == ["suspend"]


def test_better_answers_are_exported_as_demonstrations(path: Path, call: Call, tmp_path: Path) -> None:
    out = tmp_path / "better.jsonl"
    arguments = ["data", "export", str(out), "--format", "demonstrations", "--store", str(path)]
    assert refusal(*arguments) == f"{path}: nobody has written a better answer yet; labelers may on the ranking page"
    assert not out.exists()
    with LabelStore.open(path) as labels:
        chat = ({"role": "user", "content": "Why?"},)
        labels.add_tasks([NewTask("p", ("a", "b")), NewTask(chat, ("a", "b"), group="g")], batch="one")
        labels.add_tasks([NewTask("q", ("a", "b"))], batch="two")
        for better in ("Better.", "Because.", ""):
            judge(labels, "ann", "ab", better=better)
    assert call("data", "export", str(out), "--format", "demonstrations") == f"{out}: 2 demonstrations from {path}\n"
    assert load_demonstrations(str(out)) == [Demonstration("p", "Better."), Demonstration(chat, "Because.", "g")]
    assert refusal(*arguments, "--batch", "two").startswith(f"{path}: nobody has written a better answer yet")
    assert refusal(*arguments, "--batch", "three") == f"{path}: holds no batch 'three'; its batches: one, two"


def test_own_completions_are_queued_from_a_file(tmp_path: Path) -> None:
    store, file = str(tmp_path / "labels.db"), tmp_path / "answers.jsonl"
    good = {"prompt": "Say hi.", "completions": ["hi", "yo"], "sources": ["a", "b"], "priority": 2}
    chat = {"prompt": [{"role": "user", "content": "Why?"}], "completions": ["because", "why not", "so"]}
    file.write_text("".join(json.dumps(row) + "\n" for row in (chat, good)), encoding="utf-8")
    done = runner.invoke(cli.app, ["store", "tasks", str(file), "--batch", "own", "--store", store])
    assert (done.exit_code, done.stdout) == (0, f"{store}: 2 new tasks of 2 in batch 'own'\n")
    with LabelStore.open(store) as labels:
        first = labels.claim(labels.labeler("ann"))
        assert first is not None and first.prompt == "Say hi."  # of higher priority


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p"}, "line 2: field 'completions' is missing"),
        ({"prompt": "p", "completions": "ab"}, "line 2, field 'completions': expected a list of texts"),
        ({"prompt": "p", "completions": ["a", 1]}, "line 2, field 'completions': expected a list of texts"),
        ({"prompt": "p", "completions": ["a"]}, "line 2, field 'completions': expected 2 to 9 texts, found 1"),
        ({"prompt": "p", "completions": ["a", "b\x00"]}, "line 2, field 'completions'[1]: holds a NUL"),
        ({"prompt": "p", "completions": ["a", "b"], "sources": ["x"]}, "line 2, field 'sources': found 1 for 2"),
        ({"prompt": "p", "completions": ["a", "b"], "priority": "high"}, "line 2, field 'priority': expected a whole"),
        ({"prompt": "p", "completions": ["a", "b"], "group": 3}, "line 2"),
    ],
)
def test_a_task_that_nobody_could_rank_is_refused_with_its_line(tmp_path: Path, row: Any, message: str) -> None:
    store, file = tmp_path / "labels.db", tmp_path / "answers.jsonl"
    rows = ({"prompt": "p", "completions": ["a", "b"]}, row)
    file.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    done = runner.invoke(cli.app, ["store", "tasks", str(file), "--batch", "own", "--store", str(store)])
    assert done.exit_code == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not store.exists()
