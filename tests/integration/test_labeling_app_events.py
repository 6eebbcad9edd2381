"""What the ranking sheet sends, checked and done; and what it is given to show. No browser: a real store behind it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import streamlit as st

from labeling_app.launch import PROJECT_VARIABLE, SERVE_VARIABLE, SIGN_IN_VARIABLE, STORE_VARIABLE, settle
from labeling_app.views import rank, sign_in
from rlhf.errors import StoreError
from rlhf.preferences import Assignment, Labeler, LabelStore, NewTask, Note
from rlhf.preferences.schema import assignments, judgments

UNREADABLE = "The page sent something that cannot be read; reload it and try again."
ONE, TWO = "11111111-aaaa", "22222222-bbbb"  # submit_ids
SKIP = {"do": "skip", "task": "5-2", "submit_id": ONE, "guidelines": 0, "reason": "Something else", "active_seconds": 1}

Send = Callable[..., dict[str, Any]]


@pytest.fixture
def ann(store: LabelStore) -> Labeler:
    return store.labeler("ann")


@pytest.fixture
def send(store: LabelStore, ann: Labeler, monkeypatch: pytest.MonkeyPatch) -> Send:
    """Sends an event as ann's sheet would; the answer that the sheet is given."""
    session: dict[str, Any] = {}
    monkeypatch.setattr(st, "session_state", session)
    key = store.sign_in_by_name(ann.name)
    monkeypatch.setattr(sign_in, "session_key", lambda: key)

    def event(do: str, of: Assignment | None = None, **more: Any) -> dict[str, Any]:
        task = {} if of is None else {"task": f"{of.id}-{of.revision}"}
        said = {"guidelines": of.guideline_version} if of is not None and do in ("submit", "skip") else {}
        rank.receive(store, ann, {"do": do, **task, **said, **more})
        return {key: value for key, value in session["answer"].items() if key != "at"}

    return event


def claim(store: LabelStore, labeler: Labeler) -> Assignment:
    found = store.claim(labeler)
    assert found is not None
    return found


def order(of: Assignment, *ranks: int | None) -> dict[str, int | None]:
    return {str(i): r for i, (_, r) in enumerate(zip(of.completions, ranks, strict=True))}


def refused(answer: dict[str, Any]) -> str:
    """The refusal, once it is one calm sentence."""
    message: str = answer["message"]
    assert answer["ok"] is False
    assert message[0].isupper() and message.endswith(".") and "\n" not in message and len(message) < 300
    return message


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
    before = store.events()
    rank.receive(store, ann, None)  # nothing was sent
    assert "answer" not in st.session_state
    rank.receive(store, ann, raw)
    assert refused(st.session_state["answer"]) == UNREADABLE
    assert store.events() == before


# --- doing -------------------------------------------------------------------------------------------------------


