"""The page's logic without a page: drafts, orders in words, ranks, time at work."""

from __future__ import annotations

import json
from typing import Any

import pytest

from labeling_app import session
from labeling_app.session import ActiveClock, Draft
from rlhf.preferences import Assignment, Labeler, Note, Progress, Said, ShownCompletion
from rlhf.preferences.settings import ProjectSettings

SHOWN = (12, 11, 14, 13)


def assignment(shown: tuple[int, ...] = SHOWN, **changes: Any) -> Assignment:
    cards = tuple(ShownCompletion(i, f"text {i}") for i in shown)
    return Assignment(
        **{"id": 1, "task_id": 2, "labeler": Labeler(3, "ann"), "prompt": "p", "completions": cards} | changes
    )


# --- words and numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "ranks"),
    [
        ({1: 1, 2: 2, 3: 2, 4: 4}, {1: 1, 2: 2, 3: 2, 4: 4}),
        ({1: 1, 2: 2, 3: 2, 4: 3}, {1: 1, 2: 2, 3: 2, 4: 4}),
        ({1: 9, 2: 2, 3: 5, 4: 5}, {1: 4, 2: 1, 3: 2, 4: 2}),
        ({1: 3, 2: 3}, {1: 1, 2: 1}),
        ({}, {}),
    ],
)
def test_places_become_standard_ranks_of_the_same_order(choices: dict[int, int], ranks: dict[int, int]) -> None:
    assert session.standard_ranks(choices) == ranks


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({}, ""),
        ({14: 1}, "3 first"),
        ({11: 1, 12: 2, 14: 2, 13: 4}, "2 first, then 1 and 3 (tied), then 4"),
        ({11: 2, 12: 7, 14: 7, 13: 9}, "2 first, then 1 and 3 (tied), then 4"),
        ({12: 1, 11: 1}, "1 and 2 (tied) first"),
        ({12: 2, 11: 2, 14: 2, 13: 2}, "1, 2, 3 and 4 are all tied"),
        ({12: 1, 11: None, 14: 2, 13: None}, "1 first, then 3"),
    ],
)
def test_an_order_is_said_by_the_numbers_on_the_cards(choices: dict[int, int | None], words: str) -> None:
    assert session.in_words(SHOWN, choices) == words


def test_small_words() -> None:
    assert session.counted(1, "task") == "1 task" and session.counted(0, "task") == "0 tasks"
    assert session.listed(["1"]) == "1" and session.listed(["1", "2", "3"]) == "1, 2 and 3"
    assert [session.ordinal(i) for i in range(1, 10)] == ["1st", "2nd", "3rd", *(f"{i}th" for i in range(4, 10))]
    assert session.share(0, 0) == 0.0 and session.share(3, 1) == 0.75


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (Progress(0, 0, 2), "0 rankings done · 2 tasks to go"),
        (Progress(1, 0, 1, today=1), "1 ranking done · 1 task to go"),
        (
            Progress(12, 3, 38, 4, 40.4),
            "12 rankings done, 4 of them in the last day · 38 tasks to go · about 40 s each",
        ),
        (Progress(12, 0, 0, 12, 0.2), "12 rankings done · 0 tasks to go · about 1 s each"),
        (Progress(0, 0, 999), "0 rankings done · 999 tasks to go"),
        (Progress(0, 0, 1000), "0 rankings done · 1000+ tasks to go"),  # nobody counts on
    ],
)
def test_progress_in_words(progress: Progress, words: str) -> None:
    assert session.progress_words(progress) == words


def test_breaks_are_not_work() -> None:
    clock = ActiveClock(last=100.0)
    assert clock.tick(110.0) == 10.0
    assert clock.tick(4000.0) == 70.0  # over an hour away counts as one minute
    assert clock.tick(4005.5) == 75.5
    assert clock.tick(4000.0) == 75.5  # a clock that ran backwards takes nothing back


# --- drafts ------------------------------------------------------------------------------------------------------


