"""What events are about, in words."""

from __future__ import annotations

import pytest

from rlhf.errors import StoreError
from rlhf.preferences import Event, LabelStore, NewTask, audit


def test_numbers_become_names_whatever_the_project(store: LabelStore, store_url: str) -> None:
    store.create_project("second wave")
    with LabelStore.open(store_url, project="second wave") as second:
        second.add_tasks([NewTask("p", ("a", "b"))], batch="one")
        given = second.claim(second.labeler("ann"))
        assert given is not None
        second.skip(given, "no idea")
    store.exclude("ann", "to see")
    events = store.events()
    names = audit.look_up(store, events)
    said = {event.action: set(audit.about(event, names).split("; ")) for event in events}
    assert said["create project"] >= {'project "second wave"'}
    assert said["add tasks"] == {'project "second wave"', "added 1"}
    assert said["skip"] >= {f"task {given.task_id} (assignment {given.id})"}
    assert said["exclude"] >= {'"ann"', "nobody is asked instead"}
    assert {audit.task_of(event, names) for event in events if event.action == "skip"} == {given.task_id}


def test_what_nobody_has_any_more_stays_a_number(store: LabelStore) -> None:
    subject = {"labeler": 7, "assignment": 8, "project": 9, "task": 3, "ids": [1, 2], "none": []}
    event = Event(0.0, "", "anything", subject)
    names = audit.look_up(store, [event])._replace(prompts={3: "Why?"})
    assert audit.about(event, names) == 'person 7; assignment 8; project 9; task 3: "Why?"; ids 1, 2; none none'
    assert audit.task_of(event, names) == 3


def test_no_name_imitates_the_words_around_it(store: LabelStore) -> None:
    event = Event(0.0, "", "invite", {"labeler": store.labeler('ann"; role admin').id, "role": "labeler"})
    assert audit.about(event, audit.look_up(store, [event])) == '"ann\\"; role admin"; role labeler'


def test_it_is_for_admins(store: LabelStore) -> None:
    labeler = store.labeler("ann")
    with pytest.raises(StoreError, match="this is for the role 'admin'"):
        audit.look_up(store, [], by=labeler)
