"""Nothing to rank right now: either all is done, or nothing was queued yet."""

from __future__ import annotations

import streamlit as st

from labeling_app.actions import act, reopen
from labeling_app.session import counted
from rlhf.preferences import Labeler, LabelStore, Progress


def show(store: LabelStore, labeler: Labeler, progress: Progress) -> None:
    """Thanks and a way to go back, or what to do so that there is something to rank."""
    st.space("medium")
    if progress.ranked + progress.skipped == 0:
        st.title("Nothing to rank yet", anchor=False)
        st.write("There is no open task for you here. Look in again in a while, or ask your lead.")
        st.button("Look again", type="primary", key="again")
        return
    st.title("All done, thank you", anchor=False)
    if progress.remaining:
        st.write("Others are working on the tasks that are left. Look in again in a while.")
    else:
        st.write(f"You have been through everything there was: {counted(progress.ranked, 'ranking')}.")
    with st.container(horizontal=True):
        st.button("Look for more", type="primary", key="again")
        st.button("Correct my last one", icon=":material/undo:", key="reopen", on_click=_reopen, args=(store, labeler))


def _reopen(store: LabelStore, labeler: Labeler) -> None:
    act(store, labeler, lambda: reopen(store, labeler))
