"""What the ranking sheet is given to show, and that it says nothing of who wrote what."""

from __future__ import annotations

import json

import pytest

from labeling_app.untrusted import visible
from labeling_app.views import rank
from rlhf.preferences import Assignment, Labeler, LabelStore, NewTask

ONE = "11111111-aaaa"  # a submit_id


@pytest.fixture
def ann(store: LabelStore) -> Labeler:
    return store.labeler("ann")


def claim(store: LabelStore, labeler: Labeler) -> Assignment:
    found = store.claim(labeler)
    assert found is not None
    return found


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
    assert [(c["id"], c["text"]) for c in data["completions"]] == [
        (str(i), visible(c.text)) for i, c in enumerate(task.completions)
    ]
    kind = [{"tag": "p", "children": ["Be ", {"tag": "em", "children": ["kind"]}, "."]}]
    assert data["guidelines"] == {"version": 2, "text": "Be *kind*.", "tree": kind}
    assert data["settings"] == {
        "allow_partial": True, "strength": False, "quality": True, "flags": ["Rude"], "comment_length": 2000,
        "better_answer": True, "better_length": 20000, "skip_reasons": ["Later"],
    }  # fmt: skip
    assert (data["reopened"], data["can_reopen"], data["before"]) == (False, True, None)
    assert data["answer"] == {"submit_id": ONE, "ok": True, "message": ""}


def test_a_browsers_drafts_are_kept_apart_by_person_project_and_store(
    store: LabelStore, store_url: str, ann: Labeler
) -> None:
    store.create_project("other")
    with LabelStore.open(store_url, project="other") as other:
        places = set()
        for at in (store, other):
            at.add_tasks([NewTask("p", ("a", "b"))], batch="one", overlap=2)
            for name in ("ann", "bob"):
                data = rank.sheet_data(at, claim(at, at.labeler(name)), can_reopen=False, answer=None)
                places.add(data["storage"])
                assert data["storage"].isalnum() and "ann" not in data["storage"]
    assert len(places) == 4
