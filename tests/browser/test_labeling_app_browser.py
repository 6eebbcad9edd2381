"""The labeling page in a real browser, the whole of it: what is done there is what the store exports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from conftest import Server, number_of, place, sheet, sign_in
from playwright.sync_api import BrowserContext, Page, expect

from rlhf.config import parse
from rlhf.data.records import Ranking
from rlhf.preferences import Counts, LabelStore, NewTask
from rlhf.preferences.schema import assignments
from rlhf.stages import pipeline

pytestmark = pytest.mark.browser


def queue(path: Path, batch: str, *tasks: NewTask) -> None:
    with LabelStore.open(path) as store:
        store.add_tasks(tasks, batch=batch)


def counts(path: Path, batch: str) -> Counts:
    with LabelStore.open(path) as store:
        return store.counts(batch)


def rankings(path: Path, batch: str) -> list[Ranking]:
    with LabelStore.open(path) as store:
        return store.rankings(batch=batch)


def skip(page: Page) -> None:
    page.keyboard.press("KeyS")
    page.keyboard.press("Digit1")


HI = NewTask("Say hi.", ("hi", "hello", "hey", "yo"), ("sft", "ppo", "sft", "ppo"))
BYE = NewTask("Say bye.", ("bye", "ciao"))


def test_k_and_one_keys_are_a_ranking_and_the_next_task_is_there(page: Page, url: str, path: Path) -> None:
    queue(path, "keys", HI, BYE)
    sign_in(page, url, "Ann")
    ranking = sheet(page)
    expect(ranking.get_by_role("button", name="Submit")).to_be_disabled()
    place(page, "hey", "hi", "=yo", "hello")
    expect(ranking.get_by_role("button", name="Submit")).to_be_enabled()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")  # a double Enter, and two keys that were meant for this task
    page.keyboard.press("Digit1")
    page.keyboard.press("Digit2")
    expect(page.get_by_text("Say bye.")).to_be_visible()
    expect(ranking.locator(".pill").filter(has_text="1st")).to_have_count(0)  # none of them landed on the next one
    (found,) = rankings(path, "keys")
    assert (found.prompt, found.completions, found.ranks) == ("Say hi.", ("hi", "hello", "hey", "yo"), (2, 4, 1, 2))
    assert (found.labeler, counts(path, "keys").judgments) == ("Ann", 1)
    assert 0 < found.meta["active_seconds"] < 60
    sheet(page)
    place(page, "ciao", "=bye")
    page.keyboard.press("Enter")
    expect(page.get_by_text("All done, thank you")).to_be_visible()
    assert rankings(path, "keys")[1].ranks == (1, 1)


def test_everything_beside_the_order_reaches_the_store_too(page: Page, url: str, path: Path) -> None:
    queue(path, "notes", BYE)
    sign_in(page, url, "Nora")
    ranking = sheet(page)
    number = number_of(page, "ciao")
    page.keyboard.press("KeyF")
    page.keyboard.press(f"Digit{number}")
    card = ranking.locator(f'[data-card="{number}"]')
    card.get_by_role("radio", name="6").check()
    card.get_by_role("button", name="Not true").click()
    card.get_by_role("textbox").fill("too short")
    page.keyboard.press("Escape")
    place(page, "ciao", "bye")
    ranking.get_by_label("Comment (optional)").fill("a close call, 12 times")  # digits that are typed place nothing
    ranking.get_by_text("Write a better answer").click()
    ranking.locator(".better textarea").fill("Goodbye, and take care.")
    ranking.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("All done, thank you")).to_be_visible()
    (found,) = rankings(path, "notes")
    said = {name: found.meta.get(name) for name in ("quality", "flags", "comments", "comment", "better")}
    assert found.ranks == (2, 1)
    assert said == {
        "quality": [None, 6],
        "flags": [None, ["Not true"]],
        "comments": [None, "too short"],
        "comment": "a close call, 12 times",
        "better": "Goodbye, and take care.",
    }
    with LabelStore.open(path) as store:
        assert [d.completion for d in store.demonstrations(batch="notes")] == ["Goodbye, and take care."]


def test_a_reload_loses_nothing_and_past_ones_can_be_corrected(page: Page, url: str, path: Path) -> None:
    queue(path, "reload", NewTask("Say hi.", ("hi", "hello")), BYE)
    sign_in(page, url, "Bob")
    ranking = sheet(page)
    place(page, "hello")
    ranking.get_by_label("Comment (optional)").fill("half a thou")
    before = ranking.locator(".card").all_inner_texts()
    page.reload()
    sheet(page)
    assert ranking.locator(".card").all_inner_texts() == before
    expect(ranking.get_by_label("Comment (optional)")).to_have_value("half a thou")
    expect(ranking.locator(".pill").filter(has_text="1st")).to_have_count(1)
    place(page, "hi")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Say bye.")).to_be_visible()
    sheet(page)
    page.keyboard.press("KeyU")
    expect(page.get_by_text("You are correcting an earlier ranking")).to_be_visible()
    sheet(page)
    page.keyboard.press("Backspace")
    page.keyboard.press("Backspace")
    place(page, "hi", "hello")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Say bye.")).to_be_visible()
    assert [(r.ranks, r.meta["comment"]) for r in rankings(path, "reload")] == [((1, 2), "half a thou")]
    page.get_by_role("link", name="My rankings").click()
    page.get_by_role("button", name="Look again, correct").click()
    expect(page.get_by_text("You are correcting an earlier ranking")).to_be_visible()
    sheet(page)
    page.get_by_role("button", name="Leave it as it was").click()
    expect(page.get_by_text("Say bye.")).to_be_visible()
    sheet(page)
    skip(page)
    expect(page.get_by_text("All done, thank you")).to_be_visible()
    assert (counts(path, "reload").judgments, counts(path, "reload").skips) == (3, 1)


def test_what_is_said_while_the_server_is_dead_is_sent_once_it_is_back(
    page: Page, serve: Callable[..., Server], tmp_path: Path
) -> None:
    path = tmp_path / "labels.db"
    with LabelStore.open(path, create=True) as store:
        store.add_tasks([BYE, HI], batch="one")
    server = serve(path)
    sign_in(page, server.url, "Dee")
    ranking = sheet(page)
    place(page, "bye")
    server.kill()
    place(page, "ciao")
    ranking.get_by_label("Comment (optional)").fill("typed into the void")
    ranking.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("Not confirmed yet. Is the server away?")).to_be_visible()
    server.start()
    page.reload()
    sheet(page)
    expect(ranking.get_by_label("Comment (optional)")).to_have_value("typed into the void")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Say hi.")).to_be_visible()
    (found,) = rankings(path, "one")
    assert (found.ranks, found.meta["comment"], counts(path, "one").judgments) == ((1, 2), "typed into the void", 1)


def test_two_tabs_make_one_judgment_and_the_second_is_told(
    new_context: Callable[..., BrowserContext], url: str, path: Path
) -> None:
    queue(path, "tabs", NewTask("Say hi.", ("hi", "hello")), BYE)
    context = new_context()
    first, second = context.new_page(), context.new_page()
    sign_in(first, url, "Tab")
    second.goto(url)

    def submit(tab: Page, *order: str) -> None:
        tab.bring_to_front()
        tab.wait_for_timeout(1000)  # a tab that was behind takes keys once it has been seen
        place(tab, *order)
        tab.keyboard.press("Enter")

    for tab in (first, second):
        expect(tab.get_by_text("Say hi.")).to_be_visible()
        sheet(tab)
    submit(first, "hi", "hello")
    expect(first.get_by_text("Say bye.")).to_be_visible()
    submit(second, "hello", "hi")  # judged in the other tab meanwhile
    expect(second.get_by_text("Say bye.")).to_be_visible()
    expect(second.locator(".message")).to_contain_text("judged or skipped already")
    submit(second, "bye", "ciao")
    expect(second.get_by_text("All done, thank you")).to_be_visible()
    submit(first, "ciao", "bye")
    expect(first.get_by_text("All done, thank you")).to_be_visible()
    assert [r.ranks for r in rankings(path, "tabs")] == [(1, 2), (1, 2)]
    assert counts(path, "tabs").judgments == 2


def test_after_the_lease_has_run_out_it_still_counts_or_is_kept_as_an_extra(
    new_context: Callable[..., BrowserContext], url: str, path: Path
) -> None:
    queue(path, "lease", BYE)
    page, other = new_context().new_page(), new_context().new_page()
    sign_in(page, url, "Slow")
    sheet(page)
    with LabelStore.open(path) as store, store._writing() as connection:
        connection.execute(sa.update(assignments).values(leased_until=0.0))
    sign_in(other, url, "Quick")
    sheet(other)
    place(other, "bye", "ciao")
    other.keyboard.press("Enter")
    expect(other.get_by_text("All done, thank you")).to_be_visible()
    place(page, "ciao", "bye")
    page.keyboard.press("Enter")
    expect(page.get_by_text("All done, thank you")).to_be_visible()
    assert [(r.labeler, r.ranks) for r in rankings(path, "lease")] == [("Quick", (1, 2))]
    assert counts(path, "lease").judgments == 2


def test_the_plain_form_does_the_same_and_keeps_its_draft_in_the_store(
    new_context: Callable[..., BrowserContext], url: str, path: Path
) -> None:
    queue(path, "plain", NewTask("Say hi.", ("hi", "hello", "hey")))
    page = new_context().new_page()
    sign_in(page, url, "Pat")
    page.get_by_role("button", name="Use a plain form instead").click()
    answers = page.get_by_role("heading", name="Answer")
    expect(answers).to_have_count(3)

    def choose(answer: str, which: str) -> None:
        card = page.locator('[class*="st-key-card-"]').filter(has=page.get_by_text(answer, exact=True))
        expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
        card.get_by_text(which, exact=True).first.click()
        expect(card.get_by_role("radio", name=which, exact=True).first).to_be_checked()

    choose("hey", "1st")
    choose("hi", "2nd")
    page.get_by_label("Comment (optional)").fill("hm")
    page.get_by_label("Comment (optional)").blur()
    expect(page.get_by_text("Still to place")).to_be_visible()
    page.reload()  # the form is in the address, the draft in the store
    expect(page.get_by_label("Comment (optional)")).to_have_value("hm")
    expect(page.get_by_role("radio", name="1st", checked=True)).to_have_count(1)
    choose("hello", "2nd")
    page.get_by_role("button", name="Submit and go on").dblclick()
    expect(page.get_by_text("All done, thank you")).to_be_visible()
    (found,) = rankings(path, "plain")
    assert (found.ranks, found.meta["comment"], counts(path, "plain").judgments) == ((2, 2, 1), "hm", 1)


def test_whoever_signs_in_next_sees_nothing_of_the_one_before(page: Page, url: str, path: Path) -> None:
    queue(path, "next", NewTask("Say hi.", ("hi", "hello"), priority=9))
    sign_in(page, url, "Eva")
    ranking = sheet(page)
    place(page, "hi")
    ranking.get_by_label("Comment (optional)").fill("Eva's own words")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("textbox", name="Your name")).to_be_visible()
    with LabelStore.open(path) as store:
        given = store.claim(store.labeler("Eva"))
        assert given is not None
        store.release(given)
    page.get_by_role("textbox", name="Your name").fill("Fay")
    page.get_by_role("button", name="Start ranking").click()
    sheet(page)
    expect(page.get_by_text("Say hi.")).to_be_visible()
    expect(ranking.get_by_label("Comment (optional)")).to_have_value("")
    expect(ranking.locator(".pill").filter(has_text="1st")).to_have_count(0)
    skip(page)
    expect(page.get_by_text("All done, thank you")).to_be_visible()


def test_a_missing_store_is_one_line_in_the_browser_too(
    page: Page, serve: Callable[..., Server], tmp_path: Path
) -> None:
    path = tmp_path / "labels.db"
    page.goto(serve(path).url)
    expect(page.get_by_text("There is nothing to label with")).to_be_visible()
    expect(page.get_by_text("labels.db: no such file")).to_be_visible()
    expect(page.get_by_text("Traceback")).to_have_count(0)
    assert not path.exists()


@pytest.mark.parametrize("form", ["sheet", "plain"])
def test_nothing_sticks_out_of_a_phones_screen(
    new_context: Callable[..., BrowserContext], url: str, path: Path, form: str
) -> None:
    wide = "a" * 300 + " " + "https://example.org/" + "x" * 200
    queue(path, f"phone-{form}", NewTask(wide, (wide, *(f"short {i}" for i in range(8)))))
    page = new_context(width=360, height=740).new_page()
    sign_in(page, url, f"Phone {form}")
    sheet(page)
    if form == "plain":
        page.get_by_role("button", name="Use a plain form instead").click()
        expect(page.get_by_role("heading", name="Answer")).to_have_count(9)
    for state in ("start", "end"):
        widths = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        main = page.get_by_test_id("stMain").evaluate("e => [e.scrollWidth, e.clientWidth]")
        assert widths[0] <= widths[1] and main[0] <= main[1], (state, widths, main)
        page.get_by_test_id("stMain").evaluate("e => e.scrollTo({ top: e.scrollHeight })")
    if form == "sheet":
        skip(page)
        expect(page.get_by_text("All done, thank you")).to_be_visible()


def test_rankings_made_here_train_the_reward_model(
    page: Page, serve: Callable[..., Server], tmp_path: Path, tiny_config: Callable[..., dict[str, Any]]
) -> None:
    path = tmp_path / "labels.db"
    texts = [(f"Say {n} nicely.", (f"{n}, gladly", f"{n}, whatever")) for n in ("one", "two", "three", "four")]
    with LabelStore.open(path, create=True) as store:
        store.add_tasks([NewTask(prompt, answers) for prompt, answers in texts], batch="by-hand")
    sign_in(page, serve(path).url, "Rae")
    for prompt, answers in texts:
        expect(page.get_by_text(prompt)).to_be_visible()
        sheet(page)
        place(page, *answers)
        page.keyboard.press("Enter")
    expect(page.get_by_text("All done, thank you")).to_be_visible()

    config = parse(
        tiny_config({"store.url": str(path), "reward.rankings": None, "reward.batches": ["by-hand"]}), "test"
    )
    summary = pipeline.run(config, stages=("reward",))
    assert summary["reward"]["rankings"] + summary["reward"]["pairs"] == 4  # learned from, and held out
    assert summary["reward"]["labelers"] == 1
