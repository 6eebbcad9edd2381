"""The review page's other parts: people, what one of them said, and the record of what was done."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
import streamlit as st
from app_harness import BEACON, Page, served_store, texts, well
from review_harness import (
    admin,
    campaign,
    exported,
    find,
    markdown,
    of_person,
    opener,
    person_id,
    press,
    rank,
    reviewer,
    table,
)

from labeling_app.actions import NOTICES
from labeling_app.views import sign_in
from labeling_app.views.review import audit as review_audit
from labeling_app.views.review import person as review_person
from rlhf.data.records import Ranking
from rlhf.errors import StoreError
from rlhf.preferences import LabelStore, NewTask, Note


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LabelStore]:
    with served_store(tmp_path, monkeypatch) as store:
        yield store


@pytest.fixture
def page(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> Page:
    return opener(store, monkeypatch)


# --- people ------------------------------------------------------------------------------------------------------


def gold_for_ann(store: LabelStore) -> int:
    """Has ann rank until she had a gold task, `b` before `a` before `c` where `a`, `b`, `c` is known; returns it."""
    store.configure({"gold_share": 0.5})
    store.add_gold([Ranking("known", ("a", "b", "c"), (1, 2, 3))])
    store.add_tasks([NewTask(f"more {i}", ("a", "b", "c")) for i in range(30)], batch="one")
    for _ in range(30):
        number = rank(store, "ann", "b")
        if store.task_views([number])[0].gold:
            return number
    raise AssertionError("no gold task in thirty")


def test_people_are_listed_with_how_well_they_do(store: LabelStore, page: Page) -> None:
    campaign(store)
    gold_for_ann(store)  # of the three pairs that the known answer orders, she orders two alike
    store.exclude("bob", "In a hurry.")
    test = page(part="People")
    rows = {row["Name"]: row for row in table(test)}
    assert rows["ann"]["Gold right"] == " 67% of 3 pairs" and rows["bob"]["Gold right"] == "no gold task yet"
    assert rows["ann"]["Agreement"] == "needs a task that two people ranked"  # nobody who counts ranked with her
    assert rows["bob"]["Agreement"] == " 56% of 9 pairs of 3 tasks"  # 3 + 2 + 0 of 9, against everybody
    assert rows["bob"]["Left out of exports"].endswith("UTC, In a hurry.") and rows["bob"]["By"] == ""
    assert "Where nobody stands under By, a program or the command line left them out." in markdown(test)
    assert rows["ann"]["Judgments"] >= 4 and rows["ann"]["Comes in"] == "by name"
    assert rows["rex"]["Comes in"] == "by invite" and rows["rex"]["Last"] == "never"
    assert rows["rex"]["Agreement"] == "has ranked nothing yet"
    assert not test.selectbox and "Suspend" not in str(test)  # a reviewer reads


def test_suspending_frees_what_they_had_open_and_shuts_them_out(store: LabelStore, page: Page) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    key = store.sign_in_by_name("ann")
    assert store.claim(store.labeler("ann")) and store.claim(store.labeler("bob")) is None
    test = of_person(page("admin", "People"), "ann")
    test = press(test, f"review-yes-suspend-{person_id(store, 'ann')}")
    assert NOTICES["suspended"] in markdown(test) and "1 open task freed for others." in markdown(test)
    assert store.signed_in(key) is None and store.claim(store.labeler("bob")) is not None
    assert {row["Name"]: row["Comes in"] for row in table(test)}["ann"] == "no: suspended"
    test = press(test, f"review-reinstate-{person_id(store, 'ann')}")
    assert NOTICES["reinstated"] in markdown(test) and store.sign_in_by_name("ann")


def test_leaving_somebody_out_wants_a_reason_and_can_ask_others(store: LabelStore, page: Page) -> None:
    campaign(store)
    bob = person_id(store, "bob")
    test = of_person(page("admin", "People"), "bob")
    test.text_area(f"review-reason-{bob}").set_value("  ")
    test = press(well(test.run()), f"review-yes-exclude-{bob}")
    assert NOTICES["reason"] in markdown(test) and not store.exclusions()
    test.text_area(f"review-reason-{bob}").set_value(f" {BEACON} ")
    test.checkbox(f"review-replace-{bob}").set_value(True)
    test = press(well(test.run()), f"review-yes-exclude-{bob}")
    (exclusion,) = store.exclusions()
    assert (exclusion.labeler, exclusion.reason, exclusion.by) == ("bob", BEACON, "ada")
    assert {who for _, who in exported(store)} == {"ann"} and len(store.waiting()) == 3
    assert BEACON in texts(test) and "beacon" not in markdown(test) and NOTICES["excluded"] in markdown(test)
    test = press(test, f"review-include-{bob}")
    assert {who for _, who in exported(store)} == {"ann", "bob"} and NOTICES["included"] in markdown(test)
    assert test.text_area(f"review-reason-{bob}").value == ""


def test_a_role_is_changed_and_an_invite_shown_until_it_is_put_away(store: LabelStore, page: Page) -> None:
    test = page("admin", "People")
    test.text_input("review-invite-name").set_value(f"Zoe {BEACON}")
    test.selectbox("review-invite-role").set_value("reviewer")
    test = press(well(test.run()), "review-invite-new")
    (link,) = [t for t in texts(test) if "/invite/" in t]
    assert link.startswith("http://127.0.0.1:8501/invite/") and f"Zoe {BEACON}" in texts(test)
    assert "beacon" not in markdown(test)
    who = store.signed_in(store.sign_in_by_token(link.rpartition("/")[2]))
    assert who is not None and (who.name, who.role) == (f"Zoe {BEACON}", "reviewer")
    test = well(test.run())
    assert link in texts(test)  # a stray click loses nothing
    test = of_person(test, f"Zoe {BEACON}")
    zoe = who.id
    test.selectbox(f"review-which-{zoe}").set_value("labeler")
    test = press(well(test.run()), f"review-yes-set-role-{zoe}")
    assert NOTICES["role"] in markdown(test) and store.labeler(who.name).role == "labeler"
    test = press(test, "review-token-away")
    assert not [t for t in texts(test) if "/invite/" in t]
    test = press(test, f"review-yes-invite-anew-{zoe}")
    (again,) = [t for t in texts(test) if "/invite/" in t]
    with pytest.raises(StoreError, match=r"not valid"):
        store.sign_in_by_token(link.rpartition("/")[2])
    assert store.sign_in_by_token(again.rpartition("/")[2])


def test_nobody_is_invited_over_somebody_who_is_here(store: LabelStore, page: Page) -> None:
    """An invite of the same name would end that person's sessions, and give another their rankings."""
    store.labeler("ann")
    test = page("admin", "People")
    test.text_input("review-invite-name").set_value(" ann ")
    test = press(well(test.run()), "review-invite-new")
    assert NOTICES["known"] in markdown(test) and not next(p for p in store.people() if p.name == "ann").invited
    test.text_input("review-invite-name").set_value("x\u202e")
    test = press(well(test.run()), "review-invite-new")
    assert [e.value for e in test.error] == ["That was not saved."] and len(store.people()) == 2


