"""The labeling page in a real browser: a server of its own for a test module, a browser, a page a test."""

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

import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from labeling_app.launch import command, settle
from rlhf.preferences import LabelStore
from rlhf.preferences.schema import tasks

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
SECONDS = 30.0  # for anything to appear; two browsers and two servers may share two cores


class Server:
    """A labeling page on a store, which can be killed and started again at the same address."""

    def __init__(self, store: Path, home: Path, csp: bool = True) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._log = home / f"server-{self._port}.log"
        own = {"HOME": str(home), "RLHF_CSP": "on" if csp else "off"}  # nobody's own Streamlit settings
        self._environment = settle(str(store), port=self._port).environment() | own
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command(), env=self._environment, stdout=log, stderr=log)
        for _ in range(300):
            assert self._process.poll() is None, self._log.read_text()
            try:
                urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=1).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise AssertionError(self._log.read_text())

    def kill(self) -> None:
        """As a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=10)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def wait(self) -> None:
        if self._process is not None:
            self._process.wait(timeout=20)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"browser: none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts the page on a store."""
    servers: list[Server] = []
    home = tmp_path_factory.mktemp("server")

    def start(path: Path, csp: bool = True) -> Server:
        servers.append(Server(path, home, csp))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
    for server in servers:
        server.wait()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., Server]) -> tuple[Path, str]:
    """A store for all tests of a module, and the address of a page on it."""
    path = tmp_path_factory.mktemp("store") / "labels.db"
    LabelStore.open(path, create=True).close()
    return path, serve(path).url


@pytest.fixture
def path(shared: tuple[Path, str]) -> Path:
    """The store, with nothing left to do in it: each test brings its own batch and labelers."""
    with LabelStore.open(shared[0]) as store, store._writing() as connection:
        connection.execute(sa.update(tasks).values(overlap=tasks.c.judged))
    return shared[0]


@pytest.fixture
def url(shared: tuple[Path, str]) -> str:
    return shared[1]


@pytest.fixture
def new_context(chromium: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Makes a browser without any cookie or storage."""
    contexts = []

    def make(width: int = 1200, height: int = 900, scheme: str = "light") -> BrowserContext:
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.set_default_timeout(SECONDS * 1000)
        contexts.append(context)
        return context

    expect.set_options(timeout=SECONDS * 1000)
    yield make
    if folder := os.environ.get("RLHF_SCREENSHOTS"):
        name = re.sub(r"\W+", "-", os.environ["PYTEST_CURRENT_TEST"].split("::")[-1])
        for i, page in enumerate(page for context in contexts for page in context.pages):
            page.screenshot(path=f"{folder}/{name}{i}.png")
    for context in contexts:
        context.close()


@pytest.fixture
def page(new_context: Callable[..., BrowserContext]) -> Page:
    return new_context().new_page()


def sign_in(page: Page, url: str, name: str) -> None:
    page.goto(url)
    page.get_by_role("textbox", name="Your name").fill(name)
    page.get_by_role("button", name="Start ranking").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def sheet(page: Page) -> Locator:
    """The ranking sheet, on screen for so long that keys are let through."""
    found = page.locator(".sheet")
    expect(found.get_by_role("button", name="Submit")).to_be_visible()
    page.wait_for_timeout(350)
    return found


def number_of(page: Page, text: str) -> str:
    """The number of the card that shows this text, wherever the shuffle put it."""
    card = page.locator(".sheet .card").filter(has=page.get_by_text(text, exact=True))
    return card.locator(".badge").inner_text().strip()


def place(page: Page, *texts: str) -> None:
    """Place answers by key, best first; `=text` ties with the one before."""
    for text in texts:
        number = number_of(page, text.removeprefix("="))
        page.keyboard.press(f"Shift+Digit{number}" if text.startswith("=") else f"Digit{number}")
