"""The data page in a real browser: a file goes in, and its rankings come out again in another format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import sign_in
from playwright.sync_api import BrowserContext, Page, expect

from labeling_app.launch import SESSION_COOKIE
from rlhf.data.records import Ranking
from rlhf.preferences import LabelStore
from rlhf.preferences.exchange import RankingFile, write

pytestmark = pytest.mark.browser

BEACON = "![x](https://example.com/beacon.png) :rainbow[hi]"
RANKINGS = [
    Ranking("Say hi.", ("hi", "hello", "hey"), (2, 1, 2), "Ann Smith", "2024-05-01", "g", {"note": "ü"}),
    Ranking(BEACON, (BEACON, "no"), (1, None), "bob"),
]


def open_data(context: BrowserContext, url: str, path: Path, name: str) -> Page:
    with LabelStore.open(path) as store:
        key = store.sign_in_by_token(store.invite(name, "admin"))
    context.add_cookies([{"name": SESSION_COOKIE, "value": key, "url": url}])
    page = context.new_page()
    page.goto(f"{url}/data")
    expect(page.get_by_role("heading", name="Data")).to_be_visible()
    return page


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_role("combobox", name=label).last.click()
    page.get_by_role("option", name=option).click()


def test_a_file_goes_in_and_the_same_rankings_come_out(
    url: str, path: Path, tmp_path: Path, new_context: Callable[..., BrowserContext]
) -> None:
    file = tmp_path / "rankings.csv"
    write(file, RANKINGS)
    page = open_data(new_context(), url, path, "Lena")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.locator("input[type=file]").set_input_files(file)
    expect(page.get_by_text("Found 2 rankings, in this format:")).to_be_visible()
    batch = page.get_by_role("textbox", name="Batch")
    batch.fill("from a file")
    batch.press("Enter")
    page.get_by_role("button", name="Import").click()
    expect(page.get_by_text("Added 2; 0 were there already.")).to_be_visible()

    page.get_by_role("tab", name="Take out").click()
    choose(page, "Batch", "from a file")
    choose(page, "Format", "argilla")
    page.get_by_role("button", name="Prepare the file").click()
    expect(page.get_by_text("2 rows of 2 rankings.")).to_be_visible()
    with page.expect_download() as fetched:
        page.get_by_role("button", name="Download").click()
    assert fetched.value.suggested_filename == "argilla.json"
    fetched.value.save_as(tmp_path / "out.json")
    back = list(RankingFile(tmp_path / "out.json"))
    assert back == RANKINGS and back[0].meta == {"note": "ü"}
    assert all(a.startswith((url, "blob:", "data:")) for a in asked)


def test_a_bad_file_is_said_and_nothing_is_written(
    url: str, path: Path, tmp_path: Path, new_context: Callable[..., BrowserContext]
) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(json.dumps({"prompt": "p", "completions": ["only one"], "ranks": [1]}) + "\n")
    page = open_data(new_context(390, 844), url, path, "Mona")
    page.locator("input[type=file]").set_input_files(file)
    expect(page.get_by_text("This file cannot be imported. Nothing was written.")).to_be_visible()
    expect(page.get_by_text("bad.jsonl, line 1, field 'completions'")).to_be_visible()
    expect(page.get_by_role("button", name="Import")).to_have_count(0)


def test_a_labeler_finds_nothing_there_and_cannot_upload(page: Page, url: str, path: Path) -> None:
    sign_in(page, url, "Zoe")
    page.goto(f"{url}/data")
    expect(page.get_by_text("There is nothing here.")).to_be_visible()
    expect(page.locator("input[type=file]")).to_have_count(0)
    answer = page.request.put(f"{url}/_stcore/upload_file/session/file", data=b"x")
    assert answer.status in (403, 404)
