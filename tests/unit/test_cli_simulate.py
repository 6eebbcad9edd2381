"""`rlhf label --simulate`: what it prints and leaves in the store, and what it refuses in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlhf import cli
from rlhf.data.records import Ranking
from rlhf.preferences import LabelStore, NewTask

runner = CliRunner()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with ten tasks for two people each."""
    with LabelStore.open(tmp_path / "labels.db", create=True) as store:
        new = [NewTask(f"prompt {i}", (f"one {i}", f"another one {i}")) for i in range(10)]
        store.add_tasks(new, batch="b", overlap=2)
    return tmp_path / "labels.db"


def call(path: Path, *arguments: str) -> str:
    """What `rlhf label` prints, once it went well."""
    result = runner.invoke(cli.app, ["label", "--store", str(path), *arguments], env={"COLUMNS": "200"})
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def refusal(path: Path, *arguments: str) -> str:
    """What it is refused with: one line on stderr, and nothing done."""
    before = _said(path)
    result = runner.invoke(cli.app, ["label", "--store", str(path), *arguments])
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr.startswith("rlhf: error: ") and result.stderr.count("\n") == 1
    assert _said(path) == before
    return result.stderr.removeprefix("rlhf: error: ").rstrip("\n")


def _said(path: Path) -> tuple[int, list[str]]:
    with LabelStore.open(path) as store:
        return len(store.judged()), [person.name for person in store.people()]


def cells(printed: str) -> list[list[str]]:
    return [[c.strip() for c in line.strip("│").split("│")] for line in printed.splitlines() if line[:1] == "│"]


def test_they_rank_until_nothing_is_left(path: Path) -> None:
    printed = call(path, "--simulate", "hasty=2,spammer=1")
    with LabelStore.open(path) as store:
        said = [j for j in store.judged() if j.ranks]
        assert store.counts().waiting == 0 and len(said) == 20
        names = {"sim-hasty-1", "sim-hasty-2", "sim-spammer-1"}
        assert {j.labeler for j in said} == names
        mine = {name: sum(j.labeler == name for j in said) for name in names}
    found = cells(printed)
    assert {row[0]: int(row[1]) for row in found} == mine
    assert [row[0] for row in found] == sorted(names)
    assert "20 rankings by 3 simulated people; 0 tasks still want somebody." in printed
    assert printed.endswith("made up from the texts by a hash: to try things out, not to train on.\n")


def test_so_many_tasks_each_and_again_with_the_same_people(path: Path) -> None:
    for total in (4, 8):
        assert "4 rankings by 2 simulated people" in call(path, "--simulate", " hasty=2 ", "--tasks", "2")
        assert _said(path) == (total, ["sim-hasty-1", "sim-hasty-2"])


