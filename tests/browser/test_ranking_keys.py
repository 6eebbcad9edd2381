"""The ranking sheet's keyboard, in a real browser: every key, in order, once, and never on the wrong task."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect
from ranking_harness import SETTLED, Sheet, mounted, task

pytestmark = pytest.mark.browser


@pytest.fixture
def sheet(chromium: Browser) -> Iterator[Sheet]:
    with mounted(chromium, task(4)) as sheet:
        yield sheet


def test_as_many_keys_as_answers_and_enter_send_one_event(sheet: Sheet) -> None:
    sheet.press("3", "1", "Numpad4", "2")
    assert sheet.said() == "3 first, then 1, then 4, then 2."
    assert sheet.strip() == "3›1›4›2"
    assert sheet.events() == []  # the server hears of it at the end
    sheet.press("Enter")
    (event,) = sheet.events()
    assert event["do"] == "submit" and event["task"] == "17-0" and len(event["submit_id"]) >= 32
    assert event["ranks"] == {"2": 1, "0": 2, "3": 3, "1": 4}
    assert event["strength"] is None and event["notes"] == {}
    assert event["comment"] == "" and event["better"] == ""
    assert 0.3 <= event["active_seconds"] < 10 and round(event["active_seconds"], 1) == event["active_seconds"]


def test_shift_ties_with_the_last_placed_and_backspace_takes_back(sheet: Sheet) -> None:
    sheet.press("Shift+2", "3", "Shift+1", "4")
    assert sheet.said() == "2 first, then 1 and 3 tied, then 4."
    sheet.press("Backspace", "Backspace")
    assert sheet.said() == "2 first, then 3. Still to place: 1 and 4."
    sheet.press("3", "Shift+3", "Shift+Numpad4", "1", "Enter")  # 3 is placed: nothing
    assert sheet.events()[0]["ranks"] == {"1": 1, "2": 2, "3": 2, "0": 4}


def test_keys_without_any_time_between_them_keep_their_order(chromium: Browser) -> None:
    with mounted(chromium, task(9)) as sheet:
        sheet.keys("Digit9", "Digit1", "Shift+Digit2", "Digit8", "Backspace", "Digit7", "Digit3", "Numpad4", "Digit8")
        sheet.keys("Digit5", "Shift+Numpad6", "Enter", "Enter", "Digit1", "Enter")
        (event,) = sheet.events()
        assert event["ranks"] == {"8": 1, "0": 2, "1": 2, "6": 4, "2": 5, "3": 6, "7": 7, "4": 8, "5": 8}


def test_an_incomplete_ranking_is_not_sent_unless_the_project_allows_it(sheet: Sheet) -> None:
    sheet.press("1", "2", "3", "Enter")
    assert sheet.events() == []
    expect(sheet.button("Submit")).to_be_disabled()
    sheet.rerun(task(4, "18-0", settings={"allow_partial": True}))
    sheet.press("2", "Enter")
    assert sheet.events() == []
    sheet.press("4", "Enter")
    assert sheet.events()[0]["ranks"] == {"1": 1, "3": 2, "0": None, "2": None}


def test_a_key_for_one_task_never_lands_on_the_next(sheet: Sheet) -> None:
    sheet.press("1", "2", "3", "4", "Enter", "Enter")
    sheet.keys("Digit1", "Backspace", "KeyS", "KeyU", "Digit2")
    sheet.page.evaluate(
        "data => { window.rerun(data); window.send(['Digit1', 'Digit2', 'Digit3', 'Digit4', 'Enter']) }",
        task(4, "18-0"),
    )
    sheet.page.wait_for_timeout(60)
    sheet.keys("Digit3", "Enter")  # painted, but for less than a moment
    sheet.page.wait_for_timeout(SETTLED)
    assert sheet.said() == "Nothing placed yet. Still to place: 1, 2, 3 and 4."
    assert [event["do"] for event in sheet.events()] == ["submit"]
    sheet.press("4")
    assert sheet.said() == "4 first. Still to place: 1, 2 and 3."


def test_a_click_meant_for_one_task_does_nothing_on_the_next(sheet: Sheet) -> None:
    sheet.press("1", "2", "3", "4")
    sheet.button("Submit").dblclick()
    sheet.rerun(task(4, "18-0"), settle=False)
    sheet.page.evaluate("document.getElementById('host').shadowRoot.querySelector('.chip').click()")
    sheet.page.wait_for_timeout(SETTLED)
    assert len(sheet.events()) == 1
    assert sheet.said().startswith("Nothing placed yet.")


@pytest.mark.parametrize(
    "options",
    [
        {"repeat": True},
        {"isComposing": True},
        {"keyCode": 229},
        {"ctrlKey": True},
        {"metaKey": True},
        {"altKey": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_repeats_input_methods_and_shortcuts_are_left_alone(sheet: Sheet, options: dict[str, object]) -> None:
    sheet.page.evaluate(
        """options => {
            for (const code of ["Digit1", "Enter", "KeyS", "KeyU", "KeyF"]) {
                const event = new KeyboardEvent("keydown", { code, bubbles: true, cancelable: true, ...options });
                document.body.dispatchEvent(event);
            }
        }""",
        options,
    )
    assert sheet.said().startswith("Nothing placed yet.")
    assert sheet.events() == [] and sheet.message() == ""


def test_typing_is_typing_inside_and_outside(sheet: Sheet) -> None:
    comment = sheet.page.get_by_label("Comment (optional)")
    comment.click()
    sheet.page.keyboard.type("12 s? crFU\n")
    sheet.press("Backspace")
    assert comment.input_value() == "12 s? crFU"
    assert "c" not in sheet.page.evaluate("window.pageKeys")  # which the page takes for a shortcut of its own
    sheet.press("Escape", "2")  # Escape leaves the field
    assert sheet.said().startswith("2 first.")
    sheet.page.locator("#outside").click()
    sheet.page.keyboard.type("13sS?")
    sheet.press("Backspace", "Enter")
    assert sheet.page.locator("#outside").input_value() == "13sS"
    assert sheet.said().startswith("2 first.") and sheet.events() == []


def test_enter_on_a_button_reached_by_tab_presses_that_button_alone(sheet: Sheet) -> None:
    sheet.press("1", "2", "3", "4")
    sheet.button("Take back").focus()
    sheet.press("Enter")
    assert sheet.said().endswith("Still to place: 4.") and sheet.events() == []
    sheet.press("4")  # digits work from there
    sheet.button("Submit").focus()
    sheet.press("Enter")
    assert len(sheet.events()) == 1


def test_a_mouse_click_leaves_no_focus_that_enter_would_press_again(sheet: Sheet) -> None:
    sheet.page.get_by_label("Comment (optional)").click()
    for number in (2, 1, 4, 3):
        sheet.card(number).get_by_role("button", name="Place").click()
    sheet.card(3).get_by_role("button", name="Rate, flag, comment").click()
    sheet.chip(2).click()
    sheet.press("Enter")
    assert sheet.events()[0]["ranks"] == {"1": 1, "0": 2, "3": 3, "2": 4}


def test_arrows_on_a_chip_move_it_and_with_shift_tie_it(sheet: Sheet) -> None:
    sheet.press("1", "2", "3")
    sheet.chip(3).focus()
    sheet.press("ArrowLeft")
    assert sheet.strip() == "1›3›2"
    sheet.press("Shift+ArrowLeft")
    assert sheet.strip() == "1=3›2"
    sheet.press("ArrowLeft")
    assert sheet.strip() == "3›1›2"
    sheet.press("ArrowRight", "ArrowRight", "ArrowRight")
    assert sheet.strip() == "1›2›3"
    sheet.press("Delete")
    assert sheet.said() == "1 first, then 2. Still to place: 3 and 4."
    sheet.press("Shift+ArrowRight")  # from the tray
    assert sheet.strip() == "1›2=3"
    assert sheet.page.evaluate("document.getElementById('host').shadowRoot.activeElement.dataset.chip") == "3"


def test_f_and_a_number_open_the_notes_where_digits_are_the_quality(sheet: Sheet) -> None:
    sheet.press("1", "f")
    assert "Press its number" in sheet.message()
    sheet.press("3", "6", "Backspace", "5")
    notes = sheet.card(3).get_by_role("radiogroup")
    expect(notes.get_by_role("radio", name="5")).to_have_attribute("aria-checked", "true")
    sheet.press("ArrowRight", "Escape")
    expect(notes).to_be_hidden()
    assert sheet.card(3).locator(".summary").inner_text() == "6/7"
    assert sheet.said().startswith("1 first.")  # the order was left alone
    sheet.press("f", "Escape", "2", "f", "Backspace")  # called off; another key does its own work
    assert sheet.said().startswith("1 first. Still")
    sheet.press("2", "3", "4", "Enter")
    assert sheet.events()[0]["notes"] == {"2": {"quality": 6, "flags": [], "comment": ""}}


def test_s_and_a_number_skip_and_u_corrects_the_last_one(sheet: Sheet) -> None:
    sheet.press("s", "Escape", "1", "s", "9", "Shift+1", "Enter", "Backspace", "s", "2", "s", "2")
    assert sheet.said() == "1 first, then 2. Still to place: 3 and 4."  # open reasons keep keys from the order
    (event,) = sheet.events()
    assert event["task"] == "17-0" and event["reason"] == "The prompt makes no sense" and event["submit_id"]
    sheet.rerun(task(4, "19-0"))
    sheet.press("u", "u")
    assert sheet.events("reopen") == [{"do": "reopen"}]
    sheet.rerun(task(4, "18-1", reopened=True))
    sheet.press("u")
    assert len(sheet.events("reopen")) == 1
    sheet.button("Leave it as it was").click()
    assert sheet.events("leave") == [{"do": "leave", "task": "18-1"}]


def test_help_holds_the_focus_and_switches_the_keys_off(sheet: Sheet) -> None:
    sheet.press("Shift+Slash")
    dialog = sheet.page.get_by_role("dialog", name="Keys")
    expect(dialog).to_be_visible()
    inside = "document.getElementById('host').shadowRoot.activeElement.closest('dialog') !== null"
    for _ in range(5):
        sheet.press("Tab")
        assert sheet.page.evaluate(inside)
    sheet.press("1", "s")
    dialog.get_by_role("switch", name="Use keys").click()
    sheet.press("Escape")
    expect(dialog).to_have_count(0)
    sheet.press("1", "Shift+2", "s", "u", "f", "Shift+Slash", "Enter")
    expect(dialog).to_have_count(0)
    assert sheet.said().startswith("Nothing placed yet.") and sheet.events() == []
    sheet.chip(2).focus()
    sheet.press("Enter", "ArrowRight", "Tab")  # inside controls keys work as ever
    assert sheet.said().startswith("2 first.")
    sheet.page.reload()
    assert sheet.page.evaluate("localStorage.getItem('rlhf:ranking:keys')") == "false"


def test_two_answers_on_a_scale(chromium: Browser) -> None:
    with mounted(chromium, task(2, settings={"strength": True})) as sheet:
        sheet.press("8", "Shift+3", "Enter")
        assert sheet.events() == []
        wanted = {1: (1, 2, 3), 3: (1, 2, 1), 4: (1, 1, 0), 6: (2, 1, 2), 7: (2, 1, 3)}
        for point, (first, second, strength) in wanted.items():
            sheet.press("2", str(point), "Enter")
            event = sheet.events()[-1]
            assert (event["ranks"], event["strength"]) == ({"0": first, "1": second}, strength)
            sheet.rerun(task(2, f"18-{point}", settings={"strength": True}))
        sheet.press("5", "Backspace", "Enter")
        assert len(sheet.events()) == len(wanted)
        sheet.page.get_by_role("radio", name="2 better").click()
        sheet.press("Enter")
        assert sheet.events()[-1]["strength"] == 2


def test_a_key_right_after_the_help_was_closed_counts(sheet: Sheet) -> None:
    """No time in between: on a busy machine the browser tells of the closed dialog later than the next key comes."""
    sheet.press("?")
    expect(sheet.page.get_by_role("dialog")).to_be_visible()
    sheet.keys("Escape", "Digit2", "Digit1")
    assert sheet.said().startswith("2 first, then 1.")
    expect(sheet.page.get_by_role("dialog")).to_have_count(0)
