"""The dashboard in a real browser: charts are drawn under the page's own policy, for leads alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import sign_in
from playwright.sync_api import BrowserContext, Page, expect

from labeling_app.launch import SESSION_COOKIE
from rlhf.data.records import Ranking
from rlhf.preferences import LabelStore, NewTask
from rlhf.preferences.simulation import make_crowd, simulate

pytestmark = pytest.mark.browser

BEACON = "![x](http://127.0.0.1:9/beacon.png)"
PEOPLE = ["sim-careful-1", "sim-careful-2", "sim-careful-3", "sim-lazy-1", "sim-noisy-1"]
# What every chart must show, in the order of the page: a name of a labeler, or a word of an axis.
DRAWN = ["per hour (UTC)", *PEOPLE[:1] * 4, "card 4", *PEOPLE[:1] * 2, "Not true", "too hard"]


@pytest.fixture(scope="module")
def campaign(shared: tuple[Path, str]) -> tuple[Path, str]:
    """A store with a small crowd's work, some of whom do it badly, and the address of the page on it."""
    path, url = shared
    with LabelStore.open(path) as store:
        store.configure({"flags": ["Not true", BEACON], "skip_reasons": ["too hard"], "gold_share": 0.3})
        words = [" ".join([f"word{i}"] * (1 + i % 7)) for i in range(160)]
        store.add_tasks([NewTask(f"p{i}", tuple(words[4 * i : 4 * i + 4])) for i in range(40)], batch=BEACON, overlap=3)
        store.add_gold([Ranking(f"g{i}", (f"good {i}", f"bad {i}"), (1, 2)) for i in range(6)])
        simulate(store, make_crowd({"careful": 3, "noisy": 1, "lazy": 1}))
        late = store.labeler("late")
        store.add_tasks([NewTask("one more", ("x", "y"))], batch="late", overlap=1)
        task = store.claim(late)
        assert task is not None
        store.skip(task, "too hard", submit_id="late-skips-it")
    return path, url


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 390)])
def test_a_lead_sees_every_chart(
    campaign: tuple[Path, str], new_context: Callable[..., BrowserContext], scheme: str, width: int
) -> None:
    path, url = campaign
    with LabelStore.open(path) as store:
        key = store.sign_in_by_token(store.invite(f"Lena {scheme}", "admin"))
    context = new_context(width, 900, scheme)
    context.add_cookies([{"name": SESSION_COOKIE, "value": key, "url": url}])
    page = context.new_page()
    complaints, asked = [], []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.get_by_role("link", name="Dashboard").click()
    expect(page.get_by_role("heading", name="Dashboard")).to_be_visible()
    charts = page.get_by_test_id("stVegaLiteChart")
    expect(charts).to_have_count(len(DRAWN))
    for i, word in enumerate(DRAWN):
        expect(charts.nth(i).get_by_text(word, exact=True).first).to_be_attached()
    for name in PEOPLE:  # every one on a line, the first one too
        expect(charts.nth(1).get_by_text(name, exact=True)).to_have_count(1)
    assert page.evaluate("document.querySelector('[data-testid=stMain]').scrollWidth") <= width
    assert complaints == []
    assert not [address for address in asked if "beacon" in address]
    if folder := os.environ.get("RLHF_SCREENSHOTS"):
        page.set_viewport_size({"width": width, "height": 4200 if width > 1000 else 7400})
        page.wait_for_timeout(1500)
        page.screenshot(path=f"{folder}/dashboard-{scheme}-{width}.png")


def test_a_measure_is_chosen_and_the_charts_follow(
    campaign: tuple[Path, str], new_context: Callable[..., BrowserContext]
) -> None:
    path, url = campaign
    with LabelStore.open(path) as store:
        key = store.sign_in_by_token(store.invite("Rita", "reviewer"))
    context = new_context()
    context.add_cookies([{"name": SESSION_COOKIE, "value": key, "url": url}])
    page = context.new_page()
    page.goto(f"{url}/dashboard")
    charts = page.get_by_test_id("stVegaLiteChart")
    expect(charts.nth(1).get_by_text("Pairs ordered alike", exact=True)).to_be_attached()
    page.get_by_role("radio", name="Krippendorff's alpha").click()
    expect(charts.nth(1).get_by_text("Krippendorff's alpha", exact=True)).to_be_attached()
    expect(charts.nth(2).get_by_text("krippendorff's alpha", exact=True)).to_be_attached()


def test_a_labeler_who_knows_the_address_sees_nothing(campaign: tuple[Path, str], page: Page) -> None:
    _, url = campaign
    sign_in(page, url, "Sly")
    expect(page.get_by_role("link", name="Dashboard")).to_have_count(0)
    page.goto(f"{url}/dashboard")
    expect(page.get_by_text("There is nothing here.")).to_be_visible()
    expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(0)
    expect(page.get_by_test_id("stMetric")).to_have_count(0)
    assert not any(name in page.content() for name in PEOPLE)
