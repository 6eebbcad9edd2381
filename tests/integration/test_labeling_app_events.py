"""What the ranking sheet sends, checked and done; and what it is given to show. No browser: a real store behind it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import streamlit as st

from labeling_app.events import Alive, Leave, Reopen, SheetNote, Skip, Submit, parse_event
from labeling_app.views import rank
from rlhf.errors import StoreError
from rlhf.preferences import Assignment, Labeler, LabelStore, NewTask, Note
from rlhf.preferences.schema import assignments

UNREADABLE = "The page sent something that cannot be read; reload it and try again."
ONE, TWO = "11111111-aaaa", "22222222-bbbb"  # submit_ids
SUBMIT = {
    "do": "submit", "task": "5-2", "submit_id": ONE, "ranks": {"11": 1, "12": None}, "strength": None,
    "notes": {"11": {"quality": 7, "flags": ["Not true", "Not true"], "comment": " n "}}, "comment": " c ",
    "better": "\nb ", "active_seconds": 2.5,
}  # fmt: skip
SKIP = {"do": "skip", "task": "5-2", "submit_id": ONE, "reason": "Something else", "active_seconds": 1}

Send = Callable[..., dict[str, Any]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LabelStore]:
    with LabelStore.open(tmp_path / "labels.db", create=True) as store:
        yield store


@pytest.fixture
def ann(store: LabelStore) -> Labeler:
    return store.labeler("ann")


@pytest.fixture
def send(store: LabelStore, ann: Labeler, monkeypatch: pytest.MonkeyPatch) -> Send:
    """Sends an event as ann's sheet would; the answer that the sheet is given."""
    session: dict[str, Any] = {}
    monkeypatch.setattr(st, "session_state", session)

    def event(do: str, of: Assignment | None = None, **more: Any) -> dict[str, Any]:
        task = {} if of is None else {"task": f"{of.id}-{of.revision}"}
        rank.receive(store, ann, {"do": do, **task, **more})
        return {key: value for key, value in session["answer"].items() if key != "at"}

    return event


def claim(store: LabelStore, labeler: Labeler) -> Assignment:
    found = store.claim(labeler)
    assert found is not None
    return found


def order(of: Assignment, *ranks: int | None) -> dict[str, int | None]:
    return {str(c.id): r for c, r in zip(of.completions, ranks, strict=True)}


def refused(answer: dict[str, Any]) -> str:
    """The refusal, once it is one calm sentence."""
    message: str = answer["message"]
    assert answer["ok"] is False
    assert message[0].isupper() and message.endswith(".") and "\n" not in message and len(message) < 300
    return message


# --- reading -----------------------------------------------------------------------------------------------------


def test_every_event_is_read() -> None:
    notes = {"11": SheetNote(quality=7, flags=["Not true", "Not true"], comment=" n ")}
    assert parse_event(SUBMIT) == Submit(**{**SUBMIT, "notes": notes})
    assert parse_event(SKIP) == Skip(**SKIP)
    assert parse_event({"do": "reopen"}) == Reopen(do="reopen")
    assert parse_event({"do": "leave", "task": "5-2"}) == Leave(do="leave", task="5-2")
    assert parse_event({"do": "alive", "task": "5-2"}) == Alive(do="alive", task="5-2")


def test_a_submit_is_handed_on_in_the_stores_words() -> None:
    event = parse_event(SUBMIT)
    assert isinstance(event, Submit) and (event.assignment_id, event.revision) == (5, 2)
    assert event.said() == {
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
        {"submit_id": 12345678}, {"ranks": []}, {"ranks": None}, {"ranks": {"11": "1"}}, {"ranks": {"11": 1.5}},
        {"ranks": {"11": True}}, {"ranks": {"11": 0}}, {"ranks": {"11": -1}}, {"ranks": {"11": 10}},
        {"ranks": {"11": 10**4000}}, {"ranks": {"x": 1}}, {"ranks": {"": 1}}, {"ranks": {"9" * 19: 1}},
        {"strength": "1"}, {"strength": 4}, {"strength": -1}, {"strength": 10**30}, {"strength": False},
        {"notes": {"11": None}}, {"notes": {"11": {"quality": "7"}}}, {"notes": {"11": {"quality": 8}}},
        {"notes": {"11": {"quality": 0}}}, {"notes": {"11": {"flags": "Not true"}}}, {"notes": {"11": {"more": 1}}},
        {"notes": {"11": {"flags": ["x" * 81]}}}, {"notes": {"11": {"flags": ["x"] * 10}}}, {"comment": None},
        {"comment": 5}, {"better": ["b"]}, {"active_seconds": "2"}, {"active_seconds": -1},
        {"active_seconds": float("nan")}, {"active_seconds": float("inf")}, {"active_seconds": 1e9}, {"extra": 1},
    ],
    ids=lambda change: repr(change)[:60],
)  # fmt: skip
def test_an_event_that_no_sheet_sends_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="the page sent something that cannot be read"):
        parse_event({**SUBMIT, **change})


