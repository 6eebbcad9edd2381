"""What the ranking sheet may send, and what it may not. What is then done: test_labeling_app_events.py."""

from __future__ import annotations

from typing import Any

import pytest

from labeling_app.actions import told
from labeling_app.events import Alive, Leave, Reopen, SheetNote, Skip, Submit, parse_event
from rlhf.errors import StoreError
from rlhf.preferences import Note

ONE = "11111111-aaaa"  # a submit_id
SUBMIT: dict[str, Any] = {
    "do": "submit", "task": "5-2", "submit_id": ONE, "guidelines": 0, "ranks": {"0": 1, "1": None},
    "strength": None,
    "notes": {"0": {"quality": 7, "flags": ["Not true", "Not true"], "comment": " n "}}, "comment": " c ",
    "better": "\nb ", "active_seconds": 2.5,
}  # fmt: skip
SKIP: dict[str, Any] = {
    "do": "skip", "task": "5-2", "submit_id": ONE, "guidelines": 0, "reason": "Something else", "active_seconds": 1,
}  # fmt: skip


def test_every_event_is_read() -> None:
    notes = {"0": SheetNote(quality=7, flags=["Not true", "Not true"], comment=" n ")}
    assert parse_event(SUBMIT) == Submit(**{**SUBMIT, "notes": notes})
    assert parse_event(SKIP) == Skip(**SKIP)
    assert parse_event({"do": "reopen"}) == Reopen(do="reopen")
    assert parse_event({"do": "leave", "task": "5-2"}) == Leave(do="leave", task="5-2")
    assert parse_event({"do": "alive", "task": "5-2"}) == Alive(do="alive", task="5-2")


def test_a_submit_is_handed_on_in_the_stores_words() -> None:
    event = parse_event(SUBMIT)
    assert isinstance(event, Submit) and (event.assignment_id, event.revision) == (5, 2)
    assert event.said([11, 12]) == {
        "ranks": {11: 1, 12: None},
        "strength": None,
        "notes": {11: Note(7, ("Not true",), "n")},
        "comment": "c",
        "better": "b",
        "submit_id": ONE,
        "active_seconds": 2.5,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"do": "drop table"}, {"do": None}, {"do": ["submit"]}, {"task": ""}, {"task": "5"}, {"task": 5},
        {"task": "5-2-1"}, {"task": "-5-2"}, {"task": "5-2\n"}, {"task": "٥-٢"}, {"task": "9" * 19 + "-1"},
        {"task": "5-" + "9" * 10}, {"submit_id": ""}, {"submit_id": "short"}, {"submit_id": "x" * 101},
        {"submit_id": 12345678}, {"ranks": []}, {"ranks": None}, {"ranks": {"0": "1"}}, {"ranks": {"0": 1.5}},
        {"ranks": {"0": True}}, {"ranks": {"0": 0}}, {"ranks": {"0": -1}}, {"ranks": {"0": 10}},
        {"ranks": {"0": 10**4000}}, {"ranks": {"x": 1}}, {"ranks": {"": 1}}, {"ranks": {"9": 1}},
        {"ranks": {"00": 1}}, {"ranks": {"11": 1}},
        {"ranks": {"0\n": 1}},
        {"notes": {"9": {}}}, {"guidelines": -1}, {"guidelines": None}, {"guidelines": "1"}, {"guidelines": 10**10},
        {"strength": "1"}, {"strength": 4}, {"strength": -1}, {"strength": 10**30}, {"strength": False},
        {"notes": {"0": None}}, {"notes": {"0": {"quality": "7"}}}, {"notes": {"0": {"quality": 8}}},
        {"notes": {"0": {"quality": 0}}}, {"notes": {"0": {"flags": "Not true"}}}, {"notes": {"0": {"more": 1}}},
        {"notes": {"0": {"flags": ["x" * 81]}}}, {"notes": {"0": {"flags": ["x"] * 10}}}, {"comment": None},
        {"comment": 5}, {"better": ["b"]}, {"active_seconds": "2"}, {"active_seconds": -1},
        {"active_seconds": float("nan")}, {"active_seconds": float("inf")}, {"active_seconds": 1e9}, {"extra": 1},
    ],
    ids=lambda change: repr(change)[:60],
)  # fmt: skip
def test_an_event_that_no_sheet_sends_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="the page sent something that cannot be read"):
        parse_event({**SUBMIT, **change})


@pytest.mark.parametrize("name", ["do", "task", "submit_id", "ranks", "guidelines"])
def test_an_event_that_lacks_something_is_refused(name: str) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        parse_event({key: value for key, value in SUBMIT.items() if key != name})


def test_a_refusal_is_short_and_names_no_completion() -> None:
    assert len(told(StoreError("x" * 2_000_000))) < 300
    assert told(StoreError("notes: completion 17: comment: too long")) == "notes: an answer: comment: too long"
    assert told(StoreError("notes: of completions [3, 17]")) == "notes: of an answer"
