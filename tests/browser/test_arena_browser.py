"""An arena in real browsers: people vote without ever being sent who wrote what, and an admin watches who wins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import place, sheet, sign_in
from playwright.sync_api import BrowserContext, Locator, Page, WebSocket, expect

from labeling_app.launch import SESSION_COOKIE
from rlhf.preferences import LabelStore, NewTask

pytestmark = pytest.mark.browser

CONTESTANT, WON = 1, 2  # columns of the standings
SECRETS = ("zebra-model", "quokka-model", "third-model")


def queue(path: Path, batch: str, number: int, sources: tuple[str, ...] = SECRETS[:2]) -> None:
    texts = ("A swift answer", "A thorough answer, with more to read in it", "Something else")
    tasks = [NewTask(f"Question {i} of {batch}?", texts[: len(sources)], sources) for i in range(number)]
    with LabelStore.open(path) as store:
        store.add_tasks(tasks, batch=batch)


def sign_in_admin(context: BrowserContext, url: str, path: Path, name: str) -> Page:
    with LabelStore.open(path) as store:
        key = store.sign_in_by_token(store.invite(name, "admin"))
    context.add_cookies([{"name": SESSION_COOKIE, "value": key, "url": url}])
    return context.new_page()


def heard(page: Page) -> list[bytes]:
    """Everything that this page is sent through its websocket from now on."""
    found: list[bytes] = []

    def listen(socket: WebSocket) -> None:
        socket.on("framereceived", lambda data: found.append(data if isinstance(data, bytes) else data.encode()))

    page.on("websocket", listen)
    return found


def test_a_vote_is_blind_and_the_admin_sees_the_standings_change(
    page: Page, url: str, path: Path, new_context: Callable[..., BrowserContext]
) -> None:
    queue(path, "duel", 2)
    frames = heard(page)
    sign_in(page, url, "Ann")
    sheet(page)
    place(page, "A swift answer", "A thorough answer, with more to read in it")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Question 1 of duel?")).to_be_visible()

    admin = sign_in_admin(new_context(), url, path, "Lena")
    admin.goto(f"{url}/arena")
    expect(admin.get_by_text("1 of 2 tasks have all their votes.")).to_be_visible()
    expect(admin.get_by_text("1 comparison from 1 ranking of 1 task.")).to_be_visible()
    expect(cell(admin, 0, CONTESTANT)).to_have_text("zebra-model")
    expect(cell(admin, 1, CONTESTANT)).to_have_text("quokka-model")
    expect(cell(admin, 0, WON)).to_have_text("100 %")

    sheet(page)
    place(page, "A thorough answer, with more to read in it", "A swift answer")
    page.keyboard.press("Enter")
    expect(page.get_by_text("All done, thank you")).to_be_visible()
    expect(admin.get_by_text("2 of 2 tasks have all their votes.")).to_be_visible()  # by itself, without a click
    expect(admin.get_by_text("2 comparisons from 2 rankings of 2 tasks.")).to_be_visible()
    expect(cell(admin, 0, WON)).to_have_text("50 %")

    page.goto(f"{url}/arena")
    expect(page.get_by_text("There is nothing here.")).to_be_visible()
    everything = b"\n".join(frames)
    assert b"A swift answer" in everything and b"Question 1 of duel?" in everything  # what is listened to is heard
    for name in SECRETS:
        assert name.encode() not in everything and name not in page.content()


def cell(page: Page, row: int, column: int) -> Locator:
    """A cell of the table, which is drawn on a canvas: from the grid that it keeps for screen readers."""
    return page.get_by_test_id(f"glide-cell-{column}-{row}").first


@pytest.mark.parametrize(("scheme", "size"), [("light", (1200, 900)), ("dark", (1200, 900)), ("light", (390, 844))])
def test_the_charts_are_drawn(
    url: str, path: Path, new_context: Callable[..., BrowserContext], scheme: str, size: tuple[int, int]
) -> None:
    batch = f"three {scheme} {size[0]}"
    queue(path, batch, 12, SECRETS)
    with LabelStore.open(path) as store:
        by_id = {c.id: c.source for task in store.waiting(batch) for c in task.completions}
        ann = store.labeler(f"Ann {batch}")
        for i in range(12):
            task = store.claim(ann)
            assert task is not None
            best = SECRETS[i % 3 if i % 2 else 0]
            ranks = {c.id: 1 if by_id[c.id] == best else 2 + (by_id[c.id] == "third-model") for c in task.completions}
            store.submit(task, ranks, submit_id=f"{batch} {i}")
    context = new_context(*size, scheme=scheme)
    admin = sign_in_admin(context, url, path, f"Lena {batch}")
    complaints: list[str] = []
    admin.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    admin.goto(f"{url}/arena")
    expect(admin.get_by_text("12 of 12 tasks have all their votes.")).to_be_visible()
    charts = admin.get_by_test_id("stVegaLiteChart")
    expect(charts).to_have_count(2)
    expect(charts.nth(0).get_by_text("zebra-model")).to_be_visible()
    expect(charts.nth(1).get_by_text("zebra-model").first).to_be_visible()
    assert not [c for c in complaints if "Content Security Policy" in c or "eval" in c]