@pytest.mark.parametrize("name", ["do", "task", "submit_id", "ranks"])
def test_an_event_that_lacks_something_is_refused(name: str) -> None:
    with pytest.raises(StoreError, match="cannot be read"):
        parse_event({key: value for key, value in SUBMIT.items() if key != name})


@pytest.mark.parametrize(
    "raw",
    [
        {}, [], "submit", 5, [["do", "reopen"], 1], {"do": "reopen", "task": "5-2"}, {"do": "alive"},
        {"do": "leave", "task": "5-2", "submit_id": ONE}, {**SKIP, "reason": ""}, {**SKIP, "reason": None},
        {key: value for key, value in SKIP.items() if key != "reason"}, {1: 2},
    ],
    ids=lambda raw: repr(raw)[:60],
)  # fmt: skip
def test_whatever_else_comes_is_refused_in_one_sentence(store: LabelStore, send: Send, ann: Labeler, raw: Any) -> None:
    rank.receive(store, ann, None)  # nothing was sent
    assert "answer" not in st.session_state
    rank.receive(store, ann, raw)
    assert refused(st.session_state["answer"]) == UNREADABLE
    assert store.events()[:1] == []


# --- doing -------------------------------------------------------------------------------------------------------


def test_a_submit_counts_and_sent_again_it_changes_nothing(store: LabelStore, send: Send, ann: Labeler) -> None:
    store.add_tasks([NewTask("p", ("a", "b", "c"))], batch="one")
    task = claim(store, ann)
    first, _, last = task.completions
    said = {
        "ranks": order(task, 2, 1, 2), "comment": " why ", "better": "mine", "active_seconds": 4,
        "notes": {str(first.id): {"quality": 2, "flags": ["Not true"], "comment": "no"}},
    }  # fmt: skip
    done = {"submit_id": ONE, "ok": True, "message": ""}
    assert send("submit", task, submit_id=ONE, **said) == done
    (past,) = store.history(ann)
    assert [past.said.ranks[c.id] for c in task.completions] == [2, 1, 2] and last.id in past.said.ranks
    assert past.said.notes == {first.id: Note(2, ("Not true",), "no")}
    assert (past.said.comment, past.said.better, past.revision) == ("why", "mine", 1)
    assert send("submit", task, submit_id=ONE, **said) == done
    earlier = "This one was saved before you changed it. To save the change too, correct your last one."
    assert send("submit", task, submit_id=ONE, ranks=order(task, 1, 2, 3)) == {**done, "message": earlier}
    assert store.history(ann) == [past] and store.counts().judgments == 1


def test_every_answer_is_another_one(store: LabelStore, send: Send) -> None:
    """Else the sheet, which is told of what changed only, would wait for the answer to what it sent a second time."""
    seen = []
    for _ in range(3):
        send("reopen")
        seen.append(dict(st.session_state["answer"]))
    assert seen[0] != seen[1] != seen[2] != seen[0]


def test_a_strength_reaches_the_store(store: LabelStore, send: Send, ann: Labeler) -> None:
    store.configure({"strength": True})
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    task = claim(store, ann)
    assert "Strength: expected" in refused(send("submit", task, submit_id=ONE, ranks=order(task, 1, 2), strength=0))
    assert send("submit", task, submit_id=ONE, ranks=order(task, 2, 1), strength=3)["ok"] is True
    assert store.rankings()[0].meta["strength"] == 3


def test_a_task_of_somebody_else_is_refused_whatever_is_asked(store: LabelStore, send: Send) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    theirs = claim(store, store.labeler("bob"))
    before = store.events()
    sent = {"submit_id": ONE}
    for answer in (
        send("submit", theirs, **sent, ranks=order(theirs, 1, 2)),
        send("skip", theirs, **sent, reason="x"),
        send("leave", theirs),
        send("alive", theirs),
    ):
        assert refused(answer) == f"Assignment {theirs.id}: this labeler has none of that number; claim one."
    assert store.counts().judgments == 0 and store.events() == before
    assert store.renew(theirs)


