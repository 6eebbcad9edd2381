"""The labeling page in a real browser: what is clicked there is what the store exports."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from labeling_app.launch import command, environment
from rlhf.config import parse
from rlhf.data.records import Ranking
from rlhf.preferences import Counts, LabelStore, NewTask
from rlhf.stages import pipeline

pytestmark = pytest.mark.browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
SECONDS = 20.0  # for anything to appear
BEACON = (
    '<img src="http://beacon.invalid/a.png"> ![x](http://beacon.invalid/b.png) <script>document.title="owned"</script>'
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"browser: none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], str]]:
    """Starts the page on a store and gives its address."""
    servers: list[subprocess.Popen[bytes]] = []
    tmp_path = tmp_path_factory.mktemp("server")

    def start(path: Path) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log = (tmp_path / "server.log").open("wb")
        started = environment(str(path)) | {"HOME": str(tmp_path)}  # nobody's own Streamlit settings
        servers.append(
            subprocess.Popen(command("127.0.0.1", port, open_browser=False), env=started, stdout=log, stderr=log)
        )
        url = f"http://127.0.0.1:{port}"
        for _ in range(200):
            assert servers[-1].poll() is None, (tmp_path / "server.log").read_text()
            try:
                urllib.request.urlopen(f"{url}/_stcore/health", timeout=1).close()
                return url
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise AssertionError((tmp_path / "server.log").read_text())

    yield start
    for server in servers:
        server.terminate()
        server.wait(timeout=10)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all tests: each has its own batch and labeler, and leaves none of its tasks open."""
    path = tmp_path_factory.mktemp("store") / "labels.db"
    LabelStore.open(path, create=True).close()
    return path


@pytest.fixture(scope="module")
def url(serve: Callable[[Path], str], path: Path) -> str:
    return serve(path)


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.set_default_timeout(SECONDS * 1000)
    expect.set_options(timeout=SECONDS * 1000)
    yield page
    if folder := os.environ.get("RLHF_SCREENSHOTS"):
        name = re.sub(r"\W+", "-", os.environ["PYTEST_CURRENT_TEST"].split("::")[-1])
        page.screenshot(path=f"{folder}/{name}.png")
    context.close()


def sign_in(page: Page, url: str, name: str) -> None:
    page.goto(url)
    page.get_by_role("textbox", name="Your name").fill(name)
    page.get_by_role("button", name="Start ranking").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def card(page: Page, text: str) -> Locator:
    """The card that shows this text, wherever the shuffle put it."""
    return page.locator('[class*="st-key-card-"]').filter(has=page.get_by_text(text, exact=True))


def place(page: Page, text: str, number: int) -> None:
    choice = card(page, text).get_by_role("radio", name=str(number), exact=True)
    # While the page is being drawn anew, a busy machine's browser may drop a click on what is about to be replaced.
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    choice.click()
    expect(choice).to_have_attribute("aria-checked", "true")


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
    page.get_by_role("button", name="Skip").click()
    page.get_by_text("I cannot judge this topic").click()
    page.get_by_role("button", name="Skip this one").click()


def test_what_is_clicked_is_what_is_exported(page: Page, url: str, path: Path) -> None:
    sources = ("sft", "ppo", "sft", "ppo")
    queue(
        path, "clicks", NewTask("Say hi.", ("hi", "hello", "hey", "yo"), sources), NewTask("Say bye.", ("bye", "ciao"))
    )
    sign_in(page, url, "Ann")
    submit = page.get_by_role("button", name="Submit and go on")
    expect(submit).to_be_disabled()
    for text, number in (("hey", 1), ("hi", 2), ("yo", 2), ("hello", 4)):
        place(page, text, number)
    expect(page.get_by_text("(tied)")).to_be_visible()
    page.get_by_role("textbox").fill("hey is warmest")
    expect(submit).to_be_enabled()
    submit.dblclick()
    expect(page.get_by_text("Say bye.")).to_be_visible()
    (ranking,) = rankings(path, "clicks")
    assert ranking.prompt == "Say hi."
    assert ranking.completions == ("hi", "hello", "hey", "yo")
    assert ranking.ranks == (2, 4, 1, 2)
    assert ranking.labeler == "Ann"
    assert ranking.meta["comment"] == "hey is warmest"
    assert counts(path, "clicks").judgments == 1  # the double click counted once, and not on the next task
    place(page, "ciao", 1)
    place(page, "bye", 1)
    submit.click()
    expect(page.get_by_text("All done, thank you")).to_be_visible()
    assert rankings(path, "clicks")[1].ranks == (1, 1)


