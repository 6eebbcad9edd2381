"""The labeling page. Run by Streamlit, which executes this file anew on every click; `launch.py` starts it."""

from __future__ import annotations

import os

import streamlit as st

from labeling_app.components.frame import show_frame
from labeling_app.components.texts import show_refusal, show_text
from labeling_app.launch import STORE_VARIABLE
from labeling_app.session import counted, share
from labeling_app.views import finished, rank, sign_in
from rlhf.errors import RLHFError, StoreError
from rlhf.preferences import Labeler, LabelStore, Outcome, Progress


@st.cache_resource(show_spinner=False)
def open_store(url: str) -> LabelStore:
    """The store, opened once for all sessions of this process. A failure is not kept: a reload tries again."""
    return LabelStore.open(url)


def main() -> None:
    """Choose the page by what is known: a store, a labeler, a task."""
    st.set_page_config(page_title="Rank answers", layout="centered")
    st.navigation([st.Page(_page, title="Rank answers", default=True)], position="hidden").run()


def _page() -> None:
    try:
        store = open_store(_store_url())
        labeler = sign_in.signed_in(store)
        if labeler is None:
            show_frame("sign-in")
            sign_in.show()
        else:
            _work(store, labeler)
    except RLHFError as error:
        st.title("There is nothing to label with", anchor=False)
        show_text(str(error))


def _store_url() -> str:
    url = os.environ.get(STORE_VARIABLE, "")
    if not url:
        raise StoreError(f"label store: none was named in {STORE_VARIABLE}; start this page with: rlhf label")
    return url


def _work(store: LabelStore, labeler: Labeler) -> None:
    assignment = store.claim(labeler)
    progress = store.progress(labeler)
    show_frame("finished" if assignment is None else f"{assignment.id}-{assignment.reopened}")
    _header(labeler, progress)
    problem = st.session_state.pop("problem", None)
    if problem:
        show_refusal(problem)
    notice = st.session_state.pop("notice", None)
    if notice == Outcome.SURPLUS:
        st.info("Saved. Others had finished this one meanwhile, so yours is kept as an extra.")
    elif notice:
        st.info("You have not ranked anything yet, so there is nothing to correct.")
    if assignment is None:
        finished.show(store, labeler, progress)
    else:
        rank.show(store, labeler, assignment)


def _header(labeler: Labeler, progress: Progress) -> None:
    with st.container(gap="xxsmall"):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            st.caption(f"{counted(progress.ranked, 'ranking')} done, {counted(progress.remaining, 'task')} to go")
            with st.container(horizontal=True, vertical_alignment="center", width="content"):
                st.text(labeler.name)
                st.button("Sign out", type="tertiary", key="sign-out", on_click=sign_in.sign_out)
        st.progress(share(progress.ranked, progress.remaining))


main()
