"""The pages as Streamlit runs them, without a browser: the plain form, and the pages around it.

The ranking sheet is a component, which runs in browsers only: see test_labeling_app_events.py and tests/browser.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import labeling_app
from labeling_app.launch import STORE_VARIABLE, settle
from labeling_app.views import sign_in
from rlhf.preferences import LabelStore, NewTask

APP = Path(labeling_app.__file__).with_name("app.py")
CHAT = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"})
BEACON = "![x](http://127.0.0.1:9/beacon.png) :rainbow[hi] $x$"
Page = Callable[..., AppTest]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LabelStore]:
    path = tmp_path / "labels.db"
    for name, value in settle(str(path)).environment().items():
        monkeypatch.setenv(name, value)
    st.cache_resource.clear()
    with LabelStore.open(path, create=True) as store:
        yield store
    st.cache_resource.clear()


@pytest.fixture
def page(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> Page:
    """Opens the page in a new tab of a browser that is signed in; with the plain form unless asked otherwise."""
    keys: dict[str, str] = {}

    def open_page(name: str = "ann", *, form: str = "plain", go: str = "") -> AppTest:
        if name:
            keys.setdefault(name, store.sign_in_by_name(name))
        monkeypatch.setattr(sign_in, "session_key", lambda: keys.get(name, ""))
        test = AppTest.from_file(str(APP), default_timeout=30)
        if form:
            test.query_params["form"] = form
        if go:
            test.session_state["go"] = go
        return well(test.run())

    return open_page


def well(test: AppTest) -> AppTest:
    assert [e.value for e in test.exception] == []
    return test


def everything(test: AppTest) -> str:
    """All text on the page that Streamlit reads as Markdown."""
    kinds: list[Any] = [test.markdown, test.caption, test.title, test.subheader, test.info, test.error]
    labels = [w.label for kind in (test.radio, test.multiselect, test.button, test.expander) for w in kind]
    radio = [option for widget in test.radio for option in widget.options]
    return "\n".join([*(str(e.value) for kind in kinds for e in kind), *labels, *radio])


def texts(test: AppTest) -> list[str]:
    return [str(t.value) for t in test.text]


def titles(test: AppTest) -> list[str]:
    return [str(t.value) for t in test.title]


def find(kind: Any, label: str) -> Any:
    (widget,) = [w for w in kind if w.label == label]
    return widget


def press(test: AppTest, label: str) -> AppTest:
    button = find(test.button, label)
    assert not button.disabled, f"{label} is off"
    return well(button.click().run())


def off(test: AppTest, label: str = "Submit and go on") -> bool:
    disabled: bool = find(test.button, label).disabled
    return disabled


def components(test: AppTest) -> list[str]:
    return [str(e.key) for e in test.main if e.type == "bidi_component"]


def place(test: AppTest, *places: int | None) -> AppTest:
    """Choose places for the cards from the first one on; None leaves a card alone."""
    for number, value in enumerate(places, start=1):
        if value is not None:
            find(test.radio, f"Place of answer {number}").set_value(value)
            well(test.run())
    return test


# --- what is shown -----------------------------------------------------------------------------------------------


def test_a_task_is_shown_as_text_and_blind_to_who_wrote_what(store: LabelStore, page: Page) -> None:
    store.configure({"flags": [BEACON], "skip_reasons": [BEACON]})
    store.set_guidelines(f"Prefer the kind one. {BEACON}")
    store.add_tasks([NewTask(CHAT, ("be\u202ecause", f"no {BEACON}"), ("sft-secret", "ppo-secret"))], batch="one")
    test = page()
    shown = texts(test)
    assert shown[:4] == ["ann", f"Prefer the kind one. {BEACON}", "Be brief.", "Why?"]
    assert sorted(shown[4:]) == ["be⟨U+202E⟩cause", f"no {BEACON}"]
    assert everything(test).count("System") == 1 and everything(test).count("User") == 1
    assert "beacon" not in everything(test)
    assert "secret" not in everything(test) + "".join(shown)
    assert "0 rankings done · 1 task to go" in everything(test)
    assert find(test.multiselect, "Flags for answer 1").options == [BEACON]  # its options are no Markdown
    assert off(test)


def test_a_new_tab_returns_to_the_same_task_in_the_same_order(store: LabelStore, page: Page) -> None:
    store.add_tasks([NewTask(str(i), tuple("abcdef")) for i in range(3)], batch="one")
    assert texts(page()) == texts(page())


def test_the_form_stands_in_for_the_ranking_sheet_and_stays_chosen(store: LabelStore, page: Page) -> None:
    store.add_tasks([NewTask("p", ("a", "b")), NewTask("q", ("a", "b"))], batch="one")
    test = page(form="")
    assert components(test) == ["frame", "ranking"] and not test.radio
    test = press(test, "Use a plain form instead")
    assert components(test) == ["frame"] and len(test.radio) == 4 and "form" in test.query_params
    test = press(place(test, 1, 2), "Submit and go on")
    del test.query_params["form"]  # as every link between the pages does
    assert texts(well(test.run()))[1] == "q" and components(test) == ["frame"] and "form" in test.query_params
    test = press(test, "Use the ranking sheet")
    assert components(test) == ["frame", "ranking"] and "form" not in test.query_params


# --- the plain form ----------------------------------------------------------------------------------------------


def test_places_with_ties_reach_the_store_as_ranks(store: LabelStore, page: Page) -> None:
    """Cards 1, 2, 3, 4 get places 3, 1, 3, 4, whatever texts they show: ranks 2, 1, 2, 4."""
    store.add_tasks([NewTask("p", ("a", "b", "c", "d"))], batch="one")
    test = page()
    by_card = texts(test)[2:]
    test = place(test, 3, 1, 3, 4)
    assert "Your order: 2 first, then 1 and 3 (tied), then 4." in texts(test)
    test = press(test, "Submit and go on")
    assert titles(test) == ["All done, thank you"]
    (ranking,) = store.rankings()
    assert dict(zip(ranking.completions, ranking.ranks, strict=True)) == dict(zip(by_card, (2, 1, 2, 4), strict=True))
    assert ranking.labeler == "ann" and [ranking.completions[i] for i in ranking.meta["shown"]] == by_card


def test_submit_is_off_until_every_card_has_a_place(store: LabelStore, page: Page) -> None:
    store.add_tasks([NewTask("p", ("a", "b", "c"))], batch="one")
    test = place(page(), 1, None, 1)
    assert "Your order: 1 and 3 (tied) first. Still to place: 2." in texts(test) and off(test)
    assert find(test.radio, "Place of answer 2").options == ["1st", "2nd", "3rd"]
    assert not off(place(test, None, 3))
    assert store.counts().judgments == 0


def test_where_answers_may_be_left_out_a_place_can_be_taken_back(store: LabelStore, page: Page) -> None:
    store.configure({"allow_partial": True})
    store.add_tasks([NewTask("p", ("a", "b", "c"))], batch="one")
    test = place(page(), 2)
    by_card = texts(test)[2:5]
    assert find(test.radio, "Place of answer 2").options == ["Leave out", "1st", "2nd", "3rd"]
    assert off(test)
    assert not off(place(test, None, 1)) and "Your order: 2 first, then 1. You may leave out: 3." in texts(test)
    assert off(place(test, 0)) and "Your order: 2 first. You may leave out: 1, 3." in texts(test)
    press(place(page(), None, None, 1), "Submit and go on")
    (ranking,) = store.rankings()
    found = dict(zip(ranking.completions, ranking.ranks, strict=True))
    assert [found[text] for text in by_card] == [None, 1, 1]


@pytest.mark.parametrize(
    ("point", "ranks", "strength"), [(1, (1, 2), 3), (3, (1, 2), 1), (4, (1, 1), 0), (6, (2, 1), 2)]
)
def test_of_two_the_strength_is_asked(
    store: LabelStore, page: Page, point: int, ranks: tuple[int, int], strength: int
) -> None:
    store.configure({"strength": True})
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    test = page()
    by_card = texts(test)[2:4]
    assert off(test) and not [r for r in test.radio if r.label.startswith("Place")]
    press(well(find(test.radio, "Which one is better?").set_value(point).run()), "Submit and go on")
    (ranking,) = store.rankings()
    found = dict(zip(ranking.completions, ranking.ranks, strict=True))
    assert tuple(found[text] for text in by_card) == ranks and ranking.meta["strength"] == strength
    test = press(page(), "Correct my last one")
    assert find(test.radio, "Which one is better?").value == point


def test_what_is_said_beside_the_order_reaches_the_store(store: LabelStore, page: Page) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    test = page()
    by_card = texts(test)[2:4]
    press(remark(place(test, 1, 2)), "Submit and go on")
    (ranking,) = store.rankings()
    first = ranking.completions.index(by_card[0])
    assert ranking.meta["comment"] == "close call" and ranking.meta["better"] == "A better one."
    assert [ranking.meta[name][first] for name in ("quality", "flags", "comments")] == [6, ["Not true"], "odd"]
    assert [ranking.meta[name][1 - first] for name in ("quality", "flags", "comments")] == [None, None, None]
    assert ranking.meta["active_seconds"] >= 0


def remark(test: AppTest) -> AppTest:
    """Say everything that can be said beside an order, of the first card and of the whole."""
    find(test.radio, "Quality of answer 1, 1 is bad and 7 is excellent").set_value(6)
    find(test.multiselect, "Flags for answer 1").set_value(["Not true"])
    find(test.text_area, "Comment on answer 1").set_value("odd")
    find(test.text_area, "Comment (optional)").set_value("close call")
    find(test.text_area, "A better answer").set_value(" A better one. ")
    return well(test.run())


def remarks(test: AppTest) -> list[Any]:
    return [
        [find(test.radio, f"Place of answer {n}").value for n in (1, 2)],
        find(test.radio, "Quality of answer 1, 1 is bad and 7 is excellent").value,
        find(test.multiselect, "Flags for answer 1").value,
        find(test.text_area, "Comment on answer 1").value,
        find(test.text_area, "Comment (optional)").value,
        find(test.text_area, "A better answer").value,
    ]


def test_a_draft_outlives_a_reload_and_the_server(store: LabelStore, page: Page, tmp_path: Path) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    remark(place(page(), None, 1))
    said = [[None, 1], 6, ["Not true"], "odd", "close call", " A better one. "]
    assert remarks(page()) == said
    st.cache_resource.clear()  # the next run opens the store anew
    assert remarks(page()) == said
    assert press(place(page(), 2), "Submit and go on") and store.rankings()[0].meta["comment"] == "close call"


def test_a_click_sent_twice_counts_once(store: LabelStore, page: Page) -> None:
    """A reload between two clicks, and both reach the server: the draft's submit_id is the same."""
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    place(page(), 1, 2)
    one, two = page(), page()
    press(one, "Submit and go on")
    assert not press(two, "Submit and go on").error
    assert store.counts().judgments == 1