def test_a_truth_of_ones_own(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lies in the current folder, as judges may. Shorter is better here, and the careful see it."""
    (tmp_path / "my_truth_file.py").write_text("def short(prompts, texts):\n    return [-len(t) for t in texts]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_truth_file", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    printed = call(path, "--simulate", "careful=2", "--truth", "my_truth_file:short")
    assert "hash" not in printed
    with LabelStore.open(path) as store:
        rankings = store.rankings()
    assert len(rankings) > 10
    assert sum(r.ranks == (1, 2) for r in rankings) / len(rankings) > 0.85


def test_a_truth_of_numbers_too_large(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_huge_file.py").write_text("def huge(prompts, texts):\n    return [1e308, -1e308][: len(texts)]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert refusal(path, "--simulate", "careful=1", "--truth", "my_huge_file:huge") == (
        "truth 'my_huge_file:huge' returned 1e+308 for the completion 'one 0'; "
        "expected a number from -1e+100 to 1e+100, so scale its scores down"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--simulate", "carefull=1"], "there is no kind 'carefull' of simulated labeler; there are: careful, noisy,"),
        (["--simulate", "careful=0"], "careful: expected 1 to 1000 people, found 0"),
        (["--simulate", "careful"], "--simulate: expected KIND=N as careful=3, found 'careful'"),
        (["--simulate", "careful=-1"], "--simulate: expected KIND=N as careful=3, found 'careful=-1'"),
        (["--simulate", "careful=1,"], "--simulate: expected KIND=N as careful=3, found ''"),
        (["--simulate", ""], "--simulate: expected KIND=N as careful=3, found ''"),
        (["--simulate", "careful=²"], "--simulate: expected KIND=N as careful=3, found 'careful=²'"),
        (["--simulate", "careful=1,careful=2"], "--simulate: careful is there twice; give it one number"),
        (
            ["--simulate", "noisy=1", "--truth", "math"],
            "--truth 'math': expected module:function, as my_judges:quality",
        ),
        (["--simulate", "noisy=1", "--truth", "math:"], "--truth 'math:': expected module:function"),
        (["--simulate", "noisy=1", "--truth", "math:no"], "truth 'math:no': module 'math' has no 'no'"),
        (
            ["--simulate", "noisy=1", "--truth", "no.such:x"],
            "truth 'no.such:x': module 'no.such' cannot be imported (Mod",
        ),
        (["--simulate", "noisy=1", "--truth", "math:pi"], "truth 'math:pi': is a float, not a function"),
        (["--simulate", "noisy=1", "--truth", "math:sqrt"], "truth 'math:sqrt' raised TypeError: "),
        (["--truth", "math:sqrt"], "--truth: says how --simulate works; give that too, or leave this out"),
        (["--tasks", "3"], "--tasks: says how --simulate works"),
        (["--seed", "3"], "--seed: says how --simulate works"),
        (["--among-people"], "--among-people: says how --simulate works"),
        (["--simulate", "noisy=1", "--host", "127.0.0.1"], "--host: is for serving the page, and --simulate serves"),
        (["--simulate", "noisy=1", "--port", "80"], "--port: is for serving the page"),
        (["--simulate", "noisy=1", "--open"], "--open: is for serving the page"),
        (["--simulate", "noisy=1", "--allowed-host", "x"], "--allowed-host: is for serving the page"),
        (
            ["--simulate", "noisy=1", "--project", "no"],
            "label store {}: holds no project 'no' but default; make it with",
        ),
    ],
)
def test_what_it_refuses(path: Path, arguments: list[str], message: str) -> None:
    assert refusal(path, *arguments).startswith(message.format(path))


def test_nothing_waits(path: Path) -> None:
    call(path, "--simulate", "hasty=2")
    assert refusal(path, "--simulate", "noisy=1") == (
        f"{path}: nothing waits to be ranked in project 'default'; queue tasks first"
    )


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    result = runner.invoke(cli.app, ["label", "--store", str(tmp_path / "no.db"), "--simulate", "careful=1"])
    assert result.exit_code == 2 and "no.db: no such file" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_not_among_people_unless_asked(path: Path) -> None:
    """What simulated people said could never be taken out of the real ones' project again."""
    with LabelStore.open(path) as store:
        store.import_rankings([Ranking("p", ("a", "b"), (1, 2), labeler=name) for name in "dcba"], batch="file")
    assert refusal(path, "--simulate", "careful=1") == (
        f"{path}: project 'default' holds rankings by people (4: a, b, c, …), and simulated ones could never be taken "
        "out again; give them a project of their own (rlhf store project NAME --create) or say --among-people"
    )
    assert "1 ranking by 1 simulated person; 10 tasks still want somebody." in call(
        path, "--simulate", "hasty=1", "--tasks", "1", "--among-people"
    )
    assert "sim-hasty-1" in _said(path)[1]


def test_a_project_of_their_own(path: Path) -> None:
    with LabelStore.open(path) as store:
        store.import_rankings([Ranking("p", ("a", "b"), (1, 2), labeler="ann")], batch="file")
        store.create_project("trial")
    with LabelStore.open(path, project="trial") as store:
        store.add_tasks([NewTask("p", ("a", "b")), NewTask("q", ("a", "b"))], batch="b")
    printed = call(path, "--simulate", "hasty=1", "--project", "trial")
    assert "project trial" in printed and "2 rankings by 1 simulated person; 0 tasks still want somebody." in printed
    with LabelStore.open(path) as store:
        assert [r.labeler for r in store.rankings()] == ["ann"]
