"""The review page in a browser: a verdict, somebody left out, and texts that try to call home on every part of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Server
from playwright.sync_api import BrowserContext, Page, expect
from test_labeling_app_beacons import ALL, HOST, look, watched

from labeling_app.launch import SESSION_COOKIE
from rlhf.preferences import LabelStore, NewTask, Note

pytestmark = pytest.mark.browser

NAME = f"![n](http://{HOST}/n.png) <img src=//{HOST}/x>"
SOURCE, FLAG, REASON = f"![s](http://{HOST}/s.png)", f"![f](http://{HOST}/f.png)", f"![r](http://{HOST}/r.png)"


def person(context: BrowserContext, server: Server, store: LabelStore, name: str, role: str) -> None:
    """Sign this browser in."""
    key = store.sign_in_by_token(store.invite(name, role))
    context.add_cookies([{"name": SESSION_COOKIE, "value": key, "url": server.url}])


def campaign(store: LabelStore, number: int = 1) -> None:
    """Some tasks; two people, each of whom reverses what the other said."""
    store.configure({"flags": [FLAG], "better_answer": True})
    new = [NewTask(f"{i} {ALL}", (f"{ALL} one", "two"), (SOURCE, "other")) for i in range(number)]
    store.add_tasks(new, batch=NAME, overlap=2)
    for name, first in ((NAME, 1), ("bob", 2)) * number:
        assignment = store.claim(store.labeler(name))
        assert assignment is not None
        ids = sorted(c.id for c in assignment.completions)
        store.submit(
            assignment,
            {ids[0]: first, ids[1]: 3 - first},
            submit_id=f"submit-{assignment.id}",
            notes={ids[0]: Note(quality=1, flags=(FLAG,), comment=ALL[:1900])},
            comment=ALL[:1900],
            better=ALL,
        )


def part(page: Page, name: str) -> None:
    page.get_by_test_id("stButtonGroup").get_by_text(name, exact=True).click()
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


@pytest.mark.parametrize("csp", [True, False], ids=["with-csp", "without-csp"])
def test_a_task_is_decided_and_somebody_left_out_and_nobody_is_called(
    new_context: Callable[..., BrowserContext], serve: Callable[..., Server], tmp_path: Path, csp: bool
) -> None:
    with LabelStore.open(tmp_path / "labels.db", create=True) as store:
        campaign(store)
        server = serve(tmp_path / "labels.db", csp=csp)
        context = new_context()
        person(context, server, store, "ada", "admin")
        page, found = watched(context, server)
        page.goto(f"{server.url}/review")
        expect(page.get_by_role("heading", name="Task 1")).to_be_visible()
        page.get_by_text("Show who wrote the answers").click()
        expect(page.get_by_text(f"Written by {SOURCE}")).to_be_visible()
        page.get_by_text("2 better answers that people wrote").click()
        look(page, found)

        decide = page.get_by_role("button", name="Decide by my ranking")
        expect(decide).to_be_disabled()
        page.get_by_role("radiogroup", name="Your place for answer 1").get_by_text("2nd").click()
        expect(page.get_by_text("Your order: 1 first. Still to place: 2.")).to_be_visible()
        radio = page.get_by_role("radiogroup", name="Your place for answer 2").get_by_role("radio").first
        radio.focus()
        page.keyboard.press("ArrowRight")  # by keyboard alone
        expect(page.get_by_text("Your order: 2 first, then 1.")).to_be_visible()
        page.get_by_label("Comment on your verdict (optional)").fill(f"mine {ALL[:1800]}")
        decide.click()
        expect(page.get_by_text("Everything is decided.")).to_be_visible()
        verdict = store.verdicts()[1]
        assert verdict.by == "ada" and sorted(v or 0 for v in verdict.ranks.values()) == [1, 2]
        assert verdict.comment.startswith("mine ")  # it was typed, and the button clicked at once
        page.get_by_role("button", name="Back to my last verdict").click()
        expect(page.get_by_text("the reviewer's own ranking stands for everybody's")).to_be_visible()
        look(page, found)

        store.decide(1, "keep", by=store.labeler("ada"))  # what a reviewer's ranking settled, nobody is asked again
        part(page, "People")
        page.get_by_label("Do something about").fill("bob")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Leave out of exports").click()
        page.get_by_text("Ask others instead").click()
        page.get_by_label("Why? (kept on record)").fill(REASON)
        page.get_by_role("button", name="Yes, do it").click()  # at once: the text is on its way
        expect(page.get_by_text("Their rankings are left out of exports")).to_be_visible()
        (exclusion,) = store.exclusions()
        assert (exclusion.labeler, exclusion.reason, store.task_views([1])[0].overlap) == ("bob", REASON, 3)
        look(page, found)

        part(page, "Rankings")
        expect(page.get_by_text("1 judgment, latest first")).to_be_visible()
        page.get_by_text("Whole texts").click()
        look(page, found)
        part(page, "Audit")
        expect(page.get_by_text("newest first; page 1 of 1")).to_be_visible()
        look(page, found)


def test_a_typed_address_shows_a_labeler_nothing(
    new_context: Callable[..., BrowserContext], serve: Callable[..., Server], tmp_path: Path
) -> None:
    with LabelStore.open(tmp_path / "labels.db", create=True) as store:
        campaign(store, 2)
        server = serve(tmp_path / "labels.db")
        context = new_context(390, 844, "dark")
        person(context, server, store, "ann", "labeler")
        page, found = watched(context, server)
        page.goto(f"{server.url}/review")
        expect(page.get_by_text("There is nothing here.")).to_be_visible()
        assert page.get_by_text("Disputed").count() == 0 and page.get_by_role("link", name="Review").count() == 0
        look(page, found)
        # A reviewer's tab of two: what the other decided meanwhile is shown, and not overwritten.
        other = new_context()
        person(other, server, store, "rex", "reviewer")
        one, two = other.new_page(), other.new_page()
        for tab in (one, two):
            tab.goto(f"{server.url}/review")
            expect(tab.get_by_role("heading", name="Task 1")).to_be_visible()
        assert one.get_by_text("Audit").count() == 0
        main = one.get_by_test_id("stMain")
        for _ in range(100):  # until all of the task is drawn, and so high that one can scroll
            main.evaluate("e => e.scrollTo({top: e.scrollHeight})")
            one.wait_for_timeout(100)
            if main.evaluate("e => e.scrollTop") > 500:
                break
        assert main.evaluate("e => e.scrollTop") > 500
        one.get_by_role("button", name="Leave the task out").click()
        expect(one.get_by_role("heading", name="Task 2")).to_be_visible()
        for _ in range(100):  # until the next one's head is in sight
            if main.evaluate("e => e.scrollTop") == 0:
                break
            one.wait_for_timeout(100)
        assert main.evaluate("e => e.scrollTop") == 0
        two.get_by_role("button", name="Keep everybody's").click()
        expect(two.get_by_text("Nothing was saved: somebody judged or decided this task")).to_be_visible()
        expect(two.get_by_text("Decided: exports leave this task out.")).to_be_visible()
        assert store.verdicts()[1].kind == "drop"
