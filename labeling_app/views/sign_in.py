"""Who are you? A name is enough where only this machine can ask."""

from __future__ import annotations

import streamlit as st

from labeling_app.components.texts import show_text
from labeling_app.session import is_loopback
from rlhf.errors import StoreError
from rlhf.preferences import Labeler, LabelStore

PARAMETER = "labeler"  # the name is kept in the page's address, so that a reload stays signed in


def signed_in(store: LabelStore) -> Labeler | None:
    """The labeler of this browser tab, if they gave a name that can be used."""
    name = st.query_params.get(PARAMETER, "")
    if not name or not is_loopback(st.get_option("server.address")):
        return None
    known = st.session_state.get("labeler")
    if isinstance(known, Labeler) and known.name == name:
        return known
    try:
        labeler = store.labeler(name)
    except StoreError as error:
        st.session_state["problem"] = str(error)
        del st.query_params[PARAMETER]
        return None
    st.query_params[PARAMETER] = labeler.name
    st.session_state["labeler"] = labeler
    return labeler


def sign_out() -> None:
    """Forget the name in this tab; drafts of this tab go with it, submitted judgments stay."""
    st.query_params.clear()
    for key in ("labeler", "drafts", "notice", "problem"):
        st.session_state.pop(key, None)


def show() -> None:
    """The form, or why there is none."""
    if not is_loopback(st.get_option("server.address")):
        st.title("Sign-in is closed")
        st.write("Signing in by name is offered on this machine only. Start the page with `rlhf label`.")
        return
    st.space("large")
    _, middle, _ = st.columns([1, 4, 1])
    with middle:
        st.title("Rank answers", anchor=False)
        st.write(
            "You will see a prompt and a few answers to it. Say which is best, which comes next, and which are tied."
        )
        with st.container(key="welcome"), st.form("sign-in", border=True):
            st.text_input("Your name", key="name", max_chars=80, autocomplete="off")
            st.form_submit_button("Start ranking", type="primary", width="stretch", on_click=_enter)
        problem = st.session_state.pop("problem", None)
        if problem:
            st.error("This name cannot be used.")
            show_text(problem)


def _enter() -> None:
    name = st.session_state["name"].strip()
    if name:
        st.query_params[PARAMETER] = name
    else:
        st.session_state["problem"] = "Please type a name first."
