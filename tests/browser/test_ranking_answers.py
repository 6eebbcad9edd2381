"""The ranking sheet in a real browser: what it sends, and what becomes of a draft by the server's answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from ranking_harness import SETTLED, Sheet, mount, mounted, open_page, task

pytestmark = pytest.mark.browser


@pytest.fixture
def sheet(chromium: Browser) -> Iterator[Sheet]:
    with mounted(chromium, task(4)) as sheet:
        yield sheet


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1200, "height": 900})
    page, asked = open_page(context)
    yield page
    assert asked == []
    context.close()


def test_a_refused_ranking_is_kept_and_sent_again_under_the_same_name(sheet: Sheet) -> None:
    sheet.press("1", "2", "3", "4", "Enter")
    first = sheet.events()[0]["submit_id"]
    sheet.rerun(task(4, answer={"submit_id": first, "ok": False, "message": "<b>Disk full</b>"}))
    assert sheet.message() == "<b>Disk full</b>"
    assert sheet.said() == "1 first, then 2, then 3, then 4." and len(sheet.drafts()) == 1
    sheet.press("Enter")
    assert [event["submit_id"] for event in sheet.events()] == [first, first]
    sheet.rerun(task(4, "18-0", answer={"submit_id": first, "ok": True, "message": "Saved as an extra."}))
    assert sheet.message() == "Saved as an extra."
    sheet.press("1", "2", "3", "4", "Enter")
    assert sheet.events()[2]["submit_id"] != first


def test_a_draft_goes_once_it_is_confirmed_and_not_because_another_task_came(sheet: Sheet) -> None:
    sheet.press("1", "2", "3", "4", "Enter")
    sent = sheet.events()[0]["submit_id"]
    sheet.rerun(task(4, "18-0"))  # as when the server had forgotten what it was told
    assert [name.rpartition(":")[2] for name in sheet.drafts()] == ["17-0"]
    sheet.rerun(task(4, "18-0", answer={"submit_id": sent, "ok": False, "message": "No."}))
    assert [draft["submit_id"] for draft in sheet.drafts().values()] == [sent]
    sheet.rerun(task(4, "17-0"))
    assert sheet.said() == "1 first, then 2, then 3, then 4."
    sheet.press("Enter")
    sheet.rerun(task(4, "19-0", answer={"submit_id": sent, "ok": True, "message": ""}))
    assert sheet.drafts() == {}


@pytest.mark.parametrize("ok", [True, False])
def test_a_correction_that_is_left_loses_its_draft_once_that_is_confirmed(page: Page, ok: bool) -> None:
    before = {"ranks": {"0": 1, "1": 2}, "notes": {}, "comment": "", "better": ""}
    sheet = mount(page, task(2, "17-2", reopened=True, before=before))
    page.get_by_label("Comment (optional)").fill("half")
    sheet.button("Leave it as it was").click()
    sheet.rerun(task(2, "18-1", answer={"submit_id": "", "ok": ok, "message": ""}))
    assert any(name.endswith(":17-2") for name in sheet.drafts()) is not ok


def test_what_is_sent_names_the_instructions_that_were_on_screen(page: Page) -> None:
    def instructed(name: str, version: int) -> dict[str, Any]:
        return task(2, name, guidelines={"version": version, "text": "Be fair.", "tree": None})

    sheet = mount(page, instructed("17-0", 3))
    sheet.press("1", "2", "Enter")
    sheet.rerun(instructed("18-0", 4))
    sheet.press("s", "1")
    sheet.rerun(task(2, "19-0"))
    sheet.press("1", "2", "Enter")
    assert [event["guidelines"] for event in sheet.events()] == [3, 4, 0]


def test_a_silent_server_unlocks_the_sheet_and_the_second_sending_counts_once(page: Page) -> None:
    page.clock.install()
    sheet = mount(page, task(4))
    page.clock.run_for(SETTLED)
    sheet.keys("Digit1", "Digit2", "Digit3", "Digit4", "Enter")
    page.clock.run_for(6000)
    sheet.keys("Enter", "Backspace")
    assert len(sheet.events()) == 1 and sheet.message() == ""
    page.clock.run_for(2100)
    assert sheet.message().startswith("Not confirmed yet. Is the server away? Press Submit to send it again;")
    sheet.keys("Enter")
    first, second = sheet.events()
    assert first["submit_id"] == second["submit_id"] and first["ranks"] == second["ranks"]


def test_signs_of_life_are_told_now_and_then_and_counted(page: Page) -> None:
    page.clock.install()
    sheet = mount(page, task(4, renew_seconds=600))
    page.clock.run_for(1000)
    sheet.keys("Digit1")
    page.clock.run_for(599_000)
    assert sheet.events() == [{"do": "alive", "task": "17-0"}]
    page.clock.run_for(1_200_000)  # nobody there
    assert len(sheet.events()) == 1
    sheet.keys("Digit2", "Digit3", "Digit4", "Enter")
    assert 61 <= sheet.events("submit")[0]["active_seconds"] <= 63  # a break counts as a minute
