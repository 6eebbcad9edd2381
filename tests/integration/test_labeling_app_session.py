"""The page's logic without a page: drafts, orders in words, ranks, time at work, the launcher's settings."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from labeling_app import launch, session
from labeling_app.session import ActiveClock, Draft
from rlhf.errors import ConfigError, StoreError
from rlhf.preferences import Assignment, Labeler, LabelStore, Said, ShownCompletion

ASSIGNMENT = Assignment(
    id=1,
    task_id=2,
    labeler=Labeler(3, "ann"),
    prompt="p",
    completions=(
        ShownCompletion(12, "b"),
        ShownCompletion(11, "a"),
        ShownCompletion(14, "d"),
        ShownCompletion(13, "c"),
    ),
)


def test_cards_are_lettered() -> None:
    assert [session.letter(i) for i in (0, 1, 8, 25, 26, 27)] == ["A", "B", "I", "Z", "AA", "AB"]


@pytest.mark.parametrize(
    ("choices", "ranks"),
    [
        ({1: 1, 2: 2, 3: 2, 4: 4}, {1: 1, 2: 2, 3: 2, 4: 4}),
        ({1: 1, 2: 2, 3: 2, 4: 3}, {1: 1, 2: 2, 3: 2, 4: 4}),
        ({1: 9, 2: 2, 3: 5, 4: 5}, {1: 4, 2: 1, 3: 2, 4: 2}),
        ({1: 3, 2: 3}, {1: 1, 2: 1}),
    ],
)
def test_numbers_become_standard_ranks_of_the_same_order(choices: dict[int, int], ranks: dict[int, int]) -> None:
    assert session.standard_ranks(choices) == ranks


def test_a_draft_goes_by_completion_and_not_by_place_on_screen() -> None:
    draft = Draft.of(ASSIGNMENT, now=0.0)
    assert draft.missing() == ["A", "B", "C", "D"] and draft.words() == ""
    draft.choose(11, 1)
    draft.choose(14, 2)
    draft.choose(12, 2)
    assert draft.missing() == ["D"]
    assert draft.words() == "B first, then A and C (tied)"
    draft.choose(13, 4)
    assert draft.words() == "B first, then A and C (tied), then D"
    assert draft.ranks() == {11: 1, 14: 2, 12: 2, 13: 4}
    draft.choose(13, None)
    assert draft.missing() == ["D"]


def test_all_tied_is_said_so_and_only_when_all_are() -> None:
    assert session.in_words((1, 2, 3), {1: 2, 2: 2, 3: 2}) == "A, B and C are all tied"
    assert session.in_words((1, 2, 3), {1: 2, 2: 2}) == "A and B (tied) first"


def test_a_reopened_assignment_starts_with_what_was_said() -> None:
    again = Assignment(
        **{**vars(ASSIGNMENT), "reopened": True, "before": Said({11: 1, 12: 2, 13: None, 14: 2}, comment="hm")}
    )
    draft = Draft.of(again, now=0.0)
    assert draft.choices == {11: 1, 12: 2, 14: 2} and draft.comment == "hm"


def test_every_draft_has_a_submit_id_of_its_own() -> None:
    assert Draft.of(ASSIGNMENT, 0.0).submit_id != Draft.of(ASSIGNMENT, 0.0).submit_id


def test_breaks_are_not_work() -> None:
    clock = ActiveClock(last=100.0)
    assert clock.tick(110.0) == 10.0
    assert clock.tick(4000.0) == 70.0  # over an hour away counts as one minute
    assert clock.tick(4005.5) == 75.5


def test_small_words() -> None:
    assert session.counted(1, "task") == "1 task" and session.counted(0, "task") == "0 tasks"
    assert session.listed(["A"]) == "A" and session.listed(["A", "B", "C"]) == "A, B and C"
    assert session.share(0, 0) == 0.0 and session.share(3, 1) == 0.75


def test_old_drafts_are_dropped() -> None:
    drafts = {"1-False": Draft.of(ASSIGNMENT, 0.0), "2-False": Draft.of(ASSIGNMENT, 0.0)}
    session.keep_only(drafts, ["2-False", "3-False"])
    assert list(drafts) == ["2-False"]


def test_the_server_is_started_closed() -> None:
    words = launch.command("127.0.0.1", 8123, open_browser=False)
    assert words[:4] == [sys.executable, "-m", "streamlit", "run"]
    for option in (
        "--server.address=127.0.0.1",
        "--server.port=8123",
        "--server.headless=true",
        "--server.enableCORS=true",
        "--server.enableXsrfProtection=true",
        "--server.allowedHosts=127.0.0.1",
        "--server.allowedHosts=localhost",
        "--client.showErrorDetails=none",
        "--browser.gatherUsageStats=false",
    ):
        assert option in words
    assert launch.environment("labels.db")["RLHF_STORE"] == "labels.db"


def test_every_setting_is_one_that_streamlit_knows() -> None:
    from streamlit import config

    known = set(config.get_config_options(force_reparse=False))
    assert set(launch.SETTINGS) <= known


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_an_address_that_others_reach_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="signing in by name alone is for this machine"):
        launch.launch("labels.db", host=host)


def test_a_port_that_is_taken_is_refused_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port: {port} cannot be used"):
            launch.launch("labels.db", port=port)
    with pytest.raises(ConfigError, match="port: expected 1 to 65535, found 70000"):
        launch.launch("labels.db", port=70000)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def store(tmp_path: Path) -> str:
    LabelStore.open(tmp_path / "labels.db", create=True).close()
    return str(tmp_path / "labels.db")


@pytest.mark.parametrize(("ending", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)])
def test_the_launcher_waits_for_the_server_and_gives_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, store: str, ending: str, code: int
) -> None:
    program = f"import os, sys\nassert os.environ['RLHF_STORE'] == {store!r}\n{ending}"
    monkeypatch.setattr(launch, "command", lambda *_: [sys.executable, "-c", program])
    assert launch.launch(store, port=free_port()) == code


def test_a_store_that_cannot_be_opened_is_refused_before_anything_is_served(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "command", lambda *_: pytest.fail("the server was started"))
    with pytest.raises(StoreError, match=r"none\.db: no such file"):
        launch.launch(str(tmp_path / "none.db"), port=free_port())
    sqlite3.connect(tmp_path / "foreign.db").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(StoreError, match=r"foreign\.db: this database holds no label store"):
        launch.launch(str(tmp_path / "foreign.db"), port=free_port())
    assert capsys.readouterr().out == ""


def test_a_sigterm_to_the_launcher_stops_the_server(store: str) -> None:
    server = "import time; print('up', flush=True); time.sleep(60)"
    program = (
        "import sys\nfrom labeling_app import launch\n"
        f"launch.command = lambda *_: [sys.executable, '-c', {server!r}]\n"
        f"sys.exit(launch.launch({store!r}, port={free_port()}))"
    )
    launcher = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    assert launcher.stdout.readline().startswith("The labeling page is at ")
    assert launcher.stdout.readline() == "up\n"
    launcher.terminate()
    rest = launcher.communicate(timeout=30)[0]  # ends once nobody holds the pipe: neither launcher nor server
    assert (rest, launcher.returncode) == ("", 128 + 15)


def test_the_launcher_needs_neither_torch_nor_streamlit() -> None:
    code = "import sys, labeling_app.launch; sys.exit('torch' in sys.modules or 'streamlit' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