def test_a_draft_goes_by_completion_and_not_by_place_on_screen() -> None:
    draft = Draft.of(assignment(), now=0.0)
    assert draft.missing() == ["1", "2", "3", "4"] and draft.words() == ""
    for completion, place in ((11, 1), (14, 2), (12, 2)):
        draft.choose(completion, place)
    assert draft.missing() == ["4"] and draft.words() == "2 first, then 1 and 3 (tied)"
    draft.choose(13, 3)
    assert draft.said(strength=False).ranks == {12: 2, 11: 1, 14: 2, 13: 4}
    draft.choose(13, None)
    draft.choose(13, None)
    assert draft.missing() == ["4"]


def test_a_draft_is_complete_with_all_places_or_with_two_where_some_may_be_left_out() -> None:
    draft = Draft.of(assignment(), now=0.0)
    complete = []
    for completion in SHOWN:
        draft.choose(completion, 1)
        complete.append((draft.complete(False, False), draft.complete(True, False)))
    assert complete == [(False, False), (False, True), (False, True), (True, True)]


def test_what_was_left_out_is_said_to_be_unranked() -> None:
    draft = Draft.of(assignment(), now=0.0)
    draft.choose(13, 4)
    draft.choose(11, 2)
    assert draft.said(strength=False) == Said({12: None, 11: 1, 14: None, 13: 2})


@pytest.mark.parametrize(
    ("point", "ranks", "strength"),
    [
        (1, {12: 1, 11: 2}, 3), (2, {12: 1, 11: 2}, 2), (3, {12: 1, 11: 2}, 1), (4, {12: 1, 11: 1}, 0),
        (5, {12: 2, 11: 1}, 1), (6, {12: 2, 11: 1}, 2), (7, {12: 2, 11: 1}, 3),
    ],
)  # fmt: skip
def test_seven_points_are_an_order_and_a_strength_and_back(
    point: int, ranks: dict[int, int | None], strength: int
) -> None:
    draft = Draft.of(assignment((12, 11)), now=0.0)
    assert not draft.complete(allow_partial=True, strength=True)
    draft.point = point
    said = draft.said(strength=True)
    assert draft.complete(allow_partial=False, strength=True) and said == Said(ranks, strength)
    assert Draft.of(assignment((12, 11), reopened=True, before=said), now=0.0).point == point


def test_a_strength_beside_ranks_of_another_tool_points_to_the_better_one() -> None:
    before = Said({12: 3, 11: 5}, strength=2)
    assert Draft.of(assignment((12, 11), reopened=True, before=before), now=0.0).point == 2


def test_what_is_said_beside_the_order_is_trimmed_and_empty_notes_are_left_out() -> None:
    draft = Draft.of(assignment(), now=0.0)
    draft.note(12, quality=3)
    draft.note(12, flags=("Not true",))
    draft.note(11, comment="x")
    draft.note(11, comment="")
    draft.comment, draft.better = " why \n", "\n better "
    said = draft.said(strength=False)
    assert said.notes == {12: Note(3, ("Not true",))}
    assert (said.comment, said.better) == ("why", "better")


def test_what_the_project_stopped_asking_for_is_not_said() -> None:
    """Else the store refuses what the labeler cannot see any more, and there is no way on."""
    draft = Draft.of(assignment(), now=0.0)
    draft.note(12, quality=3, flags=("Rude", "Wrong"), comment="c")
    draft.note(11, quality=1)
    draft.better = "better"
    project = ProjectSettings(quality=False, flags=("Wrong",), better_answer=False)
    said = draft.said(False, project)
    assert said.notes == {12: Note(None, ("Wrong",), "c")} and said.better == ""
    asked = draft.said(False, ProjectSettings(flags=("Rude", "Wrong")))
    assert asked.notes == {12: Note(3, ("Rude", "Wrong"), "c"), 11: Note(1)} and asked.better == "better"