def test_what_was_judged_in_another_tab_is_refused_and_its_draft_stays(
    store: LabelStore, send: Send, ann: Labeler
) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    task = claim(store, ann)
    assert send("submit", task, submit_id=ONE, ranks=order(task, 1, 2))["ok"]
    again = send("submit", task, submit_id=TWO, ranks=order(task, 2, 1))
    assert refused(again) == "This task was judged or skipped already; reopen it to correct the judgment."
    assert send("reopen")["ok"]
    reopened = claim(store, ann)
    store.save_draft(reopened, {"kept": "yes"})
    for answer in (
        send("submit", task, submit_id=TWO, ranks=order(task, 2, 1)),
        send("skip", task, submit_id=TWO, reason="x"),
    ):
        assert answer["submit_id"] == TWO
        assert refused(answer) == "This task was judged in another tab meanwhile; look at it again, then correct it."
    assert store.counts().judgments == 1
    found = claim(store, ann)
    assert (found.id, found.revision, found.reopened, found.draft) == (task.id, 2, True, {"kept": "yes"})


def test_a_ranking_that_comes_when_others_filled_the_task_is_kept_and_said_so(
    store: LabelStore, send: Send, ann: Labeler
) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    task = claim(store, ann)
    store.release(task)
    bob = claim(store, store.labeler("bob"))
    store.submit(bob, {c.id: i for i, c in enumerate(bob.completions, 1)}, submit_id=TWO)
    answer = send("submit", task, submit_id=ONE, ranks=order(task, 1, 2))
    saved = "Saved. Others had finished this one meanwhile, so yours is kept as an extra."
    assert answer == {"submit_id": ONE, "ok": True, "message": saved}
    assert [past.outcome for past in store.history(ann)] == ["surplus"]
    assert [r.labeler for r in store.rankings()] == ["bob"]


def test_skipping_keeps_the_reason_and_sent_again_it_changes_nothing(
    store: LabelStore, send: Send, ann: Labeler
) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    task = claim(store, ann)
    for _ in range(2):
        assert send("skip", task, submit_id=ONE, reason="Something else", active_seconds=3)["ok"]
    (past,) = store.history(ann)
    assert (past.outcome, past.skip_reason, past.revision) == ("skipped", "Something else", 1)


def test_the_last_one_is_reopened_corrected_and_left(store: LabelStore, send: Send, ann: Labeler) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    assert send("reopen") == {
        "submit_id": "", "ok": True, "message": "You have not ranked anything yet, so there is nothing to correct.",
    }  # fmt: skip
    task = claim(store, ann)
    send("submit", task, submit_id=ONE, ranks=order(task, 1, 2))
    assert send("reopen")["message"] == ""
    second = claim(store, ann)
    assert send("submit", second, submit_id=TWO, ranks=order(task, 2, 1))["ok"]
    send("reopen")
    third = claim(store, ann)
    assert third.revision == 3 and send("leave", third) == {"submit_id": "", "ok": True, "message": ""}
    assert store.claim(ann) is None
    (past,) = store.history(ann)
    assert [past.said.ranks[c.id] for c in task.completions] == [2, 1] and past.revision == 2


def test_leaving_from_a_tab_that_is_behind_touches_neither_lease_nor_draft(
    store: LabelStore, send: Send, ann: Labeler
) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    task = claim(store, ann)
    store.save_draft(task, {"kept": "first"})
    assert send("leave", task)["ok"]  # not reopened: there is nothing to leave as it was
    assert claim(store, ann).draft == {"kept": "first"} and leased_until(store, task) > time.time()
    send("submit", task, submit_id=ONE, ranks=order(task, 1, 2))
    send("reopen")
    store.save_draft(claim(store, ann), {"kept": "second"})
    assert send("leave", task)["ok"]
    found = claim(store, ann)
    assert found.reopened and found.draft == {"kept": "second"}


def leased_until(store: LabelStore, of: Assignment) -> float:
    with store._reading() as connection:
        return connection.scalar(sa.select(assignments.c.leased_until).where(assignments.c.id == of.id)) or 0.0


def test_a_sign_of_life_renews_the_lease(store: LabelStore, send: Send, ann: Labeler) -> None:
    store.configure({"lease_seconds": 600})
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    task = claim(store, ann)
    with store._writing() as connection:
        connection.execute(sa.update(assignments).values(leased_until=1.0))
    assert send("alive", task) == {"submit_id": "", "ok": True, "message": ""}
    assert 570 < leased_until(store, task) - time.time() <= 600


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"comment": "a\x00b"}, "Comment: holds a NUL character (U+0000); remove it."),
        ({"better": "\x00"}, "Better: holds a NUL character (U+0000); remove it."),
        ({"comment": "\ud83d"}, None),
        ({"comment": "x" * 2001}, "Comment: 2001 characters are too many; write 2000 at most."),
        ({"better": "x" * 20001}, "Better: 20001 characters are too many; write 20000 at most."),
        ({"submit_id": "a\x00bcdefgh"}, "Submit_id: holds a NUL character (U+0000); remove it."),
        ({"submit_id": "        "}, "Submit_id: the text is blank; give it words or remove the row."),
        ({"strength": 1}, "Strength: this project does not ask how much better one is, or the task has not 2 answers."),
        ({"ranks": {}}, None), ({"ranks": {"1": 1, "2": None}}, None), ({"notes": {"77": {"quality": 1}}}, None),
        ({"notes": {"1": {"flags": ["Rude"]}}}, None), ({"notes": {"1": {"comment": "x" * 2001}}}, None),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_what_the_store_refuses_is_one_calm_sentence_and_writes_nothing(
    store: LabelStore, send: Send, ann: Labeler, said: dict[str, Any], message: str | None
) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    task = claim(store, ann)
    answer = refused(send("submit", task, **{"submit_id": ONE, "ranks": order(task, 1, 2), **said}))
    assert message is None or answer == message
    assert "Traceback" not in answer and store.counts().judgments == 0
    assert claim(store, ann).id == task.id