def test_a_submit_the_store_refuses_is_said_without_a_traceback(store: LabelStore, page: Page) -> None:
    """The same task open in two tabs: the first submit counts, the second tab is told."""
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    one, two = page(), page()
    for tab in (one, two):
        place(tab, 1, 2)
    press(one, "Submit and go on")
    two = press(two, "Submit and go on")
    assert [e.value for e in two.error] == ["That was not saved."]
    assert any("judged or skipped already" in t for t in texts(two))
    assert store.counts().judgments == 1


def test_what_cannot_be_saved_is_said_and_stays_in_the_form(store: LabelStore, page: Page) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    test = place(page(), 1, 2)
    test = well(find(test.text_area, "Comment (optional)").set_value("a\x00b").run())
    test = press(test, "Submit and go on")
    assert [e.value for e in test.error] == ["That was not saved."]
    assert "comment: holds a NUL character (U+0000); remove it" in texts(test)
    assert find(test.radio, "Place of answer 2").value == 2 and store.counts().judgments == 0
    test = well(find(test.text_area, "Comment (optional)").set_value("ab").run())
    assert not press(test, "Submit and go on").error and store.counts().judgments == 1


def test_what_the_lead_switched_off_meanwhile_does_not_stand_in_the_way(store: LabelStore, page: Page) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    test = remark(place(page(), 1, 2))
    store.configure({"quality": False, "flags": ["Rude"], "better_answer": False})
    test = press(well(test.run()), "Submit and go on")
    assert titles(test) == ["All done, thank you"]
    (ranking,) = store.rankings()
    assert not {"quality", "flags", "better"} & set(ranking.meta) and "odd" in ranking.meta["comments"]