def test_with_an_identity_provider_the_address_is_what_counts(
    store: LabelStore, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_in, "by_provider", lambda: True)
    monkeypatch.setattr(sign_in, "_by_provider", lambda store: store.signed_in(sign_in.session_key()))
    test = page("admin", "People")
    test.text_input("review-invite-name").set_value("Zoe")
    test = press(well(test.run()), "review-invite-new")
    assert NOTICES["email"] in markdown(test) and len(store.people()) == 1
    test.text_input("review-invite-email").set_value("zoe@example.org")
    test = press(well(test.run()), "review-invite-new")
    assert "Zoe: http://127.0.0.1:8501" in texts(test) and not [t for t in texts(test) if "/invite/" in t]
    assert store.labeler_by_email("zoe@example.org")


def test_an_admin_cannot_lock_themselves_out(store: LabelStore, page: Page) -> None:
    test = of_person(page("admin", "People"), "ada")
    ada = store.labeler("ada")
    assert "This is you." in markdown(test)
    for name in ("suspend", "set-role", "invite-anew"):
        assert test.button(f"review-yes-{name}-{ada.id}").disabled
    (person,) = [p for p in store.people() if p.name == "ada"]
    done: list[str] = []
    review_person._Doing(store, ada, person)._do("suspended", lambda: done.append("x"), away=True)  # a forged click
    assert not done and st.session_state["notice"] == "self"