def test_a_reopened_assignment_starts_with_what_was_said() -> None:
    before = Said({11: 1, 12: 2, 13: None, 14: 2}, notes={14: Note(7, ("Not true",), "n")}, comment="hm", better="b")
    draft = Draft.of(assignment(reopened=True, revision=2, before=before), now=0.0)
    assert draft.choices == {11: 1, 12: 2, 14: 2} and draft.notes == {14: Note(7, ("Not true",), "n")}
    assert (draft.comment, draft.better, draft.point) == ("hm", "b", None)


def test_a_draft_comes_back_from_the_store_as_it_was() -> None:
    draft = Draft.of(assignment(), now=0.0)
    draft.choose(14, 1)
    draft.note(11, quality=2, flags=("Not true",), comment="c")
    draft.point, draft.comment, draft.better = 5, "k", "b"
    draft.clock.tick(20.0)
    kept = json.loads(json.dumps(draft.body()))
    again = Draft.of(assignment(draft=kept, before=Said({12: 1}, comment="earlier")), now=1000.0)
    assert again == Draft(
        shown=SHOWN, clock=ActiveClock(1000.0, 20.0), revision=1, choices={14: 1},
        notes={11: Note(2, ("Not true",), "c")}, point=5, comment="k", better="b", submit_id=draft.submit_id,
    )  # fmt: skip
    assert again.clock.tick(1003.0) == 23.0


def test_a_draft_of_an_earlier_revision_is_left_aside() -> None:
    """A tab that still shows the first revision writes drafts with a submit_id that was used up."""
    draft = Draft.of(assignment(), now=0.0)
    draft.comment = "of the first"
    again = Draft.of(assignment(revision=2, reopened=True, draft=draft.body(), before=Said(comment="said")), now=0.0)
    assert again.comment == "said" and again.submit_id != draft.submit_id


def test_places_and_notes_of_completions_that_are_not_shown_are_dropped() -> None:
    draft = Draft.of(assignment(), now=0.0)
    draft.choose(11, 1)
    draft.note(11, quality=2)
    body = draft.body() | {"choices": {"11": 1, "99": 2}, "notes": {"99": {"quality": 1, "flags": [], "comment": ""}}}
    again = Draft.of(assignment(draft=body), now=0.0)
    assert again.choices == {11: 1} and again.notes == {}


def test_every_draft_has_a_submit_id_of_its_own() -> None:
    assert Draft.of(assignment(), 0.0).submit_id != Draft.of(assignment(), 0.0).submit_id


@pytest.mark.parametrize(
    "change",
    [
        {"choices": None}, {"choices": {"x": 1}}, {"choices": {"11": "1"}}, {"choices": {"11": 0}}, {"choices": [11]},
        {"notes": {"11": {"quality": 1}}}, {"notes": {"11": {"quality": 8, "flags": [], "comment": ""}}},
        {"notes": 3}, {"point": 8}, {"point": "4"}, {"comment": None}, {"better": 5}, {"submit_id": ""},
        {"submit_id": None}, {"seconds": "2"}, {"seconds": -1}, {"seconds": float("nan")}, {"revision": "1"},
    ],
    ids=repr,
)  # fmt: skip
def test_a_draft_of_another_shape_is_left_aside(change: dict[str, Any]) -> None:
    """Another version wrote it, or another program: whoever has the task can still go on."""
    draft = Draft.of(assignment(), now=0.0)
    draft.comment = "kept"
    assert Draft.of(assignment(draft=draft.body()), now=0.0).comment == "kept"
    for body in (draft.body() | change, {k: v for k, v in draft.body().items() if k not in change}):
        again = Draft.of(assignment(draft=body), now=0.0)
        assert (again.comment, again.choices, again.clock.seconds) == ("", {}, 0.0)
        assert again.submit_id != draft.submit_id


def test_a_place_beyond_the_last_is_none() -> None:
    draft = Draft.of(assignment(), now=0.0)
    body = draft.body() | {"choices": {"11": 4, "12": 5}}
    assert Draft.of(assignment(draft=body), now=0.0).choices == {11: 4}
