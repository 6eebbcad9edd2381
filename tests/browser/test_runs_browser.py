"""The engineers' page of runs in a real browser: curves that grow while a run writes, and the report in its frame."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import Server
from playwright.sync_api import BrowserContext, Page, expect

from labeling_app.launch import SERVE_VARIABLE, SESSION_COOKIE, settle
from rlhf.preferences import LabelStore
from rlhf.report.html import write_report

pytestmark = pytest.mark.browser

HOST = "beacon.invalid"
BAD = f"bad ![x](http:{HOST})"


def hostile(host: str) -> str:
    """A page that would run, load, send and go wherever it could."""
    return (
        f"<!doctype html><h1>A report that calls home</h1>"
        f'<script>parent.owned = 1; top.location = "//{host}/a"</script>'
        f'<img src="http://{host}/b.png" onerror="parent.owned = 1"><style>@import url(http://{host}/c);</style>'
        f'<meta http-equiv="refresh" content="0;url=http://{host}/d"><iframe src="http://{host}/e"></iframe>'
        f'<form action="http://{host}/f"><button>Send</button></form><link rel="stylesheet" href="http://{host}/g">'
        f'<link rel="prefetch" href="http://{host}/h"><link rel="preconnect" href="http://{host}">'
        f'<body background="http://{host}/i"><object data="http://{host}/j"></object>'
        f'<svg><image href="http://{host}/k"/></svg><video src="http://{host}/l" autoplay></video>'
    )


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    """A server that nobody should call: its address, and what it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", asked
    server.shutdown()


def row(step: int) -> str:
    """An update of PPO."""
    numbers = {"score": math.log(step), "kl": 0.4 * step, "entropy": 3.0 - 0.02 * step, "length": 24.0, "eos_rate": 0.9}
    row = {"stage": "ppo", "step": step, "total": 200, "time": "2026-01-01T00:00:00+00:00", **numbers}
    return json.dumps(row) + "\n"


def sample(step: int) -> str:
    texts = {"prompt": "Begin with: A", "completion": f"A film of update {step} ![x](http://{HOST}/i.png)"}
    return json.dumps({"step": step, **texts, "score": 0.5, "kl": 1.0, "length": 9, "ended": True}) + "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folder") / "runs"
    for name in ("good", BAD):
        (folder / name).mkdir(parents=True)
        (folder / name / "metrics.jsonl").write_text("".join(map(row, range(1, 41))))
    (folder / "good" / "ppo_samples.jsonl").write_text("".join(map(sample, range(1, 41))))
    (folder / "good" / "config.yaml").write_text("seed: 1\n")
    write_report(folder / "good")
    os.utime(folder / BAD / "metrics.jsonl", (1_000_000_000,) * 2)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    home = tmp_path_factory.mktemp("home")
    path = home / "labels.db"
    LabelStore.open(path, create=True).close()
    server = Server(path, home)
    with_runs = settle(str(path), port=server._port, runs=folder).environment()
    server._environment[SERVE_VARIABLE] = with_runs[SERVE_VARIABLE]
    server.start()
    yield path, server.url
    server.stop()


def opened(context: BrowserContext, server: tuple[Path, str], role: str) -> tuple[Page, list[str]]:
    """The page of runs before somebody of this role, and what it does that it should not."""
    path, url = server
    with LabelStore.open(path) as store:
        key = store.sign_in_by_token(store.invite(f"The {role}", role))
    context.add_cookies([{"name": SESSION_COOKIE, "value": key, "url": url}])
    page, found = context.new_page(), list[str]()
    own = (url, url.replace("http", "ws"), "data:", "blob:")
    context.on("request", lambda r: None if r.url.startswith(own) else found.append(r.url))
    page.on("dialog", lambda d: (found.append(d.message), d.dismiss()))
    page.goto(f"{url}/runs")
    return page, found


def wait_for_steps(page: Page, text: str) -> None:
    expect(page.get_by_test_id("stVegaLiteChart").get_by_text(text).first).to_be_visible()


