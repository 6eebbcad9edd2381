"""Texts that try to call home, run or hide: in every place where somebody else's text is shown, on every page.

Tried with the Content-Security-Policy and without it: that nobody is called must not hang on the policy.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Server, place, sheet, sign_in
from playwright.sync_api import BrowserContext, Page, expect

from rlhf.data.records import Messages
from rlhf.preferences import LabelStore, NewTask

pytestmark = pytest.mark.browser

HOST = "beacon.invalid"
BEACONS = (
    f"![a](http://{HOST}/a.png) ![b][ref] [c](http://{HOST}/c)\n\n[ref]: http://{HOST}/b.png",
    f'<img src="http://{HOST}/d.png" onerror="window.owned=1"><svg onload="window.owned=1"><image href="//{HOST}/e"/>',
    f'<script>window.owned=1</script><script src="//{HOST}/f.js"></script><iframe src="//{HOST}/g"></iframe>',
    f'<link rel=stylesheet href="//{HOST}/h.css"><style>@import url(//{HOST}/i.css); *{{background:url(//{HOST}/j)}}'
    "</style>",
    f'<video src="//{HOST}/k" autoplay></video><object data="//{HOST}/l"></object><base href="//{HOST}/">',
    f"$\\includegraphics{{http://{HOST}/m}}$ $$\\href{{javascript:window.owned=1}}{{x}}$$ \\url{{http://{HOST}/n}}",
    f":rainbow[x] :material/home: :blue-background[y] :image[http://{HOST}/o] [z](javascript:window.owned=1)",
    f"<http://{HOST}/p> http://{HOST}/q www.{HOST} a@{HOST}\n\n```html\n<img src=//{HOST}/r>\n```",
    f"| ![s](http://{HOST}/s.png) | t |\n|-|-|\n| <img src=//{HOST}/u> | `![v](http://{HOST}/v)` |",
    "{{ constructor.constructor('window.owned=1')() }} ${window.owned=1} '\"><img src=x onerror=window.owned=1>",
)
ALL = "\n\n".join(BEACONS)
NAME = f"![n](http://{HOST}/n.png)"
FLAG, REASON = f"![f](http://{HOST}/f.png)", f"![r](http://{HOST}/s.png) <img src=//{HOST}/t>"
CHAT: Messages = (
    {"role": "system", "content": ALL},
    {"role": "user", "content": ALL},
    {"role": "assistant", "content": ALL},
    {"role": "user", "content": ALL},
)


@pytest.fixture(params=[True, False], ids=["with-csp", "without-csp"])
def server(request: pytest.FixtureRequest, serve: Callable[..., Server], tmp_path: Path) -> Server:
    path = tmp_path / "labels.db"
    with LabelStore.open(path, create=True) as store:
        store.set_guidelines(ALL)
        store.configure({"flags": [FLAG], "skip_reasons": [REASON]})
        store.add_tasks([NewTask(ALL, (f"{ALL} one", f"{ALL} two", "three")), NewTask(CHAT, (ALL, "x"))], batch=NAME)
    return serve(path, csp=request.param)


def watched(context: BrowserContext, server: Server) -> tuple[Page, list[str]]:
    """A page, and what it does that it should not: foreign requests, dialogs, windows, errors."""
    page, found = context.new_page(), list[str]()
    own = (server.url, server.url.replace("http", "ws"), "data:", "blob:")
    context.on("request", lambda r: None if r.url.startswith(own) else found.append(r.url))
    page.on("websocket", lambda w: None if w.url.startswith(own) else found.append(w.url))
    page.on("dialog", lambda d: (found.append(d.message), d.dismiss()))
    page.on("popup", lambda p: found.append(f"popup {p.url}"))
    page.on("pageerror", lambda e: found.append(f"error {e}"))
    return page, found


def look(page: Page, found: list[str]) -> None:
    """Everything open and drawn: nobody was called, nothing ran."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(300)
    assert found == []
    assert page.evaluate("window.owned") is None
    foreign = page.locator(
        f'[src*="{HOST}"], [href*="{HOST}"], [data*="{HOST}"], [style*="{HOST}"], [onerror], [onload]'
    )
    assert foreign.count() == 0
    assert page.locator('a[href^="javascript:"], iframe, object, embed, base, video').count() == 0


def choose(page: Page, label: str) -> None:
    """Open a list of choices. It closes when the page moves, so the field is brought into view first."""
    field = page.get_by_label(label)
    field.scroll_into_view_if_needed()
    field.focus()
    page.wait_for_timeout(1000)
    field.press("ArrowDown")