def test_whoever_was_forgotten_is_listed_and_nothing_is_done_about_them(store: LabelStore, page: Page) -> None:
    campaign(store)
    pseudonym = store.erase("bob")
    test = page("admin", "People")
    assert {row["Name"]: row["Comes in"] for row in table(test)}[pseudonym] == "no: forgotten"
    assert find(test.selectbox, "Do something about").options == ["ann", "ada"]


# --- what one person said ----------------------------------------------------------------------------------------


def test_what_one_person_said_latest_first(store: LabelStore, page: Page) -> None:
    campaign(store)
    store.add_tasks([NewTask(f"four {BEACON}", (f"x {BEACON}", "y"))], batch="two")
    note = Note(quality=2, flags=("Not true",), comment=f"no {BEACON}")
    rank(store, "ann", "y", y=note, comment=f"all in all {BEACON}", seconds=12.4)
    store.decide(1, "drop", by=reviewer(store))
    test = page(part="Rankings")
    find(test.selectbox, "Person").set_value("ann")
    test = well(test.run())
    assert "4 judgments, latest first; page 1 of 1." in markdown(test)
    assert [c.value for c in test.caption if c.value.startswith("Task")] == [f"Task {n}" for n in (4, 3, 2, 1)]
    shown = texts(test)
    assert any(t.endswith("batch two, 12 s") for t in shown) and f"four {BEACON}" in shown
    number = next(r["Answer"] for r in table(test) if r["Begins"] == "y")
    assert f"Answer {number}: flagged as Not true; quality 2 of 7; “no {BEACON}”" in shown
    assert "ann wrote:" in shown and f"all in all {BEACON}" in shown
    assert [row["Rank"] for row in table(test)] == ["1", "2"]
    assert [row["Begins"] for row in table(test, 1)] == ["a", "b", "c"]
    assert shown.count("In exports: yes") == 3 and "In exports: no, roy decided about this task." in shown
    assert "beacon" not in markdown(test)
    find(test.selectbox, "Batch").set_value("two")
    assert "1 judgment, latest first" in markdown(well(test.run()))
    find(test.selectbox, "Person").set_value("bob")
    assert "Nothing of theirs in this batch." in markdown(well(test.run()))


def test_pages_of_rankings_skips_gold_and_imports(store: LabelStore, page: Page) -> None:
    meta = {"comment": "so so", "flags": [["Rude"], []], "quality": [2, 7], "comments": [None, "good"]}
    known = [Ranking(f"p{i}", ("a", "b"), (1, 2), "cid", meta=meta) for i in range(23)]
    store.import_rankings(known, batch="file")
    test = page(part="Rankings")
    assert "page 1 of 3." in markdown(test) and len(test.dataframe) == 10
    assert test.button("review-later").disabled and "cid wrote:" in texts(test)
    assert {row["Shown as"] for row in table(test)} == {"imported"}
    assert any("flagged as Rude; quality 2 of 7" in t for t in texts(test)) and any("“good”" in t for t in texts(test))
    test = press(press(test, "review-earlier"), "review-earlier")
    assert "page 3 of 3." in markdown(test) and len(test.dataframe) == 3 and test.button("review-earlier").disabled
    assignment = store.claim(store.labeler("ann")) if store.add_tasks([NewTask("q", ("a", "b"))], batch="one") else None
    assert assignment is not None
    store.skip(assignment, f"Why {BEACON}")
    gold = gold_for_ann(store)
    test = well(test.run())  # she is on the list now
    find(test.selectbox, "Person").set_value("ann")
    test = well(test.run())
    assert "A gold task: its answer is known, and it is in no export." in texts(test)
    assert [(row["Rank"], row["Known rank"]) for row in table(test)] == [("1", "2"), ("2", "1"), ("3", "3")]
    looks = [str(b.key) for b in test.button if str(b.key).startswith("review-look-")]
    assert f"review-look-{gold}" not in looks  # nobody decides about a gold task
    while not test.button("review-earlier").disabled:
        test = press(test, "review-earlier")
    assert f"In exports: skipped: Why {BEACON}" in texts(test)


