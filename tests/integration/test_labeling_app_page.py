"""The page as Streamlit runs it, without a browser: what is shown, and what its buttons do to the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import labeling_app
from labeling_app.launch import STORE_VARIABLE
from rlhf.preferences import LabelStore, NewTask

APP = Path(labeling_app.__file__).with_name("app.py")
CHAT = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"})
BEACON = "![x](http://127.0.0.1:9/beacon.png) :rainbow[hi] $x$"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LabelStore]:
    path = tmp_path / "labels.db"
    monkeypatch.setenv(STORE_VARIABLE, str(path))
    st.cache_resource.clear()
    _address("127.0.0.1")
    with LabelStore.open(path, create=True) as store:
        yield store
    _address(None)
    st.cache_resource.clear()


def _address(value: str | None) -> None:
    """What `--server.address` sets when the page is served; AppTest runs without a server."""
    st.config.get_config_options()  # reads them, if nobody has yet
    st.config._set_option("server.address", value, "test")


@pytest.fixture
def page(store: LabelStore) -> Callable[..., AppTest]:
    def open_page(name: str = "") -> AppTest:
        test = AppTest.from_file(str(APP), default_timeout=30)
        if name:
            test.query_params["labeler"] = name
        return test.run()

    return open_page


def everything(test: AppTest) -> str:
    """All text on the page that Streamlit treats as Markdown."""
    kinds: list[Any] = [test.markdown, test.caption, test.title, test.subheader, test.info, test.error]
    return "\n".join(str(e.value) for kind in kinds for e in kind)


def texts(test: AppTest) -> list[str]:
    return [str(t.value) for t in test.text]


def press(test: AppTest, label: str) -> AppTest:
    (button,) = [b for b in test.button if b.label == label]
    return button.click().run()


def choose(test: AppTest, card: int, number: int | None) -> AppTest:
    groups = [g for g in test.button_group if str(g.key).startswith("rank-")]
    return groups[card].set_value(number).run()


def test_sign_in_and_the_first_task(store: LabelStore, page: Callable[..., AppTest]) -> None:
    store.set_guidelines(f"Prefer the kind one. {BEACON}")
    store.add_tasks([NewTask(CHAT, ("because", f"no {BEACON}"), ("sft-secret", "ppo-secret"))], batch="one")
    test = page()
    test.text_input[0].set_value(" ann ")
    test = press(test, "Start ranking")
    assert not test.exception
    assert test.query_params["labeler"] in ("ann", ["ann"])
    shown = texts(test)
    assert shown[:2] == ["ann", f"Prefer the kind one. {BEACON}"]
    assert shown[2:4] == ["Be brief.", "Why?"]
    assert sorted(shown[4:]) == sorted(["because", f"no {BEACON}"])
    assert "System" in everything(test) and "User" in everything(test)
    assert "beacon" not in everything(test)
    assert "secret" not in everything(test) + "".join(shown)  # blind to who wrote what
    assert [b.disabled for b in test.button if b.label == "Submit and go on"] == [True]


def test_a_ranking_with_a_tie_reaches_the_store(store: LabelStore, page: Callable[..., AppTest]) -> None:
    """Cards A, B, C, D get 2, 1, 2, 4, whatever texts they show."""
    store.add_tasks([NewTask("p", ("a", "b", "c", "d"))], batch="one")
    test = page("ann")
    by_card = texts(test)[2:]
    for card, number in enumerate((2, 1, 2, 4)):
        test = choose(test, card, number)
    assert "B first, then A and C (tied), then D." in everything(test)
    test.text_area[0].set_value("close call").run()
    test = press(test, "Submit and go on")
    assert not test.exception and [t.value for t in test.title] == ["All done, thank you"]
    (ranking,) = store.rankings()
    assert dict(zip(ranking.completions, ranking.ranks, strict=True)) == dict(zip(by_card, (2, 1, 2, 4), strict=True))
    assert ranking.labeler == "ann" and ranking.meta["comment"] == "close call"
    assert [ranking.completions[i] for i in ranking.meta["shown"]] == by_card


def test_submit_is_off_until_every_card_has_a_number(store: LabelStore, page: Callable[..., AppTest]) -> None:
    store.add_tasks([NewTask("p", ("a", "b", "c"))], batch="one")
    test = choose(choose(page("ann"), 0, 1), 2, 1)
    assert "A and C (tied) first. :gray[Still to rank: B.]" in everything(test)
    assert [b.disabled for b in test.button if b.label == "Submit and go on"] == [True]
    test = choose(test, 1, 3)
    assert [b.disabled for b in test.button if b.label == "Submit and go on"] == [False]
    test = choose(test, 1, None)
    assert [b.disabled for b in test.button if b.label == "Submit and go on"] == [True]
    assert store.counts().judgments == 0


def test_a_new_tab_returns_to_the_same_task_in_the_same_order(store: LabelStore, page: Callable[..., AppTest]) -> None:
    store.add_tasks([NewTask(str(i), tuple("abcdef")) for i in range(3)], batch="one")
    assert texts(page("ann")) == texts(page("ann"))


def test_skipping_wants_a_reason(store: LabelStore, page: Callable[..., AppTest]) -> None:
    store.add_tasks([NewTask("p", ("a", "b")), NewTask("q", ("a", "b"))], batch="one")
    test = page("ann")
    assert [b.disabled for b in test.button if b.label == "Skip this one"] == [True]
    test.radio[0].set_value("I cannot judge this topic").run()
    test = press(test, "Skip this one")
    assert texts(test)[1] == "q"
    assert store.counts().skips == 1


def test_the_last_one_can_be_corrected(store: LabelStore, page: Callable[..., AppTest]) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    test = press(choose(choose(page("ann"), 0, 1), 1, 2), "Submit and go on")
    (before,) = store.rankings()
    test = press(test, "Correct my last one")
    assert "You are correcting an earlier ranking." in everything(test) and "A first, then B." in everything(test)
    test = press(choose(choose(test, 0, 2), 1, 1), "Save the correction")
    (after,) = store.rankings()
    assert after.ranks == tuple(3 - (r or 0) for r in before.ranks)
    assert store.counts().judgments == 2
    test = press(press(test, "Correct my last one"), "Leave it as it was")
    assert store.counts().judgments == 2 and [t.value for t in test.title] == ["All done, thank you"]


def test_correcting_before_anything_was_ranked_says_so(store: LabelStore, page: Callable[..., AppTest]) -> None:
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    assert "there is nothing to correct" in everything(press(page("ann"), "Correct my last one"))


def test_a_submit_the_store_refuses_is_said_without_a_traceback(
    store: LabelStore, page: Callable[..., AppTest]
) -> None:
    """The same task open in two tabs: the first submit counts, the second tab is told."""
    store.add_tasks([NewTask("p", ("a", "b"))], batch="one")
    one, two = (choose(choose(page("ann"), 0, 1), 1, 2) for _ in range(2))
    press(one, "Submit and go on")
    two = press(two, "Submit and go on")
    assert not two.exception
    assert "That was not saved." in everything(two)
    assert any("judged or skipped already" in t for t in texts(two))
    assert store.counts().judgments == 1


def test_an_empty_store_says_what_to_do(page: Callable[..., AppTest]) -> None:
    test = page("ann")
    assert [t.value for t in test.title] == ["Nothing to rank yet"] and "rlhf sample" in everything(test)


@pytest.mark.parametrize("content", [None, b"", b"not a database" * 100])
def test_a_store_that_cannot_be_opened_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: Callable[..., AppTest], content: bytes | None
) -> None:
    path = tmp_path / "gone.db"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setenv(STORE_VARIABLE, str(path))
    test = page("ann")
    assert not test.exception
    assert [t.value for t in test.title] == ["There is nothing to label with"]
    (line,) = texts(test)
    assert "gone.db" in line and "\n" not in line
    monkeypatch.delenv(STORE_VARIABLE)
    assert "start this page with: rlhf label" in texts(page())[0]


@pytest.mark.parametrize("address", [None, "0.0.0.0"])
def test_signing_in_by_name_is_for_this_machine(page: Callable[..., AppTest], address: str | None) -> None:
    _address(address)
    test = page("ann")
    assert [t.value for t in test.title] == ["Sign-in is closed"] and not test.text_input


@pytest.mark.parametrize("name", ["", "   ", "x\ny"])
def test_a_name_that_cannot_be_used_is_asked_for_again(page: Callable[..., AppTest], name: str) -> None:
    test = page()
    test.text_input[0].set_value(name)
    test = press(test, "Start ranking")
    assert "This name cannot be used." in everything(test) and len(test.text_input) == 1


def test_signing_out_forgets_the_name(store: LabelStore, page: Callable[..., AppTest]) -> None:
    test = press(page("ann"), "Sign out")
    assert len(test.text_input) == 1 and "labeler" not in test.query_params
