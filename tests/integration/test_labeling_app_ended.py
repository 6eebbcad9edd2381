"""A tab that is still open when its session has ended elsewhere, and what else a tab may find changed: no browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import labeling_app
from labeling_app.actions import NOTICES
from labeling_app.launch import settle
from labeling_app.views import sign_in
from rlhf.preferences import LabelStore, NewTask

APP = Path(labeling_app.__file__).with_name("app.py")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LabelStore]:
    path = tmp_path / "labels.db"
    for name, value in settle(str(path)).environment().items():
        monkeypatch.setenv(name, value)
    st.cache_resource.clear()
    with LabelStore.open(path, create=True) as store:
        key = store.sign_in_by_name("ann")
        monkeypatch.setattr(sign_in, "session_key", lambda: key)
        store.add_tasks([NewTask(p, ("a", "b")) for p in ("first", "second")], batch="one")
        yield store
    st.cache_resource.clear()


def opened(go: str = "", form: str = "plain", **state: Any) -> AppTest:
    test = AppTest.from_file(str(APP), default_timeout=30)
    if form:
        test.query_params["form"] = form
    for name, value in (({"go": go} if go else {}) | state).items():
        test.session_state[name] = value
    return well(test.run())


def well(test: AppTest) -> AppTest:
    assert [e.value for e in test.exception] == []
    return test


def find(kind: Any, label: str) -> Any:
    return next(w for w in kind if w.label == label)


def ranked(test: AppTest) -> AppTest:
    for number in (1, 2):
        find(test.radio, f"Place of answer {number}").set_value(number)
        well(test.run())
    return test


def end(store: LabelStore, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "suspended":
        store.suspend("ann")
    elif how == "signed out":
        store.sign_out(sign_in.session_key())
    else:  # in this browser, by another tab
        store.sign_out(sign_in.session_key())
        key = store.sign_in_by_name("bob")
        monkeypatch.setattr(sign_in, "session_key", lambda: key)


@pytest.mark.parametrize("how", ["suspended", "signed out", "somebody else"])
@pytest.mark.parametrize("what", ["submit", "skip", "draft", "leave", "correct", "look again", "finished"])
def test_a_click_after_the_session_has_ended_does_nothing(
    store: LabelStore, monkeypatch: pytest.MonkeyPatch, how: str, what: str
) -> None:
    ann = store.labeler("ann")
    find(ranked(opened()).button, "Submit and go on").click().run()
    if what == "finished":
        find(ranked(opened()).button, "Submit and go on").click().run()
    elif what == "leave":
        store.reopen(ann)
    test = opened(go="history" if what == "look again" else "")
    if what == "submit":
        ranked(test)
    elif what == "skip":
        well(find(test.selectbox, "Why?").set_value("Something else").run())
    draft = None if what in ("finished", "look again") else store.claim(ann)
    end(store, how, monkeypatch)
    before = store.events()
    if what == "draft":
        find(test.text_area, "Comment (optional)").set_value("in whose name?")
        well(test.run())
    else:
        labels = {"submit": "Submit and go on", "skip": "Skip this one", "leave": "Leave it as it was"}
        again = {"look again": "Look again, correct"}
        well(find(test.button, (labels | again).get(what, "Correct my last one")).click().run())
    titles = [t.value for t in test.title]
    assert ("You are signed out" in titles) is (how != "somebody else")
    if how == "suspended":
        store.reinstate("ann")
    kept = [e for e in store.events() if e not in before and e.action in ("judge", "skip", "reopen", "release")]
    assert kept == [] and store.counts().judgments == (2 if what == "finished" else 1)
    if draft is not None:
        assert store.assignment(ann, draft.id).draft == draft.draft


def test_a_draft_of_another_shape_does_not_stand_in_the_way(store: LabelStore) -> None:
    task = store.claim(store.labeler("ann"))
    assert task is not None
    store.save_draft(task, {"revision": 1, "choices": {}})
    find(ranked(opened()).button, "Submit and go on").click().run()
    assert store.counts().judgments == 1


def test_what_the_sheet_would_say_last_is_said_once_there_is_none(store: LabelStore) -> None:
    for _ in range(2):
        find(ranked(opened()).button, "Submit and go on").click().run()
    said = {"submit_id": "", "ok": True, "message": NOTICES["lost"], "at": 3}
    test = opened(answer=said)
    assert NOTICES["lost"] in [t.value for t in test.text]
    assert test.session_state["answer"] == said | {"message": ""}
    assert NOTICES["lost"] not in [t.value for t in well(test.run()).text]


def test_that_the_form_and_the_sheet_share_no_draft_is_said(store: LabelStore) -> None:
    for form in ("", "plain"):
        assert any("a draft of its own" in c.value for c in opened(form=form).caption)