def test_a_reload_goes_on_with_the_same_task_and_the_last_one_can_be_corrected(
    page: Page, url: str, path: Path
) -> None:
    queue(path, "reload", NewTask("Say hi.", ("hi", "hello")), NewTask("Say bye.", ("bye", "ciao")))
    sign_in(page, url, "Bob")
    cards = page.locator('[class*="st-key-card-"]')
    expect(cards.get_by_role("radio")).to_have_count(4)
    before = cards.all_inner_texts()
    page.reload()
    expect(cards.get_by_role("radio")).to_have_count(4)
    assert cards.all_inner_texts() == before
    place(page, "hi", 1)
    place(page, "hello", 2)
    page.get_by_role("button", name="Submit and go on").click()
    expect(page.get_by_text("Say bye.")).to_be_visible()
    page.get_by_role("button", name="Correct my last one").click()
    expect(page.get_by_text("You are correcting an earlier ranking")).to_be_visible()
    place(page, "hi", 2)
    place(page, "hello", 1)
    page.get_by_role("button", name="Save the correction").click()
    expect(page.get_by_text("Say bye.")).to_be_visible()
    assert [r.ranks for r in rankings(path, "reload")] == [(2, 1)]
    skip(page)
    expect(page.get_by_text("All done, thank you")).to_be_visible()
    assert (counts(path, "reload").judgments, counts(path, "reload").skips) == (3, 1)


def test_foreign_text_calls_nobody_and_a_new_task_starts_at_the_top(page: Page, url: str, path: Path) -> None:
    long = "\n".join(f"line {i}" for i in range(60))
    with LabelStore.open(path) as store:
        store.set_guidelines(BEACON)
        cid = store.labeler("Cid")
        while (leftover := store.claim(cid)) is not None:  # what another test's labeler skipped would come first
            store.submit(leftover, {c.id: 1 for c in leftover.completions}, submit_id=f"leftover {leftover.id}")
    queue(path, "foreign", NewTask(BEACON, (f"{BEACON} one", long)), NewTask(long, ("x", BEACON)))
    foreign: list[str] = []
    page.on(
        "request",
        lambda request: None if request.url.startswith((url, "data:", "blob:")) else foreign.append(request.url),
    )
    sign_in(page, url, "![n](http://beacon.invalid/c.png)")
    cards = page.locator('[class*="st-key-card-"]')
    for i in range(2):
        choice = cards.nth(i).get_by_role("radio", name="1", exact=True)
        choice.click()
        expect(choice).to_have_attribute("aria-checked", "true")
    expect(page.get_by_text("A and B are all tied")).to_be_visible()
    scroller = page.get_by_test_id("stMain")
    scroller.evaluate("e => e.scrollTo({ top: e.scrollHeight })")
    assert scroller.evaluate("e => e.scrollTop") > 300
    page.get_by_role("button", name="Submit and go on").click()
    expect(page.get_by_text("1 ranking done")).to_be_visible()
    page.wait_for_function("() => document.querySelector('[data-testid=\"stMain\"]').scrollTop === 0")
    page.wait_for_load_state("networkidle")
    assert foreign == []
    assert page.title() == "Rank answers"
    assert [r.ranks for r in rankings(path, "foreign")] == [(1, 1)]


def test_a_missing_store_is_one_line_in_the_browser_too(
    page: Page, serve: Callable[[Path], str], tmp_path: Path
) -> None:
    path = tmp_path / "labels.db"
    page.goto(f"{serve(path)}/rank")  # a page's file is no address of its own
    expect(page.get_by_text("There is nothing to label with")).to_be_visible()
    expect(page.get_by_text("labels.db: no such file")).to_be_visible()
    expect(page.get_by_text("Traceback")).to_have_count(0)
    assert not path.exists()


def test_rankings_clicked_here_train_the_reward_model(
    page: Page, serve: Callable[[Path], str], tmp_path: Path, tiny_config: Callable[..., dict[str, Any]]
) -> None:
    path = tmp_path / "labels.db"
    texts = [(f"Say {n} nicely.", (f"{n}, gladly", f"{n}, whatever")) for n in ("one", "two", "three", "four")]
    with LabelStore.open(path, create=True) as store:
        store.add_tasks([NewTask(prompt, answers) for prompt, answers in texts], batch="by-hand")
    sign_in(page, serve(path), "Rae")
    for prompt, (first, second) in texts:
        expect(page.get_by_text(prompt)).to_be_visible()
        place(page, first, 1)
        place(page, second, 2)
        page.get_by_role("button", name="Submit and go on").click()
    expect(page.get_by_text("All done, thank you")).to_be_visible()

    config = parse(
        tiny_config({"store.url": str(path), "reward.rankings": None, "reward.batches": ["by-hand"]}), "test"
    )
    summary = pipeline.run(config, stages=("reward",))
    assert summary["reward"]["rankings"] + summary["reward"]["pairs"] == 4  # learned from, and held out
    assert summary["reward"]["labelers"] == 1