def test_nobody_is_called_from_any_page(new_context: Callable[..., BrowserContext], server: Server) -> None:
    page, found = watched(new_context(), server)
    sign_in(page, server.url, NAME)
    ranking = sheet(page)
    ranking.get_by_text(re.compile("Instructions, version")).click()
    ranking.get_by_role("button", name="Rate, flag, comment").first.click()
    while (more := ranking.get_by_role("button", name="Show all")).count():
        more.first.click()
    look(page, found)
    ranking.get_by_role("button", name="Formatted").click()
    expect(ranking.locator(".card table").first).to_be_visible()
    look(page, found)
    ranking.get_by_role("button", name=FLAG).first.click()
    ranking.get_by_label("Comment (optional)").fill(ALL[:1900])
    ranking.get_by_role("button", name="Skip").click()
    expect(ranking.get_by_text(REASON)).to_be_visible()
    look(page, found)
    page.keyboard.press("Escape")
    ranking.locator(".card .place").first.click()
    for _ in range(2):
        ranking.locator(".card").get_by_role("button", name="Place").first.click()
    ranking.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("1 ranking done")).to_be_visible()
    sheet(page)  # the chat
    look(page, found)
    page.get_by_role("link", name="My rankings").click()
    expect(page.get_by_role("button", name="Look again, correct")).to_be_visible()
    look(page, found)
    page.get_by_role("link", name="Instructions").click()
    expect(page.get_by_text("Version 1")).to_be_visible()
    expect(page.locator(".sheet table")).to_be_visible()
    look(page, found)
    assert page.title() == "Instructions"


def test_nor_from_the_plain_form_the_last_page_and_the_sign_in(
    new_context: Callable[..., BrowserContext], server: Server
) -> None:
    page, found = watched(new_context(), server)
    page.goto(server.url)
    page.get_by_role("textbox", name="Your name").fill('<img src="//beacon.invalid/x" onerror=window.owned=1>\u202e')
    page.get_by_role("button", name="Start ranking").click()  # refused: the name is shown again
    expect(page.get_by_role("alert")).to_be_visible()
    look(page, found)
    sign_in(page, server.url, NAME)
    sheet(page)
    page.get_by_role("button", name="Use a plain form instead").click()
    expect(page.get_by_role("heading", name="Answer")).to_have_count(3)
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    page.wait_for_timeout(500)
    page.get_by_test_id("stExpander").first.locator("summary").click()  # the instructions
    page.get_by_text("Rate, flag or comment on answer 1").click()
    choose(page, "Flags for answer 1")
    expect(page.get_by_role("option", name=FLAG)).to_be_visible()
    look(page, found)
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("stMultiSelect").get_by_text(FLAG).first).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_label("Comment (optional)").fill(ALL[:1900])
    page.get_by_label("Comment (optional)").blur()
    look(page, found)
    for _ in range(2):
        page.get_by_role("button", name="Skip", exact=True).click()
        choose(page, "Why?")
        expect(page.get_by_role("option", name=REASON)).to_be_visible()
        look(page, found)
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Skip this one").click()
        page.wait_for_timeout(1000)
    expect(page.get_by_text("All done, thank you")).to_be_visible()
    look(page, found)


def test_the_watcher_has_teeth(new_context: Callable[..., BrowserContext], server: Server) -> None:
    """An image that is asked for is seen, whether the policy lets it pass or not."""
    page, found = watched(new_context(), server)
    page.goto(f"{server.url}/sign-in")
    page.evaluate(f"fetch('http://{HOST}/x').catch(() => 0); document.body.innerHTML += '<img src=http://{HOST}/y>'")
    page.wait_for_timeout(500)
    with pytest.raises(AssertionError):
        look(page, found)


def test_what_cannot_be_seen_is_spelled_out(
    new_context: Callable[..., BrowserContext], serve: Callable[..., Server], tmp_path: Path
) -> None:
    with LabelStore.open(tmp_path / "labels.db", create=True) as store:
        store.add_tasks([NewTask("Which?", ("safe\u202egnp.exe", "zero\u200bwidth", "مرحبا بالعالم"))], batch="one")
    page = new_context().new_page()
    sign_in(page, serve(tmp_path / "labels.db").url, "Una")
    ranking = sheet(page)
    expect(ranking.get_by_text("safe⟨U+202E⟩gnp.exe")).to_be_visible()
    expect(ranking.get_by_text("zero⟨U+200B⟩width")).to_be_visible()
    arabic = ranking.get_by_text("مرحبا بالعالم")
    assert arabic.evaluate("e => getComputedStyle(e).direction") == "rtl"
    place(page, "مرحبا بالعالم")
    expect(ranking.locator(".pill").filter(has_text="1st")).to_have_count(1)