def test_skipping_wants_a_reason(store: LabelStore, page: Page) -> None:
    store.add_tasks([NewTask("p", ("a", "b")), NewTask("q", ("a", "b"))], batch="one")
    test = page()
    assert off(test, "Skip this one")
    well(find(test.selectbox, "Why?").set_value("I cannot judge this topic").run())
    test = press(test, "Skip this one")
    assert texts(test)[1] == "q"
    (past,) = store.history(store.labeler("ann"))
    assert (past.outcome, past.skip_reason) == ("skipped", "I cannot judge this topic")


def test_the_last_one_is_corrected_from_what_was_said(store: LabelStore, page: Page) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    test = press(remark(place(page(), 1, 2)), "Submit and go on")
    (before,) = store.rankings()
    test = press(test, "Correct my last one")
    assert "You are correcting an earlier ranking." in everything(test)
    assert remarks(test) == [[1, 2], 6, ["Not true"], "odd", "close call", "A better one."]
    press(place(test, 2, 1), "Save the correction")
    (after,) = store.rankings()
    assert after.ranks == tuple(3 - (rank or 0) for rank in before.ranks) and store.counts().judgments == 2


def test_a_correction_that_was_left_is_forgotten(store: LabelStore, page: Page) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    test = press(press(place(page(), 1, 2), "Submit and go on"), "Correct my last one")
    test = press(place(test, 2, 1), "Leave it as it was")
    assert titles(test) == ["All done, thank you"] and store.counts().judgments == 1
    test = press(test, "Correct my last one")
    assert [find(test.radio, f"Place of answer {n}").value for n in (1, 2)] == [1, 2]


