"""The ranking sheet in a real browser: mouse, drafts, notes, the server's answers, and texts that nobody can trust."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from ranking_harness import SETTLED, Sheet, mount, mounted, open_page, task

from labeling_app.components import ranking

pytestmark = pytest.mark.browser

FORBIDDEN = (
    r"innerHTML|outerHTML|insertAdjacentHTML|createContextualFragment|document\.write|DOMParser|\beval\b|"
    r"new Function|srcdoc|\burl\(|createElement\(\"(a|img|script|iframe)\"\)|\bel\(\"(a|img|script|iframe)\""
)
BEACONS = (
    '<img src="http://beacon.test/a.png"> ![x](http://beacon.test/b.png) <script>document.title="owned"</script> '
    '[link](javascript:alert(1)) <a href="javascript:alert(1)">x</a> <svg onload="document.title=1"> '
    "<style>@import 'http://beacon.test/c.css'</style> http://beacon.test/ <iframe src=//beacon.test></iframe>"
)


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


def drag(sheet: Sheet, number: int, x: float, y: float) -> None:
    box = sheet.chip(number).bounding_box()
    assert box
    mouse = sheet.page.mouse
    mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    mouse.down()
    mouse.move(x, y, steps=6)
    mouse.up()


def centre(sheet: Sheet, selector: str) -> tuple[float, float]:
    sheet.page.wait_for_timeout(200)  # chips glide to their places
    box = sheet.page.locator(selector).bounding_box()
    assert box
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


# ---- mouse ----


def test_chips_are_dragged_between_places_onto_each_other_and_back(sheet: Sheet) -> None:
    sheet.press("1", "2", "3")
    drag(sheet, 3, *centre(sheet, ".gap >> nth=0"))
    assert sheet.strip() == "3›1›2"
    drag(sheet, 2, *centre(sheet, '[data-chip="3"]'))
    assert sheet.strip() == "3=2›1"
    drag(sheet, 3, *centre(sheet, ".gap >> nth=1"))
    assert sheet.strip() == "2›3›1"
    drag(sheet, 3, *centre(sheet, ".tray-name"))
    assert sheet.said() == "2 first, then 1. Still to place: 3 and 4."
    drag(sheet, 4, *centre(sheet, ".gap >> nth=1"))
    drag(sheet, 3, *centre(sheet, ".gap.last"))
    assert sheet.strip() == "2›4›1›3"
    drag(sheet, 2, 600, 200)  # far away: back to where it was
    assert sheet.strip() == "2›4›1›3"
    sheet.press("Enter")
    assert sheet.events()[0]["ranks"] == {"1": 1, "3": 2, "0": 3, "2": 4}


def test_a_finger_drags_too(chromium: Browser) -> None:
    with mounted(chromium, task(4), viewport={"width": 390, "height": 844}) as sheet:
        sheet.press("1", "2")
        x, y = centre(sheet, '[data-chip="1"]')
        sheet.page.evaluate(
            """([x, y]) => {
                const root = document.getElementById("host").shadowRoot;
                const chip = root.querySelector('[data-chip="2"]');
                chip.setPointerCapture = () => {};
                const fire = (type, x, y) => chip.dispatchEvent(new PointerEvent(type, {
                    pointerId: 7, pointerType: "touch", isPrimary: true, bubbles: true, composed: true,
                    clientX: x, clientY: y,
                }));
                const box = chip.getBoundingClientRect();
                fire("pointerdown", box.x + 9, box.y + 9);
                fire("pointermove", x, y);
                fire("pointerup", x, y);
            }""",
            [x, y],
        )
        assert sheet.strip() == "1=2"
        assert sheet.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_cards_are_placed_tied_and_taken_out_by_their_buttons(sheet: Sheet) -> None:
    sheet.card(3).locator(".badge").click()
    sheet.chip(1).click()
    sheet.card(4).get_by_role("button", name="Tie with 1").click()
    sheet.card(2).get_by_role("button", name="Place").click()
    assert sheet.said() == "3 first, then 1 and 4 tied, then 2."
    places = [sheet.card(number).locator(".pill").inner_text() for number in (1, 2, 3, 4)]
    assert places == ["2nd, tied", "4th", "1st", "2nd, tied"]
    sheet.card(1).get_by_role("button", name="Take out").click()
    assert sheet.said() == "3 first, then 4, then 2. Still to place: 1."
    sheet.button("Take back").click()
    sheet.button("Skip").click()
    sheet.button("Something else").click()
    assert sheet.events()[0]["reason"] == "Something else"


def test_long_texts_are_folded_and_open_up(chromium: Browser) -> None:
    data = task(2)
    data["completions"][0]["text"] = "A line.\n" * 80
    with mounted(chromium, data) as sheet:
        text = sheet.card(1).locator(".text")
        assert text.evaluate("e => e.clientHeight") < 400
        expect(sheet.card(2).get_by_text("Show all")).to_be_hidden()
        sheet.card(1).get_by_text("Show all").click()
        assert text.evaluate("e => e.clientHeight") > 1500
        sheet.card(1).get_by_text("Show less").click()
        assert text.evaluate("e => e.clientHeight") < 400


# ---- notes and texts ----


def test_notes_comment_and_a_better_answer_go_with_the_ranking(sheet: Sheet) -> None:
    card = sheet.card(2)
    card.get_by_role("button", name="Rate, flag, comment").click()
    card.get_by_role("radio", name="5").click()
    card.get_by_role("button", name="Harmful").click()
    card.get_by_role("button", name="Not true").click()
    card.get_by_label("Comment on answer 2").fill("Überall\nfalsch")
    card.get_by_role("button", name="Rate, flag, comment").click()
    assert card.locator(".summary").inner_text() == "5/7 · 2 flags · comment"
    sheet.card(1).get_by_role("button", name="Rate, flag, comment").click()
    sheet.card(1).get_by_role("radio", name="3").click()
    sheet.card(1).get_by_role("button", name="Clear").click()
    sheet.page.get_by_label("Comment (optional)").fill("close call")
    sheet.page.get_by_text("Write a better answer (optional)").click()
    sheet.page.get_by_label("Your answer").fill("Because of Rayleigh scattering.")
    sheet.press("Escape", "1", "2", "3", "4", "Enter")
    (event,) = sheet.events()
    assert event["notes"] == {"1": {"quality": 5, "flags": ["Not true", "Harmful"], "comment": "Überall\nfalsch"}}
    assert event["comment"] == "close call" and event["better"] == "Because of Rayleigh scattering."


def test_what_the_project_does_not_ask_for_is_not_there(chromium: Browser) -> None:
    settings = {"quality": False, "flags": [], "comment_length": 0, "better_answer": False}
    with mounted(chromium, task(3, settings=settings, can_reopen=False)) as sheet:
        assert sheet.page.locator("textarea, .notes-bar, summary").count() == 0
        expect(sheet.button("Correct my last one")).to_be_hidden()
        expect(sheet.button("Formatted")).to_be_hidden()
        sheet.press("f", "1", "2", "3", "u", "Enter")
        assert sheet.events()[0]["notes"] == {}


def test_a_reopened_judgment_starts_with_what_was_said(chromium: Browser) -> None:
    before = {
        "ranks": {"0": 2, "1": 1, "2": 2, "3": None},
        "strength": None,
        "notes": {"1": {"quality": 5, "flags": ["Not true", "No longer asked"], "comment": "x"}},
        "comment": "close",
        "better": "mine",
    }
    data = task(4, "17-1", reopened=True, before=before, settings={"allow_partial": True})
    with mounted(chromium, data) as sheet:
        expect(sheet.page.get_by_text("You are correcting an earlier ranking. Saving replaces it.")).to_be_visible()
        assert sheet.said() == "2 first, then 1 and 3 tied. Still to place: 4."
        assert sheet.card(2).locator(".summary").inner_text() == "5/7 · 1 flag · comment"
        sheet.press("4", "Enter")
        event = sheet.events()[0]
        assert event["ranks"] == {"1": 1, "0": 2, "2": 2, "3": 4}
        assert event["notes"] == {"1": {"quality": 5, "flags": ["Not true"], "comment": "x"}}
        assert (event["comment"], event["better"]) == ("close", "mine")


# ---- drafts ----


def test_a_draft_outlives_a_reload_with_its_submit_id(page: Page) -> None:
    sheet = mount(page, task(4))
    sheet.press("3", "Shift+1")
    sheet.card(2).get_by_role("button", name="Rate, flag, comment").click()
    sheet.card(2).get_by_role("radio", name="6").click()
    page.get_by_label("Comment (optional)").fill("half")
    (draft,) = sheet.drafts().values()
    sheet = mount(page, task(4, before={"ranks": {"0": 1, "1": 2, "2": 3, "3": 4}, "notes": {}, "comment": "old"}))
    assert sheet.said() == "1 and 3 tied first. Still to place: 2 and 4."
    sheet.press("2", "4", "Enter")
    event = sheet.events()[0]
    assert event["submit_id"] == draft["submit_id"] and event["comment"] == "half"
    assert event["ranks"] == {"2": 1, "0": 1, "1": 3, "3": 4} and event["notes"]["1"]["quality"] == 6
    assert event["active_seconds"] > 0.3
    sheet.rerun(task(4, "18-0", answer={"submit_id": event["submit_id"], "ok": True, "message": ""}))
    assert [name for name in sheet.drafts() if ":17-0" in name] == []


def test_at_most_twenty_drafts_are_kept_and_broken_ones_do_no_harm(page: Page) -> None:
    sheet = mount(page, task(4))
    page.evaluate("localStorage.setItem('rlhf:ranking:draft:ab12:bad', '{nonsense')")
    for number in range(24):
        page.evaluate("data => window.rerun(data)", task(4, f"{number}-9"))
        page.wait_for_timeout(190)
        sheet.keys("Digit1")
    names = list(sheet.drafts()) if page.evaluate("localStorage.getItem('rlhf:ranking:draft:ab12:bad')") is None else []
    assert len(names) == 20
    assert any(":23-9" in name for name in names) and not any(name.endswith(":0-9") for name in names)
    order = '{"groups": [["0", "9", "0"], 5, ["1", 0, "0"]], "placed": [7]}'
    wrong = f'{{"order": {order}, "point": "x", "notes": 3, "active": -1}}'
    page.evaluate("text => localStorage.setItem('rlhf:ranking:draft:ab12:60-0', text)", wrong)
    sheet.rerun(task(4, "60-0"))
    assert sheet.said() == "1 first, then 2. Still to place: 3 and 4."


def test_without_storage_ranking_goes_on(page: Page) -> None:
    page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('off') } })")
    sheet = mount(page, task(2))
    sheet.press("2", "1", "Enter")
    assert sheet.events()[0]["ranks"] == {"0": 2, "1": 1}


# ---- reruns ----


def test_a_rerun_of_the_same_task_disturbs_nothing(sheet: Sheet) -> None:
    comment = sheet.page.get_by_label("Comment (optional)")
    comment.click()
    sheet.page.keyboard.type("half a ")
    top = sheet.page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop = 120")
    sheet.rerun(task(4, can_reopen=False), settle=False)
    sheet.page.keyboard.type("word")
    assert comment.input_value() == "half a word"
    assert sheet.page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop") == top
    sheet.page.locator("#outside").evaluate("e => e.focus({ preventScroll: true })")
    assert sheet.page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop") == top > 0
    sheet.rerun(task(4, "18-0"))
    assert sheet.page.evaluate("document.activeElement.id") == "outside"
    assert sheet.page.evaluate("document.querySelector('[data-testid=stMain]').scrollTop") == 0


def test_cleaning_up_an_overtaken_run_does_not_stop_the_sheet(sheet: Sheet) -> None:
    sheet.page.evaluate("data => { const old = window.cleanup; window.rerun(data); old() }", task(4))
    sheet.press("1")
    assert sheet.said().startswith("1 first.")
    sheet.page.evaluate("window.cleanup()")
    assert sheet.page.locator(".sheet").count() == 0
    sheet.rerun(task(4))
    assert sheet.said().startswith("1 first.")  # from its draft
    sheet.keys("Digit2")
    assert sheet.said().startswith("1 first, then 2.")


# ---- texts that nobody can trust ----


def hostile() -> dict[str, Any]:
    tree = [
        {"tag": "p", "children": [BEACONS, {"tag": "strong", "children": ["bold"]}]},
        {"tag": "img", "children": ["a picture"]},
        {"tag": "SCRIPT", "children": ["document.title = 1"]},
        {"tag": "a", "children": [{"tag": "iframe", "children": ["inside"]}]},
        {"tag": "ul", "children": [{"tag": "li", "children": ["one"]}, 7, None]},
        {"tag": "table", "children": [{"tag": "tr", "children": [{"tag": "td", "children": ["cell"]}]}]},
    ]
    text = {"text": BEACONS, "tree": tree}
    settings = {"flags": [BEACONS], "skip_reasons": [BEACONS]}
    data = task(2, settings=settings, guidelines={"version": 2, **text}, prompt=[{"role": BEACONS, **text}])
    data["completions"] = [{"id": "0", **text}, {"id": "1", **text}]
    note = {"quality": 1, "flags": [BEACONS], "comment": BEACONS}
    data["before"] = {"ranks": {"0": 1, "1": 2}, "notes": {"0": note}, "comment": BEACONS, "better": BEACONS}
    return {**data, "reopened": True, "answer": {"submit_id": "", "ok": False, "message": BEACONS}}


def test_texts_fetch_nothing_and_become_no_elements_but_the_allowed_ones(chromium: Browser) -> None:
    with mounted(chromium, hostile()) as sheet:  # which asserts that nothing was asked for
        assert sheet.card(1).locator(".text").inner_text() == BEACONS
        sheet.button("Formatted").click()
        sheet.button("Skip").click()
        sheet.page.get_by_text("Instructions, version 2").click()
        sheet.card(1).get_by_role("button", name="Rate, flag, comment").click()
        assert BEACONS in sheet.card(1).locator(".text").inner_text()
        assert "a picture" in sheet.card(1).locator(".text").inner_text()
        assert sheet.card(1).locator(".text strong").inner_text() == "bold"
        inside = "e => [...new Set([...e.querySelectorAll('*')].map(e => e.localName))].sort()"
        allowed = ["div", "li", "p", "strong", "table", "td", "tr", "ul"]
        assert sheet.card(1).locator(".text").evaluate(inside) == allowed
        foreign = "img, a, script, iframe, svg, link, object, embed, [onload], [href], [src]"
        assert sheet.page.locator(foreign).count() == 0
        sheet.page.wait_for_timeout(SETTLED)
        assert sheet.page.title() == "Sheet"


def test_the_choice_of_formatting_is_kept(page: Page) -> None:
    data = task(2)
    data["completions"][0]["tree"] = [{"tag": "p", "children": [{"tag": "em", "children": ["Answer"]}]}]
    sheet = mount(page, data)
    assert page.locator(".text em").count() == 0  # plain until asked for
    sheet.button("Formatted").click()
    sheet = mount(page, data)
    assert page.locator(".text em").inner_text() == "Answer"


def test_instructions_say_that_they_have_changed(page: Page) -> None:
    changed = page.get_by_text("changed since you last read them")
    mount(page, task(2, guidelines={"version": 3, "text": "Be fair.", "tree": None}))
    page.get_by_text("Instructions, version 3").click()
    sheet = mount(page, task(2, guidelines={"version": 3, "text": "Be fair.", "tree": None}))
    expect(changed).to_be_hidden()
    sheet.rerun(task(2, guidelines={"version": 4, "text": "Be fairer.", "tree": None}))
    expect(changed).to_be_visible()
    page.get_by_text("Instructions, version 4").click()
    expect(changed).to_be_hidden()
    expect(page.get_by_text("Be fairer.")).to_be_visible()


def test_the_source_holds_none_of_the_ways_to_make_markup_of_text() -> None:
    source = ranking.source()
    assert re.findall(FORBIDDEN, source) == []
    assert source.count("export default") == 1
    assert "url(" not in ranking.style() and "@import" not in ranking.style()
    for part in ranking.PARTS:
        assert len((ranking.FOLDER / f"{part}.js").read_text().splitlines()) < 400