def test_a_suspended_person_can_send_nothing(store: LabelStore, send: Send, ann: Labeler) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    task = claim(store, ann)
    store.suspend("ann")
    for answer in (
        send("submit", task, submit_id=ONE, ranks=order(task, 1, 2)),
        send("skip", task, submit_id=ONE, reason="x"),
        *(send("reopen"), send("alive", task)),
    ):
        assert refused(answer) == "This person is not active here any more; ask an admin of the project."
    assert store.counts().judgments == 0


# --- showing -----------------------------------------------------------------------------------------------------


def test_the_sheet_is_told_what_it_needs_and_not_who_wrote_what(store: LabelStore, ann: Labeler) -> None:
    chat = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Wh\u202ey?"})
    store.configure({"flags": ["Rude"], "skip_reasons": ["Later"], "lease_seconds": 90, "allow_partial": True})
    store.set_guidelines("Old.")
    store.set_guidelines("Be *kind*.")
    store.add_tasks([NewTask(chat, ("**a**", "b\u200b"), ("sft-secret", "ppo-secret"))], batch="secret-batch")
    task = claim(store, ann)
    data = rank.sheet_data(store, task, can_reopen=True, answer={"submit_id": ONE, "ok": True, "message": ""})
    assert "secret" not in json.dumps(data)
    assert data["task"] == f"{task.id}-1" and data["renew_seconds"] == 30.0
    assert data["prompt"] == [
        {"role": "system", "text": "Be brief.", "tree": None},
        {"role": "user", "text": "Wh⟨U+202E⟩y?", "tree": None},
    ]
    bold = [{"tag": "p", "children": [{"tag": "strong", "children": ["a"]}]}]
    shown = {c["text"]: c["tree"] for c in data["completions"]}
    assert shown == {"**a**": bold, "b⟨U+200B⟩": None}
    assert [c["id"] for c in data["completions"]] == [c.id for c in task.completions]
    kind = [{"tag": "p", "children": ["Be ", {"tag": "em", "children": ["kind"]}, "."]}]
    assert data["guidelines"] == {"version": 2, "text": "Be *kind*.", "tree": kind}
    assert data["settings"] == {
        "allow_partial": True, "strength": False, "quality": True, "flags": ["Rude"], "comment_length": 2000,
        "better_answer": True, "better_length": 20000, "skip_reasons": ["Later"],
    }  # fmt: skip
    assert (data["reopened"], data["can_reopen"], data["before"]) == (False, True, None)
    assert data["answer"] == {"submit_id": ONE, "ok": True, "message": ""}


def test_a_reopened_sheet_starts_with_what_was_said(store: LabelStore, send: Send, ann: Labeler) -> None:
    store.configure({"strength": True})
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    task = claim(store, ann)
    first = str(task.completions[0].id)
    note = {"quality": 2, "flags": ["Not true"], "comment": "n"}
    said = {"ranks": order(task, 2, 1), "strength": 3, "notes": {first: note}, "comment": "c", "better": "b"}
    assert send("submit", task, submit_id=ONE, **said)["ok"]
    send("reopen")
    data = rank.sheet_data(store, claim(store, ann), can_reopen=True, answer=None)
    assert data["before"] == said
    assert (data["task"], data["reopened"], data["guidelines"]) == (f"{task.id}-2", True, None)


def test_a_browsers_drafts_are_kept_apart_by_person_project_and_store(
    store: LabelStore, ann: Labeler, tmp_path: Path
) -> None:
    store.create_project("other")
    with LabelStore.open(tmp_path / "labels.db", project="other") as other:
        places = set()
        for at in (store, other):
            at.add_tasks([NewTask("p", ("a", "b"))], batch="one", overlap=2)
            for name in ("ann", "bob"):
                data = rank.sheet_data(at, claim(at, at.labeler(name)), can_reopen=False, answer=None)
                places.add(data["storage"])
                assert data["storage"].isalnum() and "ann" not in data["storage"]
    assert len(places) == 4