# --- around it ---------------------------------------------------------------------------------------------------


def test_what_was_said_is_listed_and_opened_again(store: LabelStore, page: Page) -> None:
    store.add_tasks([NewTask(f"first {BEACON}", ("a", "b")), NewTask("x" * 400, ("a", "b"))], batch="one")
    assert "Nothing yet." in everything(page(go="history"))
    test = press(place(page(), 2, 1), "Submit and go on")
    well(find(test.selectbox, "Why?").set_value("Something else").run())
    press(test, "Skip this one")
    test = page(go="history")
    assert titles(test) == ["My rankings"] and "beacon" not in everything(test)
    assert texts(test)[1:] == ["x" * 300 + " …", "Skipped: Something else", f"first {BEACON}", "2 first, then 1"]
    older = [b for b in test.button if b.label == "Look again, correct"][1]
    test = well(older.click().run())
    assert "You are correcting an earlier ranking." in everything(test) and f"first {BEACON}" in texts(test)
    press(place(test, 1, 1), "Save the correction")
    test = page(go="history")
    assert texts(test)[1:3] == [f"first {BEACON}", "1 and 2 are all tied"] and "1 correction" in everything(test)


def test_every_version_of_the_instructions_can_be_read(store: LabelStore, page: Page) -> None:
    assert "Your lead has not written any yet." in everything(page(go="instructions"))
    store.set_guidelines("Old\u200b ones.")
    store.set_guidelines(f"*New* ones. {BEACON}")
    test = page(go="instructions")
    assert titles(test) == ["Instructions"] and "beacon" not in everything(test)
    assert [e.label.split(",")[0] for e in test.expander] == ["Version 2", "Version 1"]
    # Each is a component of ours, which shows the tree where there is one and else the text.
    shown = [json.loads(e.proto.json) for e in test.main if str(e.key).startswith("instructions-")]
    assert [data["text"] for data in shown] == [f"*New* ones. {BEACON}", "Old⟨U+200B⟩ ones."]
    assert shown[0]["tree"][0]["children"][0] == {"tag": "em", "children": ["New"]} and shown[1]["tree"] is None


def test_a_store_without_tasks_says_so(page: Page) -> None:
    assert titles(page()) == ["Nothing to rank yet"]


@pytest.mark.parametrize("how", ["suspended", "signed out", "never in"])
def test_whoever_is_not_signed_in_sees_how_to(store: LabelStore, page: Page, how: str) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    test = page("ann" if how != "never in" else "")
    if how == "suspended":
        store.suspend("ann")
        place(test, 1)
    elif how == "signed out":
        press(test, "Sign out")
    assert titles(test) == ["You are signed out"] and not test.radio and "p" not in texts(test)
    assert store.counts().judgments == 0


@pytest.mark.parametrize("content", [None, b"", b"not a database" * 100])
def test_a_store_that_cannot_be_opened_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: Page, content: bytes | None
) -> None:
    path = tmp_path / "gone.db"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv(STORE_VARIABLE, str(path))
    test = page()
    assert titles(test) == ["There is nothing to label with"]
    (line,) = texts(test)
    assert "gone.db" in line and "\n" not in line
    monkeypatch.setenv(STORE_VARIABLE, "")
    assert "start this page with: rlhf label" in texts(page())[0]
    for name, value in settle(str(path), allowed_hosts=["labels.example.org"], https=True).environment().items():
        monkeypatch.setenv(name, value)
    assert texts(page()) == ["Please tell your lead."]  # where it is, is for this machine's people