def test_a_submit_counts_and_sent_again_it_changes_nothing(store: LabelStore, send: Send, ann: Labeler) -> None:
    store.add_tasks([NewTask("p", ("a", "b", "c"))], batch="one")
    task = claim(store, ann)
    first, _, last = task.completions
    said = {
        "ranks": order(task, 2, 1, 2), "comment": " why ", "better": "mine", "active_seconds": 4,
        "notes": {"0": {"quality": 2, "flags": ["Not true"], "comment": "no"}},
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
        send("skip", theirs, **sent, reason="Something else"),
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
        send("skip", task, submit_id=TWO, reason="Something else"),
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
        ({"ranks": {}}, UNREADABLE), ({"ranks": {"0": 1}}, UNREADABLE),
        ({"ranks": {"0": 1, "1": 2, "2": 3}}, UNREADABLE), ({"ranks": {str(i): i for i in range(300_000)}}, UNREADABLE),
        ({"ranks": {"0": 1, "1": None}}, None), ({"notes": {"7": {"quality": 1}}}, UNREADABLE),
        ({"notes": {"1": {"flags": ["Rude"]}}}, None), ({"notes": {"1": {"flags": ["x" * 80]}}}, None),
        ({"notes": {"1": {"comment": "x" * 2001}}}, None),
        ({"guidelines": 1}, UNREADABLE),
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
    assert "Traceback" not in answer and not re.search(r"completions? \W*\d", answer) and store.counts().judgments == 0
    assert claim(store, ann).id == task.id


@pytest.mark.parametrize("how", ["suspended", "signed out", "somebody else"])
def test_once_the_session_has_ended_nothing_is_done(
    store: LabelStore, send: Send, ann: Labeler, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """In another tab, or by an admin: the next run of the page says so, and the sheet's draft stays in the browser."""
    store.add_tasks([NewTask("p", ("a", "b")), NewTask("q", ("a", "b"))], batch="one")
    send("submit", claim(store, ann), submit_id=TWO, ranks={"0": 1, "1": 2})
    task = claim(store, ann)
    before = dict(st.session_state["answer"])
    if how == "suspended":
        store.suspend("ann")
    elif how == "signed out":
        store.sign_out(sign_in.session_key())
    else:
        key = store.sign_in_by_name("bob")
        monkeypatch.setattr(sign_in, "session_key", lambda: key)
    seen, until = store.events(), leased_until(store, task)
    send("submit", task, submit_id=ONE, ranks=order(task, 1, 2))
    send("skip", task, submit_id=ONE, reason="Something else")
    for do, of in (("reopen", None), ("alive", task), ("leave", task)):
        send(do, of)
    assert st.session_state["answer"] == before
    assert (store.counts().judgments, store.events(), leased_until(store, task)) == (1, seen, until)


def test_the_version_of_the_instructions_is_the_one_that_was_on_screen(
    store: LabelStore, send: Send, ann: Labeler
) -> None:
    store.add_tasks([NewTask(p, ("a", "b")) for p in "pqrs"], batch="one")
    for text, do in (("", "submit"), ("One.", "submit"), ("Two.", "skip")):
        if text:
            store.set_guidelines(text)
        task = claim(store, ann)
        store.set_guidelines(f"After {text}")
        more = {"ranks": order(task, 1, 2)} if do == "submit" else {"reason": "Something else"}
        assert send(do, task, submit_id=f"version-{text}", **more)["ok"]
    with store._reading() as connection:
        found = connection.scalars(sa.select(judgments.c.guideline_version).order_by(judgments.c.id)).all()
    assert found == [0, 2, 4]


def test_a_reason_that_the_project_does_not_offer_is_refused(store: LabelStore, send: Send, ann: Labeler) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    answer = send("skip", claim(store, ann), submit_id=ONE, reason="Tired")
    assert refused(answer) == "Reason: this project does not offer that one (any more); choose another."
    assert store.history(ann) == []


def test_where_the_strength_is_asked_for_it_must_be_given(store: LabelStore, send: Send, ann: Labeler) -> None:
    store.configure({"strength": True})
    store.add_tasks([NewTask("p", ("a", "b")), NewTask("q", ("a", "b", "c"))], batch="one")
    task = claim(store, ann)
    answer = send("submit", task, submit_id=ONE, ranks=order(task, 1, 2))
    assert refused(answer) == "Strength: say how much better one of the two is."
    assert send("submit", task, submit_id=ONE, ranks=order(task, 1, 2), strength=1)["ok"]
    task = claim(store, ann)
    assert send("submit", task, submit_id=TWO, ranks=order(task, 1, 2, 3))["ok"]  # of three it is not asked


def test_a_lost_reservation_is_said_and_what_was_judged_elsewhere_is_none(
    store: LabelStore, send: Send, ann: Labeler
) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    task = claim(store, ann)
    store.release(task)
    theirs = claim(store, store.labeler("bob"))
    lost = "Your reservation of the last task ran out and others have it now."
    assert send("alive", task) == {"submit_id": "", "ok": True, "message": lost}
    store.release(theirs)
    task = claim(store, ann)
    assert send("submit", task, submit_id=ONE, ranks=order(task, 1, 2))["ok"]
    assert send("alive", task)["message"] == ""


def test_no_refusal_says_where_the_store_is_to_people_elsewhere(
    store: LabelStore, send: Send, ann: Labeler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task = NewTask("p", ("a", "b"))
    store.add_tasks([task], batch="one")
    mine = claim(store, ann)

    def fail(*_: Any, **__: Any) -> None:
        raise StoreError(f"label store {store.name}: disk full")

    monkeypatch.setattr(store, "submit", fail)
    for serving, line in (
        (settle("x.db"), f"Label store {store.name}: disk full."),
        (
            settle("x.db", allowed_hosts=["a.example"], https=True),
            "The label store cannot be reached; please tell your lead.",
        ),
    ):
        monkeypatch.setenv(SERVE_VARIABLE, serving.environment()[SERVE_VARIABLE])
        for name in (STORE_VARIABLE, PROJECT_VARIABLE, SIGN_IN_VARIABLE):
            monkeypatch.setenv(name, serving.environment()[name])
        assert refused(send("submit", mine, submit_id=ONE, ranks=order(mine, 1, 2))) == line


# --- showing -----------------------------------------------------------------------------------------------------


def test_a_reopened_sheet_starts_with_what_was_said(store: LabelStore, send: Send, ann: Labeler) -> None:
    store.configure({"strength": True})
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    task = claim(store, ann)
    note = {"quality": 2, "flags": ["Not true"], "comment": "n"}
    said = {"ranks": order(task, 2, 1), "strength": 3, "notes": {"0": note}, "comment": "c", "better": "b"}
    assert send("submit", task, submit_id=ONE, **said)["ok"]
    send("reopen")
    data = rank.sheet_data(store, claim(store, ann), can_reopen=True, answer=None)
    assert data["before"] == said
    assert (data["task"], data["reopened"], data["guidelines"]) == (f"{task.id}-2", True, None)
