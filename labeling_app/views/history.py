"""What this labeler said before, newest first, each of it open to correction."""

from __future__ import annotations

from datetime import UTC, datetime

import streamlit as st

from labeling_app.actions import act, reopen
from labeling_app.components.texts import show_text
from labeling_app.session import counted, in_words
from rlhf.data.records import prompt_text
from rlhf.preferences import Labeler, LabelStore, Past

PAGE = 20
LONGEST = 300  # characters of a prompt: enough to know it again


def show(store: LabelStore, labeler: Labeler) -> None:
    """The last judgments, with a button each."""
    st.title("My rankings", anchor=False)
    number = st.session_state.setdefault("history", PAGE)
    found = store.history(labeler, number + 1)
    if not found:
        st.write("Nothing yet. What you rank or skip is listed here, and you can correct it.")
        return
    st.caption("What you said stays on record; a correction is kept beside it and counts from then on.")
    for past in found[:number]:
        _entry(store, labeler, past)
    if len(found) > number:
        st.button("Show more", on_click=_more)


def _entry(store: LabelStore, labeler: Labeler, past: Past) -> None:
    with st.container(border=True, key=f"past-{past.assignment_id}", gap="xsmall"):
        when = datetime.fromtimestamp(past.at, UTC)
        if past.revision > 1:
            st.caption(f"{when:%d %b %Y, %H:%M} UTC, {counted(past.revision - 1, 'correction')}")
        else:
            st.caption(f"{when:%d %b %Y, %H:%M} UTC")
        text = prompt_text(past.prompt)
        show_text(text if len(text) <= LONGEST else text[:LONGEST] + " …")
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            show_text(_summary(past))
            st.button(
                "Look again, correct",
                icon=":material/undo:",
                key=f"reopen-{past.assignment_id}",
                on_click=_reopen,
                args=(store, labeler, past.assignment_id),
            )


def _summary(past: Past) -> str:
    if past.outcome == "skipped":
        return f"Skipped: {past.skip_reason}" if past.skip_reason else "Skipped"
    order = in_words([c.id for c in past.completions], past.said.ranks)
    extra = " (kept as an extra: others had finished it)" if past.outcome == "surplus" else ""
    return f"{order}{extra}"


def _reopen(store: LabelStore, labeler: Labeler, assignment_id: int) -> None:
    act(store, labeler, lambda: reopen(store, labeler, assignment_id))


def _more() -> None:
    st.session_state["history"] += 3 * PAGE
