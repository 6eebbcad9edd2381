"""The data page without a browser: what admins bring in and take out, and that nobody else sees any of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app_harness import Page, opener, served_store, texts, well
from streamlit.testing.v1 import AppTest

from labeling_app.views.data import incoming, outgoing
from rlhf.data.records import Ranking
from rlhf.preferences import LabelStore, NewTask

HOSTILE = "![x](http://127.0.0.1:9/beacon.png) :rainbow[hi] $x$"
RANKINGS = [
    Ranking("Say hi.", ("hi", "hello", "hey"), (2, 1, 2), "ann"),
    Ranking(HOSTILE, (HOSTILE, "b"), (1, 2), "bob", meta={"note": "x"}),
]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LabelStore]:
    with served_store(tmp_path, monkeypatch) as store:
        yield store


@pytest.fixture
def page(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> Page:
    return opener(store, monkeypatch, "data")


def as_markdown(test: AppTest) -> str:
    """All that Streamlit reads as Markdown."""
    kinds: list[Any] = [test.markdown, test.caption, test.title, test.success, test.warning, test.error]
    labels = [w.label for kind in (test.selectbox, test.text_input, test.button) for w in kind]
    return "\n".join([*(str(e.value) for kind in kinds for e in kind), *labels])


def find(kind: Any, label: str, number: int = 0) -> Any:
    return [w for w in kind if w.label == label][number]


def upload(test: AppTest, name: str, *rows: Any, text: str = "") -> AppTest:
    content = text or "".join(json.dumps(row) + "\n" for row in rows)
    return well(test.file_uploader[0].set_value((name, content.encode(), "application/octet-stream")).run())


def bring_in(test: AppTest, batch: str) -> AppTest:
    find(test.text_input, "Batch").set_value(batch).run()
    return well(find(test.button, "Import").click().run())


def test_rankings_are_shown_before_they_are_brought_in(page: Page, store: LabelStore) -> None:
    pair = {"prompt": HOSTILE, "chosen": HOSTILE, "rejected": "b", "labeler": "bob"}
    test = upload(page(), f"{HOSTILE}.jsonl", pair, {"prompt": "p", "chosen": "x", "rejected": "y"})
    assert "Found 2 rankings, in this format:" in as_markdown(test) and "trl" in texts(test)
    shown = test.dataframe[0].value
    assert list(shown["Ranks"]) == ["1, 2", "1, 2"] and list(shown["Labeler"]) == ["bob", "anonymous"]
    assert HOSTILE not in as_markdown(test) and "beacon" not in as_markdown(test)
    assert find(test.button, "Import").disabled
    assert store.counts().judgments == 0
    bring_in(test, "films")
    assert [s.value for s in test.success] == ["Added 2; 0 were there already. 0 of the new ones are revisions."]
    assert [r.prompt for r in store.rankings(batch="films")] == [HOSTILE, "p"]
    assert {e.name for e in store.events() if e.action == "import rankings"} == {"one admin"}
    bring_in(test, "films")
    assert [s.value for s in test.success] == ["Added 0; 2 were there already. 0 of the new ones are revisions."]


def test_what_is_no_ranking_is_counted_before_and_after(page: Page, store: LabelStore) -> None:
    same = "\n\nHuman: a\n\nAssistant: b"
    test = upload(page(), "hh.jsonl", {"chosen": same, "rejected": f"{same}c"}, {"chosen": same, "rejected": same})
    assert [w.value for w in test.warning] == ["Left out, because it is no ranking:"]
    assert "rows whose two transcripts are equal (1)" in texts(test)
    bring_in(test, "hh")
    assert store.counts("hh").rankings == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "pairs.jsonl",
            '{"prompt": "p", "chosen": "a", "rejected": ""}\n',
            "pairs.jsonl, line 1, field 'rejected': the text",
        ),
        ("x.jsonl", '{"q": 1}\n', "x.jsonl, line 1: no format is known that has 'q'"),
        (
            "studio.jsonl",
            '{"data": {}, "annotations": [{"result": [{"type": "pairwise", "value": {"selected": ["left"]}}]}]}',
            "studio.jsonl, line 1, annotation 1: expected selected left or right, found list",
        ),
        ("x.gz", "MZ", "x.gz: unknown kind of file"),
    ],
)
def test_a_file_that_cannot_be_read_is_said_and_writes_nothing(
    page: Page, store: LabelStore, name: str, text: str, message: str
) -> None:
    test = upload(page(), name, text=text)
    assert [e.value for e in test.error] == ["This file cannot be imported. Nothing was written."]
    assert any(t.startswith(message) for t in texts(test))
    assert not [b for b in test.button if b.label == "Import"]
    assert store.counts().tasks == 0


def test_a_bad_batch_name_is_refused_in_words(page: Page, store: LabelStore) -> None:
    test = upload(page(), "r.jsonl", {"prompt": "p", "chosen": "a", "rejected": "b"})
    bring_in(test, "a\u202eb")
    assert [e.value for e in test.error] == ["That was not saved."]
    assert any(t.startswith("batch: expected 1 to 200 visible characters") for t in texts(test))
    assert store.counts().tasks == 0 and not test.success


def test_tasks_and_gold_are_queued_from_a_file(page: Page, store: LabelStore) -> None:
    test = upload(page(), "tasks.jsonl", {"prompt": "p", "completions": ["a", "b"], "sources": ["sft", ""]})
    find(test.selectbox, "What it holds").set_value(incoming.TASKS).run()
    assert "Found 1 task. The first of them:" in as_markdown(test)
    bring_in(test, "one")
    assert store.counts("one").waiting == 1
    upload(
        test,
        "gold.jsonl",
        {"prompt": "g", "completions": ["a", "b"], "ranks": [1, 2]},
        {"prompt": "g", "completions": ["a", "b"], "ranks": [3, 9]},
    )
    find(test.selectbox, "What it holds").set_value(incoming.GOLD).run()
    bring_in(test, "gold")
    assert [s.value for s in test.success] == ["Added 1; 0 were there already. 0 of the new ones are revisions."]
    upload(test, "gold.jsonl", {"prompt": "g", "completions": ["a", "b"], "ranks": [1, 1]})
    test.run()
    assert any(t.startswith("gold.jsonl, row 1, field 'ranks': [1, 1] orders nothing") for t in texts(test))


def test_nothing_is_prepared_until_it_is_asked_for(
    page: Page, store: LabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.import_rankings(RANKINGS, batch=HOSTILE)
    asked: list[str] = []
    monkeypatch.setattr(outgoing, "write", lambda *a: (asked.append(a[2]), write(*a))[1])
    from rlhf.preferences.exchange import write

    test = page()
    assert asked == [] and HOSTILE not in as_markdown(test)
    find(test.selectbox, "Format").set_value("trl").run()
    assert asked == []
    find(test.button, "Prepare the file").click().run()
    assert asked == ["trl"]
    assert "3 rows of 2 rankings." in as_markdown(test)
    assert "tied pairs (1)" in texts(test) and "meta (1)" in texts(test)
    well(test.run())
    assert asked == ["trl"]
    ready = test.session_state[outgoing.READY]
    assert [json.loads(line)["chosen"] for line in ready.path.open()] == ["hello", "hello", HOSTILE]
    find(test.selectbox, "Format").set_value("oasst").run()
    assert "rows of" not in as_markdown(test)  # that was another file


@pytest.mark.parametrize("format", ["rankings", "argilla", "demonstrations"])
def test_where_there_is_nothing_to_take_out_it_is_said(page: Page, store: LabelStore, format: str) -> None:
    test = page()
    assert "There is nothing to take out yet." in as_markdown(test)
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    find(well(test.run()).selectbox, "Format").set_value(format).run()
    find(test.button, "Prepare the file").click().run()
    assert any("nothing is ranked there yet" in t or "nobody has written a better answer" in t for t in texts(test))


@pytest.mark.parametrize("role", ["labeler", "reviewer"])
def test_nobody_else_sees_the_page(page: Page, store: LabelStore, role: str) -> None:
    store.import_rankings(RANKINGS, batch="one")
    test = page(role)
    assert "There is nothing here." in as_markdown(test)
    assert not test.selectbox and not test.file_uploader and not [t for t in test.title if t.value == "Data"]
