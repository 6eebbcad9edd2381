"""The review page as Streamlit runs it: tasks that people disagree on, verdicts, and who may see and do what."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from app_harness import BEACON, Page, served_store, texts, well
from review_harness import (
    campaign,
    exported,
    find,
    labels,
    markdown,
    of_person,
    of_task,
    opener,
    part,
    person_id,
    place,
    press,
    rank,
    reviewer,
    table,
    task,
)

from labeling_app.actions import NOTICES
from labeling_app.views import sign_in
from labeling_app.views.review import disputed as review_disputed
from rlhf.errors import StoreError
from rlhf.preferences import Labeler, LabelStore, NewTask, Note, SourcedCompletion, TaskView, audit
from rlhf.preferences.opinions import Case, cases, decide, in_hand


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LabelStore]:
    with served_store(tmp_path, monkeypatch) as store:
        yield store


@pytest.fixture
def page(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> Page:
    return opener(store, monkeypatch)


# --- disputed ----------------------------------------------------------------------------------------------------


def test_the_most_disputed_task_comes_first_with_what_everybody_said(store: LabelStore, page: Page) -> None:
    campaign(store)
    test = page()
    assert task(test) == "Task 3"
    said = markdown(test)
    assert "2 tasks to decide; 0 tasks decided; 1 task on which everybody agrees." in said
    assert "People differ on 100 % of 3 comparisons by 2 people" in said
    rows = {row["Person"]: row for row in table(test)}
    assert set(rows) == {"ann", "bob"}
    order = [t for t in texts(test) if t in ("a", "b", "c")]
    ranks = {who: {order[i]: row[f"Answer {i + 1}"] for i in range(3)} for who, row in rows.items()}
    assert ranks["ann"] == {"a": "1", "b": "2", "c": "3"} and ranks["bob"] == {"a": "3", "b": "2", "c": "1"}
    assert table(test, 1) == [{"Answer 1": "2.00", "Answer 2": "2.00", "Answer 3": "2.00"}]
    assert "Average ranks, over 2 rankings that count:" in said
    for name, row in rows.items():  # who saw what first, in this page's numbers
        (past,) = [p for p in store.history(store.labeler(name)) if p.prompt == "three"]
        assert row["Saw them in the order"] == ", ".join(str(1 + order.index(c.text)) for c in past.completions)
        assert row["Counts"] == "yes"
    test = press(test, "review-next")
    assert task(test) == "Task 2" and "People differ on 33 % of 3 comparisons" in markdown(test)
    assert task(press(test, "review-next")) == "Task 3"  # round: nobody differs on task 1


def test_no_name_looks_like_the_averages(store: LabelStore, page: Page) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one", overlap=2)
    rank(store, "Average ranks", "a")
    rank(store, "ann", "b")
    test = page()
    people, averages = table(test), table(test, 1)
    assert {row["Person"] for row in people} == {"Average ranks", "ann"}
    assert averages == [{"Answer 1": "1.50", "Answer 2": "1.50"}] and "Person" not in averages[0]


def test_a_reviewer_decides_blind_until_they_ask(store: LabelStore, page: Page) -> None:
    campaign(store)
    test = page()
    assert not any(t.startswith("Written by") for t in texts(test))
    test.toggle("review-sources-3").set_value(True)
    order = [t for t in texts(well(test.run())) if t in ("a", "b", "c")]
    who = {"a": "Written by sft", "b": "Written by ppo", "c": "Written by human"}
    assert [t for t in texts(test) if t.startswith("Written")] == [who[text] for text in order]
    test = press(press(test, "review-next"), "review-next")  # and back: the next look is blind again
    assert task(test) == "Task 3" and not any(t.startswith("Written by") for t in texts(test))


def test_answers_are_not_numbered_as_they_were_added() -> None:
    """To whoever knows that order it says who wrote which; and one reviewer sees the same order at every look."""
    orders = set()
    for number in range(60):
        completions = tuple(SourcedCompletion(i, str(i), "") for i in range(3))
        case = Case(TaskView(number, "b", "p", completions, "", 0, 1, 0, False), None, (), None, "")
        order = review_disputed.numbered(case, Labeler(1, "rex"))
        assert order == review_disputed.numbered(case, Labeler(1, "rex"))
        orders.add(tuple(order))
    assert len(orders) == 6


def test_the_reviewers_ranking_stands_for_everybodys(store: LabelStore, page: Page) -> None:
    campaign(store)
    test = place(page(), store, 3, b=1, c=3)
    assert test.button("review-ranking-3").disabled and any("Still to place" in t for t in texts(test))
    test = place(test, store, 3, a=0)  # not ranked
    test.text_area("review-comment-3").set_value("Both overlooked it.")
    test = press(well(test.run()), "review-ranking-3")
    assert NOTICES["decided"] in markdown(test) and task(test) == "Task 2"
    assert exported(store)[("three", "rex")] == (None, 1, 2) and ("three", "ann") not in exported(store)
    assert store.verdicts()[3].comment == "Both overlooked it."
    # Undone by a later verdict, which starts from the earlier one.
    test = press(test, "review-back")
    assert task(test) == "Task 3" and "the reviewer's own ranking stands" in markdown(test)
    assert any(t.startswith("By rex, ") for t in texts(test)) and "Both overlooked it." in texts(test)
    assert [test.radio(f"review-place-3-{of_task(store, 3)[t]}").value for t in "abc"] == [0, 1, 2]
    press(test, "review-keep-3")
    assert exported(store)[("three", "ann")] == (1, 2, 3) and ("three", "rex") not in exported(store)


def test_two_places_at_least_make_a_ranking_and_ties_are_one(store: LabelStore, page: Page) -> None:
    campaign(store)
    test = place(page(), store, 3, a=2, b=0, c=0)
    assert test.button("review-ranking-3").disabled
    press(place(test, store, 3, b=2), "review-ranking-3")
    assert exported(store)[("three", "rex")] == (1, 1, None)


def test_keeping_all_takes_it_off_the_queue_and_a_drop_out_of_exports(store: LabelStore, page: Page) -> None:
    campaign(store)
    test = press(page(), "review-keep-3")
    assert task(test) == "Task 2" and exported(store)[("three", "bob")] == (3, 2, 1)
    test = press(test, "review-drop-2")
    assert "Everything is decided." in markdown(test)
    assert set(exported(store)) == {("one", "ann"), ("one", "bob"), ("three", "ann"), ("three", "bob")}
    find(test.toggle, "Show decided ones too").set_value(True)
    test = well(test.run())
    assert task(test) == "Task 3" and "everybody's rankings stay" in markdown(test)
    assert "exports leave this task out" in markdown(press(test, "review-next"))


def test_a_ranking_after_the_verdict_brings_the_task_back(store: LabelStore, page: Page) -> None:
    campaign(store)
    test = press(page(), "review-keep-3")
    bob = store.labeler("bob")
    again = store.reopen(bob)
    assert again is not None and again.task_id == 3
    ids = of_task(store, 3)
    store.submit(again, {ids["a"]: 2, ids["b"]: 1, ids["c"]: 1}, submit_id="again")
    test = page()
    assert task(test) == "Task 3" and "People ranked it after that" in markdown(test)
    assert {row["Person"]: row["Counts"] for row in table(test)}["bob"] == "yes, after 1 correction"


@pytest.mark.parametrize("what", ["judged", "decided"])
def test_a_verdict_on_a_screen_that_is_stale_is_refused_and_the_news_shown(
    store: LabelStore, page: Page, what: str
) -> None:
    campaign(store)
    test = place(page(), store, 3, a=1, b=2, c=3)
    if what == "judged":
        again = store.reopen(store.labeler("bob"))
        assert again is not None
        store.submit(again, {c.id: 1 for c in again.completions}, submit_id="again")
    else:
        store.invite("roy", "reviewer")
        store.decide(3, "drop", comment="Nonsense.", by=store.labeler("roy"))
        test = place(test, store, 3, b=2)  # the page is drawn anew meanwhile, with another click
    before = store.verdicts()
    test = press(test, "review-ranking-3")
    assert NOTICES["moved"] in markdown(test) and store.verdicts() == before
    assert task(test) == "Task 3"  # it stays on screen, with the news and with what was begun
    if what == "decided":
        assert "exports leave this task out" in markdown(test) and "Nonsense." in texts(test)
    else:
        bob = next(row for row in table(test) if row["Person"] == "bob")
        assert [bob[f"Answer {n}"] for n in (1, 2, 3)] == ["1", "1", "1"]
    assert [test.radio(f"review-place-3-{of_task(store, 3)[t]}").value for t in "abc"] == [1, 2, 3]
    press(test, "review-ranking-3")
    assert exported(store)[("three", "rex")] == (1, 2, 3)


def test_news_are_said_before_anything_is_clicked(store: LabelStore, page: Page) -> None:
    campaign(store)
    test = page()
    store.invite("roy", "reviewer")
    store.decide(3, "drop", by=store.labeler("roy"))
    test = place(test, store, 3, a=1)
    assert task(test) == "Task 3" and "while it was on your screen" in markdown(test)


def test_what_was_begun_outlives_other_tasks_and_other_parts(store: LabelStore, page: Page) -> None:
    campaign(store)
    test = place(page(), store, 3, a=2, b=1)
    test.text_area("review-comment-3").set_value("Hm.")
    test = press(well(test.run()), "review-next")
    assert all(radio.value is None for radio in test.radio)
    test = part(part(test, "People"), "Disputed")
    test = press(test, "review-next")
    ids = of_task(store, 3)
    assert task(test) == "Task 3" and test.text_area("review-comment-3").value == "Hm."
    assert [test.radio(f"review-place-3-{ids[t]}").value for t in "abc"] == [2, 1, None]


def test_those_left_out_of_exports_dispute_nothing(store: LabelStore, page: Page) -> None:
    campaign(store)
    store.exclude("bob", "In a hurry.")
    test = page()
    assert "Nobody disagrees yet" in markdown(test) and not test.subheader
    test = part(test, "Rankings")  # the task can be looked at all the same
    test = press(test, "review-look-3")
    assert task(test) == "Task 3" and "Not among the disputed tasks" in markdown(test)
    assert {r["Person"]: r["Counts"] for r in table(test)}["bob"] == "no: this person is left out of exports"


def test_one_batch_at_a_time(store: LabelStore, page: Page) -> None:
    campaign(store)
    store.add_tasks([NewTask("four", ("a", "b"))], batch=BEACON, overlap=2)
    rank(store, "ann", "a")
    rank(store, "bob", "b")
    test = page()
    find(test.selectbox, "Batch").set_value(BEACON)
    test = well(test.run())
    assert task(test) == "Task 4" and f"Batch: {BEACON}" in texts(test) and "beacon" not in markdown(test)


def test_a_project_without_anything_says_so_everywhere(page: Page) -> None:
    test = page("admin")
    assert "Nobody disagrees yet" in markdown(test)
    assert "Nobody has ranked anything yet." in markdown(part(test, "Rankings"))
    assert [row["Name"] for row in table(part(test, "People"))] == ["ada"]
    assert {row["What"] for row in table(part(test, "Audit"))} == {"invite", "sign in"}


# --- who may -----------------------------------------------------------------------------------------------------


def test_a_labeler_sees_nothing_of_it(store: LabelStore, page: Page) -> None:
    campaign(store)
    test = page("labeler", "Audit")
    assert "There is nothing here." in markdown(test) and not test.dataframe and labels(test) == ["Sign out"]


def test_a_reviewer_gets_no_admins_buttons_and_no_audit(store: LabelStore, page: Page) -> None:
    campaign(store)
    test = page("reviewer", "Audit")  # asked for by a forged choice
    assert task(test) == "Task 3"
    (control,) = [b for b in test.button_group if b.key == "review-part"]
    assert control.options == ["Disputed", "People", "Rankings"]
    test = part(test, "People")
    assert labels(test) == ["Sign out"] and not test.text_input and not test.selectbox


@pytest.mark.parametrize("what", ["suspend", "exclude", "invite", "decide"])
def test_what_is_forged_or_outdated_the_store_refuses(store: LabelStore, page: Page, what: str) -> None:
    """The page was drawn for an admin who is one no more; and the functions asked directly, by whoever may not."""
    campaign(store)
    test = page("admin", "Disputed" if what == "decide" else "People")
    if what != "decide":
        test = of_person(test, "bob")
    bob = person_id(store, "bob")
    if what == "exclude":
        test.text_area(f"review-reason-{bob}").set_value("x")
        well(test.run())
    with store._writing() as connection:  # behind the session's back: `set_role` would end it
        role = "labeler" if what == "decide" else "reviewer"
        connection.exec_driver_sql(f"UPDATE labelers SET role = '{role}' WHERE name = 'ada'")
    keys = {"suspend": f"review-yes-suspend-{bob}", "exclude": f"review-yes-exclude-{bob}"}
    keys |= {"invite": f"review-yes-invite-anew-{bob}", "decide": "review-keep-3"}
    test = press(test, keys[what])
    assert [e.value for e in test.error] == ["That was not saved."]
    assert any("ask an admin of the project" in t for t in texts(test))
    assert not store.exclusions() and not store.verdicts()
    assert all(p.active and not p.invited for p in store.people() if p.name == "bob")


def test_the_functions_ask_for_the_role_themselves(store: LabelStore) -> None:
    campaign(store)
    ann = store.labeler("ann")
    (case,) = cases(store, [3])
    for ask in (
        lambda: cases(store, [3], by=ann),
        lambda: decide(store, case, "keep", by=ann),
        lambda: in_hand(store, "bob", by=ann),
        lambda: audit.look_up(store, [], by=ann),
    ):
        with pytest.raises(StoreError, match=r"this is for the role"):
            ask()
    assert cases(store, [99]) == [] and store.verdicts() == {}


def test_a_session_that_ended_decides_nothing(store: LabelStore, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign(store)
    test = page()
    monkeypatch.setattr(sign_in, "session_key", lambda: "")
    test = well(test.button("review-keep-3").click().run())
    assert store.verdicts() == {} and "You are signed out" in markdown(test)


def test_hostile_texts_are_shown_as_they_are(store: LabelStore, page: Page) -> None:
    name = f"ann {BEACON}"
    store.configure({"flags": [BEACON], "better_answer": True})
    store.add_tasks([NewTask(f"p {BEACON}", (f"a {BEACON}", "b"), (BEACON, "x"))], batch=BEACON, overlap=2)
    rank(store, name, "b", b=Note(flags=(BEACON,), comment=f"c {BEACON}"), comment=f"d\nbob wrote: {BEACON}")
    rank(store, "bob", f"a {BEACON}")
    store.decide(1, "keep", comment=f"e {BEACON}", by=reviewer(store))
    test = page("admin")
    find(test.toggle, "Show decided ones too").set_value(True)
    test = well(test.run())
    test.toggle("review-sources-1").set_value(True)
    test = well(test.run())
    shown = texts(test)
    for text in (f"p {BEACON}", f"a {BEACON}", f"Written by {BEACON}", f"c {BEACON}", f"e {BEACON}"):
        assert text in shown
    assert f"{name}: flagged as {BEACON}" in shown and f"d\nbob wrote: {BEACON}" in shown
    assert "beacon" not in markdown(test) + str([c.key for c in test.main])
    for name_of_part in ("People", "Rankings", "Audit"):
        assert "beacon" not in markdown(part(test, name_of_part))
