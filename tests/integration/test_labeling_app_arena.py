"""The arena page without a browser: what admins see of the votes, and that nobody else sees anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app_harness import Page, opener, served_store, well
from streamlit.testing.v1 import AppTest

from labeling_app.views.arena import page as arena
from rlhf.data.records import Ranking
from rlhf.preferences import LabelStore, NewTask

HOSTILE = "![x](http://127.0.0.1:9/beacon.png) :rainbow[hi] $x$"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LabelStore]:
    with served_store(tmp_path, monkeypatch) as store:
        yield store


@pytest.fixture
def page(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> Page:
    return opener(store, monkeypatch, "arena")


def texts(test: AppTest) -> str:
    """Everything that is said, save what tables and charts hold."""
    kinds: list[Any] = [test.text, test.markdown, test.caption, test.title, test.subheader]
    return "\n".join(str(e.value) for kind in kinds for e in kind)


def table(test: AppTest) -> list[dict[str, Any]]:
    (found,) = test.dataframe
    return [{str(k): v for k, v in row.items()} for row in found.value.to_dict("records")]


def charts(test: AppTest) -> int:
    return sum(element.type in ("arrow_vega_lite_chart", "vega_lite_chart") for element in test.main)


def duel(store: LabelStore, batch: str, number: int, sources: tuple[str, ...] = ("ours", "theirs")) -> None:
    tasks = [NewTask(f"{batch} {i}", tuple(f"{s} text {i}" for s in sources), sources) for i in range(number)]
    store.add_tasks(tasks, batch=batch)


def vote(store: LabelStore, name: str, order: tuple[str, ...], most: int = 100) -> None:
    """Let this person rank up to `most` tasks, best first as `order` says."""
    by_id = {c.id: c.source for task in store.waiting() for c in task.completions}
    person = store.labeler(name)
    for _ in range(most):
        task = store.claim(person)
        if task is None:
            return
        ranks = {c.id: 1 + order.index(by_id[c.id]) for c in task.completions}
        store.submit(task, ranks, submit_id=f"{name}-{task.id}")


def test_nobody_but_an_admin_sees_it(store: LabelStore, page: Page) -> None:
    duel(store, "duel", 12)
    vote(store, "ann", ("ours", "theirs"))
    for role in ("labeler", "reviewer"):
        test = page(role)
        assert not test.dataframe and charts(test) == 0 and not test.selectbox
        assert "Arena" not in texts(test)
        assert "ours" not in str(test.main) and "theirs" not in str(test.main)
    assert "Arena" in texts(page("admin"))


def test_before_the_first_vote_it_says_what_to_do(store: LabelStore, page: Page) -> None:
    duel(store, "duel", 3)
    test = page()
    assert "No votes yet on completions from two sources." in texts(test)
    assert "rlhf arena add" in texts(test)
    assert not test.dataframe and not test.selectbox
    vote(store, "ann", ("ours", "theirs"), most=1)
    assert len(table(well(test.run()))) == 2


def test_the_standings_are_those_of_the_votes(store: LabelStore, page: Page) -> None:
    duel(store, "duel", 12)
    vote(store, "ann", ("theirs", "ours"), most=11)
    test = page()
    rows = table(test)
    assert [(row["Place"], row["Who"], row["Won"], row["Pairs"]) for row in rows] == [
        ("1", "theirs", "100 % [77, 100]", 11),
        ("2", "ours", "0 % [0, 23]", 11),
    ]
    assert "11 of 12 tasks have all their votes." in texts(test)
    assert "11 comparisons from 11 rankings of 11 tasks." in texts(test)
    assert "Who beats whom" not in texts(test)  # of two, the table says it all
    assert charts(test) == 1
    vote(store, "ann", ("ours", "theirs"))
    rows = table(well(test.run()))
    assert [row["Won"].split()[0] for row in rows] == ["92", "8"]
    assert "12 of 12 tasks have all their votes." in texts(test)


def test_one_batch_is_shown_at_a_time(store: LabelStore, page: Page) -> None:
    duel(store, "old", 2)
    vote(store, "ann", ("ours", "theirs"))
    store.add_tasks([NewTask("q", ("x", "y"))], batch="no arena")
    duel(store, "new", 2, ("one", "two", "three"))
    vote(store, "bob", ("three", "two", "one", "ours", "theirs", ""))
    test = page()
    (choice,) = test.selectbox
    assert (choice.options, choice.value) == (["old", "new"], "new")
    assert [row["Who"] for row in table(test)] == ["three", "two", "one"]
    assert "Who beats whom" in texts(test) and charts(test) == 2
    rows = table(well(choice.set_value("old").run()))
    assert [(row["Who"], row["Pairs"]) for row in rows] == [("ours", 2), ("theirs", 2)]


def test_contestants_names_are_nothing_but_text(store: LabelStore, page: Page) -> None:
    """An imported ranking's file may have said anything of who wrote what."""
    meta = {"sources": [HOSTILE, "plain\u202ename", "third\nline"]}
    store.import_rankings([Ranking("p", ("x", "y", "z"), (1, 2, 3), "ann", meta=meta)], batch=HOSTILE)
    test = page()
    names = [row["Who"] for row in table(test)]
    assert names[0] == HOSTILE and "\u202e" not in names[1] and "202e" in names[1].lower()
    assert test.selectbox[0].options == [HOSTILE]
    markdown: list[Any] = [*test.markdown, *test.caption, *test.title, *test.subheader]
    assert not any("beacon" in str(e.value) for e in markdown)


def test_votes_that_do_not_count_are_left_out(store: LabelStore, page: Page) -> None:
    duel(store, "duel", 2)
    vote(store, "ann", ("ours", "theirs"), most=1)
    vote(store, "bot", ("theirs", "ours"), most=1)
    store.exclude("bot", "clicks through")
    rows = table(page())
    assert [(row["Who"], row["Pairs"]) for row in rows] == [("ours", 1), ("theirs", 1)]


def test_nothing_is_computed_again_until_something_happens(
    store: LabelStore, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    duel(store, "duel", 3)
    vote(store, "ann", ("ours", "theirs"), most=1)
    asked: list[str] = []
    judged = LabelStore.judged
    monkeypatch.setattr(LabelStore, "judged", lambda *a, **k: (asked.append("judged"), judged(*a, **k))[1])
    test = page()
    before = len(asked)
    assert before > 0
    for _ in range(3):
        well(test.run())
    assert len(asked) == before
    vote(store, "ann", ("ours", "theirs"), most=1)
    well(test.run())
    assert len(asked) > before and table(test)[0]["Pairs"] == 2


def test_who_is_no_admin_any_more_sees_no_more(store: LabelStore, page: Page) -> None:
    duel(store, "duel", 3)
    vote(store, "ann", ("ours", "theirs"))
    test = page()
    assert test.dataframe
    store.invite("another admin", "admin")  # a project keeps one
    store.set_role("one admin", "reviewer")
    well(test.run())
    assert not test.dataframe and "ours" not in str(test.main)


def test_the_part_that_refreshes_itself_asks_who_is_there(store: LabelStore, page: Page) -> None:
    """Streamlit draws a fragment anew without the page around it, so without the page's own check of the role."""
    page("reviewer")
    person = store.labeler("one reviewer")
    drawn: list[str] = []

    class Rerun(Exception):
        pass

    def rerun() -> None:
        raise Rerun

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arena.st, "fragment", lambda function, **_: function)
        patch.setattr(arena.st, "rerun", rerun)
        with pytest.raises(Rerun):
            arena._live(lambda *_: drawn.append("standings"))(store, person)
    assert drawn == []
