"""What the tests of the app's pages share: a store that the app opens too, tabs of people with a role."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import labeling_app
from labeling_app.launch import settle
from labeling_app.views import sign_in
from rlhf.preferences import LabelStore

APP = Path(labeling_app.__file__).with_name("app.py")
BEACON = "![x](http://127.0.0.1:9/beacon.png) :rainbow[hi] $x$"
Page = Callable[..., AppTest]


@contextmanager
def served_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Path | None = None) -> Iterator[LabelStore]:
    """An empty store, which the app opens too; nothing that an earlier test's page kept is left."""
    path = tmp_path / "labels.db"
    with LabelStore.open(path, create=True) as store:
        for name, value in settle(str(path), runs=runs).environment().items():
            monkeypatch.setenv(name, value)
        st.cache_resource.clear()
        st.cache_data.clear()
        st.session_state.clear()  # of code that a test calls without a page
        yield store
    st.cache_resource.clear()
    st.cache_data.clear()


def opener(store: LabelStore, monkeypatch: pytest.MonkeyPatch, page: str, role: str = "admin") -> Page:
    """What opens a lead's page in a new tab of somebody with this role, or the one asked for."""
    keys: dict[str, str] = {}

    def open_page(role: str = role) -> AppTest:
        if role not in keys:
            keys[role] = store.sign_in_by_token(store.invite(f"one {role}", role))
        monkeypatch.setattr(sign_in, "session_key", lambda: keys[role])
        return well(tab(page).run())

    return open_page


def tab(page: str) -> AppTest:
    """A tab that goes to this page when it is run."""
    test = AppTest.from_file(str(APP), default_timeout=30)
    if page:
        test.session_state["go"] = page
    return test


def well(test: AppTest) -> AppTest:
    assert [e.value for e in test.exception] == []
    return test


def texts(test: AppTest) -> list[str]:
    return [str(t.value) for t in test.text]