def test_curves_grow_while_the_run_writes(
    new_context: Callable[..., BrowserContext], server: tuple[Path, str], folder: Path
) -> None:
    page, found = opened(new_context(), server, "admin")
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    wait_for_steps(page, "40 steps, last 3.689")
    assert page.get_by_test_id("stVegaLiteChart").count() == 5
    done = threading.Event()

    def write() -> None:
        """Line by line, each in two halves, as a reader may catch them."""
        for step in range(41, 61):
            for half in (row(step)[:50], row(step)[50:]):
                with (folder / "good" / "metrics.jsonl").open("a") as stream:
                    stream.write(half)
                done.wait(0.1)

    writer = threading.Thread(target=write)
    writer.start()
    wait_for_steps(page, "60 steps, last 4.094")
    writer.join()
    expect(page.get_by_text("could not be read")).to_have_count(0)
    assert found == []


def test_samples_settings_and_the_report_in_its_frame(
    new_context: Callable[..., BrowserContext], server: tuple[Path, str]
) -> None:
    context = new_context()
    page, found = opened(context, server, "admin")
    expect(page.get_by_text("A film of update 1 ![x]")).to_be_visible()
    expect(page.get_by_text("A film of update 40 ![x]")).to_be_visible()
    page.get_by_role("radio", name="Settings").click()
    expect(page.get_by_text("seed: 1")).to_be_visible()
    page.get_by_role("radio", name="Report").click()
    frame = page.frame_locator('iframe[title="Report of the run"]')
    expect(frame.get_by_role("heading", level=1)).to_contain_text("PPO has run")
    background = frame.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
    assert background != "rgba(0, 0, 0, 0)"  # its own style is let be
    with context.expect_page() as opening:
        page.get_by_role("link", name="Open the report").click()
    expect(opening.value.get_by_role("heading", level=1)).to_contain_text("PPO has run")
    assert found == []


def test_a_hostile_report_runs_nothing_and_calls_nobody(
    new_context: Callable[..., BrowserContext],
    server: tuple[Path, str],
    folder: Path,
    listener: tuple[str, list[str]],
) -> None:
    host, asked = listener
    (folder / BAD / "report.html").write_text(hostile(host))
    context = new_context()
    page, _ = opened(context, server, "admin")
    choice = page.get_by_test_id("stMultiSelect").locator("input")
    choice.fill("bad")
    page.get_by_role("option", name="bad ![x]").click()
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("stVegaLiteChart").get_by_text("2 runs, up to").first).to_be_visible()
    page.get_by_role("radio", name="Report").click()
    field = page.get_by_label("Of which run")
    field.focus()
    page.wait_for_timeout(500)
    field.press("ArrowDown")
    page.get_by_role("option", name="bad ![x]").click()
    frame = page.frame_locator('iframe[title="Report of the run"]')
    expect(frame.get_by_role("heading", name="A report that calls home")).to_be_visible()
    page.wait_for_timeout(1000)
    assert page.evaluate("window.owned") is None and page.url.endswith("/runs")
    with context.expect_page() as opening:
        page.get_by_role("link", name="Open the report").click()
    expect(opening.value.get_by_role("heading", name="A report that calls home")).to_be_visible()
    opening.value.get_by_role("button", name="Send").click()
    opening.value.wait_for_timeout(1000)
    assert "/runs/report?run=bad" in opening.value.url
    assert asked == []


def test_the_listener_has_teeth(page: Page, listener: tuple[str, list[str]]) -> None:
    """Where nothing holds it back, that page calls home."""
    host, asked = listener
    page.route("http://open.invalid/", lambda route: route.fulfill(body=hostile(host), content_type="text/html"))
    page.goto("http://open.invalid/", wait_until="commit")
    for _ in range(50):
        if asked:
            break
        page.wait_for_timeout(100)
    assert asked


def test_a_labeler_sees_nothing(new_context: Callable[..., BrowserContext], server: tuple[Path, str]) -> None:
    page, found = opened(new_context(), server, "labeler")
    expect(page.get_by_text("There is nothing here.")).to_be_visible()
    expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(0)
    expect(page.get_by_role("link", name="Runs")).to_have_count(0)
    page.goto(f"{server[1]}/runs/report?run=good")
    expect(page.get_by_text("This is for admins of the project.")).to_be_visible()
    assert found == []