# --- what was done -----------------------------------------------------------------------------------------------


def test_the_record_says_in_words_who_did_what(store: LabelStore, page: Page) -> None:
    campaign(store)
    store.exclude("bob", "x", replace=True, by=admin(store))
    store.decide(3, "keep", by=reviewer(store))
    test = page("admin", "Audit")
    rows = [(row["Who"], row["What"], row["About"]) for row in table(test)]
    assert ("roy", "decide", 'task 3: "three"; verdict keep') in rows
    assert ("eve", "exclude", 'project "default"; "bob"; others are asked instead') in rows
    assert ("", "invite", '"eve"; role admin') in rows
    found = [about for who, what, about in rows if (who, what) == ("bob", "judge")]
    assert [about.split(" (")[0] for about in found] == ['task 3: "three"', 'task 2: "two"', 'task 1: "one"']
    assert rows[0][:2] == ("ada", "sign in")  # newest first
    find(test.selectbox, "Who").set_value("bob")
    find(test.multiselect, "What").set_value(["judge"])
    test = well(test.run())
    assert [(row["Who"], row["What"]) for row in table(test)] == [("bob", "judge")] * 3
    find(test.selectbox, "Who").set_value("roy")
    assert "Nothing like that was done." in markdown(well(test.run()))
    find(test.selectbox, "Who").set_value(review_audit.A_PROGRAM)
    find(test.multiselect, "What").set_value([])
    test = well(test.run())
    assert {(row["Who"], row["By a program"]) for row in table(test)} == {("", "yes")}
    assert "add tasks" in {row["What"] for row in table(test)}
    (since,) = test.date_input
    since.set_value(date.today() + timedelta(days=2))
    assert "Nothing like that was done." in markdown(well(test.run()))


def test_nobodys_name_looks_like_a_program(store: LabelStore, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    files: list[bytes] = []
    monkeypatch.setattr(st, "download_button", lambda label, data, **rest: files.append(data))
    store.sign_in_by_token(store.invite("a program", "admin"))
    store.labeler("bob")
    store.exclude("bob", "x", by=store.labeler("a program"))
    test = page("admin", "Audit")
    rows = {(row["Who"], row["By a program"]) for row in table(test) if row["What"] in ("exclude", "invite")}
    assert rows == {("a program", ""), ("", "yes")}
    assert "Where nobody stands under Who, a program or the command line did it." in markdown(test)
    assert {tuple(row[1:3]) for row in csv.reader(io.StringIO(files[-1].decode("utf-8-sig")))} >= rows
    test = of_person(page("admin", "People"), "bob")
    assert "Where nobody stands under By" not in markdown(test)
    assert any(text.endswith("UTC, by the person a program:") for text in texts(test))
    store.include("bob")
    store.exclude("bob", "x")
    test = of_person(page("admin", "People"), "bob")
    assert any(text.endswith("UTC, by a program or the command line:") for text in texts(test))


def test_the_record_is_paged_and_looked_through_from_its_newest_end(
    store: LabelStore, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(review_audit, "DEPTH", 60)
    for i in range(100):
        store.labeler(f"p{i}")
    test = page("admin", "Audit")
    assert "The newest 60 events are looked through." in markdown(test)
    assert "60 events, newest first; page 1 of 2." in markdown(test) and len(table(test)) == 50
    test = press(test, "review-older")
    assert len(table(test)) == 10 and test.button("review-older").disabled
    test = press(test, "review-deeper")
    assert "102 events, newest first; page 2 of 3." in markdown(test) and "looked through" not in markdown(test)


def test_no_cell_of_the_file_is_a_formula() -> None:
    rows = [
        {"Who": text, "What": 'x,\n"y"'} for text in ("=1+1", "+1", "-1", "@x", "\t=1", "\r=1", " =1", "ann", "a=b")
    ]
    data = review_audit.as_csv(rows)
    found = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    assert found[0] == ["Who", "What"] and data.startswith(b"\xef\xbb\xbf")
    assert [row[0] for row in found[1:]] == ["'=1+1", "'+1", "'-1", "'@x", "'\t=1", "'\r=1", "' =1", "ann", "a=b"]
    assert {row[1] for row in found[1:]} == {'x,\n"y"'}
